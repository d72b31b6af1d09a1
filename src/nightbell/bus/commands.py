"""Wishes, asked directly of a module: `CALL` -> `ACCEPTED` -> `PROGRESS`... -> `RESULT`, or `REFUSED`, or `BUSY`.

They do not go through the broker, so that `abort` and `close` work while it is dead; it is only the directory. A wish expires by
age, measured with monotonic clocks. Class *once* has a ledger row before it is accepted: the same id again gets the stored answer,
and one that was running when the process died is answered `interrupted`, never run again by itself.
"""

from __future__ import annotations

import concurrent.futures
import json
import queue
import threading
import time
import uuid
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import msgspec
import zmq

from nightbell.bus import wire
from nightbell.bus.client import CurveOptions, set_client_options
from nightbell.bus.handshake import Handshake
from nightbell.bus.turn import Store
from nightbell.contracts.commands import Command
from nightbell.contracts.errors import BadInput, Failed, Missing, NightbellError, Refused
from nightbell.contracts.states import CommandClass

__all__ = ["CommandServer", "Progress", "ask_at", "endpoint_file", "read_endpoint"]

POLL_MS = 200
QUEUE_LENGTH = 8
POOL_THREADS = 4
KEPT_ANSWERS = 512
PROGRESS_EVERY_S = 0.1
REPEAT_S = 2.0
"""A caller who has heard nothing for so long asks again with the same id."""


class Progress:
    """Tells the caller how far a command is; raises `Refused` (code cancelled) when the caller has taken it back."""

    def __init__(self, tell: Callable[[float | None, str], None] = lambda _fraction, _text: None) -> None:
        self._tell = tell
        self._cancelled = threading.Event()

    def __call__(self, fraction: float | None, text: str) -> None:
        """`fraction` 0 to 1, or None when it is not known."""
        if self._cancelled.is_set():
            raise Refused("cancelled by the caller", where="command", code="cancelled")
        self._tell(fraction, text)

    @property
    def cancelled(self) -> bool:
        """Whether the caller has taken the command back."""
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """Ask the handler to stop at its next report."""
        self._cancelled.set()


class Handler(Protocol):
    """Carries a command out: returns the encoded value, having committed it under `ledger_id` when that is given."""

    def __call__(self, command: Command, progress: Progress, *, call: wire.Call, ledger_id: str | None) -> bytes: ...


@dataclass(slots=True)
class _Job:
    call: wire.Call
    command: Command
    kind: CommandClass
    came_at: float
    callers: list[bytes]
    progress: Progress = field(default_factory=Progress)
    k: int = 0
    told_at: float = 0.0


