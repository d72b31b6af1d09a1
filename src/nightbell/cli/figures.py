"""Pictures of reports as PNG bytes: sky map, the night's chart, frames side by side. matplotlib without a display."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightbell.contracts.instants import parse_utc
from nightbell.contracts.records import PlanItem, Site, Target

__all__ = ["as_data_uri", "frame_pair", "night_chart", "sky_map", "stretch"]

INK, FAINT, ACCENT, SECOND = "#1d2733", "#8a97a6", "#c2410c", "#1d4ed8"
NS_PER_H = 3_600_000_000_000


def as_data_uri(png: bytes) -> str:
    """PNG bytes as an `src` that needs no other file."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _figure(width_in: float, height_in: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _png(figure: Any, dpi: int = 110) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def _grid_levels(skymap: Path, n_ra: int, n_dec: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Credible level (0 to 1) of the map on a grid of right ascension and declination, both in degrees."""
    from astropy_healpix import HEALPix

    from nightbell.alerts.skymap import read_skymap

    sky = read_skymap(skymap)
    ra_deg = (np.arange(n_ra) + 0.5) * 360 / n_ra
    dec_deg = -90 + (np.arange(n_dec) + 0.5) * 180 / n_dec
    grid_ra, grid_dec = np.meshgrid(ra_deg, dec_deg)
    from astropy import units as u

    deepest = 29
    cells = HEALPix(nside=2**deepest, order="nested").lonlat_to_healpix(grid_ra.ravel() * u.deg, grid_dec.ravel() * u.deg)
    levels = sky.levels_2d()[sky.rows_of_cells(np.asarray(cells, dtype=np.int64))]
    return ra_deg, dec_deg, levels.reshape(grid_ra.shape)


def sky_map(skymap: Path, targets: Sequence[Target], host: Target | None = None) -> bytes:
    """All-sky Mollweide view with the 50 and 90 % regions, and a close-up with the targets. East is left."""
    figure = _figure(9.2, 3.9)
    whole = figure.add_subplot(1, 2, 1, projection="mollweide")
    ra_deg, dec_deg, levels = _grid_levels(skymap, 720, 360)
    east_left = np.radians(-((ra_deg - 180 + 180) % 360 - 180))
    order = np.argsort(east_left)
    whole.contourf(east_left[order], np.radians(dec_deg), levels[:, order], levels=[0, 0.5, 0.9], colors=["#fb923c", "#fed7aa"])
    whole.grid(color=FAINT, alpha=0.35)
    whole.set_xticks(np.radians([-120, -60, 0, 60, 120]))
    whole.set_xticklabels(["20h", "16h", "12h", "8h", "4h"], fontsize=7, color=FAINT)
    whole.tick_params(axis="y", labelsize=7, colors=FAINT)
    whole.set_title("credible regions, 50 and 90 %", fontsize=9, color=INK)

    near = figure.add_subplot(1, 2, 2)
    ras = np.array([target.ra_deg for target in targets]) if targets else np.array([180.0])
    decs = np.array([target.dec_deg for target in targets]) if targets else np.array([0.0])
    centre_ra, centre_dec = float(np.median(ras)), float(np.median(decs))
    half = max(4.0, float(np.ptp(decs)) * 0.7, float(np.ptp(ras)) * 0.7)
    step = half / 100
    dec_line = np.arange(max(-89.9, centre_dec - half), min(89.9, centre_dec + half), step)
    ra_line = np.arange(centre_ra - half / np.cos(np.radians(centre_dec)), centre_ra + half / np.cos(np.radians(centre_dec)), step)
    near_levels = _levels_at(skymap, ra_line, dec_line)
    near.contourf(ra_line, dec_line, near_levels, levels=[0, 0.5, 0.9], colors=["#fb923c", "#fed7aa"])
    for target in targets[:25]:
        chosen = host is not None and target.name == host.name
        near.plot(target.ra_deg, target.dec_deg, "o", ms=7 if chosen else 4, color=ACCENT if chosen else SECOND, mec="white", mew=0.5)
        if target.rank <= 8 or chosen:
            near.annotate(
                f"{target.rank} {target.name}", (target.ra_deg, target.dec_deg), xytext=(4, 3), textcoords="offset points", fontsize=6
            )
    near.set_xlim(ra_line[-1], ra_line[0])
    near.set_ylim(dec_line[0], dec_line[-1])
    near.set_xlabel("right ascension (deg)", fontsize=7)
    near.set_ylabel("declination (deg)", fontsize=7)
    near.tick_params(labelsize=7)
    near.set_title("targets by rank", fontsize=9, color=INK)
    return _png(figure)


def _levels_at(skymap: Path, ra_line: NDArray[Any], dec_line: NDArray[Any]) -> NDArray[Any]:
    from astropy import units as u
    from astropy_healpix import HEALPix

    from nightbell.alerts.skymap import read_skymap

    sky = read_skymap(skymap)
    ra_deg, dec_deg = np.meshgrid(ra_line % 360, dec_line)
    cells = HEALPix(nside=2**29, order="nested").lonlat_to_healpix(ra_deg.ravel() * u.deg, dec_deg.ravel() * u.deg)
    levels: NDArray[Any] = sky.levels_2d()[sky.rows_of_cells(np.asarray(cells, dtype=np.int64))].reshape(ra_deg.shape)
    return levels


