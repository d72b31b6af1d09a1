"""Headers in many spellings become one vocabulary; what is doubtful is said."""

from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import pytest

from nightbell.calibration.cameras import SHIPPED, load_cameras
from nightbell.calibration.intake import intake
from nightbell.calibration.sections import parse_section
from nightbell.contracts.errors import BadInput, Mistakes

CAMERAS = load_cameras()
REPOSITORY = Path(__file__).resolve().parents[2]


def _codes(exposure):
    return [one.code for one in exposure.ambiguities]


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("Light Frame", "light"),
        ("LIGHT", "light"),
        ("science", "light"),
        ("object", "light"),
        ("Bias Frame", "bias"),
        ("ZERO", "bias"),
        ("zero", "bias"),
        ("DARK", "dark"),
        ("Dark Frame", "dark"),
        ("Flat Field", "flat"),
        ("SKYFLAT", "flat"),
        ("sky flat", "flat"),
        ("FOCUS", "other"),
        ("ACQ", "other"),
    ],
)
def test_the_words_of_many_programs_are_one_kind(camera, word, kind):
    assert intake(camera.take(word, name="x", exposure_s=60.0), CAMERAS)[0].kind == kind


def test_without_a_word_the_folder_tells_and_that_is_said(camera):
    path = camera.take("", name="Flats/a", header={"IMAGETYP": None})
    exposure, _ = intake(path, CAMERAS)
    assert exposure.kind == "flat"
    assert "KIND" in _codes(exposure)


def test_a_name_that_contradicts_the_header_loses_and_is_said(camera):
    exposure, _ = intake(camera.take("Bias Frame", name="a-180s.Dark.001"), CAMERAS)
    assert exposure.kind == "bias"
    assert "KIND" in _codes(exposure)


def test_a_frame_that_nothing_names_is_refused(camera):
    with pytest.raises(BadInput, match="KIND"):
        intake(camera.take("", name="img001", exposure_s=5.0, header={"IMAGETYP": None}), CAMERAS)


@pytest.mark.parametrize(
    ("header", "name", "kind"),
    [
        ({"DATA-TYP": "OBJECT"}, "a", "light"),
        ({"OBJECT": "Bias"}, "a", "bias"),
        ({"OBJECT": "dome flat V"}, "a", "flat"),
        ({"OBJECT": "dark 60s"}, "NGC7000_Light", "dark"),
        ({}, "flatV_001", "flat"),
        ({}, "DarkBefore-001", "dark"),
        ({}, "NGC7000_Light_003", "light"),
    ],
)
def test_without_an_imagetyp_other_words_tell_the_kind(camera, header, name, kind):
    path = camera.take("", name=name, exposure_s=60.0, header={"IMAGETYP": None, **header})
    assert intake(path, CAMERAS)[0].kind == kind


def test_folders_far_above_a_frame_do_not_tell_its_kind(camera):
    with pytest.raises(BadInput, match="KIND"):
        intake(camera.take("", name="science/2027/a/b/c", exposure_s=60.0, header={"IMAGETYP": None}), CAMERAS)


def test_the_filter_of_other_telescopes_is_found(camera):
    for key in ("FILTERS", "FILTER01"):
        assert intake(camera.take("LIGHT", filter_name=None, header={key: "W-J-V"}), CAMERAS)[0].filter == "W-J-V"


def test_a_date_of_before_2000_is_a_date(camera):
    exposure, _ = intake(camera.take("LIGHT", header={"DATE-OBS": "12/03/98", "UT": "04:05:06"}), CAMERAS)
    assert exposure.date_obs_utc == "1998-03-12T04:05:06.000Z"


def test_a_frame_that_another_program_has_calibrated_is_refused(camera):
    with pytest.raises(BadInput, match="CALSTAT = 'BDF'"):
        intake(camera.take("LIGHT", header={"CALSTAT": "BDF"}), CAMERAS)


