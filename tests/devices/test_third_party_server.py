"""Our drivers against somebody else's server: what the double promises must hold there too."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nightbell.contracts.errors import DeviceFault, DeviceLost
from nightbell.devices import protocols
from nightbell.devices.registry import open_device
from nightbell.devices.settings import DeviceSettings
from nightbell.devices.waiting import wait_until

pytestmark = pytest.mark.real
D = 5.0


class WallClock:
    def now_ns(self) -> int:
        return time.time_ns()


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    program = shutil.which("alpaca-simulators") or shutil.which("alpaca-simulators", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("the third-party server alpaca-simulators is not installed")
    with socket.create_server(("127.0.0.1", 0)) as free:
        number = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("third-party")
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([program, "--host", "127.0.0.1", "--port", str(number)], stdout=log, stderr=log, cwd=folder)
        try:
            end = time.monotonic() + 60
            while True:
                try:
                    asyncio.run(first_answer(number))
                    break
                except (DeviceLost, DeviceFault):
                    assert time.monotonic() < end, (folder / "log").read_text()
                    assert process.poll() is None, (folder / "log").read_text()
            yield number
        finally:
            process.terminate()
            process.wait(timeout=20)


async def first_answer(number):
    dome = open_device("dome", DeviceSettings(port=number), WallClock())
    try:
        await dome.connect(deadline_s=D)
    finally:
        await dome.aclose()


@pytest.fixture
def opened(port):
    made = []

    def make(kind):
        made.append(open_device(kind, DeviceSettings(port=port), WallClock()))
        asyncio.run(made[-1].connect(deadline_s=D))
        return made[-1]

    yield make
    for device in made:
        asyncio.run(device.aclose())


def until(device, is_done, deadline_s=30.0):
    return asyncio.run(wait_until(lambda: device.status(deadline_s=D), is_done, what="test", deadline_s=deadline_s, poll_s=0.05))


def test_a_dome_opens_turns_and_closes(opened):
    dome = opened("dome")
    asyncio.run(dome.open_shutter(deadline_s=D))
    until(dome, lambda status: status.shutter is protocols.ShutterState.OPEN)
    asyncio.run(dome.slew_to_azimuth(120.0, deadline_s=D))
    until(dome, lambda status: not status.slewing and abs(status.azimuth_deg - 120.0) < 1.0)
    asyncio.run(dome.close_shutter(deadline_s=D))
    until(dome, lambda status: status.shutter is protocols.ShutterState.CLOSED)


def test_a_mount_slews_and_reads_back(opened):
    mount = opened("mount")
    facts = asyncio.run(mount.facts(deadline_s=D))
    assert isinstance(facts.equatorial_system, protocols.EquatorialSystem)
    asyncio.run(mount.unpark(deadline_s=D))
    asyncio.run(mount.set_tracking(tracking=True, deadline_s=D))
    lst = asyncio.run(mount.status(deadline_s=D)).sidereal_time_h
    goal = (lst - 1.0) % 24
    asyncio.run(mount.slew_to_coordinates(goal, 30.0, deadline_s=D))
    done = until(mount, lambda status: not status.slewing and abs(status.right_ascension_h - goal) < 0.01)
    assert done.declination_deg == pytest.approx(30.0, abs=0.05)


def test_a_dark_frame_comes_whole_and_not_transposed(opened):
    camera = opened("camera")
    facts = asyncio.run(camera.facts(deadline_s=D))
    asyncio.run(camera.set_window(num_x=40, num_y=30, deadline_s=D))
    asyncio.run(camera.start_exposure(0.2, light=False, deadline_s=D))
    until(camera, lambda status: status.image_ready)
    image = asyncio.run(camera.read_image(deadline_s=30.0))
    assert image.pixels.shape == (30, 40)
    assert 0 < image.pixels.mean() < facts.max_adu
    assert image.exposure_s == pytest.approx(0.2, abs=0.05)


def test_wheel_focuser_weather_and_safety_answer(opened):
    wheel = opened("filter_wheel")
    names = asyncio.run(wheel.facts(deadline_s=D)).names
    asyncio.run(wheel.set_position(len(names) - 1, deadline_s=D))
    until(wheel, lambda status: status.position == len(names) - 1)
    focuser = opened("focuser")
    goal = asyncio.run(focuser.facts(deadline_s=D)).max_step // 2
    asyncio.run(focuser.move(goal, deadline_s=D))
    until(focuser, lambda status: not status.is_moving and status.position == goal)
    assert asyncio.run(opened("weather").status(deadline_s=D)).temperature_degc is not None
    assert asyncio.run(opened("safety_monitor").status(deadline_s=D)).is_safe in (True, False)
