"""Writes a first mapping and the schema for editors; nothing that is there is overwritten."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from jobs.errors import SourceError
from jobs.prepare.first_look.first_mapping import SCHEMA, first_mapping
from jobs.prepare.first_look.source_draft import Guess
from jobs.prepare.sources.mapping import NAMES, json_schema, load_mapping, recognise


def write_first_mapping(
    source: Path, to: Path, *, chosen: Mapping[str, str], names: Sequence[str]
) -> tuple[Guess, ...]:
    """Write a first mapping to `to`, with the schema for editors beside it; both only if absent.

    Raises:
        SourceError: `to` exists, or see `first_mapping`.
    """
    refuse_existing(to)
    text, guesses = first_mapping(source, to=to, chosen=chosen, names=names)
    try:
        with to.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise SourceError(f"{to}: cannot be written ({error.strerror}); give --to") from error
    try:
        load_mapping(to)
    except SourceError:
        to.unlink()  # for instance a table whose name no mapping can say
        raise
    schema = to.with_name(SCHEMA)
    if not schema.exists():
        schema.write_text(json_schema(), encoding="utf-8")
    return guesses


def refuse_existing(to: Path) -> None:
    """A mapping holds decisions of people: it is never overwritten.

    Raises:
        SourceError: `to`, or another mapping beside it, is there.
    """
    for path in (to, *(to.with_name(name) for name in NAMES)):
        if path.exists():
            raise SourceError(
                f"{path}: there is a mapping already, and it is not overwritten; "
                "remove it, or give another file with --to"
            )


def refuse_built_in(source: Path) -> None:
    """A form that is read as it is needs no mapping, and one in its folder would take its place.

    Raises:
        SourceError: `source` is a folder of such a form.
    """
    if not source.is_dir() or any((source / name).exists() for name in NAMES):
        return
    try:
        mapping, _ = recognise(source)
    except SourceError:
        return
    raise SourceError(
        f"{source}: read as it is, as domain '{mapping.domain}': tidemark run --source {source}; "
        "for a mapping of your own give --to"
    )
