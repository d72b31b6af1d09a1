"""What an observation begun at an instant is worth: the request's weight, less what the air takes.

Depth falls with airmass X by k (X - 1) mag of extinction and, with the background-limited seeing FWHM ~ X^0.6, by
1.5 log10 X mag. The chance that a source of unknown brightness is above the limit falls by about a factor 10^(-0.3 dm) (source
counts of slope 0.3 per magnitude). Waiting costs too: clouds may come, the source fades, others look; a share `urgency_per_h`
of the worth is lost per hour, W(t) = exp(-urgency t). So v(t) = w 10^(-0.3 dm) W(t). Values are relative.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["EXTINCTION_MAG", "quality", "values"]

Array = NDArray[np.float64]
EXTINCTION_MAG = {"u": 0.45, "B": 0.25, "g": 0.20, "V": 0.14, "r": 0.12, "R": 0.10, "i": 0.08, "I": 0.06, "z": 0.06}
"""Per airmass; typical of a good site."""
COUNT_SLOPE = 0.3


def quality(airmass: Array, filter_name: str) -> Array:
    """Share of the worth at the zenith, 0 to 1, for airmass >= 1; 0 where the airmass is infinite."""
    x = np.where(np.isfinite(airmass), np.maximum(airmass, 1.0), np.inf)
    with np.errstate(invalid="ignore"):
        lost_mag = EXTINCTION_MAG.get(filter_name, 0.12) * (x - 1) + 1.5 * np.log10(x)
    return np.where(np.isfinite(x), 10 ** (-COUNT_SLOPE * np.where(np.isfinite(lost_mag), lost_mag, 0.0)), 0.0)


def values(
    weights: Array, airmass_mid: Array, filters: list[str], starts: NDArray[np.bool_], *, cell_h: float, urgency_per_h: float
) -> Array:
    """(N, T): worth of each request begun at each instant, 0 where it may not begin. `airmass_mid`: at the middle of the block."""
    waiting = np.exp(-urgency_per_h * cell_h * np.arange(starts.shape[1]))
    found = np.zeros(starts.shape)
    for i, name in enumerate(filters):
        found[i] = np.where(starts[i], weights[i] * quality(airmass_mid[i], name) * waiting, 0.0)
    return found
