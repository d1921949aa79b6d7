"""Systems of the bench, fitted to what a night knew: what the product's version is held against."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.bench.evidence import BenchRows, bench_rows, by_time
from jobs.bench.protocols import as_of_midnight, evidence_of
from jobs.collab.baselines.registry import system_of
from jobs.collab.factors import Ints
from jobs.collab.systems import Catalogue, Evidence, Fitted, Histories, Requests
from jobs.home import Home
from jobs.report.controls import System
from jobs.score.calibration import sigmoid

SEED = 0


@dataclass(frozen=True)
class Fit:
    """A system as a midnight made it."""

    name: str
    title: str
    fitted: Fitted


@dataclass(frozen=True)
class Beside:
    """The systems of one night, and what they need to be asked.

    Attributes:
        rows: of the night.
        fits: one for each name.
    """

    rows: BenchRows
    fits: tuple[Fit, ...]

    def scores(self, requests: pa.Table) -> Iterator[System]:
        """What each system says of rows of SPLITS, which carry no label."""
        catalogue = self.rows.catalogue
        users = _numbers(requests["user_id"], self.rows.user_ids, catalogue.n_users)
        items = _numbers(requests["item_id"], self.rows.item_ids, catalogue.n_items)
        histories = with_strangers(self.rows.histories, int(users.max(initial=-1)) + 1)
        asked = Requests(
            users=users,
            items=items,
            times=requests["rated_at"].cast(pa.int64()).to_numpy(),
            history_ends=np.diff(histories.starts)[users],
        )
        for fit in self.fits:
            logits = fit.fitted.score(asked, histories).astype(np.float32)
            probabilities = sigmoid(logits).astype(np.float64)
            yield System(fit.name, fit.title, logits.astype(np.float64), probabilities)


def title_of(name: str) -> str:
    """What a table calls a system.

    Raises:
        JobError: no such system, or its library is not installed.
    """
    return system_of(name, {}).title


def fit_beside(names: Sequence[str], home: Home, night: date, requests: pa.Table) -> Beside:
    """Fit systems to the tables of a night.

    The number of passes is chosen on the night's valid rows; then all of the night's rows are
    fitted for so many, for a product throws no day away. A row sees what its own midnight knew.

    Args:
        names: in `jobs.collab.baselines.registry`.
        home: of the nights.
        night: whose tables.
        requests: rows that will be scored: whom the night does not know has a number all the same.

    Raises:
        JobError: no such system, or it cannot be fitted.
    """
    rows = as_of_midnight(bench_rows(home, night))
    n_users, n_items = (
        int(_numbers(requests[name], ids, len(ids)).max(initial=len(ids) - 1)) + 1
        for name, ids in (("user_id", rows.user_ids), ("item_id", rows.item_ids))
    )
    evidence = replace(
        evidence_of(rows),
        catalogue=_widened(rows.catalogue, n_users, n_items),
        histories=with_strangers(rows.histories, n_users),
    )
    return Beside(rows, tuple(_fit(name, evidence, rows) for name in names))


def _fit(name: str, evidence: Evidence, rows: BenchRows) -> Fit:
    system = system_of(name, {})
    chosen = system.fit(evidence, SEED)
    if not len(evidence.valid):
        return Fit(name, system.title, chosen)
    everything = replace(evidence, train=by_time(rows.rows), valid=evidence.valid.at(_NOTHING))
    n_epochs = chosen.n_epochs or None  # 0 where passes mean nothing
    return Fit(name, system.title, system.fit(everything, SEED, n_epochs))


_NOTHING = np.zeros(0, dtype=np.int64)


def _numbers(wanted: pa.ChunkedArray, known: pa.Array, n: int) -> Ints:
    """Numbers of ids; those that the night does not know are numbered on from `n`."""
    found = pc.index_in(wanted.combine_chunks(), value_set=known)
    unknown = pc.is_null(found)
    strangers = wanted.filter(unknown).combine_chunks().dictionary_encode()
    numbers = pc.fill_null(found, -1).to_numpy().astype(np.int64)
    numbers[unknown.to_numpy(zero_copy_only=False)] = n + strangers.indices.to_numpy()
    return numbers


def with_strangers(histories: Histories, n_users: int) -> Histories:
    """The same with users up to `n_users`, of whom nothing is known."""
    n_more = max(n_users - (len(histories.starts) - 1), 0)
    starts = np.append(histories.starts, np.repeat(histories.starts[-1], n_more))
    return replace(histories, starts=starts)


def _widened(catalogue: Catalogue, n_users: int, n_items: int) -> Catalogue:
    """The same up to these numbers: users without events, items without a text."""
    n_more = n_items - catalogue.n_items
    blank = np.zeros((n_more, catalogue.semantics.shape[1]), dtype=catalogue.semantics.dtype)
    groups = catalogue.groups.max(initial=-1) + 1 + np.arange(n_more)
    codes = np.zeros((n_more, catalogue.codes.shape[1]), dtype=catalogue.codes.dtype)
    return Catalogue(
        n_users=n_users,
        n_items=n_items,
        semantics=np.concatenate([catalogue.semantics, blank]),
        groups=np.concatenate([catalogue.groups, groups]),
        codes=np.concatenate([catalogue.codes, codes]),
    )
