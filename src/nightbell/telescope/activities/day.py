"""By day and at its edges: what a start finds, the marshal, preparing, opening, and the report after closing."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from nightbell.contracts.errors import DeviceFault, NightbellError
from nightbell.contracts.states import NightState
from nightbell.devices.protocols import CoverState, ShutterState
from nightbell.devices.waiting import wait_until
from nightbell.telescope.activities.closing import Closing
from nightbell.telescope.activities.darks import DarkFrames
from nightbell.telescope.activities.frames import Frames
from nightbell.telescope.activities.ground import Ground
from nightbell.telescope.activities.observing import Observing
from nightbell.telescope.dispatcher import Ending, NightRecord
from nightbell.telescope.night_table import DomeReading, Trigger

__all__ = ["Day"]

DEVICES_PATIENCE_S = 60.0
"""Real seconds for which a start waits for every device; then the dome counts as not closed, and is closed first."""


class Day:
    """From the morning's report to the open dome."""

    def __init__(self, ground: Ground, frames: Frames, darks: DarkFrames, closing: Closing, observing: Observing) -> None:
        self.ground = ground
        self.frames = frames
        self.darks = darks
        self.closing = closing
        self.observing = observing

    async def first_dome_reading(self, record: NightRecord | None) -> DomeReading:
        """After a start: connect, and read everything back. Tries for a minute; then the dome counts as not closed.

        `record`: the night as it was left; None when it cannot be read. With a human at the telescope nothing is sent.
        """
        end = time.monotonic() + DEVICES_PATIENCE_S
        while True:
            try:
                await self.ground.instruments.connect()
                reading = await self.closing.dome_reading()
            except NightbellError as error:
                self.ground.note = f"waiting for the devices: {error}"
                if time.monotonic() > end:
                    await asyncio.to_thread(
                        self.ground.office.alarm, "telescope.devices", f"the devices cannot be read: {error}", critical=True
                    )
                    return DomeReading.OTHER
                await asyncio.sleep(0.3)
            else:
                await asyncio.to_thread(self.frames.custody.resume)
                if record is not None and record.state is NightState.MANUAL:
                    return reading
                try:
                    # The exposure of the process that died is nobody's.
                    await self.ground.instruments.camera.abort()
                except NightbellError as error:
                    self.ground.note = f"an old exposure could not be ended: {error}"
                if reading is DomeReading.OPEN and not await self._may_stay_open():
                    return DomeReading.OTHER
                return reading

    async def _may_stay_open(self) -> bool:
        """Started again with an open dome: it stays open only if safety gives GO and lease now; else it is closed at once."""
        try:
            await asyncio.to_thread(self.ground.office.check_go)
            await asyncio.to_thread(self.ground.office.take_lease)
        except NightbellError as error:
            self.ground.note = f"the dome was open at the start and safety gave no lease: {error}"
            dome = self.ground.instruments.dome
            await dome.close_shutter(deadline_s=dome.default_deadline_s)
            return False
        return True

    async def marshal(self, record: NightRecord) -> Ending:
        night = self.ground.settings.night
        looked_at_ns = None
        while True:
            now_ns = self.ground.clock.now_ns()
            if looked_at_ns is None or now_ns - looked_at_ns > night.marshal_every_s * 1e9:
                problem = await self.closing.is_all_closed()
                if problem:
                    return Ending(Trigger.NOT_CLOSED, problem)
                looked_at_ns = now_ns
            altitude_deg, rising = await self.ground.sun()
            ended_here = record.night == self.ground.sky.night_label(now_ns) and record.trigger == Trigger.MARSHAL_PASSED.value
            if self.ground.by_clock and not rising and altitude_deg < night.prepare_sun_deg and not ended_here:
                return Ending(Trigger.PREPARE, f"the Sun is at {altitude_deg:.1f} deg and falling")
            if self.ground.by_clock and ended_here and altitude_deg < night.dark_sun_deg and await self._is_wanted_again(record.night):
                return Ending(Trigger.PREPARE, "there are targets again, and night is left")
            self.ground.note = f"day; the Sun is at {altitude_deg:.1f} deg"
            await self.ground.pause(20.0)

    async def _is_wanted_again(self, night: str) -> bool:
        """The night had ended by itself, early; an alert has come since."""
        if self.ground.office.is_wanted("hold") or not await self.observing.open_items(night):
            return False
        return await self.ground.night_left_s() > self.ground.settings.night.least_night_left_s

    async def prepare(self, record: NightRecord) -> Ending:
        self.ground.note = "connecting"
        await self.ground.instruments.connect()
        problem = await self.closing.is_all_closed()
        if problem:
            return Ending(Trigger.NOT_CLOSED, problem)
        self.observing.forget_failures(record.night)
        await asyncio.to_thread(self.ground.office.plan_again, "the night is prepared")
        self.ground.note = "cooling"
        await self.ground.instruments.camera.cool()
        await self.darks.take_dark_frames(record.night)
        return Ending(Trigger.PREPARED, "connected, cooled, dark frames taken")

    async def wait_to_open(self, record: NightRecord) -> Ending:
        night = self.ground.settings.night
        while True:
            if await self.ground.dawn():
                return Ending(Trigger.NIGHT_OVER, "the Sun is up")
            if self.ground.is_another_night(record):
                return Ending(Trigger.NIGHT_OVER, f"the night of {record.night} ended at noon")
            altitude_deg, _ = await self.ground.sun()
            wanted = self.ground.office.is_wanted("open") or (self.ground.by_clock and altitude_deg < night.open_sun_deg)
            if wanted and altitude_deg >= night.open_sun_deg:
                self.ground.note = f"asked to open, but the Sun is at {altitude_deg:.1f} deg"
            elif wanted:
                try:
                    reason = await asyncio.to_thread(self.ground.office.check_go)
                except NightbellError as error:
                    self.ground.note = f"no GO: {error}"
                    await self.darks.take_dark_frames(record.night)
                    await self.ground.pause(night.go_retry_s)
                    continue
                return Ending(Trigger.GO_GIVEN, reason)
            else:
                self.ground.note = f"ready; the Sun is at {altitude_deg:.1f} deg"
                await self.darks.take_dark_frames(record.night)
            await self.ground.pause(10.0)

    async def open_dome(self, record: NightRecord) -> Ending:  # noqa: ARG002 - all activities have one shape
        dome, mount = self.ground.instruments.dome, self.ground.instruments.mount
        try:
            await asyncio.to_thread(self.ground.office.take_lease)
            # Again, just before the wire: a GO from before the rain does not open after it.
            reason = await asyncio.to_thread(self.ground.office.check_go)
        except NightbellError as error:
            return Ending(Trigger.UNSAFE, f"safety gave no GO for opening: {error}")
        status = await dome.status(deadline_s=dome.default_deadline_s)
        if status.shutter is ShutterState.ERROR:
            raise DeviceFault("the shutter reports an error; it is not opened from there", where="dome.shutter", remedy="Look at the dome")
        if status.shutter is not ShutterState.OPEN:
            await dome.open_shutter(deadline_s=dome.default_deadline_s)

        def is_open(now: Any) -> bool:
            self.ground.tick()
            if now.shutter is ShutterState.ERROR:
                raise DeviceFault("the shutter reports an error", where="dome.shutter", remedy="Look at the dome")
            return bool(now.shutter is ShutterState.OPEN)

        await wait_until(
            lambda: dome.status(deadline_s=dome.default_deadline_s),
            is_open,
            what="dome.open_shutter",
            # Beyond the state's own deadline, so that TIMED_OUT decides: closing, with an alarm.
            deadline_s=self.ground.clock.real_s(600.0, floor_s=30.0),
            poll_s=min(0.25, self.ground.clock.real_s(0.5, floor_s=0.01)),
        )
        await mount.unpark(deadline_s=mount.default_deadline_s)
        cover = self.ground.instruments.cover
        if cover is not None and (await cover.status(deadline_s=cover.default_deadline_s)).cover_state is not CoverState.ABSENT:
            await cover.open_cover(deadline_s=cover.default_deadline_s)
        return Ending(Trigger.DOME_READ_BACK_OPEN, f"the shutter reads back open; {reason}")

    async def report(self, record: NightRecord) -> Ending:
        """After closing: the darks that late targets want, warm up, marshal."""
        if not await self.ground.dawn():
            await self.darks.take_dark_frames(record.night)
        await self.frames.settle()
        await self.ground.instruments.camera.warm_up()
        problem = await self.closing.is_all_closed()
        if problem:
            return Ending(Trigger.NOT_CLOSED, problem)
        return Ending(Trigger.MARSHAL_PASSED, "all reads back closed")
