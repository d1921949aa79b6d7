"""Labels, train, valid and test, and histories as offsets into one list of positives per user."""

from __future__ import annotations

from datetime import date

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from jobs.datasets import DOMAINS, EVENTS, HISTORIES, ITEMS, SPLITS
from jobs.errors import NotAvailable
from jobs.job import Config, Run, main
from jobs.query import query

PUBLISHED, ROLLING = "published-ml-1m", "rolling"


class SplitsConfig(Config):
    """Lengths of the windows; the published split of MovieLens-1M has its own by the calendar."""

    valid_days: int = Field(10, ge=1, description="days before the test window")
    test_days: int = Field(10, ge=1, description="days before the as-of day")


def published_split(events: pa.Table, items: pa.Table, positive_rating: float) -> pa.Table:
    """Labelled rows of the split that CoLLM, BinLLM, SeLLa-Rec and SAILRec publish.

    Returns:
        `split, user_id, item_id, label, rated_at, place, moment`: see the header of
        sql/prepare/labelled_published.sql.
    """
    return query(
        "prepare/labelled_published",
        {"events": events, "items": items},
        positive_rating=positive_rating,
    )


def rolling_split(
    events: pa.Table, positive_rating: float, day: date, config: SplitsConfig
) -> pa.Table:
    """Labelled rows, split by time counted back from `day`; columns as `published_split`."""
    return query(
        "prepare/labelled_rolling",
        {"events": events},
        positive_rating=positive_rating,
        day=day,
        valid_days=config.valid_days,
        test_days=config.test_days,
    )


def _nothing_to_train_on(protocol: str, events: pa.Table, config: SplitsConfig) -> str:
    said = f"{events.num_rows} events"
    if events.num_rows:
        ends = pc.min_max(events["rated_at"]).as_py()
        said += f" from {ends['min']:%Y-%m-%d} to {ends['max']:%Y-%m-%d}"
    if protocol == PUBLISHED:
        return f"train is empty: {said}; the published train window is 2001-06 to 2002-03"
    held_out = config.valid_days + config.test_days
    return (
        f"train is empty: {said}, and the last {held_out} days before the as-of day are held out "
        "(--valid-days, --test-days); the first day that can be trained on is "
        f"{held_out + 1} days after the first event"
    )


def job(config: SplitsConfig, run: Run) -> None:
    """Split the day's events by the domain's protocol and write rows and histories."""
    domain = run.read(DOMAINS).to_pylist()[0]
    events, positive_rating = run.read(EVENTS), domain["positive_rating"]
    if (protocol := domain["split_protocol"]) == PUBLISHED:
        labelled = published_split(events, run.read(ITEMS), positive_rating)
    elif protocol == ROLLING:
        labelled = rolling_split(events, positive_rating, run.day, config)
    else:
        raise NotAvailable(f"no split protocol '{protocol}'; there are: {PUBLISHED}, {ROLLING}")
    if not pc.any(pc.equal(labelled["split"], "train")).as_py():
        raise NotAvailable(_nothing_to_train_on(protocol, events, config))
    splits = query("prepare/splits", {"labelled": labelled})
    run.write(SPLITS, splits)
    run.write(HISTORIES, query("prepare/histories", {"labelled": labelled}))
    for row in splits.group_by("split").aggregate([([], "count_all")]).to_pylist():
        run.metric(f"rows: {row['split']}", row["count_all"])
    run.metric("positive_share", pc.mean(splits["label"]).as_py())
    run.metric("warm_share", pc.mean(splits["is_warm"]).as_py())


if __name__ == "__main__":
    main("splits", SplitsConfig, job)
