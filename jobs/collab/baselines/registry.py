"""Every system of the bench by its short name; its module is imported when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

from pydantic import ValidationError

from jobs.collab.systems import System
from jobs.errors import JobError

# One line a system. A module that needs a library which is not installed fails alone.
_PLACES = {
    "item_mean": "jobs.collab.baselines.means:ItemMean",
    "item_user_mean": "jobs.collab.baselines.means:ItemUserMean",
    "mf": "jobs.collab.baselines.factorised:PublishedMf",
    "mf_biases": "jobs.collab.baselines.factorised:BiasedMf",
    "aligned_mf": "jobs.collab.baselines.aligned:AlignedMf",
    "lightgcn": "jobs.collab.baselines.lightgcn:LightGcn",
    "sasrec": "jobs.collab.baselines.sasrec:SasRec",
    "din": "jobs.collab.baselines.din:Din",
    "lightgbm": "jobs.collab.baselines.lightgbm:LightGbm",
    "fold_in": "jobs.collab.baselines.fold_in:FoldIn",
    "blend": "jobs.collab.baselines.blend:Blend",
}


class Registry(Mapping[str, type[System]]):
    """Short name -> class of the system, imported at the first look.

    Args:
        places: short name -> "module:class".
    """

    def __init__(self, places: Mapping[str, str]) -> None:
        self._places = places

    def __getitem__(self, name: str) -> type[System]:
        """The class; KeyError as of any mapping."""
        module, kind = self._places[name].split(":")
        found: type[System] = getattr(import_module(module), kind)
        return found

    def __contains__(self, name: object) -> bool:
        """Whether the name is listed; imports nothing."""
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        """Short names in the order of the list."""
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def name_of(self, system: System) -> str:
        """The short name of a system's class.

        Raises:
            JobError: the class is not listed.
        """
        place = f"{type(system).__module__}:{type(system).__qualname__}"
        for name, listed in self._places.items():
            if listed == place:
                return name
        raise JobError(f"{place} is not in the list of systems; add it to the registry")


SYSTEMS = Registry(_PLACES)


def system_of(name: str, settings: Mapping[str, Any]) -> System:
    """The system of this short name with these settings.

    Raises:
        JobError: no such system, its library is not installed, or settings it does not take.
    """
    if name not in SYSTEMS:
        raise JobError(f"there is no system '{name}'; there are {', '.join(SYSTEMS)}")
    try:
        kind = SYSTEMS[name]
    except ImportError as error:
        raise JobError(f"system '{name}' cannot be imported: {error}; install it") from error
    try:
        return kind.model_validate(settings)
    except ValidationError as error:
        said = "; ".join(
            f"{'.'.join(map(str, each['loc'])) or 'settings'}: {each['msg']}"
            for each in error.errors()
        )
        raise JobError(f"settings of system '{name}': {said}") from error
