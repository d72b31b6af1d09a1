"""The journal under power cuts, flipped bytes, failing and full disks: what is read is equal to what was written, or named."""

from __future__ import annotations

import errno
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from nightbell.bus import wire
from nightbell.bus.disk import Disk
from nightbell.bus.journal import Journal, verify
from nightbell.bus.segment import CURSORS, EPOCH, EVENTS, HEADER_BYTES, Record, next_epoch_seq

SECTOR = 512


def envelope(i: int, *, pad: int = 0) -> bytes:
    return wire.encode_envelope(
        wire.Envelope(
            specversion="1.0",
            id=f"event-{i}",
            source="telescope@demo",
            type="frames.stored",
            subject="n",
            data=msgspec.Raw(msgspec.json.encode({"i": i, "pad": "x" * pad})),
        )
    )


def batch(first: int, count: int = 1, *, n0: int | None = None, pad: int = 0) -> Record:
    """Events of one outbox whose row n is event n."""
    n0 = first if n0 is None else n0
    head = {"o": "outbox", "n": n0 + count - 1, "p": n0 - 1, "id": f"event-{n0 + count - 1}", "at": first, "t": ["frames.stored"]}
    return Record(EVENTS, first, count, n0, head, wire.encode_batch([envelope(n0 + i, pad=pad) for i in range(count)]))


def snapshot(journal: Journal) -> dict[str, Any]:
    """What a router would write down."""
    return {"epoch": journal.epoch, "next": journal.head + 1, "upto": journal.head}


def append(journal: Journal, *records: Record) -> None:
    places = journal.write(records)
    journal.sync()
    for record, place in zip(records, places, strict=True):
        journal.publish(record, place)


def filled(folder: Path, n_events: int, *, segment_bytes: int = 1 << 20, disk: Disk | None = None) -> Journal:
    journal = Journal(folder, segment_bytes=segment_bytes, disk=disk)
    for seq in range(1, n_events + 1):
        append(journal, batch(seq))
        if journal.wants_to_roll:
            journal.roll(snapshot(journal), at_ns=seq)
    return journal


def stored(journal: Journal) -> dict[int, bytes]:
    """Every event that is read, by seq."""
    found: dict[int, bytes] = {}
    after = 0
    while True:
        events, looked = journal.read(after, ("**",), max_events=1000, max_bytes=1 << 30)
        found |= {seq: packed for seq, _, packed in events}
        if looked <= after:
            return found
        after = looked


class QuickDisk(Disk):
    """Syncs nothing: for tests that damage files thousands of times and cut no power."""

    def sync(self, handle: int) -> None:
        """Nothing."""

    def sync_folder(self, folder: Path) -> None:
        """Nothing."""


def reopened(folder: Path) -> tuple[dict[int, bytes], Journal]:
    journal = Journal(folder, disk=QuickDisk())
    try:
        return stored(journal), journal
    finally:
        journal.close()


@pytest.fixture
def opened() -> Iterator[Callable[..., Journal]]:
    """Makes journals that are closed at the end."""
    journals: list[Journal] = []

    def make(*args: Any, **options: Any) -> Journal:
        journals.append(filled(*args, **options) if len(args) > 1 else Journal(*args, **options))
        return journals[-1]

    yield make
    for journal in journals:
        journal.close()


WRITTEN = {seq: envelope(seq) for seq in range(1, 13)}


# ---- as it should be ------------------------------------------------------------------------------------------------


def test_events_are_read_back_across_segments_byte_by_byte(tmp_path: Path) -> None:
    filled(tmp_path / "journal", 12, segment_bytes=900).close()
    found, journal = reopened(tmp_path / "journal")
    assert found == WRITTEN
    assert len(list((tmp_path / "journal").glob("*.seg"))) > 3
    assert journal.damages == []
    assert verify(tmp_path / "journal")["damages"] == []


def test_a_start_takes_the_last_snapshot_and_only_the_records_behind_it(tmp_path: Path) -> None:
    journal = filled(tmp_path / "journal", 5)
    journal.roll(snapshot(journal), at_ns=5)
    append(journal, batch(6), Record(CURSORS, head={"subs": {}}))
    journal.close()
    again = Journal(tmp_path / "journal")
    again.close()
    assert again.snapshot is not None
    assert again.snapshot["upto"] == 5
    assert [record.kind for record in again.tail] == [EVENTS, CURSORS]
    assert (again.head, again.epoch) == (6, 1)


