"""What can be set about the search for transients: conf/INSTALLATION/modules/transients.toml."""

from __future__ import annotations

from dataclasses import dataclass

from nightbell.settings import setting

__all__ = ["TransientsSettings"]


@dataclass(frozen=True, kw_only=True)
class TransientsSettings:
    """The search for what is new on calibrated frames."""

    reference_folder: str = setting("references", doc="Folder of reference images with a WCS, relative to the installation's state (home)")
    threshold: float = setting(6.5, unit="sigma", low=3, high=100, doc="Least significance of a detection on one frame")
    pointing_error_arcsec: float = setting(120.0, unit="arcsec", low=1, high=3600, doc="How far frames may point beside what they say")
    host_radius_arcsec: float = setting(
        60.0, unit="arcsec", low=1, high=3600, doc="Within it a candidate is associated with the target's galaxy"
    )
    min_frames: int = setting(2, low=1, high=100, doc="Frames of a target that are waited for before a search is announced")
    wait_s: float = setting(900.0, unit="s", low=0, high=86400, doc="After this time a search is announced with fewer frames")
