"""Looks into a backbone while it answers: attention mass, knockouts, logit lens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from jobs.errors import JobError
from jobs.llm.answers import AnswerTokens, answer_logits
from jobs.llm.batches import token_budget_batches
from jobs.llm.prompts import SoftKind
from jobs.llm.sequences import Batch, PackedSequence, collate
from jobs.llm.steered_attention import (
    attention_weights,
    float_mask,
    repeated,
    steered_mask,
    steered_sdpa,
)
from jobs.llm.steering import BLOCK, Steering, n_layers, steerable
from jobs.llm.token_kinds import TokenKind
from jobs.report.metrics import auc, uauc

_WATCHED = "watched_attention"
_FINAL_NORMS = ("norm", "final_layernorm", "ln_f", "final_layer_norm")
_N_KINDS, _N_SOFT = len(TokenKind), len(SoftKind)
Soft = Callable[[Batch], Tensor | None]
Blocked = tuple[Sequence[TokenKind], range]  # kinds that no other token sees, in these layers


@dataclass(frozen=True)
class Prompts:
    """Rows to look at, one prompt each.

    Attributes:
        sequences: from `RowPacking`; an answer's `answer_row` is an index into the arrays below.
        kinds: (n,) `TokenKind` of each sequence's tokens.
        labels: 0 or 1.
        users: any number for each user.
        offsets: a control's logits that the model's are on top of; None: nothing is.
        weight: of the model's logits beside them.
    """

    sequences: Sequence[PackedSequence]
    kinds: Sequence[NDArray[np.int64]]
    labels: NDArray[np.float32]
    users: NDArray[np.int64]
    offsets: NDArray[np.float32] | None = None
    weight: float = 1.0

    def first(self, n: int) -> Prompts:
        """The first `n` of them."""
        return replace(self, sequences=self.sequences[:n], kinds=self.kinds[:n])

    def whole(self, rows: NDArray[np.int64], logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """The model's logits of some rows with what they are on top of."""
        if self.offsets is None:
            return logits
        return self.offsets[rows] + np.float32(self.weight) * logits

    def present(self) -> list[TokenKind]:
        """Kinds that occur."""
        return [kind for kind in TokenKind if any((each == kind).any() for each in self.kinds)]


class Figure(NamedTuple):
    """A row of LLM_DIAGNOSTICS."""

    measure: str
    kind: str
    first_layer: int
    last_layer: int
    figure: str
    value: float


@dataclass(frozen=True)
class Probe:
    """A model to look into, and how its rows are fed to it.

    Attributes:
        model: a causal LM in eval mode.
        answers: the tokens whose logits are compared.
        bias: (n_layers, n_heads or 1, n_soft_kinds or 1) or None: steering of the soft tokens that
            is on all the time.
        soft: vectors for a batch's soft tokens; without it their placeholders stand.
        batch_tokens: budget of a batch, padding included.
    """

    model: Any
    answers: AnswerTokens
    bias: Tensor | None = None
    soft: Soft = field(default=lambda batch: None)
    batch_tokens: int = 4_096

    def steering(self, kinds: Tensor, blocked: Blocked | None) -> Steering:
        """The bias that is always on, with some kinds blocked in some layers."""
        always = torch.zeros(n_layers(self.model), 1, 1)
        if self.bias is not None:
            always = self.bias.detach().float().cpu()
        bias = torch.zeros(*always.shape[:2], _N_KINDS)
        bias[:, :, :_N_SOFT] = always
        if blocked is not None:
            hidden, layers = blocked
            bias[layers.start : layers.stop, :, [int(kind) for kind in hidden]] = BLOCK
        idle = tuple((bias == 0).flatten(1).all(dim=1).tolist())
        return Steering(bias.to(kinds.device), kinds, None, idle)

    def batches(self, prompts: Prompts) -> Iterator[tuple[Batch, Tensor]]:
        """Batches on the model's device, with the kind of each token, -1 at padding."""
        device = next(self.model.parameters()).device
        lengths = [len(sequence) for sequence in prompts.sequences]
        for rows in token_budget_batches(lengths, self.batch_tokens):
            batch = collate([prompts.sequences[row] for row in rows])
            kinds = torch.full(batch.input_ids.shape, -1)
            for number, row in enumerate(rows):
                kinds[number, : lengths[row]] = torch.from_numpy(prompts.kinds[row])
            yield batch.to(device), kinds.to(device)

    def logits(self, batch: Batch, steering: Steering, **more: Any) -> Tensor:
        """(m,) l_yes - l_no."""
        soft = self.soft(batch)
        return answer_logits(self.model, batch, self.answers, soft=soft, steering=steering, **more)


