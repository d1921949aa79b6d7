"""What an earlier version of the store holds already, and need not be embedded again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from embedding_store.errors import Incompatible, StoreError, TableNotFound, VersionExpired
from embedding_store.lookup import open_version
from jobs.datasets import ITEM_SEMANTICS
from jobs.errors import NotAvailable
from jobs.home import Home
from jobs.manifest import Manifest
from jobs.vector_columns import as_matrix


class CarriedOver(NamedTuple):
    """Raw vectors of an earlier version, by content key."""

    places: dict[str, int]
    raw: np.ndarray  # (n, d) float32
    version_sha256: str | None  # names the version's content


NOTHING = CarriedOver({}, np.empty((0, 0), np.float32), None)
_SAME = ("fingerprint", "dtype", "dim")


class _NothingHeld(Exception):
    """The version is of another space, or its files are gone."""


@contextmanager
def _semantics(home: Home, space: dict[str, Any], version: int) -> Iterator[tuple[Any, str]]:
    """ITEM_SEMANTICS of an earlier version of this space, and the sha256 of the version."""
    try:
        with open_version(home.store, version, expect={key: space[key] for key in _SAME}) as opened:
            yield opened[ITEM_SEMANTICS.name], opened.manifest_sha256
    except (Incompatible, VersionExpired, TableNotFound) as error:
        raise _NothingHeld(str(error)) from error
    except StoreError as error:
        raise NotAvailable(str(error)) from error


def carried_over(home: Home, space: dict[str, Any], version: int | None, log: Any) -> CarriedOver:
    """What an earlier version holds of this space; nothing if it is of another, or is gone.

    Raises:
        NotAvailable: there is no such version, or a file of it is not what was published.
    """
    if version is None:
        return NOTHING
    try:
        with _semantics(home, space, version) as (semantics, sha256):
            rows = semantics.table(["content_key", "raw"])
            raw = as_matrix(rows["raw"]).copy()
    except _NothingHeld as error:
        log.warning("every item is embedded", previous_version=version, why=str(error))
        return NOTHING
    places = {key: row for row, key in enumerate(rows["content_key"].to_pylist())}
    return CarriedOver(places, raw, sha256)


def known_keys(home: Home, space: dict[str, Any], version: int | None) -> dict[Any, str]:
    """The content key of each item that `carried_over` would find, without its vectors.

    Raises:
        NotAvailable: as `carried_over`.
    """
    if version is None:
        return {}
    try:
        with _semantics(home, space, version) as (semantics, _):
            rows = semantics.table(["item_id", "content_key"])
            ids, keys = rows["item_id"].to_pylist(), rows["content_key"].to_pylist()
    except _NothingHeld:
        return {}
    return dict(zip(ids, keys, strict=True))


def is_of_the_same_version(manifest: Manifest, home: Home) -> bool:
    """Whether the number still names the version that was carried over from.

    A version whose files were deleted since has done its part.
    """
    version = manifest.config["previous_version"]
    stated = manifest.result.get("previous_version_sha256")
    if version is None or stated is None:
        return True
    try:
        with open_version(home.store, version, verify="off") as opened:
            return opened.manifest_sha256 == stated
    except VersionExpired:
        return True
    except StoreError:
        return False
