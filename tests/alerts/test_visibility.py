"""What a site can observe: against astropy, and against a night that everybody remembers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import AltAz, EarthLocation, SkyCoord
from astropy.time import Time

from nightbell.alerts.settings import ObservatorySettings
from nightbell.alerts.visibility import Visibility, altaz_of, visibility_of
from nightbell.contracts.instants import format_utc, parse_utc
from nightbell.contracts.records import Site

HOUR_NS = 3_600_000_000_000
LAS_CAMPANAS = Site(name="lco", latitude_deg=-29.0146, longitude_deg=-70.6926, elevation_m=2380.0)
NGC4993 = (197.44875, -23.38389)
NOON_NS = parse_utc("2017-08-17T16:00:00Z")


# Old tables of leap seconds and polar motion, of which astropy complains, move a place by less than 0.001 deg.
pytestmark = pytest.mark.filterwarnings("ignore::astropy.utils.exceptions.AstropyWarning")


def limits(site: Site, **more: object) -> ObservatorySettings:
    return ObservatorySettings(latitude_deg=site.latitude_deg, longitude_deg=site.longitude_deg, **more)  # type: ignore[arg-type]


def seen(ra_deg: float, dec_deg: float, *, site: Site = LAS_CAMPANAS, now_ns: int = NOON_NS, **more: object) -> Visibility:
    return visibility_of(site, limits(site, **more), np.array([ra_deg]), np.array([dec_deg]), now_ns=now_ns)[0]


def test_altitudes_and_azimuths_agree_with_astropy_at_a_thousand_places_and_times() -> None:
    rng = np.random.default_rng(20170817)
    for _ in range(10):
        latitude, longitude = math.degrees(math.asin(rng.uniform(-0.98, 0.98))), rng.uniform(-180, 180)
        site = Site(name="x", latitude_deg=latitude, longitude_deg=longitude, elevation_m=2000.0)
        ra, dec = rng.uniform(0, 360, 100), np.degrees(np.arcsin(rng.uniform(-1, 1, 100)))
        at_ns = parse_utc("2018-01-01T00:00:00Z") + int(rng.integers(0, 6 * 365 * 24)) * HOUR_NS
        altitude, azimuth = altaz_of(site, ra, dec, np.array([at_ns]))
        place = EarthLocation.from_geodetic(longitude * u.deg, latitude * u.deg, 2000 * u.m)
        want = SkyCoord(ra * u.deg, dec * u.deg).transform_to(AltAz(obstime=Time(at_ns / 1e9, format="unix"), location=place))
        got = SkyCoord(azimuth[:, 0] * u.deg, altitude[:, 0] * u.deg)
        # No aberration (0.006 deg), UT1 taken as UTC (0.004 deg).
        assert got.separation(SkyCoord(want.az, want.alt)).deg.max() < 0.02


def test_ngc4993_was_observable_only_in_the_first_hours_of_the_night_of_gw170817() -> None:
    found = seen(*NGC4993, altitude_min_deg=25.0, sun_limit_deg=-12.0)
    assert found.share == 1.0
    assert found.from_ns is not None
    assert found.until_ns is not None
    # Sunset was at 22:16 UTC, the discovery image at 23:33: two hours in the dark above airmass 2.4, not at midnight (04:40).
    assert "2017-08-17T23:05" < format_utc(found.from_ns) < "2017-08-17T23:20"
    assert "2017-08-18T00:30" < format_utc(found.until_ns) < "2017-08-18T01:30"


def test_a_place_that_never_rises_is_refused_with_its_best_altitude() -> None:
    found = seen(10.0, 80.0)
    assert (found.share, found.from_ns) == (0.0, None)
    assert "never above 25 deg" in found.reason


def test_a_visit_that_fits_by_half_counts_by_half() -> None:
    whole = seen(*NGC4993)
    assert whole.from_ns is not None
    assert whole.until_ns is not None
    seconds = (whole.until_ns - whole.from_ns) / 1e9
    long_visit = seen(*NGC4993, overhead_s=3600.0, exposure_s=(2 * seconds - 3600) / 4, n_exposures=2)
    assert long_visit.share == pytest.approx(0.5, abs=0.01)


def test_the_full_moon_hides_its_surroundings_and_nothing_when_it_is_down() -> None:
    full_ns = parse_utc("2017-08-07T18:11:00Z")
    from astropy.coordinates import get_body

    place = EarthLocation.from_geodetic(LAS_CAMPANAS.longitude_deg * u.deg, LAS_CAMPANAS.latitude_deg * u.deg, 2380 * u.m)
    moon = get_body("moon", Time((full_ns + 9 * HOUR_NS) / 1e9, format="unix"), place).icrs
    hidden = seen(float(moon.ra.deg), float(moon.dec.deg), now_ns=full_ns)
    assert (hidden.share, hidden.reason) == (0.0, "too near the Moon whenever it is up")
    careless = seen(float(moon.ra.deg), float(moon.dec.deg), now_ns=full_ns, moon_distance_deg=0.0, moon_full_extra_deg=0.0)
    assert careless.share == 1.0


def test_at_a_pole_in_summer_nothing_is_observable_and_it_says_why() -> None:
    pole = Site(name="pole", latitude_deg=89.9, longitude_deg=0.0, elevation_m=0.0)
    assert "Sun does not set" in seen(10.0, 80.0, site=pole, now_ns=parse_utc("2027-06-21T12:00:00Z")).reason
