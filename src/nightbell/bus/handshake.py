"""Why a connection is not made: a key that is not known, a wrong server key, keys on one side only. Else it would be mere silence."""

from __future__ import annotations

import struct
from types import TracebackType
from typing import Any, Self

import zmq

from nightbell.contracts.errors import Refused

__all__ = ["Handshake"]

_EVENT = struct.Struct("=HI")
_BROKEN_OFTEN = 3
"""One handshake that breaks off may be a peer that is just ending."""


class Handshake:
    """Watches a socket from before `connect` until it is connected. Use it in the thread of the socket."""

    def __init__(self, sock: zmq.Socket[Any], *, who: str) -> None:
        self._sock, self._who, self._n_broken = sock, who, 0
        self._events: zmq.Socket[bytes] = sock.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._sock.disable_monitor()
        self._events.close(0)

    def check(self) -> None:
        """Raises `Refused` (code auth) when the other side will never let this socket in."""
        while self._events.poll(0):
            event = _EVENT.unpack(self._events.recv_multipart()[0])[0]
            if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                raise Refused(
                    f"{self._who} does not know this key",
                    where="keys",
                    remedy="On its host: nightbell keys trust NAME.key (its fingerprint here: nightbell keys list)",
                    code="auth",
                )
            # A peer that wants keys cuts the line so fast that its own greeting, from which libzmq would tell, is mostly lost with it.
            has_keys = self._sock.getsockopt(zmq.MECHANISM) == zmq.CURVE
            self._n_broken += 1
            broken = self._n_broken >= _BROKEN_OFTEN
            if event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL or (broken and not has_keys):
                raise Refused(
                    f"{self._who} wants keys and this side has none, or the other way round",
                    where="observatory.toml: keys",
                    remedy="Set keys on both sides, or on neither",
                    code="auth",
                )
            if broken:
                raise Refused(
                    f"{self._who} breaks off the handshake: its key is another one than we have for it, or it is no nightbell",
                    where="keys",
                    remedy="Copy the .key file of that process into keys/ here, and compare: nightbell keys list",
                    code="auth",
                )
