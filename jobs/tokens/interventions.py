"""What soft tokens tell the LLM: what its answers lose when they say less, or something else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jobs.llm.probing import Figure, Probe, Prompts, answered, figures_of
from jobs.llm.prompts import SoftKind
from jobs.llm.sequences import Batch, PackedSequence
from jobs.llm.steering import n_layers, steerable
from jobs.llm.token_kinds import TokenKind
from jobs.report.metrics import Interval, auc, log_loss, paired_user_bootstrap, uauc
from jobs.tokens.soft_inputs import KINDS, Intervention, SoftInputs

MEASURE, ALL = "intervention", "all"
NONE, MEAN, UNKNOWN, SHUFFLED = "none", "mean", "unknown", "shuffled"
SWAPPED, HIDDEN = "users_swapped", "hidden"
Ints = NDArray[np.int64]
Scores = NDArray[np.float32]


# -- other rows' users and items -----------------------------------------------------------------


def deranged(ids: Ints, chance: np.random.Generator) -> Ints:
    """(n,) a random permutation of places that gives none of them its own id.

    Where an id holds half of the places or more it keeps some: there are not enough others.
    """
    order = chance.permutation(len(ids))
    for place in np.flatnonzero(ids[order] == ids).tolist():
        own = ids[place]
        # Any place that neither has this id nor was given it can change with this one.
        others = np.flatnonzero((ids[order] != own) & (ids != own))
        if ids[order[place]] == own and len(others):
            other = chance.choice(others)
            order[[place, other]] = order[[other, place]]
    return order


class _Places(NamedTuple):
    """All soft tokens of some sequences, one after the other."""

    sequence: Ints
    event: Ints
    is_asked: NDArray[np.bool_]  # of the candidate, not of the history
    kind: Ints
    of: Ints
    end: Ints

    @classmethod
    def of_sequences(cls, sequences: Sequence[PackedSequence]) -> _Places:
        counts = [len(each.soft_at) for each in sequences]
        return cls(
            np.repeat(np.arange(len(sequences)), counts),
            np.concatenate([each.event[each.soft_at] for each in sequences]).astype(np.int64),
            ~np.concatenate([each.is_shown[each.soft_at] for each in sequences]),
            np.concatenate([each.soft_kind for each in sequences]).astype(np.int64),
            np.concatenate([each.soft_of for each in sequences]),
            np.concatenate([each.soft_end for each in sequences]).astype(np.int64),
        )

    def of_kinds(self, *kinds: SoftKind) -> Ints:
        """Which of them are of some kinds."""
        return np.flatnonzero(np.isin(self.kind, [int(kind) for kind in kinds]))


def shuffled(
    sequences: Sequence[PackedSequence], kinds: Sequence[str], seed: int
) -> list[PackedSequence]:
    """The same prompts, with soft tokens of other rows' users and items in them.

    Items change places: candidates with candidates, entries of histories with entries of
    histories, so each place sees what such places hold, as often as before. A row's user becomes
    the user of another row, as of as many entries as the place may know, or as that row knows. No
    place keeps its own (see `deranged`); labels are not looked at. `item` and `warm` of one event
    come from one donor, whether one of them is shuffled or both.

    Args:
        sequences: one prompt a row.
        kinds: whose tokens are shuffled.
        seed: of the permutations.
    """
    places = _Places.of_sequences(sequences)
    of, end = places.of.copy(), places.end.copy()
    if "user" in kinds:
        at, rows, users, known = _users(places)
        donor = deranged(users, np.random.default_rng((seed, 0)))
        of[at] = users[donor][rows]
        end[at] = np.minimum(end[at], known[donor][rows])
    items = places.of_kinds(SoftKind.ITEM, SoftKind.WARM)
    if len(items):
        moved = np.isin(places.kind[items], [int(KINDS[kind]) for kind in kinds])
        of[items[moved]] = _other_items(places, items, np.random.default_rng((seed, 1)))[moved]
    return _put_back(sequences, of, end)


def _users(places: _Places) -> tuple[Ints, Ints, Ints, Ints]:
    """Places of users, the row of each, and the user of each row with the last end it knows."""
    at = places.of_kinds(SoftKind.USER)
    _, first, rows = np.unique(places.sequence[at], return_index=True, return_inverse=True)
    known = np.zeros(len(first), np.int64)
    np.maximum.at(known, rows, places.end[at])
    return at, rows, places.of[at][first], known


def _other_items(places: _Places, items: Ints, chance: np.random.Generator) -> Ints:
    """The item that each of some places is given."""
    events = np.stack([places.sequence[items], places.event[items]], axis=1)
    _, first, inverse = np.unique(events, axis=0, return_index=True, return_inverse=True)
    own, is_asked = places.of[items][first], places.is_asked[items][first]
    given = own.copy()
    for role in (is_asked, ~is_asked):
        at = np.flatnonzero(role)
        given[at] = own[at][deranged(own[at], chance)]
    return given[inverse.reshape(-1)]


def users_swapped(sequences: Sequence[PackedSequence], seed: int) -> list[PackedSequence]:
    """The same prompts, each user's with the tokens of one other user in all of his rows."""
    places = _Places.of_sequences(sequences)
    at, rows, users, known = _users(places)
    ids, number = np.unique(users, return_inverse=True)
    order = np.random.default_rng((seed, 2)).permutation(len(ids))
    partner = np.empty(len(ids), np.int64)
    partner[order] = np.roll(order, 1)
    latest = np.zeros(len(ids), np.int64)
    np.maximum.at(latest, number, known)
    of, end, other = places.of.copy(), places.end.copy(), partner[number][rows]
    of[at], end[at] = ids[other], np.minimum(end[at], latest[other])
    return _put_back(sequences, of, end)


