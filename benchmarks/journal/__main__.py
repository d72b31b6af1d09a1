"""Measures the claim of this folder."""

from __future__ import annotations

import sqlite3
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import msgspec

import benchmarks.journal
from benchmarks.report import Claim, claim, main
from nightbell.bus import wire
from nightbell.bus.journal import Journal
from nightbell.bus.segment import EVENTS, Record
from nightbell.contracts.ids import uuid7

SIZES = {1: 0.4, 32: 1.2, 256: 1.0}
"""Events committed together -> the ratio that must be reached. An event alone is allowed to be slower: our file grows with each,
which the disk has to note, while SQLite overwrites its log in place."""
PAYLOAD = b'{"night":"2027-04-12","text":"' + b"x" * 700 + b'"}'


def batch_of(n: int, first: int) -> list[tuple[bytes, str]]:
    """`n` envelopes as they come from an outbox, each with its id."""
    made = []
    for number in range(first, first + n):
        identity = str(uuid7(1_800_000_000_000_000_000 + number))
        envelope = wire.Envelope(
            specversion="1.0",
            id=identity,
            source="telescope@demo",
            type="observation.started",
            subject="S270412a-NGC4993",
            time="2027-04-12T23:38:48.123Z",
            data=msgspec.Raw(PAYLOAD),
        )
        made.append((msgspec.json.encode(envelope), identity))
    return made


class Ours:
    """The journal, as broker.py's commit thread uses it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.journal, self.n = folder, Journal(folder), 0

    def commit(self, batch: list[tuple[bytes, str]]) -> None:
        head = {"session": "benchmark", "t": ["observation.started"], "at": 0}
        record = Record(EVENTS, self.n + 1, len(batch), self.n + 1, head, wire.encode_batch([packed for packed, _ in batch]))
        places = self.journal.write([record])
        self.journal.sync()
        self.journal.publish(record, places[0])
        self.n += len(batch)

    def count_again(self) -> int:
        self.journal.close()
        with closing(Journal(self.folder)) as journal:
            return journal.head


class Peer:
    """SQLite with the same promise: nothing that was committed is lost to a power cut."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.path = folder / "events.db"
        self.db = sqlite3.connect(self.path, isolation_level=None)
        self.db.execute("PRAGMA journal_mode=WAL")
        self.db.execute("PRAGMA synchronous=FULL")
        self.db.execute("CREATE TABLE events (seq INTEGER PRIMARY KEY, id TEXT NOT NULL, type TEXT NOT NULL, envelope BLOB NOT NULL)")

    def commit(self, batch: list[tuple[bytes, str]]) -> None:
        self.db.execute("BEGIN IMMEDIATE")
        rows = [(identity, "observation.started", packed) for packed, identity in batch]
        self.db.executemany("INSERT INTO events (id, type, envelope) VALUES (?, ?, ?)", rows)
        self.db.execute("COMMIT")

    def count_again(self) -> int:
        self.db.close()
        with closing(sqlite3.connect(self.path)) as db:
            return int(db.execute("SELECT count(*) FROM events").fetchone()[0])


def measure(quick: bool) -> list[Claim]:  # noqa: FBT001
    """Microseconds per event, for each size of batch."""
    n_rounds, n_events = (9, 512) if quick else (31, 4096)
    claims = []
    for size, goal in SIZES.items():
        n_commits = max(8, min(n_events // size, 64 if quick else 256))
        with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
            sides = (Ours(Path(folder) / "journal"), Peer(Path(folder) / "sqlite"))
            took_us: tuple[list[float], list[float]] = ([], [])
            n_made = 0
            for number in range(n_rounds):
                batches = [batch_of(size, n_made + i * size) for i in range(n_commits)]
                n_made += size * n_commits
                for which in (0, 1) if number % 2 else (1, 0):
                    began = time.perf_counter()
                    for batch in batches:
                        sides[which].commit(batch)
                    took_us[which].append(1e6 * (time.perf_counter() - began) / (size * n_commits))
            for side in sides:
                if (found := side.count_again()) != n_made:
                    raise SystemExit(f"{type(side).__name__} holds {found} of {n_made} events")
            claims.append(claim(f"durable, {size} event{'s' if size > 1 else ''} at once", *took_us, unit="us/event", goal=goal))
    return claims


if __name__ == "__main__":
    sys.exit(main(benchmarks.journal.__doc__ or "", measure))
