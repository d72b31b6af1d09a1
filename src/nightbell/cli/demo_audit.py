"""Was anything lost, did anything happen twice? Outboxes against journals, relays, effects and files. Judged from what is on disk.

module.db of each module -> outboxes --+
journals of the brokers -> Told -------+-> audit() -> Lost
files that events name ----------------+
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from nightbell.cli.story import Lost, Told
from nightbell.contracts.events import CalibrationDone, FramesStored, ObservationDone

__all__ = ["Carried", "Sent", "audit", "read_outbox"]

REFUSED = 2
"""State of an outbox row that the broker would not take (bus/outbox.py)."""


@dataclass(frozen=True)
class Sent:
    """One row of a module's outbox."""

    module: str
    broker: str
    id: str
    refused: str = ""


@dataclass(frozen=True)
class Carried:
    """A relay's promise: these types of `source` are at `target` too."""

    source: str
    target: str
    patterns: tuple[str, ...]


def read_outbox(path: Path, module: str, broker: str) -> list[Sent]:
    """The outbox in a module's database; nothing when it has none."""
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as db:
        if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'outbox'").fetchone():
            return []
        rows = db.execute("SELECT id, state, error FROM outbox ORDER BY n").fetchall()
    return [Sent(module, broker, str(identity), str(error or "refused") if state == REFUSED else "") for identity, state, error in rows]


def audit(
    journals: Mapping[str, Sequence[Told]],
    outboxes: Iterable[Sent],
    *,
    carried: Sequence[Carried] = (),
    dead_letters: Sequence[str] = (),
    files: bool = True,
) -> Lost:
    """Compare; every finding is a sentence."""
    lost: list[str] = []
    twice: list[str] = []
    known = {broker: {one.id for one in told} for broker, told in journals.items()}
    sent = list(outboxes)
    for row in sent:
        if row.refused:
            lost.append(f"{row.module}: event {row.id} was refused by {row.broker}: {row.refused}")
        elif row.id not in known.get(row.broker, set()):
            lost.append(f"{row.module}: event {row.id} is in its outbox, not in the journal of {row.broker}")
    for broker, told in journals.items():
        twice += [
            f"event {identity} stands {n} times in the journal of {broker}" for identity, n in _more_than_once(one.id for one in told)
        ]
    n_carried = 0
    for promise in carried:
        for one in journals.get(promise.source, ()):
            if any(_matches(pattern, one.type) for pattern in promise.patterns):
                n_carried += 1
                if one.id not in known.get(promise.target, set()):
                    lost.append(f"{one.type} {one.id} of {promise.source} did not come to {promise.target}")
    lost += [f"dead letter: {one}" for one in dead_letters]
    once = list({one.id: one for told in journals.values() for one in told}.values())
    twice += _repeated_effects(once)
    n_files = 0
    if files:
        for path, sha256 in _named_files(once).items():
            n_files += 1
            found = _digest(path)
            if found != sha256:
                lost.append(f"{path} {'is gone' if found is None else 'is not what was announced: its hash differs'}")
    checked = {
        "events in outboxes": len(sent),
        "events in journals": sum(len(told) for told in journals.values()),
        "events carried from broker to broker": n_carried,
        "frames and products on disk, by hash": n_files,
    }
    return Lost(tuple(lost), tuple(twice), checked)


def _matches(pattern: str, event_type: str) -> bool:
    from nightbell.bus.wire import matches

    return matches(pattern, event_type)


def _more_than_once(values: Iterable[str]) -> list[tuple[str, int]]:
    return [(value, n) for value, n in Counter(values).items() if n > 1]


def _repeated_effects(events: Sequence[Told]) -> list[str]:
    """Different events that say the same thing happened: an effect that was repeated."""
    frames = [frame.frame_id for one in events if isinstance(one.event, FramesStored) for frame in one.event.frames]
    files = [frame.sha256 for one in events if isinstance(one.event, FramesStored) for frame in one.event.frames]
    # `calibrate_night` says again what is done, on purpose and caused by a command; frames.stored must be answered once.
    stored = {one.id for one in events if isinstance(one.event, FramesStored)}
    products = [
        product.product_id
        for one in events
        if isinstance(one.event, CalibrationDone) and one.causationid in stored
        for product in one.event.products
    ]
    visits = [one.event.item_id for one in events if isinstance(one.event, ObservationDone)]
    said = [
        f"{one.type} about {one.subject} caused by {one.causationid} ({hashlib.sha256(one.data).hexdigest()[:12]})"
        for one in events
        if one.causationid is not None
    ]
    out = [f"frame {one} was stored {n} times" for one, n in _more_than_once(frames)]
    out += [f"{n} frames have the same bytes ({one[:16]})" for one, n in _more_than_once(files)]
    out += [f"product {one[:16]} was announced {n} times" for one, n in _more_than_once(products)]
    out += [f"visit {one} was finished {n} times" for one, n in _more_than_once(visits)]
    return out + [f"{one}: said {n} times" for one, n in _more_than_once(said)]


def _named_files(events: Sequence[Told]) -> dict[str, str]:
    named: dict[str, str] = {}
    for one in events:
        if isinstance(one.event, FramesStored):
            named |= {frame.path: frame.sha256 for frame in one.event.frames}
        elif isinstance(one.event, CalibrationDone):
            named |= {product.path: product.sha256 for product in one.event.products}
            named |= {master.path: master.sha256 for master in one.event.masters}
    return named


def _digest(path: str) -> str | None:
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError:
        return None
