"""Why a job works: each reason by its name, and the same as what the job then does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pydantic import Field

from jobs.datasets import ITEM_TEXTS, PROJECTORS
from jobs.decision import Reason
from jobs.home import Home
from jobs.job import DEPLOYMENT, Config, Run, execute, load_manifest, mark_checked
from jobs.manifest import Manifest
from tests.conftest import DAY


class TextsConfig(Config):
    """Texts of two items."""

    prefix: str = "Movie"
    seed: int = 7
    engine: str = Field("here", json_schema_extra=DEPLOYMENT)


def texts(config: TextsConfig, run: Run) -> None:
    table = {"item_id": [1, 2], "title": ["a", "b"], "text": [f"{config.prefix}: a", "b"]}
    run.write(ITEM_TEXTS, pa.table(table))


def still_stands(manifest: Manifest, home: Home) -> bool:
    """Whether the effect still stands."""
    return (home.root / "effect").exists()


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    folder.mkdir()
    for name in ("1.csv", "2.csv"):
        (folder / name).write_text(name)
    return folder


def why(home: Home, config: TextsConfig, raw: Path, *, has_effect: bool = False) -> list[Reason]:
    """What the job would say now; that it then works, or does not, is part of it."""
    run = Run("item_texts", DAY, config, home, sources=raw.glob("*.csv"))
    last = load_manifest(home, "item_texts", DAY)
    found = run.reasons(last, still_stands if has_effect else None)
    assert (run.unchanged(still_stands if has_effect else None) is None) is bool(found)
    return found


def make(home: Home, raw: Path) -> None:
    sources = sorted(raw.glob("*.csv"))
    execute("item_texts", TextsConfig(), DAY, home, texts, sources=lambda *_: sources)


def test_a_first_run_needs_no_other_reason(home: Home, raw: Path) -> None:
    first = Reason("new", "item_texts", f"has not run for {DAY}")
    assert why(home, TextsConfig(prefix="Book"), raw) == [first]


def test_nothing_that_changed_is_no_reason(home: Home, raw: Path) -> None:
    make(home, raw)
    assert why(home, TextsConfig(), raw) == []


def test_every_field_that_changed_is_named_but_for_where_the_work_is_done(
    home: Home, raw: Path
) -> None:
    make(home, raw)
    assert why(home, TextsConfig(engine="there"), raw) == []
    (raw / "1.csv").unlink()  # not looked at: a changed setting is reason enough
    assert why(home, TextsConfig(prefix="Book", seed=8, engine="there"), raw) == [
        Reason("config", "prefix", "was 'Movie', is 'Book'"),
        Reason("config", "seed", "was 7, is 8"),
    ]


def test_a_field_that_came_or_went_with_another_release_is_named(home: Home, raw: Path) -> None:
    make(home, raw)
    path = home.manifest("item_texts", DAY)
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('"seed": 7,\n    "engine"', '"old": 1,\n    "engine"'))
    assert why(home, TextsConfig(), raw) == [
        Reason("config", "seed", "7, a setting that the last run did not have"),
        Reason("config", "old", "was 1, and is no setting any more"),
    ]


def test_raw_files_are_named_that_are_new_changed_or_gone(home: Home, raw: Path) -> None:
    make(home, raw)
    (raw / "1.csv").write_text("other")
    (raw / "2.csv").unlink()
    (raw / "3.csv").write_text("new")
    assert why(home, TextsConfig(), raw) == [
        Reason("source", str(raw / "1.csv"), "has changed"),
        Reason("source", str(raw / "3.csv"), "is new"),
        Reason("source", str(raw / "2.csv"), "is gone"),
    ]


def test_an_output_that_is_gone_or_damaged_is_named(home: Home, raw: Path) -> None:
    make(home, raw)
    path = home.output(ITEM_TEXTS, DAY)
    path.write_bytes(b"rotten")
    damaged = Reason("output", "item_texts", f"{path} is not the file that was made")
    assert why(home, TextsConfig(), raw) == [damaged]
    path.unlink()
    assert why(home, TextsConfig(), raw) == [Reason("output", "item_texts", f"{path} is gone")]


def test_an_effect_that_does_not_stand_is_told_in_the_words_of_its_check(
    home: Home, raw: Path
) -> None:
    make(home, raw)
    says = "is no longer so: the effect still stands"
    assert why(home, TextsConfig(), raw, has_effect=True) == [Reason("effect", "item_texts", says)]
    (home.root / "effect").touch()
    assert why(home, TextsConfig(), raw, has_effect=True) == []


def test_an_input_that_was_made_anew_names_its_maker(home: Home, raw: Path) -> None:
    make(home, raw)
    mark_checked(home, ITEM_TEXTS, DAY)

    def after(config: Config, run: Run) -> None:
        run.read(ITEM_TEXTS)
        run.write_tensors(PROJECTORS, {"a": np.ones(1, np.float32)})

    execute("align", Config(), DAY, home, after)
    execute("item_texts", TextsConfig(prefix="Book"), DAY, home, texts)
    again = Run("align", DAY, Config(), home)
    (found,) = again.reasons(load_manifest(home, "align", DAY))
    assert (found.kind, found.name) == ("input", "item_texts")
    assert found.says == f"of {DAY} was made anew by item_texts, 2 rows then, 2 now"
