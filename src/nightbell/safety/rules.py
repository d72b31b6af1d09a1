"""The table of hazards and the verdict: a pure function of evidence, memory, now and limits.

    judge(world, now) -> findings       what is bad at this instant, and every reading with its age and limit
    verdict(...)      -> Decision       findings through hold and clear times; ALL reasons, and the memory for the next call

Unsafe is the default and the union of everything: safe needs each configured source fresh and good for the whole clear time.
Unknown (missing, stale, frozen, lost, answered with an error, stamped in the future, no number) is bad at once for the hazard
that the reading was for, and that hazard's clear time then runs in full: nobody knows whether it rained meanwhile.
Ages are monotonic seconds. Rows 14, 15 and 19 to 22 of the hazard table (mains, human on site, relay, mount, camera) need
hardware that no driver serves yet; they are rows to be added here, not code elsewhere.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from nightbell.contracts.records import Evidence
from nightbell.contracts.states import Severity, Verdict
from nightbell.safety.evidence import Reading, Seen, World
from nightbell.safety.settings import SafetySettings, kind_of

__all__ = ["Action", "Alert", "Decision", "Finding", "Hazard", "Memory", "Track", "hazards", "judge", "unknown_past", "verdict"]


class Action(StrEnum):
    """What a hazard asks for; each includes the ones before it."""

    TELL = "tell"
    NO_OPENING = "no_opening"
    SHELTER = "shelter"


@dataclass(frozen=True, slots=True)
class Hazard:
    """A row of the table."""

    row: int
    name: str
    action: Action
    hold_s: float
    """It must be bad for so long; what is unknown counts at once."""
    clear_s: float
    severity: Severity
    alarm_after_s: float | None
    """In force for so long: a human is called. None: the log is enough."""


def hazards(limits: SafetySettings) -> dict[str, Hazard]:
    """The table. Seconds are those of `limits` (real ones, after `settings.scaled`)."""
    sources, host = limits.sources, limits.host
    tell, no_opening, shelter = Action.TELL, Action.NO_OPENING, Action.SHELTER
    info, warning, critical = Severity.INFO, Severity.WARNING, Severity.CRITICAL
    rows = (
        Hazard(1, "rain", shelter, 0.0, limits.rain.clear_s, info, None),
        Hazard(2, "wind", shelter, 0.0, limits.wind.clear_s, info, None),
        Hazard(3, "cloud", shelter, limits.cloud.hold_s, limits.cloud.clear_s, info, None),
        Hazard(4, "humidity", shelter, limits.humidity.hold_s, limits.humidity.clear_s, info, None),
        Hazard(5, "air", shelter, 0.0, sources.clear_s, info, None),
        Hazard(5, "source", shelter, 0.0, sources.clear_s, warning, sources.lost_s),
        Hazard(7, "disagreement", shelter, sources.disagree_hold_s, sources.clear_s, warning, 0.0),
        Hazard(8, "monitor", shelter, 0.0, sources.clear_s, info, None),
        Hazard(9, "broker", no_opening, host.broker_no_opening_s, 0.0, warning, 0.0),
        Hazard(9, "broker_long", shelter, host.broker_shelter_s, 0.0, warning, 0.0),
        Hazard(10, "lease", shelter, 0.0, 0.0, critical, 0.0),
        Hazard(12, "dome", shelter, 0.0, 0.0, critical, limits.closing.dome_stale_s),
        Hazard(16, "disk", tell, 0.0, 60.0, warning, 0.0),
        Hazard(16, "disk_full", shelter, limits.host.disk_hold_s, 60.0, critical, 0.0),
        Hazard(17, "sun", shelter, 0.0, 0.0, info, None),
        Hazard(17, "sunlight", tell, limits.sun.alarm_after_s, 0.0, critical, 0.0),
        Hazard(18, "clock", no_opening, 0.0, host.clock_clear_s, warning, 0.0),
        Hazard(18, "clock_far", shelter, 0.0, host.clock_clear_s, warning, 0.0),
        Hazard(0, "operator", shelter, 0.0, limits.lease.operator_hold_s, info, None),
    )
    return {row.name: row for row in rows}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is bad at this instant."""

    hazard: str
    source: str
    text: str
    at_once: bool = False
    """Unknown, not measured bad: no hold time."""
    lingers: bool = False
    """Better, but not yet clear: prolongs what is in force, begins nothing."""


