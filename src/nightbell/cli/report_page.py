"""A story as one HTML page: everything inside, no script, no network; light and dark follow the reader's choice.

Story -> sections (each a function that gives HTML, or "" when there is nothing to say) -> page
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from nightbell.cli import figures
from nightbell.cli.story import Outcome, Story
from nightbell.contracts.errors import NightbellError
from nightbell.contracts.events import (
    CalibrationBlocked,
    CalibrationDone,
    CalibrationFailed,
    ObservationDone,
    ObservationStarted,
    OperatorActed,
)
from nightbell.contracts.instants import format_utc, parse_utc
from nightbell.contracts.states import FrameType, NightState

__all__ = ["page", "sexagesimal"]

LONGEST_LOG = 3000
"""Rows of the event table; a page with more is no pleasure to open."""

_CSS = Path(__file__).with_name("report.css")


def page(story: Story) -> str:
    """The whole report."""
    parts = [
        _opening(story),
        _facts(story),
        _sky(story),
        _night(story),
        _targets(story),
        _visits(story),
        _frames(story),
        _new(story),
        _latencies(story),
        _states(story),
        _alarms(story),
        _events(story),
        _processes(story),
    ]
    title = f"Night of {story.night or 'no name'} at {story.site.name}"
    body = "\n".join(part for part in parts if part)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{esc(title)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<meta name="color-scheme" content="light dark">\n'
        f"<style>{figures.STYLE}\n{_CSS.read_text(encoding='utf-8')}</style>\n</head>\n<body>\n{body}\n{_closing(story)}\n</body>\n</html>\n"
    )


def esc(value: object) -> str:
    return html.escape(str(value), quote=True)


def sexagesimal(ra_deg: float, dec_deg: float) -> str:
    """ICRS as people read it: 13:09:47.70 -23:23:02.0."""
    centiseconds = round(ra_deg % 360 / 15 * 360_000) % 8_640_000
    hours, rest = divmod(centiseconds, 360_000)
    minutes, seconds = divmod(rest, 6_000)
    tenths = round(abs(dec_deg) * 36_000)
    degrees, rest = divmod(tenths, 36_000)
    arcminutes, arcseconds = divmod(rest, 600)
    sign = "\u2212" if dec_deg < 0 else "+"
    return f"{hours:02d}:{minutes:02d}:{seconds / 100:05.2f} {sign}{degrees:02d}:{arcminutes:02d}:{arcseconds / 10:04.1f}"


def _clock(utc: str | None, *, day: bool = False) -> str:
    if not utc:
        return ""
    return utc[:19].replace("T", " ") if day else utc[11:19]


def _number(value: float | None, digits: int = 1) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def _percent(value: float | None) -> str:
    if value is None:
        return ""
    return f"{100 * value:.1f}\u00a0%" if value >= 0.001 else f"{100 * value:.2g}\u00a0%"


def _duration(seconds: float | None) -> str:
    """Seconds as people say them."""
    if seconds is None:
        return ""
    if abs(seconds) < 10:
        return f"{seconds:.2f}\u00a0s"
    if abs(seconds) < 120:
        return f"{seconds:.1f}\u00a0s"
    if abs(seconds) < 7200:
        return f"{seconds / 60:.1f}\u00a0min"
    return f"{seconds / 3600:.2f}\u00a0h"


Cell = str | tuple[str, str]
"""HTML, or (class, HTML)."""


def _table(head: Sequence[Cell], rows: Iterable[Sequence[Cell]], *, last_is_sum: bool = False) -> str:
    def cell(tag: str, one: Cell) -> str:
        kind, text = one if isinstance(one, tuple) else ("", one)
        return f'<{tag} class="{kind}">{text}</{tag}>' if kind else f"<{tag}>{text}</{tag}>"

    lines = [[cell("td", one) for one in row] for row in rows]
    body = []
    for i, row in enumerate(lines):
        kind = ' class="sum"' if last_is_sum and i == len(lines) - 1 else ""
        body.append(f"<tr{kind}>{''.join(row)}</tr>")
    return (
        f'<div class="scroll"><table><thead><tr>{"".join(cell("th", one) for one in head)}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _section(title: str, *parts: str) -> str:
    inner = "\n".join(part for part in parts if part)
    return f"<section>\n<h2>{esc(title)}</h2>\n{inner}\n</section>" if inner else ""


def _drawn(what: str, draw: Callable[[], str]) -> str:
    """The picture, or why there is none: a report of a broken night must still open."""
    try:
        return draw()
    except (NightbellError, OSError, ValueError, KeyError, StopIteration) as error:
        return f'<p class="note">No {what}: {esc(error)}</p>'


def _chart(svg: str, caption: str) -> str:
    """`caption` is HTML."""
    return f'<figure class="chart">{svg}<figcaption>{caption}</figcaption></figure>'


def _picture(png: bytes, alt: str, caption: str, *, kind: str = "") -> str:
    """`caption` is HTML."""
    uri = figures.as_data_uri(png)
    return f'<figure class="{kind or "frame"}"><img alt="{esc(alt)}" src="{uri}"><figcaption>{caption}</figcaption></figure>'


# -- the sections -------------------------------------------------------------------------------------------------------


def _opening(story: Story) -> str:
    said = story.title or "Report of the night"
    simulated = " The sky, the weather and the instruments were simulated." if story.simulated else ""
    lines = [f'<p class="lead">{" ".join(_tale(story))}{simulated}</p>']
    if story.missing:
        lines.append(f'<p class="lead bad">Missing at the end: {esc("; ".join(story.missing))}.</p>')
    return (
        f'<header>\n<p class="over">{esc(said)}</p>\n<h1>The night of {esc(story.night or "no name")} at {esc(story.site.name)}</h1>\n'
        + "\n".join(lines)
        + "\n</header>"
    )


def _tale(story: Story) -> list[str]:
    """The night in a few sentences."""
    told: list[str] = []
    for _envelope, event in story.alerts[:3]:
        alert = event.alert
        kinds = sorted(alert.classification.items(), key=lambda pair: -pair[1])
        what = f" (most likely {kinds[0][0]}, {_percent(kinds[0][1])})" if kinds and kinds[0][1] > 0 else ""
        far = f", one false alarm in {1 / alert.far_hz / 3.156e7:,.0f} years" if alert.far_hz else ""
        when = f" happened at {_clock(alert.time_utc, day=True)}\u00a0UTC" if alert.time_utc else " was announced"
        told.append(f"<b>{esc(alert.superevent_id)}</b>{what}{when}, seen by {esc(', '.join(alert.instruments) or 'unknown')}{far}.")
    outcomes = story.outcomes
    if outcomes:
        names = [f"{esc(one.target.name)}" for one in outcomes if one.observed]
        told.append(
            f"{len(outcomes)} targets were ranked for this site; {len(names)} were observed{': ' + ', '.join(names) if names else ''}."
        )
    elif not told:
        told.append("No alert was followed in this night.")
    for found, one in story.candidates[:3]:
        host = (
            f", {one.host_separation_arcsec:.1f} arcsec from {esc(one.host)}" if one.host and one.host_separation_arcsec is not None else ""
        )
        mag = f" of magnitude {one.mag:.1f}" if one.mag is not None else ""
        where = host or f" in the field of {esc(found.object_name or found.target_id)}"
        told.append(f"A new source{mag} was found at {sexagesimal(one.ra_deg, one.dec_deg)}{where}.")
    nearest = story.nearest_candidate()
    if nearest is not None:
        told.append(f"It lies {nearest[1]:.2f} arcsec from where the simulator had put one.")
    return told


def _facts(story: Story) -> str:
    lights, products = story.lights, story.products
    others = len(story.frames) - len(lights)
    calibrated = sum(one.sha256 in products for one in lights)
    facts: list[tuple[str, str, str, str]] = []
    if story.outcomes:
        facts.append(("targets observed", str(len(story.targets_observed)), f"of {len(story.outcomes)} ranked", ""))
    facts.append(("frames stored", str(len(story.frames)), f"{len(lights)} lights, {others} biases, darks, flats", ""))
    facts.append(("lights calibrated", str(calibrated), f"of {len(lights)}", "bad" if calibrated < len(lights) else ""))
    nearest = story.nearest_candidate()
    if nearest is not None:
        facts.append(("transient found", f"{nearest[1]:.2f}\u2033", "from the injected place", "good" if nearest[1] < 3 else "bad"))
    elif story.searches:
        facts.append(("new sources", str(len(story.candidates)), f"in {len(story.searches)} fields", ""))
    if story.truth is not None:
        closed = bool(story.truth.get("dome_closed"))
        facts.append(("dome", "closed" if closed else "OPEN", "by the simulator's truth", "good" if closed else "bad"))
    if story.audit is not None:
        n_lost, n_twice = len(story.audit.lost), len(story.audit.duplicates)
        facts.append(("events lost", str(n_lost), f"{n_twice} repeated, of {len(story.events)}", "bad" if n_lost or n_twice else "good"))
    span = story.span_ns
    if span is not None:
        world_s = (span[1] - span[0]) / 1e9
        real = f"in {_duration(world_s / story.rate)} of ours" if story.rate > 1.5 else ""
        facts.append(("length", _duration(world_s), real or "first to last event", ""))
    cells = "".join(
        f'<div><dt>{esc(name)}</dt><dd class="{kind}">{esc(value)}<small>{esc(more)}</small></dd></div>'
        for name, value, more, kind in facts
    )
    return f'<dl class="facts">{cells}</dl>'


def _sky(story: Story) -> str:
    maps = [event.skymap for _told, event in story.alerts if event.skymap is not None]
    if not maps:
        return ""
    targets = [one.target for one in story.outcomes]
    new = [(one.ra_deg, one.dec_deg) for _event, one in story.candidates]
    observed = frozenset(story.targets_observed)

    def draw() -> str:
        from nightbell.alerts.skymap_file import read_skymap

        sky = read_skymap(Path(maps[-1].path))
        svg = figures.sky_map(Path(maps[-1].path), targets, observed=observed, new=new)
        volume = f", 90\u00a0% volume {sky.volume_mpc3(0.9):,.0f}\u00a0Mpc\u00b3" if sky.has_distance else ""
        distance = (
            f", distance {sky.distance_mean_mpc:.0f} \u00b1 {sky.distance_std_mpc:.0f}\u00a0Mpc"
            if sky.distance_mean_mpc and sky.distance_std_mpc
            else ""
        )
        areas = f"50\u00a0% area {sky.area_deg2(0.5):,.1f}\u00a0deg\u00b2, 90\u00a0% area {sky.area_deg2(0.9):,.1f}\u00a0deg\u00b2"
        return _chart(svg, f"Strong: 50\u00a0% credible region, pale: 90\u00a0%. {areas}{volume}{distance}.")

    return _section("Where it may have been", _drawn("sky map", draw))


def _night(story: Story) -> str:
    span = story.span_ns
    if span is None:
        return ""
    pad_ns = round((span[1] - span[0]) * 0.02) + 60_000_000_000
    items = list({item.target_id: item for item in sorted(story.plan_items.values(), key=lambda one: one.start_utc)}.values())
    marks: list[tuple[int, str]] = []
    if story.alerts and story.alerts[0][0].world_ns is not None:
        marks.append((story.alerts[0][0].world_ns, "alert"))
    found = [told.world_ns for told in story.events if getattr(told.event, "candidates", ()) and told.world_ns is not None]
    if found:
        marks.append((found[0], "new source"))
    states = [(parse_utc(one.at_utc), one.state.value) for one in story.states]

    def draw() -> str:
        svg = figures.night_chart(story.site, span[0] - pad_ns, span[1] + pad_ns, items, story.exposed, states, marks)
        return _chart(
            svg,
            "Thin: where each planned target stood; thick: exposures. Shading: Sun below 0, \u22126, \u221212 and \u221218\u00b0. "
            "Altitudes without refraction; airmass after Pickering (2002). Below: the state of the night.",
        )

    return _section("The night", _drawn("chart of the night", draw))


def _targets(story: Story) -> str:
    rows = [_target_row(one) for one in story.outcomes]
    if not rows:
        return ""
    head: list[Cell] = [
        ("n", "rank"),
        "target",
        "RA, Dec (ICRS)",
        ("n", "Mpc"),
        ("n", "p(host)"),
        ("n", "2-D"),
        ("n", "3-D"),
        "up (UTC)",
        "why",
        "outcome",
    ]
    note = "2-D, 3-D: credible level at which the galaxy enters, on the sky and in space. Up: dark, and high enough for a whole visit."
    rest = [one for one in story.target_lists if one.not_in_catalog is not None]
    if rest:
        note += f" With a probability of {_percent(rest[-1].not_in_catalog)} the host is none of the catalogued galaxies."
    return _section("Targets, and why", _table(head, rows), f'<p class="note">{note}</p>')


def _target_row(one: Outcome) -> list[Cell]:
    target = one.target
    window = (
        f"{_clock(target.observable_from_utc)[:5]}\u2013{_clock(target.observable_until_utc)[:5]}" if target.observable_from_utc else ""
    )
    frames = ", ".join(f"{n}\u00d7{esc(name)}" for name, n in _by_filter(one).items())
    outcome = esc(one.words) + (f'<br><span class="dim">{frames}; calibrated: {one.n_calibrated}</span>' if frames else "")
    return [
        ("n", str(target.rank)),
        f"<b>{esc(target.name)}</b>",
        ("time", sexagesimal(target.ra_deg, target.dec_deg).replace(" ", "<br>")),
        ("n", _number(target.dist_mpc)),
        ("n", _percent(target.p_host)),
        ("n", _number(target.credible_level_2d, 2)),
        ("n", _number(target.credible_level_3d, 2)),
        ("time", window),
        ("wide", esc(target.why)),
        ("wide", outcome),
    ]


def _visits(story: Story) -> str:
    """Each line of the plans: when it was meant to be, when it was, and why it stood there."""
    began: dict[str, str] = {}
    for _told, event in story.all(ObservationStarted):
        began.setdefault(event.item.item_id, event.at_utc)
    ended = {event.item_id: event.at_utc for _told, event in story.all(ObservationDone)}
    failed = story.failed_items
    rows: list[list[Cell]] = []
    for item_id, item in sorted(story.plan_items.items(), key=lambda pair: began.get(pair[0], pair[1].start_utc)):
        unhappy = "" if item_id in ended else f'<span class="bad">{esc(failed.get(item_id, "not done"))}</span><br>'
        rows.append(
            [
                f"<b>{esc(item.name)}</b>",
                ("time", f"{esc(item.filter)}, {item.n_exposures}\u00d7{item.exposure_s:g}\u00a0s"),
                ("time", _clock(item.start_utc)),
                ("time", _clock(began.get(item_id))),
                ("time", _clock(ended.get(item_id))),
                ("n", _number(item.altitude_deg)),
                ("n", _number(item.airmass, 2)),
                ("n", _number(item.moon_separation_deg, 0)),
                ("n", _number(item.value, 3)),
                ("widest", unhappy + esc(item.reason)),
            ]
        )
    if not rows:
        return ""
    head: list[Cell] = [
        "target",
        "visit",
        "planned",
        "begun",
        "done",
        ("n", "alt. (\u00b0)"),
        ("n", "airmass"),
        ("n", "Moon (\u00b0)"),
        ("n", "value"),
        "why then",
    ]
    return _section("The plan, and what became of it", _table(head, rows))


def _by_filter(one: Outcome) -> dict[str, int]:
    counts: dict[str, int] = {}
    for frame in one.frames:
        counts[frame.filter or "no filter"] = counts.get(frame.filter or "no filter", 0) + 1
    return counts


def _frames(story: Story) -> str:
    parts = []
    pair = story.showpiece()
    if pair is not None:
        frame, product = pair

        def draw() -> str:
            raw, raw_words = figures.frame_png(Path(frame.path))
            done, done_words = figures.frame_png(Path(product.path))
            about = f"{esc(frame.object_name or frame.target_id or 'light')}, filter {esc(frame.filter)}, {frame.exposure_s:g}\u00a0s"
            left = f"<b>Raw.</b> {about}, {_clock(frame.date_obs_utc, day=True)}\u00a0UTC. Shown: {esc(raw_words)}."
            right = (
                f"<b>Calibrated.</b> Bias, dark and flat of this night; median {product.median:,.1f}, noise {product.noise:,.2f} a pixel. "
                f"Shown: {esc(done_words)}."
            )
            return f'<div class="pair">{_picture(raw, "raw frame", left)}{_picture(done, "calibrated frame", right)}</div>'

        parts.append(_drawn("pair of frames", draw))
    parts.append(_masters(story))
    parts.append(_frame_list(story))
    problems = [
        *(f"{Path(one.source).name} waits for {', '.join(one.missing)}" for _t, e in story.all(CalibrationBlocked) for one in e.blocked),
        *(f"{Path(one.source).name}: {one.error}. {one.remedy}" for _t, e in story.all(CalibrationFailed) for one in e.failed),
    ]
    if problems:
        parts.append(
            "<details><summary>Frames that waited or failed</summary>" + _table(["what"], [[esc(one)] for one in problems]) + "</details>"
        )
    return _section("Frames, raw and calibrated", *parts)


def _masters(story: Story) -> str:
    masters = {one.product_id: one for _told, event in story.all(CalibrationDone) for one in event.masters}
    rows: list[list[Cell]] = [
        [
            esc(one.kind),
            esc(one.filter or ""),
            ("n", "" if one.exposure_s is None else f"{one.exposure_s:g}"),
            ("n", str(one.n_frames)),
            f'<span class="{"good" if one.status == "good" else "bad"}">{esc(one.status)}</span>',
            ("mono", esc(one.product_id[:16])),
        ]
        for one in masters.values()
    ]
    if not rows:
        return ""
    return "<h3>Master frames</h3>" + _table(["kind", "filter", ("n", "exposure (s)"), ("n", "frames"), "status", "product"], rows)


def _frame_list(story: Story) -> str:
    products = story.products
    rows: list[list[Cell]] = []
    for one in sorted(story.frames.values(), key=lambda frame: frame.date_obs_utc):
        product = products.get(one.sha256)
        rows.append(
            [
                ("time", _clock(one.date_obs_utc)),
                esc(one.frame_type.value.lower()),
                esc(one.filter or ""),
                ("n", f"{one.exposure_s:g}"),
                esc(one.object_name or ""),
                esc(product.status) if product is not None else ("waiting" if one.frame_type is FrameType.LIGHT else ""),
                ("n", _number(product.median) if product is not None else ""),
                ("n", _number(product.noise, 2) if product is not None else ""),
                ("path", esc(Path(one.path).name)),
            ]
        )
    if not rows:
        return ""
    head: list[Cell] = [
        "UTC",
        "type",
        "filter",
        ("n", "exposure (s)"),
        "object",
        "calibrated",
        ("n", "median (e)"),
        ("n", "noise (e)"),
        "file",
    ]
    return f"<details><summary>All {len(rows)} frames</summary>{_table(head, rows)}</details>"


def _new(story: Story) -> str:
    if not story.searches:
        return ""
    parts: list[str] = []
    for event, one in story.candidates:
        if one.cutout:

            def draw(path: str = one.cutout, name: str = event.object_name or event.target_id) -> str:
                caption = "Tonight, the reference, and the difference in units of its own noise. Orientation as on the frame."
                return _picture(Path(path).read_bytes(), f"new, reference and difference image near {name}", caption, kind="cutout")

            parts.append(_drawn("cut-out", draw))
    rows: list[list[Cell]] = [
        [
            esc(event.object_name or event.target_id),
            ("time", sexagesimal(one.ra_deg, one.dec_deg)),
            ("n", f"{one.ra_deg:.5f}"),
            ("n", f"{one.dec_deg:+.5f}".replace("-", "\u2212")),
            ("n", _number(one.snr)),
            ("n", _number(one.mag, 2)),
            ("n", _number(one.fwhm_px, 2)),
            esc(one.host or ""),
            ("n", _number(one.host_separation_arcsec)),
        ]
        for event, one in story.candidates
    ]
    if rows:
        head: list[Cell] = [
            "field",
            "RA, Dec (ICRS)",
            ("n", "RA (deg)"),
            ("n", "Dec (deg)"),
            ("n", "S/N"),
            ("n", "mag"),
            ("n", "FWHM (px)"),
            "host",
            ("n", "from host (arcsec)"),
        ]
        parts.append(_table(head, rows))
    nearest = story.nearest_candidate()
    if nearest is not None and story.injected is not None:
        truth = sexagesimal(*story.injected)
        parts.append(
            f'<p class="note">The simulator had put a transient at {truth}; the nearest candidate is {nearest[1]:.2f} arcsec away.</p>'
        )
    fields: list[list[Cell]] = [
        [
            esc(event.object_name or event.target_id),
            ("n", str(len(event.product_ids))),
            ("n", str(len(event.candidates))),
            ("n", str(event.n_vetoed)),
            ("n", _number(event.limiting_mag_5sigma, 2)),
            ("path", esc(", ".join(Path(one.strip()).name for one in event.reference.split(",")))),
        ]
        for event in story.searches
    ]
    parts.append("<h3>Fields searched</h3>")
    parts.append(
        _table(["field", ("n", "frames"), ("n", "candidates"), ("n", "vetoed"), ("n", "limit (mag, 5\u03c3)"), "reference"], fields)
    )
    return _section("What is new in the sky", *parts)


def _latencies(story: Story) -> str:
    steps = story.latencies()
    if not steps:
        return ""
    worlds = story.rate > 1.5
    longest = max((abs(one.real_s or 0.0) for one in steps[:-1]), default=0.0) or 1.0
    rows: list[list[Cell]] = []
    for one in steps:
        share = 0.0 if one is steps[-1] else 100 * abs(one.real_s or 0.0) / longest
        bar = f'<span class="bar" style="width:{share:.1f}%"></span>' if share else ""
        row: list[Cell] = [f"<b>{esc(one.step)}</b>", esc(one.meaning), ("n", _duration(one.real_s))]
        rows.append([*row, *([("n", _duration(one.world_s))] if worlds else []), ("share", bar)])
    head: list[Cell] = ["step", "what it is", ("n", "real time")]
    head += [("n", "time of the world")] if worlds else []
    note = ""
    if worlds:
        note = (
            f'<p class="note">The simulated world ran {story.rate:.0f} times faster than ours: computing is measured in real time, '
            "waiting for darkness, motions and exposures in the time of the world.</p>"
        )
    per_frame: list[list[Cell]] = [
        [esc(name), ("n", str(n)), ("n", _duration(median)), ("n", _duration(longest_s))]
        for name, n, median, longest_s in story.frame_latencies()
    ]
    more = ""
    if per_frame:
        more = "<h3>Each light, real time</h3>" + _table(["from, to", ("n", "frames"), ("n", "median"), ("n", "longest")], per_frame)
    return _section("From alert to find: how long each step took", _table([*head, ""], rows, last_is_sum=True), note, more)


def _states(story: Story) -> str:
    rows: list[list[Cell]] = [
        [
            ("time", _clock(one.at_utc)),
            f"<b>{esc(one.state.value.replace('_', ' '))}</b>" if one.state is not NightState.FAULT else '<b class="bad">fault</b>',
            esc(one.previous.value.replace("_", " ")),
            esc(one.trigger.replace("_", " ")),
            ("n", _number(one.sun_altitude_deg)),
            esc(one.reason),
        ]
        for one in story.states
    ]
    parts = [_table(["UTC", "state", "from", "by", ("n", "Sun (deg)"), "reason"], rows)] if rows else []
    verdicts: list[list[Cell]] = [
        [
            ("time", _clock(one.at_utc)),
            f'<b class="{"good" if one.verdict == "safe" else "bad"}">{esc(one.verdict)}</b>',
            esc(one.dome_shutter),
            esc("; ".join(one.reasons)),
        ]
        for one in story.verdicts
    ]
    if verdicts:
        parts += ["<h3>Safety's verdicts</h3>", _table(["UTC", "verdict", "dome shutter", "reasons"], verdicts)]
    acts: list[list[Cell]] = [
        [("time", _clock(told.time)), esc(event.who), esc(f"{event.module} {event.verb}"), esc(event.answer)]
        for told, event in story.all(OperatorActed)
    ]
    if acts:
        parts += ["<h3>What people asked for</h3>", _table(["UTC", "who", "command", "answer"], acts)]
    return _section("States of the night", *parts)


def _alarms(story: Story) -> str:
    rows: list[list[Cell]] = [
        [("time", _clock(told.time)), esc(event.severity.value), esc(told.module), esc(event.key), esc(event.text)]
        for told, event in story.alarms
    ]
    if not rows:
        return _section("Alarms", "<p>None.</p>") if story.events else ""
    return _section("Alarms", _table(["UTC", "severity", "from", "key", "text"], rows))


def _events(story: Story) -> str:
    known = [(one.module, one.type, one.world_ns) for one in story.events if one.world_ns is not None]
    lanes = [(module, kind, at_ns) for module, kind, at_ns in known if at_ns is not None]
    span = story.span_ns
    if span is None:
        return ""
    pad_ns = round((span[1] - span[0]) * 0.02) + 60_000_000_000

    def draw() -> str:
        svg = figures.event_lanes(lanes, span[0] - pad_ns, span[1] + pad_ns, rate=story.rate)
        return _chart(svg, "Each mark is one event on the bus, in the lane of the module that said it.")

    counts: list[list[Cell]] = [[esc(name), ("n", str(n))] for name, n in story.counts().items()]
    rows: list[list[Cell]] = [
        [
            ("n", str(one.seq)),
            ("time", _clock(one.time)),
            f"<b>{esc(one.type)}</b>",
            esc(one.subject),
            esc(one.source),
            ("mono", esc(one.id[-12:])),
            ("mono", esc((one.causationid or "")[-12:])),
        ]
        for one in story.events[:LONGEST_LOG]
    ]
    cut = f'<p class="note">The first {LONGEST_LOG} of {len(story.events)}.</p>' if len(story.events) > LONGEST_LOG else ""
    table = _table([("n", "seq"), "UTC", "event", "subject", "source", "id (end)", "cause (end)"], rows)
    return _section(
        "Time line",
        _drawn("time line", draw),
        f"<details><summary>Events by type</summary>{_table(['event', ('n', 'times')], counts)}</details>",
        f"<details><summary>All {len(story.events)} events</summary>{table}{cut}</details>",
    )


def _processes(story: Story) -> str:
    rows: list[list[Cell]] = [
        [
            f"<b>{esc(one.name)}</b>",
            ("n", "" if one.pid is None else str(one.pid)),
            ("n", _duration(one.ready_s)),
            ("n", str(one.n_restarts)),
            esc(one.ended),
        ]
        for one in story.processes
    ]
    parts = [_table(["process", ("n", "pid"), ("n", "ready after"), ("n", "restarts"), "end"], rows)] if rows else []
    if story.audit is not None:
        checked: list[list[Cell]] = [[esc(name), ("n", f"{n:,}")] for name, n in story.audit.checked.items()]
        parts += ["<h3>Lost or repeated events: what was compared</h3>", _table(["what", ("n", "number")], checked)]
        parts += [f'<p class="bad">{esc(one)}</p>' for one in (*story.audit.lost, *story.audit.duplicates)]
    return _section("Processes", *parts)


def _closing(story: Story) -> str:
    from nightbell import __version__

    span = story.span_ns
    until = f" Last event {format_utc(span[1], digits=0).replace('T', ' ').removesuffix('Z')}\u00a0UTC." if span else ""
    source = ""
    if story.simulated and any(event.alert.superevent_id == "S270412a" for _told, event in story.alerts):
        source = (
            " The alert was generated with the published numbers of GW170817 (Abbott et al. 2017, ApJL 848, L12); galaxies: published "
            "values as compiled in OpenNGC (M. Verga), CC-BY-SA-4.0."
        )
    return f"<footer>Made by nightbell {esc(__version__)} from the events of this night.{until} All times UTC.{source}</footer>"
