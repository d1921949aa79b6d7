"""`make audit`: what it makes of an answer, and that no network is no failure."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from types import ModuleType

import pytest

from tests.conftest import ROOT

SCRIPT = ROOT / ".ci" / "audit.py"


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit_script", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def package(*holes: tuple[str, list[str]]) -> dict[str, object]:
    vulns = [{"id": name, "fix_versions": mends, "aliases": []} for name, mends in holes]
    return {"name": "jinja2", "version": "3.1.2", "vulns": vulns}


def test_a_hole_that_a_newer_version_mends_is_a_failure_and_names_the_version(
    audit: ModuleType,
) -> None:
    lines, is_mendable = audit.told({"dependencies": [package(("PYSEC-1", ["3.1.3"]))]})
    assert lines == ["jinja2 3.1.2: PYSEC-1, mended in 3.1.3"]
    assert is_mendable


def test_a_hole_that_nothing_mends_is_told_and_is_no_failure(audit: ModuleType) -> None:
    skipped = {"name": "local", "skip_reason": "not on the index"}
    lines, is_mendable = audit.told({"dependencies": [package(("PYSEC-2", [])), skipped]})
    assert lines == ["jinja2 3.1.2: PYSEC-2, no version mends it yet"]
    assert not is_mendable


def test_without_a_network_nothing_is_audited_and_that_is_said() -> None:
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTPS_PROXY"), "http://127.0.0.1:9")
    done = subprocess.run(
        [sys.executable, str(SCRIPT)],
        env={**os.environ, **nowhere},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "nothing was audited" in done.stdout
