"""The life of a superevent: every row of the table, every order of arrival."""

from __future__ import annotations

import itertools
import random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightbell.alerts.lifecycle import DAY_NS, TABLE, Action, Known, Seen, What, classify, expire, seen_of, step
from nightbell.contracts.records import Alert
from nightbell.contracts.states import AlertState

SECOND_NS = 1_000_000_000
LIFE = Known(superevent_id="S270412a")


def seen(kind: str = "initial", at_s: int = 100, *, digest: str | None = "map-1", follow: bool = True, **more: Any) -> Seen:
    facts = more.pop("facts", f"{kind}|{at_s}|{digest}")
    return Seen(kind=kind, created_ns=at_s * SECOND_NS, map_digest=digest, follow=follow, facts=facts, **more)


def live(*notices: Seen, start: Known = LIFE) -> tuple[Known, list[tuple[Action, ...]], list[What]]:
    known, actions, whats = start, [], []
    for notice in notices:
        known, done, what = step(known, notice, now_ns=notice.created_ns)
        actions.append(done)
        whats.append(what)
    return known, actions, whats


def test_every_state_has_an_answer_to_every_kind_of_notice() -> None:
    arriving = set(What) - {What.OLD_AGE}
    assert {(state, what) for state in AlertState for what in arriving} <= set(TABLE)


def test_targets_are_withdrawn_exactly_when_an_active_event_stops_being_active() -> None:
    for (state, what), row in TABLE.items():
        leaves = state is AlertState.ACTIVE and row.to is not AlertState.ACTIVE
        assert (Action.WITHDRAW in row.actions) is leaves, (state, what)


def test_nothing_is_ranked_but_for_an_active_event() -> None:
    for place, row in TABLE.items():
        assert Action.RANK not in row.actions or row.to is AlertState.ACTIVE, place


def test_the_same_map_with_new_facts_makes_no_new_plan() -> None:
    known, actions, _ = live(seen(), seen("update", 200))
    assert Action.RANK in actions[0]
    assert actions[1] == (Action.STORE, Action.REFRESH)
    assert known.targets_revision == 1


def test_a_new_map_makes_a_new_revision() -> None:
    known, actions, _ = live(seen("preliminary"), seen("initial", 200, digest="map-2"))
    assert Action.RANK in actions[1]
    assert known.targets_revision == 2


def test_a_retraction_withdraws_and_a_repeated_one_is_only_counted() -> None:
    retraction = seen("retraction", 300, digest=None)
    known, actions, whats = live(seen(), retraction, retraction)
    assert Action.WITHDRAW in actions[1]
    assert whats[2] is What.DUPLICATE
    assert (known.state, known.n_duplicates) == (AlertState.RETRACTED, 1)


def test_an_update_dated_before_the_retraction_changes_nothing() -> None:
    known, actions, whats = live(seen(), seen("retraction", 300, digest=None), seen("update", 250, digest="map-2"))
    assert whats[2] is What.LATE
    assert actions[2] == (Action.STORE,)
    assert known.state is AlertState.RETRACTED


def test_a_retraction_is_never_late_against_what_came_automatically() -> None:
    assert live(seen("preliminary", 500), seen("retraction", 400, digest=None))[2][1] is What.RETRACTION


def test_a_retraction_older_than_an_acted_update_only_tells_a_human() -> None:
    known, actions, whats = live(seen("update", 500), seen("retraction", 400, digest=None))
    assert whats[1] is What.LATE_RETRACTION
    assert Action.TELL in actions[1]
    assert known.state is AlertState.ACTIVE


def test_an_event_returns_from_its_retraction_only_by_a_human() -> None:
    again = seen("initial", 400)
    known, actions, _ = live(seen(), seen("retraction", 300, digest=None), again)
    assert known.state is AlertState.RETRACTED
    assert actions[2] == (Action.STORE, Action.TELL)
    known, actions, _ = live(msgspec.structs.replace(again, confirmed=True), start=known)
    assert known.state is AlertState.ACTIVE
    assert Action.RANK in actions[0]


def test_a_second_retraction_after_a_human_brought_it_back_withdraws_again() -> None:
    known, _, _ = live(seen(), seen("retraction", 300, digest=None, facts="r"), seen("initial", 400, confirmed=True))
    known, actions, _ = live(seen("retraction", 500, digest=None, facts="r"), start=known)
    assert known.state is AlertState.RETRACTED
    assert Action.WITHDRAW in actions[0]


def test_notices_of_one_second_are_ordered_by_kind() -> None:
    first, second = seen("initial"), seen("update", digest="map-2")
    assert live(first, second)[0].map_digest == "map-2"
    assert live(second, first)[2][1] is What.LATE


