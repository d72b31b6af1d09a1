"""The simulator process: a world, its Alpaca server and its side channels, until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nightbell.contracts.errors import Failed
from nightbell.contracts.instants import parse_utc
from nightbell.contracts.records import Site
from nightbell.settings import Installation
from nightbell.simulator.alpaca_server import AlpacaServer
from nightbell.simulator.clock import WorldTime
from nightbell.simulator.faults import Faults
from nightbell.simulator.members import views_of
from nightbell.simulator.optics import Seen, expose
from nightbell.simulator.settings import GalaxySettings, SimulatorSettings
from nightbell.simulator.side_channel import SideChannel
from nightbell.simulator.sky import read_galaxies
from nightbell.simulator.world import World

__all__ = ["TOKEN_FILE", "Running", "run", "simulate"]

TOKEN_FILE = "side-channel.token"  # noqa: S105 - the name of the file, not what is in it
TICK_S = 0.05


class Running:
    """A world that runs in this event loop."""

    def __init__(self, world: World, server: AlpacaServer, token: str) -> None:
        self.world, self.server, self.token = world, server, token

    @property
    def port(self) -> int:
        return self.server.port


@contextlib.asynccontextmanager
async def simulate(settings: SimulatorSettings, site: Site, *, galaxies: tuple[GalaxySettings, ...] = ()) -> AsyncIterator[Running]:
    """A running world: server listening, time passing. Everything ends with the block."""
    loop = asyncio.get_running_loop()
    token = settings.token or secrets.token_urlsafe(18)
    faults = Faults()
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="render") as renderer:
        pending: set[asyncio.Task[None]] = set()

        def render(seen: Seen, done: Callable[[NDArray[np.uint16]], None]) -> None:
            async def work() -> None:
                done(await loop.run_in_executor(renderer, expose, seen, settings.camera, settings.seed))

            task = loop.create_task(work())
            pending.add(task)
            task.add_done_callback(pending.discard)

        # The first frame must not cost more than the others: the detector and the caches are made before time runs.
        await loop.run_in_executor(renderer, _warm_up, settings)
        time = WorldTime(parse_utc(settings.start_utc), settings.rate)
        world = World(settings, site, time=time, render=render, galaxies=galaxies)
        views = views_of(world)
        side_channel = SideChannel(world, views, faults, token)
        server = AlpacaServer(world, views, faults, side_channel=side_channel)
        await server.start(settings.port)
        discovery = await server.discover() if settings.discovery else None

        async def tick() -> None:
            while True:
                side_channel.apply(world.advance())
                await asyncio.sleep(TICK_S)

        ticking = loop.create_task(tick())
        try:
            yield Running(world, server, token)
        finally:
            ticking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await ticking
            if discovery is not None:
                discovery.close()
            await server.stop()
            for task in list(pending):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task


def _warm_up(settings: SimulatorSettings) -> None:
    for band in settings.camera.filters:
        expose(Seen(counter=0, exposure_s=0.0, band=band), settings.camera, settings.seed)


def _write_token(path: Path, token: str) -> None:
    """Readable by its owner only: whoever has it can break the world."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(token + "\n")


def run(installation: Installation, name: str) -> int:
    """Run until SIGINT or SIGTERM (on Windows: Ctrl-Break or Ctrl-C). Prints READY with the port once listening."""
    settings = installation.module_settings(name, SimulatorSettings)
    galaxies = read_galaxies(installation.folder / settings.catalogue) if settings.catalogue else ()
    state = installation.state_folder(name)

    async def main() -> None:
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        for one in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGBREAK", signal.SIGINT)):
            try:
                loop.add_signal_handler(one, stopping.set)
            except NotImplementedError:  # Windows
                signal.signal(one, lambda *_: loop.call_soon_threadsafe(stopping.set))
        try:
            async with simulate(settings, installation.site, galaxies=galaxies) as running:
                _write_token(state / TOKEN_FILE, running.token)
                ready = {"module": name, "pid": os.getpid(), "alpaca": f"http://127.0.0.1:{running.port}", "rate": settings.rate}
                sys.stdout.write(f"READY {json.dumps(ready)}\n")
                sys.stdout.flush()
                await stopping.wait()
        except OSError as error:
            raise Failed(
                f"cannot listen on 127.0.0.1:{settings.port}: {error.strerror or error}",
                where=f"modules/{name}.toml: port",
                remedy="End the program that uses this port, or give another",
            ) from error

    asyncio.run(main())
    return 0
