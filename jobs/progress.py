"""Progress of long work: a bar on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import structlog
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from jobs.logs import is_json

_EVERY_S = 5.0


class Advance(Protocol):
    """Call with the number of units just done and, if you like, figures to show."""

    def __call__(self, n: int, **figures: float) -> None:
        """`n` more units are done."""


def _shown(figures: dict[str, float]) -> str:
    return " ".join(f"{name} {value:.4g}" for name, value in figures.items())


@contextmanager
def progress(title: str, total: int, unit: str) -> Iterator[Advance]:
    """Shows how much of `total` is done, the rate, the time left and the figures given."""
    show = _bar if sys.stderr.isatty() else _lines
    with show(title, total, unit) as advance:
        yield advance


@contextmanager
def _bar(title: str, total: int, unit: str) -> Iterator[Advance]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        task = bars.add_task(title, total=total, figures="")

        def advance(n: int, **figures: float) -> None:
            bars.update(task, advance=n, figures=_shown(figures))

        yield advance


@contextmanager
def _lines(title: str, total: int, unit: str) -> Iterator[Advance]:
    started = said = time.monotonic()
    done = 0

    def advance(n: int, **figures: float) -> None:
        nonlocal done, said
        done += n
        now = time.monotonic()
        if done < total and now - said < _EVERY_S:
            return
        said = now
        rate = done / max(now - started, 1e-9)
        left = (total - done) / max(rate, 1e-9)
        if is_json():
            counts = {"what": title, "done": done, "total": total, "unit": unit}
            speed = {"per_s": round(rate, 1), "left_s": round(left)}
            structlog.get_logger().info("progress", **{**figures, **counts, **speed})
            return
        sys.stderr.write(
            f"{title}: {done:,}/{total:,} {unit}, {rate:,.0f} {unit}/s, "
            f"{left:.0f} s left {_shown(figures)}".rstrip()
            + "\n"
        )
        sys.stderr.flush()

    yield advance
