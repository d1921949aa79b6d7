"""What an earlier version of the store holds already, and need not be embedded again."""

from __future__ import annotations

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


def carried_over(home: Home, space: dict[str, Any], version: int | None, log: Any) -> CarriedOver:
    """What an earlier version holds of this space; nothing if it is of another, or is gone.

    Raises:
        NotAvailable: there is no such version, or a file of it is not what was published.
    """
    if version is None:
        return NOTHING
    try:
        with open_version(home.store, version, expect={key: space[key] for key in _SAME}) as opened:
            rows = opened[ITEM_SEMANTICS.name].table(["content_key", "raw"])
            raw = as_matrix(rows["raw"]).copy()
    except (Incompatible, VersionExpired, TableNotFound) as error:
        log.warning("every item is embedded", previous_version=version, why=str(error))
        return NOTHING
    except StoreError as error:
        raise NotAvailable(str(error)) from error
    places = {key: row for row, key in enumerate(rows["content_key"].to_pylist())}
    return CarriedOver(places, raw, opened.manifest_sha256)


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
