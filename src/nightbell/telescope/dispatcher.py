"""The night, walked: one state at a time, each transition on disk before its action begins.

An activity (activities.py) belongs to each state and returns the trigger that ends it. Wishes come from outside: commands,
safety, plan. A wish whose row exists cancels the activity; one without a row is refused in the table's words. The loop runs
in a thread of its own; what may block (journal, safety, files) runs in worker threads.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

from nightbell.contracts.errors import DeviceLost, NightbellError, Refused
from nightbell.contracts.states import NightState
from nightbell.sky.view import Clock
from nightbell.telescope.night_table import DEADLINE_S, Action, DomeReading, Step, Trigger, entry_action, refusal, resume, step

__all__ = ["Dispatcher", "Ending", "Journal", "NightRecord", "Transition"]

WORKER_LIMIT_S = 10.0
"""Real seconds an activity has to end after it was cancelled."""
RETRY_S = 1.0
"""Real seconds before an activity that failed in a state without a way out begins again."""
PATIENCE_S = 20.0
"""Real seconds for which a device server may be away: it is started again, or the network comes back. Safety closes meanwhile."""


@dataclass(frozen=True, kw_only=True)
class NightRecord:
    """The state of the night as it is on disk."""

    state: NightState = NightState.DAY
    night: str = ""
    since_ns: int = 0
    reason: str = ""
    trigger: str = ""
    stopped_from: NightState = NightState.DAY


@dataclass(frozen=True, kw_only=True)
class Transition:
    """One step of the night."""

    before: NightRecord
    after: NightRecord
    alarm: bool


@dataclass(frozen=True)
class Ending:
    """How an activity ended."""

    trigger: Trigger
    reason: str


class Journal(Protocol):
    """Makes transitions durable and known. Blocking."""

    def write(self, transition: Transition) -> None: ...
    def alarm(self, key: str, text: str, *, critical: bool) -> None: ...


Activity = Callable[[NightRecord], Awaitable[Ending]]


@dataclass(frozen=True)
class _Wish:
    trigger: Trigger
    reason: str
    answer: Future[NightState]


class Dispatcher:
    """Runs the night's table. `perform[action]` is the coroutine function of each action."""

    def __init__(
        self,
        record: NightRecord | None,
        perform: dict[Action, Activity],
        journal: Journal,
        clock: Clock,
        *,
        night_label: Callable[[int], str],
        read_dome: Callable[[NightRecord | None], Awaitable[DomeReading]],
        stop_all: Callable[[], Awaitable[None]],
        tick: Callable[[], None],
        deadlines_s: dict[NightState, float] | None = None,
        real_floor_s: float = 25.0,
    ) -> None:
        self.readable = record is not None
        self.record = record or NightRecord(reason="the state could not be read")
        self.perform = perform
        self.journal = journal
        self.clock = clock
        self.night_label = night_label
        self.read_dome = read_dome
        self.stop_all = stop_all
        self.tick = tick
        self.deadlines_s = {**DEADLINE_S, **(deadlines_s or {})}
        self.real_floor_s = real_floor_s
        self.loop: asyncio.AbstractEventLoop | None = None
        self.no_deadline = False
        """Set by an activity that has reached a point from which only a human leads on."""
        self._entered_ns = self.record.since_ns
        """When this process entered the state, or came back to it: what its deadline counts from."""
        self._lost_first_s: float | None = None
        self._lost_last_s = 0.0
        self._wishes: asyncio.Queue[_Wish] = asyncio.Queue()
        self._early: list[_Wish] = []
        self._ready = threading.Event()
        self._lock = threading.Lock()

    def wish(self, trigger: Trigger, reason: str) -> Future[NightState]:
        """From any thread: ask for a transition. The future gives the new state, or raises `Refused`."""
        wish = _Wish(trigger, reason, Future())
        with self._lock:
            if self.loop is None:
                self._early.append(wish)
            else:
                self.loop.call_soon_threadsafe(self._wishes.put_nowait, wish)
        return wish.answer

    async def run(self, stopping: asyncio.Event) -> None:
        """Walk until `stopping`. Leaves the hardware as it is: safety's lease closes the dome when nobody comes back."""
        with self._lock:
            self.loop = asyncio.get_running_loop()
            for wish in self._early:
                self._wishes.put_nowait(wish)
            self._early.clear()
        stopped = asyncio.create_task(stopping.wait())
        try:
            resumed = await self._unless(stopped, self._resume())
            while resumed and not stopping.is_set():
                await self._one_state(stopped)
        finally:
            stopped.cancel()
            with self._lock:
                self.loop = None

    async def _unless(self, stopped: asyncio.Task[bool], work: Awaitable[None]) -> bool:
        task = asyncio.ensure_future(work)
        await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
            return True
        await _end(task)
        return False

    async def _resume(self) -> None:
        """After a start: read the dome back first, then go on by the table's column `resume`."""
        reading = await self.read_dome(self.record if self.readable else None)
        row = resume(self.record.state if self.readable else None, reading)
        # A state that is gone on with has its whole time again: the minutes without a process were no attempt to close.
        self._entered_ns = self.clock.now_ns()
        if row.to is not self.record.state or not self.readable:
            await self._move(row, "resume", f"started again in {self.record.state.value}; the dome reads back {reading.value}")

    async def _move(self, row: Step, trigger: str, reason: str) -> None:
        now_ns = self.clock.now_ns()
        before = self.record
        night = self.night_label(now_ns) if not before.night or row.action is Action.PREPARE else before.night
        after = NightRecord(
            state=row.to,
            night=night,
            since_ns=now_ns,
            reason=reason,
            trigger=trigger,
            stopped_from=before.state if row.action is Action.STOP_ALL else before.stopped_from,
        )
        await asyncio.to_thread(self.journal.write, Transition(before=before, after=after, alarm=row.alarm))
        self.record, self._entered_ns = after, now_ns
        self.no_deadline = False
        self.tick()

    async def _one_state(self, stopped: asyncio.Task[bool]) -> None:
        """Be in the present state until one trigger leads out of it."""
        record = self.record
        activity: asyncio.Task[Ending] = asyncio.ensure_future(self.perform[entry_action(record.state)](record))
        try:
            while True:
                wishing: asyncio.Task[_Wish] = asyncio.ensure_future(self._wishes.get())
                try:
                    # `stopping` must run to its end: nothing interrupts it but a human and the process's own end.
                    await asyncio.wait({activity, wishing, stopped}, timeout=self._left_s(record), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    wish = wishing.result() if wishing.done() and not wishing.cancelled() else None
                    wishing.cancel()
                if stopped.done():
                    if wish is not None:
                        wish.answer.set_exception(Refused("the telescope module is ending", where="telescope", remedy="Ask again later"))
                    return
                if wish is not None:
                    if await self._grant(wish, activity, record):
                        return
                    continue
                if activity.done():
                    ending = await self._ending_of(activity, record)
                    row = None if ending is None else step(record.state, ending.trigger, stopped_from=record.stopped_from)
                    if ending is not None and row is not None:
                        await self._move(row, ending.trigger.value, ending.reason)
                        return
                    if ending is not None:
                        await asyncio.to_thread(
                            self.journal.alarm, f"telescope.{record.state.value}", refusal(record.state, ending.trigger), critical=False
                        )
                    await asyncio.sleep(RETRY_S)
                    activity = asyncio.ensure_future(self.perform[entry_action(record.state)](record))
                    continue
                if self._left_s(record) == 0.0:
                    await self._time_out(record, activity)
                    return
        finally:
            await _end(activity)

    def _left_s(self, record: NightRecord) -> float | None:
        """Real seconds until the state's deadline; None without one."""
        limit_s = self.deadlines_s.get(record.state)
        if limit_s is None or self.no_deadline:
            return None
        # In a fast world 120 s are one real second: what a busy host needs for its own work, or to start a peer again that died, must
        # not count as a fault.
        elapsed_s = max(0.0, (self.clock.now_ns() - self._entered_ns) / 1e9)
        return max(0.0, self.clock.real_s(limit_s, floor_s=self.real_floor_s) - self.clock.real_s(elapsed_s))

    async def _grant(self, wish: _Wish, activity: asyncio.Task[Ending], record: NightRecord) -> bool:
        row = step(record.state, wish.trigger, stopped_from=record.stopped_from)
        if row is None:
            wish.answer.set_exception(Refused(refusal(record.state, wish.trigger), where="telescope", remedy="See `nightbell status`"))
            return False
        if wish.trigger in (Trigger.ABORT, Trigger.HUMAN_ON_SITE):
            # The devices first: cancelling the activity may take a moment, the abort must not. A human on site is in its way.
            await self._stop_all()
        await _end(activity)
        await self._move(row, wish.trigger.value, wish.reason)
        wish.answer.set_result(self.record.state)
        return True

    async def _stop_all(self) -> None:
        try:
            await asyncio.wait_for(self.stop_all(), WORKER_LIMIT_S)
        except (NightbellError, TimeoutError) as error:
            await asyncio.to_thread(self.journal.alarm, "telescope.abort", f"a device did not take the abort: {error}", critical=True)

    async def _ending_of(self, activity: asyncio.Task[Ending], record: NightRecord) -> Ending | None:
        """The activity's own ending; a failure becomes the trigger of the table, or None where there is no way out of the state."""
        try:
            return activity.result()
        except DeviceLost as error:
            reason = str(error)
            if self._may_come_back():
                await asyncio.to_thread(
                    self.journal.alarm,
                    f"telescope.{record.state.value}.lost",
                    f"{record.state.value} waits for a device: {reason}",
                    critical=False,
                )
                return None
        except NightbellError as error:
            reason = str(error)
        except Exception as error:  # noqa: BLE001 - one activity may not end the night: what it did wrong becomes its ending
            reason = f"{type(error).__name__}: {error}"
        await asyncio.to_thread(
            self.journal.alarm, f"telescope.{record.state.value}.failed", f"{record.state.value} failed: {reason}", critical=False
        )
        return Ending(Trigger.DEVICE_FAILED, reason) if step(record.state, Trigger.DEVICE_FAILED) else None

    def _may_come_back(self) -> bool:
        """Whether a lost device is still waited for; a loss long after the last one is a new one."""
        now_s = time.monotonic()
        if self._lost_first_s is None or now_s - self._lost_last_s > PATIENCE_S:
            self._lost_first_s = now_s
        self._lost_last_s = now_s
        return now_s - self._lost_first_s < PATIENCE_S

    async def _time_out(self, record: NightRecord, activity: asyncio.Task[Ending]) -> None:
        limit_s = self.deadlines_s[record.state]
        row = step(record.state, Trigger.TIMED_OUT)
        await _end(activity)
        if row is not None:
            await self._move(row, Trigger.TIMED_OUT.value, f"{record.state.value} has not ended within {limit_s:g} s")


async def _end(task: asyncio.Task[Ending] | asyncio.Future[None]) -> None:
    """Cancel and wait until it has ended; a task that does not end in time is left behind and holds nothing we need."""
    if not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=WORKER_LIMIT_S)
    if task.done() and not task.cancelled():
        task.exception()
