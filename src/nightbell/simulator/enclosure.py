"""How much of the beam the dome lets through: rays from the aperture to the sphere, and the slit.

Written for the simulator alone and apart from devices.dome_geometry on purpose: the world must not share its observer's mistakes.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.typing import NDArray

from nightbell.simulator.settings import EnclosureSettings

__all__ = ["vignetted_fraction"]


_POINTS = 800


@functools.cache
def _aperture(hole: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Equal-area points of a ring with outer radius 1 and inner radius `hole` (a sunflower)."""
    n = np.arange(_POINTS)
    radius = np.sqrt(hole**2 + (1 - hole**2) * (n + 0.5) / _POINTS)
    angle = n * math.pi * (3 - math.sqrt(5))
    return radius * np.cos(angle), radius * np.sin(angle)


def vignetted_fraction(
    *, hour_angle_deg: float, declination_deg: float, east: bool, latitude_deg: float, dome_azimuth_deg: float, dome: EnclosureSettings
) -> float:
    """Share of the light that does not come through the slit (0 to 1), the shutter being open.

    Axes x East, y North, z Up from the centre of the dome's sphere. `east`: the pointing state ASCOM calls pierEast (normal).
    """
    h, d, lat = (math.radians(angle) for angle in (hour_angle_deg, declination_deg, latitude_deg))
    ch, sh, cd, sd, cl, sl = math.cos(h), math.sin(h), math.cos(d), math.sin(d), math.cos(lat), math.sin(lat)
    axis = np.array([-cd * sh, sd * cl - cd * ch * sl, sd * sl + cd * ch * cl])
    second = np.array([ch, -sh * sl, sh * cl])
    side = 1.0 if east else -1.0
    origin = np.array([dome.mount_east_m, dome.mount_north_m, dome.mount_up_m]) + side * dome.axis_offset_m * second
    third = np.cross(axis, second)
    a, b = _aperture(min(0.99, dome.obstruction_m / dome.aperture_m))
    start = origin + 0.5 * dome.aperture_m * (np.outer(a, second) + np.outer(b, third))
    along = start @ axis
    reach = -along + np.sqrt(along**2 - (start**2).sum(axis=1) + dome.radius_m**2)
    hit = start + reach[:, None] * axis
    azimuth = math.radians(dome_azimuth_deg)
    forward = hit[:, 0] * math.sin(azimuth) + hit[:, 1] * math.cos(azimuth)
    across = hit[:, 0] * math.cos(azimuth) - hit[:, 1] * math.sin(azimuth)
    up = np.degrees(np.arctan2(hit[:, 2], forward))
    through = (np.abs(across) <= dome.slit_width_m / 2) & (up >= dome.slit_low_deg) & (up <= 180.0 - dome.slit_back_deg)
    return float(1.0 - through.mean())
