"""Logits of candidates by the tuned LLM of a version: in shards of whole users that resume."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from embedding_store.lookup import Version
from jobs.datasets import CONTROL_LOGITS, DOMAINS, HISTORIES, ITEM_TEXTS, SPLITS
from jobs.errors import NotAvailable
from jobs.home import Home
from jobs.job import Run
from jobs.llm.backbone import (
    BackboneError,
    BackboneFiles,
    chosen_device,
    load,
    resolve,
)
from jobs.llm.estimate import peak_memory_bytes
from jobs.llm.events import SPLIT_ORDER
from jobs.llm.fingerprint import sha256_json
from jobs.llm.processes import Processes, from_environment
from jobs.llm.prompts import template_record
from jobs.llm.reading import Reader
from jobs.llm.scoring import KeptParts
from jobs.llm.sequences import refuse_too_long
from jobs.llm.shared_parts import Scored, score_parts, users_together
from jobs.llm.training import Rows
from jobs.score.calibration import Calibration
from jobs.tokens.tuned import Tuned, TunedFiles

if TYPE_CHECKING:
    from jobs.score.ctr_scores import ScoreConfig

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


class Reads(Protocol):
    """What makes packed sequences of tables, for instance a tuned LLM."""

    def reader(self, splits: pa.Table, histories: pa.Table, texts: pa.Table, noun: str) -> Reader:
        """Of rows as SPLITS holds them."""


class DayTables(NamedTuple):
    """What a day says of the rows of its candidates."""

    splits: pa.Table
    histories: pa.Table
    texts: pa.Table
    noun: str


class Asked(NamedTuple):
    """Candidates as sequences.

    Attributes:
        reader: what packed them.
        rows: packed.
        candidates: of each row that an answer can name, which candidate it is; -1: none.
    """

    reader: Reader
    rows: Rows
    candidates: Ints


def asked_of(candidates: pa.Table, reads: Reads, day: DayTables, offsets: Floats | None) -> Asked:
    """The sequences that answer every candidate once.

    Args:
        candidates: CANDIDATES.
        reads: the LLM that is to score them.
        day: tables of the same day.
        offsets: (n rows of SPLITS,) logits of a control that the LLM's are on top of.

    Raises:
        NotAvailable: proposed candidates would need the control's logits, which only rows of
            SPLITS have.
    """
    names = pc.unique(candidates["split"]).to_pylist()
    if set(names) <= set(SPLIT_ORDER):
        reader = reads.reader(*day)
        read = [reader.rows(name, offsets=offsets) for name in names]
        sequences = [sequence for each in read for sequence in each.sequences]
        rows = replace(read[0], sequences=sequences) if read else reader.rows("test")
        return Asked(reader, rows, _places(day.splits, candidates))
    if offsets is not None:
        raise NotAvailable(
            "the version's LLM was tuned on top of a control's logits, which exist for rows of "
            "splits alone: take candidates --of rows, or tune with --offset none"
        )
    reader = reads.reader(with_proposed(day.splits, candidates), *day[1:])
    before = np.full(day.splits.num_rows, -1)
    which = np.concatenate([before, np.arange(candidates.num_rows)])
    return Asked(reader, reader.rows("test"), which)


def _places(splits: pa.Table, candidates: pa.Table) -> Ints:
    """Of each row of SPLITS, which candidate it is; -1 for none."""
    numbered = candidates.select(["split", "row"]).append_column(
        "candidate", pa.array(np.arange(candidates.num_rows))
    )
    keyed = splits.select(["split", "row"]).append_column(
        "place", pa.array(np.arange(splits.num_rows))
    )
    joined = keyed.join(numbered, keys=["split", "row"], join_type="inner")
    places = np.full(splits.num_rows, -1)
    places[joined["place"].to_numpy()] = joined["candidate"].to_numpy()
    return places


def with_proposed(splits: pa.Table, candidates: pa.Table) -> pa.Table:
    """SPLITS as train rows, in the order in which they happened, and the candidates as test rows.

    So a candidate sees all that the day knows, under any protocol of histories, and nobody else's
    row is asked for. A candidate's label, which nobody knows, is written as 0: no row sees it.
    """
    split = pc.index_in(splits["split"], value_set=pa.array(SPLIT_ORDER)).to_numpy()
    order = np.lexsort((splits["row"].to_numpy(), split))
    numbers = np.empty(len(order), np.int32)
    numbers[order] = np.arange(len(order), dtype=np.int32)
    n = candidates.num_rows
    asked = {
        "split": pa.repeat(pa.scalar("test"), n),
        "row": candidates["row"],
        "label": pa.repeat(pa.scalar(0, pa.int8()), n),
    }
    known = {"split": pa.repeat(pa.scalar("train"), splits.num_rows), "row": pa.array(numbers)}
    return pa.concat_tables(
        [
            pa.table({name: fixed.get(name, rows[name]) for name in SPLITS.columns or ()})
            for rows, fixed in ((splits, known), (candidates, asked))
        ]
    )


# -- the job's part --------------------------------------------------------------------------------


def llm_logits(config: ScoreConfig, run: Run, version: Version, candidates: pa.Table) -> Floats:
    """(n,) logit of each candidate by the version's tuned LLM.

    In several processes each scores its share of the shards and the first has the scores; in the
    others they stay NaN.

    Raises:
        JobError: the backbone is another one than the version's, or not here, or a prompt is
            longer than it reads.
    """
    logits = np.full(candidates.num_rows, np.nan, np.float32)
    if not len(logits):
        return logits
    processes = from_environment()
    device = chosen_device(config.device)
    if device.type == "cuda" and device.index is None:
        device = chosen_device(f"cuda:{processes.local_rank}")
    files = TunedFiles.of_version(version)
    tuned = Tuned(files, load(_backbone(config, files, run.home), str(device), config.dtype))
    day, offsets = _day(run), None
    if files.config["offset"] == "control":
        offsets = control_offsets(day.splits, candidates, run.read(CONTROL_LOGITS))
    asked = asked_of(candidates, tuned, day, offsets)
    model: Any = tuned.backbone.model
    refuse_too_long(asked.rows.sequences, tuned.backbone.files.name, model.config)
    scored = _in_shards(config, run, version, tuned, asked, processes, device)
    if scored is not None:
        at = asked.candidates[scored.rows]
        logits[at] = scored.logits
        if offsets is not None:
            weight = np.float32(Calibration.of_version(version).beside_control)
            logits[at] = offsets[scored.rows] + weight * scored.logits
        run.metric("peak_memory_bytes", peak_memory_bytes(device))
    return logits


def _in_shards(
    config: ScoreConfig,
    run: Run,
    version: Version,
    tuned: Tuned,
    asked: Asked,
    processes: Processes,
    device: torch.device,
) -> Scored | None:
    """All shards, those left out that an earlier run has done."""
    said = {
        "version": version.manifest_sha256,
        "inputs": {each.name: each.sha256 for each in run.inputs},
        "dtype": str(tuned.backbone.model.dtype),
        "batch_tokens": config.batch_tokens,
        "shard_tokens": config.shard_tokens,
    }
    folder = run.home.run(run.job, run.day) / "shards"
    kept = KeptParts(folder, sha256_json(said)[:32])
    shards = users_together(asked.rows.sequences, asked.rows.users, config.shard_tokens)

    def going_on(n_done: int) -> None:
        run.log.info("going on", shards_done=n_done, shards=len(shards))

    with tuned.scorer(asked.reader, config.batch_tokens, run.log.warning) as scorer:
        scored = score_parts(
            run.job,
            shards,
            kept,
            scorer.score,
            processes=processes,
            device=device,
            going_on=going_on,
        )
    if scored is not None:
        run.discard(folder)
        _measure(run, asked.rows, len(shards), scored)
    return scored


def _measure(run: Run, rows: Rows, n_shards: int, scored: Scored) -> None:
    n_tokens = sum(rows.lengths)
    run.metric("n_shards", n_shards)
    run.metric("n_tokens", n_tokens)
    run.metric("tokens_per_1000_rows", 1_000 * n_tokens / max(rows.n_answers, 1))
    if scored.n_tokens:
        run.metric("tokens_per_s", scored.n_tokens / scored.seconds)


def _day(run: Run) -> DayTables:
    splits, histories, texts, domains = map(run.read, (SPLITS, HISTORIES, ITEM_TEXTS, DOMAINS))
    return DayTables(splits, histories, texts, domains["item_noun"][0].as_py())


def control_offsets(splits: pa.Table, candidates: pa.Table, control: pa.Table) -> Floats:
    """(n rows of SPLITS,) the control's logit of each; zero where it has none.

    Raises:
        NotAvailable: it has none of a candidate; names it.
    """
    keyed = splits.select(["split", "row"]).append_column(
        "place", pa.array(np.arange(splits.num_rows))
    )
    joined = keyed.join(control, keys=["split", "row"], join_type="inner")
    offsets = np.zeros(splits.num_rows, np.float32)
    at = joined["place"].to_numpy()
    offsets[at] = joined["logit"].to_numpy()
    lacks = _places(splits, candidates) >= 0
    lacks[at] = False
    if lacks.any():
        row = keyed.slice(int(np.argmax(lacks)), 1).to_pylist()[0]
        raise NotAvailable(
            f"{CONTROL_LOGITS.name} has no logit of {lacks.sum()} candidates, for instance of "
            f"{row['split']} row {row['row']}, and the version's LLM was tuned on top of them; run "
            "job 'control' of the day"
        )
    return offsets


def _backbone(config: ScoreConfig, files: TunedFiles, home: Home) -> BackboneFiles:
    wanted: dict[str, Any] = files.config["backbone"]
    try:
        found = resolve(config.backbone or wanted["name"], home.cache)
    except BackboneError as error:
        if config.backbone is not None:
            raise
        raise NotAvailable(
            f"the version was tuned in backbone {wanted['name']}, which is not found by that name "
            f"({error}); say where it is with --backbone"
        ) from error
    if found.fingerprint != wanted["fingerprint"]:
        raise NotAvailable(
            f"the version was tuned in backbone {wanted['name']} ({wanted['fingerprint'][:12]}...),"
            f" not in {found.name} ({found.fingerprint[:12]}...); give that one as --backbone"
        )
    return found


def records(config: ScoreConfig, version: Version, home: Home) -> Iterable[Path]:
    """Small files that change when the backbone or the template of the version's LLM does."""
    files = TunedFiles.of_version(version)
    template = files.config["reading"]["template"]
    return [_backbone(config, files, home).record, template_record(template, home.cache)]
