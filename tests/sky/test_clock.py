"""The world's clock against a real HTTP server: the mapping, its changes, and a simulator that is late, wrong or gone."""

from __future__ import annotations

import asyncio
import http.server
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from nightbell.contracts.errors import BadInput, Missing
from nightbell.settings import ClockSettings
from nightbell.sky import clock as clock_module
from nightbell.sky.clock import Clock, make_clock

T0_NS = 1_807_571_405_123_000_000


class Told:
    """A server whose answer can be changed, and which can go away."""

    def __init__(self, port: int = 0) -> None:
        told = self
        self.body = b""
        self.asked = threading.Semaphore(0)

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = told.body
                if body.startswith(b"HTTP"):
                    self.wfile.write(b"no http at all\r\n\r\n")
                else:
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                told.asked.release()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/sim/clock"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def tell(self, rate: float, t0_ns: int = T0_NS) -> None:
        self.body = json.dumps({"t0_ns": str(t0_ns), "m0_ns": str(time.monotonic_ns()), "rate": rate}).encode()

    def wait_until_asked(self, times: int) -> None:
        while self.asked.acquire(blocking=False):
            pass
        for _ in range(times):
            assert self.asked.acquire(timeout=10)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[Told]:
    monkeypatch.setattr(clock_module, "REREAD_S", 0.02)
    told = Told()
    told.tell(60.0)
    yield told
    told.close()


def of(told: Told) -> Clock:
    return make_clock(ClockSettings(kind="simulator", url=told.url))


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until, "it did not come true in 10 s"
        threading.Event().wait(0.005)


def test_the_systems_clock_is_utc_and_a_second_is_a_second() -> None:
    clock = make_clock(ClockSettings())
    assert abs(clock.now_ns() - time.time_ns()) < 1_000_000_000
    assert clock.rate == 1.0
    assert clock.real_s(30.0) == 30.0
    assert clock.real_s(0.001, floor_s=0.5) == 0.5


def test_the_worlds_time_is_t0_plus_rate_times_the_monotonic_clock_since_m0(world: Told) -> None:
    clock = of(world)
    told = json.loads(world.body)
    before = time.monotonic_ns()
    now = clock.now_ns()
    after = time.monotonic_ns()
    low, high = (T0_NS + 60 * (at - int(told["m0_ns"])) for at in (before, after))
    assert low <= now <= high
    assert clock.real_s(120.0) == pytest.approx(2.0)


def test_a_new_rate_is_known_after_the_next_reading(world: Told) -> None:
    clock = of(world)
    world.tell(5.0)
    wait_for(lambda: clock.rate == 5.0)


def test_time_goes_on_as_it_went_when_the_simulator_is_gone(world: Told) -> None:
    clock = of(world)
    world.close()
    before = clock.now_ns()
    assert not clock.sleep_blocking(6.0)
    assert clock.now_ns() - before >= 6_000_000_000
    assert clock.rate == 60.0


def test_a_simulator_that_comes_back_is_heard_again(world: Told) -> None:
    clock = of(world)
    port = int(world.url.split(":")[2].split("/")[0])
    world.close()
    again = Told(port)
    again.tell(7.0, T0_NS + 10**15)
    wait_for(lambda: clock.rate == 7.0)
    assert clock.now_ns() > T0_NS + 10**15
    again.close()


@pytest.mark.parametrize(
    "body",
    [
        b"HTTP is not what it speaks",
        b"",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"t0_ns": "1", "m0_ns": "1"}',
        b'{"t0_ns": "1", "m0_ns": "1", "rate": 0}',
        b'{"t0_ns": "1", "m0_ns": "1", "rate": -3}',
        b'{"t0_ns": "1", "m0_ns": "1", "rate": NaN}',
        b'{"t0_ns": "1", "m0_ns": 1e999, "rate": 1}',
    ],
)
def test_a_wrong_answer_changes_nothing_and_the_next_right_one_is_heard(world: Told, body: bytes) -> None:
    clock = of(world)
    world.body = body
    world.wait_until_asked(2)
    assert clock.rate == 60.0
    assert clock.now_ns() > T0_NS
    world.tell(9.0)
    wait_for(lambda: clock.rate == 9.0)


def test_a_clock_waits_for_a_simulator_that_starts_later() -> None:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    made: list[Clock] = []
    waiting = threading.Thread(
        target=lambda: made.append(make_clock(ClockSettings(kind="simulator", url=f"http://127.0.0.1:{port}/sim/clock"))), daemon=True
    )
    waiting.start()
    waiting.join(0.3)
    assert not made
    late = Told(port)
    late.tell(60.0)
    waiting.join(10)
    assert made[0].rate == 60.0
    late.close()


def test_a_simulator_that_never_comes_is_missing_with_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock_module, "FIRST_ANSWER_S", 0.0)
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{one.getsockname()[1]}/sim/clock"
    with pytest.raises(Missing, match="nightbell run simulator") as caught:
        make_clock(ClockSettings(kind="simulator", url=url))
    assert caught.value.where == url


@pytest.mark.parametrize("url", ["", "file:///etc/passwd", "127.0.0.1:8000"])
def test_an_address_that_is_none_is_refused_at_once(url: str) -> None:
    began = time.monotonic()
    with pytest.raises(BadInput, match=r"clock\.url"):
        make_clock(ClockSettings(kind="simulator", url=url))
    assert time.monotonic() - began < 5


def test_the_proxy_of_the_environment_is_not_asked_for_the_worlds_time(world: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock_module, "FIRST_ANSWER_S", 0.0)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    assert of(world).rate == 60.0


def test_a_sleep_of_a_world_hour_ends_when_the_world_is_hurried(world: Told) -> None:
    world.tell(1.0)
    clock = of(world)
    began = clock.now_ns()
    slept = threading.Thread(target=clock.sleep_blocking, args=(3600.0,), daemon=True)
    slept.start()
    world.tell(1e6, T0_NS)
    slept.join(10)
    assert not slept.is_alive()
    assert clock.now_ns() - began >= 3600 * 10**9


def test_sleeping_takes_the_worlds_seconds_in_a_coroutine_and_in_a_thread(world: Told) -> None:
    clock = of(world)
    for sleep in (lambda: asyncio.run(clock.sleep(6.0)), lambda: clock.sleep_blocking(6.0)):
        before, real = clock.now_ns(), time.monotonic()
        sleep()
        assert clock.now_ns() - before >= 6_000_000_000
        assert time.monotonic() - real < 5


@pytest.mark.parametrize("kind", ["system", "simulator"])
def test_a_blocking_sleep_ends_at_once_when_it_is_told_to_stop(world: Told, kind: str) -> None:
    clock = make_clock(ClockSettings(kind=kind, url=world.url if kind == "simulator" else ""))
    stop = threading.Event()
    stop.set()
    assert clock.sleep_blocking(1e6, stop)


def test_the_clock_brings_neither_astropy_nor_numpy_nor_zmq() -> None:
    look = "import sys, nightbell.sky.clock; print([name for name in ('astropy', 'numpy', 'zmq', 'erfa') if name in sys.modules])"
    done: Any = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
