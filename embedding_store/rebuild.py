"""Everything of a version that is derived, made once more from its Parquet files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from embedding_store import index as indexes
from embedding_store import tables as written
from embedding_store.blobs import sha256_of
from embedding_store.manifest import IndexEntry
from embedding_store.search import SearchableVersion
from embedding_store.tables import Prepared, TableSpec


@dataclass(frozen=True)
class Rebuilt:
    """One derived file, as it was published and as it was made again."""

    file: str
    published: str  # sha256
    rebuilt: str

    @property
    def is_equal(self) -> bool:
        """Whether they are the same bytes."""
        return self.published == self.rebuilt


def rebuild_check(version: SearchableVersion) -> list[Rebuilt]:
    """Write sidecars and indexes again, in a temporary folder, and compare their hashes.

    The rows come from the Parquet files alone, which are the truth and are not made again. Other
    versions of the libraries, or another machine, may give other bytes: the manifest's `env` and
    the index's `library` say which wrote them.
    """
    found: list[Rebuilt] = []
    with TemporaryDirectory(prefix="embedding-store-rebuild-") as folder:
        for name in version:
            for file in _written_again(version, name, Path(folder)):
                if file in version[name].entry.parts:
                    (Path(folder) / file).unlink()
                    continue
                stated = version.manifest.file(file)
                published = stated.sha256 if stated else "not published"
                found.append(Rebuilt(file, published, sha256_of(Path(folder) / file)))
                (Path(folder) / file).unlink()
    return found


def _written_again(version: SearchableVersion, name: str, folder: Path) -> Iterator[str]:
    """Names of the files of one table, each made when it is asked for."""
    table, stated = version[name], version.manifest.index_of(name)
    spec = TableSpec(table.table(), table.key, table.entry.vector, table.metric)
    prepared = written.prepare(name, spec, stated.metric if stated else None)

    @contextmanager
    def creating(file: str) -> Iterator[Path]:
        yield folder / file

    for one in written.write(prepared, creating):
        yield one.name
    if stated is not None:
        yield _index_again(prepared, stated, folder)


def _index_again(table: Prepared, stated: IndexEntry, folder: Path) -> str:
    assert table.vectors is not None
    spec = indexes.spec_of(stated)
    bias = written.bias_of(table, spec.bias)
    indexes.build(table.vectors, spec, folder / stated.file, bias)
    return stated.file
