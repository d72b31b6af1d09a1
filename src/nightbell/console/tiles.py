"""Statuses -> tiles: rows of words and numbers, each with its age. Pure; what is unknown is a dash, never a zero."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from nightbell.console.watch import Heard

__all__ = ["TILES", "Row", "Tile", "make_tiles"]

STALE_S = 10.0
DASH = "\u2013"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a tile."""

    label: str
    text: str
    age_s: float | None = None
    """Real seconds since it was measured; None: has no age of its own."""
    limit_s: float = STALE_S
    state: str = ""
    """"", good, bad, or busy; said by a word in `text` too, never by colour alone."""
    alarm_id: str = ""
    """An alarm that can be taken: a button stands beside it."""


@dataclass(frozen=True, slots=True)
class Tile:
    """One box of the page."""

    name: str
    title: str
    head: str
    """Its main word."""
    state: str
    rows: tuple[Row, ...]
    age_s: float | None
    limit_s: float = STALE_S
    note: str = ""


TILES = ("night", "safety", "weather", "dome", "mount", "camera", "plan", "alarms", "modules")


def number(value: object, unit: str = "", digits: int = 1) -> str:
    """A number with its unit, or a dash."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, int | float) or not math.isfinite(value):
        return DASH if value is None or isinstance(value, float) else str(value)
    text = f"{value:.{digits}f}" if isinstance(value, float) else str(value)
    return f"{text} {unit}".rstrip()


def clock(utc: object) -> str:
    """The time of day of an instant in ISO-8601."""
    text = str(utc or "")
    return f"{text[11:19]} UTC" if len(text) >= 19 and text[10] == "T" else word(utc)


def duration(seconds: float) -> str:
    """Seconds in the unit one says them in."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def word(value: object) -> str:
    """A word, or a dash when there is none."""
    return DASH if value in (None, "") else str(value)


def make_tiles(heard: Mapping[str, Heard], now: float, *, rate: float, connected: bool) -> dict[str, Tile]:
    """All tiles. `now` is monotonic seconds; `rate` divides the ages that modules tell in seconds of the world."""
    telescope, safety = heard.get("telescope", Heard("telescope")), heard.get("safety", Heard("safety"))
    tiles = (
        _night(telescope, now),
        _safety(safety, now),
        _weather(safety, now),
        *_devices(telescope, safety, now, rate),
        _plan(telescope, now),
        _alarms(safety, now),
        _modules(heard.values(), now, connected=connected),
    )
    return {tile.name: tile for tile in tiles}


def _silence(heard: Heard) -> str:
    if heard.answered is None:
        return f"{heard.module} has not answered yet" + (f": {heard.error}" if heard.error else "")
    return f"{heard.module} does not answer: {heard.error}" if heard.error else ""


