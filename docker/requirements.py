"""Write what some extras of pyproject.toml need, one requirement a line: an image's own layer."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path


def requirements(pyproject: Path, extras: list[str]) -> list[str]:
    """The dependencies of the project and of `extras`, sorted.

    Raises:
        SystemExit: there is no such extra.
    """
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    known = project["optional-dependencies"]
    if missing := [extra for extra in extras if extra not in known]:
        sys.exit(f"{pyproject}: no extra {', '.join(missing)}; there are: {', '.join(known)}")
    return sorted({*project["dependencies"], *(line for extra in extras for line in known[extra])})


if __name__ == "__main__":
    sys.stdout.write("\n".join(requirements(Path(sys.argv[1]), sys.argv[2:])) + "\n")
