"""Values as a mapping file writes them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

_WORDS = ("true", "false", "yes", "no", "on", "off", "null", "y", "n")


def scalar(text: str) -> str:
    """A YAML scalar that reads back as exactly this text, for every reader of YAML."""
    is_plain = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]*", text) is not None
    return text if is_plain and text.lower() not in _WORDS else json.dumps(text, ensure_ascii=False)


def listed(values: Sequence[str]) -> str:
    """A list of texts."""
    return f"[{', '.join(json.dumps(value, ensure_ascii=False) for value in values)}]"
