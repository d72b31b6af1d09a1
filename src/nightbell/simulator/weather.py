"""The weather: a script of (time, value) per quantity, plus correlated noise; what is posted on the side channel overrides.

The noise is not decoration: a station that repeats temperature, humidity and pressure bit by bit is frozen, and must be caught.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable

import numpy as np

from nightbell.contracts.errors import BadInput
from nightbell.simulator.settings import WeatherPoint

__all__ = ["QUANTITIES", "WeatherModel"]

STEP_S = 5.0
"""The station measures this often."""
_CORRELATION_S = 300.0

# quantity -> (fair-weather value, sigma of the noise, lowest, highest, decimals)
QUANTITIES: dict[str, tuple[float, float, float, float, int]] = {
    "cloud_cover_percent": (0.0, 0.0, 0.0, 100.0, 1),
    "humidity_percent": (30.0, 1.0, 0.0, 100.0, 1),
    "pressure_hpa": (770.0, 0.2, 300.0, 1100.0, 2),
    "rain_rate_mm_per_h": (0.0, 0.0, 0.0, 500.0, 2),
    "sky_temperature_degc": (-30.0, 0.4, -80.0, 40.0, 2),
    "temperature_degc": (12.0, 0.2, -60.0, 60.0, 2),
    "wind_speed_m_per_s": (3.0, 0.5, 0.0, 80.0, 1),
    "wind_gust_m_per_s": (5.0, 0.6, 0.0, 120.0, 1),
    "wind_direction_deg": (350.0, 5.0, 0.0, 360.0, 0),
    "seeing_arcsec": (1.8, 0.08, 0.5, 20.0, 2),
}


class _Noise:
    """AR(1) on a fixed grid of time; asked for in the order of time."""

    def __init__(self, seed: int, name: str) -> None:
        self._rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        self._index = -1
        self._value = float(self._rng.standard_normal())
        self._keep = math.exp(-STEP_S / _CORRELATION_S)

    def at(self, index: int) -> float:
        for _ in range(min(index - self._index, 100_000)):
            self._value = self._keep * self._value + math.sqrt(1 - self._keep**2) * float(self._rng.standard_normal())
        self._index = max(index, self._index)
        return self._value


class WeatherModel:
    """What the air does at `t_s`, seconds of the world after its start."""

    def __init__(self, script: Iterable[WeatherPoint], seed: int) -> None:
        self._script: dict[str, list[tuple[float, float]]] = {}
        for point in sorted(script, key=lambda point: point.after_s):
            self._script.setdefault(point.quantity, []).append((point.after_s, point.value))
        self._noise = {name: _Noise(seed, name) for name in QUANTITIES}
        self._posted: dict[str, tuple[float, float]] = {}

    def post(self, values: dict[str, float], *, until_s: float) -> None:
        """Override quantities until `until_s`; the noise goes on. Raises `BadInput` for unknown names."""
        for name, value in values.items():
            if name not in QUANTITIES:
                raise BadInput(f"there is no weather quantity {name!r}", where="weather", remedy=f"Use {', '.join(QUANTITIES)}")
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise BadInput(f"{value!r} is no number", where=f"weather.{name}", remedy="Give a number")
        self._posted |= {name: (float(value), until_s) for name, value in values.items()}

    def _plain(self, name: str, t_s: float) -> float:
        posted = self._posted.get(name)
        if posted and t_s < posted[1]:
            return posted[0]
        points = self._script.get(name)
        if not points:
            return QUANTITIES[name][0]
        return float(np.interp(t_s, [at for at, _ in points], [value for _, value in points]))

    def rain_rate_mm_per_h(self, t_s: float) -> float:
        """Rain now, without the station's steps: what falls on the mirror."""
        return max(0.0, self._plain("rain_rate_mm_per_h", t_s))

    def measured_at_s(self, t_s: float) -> float:
        """When the station measured last."""
        return math.floor(t_s / STEP_S) * STEP_S

    def now(self, t_s: float) -> dict[str, float]:
        """All quantities as the station measured them last; dew point by Magnus, gust never below the wind."""
        at_s = self.measured_at_s(t_s)
        values: dict[str, float] = {}
        for name, (_, sigma, low, high, digits) in QUANTITIES.items():
            value = self._plain(name, max(0.0, at_s)) + sigma * self._noise[name].at(int(at_s // STEP_S))
            value = value % 360.0 if name == "wind_direction_deg" else min(high, max(low, value))
            values[name] = round(value, digits)
        values["wind_gust_m_per_s"] = max(values["wind_gust_m_per_s"], values["wind_speed_m_per_s"])
        moist = math.log(max(values["humidity_percent"], 0.1) / 100) + 17.62 * values["temperature_degc"] / (
            243.12 + values["temperature_degc"]
        )
        values["dew_point_degc"] = round(243.12 * moist / (17.62 - moist), 2)
        return values
