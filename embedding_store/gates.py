"""Gates: what a candidate's written bytes must show before an alias moves to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from embedding_store.alignment import Alignment, align, shared_rows
from embedding_store.certificate import certify, neighbour_sets
from embedding_store.manifest import Certificate, GateEntry
from embedding_store.review import Review
from embedding_store.search import SearchableSet, SearchableVersion
from embedding_store.tables import row_norms

_SEED = 20_240_229
_OVERLAP_ROWS = 100_000  # among so many shared rows are neighbours looked for
_OVERLAP_QUERIES = 300
_NO_VERSION = "no version to compare with"


class Thresholds(BaseModel):
    """When a candidate is refused. Comparisons are with the version that it would replace."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_coverage: float = Field(
        default=0.9,
        description="share of the catalogue's and of the other version's ids in each table",
    )
    max_zero_share: float = Field(
        default=0.5, description="share of a table's vectors that are zero"
    )
    max_norm_ratio: float = Field(
        default=100.0, description="a table's longest vector over its median"
    )
    max_mean_cosine: float = Field(
        default=0.999, description="mean cosine of all pairs of a table; 1 is a collapsed table"
    )
    max_norm_shift: float = Field(
        default=10.0, description="median norm over the other version's, either way"
    )
    max_mean_shift: float = Field(
        default=1.0,
        description="distance of the mean vectors after alignment, in root mean square norms",
    )
    min_overlap: float = Field(
        default=0.5,
        description="mean share of a vector's ten neighbours that it has in both versions",
    )
    min_recall: float = Field(
        default=0.9, description="of an index: where the 99 % interval of its recall begins"
    )


@dataclass(frozen=True)
class ReviewPlan:
    """What there is to compare in a publication.

    Attributes:
        thresholds: when to refuse.
        catalogue: table with the ids that all tables with its key should hold.
        groups: tables that are aligned and compared with the other version; those of one group
            share a rotation, see `alignment.align`.
        queries: of an indexed table, the table whose vectors search it; itself if not named.
        min_overlap: of some groups, instead of the threshold for all; 0 only reports it.
    """

    thresholds: Thresholds = field(default_factory=Thresholds)
    catalogue: str | None = None
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)
    queries: Mapping[str, str] = field(default_factory=dict)
    min_overlap: Mapping[str, float] = field(default_factory=dict)


def review(
    candidate: SearchableVersion, reference: SearchableVersion | None, plan: ReviewPlan
) -> Review:
    """Run every gate over a candidate as it is written, and align it.

    Args:
        candidate: read from the disk by the reader that everybody has.
        reference: the version that it would replace; None for the first, which no gate fails
            for lack of one.
        plan: what to compare, and the thresholds.
    """
    alignment = align(candidate, reference, plan.groups) if reference else None
    certificates = {
        index.table: certify(candidate, index.table, queries=plan.queries.get(index.table))
        for index in candidate.manifest.indexes
    }
    return Review(
        gates=[
            *coverage_gates(candidate, reference, plan),
            *norm_gates(candidate, plan.thresholds),
            *drift_gates(candidate, reference, alignment, plan),
            *recall_gates(certificates, plan.thresholds),
        ],
        certificates=certificates,
        alignment=alignment,
        reference=reference.version if reference else None,
    )


# -- coverage ------------------------------------------------------------------------------------


def coverage_gates(
    candidate: SearchableVersion, reference: SearchableVersion | None, plan: ReviewPlan
) -> Iterator[GateEntry]:
    """Whether each table holds the ids of the catalogue and of the version before."""
    least = plan.thresholds.min_coverage
    catalogue = candidate[plan.catalogue] if plan.catalogue else None
    for name in candidate:
        table = candidate[name]
        if catalogue is not None and name != plan.catalogue and table.key == catalogue.key:
            share, says = _held(table, catalogue)
            yield at_least(f"catalogue.{name}", share, least, f"{says} of {plan.catalogue}")
        if reference is None:
            yield at_least(f"coverage.{name}", None, least, _NO_VERSION)
        elif name in reference:
            share, says = _held(table, reference[name])
            yield at_least(
                f"coverage.{name}", share, least, f"{says} of version {reference.version}"
            )


