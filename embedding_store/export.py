"""The way out: a version's tables as datasets of another format."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from embedding_store.errors import BadInput
from embedding_store.search import SearchableVersion

ExportFormat = Literal["lance", "delta"]
_LIBRARIES = {"lance": ("lance", "pylance"), "delta": ("deltalake", "deltalake")}


def export(
    version: SearchableVersion, format: ExportFormat, folder: Path, tables: Sequence[str] = ()
) -> dict[str, Path]:
    """Write tables of a verified version as one dataset each.

    Delta Lake has no fixed-size lists: its vectors become lists of any length. Neither format
    keeps the store's checksums.

    Args:
        version: what to export.
        format: of the datasets.
        folder: gets `<table>.lance` or `<table>` for each table.
        tables: all if none is named.

    Returns:
        The path of each dataset.

    Raises:
        BadInput: the library is not installed, or a dataset is there already.
        TableNotFound: the version has no such table.
    """
    library, package = _LIBRARIES[format]
    try:
        writer: Any = import_module(library)
    except ModuleNotFoundError as error:
        if error.name != library:
            raise
        raise BadInput(
            f"export to {format} needs the package {package}: pip install 'tidemark[{format}]'"
        ) from error
    suffix = ".lance" if format == "lance" else ""
    paths = {name: folder / f"{name}{suffix}" for name in tables or version}
    for name, path in paths.items():
        version[name]
        if path.exists():
            raise BadInput(f"{path} is there already; export writes new datasets only")
    folder.mkdir(parents=True, exist_ok=True)
    for name, path in paths.items():
        rows = version[name].table()
        if format == "lance":
            writer.write_dataset(rows, str(path))
        else:
            said = f"{name} of version {version.version}, manifest {version.manifest_sha256}"
            writer.write_deltalake(str(path), rows, mode="error", description=said)
    return paths
