"""Amazon-Book from files of the dump's form: conversion row for row, and the split by hand."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from jobs.datasets import DOMAINS, HISTORIES, ITEMS, QUARANTINED_EVENTS, SPLITS
from jobs.errors import SourceError
from jobs.prepare.amazon_book import METADATA, REVIEWS, write_amazon_book
from jobs.prepare.sources.mapping import recognise
from tests.prepare.conftest import Night

Nights = Callable[..., Night]

AFTER = date(2018, 2, 1)


def seconds(month: int, day: int, year: int = 2017) -> int:
    return int(datetime(year, month, day, tzinfo=UTC).timestamp())


def review(user: str, book: str, stars: float, month: int, day: int, **more: Any) -> dict[str, Any]:
    """A line as the dump has it, fields that nobody reads included."""
    return {
        "overall": stars,
        "verified": True,
        "reviewTime": f"{month:02d} {day:02d}, 2017",
        "reviewerID": user,
        "asin": book,
        "style": {"Format:": " Paperback"},
        "reviewText": "Read it in one sitting.\nTwice.",
        "unixReviewTime": seconds(month, day),
    } | more


def book(asin: str, title: str | None) -> dict[str, Any]:
    return {"category": ["Books"], "title": title, "also_buy": [], "asin": asin, "rank": "1"}


def lines(records: Iterable[dict[str, Any] | str]) -> bytes:
    texts = (r if isinstance(r, str) else json.dumps(r) for r in records)
    return "".join(f"{text}\n" for text in texts).encode()


def dump(
    folder: Path, reviews: Iterable[dict[str, Any] | str], books: Iterable[dict[str, Any] | str]
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / REVIEWS).write_bytes(gzip.compress(lines(reviews), mtime=0))
    (folder / METADATA).write_bytes(gzip.compress(lines(books), mtime=0))
    return folder


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Three reviews and a line that is no JSON; four lines of metadata of three books."""
    return dump(
        tmp_path / "dump",
        [
            review("ada", "000", 5.0, 3, 1),
            review("bob", "111", 3.0, 3, 2),
            '{"overall": 5.0, "reviewerID": "cut off',
            {"reviewerID": "cyd", "asin": "000", "overall": float("nan")},
        ],
        [
            book("000", "Emma"),
            book("111", "Old title"),
            book("111", "Persuasion"),
            book("222", None),
        ],
    )


def converted(source: Path, tmp_path: Path) -> Path:
    return write_amazon_book(source, tmp_path / "amazon-book").folder


def test_every_line_of_reviews_becomes_a_row_in_its_place(small: Path, tmp_path: Path) -> None:
    rows = pq.read_table(converted(small, tmp_path) / "reviews.parquet").to_pylist()
    assert [row["line"] for row in rows] == [1, 2, 3, 4]
    assert rows[0] == {
        "line": 1,
        "reviewerID": "ada",
        "asin": "000",
        "overall": "5.0",
        "unixReviewTime": str(seconds(3, 1)),
        "no_json_object": None,
    }
    assert rows[2]["no_json_object"] == '{"overall": 5.0, "reviewerID": "cut off'
    assert rows[2]["asin"] is None
    assert (rows[3]["overall"], rows[3]["unixReviewTime"]) == (None, None)  # NaN is missing


def test_the_last_line_of_a_book_gives_its_title(small: Path, tmp_path: Path) -> None:
    rows = pq.read_table(converted(small, tmp_path) / "books.parquet").to_pylist()
    assert [(row["asin"], row["title"]) for row in rows] == [
        ("000", "Emma"),
        ("111", "Persuasion"),
        ("222", None),
    ]


def test_the_same_dump_is_converted_once_and_another_one_again(small: Path, tmp_path: Path) -> None:
    first = write_amazon_book(small, tmp_path / "out")
    assert (first.is_new, first.n_reviews, first.n_books, first.n_earlier) == (True, 4, 3, 1)
    again = write_amazon_book(small, tmp_path / "out")
    assert (again.is_new, again.n_reviews, again.n_books, again.n_earlier) == (False, 4, 3, 1)
    dump(small, [review("ada", "000", 5.0, 3, 1)], [book("000", "Emma")])
    assert write_amazon_book(small, tmp_path / "out").n_reviews == 1


def test_fields_of_another_type_become_text_that_the_quarantine_can_show(tmp_path: Path) -> None:
    source = dump(
        tmp_path / "dump",
        [
            review("ada", "000", 5.0, 3, 1, asin=["000"]),
            review("half \ud83d pair", "000", 5.0, 3, 1),
            "[1, 2]",
            "[" * 100_000,
            "",
        ],
        [book("000", "Emma")],
    )
    rows = pq.read_table(converted(source, tmp_path) / "reviews.parquet").to_pylist()
    assert rows[0]["asin"] == '["000"]'
    assert rows[1]["reviewerID"] == "half ? pair"
    assert [row["no_json_object"] for row in rows[2:]] == ["[1, 2]", "[" * 200, ""]


@pytest.mark.parametrize("name", [REVIEWS, METADATA])
def test_a_missing_file_is_named(small: Path, tmp_path: Path, name: str) -> None:
    (small / name).unlink()
    with pytest.raises(SourceError, match=rf"{name}: cannot be read .*the dump is {REVIEWS} and"):
        write_amazon_book(small, tmp_path / "out")


