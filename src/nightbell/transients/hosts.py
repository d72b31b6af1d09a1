"""The galaxy a candidate belongs to: the target's own, by distance on the sky."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Galaxy", "host_of", "separation_arcsec"]


@dataclass(frozen=True)
class Galaxy:
    """A possible host."""

    name: str
    ra_deg: float
    dec_deg: float


def separation_arcsec(ra1_deg: float, dec1_deg: float, ra2_deg: float, dec2_deg: float) -> float:
    """Great-circle distance (haversine: exact for small angles and beside the pole)."""
    a1, d1, a2, d2 = (np.deg2rad(value) for value in (ra1_deg, dec1_deg, ra2_deg, dec2_deg))
    h = np.sin((d2 - d1) / 2) ** 2 + np.cos(d1) * np.cos(d2) * np.sin((a2 - a1) / 2) ** 2
    return float(np.rad2deg(2 * np.arcsin(np.sqrt(min(1.0, float(h))))) * 3600)


def host_of(ra_deg: float, dec_deg: float, galaxies: tuple[Galaxy, ...], within_arcsec: float) -> tuple[Galaxy, float] | None:
    """The nearest galaxy within `within_arcsec` and its distance, or None."""
    near = sorted((separation_arcsec(ra_deg, dec_deg, one.ra_deg, one.dec_deg), one.name, one) for one in galaxies)
    return (near[0][2], near[0][0]) if near and near[0][0] <= within_arcsec else None
