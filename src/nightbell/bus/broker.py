"""The broker's process: sockets around router and journal.

    loop thread     owns the door (ROUTER), the feed (XPUB) and the router; reads the journal
    commit thread   only writes and syncs; everything that came in meanwhile goes into one commit

It knows no module and no science. When its disk fails it says so to all who wait and ends: the next start reads back what is truly
there, and publishers send again what is not.
"""

from __future__ import annotations

import collections
import json
import os
import random
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import structlog
import zmq

from nightbell.bus import wire
from nightbell.bus.disk import Disk
from nightbell.bus.journal import Journal, Place
from nightbell.bus.locks import FolderLock
from nightbell.bus.logs import set_up_logging
from nightbell.bus.router import Append, Router, Send, Tell
from nightbell.bus.tuning import BrokerTuning, load_tuning
from nightbell.contracts.errors import Failed, Refused
from nightbell.settings import Installation

__all__ = ["Broker", "run_broker"]

POLL_MS = 50
MOST_MESSAGES_PER_TURN = 500
LARGEST_COMMIT_BYTES = 4 << 20
LARGEST_COMMIT_RECORDS = 2000
STALL_S = 2.0
BIND_PATIENCE_S = 3.0
WATCH_DISK_S = 1.0
HOUSEKEEPING_S = 5.0
LEAST_RESERVE_BYTES = 16 << 20
"""Of the reserve, what is left even by events of safety: for cursors, leases and seals."""
LARGEST_INFO_BYTES = 60 << 10
WISHED_FILES = 4096
_DAY_NS = 86_400_000_000_000
SMALLEST_LIBZMQ = (4, 3, 5)


@dataclass(slots=True)
class _Roll:
    """Seal the segment with this snapshot."""

    snapshot: dict[str, Any]
    at_ns: int


class _Committer(threading.Thread):
    """Writes and syncs; tells the loop what is durable."""

    def __init__(self, journal: Journal, wake: Callable[[], None]) -> None:
        super().__init__(name="commit", daemon=True)
        self._journal, self._wake = journal, wake
        self._todo: collections.deque[Append | _Roll] = collections.deque()
        self._some = threading.Condition()
        self._ending = False
        self.done: collections.deque[tuple[Append, Place]] = collections.deque()
        self.rolled = threading.Event()
        self.failure: BaseException | None = None

    def put(self, work: Append | _Roll) -> None:
        with self._some:
            self._todo.append(work)
            self._some.notify()

    def end(self) -> None:
        """Write what waits, then end."""
        with self._some:
            self._ending = True
            self._some.notify()
        self.join(timeout=30.0)

    def run(self) -> None:
        while True:
            with self._some:
                while not self._todo and not self._ending:
                    self._some.wait(1.0)
                if not self._todo:
                    return
                batch = self._next_batch()
            try:
                self._commit(batch)
            except BaseException as error:  # noqa: BLE001  # a failed sync must never be retried: the loop ends the process
                self.failure = error
                self._wake()
                return
            self._wake()

    def _next_batch(self) -> list[Append] | _Roll:
        first = self._todo[0]
        if isinstance(first, _Roll):
            self._todo.popleft()
            return first
        batch: list[Append] = []
        size = 0
        while self._todo and isinstance(self._todo[0], Append) and len(batch) < LARGEST_COMMIT_RECORDS and size < LARGEST_COMMIT_BYTES:
            work = self._todo.popleft()
            if isinstance(work, Append):
                batch.append(work)
                size += len(work.record.body)
        return batch

    def _commit(self, batch: list[Append] | _Roll) -> None:
        if isinstance(batch, _Roll):
            self._journal.roll(batch.snapshot, at_ns=batch.at_ns)
            self.rolled.set()
            return
        places = self._journal.write([work.record for work in batch])
        if any(work.waits for work in batch):
            self._journal.sync()
        self.done.extend(zip(batch, places, strict=True))


