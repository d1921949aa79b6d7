"""A step of the matrix factorisation as compiled loops: gradients and row Adam in one pass.

Needs numba, and is imported only where it is there. `jobs.collab.fused` has the way in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numba
import numpy as np
from llvmlite import ir
from numba.extending import intrinsic
from numpy.typing import NDArray

from jobs.collab.factors import Floats, Ints

F = TypeVar("F", bound=Callable[..., Any])

# Sums may be taken in another order, which vector units need. NaN and infinity keep their meaning:
# training that diverges is told by them.
_REORDER = {"reassoc", "contract", "nsz", "arcp", "afn"}
_AHEAD_EVENTS, _AHEAD_ROWS = 6, 2  # how early memory is asked for
_LINE = 64  # bytes of a cache line
_LOGS_AT_ONCE = 32  # factors in (1, 2] whose product a float64 holds with ease

_ONE, _ZERO = np.float32(1), np.float32(0)
_BETA1, _REST1 = np.float32(0.9), np.float32(1 - 0.9)
_BETA2, _REST2 = np.float32(0.999), np.float32(1 - 0.999)
_EPSILON = np.float32(1e-8)


def compiled(function: F) -> F:
    """The function in machine code, kept on disk where some folder can be written to."""
    options = {"fastmath": _REORDER, "error_model": "numpy"}
    try:
        fast: F = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # neither beside this file nor in the user's cache
        fast = numba.njit(**options)(function)
    return fast


class Rows(NamedTuple):
    """A table that learns, as plain arrays."""

    weights: Floats  # (n, d + 1) factor, then bias
    mean: Floats  # (n, d + 1)
    square: Floats  # (n, d + 1)
    n_steps: Floats  # (n, 1)
    slots: NDArray[np.int32]  # (n,) -1 between steps
    n_events: Ints  # (n,) that share the penalty of a row
    l2_factor: np.float32
    l2_bias: np.float32


class Side(NamedTuple):
    """What a step keeps of one table; a slot stands for a distinct row."""

    wanted: Ints  # (capacity,) row of each event
    rows: Ints  # (capacity,) row of each slot
    counts: NDArray[np.int32]  # (capacity,) events of each slot
    gradients: Floats  # (capacity + 1, d + 1) by slot; the last is a place to work in
    bases: Floats  # (capacity,) by slot, items only: what does not depend on the user


class Events(NamedTuple):
    """The train events."""

    users: Ints  # (n_events,)
    items: Ints  # (n_events,)
    labels: Floats  # (n_events,)


class Pulls(NamedTuple):
    """Gradients of another loss on the factors of distinct rows."""

    rows: Ints  # (b,)
    gradients: Floats  # (b, d)


class Rate(NamedTuple):
    """Adam's step size, and its bias corrections by number of steps."""

    learning_rate: np.float32
    first: Floats  # 1 / (1 - beta1^n)
    second: Floats  # 1 / (1 - beta2^n)


@intrinsic  # type: ignore[untyped-decorator]
def _touch(_: Any, address: Any) -> Any:
    """Ask for a line of memory ahead of its use: rows lie anywhere, so that nothing else can."""

    def generate(context: Any, builder: Any, __: Any, arguments: Any) -> Any:
        pointer, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
        touch = builder.module.declare_intrinsic("llvm.prefetch", [pointer], kind)
        place = builder.inttoptr(arguments[0], pointer)
        builder.call(touch, [place, number(0), number(3), number(1)])  # read, keep, data
        return context.get_dummy_value()

    return numba.types.void(numba.types.intp), generate


# Loops over a row. They take plain arrays: to take one out of a tuple counts a reference, which in
# the loop over events would cost as much as the arithmetic.


@compiled
def _fetch(array: Floats, row: int) -> None:
    n_bytes = array.shape[1] * 4
    start = array.ctypes.data + row * n_bytes
    for offset in range(0, n_bytes, _LINE):
        _touch(start + offset)


@compiled
def _dot(left: Floats, a: int, right: Floats, b: int, d: int) -> np.float32:
    total = _ZERO
    for j in range(d):
        total += left[a, j] * right[b, j]
    return total


@compiled
def _add(target: Floats, a: int, scale: np.float32, source: Floats, b: int, d: int) -> None:
    for j in range(d):
        target[a, j] += scale * source[b, j]


@compiled
def _put(target: Floats, a: int, scale: np.float32, source: Floats, b: int, d: int) -> None:
    for j in range(d):
        target[a, j] = scale * source[b, j]


@compiled
def _adam(
    weights: Floats,
    mean: Floats,
    square: Floats,
    row: int,
    gradients: Floats,
    slot: int,
    of_factor: np.float32,
    of_bias: np.float32,
    step: np.float32,
    second: np.float32,
) -> None:
    """Move one row along its gradient and its priors, times `of_factor` and `of_bias`."""
    d = weights.shape[1] - 1
    for j in range(d):
        g = gradients[slot, j] + of_factor * weights[row, j]
        m = _BETA1 * mean[row, j] + _REST1 * g
        s = _BETA2 * square[row, j] + _REST2 * g * g
        mean[row, j] = m
        square[row, j] = s
        weights[row, j] -= step * m / (np.sqrt(s * second) + _EPSILON)
    g = gradients[slot, d] + of_bias * weights[row, d]
    m = _BETA1 * mean[row, d] + _REST1 * g
    s = _BETA2 * square[row, d] + _REST2 * g * g
    mean[row, d] = m
    square[row, d] = s
    weights[row, d] -= step * m / (np.sqrt(s * second) + _EPSILON)


