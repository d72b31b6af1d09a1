"""The HTTP client below every Alpaca driver.

    get/put -> Link (one worker thread, one TCP connection) -> one exchange with a total deadline -> checks -> Value
                 main: everything        urgent: abort and close, never behind anything else

Why our own: one device that hangs must delay no other, and the deadline must hold over the whole answer, not per packet. So
each device has its own connection and worker, and a second pair for what must never wait. Calls may come from any thread or
event loop: the worker owns the socket, the caller awaits a future.

What is repeated: an exchange that failed before the server can have acted (the connection was refused, or died idle), and once
more on a new socket what is harmless twice (reads, abort, close, park, tracking off, connect). Nothing else, ever: a repeated
StartExposure or SlewTo is a second one.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import queue
import secrets
import socket
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import msgspec

from nightbell.contracts.errors import DeviceError, DeviceFault, DeviceLied, DeviceLost, DeviceTimeout
from nightbell.devices.faults import NotConnected, fault_of

__all__ = ["AlpacaClient", "Answer", "left_s"]

LARGEST_ANSWER_BYTES = 1 << 30
LARGEST_HEAD_BYTES = 1 << 16
FIRST_BACK_OFF_S = 0.5
LONGEST_BACK_OFF_S = 10.0


@dataclass(frozen=True)
class Answer:
    """An HTTP answer, whole."""

    status: int
    content_type: str
    body: bytes


class _NeverSentError(Exception):
    """The request cannot have reached the server's code."""


def left_s(end: float, *, where: str) -> float:
    """Seconds until `end` on the monotonic clock; raises `DeviceTimeout` when it has passed."""
    left = end - time.monotonic()
    if left <= 0:
        raise DeviceTimeout("no answer within the deadline", where=where, remedy="Look at the device server and its host")
    return left


@functools.cache
def _process_client_id() -> int:
    return secrets.randbelow(2**32 - 1) + 1


def _text(value: object) -> str:
    """A parameter as Alpaca wants it: True/False, a decimal point whatever the locale."""
    if isinstance(value, bool):
        return "True" if value else "False"
    if isinstance(value, float):
        return repr(value)
    return str(value)


