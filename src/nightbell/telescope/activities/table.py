"""Which coroutine performs which action of the night's table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nightbell.contracts.records import Site
from nightbell.sky.view import Clock, SkyView
from nightbell.telescope.activities.closing import Closing
from nightbell.telescope.activities.darks import DarkFrames
from nightbell.telescope.activities.day import Day
from nightbell.telescope.activities.frames import Frames
from nightbell.telescope.activities.ground import Ground
from nightbell.telescope.activities.observing import Observing
from nightbell.telescope.activities.office import Office
from nightbell.telescope.activities.twilight import Twilight
from nightbell.telescope.custody import Custody
from nightbell.telescope.dispatcher import Activity, NightRecord
from nightbell.telescope.instruments import Instruments
from nightbell.telescope.night_table import Action, DomeReading
from nightbell.telescope.settings import TelescopeSettings

__all__ = ["Activities"]


class Activities:
    """All of them, over one set of instruments; what the dispatcher and the module need of them."""

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
        self.ground = ground = Ground(
            instruments,
            office,
            settings=settings,
            site=site,
            stage=stage,
            sky=sky,
            clock=clock,
            tick=tick,
            no_deadline=no_deadline,
        )
        self.frames = Frames(ground, custody)
        self.darks = DarkFrames(ground, self.frames)
        self.closing = Closing(ground)
        self.twilight = Twilight(ground, self.frames, self.darks, self.closing)
        self.observing = Observing(ground, self.frames, self.darks, self.closing, self.twilight)
        self.day = Day(ground, self.frames, self.darks, self.closing, self.observing)

    def table(self) -> dict[Action, Activity]:
        """Action -> coroutine function, for the dispatcher."""
        return {
            Action.MARSHAL: self.day.marshal,
            Action.PREPARE: self.day.prepare,
            Action.WAIT_TO_OPEN: self.day.wait_to_open,
            Action.OPEN_DOME: self.day.open_dome,
            Action.TAKE_FLATS: self.twilight.take_flats,
            Action.START_PLAN: self.observing.observe,
            Action.WAIT_FOR_TARGETS: self.observing.wait_for_targets,
            Action.SHELTER: self.closing.shelter,
            Action.WAIT_IN_SHELTER: self.observing.wait_in_shelter,
            Action.CLOSE_NIGHT: self.closing.close_night,
            Action.REPORT: self.day.report,
            Action.CLOSE_BY_EVERY_PATH: self.closing.close_by_every_path,
            Action.CLOSE_AND_WAIT_FOR_HUMAN: self.closing.close_and_wait_for_human,
            Action.NO_MOTION: self.closing.no_motion,
            Action.STOP_ALL: self.closing.report_stopped,
            Action.KILL_WORKERS: self.closing.report_stopped,
        }

    @property
    def note(self) -> str:
        """What the night is doing, for eyes."""
        return self.ground.note

    @property
    def last_frame(self) -> str:
        """Path of the newest frame on disk."""
        return self.frames.last_frame

    def wake(self) -> None:
        """Targets, plan or wishes have changed: waits end early. From the night's own thread."""
        self.ground.changed.set()

    async def first_dome_reading(self, record: NightRecord | None) -> DomeReading:
        """After a start: everything read back (day.py)."""
        return await self.day.first_dome_reading(record)

    async def stop_all(self) -> None:
        """Abort at every device at once (closing.py)."""
        await self.closing.stop_all()

    async def settle(self) -> None:
        """Wait until every frame is on disk and announced (frames.py)."""
        await self.frames.settle()

    def readings(self, now_ns: int) -> dict[str, Any]:
        """What dome, mount and camera said last, with ages in seconds of the world; for eyes, never for decisions."""
        return self.ground.instruments.readings(now_ns)
