"""A frame's way to disk: never lost once intended, never overwritten, announced exactly once.

    intend   row `intended`: everything needed to finish it, before a byte is written
    write    .tmp-FRAMEID in the night's folder, fsync
    verify   the file is read back; its CHECKSUM and DATASUM must hold
    place    link under its name without overwriting (Windows: rename, which refuses), fsync of the folder
    store    row `stored` and the event frames.stored in one transaction

A crash between any two steps is finished by `resume` at the next start; what cannot be finished is quarantined and said.
The rows live behind `Ledger`; module.py keeps them in the module's own database.
"""

from __future__ import annotations

import errno
import hashlib
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec

from nightbell.contracts.errors import Failed
from nightbell.contracts.events import Event, FramesStored
from nightbell.contracts.records import FrameRef
from nightbell.contracts.states import Severity
from nightbell.telescope.header import FrameData, verify_fits, write_fits

__all__ = ["SCHEMA", "Custody", "Intent", "Ledger", "Outcome", "Storage", "Transaction"]

SCHEMA = """
CREATE TABLE IF NOT EXISTS frames (
    frame_id TEXT PRIMARY KEY,
    night TEXT NOT NULL,
    batch_id TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('intended', 'verified', 'stored', 'quarantined')),
    frame_type TEXT NOT NULL,
    filter TEXT,
    exposure_s REAL NOT NULL,
    target_id TEXT,
    frame BLOB NOT NULL,
    reason TEXT NOT NULL DEFAULT ''
);
CREATE INDEX IF NOT EXISTS frames_by_state ON frames (state);
CREATE INDEX IF NOT EXISTS frames_by_night ON frames (night);
"""

QUARANTINE = "quarantine"


@dataclass(frozen=True, kw_only=True)
class Intent:
    """A frame about to be written: what `resume` needs when the process is gone."""

    frame: FrameRef
    """`sha256` is empty until it is written."""
    night: str
    batch_id: str
    flaw: str = ""
    """Why it does not count towards what was asked for: kept in the row's `reason`."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What `resume` did with one row."""

    frame_id: str
    stored: FrameRef | None
    reason: str


class Transaction(Protocol):
    """The part of a bus turn that the ledger needs; commits on leaving, rolls back on an exception."""

    def execute(self, sql: str, params: tuple[Any, ...] = ()) -> Any: ...
    def query(self, sql: str, params: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]: ...
    def publish(self, event: Event, subject: str) -> Any: ...
    def raise_alarm(self, key: str, severity: Severity, text: str, **evidence: Any) -> Any: ...


