"""Prompts as data: a template file for each task and domain, read as pieces, titles made harmless.

A prompt is `prefix entry* question`: what the user did first, the candidate last. The question ends
at the place where the answer is read. In a template whose entry begins like its question, a scored
event and its later line in the history are the same tokens.
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from pathlib import Path
from typing import Any

from jobs.errors import JobError
from jobs.files import sha256_file, write_atomically
from jobs.llm.fingerprint import sha256_json

TEMPLATES = Path(__file__).resolve().parent / "templates"
_PLACE = re.compile(r"\{(title|answer|user|item|warm)\}")
_NOUN = re.compile(r"\{(noun|Noun)\}")
_UNKNOWN_PLACE = re.compile(r"\{[^{}\s]*\}")
_BIDI = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
_CHARACTERS_PER_TOKEN = 32  # longer pieces of a title than any tokenizer makes of that many tokens


_REQUIRED = {"prefix", "question", "entry"}
_KEYS: dict[str, type] = {
    "prefix": str,
    "question": str,
    "entry": str,
    "no_history": str,
    "answer_with_space": bool,
    "empty_title": str,
    "replace": dict,
}


class SoftKind(IntEnum):
    """What a soft token stands for."""

    USER = 0
    ITEM = 1
    WARM = 2


_SOFT = {"user": SoftKind.USER, "item": SoftKind.ITEM, "warm": SoftKind.WARM}


@dataclass(frozen=True)
class Piece:
    """Text of the template, or a place that is filled for each event.

    Attributes:
        text: the template's own words; empty for a place.
        place: title, answer, user, item or warm; empty for text.
    """

    text: str = ""
    place: str = ""


Pieces = tuple[Piece, ...]


@dataclass(frozen=True)
class PromptTemplate:
    """How events become a prompt.

    Attributes:
        name: the file's name without its suffix, for instance `ctr_titles.movie`.
        sha256: over the exact bytes of the file and the noun: part of every fingerprint.
        prefix: the words before the first event.
        question: a candidate; the answer is read at its last token.
        entry: an event in the history.
        no_history: stands where a history would begin, if there is none.
        answer_with_space: whether the answer tokens carry the space before them.
        empty_title: stands for a title without a visible character.
        replace: characters that a title may not hold, and what stands for them.
    """

    name: str
    sha256: str
    prefix: Pieces
    question: Pieces
    entry: Pieces
    no_history: str = ""
    answer_with_space: bool = True
    empty_title: str = "(no title)"
    replace: dict[str, str] = field(default_factory=dict)

    @property
    def is_shared(self) -> bool:
        """Whether an entry begins with the question: both are then the same tokens."""
        return self.entry[: len(self.question)] == self.question

    def with_soft(self, counts: Mapping[str, int]) -> PromptTemplate:
        """The same words with so many soft tokens at each place of a kind; 0 leaves it out.

        Raises:
            JobError: a kind that the template has no place for.
        """
        there = {piece.place for part in (self.prefix, self.question) for piece in part}
        if missing := sorted(kind for kind, n in counts.items() if n and kind not in there):
            raise JobError(
                f"template {self.name} has no place for {{{missing[0]}}}; take another template or "
                "leave that kind of token out"
            )

        def placed(pieces: Pieces) -> Pieces:
            return tuple(
                piece
                for piece in pieces
                for _ in range(counts.get(piece.place, 0) if piece.place in _SOFT else 1)
            )

        return replace(
            self,
            sha256=sha256_json({"template": self.sha256, "soft": dict(counts)}),
            prefix=placed(self.prefix),
            question=placed(self.question),
            entry=placed(self.entry),
        )

    def harmless(self, title: str | None) -> str:
        """`title` on one line, without control characters and what the template forbids in it."""
        return harmless_title(title, self.empty_title, self.replace)


def harmless_title(
    title: str | None, empty: str = "(no title)", replace: dict[str, str] | None = None
) -> str:
    """One line that cannot end its place in a prompt.

    Line breaks, control characters and marks that turn the direction of the text around become
    spaces; letters of any script and emoji stay. Special tokens and words of the template need no
    change: a title is put in as tokens of plain characters, never as text of the template.
    """
    text = "".join(" " if _is_control(letter) else letter for letter in title or "")
    for unwanted, instead in (replace or {}).items():
        text = text.replace(unwanted, instead)
    # Joiners and the like take part in a title; alone they show nothing.
    is_blank = all(unicodedata.category(letter)[0] in "CZ" for letter in text)
    return empty if is_blank else " ".join(text.split())


def _is_control(letter: str) -> bool:
    return letter in _BIDI or unicodedata.category(letter) in ("Cc", "Zl", "Zp", "Cs")


# -- reading a template --------------------------------------------------------------------------


def load_template(name: str, *, noun: str = "Movie") -> PromptTemplate:
    """The template of a task, in the words of a domain.

    `ctr_titles` with the noun "Movie" is `ctr_titles.movie.toml` if there is such a file, else
    `ctr_titles.item.toml`, in which {noun} and {Noun} become the noun.

    Args:
        name: a task (`ctr_titles`), a template (`ctr_titles.item`), or the path of a TOML file.
        noun: what an item is called: DOMAINS.item_noun.

    Raises:
        JobError: there is no such template, or the file is none.
    """
    path = _find(name, noun)
    content = path.read_bytes()
    given = _parsed(path, content)
    _check_keys(given, path.name)
    for part in _REQUIRED:
        given[part] = _pieces(given[part], noun, path.name)
    if "no_history" in given:
        given["no_history"] = _with_noun(given["no_history"], noun)
    template = PromptTemplate(path.stem, _sha256(content, noun), **given)
    _check(template)
    return template


def load_item_text(*, noun: str = "Movie") -> tuple[str, str]:
    """What distillation reads of an item ("Movie: {title}"), and the sha256 of the template."""
    path = _find("item_text", noun)
    content = path.read_bytes()
    return _with_noun(_parsed(path, content)["text"], noun), _sha256(content, noun)


def template_record(name: str, cache: Path) -> Path:
    """A small file that changes exactly when a template that `name` can mean does.

    What a job's `sources` hook names, wherever the templates are installed.
    """
    files = [Path(name)] if name.endswith(".toml") else sorted(TEMPLATES.glob(f"{name}*.toml"))
    hashes = {path.name: sha256_file(path) for path in files if path.is_file()}
    record = cache / "fingerprints" / f"template-{re.sub(r'[^a-zA-Z0-9.]+', '-', name)}.json"
    content = json.dumps(hashes)
    if not record.is_file() or record.read_text(encoding="utf-8") != content:
        write_atomically(record, content)
    return record


def _check_keys(given: dict[str, Any], file: str) -> None:
    if unknown := sorted(set(given) - set(_KEYS)):
        raise JobError(f"{file}: unknown key '{unknown[0]}'; there is: {', '.join(_KEYS)}")
    if missing := sorted(_REQUIRED - set(given)):
        raise JobError(f"{file}: the key '{missing[0]}' is missing")
    for key, value in given.items():
        fits = isinstance(value, _KEYS[key])
        if not fits or (key == "replace" and not all(isinstance(v, str) for v in value.values())):
            wanted = "a table of texts" if key == "replace" else _KEYS[key].__name__
            raise JobError(f"{file}: {key} is {value!r}, expected {wanted}")


def _find(name: str, noun: str) -> Path:
    if name.endswith(".toml"):
        path = Path(name)
        if not path.is_file():
            raise JobError(f"there is no template file {path}")
        return path
    slug = re.sub(r"\W+", "_", noun.strip().lower())
    for stem in (name, f"{name}.{slug}", f"{name}.item"):
        if (TEMPLATES / f"{stem}.toml").is_file():
            return TEMPLATES / f"{stem}.toml"
    there = ", ".join(sorted(path.stem for path in TEMPLATES.glob("*.toml")))
    raise JobError(f"there is no template '{name}'; there is: {there}; or give a .toml file")


def _parsed(path: Path, content: bytes) -> dict[str, Any]:
    try:
        return tomllib.loads(content.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise JobError(f"{path}: not a template in TOML ({error})") from error


def _sha256(content: bytes, noun: str) -> str:
    return sha256_json({"bytes": hashlib.sha256(content).hexdigest(), "noun": noun})


def _with_noun(text: str, noun: str) -> str:
    return _NOUN.sub(lambda m: noun if m[1] == "Noun" else noun.lower(), text)


def _pieces(text: str, noun: str, file: str) -> Pieces:
    words = _PLACE.split(_with_noun(text, noun))
    pieces = [Piece(place=w) if i % 2 else Piece(text=w) for i, w in enumerate(words)]
    for piece in pieces:
        if unknown := _UNKNOWN_PLACE.search(piece.text):
            raise JobError(
                f"{file}: {unknown[0]} is no place; there is: {{title}}, {{answer}}, {{user}}, "
                "{item}, {warm}, {noun}, {Noun}"
            )
    return tuple(piece for piece in pieces if piece != Piece())


def _check(template: PromptTemplate) -> None:
    """What the packings rely on."""
    name = template.name
    for part, pieces in (("question", template.question), ("entry", template.entry)):
        if sum(piece.place == "title" for piece in pieces) != 1:
            raise JobError(f"{name}: {part} must hold {{title}} exactly once")
    places = {piece.place for piece in template.prefix}
    if wrong := sorted(places & {"title", "answer", "item", "warm"}):
        raise JobError(f"{name}: prefix holds {{{wrong[0]}}}, which belongs to an event")
    if any(piece.place == "answer" for piece in template.question):
        raise JobError(f"{name}: question holds {{answer}}, which is what it asks for")
    if template.is_shared and template.no_history:
        raise JobError(f"{name}: no_history cannot stand in a template whose entry is a question")


# -- tokens --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Segment:
    """Token ids of a part of a prompt, and where soft tokens sit in it.

    Attributes:
        ids: token ids; a soft token's place holds `PromptTokens.placeholder`.
        soft: (offset, kind, number within its kind) of each soft token.
    """

    ids: tuple[int, ...]
    soft: tuple[tuple[int, SoftKind, int], ...] = ()

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class PromptTokens:
    """A template for one tokenizer and one list of titles.

    Attributes:
        prefix: with what the tokenizer begins every text with.
        questions: one for each item.
        entries_yes, entries_no: an item's line in the history, liked and not; in a shared template
            each begins with the item's question.
        no_history: stands before the question if no history is visible.
        placeholder: token id at the places of soft tokens; its embedding is never used.
        is_shared: see `PromptTemplate.is_shared`.
        shows_answers: whether an entry says if the user liked it.
        n_truncated: titles that lost their end.
        n_untitled: titles without a visible character.
    """

    prefix: Segment
    questions: list[Segment]
    entries_yes: list[Segment]
    entries_no: list[Segment]
    no_history: Segment
    placeholder: int
    is_shared: bool
    shows_answers: bool = True
    n_truncated: int = 0
    n_untitled: int = 0


def prompt_tokens(
    template: PromptTemplate,
    tokenizer: Any,
    titles: Sequence[str | None],
    answers: tuple[int, int],
    max_title_tokens: int = 64,
) -> PromptTokens:
    """Tokens of every part that prompts of these titles are made of.

    Parts are tokenised one by one, so that an event has the same tokens wherever it stands. A space
    in front of a title belongs to the title, as it does in running text.

    Args:
        template: the template.
        tokenizer: the backbone's.
        titles: one an item; None and blank ones are read as the template's `empty_title`.
        answers: token ids of Yes and No: `AnswerTokens.yes`, `.no`.
        max_title_tokens: a longer title loses its end.
    """
    maker = _Maker(template, tokenizer, answers, max_title_tokens)
    harmless = [template.harmless(title) for title in titles]
    question, question_titles, n_truncated = maker.parts(template.question, harmless)
    entry, entry_titles, _ = maker.parts(template.entry, harmless)
    return PromptTokens(
        prefix=maker.prefix(),
        questions=[maker.segment(question, ids) for ids in question_titles],
        entries_yes=[maker.segment(entry, ids, answers[0]) for ids in entry_titles],
        entries_no=[maker.segment(entry, ids, answers[1]) for ids in entry_titles],
        no_history=Segment(tuple(maker.plain(template.no_history))),
        placeholder=maker.placeholder,
        is_shared=template.is_shared,
        shows_answers=any(piece.place == "answer" for piece in template.entry),
        n_truncated=n_truncated,
        n_untitled=sum(
            text == template.empty_title and (title or "").strip() != text
            for text, title in zip(harmless, titles, strict=True)
        ),
    )


Parts = list[tuple[str, list[int]]]  # (place, ids of a text)


class _Maker:
    """Tokenises pieces; holds what they all need."""

    def __init__(
        self,
        template: PromptTemplate,
        tokenizer: Any,
        answers: tuple[int, int],
        max_title_tokens: int,
    ) -> None:
        self.template, self.tokenizer, self.limit = template, tokenizer, max_title_tokens
        some = (tokenizer.pad_token_id, tokenizer.eos_token_id, answers[0])
        self.placeholder = int(next(token for token in some if token is not None))

    def plain(self, text: str) -> list[int]:
        """Ids of a text in the middle of a prompt, special tokens read as plain characters."""
        if not text:
            return []
        said = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)
        return list(said["input_ids"])

    def prefix(self) -> Segment:
        """The prefix behind what the tokenizer puts in front of every text."""
        parts, _, _ = self.parts(self.template.prefix, [])
        begin = self.tokenizer("a", split_special_tokens=True)["input_ids"]
        alone = self.plain("a")
        begin = begin[: begin.index(alone[0])] if alone[0] in begin else []
        return self.segment([("", list(begin)), *parts], ())

    def parts(self, pieces: Pieces, titles: list[str]) -> tuple[Parts, list[list[int]], int]:
        """Ids of the pieces, ids of each title, and how many titles were cut."""
        parts: Parts = []
        space = ""
        for here, after in zip(pieces, [*pieces[1:], Piece()], strict=True):
            text = here.text
            if after.place == "title" and text.endswith(" "):
                text, space = text[:-1], " "
            parts.append((here.place, self.plain(text)))
        ids = self._title_ids([space + title for title in titles])
        n_cut = sum(len(each) > self.limit for each in ids)
        return parts, [each[: self.limit] for each in ids], n_cut

    def _title_ids(self, titles: list[str]) -> list[list[int]]:
        if not titles:
            return []
        # A title of a million characters must not cost what a million titles do.
        longest = _CHARACTERS_PER_TOKEN * (self.limit + 1)
        said = self.tokenizer(
            [title[:longest] for title in titles],
            add_special_tokens=False,
            split_special_tokens=True,
            return_attention_mask=False,
        )
        return list(said["input_ids"])

    def segment(self, parts: Parts, title: Sequence[int], answer: int = 0) -> Segment:
        """The parts with their places filled."""
        ids: list[int] = []
        soft: list[tuple[int, SoftKind, int]] = []
        for place, text in parts:
            if place in _SOFT:
                kind = _SOFT[place]
                soft.append((len(ids), kind, sum(k is kind for _, k, _ in soft)))
                ids.append(self.placeholder)
            elif place:
                ids += title if place == "title" else [answer]
            else:
                ids += text
        return Segment(tuple(ids), tuple(soft))
