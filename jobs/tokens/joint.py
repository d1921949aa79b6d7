"""What joint tuning holds on to beside the clicks: targets of tokens, the start of a bias."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from jobs.llm.sequences import Batch
from jobs.tokens.alignment import DEFAULT, ContrastConfig, alignment_loss
from jobs.tokens.mappers import Mapper
from jobs.tokens.soft_inputs import KINDS, SoftInputs
from jobs.tokens.targets import TokenTargets
from jobs.tokens.tune_config import LearningConfig
from jobs.tokens.warm_up import WarmUpConfig, warm_up


@dataclass(frozen=True)
class JointPenalty:
    """weight (L_user + L_item) over the ids of a batch (methods.md 7.6), and the bias's own.

    Attributes:
        users: (n_users, n_tokens, d_llm) targets; None: users are not aligned.
        items: (n_items, 1, d_llm) targets; None: items are not aligned.
        weight: of the contrastive losses.
        steering_weight: of a learned bias's distance from where it began.
        contrast: temperature and masks.
    """

    users: Tensor | None
    items: Tensor | None
    weight: float
    steering_weight: float
    contrast: ContrastConfig = DEFAULT

    def to(self, device: torch.device) -> JointPenalty:
        """The same with its targets on `device`."""
        users, items = (None if t is None else t.to(device) for t in (self.users, self.items))
        return replace(self, users=users, items=items)

    def __call__(self, soft: SoftInputs, batch: Batch) -> Tensor:
        """Scalar, on the batch's device."""
        penalty = torch.zeros((), device=batch.input_ids.device)
        if soft.bias is not None:
            penalty = penalty + self.steering_weight * soft.bias.penalty()
        if not self.weight or not len(batch.soft_of):
            return penalty
        sides = [
            _tokens_and_targets(soft, batch, "user", self.users),
            _tokens_and_targets(soft, batch, "item", self.items),
        ]
        (users, of_users), (items, of_items) = sides
        loss = alignment_loss(users, of_users, items, of_items, self.contrast)
        return penalty + self.weight * loss.to(penalty.device)


def _tokens_and_targets(
    soft: SoftInputs, batch: Batch, kind: str, targets: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """Tokens of the ids of one kind that a batch holds and that have a row, and their targets."""
    if targets is None or kind not in soft.mappers:
        return None, None
    ids = torch.unique(batch.soft_of[batch.soft_kind == int(KINDS[kind])])
    ids = ids[getattr(soft, f"knows_{kind}")[ids]]
    return soft.mappers[kind](soft.tables[kind][ids]), targets[ids]


def joint_penalty(config: LearningConfig, targets: TokenTargets | None) -> JointPenalty | None:
    """The penalty that the config asks for; None where it is always zero."""
    is_learned = config.steering_bias != "fixed"
    if targets is None and not is_learned:
        return None
    users = None if targets is None or targets.users is None else torch.from_numpy(targets.users)
    items = None if targets is None else torch.from_numpy(targets.items)
    return JointPenalty(
        users,
        items,
        config.alignment_weight if targets is not None else 0.0,
        config.steering_weight if is_learned else 0.0,
    )


def warm_up_all(
    soft: SoftInputs, targets: TokenTargets, max_epochs: int, mean_norm: float, seed: int
) -> dict[str, float]:
    """Warm up the user and the item mapper, each alone, their inputs fixed (methods.md 7.4).

    Returns:
        Figures for the manifest.
    """
    found: dict[str, float] = {}
    done: list[nn.Module] = []
    for kind, wanted in (("user", targets.users), ("item", targets.items)):
        mapper = dict(soft.mappers.items()).get(kind)
        if not isinstance(mapper, Mapper) or wanted is None or mapper in done:
            continue  # a shared mapper is aligned to the users' profiles alone
        known: Tensor = getattr(soft, f"knows_{kind}")
        inputs = soft.tables[kind].detach()[known]
        goals = torch.from_numpy(wanted)[known.cpu()]
        config = WarmUpConfig(max_epochs=max_epochs)
        found |= warm_up(mapper, inputs, goals, config, seed).figures(kind)
        mapper.match_norm(inputs, mean_norm)
        mapper.fold_scale()
        with torch.no_grad():
            soft.unknown[kind].copy_(mapper(inputs).mean(dim=0))
        done.append(mapper)
    return found
