"""The open-dome lease: progress renews it, time alone does not."""

from __future__ import annotations

import threading

import pytest

from nightbell.contracts.errors import Refused
from nightbell.telescope.lease import Lease


class Safety:
    """Grants what has grown."""

    def __init__(self) -> None:
        self.renewed: list[int] = []
        self.refuses = False
        self.asked = threading.Event()

    def renew(self, progress: int) -> None:
        if self.refuses:
            raise Refused("rain", where="safety")
        self.renewed.append(progress)
        self.asked.set()


def lease_of(safety: Safety, lost: list[str], gone: threading.Event) -> Lease:
    def lose(reason: str) -> None:
        lost.append(reason)
        gone.set()

    return Lease(safety.renew, lose, every_s=0.01, lost_after_s=0.15)


def test_a_loop_that_makes_progress_keeps_the_lease() -> None:
    safety, lost, gone = Safety(), [], threading.Event()
    lease = lease_of(safety, lost, gone)
    lease.take()
    for _ in range(5):
        safety.asked.clear()
        lease.tick()
        assert safety.asked.wait(5)
    lease.give_back()
    assert safety.renewed == sorted(set(safety.renewed))
    assert lost == []


def test_a_loop_that_stands_still_loses_the_lease_once() -> None:
    safety, lost, gone = Safety(), [], threading.Event()
    lease = lease_of(safety, lost, gone)
    lease.take()
    assert gone.wait(5)
    assert len(safety.renewed) == 1
    lease.give_back()
    assert lost == ["the night's loop has made no progress"]


def test_a_refused_renewal_is_told_in_safetys_words() -> None:
    safety, lost, gone = Safety(), [], threading.Event()
    lease = lease_of(safety, lost, gone)
    lease.take()
    safety.refuses = True
    lease.tick()
    assert gone.wait(5)
    lease.give_back()
    assert "rain" in lost[0]


def test_a_refused_first_renewal_gives_no_lease() -> None:
    safety = Safety()
    safety.refuses = True
    lease = lease_of(safety, [], threading.Event())
    with pytest.raises(Refused):
        lease.take()
    assert not lease.is_held


def test_a_restarted_holder_counts_on_from_above() -> None:
    first = lease_of(Safety(), [], threading.Event())
    first.tick()
    assert lease_of(Safety(), [], threading.Event()).progress >= first.progress - 1
