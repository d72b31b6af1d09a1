"""Sunset, twilights and dawn of one night, and the Moon: found by the altitude's crossings, not by asking for a "next sunset".

A night runs from the local mean solar noon of its date to the next one (longitude / 15 h; civil time zones never enter). A crossing
that does not happen, in polar day or night, is None. Sunset and sunrise: the Sun's centre at -0.8333 deg (refraction 34', radius
16'); twilights at -6, -12, -18 deg; the Moon's at -0.8333 deg plus what its parallax does, which the topocentric altitude holds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from nightbell.contracts.errors import BadInput
from nightbell.contracts.records import Site
from nightbell.sky.ephemeris import illumination, moon_altaz, sun_altaz

__all__ = ["NightEvents", "dark_window", "events_of_night", "noon_before"]

Array = NDArray[np.float64]
SUNSET_DEG = -0.8333
TWILIGHTS_DEG = {"civil": -6.0, "nautical": -12.0, "astronomical": -18.0}
STEP_S = 120.0
FIRST_YEAR, LAST_YEAR = 1900, 2100
"""Where the Earth's theory (erfa.epv00) holds."""
N_BISECTIONS = 22
"""120 s / 2^22: below 0.1 ms."""
_NS = 1_000_000_000


@dataclass(frozen=True, kw_only=True)
class NightEvents:
    """Instants (UTC ns) of one night; None where something does not happen."""

    night: str
    always_dark: bool
    """The Sun does not rise above -0.8333 deg in these 24 h."""
    never_dark: bool
    """The Sun does not sink below -18 deg in these 24 h."""
    sunset: int | None
    civil_dusk: int | None
    nautical_dusk: int | None
    astronomical_dusk: int | None
    astronomical_dawn: int | None
    nautical_dawn: int | None
    civil_dawn: int | None
    sunrise: int | None
    moon_illumination: float
    """At the middle of the night, 0 to 1."""
    moonrise: int | None
    moonset: int | None


def noon_before(night: str, longitude_deg: float) -> int:
    """The local mean solar noon at which the night of that date begins, UTC ns. Raises `BadInput`."""
    try:
        day = date.fromisoformat(night)
        if day.isoformat() != night or not FIRST_YEAR <= day.year <= LAST_YEAR:
            raise ValueError(night)
    except ValueError as error:
        raise BadInput(
            f"{night!r} is not a date from {FIRST_YEAR} to {LAST_YEAR}",
            where="--date",
            remedy="Give it as 2027-04-12: the local date at the noon before",
        ) from error
    east_deg = (longitude_deg + 180) % 360 - 180
    noon = datetime(day.year, day.month, day.day, 12, tzinfo=UTC) - timedelta(hours=east_deg / 15)
    return round(noon.timestamp() * _NS)


def events_of_night(site: Site, night: str) -> NightEvents:
    """What the sky does during one night at `site`. Raises `BadInput` when `night` is no date."""
    begin_ns = noon_before(night, site.longitude_deg)
    times_ns = begin_ns + (np.arange(round(86_400 / STEP_S) + 1) * STEP_S * _NS).astype(np.int64)

    def sun(at: NDArray[np.int64]) -> Array:
        return sun_altaz(site, at)[0]

    def moon(at: NDArray[np.int64]) -> Array:
        return moon_altaz(site, at)[0]

    altitude = sun(times_ns)
    lowest = int(altitude.argmin())
    found: dict[str, int | None] = {}
    for name, limit in {"sun": SUNSET_DEG, **TWILIGHTS_DEG}.items():
        falls = _crossings(sun, times_ns, altitude, limit, rising=False)
        rises = _crossings(sun, times_ns, altitude, limit, rising=True)
        # The evening's last and the morning's first, seen from midnight: at most latitudes there is one of each.
        middle = int(times_ns[lowest])
        found[f"{name} down"] = next((one for one in reversed(falls) if one <= middle), falls[0] if falls else None)
        found[f"{name} up"] = next((one for one in rises if one >= middle), rises[-1] if rises else None)
    heights = moon(times_ns)
    moonrises = _crossings(moon, times_ns, heights, SUNSET_DEG, rising=True)
    moonsets = _crossings(moon, times_ns, heights, SUNSET_DEG, rising=False)
    return NightEvents(
        night=night,
        always_dark=bool(altitude.max() < SUNSET_DEG),
        never_dark=bool(altitude.min() > TWILIGHTS_DEG["astronomical"]),
        sunset=found["sun down"],
        civil_dusk=found["civil down"],
        nautical_dusk=found["nautical down"],
        astronomical_dusk=found["astronomical down"],
        astronomical_dawn=found["astronomical up"],
        nautical_dawn=found["nautical up"],
        civil_dawn=found["civil up"],
        sunrise=found["sun up"],
        moon_illumination=float(illumination(times_ns[lowest])),
        moonrise=moonrises[0] if moonrises else None,
        moonset=moonsets[0] if moonsets else None,
    )


def dark_window(site: Site, night: str) -> tuple[int, int]:
    """(begin, end) of what a chart of the night shows: from an hour before sunset to an hour after sunrise, or noon to noon."""
    begin_ns = noon_before(night, site.longitude_deg)
    events = events_of_night(site, night)
    hour_ns, day_ns = 3600 * _NS, 86_400 * _NS
    return (
        max(begin_ns, events.sunset - hour_ns) if events.sunset is not None else begin_ns,
        min(begin_ns + day_ns, events.sunrise + hour_ns) if events.sunrise is not None else begin_ns + day_ns,
    )


def _crossings(
    altitude_at: Callable[[NDArray[np.int64]], Array], times_ns: NDArray[np.int64], altitude: Array, limit_deg: float, *, rising: bool
) -> list[int]:
    """Instants at which the altitude passes the limit in that direction; a dip between two samples is found by its extremum."""
    times, heights = _with_extrema(altitude_at, times_ns, altitude, limit_deg)
    above = heights > limit_deg
    wanted = (~above[:-1] & above[1:]) if rising else (above[:-1] & ~above[1:])
    found = []
    for i in np.flatnonzero(wanted):
        low, high = int(times[i]), int(times[i + 1])
        for _ in range(N_BISECTIONS):
            middle = (low + high) // 2
            if bool(altitude_at(np.array([middle]))[0] > limit_deg) == rising:
                high = middle
            else:
                low = middle
        found.append((low + high) // 2)
    return found


def _with_extrema(
    altitude_at: Callable[[NDArray[np.int64]], Array], times_ns: NDArray[np.int64], altitude: Array, limit_deg: float
) -> tuple[NDArray[np.int64], Array]:
    """The samples, with the vertices of parabolas through three of them where the limit is grazed."""
    a, b, c = altitude[:-2], altitude[1:-1], altitude[2:]
    curve = a - 2 * b + c
    turns = ((b >= a) & (b >= c)) | ((b <= a) & (b <= c))
    near = turns & (np.abs(b - limit_deg) < 0.01) & (np.abs(curve) > 0)
    extra = [int(times_ns[i + 1] + 0.5 * (a[i] - c[i]) / curve[i] * STEP_S * _NS) for i in np.flatnonzero(near)]
    if not extra:
        return times_ns, altitude
    times = np.concatenate([times_ns, np.array(extra, dtype=np.int64)])
    heights = np.concatenate([altitude, altitude_at(np.array(extra, dtype=np.int64))])
    order = np.argsort(times, kind="stable")
    return times[order], heights[order]
