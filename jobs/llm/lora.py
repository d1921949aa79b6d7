"""Low-rank adapters inside a frozen backbone: put in, read out, folded into the weights."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn

from jobs.errors import JobError

ALL_LINEAR = "all-linear"
# peft's own names in a file, so that other programs can read an adapter of ours.
_PREFIX = "base_model.model."
_NAME = "default"
_INJECTED = re.compile(r"\.(lora_[AB])\.default\.weight$")


class AdapterError(JobError):
    """An adapter is missing, incomplete, or made for another backbone."""


def linear_names(model: Any) -> list[str]:
    """Last parts of the names of the decoder's linear layers, sorted: "down_proj", "q_proj", ..."""
    decoder: nn.Module = model.get_decoder()
    return sorted(
        {name.rsplit(".", 1)[-1] for name, m in decoder.named_modules() if isinstance(m, nn.Linear)}
    )


def chosen_targets(model: Any, targets: str) -> list[str]:
    """The linear layers that `targets` names: `all-linear`, or names with commas between.

    Raises:
        AdapterError: the backbone has no such layer; says which it has.
    """
    known = linear_names(model)
    if targets == ALL_LINEAR:
        return known
    wanted = [name.strip() for name in targets.split(",") if name.strip()]
    absent = [name for name in wanted if name not in known]
    if absent or not wanted:
        raise AdapterError(
            f"targets {targets!r}: the backbone has no linear layer "
            f"{', '.join(absent) or 'without a name'}; it has {', '.join(known)}"
        )
    return sorted(set(wanted))


def inject(
    model: Any, *, rank: int, alpha: float, dropout: float, targets: Sequence[str], seed: int
) -> dict[str, nn.Parameter]:
    """Puts h = W x + (alpha / rank) B A dropout(x) in place of the named linear layers.

    Hu et al. 2021, equation 3: A is drawn at random from `seed`, B is zero, so that the model
    computes what it did before. Only A and B learn; they are float32 whatever the backbone is.

    Returns:
        The weights that learn, by the name that a file gives them, sorted.
    """
    # Here and not at the top: a run with nothing to do must not pay five seconds for it.
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type, unused-ignore] # a float is multiplied as well
        lora_dropout=dropout,
        target_modules=list(targets),
        bias="none",
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # peft speaks of tied heads and of wrapping twice; neither is a fault here.
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model)
    learned = dict(sorted(_learned(model)))
    for parameter in learned.values():
        parameter.data = parameter.data.float()
        parameter.requires_grad_(True)
    if dropout == 0 and model.dtype == torch.float32:
        for layer in model.modules():
            if isinstance(layer, LoraLinear):
                layer.forward = partial(_forward, layer)
    return learned


def peft_config(
    backbone: str, rank: int, alpha: float, dropout: float, targets: Sequence[str]
) -> dict[str, Any]:
    """What peft's adapter_config.json says of an adapter that `inject` made."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": backbone,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": dropout,
        "target_modules": list(targets),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }


class _LowRankSum(torch.autograd.Function):
    """y = x W^T + bias + scale (x A^T) B^T, written into one output; W learns nothing.

    The same sum as peft's, without its passes over a second output of the layer's size, which cost
    a twelfth of a step on one thread and, each with a barrier, more on several.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float
    ) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        low = flat @ a.t()
        ctx.save_for_backward(flat, low, weight, a, b)
        ctx.scale = scale
        y = nn.functional.linear(flat, weight, bias).addmm_(low, b.t(), alpha=scale)
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        flat, low, weight, a, b = ctx.saved_tensors
        upper = gradients[0].reshape(-1, weight.shape[0])
        of_low = (upper @ b).mul_(ctx.scale)
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = (upper @ weight).addmm_(of_low, a).view(*gradients[0].shape[:-1], -1)
        of_b = (upper.t() @ low).mul_(ctx.scale)
        return of_x, None, None, of_low.t() @ flat, of_b, None


def _forward(layer: Any, x: Tensor) -> Tensor:
    """What an injected layer computes without dropout, in float32."""
    base, name = layer.base_layer, _NAME
    apply: Any = _LowRankSum.apply  # carries no types
    return apply(
        x,
        base.weight,
        base.bias,
        layer.lora_A[name].weight,
        layer.lora_B[name].weight,
        layer.scaling[name],
    )


def _learned(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    for name, parameter in model.named_parameters():
        if _INJECTED.search(name):
            yield _PREFIX + _INJECTED.sub(r".\1.weight", name), parameter


def tensors_of(learned: Mapping[str, nn.Parameter]) -> dict[str, np.ndarray]:
    """Copies of the weights as float32, by name: what a file holds."""
    return {name: parameter.detach().cpu().numpy().copy() for name, parameter in learned.items()}


def assign(learned: Mapping[str, nn.Parameter], tensors: Mapping[str, np.ndarray]) -> None:
    """Give the weights that learn the values of an adapter.

    Raises:
        AdapterError: the adapter has other layers or another shape.
    """
    difference = sorted(learned.keys() ^ tensors.keys())
    if difference:
        side = "the backbone has no place for" if difference[0] in tensors else "it lacks"
        raise AdapterError(
            f"the adapter has other layers than asked for: {side} {difference[0]} "
            f"({len(difference)} tensors differ); give the --targets that it was made with"
        )
    for name, parameter in learned.items():
        given = tensors[name]
        if tuple(given.shape) != tuple(parameter.shape):
            raise AdapterError(
                f"the adapter's {name} is {tuple(given.shape)}, the backbone wants "
                f"{tuple(parameter.shape)}; it is of another rank or another backbone"
            )
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(given))


def fold(model: Any, tensors: Mapping[str, np.ndarray], scale: float) -> None:
    """Adds scale * B A to the weights of the layers that an adapter names; in float32.

    The model then computes what the injected one does, at the cost of the plain one. In bfloat16
    the sum would be rounded to eight bits and lose what was learned: `inject` and `assign` then.

    Raises:
        AdapterError: the backbone has no such layer, or one of another shape.
    """
    layers = dict(model.named_modules())
    names = sorted({name.rsplit(".lora_", 1)[0] for name in tensors})
    for name in names:
        layer = layers.get(name.removeprefix(_PREFIX))
        a, b = (tensors.get(f"{name}.lora_{side}.weight") for side in "AB")
        if not isinstance(layer, nn.Linear) or a is None or b is None:
            raise AdapterError(f"the adapter changes {name}, which the backbone does not have")
        if (b.shape[0], a.shape[1]) != tuple(layer.weight.shape) or b.shape[1] != a.shape[0]:
            raise AdapterError(
                f"the adapter's {name} is {b.shape} x {a.shape}, the backbone's layer "
                f"{tuple(layer.weight.shape)}: it was made for another backbone"
            )
        delta = torch.from_numpy(b).float() @ torch.from_numpy(a).float() * scale
        with torch.no_grad():
            layer.weight += delta.to(layer.weight)
