"""Server-sent events: each message is made once, put into a bounded queue per browser, and written in one go.

A browser that does not read costs only itself: its queue is emptied and it gets `resync`, upon which the page loads anew.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable

import msgspec

__all__ = ["Hub", "encode"]

QUEUE = 256
REPLAY = 500
PING_S = 1.0


def encode(kind: str, data: object, *, seq: int | None = None) -> bytes:
    """One message. JSON holds no line end, so one `data` line is enough."""
    head = b"" if seq is None else b"id: %d\n" % seq
    return head + b"event: " + kind.encode() + b"\ndata: " + msgspec.json.encode(data) + b"\n\n"


class _Browser:
    def __init__(self) -> None:
        self.waiting: deque[bytes] = deque()
        self.wake = asyncio.Event()


class Hub:
    """All open streams. `publish` from any thread; everything else in the event loop of the page."""

    def __init__(self, ping: Callable[[], object]) -> None:
        """`ping()` is what is sent each second: the time, so that ages never depend on the browser's clock."""
        self._ping = ping
        self._loop: asyncio.AbstractEventLoop | None = None
        self._browsers: set[_Browser] = set()
        self._replay: deque[tuple[int, bytes]] = deque(maxlen=REPLAY)
        self._ended = False

    def __len__(self) -> int:
        return len(self._browsers)

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Told once, when the loop runs."""
        self._loop = loop

    def publish(self, kind: str, data: object, *, seq: int | None = None) -> None:
        """To every browser. A message with `seq` is replayed to one that reconnects with an older id."""
        loop = self._loop
        if loop is None or loop.is_closed():
            return
        message = encode(kind, data, seq=seq)
        loop.call_soon_threadsafe(self._spread, message, seq)

    def end(self) -> None:
        """Close every stream: the server waits for them when it stops."""
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        self._ended = True
        for browser in self._browsers:
            browser.wake.set()

    def _spread(self, message: bytes, seq: int | None) -> None:
        if seq is not None:
            self._replay.append((seq, message))
        for browser in self._browsers:
            if len(browser.waiting) >= QUEUE:
                browser.waiting.clear()
                browser.waiting.append(encode("resync", {}))
            browser.waiting.append(message)
            browser.wake.set()

    async def stream(self, last_seq: int | None, is_allowed: Callable[[], Awaitable[bool]]) -> AsyncGenerator[bytes, None]:
        """One browser's stream, until it leaves, is no longer allowed, or the server ends."""
        browser = _Browser()
        if last_seq is not None:
            missed = [message for seq, message in self._replay if seq > last_seq]
            oldest = self._replay[0][0] if self._replay else None
            if oldest is not None and oldest > last_seq + 1:
                browser.waiting.append(encode("resync", {}))
            browser.waiting.extend(missed)
        browser.waiting.append(encode("ping", self._ping()))
        self._browsers.add(browser)
        try:
            yield b"retry: 1000\n\n"
            loop = asyncio.get_running_loop()
            next_ping = loop.time() + PING_S
            while not self._ended:
                if browser.waiting:
                    joined = b"".join(browser.waiting)
                    browser.waiting.clear()
                    yield joined
                browser.wake.clear()
                left_s = next_ping - loop.time()
                if left_s > 0:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(browser.wake.wait(), left_s)
                    continue
                next_ping = loop.time() + PING_S
                if not await is_allowed():
                    return
                yield encode("ping", self._ping())
        finally:
            self._browsers.discard(browser)
