"""Tonight's version beside the one that it follows, on the test rows that both have scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedding_store.manifest import GateEntry
from jobs.query import query
from jobs.report import metrics
from jobs.report.evaluate import FEWEST_USERS, Resampling, estimate_of
from jobs.report.gates import auc_change
from jobs.report.models import main_model, title_of
from jobs.report.night_figures import Previous, Side


@dataclass(frozen=True)
class LastNight:
    """A version of an earlier day, and what that night scored.

    Attributes:
        version: its number.
        day: its day; None if its files are deleted.
        scores: CTR_SCORES of that day, if they are of this version.
        splits: SPLITS of that day.
        why_no_scores: if there are none.
        wanted: the model that the reader asked for; None: that night's main one.
    """

    version: int
    day: date | None
    scores: pa.Table | None = None
    splits: pa.Table | None = None
    why_no_scores: str = ""
    wanted: str | None = None

    @property
    def model(self) -> str | None:
        """The one that speaks for that night; None if it scored no row."""
        return None if self.scores is None else main_model(self.scores, self.wanted)


def previous_of(
    last_night: LastNight | None,
    scores: pa.Table,
    splits: pa.Table,
    model: str,
    gates: Sequence[GateEntry],
    resampling: Resampling,
) -> Previous | None:
    """How tonight's model stands to the version before.

    Test rows of both nights decide, where there are enough; else what `publish` measured on the
    last labelled days, with the matrix factorisation of both.

    Args:
        last_night: the version that tonight's follows; None for the first.
        scores: CTR_SCORES of tonight.
        splits: SPLITS of tonight.
        model: that the report is about.
        gates: of tonight's version.
        resampling: of the users, in pairs.
    """
    if last_night is None:
        return None
    found, why = None, last_night.why_no_scores
    if last_night.scores is not None and last_night.splits is not None:
        found, why = _paired(last_night, scores, splits, model, resampling)
    if found is not None:
        return found
    change, says = auc_change(gates)
    told = f"{why}; at the publication: {says}"
    if change:
        told = f"{says}, by the aligned MF of both, as measured at the publication ({why})"
    return Previous(
        version=last_night.version,
        day=last_night.day,
        basis="gate" if change else "none",
        says=told,
        n_rows=None,
        n_users=None,
        auc=change,
        uauc=None,
        tonight=None,
        before=None,
    )


def _paired(
    last_night: LastNight,
    scores: pa.Table,
    splits: pa.Table,
    model: str,
    resampling: Resampling,
) -> tuple[Previous | None, str]:
    """The comparison on common rows, or why there is none."""
    assert last_night.scores is not None
    assert last_night.splits is not None
    model_before = last_night.model
    if model_before is None:
        return None, "that night scored no row"
    tables = {
        "scores": scores,
        "splits": splits,
        "scores_before": last_night.scores,
        "splits_before": last_night.splits,
    }
    rows = query("report/scored_by_both", tables, model=model, model_before=model_before)
    users, labels = rows["user_id"].to_numpy(), rows["label"].to_numpy()
    logits, logits_before = (
        rows[name].to_numpy().astype(np.float64) for name in ("logit", "logit_before")
    )
    drawn = metrics.paired_user_bootstrap(
        users, labels, logits, logits_before, n=resampling.n, seed=resampling.seed
    )
    if drawn.auc is None or drawn.n_users < FEWEST_USERS:
        return None, f"{rows.num_rows} test rows of {drawn.n_users} users are common to both nights"
    tonight, before = (
        _side(title_of(name), rows, suffix)
        for name, suffix in ((model, ""), (model_before, "_before"))
    )
    return Previous(
        version=last_night.version,
        day=last_night.day,
        basis="scores",
        says=_said(rows, drawn.n_users),
        n_rows=rows.num_rows,
        n_users=drawn.n_users,
        auc=estimate_of(drawn.auc, drawn.n_users),
        uauc=estimate_of(drawn.uauc, drawn.n_users_counted),
        tonight=tonight,
        before=before,
    ), ""


def _said(rows: pa.Table, n_users: int) -> str:
    times = pc.min_max(rows["rated_at"])
    first, last = (times[name].as_py().date() for name in ("min", "max"))
    period = f"{first}" if first == last else f"{first} to {last}"
    return f"the {rows.num_rows:,} test rows of {n_users:,} users that both scored, {period}"


def _side(title: str, rows: pa.Table, suffix: str) -> Side:
    users, labels = rows["user_id"].to_numpy(), rows["label"].to_numpy()
    scores = rows[f"logit{suffix}"].to_numpy().astype(np.float64)
    probabilities = rows[f"probability{suffix}"].to_numpy().astype(np.float64)
    return Side(
        title=title,
        auc=metrics.auc(labels, scores),
        uauc=metrics.uauc(users, labels, scores)[0],
        log_loss=metrics.log_loss(labels, probabilities),
        ece=metrics.ece(labels, probabilities),
    )
