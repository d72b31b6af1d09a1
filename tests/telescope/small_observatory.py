# ruff: noqa: ARG002 - the shapes of the Protocols are kept
"""A dome, a mount, a camera and a wheel in memory, on a fast clock: the Protocols of devices.protocols and nothing more.

The same night runs against the real simulator over Alpaca in tests/integration.
"""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np

from nightbell.contracts.errors import DeviceFault, DeviceLost
from nightbell.devices.protocols import (
    AlignmentMode,
    CameraFacts,
    CameraImage,
    CameraState,
    CameraStatus,
    DomeStatus,
    EquatorialSystem,
    FilterWheelFacts,
    FilterWheelStatus,
    Identity,
    MountFacts,
    MountStatus,
    PierSide,
    ShutterState,
)
from nightbell.sky.view import SkyView
from nightbell.telescope.flats import sky_brightness_mag


class FastClock:
    """A world that runs `rate` times as fast."""

    def __init__(self, start_ns: int, rate: float) -> None:
        self.rate, self._start_ns, self._at = rate, start_ns, time.monotonic_ns()

    def now_ns(self) -> int:
        return self._start_ns + round((time.monotonic_ns() - self._at) * self.rate)

    def real_s(self, seconds: float, floor_s: float = 0.0) -> float:
        return max(seconds / self.rate, floor_s)


class _Device:
    name = ""
    default_deadline_s = 5.0
    away = False

    def __init__(self, clock: FastClock) -> None:
        self.clock = clock
        self.calls: list[str] = []

    async def connect(self, *, deadline_s: float) -> Identity:
        if self.away:
            raise DeviceLost("no answer", where=self.name, remedy="Switch it on")
        return Identity(name=self.name)

    async def aclose(self) -> None:
        self.calls.append("aclose")

    def stamps(self) -> dict[str, int]:
        return {"read_at_ns": self.clock.now_ns(), "read_monotonic_ns": time.monotonic_ns()}


class SmallDome(_Device):
    name = "dome"
    travel_s = 20.0
    rate_deg_per_s = 3.0

    def __init__(self, clock: FastClock) -> None:
        super().__init__(clock)
        self.opening = self.stuck = False
        self.opened_share, self.moved_ns = 0.0, clock.now_ns()
        self.azimuth, self.goal = 0.0, 0.0

    def _step(self) -> None:
        now_ns = self.clock.now_ns()
        dt, self.moved_ns = (now_ns - self.moved_ns) / 1e9, now_ns
        change = 0.0 if self.stuck else dt / self.travel_s * (1 if self.opening else -1)
        self.opened_share = min(1.0, max(0.0, self.opened_share + change))
        turn = ((self.goal - self.azimuth + 540) % 360) - 180
        self.azimuth = (self.azimuth + math.copysign(min(abs(turn), dt * self.rate_deg_per_s), turn)) % 360

    async def status(self, *, deadline_s: float) -> DomeStatus:
        self._step()
        if self.opened_share in (0.0, 1.0):
            shutter = ShutterState.OPEN if self.opened_share else ShutterState.CLOSED
        else:
            shutter = ShutterState.OPENING if self.opening else ShutterState.CLOSING
        return DomeStatus(**self.stamps(), azimuth_deg=self.azimuth, shutter=shutter, slewing=abs(self.goal - self.azimuth) > 1e-6)

    async def open_shutter(self, *, deadline_s: float) -> None:
        self._step()
        self.calls.append("open")
        self.opening = True

    async def close_shutter(self, *, deadline_s: float) -> None:
        self._step()
        self.calls.append("close")
        self.opening = False

    async def slew_to_azimuth(self, azimuth_deg: float, *, deadline_s: float) -> None:
        self._step()
        self.goal = azimuth_deg

    async def abort_slew(self, *, deadline_s: float) -> None:
        self._step()
        self.calls.append("abort")
        self.goal = self.azimuth

    async def find_home(self, *, deadline_s: float) -> None:
        self.goal = 0.0

    async def park(self, *, deadline_s: float) -> None:
        self.calls.append("park")

    async def set_slaved(self, *, slaved: bool, deadline_s: float) -> None:
        assert not slaved


