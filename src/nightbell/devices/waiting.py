"""Waiting for a motion: poll the status until the goal is read back, give up at a deadline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from nightbell.contracts.errors import DeviceTimeout

__all__ = ["wait_until"]

S = TypeVar("S")


async def wait_until(
    read: Callable[[], Awaitable[S]],
    is_done: Callable[[S], bool],
    *,
    what: str,
    deadline_s: float,
    poll_s: float = 0.2,
) -> S:
    """The first status for which `is_done`; `is_done` may raise to end a wait that cannot succeed (shutter error, camera state 5).

    `is_done` must ask for the goal (azimuth reached, shutter CLOSED), not only for rest: right after an initiator the motion
    may not have begun. `deadline_s` and `poll_s` are real seconds (`clock.real_s` converts seconds of the world).
    """
    end = time.monotonic() + deadline_s
    while True:
        status = await read()
        if is_done(status):
            return status
        if time.monotonic() >= end:
            raise DeviceTimeout(f"not done within {deadline_s:g} s; last read: {status}", where=what, remedy="Look at the device")
        await asyncio.sleep(min(poll_s, max(0.0, end - time.monotonic())))
