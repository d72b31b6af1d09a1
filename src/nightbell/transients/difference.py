"""Science minus reference by pre-convolved Alard-Lupton: the difference is the matched-filter image, with its noise pixel by pixel.

    T = N (x) G            N the frame, G a Gaussian of its own FWHM
    R (x) K + b ~ T        K = sum of Gaussians x polynomials, changing over the field
    D = T - R (x) K - b,   V_D = V_N (x) G^2 + V_R (x) K^2 + registration and kernel error,   S = D / sqrt(V_D)

K never has to sharpen: where the reference is more than 1.2 times blurrier than the frame, G is wider than the frame's own FWHM.
Source of the basis: Alard and Lupton 1998, ApJ 503, 325; with the frame convolved first, the solution needs no decorrelation
afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.ndimage import binary_dilation, map_coordinates

from nightbell.contracts.errors import Failed
from nightbell.transients.astrometry import Affine, Stars

__all__ = ["Difference", "resample", "subtract"]

Floats = NDArray[np.float32]
Array = NDArray[np.float64]
KERNEL_ERROR = 0.005
"""Relative error of R (x) K from an imperfect kernel; 0.02 was seen to hide real sources on hosts."""


@dataclass(frozen=True)
class Difference:
    """All on the frame's grid. `scale` is counts of the frame per count of the reference."""

    difference: Floats
    significance: Floats
    """D / sqrt(V_D), divided by its own robust scatter."""
    matched: Floats
    """R (x) K: the reference as the pre-convolved frame should see it."""
    smoothed: Floats
    """T."""
    usable: NDArray[np.bool_]
    scale: float
    noise_norm: float
    """Scatter of S before normalising: 1 when the noise model is right."""
    n_stamps: int
    chi2: float


