"""What a forward pass is given beside the text: soft tokens, steering, and what they cost."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from jobs.llm.sequences import Batch


class Conditions(Protocol):
    """Given to each forward pass, in training and in scoring."""

    @property
    def is_random(self) -> bool:
        """Whether training draws numbers; the trainer then seeds them for each batch."""

    def given(self, batch: Batch, *, is_training: bool) -> dict[str, Any]:
        """`soft`, and whatever reaches the attention function: see `answer_logits`."""

    def penalty(self, batch: Batch) -> Tensor:
        """Scalar that is added to the mean loss of the batch that `given` was last asked for."""


class _TextAlone:
    is_random = False

    def given(self, batch: Batch, *, is_training: bool) -> dict[str, Any]:
        return {}

    def penalty(self, batch: Batch) -> Tensor:
        return torch.zeros((), device=batch.input_ids.device)


TEXT_ALONE: Conditions = _TextAlone()
