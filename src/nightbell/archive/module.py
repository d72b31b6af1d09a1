"""The archive on the bus: pulls what was stored, and says so when the copies are verified."""

from __future__ import annotations

import socket
import threading
from typing import Any

import msgspec

from nightbell.archive.settings import ArchiveSettings
from nightbell.archive.store import FileSource, Store
from nightbell.bus.module import Module, Turn, on, run_module
from nightbell.contracts.errors import NightbellError
from nightbell.contracts.events import FramesArchived, FramesStored
from nightbell.contracts.records import FrameRef
from nightbell.contracts.states import Severity
from nightbell.settings import Installation

__all__ = ["Archive", "ArchiveState", "run"]

NOTICE_AFTER_TRIES = 3


class ArchiveState(msgspec.Struct):
    """What has been copied."""

    n_frames: int = 0
    n_bytes: int = 0


class Archive(Module[ArchiveState]):
    """Keeps a second copy of every frame."""

    name = "archive"
    state_type = ArchiveState
    settings_type = ArchiveSettings
    settings: ArchiveSettings
    schema = """
    CREATE TABLE IF NOT EXISTS batch (
      event_id TEXT PRIMARY KEY, correlationid TEXT, night TEXT NOT NULL, batch_id TEXT NOT NULL, frames BLOB NOT NULL
    ) WITHOUT ROWID;
    """

    def start(self) -> None:
        settings = self.settings
        self._store = Store(self.home / settings.store, reserve_bytes=round(settings.reserve_mib * (1 << 20)))
        self._wake = threading.Event()
        self._tries: dict[str, int] = {}
        self._trouble = ""
        self._told = {"waiting": 0, "n_frames": 0, "n_bytes": 0}
        self._thread = threading.Thread(target=self._work_for_ever, name="pull", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._wake.set()
        self._thread.join(timeout=10.0)

    def report(self) -> dict[str, Any]:
        """For `status`."""
        return {**self._told, "trouble": self._trouble, "store": str(self._store.folder)}

    @on("frames.stored")
    def take_note(self, event: FramesStored, turn: Turn[ArchiveState]) -> None:
        """An order of its own, so that a slow disk holds nobody up."""
        envelope = turn.envelope
        if envelope is not None:
            turn.execute(
                "INSERT OR IGNORE INTO batch (event_id, correlationid, night, batch_id, frames) VALUES (?, ?, ?, ?, ?)",
                (envelope.id, envelope.correlationid, event.night, event.batch_id, msgspec.json.encode(event.frames)),
            )
        self._wake.set()

    def _work_for_ever(self) -> None:
        while not self.stopping.is_set():
            try:
                self._work_through()
            except Exception as error:  # a full disk under our own tables must not end the copying for good
                self._trouble = str(error)
                self.log.exception("archive.failed")
            self._wake.wait(self.settings.retry_s)
            self._wake.clear()

    def _work_through(self) -> None:
        """Every order once, the oldest first; one that fails holds up no other."""
        with self.turn() as turn:
            orders = turn.query("SELECT event_id, correlationid, night, batch_id, frames FROM batch ORDER BY event_id")
            self._told = {"waiting": len(orders), "n_frames": turn.state.n_frames, "n_bytes": turn.state.n_bytes}
        for order in orders:
            if self.stopping.is_set():
                return
            self._pull(*order)

    def _pull(self, event_id: str, correlationid: str | None, night: str, batch_id: str, packed: bytes) -> None:
        frames = msgspec.json.decode(packed, type=tuple[FrameRef, ...])
        try:
            host = socket.gethostname()
            copies = tuple(
                msgspec.structs.replace(frame, path=str(self._store.pull(night, frame, FileSource())), host=host) for frame in frames
            )
        except (NightbellError, OSError) as error:
            self._trouble = str(error)
            self._tries[event_id] = self._tries.get(event_id, 0) + 1
            self.log.warning("archive.failed", batch=batch_id, error=str(error), tries=self._tries[event_id])
            if self._tries[event_id] == NOTICE_AFTER_TRIES:
                with self.turn(correlationid=correlationid, causationid=event_id) as turn:
                    turn.raise_alarm("archive.stuck", Severity.WARNING, f"No second copy of batch {batch_id}: {error}")
            return
        self._trouble = ""
        self._tries.pop(event_id, None)
        with self.turn(correlationid=correlationid, causationid=event_id) as turn:
            turn.execute("DELETE FROM batch WHERE event_id = ?", (event_id,))
            turn.publish(FramesArchived(night=night, batch_id=batch_id, host=host, frames=copies), f"{night}/{batch_id}")
            turn.state.n_frames += len(copies)
            turn.state.n_bytes += sum(frame.size_bytes for frame in copies)
            self._told = {"waiting": max(0, self._told["waiting"] - 1), "n_frames": turn.state.n_frames, "n_bytes": turn.state.n_bytes}


def run(installation: Installation, name: str) -> int:
    """The process: `nightbell run archive`."""
    return run_module(Archive, installation, name=name)
