"""How many items the night would embed, from the texts as they will be."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from embedding_store.errors import StoreError
from jobs.datasets import DOMAINS, ITEM_SEMANTICS, ITEM_TEXTS, ITEMS
from jobs.errors import JobError
from jobs.home import Home
from jobs.llm.backbone import is_at_hand
from jobs.llm.distil import DistilConfig
from jobs.llm.forecast import EmbeddingForecast, forecast
from jobs.night_flags import NightFlags
from jobs.plan.steps import Status, Step
from jobs.prepare.arrivals.arrivals import Source, ledger_of
from jobs.prepare.arrivals.new_items import read_new_catalogue
from jobs.prepare.arrivals.snapshot import rows_known
from jobs.prepare.ingest import IngestConfig, domain_table, source_of
from jobs.query import Limits, query


class NotYetKnown(Exception):
    """Why the number of items cannot be said before the night runs."""


def to_embed(night: NightFlags, steps: Mapping[str, Step], home: Home) -> EmbeddingForecast:
    """What `distil` would embed.

    Where the catalogue is yet to be ingested, those of its files that are new are read for it.

    Raises:
        NotYetKnown: the titles or the backbone are not there yet.
    """
    distil = steps["distil"]
    if distil.status is Status.UP_TO_DATE and distil.last is not None:
        n_items = int(distil.last.metrics.get("n_items", 0))
        return EmbeddingForecast(n_items, 0, 0, 0, ())
    config = DistilConfig.model_validate(_given(night))
    if not is_at_hand(config.model):
        raise NotYetKnown(f"the backbone {config.model} is not on this machine yet")
    try:
        texts = _texts(night, steps, home)
        return forecast(
            config,
            home,
            texts["item_id"].to_pylist(),
            texts["text"].to_pylist(),
            has_new_adapter=steps["adapt"].may_run and night.adapter == str(night.day),
            standing=_standing(distil, home.output(ITEM_SEMANTICS, night.day)),
        )
    except (JobError, StoreError) as error:
        raise NotYetKnown(str(error)) from error


def _standing(distil: Step, path: Path) -> dict[Any, str]:
    """Content keys of the night's own vectors, where they stand if their texts come out equal."""
    if distil.status is not Status.FOLLOWS or not path.is_file():
        return {}
    table = pq.read_table(path, columns=["item_id", "content_key"], partitioning=None)
    keys = table["content_key"].to_pylist()
    return dict(zip(table["item_id"].to_pylist(), keys, strict=True))


def _given(night: NightFlags) -> dict[str, object]:
    return {name: value for name, value in night.of("distil").items() if value is not None}


def _texts(night: NightFlags, steps: Mapping[str, Step], home: Home) -> pa.Table:
    """ITEM_TEXTS as they are, or as `item_texts` would make them."""
    if steps["item_texts"].status is Status.UP_TO_DATE:
        return _table(home.output(ITEM_TEXTS, night.day))
    if steps["ingest"].status is Status.UP_TO_DATE:
        items, domains = (_table(home.output(each, night.day)) for each in (ITEMS, DOMAINS))
    else:
        source = source_of(IngestConfig.model_validate(night.of("ingest")))
        items, domains = _catalogue(source, night.day, home), domain_table(source.mapping)
    return query("prepare/item_texts", {"items": items, "domains": domains})


def _table(path: Path) -> pa.Table:
    return pq.read_table(path, partitioning=None)


def _catalogue(source: Source, day: date, home: Home) -> pa.Table:
    """Items as `ingest` would know them on that day: what it has read, and the files it has not."""
    if source.mapping.title_column:
        raise NotYetKnown("the titles come from the events, which ingest has yet to read")
    ledger = ledger_of(source, home)
    with tempfile.TemporaryDirectory(prefix="tidemark-plan-") as folder:
        workspace = Path(folder)
        if day <= ledger.until:
            limits = Limits.from_environment()
            paths = tuple(rows_known(ledger, "catalogue", day, workspace, limits))
        else:
            after, mapping, root = ledger.until, source.mapping, source.root
            paths = read_new_catalogue(mapping, root, after, day, ledger, workspace).paths
        return query("prepare/catalogue", {"catalogue_rows": paths})
