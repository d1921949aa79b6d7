"""Raw files into events, items and a quarantine: what the night of a day knew of its source."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from jobs.datasets import DOMAINS, EVENT_PARTS
from jobs.errors import SourceError
from jobs.files import sha256_file
from jobs.home import Home
from jobs.job import DEPLOYMENT, Declared, Run, main
from jobs.manifest import Artifact, Manifest, load_manifest
from jobs.prepare.arrivals.arrivals import Source, Work, bring_up_to, ledger_of, refusal
from jobs.prepare.arrivals.bounds import refuse_bad_arrival, refuse_too_many_bad_rows
from jobs.prepare.arrivals.ledger import Ledger
from jobs.prepare.arrivals.snapshot import Snapshot, Totals
from jobs.prepare.engine import EngineConfig, open_engine
from jobs.prepare.sources.mapping import recognise
from jobs.prepare.sources.mapping_form import (
    CatalogueFiles,
    ImplicitFeedback,
    Mapping,
    RatingFeedback,
    SplitProtocol,
)
from jobs.prepare.sources.raw_file import RawFile, catalogue_files, files_of, raw_files


class IngestConfig(EngineConfig):
    """Where the raw files are, and how much of them may be bad."""

    source: str = Field(
        description="mapping file or its folder; folder, zip or Parquet copy of MovieLens-1M; or a "
        "sample folder",
        examples=["ml-1m.zip"],
    )
    max_quarantined_share: float | None = Field(
        None,
        ge=0,
        le=1,
        description="more bad rows than this share stop the run; by default what the mapping says",
    )
    split_protocol: SplitProtocol | None = Field(
        None, description="how events are divided; by default what the mapping says"
    )
    restate: bool = Field(
        False,
        json_schema_extra=DEPLOYMENT,
        description="take what has changed in files that were read before, and redo its days",
    )


def source_of(config: IngestConfig) -> Source:
    """The source that `config` names.

    Raises:
        SourceError: nothing is there, or nothing that is known.
    """
    path = Path(config.source).expanduser()
    if not path.exists():
        raise SourceError(f"{path}: no such file or folder; give --source")
    mapping, root = recognise(path)
    if config.max_quarantined_share is not None:
        bounds = mapping.quarantine.model_copy(update={"max_share": config.max_quarantined_share})
        mapping = mapping.model_copy(update={"quarantine": bounds})
    if config.split_protocol is not None:
        split = mapping.split.model_copy(update={"protocol": config.split_protocol})
        mapping = mapping.model_copy(update={"split": split})
    return Source(mapping, root)


# -- what decides the output ---------------------------------------------------------------------


def sources(config: IngestConfig, day: date, home: Home) -> Iterator[Path | Artifact]:
    """Files that decide the output; a delivery of `day` or later is not among them.

    A file that was read before and has not been touched since is not read again for its hash.
    """
    source = source_of(config)
    said = source.mapping.model_dump_json()
    mapping_sha256 = hashlib.sha256(said.encode()).hexdigest()
    yield Artifact(name="mapping", path=config.source, sha256=mapping_sha256)
    read = ledger_of(source, home).files()
    for kind, file in _files(source, day):
        known = read.get((kind, file.name))
        sha256 = known.sha256 if known and known.looks_like(file.path) else _sha256(file.path)
        yield Artifact(name=file.name, path=str(file.path), sha256=sha256)


def _files(source: Source, day: date) -> Iterator[tuple[str, RawFile]]:
    mapping, root = source.mapping, source.root
    for file in raw_files(mapping, root, day):
        yield "events", file
    for file in catalogue_files(mapping, root, day):
        yield "items", file
    if isinstance(mapping.items, CatalogueFiles) and mapping.items.appearances:
        for file in files_of(mapping.items.appearances, root, mapping.domain):
            yield "appearances", file


def _sha256(path: Path) -> str:
    try:
        return sha256_file(path)
    except OSError as error:
        raise SourceError(
            f"{path}: cannot be read ({error.strerror}); put it back, or give this user the right "
            "to read it"
        ) from error


def intact(manifest: Manifest, home: Home) -> bool:
    """Whether the partitions that a snapshot names are still there."""
    named = manifest.output(EVENT_PARTS.name)
    if named is None:
        return False
    parts = pq.read_table(home.root / named.path, partitioning=None)
    pairs = zip(parts["path"].to_pylist(), parts["n_bytes"].to_pylist(), strict=True)
    return all(_size(home.root / path) == n_bytes for path, n_bytes in pairs)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


def refuses(config: IngestConfig, day: date, home: Home) -> str | None:
    """What would stop the job at once: files that were read before and have changed since."""
    source = source_of(config)
    return None if config.restate else refusal(day, source, ledger_of(source, home))


# -- the job -------------------------------------------------------------------------------------


def refuse_other_domain(home: Home, domain: str) -> None:
    """A home belongs to one domain: its versions, aliases and reports continue one another.

    Raises:
        SourceError: an earlier ingest of this home was of another domain.
    """
    for night in home.nights("ingest"):
        earlier = load_manifest(home, "ingest", night)
        if earlier and (other := earlier.result.get("domain", domain)) != domain:
            raise SourceError(
                f"{home.root} holds the domain '{other}' (ingested for {earlier.day}), and this "
                f"source is '{domain}'; give it a home of its own: TIDEMARK_HOME=<another folder>"
            )


def domain_table(mapping: Mapping) -> pa.Table:
    """What the mapping says of the source, as the one row of `domains`."""
    feedback, negatives = mapping.feedback, None
    minimum, maximum = 0.0, 1.0
    if isinstance(feedback, RatingFeedback):
        minimum, maximum = feedback.minimum, feedback.maximum
    if isinstance(feedback, ImplicitFeedback):
        minimum, negatives = 1.0, feedback
    columns = {
        "domain": (pa.string(), mapping.domain),
        "item_noun": (pa.string(), mapping.item_noun),
        "feedback": (pa.string(), feedback.kind),
        "minimum": (pa.float32(), minimum),
        "maximum": (pa.float32(), maximum),
        "positive_rating": (pa.float32(), mapping.positive_rating),
        "negatives_per_positive": (
            pa.int32(),
            negatives.negatives_per_positive if negatives else 0,
        ),
        "popularity_power": (pa.float32(), negatives.popularity_power if negatives else 0.0),
        "negatives_seed": (pa.int64(), negatives.seed if negatives else 0),
        "split_protocol": (pa.string(), mapping.split.protocol),
        "valid_days": (pa.int32(), mapping.split.valid_days),
        "test_days": (pa.int32(), mapping.split.test_days),
        "max_age_days": (pa.int32(), mapping.contract.max_age_days),
        "max_row_change": (pa.float32(), mapping.contract.max_row_change),
    }
    return pa.table({name: pa.array([value], kind) for name, (kind, value) in columns.items()})


def _touched_days(home: Home, first: date, ledger: Ledger, day: date) -> list[str]:
    """Nights from `first` on whose snapshots, apart from that of `day`, are no longer right."""
    touched = []
    for night in home.nights("ingest"):
        table = home.output(EVENT_PARTS, night)
        if night < first or night == day or not table.is_file():
            continue
        made_of = set(pq.read_table(table, columns=["path"], partitioning=None)["path"].to_pylist())
        if made_of != {part.path for part in ledger.parts(night)}:
            touched.append(str(night))
    return touched


def _record(run: Run, source: Source, totals: Totals) -> None:
    run.metric("rows_in", totals.n_rows_in)
    run.metric("events", totals.n_events)
    run.metric("late", totals.n_late)
    run.metric("quarantined", totals.n_quarantined)
    for reason in totals.by_reason:
        run.metric(f"quarantined: {reason['reason']}", reason["n_rows"])
    run.metric("users", totals.n_users)
    run.metric("items", totals.n_catalogue)
    run.result = {"domain": source.mapping.domain, "events": totals.n_events}


def job(config: IngestConfig, run: Run) -> None:
    """Take in what is new in the source and write what the day knows and what it puts aside."""
    source = source_of(config)
    mapping, workspace = source.mapping, run.workspace()
    refuse_other_domain(run.home, mapping.domain)
    with open_engine(config) as engine:
        before = ledger_of(source, run.home)
        work = Work(
            run.home,
            engine,
            workspace,
            run.log,
            accept=lambda intake: refuse_bad_arrival(intake, before, mapping.quarantine),
        )
        arrived = bring_up_to(run.day, source, work, restate=config.restate)
        run.write(DOMAINS, domain_table(mapping))
        folder = workspace / "snapshot"
        snapshot = Snapshot(run, arrived.ledger, mapping, source.root, folder, engine.scan_limits)
        totals = snapshot.write()
    refuse_too_many_bad_rows(totals, mapping.quarantine)
    _record(run, source, totals)
    if arrived.changes:
        first = min(change.known_day for change in arrived.changes)
        run.result["restated"] = {
            "because": [change.why for change in arrived.changes],
            "run_again": _touched_days(run.home, first, arrived.ledger, run.day),
        }
        run.log.info("restated", **run.result["restated"])


DECLARED = Declared("ingest", IngestConfig, job, sources=sources, intact=intact, refuses=refuses)

if __name__ == "__main__":
    main(DECLARED)
