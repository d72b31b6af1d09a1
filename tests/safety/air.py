"""Good evidence, and ways to spoil it."""

from __future__ import annotations

from dataclasses import replace

from nightbell.safety.evidence import Lease, Reading, Report, Seen, World, absorb
from nightbell.safety.settings import WATCHABLE, SafetySettings

FAIR = {
    "rain_rate_mm_per_h": 0.0,
    "wind_speed_m_per_s": 3.0,
    "wind_gust_m_per_s": 5.0,
    "humidity_percent": 30.0,
    "dew_point_degc": -5.0,
    "temperature_degc": 12.0,
    "sky_temperature_degc": -30.0,
    "pressure_hpa": 770.0,
}
assert set(FAIR) == set(WATCHABLE)
S = 1_000_000_000
NOW = 10_000 * S


def seconds(count: float) -> int:
    return round(count * S)


class Air:
    """Builds evidence. Everything is fair, fresh and closed unless it is said otherwise."""

    def __init__(self, settings: SafetySettings) -> None:
        self.settings = settings

    def weather(self, now_ns: int = NOW, *, source: str = "weather", age_s: float = 0.5, fault: str = "", **values: object) -> Seen:
        readings = {name: Reading(value, now_ns - seconds(age_s)) for name, value in {**FAIR, **values}.items()}
        return Seen(source=source, kind="weather", readings=readings, answered_ns=now_ns - seconds(0.5), fault=fault)

    def dome(self, shutter: str | None = "closed", now_ns: int = NOW, *, age_s: float = 0.5) -> Seen:
        return Seen(source="dome", kind="dome", readings={"shutter": Reading(shutter, now_ns - seconds(age_s))}, answered_ns=now_ns)

    def monitor(self, value: object = True, now_ns: int = NOW, *, source: str = "monitor", age_s: float = 0.5) -> Seen:
        readings = {"is_safe": Reading(value, now_ns - seconds(age_s))}
        return Seen(source=source, kind="monitor", readings=readings, answered_ns=now_ns - seconds(0.5))

    def world(self, now_ns: int = NOW, *, shutter: str | None = "closed", lease_age_s: float | None = None, **values: object) -> World:
        sources: dict[str, Seen] = {"dome": self.dome(shutter, now_ns)}
        for name in self.settings.devices:
            if name.startswith("weather"):
                sources[name] = self.weather(now_ns, source=name, **values)
            elif name.startswith("monitor"):
                sources[name] = self.monitor(True, now_ns, source=name)
        lease = None if lease_age_s is None else Lease("telescope:1", 7, now_ns - seconds(lease_age_s))
        return World(sources=sources, lease=lease, sun_altitude_deg=-30.0, free_bytes=10**12)

    def swap(self, world: World, **sources: Seen) -> World:
        return replace(world, sources={**world.sources, **sources})


def report(now_ns: int, *, stamped_ns: int | None = None, fault: str = "", lost: str = "", **values: object) -> Report:
    stamp = now_ns if stamped_ns is None else stamped_ns
    readings = {} if fault or lost else {name: Reading(value, stamp) for name, value in {**FAIR, **values}.items()}
    return Report("weather", "weather", now_ns, readings, fault=fault, lost=lost)


def course(*reports: Report) -> Seen:
    seen = Seen(source="weather", kind="weather")
    for one in reports:
        seen = absorb(seen, one, keep_ns=600 * S)
    return seen
