"""Which bytes a backbone consists of: hashes that are remembered as long as a file stands still."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from jobs.errors import SourceError
from jobs.files import sha256_file, write_atomically

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
)
# What a library writes about itself; the hidden states do not depend on it.
_SAYS_NOTHING = {
    "_name_or_path",
    "transformers_version",
    "name_or_path",
    "chat_template",
    "is_local",
    "local_files_only",
}


def sha256_json(value: Any) -> str:
    """Hex sha256 of the canonical JSON of `value`: sorted keys, no spaces, UTF-8."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_remembered(path: Path, cache: Path) -> str:
    """Hex sha256 of a large file, computed once for each (path, size, modification time)."""
    place = path.resolve()
    stat = place.stat()
    known = {"path": str(place), "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    memo = cache / "hashes" / f"{hashlib.sha256(str(place).encode()).hexdigest()[:32]}.json"
    try:
        remembered = json.loads(memo.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        remembered = {}
    if {key: remembered.get(key) for key in known} == known:
        return str(remembered["sha256"])
    sha256 = sha256_file(place)
    write_atomically(memo, json.dumps({**known, "sha256": sha256}))
    return sha256


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; a SourceError names the file if there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SourceError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(value, dict):
        raise SourceError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def _sha256_settings(path: Path) -> str:
    """Hash of a settings file without the keys that say nothing about the model."""
    settings = read_json(path)
    return sha256_json({k: v for k, v in settings.items() if k not in _SAYS_NOTHING})


def tokenizer_sha256(folder: Path) -> str:
    """Hash of everything that decides how text becomes token ids."""
    hashes = {}
    for name in TOKENIZER_FILES:
        path = folder / name
        if path.is_file():
            is_settings = name == "tokenizer_config.json"
            hashes[name] = _sha256_settings(path) if is_settings else sha256_file(path)
    return sha256_json(hashes)


def backbone_fingerprint(folder: Path, weights: list[Path], cache: Path) -> str:
    """Hash of the weights, the architecture and the tokenizer of a model folder."""
    return sha256_json(
        {
            "weights": {path.name: sha256_remembered(path, cache) for path in weights},
            "config": _sha256_settings(folder / "config.json"),
            "tokenizer": tokenizer_sha256(folder),
        }
    )
