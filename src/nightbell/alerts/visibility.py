"""What a site can observe in the coming night: altitude, Sun and Moon against time, for many targets at once.

Own spherical formula: astropy needs seconds for what numpy and ERFA do in milliseconds, and 0.02 deg is enough to choose.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import erfa
import numpy as np
from numpy.typing import NDArray

from nightbell.contracts.records import Site
from nightbell.sky.ephemeris import moon_altaz, sun_altaz

__all__ = ["Limits", "Visibility", "altaz_of", "visibility_of"]

Array = NDArray[np.float64]
MINUTE_NS = 60_000_000_000
HORIZON_H = 24
STEP_MIN = 5
_MJD_1970 = 40587.0
_TT_MINUS_UTC_S = 37.0 + 32.184


class Limits(Protocol):
    """The part of `ObservatorySettings` that this file reads."""

    @property
    def altitude_min_deg(self) -> float: ...
    @property
    def sun_limit_deg(self) -> float: ...
    @property
    def moon_distance_deg(self) -> float: ...
    @property
    def moon_full_extra_deg(self) -> float: ...
    @property
    def visit_s(self) -> float: ...


@dataclass(frozen=True)
class Visibility:
    """One target at one site within 24 h."""

    share: float
    """Part of a whole visit that fits into the longest observable stretch, 0 to 1."""
    from_ns: int | None
    until_ns: int | None
    reason: str
    """Why not, or where it is best."""


def altaz_of(site: Site, ra_deg: Array, dec_deg: Array, times_ns: NDArray[np.int64]) -> tuple[Array, Array]:
    """(altitude_deg, azimuth_deg) of ICRS positions, shape (targets, times); no refraction, no aberration (0.006 deg)."""
    mjd = _MJD_1970 + times_ns / 86_400e9
    middle = float(mjd.mean())
    to_date = erfa.pnm06a(erfa.DJM0, middle + _TT_MINUS_UTC_S / 86_400)
    ra, dec = np.radians(ra_deg), np.radians(dec_deg)
    vector = to_date @ np.array([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)])
    ra_date, dec_date = np.arctan2(vector[1], vector[0]), np.arcsin(np.clip(vector[2], -1, 1))
    lst = erfa.gst06a(erfa.DJM0, mjd, erfa.DJM0, mjd + _TT_MINUS_UTC_S / 86_400) + math.radians(site.longitude_deg)
    hour_angle = lst[None, :] - ra_date[:, None]
    latitude = math.radians(site.latitude_deg)
    sin_alt = math.sin(latitude) * np.sin(dec_date)[:, None] + math.cos(latitude) * np.cos(dec_date)[:, None] * np.cos(hour_angle)
    north = math.cos(latitude) * np.sin(dec_date)[:, None] - math.sin(latitude) * np.cos(dec_date)[:, None] * np.cos(hour_angle)
    east = -np.cos(dec_date)[:, None] * np.sin(hour_angle)
    return np.degrees(np.arcsin(np.clip(sin_alt, -1, 1))), np.degrees(np.arctan2(east, north)) % 360.0


def visibility_of(site: Site, limits: Limits, ra_deg: Array, dec_deg: Array, *, now_ns: int) -> list[Visibility]:
    """For each position, what fits into the next 24 h from `now_ns`."""
    times_ns = now_ns + np.arange(HORIZON_H * 60 // STEP_MIN + 1, dtype=np.int64) * STEP_MIN * MINUTE_NS
    sun_alt, sun_az = (np.asarray(one, dtype=np.float64) for one in sun_altaz(site, times_ns))
    dark = sun_alt < limits.sun_limit_deg
    if not dark.any():
        return [Visibility(0.0, None, None, "the Sun does not set far enough within 24 h")] * len(ra_deg)
    altitude, azimuth = altaz_of(site, ra_deg, dec_deg, times_ns)
    high = altitude >= limits.altitude_min_deg
    moon_alt, moon_az = (np.asarray(one, dtype=np.float64) for one in moon_altaz(site, times_ns))
    lit = 0.5 * (1 - np.cos(np.radians(_separation_deg(sun_alt, sun_az, moon_alt, moon_az))))
    wanted_deg = (limits.moon_distance_deg + limits.moon_full_extra_deg * lit) * np.maximum(0.0, np.sin(np.radians(moon_alt)))
    far = _separation_deg(altitude, azimuth, moon_alt[None, :], moon_az[None, :]) >= wanted_deg[None, :]
    return [_one(times_ns, dark, high[i], far[i], altitude[i], limits) for i in range(len(ra_deg))]


def _separation_deg(alt_a: Array, az_a: Array, alt_b: Array, az_b: Array) -> Array:
    a, b, d = np.radians(alt_a), np.radians(alt_b), np.radians(az_a - az_b)
    separation: Array = np.degrees(np.arccos(np.clip(np.sin(a) * np.sin(b) + np.cos(a) * np.cos(b) * np.cos(d), -1, 1)))
    return separation


def _one(
    times_ns: NDArray[np.int64], dark: NDArray[np.bool_], high: NDArray[np.bool_], far: NDArray[np.bool_], altitude: Array, limits: Limits
) -> Visibility:
    good = dark & high & far
    if not good.any():
        if not (dark & high).any():
            best = float(altitude[dark].max())
            return Visibility(0.0, None, None, f"never above {limits.altitude_min_deg:g} deg in the dark (at most {best:.0f})")
        return Visibility(0.0, None, None, "too near the Moon whenever it is up")
    edges = np.diff(np.concatenate(([0], good.astype(np.int8), [0])))
    starts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1) - 1
    lengths_s = (times_ns[ends] - times_ns[starts]) / 1e9
    whole = np.flatnonzero(lengths_s >= limits.visit_s)
    chosen = int(whole[0]) if len(whole) else int(np.argmax(lengths_s))
    share = min(1.0, float(lengths_s[chosen]) / limits.visit_s)
    peak = float(altitude[starts[chosen] : ends[chosen] + 1].max())
    return Visibility(share, int(times_ns[starts[chosen]]), int(times_ns[ends[chosen]]), f"reaches {peak:.0f} deg")