class CommandServer(threading.Thread):
    """A module's ROUTER for commands, with a thread for ordinary ones and a small pool for queries and urgent ones."""

    def __init__(
        self,
        *,
        name: str,
        commands: Mapping[str, type[Command]],
        handle: Handler,
        store: Store,
        log: Any,
        endpoint: str = "tcp://127.0.0.1:*",
        curve: CurveOptions | None = None,
    ) -> None:
        super().__init__(name="commands", daemon=True)
        self.module, self._kinds, self._handle, self._store, self.log = name, commands, handle, store, log
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
        self._socket = context.socket(zmq.ROUTER)
        for option, value in (
            (zmq.LINGER, 0),
            (zmq.MAXMSGSIZE, 4 << 20),
            (zmq.ROUTER_MANDATORY, 1),
            (zmq.HEARTBEAT_IVL, 2000),
            (zmq.HEARTBEAT_TIMEOUT, 6000),
            (zmq.HANDSHAKE_IVL, 3000),
        ):
            self._socket.setsockopt(option, value)
        if curve is not None:
            curve(self._socket)
        self._socket.bind(endpoint)
        self.endpoint = str(self._socket.getsockopt_string(zmq.LAST_ENDPOINT))
        address = f"inproc://commands-{uuid.uuid4()}"
        self._wake_end = context.socket(zmq.PAIR)
        self._wake_end.bind(address)
        self._waker = context.socket(zmq.PAIR)
        self._waker.setsockopt(zmq.SNDHWM, 8)
        self._waker.connect(address)
        self._waker_lock = threading.Lock()
        self._answers: deque[tuple[bytes, wire.Head]] = deque()
        self._jobs: dict[str, _Job] = {}
        self._jobs_lock = threading.Lock()
        self._given: OrderedDict[str, tuple[tuple[str, bytes], wire.Head]] = OrderedDict()
        """The last answers: id -> (wish, answer)."""
        self._waiting: queue.Queue[_Job | None] = queue.Queue(maxsize=QUEUE_LENGTH)
        self._running = ""
        self._ending = threading.Event()
        self._pool = concurrent.futures.ThreadPoolExecutor(POOL_THREADS, thread_name_prefix="command")
        self._worker = threading.Thread(target=self._work_for_ever, name="command", daemon=True)
        self._find_interrupted()

    def _find_interrupted(self) -> None:
        """Commands of class once that were running when the process died: their outcome is not known."""
        rows = self._store.reader().execute("SELECT id, verb FROM command WHERE state <> 'done'").fetchall()
        for identity, verb in rows:
            error = Failed(
                f"{verb} was interrupted by the end of the process; whether it took effect is not known",
                where=self.module,
                remedy="Look at the state, then send a new command",
                code="interrupted",
            )
            self._store_answer(identity, _packed(wire.Result(id=identity, ok=False, error=error.as_dict())))

    def _store_answer(self, identity: str, packed: bytes) -> None:
        self._store.write(lambda db: db.execute("UPDATE command SET state = 'done', answer = ? WHERE id = ?", (packed, identity)))

    @property
    def running(self) -> str:
        """What the command thread is doing, or nothing."""
        return self._running

    def end(self) -> None:
        """Answer no more."""
        self._ending.set()
        self._wake()
        if self.is_alive():
            self.join(timeout=5.0)
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _wake(self) -> None:
        with self._waker_lock:
            try:
                self._waker.send(b"", zmq.NOBLOCK)
            except zmq.ZMQError:
                return  # wake-ups wait already, or the thread has ended

    # -- the socket's thread --------------------------------------------------------------------------------------------

    def run(self) -> None:
        self._worker.start()
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._wake_end, zmq.POLLIN)
        try:
            while not self._ending.is_set():
                ready = dict(poller.poll(POLL_MS))
                if self._wake_end in ready:
                    self._wake_end.recv()
                if self._socket in ready:
                    self._receive()
                self._send_answers()
            self._send_answers()
        finally:
            try:
                self._waiting.put_nowait(None)
            except queue.Full:
                self.log.warning("commands.dropped", n=self._waiting.qsize())
            self._socket.close(300)
            self._wake_end.close(0)
            with self._waker_lock:
                self._waker.close(0)

    def _send_answers(self) -> None:
        while self._answers:
            caller, head = self._answers.popleft()
            try:
                self._socket.send_multipart([caller, *wire.encode(head)], zmq.NOBLOCK)
            except zmq.ZMQError as error:  # the caller has gone or does not read; asking again with the same id answers
                self.log.debug("command.unheard", verb=head.verb, error=str(error))

    def _receive(self) -> None:
        for _ in range(100):
            try:
                caller, *frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                head, _ = wire.decode(frames, wire.TO_CALLEE)
                self._hear(caller, head)
            except wire.WireError as error:
                self._say(caller, wire.RefusedCall(id="", code=error.word, what=error.what, where=error.where, remedy=error.remedy))

    def _hear(self, caller: bytes, head: wire.Head) -> None:
        if isinstance(head, wire.Call):
            try:
                self._called(caller, head)
            except NightbellError as error:
                self._say(caller, _refused(head.id, error))
        elif isinstance(head, wire.Cancel):
            with self._jobs_lock:
                job = self._jobs.get(head.id)
            if job is not None:
                job.progress.cancel()
                self._tell(job, None, "cancelling")
        elif isinstance(head, wire.Ask):
            self._say(caller, self._known(head.id) or _unknown(head.id))

    def _known(self, identity: str) -> wire.Head | None:
        """The last known answer to a command id."""
        with self._jobs_lock:
            if identity in self._jobs:
                return wire.Accepted(id=identity)
            if identity in self._given:
                return self._given[identity][1]
        found = self._store.reader().execute("SELECT answer FROM command WHERE id = ?", (identity,)).fetchone()
        return msgspec.json.decode(found[0], type=wire.Result) if found and found[0] is not None else None

    def _called(self, caller: bytes, call: wire.Call) -> None:
        came_at = time.monotonic() - call.age_ms / 1000
        kind = self._kinds.get(call.command)
        if kind is None:
            raise Refused(
                f"{self.module} has no command {call.command!r}",
                where="verb",
                remedy=f"It answers {', '.join(sorted(self._kinds))}",
                code="verb",
            )
        with self._jobs_lock:
            job = self._jobs.get(call.id)
            if job is not None:
                if _wish(job.call) != _wish(call):
                    raise _reused(call)
                if caller not in job.callers:
                    job.callers.append(caller)
                self._say(caller, wire.Accepted(id=call.id))
                return
            given = self._given.get(call.id)
        if given is not None:
            wish, answer = given
            if wish != _wish(call):
                raise _reused(call)
            self._say(caller, answer)
            return
        if call.age_ms >= call.expires_ms:
            raise _expired(call)
        try:
            command = msgspec.json.decode(bytes(call.args) or b"{}", type=kind)
        except (msgspec.DecodeError, RecursionError) as error:
            fields = ", ".join(msgspec.structs.fields(kind)[i].name for i in range(len(msgspec.structs.fields(kind)))) or "no fields"
            raise BadInput(str(error), where=f"{self.module} {call.command}", remedy=f"{call.command} takes {fields}") from error
        job = _Job(call, command, kind.kind, came_at, [caller])
        job.progress = Progress(lambda fraction, text: self._tell(job, fraction, text))
        if kind.kind is CommandClass.ONCE and not self._enter_in_ledger(caller, call):
            return
        with self._jobs_lock:
            self._jobs[call.id] = job
        if kind.urgent or kind.kind is CommandClass.QUERY:
            self._say(caller, wire.Accepted(id=call.id))
            self._pool.submit(self._carry_out, job)
            return
        try:
            self._waiting.put_nowait(job)
        except queue.Full:
            self._forget(job)
            self._say(caller, wire.Busy(id=call.id, by=self._running or "other commands"))
            return
        self._say(caller, wire.Accepted(id=call.id))

    def _enter_in_ledger(self, caller: bytes, call: wire.Call) -> bool:
        """A row for a command of class once, before it is accepted; False when it was known and has been answered."""
        found = self._store.reader().execute("SELECT verb, args, answer FROM command WHERE id = ?", (call.id,)).fetchone()
        if found is not None:
            if (found[0], bytes(found[1])) != _wish(call):
                raise _reused(call)
            answer = msgspec.json.decode(found[2], type=wire.Result) if found[2] is not None else wire.Accepted(id=call.id)
            self._say(caller, answer)
            return False
        row = (call.id, call.command, bytes(call.args), time.time_ns())
        self._store.write(lambda db: db.execute("INSERT INTO command (id, verb, args, state, at_ns) VALUES (?, ?, ?, 'accepted', ?)", row))
        return True

    def _forget(self, job: _Job) -> None:
        with self._jobs_lock:
            self._jobs.pop(job.call.id, None)
        if job.kind is CommandClass.ONCE:
            self._store.write(lambda db: db.execute("DELETE FROM command WHERE id = ? AND state = 'accepted'", (job.call.id,)))

    # -- carrying out ---------------------------------------------------------------------------------------------------

    def _work_for_ever(self) -> None:
        while (job := self._waiting.get()) is not None:
            self._running = job.call.command
            self._carry_out(job)
            self._running = ""

    def _carry_out(self, job: _Job) -> None:
        call, began = job.call, time.monotonic()
        try:
            if 1000 * (began - job.came_at) > call.expires_ms:
                raise _expired(call)
            once = job.kind is CommandClass.ONCE
            value = self._handle(job.command, job.progress, call=call, ledger_id=call.id if once else None)
            answer: wire.Head = wire.Result(id=call.id, ok=True, value=msgspec.Raw(value), seconds=round(time.monotonic() - began, 3))
        except (Refused, BadInput) as error:
            answer = _refused(call.id, error)
        except NightbellError as error:
            answer = wire.Result(id=call.id, ok=False, error=_as_dict(error), seconds=round(time.monotonic() - began, 3))
        except Exception as error:  # the caller must hear of every end
            self.log.exception("command.failed", verb=call.command)
            failed = Failed(f"{type(error).__name__}: {error}", where=f"{self.module} {call.command}", remedy="See the module's log")
            answer = wire.Result(id=call.id, ok=False, error=failed.as_dict(), seconds=round(time.monotonic() - began, 3))
        self._finish(job, answer)

    def _finish(self, job: _Job, answer: wire.Head) -> None:
        if job.kind is CommandClass.ONCE and not (isinstance(answer, wire.Result) and answer.ok):
            # Refused and failed ones are answered the same when asked again; a done one was written with its effects.
            stored = answer if isinstance(answer, wire.Result) else wire.Result(id=job.call.id, ok=False, error=_error_of(answer))
            self._store_answer(job.call.id, _packed(stored))
        with self._jobs_lock:
            self._jobs.pop(job.call.id, None)
            self._given[job.call.id] = (_wish(job.call), answer)
            while len(self._given) > KEPT_ANSWERS:
                self._given.popitem(last=False)
        for caller in job.callers:
            self._answers.append((caller, answer))
        self._wake()

    def _tell(self, job: _Job, fraction: float | None, text: str) -> None:
        now = time.monotonic()
        if now - job.told_at < PROGRESS_EVERY_S and fraction != 1.0:
            return
        job.told_at, job.k = now, job.k + 1
        for caller in job.callers:
            self._answers.append((caller, wire.ProgressReport(id=job.call.id, k=job.k, text=text, fraction=fraction)))
        self._wake()

    def _say(self, caller: bytes, head: wire.Head) -> None:
        self._answers.append((caller, head))


