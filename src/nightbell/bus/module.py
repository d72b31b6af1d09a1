"""What a module is: a class with handlers for events (`@on`) and commands (`@answers`), and the process around it.

    class Telescope(Module[TelescopeState]):
        name = "telescope"
        state_type = TelescopeState

        @on("targets.ready")
        def plan_again(self, event: TargetsReady, turn: Turn[TelescopeState]) -> None: ...

        @answers(OpenNight)
        def open_night(self, command: OpenNight, turn: Turn[TelescopeState], progress: Progress) -> dict[str, Any] | None: ...

Handlers of events run one at a time in the journal's order, each with its own transaction; queries and urgent commands in a small
pool, other commands one at a time in a thread of their own. Work of more than some seconds belongs in a thread that ends with
`with self.turn() as turn`. A module works while the broker is away.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import errno
import json
import os
import queue
import signal
import sqlite3
import sys
import threading
import time
import traceback
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import msgspec
import structlog

from nightbell.bus import wire
from nightbell.bus.client import Client, Delivery, Subscription
from nightbell.bus.commands import CommandServer, Progress, ask_at, endpoint_file, read_endpoint
from nightbell.bus.locks import FolderLock
from nightbell.bus.logs import set_up_logging
from nightbell.bus.turn import EnvelopeSeen, Store, Turn
from nightbell.contracts.commands import Command, Shutdown, Status, commands_of
from nightbell.contracts.errors import BadInput, Missing, NightbellError
from nightbell.contracts.events import EVENTS, Event
from nightbell.contracts.records import Site
from nightbell.contracts.states import CommandClass
from nightbell.settings import Installation
from nightbell.sky.clock import Clock, make_clock

__all__ = ["Module", "Progress", "Turn", "answers", "on", "run_module"]

S = TypeVar("S")
F = TypeVar("F", bound=Callable[..., Any])

SUBSCRIPTION = "main"
MAX_ATTEMPTS = 5
MANY_ATTEMPTS = 1000
"""About a day of trouble with the disk."""
ACK_WAIT_MS = 30_000
HUSH_S = 600.0
READY_WAIT_S = 5.0
LOOKUP_S = 1.0


@dataclass(frozen=True, slots=True)
class _On:
    type: str
    max_attempts: int


def on(event_type: str, *, max_attempts: int = MAX_ATTEMPTS) -> Callable[[F], F]:
    """Marks a handler of events of one type; after `max_attempts` failures the event lies among the dead letters."""

    def mark(handler: F) -> F:
        handler.__nightbell_on__ = _On(event_type, max_attempts)  # type: ignore[attr-defined]
        return handler

    return mark


def answers(command: type[Command]) -> Callable[[F], F]:
    """Marks the handler of a command; what it returns is the result, `Refused` and `BadInput` are answers too."""

    def mark(handler: F) -> F:
        handler.__nightbell_answers__ = command  # type: ignore[attr-defined]
        return handler

    return mark


@dataclass(frozen=True, slots=True)
class _Heard:
    kind: type[Event]
    handler: str
    max_attempts: int


class Module(Generic[S]):
    """Base of all modules; see the top of this file."""

    name: ClassVar[str]
    state_type: ClassVar[type]
    settings_type: ClassVar[type | None] = None
    schema: ClassVar[str] = ""
    """CREATE TABLE IF NOT EXISTS ... for the module's own tables in `module.db`."""

    def __init__(self, installation: Installation, *, name: str | None = None) -> None:
        self.module_name = name or self.name
        self.installation = installation
        self.site: Site = installation.site
        self.home: Path = installation.state_folder(self.module_name)
        kind = type(self).settings_type
        self.settings: Any = installation.module_settings(self.module_name, kind) if kind is not None else None
        self.stopping = threading.Event()
        self.log: Any = structlog.get_logger().bind(module=self.module_name)
        self._bus_began = time.monotonic()
        self._bus_heard = _handlers_of(type(self))
        self._bus_answered = _answers_of(type(self), self.module_name)
        self._bus_lock = FolderLock(self.home)
        self._bus_lock.acquire()
        self.clock: Clock = make_clock(installation.settings.clock)
        self._bus_store = Store(self.home / "module.db", schema=self.schema)
        self._bus_alarms_said: dict[tuple[str, str], float] = {}
        self._bus_handling: tuple[str, int, float] | None = None
        self._bus_counters = {"handled": 0, "failed": 0}
        self._bus_endpoints: dict[str, str] = {}
        self._bus_deliveries: queue.SimpleQueue[Delivery | None] = queue.SimpleQueue()
        self._bus_exit_status = 0
        broker = installation.broker_of(self.module_name)
        self._bus_server = CommandServer(
            name=self.module_name,
            commands={verb: kind for verb, (kind, _) in self._bus_answered.items()},
            handle=self._bus_carry_out,
            store=self._bus_store,
            log=self.log,
            curve=_server_curve(installation, self.module_name),
        )
        self._bus_client = Client(
            installation.settings.brokers[broker].door,
            name=self.module_name,
            site=self.site.name,
            broker=broker,
            log=self.log,
            store=self._bus_store,
            subscriptions=[Subscription(SUBSCRIPTION, tuple(self._bus_heard), ack_wait_ms=ACK_WAIT_MS)] if self._bus_heard else [],
            deliveries=self._bus_deliveries,
            commands=self._bus_server.endpoint,
            curve=_client_curve(installation, self.module_name, f"broker-{broker}"),
            state=self._bus_vitals,
            on_fenced=self._bus_fenced,
        )
        self._bus_hearer = threading.Thread(target=self._bus_hear_for_ever, name="events", daemon=True)

    # -- for modules to fill --------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Called once, before events are delivered; begin own threads here."""

    def stop(self) -> None:
        """Called once at the end; join own threads here."""

    def report(self) -> dict[str, Any]:
        """More keys for the answer to `status`; called from other threads, must not block."""
        return {}

    # -- for modules to use ---------------------------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """Whether the broker answers now."""
        return self._bus_client.connected

    @property
    def fence(self) -> int:
        """The fencing token of this instance: grows with each new holder of the module's name."""
        return self._bus_client.fence

    @contextmanager
    def turn(self, *, correlationid: str | None = None, causationid: str | None = None) -> Iterator[Turn[S]]:
        """A turn of one's own, from any thread: commits at the end, undoes everything when an exception leaves it."""
        turn = self._bus_turn(correlationid=correlationid, causationid=causationid)
        try:
            yield turn
            turn.commit()
        except BaseException:
            turn.rollback()
            raise
        if turn.published:
            self._bus_client.wake()

    def curve_to(self, server: str) -> Callable[[Any], None] | None:
        """How this module's sockets make themselves known to `server`; None without keys."""
        return _client_curve(self.installation, self.module_name, server)

    def ask(
        self, module: str, command: Command, *, timeout_s: float = 5.0, progress: Callable[[float | None, str], None] | None = None
    ) -> dict[str, Any]:
        """Ask another module directly. Raises `Refused`, `BadInput`, `Failed`, or `Missing` when it does not answer."""
        until = time.monotonic() + timeout_s
        endpoint = self._bus_where_is(module, timeout_s)
        return ask_at(
            endpoint,
            command.verb,
            msgspec.json.encode(command),
            module=module,
            timeout_s=max(0.05, until - time.monotonic()),
            progress=progress,
            caller=f"{self.module_name}@{self.site.name}",
            curve=_client_curve(self.installation, self.module_name, module),
            look_again=lambda: self._bus_where_is(module, LOOKUP_S),
        )

    # -- within ---------------------------------------------------------------------------------------------------------

    def _bus_turn(self, **more: Any) -> Turn[S]:
        return Turn(
            self._bus_store,
            name=self.module_name,
            site=self.site.name,
            state_type=self.state_type,
            now_ns=self.clock.now_ns,
            hush=self._bus_hush,
            **more,
        )

    def _bus_hush(self, key: str, text: str) -> bool:
        now = time.monotonic()
        last = self._bus_alarms_said.get((key, text))
        if last is not None and now - last < HUSH_S:
            return True
        self._bus_alarms_said[key, text] = now
        return False

    def _bus_where_is(self, module: str, timeout_s: float) -> str:
        """Endpoint of a module's commands: its own note on this host, else the broker's directory, else what was known last."""
        told = read_endpoint(self.installation.home, module)
        if told is not None:
            return told
        if self.connected:
            try:
                found = self._bus_client.look_up(module).result(timeout=min(LOOKUP_S, timeout_s))
            except concurrent.futures.TimeoutError:
                found = None
            if found is not None and found.commands is not None:
                self._bus_endpoints[module] = found.commands
        if module not in self._bus_endpoints:
            raise Missing(f"nobody knows where {module} answers", where=module, remedy=f"Is it running? Start it: nightbell run {module}")
        return self._bus_endpoints[module]

    def _bus_vitals(self) -> dict[str, Any]:
        handling = self._bus_handling
        return {
            "up_s": round(time.monotonic() - self._bus_began, 1),
            "handling": {"type": handling[0], "seq": handling[1], "for_s": round(time.monotonic() - handling[2], 1)} if handling else None,
            "command": self._bus_server.running,
        }

    def _bus_fenced(self, text: str) -> None:
        """Another instance holds our name: nothing may be done any more, least of all to hardware."""
        self.log.critical("module.fenced", text=text)
        self._bus_exit_status = 3
        self.stopping.set()

    # -- events ---------------------------------------------------------------------------------------------------------

    def _bus_hear_for_ever(self) -> None:
        while (delivery := self._bus_deliveries.get()) is not None:
            if self.stopping.is_set() or self._bus_client.is_void(delivery):
                continue
            self._bus_client.at_work(delivery)
            try:
                self._bus_handle(delivery)
            except Exception as error:
                # Of the database, not of the handler: without this thread the module would be deaf and not know it.
                self.log.exception("event.failed", seq=delivery.seq)
                self._bus_client.reject(delivery, f"{type(error).__name__}: {error}", final=False, max_attempts=MANY_ATTEMPTS)
            self._bus_client.at_work(None)

    def _bus_handle(self, delivery: Delivery) -> None:
        max_attempts = MAX_ATTEMPTS
        try:
            envelope = wire.decode_envelope(delivery.envelope)
            heard = self._bus_heard[envelope.type]
            max_attempts = heard.max_attempts
            if self._bus_store.has_handled(envelope.id):
                self._bus_client.acknowledge(delivery)
                return
            if envelope.typeversion > heard.kind.typeversion:
                raise BadInput(
                    f"version {envelope.typeversion} of {envelope.type}; known here is {heard.kind.typeversion}",
                    where="typeversion",
                    remedy=f"Bring {self.module_name} up to date, then: nightbell dead retry {delivery.seq}",
                )
            event = _payload(envelope, heard.kind, delivery.seq)
        except (wire.WireError, BadInput, KeyError) as error:
            # Trying again would not make it better.
            self._bus_counters["failed"] += 1
            self.log.warning("event.refused", seq=delivery.seq, error=str(error))
            self._bus_client.reject(delivery, f"{type(error).__name__}: {error}", final=True, max_attempts=1)
            return
        seen = EnvelopeSeen(
            envelope.id,
            delivery.seq,
            envelope.type,
            envelope.time,
            envelope.subject,
            envelope.source,
            envelope.correlationid,
            envelope.causationid,
        )
        turn = self._bus_turn(envelope=seen)
        self._bus_handling = (envelope.type, delivery.seq, time.monotonic())
        try:
            getattr(self, heard.handler)(event, turn)
            turn.commit(handled=(delivery.sub, delivery.epoch, envelope.id, delivery.seq))
        except Exception as error:
            turn.rollback()
            if self.stopping.is_set():
                return  # it will come again after the restart
            self._bus_counters["failed"] += 1
            self.log.exception("event.failed", type=envelope.type, seq=delivery.seq, attempt=delivery.attempt)
            told = "".join(traceback.format_exception(error)[-3:]).strip()
            # A full disk is no fault of the event: it comes again until there is room.
            self._bus_client.reject(delivery, told, final=False, max_attempts=MANY_ATTEMPTS if _is_full_disk(error) else max_attempts)
            return
        finally:
            self._bus_handling = None
        self._bus_counters["handled"] += 1
        self._bus_client.acknowledge(delivery)

    # -- commands -------------------------------------------------------------------------------------------------------

    def _bus_carry_out(self, command: Command, progress: Progress, *, call: wire.Call, ledger_id: str | None) -> bytes:
        _, handler = self._bus_answered[command.verb]
        query = command.kind is CommandClass.QUERY
        turn = self._bus_turn(read_only=query, causationid=call.id, correlationid=call.correlationid)
        if not query:
            self.log.info("command", verb=command.verb, caller=call.caller, id=call.id)
        try:
            value = msgspec.json.encode(getattr(self, handler)(command, turn, progress))
            packed = msgspec.json.encode(wire.Result(id=call.id, ok=True, value=msgspec.Raw(value)))
            turn.commit(result=(ledger_id, packed) if ledger_id is not None else None)
        except BaseException:
            turn.rollback()
            raise
        if turn.published:
            self._bus_client.wake()
        return value

    @answers(Status)
    def _bus_status(self, command: Status, turn: Turn[S], progress: Progress) -> dict[str, Any]:  # noqa: ARG002
        reader = self._bus_store.reader()
        return {
            "module": self.module_name,
            "pid": os.getpid(),
            "connected": self.connected,
            "fence": self.fence,
            "broker_refuses": self._bus_client.refusal,
            "outbox": self._bus_store.outbox.n_unconfirmed(reader),
            "outbox_refused": len(self._bus_store.outbox.refused(reader)),
            **self._bus_counters,
            **self._bus_vitals(),
            **self.report(),
        }

    @answers(Shutdown)
    def _bus_shutdown(self, command: Shutdown, turn: Turn[S], progress: Progress) -> dict[str, Any]:  # noqa: ARG002
        # A moment for the answer to leave.
        threading.Timer(0.2, self.stopping.set).start()
        return {"stopping": True}

    # -- life -----------------------------------------------------------------------------------------------------------

    def live(self, ready: Callable[[str], None]) -> int:
        """Start, work until told to stop, stop. Returns the exit status."""
        try:
            self.start()
            self._bus_server.start()
            self._bus_note_endpoint()
            self._bus_hearer.start()
            self._bus_client.start()
            self._bus_client.subscribed.wait(READY_WAIT_S)
            ready(self._bus_server.endpoint)
            while not self.stopping.wait(0.2):
                pass
        finally:
            self.stopping.set()
            self._bus_end()
        return self._bus_exit_status

    def _bus_note_endpoint(self) -> None:
        """Write down where commands are answered. Without that note (a full disk) the broker's directory tells it."""
        note = endpoint_file(self.installation.home, self.module_name)
        beside = note.with_suffix(".new")
        try:
            beside.write_text(json.dumps({"endpoint": self._bus_server.endpoint, "pid": os.getpid()}), encoding="utf-8")
            _replace(beside, note)
        except OSError as error:
            self.log.warning("commands.not_noted", path=str(note), error=str(error))
            with contextlib.suppress(OSError):
                note.unlink()  # the address of the process before

    def _bus_end(self) -> None:
        try:
            self.stop()
        except Exception:
            self.log.exception("module.stop_failed")
            self._bus_exit_status = self._bus_exit_status or 1
        self._bus_server.end()
        self._bus_deliveries.put(None)
        if self._bus_hearer.is_alive():
            self._bus_hearer.join(timeout=10.0)
        self._bus_client.end()
        self._bus_store.close()
        self._bus_lock.release()
        self.log.info("module.stopped", status=self._bus_exit_status)


