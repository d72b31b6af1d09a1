"""What is shown of an event: a line of the log, and the pictures it names. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import msgspec

from nightbell.contracts.events import (
    AlarmAcknowledged,
    AlarmRaised,
    AlertDrilled,
    AlertReceived,
    AlertRetracted,
    CalibrationBlocked,
    CalibrationDone,
    CalibrationFailed,
    Event,
    FramesArchived,
    FramesStored,
    ModuleLost,
    ModuleUp,
    NightChanged,
    ObservationDone,
    ObservationFailed,
    ObservationStarted,
    OperatorActed,
    PlanReady,
    SafetyChanged,
    TargetsDrilled,
    TargetsReady,
    TargetsWithdrawn,
    TransientsFound,
    WeatherChanged,
)
from nightbell.contracts.records import FrameRef

__all__ = ["LogRow", "Picture", "in_words", "pictures_of"]

LONGEST = 600


@dataclass(frozen=True, slots=True)
class LogRow:
    """One event in the log."""

    seq: int
    at_utc: str
    type: str
    subject: str
    text: str


@dataclass(frozen=True, slots=True)
class Picture:
    """A frame that can be looked at."""

    frame_id: str
    kind: str
    """raw or calibrated."""
    path: str
    sha256: str
    title: str


def pictures_of(event: Event) -> list[Picture]:
    """The last raw frame of `frames.stored`, the last calibrated one of `calibration.done`, and their like before them."""
    made: list[Picture] = []
    if isinstance(event, FramesStored):
        for frame in event.frames:
            title = _title(frame.frame_type.value, frame.object_name, frame.filter, f"{frame.exposure_s:g} s", frame.date_obs_utc)
            made.append(Picture(frame.frame_id, "raw", frame.path, frame.sha256, title))
    elif isinstance(event, CalibrationDone):
        for product in event.products:
            if product.frame_id is not None and product.frame_type.upper() == "LIGHT":
                title = _title(product.object_name, product.filter, f"{product.exposure_s:g} s", product.status)
                made.append(Picture(product.frame_id, "calibrated", product.path, product.sha256, title))
    return made


def _title(*words: str | None) -> str:
    return " ".join(word for word in words if word)


def in_words(event: Event) -> str:
    """An event as one line, without what its type, subject and time say beside it."""
    return _told(event)[:LONGEST]


def _told(event: Event) -> str:  # noqa: C901, PLR0912  (one row per type of event)
    match event:
        case AlertReceived(alert=alert) | AlertDrilled(alert=alert):
            return f"{alert.kind} {alert.superevent_id}: {event.decision}, by rule {event.rule!r}" + _because(event.reasons)
        case TargetsReady(targets=targets) | TargetsDrilled(targets=targets):
            return f"{_count(len(targets), 'target')}, revision {event.revision}: {', '.join(one.name for one in targets[:6])}"
        case AlertRetracted() | TargetsWithdrawn():
            return f"revision {event.revision}: {event.reason}"
        case PlanReady():
            return f"revision {event.revision}, {_count(len(event.items), 'item')}, {event.n_rejected} left out: {event.cause}"
        case NightChanged():
            return f"{event.previous.value} \u2192 {event.state.value}: {event.reason}"
        case ObservationStarted(item=item):
            return f"{item.name} in {item.filter}, {item.n_exposures} \u00d7 {item.exposure_s:g} s at {item.altitude_deg:.0f} deg"
        case ObservationDone():
            return _count(len(event.frame_ids), "frame")
        case ObservationFailed():
            return event.reason
        case FramesStored(frames=frames):
            return _frames(frames)
        case FramesArchived(frames=frames):
            return f"{_frames(frames)} on {event.host}"
        case CalibrationDone():
            masters = [f"master {one.kind} {one.filter or ''}".strip() for one in event.masters]
            names = sorted({one.object_name for one in event.products if one.object_name})
            lights = [_count(len(event.products), "frame") + (f" of {', '.join(names)}" if names else "")] if event.products else []
            return ", ".join((*masters, *lights)) or "nothing"
        case CalibrationBlocked(blocked=blocked):
            missing = sorted({what for one in blocked for what in one.missing})
            return f"{_count(len(blocked), 'frame')} waiting for {', '.join(missing)}"
        case CalibrationFailed(failed=failed):
            return "; ".join(f"{_name(one.source)}: {one.error}" for one in failed)
        case TransientsFound(candidates=candidates):
            found = "; ".join(f"{one.ra_deg:.5f} {one.dec_deg:+.5f}{_mag(one.mag)}, {one.snr:.0f} sigma" for one in candidates)
            return f"{event.object_name or event.target_id}: " + (f"NEW at {found}" if candidates else "nothing new")
        case WeatherChanged(evidence=evidence):
            bad = [one.reason or f"{one.source} {one.quantity}" for one in evidence if not one.safe]
            return "; ".join(dict.fromkeys(bad)) or "all good"
        case SafetyChanged():
            return f"{event.verdict.value}, dome {event.dome_shutter}" + _because(event.reasons)
        case AlarmRaised():
            return f"{event.severity.value}: {event.text}"
        case AlarmAcknowledged():
            return f"{event.key} taken by {event.by}"
        case OperatorActed():
            return f"{event.who}: {event.verb} to {event.module}: {event.answer}"
        case ModuleUp():
            return f"process {event.pid} on {event.host}"
        case ModuleLost():
            return event.reason
    return _fields(event)


def _fields(event: Event) -> str:
    """A type that somebody added: its plain fields, and the size of its lists."""
    parts = []
    for name in event.__struct_fields__:
        value = getattr(event, name)
        if isinstance(value, tuple | list | dict):
            parts.append(f"{len(value)} {name}")
        elif isinstance(value, msgspec.Struct):
            parts.append(name)
        elif value not in (None, "", False):
            parts.append(f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}")
    return ", ".join(parts)


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _because(reasons: tuple[str, ...]) -> str:
    return f": {'; '.join(reasons)}" if reasons else ""


def _mag(mag: float | None) -> str:
    return "" if mag is None else f", mag {mag:.1f}"


def _name(path: str) -> str:
    """The last part of a path of whichever system."""
    return path.replace("\\", "/").rsplit("/", 1)[-1]


def _frames(frames: tuple[FrameRef, ...]) -> str:
    kinds = Counter(_title(one.frame_type.value, one.object_name, one.filter) for one in frames)
    return ", ".join(f"{n} {kind}" for kind, n in kinds.items())
