"""One notice, whatever brought it: the `Alert` record, its map's bytes, and the three witnesses of a drill."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Any

import msgspec

from nightbell.alerts.notices.guards import shown
from nightbell.contracts.errors import BadInput
from nightbell.contracts.ids import LIVE_SUPEREVENT
from nightbell.contracts.instants import format_utc, parse_utc
from nightbell.contracts.records import Alert

__all__ = [
    "LONGEST_ID",
    "Cone",
    "Notice",
    "Witnesses",
    "check_entries",
    "facts",
    "instant",
    "number",
    "open_table",
    "probabilities",
    "superevent_of",
    "witnesses_of",
]

_DRILL_ID = re.compile(r"(MS|TS)[0-9]{6}[a-z]+|[MT][0-9]{5,}")
_ARCHIVE_ID = re.compile(r"G[0-9]{5,}")
LONGEST_TEXT = 256
LONGEST_ID = 96
MOST_ENTRIES = 64
"""Of an open table. What a notice says rides in an event, and an event has a limit."""
_KINDS = {str: "text", list: "a list", dict: "a table", bool: "true or false"}


@dataclass(frozen=True)
class Witnesses:
    """What each witness says: drill, live, archive (an id that is never live again), or silent. One that says drill is enough."""

    id: str
    role: str
    search: str

    @property
    def drill(self) -> bool:
        return "drill" in {self.id.split(":")[0], self.role.split(":")[0], self.search.split(":")[0]}

    @property
    def archive(self) -> bool:
        return self.id.startswith("archive")

    def as_dict(self) -> dict[str, str]:
        return {"id": self.id, "role": self.role, "search": self.search}


@dataclass(frozen=True)
class Cone:
    """A position with its 90 % radius, from missions that send no map."""

    ra_deg: float
    dec_deg: float
    radius_90_deg: float
    sigmas_deg: tuple[tuple[float, float], ...]
    """(share, sigma) of a mixture of two-dimensional Gaussians."""


@dataclass(frozen=True)
class Notice:
    """A notice as read. `alert.revision` is 1 here; the life cycle counts."""

    alert: Alert
    transport: str
    """igwn-json, igwn-avro, voevent, gcn-json."""
    witnesses: Witnesses
    sha256: str
    serial: int | None = None
    identity: str = ""
    """The sender's own name of this notice (ivorn), when it has one."""
    skymap: bytes | None = None
    combined_skymap: bytes | None = None
    cone: Cone | None = None
    warnings: tuple[str, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)
    """Open numeric fields that rules may ask for, e.g. mchirp_source."""

    def with_alert(self, **changes: Any) -> Notice:
        """The same notice with some fields of its Alert changed."""
        return dataclasses.replace(self, alert=msgspec.structs.replace(self.alert, **changes))


def witnesses_of(
    superevent_id: str, *, role: str | None, search: str | None, hardware_injection: bool = False, lvk: bool = True
) -> Witnesses:
    """The three witnesses. Live is said only by LVK's anchored live form; an unknown form of id is a drill.

    The search must be exactly MDC: GW170817's own notice has the search O2VirgoTest.
    """
    if not lvk:
        by_id = "silent: not LVK"
    elif LIVE_SUPEREVENT.fullmatch(superevent_id):
        by_id = "live"
    elif _DRILL_ID.fullmatch(superevent_id):
        by_id = "drill: mock or test event"
    elif _ARCHIVE_ID.fullmatch(superevent_id):
        by_id = "archive"
    else:
        by_id = "drill: unknown form of id"
    if hardware_injection:
        by_role = "drill: hardware injection"
    elif role is None:
        by_role = "silent"
    else:
        by_role = "live" if role == "observation" else f"drill: {shown(role, 20)}"
    by_search = "silent" if search is None else "drill: MDC" if search == "MDC" else "live"
    return Witnesses(by_id, by_role, by_search)


# -- reading values -----------------------------------------------------------------------------------------------------


def facts(where: str, value: Any, name: str, *, kind: type = str, needed: bool = False) -> Any:
    """`value` checked to be of `kind` (or absent); text is cut at 256 characters. What is `needed` may not be empty either."""
    if value is None or (needed and value == ""):
        if needed:
            raise BadInput("is missing", where=f"{where}: {name}", remedy="The notice is not complete; ask its sender")
        return None
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
        raise BadInput(
            f"{shown(value)!r} is not {_KINDS[kind]}", where=f"{where}: {name}", remedy="The notice is malformed; ask its sender"
        )
    return value[:LONGEST_TEXT] if isinstance(value, str) else value


def superevent_of(where: str, value: Any, name: str) -> str:
    """The name of a superevent: it becomes the subject of events and part of file names."""
    text: str = facts(where, value, name, needed=True)
    if not text.strip() or len(text) > LONGEST_ID or not text.isprintable():
        raise BadInput(
            f"{shown(text)!r} is no name of an event (1 to {LONGEST_ID} printable characters)",
            where=f"{where}: {name}",
            remedy="The notice is malformed; ask its sender",
        )
    return text


def number(where: str, value: Any, name: str, *, low: float = -1e300, high: float = 1e300) -> float | None:
    """A JSON number in a range, or None when absent. A number written as text is refused; the sender may have mixed up more."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise BadInput(
            f"{shown(value)!r} is not a number from {low:g} to {high:g}",
            where=f"{where}: {name}",
            remedy="The notice is malformed; ask its sender",
        )
    return float(value)


def instant(where: str, value: Any, name: str) -> str | None:
    """ISO time cut (not rounded) to the millisecond: JSON has milliseconds, VOEvent microseconds, and both must agree."""
    text = facts(where, value, name)
    if text is None:
        return None
    at_ns = parse_utc(text, where=f"{where}: {name}")
    return format_utc(at_ns // 1_000_000 * 1_000_000, digits=3)


def check_entries(where: str, table: dict[str, Any], name: str) -> None:
    """Refuse an open table of more entries than any notice has."""
    if len(table) > MOST_ENTRIES:
        raise BadInput(
            f"has {len(table):,} entries, more than {MOST_ENTRIES}",
            where=f"{where}: {name}",
            remedy="The notice is malformed; ask its sender",
        )


def open_table(where: str, table: dict[str, Any], name: str) -> dict[str, Any]:
    """A table of a notice that is only shown: its plain values, text cut, what is nested left out."""
    check_entries(where, table, name)
    plain = {str(key)[:64]: value for key, value in table.items() if value is None or isinstance(value, str | bool | int | float)}
    return {key: value[:LONGEST_TEXT] if isinstance(value, str) else value for key, value in plain.items()}


def probabilities(where: str, value: Any, name: str) -> dict[str, float]:
    """A map of names to probabilities; absent is empty."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BadInput(f"{shown(value)!r} is no table", where=f"{where}: {name}", remedy="The notice is malformed; ask its sender")
    check_entries(where, value, name)
    made: dict[str, float] = {}
    for key, one in value.items():
        probability = number(where, one, f"{name}.{shown(key, 40)}", low=0, high=1 + 1e-6)
        if probability is not None:
            made[str(key)[:64]] = min(probability, 1.0)
    return made
