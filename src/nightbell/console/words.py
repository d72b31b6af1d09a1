"""What is shown of an event: a line of the log, and the pictures it names. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from nightbell.contracts.events import CalibrationDone, Event, FramesStored

__all__ = ["LogRow", "Picture", "in_words", "pictures_of"]


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
    """An event as one line: its plain fields, the size of its lists."""
    parts = []
    for name in event.__struct_fields__:
        value = getattr(event, name)
        if isinstance(value, tuple | list | dict):
            if value and all(isinstance(one, str) for one in value) and not isinstance(value, dict):
                parts.append(f"{name}: {'; '.join(value)}")
            elif value:
                parts.append(f"{len(value)} {name}")
        elif isinstance(value, msgspec.Struct):
            title = getattr(value, "name", None) or getattr(value, "superevent_id", None)
            parts.append(f"{name} {title}" if title else name)
        elif value not in (None, "", False):
            parts.append(f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}")
    return ", ".join(parts)[:600]
