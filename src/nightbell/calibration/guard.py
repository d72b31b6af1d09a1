"""Bytes of a file -> pixels and header text, or a refusal by name: what a FITS file claims is checked before astropy sees it.

Pure Python until the claims hold. Plain FITS, gzip (inflated no further than its header claims) and tile-compressed images
(RICE, GZIP: decoded by astropy once the table's claims hold). A refusal is `BadInput` whose `word` is one of:

    NOT_FITS TRUNCATED_HEADER TRUNCATED_DATA TRUNCATED_GZIP SIZE BAD_NAXIS BAD_BITPIX BAD_CARD NO_END GZIP_BOMB
    AMBIGUOUS_HDU NO_IMAGE CUBE WRONG_BZERO NOT_FINITE NOT_A_FILE PRODUCT
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import re
import stat
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from nightbell.contracts.errors import BadInput, NoSuchInput

__all__ = ["Ambiguity", "RawFrame", "read_frame"]

BLOCK = 2880
CARD = 80
LARGEST_HEADER_BYTES = 360 * BLOCK
LARGEST_FILE_BYTES = 2 << 30
LARGEST_AXIS = 65536
LARGEST_GZIP_RATIO = 200
"""Beyond it an archive of more than 64 MB inside is a bomb, not a frame: real frames reach 3, blank ones 1000 but small."""
_BITPIX = {8: 1, 16: 2, 32: 4, 64: 8, -32: 4, -64: 8}
_COMPANIONS = {"UNCERT", "MASK", "FLAGS"}
"""Extensions that astropy's CCDData writes beside its image: they are of the frame, not frames."""
_OF_ITS_OWN_UNIT = re.compile(r"SIMPLE|XTENSION|BITPIX|NAXIS\d*|EXTEND|PCOUNT|GCOUNT|BZERO|BSCALE|BLANK|CHECKSUM|DATASUM|EXTNAME|END|")
"""Keywords that describe the unit they stand in."""
_INTEGER = re.compile(r"[+-]?\d{1,18}")


@dataclass(frozen=True)
class Ambiguity:
    """Something in the input that can be read in more than one way: what was taken, and why."""

    code: str
    detail: str


@dataclass(frozen=True)
class RawFrame:
    """A file as it came: its hashes, the header of its image as 80-character cards, and the pixels `[y, x]`.

    `pixels` is uint16 for unsigned data of 8 and 16 bits and float32 for everything else; nothing has been done to them.
    `ceiling_adu` is the largest count that can be stored, infinite where the file's type sets no such limit. For an image in an
    extension, cards that only the first unit has stand behind its own.
    """

    path: Path
    sha256: str
    size_bytes: int
    data_sha256: str
    header_text: str
    pixels: NDArray[Any]
    ceiling_adu: float
    hdu: int
    ambiguities: tuple[Ambiguity, ...]


@dataclass(frozen=True)
class _Hdu:
    offset: int
    data_offset: int
    data_bytes: int
    cards: dict[str, str]
    text: str


def read_frame(path: Path) -> RawFrame:
    """The one image of the file at `path`. Raises `BadInput` by name, or `Missing`."""
    content = _read_bytes(path)
    digest = hashlib.sha256(content).hexdigest()
    size = len(content)
    ambiguities: list[Ambiguity] = []
    if content[:2] == b"\x1f\x8b":
        content = _inflate(content, path)
    elif path.suffix.lower() not in {".fits", ".fit", ".fts", ".fz", ".gz", ".new"}:
        ambiguities.append(Ambiguity("NAME", f"{path.name} holds FITS although its name says otherwise"))
    if not content.startswith(b"SIMPLE  ="):
        raise _bad("NOT_FITS", path, "it does not begin with 'SIMPLE  ='", "Give a FITS file (plain, .gz or .fz)")
    first, hdu, number = _find_image(content, path, ambiguities)
    if hdu.cards.get("ZIMAGE") == "T":
        pixels, text = _decode_tiles(content, number, path)
    else:
        pixels, text = _decode(content, hdu, path, ambiguities), hdu.text
    if number > 0:
        text += _inherited(first.text, text)
    return RawFrame(
        path=path,
        sha256=digest,
        size_bytes=size,
        data_sha256=hashlib.sha256(np.ascontiguousarray(pixels).data).hexdigest(),
        header_text=text,
        pixels=_finite(pixels, path, ambiguities),
        ceiling_adu=_ceiling_adu(hdu.cards, path),
        hdu=number,
        ambiguities=tuple(ambiguities),
    )


