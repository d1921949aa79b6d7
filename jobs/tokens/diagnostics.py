"""Where an LLM looks, what it needs, and in which layer its answer forms."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from embedding_store.errors import StoreError
from embedding_store.lookup import open_version
from jobs.datasets import (
    CONTROL_LOGITS,
    DOMAINS,
    HISTORIES,
    ITEM_TEXTS,
    LLM_DIAGNOSTICS,
    SPLITS,
    TOKEN_CONFIG,
)
from jobs.errors import JobError, NotAvailable
from jobs.home import Home
from jobs.job import Declared, Run, main
from jobs.llm.adapters import find_adapter, load_adapter
from jobs.llm.backbone import Backbone, load, resolve
from jobs.llm.diagnostics import LookConfig, asked, diagnostics_table, look
from jobs.llm.probing import Figure, Probe, Prompts
from jobs.llm.prompts import template_record
from jobs.llm.reading import Reader, ReadingConfig
from jobs.manifest import Artifact
from jobs.progress import progress
from jobs.score.calibration import Calibration
from jobs.tokens.interventions import interventions, planned, soft_probe
from jobs.tokens.soft_inputs import SoftInputs
from jobs.tokens.tune import control_offsets
from jobs.tokens.tuned import FILES, Tuned, TunedFiles


class DiagnosticsConfig(LookConfig, ReadingConfig):
    """Attention mass by kind of token, knockout windows and logit lens, layer by layer.

    Of a backbone that reads text, with an adapter or without; with --tuned or --version N of a
    system with soft tokens, read as tune read it, and then also what its answers lose when soft
    tokens are shuffled, averaged, unknown or out of sight.
    """

    packing: Literal["rows"] = Field(default="rows", description="one prompt a row")
    adapter: str | None = Field(
        default=None, description="a day on which adapt ran, or an adapter's folder"
    )
    tuned: bool = Field(
        default=False, description="look into what the day's tune made, soft tokens and all"
    )
    version: int | None = Field(
        default=None, gt=0, description="look into the tuned system of a published version"
    )
    intervention_rows: int = Field(
        default=512, ge=0, description="rows of a pass with other soft tokens; some 17; 0: none"
    )

    @property
    def is_of_tuned(self) -> bool:
        """Whether a system with soft tokens is looked into."""
        return self.tuned or self.version is not None

    @property
    def of_text(self) -> str | None:
        """A flag that is not at its default and that a tuned system answers by itself.

        Which fields were set says nothing: a command line sets all of them.
        """
        fields = type(self).model_fields
        names = sorted({*ReadingConfig.model_fields, "adapter"})
        changed = (each for each in names if getattr(self, each) != fields[each].get_default())
        return next(changed, None)


class Day(NamedTuple):
    """What prompts are made of."""

    splits: pa.Table
    histories: pa.Table
    texts: pa.Table
    noun: str

    @classmethod
    def of_run(cls, run: Run) -> Day:
        """The day's tables."""
        splits, histories, texts, domains = map(run.read, (SPLITS, HISTORIES, ITEM_TEXTS, DOMAINS))
        return cls(splits, histories, texts, domains["item_noun"][0].as_py())


@dataclass(frozen=True)
class System:
    """What is looked into.

    Attributes:
        probe: the model.
        prompts: rows to ask it about.
        soft: what its soft tokens come from; None: it reads text alone.
    """

    probe: Probe
    prompts: Prompts
    soft: SoftInputs | None = None


def job(config: DiagnosticsConfig, run: Run) -> None:
    """Look into the LLM while it answers rows of the day's splits."""
    _refuse_contradictions(config)
    system = tuned_system(config, run) if config.is_of_tuned else text_system(config, run)
    run.metric("n_rows", len(system.prompts.sequences))
    found = look(system.probe, system.prompts, config.knockout_rows)
    if system.soft is not None and config.intervention_rows:
        found += _interventions(config, system, system.soft)
    run.write(LLM_DIAGNOSTICS, diagnostics_table(found))


def _interventions(config: DiagnosticsConfig, system: System, soft: SoftInputs) -> list[Figure]:
    prompts = system.prompts.first(config.intervention_rows)
    passes = planned(system.probe, prompts, soft, config.seed)
    with progress("interventions", len(passes), "passes") as advance:
        return interventions(system.probe, soft, passes, advance)


