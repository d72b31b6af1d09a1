"""What is in the sky: stars from the seed, galaxies from the configuration, transients by command, Sun, Moon and their light.

stars      per HEALPix cell (nside 256) from hash(seed, cell): the same star is in every frame, whoever looks, whenever
galaxies   Sersic profiles
transient  magnitude per band from t0 on, zero before
sky        twilight by the Sun's altitude (Patat et al. 2006), night level, Moon, gradient toward the Sun
"""

from __future__ import annotations

import csv
import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import astropy.units as u
import erfa
import numpy as np
from astropy_healpix.core import healpix_to_lonlat, lonlat_to_healpix
from numpy.typing import NDArray

from nightbell.contracts.errors import BadInput
from nightbell.simulator.settings import GalaxySettings

__all__ = [
    "BANDS",
    "EXTINCTION_MAG",
    "Place",
    "Stars",
    "Transient",
    "altitude_azimuth",
    "apparent_to_icrs",
    "icrs_to_apparent",
    "julian_date",
    "moon",
    "read_galaxies",
    "sidereal_time_deg",
    "sky_mag",
    "stars_around",
    "sun",
]

Array = NDArray[np.float64]

_NSIDE = 256
_MAG_BRIGHT, _MAG_FAINT = 9.0, 21.5
_SLOPE = 0.35
_PER_DEG2_AT_19 = 2000.0
_CELL_DEG2 = 41252.96 / (12 * _NSIDE**2)
BANDS = ("g", "r", "i")

# mag/arcsec2 at zenith over x = z_sun - 95 deg (Patat et al. 2006), for the nearest Johnson band, and the dark night's level.
_TWILIGHT = {"g": (11.84, 1.45, -0.046), "r": (11.40, 1.567, -0.064), "i": (10.93, 1.470, -0.062)}
_NIGHT_MAG = {"g": 22.1, "r": 21.1, "i": 20.2}
EXTINCTION_MAG = {"g": 0.18, "r": 0.11, "i": 0.07}


@dataclass(frozen=True)
class Place:
    """Where the observer stands, in radians and metres, as erfa wants it."""

    longitude_rad: float
    latitude_rad: float
    elevation_m: float


@dataclass(frozen=True)
class Stars:
    """Stars of a field: ICRS degrees and magnitudes by band."""

    ra_deg: Array
    dec_deg: Array
    mag: dict[str, Array]


@dataclass(frozen=True)
class Transient:
    """Something new: constant magnitudes by band from `t0_ns`, fading by `decay_mag_per_day`."""

    ra_deg: float
    dec_deg: float
    mag: Mapping[str, float]
    t0_ns: int
    decay_mag_per_day: float = 0.0

    def mag_at(self, band: str, at_ns: int) -> float | None:
        """Magnitude, or None before it shone or where nothing is known in this band."""
        if at_ns < self.t0_ns or not self.mag:
            return None
        base = self.mag.get(band, next(iter(self.mag.values())))
        return base + self.decay_mag_per_day * (at_ns - self.t0_ns) / 86400e9


def julian_date(at_ns: int) -> tuple[float, float]:
    """Two-part Julian date, UTC."""
    days, rest_ns = divmod(at_ns, 86400 * 10**9)
    return 2440587.5 + days, rest_ns / 86400e9


def _tt(at_ns: int) -> tuple[float, float]:
    utc1, utc2 = julian_date(at_ns)
    tai1, tai2 = erfa.utctai(utc1, utc2)
    tt1, tt2 = erfa.taitt(tai1, tai2)
    return float(tt1), float(tt2)


def sidereal_time_deg(at_ns: int, place: Place) -> float:
    """Local apparent sidereal time; UT1 is taken as UTC, which moves the whole world alike."""
    utc1, utc2 = julian_date(at_ns)
    return math.degrees(float(erfa.gst06a(utc1, utc2, *_tt(at_ns))) + place.longitude_rad) % 360.0