@compiled
def _next(n_steps: Floats, row: int, last: int) -> int:
    """Count a step of a row; where its bias corrections stand."""
    n_steps[row, 0] += _ONE
    return int(min(n_steps[row, 0], np.float32(last)))


# -- a step ---------------------------------------------------------------------------------------


@compiled
def _number(
    rows: Ints,
    slots: NDArray[np.int32],
    found: Ints,
    counts: NDArray[np.int32],
    n: int,
) -> int:
    """Give every row that has no slot the next one, from `n` on; count its events."""
    for k in range(len(rows)):
        row = rows[k]
        slot = slots[row]
        if slot < 0:
            slot = n
            n += 1
            slots[row] = slot
            found[slot] = row
            counts[slot] = 0
        counts[slot] += 1
    return n


@compiled
def _open(table: Rows, side: Side, n_wanted: int, pulls: Pulls, least: int) -> int:
    """Slots of a step, the pulled rows first; gradients at zero, or at the pull.

    Rows of fewer than `least` events that nothing pulls are not given a gradient to add to.
    """
    slots, found, counts, gradients = table.slots, side.rows, side.counts, side.gradients
    n_pulled = _number(pulls.rows, slots, found, counts, 0)
    pulled, d = pulls.gradients, gradients.shape[1] - 1
    for slot in range(n_pulled):
        counts[slot] = 0
        _put(gradients, slot, _ONE, pulled, slot, d)
        gradients[slot, d] = _ZERO
    n = _number(side.wanted[:n_wanted], slots, found, counts, n_pulled)
    for slot in range(n_pulled, n):
        if counts[slot] >= least:
            for j in range(d + 1):
                gradients[slot, j] = _ZERO
    return n


@compiled
def _take_bases(item: Rows, items: Side, n_slots: int, shared: Rows) -> None:
    """Global bias + item bias + <taste, item factor> of each slot."""
    weights, taste, rows, bases = item.weights, shared.weights, items.rows, items.bases
    d = weights.shape[1] - 1
    for slot in range(n_slots):
        if slot + _AHEAD_ROWS < n_slots:
            _fetch(weights, rows[slot + _AHEAD_ROWS])
        row = rows[slot]
        bases[slot] = _dot(taste, 0, weights, row, d) + weights[row, d] + taste[0, d]


@compiled
def _learn_events(
    user: Rows, item: Rows, users: Side, items: Side, labels: Floats, n_pulled: int, rate: Rate
) -> float:
    """Gradients of all events of a batch; the sum of their cross-entropies.

    A user of one event moves at once. Users in slots below `n_pulled` have another gradient too,
    and wait for the end of the step.
    """
    p, p_mean, p_square, p_steps = user.weights, user.mean, user.square, user.n_steps
    q, by_user, by_item, bases = item.weights, users.gradients, items.gradients, items.bases
    user_slots, item_slots, counts = user.slots, item.slots, users.counts
    us, its, n_events = users.wanted, items.wanted, user.n_events
    step, first, second = rate.learning_rate, rate.first, rate.second
    l2_factor, l2_bias, last = user.l2_factor, user.l2_bias, len(rate.first) - 1
    d, n, spare = p.shape[1] - 1, len(labels), len(by_user) - 1
    part = _ONE / np.float32(n)
    loss, product = 0.0, 1.0
    for k in range(n):
        ahead = min(k + _AHEAD_EVENTS, n - 1)
        _fetch(q, its[ahead])
        _fetch(p, us[ahead])
        _fetch(p_mean, us[ahead])
        _fetch(p_square, us[ahead])
        u, i = us[k], its[k]
        a, b = user_slots[u], item_slots[i]
        logit = _dot(p, u, q, i, d) + bases[b] + p[u, d]
        small = np.exp(-abs(logit))
        likely = (_ONE if logit >= _ZERO else small) / (_ONE + small)
        loss += max(logit, _ZERO) - logit * labels[k]
        product *= 1.0 + small
        if k % _LOGS_AT_ONCE == 0:  # one logarithm for many events
            loss += np.log(product)
            product = 1.0
        r = (likely - labels[k]) * part
        _add(by_item, b, r, p, u, d)
        by_item[b, d] += r
        if counts[a] == 1 and a >= n_pulled:
            _put(by_user, spare, r, q, i, d)
            by_user[spare, d] = r
            share = part / np.float32(n_events[u])
            at = _next(p_steps, u, last)
            by_factor, by_bias = share * l2_factor, share * l2_bias
            rate_now, second_now = step * first[at], second[at]
            _adam(p, p_mean, p_square, u, by_user, spare, by_factor, by_bias, rate_now, second_now)
        else:
            _add(by_user, a, r, q, i, d)
            by_user[a, d] += r
    return loss + np.log(product)


