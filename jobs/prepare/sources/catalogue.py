"""Items of a source from its catalogue files, and where items first appear."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from jobs.errors import SourceError
from jobs.prepare.sources.lines import shown
from jobs.prepare.sources.mapping import Mapping
from jobs.prepare.sources.mapping_form import CatalogueFiles
from jobs.prepare.sources.parse import Parser, parsed_schema, source_row
from jobs.prepare.sources.raw_file import RawFile, catalogue_files, files_of
from jobs.prepare.sources.readers import file_batches
from jobs.prepare.sources.source_columns import LINE
from jobs.prepare.sources.source_values import as_text, row_numbers
from jobs.query import query


class Catalogue(NamedTuple):
    """Items of a source as known on a day.

    Attributes:
        items: `item_id`, `title`, sorted by `item_id`, one row an item.
        rejected: `source_file, line, reason, column, value, raw` of rows that could not be read.
        n_rows_in: rows read; a doubled item is read twice.
    """

    items: pa.Table
    rejected: pa.Table
    n_rows_in: int


def read_catalogue(mapping: Mapping, root: Path, day: date) -> Catalogue:
    """Items from the catalogue files known on `day`; with titles from events, no rows.

    Raises:
        SourceError: a file cannot be read, or a row is bad or doubled and the mapping refuses it.
    """
    tables = [_schema(mapping).empty_table()]
    with Parser(mapping) as parser:
        for file in catalogue_files(mapping, root, day):
            tables += _tables_of(parser, mapping, file)
    rows = pa.concat_tables(tables)
    is_bad = pc.is_valid(rows["reason"])
    return Catalogue(
        items=query("prepare/catalogue", {"catalogue_rows": rows.filter(pc.invert(is_bad))}),
        rejected=rows.filter(is_bad).select(REJECTED),
        n_rows_in=rows.num_rows,
    )


def catalogue_rows(parser: Parser, mapping: Mapping, file: RawFile) -> tuple[pa.Table, pa.Table]:
    """Good and bad rows of one catalogue file, in its order: those of an item and others.

    Returns:
        Two tables of `line, source_row, item_id, reason, column, value, raw, source_file, title`.

    Raises:
        SourceError: the file cannot be read, or a row is bad or doubled and the mapping refuses it.
    """
    rows = pa.concat_tables([_schema(mapping).empty_table(), *_tables_of(parser, mapping, file)])
    is_bad = pc.is_valid(rows["reason"])
    return rows.filter(pc.invert(is_bad)), rows.filter(is_bad)


REJECTED = ["source_file", "line", "reason", "column", "value", "raw"]


def _schema(mapping: Mapping) -> pa.Schema:
    of_event = parsed_schema(mapping)
    names = ["line", "source_row", "item_id", "reason", "column", "value", "raw"]
    texts = [pa.field(name, pa.string()) for name in ("source_file", "title")]
    return pa.schema([*(of_event.field(name) for name in names), *texts])


def _tables_of(parser: Parser, mapping: Mapping, file: RawFile) -> list[pa.Table]:
    """All rows of a file, good and bad.

    Raises:
        SourceError: the mapping refuses bad rows, and one is bad or doubled.
    """
    items, tables = mapping.items, []
    assert isinstance(items, CatalogueFiles)
    columns = dict.fromkeys((items.columns.item_id, items.columns.title))
    for batch in file_batches(items, file, list(columns)):
        rows = parser.items(batch, file)
        name = pa.repeat(pa.scalar(file.name), rows.num_rows)
        rows = rows.append_column("source_file", name)
        rows = rows.append_column("source_row", source_row(file.ordinal, batch[LINE]))
        tables.append(rows.select(_schema(mapping).names).cast(_schema(mapping)))
    if items.bad_rows == "refuse" and tables:
        _refuse_bad(pa.concat_tables(tables), file, items)
        _refuse_doubled(pa.concat_tables(tables), file)
    return tables


def _refuse_bad(rows: pa.Table, file: RawFile, items: CatalogueFiles) -> None:
    bad = rows.filter(pc.is_valid(rows["reason"]))
    if not bad.num_rows:
        return
    first, form = bad.slice(0, 1).to_pylist()[0], items.csv_form
    expected = f"; expected {form.delimiter.join(form.columns)}" if form.columns else ""
    raise SourceError(
        f"{file.shown}, line {first['line']}: {first['reason']} in {shown(first['raw'])}"
        f"{expected}; mend it, or say `bad_rows: quarantine` under `items` of the mapping"
    )


def _refuse_doubled(rows: pa.Table, file: RawFile) -> None:
    counts = rows.group_by("item_id").aggregate([([], "count_all")])
    doubled = counts.filter(pc.greater(counts["count_all"], 1)).sort_by("item_id")
    if doubled.num_rows:
        raise SourceError(
            f"{file.shown}: item {doubled['item_id'][0].as_py()} is listed more than once; "
            "expected one row each"
        )


def read_appearances(mapping: Mapping, root: Path) -> pa.Table | None:
    """`item_id, source_row` of the file that says where items first appear; None without one.

    Raises:
        SourceError: the file cannot be read, or a row has no item or no place.
    """
    if not isinstance(mapping.items, CatalogueFiles) or mapping.items.appearances is None:
        return None
    of = mapping.items.appearances
    is_text = mapping.events.item_id.type == "string"
    tables = []
    for file in files_of(of, root, mapping.domain):
        for batch in file_batches(of, file, [of.columns.item_id, of.columns.row]):
            ids = batch[of.columns.item_id]
            items = as_text(ids, of.nulls) if is_text else row_numbers(ids)
            places = row_numbers(batch[of.columns.row])
            table = pa.table({"item_id": items, "source_row": places})
            _refuse_nulls(table, batch, file)
            tables.append(table)
    return pa.concat_tables(tables)


def _refuse_nulls(table: pa.Table, batch: pa.RecordBatch, file: RawFile) -> None:
    for name, column in zip(table.column_names, batch.schema.names[3:], strict=True):
        if table[name].null_count:
            place = pc.index(pc.is_null(table[name]), True).as_py()
            raise SourceError(
                f"{file.shown}, row {batch[0][place].as_py()}: column '{column}' is "
                f"{batch[column][place].as_py()!r}; expected a number"
            )
