"""Raw lines in messages."""

from __future__ import annotations

_SHOWN = 80


def shown(text: str) -> str:
    """`text` as an error message quotes it: escaped, cut to one readable length."""
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")
