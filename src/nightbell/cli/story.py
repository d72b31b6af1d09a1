"""The story of a night: its events put in order and asked what happened. Pure; `demo` and `report` read the same story.

events of all brokers -> Told (one event, decoded) -> Story -> figures, report_page, demo's summary
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import msgspec

from nightbell.contracts.errors import BadInput
from nightbell.contracts.events import (
    EVENTS,
    AlarmRaised,
    AlertReceived,
    CalibrationDone,
    Event,
    FramesArchived,
    FramesStored,
    NightChanged,
    ObservationDone,
    ObservationFailed,
    ObservationStarted,
    PlanReady,
    SafetyChanged,
    TargetsReady,
    TransientsFound,
)
from nightbell.contracts.instants import parse_utc
from nightbell.contracts.records import Candidate, FrameRef, PlanItem, ProductRef, Site, Target
from nightbell.contracts.states import FrameType

__all__ = ["Latency", "Lost", "Outcome", "Process", "SeenEvent", "Story", "Told", "WorldTimes", "real_ns_of"]

E = TypeVar("E", bound=Event)
OF_BROKER = ("module.up", "module.lost")
"""Said by brokers, which keep the host's time, never the simulated world's."""


class Enveloped(Protocol):
    """An envelope, however it came."""

    @property
    def id(self) -> str: ...
    @property
    def type(self) -> str: ...
    @property
    def subject(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def time(self) -> str: ...
    @property
    def causationid(self) -> str | None: ...
    @property
    def correlationid(self) -> str | None: ...
    @property
    def data(self) -> msgspec.Raw: ...


class SeenEvent(Enveloped, Protocol):
    """What `Connection.events` yields."""

    @property
    def seq(self) -> int: ...


def real_ns_of(event_id: str) -> int | None:
    """When the event was decided, by the host's clock: the milliseconds inside a UUIDv7. None for another kind of id."""
    digits = event_id.replace("-", "")
    if len(digits) != 32 or digits[12] != "7":
        return None
    try:
        return int(digits[:12], 16) * 1_000_000
    except ValueError:
        return None


@dataclass(frozen=True)
class Told:
    """One event with its payload; `event` is None when its type or version is not known here."""

    broker: str
    seq: int
    id: str
    type: str
    subject: str
    source: str
    time: str
    causationid: str | None
    correlationid: str | None
    data: bytes
    event: Event | None

    @classmethod
    def of(cls, seen: SeenEvent, broker: str) -> Told:
        """Decode what a broker has delivered."""
        return cls.of_envelope(seen, broker, seen.seq)

    @classmethod
    def of_envelope(cls, seen: Enveloped, broker: str, seq: int) -> Told:
        """Decode an envelope that stands at `seq` of a broker's journal."""
        data = bytes(seen.data)
        kind = EVENTS.get(seen.type)
        event = None
        if kind is not None:
            try:
                event = msgspec.json.decode(data, type=kind)
            except msgspec.DecodeError:
                event = None  # of a newer version: it stands in the time line, with its type alone
        return cls(broker, seq, seen.id, seen.type, seen.subject, seen.source, seen.time, seen.causationid, seen.correlationid, data, event)

    @property
    def module(self) -> str:
        return self.source.partition("@")[0]

    @property
    def real_ns(self) -> int | None:
        """When it was decided, by the host's clock, to the millisecond."""
        return real_ns_of(self.id)

    @property
    def world_ns(self) -> int | None:
        """When it was decided, by the installation's clock; None for what brokers say."""
        if self.type in OF_BROKER:
            return None
        try:
            return parse_utc(self.time)
        except BadInput:
            return None


