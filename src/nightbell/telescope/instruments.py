"""The devices of one telescope: opened from the settings, connected, and what does not change about them read once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from nightbell.contracts.errors import DeviceFault, Missing, NightbellError
from nightbell.contracts.records import Site
from nightbell.devices.protocols import Camera, CoverCalibrator, Dome, FilterWheel, Focuser, Mount, Weather
from nightbell.devices.registry import open_device
from nightbell.sky.view import Clock, SkyView
from nightbell.telescope.exposure import CameraDriver
from nightbell.telescope.pointing import Pointing
from nightbell.telescope.settings import TelescopeSettings

__all__ = ["Instruments"]

LOOK_EVERY_S = 2.0
"""Real seconds."""


class Instruments:
    """Dome, mount, camera and what else is configured. `connect` may be called as often as one likes."""

    def __init__(self, settings: TelescopeSettings, site: Site, sky: SkyView, clock: Clock, tick: Callable[[], None]) -> None:
        self.settings = settings
        self.site = site
        self.sky = sky
        self.clock = clock
        self.tick = tick
        devices = settings.devices
        self.dome: Dome = open_device("dome", devices["dome"], clock)
        self.mount: Mount = open_device("mount", devices["mount"], clock)
        self._camera: Camera = open_device("camera", devices["camera"], clock)
        self.wheel: FilterWheel | None = open_device("filter_wheel", devices["filter_wheel"], clock) if "filter_wheel" in devices else None
        self.cover: CoverCalibrator | None = (
            open_device("cover_calibrator", devices["cover_calibrator"], clock) if "cover_calibrator" in devices else None
        )
        self.weather: Weather | None = open_device("weather", devices["weather"], clock) if "weather" in devices else None
        self.focuser: Focuser | None = open_device("focuser", devices["focuser"], clock) if "focuser" in devices else None
        self._driver: CameraDriver | None = None
        self._pointing: Pointing | None = None

    @property
    def is_connected(self) -> bool:
        return self._driver is not None and self._pointing is not None

    @property
    def camera(self) -> CameraDriver:
        if self._driver is None:
            raise Missing("the camera is not connected", where="telescope", remedy="Prepare the night first")
        return self._driver

    @property
    def pointing(self) -> Pointing:
        if self._pointing is None:
            raise Missing("the mount is not connected", where="telescope", remedy="Prepare the night first")
        return self._pointing

    async def connect(self) -> None:
        """Connect everything at once and read what is constant. Nothing moves. Drivers reconnect by themselves later."""
        if self.is_connected:
            return
        devices = self.settings.devices
        optional = (self.wheel, self.cover, self.weather, self.focuser)
        wanted = [self.dome, self.mount, self._camera, *(device for device in optional if device is not None)]
        await asyncio.gather(*(device.connect(deadline_s=devices[device.name].connect_deadline_s) for device in wanted))
        camera_facts, mount_facts = await asyncio.gather(
            self._camera.facts(deadline_s=self._camera.default_deadline_s), self.mount.facts(deadline_s=self.mount.default_deadline_s)
        )
        wheel_facts = await self.wheel.facts(deadline_s=self.wheel.default_deadline_s) if self.wheel is not None else None
        try:
            # Two masters for one dome let it wander: slaving by the driver stays off.
            await self.dome.set_slaved(slaved=False, deadline_s=self.dome.default_deadline_s)
        except DeviceFault:
            self.tick()  # a dome that cannot be slaved is not slaved
        self._pointing = Pointing(
            self.mount,
            self.dome,
            mount_facts,
            sky=self.sky,
            clock=self.clock,
            settings=self.settings.dome,
            latitude_deg=self.site.latitude_deg,
            tick=self.tick,
        )
        self._driver = CameraDriver(
            self._camera,
            camera_facts,
            self.wheel,
            wheel_facts,
            clock=self.clock,
            settings=self.settings.instrument,
            tick=self.tick,
        )

    async def keep_looking(self, every_s: float = LOOK_EVERY_S) -> None:
        """For ever: ask what nothing else has asked for a while, so that reports tell the hardware as it is now.

        While a target is waited for, an exposure runs or the day passes, the night itself asks little. This is no progress of the
        night: it does not tick. What does not answer grows old in the reports, and says so there.
        """
        while True:
            await asyncio.sleep(every_s)
            if self._pointing is None or self._driver is None:
                continue
            for last, look in (
                (self._pointing.last_dome, self._pointing.dome_status),
                (self._pointing.last_mount, self._pointing.mount_status),
                (self._driver.last_status, self._driver.status),
            ):
                if last is None or last.real_age_s() >= every_s:
                    with contextlib.suppress(NightbellError):
                        await look()

    def readings(self, now_ns: int) -> dict[str, Any]:
        """Last readings of dome, mount and camera with their ages; empty before the first."""
        pointing = self._pointing
        if pointing is None or self._driver is None:
            return {}
        dome, mount, camera = pointing.last_dome, pointing.last_mount, self._driver.last_status
        said: dict[str, Any] = {}
        if dome is not None:
            said["dome"] = {
                "shutter": dome.shutter.name.lower(),
                "azimuth_deg": dome.azimuth_deg,
                "slewing": dome.slewing,
                "age_s": round(dome.age_s(now_ns), 1),
            }
        if mount is not None:
            said["mount"] = {
                "right_ascension_h": mount.right_ascension_h,
                "declination_deg": mount.declination_deg,
                "altitude_deg": mount.altitude_deg,
                "tracking": mount.tracking,
                "slewing": mount.slewing,
                "at_park": mount.at_park,
                "pier_side": mount.side_of_pier.name.lower(),
                "age_s": round(mount.age_s(now_ns), 1),
            }
        if camera is not None:
            said["camera"] = {
                "state": camera.camera_state.name.lower(),
                "temperature_degc": camera.ccd_temperature_degc,
                "cooler_percent": camera.cooler_power_percent,
                "age_s": round(camera.age_s(now_ns), 1),
            }
        return said

    async def close(self) -> None:
        """Give up our connections; the hardware stays as it is."""
        optional = (self.wheel, self.cover, self.weather, self.focuser)
        await asyncio.gather(
            *(device.aclose() for device in (self.dome, self.mount, self._camera, *optional) if device is not None),
            return_exceptions=True,
        )
