"""The one place that keeps astropy off the network and content with old Earth-orientation tables.

Every process passes `nightbell/__init__.py`, which names our astropy.cfg in the environment before astropy is imported: that
serves child processes too, and costs the broker nothing. It does not serve a notebook that had imported astropy before us, or a
user with an ASTROPY_CONFIG_DIR of his own. So whoever asks astropy for something that needs UT1 calls `stay_offline` first.

The bundled tables end some eleven months after their release; from then on UT1 - UTC keeps its last value, an error of some
arcseconds of hour angle a year, without a word. A refused look-up, or a wait for a network that a mountain does not have,
would end the night instead.
"""

from __future__ import annotations

__all__ = ["is_offline", "stay_offline"]


def stay_offline() -> None:
    """Set the four values; as often as one likes."""
    from astropy.utils import data, iers  # noqa: PLC0415 - a second of import, only for those who use it

    iers.conf.auto_download = False
    iers.conf.auto_max_age = None
    iers.conf.iers_degraded_accuracy = "warn"
    data.conf.allow_internet = False


def is_offline() -> bool:
    """Whether they are in force."""
    from astropy.utils import data, iers  # noqa: PLC0415

    patient = iers.conf.auto_max_age is None or iers.conf.auto_max_age >= 36_500
    return bool(not iers.conf.auto_download and patient and iers.conf.iers_degraded_accuracy == "warn" and not data.conf.allow_internet)
