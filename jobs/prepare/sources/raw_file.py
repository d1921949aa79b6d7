"""Which files a source consists of, when each was known, and their bytes."""

from __future__ import annotations

import gzip
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from pathlib import Path, PurePosixPath
from typing import IO

from jobs.errors import SourceError
from jobs.prepare.sources.mapping_form import CatalogueFiles, Mapping
from jobs.prepare.sources.source_form import DAY, Deliveries, Files

MAX_MEMBER_BYTES = 1 << 30  # 40 times MovieLens-1M; a zip that promises more is not the archive
_FILES_OF_DAY = 256  # of one delivery, so that no other delivery moves a file's ordinal
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


@dataclass(frozen=True)
class RawFile:
    """One file of a source.

    Attributes:
        path: where it lies; of a member of a zip, the zip.
        name: relative to the root, as tables quote it.
        ordinal: its place among the source's files. With `{day}` in the names it follows from the
            day and the file's place among those of the day, so another delivery never moves it.
        known_from: the midnight (UTC) that ends the day in its name; None without one.
        member: name inside the zip, if the source is one.
    """

    path: Path
    name: str
    ordinal: int
    known_from: datetime | None
    member: str | None = None

    @property
    def shown(self) -> str:
        """The file as errors name it."""
        return f"{self.path}:{self.member}" if self.member else str(self.path)


# -- which files -----------------------------------------------------------------------------------


def raw_files(mapping: Mapping, root: Path, before: date) -> tuple[RawFile, ...]:
    """Files of events that are known on `before` (delivered earlier than it), by ordinal.

    Raises:
        SourceError: there is none, a promised delivery is missing, a name has no day where one is
            expected, or a link leads out of the root.
    """
    promised = mapping.events.deliveries
    if promised and before <= promised.first:
        raise SourceError(
            f"{root}: nothing was delivered before {before}; the first delivery is that of "
            f"{promised.first}, so the first day that can be run is "
            f"{promised.first + timedelta(days=1)}"
        )
    files = files_of(mapping.events, root, mapping.domain)
    known = tuple(file for file in files if _is_known(file, before))
    if promised:
        _refuse_missing(mapping.events, promised, root, known, before)
    if not known and files:
        first = min(file.known_from for file in files if file.known_from).date()
        raise SourceError(
            f"{root}: nothing was delivered before {before}; "
            f"the first day that can be run is {first}"
        )
    return known


def catalogue_files(mapping: Mapping, root: Path, before: date) -> tuple[RawFile, ...]:
    """Files of items that are known on `before`, by ordinal; none with titles from events.

    Raises:
        SourceError: no file of items is known on `before`.
    """
    if not isinstance(mapping.items, CatalogueFiles):
        return ()
    files = files_of(mapping.items, root, mapping.domain)
    known = tuple(file for file in files if _is_known(file, before))
    if not known:
        raise SourceError(
            f"{root}: no delivery of items before {before}; the first is {files[0].name}"
        )
    return known


def _is_known(file: RawFile, before: date) -> bool:
    return file.known_from is None or file.known_from.date() <= before


def _refuse_missing(
    events: Files, promised: Deliveries, root: Path, known: tuple[RawFile, ...], before: date
) -> None:
    last = min(promised.last or before, before - timedelta(days=1))
    n_expected = (last - promised.first).days + 1
    delivered = {file.known_from.date() for file in known if file.known_from}
    expected = [promised.first + timedelta(days=n) for n in range(n_expected)]
    if missing := [day for day in expected if day + timedelta(days=1) not in delivered]:
        name = events.files[0].replace(DAY, str(missing[0]))
        raise SourceError(
            f"{root / name}: this delivery is missing ({len(missing)} in all); one is promised for "
            f"each day from {promised.first}" + (f" to {promised.last}" if promised.last else "")
        )


def files_of(files: Files, root: Path, domain: str) -> tuple[RawFile, ...]:
    """All files that the patterns of `files` name below `root`, by ordinal.

    Raises:
        SourceError: a pattern names no file, a link leads out of the root, or a name has no day
            where the pattern says one.
    """
    if root.is_file():
        return tuple(_member(root, name, n, domain) for n, name in enumerate(files.files))
    found: dict[str, date | None] = {}
    for pattern in files.files:
        for path in _matching(root, pattern):
            found.setdefault(path.relative_to(root).as_posix(), _day_of(path, root, pattern))
    by_day: dict[date, int] = {}
    numbered = []
    for n, (name, day) in enumerate(sorted(found.items(), key=lambda f: (str(f[1] or ""), f[0]))):
        place = n if day is None else _ordinal_of_day(root / name, day, by_day)
        numbered.append(RawFile(root / name, name, place, _end_of(day)))
    return tuple(numbered)


def _ordinal_of_day(path: Path, day: date, by_day: dict[date, int]) -> int:
    place = by_day[day] = by_day.get(day, -1) + 1
    if place >= _FILES_OF_DAY:
        raise SourceError(
            f"{path}: more than {_FILES_OF_DAY} files of {day}; join them, or name folders by day"
        )
    return (day - date(1970, 1, 1)).days * _FILES_OF_DAY + place


