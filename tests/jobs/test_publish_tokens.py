"""Soft tokens in a version: tables or projected on read, with all that scoring by the LLM needs."""

from __future__ import annotations

import hashlib
import json
from datetime import date

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.numpy import load_file

from embedding_store import EmbeddingStore
from embedding_store.errors import IdNotFound
from embedding_store.lookup import Version
from jobs.check import check
from jobs.datasets import CALIBRATION, TOKEN_WEIGHTS
from jobs.errors import JobError
from jobs.home import Home
from jobs.job import Config, Run, execute
from jobs.llm.backbone import BackboneFiles, resolve
from jobs.tokens import project
from jobs.tokens.mappers import Mapper
from tests.jobs.published_night import FIRST, ITEM_IDS, SECOND, USERS, night, publish
from tests.report import tiny_night
from tests.report.tiny_night import DIM
from tests.tiny_backbone import HIDDEN, write_tiny_backbone
from tests.tokens.as_tuned import D_FACTOR, KINDS, as_tuned, floats, inputs_of

IDS = {"user": USERS, "item": ITEM_IDS, "warm": ITEM_IDS}
TABLES = {"user_token_inputs", "item_token_inputs", "warm_token_inputs"}


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> BackboneFiles:
    folder = tmp_path_factory.mktemp("backbone")
    return resolve(str(write_tiny_backbone(folder / "tiny")), folder / "cache")


def tuned(home: Home, backbone: BackboneFiles, day: date = FIRST, **other) -> dict[str, Mapper]:
    """The outputs of `tune` for the users and items of the night."""
    return as_tuned(home, backbone, day=day, users=USERS, items=ITEM_IDS, **other)


def projected(home: Home, backbone: BackboneFiles, materialise: str, day: date = FIRST) -> None:
    config = project.ProjectConfig(model=str(backbone.folder), materialise=materialise)
    execute("project", config, day, home, project.job)
    check("project", day, home)


def whole_night(home: Home, day: date = FIRST) -> None:
    night(home, day, tiny_night.planted(), turn=np.eye(DIM))


def opened(home: Home) -> Version:
    return EmbeddingStore(home.store).open("production")


def as_trained(mapper: Mapper, inputs: np.ndarray) -> np.ndarray:
    """(n, n_tokens, d_llm) of a mapper as training applies it."""
    with torch.no_grad():
        return mapper(torch.tensor(inputs)).numpy()


@pytest.mark.parametrize("materialise", ["user,item,warm", "user", ""])
def test_tokens_are_those_of_training_whether_materialised_or_projected(
    home, backbone, materialise
):
    whole_night(home)
    mappers = tuned(home, backbone)
    projected(home, backbone, materialise)
    assert publish(home, FIRST).manifest.result["promoted"]
    version = opened(home)
    kinds = [kind for kind in materialise.split(",") if kind]
    assert {name for name in version if "token" in name} == TABLES | {f"{k}_tokens" for k in kinds}
    for kind, ids in IDS.items():
        expected = as_trained(mappers[kind], inputs_of(kind, len(ids)))
        sources = ("auto", "projected", "materialised") if kind in kinds else ("auto", "projected")
        for source in sources:
            exact = version.soft_tokens(kind, ids, source=source)
            assert exact.shape == (len(ids), KINDS[kind]["n_tokens"], HIDDEN)
            assert np.abs(exact - expected).max() <= 1e-5
            half = version.soft_tokens(kind, ids, dtype="float16", source=source)
            assert half.dtype == np.float16
            assert np.abs(half.astype("f4") - expected).max() <= 1e-3


def test_a_night_that_tunes_nothing_publishes_nothing_of_what_an_earlier_run_left(home, backbone):
    whole_night(home)
    tuned(home, backbone)
    projected(home, backbone, "user")
    publish(home, FIRST)
    plain = publish(home, FIRST, soft_tokens=False)
    assert plain.status == "done"
    version = EmbeddingStore(home.store).open(plain.manifest.result["version"])
    assert not {name for name in version if "token" in name}
    assert version.attributes["soft_tokens"] == {}
    assert "token_weights_sha256" not in version.space
    assert publish(home, FIRST, soft_tokens=False).status == "unchanged"


def test_a_cold_user_is_projected_from_the_items_of_his_history(home, backbone):
    whole_night(home)
    mappers = tuned(home, backbone)
    projected(home, backbone, "item")
    publish(home, FIRST)
    version = opened(home)
    history = floats(len(ITEM_IDS), D_FACTOR, seed=8)  # as `as_tuned` writes it
    places = [[0, 3, 3], [5]]
    asked = [[*ITEM_IDS.take(pa.array(some)).to_pylist(), -1] for some in places]
    found = version.soft_tokens_of_histories([*asked, [], [-1]])
    means = np.stack([history[some].mean(axis=0) for some in places])
    assert found[:2] == pytest.approx(as_trained(mappers["user"], means), abs=1e-5)
    unknown = load_file(version.file("token_weights.safetensors"))["user.unknown"]
    assert (found[2:] == unknown.reshape(3, HIDDEN)).all()
    assert (version.soft_tokens("user", [-1], absent="unknown") == found[2]).all()
    with pytest.raises(IdNotFound):
        version.soft_tokens("user", [-1])


