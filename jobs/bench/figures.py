"""What a bench found, as typed figures: the form of bench-<name>.json."""

from __future__ import annotations

from datetime import date
from typing import Literal

from pydantic import BaseModel, ConfigDict

from jobs.bench.entries import Published
from jobs.bench.protocols import Protocol
from jobs.report.figures import Estimate


class Figure(BaseModel):
    """A part of the result. Nothing is left out silently: what is not defined is null."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Spread(Figure):
    """A metric over seeds.

    Attributes:
        mean: over seeds.
        sd: sample standard deviation over seeds; null with one seed.
        by_seed: in the order of the system's seeds.
    """

    mean: float
    sd: float | None
    by_seed: list[float]


class SliceFigures(Figure):
    """One system on one slice of one split.

    Attributes:
        slice: name in `jobs.report.evaluate.SLICES`.
        n_rows, n_users: in the slice.
        n_users_counted: with both classes, those that UAUC averages.
        auc, uauc, ndcg: seed by seed.
        of_mean_auc, of_mean_uauc: of the scores averaged over seeds, with the user bootstrap's
            95 % interval.
    """

    split: Literal["valid", "test"]
    slice: str
    n_rows: int
    n_users: int
    n_users_counted: int
    auc: Spread | None
    uauc: Spread | None
    ndcg: Spread | None
    of_mean_auc: Estimate | None
    of_mean_uauc: Estimate | None


class Difference(Figure):
    """A system minus the control on the same rows, users resampled in pairs.

    Attributes:
        seed: of both systems; null for the scores averaged over seeds.
    """

    split: Literal["valid", "test"]
    slice: str
    seed: int | None
    auc: Estimate | None
    uauc: Estimate | None


class Cost(Figure):
    """What one seed cost, mean over seeds unless it says otherwise; null where nobody measured.

    Attributes:
        cpu_s: CPU seconds of all fits of the run, all threads.
        wall_s: seconds of the same by the clock.
        score_cpu_s: CPU seconds of scoring.
        peak_mib: most memory that the process of a seed held, evidence and libraries included;
            the largest over seeds.
        before_fit_mib: what it held when the first fit began; the largest over seeds.
        n_fits: fits of one seed: 1, or one for each night and the choice before them.
        n_epochs: by seed; the epochs (or trees) of the fit that stopped on valid.
        tokens: read by an LLM to train and to score.
        load: lowest and highest one-minute load of the machine when a seed began or ended.
    """

    cpu_s: float | None
    wall_s: float | None
    score_cpu_s: float | None
    peak_mib: float | None
    before_fit_mib: float | None
    n_fits: int
    n_epochs: list[int]
    tokens: int | None
    load: tuple[float, float] | None


class Agreed(Figure):
    """How the factor space and the LLM's space agree about items or users, mean over seeds.

    Attributes:
        side: items, items without train events, users.
        cosine_before, cosine: of a projected factor with its target, before and after the fit.
        overlap_before, overlap: share of the ten nearest that both spaces have in common.
    """

    side: str
    cosine_before: float | None
    cosine: float | None
    overlap_before: float | None
    overlap: float | None


class OtherVersion(Figure):
    """Code other than the one that wrote this file, whose kept result is shown.

    Attributes:
        code_sha256: of the code that decided the scores.
        versions: of the libraries they depend on.
    """

    code_sha256: str
    versions: dict[str, str]


class SystemFigures(Figure):
    """One row of the table.

    Attributes:
        refit_every_days: nights between two fits; 1 in the paper protocol, which has no nights.
        error: what went wrong; null if nothing did.
        not_measured: why there are no figures, where nothing went wrong; null where there are.
        backbone: the LLM behind it; null where there is none.
        frozen: of the test rows with histories that end where test begins; null where nobody
            scored them so.
        against_others: name of a further system to beat -> differences from it; of tables and
            fusions.
        other_version: what made the scores, where it is not `versions` of this file.
        within_tolerance: whether test AUC is as near to what is published as the bench asks for.
    """

    name: str
    title: str
    system: str
    settings: dict[str, object]
    seeds: list[int]
    refit_every_days: int
    error: str | None
    slices: list[SliceFigures]
    against_control: list[Difference]
    cost: Cost | None
    agreement: list[Agreed]
    published: Published | None
    within_tolerance: bool | None
    note: str
    not_measured: str | None = None
    backbone: str | None = None
    frozen: SliceFigures | None = None
    against_others: dict[str, list[Difference]] = {}
    other_version: OtherVersion | None = None

    def find(self, split: str, slice_name: str = "all") -> SliceFigures | None:
        """The figures on a slice; None where the system has none."""
        for each in self.slices:
            if (each.split, each.slice) == (split, slice_name):
                return each
        return None

    def difference(
        self, split: str, slice_name: str = "all", seed: int | None = None
    ) -> Difference | None:
        """The difference from the control; None for the control itself."""
        return _found(self.against_control, split, slice_name, seed)

    def difference_from(
        self, other: str, split: str, slice_name: str = "all", seed: int | None = None
    ) -> Difference | None:
        """The difference from another system to beat; None where they are not compared."""
        return _found(self.against_others.get(other, []), split, slice_name, seed)


def _found(
    differences: list[Difference], split: str, slice_name: str, seed: int | None
) -> Difference | None:
    for each in differences:
        if (each.split, each.slice, each.seed) == (split, slice_name, seed):
            return each
    return None


class BenchResult(Figure):
    """Everything that a bench found. `schema_version` grows when a field changes its meaning."""

    schema_version: Literal[1] = 1
    name: str
    title: str
    protocol: Protocol
    protocol_says: str
    day: date
    n_days: int
    control: str
    control_title: str
    tolerance: float
    n_resamples: int
    slice_titles: dict[str, str]
    machine: dict[str, str | int]
    versions: dict[str, str]
    evidence_sha256: str
    systems: list[SystemFigures]
