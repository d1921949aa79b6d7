"""Which column plays which part, and in which form time is written: guesses with their reasons."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

from jobs.prepare.first_look.source_look import Column

# Ordered: an earlier name is the better sign. `customer_id` also stands for `CustomerID`, and as
# the end of a longer name.
NAMES: dict[str, tuple[str, ...]] = {
    "user_id": (
        *("user_id", "userid", "user", "uid", "customer_id", "customer", "client_id", "member_id"),
        *("reviewer_id", "account_id", "visitor_id", "visitorid", "subscriber_id", "player_id"),
        *("person_id", "author_id", "customer_no", "client", "member", "reviewer", "player"),
    ),
    "item_id": (
        *("item_id", "itemid", "item", "iid", "product_id", "asin", "parent_asin", "sku"),
        *("movie_id", "movieid", "app_id", "game_id", "book_id", "track_id", "song_id"),
        *("article_id", "stock_code", "isbn", "product", "video_id", "listing_id", "content_id"),
        *("product_no", "movie", "game", "book", "article", "song"),
    ),
    "at": (
        *("rated_at", "event_time", "event_at", "occurred_at", "happened_at", "timestamp", "ts"),
        *("datetime", "date_time", "time", "at", "unix_review_time", "review_time", "invoice_date"),
        *("order_date", "purchased_at", "clicked_at", "played_at", "viewed_at", "created_at"),
        *("created", "review_date", "event_date", "date", "day"),
    ),
    "ingested_at": (
        *("ingested_at", "loaded_at", "load_time", "loaded", "ingest_time", "inserted_at"),
        *("arrived_at", "received_at", "etl_time", "load_date", "ingestion_time", "delivered_at"),
    ),
    "rating": ("rating", "stars", "score", "overall", "grade", "star_rating", "rate"),
    "label": (
        *("label", "is_recommended", "recommended", "recommend", "liked", "is_liked", "like"),
        *("clicked", "is_clicked", "click", "voted_up", "is_positive", "positive", "target"),
        *("purchased", "bought", "converted", "thumbs_up", "thumb"),
    ),
    "title": (
        *("title", "item_title", "product_title", "product_name", "item_name", "name"),
        *("movie_title", "app_name", "game_title", "book_title", "description"),
    ),
}
_PLAIN_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,17})")
_NUMBER = re.compile(r"-?[0-9]{1,18}([.][0-9]+)?")
_YES = frozenset(("1", "true", "t", "yes", "y", "like", "liked", "up", "positive", "recommended"))
_NO = frozenset(
    (
        "0",
        "-1",
        "false",
        "f",
        "no",
        "n",
        "dislike",
        "disliked",
        "down",
        "negative",
        "not recommended",
    )
)


def plain_name(name: str) -> str:
    """`CustomerID` and `customer id` as `customer_id`."""
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.strip())
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def name_score(role: str, name: str) -> int:
    """How well a column's name suits a role; 0: not at all."""
    words = plain_name(name)
    for rank, known in enumerate(NAMES[role]):
        if words == known:
            return 200 - rank
    for rank, known in enumerate(NAMES[role]):
        if words.endswith(f"_{known}"):
            return 100 - rank
    return 0


# -- values ----------------------------------------------------------------------------------------


def is_whole_number_id(column: Column) -> bool:
    """Every id is a whole number in plain digits, so that 007 and 7 cannot be mixed up."""
    if column.kind == "integer":
        return True
    return bool(column.texts) and all(_PLAIN_INTEGER.fullmatch(text) for text in column.texts)


def share(texts: Sequence[str], test: Callable[[str], object]) -> float:
    """Share of `texts` for which `test` holds; 0 of none."""
    return sum(bool(test(text)) for text in texts) / len(texts) if texts else 0.0


def as_number(text: str) -> float:
    """A number, NaN where the text is none."""
    try:
        return float(text)
    except ValueError:
        return float("nan")


def is_id(column: Column) -> bool:
    """Can name a user or an item."""
    return column.kind in ("text", "integer", "decimal") and bool(column.texts)


def is_number(column: Column) -> bool:
    """Nearly all values are numbers, and more than two differ."""
    of_numbers = column.kind in ("integer", "decimal") or (
        column.kind == "text" and share(column.texts, _NUMBER.fullmatch) > 0.9
    )
    return of_numbers and len(set(column.texts)) > 2


def is_label(column: Column) -> bool:
    """Two values, or hardly any others."""
    counts = Counter(text.strip().lower() for text in column.texts)
    two = sum(n for _, n in counts.most_common(2))
    return column.kind != "decimal" and bool(counts) and two >= 0.95 * counts.total()


