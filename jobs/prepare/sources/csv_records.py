"""A CSV file as a stream of Arrow batches: any delimiter and encoding, every bad line told apart.

Works on blocks of bytes with NumPy, so that the cost per line is that of a few passes over memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.errors import SourceError
from jobs.prepare.sources.csv_lines import (
    CODECS,
    COUNT,
    INVALID,
    QUOTING,
    REASONS,
    Blocks,
    Lines,
    as_utf8,
    lines_of,
)
from jobs.prepare.sources.lines import shown
from jobs.prepare.sources.raw_file import RawBytes
from jobs.prepare.sources.source_columns import BROKEN, LINE, RAW, places_of
from jobs.prepare.sources.source_form import CsvForm

_MANY = 20  # bad lines of a small delivery are for the quarantine, even if they are most of it
MAX_RECORD_BYTES = 1 << 20  # a quote that is not closed within this much opens no value


# -- lines into records ----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Records:
    """Rows of a block: one line each, or several where a quoted value holds line ends.

    Attributes:
        starts, ends: (n,) first byte, and the byte after the last one of the text.
        lines: (n,) the first line of each, from 0 in the block.
        broken: (n,) place in `REASONS`; 0 for a row that can be cut into fields.
        quotes: places of the quotes of rows that are not broken, in order.
        n_lines: lines of the block that were used.
    """

    starts: np.ndarray
    ends: np.ndarray
    lines: np.ndarray
    broken: np.ndarray
    quotes: np.ndarray
    n_lines: int


def _records(lines: Lines, form: CsvForm, *, is_last: bool) -> _Records:
    every, none = np.arange(len(lines.starts)), np.empty(0, np.int64)
    quote = ord(form.quote) if form.quote else None
    quotes = none if quote is None else np.flatnonzero(lines.content == quote)
    if not len(quotes):
        return _Records(lines.starts, lines.ends, every, lines.broken, none, len(every))
    of_line = np.searchsorted(lines.starts, quotes, "right") - 1
    is_odd = np.bincount(of_line, minlength=len(every)) % 2 == 1
    is_inner, broken, n_lines = _joined(lines, np.flatnonzero(is_odd), form, is_last=is_last)
    first = every[:n_lines][~is_inner[:n_lines]]
    last = np.append(first, n_lines)[1:] - 1
    starts, ends = lines.starts[first], lines.ends[last]
    broken = np.maximum.reduceat(broken[:n_lines], first) if n_lines else broken[:0]
    quotes = quotes[of_line < n_lines]
    bad = _badly_quoted(lines.content, quotes, starts, ends, form)
    broken[bad & (broken == 0)] = QUOTING
    of_record = np.searchsorted(starts, quotes, "right") - 1
    return _Records(starts, ends, first, broken, quotes[broken[of_record] == 0], n_lines)


def _joined(
    lines: Lines, odd: np.ndarray, form: CsvForm, *, is_last: bool
) -> tuple[np.ndarray, np.ndarray, int]:
    """Which lines only go on a quoted value of the line before.

    A line with an odd number of quotes opens a value that the next such line closes, if the two and
    what is between them are well formed together; if they are not, the first is a bad line of its
    own and the next one starts afresh. So a stray quote costs one line, not the rest of the file.

    Args:
        lines: of the block.
        odd: lines with an odd number of quotes, ascending.
        form: how the file is written.
        is_last: no more lines will come.

    Returns:
        (n,) whether a line only goes on; (n,) `broken`; how many lines can be used before more of
        the file has been read.
    """
    whole = _well_formed(form)
    is_inner, broken = np.zeros(len(lines.starts), bool), lines.broken.copy()
    k = 0
    while k < len(odd):
        first, start = odd[k], lines.starts[odd[k]]
        if k + 1 == len(odd):
            if not is_last and len(lines.content) - start <= MAX_RECORD_BYTES:
                return is_inner, broken, int(first)
            broken[first] = max(broken[first], QUOTING)
            break
        last = odd[k + 1]
        record = lines.content[start : lines.ends[last]]
        if len(record) <= MAX_RECORD_BYTES and whole.fullmatch(record.tobytes()):
            is_inner[first + 1 : last + 1] = True
            k += 2
        else:
            broken[first] = max(broken[first], QUOTING)
            k += 1
    return is_inner, broken, len(lines.starts)


def _well_formed(form: CsvForm) -> re.Pattern[bytes]:
    """A row in which quotes stand only around whole values, doubled within them."""
    q, d = re.escape(form.quote.encode()), re.escape(form.delimiter.encode())
    field = b"(?:%b[^%b]*+(?:%b%b[^%b]*+)*+%b|(?:(?!%b)[^%b\\n])*+)" % (q, q, q, q, q, q, d, q)
    return re.compile(b"%b(?:%b%b)*+" % (field, d, field))


def _badly_quoted(
    content: np.ndarray, quotes: np.ndarray, starts: np.ndarray, ends: np.ndarray, form: CsvForm
) -> np.ndarray:
    """(n,) whether a quote stands where none may: `_well_formed` for all rows at once.

    Quotes of a row open and close in turn. One that opens stands at the start of a value, or right
    after one that closed (a doubled quote); one that closes stands at the end of a value or right
    before one that opens.
    """
    delimiter, quote = form.delimiter.encode(), ord(form.quote)
    of_row = np.searchsorted(starts, quotes, "right") - 1
    place = np.arange(len(quotes)) - np.searchsorted(quotes, starts)[of_row]
    opens = place % 2 == 0
    before = _is_at(content, quotes - len(delimiter), delimiter) & (
        quotes - len(delimiter) >= starts[of_row]
    )
    starts_value = (quotes == starts[of_row]) | before
    doubled = (place > 0) & (content[quotes - 1] == quote)
    ends_value = (quotes + 1 == ends[of_row]) | _is_at(content, quotes + 1, delimiter)
    doubles = content[np.minimum(quotes + 1, len(content) - 1)] == quote
    fits = np.where(opens, starts_value | doubled, ends_value | doubles)
    is_odd = np.bincount(of_row, minlength=len(starts)) % 2 == 1
    bad = np.zeros(len(starts), bool)
    bad[of_row[~fits]] = True
    return bad | is_odd


def _is_at(content: np.ndarray, places: np.ndarray, text: bytes) -> np.ndarray:
    """(n,) whether `text` stands at each place."""
    found = np.ones(len(places), bool)
    for n, byte in enumerate(text):
        found &= content[np.clip(places + n, 0, len(content) - 1)] == byte
    return found


# -- records into fields ---------------------------------------------------------------------------


def _delimiters(content: np.ndarray, delimiter: bytes) -> np.ndarray:
    """Places of the delimiter, from left to right without overlap."""
    found = np.flatnonzero(content == delimiter[0])
    if len(delimiter) == 1:
        return found
    found = found[_is_at(content, found, delimiter)]
    if len(found) < 2 or np.diff(found).min() >= len(delimiter):
        return found
    kept, free = [], 0
    for place in found.tolist():
        if place >= free:
            kept.append(place)
            free = place + len(delimiter)
    return np.array(kept, np.int64)


@dataclass(frozen=True)
class _Fields:
    """Where each value of the good rows starts and ends.

    Attributes:
        starts, ends: (n_good, n_columns).
        good: (n,) whether a row was cut into fields.
        broken: (n,) place in `REASONS`.
    """

    starts: np.ndarray
    ends: np.ndarray
    good: np.ndarray
    broken: np.ndarray


def _fields(content: np.ndarray, rows: _Records, form: CsvForm, n_columns: int) -> _Fields:
    delimiter = form.delimiter.encode()
    places = _delimiters(content, delimiter)
    if len(rows.quotes):  # an odd number of quotes before it: inside a quoted value
        places = places[np.searchsorted(rows.quotes, places) % 2 == 0]
    low, high = np.searchsorted(places, rows.starts), np.searchsorted(places, rows.ends)
    broken = np.where((rows.broken == 0) & (high - low + 1 != n_columns), COUNT, rows.broken)
    good = broken == 0
    between = places[low[good][:, None] + np.arange(n_columns - 1)]
    return _Fields(
        starts=np.hstack([rows.starts[good][:, None], between + len(delimiter)]),
        ends=np.hstack([between, rows.ends[good][:, None]]),
        good=good,
        broken=broken,
    )


def _column(content: np.ndarray, fields: _Fields, place: int, form: CsvForm) -> pa.Array:
    """One column as text; null where the row was not cut into fields."""
    starts, ends = fields.starts[:, place], fields.ends[:, place]
    if not len(starts):
        return pa.nulls(len(fields.good), pa.string())
    has_quotes = False
    if form.quote:
        quoted = (starts < ends) & (content[starts] == ord(form.quote))
        starts, ends = starts + quoted, ends - quoted
        has_quotes = bool(quoted.any())
    # Values and what is between them, in turn: one array of twice the length without a copy.
    offsets = np.stack([starts, ends], axis=1).ravel()
    both = pa.Array.from_buffers(
        pa.large_string(),
        len(offsets) - 1,
        [None, pa.py_buffer(offsets.astype(np.int64)), pa.py_buffer(content)],
    )
    taken = np.zeros(len(fields.good), np.int64)
    taken[fields.good] = np.arange(0, len(offsets), 2)
    values = both.take(pa.array(taken, mask=~fields.good)).cast(pa.string())
    if has_quotes:
        values = pc.replace_substring(values, form.quote * 2, form.quote)
    return values


# -- the whole -------------------------------------------------------------------------------------


def csv_batches(
    stream: RawBytes, name: str, form: CsvForm, columns: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    """Rows of a CSV file in their order: `#line`, `#broken`, `#raw` and `columns` as text.

    Args:
        stream: the bytes.
        name: of the file, for errors.
        form: how it is written.
        columns: names of those wanted.

    Raises:
        SourceError: the file is empty, cut short or of another form, or a column is missing.
    """
    blocks = Blocks(stream, name, form)
    content, unused = blocks.first(), b""
    names, content = _names(content, name, form)
    blocks.line += form.header
    wanted = places_of(names, columns, f"{name}, line 1" if form.header else name)
    is_first = True
    while content or not blocks.is_last:
        lines = lines_of(content, form) if content else None
        if lines is not None:
            rows = _records(lines, form, is_last=blocks.is_last)
            fields = _fields(lines.content, rows, form, len(names))
            batch = _batch(lines, rows, fields, blocks.line, columns, wanted, form)
            if is_first:
                _refuse_other_forms(batch, name, names, form)
            yield batch
            is_first, unused = False, lines.original_from(rows.n_lines)
            blocks.line += rows.n_lines
        content = b"" if blocks.is_last else blocks.take(unused)


def _names(content: bytes, name: str, form: CsvForm) -> tuple[list[str], bytes]:
    """Names of the columns, and the content after the header."""
    if not form.header:
        return list(form.columns or ()), content
    header, _, rest = content.partition(b"\n")
    text, is_text = as_utf8(header.removesuffix(b"\r") + b"\n", CODECS[form.encoding])
    lines = lines_of(text, form.model_copy(update={"encoding": "utf-8"}))
    rows = _records(lines, form, is_last=True)
    if not is_text or rows.broken.any():
        raise SourceError(
            f"{name}, line 1: expected names of columns, found {shown(text.decode())} "
            f"({REASONS[max(rows.broken.max(), 0 if is_text else INVALID)]})"
        )
    n = len(_delimiters(lines.content, form.delimiter.encode())) + 1
    for n_columns in range(n, 0, -1):  # fewer, if a quoted name holds the delimiter
        fields = _fields(lines.content, rows, form, n_columns)
        if fields.good.all():
            break
    found = [_column(lines.content, fields, place, form)[0].as_py() for place in range(n_columns)]
    return [column.strip() for column in found], rest


def _batch(
    lines: Lines,
    rows: _Records,
    fields: _Fields,
    first_line: int,
    columns: Sequence[str],
    wanted: Sequence[int],
    form: CsvForm,
) -> pa.RecordBatch:
    end = lines.starts[rows.n_lines] if rows.n_lines < len(lines.starts) else len(lines.content)
    offsets = np.append(rows.starts, end).astype(np.int64)
    raw = pa.Array.from_buffers(
        pa.large_string(),
        len(rows.starts),
        [None, pa.py_buffer(offsets), pa.py_buffer(lines.content)],
    )
    reasons = list(REASONS)
    reasons[INVALID] = {"utf-8": "invalid UTF-8"}.get(form.encoding, f"invalid {form.encoding}")
    broken = pa.DictionaryArray.from_arrays(
        pa.array(fields.broken.astype(np.int8) - 1, mask=fields.good), pa.array(reasons[1:])
    )
    found = [_column(lines.content, fields, place, form) for place in wanted]
    numbers = pa.array(rows.lines + first_line)
    return pa.RecordBatch.from_arrays(
        [numbers, broken, raw, *found], names=[LINE, BROKEN, RAW, *columns]
    )


def _refuse_other_forms(
    batch: pa.RecordBatch, name: str, names: Sequence[str], form: CsvForm
) -> None:
    """Single bad lines are for the quarantine; a file of mostly others is another kind of file."""
    is_other = pc.fill_null(pc.equal(batch[BROKEN].cast(pa.string()), REASONS[COUNT]), False)
    n_other = pc.sum(is_other, min_count=0).as_py()
    if n_other >= _MANY and 2 * n_other > batch.num_rows:
        first = pc.index(is_other, True).as_py()
        text = batch[RAW][first].as_py().rstrip("\r\n")
        raise SourceError(
            f"{name}, line {batch[LINE][first].as_py()}: expected {form.delimiter.join(names)}, "
            f"found {shown(text)}; most lines are not of that form: see `csv` of the mapping"
        )
