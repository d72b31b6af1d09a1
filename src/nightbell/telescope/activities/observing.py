"""The plan, item by item: judged against now, pointed, exposed; waiting open or sheltered for what comes next."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from nightbell.contracts.errors import DeviceError, DeviceLost, NightbellError, Refused
from nightbell.contracts.events import Event, ObservationDone, ObservationFailed, ObservationStarted
from nightbell.contracts.instants import format_utc, parse_utc
from nightbell.contracts.records import FrameRef, PlanItem
from nightbell.contracts.states import FrameType
from nightbell.devices.protocols import ShutterState
from nightbell.telescope.activities.closing import Closing
from nightbell.telescope.activities.darks import DarkFrames
from nightbell.telescope.activities.frames import Frames
from nightbell.telescope.activities.ground import Ground
from nightbell.telescope.activities.office import Batch, Counts
from nightbell.telescope.activities.twilight import Twilight
from nightbell.telescope.dispatcher import Ending, NightRecord
from nightbell.telescope.exposure import Circumstances, Exposed, Purpose, read_focuser, read_weather
from nightbell.telescope.night_table import DomeReading, Trigger

__all__ = ["Observing"]

WIDEST_LATENESS_S = 300.0
NOT_OPEN = "the dome shutter does not read back open"
LOOK_EVERY_NS = 120_000_000_000
"""World time between two looks at where a target will stand during its block."""


class _ShutError(Exception):
    """Between two exposures the dome was found not open: nobody's fault but for the loop to see."""


