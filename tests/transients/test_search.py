"""A new source on a frame is found where it is, and nothing else is; every loss has a named veto."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from astropy.io import fits

from nightbell.contracts.errors import BadInput, Failed
from nightbell.contracts.records import Candidate
from nightbell.transients.astrometry import find_stars, register
from nightbell.transients.detection import find_peaks
from nightbell.transients.difference import resample
from nightbell.transients.hosts import Galaxy, host_of, separation_arcsec
from nightbell.transients.photometry import magnitude
from nightbell.transients.references import choose_reference, list_references, read_reference
from nightbell.transients.report import write_cutouts
from nightbell.transients.search import find_transients, find_with_references, read_frame

from .conftest import TARGET, Sky, tan_wcs

EAST_8_NORTH_6 = (TARGET[0] + 8 / 3600 / np.cos(np.deg2rad(TARGET[1])), TARGET[1] + 6 / 3600)
POINTINGS = [((25.0, -38.0), 0.3), ((-60.0, 44.0), -0.4), ((3.0, 2.0), 0.0)]


def _new(flux_e: float) -> tuple[tuple[float, float, float], ...]:
    return ((*EAST_8_NORTH_6, flux_e),)


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_a_source_beside_a_host_is_found_within_an_arcsecond_and_nothing_else(seed, make_product, make_reference):
    sky = Sky(seed=seed)
    frames = [
        read_frame(make_product(sky, f"p{i}", seed=10 * seed + i, offset_px=offset, rotation_deg=turn, extra=_new(2400.0)))
        for i, (offset, turn) in enumerate(POINTINGS)
    ]
    found = find_transients(frames, read_reference(make_reference(sky)))
    assert not found.failed
    assert len(found.searched) == 3
    assert len(found.candidates) == 1
    candidate = found.candidates[0]
    # 2400 e in a beam of 3.2 px FWHM on 300 e of sky, 430 e of host and 8 e of read noise: S/N 16.6 on one frame, 29 on three.
    assert 25 < candidate.snr < 33
    assert separation_arcsec(candidate.ra_deg, candidate.dec_deg, *EAST_8_NORTH_6) < 0.5
    assert candidate.host == "NGC 4993"
    assert msgspec.json.decode(msgspec.json.encode(candidate), type=Candidate) == candidate
    assert candidate.host_separation_arcsec == pytest.approx(10.0, abs=0.5)
    assert candidate.mag == pytest.approx(25 - 2.5 * np.log10(2400 / 60), abs=0.15)


@pytest.mark.parametrize("seed", [5, 6, 7, 8, 9, 10])
def test_frames_without_anything_new_give_no_candidate(seed, make_product, make_reference):
    sky = Sky(seed=seed)
    frames = [
        read_frame(make_product(sky, f"p{i}", seed=90 * seed + i, offset_px=o, rotation_deg=r)) for i, (o, r) in enumerate(POINTINGS[:2])
    ]
    found = find_transients(frames, read_reference(make_reference(sky)))
    assert found.candidates == ()
    assert not found.failed
    assert found.limiting_mag_5sigma == pytest.approx(22.8, abs=0.3)


@pytest.mark.parametrize(("frame_fwhm", "reference_fwhm"), [(4.5, 2.4), (2.6, 3.3), (3.0, 3.0)])
def test_seeing_that_is_better_or_worse_than_the_references_leaves_no_false_candidates(
    frame_fwhm, reference_fwhm, make_product, make_reference
):
    sky = Sky(seed=11)
    frames = [read_frame(make_product(sky, f"p{i}", seed=40 + i, fwhm_px=frame_fwhm, extra=_new(3000.0))) for i in range(2)]
    found = find_transients(frames, read_reference(make_reference(sky, fwhm_px=reference_fwhm)))
    assert [round(separation_arcsec(one.ra_deg, one.dec_deg, *EAST_8_NORTH_6)) for one in found.candidates] == [0]


def test_clouds_change_the_scale_not_the_verdict(make_product, make_reference):
    sky = Sky(seed=12)
    frames = [read_frame(make_product(sky, f"p{i}", seed=50 + i, scale=0.5, extra=_new(4000.0))) for i in range(2)]
    found = find_transients(frames, read_reference(make_reference(sky)))
    assert len(found.candidates) == 1
    # The injected 4000 e are halved by the clouds, and the zero point knows it.
    assert found.candidates[0].mag == pytest.approx(25 - 2.5 * np.log10(4000 / 60), abs=0.15)


def test_the_noise_of_the_difference_is_what_the_model_says(make_product, make_reference):
    sky = Sky(seed=13)
    found = find_transients([read_frame(make_product(sky, "p", seed=60))], read_reference(make_reference(sky)))
    assert found.searched[0].noise_norm == pytest.approx(1.0, abs=0.05)


def test_a_cosmic_ray_is_vetoed_by_name(make_product, make_reference):
    sky = Sky(seed=14)
    path = make_product(sky, "p", seed=70, spikes=((200, 300, 4000.0), (201, 300, 2500.0)))
    found = find_transients([read_frame(path)], read_reference(make_reference(sky)))
    assert found.candidates == ()
    near = [one for one in found.vetoed if abs(one.x_px - 200) < 2 and abs(one.y_px - 300) < 2]
    assert any("sharp" in veto or "shape" in veto for veto in near[0].vetoes)


def test_cosmic_rays_of_three_pixels_in_a_row_are_vetoed_on_a_single_frame(make_product, make_reference):
    sky = Sky(seed=13)
    rng = np.random.default_rng(13)
    places = [(int(rng.integers(9, 500)), int(rng.integers(9, 500)), float(rng.uniform(500, 5000))) for _ in range(30)]
    rays = tuple((x + i, y, v) for x, y, v in places for i in range(3))
    found = find_transients(
        [read_frame(make_product(sky, "p", seed=131, spikes=rays, extra=_new(4000.0)))], read_reference(make_reference(sky))
    )
    assert len(found.candidates) == 1
    assert separation_arcsec(found.candidates[0].ra_deg, found.candidates[0].dec_deg, *EAST_8_NORTH_6) < 0.5
    assert any(text.startswith("narrow") for one in found.vetoed for text in one.vetoes)


def test_a_reference_much_blurrier_than_the_frames_leaves_no_false_candidates_and_hides_nothing(make_product, make_reference):
    sky = Sky(seed=2)
    frames = [read_frame(make_product(sky, f"p{i}", seed=20 + i, fwhm_px=2.6, extra=_new(4000.0))) for i in range(2)]
    found = find_transients(frames, read_reference(make_reference(sky, fwhm_px=4.5)))
    assert len(found.candidates) == 1
    assert separation_arcsec(found.candidates[0].ra_deg, found.candidates[0].dec_deg, *EAST_8_NORTH_6) < 0.5


def test_what_only_one_of_two_frames_shows_is_vetoed_as_single(make_product, make_reference):
    sky = Sky(seed=15)
    frames = [read_frame(make_product(sky, "with", seed=80, extra=_new(3000.0))), read_frame(make_product(sky, "without", seed=81))]
    found = find_transients(frames, read_reference(make_reference(sky)))
    assert found.candidates == ()
    assert any(veto.startswith("single (on 1 of 2") for one in found.vetoed for veto in one.vetoes)


def test_a_source_that_has_faded_is_a_fact_with_the_veto_negative(make_product, make_reference, tmp_path):
    sky = Sky(seed=16)
    bright = Sky(seed=16)
    bright.stars = np.vstack([bright.stars, [*EAST_8_NORTH_6, 6000.0]])
    frames = [read_frame(make_product(sky, f"p{i}", seed=90 + i)) for i in range(2)]
    found = find_transients(frames, read_reference(make_reference(bright)))
    assert found.candidates == ()
    assert any("negative" in one.vetoes for one in found.vetoed)


def test_a_frame_after_a_pier_flip_is_registered(make_product, make_reference):
    sky = Sky(seed=17)
    frames = [
        read_frame(make_product(sky, f"p{i}", seed=100 + i, rotation_deg=180.0, offset_px=(12, 9), extra=_new(3000.0))) for i in range(2)
    ]
    found = find_transients(frames, read_reference(make_reference(sky)))
    assert [separation_arcsec(one.ra_deg, one.dec_deg, *EAST_8_NORTH_6) < 0.5 for one in found.candidates] == [True]


@pytest.mark.parametrize("turn_deg", [3.0, -5.0, 184.0, 67.0])
def test_a_camera_that_is_turned_is_registered_without_being_told(turn_deg, make_product, make_reference):
    sky = Sky(seed=23)
    frame = read_frame(make_product(sky, "p", seed=150, rotation_deg=turn_deg, offset_px=(-20, 14), extra=_new(4000.0)))
    found = find_transients([frame], read_reference(make_reference(sky)))
    assert [separation_arcsec(one.ra_deg, one.dec_deg, *EAST_8_NORTH_6) < 0.5 for one in found.candidates] == [True]


def test_a_reference_of_another_field_is_said_not_subtracted(make_product, make_reference):
    frame = read_frame(make_product(Sky(seed=18), "p", seed=110))
    found = find_transients([frame], read_reference(make_reference(Sky(seed=99))))
    assert found.searched == ()
    assert "agree with the reference" in found.failed[0][1]
    assert found.candidates == ()


def test_ids_are_the_same_for_the_same_frames_in_any_order(make_product, make_reference):
    sky = Sky(seed=19)
    frames = [read_frame(make_product(sky, f"p{i}", seed=120 + i, extra=_new(3000.0))) for i in range(2)]
    reference = read_reference(make_reference(sky))
    assert find_transients(frames, reference).candidates == find_transients(frames[::-1], reference).candidates


def test_hot_pixels_that_stand_still_do_not_register_a_drifted_frame():
    rng = np.random.default_rng(1)
    stars = np.column_stack([rng.uniform(20, 280, 60), rng.uniform(20, 280, 60), rng.uniform(2000, 50000, 60)])
    hot = rng.integers(0, 300, (200, 2))  # as dense as 2300 on 1024 x 1024

    def image(dx, dy, seed):
        yy, xx = np.mgrid[0:300, 0:300]
        out = np.random.default_rng(seed).normal(100, 5, (300, 300))
        for x, y, flux in stars:
            out += flux / 16 * np.exp(-0.5 * ((xx - x - dx) ** 2 + (yy - y - dy) ** 2) / 2.5)
        out[hot[:, 1], hot[:, 0]] += 3000
        return out

    none = np.zeros((300, 300), bool)
    shift = register(find_stars(image(7.3, -4.6, 1), none), None, find_stars(image(0, 0, 2), none), None, reach_px=20)
    x, y = shift(150.0, 150.0)
    assert (x, y) == (pytest.approx(142.7, abs=0.2), pytest.approx(154.6, abs=0.2))


def test_a_blank_frame_says_that_it_has_no_stars():
    with pytest.raises(Failed, match="no star"):
        find_stars(np.random.default_rng(2).normal(100, 5, (128, 128)), np.zeros((128, 128), bool))


def test_resampling_keeps_flux_and_leaves_no_ring_around_a_masked_pixel():
    from nightbell.transients.astrometry import Affine

    yy, xx = np.mgrid[0:60, 0:60]
    image = (1000 * np.exp(-0.5 * ((xx - 30) ** 2 + (yy - 30) ** 2) / 4)).astype(np.float32)
    mask = np.zeros(image.shape, bool)
    image[10, 10], mask[10, 10] = 60000, True
    moved, good = resample(image, mask, Affine(np.eye(2), np.array([0.37, -0.61]), 9, 0.1), image.shape)
    assert moved[20:45, 20:45].sum() == pytest.approx(2 * np.pi * 4 * 1000, rel=1e-3)
    assert np.abs(moved[5:15, 5:15]).max() < 1
    assert not good[11, 10]


def test_peaks_of_both_signs_are_placed_to_a_tenth_of_a_pixel():
    yy, xx = np.mgrid[0:50, 0:50]
    image = 20 * np.exp(-0.5 * ((xx - 20.3) ** 2 + (yy - 14.8) ** 2) / 4) - 12 * np.exp(-0.5 * ((xx - 35) ** 2 + (yy - 36.4) ** 2) / 4)
    peaks = find_peaks(image, image, np.ones(image.shape, bool), threshold=6.5, fwhm_px=4.7)
    assert [one.sign for one in peaks] == [1, -1]
    assert (peaks[0].x, peaks[0].y) == (pytest.approx(20.3, abs=0.1), pytest.approx(14.8, abs=0.1))


def test_separation_knows_the_cosine_of_the_declination_and_the_zero_of_ra():
    assert separation_arcsec(10.0, 80.0, 10.01, 80.0) == pytest.approx(36 * np.cos(np.deg2rad(80)), rel=1e-4)
    assert separation_arcsec(359.9999, 0.0, 0.0001, 0.0) == pytest.approx(0.72, rel=1e-6)


def test_the_nearest_galaxy_within_reach_is_the_host():
    galaxies = (Galaxy("near", 10.0, 0.0), Galaxy("far", 10.01, 0.0))
    assert host_of(10.001, 0.0, galaxies, 60.0)[0].name == "near"
    assert host_of(11.0, 0.0, galaxies, 60.0) is None


def test_a_flux_that_is_not_positive_has_no_magnitude():
    assert magnitude(-5.0, 25.0) is None
    assert magnitude(100.0, None) is None
    assert magnitude(100.0, 25.0) == 20.0


def test_references_are_found_by_field_and_filter(make_product, make_reference, tmp_path):
    sky = Sky(seed=20)
    frames = [read_frame(make_product(sky, f"p{i}", seed=130 + i, extra=_new(3000.0))) for i in range(2)]
    folder = tmp_path / "archive"
    folder.mkdir()
    assert find_with_references(frames, folder)[0] is None
    make_reference(sky).rename(folder / "NGC4993_r.fits")
    (folder / "notes.fits").write_bytes(b"not an image")
    listings = list_references(folder)
    assert [one.object_name for one in listings] == ["NGC 4993"]
    assert choose_reference(listings, ra_deg=TARGET[0], dec_deg=TARGET[1], filter_name="g") is None
    assert choose_reference(listings, ra_deg=TARGET[0] + 3, dec_deg=TARGET[1], filter_name="r") is None
    found, used = find_with_references(frames, folder)
    assert used.endswith("NGC4993_r.fits")
    assert len(found.candidates) == 1


def test_a_reference_in_counts_is_brought_to_electrons(make_reference):
    path = make_reference(Sky(seed=21))
    with fits.open(path, mode="update") as opened:
        opened[0].header["BUNIT"], opened[0].header["EGAIN"] = "adu", 2.0
        counts = opened[0].data.copy()
    assert np.allclose(read_reference(path).data, 2 * counts)


def test_a_reference_without_a_place_on_the_sky_is_refused(tmp_path):
    fits.PrimaryHDU(np.ones((50, 50), np.float32)).writeto(tmp_path / "r.fits")
    with pytest.raises(BadInput, match="WCS"):
        read_reference(tmp_path / "r.fits")


def test_a_raw_frame_is_not_taken_for_a_calibrated_one(tmp_path):
    fits.PrimaryHDU(np.ones((50, 50), np.uint16)).writeto(tmp_path / "raw.fits")
    with pytest.raises(BadInput, match="no calibrated frame"):
        read_frame(tmp_path / "raw.fits")


def test_cutouts_show_frame_reference_and_difference(make_product, make_reference, tmp_path):
    sky = Sky(seed=22)
    frames = [read_frame(make_product(sky, f"p{i}", seed=140 + i, extra=_new(3000.0))) for i in range(2)]
    found = find_transients(frames, read_reference(make_reference(sky)))
    shown = write_cutouts(found.candidates, found.searched, tmp_path / "cutouts")
    content = (tmp_path / "cutouts" / f"{shown[0].candidate_id}.png").read_bytes()
    assert shown[0].cutout.endswith(".png")
    assert content.startswith(b"\x89PNG")
    assert len(content) < 60_000


def test_the_made_up_wcs_is_the_one_that_astropy_reads():
    wcs = tan_wcs(*TARGET, (512, 512))
    assert [float(value) for value in wcs.wcs_pix2world(255.5, 255.5, 0)] == pytest.approx(TARGET)
