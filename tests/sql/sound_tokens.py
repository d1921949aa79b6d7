"""What tune and project made of the night in test_sql_checks.py."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

VECTOR = pa.list_(pa.float32(), 2)

SCHEMAS = {
    "control_logits": {
        "split": pa.string(),
        "row": pa.int32(),
        "logit": pa.float32(),
        "frozen_logit": pa.float32(),
    },
    "tune_valid": {
        "split": pa.string(),
        "row": pa.int32(),
        "logit": pa.float32(),
        "offset": pa.float32(),
    },
    "user_token_inputs": {"user_id": pa.int64(), "input": VECTOR},
    "item_token_inputs": {"item_id": pa.int64(), "input": VECTOR, "history": VECTOR},
    "warm_token_inputs": {"item_id": pa.int64(), "input": VECTOR},
    "user_tokens": {"user_id": pa.int64(), "tokens": VECTOR},
    "item_tokens": {"item_id": pa.int64(), "tokens": VECTOR},
    "warm_tokens": {"item_id": pa.int64(), "tokens": VECTOR},
    "token_norms": {
        "kind": pa.string(),
        "mapper": pa.string(),
        "n_tokens": pa.int32(),
        "d_llm": pa.int32(),
        "scale": pa.float32(),
        "n_rows": pa.int64(),
        "is_materialised": pa.bool_(),
        "mean_norm": pa.float64(),
        "norm_ratio": pa.float64(),
    },
}


def sound_tokens() -> dict[str, list[dict[str, Any]]]:
    """Inputs and tokens of two users and three items; the third was never rated."""
    users, items = (1, 2), (10, 20, 30)
    norms = {"mapper": "mlp", "n_tokens": 1, "d_llm": 2, "scale": 0.5, "is_materialised": True}
    lengths = {"mean_norm": 1.0, "norm_ratio": 0.5}
    return {
        "control_logits": [
            {"split": split, "row": 0, "logit": 0.5, "frozen_logit": frozen}
            for split, frozen in (("train", None), ("valid", 0.25), ("test", 0.25))
        ],
        "tune_valid": [{"split": "valid", "row": 0, "logit": 1.0, "offset": 0.0}],
        "user_token_inputs": [{"user_id": user, "input": [0.0, 1.0]} for user in users],
        "item_token_inputs": [
            {"item_id": item, "input": [0.0, 1.0], "history": [1.0, 0.0]} for item in items
        ],
        "warm_token_inputs": [{"item_id": item, "input": [3.0, 4.0]} for item in items],
        "user_tokens": [{"user_id": user, "tokens": [0.0, 1.0]} for user in users],
        "item_tokens": [{"item_id": item, "tokens": [0.0, 1.0]} for item in items],
        "warm_tokens": [{"item_id": item, "tokens": [0.0, 1.0]} for item in items],
        "token_norms": [
            {"kind": kind, "n_rows": n_rows, **norms, **lengths}
            for kind, n_rows in (("user", 2), ("item", 3), ("warm", 3))
        ],
    }
