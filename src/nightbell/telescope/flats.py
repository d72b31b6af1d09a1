"""Twilight flats: how long to expose on a sky that fades or brightens by a factor of two every few minutes.

Pure: instants and counts in, decisions out. Per filter a Kalman filter follows y = ln S, with S the sky's rate in
ADU/s/px above bias, and c, by how much its slope differs from the prior. The prior's slope comes from the twilight
brightness of Patat et al. 2006, A&A 455, 385 (levels of published models differ by 1 mag, slopes do not: the level is
measured). Times are seconds on any one axis.

    plan_exposure(sky, ...) -> Expose | Wait | Finished        learn(sky, ...) -> (sky, Measured)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

__all__ = [
    "Decision",
    "Expose",
    "Finished",
    "FlatLimits",
    "Measured",
    "SkyEstimate",
    "Wait",
    "learn",
    "order_of_filters",
    "plan_exposure",
    "shortest_exposure_s",
    "sky_brightness_mag",
    "twilight_log_rate",
]

_PATAT_2006 = {
    "U": (11.78, 1.376, -0.039, 22.3),
    "B": (11.84, 1.411, -0.041, 22.6),
    "V": (11.84, 1.518, -0.057, 21.6),
    "R": (11.40, 1.567, -0.064, 20.9),
    "I": (10.93, 1.470, -0.062, 19.7),
}
"""mag/arcsec2 at the zenith: a0 + a1 x + a2 x^2 with x = Sun's zenith distance - 95 deg; last: dark sky (Patat 2003)."""
_NEAREST_BAND = {"u": "U", "g": "B", "r": "R", "i": "I", "z": "I", "y": "I", "l": "V", "clear": "V"}

RESIDUAL_SLOPE = 0.15
"""Start value of the slope correction's sigma, in units of the prior slope."""
SKY_VARIANCE_PER_S = 1e-4 / 60
"""The sky wanders by 1 % in a minute."""
SLOPE_VARIANCE_PER_S = (2e-6) ** 2
MEASUREMENT_SIGMA = 0.003
LARGEST_INNOVATION = 0.25
"""ln: beyond it, a cloud or a lamp; the level is measured afresh."""
UNKNOWN_VARIANCE = 100.0
DUSK_WAIT_S = 15.0
DAWN_WAIT_S = 20.0
SATURATED_FRACTION = 0.001


def sky_brightness_mag(band: str, sun_zenith_deg: float) -> float:
    """Zenith brightness in mag/arcsec2 of twilight plus dark sky, in the Johnson band nearest to `band`."""
    name = _NEAREST_BAND.get(band.lower(), band[:1].upper())
    a0, a1, a2, dark_mag = _PATAT_2006.get(name, _PATAT_2006["V"])
    # Below x = -4 the parabola was not measured and bends the wrong way: go on with its tangent there.
    x = sun_zenith_deg - 95.0
    edge = max(x, -4.0)
    twilight_mag = a0 + a1 * edge + a2 * edge * edge + (x - edge) * (a1 + 2 * a2 * edge)
    # The parabola turns over near x = 12, where twilight has gone: let it fade on by 1 mag per degree.
    vertex = -a1 / (2 * a2)
    if x > vertex:
        twilight_mag = a0 + a1 * vertex + a2 * vertex * vertex + (x - vertex)
    return -2.5 * math.log10(10 ** (-0.4 * twilight_mag) + 10 ** (-0.4 * dark_mag))


def twilight_log_rate(band: str, sun_zenith_deg: Callable[[float], float]) -> Callable[[float], float]:
    """Logarithm of the sky's expected rate as a function of time, up to a constant, for a Sun at `sun_zenith_deg(t_s)`."""
    return lambda t_s: -0.4 * math.log(10) * sky_brightness_mag(band, sun_zenith_deg(t_s))


def order_of_filters(bands: Sequence[str], throughput: dict[str, float], *, dusk: bool) -> tuple[str, ...]:
    """Filters in the order to take them: at dusk the least rate first (it needs the brightest sky), at dawn reversed."""

    def rate(band: str) -> float:
        return throughput.get(band) or 10 ** (-0.4 * sky_brightness_mag(band, 96.0))

    return tuple(sorted(bands, key=rate, reverse=not dusk))


