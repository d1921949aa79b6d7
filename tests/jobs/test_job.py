"""The job contract: what a rerun, a failure, a kill and a second run do."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.check import check
from jobs.datasets import ITEM_FACTORS, ITEM_TEXTS, PROJECTORS, USER_FACTORS
from jobs.errors import AlreadyRunning, ContractError, JobError, NotAvailable, SourceError
from jobs.files import sha256_file
from jobs.home import Home
from jobs.job import Config, Outcome, Run, execute, load_manifest, mark_checked
from tests.conftest import DAY


class TextsConfig(Config):
    """A job with one knob."""

    prefix: str = "Movie"
    seed: int = 7


def texts(config: TextsConfig, run: Run) -> None:
    titles = ["Heat", "Alien"]
    table = {
        "item_id": [20, 10],
        "title": titles,
        "text": [f"{config.prefix}: {t}" for t in titles],
    }
    run.write(ITEM_TEXTS, pa.table(table))
    run.metric("n_titles", len(titles))


def run_texts(home: Home, prefix: str = "Movie", **options: bool) -> Outcome:
    return execute("item_texts", TextsConfig(prefix=prefix), DAY, home, texts, **options)


def factors(config: Config, run: Run) -> None:
    ids = run.read(ITEM_TEXTS)["item_id"]
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(2 * len(ids), "f4")), 2)
    for dataset, key in ((USER_FACTORS, "user_id"), (ITEM_FACTORS, "item_id")):
        run.write(
            dataset,
            pa.table(
                {
                    key: ids,
                    "factor": vectors,
                    "bias": pa.array([0.0] * len(ids), pa.float32()),
                    "n_events": pa.array([1] * len(ids), pa.int32()),
                }
            ),
        )
    run.write_tensors(PROJECTORS, {"weight": np.ones((2, 3), np.float32)})


def test_the_manifest_says_what_was_made_from_what(home: Home) -> None:
    manifest = run_texts(home).manifest
    output = home.output(ITEM_TEXTS, DAY)
    assert pq.read_table(output)["item_id"].to_pylist() == [10, 20]  # sorted by key
    assert manifest.outputs[0].sha256 == sha256_file(output)
    assert manifest.outputs[0].n_rows == 2
    assert manifest.config == {"prefix": "Movie", "seed": 7}
    assert manifest.seed == 7
    assert manifest.metrics == {"n_titles": 2.0}
    assert manifest.code_version.startswith("0.1.0+")
    assert load_manifest(home, "item_texts", DAY) == manifest


def test_a_rerun_with_the_same_inputs_and_config_does_nothing(home: Home) -> None:
    assert run_texts(home).status == "done"
    before = home.output(ITEM_TEXTS, DAY).stat().st_mtime_ns
    assert run_texts(home).status == "unchanged"
    assert home.output(ITEM_TEXTS, DAY).stat().st_mtime_ns == before


def test_force_another_config_or_a_lost_output_redo_the_work(home: Home) -> None:
    run_texts(home)
    assert run_texts(home, force=True).status == "done"
    assert run_texts(home, prefix="Book").status == "done"
    home.output(ITEM_TEXTS, DAY).unlink()
    assert run_texts(home, prefix="Book").status == "done"
    home.output(ITEM_TEXTS, DAY).write_bytes(b"rotten")
    assert run_texts(home, prefix="Book").status == "done"


def test_a_changed_input_redoes_the_job_after_it(home: Home) -> None:
    def run_factors() -> str:
        mark_checked(home, ITEM_TEXTS, DAY)
        return execute("align", Config(), DAY, home, factors).status

    run_texts(home)
    assert [run_factors(), run_factors()] == ["done", "unchanged"]
    run_texts(home, prefix="Book")
    assert run_factors() == "done"


def test_a_changed_added_or_removed_source_redoes_the_job(home: Home, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "1.csv").write_text("a")

    def run_it() -> str:
        return execute(
            "item_texts", TextsConfig(), DAY, home, texts, sources=lambda *_: raw.glob("*.csv")
        ).status

    assert [run_it(), run_it()] == ["done", "unchanged"]
    (raw / "1.csv").write_text("b")
    assert [run_it(), run_it()] == ["done", "unchanged"]
    (raw / "2.csv").write_text("c")
    assert [run_it(), run_it()] == ["done", "unchanged"]
    (raw / "1.csv").unlink()
    assert run_it() == "done"


def test_an_unreadable_source_is_one_clear_error(home: Home, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"gone\.csv: cannot be read \(No such file"):
        execute(
            "item_texts",
            TextsConfig(),
            DAY,
            home,
            texts,
            sources=lambda *_: [tmp_path / "gone.csv"],
        )


def test_an_unchecked_table_is_refused_and_a_checked_one_read(home: Home) -> None:
    run_texts(home)
    with (
        Run("distil", DAY, Config(), home) as run,
        pytest.raises(NotAvailable, match=r"python -m jobs\.check --producer item_texts"),
    ):
        run.read(ITEM_TEXTS)
    mark_checked(home, ITEM_TEXTS, DAY)
    with Run("distil", DAY, Config(), home) as run:
        assert run.read(ITEM_TEXTS).num_rows == 2
    run_texts(home, prefix="Book")  # other bytes: the old mark says nothing about them
    with Run("distil", DAY, Config(), home) as run, pytest.raises(NotAvailable, match="checks"):
        run.read(ITEM_TEXTS)


def test_a_table_that_is_not_the_manifests_is_refused(home: Home) -> None:
    run_texts(home)
    mark_checked(home, ITEM_TEXTS, DAY)
    output = home.output(ITEM_TEXTS, DAY)
    content = bytearray(output.read_bytes())
    content[len(content) // 2] ^= 1
    output.write_bytes(content)
    with Run("distil", DAY, Config(), home) as run, pytest.raises(NotAvailable, match="sha256"):
        run.read(ITEM_TEXTS)


@pytest.mark.parametrize("damage", [b"", b'{"job": "item_te', b"\xff\xfe", b"[]"])
def test_a_damaged_manifest_is_named_to_readers_and_its_own_job_makes_it_anew(
    home: Home, damage: bytes
) -> None:
    """Found by the fault drill: it was a traceback, and no run of the job could get past it."""
    undisturbed = run_texts(home).manifest.outputs
    mark_checked(home, ITEM_TEXTS, DAY)
    home.manifest("item_texts", DAY).write_bytes(damage)
    with pytest.raises(NotAvailable, match=r"damaged.*run job 'item_texts' again for"):
        execute("align", Config(), DAY, home, factors)
    again = run_texts(home)
    assert again.status == "done"
    assert again.manifest.outputs == undisturbed
    execute("align", Config(), DAY, home, factors)


def test_a_damaged_mark_of_a_check_is_none(home: Home) -> None:
    run_texts(home)
    mark_checked(home, ITEM_TEXTS, DAY)
    home.check_mark(ITEM_TEXTS, DAY).write_bytes(b'{"sha2')
    with pytest.raises(NotAvailable, match="has not passed its checks"):
        execute("align", Config(), DAY, home, factors)
    mark_checked(home, ITEM_TEXTS, DAY)
    execute("align", Config(), DAY, home, factors)


def test_a_missing_input_names_the_job_that_makes_it(home: Home) -> None:
    with (
        Run("distil", DAY, Config(), home) as run,
        pytest.raises(NotAvailable, match="job 'item_texts' has not run"),
    ):
        run.read(ITEM_TEXTS)


def test_a_failing_job_leaves_the_last_good_output(home: Home) -> None:
    run_texts(home)
    before = sha256_file(home.output(ITEM_TEXTS, DAY))

    def failing(config: TextsConfig, run: Run) -> None:
        texts(TextsConfig(prefix="half"), run)
        raise JobError("the disk is on fire")

    with pytest.raises(JobError, match="on fire"):
        execute("item_texts", TextsConfig(), DAY, home, failing, force=True)
    assert sha256_file(home.output(ITEM_TEXTS, DAY)) == before
    assert run_texts(home).status == "unchanged"
    assert not list(home.root.rglob("staging"))


def test_a_job_that_writes_nothing_is_an_error(home: Home) -> None:
    with pytest.raises(JobError, match="wrote nothing"):
        execute("item_texts", TextsConfig(), DAY, home, lambda config, run: None)


def test_a_job_may_write_only_its_own_datasets(home: Home) -> None:
    with (
        Run("splits", DAY, Config(), home) as run,
        pytest.raises(ValueError, match="may not write"),
    ):
        run.write(ITEM_TEXTS, pa.table({"item_id": [1], "title": ["a"], "text": ["b"]}))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"item_id": [1], "title": ["a"]}, "columns are"),
        ({"item_id": [1.5], "title": ["a"], "text": ["b"]}, "item_id: type is double, expected id"),
        ({"item_id": [1, 1], "title": ["a", "b"], "text": ["c", "d"]}, r"\{'item_id': 1\}"),
        ({"item_id": [1], "title": [None], "text": ["b"]}, "type is null"),
        ({"item_id": [1, 2], "title": ["a", None], "text": ["b", "c"]}, "title: 1 nulls"),
    ],
)
def test_a_table_that_breaks_its_contract_gets_no_name(
    home: Home, columns: dict[str, list[object]], message: str
) -> None:
    def broken(config: Config, run: Run) -> None:
        run.write(ITEM_TEXTS, pa.table(columns))

    with pytest.raises(ContractError, match=message):
        execute("item_texts", Config(), DAY, home, broken)
    assert not home.output(ITEM_TEXTS, DAY).exists()


def test_nan_in_a_vector_is_refused_with_its_row(home: Home) -> None:
    values = np.zeros((3, 2), np.float32)
    values[1, 1] = np.nan

    def broken(config: Config, run: Run) -> None:
        run.write(
            USER_FACTORS,
            pa.table(
                {
                    "user_id": ["a", "b", "c"],
                    "factor": pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), 2),
                    "bias": pa.array([0.0] * 3, pa.float32()),
                    "n_events": pa.array([1] * 3, pa.int32()),
                }
            ),
        )

    with pytest.raises(ContractError, match="row 1 holds nan"):
        execute("align", Config(), DAY, home, broken)


def test_nan_in_a_tensor_is_refused(home: Home) -> None:
    with Run("align", DAY, Config(), home) as run, pytest.raises(JobError, match="'w' holds NaN"):
        run.write_tensors(PROJECTORS, {"w": np.array([np.inf], np.float32)})


def test_violating_rows_leave_the_table_unmarked(home: Home) -> None:
    def blank(config: Config, run: Run) -> None:
        run.write(ITEM_TEXTS, pa.table({"item_id": [1], "title": ["a"], "text": [""]}))

    execute("item_texts", Config(), DAY, home, blank)
    with pytest.raises((ContractError, NotAvailable)):
        check("item_texts", DAY, home)
    assert not home.check_mark(ITEM_TEXTS, DAY).exists()


# -- real processes ------------------------------------------------------------------------------

SCRIPT = textwrap.dedent("""
    import pathlib, sys, time
    import pyarrow as pa
    from jobs.datasets import ITEM_TEXTS
    from jobs.job import Config, Declared, main

    class TextsConfig(Config):
        '''A slow job.'''
        pause_s: float = 0.0
        until: str = ""  # a file that ends the pause

    def job(config, run):
        run.write(ITEM_TEXTS, pa.table({"item_id": [1], "title": ["a"], "text": ["b"]}))
        sys.stderr.write("staged, pausing\\n")
        sys.stderr.flush()
        time.sleep(config.pause_s)
        while config.until and not pathlib.Path(config.until).exists():
            time.sleep(0.05)

    main(Declared("item_texts", TextsConfig, job))
