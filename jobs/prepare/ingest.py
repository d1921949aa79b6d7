"""Raw files into events, items and a quarantine: what the night of a day knew of its source."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from jobs.datasets import DOMAINS, EVENTS, ITEMS, QUARANTINED_EVENTS
from jobs.errors import SourceError
from jobs.home import Home
from jobs.job import Config, Run, main
from jobs.manifest import Manifest
from jobs.prepare import deliveries, movielens
from jobs.prepare.source import RawWarehouse
from jobs.query import query


class IngestConfig(Config):
    """Where the raw files are, and how much of them may be bad."""

    source: str = Field(
        description="folder or zip of MovieLens-1M, folder of its Parquet copy, or a sample folder",
        examples=["ml-1m.zip"],
    )
    max_quarantined_share: float = Field(
        0.05, ge=0, le=1, description="more bad rows than this share stop the run"
    )


# -- kinds of source -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """A recognised source: the files it consists of, and how to read them."""

    files: tuple[Path, ...]
    read: Callable[[], RawWarehouse]


def recognise(path: Path, day: date) -> Source:
    """What kind of source lies at `path`, as far as it matters for `day`.

    Raises:
        SourceError: nothing is there, or nothing of a known kind.
    """
    if not path.exists():
        raise SourceError(f"{path}: no such file or folder; give --source")
    if path.is_file():
        return Source((path,), lambda: movielens.read_zip(path))
    if (path / deliveries.MARKER).is_file():
        return Source(
            deliveries.files_before(path, day), lambda: deliveries.read_deliveries(path, day)
        )
    if folder := movielens.folder_of(path):
        return Source(movielens.files_of_folder(folder), lambda: movielens.read_folder(folder))
    if (path / movielens.PARQUET_RATINGS).is_file():
        return Source(movielens.files_of_parquet(path), lambda: movielens.read_parquet_folder(path))
    raise SourceError(
        f"{path}: not a source; expected {movielens.RATINGS} and {movielens.MOVIES} of "
        f"MovieLens-1M (also below ml-1m/, or as the zip), {movielens.PARQUET_RATINGS}, or "
        f"{deliveries.MARKER} of a sample"
    )


def sources(config: IngestConfig, day: date, home: Home) -> tuple[Path, ...]:
    """Files that decide the output; a delivery of `day` or later is not among them."""
    return recognise(Path(config.source).expanduser(), day).files


# -- the common part -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ingested:
    """What a night knew of a source.

    Attributes:
        n_rows_in: rows known on the day, good and bad; all are in `events` or `quarantined`.
        n_rows_later: rows of the source that the day did not know yet.
    """

    events: pa.Table
    items: pa.Table
    quarantined: pa.Table
    n_rows_in: int
    n_rows_later: int


def ingest(warehouse: RawWarehouse, day: date) -> Ingested:
    """Judge every row of a source that `day` knew: an event, or quarantined with its reason."""
    known = query("prepare/known_ratings", {"parsed_ratings": warehouse.ratings}, day=day)
    rejected = query(
        "prepare/rejected_ratings", {"known_ratings": known, "catalogue": warehouse.catalogue}
    )
    judged = {"known_ratings": known, "rejected_ratings": rejected}
    ingested = Ingested(
        events=query("prepare/events", judged),
        items=query(
            "prepare/items",
            {"catalogue": warehouse.catalogue, "appearances": warehouse.appearances},
        ),
        quarantined=query("prepare/quarantined_events", judged),
        n_rows_in=known.num_rows,
        n_rows_later=warehouse.ratings.num_rows - known.num_rows,
    )
    n_out = ingested.events.num_rows + ingested.quarantined.num_rows
    assert ingested.n_rows_in == n_out, f"{ingested.n_rows_in} rows in, {n_out} rows out"
    return ingested


def _by_reason(quarantined: pa.Table) -> list[tuple[str, int]]:
    counts = quarantined.group_by("reason").aggregate([([], "count_all")])
    counts = counts.sort_by([("count_all", "descending"), ("reason", "ascending")])
    return [(row["reason"], row["count_all"]) for row in counts.to_pylist()]


def refuse_too_many_bad_rows(ingested: Ingested, max_share: float) -> None:
    """Stop before anything is published from a source that has changed its form.

    Raises:
        SourceError: more than `max_share` of the known rows are bad, or none are good.
    """
    n_bad = ingested.quarantined.num_rows
    if n_bad > max_share * ingested.n_rows_in:
        first = ingested.quarantined.slice(0, 1).to_pylist()[0]
        reasons = ", ".join(f"{n:,} {reason}" for reason, n in _by_reason(ingested.quarantined))
        raise SourceError(
            f"{n_bad:,} of {ingested.n_rows_in:,} rows ({n_bad / ingested.n_rows_in:.1%}) would be "
            f"quarantined, more than the {max_share:.1%} of --max-quarantined-share: {reasons}; "
            f"the first: {first['source_file']}, line {first['line']}: {first['raw']!r} "
            f"({first['reason']})"
        )
    if not ingested.events.num_rows:
        raise SourceError(
            f"no event is known on this day: {ingested.n_rows_in:,} rows known, "
            f"{n_bad:,} of them bad, {ingested.n_rows_later:,} rows are of later days"
        )


def refuse_other_domain(home: Home, domain: str) -> None:
    """A home belongs to one domain: its versions, aliases and reports continue one another.

    Raises:
        SourceError: an earlier ingest of this home was of another domain.
    """
    for path in sorted((home.root / "runs" / "ingest").glob("day=*/manifest.json")):
        earlier = Manifest.model_validate_json(path.read_text(encoding="utf-8"))
        if (other := earlier.result.get("domain", domain)) != domain:
            raise SourceError(
                f"{home.root} holds the domain '{other}' (ingested for {earlier.day}), and this "
                f"source is '{domain}'; give it a home of its own: TIDEMARK_HOME=<another folder>"
            )


def job(config: IngestConfig, run: Run) -> None:
    """Read the source as of the day, judge its rows and write what stands and what does not."""
    warehouse = recognise(Path(config.source).expanduser(), run.day).read()
    refuse_other_domain(run.home, warehouse.domain.domain)
    ingested = ingest(warehouse, run.day)
    refuse_too_many_bad_rows(ingested, config.max_quarantined_share)
    run.write(DOMAINS, warehouse.domain.table())
    run.write(EVENTS, ingested.events)
    run.write(ITEMS, ingested.items)
    run.write(QUARANTINED_EVENTS, ingested.quarantined)
    run.metric("rows_in", ingested.n_rows_in)
    run.metric("rows_later", ingested.n_rows_later)
    run.metric("events", ingested.events.num_rows)
    run.metric("quarantined", ingested.quarantined.num_rows)
    for reason, n in _by_reason(ingested.quarantined):
        run.metric(f"quarantined: {reason}", n)
    run.metric("users", pc.count_distinct(ingested.events["user_id"]).as_py())
    run.metric("items", ingested.items.num_rows)
    run.result = {"domain": warehouse.domain.domain, "events": ingested.events.num_rows}


if __name__ == "__main__":
    main("ingest", IngestConfig, job, sources=sources)
