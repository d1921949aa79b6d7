"""YAML and TOML into plain values, with the line of each key for errors."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import yaml

Place: TypeAlias = tuple[str | int, ...]  # keys and places in lists, from the outside in


@dataclass
class Parsed:
    """What a file says, and where.

    Attributes:
        value: dicts, lists and scalars.
        lines: line, from 1, of keys and list entries; of TOML only where it is certain.
    """

    value: Any = None
    lines: dict[Place, int] = field(default_factory=dict)

    def line_of(self, place: Place) -> int | None:
        """Line of `place`, or of the nearest thing around it."""
        while place and place not in self.lines:
            place = place[:-1]
        return self.lines.get(place)


# -- YAML ------------------------------------------------------------------------------------------

# YAML 1.2's core: `no`, `on`, 010, 12:30 and 2026-01-31 stay the text that they look like.
_SCALARS: tuple[tuple[re.Pattern[str], Callable[[str], Any]], ...] = (
    (re.compile(r"true|false|True|False"), lambda text: text.lower() == "true"),
    (re.compile(r"[-+]?(?:0|[1-9][0-9]*)"), int),
    (re.compile(r"[-+]?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?"), float),
    (re.compile(r"null|~|"), lambda _: None),
)
_CORE = "tag:yaml.org,2002:"
_KINDS = ("str", "map", "seq", "bool", "int", "float", "null", "timestamp")  # plain YAML's own


def parsed_yaml(text: str) -> Parsed:
    """The one document of a YAML text.

    Raises:
        ValueError: ", line N: ..."; it is no YAML, a key stands twice, or something is used that a
            mapping does not need: anchors, tags, keys that are no text.
    """
    try:
        for token in yaml.scan(text, yaml.SafeLoader):
            if isinstance(token, yaml.AnchorToken | yaml.AliasToken):
                raise _at(token.start_mark, "anchors and aliases are not read; write it out")
        node = yaml.compose(text, yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        problem = " ".join(f"{error.context or ''} {error.problem}".split())
        raise _at(error.problem_mark, f"no YAML: {problem}") from error
    except yaml.YAMLError as error:
        raise ValueError(f": no YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise ValueError(": nested too deeply for a mapping") from error
    parsed = Parsed()
    parsed.value = {} if node is None else _plain(node, (), parsed.lines)
    return parsed


def _at(mark: Any, said: str) -> ValueError:
    return ValueError(f", line {mark.line + 1}: {said}" if mark else f": {said}")


def _plain(node: yaml.Node, place: Place, lines: dict[Place, int]) -> Any:
    if node.tag.removeprefix(_CORE) not in _KINDS:
        raise _at(node.start_mark, f"the tag {node.tag} is not read; write a plain value")
    if isinstance(node, yaml.MappingNode):
        return _plain_mapping(node, place, lines)
    if isinstance(node, yaml.SequenceNode):
        for n, entry in enumerate(node.value):
            lines[*place, n] = entry.start_mark.line + 1
        return [_plain(entry, (*place, n), lines) for n, entry in enumerate(node.value)]
    return _scalar(node)


def _plain_mapping(node: yaml.MappingNode, place: Place, lines: dict[Place, int]) -> Any:
    found: dict[str, Any] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise _at(key.start_mark, "a key is a word")
        if key.value in found:
            raise _at(key.start_mark, f"key '{key.value}' stands twice; keep one")
        lines[*place, key.value] = key.start_mark.line + 1
        found[key.value] = _plain(value, (*place, key.value), lines)
    return found


def _scalar(node: yaml.ScalarNode) -> Any:
    if node.style is not None:  # quoted or a block: text, whatever it looks like
        return node.value
    for form, value_of in _SCALARS:
        if form.fullmatch(node.value):
            return value_of(node.value)
    return node.value


# -- TOML ------------------------------------------------------------------------------------------


def parsed_toml(text: str) -> Parsed:
    """What a TOML text says.

    Raises:
        ValueError: ", line N: ..."; it is no TOML.
    """
    try:
        value = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        said, place = str(error), re.search(r" \(at line (\d+), column \d+\)$", str(error))
        if place:
            raise ValueError(
                f", line {place[1]}: no TOML: {said.removesuffix(place[0])}"
            ) from error
        raise ValueError(f": no TOML: {said}") from error
    except RecursionError as error:
        raise ValueError(": nested too deeply for a mapping") from error
    lines = {place: line for place in _places(value, ()) if (line := _only_line(text, place))}
    return Parsed(value, lines)


def _places(value: Any, place: Place) -> Iterator[Place]:
    entries = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in entries:
        yield (*place, key)
        if isinstance(inner, dict | list):
            yield from _places(inner, (*place, key))


def _only_line(text: str, place: Place) -> int | None:
    """Line of a key whose name stands once in the text; tomllib itself tells no lines."""
    if not isinstance(place[-1], str):
        return None
    name = re.escape(place[-1])
    form = re.compile(rf"""^[^#\n]*?(?<![\w'"-])["']?{name}["']?\s*[=\].]""", re.MULTILINE)
    found = list(form.finditer(text))
    return text.count("\n", 0, found[0].end()) + 1 if len(found) == 1 else None
