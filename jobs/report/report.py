"""The night's report: metrics.json, its schema and one page, from the tables and the version."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import date
from typing import Any

import pyarrow as pa
from pydantic import Field

from embedding_store.errors import StoreError
from embedding_store.lookup import Version, open_version
from jobs.datasets import (
    ADAPTER_CONFIG,
    ARRIVALS,
    CODEBOOK,
    CTR_SCORES,
    DOMAINS,
    EVENT_TOTALS,
    HISTORIES,
    ITEM_CODES,
    ITEM_SEMANTICS,
    ITEMS,
    LLM_DIAGNOSTICS,
    METRICS,
    METRICS_SCHEMA,
    QUARANTINED_EVENTS,
    REPORT,
    SPLITS,
    TOKEN_CONFIG,
    Dataset,
    Format,
)
from jobs.errors import NotAvailable
from jobs.home import Home
from jobs.job import Config, Declared, Run, is_checked, load_manifest, main
from jobs.launch import MODULES
from jobs.manifest import Artifact, Manifest, code_version
from jobs.report.cost import costs
from jobs.report.evaluate import Resampling
from jobs.report.item_map import Codes, MapOptions
from jobs.report.last_night import LastNight
from jobs.report.models import title_of
from jobs.report.night import About, NightTables, Options, night_metrics
from jobs.report.night_figures import NightMetrics, json_schema
from jobs.report.page import render
from jobs.report.prompt_text import wording
from jobs.score.calibration import Calibration
from jobs.score.ctr_scores import TUNED_FILE, is_of_the_same_version

_TUNED = ("distil", "align", "tune")  # the jobs whose config a reader asks for first
_SHOWN = 12  # characters of a hash
# Tables that a night may do without; a report that was made before one of them is made again.
_IF_MADE: tuple[Dataset, ...] = (CODEBOOK, LLM_DIAGNOSTICS, TOKEN_CONFIG, ADAPTER_CONFIG)


class ReportConfig(Config):
    """Which version the report is about, and how finely it looks."""

    version: int = Field(
        gt=0, description="version of the embedding store, by number", examples=[1]
    )
    previous_version: int | None = Field(
        default=None,
        gt=0,
        description="version to compare with; by default the one that the gates compared it with",
    )
    model: str | None = Field(
        default=None,
        description="mf, llm or fused: whom the verdict is about; by default the last there is",
    )
    n_resamples: int = Field(1000, ge=100, description="resamples of the users per interval")
    n_bins: int = Field(10, ge=2, description="calibration bins")
    n_probes: int = Field(6, ge=0, description="known items whose neighbours are shown")
    n_neighbours: int = Field(5, ge=1)
    n_misses: int = Field(6, ge=0, description="most wrong rows that are shown with their prompts")
    n_map_points: int = Field(600, ge=0, description="items drawn on the map, the best known ones")
    seed: int = 0


# -- the version ---------------------------------------------------------------------------------


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


def _is_tuned(version: Version) -> bool:
    return TUNED_FILE in version.manifest.extra_files


def _facts(version: Version, run: Run) -> dict[str, str]:
    facts = version_facts(version)
    for name in _TUNED if version.day == str(run.day) else ():
        if name == TOKEN_CONFIG.producer and not _is_tuned(version):
            continue  # an earlier run of the day left it, and published another version
        if manifest := load_manifest(run.home, name, run.day):
            settings = (f"{key} {_text(value)}" for key, value in manifest.config.items())
            facts[f"Config of {name}"] = ", ".join(settings)
    return facts | {"Reported by code": code_version()}


# -- the night before ----------------------------------------------------------------------------


def _number_before(version: Version, config: ReportConfig) -> int | None:
    return config.previous_version or version.manifest.reviewed_against


def last_night_of(version: Version, config: ReportConfig, home: Home) -> LastNight | None:
    """The version that this one follows, with what its night scored; None if it follows none."""
    number = _number_before(version, config)
    if number is None:
        return None
    try:
        before = open_version(home.store, number, verify="off")
    except StoreError as error:
        return LastNight(number, None, why_no_scores=str(error))
    day = date.fromisoformat(before.day)
    if why := _why_no_scores(before, home, day):
        return LastNight(number, day, why_no_scores=why)
    earlier = Run("report", day, config, home)  # not entered: a run that only reads needs no lock
    try:
        scores, splits = earlier.read(CTR_SCORES), earlier.read(SPLITS)
        return LastNight(number, day, scores, splits, wanted=config.model)
    except NotAvailable as error:
        return LastNight(number, day, why_no_scores=str(error))


def _why_no_scores(before: Version, home: Home, day: date) -> str:
    manifest = load_manifest(home, CTR_SCORES.producer, day)
    if manifest is None:
        return f"the rows of {day} were not scored"
    if manifest.result.get("version_sha256") != before.manifest_sha256:
        return f"the scores of {day} are not those of version {before.version}"
    return ""


def sources(config: ReportConfig, day: date, home: Home) -> list[Artifact]:
    """Tables of the night before, which its jobs may redo: the report is then made again."""
    try:
        version = open_version(home.store, config.version, verify="off")
        number = _number_before(version, config)
        before = open_version(home.store, number, verify="off") if number else None
    except StoreError:
        return []  # the job says which versions there are
    if before is None:
        return []
    earlier = date.fromisoformat(before.day)
    found = (_made(home, dataset, earlier) for dataset in (CTR_SCORES, SPLITS))
    return [artifact for artifact in found if artifact]


def _made(home: Home, dataset: Dataset, day: date) -> Artifact | None:
    manifest = load_manifest(home, dataset.producer, day)
    return manifest.output(dataset.name) if manifest else None


# -- reading -------------------------------------------------------------------------------------


def _read(version: Version, run: Run) -> NightTables:
    semantics = version[ITEM_SEMANTICS.name]
    return NightTables(
        scores=run.read(CTR_SCORES),
        splits=run.read(SPLITS),
        histories=run.read(HISTORIES),
        items=run.read(ITEMS),
        totals=run.read(EVENT_TOTALS),
        quarantined=run.read(QUARANTINED_EVENTS),
        arrivals=run.read(ARRIVALS),
        item_ids=semantics.ids.to_numpy(zero_copy_only=False),
        item_vectors=semantics.vectors,
        codes=_codes(version, run),
        diagnostics=_optional(LLM_DIAGNOSTICS, run),
    )


def _is_there(dataset: Dataset, home: Home, day: date) -> bool:
    """Whether a table that a night may do without was made, and has passed its checks."""
    if _made(home, dataset, day) is None:
        return False
    return dataset.format is not Format.PARQUET or is_checked(home, dataset, day)


def _optional(dataset: Dataset, run: Run) -> pa.Table | None:
    return run.read(dataset) if _is_there(dataset, run.home, run.day) else None


def _reading(version: Version, run: Run) -> dict[str, Any]:
    """How the LLM of the night reads rows, if it has learned to: as it was tuned, else adapted."""
    facts: dict[str, Any] = {}
    for dataset in (ADAPTER_CONFIG, TOKEN_CONFIG) if _is_tuned(version) else ():
        if _is_there(dataset, run.home, run.day):
            said = json.loads(run.locate(dataset).read_text(encoding="utf-8"))
            facts |= said.get("tidemark", said)  # what peft has no field for
    return facts


def _codes(version: Version, run: Run) -> Codes | None:
    """Codes of level 0 as published; what they stand for, if the night's codebook is theirs."""
    book = _optional(CODEBOOK, run)
    if ITEM_CODES.name not in version:
        return None
    table = version[ITEM_CODES.name].table()
    first = [codes[0] for codes in table["codes"].to_pylist()]
    titles: dict[int, list[str]] = {}
    rows = book.select(["level", "code", "top_titles"]).to_pylist() if book is not None else []
    for row in rows if version.day == str(run.day) else []:
        if row["level"] == 0:
            titles[row["code"]] = row["top_titles"]
    return Codes(dict(zip(table["item_id"].to_pylist(), first, strict=True)), titles)


