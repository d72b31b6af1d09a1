"""Order and times of a night: several starts, price-guided local search, re-timing. Deterministic.

    problem   items i with block lengths and values v_i(k) if begun at cell k (0: may not); transitions s_ij in seconds; choose an
              ordered subset and starts t_{k+1} >= t_k + d + s that make the sum of values largest
    starts    slots by assignment (Hungarian), greedy by value per time, insertion by weight, the plan before this one
    search    replace, insert, move, reverse; judged by phi = sum v + worth of the time that is left at the price of time
    re-time   the order fixed, the best instants by dynamic programming
    fill      whatever still fits into gaps

The best of all candidates is returned, the raw starts included: never worse than any of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from nightbell.planning.bound import bound_of, prices
from nightbell.planning.constraints import CELL_S

__all__ = ["Problem", "Schedule", "solve"]

Array = NDArray[np.float64]
LONGEST_WAIT_CELLS = 15
MOST_EVALUATIONS = 1500
REVERSE_SPAN = 24
MOST_INSERTED = 60
"""Insertion tries every place for every item; beyond so many the other starts serve."""
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
class Schedule:
    """Items in order with their starting cells; `bound`: no schedule is worth more."""

    items: tuple[int, ...]
    cells: tuple[int, ...]
    value: float
    bound: float
    price: Array


class _Solver:
    def __init__(self, problem: Problem) -> None:
        self.p = problem
        self.n, self.t = problem.value.shape
        self.cells = np.maximum(1, np.ceil(problem.block_s / CELL_S - TINY)).astype(np.int64)
        self.price = prices(problem.value, self.cells)
        self.left = np.concatenate([np.cumsum(self.price[::-1])[::-1], [0.0]])
        """Worth, at the price of time, of everything from cell k to the end."""
        # next_start[i, k]: first cell >= k at which i may begin; T when none.
        marks = np.where(problem.value > 0, np.arange(self.t)[None, :], self.t)
        self.next_start = np.minimum.accumulate(marks[:, ::-1], axis=1)[:, ::-1]
        self.evaluations = 0

    def after(self, last: int, cell: int) -> float:
        """Seconds from the beginning when item `last`, begun at `cell`, ends."""
        return cell * CELL_S + float(self.p.block_s[last])

    def start(self, item: int, last: int | None, free_s: float, wait: int) -> int | None:
        """The cell at which `item` begins when the telescope is free at `free_s` after `last`; None: not within `wait` cells."""
        ready_s = free_s + float(self.p.first_s[item] if last is None else self.p.transition_s[last, item])
        k = int(np.ceil(ready_s / CELL_S - TINY))
        if k >= self.t:
            return None
        found = int(self.next_start[item, k])
        return found if found < self.t and found - k <= wait else None

    def pack(self, order: Sequence[int], not_before: Sequence[int] | None = None) -> tuple[list[int], list[int]]:
        """As soon as possible in this order; an item that cannot begin within a quarter of an hour is dropped."""
        items: list[int] = []
        cells: list[int] = []
        free_s = 0.0
        last: int | None = None
        for n, item in enumerate(order):
            earliest_s = max(free_s, (not_before[n] * CELL_S if not_before is not None else 0.0))
            wait = self.t if not items else LONGEST_WAIT_CELLS
            k = self.start(item, last, earliest_s, wait)
            if k is None:
                continue
            items.append(item)
            cells.append(k)
            free_s, last = self.after(item, k), item
        return items, cells

    def worth(self, items: Sequence[int], cells: Sequence[int]) -> float:
        return float(sum(self.p.value[i, k] for i, k in zip(items, cells, strict=True)))

    def phi(self, items: Sequence[int], cells: Sequence[int]) -> float:
        """Worth, and the time that is left at its price: free time is worth something."""
        self.evaluations += 1
        end = int(np.ceil(self.after(items[-1], cells[-1]) / CELL_S)) if items else 0
        return self.worth(items, cells) + float(self.left[min(end, self.t)])

    # -- starts ---------------------------------------------------------------------------------------------------------

    def greedy(self) -> list[tuple[int, int]]:
        """At each moment the item of most value per second; time goes on by a cell when there is none."""
        free_s, last, left = 0.0, None, list(range(self.n))
        chosen: list[tuple[int, int]] = []
        while left and free_s < self.t * CELL_S:
            best: tuple[float, int, int] | None = None
            for item in left:
                k = self.start(item, last, free_s, 0)
                if k is not None:
                    density = float(self.p.value[item, k]) / (self.after(item, k) - free_s)
                    if best is None or density > best[0] * (1 + TINY):
                        best = (density, item, k)
            if best is None:
                free_s = (np.floor(free_s / CELL_S) + 1) * CELL_S
                continue
            _, item, k = best
            chosen.append((item, k))
            left.remove(item)
            free_s, last = self.after(item, k), item
        return chosen

    def slots(self) -> list[int]:
        """Equal slots, items assigned to them so that the sum of values is largest; the order of the slots."""
        length = max(1, int(np.ceil(float(self.cells.mean()))))
        nodes = np.arange(0, self.t, length)
        if len(nodes) * self.n > 4_000_000:
            return []
        gain = self.p.value[:, nodes]
        rows, columns = linear_sum_assignment(gain, maximize=True)
        pairs = sorted((int(c), int(r)) for r, c in zip(rows, columns, strict=True) if gain[r, c] > 0)
        return [item for _, item in pairs]

    def inserted(self) -> list[int]:
        """By falling value: each item goes where the order gains most."""
        order: list[int] = []
        best = 0.0
        for item in sorted(range(self.n), key=lambda i: (-float(self.p.value[i].max()), i)):
            tries = [([*order[:at], item, *order[at:]]) for at in range(len(order) + 1)]
            scored = [(self.worth(*self.pack(one)), -n) for n, one in enumerate(tries)]
            top, minus = max(scored)
            if top > best * (1 + TINY):
                best, order = top, tries[-minus]
        return order

    # -- search ---------------------------------------------------------------------------------------------------------

    def search(self, order: list[int]) -> list[int]:
        """Local search until nothing improves, or the evaluations are used up."""
        items, cells = self.pack(order)
        best = self.phi(items, cells)
        improved = True
        while improved and self.evaluations < MOST_EVALUATIONS:
            improved = False
            for candidate in self._neighbours(items):
                if self.evaluations >= MOST_EVALUATIONS:
                    break
                packed = self.pack(candidate)
                found = self.phi(*packed)
                if found > best + TINY * max(1.0, abs(best)):
                    items, best, improved = packed[0], found, True
                    break
        return items

    def _neighbours(self, items: list[int]) -> list[list[int]]:
        out = [i for i in range(self.n) if i not in set(items) and self.p.value[i].any()]
        out.sort(key=lambda i: (-float(self.p.value[i].max() / self.cells[i]), i))
        found = [[*items[:k], u, *items[k:]] for u in out[:20] for k in range(len(items) + 1)]
        found += [[*items[:k], u, *items[k + 1 :]] for u in out[:20] for k in range(len(items))]
        for q in range(len(items)):
            rest = items[:q] + items[q + 1 :]
            found += [[*rest[:k], items[q], *rest[k:]] for k in range(len(items)) if k != q]
        found += [
            items[:k] + items[k : q + 1][::-1] + items[q + 1 :]
            for k in range(len(items))
            for q in range(k + 2, min(len(items), k + REVERSE_SPAN))
        ]
        return found

    # -- re-timing ------------------------------------------------------------------------------------------------------

    def retime(self, items: list[int]) -> list[int] | None:
        """The best cells for a fixed order; None when it does not fit whole."""
        if not items:
            return []
        best: list[Array] = []
        for n, item in enumerate(items):
            if n == 0:
                reach = np.zeros(self.t)
                reach[: min(self.t, int(np.ceil(float(self.p.first_s[item]) / CELL_S - TINY)))] = -np.inf
            else:
                before = items[n - 1]
                shift = int(np.ceil((float(self.p.block_s[before]) + float(self.p.transition_s[before, item])) / CELL_S - TINY))
                running = np.maximum.accumulate(best[-1])
                reach = np.full(self.t, -np.inf)
                reach[shift:] = running[: self.t - shift] if shift < self.t else []
            best.append(np.where(self.p.value[item] > 0, reach + self.p.value[item], -np.inf))
        if not np.isfinite(best[-1].max()):
            return None
        cells = [int(best[-1].argmax())]
        for n in range(len(items) - 1, 0, -1):
            before, item = items[n - 1], items[n]
            shift = int(np.ceil((float(self.p.block_s[before]) + float(self.p.transition_s[before, item])) / CELL_S - TINY))
            cells.append(int(best[n - 1][: cells[-1] - shift + 1].argmax()))
        return cells[::-1]


def solve(problem: Problem, *, before: Sequence[int] = ()) -> Schedule:
    """The best schedule found, and a bound on what any could be worth. `before`: the order of the previous plan, a further start."""
    solver = _Solver(problem)
    if solver.n == 0 or not problem.value.any():
        return Schedule((), (), 0.0, 0.0, solver.price)
    greedy = solver.greedy()
    candidates: list[tuple[list[int], list[int]]] = [([i for i, _ in greedy], [k for _, k in greedy])]
    orders = [candidates[0][0], solver.slots(), list(before)]
    if solver.n <= MOST_INSERTED:
        orders.append(solver.inserted())
    for order in orders:
        if not order:
            continue
        candidates.append(solver.pack(order))
        solver.evaluations = 0
        candidates.append(solver.pack(solver.search(order)))
    for items, _ in list(candidates):
        cells = solver.retime(items)
        if cells is not None:
            candidates.append((items, cells))
    items, cells = max(candidates, key=lambda one: round(solver.worth(*one), 12))
    value = solver.worth(items, cells)
    return Schedule(tuple(items), tuple(cells), value, max(value, bound_of(problem.value, solver.cells, solver.price)), solver.price)
