"""Which masters belong to a frame, and when none does, why not: every rule that failed is named.

All rules must hold: same setup (camera, shape, binning, window, read-out), filter (flat), temperature (dark), age. Among those
that hold: same night first, then nearest in time, then more frames.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nightbell.calibration.intake import Exposure, Setup

__all__ = ["Choice", "Master", "choose_bias", "choose_dark", "choose_flat", "same_exposure"]

_DAY_NS = 86_400_000_000_000


@dataclass(frozen=True)
class Master:
    """A master calibration frame as matching sees it. Levels in ADU above what was subtracted from it."""

    product_id: str
    kind: str
    path: str
    sha256: str
    setup: Setup
    filter: str | None
    exposure_s: float | None
    temperature_c: float | None
    set_temperature_c: float | None
    mid_ns: int | None
    night: str
    n_frames: int
    status: str
    holds_bias: bool
    """A dark made without any bias frame: it takes the bias away too and must not be scaled."""
    level_adu: float
    read_noise_adu: float | None
    inputs: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Choice:
    """The master taken, or why none could be; `scale` multiplies a dark."""

    master: Master | None
    missing: str = ""
    scale: float = 1.0


def same_exposure(a_s: float, b_s: float) -> bool:
    """Within 0.05 s or 0.5 %: no scaling needed."""
    return abs(a_s - b_s) <= max(0.05, 0.005 * max(a_s, b_s))


def choose_bias(frame: Exposure, masters: Iterable[Master]) -> Choice:
    """The bias for `frame`."""
    return _choose("bias", frame, [m for m in masters if m.kind == "bias"], frame.camera.settings.bias_max_age_d)


def choose_flat(frame: Exposure, masters: Iterable[Master]) -> Choice:
    """The flat for `frame`: its filter, always."""
    wanted = f"flat {frame.filter or 'without filter'}"
    flats = [m for m in masters if m.kind == "flat"]
    of_filter = [m for m in flats if m.filter == frame.filter]
    if flats and not of_filter:
        have = ", ".join(sorted({m.filter or "without filter" for m in flats}))
        return Choice(None, f"{wanted} (there are flats of: {have})")
    return _choose(wanted, frame, of_filter, frame.camera.settings.flat_max_age_d)


def choose_dark(frame: Exposure, masters: Iterable[Master], *, has_bias: bool) -> Choice:
    """The dark for `frame`: of the same exposure, else one to be scaled where the camera and the dark allow it."""
    rules = frame.camera.settings
    # Another camera's darks say nothing about this one; with a bias at hand a dark that still holds one would take it away twice.
    of_camera = [m for m in masters if m.kind == "dark" and m.exposure_s and m.setup.camera == frame.setup.camera]
    if frame.exposure_s is None:
        return Choice(None, "dark (which one is not known: the header has no exposure time)" if of_camera else "dark")
    exposure_s = frame.exposure_s
    wanted = f"dark {exposure_s:g} s" + (f" at {frame.temperature_c:.0f} C" if frame.temperature_c is not None else "")
    darks = [m for m in of_camera if not m.holds_bias or not has_bias]
    cold = [m for m in darks if _temperature_fits(frame, m)]
    if darks and not cold:
        have = ", ".join(sorted({f"{m.temperature_c:.1f} C" for m in darks if m.temperature_c is not None}))
        return Choice(None, f"{wanted} (there are darks at {have})")
    # Darks of another window or of last year say nothing about which exposures there are.
    fitting = [m for m in cold if not _faults(frame, m, rules.bias_max_age_d)]
    exact = [m for m in fitting if same_exposure(exposure_s, m.exposure_s or 0)]
    if exact or not fitting:
        return _choose(wanted, frame, exact or cold, rules.bias_max_age_d)
    have = ", ".join(f"{t:g} s" for t in sorted({m.exposure_s or 0.0 for m in fitting}))
    if not rules.scale_darks:
        return Choice(None, f"{wanted} (there are darks of {have}, and this camera's are not scaled)")
    if not has_bias:
        why = "they hold the bias" if any(m.holds_bias for m in fitting) else "there is no bias"
        return Choice(None, f"{wanted} (there are darks of {have}; not scaled: {why})")
    scalable = [m for m in fitting if exposure_s <= rules.max_dark_scale * (m.exposure_s or 0)]
    if not scalable:
        return Choice(None, f"{wanted} (there are darks of {have}; not scaled: that is more than {rules.max_dark_scale:g} times longer)")
    # The longest dark measures the current best.
    longest = max(m.exposure_s or 0.0 for m in scalable)
    choice = _choose(wanted, frame, [m for m in scalable if m.exposure_s == longest], rules.bias_max_age_d)
    return Choice(choice.master, choice.missing, exposure_s / longest)


def _temperature_fits(frame: Exposure, master: Master) -> bool:
    limit = frame.camera.settings.dark_max_temperature_k
    for mine, theirs, most in (
        (frame.set_temperature_c, master.set_temperature_c, min(1.0, limit)),
        (frame.temperature_c, master.temperature_c, limit),
    ):
        if mine is not None and theirs is not None and abs(mine - theirs) > most:
            return False
    return True


def _choose(wanted: str, frame: Exposure, masters: Sequence[Master], max_age_d: float) -> Choice:
    if not masters:
        return Choice(None, wanted)
    faults = [(_faults(frame, master, max_age_d), master) for master in masters]
    fitting = [master for words, master in faults if not words]
    if not fitting:
        nearest = min((words for words, _ in faults), key=lambda words: (len(words), words))
        return Choice(None, f"{wanted} (nearest: {'; '.join(nearest)})")
    return Choice(min(fitting, key=lambda m: (m.night != frame.night, _age_d(frame, m) or 0.0, -m.n_frames, m.product_id)))


def _faults(frame: Exposure, master: Master, max_age_d: float) -> tuple[str, ...]:
    """Why `master` was not made for a frame like this, in words; empty when it was."""
    words = frame.setup.differences(master.setup)
    age_d = _age_d(frame, master)
    return (*words, f"{age_d:.0f} days away, more than {max_age_d:g}") if age_d is not None and age_d > max_age_d else words


def _age_d(frame: Exposure, master: Master) -> float | None:
    if frame.start_ns is None or master.mid_ns is None:
        return None
    return abs(frame.start_ns - master.mid_ns) / _DAY_NS
