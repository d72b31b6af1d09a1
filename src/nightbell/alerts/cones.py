"""A position with an error radius as a sky map: a mixture of Gaussians on cells fine enough for each."""

from __future__ import annotations

import math

import numpy as np

from nightbell.alerts.healpix import cell_area_sr, centres_of
from nightbell.alerts.notices.notice import Cone
from nightbell.alerts.skymap import SkyMap, make_skymap

__all__ = ["cone_map"]

CUT_SIGMA = 5.0
FINEST_ORDER = 16


def cone_map(cone: Cone) -> SkyMap:
    """Density rho ~ sum of share exp(-theta^2 / 2 sigma^2) / sigma^2, refined to a quarter of the narrowest sigma, cut at 5 sigma."""
    narrow, wide = min(sigma for _, sigma in cone.sigmas_deg), max(sigma for _, sigma in cone.sigmas_deg)
    # A cell of order o is about 58.6 / 2^o deg wide.
    deepest = min(FINEST_ORDER, max(1, math.ceil(math.log2(58.6 / (narrow / 4)))))
    order, cell = 0, np.arange(12, dtype=np.int64)
    kept_order: list[np.ndarray[tuple[int], np.dtype[np.int64]]] = []
    kept_cell: list[np.ndarray[tuple[int], np.dtype[np.int64]]] = []
    while order < deepest:
        width_deg = 58.6 / 2**order
        near = _distance_deg(cone, order, cell) < CUT_SIGMA * wide + width_deg
        if order > 2:
            kept_order.append(np.full(int((~near).sum()), order, dtype=np.int64))
            kept_cell.append(cell[~near])
        else:
            near[:] = True
        # Only the core needs the finest cells; where the wide component rules, cells follow the distance from the centre.
        fine = near & ((width_deg > wide / 4) | (_distance_deg(cone, order, cell) < CUT_SIGMA * narrow + width_deg))
        stay = near & ~fine
        kept_order.append(np.full(int(stay.sum()), order, dtype=np.int64))
        kept_cell.append(cell[stay])
        cell = (cell[fine][:, None] * 4 + np.arange(4)).ravel()
        order += 1
    kept_order.append(np.full(len(cell), order, dtype=np.int64))
    kept_cell.append(cell)
    orders, cells = np.concatenate(kept_order), np.concatenate(kept_cell)
    theta = np.concatenate([_distance_deg(cone, int(o), cells[orders == o]) for o in np.unique(orders)])
    by = np.concatenate([np.flatnonzero(orders == o) for o in np.unique(orders)])
    rho = np.zeros(len(cells))
    for share, sigma in cone.sigmas_deg:
        rho[by] += share / sigma**2 * np.exp(-0.5 * (theta / sigma) ** 2) * (theta < CUT_SIGMA * wide)
    if not rho.any():  # a radius far below the finest cell: all of it is in the cell that holds the position
        rho[by[np.argmin(theta)]] = 1.0
    return make_skymap(orders, cells, rho / float(rho @ cell_area_sr(orders)), where="cone")


def _distance_deg(cone: Cone, order: int, cell: np.ndarray[tuple[int], np.dtype[np.int64]]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    ra, dec = centres_of(order, cell)
    a, d, d0 = np.radians(ra - cone.ra_deg), np.radians(dec), math.radians(cone.dec_deg)
    half = np.sin((d - d0) / 2) ** 2 + np.cos(d) * math.cos(d0) * np.sin(a / 2) ** 2
    theta: np.ndarray[tuple[int], np.dtype[np.float64]] = np.degrees(2 * np.arcsin(np.sqrt(np.minimum(half, 1.0))))
    return theta
