"""Frames between camera and announcement: a queue to the writer, batches that are told of once their last frame is on disk."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from nightbell.contracts.errors import DeviceError, DeviceLost, NightbellError
from nightbell.contracts.events import Event
from nightbell.contracts.frames import new_frame_id
from nightbell.contracts.records import FrameRef
from nightbell.contracts.states import FrameType
from nightbell.telescope.activities.ground import Ground
from nightbell.telescope.activities.office import Batch, CountKey, Counts
from nightbell.telescope.custody import Custody
from nightbell.telescope.exposure import Circumstances, Exposed, Purpose, frame_data

__all__ = ["Frames"]

ATTEMPTS = 3
"""A calibration frame is tried so often: one hiccup of a camera must not end a night."""
QUEUE = 4
"""Frames between camera and writer; when it is full, the next exposure waits."""


class Frames:
    """Takes exposures into custody while the night goes on."""

    def __init__(self, ground: Ground, custody: Custody) -> None:
        self.ground = ground
        self.custody = custody
        self.last_frame = ""
        self._writing: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(QUEUE)
        self._pending: dict[CountKey, int] = {}
        self._writer = asyncio.Lock()

    def _counted(self, counts: Counts) -> Counts:
        """Stored frames plus those on their way to disk."""
        rows = dict(counts.rows)
        for key, n in self._pending.items():
            rows[key] = rows.get(key, 0) + n
        return Counts(rows)

    async def counts(self, night: str) -> Counts:
        return self._counted(await asyncio.to_thread(self.ground.office.counts, night))

    async def settle(self) -> None:
        """Wait until every frame is on disk and announced."""
        while self._writing:
            await asyncio.wait(set(self._writing))

    async def expose(self, exposure_s: float, *, light: bool) -> Exposed:
        """An exposure for calibration, tried again when the camera fails it. A lost connection is the dispatcher's to wait for."""
        camera = self.ground.instruments.camera
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return await camera.expose(exposure_s, light=light)
            except DeviceLost:
                raise
            except DeviceError as error:
                if attempt == ATTEMPTS:
                    raise
                self.ground.note = f"exposure failed ({attempt} of {ATTEMPTS}): {error}"
                await camera.abort()
        raise AssertionError("unreachable")

    async def add(self, batch: Batch, exposed: Exposed, purpose: Purpose, around: Circumstances) -> None:
        """Hand a frame to the writer; waits only when the queue is full."""
        key = (purpose.frame_type, _filter_of(exposed, purpose), exposed.image.exposure_s, purpose.target_id)
        if not purpose.flaw:
            self._pending[key] = self._pending.get(key, 0) + 1
            batch.keys.append(key)
        await self._slots.acquire()
        batch.writing.append(asyncio.create_task(self._write(batch, exposed, purpose, around)))

    async def _write(self, batch: Batch, exposed: Exposed, purpose: Purpose, around: Circumstances) -> None:
        def write() -> FrameRef:
            data = frame_data(
                exposed,
                purpose,
                around,
                driver=self.ground.instruments.camera,
                sky=self.ground.sky,
                site=self.ground.site,
                stage=self.ground.stage,
                clock=self.ground.clock,
            )
            return self.custody.take(data, batch.night, batch.batch_id)

        try:
            async with self._writer:
                batch.frames.append(await asyncio.to_thread(write))
            self.last_frame = batch.frames[-1].path
        except (NightbellError, OSError) as error:
            await asyncio.to_thread(self.ground.office.alarm, "telescope.custody", f"a frame could not be stored: {error}", critical=True)
        finally:
            self._slots.release()

    def finish(self, batch: Batch, done: Callable[[tuple[FrameRef, ...]], tuple[Event, str]] | None = None) -> None:
        """Announce a batch once its last frame is on disk, while the night goes on. Without frames nothing is said."""
        if not batch.writing:
            return

        async def announce() -> None:
            await asyncio.wait(batch.writing)
            frames = tuple(batch.frames)
            complete = len(frames) == len(batch.writing)
            if frames:
                also = done(frames) if done is not None and complete else None
                await asyncio.to_thread(self.ground.office.store, batch, frames, also)

        task = asyncio.create_task(announce())
        self._writing.add(task)

        def ended(one: asyncio.Task[None]) -> None:
            self._writing.discard(one)
            for key in batch.keys:
                self._pending[key] -= 1
            self.ground.changed.set()
            if not one.cancelled() and one.exception() is not None:
                self.ground.note = f"a batch could not be announced: {one.exception()}"

        task.add_done_callback(ended)

    async def purpose(self, frame_type: FrameType, night: str, **more: Any) -> Purpose:
        number = await asyncio.to_thread(self.ground.office.next_number, night)
        return Purpose(frame_type=frame_type, night=night, frame_id=new_frame_id(), number=number, **more)


def _filter_of(exposed: Exposed, purpose: Purpose) -> str | None:
    return exposed.filter_name if purpose.frame_type not in (FrameType.BIAS, FrameType.DARK) else None
