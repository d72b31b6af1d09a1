"""The safety process cannot start: close the dome, and then say why. No bus, no disk, no weather, no verdict.

A full disk, a broken store, a channel without its password file: whatever it is, nobody would decide from here on, and a dome that
nobody watches is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import time
from typing import Any

import structlog

from nightbell.contracts.errors import NightbellError
from nightbell.devices.protocols import Dome
from nightbell.devices.registry import open_device
from nightbell.safety.closing import Closing, Wish, next_step
from nightbell.safety.evidence import Reading
from nightbell.safety.settings import SafetySettings

__all__ = ["close_anyway"]

LOOK_EVERY_S = 0.5
REACH_S = 15.0
"""A dome that did not answer for so long: the cause is told, and who starts this process again lets it try again."""
LEAST_S = 60.0


class _HostClock:
    """Stamps nobody uses here; the world's clock may be what cannot be had."""

    def now_ns(self) -> int:
        return time.time_ns()


def close_anyway(settings: SafetySettings, why: str) -> bool:
    """Order the dome to close until its sensor says so; False when it cannot be reached, or not closed in a minute and five travels.

    Never raises.
    """
    log = structlog.get_logger().bind(module="safety")
    log.error("safety.cannot_start", why=why, text="the dome is closed, for nobody will watch it")
    try:
        is_closed = asyncio.run(_close(settings, log))
    except Exception:  # the cause why safety cannot start is what the caller must hear of
        log.exception("dome.not_closed")
        return False
    if is_closed:
        log.info("dome.read_back_closed")
    else:
        log.critical("dome.not_closed")
    return is_closed


async def _close(settings: SafetySettings, log: Any) -> bool:
    limits, device = settings.closing, settings.devices["dome"]
    dome: Dome | None = None
    closing: Closing | None = None
    shutter: Reading | None = None
    end = time.monotonic() + REACH_S
    while time.monotonic() < end:
        try:
            dome = dome or open_device("dome", device, _HostClock(), name="safety dome (last resort)")
            if shutter is None:  # not reached yet
                with contextlib.suppress(NightbellError):  # closing may work where connecting does not
                    await dome.connect(deadline_s=limits.deadline_s)
            status = await dome.status(deadline_s=limits.deadline_s)
            if shutter is None:
                end = time.monotonic() + LEAST_S + 5.0 * limits.travel_s
            shutter = Reading(status.shutter.name.lower(), status.read_monotonic_ns)
        except NightbellError as error:
            log.warning("dome.unknown", error=str(error))
        closing, wish = next_step(closing, wanted=True, shutter=shutter, now_ns=time.monotonic_ns(), limits=limits)
        if closing is not None and closing.verified_ns is not None:
            break
        if wish is Wish.SECOND_PATH:
            try:
                done = subprocess.run(list(limits.second_path), capture_output=True, timeout=limits.deadline_s, check=False)  # noqa: ASYNC221 - nothing else runs here
                log.warning("dome.second_path", exit_status=done.returncode)
            except (OSError, subprocess.TimeoutExpired) as error:
                log.warning("dome.second_path_failed", error=str(error))
        if wish is not Wish.NOTHING and dome is not None:
            try:
                await dome.close_shutter(deadline_s=limits.deadline_s)
                log.warning("dome.close_sent")
            except NightbellError as error:
                log.warning("dome.close_failed", error=str(error))
        await asyncio.sleep(LOOK_EVERY_S)
    if dome is not None:
        await dome.aclose()
    return closing is not None and closing.verified_ns is not None
