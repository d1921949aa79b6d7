"""Trees of tokens through a model: the states of each text by itself, on every kind of model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from jobs.datasets import ITEM_SEMANTICS
from jobs.home import Home
from jobs.job import execute
from jobs.llm.adapters import CONFIG_FILE, OURS, TENSORS_FILE, AdapterError
from jobs.llm.backbone import Backbone, load, resolve
from jobs.llm.distil import DistilConfig, content_key, job, sources
from jobs.llm.embedding import Pooling, distil, reading_trees
from jobs.llm.lora import inject, tensors_of
from tests.conftest import DAY
from tests.llm.test_shards import run_distil, write_texts

TEXTS = [[1, 2], [1, 2, 3], [1, 2, 4, 5, 6], [7], [1, 9, 9], [1, 2], [8] * 30]


def alone(texts: list[list[int]], model: Any) -> list[np.ndarray]:
    """(n_tokens, d) of each text by itself: no padding, no mask, no tree."""
    with torch.inference_mode():
        return [
            model.get_decoder()(input_ids=torch.tensor([text])).last_hidden_state[0].float().numpy()
            for text in texts
        ]


def is_read_as_trees(model: Any, longest: int = 64) -> bool:
    with reading_trees(model.get_decoder(), longest) as reads:
        return reads


def small(kind: str, **settings: Any) -> Any:
    sizes = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 3}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48}
    classes: dict[str, tuple[Any, Any, dict[str, int]]] = {
        "qwen3": (Qwen3Config, Qwen3ForCausalLM, heads | {"head_dim": 16}),
        "mistral": (MistralConfig, MistralForCausalLM, heads),
        "bloom": (BloomConfig, BloomForCausalLM, {"n_head": 4}),
    }
    config, model, own = classes[kind]
    torch.manual_seed(1)
    return model(config(**sizes, **own, initializer_range=0.2, **settings)).eval()


def test_llama_and_qwen_shapes_are_read_as_trees_and_keep_their_attention(tiny: Backbone) -> None:
    model: Any = tiny.model
    before = model.config._attn_implementation
    assert is_read_as_trees(model)
    assert model.config._attn_implementation == before
    distil(TEXTS, model)
    assert model.config._attn_implementation == before


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.lists(st.integers(2, 9), min_size=1, max_size=20), min_size=1, max_size=25),
    st.integers(1, 80),
    st.sampled_from(Pooling),
)
def test_a_text_in_any_tree_has_the_state_it_has_alone(
    tiny: Backbone, texts: list[list[int]], batch_tokens: int, pooling: Pooling
) -> None:
    found = distil(texts, tiny.model, pooling, batch_tokens)
    states = alone(texts, tiny.model)
    last = [state[-1] if pooling is Pooling.LAST else state.mean(axis=0) for state in states]
    np.testing.assert_allclose(found, last, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "more", "reads"),
    [
        ("qwen3", {}, True),
        ("mistral", {"sliding_window": None}, True),
        ("mistral", {"sliding_window": 8}, False),  # a tree knows nothing of the window
        ("bloom", {}, False),  # its attention adds a bias of its own
    ],
)
@pytest.mark.parametrize("pooling", Pooling)
def test_models_that_cannot_read_trees_are_read_padded_and_right(
    kind: str, more: dict[str, Any], reads: bool, pooling: Pooling
) -> None:
    model = small(kind, **more)
    assert is_read_as_trees(model, longest=30) is reads
    found = distil(TEXTS, model, pooling, batch_tokens=64)
    states = alone(TEXTS, model)
    last = [state[-1] if pooling is Pooling.LAST else state.mean(axis=0) for state in states]
    np.testing.assert_allclose(found, last, atol=1e-4)


def test_a_model_whose_attention_is_not_plain_is_seen_and_read_padded(
    tiny: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jobs.llm import embedding

    real = embedding.tree_states
    monkeypatch.setattr(embedding, "tree_states", lambda *given: real(*given) * 1.5)
    assert not is_read_as_trees(tiny.model)
    np.testing.assert_allclose(
        distil(TEXTS, tiny.model), [state[-1] for state in alone(TEXTS, tiny.model)], atol=1e-4
    )


def test_bfloat16_is_read_as_trees_too(tiny_folder: Path, tmp_path: Path) -> None:
    backbone = load(resolve(str(tiny_folder), tmp_path), "cpu", "bfloat16")
    assert is_read_as_trees(backbone.model)
    found, states = distil(TEXTS, backbone.model), alone(TEXTS, backbone.model)
    np.testing.assert_allclose(found, [state[-1] for state in states], atol=0.1, rtol=0.1)


# -- adapters ------------------------------------------------------------------------------------


def write_adapter(folder: Path, backbone: Backbone, fingerprint: str | None = None) -> Path:
    """An adapter with weights that matter; leaves `backbone` with the adapter injected."""
    model: Any = backbone.model
    targets = ["q_proj", "v_proj", "down_proj"]
    learned = inject(model, rank=4, alpha=8.0, dropout=0.0, targets=targets, seed=0)
    chance = torch.Generator().manual_seed(2)
    for name, weight in learned.items():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3, generator=chance)
    folder.mkdir()
    save_file(tensors_of(learned), folder / TENSORS_FILE)
    known = {"name": "tiny", "fingerprint": fingerprint or backbone.files.fingerprint}
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": targets}
    (folder / CONFIG_FILE).write_text(json.dumps(config | {OURS: {"backbone": known}}))
    return folder


@pytest.fixture
def adapted(tiny_folder: Path, tmp_path: Path) -> tuple[Path, Any]:
    backbone = load(resolve(str(tiny_folder), tmp_path / "cache"))
    return write_adapter(tmp_path / "adapter", backbone), backbone.model.eval()


def test_distillation_with_an_adapter_gives_the_adapted_models_states(
    home: Home, tiny_folder: Path, adapted: tuple[Path, Any]
) -> None:
    folder, model = adapted
    write_texts(home)
    run_distil(home, tiny_folder)
    plain = pq.read_table(home.output(ITEM_SEMANTICS, DAY), partitioning=None)
    run_distil(home, tiny_folder, adapter=str(folder))
    table = pq.read_table(home.output(ITEM_SEMANTICS, DAY), partitioning=None)
    tokenizer = load(resolve(str(tiny_folder), home.cache)).tokenizer
    texts = tokenizer([f"Movie: Film {n} of the {n * 7919 % 1000} nights" for n in (0, 7)])
    states = [state[-1] for state in alone(texts["input_ids"], model)]
    raw = np.stack(table["raw"].to_numpy())
    np.testing.assert_allclose(raw[[0, 7]], states, atol=1e-4)
    assert np.abs(raw - np.stack(plain["raw"].to_numpy())).max() > 0.1
    space = json.loads(table.schema.metadata[b"space"])
    assert len(space["adapter"]) == 64
    assert not set(table["content_key"].to_pylist()) & set(plain["content_key"].to_pylist())


def test_another_adapter_in_the_same_folder_is_noticed(
    home: Home, tiny_folder: Path, adapted: tuple[Path, Any]
) -> None:
    folder, _ = adapted
    write_texts(home)
    config = DistilConfig(model=str(tiny_folder), device="cpu", n_components=1, adapter=str(folder))

    def status() -> str:
        return execute("distil", config, DAY, home, job, sources=sources).status

    assert (status(), status()) == ("done", "unchanged")
    tensors = {"base_model.model.nothing": np.zeros((1, 1), np.float32)}
    save_file(tensors, folder / TENSORS_FILE)
    with pytest.raises(AdapterError, match="the adapter changes"):
        status()


def test_an_adapter_of_another_backbone_is_refused(
    home: Home, tiny_folder: Path, tmp_path: Path
) -> None:
    backbone = load(resolve(str(tiny_folder), tmp_path / "cache"))
    folder = write_adapter(tmp_path / "strange", backbone, fingerprint="0" * 64)
    write_texts(home)
    with pytest.raises(AdapterError, match="was trained in backbone"):
        run_distil(home, tiny_folder, adapter=str(folder))


def test_the_content_key_tells_number_formats_and_adapters_apart() -> None:
    config = DistilConfig()
    keys = {
        content_key("Movie: Heat", "f00", config, dtype, adapter)
        for dtype in ("float32", "bfloat16")
        for adapter in (None, "a", "b")
    }
    assert len(keys) == 6