def _sum(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else first + second


def _night(telescope: Heard, now: float) -> Tile:
    report = telescope.report
    state = str(report.get("state") or "unknown")
    since_s = _float(report.get("since_age_s"))
    rows = [
        Row("night", word(report.get("night"))),
        Row("since", clock(report.get("since_utc")) + (f", {duration(since_s)} ago" if since_s is not None else "")),
        Row("because", word(report.get("reason"))),
        Row("doing", word(report.get("doing"))),
    ]
    if report.get("held"):
        rows.append(Row("held", "yes: waits for Resume", state="bad"))
    lease = report.get("lease") or {}
    if lease.get("problem"):
        rows.append(Row("lease", str(lease["problem"]), state="bad"))
    looks = (
        "bad" if state in ("stuck", "fault", "unknown") else "busy" if state in ("stopping", "sheltering", "closing", "opening") else "good"
    )
    return Tile("night", "Night", state, looks, tuple(rows), telescope.age_s(now), note=_silence(telescope))


def _safety(safety: Heard, now: float) -> Tile:
    report = safety.report
    verdict = str(report.get("verdict") or "unknown")
    rows = [Row("dome", word(report.get("shutter")), state="good" if report.get("shutter") == "closed" else "")]
    rows.extend(Row("because", str(reason), state="bad") for reason in _listed(report.get("reasons"))[:8])
    closing = report.get("closing")
    if isinstance(closing, Mapping):
        done = "read back closed" if closing.get("verified") else f"under way, {closing.get('orders')} orders"
        rows.append(Row("closing", str(closing.get("problem") or done), state="bad" if closing.get("problem") else ""))
    clear_s = _float(report.get("clear_in_s"))
    if clear_s is not None:
        rows.append(Row("safe again", _when_safe(clear_s, _listed(report.get("reasons")))))
    lease = report.get("lease")
    age = safety.age_s(now)
    limit_s = (_float(lease.get("limit_s")) if isinstance(lease, Mapping) else None) or STALE_S
    lease_age = _sum(_float(lease.get("age_s")), age) if isinstance(lease, Mapping) else None
    if isinstance(lease, Mapping) and not (report.get("shutter") == "closed" and (lease_age or 0.0) > limit_s):
        rows.append(Row("lease", f"held by {word(lease.get('holder'))}", age_s=lease_age, limit_s=limit_s))
    else:
        rows.append(Row("lease", "nobody holds it"))
    return Tile("safety", "Safety", verdict, "good" if verdict == "safe" else "bad", tuple(rows), age, note=_silence(safety))


def _when_safe(clear_s: float, reasons: Iterable[object]) -> str:
    if all("its clear time runs" in str(reason) for reason in reasons):
        return f"in {duration(clear_s)}, if it stays so"
    return f"{duration(clear_s)} after the last of these has ended" if clear_s > 0 else "when these have ended"


def _listed(value: object) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []


def _float(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _weather(safety: Heard, now: float) -> Tile:
    age = safety.age_s(now)
    rows = []
    for one in safety.report.get("evidence") or ():
        if one.get("source") in ("host", "telescope"):
            continue
        label = f"{str(one.get('quantity')).rsplit('_', 1)[0] if one.get('unit') else one.get('quantity')}".replace("_", " ")
        label = _LABELS.get(str(one.get("quantity")), label)
        value = _float(one.get("value"))
        text = number(value, str(one.get("unit") or "")) if value is not None else word(one.get("value"))
        rows.append(
            Row(
                f"{label} ({one.get('source')})" if one.get("source") not in ("weather", "kernel", "dome") else label,
                text if one.get("safe") else f"{text} \u2013 {one.get('reason') or 'unsafe'}",
                age_s=_sum(_float(one.get("age_s")), age),
                # What the kernel reckons itself has no sensor that could be late; here it is as old as the kernel's answer.
                limit_s=STALE_S if one.get("source") == "kernel" else _float(one.get("limit_s")) or STALE_S,
                state="" if one.get("safe") else "bad",
            )
        )
    bad = sum(row.state == "bad" for row in rows)
    head = "unknown" if not rows else f"{bad} bad" if bad else "good"
    return Tile("weather", "Evidence", head, "good" if rows and not bad else "bad", tuple(rows), age, note=_silence(safety))


_LABELS = {
    "rain_rate_mm_per_h": "rain",
    "wind_speed_m_per_s": "wind",
    "wind_gust_m_per_s": "gust",
    "humidity_percent": "humidity",
    "dew_point_degc": "dew point",
    "temperature_degc": "air",
    "sky_temperature_degc": "sky",
    "pressure_hpa": "pressure",
    "sun_altitude": "Sun",
    "shutter": "dome shutter",
    "is_safe": "monitor",
}


def _devices(telescope: Heard, safety: Heard, now: float, rate: float) -> tuple[Tile, Tile, Tile]:
    devices = telescope.report.get("devices") or {}
    dome, mount, camera = (devices.get(name) or {} for name in ("dome", "mount", "camera"))
    asked_s = telescope.age_s(now)

    def age(device: Mapping[str, Any]) -> float | None:
        told = _float(device.get("age_s"))
        return _sum(None if told is None else told / rate, asked_s)

    # The kernel reads the dome by its own connection, also when the telescope is dead: its word counts.
    shutter = safety.report.get("shutter") or dome.get("shutter")
    dome_rows = (
        Row("shutter", word(shutter), age_s=safety.age_s(now) if safety.report.get("shutter") else age(dome)),
        Row("azimuth", number(dome.get("azimuth_deg"), "deg"), age_s=age(dome)),
        Row("turning", number(dome.get("slewing"))),
    )
    mount_rows = (
        Row("RA", number(mount.get("right_ascension_h"), "h", 4), age_s=age(mount)),
        Row("Dec", number(mount.get("declination_deg"), "deg", 3)),
        Row("altitude", number(mount.get("altitude_deg"), "deg")),
        Row("pier side", word(mount.get("pier_side"))),
    )
    moving = "slewing" if mount.get("slewing") else "parked" if mount.get("at_park") else "tracking" if mount.get("tracking") else "still"
    camera_rows = (
        Row("detector", number(camera.get("temperature_degc"), "degC"), age_s=age(camera)),
        Row("cooler", number(camera.get("cooler_percent"), "%", 0)),
        Row("last frame", word(str(telescope.report.get("last_frame") or "").replace("\\", "/").rsplit("/", 1)[-1])),
    )
    silent = _silence(telescope)
    return (
        Tile("dome", "Dome", word(shutter), "good" if shutter == "closed" else "busy", dome_rows, age(dome), note=silent),
        Tile(
            "mount",
            "Mount",
            moving if mount else "unknown",
            "" if not mount else "busy" if mount.get("slewing") else "good",
            mount_rows,
            age(mount),
            note=silent,
        ),
        Tile(
            "camera",
            "Camera",
            word(camera.get("state") or "unknown"),
            "good" if camera.get("state") else "",
            camera_rows,
            age(camera),
            note=silent,
        ),
    )


def _plan(telescope: Heard, now: float) -> Tile:
    plan = telescope.report.get("plan") or {}
    rows = tuple(
        Row(
            str(item.get("start_utc", ""))[11:16] or DASH,
            f"{item.get('name')}, {item.get('n_exposures')} \u00d7 {item.get('filter')}",
        )
        for item in plan.get("next") or ()
    )
    head = f"{plan['n_items']} items" if "n_items" in plan else "unknown"
    note = _silence(telescope) or ("" if rows else "All of it is over" if plan.get("n_items") else "Nothing is planned")
    looks = "good" if "n_items" in plan else ""
    return Tile("plan", f"Plan, revision {word(plan.get('revision'))}", head, looks, rows, telescope.age_s(now), note=note)


def _alarms(safety: Heard, now: float) -> Tile:
    alarms = safety.report.get("alarms") or ()
    rows = tuple(
        Row(
            f"{one.get('severity')}, {one.get('state')}",
            str(one.get("text")),
            state="bad" if one.get("state") == "raised" and one.get("severity") != "info" else "",
            alarm_id=str(one.get("id") or "") if one.get("state") == "raised" else "",
        )
        for one in alarms
    )
    raised = sum(row.state == "bad" for row in rows)
    if safety.answered is None:
        return Tile("alarms", "Alarms", "unknown", "bad", rows, None, note=_silence(safety))
    head = f"{raised} raised" if raised else "none raised"
    return Tile("alarms", "Alarms", head, "bad" if raised else "good", rows, safety.age_s(now), note=_silence(safety))


def _modules(heard: Iterable[Heard], now: float, *, connected: bool) -> Tile:
    rows = [
        Row(
            "broker",
            "connected" if connected else "NOT REACHABLE: log and alerts are old; abort, close and status work",
            state="" if connected else "bad",
        )
    ]
    silent = 0
    for one in heard:
        age = one.age_s(now)
        alive = not one.error and age is not None
        silent += not alive
        rows.append(
            Row(one.module, "answers" if alive else "SILENT: " + (one.error or "no answer yet"), age_s=age, state="" if alive else "bad")
        )
    head = "all answer" if not silent and connected else f"{silent} silent" if silent else "broker away"
    # Its word is the console's own: as old as this page.
    return Tile("modules", "Modules", head, "good" if not silent and connected else "bad", tuple(rows), 0.0)
