"""Twilight flats: which filter now, where to point, and frame by frame what the controller (flats.py) says."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from nightbell.contracts.states import FrameType
from nightbell.devices.protocols import ShutterState
from nightbell.telescope.activities.closing import Closing
from nightbell.telescope.activities.darks import DarkFrames
from nightbell.telescope.activities.frames import Frames
from nightbell.telescope.activities.ground import Ground
from nightbell.telescope.activities.office import Batch
from nightbell.telescope.dispatcher import Ending, NightRecord
from nightbell.telescope.exposure import Circumstances, Exposed, Purpose, read_focuser, read_weather
from nightbell.telescope.flats import (
    Finished,
    FlatLimits,
    Measured,
    SkyEstimate,
    Wait,
    learn,
    order_of_filters,
    plan_exposure,
    twilight_log_rate,
)
from nightbell.telescope.night_table import DomeReading, Trigger
from nightbell.telescope.pointing import Pointed

__all__ = ["Twilight"]

FLAT_ALTITUDE_DEG = 75.0
"""Where the twilight sky's gradient vanishes, opposite the Sun (Chromey and Hasselbacher 1996)."""
FLAT_DITHER_DEG = 40 / 3600


class Twilight:
    """The open dome while the sky is too bright for anything else."""

    def __init__(self, ground: Ground, frames: Frames, darks: DarkFrames, closing: Closing) -> None:
        self.ground = ground
        self.frames = frames
        self.darks = darks
        self.closing = closing
        self.throughput: dict[str, float] = {}
        """Filter -> sky rate over the model's, as measured: the order of the filters on later nights."""

    def _flat_filters(self) -> tuple[str, ...]:
        wanted = self.ground.settings.calibration.flat_filters or self.ground.settings.lights.filters
        has = self.ground.instruments.camera.filters
        return tuple(name for name in wanted if not has or name in has)

    async def lacking_flats(self, night: str) -> dict[str, int]:
        counts = await self.frames.counts(night)
        lacking = {
            name: self.ground.settings.calibration.n_flats - counts.of(FrameType.FLAT, filter_name=name) for name in self._flat_filters()
        }
        return {name: n for name, n in lacking.items() if n > 0}

    async def take_flats(self, record: NightRecord) -> Ending:
        altitude_deg, rising = await self.ground.sun()
        lacking = await self.lacking_flats(record.night)
        for name in order_of_filters(tuple(lacking), self.throughput, dusk=not rising):
            if await self.closing.dome_reading() is not DomeReading.OPEN:
                return Ending(Trigger.UNSAFE, "the dome shutter does not read back open")
            await self._flats_in(name, lacking[name], record.night, dusk=not rising)
            altitude_deg, rising = await self.ground.sun()
            if self._flat_window_is_over(altitude_deg, rising=rising):
                break
        still = sorted(await self.lacking_flats(record.night))
        reason = f"flats lacking in {', '.join(still)}; the Sun is at {altitude_deg:.1f} deg" if still else "all flats are taken"
        is_day = rising and altitude_deg > self.ground.settings.night.dark_sun_deg
        return Ending(Trigger.NIGHT_OVER if is_day else Trigger.FLATS_OVER, reason)

    def _flat_window_is_over(self, altitude_deg: float, *, rising: bool) -> bool:
        night = self.ground.settings.night
        return altitude_deg > night.open_sun_deg if rising else altitude_deg < night.dark_sun_deg

    async def _flats_in(self, name: str, n: int, night: str, *, dusk: bool) -> None:
        wanted = self.ground.settings.calibration
        camera = self.ground.instruments.camera
        origin_ns = self.ground.clock.now_ns()
        limits = FlatLimits(
            wanted_adu=wanted.flat_level * 65535,
            exposure_min_s=max(wanted.flat_exposure_min_s, camera.facts.exposure_min_s),
            exposure_max_s=min(wanted.flat_exposure_max_s, camera.facts.exposure_max_s),
            quantum_s=camera.facts.exposure_resolution_s,
            shutter_blade_s=self.ground.settings.instrument.shutter_blade_s,
        )
        zenith = await asyncio.to_thread(self._sun_track, origin_ns)
        sky = SkyEstimate(prior=twilight_log_rate(name, zenith), at_s=0.0)
        batch = Batch(night=night)
        n_kept = 0
        ended_s: float | None = None
        try:
            await camera.set_filter(name)
            await self._point_for_flats(0)
            while n_kept < n:
                altitude_deg, rising = await self.ground.sun()
                if rising == dusk or self._flat_window_is_over(altitude_deg, rising=rising):
                    return
                # Read back each time: after a wait the dome may have to turn, and its shutter may have been closed.
                pointed = await self.ground.instruments.pointing.follow(exposure_s=limits.exposure_max_s)
                if pointed.dome.shutter is not ShutterState.OPEN:
                    return
                now_s = (self.ground.clock.now_ns() - origin_ns) / 1e9
                if ended_s is not None:
                    limits = replace(limits, dead_time_s=max(0.5, now_s - ended_s))
                match plan_exposure(sky, now_s, limits, dusk=dusk):
                    case Finished(reason=reason):
                        self.ground.note = f"flats in {name}: {reason}"
                        return
                    case Wait(seconds=seconds, reason=reason):
                        self.ground.note = f"flats in {name}: {reason}"
                        sky = replace(sky, test_exposure_s=None)
                        ended_s = None
                        await self.ground.pause(seconds)
                    case decision:
                        self.ground.note = f"flat in {name}, {decision.exposure_s:.2f} s{' (test)' if decision.test else ''}"
                        exposed = await self.frames.expose(decision.exposure_s, light=True)
                        sky, measured = await asyncio.to_thread(self._measure, sky, exposed, origin_ns, limits)
                        ended_s = (exposed.started_ns - origin_ns) / 1e9 + exposed.image.exposure_s
                        if measured.sky_rate_adu_per_s and altitude_deg > -12:
                            self.throughput[name] = (
                                measured.sky_rate_adu_per_s / math.exp(sky.prior(ended_s)) if sky.prior(ended_s) else 0.0
                            )
                        if measured.keep and not decision.test:
                            purpose, around = await self._flat(measured, pointed, night, name)
                            if purpose.flaw:
                                self.ground.note = f"flat in {name}: {purpose.flaw}"
                                continue  # a flat with the dome's shadow in it would be believed
                            await self.frames.add(batch, exposed, purpose, around)
                            n_kept += 1
                            await self._point_for_flats(n_kept)
        finally:
            self.frames.finish(batch)

    def _sun_track(self, origin_ns: int) -> Callable[[float], float]:
        """Zenith distance of the Sun at seconds after `origin_ns`; sampled for 3 h, linear between samples of 30 s."""
        samples = [90.0 - self.ground.sky.sun_altitude_deg(origin_ns + i * 30_000_000_000) for i in range(-4, 361)]
        times = [i * 30.0 for i in range(-4, 361)]
        return lambda t_s: float(np.interp(t_s, times, samples))

    def _measure(self, sky: SkyEstimate, exposed: Exposed, origin_ns: int, limits: FlatLimits) -> tuple[SkyEstimate, Measured]:
        pixels = exposed.image.pixels
        rows, columns = pixels.shape
        centre = pixels[rows // 4 : rows - rows // 4, columns // 4 : columns - columns // 4]
        saturated = float(np.count_nonzero(centre >= self.ground.settings.instrument.saturation_adu)) / centre.size
        return learn(
            sky,
            started_s=(exposed.started_ns - origin_ns) / 1e9,
            exposure_s=exposed.image.exposure_s,
            counts_adu=float(np.median(centre)) - self.darks.bias_level_adu,
            saturated_fraction=saturated,
            limits=limits,
        )

    async def _point_for_flats(self, number: int) -> Pointed:
        """Opposite the Sun, near the zenith; a little elsewhere for each frame, so that stars fall on other pixels."""

        def where() -> tuple[float, float]:
            now_ns = self.ground.clock.now_ns()
            azimuth_deg = self.ground.sky.sun_azimuth_deg(now_ns) + 180.0
            for turn_deg in (0.0, 60.0, -60.0, 120.0):
                ra_deg, dec_deg = self.ground.sky.from_horizontal(FLAT_ALTITUDE_DEG, (azimuth_deg + turn_deg) % 360, now_ns)
                if self.ground.sky.moon(ra_deg, dec_deg, now_ns).separation_deg > 30:
                    break
            return ra_deg, dec_deg

        pointing = self.ground.instruments.pointing
        if number == 0 or pointing.wanted is None:
            ra_deg, dec_deg = await asyncio.to_thread(where)
        else:
            ra_deg, dec_deg = pointing.wanted
            ra_deg = (ra_deg + FLAT_DITHER_DEG / math.cos(math.radians(min(abs(dec_deg), 85.0)))) % 360
        return await pointing.slew(ra_deg, dec_deg, exposure_s=self.ground.settings.calibration.flat_exposure_max_s)

    async def _flat(self, measured: Measured, pointed: Pointed, night: str, name: str) -> tuple[Purpose, Circumstances]:
        instruments = self.ground.instruments
        end, weather, focuser = await asyncio.gather(
            instruments.pointing.read_back(exposure_s=0.0), read_weather(instruments.weather), read_focuser(instruments.focuser)
        )
        purpose = await self.frames.purpose(
            FrameType.FLAT,
            night,
            plan_id=f"flat-{name}",
            flat_deviation=round(measured.deviation, 5),
            sky_rate_adu_per_s=measured.sky_rate_adu_per_s,
            flaw="" if end.coverage.covered else "the slit did not cover the beam",
        )
        return purpose, Circumstances(at_start=pointed, at_end=end, weather=weather, focuser=focuser)
