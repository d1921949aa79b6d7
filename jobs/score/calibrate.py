"""Calibrate: what the night's logits mean as probabilities, from the valid rows; before publish."""

from __future__ import annotations

from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from jobs.datasets import CALIBRATION, HISTORIES, SPLITS, TUNE_VALID
from jobs.errors import NotAvailable
from jobs.home import Home
from jobs.job import Config, Declared, Run, load_manifest, main
from jobs.manifest import Manifest
from jobs.score.calibration import (
    Calibration,
    Link,
    Logits,
    fitted_blend,
    fitted_link,
    weight_beside,
)
from jobs.score.factors import MatrixFactorisation


class CalibrateConfig(Config):
    """A line for each model on the valid rows, and one that blends the LLM with the factors.

    The factors' logits are computed here, those of the LLM are what tune found on the valid rows
    with the weights that it kept; without them the factors alone are calibrated.
    """

    soft_tokens: bool = Field(
        default=True, description="with the LLM, where the day has any; no: as if it had none"
    )


def calibrated(valid: pa.Table, mf: Logits, tuned: pa.Table | None) -> Calibration:
    """The links of all models whose logits are known.

    Args:
        valid: the valid rows of SPLITS.
        mf: the factors' logits of all of them, by the name `mf`.
        tuned: TUNE_VALID; the LLM is calibrated on the rows that it names. None: no LLM.

    Raises:
        NotAvailable: it names a row that is no valid row.
    """
    labels = valid["label"].to_numpy()
    links = {"mf": fitted_link("mf", labels, mf)}
    weight = 1.0
    if tuned is not None:
        places = pc.index_in(tuned["row"].combine_chunks(), valid["row"].combine_chunks())
        if places.null_count:
            row = tuned["row"][pc.index(pc.is_null(places), True).as_py()].as_py()
            raise NotAvailable(
                f"{TUNE_VALID.name} scores valid row {row}, which {SPLITS.name} does not hold; run "
                "job 'tune' of the day again"
            )
        some = places.to_numpy()
        # What the LLM says on top of a control's logit is a score only together with it.
        own, control = tuned["logit"].to_numpy(), tuned["offset"].to_numpy()
        if control.any():
            weight = weight_beside(labels[some], control, own)
        both = {"mf": mf["mf"][some], "llm": control + np.float32(weight) * own}
        links["llm"] = fitted_link("llm", labels[some], both)
        links["fused"] = fitted_blend(labels[some], both, links["mf"])
    return Calibration(models=links, beside_control=weight)


def _is_tuned(home: Home, day: date) -> bool:
    manifest = load_manifest(home, TUNE_VALID.producer, day)
    return manifest is not None and manifest.output(TUNE_VALID.name) is not None


def job(config: CalibrateConfig, run: Run) -> None:
    """Fit the links of the night's models."""
    model = MatrixFactorisation.of_night(run)
    splits = run.read(SPLITS)
    valid = splits.filter(pc.equal(splits["split"], "valid"))
    histories = run.read(HISTORIES) if model.taste is not None else None
    mf = {"mf": model.score(valid, histories).logits}
    is_tuned = config.soft_tokens and _is_tuned(run.home, run.day)
    tuned = run.read(TUNE_VALID) if is_tuned else None
    found = calibrated(valid, mf, tuned)
    for name, link in found.models.items():
        _tell(name, link, run)
    run.metric("weight_beside_control", found.beside_control)
    run.write_text(CALIBRATION, found.model_dump_json(indent=1) + "\n")
    run.result = {name: link.is_fitted for name, link in found.models.items()}


def _tell(name: str, link: Link, run: Run) -> None:
    run.metric(f"n_rows.{name}", link.n_rows)
    for figure in ("log_loss", "ece"):
        for when, value in getattr(link, figure).model_dump().items():
            if value is not None and np.isfinite(value):
                run.metric(f"{figure}.{name}.{when}", value)
    if link.why:
        what = "without the LLM" if link.is_fitted else "not calibrated"
        run.log.warning(what, model=name, why=link.why)


def is_of_what_was_made(manifest: Manifest, home: Home) -> bool:
    """Whether an earlier run knew of the LLM's logits, if there are any by now."""
    asked = manifest.config.get("soft_tokens", True)
    knew = TUNE_VALID.name in {each.name for each in manifest.inputs}
    return knew or not asked or not _is_tuned(home, date.fromisoformat(manifest.day))


DECLARED = Declared("calibrate", CalibrateConfig, job, intact=is_of_what_was_made)

if __name__ == "__main__":
    main(DECLARED)
