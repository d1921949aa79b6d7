"""What one night knew: the arrivals up to its day, as tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Literal

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.datasets import (
    ARRIVALS,
    EVENT_PARTS,
    EVENT_TOTALS,
    ITEMS,
    QUARANTINED_EVENTS,
    WITHDRAWN_EVENTS,
    Dataset,
)
from jobs.job import Run
from jobs.prepare.arrivals.ledger import Ledger
from jobs.prepare.sources.catalogue import read_appearances
from jobs.prepare.sources.mapping import Mapping as SourceMapping
from jobs.prepare.sources.parse import parsed_schema
from jobs.query import Limits, Rows, View, connect, sql_text

_BATCH = 65_536
_MOMENT = pa.timestamp("us")
_CORRECTED = "corrected by a later row"
_REJECTED = (
    ("kind", pa.string()),
    ("known_day", pa.date32()),
    ("source_row", pa.int64()),
    ("source_file", pa.string()),
    ("line", pa.int64()),
    ("reason", pa.string()),
    ("column", pa.string()),
    ("value", pa.string()),
    ("raw", pa.string()),
)
Kind = Literal["rejected", "item_rows", "catalogue"]


@dataclass(frozen=True)
class Totals:
    """What a night's rows come to.

    Attributes:
        by_reason: rows of the quarantine, each reason with its first row.
    """

    n_rows_in: int
    n_events: int
    n_quarantined: int
    n_late: int
    n_users: int
    n_catalogue: int
    by_reason: list[dict[str, Any]]

    @property
    def bad(self) -> dict[str, int]:
        """Rows by reason that count against the source; a corrected row was good in its time."""
        return {r["reason"]: r["n_rows"] for r in self.by_reason if r["reason"] != _CORRECTED}


def rows_known(
    ledger: Ledger, kind: Kind, day: date, workspace: Path, limits: Limits
) -> list[Path]:
    """Files of rows that became known by `day`, of all arrivals that count for it."""
    paths = []
    for stretch in ledger.stretches(day):
        rows = getattr(stretch.record, kind)
        if rows is None:
            continue
        path = ledger.home.root / rows.path
        if stretch.until < stretch.record.until:
            target = workspace / f"{kind}-{stretch.record.sequence}-{stretch.until}.parquet"
            path = _cut(path, stretch.until, target, limits)
        paths.append(path)
    return paths


def _cut(path: Path, until: date, target: Path, limits: Limits) -> Path:
    with (
        connect({"given": path}, limits) as connection,
        _rows_until(connection, until).to_arrow_reader(_BATCH) as reader,
        pq.ParquetWriter(target, reader.schema, compression="lz4") as writer,
    ):
        for batch in reader:
            writer.write_batch(batch)
    return target


def _rows_until(connection: duckdb.DuckDBPyConnection, until: date) -> duckdb.DuckDBPyRelation:
    return connection.sql(sql_text("prepare/rows_until"), params={"until": until})


class Snapshot:
    """Writes the tables of one night from the arrivals that it knew.

    Args:
        run: of the night.
        ledger: with every arrival up to its day.
        mapping: of the source.
        root: of its files.
        workspace: an empty folder.
        limits: of DuckDB.
    """

    def __init__(
        self,
        run: Run,
        ledger: Ledger,
        mapping: SourceMapping,
        root: Path,
        workspace: Path,
        limits: Limits,
    ) -> None:
        self._run, self._ledger, self._mapping, self._root = run, ledger, mapping, root
        self._workspace, self._limits = workspace, limits
        workspace.mkdir(parents=True, exist_ok=True)
        parts = ledger.parts(run.day)
        self._tables: dict[str, Rows] = {
            "event_rows": [ledger.home.root / part.path for part in parts] or self._no_events()
        }
        for kind, empty in (("rejected", self._no_rejected()), ("item_rows", self._no_item_rows())):
            rows = rows_known(ledger, kind, run.day, workspace, limits)  # type: ignore[arg-type]
            self._tables["rejected_rows" if kind == "rejected" else kind] = rows or empty

    def write(self) -> Totals:
        """Write every table of the night but its domain.

        Returns:
            What it comes to.
        """
        self._run.write(EVENT_PARTS, self._event_parts())
        n_items = self._write_items()
        withdrawn = self._stream(WITHDRAWN_EVENTS, "prepare/withdrawn_events", self._tables)
        self._tables["withdrawn_events"] = self._run.staged(WITHDRAWN_EVENTS)
        self._write_quarantine()
        self._run.write(ARRIVALS, self._arrivals())
        totals = self._totals(n_items, withdrawn)
        return totals

    # -- tables ------------------------------------------------------------------------------

    def _event_parts(self) -> pa.Table:
        rows = [part.model_dump() for part in self._ledger.parts(self._run.day)]
        schema = pa.schema(
            [
                ("event_day", pa.date32()),
                ("known_day", pa.date32()),
                ("path", pa.string()),
                ("sha256", pa.string()),
                ("n_bytes", pa.int64()),
                ("n_rows", pa.int64()),
            ]
        )
        return pa.Table.from_pylist(rows, schema=schema)

    def _arrivals(self) -> pa.Table:
        names = list(ARRIVALS.columns or ())
        counted = self._ledger.arrivals(self._run.day)
        rows = [{name: getattr(each, name) for name in names} for each in counted]
        types = {"known_day": pa.date32()}
        schema = pa.schema([(name, types.get(name, pa.int64())) for name in names])
        return pa.Table.from_pylist(rows, schema=schema)

    def _write_items(self) -> int:
        tables = dict(self._tables)
        if self._mapping.title_column:
            tables["catalogue"] = View("prepare/titles_from_events")
        else:
            day, limits = self._run.day, self._limits
            known = rows_known(self._ledger, "catalogue", day, self._workspace, limits)
            tables["catalogue_rows"] = known
            tables["catalogue"] = View("prepare/catalogue")
        name = "prepare/items"
        if (appearances := read_appearances(self._mapping, self._root)) is not None:
            tables["appearances"] = appearances
            name = "prepare/items_with_appearances"
        n_items = self._stream(ITEMS, name, tables)
        self._tables["items"] = self._run.staged(ITEMS)
        return n_items

    def _write_quarantine(self) -> None:
        names = self._ledger.names(self._run.day)
        released = self._ledger.released(self._run.day)
        tables = {
            **self._tables,
            "files": pa.table(
                {
                    "ordinal": pa.array(names.keys(), pa.int64()),
                    "source_file": pa.array(names.values(), pa.string()),
                }
            ),
            "released": pa.table(
                {
                    "source_row": pa.array(released.keys(), pa.int64()),
                    "known_day": pa.array(released.values(), pa.date32()),
                }
            ),
        }
        self._stream(QUARANTINED_EVENTS, "prepare/quarantined_events", tables)
        self._tables["quarantined_events"] = self._run.staged(QUARANTINED_EVENTS)

    def _totals(self, n_items: int, n_withdrawn: int) -> Totals:
        tables: dict[str, Rows] = {**self._tables, "events": View("prepare/events")}
        with connect(tables, self._limits) as connection:
            row = connection.sql(sql_text("prepare/event_totals")).to_arrow_table().to_pylist()[0]
            reasons = connection.sql(sql_text("prepare/quarantined_counts")).to_arrow_table()
        by_reason = reasons.to_pylist()
        arrivals = self._ledger.arrivals(self._run.day)
        n_rows_in = sum(each.n_rows for each in arrivals)
        n_quarantined = sum(reason["n_rows"] for reason in by_reason)
        n_out = row["n_events"] + n_quarantined
        assert n_rows_in == n_out, f"{n_rows_in} rows in, {n_out} rows out"
        n_late = sum(each.n_late for each in arrivals)
        counts = {
            "as_of": self._run.day,
            "n_rows_in": n_rows_in,
            "n_events": row["n_events"],
            "n_quarantined": n_quarantined,
            "n_late": n_late,
            "n_users": row["n_users"],
            "n_items": row["n_items"],
            "n_catalogue": n_items,
            "first_event": row["first_event"],
            "last_event": row["last_event"],
        }
        types = {"as_of": pa.date32(), **dict.fromkeys(("first_event", "last_event"), _MOMENT)}
        schema = pa.schema([(name, types.get(name, pa.int64())) for name in counts])
        self._run.write(EVENT_TOTALS, pa.Table.from_pylist([counts], schema=schema))
        return Totals(
            n_rows_in=n_rows_in,
            n_events=row["n_events"],
            n_quarantined=n_quarantined,
            n_late=n_late,
            n_users=row["n_users"],
            n_catalogue=n_items,
            by_reason=by_reason,
        )

    def _stream(self, dataset: Dataset, name: str, tables: Mapping[str, Rows]) -> int:
        with (
            connect(tables, self._limits) as connection,
            connection.sql(sql_text(name)).to_arrow_reader(_BATCH) as reader,
        ):
            return self._run.write_stream(dataset, reader.schema, reader)

    # -- nothing, in the right columns -------------------------------------------------------

    def _no_events(self) -> pa.Table:
        parsed = parsed_schema(self._mapping)
        names = ("user_id", "item_id", "rating", "rated_at", "ingested_at", "source_row")
        schema = pa.schema([parsed.field(name) for name in names])
        return schema.append(pa.field("corrects", pa.int64())).empty_table()

    def _no_rejected(self) -> pa.Table:
        return pa.schema(_REJECTED).empty_table()

    def _no_item_rows(self) -> pa.Table:
        item = parsed_schema(self._mapping).field("item_id")
        others = [
            ("known_day", pa.date32()),
            ("title", pa.string()),
            ("n_rows", pa.int64()),
            ("last_at", _MOMENT),
            ("first_row", pa.int64()),
        ]
        return pa.schema([item, *others]).empty_table()