def test_a_segment_of_cursors_alone_can_be_sealed(tmp_path: Path) -> None:
    journal = filled(tmp_path / "journal", 3)
    for _ in range(3):
        journal.write([Record(CURSORS, head={"subs": {}})])
        journal.roll(snapshot(journal), at_ns=1)
    append(journal, batch(4))
    journal.close()
    found, again = reopened(tmp_path / "journal")
    assert found == {seq: envelope(seq) for seq in range(1, 5)}
    assert again.damages == []


def test_reading_keeps_to_patterns_limits_and_reader(tmp_path: Path, opened: Callable[..., Journal]) -> None:
    journal = opened(tmp_path / "journal", 6)
    only = Record(EVENTS, 7, 1, 0, {"at": 7, "t": ["frames.stored"], "only": "archive/bus"}, wire.encode_batch([envelope(2)]))
    append(journal, only)
    assert journal.read(0, ("alert.*",), max_events=10, max_bytes=1 << 20) == ([], 7)
    assert [seq for seq, _, _ in journal.read(2, ("frames.*",), max_events=2, max_bytes=1 << 20)[0]] == [3, 4]
    assert [seq for seq, _, _ in journal.read(0, ("**",), max_events=10, max_bytes=1)[0]] == [1]
    assert [seq for seq, _, _ in journal.read(5, ("**",), max_events=10, max_bytes=1 << 20)[0]] == [6]
    assert [seq for seq, _, _ in journal.read(5, ("**",), max_events=10, max_bytes=1 << 20, reader="archive/bus")[0]] == [6, 7]
    assert journal.seq_at(3) == 3
    assert journal.seq_at(99) == 8
    assert journal.event(4) == envelope(4)
    assert journal.event(99) is None


def test_reading_looks_at_so_much_at_a_time_that_nobody_else_waits_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nightbell.bus.journal.MOST_LOOKED_AT", 4)
    monkeypatch.setattr("nightbell.bus.journal.MOST_INDEXED_BYTES", 500)
    filled(tmp_path / "journal", 12, segment_bytes=900).close()
    journal = Journal(tmp_path / "journal")
    at, n_readings = 0, 0
    while at < journal.head:
        before = at
        found, at = journal.read(before, ("alert.*",), max_events=10, max_bytes=1 << 20)
        n_readings += 1
        assert found == []
        assert at > before
    assert n_readings >= 3
    assert journal.seq_at(11) == 11
    journal.close()


def test_retention_deletes_whole_sealed_segments_and_a_start_knows_that_they_were_deleted(tmp_path: Path) -> None:
    journal = filled(tmp_path / "journal", 12, segment_bytes=900)
    n_segments = len(list((tmp_path / "journal").glob("*.seg")))
    gone = journal.retire(before_ns=8, upto_seq=100)
    assert gone
    assert journal.retire(before_ns=10**18, upto_seq=0) == []
    first = journal.first_seq
    journal.close()
    found, again = reopened(tmp_path / "journal")
    assert found == {seq: packed for seq, packed in WRITTEN.items() if seq >= first}
    assert again.damages == []
    assert verify(tmp_path / "journal")["damages"] == []
    assert len(list((tmp_path / "journal").glob("*.seg"))) == n_segments - len(gone)


def test_a_first_segment_that_nobody_retired_is_missed(tmp_path: Path) -> None:
    filled(tmp_path / "journal", 12, segment_bytes=900).close()
    min((tmp_path / "journal").glob("*.seg")).unlink()
    _, journal = reopened(tmp_path / "journal")
    assert [damage.what for damage in journal.damages] == ["the first segments are missing"]


def test_an_older_copy_of_the_journal_is_recognised_and_its_numbers_are_not_given_again(tmp_path: Path) -> None:
    journal = filled(tmp_path / "journal", 5)
    journal.note_high_water()
    shutil.copytree(tmp_path / "journal", tmp_path / "old")
    append(journal, *(batch(seq) for seq in range(6, 10)))
    journal.note_high_water()
    journal.close()
    shutil.rmtree(tmp_path / "journal")
    (tmp_path / "old").rename(tmp_path / "journal")
    _, again = reopened(tmp_path / "journal")
    assert [(damage.first_seq, damage.last_seq) for damage in again.damages] == [(6, 9)]
    assert (again.epoch, again.head) == (2, 999_999)
    assert reopened(tmp_path / "journal")[1].damages == []


