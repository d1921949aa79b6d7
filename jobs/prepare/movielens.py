"""Reads MovieLens-1M: the original folder or zip, or a Parquet copy of its ratings."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jobs.errors import SourceError
from jobs.prepare.lines import line_table, shown, split_lines
from jobs.prepare.source import Domain, RawWarehouse, read_bytes
from jobs.query import query

ML_1M = Domain(
    domain="ml-1m", item_noun="Movie", positive_rating=4.0, split_protocol="published-ml-1m"
)
RATINGS, MOVIES = "ratings.dat", "movies.dat"
PARQUET_RATINGS = "ratings_since_2000-12.parquet"
PARQUET_APPEARANCES = "ratings_all_partial.parquet"
MAX_MEMBER_BYTES = 1 << 30  # 40 times the original; a zip that promises more is not the archive

_ENCODING = "latin-1"
_RATING_COLUMNS = ("user_id", "item_id", "rating", "timestamp", "file_row")
_APPEARANCE_COLUMNS = ("item_id", "file_row")

Read = Callable[[str], tuple[bytes, str]]  # member name -> content, and its name for errors


def folder_of(path: Path) -> Path | None:
    """The folder that holds `ratings.dat`: `path` or the `ml-1m` in it; None if neither does."""
    return next((f for f in (path, path / "ml-1m") if (f / RATINGS).is_file()), None)


def files_of_folder(folder: Path) -> tuple[Path, ...]:
    """The files of the original archive that are read."""
    return folder / RATINGS, folder / MOVIES


def files_of_parquet(folder: Path) -> tuple[Path, ...]:
    """The files of the Parquet copy that are read."""
    return folder / PARQUET_RATINGS, folder / PARQUET_APPEARANCES, folder / MOVIES


# -- the original ----------------------------------------------------------------------------------


def read_folder(folder: Path) -> RawWarehouse:
    """The archive from the folder that holds `ratings.dat` and `movies.dat`."""
    return _read_original(lambda name: (read_bytes(folder / name), str(folder / name)))


def read_zip(path: Path, *, max_member_bytes: int = MAX_MEMBER_BYTES) -> RawWarehouse:
    """The archive from its zip, read in place: nothing is extracted, no member's name is a path.

    Raises:
        SourceError: not a zip, damaged, encrypted, without the two members, or a member larger
            than `max_member_bytes`.
    """
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise SourceError(f"{path}: expected the MovieLens-1M zip, but {_said(error)}") from error
    with archive:
        return _read_original(
            lambda name: (_member(archive, path, name, max_member_bytes), f"{path}:{name}")
        )


def _said(error: Exception) -> str:
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return (reason or type(error).__name__).lower()


def _member(archive: zipfile.ZipFile, path: Path, name: str, max_bytes: int) -> bytes:
    places = (PurePosixPath(name), PurePosixPath("ml-1m", name))
    found = [info for info in archive.infolist() if PurePosixPath(info.filename) in places]
    if len(found) != 1:
        raise SourceError(
            f"{path}: expected one member ml-1m/{name} (or {name}), found {len(found)} "
            f"among {len(archive.namelist())} members"
        )
    if found[0].file_size > max_bytes:
        raise SourceError(
            f"{path}: member {found[0].filename} unpacks to {found[0].file_size:,} bytes, more "
            f"than the {max_bytes:,} that are read; this is not the MovieLens-1M archive"
        )
    try:
        with archive.open(found[0]) as member:
            return member.read()  # ends at the size that was just checked
    except (OSError, EOFError, RuntimeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise SourceError(
            f"{path}: member {found[0].filename} cannot be unpacked ({_said(error)}); "
            "fetch the zip again"
        ) from error


def _read_original(read: Read) -> RawWarehouse:
    content, name = read(RATINGS)
    lines = line_table(split_lines(content, name, encoding=_ENCODING), RATINGS)
    lines = lines.append_column("source_row", lines["line"])
    ratings = query("prepare/movielens_ratings", {"rating_lines": lines})
    _refuse_other_forms(ratings, name)
    return RawWarehouse(
        domain=ML_1M,
        ratings=ratings,
        catalogue=_catalogue(*read(MOVIES)),
        appearances=ratings.select(["item_id", "source_row"]),
    )


def _refuse_other_forms(ratings: pa.Table, name: str) -> None:
    """Single bad lines are for the quarantine; a file of mostly others is another kind of file."""
    is_other = pc.fill_null(pc.equal(ratings["reason"], "wrong number of fields"), False)
    if 2 * pc.sum(is_other).as_py() > ratings.num_rows:
        first = pc.index(is_other, True).as_py()
        raise SourceError(
            f"{name}, line {first + 1}: expected user::item::rating::seconds, "
            f"found {shown(ratings['raw'][first].as_py())}; most lines are not of that form"
        )


def _catalogue(content: bytes, name: str) -> pa.Table:
    lines = line_table(split_lines(content, name, encoding=_ENCODING), MOVIES)
    movies = query("prepare/movielens_catalogue", {"movie_lines": lines})
    bad = movies.filter(pc.or_(pc.is_null(movies["item_id"]), pc.is_null(movies["title"])))
    if bad.num_rows:
        raise SourceError(
            f"{name}, line {bad['line'][0].as_py()}: expected item::title::genres with a number "
            f"and a title, found {shown(bad['raw'][0].as_py())}"
        )
    counts = pc.value_counts(movies["item_id"])
    doubles = counts.filter(pc.greater(counts.field("counts"), 1))
    if len(doubles):
        twice = doubles[0]["values"].as_py()
        raise SourceError(f"{name}: item {twice} is listed more than once; expected one line each")
    return movies.select(["item_id", "title"])


# -- the Parquet copy ------------------------------------------------------------------------------


def read_parquet_folder(folder: Path) -> RawWarehouse:
    """Ratings from their Parquet copy, titles from `movies.dat` beside it.

    The copy starts in December 2000, so every movie's first appearance in the whole archive, which
    settles the published order of ties, comes from a second file.
    """
    ratings = _columns(folder / PARQUET_RATINGS, _RATING_COLUMNS)
    if (n_places := pc.count_distinct(ratings["file_row"]).as_py()) != ratings.num_rows:
        raise SourceError(
            f"{folder / PARQUET_RATINGS}: {ratings.num_rows} rows hold {n_places} different "
            "file_row; expected each row's own place in ratings.dat"
        )
    appearances = _columns(folder / PARQUET_APPEARANCES, _APPEARANCE_COLUMNS)
    return RawWarehouse(
        domain=ML_1M,
        ratings=query(
            "prepare/movielens_parquet_ratings", {"ratings": ratings}, source_file=PARQUET_RATINGS
        ),
        catalogue=_catalogue(read_bytes(folder / MOVIES), str(folder / MOVIES)),
        appearances=appearances.rename_columns(["item_id", "source_row"]),
    )


def _columns(path: Path, names: tuple[str, ...]) -> pa.Table:
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            _refuse_other_columns(path, schema, names)
            table = file.read(columns=list(names))
    except (OSError, pa.ArrowException) as error:
        message = error.strerror if isinstance(error, OSError) else None
        said = message or str(error).splitlines()[0]
        raise SourceError(f"{path}: cannot be read as Parquet ({said}); fetch it again") from error
    if not table.num_rows:
        raise SourceError(f"{path}: the file has no rows")
    return table


def _refuse_other_columns(path: Path, schema: pa.Schema, names: tuple[str, ...]) -> None:
    if missing := [name for name in names if name not in schema.names]:
        raise SourceError(
            f"{path}: column {', '.join(missing)} is missing; expected {', '.join(names)}, "
            f"found {', '.join(schema.names)}"
        )
    for name in names:
        if not pa.types.is_integer(kind := schema.field(name).type):
            raise SourceError(f"{path}: column {name} is {kind}; expected whole numbers")
