"""The telescope's door to the bus: targets in, plans, nights and frames out; commands; everything durable in one database."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from nightbell.bus.module import Module, Progress, Turn, answers, on, run_module
from nightbell.contracts.commands import (
    Abort,
    CloseDome,
    CloseNight,
    ListTasks,
    OpenNight,
    PauseNight,
    PrepareNight,
    ReleaseManual,
    RenewLease,
    RequestGo,
    ResumeNight,
    ShowPlan,
    TakeManual,
)
from nightbell.contracts.errors import Refused
from nightbell.contracts.events import (
    AlarmAcknowledged,
    Event,
    FramesStored,
    NightChanged,
    ObservationDone,
    ObservationFailed,
    ObservationStarted,
    PlanReady,
    SafetyChanged,
    TargetsReady,
    TargetsWithdrawn,
)
from nightbell.contracts.instants import format_utc, parse_utc
from nightbell.contracts.records import FileRef, FrameRef, PlanItem, Target
from nightbell.contracts.states import FrameType, NightState, Severity, Verdict
from nightbell.settings import Installation
from nightbell.sky.view import SkyView
from nightbell.telescope.activities import Activities, Batch, Counts
from nightbell.telescope.custody import SCHEMA, Custody, Ledger
from nightbell.telescope.dispatcher import Dispatcher, NightRecord, Transition
from nightbell.telescope.instruments import Instruments
from nightbell.telescope.lease import Lease
from nightbell.telescope.night_table import OPEN_STATES, Trigger, refusal, step
from nightbell.telescope.replanning import PlanMade, plan_night
from nightbell.telescope.settings import TelescopeSettings

__all__ = ["Telescope", "TelescopeState", "run"]

ANSWER_S = 5.0
"""Real seconds that safety may take to answer."""


class TargetList(msgspec.Struct):
    """The newest list of one superevent."""

    revision: int
    targets: tuple[Target, ...]
    withdrawn: bool = False


class TelescopeState(msgspec.Struct):
    """What the night needs to survive a kill."""

    state: NightState = NightState.DAY
    night: str = ""
    since_ns: int = 0
    reason: str = "first start"
    trigger: str = ""
    stopped_from: NightState = NightState.DAY
    lists: dict[str, TargetList] = {}
    items: tuple[PlanItem, ...] = ()
    revision: int = 0
    open_asked: bool = False
    held: bool = False
    plan_event: str = ""
    """Id of the newest plan.ready: what causes the visits."""
    roots: dict[str, str] = {}
    """Superevent -> correlationid of its events."""
    visits: dict[str, str] = {}
    """Target and filter -> id of the observation.started that its frames come from."""
    acknowledged: dict[str, int] = {}
    """Alarm key -> when a human took it."""


class _Office:
    """What the night's loop asks of the outside (activities.Office, dispatcher.Journal), over turns and commands."""

    def __init__(self, module: Telescope) -> None:
        self._module = module

    def write(self, transition: Transition) -> None:
        """One transition, durable and published, before its action."""
        module, after = self._module, transition.after
        sun_deg = round(module.sky.sun_altitude_deg(after.since_ns), 2)
        with module.turn(correlationid=after.night or None) as turn:
            state = turn.state
            state.state, state.night, state.since_ns = after.state, after.night, after.since_ns
            state.reason, state.trigger, state.stopped_from = after.reason, after.trigger, after.stopped_from
            if after.state not in (NightState.PREPARING, NightState.READY, NightState.OPENING):
                state.open_asked = False
            if after.state is NightState.STOPPING or after.trigger == Trigger.CLOSE_NIGHT.value:
                state.held = True  # a human has ended it: it does not begin again by itself
            if after.state is NightState.PREPARING:
                state.held = False
            turn.publish(
                NightChanged(
                    night=after.night,
                    state=after.state,
                    previous=transition.before.state,
                    trigger=after.trigger,
                    reason=after.reason,
                    at_utc=format_utc(after.since_ns),
                    sun_altitude_deg=sun_deg,
                ),
                after.night,
            )
            if transition.alarm:
                turn.raise_alarm(f"telescope.{after.state.value}", Severity.CRITICAL, f"The night is {after.state.value}: {after.reason}")
            module.board(state)
        module.log.info("night.changed", state=after.state.value, trigger=after.trigger, reason=after.reason)

    def alarm(self, key: str, text: str, *, critical: bool) -> None:
        with self._module.turn() as turn:
            turn.raise_alarm(key, Severity.CRITICAL if critical else Severity.WARNING, text)

    def check_go(self) -> str:
        answer = self._module.ask("safety", RequestGo(), timeout_s=ANSWER_S)
        until_ns = parse_utc(str(answer["until_utc"]), where="safety: until_utc")
        if until_ns <= self._module.clock.now_ns():
            raise Refused("safety's GO has run out already", where="safety", remedy="Check the clocks of both processes")
        return f"GO {answer.get('go_id', '')}".strip()

    def take_lease(self) -> None:
        self._module.lease.take()

    def give_back_lease(self) -> None:
        self._module.lease.give_back()

    def close_by_safety(self, reason: str) -> None:
        self._module.ask("safety", CloseDome(reason=reason or "the telescope cannot close the dome"), timeout_s=30.0)

    def items(self) -> tuple[PlanItem, ...]:
        return self._module.seen.items

    def targets_are_known(self) -> bool:
        return any(not entry.withdrawn and entry.targets for entry in self._module.seen.lists.values())

    def light_exposures_s(self) -> tuple[float, ...]:
        default = self._module.settings.lights.exposure_s
        asked = {item.exposure_s for item in self._module.seen.items}
        return tuple(sorted(asked | {default}))

    def plan_again(self, cause: str) -> None:
        module = self._module
        with module.turn() as turn:
            module.make_plan(turn, cause)

    def counts(self, night: str) -> Counts:
        with self._module.turn() as turn:
            return _counts(turn, night)

    def next_number(self, night: str) -> int:
        return self._module.number_of_frame(night)

    def say(self, event: Event, subject: str) -> None:
        with self._module.turn() as turn:
            _Telling(turn).publish(event, subject)

    def store(self, batch: Batch, frames: tuple[FrameRef, ...], done: tuple[Event, str] | None) -> None:
        self._module.custody.announce(batch.night, batch.batch_id, frames, also=done)

    def is_acknowledged(self, state: NightState, since_ns: int) -> bool:
        return self._module.seen.acknowledged.get(f"telescope.{state.value}", 0) > since_ns

    def is_wanted(self, what: str) -> bool:
        seen = self._module.seen
        return seen.open_asked if what == "open" else seen.held


