"""Scoring four ways: one prompt a row, a prefix cache, tree packing and stream packing.

    python benchmarks/score_throughput.py ../shared/data/ml-1m/reference_split.parquet

All four score the same rows over the same visible history, so their scores are the same; what
differs is how often a token is computed. Two kinds of work: `rows`, the valid and test rows of the
published ML-1M split, each with the history of its moment; and `top_k`, k items for each user, all
over the user's whole history. `prompts` writes a prompt for each row. `prefix_cache` computes a
history once, keeps its keys and values, and reads each candidate against them, as a server with a
prefix cache does. `tree` and `stream` are this project's packings.

Each way runs in a process of its own, on batches drawn at random until --seconds are used. Tokens
are those of all the work, padding not counted; seconds are tokens a row / tokens a second. Scores
of a few users are compared in float32. On a GPU the utilisation is the arithmetic that the model
needs for these tokens / (seconds * what the card can do, --peak-tflops). Written to
benchmarks/results/score_throughput-<device>.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from packing import Bench, published
from side_by_side import machine, run_alone, write
from torch import Tensor
from transformers import DynamicCache

from jobs.llm.answers import AnswerTokens
from jobs.llm.backbone import DEFAULT_BACKBONE
from jobs.llm.batches import token_budget_batches
from jobs.llm.events import Events, events_of
from jobs.llm.packing import Blocks, Packing, RowPacking, StreamPacking, TreePacking
from jobs.llm.scoring import Scorer
from jobs.llm.sequences import PackedSequence

WAYS = ("prompts", "prefix_cache", "tree", "stream")
WORKS = ("rows", "top_k")
SAME_TOLERANCE = 1e-4
_COMPARED_USERS = 2
_UNLIMITED = 10**9
# Dense bfloat16 products without sparsity, from the makers' data sheets.
_PEAK_TFLOPS = {"H100": 989.4, "H200": 989.4, "A100": 312.0, "L4": 121.0}

Batch = Sequence[PackedSequence]
Scores = tuple[np.ndarray, np.ndarray]


# -- the work --------------------------------------------------------------------------------------


def proposed(given: argparse.Namespace) -> tuple[pa.Table, pa.Table, pa.Array]:
    """Rows of users x k random items behind their whole histories, histories, item ids."""
    _, histories, item_ids, _ = published(given.split)
    random = np.random.default_rng(given.seed)
    lengths = pc.list_value_length(histories["item_ids"]).to_numpy()
    users = random.choice(np.flatnonzero(lengths > 0), given.n_users, replace=False)
    owners = np.repeat(users, given.k)
    items = np.concatenate([random.choice(len(item_ids), given.k, replace=False) for _ in users])
    n = len(owners)
    rows = {
        "split": ["test"] * n,
        "row": pa.array(range(n), pa.int32()),
        "user_id": histories["user_id"].take(pa.array(owners)),
        "item_id": item_ids.take(pa.array(items)),
        "label": pa.array(np.zeros(n, np.int8)),
        "history_end": pa.array(lengths[owners].astype(np.int32)),
    }
    return pa.table(rows), histories, item_ids


def events(work: str, bench: Bench) -> Events:
    """What is to be scored."""
    if work == "rows":
        return bench.events(["valid", "test"])
    rows, histories, item_ids = proposed(bench.given)
    return events_of(rows, histories, item_ids, wanted=["test"])


def packing(way: str, given: argparse.Namespace) -> Packing:
    """All four see the same: the titles since a block began."""
    window = Blocks(given.block_tokens, given.kept_tokens)
    if way == "prompts":
        return RowPacking(window)
    if way == "stream":
        return StreamPacking(window, given.sequence_tokens)
    return TreePacking(window, _UNLIMITED if way == "prefix_cache" else given.sequence_tokens)


# -- the prefix cache ------------------------------------------------------------------------------


class Group(NamedTuple):
    """Candidates behind one history.

    Attributes:
        context: tokens that all of them see.
        leaves: tokens of each candidate.
        rows: which row each scores.
    """

    context: np.ndarray
    leaves: list[np.ndarray]
    rows: np.ndarray


def group_of(tree: PackedSequence) -> Group:
    """The parts of a tree that holds all candidates of its history."""
    n_context = int(tree.is_shown.sum())
    borders = np.flatnonzero(np.diff(tree.event[n_context:])) + 1
    return Group(
        tree.input_ids[:n_context], np.split(tree.input_ids[n_context:], borders), tree.answer_row
    )


@dataclass(frozen=True)
class PrefixCache:
    """Scores groups: histories of a batch once, then their candidates against the kept keys."""

    model: Any
    answers: AnswerTokens

    def score(self, batch: Batch) -> Scores:
        """Rows and l_yes - l_no of each."""
        groups = [group_of(tree) for tree in batch]
        device = self.model.device
        contexts, seen = _padded([group.context for group in groups])
        cache = DynamicCache(config=self.model.config)
        with torch.inference_mode():
            self._states(contexts, seen, _counts(contexts), cache)
            owners = np.repeat(np.arange(len(groups)), [len(group.leaves) for group in groups])
            # Each candidate gets the keys and values of its own history.
            cache.batch_select_indices(torch.from_numpy(owners).to(device))
            leaves, are_there = _padded([leaf for group in groups for leaf in group.leaves])
            n_before = torch.from_numpy(seen.sum(axis=1)[owners])
            mask = np.concatenate([seen[owners], are_there], axis=1)
            states = self._states(leaves, mask, _counts(leaves) + n_before[:, None], cache)
            last = torch.from_numpy(are_there.sum(axis=1) - 1).to(device)
            found = self._answers(states[torch.arange(len(last), device=device), last])
        return np.concatenate([group.rows for group in groups]), found.cpu().numpy()

    def _states(
        self, ids: np.ndarray, mask: np.ndarray, positions: Tensor, cache: DynamicCache
    ) -> Tensor:
        device = self.model.device
        found: Tensor = self.model.get_decoder()(
            input_ids=torch.from_numpy(ids).to(device),
            attention_mask=torch.from_numpy(mask).long().to(device),
            position_ids=positions.to(device),
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        return found

    def _answers(self, states: Tensor) -> Tensor:
        head = self.model.get_output_embeddings().weight
        return states.float() @ (head[self.answers.yes].float() - head[self.answers.no].float())


def _padded(texts: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Token ids padded on the right, and which are there."""
    lengths = np.array([len(text) for text in texts])
    there = np.arange(lengths.max()) < lengths[:, None]
    ids = np.zeros(there.shape, np.int64)
    ids[there] = np.concatenate(texts)
    return ids, there


