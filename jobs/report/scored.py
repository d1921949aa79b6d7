"""The rows of a split and what every model and control says about them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.datasets import CTR_SCORES, SPLITS
from jobs.errors import NotAvailable
from jobs.report.controls import System, controls
from jobs.report.evaluate import ScoredRows
from jobs.report.models import in_order, title_of
from jobs.report.slices import Cuts, masks

JUDGED = ("valid", "test")
_OF_EVERY_VERSION = "mf"


@dataclass(frozen=True)
class Scored:
    """One split: rows that the model scored, and those rows of SPLITS.

    Attributes:
        rows: the model first, then other models, then controls.
        table: the same rows of SPLITS.
        n_models: how many of the systems are models.
    """

    rows: ScoredRows
    table: pa.Table
    n_models: int


def checked_scores(scores: pa.Table, version: int) -> None:
    """Two versions' scores never mix, and a report is about the version that it names.

    Raises:
        NotAvailable: the scores are of another version.
    """
    versions = pc.unique(scores["version"]).to_pylist()
    if set(versions) - {version}:
        raise NotAvailable(
            f"{CTR_SCORES.name} holds scores of version {versions}, the report was asked for "
            f"version {version}; run job 'score' with --version {version}, or give --version "
            f"{versions[0]} here"
        )


def chosen_model(scores: pa.Table, wanted: str | None) -> str:
    """The model that the report is about.

    Raises:
        NotAvailable: there are scores, and none of that model.
    """
    there = _models(scores)
    if not there:  # a night without rows to score
        return wanted or _OF_EVERY_VERSION
    if wanted is not None and wanted not in there:
        raise NotAvailable(
            f"{CTR_SCORES.name} holds scores of {', '.join(there)}, the report was asked for "
            f"{wanted}; run job 'score', or give another --model"
        )
    return wanted or there[0]


def scored_splits(
    splits: pa.Table, scores: pa.Table, model: str, cuts: Cuts
) -> tuple[dict[str, Scored], list[str]]:
    """Valid and test as `model` has scored them, with every model that scored those rows too.

    Returns:
        Splits by name, and what a reader must know of rows and models that are not among them.

    Raises:
        NotAvailable: scores of rows that SPLITS does not hold, or holds otherwise.
    """
    of_split = {split: _rows_of(splits, split) for split in ("train", *JUDGED)}
    answers = {
        name: {split: _answers(scores, name, split, of_split[split]) for split in JUDGED}
        for name in [model, *(each for each in _models(scores) if each != model)]
    }
    kept = {
        split: of_split[split].take(np.flatnonzero(answers[model][split] >= 0)) for split in JUDGED
    }
    judged, notes = [model], _unscored(of_split, kept, model)
    for name in [each for each in answers if each != model]:
        if all((answers[name][s][answers[model][s] >= 0] >= 0).all() for s in JUDGED):
            judged.append(name)
        else:
            notes.append(
                f"{title_of(name)} has not scored every row that {title_of(model)} has, "
                "so it is not judged."
            )
    found = {}
    for split in JUDGED:
        is_kept = answers[model][split] >= 0
        systems = tuple(
            _system(name, scores.take(answers[name][split][is_kept])) for name in judged
        )
        rows = _judged_rows(split, of_split["train"], kept[split], systems, cuts)
        found[split] = Scored(rows, kept[split], len(judged))
    return found, notes + _unlabelled(scores)


def _rows_of(table: pa.Table, split: str) -> pa.Table:
    rows = table.filter(pc.equal(table["split"], split))
    return rows.sort_by([("row", "ascending")])


def _models(scores: pa.Table) -> list[str]:
    return in_order(pc.unique(scores["model"]).to_pylist())


def _answers(scores: pa.Table, model: str, split: str, rows: pa.Table) -> np.ndarray:
    """(n,) place in `scores` of each row of a split; -1 where the model has not scored it.

    Raises:
        NotAvailable: a scored row is none of the split's, or reads otherwise.
    """
    wanted = pc.and_(pc.equal(scores["model"], model), pc.equal(scores["split"], split))
    places = np.flatnonzero(wanted.to_numpy(zero_copy_only=False))
    scored = scores.take(places)
    found = pc.index_in(rows["row"].combine_chunks(), value_set=scored["row"].combine_chunks())
    is_scored = found.is_valid().to_numpy(zero_copy_only=False)
    at = pc.fill_null(found, 0).to_numpy().astype(np.int64)
    same = rows.filter(pa.array(is_scored))
    for column in ("row", "user_id", "item_id", "label"):
        if same.num_rows != scored.num_rows or not same[column].equals(
            scored[column].take(pa.array(at[is_scored]))
        ):
            raise NotAvailable(
                f"{CTR_SCORES.name} and {SPLITS.name} differ in '{column}' of the {split} rows "
                f"({scored.num_rows} scored, {rows.num_rows} in the split); run job 'score' again"
            )
    answers = np.full(rows.num_rows, -1, np.int64)
    answers[is_scored] = places[at[is_scored]]
    return answers


def _system(name: str, scored: pa.Table) -> System:
    logits, probabilities = (
        scored[column].to_numpy().astype(np.float64) for column in ("logit", "probability")
    )
    return System(name, title_of(name), logits, probabilities)


def _judged_rows(
    split: str, train: pa.Table, rows: pa.Table, systems: tuple[System, ...], cuts: Cuts
) -> ScoredRows:
    users, items = (rows[name].to_numpy() for name in ("user_id", "item_id"))
    train_users, train_items = (train[name].to_numpy() for name in ("user_id", "item_id"))
    labels = train["label"].to_numpy()
    means = controls(train_users, train_items, labels, users, items) if len(labels) else ()
    return ScoredRows(
        split=split,
        users=users,
        labels=rows["label"].to_numpy(),
        days=rows["rated_at"].to_numpy().astype("datetime64[D]"),
        slices=masks(train_users, train_items, users, items, cuts),
        systems=(*systems, *means),
    )


def _unscored(of_split: dict[str, pa.Table], kept: dict[str, pa.Table], model: str) -> list[str]:
    return [
        f"{title_of(model)} has scored {kept[split].num_rows:,} of {of_split[split].num_rows:,} "
        f"{split} rows; every system is judged on those."
        for split in JUDGED
        if 0 < kept[split].num_rows < of_split[split].num_rows
    ]


def _unlabelled(scores: pa.Table) -> list[str]:
    """Candidates that nobody has answered yet: scored, and in no figure."""
    others = scores.filter(pc.invert(pc.is_in(scores["split"], value_set=pa.array(JUDGED))))
    if not others.num_rows:
        return []
    n_users = pc.count_distinct(others["user_id"]).as_py()
    n = others.num_rows // len(pc.unique(others["model"]))
    users = "1 user" if n_users == 1 else f"{n_users:,} users"
    return [f"{n:,} candidates of {users} have scores and no label yet: they are in no figure."]