class _Wire:
    """One TCP connection. Used by one thread."""

    def __init__(self, host: str, port: int, where: str) -> None:
        self._host, self._port, self._where = host, port, where
        self._socket: socket.socket | None = None
        self._spare = b""

    def drop(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket, self._spare = None, b""

    def ensure(self, end: float) -> None:
        """Have a live connection; a connection that the server closed while idle is replaced before anything is sent."""
        if self._socket is not None and self._died_idle(self._socket):
            self.drop()
        if self._socket is not None:
            return
        try:
            self._socket = socket.create_connection((self._host, self._port), timeout=left_s(end, where=self._where))
        except TimeoutError as error:
            raise DeviceTimeout(
                f"{self._host}:{self._port} does not take a connection", where=self._where, remedy="Look at that host and its firewall"
            ) from error
        except OSError as error:
            raise _NeverSentError(f"{self._host}:{self._port}: {error.strerror or error}") from error
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    @staticmethod
    def _died_idle(connection: socket.socket) -> bool:
        connection.setblocking(False)
        try:
            connection.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True  # end of file, or bytes nobody asked for: out of step either way

    def exchange(self, request: bytes, end: float) -> Answer:
        """Send and read the whole answer by `end`. Raises DeviceTimeout, DeviceLost; the connection is then gone."""
        connection = self._socket
        assert connection is not None
        try:
            connection.settimeout(left_s(end, where=self._where))
            connection.sendall(request)
            return self._read(connection, end)
        except TimeoutError as error:
            self.drop()
            raise DeviceTimeout(
                "no whole answer within the deadline", where=self._where, remedy="Look at the device server and its host"
            ) from error
        except DeviceError:
            self.drop()
            raise
        except (OSError, ValueError) as error:
            self.drop()
            raise DeviceLost(f"the connection broke: {error}", where=self._where, remedy="Look at the device server") from error

    def _more(self, connection: socket.socket, end: float) -> bytes:
        connection.settimeout(left_s(end, where=self._where))
        got = connection.recv(65536)
        if not got:
            raise DeviceLost("the server hung up in the middle of an answer", where=self._where, remedy="Look at the device server")
        return got

    def _line_end(self, connection: socket.socket, end: float, mark: bytes) -> bytes:
        """Everything before `mark`; what follows stays for later."""
        while (at := self._spare.find(mark)) < 0:
            if len(self._spare) > LARGEST_HEAD_BYTES:
                raise DeviceLost("not an HTTP answer", where=self._where, remedy="Check host and port")
            self._spare += self._more(connection, end)
        head, self._spare = self._spare[:at], self._spare[at + len(mark) :]
        return head

    def _exactly(self, connection: socket.socket, n: int, end: float) -> bytes:
        if not 0 <= n <= LARGEST_ANSWER_BYTES:
            raise DeviceLost(f"an answer of {n} bytes is announced", where=self._where, remedy="Check host and port")
        body = bytearray(n)
        view = memoryview(body)
        have = min(n, len(self._spare))
        view[:have], self._spare = self._spare[:have], self._spare[have:]
        while have < n:
            connection.settimeout(left_s(end, where=self._where))
            got = connection.recv_into(view[have:])
            if not got:
                raise DeviceLost(
                    f"the link was cut after {have} of {n} bytes", where=self._where, remedy="Nothing partial was kept: ask again"
                )
            have += got
        return bytes(body)

    def _read(self, connection: socket.socket, end: float) -> Answer:
        while True:
            lines = self._line_end(connection, end, b"\r\n\r\n").decode("latin-1").split("\r\n")
            version, _, rest = lines[0].partition(" ")
            if not version.startswith("HTTP/1."):
                raise DeviceLost("not an HTTP answer", where=self._where, remedy="Check host and port")
            status = int(rest[:3])
            headers = {key.strip().lower(): value.strip() for key, _, value in (line.partition(":") for line in lines[1:])}
            if status >= 200:  # 1xx only announces the answer
                break
        if "chunked" in headers.get("transfer-encoding", "").lower():
            body = self._chunks(connection, end)
        elif "content-length" in headers:
            body = self._exactly(connection, int(headers["content-length"]), end)
        else:
            raise DeviceLost("an answer without a length", where=self._where, remedy="Check host and port")
        if headers.get("connection", "").lower() == "close" or version == "HTTP/1.0":
            self.drop()
        return Answer(status, headers.get("content-type", "").lower(), body)

    def _chunks(self, connection: socket.socket, end: float) -> bytes:
        parts: list[bytes] = []
        size = 0
        while n := int(self._line_end(connection, end, b"\r\n").split(b";")[0], 16):
            size += n
            if size > LARGEST_ANSWER_BYTES:
                raise DeviceLost("the answer does not end", where=self._where, remedy="Check host and port")
            parts.append(self._exactly(connection, n, end))
            self._line_end(connection, end, b"\r\n")
        while self._line_end(connection, end, b"\r\n"):  # trailers, up to the empty line
            pass
        return b"".join(parts)


@dataclass
class _Job:
    request: bytes
    end: float
    where: str
    again: bool
    future: Future[Answer]


class _Link:
    """One worker thread with one connection; jobs in order of asking."""

    def __init__(self, host: str, port: int, name: str, *, backs_off: bool) -> None:
        self._host, self._port = host, port
        self._name = name
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._out_of_step = threading.Event()
        self._starting = threading.Lock()
        self._backs_off = backs_off
        self._back_off_s = 0.0
        self._not_before = 0.0

    def submit(self, job: _Job) -> None:
        with self._starting:
            if self._thread is None:
                self._jobs = queue.SimpleQueue()
                wire = _Wire(self._host, self._port, self._name)
                self._thread = threading.Thread(target=self._work, args=(self._jobs, wire), name=f"alpaca {self._name}", daemon=True)
                self._thread.start()
            self._jobs.put(job)

    def forget(self) -> None:
        """Drop the connection before the next question: it is out of step."""
        self._out_of_step.set()

    def close(self) -> None:
        with self._starting:
            thread, self._thread = self._thread, None
            self._jobs.put(None)
        if thread is not None:
            thread.join(timeout=0.5)  # a worker in a hanging call ends at that call's deadline

    def _work(self, jobs: queue.SimpleQueue[_Job | None], wire: _Wire) -> None:
        while (job := jobs.get()) is not None:
            if not job.future.set_running_or_notify_cancel():
                continue  # its caller gave up while it waited: it is never sent
            try:
                job.future.set_result(self._do(job, wire))
            except DeviceError as error:
                job.future.set_exception(error)
            except Exception as error:  # noqa: BLE001 - the caller must get an answer whatever broke here
                job.future.set_exception(DeviceLost(f"the client broke: {error!r}", where=job.where))
        wire.drop()

    def _do(self, job: _Job, wire: _Wire) -> Answer:
        if self._out_of_step.is_set():
            self._out_of_step.clear()
            wire.drop()
        if self._backs_off and time.monotonic() < self._not_before:
            raise DeviceLost(
                "the server was not reachable a moment ago; waiting before the next try",
                where=job.where,
                remedy="Look at the device server",
            )
        for attempt in (1, 2):
            try:
                wire.ensure(job.end)
            except (_NeverSentError, DeviceTimeout) as error:
                if isinstance(error, _NeverSentError) and attempt == 1 and not self._backs_off:
                    continue
                self._back_off_s = min(LONGEST_BACK_OFF_S, max(FIRST_BACK_OFF_S, 2 * self._back_off_s))
                self._not_before = time.monotonic() + self._back_off_s
                if isinstance(error, DeviceTimeout):
                    raise
                raise DeviceLost(str(error), where=job.where, remedy="Start the device server, or mend host and port") from error
            self._back_off_s = self._not_before = 0.0
            try:
                return wire.exchange(job.request, job.end)
            except DeviceLost:
                if attempt == 2 or not job.again:
                    raise
        raise AssertionError("unreachable")  # pragma: no cover


class AlpacaClient:
    """One device at one server: typed questions, checked answers."""

    def __init__(self, *, host: str, port: int, device_type: str, number: int, name: str, client_id: int = 0) -> None:
        self.name = name
        self.device_type = device_type
        self.number = number
        self._host = f"{host}:{port}"
        self._path = f"/api/v1/{device_type}/{number}/"
        self._client_id = client_id or _process_client_id()
        self._transactions = itertools.count(1)
        self._main = _Link(host, port, name, backs_off=True)
        self._urgent = _Link(host, port, name, backs_off=False)
        self._on_not_connected: Any = None

    def reconnect_with(self, reconnect: Any) -> None:
        """`await reconnect(end)` is called once when the driver says NotConnected: it was restarted and has forgotten us."""
        self._on_not_connected = reconnect

    def close(self) -> None:
        """End both workers and their connections."""
        self._main.close()
        self._urgent.close()

    async def get(self, member: str, *, end: float, urgent: bool = False, **query: object) -> Any:
        """Value of a property. `end`: instant of the monotonic clock by which the whole answer is here."""
        return await self._value("GET", member, query, end=end, urgent=urgent, again=True)

    async def put(self, member: str, *, end: float, urgent: bool = False, again: bool = False, **fields: object) -> Any:
        """Call a method or set a property. `again`: harmless twice, so it may be repeated on a new socket."""
        return await self._value("PUT", member, fields, end=end, urgent=urgent, again=again)

    async def get_raw(self, path: str, *, end: float) -> Any:
        """Value of a path outside the device's own (management)."""
        where = f"{self.name} {path}"
        answer = await self._exchange(self._request("GET", path, {}, "application/json", 0), end, where, urgent=False, again=True)
        return self._open(answer, where, transaction=0)

    async def image(self, *, end: float) -> Answer:
        """The answer to ImageArray: ImageBytes when the server can, else JSON. Not yet unpacked."""
        where = f"{self.name}.ImageArray"
        accept = "application/imagebytes, application/json"
        answer = await self._exchange(
            self._request("GET", f"{self._path}imagearray", {}, accept, next(self._transactions)), end, where, urgent=False, again=True
        )
        if answer.status != 200:
            self._open(answer, where, transaction=0)
        return answer

    async def _value(self, verb: str, member: str, values: Mapping[str, object], *, end: float, urgent: bool, again: bool) -> Any:
        where = f"{self.name}.{member}"
        path = self._path + member.lower()
        for attempt in (1, 2):
            transaction = next(self._transactions) & 0xFFFFFFFF
            request = self._request(verb, path, values, "application/json", transaction)
            answer = await self._exchange(request, end, where, urgent=urgent, again=again)
            try:
                return self._open(answer, where, transaction=transaction)
            except NotConnected:
                if attempt == 2 or self._on_not_connected is None or member.lower() in ("connected", "connect", "connecting"):
                    raise
                await self._on_not_connected(end)
        raise AssertionError("unreachable")  # pragma: no cover

    def _request(self, verb: str, path: str, values: Mapping[str, object], accept: str, transaction: int) -> bytes:
        fields = {key: _text(value) for key, value in values.items()}
        fields |= {"ClientID": str(self._client_id), "ClientTransactionID": str(transaction)}
        form = urlencode(fields)
        head = f"Host: {self._host}\r\nAccept: {accept}\r\nUser-Agent: nightbell\r\n"
        if verb == "GET":
            return f"GET {path}?{form} HTTP/1.1\r\n{head}\r\n".encode()
        body = form.encode()
        return (
            f"PUT {path} HTTP/1.1\r\n{head}Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            + body
        )

    async def _exchange(self, request: bytes, end: float, where: str, *, urgent: bool, again: bool) -> Answer:
        left = left_s(end, where=where)
        job = _Job(request, end, where, again, Future())
        (self._urgent if urgent else self._main).submit(job)
        try:
            # The worker keeps the deadline itself; the margin lets its better words arrive.
            return await asyncio.wait_for(asyncio.wrap_future(job.future), left + 0.05)
        except (TimeoutError, FutureTimeout) as error:
            job.future.cancel()
            raise DeviceTimeout(
                "no answer within the deadline (the device was still busy with an earlier question)",
                where=where,
                remedy="Look at the device server and its host",
            ) from error

    def open_answer(self, answer: Answer, where: str) -> Any:
        """The Value of an answer fetched with `image` that turned out to be JSON."""
        return self._open(answer, where, transaction=0)

    def _open(self, answer: Answer, where: str, *, transaction: int) -> Any:
        """The Value of a JSON answer, after every check: HTTP status, JSON, ErrorNumber, transaction."""
        if answer.status != 200:
            words = answer.body[:200].decode("utf-8", "replace").strip()
            if answer.status == 400:
                raise DeviceFault(
                    f"the server calls our request malformed: {words}", where=where, remedy="Check the device number", number=400
                )
            raise DeviceFault(
                f"HTTP {answer.status}: {words}",
                where=where,
                remedy="Look at the device server's log" if answer.status >= 500 else "Check device type and number",
                number=answer.status,
            )
        try:
            table = msgspec.json.decode(answer.body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise DeviceLied(f"the answer is not JSON: {error}", where=where, remedy="Check host and port") from error
        if not isinstance(table, dict):
            raise DeviceLied("the answer is not an Alpaca answer", where=where, remedy="Check host and port")
        number = table.get("ErrorNumber", 0)
        echoed = table.get("ClientTransactionID", 0)
        if transaction and echoed not in (0, transaction):
            self._main.forget()
            self._urgent.forget()
            raise DeviceLied(
                f"the answer belongs to another question (transaction {echoed}, ours {transaction})", where=where, remedy="Ask again"
            )
        if number != 0:  # an error although HTTP says 200
            with contextlib.suppress(TypeError, ValueError):
                raise fault_of(int(number), str(table.get("ErrorMessage", "")), where=where)
            raise DeviceLied(f"ErrorNumber {number!r}", where=where, remedy="Check host and port")
        return table.get("Value")
