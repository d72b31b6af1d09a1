"""Frames in memory: each file is described once in a call, and its pixels are kept as long as there is room."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from nightbell.calibration.intake import Exposure
from nightbell.contracts.errors import BadInput

__all__ = ["PixelCache"]

CACHE_BYTES = 256 << 20


class PixelCache:
    """Pixels of the frames last read, within a budget of memory; a frame that has left it is read again."""

    def __init__(self, read: Callable[[Path], tuple[Exposure, NDArray[Any]]]) -> None:
        self._read = read
        self._held: OrderedDict[Path, NDArray[Any]] = OrderedDict()
        self._exposures: dict[Path, Exposure] = {}
        self._bytes = 0

    def read(self, path: Path) -> Exposure:
        """The exposure at `path`; read once in a call."""
        if path not in self._exposures:
            self._exposures[path], pixels = self._read(path)
            self._hold(path, pixels)
        return self._exposures[path]

    def pixels(self, exposure: Exposure) -> NDArray[Any]:
        """The raw pixels of `exposure`."""
        if exposure.path in self._held:
            self._held.move_to_end(exposure.path)
            return self._held[exposure.path]
        again, pixels = self._read(exposure.path)
        if again.raw_id != exposure.raw_id:
            raise BadInput("it has changed while it was read", where=str(exposure.path), remedy="Never write into a raw frame")
        self._hold(exposure.path, pixels)
        return pixels

    def _hold(self, path: Path, pixels: NDArray[Any]) -> None:
        self._held[path] = pixels
        self._bytes += pixels.nbytes
        while self._bytes > CACHE_BYTES and len(self._held) > 1:
            _, old = self._held.popitem(last=False)
            self._bytes -= old.nbytes
