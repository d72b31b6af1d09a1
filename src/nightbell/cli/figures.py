"""Pictures of reports: charts as SVG that follows the page's light or dark colours, frames as PNG. matplotlib without a display.

A chart is drawn in the colours of `_INKS`; in the SVG each becomes a variable of the page's style sheet (`STYLE`), text stays text.
"""

from __future__ import annotations

import base64
import io
import itertools
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightbell.contracts.instants import format_utc
from nightbell.contracts.records import PlanItem, Site, Target

__all__ = ["STYLE", "alone", "as_data_uri", "event_lanes", "frame_png", "night_chart", "sky_map"]

Array = NDArray[np.float64]

# name -> (colour while drawing, light page, dark page). The first must be unique: it is searched in the SVG.
_INKS: dict[str, tuple[str, str, str]] = {
    "ink": ("#010203", "#1d2733", "#e3e8ee"),
    "faint": ("#8a8b8c", "#6b7785", "#8d9aa9"),
    "grid": ("#c1c2c3", "#d5dbe2", "#36404c"),
    "paper": ("#fdfcfb", "#ffffff", "#171c22"),
    "civil": ("#eef0f1", "#e9eef5", "#1e2731"),
    "nautical": ("#d3d4d6", "#d3dde9", "#1a2330"),
    "astronomical": ("#b4b5b7", "#bccadb", "#151d2b"),
    "dark": ("#9a9b9d", "#a5b6cb", "#0f1623"),
    "inner": ("#fb923d", "#f08a3c", "#d9772b"),
    "outer": ("#fed7ab", "#fbdcb8", "#5a3a1d"),
    "accent": ("#c2410d", "#b83a0b", "#ff9d6b"),
    "moon": ("#ca8a05", "#a16a00", "#e5c14f"),
    "good": ("#04785a", "#04785a", "#63d3ab"),
    "c0": ("#1d4ed9", "#1d4ed8", "#86aeff"),
    "c1": ("#c2410e", "#c2410c", "#ff9d6b"),
    "c2": ("#047858", "#047857", "#63d3ab"),
    "c3": ("#7c3aee", "#7c3aed", "#bfa2ff"),
    "c4": ("#be123d", "#be123c", "#ff8fa6"),
    "c5": ("#0e7491", "#0e7490", "#67d0ea"),
    "c6": ("#4d7c10", "#4d7c0f", "#add46a"),
    "c7": ("#a16208", "#a16207", "#e3b562"),
}


def _ink(name: str) -> str:
    return _INKS[name][0]


def _style() -> str:
    def block(column: int) -> str:
        return " ".join(f"--{name}: {inks[column]};" for name, inks in _INKS.items())

    return f":root {{ {block(1)} }}\n@media (prefers-color-scheme: dark) {{ :root {{ {block(2)} }} }}"


STYLE = _style()
"""CSS that defines the variables of the charts for light and dark pages."""


