"""Bias, dark and flat frames -> masters, with the frames left out and why.

Frames are sorted by id before anything is summed, so a master is a function of the SET of its frames. A frame that does not
fit its group (a lit dark, a saturated flat) is left out by name; it does not sink the group.
"""

from __future__ import annotations

import itertools
import math
import tempfile
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightbell.calibration.engine import BAD, FLAT_INVALID, NO_DATA, SATURATED, Floats, Plane, mad_std, prepare
from nightbell.calibration.intake import Exposure

__all__ = ["Built", "LeftOut", "build_bias", "build_dark", "build_flat", "clipped_mean", "read_noise_adu", "threshold"]

Pixels = Callable[[Exposure], NDArray[np.generic]]
STRIP_VALUES = 1 << 18
"""Values of all frames together that are combined at a time: they stay in the processor's cache."""
SHELF_BYTES = 256 << 20


@dataclass(frozen=True)
class LeftOut:
    """A frame that is not in its master."""

    exposure: Exposure
    error: str
    remedy: str


@dataclass(frozen=True)
class Built:
    """A master before it has a name: planes, frames used, what was measured and flagged."""

    plane: Plane
    used: tuple[Exposure, ...]
    left_out: tuple[LeftOut, ...]
    level_adu: float
    read_noise_adu: float | None
    flags: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Frame:
    exposure: Exposure
    data: Floats
    mask: NDArray[np.uint8]
    level: float
    sigma_adu: float = 0.0


class _OnDisk:
    """An array of two axes in a nameless file: rows are read when they are asked for."""

    def __init__(self, array: NDArray[Any], folder: Path) -> None:
        self.shape, self.size, self._dtype = array.shape, array.size, array.dtype
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115  (it lives as long as the array)
        weakref.finalize(self, self._file.close)
        self._file.write(np.ascontiguousarray(array).data)

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        start, stop, step = rows.indices(self.shape[0])
        part = np.empty((stop - start, *self.shape[1:]), self._dtype)
        self._file.seek(start * part[0].nbytes)
        self._file.readinto(part.data)
        return part[::step]


@dataclass(frozen=True)
class _Waiting:
    """A prepared frame that waits for the others of its master."""

    exposure: Exposure
    data: Floats | _OnDisk
    mask: NDArray[np.uint8] | _OnDisk
    level: float
    sigma_adu: float = 0.0
    offset: float = 0.0
    """Taken off when frames are combined."""


