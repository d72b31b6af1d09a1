"""Killed at each step and started again: exactly one file and one event, or a quarantine that is said."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from nightbell.contracts.errors import Failed
from nightbell.contracts.records import FrameRef
from nightbell.telescope.custody import Custody, Intent, Ledger, Storage
from nightbell.telescope.header import verify_fits

from .conftest import SqlTurn, make_frame

Begin = Callable[[], AbstractContextManager[SqlTurn]]
NIGHT = "2027-04-12"


class Killed(BaseException):
    """The process ends here."""


class Fuse:
    """Blows at the n-th step, before or after its effect."""

    def __init__(self, at: int, *, after: bool) -> None:
        self.left, self.after, self.steps = at, after, []

    def step(self, name: str, effect: Callable[[], Any]) -> Any:
        self.steps.append(name)
        self.left -= 1
        if self.left == 0 and not self.after:
            raise Killed(name)
        answer = effect()
        if self.left == 0:
            raise Killed(name)
        return answer


class FusedStorage(Storage):
    def __init__(self, fuse: Fuse, *, half: bool = False) -> None:
        self.fuse, self.half = fuse, half

    def write(self, path: Path, content: bytes) -> None:
        self.fuse.step("write", lambda: super(FusedStorage, self).write(path, content[:4000] if self.half else content))

    def place(self, temporary: Path, final: Path) -> None:
        self.fuse.step("place", lambda: super(FusedStorage, self).place(temporary, final))

    def sync_folder(self, folder: Path) -> None:
        self.fuse.step("sync", lambda: super(FusedStorage, self).sync_folder(folder))


class FusedLedger(Ledger):
    def __init__(self, begin: Begin, fuse: Fuse) -> None:
        super().__init__(begin)
        self.fuse = fuse

    def intend(self, intent: Intent) -> None:
        self.fuse.step("intend", lambda: super(FusedLedger, self).intend(intent))

    def verified(self, frame: FrameRef) -> None:
        self.fuse.step("verified", lambda: super(FusedLedger, self).verified(frame))

    def store(self, night: str, batch_id: str, frames: tuple[FrameRef, ...], *, also: Any = None) -> None:
        self.fuse.step("store", lambda: super(FusedLedger, self).store(night, batch_id, frames, also=also))


def events(begin: Begin) -> list[str]:
    with begin() as turn:
        return [row[0] for row in turn.query("SELECT type FROM outbox")]


def state_of(begin: Begin, frame_id: str) -> str | None:
    with begin() as turn:
        rows = turn.query("SELECT state FROM frames WHERE frame_id = ?", (frame_id,))
    return rows[0][0] if rows else None


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


STEPS = ("intend", "sync", "write", "verified", "place", "sync", "store")


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("at", range(1, len(STEPS) + 1), ids=[f"{i + 1} {name}" for i, name in enumerate(STEPS)])
def test_killed_at_any_step_a_frame_ends_in_one_file_and_one_event(tmp_path: Path, transaction: Begin, at: int, *, after: bool) -> None:
    folder, fuse, frame = tmp_path / "data", Fuse(at, after=after), make_frame()
    (folder).mkdir()
    custody = Custody(folder, FusedLedger(transaction, fuse), storage=FusedStorage(fuse))
    with pytest.raises(Killed):
        custody.announce(NIGHT, "b1", (custody.take(frame, NIGHT, "b1"),))
    assert fuse.steps == list(STEPS[:at])

    again = Custody(folder, Ledger(transaction))
    again.resume()
    again.resume()  # a second start finds nothing to do

    written = "write" in fuse.steps and (after or fuse.steps[-1] != "write")
    intended = state_of(transaction, frame.frame_id)
    if written:
        assert intended == "stored"
        assert [verify_fits(path) for path in files(folder)] == [""]
        assert events(transaction) == ["frames.stored"]
    else:
        assert files(folder) == []
        assert events(transaction) == (["alarm.raised"] if intended else [])


def test_half_a_file_is_quarantined_and_said(tmp_path: Path, transaction: Begin) -> None:
    fuse, frame = Fuse(3, after=True), make_frame()
    custody = Custody(tmp_path / "data", FusedLedger(transaction, fuse), storage=FusedStorage(fuse, half=True))
    with pytest.raises(Killed):
        custody.take(frame, NIGHT, "b1")
    outcomes = Custody(tmp_path / "data", Ledger(transaction)).resume()
    assert outcomes[0].stored is None
    assert "half written" in outcomes[0].reason
    assert [path.parent.name for path in files(tmp_path / "data")] == ["quarantine"]
    assert events(transaction) == ["alarm.raised"]


def test_an_existing_name_is_never_overwritten(tmp_path: Path, transaction: Begin) -> None:
    frame, folder = make_frame(), tmp_path / "data"
    taken = folder / NIGHT / frame.file_name
    taken.parent.mkdir(parents=True)
    taken.write_bytes(b"somebody else's")
    custody = Custody(folder, Ledger(transaction))
    ref = custody.take(frame, NIGHT, "b1")
    assert taken.read_bytes() == b"somebody else's"
    assert Path(ref.path) != taken
    assert verify_fits(Path(ref.path)) == ""


def test_a_batch_announced_twice_is_one_event(tmp_path: Path, transaction: Begin) -> None:
    custody = Custody(tmp_path / "data", Ledger(transaction))
    frames = tuple(custody.take(make_frame(), NIGHT, "b1") for _ in range(2))
    custody.announce(NIGHT, "b1", frames)
    custody.announce(NIGHT, "b1", frames)
    assert events(transaction) == ["frames.stored"]


def test_a_reference_names_the_file_its_hash_and_its_size(tmp_path: Path, transaction: Begin) -> None:
    import hashlib

    ref = Custody(tmp_path / "data", Ledger(transaction), host="here").take(make_frame(), NIGHT, "b1")
    content = Path(ref.path).read_bytes()
    assert (ref.sha256, ref.size_bytes, ref.host) == (hashlib.sha256(content).hexdigest(), len(content), "here")


def test_a_frame_read_back_wrongly_is_quarantined_at_once(tmp_path: Path, transaction: Begin) -> None:
    class LosingStorage(Storage):
        def write(self, path: Path, content: bytes) -> None:
            super().write(path, content[:2880] + bytes(len(content) - 2880))

    custody = Custody(tmp_path / "data", Ledger(transaction), storage=LosingStorage())
    frame = make_frame()
    with pytest.raises(Failed, match="read back wrongly"):
        custody.take(frame, NIGHT, "b1")
    assert state_of(transaction, frame.frame_id) == "quarantined"
    assert [path.parent.name for path in files(tmp_path / "data")] == ["quarantine"]
    assert events(transaction) == ["alarm.raised"]
    assert Custody(tmp_path / "data", Ledger(transaction)).resume() == ()
