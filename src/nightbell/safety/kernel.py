"""The kernel: threads that read, one loop that decides four times a second, one thread that closes.

    weather, monitor threads -- Report --> Book --.
    dome thread              -- Report --> Book --+-> loop: rules.verdict -> closing.next_step -> closer thread -> dome
    renew_lease, close, heard_broker -------------'        |-> AlarmDesk      (each thread has its own connection)
                                                           '-> tell(Told)     (a queue; nobody has to listen)

The loop does no I/O and waits for nobody. Readers own their device and their event loop; one that hangs leaves its source to
grow old. Closing needs no token, disk, log, bus or plan. Whatever the loop itself raises is answered by closing.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import queue
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import structlog

from nightbell.contracts.errors import DeviceFault, DeviceLied, NightbellError, Refused
from nightbell.contracts.ids import uuid7
from nightbell.contracts.instants import format_utc
from nightbell.contracts.records import Evidence, Site
from nightbell.contracts.states import Severity, Verdict
from nightbell.devices.protocols import Dome, SafetyMonitor, Weather
from nightbell.devices.registry import open_device
from nightbell.safety.alarms import AlarmDesk
from nightbell.safety.closing import Closing, Wish, next_step
from nightbell.safety.evidence import Book, Kind, Lease, Reading, Report, Seen, World
from nightbell.safety.rules import Decision, Memory, hazards, unknown_past, verdict
from nightbell.safety.settings import SafetySettings, kind_of, scaled
from nightbell.safety.sun import sun_altitude_deg

__all__ = ["Clock", "Kernel", "Told"]

PERIOD_S = 0.25
FIRST_DECISION_S = 2.0
"""At the start the first readings may take so long; then silence is judged like everything else."""
LOOP_STALE_S = 3.0
"""Without a decision for so long nobody gets a GO or a lease: a loop that hangs protects nobody."""
FASTEST_POLL_S = 0.4
DISK_EVERY_S = 10.0
HOLDERS = 16
STUCK, LOOP_FAILED = "safety.stuck.dome", "safety.kernel"


class Clock(Protocol):
    """The part of `sky.clock.Clock` that the kernel needs."""

    @property
    def rate(self) -> float: ...
    def now_ns(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Told:
    """A change worth telling: of the verdict or its causes, or of the shutter (`decision`), or of the evidence alone."""

    decision: Decision
    previous: Verdict
    shutter: str
    at_utc: str
    verdict_changed: bool
    evidence_changed: bool


@dataclass(frozen=True, slots=True)
class _Go:
    go_id: str
    until_ns: int


class Kernel:
    """Decides and closes. `renew_lease`, `request_go`, `close`, `report` answer at once, from any thread."""

    def __init__(
        self,
        settings: SafetySettings,
        site: Site,
        clock: Clock,
        alarms: AlarmDesk,
        *,
        home: Path,
        tell: Callable[[Told], None],
        open_device: Callable[..., Any] = open_device,
    ) -> None:
        self.settings = settings
        self.limits = scaled(settings, clock.rate)
        self._site, self._clock, self._alarms, self._home = site, clock, alarms, home
        self._tell, self._open_device = tell, open_device
        self._log = structlog.get_logger().bind(module="safety")
        kinds: dict[str, Kind] = {name: kind_of(name) for name in settings.devices}
        self._book = Book(kinds, keep_ns=round(self.limits.wind.mean_s * 1e9))
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._orders: queue.SimpleQueue[tuple[Wish, str] | None] = queue.SimpleQueue()
        self._dome_moves = threading.Event()
        self._lock = threading.Lock()
        self._lease: Lease | None = None
        self._progress: dict[str, int] = {}
        """By holder: a telescope that was started again counts anew, also when the clock was set back meanwhile."""
        self._gos: dict[str, _Go] = {}
        self._close_asked = ""
        self._close_asked_ns = 0
        self._broker_lost_ns: int | None = None
        self._free_bytes: int | None = None
        # Written by the loop alone, read by everybody: replaced whole, never changed.
        self._decision: Decision | None = None
        self._closing: Closing | None = None
        self._told: tuple[object, ...] = ()
        self._alarm_keys: set[str] = set()
        self._hazards = frozenset(hazards(self.limits))
        # Rung by a run before this: only evidence clears them too.
        self._inherited = {alarm.key for alarm in alarms.standing() if alarm.key.startswith("safety.")}
        self._is_stuck = STUCK in self._inherited
        self._failed = LOOP_FAILED in self._inherited
        self._marks = _Marks.now(clock)
        self._began_ns = time.monotonic_ns()
        self._memory: Memory = unknown_past(self._began_ns, self.limits)

    # -- life -----------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start all threads. Returns at once."""
        if self._clock.rate != 1:
            limits = self.limits
            self._log.warning(
                "limits.scaled",
                rate=self._clock.rate,
                lease_real_s=round(limits.lease.lease_s, 2),
                stale_real_s=round(limits.sources.stale_s, 2),
                text="the world is simulated and fast: leases and ages are divided by its rate, none below 2 s",
            )
        for name in self.settings.devices:
            self._thread(f"read {name}", functools.partial(self._read_source, name))
        self._thread("close the dome", self._close_on_order)
        self._thread("disk", self._read_disk)
        self._thread("decide", self._decide_for_ever)

    def _thread(self, name: str, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, name=f"safety: {name}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def stop(self) -> None:
        """End the threads. The dome is left as it is: the telescope, refused its lease, closes it."""
        self._stop.set()
        self._orders.put(None)
        for thread in self._threads:
            thread.join(timeout=3.0)

    @property
    def decision(self) -> Decision | None:
        """The last one; None before the first."""
        return self._decision

    # -- what others ask ------------------------------------------------------------------------------------------------

    def _current(self) -> Decision:
        decision = self._decision
        if decision is None:
            raise Refused("nothing has been decided yet", where="safety", remedy="Ask again in a few seconds")
        age_s = (time.monotonic_ns() - decision.at_ns) / 1e9
        if age_s > LOOP_STALE_S:
            raise Refused(f"the last decision is {age_s:.0f} s old", where="safety", remedy="Start the safety process again")
        return decision

    def renew_lease(self, holder: str, progress: int) -> dict[str, Any]:
        """Renew the open-dome lease. Raises `Refused` unless it is safe and `progress` has grown."""
        decision = self._current()
        if decision.verdict is Verdict.UNSAFE:
            raise Refused("; ".join(decision.reasons), where="safety", remedy="Close the dome", code="unsafe")
        with self._lock:
            before = self._progress.pop(holder, None)
            self._progress[holder] = progress if before is None else max(progress, before)
            while len(self._progress) > HOLDERS:
                self._progress.pop(next(iter(self._progress)))
            if before is not None and progress <= before:
                raise Refused(
                    f"progress {progress} of {holder} has not grown since {before}",
                    where="safety: progress",
                    remedy="Renew only when the night's loop has made a step",
                    code="no_progress",
                )
            self._lease = Lease(holder, progress, time.monotonic_ns())
        return {"lease_s": round(self.limits.lease.lease_s, 2), "holder": holder, "progress": progress}

    def request_go(self) -> dict[str, Any]:
        """A GO token for opening, for a few seconds. Raises `Refused` with every reason."""
        decision = self._current()
        against = list(decision.against_opening)
        if self._shutter() == "error":
            against.append("the dome's shutter is in error; opening from there is for human hands")
        if self._orders_pending():
            against.append("the dome is being closed")
        if against:
            raise Refused("; ".join(against), where="safety", remedy="Wait, or mend what is wrong", code="unsafe")
        go = _Go(uuid7(), time.monotonic_ns() + round(self.limits.lease.go_s * 1e9))
        with self._lock:
            now_ns = time.monotonic_ns()
            self._gos = {one.go_id: one for one in (*self._gos.values(), go) if one.until_ns > now_ns}
        world_s = self.limits.lease.go_s * self._clock.rate
        return {
            "go_id": go.go_id,
            "until_utc": format_utc(self._clock.now_ns() + round(world_s * 1e9)),
            "evidence": [_plain(one) for one in decision.evidence],
        }

    def go_holds(self, go_id: str) -> bool:
        """True while the token is valid: not run out, and nothing unsafe came in between."""
        with self._lock:
            go = self._gos.get(go_id)
        return go is not None and go.until_ns > time.monotonic_ns()

    def close(self, reason: str) -> dict[str, Any]:
        """Close now, by the kernel's own connection. Does not wait for the end: `safety.changed` tells."""
        with self._lock:
            self._close_asked, self._close_asked_ns = reason or "no reason given", time.monotonic_ns()
            self._gos.clear()
        # Not only noted for the loop: the order is on its way within milliseconds, and a second one does no harm.
        self._orders.put((Wish.SEND, f"asked: {reason}"))
        return {"ordered": True, "shutter": self._shutter(), "reason": reason}

    def heard_broker(self, *, connected: bool) -> None:
        """Whether the broker is there, as the module knows. Never told: no broker is expected."""
        with self._lock:
            if connected:
                self._broker_lost_ns = None
            elif self._broker_lost_ns is None:
                self._broker_lost_ns = time.monotonic_ns()

    def report(self) -> dict[str, Any]:
        """For `status` and the console."""
        decision, closing = self._decision, self._closing
        now_ns = time.monotonic_ns()
        sources = self._book.sources()
        lease = self._lease
        return {
            "verdict": decision.verdict.value if decision else Verdict.UNSAFE.value,
            "reasons": list(decision.reasons) if decision else ["nothing has been decided yet"],
            "against_opening": list(decision.against_opening) if decision else [],
            "decided_age_s": round((now_ns - decision.at_ns) / 1e9, 2) if decision else None,
            "clear_in_s": round(decision.clear_in_s, 1) if decision and decision.clear_in_s is not None else None,
            "shutter": self._shutter(),
            "closing": None
            if closing is None
            else {
                "age_s": round((now_ns - closing.since_ns) / 1e9, 1),
                "orders": closing.n_sent,
                "verified": closing.verified_ns is not None,
                "problem": closing.problem,
            },
            "lease": None
            if lease is None
            else {"holder": lease.holder, "age_s": round((now_ns - lease.renewed_ns) / 1e9, 1), "limit_s": self.limits.lease.lease_s},
            "evidence": [_plain(one) for one in decision.evidence] if decision else [],
            "sources": {
                name: {"fault": seen.fault, "lost": seen.lost, "answered_age_s": _age_s(seen.answered_ns, now_ns)}
                for name, seen in sources.items()
            },
            "alarms": [
                {
                    "id": one.id,
                    "key": one.key,
                    "severity": one.severity.value,
                    "text": one.text,
                    "state": one.state,
                    "since_utc": one.since_utc,
                }
                for one in self._alarms.standing()
            ],
            "channels": self._alarms.channels(),
            "world_utc": format_utc(self._clock.now_ns()),
            "rate": self._clock.rate,
        }

    def _shutter(self) -> str:
        reading = self._book.sources()["dome"].readings.get("shutter")
        if reading is None or time.monotonic_ns() - reading.stamped_ns > self.limits.closing.dome_stale_s * 1e9:
            return "unknown"
        return str(reading.value)

    def _orders_pending(self) -> bool:
        closing = self._closing
        return bool(self._close_asked) or (closing is not None and closing.verified_ns is None)

    # -- the loop -------------------------------------------------------------------------------------------------------

    def _decide_for_ever(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                self._decide()
            except Exception as error:  # noqa: BLE001 - whatever broke here, the answer is a closed dome
                self._orders.put((Wish.SEND, "the decision loop failed"))
                self._failed = True
                self._alarms.raise_alarm(LOOP_FAILED, Severity.CRITICAL, f"the decision loop failed, the dome is closed: {error!r}")
                self._log.exception("decision.failed")
            else:
                if self._failed:
                    self._alarms.clear(LOOP_FAILED)
                self._failed = False
            self._stop.wait(max(0.0, began + PERIOD_S - time.monotonic()))

    def _decide(self) -> None:
        now_ns = time.monotonic_ns()
        sources = self._book.sources()
        all_spoke = all(seen.answered_ns or seen.lost for seen in sources.values())
        if self._decision is None and not all_spoke and now_ns - self._began_ns < FIRST_DECISION_S * 1e9:
            return
        marks, jump_s, slept_s = self._marks.compare(self._clock)
        self._marks = marks
        if slept_s > self.limits.host.asleep_s:
            self._log.warning("host.slept", seconds=round(slept_s, 1))
            self._book.forget()
            sources = self._book.sources()
            with self._lock:
                self._lease = None
        world = self._world(sources, jump_s)
        decision = verdict(world, self._memory, now_ns, self.limits)
        self._memory = decision.memory
        previous = self._decision
        self._decision = decision
        if decision.verdict is Verdict.UNSAFE:
            with self._lock:
                self._gos.clear()
        self._close_if(decision, sources["dome"], now_ns)
        self._ring(decision)
        self._tell_of(decision, previous, sources)

    def _world(self, sources: Mapping[str, Seen], jump_s: float) -> World:
        now_ns = self._clock.now_ns()
        steady_ns = self._marks.steady_utc_ns(self._clock)
        place = {"latitude_deg": self._site.latitude_deg, "longitude_deg": self._site.longitude_deg}
        with self._lock:
            return World(
                sources=sources,
                lease=self._lease,
                sun_altitude_deg=max(sun_altitude_deg(now_ns, **place), sun_altitude_deg(steady_ns, **place)),
                clock_jump_s=jump_s,
                broker_lost_ns=self._broker_lost_ns,
                free_bytes=self._free_bytes,
                close_asked=self._close_asked,
            )

    def _close_if(self, decision: Decision, dome: Seen, now_ns: int) -> None:
        unsafe = decision.verdict is Verdict.UNSAFE
        shutter = dome.readings.get("shutter")
        self._closing, wish = next_step(self._closing, wanted=unsafe, shutter=shutter, now_ns=now_ns, limits=self.limits.closing)
        if wish is not Wish.NOTHING:
            self._orders.put((wish, decision.reasons[0]))
        closing = self._closing
        if closing is not None and closing.problem:
            self._is_stuck = True
            self._alarms.raise_alarm(STUCK, Severity.CRITICAL, closing.problem)
        elif self._is_stuck and (closing is None or closing.verified_ns is not None):
            self._is_stuck = False
            self._alarms.clear(STUCK)
        if shutter is not None and shutter.value == "closed":
            with self._lock:  # asked, and read closed since: from here on only its hold time forbids opening
                if shutter.stamped_ns > self._close_asked_ns:
                    self._close_asked = ""

    def _ring(self, decision: Decision) -> None:
        wanted = {alert.key for alert in decision.alarms}
        for alert in decision.alarms:
            if alert.key not in self._alarm_keys:
                self._alarms.raise_alarm(alert.key, alert.severity, alert.text, evidence={"reasons": list(decision.reasons)})
        standing = {f"safety.{key}" for key in decision.keys}
        over = {key for key in self._inherited - wanted if key.split(".")[1] in self._hazards and key not in standing}
        for key in (self._alarm_keys - wanted) | over:
            self._alarms.clear(key)
        self._alarm_keys, self._inherited = wanted, self._inherited - wanted - over

    def _tell_of(self, decision: Decision, previous: Decision | None, sources: Mapping[str, Seen]) -> None:
        shutter = sources["dome"].readings.get("shutter")
        state = str(shutter.value) if shutter is not None else "unknown"
        said = (decision.verdict, decision.keys, state)
        shown = tuple((one.source, one.quantity, one.safe) for one in decision.evidence)
        before = self._told
        if before == (said, shown):
            return
        self._told = (said, shown)
        told = Told(
            decision=decision,
            previous=previous.verdict if previous is not None else Verdict.UNSAFE,
            shutter=state,
            at_utc=format_utc(self._clock.now_ns()),
            verdict_changed=not before or before[0] != said,
            evidence_changed=not before or before[1] != shown,
        )
        if told.verdict_changed:
            self._log.info("verdict.made", verdict=decision.verdict.value, shutter=state, reasons=list(decision.reasons))
        self._tell(told)

    # -- sources --------------------------------------------------------------------------------------------------------

    def _read_source(self, name: str) -> None:
        """One source for ever: ask, post, wait. A failure is posted like a reading; the device is opened anew after it."""
        asyncio.run(self._read_for_ever(name))

    async def _read_for_ever(self, name: str) -> None:
        config, kind = self.settings.devices[name], kind_of(name)
        period_s = max(self.settings.sources.poll_s / self._clock.rate, min(self.settings.sources.poll_s, FASTEST_POLL_S))
        opened: Any = None
        while not self._stop.is_set():
            asked_ns = time.monotonic_ns()
            try:
                if opened is None:
                    opened = self._open_device(_DEVICE_KIND[kind], config, self._clock, name=f"safety {name}")
                    await opened.connect(deadline_s=config.deadline_s)
                report = await self._ask(name, kind, opened, config.deadline_s)
            except (DeviceFault, DeviceLied) as error:  # it answered, and the answer is worth nothing: at once, not when it is old
                report = Report(name, kind, asked_ns, fault=str(error))
            except NightbellError as error:
                report = Report(name, kind, asked_ns, lost=str(error))
                await _give_up(opened)
                opened = None
            except Exception as error:  # noqa: BLE001 - a driver that breaks is a source that is lost
                report = Report(name, kind, asked_ns, lost=f"the driver broke: {error!r}")
                await _give_up(opened)
                opened = None
            self._book.post(report)
            if kind == "dome" and self._orders_pending():
                await asyncio.sleep(min(period_s, PERIOD_S))
            else:
                await asyncio.sleep(period_s)
        await _give_up(opened)

    async def _ask(self, name: str, kind: Kind, device: Any, deadline_s: float) -> Report:
        if kind == "dome":
            dome: Dome = device
            status = await dome.status(deadline_s=deadline_s)
            readings = {"shutter": Reading(status.shutter.name.lower(), status.read_monotonic_ns)}
            if status.azimuth_deg is not None:
                readings["azimuth_deg"] = Reading(status.azimuth_deg, status.read_monotonic_ns)
            return Report(name, kind, status.read_monotonic_ns, readings)
        if kind == "monitor":
            monitor: SafetyMonitor = device
            said = await monitor.status(deadline_s=deadline_s)
            return Report(name, kind, said.read_monotonic_ns, {"is_safe": Reading(said.is_safe, said.read_monotonic_ns)})
        weather: Weather = device
        seen = await weather.status(deadline_s=deadline_s)
        youngest_s = seen.sensor_age_s.get("", 0.0)
        values = {}
        for quantity in self.settings.watched:
            # The sensor's own stamp: what is sent again is not fresh because it was sent again.
            age_real_s = seen.sensor_age_s.get(quantity, youngest_s) / self._clock.rate
            values[quantity] = Reading(getattr(seen, quantity), seen.read_monotonic_ns - round(age_real_s * 1e9))
        return Report(name, kind, seen.read_monotonic_ns, values)

    def _read_disk(self) -> None:
        while True:
            try:
                free = shutil.disk_usage(self._home).free
            except OSError as error:
                self._log.warning("disk.unknown", error=str(error))
                free = 0
            with self._lock:
                self._free_bytes = free
            if self._stop.wait(DISK_EVERY_S):
                return

    # -- closing --------------------------------------------------------------------------------------------------------

    def _close_on_order(self) -> None:
        asyncio.run(self._close_for_ever())

    async def _close_for_ever(self) -> None:
        """Carry out orders, one at a time, on a connection that nothing else uses."""
        dome: Any = None
        try:
            dome = await self._connected_dome()  # beforehand: the first order must not wait for it
        except Exception as error:  # noqa: BLE001 - a driver that breaks now may close all the same when it is asked to
            self._log.error("dome.not_connected", error=repr(error))
        while (order := await asyncio.to_thread(self._orders.get)) is not None:
            wish, why = order
            if wish is Wish.SECOND_PATH:
                await asyncio.to_thread(self._second_path)
            # A second try at once, connected anew: a driver that was started again has forgotten us.
            for attempt in (1, 2):
                began = time.monotonic()
                try:
                    dome = dome or await self._connected_dome()
                    await dome.close_shutter(deadline_s=self.settings.closing.deadline_s)
                except Exception as error:  # noqa: BLE001 - whatever broke: the loop orders again until the sensor says closed
                    self._log.error("dome.close_failed", why=why, attempt=attempt, error=str(error), wish=wish.value)
                    await _give_up(dome)
                    dome = None
                else:
                    took_ms = round(1000 * (time.monotonic() - began))
                    self._log.warning("dome.close_sent", why=why, took_ms=took_ms, wish=wish.value)
                    break
        await _give_up(dome)

    async def _connected_dome(self) -> Any:
        dome = self._open_device("dome", self.settings.devices["dome"], self._clock, name="safety dome (close)")
        try:
            await dome.connect(deadline_s=self.settings.closing.deadline_s)
        except NightbellError as error:  # reading its name may fail where closing works
            self._log.error("dome.not_connected", error=str(error))
        return dome

    def _second_path(self) -> None:
        argv = self.settings.closing.second_path
        try:
            done = subprocess.run(list(argv), capture_output=True, timeout=self.settings.closing.deadline_s, check=False)
            self._log.warning("dome.second_path", argv=list(argv), exit_status=done.returncode)
        except (OSError, subprocess.TimeoutExpired) as error:
            self._log.error("dome.second_path_failed", argv=list(argv), error=str(error))


_DEVICE_KIND: dict[Kind, str] = {"dome": "dome", "weather": "weather", "monitor": "safety_monitor"}


async def _give_up(device: Any) -> None:
    if device is not None:
        with contextlib.suppress(NightbellError, OSError):
            await device.aclose()


def _age_s(stamp_ns: int | None, now_ns: int) -> float | None:
    return None if stamp_ns is None else round((now_ns - stamp_ns) / 1e9, 1)


def _plain(evidence: Evidence) -> dict[str, Any]:
    return {name: getattr(evidence, name) for name in evidence.__struct_fields__}


@dataclass(frozen=True, slots=True)
class _Marks:
    """Readings of all clocks at one instant, to notice when one of them jumps or the host sleeps."""

    world_ns: int
    monotonic_ns: int
    boot_ns: int
    began_world_ns: int
    began_monotonic_ns: int

    @staticmethod
    def now(clock: Clock) -> _Marks:
        world_ns, monotonic_ns = clock.now_ns(), time.monotonic_ns()
        return _Marks(world_ns, monotonic_ns, _boot_ns(), world_ns, monotonic_ns)

    def compare(self, clock: Clock) -> tuple[_Marks, float, float]:
        """(new marks, jump of the world's clock in its seconds against the monotonic one, seconds this host slept)."""
        fresh = _Marks.now(clock)
        passed_ns = fresh.monotonic_ns - self.monotonic_ns
        jump_s = (fresh.world_ns - self.world_ns - clock.rate * passed_ns) / 1e9 / clock.rate
        slept_s = (fresh.boot_ns - self.boot_ns - passed_ns) / 1e9
        return replace(fresh, began_world_ns=self.began_world_ns, began_monotonic_ns=self.began_monotonic_ns), jump_s, slept_s

    def steady_utc_ns(self, clock: Clock) -> int:
        """UTC by the monotonic clock alone, from what the world's clock said at the start."""
        return self.began_world_ns + round(clock.rate * (time.monotonic_ns() - self.began_monotonic_ns))


def _boot_ns() -> int:
    """Time since boot that goes on while the host sleeps; the monotonic clock of Linux stands still then."""
    if hasattr(time, "CLOCK_BOOTTIME") and os.name == "posix":
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    return time.monotonic_ns()