class _Shelf:
    """Where prepared frames wait: in memory, beyond `SHELF_BYTES` on the disk of `folder`."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._free = SHELF_BYTES

    def keep(self, frame: _Frame) -> _Waiting:
        data, mask = self._room_for(frame.data), self._room_for(frame.mask)
        return _Waiting(frame.exposure, data, mask, frame.level, frame.sigma_adu)

    def _room_for(self, array: NDArray[Any]) -> NDArray[Any] | _OnDisk:
        if self._folder is not None and self._free < array.nbytes:
            return _OnDisk(array, self._folder)
        self._free -= array.nbytes
        return array


def threshold(n: int) -> float:
    """Clip in units of 1.4826 MAD: wide for few frames, where the MAD itself is uncertain (3 sigma would lose 11 % of N = 3)."""
    return 5.0 if n < 10 else 4.0 if n < 20 else 3.5


def clipped_mean(stack: NDArray[np.floating], masked: NDArray[np.bool_], floor: float) -> tuple[Floats, Floats, NDArray[np.uint8]]:
    """Mean over axis 0 of unmasked values within `threshold` of their median, its 1-sigma, and NO_DATA where nothing is left.

    `floor` is the known 1-sigma of one value: the larger of it and the scatter counts, since few frames scatter too little.
    """
    mean, sample, count = _kept_mean(stack, masked, floor)
    return mean, _sigma_of_mean(sample, count, len(stack), floor), np.where(count == 0, NO_DATA, 0).astype(np.uint8)


def _kept_mean(stack: NDArray[np.floating], masked: NDArray[np.bool_], floor: float) -> tuple[Floats, Floats, NDArray[np.uint16]]:
    """Mean of the values that are kept, their scatter, and their number."""
    n = stack.shape[0]
    values = stack.astype(np.float64)
    kept = np.isfinite(values) & ~masked
    if n >= 3:
        span = np.where(kept, values, -np.inf).max(axis=0) - np.where(kept, values, np.inf).min(axis=0)
        # Where all values lie closer together than the limit none can be beyond it: no median is needed, and that is most pixels.
        doubtful = span > threshold(n) * floor
        if doubtful.any():
            part = np.where(kept[:, doubtful], values[:, doubtful], np.nan)
            away = np.abs(part - _nanmedian(part))
            spread = 1.482602218505602 * _nanmedian(away)
            kept[:, doubtful] &= ~(away > threshold(n) * np.maximum(spread, floor))
    count = kept.sum(axis=0)
    some = np.maximum(count, 1)
    mean = np.where(kept, values, 0.0).sum(axis=0) / some
    square = (np.where(kept, values - mean, 0.0) ** 2).sum(axis=0)
    sample = np.sqrt(square / np.maximum(count - 1, 1))
    return mean.astype(np.float32), sample.astype(np.float32), count.astype(np.uint16)


def _sigma_of_mean(sample: Floats, count: NDArray[np.uint16], n: int, floor: float) -> Floats:
    # The scatter of few values is itself uncertain; the frame's median is not, once its bias for few values is taken out
    # (median of chi2 with k degrees of freedom: k (1 - 2 / 9k)^3, Wilson and Hilferty).
    typical = float(np.median(sample[count > 1])) / math.sqrt((1 - 2 / (9 * (n - 1))) ** 3) if (count > 1).any() else 0.0
    scatter = np.maximum(sample, np.float32(typical)) if n >= 10 else np.float32(typical)
    return np.asarray(np.maximum(scatter, np.float32(floor)) / np.sqrt(np.maximum(count, 1), dtype=np.float32), dtype=np.float32)


def _nanmedian(values: NDArray[np.float64]) -> NDArray[np.float64]:
    if np.isfinite(values).all():
        return np.asarray(np.median(values, axis=0))
    # A pixel masked in all frames has no median: that is expected here and carries NO_DATA later.
    safe = values.copy()
    safe[:, ~np.isfinite(values).any(axis=0)] = 0.0
    return np.asarray(np.nanmedian(safe, axis=0))


def _combine(frames: Sequence[_Waiting]) -> Plane:
    shape = frames[0].data.shape
    data, sample, count = np.empty(shape, np.float32), np.empty(shape, np.float32), np.empty(shape, np.uint16)
    floor = math.sqrt(sum(frame.sigma_adu**2 for frame in frames) / len(frames))
    step = max(1, STRIP_VALUES // (shape[1] * len(frames)))
    for y0 in range(0, shape[0], step):
        rows = slice(y0, min(y0 + step, shape[0]))
        stack = np.stack([frame.data[rows] - np.float32(frame.offset) for frame in frames])
        masked = np.stack([frame.mask[rows] != 0 for frame in frames])
        data[rows], sample[rows], count[rows] = _kept_mean(stack, masked, floor)
    return Plane(data, _sigma_of_mean(sample, count, len(frames), floor), np.where(count == 0, NO_DATA, 0).astype(np.uint8))


def _read(
    exposures: Sequence[Exposure],
    pixels: Pixels,
    left_out: list[LeftOut],
    scratch: Path | None,
    change: Callable[[_Frame], _Frame | LeftOut] = lambda frame: frame,
) -> list[_Waiting]:
    """Prepared and changed frames sorted by id; a second file with the same pixels is left out, since it brings no new noise."""
    shelf = _Shelf(scratch)
    frames: list[_Waiting] = []
    seen: dict[str, Exposure] = {}
    for exposure in sorted(exposures, key=lambda one: one.raw_id):
        if exposure.data_sha256 in seen:
            first = seen[exposure.data_sha256].path.name
            left_out.append(LeftOut(exposure, f"DUPLICATE: the same pixels as {first}", "Remove one of the two"))
            continue
        seen[exposure.data_sha256] = exposure
        data, mask = prepare(pixels(exposure), exposure)
        lost = (mask & NO_DATA) != 0
        level = float(np.median(data[~lost] if lost.any() else data)) if not lost.all() else 0.0
        # So that levels and differences stay numbers; the mask keeps these pixels out of the master.
        data[lost] = level
        changed = change(_Frame(exposure, data, mask, level))
        if isinstance(changed, LeftOut):
            left_out.append(changed)
        else:
            frames.append(shelf.keep(changed))
    return frames


def _refuse_outliers(
    frames: list[_Waiting], left_out: list[LeftOut], *, slack_adu: float, word: str, one_sided: bool = False
) -> list[_Waiting]:
    """Without those whose level is far from the group's: more than 8 mad and `slack_adu`."""
    if len(frames) < 3:
        return frames
    levels = np.array([frame.level for frame in frames])
    middle, limit = float(np.median(levels)), max(8 * mad_std(levels), slack_adu)
    kept: list[_Waiting] = []
    for frame in frames:
        excess = frame.level - middle
        if excess > limit or (not one_sided and -excess > limit):
            text = f"{word}: its median is {frame.level:.0f} adu, the group's {middle:.0f} (limit {limit:.0f})"
            left_out.append(LeftOut(frame.exposure, text, "Look at the frame; take it again"))
        else:
            kept.append(frame)
    return kept


