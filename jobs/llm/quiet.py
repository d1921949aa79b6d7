"""Keeps the chatter of transformers out of a task's log."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers.utils import logging

transformers_logging: Any = logging  # its functions carry no types


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Errors only and no progress bars inside; the caller's settings afterwards."""
    verbosity = transformers_logging.get_verbosity()
    had_bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if had_bars:
            transformers_logging.enable_progress_bar()