def is_title(column: Column) -> bool:
    """Text with letters, not a code of one word that never varies in length."""
    return column.kind == "text" and share(column.texts, re.compile(r"[^\W\d_]{2}").search) > 0.5


def label_sides(column: Column) -> tuple[list[str], list[str], bool]:
    """Positive and negative values of a label, and whether their meaning was plain."""
    counts = Counter(text.strip() for text in column.texts)
    values = sorted({value.lower(): value for value, _ in counts.most_common(4)}.values())
    positive = [value for value in values if value.lower() in _YES]
    negative = [value for value in values if value.lower() in _NO]
    is_plain = bool(positive and negative)
    if not positive:
        positive = [value for value in values if value not in negative][-1:]
    if not negative:
        negative = [value for value in values if value not in positive][:1]
    return positive, negative, is_plain


# -- time ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TimeForm:
    """How a column writes moments.

    Attributes:
        form: as a mapping names it.
        has_zone: each value says its own zone, or counts from 1970 in UTC.
        look: what a person has to settle, if anything.
    """

    form: str
    why: str
    has_zone: bool = False
    look: str | None = None


_ISO = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}(:[0-9]{2}([.,][0-9]+)?)?(Z|[+-][0-9:]{2,6})?"
)
_OFFSET = re.compile(r".*[0-9](Z|[+-][0-9]{2}(:?[0-9]{2})?)")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_SINCE_1970 = (  # 1980 to 2100 in each unit
    ("seconds", 1),
    ("milliseconds", 1_000),
    ("microseconds", 1_000_000),
)
_PATTERNS = tuple(
    f"{day}{clock}"
    for day in (
        *("%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%d-%m-%Y", "%m-%d-%Y", "%Y/%m/%d", "%Y%m%d"),
        *("%d/%m/%y", "%m/%d/%y", "%b %d, %Y", "%B %d, %Y", "%d %b %Y", "%d %B %Y"),
    )
    for clock in ("", " %H:%M", " %H:%M:%S")
)


def time_form(column: Column) -> TimeForm | None:
    """The form that reads nearly all values of a column; None if no form does."""
    if column.kind == "timestamp":
        return TimeForm("native", "it is a timestamp column", has_zone=column.zone is not None)
    if column.kind == "date":
        return TimeForm("native", "it is a date column: a day is all that is known", has_zone=True)
    if column.kind not in ("text", "integer") or not column.texts:
        return None
    texts = [text.strip() for text in column.texts[:2_000]]
    return _since_1970(texts) or _iso(texts) or _by_pattern(texts)


def _since_1970(texts: Sequence[str]) -> TimeForm | None:
    for unit, scale in _SINCE_1970:
        low, high = 315_532_800 * scale, 4_102_444_800 * scale
        if share(texts, partial(_is_between, low=low, high=high)) > 0.9:
            return TimeForm(unit, f"numbers like {texts[0]} are {unit} since 1970", has_zone=True)
    return None


def _is_between(text: str, low: int, high: int) -> bool:
    return text.isdecimal() and low <= int(text) < high


def _iso(texts: Sequence[str]) -> TimeForm | None:
    if share(texts, _DATE.fullmatch) > 0.9:
        why = f"values like '{texts[0]}' say the day alone"
        return TimeForm("date", why, has_zone=True)
    if share(texts, _ISO.fullmatch) <= 0.9:
        return None
    with_zone = share(texts, _OFFSET.fullmatch)
    look = "some values carry an offset and some do not" if 0 < with_zone < 1 else None
    return TimeForm("iso", f"values like '{texts[0]}'", has_zone=with_zone == 1, look=look)


def _by_pattern(texts: Sequence[str]) -> TimeForm | None:
    fits = {p: share(texts[:300], partial(parsed, form=p)) for p in _PATTERNS}
    best = max(fits, key=lambda pattern: fits[pattern])
    if fits[best] <= 0.9:
        return None
    swapped = best.replace("%d", "?").replace("%m", "%d").replace("?", "%m")
    is_open = swapped != best and fits.get(swapped) == fits[best]
    look = f"day and month could be the other way round: {swapped}" if is_open else None
    return TimeForm(best, f"values like '{texts[0]}'", look=look)


def parsed(text: str, form: str) -> datetime | None:
    """A value as a moment without a zone, to look at a sample's span; None if it is none."""
    try:
        return _parsed(text.strip(), form)
    except (ValueError, OverflowError):
        return None


def _parsed(text: str, form: str) -> datetime:
    scale = dict(_SINCE_1970).get(form)
    if scale is not None:
        return datetime(1970, 1, 1) + timedelta(microseconds=int(text) * (1_000_000 // scale))
    if form in ("native", "iso", "date"):
        moment = datetime.fromisoformat(text.replace(",", "."))
        return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment
    return datetime.strptime(text, form)
