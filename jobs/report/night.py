"""A night's tables to its figures: everything that metrics.json says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from embedding_store.manifest import GateEntry
from jobs.report.data_quality import data_quality
from jobs.report.drift import code_drift, score_drift
from jobs.report.evaluate import Resampling
from jobs.report.gates import gates, vector_drift
from jobs.report.item_map import Codes, MapOptions, item_map
from jobs.report.judging import Judged
from jobs.report.last_night import LastNight, previous_of
from jobs.report.misses import misses
from jobs.report.models import title_of
from jobs.report.neighbours import Id, neighbourhoods
from jobs.report.night_figures import (
    Drift,
    ItemMap,
    JobCost,
    LayerFigure,
    Neighbourhood,
    NightMetrics,
    ScoreDrift,
)
from jobs.report.prompt_text import Wording
from jobs.report.scored import checked_scores, chosen_model, scored_splits
from jobs.report.slices import Cuts, slices
from jobs.report.verdicts import against_previous


@dataclass(frozen=True)
class NightTables:
    """What the report reads: the night's datasets, the version's item vectors and codes."""

    scores: pa.Table
    splits: pa.Table
    histories: pa.Table
    items: pa.Table
    totals: pa.Table
    quarantined: pa.Table
    arrivals: pa.Table
    item_ids: NDArray[np.generic]
    item_vectors: NDArray[np.float32]
    codes: Codes | None = None
    diagnostics: pa.Table | None = None


@dataclass(frozen=True)
class About:
    """What the report is about, and what others say of it.

    Attributes:
        day: the night.
        domains: names of the sources.
        version: number of the version.
        model: that the verdict is about; None: the main one there is.
        facts: what the version says of itself.
        gates: of the version.
        last_night: the version that it follows.
        wording: how a row becomes a prompt.
        cost: of the night's jobs.
        codebook: figures of the night's job `codebook`.
        notes: what a reader must know beside what the scores say of themselves.
    """

    day: date
    domains: Sequence[str]
    version: int
    model: str | None
    facts: dict[str, str]
    gates: Sequence[GateEntry]
    last_night: LastNight | None
    wording: Wording
    cost: list[JobCost]
    codebook: Mapping[str, float] = field(default_factory=dict)
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Options:
    """How many resamples, bins, neighbours, misses and points of the map."""

    resampling: Resampling
    n_bins: int
    n_probes: int
    n_neighbours: int
    n_misses: int
    map: MapOptions


def night_metrics(tables: NightTables, about: About, options: Options) -> NightMetrics:
    """Judge a night's models beside the controls and the night before, and its data.

    Raises:
        NotAvailable: the scores are not those of these rows or of this version.
    """
    checked_scores(tables.scores, about.version)
    model = chosen_model(tables.scores, about.model)
    train = tables.splits.filter(pc.equal(tables.splits["split"], "train"))
    cuts = Cuts.of(*(train[name].to_numpy() for name in ("user_id", "item_id")))
    found, notes = scored_splits(tables.splits, tables.scores, model, cuts)
    judged = Judged.of(found, options.resampling)
    figures = judged.figures(options.n_bins)
    title = f"Version {about.version} ({title_of(model)})"
    on_control = judged.verdict(title, figures["quality"], figures["comparisons"])
    previous = previous_of(
        about.last_night, tables.scores, tables.splits, model, about.gates, options.resampling
    )
    catalogue = _Catalogue.of(tables.items, train)
    test = found["test"]
    return NightMetrics(
        day=about.day,
        domain=", ".join(about.domains),
        version=about.version,
        model=model,
        facts=about.facts,
        verdict=against_previous(title, previous) if previous else on_control,
        control_verdict=on_control,
        previous=previous,
        notes=[*about.notes, *notes],
        slices=slices(cuts),
        drift=_drift(tables, about, model),
        gates=gates(about.gates),
        attention=_attention(tables.diagnostics),
        map=_map(tables, catalogue, options.map),
        neighbourhoods=_known_items(tables, catalogue, options),
        misses=misses(
            test.rows,
            test.table,
            judged.control,
            tables.histories,
            catalogue.titles,
            about.wording,
            options.n_misses,
        ),
        template=about.wording.template.name,
        data=data_quality(
            tables.totals, tables.quarantined, tables.items, tables.splits, tables.arrivals
        ),
        cost=about.cost,
        n_resamples=options.resampling.n,
        **figures,
    )


@dataclass(frozen=True)
class _Catalogue:
    titles: dict[Id, str]
    n_train_rows: dict[Id, int]

    @classmethod
    def of(cls, items: pa.Table, train: pa.Table) -> _Catalogue:
        named = items.select(["item_id", "title"]).to_pydict().values()
        counts = pc.value_counts(train["item_id"].combine_chunks())
        fields = (counts.field(place).to_pylist() for place in (0, 1))
        return cls(dict(zip(*named, strict=True)), dict(zip(*fields, strict=True)))


def _known_items(
    tables: NightTables, catalogue: _Catalogue, options: Options
) -> list[Neighbourhood]:
    return neighbourhoods(
        tables.item_ids,
        tables.item_vectors,
        catalogue.titles,
        catalogue.n_train_rows,
        n_probes=options.n_probes,
        n_neighbours=options.n_neighbours,
    )


def _map(tables: NightTables, catalogue: _Catalogue, options: MapOptions) -> ItemMap | None:
    return item_map(
        tables.item_ids,
        tables.item_vectors,
        catalogue.titles,
        catalogue.n_train_rows,
        tables.codes,
        options,
    )


def _drift(tables: NightTables, about: About, model: str) -> Drift | None:
    """What moved since the version before; None for the first version."""
    last_night = about.last_night
    if last_night is None:
        return None
    scores: ScoreDrift | None = None
    why = last_night.why_no_scores
    if last_night.scores is not None:
        scores = score_drift(
            _probabilities(tables.scores, model),
            _probabilities(last_night.scores, last_night.model),
        )
        why = "" if scores else "one of the two nights scored no test row"
    return Drift(
        scores=scores,
        why_no_scores=why,
        vectors=vector_drift(about.gates),
        codes=code_drift(about.codebook),
    )


def _probabilities(scores: pa.Table, model: str | None) -> NDArray[np.float64]:
    """Of the test rows, as one model gives them."""
    wanted = pc.and_(pc.equal(scores["split"], "test"), pc.equal(scores["model"], model or ""))
    return scores.filter(wanted)["probability"].to_numpy().astype(np.float64)


def _attention(diagnostics: pa.Table | None) -> list[LayerFigure]:
    rows = diagnostics.to_pylist() if diagnostics is not None else []
    return [LayerFigure.model_validate(row) for row in rows]
