"""What a person is told when a command fails: one line; a defect also shows where it is."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import structlog

from embedding_store.errors import StoreError
from jobs.errors import AlreadyRunning, JobError
from jobs.home import Home
from jobs.logs import is_json

EXIT_FAILED, EXIT_INTERRUPTED, EXIT_BUSY = 1, 130, 75  # 75: EX_TEMPFAIL, try again later
_FULL = (errno.ENOSPC, errno.EDQUOT)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
_NO_FOLDER = (errno.ENOTDIR, errno.EEXIST)
# Of libraries whose errors carry no number.
_FULL_IN_WORDS = ("No space left on device", "Disk quota exceeded", "os error 28")
_NO_MEMORY = ("OutOfMemoryError", "OutOfMemoryException")  # torch, duckdb


def told(who: str, error: BaseException, home: Home) -> int:
    """Say on stderr what failed, on what and what to do; returns the exit status.

    Args:
        who: the command: a job and its day.
        error: what ended it.
        home: where the state is.
    """
    if isinstance(error, KeyboardInterrupt):
        _say(who, "interrupted; outputs are as the last good run left them", error)
        return EXIT_INTERRUPTED
    plain = in_plain_words(error, home)
    if plain is None:
        _show_defect(error)
        plain = _of_defect(error)
    _say(who, plain, error)
    return EXIT_BUSY if isinstance(error, AlreadyRunning) else EXIT_FAILED


def one_line(error: BaseException, home: Home) -> str:
    """The failure in one line, for a record of it."""
    return in_plain_words(error, home) or f"{type(error).__name__}: {_first_line(error)}"


def in_plain_words(error: BaseException, home: Home) -> str | None:
    """One line for a failure that is no defect of the code; None for one that is."""
    if isinstance(error, (JobError, StoreError)):
        return str(error)
    if isinstance(error.__cause__, (JobError, StoreError)):
        return str(error.__cause__)
    for each in _causes(error):
        if said := _of_machine(each, home):
            return said
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what led to it, itself first."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__ or (None if found.__suppress_context__ else found.__context__)


def _of_machine(error: BaseException, home: Home) -> str | None:
    number = getattr(error, "errno", None)
    place = getattr(error, "filename", None) or home.root
    if number in _FULL or any(words in str(error) for words in _FULL_IN_WORDS):
        return (
            f"no space left where {place} lies; nothing half-written counts as an output. Free "
            f"some, then run this again: {home.cache} may be removed at any time, and "
            "`embedding-store gc` removes versions that nobody needs"
        )
    if number in _FORBIDDEN:
        what = os.strerror(number) if number else "forbidden"
        if not _is_of_home(place, home):
            return f"{place}: {what}; give user {os.getuid()} the right to it, then run this again"
        return (
            f"{place}: {what}; user {os.getuid()} needs the right to read and write below "
            f"TIDEMARK_HOME={home.root}: change its owner, or name another folder"
        )
    if number in _NO_FOLDER and _is_of_home(place, home):
        return f"{place} is no folder; name another TIDEMARK_HOME, or move the file away"
    if number == errno.EMFILE:
        return "too many open files; raise the limit (`ulimit -n 4096`), then run this again"
    if isinstance(error, MemoryError) or type(error).__name__ in _NO_MEMORY:
        return (
            f"not enough memory ({_first_line(error)}); set TIDEMARK_MEMORY_LIMIT for DuckDB, a "
            "lower --batch-tokens for a job that reads text, or give the job a larger machine"
        )
    return None


def _is_of_home(place: object, home: Home) -> bool:
    path = Path(str(place))
    return path.is_relative_to(home.root) or home.root.is_relative_to(path)


def _of_defect(error: BaseException) -> str:
    return (
        f"{type(error).__name__}: {_first_line(error)}; {_on_what(error)}this is a defect of "
        "Tidemark, or input that it should have refused. Outputs are as the last good run left "
        "them. Report it with the lines above; the same command tries again"
    )


def _on_what(error: BaseException) -> str:
    """What a job had read, which `jobs.job.Run` notes on whatever ends it."""
    return "".join(f"{note}; " for note in getattr(error, "__notes__", ())[:1])


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else "no message"


def _show_defect(error: BaseException) -> None:
    if is_json():
        structlog.get_logger().error("defect", exc_info=error)
    else:
        traceback.print_exception(error, file=sys.stderr)


def _say(who: str, what: str, error: BaseException) -> None:
    if is_json():
        structlog.get_logger().error("failed", who=who, says=what, error=type(error).__name__)
    else:
        sys.stderr.write(f"{who}: {what}\n")
