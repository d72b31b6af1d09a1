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
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from nightbell.alerts.fits_table import (
    LARGEST_NOTICE_BYTES,
    LARGEST_OPERATOR_BYTES,
    LARGEST_ROWS,
    LARGEST_ROWS_OPERATOR,
    Table,
    gunzip,
    read_table,
)
from nightbell.alerts.healpix import DEEPEST, cell_area_sr, cells_of, ring_centres
from nightbell.contracts.errors import BadInput, NoSuchInput

__all__ = ["SkyMap", "make_skymap", "parse_skymap", "read_skymap", "within_distance"]

Array = NDArray[np.float64]
SQ_DEG_PER_SR = (180 / math.pi) ** 2
CLOSED_FORM_FROM = -4.0
"""Below this mu/s the closed form of the distance integral cancels catastrophically (25 % wrong on S230518h)."""
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(64)
_LN_SQRT_2PI = 0.5 * math.log(2 * math.pi)
_LARGEST_BATCH = 2_000_000
"""Row-by-level products evaluated at once: bounds the memory."""


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

    @property
    def has_distance(self) -> bool:
        return self.mu_mpc is not None

    @cached_property
    def with_distance(self) -> NDArray[np.bool_]:
        """Rows whose distance parameters mean something: infinite mu, s <= 0 and N = 0 all stand for "unknown"."""
        if self.mu_mpc is None or self.sigma_mpc is None or self.norm is None:
            return np.zeros(len(self.rho), dtype=bool)
        good = np.isfinite(self.mu_mpc) & np.isfinite(self.sigma_mpc) & np.isfinite(self.norm) & (self.rho > 0)
        good &= (self.sigma_mpc > 0) & (self.norm > 0)
        return good

    @cached_property
    def prob_without_distance(self) -> float | None:
        return float(self.probability[~self.with_distance].sum()) if self.has_distance else None

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
        """F(q): probability of all places denser than each q. Exact: one integral per row and value."""
        if self._solid is None:
            return np.full(np.shape(log_density), np.nan)
        return self._solid.enclosed(log_density)[0]

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
        # Rows in the outermost 1e-5 of the probability cannot matter here, and are half of all rows.
        likely = np.flatnonzero(keep)
        likely = likely[np.argsort(-self.probability[likely], kind="stable")]
        running = np.cumsum(self.probability[likely])
        n = int(np.searchsorted(running, running[-1] * (1 - 1e-5))) + 1
        likely = likely[:n]
        mu, s, norm = self.mu_mpc[likely], self.sigma_mpc[likely], self.norm[likely]
        share = self.probability[likely]
        inside = np.array([float((share * within_distance(0.0, d, mu, s, np.log(norm))).sum()) for d in distances_mpc])
        scaled: Array = inside * float(running[-1] / running[n - 1])
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
        by = np.argsort(-peak, kind="stable")
        return cls(mu[by], s[by], np.log(norm)[by], area[by], (rho * area)[by], peak[by], crest[by])

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


# -- reading ------------------------------------------------------------------------------------------------------------


def read_skymap(path: str | Path) -> SkyMap:
    """A sky map file, multi-order or flat, packed or not. Raises `BadInput` naming file and keyword."""
    file = Path(path)
    try:
        size = file.stat().st_size
        if size > LARGEST_OPERATOR_BYTES:
            raise BadInput(f"{size:,} bytes are more than {LARGEST_OPERATOR_BYTES:,}", where=str(file), remedy="Use the multi-order map")
        data = file.read_bytes()
    except OSError as error:
        raise NoSuchInput(f"cannot be read ({error.strerror})", where=str(file), remedy="Name a sky map file") from error
    data = gunzip(data, where=str(file), largest_bytes=LARGEST_OPERATOR_BYTES, largest_ratio=None)
    return _from_table(read_table(data, where=str(file), largest_rows=LARGEST_ROWS_OPERATOR), str(file))