def test_a_journal_whose_segments_are_all_gone_does_not_begin_at_one(tmp_path: Path) -> None:
    journal = filled(tmp_path / "journal", 5)
    journal.note_high_water()
    journal.close()
    for path in (tmp_path / "journal").glob("*.seg"):
        path.unlink()
    _, again = reopened(tmp_path / "journal")
    assert again.head == 999_999
    assert "no segment is left" in str(again.damages[0])


@pytest.mark.parametrize(("highest", "first"), [(0, 1_000_000), (1, 1_000_000), (999_999, 1_000_000), (1_000_000, 2_000_000)])
def test_a_new_epoch_begins_beyond_every_number_that_was_given(highest: int, first: int) -> None:
    assert next_epoch_seq(highest) == first


# ---- every byte -----------------------------------------------------------------------------------------------------


def check_equal_or_named(folder: Path, *, what: str) -> None:
    """A start after damage: never a wrong byte, never a silent loss, no number given twice; and the next start is calm."""
    found, journal = reopened(folder)
    named: set[int] = set()
    for damage in journal.damages:
        named |= set(range(damage.first_seq, 13 if damage.last_seq is None else damage.last_seq + 1))
    for seq, packed in found.items():
        assert WRITTEN[seq] == packed, f"{what}: event {seq} was changed"
    assert set(WRITTEN) - set(found) <= named, f"{what}: events are missing without a word"
    if set(WRITTEN) - set(found):
        assert journal.damages
    _, again = reopened(folder)
    assert (again.epoch, again.head) == (journal.epoch, journal.head), what


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve events in several segments and an open one, untouched."""
    folder = tmp_path_factory.mktemp("whole")
    journal = filled(folder / "journal", 12, segment_bytes=1500)
    journal.note_high_water()
    journal.close()
    return folder / "journal"


def copied(whole: Path, into: Path) -> Path:
    shutil.rmtree(into, ignore_errors=True)
    shutil.copytree(whole.parent, into)
    return into / "journal"


def test_a_power_cut_at_any_byte_of_the_open_segment_loses_only_what_was_behind_it(whole: Path, tmp_path: Path) -> None:
    tail = max(whole.glob("*.seg"))
    size = tail.stat().st_size
    for cut in range(size + 1):
        folder = copied(whole, tmp_path / "cut")
        with (folder / tail.name).open("r+b") as file:
            file.truncate(cut)
        check_equal_or_named(folder, what=f"cut at byte {cut}")


def test_a_flipped_bit_in_any_byte_of_the_open_segment_is_named(whole: Path, tmp_path: Path) -> None:
    tail = max(whole.glob("*.seg"))
    data = tail.read_bytes()
    for at in range(len(data)):
        folder = copied(whole, tmp_path / "flip")
        (folder / tail.name).write_bytes(data[:at] + bytes([data[at] ^ (1 << at % 8)]) + data[at + 1 :])
        check_equal_or_named(folder, what=f"byte {at} of the open segment")


@pytest.mark.parametrize("which", [0, -2])
def test_a_flipped_bit_in_any_byte_of_a_sealed_segment_is_named_by_start_reading_or_verify(whole: Path, tmp_path: Path, which: int) -> None:
    segment = sorted(whole.glob("*.seg"))[which]
    data = segment.read_bytes()
    for at in range(len(data)):
        folder = copied(whole, tmp_path / "flip")
        (folder / segment.name).write_bytes(data[:at] + bytes([data[at] ^ (1 << at % 8)]) + data[at + 1 :])
        assert verify(folder)["damages"], f"verify is silent about byte {at}"
        check_equal_or_named(folder, what=f"byte {at} of a sealed segment")


def test_flipped_bits_take_no_neighbours_with_them(whole: Path, tmp_path: Path) -> None:
    for path in sorted(whole.glob("*.seg")):
        data = path.read_bytes()
        for at in range(HEADER_BYTES, len(data), 7):
            folder = copied(whole, tmp_path / "flip")
            (folder / path.name).write_bytes(data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :])
            found, _ = reopened(folder)
            assert len(found) >= 11, f"byte {at} of {path.name} took {set(WRITTEN) - set(found)}"


@pytest.mark.parametrize("name", ["CURRENT", "high-water"])
def test_damage_to_what_is_told_about_the_whole_loses_nothing(whole: Path, tmp_path: Path, name: str) -> None:
    source = copied(whole, tmp_path / "source")
    journal = Journal(source)
    journal.note_high_water()
    journal.close()
    told = (source / name if name == "CURRENT" else source.parent / name).read_bytes()
    for at in range(len(told)):
        folder = copied(whole, tmp_path / "flip")
        (folder / name if name == "CURRENT" else folder.parent / name).write_bytes(told[:at] + bytes([told[at] ^ 4]) + told[at + 1 :])
        found, _ = reopened(folder)
        assert found == WRITTEN


def test_damage_in_a_sealed_segment_is_told_once_and_tells_which_outboxes_must_send_again(whole: Path, tmp_path: Path) -> None:
    folder = copied(whole, tmp_path / "flip")
    segment = min(folder.glob("*.seg"))
    data = bytearray(segment.read_bytes())
    data[data.index(b"event-2")] ^= 1
    segment.write_bytes(data)
    journal = Journal(folder)
    assert set(WRITTEN) - set(stored(journal)) == {2}
    assert journal.lost == [(2, 2)]
    assert journal.chains() == {"outbox": (1, "event-1", 1)}
    journal.dealt_with()
    journal.close()
    found, again = reopened(folder)
    assert (set(WRITTEN) - set(found), again.damages, again.lost) == ({2}, [], [])


def test_a_copy_of_a_damaged_file_is_kept(whole: Path, tmp_path: Path) -> None:
    folder = copied(whole, tmp_path / "flip")
    tail = max(folder.glob("*.seg"))
    damaged = tail.read_bytes()[:-1]
    tail.write_bytes(damaged)
    reopened(folder)
    assert [path.read_bytes() for path in (folder / "damaged").glob("*.seg.*")] == [damaged]


def test_a_stale_record_of_an_older_file_does_not_pass(tmp_path: Path) -> None:
    filled(tmp_path / "one", 3).close()
    filled(tmp_path / "two", 2).close()
    old, new = (min((tmp_path / name).glob("*.seg")) for name in ("one", "two"))
    new.write_bytes(new.read_bytes() + old.read_bytes()[new.stat().st_size :])
    found, journal = reopened(tmp_path / "two")
    assert set(found) == {1, 2}
    assert journal.damages


# ---- power cuts at every operation ----------------------------------------------------------------------------------


class PowerLost(Exception):
    """The lights went out."""


class PowerDisk(Disk):
    """Keeps what is durable apart from what was written, and goes dark before operation `dies_at`."""

    def __init__(self, dies_at: int) -> None:
        self.dies_at, self.n = dies_at, 0
        self._paths: dict[int, Path] = {}
        self._durable: dict[Path, bytes] = {}
        self._named: dict[Path, Path] = {}
        """Names that a sync of the folder has made durable -> the file that bears them (by the path of its creation)."""
        self._born: dict[Path, Path] = {}

    def _step(self) -> None:
        self.n += 1
        if self.n > self.dies_at:
            raise PowerLost

    def create(self, path: Path) -> int:
        self._step()
        handle = super().create(path)
        self._paths[handle] = path
        self._durable[path] = b""
        return handle

    def open(self, path: Path) -> int:
        self._step()
        handle = super().open(path)
        self._paths[handle] = path
        self._durable.setdefault(path, path.read_bytes())
        return handle

    def write(self, handle: int, data: bytes) -> None:
        self._step()
        super().write(handle, data)

    def sync(self, handle: int) -> None:
        self._step()
        self._durable[self._paths[handle]] = self._paths[handle].read_bytes()

    def sync_folder(self, folder: Path) -> None:
        self._step()
        self._named |= {path: path for path in folder.iterdir() if path.is_file()}

    def truncate(self, handle: int, size: int) -> None:
        self._step()
        super().truncate(handle, size)

    def rename(self, old: Path, new: Path) -> None:
        self._step()
        super().rename(old, new)
        self._durable[new] = self._durable.pop(old)

    def unlink(self, path: Path) -> None:
        self._step()
        super().unlink(path)

    def dark(self, chance: random.Random) -> None:
        """What the disk holds when the light comes back: durable bytes, and of the others any sectors, none, or all."""
        for path, durable in self._durable.items():
            if not path.exists():
                continue
            if path not in self._named and chance.random() < 0.5:
                path.unlink()
                continue
            now, kept = path.read_bytes(), bytearray(durable)
            for at in range(0, len(now), SECTOR):
                if now[at : at + SECTOR] != durable[at : at + SECTOR] and chance.random() < 0.5:
                    kept.extend(b"\0" * (at - len(kept)))
                    kept[at : at + SECTOR] = now[at : at + SECTOR]
            path.write_bytes(kept)


def life(folder: Path, disk: Disk, confirmed: list[int]) -> None:
    """Events, seals, cursors and retention; `confirmed` grows with each sync that returned."""
    journal = Journal(folder, disk=disk, segment_bytes=2200)
    try:
        for seq in range(1, 13):
            record = batch(seq, pad=300)
            place, *_ = journal.write([record])
            journal.sync()
            confirmed.append(seq)
            journal.publish(record, place)
            journal.write([Record(CURSORS, head={"subs": {}})])
            if journal.wants_to_roll:
                journal.roll(snapshot(journal), at_ns=seq)
    finally:
        journal.close()


def n_operations(folder: Path) -> int:
    disk = PowerDisk(10**9)
    life(folder, disk, [])
    return disk.n


def test_what_was_synced_survives_a_power_cut_before_any_operation(tmp_path: Path) -> None:
    total = n_operations(tmp_path / "rehearsal")
    assert total > 60
    for dies_at in range(total):
        for seed in range(3):
            folder = tmp_path / f"{dies_at}-{seed}" / "journal"
            disk, confirmed = PowerDisk(dies_at), []
            with pytest.raises(PowerLost):
                life(folder, disk, confirmed)
            disk.dark(random.Random(seed))
            found, journal = reopened(folder)
            assert set(confirmed) <= set(found), (
                f"power cut before operation {dies_at}, seed {seed}: {[str(one) for one in journal.damages]}"
            )
            assert all(found[seq] == envelope(seq, pad=300) for seq in confirmed)
            again = Journal(folder, disk=QuickDisk())
            append(again, batch(again.head + 1))
            again.close()
            calm = reopened(folder)[1]
            assert calm.damages == [], f"the start after the start, before operation {dies_at}, seed {seed}"
            assert calm.head == again.head
            shutil.rmtree(folder.parent)


# ---- disks that fail ------------------------------------------------------------------------------------------------


class FailingDisk(Disk):
    """Fails as told."""

    def __init__(self) -> None:
        self.room = 1 << 30
        self.sync_fails = False

    def write(self, handle: int, data: bytes) -> None:
        if len(data) > self.room:
            super().write(handle, data[: self.room])
            raise OSError(errno.ENOSPC, "No space left on device")
        super().write(handle, data)

    def sync(self, handle: int) -> None:
        if self.sync_fails:
            raise OSError(errno.EIO, "Input/output error")
        super().sync(handle)


def test_a_full_disk_leaves_a_whole_end_behind(tmp_path: Path) -> None:
    disk = FailingDisk()
    journal = filled(tmp_path / "journal", 3, disk=disk)
    disk.room = 20
    with pytest.raises(OSError, match="No space left"):
        journal.write([batch(4)])
    disk.room = 1 << 30
    append(journal, batch(4))
    journal.close()
    found, again = reopened(tmp_path / "journal")
    assert (set(found), again.damages, again.epoch) == ({1, 2, 3, 4}, [], 1)


def test_an_error_of_sync_is_passed_on_and_nothing_of_it_becomes_readable(tmp_path: Path, opened: Callable[..., Journal]) -> None:
    disk = FailingDisk()
    journal = opened(tmp_path / "journal", 2, disk=disk)
    journal.write([batch(3)])
    disk.sync_fails = True
    with pytest.raises(OSError, match="Input/output"):
        journal.sync()
    assert set(stored(journal)) == {1, 2}


def test_a_segment_that_vanishes_while_it_is_read_is_named(tmp_path: Path, opened: Callable[..., Journal]) -> None:
    journal = opened(tmp_path / "journal", 12, segment_bytes=1500)
    assert journal.event(1) == envelope(1)
    journal.close()
    again = opened(tmp_path / "journal")
    min((tmp_path / "journal").glob("*.seg")).write_bytes(b"")
    assert 12 in stored(again)


def test_damage_makes_one_epoch_record_that_says_why(tmp_path: Path) -> None:
    filled(tmp_path / "journal", 3).close()
    path = min((tmp_path / "journal").glob("*.seg"))
    path.write_bytes(path.read_bytes()[:-5])
    _, journal = reopened(tmp_path / "journal")
    epoch = journal.tail[-1]
    assert epoch.kind == EPOCH
    assert epoch.head == {"epoch": 2, "next": 1_000_000, "why": "the record is cut short"}
