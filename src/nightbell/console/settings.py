"""Settings of the console: modules/console.toml."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from nightbell.contracts.errors import BadInput
from nightbell.settings import setting

__all__ = ["ConsoleSettings"]


@dataclass(frozen=True, kw_only=True)
class ConsoleSettings:
    """The web page."""

    host: str = setting("127.0.0.1", doc="Address to listen on; anything but loopback needs behind_proxy")
    port: int = setting(8480, low=0, high=65535, doc="TCP port; 0: a free one, told in the log")
    behind_proxy: bool = setting(False, doc="A proxy with TLS stands before it and is the only one that reaches it")
    hosts: tuple[str, ...] = setting((), doc="Names (with port, unless 80 or 443) by which browsers may call it, besides loopback")
    poll_s: float = setting(1.0, unit="s", low=0.2, high=60, doc="Each module is asked for its status so often")
    session_idle_h: float = setting(16.0, unit="h", low=0.1, high=720, doc="A session without a request for so long ends")
    session_longest_h: float = setting(168.0, unit="h", low=1, high=720, doc="A session ends after so long in any case")
    link_min: float = setting(10.0, unit="min", low=1, high=1440, doc="A one-time link holds for so long")
    log_rows: int = setting(5000, low=100, high=1000000, doc="Events kept for the log")

    def __post_init__(self) -> None:
        try:
            loopback = self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
        except ValueError as error:
            raise BadInput(f"{self.host!r} is no address", where="host", remedy="Give an IP address, for instance 127.0.0.1") from error
        if not loopback and not self.behind_proxy:
            raise BadInput(
                f"{self.host} is reachable from the network, without TLS",
                where="host",
                remedy="Use 127.0.0.1 and a tunnel, or put a proxy with TLS before it and set behind_proxy = true",
            )
