"""Fitted systems on disk: tensors as safetensors, the settings as JSON beside them in one file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from jobs.collab.baselines.registry import SYSTEMS, system_of
from jobs.collab.factors import Floats, Ints
from jobs.collab.systems import Fitted, System, Tensors
from jobs.errors import JobError
from jobs.files import sync_directory, sync_file

Shape = tuple[int | None, ...]

_KEY = "tidemark.system"  # one key: with several, the order in the file's header is not fixed
N_EPOCHS = "n_epochs"


def save(fitted: Fitted, system: System, path: Path) -> None:
    """Write a fitted system whole or not at all; equal systems give equal bytes.

    Args:
        fitted: what `system.fit` gave.
        system: its settings.
        path: the file; its folder is made.

    Raises:
        JobError: a tensor holds NaN or infinity, or the system is not in the registry.
    """
    tensors = {name: np.ascontiguousarray(each) for name, each in fitted.tensors().items()}
    for name, tensor in tensors.items():
        if tensor.dtype.kind == "f" and not np.isfinite(tensor).all():
            raise JobError(f"{path}: tensor '{name}' holds NaN or infinity; nothing is written")
    said = {"system": SYSTEMS.name_of(system), "config": system.model_dump(mode="json")}
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    save_file(tensors, aside, metadata={_KEY: json.dumps(said, sort_keys=True)})
    sync_file(aside)
    aside.replace(path)
    sync_directory(path.parent)


def load(path: Path) -> tuple[Fitted, System]:
    """What `save` wrote.

    Raises:
        JobError: the file is absent, is no safetensors, was not written by `save`, or its tensors
            and its settings do not go together.
    """
    if not path.is_file():
        raise JobError(f"there is no fitted system at {path}")
    try:
        with safe_open(path, framework="numpy") as file:
            said = (file.metadata() or {}).get(_KEY)
            tensors: Tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise JobError(
            f"{path} is not a safetensors file ({error}); fit the system anew"
        ) from error
    if said is None:
        raise JobError(f"{path} holds tensors but names no system; it was not saved by the bench")
    try:
        told = json.loads(said)
        name, config = told["system"], told["config"]
    except (ValueError, KeyError, TypeError) as error:
        raise JobError(f"{path}: its settings cannot be read: {said[:80]!r}") from error
    try:
        system = system_of(name, config)
        return system.restore(tensors), system
    except JobError as error:
        raise JobError(f"{path}: {error}") from error


def expect(tensors: Tensors, shapes: Mapping[str, Shape]) -> None:
    """Refuse tensors that are not exactly these, by name and shape, for `System.restore`.

    Args:
        tensors: what is there.
        shapes: what must be; None stands for any length.

    Raises:
        JobError: names what is missing, unknown, or of another shape.
    """
    missing, unknown = sorted(shapes.keys() - tensors), sorted(tensors.keys() - shapes)
    if missing:
        raise JobError(f"tensors are missing: {', '.join(missing)}; fit the system anew")
    if unknown:
        raise JobError(f"unknown tensors: {', '.join(unknown)}; they are of another system")
    for name, shape in shapes.items():
        found = tensors[name].shape
        fits = len(found) == len(shape) and all(
            want is None or want == have for want, have in zip(shape, found, strict=True)
        )
        if not fits:
            wanted = ", ".join("any" if each is None else str(each) for each in shape)
            raise JobError(f"tensor '{name}' has shape {found}, these settings make ({wanted})")


def floats(tensors: Tensors, name: str) -> Floats:
    """A tensor of float32.

    Raises:
        JobError: it is of another type.
    """
    tensor = tensors[name]
    if tensor.dtype != np.float32:
        raise JobError(f"tensor '{name}' is {tensor.dtype}, expected float32")
    return tensor.astype(np.float32, copy=False)


def ints(tensors: Tensors, name: str) -> Ints:
    """A tensor of int64.

    Raises:
        JobError: it is of another type.
    """
    tensor = tensors[name]
    if tensor.dtype != np.int64:
        raise JobError(f"tensor '{name}' is {tensor.dtype}, expected int64")
    return tensor.astype(np.int64, copy=False)


def epochs_tensor(n_epochs: int) -> Ints:
    """`Fitted.n_epochs` as the tensor `N_EPOCHS`, (1,)."""
    return np.array([n_epochs], dtype=np.int64)
