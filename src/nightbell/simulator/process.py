"""The simulator process: a world, its Alpaca server and its side channels, until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import secrets
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

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
from nightbell.simulator.memory import Memory
from nightbell.simulator.optics import Seen, expose
from nightbell.simulator.references import render_references
from nightbell.simulator.settings import GalaxySettings, SimulatorSettings
from nightbell.simulator.side_channel import SideChannel
from nightbell.simulator.sky import read_galaxies
from nightbell.simulator.world import World

__all__ = ["TOKEN_FILE", "Running", "SimulatedObservatory", "in_thread", "run", "simulate"]

TOKEN_FILE = "side-channel.token"  # noqa: S105 - the name of the file, not what is in it
MEMORY_FILE = "world.json"
TICK_S = 0.05


class Running:
    """A world that runs in this event loop."""

    def __init__(self, world: World, server: AlpacaServer, token: str) -> None:
        self.world, self.server, self.token = world, server, token

    @property
    def port(self) -> int:
        return self.server.port


@contextlib.asynccontextmanager
async def simulate(
    settings: SimulatorSettings, site: Site, *, galaxies: tuple[GalaxySettings, ...] = (), memory: Memory | None = None
) -> AsyncIterator[Running]:
    """A running world: server listening, time passing. Everything ends with the block.

    With `memory` it goes on where a server that died left it, and writes itself down; ending in order forgets it.
    """
    loop = asyncio.get_running_loop()
    token = settings.token or (memory.token if memory is not None else "") or secrets.token_urlsafe(18)
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
        time = WorldTime(parse_utc(memory.start_utc if memory is not None else settings.start_utc), settings.rate)
        world = World(settings, site, time=time, render=render, galaxies=galaxies)
        if memory is not None:
            memory.recall(world)
        views = views_of(world)
        side_channel = SideChannel(world, views, faults, token)
        server = AlpacaServer(world, views, faults, side_channel=side_channel)
        await server.start(settings.port)
        discovery = await server.discover() if settings.discovery else None

        async def tick() -> None:
            while True:
                side_channel.apply(world.advance())
                if memory is not None:
                    memory.save(world, token)
                await asyncio.sleep(TICK_S)

        ticking = loop.create_task(tick())
        try:
            yield Running(world, server, token)
        finally:
            ticking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await ticking
            if memory is not None:
                memory.forget(world)
            if discovery is not None:
                discovery.close()
            await server.stop()
            for task in list(pending):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task


class SimulatedObservatory:
    """A running world seen from another thread: what tests and notebooks hold."""

    def __init__(self, port: int, token: str) -> None:
        self.port, self.token = port, token

    def _ask(self, verb: str, name: str, wish: object = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            body = None if wish is None else json.dumps(wish).encode()
            connection.request(verb, f"/sim/{name}", body, {"X-Token": self.token, "Content-Type": "application/json"})
            answer = connection.getresponse()
            value = json.loads(answer.read())
        finally:
            connection.close()
        if answer.status != 200:
            raise Failed(str(value.get("what", value)), where=f"/sim/{name}", remedy=str(value.get("remedy", "")))
        return value

    def truth(self) -> dict[str, Any]:
        """What truly happened."""
        return dict(self._ask("GET", "truth"))

    def clock(self) -> dict[str, Any]:
        """{t0_ns, m0_ns, rate}."""
        return dict(self._ask("GET", "clock"))

    def post(self, name: str, **wish: object) -> dict[str, Any]:
        """A side channel: fault, transient, weather, rate, jump, references."""
        return dict(self._ask("POST", name, wish))


@contextlib.contextmanager
def in_thread(settings: SimulatorSettings, site: Site, *, galaxies: tuple[GalaxySettings, ...] = ()) -> Iterator[SimulatedObservatory]:
    """A world in a thread of this process, for tests and notebooks; give port 0 for a free one."""
    started: Future[SimulatedObservatory] = Future()
    ending: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def main() -> None:
        end = asyncio.Event()
        ending.set_result((asyncio.get_running_loop(), end))
        async with simulate(settings, site, galaxies=galaxies) as running:
            started.set_result(SimulatedObservatory(running.port, running.token))
            await end.wait()

    def work() -> None:
        try:
            asyncio.run(main())
        except Exception as error:  # noqa: BLE001 - whoever waits for the start must hear of it
            if not started.done():
                started.set_exception(error)

    thread = threading.Thread(target=work, name="simulator", daemon=True)
    thread.start()
    try:
        yield started.result(timeout=30)
    finally:
        loop, end = ending.result(timeout=5)
        with contextlib.suppress(RuntimeError):  # the loop has ended by itself
            loop.call_soon_threadsafe(end.set)
        thread.join(timeout=10)


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
    if settings.references:
        fields = [(one.name, one.ra_deg, one.dec_deg) for one in settings.galaxies]
        folder = installation.home / settings.references
        render_references(settings, folder, fields, galaxies=(*settings.galaxies, *galaxies), filters=settings.reference_filters)

    async def main() -> None:
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        for one in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGBREAK", signal.SIGINT)):
            try:
                loop.add_signal_handler(one, stopping.set)
            except NotImplementedError:  # Windows
                signal.signal(one, lambda *_: loop.call_soon_threadsafe(stopping.set))
        try:
            memory = Memory(state / MEMORY_FILE, settings)
            async with simulate(settings, installation.site, galaxies=galaxies, memory=memory) as running:
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
