"""Stream packing against one prompt a row: tokens, and CPU time to score and to train.

    python benchmarks/packing.py ../shared/data/ml-1m/reference_split.parquet

Both read the published ML-1M split with the same model and threads, each in a process of its own,
A B B A. `rows` is one prompt a row with the last 10 titles, as the papers do. Tokens are counted
over the whole split. Time is measured on batches drawn at random until each process has used
--seconds of it twice, for scoring and for a LoRA gradient, and told for each row: tokens a row
/ tokens a second. A third process scores some users both ways over the same visible history and
says how far the scores lie apart. Written to benchmarks/results/packing-<device>.json.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from side_by_side import machine, middle, peak_mb, run_alone, write

from jobs.llm.answers import answer_logits, answer_tokens
from jobs.llm.attention import suit_attention
from jobs.llm.backbone import DEFAULT_BACKBONE, load, resolve
from jobs.llm.batches import token_budget_batches
from jobs.llm.events import Events, events_of
from jobs.llm.lora import ALL_LINEAR, chosen_targets, inject
from jobs.llm.packing import Blocks, LastTitles, Packing, RowPacking, StreamPacking, TreePacking
from jobs.llm.prompts import load_template, prompt_tokens
from jobs.llm.scoring import Scorer
from jobs.llm.sequences import PackedSequence, collate

FLAGS = [
    *("model", "cache", "device", "batch-tokens", "seconds", "seed"),
    *("block-tokens", "kept-tokens", "sequence-tokens"),
]
ORDER = ("rows", "stream", "stream", "rows")
SAME_TOLERANCE = 1e-4


def published(path: Path) -> tuple[pa.Table, pa.Table, pa.Array, list[str]]:
    """SPLITS, HISTORIES, item ids and titles of the published split."""
    rows = pq.read_table(path)
    order = pc.index_in(rows["split"], value_set=pa.array(["train", "valid", "test"]))
    rows = rows.append_column("order", order)
    splits = pa.table(
        {
            "split": rows["split"].cast(pa.string()),
            "row": rows["row"],
            "user_id": rows["user_id"].cast(pa.int64()),
            "item_id": rows["item_id"].cast(pa.int64()),
            "label": rows["label"],
            "history_end": pc.list_value_length(rows["history"]).cast(pa.int32()),
        }
    )
    users = pc.unique(splits["user_id"]).sort()
    liked = rows.filter(pc.equal(rows["label"], 1)).sort_by(
        [("user_id", "ascending"), ("order", "ascending"), ("row", "ascending")]
    )
    counts = np.bincount(np.searchsorted(users.to_numpy(), liked["user_id"]), minlength=len(users))
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    chain = liked["item_id"].combine_chunks().cast(pa.int64())
    histories = pa.table(
        {"user_id": users, "item_ids": pa.ListArray.from_arrays(pa.array(offsets), chain)}
    )
    titles = dict(zip(splits["item_id"].to_pylist(), rows["title"].to_pylist(), strict=True))
    ids = sorted(titles)
    return splits, histories, pa.array(ids), [titles[item] for item in ids]


class Bench:
    """The split, read with one template, and the model that reads it."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given = given
        self.splits, self.histories, self.item_ids, titles = published(given.split)
        self.backbone = load(resolve(given.model, given.cache), given.device)
        self.model: Any = self.backbone.model
        self.multiple = suit_attention(self.model)
        template = load_template("ctr_titles", noun="Movie")
        self.answers = answer_tokens(self.backbone.tokenizer, template)
        self.prompt = prompt_tokens(template, self.backbone.tokenizer, titles, self.answers.ids)
        self.blocks = Blocks(given.block_tokens, given.kept_tokens)

    def packing(self, contender: str) -> Packing:
        """What the contender packs with."""
        if contender == "rows":
            return RowPacking(LastTitles(10))
        return StreamPacking(self.blocks, self.given.sequence_tokens)

    def events(self, splits: Sequence[str], history: Any = "online") -> Events:
        """Rows of these splits."""
        return events_of(self.splits, self.histories, self.item_ids, wanted=splits, history=history)

    def drawn(self, sequences: list[PackedSequence]) -> list[list[PackedSequence]]:
        """Their batches, in a random order."""
        lengths = [len(sequence) for sequence in sequences]
        batches = [
            [sequences[number] for number in numbers]
            for numbers in token_budget_batches(lengths, self.given.batch_tokens)
        ]
        order = np.random.default_rng(self.given.seed).permutation(len(batches))
        return [batches[number] for number in order]

    def clock(self) -> float:
        """CPU seconds of all threads; on a GPU seconds, after its work is done."""
        if self.model.device.type == "cuda":
            torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time()

    def speed(self, batches: list[list[PackedSequence]], work: Any) -> float:
        """Tokens a second, padding not counted; the first batch warms up."""
        work(batches[0])
        started, n_tokens = self.clock(), 0
        for batch in batches[1:]:
            work(batch)
            n_tokens += sum(map(len, batch))
            if self.clock() - started > self.given.seconds:
                break
        return n_tokens / (self.clock() - started)

    def gradient(self, sequences: list[PackedSequence]) -> None:
        """What training does for a batch, all but the step of the optimiser."""
        labels = np.asarray(self.splits["label"]).astype(np.float32)
        batch = collate(sequences, multiple=self.multiple).to(self.model.device)
        wanted = torch.from_numpy(labels[batch.answer_row.cpu().numpy()]).to(self.model.device)
        logits = answer_logits(self.model, batch, self.answers)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, wanted)
        loss.backward()  # type: ignore[no-untyped-call]


