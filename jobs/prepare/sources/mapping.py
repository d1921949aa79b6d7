"""Reads a mapping file, and recognises the kind of source that lies at a path."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from jobs.errors import SourceError
from jobs.prepare.sample_marker import MARKER, read_marker
from jobs.prepare.sources.lines import shown
from jobs.prepare.sources.mapping_errors import said_of
from jobs.prepare.sources.mapping_form import Mapping, json_schema
from jobs.prepare.sources.mapping_text import parsed_toml, parsed_yaml
from jobs.prepare.sources.source_form import Deliveries

__all__ = ["Mapping", "json_schema", "load_mapping", "recognise"]

AMAZON_REVIEWS = "Books_5.json.gz"
NAMES = ("tidemark.yaml", "tidemark.yml", "tidemark.toml")  # of a mapping inside its source

_MAX_BYTES = 1 << 20
_BUILT_IN = Path(__file__).parent / "mappings"


def load_mapping(path: Path) -> Mapping:
    """The mapping that a YAML or TOML file says.

    Raises:
        SourceError: it cannot be read, is no YAML or TOML, or says something a mapping cannot:
            the file, the line, the key, the value and the way out are named.
    """
    if path.suffix not in (".yaml", ".yml", ".toml"):
        raise SourceError(f"{path}: a mapping is a .yaml or .toml file")
    text = _text(path)
    try:
        parsed = parsed_toml(text) if path.suffix == ".toml" else parsed_yaml(text)
    except ValueError as error:
        raise SourceError(f"{path}{error}") from error
    try:
        return Mapping.model_validate(parsed.value)
    except ValidationError as error:
        raise SourceError(f"{path}{said_of(error, parsed)}") from error


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror})") from error
    if len(content) > _MAX_BYTES:
        raise SourceError(f"{path}: larger than {_MAX_BYTES:,} bytes, so it is no mapping")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise SourceError(
            f"{path}, line {line}: byte {content[error.start]:#04x} is no UTF-8; save it as UTF-8"
        ) from error


# -- kinds of source -------------------------------------------------------------------------------


def recognise(source: Path) -> tuple[Mapping, Path]:
    """The mapping of what lies at `source`, and the root of its files.

    `source` is a mapping file, a folder with tidemark.yaml or tidemark.toml, or one of the
    built-in forms: MovieLens-1M (folder, zip, Parquet copy) or a sample. The root is a folder, or
    the zip itself: its members are then the files.

    Raises:
        SourceError: nothing is there, or nothing that is known.
    """
    if not source.exists():
        raise SourceError(f"{source}: no such file or folder; give --source")
    if source.is_file():
        if source.suffix in (".yaml", ".yml", ".toml"):
            return _with_root(source)
        return _built_in("ml-1m"), source
    if found := [source / name for name in NAMES if (source / name).is_file()]:
        if len(found) > 1:
            raise SourceError(f"{source}: holds {found[0].name} and {found[1].name}; keep one")
        return _with_root(found[0])
    return _built_in_form(source)


def _with_root(path: Path) -> tuple[Mapping, Path]:
    mapping = load_mapping(path)
    root = path.parent / Path(mapping.root or ".").expanduser()
    if not root.is_dir():
        raise SourceError(f"{path}: root: {shown(mapping.root or '.')} is no folder ({root})")
    return mapping, root


def _built_in(name: str) -> Mapping:
    return load_mapping(_BUILT_IN / f"{name}.yaml")


def _built_in_form(folder: Path) -> tuple[Mapping, Path]:
    if (folder / MARKER).is_file():
        return _sample(folder), folder
    for inner in (folder, folder / "ml-1m"):
        if (inner / "ratings.dat").is_file():
            return _built_in("ml-1m"), inner
    parquet = _built_in("ml-1m-parquet")
    if (folder / parquet.events.files[0]).is_file():
        return parquet, folder
    if (folder / AMAZON_REVIEWS).is_file():
        raise SourceError(
            f"{folder}: the dump of Amazon books is converted once before it is read: "
            f"python -m jobs.prepare.amazon_book --source {folder} --folder amazon-book"
        )
    raise SourceError(
        f"{folder}: not a source; expected a mapping ({', '.join(NAMES)}; `tidemark init` writes a "
        f"first one), ratings.dat and movies.dat of MovieLens-1M (also below ml-1m/, or as the "
        f"zip), {parquet.events.files[0]}, or {MARKER} of a sample"
    )


def _sample(folder: Path) -> Mapping:
    """The sample's mapping with the days for which its marker promises deliveries."""
    mapping, marker = _built_in("sample"), read_marker(folder)
    promised = Deliveries(first=marker["first_delivery"], last=marker["last_delivery"])
    events = mapping.events.model_copy(update={"deliveries": promised})
    return mapping.model_copy(update={"events": events})
