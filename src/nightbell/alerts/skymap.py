"""A gravitational-wave sky map: cells of mixed size with probability and distance, never flattened.

Row i is a HEALPix nested cell of area A, with rho = PROBDENSITY (1/sr) and, where known, the distance parameters mu, s (Mpc) and
N (1/Mpc^2) of p(r | direction) = N r^2 phi((r - mu)/s) / s (Singer et al. 2016, ApJL 829, L15). Rows are sorted by the first
cell of order 29 they cover, so that a position finds its row by binary search.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from nightbell.alerts.healpix import DEEPEST, cell_area_sr, cells_of
from nightbell.contracts.errors import BadInput

__all__ = ["SkyMap", "make_skymap", "within_distance"]

Array = NDArray[np.float64]
CLOSED_FORM_FROM = -4.0
"""Below this mu/s the closed form of the distance integral cancels catastrophically (25 % wrong on S230518h)."""
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(64)
_LN_SQRT_2PI = 0.5 * math.log(2 * math.pi)
SQ_DEG_PER_SR = (180 / math.pi) ** 2
EXACT_LEVELS = 200
MOST_ROWS = 50_000
LARGEST_MPC, NARROWEST_MPC = 1e7, 1e-6
"""Distances and widths outside are no distances: the observable Universe ends at 1.4e4 Mpc."""
WRONG_SHARE, WARNED_SHARE = 3.0, 1.001
"""By what factor the distance layers may miss an integral of 1: beyond the first they say nothing, beyond the second it is told."""


@dataclass(frozen=True)
class SkyMap:
    """Sorted, disjoint cells. Arrays of one length, float64 but for the integer index."""

    order: NDArray[np.int64]
    cell: NDArray[np.int64]
    rho: Array
    mu_mpc: Array | None = None
    sigma_mpc: Array | None = None
    norm: Array | None = None
    distance_mean_mpc: float | None = None
    distance_std_mpc: float | None = None
    header: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @cached_property
    def first(self) -> NDArray[np.int64]:
        """First cell of order 29 that each row covers."""
        return self.cell << (2 * (DEEPEST - self.order))

    @cached_property
    def beyond(self) -> NDArray[np.int64]:
        """One more than the last cell of order 29."""
        return (self.cell + 1) << (2 * (DEEPEST - self.order))

    @cached_property
    def uniq(self) -> NDArray[np.int64]:
        return (np.int64(4) << (2 * self.order)) + self.cell

    @cached_property
    def area_sr(self) -> Array:
        return cell_area_sr(self.order)

    @cached_property
    def probability(self) -> Array:
        """Of each row."""
        return self.rho * self.area_sr

    @cached_property
    def has_distance(self) -> bool:
        """Whether any row has one: layers that are infinite or NaN everywhere make a map of two dimensions."""
        return bool(self.with_distance.any())

    @cached_property
    def with_distance(self) -> NDArray[np.bool_]:
        """Rows whose distance parameters mean something: infinite mu, s <= 0 and N = 0 all stand for "unknown"."""
        if self.mu_mpc is None or self.sigma_mpc is None or self.norm is None:
            return np.zeros(len(self.rho), dtype=bool)
        good = (np.abs(self.mu_mpc) < LARGEST_MPC) & (self.sigma_mpc > NARROWEST_MPC) & (self.sigma_mpc < LARGEST_MPC)
        good &= (self.norm > 0) & np.isfinite(self.norm) & (self.rho > 0)
        return good

    @cached_property
    def prob_without_distance(self) -> float | None:
        """None for a map without distance layers, 1 for one whose layers hold nothing."""
        return None if self.mu_mpc is None else float(self.probability[~self.with_distance].sum())

    # -- positions ------------------------------------------------------------------------------------------------------

    def rows_of_cells(self, cells: NDArray[np.int64]) -> NDArray[np.int64]:
        """Row of each order-29 cell; the last row, whose index is -1, where the map does not reach."""
        row = np.searchsorted(self.first, cells, side="right") - 1
        covered = (row >= 0) & (cells < self.beyond[np.maximum(row, 0)])
        found: NDArray[np.int64] = np.where(covered, row, -1)
        return found

    def rows_of(self, ra_deg: Array, dec_deg: Array) -> NDArray[np.int64]:
        """Row of each position, -1 where the map does not reach."""
        return self.rows_of_cells(cells_of(ra_deg, dec_deg))

    # -- two dimensions -------------------------------------------------------------------------------------------------

    @cached_property
    def _descending(self) -> NDArray[np.int64]:
        return np.lexsort((self.uniq, -self.rho))

    def levels_2d(self) -> Array:
        """Smallest credible level, 0 to 1, whose region holds each row (the row included)."""
        levels = np.empty_like(self.rho)
        levels[self._descending] = np.cumsum(self.probability[self._descending])
        return np.minimum(levels, 1.0)

    def area_deg2(self, level: float) -> float:
        """Area of the smallest region of probability `level`, interpolated inside the last cell."""
        probability = np.concatenate(([0.0], np.cumsum(self.probability[self._descending])))
        area = np.concatenate(([0.0], np.cumsum(self.area_sr[self._descending])))
        return float(np.interp(level, probability, area) * SQ_DEG_PER_SR)

    # -- three dimensions -----------------------------------------------------------------------------------------------

    @cached_property
    def _solid(self) -> _Solid | None:
        keep = self.with_distance
        if not keep.any():
            return None
        assert self.mu_mpc is not None
        assert self.sigma_mpc is not None
        assert self.norm is not None
        return _Solid.of(self.rho[keep], self.mu_mpc[keep], self.sigma_mpc[keep], self.norm[keep], self.area_sr[keep])

    def log_density(self, row: NDArray[np.int64], distance_mpc: Array) -> Array:
        """Logarithm of q (q in sr^-1 Mpc^-3 as ligo.skymap has it) at distances along rows; -inf where the distance is unknown."""
        out = np.full(np.shape(row), -np.inf)
        known = (row >= 0) & self.with_distance[row]
        if self.mu_mpc is not None and self.sigma_mpc is not None and self.norm is not None and known.any():
            at = row[known]
            s = self.sigma_mpc[at]
            z = (distance_mpc[known] - self.mu_mpc[at]) / s
            # rho N reaches 1e69 where mu/s is very negative: only its logarithm is safe.
            out[known] = np.log(self.rho[at]) + np.log(self.norm[at]) - 0.5 * z * z - np.log(s) - _LN_SQRT_2PI
        return out

    def levels_3d(self, log_density: Array) -> Array:
        """F(q): probability of all places denser than each q. Exact, one integral per row and value, for the densest EXACT_LEVELS.

        Of a longer list the others lie between exact values at every few of them: F falls steadily, and a night never comes to them.
        """
        if self._solid is None or not np.size(log_density):
            return np.full(np.shape(log_density), np.nan)
        wanted, place = np.unique(-np.asarray(log_density, dtype=np.float64), return_inverse=True)  # densest first, -inf last
        exact = np.arange(len(wanted))
        if len(wanted) > 2 * EXACT_LEVELS:
            exact = np.concatenate(
                (exact[:EXACT_LEVELS], np.linspace(EXACT_LEVELS, len(wanted) - 1, EXACT_LEVELS).round().astype(np.int64))
            )
        value = np.minimum(self._solid.enclosed(-wanted[exact])[0], 1.0)
        levels: Array = np.interp(np.arange(len(wanted)), exact, value)[place].reshape(np.shape(log_density))
        return levels

    def volume_mpc3(self, level: float) -> float | None:
        """Volume of the smallest region of probability `level`; None when the map holds less than that with distance."""
        return None if self._solid is None else self._solid.volume(level)

    @cached_property
    def total_3d(self) -> float:
        """Probability in rows with distance, integrated over distance: 1 but for the rows without."""
        if self._solid is None:
            return 0.0
        return float(self._solid.enclosed(np.array([-np.inf]))[0][0])

    def probability_within(self, distances_mpc: Array, *, rows: NDArray[np.bool_] | None = None) -> Array:
        """Probability closer than each distance, summed over `rows` (default: all)."""
        keep = self.with_distance if rows is None else self.with_distance & rows
        if not keep.any():
            return np.zeros(len(distances_mpc))
        assert self.mu_mpc is not None
        assert self.sigma_mpc is not None
        assert self.norm is not None
        likely = _likely(np.where(keep, self.probability, 0.0), 1e-5)
        likely = likely[keep[likely]]
        chosen, (share,) = _thinned(self.probability[likely], self.mu_mpc[likely], self.probability[likely])
        likely = likely[chosen]
        mu, s, norm = self.mu_mpc[likely], self.sigma_mpc[likely], self.norm[likely]
        inside = np.array([float((share * within_distance(0.0, d, mu, s, np.log(norm))).sum()) for d in distances_mpc])
        scaled: Array = inside * float(self.probability[keep].sum() / share.sum())
        return scaled

    def distance_quantiles(self) -> tuple[float, float, float]:
        """5, 50 and 95 % of the distance marginalised over the sky, to about 1 %."""
        return self._quantiles

    @cached_property
    def _quantiles(self) -> tuple[float, float, float]:
        grid = (self.distance_mean_mpc or 100.0) * np.geomspace(0.02, 8.0, 48)
        reached = self.probability_within(grid)
        reached = reached / max(float(reached[-1]), 1e-12)
        low, middle, high = (float(np.interp(p, reached, grid)) for p in (0.05, 0.5, 0.95))
        return low, middle, high

    # -- identity -------------------------------------------------------------------------------------------------------

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the decoded table, sorted: equal for files that differ in their headers alone."""
        hasher = hashlib.sha256()
        order = np.argsort(self.uniq, kind="stable")
        for column in (self.uniq, self.rho, self.mu_mpc, self.sigma_mpc, self.norm):
            if column is not None:
                hasher.update(np.ascontiguousarray(column[order], dtype="<f8").tobytes())
        return hasher.hexdigest()


