"""One optimiser step at a time: gradients over packed sequences within the memory there is."""

from __future__ import annotations

import gc
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from jobs.errors import JobError
from jobs.job import Config
from jobs.llm.answers import AnswerTokens, answer_logits
from jobs.llm.attention import suit_attention
from jobs.llm.batches import token_budget_batches
from jobs.llm.conditions import TEXT_ALONE, Conditions
from jobs.llm.modes import set_modes, still
from jobs.llm.processes import ALONE, Processes
from jobs.llm.schedule import Step
from jobs.llm.scoring import Scorer, is_out_of_memory
from jobs.llm.sequences import Batch, PackedSequence, collate

T = TypeVar("T")
_SAID_ROWS = 5
_FINE, _TOO_LARGE = 0, 1


class TrainingConfig(Config):
    """How weights move."""

    learning_rate: float = Field(default=1e-3, gt=0, description="AdamW step at its peak")
    min_learning_rate: float = Field(
        default=0.1, ge=0, le=1, description="share of the peak that the cosine ends at"
    )
    warmup_steps: int = Field(
        default=200, ge=0, description="linear warm-up; a tenth of the run at most"
    )
    weight_decay: float = Field(default=0.01, ge=0, description="of AdamW")
    beta2: float = Field(default=0.95, gt=0, lt=1, description="of AdamW")
    max_grad_norm: float = Field(default=1.0, gt=0, description="longer gradients are cut to it")
    step_tokens: int = Field(
        default=4_000, gt=0, description="tokens of an optimiser step, over all processes"
    )
    batch_tokens: int = Field(
        default=2_048,
        gt=0,
        description="tokens of a forward pass, padding included; halved where memory is short",
    )
    gradient_checkpointing: bool = Field(
        default=False, description="compute the layers twice to keep less of them: for 7B and up"
    )
    seed: int = Field(default=0, ge=0, description="of the first weights, the order and dropout")


@dataclass(frozen=True)
class Rows:
    """Rows of SPLITS in packed form.

    Attributes:
        name: what messages call them: train, valid, test.
        sequences: an answer's `answer_row` is an index into the arrays below.
        labels: (n,) float32, 0 or 1.
        users: (n,) int64, any number for each user.
        numbers: (n,) int64, SPLITS.row: what messages call a row.
        offsets: (n,) float32 logits of a control that l_yes - l_no is added to (methods.md 6, the
            offset link); None: zero.
    """

    name: str
    sequences: list[PackedSequence]
    labels: NDArray[np.float32]
    users: NDArray[np.int64]
    numbers: NDArray[np.int64]
    offsets: NDArray[np.float32] | None = None

    def with_offsets(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n,) what rows are judged by: l_yes - l_no on top of the control's logit, if any."""
        return logits if self.offsets is None else logits + self.offsets

    @property
    def lengths(self) -> list[int]:
        """Tokens of each sequence."""
        return [len(sequence) for sequence in self.sequences]

    @property
    def n_answers(self) -> int:
        """Rows that are scored."""
        return sum(len(sequence.answer_row) for sequence in self.sequences)


class Group(NamedTuple):
    """How some of the learned weights move."""

    share: float = 1.0  # of the learning rate
    decays: bool = True  # whether weight decay applies


class StepDone(NamedTuple):
    """What an optimiser step saw, over all processes."""

    loss: float  # sum over the answers, in nats
    n_answers: int
    gradient_norm: float


class _Gathered(NamedTuple):
    """What one process saw of a step."""

    loss: Tensor  # scalar
    n_answers: int
    broken_rows: list[Tensor]  # rows whose logit is NaN or infinite, by batch


