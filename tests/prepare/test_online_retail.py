"""Online Retail by its mapping file alone: a small cut of its form, and the real files if there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.datasets import DOMAINS, EVENTS, ITEMS, QUARANTINED_EVENTS, ROW_FEATURES, SPLITS
from jobs.prepare import features
from tests.conftest import DATA, ROOT
from tests.prepare.conftest import Night

Nights = Callable[..., Night]

MAPPING = ROOT / "docs" / "examples" / "online-retail.yaml"
FIRST_FILE, SECOND_FILE = "online_retail_2009_2010.parquet", "online_retail_2010_2011.parquet"
SCHEMA = pa.schema(
    [
        ("invoice_no", pa.string()),
        ("item_id", pa.string()),
        ("title", pa.string()),
        ("quantity", pa.int32()),
        ("ts", pa.timestamp("us")),
        ("unit_price", pa.float64()),
        ("user_id", pa.int32()),
        ("country", pa.string()),
    ]
)
DAY_ONE = datetime(2010, 11, 1, 9, 30)


def line(**given: Any) -> dict[str, Any]:
    plain = {
        "invoice_no": "536365",
        "item_id": "85123A",
        "title": "WHITE HANGING HEART T-LIGHT HOLDER",
        "quantity": 6,
        "ts": DAY_ONE,
        "unit_price": 2.55,
        "user_id": 17850,
        "country": "United Kingdom",
    }
    return plain | given


def sound(n: int) -> list[dict[str, Any]]:
    """Lines that are events, one every two hours, of 20 customers and 25 products."""
    return [
        line(
            item_id=f"{20_000 + 7 * i % 25}",
            title=f"PRODUCT {7 * i % 25}",
            ts=DAY_ONE + timedelta(hours=2 * i),
            user_id=12_346 + i % 20,
        )
        for i in range(n)
    ]


BAD = [  # each with its reason, in the first file, after the sound lines
    ("cancellation", line(invoice_no="C536379", quantity=-1)),
    ("cancellation", line(invoice_no="C536379", user_id=None)),
    ("adjustment of bad debt", line(invoice_no="A506401", item_id="B", user_id=None)),
    ("not a product", line(item_id="POST", title="POSTAGE")),
    ("not a product", line(item_id="m")),
    ("not a product", line(item_id="gift_0001_80", user_id=None)),
    ("negative quantity", line(quantity=-9, user_id=None, title="damaged")),
    ("no price", line(unit_price=0.0, title=None)),
    ("missing user", line(user_id=None)),
    ("missing user", line(user_id=None, title="?")),
]
OVERLAP = 30  # sound lines that the second file holds once more


@pytest.fixture
def cut(tmp_path: Path) -> Path:
    folder = tmp_path / "online-retail"
    folder.mkdir()
    lines = sound(600)
    repeated = line(ts=lines[5]["ts"], item_id=lines[5]["item_id"], user_id=lines[5]["user_id"])
    first = [*lines[:400], *(row for _, row in BAD), repeated]
    second = [
        *lines[400 - OVERLAP :],
        line(item_id="20000", title="another name", ts=datetime(2010, 12, 30, 12)),
        line(item_id="15056BL", title="  EDWARDIAN PARASOL BLACK ", ts=datetime(2010, 12, 29, 12)),
        line(item_id=" 15056bl ", title="PARASOL", ts=datetime(2010, 12, 29, 12)),
        line(item_id="20001", title="PRODUCT 1", ts=datetime(2010, 7, 1, 0, 30)),
    ]
    for name, rows in ((FIRST_FILE, first), (SECOND_FILE, second)):
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), folder / name)
    (folder / "tidemark.yaml").write_text(MAPPING.read_text())
    return folder


def test_every_line_of_a_small_cut_is_an_event_or_in_the_quarantine_with_its_reason(
    cut: Path, night: Nights
) -> None:
    tonight = night(date(2010, 12, 31))
    metrics = tonight.ingest(cut).metrics
    found = tonight.table(QUARANTINED_EVENTS).to_pylist()
    by_place = {(row["source_file"], row["line"]): row["reason"] for row in found}
    expected = {(FIRST_FILE, 401 + n): reason for n, (reason, _) in enumerate(BAD)}
    expected[FIRST_FILE, 401 + len(BAD)] = "duplicate"
    expected |= {(SECOND_FILE, n + 1): "duplicate" for n in range(OVERLAP)}
    assert by_place == expected
    assert metrics["events"] == tonight.table(EVENTS).num_rows == 600 + 4
    assert metrics["rows_in"] == 604 + len(expected)


def test_minutes_are_those_of_londons_clock(cut: Path, night: Nights) -> None:
    tonight = night(date(2010, 12, 31))
    tonight.ingest(cut)
    at = {row["rated_at"] for row in tonight.table(EVENTS).to_pylist()}
    assert DAY_ONE in at  # winter: London is UTC
    assert datetime(2010, 6, 30, 23, 30) in at  # summer: half past midnight is the day before


def test_an_item_keeps_the_case_of_its_id_and_has_its_most_frequent_title(
    cut: Path, night: Nights
) -> None:
    tonight = night(date(2010, 12, 31))
    tonight.ingest(cut)
    titles = {row["item_id"]: row["title"] for row in tonight.table(ITEMS).to_pylist()}
    assert titles["15056BL"] == "EDWARDIAN PARASOL BLACK"
    assert titles["15056bl"] == "PARASOL"
    assert titles["20000"] == "PRODUCT 0"
    assert len(titles) == 25 + 2


def test_each_purchase_gets_a_negative_and_both_have_features(cut: Path, night: Nights) -> None:
    tonight = night(date(2010, 12, 31))
    tonight.ingest(cut)
    tonight.split()
    tonight.run("features", features.FeaturesConfig(), features.job)
    assert tonight.table(DOMAINS)["feedback"].to_pylist() == ["implicit"]
    rows = tonight.table(SPLITS).to_pylist()
    labels = Counter(row["label"] for row in rows)
    assert labels[1] == 604
    assert 0.9 * 604 < labels[0] <= 604  # fewer where a customer has bought all there was
    bought = {(r["user_id"], r["item_id"]) for r in rows if r["label"]}
    assert not bought & {(r["user_id"], r["item_id"]) for r in rows if not r["label"]}
    assert tonight.table(ROW_FEATURES).num_rows == len(rows)


# What each line of the files must come to, said once more in SQL that shares nothing with the
# pipeline. 1: of the first file.
EXPLAINED = r"""
with lines as (
    select *, '{first}' as source_file, 1 as file, file_row_number + 1 as line
    from read_parquet('{folder}/{first}', file_row_number = true)
    union all
    select *, '{second}' as source_file, 2 as file, file_row_number + 1 as line
    from read_parquet('{folder}/{second}', file_row_number = true)
),

