"""What each user likes and dislikes as of a day: shares of codes or labels, or embeddings."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import Field

from jobs.codebook.tables import about_codes, codes_matrix
from jobs.collab.profiles import (
    Histograms,
    ProfileConfig,
    common_taste,
    content_profiles,
    profiles_of,
    vote_sums,
)
from jobs.collab.votes import DAY_US, CodeVotes, DenseVotes, Votes
from jobs.datasets import (
    DOMAINS,
    ITEM_CODES,
    ITEM_LABELS,
    ITEM_SEMANTICS,
    SPLITS,
    USER_PROFILES,
)
from jobs.job import Declared, Run, main
from jobs.query import Rows, connect, sql_text
from jobs.vector_columns import as_column, as_matrix

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Protocol = Literal["nightly", "paper"]

ABOUT = b"profiles"  # schema metadata key: kind, shape, and the common taste of each protocol
PROTOCOLS: tuple[Protocol, ...] = ("nightly", "paper")  # ascending: they are part of the key
_BATCH_ROWS = 16_384


class UserProfilesConfig(ProfileConfig):
    """Signed, time-decayed votes of the history for the codes of its items."""

    kind: Literal["codes", "labels", "content"] = Field(
        default="codes",
        description="what an event votes for: the residual codes of its item, its labels, or its "
        "embedding, with nothing discretised",
    )


@dataclass(frozen=True)
class Ballot:
    """What the items of the catalogue stand for.

    Attributes:
        items: ids; an item's row is its place here.
        votes: what an event of an item says.
        n_levels: L; 1 where nothing is discretised.
        n_codes: K; d_llm where nothing is discretised.
        is_discrete: whether profiles are shares.
    """

    items: pa.Array
    votes: Votes
    n_levels: int
    n_codes: int
    is_discrete: bool

    def taste(self, n_votes: Ints) -> Floats:
        """(L, K) or (d_llm,) what everybody has: g, from the votes of each item (n_items,)."""
        if isinstance(self.votes, CodeVotes):
            return common_taste(n_votes, self.votes.codes, self.n_codes)
        weights = n_votes if n_votes.sum() else np.ones(len(n_votes), np.int64)
        everybody = np.zeros(len(weights), np.int64)
        sums = self.votes.cast(everybody, np.arange(len(weights)), weights.astype(float), 1)
        return (sums[0] / max(weights.sum(), 1)).astype(np.float32)


def ballot_of(config: UserProfilesConfig, run: Run) -> Ballot:
    """The day's items with their codes, labels or embeddings."""
    if config.kind == "content":
        rows = run.read(ITEM_SEMANTICS).select(["item_id", "vector"])
        vectors = as_matrix(rows["vector"])
        items = rows["item_id"].combine_chunks()
        return Ballot(items, DenseVotes(vectors), 1, vectors.shape[1], is_discrete=False)
    rows = run.read(ITEM_CODES if config.kind == "codes" else ITEM_LABELS)
    about = about_codes(rows)
    votes = CodeVotes(codes_matrix(rows["codes"]), about["n_codes"])
    items = rows["item_id"].combine_chunks()
    return Ballot(items, votes, about["n_levels"], about["n_codes"], is_discrete=True)


@dataclass(frozen=True)
class Protocolled:
    """One protocol's own part of the work.

    Attributes:
        name: nightly or paper.
        as_of: microseconds since 1970; events of that moment on are the future.
        taste: g, see `Ballot.taste`.
        n_votes: (n_items,) events of each item.
    """

    name: Protocol
    as_of: int
    taste: Floats
    n_votes: Ints


def _microseconds(day: date) -> int:
    return (day - date(1970, 1, 1)).days * DAY_US


def _protocolled(
    name: Protocol, ballot: Ballot, tables: Mapping[str, Rows], asked: Mapping[str, Any], day: date
) -> Protocolled:
    """The night knows all before its midnight; the paper's train ends just after its last row."""
    with connect(tables) as connection:
        parameters = {**asked, "protocol": name}
        found = connection.sql(sql_text("codebook/voted_items"), params=parameters)
        rows = found.to_arrow_table()
    last = pc.max(rows["last_us"]).as_py()
    is_past = name == "nightly" or last is None
    n_votes = rows["n_votes"].to_numpy()
    as_of = _microseconds(day) if is_past else last + 1
    return Protocolled(name, as_of, ballot.taste(n_votes), n_votes)


# -- users, a batch at a time ----------------------------------------------------------------------


