"""Where each request may begin: the sky over a site on a grid of instants, and limits on it.

A block may begin at an instant when every limit holds at every instant of the grid from then to its end. The grid's own
astronomy is `sky.ephemeris`; astroplan, the face of constraints to astronomers, judges the finished plan (product.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nightbell.contracts.records import Site
from nightbell.sky.ephemeris import moon_altaz, sun_altaz, target_altaz

__all__ = ["CELL_S", "Limits", "Request", "Sky", "cells_of", "feasible_starts", "look", "observable", "why_not"]

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
CELL_S = 60.0
_NS = 1_000_000_000


@dataclass(frozen=True, kw_only=True)
class Request:
    """One thing to observe: a direction in one filter for a block of time. `group`: what needs no slew between its members."""

    item_id: str
    group: str
    name: str
    ra_deg: float
    dec_deg: float
    filter: str
    block_s: float
    weight: float
    """Relative worth, >= 0."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What must hold during a whole block."""

    sun_max_deg: float
    altitude_min_deg: float
    altitude_max_deg: float
    moon_separation_min_deg: float


@dataclass(frozen=True)
class Sky:
    """The sky for N requests at T instants, `CELL_S` apart."""

    times_ns: NDArray[np.int64]
    sun_altitude_deg: Array
    """(T,)"""
    altitude_deg: Array
    """(N, T), unrefracted."""
    moon_separation_deg: Array
    """(N, T), topocentric."""

    @property
    def airmass(self) -> Array:
        """Pickering (2002, DIO 12, 20) where up, infinity below the horizon, (N, T)."""
        h = np.maximum(self.altitude_deg, 0.1)
        x = 1 / np.sin(np.radians(h + 244 / (165 + 47 * h**1.1)))
        return np.where(self.altitude_deg > 0, x, np.inf)


def cells_of(seconds: float) -> int:
    """How many cells `seconds` touch."""
    return math.ceil(seconds / CELL_S - 1e-9)


def look(site: Site, requests: Sequence[Request], start_ns: int, end_ns: int) -> Sky:
    """The sky from `start_ns` to `end_ns`."""
    n = max(2, cells_of((end_ns - start_ns) / _NS) + 1)
    times_ns = start_ns + (np.arange(n) * CELL_S * _NS).astype(np.int64)
    sun, _ = sun_altaz(site, times_ns)
    ra = np.array([one.ra_deg for one in requests]).reshape(-1, 1)
    dec = np.array([one.dec_deg for one in requests]).reshape(-1, 1)
    altitude, azimuth = target_altaz(site, ra, dec, times_ns[None, :])
    moon_altitude, moon_azimuth = moon_altaz(site, times_ns)
    a, b = np.radians(altitude), np.radians(moon_altitude)[None, :]
    d = np.radians(azimuth - moon_azimuth[None, :])
    # Haversine: exact also for a target beside the Moon.
    half = np.sin((a - b) / 2) ** 2 + np.cos(a) * np.cos(b) * np.sin(d / 2) ** 2
    separation = 2 * np.degrees(np.arcsin(np.sqrt(np.clip(half, 0, 1))))
    return Sky(times_ns, sun, altitude.reshape(len(requests), n), separation.reshape(len(requests), n))


def observable(sky: Sky, limits: Limits) -> Mask:
    """(N, T): whether every limit holds at that instant."""
    return (
        (sky.sun_altitude_deg <= limits.sun_max_deg)[None, :]
        & (sky.altitude_deg >= limits.altitude_min_deg)
        & (sky.altitude_deg <= limits.altitude_max_deg)
        & (sky.moon_separation_deg >= limits.moon_separation_min_deg)
    )


def feasible_starts(good: Mask, blocks_s: Sequence[float]) -> Mask:
    """(N, T): whether a block begun at that instant stays within the limits until its end, and within the grid."""
    n, t = good.shape
    starts = np.zeros_like(good)
    bad = np.concatenate([np.zeros((n, 1), dtype=np.int64), np.cumsum(~good, axis=1)], axis=1)
    for i, block_s in enumerate(blocks_s):
        cells = cells_of(block_s)
        last = t - cells
        if last > 0:
            starts[i, :last] = bad[i, cells + 1 : cells + 1 + last] == bad[i, :last]
    return starts


def why_not(sky: Sky, limits: Limits, i: int, block_s: float) -> tuple[str, str]:
    """(code, words): the first limit, in this order, that together with those before it leaves request `i` no instant."""
    dark = sky.sun_altitude_deg <= limits.sun_max_deg
    if not dark.any():
        return "constraint:sun", f"the Sun does not sink below {limits.sun_max_deg:g} deg"
    altitude = sky.altitude_deg[i]
    highest = float(altitude[dark].max())
    if highest <= 0:
        return "never_up", f"in the dark its altitude is at most {highest:.1f} deg: it does not rise"
    if highest < limits.altitude_min_deg:
        return "constraint:altitude", f"in the dark its altitude is at most {highest:.1f} deg, below {limits.altitude_min_deg:g}"
    up = dark & (altitude >= limits.altitude_min_deg) & (altitude <= limits.altitude_max_deg)
    if not up.any():
        return "constraint:altitude", f"in the dark it is always above {limits.altitude_max_deg:g} deg or below {limits.altitude_min_deg:g}"
    furthest = float(sky.moon_separation_deg[i][up].max())
    if furthest < limits.moon_separation_min_deg:
        return "constraint:moon", f"the Moon is {furthest:.0f} deg away, nearer than {limits.moon_separation_min_deg:g}"
    return "window_too_short", f"it is never within all limits for the {block_s:.0f} s that it takes"