def _bad(code: str, path: Path, what: str, remedy: str, field: str = "") -> BadInput:
    return BadInput(f"{code}: {what}", where=f"{path}: {field}" if field else str(path), remedy=remedy, code=code)


def _read_bytes(path: Path) -> bytes:
    # O_NONBLOCK: opening a FIFO must not wait for a writer that never comes.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        handle = os.open(path, flags)
    except FileNotFoundError as error:
        raise NoSuchInput("there is no such file", where=str(path), remedy="Check the path") from error
    except OSError as error:
        raise _bad("NOT_A_FILE", path, f"cannot be opened: {error.strerror}", "Check the file's permissions") from error
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise _bad("NOT_A_FILE", path, "it is not a regular file", "Give a file")
        if status.st_size > LARGEST_FILE_BYTES:
            raise _bad("SIZE", path, f"{status.st_size} bytes are more than {LARGEST_FILE_BYTES}", "Split it")
        return file.read()


def _inflate(content: bytes, path: Path) -> bytes:
    """The archive's content, no further than the first image inside claims (and a block for what stands behind it)."""
    inflater = zlib.decompressobj(wbits=31)
    try:
        head = inflater.decompress(content, LARGEST_HEADER_BYTES)
    except zlib.error as error:
        raise _bad("TRUNCATED_GZIP", path, f"the archive is damaged: {error}", "Copy the file again") from error
    if not head.startswith(b"SIMPLE  ="):
        raise _bad("NOT_FITS", path, "what is inside does not begin with 'SIMPLE  ='", "Give a FITS file")
    if inflater.eof:
        return head
    if len(head) < LARGEST_HEADER_BYTES:
        # The stream ended before its own end mark: the file was cut.
        raise _bad("TRUNCATED_GZIP", path, f"the archive ends after {len(head)} bytes of content", "Copy the file again")
    hdu = _parse_hdu(head, 0, path, None, complete=False)
    extended = hdu.cards.get("EXTEND") == "T" and hdu.data_bytes == 0
    claim = LARGEST_FILE_BYTES if extended else hdu.data_offset + _padded(hdu.data_bytes) + BLOCK
    if claim > max(LARGEST_GZIP_RATIO * len(content), 64 << 20) and not extended:
        raise _bad("GZIP_BOMB", path, f"{len(content)} bytes claim to be {claim}", "Give the file without compression")
    limit = min(claim, max(LARGEST_GZIP_RATIO * len(content), 64 << 20))
    try:
        rest = inflater.decompress(inflater.unconsumed_tail, limit - len(head)) if limit > len(head) else b""
    except zlib.error as error:
        raise _bad("TRUNCATED_GZIP", path, f"the archive is damaged: {error}", "Copy the file again") from error
    if not inflater.eof and len(head) + len(rest) < limit:
        raise _bad("TRUNCATED_GZIP", path, f"the archive ends after {len(head) + len(rest)} bytes of content", "Copy the file again")
    return head + rest