def _wish(call: wire.Call) -> tuple[str, bytes]:
    return call.command, bytes(call.args)


def _packed(result: wire.Result) -> bytes:
    return msgspec.json.encode(result)


def _as_dict(error: NightbellError) -> dict[str, Any]:
    return dict(error.as_dict())


def _refused(identity: str, error: NightbellError) -> wire.RefusedCall:
    return wire.RefusedCall(id=identity, code=error.word, what=error.what, where=error.where, remedy=error.remedy)


def _error_of(answer: wire.Head) -> dict[str, Any]:
    if isinstance(answer, wire.RefusedCall):
        return {"code": answer.code, "what": answer.what, "where": answer.where, "remedy": answer.remedy, "refused": True}
    return {"code": "failed", "what": answer.verb, "where": "", "remedy": ""}


def _unknown(identity: str) -> wire.RefusedCall:
    return wire.RefusedCall(id=identity, code="notfound", what="no such command is known", remedy="Ask within 30 days")


def _expired(call: wire.Call) -> Refused:
    return Refused(
        f"{call.command} is older than {call.expires_ms} ms and was not begun", where=call.caller, remedy="Send it again", code="expired"
    )


def _reused(call: wire.Call) -> Refused:
    return Refused(f"id {call.id} was used for another command", where="id", remedy="Make a new id for each intention", code="reused")


