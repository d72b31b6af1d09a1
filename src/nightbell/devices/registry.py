"""Which code drives what: (kind of device, driver) -> device. To add a driver: its folder, a row here, the contract suite."""

from __future__ import annotations

import difflib
import importlib
from typing import Any, Protocol

from nightbell.contracts.errors import BadInput, Missing
from nightbell.devices.settings import DeviceSettings

__all__ = ["KINDS", "WorldClock", "open_device"]

KINDS = ("dome", "mount", "camera", "filter_wheel", "focuser", "cover_calibrator", "weather", "safety_monitor", "switch")

# driver -> module with `open_device(kind, name, config, clock)`. Imported on use: who drives nothing over HTTP loads no HTTP client.
_DRIVERS = {
    "alpaca": "nightbell.devices.alpaca.drivers",
}


class WorldClock(Protocol):
    """The part of `sky.clock.Clock` that drivers need: the time to stamp readings with."""

    def now_ns(self) -> int: ...


def open_device(kind: str, config: DeviceSettings, clock: WorldClock, *, name: str = "") -> Any:
    """A device of `kind` (one of KINDS), not yet connected; satisfies the Protocol of that kind. Nothing is sent.

    The result is typed Any: assign it to a variable of the Protocol, `dome: Dome = open_device("dome", config, clock)`.
    """
    if kind not in KINDS:
        near = difflib.get_close_matches(kind, KINDS, n=1)
        raise BadInput(f"there is no device kind {kind!r}", where="kind", remedy=f"Did you mean {near[0]}?" if near else f"Use {KINDS}")
    if config.driver not in _DRIVERS:
        raise Missing(f"no driver {config.driver!r} is installed", where=name or kind, remedy=f"Use one of {', '.join(_DRIVERS)}")
    return importlib.import_module(_DRIVERS[config.driver]).open_device(kind, name or kind, config, clock)