def _held(table: SearchableSet, other: SearchableSet) -> tuple[float, str]:
    """The share of the other's ids that a table holds."""
    if table.ids.type != other.ids.type:
        return 0.0, f"its ids are {table.ids.type}, not {other.ids.type} as those"
    n_held = len(shared_rows(table, other)[0])
    return n_held / len(other), f"holds {n_held} of {len(other)} ids"


# -- norms ---------------------------------------------------------------------------------------


def norm_gates(candidate: SearchableVersion, thresholds: Thresholds) -> Iterator[GateEntry]:
    """Whether the vectors of each table are finite, neither lost nor collapsed nor runaway."""
    for name in candidate:
        if candidate[name].dim is None:
            continue
        vectors = candidate[name].vectors
        norms = row_norms(vectors)
        n_broken = int((~np.isfinite(norms)).sum())
        yield at_most(
            f"finite.{name}", float(n_broken), 0.0, f"{n_broken} vectors hold NaN or infinity"
        )
        if n_broken:
            continue
        n_zero = int((norms == 0).sum())
        yield at_most(
            f"zero.{name}", n_zero / len(norms), thresholds.max_zero_share, f"{n_zero} zero vectors"
        )
        median = _median(norms)
        ratio = float(norms.max()) / median if median else 0.0
        says = f"median {median:.4g}, longest {norms.max():.4g}"
        yield at_most(f"norms.{name}", ratio, thresholds.max_norm_ratio, says)
        cosine = mean_cosine(vectors, norms)
        yield at_most(f"collapse.{name}", cosine, thresholds.max_mean_cosine, "mean cosine")


def _median(norms: np.ndarray) -> float:
    """Median length of the vectors that have one; 0 if none has."""
    return float(np.median(norms[norms > 0])) if (norms > 0).any() else 0.0


def mean_cosine(vectors: np.ndarray, norms: np.ndarray) -> float:
    """Mean cosine over all pairs of different non-zero rows of (n, d); 0 with fewer than two.

    The sum over all pairs is ||sum of unit rows||^2, in linear time.
    """
    total, n = np.zeros(vectors.shape[1]), int((norms > 0).sum())
    for start in range(0, len(vectors), _OVERLAP_ROWS):
        rows = slice(start, start + _OVERLAP_ROWS)
        lengths = np.where(norms[rows] > 0, norms[rows], 1.0)
        total += (vectors[rows].astype(np.float64) / lengths[:, None]).sum(axis=0)
    return float((total @ total - n) / (n * (n - 1))) if n > 1 else 0.0


# -- drift ---------------------------------------------------------------------------------------


def drift_gates(
    candidate: SearchableVersion,
    reference: SearchableVersion | None,
    alignment: Alignment | None,
    plan: ReviewPlan,
) -> Iterator[GateEntry]:
    """How far the aligned tables moved: lengths, means, and who is whose neighbour."""
    for group, tables in plan.groups.items():
        least = plan.min_overlap.get(group, plan.thresholds.min_overlap)
        thresholds = plan.thresholds.model_copy(update={"min_overlap": least})
        # Another model or dimension is a decision, not drift: it is said, not refused.
        why = f"not comparable: {alignment.entry.skipped.get(group)}" if alignment else _NO_VERSION
        for name in tables:
            if reference is None or alignment is None or group in alignment.entry.skipped:
                yield at_least(f"overlap.{name}", None, least, why)
            else:
                rotation = alignment.rotations[group]
                yield from _drift(candidate[name], reference[name], rotation, thresholds)