def _refuse_contradictions(config: DiagnosticsConfig) -> None:
    if config.tuned and config.version is not None:
        raise JobError(
            f"--tuned and --version {config.version}: give one of them, the day's own tuned system "
            "or a published one"
        )
    if config.is_of_tuned and (flag := config.of_text) is not None:
        raise JobError(
            f"--{flag.replace('_', '-')} {getattr(config, flag)}: a tuned system is read as it was "
            "tuned; leave the flag out, or leave out --tuned and --version"
        )


# -- a backbone that reads text --------------------------------------------------------------------


def text_system(config: DiagnosticsConfig, run: Run) -> System:
    """The backbone, with an adapter or without, and prompts of the day.

    Raises:
        JobError: no rows, or model and adapter that are not there or do not fit.
    """
    day = Day.of_run(run)
    backbone = _backbone(config, run.home)
    if config.adapter is not None:
        load_adapter(backbone, find_adapter(config.adapter, run.home))
    reader = Reader(*day, backbone.tokenizer, config)
    prompts = _asked(config, run, reader, config, backbone)
    return System(Probe(backbone.model, reader.answers, batch_tokens=config.batch_tokens), prompts)


def _backbone(config: DiagnosticsConfig, home: Home) -> Backbone:
    return load(resolve(config.model, home.cache), config.device, config.dtype)


def _asked(
    config: DiagnosticsConfig,
    run: Run,
    reader: Reader,
    reading: ReadingConfig,
    backbone: Backbone,
    offsets: NDArray[np.float32] | None = None,
) -> Prompts:
    """Rows of the split, one prompt each, with the histories that `reading` shows."""
    rows = reader.rows(config.split, offsets=offsets, packing=reading.one_prompt_a_row())
    if not rows.sequences:
        raise JobError(f"--split {config.split}: {SPLITS.name} of {run.day} has no such rows")
    return asked(reader, rows, backbone, config.n_rows, config.seed)


# -- a tuned system --------------------------------------------------------------------------------


def tuned_system(config: DiagnosticsConfig, run: Run) -> System:
    """What `tune` made, of the day or of a version, and prompts with the histories it learned from.

    Raises:
        JobError: no rows, no such system, or another backbone than its own.
    """
    files = _tuned_files(config, run)
    tuned, day = Tuned(files, _backbone(config, run.home)), Day.of_run(run)
    reader, offsets = tuned.reader(*day), None
    if files.config["offset"] == "control":
        offsets = control_offsets(day.splits, run.read(CONTROL_LOGITS))
    prompts = _asked(config, run, reader, files.reading, tuned.backbone, offsets)
    if config.version is not None:  # as it is served
        version = open_version(run.home.store, config.version)
        prompts = replace(prompts, weight=Calibration.of_version(version).beside_control)
    soft = tuned.soft_inputs(reader)
    probe = soft_probe(tuned.backbone.model, reader.answers, soft, config.batch_tokens)
    return System(probe, prompts, soft)


def _tuned_files(config: DiagnosticsConfig, run: Run) -> TunedFiles:
    if config.version is None:
        return TunedFiles.of_run(run)
    try:
        version = open_version(run.home.store, config.version)
        if FILES[TOKEN_CONFIG.name] not in version.manifest.extra_files:
            raise NotAvailable(
                f"version {config.version} holds no tuned system, only factors and vectors; give a "
                "version that was published after tune, or --tuned for the day's own"
            )
        return TunedFiles.of_version(version)
    except StoreError as error:
        raise NotAvailable(str(error)) from error  # it names the version and those there are


def sources(config: DiagnosticsConfig, day: date, home: Home) -> Iterable[Path | Artifact]:
    """The record of the backbone's fingerprint, and of the template and adapter or the version."""
    files: list[Path | Artifact] = [resolve(config.model, home.cache).record]
    if not config.is_of_tuned:
        files.append(template_record(config.template, home.cache))
    if config.adapter is not None:
        files += find_adapter(config.adapter, home).sources
    if config.version is not None:
        files += _version_artifacts(config.version, home)
    return files


def _version_artifacts(number: int, home: Home) -> list[Artifact]:
    """Which content the number names: stores can be replaced."""
    try:
        version = open_version(home.store, number, verify="off")
    except StoreError:
        return []  # the job says what is wrong
    name = f"version {number}"
    return [Artifact(name=name, path=f"{home.store}#{number}", sha256=version.manifest_sha256)]


DECLARED = Declared("diagnostics", DiagnosticsConfig, job, sources=sources)

if __name__ == "__main__":
    main(DECLARED)
