"""Whose time is kept. Every module asks its `Clock` and no other, so that a simulated night runs through the same code.

The simulated world's time is t0 + rate x (monotonic - m0); CLOCK_MONOTONIC is one for all processes of a host, so a reader that knows
the three numbers needs no further question. They are read again every second, by a thread: `now_ns` never waits, and when the
simulator is gone the last numbers stay in force.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass

from nightbell.contracts.errors import Missing
from nightbell.settings import ClockSettings

__all__ = ["Clock", "make_clock"]

FIRST_ANSWER_S = 30.0
REREAD_S = 1.0
_NS = 1_000_000_000


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
        self._url = url
        self._reading = self._first()
        threading.Thread(target=self._reread_for_ever, name="world clock", daemon=True).start()

    def _ask(self, timeout_s: float) -> _Reading:
        if not self._url.startswith("http://"):
            raise ValueError(self._url)
        with urllib.request.urlopen(self._url, timeout=timeout_s) as answer:  # noqa: S310  (http:// only, checked above)
            told = json.loads(answer.read(4096))
        return _Reading(int(told["t0_ns"]), int(told["m0_ns"]), float(told["rate"]))

    def _first(self) -> _Reading:
        until = time.monotonic() + FIRST_ANSWER_S
        while True:
            try:
                return self._ask(2.0)
            except (OSError, ValueError, KeyError, TypeError) as error:
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
            except (OSError, ValueError, KeyError, TypeError):
                continue  # the world's server is away; time goes on as it went

    @property
    def rate(self) -> float:
        """Seconds of the world in a second of ours."""
        return self._reading.rate

    def now_ns(self) -> int:
        """UTC of the world, ns since 1970."""
        reading = self._reading
        return reading.t0_ns + round(reading.rate * (time.monotonic_ns() - reading.m0_ns))


def make_clock(settings: ClockSettings) -> Clock:
    """The installation's clock. Raises `Missing` when the simulated world does not answer within half a minute."""
    return _WorldClock(settings.url) if settings.kind == "simulator" else Clock()
