"""How things move: closed forms of time, so that the world needs no stepping and is exact at any rate of the clock."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["Motion", "difference_deg", "rest"]


@dataclass(frozen=True)
class Motion:
    """From `start` to `goal` by a trapezoid of speed, beginning at `begin_s` (seconds of the world)."""

    start: float
    goal: float
    begin_s: float
    speed: float
    acceleration: float = math.inf

    @property
    def _ramp_s(self) -> float:
        """Seconds of speeding up; shorter when full speed is never reached."""
        if math.isinf(self.acceleration):
            return 0.0
        return min(self.speed / self.acceleration, math.sqrt(abs(self.goal - self.start) / self.acceleration))

    @property
    def duration_s(self) -> float:
        way = abs(self.goal - self.start)
        if way == 0:
            return 0.0
        ramp = self._ramp_s
        if ramp == 0.0:
            return way / self.speed
        top = self.acceleration * ramp
        return 2 * ramp + (way - top * ramp) / top

    @property
    def end_s(self) -> float:
        return self.begin_s + self.duration_s

    def at(self, t_s: float) -> float:
        """Where it is at `t_s`."""
        elapsed, total = t_s - self.begin_s, self.duration_s
        if elapsed <= 0:
            return self.start
        if elapsed >= total:
            return self.goal
        way = abs(self.goal - self.start)
        ramp = self._ramp_s
        if ramp == 0.0:
            done = self.speed * elapsed
        elif elapsed < ramp:
            done = 0.5 * self.acceleration * elapsed**2
        elif elapsed > total - ramp:
            done = way - 0.5 * self.acceleration * (total - elapsed) ** 2
        else:
            done = self.acceleration * ramp * (elapsed - 0.5 * ramp)
        return self.start + math.copysign(done, self.goal - self.start)


def rest(position: float) -> Motion:
    """No motion at all."""
    return Motion(position, position, 0.0, 1.0)


def difference_deg(to_deg: float, from_deg: float) -> float:
    """The short way round, -180 to 180."""
    return (to_deg - from_deg + 540.0) % 360.0 - 180.0
