"""Soft tokens of an LLM: as published, or projected from their inputs when they are read.

What a version says about them is in its attribute `soft_tokens`, by kind (`user`, `item`, `warm`):

    {"inputs": "user_token_inputs", "tokens": "user_tokens", "weights": "token_weights.safetensors",
     "prefix": "user.", "mapper": "mlp", "scale": 0.125, "n_tokens": 3,
     "histories": {"table": "item_token_inputs", "column": "history"}}

`tokens` is missing where they are not materialised, `histories` where a kind is never known by a
history alone. The versions before had `factors` for `inputs`, `projector` for `weights` and
weights without a prefix, of an MLP: they are read as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from embedding_store.errors import BadInput, Incompatible, NotFound

if TYPE_CHECKING:
    from embedding_store.lookup import Ids, Version

Source = Literal["auto", "materialised", "projected"]
Absent = Literal["refuse", "unknown"]
Histories: TypeAlias = "Sequence[Ids] | pa.Array | pa.ChunkedArray"
Floats = NDArray[np.floating[Any]]
Weights = Mapping[str, NDArray[np.float32]]

_NAMES = {
    "mlp": ("hidden.weight", "hidden.bias", "output.weight", "output.bias"),
    "linear": ("output.weight", "output.bias"),
}
_CHUNK = 8_192  # rows projected at once


@dataclass(frozen=True)
class Recipe:
    """How the soft tokens of one kind are had from a version; see the module's docstring."""

    version: Version
    kind: str
    n_tokens: int
    scale: float
    mapper: str
    weights: str
    prefix: str
    inputs: str | None
    tokens: str | None
    histories: Mapping[str, str] | None

    def shaped(self, rows: np.ndarray, dtype: Any) -> np.ndarray:
        """(n, n_tokens * d_llm) -> (n, n_tokens, d_llm)."""
        return rows.astype(dtype).reshape(len(rows), self.n_tokens, rows.shape[1] // self.n_tokens)

    def projected(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n, d_in) -> (n, n_tokens * d_llm)."""
        return project(inputs, self._tensors(_NAMES[self._readable()]), self.scale)

    def unknown(self) -> NDArray[np.float32]:
        """(n_tokens * d_llm,) the tokens of an id of which nothing is known; they are not scaled.

        Raises:
            NotFound: the version has none.
        """
        found = _file(self.version.file(self.weights)).get(f"{self.prefix}unknown")
        if found is None:
            raise NotFound(
                f"version {self.version.version} has no {self.kind} tokens for ids of which "
                "nothing is known; leave them out"
            )
        return found.reshape(-1)

    def rows(self, ids: Ids, source: Source) -> NDArray[np.float32]:
        """(n, n_tokens * d_llm) of ids that are there; from the table, or projected."""
        if source != "projected" and self.tokens is not None:
            return self.version[self.tokens].vectors_of(ids)
        if source == "materialised":
            raise NotFound(
                f"version {self.version.version} has no table of {self.kind} tokens; project them"
            )
        return self.projected(self.version[self._inputs()].vectors_of(ids))

    def known(self, ids: Ids, source: Source) -> np.ndarray:
        """(n,) bool: which of `ids` have tokens of their own."""
        table = self.tokens if source != "projected" and self.tokens else self._inputs()
        return self.version[table].places_of(ids) >= 0

    def _inputs(self) -> str:
        if self.inputs is None:
            raise NotFound(
                f"version {self.version.version} has no table of what {self.kind} tokens are "
                "projected from; they are known by their histories alone"
            )
        return self.inputs

    def _readable(self) -> str:
        if self.mapper not in _NAMES:
            table = f"read the table {self.tokens}" if self.tokens else "publish their table"
            raise Incompatible(
                f"{self.kind} tokens of version {self.version.version} are made by a "
                f"{self.mapper}, which readers do not apply; {table}"
            )
        return self.mapper

    def _tensors(self, names: Sequence[str]) -> Weights:
        tensors = _file(self.version.file(self.weights))
        if missing := [name for name in names if f"{self.prefix}{name}" not in tensors]:
            lacking = ", ".join(f"{self.prefix}{name}" for name in missing)
            raise Incompatible(f"{self.weights} is not a projector: it has no {lacking}")
        return {name: tensors[f"{self.prefix}{name}"] for name in names}


def soft_tokens(
    version: Version,
    kind: str,
    ids: Ids,
    dtype: Any = np.float32,
    source: Source = "auto",
    absent: Absent = "refuse",
) -> np.ndarray:
    """(n, n_tokens, d_llm) soft tokens, in the order of `ids`.

    Args:
        version: an opened version.
        kind: `user`, `item` or `warm`, or whatever the version has recipes for.
        ids: of that kind's tables.
        dtype: float32 or float16.
        source: `materialised` from the table of tokens, `projected` from their inputs; `auto`
            takes the table where there is one.
        absent: `unknown` gives ids that the tables do not hold the tokens that were learned for
            those of which nothing is known; `refuse` raises.

    Raises:
        NotFound: the version says nothing of soft tokens of that kind, or of that source.
        IdNotFound: ids that the table does not hold.
        Incompatible: the tokens are made by a mapper that readers do not apply, or by weights
            that do not fit the inputs.
    """
    _check(dtype=dtype, source=source, absent=absent)
    recipe = _recipe(version, kind)
    if absent == "refuse":
        return recipe.shaped(recipe.rows(ids, source), dtype)
    known = recipe.known(ids, source)
    tokens = np.tile(recipe.unknown(), (len(known), 1))
    if known.any():
        there = pa.array(ids) if not isinstance(ids, pa.Array | pa.ChunkedArray) else ids
        tokens[known] = recipe.rows(there.filter(pa.array(known)), source)
    return recipe.shaped(tokens, dtype)


def soft_tokens_of_histories(
    version: Version, histories: Histories, kind: str = "user", dtype: Any = np.float32
) -> np.ndarray:
    """(n, n_tokens, d_llm) soft tokens of users of whom only a history is known.

    The input of such a user is the mean of what his items add to it (the column that the recipe
    names); items that the version does not hold add nothing. Without an item that it does hold,
    the tokens are those of a user of whom nothing is known.

    Args:
        version: an opened version.
        histories: for each user, the ids of the items that he may see; or an Arrow array of lists.
        kind: whose tokens.
        dtype: float32 or float16.

    Raises:
        NotFound: the version says nothing of soft tokens of that kind, or not how a history
            makes them.
        Incompatible: as `soft_tokens`.
    """
    _check(dtype=dtype)
    recipe = _recipe(version, kind)
    if recipe.histories is None:
        raise NotFound(
            f"version {version.version} does not say how a history makes {kind} tokens; take "
            "absent='unknown' of soft_tokens for ids that it does not hold"
        )
    table = version[recipe.histories["table"]]
    ids, lengths = _flattened(histories)
    means, is_known = _means(
        table.matrix(recipe.histories["column"]), table.places_of(ids), lengths
    )
    tokens = np.tile(recipe.unknown(), (len(lengths), 1))
    tokens[is_known] = recipe.projected(means[is_known])
    return recipe.shaped(tokens, dtype)


def _means(
    vectors: NDArray[np.float32], places: NDArray[np.int64], lengths: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Mean vector of each history, and whether any of its items is known.

    Args:
        vectors: (n_items, d).
        places: rows of `vectors`, all histories one after another; -1 for unknown items.
        lengths: (n,) how many places each history has.

    Returns:
        (n, d), zero where nothing is known; and (n,).
    """
    means = np.zeros((len(lengths), vectors.shape[1]), dtype=np.float32)
    is_known = np.zeros(len(lengths), dtype=np.bool_)
    ends = np.cumsum(lengths)
    for user, (start, end) in enumerate(zip(ends - lengths, ends, strict=True)):
        known = places[start:end]
        known = known[known >= 0]
        is_known[user] = len(known) > 0
        if len(known):
            means[user] = vectors[known].mean(axis=0, dtype=np.float64)
    return means, is_known


def _check(*, dtype: Any, source: str = "auto", absent: str = "refuse") -> None:
    if np.dtype(dtype) not in (np.dtype(np.float32), np.dtype(np.float16)):
        raise BadInput(f"dtype is {dtype!r}; soft tokens are float32 or float16")
    if source not in ("auto", "materialised", "projected"):
        raise BadInput(f"source={source!r} is none of auto, materialised, projected")
    if absent not in ("refuse", "unknown"):
        raise BadInput(f"absent={absent!r} is none of refuse, unknown")


def _flattened(histories: Histories) -> tuple[pa.Array, NDArray[np.int64]]:
    """All ids one after another, and how many of them each history has."""
    try:
        lists = (
            histories if isinstance(histories, pa.Array | pa.ChunkedArray) else _lists(histories)
        )
    except (pa.ArrowException, TypeError) as error:
        raise BadInput(f"histories are lists of ids, one for each user; {error}") from error
    if isinstance(lists, pa.ChunkedArray):
        lists = lists.combine_chunks()
    if not (pa.types.is_list(lists.type) or pa.types.is_large_list(lists.type)):
        raise BadInput(f"histories are lists of ids, one for each user; got {lists.type}")
    lengths = lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    return lists.flatten(), lengths.astype(np.int64)


def _lists(histories: Sequence[Ids]) -> pa.Array:
    if any(isinstance(ids, str | bytes) for ids in histories):
        raise TypeError("a text is no list")
    is_arrow = (pa.Array, pa.ChunkedArray)
    made = pa.array([ids.to_pylist() if isinstance(ids, is_arrow) else ids for ids in histories])
    return made if len(made) else made.cast(pa.list_(pa.null()))


def project(inputs: NDArray[np.float32], weights: Weights, scale: float) -> NDArray[np.float32]:
    """(n, d_in) -> (n, n_tokens * d_llm): scale * (W2 gelu(W1 x + b1) + b2), in float32.

    Without W1 and b1 (`hidden.*`) it is scale * (W2 x + b2). The GELU is the exact one,
    x (1 + erf(x / sqrt 2)) / 2 (Hendrycks and Gimpel 2016).
    """
    first = weights.get("hidden.weight", weights["output.weight"])
    if inputs.shape[1] != first.shape[1]:
        raise Incompatible(
            f"the projector takes {first.shape[1]} dimensions, the inputs have {inputs.shape[1]}"
        )
    made = np.empty((len(inputs), len(weights["output.bias"])), dtype=np.float32)
    for start in range(0, len(inputs), _CHUNK):
        rows = slice(start, start + _CHUNK)
        hidden = inputs[rows]
        if "hidden.weight" in weights:
            hidden = _gelu(hidden @ weights["hidden.weight"].T + weights["hidden.bias"])
        output = hidden @ weights["output.weight"].T + weights["output.bias"]
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


def _recipe(version: Version, kind: str) -> Recipe:
    recipes = version.attributes.get("soft_tokens") or {}
    if kind not in recipes:
        there = ", ".join(sorted(recipes)) or "none"
        raise NotFound(
            f"version {version.version} says nothing of soft tokens of '{kind}'; there is: {there}"
        )
    said = recipes[kind]
    return Recipe(
        version=version,
        kind=kind,
        n_tokens=int(said["n_tokens"]),
        scale=float(said["scale"]),
        mapper=said.get("mapper", "mlp"),
        weights=said.get("weights") or said["projector"],
        prefix=said.get("prefix", ""),
        inputs=said.get("inputs") or said.get("factors"),
        tokens=said.get("tokens"),
        histories=said.get("histories"),
    )


@lru_cache(maxsize=8)
def _file(path: Path) -> dict[str, NDArray[np.float32]]:
    """All weights of a file; a version's file never changes, so its path names its content."""
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise Incompatible(f"{path.name} is not a safetensors file ({error})") from error
    return {name: tensor.astype(np.float32) for name, tensor in tensors.items()}
