"""Settings of the safety kernel: modules/safety.toml. Limits are world seconds; `scaled` makes them real ones."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

from nightbell.contracts.errors import BadInput
from nightbell.devices.settings import DeviceSettings
from nightbell.safety.evidence import Kind
from nightbell.settings import Installation, setting

__all__ = [
    "AlarmSettings",
    "ClosingSettings",
    "CloudSettings",
    "HostSettings",
    "HumiditySettings",
    "LeaseSettings",
    "RainSettings",
    "SafetySettings",
    "SourceSettings",
    "SunSettings",
    "WindSettings",
    "check_world",
    "kind_of",
    "scaled",
]

T = TypeVar("T")
WATCHABLE = (
    *("rain_rate_mm_per_h", "wind_speed_m_per_s", "wind_gust_m_per_s", "humidity_percent", "dew_point_degc"),
    *("temperature_degc", "sky_temperature_degc", "pressure_hpa"),
)
LEAST_REAL_S = 2.0
"""In a world that runs k times faster no limit becomes shorter than this: sockets and schedulers do not run faster."""


@dataclass(frozen=True, kw_only=True)
class SourceSettings:
    """[sources] When a reading counts as none, and how long good ones must last after that."""

    poll_s: float = setting(1.0, unit="real s", low=0.1, high=60, doc="Each source is asked so often")
    stale_s: float = setting(60.0, unit="s", low=2, high=3600, doc="A reading whose own stamp is older is no reading")
    rain_stale_s: float = setting(30.0, unit="s", low=2, high=3600, doc="The same for rain")
    future_s: float = setting(5.0, unit="s", low=1, high=60, doc="A stamp further ahead is invalid")
    lost_s: float = setting(30.0, unit="s", low=2, high=3600, doc="A source that did not answer for so long is lost")
    frozen_s: float = setting(600.0, unit="s", low=60, high=7200, doc="Temperature, humidity and pressure bit-identical for so long")
    frozen_n: int = setting(30, low=5, high=10000, doc="... in at least so many readings: frozen")
    disagree_hold_s: float = setting(60.0, unit="s", low=0, high=3600, doc="Stations must disagree for so long")
    disagree_temperature_k: float = setting(5.0, unit="K", low=0.1, high=50, doc="Two stations disagree beyond this")
    disagree_humidity_percent: float = setting(20.0, unit="%", low=1, high=100, doc="Two stations disagree beyond this")
    disagree_wind_m_per_s: float = setting(8.0, unit="m/s", low=0.5, high=50, doc="Two stations disagree beyond this")
    clear_s: float = setting(600.0, unit="s", low=0, high=86400, doc="After it was lost or wrong, a source must be good for so long")


@dataclass(frozen=True, kw_only=True)
class RainSettings:
    """[rain] Any rain, one sample."""

    clear_s: float = setting(1800.0, unit="s", low=0, high=86400, doc="Dry for so long")


@dataclass(frozen=True, kw_only=True)
class WindSettings:
    """[wind] Mean and gust."""

    mean_limit_m_per_s: float = setting(12.0, unit="m/s", low=1, high=60, doc="Unsafe above, mean over mean_s")
    gust_limit_m_per_s: float = setting(17.0, unit="m/s", low=1, high=90, doc="Unsafe above, one sample")
    mean_s: float = setting(600.0, unit="s", low=10, high=3600, doc="The mean is taken over so long")
    clear_share: float = setting(0.8, low=0.1, high=1, doc="Clear below this share of the limits")
    clear_s: float = setting(1200.0, unit="s", low=0, high=86400, doc="Clear for so long")


@dataclass(frozen=True, kw_only=True)
class HumiditySettings:
    """[humidity] Humidity and dew point."""

    limit_percent: float = setting(90.0, unit="%", low=10, high=100, doc="Unsafe above")
    dew_margin_k: float = setting(2.0, unit="K", low=0, high=20, doc="Unsafe when the air is nearer to its dew point")
    hold_s: float = setting(120.0, unit="s", low=0, high=3600, doc="Bad for so long")
    clear_s: float = setting(1200.0, unit="s", low=0, high=86400, doc="Clear for so long")


@dataclass(frozen=True, kw_only=True)
class CloudSettings:
    """[cloud] Sky temperature."""

    sky_minus_air_k: float = setting(-15.0, unit="K", low=-60, high=20, doc="Unsafe when the sky is warmer than the air plus this")
    hold_s: float = setting(300.0, unit="s", low=0, high=3600, doc="Bad for so long")
    clear_s: float = setting(900.0, unit="s", low=0, high=86400, doc="Clear for so long")


@dataclass(frozen=True, kw_only=True)
class SunSettings:
    """[sun] Daylight."""

    limit_deg: float = setting(-1.0, unit="deg", low=-18, high=10, doc="Unsafe when the Sun is higher")
    alarm_after_s: float = setting(10.0, unit="s", low=0, high=600, doc="Critical alarm when the shutter then stays open so long")


@dataclass(frozen=True, kw_only=True)
class LeaseSettings:
    """[lease] The telescope's right to keep the dome open, and tokens for opening it."""

    lease_s: float = setting(20.0, unit="s", low=2, high=600, doc="Without grown progress for so long the dome is closed")
    go_s: float = setting(10.0, unit="s", low=2, high=60, doc="A GO token holds for so long")
    operator_hold_s: float = setting(60.0, unit="s", low=0, high=3600, doc="After `close` was asked, no GO for so long")


