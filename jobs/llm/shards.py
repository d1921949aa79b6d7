"""Vectors in shards: what is done stays done when the process dies, and several processes share it.

A shard is a range of the sorted distinct texts. Its file is named by the content of that range, so
a file that is there is the right one, whoever wrote it and whenever.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from jobs.files import sync_directory, sync_file
from jobs.llm.fingerprint import sha256_json

_TENSOR = "raw"


@dataclass(frozen=True)
class Shards:
    """The ranges of some texts, and the folder that holds the vectors of those that are done.

    Attributes:
        folder: may be shared by processes; made when first written to.
        keys: content key of each distinct text, in the order of the ranges.
        size: texts of a range; the last may be shorter.
        dim: of a vector.
        how: what else the bytes depend on.
    """

    folder: Path
    keys: Sequence[str]
    size: int
    dim: int
    how: str

    def __len__(self) -> int:
        return -(-len(self.keys) // self.size)

    def range(self, number: int) -> slice:
        """The texts of a shard."""
        return slice(number * self.size, min((number + 1) * self.size, len(self.keys)))

    def path(self, number: int) -> Path:
        """The file of a shard, there or not."""
        name = sha256_json({"keys": list(self.keys[self.range(number)]), "how": self.how})
        return self.folder / f"{name[:32]}.safetensors"

    def read(self, number: int) -> np.ndarray | None:
        """(n, d) float32; None if the shard is not done, or its file is damaged."""
        part = self.range(number)
        try:
            raw = load_file(self.path(number))[_TENSOR]
        except (OSError, SafetensorError, KeyError):
            return None
        fits = raw.shape == (part.stop - part.start, self.dim) and raw.dtype == np.float32
        return raw if fits else None

    def write(self, number: int, raw: np.ndarray) -> None:
        """Give the shard its file, all at once."""
        path = self.path(number)
        self.folder.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        save_file({_TENSOR: np.ascontiguousarray(raw, dtype=np.float32)}, aside)
        sync_file(aside)
        aside.replace(path)
        sync_directory(self.folder)

    def forget_others(self) -> None:
        """Remove what is no shard of these texts: an earlier catalogue's, a killed writer's."""
        if not self.folder.is_dir():
            return
        wanted = {self.path(number).name for number in range(len(self))}
        for path in self.folder.iterdir():
            if path.name not in wanted:
                path.unlink(missing_ok=True)

    def forget(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)
