"""Wishes that can be refused: the arguments of each command and the registry from (module, verb) to class.

A class tells what repeating it does: *query* leaves no trace, *idempotent* may run twice, *once* has a ledger row and takes
effect at most once per command id. `urgent` commands jump every queue and are answered even while a handler is busy.
Every module answers `Status` and `Shutdown`.
"""

from __future__ import annotations

from typing import ClassVar

from nightbell.contracts.records import Record
from nightbell.contracts.states import CommandClass

__all__ = [
    "COMMANDS",
    "Abort",
    "AcknowledgeAlarm",
    "CalibrateFrames",
    "CalibrateNight",
    "CloseDome",
    "CloseNight",
    "Command",
    "FindTransients",
    "ListTasks",
    "OpenNight",
    "PauseNight",
    "PrepareNight",
    "QueryIndex",
    "ReleaseManual",
    "RenewLease",
    "RequestGo",
    "ResumeNight",
    "ShowPlan",
    "Shutdown",
    "Status",
    "SubmitNotice",
    "TakeManual",
    "TestAlarm",
    "commands_of",
]


class Command(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all commands. Unlike events, an unknown field is refused: a wish must be understood whole."""

    verb: ClassVar[str]
    module: ClassVar[str]
    """Name of the module that answers it; "*" for every module."""
    kind: ClassVar[CommandClass]
    urgent: ClassVar[bool] = False


class Status(Command, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the module is: state, counters, ages."""

    verb: ClassVar[str] = "status"
    module: ClassVar[str] = "*"
    kind: ClassVar[CommandClass] = CommandClass.QUERY
    urgent: ClassVar[bool] = True


class Shutdown(Command, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Stop the process in good order."""

    verb: ClassVar[str] = "shutdown"
    module: ClassVar[str] = "*"
    kind: ClassVar[CommandClass] = CommandClass.IDEMPOTENT
    urgent: ClassVar[bool] = True


class SubmitNotice(Command, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Hand a notice file to the alert robot as if a stream had brought it."""

    verb: ClassVar[str] = "submit_notice"
    module: ClassVar[str] = "alerts"
    kind: ClassVar[CommandClass] = CommandClass.ONCE
    path: str
    """Absolute path on the alert robot's host."""
    skymap: str | None = None
    """Sky map file for notices that only name a URL."""
    confirm: bool = False
    """Needed to bring a retracted or archived superevent back to life."""


class PrepareNight(Command, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Connect, cool, check, plan, list the calibration frames wanted."""

    verb: ClassVar[str] = "prepare_night"
    module: ClassVar[str] = "telescope"
    kind: ClassVar[CommandClass] = CommandClass.IDEMPOTENT
    night: str | None = None


class OpenNight(Command, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Open the dome and begin; refused without safety's GO."""

    verb: ClassVar[str] = "open_night"
    module: ClassVar[str] = "telescope"
    kind: ClassVar[CommandClass] = CommandClass.ONCE


class CloseNight(Command, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """End the night: close, park, warm up."""

    verb: ClassVar[str] = "close_night"
    module: ClassVar[str] = "telescope"
    kind: ClassVar[CommandClass] = CommandClass.IDEMPOTENT
    reason: str = "asked by operator"


class PauseNight(Command, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Close the dome and wait."""

    verb: ClassVar[str] = "pause_night"
    module: ClassVar[str] = "telescope"
    kind: ClassVar[CommandClass] = CommandClass.IDEMPOTENT
    reason: str = "asked by operator"


class ResumeNight(Command, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Leave `paused` as soon as it is safe."""

    verb: ClassVar[str] = "resume_night"
    module: ClassVar[str] = "telescope"
    kind: ClassVar[CommandClass] = CommandClass.IDEMPOTENT


class Abort(Command, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Stop every motion and the exposure, now."""

    verb: ClassVar[str] = "abort"
    module: ClassVar[str] = "telescope"
    kind: ClassVar[CommandClass] = CommandClass.IDEMPOTENT
    urgent: ClassVar[bool] = True


class TakeManual(Command, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A human works at the telescope: nothing moves until `release_manual`."""

    verb: ClassVar[str] = "take_manual"
    module: ClassVar[str] = "telescope"
    kind: ClassVar[CommandClass] = CommandClass.IDEMPOTENT
    urgent: ClassVar[bool] = True
    reason: str = "a human is on site"


class ReleaseManual(Command, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The human has left the telescope; the night goes back to day."""

    verb: ClassVar[str] = "release_manual"
    module: ClassVar[str] = "telescope"
    kind: ClassVar[CommandClass] = CommandClass.IDEMPOTENT
    reason: str = "released by operator"


class ShowPlan(Command, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The plan in force, with the reasons of what was left out."""

    verb: ClassVar[str] = "show_plan"
    module: ClassVar[str] = "telescope"
    kind: ClassVar[CommandClass] = CommandClass.QUERY


class ListTasks(Command, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What humans are asked to do (stage 1)."""

    verb: ClassVar[str] = "list_tasks"
    module: ClassVar[str] = "telescope"
    kind: ClassVar[CommandClass] = CommandClass.QUERY


class CloseDome(Command, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Close the dome by the safety kernel's own connection; needs nothing else alive."""

    verb: ClassVar[str] = "close"
    module: ClassVar[str] = "safety"
    kind: ClassVar[CommandClass] = CommandClass.IDEMPOTENT
    urgent: ClassVar[bool] = True
    reason: str = "asked by operator"


class RequestGo(Command, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A GO token for opening: {go_id, until_utc, evidence}; refused with all reasons when unsafe."""

    verb: ClassVar[str] = "request_go"
    module: ClassVar[str] = "safety"
    kind: ClassVar[CommandClass] = CommandClass.QUERY
    urgent: ClassVar[bool] = True


class RenewLease(Command, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The telescope's open-dome lease; only a grown `progress` counter renews it."""

    verb: ClassVar[str] = "renew_lease"
    module: ClassVar[str] = "safety"
    kind: ClassVar[CommandClass] = CommandClass.IDEMPOTENT
    urgent: ClassVar[bool] = True
    holder: str
    progress: int


class AcknowledgeAlarm(Command, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Take an alarm: silences it; only evidence clears it."""

    verb: ClassVar[str] = "acknowledge_alarm"
    module: ClassVar[str] = "safety"
    kind: ClassVar[CommandClass] = CommandClass.IDEMPOTENT
    alarm_id: str
    by: str


class TestAlarm(Command, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Send a nonce on every channel; answers what arrived."""

    verb: ClassVar[str] = "test_alarm"
    module: ClassVar[str] = "safety"
    kind: ClassVar[CommandClass] = CommandClass.ONCE


class CalibrateNight(Command, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Calibrate every frame of a night that has been stored."""

    verb: ClassVar[str] = "calibrate_night"
    module: ClassVar[str] = "preprocessor"
    kind: ClassVar[CommandClass] = CommandClass.IDEMPOTENT
    night: str


class CalibrateFrames(Command, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Calibrate files or folders on the preprocessor's host."""

    verb: ClassVar[str] = "calibrate"
    module: ClassVar[str] = "preprocessor"
    kind: ClassVar[CommandClass] = CommandClass.IDEMPOTENT
    paths: tuple[str, ...]
    out: str | None = None
    camera: str | None = None


class QueryIndex(Command, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Rows of the calibration index."""

    verb: ClassVar[str] = "query_index"
    module: ClassVar[str] = "preprocessor"
    kind: ClassVar[CommandClass] = CommandClass.QUERY
    night: str | None = None
    status: str | None = None
    limit: int = 200


class FindTransients(Command, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Search calibrated frames for what is new."""

    verb: ClassVar[str] = "find_transients"
    module: ClassVar[str] = "transients"
    kind: ClassVar[CommandClass] = CommandClass.IDEMPOTENT
    paths: tuple[str, ...]


COMMANDS: tuple[type[Command], ...] = (
    Status,
    Shutdown,
    SubmitNotice,
    PrepareNight,
    OpenNight,
    CloseNight,
    PauseNight,
    ResumeNight,
    Abort,
    TakeManual,
    ReleaseManual,
    ShowPlan,
    ListTasks,
    CloseDome,
    RequestGo,
    RenewLease,
    AcknowledgeAlarm,
    TestAlarm,
    CalibrateNight,
    CalibrateFrames,
    QueryIndex,
    FindTransients,
)


def commands_of(module: str) -> dict[str, type[Command]]:
    """Verb -> class for one module, the common ones included."""
    return {command.verb: command for command in COMMANDS if command.module in (module, "*")}
