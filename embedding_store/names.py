"""Which names the store takes. All of them end up in file names and in SQL."""

from __future__ import annotations

import re
from datetime import date

from embedding_store.errors import BadInput

_TABLE = re.compile(r"[a-z][a-z0-9_]{0,62}")
_ALIAS = re.compile(r"[a-z][a-z0-9_-]{0,62}")
# No dot: `intents/<run_key>.2.json` is the second intent of a run, not the first of another.
_RUN_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_SHOWN = 60


def _checked(name: object, pattern: re.Pattern[str], kind: str) -> str:
    if isinstance(name, str) and pattern.fullmatch(name):
        return name
    shown = repr(name)
    shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}... ({len(shown)} characters)"
    raise BadInput(f"{kind} {shown} does not match {pattern.pattern}")


def checked_table(name: object) -> str:
    """`name`, if a table may have it: a plain SQL name."""
    return _checked(name, _TABLE, "table name")


def checked_alias(name: object) -> str:
    """`name`, if an alias may have it; never a number, which names a version."""
    return _checked(name, _ALIAS, "alias")


def checked_run_key(name: object) -> str:
    """`name`, if a run may have it as its key."""
    return _checked(name, _RUN_KEY, "run_key")


def checked_file(name: object) -> str:
    """`name`, if an extra file may have it: one path component that starts with no dot."""
    return _checked(name, _FILE, "file name")


def checked_day(day: object) -> str:
    """`day` as YYYY-MM-DD."""
    try:
        return str(day if isinstance(day, date) else date.fromisoformat(str(day)))
    except ValueError:
        raise BadInput(f"day {day!r} is not a date; write it as YYYY-MM-DD") from None


def checked_text(text: object, kind: str) -> str:
    """`text`, if it says something: a reason, an actor."""
    if not isinstance(text, str) or not text.strip():
        raise BadInput(f"{kind} {text!r} is empty; it is kept for those who ask later")
    return text
