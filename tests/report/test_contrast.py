"""The colours of the page against what they stand on, by the formula of WCAG 2."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from jobs.report import page

STYLES = "".join(
    (Path(page.__file__).parent / "templates" / name).read_text()
    for name in ("page.css.j2", "night.css.j2")
)
TEXT = ("ink", "muted", "model", "better", "same", "worse")
GRAPHICS = ("control", "warm", "faint", *(f"group-{number}" for number in range(1, 6)))


def colours(scheme: str) -> dict[str, str]:
    """The variables of the light page, of the dark one, and of a printed one."""
    dark = r"@media \(prefers-color-scheme: dark\) \{\s*:root \{(.*?)\}"
    printed = r"@media print \{\s*:root \{(.*?)\}"
    light = r"(?:^|\n):root \{(.*?)\}"
    found: dict[str, str] = {}
    for pattern in {"light": [light], "dark": [light, dark], "print": [light, printed]}[scheme]:
        for block in re.findall(pattern, STYLES, re.DOTALL):
            found |= dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{3,6})", block))
    return found


def luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_the_formula_gives_its_known_answers() -> None:
    assert contrast("#000000", "#fff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("scheme", ["light", "dark", "print"])
def test_text_and_graphics_stand_out_from_paper_and_panel(scheme: str) -> None:
    found = colours(scheme)
    for name in TEXT:
        assert min(contrast(found[name], found[paper]) for paper in ("paper", "panel")) >= 4.5, name
    for name in GRAPHICS:
        assert contrast(found[name], found["paper"]) >= 3, name
