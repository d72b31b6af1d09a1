"""Facts in the past tense: the payloads of the durable bus and the registry from type name to class.

To add one: a class here, a row in EVENTS, `python -m nightbell.cli.reference --write`. Meaning changed: raise
`typeversion`. The envelope around them (CloudEvents 1.0) is built by `bus.wire`; this file knows nothing of it.
"""

from __future__ import annotations

from typing import Any, ClassVar

from nightbell.contracts.records import (
    Alert,
    BlockedFrame,
    Candidate,
    Evidence,
    FailedFrame,
    FileRef,
    FrameRef,
    MasterRef,
    PlanItem,
    ProductRef,
    Record,
    Target,
)
from nightbell.contracts.states import NightState, Severity, Verdict

__all__ = [
    "EVENTS",
    "AlarmAcknowledged",
    "AlarmRaised",
    "AlertDrilled",
    "AlertReceived",
    "AlertRetracted",
    "CalibrationBlocked",
    "CalibrationDone",
    "CalibrationFailed",
    "Event",
    "FramesArchived",
    "FramesStored",
    "ModuleLost",
    "ModuleUp",
    "NightChanged",
    "ObservationDone",
    "ObservationFailed",
    "ObservationStarted",
    "OperatorActed",
    "PlanReady",
    "SafetyChanged",
    "TargetsDrilled",
    "TargetsReady",
    "TargetsWithdrawn",
    "TransientsFound",
    "WeatherChanged",
]


class Event(Record, frozen=True, kw_only=True):
    """Base of all event payloads."""

    type: ClassVar[str]
    typeversion: ClassVar[int] = 1
    subject_is: ClassVar[str]
    """What the envelope's `subject` holds for this type."""
    published_by: ClassVar[str]


class AlertReceived(Event, frozen=True, kw_only=True):
    """A notice of something real was read and made one Alert record."""

    type: ClassVar[str] = "alert.received"
    subject_is: ClassVar[str] = "superevent"
    published_by: ClassVar[str] = "alerts"
    alert: Alert
    decision: str
    """follow, watch, store, ignore."""
    rule: str
    reasons: tuple[str, ...] = ()
    skymap: FileRef | None = None


class AlertRetracted(Event, frozen=True, kw_only=True):
    """A superevent was withdrawn by its senders."""

    type: ClassVar[str] = "alert.retracted"
    subject_is: ClassVar[str] = "superevent"
    published_by: ClassVar[str] = "alerts"
    superevent_id: str
    revision: int
    reason: str


class AlertDrilled(Event, frozen=True, kw_only=True):
    """A drill, test or injection was read. Nothing that moves listens to this type."""

    type: ClassVar[str] = "alert.drilled"
    subject_is: ClassVar[str] = "superevent"
    published_by: ClassVar[str] = "alerts"
    alert: Alert
    decision: str
    rule: str
    reasons: tuple[str, ...] = ()
    skymap: FileRef | None = None


class TargetsReady(Event, frozen=True, kw_only=True):
    """Ranked targets for one observatory. A later revision replaces an earlier one."""

    type: ClassVar[str] = "targets.ready"
    subject_is: ClassVar[str] = "observatory/superevent"
    published_by: ClassVar[str] = "alerts"
    superevent_id: str
    observatory: str
    revision: int
    targets: tuple[Target, ...]
    event_utc: str | None = None
    not_in_catalog: float | None = None
    beyond_catalog: bool = False
    skymap: FileRef | None = None


class TargetsWithdrawn(Event, frozen=True, kw_only=True):
    """Targets are no longer wanted."""

    type: ClassVar[str] = "targets.withdrawn"
    subject_is: ClassVar[str] = "observatory/superevent"
    published_by: ClassVar[str] = "alerts"
    superevent_id: str
    observatory: str
    revision: int
    reason: str


