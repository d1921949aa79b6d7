"""Codes, labels and profiles of the night in test_sql_checks.py, and what is planted into them."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

VECTOR = pa.list_(pa.float32(), 2)
_CODES = pa.list_(pa.int16())
_TITLES = pa.list_(pa.string())

SCHEMAS = {
    "item_codes": {"item_id": pa.int64(), "codes": _CODES},
    "codebook": {
        "level": pa.int16(),
        "code": pa.int16(),
        "centroid": VECTOR,
        "lifted": VECTOR,
        "n_items": pa.int32(),
        "top_titles": _TITLES,
    },
    "item_labels": {"item_id": pa.int64(), "codes": _CODES},
    "label_codebook": {
        "level": pa.int16(),
        "code": pa.int16(),
        "vocabulary": pa.string(),
        "label": pa.string(),
        "lifted": VECTOR,
        "n_items": pa.int32(),
        "top_titles": _TITLES,
    },
    "user_profiles": {
        "protocol": pa.string(),
        "user_id": pa.int64(),
        "kind": pa.string(),
        "profile": VECTOR,
        "likes": VECTOR,
        "dislikes": VECTOR,
        "n_events": pa.int32(),
    },
}


def sound_codes() -> dict[str, list[dict[str, Any]]]:
    """Two levels of two codes: items 10 and 20 have code 0, item 30 has code 1."""
    codes = [{"item_id": item, "codes": [item // 30, item // 30]} for item in (10, 20, 30)]
    numbers = [(level, code) for level in (0, 1) for code in (0, 1)]
    titles = (["A (1990)", "B (1991)"], ["C (1992)"])
    members = [
        {"level": level, "code": code, "n_items": 2 - code, "top_titles": titles[code]}
        for level, code in numbers
    ]
    profile = {"kind": "codes", "profile": [0.25, 0.75], "likes": [1.0, 0.0], "dislikes": [0.0] * 2}
    users = (("nightly", 1, 2), ("nightly", 2, 1), ("paper", 1, 1))
    return {
        "item_codes": codes,
        "codebook": [each | {"centroid": [0.0, 0.0], "lifted": [3.0, 4.0]} for each in members],
        "item_labels": [dict(each) for each in codes],
        "label_codebook": [
            each | {"vocabulary": "style", "label": f"word {each['code']}", "lifted": [0.6, 0.8]}
            for each in members
        ],
        "user_profiles": [
            {"protocol": protocol, "user_id": user, "n_events": n, **profile}
            for protocol, user, n in users
        ],
    }