class _Telling:
    """A turn whose events name what led to them: a plan the visits, a visit its frames. What the ledger of frames writes with."""

    def __init__(self, turn: Turn[TelescopeState]) -> None:
        self._turn = turn
        self.execute, self.query, self.raise_alarm = turn.execute, turn.query, turn.raise_alarm

    def publish(self, event: Event, subject: str) -> str:
        state = self._turn.state
        cause: str | None = None
        root: str | None = None
        if isinstance(event, ObservationStarted):
            cause, root = state.plan_event or None, state.roots.get(event.item.superevent_id or "")
        elif isinstance(event, ObservationDone | ObservationFailed):
            item = next((one for one in state.items if one.item_id == event.item_id), None)
            if item is not None:
                cause, root = state.visits.get(_visit(item.target_id, item.filter)), state.roots.get(item.superevent_id or "")
        elif isinstance(event, FramesStored):
            first = event.frames[0]
            cause = state.visits.get(_visit(first.target_id, first.filter))
            root = state.roots.get(first.superevent_id or "", event.night)
        identity = self._turn.publish(event, subject, causationid=cause, correlationid=root)
        if isinstance(event, ObservationStarted):
            state.visits[_visit(event.item.target_id, event.item.filter)] = identity
        return identity


def _visit(target_id: str | None, filter_name: str | None) -> str:
    return f"{target_id}/{filter_name}"


