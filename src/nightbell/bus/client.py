"""The one thread that speaks to a broker: session, outbox, subscriptions, heartbeats. The same on Windows and Linux.

Application threads never touch its socket: they call methods here, which leave a wish and wake the thread. When the broker is
away the module works on; the thread dials again with growing pauses, says HELLO and both sides compare what they hold.
"""

from __future__ import annotations

import concurrent.futures
import os
import queue
import random
import socket
import sqlite3
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import zmq

from nightbell.bus import wire
from nightbell.bus.handshake import Handshake
from nightbell.bus.outbox import DamagedRow
from nightbell.bus.turn import Store
from nightbell.contracts.errors import Refused

__all__ = ["Client", "Delivery", "Subscription", "set_client_options"]

HEARTBEAT_S = 2.0
SILENCE_S = 6.0
POLL_MS = 200
MAX_INFLIGHT = 4
OK_PATIENCE_S = 30.0
LONGEST_REDELIVERY_S = 90.0
"""Longer than the broker's longest back-off: then something was lost, and it is asked to begin again."""

CurveOptions = Callable[[zmq.Socket[bytes]], None]


@dataclass(slots=True)
class Subscription:
    """A durable subscription and how far it has come in this session."""

    sub: str
    types: tuple[str, ...]
    start: str = "cursor"
    ack_wait_ms: int = 30_000
    window_events: int = 1024
    # of the session
    ready: bool = False
    epoch: int = 0
    prev: int = 0
    generation: int = 0
    acked: int = 0
    to_ack: int = 0
    waiting_for_redelivery_since: float | None = None
    round: int = 0
    """Deliveries of an older round are void."""
    rejected: int = -1
    """Seq of the event that failed; when it was buried, delivery goes on behind it."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event to handle; void when `generation` is no longer that of its subscription."""

    sub: str
    generation: int
    epoch: int
    prev: int
    seq: int
    attempt: int
    round: int
    envelope: bytes


@dataclass(slots=True)
class _Inflight:
    first: int
    last: int
    sent_at: float


@dataclass(slots=True)
class _Session:
    """What belongs to one connection."""

    socket: zmq.Socket[bytes]
    answered_at: float
    beat_at: float = 0.0
    welcomed: bool = False
    sent_n: int = 0
    inflight: deque[_Inflight] = field(default_factory=deque)
    hold_until: float = 0.0


def set_client_options(sock: zmq.Socket[bytes]) -> None:
    """The options of every connecting socket of ours (none queues for a peer that is not there, none waits at the end)."""
    for option, value in (
        (zmq.LINGER, 0),
        (zmq.MAXMSGSIZE, 4 << 20),
        (zmq.IMMEDIATE, 1),
        (zmq.RECONNECT_IVL, 100),
        (zmq.RECONNECT_IVL_MAX, 5000),
        (zmq.HEARTBEAT_IVL, 2000),
        (zmq.HEARTBEAT_TIMEOUT, 6000),
        (zmq.HEARTBEAT_TTL, 6000),
        (zmq.SNDHWM, 1000),
        (zmq.RCVHWM, 1000),
    ):
        sock.setsockopt(option, value)


