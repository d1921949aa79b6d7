"""What no line of the code does: read pickles, run text as code, call a shell, listen to all."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

PRODUCT = ("jobs", "embedding_store", "dags", "docker")
SOURCES = {
    path.relative_to(ROOT).as_posix(): path
    for folder in (*PRODUCT, "benchmarks")
    for path in sorted((ROOT / folder).rglob("*.py"))
}
# Measurements carry plain arrays between their own processes: numpy refuses objects in them unless
# `allow_pickle` says otherwise, which is looked for too. The fault drill runs jobs as modules.
FOR_BENCHMARKS = re.compile(r"^np\.(load|save|savez)$|^runpy\.run_module$")

PICKLES = re.compile(
    r"(^|\.)(pickle|cPickle|cloudpickle|dill|joblib|shelve|marshal|read_pickle|to_pickle)(\.|$)"
    r"|^torch\.(load|save|hub\.load)$|^(np|numpy)\.(load|save|savez\w*)$"
    r"|^(sklearn\.externals|_pickle)"
)
CODE_FROM_TEXT = re.compile(
    r"^(eval|exec|compile|__import__|runpy\.\w+)$"
    r"|^yaml\.(load|load_all|full_load\w*|unsafe_load\w*|Loader|UnsafeLoader|FullLoader)$"
)
SHELLS = re.compile(r"^os\.(system|popen|spawn\w*)$|^pty\.|^subprocess\.get(status)?output$")
UNPACKERS = re.compile(r"(^|\.)(extractall|extract|unpack_archive)$|^tarfile\.")
UNVERIFIED = re.compile(r"_create_unverified_context|CERT_NONE|disable_warnings|mktemp$")


def dotted(node: ast.expr) -> str:
    return ast.unparse(node) if isinstance(node, ast.Name | ast.Attribute) else ""


def names(tree: ast.AST) -> Iterator[str]:
    """Everything that is called, named with dots, or imported."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call | ast.Attribute):
            yield dotted(node.func if isinstance(node, ast.Call) else node)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def keywords(tree: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield from ((each.arg, each.value) for each in node.keywords if each.arg)


def findings(text: str) -> list[str]:
    """What the text does that nothing here may do."""
    tree = ast.parse(text)
    forbidden = (PICKLES, CODE_FROM_TEXT, SHELLS, UNPACKERS, UNVERIFIED)
    found = [name for name in names(tree) for rule in forbidden if rule.search(name)]
    for argument, value in keywords(tree):
        said = ast.unparse(value)
        unwanted = {"allow_pickle": "True", "trust_remote_code": "True", "shell": "True"}
        unwanted |= {"weights_only": "False", "verify_ssl": "False"}
        if unwanted.get(argument) == said:
            found.append(f"{argument}={said}")
    return sorted(set(found))


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from joblib import load",
        "torch.load(path)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "pd.read_pickle(path)",
        "yaml.load(text, Loader=yaml.Loader)",
        "yaml.unsafe_load(text)",
        "eval(text)",
        "exec(text)",
        "os.system(line)",
        "subprocess.run(line, shell=True)",
        "zipfile.ZipFile(path).extractall(folder)",
        "shutil.unpack_archive(path)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "torch.hub.load(repo, name)",
        "tempfile.mktemp()",
        "ssl._create_unverified_context()",
    ],
)
def test_the_search_finds_what_it_looks_for(line: str) -> None:
    assert findings(line)


@pytest.mark.parametrize("line", ["model.eval()", "yaml.compose(text, yaml.SafeLoader)"])
def test_the_search_leaves_alone_what_is_harmless(line: str) -> None:
    assert findings(line) == []


def test_no_source_reads_a_pickle_runs_text_or_calls_a_shell() -> None:
    assert len(SOURCES) > 150
    for name, path in SOURCES.items():
        found = findings(path.read_text(encoding="utf-8"))
        if name.startswith("benchmarks/"):
            found = [each for each in found if not FOR_BENCHMARKS.search(each)]
        assert found == [], name


def constants(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


def test_nothing_listens_on_every_interface() -> None:
    for name, path in SOURCES.items():
        listening = [each for each in constants(path) if re.search(r"\b0\.0\.0\.0\b", each)]
        assert listening == [], name


def test_no_file_of_the_tree_holds_a_key() -> None:
    """Keys are made when a service is first started, and come from the environment."""
    secret = re.compile(
        r"-----BEGIN [A-Z ]*PRIVATE KEY|AKIA[0-9A-Z]{16}"
        r"|gh[pousr]_[A-Za-z0-9]{30,}|hf_[A-Za-z]{30,}"
    )
    folders = (*PRODUCT, "benchmarks", "sql", "docs", ".ci")
    for path in (path for folder in folders for path in (ROOT / folder).rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            text = path.read_bytes().decode("utf-8", errors="replace")
            assert not secret.search(text), path
