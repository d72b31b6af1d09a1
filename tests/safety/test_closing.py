"""Closing is ordered, watched and ordered again until the sensor says closed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightbell.safety.closing import Closing, Wish, next_step
from nightbell.safety.evidence import Reading
from nightbell.safety.settings import ClosingSettings

from .air import NOW, seconds

LIMITS = ClosingSettings()


def walk(*moments: tuple[float, str | None], limits: ClosingSettings = LIMITS) -> tuple[Closing | None, list[Wish]]:
    """Fresh readings at NOW + seconds; returns the last course and all wishes."""
    closing: Closing | None = None
    wishes = []
    for after_s, state in moments:
        now_ns = NOW + seconds(after_s)
        shutter = None if state is None else Reading(state, now_ns)
        closing, wish = next_step(closing, wanted=True, shutter=shutter, now_ns=now_ns, limits=limits)
        wishes.append(wish)
    return closing, wishes


def test_a_dome_read_closed_needs_no_order() -> None:
    closing, wishes = walk((0, "closed"))
    assert wishes == [Wish.NOTHING]
    assert closing is not None
    assert closing.verified_ns is not None


@pytest.mark.parametrize("state", ["open", "opening", "closing", "error", None])
def test_d3_anything_but_the_sensor_saying_closed_is_ordered_to_close_at_once(state: str | None) -> None:
    assert walk((0, state))[1] == [Wish.SEND]


def test_closed_is_believed_only_when_read_after_the_order() -> None:
    closing, _ = next_step(None, wanted=True, shutter=Reading("open", NOW), now_ns=NOW, limits=LIMITS)
    old = Reading("closed", NOW - seconds(1))
    closing, _ = next_step(closing, wanted=True, shutter=old, now_ns=NOW + seconds(1), limits=LIMITS)
    assert closing is not None
    assert closing.verified_ns is None
    closing, _ = next_step(closing, wanted=True, shutter=Reading("closed", NOW + 1), now_ns=NOW + seconds(2), limits=LIMITS)
    assert closing is not None
    assert closing.verified_ns is not None


def test_d8_a_close_without_progress_is_sent_again_and_then_calls_a_human() -> None:
    closing, wishes = walk((0, "open"), (5, "open"), (10, "open"), (15, "open"), (20, "open"))
    assert wishes == [Wish.SEND, Wish.NOTHING, Wish.SEND, Wish.NOTHING, Wish.SEND]
    assert closing is not None
    assert "does not close" in closing.problem


def test_a_shutter_that_says_closing_is_given_its_travel_and_half_of_it_more() -> None:
    _, wishes = walk((0, "open"), (10, "closing"), (40, "closing"), (46, "closing"))
    assert wishes == [Wish.SEND, Wish.NOTHING, Wish.NOTHING, Wish.SEND]


def test_an_unknown_shutter_is_ordered_again_and_again() -> None:
    _, wishes = walk(*((10.0 * n, None) for n in range(5)))
    assert wishes == [Wish.SEND] * 5


def test_after_two_orders_without_effect_the_second_path_is_taken() -> None:
    _, wishes = walk(*((10.0 * n, "open") for n in range(4)), limits=ClosingSettings(second_path=("relay", "close")))
    assert wishes == [Wish.SEND, Wish.SEND, Wish.SECOND_PATH, Wish.SECOND_PATH]


def test_a_dome_that_opens_again_while_it_is_unsafe_is_closed_again() -> None:
    _, wishes = walk((0, "closed"), (60, "opening"))
    assert wishes == [Wish.NOTHING, Wish.SEND]


def test_a_stale_closed_is_not_closed() -> None:
    shutter = Reading("closed", NOW - seconds(31))
    assert next_step(None, wanted=True, shutter=shutter, now_ns=NOW, limits=LIMITS)[1] is Wish.SEND


@given(st.lists(st.sampled_from(["open", "closed", "opening", "closing", "error", None]), min_size=1, max_size=60))
def test_while_it_is_not_read_closed_no_longer_than_travel_and_a_half_passes_without_an_order(states: list[str | None]) -> None:
    closing: Closing | None = None
    last_ns = NOW
    for n, state in enumerate(states):
        now_ns = NOW + seconds(5 * n)
        shutter = None if state is None else Reading(state, now_ns)
        closing, wish = next_step(closing, wanted=True, shutter=shutter, now_ns=now_ns, limits=LIMITS)
        if wish is not Wish.NOTHING or state == "closed":
            last_ns = now_ns
        assert now_ns - last_ns <= seconds(1.5 * LIMITS.travel_s + LIMITS.retry_s + 5)