def _counts(ids: np.ndarray) -> Tensor:
    return torch.arange(ids.shape[1]).expand(ids.shape[0], -1)


# -- one way, measured -----------------------------------------------------------------------------


def measure(way: str, work: str, given: argparse.Namespace) -> dict[str, Any]:
    """Tokens of all the work, speed on some of it, and scores of a few users in float32."""
    bench = Bench(given)
    asked = events(work, bench)
    sequences = list(packing(way, given).pack(asked, bench.prompt))
    score = scorer(way, bench)
    n_tokens, n_rows = sum(map(len, sequences)), len(asked)
    batches = drawn(sequences, given)
    tokens_per_s, flops_per_token = speed(bench, batches, score)
    said = {
        "rows": n_rows,
        "tokens_per_1000_rows": 1_000 * n_tokens / n_rows,
        "tokens_per_s": tokens_per_s,
        "seconds_per_1000_rows": 1_000 * n_tokens / n_rows / tokens_per_s,
        "gflops": flops_per_token * tokens_per_s / 1e9,
        **memory(bench),
    }
    peak = peak_tflops(given, bench.model)
    if peak is not None:
        said |= {"utilisation": said["gflops"] / 1e3 / peak, "peak_tflops": peak}
    dtype = str(bench.model.dtype).removeprefix("torch.")
    bench.model.float()
    wanted = compared(asked)
    rows, logits = score([one for one in sequences if wanted & set(one.answer_row.tolist())])
    found = zip(rows.tolist(), logits.tolist(), strict=True)
    scores = {str(row): logit for row, logit in found if row in wanted}
    return {"figures": said, "scores": scores, "dtype": dtype}


def scorer(way: str, bench: Bench) -> Callable[[Batch], Scores]:
    """What scores a batch."""
    if way == "prefix_cache":
        bench.model.set_attn_implementation("sdpa")
        return PrefixCache(bench.model, bench.answers).score
    return Scorer(bench.model, bench.answers, _UNLIMITED, bench.multiple).score


def drawn(sequences: list[PackedSequence], given: argparse.Namespace) -> list[Batch]:
    """Their batches, in a random order; candidates of one history are never parted."""
    lengths = [len(sequence) for sequence in sequences]
    batches = [
        [sequences[number] for number in numbers]
        for numbers in token_budget_batches(lengths, given.batch_tokens)
    ]
    order = np.random.default_rng(given.seed).permutation(len(batches))
    return [batches[number] for number in order]


def speed(
    bench: Bench, batches: Sequence[Batch], score: Callable[[Batch], Scores]
) -> tuple[float, float]:
    """Tokens a second, and useful arithmetic of a token; the first batch warms up."""
    score(batches[0])
    started, n_tokens, n_flops = bench.clock(), 0, 0.0
    for batch in endlessly(batches):
        score(batch)
        n_tokens += sum(map(len, batch))
        n_flops += flops(batch, bench.model)
        if bench.clock() - started > bench.given.seconds:
            break
    return n_tokens / (bench.clock() - started), n_flops / n_tokens


def endlessly(batches: Sequence[Batch]) -> Iterator[Batch]:
    """From the second batch on, and again."""
    while True:
        yield from batches[1:] or batches


