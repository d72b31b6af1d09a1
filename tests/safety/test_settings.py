"""The demo's settings, and those that are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from nightbell.contracts.errors import BadInput, NightbellError
from nightbell.devices.settings import DeviceSettings
from nightbell.safety.settings import SafetySettings, check_world, scaled
from nightbell.settings import ClockSettings, load_installation, read_settings

DEMO = Path(__file__).resolve().parents[2] / "conf/demo"
DOME, WEATHER = {"dome": {}}, {"weather": {}}


def test_the_demo_is_read_and_its_limits_survive_its_speed() -> None:
    settings = load_installation(DEMO).module_settings("safety", SafetySettings)
    fast = scaled(settings, 120.0)
    assert fast.lease.lease_s >= 2.0
    assert fast.sources.rain_stale_s >= 2.0
    assert fast.closing.deadline_s == settings.closing.deadline_s


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"devices": WEATHER}, "lacks dome"),
        ({"devices": DOME}, "neither a weather station nor a monitor"),
        ({"devices": {**DOME, **WEATHER, "roof": {}}}, "there is no device roof"),
        ({"devices": {**DOME, **WEATHER}, "watched": ["rain"]}, "cannot judge rain"),
        ({"devices": {**DOME, **WEATHER}, "watched": ["dew_point_degc"]}, "is judged against temperature_degc"),
        ({"devices": {**DOME, **WEATHER}, "lease": {"lease_s": 0.0}}, "0 is outside 2 to 600"),
    ],
)
def test_settings_that_could_never_protect_are_refused(table: dict[str, object], words: str) -> None:
    with pytest.raises(NightbellError, match=words):
        read_settings(table, SafetySettings, where="safety.toml")


def test_a2_a_simulated_world_with_a_strangers_dome_is_refused() -> None:
    installation = load_installation(DEMO)
    settings = installation.module_settings("safety", SafetySettings)
    check_world(installation, settings)
    real = replace(settings, devices={**settings.devices, "dome": DeviceSettings(host="192.0.2.7")})
    with pytest.raises(BadInput, match="dome is not at the simulator"):
        check_world(installation, real)
    system = replace(installation, settings=replace(installation.settings, clock=ClockSettings()))
    check_world(system, real)
