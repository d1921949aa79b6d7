"""Click-through gates: whether a version's own scores are good enough to follow another's."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from embedding_store.lookup import Version
from embedding_store.manifest import GateEntry
from jobs.errors import NotAvailable
from jobs.report.metrics import Interval, paired_user_bootstrap, user_bootstrap
from jobs.score.ctr_scores import score_rows

_MIN_USERS = 10  # fewer say nothing about the others
_RESAMPLES, _SEED = 500, 0


class LabelledRows(NamedTuple):
    """Held-out rows to judge by, and what they are, in words."""

    rows: pa.Table
    says: str


def last_labelled_rows(splits: pa.Table, min_rows: int) -> LabelledRows:
    """The held-out rows of the last labelled day, and of as many days before as it takes.

    Rows of the train split do not count: a version was fitted on them, and its memory of them says
    nothing.

    Args:
        splits: SPLITS.
        min_rows: days are added, latest first, until there are so many rows.
    """
    held_out = splits.filter(pc.is_in(splits["split"], value_set=pa.array(["valid", "test"])))
    if not held_out.num_rows:
        return LabelledRows(held_out, "there are no labelled rows outside train")
    days = held_out["rated_at"].cast(pa.date32())
    counts = days.value_counts().to_pylist()
    first: date | None = None
    n_rows = 0
    for count in sorted(counts, key=lambda one: one["values"], reverse=True):
        first, n_rows = count["values"], n_rows + count["counts"]
        if n_rows >= min_rows:
            break
    last = pc.max(days).as_py()
    chosen = held_out.filter(pc.greater_equal(days, pa.scalar(first, pa.date32())))
    period = f"{last}" if first == last else f"{first} to {last}"
    return LabelledRows(chosen, f"{chosen.num_rows} rows of {period}")


def click_through_gates(
    labelled: LabelledRows,
    candidate: Version,
    reference: Version | None,
    *,
    min_auc: float,
    max_auc_loss: float,
) -> Iterator[GateEntry]:
    """Two gates on the AUC of mu + b_u + b_i + <p_u, q_i>, read from the versions' tables.

    `auc` fails if all of its 95 % interval over users lies below `min_auc`, `auc_change` if all of
    the paired interval of candidate minus reference lies below -`max_auc_loss`. So a small day
    with a wide interval refuses only what is plainly worse, and a healthy version is refused in
    at most one night of forty.

    Args:
        labelled: rows of SPLITS.
        candidate: the version to judge.
        reference: the version that it would replace, judged on the same rows.
        min_auc: 0.5 is chance.
        max_auc_loss: what may be lost.
    """
    users, labels = (labelled.rows[name].to_numpy() for name in ("user_id", "label"))
    scores = _logits(labelled.rows, candidate)
    own = user_bootstrap(users, labels, scores, n=_RESAMPLES, seed=_SEED)
    enough = own.n_users >= _MIN_USERS and own.auc is not None
    says = labelled.says if enough else f"too little to judge by: {labelled.says}"
    yield _gate("auc", own.auc if enough else None, min_auc, says)
    if reference is None:
        yield _gate("auc_change", None, -max_auc_loss, "no version to compare with")
        return
    says += f", against version {reference.version}"
    try:
        others = _logits(labelled.rows, reference)
    except NotAvailable as error:
        yield _gate("auc_change", None, -max_auc_loss, f"not comparable: {error}")
        return
    change = paired_user_bootstrap(users, labels, scores, others, n=_RESAMPLES, seed=_SEED)
    yield _gate("auc_change", change.auc if enough else None, -max_auc_loss, says)


def _logits(rows: pa.Table, version: Version) -> pa.ChunkedArray:
    return score_rows(rows, version)[0]["logit"].to_numpy()


def _gate(name: str, found: Interval | None, bound: float, says: str) -> GateEntry:
    """Passed unless the whole interval is below the bound; `value` is its upper end."""
    if found is None:
        return GateEntry(name=name, passed=True, at_least=bound, says=says)
    return GateEntry(
        name=name,
        passed=found.high >= bound,
        value=found.high,
        at_least=bound,
        says=f"{found.value:+.4f} ({found.low:+.4f} to {found.high:+.4f}) on {says}",
    )
