"""Arithmetic against ccdproc and against the formulas; each silent error of ccdproc that we step around is shown and avoided."""

from __future__ import annotations

import ccdproc
import numpy as np
import pytest
from astropy import units as u
from astropy.nddata import CCDData, StdDevUncertainty

from nightbell.calibration.cameras import load_cameras
from nightbell.calibration.engine import BAD, FLAT_INVALID, NO_DATA, SATURATED, Plane, Recipe, calibrate_pixels, mad_std, prepare
from nightbell.calibration.intake import intake
from nightbell.calibration.masters import build_bias, build_dark, build_flat, clipped_mean, read_noise_adu, threshold
from nightbell.contracts.errors import BadInput

CAMERAS = load_cameras()
SHAPE = (96, 128)


def _light(camera, pixels=None, **header):
    return intake(camera.take("Light Frame", exposure_s=60.0, light_adu=900.0, pixels=pixels, header=header), CAMERAS)


def _plane(value: float, sigma: float = 0.0, seed: int | None = None) -> Plane:
    data = np.full(SHAPE, value, np.float32)
    if seed is not None:
        data *= np.random.default_rng(seed).uniform(0.8, 1.2, SHAPE).astype(np.float32)
    return Plane(data, np.full(SHAPE, sigma, np.float32), np.zeros(SHAPE, np.uint8))


def test_image_and_uncertainty_equal_ccdproc_called_in_the_right_order(camera):
    exposure, pixels = _light(camera)
    recipe = Recipe(1.6, 8.0, _plane(500, 2.0, 1), _plane(10, 1.5, 2), 0.5, _plane(1.0, 0.004, 3))
    got = calibrate_pixels(pixels, exposure, recipe)

    def ccd(plane, unit=u.adu):
        return CCDData(plane.data.astype(float), unit=unit, uncertainty=StdDevUncertainty(plane.sigma.astype(float)))

    gain = 1.6 * u.electron / u.adu
    light = ccdproc.subtract_bias(CCDData(pixels.astype(float), unit="adu"), ccd(recipe.bias))
    own = ccdproc.create_deviation(light, gain=gain, readnoise=8.0 * u.electron, disregard_nan=True).uncertainty.array
    light.uncertainty = StdDevUncertainty(np.hypot(own, recipe.bias.sigma))
    light = ccdproc.subtract_dark(light, ccd(recipe.dark), dark_exposure=60 * u.s, data_exposure=30 * u.s, scale=True)
    light = ccdproc.gain_correct(ccdproc.flat_correct(light, ccd(recipe.flat, u.dimensionless_unscaled), norm_value=1.0), gain)
    assert np.allclose(got.data, light.data, rtol=2e-7)
    assert np.allclose(got.sigma, light.uncertainty.array, rtol=2e-7)


def test_uncertainty_follows_the_formula(camera):
    exposure, pixels = _light(camera)
    g, rn, vb, vd, k, f, vf = 1.6, 8.0, 4.0, 2.25, 0.5, 0.9, 0.004**2
    recipe = Recipe(g, rn, _plane(500, vb**0.5), _plane(10, vd**0.5), k, _plane(f, vf**0.5))
    got = calibrate_pixels(pixels, exposure, recipe)
    s = pixels.astype(float) - 500
    q = (s - k * 10) / f
    variance = ((g * np.maximum(s, 0) + rn**2) / g**2 + vb + k**2 * vd) / f**2 + q**2 * vf / f**2
    assert np.allclose(got.sigma, g * np.sqrt(variance), rtol=1e-5)


def test_the_scatter_of_repeated_frames_is_what_the_uncertainty_says(camera):
    stack = []
    for _ in range(40):
        exposure, pixels = _light(camera)
        stack.append(calibrate_pixels(pixels, exposure, Recipe(1.6, 8.0, _plane(500))))
    scatter = np.median(np.std([one.data for one in stack], axis=0, ddof=1))
    assert scatter == pytest.approx(np.median(stack[0].sigma), rel=0.03)  # 40 frames: 1.1 % of one pixel's std, median over 12,000


def test_ccdproc_wraps_integers_ours_goes_negative(camera):
    wrapped = ccdproc.subtract_bias(CCDData(np.array([[100]], np.uint16), unit="adu"), CCDData(np.array([[150]], np.uint16), unit="adu"))
    assert wrapped.data[0, 0] == 65486
    exposure, pixels = _light(camera, pixels=np.full(SHAPE, 100, np.uint16))
    assert calibrate_pixels(pixels, exposure, Recipe(1.0, 5.0, _plane(150))).data[0, 0] == -50


