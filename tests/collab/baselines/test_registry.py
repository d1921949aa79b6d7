import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from jobs.collab.baselines.kept import expect, floats, ints, load, save
from jobs.collab.baselines.means import FittedMeans, ItemMean
from jobs.collab.baselines.registry import SYSTEMS, Registry, system_of
from jobs.errors import JobError

FITTED = FittedMeans(np.zeros(0, np.float32), np.array([0.5, -1.0], np.float32))


class Unlisted(ItemMean):
    """A system that nobody has listed."""


def said(name: str, config: dict) -> dict[str, str]:
    return {"tidemark.system": json.dumps({"system": name, "config": config})}


def test_an_unknown_system_is_answered_with_those_there_are():
    with pytest.raises(JobError, match="no system 'svd'; there are item_mean, item_user_mean"):
        system_of("svd", {})


def test_a_setting_that_a_system_does_not_take_is_named():
    with pytest.raises(JobError, match="settings of system 'item_mean': sharpness: Extra inputs"):
        system_of("item_mean", {"sharpness": 1})
    with pytest.raises(JobError, match=r"lightgcn': n_layers: .* greater than or equal to 0"):
        system_of("lightgcn", {"n_layers": -1})


def test_the_seed_is_not_a_setting_as_a_fit_is_given_it():
    for name in ("mf", "mf_biases", "aligned_mf"):
        with pytest.raises(JobError, match="seed"):
            system_of(name, {"seed": 3})


def test_a_module_that_cannot_be_imported_fails_alone():
    registry = Registry({"item_mean": "jobs.collab.baselines.means:ItemMean", "x": "no.module:X"})
    assert registry["item_mean"] is ItemMean
    assert "x" in registry
    assert len(registry) == 2
    with pytest.raises(ImportError):
        registry["x"]


def test_the_published_factorisation_keeps_what_is_not_given():
    system = system_of("mf", {"n_factors": 32})
    assert system.model_dump(include={"n_factors", "biases", "optimizer", "weight_decay"}) == {
        "n_factors": 32,
        "biases": False,
        "optimizer": "dense",
        "weight_decay": 1e-4,
    }


def test_a_system_that_is_not_listed_is_not_saved(tmp_path):
    with pytest.raises(JobError, match="Unlisted is not in the list of systems"):
        save(FITTED, Unlisted(), tmp_path / "x.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_numbers_that_are_not_finite_are_not_saved(tmp_path):
    broken = FittedMeans(np.zeros(0, np.float32), np.array([0.5, np.nan], np.float32))
    with pytest.raises(JobError, match="'item_logits' holds NaN"):
        save(broken, ItemMean(), tmp_path / "x.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_absent_or_of_another_kind_is_one_error(tmp_path):
    path = tmp_path / "x.safetensors"
    with pytest.raises(JobError, match="no fitted system at"):
        load(path)
    path.write_bytes(b"\x80\x04 a pickle, or anything else")
    with pytest.raises(JobError, match="is not a safetensors file"):
        load(path)
    save_file({"a": np.zeros(1)}, path)
    with pytest.raises(JobError, match="names no system"):
        load(path)


@pytest.mark.parametrize(
    ("metadata", "complaint"),
    [
        ({"tidemark.system": "{"}, "settings cannot be read"),
        ({"tidemark.system": "[1]"}, "settings cannot be read"),
        (said("svd", {}), "no system 'svd'"),
        (said("item_mean", {"x": 1}), "x: Extra inputs"),
        (said("item_mean", {}), "tensors are missing: item_logits, user_logits"),
    ],
)
def test_settings_that_do_not_go_with_the_tensors_are_refused(metadata, complaint, tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"a": np.zeros(1, np.float32)}, path, metadata=metadata)
    with pytest.raises(JobError, match=complaint):
        load(path)


def test_tensors_of_other_shapes_or_types_are_refused():
    table = {"table": np.zeros((3, 4), np.float32)}
    expect(table, {"table": (None, 4)})
    assert floats(table, "table").shape == (3, 4)
    for shape in ((None, 5), (3, 4, 1), (3,)):
        with pytest.raises(JobError, match=r"'table' has shape \(3, 4\)"):
            expect(table, {"table": shape})
    with pytest.raises(JobError, match="'table' is float32, expected int64"):
        ints(table, "table")
    with pytest.raises(JobError, match="'table' is float64, expected float32"):
        floats({"table": np.zeros(1)}, "table")


def test_every_name_in_the_registry_is_a_system():
    for name, kind in SYSTEMS.items():
        assert name == name.lower()
        assert kind.title
