"""A first look at a source: which tables lie there, their columns, and a sample of their values."""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import BinaryIO, cast

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.errors import SourceError

SAMPLED_ROWS = 20_000  # of the first and of the last file of a table, each
_SAMPLED_BYTES, _HEAD_BYTES = 1 << 20, 1 << 16
_DELIMITERS = ("::", "\t", ";", "|", ",")
_DAY = re.compile(r"(?<![0-9])[0-9]{4}-[0-9]{2}-[0-9]{2}(?![0-9])")
_NUMBER_OR_DATE = re.compile(r"[-+]?[0-9][0-9.,:/ TZ+-]*")
_IGNORED = (".md", ".json", ".yaml", ".yml", ".toml", ".py", ".sql", ".zip", ".html", ".pdf")


@dataclass(frozen=True)
class Column:
    """One column of a table, as far as the sample shows it.

    Attributes:
        kind: `text`, `integer`, `decimal`, `timestamp` (with `zone` where it has one), `date`,
            `boolean` or `other`; every column of a CSV is `text`.
        values: of the sample, in its order, as text; None where there is none.
    """

    name: str
    kind: str
    values: tuple[str | None, ...]
    zone: str | None = None

    @property
    def texts(self) -> tuple[str, ...]:
        """The values that are there."""
        return tuple(value for value in self.values if value is not None and value.strip())

    @property
    def missing_share(self) -> float:
        """Share of the sampled rows without a value."""
        return 1 - len(self.texts) / len(self.values) if self.values else 0.0


@dataclass(frozen=True)
class CsvForm:
    """How the text of a CSV is written."""

    delimiter: str
    encoding: str
    header: bool
    quoted: bool


@dataclass(frozen=True)
class Table:
    """Files of one form, or one table of a DuckDB file, with a sample of their rows.

    Attributes:
        pattern: glob below the source's folder; `{day}` stands for a date.
        table: name of the table in a DuckDB file.
        days: dates that stand in the files' names, sorted.
    """

    pattern: str
    format: str
    columns: tuple[Column, ...]
    n_files: int = 1
    table: str | None = None
    csv: CsvForm | None = None
    days: tuple[str, ...] = field(default=())

    def column(self, name: str) -> Column | None:
        """The column of that name."""
        return next((column for column in self.columns if column.name == name), None)

    @property
    def label(self) -> str:
        """What to call it in a message."""
        return f"{self.pattern}, table {self.table}" if self.table else self.pattern


# -- files -----------------------------------------------------------------------------------------


def tables_at(source: Path, names: Sequence[str] = ()) -> tuple[Path, tuple[Table, ...]]:
    """The tables at `source` and the folder that their patterns start from.

    Args:
        source: a folder, or one file of Parquet, CSV or DuckDB.
        names: column names for CSV files without a header.

    Raises:
        SourceError: nothing is there, or nothing that can be read.
    """
    if not source.exists():
        raise SourceError(f"{source}: no such file or folder")
    root = source if source.is_dir() else source.parent
    files = sorted(_files_below(root)) if source.is_dir() else [source]
    forms: dict[tuple[str, str], list[Path]] = {}
    for path in files:
        if (kind := _format_of(path)) is not None:
            place = _DAY.sub("{day}", path.relative_to(root).parent.as_posix())
            forms.setdefault((kind, place), []).append(path)
    tables = [t for (kind, _), paths in forms.items() for t in _tables_of(kind, paths, root, names)]
    if not tables:
        raise SourceError(
            f"{source}: no Parquet, CSV or DuckDB file with rows was found ({len(files)} files "
            "looked at); give the folder that holds them, or one file"
        )
    return root, tuple(tables)


