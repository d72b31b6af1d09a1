"""The bytes of one segment of the journal <-> its records. Pure.

    segment  header | record ... | seal record | trailer        (the last segment has neither seal nor trailer)
    header   magic 8, journal UUID 16, epoch u64, first seq u64, hash of the segment before 32, crc u32
    record   length u32, crc u32, kind u8, first seq u64, count u32, n0 u64, head length u32, head (JSON), body
    trailer  offset of the seal u64, crc that the seal is chained to u32, "SEAL"

`crc` is zlib's crc32 of everything behind it, seeded with the crc of the record before: a stale record of an old file cannot pass.
A damaged record does not take its neighbours with it: its stored crc is the seed of the next, which is how reading finds on.
"""

from __future__ import annotations

import hashlib
import re
import struct
import uuid
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import IO, Any

import msgspec

__all__ = [
    "CURSORS",
    "DEAD",
    "EPOCH",
    "EVENTS",
    "HEADER_BYTES",
    "LEASE",
    "NO_HASH",
    "SEAL",
    "Found",
    "Hole",
    "Record",
    "header_of",
    "last_crc",
    "next_epoch_seq",
    "parse",
    "read_header",
    "read_seal",
    "scan",
    "segment_hash",
    "trailer_of",
]

EVENTS, CURSORS, DEAD, LEASE, EPOCH, SEAL = 1, 2, 3, 4, 6, 7

MAGIC = b"NBSEG\x00\x00\x01"
_HEADER = struct.Struct("<8s16sQQ32s")
_RECORD = struct.Struct("<BQIQI")
_FRAME = struct.Struct("<II")
_TRAILER = struct.Struct("<QI4s")
_CRC = struct.Struct("<I")
HEADER_BYTES = _HEADER.size + 4
# A seal holds every dead letter; the length of a record is bounded by its file anyway.
LARGEST_RECORD = 256 << 20
# A batch is at most 2 MiB: so far reading looks for the next record when the length of one is damaged.
_LONGEST_SEARCH = 4 << 20
NO_HASH = b"\0" * 32
# A record as it looks from outside: frame 8, kind, first 8, count 4, n0 8, head length 4, and a head that is a JSON object.
_LOOKS_LIKE_A_RECORD = re.compile(rb"(?=.{8}[\x01-\x07].{24}\{)", re.DOTALL)
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
class Found:
    """A record that is whole, where it lies, and the crc it is chained to."""

    record: Record
    offset: int
    end: int
    seed: int


@dataclass(frozen=True, slots=True)
class Hole:
    """Bytes that are no record; when `end` is the end of the file, nothing whole follows."""

    offset: int
    end: int
    why: str


def header_of(identity: uuid.UUID, epoch: int, first: int, previous_hash: bytes) -> tuple[bytes, int]:
    """The header's bytes, and the crc that the first record is chained to."""
    header = _HEADER.pack(MAGIC, identity.bytes, epoch, first, previous_hash)
    crc = zlib.crc32(header)
    return header + _CRC.pack(crc), crc


def trailer_of(offset: int, seed: int) -> bytes:
    """What stands behind the seal that begins at `offset` and is chained to `seed`."""
    return _TRAILER.pack(offset, seed, b"SEAL")


def last_crc(data: bytes, found: Sequence[Found]) -> int:
    """The crc that the next record of this segment is chained to."""
    if not found:
        return _seeds(data)[0]
    return zlib.crc32(data[found[-1].offset + _FRAME.size : found[-1].end], found[-1].seed)


def read_header(data: bytes) -> tuple[uuid.UUID, int, int, bytes] | None:
    """(journal, epoch, first seq, hash of the segment before), or None when it is damaged."""
    if len(data) < HEADER_BYTES or _CRC.unpack(data[_HEADER.size : HEADER_BYTES])[0] != zlib.crc32(data[: _HEADER.size]):
        return None
    magic, identity, epoch, first, before = _HEADER.unpack(data[: _HEADER.size])
    return (uuid.UUID(bytes=identity), epoch, first, before) if magic == MAGIC else None


def read_seal(file: IO[bytes], size: int) -> Record | None:
    """The seal that the trailer at the end of the file points to, or None."""
    try:
        file.seek(max(0, size - _TRAILER.size))
        offset, seed, word = _TRAILER.unpack(file.read(_TRAILER.size))
        if word != b"SEAL" or offset >= size:
            return None
        file.seek(offset)
        seal, end, _ = parse(file.read(size - offset), 0, seed)
    except (ValueError, struct.error):
        return None
    return seal if seal.kind == SEAL and offset + end == size - _TRAILER.size else None


def segment_hash(content: bytes) -> bytes:
    """The hash of a segment's bytes before its seal, chained to the hash of the segment before it (which its header tells)."""
    before = content[_HEADER.size - 32 : _HEADER.size]
    return hashlib.sha256(before + hashlib.sha256(content).digest()).digest()


def _seeds(data: bytes) -> tuple[int, int]:
    """The crc that the first record is chained to: of the header as it is, and as it was."""
    return zlib.crc32(data[: _HEADER.size]), _CRC.unpack(data[_HEADER.size : HEADER_BYTES])[0]


def parse(data: bytes, offset: int, seed: int) -> tuple[Record, int, int]:
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


def scan(data: bytes, *, header_is_whole: bool) -> tuple[list[Found], list[Hole]]:
    """All whole records of a segment up to its seal, and what is between them."""
    found: list[Found] = []
    holes: list[Hole] = []
    if len(data) < HEADER_BYTES:
        return found, [Hole(0, len(data), "the segment is cut short")]
    offset = HEADER_BYTES
    seeds: tuple[int, ...] = _seeds(data)[:1] if header_is_whole else _seeds(data)
    while offset < len(data):
        one, why = _first_that_fits(data, offset, seeds)
        if one is None:
            one = _find_on(data, offset, seeds)
            holes.append(Hole(offset, len(data) if one is None else one.offset, why))
            if one is None:
                break
        found.append(one)
        if one.record.kind == SEAL:
            break
        offset, seeds = one.end, _FRAME.unpack_from(data, one.offset)[1:]
    return found, holes


def _first_that_fits(data: bytes, offset: int, seeds: Sequence[int]) -> tuple[Found | None, str]:
    why = ""
    for seed in seeds:
        try:
            record, end, _ = parse(data, offset, seed)
        except ValueError as error:
            why = why or str(error)
        else:
            return Found(record, offset, end, seed), ""
    return None, why


def _find_on(data: bytes, offset: int, seeds: Sequence[int]) -> Found | None:
    """The next whole record behind the damaged one at `offset`.

    What it is chained to is the damaged record's crc: as it stands there, or, when that crc is the damage, as it comes out of the
    content.
    """
    if offset + _FRAME.size > len(data):
        return None
    length, stored = _FRAME.unpack_from(data, offset)
    begin = offset + _FRAME.size
    candidates = [stored]
    if length <= len(data) - begin:
        candidates += [zlib.crc32(data[begin : begin + length], seed) for seed in seeds]
        one, _ = _first_that_fits(data, begin + length, candidates)
        if one is not None:
            return one
    for match in _LOOKS_LIKE_A_RECORD.finditer(data, begin, min(len(data), offset + _LONGEST_SEARCH)):
        at = match.start()
        seeds_there = [stored, *(zlib.crc32(data[begin:at], seed) for seed in seeds)] if at - begin < 1 << 16 else [stored]
        one, _ = _first_that_fits(data, at, seeds_there)
        if one is not None:
            return one
    return None
