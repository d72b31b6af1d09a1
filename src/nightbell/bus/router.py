"""What the broker decides. Pure: message and instant in; messages and wishes out. No sockets, no clock, no files.

    handle(peer, head, body, now)   a message came
    tick(now)                       time went on: leases, back-offs, heartbeats
    committed(ticket, now)          a record that was wished for is on the disk
    unreachable(peer, now)          the connection is gone
    take()                          what is to be done: Send, Append, Tell

Durable state (chains of outboxes, fences, endpoints, cursors, dead letters) changes only by records, through `apply`, so that a
restart arrives at the same state. Instants are seconds of a monotonic clock; the wall clock is only written down, never compared.
"""

from __future__ import annotations

import difflib
import random
import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from nightbell.bus import wire
from nightbell.bus.segment import CURSORS, DEAD, EPOCH, EVENTS, LEASE, Record, next_epoch_seq
from nightbell.contracts.errors import BadInput
from nightbell.contracts.events import EVENTS as EVENT_TYPES
from nightbell.contracts.events import AlarmRaised, Event, ModuleLost, ModuleUp
from nightbell.contracts.ids import uuid7
from nightbell.contracts.instants import format_utc, parse_utc
from nightbell.contracts.states import Severity

__all__ = ["Append", "JournalReader", "Router", "Send", "Tell"]

_NAME = re.compile(r"[a-z][a-z0-9-]{0,63}")
SHORTEST_LEASE_S, LONGEST_LEASE_S = 1.0, 60.0
PROBE_S = 1.0
CURSOR_EVERY_S = 0.2
LONGEST_BACKOFF_S = 60.0
FULL_PAUSE_S = 5.0
DELIVER_BYTES = 1 << 20
LARGEST_WINDOW_EVENTS, LARGEST_WINDOW_BYTES = 4096, 16 << 20
"""What may wait for one peer; a hostile one cannot ask for more of our memory."""
MOST_REPLAYS, MOST_PATTERNS, LONGEST_TEXT = 16, 64, 256
LARGEST_STATE_BYTES = 4096
LARGEST_LIST_BYTES = 48 << 10
KEPT_ERRORS, LONGEST_ERROR = 10, 2000
USES_RESERVE = ("safety.*", "alarm.*", "module.*")
"""Types that are still taken when the disk is full but for its reserve."""


class JournalReader(Protocol):
    """What the router reads of the journal: durable records only."""

    @property
    def head(self) -> int: ...
    @property
    def first_seq(self) -> int: ...
    def read(
        self, after: int, patterns: Sequence[str], *, max_events: int, max_bytes: int, reader: str = ""
    ) -> tuple[list[tuple[int, str, bytes]], int]: ...
    def event(self, seq: int) -> bytes | None: ...
    def seq_at(self, at_ns: int) -> int: ...


@dataclass(frozen=True, slots=True)
class Send:
    """A message for a peer."""

    peer: bytes
    head: wire.Head
    body: bytes | None = None


@dataclass(frozen=True, slots=True)
class Append:
    """A record for the journal; `waits`: somebody waits for its sync."""

    ticket: int
    record: Record
    waits: bool = True


@dataclass(frozen=True, slots=True)
class Tell:
    """Events for the feed, after their commit."""

    first: int
    events: tuple[tuple[str, bytes], ...]
    epoch: int


@dataclass(slots=True)
class _Chain:
    """How far an outbox has come."""

    n: int
    id: str | None
    seq: int
    ticket: int = 0
    passing: bool = False
    """Of a script: it ends with its session, and no snapshot keeps it."""


@dataclass(slots=True)
class _Session:
    peer: bytes
    hello: wire.Hello
    fence: int
    lease_s: float
    deadline: float
    since: float
    welcomed: bool = False
    gone: bool = False
    state: dict[str, Any] = field(default_factory=dict)
    subs: list[str] = field(default_factory=list)
    replays: dict[str, _Replay] = field(default_factory=dict)


@dataclass(slots=True)
class _Tries:
    """How the tries of one event ended; `limit` of them are allowed, none more when one was final."""

    errors: list[str] = field(default_factory=list)
    limit: int = 0
    final: bool = False


@dataclass(slots=True)
class _Sub:
    """One durable subscription; `cursor` and `types` are durable, the rest belongs to the session that reads it."""

    key: str
    types: tuple[str, ...]
    cursor: int
    cursor_id: str = ""
    dirty: bool = False
    peer: bytes | None = None
    name: str = ""
    window_events: int = 1024
    window_bytes: int = 4 << 20
    max_attempts: int = 5
    ack_wait_s: float = 30.0
    delivered: int = 0
    looked: int = 0
    inflight: OrderedDict[int, int] = field(default_factory=OrderedDict)
    tries: dict[int, _Tries] = field(default_factory=dict)
    not_before: float = 0.0
    ack_by: float | None = None
    careful_until: int = 0
    """Up to this seq one at a time: an event may be killing its process, and its neighbours must not be blamed."""
    burying: bool = False
    round: int = 0
    """Grows whenever delivery begins again behind the cursor."""


@dataclass(slots=True)
class _Replay:
    rid: str
    peer: bytes
    types: tuple[str, ...]
    after: int
    to_seq: int | None
    follow: bool
    window: int
    delivered: int
    acked: int
    ended: bool = False
    sizes: OrderedDict[int, int] = field(default_factory=OrderedDict)


@dataclass(slots=True)
class _Waiting:
    """A newcomer who waits for the holder of its name to answer a probe."""

    peer: bytes
    hello: wire.Hello
    until: float


