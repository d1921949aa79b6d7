"""What each stage costs at 1e6, 1e8 and 1e9 events, from the measured results beside this file.

    python benchmarks/scaling.py            # writes the tables of docs/scaling.md anew
    python benchmarks/scaling.py --check    # ends with status 1 if the page says something else

Every figure comes from a file of benchmarks/results by a formula that docs/scaling.md states. A
figure for a size past the largest that was measured is extrapolated, and marked so.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
PAGE = Path(__file__).resolve().parents[1] / "docs" / "scaling.md"
BEGIN, END = "<!-- made by benchmarks/scaling.py: {} -->", "<!-- end -->"
SIZES = (10**6, 10**8, 10**9)
USER_EVENTS, ITEM_EVENTS = 10, 100  # events of a user, of an item
NEW_SHARE = 0.01  # of events and items that a night has not seen
SCORED_SHARE = 0.01  # of events that a night scores: its valid and test rows
EPOCHS = 20  # of a fit from scratch
FACTORS, LLM = 64, 576  # lengths of a factor and of an item's vector
MARK = "~"  # before an extrapolated figure


@cache
def result(name: str) -> Any:
    """A file of benchmarks/results."""
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def slope(low: tuple[float, float], high: tuple[float, float]) -> float:
    """Of the line through two measured points."""
    return (high[1] - low[1]) / (high[0] - low[0])


@dataclass(frozen=True)
class Size:
    """A warehouse of so many events, and what it then has of the rest."""

    n_events: int

    @property
    def n_users(self) -> int:
        """One for every ten events."""
        return self.n_events // USER_EVENTS

    @property
    def n_items(self) -> int:
        """One for every hundred events."""
        return self.n_events // ITEM_EVENTS


@dataclass(frozen=True)
class Stage:
    """One row of the table.

    Attributes:
        name: job, and what of it.
        source: the file of results that its figures are from.
        measured: the most of `unit` that was measured.
        unit: what its cost grows with.
        amount: how many of them a night has.
        cpu_s: CPU seconds of one core for so many.
        memory_gb: most memory of its process; None: not what limits it.
    """

    name: str
    source: str
    measured: float
    unit: str
    amount: Callable[[Size], float]
    cpu_s: Callable[[Size], float]
    memory_gb: Callable[[Size], float] | None = None


# -- data preparation ------------------------------------------------------------------------------


def of_sample(job: str, figure: str) -> list[tuple[float, float]]:
    """(events, figure) of a job on the sample at rising scales."""
    runs = result("stage-costs.json")["sample"]
    return [(each["n_events"], each["costs"][job][figure]) for each in runs]


def per_event(job: str, figure: str = "cpu_s") -> float:
    """Slope between the two largest samples: what a start costs is left out."""
    return slope(*of_sample(job, figure)[-2:])


def of_profiles(figure: str) -> float:
    """Slope of the job user_profiles."""
    low, high = (
        (each["n_events"], each["costs"]["user_profiles"][figure])
        for each in result("stage-costs.json")["profiles"]
    )
    return slope(low, high)


def all_events(size: Size) -> float:
    """The whole table."""
    return size.n_events


def new_events(size: Size) -> float:
    """What came in since the night before."""
    return NEW_SHARE * size.n_events


def sampled() -> Iterator[Stage]:
    """What `stage_costs.py` measures on the sample at rising scales."""
    most = max(events for events, _ in of_sample("ingest", "cpu_s"))
    ingest = per_event("ingest")
    yield Stage(
        "`ingest`, the first night",
        "stage-costs.json",
        most,
        "events",
        all_events,
        lambda size: ingest * size.n_events,
    )
    yield Stage(
        "`ingest`, a later night",
        "stage-costs.json",
        most,
        "new events",
        new_events,
        lambda size: ingest * new_events(size),
    )
    features = per_event("features")
    yield Stage(
        "`features`",
        "stage-costs.json",
        most,
        "events",
        all_events,
        lambda size: features * size.n_events,
    )


def preparation() -> Iterator[Stage]:
    """Raw files to tables. What nobody has measured yet has no row."""
    costs = result("stage-costs.json") if (RESULTS / "stage-costs.json").is_file() else {}
    if costs.get("sample"):
        yield from sampled()
    splits = result("prepare-splits-100m.json")
    rows = splits["n_rows"]
    yield Stage(
        "`splits`",
        "prepare-splits-100m.json",
        rows,
        "events",
        all_events,
        lambda size: splits["tidemark"]["cpu_s"] / rows * size.n_events,
        lambda size: splits["tidemark"]["peak_mb"] / 1000,
    )
    yield Stage(
        "its checks",
        "prepare-splits-100m.json",
        rows,
        "events",
        all_events,
        lambda size: splits["checks"]["cpu_s"] / rows * size.n_events,
        lambda size: splits["checks"]["peak_mb"] / 1000,
    )
    if costs.get("profiles"):
        yield profiles()


def profiles() -> Stage:
    """The job user_profiles, on random events over 200,000 items."""
    measured = max(each["n_events"] for each in result("stage-costs.json")["profiles"])
    seconds, megabytes = of_profiles("cpu_s"), of_profiles("peak_mb")
    return Stage(
        "`user_profiles`",
        "stage-costs.json",
        measured,
        "events",
        all_events,
        lambda size: seconds * size.n_events,
        lambda size: megabytes * size.n_events / 1000,
    )


# -- models ----------------------------------------------------------------------------------------


def points(curve: str, size: str, figure: str) -> tuple[tuple[float, float], tuple[float, float]]:
    """Smallest and largest point of a curve of alignment."""
    rows = result("align-scale.json")["curves"][curve]
    return (rows[0][size], rows[0][figure]), (rows[-1][size], rows[-1][figure])


def sum_of_slopes(size: Size, figure: str) -> float:
    """What grows with events, users and items, each by its own curve."""
    return (
        slope(*points("events", "n_events", figure)) * size.n_events
        + slope(*points("users", "n_users", figure)) * size.n_users
        + slope(*points("items", "n_items", figure)) * size.n_items
    )


def missed_by() -> float:
    """Measured over modelled epoch of the largest run, which the slopes have not seen."""
    (largest,) = result("align-scale.json")["curves"]["largest"]
    modelled = (
        slope(*points("events", "n_events", "epoch_cpu_s")) * largest["n_events"]
        + slope(*points("users", "n_users", "epoch_cpu_s")) * largest["n_users"]
        + slope(*points("items", "n_items", "epoch_cpu_s")) * largest["n_items"]
    )
    return float(largest["epoch_cpu_s"] / modelled)


def models() -> Iterator[Stage]:
    """The LLM and the factors."""
    distil = result("distil-cpu.json")["figures"]["token_trees"]["items_per_cpu_s"]["median"]
    titles = result("distil-cpu.json")["titles"]
    yield Stage(
        "`distil`, every item",
        "distil-cpu.json",
        titles,
        "items",
        lambda size: size.n_items,
        lambda size: size.n_items / distil,
    )
    yield Stage(
        "`distil`, a later night",
        "distil-cpu.json",
        titles,
        "new items",
        lambda size: NEW_SHARE * size.n_items,
        lambda size: NEW_SHARE * size.n_items / distil,
    )
    (largest,) = result("align-scale.json")["curves"]["largest"]
    factor = missed_by()
    yield Stage(
        f"`align`, {EPOCHS} epochs",
        "align-scale.json",
        largest["n_events"],
        "events",
        all_events,
        lambda size: EPOCHS * factor * sum_of_slopes(size, "epoch_cpu_s"),
        lambda size: sum_of_slopes(size, "peak_mb") / 1000,
    )
    stream = result("packing-cpu.json")["figures"]["stream"]
    yield Stage(
        "`adapt`, one epoch on a CPU",
        "packing-cpu.json",
        result("adapt_cpu.json")["training"]["n_train_rows"],
        "events",
        all_events,
        lambda size: stream["train_ms_per_row"]["median"] / 1000 * size.n_events,
    )
    rows = stream["valid_test_tokens"]["median"] / stream["valid_test_tokens_per_row"]["median"]
    yield Stage(
        "`score` by the LLM, on a CPU",
        "packing-cpu.json",
        round(rows),
        "scored rows",
        lambda size: SCORED_SHARE * size.n_events,
        lambda size: stream["score_ms_per_row"]["median"] / 1000 * SCORED_SHARE * size.n_events,
    )


# -- the store -------------------------------------------------------------------------------------


def numbers(size: Size) -> float:
    """Of all vectors of a version: factors of users and items, and the items' embeddings."""
    return size.n_users * FACTORS + size.n_items * (FACTORS + LLM)


