"""Sunset, twilights and the Moon against skyfield, and at the poles."""

from __future__ import annotations

import contextlib
import warnings
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from nightbell.contracts.errors import BadInput
from nightbell.contracts.instants import format_utc
from nightbell.contracts.records import Site
from nightbell.sky.ephemeris import illumination, moon_altaz, sun_altaz
from nightbell.sky.night import events_of_night, noon_before

SITES = (
    Site(name="demo", latitude_deg=-29.2567, longitude_deg=-70.7377, elevation_m=2400.0),
    Site(name="calar alto", latitude_deg=37.2236, longitude_deg=-2.5461, elevation_m=2168.0),
    Site(name="new zealand", latitude_deg=-43.98, longitude_deg=170.46, elevation_m=1030.0),
)
SVALBARD = Site(name="svalbard", latitude_deg=78.2, longitude_deg=15.6, elevation_m=500.0)


def by_skyfield(site: Site, begin_ns: int, body: str, limits: tuple[float, ...]) -> dict[tuple[float, bool], list[float]]:
    """(limit, rising) -> seconds since 1970 of the crossings in the next 24 h, unrefracted, by another program and ephemeris."""
    from skyfield.api import Loader
    from skyfield_data import get_skyfield_data_path

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # its Earth-orientation table is old; it is not used
        folder = get_skyfield_data_path()
    load = Loader(folder, expire=False, verbose=False)
    ts = load.timescale(builtin=True)
    with contextlib.closing(load("de421.bsp")) as planets:
        return _crossings(ts, planets, site, begin_ns, body, limits)


def _crossings(
    ts: Any, planets: Any, site: Site, begin_ns: int, body: str, limits: tuple[float, ...]
) -> dict[tuple[float, bool], list[float]]:
    from skyfield import almanac
    from skyfield.api import wgs84

    here = planets["earth"] + wgs84.latlon(site.latitude_deg, site.longitude_deg, elevation_m=site.elevation_m)
    begin = datetime.fromtimestamp(begin_ns / 1e9, tz=UTC)
    t0, t1 = ts.from_datetime(begin), ts.from_datetime(datetime.fromtimestamp(begin_ns / 1e9 + 86_400, tz=UTC))
    found: dict[tuple[float, bool], list[float]] = {}
    for limit in limits:

        def above(t: object, limit: float = limit) -> object:
            altitude, _, _ = here.at(t).observe(planets[body]).apparent().altaz()
            return altitude.degrees > limit

        above.step_days = 0.02  # type: ignore[attr-defined]
        times, values = almanac.find_discrete(t0, t1, above)
        for at, value in zip(times, values, strict=True):
            found.setdefault((limit, bool(value)), []).append(at.utc_datetime().timestamp())
    return found


@pytest.mark.parametrize("site", SITES, ids=lambda site: site.name)
@pytest.mark.parametrize("night", ["2026-12-21", "2027-03-21", "2027-04-12", "2027-06-20"])
def test_dusk_and_dawn_agree_with_skyfield_within_a_second(site: Site, night: str) -> None:
    found = events_of_night(site, night)
    other = by_skyfield(site, noon_before(night, site.longitude_deg), "sun", (-0.8333, -6.0, -12.0, -18.0))
    for limit, down, up in (
        (-0.8333, found.sunset, found.sunrise),
        (-6.0, found.civil_dusk, found.civil_dawn),
        (-12.0, found.nautical_dusk, found.nautical_dawn),
        (-18.0, found.astronomical_dusk, found.astronomical_dawn),
    ):
        for at_ns, rising in ((down, False), (up, True)):
            assert at_ns is not None
            # UT1 - UTC, taken as 0 here, is worth some tenths of a second.
            assert at_ns / 1e9 == pytest.approx(other[limit, rising][0], abs=1.5)


HARD_SITES = {
    "svalbard": (78.2, 15.6, 500.0),
    "dome c": (-75.1, 123.35, 3233.0),
    "south pole": (-90.0, 0.0, 2835.0),
    "quito, high": (0.0, -78.5, 5640.0),
    "date line": (-17.7, 179.99, 10.0),
    "beyond the date line": (-21.1, 181.0, 10.0),
}