class Broker:
    """One broker; `run` lives until `stop` is called."""

    def __init__(
        self,
        folder: Path,
        *,
        name: str,
        site: str,
        door: str,
        feed: str,
        tuning: BrokerTuning | None = None,
        disk: Disk | None = None,
        curve: Callable[[zmq.Socket[Any]], None] | None = None,
    ) -> None:
        self.name, self._site = name, site
        self.tuning = tuning or BrokerTuning()
        self.log: Any = structlog.get_logger().bind(broker=name)
        self._lock = FolderLock(folder)
        self._lock.acquire()
        try:
            self._journal = Journal(folder / "journal", disk=disk, segment_bytes=round(self.tuning.segment_mib * (1 << 20)))
        except BaseException:
            self._lock.release()
            raise
        self._router = Router(
            self._journal,
            broker=name,
            site=site,
            journal_id=str(self._journal.identity),
            epoch=self._journal.epoch,
            snapshot=self._journal.snapshot,
            tail=self._journal.tail,
            now=time.monotonic(),
            wall_ns=time.time_ns(),
            chance=random.Random(),
        )
        self._journal.tail = []
        self._began = time.monotonic()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
        self._door = self._socket(zmq.ROUTER, curve)
        self._door.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._door.setsockopt(zmq.ROUTER_HANDOVER, 0)
        self._feed = self._socket(zmq.XPUB, curve)
        self._feed.setsockopt(zmq.SNDHWM, 10_000)
        try:
            self._bind(self._door, door)
            self._bind(self._feed, feed)
        except BaseException:
            self._let_go()
            raise
        self.door = self._door.getsockopt_string(zmq.LAST_ENDPOINT)
        self.feed = self._feed.getsockopt_string(zmq.LAST_ENDPOINT)
        address = f"inproc://commits-{uuid.uuid4()}"
        self._wake_end = self._context.socket(zmq.PAIR)
        self._wake_end.bind(address)
        self._waker = self._context.socket(zmq.PAIR)
        self._waker.connect(address)
        self._committer = _Committer(self._journal, self._wake)
        self._stop = threading.Event()
        self._rolling = False
        self._last_of_type: dict[str, int] = {}
        for damage in self._journal.damages:
            self.log.error("journal.damaged", what=str(damage))
            self._router.alarm("journal.damaged", str(damage))
        self._n_damages = len(self._journal.damages)
        self._heal()

    def _socket(self, kind: int, curve: Callable[[zmq.Socket[Any]], None] | None) -> zmq.Socket[bytes]:
        sock: zmq.Socket[bytes] = self._context.socket(kind)
        for option, value in (
            (zmq.LINGER, 0),
            (zmq.MAXMSGSIZE, 4 << 20),
            (zmq.HANDSHAKE_IVL, 3000),
            (zmq.SNDHWM, 1000),
            (zmq.RCVHWM, 1000),
            (zmq.HEARTBEAT_IVL, 2000),
            (zmq.HEARTBEAT_TIMEOUT, 6000),
            (zmq.HEARTBEAT_TTL, 6000),
            (zmq.IPV6, 0),
        ):
            sock.setsockopt(option, value)
        if curve is not None:
            curve(sock)
        return sock

    def _bind(self, sock: zmq.Socket[bytes], address: str) -> None:
        # A broker that has just ended may hold the address for a moment.
        until = time.monotonic() + BIND_PATIENCE_S
        while True:
            try:
                sock.bind(address)
            except zmq.ZMQError as error:
                if error.errno != zmq.EADDRINUSE or time.monotonic() > until:
                    problem = error
                    break
            else:
                return
            time.sleep(0.05)
        raise Failed(
            f"cannot listen at {address}: {problem}", where=f"broker {self.name}", remedy="Is another broker running? Choose a free port"
        ) from problem

    def _wake(self) -> None:
        """Called by the commit thread alone."""
        try:
            self._waker.send(b"", zmq.NOBLOCK)
        except zmq.ZMQError:
            return  # wake-ups wait already

    def stop(self) -> None:
        """End after what is being done."""
        self._stop.set()

    # -- the loop -------------------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Live until stopped; the exit status."""
        try:
            return self._live()
        finally:
            self._end()

    def _live(self) -> int:
        self._committer.start()
        poller = zmq.Poller()
        for sock in (self._door, self._feed, self._wake_end):
            poller.register(sock, zmq.POLLIN)
        turned_at = kept_house_at = watched_at = time.monotonic()
        self._watch_disk()
        self._carry_out()
        while not self._stop.is_set():
            ready = dict(poller.poll(POLL_MS))
            now = time.monotonic()
            if now - turned_at > STALL_S:
                self.log.warning("broker.stalled", seconds=round(now - turned_at, 1))
                self._router.stalled(now)
            turned_at = now
            if self._wake_end in ready:
                self._drain(self._wake_end)
            if self._committer.failure is not None:
                return self._disk_failed(self._committer.failure)
            self._take_commits(now)
            if self._door in ready:
                self._hear(now)
            if self._feed in ready:
                self._drain(self._feed)
            self._router.tick(now, time.time_ns())
            self._carry_out()
            if now - watched_at > WATCH_DISK_S:
                watched_at = now
                if not self._journal.is_there:
                    return self._disk_failed(FileNotFoundError(f"{self._journal.folder} was taken away"))
                self._watch_disk()
            if now - kept_house_at > HOUSEKEEPING_S:
                kept_house_at = now
                self._keep_house()
        self._router.write_cursors()
        self._carry_out()
        return 0

    def _drain(self, sock: zmq.Socket[bytes]) -> None:
        try:
            while True:
                sock.recv(zmq.NOBLOCK)
        except zmq.Again:
            return

    def _hear(self, now: float) -> None:
        for _ in range(MOST_MESSAGES_PER_TURN):
            try:
                peer, *frames = self._door.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            wall_ns = time.time_ns()
            try:
                head, body = wire.decode(frames, wire.TO_BROKER)
            except wire.WireError as error:
                kind = wire.Refuse if error.word == "protocol" else wire.No
                self._send(Send(peer, kind(code=error.word, text=error.what, remedy=error.remedy)))
                continue
            if isinstance(head, wire.Info):
                self._send(Send(peer, self._info(head.rid)))
                continue
            try:
                self._router.handle(peer, head, body, now, wall_ns)
            except Exception:
                # One message that we do not survive would otherwise end the bus of a whole observatory, and again at each restart.
                self.log.exception("message.failed", verb=head.verb)
                text = f"this {head.verb} met an error of the broker; its log tells more"
                self._send(Send(peer, wire.No(code="internal", text=text, remedy="Tell the developers")))
            self._carry_out()

    def _carry_out(self) -> None:
        while effects := self._router.take():
            for effect in effects:
                if isinstance(effect, Send):
                    self._send(effect)
                elif isinstance(effect, Append):
                    self._committer.put(effect)
                else:
                    self._tell(effect)

    def _send(self, send: Send) -> None:
        try:
            self._door.send_multipart([send.peer, *wire.encode(send.head, send.body)], zmq.NOBLOCK)
        except wire.WireError as error:
            self.log.error("answer.too_large", verb=send.head.verb, error=str(error))  # noqa: TRY400  (said whole by its words)
            self._send(Send(send.peer, wire.No(code="size", text=error.what, remedy="Ask for less", rid=getattr(send.head, "rid", None))))
        except zmq.Again:
            self.log.warning("peer.full", verb=send.head.verb)  # it will miss it, see the gap and ask again
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            self._router.unreachable(send.peer, time.monotonic())

    def _tell(self, tell: Tell) -> None:
        for seq, (kind, packed) in enumerate(tell.events, start=tell.first):
            about = {"epoch": tell.epoch, "seq": seq, "prevt": self._last_of_type.get(kind, 0)}
            self._last_of_type[kind] = seq
            try:
                self._feed.send_multipart([kind.encode() + b"\0", json.dumps(about).encode(), packed], zmq.NOBLOCK)
            except zmq.Again:
                self.log.warning("feed.full", seq=seq)

    def _take_commits(self, now: float) -> None:
        last = 0
        done = self._committer.done
        while done:
            work, place = done.popleft()
            self._journal.publish(work.record, place)
            last = work.ticket
        if last:
            self._router.committed(last, now)
            self._carry_out()
        if self._rolling and self._committer.rolled.is_set():
            self._rolling = False
            self._committer.rolled.clear()
        elif not self._rolling and self._journal.wants_to_roll and self._router.has_room:
            self._rolling = True
            self._committer.put(_Roll(self._router.snapshot(), time.time_ns()))

    def _watch_disk(self) -> None:
        free = self._journal.free_bytes()
        reserve = self.tuning.reserve_mib * (1 << 20)
        full = free < reserve
        self._router.reserve_left = free >= min(LEAST_RESERVE_BYTES, reserve)
        was_full, self._router.stopped = bool(self._router.stopped), "full" if full else ""
        if full and not was_full:
            self.log.error("disk.full", free_mib=free >> 20, reserve_mib=self.tuning.reserve_mib)
            self._router.alarm("broker.disk_full", f"{free >> 20} MiB are free on the disk of broker {self.name}: it takes no more events")
            self._carry_out()
        elif was_full and not full:
            self.log.info("disk.has_room", free_mib=free >> 20)

    def _keep_house(self) -> None:
        if self._router.has_room:
            self._journal.note_high_water()
        before_ns = time.time_ns() - round(self.tuning.keep_days * _DAY_NS)
        gone = self._journal.retire(before_ns=before_ns, upto_seq=self._router.lowest_cursor())
        if gone:
            self.log.info("journal.retired", segments=gone)
        for damage in self._journal.damages[self._n_damages :]:
            self.log.error("journal.damaged", what=str(damage))
            self._router.alarm("journal.damaged", str(damage))
        self._n_damages = len(self._journal.damages)
        self._heal()

    def _heal(self) -> None:
        """Events in sealed segments turned out to be damaged: let publishers send them again."""
        if self._journal.lost:
            self._router.heal(list(self._journal.lost), self._journal.chains())
            self._journal.dealt_with()

    def _info(self, rid: str) -> wire.InfoAnswer:
        sessions, subscriptions = self._router.sessions(), self._router.subscriptions()
        if len(msgspec.json.encode((sessions, subscriptions))) > LARGEST_INFO_BYTES:
            sessions = tuple({**one, "state": {}} for one in sessions[:100])
            subscriptions = tuple({**one, "types": one["types"][:1]} for one in subscriptions[:100])
        return wire.InfoAnswer(
            rid=rid,
            broker=self.name,
            journal=str(self._journal.identity),
            epoch=self._router.epoch,
            head=self._journal.head,
            first_seq=self._journal.first_seq,
            pid=os.getpid(),
            up_s=round(time.monotonic() - self._began, 1),
            sessions=sessions,
            subscriptions=subscriptions,
            dead=self._router.n_dead,
            journal_bytes=self._journal.n_bytes,
            free_bytes=self._journal.free_bytes(),
            readonly=self._router.stopped,
        )

    def _disk_failed(self, failure: BaseException) -> int:
        self.log.critical("disk.failed", error=str(failure), remedy="Check the disk; the next start reads back what is truly there")
        self._router.stopped = "disk"
        self._router.refuse_all("disk", f"the broker's disk failed: {failure}")
        self._carry_out()
        return 1

    def _end(self) -> None:
        if self._committer.failure is None:
            self._committer.end()
            self._take_commits(time.monotonic())
            if self._router.has_room:
                self._journal.note_high_water()
        self._waker.close(0)
        self._wake_end.close(0)
        self._let_go()
        self.log.info("broker.stopped", head=self._journal.head)

    def _let_go(self) -> None:
        # Linger a moment so that the last OKs leave; the rest is told again by the next WELCOME.
        for sock in (self._door, self._feed):
            sock.close(200)
        self._journal.close()
        self._lock.release()