def test_a_version_has_all_that_scoring_needs_and_says_which_llm_it_is_for(home, backbone):
    whole_night(home)
    tuned(home, backbone)
    projected(home, backbone, "user")
    publish(home, FIRST)
    version = opened(home)
    said = json.loads(version.file("token_config.json").read_text())
    assert set(said["kinds"]) == set(KINDS)
    assert "user.hidden.weight" in load_file(version.file("token_weights.safetensors"))
    assert set(load_file(version.file("tuned_adapter.safetensors"))) == {"q_proj.lora_A.weight"}
    adapter = hashlib.sha256(version.file("tuned_adapter.safetensors").read_bytes()).hexdigest()
    assert version.space["token_backbone"] == "tiny"
    assert version.space["token_fingerprint"] == backbone.fingerprint
    assert version.space["tuned_adapter_sha256"] == adapter
    EmbeddingStore(home.store).open(1, expect={"token_fingerprint": backbone.fingerprint})
    assert version["item_token_inputs"].matrix("history").shape == (len(ITEM_IDS), D_FACTOR)


def test_an_llm_without_an_adapter_has_an_empty_file_and_no_hash_of_it(home, backbone):
    whole_night(home)
    tuned(home, backbone, adapter=None)
    projected(home, backbone, "")
    publish(home, FIRST)
    version = opened(home)
    assert load_file(version.file("tuned_adapter.safetensors")) == {}
    assert version.space["tuned_adapter_sha256"] is None


def test_the_weights_of_a_night_do_not_make_another_space(home, backbone):
    for seed, day in enumerate((FIRST, SECOND)):
        whole_night(home, day)
        tuned(home, backbone, day, seed=seed)
        projected(home, backbone, "user,item", day)
        assert publish(home, day).manifest.result["promoted"]
    first, second = (EmbeddingStore(home.store).open(number) for number in (1, 2))
    assert first.space["token_weights_sha256"] != second.space["token_weights_sha256"]
    assert first.space["space_id"] == second.space["space_id"]
    assert second.manifest.reviewed_against == 1
    gates = {gate.name for gate in second.manifest.gates}
    assert gates >= {"coverage.user_token_inputs", "finite.item_tokens", "catalogue.item_tokens"}


def test_a_night_without_tune_has_no_soft_tokens(home):
    whole_night(home)
    publish(home, FIRST)
    version = opened(home)
    assert version.attributes["soft_tokens"] == {}
    assert version.manifest.extra_files == ["projectors.safetensors"]
    assert "token_fingerprint" not in version.space


def test_a_calibration_is_published_as_soon_as_there_is_one(home, backbone):
    whole_night(home)
    tuned(home, backbone)
    projected(home, backbone, "")
    assert publish(home, FIRST).manifest.result["version"] == 1
    assert publish(home, FIRST).status == "unchanged"
    with Run("calibrate", FIRST, Config(), home) as run:
        run.write_text(CALIBRATION, '{"models": {}}\n')
    assert publish(home, FIRST).manifest.result["version"] == 2
    assert opened(home).file("calibration.json").read_text() == '{"models": {}}\n'
    assert publish(home, FIRST).status == "unchanged"


def test_a_calibration_of_other_logits_than_the_nights_is_refused(home, backbone):
    whole_night(home)
    tuned(home, backbone)
    with Run("calibrate", FIRST, Config(), home) as run:
        run.locate(TOKEN_WEIGHTS)
        run.write_text(CALIBRATION, '{"models": {}}')
    assert publish(home, FIRST).manifest.result["promoted"]
    tuned(home, backbone, seed=1)
    with pytest.raises(JobError, match=r"made from another token_weights .* run calibrate again"):
        publish(home, FIRST)


def test_tokens_of_other_weights_than_the_nights_are_refused(home, backbone):
    whole_night(home)
    tuned(home, backbone)
    projected(home, backbone, "user,item")
    tuned(home, backbone, seed=1)
    with pytest.raises(JobError, match="user_tokens of 2026-03-01 was not made by the token_weig"):
        publish(home, FIRST)
    projected(home, backbone, "user,item")
    assert publish(home, FIRST).manifest.result["promoted"]


def test_a_q_former_is_published_with_its_table_or_not_at_all(home, backbone):
    user = {"mapper": "qformer", "n_tokens": 2, "source": "factor_or_history"}
    whole_night(home)
    mappers = tuned(home, backbone, kinds={"user": user})
    with pytest.raises(JobError, match="name user in project's --materialise"):
        publish(home, FIRST)
    projected(home, backbone, "user")
    publish(home, FIRST)
    found = opened(home).soft_tokens("user", USERS)
    expected = as_trained(mappers["user"], inputs_of("user", len(USERS)))
    assert found == pytest.approx(expected, abs=1e-5)


def test_erasing_a_user_takes_inputs_and_tokens_and_leaves_those_of_others(home, backbone):
    whole_night(home)
    tuned(home, backbone)
    projected(home, backbone, "user,item")
    publish(home, FIRST)
    store = EmbeddingStore(home.store)
    gone, *others = USERS.to_pylist()
    before = store.open(1).soft_tokens("user", others)
    store.erase("user_token_inputs", gone, reason="asked to", actor="test")
    version = store.open("production")
    assert version.version == 2
    for name in ("user_token_inputs", "user_tokens", "user_factors"):
        assert gone not in version[name].ids.to_pylist()
    assert (version.soft_tokens("user", others) == before).all()
    assert version.file("token_config.json").is_file()
    assert store.verify() == []
