"""LVK's own record: JSON on the Kafka topic igwn.gwalert, Avro (schema 1.0) on SCiMMA; the same fields in both."""

from __future__ import annotations

import hashlib
import io
from typing import Any

import fastavro

from nightbell.alerts.fits_table import inflate
from nightbell.alerts.notices.guards import LARGEST_FILE_BYTES, decode_base64, load_json, shown
from nightbell.alerts.notices.notice import Notice, facts, instant, number, open_table, probabilities, superevent_of, witnesses_of
from nightbell.contracts.errors import BadInput
from nightbell.contracts.records import Alert

__all__ = ["from_avro", "from_record"]

_KNOWN_EVENT_FIELDS = frozenset(
    [
        "time",
        "far",
        "significant",
        "instruments",
        "group",
        "pipeline",
        "search",
        "properties",
        "classification",
        "duration",
        "central_frequency",
        "skymap",
    ]
)
MAP_REMEDY = "Fetch the notice again"


def from_record(record: dict[str, Any], *, transport: str, raw: bytes, where: str) -> Notice:
    """The notice of one decoded record; `skymap` is base64 text in JSON and bytes in Avro."""
    superevent_id = superevent_of(where, record.get("superevent_id"), "superevent_id")
    kind = facts(where, record.get("alert_type"), "alert_type", needed=True).strip().lower()
    kind = {"earlywarning": "early_warning"}.get(kind, kind)
    created = instant(where, facts(where, record.get("time_created"), "time_created", needed=True), "time_created")
    assert created is not None
    event = facts(where, record.get("event"), "event", kind=dict)
    external = facts(where, record.get("external_coinc"), "external_coinc", kind=dict)
    urls = facts(where, record.get("urls"), "urls", kind=dict) or {}
    if event is None and kind != "retraction":
        raise BadInput("is missing", where=f"{where}: event", remedy="Only a RETRACTION has no event; ask the sender")
    event = event or {}
    warnings: list[str] = []
    skymap = _map(event.get("skymap"), f"{where}: event.skymap", warnings)
    combined = _map((external or {}).get("combined_skymap"), f"{where}: external_coinc.combined_skymap", warnings)
    instruments = facts(where, event.get("instruments"), "event.instruments", kind=list) or []
    search = facts(where, event.get("search"), "event.search")
    witnesses = witnesses_of(superevent_id, role=None, search=search)
    significant = facts(where, event.get("significant"), "event.significant", kind=bool)
    alert = Alert(
        superevent_id=superevent_id,
        kind=kind,
        drill=witnesses.drill,
        created_utc=created,
        time_utc=instant(where, event.get("time"), "event.time"),
        # Before 2023 the field did not exist, and only significant events were sent.
        significant=significant if significant is not None or kind == "retraction" else True,
        far_hz=number(where, event.get("far"), "event.far", low=0),
        instruments=tuple(facts(where, one, "event.instruments", needed=True) for one in instruments[:16]),
        group=facts(where, event.get("group"), "event.group"),
        pipeline=facts(where, event.get("pipeline"), "event.pipeline"),
        search=search,
        classification=probabilities(where, event.get("classification"), "event.classification"),
        properties=probabilities(where, event.get("properties"), "event.properties"),
        external=None if external is None else open_table(where, _without_map(external), "external_coinc"),
        urls={key: str(value) for key, value in open_table(where, urls, "urls").items()},
    )
    total = sum(alert.classification.values())
    if alert.classification and abs(total - 1) > 1e-6:
        warnings.append(f"{where}: event.classification sums to {total:.6g}, not 1")
    return Notice(
        alert=alert,
        transport=transport,
        witnesses=witnesses,
        sha256=hashlib.sha256(raw).hexdigest(),
        skymap=skymap,
        combined_skymap=combined,
        warnings=tuple(warnings),
        extra={key: value for key, value in event.items() if key not in _KNOWN_EVENT_FIELDS and isinstance(value, int | float)},
    )


def _without_map(external: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in external.items() if key != "combined_skymap"}


def _map(value: Any, where: str, warnings: list[str]) -> bytes | None:
    """The bytes of a map. A broken one is a warning, not a refusal: the alert itself must not be lost with it."""
    if value is None:
        return None
    try:
        if isinstance(value, bytes):
            return value
        if not isinstance(value, str):
            raise BadInput(f"{shown(value)!r} is not text", where=where, remedy=MAP_REMEDY)
        return decode_base64(value, where=where)
    except BadInput as error:
        warnings.append(str(error))
        return None


# -- Avro ---------------------------------------------------------------------------------------------------------------

_MOST_UNION = 8
_MOST_FIELDS = 100
_SYNC_BYTES = 16
_LEAST_BYTES = {"null": 0, "boolean": 1, "int": 1, "long": 1, "float": 4, "double": 8, "bytes": 1, "string": 1}
_AVRO_REMEDY = "Send the igwn.alerts record"


