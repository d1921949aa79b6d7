"""What has been committed: which artifact a dataset is, whether it is whole, and has passed."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import date
from pathlib import Path

from jobs.datasets import BY_NAME, Dataset
from jobs.errors import NotAvailable, SourceError
from jobs.files import sha256_file, write_atomically
from jobs.home import Home
from jobs.manifest import Artifact, load_manifest


def committed(home: Home, name: str, day: date) -> Artifact | None:
    """What the manifest of its producer says of a dataset; None if it was not made."""
    manifest = load_manifest(home, BY_NAME[name].producer, day)
    return manifest.output(name) if manifest else None


def required(home: Home, dataset: Dataset, day: date) -> Artifact:
    """As `committed`, of a dataset that has to be there.

    Raises:
        NotAvailable: it was not made.
    """
    artifact = committed(home, dataset.name, day)
    if artifact is None:
        raise NotAvailable(
            f"{dataset.name} of {day} does not exist: job '{dataset.producer}' has not run for "
            f"that day in {home.root}"
        )
    return artifact


def is_whole(path: Path, sha256: str) -> bool:
    """Whether the file is there and holds these bytes."""
    return path.is_file() and sha256_file(path) == sha256


def is_checked(home: Home, dataset: Dataset, day: date) -> bool:
    """Whether the committed bytes of `dataset` are those that passed `sql/checks`."""
    try:
        mark = json.loads(home.check_mark(dataset, day).read_text(encoding="utf-8"))
        marked = mark["sha256"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):  # none, or one that rotted
        return False
    artifact = committed(home, dataset.name, day)
    return marked == (artifact.sha256 if artifact else None)


def mark_checked(home: Home, dataset: Dataset, day: date) -> None:
    """Write down that the committed bytes of `dataset` have passed."""
    sha256 = required(home, dataset, day).sha256
    write_atomically(home.check_mark(dataset, day), json.dumps({"sha256": sha256}))


# -- files from outside the home -------------------------------------------------------------------


def source_artifacts(sources: Iterable[Path | Artifact]) -> list[Artifact]:
    """Files from outside the home as a manifest names them, by their place.

    Raises:
        SourceError: one cannot be read.
    """
    return [_source_artifact(each) for each in sorted(sources, key=_place_of_source)]


def _place_of_source(source: Path | Artifact) -> str:
    return source.path if isinstance(source, Artifact) else str(source)


def _source_artifact(path: Path | Artifact) -> Artifact:
    if isinstance(path, Artifact):
        return path
    try:
        return Artifact(name=path.name, path=str(path), sha256=sha256_file(path))
    except OSError as error:
        raise SourceError(
            f"{path}: cannot be read ({error.strerror}); put it back, or give this user the right "
            "to read it"
        ) from error
