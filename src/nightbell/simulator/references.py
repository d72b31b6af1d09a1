"""Deep frames of fields as the observatory would have had them before: an archive, rendered when a demonstration is set up.

Written as FITS (float32, electrons of the whole exposure, sky subtracted, flat) with a true WCS, together with a list of the
field's stars. Rendered by the same optics as the night's frames, without transients, in steadier air.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from astropy.io import fits

from nightbell.contracts.ids import safe_name
from nightbell.simulator.optics import Glimpse, Seen, celestial_matrix, light_of_field, project
from nightbell.simulator.settings import CameraSettings, GalaxySettings, SimulatorSettings
from nightbell.simulator.sky import BANDS, EXTINCTION_MAG, stars_around

__all__ = ["render_references"]

_SEEING_ARCSEC = 1.8
_SKY_E_PER_S_PX = 3.0


def render_references(
    settings: SimulatorSettings,
    folder: Path,
    fields: Iterable[tuple[str, float, float]],
    *,
    galaxies: Sequence[GalaxySettings] = (),
    filters: Sequence[str] | None = None,
    exposure_s: float = 1800.0,
    wider: float = 1.5,
) -> list[Path]:
    """`ref_NAME_FILTER.fits` for each (name, ra_deg, dec_deg) and filter, `ref_NAME_stars.csv` once.

    Returns the FITS files; what is there already stays as it is.

    `wider` times the camera's field, so that a frame pointed some arc minutes beside still lies inside.
    """
    folder.mkdir(parents=True, exist_ok=True)
    camera = replace(
        settings.camera,
        width_px=math.ceil(settings.camera.width_px * wider),
        height_px=math.ceil(settings.camera.height_px * wider),
    )
    written: list[Path] = []
    for number, (name, ra_deg, dec_deg) in enumerate(fields):
        at = Glimpse(ra_deg, dec_deg, 0.0)
        for band in filters or settings.camera.filters:
            seen = Seen(
                counter=number,
                exposure_s=exposure_s,
                band=band,
                glimpses=(at,),
                seeing_arcsec=_SEEING_ARCSEC,
                galaxies=tuple(galaxies) or settings.galaxies,
            )
            path = folder / f"ref_{safe_name(name, longest=40)}_{safe_name(band, longest=12)}.fits"
            written.append(path)
            if path.is_file():
                continue
            _write(path, name, at, seen, camera, settings)
        _write_stars(folder / f"ref_{safe_name(name, longest=40)}_stars.csv", at, camera, settings.seed)
    return written


def _write(path: Path, name: str, at: Glimpse, seen: Seen, camera: CameraSettings, settings: SimulatorSettings) -> None:
    zero_point = camera.zero_point_mag.get(seen.band, 22.0)
    light = light_of_field(seen, camera, settings.seed, zero_point_mag=zero_point)
    sky = _SKY_E_PER_S_PX * seen.exposure_s
    rng = np.random.default_rng([settings.seed, 55, seen.counter, sum(seen.band.encode())])
    variance = light + sky + 20 * camera.read_noise_e**2
    pixels = (light + np.sqrt(variance) * rng.standard_normal(light.shape)).astype(np.float32)
    header = fits.Header()
    header["IMAGETYP"] = ("LIGHT", "reference frame")
    header["OBJECT"] = name
    header["FILTER"] = seen.band
    header["BUNIT"] = ("electron", "of the whole exposure, sky subtracted")
    header["EXPTIME"] = (seen.exposure_s, "[s]")
    header["MAGZERO"] = (zero_point - EXTINCTION_MAG.get(seen.band, 0.1), "[mag] of 1 electron/s in this image")
    header["SEEING"] = (seen.seeing_arcsec, "[arcsec] FWHM")
    header["SKYLEVEL"] = (sky, "[electron] subtracted sky per pixel")
    header["SIMULATE"] = (True, "rendered by the simulator")
    header["RA"], header["DEC"], header["RADESYS"], header["EQUINOX"] = at.ra_deg, at.dec_deg, "ICRS", 2000.0
    header["CTYPE1"], header["CTYPE2"] = "RA---TAN", "DEC--TAN"
    header["CUNIT1"], header["CUNIT2"] = "deg", "deg"
    header["CRVAL1"], header["CRVAL2"] = at.ra_deg, at.dec_deg
    header["CRPIX1"], header["CRPIX2"] = (camera.width_px + 1) / 2, (camera.height_px + 1) / 2
    matrix = celestial_matrix(at.angle_deg, camera.scale_arcsec_per_px)
    for i in (0, 1):
        for j in (0, 1):
            header[f"CD{i + 1}_{j + 1}"] = float(matrix[i, j])
    header["WCSQUAL"] = "true"
    # Whoever lists the folder meanwhile must not find half a file.
    partial = path.with_suffix(".partial")
    fits.PrimaryHDU(pixels, header).writeto(partial, overwrite=True, output_verify="exception")
    partial.replace(path)


def _write_stars(path: Path, at: Glimpse, camera: CameraSettings, seed: int) -> None:
    radius_deg = math.hypot(camera.width_px, camera.height_px) / 2 * camera.scale_arcsec_per_px / 3600.0
    stars = stars_around(at.ra_deg, at.dec_deg, radius_deg, seed)
    x, y = project(stars.ra_deg, stars.dec_deg, at, camera)
    inside = np.flatnonzero((x >= 0) & (x < camera.width_px) & (y >= 0) & (y < camera.height_px))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["ra_deg", "dec_deg", *(f"{band}_mag" for band in BANDS)])
        for i in inside[np.argsort(stars.mag["r"][inside])]:
            writer.writerow([f"{stars.ra_deg[i]:.7f}", f"{stars.dec_deg[i]:.7f}", *(f"{stars.mag[band][i]:.3f}" for band in BANDS)])