def apparent_to_icrs(hour_angle_deg: Array, declination_deg: Array, at_ns: int, place: Place) -> tuple[Array, Array]:
    """ICRS of topocentric hour angles and declinations of date (no refraction)."""
    utc1, utc2 = julian_date(at_ns)
    ra, dec = erfa.atoc13(
        "H",
        np.radians(hour_angle_deg),
        np.radians(declination_deg),
        *(utc1, utc2, 0.0, place.longitude_rad, place.latitude_rad, place.elevation_m),
        *(0.0, 0.0, 0.0, 0.0, 0.0, 0.55),
    )
    return np.degrees(ra) % 360.0, np.degrees(dec)


def icrs_to_apparent(ra_deg: float, dec_deg: float, at_ns: int, place: Place) -> tuple[float, float]:
    """(hour angle, declination) of date in degrees, topocentric, without refraction."""
    utc1, utc2 = julian_date(at_ns)
    _, _, ha, dec, _, _ = erfa.atco13(
        *(math.radians(ra_deg), math.radians(dec_deg), 0.0, 0.0, 0.0, 0.0),
        *(utc1, utc2, 0.0, place.longitude_rad, place.latitude_rad, place.elevation_m),
        *(0.0, 0.0, 0.0, 0.0, 0.0, 0.55),
    )
    return math.degrees(float(ha)), math.degrees(float(dec))


def altitude_azimuth(hour_angle_deg: float, declination_deg: float, latitude_deg: float) -> tuple[float, float]:
    """Unrefracted altitude and azimuth (N 0, E 90)."""
    h, d, lat = (math.radians(angle) for angle in (hour_angle_deg, declination_deg, latitude_deg))
    east = -math.cos(d) * math.sin(h)
    north = math.sin(d) * math.cos(lat) - math.cos(d) * math.cos(h) * math.sin(lat)
    up = math.sin(d) * math.sin(lat) + math.cos(d) * math.cos(h) * math.cos(lat)
    return math.degrees(math.asin(max(-1.0, min(1.0, up)))), math.degrees(math.atan2(east, north)) % 360.0


def _body(vector: Array, at_ns: int, place: Place) -> tuple[float, float]:
    ra, dec = erfa.c2s(vector)
    hour_angle = sidereal_time_deg(at_ns, place) - math.degrees(float(ra))
    return altitude_azimuth(hour_angle, math.degrees(float(dec)), math.degrees(place.latitude_rad))


def sun(at_ns: int, place: Place) -> tuple[float, float]:
    """Altitude and azimuth of the Sun's centre, to a minute of arc."""
    heliocentric, _ = erfa.epv00(*_tt(at_ns))
    return _body(erfa.rxp(erfa.pnm06a(*_tt(at_ns)), -np.asarray(heliocentric["p"])), at_ns, place)


def moon(at_ns: int, place: Place) -> tuple[float, float, float]:
    """(altitude, azimuth, illuminated fraction); parallax lowers it by up to a degree."""
    tt = _tt(at_ns)
    position = np.asarray(erfa.moon98(*tt)["p"])
    heliocentric, _ = erfa.epv00(*tt)
    elongation = erfa.sepp(position, -np.asarray(heliocentric["p"]))
    altitude, azimuth = _body(erfa.rxp(erfa.pnm06a(*tt), position), at_ns, place)
    return altitude - 0.95 * math.cos(math.radians(altitude)), azimuth, float((1 - math.cos(float(elongation))) / 2)


def sky_mag(
    band: str, *, sun_altitude_deg: float, sun_distance_deg: float, moon_up_deg: float, moon_fraction: float, airmass: float
) -> float:
    """Brightness of the sky in mag/arcsec2."""
    a0, a1, a2 = _TWILIGHT.get(band, _TWILIGHT["r"])
    x = (90.0 - sun_altitude_deg) - 95.0
    if x < -4.0:  # the polynomial bends back in daylight: go on straight
        twilight = a0 + a1 * -4.0 + a2 * 16.0 + (a1 + 2 * a2 * -4.0) * (x + 4.0)
    elif x > (top := -a1 / (2 * a2)) or x > 13.0:
        twilight = a0 + a1 * min(top, 13.0) + a2 * min(top, 13.0) ** 2 + 0.5 * max(0.0, x - min(top, 13.0))
    else:
        twilight = a0 + a1 * x + a2 * x * x
    twilight -= 0.0325 * (90.0 - sun_distance_deg) if sun_altitude_deg > -18 else 0.0  # 3 %/deg brighter toward the Sun
    twilight = max(3.0, twilight)  # full daylight
    night = _NIGHT_MAG.get(band, 21.0) - 0.3 * (airmass - 1.0)
    lunar = 0.0
    if moon_up_deg > 0:
        lunar = 3.5 * moon_fraction**2 * math.sin(math.radians(moon_up_deg)) ** 0.5
    flux = 10 ** (-0.4 * twilight) + 10 ** (-0.4 * (night - lunar))
    return -2.5 * math.log10(flux)


