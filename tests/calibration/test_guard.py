"""Broken files are refused by name before astropy sees them; odd ones are read and said."""

from __future__ import annotations

import gzip
import os
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nightbell.calibration.guard import read_frame
from nightbell.contracts.errors import BadInput, Missing, NightbellError


def _frame(tmp_path: Path, name: str = "a.fits", data: np.ndarray | None = None) -> Path:
    path = tmp_path / name
    pixels = np.arange(400 * 300, dtype=np.uint16).reshape(300, 400) if data is None else data
    fits.PrimaryHDU(pixels).writeto(path)
    return path


def _card(path: Path, key: str, text: str) -> Path:
    """Replace a card's whole value by `text`, as a damaged writer would."""
    raw = path.read_bytes()
    at = raw.index(f"{key:8}=".encode())
    path.write_bytes(raw[:at] + f"{key:8}= {text:>20}".encode().ljust(80) + raw[at + 80 :])
    return path


def _word(path: Path) -> str:
    with pytest.raises(NightbellError) as caught:
        read_frame(path)
    assert path.name in str(caught.value)
    assert caught.value.remedy
    return caught.value.word


def test_unsigned_counts_come_through_unchanged(tmp_path):
    frame = read_frame(_frame(tmp_path))
    assert frame.pixels.dtype == np.uint16
    assert np.array_equal(frame.pixels, np.arange(400 * 300, dtype=np.uint16).reshape(300, 400))


def test_stored_0x8000_is_count_0_and_0x7fff_is_65535(tmp_path):
    frame = read_frame(_frame(tmp_path, data=np.array([[0, 65535, 32768, 1]], np.uint16)))
    assert frame.pixels.tolist() == [[0, 65535, 32768, 1]]


@pytest.mark.parametrize("content", [b"", b"S", b"no picture at all\n" * 300, b"\xff\xd8\xff\xe0" + b"jpeg" * 1000])
def test_what_is_no_fits_is_refused_before_astropy(tmp_path, content):
    path = tmp_path / "a.fits"
    path.write_bytes(content)
    assert _word(path) == "NOT_FITS"


def test_a_file_that_is_not_there_is_missing(tmp_path):
    with pytest.raises(Missing):
        read_frame(tmp_path / "a.fits")


def test_a_file_cut_in_its_header(tmp_path):
    path = _frame(tmp_path)
    path.write_bytes(path.read_bytes()[:1000])
    assert _word(path) == "TRUNCATED_HEADER"


def test_a_file_cut_in_its_data_says_what_was_claimed_and_what_is_there(tmp_path):
    path = _frame(tmp_path)
    path.write_bytes(path.read_bytes()[: 2880 + 120_000])
    with pytest.raises(BadInput, match="240000 bytes of data, 120000 are there"):
        read_frame(path)
    assert _word(path) == "TRUNCATED_DATA"


@pytest.mark.parametrize(
    ("key", "value", "word"),
    [
        ("NAXIS1", "2000000000", "SIZE"),
        ("NAXIS1", "-300", "BAD_NAXIS"),
        ("NAXIS1", "0", "BAD_NAXIS"),
        ("NAXIS", "999", "BAD_NAXIS"),
        ("NAXIS", "1", "BAD_NAXIS"),
        ("NAXIS", "0", "NO_IMAGE"),
        ("BITPIX", "17", "BAD_BITPIX"),
        ("BITPIX", "sixteen", "BAD_BITPIX"),
        ("BZERO", "'NaN'", "BAD_CARD"),
    ],
)
def test_a_header_that_cannot_be_is_refused_by_name(tmp_path, key, value, word):
    assert _word(_card(_frame(tmp_path), key, value)) == word


def test_unsigned_data_without_bzero_is_refused(tmp_path):
    path = _card(_frame(tmp_path, data=np.full((100, 100), 1000, np.uint16)), "BZERO", "0")
    assert _word(path) == "WRONG_BZERO"


