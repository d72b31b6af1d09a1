"""What the night asks of the outside, and what it counts there: stored frames, the plan, safety's GO and lease, events, alarms."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Protocol

from nightbell.contracts.events import Event
from nightbell.contracts.frames import new_frame_id
from nightbell.contracts.records import FrameRef, PlanItem
from nightbell.contracts.states import FrameType, NightState

__all__ = ["Batch", "CountKey", "Counts", "Office"]

CountKey = tuple[FrameType, str | None, float | None, str | None]


@dataclass(frozen=True)
class Counts:
    """Stored frames of one night, grouped."""

    rows: dict[CountKey, int]

    def of(
        self, frame_type: FrameType, *, filter_name: str | None = None, exposure_s: float | None = None, target_id: str | None = None
    ) -> int:
        """How many; an argument left out counts all."""
        return sum(
            n
            for (kind, name, exposure, target), n in self.rows.items()
            if kind is frame_type
            and (filter_name is None or name == filter_name)
            and (exposure_s is None or (exposure is not None and abs(exposure - exposure_s) < 1e-3))
            and (target_id is None or target == target_id)
        )


@dataclass(kw_only=True)
class Batch:
    """Frames that are announced together; each is on disk as soon as it can be."""

    night: str
    batch_id: str = field(default_factory=new_frame_id)
    frames: list[FrameRef] = field(default_factory=list)
    writing: list[asyncio.Task[None]] = field(default_factory=list)
    keys: list[CountKey] = field(default_factory=list)


class Office(Protocol):
    """What the night needs from outside: safety, plan, journal of frames, events. Blocking; called in worker threads."""

    def check_go(self) -> str:
        """A fresh GO of safety, in words; raises `Refused` with safety's reasons, `Missing` when it does not answer."""
        ...

    def take_lease(self) -> None: ...
    def give_back_lease(self) -> None: ...
    def close_by_safety(self, reason: str) -> None: ...
    def items(self) -> tuple[PlanItem, ...]: ...
    def targets_are_known(self) -> bool: ...
    def light_exposures_s(self) -> tuple[float, ...]: ...
    def plan_again(self, cause: str) -> None: ...
    def counts(self, night: str) -> Counts: ...
    def next_number(self, night: str) -> int: ...
    def say(self, event: Event, subject: str) -> None: ...
    def store(self, batch: Batch, frames: tuple[FrameRef, ...], done: tuple[Event, str] | None) -> None: ...
    def alarm(self, key: str, text: str, *, critical: bool) -> None: ...
    def is_acknowledged(self, state: NightState, since_ns: int) -> bool: ...
    def is_wanted(self, what: str) -> bool:
        """Whether a human has asked for `open` or holds the night (`hold`)."""
        ...
