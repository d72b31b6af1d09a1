"""What can be set about the archive: conf/INSTALLATION/modules/archive.toml."""

from __future__ import annotations

from dataclasses import dataclass

from nightbell.settings import setting

__all__ = ["ArchiveSettings"]


@dataclass(frozen=True, kw_only=True)
class ArchiveSettings:
    """The second copy of all frames."""

    store: str = setting("store", doc="Folder of the copies, a folder per night; relative to the module's state folder")
    reserve_mib: float = setting(1024.0, unit="MiB", low=0, high=1e7, doc="Free disk below which nothing more is copied")
    retry_s: float = setting(10.0, unit="s", low=0.1, high=3600, doc="A copy that failed is tried again after so long, real time")
