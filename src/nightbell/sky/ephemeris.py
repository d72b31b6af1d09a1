"""Sun, Moon and targets above a site: arrays of instants in, degrees out.

ERFA's routines (IAU 2006 precession, 2000A nutation, VSOP-based Earth, Meeus' Moon) are called directly: no table is read and no
network is asked. Unrefracted and topocentric, within some arcseconds for the Sun, some ten for the Moon; UT1 - UTC is taken as 0
(below 0.9 s, or 13" of hour angle).
"""

from __future__ import annotations

import math

import erfa
import numpy as np
from numpy.typing import ArrayLike, NDArray

from nightbell.contracts.records import Site

__all__ = ["horizontal", "illumination", "moon_altaz", "moon_of_date", "sidereal_time_rad", "sun_altaz", "sun_of_date", "target_altaz"]

Array = NDArray[np.float64]
TT_MINUS_UTC_S = 37.0 + 32.184
"""Leap seconds as of 2017; none has been announced since."""
_MJD_1970 = 40587.0
_EARTH_RADIUS_AU = 6378.137 / 149_597_870.7
_FLATTENING = 1 / 298.257223563


def _dates(times_ns: ArrayLike) -> tuple[Array, Array]:
    """(UT1, TT) as MJD."""
    mjd = _MJD_1970 + np.asarray(times_ns, dtype=np.int64) / 86_400e9
    return mjd, mjd + TT_MINUS_UTC_S / 86_400


def sidereal_time_rad(site: Site, times_ns: ArrayLike) -> Array:
    """Local apparent sidereal time, radians, the shape of `times_ns`."""
    ut1, tt = _dates(times_ns)
    return np.asarray(erfa.gst06a(erfa.DJM0, ut1, erfa.DJM0, tt) + math.radians(site.longitude_deg))


def horizontal(site: Site, ra_rad: ArrayLike, dec_rad: ArrayLike, lst_rad: ArrayLike) -> tuple[Array, Array]:
    """(altitude_deg, azimuth_deg, from north through east) of directions of date."""
    azimuth, altitude = erfa.hd2ae(np.asarray(lst_rad) - np.asarray(ra_rad), dec_rad, math.radians(site.latitude_deg))
    return np.degrees(altitude), np.degrees(azimuth) % 360.0


def _to_date(icrs_au: Array, tt: Array, observer_au: Array) -> tuple[Array, Array]:
    """(ra, dec) of date, radians, of geocentric vectors (..., 3) as seen by the observer."""
    vector = np.einsum("...ij,...j->...i", np.asarray(erfa.pnm06a(erfa.DJM0, tt)), icrs_au)
    ra, dec = erfa.c2s(vector - observer_au)
    return np.asarray(ra), np.asarray(dec)


def _sun_au(tt: Array) -> Array:
    """Geocentric Sun with light time and aberration taken together: where the Sun was 499 s ago as seen from where the Earth is."""
    heliocentric, _ = erfa.epv00(erfa.DJM0, tt - 499.005 / 86_400)
    return -np.asarray(heliocentric["p"])


def _observer_au(site: Site, lst_rad: Array) -> Array:
    """The observer from the Earth's centre, of date (..., 3), on the WGS84 ellipsoid."""
    latitude = math.radians(site.latitude_deg)
    reduced = math.atan((1 - _FLATTENING) * math.tan(latitude))
    height = site.elevation_m / 6_378_137.0
    cosine = math.cos(reduced) + height * math.cos(latitude)
    sine = (1 - _FLATTENING) * math.sin(reduced) + height * math.sin(latitude)
    return _EARTH_RADIUS_AU * np.stack([cosine * np.cos(lst_rad), cosine * np.sin(lst_rad), np.full_like(lst_rad, sine)], axis=-1)


def sun_of_date(site: Site, times_ns: ArrayLike) -> tuple[Array, Array]:
    """(ra, dec) of the Sun's centre as seen from `site`, equator and equinox of date, radians."""
    _, tt = _dates(times_ns)
    return _to_date(_sun_au(tt), tt, _observer_au(site, sidereal_time_rad(site, times_ns)))


def moon_of_date(site: Site, times_ns: ArrayLike) -> tuple[Array, Array]:
    """(ra, dec) of the Moon's centre as seen from `site`, equator and equinox of date, radians."""
    _, tt = _dates(times_ns)
    return _to_date(np.asarray(erfa.moon98(erfa.DJM0, tt)["p"]), tt, _observer_au(site, sidereal_time_rad(site, times_ns)))


def sun_altaz(site: Site, times_ns: ArrayLike) -> tuple[Array, Array]:
    """(altitude_deg, azimuth_deg) of the Sun's centre, the shape of `times_ns`."""
    return horizontal(site, *sun_of_date(site, times_ns), sidereal_time_rad(site, times_ns))


def moon_altaz(site: Site, times_ns: ArrayLike) -> tuple[Array, Array]:
    """(altitude_deg, azimuth_deg) of the Moon's centre, the shape of `times_ns`."""
    return horizontal(site, *moon_of_date(site, times_ns), sidereal_time_rad(site, times_ns))


def target_altaz(site: Site, ra_deg: ArrayLike, dec_deg: ArrayLike, times_ns: ArrayLike) -> tuple[Array, Array]:
    """(altitude_deg, azimuth_deg) of ICRS directions; `ra_deg`, `dec_deg` and `times_ns` broadcast together.

    For one night: precession, nutation and aberration are those of the middle of the times, once per direction. Within half a day
    of it that costs 0.3"; once per direction and instant it cost 100 us each, half a minute for the targets of one alert.
    """
    times = np.asarray(times_ns, dtype=np.int64)
    _, tt = _dates((int(times.min()) + int(times.max())) // 2)
    astrometry, origins = erfa.apci13(erfa.DJM0, tt)
    ra, dec = erfa.atciqz(np.radians(ra_deg), np.radians(dec_deg), astrometry)
    return horizontal(site, ra - origins, dec, sidereal_time_rad(site, times))


def illumination(times_ns: ArrayLike) -> Array:
    """Lit fraction of the Moon's disc, 0 to 1 (Meeus, Astronomical Algorithms, chapter 48)."""
    _, tt = _dates(times_ns)
    moon, sun = np.asarray(erfa.moon98(erfa.DJM0, tt)["p"]), _sun_au(tt)
    elongation = np.asarray(erfa.sepp(moon, sun))
    distance, sun_distance = np.linalg.norm(moon, axis=-1), np.linalg.norm(sun, axis=-1)
    phase_angle = np.arctan2(sun_distance * np.sin(elongation), distance - sun_distance * np.cos(elongation))
    return np.asarray((1 + np.cos(phase_angle)) / 2)
