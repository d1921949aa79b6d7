"""Scores of packed sequences, part by part, so that a killed run repeats one part at most."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from jobs.errors import JobError
from jobs.files import sync_directory, sync_file
from jobs.llm.answers import AnswerTokens, answer_logits
from jobs.llm.batches import token_budget_batches
from jobs.llm.conditions import TEXT_ALONE, Conditions
from jobs.llm.sequences import PackedSequence, collate

Advance = Callable[[int], None]
Say = Callable[..., None]


class Scorer:
    """A model that scores sequences within the memory there is.

    Args:
        model: a causal LM in eval mode, on its device; see `jobs.llm.attention.suit_attention`.
        answers: the tokens whose logits are compared.
        batch_tokens: of a batch, padding included; halved as often as memory falls short.
        multiple: sequences are padded to a multiple of it.
        say: told when memory falls short.
        conditions: what a forward pass is given beside the text.
    """

    def __init__(
        self,
        model: Any,
        answers: AnswerTokens,
        batch_tokens: int,
        multiple: int = 1,
        say: Say = lambda event, **figures: None,
        conditions: Conditions = TEXT_ALONE,
    ) -> None:
        self.model, self.answers, self.multiple = model, answers, multiple
        self.batch_tokens, self._say, self.conditions = batch_tokens, say, conditions
        self.device: torch.device = next(model.parameters()).device

    def score(
        self, sequences: Sequence[PackedSequence], advance: Advance = lambda n_tokens: None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Rows that were scored, and l_yes - l_no of each.

        Raises:
            JobError: one sequence alone does not fit into memory.
        """
        waiting = _batched(sequences, self.batch_tokens)
        rows, logits = [np.empty(0, np.int64)], [np.empty(0, np.float32)]
        while waiting:
            batch = waiting.pop(0)
            try:
                scored = self._forward(batch)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                waiting = self._halved([batch, *waiting])
                continue
            rows.append(np.concatenate([sequence.answer_row for sequence in batch]))
            logits.append(scored)
            advance(sum(map(len, batch)))
        return np.concatenate(rows), np.concatenate(logits)

    @torch.inference_mode()
    def _forward(self, sequences: list[PackedSequence]) -> NDArray[np.float32]:
        batch = collate(sequences, multiple=self.multiple).to(self.device)
        beside = self.conditions.given(batch, is_training=False)
        return answer_logits(self.model, batch, self.answers, **beside).float().cpu().numpy()

    def _halved(self, waiting: list[list[PackedSequence]]) -> list[list[PackedSequence]]:
        """What is left, in batches of half the tokens."""
        failed = waiting[0]
        if len(failed) == 1:
            raise JobError(
                f"out of memory with one sequence of {len(failed[0])} tokens; lower "
                "--sequence-tokens and --block-tokens"
            )
        self.batch_tokens = max(map(len, failed)) * len(failed) // 2
        self._say("out of memory: going on with half the tokens", batch_tokens=self.batch_tokens)
        return _batched([each for batch in waiting for each in batch], self.batch_tokens)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Torch has a class for accelerators; on the CPU only the message tells."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return "can't allocate memory" in str(error) or "not enough memory" in str(error)


def _batched(sequences: Sequence[PackedSequence], batch_tokens: int) -> list[list[PackedSequence]]:
    lengths = [len(sequence) for sequence in sequences]
    return [
        [sequences[number] for number in numbers]
        for numbers in token_budget_batches(lengths, batch_tokens)
    ]


# -- parts ---------------------------------------------------------------------------------------


def in_parts(sequences: Sequence[PackedSequence], part_tokens: int) -> list[list[PackedSequence]]:
    """Sequences in parts of about `part_tokens`, longest first: a part holds sequences of a kind.

    Parts depend on the sequences alone, batches on their part, so a run that was killed and goes
    on computes what an undisturbed one does.
    """
    lengths = np.array([len(sequence) for sequence in sequences], np.int64)
    order = np.argsort(-lengths, kind="stable")
    part_of = (np.cumsum(lengths[order]) - lengths[order]) // part_tokens
    borders = np.flatnonzero(np.diff(part_of)) + 1
    return [
        [sequences[number] for number in part] for part in np.split(order, borders) if len(part)
    ]


class KeptParts:
    """Scores of the parts that an unfinished run has done.

    Args:
        folder: of all runs of this job and day.
        key: of everything that the scores depend on; parts of other keys are removed.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self._folder = folder / key
        self._folder.mkdir(parents=True, exist_ok=True)
        for other in folder.iterdir():
            if other.name != key:
                shutil.rmtree(other, ignore_errors=True)

    def load(
        self, number: int, part: Sequence[PackedSequence]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]] | None:
        """The scores of a part; None if it is still to be done."""
        try:
            kept = load_file(self._path(number))
        except (OSError, SafetensorError):
            return None
        rows = np.sort(np.concatenate([sequence.answer_row for sequence in part]))
        if not np.array_equal(np.sort(kept["rows"]), rows):
            return None
        return kept["rows"], kept["logits"]

    def keep(self, number: int, rows: NDArray[np.int64], logits: NDArray[np.float32]) -> None:
        """Make the scores of a part outlive this process."""
        path = self._path(number)
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        save_file({"rows": rows, "logits": logits}, aside)
        sync_file(aside)
        aside.replace(path)
        sync_directory(self._folder)

    def clear(self) -> None:
        """Remove them: the run has ended."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:06}.safetensors"
