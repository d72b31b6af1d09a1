"""The simulated camera: cooler, exposure, read-out. It collects what it sees on a grid of instants and has the frame rendered after."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nightbell.simulator.optics import Glimpse, Seen, Window
from nightbell.simulator.settings import CameraSettings

__all__ = ["CameraSim", "Instant"]

_INSTANTS = 7


@dataclass(frozen=True)
class Instant:
    """What the camera sees at one instant, the camera's own shutter open."""

    glimpse: Glimpse
    light_share: float
    sky_e_per_s_px: float
    lamp_e_per_s_px: float
    airmass: float
    cloud_mag: float
    seeing_arcsec: float
    vignetted: float
    sun_altitude_deg: float


class CameraSim:
    """State by time. `look(t)` tells what is seen; `render(seen, done)` makes the picture elsewhere and calls `done` with it."""

    def __init__(
        self,
        settings: CameraSettings,
        look: Callable[[float], Instant],
        render: Callable[[Seen, Callable[[NDArray[np.uint16]], None]], None],
        finished: Callable[[Seen, list[Instant], float, bool], None],
    ) -> None:
        self.settings = settings
        self._look, self._render, self._finished = look, render, finished
        self.window = Window(num_x=settings.width_px, num_y=settings.height_px)
        self.gain, self.offset, self.readout_mode = 0, 0, 0
        self.cooler_on = False
        self.set_ccd_temperature_degc = -10.0
        self._cooler = (0.0, 10.0)
        """(since, temperature then)."""
        self.air_degc = 10.0
        self.band: Callable[[], str] = lambda: settings.filters[0]
        self.sources: Callable[[str, float], Seen] = lambda band, _t_s: Seen(counter=0, exposure_s=0, band=band)
        self.failed = False
        self._counter = 0
        self._start_s: float | None = None
        self._exposure_s = 0.0
        self._light = False
        self._instants: list[Instant] = []
        self._reading_until_s: float | None = None
        self._asked = 0
        """Number of the frame that is wanted; a picture with another number comes too late and is dropped."""
        self.image: NDArray[np.uint16] | None = None
        self._coming: NDArray[np.uint16] | None = None
        self.last_start_s: float | None = None
        self.last_exposure_s: float | None = None

    # --- temperature
    def temperature_degc(self, t_s: float) -> float:
        since, then = self._cooler
        goal = max(self.set_ccd_temperature_degc, self.air_degc - self.settings.cooler_reach_k) if self.cooler_on else self.air_degc
        return goal + (then - goal) * math.exp(-max(0.0, t_s - since) / 60.0)

    def set_cooler(self, t_s: float, *, on: bool | None = None, target_degc: float | None = None) -> None:
        self._cooler = (t_s, self.temperature_degc(t_s))
        self.cooler_on = self.cooler_on if on is None else on
        self.set_ccd_temperature_degc = self.set_ccd_temperature_degc if target_degc is None else target_degc

    def cooler_power_percent(self, t_s: float) -> float:
        if not self.cooler_on:
            return 0.0
        return round(max(0.0, min(100.0, 100.0 * (self.air_degc - self.temperature_degc(t_s)) / self.settings.cooler_reach_k)), 1)

    # --- exposing
    def state(self, t_s: float) -> int:
        """ASCOM CameraState."""
        if self.failed:
            return 5
        if self._start_s is not None:
            return 2 if t_s < self._start_s + self._exposure_s else 3
        return 3 if self._reading_until_s is not None else 0

    def percent_completed(self, t_s: float) -> int:
        if self._start_s is None or self._exposure_s <= 0:
            return 100 if self.image is not None else 0
        return int(max(0.0, min(100.0, 100.0 * (t_s - self._start_s) / self._exposure_s)))

    def start(self, t_s: float, exposure_s: float, *, light: bool) -> None:
        self._counter += 1
        self._asked = self._counter
        self.image = self._coming = None
        self._start_s, self._exposure_s, self._light = t_s, exposure_s, light
        self._instants, self._reading_until_s = [], None

    def abort(self) -> None:
        self._start_s = self._reading_until_s = None
        self._asked = 0

    def stop(self, t_s: float) -> None:
        """End now and keep what came."""
        if self._start_s is not None:
            self._exposure_s = min(self._exposure_s, max(0.0, t_s - self._start_s))

    def reset(self) -> None:
        """What a restarted driver knows: nothing."""
        self.abort()
        self.failed = False
        self.image = None
        self.cooler_on = False

    def advance(self, t_s: float) -> None:
        """Look at the instants that have come; end the exposure and the read-out."""
        if self._start_s is not None:
            if self._light:
                n = _INSTANTS if self._exposure_s > 0 else 1
                while len(self._instants) < n and (at := self._start_s + self._exposure_s * len(self._instants) / max(1, n - 1)) <= min(
                    t_s, self._start_s + self._exposure_s + 1e-9
                ):
                    self._instants.append(self._look(at))
            if t_s >= self._start_s + self._exposure_s:
                self._end()
        if self._reading_until_s is not None and t_s >= self._reading_until_s and self._coming is not None:
            self.image, self._coming, self._reading_until_s = self._coming, None, None

    def _end(self) -> None:
        assert self._start_s is not None
        start_s, exposure_s = self._start_s, self._exposure_s
        self.last_start_s, self.last_exposure_s = start_s, exposure_s
        self._start_s = None
        self._reading_until_s = start_s + exposure_s + self.settings.readout_s
        seen = self._seen(start_s, exposure_s)
        number = self._asked

        def done(pixels: NDArray[np.uint16]) -> None:
            if number == self._asked:
                self._coming = pixels

        self._finished(seen, self._instants, start_s, self._light)
        self._render(seen, done)

    def _seen(self, start_s: float, exposure_s: float) -> Seen:
        band = self.band()
        temperature = self.temperature_degc(start_s + exposure_s)
        if not self._instants:
            return Seen(counter=self._counter, exposure_s=exposure_s, band=band, ccd_temperature_degc=temperature, window=self.window)
        instants = self._instants
        n = len(instants)
        share = sum(one.light_share for one in instants) / n
        sky = self.sources(band, start_s + exposure_s / 2)
        return Seen(
            counter=self._counter,
            exposure_s=exposure_s,
            band=band,
            glimpses=tuple(one.glimpse for one in instants) if share > 0 else (),
            light_share=share,
            cloud_mag=sum(one.cloud_mag for one in instants) / n,
            airmass=sum(one.airmass for one in instants) / n,
            seeing_arcsec=sum(one.seeing_arcsec for one in instants) / n,
            sky_e_per_px=_simpson([one.sky_e_per_s_px for one in instants]) * exposure_s,
            lamp_e_per_px=_simpson([one.lamp_e_per_s_px for one in instants]) * exposure_s,
            ccd_temperature_degc=temperature,
            sources=sky.sources,
            galaxies=sky.galaxies,
            window=self.window,
        )


def _simpson(values: list[float]) -> float:
    """Mean of a smooth course over its grid."""
    if len(values) < 3 or len(values) % 2 == 0:
        return sum(values) / len(values)
    return (values[0] + values[-1] + 4 * sum(values[1:-1:2]) + 2 * sum(values[2:-1:2])) / (3 * (len(values) - 1))