def _put_back(sequences: Sequence[PackedSequence], of: Ints, end: Ints) -> list[PackedSequence]:
    borders = np.cumsum([len(each.soft_at) for each in sequences])[:-1]
    parts = zip(sequences, np.split(of, borders), np.split(end, borders), strict=True)
    return [
        replace(each, soft_of=part_of, soft_end=part_end.astype(np.int32))
        for each, part_of, part_end in parts
    ]


# -- one token for all ---------------------------------------------------------------------------


@torch.inference_mode()
def mean_tokens(probe: Probe, prompts: Prompts, soft: SoftInputs) -> dict[str, Tensor]:
    """(n_tokens, d_llm) by kind: the mean over the rows' tokens, each of several by itself."""
    sums = {kind: torch.zeros_like(null, dtype=torch.float64) for kind, null in _nulls(soft)}
    counts = {kind: torch.zeros_like(total[:, 0]) for kind, total in sums.items()}
    for batch, _ in probe.batches(prompts):
        vectors = soft.soft(batch).double()
        for kind, total in sums.items():
            at = (batch.soft_kind == int(KINDS[kind])).nonzero()[:, 0]
            nth = batch.soft_nth[at].long()
            total.index_add_(0, nth, vectors[at])
            counts[kind].index_add_(0, nth, torch.ones_like(nth, dtype=torch.float64))
    return {
        kind: (total / counts[kind].clamp(min=1)[:, None]).float() for kind, total in sums.items()
    }


def _nulls(soft: SoftInputs) -> Iterator[tuple[str, Tensor]]:
    return ((kind, null.detach()) for kind, null in soft.unknown.items())


def replaced(tokens: Mapping[str, Tensor], kinds: Sequence[str]) -> Intervention:
    """Every soft token of `kinds` becomes the one that `tokens` (n_tokens, d_llm) has for it."""

    def put(soft: Tensor, batch: Batch) -> Tensor:
        for kind in kinds:
            at = (batch.soft_kind == int(KINDS[kind])).nonzero()[:, 0]
            given = tokens[kind].to(soft)[batch.soft_nth[at].long()]
            soft = soft.index_put((at,), given)
        return soft

    return put


# -- what it costs -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pass:
    """One way of asking the same rows.

    Attributes:
        kind: of token that is meddled with, or all.
        name: of the intervention.
        prompts: as they are, or with other ids behind their soft tokens.
        put: changes the vectors.
        hidden: kinds that no other token sees.
    """

    kind: str
    name: str
    prompts: Prompts
    put: Intervention | None = None
    hidden: tuple[TokenKind, ...] = ()

    def answers(self, probe: Probe, soft: SoftInputs) -> tuple[Ints, Scores]:
        """Rows, ascending, and their logits; inside `steerable`."""
        blocked = (self.hidden, range(n_layers(probe.model))) if self.hidden else None
        soft.intervention = self.put
        try:
            return answered(probe, self.prompts, blocked)
        finally:
            soft.intervention = None


def soft_probe(model: Any, answers: Any, soft: SoftInputs, batch_tokens: int) -> Probe:
    """A probe of a tuned system: its soft tokens, and its steering in every pass."""

    def vectors(batch: Batch) -> Tensor | None:
        return soft.given(batch, is_training=False).get("soft")

    bias = None if soft.bias is None else soft.bias().detach()
    return Probe(model, answers, bias, vectors, batch_tokens)


