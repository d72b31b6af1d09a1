"""The world's time: t = t0 + rate x (monotonic - m0). This process owns it; everybody else asks at /sim/clock.

The monotonic clock is one for all processes of a host, so a reader computes the time from (t0, m0, rate), and asks again only to hear
of a change.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from nightbell.contracts.errors import Refused

__all__ = ["HIGHEST_RATE", "WorldTime"]

HIGHEST_RATE = 120.0


@dataclass
class WorldTime:
    """Owner of the time. `began_ns` is when the world began; seconds of the world count from there."""

    began_ns: int
    rate: float
    monotonic_ns: Callable[[], int] = time.monotonic_ns
    t0_ns: int = field(init=False)
    m0_ns: int = field(init=False)

    def __post_init__(self) -> None:
        self.t0_ns, self.m0_ns = self.began_ns, self.monotonic_ns()

    def now_ns(self) -> int:
        """UTC of the world."""
        return self.t0_ns + round(self.rate * (self.monotonic_ns() - self.m0_ns))

    def now_s(self) -> float:
        """Seconds of the world since it began."""
        return (self.now_ns() - self.began_ns) / 1e9

    def at_ns(self, t_s: float) -> int:
        """UTC of a second of the world."""
        return self.began_ns + round(t_s * 1e9)

    def set_rate(self, rate: float) -> None:
        """Go on from now at another rate. Readers hear of it within a second, and use the old numbers until then: for set-up and tests."""
        if not 0 < rate <= HIGHEST_RATE:
            raise Refused(f"rate {rate:g}", where="/sim/rate", remedy=f"Give more than 0 and at most {HIGHEST_RATE:g}")
        self.t0_ns, self.m0_ns, self.rate = self.now_ns(), self.monotonic_ns(), rate

    def jump(self, seconds: float) -> None:
        """Go forward, never back. Allowed by the caller only in day or with everything closed."""
        if seconds < 0:
            raise Refused("time does not run back", where="/sim/jump", remedy="Give seconds >= 0")
        self.t0_ns, self.m0_ns = self.now_ns() + round(seconds * 1e9), self.monotonic_ns()

    def as_dict(self) -> dict[str, object]:
        """What /sim/clock answers; nanoseconds as text, for they exceed 2^53."""
        return {"t0_ns": str(self.t0_ns), "m0_ns": str(self.m0_ns), "rate": self.rate}
