"""An LLM system of the bench at work: trained by its job, scored in several processes."""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from llm_homes import DAY, keep_table, lend, link, run_checked, score_table, spoken, together

from jobs.command_line import parse
from jobs.datasets import (
    DOMAINS,
    HISTORIES,
    ITEM_TEXTS,
    ITEM_TOKEN_INPUTS,
    SPLITS,
    TOKEN_CONFIG,
    TOKEN_WEIGHTS,
    TUNED_ADAPTER,
    USER_TOKEN_INPUTS,
    WARM_TOKEN_INPUTS,
)
from jobs.files import write_atomically
from jobs.home import Home
from jobs.job import Config, Run, load_manifest
from jobs.launch import MODULES

SCRIPT = Path(__file__).with_name("llm_systems.py")  # what a process of scoring is started with
PART_TOKENS = 20_000  # that a killed run scores again at most


class Phase(NamedTuple):
    """Rows to score."""

    split: str
    history: str


# The most telling figures first.
PHASES = (Phase("test", "online"), Phase("valid", "online"), Phase("test", "frozen"))


@dataclass(frozen=True)
class System:
    """One row of the bench.

    Attributes:
        title: what the table calls it.
        job: that trains it; None: the backbone as it is.
        flags: of that job, beside those of the command line.
        upstream: jobs that this system wants to have run with other flags than everybody.
        after: the system whose soft tokens this one goes on from.
    """

    title: str
    job: str | None
    flags: dict[str, Any] = field(default_factory=dict)
    upstream: dict[str, dict[str, Any]] = field(default_factory=dict)
    after: str | None = None


def _tuned(title: str, preset: str, after: str | None = None, **flags: Any) -> System:
    given = {"preset": preset, "adapter": str(DAY), **flags}
    return System(title, "tune", given, after=after)


STAGE_1 = {
    "rank": 16,
    "alpha": 32.0,
    "learning_rate": 4e-4,
    "warmup_steps": 30,
    "step_tokens": 2_048,
    "epochs": 1,
}
UNALIGNED = {"align": {"alignment_weight": 0.0, "user_alignment_weight": 0.0}}
SYSTEMS = {
    "zero_shot": System("Zero-shot", None),
    "tallrec": System("TALLRec", "adapt", STAGE_1),
    "tallrec_rows": System("TALLRec, one prompt a row", "adapt", {**STAGE_1, "packing": "rows"}),
    "collm_mf": System(
        "CoLLM-MF", "tune", {"preset": "collm", "adapter": str(DAY)}, upstream=UNALIGNED
    ),
    "sella": _tuned("SeLLa-Rec", "sella"),
    "sella_random_projector": _tuned("SeLLa-Rec, random projector", "sella-random-projector"),
    "sella_no_warm": _tuned("SeLLa-Rec, no warm token", "sella-no-warm"),
    "sella_only_warm": _tuned("SeLLa-Rec, no user and item tokens", "sella-only-warm"),
    "sella_warm_half": _tuned("SeLLa-Rec, the warm token alone learns", "sella-warm-first"),
    "sella_warm_first": _tuned(
        "SeLLa-Rec, warm token first, then user and item",
        "sella",
        "sella_warm_half",
        learn="user,item",
    ),
    "sella_ui_half": _tuned("SeLLa-Rec, user and item tokens alone learn", "sella-ui-first"),
    "sella_ui_first": _tuned(
        "SeLLa-Rec, user and item tokens first, then warm", "sella", "sella_ui_half", learn="warm"
    ),
    "sella_offset": _tuned("SeLLa-Rec behind the control", "sella", offset="control"),
    "sella_rows": _tuned("SeLLa-Rec, one prompt a row", "sella", packing="rows"),
    "sail": _tuned("SAILRec, steering on", "sailrec"),
    "sail_off": _tuned("SAILRec, steering off", "sailrec", steering="none"),
    "sail_reversed": _tuned("SAILRec, steering reversed", "sailrec", steering="reversed"),
    "sail_offset": _tuned("SAILRec behind the control", "sailrec", offset="control"),
    "sail_rows": _tuned("SAILRec, one prompt a row", "sailrec", packing="rows"),
}

# -- one system with one seed ----------------------------------------------------------------------