def night_chart(
    site: Site,
    start_ns: int,
    end_ns: int,
    items: Sequence[PlanItem],
    taken: Sequence[tuple[str, int, int]],
    states: Sequence[tuple[int, str]],
) -> bytes:
    """Altitude against time: each target thin, what was exposed thick; twilight shaded; the Moon dashed; night states along the top.

    `taken` holds (target_id, start_ns, end_ns) of what was really exposed, `states` (at_ns, state) of the night machine.
    """
    from nightbell.sky.ephemeris import moon_altaz, sun_altaz, target_altaz

    figure = _figure(9.2, 3.6)
    axes = figure.add_subplot()
    times_ns = np.linspace(start_ns, end_ns, 240).astype(np.int64)
    hours = (times_ns - start_ns) / NS_PER_H
    sun_deg = np.asarray(sun_altaz(site, times_ns)[0])
    for limit_deg, colour in ((0.0, "#eef2f7"), (-6.0, "#d5deea"), (-12.0, "#b9c6d8"), (-18.0, "#9aabc3")):
        axes.fill_between(hours, 0, 90, where=sun_deg < limit_deg, color=colour, lw=0)
    axes.plot(hours, np.asarray(moon_altaz(site, times_ns)[0]), ls="--", lw=1, color="#ca8a04", label="Moon")
    drawn: set[str] = set()
    palette = ["#1d4ed8", "#c2410c", "#047857", "#7c3aed", "#be123c", "#0e7490", "#4d7c0f", "#a16207"]
    for item in items:
        if item.target_id in drawn:
            continue
        colour = palette[len(drawn) % len(palette)]
        drawn.add(item.target_id)
        altitude_deg = np.asarray(target_altaz(site, item.ra_deg, item.dec_deg, times_ns)[0])
        axes.plot(hours, altitude_deg, lw=0.8, color=colour, alpha=0.7, label=item.name if len(drawn) <= 8 else None)
        for target_id, from_ns, to_ns in taken:
            if target_id == item.target_id:
                inside = (times_ns >= from_ns - 120 * 10**9) & (times_ns <= to_ns + 120 * 10**9)
                axes.plot(hours[inside], altitude_deg[inside], lw=4, color=colour, solid_capstyle="butt")
    for i, (at_ns, state) in enumerate(states):
        if start_ns <= at_ns <= end_ns:
            hour = (at_ns - start_ns) / NS_PER_H
            axes.axvline(hour, color=FAINT, lw=0.5)
            axes.text(hour, 88 - 5 * (i % 4), f" {state}", fontsize=6, color=INK, va="top")
    axes.set_ylim(0, 90)
    axes.set_xlim(0, hours[-1])
    axes.set_xlabel(f"hours after {_clock(start_ns)} UTC", fontsize=8)
    axes.set_ylabel("altitude (deg)", fontsize=8)
    airmass = axes.secondary_yaxis("right")
    ticks_deg = [17, 20, 30, 42, 60, 90]
    airmass.set_yticks(ticks_deg, [f"{1 / np.sin(np.radians(tick)):.1f}" for tick in ticks_deg])
    airmass.set_ylabel("airmass", fontsize=8)
    axes.tick_params(labelsize=7)
    airmass.tick_params(labelsize=7)
    axes.legend(fontsize=6, loc="lower right", ncols=2, framealpha=0.85)
    return _png(figure)


def _clock(at_ns: int) -> str:
    from nightbell.contracts.instants import format_utc

    return format_utc(at_ns, digits=0).replace("T", " ").removesuffix("Z")


def stretch(image: NDArray[Any]) -> NDArray[np.uint8]:
    """8-bit picture of a frame: from median - 2 sigma to the 99.7th percentile + 10 sigma, asinh; row 0 at the bottom becomes the last."""
    sample = np.asarray(image[::4, ::4], dtype=np.float32)
    sample = sample[np.isfinite(sample)]
    middle = float(np.median(sample))
    sigma = 1.4826 * float(np.median(np.abs(sample - middle))) or 1.0
    low, high = middle - 2 * sigma, float(np.percentile(sample, 99.7)) + 10 * sigma
    scaled = np.clip((np.nan_to_num(np.asarray(image, dtype=np.float32), nan=low) - low) / max(high - low, 1e-6), 0, 1)
    return (255 * np.arcsinh(10 * scaled) / np.arcsinh(10.0)).astype(np.uint8)[::-1]


def frame_pair(raw: Path, calibrated: Path) -> bytes:
    """A raw and its calibrated frame side by side, each in its own stretch."""
    from astropy.io import fits

    figure = _figure(9.2, 4.8)
    for i, (path, title) in enumerate(((raw, "raw (adu)"), (calibrated, "calibrated (electron)"))):
        axes = figure.add_subplot(1, 2, i + 1)
        axes.imshow(stretch(fits.getdata(path)), cmap="gray", interpolation="nearest")
        axes.set_title(title, fontsize=9, color=INK)
        axes.set_axis_off()
    return _png(figure, dpi=120)


def instants(*texts: str) -> list[int]:
    """UTC texts as nanoseconds."""
    return [parse_utc(text) for text in texts]