@pytest.mark.parametrize("name", HARD_SITES)
def test_what_does_not_happen_for_skyfield_does_not_happen_for_us(name: str) -> None:
    latitude_deg, longitude_deg, elevation_m = HARD_SITES[name]
    site = Site(name=name, latitude_deg=latitude_deg, longitude_deg=longitude_deg, elevation_m=elevation_m)
    for night in ("2026-12-21", "2027-03-20", "2027-05-20"):
        found = events_of_night(site, night)
        other = by_skyfield(site, noon_before(night, site.longitude_deg), "sun", (-0.8333, -6.0, -12.0, -18.0))
        for limit, down, up in (
            (-0.8333, found.sunset, found.sunrise),
            (-6.0, found.civil_dusk, found.civil_dawn),
            (-12.0, found.nautical_dusk, found.nautical_dawn),
            (-18.0, found.astronomical_dusk, found.astronomical_dawn),
        ):
            for at_ns, rising in ((down, False), (up, True)):
                theirs = other.get((limit, rising), [])
                assert (at_ns is None) == (not theirs), (night, limit, rising, theirs)
                if at_ns is not None:
                    assert min(abs(at_ns / 1e9 - one) for one in theirs) < 1.0, (night, limit, rising)


def test_the_moon_rises_when_skyfield_says_within_fifteen_seconds() -> None:
    site = SITES[1]
    found = events_of_night(site, "2027-04-12")
    other = by_skyfield(site, noon_before("2027-04-12", site.longitude_deg), "moon", (-0.8333,))
    for at_ns, rising in ((found.moonrise, True), (found.moonset, False)):
        if at_ns is not None:
            assert at_ns / 1e9 == pytest.approx(other[-0.8333, rising][0], abs=15.0)
    assert found.moonrise is not None or found.moonset is not None


def test_in_polar_night_the_sun_does_not_rise_but_the_twilights_cross() -> None:
    found = events_of_night(SVALBARD, "2026-12-21")
    assert found.always_dark
    assert not found.never_dark
    assert found.sunset is None
    assert found.sunrise is None
    assert found.astronomical_dusk is not None


def test_in_polar_day_nothing_is_dark() -> None:
    found = events_of_night(SVALBARD, "2027-06-20")
    assert found.never_dark
    assert not found.always_dark
    assert [found.sunset, found.civil_dusk, found.nautical_dusk, found.astronomical_dusk] == [None] * 4


def test_a_night_begins_at_the_local_noon_of_its_date_wherever_the_site_is() -> None:
    assert format_utc(noon_before("2027-04-12", -70.7377), digits=0) == "2027-04-12T16:42:57Z"
    assert format_utc(noon_before("2027-04-12", 170.46), digits=0) == "2027-04-12T00:38:10Z"
    assert noon_before("2027-04-12", 289.2623) == pytest.approx(noon_before("2027-04-12", -70.7377), abs=1_000)


def test_a_date_that_is_none_is_refused_with_an_example() -> None:
    with pytest.raises(BadInput, match="2027-04-12"):
        noon_before("12.4.2027", 0.0)


def test_sun_and_moon_agree_with_astropy() -> None:
    from astropy import units as u
    from astropy.coordinates import AltAz, EarthLocation, get_body
    from astropy.time import Time

    site = SITES[0]
    times_ns = np.arange(5, dtype=np.int64) * 21_600_000_000_000 + 1_807_571_405_123_000_000
    location = EarthLocation(lat=site.latitude_deg * u.deg, lon=site.longitude_deg * u.deg, height=site.elevation_m * u.m)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        frame = AltAz(obstime=Time(times_ns / 1e9, format="unix"), location=location)
    # astropy may complain about the age of its leap seconds, once per process.
    warnings.simplefilter("ignore")
    for name, ours, within_deg in (("sun", sun_altaz, 0.005), ("moon", moon_altaz, 0.02)):
        theirs = get_body(name, frame.obstime, location).transform_to(frame)
        altitude, _ = ours(site, times_ns)
        assert np.abs(altitude - theirs.alt.deg).max() < within_deg


def test_the_moon_is_full_and_new_when_the_almanac_says() -> None:
    # Full 2027-04-20 22:27 UTC, new 2027-05-06 10:58 UTC (skyfield's almanac, DE421).
    full, new = illumination(np.array([1_808_260_020_000_000_000, 1_809_601_080_000_000_000], dtype=np.int64))
    assert full > 0.99
    assert new < 0.01
