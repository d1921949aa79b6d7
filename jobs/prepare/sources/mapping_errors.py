"""What pydantic finds wrong with a mapping, as one line for the person who wrote it."""

from __future__ import annotations

import difflib
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from jobs.prepare.sources.lines import shown
from jobs.prepare.sources.mapping_form import (
    CatalogueFiles,
    ImplicitFeedback,
    LabelFeedback,
    Mapping,
    RatingFeedback,
    TitlesFromEvents,
)
from jobs.prepare.sources.mapping_text import Parsed, Place

_SHOWN = 5
_CHOICES: dict[tuple[str, Any], type[BaseModel]] = {  # pydantic puts the choice into the place
    ("feedback", "rating"): RatingFeedback,
    ("feedback", "label"): LabelFeedback,
    ("feedback", "implicit"): ImplicitFeedback,
    ("items", "files"): CatalogueFiles,
    ("items", "from events"): TitlesFromEvents,
}


def said_of(error: ValidationError, parsed: Parsed) -> str:
    """On one line, five findings at most: `, line 4: events.at.form: 'isoo': expected ...`."""
    if not isinstance(parsed.value, dict):
        return f": expected keys and values, found {shown(str(parsed.value))}"
    first, *found = [_one(detail, parsed) for detail in error.errors(include_url=False)]
    more = [f"and {len(found) + 1 - _SHOWN} more"] if len(found) >= _SHOWN else []
    return "; ".join([first, *(said.lstrip(", :") for said in found[: _SHOWN - 1]), *more])


def _one(detail: Any, parsed: Parsed) -> str:
    place = _without_choice(detail["loc"])
    line = parsed.line_of(place)
    start = f", line {line}: " if line else ": "
    if detail["type"] == "extra_forbidden":
        return f"{start}{_dotted(place)}: unknown key; {_known_keys(detail['loc'])}"
    if detail["type"] == "missing":
        return f"{start}{_dotted(place)}: this key is missing"
    said = detail["msg"].removeprefix("Value error, ")
    value = "" if isinstance(detail["input"], dict) else f"{_quoted(detail['input'])}: "
    return f"{start}{_dotted(place)}: {value}{said}".replace(": :", ":")


def _quoted(value: Any) -> str:
    return shown(value) if isinstance(value, str) else shown(str(value))[1:-1]


def _without_choice(place: Place) -> Place:
    return (place[0], *place[2:]) if tuple(place[:2]) in _CHOICES else place


def _dotted(place: Place) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    return text.removeprefix(".") or "the mapping"


def _known_keys(place: Place) -> str:
    """The keys that may stand where an unknown one does, the closest first."""
    model = _model_at(place[:-1])
    known = [field.alias or name for name, field in model.model_fields.items()]
    close = difflib.get_close_matches(str(place[-1]), known, n=1)
    meant = f"did you mean '{close[0]}'? " if close else ""
    return f"{meant}known here: {', '.join(known)}"


def _model_at(place: Place) -> type[BaseModel]:
    model: type[BaseModel] = Mapping
    if choice := _CHOICES.get((str(place[0]), place[1])) if len(place) > 1 else None:
        model, place = choice, place[2:]
    for part in place:
        if isinstance(part, str):
            model = next(_models(model.model_fields[part].annotation))
    return model


def _models(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)
