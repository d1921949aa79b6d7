"""Policies of the whole tree: layers at run time, no pickle, no clock, every table checked."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.datasets import ALL, EVENTS, Format, made_by
from jobs.launch import MODULES, NIGHTLY, ON_DEMAND
from tests.conftest import ROOT

CODE = [
    path for folder in ("jobs", "embedding_store", "dags") for path in (ROOT / folder).rglob("*.py")
]
SCHEDULER = {"airflow"}
# Jobs that make no table: they check one, or read and tend the store.
BESIDE_THE_TABLES = ("check", "previous", "promotions", "maintain")
WAREHOUSE = {"duckdb", "dask", "faiss", "pandas", "polars"}
MODELS = {"torch", "transformers", "peft"}


def loaded_by(module: str) -> set[str]:
    """Top-level packages in memory after `module` was imported in a fresh interpreter."""
    code = f"import sys, json, {module}; print(json.dumps([n.split('.')[0] for n in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("jobs.datasets", SCHEDULER | WAREHOUSE | MODELS | {"pyarrow", "numpy", "pydantic"}),
        ("jobs.launch", SCHEDULER | WAREHOUSE | MODELS | {"pyarrow", "numpy", "pydantic"}),
        ("jobs.job", SCHEDULER | WAREHOUSE | MODELS),
        ("jobs.llm.distil", SCHEDULER | {"duckdb", "dask", "faiss"}),
        ("jobs.llm.adapt", SCHEDULER | WAREHOUSE),
        ("jobs.llm.llm_scores", SCHEDULER | WAREHOUSE),
        ("jobs.tokens.diagnostics", SCHEDULER | {"duckdb", "dask", "faiss"}),
        ("jobs.collab.align", SCHEDULER | WAREHOUSE),
        ("jobs.tokens.project", SCHEDULER | {"duckdb", "dask", "faiss"}),
        ("jobs.score.ctr_scores", SCHEDULER | WAREHOUSE | MODELS),
        ("embedding_store", SCHEDULER | WAREHOUSE | MODELS | {"jobs"}),
        ("embedding_store.lookup", SCHEDULER | WAREHOUSE | MODELS | {"jobs"}),
        ("embedding_store.store", SCHEDULER | MODELS | {"dask", "jobs"}),
        ("embedding_store.cli", SCHEDULER | MODELS | {"dask", "jobs"}),
    ],
)
def test_a_module_brings_no_more_than_its_image_holds(module: str, unwanted: set[str]) -> None:
    assert loaded_by(module) & unwanted == set()


def calls(path: Path) -> set[str]:
    """Dotted names of everything that a file calls or imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            names.add(ast.unparse(node.func))
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return names


def test_nothing_reads_or_writes_a_pickle() -> None:
    unwanted = re.compile(r"pickle|dill|joblib|shelve|marshal|torch\.load|torch\.save|np\.save")
    found = {path.name: {n for n in calls(path) if unwanted.search(n)} for path in CODE}
    assert {name: names for name, names in found.items() if names} == {}


def test_no_remote_code_is_ever_trusted() -> None:
    for path in CODE:
        assert not re.search(r"trust_remote_code\s*=\s*True", path.read_text(encoding="utf-8")), (
            path
        )


def test_no_job_asks_the_clock_what_day_it_is() -> None:
    stamped = {ROOT / "jobs" / name for name in ("lineage.py", "attempt.py")}  # when, not which day
    for path in set((ROOT / "jobs").rglob("*.py")) - stamped:
        asked = {n for n in calls(path) if re.search(r"(datetime|date)\.(now|today|utcnow)$", n)}
        assert not asked, path


def test_every_table_has_a_check_and_every_check_a_table() -> None:
    tables = {dataset.name for dataset in ALL if dataset.format is Format.PARQUET}
    tables.add(EVENTS.name)  # no snapshot, but rows that many nights share
    assert {path.stem for path in (ROOT / "sql" / "checks").glob("*.sql")} == tables


def test_every_dataset_is_made_by_a_job_of_the_chain() -> None:
    assert {dataset.producer for dataset in ALL} == {*NIGHTLY, *ON_DEMAND}
    assert set(MODULES) == {*NIGHTLY, *ON_DEMAND, *BESIDE_THE_TABLES}
    assert all(made_by(job) for job in (*NIGHTLY, *ON_DEMAND))


def test_every_link_of_the_documentation_leads_somewhere() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name} -> {target}"


@pytest.mark.parametrize("job", [*NIGHTLY, *ON_DEMAND, *BESIDE_THE_TABLES])
def test_every_job_explains_itself_with_an_example(job: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", MODULES[job], "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"example: python -m {MODULES[job]}" in done.stdout


@pytest.mark.parametrize("command", [[], ["run"], ["sample"], ["summary"]])
def test_every_command_explains_itself(command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "jobs.cli", *command, "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert not command or f"Example: tidemark {command[0]}" in done.stdout
