"""The store on object storage: the same promises, a conditional put instead of link(2)."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from fault_schedules import Schedule
from obstore.exceptions import AlreadyExistsError, GenericError, PermissionDeniedError
from obstore.store import MemoryStore
from store_workload import vector_rows

from embedding_store import EmbeddingStore, IndexSpec, TableSpec, object_blobs, open_version
from embedding_store.blobs import open_blobs
from embedding_store.cli import main as cli
from embedding_store.errors import (
    BadInput,
    Corrupted,
    StorageUnavailable,
    StoreNotFound,
    UnsupportedStorage,
    VersionExpired,
)
from embedding_store.garbage import Policy
from embedding_store.object_blobs import ObjectBlobs, open_objects

N_SCHEDULES = 150  # 10,000 in benchmarks/store_faults.py
AXES = vector_rows([10, 20, 30], [(1, 0, 0), (0.8, 0.6, 0), (0, 1, 0)])


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EMBEDDING_STORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(object_blobs, "_PAUSES_S", (0.0, 0.0, 0.0))
    monkeypatch.setattr(object_blobs, "_probed", set())


@pytest.fixture
def bucket(monkeypatch):
    """A memory store that `memory://bucket` names."""
    memory = MemoryStore()
    monkeypatch.setitem(object_blobs._memories, "memory://bucket", memory)
    return memory


def publish(root="memory://bucket", key="first", day="2026-03-01", source=__file__):
    return EmbeddingStore(root).publish(
        {"items": TableSpec(AXES, "item_id", "vector", "cosine")},
        run_key=key,
        day=day,
        indexes=[IndexSpec("items")],
        files={"source": source},
    )


def names_in(memory, folder):
    return [one["path"] for one in memory.list_with_delimiter(folder)["objects"]]


def data_files(memory):
    (attempt,) = memory.list_with_delimiter("data")["common_prefixes"]
    return names_in(memory, attempt)


class Failing:
    """A memory store one of whose methods does something else first, or instead."""

    def __init__(self, memory, **instead):
        self.memory, self.instead = memory, instead

    def __getattr__(self, name):
        return self.instead.get(name, getattr(self.memory, name))


def blobs_on(client, folder):
    return ObjectBlobs(client, "memory://bucket", folder, sleep=lambda _: None)


# -- the whole store -------------------------------------------------------------------------------


def test_a_version_on_an_object_store_answers_as_one_in_a_folder_does(bucket, tmp_path):
    folder = tmp_path / "store"
    for root in ("memory://bucket", folder):
        assert publish(root) == 1
        assert publish(root) == 1
        assert publish(root, "second", "2026-03-02") == 2
        EmbeddingStore(root).promote(2, "production", reason="a test", actor="tester")
    answers = []
    for root in ("memory://bucket", folder):
        version = EmbeddingStore(root).open("production")
        found = version["items"].search(ids=[10], k=2)
        assert found["id"].to_pylist() == [20, 30]
        assert np.allclose(found["score"], [0.8, 0.0])
        assert (version["items"].vectors_of([30, 10]) == [(0, 1, 0), (1, 0, 0)]).all()
        assert EmbeddingStore(root).verify() == []
        light = open_version(root, "production")
        assert light.file("source").read_bytes() == version.file("source").read_bytes()
        answers.append((found, {one.name: one.sha256 for one in version.manifest.files}))
    assert answers[0] == answers[1]
    assert names_in(bucket, "probe") == []


def test_the_lookup_files_of_an_object_store_are_memory_mapped(bucket):
    publish()
    items = open_version("memory://bucket", 1)["items"]
    before = pa.total_allocated_bytes()
    assert not items.vectors.flags.writeable
    assert items.vectors.shape == (3, 3)
    assert pa.total_allocated_bytes() == before


def test_the_command_line_takes_a_url(bucket, capsys):
    publish()
    with pytest.raises(SystemExit) as done:
        cli(["get", "items", "20", "--store", "memory://bucket", "--at", "1", "--format", "json"])
    assert done.value.code == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["id"] == 20


def test_a_store_that_nobody_made_is_not_found_and_not_made_by_looking(bucket):
    with pytest.raises(StoreNotFound, match="memory://bucket"):
        EmbeddingStore("memory://bucket").versions()
    assert names_in(bucket, "") == []


def test_a_file_url_is_a_folder(tmp_path):
    publish(f"file://{tmp_path}/store")
    assert EmbeddingStore(tmp_path / "store").open(1).version == 1


def test_maintenance_deletes_old_versions_in_a_bucket_too(bucket):
    store = EmbeddingStore("memory://bucket")
    store.initialise(grace_s=0)
    for number in (1, 2, 3):
        publish(key=f"key-{number}", day=f"2026-03-0{number}")
        store.promote(number, "production", reason="a test", actor="tester")
    sharp = Policy(keep_last=1, younger_than_s=0, attempt_age_s=0, skew_s=0)
    while any(one.done == "condemned" for one in store.gc(sharp)):
        pass
    assert [one.state for one in store.versions()] == ["deleted", "deleted", "live"]
    assert len(bucket.list_with_delimiter("data")["common_prefixes"]) == 1
    with pytest.raises(VersionExpired):
        store.open(1)
    assert store.open("production").version == 3
    assert store.verify() == []


# -- the one primitive -----------------------------------------------------------------------------


def test_only_the_first_creates_and_both_learn_who_it_was(bucket, tmp_path):
    one, other = blobs_on(bucket, tmp_path), blobs_on(bucket, tmp_path)
    assert one.create_if_absent("refs/a", b"one")
    assert not other.create_if_absent("refs/a", b"other")
    assert other.read("refs/a") == b"one"
    with pytest.raises(FileExistsError), other.creating("refs/a") as aside:
        aside.write_bytes(b"other")
    assert one.list("refs") == ["a"]
    assert one.list("nothing") == []
    assert one.exists("refs/a")
    assert not one.exists("refs")
    one.delete("refs/a")
    one.delete("refs/a")
    assert not one.exists("refs/a")
    with pytest.raises(FileNotFoundError):
        one.read("refs/a")


@pytest.mark.parametrize("name", ["../up", "/etc/passwd", "a//b", ".hidden", "a\0b", ""])
def test_no_name_leaves_the_prefix(bucket, tmp_path, name):
    blobs = blobs_on(bucket, tmp_path)
    for call in (blobs.read, blobs.list, blobs.exists, blobs.local_path, blobs.digest):
        with pytest.raises(Corrupted, match="is not a path inside the store"):
            call(name)
    with pytest.raises(Corrupted):
        blobs.create_if_absent(name, b"")


@pytest.mark.parametrize("kind", ["overwrites", "keeps the first and says nothing"])
def test_a_store_that_ignores_the_condition_is_refused_before_the_first_write(
    bucket, monkeypatch, kind
):
    def put(path, content, **options):
        if kind == "overwrites" or content == b"first":
            bucket.put(path, content)

    monkeypatch.setitem(object_blobs._memories, "memory://bucket", Failing(bucket, put=put))
    with pytest.raises(UnsupportedStorage, match="creates an object a second time"):
        publish()
    assert names_in(bucket, "") == []
    assert bucket.list_with_delimiter("")["common_prefixes"] in ([], ["probe"])


def test_a_store_that_cannot_create_conditionally_is_refused(bucket, monkeypatch):
    def put(path, content, **options):
        raise NotImplementedError

    monkeypatch.setitem(object_blobs._memories, "memory://bucket", Failing(bucket, put=put))
    with pytest.raises(NotImplementedError):
        publish()


def test_silence_of_the_probe_is_no_refusal(bucket, monkeypatch):
    def put(path, content, **options):
        if content == b"second":
            raise GenericError("timed out")
        return bucket.put(path, content, **options)

    monkeypatch.setitem(object_blobs._memories, "memory://bucket", Failing(bucket, put=put))
    with pytest.raises(StorageUnavailable, match="twice"):
        publish()
    assert names_in(bucket, "") == []


def test_a_lost_answer_is_decided_by_what_the_name_holds(bucket, tmp_path):
    def put(path, content, **options):
        bucket.put(path, content, **options)
        raise GenericError("timed out")

    lost = blobs_on(Failing(bucket, put=put), tmp_path)
    assert lost.create_if_absent("refs/a", b"one")  # it did happen
    assert not lost.create_if_absent("refs/a", b"other")
    assert bucket.get("refs/a").bytes() == b"one"


def test_a_store_that_never_answers_is_reported_with_the_way_out(bucket, tmp_path):
    def fails(*arguments, **options):
        raise GenericError("connection refused\nand much more")

    dead = blobs_on(Failing(bucket, put=fails, get=fails, head=fails), tmp_path)
    said = r"could not read STORE in 3 tries \(connection refused\).*same run_key"
    with pytest.raises(StorageUnavailable, match=said):
        dead.read("STORE")
    with pytest.raises(StorageUnavailable):
        dead.create_if_absent("STORE", b"")


def test_missing_rights_are_not_tried_again_and_point_at_the_environment(bucket, tmp_path):
    calls = []

    def fails(*arguments, **options):
        calls.append(arguments)
        raise PermissionDeniedError("403")

    with pytest.raises(StorageUnavailable, match="credentials come from the environment"):
        blobs_on(Failing(bucket, get=fails), tmp_path).read("STORE")
    assert len(calls) == 1


def test_a_reader_that_may_not_write_reads_without_a_lease_and_cannot_publish(bucket, monkeypatch):
    publish()

    def put(path, content, **options):
        raise PermissionDeniedError("403")

    monkeypatch.setitem(object_blobs._memories, "memory://bucket", Failing(bucket, put=put))
    monkeypatch.setattr(object_blobs, "_probed", set())
    assert EmbeddingStore("memory://bucket").open(1)["items"].vectors_of([10]).tolist() == [
        [1, 0, 0]
    ]
    with pytest.raises(StorageUnavailable, match="may not create probe/"):
        publish(key="second")


def test_a_process_probes_a_root_once(bucket, monkeypatch):
    made = []

    def put(path, content, **options):
        made.append(path)
        return bucket.put(path, content, **options)

    monkeypatch.setitem(object_blobs._memories, "memory://bucket", Failing(bucket, put=put))
    publish()
    publish(key="second")
    assert [path.startswith("probe/") for path in made].count(True) == 2


def test_what_was_damaged_on_its_way_up_is_not_published(bucket, monkeypatch):
    def put(path, content, **options):
        content = bytes(content)
        damaged = content[:-1] + b"?" if path.endswith(".vec.arrow") else content
        return bucket.put(path, damaged, **options)

    monkeypatch.setitem(object_blobs._memories, "memory://bucket", Failing(bucket, put=put))
    with pytest.raises(Corrupted, match="does not hold what was just written"):
        publish()
    assert names_in(bucket, "versions") == []


def test_large_files_go_up_in_parts_and_come_back_whole(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(object_blobs, "_ONE_PUT_BYTES", 1_000)
    source = tmp_path / "source"
    source.write_bytes(np.random.default_rng(0).bytes(20 * 2**20))
    assert publish(source=source) == 1
    assert EmbeddingStore("memory://bucket").verify() == []
    held = open_version("memory://bucket", 1).file("source")
    assert held.read_bytes() == source.read_bytes()
    blobs = blobs_on(bucket, tmp_path / "copies")
    (path,) = [path for path in data_files(bucket) if path.endswith("source")]
    with pytest.raises(FileExistsError), blobs.creating(path) as aside:
        aside.write_bytes(bytes(2_000))


# -- copies on the local disk ----------------------------------------------------------------------


def test_a_changed_object_is_refused_by_the_next_open_and_an_open_version_keeps_its_copy(bucket):
    publish()
    store = EmbeddingStore("memory://bucket")
    before = store.open(1)
    for path in data_files(bucket):
        whole = bytes(bucket.get(path).bytes())
        bucket.put(path, whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(Corrupted, match=path):
            store.open(1)
        with pytest.raises(Corrupted, match=path):
            open_version("memory://bucket", 1, verify="cached")
        assert [one.file for one in store.verify()] == [path]
        bucket.put(path, whole)
    assert (before["items"].vectors_of([10]) == [(1, 0, 0)]).all()
    assert before["items"].table().num_rows == 3
    assert store.open(1).version == 1


def test_a_copy_that_rotted_on_the_local_disk_is_fetched_again(bucket, tmp_path):
    publish()
    copies = sorted((tmp_path / "cache").rglob("*.vec.arrow"))
    assert len(copies) == 1
    whole = copies[0].read_bytes()
    copies[0].write_bytes(bytes(len(whole)))
    assert (open_version("memory://bucket", 1)["items"].vectors_of([10]) == [(1, 0, 0)]).all()
    assert copies[0].read_bytes() == whole
    assert EmbeddingStore("memory://bucket").verify() == []


def test_a_copy_that_was_deleted_under_an_open_version_is_an_error_and_not_another_file(
    bucket, tmp_path
):
    publish()
    version = open_version("memory://bucket", 1)
    for copy in (tmp_path / "cache").rglob("*.vec.arrow"):
        copy.unlink()
    with pytest.raises(Corrupted, match="was deleted; open the version again"):
        _ = version["items"].vectors
    assert open_version("memory://bucket", 1)["items"].vectors.shape == (3, 3)


# -- roots -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "root", ["ftp://host/x", "http://host/x", "s3://", "memory://", "s3:///prefix", "az://only"]
)
def test_a_url_of_another_kind_is_refused(root, monkeypatch):
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    with pytest.raises(BadInput, match="store root"):
        open_blobs(root)


@pytest.mark.parametrize("root", ["s3://key:secret@bucket/x", "s3://bucket/x?secret=1"])
def test_credentials_in_a_url_are_refused_and_not_repeated(root):
    with pytest.raises(BadInput, match="environment") as refused:
        open_blobs(root)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "root",
    ["s3://bucket/a/prefix", "gs://bucket/prefix", "abfss://c@account.dfs.core.windows.net/p"],
)
def test_urls_of_buckets_are_understood_without_asking_them(root):
    assert open_objects(f"{root}/").root == root


def test_a_missing_obstore_is_named_with_the_extra_that_brings_it():
    code = (
        "import sys; sys.modules['obstore'] = None\n"
        "from embedding_store import open_version\n"
        "open_version('s3://bucket/x', 1)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pip install 'tidemark[objects]'" in done.stderr


def test_a_store_in_a_folder_does_not_load_obstore(tmp_path):
    code = (
        "import sys\n"
        "from embedding_store import EmbeddingStore\n"
        f"EmbeddingStore({str(tmp_path)!r})\n"
        "assert 'obstore' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# -- schedules -------------------------------------------------------------------------------------


def test_no_schedule_of_faults_breaks_a_promise(tmp_path):
    n_faults = 0
    for seed in range(N_SCHEDULES):
        schedule = Schedule(seed, tmp_path).run()
        assert not schedule.violations, f"python benchmarks/store_faults.py --seed {seed}"
        n_faults += schedule.faults.total()
    assert n_faults > 10 * N_SCHEDULES


def test_a_seed_is_a_whole_history(tmp_path):
    one, again = Schedule(7, tmp_path).run(), Schedule(7, tmp_path).run()
    assert (one.n_steps, one.faults) == (again.n_steps, again.faults)
    assert one.faults


def test_the_schedules_catch_a_store_that_lets_a_second_create_through(tmp_path):
    assert all(Schedule(seed, tmp_path, overwrites=True).run().violations for seed in range(3))


def test_the_schedules_catch_a_client_that_takes_silence_for_a_yes(tmp_path, monkeypatch):
    def create(self, name, content):
        try:
            self._client.put(name, content, mode="create", use_multipart=False)
        except AlreadyExistsError:
            return False
        except GenericError:
            return True
        return True

    monkeypatch.setattr(ObjectBlobs, "_create", create)
    assert any(Schedule(seed, tmp_path).run().violations for seed in range(5))


def test_the_schedules_catch_a_client_that_believes_listings(tmp_path, monkeypatch):
    monkeypatch.setattr(ObjectBlobs, "exists", lambda self, name: False)
    assert any(Schedule(seed, tmp_path).run().violations for seed in range(10))