def test_54_mb_of_comments_cost_no_more_than_the_header_limit(tmp_path):
    path = _frame(tmp_path)
    raw = path.read_bytes()
    end = raw.index(b"END     ")
    path.write_bytes(raw[:end] + b"COMMENT no end".ljust(80) * 100_000)
    tracemalloc.start()
    assert _word(path) == "NO_END"
    assert tracemalloc.get_traced_memory()[1] < 40e6  # the file itself is 8 MB; no card became an object
    tracemalloc.stop()


def test_nul_bytes_in_a_card_are_accepted_and_said(tmp_path):
    path = _frame(tmp_path)
    raw = path.read_bytes()
    end = raw.index(b"END     ")
    path.write_bytes(raw[:end] + b"OBSERVER= 'a\0\0b'".ljust(80) + raw[end : 2880 - 80] + raw[2880:])
    assert [one.code for one in read_frame(path).ambiguities] == ["HEADER"]


def test_a_latin_1_byte_in_a_keyword_is_refused_with_its_place(tmp_path):
    path = _frame(tmp_path)
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b"BSCALE  ", b"BSC\xe4LE  ", 1))
    assert _word(path) == "BAD_CARD"


def test_junk_behind_the_data_is_accepted_and_said(tmp_path):
    path = _frame(tmp_path)
    path.write_bytes(path.read_bytes() + b"x" * 1000)
    assert [one.code for one in read_frame(path).ambiguities] == ["TAIL"]


def test_gzip_gives_the_same_pixels_and_a_hash_of_its_own(tmp_path):
    path = _frame(tmp_path)
    packed = tmp_path / "a.fits.gz"
    packed.write_bytes(gzip.compress(path.read_bytes(), mtime=0))
    plain, zipped = read_frame(path), read_frame(packed)
    assert np.array_equal(plain.pixels, zipped.pixels)
    assert plain.data_sha256 == zipped.data_sha256
    assert plain.sha256 != zipped.sha256


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_a_cut_archive_is_refused(tmp_path, share):
    rng = np.random.default_rng(1)
    packed = gzip.compress(_frame(tmp_path, data=rng.integers(0, 65535, (300, 400)).astype(np.uint16)).read_bytes())
    path = tmp_path / "half.fits.gz"
    path.write_bytes(packed[: int(share * len(packed))])
    assert _word(path) in {"TRUNCATED_GZIP", "TRUNCATED_HEADER"}


def test_a_gzip_bomb_is_not_inflated(tmp_path):
    header = fits.PrimaryHDU(np.zeros((2, 2), np.uint16)).header
    header["NAXIS1"], header["NAXIS2"] = 60000, 2500
    path = tmp_path / "bomb.fits.gz"
    path.write_bytes(gzip.compress(header.tostring().encode() + bytes(300_000_000)))
    tracemalloc.start()
    assert _word(path) == "GZIP_BOMB"
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


def test_content_counts_not_the_name(tmp_path):
    assert [one.code for one in read_frame(_frame(tmp_path, "a.jpg")).ambiguities] == ["NAME"]


def test_an_image_in_an_extension_is_read_and_said_two_are_refused(tmp_path):
    image = fits.ImageHDU(np.ones((20, 20), np.float32))
    fits.HDUList([fits.PrimaryHDU(), image]).writeto(tmp_path / "one.fits")
    fits.HDUList([fits.PrimaryHDU(), image, image.copy()]).writeto(tmp_path / "two.fits")
    frame = read_frame(tmp_path / "one.fits")
    assert frame.hdu == 1
    assert [one.code for one in frame.ambiguities] == ["HDU"]
    assert _word(tmp_path / "two.fits") == "AMBIGUOUS_HDU"


