"""Fields of a camera that hold most of the probability, for events no catalogue reaches.

Greedy with a lazy heap: gains only fall as fields are taken, so a popped field whose gain is still the largest is the exact
greedy choice, at least 1 - 1/e of the best possible.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from nightbell.alerts.healpix import centres_of
from nightbell.alerts.skymap import SkyMap

__all__ = ["Tile", "smallest_field_deg", "tile_map"]

Array = NDArray[np.float64]
LEVEL = 0.95
FIELD_DEG = 2.0
"""Side of a field where no camera is known."""
TILES_MAX = 200
CANDIDATES_MAX = 4000


@dataclass(frozen=True)
class Tile:
    """One field: its centre, and the probability it adds to the fields before it."""

    ra_deg: float
    dec_deg: float
    probability: float

    def as_dict(self) -> dict[str, float]:
        return {"ra_deg": self.ra_deg, "dec_deg": self.dec_deg, "probability": self.probability}


class Camera(Protocol):
    """The part of `ObservatorySettings` that this file reads."""

    @property
    def field_deg(self) -> float: ...


def smallest_field_deg(cameras: Iterable[Camera]) -> float:
    """Side of fields that fit into every camera: one list of tiles serves all observatories."""
    return min((camera.field_deg for camera in cameras), default=FIELD_DEG)


def tile_map(sky: SkyMap, *, field_deg: float = FIELD_DEG, most: int = TILES_MAX) -> tuple[Tile, ...]:
    """Square fields of side `field_deg` (edges along right ascension and declination), best first."""
    order = min(10, max(5, math.ceil(math.log2(58.6 / (field_deg / 3)))))
    cell, probability = rebin(sky, order)
    by = np.argsort(-probability, kind="stable")
    running = np.cumsum(probability[by])
    keep = by[: min(int(np.searchsorted(running, LEVEL * running[-1])) + 1, CANDIDATES_MAX)]
    cell, left = cell[keep], probability[keep].copy()
    ra, dec = centres_of(order, cell)
    order_dec = np.argsort(dec, kind="stable")
    ra, dec, left = ra[order_dec], dec[order_dec], left[order_dec]
    half = field_deg / 2
    members: dict[int, NDArray[np.int64]] = {}

    def inside(i: int) -> NDArray[np.int64]:
        if i not in members:
            low, high = np.searchsorted(dec, [dec[i] - half, dec[i] + half])
            near = np.arange(low, high)
            # Tangent plane about the centre: exact edges also near the poles.
            a, d, d0 = np.radians(ra[near] - ra[i]), np.radians(dec[near]), math.radians(dec[i])
            cosine = math.sin(d0) * np.sin(d) + math.cos(d0) * np.cos(d) * np.cos(a)
            x = np.degrees(np.cos(d) * np.sin(a) / np.maximum(cosine, 1e-9))
            y = np.degrees((math.cos(d0) * np.sin(d) - math.sin(d0) * np.cos(d) * np.cos(a)) / np.maximum(cosine, 1e-9))
            members[i] = near[(cosine > 0) & (np.abs(x) <= half) & (np.abs(y) <= half)]
        return members[i]

    heap = [(-float(left[inside(i)].sum()), i) for i in range(len(ra))]
    heapq.heapify(heap)
    tiles: list[Tile] = []
    while heap and len(tiles) < most:
        said, i = heapq.heappop(heap)
        gain = float(left[inside(i)].sum())
        if gain <= 0:
            continue
        if gain < -said * (1 - 1e-12):
            heapq.heappush(heap, (-gain, i))
            continue
        left[inside(i)] = 0.0
        tiles.append(Tile(float(ra[i]), float(dec[i]), gain))
    return tuple(tiles)


def rebin(sky: SkyMap, order: int) -> tuple[NDArray[np.int64], Array]:
    """(cells, probability) at one order: finer rows are summed, coarser ones are split evenly. Only cells with any."""
    finer = sky.order >= order
    cells = [sky.cell[finer] >> (2 * (sky.order[finer] - order))]
    parts = [sky.probability[finer]]
    # Coarse rows far from everything would become millions of empty cells: those that matter are enough.
    coarse = np.flatnonzero(~finer & (sky.levels_2d() <= LEVEL + 0.04))
    for o in np.unique(sky.order[coarse]):
        rows = coarse[sky.order[coarse] == o]
        n = 4 ** int(order - o)
        cells.append((sky.cell[rows][:, None] * n + np.arange(n)).ravel())
        parts.append(np.repeat(sky.probability[rows] / n, n))
    joined, inverse = np.unique(np.concatenate(cells), return_inverse=True)
    return joined.astype(np.int64), np.bincount(inverse, weights=np.concatenate(parts), minlength=len(joined)).astype(np.float64)