def test_the_same_notice_by_another_transport_is_one_notice_whatever_its_time_says() -> None:
    by_kafka = seen("initial", 100, facts="same")
    by_voevent = seen("initial", 118, digest=None, facts="same")
    assert live(by_kafka, by_voevent)[2][1] is What.DUPLICATE


@pytest.mark.parametrize("before", [(), (seen("preliminary", 20, digest="map-0"),)])
def test_the_map_that_another_transport_brings_later_is_ranked_whatever_its_time_says(before: tuple[Seen, ...]) -> None:
    by_voevent = seen("initial", 118, digest=None, facts="same", follow=False)  # names a map at some URL
    by_kafka = seen("initial", 100, digest="map-1", facts="same")
    known, actions, whats = live(*before, by_voevent, by_kafka, by_kafka, by_voevent)
    assert whats[-3:] == [What.FOLLOW_NEW_MAP, What.DUPLICATE, What.DUPLICATE]
    assert Action.RANK in actions[-3]
    assert (known.state, known.map_digest) == (AlertState.ACTIVE, "map-1")


def test_a_map_for_what_has_been_overtaken_stays_late() -> None:
    mapless = seen("preliminary", 118, digest=None, facts="same", follow=False)
    whats = live(mapless, seen("initial", 400, digest="map-2"), seen("preliminary", 100, facts="same"))[2]
    assert whats[-1] is What.LATE


def test_a_notice_without_map_withdraws_nothing() -> None:
    known, _, whats = live(seen(), seen("update", 200, digest=None, follow=False))
    assert whats[1] is What.MAPLESS
    assert known.state is AlertState.ACTIVE


def test_an_early_warning_without_map_is_watched_and_told() -> None:
    known, actions, _ = live(seen("early_warning", digest=None))
    assert known.state is AlertState.WATCHED
    assert Action.TELL in actions[0]


def test_an_unknown_kind_is_stored_and_told() -> None:
    known, actions, whats = live(seen("superseded"))
    assert whats == [What.UNKNOWN_KIND]
    assert Action.TELL in actions[0]
    assert known.state is AlertState.WATCHED


@pytest.mark.parametrize(("significant", "days"), [(True, 14), (False, 1)])
def test_active_events_grow_old(significant: bool, days: int) -> None:
    known, _, _ = live(seen(at_s=0))
    known = msgspec.structs.replace(known, significant=significant, since_ns=1)
    assert expire(known, now_ns=days * DAY_NS) is None
    old = expire(known, now_ns=days * DAY_NS + 2)
    assert old is not None
    assert old[0].state is AlertState.EXPIRED
    assert Action.WITHDRAW in old[1]


STORY = (
    seen("early_warning", 10, digest=None, follow=False),
    seen("preliminary", 20),
    seen("preliminary", 320),
    seen("initial", 400, digest="map-2"),
    seen("update", 900, digest="map-3"),
)


@given(st.randoms(use_true_random=False))
def test_the_end_of_the_story_does_not_depend_on_the_order_of_arrival(rng: random.Random) -> None:
    shuffled = list(STORY)
    rng.shuffle(shuffled)
    known, _, _ = live(*shuffled)
    assert (known.state, known.map_digest) == (AlertState.ACTIVE, "map-3")


@pytest.mark.parametrize("again", [1, 2])
def test_delivering_everything_again_changes_nothing(again: int) -> None:
    known, _, _ = live(*STORY)
    repeated, actions, _ = live(*itertools.chain(*[STORY] * again), start=known)
    assert (repeated.state, repeated.revision, repeated.targets_revision) == (known.state, known.revision, known.targets_revision)
    assert set(actions) == {()}


@given(
    st.lists(
        st.tuples(st.sampled_from(["preliminary", "initial", "update", "retraction", "other"]), st.integers(0, 9), st.booleans()),
        max_size=12,
    )
)
def test_targets_are_out_exactly_while_it_is_active(notices: list[tuple[str, int, bool]]) -> None:
    known, out = LIFE, False
    for i, (kind, at_s, follow) in enumerate(notices):
        digest = None if kind == "retraction" else f"map-{i % 3}"
        known, actions, _ = step(known, seen(kind, at_s, digest=digest, follow=follow), now_ns=i)
        out = (out or Action.RANK in actions) and Action.WITHDRAW not in actions
        assert out is (known.state is AlertState.ACTIVE)


def test_classify_compares_facts_of_records_not_their_times() -> None:
    alert = Alert(
        superevent_id="S230518h",
        kind="initial",
        drill=False,
        created_utc="2023-05-18T16:07:18Z",
        far_hz=3.2e-10,
        classification={"NSBH": 0.86},
    )
    other = msgspec.structs.replace(alert, created_utc="2023-05-18T16:07:36Z", urls={"gracedb": "x"})
    known, _, _ = step(LIFE, seen_of(alert, follow=True), now_ns=0)
    assert classify(known, seen_of(other, follow=True)) is What.DUPLICATE