def test_what_only_the_first_unit_tells_of_an_image_in_an_extension_is_read(tmp_path):
    first, image = fits.PrimaryHDU(), fits.ImageHDU(np.ones((4, 5), np.uint16), name="CHIP1")
    first.header["IMAGETYP"], first.header["GAIN"], image.header["GAIN"] = "flat", 1.0, 2.0
    first.header["LONG"] = "x" * 150
    fits.HDUList([first, image]).writeto(tmp_path / "a.fits")
    header = fits.Header.fromstring(read_frame(tmp_path / "a.fits").header_text)
    assert (header["IMAGETYP"], header["GAIN"], header["NAXIS"], header["LONG"]) == ("flat", 2.0, 2, "x" * 150)


def test_uncertainty_and_mask_beside_an_image_are_not_images_of_their_own(tmp_path):
    planes = [fits.PrimaryHDU(np.ones((4, 5), np.float32)), *(fits.ImageHDU(np.ones((4, 5), np.uint8), name=n) for n in ("MASK", "UNCERT"))]
    fits.HDUList(planes).writeto(tmp_path / "a.fits")
    assert [one.code for one in read_frame(tmp_path / "a.fits").ambiguities] == ["HDU"]


def test_a_product_is_not_taken_for_a_raw_frame(tmp_path):
    path = _frame(tmp_path)
    fits.setval(path, "NBPRODID", value="ab" * 32)
    assert _word(path) == "PRODUCT"


@pytest.mark.parametrize(("dtype", "ceiling"), [("u1", 255.0), ("i2", 32767.0), ("u2", 65535.0), ("i4", np.inf), ("f4", np.inf)])
def test_the_largest_count_is_that_of_the_files_type(tmp_path, dtype, ceiling):
    assert read_frame(_frame(tmp_path, data=np.ones((4, 5), dtype))).ceiling_adu == ceiling


def test_a_cube_is_refused_but_one_plane_is_an_image(tmp_path):
    assert _word(_frame(tmp_path, "cube.fits", np.zeros((3, 20, 20), np.uint16))) == "CUBE"
    assert read_frame(_frame(tmp_path, "plane.fits", np.zeros((1, 20, 30), np.uint16))).pixels.shape == (20, 30)


def test_nan_pixels_are_counted_and_a_frame_of_them_is_refused(tmp_path):
    data = np.ones((50, 50), np.float32)
    data[0, :7] = np.nan
    assert "7 pixels" in read_frame(_frame(tmp_path, "some.fits", data)).ambiguities[0].detail
    data[:30] = np.nan
    assert _word(_frame(tmp_path, "most.fits", data)) == "NOT_FINITE"


def test_a_blank_that_16_bits_cannot_hold_is_ignored_and_said(tmp_path):
    path = _frame(tmp_path)
    with fits.open(path, mode="update", do_not_scale_image_data=True) as opened:
        opened[0].header["BLANK"] = 32768
    frame = read_frame(path)
    assert frame.pixels.dtype == np.uint16
    assert [one.code for one in frame.ambiguities] == ["BLANK"]


def test_rice_tiles_give_the_same_counts(tmp_path):
    rng = np.random.default_rng(3)
    counts = rng.integers(900, 60000, (64, 80)).astype(np.uint16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(counts, compression_type="RICE_1")]).writeto(tmp_path / "a.fits.fz")
    frame = read_frame(tmp_path / "a.fits.fz")
    assert frame.pixels.dtype == np.uint16
    assert np.array_equal(frame.pixels, counts)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_a_named_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.fits")
    assert _word(tmp_path / "pipe.fits") == "NOT_A_FILE"


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_damaged_file_gives_anything_but_pixels_or_a_named_refusal(tmp_path, data):
    path = tmp_path / "whole.fits"
    if not path.exists():
        fits.PrimaryHDU(np.full((30, 40), 700, np.uint16)).writeto(path)
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    raw = raw[: data.draw(st.integers(0, len(raw)))]
    damaged = tmp_path / "damaged.fits"
    damaged.write_bytes(bytes(raw))
    remedy = "none needed"
    try:
        read_frame(damaged)
    except NightbellError as error:
        remedy = error.remedy
    assert remedy
