"""A night that begins where the version that it names ended."""

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest

from embedding_store import EmbeddingStore, TableSpec
from jobs.collab.align import AlignConfig, job
from jobs.collab.factors import Factors
from jobs.collab.mf import Start
from jobs.collab.warm_start import Previous, is_scratch_day
from jobs.datasets import HISTORIES, ITEM_FACTORS, PROJECTORS, SPLITS, USER_FACTORS
from jobs.errors import NotAvailable
from jobs.home import Home
from jobs.job import Config, Outcome, Run, execute, mark_checked
from jobs.llm.carry_over import is_of_the_same_version
from tests.collab.test_align import SHORT, a_night, ids_of, output
from tests.conftest import DAY

WARM = SHORT.model_copy(update={"previous_version": 1, "scratch_every": 0})


def run(home: Home, config: AlignConfig, **options: bool) -> Outcome:
    return execute("align", config, DAY, home, job, intact=is_of_the_same_version, **options)


def publish(home: Home) -> int:
    """What the job wrote, as the first version of the store."""
    tables = {
        each.name: TableSpec(output(home, each), key=each.key[0], vector="factor")
        for each in (USER_FACTORS, ITEM_FACTORS)
    }
    weights = home.output(PROJECTORS, DAY)
    return EmbeddingStore(home.store).publish(
        tables,
        run_key="last-night",
        day=str(DAY - timedelta(days=1)),
        space={},
        files={"projectors.safetensors": weights},
    )


def test_known_rows_come_from_the_version_and_new_ones_from_the_start():
    first = Start(
        Factors(
            user_factors=np.full((2, 2), 9, np.float32),
            user_biases=np.full(2, 8, np.float32),
            item_factors=np.full((3, 2), 7, np.float32),
            item_biases=np.full(3, 6, np.float32),
            global_bias=5.0,
        ),
        np.zeros(2, np.float32),
    )
    earlier = Factors(
        user_factors=np.array([[1, 2]], np.float32),
        user_biases=np.array([0.5], np.float32),
        item_factors=np.array([[1, 0], [0, 1]], np.float32),
        item_biases=np.array([3, 4], np.float32),
        global_bias=0.25,
    )
    previous = Previous(
        factors=earlier,
        user_places=np.array([-1, 0]),
        item_places=np.array([1, -1, 0]),
        weights={"common_taste": np.array([10, 20], np.float32)},
    )
    merged = previous.merged_into(first, None)
    assert merged.factors.user_factors.tolist() == [[9, 9], [1, 2]]
    assert merged.factors.user_biases.tolist() == [8, 0.5]
    assert merged.factors.item_factors.tolist() == [[0, 1], [7, 7], [1, 0]]
    # What the common taste had added to the biases is taken off: <(10, 20), (0, 1)> and so on.
    assert merged.factors.item_biases.tolist() == [4 - 20, 6, 3 - 10]
    assert merged.factors.global_bias == 0.25
    assert merged.common_taste.tolist() == [10, 20]


def test_the_day_alone_decides_when_a_night_starts_from_scratch():
    days = [DAY + timedelta(days=n) for n in range(21)]
    assert sum(is_scratch_day(day, 7) for day in days) == 3
    assert not any(is_scratch_day(day, 0) for day in days)
    assert all(is_scratch_day(day, 1) for day in days)


def test_a_night_goes_on_from_the_version_that_it_names_and_records_its_content(home):
    a_night(home)
    cold = run(home, SHORT)
    assert publish(home) == 1
    warm = run(home, WARM)
    assert warm.status == "done"
    assert warm.manifest.result["previous_version_sha256"]
    assert cold.manifest.result["previous_version_sha256"] is None
    metrics = warm.manifest.metrics
    assert metrics["train_log_loss"] < cold.manifest.metrics["train_log_loss"]
    assert metrics["mean_cosine_before"] == pytest.approx(
        cold.manifest.metrics["mean_cosine"], abs=0.01
    )
    assert run(home, WARM).status == "unchanged"
    again = run(home, WARM, force=True)
    assert again.manifest.outputs == warm.manifest.outputs


def test_a_scratch_day_is_the_night_without_a_version_to_the_byte(home):
    a_night(home)
    cold = run(home, SHORT)
    publish(home)
    daily = WARM.model_copy(update={"scratch_every": 1})
    assert run(home, daily).manifest.outputs == cold.manifest.outputs


def test_a_version_of_other_sizes_is_passed_over(home):
    a_night(home)
    run(home, SHORT)
    publish(home)
    wider = {"n_factors": 12}
    scratch = run(home, SHORT.model_copy(update=wider))
    assert run(home, WARM.model_copy(update=wider)).manifest.outputs == scratch.manifest.outputs


def test_a_version_that_does_not_exist_is_one_clear_error(home):
    a_night(home)
    run(home, SHORT)
    publish(home)
    with pytest.raises(NotAvailable, match="41"):
        run(home, WARM.model_copy(update={"previous_version": 41}))


def test_the_map_from_histories_goes_on_too(home):
    a_night(home)
    users = ids_of("int64", 61, "u")
    items = ids_of("int64", 121, "i")
    lists = pa.array([items.to_pylist()[:n] for n in range(61)], pa.list_(pa.int64()))
    splits = output(home, SPLITS)
    with Run("splits", DAY, Config(), home) as again:  # one job makes both
        again.write(SPLITS, splits)
        again.write(HISTORIES, pa.table({"user_id": users, "item_ids": lists}))
    for dataset in (SPLITS, HISTORIES):
        mark_checked(home, dataset, DAY)
    config = SHORT.model_copy(update={"cold_users": "profile", "history_components": 4})
    cold = run(home, config)
    assert publish(home) == 1
    warm = run(home, config.model_copy(update={"previous_version": 1, "scratch_every": 0}))
    losses = [each.manifest.metrics["train_log_loss"] for each in (warm, cold)]
    assert losses[0] < losses[1]


def test_a_version_that_was_fitted_to_its_valid_rows_starts_nothing(home):
    a_night(home)
    run(home, SHORT.model_copy(update={"refit_on_valid": True}))
    publish(home)
    warm = run(home, WARM, force=True)
    assert warm.manifest.result == {"previous_version_sha256": None}