class TargetsDrilled(Event, frozen=True, kw_only=True):
    """What a drill would have given. Nothing that moves listens to this type."""

    type: ClassVar[str] = "targets.drilled"
    subject_is: ClassVar[str] = "observatory/superevent"
    published_by: ClassVar[str] = "alerts"
    superevent_id: str
    observatory: str
    revision: int
    targets: tuple[Target, ...]
    event_utc: str | None = None
    not_in_catalog: float | None = None
    beyond_catalog: bool = False
    skymap: FileRef | None = None


class PlanReady(Event, frozen=True, kw_only=True):
    """A night plan revision; the whole product is the file, the items ride along."""

    type: ClassVar[str] = "plan.ready"
    subject_is: ClassVar[str] = "night"
    published_by: ClassVar[str] = "telescope"
    night: str
    revision: int
    cause: str
    plan: FileRef
    items: tuple[PlanItem, ...]
    n_rejected: int = 0
    value: float = 0.0
    bound: float | None = None


class NightChanged(Event, frozen=True, kw_only=True):
    """The night's state changed, with the reason."""

    type: ClassVar[str] = "night.changed"
    subject_is: ClassVar[str] = "night"
    published_by: ClassVar[str] = "telescope"
    night: str
    state: NightState
    previous: NightState
    trigger: str
    reason: str
    at_utc: str
    sun_altitude_deg: float | None = None


class ObservationStarted(Event, frozen=True, kw_only=True):
    """One plan item has begun."""

    type: ClassVar[str] = "observation.started"
    subject_is: ClassVar[str] = "target"
    published_by: ClassVar[str] = "telescope"
    night: str
    item: PlanItem
    at_utc: str


class ObservationDone(Event, frozen=True, kw_only=True):
    """One plan item has been observed; its frames are announced by frames.stored."""

    type: ClassVar[str] = "observation.done"
    subject_is: ClassVar[str] = "target"
    published_by: ClassVar[str] = "telescope"
    night: str
    item_id: str
    target_id: str
    frame_ids: tuple[str, ...]
    at_utc: str


class ObservationFailed(Event, frozen=True, kw_only=True):
    """One plan item could not be observed, with the reason."""

    type: ClassVar[str] = "observation.failed"
    subject_is: ClassVar[str] = "target"
    published_by: ClassVar[str] = "telescope"
    night: str
    item_id: str
    target_id: str
    reason: str
    at_utc: str


class FramesStored(Event, frozen=True, kw_only=True):
    """Frames are on disk, hashed, complete."""

    type: ClassVar[str] = "frames.stored"
    subject_is: ClassVar[str] = "night/batch"
    published_by: ClassVar[str] = "telescope"
    night: str
    batch_id: str
    frames: tuple[FrameRef, ...]


class FramesArchived(Event, frozen=True, kw_only=True):
    """Verified copies exist on that host."""

    type: ClassVar[str] = "frames.archived"
    subject_is: ClassVar[str] = "night/batch"
    published_by: ClassVar[str] = "archive"
    night: str
    batch_id: str
    host: str
    frames: tuple[FrameRef, ...]


class CalibrationDone(Event, frozen=True, kw_only=True):
    """Masters and calibrated frames of a batch."""

    type: ClassVar[str] = "calibration.done"
    subject_is: ClassVar[str] = "night/batch"
    published_by: ClassVar[str] = "preprocessor"
    night: str
    batch_id: str
    products: tuple[ProductRef, ...] = ()
    masters: tuple[MasterRef, ...] = ()


class CalibrationBlocked(Event, frozen=True, kw_only=True):
    """Frames that wait for masters; they resume by themselves when these come."""

    type: ClassVar[str] = "calibration.blocked"
    subject_is: ClassVar[str] = "night/batch"
    published_by: ClassVar[str] = "preprocessor"
    night: str
    batch_id: str
    blocked: tuple[BlockedFrame, ...]


class CalibrationFailed(Event, frozen=True, kw_only=True):
    """Frames that are broken, each with the cause."""

    type: ClassVar[str] = "calibration.failed"
    subject_is: ClassVar[str] = "night/batch"
    published_by: ClassVar[str] = "preprocessor"
    night: str
    batch_id: str
    failed: tuple[FailedFrame, ...]


