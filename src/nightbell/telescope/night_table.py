"""The night as one pure table: (state, trigger) -> (next state, action, reason in words).

All transitions of the night stand here, also those that do not fit the table: what a restart resumes (`resume`), where
an abort leads (`AFTER_STOPPING`), and which state ends by which deadline (`DEADLINE_S`). Actions are values; the
dispatcher performs them after the transition is on disk. A pair without a row is refused by `refusal`, in words.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from nightbell.contracts.states import NightState

__all__ = [
    "AFTER_STOPPING",
    "CLOSED_STATES",
    "DEADLINE_S",
    "OPEN_STATES",
    "TABLE",
    "Action",
    "DomeReading",
    "Step",
    "Trigger",
    "entry_action",
    "refusal",
    "resume",
    "step",
]

S = NightState


class Trigger(StrEnum):
    """What can happen to a night."""

    PREPARE = "prepare"
    """Command, or Sun below +5 degrees and falling."""
    PREPARED = "prepared"
    GO_GIVEN = "go_given"
    """Safety's GO token is in hand, and the command or the Sun asks for opening."""
    DOME_READ_BACK_OPEN = "dome_read_back_open"
    FLATS_OVER = "flats_over"
    """The flats wanted are taken, or the Sun is below -12 degrees."""
    DAWN_FLATS = "dawn_flats"
    """The Sun is rising above -12 degrees and flats are still wanted."""
    NO_TARGET = "no_target"
    TARGET = "target"
    NIGHT_OVER = "night_over"
    """The Sun, or nothing left to do."""
    CLOSE_NIGHT = "close_night"
    PAUSE_NIGHT = "pause_night"
    UNSAFE = "unsafe"
    """Verdict, refused GO or lost lease."""
    CLOSED_READ_BACK = "closed_read_back"
    CLOSED_AND_PARKED = "closed_and_parked"
    NOT_CLOSED = "not_closed"
    """A closed state, and the dome does not read back closed, or by day the mount not parked or the cover not closed."""
    MARSHAL_PASSED = "marshal_passed"
    DEVICE_FAILED = "device_failed"
    TIMED_OUT = "timed_out"
    """The state's own deadline has passed."""
    ABORT = "abort"
    WORKERS_DEAD = "workers_dead"
    HUMAN_ON_SITE = "human_on_site"
    RELEASED = "released"
    ACKNOWLEDGED_AND_CLOSED = "acknowledged_and_closed"
    ACKNOWLEDGED_AND_MENDED = "acknowledged_and_mended"


class Action(StrEnum):
    """What the dispatcher does on entering a state."""

    MARSHAL = "marshal"
    """Read back every 15 min by day that all is closed, parked and alive."""
    PREPARE = "prepare"
    """Connect, cool, self test, plan, biases and darks."""
    WAIT_TO_OPEN = "wait_to_open"
    OPEN_DOME = "open_dome"
    TAKE_FLATS = "take_flats"
    START_PLAN = "start_plan"
    WAIT_FOR_TARGETS = "wait_for_targets"
    SHELTER = "shelter"
    """Abort the exposure, close, stop, cover, park."""
    WAIT_IN_SHELTER = "wait_in_shelter"
    CLOSE_NIGHT = "close_night"
    """As shelter, and park the dome, warm up."""
    REPORT = "report"
    CLOSE_BY_EVERY_PATH = "close_by_every_path"
    CLOSE_AND_WAIT_FOR_HUMAN = "close_and_wait_for_human"
    NO_MOTION = "no_motion"
    STOP_ALL = "stop_all"
    KILL_WORKERS = "kill_workers"


class DomeReading(StrEnum):
    """The dome's shutter as read back; everything that is neither open nor closed is `other`."""

    OPEN = "open"
    CLOSED = "closed"
    OTHER = "other"


@dataclass(frozen=True)
class Step:
    """One row's right side."""

    to: NightState
    action: Action
    alarm: bool = False
    """A human is told."""


OPEN_STATES = frozenset({S.OPENING, S.TWILIGHT, S.OBSERVING, S.IDLE_OPEN})
"""The dome is open or about to be; the lease is held."""
CLOSED_STATES = frozenset({S.DAY, S.PREPARING, S.READY, S.PAUSED, S.CLOSED})
"""The dome was read back closed; one reading to the contrary starts sheltering."""
_ACTIVE_CLOSED = CLOSED_STATES - {S.DAY, S.CLOSED}

_TO_CLOSING = Step(S.CLOSING, Action.CLOSE_NIGHT)
_TO_SHELTER = Step(S.SHELTERING, Action.SHELTER)
_TO_DAY = Step(S.DAY, Action.MARSHAL)

