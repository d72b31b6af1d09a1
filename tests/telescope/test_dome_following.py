"""The dome of one telescope against vectors computed by rigid-body rotation, and what following keeps."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
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


def test_the_light_that_a_slit_lets_through_is_what_a_grid_of_rays_says(shared_data: Path) -> None:
    with open(shared_data / "dome" / "coverage.csv", encoding="utf-8") as file:
        rows = [{key: value if key == "pier_side" else float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    worst = 0.0
    for row in rows:

        def clear(aperture_m: float, row: dict = row) -> float:
            names = [field for field in DomeSettings.__dataclass_fields__ if field in row and field != "aperture_m"]
            settings = replace(OWN, radius_m=row["dome_radius_m"], aperture_m=aperture_m, **{name: row[name] for name in names})
            model = DomeModel(settings, latitude_deg=row["lat_deg"], alignment=AlignmentMode.GERMAN)
            where, side = place(row["ha_deg"], row["dec_deg"]), PierSide.EAST if row["pier_side"] == "east" else PierSide.WEST
            return 1 - model.coverage(where, where, side, row["dome_az_deg"]).vignetted

        # The beam is a ring: what the whole disc lets through less what its hole would.
        outer, inner = row["aperture_m"] ** 2, row["obstruction_m"] ** 2
        ring = (clear(row["aperture_m"]) * outer - clear(row["obstruction_m"]) * inner) / (outer - inner)
        worst = max(worst, abs(ring - row["clear_fraction"]))
    assert len(rows) == 120
    assert worst < 0.01


def test_a_dome_that_covers_an_exposure_already_stays_where_it_is() -> None:
    sky = SkyView(SITE)
    start, end = sky.place(150.0, -60.0, STARTED_NS), sky.place(150.0, -60.0, STARTED_NS + 60_000_000_000)
    model = DomeModel(OWN, latitude_deg=SITE.latitude_deg, alignment=AlignmentMode.GERMAN)
    middle = model.azimuth_for(start, end, PierSide.EAST)
    assert model.azimuth_for(start, end, PierSide.EAST, middle + 1.0) == middle + 1.0
    assert model.azimuth_for(start, end, PierSide.EAST, middle + 90.0) == pytest.approx(middle)


def test_beside_the_zenith_the_dome_is_not_sent_after_an_azimuth_that_means_nothing() -> None:
    narrow = replace(OWN, slit_width_m=0.5, mount_east_m=0, mount_north_m=0, mount_up_m=0, axis_offset_m=0)
    model = DomeModel(narrow, latitude_deg=-30.0, alignment=AlignmentMode.GERMAN)
    up = place(0.05, -30.02)
    assert model.azimuth_for(up, up, PierSide.EAST, 77.0) == 77.0


def by_rotations(ha_deg: float, dec_deg: float, latitude_deg: float, side: PierSide, own: DomeSettings) -> np.ndarray:
    """Where the beam meets the dome, by turning a rigid mount about its two axes and walking along the ray: no formula shared."""

    def turn(axis: np.ndarray, angle_rad: float) -> np.ndarray:
        x, y, z = axis
        cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
        return np.eye(3) + math.sin(angle_rad) * cross + (1 - math.cos(angle_rad)) * cross @ cross

    latitude = math.radians(latitude_deg)
    pole = np.array([0.0, math.cos(latitude), math.sin(latitude)])
    # At rest on the meridian: the tube at the equator, pier east as the normal side, the second axis pointing east.
    tube, second, along = np.array([0.0, -math.sin(latitude), math.cos(latitude)]), np.array([1.0, 0.0, 0.0]), pole
    s = 1.0 if side is PierSide.EAST else -1.0
    foot = np.array([own.mount_east_m, own.mount_north_m, own.mount_up_m])
    about_pole = turn(pole, -math.radians(ha_deg))
    lift = turn(second, -math.radians(dec_deg))
    axis, across = about_pole @ lift @ tube, about_pole @ lift @ along
    foot = foot + s * (own.axis_offset_m * (about_pole @ second) + own.piggyback_offset_m * across)
    low, high = 0.0, 3 * own.radius_m
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if np.linalg.norm(foot + middle * axis) < own.radius_m else (low, middle)
    return foot + low * axis


GEOMETRIES = {
    "latitude_deg": st.floats(-90, 90),
    "ha_deg": st.floats(-120, 120),
    "dec_deg": st.floats(-89.9, 89.9),
    "side": st.sampled_from([PierSide.EAST, PierSide.WEST]),
    "offsets": st.tuples(*[st.floats(-0.4, 0.4)] * 5),
}


def dome_of(offsets: tuple[float, ...]) -> DomeSettings:
    names = ("mount_east_m", "mount_north_m", "mount_up_m", "axis_offset_m", "piggyback_offset_m")
    return replace(OWN, **dict(zip(names, offsets, strict=True)))


def pierced(own: DomeSettings, latitude_deg: float, ha_deg: float, dec_deg: float, side: PierSide) -> np.ndarray:
    return DomeModel(own, latitude_deg=latitude_deg, alignment=AlignmentMode.GERMAN).pierce(place(ha_deg, dec_deg), side)


@given(**GEOMETRIES)
def test_at_any_site_and_pier_side_the_beam_is_where_turning_a_rigid_mount_puts_it(
    latitude_deg: float, ha_deg: float, dec_deg: float, side: PierSide, offsets: tuple[float, ...]
) -> None:
    own = dome_of(offsets)
    ours = pierced(own, latitude_deg, ha_deg, dec_deg, side)
    assert np.abs(ours - by_rotations(ha_deg, dec_deg, latitude_deg, side, own)).max() < 1e-9


@given(**GEOMETRIES)
def test_east_and_west_and_north_and_south_are_mirror_images(
    latitude_deg: float, ha_deg: float, dec_deg: float, side: PierSide, offsets: tuple[float, ...]
) -> None:
    east, north, up, arm, across = offsets
    other = PierSide.WEST if side is PierSide.EAST else PierSide.EAST
    here = pierced(dome_of(offsets), latitude_deg, ha_deg, dec_deg, side)
    turned = pierced(dome_of((-east, north, up, arm, -across)), latitude_deg, -ha_deg, dec_deg, other)
    assert turned == pytest.approx(here * [-1, 1, 1], abs=1e-9)
    beyond = pierced(dome_of((east, -north, up, arm, -across)), -latitude_deg, ha_deg, -dec_deg, side)
    assert beyond == pytest.approx(here * [1, -1, 1], abs=1e-9)


@given(latitude_deg=st.floats(-90, 90), ha_deg=st.floats(-180, 179), side=st.sampled_from([PierSide.EAST, PierSide.WEST]))
def test_near_the_pole_a_degree_of_hour_angle_hardly_moves_the_beam(latitude_deg: float, ha_deg: float, side: PierSide) -> None:
    pole_deg = 89.9 if latitude_deg >= 0 else -89.9
    moved = pierced(OWN, latitude_deg, ha_deg + 1, pole_deg, side) - pierced(OWN, latitude_deg, ha_deg, pole_deg, side)
    assert np.linalg.norm(moved) <= 0.0175 * OWN.axis_offset_m + 0.002 * OWN.radius_m
