"""Which galaxy is the host: cells of the map times galaxies of the catalogue. Pure; a million galaxies in milliseconds.

For galaxy g in map row i, with v = s_i^2 + e_g^2,

    S_g = rho_i N_i exp(-(d_g - mu_i)^2 / 2v) / sqrt(2 pi v)          [1/sr/Mpc^3]

is the map's density convolved with the galaxy's distance error. No r^2: the map's prior already is uniform in volume, and a
catalogue's number of galaxies already grows as r^2. With a weight w per galaxy and C, the probability that the host is in the
catalogue at all, P_g = C w_g S_g / sum(w S), the sum running over every galaxy, and 1 - C is "not in the catalogue".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from nightbell.alerts.catalog import SHELL_MPC, Catalog, Weight
from nightbell.alerts.skymap import SkyMap

__all__ = ["BEYOND_BELOW", "RankedGalaxy", "Ranking", "probability_in_catalog", "rank_galaxies"]

Array = NDArray[np.float64]
IGNORED_PROBABILITY = 1e-6
"""Rows that together hold less than this of the 2-D probability are not searched."""
BEYOND_BELOW = 0.1
"""Below this completeness (or beyond BEYOND_MPC) galaxies say little: point at tiles instead."""
BEYOND_MPC = 500.0
_MEASURE = {"K": "a K magnitude", "B": "a B magnitude", "mass": "a mass", "none": "number alone"}
RANGE_2D_MPC = (0.0, 200.0)
"""Without distances in the map, galaxies of this range count, and all alike."""


@dataclass(frozen=True)
class RankedGalaxy:
    """One galaxy of the list, with all that its place in it comes from."""

    rank: int
    name: str
    ra_deg: float
    dec_deg: float
    dist_mpc: float
    prob_density_per_sr: float
    credible_level_2d: float
    density_per_mpc3: float | None
    score_per_sr_mpc: float
    credible_level_3d: float | None
    p_host: float
    weight: float


@dataclass(frozen=True)
class Ranking:
    """The list, and what lies outside it."""

    galaxies: tuple[RankedGalaxy, ...]
    not_in_catalog: float
    beyond_catalog: bool
    n_scored: int
    """Galaxies with a score above 0; p_host and not_in_catalog of all of them sum to 1."""
    completeness: dict[str, float | None]
    """c at the 5, 50 and 95 % distances."""
    weight: Weight
    """That was used: not the one asked for when no galaxy has that."""
    warnings: tuple[str, ...] = ()


def rank_galaxies(
    sky: SkyMap, catalog: Catalog, *, weight: Weight = "K", top: int = 200, range_2d_mpc: tuple[float, float] = RANGE_2D_MPC
) -> Ranking:
    """The `top` most probable hosts, best first; ties are broken by name."""
    warnings: list[str] = []
    dropped = sum(n for what, n in catalog.counts.items() if what.startswith("dropped"))
    if dropped:
        warnings.append(f"{dropped:,} rows of the catalogue are not used: " + _reasons(catalog.counts))
    if catalog.usable(weight) != weight:
        warnings.append(f"no galaxy of the catalogue has {_MEASURE[weight]}: weighted by {_MEASURE[catalog.usable(weight)]} instead")
        weight = catalog.usable(weight)
    index, row = _candidates(sky, catalog)
    score = _score_3d(sky, catalog, index, row) if sky.has_distance else _score_2d(sky, catalog, index, row, range_2d_mpc)
    light = catalog.weights(weight)[index]
    product = light * score
    total = float(product.sum())
    held, at_distances, d50_mpc = _held(sky, catalog, weight, range_2d_mpc, warnings)
    if total <= 0:
        warnings.append("no galaxy of the catalogue lies in the map")
        held = 0.0
    keep = np.flatnonzero(product > 0)
    if len(keep) > top:
        # Ties at the border are decided by name below, so all of them must still be there.
        border = np.partition(product[keep], len(keep) - top)[len(keep) - top]
        keep = keep[product[keep] >= border]
    names = [catalog.name(int(index[k])) for k in keep]
    ordered = sorted(range(len(keep)), key=lambda i: (-product[keep[i]], names[i]))[:top]
    chosen = keep[ordered]
    at, rows = index[chosen], row[chosen]
    log_q = sky.log_density(rows, np.asarray(catalog.dist_mpc[at], dtype=np.float64))
    level_3d = sky.levels_3d(log_q) if sky.has_distance else np.full(len(at), np.nan)
    level_2d = sky.levels_2d()[rows]
    galaxies = tuple(
        RankedGalaxy(
            rank=i + 1,
            name=names[ordered[i]],
            ra_deg=float(catalog.ra_deg[g]),
            dec_deg=float(catalog.dec_deg[g]),
            dist_mpc=float(catalog.dist_mpc[g]),
            prob_density_per_sr=float(sky.rho[rows[i]]),
            credible_level_2d=float(level_2d[i]),
            density_per_mpc3=math.exp(log_q[i]) if sky.has_distance else None,
            score_per_sr_mpc=float(score[chosen[i]]),
            credible_level_3d=float(level_3d[i]) if math.isfinite(level_3d[i]) else None,
            p_host=held * float(product[chosen[i]]) / total,
            weight=float(light[chosen[i]]),
        )
        for i, g in enumerate(at)
    )
    far = d50_mpc is not None and d50_mpc > BEYOND_MPC
    return Ranking(galaxies, 1.0 - held, held < BEYOND_BELOW or far, int((product > 0).sum()), at_distances, weight, tuple(warnings))


def _reasons(counts: Mapping[str, int]) -> str:
    told = sorted(((n, what.removeprefix("dropped: ")) for what, n in counts.items() if what.startswith("dropped")), reverse=True)
    return ", ".join(f"{what} {n:,}" for n, what in told)


def probability_in_catalog(
    sky: SkyMap, catalog: Catalog, *, weight: Weight = "K", range_2d_mpc: tuple[float, float] = RANGE_2D_MPC
) -> float:
    """C of the top of this file: how probable it is that the host is one of the catalogue's galaxies."""
    return _held(sky, catalog, weight, range_2d_mpc, [])[0]


