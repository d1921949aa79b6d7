"""Where a fit stands, kept on disk from epoch to epoch."""

from __future__ import annotations

import time
from dataclasses import asdict

from jobs.collab.mf import Epoch, Standing
from jobs.llm.checkpoints import Checkpoint, Checkpoints, grouped


class EpochKeeper:
    """Keeps a fit's standing after an epoch, at most every so many seconds.

    When it is kept decides how much a killed run loses, never what comes out of it.

    Args:
        checkpoints: where.
        every_s: seconds between two; 0 keeps every epoch.
    """

    def __init__(self, checkpoints: Checkpoints, every_s: float) -> None:
        self._checkpoints, self._every_s = checkpoints, every_s
        self._kept_at = time.monotonic()

    def newest(self) -> Standing | None:
        """The last standing that was kept whole."""
        found = self._checkpoints.newest()
        if found is None:
            return None
        kept = found.group("kept")
        return Standing(
            number=found.step,
            best=Epoch(**found.facts["best"]),
            trainer=found.group("trainer"),
            kept=[kept[name] for name in sorted(kept)],
        )

    def offer(self, standing: Standing) -> None:
        """Write it down if it is time to."""
        if time.monotonic() - self._kept_at < self._every_s:
            return
        kept = {f"{place:04d}": weights for place, weights in enumerate(standing.kept)}
        tensors = grouped(trainer=standing.trainer, kept=kept)
        facts = {"best": asdict(standing.best)}
        self._checkpoints.save(Checkpoint(standing.number, facts, tensors))
        self._kept_at = time.monotonic()