TABLE: dict[tuple[NightState, Trigger], Step] = {
    (S.DAY, Trigger.PREPARE): Step(S.PREPARING, Action.PREPARE),
    (S.PREPARING, Trigger.PREPARED): Step(S.READY, Action.WAIT_TO_OPEN),
    (S.PREPARING, Trigger.TIMED_OUT): Step(S.FAULT, Action.CLOSE_AND_WAIT_FOR_HUMAN, alarm=True),
    (S.READY, Trigger.GO_GIVEN): Step(S.OPENING, Action.OPEN_DOME),
    (S.READY, Trigger.NIGHT_OVER): _TO_CLOSING,
    (S.OPENING, Trigger.DOME_READ_BACK_OPEN): Step(S.TWILIGHT, Action.TAKE_FLATS),
    (S.OPENING, Trigger.TIMED_OUT): Step(S.CLOSING, Action.CLOSE_NIGHT, alarm=True),
    (S.TWILIGHT, Trigger.FLATS_OVER): Step(S.OBSERVING, Action.START_PLAN),
    (S.OBSERVING, Trigger.NO_TARGET): Step(S.IDLE_OPEN, Action.WAIT_FOR_TARGETS),
    (S.OBSERVING, Trigger.DAWN_FLATS): Step(S.TWILIGHT, Action.TAKE_FLATS),
    (S.IDLE_OPEN, Trigger.DAWN_FLATS): Step(S.TWILIGHT, Action.TAKE_FLATS),
    (S.IDLE_OPEN, Trigger.TARGET): Step(S.OBSERVING, Action.START_PLAN),
    (S.IDLE_OPEN, Trigger.TIMED_OUT): _TO_CLOSING,
    **{(s, Trigger.NIGHT_OVER): _TO_CLOSING for s in (S.OPENING, S.TWILIGHT, S.OBSERVING, S.IDLE_OPEN, S.PAUSED)},
    **{(s, Trigger.CLOSE_NIGHT): _TO_CLOSING for s in (*sorted(OPEN_STATES | _ACTIVE_CLOSED), S.SHELTERING)},
    **{(s, Trigger.UNSAFE): _TO_SHELTER for s in sorted(OPEN_STATES)},
    **{(s, Trigger.PAUSE_NIGHT): _TO_SHELTER for s in sorted(OPEN_STATES)},
    **{(s, Trigger.NOT_CLOSED): Step(S.SHELTERING, Action.SHELTER, alarm=True) for s in sorted(CLOSED_STATES)},
    (S.SHELTERING, Trigger.CLOSED_READ_BACK): Step(S.PAUSED, Action.WAIT_IN_SHELTER),
    (S.SHELTERING, Trigger.TIMED_OUT): Step(S.STUCK, Action.CLOSE_BY_EVERY_PATH, alarm=True),
    (S.PAUSED, Trigger.GO_GIVEN): Step(S.OPENING, Action.OPEN_DOME),
    (S.CLOSING, Trigger.CLOSED_AND_PARKED): Step(S.CLOSED, Action.REPORT),
    (S.CLOSING, Trigger.TIMED_OUT): Step(S.STUCK, Action.CLOSE_BY_EVERY_PATH, alarm=True),
    (S.CLOSED, Trigger.MARSHAL_PASSED): _TO_DAY,
    **{
        (s, Trigger.DEVICE_FAILED): Step(S.FAULT, Action.CLOSE_AND_WAIT_FOR_HUMAN, alarm=True)
        for s in sorted(OPEN_STATES | {S.PREPARING, S.READY})
    },
    (S.FAULT, Trigger.TIMED_OUT): Step(S.STUCK, Action.CLOSE_BY_EVERY_PATH, alarm=True),
    (S.FAULT, Trigger.ACKNOWLEDGED_AND_MENDED): _TO_DAY,
    (S.STUCK, Trigger.ACKNOWLEDGED_AND_CLOSED): _TO_DAY,
    **{(s, Trigger.ABORT): Step(S.STOPPING, Action.STOP_ALL) for s in S if s is not S.STOPPING},
    (S.STOPPING, Trigger.TIMED_OUT): Step(S.STOPPING, Action.KILL_WORKERS, alarm=True),
    **{(s, Trigger.HUMAN_ON_SITE): Step(S.MANUAL, Action.NO_MOTION) for s in S if s is not S.MANUAL},
    (S.MANUAL, Trigger.RELEASED): _TO_DAY,
}

