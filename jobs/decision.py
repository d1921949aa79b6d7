"""Whether a job has something to do, and why: asked by the job itself and by `tidemark plan`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal

from jobs.committed import committed, is_whole
from jobs.datasets import BY_NAME
from jobs.home import Home
from jobs.manifest import Artifact, Manifest

Kind = Literal["new", "config", "source", "input", "output", "effect", "forced", "follows"]
Intact = Callable[[Manifest, Home], bool]


@dataclass(frozen=True)
class Reason:
    """One thing that is no longer as it was when the last manifest was written.

    Attributes:
        kind: what sort of thing it is.
        name: the config field, the file or the dataset; the job for a first run.
        says: what is the matter with it, for people.
    """

    kind: Kind
    name: str
    says: str


@dataclass(frozen=True)
class Asked:
    """What a job is about to make, as far as it decides whether it was made already.

    Attributes:
        job: its name.
        day: the as-of day.
        config: all of it.
        aside: fields of the config that decide where the work is done, not what comes out.
        sources: names its files from outside the home; called only if it comes to that.
        intact: whether an effect outside the tables still stands.
    """

    job: str
    day: date
    config: Mapping[str, Any]
    aside: frozenset[str]
    sources: Callable[[], Sequence[Artifact]]
    intact: Intact | None = None


def reasons(last: Manifest | None, asked: Asked, home: Home) -> Iterator[Reason]:
    """Why the work has to be done: nothing if what `last` says still stands.

    What is dear to look at is looked at last, and only as long as all before it is as it was: a
    changed config names the fields that changed, and no file is hashed. The code's version is
    recorded and not compared: a deploy alone redoes nothing.
    """
    if last is None:
        yield Reason("new", asked.job, f"has not run for {asked.day}")
        return
    changed = list(_of_config(last.config, asked))
    changed = changed or [
        *_of_sources(last.sources, asked.sources()),
        *_of_inputs(last.inputs, asked.day, home),
    ]
    changed = changed or list(_of_outputs(last.outputs, home))
    if not changed and asked.intact is not None and not asked.intact(last, home):
        changed = [Reason("effect", asked.job, _why_not_intact(asked.intact))]
    yield from changed


def _of_config(then: Mapping[str, Any], asked: Asked) -> Iterator[Reason]:
    now = asked.config
    for name in (*now, *(name for name in then if name not in now)):
        if name in asked.aside:
            continue
        if name not in then:
            yield Reason("config", name, f"{now[name]!r}, a setting that the last run did not have")
        elif name not in now:
            yield Reason("config", name, f"was {then[name]!r}, and is no setting any more")
        elif then[name] != now[name]:
            yield Reason("config", name, f"was {then[name]!r}, is {now[name]!r}")


def _of_sources(then: Sequence[Artifact], now: Sequence[Artifact]) -> Iterator[Reason]:
    if list(then) == list(now):
        return
    before, after = ({each.path: each for each in some} for some in (then, now))
    found = False
    for path in (*after, *(path for path in before if path not in after)):
        if before.get(path) != after.get(path):
            found = True
            yield Reason("source", path, _what_became_of(before.get(path), after.get(path)))
    if not found:
        yield Reason("source", "", "the source files come in another order")


def _what_became_of(before: Artifact | None, after: Artifact | None) -> str:
    if before is None:
        return "is new"
    return "is gone" if after is None else "has changed"


def _of_inputs(then: Sequence[Artifact], day: date, home: Home) -> Iterator[Reason]:
    for each in then:
        now = committed(home, each.name, day)
        if now is None:
            yield Reason("input", each.name, f"of {day} is gone")
        elif now.sha256 != each.sha256:
            producer = BY_NAME[each.name].producer
            rows = f", {each.n_rows:,} rows then, {now.n_rows:,} now" if now.n_rows else ""
            yield Reason("input", each.name, f"of {day} was made anew by {producer}{rows}")


def _of_outputs(then: Sequence[Artifact], home: Home) -> Iterator[Reason]:
    for each in then:
        path = home.root / each.path
        if not path.is_file():
            yield Reason("output", each.name, f"{path} is gone")
        elif not is_whole(path, each.sha256):
            yield Reason("output", each.name, f"{path} is not the file that was made")


def _why_not_intact(intact: Intact) -> str:
    asks = (intact.__doc__ or intact.__name__).strip().splitlines()[0].rstrip(".")
    return f"is no longer so: {asks.removeprefix('Whether ')}"
