"""Whose time is kept. Every module asks its `Clock` and no other, so that a simulated night runs through the same code.

The simulated world's time is t0 + rate x (monotonic - m0); CLOCK_MONOTONIC is one for all processes of a host, so a reader that knows
the three numbers needs no further question. They are read again every second, by a thread: `now_ns` never waits, and when the
simulator is gone the last numbers stay in force.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import math
import threading
import time
import urllib.request
from dataclasses import dataclass

from nightbell.contracts.errors import BadInput, Missing
from nightbell.settings import ClockSettings

__all__ = ["Clock", "make_clock"]

FIRST_ANSWER_S = 30.0
REREAD_S = 1.0
_NS = 1_000_000_000
# A peer that speaks no HTTP raises HTTPException, which is no OSError; it must not end the thread that reads again.
_NO_TIME = (OSError, http.client.HTTPException, ValueError, KeyError, TypeError, OverflowError)


@dataclass(frozen=True, slots=True)
class _Reading:
    """now = t0_ns + rate x (reference - m0_ns)."""

    t0_ns: int
    m0_ns: int
    rate: float


class Clock:
    """The system's clock: UTC of this host, seconds last a second."""

    @property
    def rate(self) -> float:
        """Seconds of the world in a second of ours."""
        return 1.0

    def now_ns(self) -> int:
        """UTC of the world, ns since 1970."""
        return time.time_ns()

    def real_s(self, world_s: float, floor_s: float = 0.0) -> float:
        """How long `world_s` seconds of the world take, in seconds of ours; at least `floor_s`."""
        return max(floor_s, world_s / self.rate)

    async def sleep(self, world_s: float) -> None:
        """Sleep `world_s` seconds of the world."""
        await asyncio.sleep(self.real_s(max(0.0, world_s)))

    def sleep_blocking(self, world_s: float, stop: threading.Event | None = None) -> bool:
        """Sleep `world_s` seconds of the world, or until `stop` is set; returns whether it was."""
        real_s = self.real_s(max(0.0, world_s))
        if stop is None:
            time.sleep(real_s)
            return False
        return stop.wait(real_s)


class _WorldClock(Clock):
    """The simulated world's clock."""

    def __init__(self, url: str) -> None:
        if not url.startswith("http://"):
            raise BadInput(
                f"{url!r} is no address of a clock",
                where="observatory.toml: clock.url",
                remedy="Give http://HOST:PORT/sim/clock, or set kind = system",
            )
        self._url = url
        # Without a handler of its own, urllib would ask a loopback address through the proxy that the environment names.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self._reading = self._first()
        threading.Thread(target=self._reread_for_ever, name="world clock", daemon=True).start()

    def _ask(self, timeout_s: float) -> _Reading:
        with self._opener.open(self._url, timeout=timeout_s) as answer:
            told = json.loads(answer.read(4096))
        reading = _Reading(int(told["t0_ns"]), int(told["m0_ns"]), float(told["rate"]))
        if not (math.isfinite(reading.rate) and reading.rate > 0):
            raise ValueError(f"rate {reading.rate}")
        return reading

    def _first(self) -> _Reading:
        until = time.monotonic() + FIRST_ANSWER_S
        while True:
            try:
                return self._ask(2.0)
            except _NO_TIME as error:
                if time.monotonic() > until:
                    raise Missing(
                        f"the simulated world tells no time: {error}",
                        where=self._url,
                        remedy="Start it (nightbell run simulator) or set [clock] kind = system",
                    ) from error
            time.sleep(0.2)

    def _reread_for_ever(self) -> None:
        while True:
            time.sleep(REREAD_S)
            try:
                self._reading = self._ask(2.0)
            except _NO_TIME:
                continue  # the world's server is away; time goes on as it went

    @property
    def rate(self) -> float:
        """Seconds of the world in a second of ours."""
        return self._reading.rate

    def now_ns(self) -> int:
        """UTC of the world, ns since 1970."""
        reading = self._reading
        return reading.t0_ns + round(reading.rate * (time.monotonic_ns() - reading.m0_ns))

    async def sleep(self, world_s: float) -> None:
        """Sleep `world_s` seconds of the world, also when its rate changes or it jumps meanwhile."""
        until_ns = self.now_ns() + round(world_s * _NS)
        while (left_ns := until_ns - self.now_ns()) > 0:  # noqa: ASYNC110  (time sets no Event)
            await asyncio.sleep(self._slice_s(left_ns))

    def sleep_blocking(self, world_s: float, stop: threading.Event | None = None) -> bool:
        """Sleep `world_s` seconds of the world, or until `stop` is set; returns whether it was."""
        stop = stop or threading.Event()
        until_ns = self.now_ns() + round(world_s * _NS)
        while (left_ns := until_ns - self.now_ns()) > 0:
            if stop.wait(self._slice_s(left_ns)):
                return True
        return stop.is_set()

    def _slice_s(self, left_ns: int) -> float:
        """The rest, but never past the next reading: an hour begun at rate 1 must end early when the world is hurried."""
        return min(self.real_s(left_ns / _NS, floor_s=0.001), REREAD_S)


def make_clock(settings: ClockSettings) -> Clock:
    """The installation's clock. Raises `BadInput` for a wrong address, `Missing` when nobody answers there within half a minute."""
    return _WorldClock(settings.url) if settings.kind == "simulator" else Clock()
