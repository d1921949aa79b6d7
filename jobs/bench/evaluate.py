"""From scores by seed to the figures of the table: slices, spread, intervals, differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from jobs.bench.config import BenchConfig
from jobs.bench.entries import (
    BenchEntry,
    Entry,
    FusionEntry,
    NotMeasuredEntry,
    TableEntry,
)
from jobs.bench.evidence import BenchRows
from jobs.bench.figures import (
    Agreed,
    Cost,
    Difference,
    OtherVersion,
    SliceFigures,
    Spread,
    SystemFigures,
)
from jobs.bench.kept import Doubles, Outcome
from jobs.bench.protocols import Protocol
from jobs.bench.runs import SystemRuns
from jobs.report import metrics
from jobs.report.evaluate import SLICES, occurrences, slice_masks
from jobs.report.figures import Estimate

_FEWEST_USERS = 10  # for an interval
_ALL = "all"
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class JudgedRows:
    """The rows of one split with their labels, cut into slices by what train has seen."""

    split: Literal["valid", "test"]
    users: NDArray[np.int64]
    labels: NDArray[np.float32]
    slices: Mapping[str, Mask]


def judged_rows(rows: BenchRows, split: Literal["valid", "test"]) -> JudgedRows:
    """A split's rows. Warm and cold mean train's users and items in every protocol."""
    train, own = rows.of("train").requests, rows.of(split)
    masks = slice_masks(
        occurrences(train.users, own.requests.users), occurrences(train.items, own.requests.items)
    )
    return JudgedRows(split, own.requests.users, own.labels, masks)


class Judge:
    """Judges every system on the same rows, against the same control.

    Args:
        bench: how to resample, and how near a published figure has to be.
        rows: of the home.
    """

    def __init__(self, bench: BenchConfig, rows: BenchRows) -> None:
        self.bench = bench
        self.splits = [judged_rows(rows, "valid"), judged_rows(rows, "test")]

    def figures(
        self, found: SystemRuns, control: SystemRuns | None, others: Sequence[SystemRuns] = ()
    ) -> SystemFigures:
        """Everything that the result says of a system.

        Args:
            found: its scores.
            control: what every system is compared with.
            others: what systems scored elsewhere, and fusions, are compared with too.
        """
        entry = found.entry
        slices = [each for rows in self.splits for each in self._slices(rows, found)]
        return SystemFigures(
            name=entry.name,
            title=found.title,
            system=entry.system,
            settings=dict(found.settings),
            seeds=[run.seed for run in found.runs],
            not_measured=found.not_measured,
            backbone=entry.backbone if isinstance(entry, TableEntry | NotMeasuredEntry) else None,
            frozen=self._frozen(found),
            refit_every_days=self._refit_every(entry),
            error=found.error,
            slices=slices,
            against_control=[] if control is None else self._against(found, control),
            against_others={
                other.entry.name: differences
                for other in others
                if isinstance(entry, TableEntry | FusionEntry)
                and (differences := self._against(found, other))
            },
            cost=_cost(found),
            agreement=_agreement([run.outcome for run in found.runs if run.outcome]),
            published=entry.published,
            within_tolerance=self._is_near(found, slices),
            note=entry.note,
            other_version=_other_version(found),
        )

    def _against(self, found: SystemRuns, other: SystemRuns) -> list[Difference]:
        if found is other:
            return []
        return [each for rows in self.splits for each in self._differences(rows, found, other)]

    def _frozen(self, found: SystemRuns) -> SliceFigures | None:
        frozen = [run.frozen for run in found.runs if run.frozen is not None]
        if not frozen or len(frozen) < len(found.runs):
            return None
        return self._slice(self.splits[1], _ALL, frozen)

    def _refit_every(self, entry: BenchEntry) -> int:
        if self.bench.protocol is Protocol.PAPER:
            return 1
        own = entry.refit_every_days if isinstance(entry, Entry) else None
        return own or self.bench.refit_every_days

    def _is_near(self, found: SystemRuns, slices: Sequence[SliceFigures]) -> bool | None:
        published = found.entry.published
        test = [each for each in slices if (each.split, each.slice) == ("test", _ALL)]
        if published is None or not test or test[0].auc is None:
            return None
        return abs(round(test[0].auc.mean - published.auc, 4)) <= self.bench.tolerance

    def _slices(self, rows: JudgedRows, found: SystemRuns) -> list[SliceFigures]:
        scores = _scores(found, rows.split)
        return [self._slice(rows, name, scores) for name in _slices_of(rows)] if scores else []

    def _slice(self, rows: JudgedRows, name: str, scores: Sequence[Doubles]) -> SliceFigures:
        mask = rows.slices[name]
        users, labels = rows.users[mask], rows.labels[mask]
        own = [each[mask] for each in scores]
        drawn = metrics.user_bootstrap(
            users, labels, np.mean(own, axis=0), n=self.bench.n_resamples
        )
        return SliceFigures(
            split=rows.split,
            slice=name,
            n_rows=len(labels),
            n_users=drawn.n_users,
            n_users_counted=drawn.n_users_counted,
            auc=_spread([metrics.auc(labels, each) for each in own]),
            uauc=_spread([metrics.uauc(users, labels, each)[0] for each in own]),
            ndcg=_spread([metrics.ndcg(users, labels, each) for each in own]),
            of_mean_auc=_estimate(drawn.auc, drawn.n_users),
            of_mean_uauc=_estimate(drawn.uauc, drawn.n_users_counted),
        )

    def _differences(
        self, rows: JudgedRows, found: SystemRuns, control: SystemRuns
    ) -> list[Difference]:
        """Of scores averaged over seeds on every slice of test; by seed on all of its rows."""
        left, right = _scores(found, rows.split), _scores(control, rows.split)
        if not left or not right:
            return []
        means = np.mean(left, axis=0), np.mean(right, axis=0)
        of_means = [self._difference(rows, name, None, *means) for name in _slices_of(rows)]
        by_seed = [
            # A control of one seed stands beside every seed.
            self._difference(rows, _ALL, run.seed, scores, right[min(place, len(right) - 1)])
            for place, (run, scores) in enumerate(zip(found.runs, left, strict=True))
        ]
        return of_means + (by_seed if rows.split == "test" else [])

    def _difference(
        self, rows: JudgedRows, name: str, seed: int | None, left: Doubles, right: Doubles
    ) -> Difference:
        mask = rows.slices[name]
        drawn = metrics.paired_user_bootstrap(
            rows.users[mask], rows.labels[mask], left[mask], right[mask], n=self.bench.n_resamples
        )
        return Difference(
            split=rows.split,
            slice=name,
            seed=seed,
            auc=_estimate(drawn.auc, drawn.n_users),
            uauc=_estimate(drawn.uauc, drawn.n_users_counted),
        )


def _slices_of(rows: JudgedRows) -> tuple[str, ...]:
    """Slices that are judged: of valid, which only chooses, all rows."""
    return tuple(SLICES) if rows.split == "test" else (_ALL,)


def _scores(found: SystemRuns, split: str) -> list[Doubles]:
    """Scores of a split by seed; empty if any seed has none."""
    scores = [run.scores.get(split) for run in found.runs]
    given = [each for each in scores if each is not None]
    return given if len(given) == len(scores) else []


def _estimate(interval: metrics.Interval | None, n_users: int) -> Estimate | None:
    if interval is None:
        return None
    if n_users < _FEWEST_USERS:
        return Estimate(value=interval.value, low=None, high=None)
    return Estimate(value=interval.value, low=interval.low, high=interval.high)


def _spread(values: Sequence[float | None]) -> Spread | None:
    """Mean and standard deviation; None where a seed's value is not defined."""
    known = [round(value, 6) for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    sd = round(float(np.std(known, ddof=1)), 6) if len(known) > 1 else None
    return Spread(mean=round(float(np.mean(known)), 6), sd=sd, by_seed=known)


def _cost(found: SystemRuns) -> Cost | None:
    if isinstance(found.entry, TableEntry):
        return _given_cost(found.entry, len(found.runs))
    outcomes = [run.outcome for run in found.runs if run.outcome]
    if not outcomes:
        return None
    loads = [load for outcome in outcomes for load in outcome.loads]

    def mean(field: str) -> float:
        sums = [sum(getattr(fit, field) for fit in outcome.fits) for outcome in outcomes]
        return round(float(np.mean(sums)), 2)

    return Cost(
        cpu_s=mean("cpu_s"),
        wall_s=mean("wall_s"),
        score_cpu_s=mean("score_cpu_s"),
        peak_mib=max(outcome.peak_mib for outcome in outcomes),
        before_fit_mib=max(outcome.before_fit_mib for outcome in outcomes),
        n_fits=len(outcomes[0].fits),
        n_epochs=[outcome.fits[0].n_epochs for outcome in outcomes],
        tokens=None,
        load=(min(loads), max(loads)),
    )


def _other_version(found: SystemRuns) -> OtherVersion | None:
    """What made the result, of the first seed that the code of now did not make."""
    for run in found.runs:
        if run.other_code is not None:
            return OtherVersion(
                code_sha256=run.other_code.code_sha256, versions=dict(run.other_code.versions)
            )
    return None


def _given_cost(entry: TableEntry, n_runs: int) -> Cost | None:
    if n_runs == 0:
        return None
    return Cost(
        cpu_s=entry.cpu_s,
        wall_s=entry.wall_s,
        score_cpu_s=None,
        peak_mib=entry.peak_mib,
        before_fit_mib=None,
        n_fits=1,
        n_epochs=[],
        tokens=entry.tokens,
        load=None,
    )


def _agreement(outcomes: Sequence[Outcome]) -> list[Agreed]:
    """Mean over seeds of what each side's agreement was."""
    sides = [fit.agreement for outcome in outcomes for fit in outcome.fits[:1]]
    names = [each.side for each in sides[0]] if sides else []
    found = []
    for name in names:
        own = [each for seed in sides for each in seed if each.side == name]
        fields = ("cosine_before", "cosine", "overlap_before", "overlap")
        means = {field: _mean([getattr(each, field) for each in own]) for field in fields}
        found.append(Agreed(side=name, **means))
    return found


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(float(np.mean(known)), 6) if known and len(known) == len(values) else None
