"""Events on disk: an append-only log of segments, each record chained to the one before it by its crc.

    journal/00000000000000000001.seg    name = first seq it may hold
    journal/CURRENT                     the journal's UUID
    journal/damaged/                    copies of what was found damaged, kept to be looked at

    segment  header | record ... | seal record | trailer        (the last segment has neither seal nor trailer)
    header   magic 8, journal UUID 16, epoch u64, first seq u64, hash of the segment before 32, crc u32
    record   length u32, crc u32, kind u8, first seq u64, count u32, n0 u64, head length u32, head (JSON), body
    trailer  offset of the seal u64, crc that the seal is chained to u32, "SEAL"

`crc` is zlib's crc32 of everything behind it, seeded with the crc of the record before: a stale record of an old file cannot pass.
A seal holds the hash of its segment chained to that of the segment before, and a snapshot of the router's durable state, so a
start reads one snapshot and the tail. Damage is cut off at its first byte, kept aside, named, and begins a new epoch, whose
numbers no earlier event had: publishers then compare what is here with their outboxes and send the rest again.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
import sys
import uuid
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from nightbell.bus.wire import decode_batch, matches
from nightbell.contracts.errors import Failed

__all__ = ["CURSORS", "DEAD", "EPOCH", "EVENTS", "LEASE", "SEAL", "Damage", "Disk", "Journal", "Record", "next_epoch_seq", "verify"]

EVENTS, CURSORS, DEAD, LEASE, EPOCH, SEAL = 1, 2, 3, 4, 6, 7

MAGIC = b"NBSEG\x00\x00\x01"
_HEADER = struct.Struct("<8s16sQQ32s")
_RECORD = struct.Struct("<BQIQI")
_FRAME = struct.Struct("<II")
_TRAILER = struct.Struct("<QI4s")
_CRC = struct.Struct("<I")
HEADER_BYTES = _HEADER.size + 4
LARGEST_RECORD = 16 << 20
EPOCH_STEP = 1_000_000


def next_epoch_seq(highest: int) -> int:
    """First seq of a new epoch: beyond any number that was ever given."""
    return EPOCH_STEP * (highest // EPOCH_STEP + 1)


@dataclass(frozen=True, slots=True)
class Record:
    """One record; `head` is a JSON object, `body` for EVENTS a JSON array of envelopes."""

    kind: int
    first: int = 0
    count: int = 0
    n0: int = 0
    head: dict[str, Any] = field(default_factory=dict)
    body: bytes = b""

    def packed(self, seed: int) -> tuple[bytes, int]:
        """The record's bytes chained to `seed`, and its crc."""
        head = msgspec.json.encode(self.head)
        content = _RECORD.pack(self.kind, self.first, self.count, self.n0, len(head)) + head + self.body
        crc = zlib.crc32(content, seed)
        return _FRAME.pack(len(content), crc) + content, crc


@dataclass(frozen=True, slots=True)
class Damage:
    """What was found wrong: in which file, from which byte, which events it may hold."""

    file: str
    offset: int
    what: str
    first_seq: int
    last_seq: int | None
    """None: to the end of what there was."""

    def __str__(self) -> str:
        end = "the end" if self.last_seq is None else str(self.last_seq)
        return f"{self.file}: byte {self.offset}: {self.what}; events {self.first_seq} to {end}"


