"""Where to point: mount and dome are sent together, and both are read back before anything is exposed.

The dome follows the destination (`DestinationSideOfPier`, coordinates at mid-exposure), never the moving mount. A
pointing that the dome cannot cover is refused; light is never lost in silence.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from nightbell.contracts.errors import DeviceFault, DeviceTimeout, Refused
from nightbell.devices.protocols import (
    AlignmentMode,
    Dome,
    DomeStatus,
    EquatorialSystem,
    Mount,
    MountFacts,
    MountStatus,
    PierSide,
    ShutterState,
)
from nightbell.devices.waiting import wait_until
from nightbell.sky.view import Clock, SkyView
from nightbell.telescope.dome_following import Coverage, DomeModel
from nightbell.telescope.settings import DomeSettings

__all__ = ["Pointed", "Pointing", "azimuth_difference_deg"]

S = TypeVar("S")

MOUNT_TOLERANCE_DEG = 30 / 3600
FASTEST_POLL_S = 0.01
SLOWEST_POLL_S = 0.25


def azimuth_difference_deg(wanted_deg: float, now_deg: float) -> float:
    """The short way round, -180 to 180: from 359 to 1 is 2 degrees."""
    return ((wanted_deg - now_deg + 540) % 360) - 180


def separation_deg(ra1_deg: float, dec1_deg: float, ra2_deg: float, dec2_deg: float) -> float:
    """Angle between two directions (Vincenty: good at all angles)."""
    a1, d1, a2, d2 = map(math.radians, (ra1_deg, dec1_deg, ra2_deg, dec2_deg))
    across = math.hypot(math.cos(d2) * math.sin(a2 - a1), math.cos(d1) * math.sin(d2) - math.sin(d1) * math.cos(d2) * math.cos(a2 - a1))
    along = math.sin(d1) * math.sin(d2) + math.cos(d1) * math.cos(d2) * math.cos(a2 - a1)
    return math.degrees(math.atan2(across, along))


@dataclass(frozen=True, kw_only=True)
class Pointed:
    """Where the telescope points, read back."""

    ra_deg: float
    dec_deg: float
    """ICRS."""
    mount: MountStatus
    dome: DomeStatus
    coverage: Coverage


class Ticker(Protocol):
    """Told whenever the loop has made a step (the open-dome lease)."""

    def __call__(self) -> None: ...


class Pointing:
    """Mount and dome as one."""

    def __init__(
        self,
        mount: Mount,
        dome: Dome,
        facts: MountFacts,
        *,
        sky: SkyView,
        clock: Clock,
        settings: DomeSettings,
        latitude_deg: float,
        tick: Ticker,
    ) -> None:
        self.mount = mount
        self.dome = dome
        self.facts = facts
        self.sky = sky
        self.clock = clock
        self.settings = settings
        self.tick = tick
        self.model = DomeModel(settings, latitude_deg=latitude_deg, alignment=facts.alignment_mode)
        self.wanted: tuple[float, float] | None = None
        self.last_dome: DomeStatus | None = None
        self.last_mount: MountStatus | None = None

    async def dome_status(self) -> DomeStatus:
        """Asked just now, and kept for reports."""
        self.last_dome = await self.dome.status(deadline_s=self.dome.default_deadline_s)
        return self.last_dome

    async def mount_status(self) -> MountStatus:
        """Asked just now, and kept for reports."""
        self.last_mount = await self.mount.status(deadline_s=self.mount.default_deadline_s)
        return self.last_mount

    @property
    def _poll_s(self) -> float:
        return min(SLOWEST_POLL_S, self.clock.real_s(0.5, floor_s=FASTEST_POLL_S))

    def to_mount(self, ra_deg: float, dec_deg: float, at_ns: int) -> tuple[float, float]:
        """Right ascension (h) and declination (deg) in the mount's own system."""
        if self.facts.equatorial_system is EquatorialSystem.TOPOCENTRIC or self.facts.equatorial_system is EquatorialSystem.OTHER:
            ra, dec = self.sky.apparent(ra_deg, dec_deg, at_ns)
            return ra / 15, dec
        if self.facts.equatorial_system is EquatorialSystem.J2000:
            return ra_deg / 15, dec_deg
        raise Refused(
            f"the mount wants equinox {self.facts.equatorial_system.name}",
            where="devices.mount",
            remedy="Set the mount to topocentric coordinates or J2000",
        )

    def from_mount(self, status: MountStatus) -> tuple[float, float]:
        """ICRS of what the mount says, in degrees."""
        ra_deg, dec_deg = status.right_ascension_h * 15, status.declination_deg
        if self.facts.equatorial_system is EquatorialSystem.J2000:
            return ra_deg, dec_deg
        return self.sky.from_apparent(ra_deg, dec_deg, status.read_at_ns)

    async def slew(self, ra_deg: float, dec_deg: float, *, exposure_s: float) -> Pointed:
        """Point to ICRS coordinates and cover them for `exposure_s` from then. Raises `Refused` when the dome cannot."""
        at_ns = self.clock.now_ns()
        ra_h, mount_dec_deg = await asyncio.to_thread(self.to_mount, ra_deg, dec_deg, at_ns)
        deadline_s = self.mount.default_deadline_s
        status = await self.mount_status()
        if status.at_park:
            await self.mount.unpark(deadline_s=deadline_s)
        if not status.tracking:
            await self.mount.set_tracking(tracking=True, deadline_s=deadline_s)
        side = await self._destination_side(ra_h, mount_dec_deg)
        # The slew itself takes a while: cover from the likely arrival to the end of the exposure.
        now_deg = (await self.dome_status()).azimuth_deg
        azimuth_deg = await asyncio.to_thread(self._dome_azimuth, ra_deg, dec_deg, at_ns, exposure_s + 30.0, side, now_deg)
        self.wanted = (ra_deg, dec_deg)
        mount_done = asyncio.create_task(self._move_mount(ra_h, mount_dec_deg))
        dome_done = asyncio.create_task(self.turn_dome(azimuth_deg))
        try:
            await asyncio.gather(mount_done, dome_done)
        finally:
            for task in (mount_done, dome_done):
                task.cancel()
        return await self.read_back(exposure_s=exposure_s)

    async def _destination_side(self, ra_h: float, dec_deg: float) -> PierSide:
        if self.facts.alignment_mode is not AlignmentMode.GERMAN:
            return PierSide.UNKNOWN
        try:
            return await self.mount.destination_side_of_pier(ra_h, dec_deg, deadline_s=self.mount.default_deadline_s)
        except DeviceFault:  # not implemented by this mount: the geometry then goes by the hour angle
            return PierSide.UNKNOWN

    def _dome_azimuth(
        self, ra_deg: float, dec_deg: float, at_ns: int, exposure_s: float, side: PierSide, now_deg: float | None = None
    ) -> float:
        start = self.sky.place(ra_deg, dec_deg, at_ns)
        end = self.sky.place(ra_deg, dec_deg, at_ns + round(exposure_s * 1e9))
        return self.model.azimuth_for(start, end, side, now_deg)

    async def _move_mount(self, ra_h: float, dec_deg: float) -> None:
        deadline_s = self.mount.default_deadline_s
        before = await self.mount_status()
        await self.mount.slew_to_coordinates(ra_h, dec_deg, deadline_s=deadline_s)

        def there(status: MountStatus) -> bool:
            self.tick()
            # Not Slewing alone: it is also False before the motion has begun.
            off = separation_deg(status.right_ascension_h * 15, status.declination_deg, ra_h * 15, dec_deg)
            return not status.slewing and status.tracking and off <= MOUNT_TOLERANCE_DEG

        angle = separation_deg(before.right_ascension_h * 15, before.declination_deg, ra_h * 15, dec_deg)
        await self._wait(self.mount_status, there, what="mount.slew", world_s=120.0 + angle * 2)

    async def turn_dome(self, azimuth_deg: float) -> None:
        """Turn and read back; one retry after an abort, then home and once more, then `DeviceTimeout`."""
        deadline_s = self.dome.default_deadline_s
        for attempt in range(3):
            before = await self.dome_status()
            if before.azimuth_deg is not None and not before.slewing and self._is_at(before, azimuth_deg):
                return
            if attempt == 1:
                await self.dome.abort_slew(deadline_s=deadline_s)
            if attempt == 2:
                await self.dome.find_home(deadline_s=deadline_s)
                await self._wait(self.dome_status, lambda s: not s.slewing and s.at_home is not False, what="dome.find_home", world_s=300.0)
                before = await self.dome_status()
            await self.dome.slew_to_azimuth(azimuth_deg % 360, deadline_s=deadline_s)
            angle = 180.0 if before.azimuth_deg is None else abs(azimuth_difference_deg(azimuth_deg, before.azimuth_deg))
            try:
                await self._wait(
                    self.dome_status,
                    lambda s: not s.slewing and self._is_at(s, azimuth_deg),
                    what="dome.slew",
                    world_s=1.5 * angle / self.settings.rate_deg_per_s + 10.0,
                )
            except DeviceTimeout:
                if attempt == 2:
                    raise
                continue
            return

    def _is_at(self, status: DomeStatus, azimuth_deg: float) -> bool:
        self.tick()
        return (
            status.azimuth_deg is not None and abs(azimuth_difference_deg(azimuth_deg, status.azimuth_deg)) <= self.settings.tolerance_deg
        )

    async def _wait(self, read: Callable[[], Awaitable[S]], is_done: Callable[[S], bool], *, what: str, world_s: float) -> None:
        # A busy host is slow in real time however fast the world runs: hence the floor.
        await wait_until(read, is_done, what=what, deadline_s=self.clock.real_s(world_s, floor_s=5.0), poll_s=self._poll_s)

    async def read_back(self, *, exposure_s: float) -> Pointed:
        """Where it points now, and whether the slit covers it for `exposure_s`."""
        mount, dome = await asyncio.gather(self.mount_status(), self.dome_status())
        return await asyncio.to_thread(self._judge, mount, dome, exposure_s)

    def _judge(self, mount: MountStatus, dome: DomeStatus, exposure_s: float) -> Pointed:
        ra_deg, dec_deg = self.from_mount(mount)
        start = self.sky.place(ra_deg, dec_deg, mount.read_at_ns)
        end = self.sky.place(ra_deg, dec_deg, mount.read_at_ns + round(exposure_s * 1e9))
        coverage = self.model.coverage(start, end, mount.side_of_pier, dome.azimuth_deg)
        if dome.shutter is not ShutterState.OPEN:
            coverage = Coverage(covered=False, vignetted=1.0)
        return Pointed(ra_deg=ra_deg, dec_deg=dec_deg, mount=mount, dome=dome, coverage=coverage)

    async def follow(self, *, exposure_s: float) -> Pointed:
        """Before an exposure: turn the dome on if it would not cover the whole of it."""
        pointed = await self.read_back(exposure_s=exposure_s)
        if pointed.coverage.covered:
            return pointed
        side = pointed.mount.side_of_pier
        azimuth_deg = await asyncio.to_thread(
            self._dome_azimuth, pointed.ra_deg, pointed.dec_deg, self.clock.now_ns(), exposure_s + 10.0, side
        )
        await self.turn_dome(azimuth_deg)
        return await self.read_back(exposure_s=exposure_s)
