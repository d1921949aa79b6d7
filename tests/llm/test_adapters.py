"""Adapters: found by day or folder, known by content, refused where they do not belong."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from jobs.datasets import ADAPTER, ADAPTER_CONFIG
from jobs.errors import JobError, NotAvailable, SourceError
from jobs.home import Home
from jobs.llm.adapters import CONFIG_FILE, TENSORS_FILE, find_adapter, load_adapter
from jobs.llm.backbone import Backbone, load
from jobs.llm.lora import AdapterError, assign, chosen_targets, fold, inject, tensors_of
from tests.conftest import DAY

TOKENS = torch.tensor([[5, 9, 40, 7, 300, 12]])


@pytest.fixture
def fresh(tiny: Backbone) -> Backbone:
    """A backbone of one's own."""
    return load(tiny.files)


def logits(backbone: Backbone) -> torch.Tensor:
    model: Any = backbone.model
    with torch.inference_mode():
        return model(TOKENS).logits


def learned_in(model: Any, rank: int = 4, dropout: float = 0.0) -> dict[str, Any]:
    targets = chosen_targets(model, "all-linear")
    learned = inject(model, rank=rank, alpha=8, dropout=dropout, targets=targets, seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in learned.values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return learned


def written(folder: Path, backbone: Backbone, tensors: dict[str, Any], **changes: Any) -> Path:
    folder.mkdir()
    config = {
        "peft_type": "LORA",
        "r": 4,
        "lora_alpha": 8.0,
        "target_modules": chosen_targets(backbone.model, "all-linear"),
        "tidemark": {"backbone": {"name": "tiny", "fingerprint": backbone.files.fingerprint}},
        **changes,
    }
    (folder / CONFIG_FILE).write_text(json.dumps(config))
    save_file(tensors, folder / TENSORS_FILE)
    return folder


def test_a_new_adapter_changes_nothing(fresh: Backbone) -> None:
    before = logits(fresh)
    targets = chosen_targets(fresh.model, "all-linear")
    inject(fresh.model, rank=4, alpha=8, dropout=0.0, targets=targets, seed=0)
    torch.testing.assert_close(logits(fresh), before, rtol=0, atol=1e-5)


def test_added_to_the_weights_an_adapter_computes_what_it_does_beside_them(
    fresh: Backbone, tiny: Backbone
) -> None:
    learned = learned_in(fresh.model)
    beside = logits(fresh)
    added = load(tiny.files)
    fold(added.model, tensors_of(learned), scale=2.0)
    assert (beside - logits(tiny)).abs().max() > 0.1
    torch.testing.assert_close(logits(added), beside, rtol=0, atol=1e-4)


def test_the_fused_layer_and_its_gradients_are_those_of_peft(
    fresh: Backbone, tiny: Backbone
) -> None:
    gradients = []
    for backbone, dropout in ((fresh, 0.0), (load(tiny.files), 1e-12)):
        model: Any = backbone.model  # with dropout, however little, peft computes
        learned = learned_in(model, dropout=dropout)
        model.eval()
        (model(TOKENS).logits.square().mean()).backward()
        gradients.append({name: each.grad for name, each in learned.items()})
        frozen = [p for n, p in model.named_parameters() if ".lora_" not in n]
        assert all(parameter.grad is None for parameter in frozen)
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-4, atol=1e-6)


def test_a_folder_is_loaded_into_its_backbone_in_either_precision(
    fresh: Backbone, tiny: Backbone, tmp_path: Path
) -> None:
    learned = learned_in(fresh.model)
    folder = written(tmp_path / "a", tiny, tensors_of(learned))
    adapter = find_adapter(str(folder), Home(tmp_path))
    single, half = load(tiny.files), load(tiny.files, dtype="bfloat16")
    for backbone in (single, half):
        load_adapter(backbone, adapter)
        assert not any(p.requires_grad for p in backbone.model.parameters())
    torch.testing.assert_close(logits(single), logits(fresh), rtol=0, atol=1e-4)
    torch.testing.assert_close(logits(half).float(), logits(fresh), rtol=0.05, atol=0.3)


def test_the_fingerprint_follows_the_content_and_not_the_place(
    fresh: Backbone, tmp_path: Path
) -> None:
    tensors = tensors_of(learned_in(fresh.model))
    one = find_adapter(str(written(tmp_path / "a", fresh, tensors)), Home(tmp_path))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    two = find_adapter(str(tmp_path / "b"), Home(tmp_path))
    assert one.fingerprint == two.fingerprint
    next(iter(tensors.values()))[0, 0] += 1
    three = find_adapter(str(written(tmp_path / "c", fresh, tensors)), Home(tmp_path))
    assert three.fingerprint != one.fingerprint


