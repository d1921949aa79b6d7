"""Where a training run stands, on disk: tensors first, their JSON last; never a pickle."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from jobs.files import sha256_file, sync_directory, sync_file, write_atomically

_KEPT = 2  # the newest, and the one before it in case a disk damages the newest
_NAME = re.compile(r"step-(\d{8})\.json")


@dataclass(frozen=True)
class Checkpoint:
    """All that the rest of a run depends on, apart from its config and its data.

    Attributes:
        step: optimiser steps done.
        facts: counters, curve, budget in force, and the numbers that the sampler and the random
            generators go on from; JSON.
        tensors: weights, both moments of the optimiser and the best weights so far, by
            "group/name".
    """

    step: int
    facts: dict[str, Any]
    tensors: dict[str, Tensor]

    def group(self, name: str) -> dict[str, Tensor]:
        """The tensors whose names begin with `name/`, without it."""
        prefix = f"{name}/"
        return {k.removeprefix(prefix): v for k, v in self.tensors.items() if k.startswith(prefix)}


def grouped(**groups: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Groups of tensors in one mapping, as copies on the CPU."""
    return {
        f"{group}/{name}": tensor.detach().cpu().clone().contiguous()
        for group, tensors in groups.items()
        for name, tensor in tensors.items()
    }


class Checkpoints:
    """Checkpoints of one run in one folder.

    A JSON file is the only sign that its tensors are whole: it is named last and holds their
    sha256. What a killed process left half-written is overwritten or ignored.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, then forget all but the newest ones."""
        self.folder.mkdir(parents=True, exist_ok=True)
        tensors = self._tensors(checkpoint.step)
        aside = tensors.with_name(f".{tensors.name}")
        save_file(checkpoint.tensors, aside)
        sync_file(aside)
        aside.replace(tensors)
        sync_directory(self.folder)
        facts = {"sha256": sha256_file(tensors), "step": checkpoint.step, **checkpoint.facts}
        write_atomically(self._facts(checkpoint.step), json.dumps(facts))
        for step in sorted(self._steps())[:-_KEPT]:
            self._facts(step).unlink(missing_ok=True)
            self._tensors(step).unlink(missing_ok=True)

    def newest(self, step: int | None = None) -> Checkpoint | None:
        """The newest checkpoint that is whole, or that of a given step; None without one."""
        steps = sorted(self._steps(), reverse=True) if step is None else [step]
        return next((found for each in steps if (found := self._read(each)) is not None), None)

    def clear(self) -> None:
        """Forget everything."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _read(self, step: int) -> Checkpoint | None:
        try:
            facts = json.loads(self._facts(step).read_text(encoding="utf-8"))
            if sha256_file(self._tensors(step)) != facts["sha256"]:
                return None
            return Checkpoint(step, facts, load_file(self._tensors(step)))
        except (OSError, ValueError, KeyError, SafetensorError):
            return None

    def _steps(self) -> Iterator[int]:
        if self.folder.is_dir():
            for path in self.folder.iterdir():
                if found := _NAME.fullmatch(path.name):
                    yield int(found[1])

    def _facts(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}.json"

    def _tensors(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}.safetensors"
