"""A fit that was cut off goes on as if it had not been: in this process, and after kill -9."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jobs.collab.align import AlignConfig, Aligned, align
from jobs.collab.mf import Epoch
from jobs.collab.resume import EpochKeeper
from jobs.home import Home
from jobs.llm.checkpoints import Checkpoints
from tests.collab.planted import QUICK, histories_of, profiles_of, world
from tests.collab.test_align import a_night
from tests.conftest import DAY, ROOT

N_KILLS = 10
EVERYTHING = QUICK.model_copy(
    update={
        "max_epochs": 6,
        "user_alignment_weight": 0.5,
        "user_projector": "own",
        "semantics": "trainable",
        "negatives": "sampled",
        "cold_users": "profile",
    }
)
DENSE = QUICK.model_copy(update={"max_epochs": 5, "optimizer": "dense", "biases": False})


class Cut(Exception):
    """The power went."""


def aligned(config: AlignConfig, folder: Path | None = None, cut_after: int = 0) -> Aligned:
    planted = world()
    train, valid = planted.events(3_000, 0), planted.events(500, 1)

    def on_epoch(epoch: Epoch) -> None:
        if epoch.number == cut_after:
            raise Cut

    return align(
        train,
        valid,
        60,
        planted.embeddings,
        np.arange(120),
        config,
        on_epoch,
        profiles=profiles_of(planted, train),
        history=histories_of(planted, train, valid),
        keeper=None if folder is None else EpochKeeper(Checkpoints(folder), 0),
    )


def bits(found: Aligned) -> dict[str, bytes]:
    """All that came out, by name."""
    factors, fitted = found.factors, found.fit
    arrays = {
        "user factors": factors.user_factors,
        "user biases": factors.user_biases,
        "item factors": factors.item_factors,
        "item biases": factors.item_biases,
        "taste": fitted.common_taste,
        "semantics": found.semantics,
        "map": found.history_map,
        **found.projector.tensors(),
        **{f"user {k}": v for k, v in found.user_projector.tensors().items()},
    }
    return {name: array.tobytes() for name, array in arrays.items() if array is not None}


@pytest.mark.parametrize("config", [EVERYTHING, DENSE], ids=["everything", "dense"])
def test_a_fit_that_was_cut_off_twice_ends_with_the_same_bits(
    config: AlignConfig, tmp_path: Path
) -> None:
    undisturbed = aligned(config)
    for cut_after in (2, 4):
        with pytest.raises(Cut):
            aligned(config, tmp_path, cut_after)
    resumed = aligned(config, tmp_path)
    assert bits(resumed) == bits(undisturbed)
    assert (resumed.best, resumed.n_epochs) == (undisturbed.best, undisturbed.n_epochs)


def test_a_fit_that_had_ended_is_read_back_and_trains_no_more(tmp_path: Path) -> None:
    first = aligned(EVERYTHING, tmp_path)
    again = aligned(EVERYTHING, tmp_path, cut_after=1)  # would be cut if there were an epoch
    assert bits(again) == bits(first)


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path: Path) -> None:
    undisturbed = aligned(EVERYTHING)
    with pytest.raises(Cut):
        aligned(EVERYTHING, tmp_path, 3)
    newest = tmp_path / "step-00000003.safetensors"
    newest.write_bytes(newest.read_bytes()[:-8])
    assert bits(aligned(EVERYTHING, tmp_path)) == bits(undisturbed)


def test_kill_9_at_any_moment_and_a_second_run_give_the_same_bytes(
    home: Home, tmp_path: Path
) -> None:
    a_night(home)
    flags = {
        "--day": DAY,
        "--max-epochs": 10,
        "--patience": 10,
        "--n-factors": 8,
        "--n-hidden": 16,
        "--batch-size": 128,
        "--user-alignment-weight": 0.3,
        "--checkpoint-s": 0,
    }
    words = [str(word) for pair in flags.items() for word in pair]
    driver = [sys.executable, "-m", "tests.collab.align_kills", str(home.root), str(tmp_path)]
    done = subprocess.run(
        [*driver, str(N_KILLS), "0", "--", *words],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(done.stdout)
    assert said["ended"] == [said["undisturbed"]] * N_KILLS
    assert said["resumed"] >= N_KILLS // 2  # those that were let live until they had a checkpoint