def read_noise_adu(frames: Sequence[Floats | _OnDisk]) -> float | None:
    """From differences of consecutive frames, robustly; None for a single frame."""
    noises: list[float] = []
    for first, second in itertools.pairwise(frames):
        step = max(1, first.size >> 20)
        difference = second[::step] - first[::step]
        # Differences of integers make the MAD an integer too; spread evenly over their count, they do not (that adds 1/12).
        even = difference + np.random.default_rng(0).uniform(-0.5, 0.5, difference.shape)
        noise = math.sqrt(max(mad_std(even) ** 2 - 1 / 12, 0.0))
        noises.append(noise / math.sqrt(2))
    return float(np.median(noises)) if noises else None


def _few(n: int, wanted: int) -> tuple[str, ...]:
    return () if n >= wanted else ("FEW",)


def build_bias(exposures: Sequence[Exposure], pixels: Pixels, *, scratch: Path | None = None) -> Built | None:
    """Mean of the bias frames, clipped; None when no frame is left. Many large frames go through files in `scratch`."""
    left_out: list[LeftOut] = []
    frames = _refuse_outliers(_read(exposures, pixels, left_out, scratch), left_out, slack_adu=20.0, word="BIAS_LEVEL")
    if not frames:
        return None
    noise = read_noise_adu([frame.data for frame in frames])
    plane = _combine([replace(frame, sigma_adu=noise or 0.0) for frame in frames])
    return Built(plane, tuple(f.exposure for f in frames), tuple(left_out), float(np.median(plane.data)), noise, _few(len(frames), 5))


def build_dark(exposures: Sequence[Exposure], pixels: Pixels, bias: Plane | None, *, scratch: Path | None = None) -> Built | None:
    """Mean of the dark frames of one exposure time above `bias` (without one they keep it), each frame's own offset removed.

    Residual light and warming shift a whole dark by some counts; the offset from the group's median is taken out of each frame
    and noted, so that the clip sees pixels, not frames.
    """
    left_out: list[LeftOut] = []
    read = _read(exposures, pixels, left_out, scratch, (lambda frame: frame) if bias is None else (lambda frame: _above(frame, bias)))
    noise = read_noise_adu([frame.data for frame in read])
    frames = _refuse_outliers(read, left_out, slack_adu=30.0, word="LIT_DARK")
    if not frames:
        return None
    level = float(np.median([frame.level for frame in frames]))
    lowest = 0.0 if bias is None else -0.5 * abs(float(np.median(bias.data))) - 50.0
    if level < lowest:
        text = f"BELOW_BIAS: its level is {level:.0f} adu above the bias: the bias seems to be off already"
        return Built(_nothing(), (), (*left_out, *(LeftOut(f.exposure, text, "Give raw darks") for f in frames)), level, None, ())
    offsets = [frame.level - level for frame in frames]
    plane = _combine([replace(frame, offset=offset, sigma_adu=noise or 0.0) for frame, offset in zip(frames, offsets, strict=True)])
    hot = plane.data - np.float32(np.median(plane.data)) > max(50 * mad_std(plane.data), 20 * (noise or 0.0), 100.0)
    plane.mask[hot] |= np.uint8(BAD)
    flags = list(_few(len(frames), 3))
    by_time = [o for _, o in sorted((f.exposure.start_ns or 0, o) for f, o in zip(frames, offsets, strict=True))]
    if len(by_time) >= 3 and abs(by_time[-1] - by_time[0]) > 1.0 and (by_time in (sorted(by_time), sorted(by_time, reverse=True))):
        flags.append("DRIFT")
    notes = tuple(
        f"raw {f.exposure.raw_id[:12]}: own offset {o:+.1f} adu removed" for f, o in zip(frames, offsets, strict=True) if abs(o) >= 0.5
    )
    return Built(plane, tuple(f.exposure for f in frames), tuple(left_out), level, noise, tuple(flags), notes)


def _above(frame: _Frame, below: Plane, scale: float = 1.0) -> _Frame:
    data = frame.data - np.float32(scale) * below.data
    mask = frame.mask | (below.mask & np.uint8(NO_DATA))
    return _Frame(frame.exposure, data, mask, float(np.median(data)))


