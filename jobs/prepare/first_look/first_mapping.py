"""A first mapping of a source that nobody has described yet: guessed, with the reasons."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from pathlib import Path

from jobs.prepare.first_look.column_roles import (
    TimeForm,
    as_number,
    is_whole_number_id,
    label_sides,
    parsed,
    plain_name,
    share,
    time_form,
)
from jobs.prepare.first_look.source_draft import REQUIRED, Draft, Guess, catalogue, events_table
from jobs.prepare.first_look.source_look import Column, Table, tables_at
from jobs.prepare.first_rules import quarantine_lines, reject_lines
from jobs.prepare.mapping_words import listed, scalar

# -- what is said of each part ---------------------------------------------------------------------


def _percent(part: float) -> str:
    return f"{part:.1%}"


def _id_lines(draft: Draft, role: str) -> list[str]:
    column = draft.roles[role]
    is_whole = is_whole_number_id(column)
    kind = "integer" if is_whole else "string"
    odd = next((t for t in column.texts if not re.fullmatch(r"-?(0|[1-9][0-9]{0,17})", t)), None)
    why = "every id seen is a whole number" if is_whole else f"ids like '{odd}' are no plain number"
    looks = []
    if column.missing_share:
        looks.append(f"missing in {_percent(column.missing_share)} of the rows seen")
    if not is_whole and share(column.texts, lambda text: text.strip().isdecimal()) > 0.9:
        looks.append(
            "nearly all are numbers: if the others are dirt, write integer and they are quarantined"
        )
    if column.kind == "text" and share(column.texts, re.compile(r"[0-9]+[.]0+").fullmatch) > 0.9:
        looks.append(
            f"whole numbers written as {odd}, as pandas does once one is missing: they stay such "
            "text; better to write the file with whole numbers"
        )
    draft.say(role, f"{column.name}, {kind}", why, "; ".join(looks) or None)
    return [f"  {role}: {{type: {kind}}}"]


def _time_lines(draft: Draft, role: str, form: TimeForm) -> list[str]:
    column = draft.roles[role]
    zone = "" if form.has_zone else ", zone: UTC"
    looks = [form.look] if form.look else []
    if not form.has_zone:
        looks.append("nothing says the zone: UTC is assumed; write the source's, as Europe/London")
    said = "" if form.has_zone else ", zone UTC"
    draft.say(role, f"{column.name}, {form.form}{said}", form.why, "; ".join(looks) or None)
    of = f"column: {scalar(column.name)}, " if role == "ingested_at" else ""
    return [f"  {role}: {{{of}form: {scalar(form.form)}{zone}}}"]


def _span(column: Column, form: str) -> tuple[datetime, datetime] | None:
    moments = [m for text in column.texts if (m := parsed(text, form))]
    plain = [moment.replace(tzinfo=None) for moment in moments]
    return (min(plain), max(plain)) if plain else None


def _feedback_lines(draft: Draft) -> list[str]:
    rating, label = draft.roles.get("rating"), draft.roles.get("label")
    if rating is not None:
        return _rating_lines(draft, rating)
    if label is not None:
        return _label_lines(draft, label)
    draft.say(
        "feedback",
        "implicit",
        "no column looks like a rating or a label, so that every row counts as a positive",
        "if a column says how much a user liked an item, write kind: rating or kind: label",
    )
    return [
        "feedback: {kind: implicit, negatives_per_positive: 1, popularity_power: 0.75, seed: 0}"
    ]


def _rating_lines(draft: Draft, column: Column) -> list[str]:
    numbers = sorted(float(t) for t in column.texts if re.fullmatch(r"-?[0-9]+([.][0-9]+)?", t))
    # The ends of what nearly all ratings lie between: a single 99 is dirt, not a scale.
    low, high = numbers[len(numbers) // 100], numbers[-1 - len(numbers) // 100]
    top = next((top for top in (1, 5, 10, 20, 100) if high <= top), high)
    bottom = min(low, 0.0) if low < 0.5 else (0.5 if low < 1 else 1.0)
    from_ = 0.8 * top
    positive = share(column.texts, lambda t: as_number(t) >= from_)
    draft.say(
        "feedback",
        f"rating in {column.name}, {bottom:g} to {top:g}, positive from {from_:g}",
        f"nearly all values lie between {low:g} and {high:g}",
        f"{_percent(positive)} of the rows seen are positive; choose positive_from so that it is "
        "what a user liked",
    )
    return [
        f"feedback: {{kind: rating, minimum: {bottom:g}, maximum: {top:g}, "
        f"positive_from: {from_:g}}}"
    ]


def _label_lines(draft: Draft, column: Column) -> list[str]:
    positive, negative, is_plain = label_sides(column)
    positives = share(column.texts, lambda text: text.strip() in positive)
    draft.say(
        "feedback",
        f"label in {column.name}, positive {', '.join(positive)}; negative {', '.join(negative)}",
        f"{column.name} holds two values",
        f"{_percent(positives)} of the rows seen are positive"
        if is_plain
        else "which value means that the user liked the item is a guess",
    )
    return [
        f"feedback: {{kind: label, positive: {listed(positive)}, negative: {listed(negative)}}}"
    ]


def _items_lines(draft: Draft) -> list[str]:
    if draft.catalogue is not None:
        table, roles = draft.catalogue
        draft.say(
            "items",
            f"{table.label}: {roles['item_id'].name}, {roles['title'].name}",
            "it holds items of the events, with a title for each",
        )
        columns = {"item_id": roles["item_id"].name, "title": roles["title"].name}
        return ["items:", *_files_lines(table), _columns_line(columns)]
    if (title := draft.roles.get("title")) is not None:
        draft.say("items", f"titles from {title.name} of the events", "no table of items was found")
        return [f"items: {{from: events, title: {scalar(title.name)}}}"]
    item = draft.roles["item_id"].name
    draft.say(
        "items",
        f"no titles, so the LLM would read the ids in {item}",
        "no column and no other table looks like a title",
        "embeddings of bare ids say little: add a table of items with titles",
    )
    return [f"items: {{from: events, title: {scalar(item)}}}"]


def _files_lines(table: Table) -> list[str]:
    lines = [f"  files: [{json.dumps(table.pattern)}]", f"  format: {table.format}"]
    if table.table is not None:
        lines.append(f"  table: {scalar(table.table)}")
    if table.csv is not None:
        lines.append(f"  csv: {{{_csv_keys(table)}}}")
    return lines


def _csv_keys(table: Table) -> str:
    form = table.csv
    assert form is not None
    keys = [f"delimiter: {json.dumps(form.delimiter)}", f"encoding: {form.encoding}"]
    if not form.header:
        names = ", ".join(scalar(column.name) for column in table.columns)
        keys += ["header: false", f"columns: [{names}]"]
    return ", ".join(keys)


def _columns_line(columns: Mapping[str, str]) -> str:
    pairs = ", ".join(f"{ours}: {scalar(theirs)}" for ours, theirs in columns.items())
    return f"  columns: {{{pairs}}}"


# -- windows ---------------------------------------------------------------------------------------


def _split_lines(draft: Draft) -> list[str]:
    form = time_form(draft.roles["at"])
    span = _span(draft.roles["at"], form.form) if form else None
    ends = [moment.date() for moment in span] if span else []
    ends += [date.fromisoformat(day) for day in draft.events.days]
    n_days = (max(ends) - min(ends)).days + 1 if ends else 1
    held_out = 10 if n_days >= 40 else max(1, n_days // 4)
    seen = f"{min(ends)} to {max(ends)}" if ends else "no day"
    draft.say(
        "split",
        f"rolling, the last {held_out} days test, {held_out} before them valid",
        f"what was seen is of {seen}",
    )
    return [f"split: {{protocol: rolling, valid_days: {held_out}, test_days: {held_out}}}"]


# -- the whole -------------------------------------------------------------------------------------

_NOUNS = (
    ("movie", "Movie"),
    ("film", "Movie"),
    ("book", "Book"),
    ("isbn", "Book"),
    ("game", "Game"),
    ("app", "App"),
    ("song", "Song"),
    ("track", "Song"),
    ("video", "Video"),
    ("article", "Article"),
    ("product", "Product"),
    ("stock", "Product"),
    ("sku", "Product"),
    ("asin", "Product"),
    ("retail", "Product"),
    ("shop", "Product"),
)


def _domain(source: Path) -> str:
    words = re.sub(r"[^a-z0-9]+", "-", source.absolute().with_suffix("").name.lower()).strip("-")
    return words[:40].strip("-") or "warehouse"


def _noun(item: Column, domain: str) -> str:
    """What an item is called: said by its column's name, or by the domain's."""
    for text in (domain, plain_name(item.name)):
        for word, noun in _NOUNS:
            if word in text:
                return noun
    return "Item"


def _events_pattern(draft: Draft, span: tuple[datetime, datetime] | None) -> str:
    """The events' glob; a date in the names is a delivery day unless events come after it."""
    table = draft.events
    if not table.days:
        look = "without ingested_at or a day in the names, a row is known from the day after it"
        draft.say("events.files", table.pattern, f"{table.n_files} file(s) of equal columns", look)
        return table.pattern
    last = date.fromisoformat(table.days[-1])
    if span and span[1].date() > last:
        pattern = table.pattern.replace("{day}", "*", 1)
        why = f"names hold a day, but events of {span[1]:%Y-%m-%d} come after {last}: none is one"
        draft.say("events.files", pattern, why)
        return pattern
    why = f"{table.n_files} names hold a day, {table.days[0]} to {table.days[-1]}"
    look = "the day must be that of the delivery: a file is known from the midnight that ends it"
    draft.say("events.files", table.pattern, why, look)
    return table.pattern


