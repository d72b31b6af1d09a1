"""`nightbell.connect(...)`: commands, events and the broker's own state for scripts and the command line. No thread of its own.

    with nightbell.connect("conf/demo") as night:
        night.ask("telescope", "prepare_night")
        for event in night.events("frames.*", since=1, timeout_s=60):
            print(event.seq, event.subject)

It dials the broker only when it is needed: a command goes straight to its module, and works while the broker is dead.
"""

from __future__ import annotations

import getpass
import os
import secrets
import socket
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import msgspec
import zmq

from nightbell.bus import wire
from nightbell.bus.client import set_client_options
from nightbell.bus.commands import ask_at, read_endpoint
from nightbell.bus.handshake import Handshake
from nightbell.contracts.commands import commands_of
from nightbell.contracts.errors import BadInput, Failed, Missing, NightbellError, Refused, shell_word
from nightbell.contracts.events import EVENTS, Event
from nightbell.contracts.ids import uuid7
from nightbell.contracts.instants import format_utc, parse_utc
from nightbell.settings import Installation, load_installation

__all__ = ["Connection", "EventSeen", "connect", "seen_event"]

H = TypeVar("H", bound=wire.Head)
BEAT_S = 2.0
POLL_MS = 200
ANSWER_S = 10.0


class EventSeen(msgspec.Struct, frozen=True):
    """One stored event as a script sees it; `data` is its payload's JSON."""

    seq: int
    id: str
    type: str
    typeversion: int
    subject: str
    source: str
    time: str
    causationid: str | None
    correlationid: str | None
    data: msgspec.Raw

    def payload(self) -> Event:
        """The payload as its class of `contracts.events`. Raises `BadInput` for a type that is not known here."""
        kind = EVENTS.get(self.type)
        if kind is None:
            raise BadInput(f"{self.type!r} is no event known here", where="type", remedy="Bring this program up to date")
        return msgspec.json.decode(bytes(self.data), type=kind)


