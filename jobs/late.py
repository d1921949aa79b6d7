"""What happens when a run misses its deadline: Airflow's triggerer calls `tell`. Standard library.

The line goes to the triggerer's log; where TIDEMARK_ALERT_URL names an HTTP address, also there.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import os
import urllib.request
from collections.abc import Mapping
from typing import Any

_log = logging.getLogger(__name__)
VARIABLE = "TIDEMARK_ALERT_URL"
_PATIENCE_S = 10.0


def message(context: Mapping[str, Any], do: str) -> dict[str, Any]:
    """What is late, since when, and what to do.

    Args:
        context: as Airflow gives it to a deadline's callback: the run, and the deadline.
        do: what to do, in one line.
    """
    run, deadline = context.get("dag_run", {}), context.get("deadline", {})
    return {
        "alert": "deadline missed",
        "dag": run.get("dag_id"),
        "run": run.get("dag_run_id"),
        "day": run.get("partition_key") or str(run.get("logical_date") or "")[:10] or None,
        "state": run.get("state"),
        "deadline": str(deadline.get("deadline_time")),
        "do": do,
    }


async def tell(*, context: Mapping[str, Any], do: str) -> None:
    """Say that a run is late; a receiver that does not answer stops nothing."""
    said = message(context, do)
    _log.error("deadline missed: %s", json.dumps(said))
    if url := os.environ.get(VARIABLE):
        await asyncio.to_thread(_post, url, said)


def _post(url: str, said: Mapping[str, Any]) -> None:
    if not url.startswith(("http://", "https://")):
        _log.error("%s is no http address: nobody was told", VARIABLE)
        return
    request = urllib.request.Request(
        url, data=json.dumps(said).encode(), headers={"Content-Type": "application/json"}
    )
    try:
        urllib.request.urlopen(request, timeout=_PATIENCE_S).close()
    except (OSError, ValueError, http.client.HTTPException) as error:
        _log.error("%s did not take the alert: %s", VARIABLE, error)
