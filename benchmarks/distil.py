"""Distillation side by side: trees of tokens, a length-sorted loop, plain loops.

    python benchmarks/distil.py ../shared/data/ml-1m/movies.dat

All read the same MovieLens-1M titles with the same model, threads and number format, each in a
process of its own, in the order A B C D D C B A. Written to
benchmarks/results/distil-<device>.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).resolve().parent / "results"
OURS = "token_trees"
CONTENDERS = (OURS, "sorted_loop", "plain_loop", "plain_loop_with_head")
MEANING = {
    OURS: "jobs.llm.distil: beginnings in common read once, nothing padded but in attention",
    "sorted_loop": "decoder without head, 32 texts a batch, sorted by length first, as "
    "sentence-transformers does",
    "plain_loop": "decoder without head, 32 texts a batch, in file order",
    "plain_loop_with_head": "the causal LM as loaded, hidden_states[-1], 32 texts a batch, in file "
    "order",
}
LOOP_BATCH = 32
MAX_TOKENS = 64


def titles(path: Path, n: int) -> list[str]:
    """`n` titles of movies.dat, evenly spread over the file."""
    lines = path.read_text(encoding="latin-1").splitlines()
    chosen = np.linspace(0, len(lines) - 1, n).astype(int)
    return [f"Movie: {lines[row].split('::')[1]}" for row in chosen]


def hugging_face_loop(
    texts: list[str], backbone: Any, *, is_sorted: bool = False, has_head: bool = False
) -> np.ndarray:
    """Last real token's state, written as most people would write it."""
    import torch

    whole: Any = backbone.model
    model = whole if has_head else whole.get_decoder()
    tokenizer = backbone.tokenizer
    order = sorted(range(len(texts)), key=lambda row: len(texts[row])) if is_sorted else None
    rows = list(order or range(len(texts)))
    out = np.empty((len(texts), model.config.hidden_size), np.float32)
    for start in range(0, len(rows), LOOP_BATCH):
        some = rows[start : start + LOOP_BATCH]
        batch = tokenizer(
            [texts[row] for row in some],
            padding=True,
            truncation=True,
            max_length=MAX_TOKENS,
            return_tensors="pt",
        ).to(model.device)
        with torch.inference_mode():
            if has_head:
                states = model(**batch, output_hidden_states=True).hidden_states[-1]
            else:
                states = model(**batch).last_hidden_state
        last = batch["attention_mask"].sum(dim=1) - 1
        out[some] = states[torch.arange(len(some)), last].float().cpu().numpy()
    return out


def embed(name: str, texts: list[str], backbone: Any, batch_tokens: int) -> np.ndarray:
    """What the contender makes of the texts: tokenising included."""
    from jobs.llm.distil import distil, tokenize

    if name == OURS:
        ids = tokenize(texts, backbone.tokenizer, MAX_TOKENS).ids
        return distil(ids, backbone.model, batch_tokens=batch_tokens)
    is_sorted, has_head = name == "sorted_loop", name == "plain_loop_with_head"
    return hugging_face_loop(texts, backbone, is_sorted=is_sorted, has_head=has_head)


def positions(name: str, ids: list[list[int]], texts: list[str], batch_tokens: int) -> int:
    """Token positions that the contender's model computes: what bounds its speed."""
    from jobs.llm.token_tree import n_nodes

    if name == OURS:
        return n_nodes(sorted(set(map(tuple, ids))), batch_tokens)
    rows = list(range(len(ids)))
    if name == "sorted_loop":
        rows.sort(key=lambda row: len(texts[row]))
    batches = [rows[start : start + LOOP_BATCH] for start in range(0, len(rows), LOOP_BATCH)]
    return sum(len(batch) * max(len(ids[row]) for row in batch) for batch in batches)


def matmul_roof(dtype: Any, device: Any) -> float:
    """FLOP/s of the model's largest product, best of 10."""
    import torch

    a, b = (torch.randn(shape, device=device).to(dtype) for shape in ((1024, 576), (1536, 576)))
    best = float("inf")
    for _ in range(10):
        started = time.perf_counter()
        torch.nn.functional.linear(a, b)
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return 2 * 1024 * 576 * 1536 / best