class Observing:
    """What the night is for."""

    def __init__(self, ground: Ground, frames: Frames, darks: DarkFrames, closing: Closing, twilight: Twilight) -> None:
        self.ground = ground
        self.frames = frames
        self.darks = darks
        self.closing = closing
        self.twilight = twilight
        self._failures: dict[str, int] = {}
        self._failures_of = ""

    def forget_failures(self, night: str) -> None:
        """A new night gives every target its attempts again."""
        if night != self._failures_of:
            self._failures.clear()
            self._failures_of = night

    async def open_items(self, night: str) -> tuple[PlanItem, ...]:
        """Items of the plan in force that still lack frames and have not failed too often."""
        counts = await self.frames.counts(night)
        most = self.ground.settings.lights.max_attempts
        return tuple(
            item
            for item in await asyncio.to_thread(self.ground.office.items)
            if self._failures.get(item.target_id, 0) < most and _taken(counts, item) < item.n_exposures
        )

    def _why_not(self, item: PlanItem, at_ns: int, n: int) -> str:
        """Why `item` cannot be observed from `at_ns` on; "" when it can. The plan may be hours old: this looks at now.

        Not at both ends alone: a target may pass too near to the zenith between them.
        """
        night = self.ground.settings.night
        end_ns = at_ns + round(n * item.exposure_s * 1e9)
        for when_ns in (*range(at_ns, end_ns, LOOK_EVERY_NS), end_ns):
            place = self.ground.sky.place(item.ra_deg, item.dec_deg, when_ns)
            if place.altitude_deg < night.altitude_min_deg:
                return f"altitude {place.altitude_deg:.1f} deg is below {night.altitude_min_deg:g}"
            if place.altitude_deg > night.altitude_max_deg:
                return f"altitude {place.altitude_deg:.1f} deg is above {night.altitude_max_deg:g}"
            sun_deg = self.ground.sky.sun_altitude_deg(when_ns)
            if sun_deg > night.dark_sun_deg:
                return f"the Sun is at {sun_deg:.1f} deg"
        moon = self.ground.sky.moon(item.ra_deg, item.dec_deg, at_ns)
        if moon.separation_deg < night.moon_separation_min_deg:
            return f"the Moon is {moon.separation_deg:.0f} deg away"
        return ""

    async def _end_of_night(self, record: NightRecord) -> Ending | None:
        """The ending by the Sun or by having done everything, or None."""
        altitude_deg, rising = await self.ground.sun()
        if rising and altitude_deg > self.ground.settings.night.dark_sun_deg:
            wants_flats = self.ground.settings.calibration.dawn_flats and altitude_deg < self.ground.settings.night.open_sun_deg
            if wants_flats and await self.twilight.lacking_flats(record.night):
                return Ending(Trigger.DAWN_FLATS, f"the Sun rises through {altitude_deg:.1f} deg and flats are lacking")
            return Ending(Trigger.NIGHT_OVER, f"the Sun rises through {altitude_deg:.1f} deg")
        if self.ground.is_another_night(record):
            return Ending(Trigger.NIGHT_OVER, f"the night of {record.night} ended at noon")
        if self.ground.settings.night.end_when_done and await self._all_is_done(record.night):
            return Ending(Trigger.NIGHT_OVER, "everything that was asked for has been observed")
        return None

    async def _all_is_done(self, night: str) -> bool:
        if not self.ground.office.targets_are_known() or await self.open_items(night):
            return False
        await self.frames.settle()
        counts = await self.frames.counts(night)
        return counts.of(FrameType.LIGHT) > 0

    async def observe(self, record: NightRecord) -> Ending:
        while True:
            ending = await self._end_of_night(record)
            if ending is not None:
                return ending
            if await self.closing.dome_reading() is not DomeReading.OPEN:
                return Ending(Trigger.UNSAFE, NOT_OPEN)
            if self.ground.office.is_wanted("hold"):
                return Ending(Trigger.NO_TARGET, "held until resume_night")
            items = await self.open_items(record.night)
            if not items:
                return Ending(Trigger.NO_TARGET, "the plan has no more items")
            item, refused = await self._choose(items, record.night)
            for other, why_not in refused:
                if self.ground.clock.now_ns() > parse_utc(other.end_utc):
                    await self._fail(other, record.night, why_not)
            if item is not None:
                await self._observe_one(item, record.night)
                late_s = (self.ground.clock.now_ns() - parse_utc(item.end_utc)) / 1e9
                if late_s > WIDEST_LATENESS_S:
                    await asyncio.to_thread(self.ground.office.plan_again, f"{late_s:.0f} s behind the plan")
                continue
            if refused:
                self.ground.note = f"{refused[0][0].name}: {refused[0][1]}"
            else:
                starts_in_s = (parse_utc(items[0].start_utc) - self.ground.clock.now_ns()) / 1e9
                if starts_in_s > self.ground.settings.night.idle_limit_s:
                    return Ending(Trigger.NO_TARGET, f"{items[0].name} begins only at {items[0].start_utc}")
                self.ground.note = f"{items[0].name} in {items[0].filter} begins at {items[0].start_utc[11:19]} UTC"
            await self.ground.pause(10.0)

    async def _choose(self, items: tuple[PlanItem, ...], night: str) -> tuple[PlanItem | None, list[tuple[PlanItem, str]]]:
        """The first item whose time has come and that can be observed now; and those before it that cannot, with why."""
        counts = await self.frames.counts(night)
        lacking = {item.item_id: item.n_exposures - _taken(counts, item) for item in items}

        def look() -> tuple[PlanItem | None, list[tuple[PlanItem, str]]]:
            now_ns = self.ground.clock.now_ns()
            refused: list[tuple[PlanItem, str]] = []
            for item in items:
                if (parse_utc(item.start_utc) - now_ns) / 1e9 > self.ground.settings.lights.slew_s:
                    continue
                why_not = self._why_not(item, now_ns, lacking[item.item_id])
                if not why_not:
                    return item, refused
                refused.append((item, why_not))
            return None, refused

        return await asyncio.to_thread(look)

    async def _fail(self, item: PlanItem, night: str, reason: str) -> None:
        self._failures[item.target_id] = self._failures.get(item.target_id, 0) + 1
        event = ObservationFailed(
            night=night, item_id=item.item_id, target_id=item.target_id, reason=reason, at_utc=format_utc(self.ground.clock.now_ns())
        )
        await asyncio.to_thread(self.ground.office.say, event, item.target_id)

    async def _observe_one(self, item: PlanItem, night: str) -> None:
        counts = await self.frames.counts(night)
        n = item.n_exposures - _taken(counts, item)
        started = ObservationStarted(night=night, item=item, at_utc=format_utc(self.ground.clock.now_ns()))
        await asyncio.to_thread(self.ground.office.say, started, item.target_id)
        batch = Batch(night=night)
        complete, n_lost = False, 0
        try:
            self.ground.note = f"pointing to {item.name}"
            await asyncio.gather(
                self.ground.instruments.camera.set_filter(item.filter),
                self.ground.instruments.pointing.slew(item.ra_deg, item.dec_deg, exposure_s=item.exposure_s * n),
            )
            for i in range(n):
                self.ground.note = f"{item.name} in {item.filter}, {item.exposure_s:g} s, {i + 1} of {n}"
                exposed, purpose, around = await self._light(item, night)
                await self.frames.add(batch, exposed, purpose, around)
                n_lost += bool(purpose.flaw)
            complete = n_lost == 0
            if n_lost:
                await self._fail(item, night, f"{n_lost} of {n} frames lost light at the slit and do not count")
        except _ShutError:
            self.ground.note = NOT_OPEN
        except DeviceLost:
            raise  # not the target's fault: the dispatcher waits for the device, and the target is begun again
        except (DeviceError, Refused) as error:
            await self._fail(item, night, str(error))
            if not isinstance(error, Refused) and self._failures[item.target_id] >= self.ground.settings.lights.max_attempts:
                raise
        finally:
            self.frames.finish(batch, self._done_event(item, night) if complete else None)

    def _done_event(self, item: PlanItem, night: str) -> Callable[[tuple[FrameRef, ...]], tuple[Event, str]]:
        def done(frames: tuple[FrameRef, ...]) -> tuple[Event, str]:
            event = ObservationDone(
                night=night,
                item_id=item.item_id,
                target_id=item.target_id,
                frame_ids=tuple(frame.frame_id for frame in frames),
                at_utc=format_utc(self.ground.clock.now_ns()),
            )
            return event, item.target_id

        return done

    async def _light(self, item: PlanItem, night: str) -> tuple[Exposed, Purpose, Circumstances]:
        pointing = self.ground.instruments.pointing
        start = await pointing.follow(exposure_s=item.exposure_s)
        if start.dome.shutter is not ShutterState.OPEN:
            raise _ShutError
        weather, focuser = await asyncio.gather(
            read_weather(self.ground.instruments.weather), read_focuser(self.ground.instruments.focuser)
        )
        exposed = await self.ground.instruments.camera.expose(item.exposure_s, light=True)
        end = await pointing.read_back(exposure_s=0.0)
        purpose = await self.frames.purpose(
            FrameType.LIGHT,
            night,
            plan_id=item.item_id,
            target_id=item.target_id,
            object_name=item.name,
            superevent_id=item.superevent_id,
            target_ra_deg=item.ra_deg,
            target_dec_deg=item.dec_deg,
            flaw="" if start.coverage.covered and end.coverage.covered else "the slit did not cover the beam",
        )
        return exposed, purpose, Circumstances(at_start=start, at_end=end, weather=weather, focuser=focuser)

    async def wait_for_targets(self, record: NightRecord) -> Ending:
        mount = self.ground.instruments.mount
        await mount.set_tracking(tracking=False, deadline_s=mount.default_deadline_s)
        while True:
            ending = await self._end_of_night(record)
            if ending is not None:
                return ending
            if self.ground.office.is_wanted("hold"):
                self.ground.note = "held until resume_night"
            else:
                item, _ = await self._choose(await self.open_items(record.night), record.night)
                if item is not None:
                    return Ending(Trigger.TARGET, f"{item.name} in {item.filter} can be observed")
                self.ground.note = "open, waiting for targets"
            if await self.closing.dome_reading() is not DomeReading.OPEN:
                return Ending(Trigger.UNSAFE, NOT_OPEN)
            await self.ground.instruments.pointing.read_back(exposure_s=0.0)
            await self.ground.pause(10.0)

    async def wait_in_shelter(self, record: NightRecord) -> Ending:
        night = self.ground.settings.night
        while True:
            if await self.closing.dome_reading() is not DomeReading.CLOSED:
                return Ending(Trigger.NOT_CLOSED, "the dome does not read back closed")
            if self.ground.is_another_night(record):
                return Ending(Trigger.NIGHT_OVER, f"the night of {record.night} ended at noon")
            if await self.ground.night_left_s() < night.least_night_left_s:
                return Ending(Trigger.NIGHT_OVER, f"less than {night.least_night_left_s:g} s of the night are left")
            if self.ground.settings.night.end_when_done and await self._all_is_done(record.night):
                return Ending(Trigger.NIGHT_OVER, "everything that was asked for has been observed")
            if self.ground.office.is_wanted("hold"):
                self.ground.note = "held until resume_night"
            else:
                try:
                    await self.ground.instruments.connect()
                    return Ending(Trigger.GO_GIVEN, await asyncio.to_thread(self.ground.office.check_go))
                except NightbellError as error:
                    self.ground.note = f"no GO: {error}"
            await self.darks.take_dark_frames(record.night)
            await self.ground.pause(night.go_retry_s)


def _taken(counts: Counts, item: PlanItem) -> int:
    return counts.of(FrameType.LIGHT, filter_name=item.filter, target_id=item.target_id)
