"""A GGUF file becomes a safetensors folder, once for each content, however many processes ask."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import structlog

from jobs.errors import SourceError
from jobs.files import sync_directory, sync_file
from jobs.llm.fingerprint import sha256_remembered

_RECIPE = 1  # raise it when the conversion itself changes: old folders are then left unused


def converted(gguf: Path, name: str, cache: Path) -> Path:
    """Folder with the weights of `gguf` as float32 safetensors, its config and its tokenizer.

    The folder gets its name in one rename when it is complete. Processes that come at the same
    time wait for the first; one that is killed leaves a folder aside that the next one removes.

    Args:
        gguf: the file; its content, not its place, names the result.
        name: first part of the folder's name, for people.
        cache: below it lies `backbones/`.

    Raises:
        SourceError: the file is damaged, or holds a model that transformers cannot read.
    """
    backbones = cache / "backbones"
    folder = backbones / f"{name}-{sha256_remembered(gguf, cache)[:16]}-v{_RECIPE}"
    if folder.is_dir():
        return folder
    backbones.mkdir(parents=True, exist_ok=True)
    with _locked(backbones / f".{folder.name}.lock"):
        if not folder.is_dir():
            for abandoned in backbones.glob(f".{folder.name}.aside-*"):
                shutil.rmtree(abandoned, ignore_errors=True)
            aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.aside-", dir=backbones))
            try:
                _convert(gguf, aside)
                aside.rename(folder)
            finally:
                shutil.rmtree(aside, ignore_errors=True)
            sync_directory(backbones)
    return folder


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """An flock: the kernel releases it when its process dies, however it dies."""
    with path.open("a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _convert(gguf: Path, folder: Path) -> None:
    log = structlog.get_logger()
    log.info("converting the backbone to safetensors; this happens once", file=gguf.name)
    said = io.StringIO()  # progress bars that no verbosity setting reaches
    try:
        with contextlib.redirect_stderr(said):
            _write_safetensors(gguf, folder)
    except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
        raise SourceError(
            f"{gguf}: cannot be converted to safetensors ({type(error).__name__}: {error}); "
            "the file is damaged, or its architecture is not one that transformers reads"
        ) from error
    (folder / "source.json").write_text(json.dumps({"file": gguf.name, "recipe": _RECIPE}))
    for path in folder.iterdir():
        path.chmod(0o644)
        sync_file(path)
    folder.chmod(0o755)  # mkdtemp makes it private; a cache is shared
    sync_directory(folder)


def _write_safetensors(gguf: Path, folder: Path) -> None:
    # Here and not at the top: only the first run on a machine needs them, every run imports this.
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.quantization_config import GgufConfig

    from jobs.llm.quiet import quiet_transformers

    with quiet_transformers():
        tokenizer = AutoTokenizer.from_pretrained(
            gguf.parent, gguf_file=gguf.name, local_files_only=True
        )
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            gguf_file=gguf.name,
            # Without it the weights stay packed, and a packed model cannot be saved.
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=False,
        )
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    if not (folder / "config.json").is_file():
        raise RuntimeError(
            "transformers writes on the first process of a group alone; convert before the group"
        )


def is_gguf(path: Path) -> bool:
    """Whether the file says of itself that it is GGUF."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) == b"GGUF"
