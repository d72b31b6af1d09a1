"""One raw frame as FITS: values by the header contract (contracts/frames.py) -> bytes with CHECKSUM and DATASUM.

Values are gathered in plain dictionaries, one function per group of the contract; what is not known is left out and
never invented. `write_fits` refuses a frame that lacks a keyword of the contract, so no incomplete frame reaches a disk.
"""

from __future__ import annotations

import io
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

import nightbell
from nightbell.contracts.errors import Failed
from nightbell.contracts.frames import Key, frame_file_name, keys_of
from nightbell.contracts.instants import format_utc
from nightbell.contracts.records import FrameRef, Site
from nightbell.contracts.states import FrameType

__all__ = [
    "FrameData",
    "Value",
    "detector_values",
    "provenance_values",
    "site_values",
    "time_values",
    "verify_fits",
    "wcs_values",
    "weather_values",
    "write_fits",
]

Value = str | int | float | bool
BLOCK = 2880
_WRITTEN_BY_ASTROPY = {Key.BITPIX, Key.BZERO, Key.CHECKSUM, Key.DATASUM}
_MJD_OF_1970 = 40587.0


@dataclass(frozen=True, kw_only=True)
class FrameData:
    """A frame in memory: the pixels and everything that will be written with them."""

    pixels: Any
    """uint16 array [y, x]."""
    frame_type: FrameType
    frame_id: str
    camera: str
    exposure_s: float
    date_obs_ns: int
    values: Mapping[Key, Value]
    filter_name: str | None = None
    target_id: str | None = None
    object_name: str | None = None
    superevent_id: str | None = None
    flaw: str = ""
    """Why it does not count towards what was asked for; empty: it counts."""

    @property
    def file_name(self) -> str:
        return frame_file_name(
            camera=self.camera,
            date_obs_ns=self.date_obs_ns,
            frame_type=self.frame_type,
            filter_name=self.filter_name,
            object_name=self.object_name,
            frame_id=self.frame_id,
        )

    def reference(self, path: str, *, host: str = "") -> FrameRef:
        """The record of this frame before it is written: without hash and size."""
        return FrameRef(
            frame_id=self.frame_id,
            path=path,
            sha256="",
            size_bytes=0,
            frame_type=self.frame_type,
            camera=self.camera,
            filter=self.filter_name,
            exposure_s=self.exposure_s,
            date_obs_utc=format_utc(self.date_obs_ns),
            target_id=self.target_id,
            object_name=self.object_name,
            superevent_id=self.superevent_id,
            host=host,
        )


def known(values: Mapping[Key, Value | None]) -> dict[Key, Value]:
    """Without what is unknown: None, and numbers that are not finite."""
    return {key: value for key, value in values.items() if value is not None and (not isinstance(value, float) or math.isfinite(value))}


