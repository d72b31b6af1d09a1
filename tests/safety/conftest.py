"""Limits of one dome and one weather station, and the air over them."""

from __future__ import annotations

import pytest

from nightbell.devices.settings import DeviceSettings
from nightbell.safety.settings import SafetySettings

from .air import Air


@pytest.fixture
def limits() -> SafetySettings:
    return SafetySettings(devices={"dome": DeviceSettings(), "weather": DeviceSettings()})


@pytest.fixture
def air(limits: SafetySettings) -> Air:
    return Air(limits)