# -- attention mass ------------------------------------------------------------------------------


@dataclass
class _Watch:
    """Adds up what the answer positions of a batch attend to."""

    batch: Batch
    kinds: Tensor
    mass: Tensor  # (n_layers, n_kinds), sum over answers of the mean over heads
    sink_free: Tensor  # the same, of the mass that is not on the first token

    def see(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        mask: Tensor | None,
        scaling: float | None,
        steering: Steering | None,
    ) -> None:
        """Take in one layer."""
        layer, n_keys = int(module.layer_idx), key.shape[2]  # type: ignore[arg-type]
        if steering is None:
            seen = float_mask(mask, query, n_keys)
        else:
            seen = steered_mask(mask, query, n_keys, layer, steering)
        rows, at = self.batch.answer_sequence, self.batch.answer_at
        weights = attention_weights(
            query[rows, :, at][:, :, None],
            repeated(key, module)[rows],
            seen.expand(query.shape[0], -1, -1, -1)[rows, :, at][:, :, None],
            scaling,
        )[:, :, 0]
        is_kind = nn.functional.one_hot(self.kinds + 1, _N_KINDS + 1)[..., 1:].to(weights)
        by_kind = weights @ is_kind[rows]  # (m, heads, kinds)
        off_sink = 1 - by_kind[..., int(TokenKind.SINK), None]
        self.mass[layer] += by_kind.mean(dim=1).sum(dim=0).cpu()
        self.sink_free[layer] += (by_kind / off_sink.clamp(min=1e-9)).mean(dim=1).sum(dim=0).cpu()


def _watched_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    steering: Steering | None = None,
    watch: _Watch | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    if watch is not None:
        watch.see(module, query, key, attention_mask, kwargs.get("scaling"), steering)
    return steered_sdpa(module, query, key, value, attention_mask, steering=steering, **kwargs)


@cache
def _register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface

    known: Any = AttentionMaskInterface
    AttentionInterface.register(_WATCHED, _watched_attention)
    AttentionMaskInterface.register(_WATCHED, known()["sdpa"])


@contextmanager
def _watching(model: Any) -> Iterator[None]:
    """The model's attention can be watched and steered inside."""
    before = model.config._attn_implementation
    model.set_attn_implementation("sdpa")
    try:
        with steerable(model):
            _register()
            model.set_attn_implementation(_WATCHED)
            yield
    finally:
        model.set_attn_implementation(before)


@torch.inference_mode()
def attention_mass(probe: Probe, prompts: Prompts) -> list[Figure]:
    """How much of its attention each layer's answer position spends on each kind of token.

    `mass` is the mean over rows and heads; `share` the kind's share of the tokens that can be seen;
    `lift` their ratio, 1 where attention were spread evenly; `sink_free` the mass as a share of all
    that does not lie on the first token.
    """
    layers = n_layers(probe.model)
    mass, sink_free = torch.zeros(layers, _N_KINDS), torch.zeros(layers, _N_KINDS)
    share, n_answers = torch.zeros(_N_KINDS), 0
    with _watching(probe.model):
        for batch, kinds in probe.batches(prompts):
            watch = _Watch(batch, kinds, mass, sink_free)
            probe.logits(batch, probe.steering(kinds, None), watch=watch)
            counts = nn.functional.one_hot(kinds + 1, _N_KINDS + 1)[..., 1:].sum(dim=1).float()
            of_answers = (counts / counts.sum(dim=1, keepdim=True))[batch.answer_sequence]
            share += of_answers.sum(dim=0).cpu()
            n_answers += len(batch.answer_row)
    mass, sink_free, share = mass / n_answers, sink_free / n_answers, share / n_answers
    found = []
    for layer in range(layers):
        for kind in prompts.present():
            place = (layer, int(kind))
            figures = {
                "mass": float(mass[place]),
                "share": float(share[int(kind)]),
                "lift": float(mass[place] / share[int(kind)]),
            }
            if kind is not TokenKind.SINK:
                figures["sink_free"] = float(sink_free[place])
            found += figures_of("mass", kind.name.lower(), range(layer, layer + 1), figures)
    return found


def figures_of(
    measure: str, kind: str, layers: range, figures: Mapping[str, float | None]
) -> list[Figure]:
    """One row each; what is None is left out."""
    return [
        Figure(measure, kind, layers.start, layers.stop - 1, name, value)
        for name, value in figures.items()
        if value is not None
    ]


