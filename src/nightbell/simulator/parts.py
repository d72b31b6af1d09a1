"""Dome, shutter, filter wheel, focuser, cover: the simple movers. All by closed forms of the world's seconds."""

from __future__ import annotations

from nightbell.simulator.motion import Motion, difference_deg, rest
from nightbell.simulator.settings import EnclosureSettings

__all__ = ["CoverSim", "DomeSim", "FocuserSim", "ShutterSim", "WheelSim"]


class ShutterSim:
    """Fraction open, 0 to 1. A stuck motor leaves it where it is, still saying that it moves."""

    def __init__(self, travel_s: float) -> None:
        self._travel_s = travel_s
        self._motion = rest(0.0)
        self._stuck_at: float | None = None
        self.limp = False
        """The motor is stuck: commands are taken and nothing moves."""

    def fraction(self, t_s: float) -> float:
        return self._stuck_at if self._stuck_at is not None else self._motion.at(t_s)

    def command(self, t_s: float, goal: float) -> None:
        self._motion = Motion(self.fraction(t_s), goal, t_s, 1.0 / self._travel_s)
        if self.limp:
            self._stuck_at = self._motion.start

    def set_limp(self, t_s: float, *, limp: bool) -> None:
        if limp and not self.limp:
            self._stuck_at = self.fraction(t_s)
        elif not limp and self.limp and self._stuck_at is not None:
            self._motion = Motion(self._stuck_at, self._motion.goal, t_s, 1.0 / self._travel_s)
            self._stuck_at = None
        self.limp = limp

    def stop(self, t_s: float) -> None:
        self._motion = rest(self.fraction(t_s))

    def moving(self, t_s: float) -> bool:
        return self.fraction(t_s) != self._motion.goal

    def status(self, t_s: float) -> int:
        """ASCOM ShutterStatus; stopped half-way is an error, for it is neither."""
        at = self.fraction(t_s)
        if at != self._motion.goal:
            return 2 if self._motion.goal > at else 3
        return {0.0: 1, 1.0: 0}.get(at, 4)


class DomeSim:
    """Rotation and shutter."""

    def __init__(self, settings: EnclosureSettings) -> None:
        self.settings = settings
        self.shutter = ShutterSim(settings.shutter_travel_s)
        self._motion = rest(settings.park_azimuth_deg)
        self._sync_deg = 0.0
        self.limp = False
        self.parked = True
        self._parking = False
        self.slaved = False

    def azimuth_deg(self, t_s: float) -> float:
        """Where the slit is."""
        return self._motion.at(t_s) % 360.0

    def reported_deg(self, t_s: float) -> float:
        return (self.azimuth_deg(t_s) + self._sync_deg) % 360.0

    def rotating(self, t_s: float) -> bool:
        return self._motion.at(t_s) != self._motion.goal

    def slewing(self, t_s: float) -> bool:
        return self.rotating(t_s) or self.shutter.moving(t_s)

    def _go(self, t_s: float, azimuth_deg: float) -> None:
        now = self._motion.at(t_s)
        goal = now + difference_deg(azimuth_deg, now)
        self._motion = Motion(now, goal, t_s, 1e-9 if self.limp else self.settings.speed_deg_per_s)

    def slew(self, t_s: float, azimuth_deg: float) -> None:
        self.parked = self._parking = False
        self._go(t_s, azimuth_deg - self._sync_deg)

    def park(self, t_s: float) -> None:
        self._parking = True
        self._go(t_s, self.settings.park_azimuth_deg)

    def find_home(self, t_s: float) -> None:
        self.parked = self._parking = False
        self._sync_deg = 0.0
        self._go(t_s, self.settings.home_azimuth_deg)

    def abort(self, t_s: float) -> None:
        """Stop; the dome rolls on a little, the shutter stays."""
        if self.rotating(t_s):
            now, goal = self._motion.at(t_s), self._motion.goal
            way = max(-self.settings.coast_deg, min(self.settings.coast_deg, goal - now))
            self._motion = Motion(now, now + way, t_s, self.settings.speed_deg_per_s)
        self.shutter.stop(t_s)
        self._parking = False
        self.slaved = False

    def sync(self, t_s: float, azimuth_deg: float) -> None:
        self._sync_deg = difference_deg(azimuth_deg, self.azimuth_deg(t_s))

    def set_limp(self, t_s: float, *, limp: bool) -> None:
        """A stuck motor: it says it turns, and does not."""
        goal = self._motion.goal
        self.limp = limp
        if self.rotating(t_s):
            self._motion = Motion(self._motion.at(t_s), goal, t_s, 1e-9 if limp else self.settings.speed_deg_per_s)

    def at_home(self, t_s: float) -> bool:
        return not self.rotating(t_s) and abs(difference_deg(self.azimuth_deg(t_s), self.settings.home_azimuth_deg)) < 0.5

    def at_park(self, t_s: float) -> bool:
        if self._parking and not self.rotating(t_s):
            self.parked, self._parking = True, False
        return self.parked


class WheelSim:
    """A filter wheel."""

    def __init__(self, n_slots: int, change_s: float) -> None:
        self._n, self._change_s = n_slots, change_s
        self._position, self._ready_s = 0, 0.0

    def position(self, t_s: float) -> int:
        """Slot, or -1 on the way."""
        return self._position if t_s >= self._ready_s else -1

    def go(self, t_s: float, position: int) -> None:
        steps = abs(position - self._position)
        self._ready_s = t_s + self._change_s * min(steps, self._n - steps) if steps else max(t_s, self._ready_s)
        self._position = position


class FocuserSim:
    """An absolute focuser of 200 steps per second."""

    MAX_STEP = 10000

    def __init__(self, start: int) -> None:
        self._motion = rest(start)

    def position(self, t_s: float) -> int:
        return round(self._motion.at(t_s))

    def moving(self, t_s: float) -> bool:
        return self._motion.at(t_s) != self._motion.goal

    def go(self, t_s: float, position: int) -> None:
        self._motion = Motion(self._motion.at(t_s), position, t_s, 200.0)

    def halt(self, t_s: float) -> None:
        self._motion = rest(round(self._motion.at(t_s)))


class CoverSim:
    """Mirror cover (closed at first) and flat lamp."""

    TRAVEL_S = 8.0
    WARM_UP_S = 4.0
    MAX_BRIGHTNESS = 255

    def __init__(self) -> None:
        self._motion = rest(0.0)
        self.brightness = 0
        self._lit_s = 0.0

    def fraction(self, t_s: float) -> float:
        """How far open."""
        return self._motion.at(t_s)

    def command(self, t_s: float, goal: float) -> None:
        self._motion = Motion(self.fraction(t_s), goal, t_s, 1.0 / self.TRAVEL_S)

    def halt(self, t_s: float) -> None:
        self._motion = rest(self.fraction(t_s))

    def cover_state(self, t_s: float) -> int:
        at = self.fraction(t_s)
        if at != self._motion.goal:
            return 2
        return {0.0: 1, 1.0: 3}.get(at, 4)

    def lamp(self, t_s: float, brightness: int) -> None:
        self.brightness, self._lit_s = brightness, t_s

    def calibrator_state(self, t_s: float) -> int:
        if self.brightness == 0:
            return 1
        return 3 if t_s >= self._lit_s + self.WARM_UP_S else 2
