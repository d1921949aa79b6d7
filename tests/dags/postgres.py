"""A PostgreSQL of a test's own: a folder, a free port on loopback, a generated password."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

NOBODY = "nobody"  # postgres refuses to run as root


def binary(name: str) -> str | None:
    """Path of a PostgreSQL program; Debian keeps the servers' ones off the PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True)
    return shutil.which(name) or (str(found[0]) if found else None)


def free_port() -> int:
    """A port on loopback that nobody listens on at this moment."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


class Postgres:
    """One server with one empty database, `airflow`; it survives `kill` and `start` with its data.

    Args:
        folder: for its data; created here, and every folder above it must let others pass.

    Attributes:
        port: on loopback; it stays the same over restarts.
        pid: of the postmaster; None while it is down.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self._password = secrets.token_urlsafe(24)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """For SQLAlchemy, with psycopg2."""
        return f"postgresql+psycopg2://airflow:{self._password}@127.0.0.1:{self.port}/airflow"

    @property
    def pid(self) -> int | None:
        alive = self._process is not None and self._process.poll() is None
        return self._process.pid if alive and self._process else None

    @property
    def log(self) -> Path:
        """What the server and its tools have said."""
        return self.folder.with_suffix(".log")

    def create(self) -> None:
        """Make the data folder and the database `airflow`, and leave the server running."""
        self.folder.mkdir(mode=0o700)
        password = self.folder.with_suffix(".password")
        password.touch(mode=0o600)
        password.write_text(self._password, encoding="utf-8")
        if os.geteuid() == 0:
            entry = pwd.getpwnam(NOBODY)
            for path in (self.folder, password):
                os.chown(path, entry.pw_uid, entry.pw_gid)
        words = ("-D", str(self.folder), "-U", "airflow", "--auth=scram-sha-256")
        self._run("initdb", *words, f"--pwfile={password}", "--encoding=UTF8", "--no-sync")
        password.unlink()
        self.start()
        created = (
            "createdb",
            *("-h", "127.0.0.1", "-p", str(self.port), "-U", "airflow", "airflow"),
        )
        self._run(*created)

    def start(self) -> None:
        """Start the server, over whatever a killed one left, and wait until it answers."""
        # Nothing is synced: a killed process loses nothing by it, only a machine without power.
        settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "fsync": "off",
            "shared_buffers": "64MB",
            "max_connections": "100",
        }
        words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [_needed("postgres"), "-D", str(self.folder), "-p", str(self.port), *words],
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd="/",
                **_as_nobody(),
            )
        deadline = time.monotonic() + 120
        while not self.answers():
            if self.pid is None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL does not start:\n{self.log.read_text()[-3000:]}")
            time.sleep(0.2)

    def answers(self) -> bool:
        """Whether the server takes connections."""
        words = ("-h", "127.0.0.1", "-p", str(self.port), "-t", "5", "-q")
        return subprocess.run([_needed("pg_isready"), *words], check=False).returncode == 0

    def kill(self) -> None:
        """kill -9 of the postmaster; its children notice and leave."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(60)

    def stop(self) -> None:
        """Stop the server; open connections are cut."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGINT)  # "fast" shutdown
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self.kill()

    def _run(self, name: str, *words: str) -> None:
        done = subprocess.run(
            [_needed(name), *words],
            env={**os.environ, "PGPASSWORD": self._password},
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
            **_as_nobody(),
        )
        if done.returncode:
            raise RuntimeError(f"{name} failed: {done.stderr[-2000:]}")


def _needed(name: str) -> str:
    found = binary(name)
    if found is None:
        raise RuntimeError(f"there is no {name}; install PostgreSQL's server and client")
    return found


def _as_nobody() -> dict[str, Any]:
    if os.geteuid() != 0:
        return {}
    entry = pwd.getpwnam(NOBODY)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
