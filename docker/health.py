"""Ask Airflow's API server how a component does; for health checks: a second, not ten of imports.

Usage: health.py COMPONENT, one of metadatabase, scheduler, dag_processor, triggerer.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.request


def complaint(component: str, url: str) -> str | None:
    """What is wrong with a component; None if its heartbeat is fresh."""
    try:
        with urllib.request.urlopen(f"{url}/api/v2/monitor/health", timeout=8) as answer:
            said = json.load(answer)
    except (OSError, ValueError) as error:
        return f"{url} does not answer: {error}"
    found = said.get(component)
    if not isinstance(found, dict):
        return f"{url} knows no {component}; it knows {', '.join(said)}"
    status = found.get("status")
    return None if status == "healthy" else f"{component} is {status or 'not there'}"


if __name__ == "__main__":
    sys.exit(complaint(sys.argv[1], os.environ.get("AIRFLOW_URL", "http://localhost:8080")))
