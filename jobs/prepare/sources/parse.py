"""Raw rows into typed events, each with the reason if it cannot be one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from types import TracebackType
from typing import Any, Self

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.prepare.sources.mapping import Mapping
from jobs.prepare.sources.mapping_form import CatalogueFiles, LabelFeedback, RatingFeedback
from jobs.prepare.sources.raw_file import RawFile
from jobs.prepare.sources.readers import event_batches, row_texts
from jobs.prepare.sources.reject import first_rule
from jobs.prepare.sources.source_columns import BROKEN, LINE
from jobs.prepare.sources.source_form import FORMS, Files, Time
from jobs.prepare.sources.source_values import (
    UNITS_US,
    as_text,
    id_values,
    numbers,
    time_values,
    title_text,
)
from jobs.query import connect, sql_text

ROW_BITS = 40  # source_row = ordinal of the file << ROW_BITS | row
EARLIEST, LATEST = datetime(1970, 1, 1), datetime(2100, 1, 1)  # half-open, of any event
_MOMENT = pa.timestamp("us")
_ID = {"integer": pa.int64(), "string": pa.string()}


def source_row(ordinal: int, line: pa.Array) -> pa.Array:
    """A row's place in the whole source, which no other file moves."""
    return pc.add(line, pa.scalar(ordinal << ROW_BITS, pa.int64()))


def parsed_schema(mapping: Mapping) -> pa.Schema:
    """Columns of `parse_events`; ids are int64 or string, as the mapping says."""
    title = [("title", pa.string())] if mapping.title_column else []
    return pa.schema(
        [
            ("source_file", pa.dictionary(pa.int32(), pa.string())),
            ("line", pa.int64()),
            ("source_row", pa.int64()),
            ("user_id", _ID[mapping.events.user_id.type]),
            ("item_id", _ID[mapping.events.item_id.type]),
            ("rating", pa.float32()),
            ("rated_at", _MOMENT),
            ("ingested_at", _MOMENT),
            ("reason", pa.string()),
            ("column", pa.string()),
            ("value", pa.string()),
            ("raw", pa.string()),
            *title,
        ]
    )


def parse_events(batch: pa.RecordBatch, mapping: Mapping, file: RawFile) -> pa.Table:
    """One row for each row of `batch`, good or bad, in its order; nothing is dropped.

    Returns:
        Columns of `parsed_schema`: `source_file`, `line`, `source_row`, `user_id`, `item_id`,
        `rating`, `rated_at`, `ingested_at` (both UTC), `reason`, `column`, `value`, `raw`, and
        `title` if titles come from events. `reason` is null for a good row; then `column` (the
        source's name of it), `value` and `raw` are null too. A bad row keeps what could be read of
        it.

    Raises:
        SourceError: the type of a column is none that the mapping's form can read.
    """
    with Parser(mapping) as parser:
        return parser.events(batch, file)


def parse_file(
    mapping: Mapping,
    file: RawFile,
    *,
    window: tuple[datetime, datetime] | None = None,
    parser: Parser | None = None,
) -> Iterator[pa.Table]:
    """All rows of a file as `parse_events` gives them, a batch at a time.

    Args:
        mapping: of the source.
        file: one of `raw_files`.
        window: see `event_batches`.
        parser: an open one, where many files are parsed; else one is opened.
    """
    with nullcontext(parser) if parser else Parser(mapping) as using:
        for batch in event_batches(mapping, file, window=window):
            yield using.events(batch, file)


