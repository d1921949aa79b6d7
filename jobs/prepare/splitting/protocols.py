"""How a domain's events become train, valid and test: one row of a table for each protocol."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import Any

from jobs.errors import NotAvailable

PUBLISHED, ROLLING, LEAVE_ONE_OUT = "published-ml-1m", "rolling", "leave-one-out"
AMAZON_BOOK = "published-amazon-book"


@dataclass(frozen=True)
class Terms:
    """What a protocol may ask for.

    Attributes:
        day: the as-of day; the day itself is the future.
        positive_rating: label = rating >= this.
        valid_days: length of the window before the test window.
        test_days: length of the window before the day.
    """

    day: date
    positive_rating: float
    valid_days: int
    test_days: int


@dataclass(frozen=True)
class Protocol:
    """A way to split.

    Attributes:
        query: file of `sql/` that labels the events.
        names: fields of `Terms` that the query has as parameters.
        train: says, when train is empty, which rows would have been train.
        is_strict: a row sees no positive of its own moment; else all before it in the order.
        leaves_out: splits follow from each user's own last positives, not from the query.
        reads_items: the query reads the table `items` too.
        is_divisible: the query gives the same rows if it is run on stretches of time.
    """

    query: str
    names: tuple[str, ...]
    train: Callable[[Terms], str]
    is_strict: bool = True
    leaves_out: bool = False
    reads_items: bool = False
    is_divisible: bool = True

    def parameters(self, terms: Terms) -> dict[str, Any]:
        """Values for the query."""
        return {name: getattr(terms, name) for name in self.names}


def _rolling_train(terms: Terms) -> str:
    held_out = terms.valid_days + terms.test_days
    return (
        f"the last {held_out} days before the as-of day are held out "
        "(--valid-days, --test-days); the first day that can be trained on is "
        f"{held_out + 1} days after the first event"
    )


PROTOCOLS = {
    ROLLING: Protocol(
        "prepare/labelled_rolling",
        ("day", "positive_rating", "valid_days", "test_days"),
        _rolling_train,
    ),
    LEAVE_ONE_OUT: Protocol(
        "prepare/labelled_leave_one_out",
        ("day", "positive_rating"),
        lambda _: "each user's last positive is test, the one before it valid",
        leaves_out=True,
    ),
    PUBLISHED: Protocol(
        "prepare/labelled_published",
        ("positive_rating",),
        lambda _: "the published train window is 2001-06 to 2002-03",
        is_strict=False,
        reads_items=True,
        is_divisible=False,
    ),
    AMAZON_BOOK: Protocol(
        "prepare/labelled_amazon_book",
        ("positive_rating",),
        lambda _: "the published train window is 2017-01 to 2017-11",
        is_strict=False,
        is_divisible=False,
    ),
}


def protocol_of(name: str) -> Protocol:
    """The protocol that the domain names.

    Raises:
        NotAvailable: there is no such protocol.
    """
    if name not in PROTOCOLS:
        raise NotAvailable(f"no split protocol '{name}'; there are: {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]
