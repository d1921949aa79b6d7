"""Catalogues, items and item texts."""

from __future__ import annotations

import pyarrow as pa

from jobs.query import query


class TestItems:
    catalogue = pa.table({"item_id": [1, 2], "title": ["A", "B"]})

    def read(self, appearances: list[tuple[int | None, int]]) -> list[tuple[int, int | None]]:
        table = pa.table(
            {
                "item_id": pa.array([row[0] for row in appearances], pa.int64()),
                "first_row": pa.array([row[1] for row in appearances], pa.int64()),
            }
        )
        items = query("prepare/items", {"catalogue": self.catalogue, "item_rows": table})
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