def _handlers_of(kind: type[Module[Any]]) -> dict[str, _Heard]:
    found: dict[str, _Heard] = {}
    for name in dir(kind):
        handler = getattr(kind, name)
        mark = getattr(handler, "__nightbell_on__", None)
        if mark is None:
            continue
        event_kind = EVENTS.get(mark.type)
        if event_kind is None:
            raise BadInput(
                f"{kind.__name__}.{name} hears {mark.type!r}, which is no event", where="@on", remedy="See contracts.events.EVENTS"
            )
        annotated = _hint(handler, "event")
        if annotated is not event_kind:
            raise BadInput(
                f"{kind.__name__}.{name} hears {mark.type}, but its `event` is annotated {annotated}",
                where="@on",
                remedy=f"Annotate it {event_kind.__name__}",
            )
        if mark.type in found:
            raise BadInput(f"{kind.__name__} hears {mark.type} twice", where="@on", remedy="Keep one handler per event type")
        found[mark.type] = _Heard(event_kind, name, mark.max_attempts)
    return found


def _answers_of(kind: type[Module[Any]], module: str) -> dict[str, tuple[type[Command], str]]:
    found: dict[str, tuple[type[Command], str]] = {}
    for name in dir(kind):
        handler = getattr(kind, name)
        command = getattr(handler, "__nightbell_answers__", None)
        if command is None:
            continue
        if _hint(handler, "command") is not command:
            raise BadInput(f"{kind.__name__}.{name} must annotate its `command` {command.__name__}", where="@answers")
        found[command.verb] = (command, name)
    declared = set(commands_of(kind.name))
    if declared != set(found):
        odd = ", ".join(sorted(declared ^ set(found)))
        raise BadInput(
            f"{module} and contracts.commands disagree about {odd}", where="@answers", remedy="Each command of a module needs one handler"
        )
    return found


