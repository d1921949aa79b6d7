"""What a person reads when a command fails: one line that says what, on what, and the way out."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from embedding_store.errors import StoreNotFound
from jobs.errors import AlreadyRunning, JobError
from jobs.failures import EXIT_BUSY, EXIT_FAILED, EXIT_INTERRUPTED, in_plain_words, told
from jobs.home import Home
from tests.conftest import DAY, ROOT

WHO = f"distil {DAY}"
JOB = textwrap.dedent("""
    import pyarrow as pa
    from jobs.datasets import ITEM_TEXTS
    from jobs.job import Config, Declared, main

    class TextsConfig(Config):
        '''Some texts, or a defect.'''
        n_items: int = 1
        is_broken: bool = False

    def job(config, run):
        names = [f"{n:08}" * 20 for n in range(config.n_items)]
        run.write(ITEM_TEXTS, pa.table({"item_id": names, "title": names, "text": names}))
        if config.is_broken:
            {}["of course"]

    main(Declared("item_texts", TextsConfig, job))
""")


def said_of(error: BaseException, home: Home, capsys: pytest.CaptureFixture[str]) -> str:
    told(WHO, error, home)
    return capsys.readouterr().err


def run_job(root: Path, *flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", JOB, "--day", str(DAY), *flags],
        env={**os.environ, "TIDEMARK_HOME": str(root), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


# -- in words --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (JobError("item 7: no title; give it one"), EXIT_FAILED),
        (AlreadyRunning("already running (pid 4)"), EXIT_BUSY),
        (StoreNotFound("no store at s3://a"), EXIT_FAILED),
    ],
)
def test_what_says_itself_what_to_do_is_said_as_it_is(
    error: Exception, status: int, home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told(WHO, error, home) == status
    assert capsys.readouterr().err == f"{WHO}: {error}\n"


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "/x/staging/splits.parquet"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("I/O error: No space left on device (os error 28)"),  # as safetensors says it
        RuntimeError('IO Error: Could not write "/tmp/spill": No space left on device'),  # duckdb
    ],
)
def test_a_full_disk_is_one_line_with_what_may_be_removed(
    error: Exception, home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    said = said_of(error, home, capsys)
    assert said.count("\n") == 1
    assert said.startswith(f"{WHO}: no space left where ")
    assert f"{home.cache} may be removed at any time" in said
    assert "run this again" in said


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_a_home_that_may_not_be_written_names_folder_user_and_way_out(
    number: int, home: Home
) -> None:
    place = str(home.root / "runs")
    said = in_plain_words(OSError(number, "x", place), home)
    assert said is not None
    assert said.startswith(f"{place}: {os.strerror(number)}; user {os.getuid()}")
    assert f"TIDEMARK_HOME={home.root}" in said


def test_a_raw_file_that_may_not_be_read_is_not_blamed_on_the_home(home: Home) -> None:
    said = in_plain_words(PermissionError(errno.EACCES, "x", "/data/events.csv"), home)
    assert said is not None
    assert said.startswith("/data/events.csv: Permission denied")
    assert "TIDEMARK_HOME" not in said


def test_too_little_memory_names_the_limits_that_can_be_set(home: Home) -> None:
    class OutOfMemoryError(RuntimeError):  # as torch and DuckDB call theirs
        pass

    for error in (MemoryError("8 GiB"), OutOfMemoryError("8 GiB")):
        said = in_plain_words(error, home)
        assert said is not None
        assert said.startswith("not enough memory (8 GiB)")
        assert "TIDEMARK_MEMORY_LIMIT" in said


def test_the_cause_behind_an_error_is_what_is_told(home: Home) -> None:
    try:
        try:
            raise OSError(errno.ENOSPC, "full", "/x")
        except OSError as error:
            raise RuntimeError("the writer gave up") from error
    except RuntimeError as error:
        said = in_plain_words(error, home)
    assert said is not None
    assert said.startswith("no space left where /x lies")


def test_a_defect_shows_where_it_is_and_ends_in_one_line(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        raise KeyError("of course")
    except KeyError as error:
        error.add_note("it had read: splits, item_texts")
        said = said_of(error, home, capsys)
    lines = said.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1].startswith(f"{WHO}: KeyError: 'of course'; it had read: splits, item_texts; ")
    assert "this is a defect of Tidemark" in lines[-1]


def test_an_interruption_is_no_traceback(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert told(WHO, KeyboardInterrupt(), home) == EXIT_INTERRUPTED
    assert capsys.readouterr().err.count("\n") == 1


def test_a_collector_gets_the_failure_as_json(
    home: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from jobs.logs import configure_logs

    monkeypatch.setenv("TIDEMARK_LOG", "json")
    monkeypatch.setattr("logging.root.handlers", [])
    monkeypatch.setattr("logging.captureWarnings", lambda capture: None)
    configure_logs()
    for error in (JobError("item 7: no title"), KeyError("of course")):
        told(WHO, error, home)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["event"] for line in lines] == ["failed", "defect", "failed"]
    assert lines[0]["says"] == "item 7: no title"
    assert lines[0]["level"] == "error"
    assert "KeyError: 'of course'" in lines[1]["exception"]


# -- real processes --------------------------------------------------------------------------------


def test_a_defect_in_a_job_leaves_no_output_and_says_so(home: Home) -> None:
    done = run_job(home.root, "--is-broken")
    assert done.returncode == EXIT_FAILED
    assert done.stderr.splitlines()[-1].startswith(f"item_texts {DAY}: KeyError: 'of course'; ")
    assert done.stdout == ""
    assert not (home.root / "tables").exists()


def test_a_home_that_is_a_file_or_below_one_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for root in (tmp_path / "file", tmp_path / "file" / "home"):
        done = run_job(root)
        assert done.returncode == EXIT_FAILED
        assert done.stderr.count("\n") == 1, done.stderr
        assert "is no folder; name another TIDEMARK_HOME" in done.stderr


def in_small_disk(folder: Path, script: str) -> subprocess.CompletedProcess[str]:
    """`script` with a disk of 1 MiB mounted on `folder`, in a mount namespace of its own."""
    if shutil.which("unshare") is None:
        pytest.skip("there is no unshare: no disk can be mounted without being root for all")
    mount = f'mount -t tmpfs -o size=1m none "{folder}"'
    words = ["unshare", "--map-root-user", "--mount", "sh", "-c", f"{mount} || exit 99; {script}"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode == 99 or "unshare:" in done.stderr:
        pytest.skip(f"this machine mounts no disk for a test: {done.stderr.strip()}")
    return done


def test_on_a_full_disk_a_job_says_so_in_one_line_and_the_last_good_output_stands(
    tmp_path: Path,
) -> None:
    disk, job = tmp_path / "disk", tmp_path / "job.py"
    disk.mkdir()
    job.write_text(JOB)
    again = f'TIDEMARK_HOME="{disk}/home" "{sys.executable}" "{job}" --day {DAY}'
    done = in_small_disk(
        disk,
        f'{again} >&2 || exit 1; dd if=/dev/zero of="{disk}/filler" bs=4k 2>/dev/null;'
        f'{again} --n-items 20000; echo "status $?"; {again}; echo "status $?";',
    )
    said = done.stderr.splitlines()
    failures = [line for line in said if line.startswith(f"item_texts {DAY}: ")]
    assert len(failures) == 1, done.stderr
    assert "no space left" in failures[0]
    assert "Traceback" not in done.stderr
    first, _, second = done.stdout.splitlines()[-3:]
    assert first == "status 1"
    assert second == "status 0"  # nothing to do: the output of the first run is whole


def test_a_home_on_a_disk_that_is_read_only_is_one_line_for_every_command(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    cli = f'TIDEMARK_HOME="{disk}/home" "{sys.executable}" -m jobs.cli'
    done = in_small_disk(
        disk,
        f'mount -o remount,ro "{disk}" || exit 99; {cli} run; echo $?; {cli} plan; echo $?;',
    )
    assert done.stdout.split() == ["1", "1"], done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 2, done.stderr
    for line in lines:
        assert line.startswith("tidemark: ")
        assert "Read-only file system" in line
        assert f"TIDEMARK_HOME={disk}/home" in line