def _files_below(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if not hidden and path.is_file() and path.suffix.lower() not in _IGNORED:
            yield path


def _format_of(path: Path) -> str | None:
    """`parquet`, `duckdb` or `csv` by the file's first bytes; None for what is none of them."""
    try:
        with _opened(path) as file:
            head = file.read(4096)
    except (OSError, EOFError, zlib.error) as error:
        raise SourceError(f"{path}: cannot be read ({_first_line(error)})") from error
    if head[:4] == b"PAR1":
        return "parquet"
    if head[8:12] == b"DUCK":
        return "duckdb"
    is_text = bool(head) and b"\0" not in head and path.suffix.lower() not in _IGNORED
    return "csv" if is_text else None


def _tables_of(
    kind: str, paths: Sequence[Path], root: Path, names: Sequence[str]
) -> Iterator[Table]:
    """One table for all files of one folder that have equal columns."""
    if kind == "duckdb":
        for path in paths:
            yield from _duckdb_tables(path, root)
        return
    groups: dict[tuple[str, ...], list[Path]] = {}
    for path in paths:
        if heads := _csv_heads(path, names) if kind == "csv" else _parquet_heads(path):
            groups.setdefault(tuple(heads), []).append(path)
    for group in groups.values():
        yield _table(kind, group, root, names)


def _table(kind: str, group: Sequence[Path], root: Path, names: Sequence[str]) -> Table:
    """Files of equal columns as one table, sampled at both its ends."""
    ends = group[:1] if len(group) == 1 else [group[0], group[-1]]
    form = _csv_form(group[0], names) if kind == "csv" else None
    sampled = [_csv_sample(p, names) if kind == "csv" else _parquet_sample(p) for p in ends]
    columns = tuple(
        Column(parts[0].name, parts[0].kind, sum((p.values for p in parts), ()), parts[0].zone)
        for parts in zip(*sampled, strict=True)
    )
    relative = [path.relative_to(root).as_posix() for path in group]
    found = [_DAY.search(name) for name in relative]
    days = sorted({match[0] for match in found if match}) if all(found) else []
    pattern = _pattern([_DAY.sub("{day}", name, count=1) if days else name for name in relative])
    return Table(pattern, kind, columns, len(group), csv=form, days=tuple(days))


def _pattern(names: Sequence[str]) -> str:
    """A glob that takes all of `names`, cut back to a border between words."""
    names = sorted(set(names))
    if len(names) == 1:
        return names[0]
    folders = {name.rpartition("/")[0] for name in names}
    folder = f"{folders.pop()}/" if len(folders) == 1 and "/" in names[0] else ""
    bare = [name[len(folder) :] for name in names]
    start, end = _shared_start(bare), _shared_start([name[::-1] for name in bare])[::-1]
    start = re.sub(r"[^_.-]*$", "", start)
    end = re.sub(r"^[^_.-]*", "", end)
    return f"{folder}{start}*{end if len(end) < min(map(len, bare)) - len(start) else ''}"


def _shared_start(names: Sequence[str]) -> str:
    letters = zip(*names, strict=False)
    n_shared = next((n for n, of in enumerate(letters) if len(set(of)) > 1), min(map(len, names)))
    return names[0][:n_shared]


# -- Parquet and DuckDB ----------------------------------------------------------------------------


def _kind(kind: pa.DataType) -> str:
    for name, is_it in (
        ("boolean", pa.types.is_boolean),
        ("integer", pa.types.is_integer),
        ("decimal", pa.types.is_floating),
        ("decimal", pa.types.is_decimal),
        ("timestamp", pa.types.is_timestamp),
        ("date", pa.types.is_date),
        ("text", pa.types.is_string),
        ("text", pa.types.is_large_string),
    ):
        if is_it(kind):
            return name
    return "other"


def _columns(rows: pa.Table) -> tuple[Column, ...]:
    """The columns of a sample; what is not text is written as a person would."""
    columns = []
    for name, values in zip(rows.column_names, rows.columns, strict=True):
        if pa.types.is_dictionary(values.type):
            values = values.cast(values.type.value_type)
        kind = _kind(values.type)
        texts = [None if value is None else str(value) for value in values.to_pylist()]
        zone = values.type.tz if kind == "timestamp" else None
        columns.append(Column(name, kind, tuple(texts), zone))
    return tuple(columns)


def _parquet_heads(path: Path) -> list[str]:
    try:
        return pq.read_schema(path).names
    except (OSError, pa.ArrowException) as error:
        raise _not_parquet(path, error) from error


def _not_parquet(path: Path, error: Exception) -> SourceError:
    return SourceError(f"{path}: cannot be read as Parquet ({_first_line(error)}); write it again")


def _parquet_sample(path: Path) -> tuple[Column, ...]:
    try:
        with pq.ParquetFile(path) as file:
            batches = list(islice(file.iter_batches(batch_size=SAMPLED_ROWS), 1))
            rows = pa.Table.from_batches(batches, schema=file.schema_arrow)
    except (OSError, pa.ArrowException) as error:
        raise _not_parquet(path, error) from error
    return _columns(rows)


def _duckdb_tables(path: Path, root: Path) -> Iterator[Table]:
    try:
        connection = duckdb.connect(str(path), read_only=True)
    except duckdb.Error as error:
        raise SourceError(
            f"{path}: cannot be opened as DuckDB ({_first_line(error)}); if another process writes "
            "to it, wait until that is done or give a copy"
        ) from error
    with connection:
        connection.execute("set TimeZone = 'UTC'")
        found = connection.execute(
            "select table_schema, table_name from information_schema.tables order by all"
        ).fetchall()
        for schema, table in found:
            quoted = ".".join('"' + name.replace('"', '""') + '"' for name in (schema, table))
            columns = _columns(connection.table(quoted).limit(SAMPLED_ROWS).to_arrow_table())
            name = table if schema == "main" else f"{schema}.{table}"
            yield Table(path.relative_to(root).as_posix(), "duckdb", columns, table=name)


def _first_line(error: Exception) -> str:
    reason = error.strerror if isinstance(error, OSError) else None
    return (reason or str(error) or type(error).__name__).splitlines()[0]


# -- CSV -------------------------------------------------------------------------------------------


def _csv_form(path: Path, names: Sequence[str], n_bytes: int = _HEAD_BYTES) -> CsvForm | None:
    """How the file is written; None if its lines have no common number of fields above one."""
    text, encoding = _head(path, n_bytes)
    if (delimiter := _delimiter(text)) is None:
        return None
    first = next(iter(_rows(text, delimiter)))
    return CsvForm(delimiter, encoding, not names and _is_header(first), quoted='"' in text)


def _csv_heads(path: Path, names: Sequence[str]) -> list[str]:
    """Names of the columns: those given, the header's, or column_1, column_2, ..."""
    if (form := _csv_form(path, names)) is None:
        return []
    first = next(iter(_rows(_head(path, _HEAD_BYTES)[0], form.delimiter)))
    if names and len(names) != len(first):
        raise SourceError(
            f"{path}, line 1: {len(first)} fields for {len(names)} names ({', '.join(names)})"
        )
    if names:
        return list(names)
    return first if form.header else [f"column_{n + 1}" for n in range(len(first))]


def _csv_sample(path: Path, names: Sequence[str]) -> tuple[Column, ...]:
    form, heads = _csv_form(path, names), _csv_heads(path, names)
    assert form is not None  # only files that have one are grouped into tables
    rows = _rows(_head(path, _SAMPLED_BYTES)[0], form.delimiter)
    body = [row for row in islice(rows, form.header, SAMPLED_ROWS) if len(row) == len(heads)]
    return tuple(Column(name, "text", tuple(r[n] for r in body)) for n, name in enumerate(heads))


def _opened(path: Path) -> BinaryIO:
    """The bytes of a file, unpacked if its name ends in .gz."""
    return cast(BinaryIO, gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def _head(path: Path, n_bytes: int) -> tuple[str, str]:
    """The first whole lines of a file, and the encoding that reads them."""
    with _opened(path) as file:
        content = file.read(n_bytes)
        if file.read(1):
            content = content[: content.rfind(b"\n") + 1]
    try:
        return content.decode("utf-8-sig"), "utf-8"
    except UnicodeDecodeError:
        # A few bad bytes are dirt in UTF-8; if they are most of the bytes past ASCII, it is not.
        text = content.decode("utf-8-sig", errors="replace")
        if text.count("\ufffd") < sum(byte >= 0x80 for byte in content) / 4:
            return text, "utf-8"
        return content.decode("latin-1"), "latin-1"


def _rows(text: str, delimiter: str | None) -> Iterable[list[str]]:
    if delimiter is None:
        return []
    if len(delimiter) > 1:
        return (line.split(delimiter) for line in text.splitlines())
    return csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)


def _delimiter(text: str) -> str | None:
    """The delimiter that cuts most of the first lines into the same number of fields, above one."""
    best: tuple[float, int, str] | None = None
    for delimiter in _DELIMITERS:
        counts = Counter(len(row) for row in islice(_rows(text, delimiter), 200) if row)
        if not counts:
            return None
        n_fields, n_lines = counts.most_common(1)[0]
        share = round(n_lines / counts.total(), 1)
        if n_fields > 1 and (best is None or (share, n_fields) > best[:2]):
            best = share, n_fields, delimiter
    return best[2] if best else None


def _is_header(row: Sequence[str]) -> bool:
    """Names are there, differ, and are neither numbers nor dates."""
    cells = [cell.strip() for cell in row]
    is_named = all(cells) and len(set(cells)) == len(cells)
    return is_named and not any(_NUMBER_OR_DATE.fullmatch(cell) for cell in cells)
