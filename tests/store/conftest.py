from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from store_workload import Processes


@pytest.fixture(scope="session")
def processes():
    """Runs actions of `store_workload` in real processes that can be killed."""
    server = Processes()
    yield server
    server.close()


@pytest.fixture
def fast_folder(tmp_path):
    """A folder in memory where there is one: killed processes lose no page cache."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    folder = Path(tempfile.mkdtemp(dir=memory, prefix="store-"))
    yield folder
    shutil.rmtree(folder)
