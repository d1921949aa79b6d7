from dataclasses import replace
from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from jobs.collab.align import Aligned, align, job
from jobs.collab.factors import Ratings
from jobs.datasets import ITEM_FACTORS, ITEM_SEMANTICS, PROJECTORS, SPLITS, USER_FACTORS, Dataset
from jobs.errors import ContractError
from jobs.home import Home
from jobs.job import Config, Run, execute, mark_checked
from jobs.report.metrics import auc, uauc
from jobs.vector_columns import as_column, as_matrix
from tests.collab.planted import QUICK, World, world
from tests.conftest import DAY

SHORT = QUICK.model_copy(update={"max_epochs": 3, "epochs_without_valid": 3})


def commit(home: Home, dataset: Dataset, table: pa.Table, day: date = DAY) -> None:
    """Give a table its name as the job that makes it would."""
    with Run(dataset.producer, day, Config(), home) as run:
        run.write(dataset, table)
    mark_checked(home, dataset, day)


def splits_table(parts: dict[str, Ratings], user_ids: pa.Array, item_ids: pa.Array) -> pa.Table:
    names, rows, users, items, labels = [], [], [], [], []
    for name, part in parts.items():
        names += [name] * len(part)
        rows += range(len(part))
        users.append(part.users)
        items.append(part.items)
        labels.append(part.labels)
    n = len(names)
    return pa.table(
        {
            "split": names,
            "row": pa.array(rows, pa.int32()),
            "user_id": user_ids.take(pa.array(np.concatenate(users))),
            "item_id": item_ids.take(pa.array(np.concatenate(items))),
            "label": pa.array(np.concatenate(labels).astype(np.int8)),
            "rated_at": pa.array(range(n), pa.timestamp("us")),
            "history_end": pa.array([0] * n, pa.int32()),
            "is_warm": pa.array([True] * n),
        }
    )


def semantics_table(planted: World, item_ids: pa.Array) -> pa.Table:
    vectors = as_column(planted.embeddings)
    keys = [f"key of {item}" for item in item_ids.to_pylist()]
    return pa.table({"item_id": item_ids, "content_key": keys, "raw": vectors, "vector": vectors})


def ids_of(kind: str, n: int, prefix: str) -> pa.Array:
    """Ids with gaps, not in the order of their numbers."""
    numbers = [(7 * i) % n * 1_000 + 13 for i in range(n)]
    return pa.array([f"{prefix}{x}" for x in numbers] if kind == "string" else numbers)


def a_night(home: Home, kind: str = "int64", day: date = DAY, **changed: object) -> World:
    planted = world(n_users=61, n_items=121)
    users, items = ids_of(kind, 61, "u"), ids_of(kind, 121, "i")
    train, valid, test = (planted.events(n, seed) for seed, n in enumerate((1_500, 400, 300)))
    is_known = train.users < 50
    train = Ratings(train.users[is_known], train.items[is_known], train.labels[is_known])
    parts = {"train": train, "valid": valid, "test": test} | changed
    commit(home, SPLITS, splits_table(parts, users, items), day)
    commit(home, ITEM_SEMANTICS, semantics_table(planted, items), day)
    return planted


def output(home: Home, dataset: Dataset) -> pa.Table:
    return pq.read_table(home.output(dataset, DAY), partitioning=None)


# -- what alignment is for -----------------------------------------------------------------------


def unseen_uauc(planted: World, aligned: Aligned) -> float:
    """UAUC of the logits of every user on every unseen item, against the planted taste."""
    users, items = (
        grid.ravel() for grid in np.meshgrid(np.arange(len(planted.tastes)), planted.unseen)
    )
    taste = np.einsum("nd,nd->n", planted.tastes[users], planted.topics[items])
    found, _ = uauc(users, taste > 0, aligned.factors.logits(users, items))
    assert found is not None
    return found


@pytest.fixture(scope="module")
def with_and_without() -> tuple[World, Aligned, Aligned]:
    """The same events twice; the only difference is the weight of the alignment."""
    planted = world()
    train, valid = planted.events(4_000, 0), planted.events(1_000, 1)
    runs = [
        align(train, valid, 60, planted.embeddings, np.arange(120), config)
        for config in (QUICK, QUICK.model_copy(update={"alignment_weight": 0.0}))
    ]
    return planted, runs[0], runs[1]


def test_alignment_beats_no_alignment_on_items_unseen_in_training(with_and_without):
    planted, aligned, plain = with_and_without
    assert unseen_uauc(planted, plain) < 0.65  # factors of unseen items are still noise
    assert unseen_uauc(planted, aligned) > 0.9


def test_embeddings_dealt_out_at_random_say_nothing_of_unseen_items():
    planted = world()
    train, valid = planted.events(4_000, 0), planted.events(1_000, 1)
    config = QUICK.model_copy(update={"permuted": "items"})
    null = align(train, valid, 60, planted.embeddings, np.arange(120), config)
    assert null.after.cosine > 0.3  # it was drawn to them all the same
    assert 0.35 < unseen_uauc(planted, null) < 0.65


