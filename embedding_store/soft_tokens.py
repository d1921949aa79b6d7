"""Soft tokens of an LLM: as published, or projected from factors when they are read.

What a version says about them is in its attribute `soft_tokens`, by kind (`item`, `user`):

    {"factors": "item_factors", "tokens": "item_tokens", "projector": "projectors.safetensors",
     "scale": 0.125, "n_tokens": 1}

`tokens` is missing where they are not materialised; then `projector` and `scale` make them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from embedding_store.errors import BadInput, Incompatible, NotFound

if TYPE_CHECKING:
    from embedding_store.lookup import Ids, Version

Source = Literal["auto", "materialised", "projected"]
Floats = NDArray[np.floating[Any]]

_WEIGHTS = ("hidden.weight", "hidden.bias", "output.weight", "output.bias")
_CHUNK = 8_192  # rows projected at once


def soft_tokens(
    version: Version, kind: str, ids: Ids, dtype: Any = np.float32, source: Source = "auto"
) -> np.ndarray:
    """(n, n_tokens, d_llm) soft tokens, in the order of `ids`.

    Args:
        version: an opened version.
        kind: `item` or `user`, or whatever the version has recipes for.
        ids: of that kind's tables.
        dtype: float32 or float16.
        source: `materialised` from the table of tokens, `projected` from the factors; `auto`
            takes the table where there is one.

    Raises:
        NotFound: the version says nothing of soft tokens of that kind, or of that source.
        IdNotFound: ids that the table does not hold.
    """
    if np.dtype(dtype) not in (np.dtype(np.float32), np.dtype(np.float16)):
        raise BadInput(f"dtype is {dtype!r}; soft tokens are float32 or float16")
    if source not in ("auto", "materialised", "projected"):
        raise BadInput(f"source={source!r} is none of auto, materialised, projected")
    recipe = _recipe(version, kind)
    table = recipe.get("tokens")
    if source == "materialised" and table is None:
        raise NotFound(f"version {version.version} has no table of {kind} tokens; project them")
    if table is not None and source != "projected":
        tokens = version[table].vectors_of(ids)
    else:
        factors = version[recipe["factors"]].vectors_of(ids)
        tokens = project(factors, _weights(version.file(recipe["projector"])), recipe["scale"])
    return tokens.astype(dtype).reshape(len(tokens), recipe["n_tokens"], -1)


def project(
    factors: NDArray[np.float32], weights: Mapping[str, NDArray[np.float32]], scale: float
) -> NDArray[np.float32]:
    """(n, d_cf) -> (n, n_tokens * d_llm): scale * (W2 gelu(W1 x + b1) + b2), in float32.

    The GELU is the exact one, x (1 + erf(x / sqrt 2)) / 2 (Hendrycks and Gimpel 2016).
    """
    if factors.shape[1] != weights["hidden.weight"].shape[1]:
        raise Incompatible(
            f"the projector takes {weights['hidden.weight'].shape[1]} dimensions, "
            f"the factors have {factors.shape[1]}"
        )
    made = np.empty((len(factors), len(weights["output.bias"])), dtype=np.float32)
    for start in range(0, len(factors), _CHUNK):
        rows = slice(start, start + _CHUNK)
        hidden = factors[rows] @ weights["hidden.weight"].T + weights["hidden.bias"]
        output = _gelu(hidden) @ weights["output.weight"].T + weights["output.bias"]
        made[rows] = output * np.float64(scale)  # one rounding, as where tokens are materialised
    return made


def _gelu(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Exact to 1e-7, by formula 7.1.26 of Abramowitz and Stegun for erf."""
    size = np.abs(values) * np.float32(np.sqrt(0.5))
    t = 1 / (1 + np.float32(0.3275911) * size)
    series = np.zeros_like(t)
    for factor in (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592):
        series = (series + np.float32(factor)) * t
    erf = np.copysign(1 - series * np.exp(-size * size), values)
    return values * (1 + erf) / 2


def _recipe(version: Version, kind: str) -> Mapping[str, Any]:
    recipes = version.attributes.get("soft_tokens") or {}
    if kind not in recipes:
        there = ", ".join(sorted(recipes)) or "none"
        raise NotFound(
            f"version {version.version} says nothing of soft tokens of '{kind}'; there is: {there}"
        )
    return recipes[kind]


@lru_cache(maxsize=8)
def _weights(path: Path) -> dict[str, NDArray[np.float32]]:
    """The projector's weights; a version's file never changes, so its path names its content."""
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise Incompatible(f"{path.name} is not a safetensors file ({error})") from error
    if missing := [name for name in _WEIGHTS if name not in tensors]:
        raise Incompatible(f"{path.name} is not a projector: it has no {', '.join(missing)}")
    return {name: tensors[name].astype(np.float32) for name in _WEIGHTS}