""")


def start(home: Home, *flags: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, "--day", str(DAY), *flags],
        env={"TIDEMARK_HOME": str(home.root), "PATH": "/usr/bin:/bin"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_pause(process: subprocess.Popen[str]) -> None:
    assert process.stderr is not None
    assert any("pausing" in line for line in process.stderr)


def test_a_killed_run_leaves_no_output_and_no_lock(home: Home) -> None:
    slow = start(home, "--pause-s", "600")
    wait_for_pause(slow)
    slow.send_signal(signal.SIGKILL)
    slow.communicate()
    assert not home.output(ITEM_TEXTS, DAY).exists()
    assert load_manifest(home, "item_texts", DAY) is None
    said, _ = start(home).communicate(timeout=60)
    assert json.loads(said)["status"] == "done"
    assert not list(home.root.rglob("staging"))


def test_a_second_run_of_the_same_day_refuses_and_names_the_first(home: Home) -> None:
    slow = start(home, "--pause-s", "600")
    wait_for_pause(slow)
    second = start(home)
    _, complaint = second.communicate(timeout=60)
    slow.send_signal(signal.SIGKILL)
    slow.communicate()
    assert second.returncode == 75
    assert f"already running for this day (pid {slow.pid}" in complaint
    assert "Traceback" not in complaint


def test_a_second_run_may_wait_and_then_has_nothing_to_do(home: Home, tmp_path: Path) -> None:
    go_on = tmp_path / "go on"
    first = start(home, "--until", str(go_on))
    wait_for_pause(first)
    second = start(home, "--until", str(go_on), "--wait-s", "600")
    assert second.stderr is not None
    assert any("waiting for the run that holds the lock" in line for line in second.stderr)
    go_on.touch()
    said, _ = second.communicate(timeout=300)
    first.communicate()
    assert json.loads(said)["status"] == "unchanged"


def test_two_runs_in_one_process_exclude_each_other_too(home: Home) -> None:
    with (
        Run("item_texts", DAY, Config(), home),
        pytest.raises(AlreadyRunning, match="pid"),
        Run("item_texts", DAY, Config(), home),
    ):
        pass


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--day", "yesterday"], "--day 'yesterday'"),
        (["--day", "2026-03-02", "--pause-s", "soon"], "--pause-s 'soon'"),
        (["--day", "2026-03-02", "--pausse-s", "1"], "unrecognized arguments: --pausse-s 1"),
        ([], "required: --day"),
    ],
)
def test_a_wrong_flag_is_named_in_one_line(home: Home, flags: list[str], complaint: str) -> None:
    process = subprocess.run(
        [sys.executable, "-c", SCRIPT, *flags], capture_output=True, text=True, check=False
    )
    assert process.returncode == 2
    assert complaint in process.stderr
    assert "Traceback" not in process.stderr


def test_help_shows_each_field_and_an_example() -> None:
    process = subprocess.run(
        [sys.executable, "-c", SCRIPT, "--help"], capture_output=True, text=True, check=True
    )
    assert "--pause-s" in process.stdout
    assert "example: python -m jobs.prepare.item_texts --day 2026-03-02" in process.stdout


def test_what_somebody_keeps_beside_the_nights_is_no_night(home: Home) -> None:
    for name in ("day=2026-03-02", "day=2026-03-01", "day=2026-03-02.bak", "day=2026-02-30"):
        folder = home.root / "runs" / "adapt" / name
        folder.mkdir(parents=True)
        (folder / "manifest.json").touch()
    (home.root / "runs" / "adapt" / "day=2026-03-03").mkdir()
    assert home.nights("adapt") == [date(2026, 3, 1), date(2026, 3, 2)]
    assert home.nights("distil") == []
