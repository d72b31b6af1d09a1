"""One turn: handle -> one SQLite transaction (state + outgoing events + ledger + cursor) -> confirm.

A crash at any point leaves either everything of a turn or nothing, and a redelivered event is known by its id: no effect happens
twice. A module's database is `module.db` in its state folder.

A turn takes the module's lock when it first touches state or tables, and keeps it until it ends: there is one writer at a time,
and nobody overwrites newer state. A handler that only asks a device holds nothing up.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

from nightbell.bus.outbox import OUTBOX_SCHEMA, Outbox
from nightbell.bus.wire import Envelope, encode_envelope
from nightbell.contracts.errors import BadInput, Failed
from nightbell.contracts.events import EVENTS, AlarmRaised, Event
from nightbell.contracts.ids import uuid7
from nightbell.contracts.instants import format_utc
from nightbell.contracts.states import Severity

__all__ = ["EnvelopeSeen", "Store", "Turn"]

S = TypeVar("S")

KEPT_LEDGER_DAYS = 30
_DAY_NS = 86_400_000_000_000

SCHEMA = (
    OUTBOX_SCHEMA
    + """
CREATE TABLE IF NOT EXISTS ledger (id TEXT PRIMARY KEY, seq INTEGER NOT NULL, at_ns INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS cursor (sub TEXT PRIMARY KEY, epoch INTEGER NOT NULL, seq INTEGER NOT NULL, id TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS command (
  id TEXT PRIMARY KEY, verb TEXT NOT NULL, args BLOB NOT NULL, state TEXT NOT NULL, answer BLOB, at_ns INTEGER NOT NULL
) WITHOUT ROWID;
"""
)


class EnvelopeSeen(msgspec.Struct, frozen=True):
    """What a handler sees of the event's envelope."""

    id: str
    seq: int
    type: str
    time: str
    subject: str
    source: str
    correlationid: str | None = None
    causationid: str | None = None


class Store:
    """A module's database: one writing connection behind one lock, reading ones per thread."""

    def __init__(self, path: Path, *, schema: str = "") -> None:
        self.path = path
        self.lock = threading.Lock()
        self._holder: int | None = None
        try:
            self.db = self._connect()
            mode = self.db.execute("PRAGMA journal_mode = WAL").fetchone()[0]
            self.db.execute("PRAGMA synchronous = FULL")
            if mode != "wal" or self.db.execute("PRAGMA synchronous").fetchone()[0] != 2:
                raise Failed(f"SQLite does not keep its promises here (journal mode {mode})", where=str(path), remedy="Use a local disk")
            self.db.executescript(SCHEMA + schema)
        except sqlite3.DatabaseError as error:
            raise Failed(
                f"the module's database cannot be used: {error}",
                where=str(path),
                remedy="Restore it from a copy, or move it aside: the module then begins anew and hears all stored events again",
            ) from error
        self.outbox = Outbox(self.db)
        self._local = threading.local()
        self._readers: list[sqlite3.Connection] = []
        self._soon: deque[Callable[[sqlite3.Connection], object]] = deque()
        found = self.db.execute("SELECT value FROM meta WHERE key = 'state'").fetchone()
        self.state: bytes | None = bytes(found[0]) if found else None
        """The committed state, encoded; replaced as a whole by each commit."""
        self._forget()

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, timeout=10.0, isolation_level=None, check_same_thread=False)
        db.execute("PRAGMA busy_timeout = 10000")
        return db

    def reader(self) -> sqlite3.Connection:
        """A reading connection of this thread; it sees what is committed."""
        db: sqlite3.Connection | None = getattr(self._local, "db", None)
        if db is None:
            db = self._local.db = self._connect()
            db.execute("PRAGMA query_only = 1")
            self._readers.append(db)
        return db

    def acquire(self) -> None:
        """Begin to write. Raises `RuntimeError` when this thread is already within a turn: it would wait for itself."""
        me = threading.get_ident()
        if self._holder == me:
            raise RuntimeError("a turn within a turn of the same thread")
        self.lock.acquire()
        self._holder = me
        try:
            self.db.execute("BEGIN IMMEDIATE")
        except BaseException:
            self._let_go()
            raise

    def commit(self, state: bytes | None = None) -> None:
        """Commit, with the confirmations that came in meanwhile, and let go; `state` is the new one, when it changed."""
        try:
            while self._soon:
                self._soon.popleft()(self.db)
            self.db.execute("COMMIT")
        except BaseException:
            self.rollback()
            raise
        if state is not None:
            self.state = state
        self._let_go()

    def rollback(self) -> None:
        """Undo and let go."""
        try:
            if self.db.in_transaction:
                self.db.execute("ROLLBACK")
        finally:
            self._let_go()

    def _let_go(self) -> None:
        self._holder = None
        self.lock.release()

    # -- small writes that need no sync of their own, such as confirmations: a lost one is told again by the broker ----

    def soon(self, work: Callable[[sqlite3.Connection], object]) -> None:
        """Do `work` with the next commit; whoever asks never waits for a turn."""
        self._soon.append(work)

    def confirm(self, n: int, seq: int, epoch: int) -> None:
        """The broker holds all up to row `n`, which has `seq` there."""
        self.soon(lambda db: self.outbox.confirm(db, n=n, seq=seq, epoch=epoch))

    def flush(self) -> None:
        """Do what waits, unless somebody is in a turn (whose commit will do it)."""
        if not self._soon or not self.lock.acquire(blocking=False):
            return
        self._holder = threading.get_ident()
        try:
            self.db.execute("BEGIN IMMEDIATE")
        except BaseException:
            self._let_go()
            raise
        self.commit()

    # -- ledgers --------------------------------------------------------------------------------------------------------

    def has_handled(self, identity: str) -> bool:
        """Whether the event's effects are committed."""
        return self.reader().execute("SELECT 1 FROM ledger WHERE id = ?", (identity,)).fetchone() is not None

    def cursor(self, sub: str) -> dict[str, Any] | None:
        """How far subscription `sub` has been handled: {epoch, seq, id}."""
        found = self.reader().execute("SELECT epoch, seq, id FROM cursor WHERE sub = ?", (sub,)).fetchone()
        return {"epoch": found[0], "seq": found[1], "id": found[2]} if found else None

    def meta(self, key: str) -> Any:
        """A small value kept with the state, or None."""
        found = self.reader().execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return found[0] if found else None

    def write(self, work: Callable[[sqlite3.Connection], Any]) -> Any:
        """A small transaction outside any turn."""
        self.acquire()
        try:
            value = work(self.db)
        except BaseException:
            self.rollback()
            raise
        self.commit()
        return value

    def _forget(self) -> None:
        now_ns = time.time_ns()
        self.acquire()
        self.outbox.forget_old(self.db, now_ns)
        for table in ("ledger", "command"):
            self.db.execute(f"DELETE FROM {table} WHERE at_ns < ?", (now_ns - KEPT_LEDGER_DAYS * _DAY_NS,))  # noqa: S608  (two constants)
        self.commit()

    def close(self) -> None:
        """Write what waits and close all connections; call it when no thread uses them any more."""
        self.flush()
        for db in (*self._readers, self.db):
            db.close()


class Turn(Generic[S]):
    """What a handler may do besides devices: change state, publish, run SQL; all of it commits together or not at all."""

    def __init__(
        self,
        store: Store,
        *,
        name: str,
        site: str,
        state_type: type[S],
        now_ns: Callable[[], int],
        envelope: EnvelopeSeen | None = None,
        causationid: str | None = None,
        correlationid: str | None = None,
        read_only: bool = False,
        hush: Callable[[str, str], bool] | None = None,
    ) -> None:
        self.envelope = envelope
        self._store, self._name, self._site, self._state_type = store, name, site, state_type
        self._clock_ns = now_ns
        self._now_ns: int | None = None
        self._causationid = causationid or (envelope.id if envelope else None)
        self._correlationid = correlationid or (envelope.correlationid if envelope else None)
        self._read_only = read_only
        self._hush = hush
        self._holds = False
        self._state: S | None = None
        self.published = 0

    @property
    def now_ns(self) -> int:
        """The instant of this turn by the installation's clock, UTC ns; the same however often it is asked."""
        if self._now_ns is None:
            self._now_ns = self._clock_ns()
        return self._now_ns

    @property
    def state(self) -> S:
        """The module's state; changes are kept when the turn commits. In a query it is a copy."""
        if self._state is None:
            if not self._read_only:
                self._enter()
            self._state = self._decoded()
        return self._state

    def _decoded(self) -> S:
        if self._store.state is None:
            return self._state_type()
        try:
            return msgspec.json.decode(self._store.state, type=self._state_type)
        except msgspec.DecodeError as error:
            raise Failed(
                f"the stored state cannot be read: {error}", where=str(self._store.path), remedy="Move the file aside to begin anew"
            ) from error

    def _enter(self) -> None:
        if self._read_only:
            raise RuntimeError("a query must leave no trace")
        if not self._holds:
            self._store.acquire()
            self._holds = True

    def publish(self, event: Event, subject: str, *, correlationid: str | None = None, causationid: str | None = None) -> str:
        """Say `event` when the turn commits; its id. `causationid` names what led to it, when that is not what this turn handles.

        Raises `BadInput` naming the field when it is not what its class says.
        """
        kind = type(event)
        if EVENTS.get(kind.type) is not kind:
            raise BadInput(f"{kind.__name__} is no registered event", where="publish", remedy="Add it to contracts.events.EVENTS")
        data = msgspec.json.encode(event)
        try:
            msgspec.json.decode(data, type=kind)
        except msgspec.ValidationError as error:
            raise BadInput(str(error), where=kind.type, remedy="Give the field the type and range that its class says") from error
        identity = uuid7()
        self._put(
            Envelope(
                specversion="1.0",
                id=identity,
                source=f"{self._name}@{self._site}",
                type=kind.type,
                typeversion=kind.typeversion,
                subject=subject,
                time=format_utc(self.now_ns, digits=6),
                causationid=causationid or self._causationid,
                correlationid=correlationid or self._correlationid or identity,
                data=msgspec.Raw(data),
            )
        )
        return identity

    def forward(self, envelope: Envelope) -> None:
        """Say again what somebody else said (relays): id, source and time stay."""
        self._put(envelope)

    def _put(self, envelope: Envelope) -> None:
        packed = encode_envelope(envelope)
        self._enter()
        self._store.outbox.append(self._store.db, envelope.id, packed, time.time_ns())
        self.published += 1

    def raise_alarm(self, key: str, severity: Severity | str, text: str, **evidence: Any) -> None:
        """A human is needed. The same key with the same words within ten minutes is one alarm."""
        if self._hush is not None and self._hush(key, text):
            return
        alarm = AlarmRaised(alarm_id=uuid7(), key=key, severity=Severity(severity), text=text, evidence=msgspec.to_builtins(evidence))
        self.publish(alarm, self._site)

    def execute(self, sql: str, params: Sequence[Any] = ()) -> None:
        """SQL within this turn's transaction."""
        self._enter()
        self._store.db.execute(sql, params)

    def query(self, sql: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Rows; in a turn that has written, with what it has written."""
        if self._read_only:
            return self._store.reader().execute(sql, params).fetchall()
        self._enter()
        return self._store.db.execute(sql, params).fetchall()

    # -- ending ---------------------------------------------------------------------------------------------------------

    def commit(self, *, handled: tuple[str, int, str, int] | None = None, result: tuple[str, bytes] | None = None) -> None:
        """Everything of this turn at once; `handled` is (sub, epoch, id, seq), `result` a command's (id, answer)."""
        if self._read_only:
            return
        if handled is not None or result is not None:
            self._enter()
        if not self._holds:
            return
        encoded = None
        try:
            db = self._store.db
            if self._state is not None:
                encoded = msgspec.json.encode(self._state)
                if encoded == self._store.state:
                    encoded = None
                else:
                    db.execute("INSERT OR REPLACE INTO meta (key, value) VALUES ('state', ?)", (encoded,))
            if handled is not None:
                sub, epoch, identity, seq = handled
                db.execute("INSERT OR IGNORE INTO ledger (id, seq, at_ns) VALUES (?, ?, ?)", (identity, seq, time.time_ns()))
                db.execute("INSERT OR REPLACE INTO cursor (sub, epoch, seq, id) VALUES (?, ?, ?, ?)", (sub, epoch, seq, identity))
            if result is not None:
                db.execute("UPDATE command SET state = 'done', answer = ? WHERE id = ?", (result[1], result[0]))
        except BaseException:
            self.rollback()
            raise
        self._holds = False
        self._store.commit(encoded)

    def rollback(self) -> None:
        """Nothing of this turn happened."""
        if self._holds:
            self._holds = False
            self._store.rollback()
