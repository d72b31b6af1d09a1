"""What reports tell of the devices is as young as they promise, whatever the night does meanwhile."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from nightbell.contracts.errors import DeviceLost
from nightbell.contracts.instants import parse_utc
from nightbell.sky.view import SkyView
from nightbell.telescope.instruments import Instruments

from .conftest import SITE
from .small_observatory import FastClock, SmallCamera, SmallDome, SmallMount, SmallWheel
from .test_night import SETTINGS


def small_instruments(ticks: list[int]) -> tuple[Instruments, SmallMount]:
    clock = FastClock(parse_utc("2027-04-13T02:00:00Z"), 1.0)
    sky = SkyView(SITE)
    instruments = Instruments(SETTINGS, SITE, sky, clock, lambda: ticks.append(1))
    dome = SmallDome(clock)
    mount, wheel = SmallMount(clock, dome, sky), SmallWheel(clock)
    camera = SmallCamera(clock, dome, wheel, sky)
    for name, device in (("dome", dome), ("mount", mount), ("_camera", camera), ("wheel", wheel)):
        setattr(instruments, name, device)
    return instruments, mount


async def looked_at(instruments: Instruments, is_so: Any, within_s: float = 10.0) -> None:
    looking = asyncio.create_task(instruments.keep_looking(0.02))
    end = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < end, instruments.readings(instruments.clock.now_ns())
        await asyncio.sleep(0.01)
    looking.cancel()
    await asyncio.gather(looking, return_exceptions=True)


def test_what_the_night_does_not_ask_is_asked_all_the_same_and_is_no_progress() -> None:
    ticks: list[int] = []
    instruments, _ = small_instruments(ticks)

    async def main() -> None:
        await instruments.connect()
        before = len(ticks)
        await looked_at(instruments, lambda: set(instruments.readings(0)) == {"dome", "mount", "camera"})
        read_ns = instruments.clock.now_ns()
        await looked_at(instruments, lambda: all(one["age_s"] <= 0 for one in instruments.readings(read_ns).values()))
        assert len(ticks) == before, "the lease must not be renewed by looking"

    asyncio.run(main())


def test_a_device_that_does_not_answer_grows_old_and_hides_no_other() -> None:
    instruments, mount = small_instruments([])

    async def lost(*, deadline_s: float) -> Any:
        raise DeviceLost("refused", where="mount")

    async def main() -> None:
        await instruments.connect()
        mount.status = lost  # type: ignore[method-assign]
        await looked_at(instruments, lambda: set(instruments.readings(0)) == {"dome", "camera"})

    asyncio.run(main())