def _padded(n: int) -> int:
    return -(-n // BLOCK) * BLOCK


def _find_image(content: bytes, path: Path, ambiguities: list[Ambiguity]) -> tuple[_Hdu, _Hdu, int]:
    """The first unit, the unit of the one image, and its number."""
    units = list(_walk(content, path, ambiguities))
    if "NBPRODID" in units[0].cards:
        kind = units[0].cards.get("IMAGETYP", "").lower()
        remedy = "Calibrate into the folder that holds it" if kind.startswith("master") else "Give the raw frame that it was made of"
        raise _bad("PRODUCT", path, f"it is a product ({kind}), not a raw frame", remedy, "NBPRODID")
    images = [(hdu, number) for number, hdu in enumerate(units) if hdu.data_bytes and _is_image(hdu, number)]
    if not images:
        raise _bad("NO_IMAGE", path, "it holds no image", "Give a frame with pixels (NAXIS 2)", "NAXIS")
    alone = [one for one in images if one[0].cards.get("EXTNAME", "").strip().upper() not in _COMPANIONS]
    if len(alone) != 1:
        raise _bad("AMBIGUOUS_HDU", path, f"it holds {len(images)} images", "Give a file with one image, or split it by extension")
    hdu, number = alone[0]
    if len(images) > 1:
        names = ", ".join(one.cards["EXTNAME"].strip() for one, _ in images if one is not hdu)
        ambiguities.append(Ambiguity("HDU", f"{names} beside the image are ignored: uncertainty and mask are made anew"))
    if number > 0 and hdu.cards.get("ZIMAGE") != "T":
        ambiguities.append(Ambiguity("HDU", f"the image is in extension {number}, not in the first unit"))
    return units[0], hdu, number


def _is_image(hdu: _Hdu, number: int) -> bool:
    return number == 0 or hdu.cards.get("XTENSION", "").strip().startswith("IMAGE") or hdu.cards.get("ZIMAGE") == "T"


def _inherited(first: str, own: str) -> str:
    """Cards of the `first` unit's header that the image's `own` lacks: what was observed often stands there alone."""
    known = {own[start : start + 8].strip() for start in range(0, len(own), CARD)}
    taken: list[str] = []
    keep = False
    for start in range(0, len(first), CARD):
        keyword = first[start : start + 8].strip()
        if keyword != "CONTINUE":  # the rest of a long text goes where its beginning went
            keep = keyword == "HIERARCH" or not (keyword in known or _OF_ITS_OWN_UNIT.fullmatch(keyword))
        if keep:
            taken.append(first[start : start + CARD].ljust(CARD))
    return "".join(taken)


def _ceiling_adu(cards: dict[str, str], path: Path) -> float:
    """The largest count an integer type of up to 16 bits can store."""
    bitpix = int(cards.get("ZBITPIX", cards["BITPIX"]))
    if bitpix not in {8, 16}:
        return math.inf
    largest = 255.0 if bitpix == 8 else 32767.0
    scale, zero = _number(cards, "BSCALE", path, 1.0), _number(cards, "BZERO", path, 0.0)
    return largest * scale + zero if scale > 0 else math.inf


def _walk(content: bytes, path: Path, ambiguities: list[Ambiguity]) -> Iterator[_Hdu]:
    offset = 0
    for number in range(64):
        tail = content[offset : offset + 9]
        if not tail:
            return
        if number and not tail.startswith(b"XTENSION"):
            ambiguities.append(Ambiguity("TAIL", f"{len(content) - offset} bytes behind the last unit are ignored"))
            return
        hdu = _parse_hdu(content, offset, path, ambiguities)
        yield hdu
        offset = hdu.data_offset + _padded(hdu.data_bytes)


def _parse_hdu(content: bytes, offset: int, path: Path, ambiguities: list[Ambiguity] | None, *, complete: bool = True) -> _Hdu:
    text, end = _header(content, offset, path, ambiguities)
    cards: dict[str, str] = {}
    for start in range(0, len(text), CARD):
        card = text[start : start + CARD]
        if card[8:10] == "= ":
            cards.setdefault(card[:8].strip(), _value(card[10:]))
    size = _claimed_bytes(cards, path)
    if end + size > LARGEST_FILE_BYTES:
        raise _bad("SIZE", path, f"the header claims {size} bytes of data", "The header is damaged; copy the file again", "NAXIS1")
    if complete and end + size > len(content):
        there = max(len(content) - end, 0)
        code = "SIZE" if size > 20 * max(there, BLOCK) else "TRUNCATED_DATA"
        raise _bad(code, path, f"the header claims {size} bytes of data, {there} are there", "Copy the file again", "NAXIS1")
    return _Hdu(offset, end, size, cards, text)


def _header(content: bytes, offset: int, path: Path, ambiguities: list[Ambiguity] | None) -> tuple[str, int]:
    """The cards before END as text, and where the data begin."""
    stop = min(len(content), offset + LARGEST_HEADER_BYTES)
    at = offset
    while at + CARD <= stop:
        if content[at : at + 8] == b"END     ":
            data = offset + _padded(at + CARD - offset)
            if data > len(content):
                raise _bad(
                    "TRUNCATED_HEADER", path, f"the file ends after {len(content)} bytes, inside the header's block", "Copy it again"
                )
            return _clean(content[offset:at], path, ambiguities), data
        at += CARD
    if stop == len(content):
        raise _bad("TRUNCATED_HEADER", path, f"the file ends after {stop - offset} bytes, before the header's END", "Copy the file again")
    raise _bad("NO_END", path, f"no END within {LARGEST_HEADER_BYTES} bytes", "The header is damaged; write the file again")


def _clean(raw: bytes, path: Path, ambiguities: list[Ambiguity] | None) -> str:
    for start in range(0, len(raw), CARD):
        if any(byte > 126 or byte < 32 for byte in raw[start : start + 8].replace(b"\0", b" ")):
            raise _bad("BAD_CARD", path, f"a keyword at byte {start} holds characters that FITS forbids", "Write the header again in ASCII")
    bad = sum(byte > 126 or byte < 32 for byte in raw)
    if bad and ambiguities is not None:
        ambiguities.append(Ambiguity("HEADER", f"{bad} bytes of the header are not ASCII text; read as blanks"))
    return "".join(chr(byte) if 32 <= byte <= 126 else " " for byte in raw) if bad else raw.decode("ascii")


def _value(rest: str) -> str:
    text = rest.strip()
    if text.startswith("'"):
        match = re.match(r"'((?:[^']|'')*)'", text)
        return match.group(1).replace("''", "'").rstrip() if match else text.strip("' ")
    return text.split("/", 1)[0].strip()


def _integer(cards: dict[str, str], key: str, path: Path, code: str, default: int | None = None) -> int:
    text = cards.get(key)
    if text is None and default is not None:
        return default
    if text is None or not _INTEGER.fullmatch(text):
        raise _bad(code, path, f"{key} is {'absent' if text is None else repr(text)}", "The header is damaged; write the file again", key)
    return int(text)


def _claimed_bytes(cards: dict[str, str], path: Path) -> int:
    bitpix = _integer(cards, "BITPIX", path, "BAD_BITPIX")
    if bitpix not in _BITPIX:
        raise _bad("BAD_BITPIX", path, f"BITPIX {bitpix} is not one of 8, 16, 32, 64, -32, -64", "The header is damaged", "BITPIX")
    naxis = _integer(cards, "NAXIS", path, "BAD_NAXIS")
    if not 0 <= naxis <= 999 or naxis > 9:
        raise _bad("BAD_NAXIS", path, f"NAXIS {naxis} is outside 0 to 9", "The header is damaged", "NAXIS")
    if naxis == 0:
        return 0
    size = 1
    is_table = cards.get("XTENSION", "").strip() in {"BINTABLE", "TABLE"}
    for axis in range(1, naxis + 1):
        length = _integer(cards, f"NAXIS{axis}", path, "BAD_NAXIS")
        if length < 0:
            raise _bad("BAD_NAXIS", path, f"NAXIS{axis} is {length}", "The header is damaged", f"NAXIS{axis}")
        size *= length
        if size > LARGEST_FILE_BYTES or (not is_table and length == 0):
            code = "SIZE" if length else "BAD_NAXIS"
            raise _bad(code, path, f"NAXIS{axis} = {length} cannot be", "The header is damaged; copy the file again", f"NAXIS{axis}")
    extra = _integer(cards, "PCOUNT", path, "BAD_NAXIS", 0)
    groups = _integer(cards, "GCOUNT", path, "BAD_NAXIS", 1)
    if extra < 0 or groups != 1 or extra > LARGEST_FILE_BYTES:
        raise _bad("BAD_NAXIS", path, f"PCOUNT {extra}, GCOUNT {groups} cannot be", "The header is damaged", "PCOUNT")
    return (size + extra) * _BITPIX[bitpix] if not is_table else size + extra


def _plane(cards: dict[str, str], path: Path, prefix: str = "") -> tuple[int, int]:
    """(ny, nx) of an image of one plane."""
    naxis = _integer(cards, f"{prefix}NAXIS", path, "BAD_NAXIS")
    axes = [_integer(cards, f"{prefix}NAXIS{i + 1}", path, "BAD_NAXIS") for i in range(naxis)]
    if naxis < 2 or any(not 1 <= length <= LARGEST_AXIS for length in axes):
        raise _bad("BAD_NAXIS", path, f"axes {axes} are not an image", "Give a frame of two axes", "NAXIS")
    if any(length != 1 for length in axes[2:]):
        raise _bad("CUBE", path, f"axes {axes}: more than one plane", "Give one plane per file", "NAXIS3")
    return axes[1], axes[0]


def _number(cards: dict[str, str], key: str, path: Path, default: float) -> float:
    text = cards.get(key)
    if text is None or not text:
        return default
    try:
        value = float(text.replace("D", "E"))
    except ValueError as error:
        raise _bad("BAD_CARD", path, f"{key} = {text!r} is not a number", "Mend the header", key) from error
    if value != value or value in (float("inf"), float("-inf")):  # noqa: PLR0124
        raise _bad("BAD_CARD", path, f"{key} = {text!r} is not a number", "Mend the header", key)
    return value


def _decode(content: bytes, hdu: _Hdu, path: Path, ambiguities: list[Ambiguity]) -> NDArray[Any]:
    cards = hdu.cards
    ny, nx = _plane(cards, path)
    bitpix = int(cards["BITPIX"])
    zero, scale = _number(cards, "BZERO", path, 0.0), _number(cards, "BSCALE", path, 1.0)
    if scale == 0:
        raise _bad("BAD_CARD", path, "BSCALE is 0", "Mend the header", "BSCALE")
    code = {8: "u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}[bitpix]
    stored = np.frombuffer(content, dtype=code, count=ny * nx, offset=hdu.data_offset).reshape(ny, nx)
    blank = cards.get("BLANK", "") if bitpix > 0 else ""
    blanks = None
    if _INTEGER.fullmatch(blank):
        # BLANK is a stored value: 32768 cannot stand in 16 signed bits, whatever BZERO makes of it.
        if bitpix > 8 and not -(1 << bitpix - 1) <= int(blank) < (1 << bitpix - 1):
            ambiguities.append(Ambiguity("BLANK", f"BLANK = {blank} cannot be stored in {bitpix} bits; ignored"))
        else:
            blanks = stored == int(blank)
    if bitpix == 16 and zero == 32768 and scale == 1 and (blanks is None or not blanks.any()):
        counts: NDArray[np.uint16] = stored.astype(np.int16).view(np.uint16) ^ np.uint16(0x8000)
        return counts
    if bitpix == 8 and zero == 0 and scale == 1:
        return stored.astype(np.uint16)
    values = (stored.astype(np.float64) * scale + zero).astype(np.float32)
    if bitpix == 16 and zero == 0 and float(np.median(values)) < -1000:
        raise _bad("WRONG_BZERO", path, "counts are negative: unsigned data without BZERO = 32768", "Mend the header", "BZERO")
    if blanks is not None:
        values[blanks] = np.nan
    return values


def _decode_tiles(content: bytes, number: int, path: Path) -> tuple[NDArray[Any], str]:
    hdu = next(one for i, one in enumerate(_walk(content, path, [])) if i == number)
    ny, nx = _plane(hdu.cards, path, "Z")
    if ny * nx > 200 * max(hdu.data_bytes, BLOCK):
        raise _bad("SIZE", path, f"{hdu.data_bytes} compressed bytes claim {ny * nx} pixels", "Copy the file again", "ZNAXIS1")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is odd in the header is judged by intake, not by astropy's words
            with fits.open(io.BytesIO(content), memmap=False) as opened:
                image = opened[number]
                data, text = np.array(image.data), image.header.tostring(padding=False, endcard=False)
    except (OSError, ValueError, TypeError, KeyError, IndexError, RuntimeError) as error:
        raise _bad("TRUNCATED_DATA", path, f"the compressed image cannot be read: {error}", "Copy the file again") from error
    if data.dtype.kind == "u" and data.dtype.itemsize <= 2:
        return np.ascontiguousarray(data.astype(np.uint16)), text
    return np.ascontiguousarray(data.astype(np.float32)), text


def _finite(pixels: NDArray[Any], path: Path, ambiguities: list[Ambiguity]) -> NDArray[Any]:
    if pixels.dtype.kind != "f":
        return pixels
    n_bad = int(pixels.size - np.count_nonzero(np.isfinite(pixels)))
    if n_bad > pixels.size // 2:
        raise _bad("NOT_FINITE", path, f"{n_bad} of {pixels.size} pixels are not numbers", "The frame is damaged; take it again")
    if n_bad:
        ambiguities.append(Ambiguity("NOT_FINITE", f"{n_bad} pixels are not numbers; masked"))
    return pixels