def _manifests(run: Run) -> Iterable[Manifest]:
    """Of the night's jobs, in the order of the chain; not of this one, which is not done yet."""
    for name in MODULES:
        manifest = load_manifest(run.home, name, run.day) if name != run.job else None
        if manifest is not None:
            yield manifest


def _about(version: Version, config: ReportConfig, run: Run) -> About:
    domains = run.read(DOMAINS)
    codebook = load_manifest(run.home, CODEBOOK.producer, run.day)
    return About(
        day=run.day,
        domains=domains["domain"].to_pylist(),
        version=config.version,
        model=config.model,
        facts=_facts(version, run),
        gates=version.manifest.gates,
        last_night=last_night_of(version, config, run.home),
        wording=wording(_reading(version, run), domains["item_noun"][0].as_py()),
        cost=costs(_manifests(run)),
        codebook=codebook.metrics if codebook and version.day == str(run.day) else {},
        notes=_notes(version),
    )


def _notes(version: Version) -> list[str]:
    """What a reader must know of the version's blend."""
    blend = Calibration.of_version(version).models.get("fused")
    if blend is None or blend.coefficients[blend.inputs.index("llm")] > 0:
        return []
    return [
        f"{title_of('fused')} is {title_of('mf')} tonight: on the {blend.n_rows:,} valid rows that "
        f"the LLM was asked about it gets no weight ({blend.why})."
    ]


