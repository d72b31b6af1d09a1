"""ImageBytes, Alpaca's binary image: eleven little-endian 32-bit words, then pixels [x][y], last index fastest.

    version 1 · error · client transaction · server transaction · data start · element type · transmission type · rank · d1 · d2 · d3

FITS wants [y, x], so the answer is the transposed array. Types are kept as sent: uint16 above 32767 survives.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from nightbell.contracts.errors import DeviceLied
from nightbell.devices.faults import fault_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["HEAD", "decode_image", "decode_json_image", "encode_error", "encode_image"]

HEAD = struct.Struct("<IiIIiiiiiii")
_DTYPES = {1: "<i2", 2: "<i4", 3: "<f8", 4: "<f4", 5: "<u8", 6: "u1", 7: "<i8", 8: "<u2", 9: "<u4"}
_CODES = {dtype.lstrip("<"): code for code, dtype in _DTYPES.items()}


def decode_image(body: bytes, *, where: str = "ImageArray") -> NDArray[Any]:
    """Pixels [y, x] (or [plane, y, x]). Raises the device's own fault, or DeviceLied when lengths do not agree."""
    import numpy as np  # noqa: PLC0415 - devices without images must not load it

    remedy = "Nothing was kept: expose again"
    if len(body) < HEAD.size:
        raise DeviceLied(f"{len(body)} bytes are no ImageBytes", where=where, remedy=remedy)
    version, error, _, _, start, _, kind, rank, d1, d2, d3 = HEAD.unpack_from(body)
    if version != 1:
        raise DeviceLied(f"ImageBytes version {version} is not known", where=where, remedy="Ask for JSON, or mend the server")
    if error:
        raise fault_of(error, body[start:].decode("utf-8", "replace"), where=where)
    if kind not in _DTYPES or rank not in (2, 3) or min(d1, d2) < 1 or start < HEAD.size:
        raise DeviceLied(f"ImageBytes of type {kind}, rank {rank}, {d1} x {d2} x {d3}", where=where, remedy=remedy)
    dtype = np.dtype(_DTYPES[kind])
    planes = max(d3, 1) if rank == 3 else 1
    if len(body) != start + d1 * d2 * planes * dtype.itemsize:
        raise DeviceLied(f"{d1} x {d2} x {planes} pixels do not make {len(body)} bytes", where=where, remedy=remedy)
    flat = np.frombuffer(body, dtype, offset=start)
    if rank == 2:
        return np.ascontiguousarray(flat.reshape(d1, d2).T)
    return np.ascontiguousarray(flat.reshape(d1, d2, planes).transpose(2, 1, 0))


def decode_json_image(value: Any, *, where: str = "ImageArray") -> NDArray[Any]:
    """Pixels [y, x] of the slow form, nested lists [x][y]."""
    import numpy as np  # noqa: PLC0415

    try:
        pixels = np.asarray(value)
    except ValueError as error:
        raise DeviceLied(f"the image is ragged: {error}", where=where, remedy="Expose again") from error
    if pixels.ndim not in (2, 3) or pixels.dtype.kind not in "iuf" or not pixels.size:
        raise DeviceLied(f"an image of shape {pixels.shape}, type {pixels.dtype}", where=where, remedy="Expose again")
    if pixels.dtype.kind in "iu" and pixels.min() >= 0 and pixels.max() <= 65535:
        pixels = pixels.astype(np.uint16)
    return np.ascontiguousarray(pixels.T)


def encode_image(pixels: NDArray[np.generic], *, client_transaction: int = 0, server_transaction: int = 0, element_type: int = 2) -> bytes:
    """ImageBytes of `pixels` [y, x]; what our simulated camera sends. `element_type`: what ImageArray is in the driver (int32)."""
    import numpy as np  # noqa: PLC0415

    code = _CODES[pixels.dtype.newbyteorder("=").str.lstrip("<>=|")]
    height, width = pixels.shape
    head = HEAD.pack(1, 0, client_transaction, server_transaction, HEAD.size, element_type, code, 2, width, height, 0)
    return head + np.ascontiguousarray(pixels.T).astype(pixels.dtype.newbyteorder("<"), copy=False).tobytes()


def encode_error(number: int, words: str, *, client_transaction: int = 0, server_transaction: int = 0) -> bytes:
    """ImageBytes that carry an error instead of an image."""
    return HEAD.pack(1, number, client_transaction, server_transaction, HEAD.size, 0, 0, 0, 0, 0, 0) + words.encode()
