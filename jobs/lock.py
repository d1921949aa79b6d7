"""One run of a job and day at a time, and no lock that outlives its run."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from pathlib import Path
from typing import IO, Any

from jobs.errors import AlreadyRunning

_POLL_S = 0.5


def take_lock(path: Path, wait_s: float, log: Any) -> IO[str]:
    """An flock, which the kernel releases when its process dies, however it dies."""
    file = path.open("a+", encoding="utf-8")
    deadline = time.monotonic() + wait_s
    said = False
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            if time.monotonic() >= deadline:
                file.close()
                raise AlreadyRunning(
                    f"this job is already running for this day ({holder}); "
                    "wait for it, or give --wait-s to queue behind it"
                ) from None
            if not said:
                log.info("waiting for the run that holds the lock", holder=holder, wait_s=wait_s)
                said = True
            time.sleep(_POLL_S)
    file.truncate(0)
    file.write(f"pid {os.getpid()} on {socket.gethostname()}")
    file.flush()
    return file
