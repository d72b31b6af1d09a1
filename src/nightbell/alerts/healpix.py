"""HEALPix, nested scheme, in numpy: the two or three functions that sky maps need, exact to order 29.

Gorski et al. 2005, ApJ 622, 759. Our own because importing astropy costs more than a second, and an alert cannot wait for it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["DEEPEST", "cell_area_sr", "cells_of", "centres_of", "ring_index"]

DEEPEST = 29
"""The finest order that fits into int64."""

# Position of each of the 12 base faces: ring of its southern corner and its longitude in units of 45 deg.
_FACE_RING = np.array([2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4], dtype=np.int64)
_FACE_COLUMN = np.array([1, 3, 5, 7, 0, 2, 4, 6, 1, 3, 5, 7], dtype=np.int64)

_SPREAD = (
    (16, 0x0000FFFF0000FFFF),
    (8, 0x00FF00FF00FF00FF),
    (4, 0x0F0F0F0F0F0F0F0F),
    (2, 0x3333333333333333),
    (1, 0x5555555555555555),
)


def cell_area_sr(order: NDArray[np.integer] | int) -> NDArray[np.float64]:
    """Solid angle of one cell."""
    return np.asarray(4 * np.pi / 12 / 4.0 ** np.asarray(order, dtype=np.float64))


def _spread(bits: NDArray[np.int64]) -> NDArray[np.int64]:
    """Bit k of the input becomes bit 2k."""
    value = bits
    for shift, mask in _SPREAD:
        value = (value | (value << shift)) & mask
    return value


def _gather(bits: NDArray[np.int64]) -> NDArray[np.int64]:
    """Bit 2k of the input becomes bit k."""
    value = bits & 0x5555555555555555
    for (shift, _), mask in zip(
        reversed(_SPREAD), (0x3333333333333333, 0x0F0F0F0F0F0F0F0F, 0x00FF00FF00FF00FF, 0x0000FFFF0000FFFF, 0xFFFFFFFF), strict=True
    ):
        value = (value | (value >> shift)) & mask
    return value


def cells_of(ra_deg: NDArray[np.float64], dec_deg: NDArray[np.float64], order: int = DEEPEST) -> NDArray[np.int64]:
    """Index of the cell that holds each position. RA of any turn; |dec| <= 90."""
    nside = np.int64(1) << order
    ra = np.mod(np.asarray(ra_deg, dtype=np.float64), 360.0)
    dec = np.radians(np.asarray(dec_deg, dtype=np.float64))
    quarter = ra / 90.0
    quarter = np.where(quarter >= 4.0, 0.0, quarter)  # mod of a tiny negative rounds to 360
    z = np.sin(dec)
    equatorial = np.abs(z) <= 2 / 3
    # Equatorial belt: two families of straight lines in (longitude, z).
    rising = nside * (0.5 + quarter - 0.75 * z)
    falling = nside * (0.5 + quarter + 0.75 * z)
    up = np.floor(rising).astype(np.int64)
    down = np.floor(falling).astype(np.int64)
    face_up, face_down = up >> order, down >> order
    face = np.where(face_up == face_down, (face_up & 3) | 4, np.where(face_up < face_down, face_up & 3, (face_down & 3) + 8))
    x, y = down & (nside - 1), nside - 1 - (up & (nside - 1))
    # Polar caps. sqrt(3 (1 - |z|)) loses all digits at the pole; written with the half polar distance it does not.
    column = np.minimum(quarter.astype(np.int64), 3)
    part = quarter - column
    reach = nside * np.sqrt(6.0) * np.abs(np.sin((np.pi / 2 - np.abs(dec)) / 2))
    right = np.minimum((part * reach).astype(np.int64), nside - 1)
    left = np.minimum(((1 - part) * reach).astype(np.int64), nside - 1)
    north = z >= 0
    polar_face = np.where(north, column, column + 8)
    polar_x = np.where(north, nside - 1 - left, right)
    polar_y = np.where(north, nside - 1 - right, left)
    face = np.where(equatorial, face, polar_face)
    x, y = np.where(equatorial, x, polar_x), np.where(equatorial, y, polar_y)
    cells: NDArray[np.int64] = (face << (2 * order)) + _spread(x) + (_spread(y) << 1)
    return cells


def centres_of(order: NDArray[np.integer] | int, cell: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(ra_deg, dec_deg) of the centres of cells; `order` may differ from cell to cell."""
    orders = np.broadcast_to(np.asarray(order, dtype=np.int64), np.shape(cell))
    nside = np.int64(1) << orders
    cell = np.asarray(cell, dtype=np.int64)
    face = cell >> (2 * orders)
    within = cell & (nside * nside - 1)
    x, y = _gather(within), _gather(within >> 1)
    ring = _FACE_RING[face] * nside - x - y - 1
    north, south = ring < nside, ring > 3 * nside
    n_in_ring = np.where(north, ring, np.where(south, 4 * nside - ring, nside)).astype(np.float64)
    fraction = n_in_ring / nside
    belt_z = (2 * nside - ring) * (2.0 / (3.0 * nside))
    # In the caps 1 - |z| = fraction^2 / 3, i.e. sin(polar distance / 2) = fraction / sqrt(6).
    cap_dec = np.pi / 2 - 2 * np.arcsin(fraction / np.sqrt(6.0))
    dec = np.where(north, cap_dec, np.where(south, -cap_dec, np.arcsin(np.clip(belt_z, -1, 1))))
    step = (_FACE_COLUMN[face] * n_in_ring + x - y + 1) / 2
    ra = np.mod((step - 0.5) / n_in_ring * 90.0, 360.0)
    return ra, np.degrees(dec)


def ring_index(order: int, cell: NDArray[np.int64]) -> NDArray[np.int64]:
    """Index in the RING scheme of nested cells."""
    nside = np.int64(1) << order
    face = cell >> (2 * order)
    within = cell & (nside * nside - 1)
    x, y = _gather(within), _gather(within >> 1)
    ring = _FACE_RING[face] * nside - x - y - 1
    north, south = ring < nside, ring > 3 * nside
    to_pole = np.where(north, ring, 4 * nside - ring)
    n_in_ring = np.where(north | south, to_pole, nside)
    # Every second ring of the belt begins half a cell further on.
    shift = np.where(north | south, 0, (ring - nside) & 1)
    step = (_FACE_COLUMN[face] * n_in_ring + x - y + 1 + shift) // 2 - 1
    first = np.where(
        north,
        2 * ring * (ring - 1),
        np.where(south, 12 * nside * nside - 2 * to_pole * (to_pole + 1), 2 * nside * (nside - 1) + (ring - nside) * 4 * nside),
    )
    index: NDArray[np.int64] = first + step % (4 * n_in_ring)
    return index
