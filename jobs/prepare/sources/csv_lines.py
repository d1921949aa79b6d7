"""A CSV file as blocks of whole lines in UTF-8, each line that holds no text told apart."""

from __future__ import annotations

import codecs
from dataclasses import dataclass

import numpy as np

from jobs.errors import SourceError
from jobs.prepare.sources.lines import shown
from jobs.prepare.sources.raw_file import RawBytes
from jobs.prepare.sources.source_form import CsvForm

BLOCK_BYTES = 1 << 22

# Why a line has no fields; the place is the code.
REASONS = (None, "invalid text", "NUL byte", "bad quoting", "wrong number of fields")
INVALID, NUL, QUOTING, COUNT = range(1, 5)
CODECS = {"utf-8": "utf-8", "latin-1": "latin-1", "windows-1252": "cp1252"}
_NEWLINE, _RETURN = 10, 13
_OTHER_FORMATS = {
    b"PAR1": "Parquet; say `format: parquet`",
    b"PK\x03\x04": "a zip; unpack it",
    b"\x1f\x8b": "gzip; give it a name that ends in .gz",
    codecs.BOM_UTF16_LE: "UTF-16; save it as UTF-8",
    codecs.BOM_UTF16_BE: "UTF-16; save it as UTF-8",
}


@dataclass(frozen=True)
class Lines:
    """Whole lines of a block.

    Attributes:
        content: the bytes as UTF-8, ended by a line end.
        original: the bytes as the file has them.
        starts, ends: (n,) first byte of each line, and the byte after its text (no line end).
        broken: (n,) place in `REASONS`: 0, or that the line holds bytes that are no text.
    """

    content: np.ndarray
    original: bytes
    starts: np.ndarray
    ends: np.ndarray
    broken: np.ndarray

    def original_from(self, line: int) -> bytes:
        """The file's own bytes from a line on."""
        if line == len(self.starts):
            return b""
        if len(self.original) == len(self.content):
            return self.original[self.starts[line] :]
        return self.original[_line_starts(np.frombuffer(self.original, np.uint8))[line] :]


def _line_starts(content: np.ndarray) -> np.ndarray:
    ends = np.flatnonzero(content == _NEWLINE) + 1
    return np.concatenate([[0], ends[:-1]])


def lines_of(original: bytes, form: CsvForm) -> Lines:
    """The lines of a block that ends with a line end."""
    text, is_text = as_utf8(original, CODECS[form.encoding])
    content = np.frombuffer(text, np.uint8)
    starts = _line_starts(content)
    ends = np.append(starts[1:], len(content)) - 1
    ends = ends - ((ends > starts) & (content[ends - 1] == _RETURN))
    broken = np.zeros(len(starts), np.int8)
    if b"\0" in text:
        broken[np.searchsorted(starts, np.flatnonzero(content == 0), "right") - 1] = NUL
    if not is_text:
        broken[_lines_that_are_no_text(original, CODECS[form.encoding])] = INVALID
    return Lines(content, original, starts, ends, broken)


def as_utf8(content: bytes, codec: str) -> tuple[bytes, bool]:
    """`content` as UTF-8, and whether all of it is text; what is none becomes U+FFFD."""
    if content.isascii():
        return content, True
    try:
        text = content.decode(codec)
    except UnicodeDecodeError:
        return content.decode(codec, errors="replace").encode(), False
    return (content if codec == "utf-8" else text.encode()), True


def _lines_that_are_no_text(original: bytes, codec: str) -> list[int]:
    bad = []
    for n, line in enumerate(original.split(b"\n")):
        try:
            line.decode(codec)
        except UnicodeDecodeError:
            bad.append(n)
    return bad


class Blocks:
    """Reads whole lines, about `BLOCK_BYTES` at a time.

    Attributes:
        line: number of the next line, from 1.
        is_last: whether the file has been read to its end.
    """

    def __init__(self, stream: RawBytes, name: str, form: CsvForm) -> None:
        self.line, self.is_last = 1, False
        self._stream, self._name, self._form = stream, name, form
        self._rest = b""

    def first(self) -> bytes:
        """The first lines, without the byte order mark.

        Raises:
            SourceError: the file is empty, or of another format or encoding.
        """
        self._rest = self._stream.read(4)
        if not self._rest:
            raise SourceError(f"{self._name}: the file is empty")
        for start, what in _OTHER_FORMATS.items():
            if self._rest.startswith(start):
                raise SourceError(f"{self._name}, line 1: expected CSV, but this is {what}")
        content = self.take(b"")
        if content.startswith(codecs.BOM_UTF8) and self._form.encoding != "utf-8":
            raise SourceError(
                f"{self._name}, line 1: starts with the mark of UTF-8; "
                "say `csv: {encoding: utf-8}`"
            )
        return content.removeprefix(codecs.BOM_UTF8)

    def take(self, unused: bytes) -> bytes:
        """The next lines, after those of the last block that could not be used yet."""
        block = self._stream.read(BLOCK_BYTES)
        self.is_last = len(block) < BLOCK_BYTES
        content = self._rest + block if not unused else unused + self._rest + block
        if self.is_last:
            self._rest = b""
            return self._ended(content)
        cut = content.rfind(b"\n") + 1
        if len(content) - cut > 4 * BLOCK_BYTES:
            raise SourceError(
                f"{self._name}, line {self.line + content.count(10, 0, cut)}: longer than "
                f"{4 * BLOCK_BYTES:,} bytes; expected CSV whose lines end in LF or CR LF"
            )
        self._rest = content[cut:]
        return content[:cut]

    def _ended(self, content: bytes) -> bytes:
        if not content or content.endswith(b"\n"):
            return content
        if self._form.open_end:
            return content + b"\n"
        last = content[content.rfind(b"\n") + 1 :]
        raise SourceError(
            f"{self._name}, line {self.line + content.count(10)}: the file ends inside the line "
            f"{shown(last.decode(CODECS[self._form.encoding], errors='replace'))}, so it may have "
            "been cut short; fetch it again, or, if it is whole, end its last line or say "
            "`csv: {open_end: true}`"
        )
