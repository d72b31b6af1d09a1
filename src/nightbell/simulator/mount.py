"""A German equatorial mount: two axes, tracking, flips, limits, and the errors that make the sky not be where it says."""

from __future__ import annotations

import math
from collections.abc import Callable

from nightbell.simulator.motion import Motion, difference_deg, rest
from nightbell.simulator.settings import MountSettings
from nightbell.simulator.sky import altitude_azimuth

__all__ = ["MountSim"]

SIDEREAL_DEG_PER_S = 360.98564736629 / 86400.0
_PARK = (90.0, -60.0)
_HOME = (90.0, -89.0)


class MountSim:
    """State by time, in seconds of the world.

    Axis 1 is the hour angle of the second axis' plane, axis 2 the declination, and beyond +-90 it is through the pole:
    (axis1, axis2) = (h, d) in the pointing state EAST, (h + 180, 180 - d) in WEST. While tracking, axis 1 runs with the sky.
    """

    def __init__(self, settings: MountSettings, latitude_deg: float, sidereal_time_deg: Callable[[float], float]) -> None:
        self.settings = settings
        self.latitude_deg = latitude_deg
        self.sidereal_time_deg = sidereal_time_deg
        self.tracking = False
        self.parked = True
        self.collisions: list[tuple[float, str]] = []
        self._axis1, self._axis2 = rest(_PARK[0]), rest(_PARK[1])
        self._since_s = 0.0
        self._busy_until_s = 0.0
        self._then: Callable[[float], None] | None = None
        self._sync = (0.0, 0.0)

    # --- where it is
    def _axes(self, t_s: float) -> tuple[float, float]:
        drift = SIDEREAL_DEG_PER_S * (t_s - self._since_s) if self.tracking else 0.0
        return self._axis1.at(t_s) + drift, self._axis2.at(t_s)

    def east(self, t_s: float) -> bool:
        """ASCOM pierEast, the normal pointing state."""
        return abs(self._axes(t_s)[1]) <= 90.0

    def _mechanical(self, t_s: float) -> tuple[float, float]:
        axis1, axis2 = self._axes(t_s)
        if abs(axis2) <= 90.0:
            return difference_deg(axis1, 0.0), axis2
        return difference_deg(axis1 - 180.0, 0.0), 180.0 - axis2

    def reported(self, t_s: float) -> tuple[float, float]:
        """(hour angle, declination) in degrees as the mount believes."""
        h, d = self._mechanical(t_s)
        return difference_deg(h + self._sync[0], 0.0), max(-90.0, min(90.0, d + self._sync[1]))

    def true(self, t_s: float) -> tuple[float, float]:
        """(hour angle, declination) in degrees where light comes from."""
        h, d = self._mechanical(t_s)
        offset_deg = self.settings.pointing_offset_arcsec / 3600.0
        side = 1.0 if self.east(t_s) else -1.0
        worm = self.settings.periodic_error_arcsec / 3600.0 * math.sin(2 * math.pi * t_s / self.settings.periodic_error_period_s)
        cos_d = max(0.02, math.cos(math.radians(d)))
        return h + (0.8 * offset_deg * side + worm) / cos_d, max(-90.0, min(90.0, d + 0.6 * offset_deg * side))

    def right_ascension_h(self, t_s: float) -> float:
        """Of date, as reported."""
        return (self.sidereal_time_deg(t_s) - self.reported(t_s)[0]) % 360.0 / 15.0

    def altitude_azimuth(self, t_s: float) -> tuple[float, float]:
        return altitude_azimuth(*self.reported(t_s), self.latitude_deg)

    def slewing(self, t_s: float) -> bool:
        return t_s < self._busy_until_s

    # --- what it is told
    def _freeze(self, t_s: float) -> None:
        """Make the present the new starting point."""
        axis1, axis2 = self._axes(t_s)
        self._axis1, self._axis2, self._since_s = rest(axis1), rest(axis2), t_s

    def _move(self, t_s: float, axis1: float, axis2: float) -> None:
        self._freeze(t_s)
        speed, acceleration = self.settings.speed_deg_per_s, self.settings.acceleration_deg_per_s2
        self._axis1 = Motion(self._axis1.goal, axis1, t_s, speed, acceleration)
        self._axis2 = Motion(self._axis2.goal, axis2, t_s, speed, acceleration)
        self._busy_until_s = max(self._axis1.end_s, self._axis2.end_s) + self.settings.settle_s

    def destination_is_east(self, hour_angle_deg: float) -> bool:
        """West of the meridian the tube is east of the pier."""
        return difference_deg(hour_angle_deg, 0.0) >= 0.0

    def slew(self, t_s: float, hour_angle_deg: float, declination_deg: float) -> None:
        """To a reported hour angle (of now) and declination; while tracking it arrives on the same right ascension."""
        h = difference_deg(hour_angle_deg - self._sync[0], 0.0)
        d = max(-90.0, min(90.0, declination_deg - self._sync[1]))
        self._then = None
        if self.destination_is_east(hour_angle_deg):
            self._move(t_s, h, d)
        else:
            self._move(t_s, h + 180.0, 180.0 - d)

    def set_tracking(self, t_s: float, *, on: bool) -> None:
        self._then = None  # whatever was to follow a motion follows no more
        if on != self.tracking:
            self._freeze(t_s)  # a change in the middle of a slew ends the slew where it is
            self.tracking = on

    def abort(self, t_s: float) -> None:
        self._freeze(t_s)
        self._busy_until_s = t_s
        self._then = None

    def park(self, t_s: float) -> None:
        if self.parked:
            return
        self.set_tracking(t_s, on=False)
        self._move(t_s, *_PARK)
        self._then = self._become_parked

    def _become_parked(self, _: float) -> None:
        self.parked = True

    @property
    def is_parking(self) -> bool:
        """On its way to the park position."""
        return self._then is not None

    def resume_parking(self, *, parking: bool) -> None:
        """Parking goes on, or not, after the world was recalled."""
        self._then = self._become_parked if parking else None

    def unpark(self) -> None:
        self.parked = False

    def find_home(self, t_s: float) -> None:
        self.set_tracking(t_s, on=False)
        self._move(t_s, *_HOME)

    def at_home(self, t_s: float) -> bool:
        axis1, axis2 = self._axes(t_s)
        return not self.slewing(t_s) and abs(axis1 - _HOME[0]) < 0.01 and abs(axis2 - _HOME[1]) < 0.01

    def sync(self, t_s: float, hour_angle_deg: float, declination_deg: float) -> None:
        """Say that it points there; nothing moves."""
        h, d = self._mechanical(t_s)
        self._sync = (difference_deg(hour_angle_deg, h), declination_deg - d)

    def guide(self, t_s: float, *, east_deg: float, north_deg: float) -> None:
        axis1, axis2 = self._axes(t_s)
        up = 1.0 if abs(axis2) <= 90 else -1.0
        self._freeze(t_s)
        self._axis1, self._axis2 = rest(axis1 - east_deg), rest(axis2 + up * north_deg)

    # --- what happens by itself
    def advance(self, t_s: float) -> None:
        """End what has ended; stop at the pier."""
        if self._then is not None and t_s >= self._busy_until_s:
            then, self._then = self._then, None
            then(t_s)
        if self.tracking and not self.slewing(t_s):
            h, _ = self._mechanical(t_s)
            beyond = -h if self.east(t_s) else h
            if beyond > self.settings.over_meridian_deg and abs(beyond) < 90.0:
                self.collisions.append((t_s, f"the tube met the pier at hour angle {h:.1f} deg"))
                self.set_tracking(t_s, on=False)
            elif self.altitude_azimuth(t_s)[0] < 0.0:
                self.collisions.append((t_s, "tracked below the horizon"))
                self.set_tracking(t_s, on=False)