def store() -> Iterator[Stage]:
    """Publish and open."""
    lance = result("store-against-lance.json")
    measured = lance["rows"] * lance["dim"]
    writing = lance["figures"]["store"]["write_cpu_s"]["median"] / measured
    yield Stage(
        "`publish`: tables, without indexes and gates",
        "store-against-lance.json",
        measured,
        "numbers in vectors",
        numbers,
        lambda size: writing * numbers(size),
    )
    lookups = result("store-lookups.json")
    opening = lookups["figures"]["open_verified_cpu_s"]["median"]
    per_number = opening / (lookups["rows"] * lookups["dim"])
    yield Stage(
        "opening a version, every byte verified",
        "store-lookups.json",
        lookups["rows"] * lookups["dim"],
        "numbers in vectors",
        numbers,
        lambda size: per_number * numbers(size),
    )


def bytes_of_a_version(size: Size) -> float:
    """On disk, by the bytes of the measured one."""
    lance = result("store-against-lance.json")
    measured = lance["figures"]["store"]["bytes"]["median"] / (lance["rows"] * lance["dim"])
    return float(measured * numbers(size))


# -- the page --------------------------------------------------------------------------------------


def seconds_said(seconds: float) -> str:
    """In the unit that a person would take."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{_three(seconds / length)} {unit}"
    return f"{_three(seconds)} s"


def _three(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}" if value >= 0.1 else f"{value:.2g}"


def gigabytes_said(value: float) -> str:
    """GB, or TB."""
    return f"{_three(value / 1000)} TB" if value >= 1000 else f"{_three(value)} GB"


def _marked(stage: Stage, size: Size, text: str) -> str:
    return text if stage.amount(size) <= stage.measured else f"{MARK}{text}"


def stages() -> list[Stage]:
    """All rows, in the order of a night."""
    return [*preparation(), *models(), *store()]


def table_of_times() -> str:
    """CPU time of one core for each stage and size."""
    lines = [
        "| stage | grows with | measured up to | 1e6 events | 1e8 events | 1e9 events | from |",
        "|---|---|---|---|---|---|---|",
    ]
    for stage in stages():
        cells = [_marked(stage, Size(n), seconds_said(stage.cpu_s(Size(n)))) for n in SIZES]
        said = f"| {stage.name} | {stage.unit} | {stage.measured:,.0f} | "
        lines.append(f"{said}{' | '.join(cells)} | `{stage.source}` |")
    return "\n".join(lines)


def table_of_sizes() -> str:
    """Memory of the stages that hold much, and bytes of a version."""
    lines = ["| what | 1e6 events | 1e8 events | 1e9 events |", "|---|---|---|---|"]
    for stage in stages():
        if stage.memory_gb is not None:
            cells = [
                _marked(stage, Size(n), gigabytes_said(stage.memory_gb(Size(n)))) for n in SIZES
            ]
            lines.append(f"| memory of {stage.name} | {' | '.join(cells)} |")
    measured = 128_000_000
    cells = [
        ("" if numbers(Size(n)) <= measured else MARK)
        + gigabytes_said(bytes_of_a_version(Size(n)) / 1e9)
        for n in SIZES
    ]
    lines.append(f"| vectors of one version on disk | {' | '.join(cells)} |")
    return "\n".join(lines)


def remade(page: str) -> str:
    """The page with its tables made anew."""
    for name, table in (("times", table_of_times()), ("sizes", table_of_sizes())):
        begin = BEGIN.format(name)
        before, _, rest = page.partition(begin)
        _, _, after = rest.partition(END)
        page = f"{before}{begin}\n\n{table}\n\n{END}{after}"
    return page


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="The tables of docs/scaling.md.")
    parser.add_argument("--check", action="store_true", help="change nothing; 1 if it would")
    asked = parser.parse_args()
    page = PAGE.read_text(encoding="utf-8")
    made = remade(page)
    if asked.check:
        sys.exit(None if made == page else "docs/scaling.md is not what benchmarks/scaling.py says")
    PAGE.write_text(made, encoding="utf-8")
    print(f"{table_of_times()}\n\n{table_of_sizes()}\n\nalign missed by {missed_by():.2f}")


if __name__ == "__main__":
    main()