def within_distance(low_mpc: Array | float, high_mpc: Array | float, mu: Array, s: Array, log_norm: Array) -> Array:
    """Integral of N r^2 phi((r - mu)/s)/s from `low_mpc` to `high_mpc`, elementwise. low >= 0.

    Closed form, except below mu/s = -4 where its terms cancel: there 64 Gauss-Legendre points over the few decay lengths
    s^2/|mu| that matter, with ln N inside the exponent (N alone may exceed 1e69).
    """
    low, high, mu, s, log_norm = np.broadcast_arrays(low_mpc, high_mpc, mu, s, log_norm)
    out = np.zeros(low.shape)
    positive = high > low
    plain = positive & (mu > CLOSED_FORM_FROM * s)
    if plain.any():
        m, w = mu[plain], s[plain]
        a, b = (low[plain] - m) / w, (high[plain] - m) / w
        phi_a, phi_b = np.exp(-0.5 * a * a - _LN_SQRT_2PI), np.exp(-0.5 * b * b - _LN_SQRT_2PI)
        # a phi(a) is 0 at infinity, which floating point calls NaN.
        end_a, end_b = np.where(np.isfinite(a), a, 0.0) * phi_a, np.where(np.isfinite(b), b, 0.0) * phi_b
        value = (m * m + w * w) * (ndtr(b) - ndtr(a)) + 2 * m * w * (phi_a - phi_b) + w * w * (end_a - end_b)
        out[plain] = np.exp(log_norm[plain]) * np.maximum(value, 0.0)
    steep = positive & ~plain
    if steep.any():
        m, w, lo = mu[steep], s[steep], low[steep]
        hi = np.minimum(high[steep], lo + 60 * w * w / np.abs(m))
        half = 0.5 * (hi - lo)
        r = (0.5 * (hi + lo))[:, None] + half[:, None] * _NODES
        z = (r - m[:, None]) / w[:, None]
        terms = np.exp(log_norm[steep][:, None] - 0.5 * z * z - _LN_SQRT_2PI - np.log(w)[:, None]) * r * r
        out[steep] = half * (terms @ _WEIGHTS)
    return out


