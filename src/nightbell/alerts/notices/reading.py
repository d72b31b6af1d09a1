"""Bytes -> which format -> `Notice`. Formats are told by their first bytes, never by the file's name."""

from __future__ import annotations

from pathlib import Path

from nightbell.alerts.fits_table import gunzip
from nightbell.alerts.notices.guards import LARGEST_FILE_BYTES, load_json, read_bytes, shown
from nightbell.alerts.notices.igwn import from_avro, from_record
from nightbell.alerts.notices.missions import from_mission
from nightbell.alerts.notices.notice import Notice
from nightbell.alerts.notices.voevent import from_voevent
from nightbell.contracts.errors import BadInput

__all__ = ["parse_notice", "read_notice"]

_BYTE_ORDER_MARKS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")


def read_notice(path: str | Path) -> Notice:
    """The notice in a file (VOEvent XML, igwn JSON, Avro, GCN-schema JSON; gzip too). Raises `BadInput` naming file and field."""
    file = Path(path)
    return parse_notice(read_bytes(file), where=str(file))


def parse_notice(data: bytes, *, where: str) -> Notice:
    """The notice in `data`, packed with gzip or not; `where` names its origin in messages."""
    data = gunzip(data, where=where, largest_bytes=LARGEST_FILE_BYTES)
    start = data[:64]
    for mark in _BYTE_ORDER_MARKS:
        start = start.removeprefix(mark)
    if data[:4] == b"Obj\x01":
        return from_avro(data, where=where)
    if start.replace(b"\0", b"").lstrip()[:1] == b"<":
        return from_voevent(data, where=where)
    record = load_json(data, where=where)
    if not isinstance(record, dict):
        found = "a list" if isinstance(record, list) else shown(record, 20)
        raise BadInput(f"is {found}, not an object", where=where, remedy="Give one notice per file")
    if "superevent_id" in record or ("alert_type" in record and "event" in record):
        return from_record(record, transport="igwn-json", raw=data, where=where)
    if "gcn/notices" in str(record.get("$schema", "")):
        return from_mission(record, raw=data, where=where)
    raise BadInput(
        f"is no notice we know (keys: {shown(', '.join(map(str, record)))})",
        where=where,
        remedy="Give a VOEvent, an igwn.gwalert record or a GCN-schema notice",
    )