class Client(threading.Thread):
    """A session with one broker, kept up for ever. Without a store it cannot publish; without subscriptions it hears nothing."""

    def __init__(
        self,
        door: str,
        *,
        name: str,
        site: str,
        broker: str,
        log: Any,
        store: Store | None = None,
        publishes: bool = True,
        subscriptions: Sequence[Subscription] = (),
        deliveries: queue.SimpleQueue[Delivery | None] | None = None,
        commands: str | None = None,
        lease_ms: int = 10_000,
        curve: CurveOptions | None = None,
        state: Callable[[], dict[str, Any]] = dict,
        on_fenced: Callable[[str], None] = lambda _text: None,
    ) -> None:
        super().__init__(name=f"bus {broker}", daemon=True)
        self.door, self.broker, self.module, self.site = door, broker, name, site
        self.log = log
        self.store = store
        self._publishes = publishes and store is not None
        self._subs = {one.sub: one for one in subscriptions}
        self.deliveries: queue.SimpleQueue[Delivery | None] = deliveries if deliveries is not None else queue.SimpleQueue()
        self._commands, self._lease_ms, self._curve, self._state, self._on_fenced = commands, lease_ms, curve, state, on_fenced
        self.instance = str(uuid.uuid4())
        self.fence = int(store.meta(f"fence.{broker}") or 0) if store is not None else 0
        self.welcomed = threading.Event()
        self.subscribed = threading.Event()
        self.refusal = ""
        """Why the broker gave no session, in its words; empty when it did."""
        self._has_had_its_name = False
        self._duplicate_since: float | None = None
        self.journal = str(store.meta(f"journal.{broker}") or "") if store is not None else ""
        """The broker's journal, as it was told last."""
        self.offset_ns: int | None = None
        """The broker's wall clock minus ours, of the quickest of the last heartbeats."""
        self._offsets: deque[tuple[int, int]] = deque(maxlen=16)
        self._ending = threading.Event()
        self._wishes: deque[Callable[[_Session], None]] = deque()
        self._subs_lock = threading.Lock()
        """Between the thread that hears and the one that handles."""
        self._confirmed_n = 0
        self._at_work: tuple[Delivery, float] | None = None
        self._lookups: dict[str, list[concurrent.futures.Future[wire.Found]]] = {}
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
        self._wake_address = f"inproc://wake-{uuid.uuid4()}"
        self._wake_end = self._context.socket(zmq.PAIR)
        self._wake_end.bind(self._wake_address)
        self._waker = self._context.socket(zmq.PAIR)
        self._waker.setsockopt(zmq.SNDHWM, 8)
        self._waker.connect(self._wake_address)
        self._waker_lock = threading.Lock()

    # -- called by any thread -------------------------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """Whether the broker answers now."""
        return self.welcomed.is_set()

    def wake(self) -> None:
        """There is something to send."""
        with self._waker_lock:
            try:
                self._waker.send(b"", zmq.NOBLOCK)
            except zmq.Again:
                return  # eight wake-ups wait already
            except zmq.ZMQError:
                if not self._ending.is_set():
                    raise

    def acknowledge(self, delivery: Delivery) -> None:
        """Its effects are committed."""
        sub = self._subs[delivery.sub]
        with self._subs_lock:
            if delivery.generation != sub.generation:
                return
            sub.to_ack = max(sub.to_ack, delivery.seq)
        self.wake()

    def reject(self, delivery: Delivery, error: str, *, final: bool, max_attempts: int) -> None:
        """It failed; the broker brings it again later, or buries it among the dead letters.

        What was delivered behind it is void from this moment on, before the caller can look at the next one: else a later event
        would be handled, and its confirmation would pass over this one.
        """
        sub = self._subs[delivery.sub]
        with self._subs_lock:
            if delivery.generation != sub.generation:
                return
            sub.generation += 1
            generation = sub.generation
            sub.prev, sub.rejected, sub.waiting_for_redelivery_since = delivery.prev, delivery.seq, time.monotonic()
            sub.round = delivery.round + 1

        def say(session: _Session) -> None:
            if generation != sub.generation:
                return  # a new session: it is delivered again without a word of ours
            self._acknowledge_now(session, sub)
            self._send(
                session,
                wire.Nack(
                    sub=sub.sub,
                    epoch=delivery.epoch,
                    seq=delivery.seq,
                    error=error[:4000],
                    fence=self.fence,
                    final=final,
                    max_attempts=max_attempts,
                ),
            )

        self._wish(say)

    def is_void(self, delivery: Delivery) -> bool:
        """Whether the delivery belongs to a session that is over, or stands behind one that failed: it will come again."""
        return delivery.generation != self._subs[delivery.sub].generation

    def at_work(self, delivery: Delivery | None) -> None:
        """What is being handled: when it takes long, the broker is told that somebody is at it."""
        self._at_work = (delivery, time.monotonic()) if delivery is not None else None

    def look_up(self, name: str) -> concurrent.futures.Future[wire.Found]:
        """Where module `name` answers commands; never done when the broker is away, so wait with a timeout."""
        future: concurrent.futures.Future[wire.Found] = concurrent.futures.Future()

        def say(session: _Session) -> None:
            self._lookups.setdefault(name, []).append(future)
            self._send(session, wire.Lookup(name=name))

        self._wish(say)
        return future

    def _wish(self, wish: Callable[[_Session], None]) -> None:
        self._wishes.append(wish)
        self.wake()

    def end(self, *, flush_s: float = 2.0) -> None:
        """Send what waits for at most `flush_s`, say goodbye, end the thread."""
        if not self.is_alive():
            return
        until = time.monotonic() + flush_s
        while self.connected and self._publishes and self.store is not None and time.monotonic() < until:
            if not self._unsent():
                break
            self.wake()
            self._ending.wait(0.05)
        self._ending.set()
        self.wake()
        self.join(timeout=5.0)

    def _unsent(self) -> bool:
        if self.store is None:
            return False
        _, last = self.store.outbox.ends(self.store.reader())
        return last > self._confirmed_n

    # -- the thread -----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        pause_s = 0.2
        try:
            while not self._ending.is_set():
                began = time.monotonic()
                try:
                    retry_s = self._live_one_session()
                except Exception:
                    # Nothing of one session may end the thread: the module would be deaf and mute without knowing it.
                    self.log.exception("bus.session_failed", broker=self.broker)
                    retry_s = None
                self.welcomed.clear()
                self.subscribed.clear()
                if self._ending.is_set():
                    break
                pause_s = 0.2 if time.monotonic() - began > 2 * SILENCE_S else min(5.0, 1.6 * pause_s)
                wait_s = retry_s if retry_s is not None else pause_s * random.uniform(0.5, 1.0)
                self._ending.wait(wait_s)
        finally:
            self._wake_end.close(0)
            with self._waker_lock:
                self._waker.close(0)

    def _live_one_session(self) -> float | None:
        """From dialling to the end of one connection. Returns how long to wait before the next, when the broker said so."""
        sock = self._context.socket(zmq.DEALER)
        set_client_options(sock)
        if self._curve is not None:
            self._curve(sock)
        session = _Session(sock, answered_at=time.monotonic())
        poller = zmq.Poller()
        poller.register(self._wake_end, zmq.POLLIN)
        try:
            with Handshake(sock, who=f"broker {self.broker}") as handshake:
                sock.connect(self.door)
                if not self._greet(session, poller, handshake):
                    return None
            poller.register(sock, zmq.POLLIN)
            while not self._ending.is_set():
                ready = dict(poller.poll(POLL_MS))
                if self._wake_end in ready:
                    self._drain_wake()
                if sock in ready and (end := self._receive(session)) is not None:
                    return end.wait_s
                now = time.monotonic()
                if now - session.answered_at > SILENCE_S:
                    self.log.warning("bus.silent", broker=self.broker, seconds=round(now - session.answered_at, 1))
                    return None
                if session.welcomed:
                    self._work(session, now)
            if session.welcomed:
                self._work(session, time.monotonic())
                self._send(session, wire.Bye(reason="stopped"))
            return None
        finally:
            # A moment for the goodbye to leave; nothing else is lost with the socket, the outbox is the memory.
            sock.close(200 if self._ending.is_set() else 0)

    def _drain_wake(self) -> None:
        try:
            while True:
                self._wake_end.recv(zmq.NOBLOCK)
        except zmq.Again:
            return

    def _greet(self, session: _Session, poller: zmq.Poller, handshake: Handshake) -> bool:
        """Wait until the connection stands, then say HELLO."""
        until = time.monotonic() + 5.0
        poller.register(session.socket, zmq.POLLOUT)
        while not self._ending.is_set() and time.monotonic() < until:
            ready = dict(poller.poll(POLL_MS))
            if self._wake_end in ready:
                self._drain_wake()
            if session.socket in ready:
                break
            try:
                handshake.check()
            except Refused as error:
                self._refused(wire.Refuse(code=error.word, text=error.what, remedy=error.remedy))
                return False
        else:
            return False
        poller.unregister(session.socket)
        store, last_ok = self.store, None
        if self._publishes and store is not None:
            confirmed = store.outbox.last_confirmed(store.reader())
            last_ok = wire.LastOk(*confirmed) if confirmed else None
        session.answered_at = time.monotonic()
        return self._send(
            session,
            wire.Hello(
                name=self.module,
                instance=self.instance,
                host=socket.gethostname(),
                pid=os.getpid(),
                site=self.site,
                outbox=store.outbox.identity if self._publishes and store is not None else None,
                last_ok=last_ok,
                lease_ms=self._lease_ms,
                commands=self._commands,
                wall_ns=time.time_ns(),
                mono_ns=time.monotonic_ns(),
                lock=True,
            ),
        )

    def _send(self, session: _Session, head: wire.Head, body: bytes | None = None) -> bool:
        try:
            session.socket.send_multipart(wire.encode(head, body), zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    # -- hearing --------------------------------------------------------------------------------------------------------

    @dataclass(frozen=True, slots=True)
    class _End:
        wait_s: float | None = None

    def _receive(self, session: _Session) -> _End | None:
        """All messages that wait; an `_End` when the session is over."""
        for _ in range(200):
            try:
                frames = session.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return None
            try:
                head, body = wire.decode(frames, wire.TO_CLIENT)
            except wire.WireError as error:
                self.log.warning("bus.not_understood", broker=self.broker, error=str(error))
                continue
            session.answered_at = time.monotonic()
            end = self._hear(session, head, body)
            if end is not None:
                return end
        return None

    def _hear(self, session: _Session, head: wire.Head, body: bytes) -> _End | None:
        match head:
            case wire.Welcome():
                self._begin(session, head)
            case wire.Refuse():
                return self._refused(head)
            case wire.HeartbeatAnswer():
                self._measure(head)
            case wire.Ok():
                self._confirmed_up_to(session, head)
            case wire.No():
                return self._not_done(session, head)
            case wire.Subscribed():
                self._subscribed(head)
            case wire.Deliver():
                self._delivered(session, head, body)
            case wire.Found():
                for future in self._lookups.pop(head.name, []):
                    future.set_result(head)
            case wire.Probe():
                session.beat_at = 0.0
                self._beat(session, time.monotonic())
            case wire.EpochChanged():
                self.log.warning("bus.new_epoch", broker=self.broker, epoch=head.epoch)
                return self._End(0.1)
            case _:
                pass
        return None

    def _begin(self, session: _Session, welcome: wire.Welcome) -> None:
        self.refusal = ""
        self._has_had_its_name, self._duplicate_since = True, None
        if welcome.fence != self.fence:
            self.fence = welcome.fence
            self._keep("fence", welcome.fence)
        if welcome.journal != self.journal:
            self.journal = welcome.journal
            self._keep("journal", welcome.journal)
        if self._publishes and not self._reconcile(session, welcome):
            # The outbox has a new identity: the next HELLO tells it.
            session.answered_at = 0.0
            return
        session.welcomed = True
        self._beat(session, time.monotonic())
        self.log.info("bus.welcome", broker=self.broker, fence=welcome.fence, epoch=welcome.epoch, head=welcome.head)
        for sub in self._subs.values():
            with self._subs_lock:
                sub.ready, sub.generation, sub.waiting_for_redelivery_since, sub.round = False, sub.generation + 1, None, 0
            self._send(
                session,
                wire.Subscribe(
                    sub=sub.sub,
                    types=sub.types,
                    fence=self.fence,
                    start=sub.start,
                    cursor=self.store.cursor(sub.sub) if self.store is not None else None,
                    window_events=sub.window_events,
                    ack_wait_ms=sub.ack_wait_ms,
                ),
            )
        self.welcomed.set()
        if not self._subs:
            self.subscribed.set()

    def _keep(self, what: str, value: str | int) -> None:
        """Remember what this broker said, for the next start."""
        if self.store is not None:
            key = f"{what}.{self.broker}"
            self.store.soon(lambda db: db.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (key, value)))

    def _reconcile(self, session: _Session, welcome: wire.Welcome) -> bool:
        """Compare what the broker holds of this outbox with our rows; False when a new outbox had to be begun."""
        store = self.store
        if store is None:
            return True
        reader = store.reader()
        first, last = store.outbox.ends(reader)
        n = welcome.last_n
        if n == 0 and first <= 1:
            session.sent_n = self._confirmed_n = 0
            return True
        if 0 < n <= last and store.outbox.identity_of(reader, n) == welcome.last_id:
            session.sent_n = self._confirmed_n = n
            store.confirm(n, welcome.head, welcome.epoch)
            return True
        lost = n < first  # the broker holds less than we still have proof of: send everything that is kept
        self.log.warning("bus.outbox_forked", broker=self.broker, broker_has=n, first=first, last=last, resend_all=lost)
        store.write(lambda db: store.outbox.begin_again(db, everything=lost))
        self._confirmed_n = 0
        return False

    def _refused(self, refuse: wire.Refuse) -> _End:
        if refuse.text != self.refusal:
            self.log.error(
                "bus.refused", broker=self.broker, code=refuse.code, text=refuse.text, remedy=refuse.remedy, holder=refuse.holder
            )
        self.refusal = refuse.text
        if refuse.code == "fenced" or (refuse.code == "duplicate" and self._has_lost_its_name()):
            self._on_fenced(refuse.text)
        return self._End(min(60.0, (refuse.retry_ms or 60_000) / 1000))

    def _has_lost_its_name(self) -> bool:
        """Whether another process has our name for good: taken from us, or held beyond a lease, which a dead one could not."""
        now = time.monotonic()
        self._duplicate_since = self._duplicate_since or now
        return self._has_had_its_name or now - self._duplicate_since > self._lease_ms / 1000 + SILENCE_S

    def _not_done(self, session: _Session, no: wire.No) -> _End | None:
        if no.code == "hello":
            return self._End(0.05)
        if no.code == "fenced":
            self._on_fenced(no.text)
            return self._End(60.0)
        if no.name is not None:
            for future in self._lookups.pop(no.name, []):
                future.set_result(wire.Found(name=no.name))
            return None
        if no.n0 is None:
            self.log.warning("bus.no", broker=self.broker, code=no.code, text=no.text, remedy=no.remedy, sub=no.sub)
            return None
        return self._publish_refused(session, no)

    def _publish_refused(self, session: _Session, no: wire.No) -> _End | None:
        store = self.store
        if store is None:
            return None
        session.inflight.clear()
        session.sent_n = self._confirmed_n
        if no.code == "gap":
            session.sent_n = no.have or 0
            if not store.outbox.identity_of(store.reader(), session.sent_n) and session.sent_n:
                return self._End(0.1)
        elif no.code == "fork":
            return self._End(0.1)
        elif no.code in ("schema", "acl", "size") and no.index is not None:
            n, text = (no.n0 or 0) + no.index, f"{no.code}: {no.text}. {no.remedy}"
            self.log.error("bus.event_refused", broker=self.broker, n=n, error=text)
            self._refuse(store, n, text)
        else:
            session.hold_until = time.monotonic() + (no.retry_ms or 1000) / 1000
            self.log.warning("bus.publish_held", broker=self.broker, code=no.code, text=no.text, remedy=no.remedy)
        return None

    def _refuse(self, store: Store, n: int, text: str) -> None:
        """Event `n` will never leave: it is kept with the reason, and those behind it go on."""
        store.write(lambda db: store.outbox.refuse(db, n, text))

    def _measure(self, answer: wire.HeartbeatAnswer) -> None:
        m3 = time.monotonic_ns()
        w3 = time.time_ns()
        w0 = w3 - (m3 - answer.m0)
        delta = (m3 - answer.m0) - (answer.t2 - answer.t1)
        self._offsets.append((delta, ((answer.t1 - w0) + (answer.t2 - w3)) // 2))
        self.offset_ns = min(self._offsets)[1]

    def _confirmed_up_to(self, session: _Session, ok: wire.Ok) -> None:
        while session.inflight and session.inflight[0].last <= ok.n:
            session.inflight.popleft()
        if ok.n > self._confirmed_n and self.store is not None:
            self._confirmed_n = ok.n
            self.store.confirm(ok.n, ok.seq, ok.epoch)

    def _subscribed(self, head: wire.Subscribed) -> None:
        sub = self._subs.get(head.sub)
        if sub is None:
            return
        with self._subs_lock:
            sub.ready, sub.epoch, sub.prev, sub.acked, sub.to_ack = True, head.epoch, head.cursor, head.cursor, head.cursor
        if all(one.ready for one in self._subs.values()):
            self.subscribed.set()

    def _delivered(self, session: _Session, head: wire.Deliver, body: bytes) -> None:
        sub = self._subs.get(head.sub or "")
        if sub is None or not sub.ready:
            return
        envelopes = wire.decode_batch(body)
        with self._subs_lock:
            waiting = sub.waiting_for_redelivery_since
            if head.round < sub.round and (waiting is None or time.monotonic() - waiting < LONGEST_REDELIVERY_S):
                return  # sent before the broker heard of the failure
            expected = head.prev == sub.prev or (waiting is not None and head.prev == sub.rejected)
            if expected and len(envelopes) == len(head.seqs):
                sub.waiting_for_redelivery_since = None
                prev = head.prev
                for seq, envelope in zip(head.seqs, envelopes, strict=True):
                    self.deliveries.put(Delivery(sub.sub, sub.generation, head.epoch, prev, seq, head.attempt, head.round, envelope))
                    prev = seq
                sub.prev = prev
                return
            if waiting is not None and time.monotonic() - waiting < LONGEST_REDELIVERY_S:
                return
            sub.generation += 1
            sub.round, sub.waiting_for_redelivery_since = 0, None
            expected_prev, sub.prev = sub.prev, sub.to_ack
        self.log.warning("bus.gap", broker=self.broker, sub=sub.sub, expected=expected_prev, got=head.prev)
        self._send(session, wire.Reseek(sub=sub.sub, cursor=sub.to_ack, fence=self.fence))

    # -- telling --------------------------------------------------------------------------------------------------------

    def _work(self, session: _Session, now: float) -> None:
        """Everything that may go out now."""
        while self._wishes:
            self._wishes.popleft()(session)
        for sub in self._subs.values():
            self._acknowledge_now(session, sub)
        self._beat(session, now)
        self._say_at_work(session, now)
        if self._publishes:
            self._publish(session, now)
        if self.store is not None:
            self._note_confirmations(self.store)

    def _note_confirmations(self, store: Store) -> None:
        try:
            store.flush()
        except sqlite3.Error as error:
            # A full disk, say. The next confirmation covers these too; the session is worth more than the note.
            self.log.warning("bus.confirmations_lost", broker=self.broker, error=str(error))

    def _acknowledge_now(self, session: _Session, sub: Subscription) -> None:
        upto = sub.to_ack
        if sub.ready and upto > sub.acked and self._send(session, wire.Ack(sub=sub.sub, epoch=sub.epoch, upto=upto, fence=self.fence)):
            sub.acked = upto

    def _say_at_work(self, session: _Session, now: float) -> None:
        at_work = self._at_work
        if at_work is not None:
            delivery, told_at = at_work
            wait_s = self._subs[delivery.sub].ack_wait_ms / 3000
            if now - told_at > wait_s and self._send(session, wire.Working(sub=delivery.sub, seq=delivery.seq, fence=self.fence)):
                self._at_work = (delivery, now) if self._at_work is at_work else self._at_work

    def _beat(self, session: _Session, now: float) -> None:
        if now - session.beat_at >= HEARTBEAT_S and self._send(session, wire.Heartbeat(m0=time.monotonic_ns(), state=self._state())):
            session.beat_at = now

    def _publish(self, session: _Session, now: float) -> None:
        store = self.store
        if store is None or now < session.hold_until:
            return
        if session.inflight and now - session.inflight[0].sent_at > OK_PATIENCE_S:
            session.inflight.clear()
            session.sent_n = self._confirmed_n
        reader = store.reader()
        while len(session.inflight) < MAX_INFLIGHT:
            try:
                rows = store.outbox.unconfirmed(reader, after=session.sent_n)
            except DamagedRow as damaged:
                self.log.error("bus.event_damaged", n=damaged.n, error=str(damaged))  # noqa: TRY400  (said whole by its words)
                self._refuse(store, damaged.n, str(damaged))
                continue
            if not rows:
                return
            prevn, previd = store.outbox.before(reader, rows[0].n)
            head = wire.Publish(fence=self.fence, n0=rows[0].n, count=len(rows), prevn=prevn, previd=previd)
            if not self._send(session, head, wire.encode_batch(row.envelope for row in rows)):
                return
            session.sent_n = rows[-1].n
            session.inflight.append(_Inflight(rows[0].n, rows[-1].n, now))
