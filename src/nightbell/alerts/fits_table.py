"""The first binary table of a FITS file, as columns, from bytes that a stranger sent.

Everything is checked against the bytes that are really there before a single row is allocated: header length, card syntax,
column formats, row width, row count. A general reader trusts the header, and a header can claim 2^60 rows.
"""

from __future__ import annotations

import gzip
import mmap
import os
import re
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from nightbell.contracts.errors import BadInput, NoSuchInput

__all__ = ["LARGEST_NOTICE_BYTES", "LARGEST_OPERATOR_BYTES", "Table", "gunzip", "inflate", "open_file", "read_table"]

LARGEST_NOTICE_BYTES = 256 << 20
"""Unpacked size of a map that arrives in a notice."""
LARGEST_OPERATOR_BYTES = 2 << 30
"""Unpacked size of a map file that an operator names."""
LARGEST_RATIO = 200
"""Unpacked over packed size of what arrives in a notice."""
LARGEST_ROWS = 4_000_000
LARGEST_ROWS_OPERATOR = 60_000_000
LARGEST_HEADER_BLOCKS = 64
LARGEST_REPEAT = 4096
GZIP = b"\x1f\x8b"
BLOCK = 2880
CARD = 80

_FORMATS = {"K": ">i8", "J": ">i4", "I": ">i2", "D": ">f8", "E": ">f4", "B": "u1"}
_OPAQUE = {"A": 8, "L": 8, "X": 1, "C": 64, "M": 128}
"""Bits of what no sky map needs: text, truth, bits, complex. Such columns may stand there and are passed over."""
_TFORM = re.compile(r"([0-9]{0,9})([KJIDEBALXCM])")
_CARD = re.compile(r"([A-Z0-9_-]{1,8}) *= *(?:'((?:[^']|'')*)'|([^/]*))")


@dataclass(frozen=True)
class Table:
    """Header values and numeric columns: views of the bytes, big-endian as FITS has them, shape (rows,) or (rows, repeat)."""

    header: dict[str, str | int | float | bool]
    columns: dict[str, NDArray[Any]]
    units: dict[str, str]
    n_rows: int


def gunzip(data: bytes, *, where: str, largest_bytes: int, largest_ratio: int | None = LARGEST_RATIO) -> bytes:
    """`data` unpacked when it is gzip, else `data` itself. Stops at the limits instead of filling the memory."""
    if data[:2] != GZIP:
        return data
    return inflate(data, where=where, largest_bytes=largest_bytes, largest_ratio=largest_ratio)


def inflate(data: bytes, *, where: str, largest_bytes: int, largest_ratio: int | None = LARGEST_RATIO, raw: bool = False) -> bytes:
    """What zlib makes of `data`: gzip, or `raw` deflate without any head."""
    limit = largest_bytes if largest_ratio is None else min(largest_bytes, largest_ratio * len(data))
    form = -15 if raw else 31
    unpacker = zlib.decompressobj(form)
    parts: list[bytes] = []
    size, rest = 0, data
    try:
        while rest:
            part = unpacker.decompress(rest, min(1 << 22, limit + 1 - size))
            rest = unpacker.unconsumed_tail
            size += len(part)
            parts.append(part)
            if size > limit:
                raise BadInput(f"unpacks to more than {limit:,} bytes", where=where, remedy="Unpack it yourself and look at what it is")
            if unpacker.eof:
                if unpacker.unused_data[:2] != GZIP:
                    break
                rest, unpacker = unpacker.unused_data, zlib.decompressobj(form)  # files joined by cat are one file
    except zlib.error as error:
        raise BadInput(f"is not whole gzip data ({error})", where=where, remedy="Fetch the file again") from error
    if not unpacker.eof:
        raise BadInput("is cut off inside its gzip data", where=where, remedy="Fetch the file again")
    return b"".join(parts)


def open_file(file: Path) -> bytes | mmap.mmap:
    """The bytes of a file that an operator names, mapped into memory; a packed one is unpacked beside, as far as its table goes.

    So a map of gigabytes needs no memory for its bytes, and a bomb unpacks no further than a header claims that was checked.
    """
    where = str(file)
    try:
        with file.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            if size == 0:
                raise BadInput("is empty", where=where, remedy="Fetch the file again")
            if size > LARGEST_OPERATOR_BYTES:
                raise BadInput(f"{size:,} bytes are more than {LARGEST_OPERATOR_BYTES:,}", where=where, remedy="Use the multi-order map")
            if stream.read(2) != GZIP:
                return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
            stream.seek(0)
            return _unpacked(stream, where)
    except OSError as error:
        raise NoSuchInput(f"cannot be read ({error.strerror or error})", where=where, remedy="Name a sky map file") from error


