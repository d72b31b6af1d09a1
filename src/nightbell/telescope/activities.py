"""What is done in each state of the night. One coroutine per action; each returns the trigger that ends its state.

Belief is replaced by read-back throughout: "open" and "closed" are what the dome says when asked after the motion.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from nightbell.contracts.errors import DeviceError, DeviceFault, DeviceLost, NightbellError, Refused
from nightbell.contracts.events import Event, ObservationDone, ObservationFailed, ObservationStarted
from nightbell.contracts.frames import new_frame_id
from nightbell.contracts.instants import format_utc, parse_utc
from nightbell.contracts.records import FrameRef, PlanItem, Site
from nightbell.contracts.states import FrameType, NightState
from nightbell.devices.protocols import CoverState, ShutterState
from nightbell.devices.waiting import wait_until
from nightbell.sky.view import Clock, SkyView
from nightbell.telescope.custody import Custody
from nightbell.telescope.dispatcher import Activity, Ending, NightRecord
from nightbell.telescope.exposure import Circumstances, Exposed, Purpose, frame_data, read_focuser, read_weather
from nightbell.telescope.flats import (
    Finished,
    FlatLimits,
    Measured,
    SkyEstimate,
    Wait,
    learn,
    order_of_filters,
    plan_exposure,
    twilight_log_rate,
)
from nightbell.telescope.instruments import Instruments
from nightbell.telescope.night_table import Action, DomeReading, Trigger
from nightbell.telescope.pointing import Pointed
from nightbell.telescope.settings import TelescopeSettings

__all__ = ["Activities", "Batch", "Counts", "Office"]

RESEND_CLOSE_S = 10.0
"""World seconds without any change of the shutter until close is sent again."""
PARK_PATIENCE_S = 60.0
"""World seconds that parking may take beyond the closing of the dome."""
QUEUE = 4
"""Frames between camera and writer; when it is full, the next exposure waits."""
FLAT_ALTITUDE_DEG = 75.0
"""Where the twilight sky's gradient vanishes, opposite the Sun (Chromey and Hasselbacher 1996)."""
FLAT_DITHER_DEG = 40 / 3600
WIDEST_LATENESS_S = 300.0

CountKey = tuple[FrameType, str | None, float | None, str | None]


@dataclass(frozen=True)
class Counts:
    """Stored frames of one night, grouped."""

    rows: dict[CountKey, int]

    def of(
        self, frame_type: FrameType, *, filter_name: str | None = None, exposure_s: float | None = None, target_id: str | None = None
    ) -> int:
        """How many; an argument left out counts all."""
        return sum(
            n
            for (kind, name, exposure, target), n in self.rows.items()
            if kind is frame_type
            and (filter_name is None or name == filter_name)
            and (exposure_s is None or (exposure is not None and abs(exposure - exposure_s) < 1e-3))
            and (target_id is None or target == target_id)
        )


@dataclass(kw_only=True)
class Batch:
    """Frames that are announced together; each is on disk as soon as it can be."""

    night: str
    batch_id: str = field(default_factory=new_frame_id)
    frames: list[FrameRef] = field(default_factory=list)
    writing: list[asyncio.Task[None]] = field(default_factory=list)
    keys: list[CountKey] = field(default_factory=list)


class Office(Protocol):
    """What the night needs from outside: safety, plan, journal of frames, events. Blocking; called in worker threads."""

    def check_go(self) -> str:
        """A fresh GO of safety, in words; raises `Refused` with safety's reasons, `Missing` when it does not answer."""
        ...

    def take_lease(self) -> None: ...
    def give_back_lease(self) -> None: ...
    def close_by_safety(self, reason: str) -> None: ...
    def items(self) -> tuple[PlanItem, ...]: ...
    def targets_are_known(self) -> bool: ...
    def light_exposures_s(self) -> tuple[float, ...]: ...
    def plan_again(self, cause: str) -> None: ...
    def counts(self, night: str) -> Counts: ...
    def next_number(self, night: str) -> int: ...
    def say(self, event: Event, subject: str) -> None: ...
    def store(self, batch: Batch, frames: tuple[FrameRef, ...], done: tuple[Event, str] | None) -> None: ...
    def alarm(self, key: str, text: str, *, critical: bool) -> None: ...
    def is_acknowledged(self, state: NightState, since_ns: int) -> bool: ...
    def is_wanted(self, what: str) -> bool:
        """Whether a human has asked for `open` or holds the night (`hold`)."""
        ...


