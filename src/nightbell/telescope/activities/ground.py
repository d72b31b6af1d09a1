"""What every activity stands on: instruments, office, settings, sky and clock; waiting, and where the Sun is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from nightbell.contracts.records import Site
from nightbell.sky.view import Clock, SkyView
from nightbell.telescope.activities.office import Office
from nightbell.telescope.dispatcher import NightRecord
from nightbell.telescope.instruments import Instruments
from nightbell.telescope.settings import TelescopeSettings

__all__ = ["Ground"]


class Ground:
    """Shared by all activities of one night; one of them runs at a time."""

    def __init__(
        self,
        instruments: Instruments,
        office: Office,
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
        self.settings = settings
        self.site = site
        self.stage = stage
        self.sky = sky
        self.clock = clock
        self.tick = tick
        """The loop has made a step: what the open-dome lease is renewed by."""
        self.no_deadline = no_deadline
        """From here on only a human leads out of the state."""
        self.changed = asyncio.Event()
        """Set when targets, plan or wishes have changed: waits end early."""
        self.note = ""
        """What it is doing, for eyes."""

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
        """Until the Sun, rising, stands at the limit for lights; 0 in the morning and by day. Looks 24 h ahead in steps of 5 min."""

        def look() -> float:
            now_ns, limit = self.clock.now_ns(), self.settings.night.dark_sun_deg
            now_deg = self.sky.sun_altitude_deg(now_ns)
            falling = self.sky.sun_altitude_deg(now_ns + 60_000_000_000) < now_deg
            if now_deg > self.settings.night.open_sun_deg or (now_deg >= limit and not falling):
                return 0.0  # the darkness that comes is another night's
            was_dark = False
            for step in range(288):
                is_dark = self.sky.sun_altitude_deg(now_ns + step * 300_000_000_000) < limit
                if was_dark and not is_dark:
                    return step * 300.0
                was_dark = was_dark or is_dark
            return 86_400.0 if was_dark else 0.0

        return await asyncio.to_thread(look)

    @property
    def by_clock(self) -> bool:
        """Whether the night begins with the Sun; else it waits for commands. Human hands and scripts are not surprised by it."""
        trigger = self.settings.night.trigger
        return trigger == "clock" or (trigger == "stage" and self.stage == 3)

    def is_another_night(self, record: NightRecord) -> bool:
        """Whether local noon has passed since the night began: in polar night the Sun does not say so."""
        return record.night != self.sky.night_label(self.clock.now_ns())

    async def dawn(self) -> bool:
        altitude_deg, rising = await self.sun()
        return rising and altitude_deg > self.settings.night.open_sun_deg
