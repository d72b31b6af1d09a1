"""The header contract, what a FITS reader gets back, and the names of files."""

from __future__ import annotations

import io
import re
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given
from hypothesis import strategies as st

from nightbell.contracts.errors import Failed
from nightbell.contracts.frames import HEADER, LONGEST_RELATIVE_PATH, Key, check_header, frame_file_name, keys_of, new_frame_id
from nightbell.contracts.instants import parse_utc
from nightbell.contracts.states import FrameType
from nightbell.telescope.header import verify_fits, wcs_values, weather_values, write_fits

from .conftest import STARTED_NS, make_frame


@pytest.mark.parametrize("frame_type", list(FrameType))
def test_a_frame_carries_the_whole_contract(frame_type: FrameType) -> None:
    with fits.open(io.BytesIO(write_fits(make_frame(frame_type))), checksum=True) as hdus:
        header = hdus[0].header
        assert check_header(header, frame_type) == ()
        assert set(header) - {"SIMPLE", "NAXIS", "NAXIS1", "NAXIS2", "EXTEND", "BSCALE"} <= {row.card for row in keys_of(frame_type)}


@pytest.mark.parametrize("frame_type", list(FrameType))
def test_a_frame_without_one_keyword_of_the_contract_is_refused_by_name(frame_type: FrameType) -> None:
    frame = make_frame(frame_type)
    del frame.values[Key.IMAGETYP]  # type: ignore[attr-defined]
    with pytest.raises(Failed, match="IMAGETYP"):
        write_fits(frame)


def test_pixels_above_32767_survive_and_rows_stay_rows() -> None:
    with fits.open(io.BytesIO(write_fits(make_frame()))) as hdus:
        data = hdus[0].data
        assert data.shape == (30, 40)
        assert (data[2, 3], data[29, 39], data.dtype) == (40000, 65535, np.uint16)


def test_the_middle_of_the_exposure_less_half_of_it_is_its_start() -> None:
    with fits.open(io.BytesIO(write_fits(make_frame()))) as hdus:
        header = hdus[0].header
    start_ns, middle_ns = parse_utc(header["DATE-OBS"]), parse_utc(header["DATE-AVG"])
    assert abs((middle_ns - start_ns) / 1e9 - header["EXPTIME"] / 2) < 0.002
    assert header["DATE-OBS"] == "2027-04-12T23:10:05.123"
    # MJD 51544 is 2000-01-01; from there by the calendar of the standard library.
    days = (datetime.fromisoformat(header["DATE-OBS"]) - datetime(2000, 1, 1)) / timedelta(days=1)  # noqa: DTZ001
    assert abs(header["MJD-OBS"] - 51544 - days) < 1e-8


@given(ra=st.floats(0, 359.9), dec=st.floats(-80, 80), rotation=st.floats(-180, 180), mirrored=st.booleans())
def test_the_first_guess_of_the_wcs_puts_up_at_its_position_angle(*, ra: float, dec: float, rotation: float, mirrored: bool) -> None:
    from astropy.coordinates import SkyCoord
    from astropy.wcs import WCS

    header = fits.Header()
    for key, value in wcs_values(
        ra_deg=ra, dec_deg=dec, shape=(30, 40), scale_arcsec=1.2, rotation_deg=rotation, mirrored=mirrored
    ).items():
        if key is not Key.WCSQUAL:
            header[key.value] = value
    wcs = WCS(header)
    middle, up, right = (SkyCoord(*wcs.wcs_pix2world(x, y, 0), unit="deg") for x, y in ((19.5, 14.5), (19.5, 15.5), (20.5, 14.5)))
    assert abs((middle.position_angle(up).deg - rotation + 180) % 360 - 180) < 0.01
    assert abs((middle.position_angle(right).deg - rotation + (-90 if mirrored else 90) + 180) % 360 - 180) < 0.01
    assert middle.separation(up).arcsec == pytest.approx(1.2, rel=1e-6)


def test_stale_weather_is_absent_from_the_header() -> None:
    assert (
        weather_values(
            temperature_degc=12.0, humidity_percent=3.0, wind_m_per_s=3.0, pressure_hpa=7.0, sky_temperature_degc=None, age_s=121.0
        )
        == {}
    )


def test_a_name_that_is_no_ascii_is_still_written() -> None:
    frame = make_frame()
    frame.values[Key.OBJECT] = "\u03b1 Cen"  # type: ignore[index]
    with fits.open(io.BytesIO(write_fits(frame))) as hdus:
        assert hdus[0].header["OBJECT"] == "? Cen"


@pytest.mark.parametrize("at", [100, 3000, -1])
def test_one_changed_bit_is_found(tmp_path: Path, at: int) -> None:
    content = bytearray(write_fits(make_frame()))
    path = tmp_path / "frame.fits"
    path.write_bytes(content)
    assert verify_fits(path) == ""
    content[at] ^= 1
    path.write_bytes(content)
    assert verify_fits(path) != ""


@pytest.mark.parametrize("length", [0, 80, 2880, 4000, 5760])
def test_a_file_cut_short_is_found(tmp_path: Path, length: int) -> None:
    path = tmp_path / "frame.fits"
    path.write_bytes(write_fits(make_frame())[:length])
    assert verify_fits(path) != ""


def test_every_keyword_is_in_the_contract_once_and_fits_in_eight_characters() -> None:
    assert sorted(row.key for row in HEADER) == sorted(Key)
    assert len({row.card for row in HEADER}) == len(HEADER)


def name(**changes: object) -> str:
    given_ = {
        "camera": "main",
        "date_obs_ns": STARTED_NS,
        "frame_type": FrameType.LIGHT,
        "filter_name": "r",
        "object_name": "NGC4993",
        "frame_id": "0123456789abcdef",
    }
    return frame_file_name(**(given_ | changes))  # type: ignore[arg-type]


def test_a_frames_name_reads_as_camera_time_type_filter_object_id() -> None:
    assert name() == "main_20270412T231005.123_light_r_NGC4993_0123456789abcdef.fits"


def test_two_cameras_in_the_same_second_with_a_wild_filter_have_safe_and_distinct_names_and_headers_keep_the_original() -> None:
    wild = "H/alpha 7nm*"
    names = {name(camera=camera, filter_name=wild, frame_id=new_frame_id()).lower() for camera in ("Main", "main")}
    assert len(names) == 2
    assert all(re.fullmatch(r"[A-Za-z0-9._+-]+", one) for one in names)
    with fits.open(io.BytesIO(write_fits(make_frame(filter_name=wild)))) as hdus:
        assert hdus[0].header["FILTER"] == wild


@given(st.text(max_size=300), st.text(max_size=300), st.text(max_size=300))
def test_any_text_makes_a_safe_short_name(camera: str, filter_name: str, object_name: str) -> None:
    made = name(camera=camera, filter_name=filter_name, object_name=object_name)
    assert re.fullmatch(r"[A-Za-z0-9._+-]+", made)
    assert not made.endswith(".")
    assert len(f"2027-04-12/{made}") <= LONGEST_RELATIVE_PATH
    reserved = {"con", "prn", "aux", "nul", *(f"com{i}" for i in range(1, 10)), *(f"lpt{i}" for i in range(1, 10))}
    assert made.split(".")[0].lower() not in reserved


def test_frame_ids_sort_by_time_and_do_not_repeat() -> None:
    ids = [new_frame_id(1_800_000_000_000_000_000 + i * 1_000_000) for i in range(100)]
    assert ids == sorted(ids)
    assert len({new_frame_id(0) for _ in range(100)}) == 100
