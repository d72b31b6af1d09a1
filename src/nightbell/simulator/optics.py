"""From a sky to counts: what one exposure leaves in the camera. A pure function of what the exposure saw and of the seed.

light = (stars + galaxies + transients) x extinction x slit + sky,  all x flat
e     = Poisson(light + dark) below 100 e, normal above;  + cosmic rays;  clipped at full well
adu   = bias + row structure + (e + read noise) / gain,  clipped to 16 bit
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import erfa
import numpy as np
from numpy.typing import NDArray
from scipy.signal import fftconvolve

from nightbell.simulator.settings import CameraSettings, GalaxySettings
from nightbell.simulator.sky import EXTINCTION_MAG, stars_around

__all__ = ["Glimpse", "Seen", "Source", "Window", "celestial_matrix", "expose", "light_of_field", "project"]

Array = NDArray[np.float64]
_SUBPIXELS = 8
_BETA = 2.5


@dataclass(frozen=True)
class Source:
    """A point of light: ICRS and magnitude in this band."""

    ra_deg: float
    dec_deg: float
    mag: float


@dataclass(frozen=True)
class Glimpse:
    """Where the camera looked at one instant of the exposure: ICRS of the middle of the detector, position angle of its columns."""

    ra_deg: float
    dec_deg: float
    angle_deg: float


@dataclass(frozen=True)
class Window:
    """Binning and the part read out, in binned pixels."""

    bin_x: int = 1
    bin_y: int = 1
    start_x: int = 0
    start_y: int = 0
    num_x: int = 512
    num_y: int = 512


@dataclass(frozen=True)
class Seen:
    """All that decides an exposure."""

    counter: int
    exposure_s: float
    band: str
    glimpses: tuple[Glimpse, ...] = ()
    """Empty: no sky reached the detector."""
    light_share: float = 1.0
    """Part of the beam that came through slit, clouds apart."""
    cloud_mag: float = 0.0
    airmass: float = 1.0
    seeing_arcsec: float = 2.0
    sky_e_per_px: float = 0.0
    """Electrons of sky in one pixel of flat response 1, over the whole exposure, slit included."""
    lamp_e_per_px: float = 0.0
    ccd_temperature_degc: float = -10.0
    sources: tuple[Source, ...] = ()
    galaxies: tuple[GalaxySettings, ...] = ()
    window: Window = field(default_factory=Window)


def celestial_matrix(angle_deg: float, scale_arcsec_per_px: float) -> Array:
    """CD matrix in degrees per pixel: east to the left at angle 0, `angle_deg` = position angle of the columns."""
    s = scale_arcsec_per_px / 3600.0
    c, n = math.cos(math.radians(angle_deg)), math.sin(math.radians(angle_deg))
    return np.array([[-s * c, s * n], [s * n, s * c]])


def project(ra_deg: Array, dec_deg: Array, at: Glimpse, camera: CameraSettings) -> tuple[Array, Array]:
    """Pixel (x, y), numpy's counting, of ICRS positions; far-away ones become NaN."""
    xi, eta, status = erfa.ufunc.tpxes(np.radians(ra_deg), np.radians(dec_deg), math.radians(at.ra_deg), math.radians(at.dec_deg))
    inverse = np.linalg.inv(celestial_matrix(at.angle_deg, camera.scale_arcsec_per_px))
    x = inverse[0, 0] * np.degrees(xi) + inverse[0, 1] * np.degrees(eta)
    y = inverse[1, 0] * np.degrees(xi) + inverse[1, 1] * np.degrees(eta)
    bad = status != 0
    return (
        np.where(bad, np.nan, x + (camera.width_px - 1) / 2),
        np.where(bad, np.nan, y + (camera.height_px - 1) / 2),
    )


def _moffat(fwhm_px: float, half: int, shift_x: float, shift_y: float) -> Array:
    alpha = fwhm_px / (2 * math.sqrt(2 ** (1 / _BETA) - 1))
    axis = np.arange(-half, half + 1, dtype=float)
    r2 = (axis[None, :] - shift_x) ** 2 + (axis[:, None] - shift_y) ** 2
    profile: Array = (_BETA - 1) / (math.pi * alpha**2) * (1 + r2 / alpha**2) ** -_BETA
    return profile


