"""A versioned store of embeddings: publish all or nothing, open by number or alias, search.

Importing the package is light. The names below arrive on first use, so that a GPU image can
import `embedding_store.lookup` without FAISS.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embedding_store.index import IndexSpec
    from embedding_store.lookup import VectorSet, Version, open_version
    from embedding_store.store import EmbeddingStore
    from embedding_store.tables import TableSpec

_HOMES = {
    "EmbeddingStore": "embedding_store.store",
    "IndexSpec": "embedding_store.index",
    "TableSpec": "embedding_store.tables",
    "VectorSet": "embedding_store.lookup",
    "Version": "embedding_store.lookup",
    "open_version": "embedding_store.lookup",
}
__all__ = ["EmbeddingStore", "IndexSpec", "TableSpec", "VectorSet", "Version", "open_version"]


def __getattr__(name: str) -> Any:
    """The public name, imported from its module when first asked for."""
    try:
        home = _HOMES[name]
    except KeyError:
        raise AttributeError(f"module 'embedding_store' has no attribute '{name}'") from None
    return getattr(import_module(home), name)
