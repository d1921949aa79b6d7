"""How much memory alignment will take, from the sizes of its tables alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow.compute as pc
import pyarrow.parquet as pq

from jobs.collab.pace import aligned_steps
from jobs.datasets import ITEM_SEMANTICS, SPLITS
from jobs.job import Run

_PROGRAM = 445 << 20  # torch, numba and the rest, before any data
_FLOAT, _INT, _DOUBLE = 4, 8, 8
_EVENT = 2 * _INT + _FLOAT  # user, item, label
_ROW_OF_SPLITS = 50  # bytes of it in Arrow
_QUERIES_AT_ONCE, _COPIES = 256, 3  # of `jobs.collab.agreement`


@dataclass(frozen=True)
class Sizes:
    """What decides how much memory it takes.

    Attributes:
        n_users: rows of the user table.
        n_items: rows of the item table.
        n_train: events.
        n_valid: events.
        d_llm: length of an item embedding.
    """

    n_users: int
    n_items: int
    n_train: int
    n_valid: int
    d_llm: int


class Shape(Protocol):
    """The part of alignment's config that memory depends on."""

    @property
    def n_factors(self) -> int:
        """Length of a factor."""

    @property
    def semantics(self) -> str:
        """Whether the item embeddings are frozen, or learn."""


class Pace(Shape, Protocol):
    """What its time depends on, too."""

    @property
    def batch_size(self) -> int:
        """Events in a step, at most."""

    @property
    def min_steps(self) -> int:
        """Steps in an epoch, at least."""

    @property
    def aligned_items(self) -> int:
        """Items of the catalogue in a step."""

    @property
    def alignment_passes(self) -> float:
        """Over the catalogue, in an epoch, at most."""


def program_and_fit_bytes(sizes: Sizes, config: Shape) -> int:
    """Most that a process holds which fits and compares nothing."""
    return _PROGRAM + given_bytes(sizes) + fit_bytes(sizes, config) + semantics_bytes(sizes, config)


def given_bytes(sizes: Sizes) -> int:
    """What alignment is handed: events, item embeddings and their groups."""
    events = _EVENT * (sizes.n_train + sizes.n_valid)
    return events + sizes.n_items * (_FLOAT * sizes.d_llm + _INT)


def fit_bytes(sizes: Sizes, config: Shape) -> int:
    """Most that `jobs.collab.mf.fit` holds beside what it is given.

    A row of a table is first its factor and bias where training starts, then weights with two
    moments, and twice a copy of the weights when a better epoch takes the place of the best.
    """
    n_rows, width = sizes.n_users + sizes.n_items, _FLOAT * (config.n_factors + 1)
    counts = _FLOAT + _FLOAT + _INT  # steps, slots, events of a row
    start = n_rows * width
    tables = n_rows * (3 * width + counts)
    kept = n_rows * width
    # First biases: offsets, likelihoods and what becomes of them, in double precision.
    first = start + 4 * _DOUBLE * sizes.n_train
    in_an_epoch = start + tables + kept + _INT * sizes.n_train
    between_epochs = start + tables + 2 * kept + 3 * _FLOAT * sizes.n_valid
    return max(first, in_an_epoch, between_epochs)


def semantics_bytes(sizes: Sizes, config: Shape) -> int:
    """What item embeddings that learn add: weights and two moments, and two copies of the best."""
    if config.semantics == "frozen":
        return 0
    return 5 * _FLOAT * sizes.n_items * sizes.d_llm


def agreement_bytes(sizes: Sizes, config: Shape) -> int:
    """Most that comparing the two spaces of all items holds, after training."""
    rows = (sizes.n_users + sizes.n_items) * _FLOAT * (config.n_factors + 1)
    own = sizes.n_users * _FLOAT * config.n_factors
    spaces = _COPIES * sizes.n_items * _FLOAT * (sizes.d_llm + config.n_factors)
    return 2 * rows + own + spaces + 2 * _QUERIES_AT_ONCE * sizes.n_items * _FLOAT


def peak_bytes(sizes: Sizes, config: Shape) -> int:
    """Most that a process holds which aligns tables of these sizes."""
    compared = _PROGRAM + given_bytes(sizes) + agreement_bytes(sizes, config)
    return max(program_and_fit_bytes(sizes, config), compared)


def sizes_of(run: Run) -> Sizes:
    """Those of a night's tables."""
    splits = run.read(SPLITS).select(["split", "user_id"])
    train = splits.filter(pc.equal(splits["split"], "train"))
    semantics = pq.ParquetFile(run.locate(ITEM_SEMANTICS))
    return Sizes(
        n_users=pc.count_distinct(train["user_id"]).as_py(),
        n_items=semantics.metadata.num_rows,
        n_train=train.num_rows,
        n_valid=int(pc.sum(pc.equal(splits["split"], "valid")).as_py() or 0),
        d_llm=semantics.schema_arrow.field("vector").type.list_size,
    )


def estimate(config: Pace, run: Run) -> dict[str, Any]:
    """Sizes, steps and memory of a night's alignment, for --dry-run."""
    sizes = sizes_of(run)
    n_steps = max(math.ceil(sizes.n_train / config.batch_size), config.min_steps)
    a_pass = math.ceil(sizes.n_items / config.aligned_items)
    aligned = aligned_steps(
        max(1, min(n_steps, sizes.n_train)), config.min_steps, a_pass, config.alignment_passes
    )
    return {
        "users": sizes.n_users,
        "items": sizes.n_items,
        "train_events": sizes.n_train,
        "valid_events": sizes.n_valid,
        "steps_an_epoch": len(aligned),
        "aligned_steps_an_epoch": sum(aligned),
        "peak_memory_mb": round((peak_bytes(sizes, config) + _read_bytes(sizes)) / 2**20),
    }


def _read_bytes(sizes: Sizes) -> int:
    """The table of events as it is read, which stays with Arrow's allocator."""
    return _ROW_OF_SPLITS * (sizes.n_train + sizes.n_valid)
