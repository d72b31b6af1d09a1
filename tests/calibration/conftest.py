"""Frames of a made-up camera: seeded, with known bias, dark current, flat and noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

SHAPE = (96, 128)
GAIN, READ_NOISE_E, BIAS_ADU, DARK_ADU_PER_S = 1.6, 8.0, 500.0, 0.2


def true_flat() -> np.ndarray:
    yy, xx = np.mgrid[0 : SHAPE[0], 0 : SHAPE[1]]
    flat = 1 - 0.25 * (((xx - 64) / 90) ** 2 + ((yy - 48) / 90) ** 2)
    return flat / flat.mean()


class Camera:
    """Takes frames into a folder; `n` makes each different."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.n = 0

    def take(
        self,
        kind: str,
        *,
        exposure_s: float = 0.0,
        light_adu: float = 0.0,
        filter_name: str | None = "r",
        name: str | None = None,
        night: int = 12,
        offset_adu: float = 0.0,
        header: dict | None = None,
        pixels: np.ndarray | None = None,
        suffix: str = ".fits",
    ) -> Path:
        self.n += 1
        rng = np.random.default_rng(self.n)
        electrons = rng.poisson((light_adu * true_flat() + DARK_ADU_PER_S * exposure_s) * GAIN).astype(float)
        counts = electrons / GAIN + BIAS_ADU + offset_adu + rng.normal(0, READ_NOISE_E / GAIN, SHAPE)
        data = np.clip(np.rint(counts), 0, 65535).astype(np.uint16) if pixels is None else pixels
        hdu = fits.PrimaryHDU(data)
        cards = {
            "INSTRUME": "TESTCAM",
            "IMAGETYP": kind,
            "EXPTIME": exposure_s,
            "EGAIN": GAIN,
            "RDNOISE": READ_NOISE_E,
            "CCD-TEMP": -20.0,
            "DATE-OBS": f"2027-04-{night}T03:{self.n % 60:02d}:00",
            "OBJECT": "NGC 4993" if kind.lower().startswith("light") else None,
            "FILTER": filter_name if kind.lower().startswith(("light", "flat")) else None,
            **(header or {}),
        }
        for key, value in cards.items():
            if value is not None:
                hdu.header[key] = value
        path = self.folder / f"{name or f'{kind.lower().split()[0]}{self.n:03d}'}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        hdu.writeto(path)
        return path

    def biases(self, n: int = 5, **more) -> list[Path]:
        return [self.take("Bias Frame", **more) for _ in range(n)]

    def darks(self, n: int = 3, exposure_s: float = 60.0, **more) -> list[Path]:
        return [self.take("Dark Frame", exposure_s=exposure_s, **more) for _ in range(n)]

    def flats(self, n: int = 3, filter_name: str = "r", levels=(20000.0, 30000.0, 12000.0), **more) -> list[Path]:
        return [
            self.take("Flat Field", exposure_s=2.0, light_adu=levels[i % len(levels)], filter_name=filter_name, **more) for i in range(n)
        ]

    def lights(self, n: int = 2, exposure_s: float = 60.0, light_adu: float = 1000.0, **more) -> list[Path]:
        return [self.take("Light Frame", exposure_s=exposure_s, light_adu=light_adu, **more) for _ in range(n)]


@pytest.fixture
def camera(tmp_path) -> Camera:
    return Camera(tmp_path / "raw")