def test_ccdproc_has_no_noise_for_negative_pixels_ours_has_read_noise(camera):
    exposure, pixels = _light(camera, pixels=np.full(SHAPE, 100, np.uint16))
    got = calibrate_pixels(pixels, exposure, Recipe(2.0, 6.0, _plane(900)))
    assert np.all(got.sigma == 6.0)


def test_a_master_of_another_shape_is_refused_not_broadcast(camera):
    exposure, pixels = _light(camera)
    row = Plane(np.full((1, 128), 500, np.float32), np.zeros((1, 128), np.float32), np.zeros((1, 128), np.uint8))
    with pytest.raises(BadInput, match="SHAPE_MISMATCH"):
        calibrate_pixels(pixels, exposure, Recipe(1.0, 5.0, row))


def test_saturation_is_found_on_raw_counts_and_survives_the_flat(camera):
    pixels = np.full(SHAPE, 60000, np.uint16)
    pixels[5, 6] = 65535
    exposure, pixels = _light(camera, pixels=pixels)
    got = calibrate_pixels(pixels, exposure, Recipe(1.0, 5.0, _plane(500), None, 1.0, _plane(1.7)))
    assert got.data[5, 6] < 60000
    assert (got.mask & SATURATED).sum() == 1
    assert got.mask[5, 6] & SATURATED


def test_masks_of_all_masters_reach_the_product_and_nothing_is_nan_without_a_bit(camera):
    bias, dark, flat = _plane(500), _plane(1), _plane(1.0)
    bias.mask[0, 0], dark.mask[1, 1], flat.mask[2, 2] = NO_DATA, BAD, FLAT_INVALID
    exposure, pixels = _light(camera)
    got = calibrate_pixels(pixels, exposure, Recipe(1.6, 8.0, bias, dark, 1.0, flat))
    assert (got.mask[0, 0], got.mask[1, 1], got.mask[2, 2]) == (NO_DATA, BAD, FLAT_INVALID)
    assert not np.any(~np.isfinite(got.data) & (got.mask == 0))
    assert np.all(np.isfinite(got.sigma) & (got.sigma > 0))


def test_strips_of_any_height_give_the_same_bits(camera, monkeypatch):
    exposure, pixels = _light(camera)
    recipe = Recipe(1.6, 8.0, _plane(500, 2.0, 1), _plane(10, 1.5, 2), 0.5, _plane(1.0, 0.004, 3))
    whole = calibrate_pixels(pixels, exposure, recipe)
    for rows in (1, 7, 64):
        monkeypatch.setattr("nightbell.calibration.engine.STRIP_PIXELS", rows * SHAPE[1])
        strips = calibrate_pixels(pixels, exposure, recipe)
        assert np.array_equal(strips.data, whole.data)
        assert np.array_equal(strips.sigma, whole.sigma)


def test_a_hot_overscan_pixel_does_not_move_the_level(camera):
    pixels = np.full(SHAPE, 1500, np.uint16)
    pixels[:, 120:] = 500
    pixels[10, 123] = 65535
    exposure, pixels = _light(camera, pixels=pixels, BIASSEC="[121:128,1:96]", TRIMSEC="[1:120,1:96]")
    data, mask = prepare(pixels, exposure)
    assert data.shape == (96, 120)
    assert np.all(data == 1000)
    assert not mask.any()


def test_overscan_of_rows_above_the_data_is_taken_per_column(camera):
    pixels = np.full(SHAPE, 1500, np.uint16)
    pixels[90:] = (500 + np.arange(128)).astype(np.uint16)
    exposure, pixels = _light(camera, pixels=pixels, BIASSEC="[1:128,91:96]", TRIMSEC="[1:128,1:90]")
    assert np.array_equal(prepare(pixels, exposure)[0][0], 1000 - np.arange(128))


# ---- masters


