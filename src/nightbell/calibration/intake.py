"""A file -> `Exposure`: what it is, in one vocabulary, with everything that could be read in more than one way reported.

The left spelling wins; a camera's TOML overrides each. A value that is not known is `None`, never a default.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from nightbell.calibration.cameras import Camera, choose_camera
from nightbell.calibration.guard import Ambiguity, RawFrame, read_frame
from nightbell.calibration.sections import Section, beside, parse_section
from nightbell.contracts.errors import BadInput
from nightbell.contracts.instants import format_utc, parse_utc

__all__ = ["KINDS", "Exposure", "Setup", "intake"]

KINDS = ("bias", "dark", "flat", "light", "other")
_KIND_KEYS = ("IMAGETYP", "OBSTYPE", "IMGTYPE", "IMAGETYPE", "FRAME", "EXPTYPE", "DATA-TYP", "OBS_TYPE")
_WORDS = {
    "bias": "bias", "zero": "bias", "dark": "dark", "flat": "flat", "skyflat": "flat", "domeflat": "flat", "twilightflat": "flat",
    "twiflat": "flat", "lampflat": "flat", "light": "light", "object": "light", "science": "light", "sci": "light", "tricolor": "light",
    "expose": "light", "target": "light", "arc": "other", "focus": "other", "acq": "other", "acquisition": "other", "test": "other",
    "comp": "other",
}  # fmt: skip
_PICTTYPE = {1: "light", 2: "bias", 3: "dark", 4: "flat"}
_EXPOSURE_KEYS = ("EXPTIME", "EXPOSURE", "ITIME", "EXPOSE")
_FILTER_KEYS = ("FILTER", "INSFLNAM", "FILTNAM", "FILT", "FILTERS", "FILTER01", "FILTER1")
_CLEAR = {"open", "free", "clear", "air", "none", "empty"}
_TEMPERATURE_KEYS = ("CCD-TEMP", "CCDTEMP", "DETTEMP", "CCD_TEMP")
_FOLDERS_THAT_TELL = 3
"""A frame's kind may be told by so many of the folders it lies in; what stands above is somebody's home."""
_SETTING_AS_GAIN = re.compile(r"(?i)\b(zwo|asi ?\d|qhy|player ?one|touptek|svbony)")
"""Makers whose programs write the amplifier's setting (tenths of a decibel) as GAIN."""
_LARGEST_16_BIT = 65535.0
_DAY_NS = 86_400_000_000_000


@dataclass(frozen=True)
class Setup:
    """How the detector was read: frames with different setups never meet."""

    camera: str
    shape: tuple[int, int]
    binning: tuple[int, int]
    window: str
    read_mode: str
    gain_setting: str
    gain_e_per_adu: float | None
    data_section: str
    overscan_section: str

    def differences(self, other: Setup) -> tuple[str, ...]:
        """In what they differ, in words; empty when frames of both may be combined."""
        words: list[str] = []
        for name in ("camera", "shape", "binning", "window", "read_mode", "gain_setting", "data_section", "overscan_section"):
            mine, theirs = getattr(self, name), getattr(other, name)
            # Programs that leave the setting out of calibration frames say nothing against it.
            unsaid = name == "gain_setting" and not (mine and theirs)
            if mine != theirs and not unsaid:
                words.append(f"{name.replace('_', ' ')} {_plain(theirs)}, not {_plain(mine)}")
        a, b = self.gain_e_per_adu, other.gain_e_per_adu
        if a is not None and b is not None and abs(a - b) > 0.005 * a:
            words.append(f"gain {b:g} e/adu, not {a:g}")
        return tuple(words)


def _plain(value: object) -> str:
    return "x".join(str(part) for part in value) if isinstance(value, tuple) else str(value) or "none"


@dataclass(frozen=True)
class Exposure:
    """One raw frame, described in our words. `raw_id` is the sha256 of the file's bytes."""

    raw_id: str
    data_sha256: str
    path: Path
    camera: Camera
    kind: str
    setup: Setup
    data: Section
    overscan: Section | None
    filter: str | None
    exposure_s: float | None
    gain_e_per_adu: float | None
    read_noise_e: float | None
    saturation_adu: float
    temperature_c: float | None
    set_temperature_c: float | None
    start_ns: int | None
    night: str
    is_combined: bool
    """A calibration frame that others have made of several."""
    object_name: str | None
    target_id: str | None
    frame_id: str | None
    superevent_id: str | None
    header_text: str
    ambiguities: tuple[Ambiguity, ...] = field(default=())

    @property
    def date_obs_utc(self) -> str | None:
        """Start of the exposure."""
        return None if self.start_ns is None else format_utc(self.start_ns)

    def header(self) -> fits.Header:
        """The frame's header."""
        return _header(self.header_text)