class Trainer:
    """A frozen model whose few learned weights move.

    Args:
        model: a causal LM with adapters injected, on its device.
        learned: the weights that learn, by name.
        answers: the tokens that are compared.
        config: how the weights move.
        processes: those that train together.
        say: told when memory falls short.
        conditions: what a forward pass is given beside the text.
        groups: by name, how a weight moves that does not move like the others.
    """

    def __init__(
        self,
        model: Any,
        learned: Mapping[str, nn.Parameter],
        answers: AnswerTokens,
        config: TrainingConfig,
        processes: Processes = ALONE,
        say: Callable[..., None] = lambda event, **figures: None,
        conditions: Conditions = TEXT_ALONE,
        groups: Mapping[str, Group] | None = None,
    ) -> None:
        self.model, self.learned, self.config = model, learned, config
        self.processes, self.batch_tokens = processes, config.batch_tokens
        self.device: torch.device = next(iter(learned.values())).device
        self._answers, self._say, self._conditions = answers, say, conditions
        self._multiple = suit_attention(model)
        self._optimizer = torch.optim.AdamW(
            _optimizer_groups(learned, groups or {}, config),
            lr=config.learning_rate,
            betas=(0.9, config.beta2),
            weight_decay=config.weight_decay,
            fused=self.device.type in ("cpu", "cuda"),
        )
        has_dropout = set_modes(model, config.gradient_checkpointing)
        self._is_random = has_dropout or conditions.is_random

    # -- learning --------------------------------------------------------------------------------

    def step(self, step: Step, rows: Rows, rate: float) -> StepDone:
        """Move the weights by the gradient of the mean loss over the answers of a step.

        L = 1/m sum over answers of BCE(sigmoid(offset + l_yes - l_no), label), and the penalty of
        the conditions; each process reads its share of the batches, and gradients are averaged by
        the number of answers.

        Raises:
            JobError: a logit or the gradient is NaN or infinite, or one sequence is too large.
        """
        chosen = [rows.sequences[number] for number in step.sequences]
        gathered = self._within_memory(
            lambda budget: self._gather(step, chosen, rows, budget), chosen
        )
        self._refuse_broken(step, gathered, rows)
        loss, n_answers = self._average(gathered)
        norm = nn.utils.clip_grad_norm_(self.learned.values(), self.config.max_grad_norm)
        if not math.isfinite(norm.item()):
            raise JobError(
                f"step {step.number}: the gradient of {n_answers} {rows.name} rows is NaN or "
                f"infinite ({self._some(rows, _rows_of(chosen))}); lower --learning-rate, or try "
                "--dtype float32"
            )
        for group in self._optimizer.param_groups:
            group["lr"] = rate * group["share"]
        self._optimizer.step()
        return StepDone(loss, n_answers, norm.item())

    def _gather(
        self, step: Step, chosen: list[PackedSequence], all_rows: Rows, budget: int
    ) -> _Gathered:
        """Gradients of the summed loss over this process's share of a step."""
        self._optimizer.zero_grad(set_to_none=True)
        loss, n_answers = torch.zeros((), device=self.device), 0
        broken: list[Tensor] = []
        for rows in self._share(chosen, budget):
            batch = collate([chosen[row] for row in rows], multiple=self._multiple)
            wanted = torch.from_numpy(all_rows.labels[batch.answer_row.numpy()]).to(self.device)
            with self._seeded(step, int(rows.min())):
                logits, penalty = self._logits(batch)
                judged = logits + self._offsets(all_rows, batch)
                some = functional.binary_cross_entropy_with_logits(judged, wanted, reduction="sum")
                # Inside: dropout is drawn again.
                (some + penalty * len(wanted)).backward()  # type: ignore[no-untyped-call]
            loss += some.detach()
            n_answers += len(wanted)
            broken.append(_broken(batch, logits.detach()))
        return _Gathered(loss, n_answers, broken)

    def _share(self, sequences: Sequence[PackedSequence], budget: int) -> list[NDArray[np.int64]]:
        """Batches of this process: every n-th of those that all would make."""
        n = self.processes.n
        total = sum(map(len, sequences))
        budget = min(budget, max(1, -(-total // n)))  # or some would have nothing to do
        batches = list(token_budget_batches([len(each) for each in sequences], budget))
        return batches[self.processes.rank :: n]

    def _logits(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(m,) l_yes - l_no, and the mean penalty of an answer."""
        batch = batch.to(self.device)
        with self._precision():
            beside = self._conditions.given(batch, is_training=True)
            logits = answer_logits(self.model, batch, self._answers, **beside).float()
        return logits, self._conditions.penalty(batch)

    def _offsets(self, rows: Rows, batch: Batch) -> Tensor | float:
        if rows.offsets is None:
            return 0.0
        return torch.from_numpy(rows.offsets[batch.answer_row.cpu().numpy()]).to(self.device)

    def _precision(self) -> AbstractContextManager[Any]:
        """bfloat16 products in a bfloat16 model, though the learned weights are float32."""
        dtype = self.model.dtype
        if dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=dtype)

    @contextmanager
    def _seeded(self, step: Step, first: int) -> Iterator[None]:
        """Dropout from (seed, step, batch): no state to keep, the same on any process."""
        if not self._is_random:
            yield
            return
        devices = [self.device] if self.device.type == "cuda" else []
        words = f"{self.config.seed} {step.number} {first}".encode()
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(int.from_bytes(hashlib.sha256(words).digest()[:7]))
            yield

    def _average(self, gathered: _Gathered) -> tuple[float, int]:
        """Put the mean gradient of all processes in place; the summed loss and its answers."""
        weights = list(self.learned.values())
        for weight in weights:
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        counts = torch.stack([gathered.loss.double(), gathered.loss.new_tensor(gathered.n_answers)])
        self.processes.sum(counts)
        if self.processes.n > 1:
            flat = self.processes.sum(torch.cat([each.reshape(-1) for each in gradients]))
            start = 0
            for gradient in gradients:
                gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
                start += gradient.numel()
        loss, n_answers = counts.tolist()
        for gradient in gradients:
            gradient.div_(max(n_answers, 1.0))
        return loss, int(n_answers)

    def _refuse_broken(self, step: Step, gathered: _Gathered, rows: Rows) -> None:
        found = torch.cat([*gathered.broken_rows, torch.zeros(0, dtype=torch.long)]).numpy()
        if not self.processes.largest(len(found), self.device):
            return
        where = self._some(rows, found) if len(found) else "on another process"
        raise JobError(
            f"step {step.number}: the loss is NaN or infinite at {len(found) or 'some'} of the "
            f"step's {rows.name} rows ({where}); lower --learning-rate, or try --dtype float32. "
            "Nothing was written but earlier checkpoints"
        )

    @staticmethod
    def _some(rows: Rows, which: NDArray[np.int64]) -> str:
        numbers = np.sort(rows.numbers[which])
        said = ", ".join(map(str, numbers[:_SAID_ROWS].tolist()))
        return f"row {said}{', ...' if len(numbers) > _SAID_ROWS else ''}"

    # -- memory ----------------------------------------------------------------------------------

    def _within_memory(self, work: Callable[[int], T], sequences: Sequence[PackedSequence]) -> T:
        """`work(token budget)`, with half the budget as often as memory falls short.

        The budget stays halved: what was too large once would be so again.
        """
        while True:
            done: T | None = None
            try:
                done = work(self.batch_tokens)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
            status = self.processes.largest(_TOO_LARGE if done is None else _FINE, self.device)
            if status == _FINE and done is not None:
                return done
            # Outside the handler: its traceback would hold on to what is to be freed.
            self._halve(sequences)

    def _halve(self, sequences: Sequence[PackedSequence]) -> None:
        longest = max(map(len, sequences))
        largest = min(self.batch_tokens, sum(map(len, sequences)))
        self._optimizer.zero_grad(set_to_none=True)
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if largest <= longest:
            raise JobError(
                f"out of memory with one sequence of {longest} tokens; lower --sequence-tokens"
                + ("" if self.config.gradient_checkpointing else ", or --gradient-checkpointing")
            )
        self.batch_tokens = max(longest, largest // 2)
        self._say("out of memory: going on with half the tokens", batch_tokens=self.batch_tokens)

    # -- judging ---------------------------------------------------------------------------------

    def score(
        self, rows: Rows, advance: Callable[[int], None] = lambda n_tokens: None
    ) -> NDArray[np.float32]:
        """(n,) l_yes - l_no of each row as the weights are now; NaN for rows of no sequence.

        Raises:
            JobError: a logit is NaN or infinite.
        """
        found = torch.zeros(2, len(rows.labels), dtype=torch.float64)
        with still(self.model), self._precision():
            scorer = Scorer(
                self.model,
                self._answers,
                self.batch_tokens,
                self._multiple,
                self._say,
                self._conditions,
            )
            scored, logits = scorer.score(self._share_of_scoring(rows.sequences), advance)
        found[0, scored] = torch.from_numpy(logits).double()
        found[1, scored] = 1.0
        summed, is_scored = self.processes.sum(found.to(self.device)).cpu().numpy()
        all_logits = np.where(is_scored > 0, summed, np.nan).astype(np.float32)
        broken = np.flatnonzero((is_scored > 0) & ~np.isfinite(all_logits))
        if len(broken):
            raise JobError(
                f"the score of {len(broken)} {rows.name} rows is NaN or infinite "
                f"({self._some(rows, broken)}); lower --learning-rate, or try --dtype float32"
            )
        return all_logits

    def _share_of_scoring(self, sequences: list[PackedSequence]) -> list[PackedSequence]:
        """Every n-th sequence in the order of their lengths."""
        longest_first = sorted(sequences, key=len, reverse=True)
        return longest_first[self.processes.rank :: self.processes.n]

    # -- state -----------------------------------------------------------------------------------

    def weights(self) -> dict[str, Tensor]:
        """Copies of what was learned, on the CPU."""
        return {name: w.detach().cpu().clone() for name, w in self.learned.items()}

    def moments(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """First and second moments of AdamW, by weight; empty before the first step."""
        state = self._optimizer.state
        return tuple(  # type: ignore[return-value]
            {name: state[w][moment] for name, w in self.learned.items() if w in state}
            for moment in ("exp_avg", "exp_avg_sq")
        )

    def restore(
        self,
        n_steps: int,
        weights: Mapping[str, Tensor],
        first_moments: Mapping[str, Tensor],
        second_moments: Mapping[str, Tensor],
        batch_tokens: int,
    ) -> None:
        """Go on from where a checkpoint stands."""
        for name, weight in self.learned.items():
            with torch.no_grad():
                weight.copy_(weights[name])
            self._optimizer.state[weight] = {
                "step": torch.tensor(float(n_steps), device=weight.device),
                "exp_avg": first_moments[name].to(self.device),
                "exp_avg_sq": second_moments[name].to(self.device),
            }
        self.batch_tokens = batch_tokens


def _optimizer_groups(
    learned: Mapping[str, nn.Parameter], groups: Mapping[str, Group], config: TrainingConfig
) -> list[dict[str, Any]]:
    """Weights that move alike together, in the order in which their groups first occur."""
    found: dict[Group, list[nn.Parameter]] = {}
    for name, weight in learned.items():
        found.setdefault(groups.get(name, Group()), []).append(weight)
    return [
        {
            "params": weights,
            "share": group.share,
            "weight_decay": config.weight_decay if group.decays else 0.0,
        }
        for group, weights in found.items()
    ]


def _broken(batch: Batch, logits: Tensor) -> Tensor:
    return batch.answer_row[~torch.isfinite(logits).cpu()]


def _rows_of(sequences: Sequence[PackedSequence]) -> NDArray[np.int64]:
    return np.concatenate([sequence.answer_row for sequence in sequences])
