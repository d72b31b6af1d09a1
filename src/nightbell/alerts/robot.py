"""What the alert robot makes of one stored notice: the next state of its superevent and the events to say. No bus, no network.

    entry -> Notice -> map -> policy -> lifecycle -> ranking -> lists -> events

`module.py` commits the result; the same entry and the same known state always give the same result.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from nightbell.alerts.answers import Judgement, judge, skymap_of
from nightbell.alerts.catalog import Catalog
from nightbell.alerts.journal import Entry
from nightbell.alerts.lifecycle import Action, Known, What, expire, seen_of, step
from nightbell.alerts.notices.guards import shown
from nightbell.alerts.notices.notice import Notice
from nightbell.alerts.notices.reading import parse_notice
from nightbell.alerts.policy import Policy
from nightbell.alerts.ranking import probability_in_catalog, rank_galaxies
from nightbell.alerts.settings import ObservatorySettings
from nightbell.alerts.skymap import SkyMap
from nightbell.alerts.targets import targets_of
from nightbell.alerts.tiles import smallest_field_deg, tile_map
from nightbell.contracts.errors import NightbellError
from nightbell.contracts.events import (
    AlertDrilled,
    AlertReceived,
    AlertRetracted,
    Event,
    TargetsDrilled,
    TargetsReady,
    TargetsWithdrawn,
)
from nightbell.contracts.ids import safe_name
from nightbell.contracts.records import FileRef

__all__ = ["Outcome", "Reading", "Robot", "known_key"]

_WORDS = {"accept": "follow", "store": "store", "ignore": "ignore", "drill": "drill"}


@dataclass(frozen=True)
class Reading:
    """A notice read and judged; nothing is decided about its superevent yet."""

    notice: Notice
    sky: SkyMap | None
    judgement: Judgement
    entry: Entry

    @property
    def confirmed(self) -> bool:
        return bool(self.entry.about.get("confirm"))


@dataclass
class Outcome:
    """What follows from one notice (or from old age)."""

    known: Known
    what: What
    actions: tuple[Action, ...] = ()
    events: list[tuple[Event, str]] = field(default_factory=list)
    """(event, subject), in the order they are said."""
    alarms: list[tuple[str, str]] = field(default_factory=list)
    """(key, text) for a human."""

    def as_answer(self) -> dict[str, Any]:
        """For `alert submit`."""
        targets = {e.observatory: len(e.targets) for e, _ in self.events if isinstance(e, TargetsReady | TargetsDrilled)}
        return {
            "superevent_id": self.known.superevent_id,
            "drill": self.known.drill,
            "state": self.known.state.value,
            "revision": self.known.revision,
            "notice_was": self.what.value,
            "actions": [action.value for action in self.actions],
            "events": [event.type for event, _ in self.events],
            "targets": targets,
        }


def known_key(superevent_id: str, *, drill: bool) -> str:
    """A drill under a live id never touches what is known of the live event."""
    return f"{superevent_id}#drill" if drill else superevent_id


class Robot:
    """Policy, catalogue and observatories, ready to judge notices."""

    def __init__(
        self,
        policy: Policy,
        catalog: Catalog | None,
        observatories: Mapping[str, ObservatorySettings],
        *,
        weight: Any = "K",
        top: int = 200,
        maps: Path,
        host: str = "",
    ) -> None:
        self.policy = policy
        self.catalog = catalog
        self.observatories = dict(observatories)
        self._weight = weight
        self._top = top
        self._maps = maps
        self._host = host

    def read(self, entry: Entry, *, now_ns: int) -> Reading:
        """Parse, open the map, judge. Raises `BadInput`; a broken map alone is a warning: the alert must not be lost with it."""
        where = entry.where
        notice = parse_notice(entry.raw, where=where)
        skymap = entry.about.get("skymap")
        sky: SkyMap | None = None
        try:
            sky, notice = skymap_of(notice, Path(skymap) if skymap else None, where=where)
        except NightbellError as error:
            notice = replace(notice, warnings=(*notice.warnings, str(error)))
        in_catalogue = None
        if sky is not None and self.catalog is not None and self.policy.asks("in_catalogue"):
            in_catalogue = probability_in_catalog(sky, self.catalog, weight=self._weight)
        return Reading(notice, sky, judge(notice, self.policy, sky=sky, now_ns=now_ns, in_catalogue=in_catalogue), entry)

    def decide(self, reading: Reading, known: Known | None, *, now_ns: int) -> Outcome:
        """The superevent after this notice and every event to say about it."""
        notice, judgement = reading.notice, reading.judgement
        alert = notice.alert
        before = known or Known(superevent_id=alert.superevent_id, drill=alert.drill)
        follow = judgement.policy.action == "follow" and (alert.drill or not notice.witnesses.archive)
        seen = seen_of(alert, serial=notice.serial, follow=follow, confirmed=reading.confirmed)
        after, actions, what = step(before, seen, now_ns=now_ns)
        if alert.significant is not None:
            after = msgspec.structs.replace(after, significant=alert.significant)
        msgspec.json.decode(msgspec.json.encode(after), type=Known)  # a state that cannot be read again would be the robot's last
        outcome = Outcome(after, what, actions)
        if what is What.DUPLICATE:
            return outcome
        skymap: FileRef | None = None
        try:
            skymap = self._store_map(reading)
        except OSError as error:  # targets are worth more than a copy of the map
            outcome.alarms.append(("alerts.maps", f"the sky map of {alert.superevent_id} cannot be stored: {error}"))
        alert = msgspec.structs.replace(alert, revision=after.revision)
        decision = "follow" if reading.confirmed and Action.RANK in actions else _WORDS[judgement.decision]
        if judgement.policy.action == "watch" and decision == "store" and alert.kind != "retraction":
            decision = "watch"
        reasons = (f"this notice is: {what.value}", *judgement.reasons, *notice.warnings)
        subject = alert.superevent_id
        if alert.drill:
            outcome.events.append(
                (AlertDrilled(alert=alert, decision="drill", rule=judgement.rule, reasons=reasons, skymap=skymap), subject)
            )
        elif what is What.RETRACTION:
            said = AlertRetracted(superevent_id=subject, revision=after.revision, reason="retracted by its senders")
            outcome.events.append((said, subject))
        else:
            outcome.events.append(
                (AlertReceived(alert=alert, decision=decision, rule=judgement.rule, reasons=reasons, skymap=skymap), subject)
            )
        if Action.RANK in actions and reading.sky is not None:
            self._publish_lists(outcome, reading, skymap, now_ns=now_ns)
        if Action.WITHDRAW in actions:
            self.withdraw(outcome, "retracted by its senders" if what is What.RETRACTION else f"no longer followed: {judgement.rule}")
        if Action.TELL in actions and not alert.drill:
            outcome.alarms.append((f"alerts.{subject}", f"{subject} {alert.kind}: {what.value}; state {after.state.value}"))
        broken = [text for text in notice.warnings if "skymap" in text or "notice" in text]
        if reading.sky is None and broken and not alert.drill:
            outcome.alarms.append((f"alerts.map.{subject}", shown(broken[0], 300)))
        return outcome

    def withdraw(self, outcome: Outcome, reason: str) -> None:
        """Add a withdrawal for each observatory; a drill has nothing out that could be withdrawn."""
        if outcome.known.drill:
            return
        for name in self.observatories:
            said = TargetsWithdrawn(
                superevent_id=outcome.known.superevent_id, observatory=name, revision=outcome.known.targets_revision, reason=reason
            )
            outcome.events.append((said, f"{name}/{outcome.known.superevent_id}"))

    def grow_old(self, known: Known, *, now_ns: int) -> Outcome | None:
        """Old age of one superevent, or None while it is young."""
        found = expire(known, now_ns=now_ns)
        if found is None:
            return None
        after, actions = found
        outcome = Outcome(after, What.OLD_AGE, actions)
        if Action.WITHDRAW in actions:
            self.withdraw(outcome, "too old to be worth looking at")
        return outcome

    def _publish_lists(self, outcome: Outcome, reading: Reading, skymap: FileRef | None, *, now_ns: int) -> None:
        sky = reading.sky
        assert sky is not None
        alert = reading.notice.alert
        if self.catalog is None:
            outcome.alarms.append(("alerts.catalog", "there is no galaxy catalogue: no targets can be chosen"))
            return
        ranking = rank_galaxies(sky, self.catalog, weight=self._weight, top=self._top)
        tiles: list[dict[str, float]] = []
        if ranking.beyond_catalog:
            tiles = [tile.as_dict() for tile in tile_map(sky, field_deg=smallest_field_deg(self.observatories.values()))]
        lists = targets_of(self.observatories, alert, ranking, tiles, now_ns=now_ns, priority=reading.judgement.policy.priority)
        kind: type[TargetsReady | TargetsDrilled] = TargetsDrilled if alert.drill else TargetsReady
        for name, targets in lists.items():
            said = kind(
                superevent_id=alert.superevent_id,
                observatory=name,
                revision=outcome.known.targets_revision,
                targets=targets,
                event_utc=alert.time_utc,
                not_in_catalog=ranking.not_in_catalog,
                beyond_catalog=ranking.beyond_catalog,
                skymap=skymap,
            )
            outcome.events.append((said, f"{name}/{alert.superevent_id}"))

    def _store_map(self, reading: Reading) -> FileRef | None:
        """The map's bytes as a file of their own, named by its digest; events only point at it."""
        sky = reading.sky
        if sky is None:
            return None
        given = reading.entry.about.get("skymap")
        data = Path(given).read_bytes() if given else reading.notice.combined_skymap or reading.notice.skymap
        if data is None:  # made from a cone
            return None
        self._maps.mkdir(parents=True, exist_ok=True)
        path = (
            self._maps
            / f"{safe_name(reading.notice.alert.superevent_id)}-{sky.digest[:16]}.fits{'.gz' if data[:2] == bytes((31, 139)) else ''}"
        )
        if not path.is_file() or path.stat().st_size != len(data):
            making = path.with_name(path.name + ".making")
            with making.open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            making.replace(path)
        return FileRef(path=str(path), sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data), host=self._host)
