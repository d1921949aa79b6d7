"""How rows of SPLITS become packed sequences of a backbone's tokens; training and scoring alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field

from jobs.errors import JobError
from jobs.job import Config
from jobs.llm.answers import AnswerTokens, answer_tokens
from jobs.llm.events import Events, History, Shown, events_of
from jobs.llm.packing import Blocks, LastTitles, Packing, RowPacking, StreamPacking, TreePacking
from jobs.llm.prompts import PromptTemplate, PromptTokens, load_template, prompt_tokens
from jobs.llm.sequences import PackedSequence
from jobs.llm.training import Rows


class ReadingConfig(Config):
    """What a row's prompt says, and how prompts share their tokens."""

    template: str = Field(
        default="ctr_titles", description="a template of jobs/llm/templates, or a TOML file"
    )
    max_title_tokens: int = Field(default=64, gt=0, description="longer titles lose their end")
    shown: Shown = Field(
        default="positives",
        description="what a history holds; labelled adds the user's negatives: another protocol",
    )
    packing: Literal["stream", "tree", "rows"] = Field(
        default="stream", description="a user's events in one sequence, shared prefixes, or none"
    )
    max_titles: int = Field(
        default=10, gt=0, description="entries of a history; packing tree and rows"
    )
    block_tokens: int = Field(
        default=256, gt=0, description="tokens of a history at most; packing stream"
    )
    kept_tokens: int = Field(
        default=64, ge=0, description="tokens of a history that a new block begins with"
    )
    sequence_tokens: int = Field(
        default=1_024, gt=0, description="tokens of a sequence; packing stream and tree"
    )

    def chosen_packing(self) -> Packing:
        """The packing that the fields describe."""
        if self.packing == "stream":
            return StreamPacking(self._blocks(), self.sequence_tokens)
        if self.packing == "tree":
            return TreePacking(LastTitles(self.max_titles), self.sequence_tokens)
        return self.one_prompt_a_row()

    def one_prompt_a_row(self) -> RowPacking:
        """The same histories, shared by no two rows: what looks into single prompts takes."""
        is_stream = self.packing == "stream"
        return RowPacking(self._blocks() if is_stream else LastTitles(self.max_titles))

    def _blocks(self) -> Blocks:
        return Blocks(self.block_tokens, self.kept_tokens)


class Reader:
    """The day's rows, read with one tokenizer and one template.

    Args:
        splits: SPLITS, all of it.
        histories: HISTORIES.
        texts: ITEM_TEXTS.
        noun: what an item is called: DOMAINS.item_noun.
        tokenizer: the backbone's.
        config: template and packing.
        soft: how many soft tokens stand at each place of a kind (user, item, warm); None: what the
            template itself says.

    Raises:
        JobError: there is no such template, or Yes and No are no single tokens.
    """

    def __init__(
        self,
        splits: pa.Table,
        histories: pa.Table,
        texts: pa.Table,
        noun: str,
        tokenizer: Any,
        config: ReadingConfig,
        soft: Mapping[str, int] | None = None,
    ) -> None:
        self._splits, self._histories, self._config = splits, histories, config
        self._item_ids = texts["item_id"].combine_chunks()
        template = load_template(config.template, noun=noun)
        self.template: PromptTemplate = template if soft is None else template.with_soft(soft)
        self.answers: AnswerTokens = answer_tokens(tokenizer, self.template)
        self.prompt: PromptTokens = prompt_tokens(
            self.template,
            tokenizer,
            texts["title"].to_pylist(),
            self.answers.ids,
            config.max_title_tokens,
        )
        self._labels = np.asarray(splits["label"]).astype(np.float32)
        self._users: NDArray[np.int64] = np.asarray(
            pc.rank(splits["user_id"], tiebreaker="dense"), dtype=np.int64
        )
        self._numbers = np.asarray(splits["row"]).astype(np.int64)

    def rows(
        self,
        split: str,
        *,
        history: History = "online",
        n_rows: int = 0,
        seed: int = 0,
        offsets: NDArray[np.float32] | None = None,
        packing: Packing | None = None,
    ) -> Rows:
        """The rows of a split, packed.

        Args:
            split: train, valid or test.
            history: see `jobs.llm.events.events_of`.
            n_rows: rows of users drawn at random until there are this many; 0 takes all.
            seed: of that draw.
            offsets: (n,) a control's logit for each row of SPLITS; see `Rows.offsets`.
            packing: another one than the config's.
        """
        if not pc.any(pc.equal(self._splits["split"], split)).as_py():
            return self._packed(split, [], offsets)
        events = self._events((split,), history)
        if n_rows:
            events = _some_users(events, n_rows, seed)
        chosen = self._config.chosen_packing() if packing is None else packing
        sequences = list(chosen.pack(events, self.prompt))
        return self._packed(split, sequences, offsets)

    def chains(self) -> Events:
        """Every user's chain, with the ids that soft tokens name users and items by; no rows."""
        return self._events((), "online")

    def _events(self, wanted: tuple[str, ...], history: History) -> Events:
        return events_of(
            self._splits,
            self._histories,
            self._item_ids,
            wanted=wanted,
            shown=self._config.shown,
            history=history,
        )

    def _packed(
        self,
        split: str,
        sequences: list[PackedSequence],
        offsets: NDArray[np.float32] | None = None,
    ) -> Rows:
        return Rows(split, sequences, self._labels, self._users, self._numbers, offsets)

    def facts(self) -> dict[str, Any]:
        """What another program must know to ask in the same way; JSON."""
        return {
            "template": {"name": self.template.name, "sha256": self.template.sha256},
            "answers": {"yes": self.answers.yes, "no": self.answers.no},
            "reading": self._config.model_dump(
                mode="json", include=set(ReadingConfig.model_fields)
            ),
        }


def _some_users(events: Events, n_rows: int, seed: int) -> Events:
    """The rows of users in a random order, until there are `n_rows` or more."""
    users, counts = np.unique(events.users, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(users))
    n_users = int(np.searchsorted(np.cumsum(counts[order]), n_rows)) + 1
    kept = np.isin(events.users, users[order[:n_users]])
    return replace(
        events,
        rows=events.rows[kept],
        users=events.users[kept],
        items=events.items[kept],
        ends=events.ends[kept],
        places=events.places[kept],
    )


def refuse_untrainable(train: Rows) -> None:
    """Refuse rows that nothing can be learned from.

    Raises:
        JobError: there are none, or all have the same label.
    """
    if not train.sequences:
        raise JobError("there are no train rows to adapt to; give a later --day")
    answered = np.concatenate([sequence.answer_row for sequence in train.sequences])
    labels = np.unique(train.labels[answered])
    if len(labels) < 2:
        raise JobError(
            f"all {len(answered)} train rows have the label {int(labels[0])}; there is nothing to "
            "tell apart. See the rating from which the source counts as liked (docs/data.md)"
        )