@dataclass(frozen=True)
class Work:
    """What is asked for.

    Attributes:
        name: in `SYSTEMS`.
        seed: of its training.
        shared: the home that all systems read.
        asked: the command line.
    """

    name: str
    seed: int
    shared: Home
    asked: argparse.Namespace

    @property
    def system(self) -> System:
        """What it is."""
        return SYSTEMS[self.name]

    @property
    def home(self) -> Home:
        """Where it trains. Stage 1 of seed 0 is everybody's, so it lies where they read it."""
        if self.system.job is None or (self.name, self.seed) == ("tallrec", 0):
            return self.shared
        return Home(self.shared.root / "llm_systems" / f"{self.name}-{self.seed}")

    @property
    def words(self) -> list[str]:
        """Command line of the job; of the untrained backbone that of `adapt`, which reads alike."""
        asked = self.asked
        common = {
            "model": asked.model,
            "seed": self.seed,
            "device": asked.device,
            "dtype": asked.dtype,
            "batch_tokens": asked.batch_tokens,
            "max_tokens_total": asked.max_tokens_total,
            "valid_rows": asked.valid_rows,
            "eval_steps": asked.eval_steps,
            "checkpoint_steps": 10,
        }
        if self.system.after is not None:
            common["init_tokens"] = self.home.root / "begun_at"
        return [*spoken(common | self.system.flags), *asked.rest]

    def kept(self, phase: Phase) -> Path:
        """Where the scores of a phase are kept; those of a trained system belong to its weights."""
        name = "-".join(phase)
        if self.system.job is not None:
            manifest = load_manifest(self.home, self.system.job, DAY)
            result = manifest.result if manifest else {}
            name += f"-{result.get('adapter', result.get('tokens', 'none'))[:12]}"
        return self.home.root / "llm_scores" / self.name / f"{name}.parquet"

    def train(self) -> None:
        """Run the job; it says "unchanged" at once where it has run.

        The LoRA that the shared home holds stays, whatever its flags were.
        """
        system = self.system
        if self.home.root != self.shared.root:
            made_here = {"tune", *system.upstream, *([] if system.job is None else [system.job])}
            lend(self.shared, self.home, made_here)
            for job, flags in system.upstream.items():
                run_checked(job, self.home, **flags)
        if system.after is not None:
            self._begin_after(replace(self, name=system.after))
        if system.job is None or self._is_given():
            return
        together(self.asked.processes, self.home, ["-m", MODULES[system.job], *self.words])

    def _is_given(self) -> bool:
        """Whether stage 1 has been trained, by this script or another: all others build on it."""
        return (
            self.home.root == self.shared.root
            and load_manifest(self.home, "adapt", DAY) is not None
        )

    def _begin_after(self, half: Work) -> None:
        """Train the first half, and put its soft tokens where the second one begins."""
        half.train()
        for dataset in (TOKEN_CONFIG, TOKEN_WEIGHTS):
            name = f"{dataset.name}.{dataset.format.value}"
            link(half.home.output(dataset, DAY), self.home.root / "begun_at" / name)

    def score(self, phase: Phase) -> None:
        """Score a phase in several processes, unless it is kept, and join what each has done."""
        path = self.kept(phase)
        if path.is_file():
            return
        n = self.asked.processes
        together(n, self.home, [str(SCRIPT), self.name, *self._again(phase)])
        parts = [path.with_suffix(f".{rank}.parquet") for rank in range(n)]
        table = pa.concat_tables([pq.read_table(part) for part in parts]).sort_by("row")
        said = [json.loads(part.with_suffix(".json").read_text()) for part in parts]
        facts = {
            "n_tokens": sum(each["n_tokens"] for each in said),
            "seconds": max(each["seconds"] for each in said),
            "device": said[0]["device"],
        }
        write_atomically(path.with_suffix(".json"), json.dumps(facts))
        keep_table(path, table)
        for part in parts:
            part.unlink()
            part.with_suffix(".json").unlink()
        shutil.rmtree(path.with_suffix(".parts"), ignore_errors=True)

    def _again(self, phase: Phase) -> list[str]:
        """What this script calls itself with to score a phase."""
        asked = self.asked
        words = ["--phase", "/".join(phase), "--seeds", str(self.seed), "--device", asked.device]
        words += ["--dtype", asked.dtype, "--batch-tokens", str(asked.batch_tokens)]
        words += ["--shared", str(self.shared.root)]
        if asked.model:
            words += ["--model", asked.model]
        return [*words, *(["--", *asked.rest] if asked.rest else [])]


