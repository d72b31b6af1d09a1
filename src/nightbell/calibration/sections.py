"""Parts of a frame as FITS headers write them: [x1:x2,y1:y2], counted from 1, both ends included."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["Section", "beside", "parse_section"]


@dataclass(frozen=True)
class Section:
    """Rows and columns, 0-based, end exclusive; in FITS it reads [x0+1:x1,y0+1:y1]."""

    x0: int
    x1: int
    y0: int
    y1: int

    def __str__(self) -> str:
        return f"[{self.x0 + 1}:{self.x1},{self.y0 + 1}:{self.y1}]"

    @property
    def shape(self) -> tuple[int, int]:
        """(ny, nx)."""
        return self.y1 - self.y0, self.x1 - self.x0


def parse_section(text: str, shape: tuple[int, int]) -> Section:
    """A FITS section '[x1:x2,y1:y2]' (1-based, inclusive, reversed or '*' allowed) inside `shape` (ny, nx). Raises `ValueError`."""
    match = re.fullmatch(r"\[?\s*(\*|-?\d+\s*:\s*-?\d+)\s*,\s*(\*|-?\d+\s*:\s*-?\d+)\s*\]?", text.strip())
    if text.strip() == "*":
        return Section(0, shape[1], 0, shape[0])
    if match is None:
        raise ValueError(f"{text!r} is not [x1:x2,y1:y2]")
    ranges = []
    for part, length in zip(match.groups(), (shape[1], shape[0]), strict=True):
        low, high = (1, length) if part == "*" else sorted(int(number) for number in part.split(":"))
        if low < 1 or high > length:
            raise ValueError(f"{text!r} lies outside 1 to {length}")
        ranges.append((low - 1, high))
    return Section(*ranges[0], *ranges[1])


def beside(overscan: Section, shape: tuple[int, int]) -> Section | None:
    """What a strip of overscan along one edge leaves of the frame; None for a strip that does not go along an edge."""
    ny, nx = shape
    if overscan.shape[0] >= 0.9 * ny and overscan.shape[1] < 0.5 * nx:
        return Section(overscan.x1, nx, 0, ny) if overscan.x0 < nx - overscan.x1 else Section(0, overscan.x0, 0, ny)
    if overscan.shape[1] >= 0.9 * nx and overscan.shape[0] < 0.5 * ny:
        return Section(0, nx, overscan.y1, ny) if overscan.y0 < ny - overscan.y1 else Section(0, nx, 0, overscan.y0)
    return None