def test_one_wild_value_among_twenty_is_rejected_where_mean_and_std_keep_it():
    rng = np.random.default_rng(1)
    stack = rng.normal(1000, 10, (20, 5, 5))
    stack[3, 2, 2] = 9000
    combiner = ccdproc.Combiner([CCDData(one, unit="adu") for one in stack])
    combiner.sigma_clipping(low_thresh=5, high_thresh=5)
    assert combiner.average_combine().data[2, 2] > 1300  # |z| <= (N - 1) / sqrt(N) = 4.25: it can never be clipped
    mean, sigma, _ = clipped_mean(stack, np.zeros(stack.shape, bool), 10.0)
    assert mean[2, 2] == pytest.approx(1000, abs=12)
    assert sigma[2, 2] == pytest.approx(10 / 19**0.5, rel=0.6)


def test_a_masked_outlier_does_not_hide_an_unmasked_one():
    rng = np.random.default_rng(2)
    stack = rng.normal(1000, 10, (10, 4, 4))
    masked = np.zeros(stack.shape, bool)
    stack[0, 1, 1], masked[0, 1, 1], stack[1, 1, 1] = 1e6, True, 9000
    assert clipped_mean(stack, masked, 10.0)[0][1, 1] == pytest.approx(1000, abs=15)


def test_a_pixel_masked_in_every_frame_has_no_data():
    stack, masked = np.ones((3, 2, 2)), np.zeros((3, 2, 2), bool)
    masked[:, 0, 0] = True
    mean, sigma, mask = clipped_mean(stack, masked, 1.0)
    assert mask[0, 0] == NO_DATA
    assert np.isfinite(mean).all()
    assert np.isfinite(sigma).all()


def test_few_frames_are_clipped_wider():
    assert threshold(5) > threshold(15) > threshold(40)


def test_the_uncertainty_of_three_frames_is_not_too_small():
    rng = np.random.default_rng(3)
    stack = rng.normal(0, 1, (3, 200, 200))
    _, sigma, _ = clipped_mean(stack, np.zeros(stack.shape, bool), 0.7)
    truth = np.std(stack.mean(axis=0))
    assert np.median(sigma) == pytest.approx(truth, rel=0.05)
    assert clipped_mean(stack, np.zeros(stack.shape, bool), 1.0)[1].min() >= 1 / 3**0.5 - 1e-6


@pytest.mark.parametrize("sigma", [0.8, 2.0, 6.0, 15.0])
def test_read_noise_from_a_pair_is_right_also_below_a_count(sigma):
    rng = np.random.default_rng(4)
    frames = [np.rint(rng.normal(700, sigma, (400, 400))).astype(np.float32) for _ in range(2)]
    assert read_noise_adu(frames) == pytest.approx(np.hypot(sigma, 12**-0.5), rel=0.04)  # rounding to counts adds 1/12


def _read(camera, paths):
    pixels = {}
    exposures = []
    for path in paths:
        exposure, data = intake(path, CAMERAS)
        exposures.append(exposure)
        pixels[exposure.path] = data
    return exposures, lambda one: pixels[one.path]


def test_a_master_bias_does_not_depend_on_the_order_of_its_frames(camera):
    exposures, pixels = _read(camera, camera.biases(6))
    first, second = build_bias(exposures, pixels), build_bias(exposures[::-1], pixels)
    assert np.array_equal(first.plane.data, second.plane.data)
    assert np.array_equal(first.plane.sigma, second.plane.sigma)
    assert first.read_noise_adu == pytest.approx(8.0 / 1.6, rel=0.05)


def test_a_master_is_the_same_by_strips_and_when_its_frames_wait_on_disk(camera, tmp_path, monkeypatch):
    exposures, pixels = _read(camera, camera.flats(12))
    whole = build_flat(exposures, pixels, lambda _: (_plane(500), None, 1.0), 5.0)
    monkeypatch.setattr("nightbell.calibration.masters.SHELF_BYTES", 100_000)
    monkeypatch.setattr("nightbell.calibration.masters.STRIP_VALUES", 7 * 12 * SHAPE[1])
    strips = build_flat(exposures, pixels, lambda _: (_plane(500), None, 1.0), 5.0, scratch=tmp_path)
    assert np.array_equal(strips.plane.data, whole.plane.data)
    assert np.array_equal(strips.plane.sigma, whole.plane.sigma)
    assert list(tmp_path.glob("tmp*")) == []


