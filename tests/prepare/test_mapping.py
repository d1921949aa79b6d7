"""What a mapping file says is what is read, from YAML as from TOML; which source lies at a path."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import pytest

from jobs.errors import SourceError
from jobs.prepare.sources.mapping import Mapping, load_mapping, recognise
from jobs.prepare.sources.mapping_form import LabelFeedback, RatingFeedback, TitlesFromEvents

YAML = """\
domain: online-retail
item_noun: Product
events:
  files: ["sales_*.parquet", more.parquet]
  format: parquet
  columns: {user_id: customer, item_id: code, at: sold_at}
  user_id: {type: integer}
  item_id: {type: string}
  at: {form: native, zone: Europe/London}
  ingested_at: {column: loaded, form: milliseconds}
feedback: {kind: implicit, negatives_per_positive: 4, seed: 7}
reject:
  - {column: invoice, starts_with: "C", reason: cancellation}
  - {column: quantity, at_most: 0, reason: negative quantity}
items: {from: events, title: description}
split: {protocol: leave-one-out}
quarantine: {max_share: 0.1, expected: {missing user: 0.3}}
contract: {max_age_days: 7}
"""
TOML = """\
domain = "online-retail"
item_noun = "Product"
[events]
files = ["sales_*.parquet", "more.parquet"]
format = "parquet"
columns = {user_id = "customer", item_id = "code", at = "sold_at"}
user_id = {type = "integer"}
item_id = {type = "string"}
at = {form = "native", zone = "Europe/London"}
ingested_at = {column = "loaded", form = "milliseconds"}
[feedback]
kind = "implicit"
negatives_per_positive = 4
seed = 7
[[reject]]
column = "invoice"
starts_with = "C"
reason = "cancellation"
[[reject]]
column = "quantity"
at_most = 0
reason = "negative quantity"
[items]
from = "events"
title = "description"
[split]
protocol = "leave-one-out"
[quarantine]
max_share = 0.1
expected = {"missing user" = 0.3}
[contract]
max_age_days = 7
"""


def read(folder: Path, text: str, name: str = "tidemark.yaml") -> Mapping:
    (folder / name).write_text(text, encoding="utf-8")
    return load_mapping(folder / name)


def refusal(folder: Path, text: str, name: str = "tidemark.yaml") -> str:
    with pytest.raises(SourceError) as error:
        read(folder, text, name)
    said = str(error.value)
    assert said.startswith(f"{folder / name}")
    assert "\n" not in said
    return said.removeprefix(f"{folder / name}")


# -- what it says ----------------------------------------------------------------------------------


def test_yaml_and_toml_say_the_same(tmp_path: Path) -> None:
    assert read(tmp_path, YAML) == read(tmp_path, TOML, "tidemark.toml")


def test_what_a_mapping_says_is_what_is_read(tmp_path: Path) -> None:
    mapping = read(tmp_path, YAML)
    assert (mapping.domain, mapping.item_noun, mapping.events.format) == (
        "online-retail",
        "Product",
        "parquet",
    )
    assert mapping.events.files == ("sales_*.parquet", "more.parquet")
    assert (mapping.events.at.form, mapping.events.at.zone) == ("native", "Europe/London")
    assert mapping.events.ingested_at
    assert (mapping.events.ingested_at.column, mapping.events.ingested_at.zone) == ("loaded", "UTC")
    assert mapping.quarantine.expected == {"missing user": 0.3}
    assert mapping.items == TitlesFromEvents.model_validate(
        {"from": "events", "title": "description"}
    )


def test_what_a_mapping_leaves_out_has_the_published_defaults(tmp_path: Path) -> None:
    mapping = read(tmp_path, YAML.replace("split: {protocol: leave-one-out}\n", ""))
    assert mapping.split.model_dump() == {
        "protocol": "rolling",
        "valid_days": 10,
        "test_days": 10,
    }
    assert mapping.conflicts == "later_delivery_replaces"


def test_the_columns_that_are_read_are_those_named_each_once(tmp_path: Path) -> None:
    assert read(tmp_path, YAML).event_columns == (
        "customer",
        "code",
        "sold_at",
        "loaded",
        "description",
        "invoice",
        "quantity",
    )


@pytest.mark.parametrize(
    ("feedback", "column", "positive_from"),
    [
        ("{kind: rating, minimum: 1, maximum: 5, positive_from: 4}", ", rating: stars", 4.0),
        ("{kind: label}", ", label: liked", 1.0),
        ("{kind: implicit}", "", 1.0),
    ],
)
def test_every_kind_of_feedback_has_a_rating_from_which_it_is_positive(
    tmp_path: Path, feedback: str, column: str, positive_from: float
) -> None:
    text = YAML.replace("{kind: implicit, negatives_per_positive: 4, seed: 7}", feedback)
    mapping = read(tmp_path, text.replace("at: sold_at", f"at: sold_at{column}"))
    assert mapping.positive_rating == positive_from


def test_labels_are_compared_as_lower_case_text_whatever_yaml_makes_of_them(tmp_path: Path) -> None:
    text = YAML.replace(
        "{kind: implicit, negatives_per_positive: 4, seed: 7}",
        "{kind: label, positive: [true, 1, Yes, ' Liked '], negative: [false, 0, no]}",
    ).replace("at: sold_at", "at: sold_at, label: liked")
    feedback = read(tmp_path, text).feedback
    assert isinstance(feedback, LabelFeedback)
    assert feedback.positive == ("true", "1", "yes", "liked")
    assert feedback.negative == ("false", "0", "no")


def test_text_that_old_yaml_would_turn_into_something_else_stays_text(tmp_path: Path) -> None:
    rules = "".join(
        f"  - {{column: a, equals: {value}, reason: rule}}\n"
        for value in ("no", "on", "010", "12:30", "2026-01-31", "1_000")
    )
    text = YAML.replace("reject:\n", f"reject:\n{rules}")
    found = [rule.equals for rule in read(tmp_path, text).reject[:6]]
    assert found == ["no", "on", "010", "12:30", "2026-01-31", "1_000"]


def test_a_file_saved_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_bytes(b"\xef\xbb\xbf" + YAML.encode())
    assert load_mapping(tmp_path / "m.yaml").domain == "online-retail"


# -- the hash of what decides how rows are read ----------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "is_same"),
    [
        ("max_share: 0.1", "max_share: 0.2", True),
        ("leave-one-out", "rolling", True),
        ("max_age_days: 7", "max_age_days: 8", True),
        ("item_noun: Product", "item_noun: Thing", True),
        ("zone: Europe/London", "zone: Europe/Paris", False),
        ('starts_with: "C"', 'starts_with: "D"', False),
        ("user_id: {type: integer}", "user_id: {type: string}", False),
        ("title: description", "title: name", False),
    ],
)
def test_only_what_decides_how_a_row_is_read_changes_the_reading_hash(
    tmp_path: Path, old: str, new: str, *, is_same: bool
) -> None:
    assert old in YAML
    before, after = read(tmp_path, YAML), read(tmp_path, YAML.replace(old, new))
    assert (before.reading_sha256() == after.reading_sha256()) is is_same


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("domain: a\ndomain: b\n", ", line 2: key 'domain' stands twice; keep one"),
        ("a: &x 1\nb: *x\n", ", line 1: anchors and aliases are not read; write it out"),
        ("a: !!python/object/apply:os.system [x]\n", ", line 1: the tag tag:yaml.org,2002:python"),
        ("a: [1\n", ", line 2: no YAML: while parsing a flow sequence"),
        ("? [a, b]\n: 1\n", ", line 1: a key is a word"),
        ("a: 1\n---\nb: 2\n", ", line 2: no YAML: expected a single document"),
        ("- 1\n", ": expected keys and values, found '[1]'"),
        ("x: \x07\n", ": no YAML: "),
        ("[" * 5000, ": nested too deeply for a mapping"),
    ],
)
def test_yaml_that_is_none_or_does_more_than_a_mapping_needs_is_refused(
    tmp_path: Path, text: str, said: str
) -> None:
    assert refusal(tmp_path, text).startswith(said)


def test_toml_that_is_none_is_refused_with_its_line(tmp_path: Path) -> None:
    assert refusal(tmp_path, 'domain = "a"\nx = \n', "m.toml") == ", line 2: no TOML: Invalid value"
    twice = refusal(tmp_path, "a = 1\na = 2\n", "m.toml")
    assert twice == ", line 2: no TOML: Cannot overwrite a value"


def test_a_wrong_value_in_toml_is_named_with_its_line(tmp_path: Path) -> None:
    said = refusal(tmp_path, TOML.replace("max_share = 0.1", "max_share = 7"), "m.toml")
    assert said == ", line 29: quarantine.max_share: 7: Input should be less than or equal to 1"


def test_every_finding_is_named_and_five_are_shown(tmp_path: Path) -> None:
    text = YAML + "".join(f"key_{n}: 1\n" for n in range(7))
    said = refusal(tmp_path, text)
    assert said.startswith(", line 19: key_0: unknown key; known here: domain, item_noun, root")
    assert said.count("unknown key") == 5
    assert said.endswith("; and 2 more")


def test_a_file_that_is_no_text_or_too_large_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_bytes(b"domain: a\nitem_noun: \xff\n")
    with pytest.raises(SourceError, match=r"line 2: byte 0xff is no UTF-8; save it as UTF-8"):
        load_mapping(tmp_path / "m.yaml")
    (tmp_path / "m.yaml").write_bytes(b"#" * (1 << 20) + b"##")
    with pytest.raises(SourceError, match="larger than 1,048,576 bytes, so it is no mapping"):
        load_mapping(tmp_path / "m.yaml")
    with pytest.raises(SourceError, match=r"m\.json: a mapping is a \.yaml or \.toml file"):
        load_mapping(tmp_path / "m.json")
    with pytest.raises(SourceError, match=r"no\.yaml: cannot be read \(No such file"):
        load_mapping(tmp_path / "no.yaml")


# -- kinds of source -------------------------------------------------------------------------------


def test_a_mapping_file_is_a_source_whose_files_lie_beside_it(tmp_path: Path) -> None:
    (path := tmp_path / "retail.yaml").write_text(YAML)
    mapping, root = recognise(path)
    assert (mapping.domain, root) == ("online-retail", tmp_path)


@pytest.mark.parametrize("name", ["tidemark.yaml", "tidemark.yml", "tidemark.toml"])
def test_a_folder_with_a_mapping_is_a_source(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(TOML if name.endswith("toml") else YAML)
    assert recognise(tmp_path)[0].domain == "online-retail"


def test_a_folder_with_two_mappings_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tidemark.yaml").write_text(YAML)
    (tmp_path / "tidemark.toml").write_text(TOML)
    with pytest.raises(SourceError, match=r"holds tidemark\.yaml and tidemark\.toml; keep one"):
        recognise(tmp_path)


def test_the_root_that_a_mapping_names_is_where_its_files_lie(tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "data").mkdir()
    (path := tmp_path / "conf" / "m.yaml").write_text(f"root: ../data\n{YAML}")
    assert recognise(path)[1].resolve() == tmp_path / "data"
    path.write_text(f"root: nowhere\n{YAML}")
    with pytest.raises(SourceError, match=r"m\.yaml: root: 'nowhere' is no folder"):
        recognise(path)


def test_nothing_known_says_what_is_known(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such file or folder; give --source"):
        recognise(tmp_path / "nothing")
    with pytest.raises(SourceError, match=r"not a source; expected a mapping \(tidemark\.yaml"):
        recognise(tmp_path)


def test_the_samples_mapping_takes_its_promise_from_the_marker(tmp_path: Path) -> None:
    marker = {"first_delivery": "2026-01-01", "last_delivery": "2026-03-06"}
    (tmp_path / "sample.json").write_text(json.dumps(marker))
    mapping, root = recognise(tmp_path)
    assert (mapping.domain, root) == ("sample", tmp_path)
    assert mapping.events.deliveries
    assert mapping.events.deliveries.first == date(2026, 1, 1)
    assert mapping.events.deliveries.last == date(2026, 3, 6)


@pytest.mark.parametrize("text", ["{", "[]", '{"first_delivery": "soon"}', "{}"])
def test_a_broken_marker_of_a_sample_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "sample.json").write_text(text)
    with pytest.raises(SourceError, match="expected JSON with first_delivery and last_delivery"):
        recognise(tmp_path)


def test_the_forms_of_movielens_are_recognised_by_their_files(tmp_path: Path) -> None:
    (tmp_path / "ratings_since_2000-12.parquet").write_bytes(b"")
    mapping, root = recognise(tmp_path)
    assert (mapping.events.format, root) == ("parquet", tmp_path)
    (tmp_path / "ml-1m").mkdir()
    (tmp_path / "ml-1m" / "ratings.dat").write_bytes(b"")
    mapping, root = recognise(tmp_path)
    assert (mapping.events.csv_form.delimiter, root) == ("::", tmp_path / "ml-1m")
    assert isinstance(mapping.feedback, RatingFeedback)
    assert (mapping.split.protocol, mapping.positive_rating) == ("published-ml-1m", 4.0)
