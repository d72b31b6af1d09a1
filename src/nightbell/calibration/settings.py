"""What can be set about the preprocessor: conf/INSTALLATION/modules/preprocessor.toml."""

from __future__ import annotations

from dataclasses import dataclass

from nightbell.settings import setting

__all__ = ["PreprocessorSettings"]


@dataclass(frozen=True, kw_only=True)
class PreprocessorSettings:
    """The preprocessor: raw frames in, masters and calibrated frames out."""

    output_folder: str = setting("", doc="Folder of masters, products and the index; empty: products/ in the module's state folder")
    cameras_folder: str = setting(
        "", names="path", doc="Folder of your own camera files, relative to the installation; empty: shipped ones alone"
    )
    allow_missing: tuple[str, ...] = setting((), doc="Masters without which lights go on all the same: bias, dark, flat")
    batch_frames: int = setting(16, low=1, high=1000, doc="Most lights that are calibrated before their products are announced")