def from_avro(data: bytes, *, where: str) -> Notice:
    """The one record of an Avro container file. The writer's schema is checked before it is obeyed."""
    metadata, position = _metadata(data, where)
    schema = load_json(metadata.get("avro.schema", b""), where=f"{where}: avro.schema")
    if not isinstance(schema, dict) or schema.get("type") != "record":
        raise BadInput("is not one record", where=f"{where}: avro.schema", remedy=_AVRO_REMEDY)
    _least_bytes(schema, {}, f"{where}: avro.schema")
    block = _one_block(data, position, metadata.get("avro.codec", b"null"), where)
    try:
        record = fastavro.schemaless_reader(io.BytesIO(block), schema, None)
    except Exception as error:  # fastavro raises whatever its decoder stumbles over: EOFError, KeyError, struct.error, ...
        raise BadInput(
            f"is not whole Avro ({type(error).__name__}: {shown(error)})", where=where, remedy="Fetch the notice again"
        ) from error
    assert isinstance(record, dict)
    return from_record(record, transport="igwn-avro", raw=data, where=where)


def _least_bytes(schema: Any, known: dict[str, int], where: str) -> int:
    """How many bytes a value takes at least. Refuses schemas under which few bytes decode to endless nothings or endless depth.

    `known` holds the named types that are complete; one that refers to itself is therefore unknown to it, and refused.
    """
    if isinstance(schema, list):
        if len(schema) > _MOST_UNION:
            raise BadInput(f"has a union of {len(schema)}", where=where, remedy=_AVRO_REMEDY)
        for part in schema:
            _least_bytes(part, known, where)
        return 1  # its index
    if isinstance(schema, str):
        least = _LEAST_BYTES.get(schema, known.get(schema.rpartition(".")[2]))
        if least is None:
            raise BadInput(f"refers to {shown(schema)!r}, which is not known there", where=where, remedy=_AVRO_REMEDY)
        return least
    if not isinstance(schema, dict):
        raise BadInput(f"{shown(schema)!r} is no type", where=where, remedy=_AVRO_REMEDY)
    match schema.get("type"):
        case "array" | "map" as kind:
            if _least_bytes(schema.get("items" if kind == "array" else "values"), known, where) == 0 and kind == "array":
                raise BadInput("repeats something empty", where=where, remedy=_AVRO_REMEDY)
            return 1
        case "record":
            fields = schema.get("fields")
            if not isinstance(fields, list) or len(fields) > _MOST_FIELDS or not all(isinstance(one, dict) for one in fields):
                raise BadInput("has no fields", where=where, remedy=_AVRO_REMEDY)
            least = sum(_least_bytes(one.get("type"), known, where) for one in fields)
        case "enum":
            least = 1
        case "fixed":
            size = schema.get("size")
            least = size if isinstance(size, int) and size > 0 else 0
        case inner:
            return _least_bytes(inner, known, where)
    known[str(schema.get("name")).rpartition(".")[2]] = least
    return least


def _one_block(data: bytes, position: int, codec: bytes, where: str) -> bytes:
    """The bytes of the one record of a container: a count of 1, the block, and the mark that ends it."""
    sync = data[position : position + _SYNC_BYTES]
    count, position = _long(data, position + _SYNC_BYTES, where)
    size, position = _long(data, position, where)
    end = position + size
    if size < 0 or data[end : end + _SYNC_BYTES] != sync or len(sync) < _SYNC_BYTES:
        raise BadInput("is cut off or damaged: its block does not end where it says", where=where, remedy="Fetch the notice again")
    if count != 1 or len(data) > end + _SYNC_BYTES:
        raise BadInput("does not hold exactly one record", where=where, remedy="Give one notice per file")
    block = data[position:end]
    if codec == b"null":
        return block
    if codec != b"deflate":
        raise BadInput(
            f"is packed with {shown(codec.decode('latin-1'))}", where=f"{where}: avro.codec", remedy="Send it with codec null or deflate"
        )
    return inflate(block, where=f"{where}: avro.codec", largest_bytes=LARGEST_FILE_BYTES, raw=True)


def _metadata(data: bytes, where: str) -> tuple[dict[str, bytes], int]:
    """The header's map of an Avro container, read by hand: count, then key and value, each with its length."""
    position = 4
    values: dict[str, bytes] = {}

    def blob() -> bytes:
        nonlocal position
        size, position = _long(data, position, where)
        if not 0 <= size <= len(data) - position:
            raise BadInput(f"claims {size:,} bytes in its header", where=where, remedy="Fetch the notice again")
        position += size
        return data[position - size : position]

    while True:
        count, position = _long(data, position, where)
        if count == 0:
            return values, position
        if count < 0:  # then the block's size follows
            count, (_, position) = -count, _long(data, position, where)
        if count > 100:
            raise BadInput(f"claims {count:,} header entries", where=where, remedy="Fetch the notice again")
        for _ in range(count):
            key = blob().decode("utf-8", errors="replace")
            values[key] = blob()


def _long(data: bytes, position: int, where: str) -> tuple[int, int]:
    """(value, where the next begins) of Avro's zigzag number of variable length."""
    shift = result = 0
    while True:
        if position >= len(data) or shift > 63:
            raise BadInput("is cut off, or holds a number that is none", where=where, remedy="Fetch the notice again")
        byte = data[position]
        position += 1
        result |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return (result >> 1) ^ -(result & 1), position
