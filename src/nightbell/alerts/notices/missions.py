"""JSON notices of the GCN schema (core 7.2): Fermi, Swift, Einstein Probe, SVOM, IceCube, KM3NeT, MAXI, CHIME, Super-Kamiokande.

What each states about its error radius differs; here it becomes one 90 % radius, or none with the reason.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any

from nightbell.alerts.notices.guards import decode_base64, shown
from nightbell.alerts.notices.notice import (
    LONGEST_ID,
    Cone,
    Notice,
    facts,
    instant,
    number,
    probabilities,
    superevent_of,
    witnesses_of,
)
from nightbell.contracts.errors import BadInput
from nightbell.contracts.records import Alert

__all__ = ["cone_of", "from_mission", "radius_at"]

_DRILL_TENSES = {"test", "injection"}
# Systematic part of GBM's position error: two Gaussians (share, sigma in deg). GCN Circular 25726, arXiv:1909.03006.
_GBM_SYSTEMATIC = {
    "": ((0.52, 1.8), (0.48, 4.1)),
    "LONG": ((0.58, 1.9), (0.42, 4.1)),
    "SHORT": ((0.39, 2.6), (0.61, 4.4)),
}
_FLOOR_DEG = {"swift": 0.05, "einstein probe": 0.05}
"""Smallest 90 % radius we believe, by mission."""
FLOOR_DEG = 1 / 3600
"""Of the others."""
STATED_MIN = 1e-3
"""Nobody states the radius that holds less, or more than 1 minus this: it would say nothing about the 90 % radius."""


def radius_at(radius_deg: float, stated: float, wanted: float = 0.9) -> float:
    """A containment radius of a two-dimensional Gaussian at another probability: r = sigma sqrt(2 ln(1/(1 - p)))."""
    return radius_deg * math.sqrt(math.log(1 - wanted) / math.log(1 - stated))


def cone_of(
    ra_deg: float,
    dec_deg: float,
    radius_deg: float,
    stated: float,
    *,
    mission: str,
    instrument: str,
    where: str,
    warnings: list[str],
    systematic_included: bool = False,
    duration_class: str = "",
) -> Cone | None:
    """The position as a mixture of Gaussians with its 90 % radius; None, with a warning, when no radius is stated."""
    if not (math.isfinite(ra_deg) and abs(dec_deg) <= 90):
        raise BadInput(f"{ra_deg}, {dec_deg} is no position", where=f"{where}: position", remedy="Ask the sender")
    if not STATED_MIN <= stated <= 1 - STATED_MIN:
        raise BadInput(f"{stated} is no probability", where=f"{where}: containment_probability", remedy="Ask the sender")
    if not 0 < radius_deg <= 180:
        warnings.append(f"{where}: the error radius is {radius_deg:g} deg: no region can be made of it")
        return None
    if mission.lower() == "svom" and instrument.upper() == "GRM":
        warnings.append(f"{where}: GRM does not localise: no region is made of its position")
        return None
    sigma = radius_deg / math.sqrt(-2 * math.log(1 - stated))
    if mission.lower() == "fermi" and "gbm" in instrument.lower() and not systematic_included:
        parts = _GBM_SYSTEMATIC.get(duration_class.upper(), _GBM_SYSTEMATIC[""])
        sigmas = tuple((share, math.hypot(sigma, more)) for share, more in parts)
    elif mission.lower() == "gecam":
        sigmas = ((1.0, math.hypot(sigma, 3.0 / math.sqrt(2 * math.log(10)))),)
    else:
        floor = _FLOOR_DEG.get(mission.lower(), FLOOR_DEG) / math.sqrt(2 * math.log(10))
        sigmas = ((1.0, max(sigma, floor)),)
    return Cone(ra_deg % 360.0, dec_deg, _radius_90(sigmas), sigmas)


def _radius_90(sigmas: tuple[tuple[float, float], ...]) -> float:
    low, high = 0.0, 10 * max(sigma for _, sigma in sigmas)
    for _ in range(60):
        middle = 0.5 * (low + high)
        inside = sum(share * -math.expm1(-0.5 * (middle / sigma) ** 2) for share, sigma in sigmas)
        low, high = (middle, high) if inside < 0.9 else (low, middle)
    return 0.5 * (low + high)


def from_mission(record: dict[str, Any], *, raw: bytes, where: str) -> Notice:
    """The notice of one decoded record of the GCN schema."""
    schema = facts(where, record.get("$schema"), "$schema", needed=True)
    parts = schema.partition("gcn/notices/")[2].split("/")
    mission = facts(where, record.get("mission"), "mission") or (parts[0].replace("_", " ").title() if parts[0] else "unknown")
    instrument = facts(where, record.get("instrument"), "instrument") or ""
    tense = facts(where, record.get("alert_tense"), "alert_tense")
    witnesses = witnesses_of("", role=_role(tense), search=None, lvk=False)
    # Some missions state no time of the notice itself; then it is not earlier than its trigger.
    when = "alert_datetime" if record.get("alert_datetime") is not None else "trigger_time"
    created = instant(where, facts(where, record.get(when), when, needed=True), when)
    assert created is not None
    name = (
        _first(record.get("id")) or _first(record.get("ref_ID")) or _first(record.get("event_name")) or hashlib.sha256(raw).hexdigest()[:12]
    )
    warnings: list[str] = []
    skymap = None
    if record.get("healpix_file") is not None:
        try:
            skymap = decode_base64(facts(where, record["healpix_file"], "healpix_file"), where=f"{where}: healpix_file")
        except BadInput as error:
            warnings.append(str(error))
    alert = Alert(
        superevent_id=superevent_of(where, f"{mission}-{name}"[:LONGEST_ID], "id"),
        kind=(facts(where, record.get("alert_type"), "alert_type") or "initial").lower(),
        mission=mission,
        drill=witnesses.drill,
        created_utc=created,
        time_utc=instant(where, record.get("trigger_time"), "trigger_time"),
        far_hz=number(where, record.get("far"), "far", low=0),
        instruments=(instrument,) if instrument else (),
        pipeline=facts(where, record.get("pipeline"), "pipeline"),
        classification=probabilities(where, record.get("classification"), "classification"),
        skymap_url=facts(where, record.get("healpix_url"), "healpix_url"),
    )
    return Notice(
        alert=alert,
        transport="gcn-json",
        witnesses=witnesses,
        sha256=hashlib.sha256(raw).hexdigest(),
        serial=_serial(record.get("record_number")),
        skymap=skymap,
        cone=_cone(record, mission, instrument, where, warnings),
        warnings=tuple(warnings),
    )


def _serial(value: Any) -> int | None:
    # True is an int to Python, and would be stored as a truth in the robot's state, which then could not be read again.
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 31 else None


def _role(tense: str | None) -> str | None:
    if tense is None:
        return None
    return tense if tense in _DRILL_TENSES else "observation"


def _first(value: Any) -> str | None:
    if isinstance(value, list):
        value = value[0] if value else None
    return None if value is None or isinstance(value, dict | list) else str(value)[:64]


def _cone(record: dict[str, Any], mission: str, instrument: str, where: str, warnings: list[str]) -> Cone | None:
    ra, dec = number(where, record.get("ra"), "ra", low=-360, high=720), number(where, record.get("dec"), "dec", low=-90, high=90)
    error = record.get("ra_dec_error")
    if ra is None or dec is None:
        return None
    if error is None:
        warnings.append(f"{where}: ra_dec_error is absent: no region can be made of the position")
        return None
    if isinstance(error, list):
        if not error:
            raise BadInput(f"{shown(error)} is no ellipse", where=f"{where}: ra_dec_error", remedy="Ask the sender")
        error = error[0]  # the ellipse's circumscribed circle
    radius = number(where, error, "ra_dec_error", low=0, high=360)
    stated = number(where, record.get("containment_probability"), "containment_probability", low=0, high=1)
    assert radius is not None
    return cone_of(
        ra,
        dec,
        radius,
        0.9 if stated is None else stated,
        mission=mission,
        instrument=instrument,
        where=where,
        warnings=warnings,
        systematic_included=record.get("systematic_included") is True,
        duration_class=str(record.get("duration_class") or ""),
    )
