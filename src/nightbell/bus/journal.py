"""Events on disk: an append-only log of segments, each record chained to the one before it by its crc.

    journal/00000000000000000001.seg    name = first seq it may hold
    journal/CURRENT                     the journal's UUID, and the first segment that retention has left
    journal/damaged/                    copies of what was found damaged, kept to be looked at, and KNOWN: damage already dealt with
    high-water                          beside the folder: the last event that was durable, so that an older copy is recognised

`segment.py` tells what the bytes of a segment are. A seal holds the hash of its segment chained to that of the segment before, and a
snapshot of the router's durable state, so a start reads one snapshot and the tail. Damage is named with file, byte and events, the
file is kept aside, and a new epoch begins, whose numbers no earlier event had: publishers then compare what is here with their
outboxes and send the rest again.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
import struct
import uuid
import zlib
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import msgspec

from nightbell.bus.disk import Disk
from nightbell.bus.segment import (
    EPOCH,
    EVENTS,
    HEADER_BYTES,
    NO_HASH,
    SEAL,
    Found,
    Hole,
    Record,
    header_of,
    last_crc,
    next_epoch_seq,
    parse,
    read_header,
    read_seal,
    scan,
    segment_hash,
    trailer_of,
)
from nightbell.bus.wire import decode_batch, matches
from nightbell.contracts.errors import Failed

__all__ = ["Damage", "Journal", "Place", "verify"]

_MOST_OPEN_FILES = 64
MOST_LOOKED_AT = 20_000
MOST_INDEXED_BYTES = 32 << 20
"""In one reading: 70 ms for records that nobody wants; a segment that is read for the first time takes longer, so one at a time."""
_HIGH_WATER = struct.Struct("<QQI")
_CRC = struct.Struct("<I")


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
    last_named: int | None = None
    """The seq before the first of the next segment."""

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
        """What was found wrong since the start, and had not been dealt with before."""
        self.identity = uuid.UUID(int=0)
        self.epoch = 1
        self.head = 0
        """Seq of the last event that can be read."""
        self.snapshot: dict[str, Any] | None = None
        self.tail: list[Record] = []
        """Records behind the snapshot, for the router to take up at the start (then emptied)."""
        self.lost: list[tuple[int, int]] = []
        """Ranges of seq in sealed segments that turned out to be damaged: what outboxes can bring back."""
        self._segments: list[_Segment] = []
        self._indexed_bytes = 0
        self._handle = -1
        self._size = 0
        self._crc = 0
        self._readers: OrderedDict[Path, IO[bytes]] = OrderedDict()
        self._known = self._read_known()
        self._high_water = (0, 0)
        self._open()

    # -- opening --------------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for left in self.folder.glob("*.new"):
            left.unlink()  # a start that did not come to its end
        told, first = self._read_current()
        known_epoch, known_seq = self._high_water = self._read_high_water()
        paths = sorted(self.folder.glob("*.seg"))
        if not paths:
            self._begin(told, known_epoch, known_seq)
            return
        self.identity = told or self.identity
        if first is not None and int(paths[0].stem) > first:
            self._note(self.folder, 0, "the first segments are missing", first, int(paths[0].stem) - 1)
        previous_hash: bytes | None = None  # what was before the oldest that is kept is not known
        for path, following in itertools.pairwise(paths):
            previous_hash = self._open_sealed(path, previous_hash, int(following.stem) - 1)
        n_lost = len(self.lost)
        self._open_tail(paths[-1], previous_hash)
        if (self.epoch, self.head) < (known_epoch, known_seq):
            self._note(self.folder, 0, "this is an older copy of the journal", self.head + 1, known_seq)
            self.epoch = max(self.epoch, known_epoch)
            self.new_epoch(max(self.head, known_seq), "an older copy of the journal was put back")
            self.sync()
        del self.lost[n_lost:]  # for those the new epoch is begun already
        if told is None or first is None:
            self._write_current()
        self._remember_known()

    def _begin(self, told: uuid.UUID | None, known_epoch: int, known_seq: int) -> None:
        """No segment is there: a new journal. If there was one before, its numbers are not given again."""
        self.identity = uuid.uuid4()
        if told is None and known_epoch == 0:
            self._new_segment(1, NO_HASH)
        else:
            self._note(self.folder, 0, "no segment is left of this journal", 1, known_seq or None)
            self.epoch = max(1, known_epoch)
            self._new_segment(next_epoch_seq(known_seq), NO_HASH)
            self.new_epoch(known_seq, "no segment was left")
            self.sync()
        self._write_current()

    def _new_segment(self, first: int, previous_hash: bytes) -> None:
        """Create, write the header, sync the file, sync the folder: only then may an OK depend on it."""
        path = self.folder / f"{first:020d}.seg"
        header, crc = header_of(self.identity, self.epoch, first, previous_hash)
        self._handle = self._disk.create(path)
        self._disk.write(self._handle, header)
        self._disk.sync(self._handle)
        self._disk.sync_folder(self.folder)
        self._size, self._crc = HEADER_BYTES, crc
        self._segments.append(_Segment(path, first, self.epoch, indexed=True))

    def _open_sealed(self, path: Path, previous_hash: bytes | None, last: int) -> bytes | None:
        """Check a segment by its seal; its records are checked when they are read. Returns its hash, None when it is not known."""
        size = path.stat().st_size
        first = int(path.stem)
        segment = _Segment(path, first, self.epoch, last_named=last)
        self._segments.append(segment)
        with path.open("rb") as file:
            header = read_header(file.read(HEADER_BYTES))
            if header is None:
                self._note(path, 0, "the header is damaged", first, last)
            else:
                self.identity, segment.epoch, _, before = header
                self.epoch = max(self.epoch, segment.epoch)
                if previous_hash is not None and before != previous_hash:
                    self._note(path, 0, "it does not follow the segment before it", first, last)
            seal = read_seal(file, size)
        if seal is not None and self._take_seal(segment, seal):
            return segment.sealed_hash
        self._note(path, size, "the seal is damaged; its records are read one by one", first, last)
        self._set_aside(path)
        for found in self._index(segment):
            if found.kind != SEAL or not self._take_seal(segment, found):
                self._take_up(found)
        return segment.sealed_hash or None

    def _take_seal(self, segment: _Segment, seal: Record) -> bool:
        """Go on from this seal's snapshot; False when it is none."""
        try:
            digest, at_ns = bytes.fromhex(seal.head["hash"]), int(seal.head["at_ns"])
            last, epoch = int(seal.head["last_seq"]), int(seal.head["epoch"])
            self.snapshot = msgspec.json.decode(seal.body, type=dict[str, Any])
        except (ValueError, KeyError, TypeError, msgspec.DecodeError):
            return False
        segment.sealed_hash, segment.last_at_ns, self.tail = digest, at_ns, []
        self.head, self.epoch = max(self.head, last), max(self.epoch, epoch)
        return True

    def _open_tail(self, path: Path, previous_hash: bytes | None) -> None:
        data = path.read_bytes()
        first = int(path.stem)
        header = read_header(data[:HEADER_BYTES])
        if header is None and len(data) <= HEADER_BYTES:
            # Power went while it was made: nothing can have been confirmed out of it.
            self._disk.unlink(path)
            self._new_segment(first, previous_hash or NO_HASH)
            self.head = max(self.head, first - 1)
            return
        self.head = max(self.head, first - 1)
        if header is not None:
            self.identity, self.epoch = header[0], max(self.epoch, header[1])
            if previous_hash is not None and header[3] != previous_hash:
                self._note(path, 0, "it does not follow the segment before it", first, None)
        segment = _Segment(path, first, self.epoch, indexed=True)
        self._segments.append(segment)
        found, holes = scan(data, header_is_whole=header is not None)
        if header is None:
            holes.insert(0, Hole(0, HEADER_BYTES, "the header is damaged"))
        kept = [one for one in found if one.record.kind != SEAL]
        seal = found[-1] if len(kept) < len(found) and found[-1].record.kind == SEAL else None
        for one in kept:
            self._take_up(one.record)
            if one.record.kind == EVENTS:
                segment.entries.append(_entry(one.record, one.offset, one.end - one.offset, one.seed))
        if seal is not None and (not holes or holes == [Hole(seal.end, len(data), holes[-1].why)]):
            self._finish_seal(segment, seal)
            return
        self._handle, self._size = -1, len(data)
        self._crc = last_crc(data, found)
        if not holes:
            self._handle = self._disk.open(path)
            return
        for hole in holes:
            before = max(
                (one.record.first + one.record.count - 1 for one in kept if one.offset < hole.offset and one.record.first), default=0
            )
            after = min((one.record.first for one in kept if one.offset >= hole.end and one.record.kind == EVENTS), default=None)
            self._note(path, hole.offset, hole.why, max(before + 1, first), None if after is None else after - 1)
        self._set_aside(path)
        if header is None or len(holes) > 1 or holes[0].end < len(data) or seal is not None:
            self._rewrite(segment, [one.record for one in kept], previous_hash)
        else:
            self._handle = self._disk.open(path)
            self._disk.truncate(self._handle, holes[0].offset)
            self._size = holes[0].offset
        self.new_epoch(self.head, "; ".join(hole.why for hole in holes))
        self.sync()

    def _finish_seal(self, segment: _Segment, seal: Found) -> None:
        """Power went between a seal and the next segment: write the trailer anew, and go on with a new segment."""
        handle = self._disk.open(segment.path)
        self._disk.truncate(handle, seal.end)
        self._disk.write(handle, trailer_of(seal.offset, seal.seed))
        self._disk.sync(handle)
        self._disk.close(handle)
        self._take_seal(segment, seal.record)
        self._new_segment(max(self.head, segment.first) + 1, segment.sealed_hash)

    def _rewrite(self, segment: _Segment, records: Sequence[Record], previous_hash: bytes | None) -> None:
        """The tail again without what is damaged in its middle; its whole records keep their numbers."""
        path = segment.path.with_suffix(".new")
        header, self._crc = header_of(self.identity, segment.epoch, segment.first, previous_hash or NO_HASH)
        parts, offset = [header], HEADER_BYTES
        segment.entries.clear()
        for record in records:
            packed, crc = record.packed(self._crc)
            if record.kind == EVENTS:
                segment.entries.append(_entry(record, offset, len(packed), self._crc))
            parts.append(packed)
            self._crc, offset = crc, offset + len(packed)
        handle = self._disk.create(path)
        self._disk.write(handle, b"".join(parts))
        self._disk.sync(handle)
        self._disk.close(handle)
        self._disk.rename(path, segment.path)
        self._disk.sync_folder(self.folder)
        self._handle, self._size = self._disk.open(segment.path), offset

    def _take_up(self, record: Record) -> None:
        if record.kind == EVENTS:
            self.head = max(self.head, record.first + record.count - 1)
        elif record.kind == EPOCH:
            self.epoch, self.head = max(self.epoch, int(record.head["epoch"])), max(self.head, int(record.head["next"]) - 1)
        self.tail.append(record)

    def new_epoch(self, highest: int, why: str) -> None:
        """Go on with numbers that no event had; written now, durable with the next `sync`."""
        following = next_epoch_seq(max(highest, self._high_water[1]))
        record = Record(EPOCH, head={"epoch": self.epoch + 1, "next": following, "why": why})
        self.write([record])
        self.epoch, self.head = self.epoch + 1, following - 1
        self.tail.append(record)

    # -- damage, and what is told about the whole -----------------------------------------------------------------------

    def _note(self, path: Path, offset: int, what: str, first: int, last: int | None) -> None:
        """Name damage, unless it was named and dealt with before."""
        if f"{path.name}:{offset}" not in self._known:
            self.damages.append(Damage(str(path), offset, what, first, last))
            if last is not None and first <= last:
                self.lost.append((first, last))

    def _set_aside(self, path: Path) -> None:
        aside = self.folder / "damaged"
        if any(damage.file == str(path) for damage in self.damages):
            aside.mkdir(exist_ok=True)
            shutil.copy2(path, aside / f"{path.name}.{len(list(aside.iterdir()))}")

    def _read_known(self) -> set[str]:
        with contextlib.suppress(FileNotFoundError):
            return set((self.folder / "damaged" / "KNOWN").read_text(encoding="utf-8").splitlines())
        return set()

    def _remember_known(self) -> None:
        """Damage in sealed segments stays where it is: it is told once, not at every start."""
        sealed = {segment.path for segment in self._segments[:-1]}
        new = {f"{Path(one.file).name}:{one.offset}" for one in self.damages if Path(one.file) in sealed} - self._known
        if new:
            self._known |= new
            (self.folder / "damaged").mkdir(exist_ok=True)
            (self.folder / "damaged" / "KNOWN").write_text("\n".join(sorted(self._known)) + "\n", encoding="utf-8")

    def _read_current(self) -> tuple[uuid.UUID | None, int | None]:
        """(journal, first segment) as CURRENT says, None for what it does not."""
        try:
            told = (self.folder / "CURRENT").read_text(encoding="ascii").split()
            return uuid.UUID(told[0]), int(told[1])
        except FileNotFoundError:
            return None, None
        except (ValueError, IndexError):  # damaged: the headers say the same
            return uuid.UUID(int=0), None

    def _write_current(self) -> None:
        first = self._segments[0].first
        self._replace_file(self.folder / "CURRENT", f"{self.identity} {first}\n".encode("ascii"), sync=True)

    def _read_high_water(self) -> tuple[int, int]:
        """(epoch, seq) of the last event that is known to have been durable."""
        try:
            data = self.folder.parent.joinpath("high-water").read_bytes()
            epoch, seq, crc = _HIGH_WATER.unpack(data)
        except (FileNotFoundError, struct.error):
            return 0, 0
        return (epoch, seq) if zlib.crc32(data[:16]) == crc else (0, 0)

    def note_high_water(self) -> None:
        """Write beside the folder how far this journal has come. Not synced: it may be too low, never too high."""
        if (self.epoch, self.head) > self._high_water:
            self._high_water = (self.epoch, self.head)
            packed = _HIGH_WATER.pack(self.epoch, self.head, 0)[:16]
            self._replace_file(self.folder.parent / "high-water", packed + _CRC.pack(zlib.crc32(packed)), sync=False)

    def _replace_file(self, path: Path, data: bytes, *, sync: bool) -> None:
        new = path.with_name(path.name + ".new")
        with contextlib.suppress(FileNotFoundError):
            new.unlink()
        handle = self._disk.create(new)
        self._disk.write(handle, data)
        if sync:
            self._disk.sync(handle)
        self._disk.close(handle)
        self._disk.rename(new, path)
        if sync:
            self._disk.sync_folder(path.parent)

    # -- appending ------------------------------------------------------------------------------------------------------

    @property
    def tail_bytes(self) -> int:
        """Size of the segment that is written to."""
        return self._size

    @property
    def is_there(self) -> bool:
        """Whether the file that is written to still has its name: a deleted one takes bytes and loses them."""
        return self._segments[-1].path.exists()

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
        try:
            self._disk.write(self._handle, b"".join(parts))
        except OSError:
            # A full disk: nothing of this was confirmed, so what is half written goes, and the next start finds a whole end.
            with contextlib.suppress(OSError):
                self._disk.truncate(self._handle, self._size)
            raise
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

    def roll(self, snapshot: dict[str, Any], *, at_ns: int) -> None:
        """Seal this segment with the router's durable state and begin the next. Durable when it returns."""
        segment = self._segments[-1]
        digest = segment_hash(segment.path.read_bytes())
        following, self.epoch = int(snapshot["next"]), int(snapshot["epoch"])
        seal = Record(
            SEAL,
            head={"hash": digest.hex(), "last_seq": following - 1, "epoch": self.epoch, "at_ns": at_ns},
            body=msgspec.json.encode(snapshot),
        )
        place, *_ = self.write([seal])
        self._disk.write(self._handle, trailer_of(place.offset, place.seed))
        self._disk.sync(self._handle)
        handle, self._handle = self._handle, -1
        self._disk.close(handle)
        segment.sealed_hash, segment.last_at_ns, segment.last_named = digest, at_ns, following - 1
        self._new_segment(max(following, segment.first + 1), digest)

    # -- reading --------------------------------------------------------------------------------------------------------

    @property
    def first_seq(self) -> int:
        """The oldest event that is kept (or the first number its segment may hold)."""
        for segment in self._segments:
            if not segment.indexed:
                return segment.first
            if segment.entries:
                return segment.entries[0].first
        return self.head + 1

    @property
    def n_bytes(self) -> int:
        """Size of all segments."""
        return sum(segment.path.stat().st_size for segment in list(self._segments))

    def read(
        self, after: int, patterns: Sequence[str], *, max_events: int, max_bytes: int, reader: str = ""
    ) -> tuple[list[tuple[int, str, bytes]], int]:
        """Events behind `after` whose type fits: ([(seq, type, envelope)], how far it looked).

        `reader` is the subscription: records meant for one subscription alone are for it only. Damaged records are named in
        `damages` and passed over. It looks at so much at a time that nobody else waits long, and may so find nothing yet.
        """
        found: list[tuple[int, str, bytes]] = []
        size, looked, indexed_bytes = 0, after, self._indexed_bytes
        for n_looked, (segment, entry) in enumerate(self._entries_after(after)):
            if looked > after and (n_looked >= MOST_LOOKED_AT or self._indexed_bytes - indexed_bytes > MOST_INDEXED_BYTES):
                return found, looked
            wanted = any(matches(pattern, kind) for kind in entry.types for pattern in patterns)
            if wanted and (entry.only is None or entry.only == reader):
                record = self._load(segment, entry)
                if record is None:
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
        """The envelope of one event, or None when it is not kept, or damaged."""
        for segment, entry in self._entries_after(seq - 1):
            if entry.first <= seq < entry.first + entry.count:
                record = self._load(segment, entry)
                return None if record is None else decode_batch(record.body)[seq - entry.first]
            return None
        return None

    def chains(self) -> dict[str, tuple[int, str, int]]:
        """How far each outbox goes without a hole: {outbox: (n, id, seq)}. Reads every byte; needed only after damage."""
        told: dict[str, tuple[int, str, int]] = {}
        for segment in list(self._segments):
            found, _ = scan(segment.path.read_bytes(), header_is_whole=True)
            for record in (one.record for one in found):
                outbox = record.head.get("o")
                if record.kind == EVENTS and outbox and (outbox not in told or record.head.get("p", 0) == told[outbox][0]):
                    told[outbox] = (int(record.head["n"]), str(record.head["id"]), record.first + record.count - 1)
        return told

    def seq_at(self, at_ns: int) -> int:
        """Seq of the first event that came to this broker at or after `at_ns` (its wall clock), else head + 1."""
        for segment in self._segments:
            if segment.sealed_hash and segment.last_at_ns < at_ns:
                continue
            self._index(segment)
            for entry in segment.entries:
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

    def _index(self, segment: _Segment) -> list[Record]:
        """Find the records of a sealed segment, if that was not done yet; returns them all."""
        if segment.indexed:
            return []
        segment.indexed = True
        data = segment.path.read_bytes()
        self._indexed_bytes += len(data)
        found, holes = scan(data, header_is_whole=read_header(data[:HEADER_BYTES]) is not None)
        for one in found:
            if one.record.kind == EVENTS:
                segment.entries.append(_entry(one.record, one.offset, one.end - one.offset, one.seed))
        for hole in holes:
            before = max(
                (entry.first + entry.count - 1 for entry in segment.entries if entry.offset < hole.offset), default=segment.first - 1
            )
            after = min((entry.first for entry in segment.entries if entry.offset >= hole.end), default=None)
            self._note(segment.path, hole.offset, hole.why, before + 1, segment.last_named if after is None else after - 1)
        return [one.record for one in found]

    def _load(self, segment: _Segment, entry: _Entry) -> Record | None:
        """A record of events from the disk; None, and named, when it is damaged."""
        file = self._readers.get(segment.path)
        try:
            if file is None:
                file = segment.path.open("rb")
                self._readers[segment.path] = file
                if len(self._readers) > _MOST_OPEN_FILES:
                    self._readers.popitem(last=False)[1].close()
            self._readers.move_to_end(segment.path)
            file.seek(entry.offset)
            return parse(file.read(entry.length), 0, entry.seed)[0]
        except (ValueError, OSError) as error:
            self._note(segment.path, entry.offset, str(error), entry.first, entry.first + entry.count - 1)
            self._known.add(f"{segment.path.name}:{entry.offset}")  # once is enough
            return None

    def dealt_with(self) -> None:
        """What was found damaged has been told and healed: it is not told again, also after a start."""
        self._known -= {f"{Path(one.file).name}:{one.offset}" for one in self.damages}
        self._remember_known()
        self.lost.clear()

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
            # First the word that it may be missing, then the deed: missing without that word is damage.
            del self._segments[0]
            self._write_current()
            self._disk.unlink(segment.path)
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


