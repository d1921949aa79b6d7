"""Hypothesis drives a real store, in a folder and in a bucket, against a dictionary.

`TIDEMARK_STATEFUL_EXAMPLES=2000` runs as many, of 50 steps each and at random.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule
from store_workload import vector_rows

from embedding_store import EmbeddingStore, IndexSpec, TableSpec, object_blobs, open_version
from embedding_store.errors import (
    AliasMoved,
    BadInput,
    DayGoesBackwards,
    IdNotFound,
    StoreNotFound,
    VersionNotFound,
)

N_EXAMPLES = int(os.environ.get("TIDEMARK_STATEFUL_EXAMPLES", "25"))
IS_LONG = N_EXAMPLES > 25
DIM = 3
AXES = [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (0.6, 0.8, 0.0)]
KEYS = [f"run-{n}" for n in range(6)]
DAYS = [f"2026-03-0{n}" for n in (1, 2, 3)]
ALIASES = ["production", "canary"]
CONTENT = st.dictionaries(st.integers(-3, 5), st.sampled_from(AXES), min_size=1, max_size=5)
BAD_CONTENT = st.sampled_from(
    [
        vector_rows([1, 1], [(1, 0, 0)] * 2),
        vector_rows([1], [(float("nan"), 0, 0)]),
        vector_rows([1], [(0, 0, 0)]),
        vector_rows([1], [(1, 0, 0)]).slice(0, 0),
        vector_rows([1.5], [(1, 0, 0)]),
    ]
)


def spec(rows):
    return {"items": TableSpec(rows, "item_id", "vector", "cosine")}


def rows_of(content):
    return vector_rows(list(content), list(content.values()))


class StoreAgainstDictionary(RuleBasedStateMachine):
    """Every rule does the same to the store and to the model, and compares what both say."""

    versions = Bundle("versions")

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.environment = pytest.MonkeyPatch()
        self.environment.setenv("EMBEDDING_STORE_CACHE", str(self.folder / "cache"))
        self.numbers = {}  # run key -> version
        self.content = {}  # version -> {id: vector}
        self.days = {}
        self.moves = {alias: [] for alias in ALIASES}

    @initialize(kind=st.sampled_from(["folder", "bucket"]))
    def start(self, kind):
        folder, bucket = str(self.folder / "store"), f"memory://{self.folder.name}"
        self.root = folder if kind == "folder" else bucket
        self.store = EmbeddingStore(self.root)
        with pytest.raises(StoreNotFound):
            self.store.versions()

    def teardown(self):
        self.environment.undo()
        shutil.rmtree(self.folder)
        object_blobs._memories.pop(f"memory://{self.folder.name}", None)

    # -- writing -----------------------------------------------------------------------------------

    @rule(
        target=versions,
        key=st.sampled_from(KEYS),
        content=CONTENT,
        day=st.sampled_from(DAYS),
        is_indexed=st.booleans(),
        is_fresh=st.booleans(),
    )
    def publish(self, key, content, day, is_indexed, is_fresh):
        store = EmbeddingStore(self.root) if is_fresh else self.store
        indexes = [IndexSpec("items")] if is_indexed else []
        version = store.publish(spec(rows_of(content)), run_key=key, day=day, indexes=indexes)
        if key in self.numbers:
            assert version == self.numbers[key]
            return multiple()
        assert version == len(self.content) + 1
        self.numbers[key], self.content[version], self.days[version] = version, content, day
        return version

    @rule(key=st.sampled_from(KEYS), rows=BAD_CONTENT)
    def publish_what_is_refused(self, key, rows):
        if key in self.numbers:
            assert self.store.publish(spec(rows), run_key=key, day=DAYS[0]) == self.numbers[key]
        else:
            with pytest.raises(BadInput):
                self.store.publish(spec(rows), run_key=key, day=DAYS[0])

    @rule(
        version=versions,
        alias=st.sampled_from(ALIASES),
        expected=st.one_of(st.none(), st.integers(0, 3)),
    )
    def promote(self, version, alias, expected):
        def moved():
            return self.store.promote(
                version, alias, reason="a rule", actor="hypothesis", expected_prev=expected
            )

        log = self.moves[alias]
        now = log[-1] if log else 0
        if now == version:
            assert moved().sequence == len(log)
        elif expected is not None and expected != now:
            with pytest.raises(AliasMoved):
                moved()
        elif now and self.days[version] < self.days[now]:
            with pytest.raises(DayGoesBackwards):
                moved()
        else:
            log.append(version)
            assert moved().sequence == len(log)

    # -- reading -----------------------------------------------------------------------------------

    @rule(version=versions, ids=st.lists(st.integers(-4, 6), max_size=4), level=st.booleans())
    def look_up(self, version, ids, level):
        opened = open_version(self.root, version, verify="full" if level else "cached")
        content = self.content[version]
        missing = [one for one in ids if one not in content]
        if missing:
            with pytest.raises(IdNotFound) as refused:
                opened["items"].vectors_of(ids)
            assert refused.value.missing == missing
        else:
            expected = np.array([content[one] for one in ids], np.float32).reshape(-1, DIM)
            assert (opened["items"].vectors_of(ids) == expected).all()

    @rule(version=versions, query=st.sampled_from(AXES), k=st.integers(1, 6), exact=st.booleans())
    def search(self, version, query, k, exact):
        items = self.store.open(version)["items"]
        found = items.search(np.array(query, np.float32), k=k, exact=exact)
        scores = {
            one: np.float32(np.dot(np.float64(np.float32(query)), np.float64(np.float32(vector))))
            for one, vector in self.content[version].items()
        }
        ranked = sorted(scores, key=lambda one: (-round(float(scores[one]), 5), one))[:k]
        assert found["id"].to_pylist() == ranked
        assert np.allclose(found["score"], [scores[one] for one in ranked], atol=1e-6)

    @rule(alias=st.sampled_from(ALIASES))
    def open_alias(self, alias):
        if self.moves[alias]:
            assert self.store.open(alias).version == self.moves[alias][-1]
            assert [one.version for one in self.store.alias_log(alias)] == self.moves[alias]
        elif self.content:
            with pytest.raises(VersionNotFound):
                self.store.open(alias)

    @rule(beyond=st.integers(1, 3))
    def open_what_is_not_there(self, beyond):
        with pytest.raises((VersionNotFound, StoreNotFound)):
            self.store.open(len(self.content) + beyond)

    @rule()
    def verify(self):
        if self.content:
            assert self.store.verify() == []

    @invariant()
    def versions_are_those_of_the_model(self):
        if self.content:
            found = EmbeddingStore(self.root).versions()
            assert {one.run_key: one.version for one in found} == self.numbers
            assert [one.day for one in found] == [self.days[n] for n in sorted(self.days)]
            pointed = {alias: log[-1] for alias, log in self.moves.items() if log}
            assert EmbeddingStore(self.root).aliases() == pointed


StoreAgainstDictionary.TestCase.settings = settings(
    max_examples=N_EXAMPLES,
    stateful_step_count=50 if IS_LONG else 20,
    deadline=None,
    derandomize=not IS_LONG,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
TestStoreAgainstDictionary = StoreAgainstDictionary.TestCase