def planned(probe: Probe, prompts: Prompts, soft: SoftInputs, seed: int = 0) -> list[Pass]:
    """The passes that `interventions` makes: as it is, then each kind by itself, then all of them.

    `mean` puts the mean token in each one's place, `unknown` the learned one of an id of which
    nothing is known, `shuffled` those of other rows, `users_swapped` those of one other user;
    `hidden` keeps every other token from looking at them, in all layers.

    Args:
        probe: from `soft_probe`.
        prompts: one a row.
        soft: what the probe's soft tokens come from.
        seed: of what is shuffled.

    Returns:
        No pass if the prompts have no soft tokens.
    """
    kinds = [kind for kind in soft.unknown if TokenKind(KINDS[kind]) in prompts.present()]
    groups = {kind: [kind] for kind in kinds} | ({ALL: kinds} if len(kinds) > 1 else {})
    means, nulls = mean_tokens(probe, prompts, soft), dict(_nulls(soft))
    found = [Pass(ALL, NONE, prompts)] if kinds else []
    for name, group in groups.items():
        hidden = tuple(TokenKind(KINDS[kind]) for kind in group)
        found += [
            Pass(name, MEAN, prompts, replaced(means, group)),
            Pass(name, UNKNOWN, prompts, replaced(nulls, group)),
            Pass(name, HIDDEN, prompts, hidden=hidden),
        ]
        changed = {SHUFFLED: shuffled(prompts.sequences, group, seed)}
        if group == ["user"]:
            changed[SWAPPED] = users_swapped(prompts.sequences, seed)
        for how, sequences in changed.items():
            if _differ(sequences, prompts.sequences):
                found.append(Pass(name, how, replace(prompts, sequences=sequences)))
    return found


def interventions(
    probe: Probe,
    soft: SoftInputs,
    passes: Sequence[Pass],
    advance: Callable[[int], None] = lambda n: None,
) -> list[Figure]:
    """What AUC, UAUC and log loss become in each of the `planned` passes.

    If tokens are used for what they say, and not for being there, `shuffled` costs more than
    `mean`: their difference is a figure of its own.
    """
    if not passes:
        return []
    scores = {}
    with steerable(probe.model):
        for each in passes:
            rows, scores[each.kind, each.name] = each.answers(probe, soft)
            advance(1)
    return list(_figures(passes[0].prompts, rows, scores, n_layers(probe.model)))


def _differ(changed: Sequence[PackedSequence], own: Sequence[PackedSequence]) -> bool:
    """Whether any token is another's: rows of one user have nobody to change with."""
    return any(
        not np.array_equal(one.soft_of, other.soft_of)
        for one, other in zip(changed, own, strict=True)
    )


def _figures(
    prompts: Prompts, rows: Ints, scores: Mapping[tuple[str, str], Scores], layers: int
) -> Iterator[Figure]:
    users, labels = prompts.users[rows], prompts.labels[rows]
    whole = scores[ALL, NONE]
    as_it_is = _quality(users, labels, whole)
    for (kind, name), changed in scores.items():
        found = _quality(users, labels, changed)
        figures = {f"{name}_{metric}": value for metric, value in found.items()}
        if name != NONE:
            figures |= _changes(f"{name}_delta", users, labels, changed, whole)
            figures[f"{name}_delta_log_loss"] = _less(found["log_loss"], as_it_is["log_loss"])
        if name == SHUFFLED:
            mean = scores[kind, MEAN]
            figures |= _changes("shuffled_less_mean", users, labels, changed, mean)
            in_mean = _quality(users, labels, mean)["log_loss"]
            figures["shuffled_less_mean_log_loss"] = _less(found["log_loss"], in_mean)
        yield from figures_of(MEASURE, kind, range(layers), figures)


def _quality(users: Ints, labels: Scores, logits: Scores) -> dict[str, float | None]:
    probabilities = (1 + np.tanh(logits.astype(np.float64) / 2)) / 2
    return {
        "auc": auc(labels, logits),
        "uauc": uauc(users, labels, logits)[0],
        "log_loss": log_loss(labels, probabilities),
    }


def _less(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


def _changes(
    name: str, users: Ints, labels: Scores, one: Scores, other: Scores
) -> dict[str, float | None]:
    """Differences of AUC and UAUC with the ends of their paired 95 % intervals."""
    found = paired_user_bootstrap(users, labels, one, other)
    figures: dict[str, float | None] = {}
    intervals: dict[str, Interval | None] = {"auc": found.auc, "uauc": found.uauc}
    for metric, interval in intervals.items():
        if interval is not None:
            figures[f"{name}_{metric}"] = interval.value
            figures[f"{name}_{metric}_low"] = interval.low
            figures[f"{name}_{metric}_high"] = interval.high
    return figures