def test_a_master_made_elsewhere_is_known_as_one(camera):
    assert intake(camera.take("Master Bias"), CAMERAS)[0].is_combined
    assert intake(camera.take("Bias Frame", header={"NCOMBINE": 20}), CAMERAS)[0].is_combined
    assert not intake(camera.take("Bias Frame", header={"NCOMBINE": 1}), CAMERAS)[0].is_combined


def test_frames_of_another_amplifier_setting_do_not_meet(camera):
    low, high, silent = (
        intake(camera.take("Bias Frame", header=header), CAMERAS)[0].setup
        for header in ({"GAIN": 0, "OFFSET": 21}, {"GAIN": 139, "OFFSET": 21}, {})
    )
    assert low.differences(high) == ("gain setting 139 offset 21, not 0 offset 21",)
    assert silent.differences(high) == ()


def test_a_32_bit_frame_full_of_65535_is_saturated_there_and_another_is_not(camera):
    full, other = np.full((96, 128), 900, np.int32), np.full((96, 128), 900, np.int32)
    full[3, 4], other[3, 4] = 65535, 65536
    assert intake(camera.take("LIGHT", pixels=full), CAMERAS)[0].saturation_adu == 65535.0
    assert intake(camera.take("LIGHT", pixels=other), CAMERAS)[0].saturation_adu == np.inf


def test_two_exposure_times_that_differ_are_said(camera):
    exposure, _ = intake(camera.take("light", exposure_s=60.0, header={"EXPOSURE": 30.0}), CAMERAS)
    assert exposure.exposure_s == 60.0
    assert "EXPTIME" in _codes(exposure)


def test_a_gain_setting_is_not_a_gain(camera):
    exposure, _ = intake(camera.take("light", header={"EGAIN": None, "GAIN": 139}), CAMERAS)
    assert exposure.gain_e_per_adu is None
    assert "GAIN" in _codes(exposure)


def test_a_small_number_is_a_setting_too_where_the_maker_means_it_so(camera):
    exposure, _ = intake(camera.take("LIGHT", header={"INSTRUME": "ZWO ASI1600MM Pro", "EGAIN": None, "GAIN": 10}), CAMERAS)
    assert exposure.gain_e_per_adu is None
    assert exposure.setup.gain_setting == "10"


def test_a_dark_without_exposure_is_a_bias_and_that_is_said(camera):
    exposure, _ = intake(camera.take("Dark Frame", name="a"), CAMERAS)
    assert exposure.kind == "bias"
    assert "KIND" in _codes(exposure)


def test_a_plausible_gain_of_an_unknown_camera_is_taken_and_said(camera):
    exposure, _ = intake(camera.take("light", header={"EGAIN": None, "GAIN": 1.3}), CAMERAS)
    assert exposure.gain_e_per_adu == 1.3
    assert "GAIN" in _codes(exposure)


@pytest.mark.parametrize("word", ["Open", "free", "CLEAR", "Air"])
def test_no_filter_by_any_name_is_clear(camera, word):
    assert intake(camera.take("light", filter_name=word), CAMERAS)[0].filter == "clear"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("[1:10,1:20]", (0, 10, 0, 20)), ("[10:1,20:1]", (0, 10, 0, 20)), ("[*,5:6]", (0, 30, 4, 6)), ("*", (0, 30, 0, 40))],
)
def test_sections_count_from_one_and_include_their_ends(text, expected):
    section = parse_section(text, (40, 30))
    assert (section.x0, section.x1, section.y0, section.y1) == expected


@pytest.mark.parametrize("text", ["[0,1:0,5]", "[0:10,1:5]", "[1:31,1:5]", "[1:10]", "all", "[-3:4,1:5]"])
def test_a_section_outside_the_frame_is_an_error_not_an_empty_image(text):
    with pytest.raises(ValueError, match=r"outside|is not"):
        parse_section(text, (40, 30))