# -- scoring, in each process ----------------------------------------------------------------------


@contextmanager
def opened(work: Work, run: Run) -> Iterator[tuple[Any, Any]]:
    """The reader and the scorer of a system as it is after training."""
    from jobs.llm.adapt import AdaptConfig
    from jobs.llm.adapters import find_adapter, load_adapter
    from jobs.llm.attention import suit_attention
    from jobs.llm.backbone import load, resolve
    from jobs.llm.reading import Reader
    from jobs.llm.scoring import Scorer
    from jobs.tokens.tune_config import TuneConfig

    is_tuned = work.system.job == "tune"
    kind: Any = TuneConfig if is_tuned else AdaptConfig
    config = parse("tune" if is_tuned else "adapt", kind, work.words).config
    splits, histories, texts, domains = map(run.read, (SPLITS, HISTORIES, ITEM_TEXTS, DOMAINS))
    noun = domains["item_noun"][0].as_py()
    backbone = load(resolve(config.model, run.home.cache), config.device, config.dtype)
    if is_tuned:
        tuned = _tuned_in(work.home, backbone)
        reader = tuned.reader(splits, histories, texts, noun)
        with tuned.scorer(reader, config.batch_tokens, run.log.warning) as scorer:
            yield reader, scorer
        return
    if work.system.job is not None:
        load_adapter(backbone, find_adapter(str(DAY), work.home))
    reader = Reader(splits, histories, texts, noun, backbone.tokenizer, config)
    multiple = suit_attention(backbone.model)
    yield (
        reader,
        Scorer(backbone.model, reader.answers, config.batch_tokens, multiple, run.log.warning),
    )


def _tuned_in(home: Home, backbone: Any) -> Any:
    """What `tune` has just made; its tables need no marks here, which DuckDB would have to set."""
    from safetensors.numpy import load_file

    from jobs.tokens.tuned import Tuned, TunedFiles

    def path(dataset: Any) -> Path:
        return home.output(dataset, DAY)

    tables = (
        pq.read_table(path(each), partitioning=None)
        for each in (USER_TOKEN_INPUTS, ITEM_TOKEN_INPUTS, WARM_TOKEN_INPUTS)
    )
    config = json.loads(path(TOKEN_CONFIG).read_text(encoding="utf-8"))
    files = TunedFiles(
        config, load_file(path(TOKEN_WEIGHTS)), load_file(path(TUNED_ADAPTER)), *tables
    )
    return Tuned(files, backbone)


def score_share(work: Work, phase: Phase) -> None:
    """Score this process's share of a phase, part by part, and write it down."""
    from jobs.llm.processes import from_environment
    from jobs.llm.scoring import KeptParts, in_parts
    from jobs.progress import progress

    processes, path = from_environment(), work.kept(phase)
    run = Run("llm_scores", DAY, Config(), work.home)  # not entered: it only reads
    with opened(work, run) as (reader, scorer):
        rows = reader.rows(phase.split, history=phase.history)
        parts = list(enumerate(in_parts(rows.sequences, PART_TOKENS)))[
            processes.rank :: processes.n
        ]
        kept = KeptParts(path.with_suffix(".parts"), "parts")
        found = [kept.load(*part) for part in parts]
        left = sum(
            len(each) for (_, part), done in zip(parts, found, strict=True) if done is None
            for each in part
        )  # fmt: skip
        started = time.monotonic()
        with progress(f"{work.name} {' '.join(phase)}", left, "tokens") as advance:
            tell = advance if processes.is_first else lambda n: None
            for place, (number, part) in enumerate(parts):
                if found[place] is None:
                    kept.keep(number, *(done := scorer.score(part, tell)))
                    found[place] = done
        seconds = time.monotonic() - started
    at = np.concatenate([done[0] for done in found if done] or [np.empty(0, np.int64)])
    logits = np.concatenate([done[1] for done in found if done] or [np.empty(0, np.float32)])
    mine = path.with_suffix(f".{processes.rank}.parquet")
    keep_table(mine, score_table(phase.split, rows.numbers[at], logits))
    facts = {"n_tokens": left, "seconds": seconds, "device": str(scorer.device)}
    write_atomically(mine.with_suffix(".json"), json.dumps(facts))