def as_data_uri(png: bytes) -> str:
    """PNG bytes as an `src` that needs no other file."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def alone(svg: str) -> str:
    """A chart of this module as a file of its own: a name space, its colours, and the fonts that a page would have given it."""
    style = STYLE.replace(":root {", ":root { --sans: sans-serif;", 1) + "\nsvg { background: var(--paper); }"
    head, rest = svg.split(">", 1)
    return f'{head} xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">\n<style>{style}</style>{rest}\n'


def _figure(width_in: float, height_in: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in), layout="constrained", facecolor="none")
    FigureCanvasAgg(figure)
    return figure


def _svg(figure: Any, name: str, label: str) -> str:
    """The figure as an <svg> element for the middle of a page: colours as variables, ids of its own, no name spaces, no addresses."""
    import matplotlib as mpl

    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text).replace("xlink:href", "href")
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    text = re.sub(r'href="#', f'href="#{name}-', text)
    text = re.sub(r"<svg [^>]*?viewBox=\"([^\"]+)\"[^>]*>", rf'<svg viewBox="\1" role="img" aria-label="{label}">', text, count=1)
    text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font: \1 var(--sans)", text)
    for ink, (drawn, _, _) in _INKS.items():
        text = text.replace(drawn, f"var(--{ink})")
    # matplotlib leaves pure black to the default of SVG, which no variable reaches.
    return text.replace("#000000", "var(--ink)").strip()


def _dress(axes: Any, *, size: float = 8.0) -> None:
    axes.set_facecolor("none")
    axes.tick_params(labelsize=size, colors=_ink("ink"), color=_ink("faint"), length=3)
    for spine in axes.spines.values():
        spine.set_color(_ink("faint"))
        spine.set_linewidth(0.6)
    axes.xaxis.label.set_color(_ink("ink"))
    axes.yaxis.label.set_color(_ink("ink"))


# -- the sky ------------------------------------------------------------------------------------------------------------


def _levels_at(sky: Any, ra_deg: Array, dec_deg: Array) -> Array:
    """Credible level (0 to 1) at a grid of positions."""
    from astropy import units as u
    from astropy_healpix import HEALPix

    healpix = HEALPix(nside=2**29, order="nested")
    cells = np.asarray(healpix.lonlat_to_healpix(ra_deg.ravel() % 360 * u.deg, dec_deg.ravel() * u.deg), dtype=np.int64)
    levels: Array = sky.levels_2d()[sky.rows_of_cells(cells)].reshape(ra_deg.shape)
    return levels


def sky_map(
    skymap: Path, targets: Sequence[Target], *, observed: frozenset[str] = frozenset(), new: Sequence[tuple[float, float]] = ()
) -> str:
    """A close-up with the targets, and all sky (Mollweide), both with the 50 and 90 % regions. East is left.

    `observed` holds target ids that were visited, `new` positions of what was found.
    """
    from nightbell.alerts.skymap_file import read_skymap

    sky = read_skymap(skymap)
    figure = _figure(9.6, 4.2)
    # The close-up first: on a phone only the left half is in sight.
    left, right = figure.add_gridspec(1, 2, width_ratios=[1, 1.2])
    _draw_near(figure.add_subplot(left), sky, targets, observed, new)
    _draw_whole(figure.add_subplot(right, projection="mollweide"), sky)
    return _svg(figure, "sky", "Sky map with the 50 and 90 percent credible regions: a close-up with the ranked targets, and all sky")


def _draw_whole(axes: Any, sky: Any) -> None:
    lon = np.linspace(-180, 180, 721)  # east is left: right ascension is 180 - longitude
    dec_deg = np.linspace(-90, 90, 361)
    ra_grid, dec_grid = np.meshgrid((180.0 - lon) % 360, dec_deg)
    levels = _levels_at(sky, ra_grid, dec_grid)
    axes.contourf(np.radians(lon), np.radians(dec_deg), levels, levels=[0, 0.5, 0.9], colors=[_ink("inner"), _ink("outer")])
    _draw_galactic_plane(axes)
    axes.grid(color=_ink("grid"), lw=0.5)
    axes.set_xticks(np.radians([-120, -60, 0, 60, 120]))
    axes.set_xticklabels(["20h", "16h", "12h", "8h", "4h"])
    axes.set_yticks(np.radians([-60, -30, 0, 30, 60]))
    _dress(axes, size=7.5)
    axes.tick_params(axis="x", colors=_ink("faint"))
    axes.set_title("all sky, ICRS; dotted: Galactic plane", fontsize=8.5, color=_ink("faint"))
    row = int(np.argmax(sky.rho))
    from nightbell.alerts.healpix import centres_of

    ra, dec = centres_of(int(sky.order[row]), np.asarray([sky.cell[row]]))
    here = (math.radians(180.0 - float(ra[0])), math.radians(float(dec[0])))
    axes.annotate("", here, xytext=(here[0] + 0.45, here[1] - 0.35), arrowprops={"arrowstyle": "->", "color": _ink("accent"), "lw": 1.0})


def _draw_galactic_plane(axes: Any) -> None:
    longitude = np.radians(np.linspace(0, 360, 721))
    # Columns: directions of l = 0, l = 90 deg and the pole in ICRS (ESA 1997, Hipparcos Catalogue vol. 1, 1.5.11).
    to_icrs = np.array(
        [
            [-0.0548755604, 0.4941094279, -0.8676661490],
            [-0.8734370902, -0.4448296300, -0.1980763734],
            [-0.4838350155, 0.7469822445, 0.4559837762],
        ]
    )
    x, y, z = to_icrs[:, 0:1] * np.cos(longitude) + to_icrs[:, 1:2] * np.sin(longitude)
    lon = np.degrees(np.arctan2(y, x)) % 360
    lon = 180.0 - lon
    order = np.argsort(lon)
    axes.plot(np.radians(lon[order]), np.arcsin(z)[order], ls=":", lw=0.9, color=_ink("faint"))


def _draw_near(axes: Any, sky: Any, targets: Sequence[Target], observed: frozenset[str], new: Sequence[tuple[float, float]]) -> None:
    places = [(target.ra_deg, target.dec_deg) for target in targets] or [(180.0, 0.0)]
    ra0, dec0 = places[0]
    turn = [((ra - ra0 + 180) % 360) - 180 for ra, _ in places]
    squeeze = max(0.05, math.cos(math.radians(dec0)))
    farthest_deg = max(*(abs(one) * squeeze for one in turn), *(abs(dec - dec0) for _, dec in places))
    half_deg = min(20.0, max(3.4, 1.35 * farthest_deg))
    dec_line = np.linspace(max(-89.9, dec0 - half_deg), min(89.9, dec0 + half_deg), 220)
    ra_line = ra0 + np.linspace(half_deg, -half_deg, 220) / squeeze
    levels = _levels_at(sky, *np.meshgrid(ra_line, dec_line))
    axes.contourf(ra_line, dec_line, levels, levels=[0, 0.5, 0.9], colors=[_ink("inner"), _ink("outer")], alpha=0.75)
    axes.contour(ra_line, dec_line, levels, levels=[0.5, 0.9], colors=[_ink("accent")], linewidths=0.7)
    named: list[tuple[float, float, str]] = []
    for target, offset in zip(targets[:40], turn, strict=False):
        seen = target.target_id in observed
        colour = _ink("c0")
        axes.plot(
            ra0 + offset,
            target.dec_deg,
            "o",
            ms=4.0 + 9.0 * math.sqrt(target.p_host or 0.0),
            mfc=colour if seen else "none",
            mec=colour,
            mew=1.1,
        )
        if target.rank <= 10 or seen:
            named.append((ra0 + offset, target.dec_deg, f"{target.rank} {target.name}"))
    _name_places(axes, named, ra0 - 0.42 * half_deg / squeeze, spacing_deg=0.12 * half_deg)
    for ra, dec in new:
        axes.plot(ra, dec, "*", ms=14, mfc=_ink("accent"), mec=_ink("paper"), mew=0.7, zorder=5)
    axes.set_xlim(ra_line[0], ra_line[-1])
    axes.set_ylim(dec_line[0], dec_line[-1])
    axes.set_aspect(1.0 / squeeze)
    axes.set_xlabel("right ascension (deg)", fontsize=8)
    axes.set_ylabel("declination (deg)", fontsize=8)
    _dress(axes)
    axes.set_title("targets by rank; filled: observed; star: new source", fontsize=8.5, color=_ink("faint"))


def _name_places(axes: Any, named: Sequence[tuple[float, float, str]], column_ra_deg: float, *, spacing_deg: float) -> None:
    """Names in a column beside the places, so that those of a tight group stay readable; a thin line leads to each place."""
    heights: list[float] = []
    for _, dec, _ in sorted(named, key=lambda one: -one[1]):
        heights.append(min(dec, heights[-1] - spacing_deg) if heights else dec)
    lift = (sum(dec for _, dec, _ in named) - sum(heights)) / max(len(named), 1)
    for (ra, dec, name), height in zip(sorted(named, key=lambda one: -one[1]), heights, strict=True):
        line = {"arrowstyle": "-", "color": _ink("faint"), "lw": 0.6, "shrinkA": 1, "shrinkB": 4}
        axes.annotate(name, (ra, dec), xytext=(column_ra_deg, height + lift), fontsize=7.5, color=_ink("ink"), va="center", arrowprops=line)


# -- the night ----------------------------------------------------------------------------------------------------------


def _clock_axis(axes: Any, start_ns: int, end_ns: int) -> None:
    """Ticks at round UTC times on an axis of hours after `start_ns`."""
    span_h = (end_ns - start_ns) / 3.6e12
    step_min = next((one for one in (5, 10, 15, 30, 60, 120) if span_h * 60 / one <= 13), 180)
    step_ns = step_min * 60_000_000_000
    first = -(-start_ns // step_ns) * step_ns
    ticks = list(range(first, end_ns + 1, step_ns))
    axes.set_xticks([(one - start_ns) / 3.6e12 for one in ticks], [format_utc(one, digits=0)[11:16] for one in ticks])
    axes.set_xlim(0, span_h)
    axes.set_xlabel(f"UTC, evening of {format_utc(start_ns, digits=0)[:10]}", fontsize=8)


def night_chart(
    site: Site,
    start_ns: int,
    end_ns: int,
    items: Sequence[PlanItem],
    taken: Sequence[tuple[str, int, int]] = (),
    states: Sequence[tuple[int, str]] = (),
    marks: Sequence[tuple[int, str]] = (),
    altitude_min_deg: float | None = None,
) -> str:
    """Altitude and airmass against time: each target thin, what was exposed thick; twilight shaded; the Moon dashed.

    `taken` holds (target_id, start_ns, end_ns) of what was really exposed, `states` (at_ns, state) of the night machine, drawn as
    a band below, `marks` (at_ns, text) of what else happened.
    """
    from nightbell.alerts.visibility import altaz_of
    from nightbell.sky.ephemeris import moon_altaz, sun_altaz

    figure = _figure(9.6, 4.3)
    axes, band = figure.subplots(2, 1, sharex=True, height_ratios=[12, 1.1])
    times_ns = np.linspace(start_ns, end_ns, 361).astype(np.int64)
    hours = (times_ns - start_ns) / 3.6e12
    sun_deg = np.asarray(sun_altaz(site, times_ns)[0])
    for limit_deg, ink in ((-0.833, "civil"), (-6.0, "nautical"), (-12.0, "astronomical"), (-18.0, "dark")):
        axes.fill_between(hours, 0, 90, where=sun_deg < limit_deg, color=_ink(ink), lw=0, zorder=0)
    axes.plot(hours, np.asarray(moon_altaz(site, times_ns)[0]), ls=(0, (5, 3)), lw=1.1, color=_ink("moon"), label="Moon")
    by_target = {item.target_id: item for item in items}
    for n, item in enumerate(by_target.values()):
        ink = _ink(f"c{n % 8}")
        altitude_deg = altaz_of(site, np.array([item.ra_deg]), np.array([item.dec_deg]), times_ns)[0][0]
        axes.plot(hours, altitude_deg, lw=1.0, color=ink, label=item.name if n < 8 else None)
        for target_id, from_ns, to_ns in taken:
            if target_id == item.target_id:
                edge = (np.array([from_ns, to_ns]) - start_ns) / 3.6e12
                axes.plot(edge, np.interp(edge, hours, altitude_deg), lw=5, color=ink, solid_capstyle="butt")
    if altitude_min_deg is not None:
        axes.axhline(altitude_min_deg, ls="--", lw=0.7, color=_ink("faint"))
    for n, (at_ns, text) in enumerate(marks):
        hour = (at_ns - start_ns) / 3.6e12
        axes.axvline(hour, color=_ink("accent"), lw=0.8, ls=":")
        axes.text(hour, 88 - 5.5 * (n % 3), f"  {text}", fontsize=7.5, color=_ink("accent"), va="top")
    axes.set_ylim(0, 90)
    axes.set_ylabel("altitude (deg)", fontsize=8)
    _dress(axes)
    airmass = axes.secondary_yaxis("right")
    ticks_deg = [15, 20, 25, 30, 40, 55, 90]
    airmass.set_yticks(ticks_deg, [f"{1 / math.sin(math.radians(one + 244 / (165 + 47 * one**1.1))):.1f}" for one in ticks_deg])
    airmass.set_ylabel("airmass", fontsize=8)
    _dress(airmass)
    legend = axes.legend(fontsize=7.5, loc="lower right", ncols=2, frameon=False, labelcolor=_ink("ink"))
    legend.set_zorder(6)
    _draw_states(band, start_ns, end_ns, states)
    _clock_axis(band, start_ns, end_ns)
    return _svg(figure, "night", "Altitude and airmass of the targets through the night, with twilight, the Moon and what was exposed")


_STATE_INKS = {"observing": "good", "twilight": "c7", "opening": "c5", "closing": "c5", "sheltering": "c4", "paused": "c4", "fault": "c4"}


def _draw_states(axes: Any, start_ns: int, end_ns: int, states: Sequence[tuple[int, str]]) -> None:
    axes.set_ylim(0, 1)
    axes.set_yticks([])
    _dress(axes)
    edges = [*states, (end_ns, "")]
    for (from_ns, state), (to_ns, _) in itertools.pairwise(edges):
        left, right = (max(from_ns, start_ns) - start_ns) / 3.6e12, (min(to_ns, end_ns) - start_ns) / 3.6e12
        if right <= left:
            continue
        axes.axvspan(left, right, color=_ink(_STATE_INKS.get(state, "grid")), alpha=0.35, lw=0)
        if (right - left) > (end_ns - start_ns) / 3.6e12 * 0.055:
            axes.text((left + right) / 2, 0.48, state.replace("_", " "), ha="center", va="center", fontsize=7.5, color=_ink("ink"))
    axes.set_ylabel("night", fontsize=8, rotation=0, ha="right", va="center")


def event_lanes(events: Sequence[tuple[str, str, int]], start_ns: int, end_ns: int, *, rate: float = 1.0) -> str:
    """Every event as a mark in the lane of the module that said it. `events` holds (module, type, world ns)."""
    lanes = list(dict.fromkeys(module for module, _, _ in events))
    nouns = list(dict.fromkeys(kind.partition(".")[0] for _, kind, _ in events))
    figure = _figure(9.6, 0.9 + 0.36 * max(len(lanes), 1))
    axes = figure.add_subplot()
    for n, noun in enumerate(nouns):
        mine = [(module, at_ns) for module, kind, at_ns in events if kind.startswith(f"{noun}.")]
        axes.plot(
            [(at_ns - start_ns) / 3.6e12 for _, at_ns in mine],
            [lanes.index(module) for module, _ in mine],
            ms=5,
            mfc=_ink(f"c{n % 8}"),
            mec=_ink("paper"),
            mew=0.5,
            ls="none",
            marker="osD^vP"[n // 8 % 6],
            label=noun,
        )
    axes.set_yticks(range(len(lanes)), lanes)
    axes.set_ylim(len(lanes) - 0.4, -0.6)
    axes.grid(axis="y", color=_ink("grid"), lw=0.5)
    _dress(axes)
    _clock_axis(axes, start_ns, end_ns)
    if rate > 1.5:
        above = axes.secondary_xaxis("top", functions=(lambda hours: hours * 3600 / rate, lambda real_s: real_s * rate / 3600))
        above.set_xlabel("real seconds", fontsize=8)
        _dress(above)
    figure.legend(fontsize=7.5, loc="outside lower center", ncols=min(10, max(1, len(nouns))), frameon=False, labelcolor=_ink("ink"))
    return _svg(figure, "lanes", "Events of the night by module")


# -- frames -------------------------------------------------------------------------------------------------------------


def stretch(image: NDArray[Any]) -> tuple[NDArray[np.uint8], float, float]:
    """(8-bit picture, low, high): asinh from median - 2 sigma to the 99.7th percentile + 10 sigma; row 0 at the bottom becomes the last."""
    sample = np.asarray(image[::4, ::4], dtype=np.float32)
    sample = sample[np.isfinite(sample)]
    if sample.size == 0:
        return np.zeros(image.shape, np.uint8), 0.0, 1.0
    middle = float(np.median(sample))
    sigma = 1.4826 * float(np.median(np.abs(sample - middle))) or 1.0
    low, high = middle - 2 * sigma, float(np.percentile(sample, 99.7)) + 10 * sigma
    scaled = np.clip((np.nan_to_num(np.asarray(image, dtype=np.float32), nan=low) - low) / max(high - low, 1e-6), 0, 1)
    return (255 * np.arcsinh(10 * scaled) / np.arcsinh(10.0)).astype(np.uint8)[::-1], low, high


def frame_png(path: Path, *, longest_px: int = 640) -> tuple[bytes, str]:
    """(PNG, words about it): a FITS frame in its own stretch, at most `longest_px` on a side, with unit and limits of the stretch."""
    from astropy.io import fits
    from PIL import Image

    with fits.open(path, memmap=False) as opened:
        hdu = next(one for one in opened if one.data is not None and one.data.ndim == 2)
        pixels, unit = np.asarray(hdu.data, dtype=np.float32), str(hdu.header.get("BUNIT", "adu"))
    step = max(1, -(-max(pixels.shape) // longest_px))
    if step > 1:
        rows, columns = pixels.shape[0] // step * step, pixels.shape[1] // step * step
        pixels = pixels[:rows, :columns].reshape(rows // step, step, columns // step, step).mean(axis=(1, 3))
    picture, low, high = stretch(pixels)
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", optimize=True)
    return buffer.getvalue(), f"{low:,.0f} to {high:,.0f} {unit}, asinh"