@dataclass(frozen=True, slots=True)
class Track:
    """The course of one hazard at one source. Good samples in between do not reset it; only its clear time ends it."""

    first_ns: int
    last_ns: int
    in_force: bool
    in_force_ns: int
    text: str


Memory = Mapping[tuple[str, str], Track]


@dataclass(frozen=True, slots=True)
class Alert:
    """An alarm that should stand now."""

    key: str
    severity: Severity
    text: str


@dataclass(frozen=True, slots=True)
class Decision:
    """The verdict with all its reasons."""

    at_ns: int
    verdict: Verdict
    reasons: tuple[str, ...]
    """Why the dome must be closed; empty when safe."""
    against_opening: tuple[str, ...]
    """Why no GO is given: the reasons, and what only forbids opening."""
    keys: tuple[str, ...]
    """Names of everything in force, for telling one state from the next."""
    clear_in_s: float | None
    """Until it would be safe if all were good from now on; None when safe."""
    alarms: tuple[Alert, ...]
    evidence: tuple[Evidence, ...]
    memory: Memory


def verdict(world: World, memory: Memory, now_ns: int, limits: SafetySettings) -> Decision:
    """May the dome be open? `memory` is that of the last decision, {} at the start."""
    table = hazards(limits)
    findings, evidence = judge(world, now_ns, limits)
    tracks = dict(memory)
    # A dome that is being closed for another reason is refused its lease by us: that it then runs out is no news.
    findings = tuple(one for one in findings if one.hazard != "lease" or not _shelters(findings, memory, table, now_ns))
    for finding in findings:
        hazard, key = table[finding.hazard], (finding.hazard, finding.source)
        track = tracks.get(key)
        if finding.lingers:
            if track is not None and track.in_force:
                tracks[key] = Track(track.first_ns, now_ns, in_force=True, in_force_ns=track.in_force_ns, text=finding.text)
            continue
        first_ns = track.first_ns if track is not None else now_ns
        was_in_force = track is not None and track.in_force
        in_force = was_in_force or finding.at_once or now_ns - first_ns >= hazard.hold_s * 1e9
        since_ns = track.in_force_ns if track is not None and track.in_force else now_ns
        tracks[key] = Track(first_ns, now_ns, in_force=in_force, in_force_ns=since_ns, text=finding.text)
    tracks = {
        key: track for key, track in tracks.items() if track.last_ns == now_ns or now_ns - track.last_ns < table[key[0]].clear_s * 1e9
    }
    standing = {key: track for key, track in sorted(tracks.items()) if track.in_force}
    reasons = _texts(standing, table, now_ns, (Action.SHELTER,))
    left = [
        table[key[0]].clear_s - (now_ns - track.last_ns) / 1e9 for key, track in standing.items() if table[key[0]].action is Action.SHELTER
    ]
    return Decision(
        at_ns=now_ns,
        verdict=Verdict.UNSAFE if reasons else Verdict.SAFE,
        reasons=reasons,
        against_opening=_texts(standing, table, now_ns, (Action.SHELTER, Action.NO_OPENING)),
        keys=tuple(f"{hazard}.{source}" for hazard, source in standing),
        clear_in_s=max(left) if left else None,
        alarms=tuple(_alarms(standing, table, now_ns)),
        evidence=evidence,
        memory=tracks,
    )


def unknown_past(now_ns: int, limits: SafetySettings) -> Memory:
    """The memory to begin with: before the start nothing was known, so every clear time runs in full."""
    return verdict(World(sources={}), {}, now_ns, limits).memory


def _shelters(findings: Iterable[Finding], memory: Memory, table: Mapping[str, Hazard], now_ns: int) -> bool:
    """Whether anything but the lease closes the dome now."""

    def standing(key: tuple[str, str]) -> bool:
        track = memory.get(key)
        return track is not None and track.in_force

    def counts(one: Finding) -> bool:
        track = memory.get((one.hazard, one.source))
        began_ns = now_ns if track is None else track.first_ns
        return one.at_once or standing((one.hazard, one.source)) or now_ns - began_ns >= table[one.hazard].hold_s * 1e9

    now = any(counts(one) for one in findings if one.hazard != "lease" and table[one.hazard].action is Action.SHELTER and not one.lingers)
    still = any(
        track.in_force and now_ns - track.last_ns < table[name].clear_s * 1e9
        for (name, _), track in memory.items()
        if name != "lease" and table[name].action is Action.SHELTER
    )
    return now or still


