"""A column of a source as text and numbers, whatever type the file gives it."""

from __future__ import annotations

from decimal import Decimal

import pyarrow as pa
import pyarrow.compute as pc

from jobs.errors import SourceError
from jobs.prepare.sources.source_form import FORMS, Time

UNITS_US = {"seconds": 1_000_000, "milliseconds": 1_000, "microseconds": 1}
_WIDEST_WHOLE = 2.0**53  # of a float: beyond, neighbours are more than 1 apart


def as_text(column: pa.Array, nulls: tuple[str, ...] = ()) -> pa.Array:
    """Values as trimmed text; null where blank or one of `nulls`.

    Whole numbers of any type are written without a point: a float column is what many writers make
    of whole numbers as soon as one is missing.
    """
    column = _plain(column)
    if pa.types.is_floating(column.type) or pa.types.is_decimal(column.type):
        whole = whole_numbers(column)
        return pc.coalesce(whole.cast(pa.string()), _known(column).cast(pa.string()))
    if not is_text(column.type):
        return column.cast(pa.string())
    text = pc.utf8_trim_whitespace(column.cast(pa.string()))
    absent = pc.equal(pc.binary_length(text), 0)
    if nulls:
        absent = pc.or_(absent, pc.is_in(text, pa.array(nulls, pa.string())))
    return pc.if_else(absent, pa.scalar(None, pa.string()), text)


def whole_numbers(column: pa.Array) -> pa.Array:
    """Values as int64; null where one is null, no number, has a fraction or does not fit."""
    column = _plain(column)
    if pa.types.is_integer(column.type) and column.type != pa.uint64():
        return column.cast(pa.int64())
    if column.type == pa.uint64():
        fits = pc.less_equal(column, pa.scalar(2**63 - 1, pa.uint64()))
        return pc.if_else(fits, column, pa.scalar(None, pa.uint64())).cast(pa.int64())
    if pa.types.is_decimal(column.type):  # a float would round what is beyond 2^53
        fitting = (
            v if v is not None and v == int(v) and abs(v) < 2**63 else None
            for v in column.to_pylist()
        )
        return pa.array([None if value is None else int(value) for value in fitting], pa.int64())
    if not pa.types.is_floating(column.type):
        return pa.nulls(len(column), pa.int64())
    column = column.cast(pa.float64())
    is_whole = pc.and_(
        pc.equal(pc.floor(column), column), pc.less_equal(pc.abs(column), _WIDEST_WHOLE)
    )
    return pc.if_else(is_whole, column, pa.scalar(None, pa.float64())).cast(pa.int64())


def _whole(value: Decimal | None) -> int | None:
    fits = value is not None and value == int(value) and abs(value) < 2**63
    return int(value) if value is not None and fits else None


def row_numbers(column: pa.Array) -> pa.Array:
    """Values of a column that numbers rows as int64, also of text; null where one is no number."""
    if not is_text(column.type):
        return whole_numbers(column)
    text = pc.utf8_trim_whitespace(column)
    is_number = pc.match_substring_regex(text, "^[0-9]{1,18}$")
    return pc.if_else(is_number, text, None).cast(pa.int64())


def numbers(column: pa.Array) -> pa.Array:
    """Values as float64; null where one is null, NaN or no number."""
    column = _plain(column)
    is_number = (
        pa.types.is_integer(column.type)
        or pa.types.is_floating(column.type)
        or pa.types.is_decimal(column.type)
    )
    if not is_number:
        return pa.nulls(len(column), pa.float64())
    if pa.types.is_integer(column.type):
        return column.cast(pa.float64(), safe=False)
    return _known(column.cast(pa.float64()))


