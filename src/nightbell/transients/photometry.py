"""What a star looks like on a frame, and the flux of a peak of the difference."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from nightbell.transients.astrometry import Stars

__all__ = ["magnitude", "peak_per_flux", "star_profile"]

Array = NDArray[np.float64]


def star_profile(image: NDArray[np.floating], usable: NDArray[np.bool_], stars: Stars, half: int) -> Array | None:
    """Median of bright stars, each centred and normed to a peak of 1, shape (2 half + 1, 2 half + 1); None without stars."""
    offsets = np.arange(-half, half + 1)
    stamps: list[Array] = []
    for x, y in zip(stars.x[:60], stars.y[:60], strict=True):
        ix, iy = round(float(x)), round(float(y))
        if not (half + 2 <= ix < image.shape[1] - half - 2 and half + 2 <= iy < image.shape[0] - half - 2):
            continue
        part = (slice(iy - half - 2, iy + half + 3), slice(ix - half - 2, ix + half + 3))
        if not usable[part].all():
            continue
        cut = np.asarray(image[part], float)
        yy, xx = np.meshgrid(offsets + half + 2 + (y - iy), offsets + half + 2 + (x - ix), indexing="ij")
        stamp = np.asarray(map_coordinates(cut, [yy, xx], order=3, mode="nearest"))
        if stamp[half, half] > 0:
            stamps.append(stamp / stamp[half, half])
    if not stamps:
        return None
    profile = np.median(np.stack(stamps), axis=0)
    # Neighbours lift the wings of a median star in a crowded field; what stands at the rim is not the star's.
    rim = np.median(np.concatenate([profile[0], profile[-1], profile[:, 0], profile[:, -1]]))
    profile = profile - rim
    return np.asarray(profile / profile[half, half])


def peak_per_flux(profile: Array) -> float:
    """Peak of a star of total flux 1 with this profile."""
    return float(1.0 / profile.sum())


def magnitude(flux: float, zero_point_mag: float | None) -> float | None:
    """Zero point - 2.5 log10(flux); None without a zero point or for a flux that is not positive."""
    if zero_point_mag is None or flux <= 0:
        return None
    return float(zero_point_mag - 2.5 * np.log10(flux))
