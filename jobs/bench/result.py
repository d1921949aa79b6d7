"""From a bench that has run to its result, and the result as files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from jobs.bench.config import BenchConfig
from jobs.bench.entries import TRIVIAL
from jobs.bench.evaluate import Judge
from jobs.bench.evidence import BenchRows
from jobs.bench.figures import BenchResult
from jobs.bench.machine import machine, versions
from jobs.bench.markdown import markdown
from jobs.bench.page import render
from jobs.bench.protocols import SAID, Protocol, nights
from jobs.bench.runs import SystemRuns
from jobs.errors import JobError
from jobs.files import write_atomically
from jobs.report.evaluate import SLICES


def result_of(bench: BenchConfig, rows: BenchRows, found: Sequence[SystemRuns]) -> BenchResult:
    """Every figure of the bench.

    Raises:
        JobError: the bench has no day.
    """
    if bench.day is None:
        raise JobError("which day's tables? give --day, or the key `day` in the bench file")
    judge = Judge(bench, rows)
    by_name = {each.entry.name: each for each in found}
    control = by_name.get(bench.control)
    others = [by_name[name] for name in bench.also_against if name in by_name]
    is_paper = bench.protocol is Protocol.PAPER
    return BenchResult(
        name=bench.name,
        title=bench.title,
        protocol=bench.protocol,
        protocol_says=SAID[bench.protocol],
        day=bench.day,
        n_days=0 if is_paper else len(nights(rows)),
        control=bench.control,
        control_title=control.title if control else TRIVIAL.get(bench.control, bench.control),
        tolerance=bench.tolerance,
        n_resamples=bench.n_resamples,
        slice_titles=SLICES,
        machine=machine(bench.n_threads),
        versions=versions(),
        evidence_sha256=rows.fingerprint,
        systems=[judge.figures(each, control, others) for each in found],
    )


def write_result(result: BenchResult, folder: Path) -> list[Path]:
    """bench-<name>.json, .md and .html; each whole or as it was."""
    texts = {
        "json": json.dumps(result.model_dump(mode="json"), indent=1) + "\n",
        "md": markdown(result),
        "html": render(result),
    }
    paths = []
    for suffix, text in texts.items():
        path = folder / f"bench-{result.name}.{suffix}"
        write_atomically(path, text)
        paths.append(path)
    return paths