def _unpacked(stream: IO[bytes], where: str) -> bytes | mmap.mmap:
    try:
        with gzip.GzipFile(fileobj=stream) as packed, tempfile.TemporaryFile() as plain:
            start = packed.read(LARGEST_HEADER_BLOCKS * BLOCK)
            limit = _end_of_table(start, where) or LARGEST_OPERATOR_BYTES
            plain.write(start)
            size = len(start)
            while size < limit and (part := packed.read(min(1 << 20, limit - size))):
                plain.write(part)
                size += len(part)
            plain.flush()
            return mmap.mmap(plain.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise BadInput(f"is not whole gzip data ({error})", where=where, remedy="Fetch the file again") from error


def _end_of_table(start: bytes, where: str) -> int | None:
    """Where the first table ends, as its header says; None when `start` does not reach so far. Raises for what is no FITS file."""
    _check_start(start, where)
    try:
        header, offset = _find_table(start, where)
        return min(offset + _data_size(header, where), LARGEST_OPERATOR_BYTES)
    except BadInput:  # said again, with the whole file at hand
        return None


def read_table(data: bytes | mmap.mmap, *, where: str, largest_rows: int = LARGEST_ROWS) -> Table:
    """The first BINTABLE of the FITS file `data`. Raises `BadInput` naming the keyword that is wrong."""
    _check_start(data, where)
    header, offset = _find_table(data, where)
    return _columns(data, offset, header, where, largest_rows)


def _check_start(data: bytes | mmap.mmap, where: str) -> None:
    if data[:9] != b"SIMPLE  =":
        raise BadInput(
            "is not a FITS file (it does not begin with SIMPLE)", where=where, remedy="Give a multi-order or flat HEALPix map in FITS"
        )


def _find_table(data: bytes | mmap.mmap, where: str) -> tuple[dict[str, str | int | float | bool], int]:
    """(header of the first table, where its rows begin)."""
    offset = 0
    for number in range(8):
        header, offset = _read_header(data, offset, where)
        if number and header.get("XTENSION") == "BINTABLE":
            return header, offset
        offset += -(-_data_size(header, where) // BLOCK) * BLOCK
        if offset >= len(data):
            break
    raise BadInput("holds no binary table", where=where, remedy="Give a multi-order or flat HEALPix map in FITS")


def _read_header(data: bytes | mmap.mmap, start: int, where: str) -> tuple[dict[str, str | int | float | bool], int]:
    values: dict[str, str | int | float | bool] = {}
    for position in range(start, start + LARGEST_HEADER_BLOCKS * BLOCK, CARD):
        raw = data[position : position + CARD]
        if len(raw) < CARD:
            raise BadInput("ends inside a header", where=where, remedy="Fetch the file again")
        try:
            card = raw.decode("ascii")
        except UnicodeDecodeError as error:
            raise BadInput("has a header with bytes beyond ASCII", where=where, remedy="Fetch the file again") from error
        if card.rstrip() == "END":
            used = position + CARD - start
            return values, start + -(-used // BLOCK) * BLOCK
        if card[8:10] == "= " and (match := _CARD.match(card)) is not None:
            values.setdefault(match[1], _value(match))
    raise BadInput(f"has a header longer than {LARGEST_HEADER_BLOCKS} blocks", where=where, remedy="This is no sky map")


def _value(match: re.Match[str]) -> str | int | float | bool:
    if match[2] is not None:
        return match[2].replace("''", "'").rstrip()
    text = match[3].strip()
    if text in {"T", "F"}:
        return text == "T"
    try:
        return int(text)
    except ValueError:
        try:
            return float(text.replace("D", "E"))
        except ValueError:
            return text


def _integer(header: dict[str, Any], key: str, low: int, high: int, where: str) -> int:
    value = header.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise BadInput(f"{value!r} is outside {low} to {high}", where=f"{where}: {key}", remedy="Fetch the file again; its header is wrong")
    return value


def _data_size(header: dict[str, Any], where: str) -> int:
    n_axes = _integer(header, "NAXIS", 0, 9, where)
    if not n_axes:
        return 0
    size = abs(_integer(header, "BITPIX", -64, 64, where)) // 8
    for axis in range(1, n_axes + 1):
        size *= _integer(header, f"NAXIS{axis}", 0, 1 << 60, where)
    return size


def _columns(data: bytes | mmap.mmap, start: int, header: dict[str, Any], where: str, largest_rows: int) -> Table:
    row, shown = _row_format(header, where)
    width = _integer(header, "NAXIS1", 1, 1 << 24, where)
    if width != row.itemsize:
        raise BadInput(
            f"says {width} bytes a row, its columns have {row.itemsize}", where=f"{where}: NAXIS1", remedy="Fetch the file again"
        )
    n_rows = _integer(header, "NAXIS2", 0, 1 << 60, where)
    present = max(0, len(data) - start) // width
    if n_rows > present:
        raise BadInput(
            f"claims {n_rows:,} rows, {present:,} are there", where=f"{where}: NAXIS2", remedy="Fetch the file again; it is cut off"
        )
    total = n_rows * max((int(np.prod(row[name].shape)) for name in shown), default=1)
    if total > largest_rows:
        raise BadInput(f"{total:,} cells are more than {largest_rows:,}", where=f"{where}: NAXIS2", remedy="Use the multi-order map")
    rows = np.frombuffer(data, dtype=row, count=n_rows, offset=start)
    columns: dict[str, NDArray[Any]] = {}
    units: dict[str, str] = {}
    for name, i in shown.items():
        columns[name] = _scaled(rows[name], header.get(f"TSCAL{i}", 1), header.get(f"TZERO{i}", 0), f"{where}: TZERO{i}")
        units[name] = str(header.get(f"TUNIT{i}", "")).strip()
    return Table(header, columns, units, n_rows)


def _row_format(header: dict[str, Any], where: str) -> tuple[np.dtype[np.void], dict[str, int]]:
    """(numpy's picture of a row, name -> number of each numeric column)."""
    if header.get("NAXIS") != 2 or header.get("BITPIX") != 8 or header.get("PCOUNT", 0) != 0:
        raise BadInput("its table is not plain (NAXIS 2, BITPIX 8, PCOUNT 0)", where=where, remedy="Variable-length arrays are not read")
    names: list[str] = []
    formats: list[Any] = []
    offsets: list[int] = []
    numbers: dict[str, int] = {}
    width = 0
    for i in range(1, _integer(header, "TFIELDS", 1, 64, where) + 1):
        match = _TFORM.fullmatch(str(header.get(f"TFORM{i}", "")).strip())
        repeat = int(match[1] or 1) if match else -1
        if match is None or not 0 <= repeat <= LARGEST_REPEAT:
            raise BadInput(
                f"{header.get(f'TFORM{i}')!r} is not a format this reader knows",
                where=f"{where}: TFORM{i}",
                remedy=f"Known: K J I D E B (and A L X C M, passed over) with a repeat of at most {LARGEST_REPEAT}",
            )
        if match[2] in _OPAQUE or repeat == 0:
            width += -(-repeat * _OPAQUE.get(match[2], 0) // 8)
            continue
        name = str(header.get(f"TTYPE{i}", f"COLUMN{i}")).strip().upper()
        name = name if name not in names else f"{name}_{i}"
        one = np.dtype(_FORMATS[match[2]])
        names.append(name)
        formats.append(one if repeat == 1 else (one, (repeat,)))
        offsets.append(width)
        numbers[name] = i
        width += repeat * one.itemsize
    return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": max(width, 1)}), numbers


def _scaled(column: NDArray[Any], scale: Any, zero: Any, where: str) -> NDArray[Any]:
    if scale in (1, 1.0) and zero in (0, 0.0):
        return column
    # FITS has no unsigned integers: an offset of half the range stands for them.
    if scale in (1, 1.0) and column.dtype.kind == "i" and zero == 1 << (8 * column.dtype.itemsize - 1):
        kind = f"u{column.dtype.itemsize}"
        flipped: NDArray[Any] = column.astype(f"i{column.dtype.itemsize}").view(kind) ^ np.array(zero, dtype=kind)
        return flipped
    if not all(isinstance(one, int | float) and abs(one) < 1e300 for one in (scale, zero)):
        raise BadInput(f"({scale!r}, {zero!r}) are no scale and offset", where=where, remedy="Fetch the file again; its header is wrong")
    return np.asarray(column.astype(np.float64) * float(scale) + float(zero))
