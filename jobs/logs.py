"""Logs on stderr: readable lines, or JSON for a collector (TIDEMARK_LOG=json).

Every JSON line names run, job and day, and the version of the store where one is known, whoever
wrote it: also lines of libraries, warnings and progress.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

import structlog


def is_json() -> bool:
    """Whether a collector reads the lines."""
    return os.environ.get("TIDEMARK_LOG") == "json"


def configure_logs(*, quiet: bool = False) -> None:
    """Set up structlog once, at the start of a process; `quiet` leaves out what is no warning."""
    as_json = is_json()
    if as_json:
        _take_over_other_logs()
    structlog.configure(
        processors=[
            *_common(as_json),
            *(_for_json() if as_json else (_without_identity, _for_people())),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.WARNING if quiet else logging.INFO
        ),
        # The stream of the moment: whoever replaced it for a while has closed theirs.
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
    )


def _common(as_json: bool) -> list[Any]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="%H:%M:%S" if not as_json else "iso", utc=True),
    ]


def _for_json() -> tuple[Any, ...]:
    return structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str)


def _for_people() -> Any:
    return structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=0)


def _without_identity(_: Any, __: str, line: dict[str, Any]) -> dict[str, Any]:
    """A person reads one run's log and knows which; a collector mixes many."""
    return {name: value for name, value in line.items() if name not in ("run", "dag_run", "try")}


def _take_over_other_logs() -> None:
    """Lines of libraries and Python's warnings become JSON too."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_for_json()],
            foreign_pre_chain=[*_common(as_json=True), structlog.stdlib.add_logger_name],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logging.captureWarnings(True)