class Router:
    """All decisions of one broker."""

    def __init__(
        self,
        journal: JournalReader,
        *,
        broker: str,
        site: str,
        journal_id: str,
        epoch: int,
        snapshot: dict[str, Any] | None,
        tail: Sequence[Record],
        now: float,
        wall_ns: int,
        chance: random.Random,
    ) -> None:
        self._journal, self._broker, self._site, self._journal_id = journal, broker, site, journal_id
        self._chance = chance
        self.epoch = epoch
        self.next_seq = 1
        self.stopped = ""
        """Why nothing can be stored now (`full`, `disk`, `readonly`), or empty."""
        self.reserve_left = True
        """Whether types of USES_RESERVE are still taken when the disk is full."""
        self._chains: dict[str, _Chain] = {}
        self._fences: dict[str, int] = {}
        self._endpoints: dict[str, str] = {}
        self._subs: dict[str, _Sub] = {}
        self._dead: dict[tuple[str, int], dict[str, Any]] = {}
        self._passed: dict[str, set[int]] = {}
        """Subscription -> former dead letters behind its cursor that were given up or told anew: they are not delivered."""
        self._peers: dict[bytes, _Session] = {}
        self._names: dict[str, _Session] = {}
        self._waiting: dict[str, _Waiting] = {}
        self._effects: list[Send | Append | Tell] = []
        self._ticket = 0
        self._done_ticket = 0
        self._after: dict[int, list[Send]] = {}
        self._events_of: dict[int, Tell] = {}
        self._buried: dict[int, tuple[str, int]] = {}
        self._cursors_at = now
        self._now, self._wall_ns = now, wall_ns
        if snapshot is not None:
            self._restore(snapshot)
        for record in tail:
            self.apply(record)
        self.next_seq = max(self.next_seq, journal.head + 1)
        for sub in self._subs.values():
            sub.cursor = min(sub.cursor, self.next_seq - 1)

    # -- durable state --------------------------------------------------------------------------------------------------

    def apply(self, record: Record) -> None:
        """Take up one record of the journal."""
        head = record.head
        if record.kind == EVENTS:
            self.next_seq = record.first + record.count
            outbox = head.get("o")
            if outbox:
                chain = self._chains.get(outbox)
                # A hole (damage that was cut out): its publisher sends again from there, whatever stands behind the hole.
                if head.get("p", chain.n if chain else 0) == (chain.n if chain else 0):
                    passing = bool(head.get("x"))
                    self._chains[outbox] = _Chain(int(head["n"]), head["id"], self.next_seq - 1, self._ticket, passing)
        elif record.kind == CURSORS:
            for key, (cursor, types, identity) in head["subs"].items():
                sub = self._subs.get(key)
                if sub is None:
                    self._subs[key] = _Sub(key, tuple(types), int(cursor), str(identity))
                else:
                    sub.cursor, sub.types, sub.cursor_id = int(cursor), tuple(types), str(identity)
                self._forget_passed(key, int(cursor))
        elif record.kind == DEAD:
            key = (head["sub"], int(head["seq"]))
            if head["op"] == "bury":
                self._dead[key] = head["letter"]
            else:
                self._dead.pop(key, None)
                self._passed.setdefault(head["sub"], set()).add(int(head["seq"]))
        elif record.kind == LEASE:
            self._fences[head["name"]] = int(head["fence"])
            if head.get("commands"):
                self._endpoints[head["name"]] = head["commands"]
        elif record.kind == EPOCH:
            self.epoch, self.next_seq = int(head["epoch"]), int(head["next"])
            for outbox, chain in head.get("chains", {}).items():
                self._chains[outbox] = _Chain(int(chain[0]), chain[1], int(chain[2]))

    def snapshot(self) -> dict[str, Any]:
        """The durable state, for a seal."""
        return {
            "chains": {outbox: [one.n, one.id, one.seq] for outbox, one in self._chains.items() if not one.passing},
            # Copies: the commit thread writes them down while this one goes on.
            "fences": dict(self._fences),
            "endpoints": dict(self._endpoints),
            "subs": {key: [sub.cursor, sub.types, sub.cursor_id] for key, sub in self._subs.items()},
            "passed": {key: sorted(seqs) for key, seqs in self._passed.items()},
            "dead": list(self._dead.values()),
            "epoch": self.epoch,
            "next": self.next_seq,
        }

    def _restore(self, told: dict[str, Any]) -> None:
        self._chains = {outbox: _Chain(int(n), identity, int(seq)) for outbox, (n, identity, seq) in told["chains"].items()}
        self._fences = {name: int(fence) for name, fence in told["fences"].items()}
        self._endpoints = dict(told["endpoints"])
        self._subs = {key: _Sub(key, tuple(types), int(at), str(i)) for key, (at, types, i) in told["subs"].items()}
        self._passed = {key: set(seqs) for key, seqs in told.get("passed", {}).items()}
        self._dead = {(letter["sub"], int(letter["seq"])): letter for letter in told["dead"]}
        self.epoch, self.next_seq = int(told["epoch"]), int(told["next"])

    def _forget_passed(self, key: str, cursor: int) -> None:
        left = {seq for seq in self._passed.pop(key, ()) if seq > cursor}
        if left:
            self._passed[key] = left

    def lowest_cursor(self) -> int:
        """No durable subscription needs an event at or below this."""
        return min((_reached(sub) for sub in self._subs.values()), default=self._journal.head)

    # -- effects --------------------------------------------------------------------------------------------------------

    def take(self) -> list[Send | Append | Tell]:
        """What is to be done, in order."""
        effects, self._effects = self._effects, []
        return effects

    def _send(self, peer: bytes, head: wire.Head, body: bytes | None = None) -> None:
        self._effects.append(Send(peer, head, body))

    def _send_after(self, ticket: int, peer: bytes, head: wire.Head) -> None:
        """Send when the record of `ticket` is on the disk."""
        if ticket <= self._done_ticket:
            self._send(peer, head)
        else:
            self._after.setdefault(ticket, []).append(Send(peer, head))

    def _append(self, record: Record, *, waits: bool = True) -> int:
        self._ticket += 1
        self.apply(record)
        self._effects.append(Append(self._ticket, record, waits))
        return self._ticket

    def committed(self, ticket: int, now: float) -> None:
        """All records up to `ticket` are on the disk, and readable."""
        self._now = now
        for done in range(self._done_ticket + 1, ticket + 1):
            for send in self._after.pop(done, ()):
                self._effects.append(send)
                session = self._peers.get(send.peer)
                if session is not None and isinstance(send.head, wire.Welcome):
                    session.welcomed = True
            tell = self._events_of.pop(done, None)
            if tell is not None:
                self._effects.append(tell)
            buried = self._buried.pop(done, None)
            if buried is not None:
                self._pass_buried(*buried)
        self._done_ticket = max(self._done_ticket, ticket)
        self._pump_all()

    # -- messages -------------------------------------------------------------------------------------------------------

    def handle(self, peer: bytes, head: wire.Head, body: bytes, now: float, wall_ns: int) -> None:
        """One message from `peer`."""
        self._now, self._wall_ns = now, wall_ns
        if isinstance(head, wire.Hello):
            self._hello(peer, head)
            return
        session = self._peers.get(peer)
        if session is None:
            if not isinstance(head, wire.Bye):
                self._send(peer, wire.No(code="hello", text="no session", remedy="Say HELLO first"))
            return
        match head:
            case wire.Heartbeat():
                session.deadline = now + session.lease_s
                fits = len(msgspec.json.encode(head.state)) <= LARGEST_STATE_BYTES
                session.state = head.state if fits else {"state": f"larger than {LARGEST_STATE_BYTES} bytes"}
                session.gone = False
                answer = wire.HeartbeatAnswer(m0=head.m0, t1=wall_ns, t2=wall_ns, head=self._journal.head)
                self._send(peer, answer)
                newcomer = self._waiting.pop(session.hello.name, None)
                if newcomer is not None:
                    self._refuse_duplicate(newcomer.peer, session)
            case wire.Bye():
                self._end(session, head.reason or "said goodbye", clean=True)
            case wire.Publish():
                self._publish(session, head, body)
            case wire.Subscribe():
                self._subscribe(session, head)
            case wire.Ack():
                self._acknowledged(session, head)
            case wire.Nack() | wire.Working() | wire.Reseek():
                self._about_sub(session, head)
            case wire.Replay():
                self._replay(session, head)
            case wire.Lookup():
                found = wire.Found(name=head.name, commands=self._endpoints.get(head.name), alive=head.name in self._names)
                self._send(peer, found)
            case wire.Dead():
                self._dead_letters(session, head)
            case _:
                self._send(peer, wire.No(code="verb", text=f"{head.verb} is not understood here"))

    # -- sessions -------------------------------------------------------------------------------------------------------

    def _hello(self, peer: bytes, hello: wire.Hello) -> None:
        if hello.proto != 1:
            self._send(peer, wire.Refuse(code="protocol", text=f"protocol {hello.proto}; spoken here is 1", remedy="Bring it up to date"))
            return
        if not _NAME.fullmatch(hello.name):
            self._send(
                peer, wire.Refuse(code="schema", text=f"{hello.name[:64]!r} is no name", remedy="Use lower-case letters, digits, hyphens")
            )
            return
        if (
            max(len(hello.instance), len(hello.host), len(hello.outbox or ""), len(hello.commands or "")) > LONGEST_TEXT
            or not hello.instance
        ):
            text = f"a text of HELLO is empty or longer than {LONGEST_TEXT}"
            self._send(peer, wire.Refuse(code="schema", text=text, remedy="Shorten instance, host, outbox or commands"))
            return
        last_ok = hello.last_ok
        if last_ok is not None and _is_number(last_ok.seq) and self._has_not(last_ok.epoch, last_ok.seq):
            self._begin_epoch(last_ok.epoch, last_ok.seq)
        here = self._peers.get(peer)
        if here is not None and (here.hello.name, here.hello.instance) != (hello.name, hello.instance):
            self._end(here, "its connection serves another now", clean=True)
        holder = self._names.get(hello.name)
        is_held = holder is not None and holder.hello.instance == hello.instance
        if hello.presence and not is_held and not self.has_room:
            text = f"{_STOPPED['full']}: a new session cannot be written down"
            self._send(peer, wire.Refuse(code="full", text=text, remedy="Free space on the broker's disk", retry_ms=5000))
        elif holder is None:
            self._grant(peer, hello)
        elif is_held:
            self._move(holder, peer, hello)
        elif holder.gone and holder.hello.host == hello.host:
            self._replace(holder, peer, hello)
        elif holder.hello.host == hello.host and hello.lock:
            earlier = self._waiting.get(hello.name)
            if earlier is not None and earlier.peer != peer:
                self._refuse_duplicate(peer, holder)
                return
            self._waiting[hello.name] = _Waiting(peer, hello, self._now + PROBE_S)
            self._send(holder.peer, wire.Probe())
        else:
            self._refuse_duplicate(peer, holder)

    def _refuse_duplicate(self, peer: bytes, holder: _Session) -> None:
        left_ms = max(200, round(1000 * (holder.deadline - self._now)))
        hello = holder.hello
        self._send(
            peer,
            wire.Refuse(
                code="duplicate",
                text=f"{hello.name} runs already on {hello.host} as process {hello.pid}",
                remedy="Stop that one, or wait until its lease has run out",
                retry_ms=min(left_ms, 5000),
                holder={"host": hello.host, "pid": hello.pid, "lease_left_ms": left_ms},
            ),
        )

    def _move(self, session: _Session, peer: bytes, hello: wire.Hello) -> None:
        """The same process on a new connection: its own session, the same fence."""
        self._detach(session, blame="")
        self._peers.pop(session.peer, None)
        session.peer, session.hello, session.gone = peer, hello, False
        session.deadline = self._now + session.lease_s
        self._peers[peer] = session
        self._welcome(session, self._done_ticket)

    def _replace(self, holder: _Session, peer: bytes, hello: wire.Hello) -> None:
        self._end(holder, "replaced by a newer process", clean=False)
        self._grant(peer, hello)

    def _grant(self, peer: bytes, hello: wire.Hello) -> None:
        fence = self._fences.get(hello.name, 0) + 1
        lease_s = min(LONGEST_LEASE_S, max(SHORTEST_LEASE_S, hello.lease_ms / 1000))
        if hello.presence:
            lease = {"name": hello.name, "fence": fence, "commands": hello.commands, "instance": hello.instance}
            ticket = self._append(Record(LEASE, head=lease))
        else:
            ticket = self._done_ticket
        session = _Session(peer, hello, fence, lease_s, self._now + lease_s, self._now)
        self._peers[peer] = self._names[hello.name] = session
        self._welcome(session, ticket)
        if hello.presence:
            up = ModuleUp(module=hello.name, host=hello.host, pid=hello.pid, instance=hello.instance, fence=fence)
            self._say(up, hello.name)

    def _welcome(self, session: _Session, ticket: int) -> None:
        chain = self._chains.get(session.hello.outbox or "")
        self._send_after(
            max(ticket, chain.ticket if chain else 0),
            session.peer,
            wire.Welcome(
                broker=self._broker,
                journal=self._journal_id,
                epoch=self.epoch,
                head=self._journal.head,
                fence=session.fence,
                lease_ms=round(1000 * session.lease_s),
                last_n=chain.n if chain else 0,
                last_id=chain.id if chain else None,
                wall_ns=self._wall_ns,
                first_seq=self._journal.first_seq,
            ),
        )

    def _end(self, session: _Session, reason: str, *, clean: bool) -> None:
        name = session.hello.name
        self._detach(session, blame="" if clean else "the process ended while it was being handled")
        self._peers.pop(session.peer, None)
        if self._names.get(name) is session:
            del self._names[name]
        chain = self._chains.get(session.hello.outbox or "")
        if chain is not None and chain.passing:
            del self._chains[session.hello.outbox or ""]
        if session.hello.presence:
            self._say(ModuleLost(module=name, instance=session.hello.instance, reason=reason, clean=clean), name)

    def _detach(self, session: _Session, *, blame: str) -> None:
        """Nobody reads its subscriptions now; when it died at work, the oldest event in its hands gets a failed try."""
        session.replays.clear()
        for key in session.subs:
            sub = self._subs[key]
            if sub.inflight and blame:
                oldest = next(iter(sub.inflight))
                sub.tries.setdefault(oldest, _Tries(limit=sub.max_attempts)).errors.append(blame)
                sub.careful_until = oldest
            sub.peer, sub.ack_by = None, None
            sub.inflight.clear()
        session.subs = []

    def unreachable(self, peer: bytes, now: float) -> None:
        """The connection of `peer` is gone; its lease runs on, but a newcomer need not wait for it."""
        self._now = now
        session = self._peers.get(peer)
        for name, waiting in list(self._waiting.items()):
            if waiting.peer == peer:
                del self._waiting[name]
        if session is None:
            return
        if not session.hello.presence:
            self._end(session, "its connection is gone", clean=True)
            return
        session.gone = True
        newcomer = self._waiting.pop(session.hello.name, None)
        if newcomer is not None:
            self._replace(session, newcomer.peer, newcomer.hello)

    def _has_not(self, epoch: int, seq: int) -> bool:
        """Whether somebody who has seen event `seq` of `epoch` has seen more than is here."""
        return epoch > self.epoch or seq > max(self.next_seq - 1, 0)

    def _begin_epoch(self, epoch: int, highest: int, chains: dict[str, list[Any]] | None = None, why: str = "") -> None:
        """The journal is an older copy, or damaged. Its numbers are not used again, and everybody compares what they hold with it."""
        first = next_epoch_seq(max(highest, self.next_seq))
        why = why or f"event {highest} was seen, but is not here"
        head = {"epoch": max(self.epoch, min(epoch, wire.LARGEST_INTEGER)) + 1, "next": first, "why": why, "chains": chains or {}}
        self._append(Record(EPOCH, head=head))
        self.alarm("journal.new_epoch", f"broker {self._broker}: {why}; publishers send again what they still hold")
        for session in list(self._peers.values()):
            self._detach(session, blame="")
            self._send(session.peer, wire.EpochChanged(epoch=self.epoch))

    def heal(self, lost: Sequence[tuple[int, int]], chains: Mapping[str, tuple[int, str, int]]) -> None:
        """Events of these ranges turned out to be damaged; `chains` is how far each outbox goes without a hole. Ask for the rest again."""
        back: dict[str, list[Any]] = {}
        for outbox, chain in self._chains.items():
            n, identity, seq = chains.get(outbox, (0, None, 0))
            hit = any(first <= chain.seq <= last for first, last in lost)
            if (outbox in chains and n < chain.n) or (outbox not in chains and hit):
                back[outbox] = [n, identity, seq]
        ranges = ", ".join(f"{first} to {last}" for first, last in lost)
        self._begin_epoch(self.epoch, self.next_seq - 1, back, f"events {ranges} are damaged")

    def _say(self, event: Event, subject: str) -> None:
        """An event of the broker's own."""
        if self.stopped and not self._may_store([event.type]):
            return
        identity = uuid7()
        envelope = wire.Envelope(
            specversion="1.0",
            id=identity,
            source=f"broker@{self._site}",
            type=event.type,
            typeversion=event.typeversion,
            subject=subject,
            time=format_utc(self._wall_ns, digits=6),
            correlationid=identity,
            data=msgspec.Raw(msgspec.json.encode(event)),
        )
        self._store_events([wire.encode_envelope(envelope)], [event.type], {"at": self._wall_ns})

    def alarm(self, key: str, text: str) -> None:
        """A human should look at this broker."""
        self._say(AlarmRaised(alarm_id=uuid7(), key=key, severity=Severity.CRITICAL, text=text), self._site)

    def _may_store(self, types: Sequence[str]) -> bool:
        """Whether events of these types are taken now."""
        if not self.stopped:
            return True
        uses_reserve = all(any(wire.matches(pattern, kind) for pattern in USES_RESERVE) for kind in types)
        return self.stopped == "full" and self.reserve_left and uses_reserve

    @property
    def has_room(self) -> bool:
        """Whether the small records (leases, cursors, dead letters) may still be written."""
        return self.stopped == "" or (self.stopped == "full" and self.reserve_left)

    def _store_events(self, envelopes: list[bytes], types: list[str], head: dict[str, Any], *, n0: int = 0) -> int:
        first = self.next_seq
        record = Record(EVENTS, first, len(envelopes), n0, {**head, "t": sorted(set(types))}, wire.encode_batch(envelopes))
        ticket = self._append(record)
        if "only" not in head:
            self._events_of[ticket] = Tell(first, tuple(zip(types, envelopes, strict=True)), self.epoch)
        return ticket

    # -- publishing -----------------------------------------------------------------------------------------------------

    def _publish(self, session: _Session, head: wire.Publish, body: bytes) -> None:
        outbox = session.hello.outbox

        def no(code: str, text: str, remedy: str = "", **more: Any) -> None:
            self._send(session.peer, wire.No(code=code, text=text, remedy=remedy, n0=head.n0, **more))

        if outbox is None:
            no("hello", "the session has no outbox", "Say HELLO with an outbox")
            return
        if head.fence != session.fence:
            no("fenced", f"fence {head.fence}; {session.hello.name} has {session.fence} now", "Stop: a newer process has the name")
            return
        chain = self._chains.get(outbox) or _Chain(0, None, 0)
        if not (_is_number(head.n0) and head.n0 > 0 and 0 < head.count <= wire.LARGEST_BATCH_EVENTS):
            no("batch", f"n = {head.n0}, {head.count} events", f"Number them from 1, at most {wire.LARGEST_BATCH_EVENTS} in a batch")
            return
        last = head.n0 + head.count - 1
        if last <= chain.n:
            self._send_after(chain.ticket, session.peer, wire.Ok(n=chain.n, seq=chain.seq, epoch=self.epoch))
            return
        if head.prevn != chain.n or head.n0 <= head.prevn:
            no("gap", f"behind n = {head.prevn}, but {chain.n} is the last here", "Send from there", have=chain.n, have_id=chain.id)
            return
        if head.previd != chain.id:
            no("fork", f"n = {chain.n} is another event here", "Begin a new outbox", have=chain.n, have_id=chain.id)
            return
        try:
            envelopes = wire.decode_batch(body)
            if len(envelopes) != head.count or len(body) > 2 * wire.LARGEST_BATCH_BYTES:
                raise wire.WireError(
                    f"{len(envelopes)} events of {len(body)} bytes, announced {head.count}", where="body", remedy=_BATCH, code="batch"
                )
            found = wire.summaries(envelopes)
            _check_types(found)
            self._check_sources(session, found)
        except wire.WireError as error:
            no(error.word, error.what, error.remedy, index=int(error.where) if error.where.isdigit() else None)
            return
        if not self._may_store([one.type for one in found]):
            no(self.stopped, _STOPPED.get(self.stopped, self.stopped), "Free space on the broker's disk", retry_ms=5000)
            return
        about: dict[str, Any] = {"o": outbox, "n": last, "p": chain.n, "id": found[-1].id, "at": self._wall_ns}
        if not session.hello.presence:
            about["x"] = 1
        ticket = self._store_events(envelopes, [one.type for one in found], about, n0=head.n0)
        self._chains[outbox].ticket = ticket
        self._send_after(ticket, session.peer, wire.Ok(n=last, seq=self.next_seq - 1, epoch=self.epoch))

    def _check_sources(self, session: _Session, found: Sequence[wire.Summary]) -> None:
        name = session.hello.name
        is_relay = name == "relay" or name.startswith("relay-")  # a relay keeps the sources of what it carries
        for i, one in enumerate(found):
            if not 0 < len(one.id) <= LONGEST_TEXT or len(one.source) > LONGEST_TEXT or len(one.subject) > LONGEST_TEXT:
                text = f"id, source or subject is empty or longer than {LONGEST_TEXT}"
                raise wire.WireError(text, where=str(i), remedy="Shorten it", code="schema")
            if not is_relay and one.source.partition("@")[0] != name:
                raise wire.WireError(f"source {one.source!r} in a session of {name}", where=str(i), remedy=f"Use {name}@SITE", code="acl")

    # -- subscribing ----------------------------------------------------------------------------------------------------

    def _subscribe(self, session: _Session, head: wire.Subscribe) -> None:
        if head.fence != session.fence:
            self._send(session.peer, wire.No(code="fenced", text=f"fence {head.fence}; it is {session.fence} now", sub=head.sub))
            return
        key = f"{session.hello.name}/{head.sub}"
        sub = self._subs.get(key)
        try:
            _check_patterns(head.types)
            if not 0 < len(head.sub) <= 64:
                raise BadInput(f"{head.sub[:64]!r} cannot name a subscription", where="sub", remedy="Use 1 to 64 characters")
            own = None if head.cursor is None else _as_cursor(head.cursor)
            cursor = own[1] if own is not None else self._stored_cursor(head, sub)
        except BadInput as error:
            self._send(session.peer, wire.No(code="bad_pattern", text=error.what, remedy=error.remedy, sub=head.sub))
            return
        if own is not None and self._has_not(own[0], own[1]):
            self._begin_epoch(own[0], own[1])
            return  # the receiver says HELLO again, and its cursor is then behind all that comes
        if own is not None and not self._is_the_event(own[1], own[2]):
            # An older copy was put back and has grown past the receiver's cursor: what came before it may be new to the receiver,
            # and what is not, its ledger knows.
            cursor = min(cursor, sub.cursor if sub is not None else self._start("first"))
            self._say_regrown(key, own)
        cursor = min(cursor, max(self.next_seq - 1, 0))
        if sub is None:
            sub = self._subs[key] = _Sub(key, head.types, cursor)
        sub.types, sub.cursor, sub.dirty = head.types, cursor, True
        sub.peer, sub.name = session.peer, head.sub
        sub.window_events = min(max(1, head.window_events), LARGEST_WINDOW_EVENTS)
        sub.window_bytes = min(max(1, head.window_bytes), LARGEST_WINDOW_BYTES)
        sub.max_attempts, sub.ack_wait_s = max(1, head.max_attempts), min(3600.0, max(0.1, head.ack_wait_ms / 1000))
        sub.inflight.clear()
        sub.delivered = sub.looked = cursor
        sub.ack_by, sub.not_before = None, 0.0
        sub.tries = {seq: tries for seq, tries in sub.tries.items() if seq > cursor}
        if key not in session.subs:
            session.subs.append(key)
        self._send(session.peer, wire.Subscribed(sub=head.sub, cursor=cursor, epoch=self.epoch, head=self._journal.head))
        self._pump(sub)

    def _stored_cursor(self, head: wire.Subscribe, sub: _Sub | None) -> int:
        """The cursor we hold; a start that names a seq or time is a wish to go there, the others are for new subscriptions."""
        if sub is not None and not isinstance(head.start, dict):
            return sub.cursor
        return self._start(head.start)

    def _is_the_event(self, seq: int, identity: str) -> bool:
        """Whether event `seq` is still the one that the receiver knows (true also when it is no longer kept)."""
        if not identity or seq < self._journal.first_seq:
            return True
        packed = self._journal.event(seq) if seq <= self._journal.head else self._on_its_way(seq)
        # None: damaged, or a number that was never given here, as between two epochs.
        return packed is not None and msgspec.json.decode(packed, type=wire.Summary).id == identity

    def _on_its_way(self, seq: int) -> bytes | None:
        """An event that is not on the disk yet."""
        for tell in self._events_of.values():
            if tell.first <= seq < tell.first + len(tell.events):
                return tell.events[seq - tell.first][1]
        return None

    def _say_regrown(self, key: str, own: tuple[int, int, str]) -> None:
        text = f"{key} has handled {own[2]} as event {own[1]}, another or none here: an older copy of the journal was put back and grew"
        self.alarm("journal.regrown", text)

    def _start(self, start: Any) -> int:
        """The cursor before the first event that `start` means. Raises `BadInput`."""
        if start in ("cursor", "first"):
            return max(0, self._journal.first_seq - 1)
        if start == "new":
            return self._journal.head
        if isinstance(start, dict) and _is_number(start.get("seq")):
            return max(0, int(start["seq"]) - 1)
        if isinstance(start, dict) and isinstance(start.get("time"), str):
            return self._journal.seq_at(parse_utc(start["time"])) - 1
        raise BadInput(f"{start!r} is no start", where="start", remedy='Use "cursor", "new", "first", {"seq": n} or {"time": ISO}')

    def _acknowledged(self, session: _Session, head: wire.Ack) -> None:
        if head.rid is not None:
            replay = session.replays.get(head.rid)
            if replay is not None:
                replay.acked = max(replay.acked, head.upto)
                while replay.sizes and next(iter(replay.sizes)) <= head.upto:
                    replay.sizes.popitem(last=False)
                self._pump_replay(session, replay)
            return
        sub = self._own_sub(session, head.sub, head.fence)
        if sub is None or head.upto <= sub.cursor:
            return
        sub.cursor, sub.dirty = min(head.upto, sub.delivered), True
        while sub.inflight and next(iter(sub.inflight)) <= sub.cursor:
            seq, _ = sub.inflight.popitem(last=False)
            sub.tries.pop(seq, None)
        self._forget_passed(sub.key, sub.cursor)
        sub.ack_by = self._now + sub.ack_wait_s if sub.inflight else None
        self._pump(sub)

    def _own_sub(self, session: _Session, name: str | None, fence: int) -> _Sub | None:
        sub = self._subs.get(f"{session.hello.name}/{name}")
        if sub is None or sub.peer != session.peer:
            self._send(session.peer, wire.No(code="unknown_sub", text=f"no subscription {name!r} in this session", sub=name))
            return None
        if fence != session.fence:
            self._send(session.peer, wire.No(code="fenced", text=f"fence {fence}; it is {session.fence} now", sub=name))
            return None
        return sub

    def _about_sub(self, session: _Session, head: wire.Nack | wire.Working | wire.Reseek) -> None:
        sub = self._own_sub(session, head.sub, head.fence)
        if sub is None:
            return
        if isinstance(head, wire.Working):
            if head.seq in sub.inflight:
                sub.ack_by = self._now + sub.ack_wait_s
        elif isinstance(head, wire.Reseek):
            sub.cursor = max(sub.cursor, min(head.cursor, sub.delivered))
            self._rewind(sub)
            if head.cursor < sub.cursor:
                # It is behind what it has confirmed: without a common start this would go round in circles.
                self._send(session.peer, wire.Subscribed(sub=sub.name, cursor=sub.cursor, epoch=self.epoch, head=self._journal.head))
            self._pump(sub)
        elif head.seq in sub.inflight:
            self._failed(sub, head.seq, head.error, final=head.final, max_attempts=head.max_attempts, delay_ms=head.delay_ms)

    def _rewind(self, sub: _Sub) -> None:
        sub.round += 1
        sub.inflight.clear()
        sub.ack_by = None
        sub.delivered = sub.looked = sub.cursor

    def _failed(
        self, sub: _Sub, seq: int, error: str, *, final: bool = False, max_attempts: int | None = None, delay_ms: int | None = None
    ) -> None:
        """One try of one event failed: it comes again later, or, when it stands first, is buried.

        Those before it were handled, their confirmation is still on its way: they come again and are known by their ids.
        """
        tries = sub.tries.setdefault(seq, _Tries())
        tries.errors.append(error[:LONGEST_ERROR])
        # What the receiver once said of this event counts more than the subscription's own limit.
        tries.final, tries.limit = tries.final or final, max(1, max_attempts or tries.limit or sub.max_attempts)
        self._rewind(sub)
        if _is_lost(tries):
            sub.not_before = self._now
        elif delay_ms is not None:
            sub.not_before = self._now + min(LONGEST_BACKOFF_S, max(0, delay_ms) / 1000)
        else:
            doubled_s = 2.0 ** min(len(tries.errors) - 1, 10)
            sub.not_before = self._now + min(LONGEST_BACKOFF_S, doubled_s) * self._chance.uniform(0.5, 1.0)
        self._pump(sub)

    def _bury(self, sub: _Sub, seq: int) -> None:
        if not self.has_room:
            sub.not_before = self._now + FULL_PAUSE_S  # it waits, and those behind it
            return
        packed = self._journal.event(seq)
        about = msgspec.json.decode(packed, type=wire.Summary) if packed is not None else None
        errors = sub.tries.pop(seq, _Tries()).errors
        letter = {
            "sub": sub.key,
            "seq": seq,
            "id": about.id if about else "",
            "type": about.type if about else "",
            "subject": about.subject if about else "",
            "attempts": len(errors),
            "errors": errors[-KEPT_ERRORS:],
            "at_utc": format_utc(self._wall_ns),
        }
        sub.burying = True
        ticket = self._append(Record(DEAD, head={"op": "bury", "sub": sub.key, "seq": seq, "letter": letter}))
        self._buried[ticket] = (sub.key, seq)

    def _pass_buried(self, key: str, seq: int) -> None:
        """The letter is on the disk: delivery goes on behind the event, which `_pump` leaves out."""
        sub = self._subs[key]
        sub.burying = False
        sub.careful_until = sub.careful_until if sub.careful_until != seq else 0
        self._pump(sub)

    # -- delivering -----------------------------------------------------------------------------------------------------

    def _pump_all(self) -> None:
        for sub in self._subs.values():
            self._pump(sub)
        for session in list(self._peers.values()):
            for replay in list(session.replays.values()):
                self._pump_replay(session, replay)

    def _pump(self, sub: _Sub) -> None:
        """Deliver what credit and back-off allow."""
        if sub.peer is None or sub.burying or self._now < sub.not_before or sub.looked >= self._journal.head:
            return
        credit = min(sub.window_events - len(sub.inflight), wire.LARGEST_BATCH_EVENTS)
        room = sub.window_bytes - sum(sub.inflight.values())
        if sub.cursor < sub.careful_until:
            credit = min(credit, 1 - len(sub.inflight))
        if credit <= 0 or room <= 0:
            return
        found, looked = self._journal.read(sub.looked, sub.types, max_events=credit, max_bytes=min(room, DELIVER_BYTES), reader=sub.key)
        passed = self._passed.get(sub.key, ())
        events = [one for one in found if (sub.key, one[0]) not in self._dead and one[0] not in passed]
        if events:
            for i, (seq, _, _) in enumerate(events):
                if seq in sub.tries and _is_lost(sub.tries[seq]):
                    if i == 0 and not sub.inflight:
                        self._bury(sub, seq)
                        return
                    events, looked = events[:i], seq - 1
                    break
        sub.looked = looked
        if not events:
            return
        tries = sub.tries.get(events[0][0])
        self._send(
            sub.peer,
            wire.Deliver(
                sub=sub.name,
                epoch=self.epoch,
                prev=sub.delivered,
                seqs=tuple(seq for seq, _, _ in events),
                attempt=1 + (len(tries.errors) if tries else 0),
                round=sub.round,
            ),
            wire.encode_batch(packed for _, _, packed in events),
        )
        for seq, _, packed in events:
            sub.inflight[seq] = len(packed)
        sub.delivered = events[-1][0]
        if sub.ack_by is None:
            sub.ack_by = self._now + sub.ack_wait_s

    # -- replay ---------------------------------------------------------------------------------------------------------

    def _replay(self, session: _Session, head: wire.Replay) -> None:
        try:
            _check_patterns(head.types)
            after = min(self._start(head.start), self._journal.head)
        except BadInput as error:
            self._send(session.peer, wire.No(code="bad_pattern", text=error.what, remedy=error.remedy, rid=head.rid))
            return
        if len(session.replays) >= MOST_REPLAYS:
            text = f"{MOST_REPLAYS} replays at a time are enough"
            self._send(session.peer, wire.No(code="busy", text=text, remedy="Let one come to its end", rid=head.rid))
            return
        replay = _Replay(head.rid, session.peer, head.types, after, head.to_seq, head.follow, _window(head.window_events), after, after)
        session.replays[head.rid] = replay
        self._pump_replay(session, replay)

    def _pump_replay(self, session: _Session, replay: _Replay) -> None:
        credit = replay.window - len(replay.sizes)
        room = LARGEST_WINDOW_BYTES - sum(replay.sizes.values())
        if credit <= 0 or room <= 0:
            return
        end = self._journal.head if replay.to_seq is None else min(self._journal.head, replay.to_seq)
        if replay.after < end:
            events, looked = self._journal.read(replay.after, replay.types, max_events=min(credit, 256), max_bytes=min(room, DELIVER_BYTES))
            events = [one for one in events if one[0] <= end]
            replay.after = min(looked, end)
            if events:
                seqs = tuple(seq for seq, _, _ in events)
                deliver = wire.Deliver(replay=replay.rid, epoch=self.epoch, prev=replay.delivered, seqs=seqs)
                self._send(session.peer, deliver, wire.encode_batch(packed for _, _, packed in events))
                replay.delivered = seqs[-1]
                replay.sizes.update((seq, len(packed)) for seq, _, packed in events)
        if replay.after >= end and not replay.ended:
            replay.ended = True
            self._send(session.peer, wire.End(rid=replay.rid, last=replay.delivered))
            if not replay.follow:
                session.replays.pop(replay.rid, None)

    # -- dead letters ---------------------------------------------------------------------------------------------------

    def _dead_letters(self, session: _Session, head: wire.Dead) -> None:
        chosen = [
            letter
            for (sub, seq), letter in sorted(self._dead.items(), key=lambda one: (one[0][1], one[0][0]))
            if (head.seq is None or seq == head.seq) and (head.sub is None or sub == head.sub)
        ]
        if head.op == "list":
            self._send(session.peer, wire.Letters(rid=head.rid, letters=_as_many_as_fit(_shortened(one) for one in chosen)))
            return
        if head.op not in ("show", "retry", "drop"):
            self._send(
                session.peer, wire.No(code="verb", text=f"{head.op!r} of dead letters", remedy="Use list, show, retry, drop", rid=head.rid)
            )
            return
        if head.seq is None or not chosen:
            text = f"no dead letter {head.seq}"
            self._send(session.peer, wire.No(code="notfound", text=text, remedy="See: nightbell dead list", rid=head.rid))
            return
        packed = self._journal.event(head.seq)
        if head.op == "show":
            self._send(session.peer, wire.Letters(rid=head.rid, letters=_as_many_as_fit(chosen)), packed or b"")
            return
        if head.op == "retry" and packed is None:
            text = f"event {head.seq} is no longer kept"
            self._send(session.peer, wire.No(code="notfound", text=text, remedy="Its sender may still have it", rid=head.rid))
            return
        if not self.has_room or (head.op == "retry" and self.stopped):
            text = _STOPPED.get(self.stopped, self.stopped)
            self._send(session.peer, wire.No(code=self.stopped, text=text, remedy="Free space on the broker's disk", rid=head.rid))
            return
        ticket = 0
        for letter in chosen:
            if head.op == "retry" and packed is not None:
                about = {"at": self._wall_ns, "only": letter["sub"], "again": head.seq}
                self._store_events([packed], [str(letter["type"])], about)
            ticket = self._append(Record(DEAD, head={"op": head.op, "sub": letter["sub"], "seq": letter["seq"]}))
        self._send_after(ticket, session.peer, wire.Letters(rid=head.rid, letters=_as_many_as_fit(_shortened(one) for one in chosen)))

    # -- time -----------------------------------------------------------------------------------------------------------

    def tick(self, now: float, wall_ns: int) -> None:
        """Time went on."""
        self._now, self._wall_ns = now, wall_ns
        for name, waiting in list(self._waiting.items()):
            if now >= waiting.until:
                del self._waiting[name]
                holder = self._names.get(name)
                if holder is None:
                    self._grant(waiting.peer, waiting.hello)
                else:
                    self._replace(holder, waiting.peer, waiting.hello)
        for session in list(self._peers.values()):
            if now > session.deadline:
                self._end(session, f"not heard of for {session.lease_s:g} s", clean=not session.hello.presence)
        for sub in self._subs.values():
            if sub.ack_by is not None and now > sub.ack_by and sub.inflight:
                oldest = next(iter(sub.inflight))
                self._failed(sub, oldest, f"no answer within {sub.ack_wait_s:g} s")
            self._pump(sub)
        for session in self._peers.values():
            for replay in list(session.replays.values()):
                self._pump_replay(session, replay)
        if now - self._cursors_at >= CURSOR_EVERY_S:
            self._cursors_at = now
            self.write_cursors()

    def write_cursors(self) -> None:
        """Wish for a record of the cursors that moved; it needs no sync of its own."""
        dirty = {key: [sub.cursor, sub.types, sub.cursor_id] for key, sub in self._subs.items() if sub.dirty}
        if dirty and self.has_room:
            for key in dirty:
                self._subs[key].dirty = False
            self._append(Record(CURSORS, head={"subs": dirty}), waits=False)

    def refuse_all(self, code: str, text: str) -> None:
        """Nobody's events can be stored: say so to everyone who waits."""
        for waiting in self._after.values():
            for send in waiting:
                if isinstance(send.head, wire.Ok):
                    self._send(send.peer, wire.No(code=code, text=text, n0=send.head.n, retry_ms=5000))
        self._after.clear()

    def stalled(self, now: float) -> None:
        """The broker itself stood still: everybody gets a whole lease before anyone is declared lost."""
        for session in self._peers.values():
            session.deadline = now + session.lease_s
        for sub in self._subs.values():
            if sub.ack_by is not None:
                sub.ack_by = now + sub.ack_wait_s

    # -- what `status` shows --------------------------------------------------------------------------------------------

    def sessions(self) -> tuple[dict[str, Any], ...]:
        """Who is here."""
        return tuple(
            {
                "name": one.hello.name,
                "host": one.hello.host,
                "pid": one.hello.pid,
                "presence": one.hello.presence,
                "fence": one.fence,
                "up_s": round(self._now - one.since, 1),
                "heard_s": round(self._now - one.deadline + one.lease_s, 1),
                "lease_s": one.lease_s,
                "commands": one.hello.commands,
                "state": one.state,
            }
            for one in self._names.values()
        )

    def subscriptions(self) -> tuple[dict[str, Any], ...]:
        """How far everybody has read."""
        head = self._journal.head
        return tuple(
            {
                "sub": sub.key,
                "types": list(sub.types)[:64],
                "cursor": sub.cursor,
                "behind": max(0, head - _reached(sub)),
                "in_flight": len(sub.inflight),
                "failing": {str(seq): len(tries.errors) for seq, tries in list(sub.tries.items())[:10]},
                "reads": sub.peer is not None,
            }
            for sub in self._subs.values()
        )

    @property
    def n_dead(self) -> int:
        """How many dead letters there are."""
        return len(self._dead)