def _texts(in_force: Memory, table: Mapping[str, Hazard], now_ns: int, actions: tuple[Action, ...]) -> tuple[str, ...]:
    """In the order of the table, each sentence once. What is bad now comes first."""
    rows = sorted(
        ((track.last_ns != now_ns, table[name].row, track.text) for (name, _), track in in_force.items() if table[name].action in actions)
    )
    now = dict.fromkeys(text for is_over, _, text in rows if not is_over)
    over = dict.fromkeys(f"{text} (over now; its clear time runs)" for is_over, _, text in rows if is_over and text not in now)
    return (*now, *over)


def _alarms(in_force: Memory, table: Mapping[str, Hazard], now_ns: int) -> Iterator[Alert]:
    for (name, source), track in in_force.items():
        hazard = table[name]
        lasts = now_ns - track.in_force_ns >= (hazard.alarm_after_s or 0.0) * 1e9
        if hazard.alarm_after_s is not None and track.last_ns == now_ns and lasts:
            yield Alert(f"safety.{name}.{source}", hazard.severity, track.text)


def judge(world: World, now_ns: int, limits: SafetySettings) -> tuple[tuple[Finding, ...], tuple[Evidence, ...]]:
    """What is bad at this instant, and every reading with its age, limit and judgement."""
    findings: list[Finding] = []
    evidence: list[Evidence] = []
    stations = []
    for name in limits.devices:
        seen = world.sources.get(name) or Seen(source=name, kind=kind_of(name))
        if seen.kind == "weather":
            stations.append(seen)
            _judge_weather(seen, now_ns, limits, findings, evidence)
        elif seen.kind == "monitor":
            _judge_monitor(seen, now_ns, limits, findings, evidence)
        else:
            _judge_dome(name, seen, world, now_ns, limits, findings, evidence)
    findings.extend(_disagreements(stations, now_ns, limits))
    _judge_sun(world, now_ns, limits, findings, evidence)
    _judge_host(world, now_ns, limits, findings, evidence)
    if world.close_asked:
        findings.append(Finding("operator", "request", f"closing was asked: {world.close_asked}"))
    return tuple(findings), tuple(evidence)


# -- is it known at all? ------------------------------------------------------------------------------------------------


def _age_s(stamp_ns: int | None, now_ns: int) -> float | None:
    return None if stamp_ns is None else (now_ns - stamp_ns) / 1e9


def _why_unknown(seen: Seen, name: str, reading: Reading | None, now_ns: int, limits: SafetySettings) -> str:
    """Why this reading counts as none; empty when it is to be believed."""
    sources = limits.sources
    if seen.fault:
        return f"{seen.source} answered with an error: {seen.fault}"
    if reading is None or reading.value is None:
        silent = f": {seen.lost}" if seen.lost else ""
        return f"{seen.source} gives no {name}{silent}"
    age_s = (now_ns - reading.stamped_ns) / 1e9
    limit_s = sources.rain_stale_s if name == "rain_rate_mm_per_h" else sources.stale_s
    if age_s < -sources.future_s:
        return f"{name} of {seen.source} is stamped {-age_s:.0f} s in the future"
    if age_s > limit_s:
        return f"{name} of {seen.source} is {age_s:.0f} s old (limit {limit_s:g} s)"
    asked_s = _age_s(seen.answered_ns, now_ns)
    if asked_s is None or asked_s > sources.lost_s:
        return f"{seen.source} is lost: {seen.lost or 'no answer'}"
    if _is_frozen(seen, now_ns, limits):
        return f"{seen.source} is frozen: {seen.same_n} readings bit-identical"
    return ""


def _is_frozen(seen: Seen, now_ns: int, limits: SafetySettings) -> bool:
    age_s = _age_s(seen.same_since_ns, now_ns)
    return age_s is not None and seen.same_n >= limits.sources.frozen_n and age_s >= limits.sources.frozen_s