class Ledger:
    """The journal of frames in SQLite. Each call is one durable transaction, events included."""

    def __init__(self, transaction: Callable[[], AbstractContextManager[Transaction]]) -> None:
        self._transaction = transaction

    def intend(self, intent: Intent) -> None:
        frame = intent.frame
        with self._transaction() as turn:
            turn.execute(
                "INSERT INTO frames (frame_id, night, batch_id, state, frame_type, filter, exposure_s, target_id, frame, reason)"
                " VALUES (?, ?, ?, 'intended', ?, ?, ?, ?, ?, ?)",
                (
                    frame.frame_id,
                    intent.night,
                    intent.batch_id,
                    frame.frame_type.value,
                    frame.filter,
                    frame.exposure_s,
                    frame.target_id,
                    msgspec.json.encode(frame),
                    intent.flaw,
                ),
            )

    def verified(self, frame: FrameRef) -> None:
        """The temporary file is complete: its hash and size are known from here on."""
        with self._transaction() as turn:
            turn.execute(
                "UPDATE frames SET state = 'verified', frame = ? WHERE frame_id = ? AND state IN ('intended', 'verified')",
                (msgspec.json.encode(frame), frame.frame_id),
            )

    def store(self, night: str, batch_id: str, frames: tuple[FrameRef, ...], *, also: tuple[Event, str] | None = None) -> None:
        """Rows `stored` and the event frames.stored, together; `also` is one more event that this makes true.

        Frames that are stored already are left out; without any left nothing is said.
        """
        with self._transaction() as turn:
            stored = {str(row[0]) for row in turn.query("SELECT frame_id FROM frames WHERE batch_id = ? AND state = 'stored'", (batch_id,))}
            fresh = tuple(frame for frame in frames if frame.frame_id not in stored)
            for frame in fresh:
                turn.execute(
                    "UPDATE frames SET state = 'stored', frame = ? WHERE frame_id = ?", (msgspec.json.encode(frame), frame.frame_id)
                )
            if fresh:
                turn.publish(FramesStored(night=night, batch_id=batch_id, frames=fresh), f"{night}/{batch_id}")
                if also is not None:
                    turn.publish(*also)

    def quarantine(self, frame: FrameRef, reason: str) -> None:
        """The frame is given up, and a human is told."""
        with self._transaction() as turn:
            turn.execute("UPDATE frames SET state = 'quarantined', reason = ? WHERE frame_id = ?", (reason, frame.frame_id))
            turn.raise_alarm(
                f"frame.{frame.frame_id}", Severity.WARNING, f"A frame was lost or quarantined: {reason}", path=frame.path, reason=reason
            )

    def unfinished(self) -> tuple[Intent, ...]:
        with self._transaction() as turn:
            rows = turn.query("SELECT frame, night, batch_id FROM frames WHERE state IN ('intended', 'verified') ORDER BY frame_id")
        return tuple(Intent(frame=msgspec.json.decode(row[0], type=FrameRef), night=str(row[1]), batch_id=str(row[2])) for row in rows)

    def next_number(self, night: str) -> int:
        """1 for the first frame of `night`; grows by one with each frame intended."""
        with self._transaction() as turn:
            return int(turn.query("SELECT count(*) FROM frames WHERE night = ?", (night,))[0][0]) + 1


