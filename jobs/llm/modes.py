"""Which parts of a model behave as in training, and which as in use."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

_DROPOUT = re.compile(r"\.lora_dropout\.\w+$")


def set_modes(model: Any, gradient_checkpointing: bool) -> bool:
    """The backbone as in use, the adapters' dropout as in training; whether there is any.

    Nothing but the adapters may be random: a backbone's own dropout stays off.
    """
    model.eval()
    drops = [m for name, m in model.named_modules() if _DROPOUT.search(name)]
    for module in drops:
        module.train()
    if gradient_checkpointing:
        _compute_twice(model)
    if model.dtype != torch.float32:
        for module in model.modules():
            if hasattr(module, "cast_input_dtype_enabled"):
                module.cast_input_dtype_enabled = False  # autocast does it, in bfloat16
    return any(isinstance(module, nn.Dropout) for module in drops)


def _compute_twice(model: Any) -> None:
    """Keep the input of each layer alone, and compute the rest again on the way back."""
    # transformers renamed it; without arguments the older one would choose re-entrant.
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable({"use_reentrant": False})
    else:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    for module in model.modules():
        if getattr(module, "gradient_checkpointing", False):
            module.training = True  # layers look at it, and their parts do not


@contextmanager
def still(model: Any) -> Iterator[None]:
    """Neither dropout nor layers that are computed twice inside."""
    awake = [module for module in model.modules() if module.training]
    for module in awake:
        module.training = False
    try:
        yield
    finally:
        for module in awake:
            module.training = True