def _number(reading: Reading | None) -> float | None:
    """The value if it is a finite number. A bool or a text is none."""
    value = None if reading is None else reading.value
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


# -- sources ------------------------------------------------------------------------------------------------------------

_HAZARD_OF = {
    "rain_rate_mm_per_h": ("rain", "mm/h"),
    "wind_speed_m_per_s": ("wind", "m/s"),
    "wind_gust_m_per_s": ("wind", "m/s"),
    "humidity_percent": ("humidity", "%"),
    "dew_point_degc": ("humidity", "degC"),
    "sky_temperature_degc": ("cloud", "degC"),
    "temperature_degc": ("air", "degC"),
    "pressure_hpa": ("air", "hPa"),
}


def _judge_weather(seen: Seen, now_ns: int, limits: SafetySettings, findings: list[Finding], evidence: list[Evidence]) -> None:
    known: dict[str, float] = {}
    unknown: dict[str, str] = {}
    for name in limits.watched:
        reading = seen.readings.get(name)
        why = _why_unknown(seen, name, reading, now_ns, limits)
        value = _number(reading)
        if not why and value is None:
            why = f"{name} of {seen.source} is no number: {reading.value if reading else None!r}"
        if why:
            unknown[name] = why
        elif value is not None:
            known[name] = value
    if len(unknown) == len(limits.watched):  # one cause, one sentence
        first = next(iter(unknown.values()), "nothing is watched")
        unknown = dict.fromkeys(unknown, f"nothing is known from {seen.source}: {first}" if seen.answered_ns else _never_read(seen))
    findings.extend(Finding(_HAZARD_OF[name][0], f"{seen.source}.{name}", why, at_once=True) for name, why in unknown.items())
    if unknown:
        findings.append(Finding("source", seen.source, next(iter(unknown.values())), at_once=True))
    bad = {finding.source.partition(".")[2]: finding for finding in _bad_weather(seen, known, now_ns, limits)}
    findings.extend(bad.values())
    for name in limits.watched:
        reading = seen.readings.get(name)
        finding = bad.get(name)
        age_s = _age_s(reading.stamped_ns, now_ns) if reading is not None else None
        evidence.append(
            Evidence(
                source=seen.source,
                quantity=name,
                value=reading.value if reading is not None else None,
                unit=_HAZARD_OF[name][1],
                age_s=None if age_s is None else round(age_s, 1),
                limit_s=limits.sources.rain_stale_s if name == "rain_rate_mm_per_h" else limits.sources.stale_s,
                safe=name not in unknown and (finding is None or finding.lingers),
                reason=unknown.get(name, "") or (finding.text if finding else ""),
            )
        )


def _never_read(seen: Seen) -> str:
    return f"{seen.source} has not been read" + (f": {seen.lost}" if seen.lost else "")


def _bad_weather(seen: Seen, known: Mapping[str, float], now_ns: int, limits: SafetySettings) -> Iterator[Finding]:
    """Findings about what is known of one station, at most one per quantity."""
    where = seen.source

    def found(hazard: str, name: str, text: str, *, lingers: bool = False) -> Finding:
        return Finding(hazard, f"{where}.{name}", f"{text} at {where}", lingers=lingers)

    rain = known.get("rain_rate_mm_per_h")
    if rain is not None and rain > 0:
        yield found("rain", "rain_rate_mm_per_h", f"rain, {rain:g} mm/h")
    wind = limits.wind
    if "wind_speed_m_per_s" in known:
        mean = _mean(seen.averaged, known["wind_speed_m_per_s"], now_ns, wind.mean_s)
        if mean > wind.clear_share * wind.mean_limit_m_per_s:
            text = f"wind {mean:.1f} m/s in the mean (limit {wind.mean_limit_m_per_s:g})"
            yield found("wind", "wind_speed_m_per_s", text, lingers=mean <= wind.mean_limit_m_per_s)
    gust = known.get("wind_gust_m_per_s")
    if gust is not None and gust > wind.clear_share * wind.gust_limit_m_per_s:
        text = f"gust of {gust:.1f} m/s (limit {wind.gust_limit_m_per_s:g})"
        yield found("wind", "wind_gust_m_per_s", text, lingers=gust <= wind.gust_limit_m_per_s)
    humidity = known.get("humidity_percent")
    if humidity is not None and humidity > limits.humidity.limit_percent:
        yield found("humidity", "humidity_percent", f"humidity {humidity:.0f} % (limit {limits.humidity.limit_percent:g})")
    air, dew, sky = known.get("temperature_degc"), known.get("dew_point_degc"), known.get("sky_temperature_degc")
    if air is not None and dew is not None and air - dew < limits.humidity.dew_margin_k:
        yield found("humidity", "dew_point_degc", f"air {air - dew:.1f} K above its dew point (limit {limits.humidity.dew_margin_k:g})")
    if air is not None and sky is not None and sky - air > limits.cloud.sky_minus_air_k:
        yield found("cloud", "sky_temperature_degc", f"sky minus air {sky - air:.0f} K (limit {limits.cloud.sky_minus_air_k:g})")


