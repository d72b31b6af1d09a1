"""VOEvent 1.1 and 2.0: LVK's archives and local brokers, and other missions (Fermi, Swift, IceCube)."""

from __future__ import annotations

import hashlib
import math
import re
from typing import Any

from nightbell.alerts.notices.guards import parse_xml, shown
from nightbell.alerts.notices.missions import cone_of
from nightbell.alerts.notices.notice import LONGEST_ID, Notice, check_entries, instant, open_table, superevent_of, witnesses_of
from nightbell.contracts.errors import BadInput
from nightbell.contracts.records import Alert

__all__ = ["from_voevent"]

_PACKETS = {"150": "preliminary", "151": "initial", "152": "update", "163": "early_warning", "164": "retraction"}
_OLD_PROPERTIES = {"ProbHasNS": "HasNS", "ProbHasRemnant": "HasRemnant"}
_TEST_FLAGS = ("Test", "InternalTest", "Test_Submission", "Test_Notice")
SECONDS_PER_YEAR = 365.25 * 86400


class _Params:
    """The What section: parameters at its root and in groups, by name; units kept."""

    def __init__(self, root: Any, where: str) -> None:
        self.where = where
        self.plain: dict[str, tuple[str, str]] = {}
        self.groups: dict[str, dict[str, tuple[str, str]]] = {}
        what = next((child for child in root if _tag(child) == "What"), None)
        for child in [] if what is None else what:
            if _tag(child) == "Param":
                self._add(self.plain, child)
            elif _tag(child) == "Group":
                group = self.groups.setdefault(child.get("type") or child.get("name") or "", {})
                for one in child:
                    if _tag(one) == "Param":
                        self._add(group, one)

    @staticmethod
    def _add(into: dict[str, tuple[str, str]], param: Any) -> None:
        name, value = param.get("name"), param.get("value")
        if name and value is not None:
            into.setdefault(name[:64], (value.strip()[:256], (param.get("unit") or "").strip()))

    def text(self, name: str) -> str | None:
        return self.plain.get(name, (None, ""))[0]

    def real(self, name: str, group: dict[str, tuple[str, str]] | None = None) -> float | None:
        text = (self.plain if group is None else group).get(name, (None, ""))[0]
        if text is None or text == "":
            return None
        try:
            value = float(text)
        except ValueError as error:
            raise BadInput(f"{shown(text)!r} is not a number", where=f"{self.where}: {name}", remedy="Ask the sender") from error
        if not math.isfinite(value):
            raise BadInput(f"{shown(text)!r} is not finite", where=f"{self.where}: {name}", remedy="Ask the sender")
        return value

    def truth(self, name: str) -> bool:
        """A parameter that must say yes or no: a third word would decide whether a telescope moves."""
        text = self.plain[name][0].lower()
        if text not in {"0", "1", "false", "true"}:
            raise BadInput(f"{shown(text)!r} is neither 0 nor 1", where=f"{self.where}: {name}", remedy="Ask the sender")
        return text in {"1", "true"}

    def flag(self, name: str) -> bool:
        places = (self.plain, *self.groups.values())
        return any(place.get(name, ("", ""))[0].lower() in {"1", "true"} for place in places)

    def probabilities(self, group: str) -> dict[str, float]:
        made: dict[str, float] = {}
        check_entries(self.where, self.groups.get(group, {}), group)
        for name in self.groups.get(group, {}):
            value = self.real(name, self.groups[group])
            if value is None:  # named, but left empty: unknown
                continue
            if not 0 <= value <= 1 + 1e-6:
                raise BadInput(f"{value} is no probability", where=f"{self.where}: {group}.{name}", remedy="Ask the sender")
            made[name] = min(value, 1.0)
        return made


def _tag(element: Any) -> str:
    tag = element.tag
    return tag.rpartition("}")[2] if isinstance(tag, str) else ""


def _find(root: Any, *path: str) -> Any:
    """First element along a path of local names at any depth below the one before, or None."""
    place = root
    for name in path:
        place = next((one for one in place.iter() if one is not place and _tag(one) == name), None)
        if place is None:
            return None
    return place


def _words(root: Any, *path: str) -> str | None:
    place = _find(root, *path)
    return None if place is None or place.text is None else place.text.strip()[:256]


def from_voevent(data: bytes, *, where: str) -> Notice:
    """The notice of one VOEvent document."""
    root = parse_xml(data, where=where)
    if _tag(root) != "VOEvent":
        raise BadInput(f"its root is {shown(_tag(root) or root.tag)}", where=where, remedy="Give a VOEvent 1.1 or 2.0")
    ivorn = (root.get("ivorn") or "")[:256]
    if not ivorn:
        raise BadInput("is missing", where=f"{where}: ivorn", remedy="A VOEvent must have an identifier")
    role = (root.get("role") or "observation").strip().lower()
    params = _Params(root, where)
    created_text = _words(root, "Who", "Date")
    if created_text is None:
        raise BadInput("is missing", where=f"{where}: Who/Date", remedy="A VOEvent must say when it was made")
    created = instant(where, created_text, "Who/Date")
    assert created is not None
    when = instant(where, _words(root, "WhereWhen", "ISOTime"), "WhereWhen/ISOTime")
    serial_text = params.text("Pkt_Ser_Num") or ""
    common = {"created_utc": created, "time_utc": when}
    # The GraceID makes it LVK's; LVK's own stream without one is a broken notice, not one of an unknown mission.
    build = _lvk if params.text("GraceID") or ivorn.lower().startswith("ivo://gwnet/") else _mission
    notice = build(root, params, role, ivorn, common, where)
    return Notice(
        alert=notice.alert,
        transport="voevent",
        witnesses=notice.witnesses,
        sha256=hashlib.sha256(data).hexdigest(),
        serial=int(serial_text) if serial_text.isdecimal() and len(serial_text) < 10 else None,
        identity=ivorn,
        cone=notice.cone,
        warnings=notice.warnings,
        extra=notice.extra,
    )