def time_values(*, started_ns: int, exposure_s: float, asked_s: float, error_s: float, from_camera: bool) -> dict[Key, Value]:
    """DATE-*, MJD-OBS, EXPTIME ... to the millisecond. The middle and the end follow from start and exposure, not from the download."""

    def date(at_ns: int) -> str:
        return format_utc(at_ns, digits=3).removesuffix("Z")

    length_ns = round(exposure_s * 1e9)
    return {
        Key.DATE_OBS: date(started_ns),
        Key.DATE_BEG: date(started_ns),
        Key.DATE_AVG: date(started_ns + length_ns // 2),
        Key.DATE_END: date(started_ns + length_ns),
        Key.MJD_OBS: round(_MJD_OF_1970 + started_ns / 86_400e9, 9),
        Key.TIMESYS: "UTC",
        Key.TIMEERR: round(error_s, 4),
        Key.TIMESRC: "CAMERA" if from_camera else "HOST",
        Key.EXPTIME: exposure_s,
        Key.EXPREQ: asked_s,
    }


def site_values(site: Site, *, telescope: str, instrument: str) -> dict[Key, Value]:
    """Where and with what."""
    return {
        Key.INSTRUME: instrument,
        Key.TELESCOP: telescope,
        Key.OBSERVAT: site.name,
        Key.SITELAT: site.latitude_deg,
        Key.SITELONG: site.longitude_deg,
        Key.SITEELEV: site.elevation_m,
    }


def detector_values(
    *,
    camera: str,
    shape: tuple[int, int],
    bin_x: int,
    bin_y: int,
    start_x: int,
    start_y: int,
    pixel_x_um: float | None,
    pixel_y_um: float | None,
    readout_mode: int | None,
    gain_setting: int | None,
    offset_setting: int | None,
    gain_e_per_adu: float,
    read_noise_e: float,
    saturation_adu: float,
    temperature_degc: float | None,
    set_temperature_degc: float | None,
    cooler_percent: float | None,
) -> dict[Key, Value]:
    """The detector as it was read out. `shape` is (rows, columns); start in binned pixels from 0."""
    rows, columns = shape
    x0, y0 = start_x * bin_x, start_y * bin_y
    return known(
        {
            Key.CAMERAID: camera,
            Key.XBINNING: bin_x,
            Key.YBINNING: bin_y,
            Key.XPIXSZ: pixel_x_um * bin_x if pixel_x_um is not None else None,
            Key.YPIXSZ: pixel_y_um * bin_y if pixel_y_um is not None else None,
            Key.READMODE: readout_mode,
            Key.GAINSET: gain_setting,
            Key.OFFSET: offset_setting,
            Key.EGAIN: gain_e_per_adu,
            Key.RDNOISE: read_noise_e,
            Key.SATURATE: saturation_adu,
            Key.CCDSEC: f"[{x0 + 1}:{x0 + columns * bin_x},{y0 + 1}:{y0 + rows * bin_y}]",
            Key.DATASEC: f"[1:{columns},1:{rows}]",
            Key.CCD_TEMP: temperature_degc,
            Key.SET_TEMP: set_temperature_degc,
            Key.COOLPOW: cooler_percent,
        }
    )


def weather_values(
    *,
    temperature_degc: float | None,
    humidity_percent: float | None,
    wind_m_per_s: float | None,
    pressure_hpa: float | None,
    sky_temperature_degc: float | None,
    age_s: float,
    limit_s: float = 120.0,
) -> dict[Key, Value]:
    """The weather, or nothing when it is stale: an old reading on a frame would be believed."""
    if age_s > limit_s:
        return {}
    return known(
        {
            Key.AMBTEMP: temperature_degc,
            Key.HUMIDITY: humidity_percent,
            Key.WINDSPD: wind_m_per_s,
            Key.PRESSURE: pressure_hpa,
            Key.SKYTEMP: sky_temperature_degc,
            Key.WXAGE: round(age_s, 1),
        }
    )


def wcs_values(
    *, ra_deg: float, dec_deg: float, shape: tuple[int, int], scale_arcsec: float, rotation_deg: float, mirrored: bool
) -> dict[Key, Value]:
    """A first guess of the world coordinates: the pointing at the middle pixel.

    `rotation_deg` is the position angle of the +y axis, from north through east. `mirrored` False: east is left of north.
    """
    rows, columns = shape
    scale_deg = scale_arcsec / 3600
    angle = math.radians(rotation_deg)
    sign = 1.0 if mirrored else -1.0
    return {
        Key.CTYPE1: "RA---TAN",
        Key.CTYPE2: "DEC--TAN",
        Key.CRVAL1: ra_deg,
        Key.CRVAL2: dec_deg,
        Key.CRPIX1: (columns + 1) / 2,
        Key.CRPIX2: (rows + 1) / 2,
        # +y points to position angle `rotation`; +x is 90 deg clockwise of it as seen on the sky (or counter, mirrored).
        Key.CD1_1: sign * scale_deg * math.cos(angle),
        Key.CD1_2: scale_deg * math.sin(angle),
        Key.CD2_1: -sign * scale_deg * math.sin(angle),
        Key.CD2_2: scale_deg * math.cos(angle),
        Key.WCSQUAL: "guess",
    }


def provenance_values(
    *,
    frame_type: FrameType,
    night: str,
    frame_id: str,
    number: int,
    stage: int,
    simulated: bool,
    clock_rate: float,
    plan_id: str | None,
    superevent_id: str | None,
) -> dict[Key, Value]:
    """Which night, which number, who asked for it."""
    return known(
        {
            Key.BUNIT: "adu",
            Key.IMAGETYP: frame_type.value,
            Key.NIGHT: night,
            Key.FRAMEID: frame_id,
            Key.SEQNUM: number,
            Key.PLANID: plan_id,
            Key.ALERTID: superevent_id,
            Key.STAGE: stage,
            Key.SWVER: nightbell.__version__,
            Key.SIMCLOCK: clock_rate if simulated or clock_rate != 1.0 else None,
            Key.SIMULATED: simulated,
        }
    )


def _text(value: str) -> str:
    """FITS headers hold printable ASCII; anything else becomes `?`."""
    return re.sub(r"[^ -~]", "?", value)


def write_fits(data: FrameData) -> bytes:
    """The frame as the bytes of a FITS file. Raises `Failed` naming each keyword of the contract that is missing."""
    missing = [
        row.card for row in keys_of(data.frame_type, optional=False) if row.key not in data.values and row.key not in _WRITTEN_BY_ASTROPY
    ]
    if missing:
        raise Failed(
            f"no value for {', '.join(missing)}",
            where=f"header of {data.file_name}",
            remedy="Every frame carries the whole contract (contracts/frames.py)",
        )
    pixels = np.asarray(data.pixels)
    if pixels.dtype != np.uint16:
        pixels = np.clip(np.rint(pixels) if pixels.dtype.kind == "f" else pixels, 0, 65535).astype(np.uint16)
    header = fits.Header()
    for row in keys_of(data.frame_type):
        if row.key in data.values and row.key not in _WRITTEN_BY_ASTROPY:
            value = data.values[row.key]
            value = _text(value) if isinstance(value, str) else value
            # Comment and value share 80 columns; a comment that does not fit is left out, the value never.
            room = 80 - 10 - max(20, len(fits.Card(row.card, value).image.rstrip()) - 10) - 3
            header[row.card] = (value, row.comment[:room] if room > 0 else "")
    hdu = fits.PrimaryHDU(pixels, header=header)
    buffer = io.BytesIO()
    hdu.writeto(buffer, checksum=True)
    return buffer.getvalue()


def _ones_complement(content: memoryview) -> int:
    total = int(np.frombuffer(content, dtype=">u4").sum(dtype=np.uint64))
    while total >> 32:
        total = (total & 0xFFFFFFFF) + (total >> 32)
    return total


def verify_fits(path: Path) -> str:
    """What is wrong with a frame on disk, or "". Sums are formed anew over the bytes read back, without astropy's writer.

    With a valid CHECKSUM the 32-bit ones' complement sum over the whole HDU is all ones; DATASUM is the sum of the data.
    """
    with open(path, "rb") as file:
        if hasattr(os, "posix_fadvise"):
            # Ask the disk, not the page cache, as far as the system lets us.
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        content = file.read()
    if not content.startswith(b"SIMPLE  =") or len(content) % BLOCK:
        return f"{len(content)} bytes are no FITS file"
    end = next((at for at in range(0, len(content), 80) if content[at : at + 80].rstrip() == b"END"), None)
    if end is None:
        return "the header has no end"
    header = content[:end].decode("ascii", "replace")
    match = re.search(r"DATASUM = '(\d+)\s*'", header)
    if match is None or "CHECKSUM= '" not in header:
        return "no CHECKSUM or DATASUM"
    start = (end // BLOCK + 1) * BLOCK
    view = memoryview(content)
    if _ones_complement(view[start:]) != int(match[1]):
        return "DATASUM does not hold"
    if _ones_complement(view) != 0xFFFFFFFF:
        return "CHECKSUM does not hold"
    return ""
