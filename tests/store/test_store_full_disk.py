"""A full disk costs the publish that met it, and nothing else."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

NAMESPACE = ["unshare", "--map-root-user", "--mount"]


def may_mount(folder):
    if shutil.which("unshare") is None:
        return False
    command = [*NAMESPACE, "mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_a_disk_that_is_full_at_any_page_leaves_the_old_version_and_a_retry_that_works(tmp_path):
    if not may_mount(tmp_path):
        pytest.skip("needs `unshare --mount` for a small file system of its own")
    script = Path(__file__).with_name("full_disk.py")
    done = subprocess.run(
        [*NAMESPACE, sys.executable, str(script), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["errors"] == seen["wrong"] == []
    assert seen["refused"] >= 8  # pages that a publish of this size needs
    assert seen["published"] == 1
