"""Checkpoints: whole or not at all, and no pickle among them."""

from __future__ import annotations

from pathlib import Path

import torch

from jobs.llm.checkpoints import Checkpoint, Checkpoints, grouped


def at(step: int) -> Checkpoint:
    weights = {"a": torch.full((2, 2), float(step)), "b": torch.arange(3.0)}
    return Checkpoint(step, {"course": {"tokens": 10 * step}}, grouped(weights=weights))


def test_the_newest_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path / "run")
    assert kept.newest() is None
    for step in (5, 10):
        kept.save(at(step))
    found = kept.newest()
    assert found is not None
    assert found.step == 10
    assert found.facts["course"] == {"tokens": 100}
    assert torch.equal(found.group("weights")["a"], torch.full((2, 2), 10.0))


def test_only_the_two_newest_are_kept_and_none_is_a_pickle(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path)
    for step in (5, 10, 15):
        kept.save(at(step))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [
        f"step-{step:08d}.{suffix}" for step in (10, 15) for suffix in ("json", "safetensors")
    ]


def test_a_damaged_checkpoint_gives_way_to_the_one_before_it(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path)
    for step in (5, 10):
        kept.save(at(step))
    tensors = tmp_path / "step-00000010.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-1] + b"?")
    found = kept.newest()
    assert found is not None
    assert found.step == 5


def test_tensors_without_their_json_are_no_checkpoint(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path)
    kept.save(at(5))
    (tmp_path / "step-00000005.json").unlink()
    assert kept.newest() is None
