"""What goes wrong on command: {device, member, kind, from, to}, posted on the loopback side channel.

    hang         no answer, ever                  slow         the answer comes `value` real seconds late (default 2)
    error        ErrorNumber `value` (0x500)      wrong        reads answer `value`
    frozen       reads repeat what they said      lying        commands answer OK and do nothing
    reset        the connection is cut            half_answer  half of the answer, then the connection is cut
    power_off    every connection is cut          driver_restart  once: Connected is false, all is forgotten
    stuck        dome: the motor of member `shutter` or `azimuth` does not turn;  camera: state 5 once

`device` is an Alpaca type ("dome"), `member` any member's name, lower case, or "*".
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from nightbell.contracts.errors import BadInput

__all__ = ["KINDS", "Fault", "Faults"]

KINDS = ("hang", "slow", "error", "wrong", "frozen", "lying", "reset", "half_answer", "power_off", "driver_restart", "stuck")


@dataclass
class Fault:
    """One fault, active from `from_s` to `to_s` of the world."""

    device: str
    member: str
    kind: str
    from_s: float
    to_s: float
    value: Any = None
    held: dict[str, Any] = field(default_factory=dict)
    """What a frozen member said first."""
    applied: bool = False

    def touches(self, device: str, member: str) -> bool:
        return self.device in (device, "*") and self.member in (member, "*")

    def is_active(self, t_s: float) -> bool:
        return self.from_s <= t_s < self.to_s


class Faults:
    """The faults that were posted."""

    def __init__(self) -> None:
        self._all: list[Fault] = []

    def post(self, wish: dict[str, Any], *, now_s: float) -> Fault:
        """Add one; `from_s` and `to_s` count from now (default: at once, for ever). Raises `BadInput`."""
        kind = str(wish.get("kind", ""))
        if kind not in KINDS:
            raise BadInput(f"there is no fault {kind!r}", where="kind", remedy=f"Use one of {', '.join(KINDS)}")
        unknown = set(wish) - {"device", "member", "kind", "from_s", "to_s", "value"}
        if unknown:
            raise BadInput(f"unknown field {min(unknown)!r}", where="fault", remedy="Use device, member, kind, from_s, to_s, value")
        fault = Fault(
            device=str(wish.get("device", "*")).lower(),
            member=str(wish.get("member", "*")).lower(),
            kind=kind,
            from_s=now_s + float(wish.get("from_s", 0.0)),
            to_s=now_s + float(wish.get("to_s", math.inf)),
            value=wish.get("value"),
        )
        self._all.append(fault)
        return fault

    def clear(self, device: str = "*") -> int:
        """End all faults of a device, or of all; returns how many."""
        gone = [fault for fault in self._all if device in ("*", fault.device)]
        self._all = [fault for fault in self._all if fault not in gone]
        return len(gone)

    def of(self, device: str, member: str, t_s: float) -> list[Fault]:
        """What is wrong with a member now."""
        return [fault for fault in self._all if fault.is_active(t_s) and fault.touches(device, member)]

    def active(self, kind: str, t_s: float) -> list[Fault]:
        """All active faults of a kind."""
        return [fault for fault in self._all if fault.kind == kind and fault.is_active(t_s)]