@dataclass(frozen=True, kw_only=True)
class ClosingSettings:
    """[closing] How the dome is closed."""

    travel_s: float = setting(30.0, unit="s", low=0.5, high=600, doc="The shutter needs so long")
    retry_s: float = setting(10.0, unit="s", low=1, high=120, doc="Without any change for so long the order is sent again")
    dome_stale_s: float = setting(30.0, unit="s", low=2, high=600, doc="A shutter not read for so long is unknown, and closed")
    deadline_s: float = setting(5.0, unit="real s", low=0.5, high=60, doc="One order may take so long")
    second_path: tuple[str, ...] = setting((), doc="Command (argv) that closes by another way, run when two orders had no effect")


@dataclass(frozen=True, kw_only=True)
class HostSettings:
    """[host] Clock, disk and broker."""

    clock_jump_s: float = setting(0.5, unit="real s", low=0.05, high=30, doc="Wall clock against monotonic clock: no opening beyond")
    clock_far_s: float = setting(30.0, unit="real s", low=1, high=3600, doc="... and closing beyond")
    clock_clear_s: float = setting(600.0, unit="s", low=0, high=86400, doc="Quiet for so long")
    asleep_s: float = setting(5.0, unit="real s", low=1, high=600, doc="This host slept for so long: nothing known holds any more")
    free_warn_mb: float = setting(2000.0, unit="MB", low=0, high=1e7, doc="Alarm below")
    free_least_mb: float = setting(500.0, unit="MB", low=0, high=1e7, doc="Unsafe below, for disk_hold_s")
    disk_hold_s: float = setting(600.0, unit="s", low=0, high=3600, doc="Bad for so long")
    broker_no_opening_s: float = setting(10.0, unit="real s", low=1, high=3600, doc="Broker away for so long: no opening")
    broker_shelter_s: float = setting(60.0, unit="real s", low=1, high=86400, doc="Broker away for so long: closing")


@dataclass(frozen=True, kw_only=True)
class AlarmSettings:
    """[alarms] Channels. A channel without an address is off; the log is always there."""

    command: tuple[str, ...] = setting((), doc="Program and its arguments; gets the alarm as JSON on standard input, exit 0 is delivered")
    webhook: str = setting("", doc="URL that gets the alarm by POST; 2xx is delivered")
    smtp_host: str = setting("", doc="Mail server")
    smtp_port: int = setting(587, low=1, high=65535, doc="Its port")
    smtp_starttls: bool = setting(True, doc="Encrypt with STARTTLS")
    smtp_user: str = setting("", doc="User; empty: no login")
    smtp_password_file: str = setting("", names="path", doc="File with the password, relative to the installation")
    smtp_from: str = setting("nightbell@localhost", doc="Sender")
    smtp_to: tuple[str, ...] = setting((), doc="Receivers")
    deadline_s: float = setting(10.0, unit="real s", low=0.5, high=60, doc="One delivery may take so long")
    repeat_min: tuple[float, ...] = setting((1.0, 3.0, 10.0), unit="min", low=0.01, high=1440, doc="Critical repeats; the last one goes on")
    least_gap_s: float = setting(60.0, unit="real s", low=0, high=3600, doc="At most one message per key in so long")

    def __post_init__(self) -> None:
        if self.smtp_host and not self.smtp_to:
            raise BadInput("is empty: mail would reach nobody", where="smtp_to", remedy='Give the receivers, or leave smtp_host ""')
        if self.webhook and not self.webhook.startswith(("http://", "https://")):
            raise BadInput(f"{self.webhook!r} is no web address", where="webhook", remedy="Begin it with https://")


