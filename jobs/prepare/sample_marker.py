"""The file that says that a folder is a sample warehouse, and which deliveries it promises."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

from jobs.errors import SourceError

MARKER = "sample.json"


def read_marker(folder: Path) -> dict[str, Any]:
    """What `sample.json` says of the folder: parameters, first and last delivery.

    Raises:
        SourceError: it cannot be read or does not say so.
    """
    path = folder / MARKER
    try:
        marker = json.loads(path.read_bytes())
        for key in ("first_delivery", "last_delivery"):
            date.fromisoformat(marker[key])
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise SourceError(
            f"{path}: expected JSON with first_delivery and last_delivery as YYYY-MM-DD ({error!r})"
        ) from error
    return dict(marker)