def _end_of(day: date | None) -> datetime | None:
    return datetime.combine(day, time()) + timedelta(days=1) if day else None


def _matching(root: Path, pattern: str) -> list[Path]:
    glob = pattern.replace(DAY, "*")
    if glob == pattern and not set("*?[") & set(pattern):
        found = [root / pattern] if (root / pattern).exists() else []
    else:
        found = sorted(path for path in root.glob(glob) if path.is_file())
    if not found:
        raise SourceError(
            f"{root / pattern}: cannot be read (no such file); see `files` of the mapping"
        )
    inside = root.resolve()
    for path in found:
        if not path.resolve().is_relative_to(inside):
            raise SourceError(f"{path}: leads out of {root}; put the file itself there")
    return found


def _day_of(path: Path, root: Path, pattern: str) -> date | None:
    if DAY not in pattern:
        return None
    before, after = (_glob_regex(part) for part in pattern.split(DAY))
    form = re.compile(f"{before}({_DATE.pattern}){after}", re.DOTALL)
    match = form.fullmatch(path.relative_to(root).as_posix())
    try:
        return date.fromisoformat(match[1] if match else "")
    except ValueError:
        raise SourceError(
            f"{path}: a delivery's name holds its day; expected "
            f"{pattern.replace(DAY, 'YYYY-MM-DD')}"
        ) from None


def _glob_regex(part: str) -> str:
    return re.escape(part).replace(r"\*\*/", "(?:.*/)?").replace(r"\*", "[^/]*").replace(r"\?", ".")


# -- members of a zip ------------------------------------------------------------------------------


def _member(archive: Path, name: str, ordinal: int, domain: str) -> RawFile:
    with _opened_zip(archive) as opened:
        info = _info_of(opened, archive, name, domain)
    return RawFile(archive, name, ordinal, None, info.filename)


@contextmanager
def _opened_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise SourceError(
            f"{path}: expected a mapping (.yaml, .toml) or the MovieLens-1M zip, but {said(error)}"
        ) from error
    with archive:
        yield archive


def _info_of(opened: zipfile.ZipFile, archive: Path, name: str, domain: str) -> zipfile.ZipInfo:
    places = (PurePosixPath(name), PurePosixPath(domain, name))
    found = [info for info in opened.infolist() if PurePosixPath(info.filename) in places]
    if len(found) != 1:
        raise SourceError(
            f"{archive}: expected one member {domain}/{name} (or {name}), found {len(found)} "
            f"among {len(opened.namelist())} members"
        )
    return found[0]


def said(error: Exception) -> str:
    """The reason that an error of reading gives, in one line."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return (reason.splitlines() or [type(error).__name__])[0].lower()


# -- bytes -----------------------------------------------------------------------------------------


class RawBytes:
    """The bytes of a file, a block at a time; what goes wrong is said in one line."""

    def __init__(self, file: RawFile, stream: IO[bytes] | gzip.GzipFile) -> None:
        self._file, self._stream = file, stream

    def read(self, n: int) -> bytes:
        """Up to `n` bytes; fewer only at the end.

        Raises:
            SourceError: the file is damaged or cannot be read.
        """
        try:
            return self._stream.read(n)
        except (OSError, EOFError, RuntimeError, ValueError, zipfile.BadZipFile, zlib.error) as e:
            what = "unpacked" if self._file.member or _is_gzip(self._file) else "read"
            raise SourceError(
                f"{self._file.shown}: cannot be {what} ({said(e)}); fetch it again"
            ) from e


def _is_gzip(file: RawFile) -> bool:
    return file.member is None and file.name.endswith(".gz")


@contextmanager
def opened(file: RawFile, *, max_member_bytes: int | None = None) -> Iterator[RawBytes]:
    """The bytes of a file as they were written: unpacked, if its name ends in .gz or it is zipped.

    Raises:
        SourceError: it cannot be opened, or is a member of a zip that unpacks to too much.
    """
    if file.member:
        with (
            _opened_zip(file.path) as archive,
            _opened_member(archive, file, max_member_bytes or MAX_MEMBER_BYTES) as member,
        ):
            yield RawBytes(file, member)
        return
    try:
        plain = file.path.open("rb")
    except OSError as error:
        raise SourceError(f"{file.shown}: cannot be read ({error.strerror})") from error
    with plain, gzip.GzipFile(fileobj=plain) if _is_gzip(file) else nullcontext(plain) as stream:
        yield RawBytes(file, stream)


def _opened_member(archive: zipfile.ZipFile, file: RawFile, max_bytes: int) -> IO[bytes]:
    assert file.member
    info = archive.getinfo(file.member)
    if info.file_size > max_bytes:
        raise SourceError(
            f"{file.path}: member {info.filename} unpacks to {info.file_size:,} bytes, more "
            f"than the {max_bytes:,} that are read; this is not the MovieLens-1M archive"
        )
    try:
        return archive.open(info)  # reading ends at the size that was just checked
    except (OSError, RuntimeError, ValueError, zipfile.BadZipFile) as error:
        raise SourceError(
            f"{file.shown}: cannot be unpacked ({said(error)}); fetch the zip again"
        ) from error