@dataclass(frozen=True)
class _Solid:
    """Rows with distance, ordered by their largest density, for integrals over regions above a density."""

    mu: Array
    s: Array
    log_norm: Array
    area: Array
    share: Array
    log_peak: Array
    """ln q at r = max(mu, 0), the largest along the row; descending."""
    log_crest: Array
    """ln q at r = mu, which lies behind us where mu < 0."""

    @classmethod
    def of(cls, rho: Array, mu: Array, s: Array, norm: Array, area: Array) -> _Solid:
        crest = np.log(rho) + np.log(norm) - np.log(s) - _LN_SQRT_2PI
        peak = crest - 0.5 * np.where(mu < 0, mu / s, 0.0) ** 2
        chosen, (share, area) = _thinned(rho * area, peak, rho * area, area)
        by = np.argsort(-peak[chosen], kind="stable")
        rows = chosen[by]
        return cls(mu[rows], s[rows], np.log(norm[rows]), area[by], share[by], peak[rows], crest[rows])

    def enclosed(self, log_density: Array) -> tuple[Array, Array]:
        """(probability, volume in Mpc^3) of all places at least as dense as each value; volume is infinite at -inf."""
        wanted = np.asarray(log_density, dtype=np.float64).ravel()
        probability, volume = np.zeros(len(wanted)), np.zeros(len(wanted))
        for i, log_q in enumerate(wanted):
            n = int(np.searchsorted(-self.log_peak, -log_q, side="left"))  # rows that reach above q
            if not n:
                continue
            mu, s = self.mu[:n], self.s[:n]
            if math.isinf(log_q):
                low, high = np.zeros(n), np.full(n, np.inf)
                volume[i] = np.inf
            else:
                reach = s * np.sqrt(2 * (self.log_crest[:n] - log_q))
                low, high = np.maximum(mu - reach, 0.0), np.maximum(mu + reach, 0.0)
                volume[i] = float((self.area[:n] * (high**3 - low**3)).sum()) / 3
            probability[i] = float((self.share[:n] * within_distance(low, high, mu, s, self.log_norm[:n])).sum())
        return probability.reshape(np.shape(log_density)), volume.reshape(np.shape(log_density))

    def volume(self, level: float) -> float | None:
        """By bisection in ln q: F falls strictly, and 60 halvings of any range reach the last bit."""
        high = float(self.log_peak[0])
        low = high - 1.0
        for _ in range(60):
            if self.enclosed(np.array([low]))[0][0] >= level:
                break
            high, low = low, low - 2 * (float(self.log_peak[0]) - low)
        else:
            return None
        for _ in range(60):
            middle = 0.5 * (low + high)
            if self.enclosed(np.array([middle]))[0][0] >= level:
                low = middle
            else:
                high = middle
            if high - low < 1e-9:
                break
        return float(self.enclosed(np.array([0.5 * (low + high)]))[1][0])


