"""Closing, by read-back alone: shelter, the end of a night, a stuck shutter, a fault, an abort, human hands.

"Closed" is what the dome says when asked after the motion. Nothing else may delay it: not the mount, the camera, a disk or the bus.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

from nightbell.contracts.errors import DeviceError, DeviceFault, NightbellError
from nightbell.devices.protocols import CoverState, ShutterState
from nightbell.devices.waiting import wait_until
from nightbell.telescope.activities.ground import Ground
from nightbell.telescope.dispatcher import Ending, NightRecord
from nightbell.telescope.night_table import DomeReading, Trigger

__all__ = ["Closing"]

RESEND_CLOSE_S = 10.0
"""World seconds without any change of the shutter until close is sent again."""
PARK_PATIENCE_S = 60.0
"""World seconds that parking may take beyond the closing of the dome."""


class Closing:
    """Everything that ends with a closed dome, or with nothing moving."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground

    async def dome_reading(self) -> DomeReading:
        """The shutter as read back just now."""
        # Asked of the dome itself: a camera that is away must not hide it.
        dome = self.ground.instruments.dome
        status = await dome.status(deadline_s=dome.default_deadline_s)
        if status.shutter is ShutterState.OPEN:
            return DomeReading.OPEN
        return DomeReading.CLOSED if status.shutter is ShutterState.CLOSED else DomeReading.OTHER

    async def _close_dome(self) -> None:
        """Close and read back closed. Sent again when the shutter shows no change; never gives up by itself."""
        dome = self.ground.instruments.dome
        travel_ns = round(1.5 * self.ground.settings.dome.shutter_travel_s * 1e9)
        sent_at_ns: int | None = None
        while True:
            now_ns = self.ground.clock.now_ns()
            self.ground.tick()
            try:
                status = await dome.status(deadline_s=dome.default_deadline_s)
                if status.shutter is ShutterState.CLOSED:
                    return
                patience_ns = travel_ns if status.shutter is ShutterState.CLOSING else round(RESEND_CLOSE_S * 1e9)
                if sent_at_ns is None or now_ns - sent_at_ns > patience_ns:
                    sent_at_ns = now_ns
                    await dome.close_shutter(deadline_s=dome.default_deadline_s)
            except DeviceError as error:
                self.ground.note = f"closing: {error}"
                sent_at_ns = None
                await asyncio.sleep(0.2)
            await asyncio.sleep(min(0.25, self.ground.clock.real_s(0.5, floor_s=0.01)))

    async def _park_mount(self) -> None:
        mount = self.ground.instruments.mount
        if (await mount.status(deadline_s=mount.default_deadline_s)).at_park:
            return
        await mount.park(deadline_s=mount.default_deadline_s)
        await wait_until(
            lambda: mount.status(deadline_s=mount.default_deadline_s),
            lambda s: s.at_park and not s.slewing,
            what="mount.park",
            deadline_s=self.ground.clock.real_s(180.0, floor_s=10.0),
            poll_s=min(0.25, self.ground.clock.real_s(1.0, floor_s=0.01)),
        )

    async def _close_cover(self) -> None:
        cover = self.ground.instruments.cover
        if cover is not None and (await cover.status(deadline_s=cover.default_deadline_s)).cover_state is CoverState.OPEN:
            await cover.close_cover(deadline_s=cover.default_deadline_s)

    async def stop_all(self) -> None:
        """Abort at every device at once; what fails is raised after all have been told."""
        mount, dome = self.ground.instruments.mount, self.ground.instruments.dome
        work: list[Awaitable[Any]] = [
            self._abort_exposure(),
            mount.abort_slew(deadline_s=mount.default_deadline_s),
            dome.abort_slew(deadline_s=dome.default_deadline_s),
        ]
        answers = await asyncio.gather(*work, return_exceptions=True)
        failed = [answer for answer in answers if isinstance(answer, BaseException)]
        if failed:
            raise DeviceFault("; ".join(str(one) for one in failed), where="abort", remedy="Stop the device by hand")

    async def _abort_exposure(self) -> None:
        """Nothing is exposed by a camera that was never connected."""
        if self.ground.instruments.is_connected:
            await self.ground.instruments.camera.abort()

    async def _secure(self, *, park_dome: bool) -> None:
        """Close first; mount, cover and camera at the same time, and none of them can delay or prevent the closing."""

        async def others() -> list[str]:
            problems = []
            for name, work in (("camera", self._abort_exposure), ("cover", self._close_cover), ("mount", self._park_mount)):
                try:
                    await work()
                except NightbellError as error:
                    problems.append(f"{name}: {error}")
            return problems

        aside = asyncio.create_task(others())
        try:
            await self._close_dome()
            await asyncio.to_thread(self.ground.office.give_back_lease)
            # A mount that does not park keeps nobody waiting: the dome is closed.
            await asyncio.wait({aside}, timeout=self.ground.clock.real_s(PARK_PATIENCE_S, floor_s=5.0))
            problems = aside.result() if aside.done() else ["mount: it has not parked yet"]
        finally:
            aside.cancel()
        if park_dome:
            dome = self.ground.instruments.dome
            try:
                await dome.park(deadline_s=dome.default_deadline_s)
            except DeviceError as error:  # a roll-off roof cannot park; closed it is all the same
                self.ground.note = f"the dome does not park: {error}"
        for problem in problems:
            await asyncio.to_thread(
                self.ground.office.alarm, f"telescope.{problem.split(':')[0]}", f"while closing: {problem}", critical=False
            )

    async def is_all_closed(self) -> str:
        """By read-back: shutter closed, mount parked, cover closed. "" or the first thing that is not."""
        await self.ground.instruments.connect()
        if await self.dome_reading() is not DomeReading.CLOSED:
            return "the dome does not read back closed"
        mount, cover = self.ground.instruments.mount, self.ground.instruments.cover
        if not (await mount.status(deadline_s=mount.default_deadline_s)).at_park:
            return "the mount does not read back parked"
        if cover is not None and (await cover.status(deadline_s=cover.default_deadline_s)).cover_state is CoverState.OPEN:
            return "the cover reads back open"
        return ""

    async def shelter(self, record: NightRecord) -> Ending:
        self.ground.note = f"closing: {record.reason}"
        await self._secure(park_dome=False)
        return Ending(Trigger.CLOSED_READ_BACK, "the shutter reads back closed")

    async def close_night(self, record: NightRecord) -> Ending:
        self.ground.note = f"closing: {record.reason}"
        await self._secure(park_dome=True)
        mount = self.ground.instruments.mount
        if not (await mount.status(deadline_s=mount.default_deadline_s)).at_park:
            await self._park_mount()
        return Ending(Trigger.CLOSED_AND_PARKED, "the shutter reads back closed, the mount parked")

    async def close_by_every_path(self, record: NightRecord) -> Ending:
        """Own connection and safety's, once a minute, until the dome reads back closed and a human has taken the alarm."""
        while True:
            dome = self.ground.instruments.dome
            try:
                closed = await self.dome_reading() is DomeReading.CLOSED
                if not closed:
                    await dome.close_shutter(deadline_s=dome.default_deadline_s)
            except DeviceError as error:
                closed, self.ground.note = False, f"stuck: {error}"
            if not closed:
                try:
                    await asyncio.to_thread(self.ground.office.close_by_safety, record.reason)
                except NightbellError as error:
                    self.ground.note = f"stuck, and safety does not answer: {error}"
            elif self.ground.office.is_acknowledged(record.state, record.since_ns):
                await asyncio.to_thread(self.ground.office.give_back_lease)
                return Ending(Trigger.ACKNOWLEDGED_AND_CLOSED, "a human has taken it, and the dome reads back closed")
            await self.ground.pause(60.0 if not closed else 5.0)

    async def close_and_wait_for_human(self, record: NightRecord) -> Ending:
        self.ground.note = f"fault: {record.reason}"
        await self._secure(park_dome=True)
        self.ground.no_deadline()
        while True:
            if self.ground.office.is_acknowledged(record.state, record.since_ns) and await self._works_again():
                return Ending(Trigger.ACKNOWLEDGED_AND_MENDED, "a human has taken it, and every device answers")
            await self.ground.pause(10.0)

    async def _works_again(self) -> bool:
        try:
            await self.ground.instruments.connect()
            return await self.is_all_closed() == ""
        except NightbellError as error:
            self.ground.note = f"fault: {error}"
            return False

    async def no_motion(self, record: NightRecord) -> Ending:
        self.ground.note = f"manual: {record.reason}"
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    async def report_stopped(self, record: NightRecord) -> Ending:
        """The abort has gone out before this state was entered; tell the devices again and see that nothing moves."""
        if record.trigger == Trigger.TIMED_OUT.value:
            # A device that does not answer must not hold an open dome here: what comes next needs it, fails, and closes.
            return Ending(Trigger.WORKERS_DEAD, "our own work has ended; a device did not confirm that it stands still")
        await self.stop_all()
        mount, dome = self.ground.instruments.mount, self.ground.instruments.dome
        await wait_until(
            lambda: mount.status(deadline_s=mount.default_deadline_s),
            lambda status: not status.slewing,
            what="mount.abort",
            deadline_s=10.0,
            poll_s=0.05,
        )
        await wait_until(
            lambda: dome.status(deadline_s=dome.default_deadline_s),
            lambda status: not status.slewing,
            what="dome.abort",
            deadline_s=10.0,
            poll_s=0.05,
        )
        return Ending(Trigger.WORKERS_DEAD, "nothing moves, by read-back")