def _check_addresses(name: str, *addresses: str, keys: str) -> None:
    """Without keys anybody who reaches the socket may publish: only loopback is allowed."""
    for address in addresses:
        host = address.removeprefix("tcp://").rpartition(":")[0]
        if not keys and host not in ("127.0.0.1", "localhost"):
            raise Refused(
                f"{address} can be reached from other hosts, and there are no keys",
                where=f"observatory.toml: brokers.{name}",
                remedy='Make keys (nightbell keys make) and set keys = "keys", or listen at 127.0.0.1',
            )


def _allow_many_files() -> None:
    """Each connection is a file; the usual limit is 1024."""
    if sys.platform != "win32":
        import resource  # noqa: PLC0415  (there is none on Windows)

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wished = WISHED_FILES if hard == resource.RLIM_INFINITY else min(WISHED_FILES, hard)
        if soft < wished:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wished, hard))


def run_broker(installation: Installation, name: str) -> int:
    """The process of broker `name`; prints `READY {...}` on stdout. Returns the exit status."""
    set_up_logging()
    version = tuple(int(part) for part in zmq.zmq_version_info())
    if version < SMALLEST_LIBZMQ:
        raise Refused(f"libzmq {zmq.zmq_version()} has known holes", where="pyzmq", remedy="Bring pyzmq up to date (libzmq >= 4.3.5)")
    tuning = load_tuning(installation, name)
    settings = installation.settings.brokers[name]
    _check_addresses(name, settings.door, settings.feed, keys=installation.settings.keys)
    curve = None
    if installation.settings.keys:
        from nightbell.bus import keys  # noqa: PLC0415  (only installations with keys load it)

        def curve(sock: zmq.Socket[Any]) -> None:
            keys.server_options(sock, installation, f"broker-{name}")

    broker = Broker(
        installation.state_folder(f"broker-{name}"),
        name=name,
        site=settings.site or installation.settings.site.name,
        door=settings.door,
        feed=settings.feed,
        tuning=tuning,
        curve=curve,
    )
    for one in ("SIGINT", "SIGTERM", "SIGBREAK"):
        if hasattr(signal, one):
            signal.signal(getattr(signal, one), lambda _number, _frame: broker.stop())
    told = {"broker": name, "door": broker.door, "feed": broker.feed, "pid": os.getpid()}
    _allow_many_files()
    sys.stdout.write(f"READY {json.dumps(told)}\n")
    sys.stdout.flush()
    broker.log.info("broker.ready", **told)
    try:
        return broker.run()
    except Exception:
        broker.log.critical("broker.failed", exc_info=True)
        return 1
