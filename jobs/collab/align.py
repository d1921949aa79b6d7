"""Aligned matrix factorisation: user and item factors, biases, and the projector to the LLM."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

import numpy as np
import pyarrow.compute as pc
from pydantic import Field

from jobs.collab.agreement import N_NEIGHBOURS, Agreement, agreement_of, permuted_rows
from jobs.collab.align_tables import EvidenceConfig, Night, factor_tables, read_night
from jobs.collab.factors import Factors, Floats, Ints, Ratings
from jobs.collab.history_map import HistoryConfig, HistoryEvidence, HistoryMap
from jobs.collab.infonce import InfoNceConfig
from jobs.collab.memory import estimate
from jobs.collab.mf import Epoch, Fit, Keeper, MfConfig, Start, first_factors, fit
from jobs.collab.resume import EpochKeeper
from jobs.collab.sides import DualAlignment, Targets
from jobs.collab.warm_start import (
    COMMON_TASTE,
    FITTED_ON_VALID,
    Previous,
    WarmStartConfig,
    previous_of,
)
from jobs.datasets import ITEM_FACTORS, PROJECTORS, USER_FACTORS
from jobs.errors import JobError
from jobs.job import DEPLOYMENT, Declared, Run, main
from jobs.llm.backbone import chosen_device
from jobs.llm.carry_over import is_of_the_same_version
from jobs.llm.checkpoints import Checkpoints
from jobs.llm.fingerprint import sha256_json
from jobs.manifest import code_version
from jobs.progress import progress
from jobs.tokens.projector import Projector
from jobs.tokens.threads import torch_threads


class AlignConfig(MfConfig, InfoNceConfig, HistoryConfig, EvidenceConfig, WarmStartConfig):
    """Matrix factorisation with biases, its factors aligned to the LLM's space.

    The defaults are tuned on the valid AUC of MovieLens-1M; docs/alignment.md has the record.
    """

    permuted: Literal["none", "items", "users"] = Field(
        default="none",
        description="null control: deal the item embeddings, or the users' profiles, out at random",
    )
    refit_on_valid: bool = Field(
        default=False,
        description="fit train and valid together for the number of epochs that valid has chosen",
    )
    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:1, ...")
    n_threads: int = Field(default=1, gt=0, description="torch threads; the last bits depend on it")
    checkpoint_s: float = Field(
        default=10.0,
        ge=0,
        description="seconds between checkpoints, taken after an epoch; 0: after every one",
        json_schema_extra=DEPLOYMENT,
    )


@dataclass(frozen=True)
class Aligned:
    """Factors, the weights that go with them, and how they came about.

    Attributes:
        fit: the factors of the best epoch, and what of them is whose.
        projector: of items, and of users unless `user_projector` is another.
        user_projector: the same object where it is shared.
        history_map: (d_x, d) from centred profiles to factors; None without cold users.
        semantics: (n_items, d_llm) of unit length where they learned, else None.
        drift: ||E' - E|| / ||E|| of those.
        before: of the items, with the first factors and the first projector.
        after: the same when training had ended.
        users_before: of the users that have a profile; None without profiles.
        users_after: likewise.
    """

    fit: Fit
    projector: Projector
    user_projector: Projector
    history_map: Floats | None
    semantics: Floats | None
    drift: float | None
    before: Agreement
    after: Agreement
    users_before: Agreement | None
    users_after: Agreement | None

    @property
    def factors(self) -> Factors:
        """Of the best epoch."""
        return self.fit.factors

    @property
    def best(self) -> Epoch:
        """The epoch that was kept."""
        return self.fit.best

    @property
    def n_epochs(self) -> int:
        """How many there were."""
        return self.fit.n_epochs


def align(
    train: Ratings,
    valid: Ratings,
    n_users: int,
    targets: Floats,
    groups: Ints,
    config: AlignConfig,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    *,
    profiles: Floats | None = None,
    history: HistoryEvidence | None = None,
    previous: Previous | None = None,
    keeper: Keeper | None = None,
) -> Aligned:
    """Factors that, projected, point where the item embeddings and the users' profiles point.

    With both weights 0 it is the plain matrix factorisation, bit for bit, and a random projector.

    Args:
        train: events of known users and items.
        valid: events to stop on.
        n_users: rows of the user table.
        targets: (n_items, d_llm) item embeddings of unit length; the whole catalogue.
        groups: (n_items,) equal where the text is equal.
        config: see `AlignConfig`.
        on_epoch: told after every epoch.
        profiles: (n_users, d_llm) profiles in the LLM's space, of unit length, from train rows
            alone; zero for a user without. Needed where `user_alignment_weight` is positive.
        history: needed where `cold_users` is "profile".
        previous: an earlier version's weights to start from.
        keeper: where the standing is kept from epoch to epoch.

    Raises:
        JobError: as `jobs.collab.mf.fit`, or evidence that the config asks for is missing.
    """
    device = chosen_device(config.device)
    check_evidence(config, profiles, history)
    items, users = _targets(train, targets, groups, profiles, config)
    alignment = DualAlignment(
        items, users, config.n_factors, config, config.learning_rate, config.seed, device
    )
    start = Start(
        first_factors(train, n_users, len(targets), config), np.zeros(config.n_factors, np.float32)
    )
    mapped = None
    if config.cold_users == "profile" and history is not None:
        rate, d = config.learning_rate, config.n_factors
        mapped = HistoryMap(history, d, config, rate, config.seed, device)
    if previous is not None:
        previous.give_weights(alignment, mapped)
        start = previous.merged_into(start, mapped)
    unseen = np.setdiff1d(np.arange(len(targets)), train.items)
    before = _agreements(start.factors, alignment, items, users, unseen)
    fitted = fit(
        train,
        valid,
        n_users,
        len(targets),
        config,
        alignment if any(alignment.weights) else None,
        on_epoch,
        history=mapped,
        valid_sees=None if history is None else history.valid,
        start=start,
        keeper=keeper,
        device=device,
    )
    after = _agreements(fitted.factors, alignment, items, users, unseen)
    learned = alignment.semantics
    return Aligned(
        fit=fitted,
        projector=_on_cpu(alignment.projector),
        user_projector=_on_cpu(alignment.user_projector),
        history_map=None if mapped is None else mapped.table.weights.cpu().numpy(),
        semantics=None if learned is None else learned.weights.cpu().numpy(),
        drift=alignment.drift(),
        before=before[0],
        after=after[0],
        users_before=before[1],
        users_after=after[1],
    )


def check_evidence(
    config: AlignConfig, profiles: Floats | None, history: HistoryEvidence | None
) -> None:
    """Refuse a config that asks for what was not given."""
    if config.user_alignment_weight > 0 and profiles is None:
        raise JobError(
            f"user_alignment_weight is {config.user_alignment_weight}, and no user profiles are "
            "given; give them, or set it to 0"
        )
    if config.cold_users == "profile" and history is None:
        raise JobError(
            'cold_users is "profile", and no histories are given; give them, or set it to "none"'
        )


def _targets(
    train: Ratings, targets: Floats, groups: Ints, profiles: Floats | None, config: AlignConfig
) -> tuple[Targets, Targets | None]:
    """Both sides' targets, one of them dealt out at random where the config asks for that."""
    if config.permuted == "items":
        targets = permuted_rows(targets, config.seed)
        groups = np.arange(len(targets))  # twins no longer share a target
    if config.permuted == "users" and profiles is not None:
        profiles = permuted_rows(profiles, config.seed)
    popularity = np.bincount(train.items, minlength=len(targets))
    items = Targets(targets, groups, popularity)
    return items, None if profiles is None else Targets(profiles)


