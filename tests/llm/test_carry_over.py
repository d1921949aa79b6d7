"""Last night's vectors: unchanged items are taken over, changed ones embedded, and nothing else."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedding_store import EmbeddingStore, TableSpec
from jobs.datasets import ITEM_SEMANTICS, ITEM_TEXTS
from jobs.errors import NotAvailable
from jobs.files import sha256_file
from jobs.home import Home
from jobs.job import Config, Outcome, Run, execute, mark_checked
from jobs.llm import new_texts
from jobs.llm.distil import DistilConfig, is_of_the_same_version, job, sources
from tests.tiny_backbone import write_tiny_backbone

FIRST, SECOND = date(2026, 3, 1), date(2026, 3, 2)
N = 150
TITLES = {n: f"Film {n} of the {n * 7919 % 1000} nights" for n in range(N)}
CHANGED = (7, 40, 99)  # 2 %


def write_texts(home: Home, day: date, titles: dict[int, str]) -> None:
    table = {
        "item_id": pa.array(titles, pa.int64()),
        "title": list(titles.values()),
        "text": [f"Movie: {title}" for title in titles.values()],
    }
    with Run("item_texts", day, Config(), home) as run:
        run.write(ITEM_TEXTS, pa.table(table))
    mark_checked(home, ITEM_TEXTS, day)


def run_distil(home: Home, day: date, folder: Path, **settings: Any) -> Outcome:
    config = DistilConfig(model=str(folder), device="cpu", **settings)
    return execute("distil", config, day, home, job, sources=sources, intact=is_of_the_same_version)


def semantics(home: Home, day: date) -> pa.Table:
    return pq.read_table(home.output(ITEM_SEMANTICS, day), partitioning=None)


def publish(home: Home, day: date, table: pa.Table | None = None) -> int:
    rows = semantics(home, day) if table is None else table
    return EmbeddingStore(home.store).publish(
        {"item_semantics": TableSpec(rows, "item_id", "vector", "cosine")},
        run_key=f"night-{day}-{rows.num_rows}",
        day=day,
        space=json.loads(rows.schema.metadata[b"space"]),
    )


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many texts went through the model in each call; the model itself does its work."""
    calls: list[int] = []
    real = new_texts.distil

    def counting(tokens: Any, *arguments: Any, **named: Any) -> np.ndarray:
        calls.append(len(tokens))
        return real(tokens, *arguments, **named)

    monkeypatch.setattr(new_texts, "distil", counting)
    return calls


@pytest.fixture
def first_night(home: Home, tiny_folder: Path) -> int:
    write_texts(home, FIRST, TITLES)
    run_distil(home, FIRST, tiny_folder)
    return publish(home, FIRST)


def counts(outcome: Outcome) -> tuple[float, ...]:
    names = ("n_items", "n_carried_over", "n_embedded")
    return tuple(outcome.manifest.metrics[name] for name in names)


def raw_of(table: pa.Table) -> np.ndarray:
    return np.stack(table["raw"].to_numpy())


def test_a_second_night_embeds_exactly_the_changed_titles(
    home: Home, tiny_folder: Path, first_night: int, embedded: list[int]
) -> None:
    titles = TITLES | {n: f"{TITLES[n]}, restored" for n in CHANGED}
    write_texts(home, SECOND, titles)
    outcome = run_distil(home, SECOND, tiny_folder, previous_version=first_night)
    assert embedded == [len(CHANGED)]
    assert counts(outcome) == (N, N - len(CHANGED), len(CHANGED))
    old, new = semantics(home, FIRST), semantics(home, SECOND)
    same = [n for n in range(N) if n not in CHANGED]
    assert np.array_equal(raw_of(old)[same], raw_of(new)[same])  # not a bit of them moved
    differ = [n for n in range(N) if old["content_key"][n] != new["content_key"][n]]
    assert differ == list(CHANGED)


