"""Bytes that are not what was published are refused, by the name of their file."""

from __future__ import annotations

import json
import shutil

import pytest
from store_workload import promote, publish

from embedding_store import EmbeddingStore, open_version
from embedding_store.errors import Corrupted, Incompatible
from embedding_store.manifest import seal

N_OFFSETS = 7


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    root = tmp_path_factory.mktemp("published") / "store"
    publish(root)
    promote(root, 1)
    return root


@pytest.fixture
def root(published, tmp_path):
    shutil.copytree(published, tmp_path / "store")
    return tmp_path / "store"


def files_of(root):
    return sorted(path for path in root.rglob("*") if path.is_file())


def edited(path, **changes):
    """Rewrite a sealed document with other content and a hash that fits it."""
    document = json.loads(path.read_bytes())
    del document["self_sha256"]
    path.write_bytes(seal({**document, **changes}))


def test_one_flipped_bit_in_any_file_is_refused_on_open_and_the_file_is_named(root):
    files = files_of(root)
    assert len(files) == 12  # STORE, RUN, 2 x Parquet, 3 sidecars, index, file, intent, slot, ref
    for path in files:
        whole = path.read_bytes()
        name = path.relative_to(root).as_posix()
        for place in range(N_OFFSETS):
            flipped = bytearray(whole)
            flipped[(len(whole) - 1) * place // (N_OFFSETS - 1)] ^= 1 << place
            path.write_bytes(flipped)
            for opened in (EmbeddingStore(root).open, lambda ref: open_version(root, ref)):
                with pytest.raises(Corrupted) as refused:
                    opened("production")
                assert refused.value.file == name
                assert name in str(refused.value)
        path.write_bytes(whole)
    assert EmbeddingStore(root).open("production").version == 1


def test_verify_names_every_damaged_file_and_is_not_fooled_by_an_open_before_it(root):
    store = EmbeddingStore(root)
    assert store.verify() == []
    store.open(1)
    damaged = {path for path in files_of(root) if path.name != "STORE.json"}
    for path in damaged:
        whole = bytearray(path.read_bytes())
        whole[len(whole) // 2] ^= 4
        path.write_bytes(whole)
    named = {problem.file for problem in store.verify()}
    expected = {path.relative_to(root).as_posix() for path in damaged}
    data = {name for name in expected if name.startswith("data/")}
    assert expected - data <= named  # with its manifest gone, nothing says what the data were


@pytest.mark.parametrize("damage", ["truncated", "longer", "missing", "zeroed", "swapped"])
def test_other_damage_to_data_is_refused_too(root, damage):
    for path in sorted((root / "data").rglob("*")):
        if path.is_dir():
            continue
        whole = path.read_bytes()
        if damage == "missing":
            path.unlink()
        else:
            path.write_bytes(
                {
                    "truncated": whole[:-1],
                    "longer": whole + b"\0",
                    "zeroed": bytes(len(whole)),
                    "swapped": next(
                        other.read_bytes()
                        for other in path.parent.iterdir()
                        if other.suffix != path.suffix
                    ),
                }[damage]
            )
        with pytest.raises(Corrupted, match=path.name):
            EmbeddingStore(root).open(1)
        assert [one.file for one in EmbeddingStore(root).verify(1)] == [
            path.relative_to(root).as_posix()
        ]
        path.write_bytes(whole)


def test_a_manifest_edited_with_a_fitting_hash_is_refused(root):
    slot = root / "versions" / f"{1:020d}.json"
    edited(slot, attributes={"global_bias": 9.0})
    with pytest.raises(Corrupted, match="is not the manifest that refs/production"):
        EmbeddingStore(root).open("production")
    with pytest.raises(Corrupted, match=r"is not what intents/first\.json says"):
        EmbeddingStore(root).open(1)
    (root / "intents" / "first.json").unlink()
    publish_after = EmbeddingStore(root)
    assert any("intents/first.json" in str(one) for one in publish_after.verify())


def test_a_manifest_edited_after_another_was_chained_to_it_is_refused(root):
    publish(root, "second", "2026-03-02", 2)
    slot = root / "versions" / f"{1:020d}.json"
    edited(slot, attributes={})
    with pytest.raises(Corrupted, match=r"is not the manifest that versions/0+2\.json follows"):
        EmbeddingStore(root).open(1)
    assert EmbeddingStore(root).open(2).version == 2


def test_a_missing_version_in_between_is_damage_and_not_an_unknown_number(root):
    publish(root, "second", "2026-03-02", 2)
    (root / "versions" / f"{1:020d}.json").unlink()
    with pytest.raises(Corrupted, match="is missing, but there is a version 2"):
        EmbeddingStore(root).open(1)
    assert EmbeddingStore(root).verify()


def test_an_alias_log_with_a_changed_past_is_reported(root):
    publish(root, "second", "2026-03-02", 2)
    promote(root, 2)
    edited(root / "refs" / "production" / f"{1:010d}.json", reason="another")
    assert [str(one) for one in EmbeddingStore(root).verify()] == [
        "refs/production/0000000002.json: does not follow the entry before it"
    ]


def test_an_index_built_from_other_data_is_refused(root):
    slot, intent = root / "versions" / f"{1:020d}.json", root / "intents" / "first.json"
    index = json.loads(slot.read_bytes())["indexes"][0]
    index["built_from"]["item_semantics.vec.arrow"] = "1" * 64
    edited(slot, indexes=[index])
    edited(intent, body={**json.loads(intent.read_bytes())["body"], "indexes": [index]})
    for level in ("full", "footer", "off"):
        with pytest.raises(Corrupted, match=r"item_semantics\.faiss was built from another"):
            EmbeddingStore(root).open(1, verify=level)


@pytest.mark.parametrize(
    "path", ["../outside", "/etc/hostname", "data/../../outside", "data/.hidden", "data//x", ""]
)
def test_a_manifest_cannot_name_a_file_outside_the_store(root, path):
    (root.parent / "outside").write_bytes(b"")
    slot, intent = root / "versions" / f"{1:020d}.json", root / "intents" / "first.json"
    files = json.loads(slot.read_bytes())["files"]
    files[0]["path"] = path
    edited(slot, files=files)
    edited(intent, body={**json.loads(intent.read_bytes())["body"], "files": files})
    with pytest.raises(Corrupted, match="is not a path inside the store"):
        EmbeddingStore(root).open(1)


def test_the_footer_level_sees_sizes_and_footers_and_the_off_level_nothing(root):
    parquet = next(root.rglob("item_semantics.part-0000.parquet"))
    whole = bytearray(parquet.read_bytes())
    store = EmbeddingStore(root)
    assert store.open(1, verify="footer").version == 1
    whole[100] ^= 1  # among the vectors
    parquet.write_bytes(whole)
    store.open(1, verify="footer")
    whole[-10] ^= 1  # in the footer
    parquet.write_bytes(whole)
    with pytest.raises(Corrupted, match=r"item_semantics\.part-0000\.parquet"):
        store.open(1, verify="footer")
    parquet.write_bytes(whole[:-1])
    with pytest.raises(Corrupted, match="were published"):
        store.open(1, verify="footer")
    store.open(1, verify="off")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"min_reader": 2}, "asks for protocol 2"),
        ({"format": "something-else"}, "is a 'something-else'"),
    ],
)
def test_a_store_made_for_newer_readers_is_refused(root, changes, message):
    edited(root / "STORE.json", **changes)
    with pytest.raises(Incompatible, match=message):
        EmbeddingStore(root).open(1)


def test_a_store_made_for_newer_writers_is_read_and_not_written(root):
    edited(root / "STORE.json", min_writer=2)
    assert EmbeddingStore(root).open(1).version == 1
    with pytest.raises(Incompatible):
        publish(root, "second", "2026-03-02", 2)
    with pytest.raises(Incompatible):
        promote(root, 1, "other")


def test_fields_of_a_newer_writer_are_kept_and_hashed_and_do_not_stop_an_older_reader(root):
    slot, intent = root / "versions" / f"{1:020d}.json", root / "intents" / "first.json"
    edited(slot, align={"to": 0})
    edited(intent, body={**json.loads(intent.read_bytes())["body"], "align": {"to": 0}})
    opened = EmbeddingStore(root).open(1)
    assert opened.document["align"] == {"to": 0}
