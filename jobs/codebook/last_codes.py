"""The codes of an earlier version of the store, whose numbers tonight's codes take over."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedding_store.errors import StoreError, TableNotFound, VersionExpired
from embedding_store.lookup import open_version
from jobs.codebook.matching import UNKNOWN, Ints
from jobs.codebook.tables import codes_matrix
from jobs.datasets import ITEM_CODES
from jobs.errors import NotAvailable
from jobs.home import Home


class LastCodes(NamedTuple):
    """Codes of tonight's items in an earlier version."""

    codes: Ints | None  # (n, n_levels), UNKNOWN where the version lacks the item; None: no codes
    version_sha256: str | None  # names the version's content


def last_codes(home: Home, items: pa.Array, version: int | None, log: Any) -> LastCodes:
    """Codes that `items` have in a version; none if it has no table of codes, or is gone.

    Raises:
        NotAvailable: there is no such version, or a file of it is not what was published.
    """
    if version is None:
        return LastCodes(None, None)
    try:
        with open_version(home.store, version) as opened:
            rows = opened[ITEM_CODES.name].table(["item_id", "codes"])
            sha256 = opened.manifest_sha256
    except (VersionExpired, TableNotFound) as error:
        log.warning("codes have numbers of their own", previous_version=version, why=str(error))
        return LastCodes(None, None)
    except StoreError as error:
        raise NotAvailable(str(error)) from error
    if rows["item_id"].type != items.type:
        why = f"version {version} has {rows['item_id'].type} item ids, tonight's are {items.type}"
        log.warning("codes have numbers of their own", previous_version=version, why=why)
        return LastCodes(None, None)
    matrix = codes_matrix(rows["codes"])
    places = pc.index_in(items, value_set=rows["item_id"].combine_chunks())
    known = places.is_valid().to_numpy(zero_copy_only=False)
    codes = np.full((len(items), matrix.shape[1]), UNKNOWN, dtype=np.int64)
    codes[known] = matrix[places.drop_null().to_numpy()]
    return LastCodes(codes, sha256)
