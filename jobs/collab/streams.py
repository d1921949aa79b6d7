"""Random numbers for several purposes from one seed."""

from __future__ import annotations

import zlib

import numpy as np
import torch


def stream(seed: int, purpose: str) -> torch.Generator:
    """A generator of its own for each purpose, so that using one more leaves the others alone.

    Seeding two generators alike would make their numbers equal: a projector whose weights are
    the first factors.
    """
    state = np.random.SeedSequence([seed, zlib.crc32(purpose.encode())]).generate_state(1)
    return torch.Generator().manual_seed(int(state[0]))