def _candidates(sky: SkyMap, catalog: Catalog) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(galaxy, map row) of every galaxy in the rows that matter: one slice of the sorted catalogue per row."""
    likely = np.argsort(-sky.rho, kind="stable")
    running = np.cumsum(sky.probability[likely])
    rows = np.sort(likely[: int(np.searchsorted(running, 1 - IGNORED_PROBABILITY)) + 1])
    rows = rows[sky.rho[rows] > 0]
    start = np.searchsorted(catalog.cell, sky.first[rows], side="left")
    count = np.searchsorted(catalog.cell, sky.beyond[rows], side="left") - start
    occupied = count > 0
    rows, start, count = rows[occupied], start[occupied], count[occupied]
    offset = np.repeat(start - (np.cumsum(count) - count), count)
    return (np.arange(int(count.sum())) + offset).astype(np.int64), np.repeat(rows, count).astype(np.int64)


def _score_3d(sky: SkyMap, catalog: Catalog, index: NDArray[np.int64], row: NDArray[np.int64]) -> Array:
    assert sky.mu_mpc is not None
    assert sky.sigma_mpc is not None
    assert sky.norm is not None
    score = np.zeros(len(index))
    known = sky.with_distance[row]
    i, g = row[known], index[known]
    d, e = np.asarray(catalog.dist_mpc[g], dtype=np.float64), np.asarray(catalog.dist_err_mpc[g], dtype=np.float64)
    mu, s = sky.mu_mpc[i], sky.sigma_mpc[i]
    v = s * s + e * e
    # ln(rho N) inside the exponent: N alone may be 1e69 where mu/s is very negative.
    log_score = np.log(sky.rho[i]) + np.log(sky.norm[i]) - (d - mu) ** 2 / (2 * v) - 0.5 * np.log(2 * math.pi * v)
    value = np.exp(log_score)
    # The convolution above runs over all distances, the galaxy has a positive one: matters only for the nearest.
    with np.errstate(divide="ignore", invalid="ignore"):
        t, m = s * e / np.sqrt(v), (mu * e * e + d * s * s) / v
        upper, lower = np.where(t > 0, m / t, np.inf), np.where(e > 0, d / e, np.inf)
    near = np.minimum(upper, lower) < 4
    value[near] *= ndtr(upper[near]) / ndtr(lower[near])
    score[known] = value
    return score


def _score_2d(sky: SkyMap, catalog: Catalog, index: NDArray[np.int64], row: NDArray[np.int64], range_mpc: tuple[float, float]) -> Array:
    d = np.asarray(catalog.dist_mpc[index], dtype=np.float64)
    return np.where((d >= range_mpc[0]) & (d <= range_mpc[1]), sky.rho[row], 0.0)


def _held(
    sky: SkyMap, catalog: Catalog, weight: Weight, range_2d_mpc: tuple[float, float], warnings: list[str]
) -> tuple[float, dict[str, float | None], float | None]:
    """(C, c at the 5/50/95 % distances, median distance)."""
    table = catalog.completeness(weight)
    if table is None:
        warnings.append("the catalogue has no magnitudes: how complete it is stays unknown, and is taken as complete")
        return 1.0, {"at_5": None, "at_50": None, "at_95": None}, None
    edges = np.arange(len(table) + 1, dtype=np.float64) * SHELL_MPC
    inside = catalog.covers(sky.order, sky.cell)
    if not sky.has_distance:
        low, high = range_2d_mpc
        cut = np.clip(edges, low, high)
        share = np.diff(cut**3) / (high**3 - low**3)
        covered = 1.0 if inside is None else float(sky.probability[inside].sum())
        return float(np.clip(covered * (table @ share), 0, 1)), {"at_5": None, "at_50": None, "at_95": None}, None
    last = int(np.searchsorted(-table, -1e-4)) + 1  # shells that hold nothing need no integral
    last = min(last, len(table))
    reached = sky.probability_within(edges[: last + 1], rows=inside)
    held = float(np.clip(table[:last] @ np.diff(reached), 0, 1))
    quantiles = sky.distance_quantiles()
    at: dict[str, float | None] = {}
    for name, distance in zip(("at_5", "at_50", "at_95"), quantiles, strict=True):
        shell = int(distance // SHELL_MPC)
        at[name] = float(table[shell]) if shell < len(table) else 0.0
    return held, at, quantiles[1]


def as_json(galaxy: RankedGalaxy) -> dict[str, Any]:
    """As `alert rank --json` prints it."""
    return {
        "rank": galaxy.rank,
        "name": galaxy.name,
        "ra_deg": galaxy.ra_deg,
        "dec_deg": galaxy.dec_deg,
        "dist_mpc": galaxy.dist_mpc,
        "prob_density_per_sr": galaxy.prob_density_per_sr,
        "credible_level_2d": galaxy.credible_level_2d,
        "density_per_mpc3": galaxy.density_per_mpc3,
        "score_per_sr_mpc": galaxy.score_per_sr_mpc,
        "credible_level_3d": galaxy.credible_level_3d,
        "p_host": galaxy.p_host,
        "weight": galaxy.weight,
    }
