"""Aligned matrix factorisation: user and item factors, biases, and the projector to the LLM."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from jobs.collab.agreement import N_NEIGHBOURS, mean_cosine, neighbour_overlap
from jobs.collab.factors import UNKNOWN, Factors, Floats, Ints, Ratings
from jobs.collab.infonce import InfoNceConfig, ItemAlignment
from jobs.collab.mf import Epoch, Fit, MfConfig, first_factors, fit
from jobs.datasets import ITEM_FACTORS, ITEM_SEMANTICS, PROJECTORS, SPLITS, USER_FACTORS
from jobs.errors import ContractError
from jobs.job import Run, main
from jobs.progress import progress
from jobs.tokens.projector import Projector
from jobs.tokens.threads import torch_threads
from jobs.vector_columns import as_column, as_matrix


class AlignConfig(MfConfig, InfoNceConfig):
    """Matrix factorisation with biases, its item factors aligned to the item embeddings.

    The defaults are tuned on the valid AUC of MovieLens-1M; docs/alignment.md has the record.
    """

    n_threads: int = Field(default=1, gt=0, description="torch threads; the last bits depend on it")


@dataclass(frozen=True)
class Agreement:
    """How the two spaces agree; None where there is nothing to compare.

    Attributes:
        cosine: mean cosine of a projected item factor with the item's embedding.
        overlap: share of an item's 10 nearest items, by cosine of factors, that are also among
            the 10 nearest by embedding.
        overlap_unseen: the same over items without train events.
    """

    cosine: float
    overlap: float | None
    overlap_unseen: float | None


@dataclass(frozen=True)
class Aligned:
    """Factors, the projector that goes with them, and how they came about."""

    factors: Factors
    projector: Projector
    best: Epoch
    n_epochs: int
    before: Agreement
    after: Agreement


def align(
    train: Ratings,
    valid: Ratings,
    n_users: int,
    targets: Floats,
    groups: Ints,
    config: AlignConfig,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
) -> Aligned:
    """Factors whose item side, projected, points where the item embeddings point.

    `alignment_weight = 0` gives the plain matrix factorisation, bit for bit, and a random
    projector.

    Args:
        train: events of known users and items.
        valid: events to stop on.
        n_users: rows of the user table.
        targets: (n_items, d_llm) item embeddings of unit length; the whole catalogue.
        groups: (n_items,) equal where the text is equal.
        config: see `AlignConfig`.
        on_epoch: told after every epoch.

    Raises:
        JobError: as `jobs.collab.mf.fit`.
    """
    n_items = len(targets)
    alignment = ItemAlignment(targets, groups, config.n_factors, config, config.seed)
    unseen = np.setdiff1d(np.arange(n_items), train.items)
    first = first_factors(train, n_users, n_items, config)
    before = agreement(first, alignment.projector, targets, unseen)
    used = alignment if config.alignment_weight > 0 else None
    fitted: Fit = fit(train, valid, n_users, n_items, config, used, on_epoch)
    return Aligned(
        factors=fitted.factors,
        projector=alignment.projector,
        best=fitted.best,
        n_epochs=fitted.n_epochs,
        before=before,
        after=agreement(fitted.factors, alignment.projector, targets, unseen),
    )


def agreement(factors: Factors, projector: Projector, targets: Floats, unseen: Ints) -> Agreement:
    """How `factors` and `targets` (n_items, d_llm) agree; `unseen` are rows without events."""
    every = np.arange(len(targets))
    return Agreement(
        cosine=mean_cosine(projector.project(factors.item_factors), targets),
        overlap=neighbour_overlap(factors.item_factors, targets, every),
        overlap_unseen=neighbour_overlap(factors.item_factors, targets, unseen),
    )


# -- tables --------------------------------------------------------------------------------------


def ratings_of(splits: pa.Table, split: str, users: pa.Array, items: pa.Array) -> Ratings:
    """The rows of one split as row numbers of `users` and `items`, the two tables' ids.

    A user who is not in `users` becomes UNKNOWN.

    Raises:
        ContractError: an item is not in `items`, or ids are of two types.
    """
    rows = splits.filter(pc.equal(splits["split"], split))
    places = {}
    for name, ids in (("user_id", users), ("item_id", items)):
        if rows[name].type != ids.type:
            raise ContractError(
                f"{SPLITS.name}.{name} is {rows[name].type}, the table of factors has {ids.type}"
            )
        found = pc.fill_null(pc.index_in(rows[name], value_set=ids), UNKNOWN)
        places[name] = found.to_numpy().astype(np.int64)
    missing = np.flatnonzero(places["item_id"] == UNKNOWN)
    if len(missing):
        raise ContractError(
            f"{SPLITS.name}: {len(missing)} {split} rows have an item that {ITEM_SEMANTICS.name} "
            f"lacks, for instance {rows['item_id'][int(missing[0])]}; distil the whole catalogue"
        )
    labels = rows["label"].to_numpy().astype(np.float32)
    return Ratings(places["user_id"], places["item_id"], labels)


def _user_ids(splits: pa.Table) -> pa.Array:
    """Ids of the users in train, ascending."""
    train = splits.filter(pc.equal(splits["split"], "train"))
    return train["user_id"].unique().sort()


def _factor_table(
    key: str, ids: pa.Array, factors: Floats, biases: Floats, rows_of_events: Ints
) -> pa.Table:
    n_events = np.bincount(rows_of_events, minlength=len(ids)).astype(np.int32)
    return pa.table(
        {key: ids, "factor": as_column(factors), "bias": pa.array(biases), "n_events": n_events}
    )


def _record(run: Run, aligned: Aligned, n_unseen: int) -> None:
    figures = {
        "valid_auc": aligned.best.valid_auc,
        "best_epoch": aligned.best.number,
        "n_epochs": aligned.n_epochs,
        "train_log_loss": aligned.best.loss,
        "alignment_loss": aligned.best.alignment_loss,
        "mean_cosine_before": aligned.before.cosine,
        "mean_cosine": aligned.after.cosine,
        f"neighbour_overlap_{N_NEIGHBOURS}_before": aligned.before.overlap,
        f"neighbour_overlap_{N_NEIGHBOURS}": aligned.after.overlap,
        f"neighbour_overlap_{N_NEIGHBOURS}_unseen": aligned.after.overlap_unseen,
        "n_unseen_items": n_unseen,
    }
    for name, value in figures.items():
        if value is not None:
            run.metric(name, value)


def job(config: AlignConfig, run: Run) -> None:
    """Fit on the train rows, stop on the valid rows; the test rows are never looked at."""
    splits = run.read(SPLITS).select(["split", "user_id", "item_id", "label"])
    semantics = run.read(ITEM_SEMANTICS)
    users = _user_ids(splits)
    items = semantics["item_id"].combine_chunks()
    train, valid = (ratings_of(splits, split, users, items) for split in ("train", "valid"))
    groups = semantics["content_key"].combine_chunks().dictionary_encode().indices.to_numpy()
    with ExitStack() as stack:
        stack.enter_context(torch_threads(config.n_threads))
        advance = stack.enter_context(progress("align", config.max_epochs, "epochs"))
        aligned = align(
            train,
            valid,
            len(users),
            as_matrix(semantics["vector"]),
            groups.astype(np.int64),
            config,
            on_epoch=lambda epoch: advance(1, valid_auc=epoch.valid_auc or 0.0, loss=epoch.loss),
        )
    factors = aligned.factors
    run.write(
        USER_FACTORS,
        _factor_table("user_id", users, factors.user_factors, factors.user_biases, train.users),
    )
    item_table = _factor_table(
        "item_id", items, factors.item_factors, factors.item_biases, train.items
    )
    run.write(ITEM_FACTORS, item_table)
    run.write_tensors(
        PROJECTORS,
        {
            **aligned.projector.tensors(),
            "global_bias": np.array([factors.global_bias], dtype=np.float32),
            "temperature": np.array([config.temperature], dtype=np.float32),
        },
    )
    _record(run, aligned, int(pc.sum(pc.equal(item_table["n_events"], 0)).as_py()))


if __name__ == "__main__":
    main("align", AlignConfig, job)
