"""LVK's own record: JSON on the Kafka topic igwn.gwalert, Avro (schema 1.0) on SCiMMA; the same fields in both."""

from __future__ import annotations

import hashlib
import io
from typing import Any

import fastavro

from nightbell.alerts.notices.guards import decode_base64, load_json, shown
from nightbell.alerts.notices.notice import Notice, facts, instant, number, probabilities, witnesses_of
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
MAP_REMEDY = "Give the map as a file: --skymap FILE"


def from_record(record: dict[str, Any], *, transport: str, raw: bytes, where: str) -> Notice:
    """The notice of one decoded record; `skymap` is base64 text in JSON and bytes in Avro."""
    superevent_id = facts(where, record.get("superevent_id"), "superevent_id", needed=True)
    kind = facts(where, record.get("alert_type"), "alert_type", needed=True).strip().lower()
    kind = {"earlywarning": "early_warning"}.get(kind, kind)
    created = instant(where, facts(where, record.get("time_created"), "time_created", needed=True), "time_created")
    assert created is not None
    event = facts(where, record.get("event"), "event", kind=dict)
    external = facts(where, record.get("external_coinc"), "external_coinc", kind=dict)
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
        external=None if external is None else {key: value for key, value in external.items() if key != "combined_skymap"},
        urls={str(k)[:64]: str(v)[:256] for k, v in (facts(where, record.get("urls"), "urls", kind=dict) or {}).items()},
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


def from_avro(data: bytes, *, where: str) -> Notice:
    """The one record of an Avro container file. The writer's schema is checked before it is obeyed."""
    _check_schema(data, where)
    try:
        reader = fastavro.reader(io.BytesIO(data))
        record = next(iter(reader), None)
    except Exception as error:  # fastavro raises whatever its decoder stumbles over: EOFError, KeyError, struct.error, ...
        raise BadInput(
            f"is not whole Avro ({type(error).__name__}: {shown(error)})", where=where, remedy="Fetch the notice again"
        ) from error
    if not isinstance(record, dict):
        raise BadInput("holds no record", where=where, remedy="Fetch the notice again")
    return from_record(record, transport="igwn-avro", raw=data, where=where)


def _check_schema(data: bytes, where: str) -> None:
    """Refuse schemas under which a few bytes may decode to endless nothings, and packed blocks that may unpack without limit."""
    metadata, _ = _metadata(data, where)
    codec = metadata.get("avro.codec", b"null")
    if codec != b"null":
        raise BadInput(
            f"is packed with {shown(codec.decode('latin-1'))}", where=f"{where}: avro.codec", remedy="Send it unpacked (codec null)"
        )
    schema = load_json(metadata.get("avro.schema", b""), where=f"{where}: avro.schema")
    if not isinstance(schema, dict) or schema.get("type") != "record":
        raise BadInput("is not one record", where=f"{where}: avro.schema", remedy="Send the igwn.alerts record")
    stack: list[tuple[Any, bool]] = [(schema, False)]
    while stack:
        one, repeated = stack.pop()
        if isinstance(one, list):
            if len(one) > _MOST_UNION:
                raise BadInput(f"has a union of {len(one)}", where=f"{where}: avro.schema", remedy="Send the igwn.alerts record")
            stack.extend((part, False) for part in one)  # a union costs at least its index byte
        elif isinstance(one, dict):
            kind = one.get("type")
            if repeated and (kind == "null" or (kind == "record" and not one.get("fields")) or kind == "fixed"):
                raise BadInput("repeats something empty", where=f"{where}: avro.schema", remedy="Send the igwn.alerts record")
            if kind == "array":
                stack.append((one.get("items"), True))
            elif kind == "map":
                stack.append((one.get("values"), False))  # a map entry costs at least its key's length byte
            elif kind == "record":
                fields = one.get("fields")
                if not isinstance(fields, list) or len(fields) > 100:
                    raise BadInput("has no fields", where=f"{where}: avro.schema", remedy="Send the igwn.alerts record")
                stack.extend((field.get("type"), repeated and len(fields) == 1) for field in fields if isinstance(field, dict))
            elif isinstance(kind, list | dict):
                stack.append((kind, repeated))
        elif repeated and one == "null":
            raise BadInput("repeats something empty", where=f"{where}: avro.schema", remedy="Send the igwn.alerts record")


def _metadata(data: bytes, where: str) -> tuple[dict[str, bytes], int]:
    """The header's map of an Avro container, read by hand: count, then key and value, each with its length."""
    position = 4
    values: dict[str, bytes] = {}

    def long() -> int:
        nonlocal position
        shift = result = 0
        while True:
            if position >= len(data) or shift > 63:
                raise BadInput("ends inside its header", where=where, remedy="Fetch the notice again")
            byte = data[position]
            position += 1
            result |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                return (result >> 1) ^ -(result & 1)

    def blob() -> bytes:
        nonlocal position
        size = long()
        if not 0 <= size <= len(data) - position:
            raise BadInput(f"claims {size:,} bytes in its header", where=where, remedy="Fetch the notice again")
        position += size
        return data[position - size : position]

    while (count := long()) != 0:
        if count < 0:
            count, _ = -count, long()
        if count > 100:
            raise BadInput(f"claims {count:,} header entries", where=where, remedy="Fetch the notice again")
        for _ in range(count):
            key = blob().decode("utf-8", errors="replace")
            values[key] = blob()
    return values, position