@dataclass(frozen=True, kw_only=True)
class SafetySettings:
    """The file modules/safety.toml."""

    devices: dict[str, DeviceSettings] = setting(doc="dome, and any number named weather... and monitor...")
    watched: tuple[str, ...] = setting(
        WATCHABLE, choices=None, doc="Quantities every weather station must give; what is watched and missing is unsafe"
    )
    sources: SourceSettings = setting(SourceSettings(), doc="When a reading counts as none")
    rain: RainSettings = setting(RainSettings(), doc="Any rain, one sample")
    wind: WindSettings = setting(WindSettings(), doc="Mean and gust")
    humidity: HumiditySettings = setting(HumiditySettings(), doc="Humidity and dew point")
    cloud: CloudSettings = setting(CloudSettings(), doc="Sky temperature")
    sun: SunSettings = setting(SunSettings(), doc="Daylight")
    lease: LeaseSettings = setting(LeaseSettings(), doc="The telescope's right to keep the dome open")
    closing: ClosingSettings = setting(ClosingSettings(), doc="How the dome is closed")
    host: HostSettings = setting(HostSettings(), doc="Clock, disk and broker")
    alarms: AlarmSettings = setting(AlarmSettings(), doc="Channels of the alarms")

    def __post_init__(self) -> None:
        for name in self.devices:
            kind_of(name)
        if "dome" not in self.devices:
            raise BadInput("lacks dome", where="devices", remedy="Add [devices.dome] with host, port and number")
        if not any(kind_of(name) in ("weather", "monitor") for name in self.devices):
            raise BadInput(
                "has neither a weather station nor a monitor: nothing would ever be known to be safe",
                where="devices",
                remedy="Add [devices.weather] with host, port and number",
            )
        unknown = sorted(set(self.watched) - set(WATCHABLE))
        if unknown:
            raise BadInput(f"cannot judge {', '.join(unknown)}", where="watched", remedy=f"Known: {', '.join(WATCHABLE)}")
        for needs, also in (("dew_point_degc", "temperature_degc"), ("sky_temperature_degc", "temperature_degc")):
            if needs in self.watched and also not in self.watched:
                raise BadInput(f"{needs} is judged against {also}, which is not watched", where="watched", remedy=f"Add {also}")
        if self.wind.mean_s < self.sources.stale_s:
            raise BadInput("is shorter than sources.stale_s", where="wind.mean_s", remedy="Make it longer")


def kind_of(name: str) -> Kind:
    """Device kind by its name in [devices]: dome, weather..., monitor.... Raises `BadInput`."""
    if name == "dome":
        return "dome"
    if name.startswith("weather"):
        return "weather"
    if name.startswith("monitor"):
        return "monitor"
    raise BadInput(f"there is no device {name}", where="devices", remedy="Name it dome, weather, weather2, monitor, monitor-roof ...")


def scaled(settings: T, rate: float) -> T:
    """`settings` with every time of the world (unit s) in real seconds of a world that runs `rate` times faster.

    None becomes shorter than 2 s because of that, and 0 stays 0.
    """
    changes: dict[str, Any] = {}
    for one in dataclasses.fields(settings):  # type: ignore[arg-type]
        value = getattr(settings, one.name)
        if dataclasses.is_dataclass(value) and not isinstance(value, DeviceSettings):
            changes[one.name] = scaled(value, rate)
        elif one.metadata.get("unit") == "s" and isinstance(value, int | float):
            changes[one.name] = max(value / rate, min(value, LEAST_REAL_S))
    return dataclasses.replace(settings, **changes)  # type: ignore[type-var]


def check_world(installation: Installation, settings: SafetySettings) -> None:
    """A simulated clock with a real dome, or the other way round, is refused: simulated weather must never open a real dome."""
    clock = installation.settings.clock
    if clock.kind != "simulator":
        return
    place = urlsplit(clock.url)
    strangers = [name for name, one in settings.devices.items() if (one.host, one.port) != (place.hostname, place.port)]
    if strangers:
        raise BadInput(
            f"{', '.join(strangers)} is not at the simulator {place.netloc}, whose clock this installation keeps",
            where="modules/safety.toml: devices",
            remedy="Keep the system's clock at a real observatory, or let the simulator serve every device",
        )
