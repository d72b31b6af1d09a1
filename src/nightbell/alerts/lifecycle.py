"""The life of a superevent: what is known, a notice, what to do. One pure table.

    new --(policy says follow, with a map)--> active --(withdrawn by its senders)--> retracted
     |                                          |  ^
     +--(not yet)--> watched <--(no longer)-----+  |      active, watched --(time)--> expired
                        +--------(now it does)-----+

`classify` says what a notice is to a known superevent, TABLE says what follows. Nothing is ordered by arrival alone: notices
come by several ways, twice, late and out of order. Drills live the same life under a key of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import msgspec

from nightbell.contracts.instants import parse_utc
from nightbell.contracts.records import Alert
from nightbell.contracts.states import AlertState

__all__ = ["TABLE", "Action", "Known", "Seen", "Step", "What", "classify", "expire", "forgettable", "step"]

HOUR_NS = 3_600_000_000_000
DAY_NS = 24 * HOUR_NS
_KIND_RANK = {"early_warning": 0, "preliminary": 1, "initial": 2, "update": 3, "retraction": 4}
FORGOTTEN_NS = 90 * DAY_NS
REMEMBERED = 64
"""Identities of notices kept per superevent, to know duplicates by."""


class What(StrEnum):
    """What a notice is to a superevent."""

    DUPLICATE = "duplicate"
    LATE = "late"
    UNKNOWN_KIND = "unknown kind"
    RETRACTION = "retraction"
    LATE_RETRACTION = "late retraction"
    MAPLESS = "no map yet"
    FOLLOW_NEW_MAP = "to be followed, new map"
    FOLLOW_SAME_MAP = "to be followed, same map"
    NOT_FOLLOWED = "not to be followed"
    CONFIRMED = "confirmed by a human"
    OLD_AGE = "old age"


class Action(StrEnum):
    """What the robot does, in this order, after the transition is on disk."""

    STORE = "store"
    RANK = "rank"
    """Rank, and publish a new revision of targets."""
    REFRESH = "refresh"
    """Facts changed, the plan did not."""
    WITHDRAW = "withdraw"
    TELL = "tell"
    """A human should know."""


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What the table needs of a notice."""

    kind: str
    created_ns: int
    serial: int = 0
    map_digest: str | None = None
    facts: str = ""
    """Identity across transports without the map: kind, far, classification, properties."""
    follow: bool = False
    confirmed: bool = False

    @property
    def key(self) -> tuple[int, int, int]:
        """Order among notices. Times have steps of a second and repeat: the kind breaks ties."""
        return (self.created_ns, _KIND_RANK.get(self.kind, -1), self.serial)


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one superevent. A mutable copy never exists."""

    superevent_id: str
    drill: bool = False
    state: AlertState = AlertState.NEW
    revision: int = 0
    """Of its alert record."""
    targets_revision: int = 0
    acted_key: tuple[int, int, int] | None = None
    acted_kind: str = ""
    acted_facts: str = ""
    map_digest: str | None = None
    seen: tuple[tuple[str, str | None], ...] = ()
    """(facts, map digest) of notices, oldest first."""
    n_duplicates: int = 0
    significant: bool = True
    since_ns: int = 0
    root_id: str | None = None
    """Event id of its first alert.*: everything it causes carries it."""


@dataclass(frozen=True)
class Step:
    """Where a row of the table leads."""

    to: AlertState
    actions: tuple[Action, ...]


N, W, A, R, X = AlertState.NEW, AlertState.WATCHED, AlertState.ACTIVE, AlertState.RETRACTED, AlertState.EXPIRED
_ALL = (N, W, A, R, X)
_STORE, _TELL = (Action.STORE,), (Action.STORE, Action.TELL)
_RANK = (Action.STORE, Action.RANK)

TABLE: dict[tuple[AlertState, What], Step] = {
    **{(state, What.FOLLOW_NEW_MAP): Step(A, _RANK) for state in (N, W, A, X)},
    (A, What.FOLLOW_SAME_MAP): Step(A, (Action.STORE, Action.REFRESH)),
    **{(state, What.FOLLOW_SAME_MAP): Step(A, _RANK) for state in (N, W)},  # the map was there, the rules only now say yes
    (X, What.FOLLOW_SAME_MAP): Step(X, _STORE),
    # LVK may un-retract; a human decides.
    **{(R, what): Step(R, _TELL) for what in (What.FOLLOW_NEW_MAP, What.FOLLOW_SAME_MAP)},
    **{(state, What.CONFIRMED): Step(A, _RANK) for state in _ALL},
    **{(state, What.NOT_FOLLOWED): Step(W, _STORE) for state in (N, W)},
    (A, What.NOT_FOLLOWED): Step(W, (Action.STORE, Action.WITHDRAW)),
    **{(state, What.NOT_FOLLOWED): Step(state, _STORE) for state in (R, X)},
    (N, What.MAPLESS): Step(W, _TELL),
    **{(state, What.MAPLESS): Step(state, _STORE) for state in (W, A, R, X)},  # ignorance withdraws nothing
    **{(state, What.RETRACTION): Step(R, _STORE) for state in (N, W, X)},
    (A, What.RETRACTION): Step(R, (Action.STORE, Action.WITHDRAW)),
    (R, What.RETRACTION): Step(R, _STORE),
    **{(state, What.LATE_RETRACTION): Step(state, _TELL) for state in _ALL},
    **{(state, What.UNKNOWN_KIND): Step(state, _TELL) for state in (W, A, R, X)},
    (N, What.UNKNOWN_KIND): Step(W, _TELL),
    **{(state, What.LATE): Step(state, _STORE) for state in _ALL},
    **{(state, What.DUPLICATE): Step(state, ()) for state in _ALL},
    (W, What.OLD_AGE): Step(X, _STORE),
    (A, What.OLD_AGE): Step(X, (Action.STORE, Action.WITHDRAW)),
}


def seen_of(alert: Alert, *, serial: int | None = None, follow: bool, confirmed: bool = False) -> Seen:
    """The part of a notice that the table judges. `alert.skymap_sha256` is the digest of the map in force."""
    facts = "|".join(
        (
            alert.kind,
            "" if alert.far_hz is None else f"{alert.far_hz:.6e}",
            ",".join(f"{name}={value:.6g}" for name, value in sorted(alert.classification.items())),
            ",".join(f"{name}={value:.6g}" for name, value in sorted(alert.properties.items())),
            "coincident" if alert.external else "",
        )
    )
    # Other missions name their notices in many ways; to the table each is one more position.
    kind = alert.kind if alert.mission == "LVK" or alert.kind == "retraction" else "update"
    return Seen(
        kind=kind,
        created_ns=parse_utc(alert.created_utc),
        serial=serial or 0,
        map_digest=alert.skymap_sha256,
        facts=facts,
        follow=follow,
        confirmed=confirmed,
    )


def classify(known: Known, seen: Seen) -> What:
    """What this notice is to what is known."""
    if seen.confirmed and seen.map_digest is not None:
        return What.CONFIRMED
    # What was acted on came without its map, and here it is, by another transport: the missing half, whatever its time says.
    completes = seen.map_digest is not None and seen.facts == known.acted_facts and (seen.facts, None) in known.seen
    late = known.acted_key is not None and seen.key < known.acted_key and not completes
    # After a retraction a newer notice is news, also when it repeats what was said before; and a second retraction is, once a
    # human has brought the event back.
    repeats = known.state is R if seen.kind == "retraction" else late or known.state is not R
    # The same notice by another transport has another time, and names its map instead of carrying it. One that brings the map
    # which the first did not have is no duplicate: nothing has been ranked yet.
    for facts, digest in known.seen:
        if repeats and facts == seen.facts and seen.map_digest in (digest, None):
            return What.DUPLICATE
    if seen.kind not in _KIND_RANK:
        return What.UNKNOWN_KIND
    if seen.kind == "retraction":
        # Never late against what is automatic: LVK withdraws preliminary notices within minutes.
        return What.LATE_RETRACTION if late and known.acted_kind in {"initial", "update"} else What.RETRACTION
    if late:
        return What.LATE
    if seen.map_digest is None:
        return What.MAPLESS
    if not seen.follow:
        return What.NOT_FOLLOWED
    return What.FOLLOW_SAME_MAP if seen.map_digest == known.map_digest else What.FOLLOW_NEW_MAP


def step(known: Known, seen: Seen, *, now_ns: int) -> tuple[Known, tuple[Action, ...], What]:
    """The superevent after this notice, what to do, and what the notice was."""
    what = classify(known, seen)
    row = TABLE[known.state, what]
    if what is What.DUPLICATE:
        return msgspec.structs.replace(known, n_duplicates=known.n_duplicates + 1), (), what
    acted = what not in {What.LATE, What.LATE_RETRACTION, What.UNKNOWN_KIND}
    after = msgspec.structs.replace(
        known,
        state=row.to,
        revision=known.revision + 1,
        targets_revision=known.targets_revision + (1 if {Action.RANK, Action.WITHDRAW} & set(row.actions) else 0),
        acted_key=max(seen.key, known.acted_key or seen.key) if acted else known.acted_key,
        acted_kind=seen.kind if acted else known.acted_kind,
        acted_facts=seen.facts if acted else known.acted_facts,
        map_digest=seen.map_digest if acted and seen.map_digest is not None and row.to is not R else known.map_digest,
        seen=(*known.seen, (seen.facts, seen.map_digest))[-REMEMBERED:],
        since_ns=now_ns if row.to is not known.state or not known.since_ns else known.since_ns,
    )
    return after, row.actions, what


def forgettable(known: Known, *, now_ns: int) -> bool:
    """Whether nothing more can follow: over for 90 days. The mock events of a year would otherwise be carried for ever."""
    return known.state in (R, X) and now_ns - known.since_ns > FORGOTTEN_NS


def expire(known: Known, *, now_ns: int) -> tuple[Known, tuple[Action, ...]] | None:
    """Old age: watched for 7 days; active for 14, or for one day when not significant. None while it is still young."""
    limits = {W: 7 * DAY_NS, A: 14 * DAY_NS if known.significant else DAY_NS}
    if known.state not in limits or now_ns - known.since_ns < limits[known.state]:
        return None
    row = TABLE[known.state, What.OLD_AGE]
    revision = known.targets_revision + (1 if Action.WITHDRAW in row.actions else 0)
    return msgspec.structs.replace(known, state=row.to, since_ns=now_ns, targets_revision=revision), row.actions
