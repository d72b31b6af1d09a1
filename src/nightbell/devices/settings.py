"""How one device is reached: a table of the settings of whoever drives it (telescope, safety)."""

from __future__ import annotations

from dataclasses import dataclass

from nightbell.contracts.errors import BadInput
from nightbell.settings import setting

__all__ = ["DRIVERS", "DeviceSettings"]

DRIVERS = ("alpaca",)


@dataclass(frozen=True, kw_only=True)
class DeviceSettings:
    """[devices.NAME] One device: which driver, and where the hardware answers."""

    driver: str = setting("alpaca", choices=DRIVERS, doc="How it is driven: alpaca (HTTP)")
    host: str = setting("127.0.0.1", doc="Host of the device server")
    port: int = setting(11111, low=1, high=65535, doc="TCP port of the device server")
    number: int = setting(0, low=0, high=4294967295, doc="Device number at that server")
    unique_id: str = setting("", doc="UniqueID the device must have (management/v1/configureddevices); empty: not checked")
    deadline_s: float = setting(5.0, unit="s", low=0.1, high=600, doc="Real time a call may take before it counts as failed")
    connect_deadline_s: float = setting(60.0, unit="s", low=0.1, high=600, doc="Real time that connecting may take")
    client_id: int = setting(0, low=0, high=4294967295, doc="ClientID told to the server; 0: a random one is drawn when the process starts")

    def __post_init__(self) -> None:
        if not self.host:
            raise BadInput("is empty", where="host", remedy="Give a name or address, for instance 127.0.0.1")