def _psf(fwhm_px: float, half: int, trail: Sequence[tuple[float, float]], shift_x: float, shift_y: float) -> Array:
    """The image of a point of flux 1, drawn out along `trail` (pixels from the mean position)."""
    mean: Array = np.mean([_moffat(fwhm_px, half, shift_x + dx, shift_y + dy) for dx, dy in trail], axis=0)
    return mean


class _Stamps:
    """The point image at each of 8 x 8 subpixel places, made when first needed."""

    def __init__(self, fwhm_px: float, half: int, trail: Sequence[tuple[float, float]]) -> None:
        self._fwhm_px, self.half, self._trail = fwhm_px, half, trail
        self._made: dict[tuple[int, int], Array] = {}

    def add(self, image: Array, x: float, y: float, flux: float) -> None:
        ix, iy = round(x), round(y)
        place = (round((x - ix) * _SUBPIXELS), round((y - iy) * _SUBPIXELS))
        stamp = self._made.get(place)
        if stamp is None:
            stamp = _psf(self._fwhm_px, self.half, self._trail, place[0] / _SUBPIXELS, place[1] / _SUBPIXELS)
            self._made[place] = stamp
        _add(image, stamp, ix - self.half, iy - self.half, flux)


def _add(image: Array, stamp: Array, left: int, low: int, flux: float) -> None:
    height, width = image.shape
    x0, x1 = max(0, left), min(width, left + stamp.shape[1])
    y0, y1 = max(0, low), min(height, low + stamp.shape[0])
    if x0 < x1 and y0 < y1:
        image[y0:y1, x0:x1] += flux * stamp[y0 - low : y1 - low, x0 - left : x1 - left]


def _galaxy_stamp(galaxy: GalaxySettings, at: Glimpse, camera: CameraSettings, dx: float, dy: float) -> Array:
    """Sersic profile of flux 1 before the air; the core is integrated on a finer grid."""
    b = 1.678 if galaxy.sersic_n == 1 else 7.669
    scale = camera.scale_arcsec_per_px
    re_px = galaxy.half_light_radius_arcsec / scale
    half = int(min(max(camera.width_px, camera.height_px) / 2, max(16, 6 * re_px)))
    # Direction of the major axis on the detector: from the position angle, through the inverse of the sky's matrix.
    pa = math.radians(galaxy.angle_deg)
    direction = np.linalg.inv(celestial_matrix(at.angle_deg, scale)) @ np.array([math.sin(pa), math.cos(pa)])
    along = direction / np.hypot(*direction)

    def profile(axis_x: Array, axis_y: Array) -> Array:
        x, y = axis_x[None, :] - dx, axis_y[:, None] - dy
        major, minor = x * along[0] + y * along[1], -x * along[1] + y * along[0]
        r = np.hypot(major, minor / galaxy.axis_ratio) / re_px
        value: Array = np.exp(-b * (r ** (1 / galaxy.sersic_n) - 1))
        return value

    axis = np.arange(-half, half + 1, dtype=float)
    stamp = profile(axis, axis)
    fine = (np.arange(-8 * 7 - 3, 8 * 7 + 4) / 7.0)[: 17 * 7]  # 7 x 7 points in each of the 17 x 17 inner pixels
    inner = profile(fine, fine).reshape(17, 7, 17, 7).mean(axis=(1, 3))
    stamp[half - 8 : half + 9, half - 8 : half + 9] = inner
    total: Array = stamp / stamp.sum()
    return total


def _fwhm_px(seen: Seen, camera: CameraSettings) -> float:
    return float(max(1.0, seen.seeing_arcsec * seen.airmass**0.6 / camera.scale_arcsec_per_px))


