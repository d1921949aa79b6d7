from __future__ import annotations

import numpy as np
import pytest

from jobs.llm.answers import answer_tokens
from jobs.llm.prompts import load_template, prompt_tokens
from jobs.report.misses import most_wrong
from jobs.report.prompt_text import Wording, prompt_text, wording
from tests.tiny_backbone import tiny_tokenizer

TITLES = ["Emma", "Toy Story (1995)", 'The "Best"\nof \u202eFilms', None]


@pytest.mark.parametrize("name", ["ctr_titles", "ctr_question", "ctr_titles.item"])
@pytest.mark.parametrize("n_seen", [0, 3])
def test_the_text_is_what_the_tokens_of_the_prompt_say(name: str, n_seen: int) -> None:
    template, tokenizer = load_template(name, noun="Movie"), tiny_tokenizer()
    answers = answer_tokens(tokenizer, template)
    tokens = prompt_tokens(template, tokenizer, TITLES, answers.ids)
    parts = [tokens.prefix, *tokens.entries_yes[:n_seen], tokens.questions[3]]
    if n_seen == 0:
        parts.insert(1, tokens.no_history)
    expected = tokenizer.decode([token for part in parts for token in part.ids])
    assert prompt_text(Wording(template, 10), TITLES[:n_seen], TITLES[3]) == expected


def test_the_latest_titles_are_shown_and_no_more_than_the_llm_reads() -> None:
    said = prompt_text(Wording(load_template("ctr_titles"), 2), ["A", "B", "C"], "D")
    assert said.splitlines()[1:] == ["B? Yes", "C? Yes", "D?"]


def test_a_soft_token_is_its_kind_in_brackets_as_often_as_it_stands_there() -> None:
    facts = {
        "reading": {"template": "ctr_soft", "max_titles": 3},
        "places": {"user": 2, "item": 1, "warm": 0},
    }
    words = wording(facts, "Movie")
    said = prompt_text(words, ["A"], "B")
    assert words.n_titles == 3
    assert said.count("[user]") == 2
    assert said.endswith("B [item]?")
    assert "[warm]" not in said


@pytest.mark.parametrize("facts", [{}, {"reading": {"template": "/no/such.toml"}}])
def test_without_an_llm_or_its_template_the_default_words_are_taken(facts: dict) -> None:
    words = wording(facts, "Book")
    assert (words.template.name, words.n_titles) == ("ctr_titles.item", 10)


def test_the_most_wrong_rows_are_half_likes_and_half_dislikes_of_different_users() -> None:
    labels = np.array([1, 1, 1, 0, 0, 0])
    probabilities = np.array([0.1, 0.2, 0.9, 0.95, 0.6, 0.8])
    users = np.array(["a", "a", "b", "c", "d", "a"])
    assert most_wrong(labels, probabilities, users, 4) == [0, 2, 3, 4]
    assert most_wrong(labels, probabilities, users, 1) == [0]
    assert most_wrong(labels, probabilities, users, 0) == []
    assert most_wrong(labels[:0], probabilities[:0], users[:0], 4) == []
