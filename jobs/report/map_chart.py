"""The map of the items as a picture: a dot an item, a colour and a shape a code, a few names."""

from __future__ import annotations

from typing import Any

import altair as alt

from jobs.report.charts import INK, Chart, svg_of, values_of
from jobs.report.night_figures import ItemMap, MapPoint

_WIDE, _NARROW = (860, 520), (330, 380)
_NARROW_NAMES = 5
_NAME_LENGTH = 34
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross")
COLOURS = tuple(f"var(--group-{number})" for number in range(1, len(SHAPES) + 1))
_OTHER, _FAINT = "other", "var(--faint)"


def map_chart(drawn: ItemMap, *, is_wide: bool) -> Chart:
    """The map for a desk or for a phone; the page shows the one that fits.

    Args:
        drawn: what to draw.
        is_wide: for a desk.
    """
    groups = [str(group.code) for group in drawn.groups][: len(SHAPES)]
    rows = [_row(point, groups) for point in drawn.points]
    domain = [*groups, _OTHER]
    base = alt.Chart(values_of(rows)).encode(
        x=alt.X("x:Q", axis=None).scale(domain=_span([point.x for point in drawn.points])),
        y=alt.Y("y:Q", axis=None).scale(domain=_span([point.y for point in drawn.points])),
    )
    dots = base.mark_point(filled=True, size=40 if is_wide else 24, opacity=0.9).encode(
        color=alt.Color("group:N", legend=None).scale(
            domain=domain, range=[*COLOURS[: len(groups)], _FAINT]
        ),
        shape=alt.Shape("group:N", legend=None).scale(
            domain=domain, range=[*SHAPES[: len(groups)], "circle"]
        ),
    )
    named = [row for row in rows if row["is_named"]][: None if is_wide else _NARROW_NAMES]
    middle = sum(_span([point.x for point in drawn.points])) / 2
    layers: list[alt.Chart] = [dots]
    for side, align, dx in ((1, "right", -7), (0, "left", 7)):
        some = alt.Chart(values_of([row for row in named if (row["x"] > middle) == bool(side)]))
        own = some.mark_point(size=60, color=INK, strokeWidth=1.5)
        layers.append(own.encode(x="x:Q", y="y:Q"))
        for look in ({"stroke": "var(--paper)", "strokeWidth": 4}, {"color": INK}):
            words = some.mark_text(align=align, dx=dx, fontSize=12, **look)
            layers.append(words.encode(x="x:Q", y="y:Q", text="name:N"))
    width, height = _WIDE if is_wide else _NARROW
    chart = alt.layer(*layers).properties(width=width, height=height)
    return Chart(
        svg_of(chart, f"map-{'wide' if is_wide else 'narrow'}", _said(drawn)), _caption(drawn)
    )


def _span(values: list[float]) -> list[float]:
    """Of an axis: as much as there is, and a little room."""
    lowest, highest = min(values), max(values)
    room = 0.05 * max(highest - lowest, 0.1)
    return [lowest - room, highest + room]


def _row(point: MapPoint, groups: list[str]) -> dict[str, Any]:
    name = point.title
    short = name if len(name) <= _NAME_LENGTH else name[: _NAME_LENGTH - 1].rstrip() + "\u2026"
    group = str(point.code) if str(point.code) in groups else _OTHER
    return {"x": point.x, "y": point.y, "group": group, "name": short, "is_named": point.is_named}


def _said(drawn: ItemMap) -> str:
    """The map in words: where each of the coloured codes lies."""
    said = []
    for group in drawn.groups[: len(SHAPES)]:
        places = [(point.x, point.y) for point in drawn.points if point.code == group.code]
        if places:
            x, y = (sum(values) / len(places) for values in zip(*places, strict=True))
            where = f"{'top' if y > 0 else 'bottom'} {'right' if x > 0 else 'left'}"
            said.append(f"code {group.code} ({group.n_items} items) lies {where}")
    words = f"Map of {len(drawn.points)} of {drawn.n_items} items"
    return f"{words}: {'; '.join(said)}." if said else f"{words}, without codes."


def _caption(drawn: ItemMap) -> str:
    shown = (
        f"All {drawn.n_items:,} items"
        if len(drawn.points) == drawn.n_items
        else f"The {len(drawn.points):,} items rated most often, of {drawn.n_items:,},"
    )
    return (
        f"{shown} in the two directions in which the published vectors spread most. They hold "
        f"{drawn.spread:.0%} of the spread: what lies far apart here is far apart, what lies "
        "together may not be near."
    )
