"""The outbox on its own: numbers without holes, damage that is named, and new beginnings."""

from __future__ import annotations

import sqlite3

import pytest

from nightbell.bus.outbox import OUTBOX_SCHEMA, DamagedRow, Outbox


@pytest.fixture
def db() -> sqlite3.Connection:
    made = sqlite3.connect(":memory:", isolation_level=None)
    made.executescript(OUTBOX_SCHEMA)
    return made


def fill(outbox: Outbox, db: sqlite3.Connection, *names: str) -> None:
    for name in names:
        outbox.append(db, name, name.encode(), 0)


def ids(outbox: Outbox, db: sqlite3.Connection) -> list[tuple[int, str]]:
    return [(row.n, row.id) for row in outbox.unconfirmed(db, after=0)]


def test_events_are_numbered_from_one_and_the_same_id_is_one_event(db: sqlite3.Connection) -> None:
    outbox = Outbox(db)
    fill(outbox, db, "a", "b", "a", "c")
    assert ids(outbox, db) == [(1, "a"), (2, "b"), (3, "c")]
    assert Outbox(db).identity == outbox.identity


def test_a_batch_ends_before_what_the_broker_refused(db: sqlite3.Connection) -> None:
    outbox = Outbox(db)
    fill(outbox, db, "a", "b", "c")
    outbox.refuse(db, 2, "schema: no such thing")
    assert ids(outbox, db) == [(1, "a")]
    assert [row.n for row in outbox.unconfirmed(db, after=1)] == [3]
    assert outbox.before(db, 3) == (1, "a"), "the chain passes over it"
    assert outbox.refused(db) == [(2, "b", "schema: no such thing")]


def test_a_flipped_byte_is_named_and_not_sent(db: sqlite3.Connection) -> None:
    outbox = Outbox(db)
    fill(outbox, db, "a", "b")
    db.execute("UPDATE outbox SET envelope = X'42' WHERE n = 2")
    assert ids(outbox, db) == [(1, "a")]
    with pytest.raises(DamagedRow, match="event 2 of the outbox is damaged") as damaged:
        outbox.unconfirmed(db, after=1)
    assert damaged.value.n == 2


def test_beginning_again_keeps_what_was_refused_however_often_it_happens(db: sqlite3.Connection) -> None:
    outbox = Outbox(db)
    for beginning in ("x", "y", "z"):
        fill(outbox, db, f"{beginning}1", f"{beginning}2")
        first = outbox.unconfirmed(db, after=0)[0].n
        outbox.refuse(db, first, f"{beginning} is refused")
        outbox.begin_again(db, everything=False)
    assert sorted(error for _, _, error in outbox.refused(db)) == ["x is refused", "y is refused", "z is refused"]
    assert ids(outbox, db) == [(1, "y2"), (2, "z1"), (3, "z2")]


def test_everything_that_is_kept_is_sent_again_to_a_broker_that_lost_its_journal(db: sqlite3.Connection) -> None:
    outbox = Outbox(db)
    fill(outbox, db, "a", "b", "c")
    outbox.confirm(db, n=2, seq=7, epoch=1)
    assert outbox.last_confirmed(db) == (1, 7, 2, "b")
    before = outbox.identity
    outbox.begin_again(db, everything=True)
    assert outbox.identity != before
    assert ids(outbox, db) == [(1, "a"), (2, "b"), (3, "c")]
    assert outbox.last_confirmed(db) is None


def test_old_confirmed_events_go_but_never_the_last(db: sqlite3.Connection) -> None:
    outbox = Outbox(db)
    fill(outbox, db, "a", "b")
    outbox.confirm(db, n=2, seq=2, epoch=1)
    outbox.forget_old(db, 8 * 86_400_000_000_000)
    assert outbox.ends(db) == (2, 2)
    fill(outbox, db, "c")
    assert [(row.n, row.id) for row in outbox.unconfirmed(db, after=2)] == [(3, "c")]