def _header(text: str) -> fits.Header:
    return fits.Header.fromstring(text.ljust(-(-len(text) // 80) * 80))


def intake(
    path: Path,
    cameras: Mapping[str, Camera],
    *,
    camera: str | None = None,
    longitude_deg: float | None = None,
    gain_e_per_adu: float | None = None,
    read_noise_e: float | None = None,
) -> tuple[Exposure, NDArray[Any]]:
    """The exposure in the file at `path`, and its pixels. Raises `BadInput` by name."""
    frame = read_frame(path)
    with warnings.catch_warnings():
        # astropy warns about each odd card when it is read; what matters of that is reported below in our words.
        warnings.simplefilter("ignore")
        exposure = _Reader(frame, cameras, camera, longitude_deg).exposure()
    if gain_e_per_adu is not None:
        setup = replace(exposure.setup, gain_e_per_adu=gain_e_per_adu)
        exposure = replace(exposure, gain_e_per_adu=gain_e_per_adu, setup=setup)
    if read_noise_e is not None:
        exposure = replace(exposure, read_noise_e=read_noise_e)
    return exposure, frame.pixels


class _Reader:
    """One header, read once, with its doubts collected on the way."""

    def __init__(self, frame: RawFrame, cameras: Mapping[str, Camera], camera: str | None, longitude_deg: float | None) -> None:
        self.frame = frame
        self.header = _header(frame.header_text)
        self.values: dict[str, Any] = {}
        for card in self.header.cards:
            try:
                self.values.setdefault(card.keyword, card.value)
            except (ValueError, fits.VerifyError):
                continue  # a card that cannot be read says nothing; HISTORY of it stays in header_text
        self.camera = choose_camera(self.values, cameras, camera)
        self.rules = self.camera.settings
        for key in self.rules.ignore_keys:
            self.values.pop(key, None)
        self.longitude_deg = longitude_deg
        self.doubts = list(frame.ambiguities)

    def doubt(self, code: str, detail: str) -> None:
        self.doubts.append(Ambiguity(code, detail))

    def text(self, *keys: str) -> str | None:
        for key in keys:
            value = self.values.get(key)
            if key and value is not None and not isinstance(value, fits.card.Undefined) and str(value).strip():
                return str(value).strip()
        return None

    def number(self, *keys: str) -> float | None:
        for key in keys:
            value = self.values.get(key)
            if isinstance(value, bool) or value is None:
                continue
            try:
                number = float(value)
            except (TypeError, ValueError):
                continue
            if math.isfinite(number):
                return number
        return None

    def exposure(self) -> Exposure:
        named = self.by_name()
        exposure_s = self.exposure_s(named)
        kind = self.kind(named, exposure_s)
        data, overscan = self.sections()
        gain = self.gain()
        shape = self.frame.pixels.shape
        binning = self.binning()
        start_ns = self.start_ns()
        setup = Setup(
            camera=self.detector(),
            shape=(int(shape[0]), int(shape[1])),
            binning=binning,
            window=self.window(),
            read_mode=self.text("READMODE", "READOUTM", "CCDSPEED", "RDSPEED") or "",
            gain_setting=self.gain_setting(gain),
            gain_e_per_adu=gain,
            data_section=str(data),
            overscan_section=str(overscan or ""),
        )
        name = self.text("OBJECT")
        self.refuse_what_is_calibrated()
        if self.number("PEDESTAL"):
            self.doubt("PEDESTAL", f"PEDESTAL = {self.number('PEDESTAL'):g} is not applied: bias and dark frames carry it too")
        return Exposure(
            raw_id=self.frame.sha256,
            data_sha256=self.frame.data_sha256,
            path=self.frame.path,
            camera=self.camera,
            kind=kind,
            setup=setup,
            data=data,
            overscan=overscan,
            filter=self.filter(named),
            exposure_s=exposure_s,
            gain_e_per_adu=gain,
            read_noise_e=self.positive(self.rules.read_noise_key, "RDNOISE", "CCDRON", "READNOIS", "RON") or self.rules.read_noise_e,
            saturation_adu=self.saturation_adu(),
            temperature_c=self.number(*_TEMPERATURE_KEYS),
            set_temperature_c=self.number("SET-TEMP"),
            start_ns=start_ns,
            night=self.night(start_ns),
            is_combined=self.is_combined(kind),
            object_name=self.rules.object_fix.get(name, name) if name else None,
            target_id=self.text("OBJID"),
            frame_id=self.text("FRAMEID"),
            superevent_id=self.text("ALERTID"),
            header_text=self.frame.header_text,
            ambiguities=tuple(self.doubts),
        )

    def detector(self) -> str:
        """The camera, and which one of its kind: two detectors never share a master."""
        one = self.text("CAMERAID", "CAMSERNO", "CCDSERNO", "SERIAL")
        return self.camera.name if one is None or one == self.camera.name else f"{self.camera.name}:{one}"

    def positive(self, *keys: str) -> float | None:
        value = self.number(*(key for key in keys if key))
        return value if value is not None and value > 0 else None

    def refuse_what_is_calibrated(self) -> None:
        """What a program has already taken off must not be taken off again."""
        for key in ("CALSTAT", "ZEROCOR", "DARKCOR", "FLATCOR"):
            word = self.text(key)
            if word and (key != "CALSTAT" or set(word.upper()) <= set("BDFM")):
                raise BadInput(
                    f"CALIBRATED: {key} = {word!r} says that it is no raw frame any more",
                    where=f"{self.frame.path}: {key}",
                    remedy="Give the raw frame that it was made of",
                    code="CALIBRATED",
                )

    def saturation_adu(self) -> float:
        """What camera file or header say, never above what the file's type can hold."""
        said, ceiling = self.rules.saturation_adu or self.positive("SATURATE", "MAXLIN"), self.frame.ceiling_adu
        if said is None and not math.isfinite(ceiling) and float(np.nanmax(self.frame.pixels, initial=0)) == _LARGEST_16_BIT:
            self.doubt(
                "SATURATION", "its brightest pixels have 65535 counts, as a full 16-bit converter gives; they are taken as saturated"
            )
            return _LARGEST_16_BIT
        return min(said or math.inf, ceiling)

    def is_combined(self, kind: str) -> bool:
        if kind not in {"bias", "dark", "flat"}:
            return False
        n = self.number("NCOMBINE", "SNAPSHOT", "STACKCNT")
        word = " ".join(filter(None, (self.text(*_KIND_KEYS), self.frame.path.name))).lower()
        combined = (
            self.values.get("COMBINED") is True or (n is not None and n > 1) or "master" in word or "super" in re.split(r"[^a-z]", word)
        )
        if combined:
            self.doubt("MASTER", "a master made elsewhere" + (f", of {n:g} frames" if n else "") + ": used only where no raw frames are")
        return combined

    def by_name(self) -> dict[str, str]:
        match = re.search(self.rules.names, self.frame.path.name) if self.rules.names else None
        return {key: value for key, value in (match.groupdict() if match else {}).items() if value}

    def exposure_s(self, named: Mapping[str, str]) -> float | None:
        keys = (self.rules.exposure_key,) if self.rules.exposure_key else _EXPOSURE_KEYS
        given = {key: value for key in keys if (value := self.number(key)) is not None}
        if not given and "exptime" in named:
            self.doubt("EXPTIME", f"the header has no exposure time; the file name says {named['exptime']} s")
            return float(named["exptime"])
        if not given:
            return None
        first, value = next(iter(given.items()))
        for key, other in given.items():
            if abs(other - value) > 0.01 * max(abs(value), abs(other)):
                self.doubt("EXPTIME", f"{first} = {value:g} s but {key} = {other:g} s; {first} is taken")
        if value < 0:
            raise BadInput(f"EXPTIME: {first} = {value:g} s", where=f"{self.frame.path}: {first}", remedy="Mend the header", code="EXPTIME")
        return value

    def kind(self, named: Mapping[str, str], exposure_s: float | None) -> str:
        path = self.frame.path
        keys = (self.rules.kind_key,) if self.rules.kind_key else _KIND_KEYS
        word = self.text(*keys)
        by_header = self.word_to_kind(word) if word else None
        if by_header is None and (number := self.number("PICTTYPE")) is not None:
            by_header = _PICTTYPE.get(int(number))
        by_object = _kind_in(self.text("OBJECT") or "", calibration_only=True)
        by_folder = next((kind for folder, kind in self.rules.folders.items() if folder.lower() in map(str.lower, path.parts[:-1])), None)
        by_name = self.word_to_kind(named["kind"]) if "kind" in named else _kind_in(path.name)
        if by_header is not None:
            other = by_folder or by_name
            if other is not None and other != by_header:
                self.doubt("KIND", f"the header says {by_header}, the name says {other}; the header is taken")
            if by_header == "dark" and exposure_s == 0:
                self.doubt("KIND", "a dark of 0 s is a bias")
                return "bias"
            if by_header == "bias" and exposure_s:
                self.doubt("KIND", f"a bias of {exposure_s:g} s")
            return by_header
        by_place = next((kind for part in reversed(path.parts[-1 - _FOLDERS_THAT_TELL : -1]) if (kind := _kind_in(part))), None)
        guess = by_folder or by_object or by_name or by_place
        if guess is None and exposure_s == 0:
            guess = "bias"
        if guess is None:
            raise BadInput(
                f"KIND: neither header ({'/'.join(keys[:5])}{f' = {word!r}' if word else ''}) nor name tell bias, dark, flat or light",
                where=f"{path}: {keys[0]}",
                remedy="Write IMAGETYP, or give a camera file with `kinds`, `folders` or `names`",
                code="KIND",
            )
        said = f"the header says {word!r}; " if word else ""
        self.doubt("KIND", f"{said}by its {'OBJECT' if guess == by_object and not by_folder else 'name or folder'}: {guess}")
        return guess

    def word_to_kind(self, word: str) -> str | None:
        if word in self.rules.kinds:
            return self.rules.kinds[word]
        folded = re.sub(r"[^a-z]|frame|field", "", word.lower())
        return _WORDS.get(folded) or next((kind for part in re.split(r"[^a-z]+", word.lower()) if (kind := _WORDS.get(part))), None)

    def filter(self, named: Mapping[str, str]) -> str | None:
        if self.rules.filter_key:
            word = self.text(self.rules.filter_key)
        else:
            given = {key: value for key in _FILTER_KEYS if (value := self.text(key))}
            word = next(iter(given.values()), None)
            second = self.text("FILTER2")
            if second and (word is None or (word.lower() in _CLEAR and "FILTER1" in given)):
                word = second
            elif second and "FILTER1" in given and "FILTER" not in given and second.lower() not in _CLEAR:
                word = f"{given['FILTER1']}+{second}"
            if len({value.lower() for value in given.values()}) > 1:
                self.doubt("FILTER", f"{given}: {word} is taken")
        if word is None and "filter" in named:
            self.doubt("FILTER", f"the header has no filter; the file name says {named['filter']}")
            word = named["filter"]
        if word is None:
            return None
        word = self.rules.filters.get(word, word)
        return "clear" if word.lower() in _CLEAR else word

    def gain(self) -> float | None:
        if self.rules.gain_key:
            value = self.positive(self.rules.gain_key)
            if value is not None:
                return value
        if self.rules.gain_e_per_adu is not None:
            return self.rules.gain_e_per_adu
        value = self.positive("EGAIN", "CCDSENS")
        if value is not None:
            return value
        value = self.positive("GAIN")
        if value is not None and 0.05 < value < 20 and not _SETTING_AS_GAIN.search(self.text("INSTRUME", "CAMERA") or ""):
            if not self.camera.mapped:
                self.doubt("GAIN", f"GAIN = {value:g} is taken as electrons per count; give a camera file with gain_key to settle it")
            return value
        self.doubt("GAIN", "no gain in electrons per count" + (f"; GAIN = {value:g} is a setting" if value is not None else ""))
        return None

    def gain_setting(self, gain_e_per_adu: float | None) -> str:
        """The amplifier's settings in the camera's own numbers: what changes them changes bias and gain."""
        setting, given, offset = self.text("GAINSET", "GAINRAW"), self.number("GAIN"), self.number("OFFSET", "BLKLEVEL")
        if setting is None and given is not None and given != gain_e_per_adu:
            setting = f"{given:g}"
        # A fraction is no setting of a converter; others say OFFSET of a telescope's.
        return (setting or "") + (f" offset {offset:g}" if offset is not None and offset.is_integer() else "")

    def binning(self) -> tuple[int, int]:
        both = self.text("CCDSUM")
        if both and re.fullmatch(r"\d+\s+\d+", both):
            first, second = both.split()
            return int(first), int(second)
        x, y = self.number("XBINNING", "CCDBINX", "XBIN"), self.number("YBINNING", "CCDBINY", "YBIN")
        return int(x or 1), int(y or x or 1)

    def window(self) -> str:
        x, y = self.number("XORGSUBF"), self.number("YORGSUBF")
        if x is not None and y is not None:
            return f"{x:g},{y:g}"
        return self.text("CCDSEC") or ""

    def sections(self) -> tuple[Section, Section | None]:
        shape = (int(self.frame.pixels.shape[0]), int(self.frame.pixels.shape[1]))
        whole = Section(0, shape[1], 0, shape[0])
        data = self.section("TRIMSEC", shape, self.rules.data_section) or self.section("DATASEC", shape, "") or whole
        overscan = self.section("BIASSEC", shape, self.rules.overscan_section)
        if overscan is None:
            return data, None
        if min(overscan.shape) < 2 or overscan == whole:
            self.doubt("SECTION", f"BIASSEC {overscan} is no overscan; ignored")
            return data, None
        if data == whole and (rest := beside(overscan, shape)) is not None:
            self.doubt("SECTION", f"no section says where the light fell; what BIASSEC {overscan} leaves is taken, {rest}")
            return rest, overscan
        inside = overscan.x0 < data.x1 and data.x0 < overscan.x1 and overscan.y0 < data.y1 and data.y0 < overscan.y1
        if inside:
            self.doubt("SECTION", f"BIASSEC {overscan} overlaps the data {data}; ignored")
            return data, None
        return data, overscan

    def section(self, key: str, shape: tuple[int, int], rule: str) -> Section | None:
        text = rule or self.text(key)
        if not text:
            return None
        try:
            return parse_section(text, shape)
        except ValueError as error:
            if rule:
                raise BadInput(f"SECTION: {error}", where=f"camera {self.camera.name}", remedy="Mend it", code="SECTION") from error
            self.doubt("SECTION", f"{key}: {error}; ignored")
            return None

    def start_ns(self) -> int | None:
        date = self.text("DATE-OBS", "DATE-BEG", "DATEOBS")
        if date and (old := re.fullmatch(r"(\d\d)/(\d\d)/(\d\d)", date)):
            # Before 2000 FITS wrote DD/MM/YY, and meant 19YY.
            date = f"19{old[3]}-{old[2]}-{old[1]}"
        time_of_day = self.text("TIME-OBS", "UT", "UTSTART", "UTC-OBS")
        if date and "T" not in date and time_of_day and ":" in time_of_day:
            date = f"{date}T{time_of_day}"
        if date:
            try:
                return parse_utc(date)
            except BadInput:
                self.doubt("DATE", f"DATE-OBS = {date!r} is not a time")
        mjd = self.number("MJD-OBS", "MJD")
        if mjd is not None:
            return round((mjd - 40587.0) * _DAY_NS)
        self.doubt("DATE", "the header does not say when")
        return None

    def night(self, start_ns: int | None) -> str:
        """NIGHT, else the local date at the noon before; without a longitude, noon is that of Greenwich."""
        if (night := self.text("NIGHT")) is not None:
            return night
        if start_ns is None:
            return ""
        shift_ns = round((self.longitude_deg or 0.0) / 360 * _DAY_NS) - _DAY_NS // 2
        return format_utc(start_ns + shift_ns)[:10]


def _kind_in(text: str, *, calibration_only: bool = False) -> str | None:
    """The kind that a word of `text` names: 'Bias_001', 'flatV', 'DARKS'; None when none does."""
    # 'flatV' and 'DarkBefore' are two words, 'NGC' is one.
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+", text)
    kinds = {"bias", "dark", "flat"} if calibration_only else {"bias", "dark", "flat", "light"}
    for word in map(str.lower, words):
        kind = _WORDS.get(word) or _WORDS.get(word.removesuffix("es")) or _WORDS.get(word.removesuffix("s"))
        if kind in kinds:
            return kind
    return None