@pytest.mark.parametrize("n", [3, 5, 12, 25])
def test_values_are_clipped_as_by_median_and_mad_of_each_pixel(n):
    rng = np.random.default_rng(n)
    stack = rng.normal(1000, 10, (n, 30, 40)).astype(np.float32)
    stack[rng.integers(0, n, 60), rng.integers(0, 30, 60), rng.integers(0, 40, 60)] += 300
    masked = rng.random(stack.shape) < 0.02
    values = np.where(masked, np.nan, stack.astype(np.float64))
    middle = np.nanmedian(values, axis=0)
    limit = threshold(n) * np.maximum(1.482602218505602 * np.nanmedian(np.abs(values - middle), axis=0), 8.0)
    expected = np.nanmean(np.where(np.abs(values - middle) > limit, np.nan, values), axis=0)
    assert clipped_mean(stack, masked, 8.0)[0] == pytest.approx(expected, rel=1e-6)


def test_the_same_pixels_under_two_names_count_once(camera):
    paths = camera.biases(4)
    copy = paths[0].with_name("copy.fits")
    copy.write_bytes(paths[0].read_bytes() + b"\0" * 2880)  # another file, the same pixels
    exposures, pixels = _read(camera, [*paths, copy])
    built = build_bias(exposures, pixels)
    assert len(built.used) == 4
    assert "DUPLICATE" in built.left_out[0].error


def test_one_lit_dark_of_ten_is_left_out_by_name_and_the_master_is_made(camera):
    paths = camera.darks(9)
    lit = camera.take("Dark Frame", exposure_s=60.0, light_adu=800.0)
    exposures, pixels = _read(camera, [*paths, lit])
    built = build_dark(exposures, pixels, None)
    assert len(built.used) == 9
    assert [one.exposure.path.name for one in built.left_out] == [lit.name]
    assert "LIT_DARK" in built.left_out[0].error


def test_darks_that_drift_together_are_flagged_and_keep_their_pattern(camera):
    hot = np.zeros(SHAPE)
    hot[7, 9] = 3000
    paths = []
    for i, offset in enumerate((12.0, 6.0, 1.0)):
        rng = np.random.default_rng(i)
        paths.append(
            camera.take("Dark Frame", exposure_s=60.0, pixels=np.rint(500 + offset + hot + rng.normal(0, 5, SHAPE)).astype(np.uint16))
        )
    exposures, pixels = _read(camera, paths)
    built = build_dark(exposures, pixels, _plane(500))
    assert "DRIFT" in built.flags
    assert built.plane.data[7, 9] == pytest.approx(3006, abs=12)
    assert built.plane.mask[7, 9] == BAD
    assert mad_std(built.plane.data) < 4  # three frames of 5 adu, not the 11 adu between them


def test_flats_of_unequal_levels_are_scaled_before_they_are_clipped(camera):
    paths = camera.flats(5, levels=(10000.0, 20000.0, 40000.0, 30000.0, 15000.0))
    exposures, pixels = _read(camera, paths)
    built = build_flat(exposures, pixels, lambda _: (_plane(500), None, 1.0), 5.0)
    assert len(built.used) == 5
    assert built.plane.data.mean() == pytest.approx(1.0, abs=1e-3)
    assert built.plane.sigma.max() < 0.01  # one frame alone at 10 kADU has 0.8 %


def test_a_dead_pixel_is_masked_and_does_not_enter_the_norm(camera):
    paths = camera.flats(3)
    exposures, pixels = _read(camera, paths)

    def with_dead(one):
        data = pixels(one).copy()
        data[3, 3:5] = 500
        return data

    built = build_flat(exposures, with_dead, lambda _: (_plane(500), None, 1.0), 5.0)
    assert built.plane.mask[3, 3] & FLAT_INVALID
    assert built.plane.data[3, 3] == 1.0
    good = built.plane.mask == 0
    assert built.plane.data[good].mean(dtype=float) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(("level", "word"), [(64500.0, "FLAT_"), (200.0, "FLAT_LEVEL")])
def test_flats_too_bright_or_too_dark_are_left_out_by_name(camera, level, word):
    good = camera.flats(2)
    bad = camera.take("Flat Field", exposure_s=2.0, light_adu=level)
    exposures, pixels = _read(camera, [*good, bad])
    built = build_flat(exposures, pixels, lambda _: (_plane(500), None, 1.0), 5.0)
    assert [one.exposure.path for one in built.left_out] == [bad]
    assert built.left_out[0].error.startswith(word)
