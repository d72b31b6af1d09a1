"""Alpaca's binary image, exactly."""

from __future__ import annotations

import numpy as np
import pytest

from nightbell.contracts.errors import DeviceFault, DeviceLied
from nightbell.devices.alpaca.imagebytes import HEAD, decode_image, decode_json_image, encode_error, encode_image


def picture(height: int, width: int, dtype="<u2"):
    return (np.arange(height * width).reshape(height, width) * 37 % 65000).astype(dtype)


def test_a_40_by_30_frame_comes_as_its_eleven_words_and_in_the_order_x_then_y():
    pixels = picture(30, 40)
    body = encode_image(pixels)
    assert HEAD.unpack_from(body) == (1, 0, 0, 0, 44, 2, 8, 2, 40, 30, 0)
    assert np.frombuffer(body, "<u2", offset=44)[1] == pixels[1, 0]  # the last index, y, runs fastest
    assert np.array_equal(decode_image(body), pixels)


@pytest.mark.parametrize("dtype", ["<i2", "<i4", "<f8", "<f4", "<u8", "u1", "<i8", "<u2", "<u4"])
def test_every_transmission_type_makes_the_round_trip(dtype):
    pixels = (picture(3, 5, "<i8") % 100).astype(dtype)
    back = decode_image(encode_image(pixels))
    assert back.dtype == np.dtype(dtype)
    assert np.array_equal(back, pixels)


def test_pixels_above_32767_survive():
    pixels = np.array([[65535, 40000], [32768, 1]], "<u2")
    assert np.array_equal(decode_image(encode_image(pixels)), pixels)
    assert np.array_equal(decode_json_image(pixels.T.tolist()), pixels)


def test_three_planes_become_plane_y_x():
    body = HEAD.pack(1, 0, 0, 0, 44, 2, 8, 3, 4, 3, 2) + np.arange(24, dtype="<u2").tobytes()
    assert decode_image(body).shape == (2, 3, 4)
    assert decode_image(body)[1, 0, 0] == 1


def test_an_error_inside_the_bytes_is_raised_with_its_words():
    with pytest.raises(DeviceFault, match="no image") as caught:
        decode_image(encode_error(0x40B, "no image"))
    assert caught.value.number == 0x40B


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x01\x00",
        encode_image(picture(8, 8))[:-1],
        encode_image(picture(8, 8)) + b"x",
        HEAD.pack(2, 0, 0, 0, 44, 2, 8, 2, 1, 1, 0) + b"\0\0",
        HEAD.pack(1, 0, 0, 0, 44, 2, 77, 2, 1, 1, 0) + b"\0\0",
        HEAD.pack(1, 0, 0, 0, 44, 2, 8, 2, -1, 1, 0) + b"\0\0",
        HEAD.pack(1, 0, 0, 0, 44, 2, 8, 4, 1, 1, 0) + b"\0\0",
    ],
)
def test_bytes_that_do_not_agree_with_their_header_are_refused(body):
    with pytest.raises(DeviceLied):
        decode_image(body)


def test_a_ragged_json_image_is_refused():
    with pytest.raises(DeviceLied):
        decode_json_image([[1, 2], [3]])