def _lvk(root: Any, params: _Params, role: str, ivorn: str, common: dict[str, Any], where: str) -> Notice:  # noqa: ARG001
    superevent_id = superevent_of(where, params.text("GraceID"), "GraceID")
    kind = (params.text("AlertType") or _PACKETS.get(params.text("Packet_Type") or "", "unknown")).lower()
    kind = {"earlywarning": "early_warning"}.get(kind, kind)
    if params.flag("Retraction"):
        kind = "retraction"
    search = params.text("Search")
    witnesses = witnesses_of(superevent_id, role=role, search=search, hardware_injection=params.flag("HardwareInj"))
    said = params.text("Significant")
    properties = params.probabilities("Properties")
    for old, new in _OLD_PROPERTIES.items():
        value = params.real(old)
        if value is not None:
            properties.setdefault(new, value)
    maps = next((group for name, group in params.groups.items() if name == "GW_SKYMAP"), {})
    url = next((maps[name][0] for name in ("skymap_fits", "skymap_fits_basic") if name in maps), None)
    page = params.text("EventPage")
    retracted = kind == "retraction"
    external = {key: value for group in ("External Coincidence",) for key, (value, _) in params.groups.get(group, {}).items()}
    far = params.real("FAR")
    if far is not None and far < 0:
        raise BadInput(f"{far} is negative", where=f"{where}: FAR", remedy="Ask the sender")
    alert = Alert(
        superevent_id=superevent_id,
        kind=kind,
        drill=witnesses.drill,
        created_utc=common["created_utc"],
        # LVK's JSON retraction has no event; leaving its time out here makes both transports agree.
        time_utc=None if retracted else common["time_utc"],
        # Before 2023 the parameter did not exist, and only significant events were sent.
        significant=params.truth("Significant") if said else None if retracted else True,
        far_hz=far,
        instruments=tuple(one.strip() for one in (params.text("Instruments") or "").split(",") if one.strip()),
        group=params.text("Group"),
        pipeline=params.text("Pipeline"),
        search=search,
        classification=params.probabilities("Classification"),
        properties=properties,
        skymap_url=url,
        external=open_table(where, external, "External Coincidence") or None,
        urls={"gracedb": page} if page else {},
    )
    return Notice(alert=alert, transport="voevent", witnesses=witnesses, sha256="")


def _mission(root: Any, params: _Params, role: str, ivorn: str, common: dict[str, Any], where: str) -> Notice:
    stream, _, local = ivorn.rpartition("#")
    mission = stream.rpartition("/")[2] or "unknown"
    word = re.match(r"[A-Za-z]+(?:_[A-Za-z]+)*", local)
    label = (word[0] if word else "unknown").rstrip("_")
    retracted = params.flag("Retraction") or params.flag("Def_NOT_a_GRB")
    if any(params.flag(name) for name in _TEST_FLAGS):
        role = "test"
    trigger = next((value for name in ("TrigID", "AMON_ID", "event_id") if (value := params.text(name))), local)
    witnesses = witnesses_of("", role=role, search=None, lvk=False)
    far, unit = params.real("FAR"), params.plain.get("FAR", ("", ""))[1]
    if far is not None and unit.lower().startswith(("yr", "year", "1/y")):
        far /= SECONDS_PER_YEAR
    warnings: list[str] = []
    alert = Alert(
        superevent_id=superevent_of(where, f"{mission}-{trigger}"[:LONGEST_ID], "ivorn"),
        kind="retraction" if retracted else label.lower(),
        mission=mission,
        drill=witnesses.drill,
        created_utc=common["created_utc"],
        time_utc=common["time_utc"],
        far_hz=far,
        instruments=(label.partition("_")[0],),
        skymap_url=next((value for name, (value, _) in params.plain.items() if "healpix" in value.lower() or name == "skymap_fits"), None),
        urls={"ivorn": ivorn},
    )
    position = (_words(root, "Position2D", "C1"), _words(root, "Position2D", "C2"), _words(root, "Position2D", "Error2Radius"))
    cone = None
    if all(position):
        try:
            ra, dec, radius = (float(one or "nan") for one in position)
        except ValueError as error:
            raise BadInput(f"{shown(position)} is no position", where=f"{where}: WhereWhen/Position2D", remedy="Ask the sender") from error
        stated = 0.68 if mission.lower() == "fermi" and "gbm" in label.lower() else 0.9
        cone = cone_of(ra, dec, radius, stated, mission=mission, instrument=label, where=where, warnings=warnings)
    return Notice(alert=alert, transport="voevent", witnesses=witnesses, sha256="", cone=cone, warnings=tuple(warnings))
