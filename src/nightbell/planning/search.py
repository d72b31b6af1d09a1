"""From an order to a better one: price-guided local search, alternating assignment, filling of gaps, re-timing.

Each works on orders and is judged by `Night.phi` or `Night.worth` after packing, so that nothing is kept on an estimate alone.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from nightbell.planning.constraints import CELL_S
from nightbell.planning.packing import TINY, Array, Night, Timed

__all__ = ["alternate", "fill", "local", "retime"]

MOST_EVALUATIONS = 1500
REVERSE_SPAN = 24
MOST_ROUNDS = 6
MOST_FILLED = 40


def local(night: Night, order: list[int], price: Array) -> Timed:
    """Position by position the change of best estimated gain, kept when phi rises, until a pass changes nothing.

    `price` (per cell) guides the estimates; a little above the true one it keeps the search from filling time that is worth more.
    """
    timed = night.pack(order)
    best = night.phi(timed)
    evaluations = 0
    changed = True
    while changed and evaluations < MOST_EVALUATIONS:
        changed = False
        k = 0
        while k <= len(timed.items) and evaluations < MOST_EVALUATIONS:
            gain, candidate = max(_changes(night, timed, k, price), key=lambda one: one[0], default=(0.0, []))
            k += 1
            if gain <= TINY * max(1.0, abs(best)):
                continue
            evaluations += 1
            packed = night.pack(candidate)
            found = night.phi(packed)
            if found > best + TINY * max(1.0, abs(best)):
                timed, best, changed = packed, found, True
                k = max(0, k - 2)
    return timed


def _changes(night: Night, timed: Timed, k: int, price: Array) -> Iterator[tuple[float, list[int]]]:
    """(estimated gain, order) of the best replacement, insertion, move and reversal at position k."""
    items = list(timed.items)
    n, problem = len(items), night.problem
    before = items[k - 1] if k else None
    here = items[k] if k < n else None
    after = items[k + 1] if k + 1 < n else None
    free_s = night.end_s(before, timed.cells[k - 1]) if before is not None else 0.0
    m = night.price_at(free_s, price)
    value = night.values_from(free_s, before)
    into = night.changes_s(before)
    is_out = np.ones(night.n, dtype=bool)
    is_out[items] = False
    out = is_out & (value > 0)
    if here is not None:
        to_here = problem.transition_s[:, here]
        into_here = night.change_s(before, here)
    else:
        to_here, into_here = np.zeros(night.n), 0.0
    if out.any():
        gain = np.where(out, value - m * (into + to_here + problem.block_s - into_here), -np.inf)
        u = int(gain.argmax())
        yield float(gain[u]), [*items[:k], u, *items[k:]]
        if here is not None:
            to_after = problem.transition_s[:, after] if after is not None else np.zeros(night.n)
            freed_s = into_here + float(to_after[here]) + float(problem.block_s[here])
            had = float(problem.value[here, timed.cells[k]])
            gain = np.where(out, value - had - m * (into + to_after + problem.block_s - freed_s), -np.inf)
            u = int(gain.argmax())
            yield float(gain[u]), [*items[:k], u, *items[k + 1 :]]
    if here is None:
        return
    yield from _moves(night, timed, k, price, value - m * (into + to_here - into_here))
    last = min(n, k + REVERSE_SPAN)
    if last > k + 1:
        ends = np.array(items[k + 1 : last])
        nexts = [items[q + 1] if q + 1 < n else None for q in range(k + 1, last)]
        leave = np.array([0.0 if one is None else problem.transition_s[q, one] for q, one in zip(ends, nexts, strict=True)])
        enter = np.array([0.0 if one is None else problem.transition_s[here, one] for one in nexts])
        gain = m * (into_here + leave - into[ends] - enter)
        q = int(gain.argmax())
        yield float(gain[q]), [*items[:k], *items[k : k + q + 2][::-1], *items[k + q + 2 :]]


def _moves(night: Night, timed: Timed, k: int, price: Array, here_gain: Array) -> Iterator[tuple[float, list[int]]]:
    """The best move of an item from elsewhere to before position k."""
    items = list(timed.items)
    best: tuple[float, int] | None = None
    for q, item in enumerate(items):
        if q in (k - 1, k) or here_gain[item] <= 0:
            continue
        a, b = (items[q - 1] if q else None), (items[q + 1] if q + 1 < len(items) else None)
        freed_s = night.change_s(a, item)
        if b is not None:
            freed_s += night.change_s(item, b) - night.change_s(a, b)
        at_q = night.price_at(timed.cells[q] * CELL_S, price)
        gain = float(here_gain[item]) - float(night.problem.value[item, timed.cells[q]]) + at_q * freed_s
        if best is None or gain > best[0]:
            best = gain, q
    if best is not None:
        gain, q = best
        rest = items[:q] + items[q + 1 :]
        at = k - 1 if q < k else k
        yield gain, [*rest[:at], items[q], *rest[at:]]


def alternate(night: Night, timed: Timed) -> Timed:
    """Every second position is free, its neighbours fixed: the best assignment of items to the free ones; then the others."""
    best, worth = timed, night.worth(timed)
    for r in range(MOST_ROUNDS):
        items = list(best.items)
        free = list(range(r % 2, len(items), 2))
        if not free:
            break
        gain = np.zeros((len(free), night.n))
        fixed = np.ones(night.n, dtype=bool)
        fixed[[i for n, i in enumerate(items) if n % 2 != r % 2]] = False
        for row, k in enumerate(free):
            before, after = (items[k - 1] if k else None), (items[k + 1] if k + 1 < len(items) else None)
            free_s = night.end_s(before, best.cells[k - 1]) if before is not None else 0.0
            used_s = night.changes_s(before) + night.problem.block_s
            if after is not None:
                used_s = used_s + night.problem.transition_s[:, after]
            value = night.values_from(free_s, before)
            gain[row] = np.where(fixed & (value > 0), value - night.price_at(free_s, night.price) * used_s, 0.0)
        # Columns of nothing at all, so that a position may stay empty.
        rows, columns = linear_sum_assignment(np.hstack([np.maximum(gain, 0.0), np.zeros((len(free), len(free)))]), maximize=True)
        chosen: list[int | None] = list(items)
        for row, column in zip(rows, columns, strict=True):
            chosen[free[row]] = int(column) if column < night.n and gain[row, column] > 0 else None
        found = fill(night, night.pack([one for one in chosen if one is not None]))
        if night.worth(found) > worth * (1 + TINY):
            best, worth = found, night.worth(found)
    return best


def fill(night: Night, timed: Timed) -> Timed:
    """What is not in, into the gaps between the earliest end of one item and the latest start of the next; best first, again and again."""
    worth = night.worth(timed)
    for _ in range(MOST_FILLED):
        order = _filled_once(night, timed, worth)
        if order is None:
            return timed
        timed = order
        worth = night.worth(timed)
    return timed


def _filled_once(night: Night, timed: Timed, worth: float) -> Timed | None:
    """With one more item, where that makes it worth more."""
    items = timed.items
    packed = night.pack(items)
    if packed.items != items:
        return None
    latest_s = _latest_starts_s(night, items)
    out = np.ones(night.n, dtype=bool)
    out[list(items)] = False
    tries: list[tuple[float, int, int]] = []
    for k in range(len(items) + 1):
        before, after = (items[k - 1] if k else None), (items[k] if k < len(items) else None)
        free_s = night.end_s(before, packed.cells[k - 1]) if before is not None else 0.0
        first = np.minimum(np.ceil((free_s + night.changes_s(before)) / CELL_S - TINY).astype(np.int64), night.t)
        cell = night.next_start[np.arange(night.n), first]
        to_next = night.problem.transition_s[:, after] if after is not None else 0.0
        until_s = latest_s[k] if after is not None else np.inf
        fits = out & (cell < night.t) & (cell * CELL_S + night.problem.block_s + to_next <= until_s + TINY)
        if fits.any():
            value = np.where(fits, night.problem.value[np.arange(night.n), np.minimum(cell, night.t - 1)], 0.0)
            u = int(value.argmax())
            tries.append((float(value[u]), -k, u))
    for _, minus_k, u in sorted(tries, reverse=True):
        found = night.pack([*items[:-minus_k], u, *items[-minus_k:]] if minus_k else [u, *items])
        if night.worth(found) > worth * (1 + TINY):
            return found
    return None


def _latest_starts_s(night: Night, items: tuple[int, ...]) -> list[float]:
    """Of each item, when everything is pushed as late as it can be."""
    until_s = np.inf
    latest: list[float] = []
    for n in range(len(items) - 1, -1, -1):
        item = items[n]
        possible = np.flatnonzero(night.problem.value[item] > 0)
        last_s = until_s - float(night.problem.block_s[item])
        if n + 1 < len(items):
            last_s -= night.change_s(item, items[n + 1])
        possible = possible[possible * CELL_S <= last_s + TINY]
        until_s = float(possible[-1]) * CELL_S if possible.size else -np.inf
        latest.append(until_s)
    return latest[::-1]


def retime(night: Night, items: tuple[int, ...]) -> Timed | None:
    """The best cells for a fixed order, by dynamic programming; None when it does not fit whole."""
    if not items:
        return Timed()
    best: list[NDArray[np.float64]] = []
    shifts = [0]
    for n, item in enumerate(items):
        reach = np.full(night.t, -np.inf)
        if n == 0:
            reach[min(night.t, int(np.ceil(night.change_s(None, item) / CELL_S - TINY))) :] = 0.0
        else:
            shift = int(np.ceil((night.end_s(items[n - 1], 0) + night.change_s(items[n - 1], item)) / CELL_S - TINY))
            shifts.append(shift)
            if shift < night.t:
                reach[shift:] = np.maximum.accumulate(best[-1])[: night.t - shift]
        best.append(np.where(night.problem.value[item] > 0, reach + night.problem.value[item], -np.inf))
    if not np.isfinite(best[-1].max()):
        return None
    cells = [int(best[-1].argmax())]
    for n in range(len(items) - 1, 0, -1):
        cells.append(int(best[n - 1][: cells[-1] - shifts[n] + 1].argmax()))
    return Timed(items, tuple(cells[::-1]))
