"""Which button sends which command to whom, who may press it, and how carefully it is asked.

C0  makes things safer: never a dialog, never disabled, works without JavaScript and without the broker
C1  reversible: one click
C2  moves or opens: a page with the evidence first, and a token that dies when the state changes
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from nightbell.contracts.commands import (
    Abort,
    AcknowledgeAlarm,
    CalibrateNight,
    CloseDome,
    CloseNight,
    Command,
    OpenNight,
    PauseNight,
    PrepareNight,
    ResumeNight,
    TestAlarm,
)
from nightbell.contracts.errors import BadInput

__all__ = ["ACTIONS", "Action"]

Fields = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Action:
    """One button."""

    verb: str
    label: str
    care: str
    """C0, C1 or C2."""
    role: str
    """The least role that may."""
    commands: Callable[[Fields, str], tuple[Command, ...]]
    """(fields of the form, who) -> commands, all sent at once, each to its own module."""
    timeout_s: float = 10.0
    explains: str = ""


def _night(fields: Fields) -> str:
    night = fields.get("night", "").strip()
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", night):
        raise BadInput(f"{night[:40]!r} is no night", where="night", remedy="Give it as 2027-04-12")
    return night


def _alarm_id(fields: Fields) -> str:
    alarm_id = fields.get("alarm_id", "").strip()
    if not 0 < len(alarm_id) <= 100:
        raise BadInput("is missing", where="alarm_id", remedy="Press the button beside an alarm")
    return alarm_id


ACTIONS: dict[str, Action] = {
    action.verb: action
    for action in (
        Action(
            "abort",
            "ABORT",
            "C0",
            "observer",
            lambda _, who: (Abort(), CloseDome(reason=f"abort by {who}")),
            timeout_s=5.0,
            explains="stops every motion and the exposure, and closes the dome",
        ),
        Action(
            "close",
            "CLOSE",
            "C0",
            "observer",
            lambda _, who: (CloseNight(reason=f"asked by {who}"), CloseDome(reason=f"asked by {who}")),
            explains="ends the night; the dome is closed by the telescope and by safety",
        ),
        Action(
            "pause", "Pause", "C0", "operator", lambda _, who: (PauseNight(reason=f"asked by {who}"),), explains="closes the dome and waits"
        ),
        Action("prepare", "Prepare night", "C1", "operator", lambda *_: (PrepareNight(),), explains="connects, cools, checks, plans"),
        Action("open", "Open night", "C2", "operator", lambda *_: (OpenNight(),), explains="opens the dome when safety gives its GO"),
        Action("resume", "Resume", "C2", "operator", lambda *_: (ResumeNight(),), explains="opens again when safety gives its GO"),
        Action(
            "calibrate",
            "Calibrate night",
            "C1",
            "observer",
            lambda fields, _: (CalibrateNight(night=_night(fields)),),
            timeout_s=600.0,
            explains="calibrates every frame of the night that has been stored",
        ),
        Action(
            "acknowledge",
            "Take alarm",
            "C1",
            "operator",
            lambda fields, who: (AcknowledgeAlarm(alarm_id=_alarm_id(fields), by=who),),
            explains="silences it; only evidence clears it",
        ),
        Action(
            "test_alarm", "Test alarms", "C1", "operator", lambda *_: (TestAlarm(),), timeout_s=20.0, explains="a message on every channel"
        ),
    )
}
