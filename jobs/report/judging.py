"""Every figure of a night's scores: models beside controls, on slices, over days, by score."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from jobs.report.controls import System
from jobs.report.evaluate import (
    Resampling,
    ScoredRows,
    calibration_bins,
    comparisons,
    qualities,
    score_histogram,
    strongest,
)
from jobs.report.figures import Comparison, Quality, SystemName, Verdict
from jobs.report.lift import lift_tenths
from jobs.report.over_time import over_time
from jobs.report.scored import JUDGED, Scored
from jobs.report.verdicts import against_control

_ALL = "all"
T = TypeVar("T")


@dataclass(frozen=True)
class Judged:
    """Valid and test, every system in the order of the page.

    Attributes:
        splits: by name; systems are the model, other models, then controls, the strongest first.
        n_models: how many of the systems are no controls.
        resampling: of the users.
    """

    splits: Mapping[str, ScoredRows]
    n_models: int
    resampling: Resampling

    @classmethod
    def of(cls, found: Mapping[str, Scored], resampling: Resampling) -> Judged:
        """The controls in the order of their AUC on test, or on valid where test is empty."""
        n_models = found["test"].n_models
        rows = found["test" if len(found["test"].rows.labels) else "valid"].rows
        beside = replace(rows, systems=(rows.systems[0], *rows.systems[n_models:]))
        order = [control.name for control in strongest(beside)]

        def ordered(split: ScoredRows) -> ScoredRows:
            controls = {system.name: system for system in split.systems[n_models:]}
            kept = split.systems[:n_models]
            return replace(split, systems=(*kept, *(controls[name] for name in order)))

        return cls({name: ordered(each.rows) for name, each in found.items()}, n_models, resampling)

    @property
    def control(self) -> System | None:
        """The strongest control on test, if training had rows to take means of."""
        return next(iter(self.splits["test"].systems[self.n_models :]), None)

    def figures(self, n_bins: int) -> dict[str, Any]:
        """The fields of `NightMetrics` that the scores alone decide."""
        return {
            "systems": self._names(),
            "quality": self._each(self._qualities),
            "comparisons": self._each(self._comparisons),
            "periods": self._each(lambda rows: over_time(rows, self._two(rows), self.resampling)),
            "calibration": self._each(lambda rows: calibration_bins(rows, self._two(rows), n_bins)),
            "histogram": self._each(score_histogram),
            "lift": self._each(lambda rows: lift_tenths(rows, self._two(rows))),
        }

    def verdict(
        self, title: str, quality: Sequence[Quality], found: Sequence[Comparison]
    ) -> Verdict:
        """The model against the strongest control on all test rows."""
        control = self.control
        if control is None:
            return against_control(title, None, None, [])
        names = (self.splits["test"].systems[0].name, control.name)
        values = [
            next(q for q in quality if (q.split, q.slice, q.system) == ("test", _ALL, name))
            for name in names
        ]
        wanted = ("test", _ALL, control.name)
        beside = next(c for c in found if (c.split, c.slice, c.against) == wanted)
        return against_control(title, control, beside, values)

    def _each(self, figures: Callable[[ScoredRows], list[T]]) -> list[T]:
        return [figure for split in JUDGED for figure in figures(self.splits[split])]

    def _two(self, rows: ScoredRows) -> tuple[System, ...]:
        """The model and the strongest control."""
        return (rows.systems[0], *rows.systems[self.n_models : self.n_models + 1])

    def _names(self) -> list[SystemName]:
        return [
            SystemName(name=system.name, title=system.title, is_control=number >= self.n_models)
            for number, system in enumerate(self.splits["test"].systems)
        ]

    def _parts(self, rows: ScoredRows) -> tuple[ScoredRows, ScoredRows]:
        """All rows with every system, and the slices with the two that matter most."""
        slices = {name: mask for name, mask in rows.slices.items() if name != _ALL}
        whole = replace(rows, slices={_ALL: rows.slices[_ALL]})
        return whole, replace(rows, slices=slices, systems=self._two(rows))

    def _qualities(self, rows: ScoredRows) -> list[Quality]:
        return [q for part in self._parts(rows) for q in qualities(part, self.resampling)]

    def _comparisons(self, rows: ScoredRows) -> list[Comparison]:
        return [c for part in self._parts(rows) for c in comparisons(part, self.resampling)]
