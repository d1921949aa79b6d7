"""A map of the items: the two directions in which their published vectors spread most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jobs.report.controls import Floats
from jobs.report.neighbours import Id
from jobs.report.night_figures import CodeGroup, ItemMap, MapPoint

_DIGITS = 3  # of a coordinate: a thousandth of the map, and the same on every machine
_ROWS_AT_ONCE = 65_536
_GAP = np.array([0.62, 0.05])  # between two names, in shares of the map: wide, and not high


@dataclass(frozen=True)
class MapOptions:
    """How much the map shows."""

    n_points: int
    n_groups: int
    n_names: int


@dataclass(frozen=True)
class Codes:
    """The codes of level 0.

    Attributes:
        of_items: item -> code.
        titles: code -> titles of the items that it fits best.
    """

    of_items: Mapping[Id, int]
    titles: Mapping[int, Sequence[str]]


def principal_plane(vectors: NDArray[np.float32]) -> tuple[Floats, float]:
    """Coordinates of (n, d) vectors along their two widest directions, and the share of variance.

    The directions are the first two eigenvectors of the covariance matrix, each turned so that its
    largest entry is positive: the map does not flip from night to night. No row is drawn at random.

    Returns:
        (n, 2) coordinates and a share in [0, 1]; zeros where the vectors do not spread.
    """
    n, d = vectors.shape
    mean = vectors.mean(axis=0, dtype=np.float64)
    covariance = np.zeros((d, d))
    parts = [slice(start, start + _ROWS_AT_ONCE) for start in range(0, n, _ROWS_AT_ONCE)]
    for part in parts:
        some = vectors[part] - mean
        covariance += some.T @ some
    values, directions = np.linalg.eigh(covariance)
    plane = directions[:, ::-1][:, :2]
    plane = plane * np.sign(plane[np.abs(plane).argmax(axis=0), np.arange(plane.shape[1])])
    places = np.zeros((n, 2))
    for part in parts:
        places[part, : plane.shape[1]] = (vectors[part] - mean) @ plane
    spread = float(values[::-1][:2].sum() / values.sum()) if values.sum() > 0 else 0.0
    return places, spread


def item_map(
    ids: NDArray[np.generic],
    vectors: NDArray[np.float32],
    titles: Mapping[Id, str],
    n_train_rows: Mapping[Id, int],
    codes: Codes | None,
    options: MapOptions,
) -> ItemMap | None:
    """The items rated most often in training, where all items together span the map.

    Args:
        ids: (n,) item ids.
        vectors: (n, d), row i of item ids[i].
        titles: of all items.
        n_train_rows: training rows of an item; absent means none.
        codes: of the items, to colour them by; None if there is no codebook.
        options: how many points, colours and names.

    Returns:
        None where there are fewer than three items, or none is to be drawn.
    """
    if len(ids) < 3 or options.n_points == 0:
        return None
    keys: list[Id] = ids.tolist()
    places, spread = principal_plane(vectors)
    widest = float(np.abs(places).max()) or 1.0
    places = np.round(places / widest, _DIGITS) + 0.0  # no minus zero
    order = sorted(range(len(keys)), key=lambda place: (-n_train_rows.get(keys[place], 0), place))
    shown = order[: options.n_points]
    named = set(_apart(places, shown, options.n_names))
    return ItemMap(
        n_items=len(keys),
        spread=spread,
        groups=_groups(codes, options.n_groups),
        points=[
            MapPoint(
                item_id=keys[place],
                title=titles.get(keys[place], str(keys[place])),
                x=float(places[place, 0]),
                y=float(places[place, 1]),
                code=codes.of_items.get(keys[place]) if codes else None,
                n_train_rows=n_train_rows.get(keys[place], 0),
                is_named=place in named,
            )
            for place in shown
        ],
    )


def _apart(places: Floats, shown: Sequence[int], n: int) -> list[int]:
    """The first `n` of `shown` whose names would not lie on one another."""
    found: list[int] = []
    least = _GAP * np.ptp(places[list(shown)], axis=0) if shown else _GAP
    for place in shown:
        if len(found) == n:
            break
        if not (np.abs(places[found] - places[place]) < least).all(axis=1).any():
            found.append(place)
    return found


def _groups(codes: Codes | None, n: int) -> list[CodeGroup]:
    """The codes that most items have."""
    if codes is None:
        return []
    found, counts = np.unique(list(codes.of_items.values()), return_counts=True)
    largest = sorted(zip(counts.tolist(), found.tolist(), strict=True), key=lambda c: (-c[0], c[1]))
    return [
        CodeGroup(code=code, n_items=count, titles=list(codes.titles.get(code, ())))
        for count, code in largest[:n]
    ]
