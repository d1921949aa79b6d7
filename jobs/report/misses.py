"""The rows that the model was most wrong about, with what the LLM reads of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from jobs.report.controls import System
from jobs.report.evaluate import ScoredRows
from jobs.report.neighbours import Id
from jobs.report.night_figures import Miss
from jobs.report.prompt_text import Wording, prompt_text


def most_wrong(
    labels: NDArray[np.generic],
    probabilities: NDArray[np.float64],
    users: NDArray[np.generic],
    n: int,
) -> list[int]:
    """Places of the `n` most wrong rows: likes that seemed dislikes first, then the reverse.

    Half of them of each kind, at most one of a user: a user whose taste is odd would fill the list.

    Args:
        labels: (n_rows,) 0 or 1.
        probabilities: (n_rows,) of a positive label.
        users: (n_rows,).
        n: how many.
    """
    error = np.abs(labels.astype(np.float64) - probabilities)
    worst = np.argsort(-error, kind="stable")
    seen: set[Id] = set()
    found: list[int] = []
    for label, wanted in ((1, n - n // 2), (0, n // 2)):
        found += _of_label(worst[labels[worst] == label], users, seen, wanted)
    return found


def _of_label(
    order: NDArray[np.int64], users: NDArray[np.generic], seen: set[Id], n: int
) -> Iterator[int]:
    """The first `n` of `order` whose users were not seen yet; they are then."""
    for place in order.tolist():
        if n == 0:
            return
        user = users[place].item() if isinstance(users[place], np.generic) else users[place]
        if user not in seen:
            seen.add(user)
            n -= 1
            yield place


def misses(
    rows: ScoredRows,
    table: pa.Table,
    control: System | None,
    histories: pa.Table,
    titles: Mapping[Id, str],
    words: Wording,
    n: int,
) -> list[Miss]:
    """Most wrong rows with their prompts.

    Args:
        rows: of test.
        table: the same rows of SPLITS.
        control: the strongest one.
        histories: HISTORIES.
        titles: of all items.
        words: how a row becomes a prompt.
        n: how many.
    """
    probabilities = rows.systems[0].probabilities
    found = []
    for place in most_wrong(rows.labels, probabilities, rows.users, n):
        row = table.slice(place, 1).to_pylist()[0]
        seen = _visible(histories, row["user_id"], row["history_end"])
        title = titles.get(row["item_id"], str(row["item_id"]))
        found.append(
            Miss(
                row=row["row"],
                user_id=row["user_id"],
                item_id=row["item_id"],
                title=title,
                rated_on=row["rated_at"].date(),
                label=row["label"],
                probability=float(probabilities[place]),
                control_probability=float(control.probabilities[place]) if control else None,
                n_visible=len(seen),
                n_shown=min(len(seen), words.n_titles),
                prompt=prompt_text(words, [titles.get(each) for each in seen], title),
            )
        )
    return found


def _visible(histories: pa.Table, user: Id, end: int) -> list[Id]:
    """What a row that ends at `end` may see of its user's history, oldest first."""
    users = histories["user_id"]
    place = users.index(pa.scalar(user, users.type)).as_py()
    return histories["item_ids"][place].as_py()[:end] if place >= 0 else []
