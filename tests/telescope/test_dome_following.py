"""The dome of one telescope against vectors computed by rigid-body rotation, and what following keeps."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightbell.devices.protocols import AlignmentMode, PierSide
from nightbell.sky.view import Place, SkyView
from nightbell.telescope.dome_following import DomeModel
from nightbell.telescope.pointing import azimuth_difference_deg
from nightbell.telescope.settings import DomeSettings

from .conftest import SITE, STARTED_NS

OWN = DomeSettings(mount_east_m=0.1, mount_north_m=-0.2, mount_up_m=-0.3, axis_offset_m=0.55, slit_low_deg=5, slit_back_deg=70)


def place(ha_deg: float, dec_deg: float, az_deg: float = 0.0, alt_deg: float = 0.0) -> Place:
    return Place(altitude_deg=alt_deg, azimuth_deg=az_deg, hour_angle_h=ha_deg / 15, declination_deg=dec_deg)


def test_the_beam_pierces_the_dome_where_an_independent_construction_says(shared_data: Path) -> None:
    kinds = {"gem": AlignmentMode.GERMAN, "fork": AlignmentMode.POLAR, "altaz": AlignmentMode.ALT_AZ}
    sides = {"east": PierSide.EAST, "west": PierSide.WEST, "none": PierSide.UNKNOWN}
    worst = 0.0
    with open(shared_data / "dome" / "vectors.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        settings = replace(
            OWN,
            radius_m=float(row["dome_radius_m"]),
            mount_east_m=float(row["mount_east_m"]),
            mount_north_m=float(row["mount_north_m"]),
            mount_up_m=float(row["mount_up_m"]),
            axis_offset_m=float(row["axis_offset_m"]),
            piggyback_offset_m=float(row["cross_offset_m"]),
        )
        model = DomeModel(settings, latitude_deg=float(row["lat_deg"]), alignment=kinds[row["mount"]])
        where = place(float(row["ha_deg"] or 0), float(row["dec_deg"] or 0), float(row["target_az_deg"]), float(row["target_alt_deg"]))
        east, north, up = model.pierce(where, sides[row["pier_side"]])
        worst = max(worst, abs(azimuth_difference_deg(math.degrees(math.atan2(east, north)), float(row["dome_az_deg"]))))
        worst = max(worst, abs(math.degrees(math.asin(up / settings.radius_m)) - float(row["dome_alt_deg"])))
    assert len(rows) == 520
    assert worst < 1e-6


@given(ra=st.floats(0, 359.9), dec=st.floats(-85, 25), side=st.sampled_from([PierSide.EAST, PierSide.WEST]))
def test_a_dome_sent_where_the_model_says_covers_two_minutes(ra: float, dec: float, side: PierSide) -> None:
    sky = SkyView(SITE)
    start, end = sky.place(ra, dec, STARTED_NS), sky.place(ra, dec, STARTED_NS + 120_000_000_000)
    if not min(start.altitude_deg, end.altitude_deg) > 40 or max(start.altitude_deg, end.altitude_deg) > 65:
        return
    model = DomeModel(OWN, latitude_deg=SITE.latitude_deg, alignment=AlignmentMode.GERMAN)
    azimuth_deg = model.azimuth_for(start, end, side)
    coverage = model.coverage(start, end, side, azimuth_deg + OWN.tolerance_deg * 0.99)
    assert coverage.covered
    assert coverage.vignetted == 0.0


def test_an_unknown_dome_azimuth_covers_nothing() -> None:
    model = DomeModel(OWN, latitude_deg=-30.0, alignment=AlignmentMode.GERMAN)
    here = SkyView(SITE).place(197.45, -23.38, STARTED_NS)
    assert not model.coverage(here, here, PierSide.WEST, None).covered


def test_from_359_to_1_is_two_degrees() -> None:
    assert azimuth_difference_deg(1, 359) == pytest.approx(2)
    assert azimuth_difference_deg(359, 1) == pytest.approx(-2)
