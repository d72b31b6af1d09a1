"""SIGKILL of every process during the night, each at a moment that a seed chooses: nothing is lost, no effect is repeated.

The supervisor starts a killed process again, as `nightbell up` does. Judged from the disks and by the simulator's truth.
"""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path

import pytest

from nightbell.cli.demo_night import DemoNight, Wishes
from nightbell.cli.demo_show import make_show

SEED = 20270412
FIRST_S, LAST_S = 5.0, 75.0
"""From just after the start until the last observations."""
LONGEST_S = 300.0


class Killer(threading.Thread):
    """Kills each name once, at its moment, or as soon after it as the process runs."""

    def __init__(self, night: DemoNight, moments: list[tuple[float, str]]) -> None:
        super().__init__(daemon=True)
        self.night, self.moments = night, moments
        self.killed: list[tuple[float, str]] = []
        self.over = threading.Event()

    def run(self) -> None:
        began_s = time.monotonic()
        for at_s, name in self.moments:
            if self.over.wait(max(0.0, at_s - (time.monotonic() - began_s))):
                return
            while self.night.supervisor.children[name].pid is None:
                if self.over.wait(0.05):
                    return
            self.night.supervisor.kill(name)
            self.killed.append((at_s, name))


@pytest.mark.timeout(LONGEST_S)
def test_every_process_may_be_killed_at_any_moment_of_the_night(tmp_path: Path) -> None:
    kill_each_once(tmp_path, SEED)


@pytest.mark.slow
@pytest.mark.timeout(LONGEST_S)
@pytest.mark.parametrize("seed", range(1, 7))
def test_at_other_moments_too(tmp_path: Path, seed: int) -> None:
    kill_each_once(tmp_path, seed)


def kill_each_once(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    show = make_show(to_stderr=True)
    with DemoNight(Wishes(out=tmp_path / "night", limit_s=LONGEST_S - 60), show) as night:
        moments = sorted((chance.uniform(FIRST_S, LAST_S), name) for name in night.names)
        night.start()
        killer = Killer(night, moments)
        killer.start()
        night.watch()
        killer.over.set()
        killer.join()
        night.end()
        told = night.summary()
        story = night.story()
    assert [name for _, name in killer.killed] == [name for _, name in moments], f"seed {seed}"
    restarts = {name: child.n_restarts for name, child in night.supervisor.children.items()}
    assert all(n >= 1 for n in restarts.values()), restarts
    assert told["missing"] == [], f"seed {seed}: {told['missing']}"
    assert story.audit is not None
    assert story.audit.lost == (), f"seed {seed}"
    assert story.audit.duplicates == (), f"seed {seed}"
    assert told["dome_closed"] is True
    assert told["transient"]["found"]["separation_arcsec"] < 3
