"""Logs on stderr: readable lines, or JSON for a collector (TIDEMARK_LOG=json)."""

from __future__ import annotations

import logging
import os
import sys

import structlog


def configure_logs(*, quiet: bool = False) -> None:
    """Set up structlog once, at the start of a process; `quiet` leaves out what is no warning."""
    as_json = os.environ.get("TIDEMARK_LOG") == "json"
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S" if not as_json else "iso", utc=True),
            structlog.processors.JSONRenderer()
            if as_json
            else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=0),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.WARNING if quiet else logging.INFO
        ),
        # The stream of the moment: whoever replaced it for a while has closed theirs.
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
    )
