"""The night's report: metrics.json and one page, from the scores, the tables and the version."""

from __future__ import annotations

import json
from typing import Literal

from pydantic import Field

from embedding_store.errors import StoreError
from embedding_store.lookup import Version, open_version
from jobs.datasets import (
    CTR_SCORES,
    DOMAINS,
    EVENT_TOTALS,
    ITEM_SEMANTICS,
    ITEMS,
    METRICS,
    QUARANTINED_EVENTS,
    REPORT,
    SPLITS,
)
from jobs.errors import NotAvailable
from jobs.job import Config, Run, load_manifest, main
from jobs.manifest import code_version
from jobs.report.evaluate import Resampling
from jobs.report.figures import NightMetrics
from jobs.report.night import NightTables, Options, night_metrics
from jobs.report.page import render
from jobs.score.ctr_scores import is_of_the_same_version

_TUNED = ("distil", "align")  # the jobs whose config a reader asks for first
_SHOWN = 12  # characters of a hash


class ReportConfig(Config):
    """Which version the report is about, and how finely it looks."""

    version: int = Field(
        gt=0, description="version of the embedding store, by number", examples=[1]
    )
    model: Literal["mf"] = "mf"
    n_resamples: int = Field(1000, ge=100, description="resamples of the users per interval")
    n_bins: int = Field(10, ge=2, description="calibration bins")
    n_probes: int = Field(6, ge=0, description="known items whose neighbours are shown")
    n_neighbours: int = Field(5, ge=1)
    seed: int = 0


def version_facts(version: Version) -> dict[str, str]:
    """What the version says of itself, in the words of a reader; no clock, no machine."""
    tables = {name: version[name] for name in version}
    sizes = {
        name: f"{len(table):,} rows" + (f", {table.dim} dimensions" if table.dim else "")
        for name, table in tables.items()
    }
    parent = version.manifest.parent
    return {
        "Version": f"{version.version}"
        + (f", after version {parent.version}" if parent else ", the first"),
        "As of": f"{version.day}, 00:00 UTC; the day itself is unseen",
        **{f"Space: {name}": _text(value) for name, value in sorted(version.space.items())},
        **{f"Table {name}": size for name, size in sizes.items()},
        "Run key": version.manifest.run_key[:_SHOWN],
        "Published by code": _text(version.manifest.env.get("code_version", "not recorded")),
    }


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _facts(version: Version, run: Run) -> dict[str, str]:
    facts = version_facts(version)
    for name in _TUNED if version.day == str(run.day) else ():
        if manifest := load_manifest(run.home, name, run.day):
            settings = (f"{key} {_text(value)}" for key, value in manifest.config.items())
            facts[f"Config of {name}"] = ", ".join(settings)
    return facts | {"Reported by code": code_version()}


def _read(version: Version, run: Run) -> NightTables:
    semantics = version[ITEM_SEMANTICS.name]
    return NightTables(
        scores=run.read(CTR_SCORES),
        splits=run.read(SPLITS),
        items=run.read(ITEMS),
        totals=run.read(EVENT_TOTALS),
        quarantined=run.read(QUARANTINED_EVENTS),
        item_ids=semantics.ids.to_numpy(zero_copy_only=False),
        item_vectors=semantics.vectors,
    )


def _record(night: NightMetrics, run: Run) -> None:
    """The headline figures for the manifest; what is not defined is left out."""
    own = night.find("test", "all", night.model)
    figures = {
        "test_auc": own.auc.value if own.auc else None,
        "test_uauc": own.uauc.value if own.uauc else None,
        "test_log_loss": own.log_loss,
        "test_ece": own.ece,
        "test_rows": own.n_rows,
        "test_users_counted": own.n_users_counted,
    }
    for name, value in figures.items():
        if value is not None:
            run.metric(name, value)


def job(config: ReportConfig, run: Run) -> None:
    """Judge the version on the night's rows and write it down, for machines and for people."""
    try:
        version = open_version(run.home.store, config.version)
        tables = _read(version, run)
        facts = _facts(version, run)
    except StoreError as error:
        raise NotAvailable(str(error)) from error  # it names the version and those there are
    night = night_metrics(
        tables,
        day=run.day,
        domains=run.read(DOMAINS)["domain"].to_pylist(),
        version=config.version,
        model=config.model,
        facts=facts,
        options=Options(
            resampling=Resampling(config.n_resamples, config.seed),
            n_bins=config.n_bins,
            n_probes=config.n_probes,
            n_neighbours=config.n_neighbours,
        ),
    )
    run.write_text(METRICS, night.model_dump_json(indent=2) + "\n")
    run.write_text(REPORT, render(night))
    _record(night, run)
    run.result = {
        "version": version.version,
        "version_sha256": version.manifest_sha256,
        "verdict": night.verdict.outcome.value,
        "report": str(run.home.output(REPORT, run.day)),
    }


if __name__ == "__main__":
    main("report", ReportConfig, job, intact=is_of_the_same_version)
