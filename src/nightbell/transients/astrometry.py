"""Stars of a frame, and the map from its pixels to those of the reference, found by voting for a shift and refined by matching.

Only star-like sources vote: hot pixels stand still while stars drift, and a list with many of them registers every frame to a
false zero. Pixel coordinates count from 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sep
from astropy.wcs import WCS
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter, uniform_filter
from scipy.spatial import cKDTree

from nightbell.contracts.errors import Failed

__all__ = ["Affine", "Stars", "find_stars", "register"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Stars:
    """Star-like sources, brightest first, and the background that was subtracted from `image`."""

    x: Array
    y: Array
    flux: Array
    fwhm_px: float
    image: NDArray[np.float32]
    background_rms: float
    saturated_xy: NDArray[np.float64]
    """Centres of sources with saturated pixels, shape (n, 2)."""


@dataclass(frozen=True)
class Affine:
    """(x, y) of the frame -> (x, y) of the reference: m @ (x, y) + t."""

    m: Array
    t: Array
    n_matched: int
    scatter_px: float

    def __call__(self, x: Any, y: Any) -> tuple[Any, Any]:
        return self.m[0, 0] * x + self.m[0, 1] * y + self.t[0], self.m[1, 0] * x + self.m[1, 1] * y + self.t[1]


def find_stars(
    data: NDArray[np.floating], mask: NDArray[np.bool_], *, saturated: NDArray[np.bool_] | None = None, most: int = 400
) -> Stars:
    """Subtract the background and list the stars. Raises `Failed` when no star is found."""
    # sep wants native, contiguous float32, and no NaN.
    image = np.ascontiguousarray(data, dtype=np.float32)
    bad = np.ascontiguousarray(mask | ~np.isfinite(image))
    image = np.where(bad, np.float32(np.median(image[~bad])) if (~bad).any() else np.float32(0), image).astype(np.float32)
    size = max(16, min(64, *(n // 4 for n in image.shape)))
    background = sep.Background(image, mask=bad, bw=size, bh=size)
    flat = image - background.back().astype(np.float32)
    sep.set_extract_pixstack(3_000_000)
    # Without sep's smoothing kernel: smoothed, a hot pixel covers nine pixels and looks like a sharp star.
    sources = sep.extract(flat, 4.0, err=background.globalrms, mask=bad, minarea=5, filter_kernel=None)
    a, b = sources["a"], sources["b"]
    fwhm = 2.3548 * np.sqrt((a**2 + b**2) / 2)
    margin = 4
    inside = (
        (sources["x"] > margin)
        & (sources["y"] > margin)
        & (sources["x"] < image.shape[1] - margin)
        & (sources["y"] < image.shape[0] - margin)
    )
    saturated_xy = np.zeros((0, 2))
    touched = np.zeros(len(sources), bool)
    if saturated is not None and saturated.any():
        near = maximum_filter(saturated, 9)
        touched = near[np.clip(np.rint(sources["y"]).astype(int), 0, None), np.clip(np.rint(sources["x"]).astype(int), 0, None)]
        saturated_xy = np.column_stack([sources["x"][touched], sources["y"][touched]]).astype(float)
    shapely = (sources["flag"] & 3 == 0) & (b > 0.6 * a) & (fwhm > 1.2) & inside & ~touched
    stars = sources[shapely]
    if len(stars) == 0:
        raise Failed("no star was found", where="frame", remedy="Look at the frame: clouds, a closed dome, trails?")
    widths = fwhm[shapely]
    bright = np.argsort(-stars["flux"])
    typical = _half_sample_mode(widths[bright[: max(5, len(bright) // 2)]])
    keep = [i for i in bright if 0.7 * typical <= widths[i] <= 1.5 * typical][:most] or list(bright[:most])
    chosen = stars[keep]
    x, y, _ = sep.winpos(flat, chosen["x"], chosen["y"], np.full(len(chosen), typical / 2.3548))
    fine = _star_fwhm(flat, x, y, typical)
    return Stars(x.astype(float), y.astype(float), chosen["flux"].astype(float), fine, flat, float(background.globalrms), saturated_xy)


def _half_sample_mode(values: NDArray[np.floating]) -> float:
    """Where most of `values` crowd: halved again and again to the densest half."""
    ordered = np.sort(np.asarray(values, float))
    while len(ordered) > 3:
        half = len(ordered) // 2 + 1
        spans = ordered[half - 1 :] - ordered[: len(ordered) - half + 1]
        start = int(np.argmin(spans))
        ordered = ordered[start : start + half]
    return float(np.mean(ordered))


def _star_fwhm(image: NDArray[np.float32], x: Array, y: Array, guess: float) -> float:
    """From ln I = c - r^2 / (2 sigma^2) on pixels above 30 % of the peak: isophotal widths are too large beside galaxies."""
    widths: list[float] = []
    half = max(2, int(np.ceil(1.2 * guess)))
    for cx, cy in zip(x[:60], y[:60], strict=True):
        ix, iy = round(cx), round(cy)
        if not (half <= ix < image.shape[1] - half and half <= iy < image.shape[0] - half):
            continue
        stamp = image[iy - half : iy + half + 1, ix - half : ix + half + 1].astype(float)
        yy, xx = np.mgrid[iy - half : iy + half + 1, ix - half : ix + half + 1]
        r2 = (xx - cx) ** 2 + (yy - cy) ** 2
        use = stamp > 0.3 * stamp.max()
        if stamp.max() <= 0 or use.sum() < 4:
            continue
        slope = np.polyfit(r2[use], np.log(stamp[use]), 1, w=stamp[use])[0]
        if slope < 0:
            widths.append(2.3548 * float(np.sqrt(-0.5 / slope)))
    return _half_sample_mode(np.array(widths)) if widths else guess


def register(frame: Stars, frame_wcs: WCS | None, reference: Stars, reference_wcs: WCS | None, *, reach_px: float) -> Affine:
    """The map from the frame to the reference. Raises `Failed` when fewer than 5 stars agree.

    With both WCS the frame's pixels are first carried over the sky (a guess is good enough); the vote then looks for a shift of
    up to `reach_px`, then for a half turn (a pier flip), a small error of the rotation, and at last for any angle.
    """
    best: Affine | None = None
    n = min(len(frame.x), len(reference.x))
    for number, guess in enumerate(_guesses(frame, frame_wcs, reference_wcs)):
        found = _vote(frame, reference, guess, reach_px)
        # Of hundreds of angles one pairs a handful of stars by chance: a place nobody told must show more of them.
        least = max(5.0, 0.2 * n) if number <= _TOLD else max(8.0, 0.4 * n)
        if found is not None and found.n_matched >= least and (best is None or found.n_matched > best.n_matched):
            best = found
            if found.n_matched >= max(8, 0.5 * min(n, 60)):
                break
    if best is None:
        raise Failed(
            f"too few of {len(frame.x)} stars agree with the reference's {len(reference.x)}",
            where="registration",
            remedy="Check that the reference shows this field, and the frame's pointing",
        )
    return best


_SMALL_DEG = tuple(sign * step for step in (0.7, 1.4, 2.1, 2.8, 3.5, 4.2, 4.9, 5.6) for sign in (1, -1))
_ANY_DEG = tuple(float(sign * angle) for angle in range(8, 173) for sign in (1, -1))
_TOLD = 1 + 2 * len(_SMALL_DEG)
"""Number of the last guess that stands near what the header says."""


def _guesses(frame: Stars, frame_wcs: WCS | None, reference_wcs: WCS | None) -> Sequence[Affine]:
    ny, nx = frame.image.shape
    centre = np.array([(nx - 1) / 2, (ny - 1) / 2])
    first = Affine(np.eye(2), np.zeros(2), 0, 0.0)
    if frame_wcs is not None and reference_wcs is not None:
        corners = np.array([[0, 0], [nx - 1, 0], [0, ny - 1], [nx - 1, ny - 1], centre], float)
        ra, dec = frame_wcs.wcs_pix2world(corners[:, 0], corners[:, 1], 0)
        px, py = reference_wcs.wcs_world2pix(ra, dec, 0)
        there = np.column_stack([px, py])
        if np.isfinite(there).all():
            first = _fit(corners, there)
    # As it says; turned by a pier flip; then small errors of the rotator around both; then any angle.
    turned = [first]
    for angle_deg in (180.0, *_SMALL_DEG, *(180.0 + angle for angle in _SMALL_DEG), *_ANY_DEG):
        c, s = np.cos(np.deg2rad(angle_deg)), np.sin(np.deg2rad(angle_deg))
        m = first.m @ np.array([[c, -s], [s, c]])
        at_centre = first.m @ centre + first.t
        turned.append(Affine(m, at_centre - m @ centre, 0, 0.0))
    return turned


def _fit(source: Array, there: Array) -> Affine:
    design = np.column_stack([source, np.ones(len(source))])
    solution, *_ = np.linalg.lstsq(design, there, rcond=None)
    residual = there - design @ solution
    scatter = float(np.sqrt(np.mean(residual**2))) if len(source) > 3 else 0.0
    return Affine(np.asarray(solution[:2].T, dtype=float), np.asarray(solution[2], dtype=float), len(source), scatter)


def _vote(frame: Stars, reference: Stars, guess: Affine, reach_px: float) -> Affine | None:
    n = 80
    px, py = guess(frame.x[:n], frame.y[:n])
    inside = (
        (reference.x > px.min() - reach_px)
        & (reference.x < px.max() + reach_px)
        & (reference.y > py.min() - reach_px)
        & (reference.y < py.max() + reach_px)
    )
    rx, ry = reference.x[inside][: 2 * n], reference.y[inside][: 2 * n]
    if len(rx) < 3 or len(px) < 3:
        return None
    dx, dy = (rx[None, :] - px[:, None]).ravel(), (ry[None, :] - py[:, None]).ravel()
    near = (np.abs(dx) <= reach_px) & (np.abs(dy) <= reach_px)
    if not near.any():
        return None
    bins = int(np.ceil(reach_px)) + 1
    edges = np.linspace(-reach_px, reach_px, bins + 1)
    votes, _, _ = np.histogram2d(dx[near], dy[near], bins=(edges, edges))
    smooth = uniform_filter(votes, 3, mode="constant")
    ix, iy = np.unravel_index(int(np.argmax(smooth)), smooth.shape)
    shift = np.array([(edges[ix] + edges[ix + 1]) / 2, (edges[iy] + edges[iy + 1]) / 2])
    return _refine(frame, reference, Affine(guess.m, guess.t + shift, 0, 0.0))


def _refine(frame: Stars, reference: Stars, start: Affine) -> Affine | None:
    tree = cKDTree(np.column_stack([reference.x, reference.y]))
    source = np.column_stack([frame.x, frame.y])
    current = start
    for tolerance in (5.0, 3.0, 2.0, 1.0, 1.0):
        px, py = current(frame.x, frame.y)
        distance, index = tree.query(np.column_stack([px, py]), distance_upper_bound=tolerance)
        hit = np.isfinite(distance)
        # Two stars of a crowded frame must not share one of the reference.
        _, firsts = np.unique(index[hit], return_index=True)
        chosen = np.flatnonzero(hit)[firsts]
        if len(chosen) < 3:
            return None
        there = np.column_stack([reference.x[index[chosen]], reference.y[index[chosen]]])
        fitted = _fit(source[chosen], there) if len(chosen) >= 6 else _shift_only(current, source[chosen], there)
        scale = float(np.sqrt(abs(np.linalg.det(fitted.m))))
        expected = float(np.sqrt(abs(np.linalg.det(start.m))))
        if abs(scale / expected - 1) > 0.03:
            return None
        current = fitted
    px, py = current(frame.x, frame.y)
    distance, _ = tree.query(np.column_stack([px, py]), distance_upper_bound=1.0)
    hit = np.isfinite(distance)
    scatter = float(np.sqrt(np.median(distance[hit] ** 2))) if hit.any() else np.inf
    return Affine(current.m, current.t, int(hit.sum()), scatter)


def _shift_only(current: Affine, source: Array, there: Array) -> Affine:
    px, py = current(source[:, 0], source[:, 1])
    shift = np.array([np.median(there[:, 0] - px), np.median(there[:, 1] - py)])
    return Affine(current.m, current.t + shift, len(source), 0.0)
