"""A written sample, the archive's form on a small scale, and a runner of checked jobs."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pyarrow as pa
import pytest

from jobs.check import check
from jobs.datasets import EVENTS, Dataset, made_by
from jobs.home import Home
from jobs.job import Config, Run, execute
from jobs.manifest import Manifest
from jobs.prepare import ingest, splits
from jobs.prepare.events import events_as_of
from jobs.prepare.sample import write_sample
from jobs.query import connect
from tests.prepare.growing_shop import DAYS, write_shop

# 5 ratings by 2 users; the second film's title needs Latin-1, the third is never rated.
RATINGS_DAT = """\
1::10::5::993945600
1::20::3::993945600
2::20::4::1018224000
1::20::4::1031356800
2::10::2::1031356801
"""
MOVIES_DAT = """\
10::Star Wars: Episode IV - A New Hope (1977)::Action|Sci-Fi
20::Misérables, Les (1995)::Drama
30::Unseen (2000)::Drama
"""


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample at scale 1; do not change it."""
    folder = tmp_path_factory.mktemp("raw") / "sample"
    assert write_sample(folder)
    return folder


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A small folder in the form of the original archive."""
    folder = tmp_path / "archive" / "ml-1m"
    folder.mkdir(parents=True)
    (folder / "ratings.dat").write_bytes(RATINGS_DAT.encode("latin-1"))
    (folder / "movies.dat").write_bytes(MOVIES_DAT.encode("latin-1"))
    return folder


@pytest.fixture
def archive_zip(archive: Path, tmp_path: Path) -> Path:
    """The same as a zip."""
    path = tmp_path / "ml-1m.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name in ("ratings.dat", "movies.dat"):
            file.write(archive / name, f"ml-1m/{name}")
    return path


class Night:
    """Jobs of one home and day, run and checked; tables read back as the next job reads them."""

    def __init__(self, home: Home, day: date) -> None:
        self.home, self.day = home, day

    def ingest(self, source: Path, **config: object) -> Manifest:
        given = ingest.IngestConfig.model_validate({"source": str(source), **config})
        done = execute(
            "ingest",
            given,
            self.day,
            self.home,
            ingest.job,
            sources=ingest.sources,
            intact=ingest.intact,
        )
        check("ingest", self.day, self.home)
        return done.manifest

    def run(self, name: str, config: Config, job: Callable[..., None]) -> Manifest:
        done = execute(name, config, self.day, self.home, job)
        check(name, self.day, self.home)
        return done.manifest

    def split(self, **config: int) -> Manifest:
        return self.run("splits", splits.SplitsConfig(**config), splits.job)

    def table(self, dataset: Dataset) -> pa.Table:
        run = Run("report", self.day, Config(), self.home)  # any job may read any dataset
        if dataset is EVENTS:
            with connect(events_as_of(run)) as connection:
                return connection.sql("from events order by all").to_arrow_table()
        return run.read(dataset)

    def sha256(self, job: str) -> dict[str, str]:
        manifest = Manifest.model_validate_json(self.home.manifest(job, self.day).read_text())
        assert {output.name for output in manifest.outputs} == {d.name for d in made_by(job)}
        return {output.name: output.sha256 for output in manifest.outputs}


@pytest.fixture
def night(tmp_path: Path) -> Callable[..., Night]:
    """`night(day)`, or `night(day, "other")` for a second home."""
    return lambda day, name="home": Night(Home(tmp_path / name), day)


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All deliveries; do not change them."""
    return write_shop(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="session")
def expected(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[date, dict[str, str]]:
    """sha256 of the tables of each day, from nights in their order."""
    home = Home(tmp_path_factory.mktemp("in-order") / "home")
    found = {}
    for day in DAYS:
        tonight = Night(home, day)
        tonight.ingest(shop)
        found[day] = tonight.sha256("ingest")
    assert len({json.dumps(each) for each in found.values()}) == len(DAYS)
    return found