def _mean(samples: Iterable[Reading], latest: float, now_ns: int, mean_s: float) -> float:
    recent = [value for one in samples if now_ns - one.stamped_ns <= mean_s * 1e9 and (value := _number(one)) is not None]
    return sum(recent) / len(recent) if recent else latest


def _disagreements(stations: Iterable[Seen], now_ns: int, limits: SafetySettings) -> Iterator[Finding]:
    """Two stations that tell different air: at least one is wrong, and nobody knows which."""
    sources = limits.sources
    apart = {
        "temperature_degc": sources.disagree_temperature_k,
        "humidity_percent": sources.disagree_humidity_percent,
        "wind_speed_m_per_s": sources.disagree_wind_m_per_s,
        "wind_gust_m_per_s": sources.disagree_wind_m_per_s,
    }
    for one, other in itertools.combinations(sorted(stations, key=lambda seen: seen.source), 2):
        for name, limit in apart.items():
            a, b = one.readings.get(name), other.readings.get(name)
            both = [seen for seen, reading in ((one, a), (other, b)) if not _why_unknown(seen, name, reading, now_ns, limits)]
            x, y = _number(a), _number(b)
            if name in limits.watched and len(both) == 2 and x is not None and y is not None and abs(x - y) > limit:
                text = f"{name}: {one.source} says {x:g}, {other.source} says {y:g}"
                yield Finding("disagreement", f"{one.source}.{other.source}.{name}", text)


def _judge_monitor(seen: Seen, now_ns: int, limits: SafetySettings, findings: list[Finding], evidence: list[Evidence]) -> None:
    reading = seen.readings.get("is_safe")
    why = _why_unknown(seen, "is_safe", reading, now_ns, limits)
    value = reading.value if reading is not None else None
    if why:
        findings.append(Finding("source", seen.source, why, at_once=True))
    elif value is not True:  # "True" as text, 1 and null are not True
        why = f"{seen.source} says unsafe" if value is False else f"{seen.source} says {value!r}, which is not true"
    if why:
        findings.append(Finding("monitor", seen.source, why, at_once=True))
    age_s = _age_s(reading.stamped_ns, now_ns) if reading is not None else None
    evidence.append(
        Evidence(
            source=seen.source,
            quantity="is_safe",
            value=value,
            age_s=None if age_s is None else round(age_s, 1),
            limit_s=limits.sources.stale_s,
            safe=not why,
            reason=why,
        )
    )


def _judge_dome(
    name: str, seen: Seen, world: World, now_ns: int, limits: SafetySettings, findings: list[Finding], evidence: list[Evidence]
) -> None:
    """The dome as a source: an unknown dome is an emergency, an open one needs a lease."""
    shutter = seen.readings.get("shutter")
    age_s = _age_s(shutter.stamped_ns, now_ns) if shutter is not None else None
    why = ""
    if shutter is None or shutter.value is None or age_s is None:
        why = f"the dome's shutter is unknown: {seen.fault or seen.lost or 'it was never read'}"
    elif age_s > limits.closing.dome_stale_s or age_s < -limits.sources.future_s:
        why = (
            f"the dome's shutter was read {age_s:.0f} s ago (limit {limits.closing.dome_stale_s:g}): {seen.fault or seen.lost or 'silence'}"
        )
    if why:
        findings.append(Finding("dome", name, why, at_once=True))
    elif shutter is not None and shutter.value != "closed":
        lease_why = _why_no_lease(world, str(shutter.value), now_ns, limits)
        if lease_why:
            findings.append(Finding("lease", "telescope", lease_why))
    evidence.append(
        Evidence(
            source=name,
            quantity="shutter",
            value=shutter.value if shutter is not None else None,
            age_s=None if age_s is None else round(age_s, 1),
            limit_s=limits.closing.dome_stale_s,
            safe=not why,
            reason=why,
        )
    )
    lease_age_s = _age_s(world.lease.renewed_ns, now_ns) if world.lease is not None else None
    evidence.append(
        Evidence(
            source="telescope",
            quantity="lease",
            value=world.lease.holder if world.lease is not None else None,
            age_s=None if lease_age_s is None else round(lease_age_s, 1),
            limit_s=limits.lease.lease_s,
            safe=not any(finding.hazard == "lease" for finding in findings),
        )
    )


