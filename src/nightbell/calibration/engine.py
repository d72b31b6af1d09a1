"""Pixels -> calibrated pixels with uncertainty and mask: ccdproc's arithmetic in the one order in which it is right.

    1 saturation bit on RAW counts      5 deviation from counts above the bias, before the dark (its electrons are in the noise)
    2 overscan level, robust per row    6 dark        8 gain: electrons
    3 trim                              7 flat        9 mask bits
    4 bias

What ccdproc does silently wrong is done or guarded here: integers become float64 first (uint16 wraps), shapes must be equal
(numpy would broadcast), the overscan level ignores outliers, masked flat pixels divide by one and stay masked, the bias's own
variance is kept. Every step works pixel by pixel or row by row, so a frame may be calibrated in strips of rows.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ccdproc
import numpy as np
from astropy import units
from astropy.nddata import CCDData, StdDevUncertainty
from numpy.typing import NDArray

from nightbell.calibration.intake import Exposure
from nightbell.calibration.sections import Section
from nightbell.contracts.errors import BadInput

__all__ = ["BAD", "FLAT_INVALID", "NO_DATA", "SATURATED", "Calibrated", "Plane", "Recipe", "calibrate_pixels", "mad_std", "prepare"]

SATURATED, BAD, NO_DATA, FLAT_INVALID = 1, 2, 4, 8
STRIP_PIXELS = 1 << 18
_OWN_EVERY = 8
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Plane:
    """A master in memory: data, 1-sigma, mask bits (0 is good)."""

    data: Floats
    sigma: Floats
    mask: NDArray[np.uint8]

    def rows(self, y0: int, y1: int) -> Plane:
        """A view of some rows."""
        return Plane(self.data[y0:y1], self.sigma[y0:y1], self.mask[y0:y1])


@dataclass(frozen=True)
class Recipe:
    """What a frame is calibrated with. `dark` is above the bias unless `dark_holds_bias`."""

    gain_e_per_adu: float
    read_noise_e: float
    bias: Plane | None = None
    dark: Plane | None = None
    dark_scale: float = 1.0
    flat: Plane | None = None


@dataclass(frozen=True)
class Calibrated:
    """Electrons, 1-sigma in electrons, mask bits; `sigma_common_e` is the median part that comes from the masters."""

    data: Floats
    sigma: Floats
    mask: NDArray[np.uint8]
    sigma_common_e: float


def mad_std(values: NDArray[Any]) -> float:
    """Standard deviation of a normal distribution with the same median absolute deviation."""
    middle = np.median(values)
    return float(1.482602218505602 * np.median(np.abs(values - middle)))


def prepare(raw: NDArray[Any], exposure: Exposure) -> tuple[Floats, NDArray[np.uint8]]:
    """Counts above the overscan, trimmed, and the mask bits that only raw counts can tell."""
    mask = np.zeros(raw.shape, np.uint8)
    mask[raw >= exposure.saturation_adu] |= SATURATED
    data = raw.astype(np.float32)
    lost = ~np.isfinite(data)
    if lost.any():
        mask[lost] |= NO_DATA
    if exposure.overscan is not None:
        data = data - _overscan_level(data, mask, exposure.overscan)
    part = exposure.data
    return np.ascontiguousarray(data[part.y0 : part.y1, part.x0 : part.x1]), mask[part.y0 : part.y1, part.x0 : part.x1].copy()


def _overscan_level(data: Floats, mask: NDArray[np.uint8], section: Section) -> Floats:
    """Per row (per column for a strip that is wider than tall), the median of its good pixels."""
    strip = np.where(
        mask[section.y0 : section.y1, section.x0 : section.x1] == 0, data[section.y0 : section.y1, section.x0 : section.x1], np.nan
    )
    tall = section.shape[0] >= section.shape[1]
    axis = 1 if tall else 0
    good = np.isfinite(strip).any(axis=axis)
    level = np.full(strip.shape[1 - axis], np.nan, np.float32)
    level[good] = np.nanmedian(strip[good] if tall else strip[:, good], axis=axis)
    if not good.all():
        level[~good] = np.nanmedian(level) if good.any() else 0.0
    full = np.full(data.shape[1 - axis], np.float32(np.median(level)), np.float32)
    start, end = (section.y0, section.y1) if tall else (section.x0, section.x1)
    full[start:end] = level
    return full[:, None] if tall else full[None, :]


def calibrate_pixels(raw: NDArray[Any], exposure: Exposure, recipe: Recipe) -> Calibrated:
    """`raw` in electrons. Raises `BadInput` SHAPE_MISMATCH when a master has another shape."""
    data, mask = prepare(raw, exposure)
    for name, plane in (("bias", recipe.bias), ("dark", recipe.dark), ("flat", recipe.flat)):
        if plane is not None and plane.data.shape != data.shape:
            raise BadInput(
                f"SHAPE_MISMATCH: the {name} master is {plane.data.shape}, the frame {data.shape}",
                where=str(exposure.path),
                remedy="Take calibration frames with the same window and binning",
                code="SHAPE_MISMATCH",
            )
    sigma = np.empty_like(data)
    own: list[Floats] = []
    step = max(1, STRIP_PIXELS // data.shape[1])
    with _quiet():
        for y0 in range(0, data.shape[0], step):
            y1 = min(y0 + step, data.shape[0])
            own.append(_strip(data, sigma, mask, slice(y0, y1), recipe))
    lost = ~np.isfinite(data) | ~np.isfinite(sigma)
    mask[lost] |= NO_DATA
    sigma[lost] = np.float32(recipe.read_noise_e)
    common = float(np.median(sigma)) ** 2 - float(np.median(np.concatenate(own))) ** 2
    return Calibrated(data, sigma, mask, max(common, 0.0) ** 0.5)


def _strip(data: Floats, sigma: Floats, mask: NDArray[np.uint8], rows: slice, recipe: Recipe) -> Floats:
    """Calibrate `rows` in place; gives the part of sigma that is the frame's own, in some of them."""
    gain = recipe.gain_e_per_adu * units.electron / units.adu
    bad = mask[rows]
    ccd = CCDData(data[rows].astype(np.float64), unit=units.adu)
    ccd.data[~np.isfinite(ccd.data)] = 0.0  # masked NO_DATA; a NaN would only spread warnings
    bias = None if recipe.bias is None else recipe.bias.rows(rows.start, rows.stop)
    dark = None if recipe.dark is None else recipe.dark.rows(rows.start, rows.stop)
    flat = None if recipe.flat is None else recipe.flat.rows(rows.start, rows.stop)
    if bias is not None:
        ccd = ccdproc.subtract_bias(ccd, _ccd(bias, units.adu), add_keyword=None)
        bad |= bias.mask
    # A dark without a bias of its own holds the level: what is above it is the signal that has photon noise.
    signal = ccd if bias is not None or dark is None else ccdproc.subtract_bias(ccd, _ccd(dark, units.adu), add_keyword=None)
    noise = ccdproc.create_deviation(
        signal, gain=gain, readnoise=recipe.read_noise_e * units.electron, disregard_nan=True, add_keyword=None
    ).uncertainty.array
    own = noise
    if bias is not None:
        # create_deviation replaces what subtract_bias has propagated.
        noise = np.hypot(noise, bias.sigma)
    ccd.uncertainty = StdDevUncertainty(noise)
    if dark is not None:
        ccd = ccdproc.subtract_dark(
            ccd,
            _ccd(dark, units.adu),
            dark_exposure=1.0 * units.s,
            data_exposure=recipe.dark_scale * units.s,
            scale=recipe.dark_scale != 1.0,
            add_keyword=None,
        )
        bad |= dark.mask
    if flat is not None:
        # The master is normed already; the norm is said so that ccdproc does not take the mean of masked pixels too.
        ccd = ccdproc.flat_correct(ccd, _ccd(flat, units.dimensionless_unscaled), norm_value=1.0, add_keyword=None)
        bad |= flat.mask
        own = own / flat.data
    ccd = ccdproc.gain_correct(ccd, gain, add_keyword=None)
    data[rows] = np.where(bad & NO_DATA, np.nan, ccd.data)
    sigma[rows] = ccd.uncertainty.array
    # Every so many rows of the whole frame, whatever rows this strip has.
    some = np.arange(-rows.start % _OWN_EVERY, rows.stop - rows.start, _OWN_EVERY)
    return np.asarray(own[some], np.float32).ravel() * np.float32(recipe.gain_e_per_adu)


def _ccd(plane: Plane, unit: units.UnitBase) -> CCDData:
    return CCDData(plane.data.astype(np.float64), unit=unit, uncertainty=StdDevUncertainty(plane.sigma.astype(np.float64)))


@contextmanager
def _quiet() -> Iterator[None]:
    """The logger of astropy writes INFO to stdout, where an answer stands, and a line for every negative pixel's noise."""
    logger = logging.getLogger("astropy")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
