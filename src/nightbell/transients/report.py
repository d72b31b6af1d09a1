"""Cut-outs of a candidate as one PNG: frame, reference, difference; the first two in one stretch, the third about zero."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from nightbell.contracts.errors import Failed
from nightbell.contracts.records import Candidate
from nightbell.transients.search import Searched

__all__ = ["write_cutouts"]

HALF = 31


def write_cutouts(
    candidates: tuple[Candidate, ...], searched: tuple[Searched, ...], folder: Path, *, most: int = 20
) -> tuple[Candidate, ...]:
    """Write a PNG for each of the first `most` candidates from the frame on which it is strongest; gives them with their paths."""
    out: list[Candidate] = []
    for number, candidate in enumerate(candidates):
        images = _images_of(candidate, searched) if number < most else None
        if images is None:
            out.append(candidate)
            continue
        path = folder / f"{candidate.candidate_id}.png"
        _write(path, images, candidate)
        out.append(msgspec.structs.replace(candidate, cutout=str(path)))
    return tuple(out)


def _images_of(candidate: Candidate, searched: tuple[Searched, ...]) -> tuple[NDArray[np.float32], ...] | None:
    for one in searched:
        if any(abs(d.x_px - candidate.x_px) < 1e-6 and abs(d.y_px - candidate.y_px) < 1e-6 for d in one.detections):
            return tuple(_cut(image, candidate.x_px, candidate.y_px) for image in one.images)
    return None


def _cut(image: NDArray[np.float32], x: float, y: float) -> NDArray[np.float32]:
    padded = np.pad(image, HALF, constant_values=np.float32(np.median(image)))
    ix, iy = round(x), round(y)
    return padded[iy : iy + 2 * HALF + 1, ix : ix + 2 * HALF + 1]


def _write(path: Path, images: tuple[NDArray[np.float32], ...], candidate: Candidate) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415  (heavy, and only for candidates)
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(7.8, 2.95), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    frame, reference, significance = images
    # One stretch for both, so that what differs is seen: asinh, for a new source on the slope of its galaxy is a small part of it.
    sky = float(np.median(frame))
    noise = max(1.4826 * float(np.median(np.abs(frame - sky))), 1e-6)
    high = float(np.arcsinh((np.max(frame) - sky) / (3 * noise)))
    shown = (
        (np.arcsinh((frame - sky) / (3 * noise)), "tonight", -0.6, high),
        (np.arcsinh((reference - sky) / (3 * noise)), "reference", -0.6, high),
        (significance, "difference (sigma)", -8.0, 8.0),
    )
    for place, (image, title, bottom, top) in enumerate(shown, start=1):
        axes = figure.add_subplot(1, 3, place)
        axes.imshow(image, origin="lower", cmap="gray", vmin=bottom, vmax=max(top, bottom + 1e-6), interpolation="nearest")
        axes.set_title(title, fontsize=8)
        axes.set_axis_off()
        for dx, dy in ((1, 0), (0, 1)):
            axes.plot([HALF + 5 * dx, HALF + 12 * dx], [HALF + 5 * dy, HALF + 12 * dy], color="#e33", linewidth=1)
    host = f", {candidate.host_separation_arcsec:.1f} arcsec from {candidate.host}" if candidate.host else ""
    figure.suptitle(f"{candidate.ra_deg:.5f} {candidate.dec_deg:+.5f}  S/N {candidate.snr:.0f}{host}", fontsize=8)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="png", metadata={"Software": None})
    except OSError as error:
        raise Failed(f"the cut-out cannot be written: {error.strerror}", where=str(path), remedy="Check space and permissions") from error
