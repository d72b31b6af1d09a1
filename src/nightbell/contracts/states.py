"""Closed sets of states. Adjectives and participles; their tables live where they are decided."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["AlertState", "CommandClass", "FrameType", "NightState", "Severity", "Verdict"]


class NightState(StrEnum):
    """State of the night at one telescope (table: telescope/night_table.py)."""

    DAY = "day"
    PREPARING = "preparing"
    READY = "ready"
    OPENING = "opening"
    TWILIGHT = "twilight"
    OBSERVING = "observing"
    IDLE_OPEN = "idle_open"
    SHELTERING = "sheltering"
    PAUSED = "paused"
    CLOSING = "closing"
    CLOSED = "closed"
    STUCK = "stuck"
    FAULT = "fault"
    MANUAL = "manual"
    STOPPING = "stopping"


class Verdict(StrEnum):
    """Safety's answer. There is no third value: unknown is unsafe."""

    SAFE = "safe"
    UNSAFE = "unsafe"


class AlertState(StrEnum):
    """Life of a superevent (table: alerts/lifecycle.py)."""

    NEW = "new"
    WATCHED = "watched"
    ACTIVE = "active"
    RETRACTED = "retracted"
    EXPIRED = "expired"


class FrameType(StrEnum):
    """IMAGETYP of our frames, upper case as in the header."""

    BIAS = "BIAS"
    DARK = "DARK"
    FLAT = "FLAT"
    LIGHT = "LIGHT"
    FOCUS = "FOCUS"
    ACQ = "ACQ"
    TEST = "TEST"


class Severity(StrEnum):
    """How loud an alarm is."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


class CommandClass(StrEnum):
    """What repeating a command does."""

    QUERY = "query"
    IDEMPOTENT = "idempotent"
    ONCE = "once"
