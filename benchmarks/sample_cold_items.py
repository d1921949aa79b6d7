"""Whether an LLM with soft tokens is above matrix factorisation on items that train has not seen.

    python benchmarks/sample_cold_items.py /tmp/cold --seeds 3 --tokens 8000

On the sample the truth is planted: taste for the topic that a title names decides, and 40 % of the
test rows are of items without a train row. Shared jobs run once below WORK; then each seed fits the
factors with and without alignment, and tunes soft tokens alone (the night's default) and on top of
the control. Labels are what a warehouse has; beside them stands Spearman's correlation with the
planted probability, which no warehouse has. A second start redoes no job that stands.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from llm_homes import lend, run_checked
from numpy.typing import NDArray
from scipy.stats import spearmanr

from jobs.datasets import (
    CALIBRATION,
    CONTROL_LOGITS,
    DOMAINS,
    HISTORIES,
    ITEM_TEXTS,
    SPLITS,
)
from jobs.files import write_atomically
from jobs.home import Home
from jobs.job import Config, Run
from jobs.launch import TUNING_TOKENS, tuning_flags
from jobs.llm.backbone import DEFAULT_BACKBONE, load, resolve
from jobs.manifest import code_version
from jobs.prepare.sample import write_sample
from jobs.report.metrics import auc, paired_user_bootstrap, uauc
from jobs.score.calibration import Calibration
from jobs.score.factors import MatrixFactorisation
from jobs.tokens.tuned import Tuned, TunedFiles

DAY = date(2026, 3, 2)
RESULT = Path(__file__).resolve().parent / "results" / "sample-cold-items.json"
BATCH_TOKENS = 2_048

Logits = NDArray[np.float64]


def prepared(work: Path, tokens: int) -> Home:
    """A home that holds what all seeds read."""
    home = Home(work / "shared")
    write_sample(home.raw / "sample")
    run_checked("ingest", home, day=DAY, source=str(home.raw / "sample"))
    for job in ("splits", "item_texts"):
        run_checked(job, home, day=DAY)
    run_checked("adapt", home, day=DAY, **tuning_flags(tokens))
    run_checked("distil", home, day=DAY, adapter=DAY)
    run_checked("control", home, day=DAY)
    return home


class Night:
    """The rows of test, and what is asked of them.

    Attributes:
        rows: SPLITS.
        asked: (n rows of SPLITS,) test rows of items without a train row.
    """

    def __init__(self, home: Home) -> None:
        probe = Run("probe", DAY, Config(), home)
        self.rows, self.histories = probe.read(SPLITS), probe.read(HISTORIES)
        self.texts = probe.read(ITEM_TEXTS)
        self.noun = probe.read(DOMAINS)["item_noun"][0].as_py()
        self.split = np.asarray(self.rows["split"])
        known = self.rows.filter(pc.equal(self.rows["split"], "train"))["item_id"]
        cold = np.asarray(pc.invert(pc.is_in(self.rows["item_id"], known.combine_chunks())))
        self.asked = (self.split == "test") & cold
        self.truth = self._truth(home)
        self.control = self._control(probe.read(CONTROL_LOGITS))

    def _truth(self, home: Home) -> Logits:
        events = pq.read_table(home.raw / "sample" / "truth" / "events.parquet")
        keys = zip(events["user_id"].to_pylist(), events["item_id"].to_pylist(), strict=True)
        chance = dict(zip(keys, events["probability"].to_pylist(), strict=True))
        pairs = zip(self.rows["user_id"].to_pylist(), self.rows["item_id"].to_pylist(), strict=True)
        return np.array([chance[pair] for pair in pairs])

    def _control(self, table: pa.Table) -> Logits:
        keys = zip(table["split"].to_pylist(), table["row"].to_pylist(), strict=True)
        logits = dict(zip(keys, table["logit"].to_pylist(), strict=True))
        pairs = zip(self.rows["split"].to_pylist(), self.rows["row"].to_pylist(), strict=True)
        return np.array([logits[pair] for pair in pairs], np.float64)

    def factors(self, home: Home) -> Logits:
        """What the factors of a home say of every row."""
        model = MatrixFactorisation.of_night(Run("probe", DAY, Config(), home))
        histories = self.histories if model.taste is not None else None
        return model.score(self.rows, histories).logits.astype(np.float64)

    def llm(self, home: Home) -> Logits:
        """What the tuned LLM of a home says of the test rows; NaN elsewhere."""
        files = TunedFiles.of_run(Run("probe", DAY, Config(), home))
        tuned = Tuned(files, load(resolve(DEFAULT_BACKBONE, home.cache)))
        reader = tuned.reader(self.rows, self.histories, self.texts, self.noun)
        logits = np.full(len(self.split), np.nan)
        with tuned.scorer(reader, BATCH_TOKENS) as scorer:
            at, found = scorer.score(reader.rows("test").sequences)
        logits[at] = found
        return logits

    def judged(self, logits: Logits) -> dict[str, float]:
        """AUC, UAUC and the correlation with the planted probability, on the rows asked."""
        users, labels = self.rows["user_id"].to_numpy(), self.rows["label"].to_numpy()
        users, labels, logits = users[self.asked], labels[self.asked], logits[self.asked]
        value, n_users = uauc(users, labels, logits)
        planted = float(spearmanr(logits, self.truth[self.asked]).statistic)
        return {"auc": auc(labels, logits), "uauc": value, "n_users": n_users, "planted": planted}

    def differs(self, a: Logits, b: Logits) -> dict[str, Any]:
        """The first less the second, with 95 % intervals over users."""
        users, labels = self.rows["user_id"].to_numpy(), self.rows["label"].to_numpy()
        columns = (each[self.asked] for each in (users, labels, a, b))
        found = paired_user_bootstrap(*columns)
        return {
            name: interval and asdict(interval)
            for name, interval in (("auc", found.auc), ("uauc", found.uauc))
        }


def of_seed(shared: Home, night: Night, work: Path, seed: int, tokens: int) -> dict[str, Logits]:
    """Logits of all systems with one seed, by name."""
    plain, alone, behind = (Home(work / f"{name}-{seed}") for name in ("plain", "alone", "behind"))
    lend(shared, plain, {"align"})
    run_checked("align", plain, day=DAY, seed=seed, alignment_weight=0, user_alignment_weight=0)
    lend(shared, alone, {"align", "tune", "calibrate"})
    run_checked("align", alone, day=DAY, seed=seed)
    lend(alone, behind, {"tune", "calibrate"})
    found = {"factors, not aligned": night.factors(plain), "factors": night.factors(alone)}
    found["control"] = night.control
    for home, offset in ((alone, "none"), (behind, "control")):
        run_checked(
            "tune", home, day=DAY, adapter=DAY, seed=seed, offset=offset, **tuning_flags(tokens)
        )
        run_checked("calibrate", home, day=DAY)
        links = Calibration.model_validate_json(home.output(CALIBRATION, DAY).read_text())
        own = night.llm(home)
        if offset == "none":
            both = {"llm": own, "mf": found["factors"]}
            found["LLM, soft tokens"] = own
            found["LLM, soft tokens + factors"] = links.link("fused").linear(both)
        else:
            found["control + LLM, soft tokens"] = night.control + links.beside_control * own
            found["weight"] = np.array([links.beside_control])
    return found


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=TUNING_TOKENS, help="of each stage")
    parser.add_argument("--output", type=Path, default=RESULT)
    given = parser.parse_args()
    began = time.monotonic()
    shared = prepared(given.work.absolute(), given.tokens)
    night = Night(shared)
    systems: dict[str, list[dict[str, float]]] = {}
    weights, differences = [], {}
    for seed in range(given.seeds):
        found = of_seed(shared, night, given.work.absolute(), seed, given.tokens)
        weights.append(float(found.pop("weight")[0]))
        for name, logits in found.items():
            systems.setdefault(name, []).append(night.judged(logits))
        if seed == 0:
            differences = {
                f"{name} less {base}": night.differs(found[name], found[base])
                for base in ("factors, not aligned", "factors", "control")
                for name in found
                if "LLM" in name
            }
    result = {
        "what": "test rows of items without a train row, sample of scale 1, seed 1",
        "n_rows": int(night.asked.sum()),
        "tokens": given.tokens,
        "systems": systems,
        "weights_beside_control": weights,
        "differences_of_seed_0": differences,
        "seconds": round(time.monotonic() - began),
        "date": datetime.now(UTC).date().isoformat(),
        "tidemark": code_version(),
    }
    write_atomically(given.output, json.dumps(result, indent=1) + "\n")
    print(f"{'system':<30} {'AUC':>14} {'UAUC':>14} {'planted':>8}")
    for name, each in systems.items():
        means = [np.mean([seed[figure] for seed in each]) for figure in ("auc", "uauc", "planted")]
        spread = np.std([seed["auc"] for seed in each])
        print(f"{name:<30} {means[0]:.4f} +- {spread:.4f} {means[1]:>14.4f} {means[2]:>8.3f}")
    print("weights beside the control:", ", ".join(f"{each:.2f}" for each in weights))


if __name__ == "__main__":
    main()