def id_values(column: pa.Array, *, as_words: bool, nulls: tuple[str, ...]) -> tuple[pa.Array, ...]:
    """Text and number of an id: what is a number by its type needs no parsing, if one is wanted."""
    if as_words:
        return as_text(column, nulls), pa.nulls(len(column), pa.int64())
    whole = whole_numbers(column)
    if whole.null_count == 0:
        return pa.nulls(len(column), pa.string()), whole
    return pc.if_else(pc.is_valid(whole), None, as_text(column, nulls)), whole


def time_values(
    column: pa.Array, time: Time, nulls: tuple[str, ...], where: str
) -> tuple[dict[str, pa.Array], bool]:
    """Columns `text`, `number`, `wall` of a time, and whether `wall` is UTC already.

    Raises:
        SourceError: the column's type and the form of the mapping do not fit.
    """
    column, n = _plain(column), len(column)
    found = {
        "text": pa.nulls(n, pa.string()),
        "number": pa.nulls(n, pa.int64()),
        "wall": pa.nulls(n, pa.timestamp("us")),
    }
    if pa.types.is_null(column.type):
        return found, True
    if pa.types.is_temporal(column.type):
        fits = time.form == "native" or (time.form == "date" and pa.types.is_date(column.type))
        if not fits or pa.types.is_time(column.type) or pa.types.is_duration(column.type):
            raise _unfit(column.type, time, where, "say form: native, if it is a timestamp")
        in_utc = pa.types.is_timestamp(column.type) and column.type.tz is not None
        found["wall"] = _in_microseconds(column)
        return found, in_utc
    if time.form == "native":
        raise _unfit(column.type, time, where, "say what the values look like: iso, seconds, ...")
    if not is_text(column.type) and time.form in UNITS_US:
        found["number"] = whole_numbers(column)
        found["text"] = pc.if_else(pc.is_valid(found["number"]), None, as_text(column))
        return found, True
    if not is_text(column.type) and (not pa.types.is_integer(column.type) or time.form in FORMS):
        raise _unfit(column.type, time, where, "expected text; whole numbers are seconds, ...")
    found["text"] = as_text(column, nulls)
    return found, False


def _in_microseconds(column: pa.Array) -> pa.Array:
    """Wall times; of a column with a zone, in UTC. What is finer than a microsecond is cut off."""
    if not pa.types.is_timestamp(column.type):
        return column.cast(pa.timestamp("us"))
    if column.type.unit == "ns":
        column = pc.floor_temporal(column, unit="microsecond")
    return column.cast(pa.timestamp("us", column.type.tz), safe=False).cast(
        pa.timestamp("us"), safe=False
    )


def _unfit(kind: pa.DataType, time: Time, where: str, way_out: str) -> SourceError:
    return SourceError(f"{where} is {kind}, which form {time.form} does not read; {way_out}")


def _plain(column: pa.Array) -> pa.Array:
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return checked_text(column) if _is_bytes(column.type) else column


def checked_text(column: pa.Array) -> pa.Array:
    """Text of a column of bytes, or of one that says it is text: what is no UTF-8 becomes U+FFFD.

    No id, label or time with that letter can be parsed, so that such a value ends as a bad row.
    """
    try:
        text = column.cast(pa.string())
        text.validate(full=True)
    except pa.ArrowInvalid:
        values = column.cast(pa.large_binary()).to_pylist()
        read = [value if value is None else value.decode(errors="replace") for value in values]
        return pa.array(read, pa.string())
    return text


def title_text(column: pa.Array, nulls: tuple[str, ...]) -> pa.Array:
    """Titles as text on one line; null where blank."""
    return pc.replace_substring_regex(as_text(column, nulls), r"\s*[\r\n\t\v\f]+\s*", " ")


def _is_bytes(kind: pa.DataType) -> bool:
    return (
        pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    )


def is_text(kind: pa.DataType) -> bool:
    """Whether a type is one of Arrow's forms of text."""
    return (
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def _known(column: pa.Array) -> pa.Array:
    """NaN is how many writers say null."""
    if not pa.types.is_floating(column.type):
        return column
    return pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
