"""calibrate(): every frame is accounted for, nothing is done twice, what waits resumes, and the numbers are those of the sky."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.nddata import CCDData

from nightbell.calibration import batch
from nightbell.calibration.batch import calibrate
from nightbell.calibration.index import CalibrationIndex
from nightbell.contracts.errors import BadInput, Failed, Missing

from .conftest import GAIN, true_flat


def _hashes(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.rglob("*.fits"))}


def _night(camera):
    camera.biases(5)
    camera.darks(3)
    camera.flats(3)
    return camera.lights(3)


def test_a_whole_night_gives_the_sky_in_electrons(camera, tmp_path):
    _night(camera)
    outcome = calibrate([camera.folder], tmp_path / "out")
    assert not outcome.blocked
    assert not outcome.failed
    assert {one.kind for one in outcome.masters} == {"bias", "dark", "flat"}
    assert len(outcome.products) == 3
    for product in outcome.products:
        assert product.median == pytest.approx(1000 * GAIN, rel=0.005)
        assert product.noise == pytest.approx(np.sqrt(1000 * GAIN + 64), rel=0.05)
        assert product.status == "done"
        assert all(product.masters.values())
    ccd = CCDData.read(outcome.products[0].path)
    assert ccd.unit == u.electron
    assert ccd.mask.dtype == bool
    assert ccd.uncertainty.uncertainty_type == "std"
    block = ccd.data.reshape(8, 12, 8, 16).mean(axis=(1, 3))
    assert np.std(block) / np.mean(block) < 0.005  # the flat took 25 % of vignetting away; 192 pixels of 40 e leave 0.2 %


def test_the_same_frames_twice_and_in_another_order_give_the_same_bytes(camera, tmp_path):
    _night(camera)
    files = sorted(camera.folder.iterdir())
    first = calibrate([camera.folder], tmp_path / "a")
    calibrate(files[::-1], tmp_path / "b")
    assert _hashes(tmp_path / "a") == _hashes(tmp_path / "b")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*.fits")}
    again = calibrate([camera.folder], tmp_path / "a")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*.fits")} == before
    assert again.products == first.products


def test_ids_do_not_depend_on_where_the_files_lie(camera, tmp_path):
    _night(camera)
    shutil.copytree(camera.folder, tmp_path / "elsewhere")
    first, second = calibrate([camera.folder], tmp_path / "a"), calibrate([tmp_path / "elsewhere"], tmp_path / "b")
    assert [one.product_id for one in first.products] == [one.product_id for one in second.products]
    assert [one.sha256 for one in first.products] == [one.sha256 for one in second.products]


def test_ids_change_with_the_gain(camera, tmp_path):
    _night(camera)
    first = calibrate([camera.folder], tmp_path / "a")
    second = calibrate([camera.folder], tmp_path / "b", gain_e_per_adu=2.0)
    assert not {one.product_id for one in first.products} & {one.product_id for one in second.products}


def test_a_damaged_product_is_made_again(camera, tmp_path):
    _night(camera)
    first = calibrate([camera.folder], tmp_path / "a")
    whole = _hashes(tmp_path / "a")
    for one in (first.products[0].path, first.masters[0].path):
        with open(one, "r+b") as file:
            file.seek(4000)
            file.write(b"\xff\xff")
    calibrate([camera.folder], tmp_path / "a")
    assert _hashes(tmp_path / "a") == whole


def test_lights_wait_for_what_is_missing_and_resume_when_it_comes(camera, tmp_path):
    lights, out = camera.lights(2), tmp_path / "out"
    blocked = calibrate(lights, out).blocked
    assert [one.source for one in blocked] == [str(path) for path in lights]
    assert any(text.startswith("bias") for text in blocked[0].missing)
    assert any(text.startswith("flat r") for text in blocked[0].missing)
    assert calibrate(camera.biases(5), out).masters
    flats = calibrate(camera.flats(3), out)
    assert [one.kind for one in flats.masters] == ["flat"]
    done = calibrate(lights, out)
    assert len(done.products) == 2
    assert not done.blocked
    with CalibrationIndex.in_folder(out) as index:
        assert not index.query(status="blocked")
        assert {one["kind"] for one in index.query(status="done")} == {"light"}


def test_the_result_is_the_same_in_one_call_or_in_many(camera, tmp_path):
    bias, dark, flat, light = camera.biases(5), camera.darks(3), camera.flats(3), camera.lights(1)
    together = calibrate([*bias, *dark, *flat, *light], tmp_path / "a").products
    for paths in (bias[:2], bias[2:], dark, flat, light):
        apart = calibrate(paths, tmp_path / "b").products
    assert [(one.product_id, one.sha256) for one in apart] == [(one.product_id, one.sha256) for one in together]


def test_a_flat_of_another_filter_or_binning_is_not_used_and_the_reason_is_said(camera, tmp_path):
    camera.biases(5)
    camera.flats(3, filter_name="g")
    light = camera.lights(1)[0]
    binned = camera.take("Light Frame", exposure_s=60.0, light_adu=900.0, filter_name="g", header={"XBINNING": 2, "YBINNING": 2})
    blocked = {one.source: " ".join(one.missing) for one in calibrate([camera.folder], tmp_path / "out").blocked}
    assert "flat r (there are flats of: g)" in blocked[str(light)]
    assert "binning 1x1, not 2x2" in blocked[str(binned)]


def test_a_dark_of_another_exposure_is_scaled_one_that_is_too_warm_is_not_used(camera, tmp_path):
    camera.biases(5)
    camera.darks(3, exposure_s=120.0)
    camera.flats(3)
    camera.lights(1, exposure_s=30.0)
    warm = camera.take("Light Frame", exposure_s=30.0, light_adu=900.0, header={"CCD-TEMP": -10.0})
    outcome = calibrate([camera.folder], tmp_path / "out")
    assert outcome.as_dict()["products"][0]["dark_scale"] == 0.25
    assert outcome.products[0].median == pytest.approx(1000 * GAIN, rel=0.01)
    assert [one.source for one in outcome.blocked] == [str(warm)]
    assert "there are darks at -20.0 C" in outcome.blocked[0].missing[0]


def test_without_any_bias_a_dark_of_the_same_exposure_takes_it_away_and_is_never_scaled(camera, tmp_path):
    camera.darks(3, exposure_s=60.0)
    camera.darks(3, exposure_s=2.0)
    camera.flats(3)
    same = camera.lights(1, exposure_s=60.0)[0]
    other = camera.lights(1, exposure_s=20.0)[0]
    outcome = calibrate([camera.folder], tmp_path / "out")
    assert [one.source for one in outcome.products] == [str(same)]
    assert outcome.products[0].median == pytest.approx(1000 * GAIN, rel=0.01)
    assert [one.source for one in outcome.blocked] == [str(other)]
    assert any("they hold the bias" in text for text in outcome.blocked[0].missing)


def test_without_a_flat_a_light_goes_on_only_when_allowed_and_says_so(camera, tmp_path):
    camera.biases(5)
    camera.lights(1)
    assert len(calibrate([camera.folder], tmp_path / "a").blocked) == 1
    allowed = calibrate([camera.folder], tmp_path / "b", allow_missing=["flat"])
    assert allowed.products[0].status == "done, no dark, no flat"
    assert allowed.products[0].masters["flat"] is None


def test_half_a_frame_among_good_ones_fails_by_name_and_the_others_go_on(camera, tmp_path):
    lights = _night(camera)
    lights[0].write_bytes(lights[0].read_bytes()[:9000])
    outcome = calibrate([camera.folder], tmp_path / "out")
    assert len(outcome.products) == 2
    assert [one.source for one in outcome.failed] == [str(lights[0])]
    assert "TRUNCATED_DATA" in outcome.failed[0].error
    assert outcome.failed[0].remedy


def test_a_saturated_light_fails_by_name(camera, tmp_path):
    _night(camera)
    white = camera.take("Light Frame", exposure_s=60.0, pixels=np.full((96, 128), 65535, np.uint16))
    failed = calibrate([camera.folder], tmp_path / "out").failed
    assert [(one.source, one.error[:9]) for one in failed] == [(str(white), "SATURATED")]


def test_focus_frames_are_neither_products_nor_failures(camera, tmp_path):
    focus = camera.take("FOCUS", exposure_s=5.0)
    outcome = calibrate([focus, *camera.biases(2)], tmp_path / "out")
    assert [source for source, _ in outcome.ignored] == [str(focus)]
    assert not outcome.failed


def test_frames_without_a_gain_wait_for_one(camera, tmp_path):
    camera.biases(5, header={"EGAIN": None})
    camera.flats(3, header={"EGAIN": None})
    camera.lights(1, header={"EGAIN": None})
    outcome = calibrate([camera.folder], tmp_path / "out")
    assert any("gain" in text for text in outcome.blocked[0].missing)
    assert calibrate([camera.folder], tmp_path / "out2", gain_e_per_adu=GAIN).products


def test_the_pair_of_biases_wins_over_the_headers_read_noise(camera, tmp_path):
    camera.biases(5, header={"RDNOISE": 2.0})
    camera.flats(3)
    camera.lights(1, header={"RDNOISE": 2.0})
    row = calibrate([camera.folder], tmp_path / "out").as_dict()["products"][0]
    assert row["read_noise_e"] == pytest.approx(8.0, rel=0.06)
    assert (row["read_noise_from"], row["read_noise_header_e"]) == ("bias pair", 2.0)


def test_overscan_is_subtracted_trimmed_and_the_wcs_moves_with_it(camera, tmp_path):
    sections = {"BIASSEC": "[121:128,1:96]", "TRIMSEC": "[5:120,1:96]"}

    def pixels(level):
        data = np.full((96, 128), 500.0) + np.arange(96)[:, None]
        data[:, :120] += level * true_flat()[:, :120]
        camera.n += 1
        return np.rint(data + np.random.default_rng(camera.n).normal(0, 3, data.shape)).astype(np.uint16)

    for _ in range(3):
        camera.take("Bias Frame", pixels=pixels(0), header=sections)
        camera.take("Flat Field", exposure_s=1.0, pixels=pixels(20000), header=sections)
    wcs = {
        "CTYPE1": "RA---TAN",
        "CTYPE2": "DEC--TAN",
        "CRPIX1": 64.0,
        "CRPIX2": 48.0,
        "CRVAL1": 1.0,
        "CRVAL2": 2.0,
        "CDELT1": -3e-4,
        "CDELT2": 3e-4,
    }
    camera.take("Light Frame", exposure_s=1.0, pixels=pixels(2000), header={**sections, **wcs})
    product = calibrate([camera.folder], tmp_path / "out").products[0]
    ccd = CCDData.read(product.path)
    assert ccd.shape == (96, 116)
    assert ccd.wcs.wcs.crpix.tolist() == [60.0, 48.0]
    assert product.median == pytest.approx(2000 * GAIN * true_flat()[:, 4:120].mean(), rel=0.01)
    assert abs(np.median(ccd.data[:10]) / np.median(ccd.data[-10:]) - 1) < 0.01  # the ramp of the rows is gone


def test_a_bad_master_is_out_of_use_and_its_products_are_named(camera, tmp_path):
    _night(camera)
    first = calibrate([camera.folder], tmp_path / "out")
    flat = next(one for one in first.masters if one.kind == "flat")
    with CalibrationIndex.in_folder(tmp_path / "out") as index:
        assert set(index.mark_bad(flat.product_id, "condensation")) >= {one.product_id for one in first.products}
    lights = [one.source for one in first.products]
    assert len(calibrate([Path(path) for path in lights], tmp_path / "out").blocked) == 3


def test_more_frames_of_a_night_supersede_its_master(camera, tmp_path):
    first = calibrate(camera.biases(3), tmp_path / "out").masters[0]
    second = calibrate(camera.biases(3), tmp_path / "out").masters[0]
    assert (first.n_frames, second.n_frames) == (3, 6)
    with CalibrationIndex.in_folder(tmp_path / "out") as index:
        assert [one.product_id for one in index.masters()] == [second.product_id]


def test_wrong_arguments_are_refused_before_anything_is_read(camera, tmp_path):
    with pytest.raises(Missing):
        calibrate([tmp_path / "nowhere"], tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(Missing, match="no FITS file"):
        calibrate([tmp_path / "empty"], tmp_path / "out")
    with pytest.raises(BadInput, match="there is no camera"):
        calibrate([tmp_path], tmp_path / "out", camera="hubble")
    with pytest.raises(BadInput, match="cannot be missing"):
        calibrate([tmp_path], tmp_path / "out", allow_missing=["light"])


# ---- what a folder may hold


def test_pixels_that_are_no_numbers_in_every_frame_are_masked_and_cost_nothing_else(camera, tmp_path, monkeypatch):
    take = camera.take

    def damaged(*args, **more):
        path = take(*args, **more)
        with fits.open(path, mode="update") as opened:
            data = opened[0].data.astype(np.float32)
            data[10:12, 20:30], data[50, 60] = np.nan, np.inf
            opened[0].data = data
        return path

    monkeypatch.setattr(camera, "take", damaged)
    _night(camera)
    outcome = calibrate([camera.folder], tmp_path / "out")
    assert not outcome.failed
    assert outcome.products[0].median == pytest.approx(1000 * GAIN, rel=0.005)
    ccd = CCDData.read(outcome.products[0].path)
    assert ccd.mask[10:12, 20:30].all()
    assert ccd.mask[50, 60]
    assert np.count_nonzero(ccd.mask) < 40


def test_products_of_an_earlier_call_inside_the_input_folder_are_no_input(camera, tmp_path):
    _night(camera)
    for out in (camera.folder / "calibrated", camera.folder / "calibrated"):
        outcome = calibrate([camera.folder], out)
        assert len(outcome.products) == 3
        assert outcome.failed == ()
    product = Path(outcome.products[0].path)
    (failed,) = calibrate([product], camera.folder / "calibrated").failed
    assert failed.error.startswith("PRODUCT")


def test_every_file_of_a_folder_is_accounted_for(camera, tmp_path):
    _night(camera)
    elsewhere = tmp_path / "disk2"
    elsewhere.mkdir()
    linked = camera.lights(1)[0].rename(elsewhere / "linked.fits")
    (camera.folder / "more").symlink_to(elsewhere)
    (camera.folder / "round").symlink_to(camera.folder)
    (camera.folder / "dangling.fits").symlink_to(tmp_path / "nowhere")
    os.mkfifo(camera.folder / "pipe.fits")
    (camera.folder / "packed.fits.bz2").write_bytes(b"BZh9")
    (camera.folder / "notes.txt").write_text("clouds")
    odd = Path(os.fsdecode(bytes(camera.folder) + b"/odd\xff.fits"))
    shutil.copy(linked, odd)
    outcome = calibrate([camera.folder, tmp_path / "nowhere.fits"], tmp_path / "out")
    assert len(outcome.products) == 4
    assert str(camera.folder / "more" / "linked.fits") in {one.source for one in outcome.products}
    failed = {Path(one.source).name: one for one in outcome.failed}
    assert set(failed) == {"dangling.fits", "pipe.fits", "packed.fits.bz2", "odd\N{REPLACEMENT CHARACTER}.fits", "nowhere.fits"}
    assert all(one.remedy for one in failed.values())
    json.dumps(outcome.as_dict()).encode()


def test_a_master_made_elsewhere_does_not_count_as_one_frame_among_many_but_serves_alone(camera, tmp_path):
    master = camera.take("Master Bias", header={"NCOMBINE": 20})
    biases, lights = camera.biases(4), [*camera.darks(3), *camera.flats(3), *camera.lights(1)]
    both = calibrate([camera.folder], tmp_path / "a")
    assert next(one.n_frames for one in both.masters if one.kind == "bias") == 4
    assert [(one.source, one.error[:6]) for one in both.failed] == [(str(master), "MASTER")]
    alone = calibrate([master, *lights], tmp_path / "b")
    assert alone.products[0].median == pytest.approx(1000 * GAIN, rel=0.01)
    assert biases


def test_darks_that_have_lost_their_bias_already_are_left_out_by_name(camera, tmp_path):
    camera.biases(5)
    for path in camera.darks(3):
        with fits.open(path, mode="update") as opened:
            opened[0].data = (opened[0].data - 500.0).astype(np.float32)
    outcome = calibrate([camera.folder], tmp_path / "out")
    assert [one.kind for one in outcome.masters] == ["bias"]
    assert all(one.error.startswith("BELOW_BIAS") for one in outcome.failed)


def test_a_mistake_of_ours_on_one_frame_costs_no_other(camera, tmp_path, monkeypatch):
    lights = _night(camera)
    real = batch.calibrate_pixels

    def stumble(raw, exposure, recipe):
        if exposure.path == lights[1]:
            raise TypeError("no such luck")
        return real(raw, exposure, recipe)

    monkeypatch.setattr(batch, "calibrate_pixels", stumble)
    outcome = calibrate([camera.folder], tmp_path / "out")
    assert len(outcome.products) == 2
    assert outcome.failed[0].source == str(lights[1])
    assert "INTERNAL: TypeError: no such luck (test_batch.py:" in outcome.failed[0].error


def test_an_output_that_cannot_be_used_is_said_in_words(camera, tmp_path):
    biases = camera.biases(2)
    (tmp_path / "file").write_text("")
    with pytest.raises(Failed, match="cannot be made"):
        calibrate(biases, tmp_path / "file" / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "index.sqlite").write_text("no database " * 100)
    with pytest.raises(Failed, match=r"index\.sqlite: the index cannot be used: file is not a database"):
        calibrate(biases, tmp_path / "out")


# ---- which master


def test_a_master_marked_bad_stays_out_when_its_frames_come_again(camera, tmp_path):
    _night(camera)
    first = calibrate([camera.folder], tmp_path / "out")
    flat = next(one for one in first.masters if one.kind == "flat")
    with CalibrationIndex.in_folder(tmp_path / "out") as index:
        index.mark_bad(flat.product_id, "condensation")
    Path(flat.path).unlink()
    again = calibrate([camera.folder], tmp_path / "out")
    assert len(again.blocked) == 3
    assert {one.error for one in again.failed} == {"MARKED_BAD: the flat master of these 3 frames must not be used: condensation"}


def test_a_light_whose_exposure_is_not_known_is_not_calibrated_as_if_it_had_none(camera, tmp_path):
    _night(camera)
    silent = camera.take("Light Frame", light_adu=1000.0, header={"EXPTIME": None})
    outcome = calibrate([camera.folder], tmp_path / "out")
    assert [one.source for one in outcome.blocked] == [str(silent)]
    assert "no exposure time" in outcome.blocked[0].missing[0]


def test_darks_of_another_camera_or_window_neither_block_nor_mislead(camera, tmp_path):
    camera.biases(5, header={"INSTRUME": "OTHER"})
    camera.darks(3, exposure_s=600.0, header={"INSTRUME": "OTHER"})
    camera.biases(5)
    camera.flats(3)
    camera.lights(1)
    outcome = calibrate([camera.folder], tmp_path / "a")
    assert [one.status for one in outcome.products] == ["done, no dark"]
    camera.darks(3)
    camera.lights(1, header={"XORGSUBF": 10, "YORGSUBF": 0})
    outcome = calibrate([camera.folder], tmp_path / "b")
    assert [one.status for one in outcome.products] == ["done"]
    assert "dark 60 s at -20 C (nearest: window none, not 10,0)" in outcome.blocked[0].missing


# ---- real cameras


def test_cafos_agrees_with_ccdproc_on_real_frames(shared_data, tmp_path):
    expected = json.loads((shared_data / "ccd" / "expected.json").read_text())["cafos_ngc2420 (V)"]
    outcome = calibrate([shared_data / "ccd" / "cafos_ngc2420"], tmp_path / "out")
    rows = {row["source"].rsplit("/", 1)[-1].removesuffix(".gz"): row for row in outcome.as_dict()["products"]}
    assert len(rows) == 4
    for name, row in rows.items():
        assert row["median"] == pytest.approx(expected[name]["calibrated_median_e"], rel=0.003)
        assert row["saturated_pixels"] == expected[name]["saturated_pixels"]
        assert row["neighbour_noise"] == pytest.approx(expected[name]["neighbour_noise_e"], rel=0.01)
        assert row["status"] == "done"
    # Noise: what neighbours show is what UNCERT says, with the measured read noise and the lone flat's own.
    for name in ("uamA_0031.fits", "uamA_0032.fits", "uamA_0033.fits"):
        assert rows[name]["noise"] == pytest.approx(rows[name]["neighbour_noise"], rel=0.05)
    bias = next(row for row in outcome.as_dict()["masters"] if row["kind"] == "bias")
    assert bias["read_noise_adu"] == pytest.approx(expected["read_noise_adu_from_bias_pair"], rel=0.01)
    assert _flatness(rows["uamA_0031.fits"]["path"]) == pytest.approx(expected["uamA_0031.fits"]["block_rms_after"], abs=0.002)
    assert "BLANK" in {one.code for _, one in outcome.ambiguities} or not outcome.ambiguities


def _flatness(path):
    """Scatter of 8 x 8 clipped block medians over their median, 12 px border cut."""
    data = CCDData.read(path).data[12:-12, 12:-12]
    blocks = []
    for rows in np.array_split(data, 8, axis=0):
        for block in np.array_split(rows, 8, axis=1):
            middle = np.median(block)
            spread = 1.4826 * np.median(np.abs(block - middle))
            blocks.append(np.median(block[np.abs(block - middle) < 3 * spread]))
    return np.std(blocks) / np.median(blocks)


def test_wallace_lights_lose_their_hot_pixels_with_a_scaled_dark_too(shared_data, tmp_path):
    expected = json.loads((shared_data / "ccd" / "expected.json").read_text())["wallace"]
    folder = shared_data / "ccd" / "wallace"
    blocked = calibrate([folder], tmp_path / "strict").blocked
    assert [one.missing[0] for one in blocked] == ["flat clear", "flat clear"]
    outcome = calibrate([folder], tmp_path / "out", allow_missing=["flat"])
    for product in outcome.products:
        name = product.source.rsplit("/", 1)[-1].removesuffix(".gz")
        assert product.median / 2.07 == pytest.approx(expected[name]["calibrated_median"], rel=0.005)
        assert product.status == "done, no flat"
    assert {one.status for one in outcome.masters if one.kind == "dark"} == {"DRIFT"}


def test_st7_without_bias_is_calibrated_by_the_dark_of_its_exposure(shared_data, tmp_path):
    outcome = calibrate([shared_data / "ccd" / "toronto_st7"], tmp_path / "out", allow_missing=["flat"])
    assert [one.exposure_s for one in outcome.masters] == [120.0, 300.0, 900.0]
    assert outcome.products[0].median / 2.55 == pytest.approx(70.67, abs=1.5)  # adu; the darks' own offsets are removed
