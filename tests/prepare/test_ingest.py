"""Ingest: what stands, what is quarantined, what a night knew, and what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from jobs.datasets import DOMAINS, EVENTS, ITEM_TEXTS, ITEMS, QUARANTINED_EVENTS
from jobs.errors import SourceError
from jobs.home import Home
from jobs.manifest import Manifest
from jobs.prepare import item_texts
from tests.prepare.conftest import Night

Nights = Callable[..., Night]

DAY = date(2026, 3, 2)
AFTER_ARCHIVE = date(2003, 3, 1)


def truth(sample: Path, name: str) -> pa.Table:
    return pq.read_table(sample / "truth" / f"{name}.parquet")


@pytest.fixture(scope="module")
def whole(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Night, Manifest]:
    """The sample as of its last day; do not change it."""
    tonight = Night(Home(tmp_path_factory.mktemp("whole") / "home"), DAY)
    return tonight, tonight.ingest(sample)


def as_planted(quarantined: pa.Table) -> list[dict[str, object]]:
    """The columns of the quarantine that the sample's list of dirt has."""
    of_events = quarantined.filter(pc.equal(quarantined["kind"], "event"))
    return of_events.select(["source_file", "line", "raw", "reason"]).to_pylist()


# -- the sample ------------------------------------------------------------------------------------


def test_the_quarantine_is_exactly_the_planted_dirt_that_was_delivered(
    sample: Path, whole: tuple[Night, Manifest]
) -> None:
    tonight, manifest = whole
    dirt = truth(sample, "dirt")
    planted = dirt.filter(pc.less(dirt["source_file"], f"ratings/{DAY}.csv"))
    found = as_planted(tonight.table(QUARANTINED_EVENTS))
    in_order = planted.sort_by([("source_file", "ascending"), ("line", "ascending")])
    assert found == in_order.select(["source_file", "line", "raw", "reason"]).to_pylist()
    assert manifest.metrics["quarantined"] == planted.num_rows > 200
    n_out = manifest.metrics["events"] + manifest.metrics["quarantined"]
    assert manifest.metrics["rows_in"] == n_out


def test_the_events_are_exactly_the_true_ones_that_were_delivered(
    sample: Path, whole: tuple[Night, Manifest]
) -> None:
    tonight, _ = whole
    events = truth(sample, "events")
    known = events.filter(pc.less(events["delivered_on"], pa.scalar(DAY)))
    assert 0 < events.num_rows - known.num_rows < 50
    assert {
        (e["user_id"], e["item_id"], e["rating"], e["rated_at"], e["ingested_at"])
        for e in tonight.table(EVENTS).to_pylist()
    } == {
        (
            e["user_id"],
            e["item_id"],
            float(e["rating"]),
            e["rated_at"],
            datetime.fromordinal(e["delivered_on"].toordinal() + 1),
        )
        for e in known.to_pylist()
    }


def test_a_late_row_is_unknown_until_its_delivery(sample: Path, night: Nights) -> None:
    events = truth(sample, "events").to_pylist()
    late = next(e for e in events if (e["delivered_on"] - e["rated_at"].date()).days == 2)
    assert late["delivered_on"] < date(2026, 1, 15)
    for days_after, is_known in ((0, False), (1, True)):
        day = date.fromordinal(late["delivered_on"].toordinal() + days_after)
        tonight = night(day)
        tonight.ingest(sample)
        known = tonight.table(EVENTS).select(["user_id", "item_id"]).to_pylist()
        pair = {"user_id": late["user_id"], "item_id": late["item_id"]}
        assert (pair in known) is is_known


def test_a_backfilled_night_is_what_that_night_saw(
    sample: Path, night: Nights, tmp_path: Path
) -> None:
    day = date(2026, 1, 20)
    as_it_was = tmp_path / "as-it-was"
    shutil.copytree(sample, as_it_was)
    for path in as_it_was.rglob("2026-*.csv"):
        if date.fromisoformat(path.stem) >= day:
            path.unlink()
    then, now = night(day, "then"), night(day, "now")
    then.ingest(as_it_was)
    now.ingest(sample)
    assert then.sha256("ingest") == now.sha256("ingest")


def test_the_first_nights_are_not_too_dirty_to_run(sample: Path, night: Nights) -> None:
    for n in (2, 3, 5):
        night(date(2026, 1, n)).ingest(sample)


def test_a_later_delivery_redoes_nothing_and_an_earlier_one_does(
    sample: Path, night: Nights, tmp_path: Path
) -> None:
    folder = tmp_path / "sample"
    shutil.copytree(sample, folder)
    tonight = night(date(2026, 1, 20))
    first = tonight.ingest(folder)
    with (folder / "ratings" / "2026-01-20.csv").open("a") as later:
        later.write("1,2,3,4\n")
    assert tonight.ingest(folder) == first
    with (folder / "ratings" / "2026-01-19.csv").open("a") as earlier:
        earlier.write("1,2,3,4\n")
    with pytest.raises(SourceError, match=r"2026-01-19\.csv has changed .* --restate"):
        tonight.ingest(folder)
    redone = tonight.ingest(folder, restate=True)
    assert redone.metrics["quarantined"] == first.metrics["quarantined"] + 1