@dataclass(frozen=True, kw_only=True)
class FlatLimits:
    """What one camera can do, and what is wanted of it."""

    wanted_adu: float
    """Median above bias."""
    exposure_min_s: float = 0.0
    exposure_max_s: float = 60.0
    quantum_s: float = 0.001
    """The camera's exposures are multiples of it."""
    shutter_blade_s: float = 0.0
    """Time the camera shutter's blades take; 0 without one."""
    dead_time_s: float = 10.0
    """From the end of one exposure to the start of the next."""
    keep_low: float = 0.7
    keep_high: float = 1.3


def shortest_exposure_s(limits: FlatLimits) -> float:
    """T_min: rounding to the quantum stays below 10 %, blade shading below 1 %."""
    return max(limits.exposure_min_s, 5 * limits.quantum_s, 100 * limits.shutter_blade_s)


@dataclass(frozen=True, kw_only=True)
class SkyEstimate:
    """What is known of one filter's sky: y = ln S and the slope correction c, with their covariance, at `at_s`."""

    prior: Callable[[float], float]
    """ln S up to a constant (`twilight_log_rate`)."""
    at_s: float
    y: float = 0.0
    c_per_s: float = 0.0
    var_y: float = UNKNOWN_VARIANCE
    cov_yc: float = 0.0
    var_c: float | None = None
    """None until the first use: then (0.15 b0)^2."""
    measured_at_s: float | None = None
    """End of the last exposure measured."""
    test_exposure_s: float | None = None
    """Exposure of the next test frame, when a saturated one asked for half of it."""

    @property
    def is_known(self) -> bool:
        return self.measured_at_s is not None

    def slope_per_s(self, t_s: float) -> float:
        """Slope d ln S / dt at `t_s`: prior by central difference over 2 s, plus the correction."""
        return (self.prior(t_s + 1) - self.prior(t_s - 1)) / 2 + self.c_per_s

    def at(self, t_s: float) -> SkyEstimate:
        """The estimate carried to another instant."""
        dt = t_s - self.at_s
        var_c = self.var_c if self.var_c is not None else (RESIDUAL_SLOPE * self.slope_per_s(t_s)) ** 2
        return replace(
            self,
            at_s=t_s,
            y=self.y + self.prior(t_s) - self.prior(self.at_s) + self.c_per_s * dt,
            var_y=self.var_y + 2 * dt * self.cov_yc + dt * dt * var_c + SKY_VARIANCE_PER_S * abs(dt),
            cov_yc=self.cov_yc + dt * var_c,
            var_c=var_c + SLOPE_VARIANCE_PER_S * abs(dt),
        )


@dataclass(frozen=True)
class Expose:
    """Take a frame now. A test frame is measured, not stored."""

    exposure_s: float
    test: bool


@dataclass(frozen=True)
class Wait:
    """Too bright or too dark yet."""

    seconds: float
    reason: str


@dataclass(frozen=True)
class Finished:
    """No more of this filter in this twilight."""

    reason: str


Decision = Expose | Wait | Finished


def _exposure_for(sky: SkyEstimate, now_s: float, counts_adu: float) -> float | None:
    """Exposure from `now_s` that gives `counts_adu`; None when the sky fades faster than it fills the pixels."""
    rate = math.exp(min(sky.y, 50.0))
    exposure_s = counts_adu / rate
    for _ in range(3):  # the slope is taken at mid-exposure, which depends on the exposure
        b = sky.slope_per_s(now_s + min(exposure_s, 600.0) / 2)
        if abs(b * counts_adu / rate) < 1e-6:
            return counts_adu / rate
        if 1 + b * counts_adu / rate <= 0:
            return None
        exposure_s = math.log(1 + b * counts_adu / rate) / b
    return exposure_s


