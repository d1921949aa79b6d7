"""Item embeddings to a few codes each: what a profile of users counts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from jobs.codebook.audit import code_entropy, top_members
from jobs.codebook.last_codes import last_codes
from jobs.codebook.matching import Drift, Ints, drift, matched_numbers
from jobs.codebook.quantiser import (
    Encoded,
    Floats,
    Space,
    bits_for,
    encode,
    principal_space,
    train,
    train_on,
)
from jobs.codebook.tables import codebook_table, item_codes_table
from jobs.collab.profiles import lifted_centroids
from jobs.datasets import (
    CODEBOOK,
    CODEBOOK_SPACE,
    ITEM_CODES,
    ITEM_SEMANTICS,
    ITEM_TEXTS,
    SPLITS,
)
from jobs.errors import JobError
from jobs.job import Config, Declared, Run, main
from jobs.llm.carry_over import is_of_the_same_version
from jobs.vector_columns import as_matrix


class CodebookConfig(Config):
    """Residual codes of the item embeddings, with numbers that stay from night to night."""

    n_levels: int = Field(default=3, ge=1, le=8, description="codes of an item (M)")
    n_bits: int = Field(
        default=5, ge=1, le=12, description="log2 of the codes of a level: 5 are 32, 7 are 128"
    )
    min_items_per_code: int = Field(
        default=4, ge=1, description="with fewer different items a code, a level has fewer codes"
    )
    n_dims: int = Field(default=128, ge=1, description="principal components that are quantised")
    seed: int = Field(default=0, ge=0, description="of the first centroids of k-means")
    lift: Literal["members", "residuals"] = Field(
        default="members",
        description="`lifted` is the mean of a code's items, or of what is left of them",
    )
    n_titles: int = Field(default=5, ge=0, description="items that show what a code is about")
    previous_version: int | None = Field(
        default=None,
        gt=0,
        description="codes take their numbers from this version of the store; "
        "without it they have numbers of their own",
    )
    start: Literal["last", "anew"] = Field(
        default="last",
        description="last: k-means goes on from that version's codes, where it has as many; "
        "anew: from random centroids, and only the numbers are matched",
    )


@dataclass(frozen=True)
class Codebook:
    """Codes of items, and what they mean.

    Attributes:
        codes: (n, n_levels).
        centroids: (n_levels, n_codes, n_dims) in the principal space.
        lifted: (n_levels, n_codes, d_llm) in the space of the embeddings.
        space: the principal space.
        distances: (n, n_levels) squared length of what each level leaves of an item.
        drift: of each level against the previous codes; empty without any.
    """

    codes: Ints
    centroids: Floats
    lifted: Floats
    space: Space
    distances: Floats
    drift: tuple[Drift, ...] = ()

    @property
    def n_codes(self) -> int:
        """Codes of a level."""
        return self.centroids.shape[1]

    @property
    def mse(self) -> list[float]:
        """Mean squared error after each level."""
        return Encoded(self.codes, self.distances).mse


def fit_codebook(
    semantics: Floats,
    config: CodebookConfig,
    fitted_on: Ints | None = None,
    previous: Ints | None = None,
) -> Codebook:
    """Residual codes of all items, by components and centroids of some.

    Args:
        semantics: (n, d_llm) embeddings of unit length.
        config: see `CodebookConfig`.
        fitted_on: rows that components and centroids are fitted to; None: all.
        previous: (n, any number of levels) last codes of the same items, `matching.UNKNOWN` where
            there are none; the new codes take over their numbers.

    Raises:
        JobError: there are no items.
    """
    if not len(semantics):
        raise JobError(f"{ITEM_SEMANTICS.name} has no rows; there is nothing to give codes to")
    fitted = semantics if fitted_on is None else semantics[fitted_on]
    space = principal_space(fitted, config.n_dims)
    known = previous if previous is None or fitted_on is None else previous[fitted_on]
    centroids = _centroids(space.project(fitted), config, known)
    encoded = encode(space.project(semantics), centroids)
    book = Codebook(
        codes=encoded.codes,
        centroids=centroids,
        lifted=lifted_centroids(semantics, encoded.codes, centroids.shape[1], config.lift),
        space=space,
        distances=encoded.distances,
    )
    return book if previous is None else renumbered(book, previous)


def _centroids(points: Floats, config: CodebookConfig, previous: Ints | None) -> Floats:
    n_bits = bits_for(len(np.unique(points, axis=0)), config.n_bits, config.min_items_per_code)
    shape = (config.n_levels, 2**n_bits)
    if config.start == "last" and previous is not None and shape == _shape_of(previous):
        return train_on(points, previous, shape[1])
    return train(points, config.n_levels, n_bits, config.seed)


def _shape_of(codes: Ints) -> tuple[int, int]:
    """Levels, and codes of a level as far as they are in use."""
    return codes.shape[1], int(codes.max(initial=-1)) + 1


def renumbered(book: Codebook, previous: Ints) -> Codebook:
    """The same codebook with the numbers of the previous one; see `matched_numbers`."""
    codes, centroids, lifted = book.codes.copy(), book.centroids.copy(), book.lifted.copy()
    moved = []
    for level in range(min(codes.shape[1], previous.shape[1])):
        numbers = matched_numbers(book.codes[:, level], previous[:, level], book.n_codes)
        codes[:, level] = numbers[book.codes[:, level]]
        centroids[level, numbers] = book.centroids[level]
        lifted[level, numbers] = book.lifted[level]
        moved.append(drift(codes[:, level], book.codes[:, level], previous[:, level]))
    return replace(book, codes=codes, centroids=centroids, lifted=lifted, drift=tuple(moved))


# -- tables --------------------------------------------------------------------------------------


def _rows_of_train(run: Run, items: pa.Array) -> Ints | None:
    """Rows of the items that have train events; None where there are none."""
    splits = run.read(SPLITS).select(["split", "item_id"])
    train_items = splits.filter(pc.equal(splits["split"], "train"))["item_id"].unique()
    rows = np.flatnonzero(pc.is_in(items, value_set=train_items).to_numpy(zero_copy_only=False))
    return rows if len(rows) else None


def _record(run: Run, book: Codebook) -> None:
    run.metric("n_items", len(book.codes))
    run.metric("n_codes", book.n_codes)
    run.metric("n_dims", len(book.space.components))
    run.metric("explained_variance", book.space.explained)
    for level, mse in enumerate(book.mse):
        counts = np.bincount(book.codes[:, level], minlength=book.n_codes)
        run.metric(f"mse_level_{level}", mse)
        run.metric(f"entropy_bits_level_{level}", code_entropy(counts))
        run.metric(f"dead_codes_level_{level}", int((counts == 0).sum()))
    for level, moved in enumerate(book.drift):
        run.metric(f"drift_level_{level}", moved.changed)
        run.metric(f"drift_unmatched_level_{level}", moved.changed_unmatched)
    if book.drift:
        run.metric("n_items_of_last_night", book.drift[0].n_items)


def job(config: CodebookConfig, run: Run) -> None:
    """Quantise the embeddings of the whole catalogue; components and centroids are of train."""
    semantics = run.read(ITEM_SEMANTICS).select(["item_id", "vector"])
    items = semantics["item_id"].combine_chunks()
    last = last_codes(run.home, items, config.previous_version, run.log)
    book = fit_codebook(
        as_matrix(semantics["vector"]), config, _rows_of_train(run, items), last.codes
    )
    about = {"n_levels": config.n_levels, "n_codes": book.n_codes, "lift": config.lift}
    texts = run.read(ITEM_TEXTS)
    titles = texts["title"].take(pc.index_in(items, value_set=texts["item_id"].combine_chunks()))
    shown = top_members(book.codes, book.distances, book.n_codes, config.n_titles)
    run.write(ITEM_CODES, item_codes_table(items, book.codes, about))
    run.write(CODEBOOK, codebook_table(book.codes, book.centroids, book.lifted, titles, shown))
    run.write_tensors(
        CODEBOOK_SPACE, {"mean": book.space.mean, "components": book.space.components}
    )
    _record(run, book)
    run.result = {"n_codes": book.n_codes, "drift": [round(d.changed, 4) for d in book.drift]}
    if last.version_sha256:
        run.result["previous_version_sha256"] = last.version_sha256
    run.log.info("codebook", **about)


DECLARED = Declared("codebook", CodebookConfig, job, intact=is_of_the_same_version)

if __name__ == "__main__":
    main(DECLARED)
