"""A small installation with real brokers in threads of this process, for tests of the bus."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from nightbell.bus.broker import Broker
from nightbell.bus.module import Module, Turn, on
from nightbell.bus.tuning import BrokerTuning
from nightbell.contracts.events import AlarmAcknowledged, AlarmRaised
from nightbell.settings import Installation, load_installation

PATIENCE_S = 20.0


def free_ports(n: int) -> list[int]:
    """Ports that are free now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(n)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def make_site(folder: Path, brokers: tuple[str, ...] = ("observatory",), *, keys: str = "", modules: str = "") -> Installation:
    """An installation with these brokers on free loopback ports."""
    lines = [f'run = [{modules}]\nhome = "state"\nkeys = "{keys}"\n[site]\nname = "test"\nlatitude_deg = 0.0\nlongitude_deg = 0.0']
    for name in brokers:
        door, feed = free_ports(2)
        lines.append(f'[brokers.{name}]\ndoor = "tcp://127.0.0.1:{door}"\nfeed = "tcp://127.0.0.1:{feed}"')
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "modules").mkdir(exist_ok=True)
    (folder / "observatory.toml").write_text("\n".join(lines), encoding="utf-8")
    return load_installation(folder)


class RunningBroker:
    """A broker in a thread; `stop` and `start` as often as wished, on the same journal."""

    def __init__(self, installation: Installation, name: str = "observatory", curve: Callable[[Any], None] | None = None) -> None:
        self.installation, self.name, self.curve = installation, name, curve
        self.start()

    def start(self) -> None:
        settings = self.installation.settings.brokers[self.name]
        self.broker = Broker(
            self.installation.state_folder(f"broker-{self.name}"),
            name=self.name,
            site="test",
            door=settings.door,
            feed=settings.feed,
            tuning=BrokerTuning(reserve_mib=0.0),
            curve=self.curve,
        )
        self._thread = threading.Thread(target=self.broker.run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self.broker.stop()
        self._thread.join(timeout=PATIENCE_S)
        assert not self._thread.is_alive()


@contextlib.contextmanager
def running_broker(installation: Installation, name: str = "observatory", **more: Any) -> Iterator[RunningBroker]:
    broker = RunningBroker(installation, name, **more)
    try:
        yield broker
    finally:
        broker.stop()


@contextlib.contextmanager
def living(module: Module[Any]) -> Iterator[Module[Any]]:
    """A module at work in a thread."""
    ready = threading.Event()
    thread = threading.Thread(target=module.live, args=(lambda _endpoint: ready.set(),), daemon=True)
    thread.start()
    try:
        assert ready.wait(PATIENCE_S)
        yield module
    finally:
        module.stopping.set()
        thread.join(timeout=PATIENCE_S)
        assert not thread.is_alive()


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Until `condition` holds; fails by name when it does not within twenty seconds."""
    until = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until, f"not within {PATIENCE_S:g} s: {what}"
        threading.Event().wait(0.01)


class CounterState(msgspec.Struct):
    heard: list[str] = []
    effects: int = 0


class Counter(Module[CounterState]):
    """Counts alarms, and acknowledges each."""

    name = "counter"
    state_type = CounterState
    schema = "CREATE TABLE IF NOT EXISTS seen (alarm_id TEXT NOT NULL);"

    def start(self) -> None:
        self.fail_on: set[str] = set()
        self.fail_with: dict[str, Exception] = {}
        self.tried: list[str] = []

    @on("alarm.raised", max_attempts=3)
    def count(self, event: AlarmRaised, turn: Turn[CounterState]) -> None:
        self.tried.append(event.alarm_id)
        turn.state.heard.append(event.alarm_id)
        turn.state.effects += 1
        turn.execute("INSERT INTO seen (alarm_id) VALUES (?)", (event.alarm_id,))
        turn.publish(AlarmAcknowledged(alarm_id=event.alarm_id, key=event.key, by="counter"), "test")
        if event.alarm_id in self.fail_with:
            raise self.fail_with[event.alarm_id]
        if event.alarm_id in self.fail_on:
            raise ValueError(f"cannot count {event.alarm_id}")

    def state(self) -> CounterState:
        with self.turn() as turn:
            return turn.state

    def seen(self) -> list[str]:
        with self.turn() as turn:
            return [str(row[0]) for row in turn.query("SELECT alarm_id FROM seen")]


def alarm(n: int | str) -> AlarmRaised:
    return AlarmRaised(alarm_id=str(n), key="test", severity="info", text=f"alarm {n}")  # type: ignore[arg-type]
