"""The web server in a thread of its own: bound before anybody is told the address, ended without waiting for open streams."""

from __future__ import annotations

import asyncio
import socket
import threading

import uvicorn

from nightbell.console.app import Console
from nightbell.contracts.errors import Failed

__all__ = ["WebServer", "allowed_hosts", "bind"]


def bind(host: str, port: int) -> socket.socket:
    """A socket on (host, port); port 0 takes a free one. Raises `Failed`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named because asyncio sets TCP_NODELAY only then: without it every answer takes 40 ms more.
    made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if hasattr(socket, "SO_EXCLUSIVEADDRUSE"):  # Windows: SO_REUSEADDR would let two programs share the port
            made.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
    except OSError as error:
        made.close()
        raise Failed(
            f"cannot listen on {host}:{port}: {error.strerror or error}",
            where="modules/console.toml: port",
            remedy="End the program that uses this port, or give another",
        ) from error
    return made


def allowed_hosts(port: int, more: tuple[str, ...]) -> frozenset[str]:
    """Names by which a browser may call us: loopback with our port, and what is configured."""
    return frozenset(name.lower() for name in (f"127.0.0.1:{port}", f"localhost:{port}", f"[::1]:{port}", *more))


class WebServer:
    """uvicorn around one console."""

    def __init__(self, console: Console, bound: socket.socket) -> None:
        self._console, self._socket = console, bound
        config = uvicorn.Config(
            console.app(),
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            proxy_headers=False,
            h11_max_incomplete_event_size=16384,
            limit_concurrency=500,
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, name="web", daemon=True)
        self._started = threading.Event()

    @property
    def port(self) -> int:
        return int(self._socket.getsockname()[1])

    def start(self) -> None:
        """Returns when it serves."""
        self._thread.start()
        if not self._started.wait(10):
            raise Failed("the web server did not start within 10 s", where="console", remedy="See the console's log")

    def _run(self) -> None:
        async def main() -> None:
            self._console.hub.attach(asyncio.get_running_loop())
            self._socket.listen(128)
            self._started.set()
            await self._server.serve(sockets=[self._socket])

        asyncio.run(main())

    def stop(self) -> None:
        """End streams first: the server would wait for them."""
        self._console.hub.end()
        self._server.should_exit = True
        self._thread.join(timeout=5)
        self._socket.close()
        self._console.previewer.close()
