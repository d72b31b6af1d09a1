"""The dome closes whatever else has died: judged by the simulator's truth, never by our own logs."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from nightbell.cli.demo_night import DemoNight, Wishes
from nightbell.cli.demo_show import make_show

LONGEST_S = 150.0


def wait_for(condition: Callable[[], bool], what: str, limit_s: float) -> None:
    until_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < until_s, f"not within {limit_s:g} s: {what}"
        time.sleep(0.1)


pytestmark = [
    pytest.mark.skipif(os.name == "nt", reason="Windows cannot freeze a process by a signal"),
    pytest.mark.timeout(LONGEST_S),
]


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoNight]:
    """A night without targets, its dome open from sunset on; one for all tests of this file."""
    with DemoNight(Wishes(out=tmp_path_factory.mktemp("safety") / "night"), make_show(to_stderr=True)) as running:
        running.start()
        yield running


@contextmanager
def frozen(night: DemoNight, *names: str) -> Iterator[None]:
    """These processes stand still; their sockets stay open, and nobody is told."""
    pids = [night.supervisor.children[name].pid for name in names]
    assert None not in pids
    try:
        for pid in pids:
            os.kill(pid or 0, signal.SIGSTOP)
        yield
    finally:
        for pid in pids:
            os.kill(pid or 0, signal.SIGCONT)


def wait_until_open(night: DemoNight, limit_s: float) -> None:
    wait_for(lambda: night.world.truth()["shutter_state"] == 0, "the dome open", limit_s)


def test_a_frozen_safety_leaves_no_dome_open(night: DemoNight) -> None:
    wait_until_open(night, 60.0)
    with frozen(night, "safety"):
        # The telescope gets no answer: its lease is lost after a floor of two real seconds, and it closes by itself.
        wait_for(lambda: bool(night.world.truth()["dome_closed"]), "the dome closed by the telescope alone", 20.0)


def test_a_frozen_telescope_and_a_frozen_broker_leave_no_dome_open(night: DemoNight) -> None:
    # Awake again, safety is asked first, and gives a GO when all is well.
    wait_until_open(night, 40.0)
    with frozen(night, "telescope", "broker:observatory"):
        # The lease has a floor of four real seconds; the shutter takes one more.
        wait_for(lambda: bool(night.world.truth()["dome_closed"]), "the dome closed by safety alone", 15.0)


def test_rain_closes_the_dome_before_it_is_wet_inside(night: DemoNight) -> None:
    wait_until_open(night, 40.0)
    night.world.post("weather", for_s=1e6, rain_rate_mm_per_h=5.0)
    wait_for(lambda: bool(night.world.truth()["dome_closed"]), "the dome closed in the rain", 15.0)
    told = night.world.truth()
    # The shutter's way takes its time; the rain that fell meanwhile is what the gates allow: moving within three real seconds.
    assert told["rain_in_dome_s"] / told["rate"] < 4.0
