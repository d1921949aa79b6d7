"""Which adapter a job uses: found by day or folder, known by its content, put into a backbone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file

from jobs.datasets import ADAPTER, ADAPTER_CONFIG
from jobs.errors import NotAvailable, SourceError
from jobs.files import sha256_file
from jobs.home import Home
from jobs.job import load_manifest
from jobs.llm.backbone import Backbone, BackboneFiles
from jobs.llm.fingerprint import read_json, sha256_json
from jobs.llm.lora import AdapterError, assign, fold, inject

CONFIG_FILE, TENSORS_FILE = "adapter_config.json", "adapter_model.safetensors"
OURS = "tidemark"  # the key of adapter_config.json that holds what peft has no field for
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
# Settings of peft under which the weights would mean something else than scale * B A.
_PLAIN = {"use_rslora": False, "use_dora": False, "fan_in_fan_out": False, "bias": "none"}


@dataclass(frozen=True)
class AdapterFiles:
    """An adapter on this machine, known by its content.

    Attributes:
        name: the day of `adapt`, or the folder's name.
        config_path: peft's adapter_config.json, with ours in it under `tidemark`.
        tensors_path: safetensors with peft's names.
        config: what `config_path` holds.
        fingerprint: sha256 over both files; part of the content key of what is made with it.
    """

    name: str
    config_path: Path
    tensors_path: Path
    config: dict[str, Any]
    fingerprint: str

    @property
    def sources(self) -> tuple[Path, Path]:
        """Both files: what a job's `sources` hook names, so that another adapter is noticed."""
        return self.config_path, self.tensors_path

    @property
    def rank(self) -> int:
        """Columns of B, rows of A."""
        return int(self.config["r"])

    @property
    def scale(self) -> float:
        """What B A is multiplied by."""
        return float(self.config["lora_alpha"]) / self.rank

    @property
    def backbone(self) -> str:
        """Fingerprint of the backbone that it was trained in."""
        return str(self.config[OURS]["backbone"]["fingerprint"])

    def tensors(self) -> dict[str, np.ndarray]:
        """A and B of each layer, float32, by name.

        Raises:
            SourceError: the file is no safetensors file, or holds NaN.
        """
        try:
            tensors = load_file(self.tensors_path)
        except (OSError, SafetensorError) as error:
            raise SourceError(f"{self.tensors_path}: no readable adapter ({error})") from error
        for name, tensor in tensors.items():
            if not np.isfinite(tensor).all():
                raise SourceError(f"{self.tensors_path}: {name} holds NaN or infinity")
        return tensors


def find_adapter(adapter: str, home: Home) -> AdapterFiles:
    """The files of an adapter.

    Args:
        adapter: a day (2026-03-02) on which `adapt` ran in this home, or a folder with
            adapter_config.json and adapter_model.safetensors.
        home: where `adapt` ran.

    Raises:
        NotAvailable: `adapt` has not run for that day, or its files are no longer those it wrote.
        AdapterError: the files are no adapter of a kind that is read.
    """
    if _DAY.fullmatch(adapter):
        config_path, tensors_path = _of_day(adapter, home)
    else:
        folder = Path(adapter).expanduser()
        config_path, tensors_path = folder / CONFIG_FILE, folder / TENSORS_FILE
        adapter = folder.resolve().name
        if not (config_path.is_file() and tensors_path.is_file()):
            raise AdapterError(
                f"there is no adapter at {folder}; give a day on which adapt ran, or a folder with "
                f"{CONFIG_FILE} and {TENSORS_FILE}"
            )
    config = read_json(config_path)
    _check_config(config, config_path)
    fingerprint = sha256_json({"config": config, "tensors": sha256_file(tensors_path)})
    return AdapterFiles(adapter, config_path, tensors_path, config, fingerprint)


def _of_day(text: str, home: Home) -> tuple[Path, Path]:
    try:
        day = date.fromisoformat(text)
    except ValueError as error:
        raise AdapterError(f"adapter {text}: no such day ({error})") from error
    manifest = load_manifest(home, ADAPTER.producer, day)
    if manifest is None:
        raise NotAvailable(
            f"there is no adapter of {day}: job '{ADAPTER.producer}' has not run for that day "
            f"in {home.root}"
        )
    for dataset in (ADAPTER_CONFIG, ADAPTER):
        stated, path = manifest.output(dataset.name), home.output(dataset, day)
        if stated is None or not path.is_file() or sha256_file(path) != stated.sha256:
            raise NotAvailable(
                f"{path} is not the file that the manifest of job '{ADAPTER.producer}' names; "
                f"run that job again for {day}"
            )
    return home.output(ADAPTER_CONFIG, day), home.output(ADAPTER, day)


def _check_config(config: dict[str, Any], path: Path) -> None:
    if config.get("peft_type") != "LORA":
        raise AdapterError(f"{path}: peft_type is {config.get('peft_type')!r}, only LORA is read")
    for key, plain in _PLAIN.items():
        if config.get(key, plain) != plain:
            raise AdapterError(f"{path}: {key} is {config[key]!r}; only {plain!r} is read")
    if not isinstance(config.get("r"), int) or not config.get("lora_alpha"):
        raise AdapterError(f"{path}: r and lora_alpha are no numbers above zero")
    backbone = config.get(OURS, {}).get("backbone", {})
    if not isinstance(backbone.get("fingerprint"), str):
        raise AdapterError(
            f"{path} does not say which backbone it belongs to ({OURS}.backbone.fingerprint); "
            "only adapters that adapt made are read"
        )


def check_backbone(adapter: AdapterFiles, files: BackboneFiles) -> None:
    """Refuse an adapter of another backbone.

    Raises:
        AdapterError: the fingerprints differ.
    """
    if adapter.backbone != files.fingerprint:
        made_for = adapter.config[OURS]["backbone"].get("name")
        raise AdapterError(
            f"adapter {adapter.name} was trained in backbone {made_for} "
            f"({adapter.backbone[:12]}...), not in {files.name} ({files.fingerprint[:12]}...); "
            "give the --model it was trained in, or another adapter"
        )


def load_adapter(backbone: Backbone, adapter: AdapterFiles) -> None:
    """Change a loaded backbone, in place, into the one that was trained; see `put_in`.

    Raises:
        AdapterError: it was trained in another backbone, or its shapes do not fit.
    """
    check_backbone(adapter, backbone.files)
    put_in(backbone, adapter.config, adapter.tensors())


def put_in(
    backbone: Backbone, described: Mapping[str, Any], tensors: Mapping[str, np.ndarray]
) -> None:
    """Change a loaded backbone, in place, into the one with a LoRA; no gradients, eval mode.

    In float32 the adapter is added to the weights and costs nothing afterwards. In any other
    precision it is kept beside them, for the sum would be rounded.

    Args:
        backbone: the one that the LoRA was trained in.
        described: peft's description: r, lora_alpha, target_modules.
        tensors: A and B of each layer, by peft's names.

    Raises:
        AdapterError: the shapes do not fit.
    """
    model: Any = backbone.model  # its methods carry no types
    rank, alpha = int(described["r"]), float(described["lora_alpha"])
    if model.dtype == torch.float32:
        fold(model, tensors, alpha / rank)
        return
    targets = list(described["target_modules"])
    learned = inject(model, rank=rank, alpha=alpha, dropout=0.0, targets=targets, seed=0)
    assign(learned, tensors)
    model.requires_grad_(False).eval()
