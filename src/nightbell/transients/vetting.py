"""Reasons to drop a peak, each with a name, its value and its limit. A veto never deletes: the candidate keeps the list.

negative    the reference is brighter there (kept as a fact, not a new source)
shape       D does not look like a star                           cor      < 0.80
dipole      a strong negative beside it: misregistration          neg      > max(0.30, 3.6 / snr)
sharp       the frame itself does not show a star (cosmic ray)    psf_chi2 > 4 + (0.15 snr)^2
narrow      it is thinner than a star along one axis (cosmic ray) width    < 0.5
faint       a small error of a bright star's subtraction          rel      < 0.03
masked      bad pixels under it                                   mask     > 0.5
saturated   beside a saturated star                               nearer than 4 FWHM
single      not seen again on the other frames of the field (search.py)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from nightbell.transients.astrometry import Stars
from nightbell.transients.detection import Peak
from nightbell.transients.difference import Difference

__all__ = ["Features", "features_of", "vetoes_of"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Features:
    """What a peak looks like. `psf_chi2` and `width` are None where they cannot be measured."""

    cor: float
    neg: float
    psf_chi2: float | None
    width: float | None
    """Light of the two neighbours of the brightest pixel, along the thinner axis, in units of what a star has there."""
    rel: float
    mask_fraction: float
    saturated_px: float
    """Distance to the nearest saturated star."""
    elongation: float
    fwhm_px: float


def features_of(
    peak: Peak,
    difference: Difference,
    frame: NDArray[np.floating],
    variance: NDArray[np.floating],
    bad: NDArray[np.bool_],
    stars: Stars,
    profile: Array,
    frame_profile: Array,
) -> Features:
    """Measure `peak`. `profile` is a star of the difference (pre-convolved), `frame_profile` one of the frame itself."""
    fwhm = stars.fwhm_px
    half = profile.shape[0] // 2
    d = peak.sign * _cut(difference.difference, peak, half)
    yy, xx = np.mgrid[-half : half + 1, -half : half + 1]
    core = np.hypot(xx, yy) <= 1.2 * fwhm
    cor = float(np.corrcoef(d[core], profile[core])[0, 1]) if np.ptp(d[core]) > 0 else 0.0
    near = np.hypot(xx, yy) <= 2.0 * fwhm
    s = peak.sign * _cut(difference.significance, peak, half)
    neg = float(max(0.0, -s[near].min()) / peak.snr)
    weight = np.clip(profile, 0, None) ** 2
    masked = _cut(bad.astype(np.float32), peak, half, order=0)
    mask_fraction = float((weight * (masked > 0.5)).sum() / weight.sum())
    matched = _cut(difference.matched, peak, 2)
    rel = float(d[half, half] / max(float(matched.max()), 1e-9)) if matched.max() > 0 else 99.0
    distance = (
        np.hypot(stars.saturated_xy[:, 0] - peak.x, stars.saturated_xy[:, 1] - peak.y) if len(stars.saturated_xy) else np.array([1e9])
    )
    positive = np.clip(d, 0, None) * core
    return Features(
        cor=cor,
        neg=neg,
        width=_width(peak, difference, frame, variance, bad, frame_profile),
        psf_chi2=_psf_chi2(peak, difference, frame, variance, bad, frame_profile),
        rel=rel,
        mask_fraction=mask_fraction,
        saturated_px=float(distance.min()),
        elongation=_elongation(positive, xx, yy),
        fwhm_px=float(np.sqrt(2) * np.sqrt((positive > 0.5 * positive.max()).sum() / np.pi)),
    )


def _cut(image: NDArray[np.floating], peak: Peak, half: int, order: int = 1) -> Array:
    yy, xx = np.mgrid[-half : half + 1, -half : half + 1]
    return np.asarray(map_coordinates(image, [yy + peak.y, xx + peak.x], order=order, mode="nearest"), dtype=float)


def _psf_chi2(
    peak: Peak,
    difference: Difference,
    frame: NDArray[np.floating],
    variance: NDArray[np.floating],
    bad: NDArray[np.bool_],
    profile: Array,
) -> float | None:
    """Best fit of star + constant to the frame minus the smooth reference in 5 x 5 pixels, with a model error of 12 %."""
    ix, iy = round(peak.x), round(peak.y)
    if not (2 <= ix < frame.shape[1] - 2 and 2 <= iy < frame.shape[0] - 2):
        return None
    part = (slice(iy - 2, iy + 3), slice(ix - 2, ix + 3))
    good = ~bad[part]
    if good.sum() < 12:
        return None
    # R (x) K is blurred by G too; under a point on a smooth galaxy that difference is part of the constant.
    data = peak.sign * (np.asarray(frame[part], float) - np.asarray(difference.matched[part], float))
    sigma2 = np.asarray(variance[part], float)
    half = profile.shape[0] // 2
    best: float | None = None
    for ox in (-0.5, -0.25, 0.0, 0.25, 0.5):
        for oy in (-0.5, -0.25, 0.0, 0.25, 0.5):
            yy, xx = np.mgrid[-2:3, -2:3]
            star = map_coordinates(profile, [yy - (peak.y + oy - iy) + half, xx - (peak.x + ox - ix) + half], order=1, mode="constant")
            chi2 = _star_fit(data[good], star[good], sigma2[good])
            best = chi2 if best is None or chi2 < best else best
    return best


def _width(
    peak: Peak,
    difference: Difference,
    frame: NDArray[np.floating],
    variance: NDArray[np.floating],
    bad: NDArray[np.bool_],
    profile: Array,
) -> float | None:
    """As in `Features`; a cosmic ray of three pixels in a row fits a star's flux, but not both of its axes."""
    y, x = round(peak.y), round(peak.x)
    if not (2 <= y < frame.shape[0] - 2 and 2 <= x < frame.shape[1] - 2):
        return None
    part = (slice(y - 2, y + 3), slice(x - 2, x + 3))
    light = np.where(bad[part], 0.0, peak.sign * (np.asarray(frame[part], float) - np.asarray(difference.matched[part], float)))
    row, column = (1 + int(i) for i in np.unravel_index(int(np.argmax(light[1:4, 1:4])), (3, 3)))
    cross = ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1))
    if light[row, column] <= 0 or any(bad[part][one] for one in (*cross, (row, column))):
        return None
    half = profile.shape[0] // 2
    star = np.array([profile[half - 1, half] + profile[half + 1, half], profile[half, half - 1] + profile[half, half + 1]])
    seen = np.array([light[cross[0]] + light[cross[1]], light[cross[2]] + light[cross[3]]]) / light[row, column]
    # Two sigma in its favour: a faint star may look thin by chance.
    error = np.sqrt(2 * float(np.median(variance[part]))) / light[row, column]
    return float(np.min((seen + 2 * error) / np.maximum(star, 0.1)))