def contend(bench: Bench, contender: str) -> dict[str, Any]:
    """Tokens of the whole split, and speeds on some of it."""
    packing = bench.packing(contender)
    said: dict[str, float] = {}
    packed: dict[str, list[PackedSequence]] = {}
    for name, wanted in (("train", ["train"]), ("valid_test", ["valid", "test"])):
        events = bench.events(wanted)
        packed[name] = list(packing.pack(events, bench.prompt))
        said[f"{name}_tokens"] = sum(map(len, packed[name]))
        said[f"{name}_tokens_per_row"] = said[f"{name}_tokens"] / len(events)
        said[f"{name}_longest"] = max(map(len, packed[name]))
    scorer = Scorer(bench.model, bench.answers, 10**9, bench.multiple)
    scoring = bench.speed(bench.drawn(packed["valid_test"]), scorer.score)
    said["score_tokens_per_s"] = scoring
    said["score_ms_per_row"] = 1_000 * said["valid_test_tokens_per_row"] / scoring
    targets = chosen_targets(bench.model, ALL_LINEAR)
    inject(bench.model, rank=16, alpha=32.0, dropout=0.0, targets=targets, seed=0)
    training = bench.speed(bench.drawn(packed["train"]), bench.gradient)
    said["train_tokens_per_s"] = training
    said["train_ms_per_row"] = 1_000 * said["train_tokens_per_row"] / training
    said["peak_mb"] = peak_mb()
    return said


def agree(bench: Bench) -> dict[str, Any]:
    """Scores of a few users' rows, streamed and a prompt a row over the same visible history."""
    events = bench.events(["train", "valid", "test"])
    users, counts = np.unique(events.users, return_counts=True)
    fit = users[(counts > 12) & (counts < 20)]
    chosen = np.random.default_rng(bench.given.seed).choice(fit, size=2, replace=False)
    rows = set(events.rows[np.isin(events.users, chosen)].tolist())
    scorer = Scorer(bench.model, bench.answers, bench.given.batch_tokens, bench.multiple)

    def scores(packing: Packing) -> dict[int, float]:
        packed = packing.pack(events, bench.prompt)
        some = [each for each in packed if rows & set(each.answer_row.tolist())]
        return dict(zip(*(column.tolist() for column in scorer.score(some)), strict=True))

    streamed = scores(bench.packing("stream"))
    alone = scores(RowPacking(bench.blocks))
    assert streamed.keys() == alone.keys() == rows
    return {
        "rows_compared": len(rows),
        "largest_difference": max(abs(streamed[row] - alone[row]) for row in rows),
        "dtype": str(bench.model.dtype).removeprefix("torch."),
    }