def parse_skymap(data: bytes, *, where: str) -> SkyMap:
    """A sky map that arrived inside a notice: the stricter limits."""
    data = gunzip(data, where=where, largest_bytes=LARGEST_NOTICE_BYTES)
    return _from_table(read_table(data, where=where, largest_rows=LARGEST_ROWS), where)


def _from_table(table: Table, where: str) -> SkyMap:
    header, columns = table.header, table.columns
    frame = str(header.get("COORDSYS", "C")).strip().upper()
    if frame not in {"C", "ICRS", "EQUATORIAL", "CELESTIAL"}:
        raise BadInput(f"{frame!r} is not equatorial", where=f"{where}: COORDSYS", remedy="Rotate the map to ICRS (COORDSYS = 'C') first")
    order, cell, rho = _multi_order(columns, where) if "UNIQ" in columns else _flat(header, columns, where)
    layers = {key: _floats(columns[name]) for key, name in (("mu", "DISTMU"), ("s", "DISTSIGMA"), ("n", "DISTNORM")) if name in columns}
    whole = len(layers) == 3 and all(len(layer) == len(rho) for layer in layers.values())
    if "UNIQ" not in columns:
        order, cell, rho, layers = _in_nested_order(header, order, cell, rho, layers if whole else {})
    return make_skymap(
        order,
        cell,
        rho,
        mu_mpc=layers["mu"] if whole else None,
        sigma_mpc=layers["s"] if whole else None,
        norm=layers["n"] if whole else None,
        header=dict(header),
        where=where,
    )


def _floats(column: NDArray[Any]) -> Array:
    return np.ascontiguousarray(column, dtype=np.float64)  # also turns FITS's big-endian bytes


def _multi_order(columns: dict[str, NDArray[Any]], where: str) -> tuple[NDArray[np.int64], NDArray[np.int64], Array]:
    raw = columns["UNIQ"]
    if raw.dtype.kind == "f":
        if not (np.isfinite(raw).all() and (raw == np.floor(raw)).all() and (np.abs(raw) < 2.0**53).all()):
            raise BadInput("holds numbers that are no exact integers", where=f"{where}: UNIQ", remedy="Write UNIQ as 64-bit integers")
    elif raw.dtype.kind == "u" and len(raw) and int(raw.max()) >= 1 << 62:
        raise BadInput("holds cells finer than order 29", where=f"{where}: UNIQ", remedy="Give a map of order 29 or coarser")
    elif raw.dtype.kind not in "iu":
        raise BadInput("is not a number", where=f"{where}: UNIQ", remedy="Write UNIQ as 64-bit integers")
    uniq = raw.astype(np.int64)
    if len(uniq) == 0:
        raise BadInput("has no rows", where=where, remedy="Fetch the map again")
    if int(uniq.min()) < 4 or int(uniq.max()) >= 1 << 62:
        raise BadInput("holds values outside 4 to 2^62", where=f"{where}: UNIQ", remedy="Fetch the map again; its cells do not exist")
    # floor(log2) through floating point is wrong beyond 2^53: compare with exact integers instead.
    order = np.searchsorted(np.int64(4) << (2 * np.arange(DEEPEST + 1, dtype=np.int64)), uniq, side="right") - 1
    cell = uniq - (np.int64(4) << (2 * order))
    if (cell >= np.int64(12) << (2 * order)).any():
        raise BadInput("holds cells beyond the sphere", where=f"{where}: UNIQ", remedy="Fetch the map again; its cells do not exist")
    if "PROBDENSITY" not in columns:
        raise BadInput(f"has no PROBDENSITY, only {', '.join(columns)}", where=where, remedy="Give an LVK multi-order map")
    return order, cell, _floats(columns["PROBDENSITY"])


