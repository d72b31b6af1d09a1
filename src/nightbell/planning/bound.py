"""No plan can be worth more than this: weak duality of the time-indexed relaxation.

For any price mu(t) >= 0 of a second, with C(t) its integral from 0 to min(t, E) and p_i the least time that item i uses,

    OPT <= C(E) + sum_i max(0, max_t [ v_i(t) - (C(t + p_i) - C(t)) ])

whatever mu is; the subgradient only makes it tight. Starts lie on the grid, as the kernel's do, so the maximum over the grid is
the maximum. p_i holds the block and the shortest transition to any other item; longer ones can only cost more.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nightbell.planning.constraints import CELL_S

__all__ = ["bound_of", "least_cells", "prices"]

Array = NDArray[np.float64]
N_STEPS = 240
PRICE_CELLS = 5
"""Prices are constant over so many cells."""


def _reduced(value: Array, cells: NDArray[np.int64], price: Array) -> Array:
    """(N, T): value of each start less the price of the time it uses; -inf where it may not begin."""
    t = value.shape[1]
    total = np.concatenate([[0.0], np.cumsum(price)])
    begin = np.arange(t)[None, :]
    end = np.minimum(begin + cells[:, None], t)
    return np.where(value > 0, value - (total[end] - total[begin]), -np.inf)


def bound_of(value: Array, cells: NDArray[np.int64], price: Array) -> float:
    """The bound that `price` (per cell, T, >= 0) proves; `value` (N, T), `cells` (N,) least length of each item in cells."""
    best = _reduced(value, cells, price).max(axis=1, initial=-np.inf)
    dual = float(price.sum() + np.maximum(best, 0.0).sum())
    return min(dual, float(value.max(axis=1, initial=0.0).sum()))


def least_cells(block_s: Array, transition_s: Array) -> NDArray[np.int64]:
    """(N,): cells between the start of each item and that of any other after it: its block and its shortest transition.

    The last item of a night needs no transition; its time ends with the grid, where nothing is priced any more.
    """
    others = np.where(np.eye(len(block_s), dtype=bool), np.inf, transition_s)
    shortest = np.where(len(block_s) > 1, others.min(axis=1, initial=np.inf), 0.0)
    return np.maximum(1, np.ceil((block_s + shortest) / CELL_S - 1e-9)).astype(np.int64)


def prices(value: Array, cells: NDArray[np.int64], target: float = 0.0) -> Array:
    """Prices per cell (T,): Polyak's subgradient towards `target`, the worth of a known plan; a fixed number of steps."""
    n, t = value.shape
    if n == 0 or not value.any():
        return np.zeros(t)
    density = np.sort(value.max(axis=1) / cells)[::-1]
    load = np.cumsum(cells[np.argsort(-value.max(axis=1) / cells, kind="stable")])
    full = int(np.searchsorted(load, np.count_nonzero(value.any(axis=0))))
    price = np.where(value.any(axis=0), density[full] if full < n else 0.0, 0.0)
    best, best_bound, step, failures = price, bound_of(value, cells, price), 1.0, 0
    for k in range(N_STEPS):
        reduced = _reduced(value, cells, price)
        use = np.zeros(t + 1)
        at = reduced.argmax(axis=1)
        wanted = np.flatnonzero(reduced.max(axis=1) > 0)
        np.add.at(use, at[wanted], 1)
        np.add.at(use, np.minimum(at[wanted] + cells[wanted], t), -1)
        gradient = 1 - np.cumsum(use)[:t]
        if k < N_STEPS // 2:
            # One price for several cells keeps it from chasing single minutes at first.
            blocks = np.add.reduceat(gradient, np.arange(0, t, PRICE_CELLS))
            gradient = np.repeat(blocks, PRICE_CELLS)[:t] / PRICE_CELLS
        gradient = np.where((price > 0) | (gradient < 0), gradient, 0.0)
        norm = float((gradient**2).sum())
        if norm < 1e-12:
            break
        price = np.maximum(0.0, price - step * (bound_of(value, cells, price) - target) / norm * gradient)
        found = bound_of(value, cells, price)
        if found < best_bound * (1 - 1e-9):
            best, best_bound, failures = price, found, 0
        else:
            failures += 1
            if failures >= 4:
                price, step, failures = best, step * 0.6, 0
    return best
