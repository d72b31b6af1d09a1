"""A VOEvent subscriber as a process of its own: pygcn in, files in a folder out.

The one file of nightbell that imports pygcn, which is GPL-2+: whoever distributes nightbell together with pygcn distributes the
combination under the GPL; without this process nothing of nightbell needs it.

pygcn acknowledges a packet before it calls the handler, swallows what the handler raises, and never returns. So the handler does
nothing but write and fsync, and the process that started us stops us by closing our standard input.

    python -m nightbell.alerts.sources.vtp HOST PORT FOLDER SILENCE_S RECONNECT_MAX_S
"""

from __future__ import annotations

import hashlib
import logging
import os
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

__all__ = ["main"]

LARGEST_PACKET_BYTES = 1 << 20


class _Packets(logging.Handler):
    """Touches a file whenever pygcn hears anything at all, the sign of life that tells a quiet broker from a dead line."""

    def __init__(self, alive: Path) -> None:
        super().__init__()
        self._alive = alive

    def emit(self, record: logging.LogRecord) -> None:
        if "unrecognized role" in record.getMessage():  # Comet greets with role "authenticate"; harmless
            return
        sys.stderr.write(f"{record.levelname.lower()}: {record.getMessage()}\n")
        sys.stderr.flush()
        if record.levelno <= logging.INFO and "connect" not in record.getMessage():
            self._alive.touch()


def _write(folder: Path, payload: bytes) -> None:
    path = folder / f"{time.time_ns()}-{hashlib.sha256(payload).hexdigest()[:16]}.xml"
    making = path.with_suffix(".making")
    with making.open("wb") as stream:
        stream.write(payload)
        stream.flush()
        os.fsync(stream.fileno())
    making.replace(path)


def _bound_packets(client: Any) -> None:
    """Pygcn believes the 4-byte length it is sent and allocates up to 4 GiB: look at it first."""
    original = client._recv_packet  # noqa: SLF001

    def bounded(sock: socket.socket) -> bytes:
        head = sock.recv(4, socket.MSG_PEEK | socket.MSG_WAITALL)
        size = int.from_bytes(head, "big")
        if len(head) == 4 and size > LARGEST_PACKET_BYTES:
            raise OSError(f"the broker announces a packet of {size:,} bytes, more than {LARGEST_PACKET_BYTES:,}")
        packet: bytes = original(sock)
        return packet

    client._recv_packet = bounded  # noqa: SLF001


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(0)  # pygcn's loop cannot be asked to stop


def main() -> None:
    """Listen for ever."""
    from gcn import voeventclient  # noqa: PLC0415  # GPL: only in this process, only when it runs

    host, port, folder_name, silence_s, reconnect_max_s = sys.argv[1:6]
    folder = Path(folder_name)
    folder.mkdir(parents=True, exist_ok=True)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    log = logging.getLogger("vtp")
    log.setLevel(logging.DEBUG)
    log.propagate = False
    log.addHandler(_Packets(folder / "alive"))
    _bound_packets(voeventclient)

    def handler(payload: bytes, root: Any) -> None:  # noqa: ARG001
        _write(folder, payload)

    voeventclient.listen(
        host=host, port=int(port), handler=handler, iamalive_timeout=float(silence_s), max_reconnect_timeout=float(reconnect_max_s), log=log
    )


if __name__ == "__main__":
    main()
