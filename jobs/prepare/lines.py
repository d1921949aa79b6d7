"""A text file as a table of lines, without a loop in Python."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.errors import SourceError

_NEWLINE = 10
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_SHOWN = 80


def shown(text: str) -> str:
    """`text` as an error message quotes it: escaped, cut to one readable length."""
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")


def split_lines(content: bytes, name: str, *, encoding: str) -> pa.Array:
    r"""Lines of `content` as UTF-8 strings; entry i is line i + 1, its line end removed.

    Lines end in \n or \r\n and in nothing else, so that line numbers are those of any editor.
    Bytes that are no UTF-8 become U+FFFD (in Latin-1 every byte is a letter): the query that parses
    the lines sends such a line to the quarantine.

    Args:
        content: the whole file.
        name: what to call the file in errors.
        encoding: "utf-8" or "latin-1".

    Raises:
        SourceError: the file is empty, or ends inside a line, as one that was cut short does.
    """
    if not content:
        raise SourceError(f"{name}: the file is empty")
    if encoding == "utf-8":
        content = content.removeprefix(_BYTE_ORDER_MARK)
    if not content.isascii():
        content = content.decode(encoding, errors="replace").encode()
    ends = np.flatnonzero(np.frombuffer(content, dtype=np.uint8) == _NEWLINE) + 1
    if not len(ends) or ends[-1] != len(content):
        last = content[ends[-1] if len(ends) else 0 :].decode(errors="replace")
        raise SourceError(
            f"{name}, line {len(ends) + 1}: the file ends inside the line {shown(last)}, so it may "
            "have been cut short; fetch it again, or end its last line if it is whole"
        )
    offsets = np.concatenate([[0], ends]).astype(np.int64)
    lines = pa.Array.from_buffers(
        pa.large_string(), len(ends), [None, pa.py_buffer(offsets), pa.py_buffer(content)]
    )
    return pc.utf8_rtrim(lines, characters="\r\n")


def line_table(lines: pa.Array, source_file: str, *, first_line: int = 1) -> pa.Table:
    """Columns `source_file`, `line` (from `first_line` on) and `raw`, one row per line."""
    numbers = np.arange(first_line, first_line + len(lines), dtype=np.int64)
    names = pa.DictionaryArray.from_arrays(
        pa.array(np.zeros(len(lines), dtype=np.int32)), pa.array([source_file])
    )
    return pa.table({"source_file": names, "line": numbers, "raw": lines})
