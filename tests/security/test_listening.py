"""What this machine's other users and neighbours can connect to: nothing that Tidemark starts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from jobs.prepare.engine import EngineConfig, open_engine

LISTENING = "0A"
LOOPBACK = {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}


def family(pid: int) -> Iterator[int]:
    """A process, its children and theirs."""
    yield pid
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield from family(int(child))


def sockets_of(pid: int) -> set[str]:
    found = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.add(str(descriptor.readlink()))
        except OSError:
            continue  # closed meanwhile
    return {link for link in found if link.startswith("socket:")}


def listening_on() -> set[str]:
    """Addresses, in the kernel's hexadecimal, on which this process and its children listen."""
    mine = {link for pid in family(os.getpid()) for link in sockets_of(pid)}
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTENING and f"socket:[{fields[9]}]" in mine:
                found.add(fields[1].rpartition(":")[0])
    return found


def test_a_cluster_of_this_machine_listens_on_loopback_alone() -> None:
    with open_engine(EngineConfig(engine="dask")) as engine:
        assert list(engine.map(abs, [-1])) == [1]
        found = listening_on()
    assert found
    assert found <= LOOPBACK