def _events_lines(draft: Draft) -> list[str]:
    """Everything below `events:`; `at` decides the span on which other guesses rest."""
    at = time_form(draft.roles["at"])
    assert at is not None  # a column is `at` only if a form reads it
    span = _span(draft.roles["at"], at.form)
    pattern = _events_pattern(draft, span)
    used = _used_roles(draft.roles)
    lines = _files_lines(replace(draft.events, pattern=pattern))
    lines.append(_columns_line({role: draft.roles[role].name for role in used}))
    lines += _id_lines(draft, "user_id") + _id_lines(draft, "item_id")
    lines += _time_lines(draft, "at", at)
    arrival = draft.roles.get("ingested_at")
    if arrival is not None and (form := time_form(arrival)) is not None:
        lines += _time_lines(draft, "ingested_at", form)
    return ["events:", *lines]


def _used_roles(roles: Mapping[str, Column]) -> tuple[str, ...]:
    """The columns of the events; of a rating and a label the rating says more."""
    feedback = next((role for role in ("rating", "label") if role in roles), None)
    return (*REQUIRED, feedback) if feedback else REQUIRED


def first_mapping(
    source: Path, *, to: Path, chosen: Mapping[str, str] | None = None, names: Sequence[str] = ()
) -> tuple[str, tuple[Guess, ...]]:
    """The text of a first mapping, and what was guessed.

    Args:
        source: a folder, or one file of Parquet, CSV or DuckDB.
        to: where the mapping will lie; its paths start from there or from a `root:`.
        chosen: columns that are known: role (a key of `NAMES`) to name.
        names: column names for CSV files without a header.

    Raises:
        SourceError: nothing can be read, or no column looks like a user, an item or a time.
    """
    root, tables = tables_at(source, names)
    events, roles = events_table(source, tables, chosen or {})
    draft = Draft(events, roles, catalogue(events, roles["item_id"], tables))
    domain = _domain(source)
    noun = _noun(roles["item_id"], domain)
    draft.say("domain", domain, "the name of the source")
    unsaid = "no name says what an item is; prompts will call it so" if noun == "Item" else None
    draft.say("item_noun", noun, "names of the source and of the item column", unsaid)
    events_lines = _events_lines(draft)
    sections = (
        _Section("What this is.", "domain item_noun", _head_lines(domain, noun, root, to)),
        _Section("Where the events lie, and what their columns mean.", _EVENT_KEYS, events_lines),
        _Section("What an event says of its user and item.", "feedback", _feedback_lines(draft)),
        _Section("Rows that are no events.", "reject", reject_lines(draft)),
        _Section("Items and their titles: what the LLM reads.", "items", _items_lines(draft)),
        _Section("Train, valid and test.", "split", _split_lines(draft)),
        _Section("More bad rows than this stop a night.", "quarantine", quarantine_lines(draft)),
    )
    return _rendered(source, sections, draft.guesses), tuple(draft.guesses)