def test_carried_over_or_embedded_afresh_is_the_same_but_for_rounding(
    home: Home, tiny_folder: Path, first_night: int, tmp_path: Path
) -> None:
    titles = TITLES | {n: f"{TITLES[n]}, restored" for n in CHANGED}
    afresh = Home(tmp_path / "afresh")
    for where, settings in ((home, {"previous_version": first_night}), (afresh, {})):
        write_texts(where, SECOND, titles)
        run_distil(where, SECOND, tiny_folder, **settings)
    one, other = semantics(home, SECOND), semantics(afresh, SECOND)
    assert one["content_key"].equals(other["content_key"])
    np.testing.assert_allclose(raw_of(one), raw_of(other), atol=1e-4)
    vectors = [np.stack(table["vector"].to_numpy()) for table in (one, other)]
    np.testing.assert_allclose(*vectors, atol=1e-3)


def test_a_night_in_which_nothing_changed_gives_the_same_bytes_without_the_model(
    home: Home, tiny_folder: Path, first_night: int, embedded: list[int]
) -> None:
    write_texts(home, SECOND, TITLES)
    outcome = run_distil(home, SECOND, tiny_folder, previous_version=first_night)
    assert (embedded, counts(outcome)) == ([], (N, N, 0))
    assert sha256_file(home.output(ITEM_SEMANTICS, SECOND)) == sha256_file(
        home.output(ITEM_SEMANTICS, FIRST)
    )


def test_new_and_gone_items_and_a_moved_title_need_one_embedding_each(
    home: Home, tiny_folder: Path, first_night: int
) -> None:
    titles = {n + 1_000: title for n, title in TITLES.items() if n > 10} | {5: "A new film"}
    write_texts(home, SECOND, titles)
    outcome = run_distil(home, SECOND, tiny_folder, previous_version=first_night)
    assert counts(outcome) == (N - 10, N - 11, 1)  # the text is the key, whatever the item's id


def test_without_a_previous_version_every_item_is_embedded(
    home: Home, tiny_folder: Path, first_night: int
) -> None:
    write_texts(home, SECOND, TITLES)
    assert counts(run_distil(home, SECOND, tiny_folder)) == (N, 0, N)


def test_another_model_carries_nothing_over(home: Home, first_night: int, tmp_path: Path) -> None:
    other = write_tiny_backbone(tmp_path / "other", seed=9)
    write_texts(home, SECOND, TITLES)
    outcome = run_distil(home, SECOND, other, previous_version=first_night)
    assert counts(outcome) == (N, 0, N)


def test_another_precision_carries_nothing_over(
    home: Home, tiny_folder: Path, first_night: int
) -> None:
    write_texts(home, SECOND, TITLES)
    outcome = run_distil(home, SECOND, tiny_folder, previous_version=first_night, dtype="bfloat16")
    assert counts(outcome) == (N, 0, N)


def test_a_version_that_is_not_there_or_is_damaged_is_an_error(
    home: Home, tiny_folder: Path, first_night: int
) -> None:
    write_texts(home, SECOND, TITLES)
    with pytest.raises(NotAvailable, match="no version 8"):
        run_distil(home, SECOND, tiny_folder, previous_version=8)
    damaged = next(Path(home.store).rglob("item_semantics.part-0000.parquet"))
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(NotAvailable, match=damaged.name):
        run_distil(home, SECOND, tiny_folder, previous_version=first_night)


def test_a_rerun_does_nothing_unless_the_number_names_another_version(
    home: Home, tiny_folder: Path, first_night: int
) -> None:
    write_texts(home, SECOND, TITLES)
    settings = {"previous_version": first_night}
    assert run_distil(home, SECOND, tiny_folder, **settings).status == "done"
    assert run_distil(home, SECOND, tiny_folder, **settings).status == "unchanged"
    Path(home.store).rename(home.root / "the old store")
    assert publish(home, FIRST, semantics(home, FIRST).slice(0, N - 5)) == first_night
    again = run_distil(home, SECOND, tiny_folder, **settings)
    assert (again.status, counts(again)) == ("done", (N, N - 5, 5))