AFTER_STOPPING: dict[NightState, Step] = {
    # A halted shutter is neither open nor closed: the only way on is closing. An abort never loses a close.
    S.OPENING: _TO_CLOSING,
    S.SHELTERING: _TO_SHELTER,
    S.CLOSING: _TO_CLOSING,
    S.STUCK: Step(S.STUCK, Action.CLOSE_BY_EVERY_PATH),
    S.FAULT: Step(S.FAULT, Action.CLOSE_AND_WAIT_FOR_HUMAN),
    S.MANUAL: Step(S.MANUAL, Action.NO_MOTION),
    # The dome stays as it is, and nothing moves until `resume_night`; the deadline of idle_open closes it.
    **dict.fromkeys((S.TWILIGHT, S.OBSERVING, S.IDLE_OPEN), Step(S.IDLE_OPEN, Action.WAIT_FOR_TARGETS)),
    S.PAUSED: Step(S.PAUSED, Action.WAIT_IN_SHELTER),
    **dict.fromkeys((S.DAY, S.PREPARING, S.READY, S.CLOSED), _TO_DAY),
}
"""Where `stopping` leads once every worker is dead, by the state in which the abort came."""

DEADLINE_S: dict[NightState, float] = {
    S.PREPARING: 45 * 60.0,
    S.OPENING: 120.0,
    S.IDLE_OPEN: 30 * 60.0,
    S.SHELTERING: 90.0,  # plus the shutter's travel, added by the dispatcher
    S.CLOSING: 5 * 60.0,
    S.FAULT: 5 * 60.0,  # to read back closed; afterwards it waits for the human without limit
    S.STOPPING: 15.0,
}
"""World seconds until `TIMED_OUT`; states without an entry have none. Settings may replace that of idle_open."""

_ENTRY: dict[NightState, Action] = {
    S.DAY: Action.MARSHAL,
    S.PREPARING: Action.PREPARE,
    S.READY: Action.WAIT_TO_OPEN,
    S.OPENING: Action.OPEN_DOME,
    S.TWILIGHT: Action.TAKE_FLATS,
    S.OBSERVING: Action.START_PLAN,
    S.IDLE_OPEN: Action.WAIT_FOR_TARGETS,
    S.SHELTERING: Action.SHELTER,
    S.PAUSED: Action.WAIT_IN_SHELTER,
    S.CLOSING: Action.CLOSE_NIGHT,
    S.CLOSED: Action.REPORT,
    S.STUCK: Action.CLOSE_BY_EVERY_PATH,
    S.FAULT: Action.CLOSE_AND_WAIT_FOR_HUMAN,
    S.MANUAL: Action.NO_MOTION,
    S.STOPPING: Action.STOP_ALL,
}


def step(state: NightState, trigger: Trigger, *, stopped_from: NightState | None = None) -> Step | None:
    """What to do next, or None when this trigger means nothing in this state.

    `stopped_from` is the state in which the abort came; only `stopping` looks at it.
    """
    if state is S.STOPPING and trigger is Trigger.WORKERS_DEAD:
        return AFTER_STOPPING.get(stopped_from or S.DAY, _TO_DAY)
    return TABLE.get((state, trigger))


def entry_action(state: NightState) -> Action:
    """The action of being in `state`, as performed when it is entered or resumed."""
    return _ENTRY[state]


_ASKED_FOR = {
    Trigger.PREPARE: "prepared",
    Trigger.GO_GIVEN: "opened",
    Trigger.PAUSE_NIGHT: "paused",
    Trigger.CLOSE_NIGHT: "closed",
}
"""What humans ask for, in their words."""


def refusal(state: NightState, trigger: Trigger) -> str:
    """Why `trigger` does nothing in `state`, and where it would."""
    where = ", ".join(sorted(s.value for s, t in TABLE if t is trigger)) or "stopping"
    verb = _ASKED_FOR.get(trigger)
    only = f"it can be {verb} ({trigger.value}) only in {where}" if verb else f"{trigger.value} means something only in {where}"
    return f"the night's state is {state.value}; {only}"


def resume(state: NightState | None, dome: DomeReading) -> Step:
    """Where a restarted telescope goes on: `state` as persisted (None: unreadable), `dome` as read back just now.

    Called only after all hardware has been read back. Nothing opens from here: an open dome is used again only by
    the states that had opened it, and the safety kernel's GO is asked for again by the dispatcher.
    """
    if state is None or state is S.MANUAL:
        return Step(S.MANUAL, Action.NO_MOTION, alarm=state is None)
    if state in OPEN_STATES:
        if state is S.OPENING:
            return _TO_CLOSING
        if dome is DomeReading.OPEN:
            return Step(state, entry_action(state))
        # Safety closed it meanwhile, or it is half way: shelter reads it back closed and waits there.
        return _TO_SHELTER
    if state in CLOSED_STATES | {S.STOPPING} and dome is not DomeReading.CLOSED:
        return Step(S.SHELTERING, Action.SHELTER, alarm=True)
    if state is S.STOPPING:
        return _TO_DAY
    return Step(state, entry_action(state))
