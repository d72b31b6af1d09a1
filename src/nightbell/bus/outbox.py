"""Events that the broker has not confirmed yet, and for some days those it has: they heal a damaged or restored journal.

An event is a row here in the same transaction as the state it belongs to. Rows are numbered `n` = 1, 2, ... within one outbox
(a UUID); the broker accepts a batch only when it follows the last one it holds, so nothing is lost, doubled or reordered.
Every row carries its own crc, because SQLite would hand out a flipped byte as data.
"""

from __future__ import annotations

import sqlite3
import uuid
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from nightbell.bus.wire import LARGEST_BATCH_BYTES
from nightbell.contracts.errors import Failed

__all__ = ["OUTBOX_SCHEMA", "DamagedRow", "Outbox", "OutboxRow"]

UNCONFIRMED, CONFIRMED, REFUSED = 0, 1, 2
KEPT_DAYS = 7.0
_DAY_NS = 86_400_000_000_000

OUTBOX_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS outbox (
  n INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, envelope BLOB NOT NULL, crc INTEGER NOT NULL, made_ns INTEGER NOT NULL,
  state INTEGER NOT NULL DEFAULT 0, seq INTEGER, epoch INTEGER, error TEXT
);
CREATE INDEX IF NOT EXISTS outbox_open ON outbox (n) WHERE state = 0;
"""


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """One event on its way."""

    n: int
    id: str
    envelope: bytes


class DamagedRow(Failed):
    """A row whose bytes are not those that were put there."""

    def __init__(self, n: int, place: str) -> None:
        super().__init__(
            f"event {n} of the outbox is damaged and cannot be sent",
            where=place,
            remedy="Check the disk; the event is lost unless a copy has it",
        )
        self.n = n


class Outbox:
    """The outbox in a module's database. Its methods take the connection: writing ones inside the caller's transaction."""

    def __init__(self, db: sqlite3.Connection) -> None:
        found = db.execute("SELECT value FROM meta WHERE key = 'outbox'").fetchone()
        self.identity = str(found[0]) if found else str(uuid.uuid4())
        if not found:
            db.execute("INSERT INTO meta (key, value) VALUES ('outbox', ?)", (self.identity,))

    def append(self, db: sqlite3.Connection, identity: str, envelope: bytes, now_ns: int) -> int:
        """Put an event behind the last one; its n. The same id again changes nothing."""
        db.execute(
            "INSERT OR IGNORE INTO outbox (n, id, envelope, crc, made_ns)"
            " VALUES ((SELECT max(coalesce(max(n), 0), 0) + 1 FROM outbox), ?, ?, ?, ?)",
            (identity, envelope, zlib.crc32(envelope), now_ns),
        )
        return int(db.execute("SELECT n FROM outbox WHERE id = ?", (identity,)).fetchone()[0])

    def unconfirmed(
        self, db: sqlite3.Connection, *, after: int, limit: int = 256, largest: int = LARGEST_BATCH_BYTES // 2
    ) -> list[OutboxRow]:
        """The next consecutive rows behind `after` that may go in one batch. Raises `DamagedRow` when the first of them is."""
        rows: list[OutboxRow] = []
        size = 0
        for n, identity, envelope, crc, state in db.execute(
            "SELECT n, id, envelope, crc, state FROM outbox WHERE n > ? ORDER BY n LIMIT ?", (after, limit)
        ):
            if state == REFUSED:
                if rows:
                    break
                continue
            if rows and (n != rows[-1].n + 1 or size + len(envelope) > largest):
                break
            if zlib.crc32(envelope) != crc:
                if rows:
                    break
                raise DamagedRow(int(n), "module.db")
            rows.append(OutboxRow(int(n), str(identity), bytes(envelope)))
            size += len(envelope)
        return rows

    def before(self, db: sqlite3.Connection, n: int) -> tuple[int, str | None]:
        """(n, id) of the last row before `n` that the broker can hold."""
        found = db.execute("SELECT n, id FROM outbox WHERE n < ? AND state <> ? ORDER BY n DESC LIMIT 1", (n, REFUSED)).fetchone()
        return (int(found[0]), str(found[1])) if found else (0, None)

    def identity_of(self, db: sqlite3.Connection, n: int) -> str | None:
        """The id of row `n`."""
        found = db.execute("SELECT id FROM outbox WHERE n = ?", (n,)).fetchone()
        return str(found[0]) if found else None

    def ends(self, db: sqlite3.Connection) -> tuple[int, int]:
        """(first n kept, last n); (1, 0) when empty."""
        first, last = db.execute("SELECT coalesce(min(n), 1), coalesce(max(n), 0) FROM outbox WHERE n > 0").fetchone()
        return int(first), int(last)

    def n_unconfirmed(self, db: sqlite3.Connection) -> int:
        """How many events wait for the broker."""
        return int(db.execute("SELECT count(*) FROM outbox WHERE state = 0").fetchone()[0])

    def confirm(self, db: sqlite3.Connection, *, n: int, seq: int, epoch: int) -> None:
        """All up to `n` are on the broker's disk; `seq` is that of row n."""
        db.execute("UPDATE outbox SET state = 1, epoch = ? WHERE n <= ? AND state = 0", (epoch, n))
        db.execute("UPDATE outbox SET seq = ? WHERE n = ?", (seq, n))

    def last_confirmed(self, db: sqlite3.Connection) -> tuple[int, int, int, str] | None:
        """(epoch, seq, n, id) of the last OK that was noted."""
        found = db.execute("SELECT epoch, seq, n, id FROM outbox WHERE seq IS NOT NULL ORDER BY n DESC LIMIT 1").fetchone()
        return (int(found[0]), int(found[1]), int(found[2]), str(found[3])) if found else None

    def refuse(self, db: sqlite3.Connection, n: int, error: str) -> None:
        """The broker will never take row `n`: keep it with the reason; those behind it go on."""
        db.execute("UPDATE outbox SET state = 2, error = ? WHERE n = ?", (error, n))

    def refused(self, db: sqlite3.Connection) -> Sequence[tuple[int, str, str]]:
        """(n, id, error) of events the broker would not take."""
        return [(int(n), str(i), str(e)) for n, i, e in db.execute("SELECT n, id, error FROM outbox WHERE state = 2 ORDER BY n")]

    def begin_again(self, db: sqlite3.Connection, *, everything: bool) -> str:
        """A new outbox identity, numbered from 1, holding the unconfirmed events, or all that are still kept.

        For a broker that lost its journal, or when this outbox is an old copy of itself.
        """
        kept = "state <> 2" if everything else "state = 0"
        rows = db.execute(f"SELECT id, envelope, crc, made_ns FROM outbox WHERE {kept} ORDER BY n").fetchall()  # noqa: S608  (two constants)
        db.execute("DELETE FROM outbox WHERE state <> 2")
        # Refused rows are kept to be looked at, out of the way of the new numbers, and of those of earlier beginnings.
        lowest = int(db.execute("SELECT coalesce(min(n), 0) FROM outbox").fetchone()[0])
        db.execute("UPDATE outbox SET n = ? - n WHERE n > 0", (min(lowest, 0),))
        db.executemany(
            "INSERT OR IGNORE INTO outbox (n, id, envelope, crc, made_ns) VALUES (?, ?, ?, ?, ?)",
            [(n, *row) for n, row in enumerate(rows, start=1)],
        )
        self.identity = str(uuid.uuid4())
        db.execute("UPDATE meta SET value = ? WHERE key = 'outbox'", (self.identity,))
        return self.identity

    def forget_old(self, db: sqlite3.Connection, now_ns: int) -> None:
        """Drop confirmed events older than a week, but never the last row: the numbers go on from it."""
        db.execute(
            "DELETE FROM outbox WHERE state = 1 AND made_ns < ? AND n < (SELECT max(n) FROM outbox)", (now_ns - round(KEPT_DAYS * _DAY_NS),)
        )
