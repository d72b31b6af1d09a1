"""A running world, small and quick."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from nightbell.contracts.records import Site
from nightbell.simulator.process import SimulatedObservatory, in_thread
from nightbell.simulator.settings import CameraSettings, SimulatorSettings


@pytest.fixture(scope="session")
def site() -> Site:
    return Site(name="demo", latitude_deg=-29.2567, longitude_deg=-70.7377, elevation_m=2400.0)


@pytest.fixture(scope="session")
def small() -> SimulatorSettings:
    camera = CameraSettings(width_px=96, height_px=64, readout_s=0.5)
    return SimulatorSettings(port=0, rate=100.0, start_utc="2027-04-13T02:00:00Z", camera=camera, token="let-me-in")


@pytest.fixture
def simulator(small: SimulatorSettings, site: Site) -> Iterator[SimulatedObservatory]:
    with in_thread(small, site) as running:
        yield running