class Parser:
    """Parses batch after batch on one closed-in DuckDB connection; use as a context manager."""

    def __init__(self, mapping: Mapping) -> None:
        self.mapping = mapping
        self._open: AbstractContextManager[duckdb.DuckDBPyConnection] = connect({})
        self._fixed = _parameters(mapping)

    def __enter__(self) -> Self:
        self._connection = self._open.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.__exit__(kind, error, trace)

    def events(self, batch: pa.RecordBatch, file: RawFile) -> pa.Table:
        """See `parse_events`."""
        fields = self._fields(batch, file)
        arrives_by = "event"
        if self.mapping.events.ingested_at:
            arrives_by = "column"
        elif file.known_from:
            arrives_by = "file"
        parsed = self._run(
            "parsed_events",
            "source_fields",
            fields,
            arrives_by=arrives_by,
            known_from=file.known_from,
            **self._fixed,
        )
        return _finished(batch, parsed, self.mapping, file)

    def items(self, batch: pa.RecordBatch, file: RawFile) -> pa.Table:
        """Rows of a catalogue file: `line, item_id, title, reason, column, value, raw`."""
        items = self.mapping.items
        assert isinstance(items, CatalogueFiles)
        is_text, named = self._fixed["item_is_text"], items.columns.model_dump()
        text, number = id_values(batch[named["item_id"]], as_words=is_text, nulls=items.nulls)
        fields = {
            "place": _places(batch),
            "broken": _broken(batch),
            "item_text": text,
            "item_number": number,
            "title": title_text(batch[named["title"]], items.nulls),
        }
        parsed = self._run("parsed_items", "source_fields", pa.table(fields), item_is_text=is_text)
        roles = parsed["role"].filter(pc.is_valid(parsed["reason"])).to_pylist()
        columns = [named.get(role) for role in roles]
        return pa.table(
            {
                "line": batch[LINE],
                "item_id": parsed["item_text" if is_text else "item_number"],
                "title": parsed["title"],
                "reason": parsed["reason"],
                **blame(batch, parsed, columns, items),
            }
        )

    def _fields(self, batch: pa.RecordBatch, file: RawFile) -> pa.Table:
        events, columns = self.mapping.events, self.mapping.events.columns
        is_text = {k: self._fixed[f"{k}_is_text"] for k in ("user", "item")}
        user = id_values(batch[columns.user_id], as_words=is_text["user"], nulls=events.nulls)
        item = id_values(batch[columns.item_id], as_words=is_text["item"], nulls=events.nulls)
        at = self.times(batch, columns.at, events.at, file)
        arrival = (
            self.times(batch, events.ingested_at.column, events.ingested_at, file)
            if events.ingested_at
            else {"moment": pa.nulls(len(batch), _MOMENT), "reason": pa.nulls(len(batch), "string")}
        )
        feedback_text, feedback_number = self._feedback(batch)
        rule = first_rule(batch, self.mapping.reject, events.nulls)
        reasons = pa.array([rule.reason for rule in self.mapping.reject], pa.string())
        return pa.table(
            {
                "place": _places(batch),
                "broken": _broken(batch),
                "rejected": reasons.take(rule),
                "user_text": user[0],
                "user_number": user[1],
                "item_text": item[0],
                "item_number": item[1],
                "feedback_text": feedback_text,
                "feedback_number": feedback_number,
                "at_moment": at["moment"],
                "at_reason": at["reason"],
                "arrival_moment": arrival["moment"],
                "arrival_reason": arrival["reason"],
            }
        )

    def _feedback(self, batch: pa.RecordBatch) -> tuple[pa.Array, pa.Array]:
        events, n = self.mapping.events, len(batch)
        name = events.columns.rating or events.columns.label
        if name is None:
            return pa.nulls(n, pa.string()), pa.nulls(n, pa.float64())
        if self.mapping.feedback.kind == "label":
            return as_text(batch[name], events.nulls), pa.nulls(n, pa.float64())
        number = numbers(batch[name])
        if number.null_count == 0:
            return pa.nulls(n, pa.string()), number
        return pc.if_else(pc.is_valid(number), None, as_text(batch[name], events.nulls)), number

    def times(
        self, batch: pa.RecordBatch, name: str, time: Time, file: RawFile
    ) -> dict[str, pa.Array]:
        """Columns `moment` (UTC) and `reason` of a column of times; both null where it is blank."""
        where = f"{file.shown}: column '{name}'"
        values, in_utc = time_values(batch[name], time, self.mapping.events.nulls, where)
        if time.form == "native" and (in_utc or time.zone == "UTC"):  # nothing left to parse
            return {"moment": values["wall"], "reason": pa.nulls(len(batch), pa.string())}
        is_pattern = time.form not in FORMS
        table = self._run(
            "parsed_times",
            "source_times",
            pa.table({"place": _places(batch), **values}),
            form="pattern" if is_pattern else time.form,
            pattern=time.form if is_pattern else "%Y",
            pattern_has_offset=is_pattern and "%z" in time.form,
            unit_us=UNITS_US.get(time.form),
            zone="UTC" if in_utc else time.zone,
        )
        return {"moment": table["moment"], "reason": table["reason"]}

    def _run(self, name: str, table: str, rows: pa.Table, **parameters: Any) -> pa.Table:
        self._connection.register(table, rows)
        try:
            relation = self._connection.sql(sql_text(f"prepare/{name}"), params=parameters)
            return relation.to_arrow_table()
        finally:
            self._connection.unregister(table)