class SmallMount(_Device):
    name = "mount"

    def __init__(self, clock: FastClock, dome: SmallDome, sky: SkyView) -> None:
        super().__init__(clock)
        self.dome, self.sky = dome, sky
        self.ra_h, self.dec_deg, self.done_ns = 0.0, 0.0, 0
        self.tracking, self.parked = False, True

    async def status(self, *, deadline_s: float) -> MountStatus:
        if self.away:
            raise DeviceLost("no answer", where=self.name, remedy="Switch it on")
        slewing = self.clock.now_ns() < self.done_ns
        return MountStatus(
            **self.stamps(),
            right_ascension_h=(self.ra_h + 1) % 24 if slewing else self.ra_h,
            declination_deg=self.dec_deg,
            tracking=self.tracking,
            slewing=slewing,
            at_park=self.parked and not slewing,
            side_of_pier=PierSide.WEST,
        )

    async def facts(self, *, deadline_s: float) -> MountFacts:
        return MountFacts(equatorial_system=EquatorialSystem.TOPOCENTRIC, alignment_mode=AlignmentMode.GERMAN)

    async def slew_to_coordinates(self, right_ascension_h: float, declination_deg: float, *, deadline_s: float) -> None:
        assert self.tracking
        assert not self.parked
        assert self.dome.opened_share == 1.0, "no mount motion under a closed shutter"
        self.ra_h, self.dec_deg, self.done_ns = right_ascension_h, declination_deg, self.clock.now_ns() + 20_000_000_000

    async def destination_side_of_pier(self, right_ascension_h: float, declination_deg: float, *, deadline_s: float) -> PierSide:
        return PierSide.WEST

    async def set_tracking(self, *, tracking: bool, deadline_s: float) -> None:
        self.tracking = tracking

    async def abort_slew(self, *, deadline_s: float) -> None:
        self.calls.append("abort")
        self.done_ns = 0

    async def park(self, *, deadline_s: float) -> None:
        self.tracking, self.parked, self.done_ns = False, True, self.clock.now_ns() + 20_000_000_000

    async def unpark(self, *, deadline_s: float) -> None:
        self.parked = False


class SmallWheel(_Device):
    name = "filter_wheel"
    names = ("g", "r")

    def __init__(self, clock: FastClock) -> None:
        super().__init__(clock)
        self.position = 0

    async def status(self, *, deadline_s: float) -> FilterWheelStatus:
        return FilterWheelStatus(**self.stamps(), position=self.position)

    async def facts(self, *, deadline_s: float) -> FilterWheelFacts:
        return FilterWheelFacts(names=self.names)

    async def set_position(self, position: int, *, deadline_s: float) -> None:
        self.position = position


class SmallCamera(_Device):
    """40 x 30 pixels that see the twilight sky when the dome is open."""

    name = "camera"

    def __init__(self, clock: FastClock, dome: SmallDome, wheel: SmallWheel, sky: SkyView) -> None:
        super().__init__(clock)
        self.dome, self.wheel, self.sky = dome, wheel, sky
        self.started_ns, self.exposure_s, self.light, self.fails, self.hiccups = 0, 0.0, False, False, 0

    async def status(self, *, deadline_s: float) -> CameraStatus:
        left_s = self.exposure_s + 1.0 - (self.clock.now_ns() - self.started_ns) / 1e9
        state = CameraState.ERROR if self.fails else CameraState.EXPOSING if left_s > 0 else CameraState.IDLE
        return CameraStatus(**self.stamps(), camera_state=state, image_ready=left_s <= 0, ccd_temperature_degc=-20.0)

    async def facts(self, *, deadline_s: float) -> CameraFacts:
        return CameraFacts(camera_x_size_px=40, camera_y_size_px=30, electrons_per_adu=1.5, can_set_ccd_temperature=True)

    async def set_window(self, **window: Any) -> None:
        assert (window["num_x"], window["num_y"]) == (40, 30)

    async def start_exposure(self, exposure_s: float, *, light: bool, deadline_s: float) -> None:
        if self.hiccups:
            self.hiccups -= 1
            raise DeviceFault("the shutter did not answer", where="camera", remedy="Repeat it")
        self.started_ns, self.exposure_s, self.light = self.clock.now_ns(), exposure_s, light

    async def abort_exposure(self, *, deadline_s: float) -> None:
        self.calls.append("abort")
        self.exposure_s = 0.0

    async def read_image(self, *, deadline_s: float) -> CameraImage:
        counts = 0.0
        if self.light and self.dome.opened_share == 1.0:
            for i in range(5):
                at_ns = self.started_ns + round((i + 0.5) / 5 * self.exposure_s * 1e9)
                mag = sky_brightness_mag(SmallWheel.names[self.wheel.position], 90 - self.sky.sun_altitude_deg(at_ns))
                counts += 10 ** (-0.4 * (mag - 21.0)) * self.exposure_s / 5
        pixels = np.clip(500 + counts + np.zeros((30, 40)), 0, 65535).astype(np.uint16)
        return CameraImage(pixels=pixels, exposure_s=self.exposure_s, started_at_ns=self.started_ns)

    async def set_cooler(self, *, on: bool, target_degc: float | None = None, deadline_s: float) -> None:
        self.calls.append(f"cooler {on}")
