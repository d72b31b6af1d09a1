"""Peaks of |S|, both signs, to a fraction of a pixel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter

__all__ = ["Peak", "find_peaks"]


@dataclass(frozen=True)
class Peak:
    """A local maximum of |S|. `sign` is -1 where the reference is brighter."""

    x: float
    y: float
    snr: float
    sign: int


def find_peaks(
    significance: NDArray[np.floating],
    difference: NDArray[np.floating],
    usable: NDArray[np.bool_],
    *,
    threshold: float,
    fwhm_px: float,
    most: int = 500,
) -> list[Peak]:
    """Local maxima of |S| >= `threshold` within one FWHM, strongest first.

    The place is that of `difference`: beside a bright host the noise has a slope, which moves the top of S away from the core.
    """
    strength = np.where(usable, np.abs(significance), 0.0)
    size = max(3, 2 * round(fwhm_px / 2) + 1)
    tops = (strength >= threshold) & (strength == maximum_filter(strength, size))
    ys, xs = np.nonzero(tops)
    order = np.argsort(-strength[ys, xs])[:most]
    peaks: list[Peak] = []
    for y, x in zip(ys[order], xs[order], strict=True):
        sign = 1 if significance[y, x] > 0 else -1
        iy, ix = _top(sign * difference[y - 1 : y + 2, x - 1 : x + 2])
        cy, cx = y + iy, x + ix
        dx, dy = _parabola(sign * difference[cy, cx - 1 : cx + 2]), _parabola(sign * difference[cy - 1 : cy + 2, cx])
        peaks.append(Peak(float(cx + dx), float(cy + dy), float(strength[y, x]), sign))
    return peaks


def _top(nine: NDArray[np.floating]) -> tuple[int, int]:
    """(dy, dx) of the largest of 3 x 3 values, each -1 to 1; (0, 0) at the frame's rim."""
    if nine.shape != (3, 3):
        return 0, 0
    row, column = np.unravel_index(int(np.argmax(nine)), (3, 3))
    return int(row) - 1, int(column) - 1


def _parabola(three: NDArray[np.floating]) -> float:
    """Offset of the top of a parabola through three values, -0.5 to 0.5."""
    if len(three) != 3:
        return 0.0
    left, middle, right = (float(value) for value in three)
    curve = left - 2 * middle + right
    return 0.0 if curve >= 0 else float(np.clip(0.5 * (left - right) / curve, -0.5, 0.5))