# -- asking -----------------------------------------------------------------------------------------------------------


def endpoint_file(home: Path, module: str) -> Path:
    """Where a module on this host says where it answers: `commands.json` in its state folder."""
    return home / module / "commands.json"


def read_endpoint(home: Path, module: str) -> str | None:
    """The endpoint that `module` wrote down on this host, or None."""
    try:
        told = json.loads(endpoint_file(home, module).read_text(encoding="utf-8"))
        return str(told["endpoint"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def ask_at(
    endpoint: str,
    verb: str,
    args: bytes,
    *,
    module: str,
    timeout_s: float = 5.0,
    wait: bool = True,
    progress: Callable[[float | None, str], None] | None = None,
    caller: str = "",
    correlationid: str | None = None,
    identity: str | None = None,
    curve: CurveOptions | None = None,
    look_again: Callable[[], str | None] = lambda: None,
) -> dict[str, Any]:
    """Send a command and wait for its result.

    Repeats with the same id while nothing is heard, and then asks `look_again` whether the module answers elsewhere by now: one that
    was started again does. Raises `Refused` (also busy), `BadInput`, `Failed`, or `Missing` when nobody answers within `timeout_s`.
    With `wait` False it returns as soon as the command is accepted.
    """
    made_at = time.monotonic()
    until = made_at + timeout_s
    wish = _Wish(identity or str(uuid.uuid4()), module, verb, wait, progress or (lambda _fraction, _text: None))

    def call(now: float) -> wire.Call:
        return wire.Call(
            id=wish.identity,
            command=verb,
            args=msgspec.Raw(args),
            expires_ms=max(1, round(1000 * timeout_s)),
            age_ms=round(1000 * (now - made_at)),
            caller=caller,
            correlationid=correlationid,
        )

    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
    while time.monotonic() < until:
        with context.socket(zmq.DEALER) as sock, Handshake(sock, who=module) as handshake:
            set_client_options(sock)
            # Commands may be sent before the connection stands; they carry their age and expire.
            sock.setsockopt(zmq.IMMEDIATE, 0)
            if curve is not None:
                curve(sock)
            sock.connect(endpoint)
            said_at: float | None = None
            while (now := time.monotonic()) < until:
                if said_at is None or now - said_at > REPEAT_S:
                    moved_to = look_again() if said_at is not None else None
                    if moved_to not in (None, endpoint):
                        endpoint = str(moved_to)
                        break
                    sock.send_multipart(wire.encode(call(now)))
                    said_at = now
                if not sock.poll(max(1, min(POLL_MS, round(1000 * (until - now))))):
                    handshake.check()
                    continue
                result = wish.take(sock.recv_multipart(), endpoint)
                said_at = time.monotonic()
                if result is not None:
                    return result
    if wish.accepted:
        raise Failed(
            f"{module} accepted {verb} but has not answered within {timeout_s:g} s",
            where=endpoint,
            remedy="It may still be at it: see `nightbell status`",
        )
    raise Missing(
        f"{module} does not answer within {timeout_s:g} s", where=endpoint, remedy=f"Is it running? Start it: nightbell run {module}"
    )


@dataclass(slots=True)
class _Wish:
    """One command as its caller sees it."""

    identity: str
    module: str
    verb: str
    wait: bool
    progress: Callable[[float | None, str], None]
    accepted: bool = False

    def take(self, frames: list[bytes], endpoint: str) -> dict[str, Any] | None:
        """One answer; the result when it was the last. Raises for every other end."""
        try:
            answer, _ = wire.decode(frames, wire.TO_CALLER)
        except wire.WireError as error:
            raise Failed(
                f"{self.module} does not speak our protocol: {error}", where=endpoint, remedy="Check what listens there"
            ) from error
        if getattr(answer, "id", self.identity) not in (self.identity, ""):
            return None
        if isinstance(answer, wire.Accepted):
            self.accepted = True
            return None if self.wait else {"accepted": True, "id": self.identity}
        if isinstance(answer, wire.ProgressReport):
            self.progress(answer.fraction, answer.text)
            return None
        return _ended(answer, self.module, self.verb)


def _ended(answer: wire.Head, module: str, verb: str) -> dict[str, Any]:
    if isinstance(answer, wire.Busy):
        raise Refused(f"{module} is busy with {answer.by}", where=verb, remedy="Try again later", code="busy")
    if isinstance(answer, wire.RefusedCall):
        kind = BadInput if answer.code in ("bad_input", "mistakes") else Refused
        raise kind(answer.what, where=answer.where, remedy=answer.remedy, code=answer.code)
    if isinstance(answer, wire.Result):
        if answer.ok:
            value = msgspec.json.decode(bytes(answer.value))
            return value if isinstance(value, dict) else {} if value is None else {"value": value}
        error = answer.error or {}
        what, where, remedy, code = (str(error.get(key, "")) for key in ("what", "where", "remedy", "code"))
        if error.get("refused"):
            raise Refused(what, where=where, remedy=remedy, code=code)
        raise Failed(what, where=where or f"{module} {verb}", remedy=remedy, code=code)
    raise Failed(f"{module} answered {answer.verb}", where=verb)
