"""The world goes on when its server is killed; ended in order, it is forgotten."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nightbell.contracts.instants import parse_utc
from nightbell.simulator.process import SimulatedObservatory
from nightbell.simulator.settings import SimulatorSettings

INSTALLATION = """
run = ["simulator"]
home = "state"
[site]
name = "test"
latitude_deg = -29.2567
longitude_deg = -70.7377
[brokers.observatory]
door = "tcp://127.0.0.1:1"
feed = "tcp://127.0.0.1:2"
"""


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    (tmp_path / "modules").mkdir()
    (tmp_path / "observatory.toml").write_text(INSTALLATION, encoding="utf-8")
    (tmp_path / "modules" / "simulator.toml").write_text(
        f'start_utc = "{SimulatorSettings().start_utc}"\nrate = 60.0\nport = 0\n', encoding="utf-8"
    )
    return tmp_path


class Server:
    """The simulator's real process."""

    def __init__(self, conf: Path) -> None:
        command = [sys.executable, "-m", "nightbell", "run", "simulator", "--conf", str(conf)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        ready: dict[str, Any] = json.loads(self.process.stdout.readline().removeprefix("READY "))
        token = (conf / "state" / "simulator" / "side-channel.token").read_text(encoding="utf-8").strip()
        self.world = SimulatedObservatory(int(ready["alpaca"].rpartition(":")[2]), token)

    def end(self, *, kill: bool) -> None:
        if kill:
            self.process.kill()
        else:
            self.process.send_signal(signal.SIGTERM)
        self.process.communicate(timeout=20)


@pytest.fixture
def serve(conf: Path) -> Iterator[Callable[[], Server]]:
    """Starts a server; none outlives the test."""
    started: list[Server] = []

    def start() -> Server:
        started.append(Server(conf))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.end(kill=True)


def test_time_and_transients_go_on_after_a_kill_and_begin_anew_after_an_end_in_order(conf: Path, serve: Callable[[], Server]) -> None:
    first = serve()
    first.world.post("transient", ra_deg=197.0, dec_deg=-23.0, mag={"r": 17.0})
    memory = conf / "state" / "simulator" / "world.json"
    # Written at most every 0.2 s: wait until the transient is in it.
    while not (memory.is_file() and json.loads(memory.read_text(encoding="utf-8"))["transients"]):
        pass
    clock, before, seen_at = first.world.clock(), first.world.truth(), time.monotonic()
    first.end(kill=True)
    second = serve()
    after = second.world.truth()
    assert second.world.clock() == clock
    gone_s = (parse_utc(after["now_utc"]) - parse_utc(before["now_utc"])) / 1e9
    assert 0 < gone_s < clock["rate"] * (time.monotonic() - seen_at + 1)
    assert after["transients"] == before["transients"]
    assert after["mount"]["parked"] is True
    assert second.world.token == first.world.token
    second.end(kill=False)
    third = serve()
    assert third.world.truth()["transients"] == []
    # Another night, at the same hour: the observatory around it remembers the one before.
    assert int(third.world.clock()["t0_ns"]) - int(clock["t0_ns"]) == 86_400_000_000_000
    third.end(kill=False)