def _counts(turn: Turn[TelescopeState], night: str) -> Counts:
    rows = turn.query(
        "SELECT frame_type, filter, exposure_s, target_id, count(*) FROM frames"
        " WHERE night = ? AND state = 'stored' AND reason = '' GROUP BY 1, 2, 3, 4",
        (night,),
    )
    return Counts({(FrameType(row[0]), row[1], row[2], row[3]): int(row[4]) for row in rows})


class Telescope(Module[TelescopeState]):
    """Devices, night and frames of one telescope."""

    name = "telescope"
    state_type = TelescopeState
    settings_type = TelescopeSettings
    schema = SCHEMA
    settings: TelescopeSettings

    def start(self) -> None:
        """Build the night and start its thread; the state is read before anything else."""
        self.sky = SkyView(self.site)
        self.office = _Office(self)
        self._numbers: dict[str, int] = {}
        with self.turn() as turn:
            self.board(turn.state)
        night = self.settings.night
        self.lease = Lease(
            self._renew,
            self._lost_lease,
            every_s=self.clock.real_s(night.lease_every_s, floor_s=0.4),
            lost_after_s=self.clock.real_s(night.lease_lost_s, floor_s=4.0),
            holder="open-dome-lease",
        )
        folder = Path(self.settings.data_folder) if self.settings.data_folder else self.home / "frames"
        self.data_folder = folder if folder.is_absolute() else self.installation.home / folder
        self.data_folder.mkdir(parents=True, exist_ok=True)
        self.custody = Custody(self.data_folder, Ledger(self._transaction), host=socket.gethostname())
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended = asyncio.Event()
        self._thread = threading.Thread(target=self._run_night, name="night", daemon=True)
        self._build()
        self._thread.start()

    def _build(self) -> None:
        seen = self.seen
        record = NightRecord(
            state=seen.state,
            night=seen.night,
            since_ns=seen.since_ns or self.clock.now_ns(),
            reason=seen.reason,
            trigger=seen.trigger,
            stopped_from=seen.stopped_from,
        )
        self.instruments = Instruments(self.settings, self.site, self.sky, self.clock, self.lease.tick)
        self.activities = Activities(
            self.instruments,
            self.office,
            self.custody,
            settings=self.settings,
            site=self.site,
            stage=self.installation.settings.stage,
            sky=self.sky,
            clock=self.clock,
            tick=self.lease.tick,
            no_deadline=lambda: setattr(self.dispatcher, "no_deadline", True),
        )
        self.dispatcher = Dispatcher(
            record,
            self.activities.table(),
            self.office,
            self.clock,
            night_label=self.sky.night_label,
            read_dome=self.activities.first_dome_reading,
            stop_all=self.activities.stop_all,
            tick=self.lease.tick,
            deadlines_s={
                NightState.IDLE_OPEN: self.settings.night.idle_limit_s,
                NightState.SHELTERING: 90.0 + self.settings.dome.shutter_travel_s,
            },
        )

    def _run_night(self) -> None:
        async def walk() -> None:
            self._loop = asyncio.get_running_loop()
            looking = asyncio.create_task(self.instruments.keep_looking())
            try:
                await self.dispatcher.run(self._ended)
            finally:
                looking.cancel()
                await asyncio.gather(looking, return_exceptions=True)
                await self.activities.settle()
                await self.instruments.close()

        try:
            asyncio.run(walk())
        except Exception as error:
            self.log.exception("night.died", error=str(error))
            try:
                self.office.alarm("telescope.loop", f"the night's loop has died: {error}", critical=True)
            finally:  # on a full disk no alarm can be written: a process without its loop must end all the same, to be started again
                os.kill(os.getpid(), signal.SIGTERM)

    def stop(self) -> None:
        """End the loop; frames in memory are still written. The dome is left to the lease: nobody renews it from here on."""
        if self._loop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(timeout=20.0)
        self.lease.give_back()

    @contextmanager
    def _transaction(self) -> Iterator[_Telling]:
        with self.turn() as turn:
            yield _Telling(turn)

    def board(self, state: TelescopeState) -> None:
        """Keep a copy of the state for the loop and for reports, which must not wait for a turn."""
        self.seen = msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=TelescopeState)
        self._wake()

    def _wake(self) -> None:
        loop = getattr(self, "_loop", None)
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self.activities.wake)

    def number_of_frame(self, night: str) -> int:
        """SEQNUM: continues after a restart."""
        if night not in self._numbers:
            self._numbers[night] = self.custody.ledger.next_number(night) - 1
        self._numbers[night] += 1
        return self._numbers[night]

    def _renew(self, progress: int) -> None:
        self.ask("safety", RenewLease(holder=f"{self.name}:{self.fence}", progress=progress), timeout_s=ANSWER_S)

    def _lost_lease(self, reason: str) -> None:
        self.dispatcher.wish(Trigger.UNSAFE, f"the open-dome lease is lost: {reason}")

    # -- events ---------------------------------------------------------------------------------------------------------

    @on("targets.ready")
    def plan_targets(self, event: TargetsReady, turn: Turn[TelescopeState]) -> None:
        """New targets make a new plan revision. An older revision than the one known changes nothing."""
        known = turn.state.lists.get(event.superevent_id)
        if known is not None and known.revision >= event.revision:
            return
        turn.state.lists[event.superevent_id] = TargetList(revision=event.revision, targets=event.targets)
        if turn.envelope is not None:
            turn.state.roots[event.superevent_id] = turn.envelope.correlationid or turn.envelope.id
        self.make_plan(turn, f"targets.ready {event.superevent_id} revision {event.revision}")

    @on("targets.withdrawn")
    def drop_targets(self, event: TargetsWithdrawn, turn: Turn[TelescopeState]) -> None:
        """Withdrawn targets leave the plan; a later list of the same superevent brings new ones."""
        known = turn.state.lists.get(event.superevent_id)
        if known is not None and known.revision > event.revision:
            return
        turn.state.lists[event.superevent_id] = TargetList(revision=event.revision, targets=(), withdrawn=True)
        self.make_plan(turn, f"targets.withdrawn {event.superevent_id}: {event.reason}")

    @on("safety.changed")
    def heed_safety(self, event: SafetyChanged, turn: Turn[TelescopeState]) -> None:
        """Unsafe: shelter at once. Safe changes nothing by itself: opening asks safety for a GO."""
        # Delivered late it may no longer be true: then the night shelters once too often, and asks for a new GO.
        if event.verdict is Verdict.UNSAFE and turn.state.state in OPEN_STATES:
            self.dispatcher.wish(Trigger.UNSAFE, "; ".join(event.reasons) or "safety says unsafe")

    @on("alarm.acknowledged")
    def heed_acknowledgement(self, event: AlarmAcknowledged, turn: Turn[TelescopeState]) -> None:
        """A human has taken one of our alarms: `stuck` and `fault` may be left."""
        if event.key.startswith("telescope."):
            turn.state.acknowledged[event.key] = turn.now_ns
            self.board(turn.state)

    def make_plan(self, turn: Turn[TelescopeState], cause: str) -> None:
        """A plan of what is left, as file, state and event."""
        state, now_ns = turn.state, turn.now_ns
        night = state.night or self.sky.night_label(now_ns)
        made: PlanMade = plan_night(
            {key: entry.targets for key, entry in state.lists.items() if not entry.withdrawn},
            _counts(turn, night),
            night=night,
            now_ns=now_ns,
            site=self.site,
            settings=self.settings,
            before=[item.item_id for item in state.items],
        )
        state.revision += 1
        state.items = made.items
        folder = self.home / "plans"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{night}-{state.revision:04d}.json"
        path.write_bytes(made.product)
        plan = FileRef(
            path=str(path), sha256=hashlib.sha256(made.product).hexdigest(), size_bytes=len(made.product), host=socket.gethostname()
        )
        identity = turn.publish(
            PlanReady(
                night=night,
                revision=state.revision,
                cause=cause,
                plan=plan,
                items=made.items,
                n_rejected=made.n_rejected,
                value=made.value,
                bound=made.bound,
            ),
            night,
            # Made again without an event: it follows from the plan before.
            causationid=state.plan_event or None if turn.envelope is None else None,
        )
        state.plan_event = identity
        self.board(state)
        self.log.info("plan.made", revision=state.revision, n_items=len(made.items), n_rejected=made.n_rejected, cause=cause)

    # -- commands -------------------------------------------------------------------------------------------------------

    def _ask_for(self, trigger: Trigger, reason: str, state: NightState) -> dict[str, Any]:
        """Hand a wish to the night, or refuse it by the table.

        Does not wait: the transition is a turn of its own, and this one must end first. `night.changed` tells of it.
        """
        if step(state, trigger, stopped_from=self.seen.stopped_from) is None:
            raise Refused(refusal(state, trigger), where="telescope", remedy="See `nightbell status`")
        self.dispatcher.wish(trigger, reason)
        return {"state": state.value, "night": self.seen.night, "asked": trigger.value, "reason": reason}

    @answers(PrepareNight)
    def prepare_night(self, command: PrepareNight, turn: Turn[TelescopeState], progress: Progress) -> dict[str, Any]:  # noqa: ARG002
        """Begin to prepare; asked again while the night is under way, it says where it is."""
        state = turn.state.state
        if state in (NightState.PREPARING, NightState.READY):
            return {"state": state.value, "night": turn.state.night, "reason": "the night is prepared already, or about to be"}
        return self._ask_for(Trigger.PREPARE, "asked by operator", state)

    @answers(OpenNight)
    def open_night(self, command: OpenNight, turn: Turn[TelescopeState], progress: Progress) -> dict[str, Any]:  # noqa: ARG002
        """Open as soon as the night is ready and safety gives its GO; refused at once when safety refuses."""
        state = turn.state.state
        if state not in (NightState.PREPARING, NightState.READY):
            raise Refused(refusal(state, Trigger.GO_GIVEN), where="telescope", remedy="Prepare the night first: nightbell night prepare")
        go = self.office.check_go()
        turn.state.open_asked = True
        self.board(turn.state)
        return {"state": state.value, "night": turn.state.night, "go": go}

    @answers(CloseNight)
    def close_night(self, command: CloseNight, turn: Turn[TelescopeState], progress: Progress) -> dict[str, Any]:  # noqa: ARG002
        """Close, park, warm up."""
        state = turn.state.state
        if state in (NightState.CLOSING, NightState.CLOSED, NightState.DAY):
            return {"state": state.value, "night": turn.state.night, "reason": "closed already, or about to be"}
        return self._ask_for(Trigger.CLOSE_NIGHT, command.reason, state)

    @answers(PauseNight)
    def pause_night(self, command: PauseNight, turn: Turn[TelescopeState], progress: Progress) -> dict[str, Any]:  # noqa: ARG002
        """Close the dome and wait for resume_night."""
        row = step(turn.state.state, Trigger.PAUSE_NIGHT)
        if row is None and turn.state.state is not NightState.PAUSED:
            raise Refused(refusal(turn.state.state, Trigger.PAUSE_NIGHT), where="telescope", remedy="See `nightbell status`")
        turn.state.held = True
        self.board(turn.state)
        if row is None:
            return {"state": turn.state.state.value, "night": turn.state.night}
        return self._ask_for(Trigger.PAUSE_NIGHT, command.reason, turn.state.state)

    @answers(ResumeNight)
    def resume_night(self, command: ResumeNight, turn: Turn[TelescopeState], progress: Progress) -> dict[str, Any]:  # noqa: ARG002
        """End a hold by pause_night or abort; the dome opens as soon as safety gives its GO."""
        if turn.state.state not in (NightState.PAUSED, NightState.SHELTERING, NightState.IDLE_OPEN, NightState.OBSERVING):
            raise Refused(f"the night is {turn.state.state.value}, not held", where="telescope", remedy="See `nightbell status`")
        turn.state.held = False
        self.board(turn.state)
        return {"state": turn.state.state.value, "night": turn.state.night}

    @answers(Abort)
    def abort(self, command: Abort, turn: Turn[TelescopeState], progress: Progress) -> dict[str, Any]:  # noqa: ARG002
        """Stop every motion and the exposure; the night is held until resume_night."""
        return self._ask_for(Trigger.ABORT, "asked by operator", self.seen.state)

    @answers(TakeManual)
    def take_manual(self, command: TakeManual, turn: Turn[TelescopeState], progress: Progress) -> dict[str, Any]:  # noqa: ARG002
        """A human works at the telescope: no motion until release_manual."""
        return self._ask_for(Trigger.HUMAN_ON_SITE, command.reason, self.seen.state)

    @answers(ReleaseManual)
    def release_manual(self, command: ReleaseManual, turn: Turn[TelescopeState], progress: Progress) -> dict[str, Any]:  # noqa: ARG002
        """The human has left the telescope."""
        return self._ask_for(Trigger.RELEASED, command.reason, turn.state.state)

    @answers(ShowPlan)
    def show_plan(self, command: ShowPlan, turn: Turn[TelescopeState], progress: Progress) -> dict[str, Any]:  # noqa: ARG002
        """The plan in force: its items, and the file with everything else."""
        state = turn.state
        path = self.home / "plans" / f"{state.night}-{state.revision:04d}.json"
        return {
            "night": state.night,
            "revision": state.revision,
            "items": msgspec.to_builtins(state.items),
            "plan": msgspec.json.decode(path.read_bytes()) if path.is_file() else None,
        }

    @answers(ListTasks)
    def list_tasks(self, command: ListTasks, turn: Turn[TelescopeState], progress: Progress) -> dict[str, Any]:  # noqa: ARG002
        """What humans are asked to do: here, to take the alarm of a night that waits for them."""
        state = turn.state
        if state.state not in (NightState.STUCK, NightState.FAULT, NightState.MANUAL):
            return {"tasks": []}
        verb = "release" if state.state is NightState.MANUAL else "acknowledge"
        text = f"The night is {state.state.value}: {state.reason}"
        return {"tasks": [{"id": 1, "verb": verb, "text": text, "asked_at": format_utc(state.since_ns)}]}

    # -- status ---------------------------------------------------------------------------------------------------------

    def report(self) -> dict[str, Any]:
        """For `status` and the console: night, dome, mount, camera, plan, last frame, each with its age."""
        seen, now_ns = self.seen, self.clock.now_ns()
        return {
            "night": seen.night,
            "state": seen.state.value,
            "since_utc": format_utc(seen.since_ns) if seen.since_ns else None,
            "since_age_s": round((now_ns - seen.since_ns) / 1e9, 1) if seen.since_ns else None,
            "reason": seen.reason,
            "doing": self.activities.note,
            "held": seen.held,
            "lease": {"held": self.lease.is_held, "progress": self.lease.progress, "problem": self.lease.reason},
            "plan": {
                "revision": seen.revision,
                "n_items": len(seen.items),
                "next": [
                    {"name": item.name, "filter": item.filter, "start_utc": item.start_utc, "n_exposures": item.n_exposures}
                    for item in [one for one in seen.items if parse_utc(one.end_utc) > now_ns][:5]
                ],
            },
            "devices": self.activities.readings(now_ns),
            "last_frame": self.activities.last_frame or None,
            "world_utc": format_utc(now_ns),
        }


def run(installation: Installation, name: str) -> int:
    """The process: `nightbell run telescope`."""
    return run_module(Telescope, installation, name=name)
