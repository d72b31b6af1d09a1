"""Our server through somebody else's client: ASCOM's own Python client drives a whole cycle."""

from __future__ import annotations

import time

import numpy as np
import pytest

pytestmark = [pytest.mark.filterwarnings("ignore")]  # a third party's warnings are its own

alpaca = pytest.importorskip("alpaca", reason="the third-party client alpyca is not installed")


def until(is_done, deadline_s=10.0):
    end = time.monotonic() + deadline_s
    while not is_done():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_whole_cycle_through_alpyca(simulator):
    from alpaca.camera import Camera, CameraStates, ImageArrayElementTypes
    from alpaca.covercalibrator import CoverCalibrator, CoverStatus
    from alpaca.dome import Dome, ShutterState
    from alpaca.filterwheel import FilterWheel
    from alpaca.focuser import Focuser
    from alpaca.observingconditions import ObservingConditions
    from alpaca.safetymonitor import SafetyMonitor
    from alpaca.telescope import Telescope

    address = f"127.0.0.1:{simulator.port}"
    mount, dome, camera = Telescope(address, 0), Dome(address, 0), Camera(address, 0)
    wheel, focuser, cover = FilterWheel(address, 0), Focuser(address, 0), CoverCalibrator(address, 0)
    weather, monitor = ObservingConditions(address, 0), SafetyMonitor(address, 0)
    for device in (mount, dome, camera, wheel, focuser, cover, weather, monitor):
        device.Connect()
        until(lambda device=device: not device.Connecting)
        assert device.Connected
        assert device.DeviceState
    assert monitor.IsSafe
    assert -20 < weather.Temperature < 40
    dome.OpenShutter()
    cover.OpenCover()
    mount.Unpark()
    mount.Tracking = True
    ra_h = (mount.SiderealTime - 1.0) % 24
    assert int(mount.DestinationSideOfPier(ra_h, -30.0)) == 0
    mount.SlewToCoordinatesAsync(ra_h, -30.0)
    dome.SlewToAzimuth(dome_azimuth := 275.0)
    wheel.Position = 1
    focuser.Move(5100)
    until(lambda: not mount.Slewing and not dome.Slewing and wheel.Position == 1 and not focuser.IsMoving)
    assert abs(mount.RightAscension - ra_h) < 0.001
    assert abs(dome.Azimuth - dome_azimuth) < 0.1
    assert dome.ShutterStatus == ShutterState.shutterOpen
    until(lambda: cover.CoverState == CoverStatus.Open)
    camera.BinX = camera.BinY = 1
    camera.StartX, camera.StartY, camera.NumX, camera.NumY = 8, 4, 40, 30
    camera.StartExposure(10.0, True)
    until(lambda: camera.ImageReady)
    assert camera.CameraState == CameraStates.cameraIdle
    image = np.array(camera.ImageArray)
    assert image.shape == (40, 30)
    assert camera.ImageArrayInfo.ImageElementType == ImageArrayElementTypes.Int32
    assert camera.LastExposureDuration == 10.0
    assert camera.LastExposureStartTime.startswith("2027-04-13T02:")
    mount.Park()
    dome.CloseShutter()
    until(lambda: mount.AtPark and dome.ShutterStatus == ShutterState.shutterClosed)
    assert simulator.truth()["dome_closed"]


def test_alpyca_and_our_client_read_the_same_pixels(simulator):
    import asyncio

    from alpaca.camera import Camera

    from nightbell.devices.registry import open_device
    from nightbell.devices.settings import DeviceSettings

    class Clock:
        def now_ns(self):
            return time.time_ns()

    theirs = Camera(f"127.0.0.1:{simulator.port}", 0)
    theirs.Connected = True
    theirs.StartExposure(5.0, False)
    until(lambda: theirs.ImageReady)
    ours = open_device("camera", DeviceSettings(port=simulator.port), Clock())

    async def read():
        image = await ours.read_image(deadline_s=5)
        await ours.aclose()
        return image

    assert np.array_equal(np.array(theirs.ImageArray).T, asyncio.run(read()).pixels)


def test_alpyca_gets_our_refusals_as_its_exceptions(simulator):
    from alpaca.dome import Dome
    from alpaca.exceptions import InvalidValueException, NotConnectedException, NotImplementedException, ParkedException
    from alpaca.telescope import Telescope

    dome, mount = Dome(f"127.0.0.1:{simulator.port}", 0), Telescope(f"127.0.0.1:{simulator.port}", 0)
    with pytest.raises(NotConnectedException):
        dome.OpenShutter()
    dome.Connected = mount.Connected = True
    with pytest.raises(InvalidValueException):
        dome.SlewToAzimuth(400.0)
    with pytest.raises(NotImplementedException):
        dome.SlewToAltitude(20.0)
    with pytest.raises(ParkedException):
        mount.SlewToCoordinatesAsync(5.0, 0.0)
