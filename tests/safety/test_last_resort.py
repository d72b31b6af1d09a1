"""Safety that cannot start closes the dome before it says why. Judged by the world's truth log."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nightbell.cli.installation_copy import copy_installation
from nightbell.safety.last_resort import close_anyway
from nightbell.simulator.process import SimulatedObservatory, in_thread

from .test_kernel import SITE, TRAVEL_S, WORLD, put, quick_settings, until


@pytest.fixture
def opened() -> Iterator[SimulatedObservatory]:
    with in_thread(WORLD, SITE) as simulator:
        put(simulator, "openshutter")
        until(lambda: simulator.truth()["shutter_state"] == 0, 10 * TRAVEL_S)
        yield simulator


def test_the_dome_is_closed_and_read_back(opened: SimulatedObservatory) -> None:
    assert close_anyway(quick_settings(opened.port), why="test")
    assert opened.truth()["dome_closed"]


def test_a_driver_that_was_started_again_is_connected_and_closed(opened: SimulatedObservatory) -> None:
    opened.post("fault", device="dome", member="*", kind="driver_restart")
    assert close_anyway(quick_settings(opened.port), why="test")
    assert opened.truth()["dome_closed"]


def test_a_dome_that_cannot_be_reached_is_given_up_so_that_the_cause_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nightbell.safety.last_resort.REACH_S", 1.0)
    assert not close_anyway(quick_settings(1), why="test")


@pytest.mark.skipif(os.name == "nt", reason="the state folder is made unusable by the rules of POSIX")
def test_a_process_that_cannot_keep_its_state_closes_the_dome_and_names_the_cause(opened: SimulatedObservatory, tmp_path: Path) -> None:
    conf = copy_installation("demo", tmp_path / "conf")
    for file in (conf / "observatory.toml", conf / "modules" / "safety.toml"):
        text = re.sub(r"(?m)^port = \d+", f"port = {opened.port}", file.read_text(encoding="utf-8"))
        file.write_text(re.sub(r"http://127.0.0.1:\d+", f"http://127.0.0.1:{opened.port}", text), encoding="utf-8")
    (conf / "state").mkdir()
    (conf / "state" / "safety").write_text("a file where a folder should be", encoding="utf-8")
    command = [sys.executable, "-m", "nightbell", "run", "safety", "--conf", str(conf)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert opened.truth()["dome_closed"], done.stderr
    assert done.returncode == 1
    assert "nightbell: " in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