def test_an_adapter_of_another_backbone_is_refused(fresh: Backbone, tmp_path: Path) -> None:
    folder = written(tmp_path / "a", fresh, tensors_of(learned_in(fresh.model)))
    adapter = find_adapter(str(folder), Home(tmp_path))
    other = replace(fresh, files=replace(fresh.files, name="other", fingerprint="f" * 64))
    with pytest.raises(AdapterError, match=r"trained in backbone tiny .*not in other \(ffffffff"):
        load_adapter(other, adapter)


def test_tensors_of_another_shape_are_refused_by_name(fresh: Backbone, tiny: Backbone) -> None:
    learned = learned_in(fresh.model)
    tensors = tensors_of(learned)
    name = next(name for name in tensors if "lora_A" in name)
    wide = {**tensors, name: np.zeros((4, 99), np.float32)}
    with pytest.raises(AdapterError, match=r"\(4, 99\), the backbone wants"):
        assign(learned, wide)
    with pytest.raises(AdapterError, match="made for another backbone"):
        fold(load(tiny.files).model, wide, 1.0)
    less = {key: value for key, value in tensors.items() if "q_proj" not in key}
    with pytest.raises(AdapterError, match="has other layers than asked for"):
        assign(learned, less)
    strange = {key.replace("q_proj", "x_proj"): value for key, value in tensors.items()}
    with pytest.raises(AdapterError, match="x_proj, which the backbone does not have"):
        fold(load(tiny.files).model, strange, 1.0)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"use_dora": True}, "use_dora is True"),
        ({"use_rslora": True}, "use_rslora is True"),
        ({"tidemark": {}}, "does not say which backbone it belongs to"),
        ({"r": None}, "no numbers above zero"),
    ],
)
def test_an_adapter_that_means_something_else_is_refused(
    changes: dict[str, Any], why: str, fresh: Backbone, tmp_path: Path
) -> None:
    folder = written(tmp_path / "a", fresh, {}, **changes)
    with pytest.raises(AdapterError, match=why):
        find_adapter(str(folder), Home(tmp_path))


def test_what_is_not_there_is_said_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(NotAvailable, match="'adapt' has not run for that day"):
        find_adapter(str(DAY), Home(tmp_path))
    with pytest.raises(AdapterError, match="give a day on which adapt ran, or a folder with"):
        find_adapter(str(tmp_path / "nowhere"), Home(tmp_path))
    with pytest.raises(AdapterError, match="no such day"):
        find_adapter("2026-13-41", Home(tmp_path))


def test_a_damaged_file_is_refused(fresh: Backbone, tmp_path: Path) -> None:
    tensors = tensors_of(learned_in(fresh.model))
    next(iter(tensors.values()))[:] = np.nan
    folder = written(tmp_path / "a", fresh, tensors)
    with pytest.raises(SourceError, match="holds NaN"):
        load_adapter(fresh, find_adapter(str(folder), Home(tmp_path)))
    (folder / TENSORS_FILE).write_bytes(b"no tensors")
    with pytest.raises(SourceError, match="no readable adapter"):
        load_adapter(fresh, find_adapter(str(folder), Home(tmp_path)))


def test_layers_that_the_backbone_has_not_are_refused(fresh: Backbone) -> None:
    assert chosen_targets(fresh.model, "v_proj, q_proj") == ["q_proj", "v_proj"]
    with pytest.raises(JobError, match=r"no linear layer z_proj; it has .*q_proj"):
        chosen_targets(fresh.model, "q_proj,z_proj")


def test_the_adapter_of_a_day_must_be_the_bytes_of_its_manifest(
    adapted: Home, tmp_path: Path
) -> None:
    home = Home(tmp_path / "copy")
    shutil.copytree(adapted.root, home.root)
    found = find_adapter(str(DAY), home)
    assert found.sources == (home.output(ADAPTER_CONFIG, DAY), home.output(ADAPTER, DAY))
    tensors = load_file(found.tensors_path)
    next(iter(tensors.values()))[0, 0] += 1
    save_file(tensors, found.tensors_path)
    with pytest.raises(NotAvailable, match="is not the file that the manifest of job 'adapt'"):
        find_adapter(str(DAY), home)