def cpu_seconds() -> float:
    """CPU seconds of this process so far, all threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def contend(name: str, given: argparse.Namespace) -> None:
    """One timed pass, after a warm-up that is not counted; prints JSON and saves the vectors."""
    import torch

    from jobs.llm.backbone import DEFAULT_BACKBONE, load, resolve
    from jobs.llm.distil import tokenize

    torch.set_num_threads(given.threads)
    texts = titles(given.movies, given.titles)
    backbone = load(resolve(DEFAULT_BACKBONE, given.cache), given.device)
    model: Any = backbone.model
    weights = sum(p.numel() for p in model.parameters())
    weights -= model.get_input_embeddings().weight.numel()
    tokens = tokenize(texts, backbone.tokenizer, MAX_TOKENS)
    n_tokens = tokens.n_tokens
    n_positions = positions(name, tokens.ids, texts, given.batch_tokens)
    embed(name, texts[:LOOP_BATCH], backbone, given.batch_tokens)
    roof = matmul_roof(model.dtype, model.device)
    wall, cpu = time.perf_counter(), cpu_seconds()
    vectors = embed(name, texts, backbone, given.batch_tokens)
    wall, cpu = time.perf_counter() - wall, cpu_seconds() - cpu
    np.save(given.vectors, vectors)
    said = {
        "wall_s": wall,
        "cpu_s": cpu,
        "items_per_s": len(texts) / wall,
        "tokens_per_s": n_tokens / wall,
        "tokens_per_cpu_s": n_tokens / cpu,
        "items_per_cpu_s": len(texts) / cpu,
        "tflop": 2 * weights * n_positions / 1e12,  # linear layers, padding and all
        "matmul_gflop_per_s": roof / 1e9,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "n_tokens": n_tokens,
        "n_positions": n_positions,
        "dtype": str(model.dtype).removeprefix("torch."),
    }
    print(json.dumps(said))


def one_round(name: str, given: argparse.Namespace, vectors: Path) -> dict[str, Any]:
    """A contender in a process of its own."""
    command = [sys.executable, __file__, str(given.movies), "--contender", name]
    for flag in ("titles", "threads", "batch_tokens", "cache", "device"):
        command += [f"--{flag.replace('_', '-')}", str(getattr(given, flag))]
    command += ["--vectors", str(vectors)]
    environment = os.environ | {
        "OMP_NUM_THREADS": str(given.threads),
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
    }
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Median, least and most of each figure."""
    figures = [key for key, value in rounds[0].items() if isinstance(value, float)]
    return {
        key: {
            "median": round(statistics.median(each[key] for each in rounds), 3),
            "min": round(min(each[key] for each in rounds), 3),
            "max": round(max(each[key] for each in rounds), 3),
        }
        for key in figures
    }


def add_shares(rounds: dict[str, list[dict[str, Any]]], threads: int) -> None:
    """Share of the roof that each round reached, in CPU seconds of its threads.

    The roof is the best of all rounds: while others use the cores, a single one is found too low.
    """
    roof = max(one["matmul_gflop_per_s"] for each in rounds.values() for one in each) / 1e3
    for each in rounds.values():
        for one in each:
            one["share_of_matmul_roof"] = one["tflop"] / (one["cpu_s"] / threads) / roof


def machine() -> dict[str, Any]:
    """Where the figures were taken."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.split(":")[1].strip() for line in lines if "model name" in line), "")
    return {"cpu": model or platform.processor(), "cores": os.cpu_count(), "os": platform.system()}


def compare(given: argparse.Namespace) -> dict[str, Any]:
    """All rounds, the check that the outputs agree, and the ratios."""
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTENDERS}
    loads = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory() as folder:
        for number in range(given.rounds):
            for name in CONTENDERS[:: 1 if number % 2 == 0 else -1]:
                rounds[name].append(one_round(name, given, Path(folder) / f"{name}.npy"))
                loads.append(os.getloadavg()[0])
                print(number, name, {k: round(v, 1) for k, v in rounds[name][-1].items()
                                     if isinstance(v, float)}, file=sys.stderr)  # fmt: skip
        vectors = {name: np.load(Path(folder) / f"{name}.npy") for name in CONTENDERS}
    ours = vectors[OURS]
    differences = {name: float(np.abs(v - ours).max()) for name, v in vectors.items()}
    if rounds[OURS][0]["dtype"] == "float32":
        assert max(differences.values()) < 1e-3, differences
    add_shares(rounds, given.threads)
    figures = {name: summary(each) for name, each in rounds.items()}
    ratios = {
        name: {
            key: round(figures[OURS][key]["median"] / figures[name][key]["median"], 3)
            for key in ("items_per_s", "items_per_cpu_s")
        }
        for name in CONTENDERS[1:]
    }
    return {
        "titles": given.titles,
        "tokens": rounds[OURS][0]["n_tokens"],
        "threads": given.threads,
        "rounds": given.rounds,
        "dtype": rounds[OURS][0]["dtype"],
        "batch_tokens": given.batch_tokens,
        "meaning": MEANING,
        "largest_difference_of_outputs": differences,
        "positions": {name: each[0]["n_positions"] for name, each in rounds.items()},
        "token_trees_over": ratios,
        "figures": figures,
        "load_1min": {"before": round(loads[0], 2), "most": round(max(loads), 2)},
    }


def main() -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("movies", type=Path, help="movies.dat of MovieLens-1M")
    parser.add_argument("--titles", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch-tokens", type=int, default=1_024)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cache", type=Path, default=Path(".tidemark/cache"))
    parser.add_argument("--busy", action="store_true", help="report although others use the cores")
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--vectors", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.contender:
        contend(given.contender, given)
        return
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load > cores + 0.5 and not given.busy:
        sys.exit(f"load {load:.1f} on {cores} cores: wait for a quiet machine, or give --busy")
    result = {
        "benchmark": "distil",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "versions": {name: version(name) for name in ("tidemark", "torch", "transformers")},
        **compare(given),
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"distil-{given.device.split(':')[0]}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result["token_trees_over"], indent=2), path)


if __name__ == "__main__":
    main()
