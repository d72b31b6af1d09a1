"""Order and times of a night. Deterministic: fixed numbers of steps, ties by index, no wall clock.

    starts    slots by assignment, greedy by value per time, insertion by worth, the plan before this one   starts.py
    local     replace, insert, move, reverse where the price of time says that it pays                      search.py
    alternate every second position by assignment
    fill      whatever still fits into gaps
    re-time   the order fixed, the best instants by dynamic programming; a handful of items in every order

The best of all candidates is returned, the raw starts included: never worse than any of them, nor than the plan before.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from nightbell.planning.bound import bound_of
from nightbell.planning.constraints import CELL_S
from nightbell.planning.packing import Array, Night, Problem, Timed
from nightbell.planning.search import alternate, fill, local, retime
from nightbell.planning.starts import greedy, inserted, slots

__all__ = ["Problem", "Schedule", "solve"]

FEW = 5
"""So few items are tried in every order: the best plan is found, not only a good one."""
SATURATED = 0.85
"""Share of the night from which the blocks crowd each other out, and the price of time decides."""


@dataclass(frozen=True)
class Schedule:
    """Items in order with their starting cells; `bound`: no schedule is worth more."""

    items: tuple[int, ...]
    cells: tuple[int, ...]
    value: float
    bound: float
    price: Array


def solve(problem: Problem, *, before: Sequence[int] = ()) -> Schedule:
    """The best schedule found, and a bound on what any could be worth. `before`: the order of the previous plan, a further start."""
    night = Night(problem)
    if night.n == 0 or not problem.value.any():
        return Schedule((), (), 0.0, 0.0, night.price)
    starts = [night.pack(slots(night)), greedy(night), inserted(night)]
    if before:
        starts.append(night.pack(before))
    found = list(starts)
    if float((problem.block_s + problem.first_s).sum()) > SATURATED * night.dark_cells * CELL_S:
        found += [local(night, list(one.items), price) for one in starts for price in _guides(night, starts)]
    ahead = sorted(range(len(found)), key=lambda n: (-night.worth(found[n]), n))[:2]
    if night.n <= FEW:
        found += [timed for order in _orders(night.n) if (timed := retime(night, order)) is not None]
    found += [fill(night, alternate(night, fill(night, found[n]))) for n in ahead]
    found += [timed for one in list(found) if (timed := retime(night, one.items)) is not None]
    best = max(found, key=lambda one: round(night.worth(one), 12))
    value = night.worth(best)
    return Schedule(best.items, best.cells, value, max(value, bound_of(problem.value, night.least_cells, night.price)), night.price)


def _orders(n: int) -> Iterator[tuple[int, ...]]:
    """Every order of every choice of items."""
    return itertools.chain.from_iterable(itertools.permutations(range(n), k) for k in range(1, n + 1))


def _guides(night: Night, starts: Sequence[Timed]) -> tuple[Array, Array]:
    """Two prices per cell to search by: the dual one, and a dearer one that keeps time free longer."""
    usual = max(night.worth(one) for one in starts) / max(1, night.dark_cells)
    return np.maximum(night.price, 0.25 * usual), np.maximum(1.3 * night.price, 0.5 * usual)
