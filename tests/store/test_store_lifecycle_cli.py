"""init, gc, recover, erase and events on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from store_workload import promote, publish

from embedding_store import EmbeddingStore, cli


@pytest.fixture
def run(capsys):
    """Exit code, rows and errors of a command line."""

    def call(*arguments):
        with pytest.raises(SystemExit) as ended:
            cli.main([*arguments, "--format", "json"])
        printed = capsys.readouterr()
        rows = json.loads(printed.out)["rows"] if printed.out else []
        return ended.value.code, rows, printed.err

    return call


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Two versions, the second in production, in a store without a grace period."""
    root = tmp_path / "store"
    EmbeddingStore(root).initialise(grace_s=0)
    publish(root)
    publish(root, "second", "2026-03-02", 2)
    promote(root, 2)
    monkeypatch.setenv("TIDEMARK_STORE", str(root))
    return root


def test_init_makes_a_store_once_and_says_what_it_is(run, tmp_path):
    store = str(tmp_path / "new")
    _, (made,), _ = run("init", "--store", store, "--grace", "7")
    assert (made["grace_s"], made["lease_ttl_s"]) == (7, 600)
    _, (again,), _ = run("init", "--store", store, "--grace", "9")
    assert again == made
    code, _, error = run("ls", "--store", store)
    assert (code, error) == (0, "")


def test_gc_explains_everything_or_lists_what_it_did(run, root):
    _, rows, _ = run("gc", "--explain", "--keep-days", "0")
    assert [(row["what"], row["done"]) for row in rows] == [
        ("version 1", "condemned"),
        ("version 2", "kept"),
    ]
    assert rows[1]["why"] == "'production' names it"
    _, rows, _ = run("gc", "--dry-run", "--keep-days", "0")
    assert [row["what"] for row in rows] == ["version 1"]
    assert not (root / "gc").exists()
    _, rows, _ = run("gc", "--keep-days", "0")
    assert [(row["what"], row["done"]) for row in rows] == [("version 1", "condemned")]
    assert rows[0]["bytes"] > 1_000
    code, _, error = run("get", "items", "10", "--at", "1")
    assert (code, "version 1 is condemned" in error) == (3, True)
    _, rows, _ = run("ls")
    assert [row["state"] for row in rows] == ["condemned", "live"]
    assert run("gc", "--keep-last", "0")[0] == 2


def test_erase_goes_on_to_the_proof_and_recover_finishes_what_is_left(run, root):
    code, (row,), _ = run("erase", "item_semantics", "50", "--reason", "asked to")
    assert (code, row["done"]) == (0, "pending")  # 30 s for clocks that differ
    assert "versions replaced: 1 by 3, 2 by 4" in row["why"]
    (root / "versions" / f"{4:020d}.json").unlink()  # and its process died before the slot
    code, rows, _ = run("recover")
    assert code == 0
    assert [row["done"] for row in rows] == ["version 4", "pending"]
    assert EmbeddingStore(root).open(4)["item_semantics"].ids.to_pylist().count(50) == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["erase", "item_semantics", "5", "--reason", "r"], 3, "5"),
        (["erase", "item_semantics", "five", "--reason", "r"], 1, "ids of item_semantics are num"),
        (["erase", "nothing", "5", "--reason", "r"], 3, "no version has a table 'nothing'"),
        (["erase", "item_semantics", "50", "--reason", " "], 1, "reason"),
        (["gc", "--store", "/does/not/exist"], 3, "no embedding store"),
        (["recover", "--store", "/does/not/exist"], 3, "no embedding store"),
    ],
)
def test_what_cannot_be_done_ends_with_its_code_and_one_message(
    run, root, arguments, code, message
):
    ended, rows, error = run(*arguments)
    assert (ended, rows) == (code, [])
    assert message in error
    assert "Traceback" not in error


def test_events_lists_moves_until_they_are_marked(run, root):
    _, (row,), _ = run("events")
    assert (row["alias"], row["sequence"], row["version"]) == ("production", 1, 2)
    store = EmbeddingStore(Path(root))
    store.mark_sent(store.pending_events()[0])
    assert run("events")[1] == []
