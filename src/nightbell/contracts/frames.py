"""The header contract of raw frames and the names of their files: what the telescope writes and calibration reads.

`HEADER` is the whole contract, one row per keyword: unit, on which frame types it stands, whether it may be absent.
A value that is not known is absent; it is never 0, -999 or the value of an hour ago.

    {night}/{camera}_{utc}_{type}_{filter}_{object}_{frameid}.fits
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from nightbell.contracts.ids import safe_name
from nightbell.contracts.instants import format_utc
from nightbell.contracts.states import FrameType

__all__ = [
    "HEADER",
    "LONGEST_RELATIVE_PATH",
    "HeaderKey",
    "Key",
    "check_header",
    "frame_file_name",
    "header_key",
    "keys_of",
    "new_frame_id",
]

LONGEST_RELATIVE_PATH = 128
"""Characters of `{night}/{name}`: leaves a data folder of 130 within the 260 that old Windows programs can open."""


class Key(StrEnum):
    """Keywords by name, so that no reader spells one differently from its writer."""

    BITPIX = "BITPIX"
    BZERO = "BZERO"
    BUNIT = "BUNIT"
    IMAGETYP = "IMAGETYP"
    DATE_OBS = "DATE-OBS"
    DATE_BEG = "DATE-BEG"
    DATE_AVG = "DATE-AVG"
    DATE_END = "DATE-END"
    MJD_OBS = "MJD-OBS"
    TIMESYS = "TIMESYS"
    TIMEERR = "TIMEERR"
    TIMESRC = "TIMESRC"
    EXPTIME = "EXPTIME"
    EXPREQ = "EXPREQ"
    INSTRUME = "INSTRUME"
    TELESCOP = "TELESCOP"
    OBSERVAT = "OBSERVAT"
    SITELAT = "SITELAT"
    SITELONG = "SITELONG"
    SITEELEV = "SITEELEV"
    CAMERAID = "CAMERAID"
    XBINNING = "XBINNING"
    YBINNING = "YBINNING"
    XPIXSZ = "XPIXSZ"
    YPIXSZ = "YPIXSZ"
    READMODE = "READMODE"
    GAINSET = "GAINSET"
    OFFSET = "OFFSET"
    EGAIN = "EGAIN"
    RDNOISE = "RDNOISE"
    SATURATE = "SATURATE"
    CCDSEC = "CCDSEC"
    DATASEC = "DATASEC"
    BIASSEC = "BIASSEC"
    CCD_TEMP = "CCD-TEMP"
    SET_TEMP = "SET-TEMP"
    COOLPOW = "COOLPOW"
    FILTER = "FILTER"
    FILTPOS = "FILTPOS"
    FOCUSPOS = "FOCUSPOS"
    FOCTEMP = "FOCTEMP"
    ROTATANG = "ROTATANG"
    OBJECT = "OBJECT"
    OBJID = "OBJID"
    RA = "RA"
    DEC = "DEC"
    TARGRA = "TARGRA"
    TARGDEC = "TARGDEC"
    RADESYS = "RADESYS"
    EQUINOX = "EQUINOX"
    AIRMASS = "AIRMASS"
    HA = "HA"
    ALTITUDE = "ALTITUDE"
    AZIMUTH = "AZIMUTH"
    PIERSIDE = "PIERSIDE"
    MOONANGL = "MOONANGL"
    MOONPHAS = "MOONPHAS"
    SUNALT = "SUNALT"
    DOMEAZ = "DOMEAZ"
    DOMEOK = "DOMEOK"
    DOMEVIGN = "DOMEVIGN"
    CTYPE1 = "CTYPE1"
    CTYPE2 = "CTYPE2"
    CRVAL1 = "CRVAL1"
    CRVAL2 = "CRVAL2"
    CRPIX1 = "CRPIX1"
    CRPIX2 = "CRPIX2"
    CD1_1 = "CD1_1"
    CD1_2 = "CD1_2"
    CD2_1 = "CD2_1"
    CD2_2 = "CD2_2"
    WCSQUAL = "WCSQUAL"
    AMBTEMP = "AMBTEMP"
    HUMIDITY = "HUMIDITY"
    WINDSPD = "WINDSPD"
    PRESSURE = "PRESSURE"
    SKYTEMP = "SKYTEMP"
    WXAGE = "WXAGE"
    FLATDEV = "FLATDEV"
    SKYRATE = "SKYRATE"
    NIGHT = "NIGHT"
    FRAMEID = "FRAMEID"
    SEQNUM = "SEQNUM"
    PLANID = "PLANID"
    ALERTID = "ALERTID"
    STAGE = "STAGE"
    SWVER = "SWVER"
    SIMCLOCK = "SIMCLOCK"
    SIMULATED = "SIMULATED"
    CHECKSUM = "CHECKSUM"
    DATASUM = "DATASUM"


@dataclass(frozen=True)
class HeaderKey:
    """One row of the contract. `card` is the keyword as it stands in a FITS file."""

    key: Key
    unit: str
    doc: str
    frame_types: frozenset[FrameType]
    optional: bool = False
    """May be absent: where the value is unknown or has no meaning for this camera."""

    @property
    def card(self) -> str:
        """A FITS keyword has at most eight characters; a longer name of the contract is cut to them."""
        return self.key.value[:8]

    @property
    def comment(self) -> str:
        """Text behind the slash, the unit first in brackets as FITS recommends."""
        return f"[{self.unit}] {self.doc}" if self.unit else self.doc


_ALL = frozenset(FrameType)
_DARKNESS = frozenset({FrameType.BIAS, FrameType.DARK})
_SKY = _ALL - _DARKNESS
_LIGHT = _SKY - {FrameType.FLAT}
_FLAT = frozenset({FrameType.FLAT})


def _rows(frame_types: frozenset[FrameType], *rows: tuple[Key, str, str], optional: bool = False) -> tuple[HeaderKey, ...]:
    return tuple(HeaderKey(key, unit, doc, frame_types, optional) for key, unit, doc in rows)


HEADER: tuple[HeaderKey, ...] = (
    *_rows(
        _ALL,
        (Key.BITPIX, "", "stored as 16-bit integers"),
        (Key.BZERO, "adu", "32768: unsigned 16-bit values"),
        (Key.BUNIT, "", "unit of the pixels"),
        (Key.IMAGETYP, "", "BIAS DARK FLAT LIGHT FOCUS ACQ TEST"),
        (Key.DATE_OBS, "", "start of exposure, equals DATE-BEG"),
        (Key.DATE_BEG, "", "start of exposure"),
        (Key.DATE_AVG, "", "middle of exposure"),
        (Key.DATE_END, "", "end of exposure"),
        (Key.MJD_OBS, "d", "start of exposure, MJD UTC"),
        (Key.TIMESYS, "", "time scale of the DATE keywords"),
        (Key.TIMEERR, "s", "uncertainty of the start"),
        (Key.TIMESRC, "", "CAMERA or HOST: whose clock gave the start"),
        (Key.EXPTIME, "s", "exposure done"),
        (Key.EXPREQ, "s", "exposure asked for"),
        (Key.INSTRUME, "", "instrument"),
        (Key.TELESCOP, "", "telescope"),
        (Key.OBSERVAT, "", "observatory"),
        (Key.SITELAT, "deg", "geodetic latitude, north positive"),
        (Key.SITELONG, "deg", "longitude, east positive"),
        (Key.SITEELEV, "m", "height above the ellipsoid"),
        (Key.CAMERAID, "", "name of the camera in the configuration"),
        (Key.XBINNING, "px", "binning along x"),
        (Key.YBINNING, "px", "binning along y"),
        (Key.EGAIN, "e/adu", "electrons per count"),
        (Key.RDNOISE, "e", "read noise"),
        (Key.SATURATE, "adu", "counts from which a pixel is saturated"),
        (Key.CCDSEC, "", "part of the detector read out, 1-based inclusive"),
        (Key.DATASEC, "", "part of the image with data, 1-based inclusive"),
        (Key.NIGHT, "", "local date at the noon before"),
        (Key.FRAMEID, "", "unique name of this frame"),
        (Key.SEQNUM, "", "number within its night"),
        (Key.STAGE, "", "1 human hands, 2 scripts, 3 autonomous"),
        (Key.SWVER, "", "nightbell version"),
        (Key.SIMULATED, "", "T when the devices are a simulation"),
        (Key.CHECKSUM, "", "HDU checksum"),
        (Key.DATASUM, "", "data unit checksum"),
    ),
    *_rows(
        _ALL,
        (Key.XPIXSZ, "um", "pixel width, binning included"),
        (Key.YPIXSZ, "um", "pixel height, binning included"),
        (Key.READMODE, "", "read-out mode, the driver's number"),
        (Key.GAINSET, "", "gain setting, the driver's number"),
        (Key.OFFSET, "", "offset setting, the driver's number"),
        (Key.BIASSEC, "", "overscan, 1-based inclusive"),
        (Key.CCD_TEMP, "degC", "detector, read at the end of exposure"),
        (Key.SET_TEMP, "degC", "detector, as asked for"),
        (Key.COOLPOW, "%", "cooler power"),
        (Key.PLANID, "", "plan item or calibration task"),
        (Key.ALERTID, "", "superevent that asked for it"),
        (Key.SIMCLOCK, "", "rate of the simulated clock"),
        optional=True,
    ),
    *_rows(
        _SKY,
        (Key.FILTER, "", "filter as named by the wheel"),
        (Key.RA, "deg", "where it points, ICRS"),
        (Key.DEC, "deg", "where it points, ICRS"),
        (Key.RADESYS, "", "frame of RA and DEC"),
        (Key.EQUINOX, "yr", "equinox"),
        (Key.HA, "h", "hour angle at DATE-AVG, west positive"),
        (Key.ALTITUDE, "deg", "altitude at DATE-AVG, unrefracted"),
        (Key.AZIMUTH, "deg", "azimuth at DATE-AVG, N 0 E 90"),
        (Key.MOONANGL, "deg", "Moon to pointing"),
        (Key.MOONPHAS, "", "illuminated fraction, 0 to 1"),
        (Key.SUNALT, "deg", "altitude of the Sun at DATE-AVG"),
        (Key.DOMEOK, "", "T: slit covered the beam at both ends"),
    ),
    *_rows(
        _SKY,
        (Key.FILTPOS, "", "slot of the wheel, from 0, as read back"),
        (Key.AIRMASS, "", "at DATE-AVG; absent below the horizon"),
        (Key.PIERSIDE, "", "east, west; absent when unknown"),
        (Key.DOMEAZ, "deg", "azimuth of the slit, read back"),
        (Key.DOMEVIGN, "", "fraction of light lost, larger of both ends"),
        (Key.FOCUSPOS, "step", "focuser, as read back"),
        (Key.FOCTEMP, "degC", "focuser"),
        (Key.ROTATANG, "deg", "rotator, as read back"),
        (Key.AMBTEMP, "degC", "air"),
        (Key.HUMIDITY, "%", "relative humidity"),
        (Key.WINDSPD, "m/s", "wind"),
        (Key.PRESSURE, "hPa", "at the site"),
        (Key.SKYTEMP, "degC", "sky, thermal infrared"),
        (Key.WXAGE, "s", "age of the weather values"),
        optional=True,
    ),
    *_rows(
        _LIGHT,
        (Key.OBJECT, "", "name of the target, as given"),
        (Key.OBJID, "", "target_id"),
        (Key.TARGRA, "deg", "where it should point, ICRS"),
        (Key.TARGDEC, "deg", "where it should point, ICRS"),
        (Key.CTYPE1, "", ""),
        (Key.CTYPE2, "", ""),
        (Key.CRVAL1, "deg", "RA of the reference pixel"),
        (Key.CRVAL2, "deg", "Dec of the reference pixel"),
        (Key.CRPIX1, "px", "reference pixel, from 1"),
        (Key.CRPIX2, "px", "reference pixel, from 1"),
        (Key.CD1_1, "deg/px", ""),
        (Key.CD1_2, "deg/px", ""),
        (Key.CD2_1, "deg/px", ""),
        (Key.CD2_2, "deg/px", ""),
        (Key.WCSQUAL, "", "guess or solved"),
    ),
    *_rows(
        _FLAT,
        (Key.FLATDEV, "", "median counts over wanted counts, minus 1"),
        (Key.SKYRATE, "adu/s", "sky per pixel above bias at DATE-AVG"),
    ),
)

_BY_KEY = {row.key: row for row in HEADER}


def header_key(key: Key) -> HeaderKey:
    """The row of `key`."""
    return _BY_KEY[key]


def keys_of(frame_type: FrameType, *, optional: bool = True) -> tuple[HeaderKey, ...]:
    """Rows that stand on frames of `frame_type`, in header order; without the optional ones on demand."""
    return tuple(row for row in HEADER if frame_type in row.frame_types and (optional or not row.optional))


def check_header(header: Mapping[str, object] | Iterable[str], frame_type: FrameType) -> tuple[str, ...]:
    """What the contract misses in `header`: the cards that must be there and are not. Empty: complete."""
    present = {str(name).upper() for name in header}
    return tuple(row.card for row in keys_of(frame_type, optional=False) if row.card not in present)


def new_frame_id(now_ns: int | None = None) -> str:
    """16 characters of lower-case base 32, sorting by its host's clock: 48 bits of milliseconds and 32 random bits."""
    ms = (time.time_ns() if now_ns is None else now_ns) // 1_000_000
    value = (ms & (2**48 - 1)) << 32 | secrets.randbits(32)
    return "".join("0123456789abcdefghjkmnpqrstvwxyz"[value >> shift & 31] for shift in range(75, -1, -5))


def frame_file_name(
    *, camera: str, date_obs_ns: int, frame_type: FrameType, filter_name: str | None, object_name: str | None, frame_id: str
) -> str:
    """Name of a frame's file: [A-Za-z0-9._+-] only, distinct ignoring case, allowed on Linux and Windows.

    What has no filter or object says `none`. Names such as "H/alpha 7nm*" are made safe here; the header keeps the
    original. `frame_id` must be a name of `new_frame_id` (it makes the file unique; the rest is for eyes).
    """
    if not re.fullmatch(r"[0-9a-z]{8,36}", frame_id):
        raise ValueError(f"frame_id: {frame_id!r} is not a lower-case id")
    stamp = format_utc(date_obs_ns, digits=3).replace("-", "").replace(":", "").removesuffix("Z")
    parts = (
        safe_name(camera, longest=16),
        stamp,
        frame_type.value.lower(),
        safe_name(filter_name or "none", longest=12),
        safe_name(object_name or "none", longest=24),
        frame_id,
    )
    return "_".join(parts) + ".fits"