def _head_lines(domain: str, noun: str, root: Path, to: Path) -> list[str]:
    lines = [f"domain: {scalar(domain)}", f"item_noun: {noun}"]
    if root.absolute() != to.absolute().parent:
        lines.append(f"root: {scalar(os.path.relpath(root.absolute(), to.absolute().parent))}")
    return lines


# -- text ------------------------------------------------------------------------------------------

SCHEMA = "tidemark.schema.json"  # written beside the mapping, so that editors know its keys
_EVENT_KEYS = "events.files user_id item_id at ingested_at"


@dataclass(frozen=True)
class _Section:
    """Some keys of the mapping, with the guesses that they rest on."""

    meaning: str
    keys: str
    lines: list[str]


def _rendered(source: Path, sections: Sequence[_Section], guesses: Sequence[Guess]) -> str:
    lines = [
        f"# yaml-language-server: $schema={SCHEMA}",
        f"# A first mapping of {source.name}, guessed from a sample of its rows.",
        "# Lines that begin with LOOK hold what the source does not say; settle them, then run",
        "# tidemark check on this file. Every key: docs/your-warehouse.md.",
    ]
    for section in sections:
        if not section.lines:
            continue
        lines += ["", f"# {section.meaning}"]
        for guess in guesses:
            if guess.what in section.keys.split() and guess.look:
                lines.append(f"# LOOK {guess.what}: {_one_line(guess.look)}")
        lines += section.lines
    return "\n".join(lines) + "\n"


def _one_line(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text)
