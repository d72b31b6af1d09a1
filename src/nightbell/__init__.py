"""nightbell: from a gravitational-wave alert to calibrated frames and new sources.

The folders tell the story; data flows down this list:

    contracts     what is said: events, commands, records, states, errors
    settings      how an installation is configured
    bus           how it is carried: broker, journal, outbox, module framework, commands
    sky           where and when: site, clock, night, ephemeris
    alerts        notice -> alert -> ranked targets
    planning      targets -> plan of the night
    devices       dome, mount, camera, weather in ASCOM's words; drivers
    telescope     plan -> frames
    safety        evidence -> the dome closes
    calibration   frames -> calibrated frames
    transients    calibrated frames -> what is new in the sky
    archive       verified copies of frames on other hosts
    simulator     a world with its own physics, served over Alpaca
    console, cli  how people see and steer it

Importing this package costs nothing: it imports neither numpy nor zmq. Scripts begin with
``nightbell.connect(...)``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nightbell.bus.script import Connection

__all__ = ["__version__", "connect"]
__version__ = "0.1.0"

# astropy must never look at the network and never refuse old Earth-orientation tables: on a mountain that would stop the
# night. The folder holds an astropy.cfg; it must be an absolute native path (others are ignored silently), and it must be
# in the environment before anything imports astropy, so that child processes inherit it.
os.environ.setdefault("ASTROPY_CONFIG_DIR", str(Path(__file__).resolve().parent / "data" / "astropy"))


def connect(conf: str | Path | None = None, *, name: str = "script", wait_s: float = 10.0, broker: str | None = None) -> Connection:
    """A connection for scripts: send commands, publish and read events.

    `conf` is an installation folder (default: NIGHTBELL_CONF), `broker` one of its brokers (default: the first). Raises
    `BadInput` when the folder is no installation and `Missing` when the broker does not answer within `wait_s`.

    >>> with nightbell.connect("conf/demo") as night:            # doctest: +SKIP
    ...     night.ask("preprocessor", "calibrate_night", night="2027-04-12")
    """
    from nightbell.bus.script import connect as connect_to_bus  # noqa: PLC0415  (zmq loads only when asked for)

    return connect_to_bus(conf, name=name, wait_s=wait_s, broker=broker)
