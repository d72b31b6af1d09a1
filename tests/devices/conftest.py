"""A simulated observatory to drive, and devices opened on it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest

from nightbell.contracts.records import Site
from nightbell.devices.registry import open_device
from nightbell.devices.settings import DeviceSettings
from nightbell.simulator.process import SimulatedObservatory, in_thread
from nightbell.simulator.settings import CameraSettings, SimulatorSettings

SITE = Site(name="demo", latitude_deg=-29.2567, longitude_deg=-70.7377, elevation_m=2400.0)


class WallClock:
    def now_ns(self) -> int:
        return time.time_ns()


class Bench:
    """Devices of one observatory, and a plain way to await them."""

    def __init__(self, port: int, simulator: SimulatedObservatory) -> None:
        self.port = port
        self.simulator = simulator
        self._open: list = []

    def open(self, kind: str, *, connect: bool = True, **settings: object):
        device = open_device(kind, DeviceSettings(port=self.port, **settings), WallClock())
        self._open.append(device)
        if connect:
            self.run(device.connect(deadline_s=10))
        return device

    def run(self, call):
        return asyncio.run(call)

    def close(self) -> None:
        for device in self._open:
            self.run(device.aclose())


def small_settings(**more: object) -> SimulatorSettings:
    camera = CameraSettings(width_px=96, height_px=64, readout_s=0.5)
    return SimulatorSettings(**{"port": 0, "rate": 100.0, "start_utc": "2027-04-13T02:00:00Z", "camera": camera, **more})


# The drivers that the contract holds for: name -> what stands behind. A new driver is one more row.
DRIVERS = ("alpaca",)


@pytest.fixture
def simulator() -> Iterator[SimulatedObservatory]:
    with in_thread(small_settings(), SITE) as running:
        yield running


@pytest.fixture(params=DRIVERS)
def bench(request: pytest.FixtureRequest, simulator: SimulatedObservatory) -> Iterator[Bench]:
    made = Bench(simulator.port, simulator)
    yield made
    made.close()
