"""What the night must know of the sky at one site: the Sun, the Moon, where a target stands, coordinates of date.

Blocking and quick (tens of microseconds per question): ERFA is called directly, so no table is read and nothing slow happens
at a first call. Accurate to a few arcseconds, far below what pointing and twilight need; UT1 - UTC is taken as 0 (below
0.9 s, or 13" of hour angle, which acquisition removes).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

import erfa
import numpy as np

from nightbell.contracts.records import Site

__all__ = ["Clock", "Moon", "Place", "SkyView", "night_label"]

_TT_MINUS_UTC_S = 37.0 + 32.184
"""Leap seconds as of 2017; none has been announced since."""
_MJD_1970 = 40587.0
_EARTH_RADIUS_AU = 6378.137 / 149_597_870.7


class Clock(Protocol):
    """The part of `sky.clock.Clock` that the night needs."""

    @property
    def rate(self) -> float:
        """Seconds of the world per real second."""
        ...

    def now_ns(self) -> int: ...
    def real_s(self, seconds: float, floor_s: float = 0.0) -> float: ...


def night_label(at_ns: int, longitude_deg: float) -> str:
    """Local date at the noon before: never split at UTC midnight."""
    local = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=at_ns / 1e9 + longitude_deg / 15 * 3600 - 43_200)
    return local.strftime("%Y-%m-%d")


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a direction stands, unrefracted."""

    altitude_deg: float
    azimuth_deg: float
    hour_angle_h: float
    """West positive, -12 to 12."""
    declination_deg: float
    """Of date."""

    @property
    def airmass(self) -> float | None:
        """Pickering 2002; None at or below the horizon."""
        if self.altitude_deg <= 0:
            return None
        h = self.altitude_deg
        return 1 / math.sin(math.radians(h + 244 / (165 + 47 * h**1.1)))


@dataclass(frozen=True, kw_only=True)
class Moon:
    """The Moon as seen with a direction."""

    separation_deg: float
    illumination: float
    """Lit fraction of the disc, 0 to 1."""


class SkyView:
    """The sky over one site."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self._latitude = math.radians(site.latitude_deg)
        self._longitude = math.radians(site.longitude_deg)

    def night_label(self, at_ns: int) -> str:
        return night_label(at_ns, self.site.longitude_deg)

    @staticmethod
    def _dates(at_ns: int) -> tuple[float, float, float]:
        """(2400000.5, UT1 as MJD, TT as MJD)."""
        mjd = _MJD_1970 + at_ns / 86_400e9
        return erfa.DJM0, mjd, mjd + _TT_MINUS_UTC_S / 86_400

    def sidereal_time_deg(self, at_ns: int) -> float:
        """Local apparent sidereal time."""
        zero, ut1, tt = self._dates(at_ns)
        return math.degrees(float(erfa.gst06a(zero, ut1, zero, tt)) + self._longitude) % 360

    def apparent(self, ra_deg: float, dec_deg: float, at_ns: int) -> tuple[float, float]:
        """ICRS -> equator and equinox of date, degrees."""
        zero, _, tt = self._dates(at_ns)
        ra, dec, origins = erfa.atci13(math.radians(ra_deg), math.radians(dec_deg), 0.0, 0.0, 0.0, 0.0, zero, tt)
        return math.degrees(float(ra - origins)) % 360, math.degrees(float(dec))

    def from_apparent(self, ra_deg: float, dec_deg: float, at_ns: int) -> tuple[float, float]:
        """Equator and equinox of date -> ICRS, degrees."""
        zero, _, tt = self._dates(at_ns)
        origins = float(erfa.eo06a(zero, tt))
        ra, dec, _ = erfa.atic13(math.radians(ra_deg) + origins, math.radians(dec_deg), zero, tt)
        return math.degrees(float(ra)) % 360, math.degrees(float(dec))

    def _horizontal(self, ra_deg: float, dec_deg: float, at_ns: int) -> Place:
        """From coordinates of date."""
        hour_angle_deg = (self.sidereal_time_deg(at_ns) - ra_deg + 180) % 360 - 180
        azimuth, altitude = erfa.hd2ae(math.radians(hour_angle_deg), math.radians(dec_deg), self._latitude)
        return Place(
            altitude_deg=math.degrees(float(altitude)),
            azimuth_deg=math.degrees(float(azimuth)) % 360,
            hour_angle_h=hour_angle_deg / 15,
            declination_deg=dec_deg,
        )

    def place(self, ra_deg: float, dec_deg: float, at_ns: int) -> Place:
        """Where an ICRS direction stands."""
        return self._horizontal(*self.apparent(ra_deg, dec_deg, at_ns), at_ns)

    def from_horizontal(self, altitude_deg: float, azimuth_deg: float, at_ns: int) -> tuple[float, float]:
        """ICRS of a direction over the horizon."""
        hour_angle, dec = erfa.ae2hd(math.radians(azimuth_deg), math.radians(altitude_deg), self._latitude)
        ra_deg = (self.sidereal_time_deg(at_ns) - math.degrees(float(hour_angle))) % 360
        return self.from_apparent(ra_deg, math.degrees(float(dec)), at_ns)

    def _sun_of_date(self, at_ns: int) -> tuple[float, float]:
        zero, _, tt = self._dates(at_ns)
        heliocentric, _ = erfa.epv00(zero, tt)
        ra, dec = erfa.c2s(-np.asarray(heliocentric["p"]))
        return self.apparent(math.degrees(float(ra)), math.degrees(float(dec)), at_ns)

    def sun(self, at_ns: int) -> Place:
        return self._horizontal(*self._sun_of_date(at_ns), at_ns)

    def sun_altitude_deg(self, at_ns: int) -> float:
        """Of the Sun's centre, unrefracted."""
        return self.sun(at_ns).altitude_deg

    def sun_azimuth_deg(self, at_ns: int) -> float:
        return self.sun(at_ns).azimuth_deg

    def moon(self, ra_deg: float, dec_deg: float, at_ns: int) -> Moon:
        """Separation (topocentric) from an ICRS direction, and the lit fraction."""
        zero, _, tt = self._dates(at_ns)
        moon_au = np.asarray(erfa.moon98(zero, tt)["p"])
        lst, lat = math.radians(self.sidereal_time_deg(at_ns)), self._latitude
        observer_au = _EARTH_RADIUS_AU * np.array([math.cos(lat) * math.cos(lst), math.cos(lat) * math.sin(lst), math.sin(lat)])
        direction = np.asarray(erfa.s2c(math.radians(ra_deg), math.radians(dec_deg)))
        heliocentric, _ = erfa.epv00(zero, tt)
        sun_au = -np.asarray(heliocentric["p"])
        elongation = float(erfa.sepp(moon_au, sun_au))
        distance_au, sun_distance_au = float(np.linalg.norm(moon_au)), float(np.linalg.norm(sun_au))
        phase_angle = math.atan2(sun_distance_au * math.sin(elongation), distance_au - sun_distance_au * math.cos(elongation))
        return Moon(
            separation_deg=round(math.degrees(float(erfa.sepp(moon_au - observer_au, direction))), 3),
            illumination=round((1 + math.cos(phase_angle)) / 2, 4),
        )
