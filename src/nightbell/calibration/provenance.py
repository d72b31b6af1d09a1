"""What a product's header tells: how it was made, of what, and with which numbers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from nightbell import __version__
from nightbell.calibration.engine import Calibrated, Recipe
from nightbell.calibration.intake import Exposure
from nightbell.calibration.masters import Built
from nightbell.calibration.matching import Choice
from nightbell.calibration.products import ALGORITHM

__all__ = ["Cards", "light_cards", "light_history", "master_cards"]

Cards = list[tuple[str, Any, str]]


def master_cards(
    kind: str, built: Built, first: Exposure, name: str, used: Sequence[tuple[str, str]], *, exposure_s: float | None, holds_bias: bool
) -> Cards:
    """Cards of a master: what it is, and the ids of the masters that were taken off its frames."""
    of_role: Counter[str] = Counter()
    inputs: Cards = []
    for role, one in used:
        inputs.append((f"NB{role.upper()}{of_role[role] or ''}", one, f"id of the {role} master"))
        of_role[role] += 1
    return [
        ("IMAGETYP", f"MASTER {kind.upper()}", "type of frame"),
        ("INSTRUME", first.setup.camera, "camera"),
        ("NIGHT", first.night, "night of its frames"),
        ("NCOMBINE", len(built.used), "number of frames"),
        ("EXPTIME", exposure_s or 0.0, "[s] exposure of each"),
        *([("FILTER", first.filter, "filter")] if kind == "flat" and first.filter else []),
        *([("RDNADU", built.read_noise_adu, "[adu] read noise from frame pairs")] if built.read_noise_adu is not None else []),
        ("LEVELADU", built.level_adu, "[adu] median above what was subtracted"),
        ("HOLDBIAS", holds_bias, "T: the bias is still in it"),
        ("QUALITY", ",".join(built.flags) or "good", "good, or the gates it failed"),
        ("NBPRODID", name, "product id"),
        ("NBALGO", ALGORITHM, "version of the algorithm"),
        *inputs,
    ]


def light_cards(
    light: Exposure, recipe: Recipe, result: Calibrated, origin: str, name: str, ids: Mapping[str, str | None], status: str
) -> Cards:
    """Cards of a calibrated light; they stand above those of its raw header."""
    return [
        ("IMAGETYP", "LIGHT", "type of frame"),
        *([("MJD-OBS", round(light.start_ns / 86400e9 + 40587, 9), "[d] start of exposure, UTC")] if light.start_ns is not None else []),
        ("EXPTIME", light.exposure_s or 0.0, "[s] exposure"),
        *([("FILTER", light.filter, "filter")] if light.filter else []),
        *([("OBJECT", light.object_name, "target")] if light.object_name else []),
        ("EGAIN", 1.0, "[e/electron] the pixels are electrons"),
        ("RAWGAIN", recipe.gain_e_per_adu, "[e/adu] gain applied"),
        ("RDNOISE", round(recipe.read_noise_e, 4), f"[e] read noise, from the {origin}"),
        ("SATURATE", light.saturation_adu * recipe.gain_e_per_adu if math.isfinite(light.saturation_adu) else 0.0, "[e] raw saturation"),
        ("SIGCOM", round(result.sigma_common_e, 4), "[e] median part of UNCERT common to frames"),
        ("CALLEVEL", 2, "1 raw, 2 calibrated"),
        ("CALSTAT", status, "done, and without what"),
        ("NBRAWID", light.raw_id, "sha256 of the raw file"),
        ("NBPRODID", name, "product id"),
        *((f"NB{kind.upper()}", one or "none", f"id of the {kind} master") for kind, one in ids.items()),
        ("NBDSCAL", recipe.dark_scale if ids["dark"] else 0.0, "factor of the dark"),
        ("NBALGO", ALGORITHM, "version of the algorithm"),
        ("NBVERS", __version__, "nightbell version"),
    ]


def light_history(light: Exposure, ids: Mapping[str, str | None], choices: Mapping[str, Choice]) -> list[str]:
    """One line per step, in the order in which they were done."""
    lines = ["saturation bits from raw counts"]
    if light.overscan is not None:
        lines.append(f"overscan {light.overscan}: median per row subtracted")
    if light.data.shape != light.setup.shape:
        lines.append(f"trimmed to {light.data}")
    if ids["bias"]:
        lines.append("bias subtracted")
    lines.append("uncertainty from electrons above the bias and read noise")
    dark = choices["dark"]
    if dark.master is not None:
        held = " (it holds the bias)" if dark.master.holds_bias else ""
        lines.append(f"dark of {dark.master.exposure_s:g} s x {dark.scale:.6g} subtracted{held}")
    if ids["flat"]:
        lines.append("divided by flat")
    lines.append("multiplied by the gain: electrons")
    return lines
