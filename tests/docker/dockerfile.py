"""Dockerfiles read and judged without an engine: stages, instructions, rules like hadolint's."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

_TAGGED = re.compile(r"[^\s:@]+(:(?!latest$)[\w][\w.-]*|@sha256:[0-9a-f]{64})")
_SECRET = re.compile(r"(?i)(\b|_)(password|passwd|secret|token|key)\s*=\s*\S")


@dataclass(frozen=True)
class Instruction:
    """One instruction, its continued lines joined."""

    line: int
    name: str
    value: str

    @property
    def words(self) -> list[str]:
        """Its value split at blanks, or as the JSON list that it is."""
        return json.loads(self.value) if self.value.startswith("[") else self.value.split()


@dataclass
class Stage:
    """From one FROM to the next."""

    name: str
    base: str
    instructions: list[Instruction] = field(default_factory=list)

    def all(self, name: str) -> list[Instruction]:
        return [each for each in self.instructions if each.name == name]


def instructions(text: str) -> Iterator[Instruction]:
    """Instructions with the line they begin on; comments are left out, also inside of one."""
    joined, begins = "", 0
    for number, line in enumerate(text.splitlines(), start=1):
        if line.lstrip().startswith("#") or (not line.strip() and not joined):
            continue
        begins = begins if joined else number
        joined += line.rstrip().removesuffix("\\").strip() + " "
        if not line.rstrip().endswith("\\"):
            name, _, value = joined.strip().partition(" ")
            yield Instruction(begins, name.upper(), value.strip())
            joined = ""


def stages(text: str) -> list[Stage]:
    """Stages in order, with the defaults of the arguments before the first FROM filled in."""
    defaults: dict[str, str] = {}
    found: list[Stage] = []
    for each in instructions(text):
        if each.name == "FROM":
            base, *rest = each.value.split()
            for name, value in defaults.items():
                base = base.replace("${" + name + "}", value)
            found.append(Stage(rest[1] if rest else "", base))
        elif not found:
            name, _, value = each.value.partition("=")
            defaults[name] = value
        else:
            found[-1].instructions.append(each)
    return found


def targets(text: str) -> list[Stage]:
    """Stages that an image is made of: those whose name has a `--target` in a comment."""
    asked = set(re.findall(r"--target (\S+)", text))
    return [stage for stage in stages(text) if stage.name in asked]


def lineage(stage: Stage, text: str) -> list[Stage]:
    """A stage after the stages that it is built on, the first one first."""
    by_name = {each.name: each for each in stages(text)}
    found = [stage]
    while found[0].base in by_name:
        found.insert(0, by_name[found[0].base])
    return found


# -- rules ---------------------------------------------------------------------------------------


def _last(name: str, line: list[Stage]) -> str | None:
    values = [each.value for stage in line for each in stage.all(name)]
    return values[-1] if values else None


def _of_image(stage: Stage, text: str) -> Iterator[str]:
    line = lineage(stage, text)
    user = _last("USER", line)
    if user is None or not re.fullmatch(r"[1-9]\d*:\d+", user):
        yield f"image {stage.name}: ends as user {user or 'root'}, not as a number that is not root"
    if _last("HEALTHCHECK", line) is None:
        yield f"image {stage.name}: has no HEALTHCHECK"


def _from(stage: Stage, names: set[str]) -> Iterator[str]:
    if stage.base not in names and not _TAGGED.fullmatch(stage.base):
        yield f"FROM {stage.base}: no version, or latest"


def _run(each: Instruction) -> Iterator[str]:
    value = each.value
    if "apt-get install" in value:
        for needed in ("--yes", "--no-install-recommends", "rm -rf /var/lib/apt/lists/*"):
            if needed not in value:
                yield f"line {each.line}: apt-get install without {needed}"
    if re.search(r"apt-get (dist-)?upgrade|\bapt install|\bsudo\b", value):
        yield f"line {each.line}: upgrade, apt or sudo"
    if re.search(r"(curl|wget)\b.*\|", value):
        yield f"line {each.line}: a download goes into a pipe"
    if re.search(r"chmod\s+(-R\s+)?(0?777|a\+w)", value):
        yield f"line {each.line}: everybody may write"
    for pip in re.findall(r"pip (?:install|wheel)[^&|;]*", value):
        yield from _pip(each.line, pip)


def _pip(line: int, words: str) -> Iterator[str]:
    if "--no-cache-dir" not in words:
        yield f"line {line}: pip without --no-cache-dir"
    is_offline = "--no-index" in words or words.startswith("pip wheel --no-cache-dir --no-deps")
    if is_offline:
        return
    if "--only-binary :all:" not in words:
        yield f"line {line}: pip may run a setup.py (no --only-binary :all:)"
    named = [word for word in words.split()[2:] if re.match(r"[a-zA-Z]", word)]
    packages = [w for w in named if not w.endswith(".txt") and w not in ("tidemark",)]
    if any("==" not in package for package in packages):
        yield f"line {line}: pip installs something that is not pinned"
    if not packages and "--constraint constraints.txt" not in words:
        yield f"line {line}: pip without constraints.txt"


def _copy(each: Instruction) -> Iterator[str]:
    if each.name == "ADD":
        yield f"line {each.line}: ADD; COPY says what it does"
    words = [word for word in each.words if not word.startswith("--")]
    if "." in words[:-1] or "./" in words[:-1]:
        yield f"line {each.line}: copies the whole context"


def _other(each: Instruction) -> Iterator[str]:
    if each.name in ("ENV", "ARG") and _SECRET.search(each.value):
        yield f"line {each.line}: a secret in {each.name} stays in the image"
    if each.name in ("CMD", "ENTRYPOINT") and not each.value.startswith("["):
        yield f"line {each.line}: {each.name} through a shell, which keeps signals to itself"
    if each.name == "WORKDIR" and not each.value.startswith("/"):
        yield f"line {each.line}: WORKDIR is not absolute"
    if each.name == "MAINTAINER":
        yield f"line {each.line}: MAINTAINER is gone"


RULES: dict[str, Callable[[Instruction], Iterator[str]]] = {
    "RUN": _run,
    "COPY": _copy,
    "ADD": _copy,
}


def complaints(text: str) -> list[str]:
    """What is wrong with a Dockerfile; nothing if all is well."""
    found: list[str] = []
    names: set[str] = set()
    for stage in stages(text):
        found += _from(stage, names)
        names.add(stage.name)
        for each in stage.instructions:
            found += RULES.get(each.name, _other)(each)
    for stage in targets(text) or stages(text)[-1:]:
        found += _of_image(stage, text)
    return found
