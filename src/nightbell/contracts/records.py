"""What events are made of. Frozen msgspec Structs, tuples instead of lists, the unit is the last word of a name.

Unknown numbers are `None`, never NaN (msgspec writes NaN as null and refuses to read it back). A rule on a value stands in
`__post_init__`, which runs both when it is made and when it is decoded.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec

from nightbell.contracts.states import FrameType

__all__ = [
    "Alert",
    "BlockedFrame",
    "Candidate",
    "Evidence",
    "FailedFrame",
    "FileRef",
    "FrameRef",
    "MasterRef",
    "PlanItem",
    "ProductRef",
    "Record",
    "Site",
    "Target",
]


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all records: immutable, keyword only, unknown fields of newer writers are ignored."""


def _check_range(name: str, value: float | None, low: float, high: float) -> None:
    if value is not None and not (math.isfinite(value) and low <= value <= high):
        raise ValueError(f"{name}: {value} is outside {low:g} to {high:g}")


class Site(Record, frozen=True, kw_only=True):
    """Where an observatory stands. Longitude east positive; heights above the WGS84 ellipsoid."""

    name: str
    latitude_deg: float
    longitude_deg: float
    elevation_m: float = 0.0

    def __post_init__(self) -> None:
        _check_range("latitude_deg", self.latitude_deg, -90, 90)
        _check_range("longitude_deg", self.longitude_deg, -180, 360)
        _check_range("elevation_m", self.elevation_m, -500, 9000)


class FileRef(Record, frozen=True, kw_only=True):
    """A file too large for an event: where it was written and what its bytes must hash to."""

    path: str
    sha256: str
    size_bytes: int
    host: str = ""


class Alert(Record, frozen=True, kw_only=True):
    """One notice, whatever its transport, as one record. Facts only; the decision about it is not in here."""

    superevent_id: str
    kind: str
    """early_warning, preliminary, initial, update, retraction, or the notice's own word in lower case."""
    revision: int = 1
    """Our counter of its versions."""
    mission: str = "LVK"
    drill: bool
    """True for anything not from the sky; decided by three witnesses (alerts/notices.py)."""
    created_utc: str
    time_utc: str | None = None
    """When it happened, to the millisecond; None in retractions."""
    significant: bool | None = None
    far_hz: float | None = None
    instruments: tuple[str, ...] = ()
    group: str | None = None
    pipeline: str | None = None
    search: str | None = None
    classification: dict[str, float] = {}
    properties: dict[str, float] = {}
    skymap_sha256: str | None = None
    """Digest of the decoded table, not of the file: None when the notice carries no map inside."""
    skymap_url: str | None = None
    external: dict[str, Any] | None = None
    """The external coincidence as it stands in the notice."""
    urls: dict[str, str] = {}


class Target(Record, frozen=True, kw_only=True):
    """A galaxy (or field) one observatory should look at, with why."""

    target_id: str
    name: str
    ra_deg: float
    dec_deg: float
    rank: int
    p_host: float | None = None
    dist_mpc: float | None = None
    credible_level_2d: float | None = None
    credible_level_3d: float | None = None
    visibility: float | None = None
    """Share of a visit that fits into the coming night, 0 to 1."""
    observable_from_utc: str | None = None
    observable_until_utc: str | None = None
    priority: float = 1.0
    """Multiplies the value in planning; 1 is ordinary."""
    exposure_s: float | None = None
    n_exposures: int | None = None
    filters: tuple[str, ...] = ()
    why: str = ""

    def __post_init__(self) -> None:
        _check_range("ra_deg", self.ra_deg, 0, 360)
        _check_range("dec_deg", self.dec_deg, -90, 90)
        _check_range("p_host", self.p_host, 0, 1)


class PlanItem(Record, frozen=True, kw_only=True):
    """One line of a plan: a target in one filter, n exposures, from start to end."""

    item_id: str
    target_id: str
    name: str
    ra_deg: float
    dec_deg: float
    filter: str
    exposure_s: float
    n_exposures: int
    start_utc: str
    end_utc: str
    value: float
    altitude_deg: float
    airmass: float | None = None
    moon_separation_deg: float | None = None
    superevent_id: str | None = None
    reason: str = ""


class FrameRef(Record, frozen=True, kw_only=True):
    """A raw frame on disk."""

    frame_id: str
    path: str
    sha256: str
    size_bytes: int
    frame_type: FrameType
    camera: str
    filter: str | None = None
    exposure_s: float
    date_obs_utc: str
    target_id: str | None = None
    object_name: str | None = None
    superevent_id: str | None = None
    host: str = ""


class MasterRef(Record, frozen=True, kw_only=True):
    """A master calibration frame; `product_id` is a hash of its inputs and parameters."""

    product_id: str
    path: str
    sha256: str
    kind: str
    """bias, dark, flat."""
    filter: str | None = None
    exposure_s: float | None = None
    n_frames: int
    status: str = "good"
    """good, or the gates it failed, comma-separated."""


class ProductRef(Record, frozen=True, kw_only=True):
    """A calibrated frame with its history."""

    product_id: str
    path: str
    sha256: str
    source: str
    """Path of the raw frame."""
    source_sha256: str
    frame_id: str | None = None
    frame_type: str
    filter: str | None = None
    exposure_s: float
    target_id: str | None = None
    object_name: str | None = None
    superevent_id: str | None = None
    masters: dict[str, str | None]
    """bias, dark, flat -> product_id or None."""
    median: float
    noise: float
    status: str = "done"


class BlockedFrame(Record, frozen=True, kw_only=True):
    """A frame that waits: what is missing, in words and as data."""

    source: str
    source_sha256: str
    missing: tuple[str, ...]
    """For instance "flat r" or "dark 120 s at -20 C (nearest: 60 s, last night)"."""


class FailedFrame(Record, frozen=True, kw_only=True):
    """A frame that is broken: nothing will make it calibrate."""

    source: str
    error: str
    remedy: str


class Candidate(Record, frozen=True, kw_only=True):
    """Something new on a difference image, with its host association."""

    candidate_id: str
    ra_deg: float
    dec_deg: float
    x_px: float
    y_px: float
    snr: float
    mag: float | None = None
    fwhm_px: float | None = None
    elongation: float | None = None
    host: str | None = None
    host_separation_arcsec: float | None = None
    vetoes: tuple[str, ...] = ()
    """Named reasons to drop it; empty: it survived."""
    cutout: str | None = None
    """Path of a PNG: science, reference, difference."""


class Evidence(Record, frozen=True, kw_only=True):
    """One safety input as it stands now."""

    source: str
    quantity: str
    value: float | bool | str | None
    unit: str = ""
    age_s: float | None
    limit_s: float
    safe: bool
    reason: str = ""
