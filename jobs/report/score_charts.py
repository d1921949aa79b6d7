"""Charts of what scores are worth: differences on slices, lift by tenths, drift by night."""

from __future__ import annotations

import altair as alt

from jobs.report.charts import CONTROL, HEIGHT, INK, MODEL, MUTED, WIDTH, Chart, svg_of, values_of
from jobs.report.night_figures import NightMetrics

_LABELS = 125  # units that the names of the slices take


def slice_differences(night: NightMetrics, figure: str) -> Chart | None:
    """The model minus the strongest control on each slice of test that has an interval.

    Args:
        night: the figures.
        figure: `auc` or `uauc`.
    """
    control = night.control
    rows, without, said = [], [], []
    for each in night.slices if control else ():
        found = night.compare("test", each.name, control.name) if control else None
        estimate = getattr(found, figure) if found else None
        if estimate is None or estimate.low is None:
            without.append(each.title.lower())
            continue
        rows.append({"slice": each.title, **estimate.model_dump()})
        said.append(
            f"{each.title} {estimate.value:+.3f} ({estimate.low:+.3f} to {estimate.high:+.3f})"
        )
    if not rows or control is None:
        return None
    base = alt.Chart(values_of(rows)).encode(
        y=alt.Y("slice:N", sort=None, title=None).axis(
            ticks=False,
            domain=False,
            labelPadding=8,
            labelColor=INK,
            labelLimit=_LABELS,
            minExtent=_LABELS,
        )
    )
    name = figure.upper()
    axis = alt.Axis(title=f"Difference of {name}", tickCount=4, format="+.2f", labelFlush=False)
    x = alt.X("low:Q", axis=axis, scale=alt.Scale(zero=True, nice=True))
    zero = alt.Chart(values_of([{"x": 0}])).mark_rule(color=MUTED, strokeDash=[4, 4])
    whisker = base.mark_rule(color=MODEL, strokeWidth=3).encode(x=x, x2="high:Q")
    dot = base.mark_circle(color=MODEL, size=80, opacity=1).encode(x="value:Q")
    chart = (zero.encode(x="x:Q") + whisker + dot).properties(
        width=WIDTH - _LABELS, height=24 * len(rows)
    )
    left_out = f" No interval: {', '.join(without)}." if without else ""
    return Chart(
        svg_of(
            chart, f"slices-{figure}", f"Difference of {name} by slice of test: {'; '.join(said)}."
        ),
        f"{name} of the model minus {control.title.lower()}, 95 % paired intervals: right of the "
        f"dashed line the model is better.{left_out}",
    )


def lift(night: NightMetrics, split: str) -> Chart | None:
    """Lift of each tenth of the rows, the model as bars and the strongest control as a line."""
    found = [tenth for tenth in night.lift if tenth.split == split]
    if not found:
        return None
    own = [tenth for tenth in found if tenth.system == night.model]
    beside = [tenth for tenth in found if tenth.system != night.model]
    x = alt.X("tenth:O", title="Tenth of the rows, highest scores first").axis(
        labelAngle=0, ticks=False
    )
    y = alt.Y("lift:Q", title="Lift").axis(tickCount=4, format=".1f")
    bars = alt.Chart(values_of([tenth.model_dump() for tenth in own])).encode(x=x, y=y)
    layers: list[alt.Chart] = [bars.mark_bar(color=MODEL, size=20)]
    if beside:
        line = alt.Chart(values_of([tenth.model_dump() for tenth in beside])).encode(x=x, y=y)
        dots = alt.OverlayMarkDef(color=INK, size=30, filled=True, opacity=1)
        layers.append(line.mark_line(color=INK, strokeWidth=2, strokeDash=[5, 3], point=dots))
    even = alt.Chart(values_of([{"one": 1}])).mark_rule(color=MUTED, strokeDash=[4, 4])
    chart = alt.layer(*layers, even.encode(y="one:Q")).properties(width=WIDTH - 60, height=HEIGHT)
    first, last = own[0], own[-1]
    return Chart(
        svg_of(
            chart,
            "lift",
            f"Lift by tenth on {split}: {', '.join(f'{t.lift:.2f}' for t in own)}. "
            f"The first tenth holds {first.captured:.0%} of all positives.",
        ),
        f"Lift: positives of a tenth against all rows. The tenth with the highest scores has "
        f"{first.lift:.2f} times their share, that with the lowest {last.lift:.2f} times.",
    )


def gain(night: NightMetrics, split: str) -> Chart | None:
    """Share of all positives found among the rows with the highest scores, by share of rows."""
    found = [tenth for tenth in night.lift if tenth.split == split]
    if not found:
        return None
    names = list(dict.fromkeys(tenth.system for tenth in found))
    rows = [{"system": name, "rows": 0.0, "captured": 0.0} for name in names]
    rows += [{"system": t.system, "rows": t.tenth / 10, "captured": t.captured} for t in found]
    axis = alt.Axis(format="%", tickCount=5)
    lines = alt.Chart(values_of(rows)).mark_line(strokeWidth=2)
    lines = lines.encode(
        x=alt.X("rows:Q", title="Share of the rows, highest scores first", axis=axis),
        y=alt.Y("captured:Q", title="Share of all positives", axis=axis),
        color=alt.Color("system:N", legend=None).scale(domain=names, range=[MODEL, CONTROL]),
        strokeDash=alt.StrokeDash("system:N", legend=None).scale(
            domain=names, range=[[1, 0], [5, 3]]
        ),
    )
    chance = alt.Chart(values_of([{"p": 0}, {"p": 1}])).mark_line(
        color=MUTED, strokeDash=[2, 4], strokeWidth=1
    )
    chart = (chance.encode(x="p:Q", y="p:Q") + lines).properties(width=WIDTH - 60, height=HEIGHT)
    half = next(t.captured for t in found if t.system == night.model and t.tenth == 5)
    return Chart(
        svg_of(
            chart,
            "gain",
            f"Positives found by share of rows on {split}: {half:.0%} of them in "
            "the half with the highest scores.",
        ),
        f"Gain: the half of the rows with the highest scores holds {half:.0%} of the positives; "
        "the dotted line is rows in random order.",
    )


def score_drift(night: NightMetrics) -> Chart | None:
    """Tonight's probabilities on test over those of the night before."""
    drift = night.drift.scores if night.drift else None
    if drift is None:
        return None
    rows = [
        {"low": b.low, "night": label, "share": getattr(b, label)}
        for b in drift.bins
        for label in ("before", "tonight")
    ]
    rows += [{**row, "low": 1.0} for row in rows[-2:]]  # the last step needs an end
    order = ["tonight", "before"]
    base = alt.Chart(values_of(rows)).encode(
        x=alt.X("low:Q", title="Predicted probability")
        .scale(domain=[0, 1])
        .axis(format="%", tickCount=5),
        y=alt.Y("share:Q", title="Share of rows", stack=None).axis(format="%", tickCount=4),
        color=alt.Color("night:N", legend=None).scale(domain=order, range=[MODEL, CONTROL]),
        strokeDash=alt.StrokeDash("night:N", legend=None).scale(
            domain=order, range=[[1, 0], [5, 3]]
        ),
    )
    chart = base.mark_line(interpolate="step-after", strokeWidth=2).properties(
        width=WIDTH - 60, height=HEIGHT
    )
    return Chart(
        svg_of(
            chart,
            "drift",
            f"Predicted probabilities on test, tonight and the night before: mean {drift.mean:.2f} "
            f"and {drift.mean_before:.2f}, population stability index {drift.psi:.3f}.",
        ),
        "Predicted probabilities on test, tonight and the night before, each on its own rows.",
    )