judged as (
    select
        source_file, file, line, user_id, trim(item_id) as item_id, ts,
        case
            when invoice_no like 'C%' then 'cancellation'
            when invoice_no like 'A%' then 'adjustment of bad debt'
            when
                lower(trim(item_id)) in (
                    'post', 'dot', 'm', 'd', 's', 'b', 'c2', 'c3', 'bank charges', 'adjust',
                    'adjust2', 'amazonfee', 'cruk', 'test001', 'test002'
                ) or lower(item_id) like 'gift%'
                then 'not a product'
            when quantity <= 0 then 'negative quantity'
            when unit_price <= 0 then 'no price'
            when user_id is null then 'missing user'
        end as reason
    from lines
)

select
    source_file,
    line,
    coalesce(reason, 'duplicate') as reason
from judged
qualify
    reason is not null
    or row_number() over (
        partition by user_id, item_id, ts, reason is null order by file, line
    ) > 1
"""


def test_the_quarantine_of_the_real_files_explains_every_line_that_is_missing(
    tmp_path: Path, night: Nights
) -> None:
    folder = DATA / "online-retail"
    if not folder.is_dir():
        pytest.skip(f"Online Retail is not at {folder}; it is too large to ship")
    mapping = tmp_path / "online-retail.yaml"
    mapping.write_text(MAPPING.read_text() + f"root: {folder}\n")
    tonight = night(date(2011, 12, 10))
    metrics = tonight.ingest(mapping).metrics
    assert metrics["rows_in"] == 525_461 + 541_909
    assert metrics["events"] == 766_005
    assert metrics["users"] == 5_852
    assert metrics["items"] == 4_621
    found = tonight.table(QUARANTINED_EVENTS).select(["source_file", "line", "reason"])
    assert found.num_rows == 1_067_370 - 766_005
    query = EXPLAINED.format(folder=folder, first=FIRST_FILE, second=SECOND_FILE)
    with duckdb.connect(config={"threads": 1}) as connection:
        connection.register("found", found)
        differing = connection.execute(
            f"select count(*) from (select * from found except all ({query}))"
        ).fetchall()
        n_expected = connection.execute(f"select count(*) from ({query})").fetchall()
    assert differing == [(0,)]
    assert n_expected == [(found.num_rows,)]