@dataclass(frozen=True)
class WorldTimes:
    """The world's time against the host's: real = real0 + (world - world0) / rate."""

    world0_ns: int
    real0_ns: int
    rate: float

    def real_ns(self, world_ns: int) -> int:
        return self.real0_ns + round((world_ns - self.world0_ns) / self.rate)

    def world_ns(self, real_ns: int) -> int:
        return self.world0_ns + round((real_ns - self.real0_ns) * self.rate)

    @classmethod
    def of(cls, events: Sequence[Told]) -> WorldTimes | None:
        """From events that carry both times: the line through the first and the last."""
        pairs = [(one.world_ns, one.real_ns) for one in events if one.world_ns is not None and one.real_ns is not None]
        known = [(world, real) for world, real in pairs if world is not None and real is not None]
        if not known:
            return None
        (world0, real0), (world1, real1) = min(known, key=lambda pair: pair[1]), max(known, key=lambda pair: pair[1])
        rate = (world1 - world0) / (real1 - real0) if real1 > real0 and world1 > world0 else 1.0
        # Milliseconds of the id against microseconds of the time: a system clock is a rate of 1, not of 1.0003.
        return cls(world0, real0, 1.0 if abs(rate - 1.0) < 0.02 else rate)


@dataclass(frozen=True)
class Process:
    """One process of the installation, as its supervisor saw it."""

    name: str
    pid: int | None
    ready_s: float | None
    """Real seconds from its start to READY."""
    n_restarts: int = 0
    ended: str = ""


@dataclass(frozen=True)
class Outcome:
    """What became of one target."""

    target: Target
    superevent_id: str
    n_items: int
    n_done: int
    failures: tuple[str, ...]
    frames: tuple[FrameRef, ...]
    n_calibrated: int
    searched: TransientsFound | None

    @property
    def observed(self) -> bool:
        return self.n_done > 0

    @property
    def words(self) -> str:
        """For a table."""
        if self.n_items == 0:
            return "not in the plan"
        if self.n_done == self.n_items:
            return "observed"
        if self.failures:
            return self.failures[-1]
        return f"{self.n_done} of {self.n_items} visits" if self.n_done else "waiting"


@dataclass(frozen=True)
class Latency:
    """One step of the chain from the alert on, in the host's seconds and in the world's."""

    step: str
    meaning: str
    real_s: float | None
    world_s: float | None


@dataclass(frozen=True)
class Lost:
    """What an audit of outboxes, journals and files has found; empty lists are good news."""

    lost: tuple[str, ...] = ()
    duplicates: tuple[str, ...] = ()
    checked: Mapping[str, int] = field(default_factory=dict)
    """What was compared -> how many."""