def _why_no_lease(world: World, shutter: str, now_ns: int, limits: SafetySettings) -> str:
    if world.lease is None:
        return f"the dome is {shutter} and nobody holds the open-dome lease"
    age_s = (now_ns - world.lease.renewed_ns) / 1e9
    if age_s > limits.lease.lease_s:
        return (
            f"the dome is {shutter} and its lease ran out: no progress of {world.lease.holder}"
            f" for {age_s:.0f} s (limit {limits.lease.lease_s:g})"
        )
    return ""


def _judge_sun(world: World, now_ns: int, limits: SafetySettings, findings: list[Finding], evidence: list[Evidence]) -> None:  # noqa: ARG001
    altitude = world.sun_altitude_deg
    why = ""
    if altitude is None or not math.isfinite(altitude):
        why = "the altitude of the Sun is unknown"
    elif altitude > limits.sun.limit_deg:
        why = f"the Sun is at {altitude:.1f} deg (limit {limits.sun.limit_deg:g})"
    if why:
        findings.append(Finding("sun", "sky", why, at_once=True))
        dome = next((seen for seen in world.sources.values() if seen.kind == "dome"), None)
        shutter = dome.readings.get("shutter") if dome is not None else None
        if shutter is not None and shutter.value not in ("closed", "closing"):
            findings.append(Finding("sunlight", "dome", f"{why} and the dome is {shutter.value}"))
    evidence.append(
        Evidence(
            source="kernel",
            quantity="sun_altitude",
            value=None if altitude is None else round(altitude, 2),
            unit="deg",
            age_s=0.0,
            limit_s=1.0,
            safe=not why,
            reason=why,
        )
    )


def _judge_host(world: World, now_ns: int, limits: SafetySettings, findings: list[Finding], evidence: list[Evidence]) -> None:
    host = limits.host
    jump_s = abs(world.clock_jump_s)
    if not jump_s <= host.clock_jump_s:  # also when it is no number
        findings.append(Finding("clock", "host", f"the clock jumped by {jump_s:.1f} s (limit {host.clock_jump_s:g})"))
    if not jump_s <= host.clock_far_s:
        findings.append(Finding("clock_far", "host", f"the clock jumped by {jump_s:.0f} s (limit {host.clock_far_s:g})"))
    if world.broker_lost_ns is not None:
        away_s = (now_ns - world.broker_lost_ns) / 1e9
        for hazard, limit_s in (("broker", host.broker_no_opening_s), ("broker_long", host.broker_shelter_s)):
            if away_s >= limit_s:
                findings.append(Finding(hazard, "host", f"the broker is away for {away_s:.0f} s (limit {limit_s:g})", at_once=True))
    low = False
    if world.free_bytes is not None:
        free_mb = world.free_bytes / 1e6
        low = free_mb < host.free_least_mb
        if free_mb < host.free_warn_mb:
            findings.append(Finding("disk", "host", f"{free_mb:.0f} MB are free (limit {host.free_warn_mb:g})"))
        if low:
            findings.append(Finding("disk_full", "host", f"{free_mb:.0f} MB are free (limit {host.free_least_mb:g})"))
    evidence.append(
        Evidence(
            source="host",
            quantity="free_mb",
            value=None if world.free_bytes is None else round(world.free_bytes / 1e6),
            unit="MB",
            age_s=None,
            limit_s=0.0,
            safe=not low,
        )
    )
