"""Which camera took a frame, and how its headers are to be read: one TOML file per camera, shipped ones and your own.

A camera without a file is read by the common spellings (intake.py); what is then taken for granted is reported.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from nightbell.contracts.errors import BadInput, NoSuchInput
from nightbell.contracts.ids import safe_name
from nightbell.settings import read_settings, setting

__all__ = ["SHIPPED", "Camera", "CameraSettings", "choose_camera", "load_cameras"]

SHIPPED = Path(__file__).resolve().parents[1] / "data" / "cameras"


@dataclass(frozen=True, kw_only=True)
class CameraSettings:
    """cameras/NAME.toml: how one camera's headers are read, and what its frames need."""

    match: dict[str, str] = setting({}, doc="Header keyword -> regular expression that its whole value must fit; all must hold")
    kind_key: str = setting("", doc="Keyword of the frame type; empty: the common spellings")
    kinds: dict[str, str] = setting({}, doc="The camera's word -> bias, dark, flat, light or other")
    folders: dict[str, str] = setting({}, doc="Folder name -> kind, for headers that say nothing")
    names: str = setting("", doc="Regular expression on the file name with groups kind, exptime, filter, for headers that say nothing")
    filter_key: str = setting("", doc="Keyword of the filter; empty: the common spellings")
    filters: dict[str, str] = setting({}, doc="The camera's filter name -> ours")
    exposure_key: str = setting("", doc="Keyword of the exposure time in seconds; empty: the common spellings")
    gain_key: str = setting("", doc="Keyword of the gain in electrons per count")
    gain_e_per_adu: float | None = setting(None, unit="e/adu", low=0.001, high=1000, doc="Gain, where the header does not say it")
    read_noise_key: str = setting("", doc="Keyword of the read noise in electrons")
    read_noise_e: float | None = setting(None, unit="e", low=0, high=10000, doc="Read noise, where neither header nor a bias pair say it")
    saturation_adu: float | None = setting(None, unit="adu", low=1, high=4e9, doc="Counts from which a raw pixel is saturated")
    ignore_keys: tuple[str, ...] = setting((), doc="Keywords of this camera that are wrong and must not be read")
    data_section: str = setting("", doc="[x1:x2,y1:y2] with light, 1-based inclusive; * for the whole frame; empty: header")
    overscan_section: str = setting("", doc="[x1:x2,y1:y2] of the overscan, 1-based inclusive; empty: header")
    object_fix: dict[str, str] = setting({}, doc="Misspelt OBJECT -> right one")
    needs: tuple[str, ...] = setting(("bias", "flat"), doc="Masters without which a light waits; a dark is used whenever there is one")
    scale_darks: bool = setting(True, doc="A dark of another exposure may be scaled (never one that still holds the bias)")
    max_dark_scale: float = setting(4.0, low=1, high=1000, doc="Largest factor by which a dark is scaled up")
    dark_max_temperature_k: float = setting(2.0, unit="K", low=0, high=100, doc="Largest temperature difference between dark and frame")
    bias_max_age_d: float = setting(90.0, unit="d", low=0, high=36500, doc="Largest time between bias or dark and frame")
    flat_max_age_d: float = setting(30.0, unit="d", low=0, high=36500, doc="Largest time between flat and frame")
    flat_low: float = setting(0.02, low=0, high=1, doc="A flat below this share of saturation is refused; below 0.1 it is flagged")
    flat_high: float = setting(0.85, low=0, high=1, doc="A flat above this share of saturation is refused; above 0.75 it is flagged")


@dataclass(frozen=True)
class Camera:
    """A camera by name. `mapped` is false for one that is read by the common spellings alone."""

    name: str
    settings: CameraSettings
    mapped: bool = True


def load_cameras(folders: Iterable[Path] = ()) -> dict[str, Camera]:
    """Shipped cameras, then those of `folders` (which replace shipped ones of the same name). Raises `BadInput`."""
    cameras = dict(_read_folder(SHIPPED))
    for folder in folders:
        if not folder.is_dir():
            raise NoSuchInput("there is no such folder of cameras", where=str(folder), remedy="Give a folder of NAME.toml files")
        cameras.update(_read_folder(folder))
    return cameras


@cache
def _read_folder(folder: Path) -> dict[str, Camera]:
    return {path.stem: _read_camera(path) for path in sorted(folder.glob("*.toml"))}


def _read_camera(path: Path) -> Camera:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(str(error), where=str(path), remedy="Mend the TOML") from error
    settings = read_settings(table, CameraSettings, where=str(path))
    for key, pattern in {**settings.match, "names": settings.names}.items():
        try:
            re.compile(pattern)
        except re.error as error:
            raise BadInput(f"{pattern!r} is no regular expression: {error}", where=f"{path}: {key}", remedy="Mend it") from error
    return Camera(path.stem, settings)


def choose_camera(header: Mapping[str, object], cameras: Mapping[str, Camera], name: str | None = None) -> Camera:
    """The camera that took a frame with `header`: the one named, else the one whose `match` holds, else one by its INSTRUME."""
    if name is not None:
        if name not in cameras:
            raise BadInput(f"there is no camera {name!r}", where="--camera", remedy=f"Known: {', '.join(sorted(cameras))}")
        return cameras[name]
    fitting = [camera for camera in cameras.values() if camera.settings.match and _fits(header, camera.settings.match)]
    if fitting:
        # The one that demands most is the most particular.
        return max(fitting, key=lambda camera: (len(camera.settings.match), camera.name))
    words = [
        str(header[key]).strip() for key in ("CAMERAID", "INSTRUME", "CAMERA", "DETECTOR", "CCDNAME") if str(header.get(key, "")).strip()
    ]
    return Camera(safe_name(words[0], longest=32) if words else "unnamed", CameraSettings(), mapped=False)


def _fits(header: Mapping[str, object], match: Mapping[str, str]) -> bool:
    return all(re.fullmatch(pattern, str(header.get(key, "")).strip()) for key, pattern in match.items())
