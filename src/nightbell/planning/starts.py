"""Orders to begin a search with: equal slots, greedy by value per time, insertion by weight. Deterministic: ties go to the lower index."""

from __future__ import annotations

import bisect

import numpy as np
from scipy.optimize import linear_sum_assignment

from nightbell.planning.constraints import CELL_S
from nightbell.planning.packing import TINY, Night, Timed

__all__ = ["greedy", "inserted", "slots"]


def slots(night: Night) -> list[int]:
    """Equal slots, items assigned to them so that the sum of values is largest (Hungarian); the order of the slots."""
    problem = night.problem
    length = max(1.0, float(np.mean(problem.block_s + problem.first_s)) / CELL_S)
    nodes = np.arange(0.0, night.t, length).astype(np.int64)
    # Beyond half as many again as there are slots, the least promising cannot win one.
    most = int(1.5 * len(nodes)) + 20
    reduced = problem.value.max(axis=1) - night.price.mean() * night.least_cells
    chosen = np.sort(np.argsort(-reduced, kind="stable")[:most])
    gain = problem.value[np.ix_(chosen, nodes)]
    rows, columns = linear_sum_assignment(gain, maximize=True)
    pairs = sorted((int(c), int(chosen[r])) for r, c in zip(rows, columns, strict=True) if gain[r, c] > 0)
    return [item for _, item in pairs]


def greedy(night: Night) -> Timed:
    """At each moment the item of most value per second; time goes on by a cell when there is none."""
    free_s, before = 0.0, None
    left = np.ones(night.n, dtype=bool)
    rows = np.arange(night.n)
    items: list[int] = []
    cells: list[int] = []
    while left.any() and free_s < night.t * CELL_S:
        k = np.minimum(np.ceil((free_s + night.changes_s(before)) / CELL_S - TINY).astype(np.int64), night.t)
        now = left & (k < night.t) & (night.next_start[rows, k] == k)
        if not now.any():
            free_s = (free_s // CELL_S + 1) * CELL_S
            continue
        value = np.where(now, night.problem.value[rows, np.minimum(k, night.t - 1)], 0.0)
        density = value / (k * CELL_S + night.problem.block_s - free_s)
        item = int(density.argmax())
        items.append(item)
        cells.append(int(k[item]))
        left[item] = False
        free_s, before = night.end_s(item, cells[-1]), item
    return Timed(tuple(items), tuple(cells))


def inserted(night: Night) -> Timed:
    """By falling worth: each item at its best free time, with the transitions before and after it."""
    problem = night.problem
    placed: list[tuple[int, int]] = []
    """(cell, item), in order of time."""
    times_s = np.arange(night.t) * CELL_S
    for item in np.argsort(-problem.value.max(axis=1), kind="stable").tolist():
        starts = np.array([cell for cell, _ in placed], dtype=np.int64)
        who = np.array([one for _, one in placed], dtype=np.int64)
        # Between which two of the placed each cell lies.
        at = np.searchsorted(starts, np.arange(night.t), side="right")
        free_s = np.concatenate([[problem.first_s[item]], starts * CELL_S + problem.block_s[who] + problem.transition_s[who, item]])
        until_s = np.concatenate([starts * CELL_S - problem.transition_s[item, who], [np.inf]])
        fits = (times_s >= free_s[at] - TINY) & (times_s + problem.block_s[item] <= until_s[at] + TINY)
        value = np.where(fits, problem.value[item], 0.0)
        best = int(value.argmax()) if night.t else 0
        if night.t and value[best] > 0:
            bisect.insort(placed, (best, item))
    return Timed(tuple(item for _, item in placed), tuple(cell for cell, _ in placed))
