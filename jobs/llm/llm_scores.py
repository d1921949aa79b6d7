"""Click-through scores of rows by the backbone itself: its answer to each row's prompt."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field

from jobs.datasets import DOMAINS, HISTORIES, ITEM_TEXTS, LLM_SCORES, SPLITS
from jobs.errors import JobError
from jobs.home import Home
from jobs.job import Declared, Run, main
from jobs.llm.adapters import AdapterFiles, check_backbone, find_adapter, load_adapter
from jobs.llm.attention import suit_attention
from jobs.llm.backbone import DEFAULT_BACKBONE, Backbone, load, resolve
from jobs.llm.estimate import peak_memory_bytes
from jobs.llm.events import SPLIT_ORDER
from jobs.llm.fingerprint import sha256_json
from jobs.llm.prompts import template_record
from jobs.llm.reading import Reader, ReadingConfig
from jobs.llm.scoring import KeptParts, Scorer, in_parts
from jobs.llm.sequences import PackedSequence, refuse_too_long
from jobs.llm.shared_parts import score_parts
from jobs.report.metrics import auc, uauc
from jobs.score.calibration import sigmoid

_TRIED_BATCHES = 3


class LlmScoresConfig(ReadingConfig):
    """l_yes - l_no of each row, by the backbone as it is or with an adapter.

    A killed run goes on where it was when the same command is given again.
    """

    model: str = Field(
        default=DEFAULT_BACKBONE, description="the bundled model, a folder, a GGUF file or a hub id"
    )
    adapter: str | None = Field(
        default=None, description="a day on which adapt ran, or a folder; without it: zero-shot"
    )
    splits: str = Field(default="valid,test", description="which rows: of train, valid, test")
    history: Literal["online", "frozen"] = Field(
        default="online",
        description="online: up to the row. frozen: up to where the row's split begins; a test row "
        "then sees train and valid",
    )
    batch_tokens: int = Field(
        default=2_048, gt=0, description="tokens of a batch, padding included; 65536 on a GPU"
    )
    part_tokens: int = Field(
        default=100_000, gt=0, description="tokens that a killed run repeats at most"
    )
    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:1, ...")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto",
        description="auto: bfloat16 where the hardware multiplies it, float32 elsewhere",
    )


@dataclass(frozen=True)
class Prepared:
    """A model and the sequences that it is to score."""

    splits: pa.Table
    backbone: Backbone
    adapter: AdapterFiles | None
    reader: Reader
    sequences: list[PackedSequence]
    scorer: Scorer

    @property
    def n_tokens(self) -> int:
        """Tokens of all sequences."""
        return sum(map(len, self.sequences))

    @property
    def facts(self) -> dict[str, Any]:
        """What the scores are of; JSON."""
        files = self.backbone.files
        return {
            "backbone": {"name": files.name, "fingerprint": files.fingerprint},
            "adapter": self.adapter and self.adapter.fingerprint,
            "dtype": str(self.backbone.model.dtype).removeprefix("torch."),
            **self.reader.facts(),
        }


def wanted_splits(splits: str) -> list[str]:
    """The splits that "valid,test" names."""
    wanted = [name.strip() for name in splits.split(",") if name.strip()]
    if unknown := [name for name in wanted if name not in SPLIT_ORDER]:
        raise JobError(f"--splits {splits}: there is no split '{unknown[0]}', but {SPLIT_ORDER}")
    return [name for name in SPLIT_ORDER if name in wanted]


def prepare(config: LlmScoresConfig, run: Run) -> Prepared:
    """Read the day's rows, pack them, and load the model.

    Raises:
        JobError: there is nothing to score, the adapter is of another backbone, the vocabulary has
            no Yes, or a prompt is longer than the model reads.
    """
    wanted = wanted_splits(config.splits)
    splits, histories, texts, domains = map(run.read, (SPLITS, HISTORIES, ITEM_TEXTS, DOMAINS))
    files = resolve(config.model, run.home.cache)
    adapter = find_adapter(config.adapter, run.home) if config.adapter else None
    if adapter:
        check_backbone(adapter, files)
    backbone = load(files, config.device, config.dtype)
    noun = domains["item_noun"][0].as_py()
    reader = Reader(splits, histories, texts, noun, backbone.tokenizer, config)
    sequences = [
        sequence
        for split in wanted
        for sequence in reader.rows(split, history=config.history).sequences
    ]
    if not sequences:
        raise JobError(f"--splits {config.splits}: {SPLITS.name} of {run.day} has no such rows")
    refuse_too_long(sequences, files.name, backbone.model.config)
    if adapter:
        load_adapter(backbone, adapter)
    multiple = suit_attention(backbone.model)
    scorer = Scorer(backbone.model, reader.answers, config.batch_tokens, multiple, run.log.warning)
    return Prepared(splits, backbone, adapter, reader, sequences, scorer)


def scores_table(
    splits: pa.Table, rows: NDArray[np.int64], logits: NDArray[np.float32]
) -> pa.Table:
    """LLM_SCORES of the rows.

    Raises:
        JobError: a logit is NaN or infinite; names the row.
    """
    scored = splits.take(pa.array(rows))
    broken = np.flatnonzero(~np.isfinite(logits))
    if len(broken):
        one = scored.slice(int(broken[0]), 1).to_pylist()[0]
        raise JobError(
            f"the score of {one['split']} row {one['row']} (user {one['user_id']}, item "
            f"{one['item_id']}) is NaN or infinite, {len(broken)} of {len(logits)} are; try "
            "--dtype float32, or look at the weights"
        )
    names = ("split", "row", "user_id", "item_id", "label")
    columns = {name: scored[name] for name in names}
    columns |= {"logit": pa.array(logits), "probability": pa.array(sigmoid(logits))}
    return pa.table(columns)


def _score(prepared: Prepared, config: LlmScoresConfig, run: Run) -> pa.Table:
    """All rows, those parts left out that an earlier run has done."""
    inputs = {each.name: each.sha256 for each in run.inputs}
    said = {"facts": prepared.facts, "inputs": inputs, "config": config.model_dump(mode="json")}
    kept = KeptParts(run.home.run(run.job, run.day) / "parts", sha256_json(said)[:32])
    parts = in_parts(prepared.sequences, config.part_tokens)

    def going_on(n_done: int) -> None:
        run.log.info("going on", parts_done=n_done, parts=len(parts))

    scored = score_parts("llm_scores", parts, kept, prepared.scorer.score, going_on=going_on)
    assert scored is not None  # alone
    if scored.n_tokens:
        run.metric("tokens_per_s", scored.n_tokens / scored.seconds)
    table = scores_table(prepared.splits, scored.rows, scored.logits)
    kept.clear()
    return table


def job(config: LlmScoresConfig, run: Run) -> None:
    """Score the rows of the splits that are asked for."""
    prepared = prepare(config, run)
    facts = prepared.facts
    run.log.info(
        "scoring",
        backbone=facts["backbone"]["name"],
        adapter=prepared.adapter and prepared.adapter.name,
        device=str(prepared.scorer.device),
        dtype=facts["dtype"],
        template=facts["template"]["name"],
    )
    prompt = prepared.reader.prompt
    run.metric("n_sequences", len(prepared.sequences))
    run.metric("n_tokens", prepared.n_tokens)
    run.metric("n_truncated_titles", prompt.n_truncated)
    run.metric("n_items_without_title", prompt.n_untitled)
    table = _score(prepared, config, run)
    run.metric("n_rows", table.num_rows)
    run.metric("peak_memory_bytes", peak_memory_bytes(prepared.scorer.device))
    for split in wanted_splits(config.splits):
        _measure(run, split, table.filter(pc.equal(table["split"], split)))
    run.write(LLM_SCORES, table)
    run.result = facts


def _measure(run: Run, split: str, scores: pa.Table) -> None:
    users, labels, logits = (
        scores[name].combine_chunks().to_numpy(zero_copy_only=False)
        for name in ("user_id", "label", "logit")
    )
    if scores.num_rows:
        for name, value in (
            (f"{split}_auc", auc(labels, logits)),
            (f"{split}_uauc", uauc(users, labels, logits)[0]),
        ):
            if value is not None:
                run.metric(name, value)


def estimate(config: LlmScoresConfig, run: Run) -> dict[str, Any]:
    """Tokens, memory and time to expect, from a few batches of the real work."""
    prepared = prepare(config, run)
    scorer = prepared.scorer
    longest_first = sorted(prepared.sequences, key=len, reverse=True)
    # The longest take the most memory, and a first batch compiles: it is not timed.
    scorer.score(longest_first[: max(1, scorer.batch_tokens // len(longest_first[0]))])
    step = max(1, prepared.n_tokens // (_TRIED_BATCHES * scorer.batch_tokens))
    tried = longest_first[step // 2 :: step] or longest_first[:1]
    started = time.monotonic()
    scorer.score(tried)
    tokens_per_s = sum(map(len, tried)) / (time.monotonic() - started)
    return {
        "rows": sum(len(sequence.answer_row) for sequence in prepared.sequences),
        "sequences": len(prepared.sequences),
        "tokens": prepared.n_tokens,
        "longest_sequence": len(longest_first[0]),
        "tokens_per_s": round(tokens_per_s, 1),
        "seconds": round(prepared.n_tokens / tokens_per_s, 3),
        "peak_memory_mb": round(peak_memory_bytes(scorer.device) / 2**20),
        "batch_tokens": scorer.batch_tokens,  # less than asked for where memory fell short
        "device": str(scorer.device),
        "dtype": prepared.facts["dtype"],
    }


def sources(config: LlmScoresConfig, day: date, home: Home) -> Iterable[Path]:
    """The records of backbone and template, and the adapter's files."""
    files = [
        resolve(config.model, home.cache).record,
        template_record(config.template, home.cache),
    ]
    if config.adapter:
        files += find_adapter(config.adapter, home).sources
    return files


DECLARED = Declared("llm_scores", LlmScoresConfig, job, sources=sources, estimate=estimate)

if __name__ == "__main__":
    main(DECLARED)
