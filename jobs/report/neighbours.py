"""Nearest neighbours of a few known items, by exact cosine."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from jobs.report.night_figures import Neighbour, Neighbourhood

Id = int | str
_ROWS_AT_ONCE = 65_536


def nearest(vectors: NDArray[np.float32], place: int, k: int) -> list[tuple[int, float]]:
    """The `k` rows of `vectors` (n, d) with the largest cosine to row `place`, ties by row.

    A row without direction (zero norm) is near to nothing: its cosine is 0.
    """
    own = _unit(vectors[place : place + 1])[0]
    starts = range(0, len(vectors), _ROWS_AT_ONCE)
    parts = [_unit(vectors[start : start + _ROWS_AT_ONCE]) @ own for start in starts]
    cosines = np.round(np.concatenate(parts), 6)
    order = np.argsort(-cosines, kind="stable")
    return [(int(other), float(cosines[other])) for other in order if other != place][:k]


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    wide = vectors.astype(np.float64)
    norms = np.linalg.norm(wide, axis=1)
    return wide / np.where(norms == 0, 1.0, norms)[:, None]


def neighbourhoods(
    ids: NDArray[np.generic],
    vectors: NDArray[np.float32],
    titles: Mapping[Id, str],
    n_train_rows: Mapping[Id, int],
    *,
    n_probes: int,
    n_neighbours: int,
) -> list[Neighbourhood]:
    """The items most often rated in training, and what lies nearest to each.

    An item that is already shown as a neighbour is passed over, so that the few probes cover
    more of the catalogue.

    Args:
        ids: (n,) item ids.
        vectors: (n, d), row i of item ids[i].
        titles: of all items.
        n_train_rows: training rows of an item; absent means none.
        n_probes: how many items to look at.
        n_neighbours: how many neighbours of each to list.
    """
    keys: list[Id] = ids.tolist()
    known = sorted(
        (place for place, key in enumerate(keys) if key in n_train_rows),
        key=lambda place: (-n_train_rows[keys[place]], place),
    )
    shown: set[int] = set()
    found: list[Neighbourhood] = []
    for place in known:
        if len(found) == n_probes:
            break
        if place in shown:
            continue
        near = nearest(vectors, place, n_neighbours)
        shown |= {place, *(other for other, _ in near)}
        found.append(
            Neighbourhood(
                item_id=keys[place],
                title=titles.get(keys[place], str(keys[place])),
                n_train_rows=n_train_rows[keys[place]],
                neighbours=[
                    Neighbour(
                        item_id=keys[other],
                        title=titles.get(keys[other], str(keys[other])),
                        cosine=cosine,
                    )
                    for other, cosine in near
                ],
            )
        )
    return found
