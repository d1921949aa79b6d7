"""What came in during a night, what was put aside and why, and how large the splits are."""

from __future__ import annotations

from datetime import date
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc

from jobs.report.night_figures import Arrival, DataQuality, Quarantined, SplitSize

_SHOWN = 120  # characters of a raw row
_DAYS = 7
_UNDATED = pa.scalar(date(1970, 1, 1))


def _first_and_last(times: pa.ChunkedArray) -> tuple[date | None, date | None]:
    first, last = (end.as_py() for end in pc.min_max(times).values())
    return (first.date(), last.date()) if first is not None else (None, None)


def _example(row: dict[str, str | int]) -> tuple[str, str]:
    raw = str(row["raw"])
    shown = raw if len(raw) <= _SHOWN else raw[: _SHOWN - 1] + "\u2026"
    return shown, f"{PurePosixPath(str(row['source_file'])).name}, line {row['line']}"


def quarantined_by_reason(quarantined: pa.Table) -> list[Quarantined]:
    """Reasons, the most frequent first, each with the first row that it holds for."""
    counts = quarantined.group_by("reason").aggregate([([], "count_all")])
    counts = counts.sort_by([("count_all", "descending"), ("reason", "ascending")])
    found = []
    for reason, n_rows in zip(*counts.to_pydict().values(), strict=True):
        rows = quarantined.filter(pc.equal(quarantined["reason"], reason))
        first = rows.sort_by([("source_file", "ascending"), ("line", "ascending")]).slice(0, 1)
        example, place = _example(first.to_pylist()[0])
        found.append(Quarantined(reason=reason, n_rows=n_rows, example=example, example_at=place))
    return found


def split_sizes(splits: pa.Table) -> list[SplitSize]:
    """Train, valid and test, empty ones too."""
    sizes = []
    for split in ("train", "valid", "test"):
        rows = splits.filter(pc.equal(splits["split"], split))
        first, last = _first_and_last(rows["rated_at"])
        sizes.append(
            SplitSize(
                split=split,
                n_rows=rows.num_rows,
                n_users=pc.count_distinct(rows["user_id"]).as_py(),
                n_items=pc.count_distinct(rows["item_id"]).as_py(),
                first_day=first,
                last_day=last,
            )
        )
    return sizes


def last_arrivals(arrivals: pa.Table) -> list[Arrival]:
    """What became known on the last few days, the latest last, where a clock says when."""
    dated = arrivals.filter(pc.greater(arrivals["known_day"], _UNDATED))
    return [
        Arrival.model_validate(row)
        for row in dated.sort_by([("known_day", "ascending")]).to_pylist()[-_DAYS:]
    ]


def data_quality(
    totals: pa.Table,
    quarantined: pa.Table,
    items: pa.Table,
    splits: pa.Table,
    arrivals: pa.Table,
) -> DataQuality:
    """The night's bookkeeping: rows in = events + rows put aside.

    Args:
        totals: the one row of EVENT_TOTALS.
        quarantined: rows put aside; those of a catalogue are no part of the rows in.
        items: the catalogue.
        splits: rows of train, valid and test.
        arrivals: ARRIVALS.
    """
    counts = totals.to_pylist()[0]
    of_events = quarantined.filter(pc.equal(quarantined["kind"], "event"))
    first, last = counts["first_event"], counts["last_event"]
    return DataQuality(
        n_rows_in=counts["n_rows_in"],
        n_events=counts["n_events"],
        n_late=counts["n_late"],
        n_quarantined=counts["n_quarantined"],
        quarantined=quarantined_by_reason(of_events),
        n_users=counts["n_users"],
        n_items=counts["n_items"],
        n_catalogue=items.num_rows,
        first_event=first.date() if first else None,
        last_event=last.date() if last else None,
        arrivals=last_arrivals(arrivals),
        splits=split_sizes(splits),
    )
