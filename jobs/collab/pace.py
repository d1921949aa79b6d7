"""How often an epoch aligns, so that large data does not pay for alignment at every step."""

from __future__ import annotations

import math


def aligned_steps(n_steps: int, min_steps: int, steps_a_pass: int, passes: float) -> list[bool]:
    """Which steps of an epoch align: evenly spread, for at most `passes` over the catalogue.

    A step of the factorisation costs its events, an aligned one also two matrix products for each
    aligned row, which cost some ten times as much. What alignment needs is passes over the
    catalogue, not steps: with 10 events an item they are the same, with 1,000 they are not.

    Args:
        n_steps: of the epoch.
        min_steps: that align in any case, as far as there are so many.
        steps_a_pass: that one pass over the catalogue takes.
        passes: of an epoch, at most.

    Returns:
        (n_steps,) whether each aligns.
    """
    n = min(n_steps, max(min_steps, math.ceil(passes * steps_a_pass)))
    return [(k + 1) * n // n_steps > k * n // n_steps for k in range(n_steps)]
