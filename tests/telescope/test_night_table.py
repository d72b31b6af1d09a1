"""The night's table: every row, every absent row, and what no sequence of triggers can do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightbell.contracts.states import NightState as S
from nightbell.telescope.night_table import (
    AFTER_STOPPING,
    CLOSED_STATES,
    DEADLINE_S,
    OPEN_STATES,
    TABLE,
    Action,
    DomeReading,
    Trigger,
    entry_action,
    refusal,
    resume,
    step,
)

T = Trigger

# The published table, written down a second time and by hand: state -> {trigger: next state}.
EVERYWHERE = {T.ABORT: S.STOPPING, T.HUMAN_ON_SITE: S.MANUAL}
EXPECTED: dict[S, dict[T, S]] = {
    S.DAY: {T.PREPARE: S.PREPARING, T.NOT_CLOSED: S.SHELTERING, **EVERYWHERE},
    S.PREPARING: {
        T.PREPARED: S.READY,
        T.TIMED_OUT: S.FAULT,
        T.CLOSE_NIGHT: S.CLOSING,
        T.NOT_CLOSED: S.SHELTERING,
        T.DEVICE_FAILED: S.FAULT,
        **EVERYWHERE,
    },
    S.READY: {
        T.GO_GIVEN: S.OPENING,
        T.NIGHT_OVER: S.CLOSING,
        T.CLOSE_NIGHT: S.CLOSING,
        T.NOT_CLOSED: S.SHELTERING,
        T.DEVICE_FAILED: S.FAULT,
        **EVERYWHERE,
    },
    S.OPENING: {
        T.DOME_READ_BACK_OPEN: S.TWILIGHT,
        T.TIMED_OUT: S.CLOSING,
        T.NIGHT_OVER: S.CLOSING,
        T.CLOSE_NIGHT: S.CLOSING,
        T.UNSAFE: S.SHELTERING,
        T.PAUSE_NIGHT: S.SHELTERING,
        T.DEVICE_FAILED: S.FAULT,
        **EVERYWHERE,
    },
    S.TWILIGHT: {
        T.FLATS_OVER: S.OBSERVING,
        T.NIGHT_OVER: S.CLOSING,
        T.CLOSE_NIGHT: S.CLOSING,
        T.UNSAFE: S.SHELTERING,
        T.PAUSE_NIGHT: S.SHELTERING,
        T.DEVICE_FAILED: S.FAULT,
        **EVERYWHERE,
    },
    S.OBSERVING: {
        T.NO_TARGET: S.IDLE_OPEN,
        T.DAWN_FLATS: S.TWILIGHT,
        T.NIGHT_OVER: S.CLOSING,
        T.CLOSE_NIGHT: S.CLOSING,
        T.UNSAFE: S.SHELTERING,
        T.PAUSE_NIGHT: S.SHELTERING,
        T.DEVICE_FAILED: S.FAULT,
        **EVERYWHERE,
    },
    S.IDLE_OPEN: {
        T.TARGET: S.OBSERVING,
        T.DAWN_FLATS: S.TWILIGHT,
        T.TIMED_OUT: S.CLOSING,
        T.NIGHT_OVER: S.CLOSING,
        T.CLOSE_NIGHT: S.CLOSING,
        T.UNSAFE: S.SHELTERING,
        T.PAUSE_NIGHT: S.SHELTERING,
        T.DEVICE_FAILED: S.FAULT,
        **EVERYWHERE,
    },
    S.SHELTERING: {T.CLOSED_READ_BACK: S.PAUSED, T.TIMED_OUT: S.STUCK, T.CLOSE_NIGHT: S.CLOSING, **EVERYWHERE},
    S.PAUSED: {
        T.GO_GIVEN: S.OPENING,
        T.NIGHT_OVER: S.CLOSING,
        T.CLOSE_NIGHT: S.CLOSING,
        T.NOT_CLOSED: S.SHELTERING,
        **EVERYWHERE,
    },
    S.CLOSING: {T.CLOSED_AND_PARKED: S.CLOSED, T.TIMED_OUT: S.STUCK, **EVERYWHERE},
    S.CLOSED: {T.MARSHAL_PASSED: S.DAY, T.NOT_CLOSED: S.SHELTERING, **EVERYWHERE},
    S.STUCK: {T.ACKNOWLEDGED_AND_CLOSED: S.DAY, **EVERYWHERE},
    S.FAULT: {T.ACKNOWLEDGED_AND_MENDED: S.DAY, T.TIMED_OUT: S.STUCK, **EVERYWHERE},
    S.MANUAL: {T.RELEASED: S.DAY, T.ABORT: S.STOPPING},
    S.STOPPING: {T.TIMED_OUT: S.STOPPING, T.HUMAN_ON_SITE: S.MANUAL},
}


@pytest.mark.parametrize("state", list(S))
def test_every_row_and_every_absent_row_is_as_published(state: S) -> None:
    for trigger in Trigger:
        if state is S.STOPPING and trigger is T.WORKERS_DEAD:
            continue
        answer = step(state, trigger)
        assert (answer.to if answer else None) == EXPECTED[state].get(trigger), (state, trigger)


@pytest.mark.parametrize("state", list(S))
def test_an_absent_row_is_refused_with_its_reason(state: S) -> None:
    for trigger in Trigger:
        if step(state, trigger) is None:
            assert state.value in refusal(state, trigger)
            assert trigger.value in refusal(state, trigger)


def test_each_row_enters_its_state_with_that_states_action() -> None:
    for (state, trigger), row in TABLE.items():
        if row.action is not Action.KILL_WORKERS:
            assert row.action is entry_action(row.to), (state, trigger)


def test_a_state_with_a_deadline_has_a_row_for_it() -> None:
    assert all(step(state, T.TIMED_OUT) for state in DEADLINE_S)


def test_every_open_state_shelters_when_unsafe() -> None:
    assert all(TABLE[state, T.UNSAFE].to is S.SHELTERING for state in OPEN_STATES)


def test_an_abort_never_loses_a_close() -> None:
    for state in (S.OPENING, S.SHELTERING, S.CLOSING, S.STUCK, S.FAULT):
        row = AFTER_STOPPING[state]
        assert row.action in {
            Action.SHELTER,
            Action.CLOSE_NIGHT,
            Action.CLOSE_BY_EVERY_PATH,
            Action.CLOSE_AND_WAIT_FOR_HUMAN,
        }


def test_nothing_opens_from_manual_but_through_day() -> None:
    reached = {row.to for (state, _), row in TABLE.items() if state is S.MANUAL}
    assert reached == {S.DAY, S.STOPPING}
    assert AFTER_STOPPING[S.MANUAL].to is S.MANUAL


class Walk:
    """A night walked by the table alone, remembering what the dome was last read back as."""

    def __init__(self, state: S) -> None:
        self.state = state
        self.stopped_from = S.DAY
        self.read_back_open = state in OPEN_STATES - {S.OPENING}
        self.plan_started_unread = False
        self.go_given = True
        self.opened_without_go = False

    def go(self, trigger: Trigger) -> None:
        row = step(self.state, trigger, stopped_from=self.stopped_from)
        if row is None:
            return
        if row.action is Action.STOP_ALL:
            self.stopped_from = self.state
        if trigger is T.DOME_READ_BACK_OPEN:
            self.read_back_open = True
        if row.to in {S.SHELTERING, S.CLOSING, S.FAULT, S.STUCK, S.OPENING, S.MANUAL}:
            self.read_back_open = False
        if row.action in {Action.START_PLAN, Action.TAKE_FLATS, Action.WAIT_FOR_TARGETS} and not self.read_back_open:
            self.plan_started_unread = True
        if row.action is Action.OPEN_DOME and trigger is not T.GO_GIVEN:
            self.opened_without_go = True
        self.state = row.to


@given(st.lists(st.sampled_from(list(Trigger)), max_size=60), st.sampled_from(sorted(CLOSED_STATES)))
def test_no_sequence_of_triggers_starts_the_plan_without_reading_the_dome_back(triggers: list[Trigger], start: S) -> None:
    walk = Walk(start)
    for trigger in triggers:
        walk.go(trigger)
    assert not walk.plan_started_unread
    assert not walk.opened_without_go


@given(st.lists(st.sampled_from(list(Trigger)), max_size=40), st.sampled_from(list(S)))
def test_from_wherever_a_night_has_come_closing_is_reached_by_time_outs_and_a_human_alone(triggers: list[Trigger], start: S) -> None:
    walk = Walk(start)
    for trigger in triggers:
        walk.go(trigger)
    for _ in range(8):
        for trigger in (T.WORKERS_DEAD, T.UNSAFE, T.CLOSED_READ_BACK, T.NIGHT_OVER, T.CLOSED_AND_PARKED, T.MARSHAL_PASSED, T.RELEASED):
            walk.go(trigger)
        walk.go(T.ACKNOWLEDGED_AND_CLOSED)
        walk.go(T.ACKNOWLEDGED_AND_MENDED)
    assert walk.state in {S.DAY, S.PREPARING}


@pytest.mark.parametrize("state", list(S))
@pytest.mark.parametrize("dome", list(DomeReading))
def test_a_restart_never_opens_and_never_leaves_an_open_dome_in_a_closed_state(state: S, dome: DomeReading) -> None:
    row = resume(state, dome)
    assert row.action is not Action.OPEN_DOME
    if dome is not DomeReading.CLOSED:
        assert row.to not in CLOSED_STATES
    if dome is not DomeReading.OPEN:
        assert row.to not in OPEN_STATES


@pytest.mark.parametrize(
    ("state", "dome", "to"),
    [
        (S.DAY, DomeReading.CLOSED, S.DAY),
        (S.PREPARING, DomeReading.CLOSED, S.PREPARING),
        (S.READY, DomeReading.CLOSED, S.READY),
        (S.OPENING, DomeReading.OPEN, S.CLOSING),
        (S.OPENING, DomeReading.CLOSED, S.CLOSING),
        (S.TWILIGHT, DomeReading.OPEN, S.TWILIGHT),
        (S.OBSERVING, DomeReading.OPEN, S.OBSERVING),
        (S.OBSERVING, DomeReading.CLOSED, S.SHELTERING),
        (S.IDLE_OPEN, DomeReading.OTHER, S.SHELTERING),
        (S.SHELTERING, DomeReading.CLOSED, S.SHELTERING),
        (S.PAUSED, DomeReading.CLOSED, S.PAUSED),
        (S.PAUSED, DomeReading.OPEN, S.SHELTERING),
        (S.CLOSING, DomeReading.OPEN, S.CLOSING),
        (S.CLOSED, DomeReading.CLOSED, S.CLOSED),
        (S.STUCK, DomeReading.CLOSED, S.STUCK),
        (S.FAULT, DomeReading.OPEN, S.FAULT),
        (S.MANUAL, DomeReading.OPEN, S.MANUAL),
        (S.STOPPING, DomeReading.CLOSED, S.DAY),
        (S.STOPPING, DomeReading.OPEN, S.SHELTERING),
    ],
)
def test_a_restart_resumes_as_published(state: S, dome: DomeReading, to: S) -> None:
    assert resume(state, dome).to is to


def test_an_unreadable_state_is_manual_with_an_alarm() -> None:
    row = resume(None, DomeReading.OPEN)
    assert row.to is S.MANUAL
    assert row.alarm
