"""What each source said, stamped with when its sensor measured it.

All stamps are nanoseconds of this host's monotonic clock: a step of the wall clock makes nothing fresh. An old value that is
sent again keeps its old stamp, for the stamp is the sensor's own (its "time since last update"), not the messenger's.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

__all__ = ["Book", "Kind", "Lease", "Reading", "Report", "Seen", "World", "absorb"]

Kind = Literal["weather", "monitor", "dome"]
Value = float | bool | str | None

FROZEN_TOGETHER = ("temperature_degc", "humidity_percent", "pressure_hpa")
"""A gauge of rain at 0 for months is honest; these three never repeat bit by bit together for long."""
AVERAGED = "wind_speed_m_per_s"


@dataclass(frozen=True, slots=True)
class Reading:
    """One value of one sensor. None: the source has no such value now."""

    value: Value
    stamped_ns: int


@dataclass(frozen=True, slots=True)
class Report:
    """What one question to one source gave: readings, or the source's own error (`fault`), or silence (`lost`)."""

    source: str
    kind: Kind
    asked_ns: int
    readings: Mapping[str, Reading] = field(default_factory=dict)
    fault: str = ""
    lost: str = ""


@dataclass(frozen=True, slots=True)
class Seen:
    """All that is known of one source."""

    source: str
    kind: Kind
    readings: Mapping[str, Reading] = field(default_factory=dict)
    answered_ns: int | None = None
    """When it was last asked with success."""
    fault: str = ""
    lost: str = ""
    same_since_ns: int | None = None
    same_n: int = 0
    """How long, and in how many readings, temperature, humidity and pressure have not changed by one bit."""
    averaged: tuple[Reading, ...] = ()
    """Wind speeds of the last while, one per measurement of the sensor."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to keep the dome open: renewed only by progress that grew."""

    holder: str
    progress: int
    renewed_ns: int


@dataclass(frozen=True, slots=True)
class World:
    """Everything the verdict is made of, at one instant. What is expected and absent from `sources` is unsafe."""

    sources: Mapping[str, Seen]
    lease: Lease | None = None
    sun_altitude_deg: float | None = None
    """By the more daytime of two clocks."""
    clock_jump_s: float = 0.0
    """Largest disagreement of wall and monotonic clock since the last decision."""
    broker_lost_ns: int | None = None
    """Since when the broker is away; None: it is there, or nobody told us of one."""
    free_bytes: int | None = None
    close_asked: str = ""
    """Why a human or the telescope wants it closed; empty: nobody does."""


def absorb(seen: Seen, report: Report, *, keep_ns: int) -> Seen:
    """`seen` after `report`. Silence changes no value: what is known gets older. An answered error stays until a good answer.

    `keep_ns`: how far back wind speeds are kept.
    """
    if report.lost:
        return replace(seen, lost=report.lost)
    if report.fault:
        return replace(seen, fault=report.fault, lost="", answered_ns=report.asked_ns)
    same = _bits(report.readings) is not None and _bits(report.readings) == _bits(seen.readings)
    averaged = seen.averaged
    wind = report.readings.get(AVERAGED)
    if wind is not None and (not averaged or wind.stamped_ns > averaged[-1].stamped_ns):
        averaged = (*(one for one in averaged if one.stamped_ns >= wind.stamped_ns - keep_ns), wind)
    return Seen(
        source=seen.source,
        kind=seen.kind,
        readings=dict(report.readings),
        answered_ns=report.asked_ns,
        same_since_ns=seen.same_since_ns if same else report.asked_ns,
        same_n=seen.same_n + 1 if same else 1,
        averaged=averaged,
    )


def _bits(readings: Mapping[str, Reading]) -> tuple[Value, ...] | None:
    values = tuple(readings[name].value if name in readings else None for name in FROZEN_TOGETHER)
    return None if all(value is None for value in values) else values


class Book:
    """Where the threads of the sources post and the decision loop reads. Nothing in here waits for anything."""

    def __init__(self, expected: Mapping[str, Kind], *, keep_ns: int) -> None:
        self._lock = threading.Lock()
        self._keep_ns = keep_ns
        self._expected = dict(expected)
        self._seen = self._nothing()

    def _nothing(self) -> dict[str, Seen]:
        return {source: Seen(source=source, kind=kind) for source, kind in self._expected.items()}

    def post(self, report: Report) -> None:
        """Only configured sources are heard: good news from a stranger changes nothing."""
        with self._lock:
            if report.source in self._seen:
                self._seen[report.source] = absorb(self._seen[report.source], report, keep_ns=self._keep_ns)

    def forget(self) -> None:
        """Nothing of what was known holds any more: this host was asleep, and its monotonic clock with it."""
        with self._lock:
            self._seen = self._nothing()

    def sources(self) -> dict[str, Seen]:
        """What is known now; a copy of its own."""
        with self._lock:
            return dict(self._seen)
