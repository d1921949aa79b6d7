"""What user and item tokens are aligned to: profiles and texts, as points of the LLM's space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from jobs.collab.agreement import permuted_rows
from jobs.collab.align_tables import ratings_of
from jobs.collab.factors import UNKNOWN
from jobs.collab.profiles import ProfileConfig, merged_targets, profile_targets, unit
from jobs.collab.systems import Labelled, Requests
from jobs.collab.user_alignment import content_targets
from jobs.datasets import (
    CODEBOOK,
    DOMAINS,
    ITEM_SEMANTICS,
    LABEL_CODEBOOK,
    SPLITS,
    USER_PROFILES,
    Dataset,
)
from jobs.errors import JobError
from jobs.job import Run
from jobs.vector_columns import as_matrix

Floats = NDArray[np.float32]
ProfileKind = Literal["none", "content", "labels_hard", "codes_hard", "codes_soft"]
Vote = Literal["soft", "hard"]

_PROTOCOL = "paper"  # profiles of train rows alone: valid and test shall judge what learns of them


@dataclass(frozen=True)
class TokenTargets:
    """Where the tokens of users and items shall point.

    Attributes:
        users: (n_users, n_tokens, d_llm) of unit length, zero for a user without a profile; None
            where no profile is asked for.
        items: (n_items, 1, d_llm) of unit length, zero for an item without a text.
    """

    users: Floats | None
    items: Floats


def read_targets(
    run: Run,
    kind: ProfileKind,
    user_ids: pa.Array,
    item_ids: pa.Array,
    n_tokens: int,
    *,
    permuted_seed: int | None = None,
) -> TokenTargets:
    """The day's targets; a table that the kind does not need is not read.

    Args:
        run: reads the tables.
        kind: of profile, see `profile_of_tables` and `content_of_tables`.
        user_ids: the users, in the order of the result; any of them may lack a profile.
        item_ids: the items, in the order of the result.
        n_tokens: soft tokens of a user.
        permuted_seed: deal the profiles out to other users (`permuted`); None: do not.

    Raises:
        JobError: the tables hold another kind of profile, or do not belong together.
    """
    semantics = run.read(ITEM_SEMANTICS)
    users: Floats | None = None
    if kind == "content":
        domain = run.read(DOMAINS).to_pylist()[0]
        sampled = domain["negatives_per_positive"] > 0
        users = content_of_tables(
            run.read(SPLITS), semantics, user_ids, n_tokens, dislikes_count=not sampled
        )
    elif kind != "none":
        codebook = run.read(LABEL_CODEBOOK if kind == "labels_hard" else CODEBOOK)
        users = profile_of_tables(kind, run.read(USER_PROFILES), codebook, user_ids, n_tokens)
    if users is not None and permuted_seed is not None:
        users = permuted(users, permuted_seed)
    return TokenTargets(users, item_targets(semantics, item_ids))


# -- users ---------------------------------------------------------------------------------------


def profile_of_tables(
    kind: ProfileKind, profiles: pa.Table, codebook: pa.Table, user_ids: pa.Array, n_tokens: int
) -> Floats:
    """(n_users, n_tokens, d_llm) profiles by a codebook (methods.md 7.3.5, C0 and C1 of 7.5).

    A token for each level, T[m] = sum_k p[m, k] R[m, k]; with one token their mean. A hard vote
    gives all of a level to its strongest code.

    Args:
        kind: labels_hard, codes_hard or codes_soft.
        profiles: USER_PROFILES; of users of the paper protocol, train rows alone.
        codebook: CODEBOOK, or LABEL_CODEBOOK for labels.
        user_ids: in the order of the result; one without a profile has zeros.
        n_tokens: the codebook's number of levels, or 1.

    Raises:
        JobError: profiles are of another kind or codebook, or tokens and levels do not match.
    """
    wanted = "labels" if kind == "labels_hard" else "codes"
    dataset = LABEL_CODEBOOK if kind == "labels_hard" else CODEBOOK
    vote: Vote = "soft" if kind == "codes_soft" else "hard"
    rows = _paper_rows(profiles, wanted)
    lifted = lifted_of(codebook, dataset)
    if n_tokens not in (1, len(lifted)):
        raise JobError(
            f"{n_tokens} user tokens for the {len(lifted)} levels of {dataset.name}: give "
            f"{len(lifted)} or 1"
        )
    targets = profile_targets(_shares(as_matrix(rows["profile"]), lifted, dataset, vote), lifted)
    if n_tokens == 1:
        targets = merged_targets(targets)[:, None]
    return _placed(targets, rows["user_id"], user_ids, USER_PROFILES)


def _paper_rows(profiles: pa.Table, kind: str) -> pa.Table:
    found = pc.unique(profiles["kind"]).to_pylist()
    if found != [kind]:
        raise JobError(
            f"{USER_PROFILES.name} hold profiles of kind {', '.join(map(str, found)) or 'none'}, "
            f"the tokens are to be aligned to {kind}; run user_profiles --kind {kind}"
        )
    return profiles.filter(pc.equal(profiles["protocol"], _PROTOCOL))


def lifted_of(codebook: pa.Table, dataset: Dataset) -> Floats:
    """(L, K, d_llm) the codes of a codebook as points of the LLM's space; see `Codes.lifted`.

    Raises:
        JobError: a code is missing or is there twice.
    """
    levels, codes = (codebook[name].to_numpy().astype(np.int64) for name in ("level", "code"))
    n_levels, n_codes = (int(column.max(initial=-1)) + 1 for column in (levels, codes))
    places = levels * n_codes + codes
    if n_levels == 0 or not np.array_equal(np.sort(places), np.arange(n_levels * n_codes)):
        raise JobError(
            f"{dataset.name} has {len(places)} rows for {n_levels} levels of {n_codes} codes: each "
            f"pair once is needed; run {dataset.producer} again"
        )
    vectors = as_matrix(codebook["lifted"])
    return vectors[np.argsort(places)].reshape(n_levels, n_codes, -1)


def _shares(profiles: Floats, lifted: Floats, dataset: Dataset, vote: Vote) -> Floats:
    """(n, L, K) shares of codes as the vote has them."""
    shape = lifted.shape[:2]
    if profiles.shape[1] != shape[0] * shape[1]:
        raise JobError(
            f"{USER_PROFILES.name} have {profiles.shape[1]} shares a user, {dataset.name} has "
            f"{shape[0]} levels of {shape[1]} codes; run user_profiles again"
        )
    shares = profiles.reshape(-1, *shape)
    if vote == "soft":
        if len(shares) > 1 and (shares.max(axis=2) == 1).all():
            raise JobError(
                f"{USER_PROFILES.name} were made by a hard vote, and a soft one is asked for; run "
                "user_profiles --vote soft, or align to codes_hard"
            )
        return shares
    winners = np.zeros_like(shares)
    np.put_along_axis(winners, shares.argmax(axis=2)[:, :, None], np.float32(1), axis=2)
    return winners


def content_of_tables(
    splits: pa.Table,
    semantics: pa.Table,
    user_ids: pa.Array,
    n_tokens: int,
    *,
    dislikes_count: bool = True,
) -> Floats:
    """(n_users, n_tokens, d_llm) weighted mean embeddings of the train rows (C2 of 7.5).

    Likes less half of the dislikes, both fading with age, to unit length; all tokens of a user
    have the same target.

    Args:
        splits: SPLITS.
        semantics: ITEM_SEMANTICS, of all items that train rows name.
        user_ids: in the order of the result; one without train rows has zeros.
        n_tokens: soft tokens of a user.
        dislikes_count: False where negatives are sampled: they are nobody's opinion.
    """
    train = splits.filter(pc.equal(splits["split"], "train"))
    users = train["user_id"].combine_chunks().unique()
    items = semantics["item_id"].combine_chunks()
    ratings = ratings_of(train, "train", users, items)
    times = train["rated_at"].cast(pa.int64()).to_numpy()
    rows = Requests(ratings.users, ratings.items, times, np.zeros(len(times), np.int64))
    config = ProfileConfig() if dislikes_count else ProfileConfig(dislike_weight=0.0)
    vectors = unit(as_matrix(semantics["vector"]))
    targets = content_targets(Labelled(rows, ratings.labels), len(users), vectors, config)
    repeated = np.repeat(targets[:, None], n_tokens, axis=1)
    return _placed(repeated, pa.chunked_array([users]), user_ids, SPLITS)


def permuted(targets: Floats, seed: int) -> Floats:
    """The null control: the profiles (n, n_tokens, d_llm) of the users who have one, dealt out.

    What a system gains with these is not in what profiles say of their users.
    """
    return permuted_rows(targets.reshape(len(targets), -1), seed).reshape(targets.shape)


# -- items ---------------------------------------------------------------------------------------


def item_targets(semantics: pa.Table, item_ids: pa.Array) -> Floats:
    """(n_items, 1, d_llm) the LLM's vectors of the items' texts, to unit length."""
    vectors = unit(as_matrix(semantics["vector"]))[:, None]
    return _placed(vectors, semantics["item_id"], item_ids, ITEM_SEMANTICS)


def _placed(targets: Floats, ids: pa.ChunkedArray, wanted: pa.Array, source: Dataset) -> Floats:
    """`targets`, whose rows are of `ids`, in the order of `wanted`; zero where there is none."""
    if ids.type != wanted.type:
        raise JobError(
            f"{source.name} has ids of type {ids.type}, the soft tokens' are {wanted.type}; make "
            "both from the same warehouse"
        )
    found = pc.index_in(wanted, value_set=ids.combine_chunks())
    places = pc.fill_null(found, UNKNOWN).to_numpy().astype(np.int64)
    placed = np.zeros((len(wanted), *targets.shape[1:]), np.float32)
    known = places != UNKNOWN
    placed[known] = targets[places[known]]
    return placed


def has_target(targets: Floats) -> NDArray[np.bool_]:
    """(n,) which rows of (n, n_tokens, d_llm) have a target for at least one token."""
    return np.abs(targets).max(axis=(1, 2), initial=0) > 0