def _drift(
    mine: SearchableSet, theirs: SearchableSet, rotation: np.ndarray, thresholds: Thresholds
) -> Iterator[GateEntry]:
    name, beside = mine.name, f"version {theirs.version}"
    norms, before = row_norms(mine.vectors), row_norms(theirs.vectors)
    now, then = _median(norms), _median(before)
    ratio = max(now / then, then / now) if now and then else (1.0 if now == then else np.inf)
    says = f"median norm {now:.4g}, {beside} {then:.4g}"
    yield at_most(f"norm_shift.{name}", ratio, thresholds.max_norm_shift, says)
    moved = mean_shift(mine.vectors, theirs.vectors, rotation)
    yield at_most(f"mean_shift.{name}", moved, thresholds.max_mean_shift, f"against {beside}")
    overlap, n = neighbour_overlap(mine, theirs)
    says = f"share of the 10 nearest kept since {beside}, over {n} vectors"
    yield at_least(f"overlap.{name}", overlap if n else None, thresholds.min_overlap, says)


def mean_shift(mine: np.ndarray, theirs: np.ndarray, rotation: np.ndarray) -> float:
    """||mean(theirs) @ rotation - mean(mine)|| / root mean square norm of theirs."""
    gap = theirs.mean(axis=0, dtype=np.float64) @ rotation - mine.mean(axis=0, dtype=np.float64)
    size = float(np.sqrt((row_norms(theirs) ** 2).mean()))
    return float(np.linalg.norm(gap)) / size if size else 0.0


def neighbour_overlap(mine: SearchableSet, theirs: SearchableSet, k: int = 10) -> tuple[float, int]:
    """Mean share of the k nearest neighbours that shared vectors have in both versions.

    Neighbours are looked for by exact search among the shared ids (at most 100,000 of them, drawn
    at random), so that new and gone ids do not count. A rotation would not change them.

    Returns:
        The mean share, and over how many vectors; (1.0, 0) if there are no two shared ids.
    """
    rows, _ = shared_rows(mine, theirs)
    random = np.random.default_rng(_SEED)
    if len(rows) > _OVERLAP_ROWS:
        rows = np.sort(random.choice(rows, _OVERLAP_ROWS, replace=False))
    if len(rows) < 2:
        return 1.0, 0
    among = mine.ids.take(pa.array(rows))
    drawn = random.choice(len(rows), min(_OVERLAP_QUERIES, len(rows)), replace=False)
    asking = among.take(pa.array(np.sort(drawn)))
    now, then = (
        neighbour_sets(side.search(ids=asking, k=k, exact=True, within=among))
        for side in (mine, theirs)
    )
    shares = [len(now[one] & then[one]) / len(now[one]) for one in asking.to_pylist()]
    return float(np.mean(shares)), len(asking)


# -- recall --------------------------------------------------------------------------------------


def recall_gates(
    certificates: Mapping[str, Certificate], thresholds: Thresholds
) -> Iterator[GateEntry]:
    """Whether each index finds what exact search finds."""
    for table, found in certificates.items():
        says = (
            f"recall@{found.k} is {found.recall:.4f} on {found.n_queries} of {found.n_rows} "
            f"queries, {found.confidence:.0%} interval {found.low:.4f} to {found.high:.4f}"
        )
        yield at_least(f"recall.{table}", found.low, thresholds.min_recall, says)


# -- one gate ------------------------------------------------------------------------------------


def at_least(name: str, value: float | None, bound: float, says: str) -> GateEntry:
    """A gate that a value below `bound` fails; None, what could not be measured, passes."""
    passed = value is None or value >= bound
    return GateEntry(name=name, passed=passed, value=_plain(value), at_least=bound, says=says)


def at_most(name: str, value: float | None, bound: float, says: str) -> GateEntry:
    """A gate that a value above `bound` fails; None, what could not be measured, passes."""
    passed = value is None or value <= bound
    return GateEntry(name=name, passed=passed, value=_plain(value), at_most=bound, says=says)


def _plain(value: float | None) -> float | None:
    """JSON has no infinity; the largest number stands for it."""
    return None if value is None else float(min(value, np.finfo(np.float64).max))