def light_of_field(seen: Seen, camera: CameraSettings, seed: int, *, zero_point_mag: float) -> Array:
    """Electrons from stars, galaxies and transients on a perfect detector [y, x], no sky, no noise."""
    image = np.zeros((camera.height_px, camera.width_px))
    if not seen.glimpses:
        return image
    dimming = EXTINCTION_MAG.get(seen.band, 0.1) * seen.airmass + seen.cloud_mag
    unit_e = 10 ** (0.4 * (zero_point_mag - dimming)) * seen.exposure_s * seen.light_share
    mean = seen.glimpses[len(seen.glimpses) // 2]
    trail = _trail(seen.glimpses, mean, camera)
    drawn_out = max(math.hypot(dx, dy) for dx, dy in trail)
    if drawn_out > 25:  # the telescope moved: as many faint pictures as it was seen at
        share = 1.0 / len(seen.glimpses)
        for glimpse in seen.glimpses:
            _paint(image, seen, camera, seed, glimpse, [(0.0, 0.0)], unit_e * share)
    else:
        _paint(image, seen, camera, seed, mean, trail, unit_e)
    return image


def _trail(glimpses: Sequence[Glimpse], mean: Glimpse, camera: CameraSettings) -> list[tuple[float, float]]:
    x, y = project(np.array([one.ra_deg for one in glimpses]), np.array([one.dec_deg for one in glimpses]), mean, camera)
    middle_x, middle_y = (camera.width_px - 1) / 2, (camera.height_px - 1) / 2
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return [(1e6, 1e6)]
    # Where the field goes when the pointing goes: the other way.
    return [(middle_x - float(px), middle_y - float(py)) for px, py in zip(x, y, strict=True)]


def _paint(
    image: Array, seen: Seen, camera: CameraSettings, seed: int, at: Glimpse, trail: Sequence[tuple[float, float]], unit_e: float
) -> None:
    radius_deg = math.hypot(camera.width_px, camera.height_px) / 2 * camera.scale_arcsec_per_px / 3600.0
    stars = stars_around(at.ra_deg, at.dec_deg, radius_deg + 0.01, seed)
    ra = np.concatenate([stars.ra_deg, [one.ra_deg for one in seen.sources]])
    dec = np.concatenate([stars.dec_deg, [one.dec_deg for one in seen.sources]])
    mag = np.concatenate([stars.mag.get(seen.band, stars.mag["r"]), [one.mag for one in seen.sources]])
    x, y = project(ra, dec, at, camera)
    flux = unit_e * 10 ** (-0.4 * mag)
    near = (x > -40) & (x < camera.width_px + 40) & (y > -40) & (y < camera.height_px + 40) & (flux > 1.0)
    fwhm_px = _fwhm_px(seen, camera)
    reach = math.ceil(max(math.hypot(dx, dy) for dx, dy in trail))
    small = _Stamps(fwhm_px, min(12, math.ceil(3 * fwhm_px)) + reach, trail)
    large = _Stamps(fwhm_px, 40 + reach, trail)
    for px, py, light in zip(x[near].tolist(), y[near].tolist(), flux[near].tolist(), strict=True):
        (large if light > 2e4 else small).add(image, px, py, light)
    for galaxy in seen.galaxies:
        gx, gy = project(np.array([galaxy.ra_deg]), np.array([galaxy.dec_deg]), at, camera)
        if not (np.isfinite(gx[0]) and -300 < gx[0] < camera.width_px + 300 and -300 < gy[0] < camera.height_px + 300):
            continue
        ix, iy = round(float(gx[0])), round(float(gy[0]))
        stamp = _galaxy_stamp(galaxy, at, camera, float(gx[0]) - ix, float(gy[0]) - iy)
        half = stamp.shape[0] // 2
        blurred = fftconvolve(stamp, _psf(fwhm_px, min(half, 12 + reach), trail, 0.0, 0.0), mode="same")
        _add(image, np.maximum(blurred, 0.0), ix - half, iy - half, unit_e * 10 ** (-0.4 * galaxy.mag))


@dataclass(frozen=True)
class _Detector:
    flat: Array
    row_adu: Array
    dark_share: Array
    """Dark current of each pixel over the detector's mean; hot pixels are hundreds."""


@functools.lru_cache(maxsize=4)
def _detector(seed: int, width: int, height: int, hot: float, band: str) -> _Detector:
    """What is fixed about the detector; the dust sits on filters, so the flat differs a little by band."""
    rng = np.random.default_rng([seed, 77])
    y, x = np.mgrid[0:height, 0:width]
    r2 = ((x - width / 2) ** 2 + (y - height / 2) ** 2) / (width**2 + height**2) * 4
    flat = (1.0 - 0.18 * r2) * (1.0 + 0.01 * rng.standard_normal((height, width)))
    row = 3.0 * np.sin(np.arange(height) / 23.0) + rng.normal(0, 0.7, height)
    dark = rng.gamma(8.0, 1 / 8.0, (height, width))
    n_hot = rng.poisson(hot * width * height)
    dark[rng.integers(0, height, n_hot), rng.integers(0, width, n_hot)] = rng.uniform(200, 3000, n_hot)
    dust = np.random.default_rng([seed, 78, sum(band.encode())])
    for _ in range(6):
        cx, cy, radius = dust.uniform(0, width), dust.uniform(0, height), dust.uniform(8, 22)
        r = np.hypot(x - cx, y - cy)
        flat *= 1.0 - 0.08 * np.exp(-(((r - radius) / (0.3 * radius)) ** 2))
    return _Detector(flat / np.median(flat), row, dark)


def _shot_noise(expected: Array, rng: np.random.Generator) -> Array:
    """Poisson below 100 e, normal above, where nobody can tell them apart and it costs a tenth."""
    noisy = expected + np.sqrt(expected) * rng.standard_normal(expected.shape, dtype=np.float32)
    few = expected < 100
    noisy[few] = rng.poisson(expected[few])
    return noisy


def expose(seen: Seen, camera: CameraSettings, seed: int) -> NDArray[np.uint16]:
    """The frame [y, x] as the camera sends it."""
    rng = np.random.default_rng([seed, 99, seen.counter])
    detector = _detector(seed, camera.width_px, camera.height_px, camera.hot_pixel_fraction, seen.band)
    light = light_of_field(seen, camera, seed, zero_point_mag=camera.zero_point_mag.get(seen.band, 22.0))
    light += seen.sky_e_per_px + seen.lamp_e_per_px
    light *= detector.flat
    if 0 < seen.exposure_s < 2 and (seen.sky_e_per_px or seen.glimpses):
        light *= _shutter_pattern(seen.exposure_s, camera)
    dark = camera.dark_current_e_per_s * 2 ** ((seen.ccd_temperature_degc + 10.0) / 6.0) * seen.exposure_s
    electrons = _shot_noise(light + dark * detector.dark_share, rng)
    _cosmic_rays(electrons, seen.exposure_s, camera, rng)
    # One per cent is lost at 80 % of the full well.
    electrons *= 1.0 - 0.01 * np.clip(electrons / (0.8 * camera.full_well_e), 0.0, 1.25)
    np.minimum(electrons, camera.full_well_e, out=electrons)
    window = seen.window
    if window.bin_x > 1 or window.bin_y > 1:
        height, width = camera.height_px // window.bin_y, camera.width_px // window.bin_x
        cut = electrons[: height * window.bin_y, : width * window.bin_x]
        electrons = cut.reshape(height, window.bin_y, width, window.bin_x).sum(axis=(1, 3))
    electrons += camera.read_noise_e * rng.standard_normal(electrons.shape, dtype=np.float32)
    adu = electrons / camera.gain_e_per_adu
    adu += camera.bias_adu + detector.row_adu[:: window.bin_y][: adu.shape[0], None]
    adu = adu[window.start_y : window.start_y + window.num_y, window.start_x : window.start_x + window.num_x]
    return np.clip(np.rint(adu), 0, 65535).astype(np.uint16)


def _shutter_pattern(exposure_s: float, camera: CameraSettings) -> Array:
    """An iris opens from the middle: the corners see `2 x blade time` less."""
    y, x = np.mgrid[0 : camera.height_px, 0 : camera.width_px]
    r = np.hypot(x - camera.width_px / 2, y - camera.height_px / 2) / math.hypot(camera.width_px / 2, camera.height_px / 2)
    passed: Array = np.maximum(0.0, 1.0 - 2 * camera.shutter_blade_s * r / exposure_s)
    return passed


def _cosmic_rays(electrons: Array, exposure_s: float, camera: CameraSettings, rng: np.random.Generator) -> None:
    for _ in range(int(rng.poisson(camera.cosmic_rays_per_s * (exposure_s + camera.readout_s)))):
        x, y = rng.uniform(0, camera.width_px), rng.uniform(0, camera.height_px)
        angle, length = rng.uniform(0, math.tau), int(rng.integers(1, 7))
        energy = float(rng.lognormal(7.3, 0.7))
        for step in range(length):
            px, py = int(x + step * math.cos(angle)), int(y + step * math.sin(angle))
            if 0 <= px < camera.width_px and 0 <= py < camera.height_px:
                electrons[py, px] += energy / length
