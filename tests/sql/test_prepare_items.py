"""Catalogues, items and item texts."""

from __future__ import annotations

import pyarrow as pa

from jobs.query import query


def movie_lines(*raw: str) -> pa.Table:
    return pa.table(
        {
            "source_file": pa.array(["movies.dat"] * len(raw), pa.string()),
            "line": pa.array(range(1, len(raw) + 1), pa.int64()),
            "raw": pa.array(raw, pa.string()),
        }
    )


def deliveries(*rows: tuple[int, str, str, int]) -> pa.Table:
    return pa.table(
        {
            "item_id": pa.array([row[0] for row in rows], pa.int64()),
            "title": pa.array([row[1] for row in rows], pa.string()),
            "delivery": pa.array([row[2] for row in rows], pa.string()),
            "line": pa.array([row[3] for row in rows], pa.int64()),
        }
    )


class TestMovielensCatalogue:
    def read(self, *raw: str) -> list[tuple[int | None, str | None]]:
        table = query("prepare/movielens_catalogue", {"movie_lines": movie_lines(*raw)})
        return [(row["item_id"], row["title"]) for row in table.to_pylist()]

    def test_a_title_keeps_its_year_and_its_single_colons(self) -> None:
        assert self.read("260::Star Wars: Episode IV - A New Hope (1977)::Sci-Fi") == [
            (260, "Star Wars: Episode IV - A New Hope (1977)")
        ]

    def test_lines_of_another_form_have_a_null(self) -> None:
        assert self.read("1::Toy Story (1995)", "x::A::B", "3::  ::Drama") == [
            (None, None),
            (None, "A"),
            (3, None),
        ]

    def test_no_lines_give_no_rows(self) -> None:
        assert self.read() == []


class TestSampleCatalogue:
    def read(self, *rows: tuple[int, str, str, int]) -> dict[int, str]:
        table = query("prepare/sample_catalogue", {"item_deliveries": deliveries(*rows)})
        return dict(zip(table["item_id"].to_pylist(), table["title"].to_pylist(), strict=True))

    def test_the_latest_delivery_of_an_item_gives_its_title(self) -> None:
        rows = (
            (5, "New", "2026-01-03", 2),
            (5, "Old", "2026-01-01", 9),
            (4, "Other", "2026-01-01", 3),
        )
        assert self.read(*rows) == {4: "Other", 5: "New"}

    def test_within_a_delivery_the_later_line_stands(self) -> None:
        assert self.read((5, "A", "2026-01-01", 2), (5, "B", "2026-01-01", 10)) == {5: "B"}

    def test_no_rows_give_no_rows(self) -> None:
        assert self.read() == {}


class TestItems:
    catalogue = pa.table({"item_id": [1, 2], "title": ["A", "B"]})

    def read(self, appearances: list[tuple[int | None, int]]) -> list[tuple[int, int | None]]:
        table = pa.table(
            {
                "item_id": pa.array([row[0] for row in appearances], pa.int64()),
                "source_row": pa.array([row[1] for row in appearances], pa.int64()),
            }
        )
        items = query("prepare/items", {"catalogue": self.catalogue, "appearances": table})
        assert items["title"].to_pylist() == ["A", "B"]
        return [(row["item_id"], row["first_row"]) for row in items.to_pylist()]

    def test_an_items_first_appearance_is_its_smallest_row(self) -> None:
        assert self.read([(1, 9), (1, 4), (2, 7)]) == [(1, 4), (2, 7)]

    def test_an_item_without_ratings_has_none(self) -> None:
        assert self.read([(1, 9), (99, 1), (None, 2)]) == [(1, 9), (2, None)]

    def test_no_appearances_leave_the_catalogue_whole(self) -> None:
        assert self.read([]) == [(1, None), (2, None)]


class TestItemTexts:
    domains = pa.table({"domain": ["d"], "item_noun": ["Movie"]})

    def test_a_text_is_the_noun_and_the_title(self) -> None:
        items = pa.table({"item_id": [2, 1], "title": ["B (1999)", "Zoë: a life (2000)"]})
        texts = query("prepare/item_texts", {"items": items, "domains": self.domains})
        assert texts.to_pylist() == [
            {"item_id": 1, "title": "Zoë: a life (2000)", "text": "Movie: Zoë: a life (2000)"},
            {"item_id": 2, "title": "B (1999)", "text": "Movie: B (1999)"},
        ]

    def test_no_items_give_no_texts(self) -> None:
        items = pa.table({"item_id": pa.array([], pa.int64()), "title": pa.array([], pa.string())})
        assert query("prepare/item_texts", {"items": items, "domains": self.domains}).num_rows == 0