def test_a_wrong_section_of_a_header_is_ignored_and_said(camera):
    exposure, _ = intake(camera.take("light", header={"BIASSEC": "[0,513:0,1536]", "DATASEC": "[513,513:1536,1536]"}), CAMERAS)
    assert exposure.overscan is None
    assert exposure.data.shape == (96, 128)
    assert _codes(exposure).count("SECTION") == 2


def test_overscan_and_data_are_found_where_the_header_puts_them(camera):
    exposure, _ = intake(camera.take("light", header={"BIASSEC": "[121:128,1:96]", "TRIMSEC": "[1:120,3:96]"}), CAMERAS)
    assert str(exposure.overscan) == "[121:128,1:96]"
    assert exposure.data.shape == (94, 120)


@pytest.mark.parametrize(
    ("bias_section", "data"),
    [
        ("[1:8,1:96]", "[9:128,1:96]"),
        ("[121:128,*]", "[1:120,1:96]"),
        ("[1:128,91:96]", "[1:128,1:90]"),
        ("[60:70,40:50]", "[1:128,1:96]"),
    ],
)
def test_where_no_section_tells_of_the_light_it_is_what_the_overscan_leaves(camera, bias_section, data):
    exposure, _ = intake(camera.take("LIGHT", header={"BIASSEC": bias_section}), CAMERAS)
    assert str(exposure.data) == data
    assert "SECTION" in _codes(exposure)


def test_night_is_the_local_date_at_the_noon_before(camera):
    path = camera.take("light", header={"DATE-OBS": "2018-10-18T02:39:40"})
    assert intake(path, CAMERAS, longitude_deg=-71.5)[0].night == "2018-10-17"
    assert intake(path, CAMERAS, longitude_deg=150.0)[0].night == "2018-10-18"


def test_a_pedestal_is_not_applied_and_said(camera):
    assert "PEDESTAL" in _codes(intake(camera.take("light", header={"PEDESTAL": -100}), CAMERAS)[0])


def test_a_camera_file_settles_what_a_header_leaves_open(camera, tmp_path):
    (tmp_path / "mute.toml").write_text(
        'folders = { "calib" = "flat" }\nnames = "(?P<kind>bias|dark|flat|light)-(?P<exptime>[0-9.]+)s-(?P<filter>\\\\w+)"\n'
        "gain_e_per_adu = 0.9\nread_noise_e = 5\n[match]\nINSTRUME = 'TESTCAM'\n",
        encoding="utf-8",
    )
    bare = {"IMAGETYP": None, "EXPTIME": None, "EGAIN": None, "RDNOISE": None, "FILTER": None}
    cameras = load_cameras([tmp_path])
    exposure, _ = intake(camera.take("", name="dark-30s-none", header=bare), cameras)
    assert (exposure.setup.camera, exposure.kind, exposure.exposure_s, exposure.gain_e_per_adu) == ("mute", "dark", 30.0, 0.9)
    assert intake(camera.take("", name="calib/light-30s-g", header=bare), cameras)[0].kind == "flat"


def test_a_wrong_camera_file_names_its_key(tmp_path):
    (tmp_path / "bad.toml").write_text('filter_kye = "FILTER"\n', encoding="utf-8")
    with pytest.raises(Mistakes, match="filter_key"):
        load_cameras([tmp_path])


def test_the_camera_files_shipped_are_those_of_conf():
    shown = {path.name: tomllib.loads(path.read_text(encoding="utf-8")) for path in (REPOSITORY / "conf" / "cameras").glob("*.toml")}
    assert shown == {path.name: tomllib.loads(path.read_text(encoding="utf-8")) for path in SHIPPED.glob("*.toml")}


def test_16_bit_frames_saturate_at_65535_whatever_the_header_claims(camera):
    exposure, pixels = intake(camera.take("light", header={"SATURATE": 180000}), CAMERAS)
    assert exposure.saturation_adu == 65535
    assert pixels.dtype == np.uint16