class TransientsFound(Event, frozen=True, kw_only=True):
    """The search of one field is done; published also when there are no candidates."""

    type: ClassVar[str] = "transients.found"
    subject_is: ClassVar[str] = "target"
    published_by: ClassVar[str] = "transients"
    night: str
    target_id: str
    object_name: str | None = None
    superevent_id: str | None = None
    product_ids: tuple[str, ...]
    reference: str
    """What was subtracted."""
    candidates: tuple[Candidate, ...]
    n_vetoed: int = 0
    limiting_mag_5sigma: float | None = None


class WeatherChanged(Event, frozen=True, kw_only=True):
    """The evidence about the weather has changed."""

    type: ClassVar[str] = "weather.changed"
    subject_is: ClassVar[str] = "site"
    published_by: ClassVar[str] = "safety"
    evidence: tuple[Evidence, ...]
    at_utc: str


class SafetyChanged(Event, frozen=True, kw_only=True):
    """The verdict, with all its reasons."""

    type: ClassVar[str] = "safety.changed"
    subject_is: ClassVar[str] = "site"
    published_by: ClassVar[str] = "safety"
    verdict: Verdict
    previous: Verdict
    reasons: tuple[str, ...]
    dome_shutter: str
    """As read back: open, closed, opening, closing, error, unknown."""
    at_utc: str


class AlarmRaised(Event, frozen=True, kw_only=True):
    """A human is needed."""

    type: ClassVar[str] = "alarm.raised"
    subject_is: ClassVar[str] = "site"
    published_by: ClassVar[str] = "any"
    alarm_id: str
    key: str
    severity: Severity
    text: str
    evidence: dict[str, Any] = {}


class AlarmAcknowledged(Event, frozen=True, kw_only=True):
    """A human has taken it."""

    type: ClassVar[str] = "alarm.acknowledged"
    subject_is: ClassVar[str] = "site"
    published_by: ClassVar[str] = "any"
    alarm_id: str
    key: str
    by: str


class OperatorActed(Event, frozen=True, kw_only=True):
    """Who asked for what, and what was answered (audit)."""

    type: ClassVar[str] = "operator.acted"
    subject_is: ClassVar[str] = "site"
    published_by: ClassVar[str] = "console"
    who: str
    role: str
    address: str
    module: str
    verb: str
    fields: dict[str, Any] = {}
    answer: str
    command_id: str | None = None


class ModuleUp(Event, frozen=True, kw_only=True):
    """A module has begun a session with the broker."""

    type: ClassVar[str] = "module.up"
    subject_is: ClassVar[str] = "module"
    published_by: ClassVar[str] = "broker"
    module: str
    host: str
    pid: int
    instance: str
    fence: int


class ModuleLost(Event, frozen=True, kw_only=True):
    """A module's lease ran out, or it said goodbye."""

    type: ClassVar[str] = "module.lost"
    subject_is: ClassVar[str] = "module"
    published_by: ClassVar[str] = "broker"
    module: str
    instance: str
    reason: str
    clean: bool = False


EVENTS: dict[str, type[Event]] = {
    event.type: event
    for event in (
        AlertReceived,
        AlertRetracted,
        AlertDrilled,
        TargetsReady,
        TargetsWithdrawn,
        TargetsDrilled,
        PlanReady,
        NightChanged,
        ObservationStarted,
        ObservationDone,
        ObservationFailed,
        FramesStored,
        FramesArchived,
        CalibrationDone,
        CalibrationBlocked,
        CalibrationFailed,
        TransientsFound,
        WeatherChanged,
        SafetyChanged,
        AlarmRaised,
        AlarmAcknowledged,
        OperatorActed,
        ModuleUp,
        ModuleLost,
    )
}
"""Type name -> payload class, in the order of the night."""