class Story:
    """A night's events, ordered, each once. What only the demo knows comes by keyword."""

    def __init__(
        self,
        events: Iterable[Told],
        *,
        site: Site,
        night: str | None = None,
        injected: tuple[float, float] | None = None,
        truth: Mapping[str, Any] | None = None,
        simulated: bool = False,
        processes: Sequence[Process] = (),
        audit: Lost | None = None,
        missing: Sequence[str] = (),
        world_times: WorldTimes | None = None,
        submitted_ns: int | None = None,
        title: str = "",
    ) -> None:
        once: dict[str, Told] = {}
        for one in events:
            once.setdefault(one.id, one)
        self.events: tuple[Told, ...] = tuple(
            sorted(once.values(), key=lambda one: (one.real_ns or one.world_ns or 0, one.broker, one.seq))
        )
        self.site, self.injected, self.truth, self.processes = site, injected, truth, tuple(processes)
        self.simulated = simulated or truth is not None
        self.audit, self.missing, self.title, self.submitted_ns = audit, tuple(missing), title, submitted_ns
        self.world_times = world_times or WorldTimes.of(self.events)
        self.night = night or (self.nights[-1] if self.nights else "")
        if self.night:
            self.events = tuple(one for one in self.events if self._is_of_night(one))

    @property
    def nights(self) -> tuple[str, ...]:
        """Nights of which something is told, the earliest first."""
        return tuple(sorted({one.event.night for one in self.events if isinstance(one.event, NightChanged | FramesStored)}))

    def _is_of_night(self, told: Told) -> bool:
        """By the night it names, else by its time: from the local mean noon of that date to the next."""
        named = getattr(told.event, "night", "")
        if named:
            return bool(named == self.night)
        at_ns = told.world_ns
        if at_ns is None and told.real_ns is not None and self.world_times is not None:
            at_ns = self.world_times.world_ns(told.real_ns)
        if at_ns is None:
            return False
        noon_ns = parse_utc(f"{self.night}T12:00:00Z") - round(self.site.longitude_deg / 15 * 3600e9)
        return noon_ns <= at_ns < noon_ns + 86_400_000_000_000

    @property
    def rate(self) -> float:
        """Seconds of the world in a second of ours."""
        return self.world_times.rate if self.world_times is not None else 1.0

    def all(self, kind: type[E]) -> Iterator[tuple[Told, E]]:
        """Events of one class in their order."""
        for one in self.events:
            if isinstance(one.event, kind):
                yield one, one.event

    def counts(self) -> dict[str, int]:
        """Type -> number of events, in the order of contracts.events."""
        told: dict[str, int] = {}
        for one in self.events:
            told[one.type] = told.get(one.type, 0) + 1
        return {name: told[name] for name in (*EVENTS, *sorted(set(told) - set(EVENTS))) if name in told}

    # -- the alert ------------------------------------------------------------------------------------------------------

    @property
    def alerts(self) -> tuple[tuple[Told, AlertReceived], ...]:
        """The newest notice of each superevent."""
        newest = {event.alert.superevent_id: (told, event) for told, event in self.all(AlertReceived)}
        return tuple(newest.values())

    @property
    def target_lists(self) -> tuple[TargetsReady, ...]:
        """The newest list of each superevent for each observatory."""
        newest: dict[tuple[str, str], TargetsReady] = {}
        for _, event in self.all(TargetsReady):
            known = newest.get((event.superevent_id, event.observatory))
            if known is None or event.revision >= known.revision:
                newest[event.superevent_id, event.observatory] = event
        return tuple(newest.values())

    @property
    def plan_items(self) -> dict[str, PlanItem]:
        """Every item that any plan of the night held, by id, as last planned."""
        return {item.item_id: item for _, event in self.all(PlanReady) for item in event.items}

    @property
    def left_items(self) -> set[str]:
        """Ids of the newest plan's items: what was still to be done when it was made."""
        plans = [event for _, event in self.all(PlanReady)]
        return {item.item_id for item in plans[-1].items} if plans else set()

    @property
    def done_items(self) -> set[str]:
        return {event.item_id for _, event in self.all(ObservationDone)}

    @property
    def failed_items(self) -> dict[str, str]:
        """Items that failed and were not done later, with the last reason."""
        done = self.done_items
        return {event.item_id: event.reason for _, event in self.all(ObservationFailed) if event.item_id not in done}

    @property
    def targets_observed(self) -> tuple[str, ...]:
        """Targets with at least one finished visit, in the order of observation."""
        return tuple(dict.fromkeys(event.target_id for _, event in self.all(ObservationDone)))

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        """What became of each target of each newest list, best rank first."""
        items, done, failed = self.plan_items, self.done_items, self.failed_items
        frames, products = self.frames, self.products
        searched = {event.target_id: event for _, event in self.all(TransientsFound)}
        out: list[Outcome] = []
        for told in self.target_lists:
            for target in sorted(told.targets, key=lambda one: one.rank):
                mine = [item_id for item_id, item in items.items() if item.target_id == target.target_id]
                lights = tuple(one for one in frames.values() if one.target_id == target.target_id and one.frame_type is FrameType.LIGHT)
                out.append(
                    Outcome(
                        target=target,
                        superevent_id=told.superevent_id,
                        n_items=len(mine),
                        n_done=sum(item_id in done for item_id in mine),
                        failures=tuple(failed[item_id] for item_id in mine if item_id in failed),
                        frames=lights,
                        n_calibrated=sum(one.sha256 in products for one in lights),
                        searched=searched.get(target.target_id),
                    )
                )
        return tuple(out)

    # -- frames ---------------------------------------------------------------------------------------------------------

    @property
    def frames(self) -> dict[str, FrameRef]:
        """Every frame that was stored, by id."""
        return {frame.frame_id: frame for _, event in self.all(FramesStored) for frame in event.frames}

    @property
    def lights(self) -> tuple[FrameRef, ...]:
        return tuple(one for one in self.frames.values() if one.frame_type is FrameType.LIGHT)

    @property
    def products(self) -> dict[str, ProductRef]:
        """Calibrated frames by the sha256 of their raw frame."""
        return {one.source_sha256: one for _, event in self.all(CalibrationDone) for one in event.products}

    @property
    def archived(self) -> set[str]:
        """Ids of frames with a verified copy."""
        return {frame.frame_id for _, event in self.all(FramesArchived) for frame in event.frames}

    def showpiece(self) -> tuple[FrameRef, ProductRef] | None:
        """The pair of raw and calibrated light that a report shows: of the field where something new was found, else the first."""
        products = self.products
        new = {event.target_id for _, event in self.all(TransientsFound) if event.candidates}
        pairs = [(one, products[one.sha256]) for one in self.lights if one.sha256 in products]
        pairs.sort(key=lambda pair: (pair[0].target_id not in new, pair[0].filter != "r", pair[0].date_obs_utc))
        return pairs[0] if pairs else None

    @property
    def searched_products(self) -> set[str]:
        """Ids of the calibrated lights that some search has used."""
        return {one for _, event in self.all(TransientsFound) for one in event.product_ids}

    # -- what is new ----------------------------------------------------------------------------------------------------

    @property
    def searches(self) -> tuple[TransientsFound, ...]:
        """The last answer for each target."""
        return tuple({event.target_id: event for _, event in self.all(TransientsFound)}.values())

    @property
    def candidates(self) -> tuple[tuple[TransientsFound, Candidate], ...]:
        return tuple((event, one) for event in self.searches for one in event.candidates)

    def nearest_candidate(self) -> tuple[Candidate, float] | None:
        """The candidate nearest to what was injected and how far it is, arcsec; None without either."""
        if self.injected is None or not self.candidates:
            return None
        from nightbell.transients.hosts import separation_arcsec

        away = [(separation_arcsec(one.ra_deg, one.dec_deg, *self.injected), one) for _, one in self.candidates]
        far_arcsec, nearest = min(away, key=lambda pair: pair[0])
        return nearest, far_arcsec

    # -- the night ------------------------------------------------------------------------------------------------------

    @property
    def states(self) -> tuple[NightChanged, ...]:
        return tuple(event for _, event in self.all(NightChanged))

    @property
    def verdicts(self) -> tuple[SafetyChanged, ...]:
        return tuple(event for _, event in self.all(SafetyChanged))

    @property
    def alarms(self) -> tuple[tuple[Told, AlarmRaised], ...]:
        return tuple(self.all(AlarmRaised))

    @property
    def exposed(self) -> tuple[tuple[str, int, int], ...]:
        """(target_id, start_ns, end_ns) of each light, world time."""
        out = []
        for one in self.lights:
            start_ns = parse_utc(one.date_obs_utc)
            out.append((one.target_id or "", start_ns, start_ns + round(one.exposure_s * 1e9)))
        return tuple(out)

    @property
    def span_ns(self) -> tuple[int, int] | None:
        """First and last event, world time."""
        known = [one.world_ns for one in self.events if one.world_ns is not None]
        return (min(known), max(known)) if known else None

    # -- how long it took -----------------------------------------------------------------------------------------------

    def latencies(self) -> tuple[Latency, ...]:
        """The chain from the notice to the find, step by step; steps that did not happen are left out."""
        marks: list[tuple[str, str, Told | int]] = []
        if self.submitted_ns is not None:
            marks.append(("notice handed in", "the notice reaches the alert robot", self.submitted_ns))
        lists = [told for told, _ in self.all(TargetsReady)]
        # Both are said in one transaction when the policy follows the alert at once.
        together = bool(lists) and bool(self.alerts) and lists[0].time == self.alerts[0][0].time
        if self.alerts and not (together and marks):
            marks.append(("alert read", "alert.received: parsed, judged by policy, sky map stored", self.alerts[0][0]))
        if lists and not (together and marks and marks[-1][0] == "alert read"):
            marks.append(("targets ranked", "targets.ready: notice parsed and judged, galaxies ranked in space, visibility", lists[0]))
        wanted = {target.target_id for one in self.target_lists for target in one.targets}
        plans = [told for told, event in self.all(PlanReady) if wanted & {item.target_id for item in event.items}]
        if plans:
            marks.append(("planned", "plan.ready at the telescope, behind the relay", plans[0]))
        started = [told for told, event in self.all(ObservationStarted) if event.item.target_id in wanted]
        if started:
            marks.append(("first visit", "observation.started: waited for darkness and for the target to rise", started[0]))
        stored = [told for told, event in self.all(FramesStored) if wanted & {one.target_id for one in event.frames}]
        if stored:
            marks.append(("first light stored", "frames.stored: exposed, read out, on disk with its hash", stored[0]))
        lights = {one.sha256 for one in self.lights}
        done = [told for told, event in self.all(CalibrationDone) if lights & {one.source_sha256 for one in event.products}]
        if done:
            marks.append(("first light calibrated", "calibration.done: bias, dark and flat of the same night", done[0]))
        found = [told for told, event in self.all(TransientsFound) if event.candidates]
        if found:
            marks.append(("new source found", "transients.found: difference to the reference, vetted", found[0]))
        out: list[Latency] = []
        for (_, _, before), (step, meaning, after) in itertools.pairwise(marks):
            out.append(Latency(step, meaning, *self._between(before, after)))
        if len(marks) > 1:
            out.append(Latency("in all", f"{marks[0][0]} to {marks[-1][0]}", *self._between(marks[0][2], marks[-1][2])))
        return tuple(out)

    def _between(self, before: Told | int, after: Told | int) -> tuple[float | None, float | None]:
        """(real, world) seconds between two marks; an `int` mark is a real instant."""
        real0 = before if isinstance(before, int) else before.real_ns
        real1 = after if isinstance(after, int) else after.real_ns
        if real0 is None or real1 is None:
            return None, None
        # Not from the events' times: a handler that takes seconds dates its events with its beginning.
        return (real1 - real0) / 1e9, (real1 - real0) / 1e9 * self.rate

    def frame_latencies(self) -> tuple[tuple[str, int, float, float], ...]:
        """(step, n, median, longest) in real seconds per light: end of exposure -> stored -> calibrated."""
        stored = {frame.frame_id: told for told, event in self.all(FramesStored) for frame in event.frames}
        calibrated: dict[str, Told] = {}
        for told, event in self.all(CalibrationDone):
            for one in event.products:
                calibrated.setdefault(one.source_sha256, told)
        to_disk: list[float] = []
        to_product: list[float] = []
        for frame in self.lights:
            told = stored[frame.frame_id]
            end_ns = parse_utc(frame.date_obs_utc) + round(frame.exposure_s * 1e9)
            if self.world_times is not None and told.world_ns is not None:
                to_disk.append((told.world_ns - end_ns) / 1e9 / self.rate)
            product = calibrated.get(frame.sha256)
            if product is not None and product.real_ns is not None and told.real_ns is not None:
                to_product.append((product.real_ns - told.real_ns) / 1e9)
        steps = (("end of exposure to frames.stored", to_disk), ("frames.stored to calibration.done", to_product))
        return tuple((name, len(values), sorted(values)[len(values) // 2], max(values)) for name, values in steps if values)
