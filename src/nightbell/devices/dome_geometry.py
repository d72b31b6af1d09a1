"""Where a telescope's beam meets the dome: exact for every mount, no branch for hemisphere or pole.

Origin in the dome's centre of curvature, x East, y North, z Up; L latitude (90 deg for alt-az), h hour angle, west positive (alt-az:
azimuth - 180 deg), d declination (alt-az: altitude), s = +1 pier east (normal), -1 pier west, M the intersection of the mount's
axes, r the arm along the second axis, q the offset across it:

    u = (-cos d sin h, sin d cos L - cos d cos h sin L, sin d sin L + cos d cos h cos L)    optical axis
    e = (cos h, -sin h sin L, sin h cos L);  g = u x e;  O = M + s (r e + q g)              second axis; foot of the beam
    P = O + k u,  k = -b + sqrt(b^2 - |O|^2 + R^2),  b = O.u;  azimuth = atan2(P_E, P_N), altitude = asin(P_U / R)
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from nightbell.contracts.errors import Refused

__all__ = ["beam", "meet_sphere", "slit_direction"]

Vector = NDArray[np.float64]


def beam(
    hour_angle_rad: float, declination_rad: float, latitude_rad: float, mount_m: Vector, *, side: float, arm_m: float, across_m: float
) -> tuple[Vector, Vector, Vector, Vector]:
    """(foot of the beam in m, optical axis u, second axis e, g towards increasing declination), each (3,)."""
    h, d = hour_angle_rad, declination_rad
    sin_l, cos_l = math.sin(latitude_rad), math.cos(latitude_rad)
    u = np.array(
        [
            -math.cos(d) * math.sin(h),
            math.sin(d) * cos_l - math.cos(d) * math.cos(h) * sin_l,
            math.sin(d) * sin_l + math.cos(d) * math.cos(h) * cos_l,
        ]
    )
    e = np.array([math.cos(h), -math.sin(h) * sin_l, math.sin(h) * cos_l])
    g = np.cross(u, e)
    return mount_m + side * (arm_m * e + across_m * g), u, e, g


def meet_sphere(foot_m: Vector, u: Vector, radius_m: float) -> Vector:
    """Where rays from `foot_m` (n, 3) along `u` meet the dome, (n, 3) in m. Raises `Refused` when a ray starts outside."""
    b = foot_m @ u
    inside = b * b - np.sum(foot_m * foot_m, axis=-1) + radius_m**2
    if np.any(np.sum(foot_m * foot_m, axis=-1) >= radius_m**2) or np.any(inside <= 0):
        raise Refused("the beam starts outside the dome", where="dome", remedy="Correct the geometry in modules/telescope.toml: dome")
    points: Vector = foot_m + (np.sqrt(inside) - b)[..., None] * u
    return points


def slit_direction(point_m: Vector, radius_m: float) -> tuple[float, float]:
    """(azimuth_deg 0 to 360, altitude_deg) of a point on the dome, seen from its centre."""
    east, north, up = (float(one) for one in point_m)
    return math.degrees(math.atan2(east, north)) % 360, math.degrees(math.asin(max(-1.0, min(1.0, up / radius_m))))