def test_a_missing_delivery_is_named(sample: Path, night: Nights, tmp_path: Path) -> None:
    folder = tmp_path / "sample"
    shutil.copytree(sample, folder)
    (folder / "ratings" / "2026-01-07.csv").unlink()
    with pytest.raises(SourceError, match=r"2026-01-07\.csv: this delivery is missing \(1 in all"):
        night(DAY).ingest(folder)


def test_a_night_before_the_first_delivery_says_when_the_first_night_is(
    sample: Path, night: Nights
) -> None:
    with pytest.raises(SourceError, match="the first day that can be run is 2026-01-02"):
        night(date(2026, 1, 1)).ingest(sample)


def test_too_many_bad_rows_stop_the_run_and_leave_nothing(sample: Path, night: Nights) -> None:
    tonight = night(DAY)
    with pytest.raises(SourceError, match=r"223 of 8,214 rows \(2\.7%\) would be quarantined") as e:
        tonight.ingest(sample, max_quarantined_share=0.01)
    assert "63 duplicate, 32 rating out of range" in str(e.value)
    assert "the first: ratings/2026-01-01.csv, line" in str(e.value)
    assert not tonight.home.output(EVENTS, DAY).exists()
    assert not tonight.home.manifest("ingest", DAY).exists()


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("ratings/2026-01-03.csv", b"", "the file is empty"),
        (
            "ratings/2026-01-03.csv",
            b"user,item,rating,ts\n",
            "line 1: column 'user_id' is missing; the closest is 'user'; found user, item,",
        ),
        (
            "ratings/2026-01-03.csv",
            b"user_id,item_id,rating,rated_at\n1,2,3,2026-01-03 10:",
            "line 2: the file ends inside the line '1,2,3,2026-01-03 10:'",
        ),
        ("ratings/yesterday.csv", b"x\n", "expected ratings/YYYY-MM-DD.csv"),
        ("items/2026-01-01.csv", b"item_id,title\nx,Film\n", "line 2: unparsable item in 'x,Film'"),
        (
            "items/2026-01-01.csv",
            b"item_id,title\n1,A,B\n",
            "line 2: wrong number of fields in '1,A,B'",
        ),
        (
            "items/2026-01-01.csv",
            b"id,title\n1,A\n",
            "line 1: column 'item_id' is missing",
        ),
        ("items/2026-01-01.csv", b"item_id,title\n1,\n", "line 2: missing title in '1,'"),
        ("items/2026-01-01.csv", b"item_id,title\n1,\xff\n", "line 2: invalid UTF-8"),
        ("items/2026-01-01.csv", b"", "the file is empty"),
        ("sample.json", b"{", "expected JSON with first_delivery and last_delivery"),
        ("sample.json", b"[]", "expected JSON with first_delivery and last_delivery"),
    ],
)
def test_a_broken_delivery_is_one_error_that_names_it(
    sample: Path, night: Nights, tmp_path: Path, file: str, content: bytes, said: str
) -> None:
    folder = tmp_path / "sample"
    shutil.copytree(sample, folder)
    (folder / file).write_bytes(content)
    with pytest.raises(SourceError) as error:
        night(DAY).ingest(folder)
    assert str(error.value).startswith(str(folder / file))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_bytes_that_are_no_utf8_are_quarantined(
    sample: Path, night: Nights, tmp_path: Path
) -> None:
    folder = tmp_path / "sample"
    shutil.copytree(sample, folder)
    with (folder / "ratings" / "2026-01-09.csv").open("ab") as file:
        file.write(b"1,2,4\xff,2026-01-09 10:00:00\n")
    tonight = night(date(2026, 1, 10))
    tonight.ingest(folder)
    quarantined = as_planted(tonight.table(QUARANTINED_EVENTS))
    assert [row for row in quarantined if row["reason"] == "invalid UTF-8"] == [
        {
            "source_file": "ratings/2026-01-09.csv",
            "line": len((folder / "ratings" / "2026-01-09.csv").read_bytes().splitlines()),
            "raw": "1,2,4\ufffd,2026-01-09 10:00:00",
            "reason": "invalid UTF-8",
        }
    ]


# -- the archive -----------------------------------------------------------------------------------


