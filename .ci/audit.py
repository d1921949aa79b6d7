"""Ask for known holes in the pinned versions. Without a network it says so and ends with 0.

    python .ci/audit.py

pip-audit runs in an environment of its own, below .venv, since it would bring thirty packages into
the project's. A hole that a newer version mends ends it with 1; one that nothing mends yet is told.
"""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
import venv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
ADVISORIES = "https://pypi.org/pypi/pip/json"  # what pip-audit asks, for each package
PIP_AUDIT = "pip-audit==2.10.1"
TIMEOUT_S = 10


def why_unreachable(url: str = ADVISORIES) -> str | None:
    """Why the service of advisories does not answer; None if it does."""
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
            json.load(answer)
    except (OSError, ValueError) as error:
        return str(error)
    return None


def installed(folder: Path) -> Path:
    """pip-audit in an environment of its own.

    Raises:
        subprocess.CalledProcessError: the index does not have it.
    """
    program = folder / "bin" / "pip-audit"
    if not program.is_file():
        venv.create(folder, with_pip=True)
        words = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", PIP_AUDIT]
        subprocess.run(words, check=True)
    return program


def told(report: Mapping[str, Any]) -> tuple[list[str], bool]:
    """A line for each hole, and whether a newer version mends any of them.

    Args:
        report: what `pip-audit --format json` prints.
    """
    lines, is_mendable = [], False
    for package in report["dependencies"]:
        for hole in package.get("vulns", ()):
            mends = ", ".join(hole["fix_versions"])
            is_mendable |= bool(mends)
            said = f"mended in {mends}" if mends else "no version mends it yet"
            lines.append(f"{package['name']} {package['version']}: {hole['id']}, {said}")
    return lines, is_mendable


def main() -> int:
    """Exit status: 1 if there is something to do."""
    if why := why_unreachable():
        sys.stdout.write(
            f"audit: no advisories can be had from here ({why}); nothing was audited\n"
        )
        return 0
    try:
        program = installed(ROOT / ".venv" / "audit")
    except subprocess.CalledProcessError:
        sys.stdout.write(f"audit: {PIP_AUDIT} cannot be installed here; nothing was audited\n")
        return 0
    words = ["--requirement", ROOT / "constraints.txt", "--no-deps", "--disable-pip"]
    done = subprocess.run(
        [program, *words, "--format", "json", "--progress-spinner", "off"],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    try:
        lines, is_mendable = told(json.loads(done.stdout))
    except ValueError:
        sys.stdout.write(f"audit: pip-audit gave no answer (status {done.returncode})\n")
        return 0
    sys.stdout.write("".join(f"audit: {line}\n" for line in lines or ["no known holes"]))
    return int(is_mendable)


if __name__ == "__main__":
    sys.exit(main())
