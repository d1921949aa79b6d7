"""A bench as Markdown, and the same table on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rich.console import Console
from rich.table import Table

from jobs.bench import cells
from jobs.bench.figures import BenchResult, SystemFigures

Cell = Callable[[SystemFigures], str]

_ON_A_TERMINAL = ("valid AUC", "test AUC", "test UAUC", "CPU s", "MiB")  # all that fits there


def main_columns(result: BenchResult) -> dict[str, Cell]:
    """Heading and cell of the one table."""
    return {
        "seeds": lambda s: str(len(s.seeds)),
        "valid AUC": lambda s: cells.auc_of(s.find("valid")),
        "valid UAUC": lambda s: cells.uauc_of(s.find("valid")),
        "test AUC": lambda s: cells.spread(f.auc if (f := s.find("test")) else None),
        "test UAUC": lambda s: cells.spread(f.uauc if (f := s.find("test")) else None),
        "NDCG": lambda s: cells.number(f.ndcg.mean if (f := s.find("test")) and f.ndcg else None),
        "warm": lambda s: cells.auc_of(s.find("test", "warm")),
        "cold": lambda s: cells.auc_of(s.find("test", "cold")),
        "W2": lambda s: cells.auc_of(s.find("test", "warm_3")),
        "published": cells.published,
        "from it": lambda s: cells.from_published(s, result.tolerance),
        "CPU s": lambda s: cells.seconds(s.cost, "cpu_s"),
        "s": lambda s: cells.seconds(s.cost, "wall_s"),
        "MiB": lambda s: cells.mebibytes(s.cost),
        "tokens": lambda s: cells.tokens(s.cost),
    }


def difference_columns() -> dict[str, Cell]:
    """Heading and cell of the table of differences from the control."""

    def cell(slice_name: str, metric: str) -> Cell:
        def said(system: SystemFigures) -> str:
            found = system.difference("test", slice_name)
            return cells.difference(getattr(found, metric) if found else None)

        return said

    return {
        "AUC": cell("all", "auc"),
        "UAUC": cell("all", "uauc"),
        "seeds above": cells.seeds_won,
        "AUC, cold users": cell("cold_user", "auc"),
        "AUC, cold items": cell("cold_item", "auc"),
    }


def markdown(result: BenchResult) -> str:
    """The whole result as one page of Markdown."""
    return "\n".join(_lines(result)) + "\n"


def _lines(result: BenchResult) -> Iterator[str]:
    yield f"# {result.title}"
    yield ""
    yield f"Protocol **{result.protocol}**: {result.protocol_says}"
    if result.n_days:
        yield (
            f"Test rows lie on {result.n_days} days; a system is fitted anew on each day unless it "
            "says so."
        )
    yield ""
    yield from _table(result.systems, main_columns(result))
    yield ""
    yield explanation(result)
    yield ""
    against = [each for each in result.systems if each.against_control]
    if against:
        yield f"## Against {result.control_title}"
        yield ""
        yield from _table(against, difference_columns())
        yield ""
        yield (
            "Test rows, scores averaged over seeds, 95 % intervals from "
            f"{result.n_resamples:,} paired resamples of the users. *Seeds above*: seeds whose own "
            "AUC interval lies above zero. UAUC and AUC of every slice are in the JSON."
        )
        yield ""
    yield from _agreement(result)
    yield from _notes(result)
    yield measured(result)


def explanation(result: BenchResult) -> str:
    """How the table reads."""
    test = next((f for s in result.systems if (f := s.find("test")) is not None), None)
    counted = f"{test.n_users_counted} of {test.n_users} users" if test else "no users"
    return (
        "Mean over seeds ± their standard deviation. UAUC "
        f"averages {counted} with both classes. Warm and cold (W1): test AUC of rows whose user "
        "and item both occur in train, and of the rest; W2: both occur three times or more. "
        "CPU s, s: all fits of one seed; MiB: most memory of its process, libraries included."
    )


def measured(result: BenchResult) -> str:
    """On what, with what, under which load."""
    facts = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in result.machine.items())
    versions = ", ".join(f"{name} {value}" for name, value in result.versions.items())
    return (
        f"Measured on {facts}; load {cells.load_of(result)}. {versions}. "
        f"Tables of {result.day}, sha256 {result.evidence_sha256[:12]}."
    )


def _table(systems: list[SystemFigures], columns: dict[str, Cell]) -> Iterator[str]:
    yield "| " + " | ".join(["system", *columns]) + " |"
    yield "|" + "---|" * (len(columns) + 1)
    for system in systems:
        if system.error:
            said = " ".join(system.error.replace("|", "\\|").split())
            yield f"| {title_of(system)} | failed: {said} |" + " |" * (len(columns) - 1)
        else:
            yield (
                f"| {title_of(system)} | " + " | ".join(c(system) for c in columns.values()) + " |"
            )


def title_of(system: SystemFigures) -> str:
    """What the table calls it; a system that is not fitted every night says so."""
    every = system.refit_every_days
    return system.title if every == 1 else f"{system.title} (fitted every {every} days)"


def _agreement(result: BenchResult) -> Iterator[str]:
    rows = [(system, side) for system in result.systems for side in system.agreement]
    if not rows:
        return
    yield "## Alignment"
    yield ""
    yield "| system | side | cosine before | after | overlap@10 before | after |"
    yield "|" + "---|" * 6
    for system, side in rows:
        values = (side.cosine_before, side.cosine, side.overlap_before, side.overlap)
        shown = " | ".join(cells.number(value, 3) for value in values)
        yield f"| {system.title} | {side.side} | {shown} |"
    yield ""
    yield (
        "Cosine of a projected factor with its embedding or profile, and the share of ten nearest "
        "that factors and embeddings have in common, before and after the fit on train."
    )
    yield ""


def _notes(result: BenchResult) -> Iterator[str]:
    notes = [system for system in result.systems if system.note or system.published]
    for system in notes:
        source = f"published: {system.published.source}." if system.published else ""
        yield f"- {system.title}: {' '.join(filter(None, (system.note, source)))}"
    if notes:
        yield ""


def print_table(result: BenchResult, console: Console) -> None:
    """The one table, and what went wrong."""
    columns = main_columns(result)
    shown = {name: columns[name] for name in _ON_A_TERMINAL}
    table = Table(title=result.title, caption=explanation(result), box=None, padding=(0, 2, 0, 0))
    table.add_column("system", max_width=28)
    for name in shown:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("AUC - control", justify="right", no_wrap=True)
    for system in result.systems:
        if not system.error:
            against = system.difference("test")
            last = cells.difference(against.auc if against else None)
            table.add_row(title_of(system), *(cell(system) for cell in shown.values()), last)
    console.print(table)
    for system in result.systems:
        if system.error:
            console.print(f"{system.title} failed: {system.error}", style="red", highlight=False)