class Activities:
    """The coroutines of the night, over one set of instruments."""

    def __init__(
        self,
        instruments: Instruments,
        office: Office,
        custody: Custody,
        *,
        settings: TelescopeSettings,
        site: Site,
        stage: int,
        sky: SkyView,
        clock: Clock,
        tick: Callable[[], None],
        no_deadline: Callable[[], None],
    ) -> None:
        self.instruments = instruments
        self.office = office
        self.custody = custody
        self.settings = settings
        self.site = site
        self.stage = stage
        self.sky = sky
        self.clock = clock
        self.tick = tick
        self.no_deadline = no_deadline
        self.changed = asyncio.Event()
        """Set when targets, plan or wishes have changed: waits end early."""
        self.note = ""
        """What it is doing, for eyes."""
        self.last_frame = ""
        self.bias_level_adu = settings.calibration.bias_level_adu
        self.failures: dict[str, int] = {}
        self._failures_of = ""
        self.throughput: dict[str, float] = {}
        self._writing: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(QUEUE)
        self._pending: dict[CountKey, int] = {}
        self._writer = asyncio.Lock()

    def table(self) -> dict[Action, Activity]:
        """Action -> coroutine function, for the dispatcher."""
        return {
            Action.MARSHAL: self.marshal,
            Action.PREPARE: self.prepare,
            Action.WAIT_TO_OPEN: self.wait_to_open,
            Action.OPEN_DOME: self.open_dome,
            Action.TAKE_FLATS: self.take_flats,
            Action.START_PLAN: self.observe,
            Action.WAIT_FOR_TARGETS: self.wait_for_targets,
            Action.SHELTER: self.shelter,
            Action.WAIT_IN_SHELTER: self.wait_in_shelter,
            Action.CLOSE_NIGHT: self.close_night,
            Action.REPORT: self.report,
            Action.CLOSE_BY_EVERY_PATH: self.close_by_every_path,
            Action.CLOSE_AND_WAIT_FOR_HUMAN: self.close_and_wait_for_human,
            Action.NO_MOTION: self.no_motion,
            Action.STOP_ALL: self.report_stopped,
            Action.KILL_WORKERS: self.report_stopped,
        }

    def readings(self, now_ns: int) -> dict[str, Any]:
        """What dome, mount and camera said last, with ages in seconds of the world; for eyes, never for decisions."""
        return self.instruments.readings(now_ns)

    # -- time and Sun ---------------------------------------------------------------------------------------------------

    async def pause(self, world_s: float) -> None:
        """Wait, but no longer than until something has changed. Counts as progress: the loop is alive and looks again."""
        self.changed.clear()
        end = time.monotonic() + self.clock.real_s(world_s, floor_s=0.02)
        while not self.changed.is_set():
            self.tick()
            left_s = end - time.monotonic()
            if left_s <= 0:
                return
            try:
                await asyncio.wait_for(self.changed.wait(), min(left_s, 0.5))
            except TimeoutError:
                continue

    async def sun(self) -> tuple[float, bool]:
        """Altitude of the Sun, and whether it is rising."""
        now_ns = self.clock.now_ns()

        def both() -> tuple[float, bool]:
            now_deg = self.sky.sun_altitude_deg(now_ns)
            return now_deg, self.sky.sun_altitude_deg(now_ns + 60_000_000_000) > now_deg

        return await asyncio.to_thread(both)

    async def night_left_s(self) -> float:
        """Until the Sun, rising, stands at the limit for lights; 0 by day. Looks 24 h ahead in steps of 5 min."""

        def look() -> float:
            now_ns, limit = self.clock.now_ns(), self.settings.night.dark_sun_deg
            was_dark = False
            for step in range(288):
                is_dark = self.sky.sun_altitude_deg(now_ns + step * 300_000_000_000) < limit
                if was_dark and not is_dark:
                    return step * 300.0
                was_dark = was_dark or is_dark
            return 86_400.0 if was_dark else 0.0

        return await asyncio.to_thread(look)

    async def _dawn(self) -> bool:
        altitude_deg, rising = await self.sun()
        return rising and altitude_deg > self.settings.night.open_sun_deg

    # -- the dome -------------------------------------------------------------------------------------------------------

    async def dome_reading(self) -> DomeReading:
        """The shutter as read back just now."""
        status = await self.instruments.pointing.dome_status()
        if status.shutter is ShutterState.OPEN:
            return DomeReading.OPEN
        return DomeReading.CLOSED if status.shutter is ShutterState.CLOSED else DomeReading.OTHER

    async def first_dome_reading(self) -> DomeReading:
        """After a start: connect, and read everything back. Tries for a minute; then the dome counts as not closed."""
        end = time.monotonic() + 60.0
        while True:
            try:
                await self.instruments.connect()
                reading = await self.dome_reading()
            except NightbellError as error:
                self.note = f"waiting for the devices: {error}"
                if time.monotonic() > end:
                    await asyncio.to_thread(self.office.alarm, "telescope.devices", f"the devices cannot be read: {error}", critical=True)
                    return DomeReading.OTHER
                await asyncio.sleep(0.3)
            else:
                await asyncio.to_thread(self.custody.resume)
                # The exposure of the process that died is nobody's.
                await self.instruments.camera.abort()
                if reading is DomeReading.OPEN and not await self._may_stay_open():
                    return DomeReading.OTHER
                return reading

    async def _may_stay_open(self) -> bool:
        """Started again with an open dome: it stays open only if safety gives GO and lease now; else it is closed at once."""
        try:
            await asyncio.to_thread(self.office.check_go)
            await asyncio.to_thread(self.office.take_lease)
        except NightbellError as error:
            self.note = f"the dome was open at the start and safety gave no lease: {error}"
            dome = self.instruments.dome
            await dome.close_shutter(deadline_s=dome.default_deadline_s)
            return False
        return True

    async def _close_dome(self) -> None:
        """Close and read back closed. Sent again when the shutter shows no change; never gives up by itself."""
        dome = self.instruments.dome
        travel_ns = round(1.5 * self.settings.dome.shutter_travel_s * 1e9)
        sent_at_ns: int | None = None
        while True:
            now_ns = self.clock.now_ns()
            self.tick()
            try:
                status = await dome.status(deadline_s=dome.default_deadline_s)
                if status.shutter is ShutterState.CLOSED:
                    return
                patience_ns = travel_ns if status.shutter is ShutterState.CLOSING else round(RESEND_CLOSE_S * 1e9)
                if sent_at_ns is None or now_ns - sent_at_ns > patience_ns:
                    sent_at_ns = now_ns
                    await dome.close_shutter(deadline_s=dome.default_deadline_s)
            except DeviceError as error:
                self.note = f"closing: {error}"
                sent_at_ns = None
                await asyncio.sleep(0.2)
            await asyncio.sleep(min(0.25, self.clock.real_s(0.5, floor_s=0.01)))

    async def _park_mount(self) -> None:
        mount, pointing = self.instruments.mount, self.instruments.pointing
        if (await pointing.mount_status()).at_park:
            return
        await mount.park(deadline_s=mount.default_deadline_s)
        await wait_until(
            pointing.mount_status,
            lambda s: s.at_park and not s.slewing,
            what="mount.park",
            deadline_s=self.clock.real_s(180.0, floor_s=10.0),
            poll_s=min(0.25, self.clock.real_s(1.0, floor_s=0.01)),
        )

    async def _close_cover(self) -> None:
        cover = self.instruments.cover
        if cover is not None and (await cover.status(deadline_s=cover.default_deadline_s)).cover_state is CoverState.OPEN:
            await cover.close_cover(deadline_s=cover.default_deadline_s)

    async def stop_all(self) -> None:
        """Abort at every device at once; what fails is raised after all have been told."""
        mount, dome = self.instruments.mount, self.instruments.dome
        work: list[Awaitable[Any]] = [
            self.instruments.camera.abort(),
            mount.abort_slew(deadline_s=mount.default_deadline_s),
            dome.abort_slew(deadline_s=dome.default_deadline_s),
        ]
        answers = await asyncio.gather(*work, return_exceptions=True)
        failed = [answer for answer in answers if isinstance(answer, BaseException)]
        if failed:
            raise DeviceFault("; ".join(str(one) for one in failed), where="abort", remedy="Stop the device by hand")

    async def _secure(self, *, park_dome: bool) -> None:
        """Close first; mount, cover and camera at the same time, and none of them can delay or prevent the closing."""

        async def others() -> list[str]:
            problems = []
            for name, work in (("camera", self.instruments.camera.abort), ("cover", self._close_cover), ("mount", self._park_mount)):
                try:
                    await work()
                except NightbellError as error:
                    problems.append(f"{name}: {error}")
            return problems

        aside = asyncio.create_task(others())
        try:
            await self._close_dome()
            await asyncio.to_thread(self.office.give_back_lease)
            # A mount that does not park keeps nobody waiting: the dome is closed.
            await asyncio.wait({aside}, timeout=self.clock.real_s(PARK_PATIENCE_S, floor_s=5.0))
            problems = aside.result() if aside.done() else ["mount: it has not parked yet"]
        finally:
            aside.cancel()
        if park_dome:
            dome = self.instruments.dome
            try:
                await dome.park(deadline_s=dome.default_deadline_s)
            except DeviceError as error:  # a roll-off roof cannot park; closed it is all the same
                self.note = f"the dome does not park: {error}"
        for problem in problems:
            await asyncio.to_thread(self.office.alarm, f"telescope.{problem.split(':')[0]}", f"while closing: {problem}", critical=False)

    # -- day ------------------------------------------------------------------------------------------------------------

    async def _is_all_closed(self) -> str:
        """By read-back: shutter closed, mount parked, cover closed. "" or the first thing that is not."""
        await self.instruments.connect()
        if await self.dome_reading() is not DomeReading.CLOSED:
            return "the dome does not read back closed"
        return ""

    async def marshal(self, record: NightRecord) -> Ending:
        night = self.settings.night
        looked_at_ns = None
        while True:
            now_ns = self.clock.now_ns()
            if looked_at_ns is None or now_ns - looked_at_ns > night.marshal_every_s * 1e9:
                problem = await self._is_all_closed()
                if problem:
                    return Ending(Trigger.NOT_CLOSED, problem)
                looked_at_ns = now_ns
            altitude_deg, rising = await self.sun()
            ended_here = record.night == self.sky.night_label(now_ns) and record.trigger == Trigger.MARSHAL_PASSED.value
            if night.trigger == "clock" and not rising and altitude_deg < night.prepare_sun_deg and not ended_here:
                return Ending(Trigger.PREPARE, f"the Sun is at {altitude_deg:.1f} deg and falling")
            if night.trigger == "clock" and ended_here and altitude_deg < night.dark_sun_deg and await self._is_wanted_again(record.night):
                return Ending(Trigger.PREPARE, "there are targets again, and night is left")
            self.note = f"day; the Sun is at {altitude_deg:.1f} deg"
            await self.pause(20.0)

    async def _is_wanted_again(self, night: str) -> bool:
        """The night had ended by itself, early; an alert has come since."""
        if self.office.is_wanted("hold") or not await self._open_items(night):
            return False
        return await self.night_left_s() > self.settings.night.least_night_left_s

    async def prepare(self, record: NightRecord) -> Ending:
        self.note = "connecting"
        await self.instruments.connect()
        problem = await self._is_all_closed()
        if problem:
            return Ending(Trigger.NOT_CLOSED, problem)
        if record.night != self._failures_of:
            self.failures.clear()
            self._failures_of = record.night
        await asyncio.to_thread(self.office.plan_again, "the night is prepared")
        self.note = "cooling"
        await self.instruments.camera.cool()
        await self._take_dark_frames(record.night)
        return Ending(Trigger.PREPARED, "connected, cooled, dark frames taken")

    async def wait_to_open(self, record: NightRecord) -> Ending:
        night = self.settings.night
        while True:
            if await self._dawn():
                return Ending(Trigger.NIGHT_OVER, "the Sun is up")
            altitude_deg, _ = await self.sun()
            wanted = self.office.is_wanted("open") or (night.trigger == "clock" and altitude_deg < night.open_sun_deg)
            if wanted and altitude_deg >= night.open_sun_deg:
                self.note = f"asked to open, but the Sun is at {altitude_deg:.1f} deg"
            elif wanted:
                try:
                    reason = await asyncio.to_thread(self.office.check_go)
                except NightbellError as error:
                    self.note = f"no GO: {error}"
                    await self._take_dark_frames(record.night)
                    await self.pause(night.go_retry_s)
                    continue
                return Ending(Trigger.GO_GIVEN, reason)
            else:
                self.note = f"ready; the Sun is at {altitude_deg:.1f} deg"
                await self._take_dark_frames(record.night)
            await self.pause(10.0)

    async def open_dome(self, record: NightRecord) -> Ending:  # noqa: ARG002 - all activities have one shape
        dome, mount = self.instruments.dome, self.instruments.mount
        try:
            await asyncio.to_thread(self.office.take_lease)
            # Again, just before the wire: a GO from before the rain does not open after it.
            reason = await asyncio.to_thread(self.office.check_go)
        except NightbellError as error:
            return Ending(Trigger.UNSAFE, f"safety gave no GO for opening: {error}")
        status = await dome.status(deadline_s=dome.default_deadline_s)
        if status.shutter is ShutterState.ERROR:
            raise DeviceFault("the shutter reports an error; it is not opened from there", where="dome.shutter", remedy="Look at the dome")
        if status.shutter is not ShutterState.OPEN:
            await dome.open_shutter(deadline_s=dome.default_deadline_s)

        def is_open(now: Any) -> bool:
            self.tick()
            if now.shutter is ShutterState.ERROR:
                raise DeviceFault("the shutter reports an error", where="dome.shutter", remedy="Look at the dome")
            return bool(now.shutter is ShutterState.OPEN)

        await wait_until(
            lambda: dome.status(deadline_s=dome.default_deadline_s),
            is_open,
            what="dome.open_shutter",
            # Beyond the state's own deadline, so that TIMED_OUT decides: closing, with an alarm.
            deadline_s=self.clock.real_s(600.0, floor_s=30.0),
            poll_s=min(0.25, self.clock.real_s(0.5, floor_s=0.01)),
        )
        await mount.unpark(deadline_s=mount.default_deadline_s)
        cover = self.instruments.cover
        if cover is not None and (await cover.status(deadline_s=cover.default_deadline_s)).cover_state is not CoverState.ABSENT:
            await cover.open_cover(deadline_s=cover.default_deadline_s)
        return Ending(Trigger.DOME_READ_BACK_OPEN, f"the shutter reads back open; {reason}")

    # -- frames ---------------------------------------------------------------------------------------------------------

    def _counted(self, counts: Counts) -> Counts:
        """Stored frames plus those on their way to disk."""
        rows = dict(counts.rows)
        for key, n in self._pending.items():
            rows[key] = rows.get(key, 0) + n
        return Counts(rows)

    async def counts(self, night: str) -> Counts:
        return self._counted(await asyncio.to_thread(self.office.counts, night))

    async def settle(self) -> None:
        """Wait until every frame is on disk and announced."""
        while self._writing:
            await asyncio.wait(set(self._writing))

    async def _add(self, batch: Batch, exposed: Exposed, purpose: Purpose, around: Circumstances) -> None:
        """Hand a frame to the writer; waits only when the queue is full."""
        key = (purpose.frame_type, _filter_of(exposed, purpose), exposed.image.exposure_s, purpose.target_id)
        self._pending[key] = self._pending.get(key, 0) + 1
        batch.keys.append(key)
        await self._slots.acquire()
        batch.writing.append(asyncio.create_task(self._write(batch, exposed, purpose, around)))

    async def _write(self, batch: Batch, exposed: Exposed, purpose: Purpose, around: Circumstances) -> None:
        def write() -> FrameRef:
            data = frame_data(
                exposed, purpose, around, driver=self.instruments.camera, sky=self.sky, site=self.site, stage=self.stage, clock=self.clock
            )
            return self.custody.take(data, batch.night, batch.batch_id)

        try:
            async with self._writer:
                batch.frames.append(await asyncio.to_thread(write))
            self.last_frame = batch.frames[-1].path
        except (NightbellError, OSError) as error:
            await asyncio.to_thread(self.office.alarm, "telescope.custody", f"a frame could not be stored: {error}", critical=True)
        finally:
            self._slots.release()

    def _finish(self, batch: Batch, done: Callable[[tuple[FrameRef, ...]], tuple[Event, str]] | None = None) -> None:
        """Announce a batch once its last frame is on disk, while the night goes on. Without frames nothing is said."""
        if not batch.writing:
            return

        async def announce() -> None:
            await asyncio.wait(batch.writing)
            frames = tuple(batch.frames)
            complete = len(frames) == len(batch.writing)
            if frames:
                also = done(frames) if done is not None and complete else None
                await asyncio.to_thread(self.office.store, batch, frames, also)

        task = asyncio.create_task(announce())
        self._writing.add(task)

        def ended(one: asyncio.Task[None]) -> None:
            self._writing.discard(one)
            for key in batch.keys:
                self._pending[key] -= 1
            self.changed.set()
            if not one.cancelled() and one.exception() is not None:
                self.note = f"a batch could not be announced: {one.exception()}"

        task.add_done_callback(ended)

    async def _purpose(self, frame_type: FrameType, night: str, **more: Any) -> Purpose:
        number = await asyncio.to_thread(self.office.next_number, night)
        return Purpose(frame_type=frame_type, night=night, frame_id=new_frame_id(), number=number, **more)

    async def _take_dark_frames(self, night: str) -> None:
        """Biases and darks that tonight still lacks; the dome is closed. Darks match the exposures of the lights."""
        wanted = self.settings.calibration
        counts = await self.counts(night)
        lacking = wanted.n_biases - counts.of(FrameType.BIAS)
        if lacking > 0:
            await self._take_dark_batch(night, FrameType.BIAS, self.instruments.camera.facts.exposure_min_s, lacking)
        for exposure_s in wanted.dark_exposures_s or await asyncio.to_thread(self.office.light_exposures_s):
            lacking = wanted.n_darks - counts.of(FrameType.DARK, exposure_s=exposure_s)
            if lacking > 0:
                await self._take_dark_batch(night, FrameType.DARK, exposure_s, lacking)

    async def _take_dark_batch(self, night: str, frame_type: FrameType, exposure_s: float, n: int) -> None:
        batch = Batch(night=night)
        try:
            for i in range(n):
                self.note = f"{frame_type.value.lower()} {exposure_s:g} s, {i + 1} of {n}"
                exposed = await self.instruments.camera.expose(exposure_s, light=False)
                if frame_type is FrameType.BIAS:
                    self.bias_level_adu = float(np.median(exposed.image.pixels))
                purpose = await self._purpose(frame_type, night, plan_id=f"{frame_type.value.lower()}-{exposure_s:g}s")
                await self._add(batch, exposed, purpose, Circumstances())
        finally:
            self._finish(batch)  # interrupted: what has been taken is kept

    # -- twilight -------------------------------------------------------------------------------------------------------

    def _flat_filters(self) -> tuple[str, ...]:
        wanted = self.settings.calibration.flat_filters or self.settings.lights.filters
        has = self.instruments.camera.filters
        return tuple(name for name in wanted if not has or name in has)

    async def _lacking_flats(self, night: str) -> dict[str, int]:
        counts = await self.counts(night)
        lacking = {name: self.settings.calibration.n_flats - counts.of(FrameType.FLAT, filter_name=name) for name in self._flat_filters()}
        return {name: n for name, n in lacking.items() if n > 0}

    async def take_flats(self, record: NightRecord) -> Ending:
        altitude_deg, rising = await self.sun()
        lacking = await self._lacking_flats(record.night)
        for name in order_of_filters(tuple(lacking), self.throughput, dusk=not rising):
            await self._flats_in(name, lacking[name], record.night, dusk=not rising)
            altitude_deg, rising = await self.sun()
            if self._flat_window_is_over(altitude_deg, rising=rising):
                break
        still = sorted(await self._lacking_flats(record.night))
        reason = f"flats lacking in {', '.join(still)}; the Sun is at {altitude_deg:.1f} deg" if still else "all flats are taken"
        return Ending(Trigger.NIGHT_OVER if rising and altitude_deg > self.settings.night.dark_sun_deg else Trigger.FLATS_OVER, reason)

    def _flat_window_is_over(self, altitude_deg: float, *, rising: bool) -> bool:
        night = self.settings.night
        return altitude_deg > night.open_sun_deg if rising else altitude_deg < night.dark_sun_deg

    async def _flats_in(self, name: str, n: int, night: str, *, dusk: bool) -> None:
        wanted = self.settings.calibration
        camera = self.instruments.camera
        origin_ns = self.clock.now_ns()
        limits = FlatLimits(
            wanted_adu=wanted.flat_level * 65535,
            exposure_min_s=max(wanted.flat_exposure_min_s, camera.facts.exposure_min_s),
            exposure_max_s=min(wanted.flat_exposure_max_s, camera.facts.exposure_max_s),
            quantum_s=camera.facts.exposure_resolution_s,
            shutter_blade_s=self.settings.instrument.shutter_blade_s,
        )
        zenith = await asyncio.to_thread(self._sun_track, origin_ns)
        sky = SkyEstimate(prior=twilight_log_rate(name, zenith), at_s=0.0)
        batch = Batch(night=night)
        n_kept = 0
        ended_s: float | None = None
        try:
            await camera.set_filter(name)
            pointed = await self._point_for_flats(0)
            while n_kept < n:
                altitude_deg, rising = await self.sun()
                if rising == dusk or self._flat_window_is_over(altitude_deg, rising=rising):
                    return
                now_s = (self.clock.now_ns() - origin_ns) / 1e9
                if ended_s is not None:
                    limits = replace(limits, dead_time_s=max(0.5, now_s - ended_s))
                match plan_exposure(sky, now_s, limits, dusk=dusk):
                    case Finished(reason=reason):
                        self.note = f"flats in {name}: {reason}"
                        return
                    case Wait(seconds=seconds, reason=reason):
                        self.note = f"flats in {name}: {reason}"
                        sky = replace(sky, test_exposure_s=None)
                        ended_s = None
                        await self.pause(seconds)
                    case decision:
                        self.note = f"flat in {name}, {decision.exposure_s:.2f} s{' (test)' if decision.test else ''}"
                        exposed = await camera.expose(decision.exposure_s, light=True)
                        sky, measured = await asyncio.to_thread(self._measure, sky, exposed, origin_ns, limits)
                        ended_s = (exposed.started_ns - origin_ns) / 1e9 + exposed.image.exposure_s
                        if measured.sky_rate_adu_per_s and altitude_deg > -12:
                            self.throughput[name] = (
                                measured.sky_rate_adu_per_s / math.exp(sky.prior(ended_s)) if sky.prior(ended_s) else 0.0
                            )
                        if measured.keep and not decision.test:
                            await self._add(batch, *await self._flat(exposed, measured, pointed, night, name))
                            n_kept += 1
                            pointed = await self._point_for_flats(n_kept)
        finally:
            self._finish(batch)

    def _sun_track(self, origin_ns: int) -> Callable[[float], float]:
        """Zenith distance of the Sun at seconds after `origin_ns`; sampled for 3 h, linear between samples of 30 s."""
        samples = [90.0 - self.sky.sun_altitude_deg(origin_ns + i * 30_000_000_000) for i in range(-4, 361)]
        times = [i * 30.0 for i in range(-4, 361)]
        return lambda t_s: float(np.interp(t_s, times, samples))

    def _measure(self, sky: SkyEstimate, exposed: Exposed, origin_ns: int, limits: FlatLimits) -> tuple[SkyEstimate, Measured]:
        pixels = exposed.image.pixels
        rows, columns = pixels.shape
        centre = pixels[rows // 4 : rows - rows // 4, columns // 4 : columns - columns // 4]
        saturated = float(np.count_nonzero(centre >= self.settings.instrument.saturation_adu)) / centre.size
        return learn(
            sky,
            started_s=(exposed.started_ns - origin_ns) / 1e9,
            exposure_s=exposed.image.exposure_s,
            counts_adu=float(np.median(centre)) - self.bias_level_adu,
            saturated_fraction=saturated,
            limits=limits,
        )

    async def _point_for_flats(self, number: int) -> Pointed:
        """Opposite the Sun, near the zenith; a little elsewhere for each frame, so that stars fall on other pixels."""

        def where() -> tuple[float, float]:
            now_ns = self.clock.now_ns()
            azimuth_deg = self.sky.sun_azimuth_deg(now_ns) + 180.0
            for turn_deg in (0.0, 60.0, -60.0, 120.0):
                ra_deg, dec_deg = self.sky.from_horizontal(FLAT_ALTITUDE_DEG, (azimuth_deg + turn_deg) % 360, now_ns)
                if self.sky.moon(ra_deg, dec_deg, now_ns).separation_deg > 30:
                    break
            return ra_deg, dec_deg

        pointing = self.instruments.pointing
        if number == 0 or pointing.wanted is None:
            ra_deg, dec_deg = await asyncio.to_thread(where)
        else:
            ra_deg, dec_deg = pointing.wanted
            ra_deg = (ra_deg + FLAT_DITHER_DEG / math.cos(math.radians(min(abs(dec_deg), 85.0)))) % 360
        return await pointing.slew(ra_deg, dec_deg, exposure_s=self.settings.calibration.flat_exposure_max_s)

    async def _flat(
        self, exposed: Exposed, measured: Measured, pointed: Pointed, night: str, name: str
    ) -> tuple[Exposed, Purpose, Circumstances]:
        end = await self.instruments.pointing.read_back(exposure_s=0.0)
        around = Circumstances(at_start=pointed, at_end=end, weather=await read_weather(self.instruments.weather), focuser=None)
        purpose = await self._purpose(
            FrameType.FLAT,
            night,
            plan_id=f"flat-{name}",
            flat_deviation=round(measured.deviation, 5),
            sky_rate_adu_per_s=measured.sky_rate_adu_per_s,
        )
        return exposed, purpose, around

    # -- the plan -------------------------------------------------------------------------------------------------------

    async def _open_items(self, night: str) -> tuple[PlanItem, ...]:
        """Items of the plan in force that still lack frames and have not failed too often."""
        counts = await self.counts(night)
        most = self.settings.lights.max_attempts
        return tuple(
            item
            for item in await asyncio.to_thread(self.office.items)
            if self.failures.get(item.target_id, 0) < most
            and counts.of(FrameType.LIGHT, filter_name=item.filter, target_id=item.target_id) < item.n_exposures
        )

    def _why_not(self, item: PlanItem, at_ns: int) -> str:
        """Why `item` cannot be observed from `at_ns` on; "" when it can. The plan may be hours old: this looks at now."""
        night = self.settings.night
        end_ns = at_ns + round(item.n_exposures * item.exposure_s * 1e9)
        for when_ns in (at_ns, end_ns):
            place = self.sky.place(item.ra_deg, item.dec_deg, when_ns)
            if place.altitude_deg < night.altitude_min_deg:
                return f"altitude {place.altitude_deg:.1f} deg is below {night.altitude_min_deg:g}"
            if place.altitude_deg > night.altitude_max_deg:
                return f"altitude {place.altitude_deg:.1f} deg is above {night.altitude_max_deg:g}"
            sun_deg = self.sky.sun_altitude_deg(when_ns)
            if sun_deg > night.dark_sun_deg:
                return f"the Sun is at {sun_deg:.1f} deg"
        moon = self.sky.moon(item.ra_deg, item.dec_deg, at_ns)
        if moon.separation_deg < night.moon_separation_min_deg:
            return f"the Moon is {moon.separation_deg:.0f} deg away"
        return ""

    async def _end_of_night(self, record: NightRecord) -> Ending | None:
        """The ending by the Sun or by having done everything, or None."""
        altitude_deg, rising = await self.sun()
        if rising and altitude_deg > self.settings.night.dark_sun_deg:
            wants_flats = self.settings.calibration.dawn_flats and altitude_deg < self.settings.night.open_sun_deg
            if wants_flats and await self._lacking_flats(record.night):
                return Ending(Trigger.DAWN_FLATS, f"the Sun rises through {altitude_deg:.1f} deg and flats are lacking")
            return Ending(Trigger.NIGHT_OVER, f"the Sun rises through {altitude_deg:.1f} deg")
        if self.settings.night.end_when_done and await self._all_is_done(record.night):
            return Ending(Trigger.NIGHT_OVER, "everything that was asked for has been observed")
        return None

    async def _all_is_done(self, night: str) -> bool:
        if not self.office.targets_are_known() or await self._open_items(night):
            return False
        await self.settle()
        counts = await self.counts(night)
        return counts.of(FrameType.LIGHT) > 0

    async def observe(self, record: NightRecord) -> Ending:
        while True:
            ending = await self._end_of_night(record)
            if ending is not None:
                return ending
            if self.office.is_wanted("hold"):
                return Ending(Trigger.NO_TARGET, "held until resume_night")
            items = await self._open_items(record.night)
            if not items:
                return Ending(Trigger.NO_TARGET, "the plan has no more items")
            item, refused = await self._choose(items)
            for other, why_not in refused:
                if self.clock.now_ns() > parse_utc(other.end_utc):
                    await self._fail(other, record.night, why_not)
            if item is not None:
                await self._observe_one(item, record.night)
                late_s = (self.clock.now_ns() - parse_utc(item.end_utc)) / 1e9
                if late_s > WIDEST_LATENESS_S:
                    await asyncio.to_thread(self.office.plan_again, f"{late_s:.0f} s behind the plan")
                continue
            if refused:
                self.note = f"{refused[0][0].name}: {refused[0][1]}"
            else:
                starts_in_s = (parse_utc(items[0].start_utc) - self.clock.now_ns()) / 1e9
                if starts_in_s > self.settings.night.idle_limit_s:
                    return Ending(Trigger.NO_TARGET, f"{items[0].name} begins only at {items[0].start_utc}")
                self.note = f"{items[0].name} in {items[0].filter} begins at {items[0].start_utc}"
            await self.pause(10.0)

    async def _choose(self, items: tuple[PlanItem, ...]) -> tuple[PlanItem | None, list[tuple[PlanItem, str]]]:
        """The first item whose time has come and that can be observed now; and those before it that cannot, with why."""

        def look() -> tuple[PlanItem | None, list[tuple[PlanItem, str]]]:
            now_ns = self.clock.now_ns()
            refused: list[tuple[PlanItem, str]] = []
            for item in items:
                if (parse_utc(item.start_utc) - now_ns) / 1e9 > self.settings.lights.slew_s:
                    continue
                why_not = self._why_not(item, now_ns)
                if not why_not:
                    return item, refused
                refused.append((item, why_not))
            return None, refused

        return await asyncio.to_thread(look)

    async def _fail(self, item: PlanItem, night: str, reason: str) -> None:
        self.failures[item.target_id] = self.failures.get(item.target_id, 0) + 1
        event = ObservationFailed(
            night=night, item_id=item.item_id, target_id=item.target_id, reason=reason, at_utc=format_utc(self.clock.now_ns())
        )
        await asyncio.to_thread(self.office.say, event, item.target_id)

    async def _observe_one(self, item: PlanItem, night: str) -> None:
        counts = await self.counts(night)
        n = item.n_exposures - counts.of(FrameType.LIGHT, filter_name=item.filter, target_id=item.target_id)
        started = ObservationStarted(night=night, item=item, at_utc=format_utc(self.clock.now_ns()))
        await asyncio.to_thread(self.office.say, started, item.target_id)
        batch = Batch(night=night)
        complete = False
        try:
            self.note = f"pointing to {item.name}"
            await asyncio.gather(
                self.instruments.camera.set_filter(item.filter),
                self.instruments.pointing.slew(item.ra_deg, item.dec_deg, exposure_s=item.exposure_s * n),
            )
            for i in range(n):
                self.note = f"{item.name} in {item.filter}, {item.exposure_s:g} s, {i + 1} of {n}"
                await self._add(batch, *await self._light(item, night))
            complete = True
        except DeviceLost:
            raise  # not the target's fault: the dispatcher waits for the device, and the target is begun again
        except (DeviceError, Refused) as error:
            await self._fail(item, night, str(error))
            if not isinstance(error, Refused) and self.failures[item.target_id] >= self.settings.lights.max_attempts:
                raise
        finally:
            self._finish(batch, self._done_event(item, night) if complete else None)

    def _done_event(self, item: PlanItem, night: str) -> Callable[[tuple[FrameRef, ...]], tuple[Event, str]]:
        def done(frames: tuple[FrameRef, ...]) -> tuple[Event, str]:
            event = ObservationDone(
                night=night,
                item_id=item.item_id,
                target_id=item.target_id,
                frame_ids=tuple(frame.frame_id for frame in frames),
                at_utc=format_utc(self.clock.now_ns()),
            )
            return event, item.target_id

        return done

    async def _light(self, item: PlanItem, night: str) -> tuple[Exposed, Purpose, Circumstances]:
        pointing = self.instruments.pointing
        start = await pointing.follow(exposure_s=item.exposure_s)
        weather, focuser = await asyncio.gather(read_weather(self.instruments.weather), read_focuser(self.instruments.focuser))
        exposed = await self.instruments.camera.expose(item.exposure_s, light=True)
        end = await pointing.read_back(exposure_s=0.0)
        purpose = await self._purpose(
            FrameType.LIGHT,
            night,
            plan_id=item.item_id,
            target_id=item.target_id,
            object_name=item.name,
            superevent_id=item.superevent_id,
            target_ra_deg=item.ra_deg,
            target_dec_deg=item.dec_deg,
        )
        return exposed, purpose, Circumstances(at_start=start, at_end=end, weather=weather, focuser=focuser)

    async def wait_for_targets(self, record: NightRecord) -> Ending:
        mount = self.instruments.mount
        await mount.set_tracking(tracking=False, deadline_s=mount.default_deadline_s)
        while True:
            ending = await self._end_of_night(record)
            if ending is not None:
                return ending
            if self.office.is_wanted("hold"):
                self.note = "held until resume_night"
            else:
                item, _ = await self._choose(await self._open_items(record.night))
                if item is not None:
                    return Ending(Trigger.TARGET, f"{item.name} in {item.filter} can be observed")
                self.note = "open, waiting for targets"
            await self.instruments.pointing.read_back(exposure_s=0.0)
            await self.pause(10.0)

    # -- closing --------------------------------------------------------------------------------------------------------

    async def shelter(self, record: NightRecord) -> Ending:
        self.note = f"closing: {record.reason}"
        await self._secure(park_dome=False)
        return Ending(Trigger.CLOSED_READ_BACK, "the shutter reads back closed")

    async def wait_in_shelter(self, record: NightRecord) -> Ending:
        night = self.settings.night
        while True:
            if await self.dome_reading() is not DomeReading.CLOSED:
                return Ending(Trigger.NOT_CLOSED, "the dome does not read back closed")
            if await self.night_left_s() < night.least_night_left_s:
                return Ending(Trigger.NIGHT_OVER, f"less than {night.least_night_left_s:g} s of the night are left")
            if self.settings.night.end_when_done and await self._all_is_done(record.night):
                return Ending(Trigger.NIGHT_OVER, "everything that was asked for has been observed")
            if self.office.is_wanted("hold"):
                self.note = "held until resume_night"
            else:
                try:
                    return Ending(Trigger.GO_GIVEN, await asyncio.to_thread(self.office.check_go))
                except NightbellError as error:
                    self.note = f"no GO: {error}"
            await self._take_dark_frames(record.night)
            await self.pause(night.go_retry_s)

    async def close_night(self, record: NightRecord) -> Ending:
        self.note = f"closing: {record.reason}"
        await self._secure(park_dome=True)
        mount = self.instruments.mount
        if not (await mount.status(deadline_s=mount.default_deadline_s)).at_park:
            await self._park_mount()
        return Ending(Trigger.CLOSED_AND_PARKED, "the shutter reads back closed, the mount parked")

    async def report(self, record: NightRecord) -> Ending:
        """After closing: the darks that late targets want, warm up, marshal."""
        if not await self._dawn():
            await self._take_dark_frames(record.night)
        await self.settle()
        await self.instruments.camera.warm_up()
        problem = await self._is_all_closed()
        if problem:
            return Ending(Trigger.NOT_CLOSED, problem)
        return Ending(Trigger.MARSHAL_PASSED, "all reads back closed")

    async def close_by_every_path(self, record: NightRecord) -> Ending:
        """Own connection and safety's, once a minute, until the dome reads back closed and a human has taken the alarm."""
        while True:
            dome = self.instruments.dome
            try:
                closed = await self.dome_reading() is DomeReading.CLOSED
                if not closed:
                    await dome.close_shutter(deadline_s=dome.default_deadline_s)
            except DeviceError as error:
                closed, self.note = False, f"stuck: {error}"
            if not closed:
                try:
                    await asyncio.to_thread(self.office.close_by_safety, record.reason)
                except NightbellError as error:
                    self.note = f"stuck, and safety does not answer: {error}"
            elif self.office.is_acknowledged(record.state, record.since_ns):
                await asyncio.to_thread(self.office.give_back_lease)
                return Ending(Trigger.ACKNOWLEDGED_AND_CLOSED, "a human has taken it, and the dome reads back closed")
            await self.pause(60.0 if not closed else 5.0)

    async def close_and_wait_for_human(self, record: NightRecord) -> Ending:
        self.note = f"fault: {record.reason}"
        await self._secure(park_dome=True)
        self.no_deadline()
        while True:
            if self.office.is_acknowledged(record.state, record.since_ns) and await self._works_again():
                return Ending(Trigger.ACKNOWLEDGED_AND_MENDED, "a human has taken it, and every device answers")
            await self.pause(10.0)

    async def _works_again(self) -> bool:
        try:
            await self.instruments.connect()
            return await self._is_all_closed() == ""
        except NightbellError as error:
            self.note = f"fault: {error}"
            return False

    async def no_motion(self, record: NightRecord) -> Ending:
        self.note = f"manual: {record.reason}"
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    async def report_stopped(self, record: NightRecord) -> Ending:  # noqa: ARG002
        """The abort has gone out before this state was entered; tell the devices again and see that nothing moves."""
        await self.stop_all()
        mount, dome = self.instruments.mount, self.instruments.dome
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


def _filter_of(exposed: Exposed, purpose: Purpose) -> str | None:
    return exposed.filter_name if purpose.frame_type not in (FrameType.BIAS, FrameType.DARK) else None