def _parameters(mapping: Mapping) -> dict[str, Any]:
    feedback = mapping.feedback
    given: dict[str, Any] = {"minimum": 0.0, "maximum": 0.0, "positives": [], "negatives": []}
    if isinstance(feedback, RatingFeedback):
        given |= {"minimum": feedback.minimum, "maximum": feedback.maximum}
    if isinstance(feedback, LabelFeedback):
        given |= {"positives": list(feedback.positive), "negatives": list(feedback.negative)}
    return {
        "user_is_text": mapping.events.user_id.type == "string",
        "item_is_text": mapping.events.item_id.type == "string",
        "feedback": feedback.kind,
        "earliest": EARLIEST,
        "latest": LATEST,
        **given,
    }


# -- what every parsed table shares ----------------------------------------------------------------


def _places(batch: pa.RecordBatch) -> pa.Array:
    return pa.array(np.arange(batch.num_rows))


def _broken(batch: pa.RecordBatch) -> pa.Array:
    return batch[BROKEN].cast(pa.string())


def blame(
    batch: pa.RecordBatch, parsed: pa.Table, columns: list[str | None], files: Files
) -> dict[str, pa.Array]:
    """Columns `column`, `value` and `raw` of a parsed table: null where the row is good.

    Args:
        batch: the rows as they were read.
        parsed: the same rows, with `reason`.
        columns: of each bad row, the source's column that is to blame, if one is.
        files: what the rows come from.
    """
    is_bad = pc.is_valid(parsed["reason"]).combine_chunks()
    rows = batch.filter(is_bad)
    raw = row_texts(rows, files)
    values = [
        str(rows[name][n].as_py()) if name and rows[name][n].is_valid else None
        for n, name in enumerate(columns)
    ]
    place = pc.cumulative_sum(is_bad.cast(pa.int64()))
    place = pc.if_else(is_bad, pc.subtract(place, 1), None)
    found = {"column": columns, "value": values, "raw": raw}
    return {name: pa.array(of, pa.string()).take(place) for name, of in found.items()}


def _blamed_columns(parsed: pa.Table, mapping: Mapping) -> list[str | None]:
    """The source's column that each bad row is bad for."""
    events, columns = mapping.events, mapping.events.columns
    named = {
        "user": columns.user_id,
        "item": columns.item_id,
        "feedback": columns.rating or columns.label,
        "at": columns.at,
        "arrival": events.ingested_at.column if events.ingested_at else None,
    }
    ruled = {rule.reason: rule.column for rule in mapping.reject}
    bad = parsed.filter(pc.is_valid(parsed["reason"])).select(["reason", "role"])
    return [
        ruled[row["reason"]] if row["role"] == "rule" else named.get(row["role"])
        for row in bad.to_pylist()
    ]


def _finished(batch: pa.RecordBatch, parsed: pa.Table, mapping: Mapping, file: RawFile) -> pa.Table:
    schema, is_text = parsed_schema(mapping), {"integer": "number", "string": "text"}
    names = pa.DictionaryArray.from_arrays(
        pa.array(np.zeros(batch.num_rows, np.int32)), pa.array([file.name])
    )
    columns = {
        "source_file": names,
        "line": batch[LINE],
        "source_row": source_row(file.ordinal, batch[LINE]),
        "user_id": parsed[f"user_{is_text[mapping.events.user_id.type]}"],
        "item_id": parsed[f"item_{is_text[mapping.events.item_id.type]}"],
        **{name: parsed[name] for name in ("rating", "rated_at", "ingested_at", "reason")},
        **blame(batch, parsed, _blamed_columns(parsed, mapping), mapping.events),
    }
    if mapping.title_column:
        columns["title"] = title_text(batch[mapping.title_column], mapping.events.nulls)
    return pa.table(columns, schema=schema)
