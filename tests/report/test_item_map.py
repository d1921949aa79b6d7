from __future__ import annotations

import numpy as np
import pytest

from jobs.report.item_map import Codes, MapOptions, item_map, principal_plane
from jobs.report.map_chart import map_chart

OPTIONS = MapOptions(n_points=50, n_groups=2, n_names=3)


def on_a_plane(n: int, d: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Vectors on a plane in d dimensions, far from zero, and their places in it."""
    random = np.random.default_rng(0)
    places = random.normal(size=(n, 2)) * [3, 1]
    basis, _ = np.linalg.qr(random.normal(size=(d, 2)))
    return (places @ basis.T + 5).astype(np.float32), places


def test_the_plane_that_the_vectors_lie_on_is_found() -> None:
    vectors, places = on_a_plane(200)
    found, spread = principal_plane(vectors)
    assert spread == pytest.approx(1, abs=1e-6)
    apart = np.linalg.norm(places[:, None] - places[None], axis=-1)
    assert np.linalg.norm(found[:, None] - found[None], axis=-1) == pytest.approx(apart, abs=1e-4)
    assert found[:, 0].std() > found[:, 1].std()


def test_the_map_does_not_flip_when_the_rows_change_their_order() -> None:
    vectors, _ = on_a_plane(60)
    found, _ = principal_plane(vectors)
    turned, _ = principal_plane(vectors[::-1])
    assert turned[::-1] == pytest.approx(found, abs=1e-5)


def test_vectors_that_are_all_alike_lie_on_one_spot() -> None:
    found, spread = principal_plane(np.ones((5, 3), np.float32))
    assert (found.tolist(), spread) == ([[0, 0]] * 5, 0)


def test_the_best_known_items_are_drawn_where_all_items_put_them() -> None:
    vectors, _ = on_a_plane(30)
    ids, known = np.arange(30), {4: 9, 7: 5}
    codes = Codes({n: n % 3 for n in range(30)}, {0: ["A", "B"]})
    few = item_map(ids, vectors, {4: "Four"}, known, codes, MapOptions(2, 2, 3))
    everything = item_map(ids, vectors, {4: "Four"}, known, codes, OPTIONS)
    assert few is not None
    assert everything is not None
    assert [(p.item_id, p.title, p.n_train_rows, p.code) for p in few.points] == [
        (4, "Four", 9, 1),
        (7, "7", 5, 1),
    ]
    assert few.points == [
        p.model_copy(update={"is_named": q.is_named})
        for p, q in zip(everything.points[:2], few.points, strict=True)
    ]
    assert [(g.code, g.n_items, g.titles) for g in few.groups] == [(0, 10, ["A", "B"]), (1, 10, [])]


def test_names_that_would_lie_on_one_another_are_left_out() -> None:
    vectors = np.array([[0, 0], [0.01, 0], [5, 1], [-5, -1], [1, -3], [-1, 3]], np.float32)
    known = {item: 9 - item for item in range(6)}
    drawn = item_map(np.arange(6), vectors, {}, known, None, OPTIONS)
    assert drawn is not None
    assert [point.is_named for point in drawn.points] == [True, False, True, True, False, False]


def test_two_items_are_no_map() -> None:
    assert item_map(np.arange(2), np.eye(2, dtype=np.float32), {}, {}, None, OPTIONS) is None


@pytest.mark.parametrize("is_wide", [True, False])
def test_the_picture_says_where_the_codes_lie_and_brings_no_namespace(is_wide: bool) -> None:
    vectors, _ = on_a_plane(30)
    codes = Codes({n: int(n < 20) for n in range(30)}, {})
    drawn = item_map(np.arange(30), vectors, {0: "<b>Zero</b>"}, {0: 1}, codes, OPTIONS)
    assert drawn is not None
    chart = map_chart(drawn, is_wide=is_wide)
    assert "Map of 30 of 30 items: code 1 (20 items) lies" in chart.svg
    assert "<b>" not in chart.svg
    assert "http" not in chart.svg
    assert "var(--group-1)" in chart.svg
