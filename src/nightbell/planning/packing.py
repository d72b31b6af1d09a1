"""The night of a scheduling problem: what fits when, packed as soon as possible, and what free time is worth.

problem   items i with block lengths and values v_i(k) if begun at cell k (0: may not); transitions s_ij in seconds; choose an
          ordered subset and starts t_{k+1} >= t_k + d + s that make the sum of values largest
price     mu(t), the worth of a second (bound.py): what makes a short item beside the last one dearer than it looks
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nightbell.planning.bound import least_cells, prices
from nightbell.planning.constraints import CELL_S

__all__ = ["LONGEST_WAIT_CELLS", "TINY", "Night", "Problem", "Timed"]

Array = NDArray[np.float64]
Cells = NDArray[np.int64]
LONGEST_WAIT_CELLS = 15
TINY = 1e-9


@dataclass(frozen=True)
class Problem:
    """N items on T cells of `CELL_S` seconds."""

    value: Array
    """(N, T): worth of item i begun at cell k; 0 where it may not begin."""
    block_s: Array
    """(N,)"""
    transition_s: Array
    """(N, N): from the end of i to the start of j."""
    first_s: Array
    """(N,): from the beginning to the start of i."""


@dataclass(frozen=True)
class Timed:
    """Items in order with the cells at which they begin."""

    items: tuple[int, ...] = ()
    cells: tuple[int, ...] = ()


class Night:
    """A problem with what is needed again and again: next possible starts, prices, the worth of the time that is left."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.n, self.t = problem.value.shape
        self.least_cells: Cells = least_cells(problem.block_s, problem.transition_s)
        """(N,): the least time that each item takes from the others."""
        marks = np.where(problem.value > 0, np.arange(self.t)[None, :], self.t)
        ahead = np.minimum.accumulate(marks[:, ::-1], axis=1)[:, ::-1]
        self.next_start: Cells = np.concatenate([ahead, np.full((self.n, 1), self.t)], axis=1).astype(np.int64)
        """(N, T + 1): the first cell >= k at which i may begin; T when there is none."""
        # Plain lists: one number at a time is read a hundred thousand times, and numpy is slow at that.
        self._next: list[list[int]] = self.next_start.tolist()
        self._value: list[list[float]] = problem.value.tolist()
        self._transition_s: list[list[float]] = problem.transition_s.tolist()
        self._block_s: list[float] = problem.block_s.tolist()
        self._first_s: list[float] = problem.first_s.tolist()
        # Any plan is a target for the prices; a better one only makes them settle sooner.
        dearest = np.argsort(-problem.value.max(axis=1, initial=0.0), kind="stable").tolist()
        self.price = prices(problem.value, self.least_cells, self.worth(self.pack(dearest)))
        self.left = np.concatenate([np.cumsum(self.price[::-1])[::-1], [0.0]])
        """Worth, at the price of time, of everything from cell k to the end."""

    @property
    def dark_cells(self) -> int:
        """E: cells in which anything may begin."""
        return int(np.count_nonzero(self.problem.value.any(axis=0)))

    def change_s(self, before: int | None, item: int) -> float:
        """From the end of `before` (None: the beginning) to the start of `item`."""
        return self._first_s[item] if before is None else self._transition_s[before][item]

    def changes_s(self, before: int | None) -> Array:
        """(N,): the same to every item."""
        row: Array = self.problem.first_s if before is None else self.problem.transition_s[before]
        return row

    def end_s(self, item: int, cell: int) -> float:
        """Seconds from the beginning when `item`, begun at `cell`, ends."""
        return cell * CELL_S + self._block_s[item]

    def start(self, item: int, before: int | None, free_s: float, wait: int) -> int | None:
        """The cell at which `item` begins when the telescope is free at `free_s`; None: not within `wait` cells."""
        k = math.ceil((free_s + self.change_s(before, item)) / CELL_S - TINY)
        if k >= self.t:
            return None
        found = self._next[item][k]
        return found if found < self.t and found - k <= wait else None

    def pack(self, order: Sequence[int]) -> Timed:
        """As soon as possible in this order; an item that cannot begin within a quarter of an hour is dropped."""
        items: list[int] = []
        cells: list[int] = []
        free_s = 0.0
        before: int | None = None
        for item in order:
            k = self.start(item, before, free_s, LONGEST_WAIT_CELLS if items else self.t)
            if k is None:
                continue
            items.append(item)
            cells.append(k)
            free_s, before = self.end_s(item, k), item
        return Timed(tuple(items), tuple(cells))

    def worth(self, timed: Timed) -> float:
        """The sum of values."""
        return float(sum(self._value[i][k] for i, k in zip(timed.items, timed.cells, strict=True)))

    def phi(self, timed: Timed) -> float:
        """Worth, and the time that is left at its price: free time is worth something."""
        if not timed.items:
            return float(self.left[0])
        end = math.ceil(self.end_s(timed.items[-1], timed.cells[-1]) / CELL_S - TINY)
        return self.worth(timed) + float(self.left[min(end, self.t)])

    def price_at(self, free_s: float, price: Array) -> float:
        """Of a second at that instant; nothing beyond the end."""
        k = int(free_s // CELL_S)
        return float(price[k]) / CELL_S if k < self.t else 0.0

    def values_from(self, free_s: float, before: int | None) -> Array:
        """(N,): the value of each item begun as soon as it can after `before`; 0 when not within a quarter of an hour."""
        k = np.minimum(np.ceil((free_s + self.changes_s(before)) / CELL_S - TINY).astype(np.int64), self.t)
        rows = np.arange(self.n)
        found = self.next_start[rows, k]
        soon = (found < self.t) & (found - k <= LONGEST_WAIT_CELLS)
        return np.where(soon, self.problem.value[rows, np.minimum(found, self.t - 1)], 0.0)