def flops(batch: Batch, model: Any) -> float:
    """Of a forward pass: 2 for each weight that a token meets, 4 d for each key that it sees."""
    embeddings = model.get_input_embeddings().weight.numel()
    weights = sum(weight.numel() for weight in model.parameters()) - embeddings
    config = model.config
    head_dim = getattr(config, "head_dim", None) or (
        config.hidden_size // config.num_attention_heads
    )
    per_key = 4 * config.num_hidden_layers * config.num_attention_heads * head_dim
    n_keys = sum(int(sequence.position_ids.sum()) + len(sequence) for sequence in batch)
    return float(2 * weights * sum(map(len, batch)) + per_key * n_keys)


def peak_tflops(given: argparse.Namespace, model: Any) -> float | None:
    """Of the card, in the model's precision; None on a CPU."""
    if model.device.type != "cuda":
        return None
    name = torch.cuda.get_device_name()
    known = next((peak for card, peak in _PEAK_TFLOPS.items() if card in name), None)
    return given.peak_tflops or known


def memory(bench: Bench) -> dict[str, float]:
    """The most that was held on a GPU."""
    if bench.model.device.type != "cuda":
        return {}
    return {"peak_mb": torch.cuda.max_memory_allocated() / 2**20}


def compared(asked: Events) -> set[int]:
    """Rows of the users whose scores are compared: those with about eight."""
    users, counts = np.unique(asked.users, return_counts=True)
    few = users[np.argsort(np.abs(counts - 8), kind="stable")[:_COMPARED_USERS]]
    return set(asked.rows[np.isin(asked.users, few)].tolist())


# -- all of them -----------------------------------------------------------------------------------


def compare(given: argparse.Namespace) -> dict[str, Any]:
    """Every way through every kind of work, each in a process of its own."""
    names = ("model", "cache", "device", "seconds", "seed", "k", "n_users", "peak_tflops")
    names += ("batch_tokens", "block_tokens", "kept_tokens", "sequence_tokens")
    chosen = {name: getattr(given, name) for name in names if getattr(given, name) is not None}
    flags = [
        word
        for name, value in chosen.items()
        for word in (f"--{name.replace('_', '-')}", str(value))
    ]
    result: dict[str, Any] = {}
    for work in WORKS:
        found = {
            way: run_alone(
                __file__,
                [str(given.split), "--way", way, "--work", work, *flags],
                threads=given.threads,
            )
            for way in WAYS
        }
        result[work] = {
            "dtype": found["prompts"]["dtype"],
            "largest_difference_in_float32": agreement(found),
            "prompts_over": {
                way: round(
                    found["prompts"]["figures"]["seconds_per_1000_rows"]
                    / found[way]["figures"]["seconds_per_1000_rows"],
                    2,
                )
                for way in WAYS[1:]
            },
            "figures": {
                way: {name: float(f"{value:.5g}") for name, value in found[way]["figures"].items()}
                | {"load": found[way]["load"]}
                for way in WAYS
            },
        }
    is_cuda = given.device.startswith("cuda")
    return {
        "benchmark": "score_throughput",
        **machine("tidemark", "torch", "transformers"),
        "device": torch.cuda.get_device_name() if is_cuda else "cpu",
        "model": given.model,
        "threads": given.threads,
        "clock": "seconds" if is_cuda else "CPU seconds",
        "window_tokens": [given.block_tokens, given.kept_tokens],
        "sequence_tokens": given.sequence_tokens,
        "batch_tokens": given.batch_tokens,
        "k": given.k,
        **result,
    }


def agreement(found: dict[str, Any]) -> dict[str, float]:
    """Largest difference of each way's scores to those of one prompt a row; refuses a large one."""
    alone = found["prompts"]["scores"]
    differences = {}
    for way in WAYS[1:]:
        rows = alone.keys() & found[way]["scores"].keys()
        assert rows == alone.keys(), way
        differences[way] = max(abs(alone[row] - found[way]["scores"][row]) for row in rows)
        assert differences[way] < SAME_TOLERANCE, (way, differences[way])
    return {way: float(f"{value:.2g}") for way, value in differences.items()}


def main() -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("split", type=Path, help="reference_split.parquet of MovieLens-1M")
    parser.add_argument("--model", default=DEFAULT_BACKBONE)
    parser.add_argument("--cache", type=Path, default=Path(".tidemark/cache"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch-tokens", type=int, default=2_048)
    parser.add_argument("--block-tokens", type=int, default=256)
    parser.add_argument("--kept-tokens", type=int, default=64)
    parser.add_argument("--sequence-tokens", type=int, default=1_024)
    parser.add_argument("--k", type=int, default=20, help="items of a user; top_k")
    parser.add_argument("--n-users", type=int, default=200, help="top_k")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--peak-tflops", type=float, help="of the card, where it is not known")
    parser.add_argument("--out", type=Path, help="instead of benchmarks/results")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--work", choices=WORKS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.way:
        torch.set_num_threads(given.threads)
        print(json.dumps(measure(given.way, given.work, given)))
        return
    name = f"score_throughput-{given.device.split(':')[0]}.json"
    result = compare(given)
    if given.out is None:
        write(name, result)
    else:
        given.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