class Disk:
    """What the journal asks of the operating system; a test's disk can lose power at any byte."""

    def create(self, path: Path) -> int:
        """A new file, open for appending."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o644)

    def open(self, path: Path) -> int:
        """An existing file, open for writing at its end."""
        handle = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0))
        os.lseek(handle, 0, os.SEEK_END)
        return handle

    def write(self, handle: int, data: bytes) -> None:
        """All of `data`, or an error."""
        view = memoryview(data)
        while view:
            view = view[os.write(handle, view) :]

    def sync(self, handle: int) -> None:
        """What was written is on the disk when this returns."""
        if sys.platform == "win32" or sys.platform == "darwin":
            os.fsync(handle)
        else:
            os.fdatasync(handle)

    def sync_folder(self, folder: Path) -> None:
        """New names in `folder` are on the disk (Windows does that by itself)."""
        if sys.platform == "win32":
            return
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def truncate(self, handle: int, size: int) -> None:
        """Cut the file."""
        os.ftruncate(handle, size)
        os.lseek(handle, 0, os.SEEK_END)

    def close(self, handle: int) -> None:
        """Close it."""
        os.close(handle)

    def free_bytes(self, folder: Path) -> int:
        """Room that is left."""
        return shutil.disk_usage(folder).free


@dataclass(frozen=True, slots=True)
class _Entry:
    """Where a record of events lies."""

    first: int
    count: int
    offset: int
    length: int
    seed: int
    at_ns: int
    types: tuple[str, ...]
    only: str | None


@dataclass
class _Segment:
    path: Path
    first: int
    epoch: int
    entries: list[_Entry] = field(default_factory=list)
    indexed: bool = False
    sealed_hash: bytes = b""
    last_at_ns: int = 0

    @property
    def last(self) -> int:
        return self.entries[-1].first + self.entries[-1].count - 1 if self.entries else self.first - 1


@dataclass(frozen=True, slots=True)
class Place:
    """Where a record was written."""

    segment: _Segment
    offset: int
    length: int
    seed: int


class Journal:
    """The log of one broker. One thread appends (`write`, `sync`), one reads (`read`); records become readable by `publish`."""

    def __init__(self, folder: Path, *, disk: Disk | None = None, segment_bytes: int = 64 << 20) -> None:
        self.folder, self._disk, self._segment_bytes = folder, disk or Disk(), segment_bytes
        self.damages: list[Damage] = []
        self.identity = uuid.UUID(int=0)
        self.epoch = 1
        self.head = 0
        """Seq of the last event that can be read."""
        self.snapshot: dict[str, Any] | None = None
        self.tail: list[Record] = []
        """Records behind the snapshot, for the router to take up at the start (then emptied)."""
        self._segments: list[_Segment] = []
        self._handle = -1
        self._size = 0
        self._crc = 0
        self._readers: dict[Path, Any] = {}
        self._open()

    # -- opening --------------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        paths = sorted(self.folder.glob("*.seg"))
        if not paths:
            self._begin()
            return
        previous_hash = b"\0" * 32
        for path in paths[:-1]:
            previous_hash = self._open_sealed(path, previous_hash)
        self._open_tail(paths[-1], previous_hash)

    def _begin(self) -> None:
        current = self.folder / "CURRENT"
        if current.is_file():
            # Segments are gone but the journal was here: never give its numbers again.
            self.damages.append(Damage(str(self.folder), 0, "no segment is left of this journal", 1, None))
        self.identity = uuid.uuid4()
        self._new_segment(1, b"\0" * 32)
        handle = self._disk.create(current.with_suffix(".new")) if not current.with_suffix(".new").exists() else -1
        if handle >= 0:
            self._disk.write(handle, f"{self.identity}\n".encode())
            self._disk.sync(handle)
            self._disk.close(handle)
        current.with_suffix(".new").replace(current)
        self._disk.sync_folder(self.folder)

    def _new_segment(self, first: int, previous_hash: bytes) -> None:
        """Create, write the header, sync the file, sync the folder: only then may an OK depend on it."""
        path = self.folder / f"{first:020d}.seg"
        header = _HEADER.pack(MAGIC, self.identity.bytes, self.epoch, first, previous_hash)
        crc = zlib.crc32(header)
        self._handle = self._disk.create(path)
        self._disk.write(self._handle, header + _CRC.pack(crc))
        self._disk.sync(self._handle)
        self._disk.sync_folder(self.folder)
        self._size, self._crc = HEADER_BYTES, crc
        self._segments.append(_Segment(path, first, self.epoch, indexed=True))

    def _open_sealed(self, path: Path, previous_hash: bytes) -> bytes:
        """Check a sealed segment by its seal; its records are checked when they are read. Returns its hash."""
        data_end = path.stat().st_size
        first = int(path.stem)
        segment = _Segment(path, first, self.epoch)
        self._segments.append(segment)
        with path.open("rb") as file:
            header = _read_header(file.read(HEADER_BYTES))
            if header is None:
                self._note(path, 0, "the header is damaged", first, None)
            else:
                identity, segment.epoch, _, before = header
                self.identity, self.epoch = identity, segment.epoch
                if before != previous_hash:
                    self._note(path, 0, "it does not follow the segment before it", first, None)
            try:
                file.seek(max(0, data_end - _TRAILER.size))
                offset, seed, word = _TRAILER.unpack(file.read(_TRAILER.size))
                file.seek(min(offset, data_end))
                seal, _, _ = _parse(file.read(data_end - offset), 0, seed)
                if word != b"SEAL" or seal.kind != SEAL:
                    raise ValueError("no seal")
                segment.sealed_hash = bytes.fromhex(seal.head["hash"])
                segment.last_at_ns = int(seal.head["at_ns"])
                self.head, self.epoch = int(seal.head["last_seq"]), int(seal.head["epoch"])
                self.snapshot = msgspec.json.decode(seal.body)
            except (ValueError, KeyError, struct.error, msgspec.DecodeError) as error:
                self._note(path, data_end, f"the seal is damaged ({error})", first, None)
                self._index(segment)
                self.head = max(self.head, segment.last)
        return segment.sealed_hash

    def _open_tail(self, path: Path, previous_hash: bytes) -> None:
        data = path.read_bytes()
        first = int(path.stem)
        header = _read_header(data[:HEADER_BYTES])
        if header is None or header[3] != previous_hash:
            what = "the header is damaged" if header is None else "it does not follow the segment before it"
            self._set_aside(path, Damage(str(path), 0, what, first, None))
            path.unlink()
            self.identity = self.identity if self._segments else uuid.uuid4()
            self.epoch += 1
            self.head = max(self.head, first)
            self._new_segment(next_epoch_seq(self.head), self._segments[-1].sealed_hash if self._segments else b"\0" * 32)
            self.tail.append(Record(EPOCH, head={"epoch": self.epoch, "next": next_epoch_seq(self.head)}))
            return
        self.identity, epoch, _, _ = header
        self.epoch = max(self.epoch, epoch)
        segment = _Segment(path, first, epoch, indexed=True)
        self._segments.append(segment)
        self._crc = zlib.crc32(data[: _HEADER.size])
        offset = HEADER_BYTES
        damage: Damage | None = None
        while offset < len(data):
            try:
                record, end, crc = _parse(data, offset, self._crc)
            except ValueError as error:
                damage = Damage(str(path), offset, str(error), self.head + 1, None)
                break
            if record.kind == SEAL:
                # Power went between the seal and the next segment: go on with a new one.
                self._size = len(data)
                self._finish_rolled(segment, record)
                return
            self._take_up(segment, record, offset, end - offset, self._crc)
            offset, self._crc = end, crc
        self._handle = self._disk.open(path)
        self._size = len(data)
        if damage is not None:
            self._cut(path, offset, damage)

    def _finish_rolled(self, segment: _Segment, seal: Record) -> None:
        segment.sealed_hash = bytes.fromhex(seal.head["hash"])
        segment.last_at_ns = int(seal.head["at_ns"])
        self.snapshot, self.tail = msgspec.json.decode(seal.body), []
        self.head, self.epoch = max(self.head, int(seal.head["last_seq"])), int(seal.head["epoch"])
        self._new_segment(max(self.head, segment.first) + 1, segment.sealed_hash)

    def _take_up(self, segment: _Segment, record: Record, offset: int, length: int, seed: int) -> None:
        if record.kind == EVENTS:
            segment.entries.append(_entry(record, offset, length, seed))
            self.head = record.first + record.count - 1
        elif record.kind == EPOCH:
            self.epoch, self.head = int(record.head["epoch"]), int(record.head["next"]) - 1
        self.tail.append(record)

    def _cut(self, path: Path, offset: int, damage: Damage) -> None:
        """Cut the tail where it is damaged, with a copy aside, and begin a new epoch."""
        self._set_aside(path, damage)
        self._disk.truncate(self._handle, offset)
        self._size = offset
        self.new_epoch(self.head, str(damage))
        self._disk.sync(self._handle)

    def new_epoch(self, highest: int, why: str) -> None:
        """Go on with numbers that no event had; written now, durable with the next `sync`."""
        record = Record(EPOCH, head={"epoch": self.epoch + 1, "next": next_epoch_seq(highest), "why": why})
        self.write([record])
        self.epoch, self.head = self.epoch + 1, next_epoch_seq(highest) - 1
        self.tail.append(record)

    def _set_aside(self, path: Path, damage: Damage) -> None:
        aside = self.folder / "damaged"
        aside.mkdir(exist_ok=True)
        n = len(list(aside.iterdir()))
        shutil.copy2(path, aside / f"{path.name}.{n}")
        self.damages.append(damage)

    def _note(self, path: Path, offset: int, what: str, first: int, last: int | None) -> None:
        self.damages.append(Damage(str(path), offset, what, first, last))

    # -- appending ------------------------------------------------------------------------------------------------------

    @property
    def tail_bytes(self) -> int:
        """Size of the segment that is written to."""
        return self._size

    @property
    def wants_to_roll(self) -> bool:
        """Whether the segment is full."""
        return self._size >= self._segment_bytes

    def write(self, records: Sequence[Record]) -> list[Place]:
        """Append; durable only after `sync`. Returns where each lies, for `publish`."""
        places: list[Place] = []
        parts, crc, offset, segment = [], self._crc, self._size, self._segments[-1]
        for record in records:
            packed, after = record.packed(crc)
            places.append(Place(segment, offset, len(packed), crc))
            parts.append(packed)
            crc, offset = after, offset + len(packed)
        self._disk.write(self._handle, b"".join(parts))
        self._crc, self._size = crc, offset
        return places

    def sync(self) -> None:
        """What was written is on the disk. After an error the file must not be used again: the kernel may have dropped the pages."""
        self._disk.sync(self._handle)

    def publish(self, record: Record, place: Place) -> None:
        """A durable record of events becomes readable."""
        if record.kind == EVENTS:
            place.segment.entries.append(_entry(record, place.offset, place.length, place.seed))
            self.head = record.first + record.count - 1
        elif record.kind == EPOCH:
            self.epoch, self.head = int(record.head["epoch"]), int(record.head["next"]) - 1

    def roll(self, snapshot: dict[str, Any], *, next_seq: int, at_ns: int) -> None:
        """Seal this segment with the router's durable state and begin the next. Durable when it returns."""
        segment = self._segments[-1]
        content = hashlib.sha256(segment.path.read_bytes()).digest()
        before = self._segments[-2].sealed_hash if len(self._segments) > 1 else b"\0" * 32
        digest = hashlib.sha256(before + content).digest()
        seal = Record(
            SEAL,
            head={"hash": digest.hex(), "last_seq": next_seq - 1, "epoch": self.epoch, "at_ns": at_ns},
            body=msgspec.json.encode(snapshot),
        )
        place, *_ = self.write([seal])
        self._disk.write(self._handle, _TRAILER.pack(place.offset, place.seed, b"SEAL"))
        self._disk.sync(self._handle)
        self._disk.close(self._handle)
        segment.sealed_hash, segment.last_at_ns = digest, at_ns
        self._new_segment(next_seq, digest)

    # -- reading --------------------------------------------------------------------------------------------------------

    @property
    def first_seq(self) -> int:
        """The oldest event that is kept."""
        for segment in self._segments:
            self._index(segment)
            if segment.entries:
                return segment.entries[0].first
        return self.head + 1

    @property
    def n_bytes(self) -> int:
        """Size of all segments."""
        return sum(segment.path.stat().st_size for segment in self._segments)

    def read(
        self, after: int, patterns: Sequence[str], *, max_events: int, max_bytes: int, reader: str = ""
    ) -> tuple[list[tuple[int, str, bytes]], int]:
        """Events behind `after` whose type fits: ([(seq, type, envelope)], how far it looked).

        `reader` is the subscription: records meant for one subscription alone are for it only. Damaged records are named in
        `damages` and passed over.
        """
        found: list[tuple[int, str, bytes]] = []
        size, looked = 0, after
        for segment, entry in self._entries_after(after):
            wanted = any(matches(pattern, kind) for kind in entry.types for pattern in patterns)
            if wanted and (entry.only is None or entry.only == reader):
                try:
                    record = self._load(segment, entry)
                except ValueError as error:
                    self._note(segment.path, entry.offset, str(error), entry.first, entry.first + entry.count - 1)
                    looked = entry.first + entry.count - 1
                    continue
                for seq, packed in enumerate(decode_batch(record.body), start=entry.first):
                    if seq <= after:
                        continue
                    kind = msgspec.json.decode(packed, type=_Typed).type
                    if any(matches(pattern, kind) for pattern in patterns):
                        if found and (len(found) >= max_events or size + len(packed) > max_bytes):
                            return found, looked
                        found.append((seq, kind, packed))
                        size += len(packed)
                    looked = seq
            looked = max(looked, entry.first + entry.count - 1)
            if len(found) >= max_events:
                return found, looked
        return found, max(looked, self.head)

    def event(self, seq: int) -> bytes | None:
        """The envelope of one event, or None when it is not kept."""
        for segment, entry in self._entries_after(seq - 1):
            if entry.first <= seq < entry.first + entry.count:
                return decode_batch(self._load(segment, entry).body)[seq - entry.first]
            return None
        return None

    def seq_at(self, at_ns: int) -> int:
        """Seq of the first event that came to this broker at or after `at_ns` (its wall clock), else head + 1."""
        for _, entry in self._entries_after(0):
            if entry.at_ns >= at_ns:
                return entry.first
        return self.head + 1

    def _entries_after(self, after: int) -> Iterator[tuple[_Segment, _Entry]]:
        begin = bisect_right(self._segments, after + 1, key=lambda one: one.first) - 1
        for segment in self._segments[max(0, begin) :]:
            self._index(segment)
            at = bisect_right(segment.entries, after + 1, key=lambda one: one.first) - 1
            for i in range(max(0, at), len(segment.entries)):
                if segment.entries[i].first + segment.entries[i].count - 1 > after:
                    yield segment, segment.entries[i]

    def _index(self, segment: _Segment) -> None:
        if segment.indexed:
            return
        segment.indexed = True
        data = segment.path.read_bytes()
        offset, crc = HEADER_BYTES, zlib.crc32(data[: _HEADER.size])
        while offset < len(data):
            try:
                record, end, after = _parse(data, offset, crc)
            except ValueError as error:
                self._note(segment.path, offset, str(error), segment.last + 1, None)
                return
            if record.kind == SEAL:
                return
            if record.kind == EVENTS:
                segment.entries.append(_entry(record, offset, end - offset, crc))
            offset, crc = end, after

    def _load(self, segment: _Segment, entry: _Entry) -> Record:
        file = self._readers.get(segment.path)
        if file is None:
            file = self._readers[segment.path] = segment.path.open("rb")
        file.seek(entry.offset)
        return _parse(file.read(entry.length), 0, entry.seed)[0]

    # -- keeping house --------------------------------------------------------------------------------------------------

    def retire(self, *, before_ns: int, upto_seq: int) -> list[str]:
        """Delete sealed segments that are older than `before_ns` and wholly at or below `upto_seq`; their names."""
        gone = []
        while len(self._segments) > 1:
            segment, following = self._segments[0], self._segments[1]
            if not segment.sealed_hash or segment.last_at_ns >= before_ns or following.first - 1 > upto_seq:
                break
            file = self._readers.pop(segment.path, None)
            if file is not None:
                file.close()
            segment.path.unlink()
            del self._segments[0]
            gone.append(segment.path.name)
        return gone

    def free_bytes(self) -> int:
        """Room on the journal's disk."""
        return self._disk.free_bytes(self.folder)

    def close(self) -> None:
        """Close all files."""
        for file in self._readers.values():
            file.close()
        self._readers.clear()
        if self._handle >= 0:
            self._disk.close(self._handle)
            self._handle = -1


