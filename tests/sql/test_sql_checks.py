"""Each check passes a sound night and names what is planted into it."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date, datetime, timedelta
from functools import cache
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from jobs.check import violations
from jobs.datasets import BY_NAME, EVENTS, Format
from jobs.query import SQL, sql_text
from tests.sql import sound_codes, sound_tokens

Rows = list[dict[str, Any]]
Night = dict[str, pa.Table]

T0 = datetime(2026, 1, 1, 12)
VECTOR = pa.list_(pa.float32(), 2)
SCHEMAS = {
    **sound_codes.SCHEMAS,
    **sound_tokens.SCHEMAS,
    "domains": {
        "domain": pa.string(),
        "item_noun": pa.string(),
        "feedback": pa.string(),
        "minimum": pa.float32(),
        "maximum": pa.float32(),
        "positive_rating": pa.float32(),
        "negatives_per_positive": pa.int32(),
        "popularity_power": pa.float32(),
        "negatives_seed": pa.int64(),
        "split_protocol": pa.string(),
        "valid_days": pa.int32(),
        "test_days": pa.int32(),
        "max_age_days": pa.int32(),
        "max_row_change": pa.float32(),
    },
    "events": {
        "user_id": pa.int64(),
        "item_id": pa.int64(),
        "rating": pa.float32(),
        "rated_at": pa.timestamp("us"),
        "ingested_at": pa.timestamp("us"),
        "source_row": pa.int64(),
    },
    "items": {"item_id": pa.int64(), "title": pa.string(), "first_row": pa.int64()},
    "quarantined_events": {
        "kind": pa.string(),
        "source_file": pa.string(),
        "line": pa.int64(),
        "raw": pa.string(),
        "reason": pa.string(),
        "known_day": pa.date32(),
    },
    "event_parts": {
        "event_day": pa.date32(),
        "known_day": pa.date32(),
        "path": pa.string(),
        "sha256": pa.string(),
        "n_rows": pa.int64(),
    },
    "withdrawn_events": {"source_row": pa.int64(), "reason": pa.string()},
    "arrivals": {
        "known_day": pa.date32(),
        "n_rows": pa.int64(),
        "n_events": pa.int64(),
        "n_late": pa.int64(),
        "n_corrections": pa.int64(),
        "n_quarantined": pa.int64(),
        "n_released": pa.int64(),
    },
    "event_totals": {
        "as_of": pa.date32(),
        "n_rows_in": pa.int64(),
        "n_events": pa.int64(),
        "n_quarantined": pa.int64(),
        "n_catalogue": pa.int64(),
        "last_event": pa.timestamp("us"),
    },
    "splits": {
        "split": pa.string(),
        "row": pa.int32(),
        "user_id": pa.int64(),
        "item_id": pa.int64(),
        "label": pa.int8(),
        "rated_at": pa.timestamp("us"),
        "history_end": pa.int32(),
        "is_warm": pa.bool_(),
    },
    "histories": {"user_id": pa.int64(), "item_ids": pa.list_(pa.int64())},
    "row_features": {
        "split": pa.string(),
        "row": pa.int32(),
        "as_of": pa.date32(),
        "global_mean": pa.float32(),
        "item_mean": pa.float32(),
        "item_count": pa.int32(),
        "item_age_days": pa.int32(),
        "item_recency_days": pa.int32(),
        "item_popularity": pa.float32(),
        "user_mean": pa.float32(),
        "user_count": pa.int32(),
        "user_recency_days": pa.int32(),
    },
    "item_features": {
        "protocol": pa.string(),
        "item_id": pa.int64(),
        "mean": pa.float32(),
        "n_events": pa.int32(),
        "n_positives": pa.int32(),
        "popularity": pa.float32(),
        "first_at": pa.timestamp("us"),
        "last_at": pa.timestamp("us"),
    },
    "user_features": {
        "protocol": pa.string(),
        "user_id": pa.int64(),
        "mean": pa.float32(),
        "n_events": pa.int32(),
        "n_positives": pa.int32(),
        "first_at": pa.timestamp("us"),
        "last_at": pa.timestamp("us"),
    },
    "item_texts": {"item_id": pa.int64(), "title": pa.string(), "text": pa.string()},
    "item_semantics": {
        "item_id": pa.int64(),
        "content_key": pa.string(),
        "raw": VECTOR,
        "vector": VECTOR,
    },
    "adapt_curve": {
        "step": pa.int32(),
        "tokens": pa.int64(),
        "seconds": pa.float64(),
        "learning_rate": pa.float64(),
        "train_loss": pa.float64(),
        "valid_auc": pa.float64(),
        "valid_uauc": pa.float64(),
    },
    "user_factors": {
        "user_id": pa.int64(),
        "factor": VECTOR,
        "bias": pa.float32(),
        "n_events": pa.int32(),
    },
    "item_factors": {
        "item_id": pa.int64(),
        "factor": VECTOR,
        "bias": pa.float32(),
        "n_events": pa.int32(),
    },
    "publications": {
        "version": pa.int64(),
        "run_key": pa.string(),
        "alias": pa.string(),
        "promoted": pa.bool_(),
    },
    "candidates": {
        "version": pa.int64(),
        "split": pa.string(),
        "row": pa.int32(),
        "user_id": pa.int64(),
        "item_id": pa.int64(),
        "label": pa.int8(),
        "rated_at": pa.timestamp("us"),
        "history_end": pa.int32(),
        "is_warm": pa.bool_(),
    },
    "ctr_scores": {
        "split": pa.string(),
        "row": pa.int32(),
        "user_id": pa.int64(),
        "item_id": pa.int64(),
        "label": pa.int8(),
        "is_warm": pa.bool_(),
        "version": pa.int64(),
        "model": pa.string(),
        "logit": pa.float32(),
        "probability": pa.float32(),
    },
    "llm_scores": {
        "split": pa.string(),
        "row": pa.int32(),
        "user_id": pa.int64(),
        "item_id": pa.int64(),
        "label": pa.int8(),
        "logit": pa.float32(),
        "probability": pa.float32(),
    },
    "llm_diagnostics": {
        "measure": pa.string(),
        "kind": pa.string(),
        "first_layer": pa.int16(),
        "last_layer": pa.int16(),
        "figure": pa.string(),
        "value": pa.float64(),
    },
}


SCHEMAS["tune_curve"] = SCHEMAS["adapt_curve"]


def after(seconds: int) -> datetime:
    return T0 + timedelta(seconds=seconds)


def sound_rows() -> dict[str, Rows]:
    """Two users, three items (one never rated): user 1 likes 10, then 20; user 2 dislikes 20."""
    ratings = [(1, 10, 5.0, 0), (1, 20, 4.0, 5), (2, 20, 2.0, 9)]
    splits = [
        ("train", 0, 1, 10, 1, 0, 0, True),
        ("valid", 0, 1, 20, 1, 5, 1, False),
        ("test", 0, 2, 20, 0, 9, 0, False),
    ]
    split_names = tuple(SCHEMAS["splits"])
    split_rows = [
        dict(zip(split_names, values, strict=True)) | {"rated_at": after(values[5])}
        for values in splits
    ]
    score = {"model": "mf", "logit": 1.0, "probability": 0.731}
    proposed = {"split": "top_k", "row": 0, "user_id": 1, "item_id": 30, "label": None}
    proposed |= {"rated_at": after(86_400), "history_end": 2, "is_warm": False}
    candidates = [{"version": 1} | given for given in (*split_rows[1:], proposed)]
    texts = {10: "A (1990)", 20: "B (1991)", 30: "C (1992)"}
    return {
        "domains": [
            {
                "domain": "sample",
                "item_noun": "Movie",
                "feedback": "rating",
                "minimum": 1.0,
                "maximum": 5.0,
                "positive_rating": 4.0,
                "negatives_per_positive": 0,
                "popularity_power": 0.0,
                "negatives_seed": 0,
                "split_protocol": "rolling",
                "valid_days": 10,
                "test_days": 10,
                "max_age_days": None,
                "max_row_change": None,
            }
        ],
        "events": [
            {
                "user_id": user,
                "item_id": item,
                "rating": rating,
                "rated_at": after(second),
                "ingested_at": after(86_400),
                "source_row": n + 1,
            }
            for n, (user, item, rating, second) in enumerate(ratings)
        ],
        "items": [
            {"item_id": item, "title": title, "first_row": {10: 1, 20: 2}.get(item)}
            for item, title in texts.items()
        ],
        "quarantined_events": [
            {
                "kind": "event",
                "source_file": "f.csv",
                "line": 2,
                "raw": "?",
                "reason": "missing user",
                "known_day": date(2026, 1, 2),
            }
        ],
        "event_parts": [
            {
                "event_day": date(2026, 1, 1),
                "known_day": date(2026, 1, 2),
                "path": "tables/events/event_day=2026-01-01/known=2026-01-02-abc.parquet",
                "sha256": "c" * 64,
                "n_rows": 4,
            }
        ],
        "withdrawn_events": [{"source_row": 4, "reason": "unknown item"}],
        "arrivals": [
            {
                "known_day": date(2026, 1, 2),
                "n_rows": 4,
                "n_events": 4,
                "n_late": 0,
                "n_corrections": 0,
                "n_quarantined": 1,
                "n_released": 0,
            }
        ],
        "event_totals": [
            {
                "as_of": date(2026, 1, 2),
                "n_rows_in": 4,
                "n_events": 3,
                "n_quarantined": 1,
                "n_catalogue": 3,
                "last_event": after(9),
            }
        ],
        "splits": split_rows,
        "histories": [{"user_id": 1, "item_ids": [10, 20]}, {"user_id": 2, "item_ids": []}],
        "item_texts": [
            {"item_id": item, "title": title, "text": f"Movie: {title}"}
            for item, title in texts.items()
        ],
        "item_semantics": [
            {"item_id": item, "content_key": "a" * 64, "raw": [3.0, 4.0], "vector": [0.6, 0.8]}
            for item in texts
        ],
        **{
            curve: [
                {
                    "step": step,
                    "tokens": 4_000 * step,
                    "seconds": 1.0 + step,
                    "learning_rate": 1e-3,
                    "train_loss": 0.7 if step else None,
                    "valid_auc": 0.5,
                    "valid_uauc": None,
                }
                for step in (0, 5, 10)
            ]
            for curve in ("adapt_curve", "tune_curve")
        },
        "user_factors": [
            {"user_id": user, "factor": [0.0, 1.0], "bias": 0.0, "n_events": user}
            for user in (1, 2)
        ],
        "item_factors": [
            {"item_id": item, "factor": [0.0, 1.0], "bias": 0.0, "n_events": 0} for item in texts
        ],
        "publications": [
            {"version": 1, "run_key": "b" * 64, "alias": "production", "promoted": True}
        ],
        "candidates": candidates,
        "ctr_scores": [
            {name: given[name] for name in SCHEMAS["ctr_scores"] if name in given} | score
            for given in candidates
        ],
        "llm_scores": [
            {name: given[name] for name in ("split", "row", "user_id", "item_id", "label")}
            | {"logit": -1.0, "probability": 0.269}
            for given in split_rows[1:]
        ],
        "llm_diagnostics": [
            dict(
                zip(
                    ("measure", "kind", "first_layer", "last_layer", "figure", "value"),
                    row,
                    strict=True,
                )
            )
            for row in (
                ("mass", "sink", 0, 0, "mass", 0.75),
                ("mass", "title", 0, 0, "mass", 0.25),
                ("mass", "title", 0, 0, "lift", 2.5),
                ("lens", "answer", 0, 0, "auc", 0.5),
                ("knockout", "title", 0, 3, "delta_auc", -0.125),
                ("intervention", "item", 0, 3, "shuffled_delta_auc", -0.25),
                ("intervention", "item", 0, 3, "shuffled_log_loss", 0.75),
            )
        ],
        **sound_features(),
        **sound_codes.sound_codes(),
        **sound_tokens.sound_tokens(),
    }


def sound_features() -> dict[str, Rows]:
    """Features of the rows, items and users of `sound_rows`."""
    nothing_known = {
        "as_of": date(2026, 1, 1),
        "global_mean": 0.5,
        "item_mean": 0.5,
        "item_count": 0,
        "item_age_days": None,
        "item_recency_days": None,
        "item_popularity": 0.0,
        "user_mean": 0.5,
        "user_count": 0,
        "user_recency_days": None,
    }
    of_rows = [{"split": split, "row": 0, **nothing_known} for split in ("train", "valid", "test")]
    of_rows[1] |= {"user_count": 1, "user_recency_days": 1}
    known = {
        "nightly": {10: (1, 1, 0, 0), 20: (2, 1, 5, 9), 30: (0, 0, None, None)},
        "paper": {10: (1, 1, 0, 0), 20: (0, 0, None, None), 30: (0, 0, None, None)},
    }
    users = {
        "nightly": {1: (2, 2, 0, 5), 2: (1, 0, 9, 9)},
        "paper": {1: (1, 1, 0, 0), 2: (0, 0, None, None)},
    }

    def counted(protocol: str, key: str, each: int, of: tuple[int | None, ...]) -> dict[str, Any]:
        n_events, n_positives, first, last = of
        return {
            "protocol": protocol,
            key: each,
            "mean": 0.5,
            "n_events": n_events,
            "n_positives": n_positives,
            "popularity": 0.5,
            "first_at": None if first is None else after(first),
            "last_at": None if last is None else after(last),
        }

    return {
        "row_features": of_rows,
        "item_features": [
            counted(protocol, "item_id", item, of)
            for protocol, items in known.items()
            for item, of in items.items()
        ],
        "user_features": [
            {n: v for n, v in counted(protocol, "user_id", user, of).items() if n != "popularity"}
            for protocol, of_protocol in users.items()
            for user, of in of_protocol.items()
        ],
    }


def night(rows: dict[str, Rows]) -> Night:
    return {
        name: pa.Table.from_pylist(rows[name], schema=pa.schema(list(schema.items())))
        for name, schema in SCHEMAS.items()
    }


@cache
def tables_named_in(name: str) -> set[str]:
    with duckdb.connect() as connection:
        return connection.get_table_names(sql_text(f"checks/{name}")) & SCHEMAS.keys()


def found(name: str, rows: dict[str, Rows]) -> list[str]:
    """What the check of `name` says of a night, given only the tables that its query names."""
    tables = night(rows)
    given = {table: tables[table] for table in tables_named_in(name)}
    dataset = EVENTS if name == EVENTS.name else BY_NAME[name]
    return violations(dataset, given)["violation"].to_pylist()


def set_to(name: str, n: int, **values: Any) -> Callable[[dict[str, Rows]], None]:
    def plant(rows: dict[str, Rows]) -> None:
        rows[name][n].update(values)

    return plant


def without(name: str, n: int) -> Callable[[dict[str, Rows]], None]:
    def plant(rows: dict[str, Rows]) -> None:
        del rows[name][n]

    return plant


def with_copy(name: str, n: int, **values: Any) -> Callable[[dict[str, Rows]], None]:
    def plant(rows: dict[str, Rows]) -> None:
        rows[name].append(rows[name][n] | values)

    return plant


def fresh_within(n_days: int) -> Callable[[dict[str, Rows]], None]:
    def plant(rows: dict[str, Rows]) -> None:
        rows["domains"][0]["max_age_days"] = n_days
        rows["event_totals"][0]["as_of"] = date(2026, 1, 11)

    return plant


def train_rows(*own: dict[str, Any]) -> Callable[[dict[str, Rows]], None]:
    """These rows of train in the place of the one that is sound, in this order."""

    def plant(rows: dict[str, Rows]) -> None:
        sound, *others = rows["splits"]
        rows["splits"] = [*(sound | values for values in own), *others]

    return plant


def implicit(*negatives: dict[str, Any]) -> Callable[[dict[str, Rows]], None]:
    """Feedback is implicit, and these rows follow the positive of valid."""

    def plant(rows: dict[str, Rows]) -> None:
        rows["domains"][0]["feedback"] = "implicit"
        train, valid, _ = rows["splits"]
        rows["splits"] = [train, valid, *(valid | {"row": 1, "label": 0} | n for n in negatives)]

    return plant


PLANTED = [
    ("domains", with_copy("domains", 0, domain="b"), ["more than one domain in one home"] * 2),
    ("domains", without("domains", 0), ["no domain at all"]),
    ("domains", set_to("domains", 0, domain=" "), ["empty name"]),
    ("domains", set_to("domains", 0, item_noun=""), ["empty item noun"]),
    ("domains", set_to("domains", 0, split_protocol="random"), ["unknown split protocol"]),
    ("domains", set_to("domains", 0, positive_rating=1.0), ["labels would all be the same"]),
    ("domains", set_to("domains", 0, positive_rating=5.5), ["labels would all be the same"]),
    ("domains", set_to("domains", 0, feedback="stars"), ["unknown feedback"]),
    (
        "domains",
        set_to("domains", 0, negatives_per_positive=1),
        ["negatives without implicit feedback, or it without them"],
    ),
    (
        "domains",
        set_to("domains", 0, feedback="implicit"),
        ["negatives without implicit feedback, or it without them"],
    ),
    ("domains", set_to("domains", 0, valid_days=0), ["a window without days"]),
    ("events", set_to("events", 0, item_id=99), ["unknown item"]),
    ("events", set_to("events", 0, rating=0.5), ["rating out of range"]),
    ("events", set_to("events", 0, rating=6.0), ["rating out of range"]),
    ("events", set_to("events", 0, ingested_at=after(-1)), ["known before it happened"]),
    ("events", set_to("events", 0, source_row=2), ["two events from one row of the source"] * 2),
    (
        "events",
        with_copy("events", 0, source_row=9),
        ["two events of one user, item and time"] * 2,
    ),
    ("event_parts", set_to("event_parts", 0, n_rows=0), ["no rows"]),
    (
        "event_parts",
        set_to("event_parts", 0, known_day=date(2026, 1, 1)),
        ["known before the day has ended"],
    ),
    ("event_parts", set_to("event_parts", 0, sha256="?"), ["no sha256"]),
    ("event_parts", set_to("event_parts", 0, path="a"), ["of another day than its path"]),
    (
        "event_parts",
        with_copy("event_parts", 0, known_day=date(2026, 1, 3)),
        ["one file twice"] * 2,
    ),
    ("withdrawn_events", set_to("withdrawn_events", 0, reason="?"), ["unknown reason"]),
    ("arrivals", set_to("arrivals", 0, n_events=-1), ["negative count"]),
    ("arrivals", set_to("arrivals", 0, n_rows=7), ["rows that went nowhere"]),
    ("arrivals", set_to("arrivals", 0, n_events=5), ["more events than rows"]),
    ("arrivals", set_to("arrivals", 0, n_late=5), ["more late events than events"]),
    ("arrivals", set_to("arrivals", 0, n_corrections=5), ["more corrections than events"]),
    ("event_totals", set_to("event_totals", 0, n_rows_in=5), ["rows in are not rows out"]),
    ("event_totals", set_to("arrivals", 0, n_rows=5), ["not the rows that arrived"]),
    ("event_totals", set_to("event_parts", 0, n_rows=5), ["not the events of the partitions"]),
    (
        "event_totals",
        with_copy("quarantined_events", 0, line=3),
        ["not the rows of the quarantine"],
    ),
    ("event_totals", without("items", 2), ["not the items of the catalogue"]),
    (
        "event_totals",
        set_to("event_totals", 0, last_event=after(86_400)),
        ["an event of the day or later"],
    ),
    ("event_totals", fresh_within(9), ["the newest event is older than the contract allows"]),
    ("items", set_to("items", 0, title="  "), ["empty title"]),
    ("items", set_to("items", 0, first_row=0), ["first appearance before the first row"]),
    ("items", set_to("items", 0, first_row=None), ["events, but no first appearance"]),
    ("items", set_to("items", 1, first_row=3), ["an event before the first appearance"]),
    ("quarantined_events", set_to("quarantined_events", 0, source_file=""), ["no source file"]),
    ("quarantined_events", set_to("quarantined_events", 0, line=0), ["line before the first"]),
    ("quarantined_events", set_to("quarantined_events", 0, reason=""), ["no reason"]),
    ("splits", set_to("splits", 2, split="holdout"), ["unknown split"]),
    (
        "splits",
        set_to("splits", 2, label=2),
        ["label is neither 0 nor 1", "rows are not the user's events"],
    ),
    ("splits", set_to("splits", 2, row=1), ["row numbers have a gap"]),
    ("splits", set_to("splits", 2, item_id=10), ["rows are not the user's events"]),
    ("splits", set_to("splits", 2, rated_at=after(8)), ["rows are not the user's events"]),
    ("splits", without("splits", 2), ["rows are not the user's events"]),
    ("splits", without("events", 2), ["rows are not the user's events"]),
    ("splits", without("histories", 1), ["user without a history"]),
    ("splits", set_to("splits", 1, history_end=3), ["history_end is outside the user's list"]),
    ("splits", set_to("splits", 1, history_end=-1), ["history_end is outside the user's list"]),
    (
        "splits",
        set_to("splits", 1, history_end=0),
        ["the history misses a positive of earlier time"],
    ),
    (
        "splits",
        set_to("splits", 1, history_end=2),
        ["the history shows the row itself or a later one"],
    ),
    (
        "splits",
        set_to("splits", 0, history_end=1),
        ["the history shows the row itself or a later one"],
    ),
    ("splits", set_to("splits", 1, is_warm=True), ["is_warm is not what train says"]),
    (
        "splits",
        train_rows({}, {"row": 1, "user_id": 2}, {"row": 2, "rated_at": after(1)}),
        ["rows of a user are apart"],
    ),
    (
        "splits",
        train_rows({"rated_at": after(2)}, {"row": 1, "rated_at": after(1)}),
        ["rows are not in the order of time"],
    ),
    (
        "splits",
        implicit({"rated_at": after(6)}),
        ["a sampled negative does not follow its positive"],
    ),
    ("splits", implicit({"item_id": 30}), ["a sampled negative was not seen by then"]),
    ("splits", implicit({"item_id": 10}), ["a sampled negative is a positive of the user"]),
    ("splits", implicit({"item_id": 10}), ["more sampled negatives than asked for"]),
    (
        "splits",
        without("splits", 0),
        [
            "nothing to train on",
            "the history shows the row itself or a later one",
            "rows are not the user's events",
        ],
    ),
    ("histories", without("histories", 0), ["no history for this user"]),
    (
        "histories",
        with_copy("histories", 0, user_id=7),
        ["no row of any split is of this user"],
    ),
    (
        "histories",
        set_to("histories", 0, item_ids=[10]),
        ["not as long as the user has positives"],
    ),
    (
        "histories",
        set_to("histories", 0, item_ids=[10, 30]),
        ["not the positives of the user in their order"],
    ),
    (
        "histories",
        set_to("histories", 0, item_ids=[20, 10]),
        ["not the positives of the user in their order"],
    ),
    ("histories", set_to("histories", 1, item_ids=[20]), ["not as long as the user has positives"]),
    ("row_features", without("row_features", 1), ["row without features"]),
    ("row_features", with_copy("row_features", 1, row=9), ["features of no row"]),
    (
        "row_features",
        set_to("row_features", 1, as_of=date(2026, 1, 2)),
        ["as of a moment after the row"],
    ),
    ("row_features", set_to("row_features", 1, item_mean=1.5), ["a mean is not between 0 and 1"]),
    ("row_features", set_to("row_features", 1, user_mean=-0.5), ["a mean is not between 0 and 1"]),
    (
        "row_features",
        set_to("row_features", 1, item_popularity=1.5),
        ["popularity is not between 0 and 1"],
    ),
    ("row_features", set_to("row_features", 1, item_count=-1), ["count below zero"]),
    (
        "row_features",
        set_to("row_features", 1, user_recency_days=None),
        ["age or recency without events, or events without them"],
    ),
    (
        "row_features",
        set_to("row_features", 1, item_age_days=3),
        ["age or recency without events, or events without them"],
    ),
    (
        "row_features",
        set_to("row_features", 1, user_recency_days=0),
        ["counts an event of the day itself"],
    ),
    (
        "row_features",
        set_to("row_features", 0, item_count=1, item_age_days=2, item_recency_days=3),
        ["last event before the first"],
    ),
    ("row_features", set_to("row_features", 1, user_count=2), ["more events than train holds"]),
    (
        "row_features",
        set_to("row_features", 1, item_count=1, item_age_days=2, item_recency_days=1),
        ["more events than train holds"],
    ),
    ("item_features", without("item_features", 5), ["no features for this item"]),
    (
        "item_features",
        with_copy("item_features", 0, item_id=99),
        ["features of an unknown item or protocol"],
    ),
    (
        "item_features",
        with_copy("item_features", 0, protocol="other"),
        ["features of an unknown item or protocol"],
    ),
    ("item_features", set_to("item_features", 0, mean=1.5), ["mean is not between 0 and 1"]),
    (
        "item_features",
        set_to("item_features", 0, popularity=1.5),
        ["popularity is not between 0 and 1"],
    ),
    (
        "item_features",
        set_to("item_features", 1, n_positives=2),
        ["not as many positives as in the splits"],
    ),
    (
        "item_features",
        set_to("item_features", 4, n_events=1, n_positives=1),
        ["not as many positives as in the splits"],
    ),
    (
        "item_features",
        set_to("item_features", 1, n_events=3),
        ["fewer events than positives, or more than rows"],
    ),
    (
        "item_features",
        set_to("item_features", 0, first_at=None),
        ["times without events, or events without times"],
    ),
    (
        "item_features",
        set_to("item_features", 1, last_at=after(4)),
        ["last event before the first"],
    ),
    ("user_features", without("user_features", 3), ["no features for this user"]),
    (
        "user_features",
        with_copy("user_features", 0, user_id=99),
        ["features of an unknown user or protocol"],
    ),
    ("user_features", set_to("user_features", 0, mean=-0.1), ["mean is not between 0 and 1"]),
    (
        "user_features",
        set_to("user_features", 3, n_positives=1),
        ["not as many positives as in the splits"],
    ),
    (
        "user_features",
        set_to("user_features", 0, n_events=1),
        ["fewer events than positives, or more than rows"],
    ),
    (
        "user_features",
        set_to("user_features", 1, last_at=None),
        ["times without events, or events without times"],
    ),
    (
        "user_features",
        set_to("user_features", 0, last_at=after(-1)),
        ["last event before the first"],
    ),
    ("item_texts", without("item_texts", 2), ["no text for this item"]),
    ("item_texts", with_copy("item_texts", 0, item_id=99), ["text of an unknown item"]),
    ("item_texts", set_to("item_texts", 0, title="Z"), ["another title than the item has"]),
    ("item_texts", set_to("item_texts", 0, text="Movie: "), ["text without the title"]),
    ("item_semantics", without("item_semantics", 2), ["no semantics for this text"]),
    (
        "item_semantics",
        with_copy("item_semantics", 0, item_id=99),
        ["semantics of an unknown item"],
    ),
    ("item_semantics", set_to("item_semantics", 0, content_key="x"), ["key is no sha256"]),
    ("item_semantics", set_to("item_semantics", 0, raw=[0.0, 0.0]), ["raw is zero"]),
    (
        "item_semantics",
        set_to("item_semantics", 0, vector=[0.6, 0.9]),
        ["vector is not of unit norm"],
    ),
    ("item_codes", without("item_codes", 2), ["no codes for this item"]),
    ("item_codes", with_copy("item_codes", 0, item_id=99), ["codes of an unknown item"]),
    (
        "item_codes",
        set_to("item_codes", 0, codes=[0]),
        ["not as many codes as the codebook has levels"],
    ),
    ("item_codes", set_to("item_codes", 1, codes=[0, 2]), ["a code that is not in the codebook"]),
    ("item_codes", set_to("item_codes", 1, codes=[0, -1]), ["a code that is not in the codebook"]),
    (
        "codebook",
        set_to("codebook", 0, level=-1),
        ["levels and codes are not numbered without a gap"],
    ),
    (
        "codebook",
        without("codebook", 1),
        ["levels and codes are not numbered without a gap"] * 3,
    ),
    ("codebook", set_to("codebook", 3, n_items=2), ["not as many items as have the code"]),
    ("codebook", set_to("codebook", 3, top_titles=["C", "D"]), ["more titles than items"]),
    ("item_labels", without("item_labels", 2), ["no labels for this item"]),
    ("item_labels", with_copy("item_labels", 0, item_id=99), ["labels of an unknown item"]),
    (
        "item_labels",
        set_to("item_labels", 0, codes=[0, 0, 0]),
        ["not as many labels as there are vocabularies"],
    ),
    (
        "item_labels",
        set_to("item_labels", 1, codes=[2, 0]),
        ["a label that is not in its vocabulary"],
    ),
    (
        "label_codebook",
        set_to("label_codebook", 0, code=-1),
        ["levels and labels are not numbered without a gap"],
    ),
    (
        "label_codebook",
        set_to("label_codebook", 3, n_items=2),
        ["not as many items as have the label"],
    ),
    (
        "label_codebook",
        set_to("label_codebook", 1, label="word 0"),
        ["a word twice in its vocabulary"] * 2,
    ),
    (
        "label_codebook",
        set_to("label_codebook", 0, lifted=[0.6, 0.9]),
        ["lifted is not of unit norm"],
    ),
    (
        "label_codebook",
        set_to("label_codebook", 3, top_titles=["C", "D"]),
        ["more titles than items"],
    ),
    ("user_profiles", without("user_profiles", 1), ["no profile of this user"]),
    ("user_profiles", without("user_profiles", 2), ["no profile of this user"]),
    (
        "user_profiles",
        with_copy("user_profiles", 2, user_id=2),
        ["profile of a user without events, or protocol"],
    ),
    ("user_profiles", set_to("user_profiles", 0, n_events=1), ["not as many events as rows"]),
    ("user_profiles", implicit(), ["profile of a user without events, or protocol"]),
    (
        "user_profiles",
        set_to("user_profiles", 0, dislikes=[0.0, -0.5]),
        ["likes or dislikes below zero"],
    ),
    (
        "user_profiles",
        set_to("user_profiles", 0, profile=[0.5, 0.25]),
        ["shares do not sum to the number of levels"],
    ),
    *(
        case
        for curve in ("adapt_curve", "tune_curve")
        for case in (
            (curve, without(curve, 0), ["does not begin before the first step"]),
            (curve, set_to(curve, 1, tokens=0), ["a step without tokens"]),
            (curve, set_to(curve, 2, seconds=0.5), ["time runs backwards"]),
            (curve, set_to(curve, 2, learning_rate=-1.0), ["learning rate below zero"]),
            (curve, set_to(curve, 2, train_loss=-0.1), ["loss below zero"]),
            (curve, set_to(curve, 2, train_loss=None), ["a step without a loss"]),
            (curve, set_to(curve, 1, valid_auc=1.5), ["AUC is not between 0 and 1"]),
        )
    ),
    ("user_factors", without("user_factors", 0), ["no factor for this user of train"]),
    ("user_factors", with_copy("user_factors", 0, user_id=7), ["factor of an unknown user"]),
    ("user_factors", set_to("user_factors", 0, n_events=-1), ["count below zero"]),
    ("item_factors", without("item_factors", 2), ["no factor for this item"]),
    ("item_factors", with_copy("item_factors", 0, item_id=99), ["factor of an unknown item"]),
    ("item_factors", set_to("item_factors", 0, n_events=-1), ["count below zero"]),
    ("control_logits", with_copy("control_logits", 0, row=7), ["logit of no row"]),
    ("control_logits", without("control_logits", 1), ["row without a logit"]),
    (
        "control_logits",
        set_to("control_logits", 2, logit=float("inf")),
        ["logit is not finite"],
    ),
    (
        "control_logits",
        set_to("control_logits", 0, frozen_logit=0.5),
        ["frozen logits are of valid and test rows, all of them"],
    ),
    (
        "control_logits",
        set_to("control_logits", 1, frozen_logit=None),
        ["frozen logits are of valid and test rows, all of them"],
    ),
    ("tune_valid", with_copy("tune_valid", 0, row=7), ["logit of no valid row"]),
    ("tune_valid", with_copy("tune_valid", 0, split="test"), ["logit of no valid row"]),
    (
        "user_token_inputs",
        with_copy("user_token_inputs", 0, user_id=7),
        ["inputs of an unknown user"],
    ),
    (
        "item_token_inputs",
        with_copy("item_token_inputs", 0, item_id=99),
        ["inputs of an unknown item"],
    ),
    ("warm_token_inputs", without("warm_token_inputs", 2), ["no inputs for this text"]),
    (
        "warm_token_inputs",
        with_copy("warm_token_inputs", 0, item_id=99),
        ["inputs of an unknown item"],
    ),
    ("warm_token_inputs", set_to("warm_token_inputs", 0, input=[0.0, 0.0]), ["inputs are zero"]),
    ("user_tokens", without("user_tokens", 0), ["no tokens for this user"]),
    ("user_tokens", with_copy("user_tokens", 0, user_id=7), ["tokens of a user without inputs"]),
    ("user_tokens", set_to("user_tokens", 0, tokens=[0.0, 0.0]), ["tokens are zero"]),
    *(
        case
        for tokens in ("item_tokens", "warm_tokens")
        for case in (
            (tokens, without(tokens, 0), ["no tokens for this item"]),
            (tokens, with_copy(tokens, 0, item_id=99), ["tokens of an item without inputs"]),
            (tokens, set_to(tokens, 0, tokens=[0.0, 0.0]), ["tokens are zero"]),
        )
    ),
    ("token_norms", set_to("token_norms", 0, kind="sink"), ["no such kind"]),
    ("token_norms", set_to("token_norms", 0, n_tokens=0), ["no tokens, or tokens without numbers"]),
    ("token_norms", set_to("token_norms", 0, n_rows=-1), ["rows below zero"]),
    (
        "token_norms",
        set_to("token_norms", 0, norm_ratio=None),
        ["a length without rows, or rows without one"],
    ),
    ("token_norms", set_to("token_norms", 0, norm_ratio=0.0), ["tokens without length"]),
    ("publications", set_to("publications", 0, version=0), ["version is not positive"]),
    ("publications", set_to("publications", 0, alias=""), ["empty alias"]),
    ("publications", set_to("publications", 0, run_key="short"), ["run key is not a sha256"]),
    ("candidates", with_copy("splits", 1, row=1), ["row of the split is missing"]),
    ("candidates", with_copy("candidates", 0, row=7), ["candidate is no row of the split"]),
    ("candidates", set_to("candidates", 0, label=0), ["candidate does not read as its row"]),
    ("candidates", set_to("candidates", 2, label=1), ["a proposed candidate has a label"]),
    (
        "candidates",
        with_copy("candidates", 2, row=1),
        ["user and item were proposed twice"] * 2,
    ),
    ("candidates", set_to("candidates", 2, user_id=9), ["user has no history"]),
    (
        "candidates",
        set_to("candidates", 2, history_end=1),
        ["history does not end with what the day knows"],
    ),
    ("candidates", set_to("candidates", 2, item_id=99), ["item is not in the catalogue"]),
    ("candidates", set_to("candidates", 0, version=0), ["version is not positive"]),
    (
        "candidates",
        set_to("candidates", 0, version=2),
        ["candidates of more than one version"] * 3,
    ),
    ("ctr_scores", without("ctr_scores", 0), ["candidate without a score"]),
    ("ctr_scores", with_copy("ctr_scores", 0, split="train"), ["score of no candidate"]),
    (
        "ctr_scores",
        set_to("ctr_scores", 0, label=0),
        ["user, item, label or warm flag is not that of the candidate"],
    ),
    (
        "ctr_scores",
        set_to("ctr_scores", 0, probability=1.0),
        ["probability is not between 0 and 1"],
    ),
    (
        "ctr_scores",
        set_to("ctr_scores", 0, logit=2.0, probability=0.5),
        ["probability falls where the logit rises"],
    ),
    ("ctr_scores", set_to("ctr_scores", 0, version=2), ["version is not that of the candidate"]),
    ("llm_scores", with_copy("llm_scores", 0, row=7), ["score of no row"]),
    ("llm_scores", with_copy("splits", 2, row=1), ["row without a score"]),
    (
        "llm_scores",
        set_to("llm_scores", 0, label=0),
        ["user, item or label is not that of the row"],
    ),
    (
        "llm_scores",
        set_to("llm_scores", 1, probability=0.0),
        ["probability is not between 0 and 1"],
    ),
    ("llm_scores", set_to("llm_scores", 0, logit=1.0), ["logit and probability disagree"]),
    (
        "llm_diagnostics",
        set_to("llm_diagnostics", 0, value=0.5),
        ["attention does not add up to one"] * 2,
    ),
    (
        "llm_diagnostics",
        set_to("llm_diagnostics", 4, last_layer=-1),
        ["no such window of layers"],
    ),
    ("llm_diagnostics", set_to("llm_diagnostics", 3, value=1.5), ["value is not between 0 and 1"]),
    (
        "llm_diagnostics",
        set_to("llm_diagnostics", 4, value=-1.5),
        ["value is not between -1 and 1"],
    ),
    ("llm_diagnostics", set_to("llm_diagnostics", 2, value=-1.0), ["lift below zero"]),
    (
        "llm_diagnostics",
        set_to("llm_diagnostics", 5, value=-1.5),
        ["value is not between -1 and 1"],
    ),
    ("llm_diagnostics", set_to("llm_diagnostics", 6, value=-0.5), ["log loss below zero"]),
]


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_a_sound_night_passes(name: str) -> None:
    assert found(name, sound_rows()) == []


@pytest.mark.parametrize(
    ("name", "plant", "expected"),
    [pytest.param(*case, id=f"{case[0]}: {case[2][0]} {n}") for n, case in enumerate(PLANTED)],
)
def test_what_is_planted_is_named(
    name: str, plant: Callable[[dict[str, Rows]], None], expected: list[str]
) -> None:
    rows = sound_rows()
    plant(rows)
    said = found(name, rows)
    assert set(said) >= set(expected)
    assert [one for one in said if one in expected] == expected


# What each check says of a night in which every table is empty.
OF_NOTHING = {"domains": ["no domain at all"], "splits": ["nothing to train on"]}


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_empty_tables_hold_no_bad_row(name: str) -> None:
    assert found(name, {table: [] for table in SCHEMAS}) == OF_NOTHING.get(name, [])


def test_every_violation_that_a_check_can_name_is_planted() -> None:
    said = {name: {v for n, _, all_ in PLANTED if n == name for v in all_} for name in SCHEMAS}
    for name, planted in said.items():
        text = sql_text(f"checks/{name}").replace("''", "\0")
        for violation in planted:
            assert violation.replace("'", "\0") in text
        body = text.split("end as violation")[0]
        n_named = body.count(" then '") + body.count("else '")
        n_named += len(re.findall(r"^ +'.*' as violation$", text, re.MULTILINE))
        assert len(planted) == n_named, name


def test_every_parquet_dataset_has_a_check_and_every_check_a_dataset() -> None:
    checks = {path.stem for path in (SQL / "checks").glob("*.sql")}
    datasets = {name for name, d in BY_NAME.items() if d.format is Format.PARQUET}
    assert checks == datasets | {EVENTS.name} == SCHEMAS.keys()


def test_vectors_arrive_as_fixed_size_lists_of_any_length() -> None:
    tables = night(sound_rows())
    wide = pa.FixedSizeListArray.from_arrays(
        pa.array([1.0, 0.0, 0.0] * 3, pa.float32()), list_size=3
    )
    at = tables["item_semantics"].schema.get_field_index("vector")
    semantics = tables["item_semantics"].set_column(at, "vector", wide)
    texts = tables["item_texts"]
    assert pc.all(pc.is_valid(semantics["vector"])).as_py()
    given = {"item_semantics": semantics, "item_texts": texts}
    assert violations(BY_NAME["item_semantics"], given).num_rows == 0


# -- contracts of the events -----------------------------------------------------------------------


@pytest.mark.parametrize(("n_days", "is_stale"), [(9, True), (10, False)])
def test_events_older_than_the_contract_allows_are_stale(n_days: int, is_stale: bool) -> None:
    rows = sound_rows()
    fresh_within(n_days)(rows)
    tables = night(rows)
    given = {table: tables[table] for table in tables_named_in("event_totals")}
    found = violations(BY_NAME["event_totals"], given)["violation"].to_pylist()
    assert found == ["the newest event is older than the contract allows"] * is_stale


@pytest.mark.parametrize(
    ("n_before", "n_tonight", "is_refused"),
    [(3, 50, True), (3, 151, True), (3, 100, False), (2, 1, False), (9, 51, False)],
)
def test_a_night_with_far_more_or_fewer_rows_than_usual_is_refused(
    n_before: int, n_tonight: int, is_refused: bool
) -> None:
    rows = sound_rows()
    rows["domains"][0]["max_row_change"] = 0.49
    rows["event_totals"][0]["as_of"] = date(2026, 2, 20)
    counts = [*[100] * n_before, n_tonight]
    days = [date(2026, 2, 20) - timedelta(days=n) for n in reversed(range(len(counts)))]
    arrival = rows["arrivals"][0] | {"n_quarantined": 0}
    rows["arrivals"] = [
        arrival | {"known_day": day, "n_rows": n, "n_events": n}
        for day, n in zip(days, counts, strict=True)
    ]
    tables = night(rows)
    given = {table: tables[table] for table in tables_named_in("arrivals")}
    found = violations(BY_NAME["arrivals"], given)["violation"].to_pylist()
    said = f"{n_tonight} rows came in, and 100.0 is usual"
    assert found == [said] * is_refused
