"""Rotations between versions: planted ones are found, stored and composed; elsewhere none is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from reviewed import DIM, PLAN, N, planted, publish_reviewed, rotation

from embedding_store import EmbeddingStore
from embedding_store.alignment import procrustes_rotation
from embedding_store.errors import Corrupted, Incompatible, VersionNotFound
from embedding_store.lookup import open_version


def test_a_quarter_turn_of_two_axes_is_found():
    found = procrustes_rotation(np.array([(1, 0), (0, 1)]), np.array([(0, 1), (-1, 0)]))
    assert found.rotation == pytest.approx(np.array([(0, 1), (-1, 0)]), abs=1e-8)
    assert (found.rank, found.residual) == (2, pytest.approx(0, abs=1e-8))
    assert found.unrotated == pytest.approx(np.sqrt(2))  # each axis is sqrt(2) off, of length 1


def test_a_reflection_counts_as_a_rotation_for_it_keeps_every_score():
    found = procrustes_rotation(np.eye(2), np.array([(1, 0), (0, -1)]))
    assert found.rotation == pytest.approx(np.diag([1, -1]), abs=1e-8)


@pytest.mark.parametrize("dim", [2, 64, 300])
def test_a_planted_rotation_is_recovered_to_five_digits(dim):
    truth = rotation(1, dim)
    source = planted(2, 2 * dim, dim).astype(np.float32)
    found = procrustes_rotation(source, (source @ truth).astype(np.float32))
    assert np.abs(found.rotation - truth).max() < 1e-5
    assert found.rotation.T @ found.rotation == pytest.approx(np.eye(dim), abs=1e-9)
    assert found.residual < 1e-6


def test_of_noise_only_the_noise_is_left():
    truth, source = rotation(3), planted(4, 5_000)
    noise = 0.1 * planted(5, 5_000)
    found = procrustes_rotation(source, source @ truth + noise)
    assert found.residual == pytest.approx(0.1 / np.sqrt(1.01), rel=0.02)


def test_directions_that_no_shared_row_has_stay_where_they_are():
    turned = np.array([(0.0, 1, 0), (-1, 0, 0)])
    found = procrustes_rotation(np.array([(1.0, 0, 0), (0, 1, 0)]), turned)
    assert found.rank == 2
    assert found.rotation == pytest.approx(np.array([(0, 1, 0), (-1, 0, 0), (0, 0, 1)]), abs=1e-6)


@pytest.mark.parametrize("shape", [(3, 2), (2, 3), (0, 2)])
def test_matrices_that_do_not_belong_together_are_refused(shape):
    with pytest.raises(ValueError, match="source has shape"):
        procrustes_rotation(np.ones(shape), np.ones((2, 2)) if shape[0] else np.ones(shape))


# -- versions ------------------------------------------------------------------------------------

USERS, ITEMS = planted(10, 40), planted(11)
TURNS = {2: rotation(20), 3: rotation(21), 4: rotation(22)}


@pytest.fixture
def turning(tmp_path):
    """Version 2 is 1 turned, 3 is 2 turned, 4 is 2 turned otherwise; 5 was compared with none."""
    root, turned = tmp_path / "store", {1: np.eye(DIM)}
    publish_reviewed(root, "v1", USERS, ITEMS)
    for version, beside in ((2, 1), (3, 2), (4, 2)):
        turned[version] = turned[beside] @ TURNS[version]
        users, items = USERS @ turned[version], ITEMS @ turned[version]
        assert publish_reviewed(root, f"v{version}", users, items, beside=beside) == version
    publish_reviewed(root, "v5", USERS, ITEMS)
    return EmbeddingStore(root), turned


@pytest.mark.parametrize(
    ("source", "target"), [(2, 1), (1, 2), (3, 1), (1, 3), (3, 4), (4, 3), (2, 2)]
)
def test_vectors_are_mapped_along_the_versions_up_and_down(turning, source, target):
    store, turned = turning
    found = store.open(source).map_to(target)
    assert set(found) == {"users", "items"}
    for name, truth in (("users", USERS), ("items", ITEMS)):
        assert found[name] == pytest.approx(truth @ turned[target], abs=1e-5)
        assert found[name].dtype == np.float32


def test_mapping_needs_no_search_engine_and_keeps_scores_between_tables(turning):
    store, _ = turning
    version = open_version(store.root, 3)
    users, items = (version[name].map_to(1) for name in ("users", "items"))
    before = version["users"].vectors @ version["items"].vectors.T
    assert users @ items.T == pytest.approx(before, abs=1e-4)


def test_the_manifest_says_with_which_version_and_how_well(turning):
    store, _ = turning
    manifest = store.open(3).manifest
    assert manifest.alignment.to.version == 2
    assert manifest.alignment.to.manifest_sha256 == store.open(2).manifest_sha256
    (group,) = manifest.alignment.groups
    assert (group.name, group.tables) == ("factors", ["users", "items"])
    assert (group.dim, group.rank, group.n_shared) == (DIM, DIM, N + 40)
    assert group.residual < 1e-6 < 0.1 < group.unrotated
    assert store.open(1).manifest.alignment is None
    assert store.verify() == []


def test_a_version_that_no_way_leads_to_is_refused_with_the_reason(turning):
    store, _ = turning
    with pytest.raises(
        Incompatible, match="items of version 5 to version 1: version 5 was aligned"
    ):
        store.open(5)["items"].map_to(1)
    with pytest.raises(Incompatible, match="no rotation leads"):
        store.open(1).map_to(5)
    with pytest.raises(VersionNotFound):
        store.open(1)["items"].map_to(99)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"users": planted(1, 9, 4), "items": planted(2, N, 4)}, "has 4 dimensions, version 1 6"),
        ({"space": {"space_id": "other"}}, "space_id is 'other', there 'planted'"),
        ({"ids": [f"i{n:03}" for n in range(N)]}, "ids of 'items' are string, there int64"),
    ],
)
def test_across_dimensions_spaces_and_kinds_of_ids_there_is_no_rotation(tmp_path, changes, message):
    root = tmp_path / "store"
    publish_reviewed(root, "v1", USERS, ITEMS)
    users, items = changes.pop("users", USERS), changes.pop("items", ITEMS)
    publish_reviewed(root, "v2", users, items, beside=1, **changes)
    second = EmbeddingStore(root).open(2)
    assert message in second.manifest.alignment.skipped["factors"]
    assert second.manifest.extra_files == []
    with pytest.raises(Incompatible, match="was not aligned with version 1"):
        second.map_to(1)


def test_a_changed_rotation_is_found_out(turning):
    store, _ = turning
    third = store.open(3)
    path = third.file("alignment.safetensors")
    content = bytearray(path.read_bytes())
    content[-3] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(Corrupted, match=r"alignment\.safetensors"):
        third.map_to(1)
    with pytest.raises(Corrupted, match=r"alignment\.safetensors"):
        store.open(3)


def test_the_same_publication_gives_the_same_rotation_bytes(tmp_path):
    written = []
    for name in ("one", "two"):
        root = tmp_path / name
        publish_reviewed(root, "v1", USERS, ITEMS)
        publish_reviewed(root, "v2", USERS @ TURNS[2], ITEMS @ TURNS[2], beside=1)
        written.append(EmbeddingStore(root).open(2).file("alignment.safetensors").read_bytes())
    assert written[0] == written[1]


def test_tables_of_a_group_that_do_not_fit_each_other_are_left_out(tmp_path):
    root = tmp_path / "store"
    plan = replace(PLAN, queries={})
    publish_reviewed(root, "v1", planted(1, 9, 4), ITEMS, plan=plan)
    publish_reviewed(root, "v2", planted(1, 9, 4), ITEMS, plan=plan, beside=1)
    skipped = EmbeddingStore(root).open(2).manifest.alignment.skipped
    assert "different dimensions" in skipped["factors"]