def whole_users(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
    """The same rows, sorted by user, cut so that all rows of a user are in one table."""
    waiting: list[pa.Table] = []
    for batch in batches:
        rows = pa.Table.from_batches([batch])
        if not rows.num_rows:
            continue
        last = rows["user_id"][-1]
        begin = pc.index(rows["user_id"], last).as_py()
        if begin == 0 and waiting and waiting[-1]["user_id"][-1] == last:
            waiting.append(rows)
            continue
        if done := [*waiting, *([rows.slice(0, begin)] if begin else [])]:
            yield pa.concat_tables(done)
        waiting = [rows.slice(begin)]
    if waiting:
        yield pa.concat_tables(waiting)


def profile_rows(
    votes: pa.Table, ballot: Ballot, of: Protocolled, config: UserProfilesConfig
) -> pa.RecordBatch:
    """Rows of USER_PROFILES of the users in `votes`, which are sorted by user."""
    users = votes["user_id"].combine_chunks().dictionary_encode()
    numbers, ids = users.indices.to_numpy().astype(np.int64), users.dictionary
    sums = vote_sums(
        numbers,
        votes["item"].to_numpy().astype(np.int64),
        votes["label"].to_numpy().astype(np.float32),
        votes["rated_us"].to_numpy(),
        ballot.votes,
        of.as_of,
        len(ids),
        config,
        of.n_votes,
    )
    profiles = _profiles(sums, of.taste, ballot, config)
    columns = {
        "protocol": pa.repeat(pa.scalar(of.name), len(ids)),
        "user_id": ids,
        "kind": pa.repeat(pa.scalar(config.kind), len(ids)),
        "profile": as_column(profiles.reshape(len(ids), ballot.votes.width)),
        "likes": as_column(sums.likes),
        "dislikes": as_column(sums.dislikes),
        "n_events": pa.array(np.bincount(numbers, minlength=len(ids)), pa.int32()),
    }
    return pa.RecordBatch.from_pydict(columns)


def _profiles(
    sums: Histograms, taste: Floats, ballot: Ballot, config: UserProfilesConfig
) -> Floats:
    if ballot.is_discrete:
        return profiles_of(sums, taste, config)
    return content_profiles(sums, taste, config)


def _batches(
    of_protocols: list[Protocolled],
    ballot: Ballot,
    tables: Mapping[str, Rows],
    asked: Mapping[str, Any],
    config: UserProfilesConfig,
) -> Iterator[pa.RecordBatch]:
    for of in of_protocols:
        with connect(tables) as connection:
            parameters = {**asked, "protocol": of.name}
            found = connection.sql(sql_text("codebook/votes"), params=parameters)
            for votes in whole_users(found.to_arrow_reader(_BATCH_ROWS)):
                yield profile_rows(votes, ballot, of, config)


def _schema(user_ids: pa.DataType, width: int, about: Mapping[str, Any]) -> pa.Schema:
    vector = pa.list_(pa.float32(), width)
    schema = pa.schema(
        {
            "protocol": pa.string(),
            "user_id": user_ids,
            "kind": pa.string(),
            "profile": vector,
            "likes": vector,
            "dislikes": vector,
            "n_events": pa.int32(),
        }
    )
    return schema.with_metadata({ABOUT: json.dumps(dict(about), sort_keys=True)})


def job(config: UserProfilesConfig, run: Run) -> None:
    """Write the profile of every user with events: as the night knows them, and of train alone."""
    ballot = ballot_of(config, run)
    numbers = pa.array(np.arange(len(ballot.items)))
    tables: dict[str, Rows] = {
        "splits": run.locate(SPLITS),
        "item_numbers": pa.table({"item_id": ballot.items, "number": numbers}),
    }
    domain = run.read(DOMAINS).to_pylist()[0]
    asked = {"sampled_negatives": domain["negatives_per_positive"] > 0}
    of_protocols = [_protocolled(name, ballot, tables, asked, run.day) for name in PROTOCOLS]
    about = {
        "kind": config.kind,
        "n_levels": ballot.n_levels,
        "n_codes": ballot.n_codes,
        "as_of": {of.name: of.as_of for of in of_protocols},
        "taste": {of.name: of.taste.reshape(-1).tolist() for of in of_protocols},
    }
    user_ids = pq.read_schema(run.locate(SPLITS)).field("user_id").type
    schema = _schema(user_ids, ballot.votes.width, about)
    batches = _batches(of_protocols, ballot, tables, asked, config)
    n_rows = run.write_stream(USER_PROFILES, schema, batches)
    run.metric("n_profiles", n_rows)
    run.metric("width", ballot.votes.width)


DECLARED = Declared("user_profiles", UserProfilesConfig, job)

if __name__ == "__main__":
    main(DECLARED)
