"""What every benchmark shares: its options, and how claims are shown.

A claim is the ratio of two medians that were measured in turns; beside it stands the spread, so that one sees what the ratio is worth.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Claim:
    """`value` is ours and `peer` theirs, in `unit`, where less is better; `ratio` is theirs by ours."""

    name: str
    value: float
    unit: str
    peer: float
    ratio: float
    goal: float
    ok: bool
    spread: float
    peer_spread: float


def claim(name: str, ours: Sequence[float], theirs: Sequence[float], *, unit: str, goal: float) -> Claim:
    """Medians of the rounds; the spread is half the distance between the quartiles, as a share of the median."""
    value, peer = statistics.median(ours), statistics.median(theirs)
    ratio = peer / value
    return Claim(name, value, unit, peer, ratio, goal, ratio >= goal, _spread(ours), _spread(theirs))


def _spread(values: Sequence[float]) -> float:
    low, middle, high = statistics.quantiles(values, n=4)
    return (high - low) / 2 / middle


def main(about: str, measure: Callable[[bool], list[Claim]]) -> int:
    """Read the options, measure, print; the process's exit status."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds: some seconds in all")
    parser.add_argument("--json", action="store_true", help="print exactly one JSON object")
    options = parser.parse_args()
    claims = measure(options.quick)
    if options.json:
        machine = {"system": platform.platform(), "python": platform.python_version(), "processors": os.cpu_count()}
        print(json.dumps({"claims": [asdict(one) for one in claims], "machine": machine}))
    else:
        print(f"{'claim':42} {'ours':>16} {'peer':>16} {'unit':12} {'ratio':>6} {'goal':>5}")
        for one in claims:
            ours, theirs = (
                f"{middle:.3g} ± {100 * spread:.0f} %" for middle, spread in ((one.value, one.spread), (one.peer, one.peer_spread))
            )
            print(f"{one.name:42} {ours:>16} {theirs:>16} {one.unit:12} {one.ratio:6.2f} {one.goal:5.2f}  {'ok' if one.ok else 'MISSED'}")
    return 0 if all(one.ok for one in claims) else 1
