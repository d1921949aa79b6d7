"""The mapping's own rules: rows that are no events, by the values of one column."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.prepare.sources.mapping_form import RejectRule
from jobs.prepare.sources.source_values import as_text, numbers


def first_rule(
    batch: pa.RecordBatch, rules: Sequence[RejectRule], nulls: tuple[str, ...]
) -> pa.Array:
    """Place (int32) of the first rule that each row meets; null for none."""
    found = np.full(batch.num_rows, -1, np.int32)
    for place, rule in enumerate(rules):
        met = pc.fill_null(_meets(batch[rule.column], rule, nulls), False)
        found[(found < 0) & met.to_numpy(zero_copy_only=False)] = place
    return pa.array(found, mask=found < 0)


def _meets(column: pa.Array, rule: RejectRule, nulls: tuple[str, ...]) -> pa.Array:
    """Whether each value meets the rule; null values meet `missing` alone."""
    if rule.at_most is not None:
        return pc.less_equal(_as_numbers(column, nulls), rule.at_most)
    if rule.at_least is not None:
        return pc.greater_equal(_as_numbers(column, nulls), rule.at_least)
    text = as_text(column, nulls)
    if rule.missing:
        return pc.is_null(text)
    if rule.equals is not None:
        return pc.equal(text, rule.equals)
    if rule.starts_with is not None:
        return pc.starts_with(text, pattern=rule.starts_with)
    return pc.match_substring_regex(text, f"^(?:{rule.matches})$")


def _as_numbers(column: pa.Array, nulls: tuple[str, ...]) -> pa.Array:
    """Numbers of a column, also of text; null where it holds none."""
    found = numbers(column)
    if found.null_count < len(found) or not len(found):
        return found
    text = as_text(column, nulls)
    is_number = pc.match_substring_regex(text, r"^[-+]?[0-9]{1,15}([.][0-9]{1,15})?$")
    return pc.if_else(is_number, text, None).cast(pa.float64())
