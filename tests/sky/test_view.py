"""Sun, Moon and places against the simulator's own sky, which shares no code with ours, and against identities."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightbell.contracts.instants import parse_utc
from nightbell.contracts.records import Site
from nightbell.simulator import sky as world
from nightbell.sky.view import SkyView, night_label

STARTED_NS = 1_807_571_405_123_000_000  # 2027-04-12T23:10:05.123Z
SITE = Site(name="demo", latitude_deg=-29.2567, longitude_deg=-70.7377, elevation_m=2400.0)
SKY = SkyView(SITE)
PLACE = world.Place(
    longitude_rad=math.radians(SITE.longitude_deg), latitude_rad=math.radians(SITE.latitude_deg), elevation_m=SITE.elevation_m
)
INSTANTS = st.integers(parse_utc("2026-01-01T00:00:00Z"), parse_utc("2030-01-01T00:00:00Z"))


@given(INSTANTS)
def test_sidereal_time_agrees_with_the_simulated_world(at_ns: int) -> None:
    # 0.01 deg is 2.4 s: UT1 - UTC (below 0.9 s) is taken as 0 here.
    difference = SKY.sidereal_time_deg(at_ns) - world.sidereal_time_deg(at_ns, PLACE)
    assert abs((difference + 180) % 360 - 180) < 0.01


@given(st.floats(0, 359.99), st.floats(-89, 89), INSTANTS)
def test_to_coordinates_of_date_and_back_is_the_same_direction(ra: float, dec: float, at_ns: int) -> None:
    back_ra, back_dec = SKY.from_apparent(*SKY.apparent(ra, dec, at_ns), at_ns)
    assert abs(back_dec - dec) < 1e-6
    assert abs((back_ra - ra + 180) % 360 - 180) * math.cos(math.radians(dec)) < 1e-6


@given(st.floats(5, 85), st.floats(0, 359.99), INSTANTS)
def test_a_direction_over_the_horizon_is_found_again(altitude: float, azimuth: float, at_ns: int) -> None:
    place = SKY.place(*SKY.from_horizontal(altitude, azimuth, at_ns), at_ns)
    assert place.altitude_deg == pytest.approx(altitude, abs=1e-5)
    assert abs((place.azimuth_deg - azimuth + 180) % 360 - 180) * math.cos(math.radians(altitude)) < 1e-5


def test_the_sun_sets_over_the_demo_site_when_a_hand_calculation_says() -> None:
    # 2027-04-12, declination 8.9 deg: cos H = (sin -0.833 - sin L sin d) / (cos L cos d) = 0.0709, H = 5.729 h; transit at
    # 12 h + 4.716 h (longitude) + 0.011 h (equation of time) = 16:43:40 UTC; sunset 22:27:25.
    before, after = parse_utc("2027-04-12T22:26:30Z"), parse_utc("2027-04-12T22:28:30Z")
    assert SKY.sun_altitude_deg(before) > -0.833 > SKY.sun_altitude_deg(after)


def test_airmass_is_one_at_the_zenith_and_none_below_the_horizon() -> None:
    zenith = SKY.place(*SKY.from_horizontal(89.999, 0.0, STARTED_NS), STARTED_NS)
    assert zenith.airmass == pytest.approx(1.0, abs=0.001)
    assert SKY.place(*SKY.from_horizontal(-1.0, 0.0, STARTED_NS), STARTED_NS).airmass is None


def test_a_night_has_the_date_of_the_noon_before_and_is_not_split_at_utc_midnight() -> None:
    evening, morning = parse_utc("2027-04-12T22:00:00Z"), parse_utc("2027-04-13T10:00:00Z")
    assert night_label(evening, -70.7377) == night_label(morning, -70.7377) == "2027-04-12"
    assert night_label(parse_utc("2027-04-13T17:00:00Z"), -70.7377) == "2027-04-13"


def test_the_moon_lights_up_between_new_and_full() -> None:
    # New Moon 2027-04-06 23:51 UTC, full Moon 2027-04-20 22:27 UTC (IMCCE).
    assert SKY.moon(0, 0, parse_utc("2027-04-06T23:51:00Z")).illumination < 0.01
    assert SKY.moon(0, 0, parse_utc("2027-04-20T22:27:00Z")).illumination > 0.99
