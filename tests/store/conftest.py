from __future__ import annotations

import pytest
from store_workload import Processes


@pytest.fixture(scope="session")
def processes():
    """Runs actions of `store_workload` in real processes that can be killed."""
    server = Processes()
    yield server
    server.close()