def plan_exposure(sky: SkyEstimate, now_s: float, limits: FlatLimits, *, dusk: bool) -> Decision:
    """What to do at `now_s`."""
    shortest_s = shortest_exposure_s(limits)
    if not sky.is_known:
        return _plan_test(sky, limits, dusk=dusk)
    now = sky.at(now_s)
    wanted_s = _exposure_for(now, now_s, limits.wanted_adu)
    if wanted_s is None:
        return Finished("the sky fades faster than it fills the pixels")
    exposure_s = round(wanted_s / limits.quantum_s) * limits.quantum_s if limits.quantum_s > 0 else wanted_s
    if exposure_s < shortest_s:
        if not dusk:
            return Finished(f"too bright: {wanted_s:.2f} s is below {shortest_s:.2f} s")
        return Wait(DUSK_WAIT_S, f"too bright: {wanted_s:.2f} s is below {shortest_s:.2f} s")
    if exposure_s > limits.exposure_max_s:
        if dusk:
            return Finished(f"too dark: {wanted_s:.0f} s is above {limits.exposure_max_s:.0f} s")
        return Wait(DAWN_WAIT_S, f"too dark: {wanted_s:.0f} s is above {limits.exposure_max_s:.0f} s")
    assert sky.measured_at_s is not None
    if now_s - sky.measured_at_s > max(60.0, 1.5 * limits.dead_time_s):
        # Nearly every miss of the benchmark was the first frame after a wait.
        return Expose(exposure_s, test=True)
    return Expose(exposure_s, test=False)


def _plan_test(sky: SkyEstimate, limits: FlatLimits, *, dusk: bool) -> Decision:
    shortest_s = shortest_exposure_s(limits)
    exposure_s = sky.test_exposure_s if sky.test_exposure_s is not None else shortest_s
    if exposure_s < shortest_s:
        return Wait(DUSK_WAIT_S, "the test frame saturates") if dusk else Finished("too bright: the test frame saturates")
    return Expose(exposure_s, test=True)


@dataclass(frozen=True)
class Measured:
    """What one flat was worth."""

    keep: bool
    deviation: float
    """Counts over wanted counts, minus 1."""
    sky_rate_adu_per_s: float | None
    """Per pixel above bias at mid-exposure; None when saturated."""
    reason: str = ""


def learn(
    sky: SkyEstimate, *, started_s: float, exposure_s: float, counts_adu: float, saturated_fraction: float, limits: FlatLimits
) -> tuple[SkyEstimate, Measured]:
    """The estimate after a frame of `counts_adu` (median of the central half above bias), and whether to keep the frame."""
    deviation = counts_adu / limits.wanted_adu - 1
    ended_s = started_s + exposure_s
    if saturated_fraction > SATURATED_FRACTION:
        retry = replace(sky, measured_at_s=None, var_y=UNKNOWN_VARIANCE, test_exposure_s=exposure_s / 2)
        return retry, Measured(keep=False, deviation=deviation, sky_rate_adu_per_s=None, reason="saturated")
    if counts_adu < 1:
        retry = replace(sky, measured_at_s=None, var_y=UNKNOWN_VARIANCE, test_exposure_s=min(2 * exposure_s, limits.exposure_max_s))
        return retry, Measured(keep=False, deviation=deviation, sky_rate_adu_per_s=None, reason="no light")
    mid_s = started_s + exposure_s / 2
    there = sky.at(mid_s)
    half = there.slope_per_s(mid_s) * exposure_s / 2
    # C = S_mid T sinh(bT/2) / (bT/2)
    y = math.log(counts_adu / exposure_s) - (math.log(math.sinh(half) / half) if abs(half) > 1e-6 else 0.0)
    innovation = y - there.y
    variance = MEASUREMENT_SIGMA**2 + (0.5 / counts_adu) ** 2
    keep = limits.keep_low <= 1 + deviation <= limits.keep_high
    rate = math.exp(y)
    if sky.is_known and abs(innovation) > LARGEST_INNOVATION:
        # A cloud or a lamp: keep the slope, forget the level, and look again before trusting it.
        again = replace(there, measured_at_s=None, var_y=UNKNOWN_VARIANCE, cov_yc=0.0, y=y, test_exposure_s=exposure_s)
        return again, Measured(keep=keep, deviation=deviation, sky_rate_adu_per_s=rate, reason="the sky jumped")
    assert there.var_c is not None
    gain_y = there.var_y / (there.var_y + variance)
    gain_c = there.cov_yc / (there.var_y + variance)
    updated = replace(
        there,
        y=there.y + gain_y * innovation,
        c_per_s=there.c_per_s + gain_c * innovation,
        var_y=(1 - gain_y) * there.var_y,
        cov_yc=(1 - gain_y) * there.cov_yc,
        var_c=there.var_c - gain_c * there.cov_yc,
        measured_at_s=ended_s,
        test_exposure_s=None,
    )
    return updated, Measured(
        keep=keep, deviation=deviation, sky_rate_adu_per_s=rate, reason="" if keep else "too far from the wanted level"
    )
