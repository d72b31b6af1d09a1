"""The world outlives its server: what is physical is written down, so that a server killed and started again finds it as it went on.

Motions are closed forms of time, so a dome that was turning when the server died has arrived meanwhile. What only the server knew
is lost with it: who was connected, an exposure that ran, faults that were posted. A server that ends in order forgets the world, and
the next one begins another night; so does one that comes back after more than half a minute, or after a restart of the host.
Another night is the first, at the hour of the settings, that no server of this state folder has seen: time never runs back, for
the observatory around the world remembers what it did.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nightbell.contracts.instants import format_utc, parse_utc
from nightbell.simulator import sky
from nightbell.simulator.motion import Motion
from nightbell.simulator.settings import SimulatorSettings
from nightbell.simulator.world import World

__all__ = ["Memory"]

LONGEST_ABSENCE_S = 30.0
SAVE_EVERY_S = 0.2
_DAY_NS = 86_400_000_000_000
PLAIN = (bool, int, float, str, type(None))


class Memory:
    """The file `world.json` in the simulator's state folder."""

    def __init__(self, path: Path, settings: SimulatorSettings) -> None:
        self._path = path
        self._key = f"{settings.start_utc} {settings.seed} {_boot()}"
        self._saved_at = 0.0
        self._seen_ns = 0
        self._told = self._read()
        start_ns = parse_utc(settings.start_utc, where="start_utc")
        days = max(0, -(-(self._seen_ns - start_ns) // _DAY_NS)) if self._seen_ns else 0
        began_ns = int(self._told["began_ns"]) if self._told is not None else start_ns + days * _DAY_NS
        self.start_utc = format_utc(began_ns, digits=9)
        """When the night that goes on, or the new one, began."""

    def _read(self) -> dict[str, Any] | None:
        try:
            told: dict[str, Any] = json.loads(self._path.read_text(encoding="utf-8"))
            self._seen_ns = int(told["seen_ns"])
        except (OSError, ValueError, KeyError):
            return None
        if told.get("over"):
            return None
        absent_s = time.monotonic() - told["saved_s"]
        return told if told["key"] == self._key and 0 <= absent_s < LONGEST_ABSENCE_S else None

    @property
    def token(self) -> str:
        """The side channels' token of the server before this one, or empty."""
        return str(self._told["token"]) if self._told is not None else ""

    def recall(self, world: World) -> bool:
        """Make `world` what it was; False when there is nothing to go on from."""
        told = self._told
        if told is None:
            return False
        world.time.t0_ns, world.time.m0_ns, world.time.rate = int(told["t0_ns"]), int(told["m0_ns"]), float(told["rate"])
        for name, part in _parts(world).items():
            _put(part, told["parts"][name])
        world.mount.resume_parking(parking=bool(told["parking"]))
        world.transients = [sky.Transient(**one) for one in told["transients"]]
        world.recall_log(told["log"])
        return True

    def save(self, world: World, token: str) -> None:
        """Write the world down, at most five times a second."""
        now_s = time.monotonic()
        if now_s - self._saved_at < SAVE_EVERY_S:
            return
        self._saved_at = now_s
        told = {
            "key": self._key,
            "began_ns": str(world.time.began_ns),
            "seen_ns": str(world.time.now_ns()),
            "saved_s": now_s,
            "token": token,
            "t0_ns": str(world.time.t0_ns),
            "m0_ns": str(world.time.m0_ns),
            "rate": world.time.rate,
            "parts": {name: _taken(part) for name, part in _parts(world).items()},
            "parking": world.mount.is_parking,
            "transients": [asdict(one) for one in world.transients],
            "log": world.log(),
        }
        self._write(told)

    def _write(self, told: dict[str, Any]) -> None:
        beside = self._path.with_suffix(".new")
        beside.write_text(json.dumps(told), encoding="utf-8")
        beside.replace(self._path)

    def forget(self, world: World) -> None:
        """The next server begins another night."""
        self._write({"over": True, "seen_ns": str(world.time.now_ns())})


def _boot() -> str:
    """What tells one run of this host from the next; monotonic clocks of different ones must not be compared."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        # Elsewhere: when the monotonic clock began, to the minute.
        return str(round((time.time() - time.monotonic()) / 60))


def _parts(world: World) -> dict[str, Any]:
    return {
        "mount": world.mount,
        "dome": world.dome,
        "shutter": world.dome.shutter,
        "wheel": world.wheel,
        "focuser": world.focuser,
        "cover": world.cover,
        "camera": world.camera,
    }


def _taken(part: Any) -> dict[str, Any]:
    """A part's plain values and motions by name; what refers to other things (settings, callbacks, pictures) stays out."""
    found: dict[str, Any] = {}
    for name, value in vars(part).items():
        if name in _OF_THE_SERVER:
            continue
        if isinstance(value, Motion):
            found[name] = {"motion": [value.start, value.goal, value.begin_s, value.speed, min(value.acceleration, 1e300)]}
        elif isinstance(value, PLAIN):
            found[name] = value
        elif isinstance(value, tuple) and all(isinstance(one, float | int) for one in value):
            found[name] = {"tuple": list(value)}
    return found


_OF_THE_SERVER = {"limp", "_stuck_at", "failed", "_start_s", "_reading_until_s", "_light", "_exposure_s", "latitude_deg"}
"""An exposure that ran, and faults that were posted, end with the server."""


def _put(part: Any, told: dict[str, Any]) -> None:
    for name, value in told.items():
        if isinstance(value, dict) and "motion" in value:
            start, goal, begin_s, speed, acceleration = value["motion"]
            setattr(part, name, Motion(start, goal, begin_s, speed, float("inf") if acceleration >= 1e300 else acceleration))
        elif isinstance(value, dict):
            setattr(part, name, tuple(value["tuple"]))
        else:
            setattr(part, name, value)