def _payload(envelope: wire.Envelope, kind: type[Event], seq: int) -> Event:
    """The event in `envelope`. Raises `BadInput` naming the field that is wrong."""
    try:
        return msgspec.json.decode(bytes(envelope.data), type=kind)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadInput(
            str(error),
            where=f"payload of {envelope.type} from {envelope.source}",
            remedy=f"Mend its sender and let it say the event again, then: nightbell dead drop {seq}",
        ) from error


def _replace(new: Path, old: Path) -> None:
    """Give `new` the name of `old`; Windows refuses that while somebody reads the old one."""
    for _ in range(10):
        with contextlib.suppress(PermissionError):
            new.replace(old)
            return
        time.sleep(0.05)
    new.replace(old)


def _is_full_disk(error: Exception) -> bool:
    if isinstance(error, sqlite3.Error):
        return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
    return isinstance(error, OSError) and error.errno == errno.ENOSPC


def _hint(handler: Any, argument: str) -> Any:
    given = handler.__annotations__.get(argument)
    return typing.get_type_hints(handler).get(argument) if isinstance(given, str) else given


def _server_curve(installation: Installation, name: str) -> Callable[[Any], None] | None:
    if not installation.settings.keys:
        return None
    from nightbell.bus import keys  # noqa: PLC0415  (only installations with keys load it)

    return lambda sock: keys.server_options(sock, installation, name)


def _client_curve(installation: Installation, name: str, server: str) -> Callable[[Any], None] | None:
    if not installation.settings.keys:
        return None
    from nightbell.bus import keys  # noqa: PLC0415

    return lambda sock: keys.client_options(sock, installation, name, server)


def run_module(kind: type[Module[Any]], installation: Installation, *, name: str | None = None) -> int:
    """The process of one module: runs until SIGINT, SIGTERM or the command `shutdown`. Returns the exit status.

    Prints `READY {...}` on stdout when its events are subscribed, or after some seconds without a broker: it works all the same.
    """
    set_up_logging()
    module = kind(installation, name=name)

    def stop(number: int, _frame: object) -> None:
        module.log.info("module.stopping", signal=number)
        module.stopping.set()

    for one in ("SIGINT", "SIGTERM", "SIGBREAK"):
        if hasattr(signal, one):
            signal.signal(getattr(signal, one), stop)

    def ready(endpoint: str) -> None:
        told = {"module": module.module_name, "pid": os.getpid(), "commands": endpoint}
        sys.stdout.write(f"READY {json.dumps(told)}\n")
        sys.stdout.flush()

    try:
        return module.live(ready)
    except NightbellError:
        module.log.exception("module.failed")
        raise