def _star_fit(data: Array, star: Array, sigma2: Array) -> float:
    design = np.column_stack([star, np.ones_like(star)])
    noise2 = sigma2
    for _ in range(2):
        weight = 1 / np.sqrt(noise2)
        solution, *_ = np.linalg.lstsq(design * weight[:, None], data * weight, rcond=None)
        noise2 = sigma2 + (0.12 * solution[0] * star) ** 2
    residual = data - design @ solution
    return float((residual**2 / noise2).sum() / max(1, len(data) - 2))


def _elongation(weight: Array, xx: Array, yy: Array) -> float:
    total = weight.sum()
    if total <= 0:
        return 1.0
    cx, cy = (weight * xx).sum() / total, (weight * yy).sum() / total
    a = (weight * (xx - cx) ** 2).sum() / total
    b = (weight * (yy - cy) ** 2).sum() / total
    c = (weight * (xx - cx) * (yy - cy)).sum() / total
    root = np.sqrt((a - b) ** 2 / 4 + c**2)
    small = (a + b) / 2 - root
    return float(np.sqrt(((a + b) / 2 + root) / small)) if small > 0 else 9.0


def vetoes_of(peak: Peak, features: Features, fwhm_px: float) -> tuple[str, ...]:
    """Names of the vetoes that hold, in the order of the table above, each with its value and limit."""
    rows = (
        (peak.sign < 0, "negative"),
        (features.cor < 0.80, f"shape (cor {features.cor:.2f} < 0.80)"),
        (features.neg > max(0.30, 3.6 / peak.snr), f"dipole (neg {features.neg:.2f} > {max(0.30, 3.6 / peak.snr):.2f})"),
        (
            features.psf_chi2 is not None and features.psf_chi2 > 4 + (0.15 * peak.snr) ** 2,
            f"sharp (psf_chi2 {features.psf_chi2 or 0:.1f} > {4 + (0.15 * peak.snr) ** 2:.1f})",
        ),
        (features.width is not None and features.width < 0.5, f"narrow (width {features.width or 0:.2f} < 0.50)"),
        (features.rel < 0.03, f"faint (rel {features.rel:.3f} < 0.03)"),
        (features.mask_fraction > 0.5, f"masked ({features.mask_fraction:.2f} > 0.50)"),
        (features.saturated_px < 4 * fwhm_px, f"saturated star at {features.saturated_px:.1f} px"),
    )
    return tuple(name for holds, name in rows if holds)
