"""Biases and darks: taken whenever the dome is closed and some are lacking."""

from __future__ import annotations

import asyncio

import numpy as np

from nightbell.contracts.states import FrameType
from nightbell.telescope.activities.frames import Frames
from nightbell.telescope.activities.ground import Ground
from nightbell.telescope.activities.office import Batch
from nightbell.telescope.exposure import Circumstances

__all__ = ["DarkFrames"]


class DarkFrames:
    """What the closed dome gives."""

    def __init__(self, ground: Ground, frames: Frames) -> None:
        self.ground = ground
        self.frames = frames
        self.bias_level_adu = ground.settings.calibration.bias_level_adu
        """As configured until tonight's first bias."""

    async def take_dark_frames(self, night: str) -> None:
        """Biases and darks that tonight still lacks; the dome is closed. Darks match the exposures of the lights."""
        wanted = self.ground.settings.calibration
        counts = await self.frames.counts(night)
        lacking = wanted.n_biases - counts.of(FrameType.BIAS)
        if lacking > 0:
            await self._take_dark_batch(night, FrameType.BIAS, self.ground.instruments.camera.facts.exposure_min_s, lacking)
        for exposure_s in wanted.dark_exposures_s or await asyncio.to_thread(self.ground.office.light_exposures_s):
            lacking = wanted.n_darks - counts.of(FrameType.DARK, exposure_s=exposure_s)
            if lacking > 0:
                await self._take_dark_batch(night, FrameType.DARK, exposure_s, lacking)

    async def _take_dark_batch(self, night: str, frame_type: FrameType, exposure_s: float, n: int) -> None:
        batch = Batch(night=night)
        try:
            for i in range(n):
                self.ground.note = f"{frame_type.value.lower()} {exposure_s:g} s, {i + 1} of {n}"
                exposed = await self.frames.expose(exposure_s, light=False)
                if frame_type is FrameType.BIAS:
                    self.bias_level_adu = float(np.median(exposed.image.pixels))
                purpose = await self.frames.purpose(frame_type, night, plan_id=f"{frame_type.value.lower()}-{exposure_s:g}s")
                await self.frames.add(batch, exposed, purpose, Circumstances())
        finally:
            self.frames.finish(batch)  # interrupted: what has been taken is kept
