"""Reference images: any FITS image with a WCS that covers the field, best in the same filter."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from numpy.typing import NDArray

from nightbell.contracts.errors import BadInput
from nightbell.transients.hosts import separation_arcsec

__all__ = ["Reference", "choose_reference", "list_references", "read_reference"]

SUFFIXES = (".fits", ".fit", ".fits.gz", ".fits.fz")


@dataclass(frozen=True)
class Reference:
    """A reference in memory: electrons, their variance, and pixels that must not be used."""

    path: Path
    name: str
    filter: str | None
    data: NDArray[np.float32]
    variance: NDArray[np.float32]
    bad: NDArray[np.bool_]
    wcs: WCS
    zero_point_mag: float | None
    """Of one electron of this image; its header says it for one electron per second."""


@dataclass(frozen=True)
class Listing:
    """What is known of a reference without reading its pixels."""

    path: Path
    object_name: str
    filter: str | None
    ra_deg: float
    dec_deg: float
    radius_deg: float


def list_references(folder: Path) -> list[Listing]:
    """References in `folder` by name; files that are none are left out."""
    found: list[Listing] = []
    files = (file for file in folder.rglob("*") if file.name.lower().endswith(SUFFIXES)) if folder.is_dir() else ()
    for file in sorted(files):
        try:
            header = _image_header(file)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                wcs = WCS(header).celestial
            nx, ny = int(header["NAXIS1"]), int(header["NAXIS2"])
            ra, dec = (float(value) for value in wcs.wcs_pix2world((nx - 1) / 2, (ny - 1) / 2, 0))
            scale = float(np.sqrt(abs(np.linalg.det(wcs.pixel_scale_matrix))))
        except (OSError, KeyError, ValueError, TypeError, AttributeError):
            continue  # not an image with a place on the sky: nothing to subtract
        band = str(header.get("FILTER", "")).strip() or None
        found.append(Listing(file, str(header.get("OBJECT", file.stem)).strip(), band, ra, dec, scale * np.hypot(nx, ny) / 2))
    return found


def choose_reference(listings: list[Listing], *, ra_deg: float, dec_deg: float, filter_name: str | None) -> Listing | None:
    """The one whose centre is nearest to the field, of the same filter (or of none said); None when no one covers it."""
    near = [
        (one.filter != filter_name, separation_arcsec(ra_deg, dec_deg, one.ra_deg, one.dec_deg), str(one.path), one)
        for one in listings
        if one.filter in {filter_name, None} and separation_arcsec(ra_deg, dec_deg, one.ra_deg, one.dec_deg) <= 3600 * one.radius_deg
    ]
    return min(near)[3] if near else None


def _image_header(path: Path) -> fits.Header:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with fits.open(path, memmap=False) as opened:
            for hdu in opened:
                if hdu.header.get("NAXIS", 0) == 2 and hdu.header.get("NAXIS1", 0) > 0:
                    return hdu.header.copy()
    raise KeyError("no image")


def read_reference(path: Path) -> Reference:
    """The reference at `path`: our products (UNCERT, MASK) and plain images alike. Raises `BadInput`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with fits.open(path, memmap=False) as opened:
                hdu = next(one for one in opened if one.header.get("NAXIS", 0) == 2 and one.data is not None)
                header, data = hdu.header.copy(), hdu.data.astype(np.float32)
                sigma = opened["UNCERT"].data.astype(np.float32) if "UNCERT" in opened else None
                mask = opened["MASK"].data != 0 if "MASK" in opened else np.zeros(data.shape, bool)
            wcs = WCS(header).celestial
    except (OSError, StopIteration, TypeError, ValueError, KeyError) as error:
        raise BadInput(f"it is no reference image: {error}", where=str(path), remedy="Give a FITS image with a WCS") from error
    if not wcs.has_celestial:
        raise BadInput("it has no celestial WCS", where=f"{path}: CTYPE1", remedy="Solve the image first")
    unit = str(header.get("BUNIT", "")).strip().lower()
    in_electrons = unit.startswith(("e", "electron")) and unit != "erg"
    gain = 1.0 if in_electrons else float(header.get("EGAIN", header.get("GAIN", 1.0)) or 1.0)
    data = data * np.float32(gain)
    bad = mask | ~np.isfinite(data)
    if sigma is not None:
        variance = (sigma * np.float32(gain)) ** 2
    else:
        good = data[~bad]
        sky = float(np.median(good)) if good.size else 0.0
        sky_variance = (1.4826 * float(np.median(np.abs(good - sky)))) ** 2 if good.size else 1.0
        # A stack of many exposures scatters less than one exposure of its level would: by that factor its stars do too.
        depth = float(np.clip(sky_variance / sky, 0.0, 1.0)) if sky > 0 else 1.0
        variance = np.maximum(data - np.float32(sky), 0) * np.float32(depth) + np.float32(sky_variance)
    zero_point = header.get("MAGZP", header.get("ZP", header.get("MAGZERO")))
    exposure_s = float(header.get("EXPTIME", 1.0) or 1.0)
    zero_point_mag = None if zero_point is None else float(zero_point) + 2.5 * float(np.log10(exposure_s))
    band = str(header.get("FILTER", "")).strip() or None
    return Reference(path, str(header.get("OBJECT", path.stem)).strip(), band, data, variance.astype(np.float32), bad, wcs, zero_point_mag)
