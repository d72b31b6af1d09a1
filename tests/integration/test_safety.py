"""The dome closes whatever else has died: judged by the simulator's truth, never by our own logs."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nightbell.cli.demo_night import DemoNight, Wishes
from nightbell.cli.demo_show import make_show

LONGEST_S = 150.0


def wait_for(condition: Callable[[], bool], what: str, limit_s: float) -> None:
    until_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < until_s, f"not within {limit_s:g} s: {what}"
        time.sleep(0.1)


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot freeze a process by a signal")
@pytest.mark.timeout(LONGEST_S)
def test_a_frozen_telescope_and_a_frozen_broker_leave_no_dome_open(tmp_path: Path) -> None:
    with DemoNight(Wishes(out=tmp_path / "night"), make_show(to_stderr=True)) as night:
        night.start()
        truth = night.world.truth
        wait_for(lambda: truth()["shutter_state"] == 0, "the dome open after sunset", 60.0)
        frozen = [night.supervisor.children[name].pid for name in ("telescope", "broker:observatory")]
        try:
            for pid in frozen:
                assert pid is not None
                os.kill(pid, signal.SIGSTOP)
            # The lease has a floor of four real seconds; the shutter takes one more.
            wait_for(lambda: bool(truth()["dome_closed"]), "the dome closed by safety alone", 15.0)
        finally:
            for pid in frozen:
                assert pid is not None
                os.kill(pid, signal.SIGCONT)
        # Awake again it asks safety first, and is given a GO when all is well.
        wait_for(lambda: truth()["shutter_state"] == 0, "the dome open again after the telescope woke", 40.0)
        night.world.post("weather", for_s=1e6, rain_rate_mm_per_h=5.0)
        wait_for(lambda: bool(truth()["dome_closed"]), "the dome closed in the rain", 15.0)
        told = truth()
        # The shutter's way takes its time; the rain that fell meanwhile is what the gates allow: moving within three real seconds.
        assert told["rain_in_dome_s"] / told["rate"] < 4.0