# -- knockout ------------------------------------------------------------------------------------


def windows(layers: int) -> list[range]:
    """Windows of a seventh of the layers, each half a window behind the last, to the last layer."""
    width = max(1, round(layers / 7))
    starts = list(range(0, layers - width + 1, max(1, width // 2)))
    if starts[-1] != layers - width:
        starts.append(layers - width)
    return [range(start, start + width) for start in starts]


@torch.inference_mode()
def answered(
    probe: Probe, prompts: Prompts, blocked: Blocked | None = None
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The rows of the prompts, ascending, and the logit of each; inside `steerable`."""
    rows, logits = [], []
    for batch, kinds in probe.batches(prompts):
        logits.append(probe.logits(batch, probe.steering(kinds, blocked)).cpu().numpy())
        rows.append(batch.answer_row.cpu().numpy())
    every_row = np.concatenate(rows)
    order = np.argsort(every_row, kind="stable")
    every_row = every_row[order]
    return every_row, prompts.whole(every_row, np.concatenate(logits)[order])


def _scores(probe: Probe, prompts: Prompts, blocked: Blocked | None) -> dict[str, float | None]:
    """AUC and UAUC of the prompts; None where they are not defined."""
    return _quality(prompts, *answered(probe, prompts, blocked))


def _quality(prompts: Prompts, rows: NDArray[Any], scores: NDArray[Any]) -> dict[str, float | None]:
    labels = prompts.labels[rows]
    return {"auc": auc(labels, scores), "uauc": uauc(prompts.users[rows], labels, scores)[0]}


def knockouts(
    probe: Probe,
    prompts: Prompts,
    kinds: Sequence[TokenKind],
    advance: Callable[[int], None] = lambda n: None,
) -> list[Figure]:
    """What AUC and UAUC lose when a kind of token cannot be seen in a window of layers.

    Every query but the token itself is kept from it (bias minus infinity).
    """
    found = []
    with steerable(probe.model):
        whole = _scores(probe, prompts, None)
        for kind in kinds:
            for window in windows(n_layers(probe.model)):
                without = _scores(probe, prompts, ((kind,), window))
                change = {
                    f"delta_{name}": without[name] - value  # type: ignore[operator]
                    for name, value in whole.items()
                    if value is not None
                }
                found += figures_of("knockout", kind.name.lower(), window, {**without, **change})
                advance(1)
    return found


# -- logit lens ----------------------------------------------------------------------------------


@contextmanager
def _layer_states(decoder: Any) -> Iterator[list[Tensor]]:
    """The hidden states (b, n, d) behind each layer, in the order in which layers ran."""
    states: list[Tensor] = []

    def keep(_: nn.Module, __: Any, output: Any) -> None:
        states.append(output[0] if isinstance(output, tuple) else output)

    hooks = [layer.register_forward_hook(keep) for layer in decoder.layers]
    try:
        yield states
    finally:
        for hook in hooks:
            hook.remove()


def _final_norm(decoder: Any) -> nn.Module:
    for name in _FINAL_NORMS:
        if isinstance(norm := getattr(decoder, name, None), nn.Module):
            return norm
    raise JobError(f"{type(decoder).__name__} has no final norm under a name that is known")


@torch.inference_mode()
def logit_lens(probe: Probe, prompts: Prompts) -> list[Figure]:
    """AUC and UAUC of the answer as each layer would give it: (W_yes - W_no) . norm(h_l)."""
    decoder, head = probe.model.get_decoder(), probe.model.get_output_embeddings()
    norm = _final_norm(decoder)
    yes, no = probe.answers.ids
    difference = head.weight[yes].float() - head.weight[no].float()
    rows: list[NDArray[Any]] = []
    by_layer: list[list[NDArray[Any]]] = [[] for _ in range(n_layers(probe.model))]
    with steerable(probe.model), _layer_states(decoder) as states:
        for batch, kinds in probe.batches(prompts):
            states.clear()
            probe.logits(batch, probe.steering(kinds, None))
            places = (batch.answer_sequence, batch.answer_at)
            for layer, state in enumerate(states):
                logits = norm(state[places]).float() @ difference
                by_layer[layer].append(logits.cpu().numpy())
            rows.append(batch.answer_row.cpu().numpy())
    every_row = np.concatenate(rows)
    return [
        figure
        for layer, logits in enumerate(by_layer)
        for figure in figures_of(
            "lens",
            "answer",
            range(layer, layer + 1),
            _quality(prompts, every_row, prompts.whole(every_row, np.concatenate(logits))),
        )
    ]
