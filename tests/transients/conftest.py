"""A small sky made of Gaussians and one galaxy, rendered with numpy and a seed: the truth is known to the pixel."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

SCALE_ARCSEC = 1.2
TARGET = (197.4488, -23.3839)


def tan_wcs(ra_deg: float, dec_deg: float, shape: tuple[int, int], rotation_deg: float = 0.0) -> WCS:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [ra_deg, dec_deg]
    wcs.wcs.crpix = [shape[1] / 2 + 0.5, shape[0] / 2 + 0.5]
    s, a = SCALE_ARCSEC / 3600, np.deg2rad(rotation_deg)
    wcs.wcs.cd = [[-s * np.cos(a), s * np.sin(a)], [s * np.sin(a), s * np.cos(a)]]
    return wcs


@dataclass
class Sky:
    """Stars and galaxies on the sky; `image` renders them in electrons."""

    seed: int = 1
    n_stars: int = 160
    size_deg: float = 0.26
    stars: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        offsets = rng.uniform(-self.size_deg / 2, self.size_deg / 2, (self.n_stars, 2))
        flux = 10 ** rng.uniform(2.8, 5.2, self.n_stars)
        ra = TARGET[0] + offsets[:, 0] / np.cos(np.deg2rad(TARGET[1]))
        self.stars = np.column_stack([ra, TARGET[1] + offsets[:, 1], flux])

    def image(
        self, wcs: WCS, shape: tuple[int, int], fwhm_px: float, scale: float = 1.0, extra: tuple[tuple[float, float, float], ...] = ()
    ) -> np.ndarray:
        out = np.zeros(shape)
        sigma = fwhm_px / 2.3548
        points = np.vstack([self.stars, np.array(extra).reshape(-1, 3)])
        xs, ys = wcs.wcs_world2pix(points[:, 0], points[:, 1], 0)
        for x, y, flux in zip(xs, ys, points[:, 2], strict=True):
            _add(out, x, y, flux, sigma, sigma, 0.0)
        gx, gy = wcs.wcs_world2pix(TARGET[0], TARGET[1], 0)
        nx, ny = wcs.wcs_world2pix(TARGET[0], TARGET[1] + 0.001, 0)
        angle = float(np.arctan2(ny - gy, nx - gx)) + 0.6  # the galaxy turns with the sky
        # An elliptical galaxy as a sum of Gaussians, each blurred by the seeing.
        for width, flux in ((2.0, 6e4), (6.0, 1.2e5), (14.0, 1.5e5)):
            _add(out, float(gx), float(gy), flux, np.hypot(width, sigma), np.hypot(0.7 * width, sigma), angle)
        return out * scale


def _add(image: np.ndarray, x: float, y: float, flux: float, sx: float, sy: float, angle: float) -> None:
    half = int(6 * max(sx, sy)) + 2
    x0, x1 = max(0, int(x) - half), min(image.shape[1], int(x) + half + 2)
    y0, y1 = max(0, int(y) - half), min(image.shape[0], int(y) + half + 2)
    if x0 >= x1 or y0 >= y1:
        return
    yy, xx = np.mgrid[y0:y1, x0:x1]
    c, s = np.cos(angle), np.sin(angle)
    u, v = c * (xx - x) + s * (yy - y), -s * (xx - x) + c * (yy - y)
    image[y0:y1, x0:x1] += flux / (2 * np.pi * sx * sy) * np.exp(-0.5 * ((u / sx) ** 2 + (v / sy) ** 2))


@pytest.fixture
def make_product(tmp_path):
    """Write a calibrated frame of a sky as nightbell does; gives its path."""

    def make(
        sky: Sky,
        name: str,
        *,
        seed: int,
        fwhm_px: float = 3.2,
        offset_px: tuple[float, float] = (0.0, 0.0),
        rotation_deg: float = 0.0,
        extra: tuple[tuple[float, float, float], ...] = (),
        sky_e: float = 300.0,
        scale: float = 1.0,
        spikes: tuple[tuple[int, int, float], ...] = (),
        shape: tuple[int, int] = (512, 512),
    ) -> Path:
        rng = np.random.default_rng(seed)
        believed = tan_wcs(*TARGET, shape)
        true = tan_wcs(*TARGET, shape, rotation_deg)
        true.wcs.crpix = [true.wcs.crpix[0] + offset_px[0], true.wcs.crpix[1] + offset_px[1]]
        expected = sky.image(true, shape, fwhm_px, scale, extra) + sky_e
        data = rng.poisson(expected).astype(float) + rng.normal(0, 8.0, shape)
        for x, y, value in spikes:
            data[y, x] += value
        header = believed.to_header()
        header["OBJECT"], header["OBJID"], header["FILTER"], header["EXPTIME"] = "NGC 4993", "ngc4993", "r", 60.0
        header["TARGRA"], header["TARGDEC"], header["NIGHT"], header["NBPRODID"] = *TARGET, "2027-04-12", name
        primary = fits.PrimaryHDU(data.astype(np.float32), header)
        primary.header["BUNIT"] = "electron"
        sigma = np.sqrt(np.maximum(data, 0) + 64.0).astype(np.float32)
        path = tmp_path / f"{name}.fits"
        fits.HDUList([primary, fits.ImageHDU(sigma, name="UNCERT"), fits.ImageHDU(np.zeros(shape, np.uint8), name="MASK")]).writeto(path)
        return path

    return make


@pytest.fixture
def make_reference(tmp_path):
    """Write a deep reference image of a sky; gives its path."""

    def make(sky: Sky, *, fwhm_px: float = 2.6, shape: tuple[int, int] = (620, 620), name: str = "reference") -> Path:
        rng = np.random.default_rng(99)
        wcs = tan_wcs(*TARGET, shape)
        depth = 20.0
        data = (rng.poisson((sky.image(wcs, shape, fwhm_px) + 300.0) * depth) / depth).astype(np.float32)
        header = wcs.to_header()
        header["OBJECT"], header["FILTER"], header["EXPTIME"], header["EGAIN"] = "NGC 4993", "r", 60.0, 1.0
        header["MAGZP"] = 25.0  # of one electron per second
        path = tmp_path / f"{name}.fits"
        primary = fits.PrimaryHDU(data, header)
        primary.header["BUNIT"] = "electron"
        primary.writeto(path)
        return path

    return make