def other_tokens(bench: Bench) -> dict[str, int]:
    """Tokens of the split in other forms, counted and not run."""
    held_out = ["valid", "test"]
    forms: dict[str, tuple[Packing, Events]] = {
        "tree_valid_test": (TreePacking(LastTitles(10)), bench.events(held_out)),
        "tree_valid_test_frozen": (TreePacking(LastTitles(10)), bench.events(held_out, "frozen")),
        "stream_valid_test_frozen": (bench.packing("stream"), bench.events(held_out, "frozen")),
    }
    return {
        name: sum(len(sequence) for sequence in packing.pack(events, bench.prompt))
        for name, (packing, events) in forms.items()
    }


def compare(given: argparse.Namespace) -> dict[str, Any]:
    """All rounds, each in a process of its own, and the ratios."""
    flags = [
        word
        for flag in FLAGS
        for word in (f"--{flag}", str(getattr(given, flag.replace("-", "_"))))
    ]

    def alone(contender: str) -> dict[str, Any]:
        arguments = [str(given.split), "--contender", contender, *flags]
        return run_alone(__file__, arguments, threads=given.threads)

    first = alone("agree")
    agreement = first["agreement"]
    if agreement["dtype"] == "float32":
        assert agreement["largest_difference"] < SAME_TOLERANCE, agreement
    rounds: dict[str, list[dict[str, Any]]] = {"rows": [], "stream": []}
    for contender in ORDER * given.rounds:
        rounds[contender].append(alone(contender))
    figures = {name: middle(each) for name, each in rounds.items()}
    names = ("train_tokens", "valid_test_tokens", "score_ms_per_row", "train_ms_per_row")
    ratios = {
        name: round(figures["rows"][name]["median"] / figures["stream"][name]["median"], 2)
        for name in names
    }
    seconds = "seconds" if given.device.startswith("cuda") else "CPU seconds"
    return {
        "benchmark": "packing",
        **machine("tidemark", "torch", "transformers", "peft"),
        "model": given.model,
        "threads": given.threads,
        "clock": seconds,
        "window_tokens": [given.block_tokens, given.kept_tokens],
        "sequence_tokens": given.sequence_tokens,
        "batch_tokens": given.batch_tokens,
        "same_visible_history": agreement,
        "rows_over_stream": ratios,
        "other_tokens": first["other_tokens"],
        "figures": figures,
    }


def main() -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("split", type=Path, help="reference_split.parquet of MovieLens-1M")
    parser.add_argument("--model", default=DEFAULT_BACKBONE)
    parser.add_argument("--cache", type=Path, default=Path(".tidemark/cache"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch-tokens", type=int, default=1_024)
    parser.add_argument("--block-tokens", type=int, default=256)
    parser.add_argument("--kept-tokens", type=int, default=64)
    parser.add_argument("--sequence-tokens", type=int, default=1_024)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=1, help="of A B B A")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--contender", choices=("rows", "stream", "agree"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.contender:
        torch.set_num_threads(given.threads)
        bench = Bench(given)
        if given.contender == "agree":
            said = {"agreement": agree(bench), "other_tokens": other_tokens(bench)}
            print(json.dumps(said))
        else:
            print(json.dumps(contend(bench, given.contender)))
        return
    write(f"packing-{given.device.split(':')[0]}.json", compare(given))


if __name__ == "__main__":
    main()