# -- making --------------------------------------------------------------------------------------------------------------


def make_skymap(
    order: NDArray[np.int64],
    cell: NDArray[np.int64],
    rho: Array,
    *,
    mu_mpc: Array | None = None,
    sigma_mpc: Array | None = None,
    norm: Array | None = None,
    header: dict[str, Any] | None = None,
    where: str = "sky map",
    warnings: tuple[str, ...] = (),
) -> SkyMap:
    """A checked `SkyMap` from columns in any order. Raises `BadInput` when it is no probability on the sphere."""
    if not np.isfinite(rho).all() or (rho < 0).any():
        raise BadInput("holds values that are negative or not finite", where=f"{where}: PROBDENSITY", remedy="Fetch the map again")
    by = np.argsort(cell << (2 * (DEEPEST - order)), kind="stable")
    order, cell, rho = order[by], cell[by], rho[by]
    first, beyond = cell << (2 * (DEEPEST - order)), (cell + 1) << (2 * (DEEPEST - order))
    if (beyond[:-1] > first[1:]).any():
        raise BadInput("holds cells that overlap", where=f"{where}: UNIQ", remedy="Fetch the map again")
    total = float((rho * cell_area_sr(order)).sum())
    if not abs(total - 1) <= 1e-3:
        raise BadInput(f"its probability sums to {total:.6g}, not 1", where=where, remedy="Fetch the map again")
    if abs(total - 1) > 1e-6:
        warnings += (f"{where}: probability summed to {total:.8f} and was scaled to 1",)
        rho = rho / total
    layers = None if mu_mpc is None or sigma_mpc is None or norm is None else (mu_mpc[by], sigma_mpc[by], norm[by])
    known = header or {}
    mean, std = (_positive(known.get(key)) for key in ("DISTMEAN", "DISTSTD"))
    if layers is not None:
        flaw = _flaw_of(layers, rho, rho * cell_area_sr(order))
        if flaw is not None:
            text, layers = flaw[0], layers if flaw[1] else None
            warnings += (f"{where}: {text}",)
    if layers is not None and mean is None:
        mean, std = _moments(*layers, rho * cell_area_sr(order))
    mu, sigma, n = layers or (None, None, None)
    return SkyMap(
        order=order,
        cell=cell,
        rho=rho,
        mu_mpc=mu,
        sigma_mpc=sigma,
        norm=n,
        distance_mean_mpc=mean,
        distance_std_mpc=std,
        header=known,
        warnings=warnings,
    )