def verify(folder: Path, *, progress: Callable[[int, int], None] = lambda _done, _all: None) -> dict[str, Any]:
    """Read every byte of a journal (of a stopped broker, or a copy) and name all damage; changes nothing.

    Returns {segments, events, first_seq, last_seq, bytes, damages: [text]}. Raises `Failed` when there is no journal.
    """
    paths = sorted(folder.glob("*.seg"))
    if not paths:
        raise Failed("there is no journal here", where=str(folder), remedy="Name the folder that holds *.seg files")
    damages: list[str] = []
    n_events, size, first_seq, last_seq = 0, 0, None, 0
    previous_hash: bytes | None = None  # what was before the oldest that is kept is not known
    total = sum(path.stat().st_size for path in paths)
    for path in paths:
        data = path.read_bytes()
        size += len(data)
        header = read_header(data[:HEADER_BYTES])
        if header is None:
            damages.append(f"{path.name}: byte 0: the header is damaged")
        elif previous_hash is not None and header[3] != previous_hash:
            damages.append(f"{path.name}: byte 0: it does not follow the segment before it")
        found, holes = scan(data, header_is_whole=header is not None)
        for hole in holes:
            before = max(
                (one.record.first + one.record.count - 1 for one in found if one.end <= hole.offset and one.record.first), default=last_seq
            )
            after = min((one.record.first for one in found if one.offset >= hole.end and one.record.kind == EVENTS), default=None)
            upto = "the segment's end" if after is None else str(after - 1)
            damages.append(f"{path.name}: byte {hole.offset}: {hole.why}; events {before + 1} to {upto}")
        for record in (one.record for one in found if one.record.kind == EVENTS):
            n_events += record.count
            first_seq = record.first if first_seq is None else first_seq
            last_seq = record.first + record.count - 1
        previous_hash = None
        if found and found[-1].record.kind == SEAL:
            seal = found[-1]
            previous_hash = bytes.fromhex(str(seal.record.head.get("hash", "")))
            if segment_hash(data[: seal.offset]) != previous_hash:
                damages.append(f"{path.name}: byte {seal.offset}: the seal does not fit the segment")
            if data[seal.end :] != trailer_of(seal.offset, seal.seed):
                damages.append(f"{path.name}: byte {seal.end}: the trailer is damaged")
        elif path != paths[-1]:
            damages.append(f"{path.name}: byte {len(data)}: the seal is missing")
        progress(size, total)
    return {"segments": len(paths), "events": n_events, "first_seq": first_seq, "last_seq": last_seq, "bytes": size, "damages": damages}
