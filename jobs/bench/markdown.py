"""A bench as Markdown, and the same table on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from jobs.bench import cells
from jobs.bench.figures import BenchResult, Difference, SystemFigures

Cell = Callable[[SystemFigures], str]

_ON_A_TERMINAL = ("valid AUC", "test AUC", "test UAUC", "CPU s", "MiB")  # all that fits there


def main_columns(result: BenchResult) -> dict[str, Cell]:
    """Heading and cell of the one table; what no system has is left out."""
    columns: dict[str, Cell] = {}
    if any(system.backbone for system in result.systems):
        columns["backbone"] = cells.backbone
    columns |= {
        "seeds": lambda s: cells.NOT_MEASURED if s.not_measured else str(len(s.seeds)),
        "valid AUC": lambda s: cells.auc_of(s.find("valid")),
        "valid UAUC": lambda s: cells.uauc_of(s.find("valid")),
        "test AUC": lambda s: cells.spread(f.auc if (f := s.find("test")) else None),
        "test UAUC": lambda s: cells.spread(f.uauc if (f := s.find("test")) else None),
    }
    if has_frozen(result):
        columns["frozen AUC"] = lambda s: cells.auc_of(s.frozen)
        columns["frozen UAUC"] = lambda s: cells.uauc_of(s.frozen)
    return columns | {
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


def has_frozen(result: BenchResult) -> bool:
    """Whether any system was scored with frozen histories too."""
    return any(system.frozen for system in result.systems)


def difference_columns(other: str | None = None) -> dict[str, Cell]:
    """Heading and cell of a table of differences: from the control, or from another system."""

    def of(system: SystemFigures, slice_name: str, seed: int | None = None) -> Difference | None:
        if other is None:
            return system.difference("test", slice_name, seed)
        return system.difference_from(other, "test", slice_name, seed)

    def cell(slice_name: str, metric: str) -> Cell:
        def said(system: SystemFigures) -> str:
            found = of(system, slice_name)
            return cells.difference(getattr(found, metric) if found else None)

        return said

    return {
        "AUC": cell("all", "auc"),
        "UAUC": cell("all", "uauc"),
        "seeds above": lambda s: cells.seeds_won([of(s, "all", seed) for seed in s.seeds]),
        "AUC, cold users": cell("cold_user", "auc"),
        "AUC, cold items": cell("cold_item", "auc"),
    }


class Versus(NamedTuple):
    """A table of differences.

    Attributes:
        title: of the system that the others have to beat.
        systems: that are compared with it.
        columns: heading and cell.
    """

    title: str
    systems: list[SystemFigures]
    columns: dict[str, Cell]


def versus(result: BenchResult) -> list[Versus]:
    """The tables of differences: from the control, then from the others there are to beat."""
    every = [system for system in result.systems if not system.error]
    tables = [
        Versus(
            result.control_title,
            [system for system in every if system.against_control],
            difference_columns(),
        )
    ]
    others = dict.fromkeys(name for system in every for name in system.against_others)
    for name in others:
        title = next(system.title for system in every if system.name == name)
        compared = [system for system in every if name in system.against_others]
        tables.append(Versus(title, compared, difference_columns(name)))
    return [table for table in tables if table.systems]


def published_columns(result: BenchResult) -> dict[str, Cell]:
    """Heading and cell of the table beside the papers."""
    columns: dict[str, Cell] = {}
    if any(system.backbone for system in result.systems):
        columns["backbone"] = cells.backbone
    columns["AUC/UAUC"] = lambda s: cells.both(s.find("test"))
    if has_frozen(result):
        columns["frozen"] = lambda s: cells.both(s.frozen)
    return columns | {
        "published": cells.published,
        "source": lambda s: s.published.source if s.published else "",
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
    compared = versus(result)
    for table in compared:
        yield f"## Against {table.title}"
        yield ""
        yield from _table(table.systems, table.columns)
        yield ""
    if compared:
        yield (
            "Test rows, scores averaged over seeds, 95 % intervals from "
            f"{result.n_resamples:,} paired resamples of the users. *Seeds above*: seeds whose own "
            "AUC interval lies above zero. UAUC and AUC of every slice are in the JSON."
        )
        yield ""
    if known := [system for system in result.systems if system.published]:
        yield "## Beside the papers"
        yield ""
        yield from _table(known, published_columns(result))
        yield ""
    yield from _agreement(result)
    yield from _notes(result)
    yield measured(result)


def explanation(result: BenchResult) -> str:
    """How the table reads."""
    test = next((f for s in result.systems if (f := s.find("test")) is not None), None)
    frozen = (
        "Frozen: test rows whose histories end where test begins. " if has_frozen(result) else ""
    )
    counted = f"{test.n_users_counted} of {test.n_users} users" if test else "no users"
    return (
        "Mean over seeds ± their standard deviation. UAUC "
        f"averages {counted} with both classes. Warm and cold (W1): test AUC of rows whose user "
        "and item both occur in train, and of the rest; W2: both occur three times or more. "
        f"{frozen}"
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
    found = notes(result)
    for about, said in found:
        yield f"- {about}: {said}"
    if found:
        yield ""


def notes(result: BenchResult) -> list[tuple[str, str]]:
    """What there is to say below the tables: about which systems, and what."""
    missing: dict[str, list[str]] = {}
    others: dict[str, list[str]] = {}
    for system in result.systems:
        if system.not_measured:
            missing.setdefault(system.not_measured.rstrip("."), []).append(system.title)
        if (other := system.other_version) is not None:
            libraries = ", ".join(f"{name} {value}" for name, value in other.versions.items())
            said = f"{system.title} ({other.code_sha256[:12]})"
            others.setdefault(libraries, []).append(said)
    return [
        *((system.title, system.note) for system in result.systems if system.note),
        *(("Not measured", f"{'; '.join(titles)}. {why}.") for why, titles in missing.items()),
        *(
            ("Kept from another version of the code", f"{'; '.join(titles)}; with {libraries}.")
            for libraries, titles in others.items()
        ),
    ]


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
        if not system.error and not system.not_measured:
            against = system.difference("test")
            last = cells.difference(against.auc if against else None)
            table.add_row(title_of(system), *(cell(system) for cell in shown.values()), last)
    console.print(table)
    for system in result.systems:
        if system.error:
            console.print(f"{system.title} failed: {system.error}", style="red", highlight=False)
        if system.not_measured:
            said = f"{system.title} is not measured: {system.not_measured}"
            console.print(said, style="dim", highlight=False)