def _flat(header: dict[str, Any], columns: dict[str, NDArray[Any]], where: str) -> tuple[NDArray[np.int64], NDArray[np.int64], Array]:
    name = next((one for one in ("PROB", "PROBABILITY", "PROBDENSITY") if one in columns), None)
    if name is None:
        raise BadInput(f"has neither UNIQ nor PROB, only {', '.join(columns)}", where=where, remedy="Give a HEALPix sky map")
    if str(header.get("INDXSCHM", "IMPLICIT")).strip().upper() != "IMPLICIT":
        raise BadInput("partial flat maps are not read", where=f"{where}: INDXSCHM", remedy="Use the multi-order map")
    value = _floats(columns[name])
    nside = math.isqrt(len(value) // 12) if len(value) else 0
    order = nside.bit_length() - 1
    if nside < 1 or 12 * nside * nside != len(value) or 1 << order != nside:
        raise BadInput(f"{len(value):,} cells are not 12 times a power of 4", where=where, remedy="Fetch the map again")
    if header.get("NSIDE", nside) != nside:
        raise BadInput(f"says {header['NSIDE']}, its cells make {nside}", where=f"{where}: NSIDE", remedy="Fetch the map again")
    # Probability per cell in flat maps, per steradian in multi-order ones.
    rho = value if name == "PROBDENSITY" else value / float(cell_area_sr(order))
    return np.full(len(value), order, dtype=np.int64), np.arange(len(value), dtype=np.int64), rho


def _in_nested_order(
    header: dict[str, Any], order: NDArray[np.int64], cell: NDArray[np.int64], rho: Array, layers: dict[str, Array]
) -> tuple[NDArray[np.int64], NDArray[np.int64], Array, dict[str, Array]]:
    """A flat map with four equal neighbours made one, again and again: nothing is lost, 98 % of the rows go."""
    columns = {"rho": rho, **layers}
    if str(header.get("ORDERING", "")).strip().upper() != "NESTED":
        depth = int(order[0])
        place = np.argsort(cells_of(*ring_centres(1 << depth), depth))
        columns = {name: column[place] for name, column in columns.items()}
    kept: list[tuple[int, NDArray[np.int64], dict[str, Array]]] = []
    for depth in range(int(order[0]), 0, -1):
        starts = np.flatnonzero((cell[:-3] & 3) == 0) if len(cell) > 3 else np.empty(0, dtype=np.int64)
        starts = starts[cell[starts + 3] == cell[starts] + 3]
        for column in columns.values():
            same = (column[starts] == column[starts + 1]) & (column[starts] == column[starts + 2]) & (column[starts] == column[starts + 3])
            starts = starts[same]
        merged = np.zeros(len(cell), dtype=bool)
        for k in range(4):
            merged[starts + k] = True
        kept.append((depth, cell[~merged], {name: column[~merged] for name, column in columns.items()}))
        cell, columns = cell[starts] >> 2, {name: column[starts] for name, column in columns.items()}
    kept.append((0, cell, columns))
    names = list(columns)
    joined = {name: np.concatenate([part[name] for _, _, part in kept]) for name in names}
    orders = np.concatenate([np.full(len(cells), depth, dtype=np.int64) for depth, cells, _ in kept])
    rho = joined.pop("rho")
    return orders, np.concatenate([cells for _, cells, _ in kept]), rho, joined


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
    warnings: tuple[str, ...] = ()
    if not abs(total - 1) <= 1e-3:
        raise BadInput(f"its probability sums to {total:.6g}, not 1", where=where, remedy="Fetch the map again")
    if abs(total - 1) > 1e-6:
        warnings = (f"{where}: probability summed to {total:.8f} and was scaled to 1",)
        rho = rho / total
    known = header or {}
    mean, std = known.get("DISTMEAN"), known.get("DISTSTD")
    return SkyMap(
        order=order,
        cell=cell,
        rho=rho,
        mu_mpc=None if mu_mpc is None else mu_mpc[by],
        sigma_mpc=None if sigma_mpc is None else sigma_mpc[by],
        norm=None if norm is None else norm[by],
        distance_mean_mpc=float(mean) if isinstance(mean, int | float) and math.isfinite(mean) else None,
        distance_std_mpc=float(std) if isinstance(std, int | float) and math.isfinite(std) else None,
        header=known,
        warnings=warnings,
    )
