"""The client's side of a session, on a real broker."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from nightbell.bus.client import Client
from nightbell.settings import Installation

from .small_site import make_site, running_broker, wait_until


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Installation]:
    monkeypatch.setattr("nightbell.bus.client.HEARTBEAT_S", 0.2)
    made = make_site(tmp_path / "conf")
    with running_broker(made):
        yield made


@contextlib.contextmanager
def client(site: Installation, fenced: list[str], state: Callable[[], dict[str, Any]] = dict) -> Iterator[Client]:
    """A session under the name `telescope` with a lease of two seconds."""
    one = Client(
        site.settings.brokers["observatory"].door,
        name="telescope",
        site="test",
        broker="observatory",
        log=structlog.get_logger(),
        lease_ms=2000,
        state=state,
        on_fenced=fenced.append,
    )
    one.start()
    try:
        yield one
    finally:
        one.end()


def test_who_slept_through_its_lease_is_told_to_stop_when_another_has_its_name(site: Installation) -> None:
    awake, fenced, fenced_too = threading.Event(), list[str](), list[str]()
    awake.set()

    def sleepy() -> dict[str, Any]:
        awake.wait(30.0)
        return {}

    with client(site, fenced, sleepy) as first:
        wait_until(lambda: first.connected, "the first session")
        awake.clear()
        with client(site, fenced_too) as second:
            wait_until(lambda: second.connected, "the newer process has the name")
            assert second.fence > first.fence
            awake.set()
            wait_until(lambda: bool(fenced), "the older one told to stop")
            assert "runs already" in fenced[0]
            assert second.connected
    assert fenced_too == []


def test_a_second_process_stops_when_the_first_one_lives_on(site: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nightbell.bus.client.SILENCE_S", 2.0)
    fenced, fenced_too = list[str](), list[str]()
    with client(site, fenced) as first:
        wait_until(lambda: first.connected, "the first session")
        with client(site, fenced_too) as second:
            wait_until(lambda: bool(fenced_too), "the second told to stop")
            assert "runs already" in second.refusal
    assert fenced == []
