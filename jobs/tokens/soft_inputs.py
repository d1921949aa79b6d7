"""Soft tokens of a batch, and the steering that goes with them: what the LLM reads beside text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from jobs.llm.events import Events
from jobs.llm.prompts import SoftKind
from jobs.llm.sequences import Batch
from jobs.llm.steering import Bias, soft_kinds, steering
from jobs.tokens.inputs import TokenInputs
from jobs.tokens.mappers import Mapper

KINDS = {"user": SoftKind.USER, "item": SoftKind.ITEM, "warm": SoftKind.WARM}
UserSource = Literal["factor", "history", "factor_or_history"]

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
# What stands in for a batch's soft tokens, (s, d_llm): an intervention of `jobs.tokens.probing`.
Intervention = Callable[[Tensor, Batch], Tensor]
Penalty = Callable[["SoftInputs", Batch], Tensor]


class SoftInputs(nn.Module):
    """Tables of inputs, a mapper for each kind of token, and a bias for each layer.

    A user who has no row is known by his history as of the event (`Batch.soft_end`); one without
    any history, and an item that nothing is known of, get the learned token `unknown`.

    Args:
        inputs: in the order of the reader's users and items.
        chains: of the same reader.
        mappers: by kind; one object under two kinds is shared between them.
        unknown: (n_tokens, d_llm) by kind.
        bias: of each layer; None: no steering.
        source: where a user's input comes from.
        learns_inputs: whether the tables learn too, as in SeLLa-Rec.

    Attributes:
        text_only: share of training sequences whose soft tokens are all `unknown`, so that the
            text alone stays enough (methods.md 7.6).
        strangers: share of training sequences whose user is known by history alone, as the users
            of tomorrow will be; it concerns sources that have both.
        intervention: applied to the soft tokens of every batch; None: nothing.
        extra: added to the loss; None: nothing.
    """

    def __init__(
        self,
        inputs: TokenInputs,
        chains: Events,
        mappers: Mapping[str, Mapper],
        unknown: Mapping[str, Tensor],
        bias: Bias | None = None,
        *,
        source: UserSource = "factor_or_history",
        learns_inputs: bool = False,
        text_only: float = 0.0,
        strangers: float = 0.0,
    ) -> None:
        super().__init__()
        self.mappers = nn.ModuleDict(mappers)
        self.unknown = nn.ParameterDict({k: nn.Parameter(v.clone()) for k, v in unknown.items()})
        self.bias = bias
        self.source, self.text_only, self.strangers = source, text_only, strangers
        self.intervention: Intervention | None = None
        self.extra: Penalty | None = None
        tables = {"user": inputs.users, "item": inputs.items, "warm": inputs.warm}
        known = {
            "user": inputs.knows_user,
            "item": inputs.knows_item,
            "warm": inputs.knows_warm,
        }
        self.tables = nn.ParameterDict(
            {
                kind: nn.Parameter(torch.tensor(tables[kind]), requires_grad=learns_inputs)
                for kind in mappers
            }
        )
        for kind in mappers:
            self.register_buffer(f"knows_{kind}", torch.tensor(known[kind]), persistent=False)
        self._history, self._knows_item = inputs.history, inputs.knows_item
        self._chains = chains

    # -- what a forward pass is given: jobs.llm.conditions.Conditions ----------------------------

    @property
    def is_random(self) -> bool:
        """Whether training draws which sequences go without."""
        return self.text_only > 0 or self.strangers > 0

    def given(self, batch: Batch, *, is_training: bool) -> dict[str, Any]:
        """`soft` and `steering` of `answer_logits`."""
        if not len(batch.soft_at):
            return {}
        soft = self.soft(batch, is_training=is_training)
        if self.intervention is not None:
            soft = self.intervention(soft, batch)
        found: dict[str, Any] = {"soft": soft}
        if self.bias is not None:
            shape = (batch.event.shape[0], batch.event.shape[1])
            kinds = soft_kinds(shape, batch.soft_sequence, batch.soft_at, batch.soft_kind)
            found["steering"] = steering(self.bias, kinds)
        return found

    def penalty(self, batch: Batch) -> Tensor:
        """What `extra` makes of the batch; zero without it."""
        if self.extra is None:
            return torch.zeros((), device=batch.input_ids.device)
        return self.extra(self, batch)

    # -- soft tokens -----------------------------------------------------------------------------

    def soft(self, batch: Batch, *, is_training: bool = False) -> Tensor:
        """(s, d_llm) in the order of `batch.soft_at`."""
        kinds = batch.soft_kind.long()
        parts, places = [], []
        for name, kind in KINDS.items():
            at = (kinds == int(kind)).nonzero()[:, 0]
            if len(at):
                parts.append(self._of_kind(name, batch, at, is_training))
                places.append(at)
        order = torch.cat(places).argsort()
        soft = torch.cat(parts)[order]
        if not (is_training and self.text_only):
            return soft
        without = self._drawn(batch, self.text_only)
        nulls = torch.cat([self.unknown[name] for name in self.unknown])
        starts = self._starts().to(kinds.device)
        return torch.where(without[:, None], nulls[starts[kinds] + batch.soft_nth.long()], soft)

    def _starts(self) -> Tensor:
        """Where the tokens of each kind begin among all `unknown` ones."""
        starts, start = torch.zeros(len(KINDS), dtype=torch.long), 0
        for name, tokens in self.unknown.items():
            starts[int(KINDS[name])] = start
            start += len(tokens)
        return starts

    def _drawn(self, batch: Batch, share: float) -> Tensor:
        """(s,) bool: the sequence of the token is one of a random `share`."""
        # On the CPU, so that every device draws the same.
        chosen = torch.rand(len(batch.event)) < share
        return chosen.to(batch.soft_sequence.device)[batch.soft_sequence]

    def _of_kind(self, name: str, batch: Batch, at: Tensor, is_training: bool) -> Tensor:
        if name == "user":
            return self._users(batch, at, is_training)
        which, inverse = torch.unique(batch.soft_of[at], return_inverse=True)
        tokens = self.mappers[name](self.tables[name][which])
        known = getattr(self, f"knows_{name}")[which]
        return self._chosen(name, tokens, known, inverse, batch.soft_nth[at])

    def _chosen(
        self, name: str, tokens: Tensor, known: Tensor, inverse: Tensor, nth: Tensor
    ) -> Tensor:
        """Of the tokens (u, n_tokens, d_llm) of each id, that which stands at each place."""
        tokens = torch.where(known[:, None, None], tokens, self.unknown[name].to(tokens.dtype))
        return tokens[inverse, nth.long()]

    def _users(self, batch: Batch, at: Tensor, is_training: bool) -> Tensor:
        """Tokens of users; each pair of a user and an end of his history is mapped once."""
        users, ends = batch.soft_of[at], batch.soft_end[at]
        by_row = self._by_row(batch, at, is_training)
        # A row does not depend on the end; -1 stands for it.
        pairs = torch.stack([users, torch.where(by_row, -1, ends)], dim=1)
        which, inverse = torch.unique(pairs, dim=0, return_inverse=True)
        table = self.tables["user"]
        inputs, known = table[which[:, 0]], which[:, 1] < 0
        by_history = (which[:, 1] >= 0).nonzero()[:, 0]
        if len(by_history):
            means, is_told = self._history_means(which[by_history].cpu().numpy())
            inputs = inputs.index_put((by_history,), torch.from_numpy(means).to(inputs))
            known = known.index_put((by_history,), torch.from_numpy(is_told).to(known.device))
        return self._chosen(
            "user", self.mappers["user"](inputs), known, inverse, batch.soft_nth[at]
        )

    def _by_row(self, batch: Batch, at: Tensor, is_training: bool) -> Tensor:
        """(n,) bool: the user's own row is read, not his history."""
        knows: Tensor = self.knows_user  # type: ignore[assignment] # a buffer
        if self.source == "history":
            return torch.zeros_like(at, dtype=torch.bool)
        by_row = knows[batch.soft_of[at]]
        if self.source == "factor":
            return by_row
        if is_training and self.strangers:
            by_row = by_row & ~self._drawn(batch, self.strangers)[at]
        return by_row

    def _history_means(self, pairs: Ints) -> tuple[Floats, NDArray[np.bool_]]:
        """(n, d_user) mean of `history` over what each (user, end) may see liked, and if any is.

        Sums run row by row in float64, so a token does not depend on the others of its batch.
        """
        means = np.zeros((len(pairs), self._history.shape[1]), np.float32)
        is_told = np.zeros(len(pairs), np.bool_)
        if self.source == "factor":
            return means, is_told
        chains = self._chains
        for number, (user, end) in enumerate(pairs.tolist()):
            start = chains.chain_starts[user]
            items = chains.chain_items[start : start + end]
            items = items[chains.chain_liked[start : start + end] & self._knows_item[items]]
            if len(items):
                means[number] = self._history[items].mean(axis=0, dtype=np.float64)
                is_told[number] = True
        return means, is_told
