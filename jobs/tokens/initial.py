"""Tuning that goes on from earlier soft tokens: of last night, or of one of two halves."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file

from jobs.datasets import TOKEN_CONFIG, TOKEN_WEIGHTS, Dataset
from jobs.errors import JobError, NotAvailable, SourceError
from jobs.files import sha256_file
from jobs.home import Home
from jobs.job import load_manifest
from jobs.llm.fingerprint import read_json
from jobs.tokens.mappers import Mapper, mapper_of
from jobs.tokens.soft_inputs import SoftInputs


@dataclass(frozen=True)
class InitialFiles:
    """TOKEN_CONFIG and TOKEN_WEIGHTS of an earlier tuning."""

    config: Path
    weights: Path

    @property
    def sources(self) -> tuple[Path, Path]:
        """Both: what a job's `sources` hook names."""
        return self.config, self.weights


def find_tokens(tokens: str, home: Home) -> InitialFiles:
    """The files of an earlier tuning.

    Args:
        tokens: a day on which `tune` ran in this home, or a folder with token_config.json and
            token_weights.safetensors.
        home: where `tune` ran.

    Raises:
        NotAvailable: there are none, or they are no longer what `tune` wrote.
    """
    try:
        day = date.fromisoformat(tokens)
    except ValueError:
        folder = Path(tokens).expanduser()
        found = InitialFiles(
            *(folder / f"{each.name}.{each.format.value}" for each in (TOKEN_CONFIG, TOKEN_WEIGHTS))
        )
        if not all(path.is_file() for path in found.sources):
            raise NotAvailable(
                f"there are no soft tokens at {folder}; give a day on which tune ran, or a folder "
                f"with {found.config.name} and {found.weights.name}"
            ) from None
        return found
    return InitialFiles(*(_of_day(each, day, home) for each in (TOKEN_CONFIG, TOKEN_WEIGHTS)))


def _of_day(dataset: Dataset, day: date, home: Home) -> Path:
    manifest, path = load_manifest(home, dataset.producer, day), home.output(dataset, day)
    stated = None if manifest is None else manifest.output(dataset.name)
    if stated is None or not path.is_file() or sha256_file(path) != stated.sha256:
        raise NotAvailable(
            f"there are no soft tokens of {day} in {home.root}; run the job 'tune' for that day"
        )
    return path


def begin_at(soft: SoftInputs, files: InitialFiles) -> None:
    """Give the mappers and the tokens of the unknown the weights of an earlier tuning.

    Inputs and steering are tonight's own. The factors of one night lie as those of the night before
    where align went on from them; where it began anew, so should the tokens.

    Raises:
        JobError: the earlier prompt had other kinds of tokens, or mappers of another shape.
    """
    try:
        facts, tensors = read_json(files.config)["kinds"], load_file(files.weights)
    except (OSError, KeyError, SafetensorError) as error:
        raise SourceError(f"{files.weights}: no readable soft tokens ({error})") from error
    for kind, mapper in soft.mappers.items():
        assert isinstance(mapper, Mapper)
        if kind not in facts:
            raise JobError(f"{files.config}: the earlier prompt had no {kind} token; leave it out")
        earlier = mapper_of(facts[kind], tensors, kind)
        if earlier.facts != mapper.facts:
            raise JobError(
                f"{files.config}: the {kind} mapper is {earlier.facts.record()}, tonight's is "
                f"{mapper.facts.record()}; begin anew without --init-tokens"
            )
        mapper.load_state_dict(earlier.state_dict())
        unknown = torch.tensor(tensors[f"{kind}.unknown"])
        with torch.no_grad():
            soft.unknown[kind].copy_(unknown.view_as(soft.unknown[kind]))
