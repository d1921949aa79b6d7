"""Yes and No as single tokens of a tokenizer, and the difference of their logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from jobs.errors import JobError
from jobs.llm.attention import attention_mask
from jobs.llm.prompts import PromptTemplate
from jobs.llm.sequences import Batch

YES, NO = "Yes", "No"


@dataclass(frozen=True)
class AnswerTokens:
    """The token ids whose logits are compared.

    Attributes:
        yes, no: ids.
        with_space: whether they are " Yes" and " No", with the space before them.
    """

    yes: int
    no: int
    with_space: bool

    @property
    def ids(self) -> tuple[int, int]:
        """Yes and No."""
        return self.yes, self.no


def answer_tokens(tokenizer: Any, template: PromptTemplate) -> AnswerTokens:
    """Ids of Yes and No, with a space before them or without, as the template says.

    If they are no single tokens in that form, the other form is taken.

    Raises:
        JobError: in neither form are both words single tokens; names the tokenizer.
    """
    for with_space in (template.answer_with_space, not template.answer_with_space):
        yes, no = (_single(tokenizer, " " * with_space + word) for word in (YES, NO))
        if yes is not None and no is not None and yes != no:
            return AnswerTokens(yes, no, with_space)
    name = getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__
    raise JobError(
        f"tokenizer {name}: '{YES}' and '{NO}' are no single tokens, with or without a space "
        "before them, so no answer can be read; use a backbone whose vocabulary holds both"
    )


def _single(tokenizer: Any, text: str) -> int | None:
    """The one token of `text`; None if it is several, or what stands for unknown text."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
        return None
    # A tokenizer that drops spaces would give "Yes" for " Yes": the same token is meant by both.
    return int(ids[0])


def answer_logits(
    model: Any,
    batch: Batch,
    answers: AnswerTokens,
    *,
    soft: torch.Tensor | None = None,
    **kwargs: Any,
) -> torch.Tensor:
    """l_yes - l_no at every answer of the batch.

    The softmax over {Yes, No} is the sigmoid of it (SeLLa-Rec Eq. 3, 5). The head is applied at the
    answers alone, to its two rows, in float32. Differentiable with respect to the model's
    parameters and `soft`.

    Args:
        model: a causal LM, also one wrapped by peft; on the batch's device.
        batch: from `jobs.llm.sequences.collate`.
        answers: whose logits are compared.
        soft: (batch.soft_at.shape[0], d) vectors that take the places of soft tokens, in the order
            of `batch.soft_kind` and `batch.soft_of`; None leaves the placeholder's embedding.
        **kwargs: reach the attention function (steering).

    Returns:
        (m,) float32, in the order of `batch.answer_row`.
    """
    decoder = model.get_decoder()
    given: dict[str, Any] = {"input_ids": batch.input_ids}
    if soft is not None:
        embedded = model.get_input_embeddings()(batch.input_ids)
        places = (batch.soft_sequence, batch.soft_at)
        given = {"inputs_embeds": embedded.index_put(places, soft.to(embedded.dtype))}
    states = decoder(
        **given,
        attention_mask=attention_mask(batch, model),
        position_ids=batch.position_ids,
        use_cache=False,
        **kwargs,
    ).last_hidden_state
    at_answers = states[batch.answer_sequence, batch.answer_at].float()
    head = model.get_output_embeddings()
    rows = torch.tensor(answers.ids, device=states.device)
    bias = None if head.bias is None else head.bias[rows].float()
    with torch.autocast(states.device.type, enabled=False):  # would round the logits to bfloat16
        pair = torch.nn.functional.linear(at_answers, head.weight[rows].float(), bias)
        yes, no = _as_the_model_scales(pair, model.config).unbind(dim=1)
        return yes - no


def _as_the_model_scales(logits: torch.Tensor, config: Any) -> torch.Tensor:
    """What some architectures do with the product of state and head."""
    if scale := getattr(config, "logit_scale", None):  # Cohere
        logits = logits * scale
    if scaling := getattr(config, "logits_scaling", None):  # Granite
        logits = logits / scaling
    if cap := getattr(config, "final_logit_softcapping", None):  # Gemma
        logits = torch.tanh(logits / cap) * cap
    return logits