@functools.lru_cache(maxsize=512)
def _cell(seed: int, cell: int) -> Stars:
    """The stars of one cell."""
    rng = np.random.default_rng([seed, cell])
    lon, lat = healpix_to_lonlat(np.array([cell]), _NSIDE, order="nested")
    density = _PER_DEG2_AT_19 * (1.0 + 4.0 * math.exp(-abs(_galactic_latitude_deg(float(lon.rad[0]), float(lat.rad[0]))) / 10.0))
    expected = density * _CELL_DEG2 * 10 ** (_SLOPE * (_MAG_FAINT - 19.0))
    n = int(rng.poisson(expected))
    dx, dy = rng.random(n), rng.random(n)
    ra, dec = healpix_to_lonlat(np.full(n, cell), _NSIDE, dx, dy, order="nested")
    # Inverse of N(<m) ~ 10^(slope m) between the bright and faint ends.
    share = rng.random(n)
    low = 10 ** (_SLOPE * (_MAG_BRIGHT - _MAG_FAINT))
    r = _MAG_FAINT + np.log10(low + share * (1 - low)) / _SLOPE
    g = r + rng.normal(0.7, 0.3, n)
    i = r - rng.normal(0.25, 0.12, n)
    return Stars(ra.deg % 360.0, dec.deg, {"g": g, "r": r, "i": i})


def _galactic_latitude_deg(ra_rad: float, dec_rad: float) -> float:
    pole_ra, pole_dec = math.radians(192.85948), math.radians(27.12825)
    value = math.sin(dec_rad) * math.sin(pole_dec) + math.cos(dec_rad) * math.cos(pole_dec) * math.cos(ra_rad - pole_ra)
    return math.degrees(math.asin(max(-1.0, min(1.0, value))))


def stars_around(ra_deg: float, dec_deg: float, radius_deg: float, seed: int) -> Stars:
    """All stars of the cells that a disc touches (so also some outside it)."""
    step = 0.08  # finer than a third of a cell
    n = math.ceil(radius_deg / step)
    offsets = np.linspace(-radius_deg, radius_deg, 2 * n + 1)
    xi, eta = (grid.ravel() for grid in np.meshgrid(offsets, offsets))
    ra, dec = erfa.tpsts(np.radians(xi), np.radians(eta), math.radians(ra_deg), math.radians(dec_deg))
    cells = np.unique(lonlat_to_healpix(ra * u.rad, dec * u.rad, _NSIDE, order="nested"))
    found = [_cell(seed, int(cell)) for cell in cells]
    return Stars(
        np.concatenate([one.ra_deg for one in found]),
        np.concatenate([one.dec_deg for one in found]),
        {band: np.concatenate([one.mag[band] for one in found]) for band in BANDS},
    )


def read_galaxies(path: Path) -> tuple[GalaxySettings, ...]:
    """Galaxies of a catalogue CSV: name, ra_deg, dec_deg, and r_mag or b_mag where known. Sizes follow from the magnitude."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        galaxies = []
        for row in rows:
            mag = float(row.get("r_mag") or (float(row["b_mag"]) - 1.1 if row.get("b_mag") else 14.5))
            galaxies.append(
                GalaxySettings(
                    name=row["name"],
                    ra_deg=float(row["ra_deg"]) % 360.0,
                    dec_deg=float(row["dec_deg"]),
                    mag=mag,
                    half_light_radius_arcsec=min(40.0, max(2.0, 15.0 * 10 ** (-0.2 * (mag - 12.3)))),
                )
            )
    except (OSError, KeyError, ValueError) as error:
        raise BadInput(
            f"not a catalogue: {error!r}", where=str(path), remedy="Columns name, ra_deg, dec_deg and optionally b_mag"
        ) from error
    return tuple(galaxies)
