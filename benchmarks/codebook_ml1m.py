"""What codes of MovieLens-1M titles are worth: error, use, genres, drift, profiles, and cost.

    python benchmarks/codebook_ml1m.py ../shared/data/ml-1m HOME 2003-03-01

HOME holds the tables of the day: item_semantics, splits, and the codebook and labels if made.
"""

from __future__ import annotations

import sys
import time
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from jobs.codebook.audit import code_entropy
from jobs.codebook.codebook import Codebook, CodebookConfig, fit_codebook
from jobs.codebook.tables import codes_matrix
from jobs.collab.profiles import (
    ProfileConfig,
    content_histograms,
    content_profiles,
    global_histogram,
    lifted_centroids,
    merged_targets,
    profile_targets,
    profiles_of,
    user_histograms,
)
from jobs.datasets import ITEM_LABELS, ITEM_SEMANTICS, SPLITS
from jobs.home import Home
from jobs.job import Config, Run
from jobs.vector_columns import as_matrix

SEEDS = range(3)
N_SHUFFLES = 20


def genres_of(movies: Path, items: list[int]) -> np.ndarray:
    """(n_items, n_genres) which genres an item has; a film can have several."""
    genres = {}
    for line in movies.read_text(encoding="latin-1").splitlines():
        number, _, names = line.split("::")
        genres[int(number)] = names.split("|")
    names = sorted({name for of_film in genres.values() for name in of_film})
    return np.array([[name in genres[item] for name in names] for item in items])


def purity(codes: np.ndarray, genres: np.ndarray) -> float:
    """Share of items that have the genre that is most common among the items of their code."""
    members = np.zeros((codes.max() + 1, genres.shape[1]))
    np.add.at(members, codes, genres)
    return float(members.max(axis=1).sum() / len(codes))


def lift(codes: np.ndarray, genres: np.ndarray) -> float:
    """Purity where each genre counts by its rarity: mean over items of the best genre's lift."""
    members = np.zeros((codes.max() + 1, genres.shape[1]))
    np.add.at(members, codes, genres)
    shares = members / np.maximum(np.bincount(codes), 1)[:, None]
    information = np.where(shares > 0, shares * np.log2(np.maximum(shares, 1e-12) /
                           genres.mean(axis=0)), 0)  # fmt: skip
    return float(information.sum(axis=1)[codes].mean())


def say_purity(name: str, codes: np.ndarray, genres: np.ndarray) -> None:
    """Print how pure the codes of each level are, beside the same codes shuffled."""
    rng = np.random.default_rng(0)
    for level, of_level in enumerate(codes.T):
        shuffled = [purity(rng.permutation(of_level), genres) for _ in range(N_SHUFFLES)]
        by_chance = [lift(rng.permutation(of_level), genres) for _ in range(N_SHUFFLES)]
        print(
            f"{name} level {level}: purity {purity(of_level, genres):.3f}, shuffled "
            f"{np.mean(shuffled):.3f} (sd {np.std(shuffled):.3f}); information "
            f"{lift(of_level, genres):.3f} bits, shuffled {np.mean(by_chance):.3f}"
        )


def say_book(name: str, book: Codebook, seconds: float) -> None:
    """Print error, use and cost of a codebook."""
    entropy = [code_entropy(np.bincount(level, minlength=book.n_codes)) for level in book.codes.T]
    dead = [int((np.bincount(level, minlength=book.n_codes) == 0).sum()) for level in book.codes.T]
    print(
        f"{name}: mse {[round(e, 4) for e in book.mse]}, entropy bits "
        f"{[round(e, 2) for e in entropy]} of {np.log2(book.n_codes):.0f}, dead {dead}, "
        f"distinct code triples {len(np.unique(book.codes, axis=0))} of {len(book.codes)}, "
        f"{seconds:.1f} CPU s"
    )


