"""The world served over Alpaca, on loopback: HTTP by hand on asyncio, the protocol's rules, faults, management, side channels.

    bytes -> Request -> route: /api/v1/TYPE/0/MEMBER -> faults -> members.py -> JSON or ImageBytes
                               /management/...          /sim/... (side_channel.py)

One thread, no locks: each request is a few microseconds of arithmetic, frames are rendered by a worker. A hanging member is a
coroutine that sleeps, so it delays nobody else.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote

import msgspec
import numpy as np

from nightbell.devices.alpaca.imagebytes import encode_error, encode_image
from nightbell.simulator.faults import Fault, Faults
from nightbell.simulator.members import NOT_CONNECTED, AlpacaError, Member, View
from nightbell.simulator.world import World

__all__ = ["AlpacaServer", "Reply", "Request"]

LARGEST_REQUEST_BYTES = 1 << 20
DISCOVERY_PORT = 32227


@dataclass(frozen=True)
class Request:
    """One HTTP request."""

    verb: str
    path: str
    fields: list[tuple[str, str]]
    """Of the query for GET, of the body for PUT and POST when it is a form."""
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Reply:
    """One HTTP answer. `cut` ends the connection after so many bytes of it."""

    status: int = 200
    content_type: str = "application/json"
    body: bytes = b""
    cut: int | None = None
    never: bool = False

    def as_bytes(self) -> bytes:
        words = {200: "OK", 400: "Bad Request", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed"}.get(self.status, "Error")
        head = f"HTTP/1.1 {self.status} {words}\r\nContent-Type: {self.content_type}\r\nContent-Length: {len(self.body)}\r\n\r\n"
        return head.encode() + self.body


class _BadRequestError(Exception):
    """HTTP 400 with a line of text."""


def _plain(status: int, words: str) -> Reply:
    return Reply(status, "text/plain; charset=utf-8", words.encode())


def _transaction(fields: dict[str, str], name: str) -> int:
    """A uint32, 0 when it is not given. Raises when it is given and is none."""
    text = fields.get(name)
    if text is None:
        return 0
    if not re.fullmatch(r"[0-9]{1,10}", text) or int(text) >= 2**32:
        raise _BadRequestError(f"{name} {text!r} is no uint32")
    return int(text)


def _parse(text: str, kind: type, name: str) -> Any:
    """A parameter of its type. Raises when it is not."""
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.strip().lower()]
        if kind is float:
            value = float(text)
            if not math.isfinite(value):
                raise ValueError(text)
            return value
        return kind(text)
    except (ValueError, KeyError) as error:
        raise _BadRequestError(f"{name} {text!r} is no {kind.__name__}") from error


class AlpacaServer:
    """Serves the views of a world. `side_channel` answers everything below /sim/."""

    def __init__(
        self,
        world: World,
        views: dict[str, View],
        faults: Faults,
        *,
        side_channel: Callable[[Request], Awaitable[Reply]],
    ) -> None:
        self._world, self._views, self._faults, self._side_channel = world, views, faults, side_channel
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._transactions = 0
        self.port = 0

    async def start(self, port: int) -> int:
        """Listen on 127.0.0.1; returns the port."""
        self._server = await asyncio.start_server(self._converse, "127.0.0.1", port, limit=LARGEST_REQUEST_BYTES)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self.port

    async def discover(self) -> asyncio.DatagramTransport:
        """Answer Alpaca discovery on loopback."""
        answer = msgspec.json.encode({"AlpacaPort": self.port})

        class Answerer(asyncio.DatagramProtocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                self._transport = transport

            def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
                if data.startswith(b"alpacadiscovery1"):
                    self._transport.sendto(answer, addr)  # type: ignore[attr-defined]

        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(Answerer, local_addr=("127.0.0.1", DISCOVERY_PORT))
        return transport

    async def stop(self) -> None:
        """Stop listening and cut what is open."""
        if self._server is not None:
            self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        if self._server is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._server.wait_closed(), 2.0)

    # --- HTTP
    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        connection = writer.get_extra_info("socket")
        if connection is not None:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            while (request := await self._read(reader)) is not None:
                reply = await self._answer(request)
                if reply.never:
                    await reader.read()  # until the caller gives up
                    break
                data = reply.as_bytes()
                if reply.cut is not None:
                    writer.write(data[: reply.cut])
                    await writer.drain()
                    break
                writer.write(data)
                await writer.drain()
                if request.headers.get("connection", "").lower() == "close":
                    break
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # the caller has gone, or speaks no HTTP: nobody is left to answer
        except _BadRequestError as error:
            with contextlib.suppress(ConnectionError):
                writer.write(_plain(400, str(error)).as_bytes())
                await writer.drain()
        finally:
            self._writers.discard(writer)
            writer.close()

    @staticmethod
    async def _read(reader: asyncio.StreamReader) -> Request | None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except asyncio.IncompleteReadError as error:
            if not error.partial:
                return None
            raise
        first, *lines = head[:-4].split("\r\n")
        parts = first.split(" ")
        if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
            raise _BadRequestError("not HTTP")
        headers = {key.strip().lower(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > LARGEST_REQUEST_BYTES:
            raise _BadRequestError("Content-Length")
        body = await reader.readexactly(int(length))
        path, _, query = parts[1].partition("?")
        form = body.decode("utf-8", "replace") if "json" not in headers.get("content-type", "") else ""
        fields = parse_qsl(query if parts[0] == "GET" else form, keep_blank_values=True)
        return Request(parts[0], unquote(path), fields, headers, body)

    async def _answer(self, request: Request) -> Reply:
        try:
            if request.path.startswith("/sim/"):
                return await self._side_channel(request)
            if request.path.startswith("/management/"):
                return self._management(request)
            match = re.fullmatch(r"/api/v1/([a-z]+)/([^/]+)/([a-z]+)", request.path)
            if match is None:
                return _plain(404, "the path is /api/v1/TYPE/NUMBER/MEMBER, all lower case")
            kind, number, name = match.groups()
            view = self._views.get(kind)
            if view is None or number != "0":
                return _plain(400, f"there is no {kind} {number}")
            return await self._device(request, view, name)
        except _BadRequestError as error:
            return _plain(400, str(error))

    # --- Alpaca
    async def _device(self, request: Request, view: View, name: str) -> Reply:
        if request.verb not in ("GET", "PUT"):
            return _plain(405, "GET or PUT")
        member = view.members.get(name)
        if name != "devicestate" and (member is None or (member.get if request.verb == "GET" else member.put) is None):
            return _plain(400, f"{view.kind} has no {request.verb} {name}")
        # Names: GET in any casing, PUT exactly. A miscased id of a PUT is no id: 0 is echoed.
        fields = {key.lower(): value for key, value in request.fields} if request.verb == "GET" else dict(request.fields)
        transaction = _transaction(fields, "clienttransactionid" if request.verb == "GET" else "ClientTransactionID")
        _transaction(fields, "clientid" if request.verb == "GET" else "ClientID")
        self._world.advance()
        faults = [] if name == "devicestate" else self._faults.of(view.kind, name, self._world.time.now_s())
        reply = await self._broken(faults)
        if reply is not None:
            return reply
        self._transactions = (self._transactions + 1) & 0xFFFFFFFF
        value: Any = None
        number, words = 0, ""
        try:
            if name == "devicestate":
                value = await self._device_state(view)
            else:
                assert member is not None
                value = self._call(request.verb, view, name, member, fields, faults)
        except AlpacaError as error:
            number, words = error.number, error.words
        except _BrokenError as error:
            return error.reply
        reply = self._pack(request, transaction, value, number, words)
        if any(fault.kind == "half_answer" for fault in faults):
            return Reply(reply.status, reply.content_type, reply.body, cut=len(reply.as_bytes()) // 2)
        return reply

    def _pack(self, request: Request, transaction: int, value: Any, number: int, words: str) -> Reply:
        if isinstance(value, np.ndarray):
            if "application/imagebytes" in request.headers.get("accept", ""):
                body = encode_image(value, client_transaction=transaction, server_transaction=self._transactions)
                return Reply(200, "application/imagebytes", body)
            value = value.T.tolist()
            table = {"Type": 2, "Rank": 2, "Value": value}
        else:
            table = {"Value": value} if request.verb == "GET" else {}
        if number and request.path.endswith("/imagearray") and "application/imagebytes" in request.headers.get("accept", ""):
            body = encode_error(number, words, client_transaction=transaction, server_transaction=self._transactions)
            return Reply(200, "application/imagebytes", body)
        table |= {
            "ClientTransactionID": transaction,
            "ServerTransactionID": self._transactions,
            "ErrorNumber": number,
            "ErrorMessage": words,
        }
        return Reply(body=msgspec.json.encode(table))

    def _call(self, verb: str, view: View, name: str, member: Member, fields: dict[str, str], faults: list[Fault]) -> Any:
        # Parameters first: a malformed request is 400 whatever the device's state.
        wanted = member.get_with if verb == "GET" else member.put_with
        values = []
        for parameter, kind in wanted:
            key = parameter.lower() if verb == "GET" else parameter
            if key not in fields:
                raise _BadRequestError(f"{parameter} is missing (names are case-sensitive in a PUT)")
            values.append(_parse(fields[key], kind, parameter))
        for fault in faults:
            if fault.kind == "error":
                raise AlpacaError(int(fault.value or 0x500), "a fault was injected")
        if not view.connected and not member.unconnected:
            raise AlpacaError(NOT_CONNECTED, f"{view.name} is not connected")
        if verb == "PUT":
            if not any(fault.kind == "lying" for fault in faults):
                assert member.put is not None
                member.put(*values)
            return None
        assert member.get is not None
        for fault in faults:
            if fault.kind == "wrong":
                return fault.value
            if fault.kind == "frozen":
                if f"{view.kind}.{name}" not in fault.held:
                    fault.held[f"{view.kind}.{name}"] = member.get(*values)
                return fault.held[f"{view.kind}.{name}"]
        return member.get(*values)

    async def _device_state(self, view: View) -> list[dict[str, Any]]:
        """All operational state in one answer; what fails is left out, as the standard asks."""
        if not view.connected:
            raise AlpacaError(NOT_CONNECTED, f"{view.name} is not connected")
        rows: list[dict[str, Any]] = []
        t_s = self._world.time.now_s()
        for name in view.state:
            faults = self._faults.of(view.kind, name.lower(), t_s)
            broken = await self._broken(faults)
            if broken is not None:
                raise _BrokenError(broken)
            try:
                rows.append({"Name": name, "Value": self._call("GET", view, name.lower(), view.members[name.lower()], {}, faults)})
            except AlpacaError:
                continue
        return rows

    async def _broken(self, faults: list[Fault]) -> Reply | None:
        """What is wrong with the link itself."""
        for fault in faults:
            if fault.kind == "slow":
                await asyncio.sleep(float(fault.value or 2.0))
            elif fault.kind == "hang":
                return Reply(never=True)
            elif fault.kind in ("reset", "power_off"):
                return Reply(cut=0)
        return None

    # --- management
    def _management(self, request: Request) -> Reply:
        if request.verb != "GET":
            return _plain(405, "GET")
        values: dict[str, Any] = {
            "/management/apiversions": [1],
            "/management/v1/description": {
                "ServerName": "nightbell simulator",
                "Manufacturer": "The nightbell developers",
                "ManufacturerVersion": "1.0",
                "Location": self._world.site.name,
            },
            "/management/v1/configureddevices": [
                {"DeviceName": view.name, "DeviceType": kind, "DeviceNumber": 0, "UniqueID": view.unique_id}
                for kind, view in self._views.items()
            ],
        }
        if request.path not in values:
            return _plain(404, "there is apiversions, v1/description and v1/configureddevices")
        fields = {key.lower(): value for key, value in request.fields}
        self._transactions = (self._transactions + 1) & 0xFFFFFFFF
        table = {
            "Value": values[request.path],
            "ClientTransactionID": _transaction(fields, "clienttransactionid"),
            "ServerTransactionID": self._transactions,
        }
        return Reply(body=msgspec.json.encode(table))


class _BrokenError(Exception):
    """The link is broken instead of an answer."""

    def __init__(self, reply: Reply) -> None:
        super().__init__()
        self.reply = reply
