"""What each job of the chain is given on one night. Standard library only: DAGs import it.

The chain, the DAGs and `tidemark plan` all ask here, so that they cannot tell a job three things.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

from jobs.launch import AFTER_LAST_NIGHT, TUNING, tuning_flags

# These work on the version that the night's own `publish` named.
ON_VERSION = ("candidates", "score", "report")


@dataclass(frozen=True)
class NightFlags:
    """The flags of a night's jobs, but for `--day` and `--force`.

    Attributes:
        day: the as-of day.
        source: of `ingest`.
        model: the backbone.
        tokens: that the tuning of a night reads; 0 leaves the tuning out.
        previous_version: last night's version, if there is one.
        adapter_day: the day (or folder) whose adapter the night would use; None: the plain LLM.
        full_tokens: that an adapter reads, and soft tokens that begin anew; None: their epochs.
        tuned: day, adapter and model of last night's soft tokens, if it has any.
        anew: whether soft tokens begin anew in any case.
    """

    day: date
    source: str
    model: str
    tokens: int
    previous_version: int | None
    adapter_day: str | None
    full_tokens: int | None = None
    tuned: Mapping[str, Any] | None = None
    anew: bool = False

    @classmethod
    def of_chain(
        cls, day: date, last_night: Mapping[str, Any], *, source: str, model: str, tokens: int
    ) -> NightFlags:
        """Of the chain, which trains an adapter where one is due, all within one budget.

        Args:
            day: the as-of day.
            last_night: what `jobs.previous` says of it.
            source: of `ingest`.
            model: the backbone.
            tokens: that each stage of tuning reads.
        """
        version, adapter = last_night["version"], last_night["adapter"]
        tuned = last_night["tuned"]
        return cls(day, source, model, tokens, version, adapter, full_tokens=tokens, tuned=tuned)

    @property
    def adapter(self) -> str | None:
        """The adapter of this night; None if it tunes no LLM."""
        return self.adapter_day if self.tokens else None

    @property
    def init_tokens(self) -> str | None:
        """The night whose soft tokens this one goes on from; None: they begin anew.

        Those of another adapter or backbone lie in another space, so a new adapter costs a tuning
        in full: once a week where adapters are trained once a week.
        """
        if self.anew or self.tuned is None:
            return None
        is_same = (self.tuned["adapter"], self.tuned["model"]) == (self.adapter, self.model)
        return str(self.tuned["day"]) if is_same else None

    def of(self, job: str, version: int | None = None) -> dict[str, object]:
        """Flags of a job; `version` is what `publish` named."""
        flags = self._own(job)
        if job in AFTER_LAST_NIGHT:
            flags |= {"previous_version": self.previous_version}
        if job in ON_VERSION:
            flags |= {"version": version}
        return flags

    def _own(self, job: str) -> dict[str, object]:
        is_tuned = bool(self.tokens)
        budget = self.full_tokens if self.init_tokens is None else self.tokens
        tune: dict[str, object] = {"adapter": self.adapter, "init_tokens": self.init_tokens}
        own: dict[str, dict[str, object]] = {
            "ingest": {"source": self.source},
            "adapt": {"model": self.model, **tuning_flags(self.full_tokens)},
            "distil": {"model": self.model, "adapter": self.adapter},
            "tune": {"model": self.model, **tune, **tuning_flags(budget)},
            "project": {"model": self.model},
            # An earlier run of the day may have left soft tokens that this night has nothing of.
            "calibrate": {"soft_tokens": is_tuned},
            "publish": {"soft_tokens": is_tuned},
            # An LLM reads each row, and tune has read the valid ones that the blend is fitted on.
            "candidates": {"splits": "test" if is_tuned else None},
            "score": {"backbone": self.model},
        }
        return own.get(job, {})

    def why_untuned(self, job: str) -> str | None:
        """Why nothing is tuned: nobody gives tokens to read; None for a job that has work."""
        return "this night tunes no LLM" if job in TUNING and not self.tokens else None

    def why_left_out(self, job: str) -> str | None:
        """Why the night does without a job; None if it does not."""
        if why := self.why_untuned(job):
            return why
        if job == "adapt" and self.adapter != str(self.day):
            return f"the adapter of {self.adapter} still serves"
        return None
