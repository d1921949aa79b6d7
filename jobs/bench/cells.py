"""What a figure looks like in a table: one place for all three forms."""

from __future__ import annotations

from collections.abc import Sequence

from jobs.bench.figures import BenchResult, Cost, Difference, SliceFigures, Spread, SystemFigures
from jobs.report.figures import Estimate

MINUS, NONE = "\u2212", "\u2013"
NOT_MEASURED = "not measured"


def number(value: float | None, digits: int = 4) -> str:
    """`.7418`, as tables of this field write it."""
    if value is None:
        return NONE
    return f"{value:.{digits}f}".removeprefix("0").replace("-0.", f"{MINUS}.")


def signed(value: float | None, digits: int = 4) -> str:
    """`+.0051`."""
    if value is None:
        return NONE
    return f"{value:+.{digits}f}".replace("0.", ".", 1).replace("-", MINUS)


def spread(value: Spread | None) -> str:
    """Mean over seeds, and their standard deviation where there are several."""
    if value is None:
        return NONE
    return number(value.mean) + ("" if value.sd is None else f" ± {number(value.sd)}")


def interval(estimate: Estimate | None, *, is_difference: bool = False) -> str:
    """`.72 to .76`; nothing without one."""
    if estimate is None or estimate.low is None or estimate.high is None:
        return ""
    show = signed if is_difference else number
    return f"{show(estimate.low)} to {show(estimate.high)}"


def difference(estimate: Estimate | None) -> str:
    """`+.0051 [+.0021, +.0084]`."""
    if estimate is None:
        return NONE
    said = signed(estimate.value)
    if estimate.low is None or estimate.high is None:
        return said
    return f"{said} [{signed(estimate.low)}, {signed(estimate.high)}]"


def auc_of(figures: SliceFigures | None) -> str:
    """Mean AUC over seeds."""
    return number(figures.auc.mean if figures and figures.auc else None)


def uauc_of(figures: SliceFigures | None) -> str:
    """Mean UAUC over seeds."""
    return number(figures.uauc.mean if figures and figures.uauc else None)


def both(figures: SliceFigures | None) -> str:
    """AUC/UAUC, as tables of this field write them."""
    return NONE if figures is None else f"{auc_of(figures)}/{uauc_of(figures)}"


def backbone(system: SystemFigures) -> str:
    """The LLM behind it; a dash for systems without one."""
    return system.backbone or NONE


def seeds_won(by_seed: Sequence[Difference | None]) -> str:
    """In how many seeds the whole AUC interval of the difference lies above zero."""
    aucs = [each.auc for each in by_seed if each is not None]
    known = [auc for auc in aucs if auc is not None and auc.low is not None]
    if not known:
        return NONE
    return f"{sum(auc.low is not None and auc.low > 0 for auc in known)}/{len(known)}"


def published(system: SystemFigures) -> str:
    """Published AUC/UAUC."""
    if system.published is None:
        return NONE
    uauc = "" if system.published.uauc is None else f"/{number(system.published.uauc)}"
    return number(system.published.auc) + uauc


def from_published(system: SystemFigures, tolerance: float) -> str:
    """Ours minus the published AUC, and whether that is near enough."""
    own = system.find("test")
    if system.published is None or own is None or own.auc is None:
        return NONE
    verdict = "within" if system.within_tolerance else "beyond"
    gap = signed(own.auc.mean - system.published.auc)
    return f"{gap}, {verdict} {number(tolerance, 3)}"


def seconds(cost: Cost | None, field: str) -> str:
    """Seconds with as many digits as they bear."""
    value = getattr(cost, field) if cost else None
    if value is None:
        return NONE
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def mebibytes(cost: Cost | None) -> str:
    """Peak memory."""
    return NONE if cost is None or cost.peak_mib is None else f"{cost.peak_mib:,.0f}"


def tokens(cost: Cost | None) -> str:
    """Tokens read by an LLM; a dash for systems without one."""
    return NONE if cost is None or cost.tokens is None else f"{cost.tokens:,}"


def epochs(cost: Cost | None) -> str:
    """Epochs or trees by seed."""
    if cost is None or not any(cost.n_epochs):
        return NONE
    return "/".join(map(str, cost.n_epochs))


def load_of(result: BenchResult) -> str:
    """The machine's load while all of it was measured."""
    loads = [s.cost.load for s in result.systems if s.cost is not None and s.cost.load is not None]
    if not loads:
        return "unknown"
    return f"{min(low for low, _ in loads):.1f} to {max(high for _, high in loads):.1f}"