class _Convolver:
    """Convolutions with small kernels by one padded FFT size."""

    def __init__(self, shape: tuple[int, int], half: int) -> None:
        self.shape = shape
        self.size = (fft.next_fast_len(shape[0] + 2 * half, real=True), fft.next_fast_len(shape[1] + 2 * half, real=True))

    def transform(self, image: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(fft.rfft2(image.astype(np.float32), self.size))

    def __call__(self, transformed: NDArray[Any], kernel: NDArray[Any]) -> Floats:
        half_y, half_x = kernel.shape[0] // 2, kernel.shape[1] // 2
        full = fft.irfft2(transformed * fft.rfft2(kernel.astype(np.float32), self.size), self.size)
        return np.asarray(full[half_y : half_y + self.shape[0], half_x : half_x + self.shape[1]], dtype=np.float32)


def resample(image: Floats, mask: NDArray[np.bool_], to_image: Affine, shape: tuple[int, int]) -> tuple[Floats, NDArray[np.bool_]]:
    """`image` on a grid of `shape`, `to_image` mapping that grid's pixels to its own; and what is covered by good pixels.

    The flux of a source is kept: values are multiplied by the area of a grid pixel in image pixels.
    """
    yy, xx = np.mgrid[0 : shape[0], 0 : shape[1]]
    px, py = to_image(xx.astype(np.float32), yy.astype(np.float32))
    # A masked pixel must not ring over its neighbours: it is filled before, and masked after.
    filled = np.where(mask, np.float32(np.median(image[~mask])) if (~mask).any() else np.float32(0), image)
    area = np.float32(abs(np.linalg.det(to_image.m)))
    out = map_coordinates(filled, [py, px], order=3, mode="nearest", prefilter=True).astype(np.float32) * area
    inside = (px >= 1) & (py >= 1) & (px <= image.shape[1] - 2) & (py <= image.shape[0] - 2)
    if mask.any():
        dirty = binary_dilation(mask, iterations=1)
        inside &= ~dirty[np.clip(np.rint(py).astype(int), 0, image.shape[0] - 1), np.clip(np.rint(px).astype(int), 0, image.shape[1] - 1)]
    return out, inside


def _gaussian(fwhm: float, half: int) -> Array:
    axis = np.arange(-half, half + 1)
    row = np.exp(-0.5 * (axis * 2.3548 / fwhm) ** 2)
    kernel = np.outer(row, row)
    return np.asarray(kernel / kernel.sum())


def _basis(sigma: float, *, rich: bool) -> list[Array]:
    """Gaussians x polynomials; the first is normed to 1, all others have no sum, so the flux scale is the first coefficient."""
    half = int(np.ceil(3.6 * sigma)) + 1
    axis = np.arange(-half, half + 1, dtype=float)
    kernels: list[Array] = []
    for width, degree in ((0.6, 3 if rich else 2), (1.0, 4 if rich else 2), (1.8, 2 if rich else 0)):
        s = width * sigma
        gauss = np.exp(-0.5 * (axis / s) ** 2)
        for p in range(degree + 1):
            kernels.extend(np.outer(gauss * (axis / s) ** q, gauss * (axis / s) ** p) for q in range(degree + 1 - p))
    lead = kernels[0] / kernels[0].sum()
    out = [lead]
    for other in kernels[1:]:
        kernel = other / np.abs(other).sum()
        total = kernel.sum()
        out.append(kernel - total * lead if abs(total) > 1e-9 else kernel)
    return out


def subtract(
    frame: Floats,
    variance: Floats,
    bad: NDArray[np.bool_],
    stars: Stars,
    reference: Floats,
    reference_variance: Floats,
    covered: NDArray[np.bool_],
    *,
    reference_fwhm_px: float,
    scatter_px: float,
) -> Difference:
    """Difference of `frame` and `reference` (both without background, on the frame's grid). Raises `Failed` without good stars."""
    shape = (frame.shape[0], frame.shape[1])
    fwhm = stars.fwhm_px
    # A reference that is much blurrier than the frame would have to be sharpened: the frame is blurred more instead.
    blur = float(np.sqrt(max(fwhm**2, reference_fwhm_px**2 - 0.5 * fwhm**2)))
    sigma = float(np.sqrt(max(0.25, (fwhm**2 + blur**2 - reference_fwhm_px**2) / 2.3548**2)))
    rich = len(stars.x) >= 40
    kernels = _basis(sigma, rich=rich)
    half = kernels[0].shape[0] // 2
    gauss_half = int(np.ceil(1.6 * blur))
    gauss = _gaussian(blur, gauss_half)
    convolve = _Convolver(shape, max(half, gauss_half))
    good = ~bad & covered
    filled = np.where(bad, np.float32(0), frame)
    smoothed = convolve(convolve.transform(filled), gauss)
    noise = convolve(convolve.transform(np.where(bad, np.float32(np.median(variance)), variance)), gauss**2)
    transformed = convolve.transform(np.where(covered, reference, np.float32(0)))
    images = np.stack([convolve(transformed, kernel) for kernel in kernels])
    usable = good if not (~good).any() else ~binary_dilation(~good, iterations=2)
    fit = _Fit(smoothed, noise, images, usable, stars, max(3, int(np.ceil(1.6 * fwhm)) + 3), max(half, gauss_half))
    coefficients, chi2, n_stamps = fit.solve()
    matched, offset, local_scale = _apply(images, coefficients, shape)
    difference = smoothed - matched - offset
    kernel = sum(c * k for c, k in zip(coefficients[: len(kernels)], kernels, strict=True))
    reference_noise = convolve(convolve.transform(np.where(covered, reference_variance, np.float32(0))), np.asarray(kernel) ** 2)
    gy, gx = np.gradient(matched)
    shift = max(0.01, 0.35 * scatter_px)
    total = np.maximum(noise, 1e-6) + np.maximum(reference_noise, 0) + shift**2 * (gx**2 + gy**2) + (KERNEL_ERROR * matched) ** 2
    significance = (difference / np.sqrt(total)).astype(np.float32)
    edge = max(half, gauss_half)
    frame_mask = np.zeros(shape, bool)
    frame_mask[edge:-edge, edge:-edge] = True
    usable = usable & frame_mask
    values = significance[usable]
    if values.size < 100:
        raise Failed("frame and reference hardly overlap", where="difference", remedy="Give a reference that covers the field")
    norm = float(1.4826 * np.median(np.abs(values - np.median(values))))
    significance = significance / np.float32(norm if norm > 0.5 else 1.0)
    return Difference(
        difference.astype(np.float32), significance, matched.astype(np.float32), smoothed, usable, local_scale, norm, n_stamps, chi2
    )


class _Fit:
    """Weighted least squares over stamps around stars; the kernel's coefficients are linear in x and y when there are enough."""

    def __init__(
        self, smoothed: Floats, noise: Floats, images: Floats, usable: NDArray[np.bool_], stars: Stars, half: int, edge: int
    ) -> None:
        shape = smoothed.shape
        self.n_kernels = len(images)
        self.stamps: list[tuple[Array, Array, Array, float, float]] = []
        border = max(half, edge)
        for x, y in _spread(stars, shape):
            ix, iy = round(float(x)), round(float(y))
            if not (border <= ix < shape[1] - border and border <= iy < shape[0] - border):
                continue
            part = (slice(iy - half, iy + half + 1), slice(ix - half, ix + half + 1))
            if not usable[part].all():
                continue
            target = smoothed[part].astype(float).ravel()
            # The error of an imperfect kernel keeps one bright star from ruling the fit.
            weight = 1 / (noise[part].astype(float).ravel() + (0.01 * target) ** 2)
            design = images[(slice(None), *part)].reshape(self.n_kernels, -1).astype(float)
            if not (np.isfinite(target).all() and np.isfinite(design).all()):
                continue
            self.stamps.append((design, target, weight, 2 * ix / shape[1] - 1, 2 * iy / shape[0] - 1))

    def solve(self) -> tuple[Array, float, int]:
        """(coefficients [a_k, a_k x, a_k y, b, b x, b y], median chi2, stamps kept)."""
        if len(self.stamps) < 3:
            raise Failed(
                f"only {len(self.stamps)} stars can be used for the kernel",
                where="difference",
                remedy="Expose longer or take a wider field",
            )
        varying = len(self.stamps) >= 20
        kept = list(range(len(self.stamps)))
        coefficients = np.zeros(0)
        chi2 = np.zeros(0)
        for _ in range(4):
            coefficients = self._least_squares(kept, varying=varying)
            chi2 = np.array([self._chi2(self.stamps[i], coefficients) for i in kept])
            good = chi2 <= max(3 * float(np.median(chi2)), 2.0)
            if good.all() or good.sum() < 3:
                break
            kept = [i for i, ok in zip(kept, good, strict=True) if ok]
        return coefficients, float(np.median(chi2)), len(kept)

    def _design(self, stamp: tuple[Array, Array, Array, float, float]) -> Array:
        design, _, _, x, y = stamp
        ones = np.ones((1, design.shape[1]))
        return np.concatenate([design, design * x, design * y, ones, ones * x, ones * y])

    def _least_squares(self, kept: list[int], *, varying: bool) -> Array:
        k = self.n_kernels
        size = 3 * k + 3
        # Without enough stars the kernel is the same everywhere; only its flux scale stays free to follow.
        free = np.ones(size, bool)
        if not varying:
            free[k : 3 * k] = False
            free[-2:] = False
        a, b = np.zeros((size, size)), np.zeros(size)
        for i in kept:
            design, (_, target, weight, _, _) = self._design(self.stamps[i]), self.stamps[i]
            weighted = design * weight
            a += weighted @ design.T
            b += weighted @ target
        a, b = a[np.ix_(free, free)], b[free]
        scale = np.sqrt(np.maximum(np.diag(a), 1e-300))
        # A trace of ridge: with few stars the highest polynomials are not determined, and they must stay small then.
        scaled = a / np.outer(scale, scale) + 1e-8 * np.eye(len(b))
        out = np.zeros(size)
        out[free] = np.linalg.solve(scaled, b / scale) / scale
        return out

    def _chi2(self, stamp: tuple[Array, Array, Array, float, float], coefficients: Array) -> float:
        residual = stamp[1] - coefficients @ self._design(stamp)
        return float(np.mean(residual**2 * stamp[2]))


def _spread(stars: Stars, shape: tuple[int, ...]) -> list[tuple[float, float]]:
    """At most two stars of each cell of an 8 x 8 grid, brightest first: a cluster must not speak for the whole field."""
    counts: dict[tuple[int, int], int] = {}
    out: list[tuple[float, float]] = []
    for x, y in zip(stars.x, stars.y, strict=True):
        cell = (int(8 * x / shape[1]), int(8 * y / shape[0]))
        if counts.get(cell, 0) < 2:
            counts[cell] = counts.get(cell, 0) + 1
            out.append((float(x), float(y)))
    return out


def _apply(images: Floats, coefficients: Array, shape: tuple[int, int]) -> tuple[Floats, Floats, float]:
    k = len(images)
    y = (2 * np.arange(shape[0]) / shape[0] - 1).astype(np.float32)[:, None]
    x = (2 * np.arange(shape[1]) / shape[1] - 1).astype(np.float32)[None, :]
    matched = np.zeros(shape, np.float32)
    for i, image in enumerate(images):
        weight = np.float32(coefficients[i]) + np.float32(coefficients[k + i]) * x + np.float32(coefficients[2 * k + i]) * y
        matched += weight * image
    b, bx, by = (np.float32(value) for value in coefficients[3 * k :])
    return matched, np.asarray(b + bx * x + by * y, dtype=np.float32), float(coefficients[0])