@compiled
def _say_of_taste(item: Rows, items: Side, n_slots: int, shared: Rows, common: Floats) -> None:
    """Add to `common` (1, d + 1) what items say of the taste, and to them what it says of them."""
    weights, taste, gradients, rows = item.weights, shared.weights, items.gradients, items.rows
    d = weights.shape[1] - 1
    for slot in range(n_slots):
        residual = gradients[slot, d]
        _add(common, 0, residual, weights, rows[slot], d)
        _add(gradients, slot, residual, taste, 0, d)
        common[0, d] += residual


@compiled
def _move(
    table: Rows, side: Side, n_slots: int, n_pulled: int, least: int, n: int, rate: Rate
) -> None:
    """Close the slots; move those rows that are pulled or have at least `least` of `n` events."""
    weights, mean, square, n_steps = table.weights, table.mean, table.square, table.n_steps
    slots, n_events, rows, counts = table.slots, table.n_events, side.rows, side.counts
    gradients, first, second = side.gradients, rate.first, rate.second
    step, l2_factor, l2_bias = rate.learning_rate, table.l2_factor, table.l2_bias
    last = len(first) - 1
    for slot in range(n_slots):
        row = rows[slot]
        slots[row] = -1
        if slot >= n_pulled and counts[slot] < least:
            continue
        if least == 1:
            ahead = rows[min(slot + _AHEAD_ROWS, n_slots - 1)]
            _fetch(weights, ahead)
            _fetch(mean, ahead)
            _fetch(square, ahead)
        # Of the penalty of a row, its events in the batch pay their part; a pull pays none.
        share = np.float32(counts[slot] / (n * max(n_events[row], 1)))
        at = _next(n_steps, row, last)
        by_factor, by_bias = share * l2_factor, share * l2_bias
        rate_now, second_now = step * first[at], second[at]
        _adam(weights, mean, square, row, gradients, slot, by_factor, by_bias, rate_now, second_now)


@compiled
def _step(
    places: Ints,
    labels: Floats,
    events: Events,
    user: Rows,
    item: Rows,
    shared: Rows,
    users: Side,
    items: Side,
    user_pulls: Pulls,
    item_pulls: Pulls,
    rate: Rate,
) -> float:
    """One minibatch: every row that it touches moves once; the mean cross-entropy before."""
    n = len(places)
    for k in range(n):
        users.wanted[k] = events.users[places[k]]
        items.wanted[k] = events.items[places[k]]
        labels[k] = events.labels[places[k]]
    n_pulled = len(user_pulls.rows)
    n_users = _open(user, users, n, user_pulls, 2)
    n_items = _open(item, items, n, item_pulls, 1)
    _take_bases(item, items, n_items, shared)
    loss = _learn_events(user, item, users, items, labels[:n], n_pulled, rate)
    common = np.zeros((1, shared.weights.shape[1]), np.float32)
    _say_of_taste(item, items, n_items, shared, common)
    _move(item, items, n_items, len(item_pulls.rows), 1, n, rate)
    _move(user, users, n_users, n_pulled, 2, n, rate)
    # The penalty of the shared row is spread over all events: every step pays its part.
    at = _next(shared.n_steps, 0, len(rate.first) - 1)
    _adam(
        shared.weights,
        shared.mean,
        shared.square,
        0,
        common,
        0,
        shared.l2_factor,
        shared.l2_bias,
        rate.learning_rate * rate.first[at],
        rate.second[at],
    )
    return loss / n


@compiled
def steps(
    order: Ints,
    bounds: Ints,
    events: Events,
    user: Rows,
    item: Rows,
    shared: Rows,
    users: Side,
    items: Side,
    user_pulls: Pulls,
    item_pulls: Pulls,
    rate: Rate,
) -> float:
    """One step after another; the pulls belong to the first. The sum of the steps' losses.

    Args:
        order: (n,) places of events.
        bounds: (n_steps + 1,) where each step begins in `order`, and where the last ends.
        events: all of them.
        user: the table of users.
        item: the table of items.
        shared: (1, d + 1) taste and global bias.
        users: room for a step.
        items: likewise.
        user_pulls: on user factors.
        item_pulls: on item factors.
        rate: of Adam.
    """
    labels = np.empty(len(users.wanted), np.float32)
    nobody = Pulls(user_pulls.rows[:0], user_pulls.gradients[:0])
    nothing = Pulls(item_pulls.rows[:0], item_pulls.gradients[:0])
    loss = 0.0
    for k in range(len(bounds) - 1):
        places = order[bounds[k] : bounds[k + 1]]
        of_users = user_pulls if k == 0 else nobody
        of_items = item_pulls if k == 0 else nothing
        loss += _step(
            places, labels, events, user, item, shared, users, items, of_users, of_items, rate
        )
    return loss
