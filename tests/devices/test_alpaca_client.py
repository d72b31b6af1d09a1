"""The HTTP client against servers that misbehave, byte by byte."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest

from nightbell.contracts.errors import DeviceFault, DeviceLied, DeviceLost, DeviceTimeout
from nightbell.devices import faults
from nightbell.devices.alpaca.client import AlpacaClient


def reply(value: object = None, *, status: int = 200, raw: bytes | None = None, **more: object) -> bytes:
    body = raw if raw is not None else json.dumps({"Value": value, "ErrorNumber": 0, "ErrorMessage": "", **more}).encode()
    return f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


class Scripted:
    """A server that answers each request by a function of (number of the request, its text), or hangs up on None."""

    def __init__(self, answer) -> None:
        self.answer = answer
        self.requests: list[str] = []
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.connections: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            self.connections.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        buffer = b""
        with connection:
            while True:
                try:
                    got = connection.recv(65536)
                except OSError:
                    return
                if not got:
                    return
                buffer += got
                while b"\r\n\r\n" in buffer:
                    head, _, rest = buffer.partition(b"\r\n\r\n")
                    length = next((int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0)
                    if len(rest) < length:
                        break
                    body, buffer = rest[:length], rest[length:]
                    self.requests.append((head + b"\n" + body).decode())
                    try:
                        answer = self.answer(len(self.requests), self.requests[-1])
                        if answer is None:
                            return
                        connection.sendall(answer)
                    except OSError:
                        return

    def close(self) -> None:
        self.socket.close()
        for connection in self.connections:
            connection.close()


@contextmanager
def talking(answer):
    server = Scripted(answer)
    client = AlpacaClient(host="127.0.0.1", port=server.port, device_type="dome", number=0, name="dome")
    try:
        yield server, client
    finally:
        server.close()
        client.close()


def get(client, member="Azimuth", deadline_s=2.0, **query):
    return asyncio.run(client.get(member, end=time.monotonic() + deadline_s, **query))


def put(client, member, deadline_s=2.0, **fields):
    return asyncio.run(client.put(member, end=time.monotonic() + deadline_s, **fields))


def test_a_request_is_lower_case_in_its_path_and_pascal_case_in_its_fields():
    with talking(lambda _n, _text: reply(1)) as (server, client):
        get(client, "DestinationSideOfPier", RightAscension=1.5, Declination=-2.0)
        put(client, "Tracking", Tracking=True)
    assert server.requests[0].startswith("GET /api/v1/dome/0/destinationsideofpier?RightAscension=1.5&Declination=-2.0&ClientID=")
    assert server.requests[1].startswith("PUT /api/v1/dome/0/tracking HTTP/1.1")
    assert "\nTracking=True&ClientID=" in server.requests[1]


def test_transaction_ids_count_up_from_1():
    with talking(lambda _n, _text: reply(1)) as (server, client):
        for _ in range(3):
            get(client)
    assert [text.split("ClientTransactionID=")[1].split()[0] for text in server.requests] == ["1", "2", "3"]


def test_http_200_with_an_error_number_is_a_failure():
    with (
        talking(lambda _n, _text: reply(12.0, ErrorNumber=0x40B, ErrorMessage="not now")) as (_, client),
        pytest.raises(faults.InvalidOperation, match=r"not now \(error 0x40B\)") as caught,
    ):
        get(client)
    assert caught.value.number == 0x40B


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (0x400, faults.NotImplementedByDevice),
        (0x401, faults.InvalidValue),
        (0x402, faults.ValueNotSet),
        (0x407, faults.NotConnected),
        (0x408, faults.Parked),
        (0x409, faults.Slaved),
        (0x40C, faults.ActionNotImplemented),
        (0x40E, faults.OperationCancelled),
        (0x5FF, faults.DriverFault),
    ],
)
def test_every_error_number_has_its_class(number, kind):
    with talking(lambda _n, _text: reply(None, ErrorNumber=number, ErrorMessage="x")) as (_, client), pytest.raises(kind):
        get(client)


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (reply(status=400, raw=b"bad field"), DeviceFault, "bad field"),
        (reply(status=500, raw=b"broke"), DeviceFault, "HTTP 500"),
        (reply(status=404, raw=b"where"), DeviceFault, "HTTP 404"),
        (reply(raw=b"<html>"), DeviceLied, "not JSON"),
        (reply(raw=b"[1]"), DeviceLied, "not an Alpaca answer"),
        (reply(1, ErrorNumber="many"), DeviceLied, "ErrorNumber"),
        (reply(1, ClientTransactionID=77), DeviceLied, "another question"),
        (b"SSH-2.0-x\r\n\r\n", DeviceLost, "not an HTTP answer"),
        (b"HTTP/1.1 200 OK\r\n\r\n", DeviceLost, "without a length"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999\r\n\r\n", DeviceLost, "announced"),
    ],
)
def test_an_answer_that_is_none_is_named(answer, kind, words):
    with talking(lambda _n, _text: answer) as (_, client), pytest.raises(kind, match=words):
        get(client)


def test_an_echoed_transaction_of_0_is_tolerated():
    with talking(lambda _n, _text: reply(5, ClientTransactionID=0)) as (_, client):
        assert get(client) == 5


def test_after_an_answer_to_another_question_a_new_connection_is_made():
    with talking(lambda n, _text: reply(n, ClientTransactionID=99 if n == 1 else 0)) as (server, client):
        with pytest.raises(DeviceLied):
            get(client)
        assert get(client) == 2
        assert len(server.connections) == 2


def test_chunked_answers_are_read():
    body = json.dumps({"Value": "x" * 50, "ErrorNumber": 0}).encode()
    chunks = b"".join(f"{len(part):x}\r\n".encode() + part + b"\r\n" for part in (body[:7], body[7:30], body[30:]))
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
    with talking(lambda _n, _text: answer) as (server, client):
        assert get(client) == get(client) == "x" * 50
        assert len(server.connections) == 1


def test_the_deadline_holds_over_a_server_that_drips():
    def drip(n, text):
        connection = server.connections[-1]
        whole = reply("slow")
        for i in range(len(whole)):
            connection.sendall(whole[i : i + 1])
            if stop.wait(0.05):
                return

    stop = threading.Event()
    with talking(drip) as (server, client):
        began = time.monotonic()
        with pytest.raises(DeviceTimeout):
            get(client, deadline_s=0.4)
        assert time.monotonic() - began < 0.8
        stop.set()


def test_a_server_that_closed_an_idle_connection_is_noticed_before_an_unsafe_command_is_sent():
    with talking(lambda _n, _text: reply(1)) as (server, client):
        get(client)
        server.connections[0].shutdown(socket.SHUT_RDWR)
        end = time.monotonic() + 2
        while len(server.requests) < 2 and time.monotonic() < end:
            put(client, "OpenShutter")
        assert len([text for text in server.requests if "openshutter" in text]) == 1
        assert len(server.connections) == 2


def test_an_unsafe_command_whose_answer_was_lost_is_not_repeated():
    with talking(lambda _n, _text: None) as (server, client):
        with pytest.raises(DeviceLost):
            put(client, "StartExposure", Duration=1.0, Light=True)
        assert len(server.requests) == 1


def test_a_harmless_command_whose_answer_was_lost_is_repeated_once_on_a_new_socket():
    with talking(lambda n, _text: None if n == 1 else reply()) as (server, client):
        put(client, "CloseShutter", urgent=True, again=True)
        assert len(server.requests) == 2
        assert len(server.connections) == 2


def test_a_refused_connection_is_lost_with_host_and_port_named():
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    client = AlpacaClient(host="127.0.0.1", port=port, device_type="dome", number=0, name="dome")
    with pytest.raises(DeviceLost, match=f"127.0.0.1:{port}"):
        get(client)
    with pytest.raises(DeviceLost, match="a moment ago"):
        get(client)  # backs off
    with pytest.raises(DeviceLost, match=f"127.0.0.1:{port}"):
        put(client, "CloseShutter", urgent=True, again=True)  # what is urgent does not
    client.close()


def test_a_question_whose_asker_gave_up_is_never_sent():
    release = threading.Event()

    def answer(n, text):
        release.wait(3)
        return reply(1)

    async def scene(client):
        first = asyncio.create_task(client.get("Azimuth", end=time.monotonic() + 3))
        await asyncio.sleep(0.05)
        with pytest.raises(DeviceTimeout):
            await client.put("OpenShutter", end=time.monotonic() + 0.1)
        release.set()
        await first

    with talking(answer) as (server, client):
        asyncio.run(scene(client))
        get(client)
        assert not any("openshutter" in text for text in server.requests)


def test_devices_are_imported_without_numpy_astropy_or_zmq():
    code = (
        "import sys, nightbell.devices.alpaca.drivers, nightbell.devices.protocols, nightbell.devices.waiting;"
        "bad = {'numpy', 'astropy', 'zmq', 'sqlite3'} & set(sys.modules); sys.exit(str(bad) if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


def test_an_unknown_kind_of_device_gets_the_nearest_name():
    from nightbell.contracts.errors import BadInput
    from nightbell.devices.registry import open_device
    from nightbell.devices.settings import DeviceSettings

    with pytest.raises(BadInput, match="Did you mean camera"):
        open_device("camra", DeviceSettings(), None)
