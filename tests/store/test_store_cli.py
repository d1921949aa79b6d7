"""The command line, and the examples of docs/store.md."""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
from pathlib import Path

import pytest
import typer
from store_workload import publish

from embedding_store import cli
from embedding_store.store import EmbeddingStore

DOCS = Path(__file__).resolve().parents[2] / "docs" / "store.md"
COMMANDS = sorted(typer.main.get_command(cli.app).commands)


@pytest.fixture
def store(tmp_path, monkeypatch):
    """Two versions, the first in production, where the environment says that the store is."""
    root = tmp_path / "store"
    publish(root)
    publish(root, "second", "2026-03-02", 2)
    opened = EmbeddingStore(root)
    opened.promote(1, "production", reason="first", actor="tester")
    monkeypatch.setenv("TIDEMARK_STORE", str(root))
    return opened


@pytest.fixture
def run(capsys):
    """Exit code, output and errors of a command line."""

    def call(*arguments):
        with pytest.raises(SystemExit) as ended:
            cli.main(list(arguments))
        printed = capsys.readouterr()
        return ended.value.code, printed.out, printed.err

    return call


def rows_of(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_ls_lists_the_versions_with_tables_and_aliases(store, run):
    code, out, _ = run("ls", "--format", "json")
    assert code == 0
    assert [(row["version"], row["aliases"]) for row in json.loads(out)["rows"]] == [
        (1, "production"),
        (2, ""),
    ]
    _, out, _ = run("ls")
    assert "item_semantics=40 items=3" in out


def test_show_prints_the_manifest_for_programs_and_its_meaning_for_people(store, run):
    code, out, _ = run("show", "2", "--format", "json")
    assert code == 0
    assert json.loads(out)["run_key"] == "second"
    _, out, _ = run("show")
    for words in ("2026-03-01", "planted", "global_bias", "cosine", "Flat", "projectors", "first"):
        assert words in out
    _, out, _ = run("show", "--format", "csv")
    assert "projectors.safetensors" in [row["file"] for row in rows_of(out)]


def test_get_prints_vectors_in_the_order_asked(store, run):
    expected = store.open(1)["item_semantics"].vectors_of([30, 0])
    code, out, _ = run("get", "item_semantics", "30", "0", "--format", "json")
    assert code == 0
    found = json.loads(out)
    assert found["version"] == 1
    assert [row["id"] for row in found["rows"]] == [30, 0]
    assert [row["vector"] for row in found["rows"]] == [
        [float(str(value)) for value in row] for row in expected
    ]
    _, out, _ = run("get", "item_semantics", "30", "--format", "csv")
    assert list(rows_of(out)[0]) == ["id", *(f"vector_{n}" for n in range(8)), "version"]
    _, out, _ = run("get", "items", "30", "--format", "csv")
    assert rows_of(out) == [{"item_id": "30", "title": "c", "version": "1"}]


def test_search_prints_neighbours_with_titles_where_a_table_has_them(store, run):
    code, out, _ = run("search", "item_semantics", "--id", "50", "-k", "39", "--format", "csv")
    rows = rows_of(out)
    assert code == 0
    assert list(rows[0]) == ["query", "rank", "id", "score", "title", "version"]
    expected = store.open(1)["item_semantics"].search(ids=[50], k=39)
    assert [int(row["id"]) for row in rows] == expected["id"].to_pylist()
    titles = {row["id"]: row["title"] for row in rows}
    assert (titles["10"], titles["30"], titles["40"]) == ("a", "c", "")
    _, other, _ = run("search", "item_semantics", "--id", "50", "--at", "2", "--format", "csv")
    assert {row["version"] for row in rows_of(other)} == {"2"}


def test_a_title_in_brackets_is_printed_as_it_is(capsys):
    cli.emit([{"title": "[bold]Heat[/bold] [1995]"}], "table")
    assert "[bold]Heat[/bold] [1995]" in capsys.readouterr().out


def test_verify_ends_with_4_and_names_the_file_when_a_byte_is_wrong(store, run):
    assert run("verify")[0] == 0
    damaged = next(Path(store.root).rglob("item_semantics.faiss"))
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\xff")
    code, out, _ = run("verify", "--format", "csv")
    assert code == 4
    assert [row["file"] for row in rows_of(out)] == [damaged.relative_to(store.root).as_posix()]
    version = json.loads((Path(store.root) / "versions" / f"{1:020d}.json").read_text())
    is_of_first = version["attempt"] == damaged.parent.name
    code, _, err = run("get", "item_semantics", "0", "--at", "1" if is_of_first else "2")
    assert code == 4
    assert "item_semantics.faiss" in err


def test_promote_moves_the_alias_and_says_so(store, run):
    code, out, _ = run("promote", "2", "production", "--reason", "looked at", "--format", "json")
    assert code == 0
    assert json.loads(out)["rows"][0]["version"] == 2
    code, _, err = run("promote", "1", "production", "--reason", "back")
    assert code == 1
    assert "a backfill is published and not promoted" in err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["get", "item_semantics", "5"], 3, "id is not in the table: 5"),
        (["get", "users", "5"], 3, "no table 'users'"),
        (["show", "9"], 3, "no version 9"),
        (["ls", "--store", "/does/not/exist"], 3, "no embedding store"),
        (["get", "item_semantics", "five"], 1, "ids of item_semantics are numbers"),
        (["search", "items", "--id", "10"], 1, "plain table"),
        (["search", "item_semantics", "--id", "10", "-k", "0"], 2, "Invalid value"),
        (["get", "item_semantics"], 2, "Missing argument"),
        (["dance"], 2, "No such command"),
    ],
)
def test_what_cannot_be_done_ends_with_its_code_and_one_message(
    store, run, arguments, code, message
):
    ended, out, err = run(*arguments)
    assert (ended, out) == (code, "")
    assert message in err
    assert "Traceback" not in err


def test_without_a_variable_the_store_is_below_the_home(tmp_path, monkeypatch, run):
    (tmp_path / "home").mkdir()
    (tmp_path / "here" / ".tidemark").mkdir(parents=True)
    publish(tmp_path / "home" / "store")
    monkeypatch.delenv("TIDEMARK_STORE", raising=False)
    monkeypatch.setenv("TIDEMARK_HOME", str(tmp_path / "home"))
    assert run("show", "1")[0] == 0
    monkeypatch.delenv("TIDEMARK_HOME")
    publish(tmp_path / "here" / ".tidemark" / "store")
    monkeypatch.chdir(tmp_path / "here")
    assert run("show", "1")[0] == 0


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example_and_a_place_in_the_docs(command, run):
    code, out, _ = run(command, "--help")
    assert code == 0
    assert f"Example: embedding-store {command}" in out
    assert f"embedding-store {command} " in DOCS.read_text(encoding="utf-8")


def examples():
    blocks = re.findall(r"```sh\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


@pytest.mark.parametrize("line", examples())
def test_every_example_of_the_docs_works(line, store, run):
    program, *arguments = shlex.split(line, comments=True)
    assert program == "embedding-store"
    code, out, err = run(*arguments)
    assert (code, err) == (0, "")
    assert out