class _Typed(msgspec.Struct):
    type: str


def _entry(record: Record, offset: int, length: int, seed: int) -> _Entry:
    return _Entry(
        record.first,
        record.count,
        offset,
        length,
        seed,
        int(record.head.get("at", 0)),
        tuple(record.head.get("t", ())),
        record.head.get("only"),
    )


def _read_header(data: bytes) -> tuple[uuid.UUID, int, int, bytes] | None:
    """(journal, epoch, first seq, hash of the segment before), or None when it is damaged."""
    if len(data) < HEADER_BYTES or _CRC.unpack(data[_HEADER.size : HEADER_BYTES])[0] != zlib.crc32(data[: _HEADER.size]):
        return None
    magic, identity, epoch, first, before = _HEADER.unpack(data[: _HEADER.size])
    return (uuid.UUID(bytes=identity), epoch, first, before) if magic == MAGIC else None


def _parse(data: bytes, offset: int, seed: int) -> tuple[Record, int, int]:
    """The record at `offset`, where it ends, and its crc. Raises `ValueError` saying what is wrong with it."""
    if offset + _FRAME.size + _RECORD.size > len(data):
        raise ValueError("the record is cut short")
    length, crc = _FRAME.unpack_from(data, offset)
    begin = offset + _FRAME.size
    if not _RECORD.size <= length <= LARGEST_RECORD or begin + length > len(data):
        raise ValueError("the record is cut short")
    content = data[begin : begin + length]
    if zlib.crc32(content, seed) != crc:
        raise ValueError("the record's crc does not fit")
    kind, first, count, n0, head_length = _RECORD.unpack_from(content)
    body_at = _RECORD.size + head_length
    try:
        head = msgspec.json.decode(content[_RECORD.size : body_at], type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise ValueError("the record's head is no JSON") from error
    return Record(kind, first, count, n0, head, content[body_at:]), begin + length, crc


def verify(folder: Path, *, progress: Callable[[int, int], None] = lambda _done, _all: None) -> dict[str, Any]:
    """Read every byte of a journal (of a stopped broker, or a copy) and name all damage; changes nothing.

    Returns {segments, events, first_seq, last_seq, bytes, damages: [text]}. Raises `Failed` when there is no journal.
    """
    paths = sorted(folder.glob("*.seg"))
    if not paths:
        raise Failed("there is no journal here", where=str(folder), remedy="Name the folder that holds *.seg files")
    damages: list[str] = []
    n_events, size, first_seq, last_seq = 0, 0, None, 0
    previous_hash = b"\0" * 32
    total = sum(path.stat().st_size for path in paths)
    for path in paths:
        data = path.read_bytes()
        size += len(data)
        header = _read_header(data[:HEADER_BYTES])
        if header is None:
            damages.append(f"{path.name}: byte 0: the header is damaged")
        elif header[3] != previous_hash:
            damages.append(f"{path.name}: byte 0: it does not follow the segment before it")
        offset, crc, sealed = HEADER_BYTES, zlib.crc32(data[: _HEADER.size]), False
        while offset < len(data) and not sealed:
            try:
                record, end, after = _parse(data, offset, crc)
            except ValueError as error:
                damages.append(f"{path.name}: byte {offset}: {error}; events {last_seq + 1} to the segment's end")
                break
            if record.kind == SEAL:
                sealed = True
                digest = hashlib.sha256(previous_hash + hashlib.sha256(data[:offset]).digest()).digest()
                if digest.hex() != record.head.get("hash"):
                    damages.append(f"{path.name}: byte {offset}: the seal does not fit the segment")
                previous_hash = bytes.fromhex(str(record.head.get("hash", "")))
                if data[end:] != _TRAILER.pack(offset, crc, b"SEAL"):
                    damages.append(f"{path.name}: byte {end}: the trailer is damaged")
            elif record.kind == EVENTS:
                n_events += record.count
                first_seq = record.first if first_seq is None else first_seq
                last_seq = record.first + record.count - 1
            offset, crc = end, after
        if not sealed and path != paths[-1]:
            damages.append(f"{path.name}: byte {offset}: the seal is missing")
        progress(size, total)
    return {"segments": len(paths), "events": n_events, "first_seq": first_seq, "last_seq": last_seq, "bytes": size, "damages": damages}
