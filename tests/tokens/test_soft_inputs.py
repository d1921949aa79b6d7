"""Soft tokens of a batch: which input each place reads, and as of when."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch

from jobs.llm.events import Events
from jobs.llm.prompts import SoftKind
from jobs.llm.sequences import Batch, PackedSequence, collate
from jobs.tokens.inputs import InputsConfig, NightTables, TokenInputs, token_inputs
from jobs.tokens.mappers import LinearMapper
from jobs.tokens.soft_inputs import SoftInputs

D = 3
NOBODY = np.empty(0, np.int64)
# User 0 has a row, user 1 is known by history alone; both liked items 0, 1 and 2 in this order.
CHAINS = Events(
    user_ids=pa.array([10, 11]),
    item_ids=pa.array([5, 6, 7]),
    chain_starts=np.array([0, 3, 6]),
    chain_items=np.array([0, 1, 2, 0, 1, 2]),
    chain_liked=np.ones(6, np.bool_),
    rows=NOBODY,
    users=NOBODY,
    items=NOBODY,
    ends=NOBODY,
    places=NOBODY,
)
INPUTS = TokenInputs(
    user_ids=CHAINS.user_ids,
    item_ids=CHAINS.item_ids,
    users=np.array([[1, 2, 3], [0, 0, 0]], np.float32),
    knows_user=np.array([True, False]),
    items=np.array([[4, 0, 0], [0, 5, 0], [0, 0, 0]], np.float32),
    knows_item=np.array([True, True, False]),
    history=np.array([[6, 0, 0], [0, 8, 0], [9, 9, 9]], np.float32),
    warm=np.eye(3, dtype=np.float32),
    knows_warm=np.array([True, True, True]),
)
UNKNOWN = {"user": torch.full((1, D), 7.0), "item": torch.full((1, D), -7.0)}


def identity() -> LinearMapper:
    mapper = LinearMapper(D, 1, D)
    with torch.no_grad():
        mapper.output.weight.copy_(torch.eye(D))
        mapper.output.bias.zero_()
    return mapper


def soft_inputs(**options: object) -> SoftInputs:
    mappers = {"user": identity(), "item": identity()}
    return SoftInputs(INPUTS, CHAINS, mappers, UNKNOWN, **options)  # type: ignore[arg-type]


def batch_of(*places: tuple[SoftKind, int, int]) -> Batch:
    """One sequence in which every token is soft: (kind, of, end)."""
    n = len(places)
    kinds, of, ends = (np.array(column) for column in zip(*places, strict=True))
    zeros = np.zeros(n, np.int32)
    return collate(
        [
            PackedSequence(
                input_ids=zeros,
                position_ids=np.arange(n, dtype=np.int32),
                event=zeros,
                is_shown=np.ones(n, np.bool_),
                answer_at=np.array([n - 1], np.int32),
                answer_row=np.array([0]),
                soft_at=np.arange(n, dtype=np.int32),
                soft_kind=kinds.astype(np.int8),
                soft_nth=np.zeros(n, np.int8),
                soft_of=of.astype(np.int64),
                soft_end=ends.astype(np.int32),
            )
        ]
    )


USER, ITEM = SoftKind.USER, SoftKind.ITEM


def test_a_user_with_a_row_is_read_from_it_whatever_the_moment() -> None:
    soft = soft_inputs().soft(batch_of((USER, 0, 0), (USER, 0, 3)))
    assert soft.tolist() == [[1, 2, 3], [1, 2, 3]]


def test_a_stranger_is_the_mean_of_what_he_liked_before_the_event() -> None:
    places = batch_of((USER, 1, 0), (USER, 1, 1), (USER, 1, 2), (USER, 1, 3))
    soft = soft_inputs().soft(places).tolist()
    assert soft[0] == [7, 7, 7]  # nothing yet: the learned token
    assert soft[1] == [6, 0, 0]
    assert soft[2] == [3, 4, 0]
    assert soft[3] == [3, 4, 0]  # item 2 is not known, so liking it says nothing


def test_the_source_decides_between_row_and_history() -> None:
    places = batch_of((USER, 0, 1), (USER, 1, 1))
    assert soft_inputs(source="history").soft(places).tolist() == [[6, 0, 0], [6, 0, 0]]
    assert soft_inputs(source="factor").soft(places).tolist() == [[1, 2, 3], [7, 7, 7]]


def test_kinds_come_back_in_the_order_of_their_places() -> None:
    soft = soft_inputs().soft(batch_of((ITEM, 1, 0), (USER, 0, 0), (ITEM, 2, 0), (ITEM, 0, 0)))
    assert soft.tolist() == [[0, 5, 0], [1, 2, 3], [-7, -7, -7], [4, 0, 0]]


def test_what_training_draws_is_seeded_and_never_drawn_in_use() -> None:
    made = soft_inputs(text_only=0.5, strangers=0.5)
    places = batch_of((USER, 0, 1), (ITEM, 0, 1))
    torch.manual_seed(0)
    seen = {tuple(map(tuple, made.soft(places, is_training=True).tolist())) for _ in range(50)}
    row, history, item = (1.0, 2.0, 3.0), (6.0, 0.0, 0.0), (4.0, 0.0, 0.0)
    nulls = ((7.0, 7.0, 7.0), (-7.0, -7.0, -7.0))
    assert seen == {(row, item), (history, item), nulls}
    assert made.soft(places).tolist() == [list(row), list(item)]


def test_gradient_reaches_mappers_tables_and_unknown_tokens() -> None:
    made = soft_inputs(learns_inputs=True)
    made.soft(batch_of((USER, 0, 0), (USER, 1, 0), (ITEM, 1, 0))).sum().backward()
    assert made.tables["user"].grad is not None
    assert made.tables["user"].grad[0].tolist() == [1, 1, 1]
    assert made.tables["item"].grad is not None
    assert made.tables["item"].grad.abs().sum(dim=1).tolist() == [0, 3, 0]
    assert made.unknown["user"].grad is not None
    assert made.unknown["user"].grad.tolist() == [[1, 1, 1]]


# -- inputs from tables ---------------------------------------------------------------------------


def vectors(rows: list[list[float]]) -> pa.Array:
    return pa.array(rows, pa.list_(pa.float32(), len(rows[0])))


@pytest.fixture
def night() -> NightTables:
    """Two users with rows, three items; train rows say that item 5 is liked and item 6 is not."""
    splits = pa.table(
        {
            "split": ["train"] * 4 + ["valid"],
            "user_id": [10, 10, 11, 11, 12],
            "item_id": [5, 6, 5, 6, 5],
            "label": pa.array([1, 0, 1, 0, 0], pa.int8()),
        }
    )
    users = pa.table(
        {
            "user_id": [10, 11],
            "factor": vectors([[3.0, 0.0], [0.0, 4.0]]),
            "bias": pa.array([1.0, -1.0], pa.float32()),
        }
    )
    items = pa.table(
        {
            "item_id": [5, 6],
            "factor": vectors([[1.0, 1.0], [-1.0, 1.0]]),
            "bias": pa.array([0.5, -0.5], pa.float32()),
        }
    )
    semantics = pa.table({"item_id": [5, 7], "vector": vectors([[1.0, 0.0], [0.0, 1.0]])})
    return NightTables(splits, users, items, semantics)


def test_counts_and_means_are_of_train_rows_alone(night: NightTables) -> None:
    users, items = pa.array([10, 11, 12]), pa.array([5, 6, 7])
    made = token_inputs(night, users, items, InputsConfig(smoothing=2.0))
    assert made.knows_user.tolist() == [True, True, False]
    assert made.knows_item.tolist() == [True, True, False]
    scale = np.sqrt(25 / 4)
    assert made.factor_scales[0] == pytest.approx(scale)
    np.testing.assert_allclose(made.users[0, :2], np.array([3.0, 0.0]) / scale, rtol=1e-6)
    assert made.users[0, 2:].tolist() == [1, 0, 0, 1]  # bias; equal counts and means; a row
    assert made.items[:2, 2].tolist() == [1, -1]  # biases, standardised
    assert made.items[:2, 4].tolist() == [1, -1]  # smoothed means (2 + 1) / 4 and (0 + 1) / 4
    assert not made.users[2].any()
    assert not made.history[:, -1].any()


def test_without_counts_an_input_is_the_factor(night: NightTables) -> None:
    made = token_inputs(night, pa.array([10, 11]), pa.array([5, 6]), InputsConfig(counts=False))
    assert made.users.shape == (2, 2)
    np.testing.assert_allclose(made.users * made.factor_scales[0], [[3, 0], [0, 4]], rtol=1e-6)


def test_inputs_come_back_from_their_tables_for_another_reader(night: NightTables) -> None:
    made = token_inputs(night, pa.array([10, 11, 12]), pa.array([5, 6, 7]), InputsConfig())
    again = TokenInputs.of_tables(*made.tables(), pa.array([11, 13]), pa.array([7, 5]))
    assert again.knows_user.tolist() == [True, False]
    assert again.users[0].tolist() == made.users[1].tolist()
    assert not again.users[1].any()
    assert again.items[1].tolist() == made.items[0].tolist()
    assert again.knows_item.tolist() == [False, True]
    assert again.warm[0].tolist() == made.warm[2].tolist()
    assert again.history[1].tolist() == made.history[0].tolist()