def expect_the_small_archive(tonight: Night, name: str = "ml-1m") -> None:
    assert tonight.table(DOMAINS).select(
        ["domain", "item_noun", "positive_rating", "split_protocol"]
    ).to_pylist() == [
        {
            "domain": name,
            "item_noun": "Movie",
            "positive_rating": 4.0,
            "split_protocol": "published-ml-1m",
        }
    ]
    assert [
        (e["user_id"], e["item_id"], e["rating"], e["rated_at"], e["source_row"])
        for e in tonight.table(EVENTS).to_pylist()
    ] == [
        (1, 10, 5.0, datetime(2001, 7, 1), 1),
        (1, 20, 3.0, datetime(2001, 7, 1), 2),
        (1, 20, 4.0, datetime(2002, 9, 7), 4),
        (2, 10, 2.0, datetime(2002, 9, 7, 0, 0, 1), 5),
        (2, 20, 4.0, datetime(2002, 4, 8), 3),
    ]
    assert [
        (e["ingested_at"].date() - e["rated_at"].date()).days
        for e in tonight.table(EVENTS).to_pylist()
    ] == [1] * 5  # an archive says nothing about arrival: known from the end of the day
    assert tonight.table(ITEMS).to_pylist() == [
        {"item_id": 10, "title": "Star Wars: Episode IV - A New Hope (1977)", "first_row": 1},
        {"item_id": 20, "title": "Misérables, Les (1995)", "first_row": 2},
        {"item_id": 30, "title": "Unseen (2000)", "first_row": None},
    ]
    assert tonight.table(QUARANTINED_EVENTS).num_rows == 0


def test_the_original_folder_is_read(archive: Path, night: Nights) -> None:
    tonight = night(AFTER_ARCHIVE)
    tonight.ingest(archive)
    expect_the_small_archive(tonight)


def test_the_folder_around_the_original_folder_is_read(archive: Path, night: Nights) -> None:
    tonight = night(AFTER_ARCHIVE)
    tonight.ingest(archive.parent)
    expect_the_small_archive(tonight)


def test_the_original_zip_is_read(archive_zip: Path, night: Nights) -> None:
    tonight = night(AFTER_ARCHIVE)
    tonight.ingest(archive_zip)
    expect_the_small_archive(tonight)


def test_lines_that_end_as_on_windows_are_read(archive: Path, night: Nights) -> None:
    for name in ("ratings.dat", "movies.dat"):
        content = (archive / name).read_bytes()
        (archive / name).write_bytes(content.replace(b"\n", b"\r\n"))
    tonight = night(AFTER_ARCHIVE)
    tonight.ingest(archive)
    expect_the_small_archive(tonight)


def test_the_archives_future_is_not_read(archive: Path, night: Nights) -> None:
    tonight = night(date(2002, 9, 7))
    tonight.ingest(archive)
    assert tonight.table(EVENTS)["source_row"].to_pylist() == [1, 2, 3]


def test_a_bad_line_of_the_archive_is_quarantined(archive: Path, night: Nights) -> None:
    with (archive / "ratings.dat").open("ab") as file:
        file.write(b"3::10::5\n3::99::5::993945600\n")
    tonight = night(AFTER_ARCHIVE)
    with pytest.raises(SourceError, match=r"2 of 7 rows \(28\.6%\)"):
        tonight.ingest(archive)
    tonight.ingest(archive, max_quarantined_share=0.5)
    assert as_planted(tonight.table(QUARANTINED_EVENTS)) == [
        {
            "source_file": "ratings.dat",
            "line": 6,
            "raw": "3::10::5",
            "reason": "wrong number of fields",
        },
        {
            "source_file": "ratings.dat",
            "line": 7,
            "raw": "3::99::5::993945600",
            "reason": "unknown item",
        },
    ]


def test_a_night_before_all_events_is_refused(archive: Path, night: Nights) -> None:
    with pytest.raises(SourceError, match="no event is known on this day: 0 rows known"):
        night(date(1999, 1, 1)).ingest(archive)


def test_item_texts_cover_the_whole_catalogue(archive: Path, night: Nights) -> None:
    tonight = night(AFTER_ARCHIVE)
    tonight.ingest(archive)
    tonight.run("item_texts", item_texts.ItemTextsConfig(), item_texts.job)
    assert tonight.table(ITEM_TEXTS)["text"].to_pylist() == [
        "Movie: Star Wars: Episode IV - A New Hope (1977)",
        "Movie: Misérables, Les (1995)",
        "Movie: Unseen (2000)",
    ]


# -- homes and commands ----------------------------------------------------------------------------


def test_a_home_belongs_to_one_domain(sample: Path, archive: Path, night: Nights) -> None:
    night(DAY).ingest(sample)
    with pytest.raises(SourceError, match=r"holds the domain 'sample' .* TIDEMARK_HOME=") as error:
        night(AFTER_ARCHIVE).ingest(archive)
    assert "'ml-1m'" in str(error.value)
    assert not night(AFTER_ARCHIVE).home.manifest("ingest", AFTER_ARCHIVE).exists()


def test_the_command_ends_in_json_or_in_one_line_of_error(archive: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "jobs.prepare.ingest", "--day", str(AFTER_ARCHIVE), "--source"]
    environment = {"TIDEMARK_HOME": str(tmp_path / "home"), "PATH": "/usr/bin:/bin"}
    done, failed = (
        subprocess.run(
            [*command, source], capture_output=True, text=True, env=environment, check=False
        )
        for source in (str(archive), "/no/such/folder")
    )
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "job": "ingest",
        "day": "2003-03-01",
        "status": "done",
        "domain": "ml-1m",
        "events": 5,
    }
    assert failed.returncode == 1
    assert failed.stderr == (
        "ingest 2003-03-01: /no/such/folder: no such file or folder; give --source\n"
    )
