"""A small publication, the same in every process, and the processes that die while making it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from embedding_store import EmbeddingStore, IndexSpec, TableSpec
from embedding_store.errors import IdNotFound, StoreNotFound
from embedding_store.garbage import Policy

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
COUNTED = {"os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate"}


def vector_rows(ids, vectors, key="item_id", **columns):
    """A table with a key and a column `vector`."""
    matrix = np.asarray(vectors, dtype=np.float32)
    lists = pa.FixedSizeListArray.from_arrays(matrix.ravel(), matrix.shape[1])
    return pa.table({key: ids, "vector": lists, **columns})


def publish(root, key="first", day="2026-03-01", seed=1):
    """Two tables, an index and a file, all decided by `seed`."""
    root = Path(root)
    source = root.with_name(f"{root.name}.projectors-{seed}")
    if not source.exists():
        source.write_bytes(bytes(range(256)) * (seed + 1))
    vectors = np.random.default_rng(seed).normal(size=(40, 8))
    return EmbeddingStore(root).publish(
        {
            "item_semantics": TableSpec(
                vector_rows(range(0, 400, 10), vectors), "item_id", "vector"
            ),
            "items": TableSpec(
                pa.table({"item_id": [30, 10, 20], "title": ["c", "a", "b"]}), "item_id"
            ),
        },
        run_key=key,
        day=day,
        space={"space_id": "planted", "dim": 8},
        files={"projectors.safetensors": source},
        indexes=[IndexSpec("item_semantics", metric="cosine")],
        inputs=[{"name": "events", "day": day, "sha256": "0" * 64, "n_rows": 40}],
        attributes={"global_bias": 0.25},
    )


def promote(root, version, alias="production"):
    """Move an alias."""
    entry = EmbeddingStore(root).promote(version, alias, reason="a test", actor="tester")
    return [entry.sequence, entry.version]


SHARP = Policy(keep_last=1, younger_than_s=0, attempt_age_s=0, skew_s=0)
ERASED = 50  # an id of item_semantics


def collect(root):
    """Condemn, and delete what was condemned before."""
    for _ in range(2):
        outcomes = EmbeddingStore(root).gc(SHARP)
    return {one.what: one.done for one in outcomes if one.what.startswith("version")}


def recover(root):
    """Finish the runs that were decided."""
    return EmbeddingStore(root).recover()


def erase(root, id=ERASED):
    """An id out of every version; "gone" if it was before."""
    try:
        return (
            EmbeddingStore(root)
            .erase("item_semantics", id, reason="a test", actor="tester", skew_s=0)
            .state
        )
    except IdNotFound:
        return "gone"


def facts(root):
    """What a fresh process finds, everything read."""
    store = EmbeddingStore(root)
    try:
        versions = store.versions()
    except StoreNotFound:
        return {"keys": [], "files": [], "problems": [], "aliases": {}, "states": []}
    return {
        "keys": [one.run_key for one in versions],
        "files": [files_of(store, one.version) for one in versions if one.state == "live"],
        "problems": [str(problem) for problem in store.verify()],
        "aliases": {name: version_of(store, name) for name in store.aliases()},
        "states": [one.state for one in versions],
        "folders": len(list(Path(root).glob("data/*"))),
    }


def files_of(store, version):
    """Hashes of a version's files, as verified."""
    with store.open(version) as opened:
        return {file.name: file.sha256 for file in opened.manifest.files}


def version_of(store, alias):
    """What opening an alias gives."""
    with store.open(alias) as opened:
        return opened.version


def mend(root, action, arguments):
    """What a fresh process finds after a crash, and finds after it did the same again."""
    found = facts(root)
    started, cpu = time.perf_counter(), time.process_time()
    ACTIONS[action](root, *arguments)
    took = {"seconds": time.perf_counter() - started, "cpu_s": time.process_time() - cpu}
    return {"found": found, **took, "mended": facts(root)}


def publish_all(root, requests):
    """Several publications, one after the other."""
    return [publish(root, key, seed=seed) for key, seed in requests]


def promote_all(root, versions):
    """Several moves of an alias, one after the other."""
    return [promote(root, version) for version in versions]


ACTIONS = {
    action.__name__: action
    for action in (publish, promote, facts, publish_all, promote_all, collect, recover, erase, mend)
}


# -- the server: warm, so that a process costs a fork ---------------------------------------------


class Counter:
    """Counts the operations on the file system and sends itself a signal before the n-th."""

    def __init__(self, root, at, kind):
        self.n, self.at, self.kind, self.root = 0, at, kind, str(root)
        fsync = os.fsync

        def counted_fsync(descriptor):
            self.count()
            fsync(descriptor)

        os.fsync = counted_fsync
        sys.addaudithook(self.hear)

    def hear(self, event, arguments):
        is_write = event == "open" and (arguments[2] or 0) & WRITING
        if (is_write or event in COUNTED) and str(arguments[0]).startswith(self.root):
            self.count()

    def count(self):
        self.n += 1
        if self.n == self.at:
            os.kill(os.getpid(), self.kind)


def child(request, answer):
    counter = Counter(request["root"], request.get("at"), request.get("kind", signal.SIGKILL))
    result = ACTIONS[request["action"]](request["root"], *request.get("arguments", []))
    os.write(answer, json.dumps({"result": result, "operations": counter.n}).encode())
    os._exit(0)


def start(request):
    readable, answer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            child(request, answer)
        finally:
            os._exit(1)
    os.close(answer)
    return pid, readable


def finish(pid, readable):
    with os.fdopen(readable, "rb") as pipe:
        answer = pipe.read()
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return {"killed": os.WTERMSIG(status)}
    return json.loads(answer) if answer else {"failed": os.WEXITSTATUS(status)}


def serve():
    pa.array([1])  # imports pandas where there is one: here, and not in every child
    for line in sys.stdin:
        request = json.loads(line)
        if "stalled" in request:  # one stops at its n-th operation, others run, then it goes on
            stalled = start({**request["stalled"], "kind": signal.SIGSTOP})
            os.waitpid(stalled[0], os.WUNTRACED)
            answers = [finish(*start(other)) for other in request["meanwhile"]]
            os.kill(stalled[0], signal.SIGCONT)
            answers.insert(0, finish(*stalled))
        else:  # all at once
            answers = [finish(*one) for one in [start(one) for one in request["all"]]]
        sys.stdout.write(json.dumps(answers) + "\n")
        sys.stdout.flush()


def call(action, root, *arguments, at=None):
    """A request to run an action, killed or stopped before its operation number `at`."""
    return {"action": action, "root": str(root), "arguments": arguments, "at": at}


class Processes:
    """The test's end of the server: every request runs in processes of its own."""

    def __init__(self):
        environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1"}
        self.server = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def ask(self, request):
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        return json.loads(self.server.stdout.readline())

    def all(self, *requests):
        """Answers of processes that run at the same time."""
        return self.ask({"all": requests})

    def run(self, action, root, *arguments):
        return self.all(call(action, root, *arguments))[0]

    def each(self, action, roots, *arguments):
        """The results of one action on many stores at once."""
        return [one["result"] for one in self.all(*(call(action, r, *arguments) for r in roots))]

    def stall(self, stalled, *meanwhile):
        """Answers when the first stops at its `at`, the others run, and then it goes on."""
        return self.ask({"stalled": stalled, "meanwhile": meanwhile})

    def close(self):
        self.server.stdin.close()
        self.server.stdout.close()
        self.server.wait()


if __name__ == "__main__":
    serve()