def say_drift(vectors: np.ndarray, first: Codebook, fitted_on: np.ndarray) -> None:
    """Print what moves between two nights: another seed, fewer items, both ways to start."""
    rng = np.random.default_rng(0)
    fewer = np.sort(rng.permutation(fitted_on)[: len(fitted_on) * 99 // 100])
    nights = {
        "the same items, anew with seed 1": (CodebookConfig(start="anew", seed=1), fitted_on),
        "the same items, anew with seed 2": (CodebookConfig(start="anew", seed=2), fitted_on),
        "1 % fewer train items, anew with the same seed": (CodebookConfig(start="anew"), fewer),
        "the same items, from the last codes": (CodebookConfig(), fitted_on),
        "1 % fewer train items, from the last codes": (CodebookConfig(), fewer),
    }
    for name, (config, rows) in nights.items():
        book = fit_codebook(vectors, config, rows, first.codes)
        moved = ", ".join(f"{d.changed_unmatched:.3f} -> {d.changed:.3f}" for d in book.drift)
        print(f"drift, {name}: {moved}; mse {[round(e, 4) for e in book.mse]}")


def mrr(targets: np.ndarray, held_out: np.ndarray, n_candidates: int = 1_000) -> str:
    """Mean reciprocal rank of a user's own later taste among those of others, and its error."""
    rng = np.random.default_rng(0)
    ranks = []
    for user in range(len(targets)):
        others = rng.choice(len(targets), min(n_candidates, len(targets)) - 1, replace=False)
        others = others[others != user]
        own = float(targets[user] @ held_out[user])
        ranks.append(1 + int((held_out[others] @ targets[user] > own).sum()))
    found = 1 / np.array(ranks)
    return f"{found.mean():.3f} +- {found.std() / np.sqrt(len(found)):.3f}"


def say_half_and_half(vectors: np.ndarray, kinds: dict[str, np.ndarray], splits: object) -> None:
    """Does the profile of a user's first half of train find that of the second half?"""
    rows = splits.filter(pc.equal(splits["split"], "train"))  # type: ignore[attr-defined]
    user_ids = rows["user_id"].combine_chunks().dictionary_encode()
    users = user_ids.indices.to_numpy().astype(np.int64)
    items = rows["item"].to_numpy()
    labels = rows["label"].to_numpy().astype(np.float32)
    times = pc.cast(rows["rated_at"], "int64").to_numpy()
    order = np.lexsort((times, users))
    n_of = np.bincount(users)
    place = np.empty(len(users), np.int64)
    place[order] = np.arange(len(users)) - np.repeat(np.cumsum(n_of) - n_of, n_of)
    is_first = place < n_of[users] // 2
    enough = n_of >= 20
    as_of, n_users = int(times.max()) + 1, len(n_of)
    halves = [
        content_histograms(users[m], items[m], labels[m], times[m], vectors, as_of, n_users,
                           ProfileConfig(decay_days=None))
        for m in (is_first, ~is_first)
    ]  # fmt: skip
    everybody = vectors[items].mean(axis=0)
    config = ProfileConfig(decay_days=None)
    later = content_profiles(halves[1], everybody, ProfileConfig(decay_days=None, pseudo_counts=0))
    targets = {"content": content_profiles(halves[0], everybody, config)}
    for name, codes in kinds.items():
        n_codes = int(codes.max()) + 1
        lifted = lifted_centroids(vectors, codes, n_codes)
        of_residuals = lifted_centroids(vectors, codes, n_codes, lift="residuals")
        prior = global_histogram(items, codes, n_codes)
        sums = user_histograms(users[is_first], items[is_first], labels[is_first],
                               times[is_first], codes, as_of, n_users, n_codes, config)  # fmt: skip
        for vote, sharpness in (("soft", 1.0), ("soft", 2.0), ("hard", 1.0)):
            own = ProfileConfig(decay_days=None, vote=vote, sharpness=sharpness)
            made = profile_targets(profiles_of(sums, prior, own), lifted)
            targets[f"{name} {vote} {sharpness:g}"] = merged_targets(made)
            if (vote, sharpness) == ("soft", 1.0):
                made = profile_targets(profiles_of(sums, prior, own), of_residuals)
                targets[f"{name} soft 1, residuals lifted"] = merged_targets(made)
    centre = later[enough].mean(axis=0)
    for name, each in targets.items():
        mine = each[enough] - each[enough].mean(axis=0)
        mine /= np.maximum(np.linalg.norm(mine, axis=1, keepdims=True), 1e-12)
        theirs = later[enough] - centre
        theirs /= np.maximum(np.linalg.norm(theirs, axis=1, keepdims=True), 1e-12)
        permuted = np.random.default_rng(1).permutation(len(mine))
        print(
            f"halves, {name}: MRR {mrr(mine, theirs)}, permuted "
            f"{mrr(mine[permuted], theirs)} ({len(mine)} users)"
        )


def main(folder: Path, home: Home, day: date) -> None:
    """Print the figures of docs/profiles.md."""
    with Run("reader", day, Config(), home) as run:
        semantics, splits = run.read(ITEM_SEMANTICS), run.read(SPLITS)
        labels = run.read(ITEM_LABELS) if home.manifest("labels", day).exists() else None
    items, vectors = semantics["item_id"].to_pylist(), as_matrix(semantics["vector"])
    rows = pc.index_in(splits["item_id"], value_set=semantics["item_id"].combine_chunks())
    splits = splits.append_column("item", pc.cast(rows, "int64"))
    trained = splits.filter(pc.equal(splits["split"], "train"))["item"].unique().to_numpy()
    fitted_on = np.sort(trained)
    genres = genres_of(folder / "movies.dat", items)
    books = []
    for seed in SEEDS:
        started = time.process_time()
        books.append(fit_codebook(vectors, CodebookConfig(seed=seed), fitted_on))
        say_book(f"seed {seed}", books[-1], time.process_time() - started)
    say_drift(vectors, books[0], fitted_on)
    say_purity("codes", books[0].codes, genres)
    kinds = {"codes": books[0].codes}
    if labels is not None:
        kinds["labels"] = codes_matrix(labels["codes"])
        say_purity("labels", kinds["labels"], genres)
    say_half_and_half(vectors, kinds, splits)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Home(Path(sys.argv[2])), date.fromisoformat(sys.argv[3]))
