"""The kernel's own Sun: no astropy, no tables, no network."""

from __future__ import annotations

import math

__all__ = ["sun_altitude_deg"]

_J2000_NS = 946_728_000_000_000_000  # 2000-01-01T12:00 UTC


def sun_altitude_deg(at_ns: int, *, latitude_deg: float, longitude_deg: float) -> float:
    """Altitude of the Sun's centre, without refraction; longitude east positive. Good to 0.02 deg from 1950 to 2050.

    Source: The Astronomical Almanac, page C5, "Low precision formulas for the Sun" (0.01 deg), and its page B8 for mean
    sidereal time. UTC stands for UT1 and TT (1 min is 0.25 deg of sidereal time, but they differ by at most 0.9 s from UT1).
    """
    days = (at_ns - _J2000_NS) / 86_400e9
    mean_longitude = 280.460 + 0.9856474 * days
    anomaly = math.radians((357.528 + 0.9856003 * days) % 360.0)
    longitude = math.radians((mean_longitude + 1.915 * math.sin(anomaly) + 0.020 * math.sin(2 * anomaly)) % 360.0)
    obliquity = math.radians(23.439 - 4e-7 * days)
    ra = math.atan2(math.cos(obliquity) * math.sin(longitude), math.cos(longitude))
    dec = math.asin(math.sin(obliquity) * math.sin(longitude))
    sidereal_deg = 15.0 * ((18.697374558 + 24.06570982441908 * days) % 24.0)
    hour_angle = math.radians(sidereal_deg + longitude_deg) - ra
    latitude = math.radians(latitude_deg)
    sine = math.sin(latitude) * math.sin(dec) + math.cos(latitude) * math.cos(dec) * math.cos(hour_angle)
    return math.degrees(math.asin(max(-1.0, min(1.0, sine))))