# -- the job -------------------------------------------------------------------------------------


def _record(night: NightMetrics, run: Run) -> None:
    """The headline figures for the manifest; what is not defined is left out."""
    own = night.find("test", "all", night.model)
    change = night.previous.auc if night.previous else None
    figures = {
        "test_auc": own.auc.value if own.auc else None,
        "test_uauc": own.uauc.value if own.uauc else None,
        "test_log_loss": own.log_loss,
        "test_ece": own.ece,
        "test_rows": own.n_rows,
        "test_users_counted": own.n_users_counted,
        "test_auc_change": change.value if change else None,
    }
    for name, value in figures.items():
        if value is not None:
            run.metric(name, value)


def job(config: ReportConfig, run: Run) -> None:
    """Judge the version on the night's rows and write it down, for machines and for people."""
    try:
        version = open_version(run.home.store, config.version)
        tables = _read(version, run)
        about = _about(version, config, run)
    except StoreError as error:
        raise NotAvailable(str(error)) from error  # it names the version and those there are
    options = Options(
        resampling=Resampling(config.n_resamples, config.seed),
        n_bins=config.n_bins,
        n_probes=config.n_probes,
        n_neighbours=config.n_neighbours,
        n_misses=config.n_misses,
        map=MapOptions(config.n_map_points, n_groups=5, n_names=12),
    )
    night = night_metrics(tables, about, options)
    run.write_text(METRICS, night.model_dump_json(indent=2) + "\n")
    run.write_text(METRICS_SCHEMA, json_schema())
    run.write_text(REPORT, render(night))
    _record(night, run)
    run.result = {
        "version": version.version,
        "version_sha256": version.manifest_sha256,
        "verdict": night.verdict.outcome.value,
        "verdict_on_control": night.control_verdict.outcome.value,
        "report": str(run.home.output(REPORT, run.day)),
    }


def intact(manifest: Manifest, home: Home) -> bool:
    """Whether the report is still about that version, and knows all that was made since."""
    day = date.fromisoformat(manifest.day)
    made = {each.name for each in _IF_MADE if _is_there(each, home, day)}
    return made <= {each.name for each in manifest.inputs} and is_of_the_same_version(
        manifest, home
    )


DECLARED = Declared("report", ReportConfig, job, sources=sources, intact=intact)

if __name__ == "__main__":
    main(DECLARED)
