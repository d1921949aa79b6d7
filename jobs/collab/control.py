"""What a system without an LLM says of every row: the control that an offset link learns on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from jobs.bench.evidence import SPLIT_NAMES, BenchRows, rows_read_by
from jobs.bench.protocols import evidence_of
from jobs.collab.baselines.out_of_fold import Folds, out_of_fold_logits
from jobs.collab.baselines.registry import system_of
from jobs.collab.factors import Floats, Ints
from jobs.collab.systems import Fitted, Requests
from jobs.datasets import CONTROL_LOGITS
from jobs.errors import JobError
from jobs.job import Config, Declared, Run, main
from jobs.report.metrics import auc, uauc

_TRAIN = SPLIT_NAMES[0]


class ControlConfig(Config):
    """Logits of a system without an LLM: of train rows out of fold, of others by the fit on train.

    A CPU job. The default is the best such system of the bench; `fold_in` costs a fifth less, is
    nearly as good and needs no LightGBM (docs/baselines.md, The control of an offset link).
    """

    system: str = Field(default="blend", description="short name of a system of the bench")
    settings: dict[str, Any] = Field(default={}, description="fields of its config, as JSON")
    user_folds: int = Field(default=4, gt=1, description="folds of users that train is held out by")
    time_blocks: int = Field(default=3, gt=0, description="blocks of time, of about equal rows")
    seed: int = Field(default=0, ge=0, description="of the fits and of who is in which fold")


def control_logits(
    config: ControlConfig, rows: BenchRows
) -> tuple[Mapping[str, Floats], Mapping[str, Floats]]:
    """The control's word on every row of the splits.

    Args:
        config: which system, and how train is held out.
        rows: of the home.

    Returns:
        Split -> (n,) logits in the order of its rows, with the histories that rows see; and of
        valid and test the same with histories that end where the split begins.

    Raises:
        JobError: no train rows, a system or settings there are not, fewer users than folds, or a
            fit that diverges.
    """
    system = system_of(config.system, config.settings)
    evidence = evidence_of(rows)
    fitted = system.fit(evidence, config.seed)
    folds = Folds(n_users=config.user_folds, n_blocks=config.time_blocks)
    held_out = out_of_fold_logits(system, evidence, config.seed, fitted.n_epochs or None, folds)
    train = np.empty_like(held_out)
    # Evidence is in order of time; rows of one moment keep their order (`by_time`).
    train[np.argsort(rows.of(_TRAIN).requests.times, kind="stable")] = held_out
    online, frozen = {_TRAIN: train}, {}
    for split in SPLIT_NAMES[1:]:
        requests = rows.of(split).requests
        online[split] = _scored(fitted, requests, rows)
        frozen[split] = _scored(fitted, frozen_requests(rows, split), rows)
    for split, logits in (*online.items(), *frozen.items()):
        _refuse_infinite(config, split, logits)
    return online, frozen


def frozen_requests(rows: BenchRows, split: str) -> Requests:
    """The split's rows, each seeing its user's positives of the splits before it and no others."""
    number = SPLIT_NAMES.index(split)
    earlier = rows.rows.at((rows.splits < number) & (rows.rows.labels == 1)).requests.users
    requests = rows.of(split).requests
    known = np.bincount(earlier, minlength=rows.catalogue.n_users)[requests.users]
    return replace(requests, history_ends=np.minimum(requests.history_ends, known))


def _scored(fitted: Fitted, requests: Requests, rows: BenchRows) -> Floats:
    return fitted.score(requests, rows.histories)


def _refuse_infinite(config: ControlConfig, split: str, logits: Floats) -> None:
    broken = np.flatnonzero(~np.isfinite(logits))
    if len(broken):
        raise JobError(
            f"{config.system} gives {split} row {broken[0]} the logit {logits[broken[0]]}, and "
            f"{len(broken)} of {len(logits)} rows none that is finite; change --settings"
        )


def control_table(
    rows: BenchRows, online: Mapping[str, Floats], frozen: Mapping[str, Floats]
) -> pa.Table:
    """CONTROL_LOGITS."""
    splits = [name for name in SPLIT_NAMES if len(online[name])]
    numbers: list[Ints] = [rows.numbers[rows.places(name)] for name in splits]
    names = np.repeat(splits, [len(each) for each in numbers])
    nothing = [np.full(len(online[name]), np.nan, np.float32) for name in splits]
    ends = [frozen.get(name, unknown) for name, unknown in zip(splits, nothing, strict=True)]
    return pa.table(
        {
            "split": pa.array(names, pa.string()),
            "row": pa.array(np.concatenate(numbers).astype(np.int32)),
            "logit": pa.array(np.concatenate([online[name] for name in splits])),
            "frozen_logit": pa.array(np.concatenate(ends), from_pandas=True),
        }
    )


def job(config: ControlConfig, run: Run) -> None:
    """Fit the control with and without each fold of train, and write what it says of every row."""
    rows = rows_read_by(run)
    n_fits = 1 + config.user_folds * config.time_blocks
    run.log.info("fitting", system=config.system, fits=n_fits, train_rows=len(rows.of(_TRAIN)))
    online, frozen = control_logits(config, rows)
    for split, logits in online.items():
        _measure(run, split, rows, logits)
    for split, logits in frozen.items():
        _measure(run, split, rows, logits, "frozen_")
    run.write(CONTROL_LOGITS, control_table(rows, online, frozen))


def _measure(run: Run, split: str, rows: BenchRows, logits: Floats, prefix: str = "") -> None:
    """AUC and UAUC of a split, where it has both classes."""
    given = rows.of(split)
    for name, value in (
        ("auc", auc(given.labels, logits)),
        ("uauc", uauc(given.requests.users, given.labels, logits)[0]),
    ):
        if value is not None:
            run.metric(f"{split}_{prefix}{name}", value)


DECLARED = Declared("control", ControlConfig, job)

if __name__ == "__main__":
    main(DECLARED)
