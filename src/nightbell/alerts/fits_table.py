"""The first binary table of a FITS file, as columns, from bytes that a stranger sent.

Everything is checked against the bytes that are really there before a single row is allocated: header length, card syntax,
column formats, row width, row count. A general reader trusts the header, and a header can claim 2^60 rows.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightbell.contracts.errors import BadInput

__all__ = ["LARGEST_NOTICE_BYTES", "LARGEST_OPERATOR_BYTES", "Table", "gunzip", "inflate", "read_table"]

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
_TFORM = re.compile(r"(\d{0,9})([KJIDEBA])")
_CARD = re.compile(r"([A-Z0-9_-]{1,8}) *= *(?:'((?:[^']|'')*)'|([^/]*))")


@dataclass(frozen=True)
class Table:
    """Header values and columns (views of the bytes, big-endian as FITS has them)."""

    header: dict[str, str | int | float | bool]
    columns: dict[str, NDArray[Any]]
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


def read_table(data: bytes, *, where: str, largest_rows: int = LARGEST_ROWS) -> Table:
    """The first BINTABLE of the FITS file `data`. Raises `BadInput` naming the keyword that is wrong."""
    if data[:9] != b"SIMPLE  =":
        raise BadInput(
            "is not a FITS file (it does not begin with SIMPLE)", where=where, remedy="Give a multi-order or flat HEALPix map in FITS"
        )
    offset = 0
    for number in range(8):
        header, offset = _read_header(data, offset, where)
        size = _data_size(header, where)
        if number and header.get("XTENSION") == "BINTABLE":
            return _columns(data, offset, header, where, largest_rows)
        offset += -(-size // BLOCK) * BLOCK
        if offset >= len(data):
            break
    raise BadInput("holds no binary table", where=where, remedy="Give a multi-order or flat HEALPix map in FITS")


def _read_header(data: bytes, start: int, where: str) -> tuple[dict[str, str | int | float | bool], int]:
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


def _columns(data: bytes, start: int, header: dict[str, Any], where: str, largest_rows: int) -> Table:
    if header.get("NAXIS") != 2 or header.get("BITPIX") != 8 or header.get("PCOUNT", 0) != 0:
        raise BadInput("its table is not plain (NAXIS 2, BITPIX 8, PCOUNT 0)", where=where, remedy="Variable-length arrays are not read")
    n_fields = _integer(header, "TFIELDS", 1, 64, where)
    names: list[str] = []
    formats: list[Any] = []
    for i in range(1, n_fields + 1):
        match = _TFORM.fullmatch(str(header.get(f"TFORM{i}", "")).strip())
        repeat = int(match[1] or 1) if match else 0
        if match is None or not 1 <= repeat <= LARGEST_REPEAT:
            raise BadInput(
                f"{header.get(f'TFORM{i}')!r} is not a format this reader knows",
                where=f"{where}: TFORM{i}",
                remedy=f"Known: K J I D E B A with a repeat of 1 to {LARGEST_REPEAT}",
            )
        kind = f"S{repeat}" if match[2] == "A" else _FORMATS[match[2]]
        formats.append(kind if match[2] == "A" or repeat == 1 else (kind, (repeat,)))
        name = str(header.get(f"TTYPE{i}", f"COLUMN{i}")).strip().upper()
        names.append(name if name not in names else f"{name}_{i}")
    row = np.dtype(list(zip(names, formats, strict=True)))
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
    total = n_rows * max(int(np.prod(row[name].shape)) for name in names)
    if total > largest_rows:
        raise BadInput(f"{total:,} cells are more than {largest_rows:,}", where=f"{where}: NAXIS2", remedy="Use the multi-order map")
    rows = np.frombuffer(data, dtype=row, count=n_rows, offset=start)
    columns: dict[str, NDArray[Any]] = {}
    for i, name in enumerate(names, 1):
        column = rows[name]
        columns[name] = _scaled(column, header.get(f"TSCAL{i}", 1), header.get(f"TZERO{i}", 0), f"{where}: TZERO{i}").reshape(-1)
    return Table(header, columns, n_rows)


def _scaled(column: NDArray[Any], scale: Any, zero: Any, where: str) -> NDArray[Any]:
    if scale in (1, 1.0) and zero in (0, 0.0):
        return column
    # FITS has no unsigned integers: an offset of half the range stands for them.
    if scale in (1, 1.0) and column.dtype.kind == "i" and zero == 1 << (8 * column.dtype.itemsize - 1):
        kind = f"u{column.dtype.itemsize}"
        flipped: NDArray[Any] = column.astype(f"i{column.dtype.itemsize}").view(kind) ^ np.array(zero, dtype=kind)
        return flipped
    raise BadInput(f"scaled columns ({scale}, {zero}) are not read", where=where, remedy="Write the map without TSCAL and TZERO")