def _agreements(
    factors: Factors,
    alignment: DualAlignment,
    items: Targets,
    users: Targets | None,
    unseen: Ints,
) -> tuple[Agreement, Agreement | None]:
    project = _on_cpu(alignment.projector).project
    found = agreement_of(factors.item_factors, project, items.vectors, unseen)
    if users is None:
        return found, None
    project = _on_cpu(alignment.user_projector).project
    rows = np.flatnonzero(np.abs(users.vectors).max(axis=1, initial=0) > 0)
    nobody = np.zeros(0, np.int64)
    return found, agreement_of(factors.user_factors[rows], project, users.vectors[rows], nobody)


def _on_cpu(projector: Projector) -> Projector:
    """A copy; a module's own `cpu` would move the one that learns."""
    return Projector.of(projector.tensors())


# -- the job --------------------------------------------------------------------------------------


def _record(run: Run, aligned: Aligned, chosen: Epoch, n_unseen: int) -> None:
    figures = {
        "valid_auc": chosen.valid_auc,
        "best_epoch": chosen.number,
        "n_epochs": aligned.n_epochs,
        "train_log_loss": aligned.best.loss,
        "alignment_loss": aligned.best.alignment_loss,
        "user_alignment_loss": aligned.best.user_alignment_loss or None,
        **_told(aligned.before, aligned.after, ""),
        "n_unseen_items": n_unseen,
        "semantics_drift": aligned.drift,
        "is_compiled": float(aligned.fit.is_fused),
    }
    if aligned.users_before is not None and aligned.users_after is not None:
        figures |= _told(aligned.users_before, aligned.users_after, "user_")
    for name, value in figures.items():
        if value is not None:
            run.metric(name, value)


