"""Which dome azimuth covers an exposure from its start to its end, and what is lost when it does not.

The geometry itself, exact for every mount, is devices/dome_geometry.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nightbell.contracts.errors import Refused
from nightbell.devices.dome_geometry import beam, meet_sphere
from nightbell.devices.protocols import AlignmentMode, PierSide
from nightbell.sky.view import Place
from nightbell.telescope.settings import DomeSettings

__all__ = ["Coverage", "DomeModel"]

Vector = NDArray[np.float64]
N_RIM, N_AREA = 32, 1024
ZENITH_SHARE = 0.02
"""Nearer to the zenith axis than this share of the radius, the azimuth of the beam means nothing."""
MARGIN_M = 0.02
N_BISECTIONS = 24


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """What the slit does to a beam, the worse of both ends of an exposure."""

    covered: bool
    vignetted: float
    """Fraction of light lost, 0 to 1."""


class DomeModel:
    """The dome of one telescope."""

    def __init__(self, settings: DomeSettings, *, latitude_deg: float, alignment: AlignmentMode) -> None:
        self.settings = settings
        self.alignment = alignment
        self._latitude = math.pi / 2 if alignment is AlignmentMode.ALT_AZ else math.radians(latitude_deg)
        self._mount = np.array([settings.mount_east_m, settings.mount_north_m, settings.mount_up_m])
        rim = np.linspace(0, 2 * math.pi, N_RIM, endpoint=False)
        self._rim = np.stack([np.cos(rim), np.sin(rim)], axis=1) * settings.aperture_m / 2
        # A sunflower's seeds: equal areas without rows that an edge of the slit could run along.
        seed = np.arange(N_AREA)
        radii, turns = np.sqrt((seed + 0.5) / N_AREA) * settings.aperture_m / 2, seed * math.pi * (3 - math.sqrt(5))
        self._area = radii[:, None] * np.stack([np.cos(turns), np.sin(turns)], axis=1)

    def side(self, place: Place, side: PierSide) -> float:
        """+1 or -1; an unknown side goes by the hour angle as a German mount points by itself."""
        if self.alignment is not AlignmentMode.GERMAN:
            return 1.0
        if side is PierSide.UNKNOWN:
            return 1.0 if place.hour_angle_h >= 0 else -1.0
        return 1.0 if side is PierSide.EAST else -1.0

    def _beam(self, place: Place, s: float) -> tuple[Vector, Vector, Vector, Vector]:
        """(O, u, e, g)."""
        if self.alignment is AlignmentMode.ALT_AZ:
            h, d = math.radians(place.azimuth_deg - 180), math.radians(place.altitude_deg)
        else:
            h, d = math.radians(place.hour_angle_h * 15), math.radians(place.declination_deg)
        own = self.settings
        return beam(h, d, self._latitude, self._mount, side=s, arm_m=own.axis_offset_m, across_m=own.piggyback_offset_m)

    def pierce(self, place: Place, side: PierSide) -> Vector:
        """Where the optical axis meets the dome."""
        foot, u, _, _ = self._beam(place, self.side(place, side))
        point: Vector = meet_sphere(foot[None], u, self.settings.radius_m)[0]
        return point

    def _points(self, place: Place, s: float, aperture: Vector) -> Vector:
        foot, u, e, g = self._beam(place, s)
        return meet_sphere(foot + aperture @ np.stack([e, g]), u, self.settings.radius_m)

    def _clear(self, points: Vector, azimuth_deg: float, margin_m: float) -> NDArray[np.bool_]:
        a, own = math.radians(azimuth_deg), self.settings
        forward, across = np.array([math.sin(a), math.cos(a), 0.0]), np.array([math.cos(a), -math.sin(a), 0.0])
        psi = np.degrees(np.arctan2(points[:, 2], points @ forward))
        beside = np.abs(points @ across) <= own.slit_width_m / 2 - margin_m
        clear: NDArray[np.bool_] = beside & (psi >= own.slit_low_deg) & (psi <= 180 - own.slit_back_deg)
        return clear

    @property
    def margin_m(self) -> float:
        return self.settings.radius_m * math.radians(self.settings.tolerance_deg) + MARGIN_M

    def coverage(self, start: Place, end: Place, side: PierSide, azimuth_deg: float | None) -> Coverage:
        """At a dome azimuth as read back; an unknown azimuth covers nothing."""
        if azimuth_deg is None:
            return Coverage(covered=False, vignetted=1.0)
        s = self.side(start, side)
        lost, covered = 0.0, True
        for place in (start, end):
            clear = self._clear(self._points(place, s, self._area), azimuth_deg, 0.0)
            lost = max(lost, 1.0 - float(np.count_nonzero(clear)) / clear.size)
            covered = covered and bool(self._clear(self._points(place, s, self._rim), azimuth_deg, 0.0).all())
        return Coverage(covered=covered, vignetted=lost)

    def azimuth_for(self, start: Place, end: Place, side: PierSide, now_deg: float | None = None) -> float:
        """Where to turn: nowhere when `now_deg` covers start and end, else the middle of the azimuths that do.

        That of the start alone when none covers both. Beside the zenith axis, where the beam's azimuth means nothing, it stays too.
        Raises `Refused` when the beam meets the wall below the dome's equator.
        """
        s = self.side(start, side)
        points = self._points(start, s, np.zeros((1, 2)))[0]
        if points[2] < 0:
            raise Refused(
                f"at altitude {start.altitude_deg:.1f} deg the beam meets the wall", where="dome", remedy="Choose a higher target"
            )
        begin = self._interval(start, s)
        finish = self._interval(end, s)
        if begin is None:
            if now_deg is not None and math.hypot(points[0], points[1]) < ZENITH_SHARE * self.settings.radius_m:
                return now_deg
            return math.degrees(math.atan2(points[0], points[1])) % 360
        low, high = begin
        if finish is not None:
            shift = round((sum(begin) - sum(finish)) / 720) * 360
            both = max(low, finish[0] + shift), min(high, finish[1] + shift)
            if both[0] <= both[1]:
                low, high = both
                if now_deg is not None and (now_deg - low) % 360 <= high - low:
                    return now_deg
        return (low + high) / 2 % 360

    def _interval(self, place: Place, s: float) -> tuple[float, float] | None:
        """Azimuths around the beam's own that cover its rim with the margin, by bisection outwards; may leave 0..360."""
        points = self._points(place, s, self._rim)
        centre = self._points(place, s, np.zeros((1, 2)))[0]
        axis_deg = math.degrees(math.atan2(centre[0], centre[1]))
        if not self._clear(points, axis_deg, self.margin_m).all():
            return None
        edges = []
        for sign in (-1.0, 1.0):
            inside, outside = 0.0, 180.0
            for _ in range(N_BISECTIONS):
                middle = (inside + outside) / 2
                if self._clear(points, axis_deg + sign * middle, self.margin_m).all():
                    inside = middle
                else:
                    outside = middle
            edges.append(axis_deg + sign * inside)
        return edges[0], edges[1]
