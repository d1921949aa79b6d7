"""Every wrong mapping file ends in one line with the file, the line, the key and the value."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.errors import SourceError
from jobs.prepare.sources.mapping import load_mapping

GOOD = """\
domain: games
item_noun: Game
events:
  files: ["plays/{day}.csv"]
  format: csv
  csv: {delimiter: ","}
  columns: {user_id: player, item_id: app, at: day, label: liked}
  user_id: {type: string}
  item_id: {type: string}
  at: {form: iso, zone: Europe/London}
feedback: {kind: label, positive: ["true"], negative: ["false"]}
reject:
  - {column: note, equals: test, reason: a test}
items:
  files: ["games.csv"]
  format: csv
  columns: {item_id: app, title: name}
split: {protocol: rolling, valid_days: 5, test_days: 5}
quarantine: {max_share: 0.05, expected: {missing user: 0.3}}
contract: {max_age_days: 7}
"""
RATING = "feedback: {kind: rating, minimum: 1, maximum: 5, positive_from: 4}\n"
LABEL = 'feedback: {kind: label, positive: ["true"], negative: ["false"]}\n'


def test_the_mapping_that_the_bad_ones_are_made_from_is_good(tmp_path: Path) -> None:
    (path := tmp_path / "tidemark.yaml").write_text(GOOD)
    assert load_mapping(path).events.columns.label == "liked"


# What is replaced in the good mapping, by what, and what the one line must say.
WRONG = [
    ("domain: games", "domain: My Games", ("line 1", "domain", "My Games")),
    ("domain: games", "domain: ''", ("line 1", "domain")),
    ("domain: games", "domain: 7", ("line 1", "domain", "7")),
    ("domain: games\n", "", ("domain", "missing")),
    ("item_noun: Game", "item_noun: ''", ("line 2", "item_noun")),
    ("item_noun: Game", "item_noun: [Game]", ("line 2", "item_noun")),
    ("item_noun: Game", "item_nown: Game", ("line 2", "item_nown", "did you mean 'item_noun'")),
    ("format: csv\n  csv", "format: cvs\n  csv", ("line 5", "events.format", "cvs")),
    ("format: csv\n  csv", "fromat: csv\n  csv", ("line 5", "fromat", "'format'")),
    ("format: csv\n  csv", "format: parquet\n  csv", ("line", "`csv`", "parquet")),
    ("format: csv\n  csv", "format: duckdb\n  csv", ("line", "`csv`", "duckdb")),
    ('["plays/{day}.csv"]', "[]", ("line 4", "events.files")),
    ('["plays/{day}.csv"]', "plays.csv", ("line 4", "events.files", "plays.csv")),
    ('["plays/{day}.csv"]', '["../plays.csv"]', ("line 4", "files[0]", "../plays.csv", "`root:`")),
    ('["plays/{day}.csv"]', '["/etc/passwd"]', ("line 4", "/etc/passwd", "relative")),
    ('["plays/{day}.csv"]', '["C:/plays.csv"]', ("line 4", "C:/plays.csv")),
    ('["plays/{day}.csv"]', '["{day}/{day}.csv"]', ("line 4", "{day}", "once")),
    ('["plays/{day}.csv"]', '["{day}.csv", "all.csv"]', ("line 3", "events", "{day}")),
    ('["plays/{day}.csv"]', '[""]', ("line 4", "files[0]")),
    ('delimiter: ","', 'delimiter: ""', ("line 6", "delimiter")),
    ('delimiter: ","', 'delimiter: "\\n"', ("line 6", "delimiter")),
    ('delimiter: ","', "delimiter: '\"'", ("line 6", "delimiter")),
    ('delimiter: ","', 'encoding: "utf8"', ("line 6", "encoding", "utf8")),
    ('delimiter: ","', "encoding: ebcdic", ("line 6", "encoding", "ebcdic")),
    ('delimiter: ","', "header: false", ("line 6", "columns", "header")),
    ('delimiter: ","', "columns: [a, b]", ("line 6", "columns", "header")),
    ('delimiter: ","', "header: false, columns: [a, a]", ("line 6", "twice")),
    ('delimiter: ","', "header: maybe", ("line 6", "header", "maybe")),
    ('delimiter: ","', "quote: '|'", ("line 6", "quote", "|")),
    ('delimiter: ","', "separator: ';'", ("line 6", "separator", "delimiter")),
    ("user_id: player, ", "", ("line 7", "events.columns.user_id", "missing")),
    ("at: day, ", "", ("line 7", "events.columns.at", "missing")),
    ("user_id: player", "user_id: ''", ("line 7", "events.columns.user_id")),
    ("user_id: player", "user_id: 3", ("line 7", "events.columns.user_id", "3")),
    ("user_id: player", "usr_id: player", ("line 7", "usr_id", "'user_id'")),
    ("label: liked", "rating: liked", ("feedback.kind", "rating")),
    (", label: liked", "", ("events.columns.label", "feedback.kind")),
    ("user_id: {type: string}", "user_id: {type: text}", ("line 8", "user_id.type", "text")),
    ("user_id: {type: string}", "user_id: string", ("line 8", "user_id")),
    ("form: iso", "form: isoo", ("line 10", "at.form", "isoo")),
    ("form: iso", 'form: "%d/%m"', ("line 10", "at.form", "%d/%m")),
    ("form: iso", 'form: "%Q %Y-%m-%d"', ("line 10", "%Q")),
    ("form: iso", "form: seconds", ("line 10", "events.at", "zone")),
    ("form: iso", "form: date", ("line 10", "events.at", "zone")),
    ("zone: Europe/London", "zone: Europe/Londn", ("line 10", "at.zone", "Europe/Londn")),
    ("zone: Europe/London", "zone: +01:00", ("line 10", "at.zone", "+01:00")),
    ("kind: label", "kind: stars", ("line 11", "feedback", "stars")),
    ("kind: label, ", "", ("line 11", "feedback")),
    ('negative: ["false"]', 'negative: ["TRUE"]', ("line 11", "feedback", "true")),
    ('positive: ["true"]', "positive: []", ("line 11", "feedback.positive")),
    (LABEL, RATING.replace("4}", "9}").replace("label", "x"), ("feedback", "maximum")),
    (LABEL, RATING.replace("minimum: 1", "minimum: 5"), ("feedback", "minimum")),
    (LABEL, RATING.replace("minimum: 1", "minimum: .nan"), ("line 11", "feedback.minimum", "nan")),
    (LABEL, RATING.replace("minimum: 1, ", ""), ("line 11", "feedback.minimum", "missing")),
    (LABEL, "feedback: {kind: implicit, seed: -1}\n", ("line 11", "feedback.seed", "-1")),
    (LABEL, "feedback: {kind: implicit, seed: 1.5}\n", ("line 11", "feedback.seed", "1.5")),
    (
        LABEL,
        "feedback: {kind: implicit, negatives_per_positive: 0}\n",
        ("line 11", "negatives_per_positive", "0"),
    ),
    (
        LABEL,
        "feedback: {kind: implicit, popularity_power: 9}\n",
        ("line 11", "popularity_power", "9"),
    ),
    ("equals: test", "matches: '('", ("line 13", "matches", "(")),
    ("equals: test", "equals: test, starts_with: t", ("line 13", "equals", "starts_with")),
    ("equals: test, ", "", ("line 13", "expected one of equals")),
    ("equals: test", "at_most: zero", ("line 13", "at_most", "zero")),
    ("reason: a test", "reason: A TEST!", ("line 13", "reason", "A TEST!")),
    (", reason: a test", "", ("line 13", "reason", "missing")),
    ("column: note", "columns: note", ("line 13", "columns", "'column'")),
    ("columns: {item_id: app, title: name}", "columns: {item_id: app}", ("line 17", "title")),
    ("item_id: app, title: name}", "item_id: app, name: name}", ("line 17", "name")),
    ("  columns: {item_id: app, title: name}\n", "", ("line 14", "items.columns", "missing")),
    ("protocol: rolling", "protocol: random", ("line 18", "split.protocol", "random")),
    ("valid_days: 5", "valid_days: 0", ("line 18", "split.valid_days", "0")),
    ("valid_days: 5", "valid_days: 2.5", ("line 18", "split.valid_days", "2.5")),
    ("valid_days: 5", "valid_days: '5'", ("line 18", "split.valid_days", "5")),
    ("max_share: 0.05", "max_share: 5", ("line 19", "quarantine.max_share", "5")),
    ("max_share: 0.05", "max_share: -0.1", ("line 19", "quarantine.max_share", "-0.1")),
    ("max_share: 0.05", "max_share: 5 %", ("line 19", "quarantine.max_share", "5 %")),
    ("missing user: 0.3", "missing user: 30", ("line 19", "quarantine.expected", "30")),
    ("max_age_days: 7", "max_age_days: -1", ("line 20", "contract.max_age_days", "-1")),
    ("max_age_days: 7", "max_row_change: 0", ("line 20", "contract.max_row_change", "0")),
    ("max_age_days: 7", "max_age: 7", ("line 20", "max_age", "'max_age_days'")),
    ("domain: games", "domain: games\ndomain: shop", ("line 2", "domain", "twice")),
    ("domain: games", "domain: &d games", ("line 1", "anchor")),
    ("domain: games", "domain: !!python/object:os.system games", ("line 1", "tag")),
    ("domain: games", "domain: [games", ("line", "no YAML")),
    ("domain: games", "\tdomain: games", ("line 1", "no YAML")),
    ("domain: games", "- domain: games", ("line", "no YAML")),
]


@pytest.mark.parametrize(("old", "new", "said"), WRONG, ids=[f"{w[1]!r:.60}" for w in WRONG])
def test_a_wrong_mapping_is_one_line_with_file_line_key_and_value(
    tmp_path: Path, old: str, new: str, said: tuple[str, ...]
) -> None:
    assert old in GOOD
    (path := tmp_path / "tidemark.yaml").write_text(GOOD.replace(old, new, 1))
    with pytest.raises(SourceError) as error:
        load_mapping(path)
    message = str(error.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    for part in said:
        assert part in message.removeprefix(str(path)), message


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("tidemark.yaml", b"", "missing"),
        ("tidemark.yaml", b"just words", "expected keys and values, found 'just words'"),
        ("tidemark.yaml", b"- a\n- b\n", "expected keys and values"),
        ("tidemark.yaml", b"domain: caf\xe9\n", "line 1: byte 0xe9 is no UTF-8"),
        ("tidemark.yaml", b"domain: a\0b\n", "no YAML"),
        ("tidemark.yaml", b"[" * 5_000, "nested too deeply"),
        ("tidemark.yaml", b"a: b\n---\nc: d\n", "no YAML"),
        ("tidemark.yaml", b"{" * 2_000 + b"}" * 2_000, ""),
        ("tidemark.yaml", b"x" * (1 << 21), "larger than"),
        ("tidemark.toml", b"domain = games", "line 1: no TOML"),
        ("tidemark.toml", b'domain = "a"\ndomain = "b"\n', "no TOML"),
        ("tidemark.toml", b'domain = "a"\n[events]\nformat = "cvs"\n', "line 3: events.format"),
        ("tidemark.toml", b"\xff\xfe", "no UTF-8"),
        ("tidemark.json", b"{}", "a mapping is a .yaml or .toml file"),
    ],
    ids=range(14),
)
def test_a_file_that_is_no_mapping(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (path := tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError) as error:
        load_mapping(path)
    assert str(error.value).startswith(str(path))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_mapping_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"none\.yaml: cannot be read \(No such file"):
        load_mapping(tmp_path / "none.yaml")