_BATCH = f"Send a JSON array of as many events as announced, at most {2 * wire.LARGEST_BATCH_BYTES} bytes"
_STOPPED = {"full": "the broker's disk is full", "disk": "the broker's disk failed", "readonly": "the journal can only be read"}


def _reached(sub: _Sub) -> int:
    """Up to where there is nothing left for it: also past events of types it does not want."""
    return max(sub.cursor, sub.looked) if sub.peer is not None and not sub.inflight and not sub.burying else sub.cursor


def _is_lost(tries: _Tries) -> bool:
    return tries.final or (tries.limit > 0 and len(tries.errors) >= tries.limit)


def _is_number(value: Any) -> bool:
    """An integer that every reader of JSON understands."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= wire.LARGEST_INTEGER


def _window(wished: int) -> int:
    return min(max(1, wished), LARGEST_WINDOW_EVENTS)


def _check_types(found: Sequence[wire.Summary]) -> None:
    """Raises `WireError`: an event that nobody can read would be stored, heard by no module, and missed by nobody."""
    for i, one in enumerate(found):
        if one.type not in EVENT_TYPES:
            near = difflib.get_close_matches(one.type, EVENT_TYPES, n=1)
            remedy = f"Did you mean {near[0]}?" if near else "See docs/reference/events.md, or bring this broker up to date"
            raise wire.WireError(f"{one.type!r} is no event known here", where=str(i), remedy=remedy, code="schema")


def _check_patterns(patterns: Sequence[str]) -> None:
    """Raises `BadInput`."""
    if not 0 < len(patterns) <= MOST_PATTERNS:
        raise BadInput(f"{len(patterns)} patterns", where="types", remedy=f"Give 1 to {MOST_PATTERNS}")
    for pattern in patterns:
        wire.check_pattern(pattern)


def _as_cursor(told: Mapping[str, Any]) -> tuple[int, int, str]:
    """(epoch, seq, id) of a receiver's own cursor. Raises `BadInput`."""
    epoch, seq, identity = told.get("epoch", 0), told.get("seq"), told.get("id", "")
    if not (_is_number(epoch) and _is_number(seq) and isinstance(identity, str)):
        raise BadInput("the cursor is none", where="cursor", remedy="Give {epoch, seq, id}")
    return int(epoch), int(seq or 0), identity


def _as_many_as_fit(letters: Iterable[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
    """As many as one head can hold."""
    kept: list[dict[str, Any]] = []
    room = LARGEST_LIST_BYTES
    for letter in letters:
        room -= len(msgspec.json.encode(letter)) + 1
        if room < 0:
            break
        kept.append(letter)
    return tuple(kept)


def _shortened(letter: dict[str, Any]) -> dict[str, Any]:
    return {**letter, "errors": [str(error)[-300:] for error in letter["errors"][-1:]]}