def test_a_file_that_was_cut_short_is_named_with_its_line(small: Path, tmp_path: Path) -> None:
    whole = (small / REVIEWS).read_bytes()
    (small / REVIEWS).write_bytes(whole[:-20])
    with pytest.raises(SourceError, match=rf"{REVIEWS}, line \d: cannot be unpacked .*fetch"):
        write_amazon_book(small, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_no_gzip_or_empty_is_refused(small: Path, tmp_path: Path) -> None:
    (small / REVIEWS).write_bytes(lines([review("ada", "000", 5.0, 3, 1)]))
    with pytest.raises(SourceError, match=rf"{REVIEWS}, line 1: cannot be unpacked"):
        write_amazon_book(small, tmp_path / "out")
    (small / REVIEWS).write_bytes(gzip.compress(b""))
    with pytest.raises(SourceError, match=rf"{REVIEWS}: the file is empty"):
        write_amazon_book(small, tmp_path / "out")


def test_a_folder_that_holds_something_else_is_left_alone(small: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    with pytest.raises(SourceError, match="holds something else"):
        write_amazon_book(small, tmp_path / "out")
    assert (tmp_path / "out" / "thesis.tex").read_text() == "years of work"


def test_the_command_says_what_it_did(small: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "jobs.prepare.amazon_book", "--source", str(small)]
    done = subprocess.run(
        [*words, "--folder", str(tmp_path / "out")], capture_output=True, text=True, check=True
    )
    said = json.loads(done.stdout)
    assert said == {
        "source": str(tmp_path / "out"),
        "status": "done",
        "reviews": 4,
        "books": 3,
    }


def test_the_dump_itself_is_no_source_and_says_how_it_becomes_one(small: Path) -> None:
    with pytest.raises(SourceError, match=r"converted once .*jobs\.prepare\.amazon_book --source"):
        recognise(small)


# -- the published split, by hand ------------------------------------------------------------------

N = 22  # users u00 to u21 and books b00 to b21; one of each stays below the filter


def published() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """21 users who review 21 books each (January to November, u00 also in December).

    One more user has 20 reviews, one more book 20, so neither passes; u00's December has four
    reviews of books that pass, which makes halves of two.
    """
    reviews = []
    for user in range(21):
        for n in range(21):
            stars = 5.0 if (user + n) % 2 else 4.0
            reviews.append(review(f"u{user:02d}", f"b{n:02d}", stars, 1 + n % 11, 1 + user))
    reviews += [review("u21", f"b{n:02d}", 5.0, 2, 3) for n in range(20)]
    reviews += [review(f"u{user:02d}", "b21", 5.0, 4, 5) for user in range(20)]
    december = [(12, 24, 5.0), (12, 3, 4.0), (12, 31, 1.0), (12, 9, 5.0)]
    reviews += [
        review("u00", f"b{n:02d}", stars, month, day)
        for n, (month, day, stars) in enumerate(december)
    ]
    reviews.append(review("u00", "b05", 5.0, 1, 1, unixReviewTime=seconds(12, 31, 2016)))
    reviews.append(review("u00", "b05", 5.0, 1, 1, unixReviewTime=seconds(1, 1, 2018)))
    return reviews, [book(f"b{n:02d}", f"Book {n}") for n in range(N)]


def test_the_published_split_by_hand(tmp_path: Path, night: Nights) -> None:
    source = converted(dump(tmp_path / "dump", *published()), tmp_path)
    tonight = night(AFTER)
    manifest = tonight.ingest(source)
    assert manifest.metrics["quarantined"] == 0
    assert tonight.table(DOMAINS)["split_protocol"].to_pylist() == ["published-amazon-book"]
    tonight.split()
    rows = tonight.table(SPLITS).to_pylist()
    of = {split: [r for r in rows if r["split"] == split] for split in ("train", "valid", "test")}
    assert len(of["train"]) == 21 * 21  # neither u21 nor b21, and no other year
    assert {row["user_id"] for row in rows} == {f"u{n:02d}" for n in range(21)}
    assert {row["item_id"] for row in rows} == {f"b{n:02d}" for n in range(21)}
    december = [(r["item_id"], r["rated_at"].day, r["label"]) for r in of["valid"]]
    assert december == [("b01", 3, 0), ("b03", 9, 1)]
    december = [(r["item_id"], r["rated_at"].day, r["label"]) for r in of["test"]]
    assert december == [("b00", 24, 1), ("b02", 31, 0)]
    n_positives = sum(1 for user in range(21) for n in range(21) if (user + n) % 2)
    assert sum(row["label"] for row in of["train"]) == n_positives
    histories = {row["user_id"]: row["item_ids"] for row in tonight.table(HISTORIES).to_pylist()}
    own = [f"b{n:02d}" for n in range(21) if n % 2]
    by_month = sorted(own, key=lambda item: (int(item[1:]) % 11, int(item[1:])))
    assert histories["u00"] == [*by_month, "b03", "b00"]
    assert [row["history_end"] for row in of["valid"] + of["test"]] == [10, 10, 11, 12]


def test_rows_that_the_published_join_would_lose_are_quarantined_with_a_reason(
    tmp_path: Path, night: Nights
) -> None:
    reviews, books = published()
    reviews += [
        review("u00", "no such book", 5.0, 5, 5),
        review("u00", "b22", 5.0, 5, 5),
        {"reviewerID": "u01", "asin": "b00", "unixReviewTime": seconds(5, 5)},
        "{cut off",
    ]  # type: ignore[list-item]
    source = converted(dump(tmp_path / "dump", reviews, [*books, book("b22", None)]), tmp_path)
    tonight = night(AFTER)
    tonight.ingest(source)
    found = tonight.table(QUARANTINED_EVENTS).to_pylist()
    n = len(reviews)
    assert {
        (row["line"], row["reason"]) for row in found if row["source_file"] == "reviews.parquet"
    } == {
        (n - 3, "unknown item"),
        (n - 2, "unknown item"),
        (n - 1, "missing rating"),
        (n, "no json object"),
    }
    assert "b22" not in tonight.table(ITEMS)["item_id"].to_pylist()