def test_alignment_brings_the_two_spaces_together(with_and_without):
    _, aligned, plain = with_and_without
    assert abs(aligned.before.cosine) < 0.1
    assert aligned.after.cosine > 0.8
    assert aligned.after.overlap > plain.after.overlap + 0.2
    assert aligned.after.overlap_unseen > plain.after.overlap_unseen + 0.2
    assert aligned.best.alignment_loss < np.log(60) / 2  # chance is the log of a batch of 60


# -- the job -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["int64", "string"])
def test_the_job_writes_the_users_of_train_and_the_whole_catalogue(home, kind):
    a_night(home, kind)
    outcome = execute("align", SHORT, DAY, home, job)
    users, items = output(home, USER_FACTORS), output(home, ITEM_FACTORS)
    splits = output(home, SPLITS).filter(pa.compute.field("split") == "train")
    assert users["user_id"].to_pylist() == sorted(set(splits["user_id"].to_pylist()))
    assert users.num_rows == 50
    assert items["item_id"].to_pylist() == sorted(ids_of(kind, 121, "i").to_pylist())
    assert items["factor"].type.list_size == 8
    for table, key in ((users, "user_id"), (items, "item_id")):
        counted = splits.group_by(key).aggregate([([], "count_all")])
        expected = dict(zip(*(counted[c].to_pylist() for c in (key, "count_all")), strict=True))
        found = dict(zip(*(table[c].to_pylist() for c in (key, "n_events")), strict=True))
        assert {k: n for k, n in found.items() if n} == expected
    metrics = outcome.manifest.metrics
    assert 0.5 < metrics["valid_auc"] < 1
    assert metrics["n_unseen_items"] >= 20
    assert metrics["mean_cosine"] > metrics["mean_cosine_before"]


def test_the_tables_and_weights_of_the_job_make_the_scores_that_it_reports(home):
    a_night(home)
    outcome = execute("align", SHORT, DAY, home, job)
    users, items = output(home, USER_FACTORS), output(home, ITEM_FACTORS)
    weights = load_file(home.output(PROJECTORS, DAY))
    valid = output(home, SPLITS).filter(pa.compute.field("split") == "valid")
    user_row = {user: row for row, user in enumerate(users["user_id"].to_pylist())}
    item_row = {item: row for row, item in enumerate(items["item_id"].to_pylist())}
    p, q = as_matrix(users["factor"]), as_matrix(items["factor"])
    logits = []
    for user, item in zip(valid["user_id"].to_pylist(), valid["item_id"].to_pylist(), strict=True):
        i = item_row[item]
        logit = weights["global_bias"][0] + items["bias"][i].as_py()
        if (u := user_row.get(user)) is not None:
            logit += users["bias"][u].as_py() + p[u] @ q[i]
        logits.append(logit)
    found = auc(valid["label"].to_numpy(), np.array(logits))
    assert found == pytest.approx(outcome.manifest.metrics["valid_auc"], abs=1e-4)
    assert {name: tensor.shape for name, tensor in weights.items()} == {
        "hidden.weight": (32, 8),
        "hidden.bias": (32,),
        "output.weight": (16, 32),
        "output.bias": (16,),
        "global_bias": (1,),
        "temperature": (1,),
        "common_taste": (8,),
    }


def test_a_rerun_gives_the_same_bytes_and_an_unchanged_night_is_left_alone(home):
    a_night(home)
    first = execute("align", SHORT, DAY, home, job)
    assert execute("align", SHORT, DAY, home, job).status == "unchanged"
    again = execute("align", SHORT, DAY, home, job, force=True)
    assert again.status == "done"
    assert again.manifest.outputs == first.manifest.outputs


def test_two_nights_with_the_same_input_write_the_same_content(home):
    nights = []
    for day in (DAY, DAY + timedelta(days=1)):
        a_night(home, day=day)
        made = execute("align", SHORT, day, home, job).manifest.outputs
        nights.append([(each.name, each.sha256) for each in made])
    assert nights[0] == nights[1]


def test_labels_of_the_test_rows_change_nothing(home, tmp_path):
    planted = a_night(home)
    other = Home(tmp_path / "other")
    test = planted.events(300, seed=2)
    a_night(other, test=replace(test, labels=1 - test.labels))
    runs = [execute("align", SHORT, DAY, each, job) for each in (home, other)]
    assert runs[0].manifest.inputs != runs[1].manifest.inputs
    assert runs[0].manifest.outputs == runs[1].manifest.outputs


def test_a_night_without_valid_rows_is_fitted_all_the_same(home):
    a_night(home, valid=Ratings(*np.zeros((2, 0), np.int64), np.zeros(0, np.float32)))
    outcome = execute("align", SHORT, DAY, home, job)
    assert "valid_auc" not in outcome.manifest.metrics
    assert outcome.manifest.metrics["n_epochs"] == 3


def test_an_item_that_was_never_distilled_is_named(home):
    planted = a_night(home)
    commit(home, ITEM_SEMANTICS, semantics_table(planted, ids_of("int64", 121, "i")).slice(5))
    with pytest.raises(ContractError, match="item that item_semantics lacks, for instance"):
        execute("align", SHORT, DAY, home, job)


def test_ids_of_two_types_are_refused(home):
    planted = a_night(home, "int64")
    commit(home, ITEM_SEMANTICS, semantics_table(planted, ids_of("string", 121, "i")))
    with pytest.raises(ContractError, match=r"splits\.item_id is int64"):
        execute("align", SHORT, DAY, home, job)
