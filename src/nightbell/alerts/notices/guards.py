"""Limits for what strangers send, applied before the parser that would suffer.

Every refusal is a `BadInput` that names source, field, the value found, the limit and a remedy.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from pathlib import Path
from typing import Any

from lxml import etree

from nightbell.contracts.errors import BadInput, NoSuchInput

__all__ = ["decode_base64", "load_json", "parse_xml", "read_bytes", "shown"]

LARGEST_FILE_BYTES = 64 << 20
LARGEST_MESSAGE_BYTES = 8 << 20
LARGEST_XML_BYTES = 1 << 20
LARGEST_BASE64_CHARS = 12 << 20
DEEPEST_JSON = 32
MOST_KEYS = 10_000
LONGEST_INTEGER = 40
MOST_ELEMENTS = 5000
DEEPEST_XML = 64

# Every alternative ends, also for an unterminated string, so that the scan stays linear on hostile text.
_JSON_TOKEN = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_SPACE = re.compile(rb"\s+")
_ENCODING = re.compile(rb"""<\?xml[^>]{0,200}?encoding\s*=\s*["']([A-Za-z0-9._-]{1,40})["']""")


def shown(value: object, longest: int = 80) -> str:
    """A stranger's text, short and without control characters, for a message or a log."""
    text = str(value)
    clean = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text[:longest])
    return clean + ("..." if len(text) > longest else "")


def read_bytes(path: Path, *, largest: int = LARGEST_FILE_BYTES) -> bytes:
    """A file of at most `largest` bytes."""
    try:
        with path.open("rb") as stream:
            data = stream.read(largest + 1)
    except OSError as error:
        raise NoSuchInput(f"cannot be read ({error.strerror})", where=str(path), remedy="Name a notice file") from error
    if len(data) > largest:
        raise BadInput(f"is larger than {largest:,} bytes", where=str(path), remedy="No notice is that large; is this the right file?")
    return data


def load_json(data: bytes, *, where: str) -> Any:
    """JSON within limits of size, depth and number of keys; no duplicate keys, no NaN, no huge integers."""
    if len(data) > LARGEST_FILE_BYTES:
        raise BadInput(f"is larger than {LARGEST_FILE_BYTES:,} bytes", where=where, remedy="No notice is that large")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(
            f"is not UTF-8 text (byte {error.start}), and neither XML nor an Avro file",
            where=where,
            remedy="Give a notice as it was sent: VOEvent XML, igwn JSON or Avro",
        ) from error
    if not text.strip():
        raise BadInput("is empty", where=where, remedy="Give a notice: VOEvent XML, igwn JSON or Avro")
    _check_depth(text, where)
    n_keys = 0

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal n_keys
        n_keys += len(items)
        if n_keys > MOST_KEYS:
            raise BadInput(f"has more than {MOST_KEYS:,} keys", where=where, remedy="No notice has that many")
        made = dict(items)
        if len(made) != len(items):
            names = [name for name, _ in items]
            twice = next(name for name in names if names.count(name) > 1)
            raise BadInput("stands there twice", where=f"{where}: {shown(twice)}", remedy="Which one counts is unclear; ask the sender")
        return made

    def integer(digits: str) -> int:
        if len(digits) > LONGEST_INTEGER:
            raise BadInput(f"has an integer of {len(digits):,} digits", where=where, remedy=f"At most {LONGEST_INTEGER} are read")
        return int(digits)

    def constant(name: str) -> Any:
        raise BadInput(f"contains {name}", where=where, remedy="Unknown numbers are null in JSON")

    try:
        record = json.loads(text, object_pairs_hook=pairs, parse_int=integer, parse_constant=constant)
        if _SURROGATE.search(text):  # half a character: json reads it, nobody can write it again
            json.dumps(record, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadInput(
            "contains half a character (a lone surrogate)", where=where, remedy="The notice is malformed; ask its sender"
        ) from error
    except json.JSONDecodeError as error:
        raise BadInput(
            f"is not whole JSON: {error.msg} at line {error.lineno}, column {error.colno} of {len(text):,} characters",
            where=where,
            remedy="Fetch the notice again; it may be cut off",
        ) from error
    return record


def _check_depth(text: str, where: str) -> None:
    depth = 0
    for token in _JSON_TOKEN.finditer(text):
        mark = token[0]
        if mark in "[{":
            depth += 1
            if depth > DEEPEST_JSON:
                raise BadInput(
                    f"is nested deeper than {DEEPEST_JSON} levels", where=where, remedy="Notices are nearly flat; is this the right file?"
                )
        elif mark in "]}":
            depth -= 1


def decode_base64(text: str, *, where: str) -> bytes:
    """Standard base64; line breaks and missing padding are accepted, anything else is not."""
    if len(text) > LARGEST_BASE64_CHARS:
        raise BadInput(f"has {len(text):,} characters, more than {LARGEST_BASE64_CHARS:,}", where=where, remedy="No sky map is that large")
    try:
        packed = _SPACE.sub(b"", text.encode("ascii"))
        packed = packed.rstrip(b"=")
        packed += b"=" * (-len(packed) % 4)
        return binascii.a2b_base64(packed, strict_mode=True)
    except (UnicodeEncodeError, binascii.Error) as error:
        raise BadInput(f"is not base64 ({error})", where=where, remedy="Fetch the notice again") from error


def encode_base64(data: bytes) -> str:
    """As notices carry their maps."""
    return base64.b64encode(data).decode("ascii")


def parse_xml(data: bytes, *, where: str) -> Any:
    """The root element of an XML document without DTD, entities, network, or more than 5000 elements."""
    if len(data) > LARGEST_XML_BYTES:
        raise BadInput(f"is larger than {LARGEST_XML_BYTES:,} bytes", where=where, remedy="No VOEvent is that large")
    # Without the zero bytes of UTF-16 every encoding we accept shows these words in ASCII.
    plain = data.replace(b"\0", b"").lower()
    if b"<!doctype" in plain or b"<!entity" in plain:
        raise BadInput("declares a DOCTYPE or an entity", where=where, remedy="VOEvents have none; such a document is never read")
    declared = _ENCODING.match(data.replace(b"\0", b"").lstrip(b"\xef\xbb\xbf\xff\xfe"))
    if declared and declared[1].lower() not in {b"utf-8", b"utf8", b"utf-16", b"us-ascii", b"ascii", b"iso-8859-1", b"latin-1", b"latin1"}:
        raise BadInput(f"is in {shown(declared[1].decode())}", where=where, remedy="Send it as UTF-8")
    parser = etree.XMLParser(resolve_entities=False, no_network=True, huge_tree=False, load_dtd=False, dtd_validation=False, recover=False)
    try:
        root = etree.fromstring(data, parser)
    except (etree.XMLSyntaxError, ValueError) as error:
        raise BadInput(f"is not whole XML: {shown(error, 160)}", where=where, remedy="Fetch the notice again; it may be cut off") from error
    stack, n = [(root, 1)], 0
    while stack:
        element, depth = stack.pop()
        n += 1
        if n > MOST_ELEMENTS or depth > DEEPEST_XML:
            raise BadInput(
                f"has more than {MOST_ELEMENTS} elements or {DEEPEST_XML} levels", where=where, remedy="No VOEvent has that many"
            )
        stack.extend((child, depth + 1) for child in element)
    return root