def build_flat(
    exposures: Sequence[Exposure],
    pixels: Pixels,
    below: Callable[[Exposure], tuple[Plane | None, Plane | None, float]],
    read_noise: float,
    *,
    scratch: Path | None = None,
) -> Built | None:
    """Mean of the flats, each above bias and dark and divided by its own level, normed to a mean of 1 over unmasked pixels.

    `below` gives (bias, dark, dark scale) for a flat. Sky flats are taken at very different levels: they are brought to one
    level BEFORE clipping, otherwise the brightest frame would be clipped away as a whole.
    """
    left_out: list[LeftOut] = []
    flags: set[str] = set()

    def at_level_1(raw: _Frame) -> _Frame | LeftOut:
        rules, saturation = raw.exposure.camera.settings, raw.exposure.saturation_adu
        refused = _flat_level(raw, rules.flat_low, rules.flat_high, saturation)
        if refused:
            return LeftOut(raw.exposure, refused, "Take flats between 0.1 and 0.75 of saturation")
        if math.isfinite(saturation) and not 0.1 <= raw.level / saturation <= 0.75:
            flags.add("LEVEL")
        bias, dark, scale = below(raw.exposure)
        frame = raw if bias is None else _above(raw, bias)
        frame = frame if dark is None else _above(frame, dark, scale)
        gain = raw.exposure.gain_e_per_adu or 1.0
        if frame.level <= 0:
            return LeftOut(raw.exposure, f"FLAT_LEVEL: {frame.level:.0f} adu above the bias", "Take it again, brighter")
        relative = math.sqrt(frame.level / gain + read_noise**2) / frame.level
        return replace(frame, data=frame.data / np.float32(frame.level), sigma_adu=relative)

    frames = _read(exposures, pixels, left_out, scratch, at_level_1)
    if not frames:
        return None if not left_out else Built(_nothing(), (), tuple(left_out), 0.0, None, ())
    plane = _combine(frames)
    invalid = _invalid(plane) | (plane.mask != 0)
    if invalid.all():
        text = "FLAT_STRUCTURE: no pixel has a level like its neighbours'"
        left_out.extend(LeftOut(frame.exposure, text, "Look at the frame; take it again") for frame in frames)
        return Built(_nothing(), (), tuple(left_out), 0.0, None, ())
    norm = float(np.mean(plane.data[~invalid], dtype=np.float64))
    data, sigma = plane.data / np.float32(norm), plane.sigma / np.float32(norm)
    # A pixel's noise follows its own light: dim corners are known less well.
    sigma = sigma * np.sqrt(np.clip(data, 0.05, None))
    data[invalid], sigma[invalid] = 1.0, 0.0
    mask = np.where(invalid, plane.mask | FLAT_INVALID, plane.mask).astype(np.uint8)
    level = float(np.median([frame.level for frame in frames]))
    return Built(
        Plane(data, sigma.astype(np.float32), mask),
        tuple(f.exposure for f in frames),
        tuple(left_out),
        level,
        None,
        (*_few(len(frames), 3), *sorted(flags)),
        (f"norm: mean of {int((~invalid).sum())} unmasked pixels",),
    )


def _nothing() -> Plane:
    return Plane(np.empty((0, 0), np.float32), np.empty((0, 0), np.float32), np.empty((0, 0), np.uint8))


def _flat_level(frame: _Frame, low: float, high: float, saturation: float) -> str:
    full = float(np.count_nonzero(frame.mask & SATURATED)) / frame.mask.size
    if full > 0.02:
        return f"FLAT_SATURATED: {100 * full:.1f} % of its pixels are saturated"
    if math.isfinite(saturation) and not low <= frame.level / saturation <= high:
        return f"FLAT_LEVEL: its median is {frame.level / saturation:.2f} of saturation, outside {low:g} to {high:g}"
    return ""


def _invalid(plane: Plane) -> NDArray[np.bool_]:
    """Below a fifth of the whole, or under half or over one and a half of the neighbourhood: dead, dust-blind or hot."""
    data = plane.data
    middle = float(np.median(data))
    size = 32
    ny, nx = (max(1, n // size) for n in data.shape)
    if data.shape[0] < 2 * size or data.shape[1] < 2 * size:
        local = np.full(data.shape, middle, np.float32)
    else:
        whole = data[: ny * size, : nx * size].reshape(ny, size, nx, size)
        blocks = np.median(whole, axis=(1, 3))
        local = np.pad(
            np.kron(blocks, np.ones((size, size), np.float32)), ((0, data.shape[0] - ny * size), (0, data.shape[1] - nx * size)), "edge"
        )
    # Blocks in full shadow have no valid neighbourhood: only the whole frame's level counts there.
    ratio = data / np.where(local > 0.2 * middle, local, middle)
    return np.asarray(~np.isfinite(data) | (data < 0.2 * middle) | (ratio < 0.5) | (ratio > 1.5))