class Connection:
    """A session for a script; make it with `nightbell.connect`."""

    def __init__(self, installation: Installation, *, name: str, broker: str, wait_s: float) -> None:
        self.installation = installation
        self.broker = broker
        self.name = f"{name}-{os.getpid()}-{secrets.token_hex(2)}"
        self._wait_s = wait_s
        self._key = "script"
        self._instance = str(uuid.uuid4())
        self._outbox = str(uuid.uuid4())
        self._n = 0
        self._last_id: str | None = None
        self._fence = 0
        self._socket: zmq.Socket[bytes] | None = None
        self._welcome: wire.Welcome | None = None
        self._beat_at = 0.0
        self._kept: deque[tuple[wire.Head, bytes]] = deque()
        """Deliveries of a replay that came while something else was waited for."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Say goodbye to the broker."""
        if self._socket is not None:
            if self._welcome is not None:
                self._send(wire.Bye(reason="done"))
            self._socket.close(200)
            self._socket = self._welcome = None

    # -- commands -------------------------------------------------------------------------------------------------------

    def ask(
        self,
        module: str,
        verb: str,
        *,
        timeout_s: float = 60.0,
        on_progress: Callable[[float | None, str], None] | None = None,
        wait: bool = True,
        **fields: Any,
    ) -> dict[str, Any]:
        """Send a command and wait for its result (with `wait` False: until it is accepted).

        Raises `BadInput` for an unknown verb or field, `Refused` (also busy and expired), `Failed`, or `Missing` when the module
        does not answer within `timeout_s`.
        """
        kind = commands_of(module).get(verb)
        if kind is None:
            known = ", ".join(commands_of(module))
            raise BadInput(f"{module} has no command {verb!r}", where="verb", remedy=f"It answers {known}")
        try:
            command = msgspec.convert(fields, kind, strict=True)
        except msgspec.ValidationError as error:
            takes = ", ".join(one.name for one in msgspec.structs.fields(kind)) or "no fields"
            raise BadInput(str(error), where=f"{module} {verb}", remedy=f"{verb} takes {takes}") from error
        until = time.monotonic() + timeout_s
        endpoint = read_endpoint(self.installation.home, module) or self._look_up(module)
        return ask_at(
            endpoint,
            verb,
            msgspec.json.encode(command),
            module=module,
            timeout_s=max(0.1, until - time.monotonic()),
            wait=wait,
            progress=on_progress,
            caller=f"{_user()} ({self.name})",
            curve=self._curve(module),
            look_again=lambda: self._look_again(module),
        )

    def _look_again(self, module: str) -> str | None:
        """Where a module answers that is silent where it was; None when nobody knows."""
        told = read_endpoint(self.installation.home, module)
        if told is not None:
            return told
        try:
            return self._look_up(module)
        except NightbellError:
            return None

    def _look_up(self, module: str) -> str:
        broker = self.installation.broker_of(module)
        if broker == self.broker:
            found = self.request(wire.Lookup(name=module), wire.Found)[0]
        else:
            with Connection(self.installation, name="script", broker=broker, wait_s=self._wait_s) as other:
                found = other.request(wire.Lookup(name=module), wire.Found)[0]
        if found.commands is None:
            raise Missing(
                f"nobody knows where {module} answers",
                where=module,
                remedy=f"Start it: nightbell run {module} --conf {shell_word(self.installation.folder)}",
            )
        return found.commands

    # -- events ---------------------------------------------------------------------------------------------------------

    def publish(self, event: Event, subject: str) -> int:
        """Say a fact; returns its seq when it is on the broker's disk. Raises `BadInput` or `Refused`."""
        kind = type(event)
        if EVENTS.get(kind.type) is not kind:
            raise BadInput(f"{kind.__name__} is no registered event", where="publish", remedy="Use a class of contracts.events")
        data = msgspec.json.encode(event)
        try:
            msgspec.json.decode(data, type=kind)
        except msgspec.ValidationError as error:
            raise BadInput(str(error), where=kind.type, remedy="Give the field the type and range that its class says") from error
        identity = uuid7()
        envelope = wire.Envelope(
            specversion="1.0",
            id=identity,
            source=f"{self.name}@{self.installation.site.name}",
            type=kind.type,
            typeversion=kind.typeversion,
            subject=subject,
            time=format_utc(time.time_ns(), digits=6),
            correlationid=identity,
            data=msgspec.Raw(data),
        )
        return self.publish_envelope(envelope)

    def publish_envelope(self, envelope: wire.Envelope) -> int:
        """Send an envelope as it is, of a version that need not be known here; returns its seq. Raises as `publish` does."""
        self._session()
        head = wire.Publish(fence=self._fence, n0=self._n + 1, count=1, prevn=self._n, previd=self._last_id)
        ok, _ = self.request(head, wire.Ok, body=wire.encode_batch([wire.encode_envelope(envelope)]))
        self._n, self._last_id = self._n + 1, envelope.id
        return ok.seq

    def events(
        self, *patterns: str, since: int | str | None = None, follow: bool = True, timeout_s: float | None = None
    ) -> Iterator[EventSeen]:
        """Stored events in their order, and with `follow` those that come.

        `patterns`: types, `noun.*` or `**` (default). `since`: a seq, a time (ISO-8601), "first", or None for only what comes from
        now on. Ends at the head without `follow`, and with it after `timeout_s` seconds without an event (None: never).
        """
        for pattern in patterns:
            wire.check_pattern(pattern)
        start: Any = "new" if since is None else since
        if isinstance(since, int):
            start = {"seq": since}
        elif since is not None and since != "first":
            start = {"time": format_utc(parse_utc(since, where="since"), digits=6)}
        last: int | None = None
        while True:
            # After a cut the replay goes on behind the last event that was seen.
            begin = start if last is None else {"seq": last + 1}
            try:
                for event in self._replay(patterns or ("**",), begin, follow=follow, timeout_s=timeout_s):
                    last = event.seq
                    yield event
            except _SessionLost:
                if last is None and start == "new":
                    start = {"seq": (self._welcome.head if self._welcome else 0) + 1}
                self._drop()
                continue
            return

    def _replay(self, patterns: tuple[str, ...], start: Any, *, follow: bool, timeout_s: float | None) -> Iterator[EventSeen]:
        welcome = self._session()
        rid = secrets.token_hex(4)
        self._send(wire.Replay(rid=rid, start=start, types=patterns, follow=follow))
        heard_at = time.monotonic()
        while True:
            try:
                head, body = self._next(heard_at + timeout_s if timeout_s is not None and follow else None)
            except TimeoutError:
                return
            if isinstance(head, wire.Deliver) and head.replay == rid:
                heard_at = time.monotonic()
                for seq, packed in zip(head.seqs, wire.decode_batch(body), strict=True):
                    yield seen_event(seq, packed)
                self._send(wire.Ack(rid=rid, upto=head.seqs[-1], epoch=welcome.epoch))
            elif isinstance(head, wire.End) and head.rid == rid:
                heard_at = time.monotonic()
                if not follow:
                    return
            elif isinstance(head, wire.No):
                raise _as_error(head)

    # -- the broker's own state -----------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """What the broker knows: sessions, subscriptions with how far they are behind, dead letters, the journal."""
        return msgspec.structs.asdict(self.request(wire.Info(rid="1"), wire.InfoAnswer)[0])

    def broker_clock_ns(self) -> int:
        """The broker's wall clock now, as far as one question can tell (half the way to and fro is not subtracted)."""
        self.close()
        return self._session().wall_ns

    def dead_letters(self) -> list[dict[str, Any]]:
        """Events that were given up: {seq, sub, type, subject, id, attempts, errors, at_utc}."""
        return list(self._dead("list")[0].letters)

    def dead_letter(self, seq: int) -> dict[str, Any]:
        """One of them with the event itself."""
        letters, body = self._dead("show", seq)
        if not letters.letters:
            raise Missing(f"no dead letter {seq}", where="seq", remedy="See: nightbell dead list")
        return {"letters": list(letters.letters), "event": msgspec.json.decode(body) if body else None}

    def retry(self, seq: int) -> None:
        """Deliver a dead letter again, with a fresh count of tries."""
        self._dead("retry", seq)

    def drop(self, seq: int) -> None:
        """Give a dead letter up for good; the event stays in the journal."""
        self._dead("drop", seq)

    def _dead(self, op: str, seq: int | None = None) -> tuple[wire.Letters, bytes]:
        return self.request(wire.Dead(rid="1", op=op, seq=seq), wire.Letters)

    # -- the session ----------------------------------------------------------------------------------------------------

    def _session(self) -> wire.Welcome:
        """A granted session, dialled when there is none. Raises `Missing` when the broker does not answer, `Refused` when it will not."""
        if self._welcome is not None:
            return self._welcome
        self._drop()
        door = self.installation.settings.brokers[self.broker].door
        until = time.monotonic() + max(self._wait_s, 1.0)
        sock: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
        self._socket = sock
        try:
            set_client_options(sock)
            curve = self._curve(f"broker-{self.broker}")
            if curve is not None:
                curve(sock)
            with Handshake(sock, who=f"broker {self.broker}") as handshake:
                sock.connect(door)
                if (welcome := self._greet(sock, handshake, until)) is not None:
                    return welcome
        except BaseException:  # a key that is not there, or not known there
            self._drop()
            raise
        self._drop()
        raise Missing(
            f"the broker does not answer within {max(self._wait_s, 1.0):g} s",
            where=f"{self.broker} at {door}",
            remedy=f"Start it: nightbell run broker:{self.broker} --conf {shell_word(self.installation.folder)}",
        )

    def _greet(self, sock: zmq.Socket[bytes], handshake: Handshake, until: float) -> wire.Welcome | None:
        """Say HELLO until there is a WELCOME, or `until`. Raises `Refused`."""
        hello_at = 0.0
        while (now := time.monotonic()) < until:
            if now - hello_at > BEAT_S and self._send(self._hello()):
                hello_at = now
            handshake.check()
            if not sock.poll(50 if hello_at == 0.0 else POLL_MS):
                continue
            head, _ = self._receive()
            if isinstance(head, wire.Welcome):
                self._welcome, self._fence, self._n, self._last_id = head, head.fence, head.last_n, head.last_id
                self._beat_at = time.monotonic()
                return head
            if isinstance(head, wire.Refuse):
                raise Refused(head.text, where=f"broker {self.broker}", remedy=head.remedy, code=head.code)
        return None

    def _hello(self) -> wire.Hello:
        return wire.Hello(
            name=self.name,
            instance=self._instance,
            host=socket.gethostname(),
            pid=os.getpid(),
            site=self.installation.site.name,
            outbox=self._outbox,
            wall_ns=time.time_ns(),
            mono_ns=time.monotonic_ns(),
            lock=False,
            presence=False,
        )

    def _curve(self, server: str) -> Callable[[zmq.Socket[bytes]], None] | None:
        if not self.installation.settings.keys:
            return None
        from nightbell.bus import keys  # noqa: PLC0415  (only installations with keys load it)

        return lambda sock: keys.client_options(sock, self.installation, self._key, server)

    def _drop(self) -> None:
        if self._socket is not None:
            self._socket.close(0)
        self._socket = self._welcome = None
        self._kept.clear()

    def _send(self, head: wire.Head, body: bytes | None = None) -> bool:
        if self._socket is None:
            return False
        try:
            self._socket.send_multipart(wire.encode(head, body), zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def _receive(self) -> tuple[wire.Head, bytes]:
        if self._socket is None:
            raise _SessionLost
        return wire.decode(self._socket.recv_multipart(), wire.TO_CLIENT)

    def _next(self, until: float | None) -> tuple[wire.Head, bytes]:
        """The next message that is not a heartbeat. Raises `TimeoutError` at `until`, `_SessionLost` when the session is over."""
        if self._kept:
            return self._kept.popleft()
        heard_at = time.monotonic()
        while True:
            now = time.monotonic()
            if until is not None and now >= until:
                raise TimeoutError
            if self._socket is None:
                raise _SessionLost
            if now - self._beat_at > BEAT_S and self._send(wire.Heartbeat(m0=time.monotonic_ns())):
                self._beat_at = now
            if now - heard_at > 3 * BEAT_S + 1:
                raise _SessionLost
            if not self._socket.poll(POLL_MS):
                continue
            head, body = self._receive()
            heard_at = time.monotonic()
            if isinstance(head, wire.HeartbeatAnswer):
                continue
            if isinstance(head, wire.Refuse | wire.EpochChanged) or (isinstance(head, wire.No) and head.code == "hello"):
                raise _SessionLost
            if isinstance(head, wire.Probe):
                self._beat_at = 0.0
                continue
            return head, body

    def request(self, head: wire.Head, kind: type[H], *, body: bytes | None = None) -> tuple[H, bytes]:
        """Send and wait for an answer of `kind`; a lost session is dialled again once, which is harmless: all requests are idempotent."""
        for attempt in (1, 2):
            self._session()
            sent = self._send(head, body)
            until = time.monotonic() + ANSWER_S
            later: list[tuple[wire.Head, bytes]] = []
            try:
                while sent:
                    answer, answer_body = self._next(until)
                    if isinstance(answer, kind):
                        self._kept.extend(later)
                        return answer, answer_body
                    if isinstance(answer, wire.No):
                        raise _as_error(answer)
                    later.append((answer, answer_body))
            except (_SessionLost, TimeoutError):
                pass
            self._drop()
            if attempt == 2 or isinstance(head, wire.Publish):
                break
        raise Missing(
            f"the broker did not answer {head.verb}",
            where=self.broker,
            remedy=f"Is it running? nightbell run broker:{self.broker} --conf {shell_word(self.installation.folder)}",
        )


class _SessionLost(Exception):
    pass


def _as_error(no: wire.No) -> Exception:
    kind = BadInput if no.code in ("schema", "size", "bad_pattern", "batch") else Missing if no.code == "notfound" else Refused
    return kind(no.text, where="broker", remedy=no.remedy, code=no.code)


def seen_event(seq: int, packed: bytes) -> EventSeen:
    """An envelope as it stands in a journal."""
    one = wire.decode_envelope(packed)
    return EventSeen(
        seq, one.id, one.type, one.typeversion, one.subject, one.source, one.time, one.causationid, one.correlationid, one.data
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return "somebody"


def connect(conf: str | Path | None = None, *, name: str = "script", wait_s: float = 10.0, broker: str | None = None) -> Connection:
    """A connection for scripts: see `nightbell.connect`. `broker`: which one (default: the first of the installation)."""
    if conf is None and not os.environ.get("NIGHTBELL_CONF") and Path("observatory.toml").is_file():
        conf = Path()
    installation = load_installation(conf)
    brokers = installation.settings.brokers
    chosen = broker or next(iter(brokers))
    if chosen not in brokers:
        raise BadInput(f"there is no broker {chosen!r}", where="--broker", remedy=f"Use one of {', '.join(brokers)}")
    if not name.replace("-", "").isalnum():
        raise Failed(f"{name!r} cannot name a script", where="name", remedy="Use letters, digits and hyphens")
    return Connection(installation, name=name, broker=chosen, wait_s=wait_s)