class Storage:
    """The file operations of custody, one method each, so that a test can fail any of them."""

    def write(self, path: Path, content: bytes) -> None:
        """Write and fsync a new file."""
        with open(path, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    def place(self, temporary: Path, final: Path) -> None:
        """Give `temporary` its final name. Raises FileExistsError when the name is taken; never replaces."""
        if os.name == "nt":
            # On Windows os.rename refuses an existing name. A virus scanner may hold the new file for a moment.
            for attempt in range(6):
                try:
                    os.rename(temporary, final)  # noqa: PTH104 - os.replace and Path.replace overwrite
                except PermissionError:
                    if attempt == 5:
                        raise
                    time.sleep(0.2)
                else:
                    return
            return
        os.link(temporary, final)
        temporary.unlink()

    def sync_folder(self, folder: Path) -> None:
        """Make names in `folder` durable. Windows has no such call: there a rename is journalled by NTFS."""
        if os.name == "nt":
            return
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def make_folder(self, folder: Path) -> None:
        """Make the night's folder, durably."""
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            self.sync_folder(folder.parent)


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Custody:
    """Takes frames into custody below one data folder. Used from one writer thread at a time."""

    def __init__(self, folder: Path, ledger: Ledger, *, host: str = "", storage: Storage | None = None) -> None:
        self.folder = folder
        self.ledger = ledger
        self.host = host
        self.storage = storage or Storage()

    def take(self, data: FrameData, night: str, batch_id: str) -> FrameRef:
        """Write one frame up to and including its placing; `announce` makes the batch known. Returns the complete ref."""
        folder = self.folder / night
        reference = data.reference(str(folder / data.file_name), host=self.host)
        intent = Intent(frame=reference, night=night, batch_id=batch_id, flaw=data.flaw)
        self.ledger.intend(intent)
        self.storage.make_folder(folder)
        temporary = folder / f".tmp-{intent.frame.frame_id}"
        self.storage.write(temporary, write_fits(data))
        try:
            frame = self._verify(intent.frame, temporary)
        except Failed as error:
            self._quarantine(temporary, intent.frame)
            self.ledger.quarantine(intent.frame, error.what)
            raise
        return self._place(frame, temporary)

    def announce(self, night: str, batch_id: str, frames: tuple[FrameRef, ...], *, also: tuple[Event, str] | None = None) -> None:
        """Store the rows and publish the events for frames that `take` has placed."""
        if frames:
            self.ledger.store(night, batch_id, frames, also=also)

    def _verify(self, frame: FrameRef, temporary: Path) -> FrameRef:
        problem = verify_fits(temporary)
        if problem:
            raise Failed(f"read back wrongly: {problem}", where=str(temporary), remedy="Check the disk; the frame is quarantined")
        ref = _with(frame, sha256=_digest(temporary), size_bytes=temporary.stat().st_size)
        self.ledger.verified(ref)
        return ref

    def _place(self, frame: FrameRef, temporary: Path) -> FrameRef:
        final = Path(frame.path)
        self.storage.make_folder(final.parent)
        if not temporary.exists():
            raise Failed("the temporary file is gone", where=str(temporary), remedy="Look for who deleted it")
        for number in range(100):
            name = final if number == 0 else final.with_name(f"{final.stem}+{number}{final.suffix}")
            try:
                self.storage.place(temporary, name)
            except FileExistsError:
                continue
            except OSError as error:
                if error.errno == errno.EEXIST:
                    continue
                raise
            self.storage.sync_folder(final.parent)
            return _with(frame, path=str(name))
        raise Failed("a hundred files of this name exist", where=str(final), remedy="Look at the clock and the data folder")

    def resume(self) -> tuple[Outcome, ...]:
        """Finish or quarantine every frame that was intended and not stored. Called once at the start."""
        outcomes: list[Outcome] = []
        finished: dict[tuple[str, str], list[FrameRef]] = {}
        for intent in self.ledger.unfinished():
            frame, reason = self._resume_one(intent)
            if frame is not None:
                finished.setdefault((intent.night, intent.batch_id), []).append(frame)
            else:
                self.ledger.quarantine(intent.frame, reason)
            outcomes.append(Outcome(frame_id=intent.frame.frame_id, stored=frame, reason=reason))
        for (night, batch_id), frames in finished.items():
            self.ledger.store(night, batch_id, tuple(frames))
        return tuple(outcomes)

    def _resume_one(self, intent: Intent) -> tuple[FrameRef | None, str]:
        frame = intent.frame
        final = Path(frame.path)
        temporary = final.parent / f".tmp-{frame.frame_id}"
        placed = self._find_placed(final, frame)
        if placed is not None:
            # Killed between link and unlink: both names are the same file.
            with suppress(FileNotFoundError):
                temporary.unlink()
            self.storage.sync_folder(final.parent)
            return _with(placed, size_bytes=Path(placed.path).stat().st_size), "was placed"
        if not temporary.exists():
            return None, "the process ended before the file was written; its pixels are lost"
        problem = verify_fits(temporary)
        if problem:
            self._quarantine(temporary, frame)
            return None, f"half written: {problem}"
        verified = self._verify(frame, temporary)
        return self._place(verified, temporary), "was written"

    def _find_placed(self, final: Path, frame: FrameRef) -> FrameRef | None:
        for path in (final, *sorted(final.parent.glob(f"{final.stem}+*{final.suffix}"))):
            # The frame id is in the name; a name taken by somebody else holds other bytes.
            if path.is_file() and frame.sha256 and _digest(path) == frame.sha256:
                return _with(frame, path=str(path))
        return None

    def _quarantine(self, temporary: Path, frame: FrameRef) -> None:
        folder = self.folder / QUARANTINE
        self.storage.make_folder(folder)
        self.storage.place(temporary, folder / f"{frame.frame_id}-{Path(frame.path).name}.part")
        self.storage.sync_folder(folder)


def _with(frame: FrameRef, **changes: object) -> FrameRef:
    return msgspec.structs.replace(frame, **changes)