def _told(before: Agreement, after: Agreement, side: str) -> dict[str, float | None]:
    overlap = f"{side}neighbour_overlap_{N_NEIGHBOURS}"
    return {
        f"{side}mean_cosine_before": before.cosine,
        f"{side}mean_cosine": after.cosine,
        f"{overlap}_before": before.overlap,
        overlap: after.overlap,
        f"{overlap}_unseen": after.overlap_unseen,
    }


def _checkpoints(
    config: AlignConfig, run: Run, previous_sha256: str | None, n_epochs: int | None
) -> Checkpoints:
    """Those of a run with this config, code and input; others are of no use to it."""
    identity = {
        "config": config.model_dump(mode="json", exclude={"checkpoint_s"}),
        "code": code_version(),
        "inputs": {each.name: each.sha256 for each in run.inputs},
        "previous": previous_sha256,
        "n_epochs": n_epochs,
        "device": str(chosen_device(config.device)),
        "compiled": find_spec("numba") is not None,  # its sums have another order
    }
    folder = run.home.run(run.job, run.day) / "checkpoints"
    run.discard(folder)
    return Checkpoints(folder / sha256_json(identity)[:16])


def _fitted(
    config: AlignConfig, run: Run, n_epochs: int | None
) -> tuple[Night, Aligned, str | None]:
    """The night and a fit to it, and the sha256 of the version that it began with.

    Args:
        config: see `AlignConfig`.
        run: reads the tables.
        n_epochs: fit train and valid together for so many; None: stop on valid.
    """
    night = read_night(
        config,
        run,
        wants_profiles=config.user_alignment_weight > 0,
        wants_history=config.cold_users == "profile",
        valid_is_train=n_epochs is not None,
    )
    shape = (config.n_factors, config.n_hidden, night.semantics.shape[1])
    previous, sha256 = previous_of(config, run, night, shape)
    keeper = EpochKeeper(_checkpoints(config, run, sha256, n_epochs), config.checkpoint_s)
    if n_epochs is not None:
        config = config.model_copy(update={"epochs_without_valid": n_epochs})
    with ExitStack() as stack:
        stack.enter_context(torch_threads(config.n_threads))
        advance = stack.enter_context(progress("align", n_epochs or config.max_epochs, "epochs"))
        aligned = align(
            night.train,
            night.valid,
            len(night.users),
            night.semantics,
            night.groups,
            config,
            on_epoch=lambda epoch: advance(1, valid_auc=epoch.valid_auc or 0.0, loss=epoch.loss),
            profiles=night.profiles,
            history=night.history,
            previous=previous,
            keeper=keeper,
        )
    return night, aligned, sha256


def job(config: AlignConfig, run: Run) -> None:
    """Fit on the train rows, stop on the valid rows; the test rows are never looked at.

    Raises:
        JobError: users have a projector of their own, which no reader of soft tokens knows of.
    """
    if config.user_projector == "own" and config.user_alignment_weight > 0:
        raise JobError(
            'user_projector is "own": users and items of a version share one projector, as soft '
            'tokens are made by it; give "shared", and compare the two on the bench'
        )
    night, aligned, sha256 = _fitted(config, run, None)
    chosen = aligned.best
    if config.refit_on_valid:
        night, aligned, sha256 = _fitted(config, run, chosen.number)
    user_table, item_table = factor_tables(night, aligned.factors)
    run.write(USER_FACTORS, user_table)
    run.write(ITEM_FACTORS, item_table)
    run.write_tensors(PROJECTORS, tensors_of(aligned, config))
    _record(run, aligned, chosen, int(pc.sum(pc.equal(item_table["n_events"], 0)).as_py()))
    run.result = {"previous_version_sha256": sha256}


def tensors_of(aligned: Aligned, config: AlignConfig) -> dict[str, Floats]:
    """PROJECTORS: the projector and all else of a model that is no row of a user or an item."""
    fitted = aligned.fit
    tensors = {
        **aligned.projector.tensors(),
        "global_bias": np.array([fitted.factors.global_bias], dtype=np.float32),
        "temperature": np.array([config.temperature], dtype=np.float32),
        COMMON_TASTE: fitted.common_taste,
    }
    if fitted.history is not None:
        tensors |= fitted.history.tensors()
    if config.refit_on_valid:
        tensors[FITTED_ON_VALID] = np.ones(1, dtype=np.float32)
    if aligned.semantics is not None:
        tensors["semantics"] = aligned.semantics
    return tensors


DECLARED = Declared("align", AlignConfig, job, intact=is_of_the_same_version, estimate=estimate)

if __name__ == "__main__":
    main(DECLARED)