def _positive(value: Any) -> float | None:
    number = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < LARGEST_MPC
    return float(value) if number else None


def _flaw_of(layers: tuple[Array, Array, Array], rho: Array, probability: Array) -> tuple[str, bool] | None:
    """(what is wrong with distance layers, whether they may still be used). Each row must integrate to 1 over all distances."""
    known = SkyMap(np.empty(0, np.int64), np.empty(0, np.int64), rho, *layers).with_distance
    if not known.any():
        return "no row has a distance: ranked by place alone", True
    rows = _likely(np.where(known, probability, 0.0), 1e-4)
    mu, sigma, norm = (layer[rows] for layer in layers)
    with np.errstate(over="ignore", invalid="ignore"):
        whole = within_distance(0.0, np.inf, mu, sigma, np.log(norm))
        share = float((probability[rows] * whole).sum() / probability[rows].sum())
    if not 1 / WRONG_SHARE <= share <= WRONG_SHARE:
        return f"the distance layers integrate to {share:.3g} instead of 1 (DISTNORM): ranked by place alone", False
    if not 1 / WARNED_SHARE <= share <= WARNED_SHARE:
        return f"the distance layers integrate to {share:.6f} instead of 1 (DISTNORM)", True
    return None


def _likely(probability: Array, left_out: float) -> NDArray[np.int64]:
    """The most probable rows, without those that together hold less than `left_out` of the probability: half of all rows."""
    by = np.argsort(-probability, kind="stable")
    running = np.cumsum(probability[by])
    return by[: int(np.searchsorted(running, running[-1] * (1 - left_out))) + 1]


def _thinned(probability: Array, key: Array, *sums: Array) -> tuple[NDArray[np.int64], tuple[Array, ...]]:
    """(rows that stand for all, `sums` over what each stands for). All rows, unless they are more than twice MOST_ROWS.

    Then the most probable stand for themselves, and of the others, in the order of `key`, one of every few for its neighbours. Real
    maps have 20,000 rows; one of millions would hold up the next alert by minutes, and this moves its figures by less than 1e-3.
    """
    if len(probability) <= 2 * MOST_ROWS:
        return np.arange(len(probability)), sums
    by = np.argsort(-probability, kind="stable")
    first, others = by[:MOST_ROWS], by[MOST_ROWS:]
    others = others[np.argsort(key[others], kind="stable")]
    size = -(-len(others) // MOST_ROWS)
    starts = np.arange(0, len(others), size)
    chosen = others[np.minimum(starts + size // 2, len(others) - 1)]
    # Its own value times a common factor, not the sum of its neighbours': those would carry what belongs to other distances.
    scaled = (np.concatenate((one[first], one[chosen] * (one[others].sum() / max(float(one[chosen].sum()), 1e-300)))) for one in sums)
    return np.concatenate((first, chosen)), tuple(scaled)


def _moments(mu: Array, sigma: Array, norm: Array, probability: Array) -> tuple[float | None, float | None]:
    """Mean and standard deviation of the distance over the sky, for maps whose header does not say."""
    usable = (np.abs(mu) < LARGEST_MPC) & (sigma > NARROWEST_MPC) & (sigma < LARGEST_MPC) & (norm > 0) & np.isfinite(norm)
    rows = _likely(np.where(usable, probability, 0.0), 1e-9)[:MOST_ROWS]
    rows = rows[usable[rows]]
    if not len(rows):
        return None, None
    m, s, share = mu[rows], sigma[rows], probability[rows]
    steep = m < CLOSED_FORM_FROM * s
    low = np.maximum(m - 9 * s, 0.0)
    high = np.where(steep, 60 * s * s / np.maximum(np.abs(m), 1e-300), np.maximum(m + 9 * s, 0.0))
    half = 0.5 * (high - low)
    r = 0.5 * (high + low)[:, None] + half[:, None] * _NODES
    density = np.exp(np.log(norm[rows])[:, None] - 0.5 * ((r - m[:, None]) / s[:, None]) ** 2 - _LN_SQRT_2PI - np.log(s)[:, None]) * r * r
    whole, first, second = (float(share @ (half * ((density * r**k) @ _WEIGHTS))) for k in (0, 1, 2))
    if not whole > 0:
        return None, None
    mean = first / whole
    return mean, math.sqrt(max(second / whole - mean * mean, 0.0))
