"""The router's sentences, one by one: messages and instants in, messages and wishes out, without sockets, clocks or files."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec
import pytest

from nightbell.bus import wire
from nightbell.bus.router import Append, Router, Send, Tell
from nightbell.bus.segment import EVENTS, Record

H = TypeVar("H", bound=wire.Head)
WALL_NS = 1_800_000_000_000_000_000


class Shelf:
    """The journal as the router sees it, in memory: records that are durable."""

    def __init__(self, records: Sequence[Record] = ()) -> None:
        self.records = list(records)
        self.damaged: set[int] = set()

    @property
    def head(self) -> int:
        told = 0
        for record in self.records:
            if record.kind == EVENTS:
                told = record.first + record.count - 1
            elif "next" in record.head:
                told = record.head["next"] - 1
        return told

    @property
    def first_seq(self) -> int:
        return next((record.first for record in self.records if record.kind == EVENTS), self.head + 1)

    def _events(self, after: int, reader: str | None) -> list[tuple[int, str, bytes]]:
        return [
            (seq, msgspec.json.decode(packed, type=wire.Summary).type, packed)
            for record in self.records
            if record.kind == EVENTS and record.head.get("only") in (None, reader)
            for seq, packed in enumerate(wire.decode_batch(record.body), start=record.first)
            if seq > after and seq not in self.damaged
        ]

    def read(
        self, after: int, patterns: Sequence[str], *, max_events: int, max_bytes: int, reader: str = ""
    ) -> tuple[list[tuple[int, str, bytes]], int]:
        found: list[tuple[int, str, bytes]] = []
        size = 0
        for one in self._events(after, reader):
            if any(wire.matches(pattern, one[1]) for pattern in patterns):
                if found and (len(found) >= max_events or size + len(one[2]) > max_bytes):
                    return found, found[-1][0]
                found.append(one)
                size += len(one[2])
        return found, max(after, self.head)

    def event(self, seq: int) -> bytes | None:
        for record in self.records:
            if record.kind == EVENTS and record.first <= seq < record.first + record.count and seq not in self.damaged:
                return wire.decode_batch(record.body)[seq - record.first]
        return None

    def seq_at(self, at_ns: int) -> int:
        return next((record.first for record in self.records if record.kind == EVENTS and record.head["at"] >= at_ns), self.head + 1)


class Bench:
    """A router with its shelf; `run` carries out what it wishes, commits included unless `holds_commits`."""

    def __init__(self, shelf: Shelf | None = None, *, snapshot: dict[str, Any] | None = None, now: float = 0.0) -> None:
        self.shelf = shelf or Shelf()
        self.now = now
        self.holds_commits = False
        self.pending: list[Append] = []
        self.sent: list[Send] = []
        self.told: list[Tell] = []
        self.router = Router(
            self.shelf,
            broker="observatory",
            site="demo",
            journal_id="journal",
            epoch=1,
            snapshot=snapshot,
            tail=self.shelf.records if snapshot is None else [],
            now=now,
            wall_ns=WALL_NS,
            chance=random.Random(7),
        )

    def run(self) -> None:
        while effects := self.router.take():
            for effect in effects:
                if isinstance(effect, Append):
                    self.pending.append(effect)
                elif isinstance(effect, Send):
                    wire.decode(wire.encode(effect.head, effect.body), wire.TO_CLIENT)
                    self.sent.append(effect)
                else:
                    self.told.append(effect)
            if not self.holds_commits:
                self.commit()

    def commit(self) -> None:
        if self.pending:
            for one in self.pending:
                one.record.packed(0)
            self.shelf.records += [one.record for one in self.pending]
            last = self.pending[-1].ticket
            self.pending = []
            self.router.committed(last, self.now)

    def say(self, peer: bytes, head: wire.Head, body: bytes = b"") -> list[wire.Head]:
        """Say it; what the peer is told then."""
        mark = len(self.sent)
        self.router.handle(peer, head, body, self.now, WALL_NS + round(self.now * 1e9))
        self.run()
        return [one.head for one in self.sent[mark:] if one.peer == peer]

    def wait(self, seconds: float, *, beats: Sequence[bytes] = ()) -> None:
        """Time goes on in steps of 0.5 s; `beats` are peers that go on living."""
        until = self.now + seconds
        while self.now < until:
            self.now = min(until, self.now + 0.5)
            for peer in beats:
                self.say(peer, wire.Heartbeat(m0=1))
            self.router.tick(self.now, WALL_NS + round(self.now * 1e9))
            self.run()

    def heard(self, peer: bytes, kind: type[H]) -> list[H]:
        return [one.head for one in self.sent if one.peer == peer and isinstance(one.head, kind)]

    def deliveries(self, peer: bytes) -> list[tuple[int, ...]]:
        return [head.seqs for head in self.heard(peer, wire.Deliver)]

    def types(self) -> list[str]:
        return [kind for _, kind, _ in self.shelf.read(0, ("**",), max_events=10**6, max_bytes=1 << 40)[0]]

    def again(self) -> Bench:
        """What a restart makes of what is durable."""
        return Bench(Shelf(self.shelf.records), now=self.now)


def hello(name: str, *, instance: str = "one", outbox: str | None = None, **more: Any) -> wire.Hello:
    told: dict[str, Any] = {"host": "dome", "pid": 7, "presence": False, "outbox": outbox or f"outbox-{name}", **more}
    return wire.Hello(name=name, instance=instance, **told)


def envelope(name: str, n: int, kind: str = "frames.stored", *, pad: int = 0) -> bytes:
    data = msgspec.Raw(msgspec.json.encode({"n": n, "pad": "x" * pad}))
    return wire.encode_envelope(wire.Envelope(specversion="1.0", id=f"{name}-{n}", source=f"{name}@demo", type=kind, data=data))


def publish(
    bench: Bench, peer: bytes, name: str, first: int, count: int = 1, *, kind: str = "frames.stored", **more: Any
) -> list[wire.Head]:
    told = {"prevn": first - 1, "previd": f"{name}-{first - 1}" if first > 1 else None, "fence": 1, "n0": first, "count": count, **more}
    return bench.say(peer, wire.Publish(**told), wire.encode_batch([envelope(name, first + i, kind) for i in range(count)]))


def subscribe(bench: Bench, peer: bytes, *, sub: str = "bus", types: tuple[str, ...] = ("frames.*",), **more: Any) -> list[wire.Head]:
    return bench.say(peer, wire.Subscribe(sub=sub, types=types, **{"fence": 1, **more}))


def ack(bench: Bench, peer: bytes, upto: int, **more: Any) -> list[wire.Head]:
    return bench.say(peer, wire.Ack(**{"sub": "bus", "epoch": 1, "fence": 1, "upto": upto, **more}))


def nack(bench: Bench, peer: bytes, seq: int, error: str = "it failed", **more: Any) -> list[wire.Head]:
    return bench.say(peer, wire.Nack(sub="bus", epoch=1, seq=seq, error=error, fence=1, **more))


@pytest.fixture
def bench() -> Bench:
    """A router with a publisher `telescope` at b"t" and a receiver `archive` at b"a"."""
    made = Bench()
    made.say(b"t", hello("telescope"))
    made.say(b"a", hello("archive"))
    return made


# ---- publishing -----------------------------------------------------------------------------------------------------


def test_ok_leaves_after_the_commit_and_not_before(bench: Bench) -> None:
    bench.holds_commits = True
    assert publish(bench, b"t", "telescope", 1, 3) == []
    bench.commit()
    bench.run()
    assert bench.heard(b"t", wire.Ok) == [wire.Ok(n=3, seq=3, epoch=1)]


def test_nothing_is_delivered_or_fed_before_it_is_durable(bench: Bench) -> None:
    subscribe(bench, b"a")
    bench.holds_commits = True
    publish(bench, b"t", "telescope", 1)
    assert bench.deliveries(b"a") == []
    assert bench.told == []
    bench.commit()
    bench.run()
    assert bench.deliveries(b"a") == [(1,)]
    assert [tell.first for tell in bench.told] == [1]


def test_what_was_sent_before_gets_ok_again_and_is_not_stored_twice(bench: Bench) -> None:
    publish(bench, b"t", "telescope", 1, 3)
    assert publish(bench, b"t", "telescope", 1, 3) == [wire.Ok(n=3, seq=3, epoch=1)]
    assert bench.shelf.head == 3


def test_a_repetition_of_what_is_not_yet_durable_waits_for_the_same_commit(bench: Bench) -> None:
    bench.holds_commits = True
    publish(bench, b"t", "telescope", 1)
    assert publish(bench, b"t", "telescope", 1) == []
    bench.commit()
    bench.run()
    assert len(bench.heard(b"t", wire.Ok)) == 2
    assert bench.shelf.head == 1


def test_a_hole_in_the_numbers_is_refused_with_what_is_here(bench: Bench) -> None:
    publish(bench, b"t", "telescope", 1, 3)
    answer, *_ = publish(bench, b"t", "telescope", 5)
    assert isinstance(answer, wire.No)
    assert (answer.code, answer.have, answer.have_id, answer.n0) == ("gap", 3, "telescope-3", 5)


def test_another_past_is_refused_as_a_fork(bench: Bench) -> None:
    publish(bench, b"t", "telescope", 1, 3)
    answer, *_ = publish(bench, b"t", "telescope", 4, previd="somebody-else")
    assert isinstance(answer, wire.No)
    assert answer.code == "fork"


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"fence": 0}, "fenced"),
        ({"fence": 2}, "fenced"),
        ({"count": 2}, "batch"),
        ({"count": 0}, "batch"),
        ({"n0": 0}, "batch"),
        ({"n0": -4, "count": 5}, "batch"),
        ({"n0": 2**70}, "batch"),
    ],
)
def test_a_publish_that_cannot_be_is_refused_in_words(bench: Bench, more: dict[str, Any], code: str) -> None:
    head = wire.Publish(**{"fence": 1, "n0": 1, "count": 1, **more})
    answer, *_ = bench.say(b"t", head, wire.encode_batch([envelope("telescope", 1)]))
    assert isinstance(answer, wire.No)
    assert answer.code == code
    assert answer.text
    assert answer.remedy
    assert bench.shelf.head == 0


@pytest.mark.parametrize(
    ("body", "code", "index"),
    [
        (b"[", "batch", None),
        (b"{}", "batch", None),
        (b"[1]", "schema", 0),
        (wire.encode_batch([envelope("safety", 1)]), "acl", 0),
        (envelope("telescope", 1).replace(b'"1.0"', b'"9.9"').join([b"[", b"]"]), "schema", 0),
        (envelope("telescope", 1).replace(b"frames.stored", b"Frames").join([b"[", b"]"]), "schema", 0),
        (envelope("telescope", 1).replace(b"telescope-1", b"").join([b"[", b"]"]), "schema", 0),
    ],
)
def test_an_event_that_is_not_well_formed_is_refused_with_its_place(bench: Bench, body: bytes, code: str, index: int | None) -> None:
    answer, *_ = bench.say(b"t", wire.Publish(fence=1, n0=1, count=1), body)
    assert isinstance(answer, wire.No)
    assert (answer.code, answer.index) == (code, index)


@pytest.mark.parametrize(
    ("kind", "remedy"), [("frame.stored", "Did you mean frames.stored?"), ("something.new", "docs/reference/events.md")]
)
def test_an_event_of_an_unknown_type_is_refused_by_name_and_the_next_one_is_taken(bench: Bench, kind: str, remedy: str) -> None:
    (no,) = publish(bench, b"t", "telescope", 1, kind=kind)
    assert isinstance(no, wire.No)
    assert (no.code, no.index) == ("schema", 0)
    assert kind in no.text
    assert remedy in no.remedy
    assert publish(bench, b"t", "telescope", 1) == [wire.Ok(n=1, seq=1, epoch=1)]


def test_a_relay_keeps_the_sources_of_what_it_carries(bench: Bench) -> None:
    bench.say(b"r", hello("relay"))
    body = wire.encode_batch([envelope("alerts", 1)])
    assert bench.say(b"r", wire.Publish(fence=1, n0=1, count=1), body) == [wire.Ok(n=1, seq=1, epoch=1)]


def test_a_full_disk_refuses_events_but_takes_those_of_safety_and_goes_on_with_everything_else(bench: Bench) -> None:
    publish(bench, b"t", "telescope", 1)
    bench.say(b"s", hello("safety"))
    bench.router.stopped = "full"
    answer, *_ = publish(bench, b"t", "telescope", 2)
    assert isinstance(answer, wire.No)
    assert (answer.code, answer.retry_ms) == ("full", 5000)
    assert publish(bench, b"s", "safety", 1, kind="safety.changed") == [wire.Ok(n=1, seq=2, epoch=1)]
    assert isinstance(bench.say(b"t", wire.Heartbeat(m0=1))[0], wire.HeartbeatAnswer)
    subscribe(bench, b"a")
    assert bench.deliveries(b"a") == [(1,)]
    bench.router.reserve_left = False
    refused, *_ = publish(bench, b"s", "safety", 2, kind="safety.changed")
    assert isinstance(refused, wire.No)
    bench.router.stopped = ""
    assert publish(bench, b"t", "telescope", 2) == [wire.Ok(n=2, seq=3, epoch=1)]


def test_a_disk_without_any_room_is_not_written_to_and_all_goes_on_when_there_is_some(bench: Bench) -> None:
    publish(bench, b"t", "telescope", 1, 3)
    subscribe(bench, b"a")
    bench.router.stopped, bench.router.reserve_left = "full", False
    n_records = len(bench.shelf.records)
    (refused,) = bench.say(b"s", hello("safety", presence=True))
    assert isinstance(refused, wire.Refuse)
    assert (refused.code, refused.retry_ms) == ("full", 5000)
    assert isinstance(bench.say(b"u", hello("tap"))[0], wire.Welcome), "who only looks needs no record"
    ack(bench, b"a", 1)
    nack(bench, b"a", 2, final=True)
    bench.wait(20, beats=[b"t", b"a", b"u"])
    assert len(bench.shelf.records) == n_records
    bench.router.stopped, bench.router.reserve_left = "", True
    bench.wait(6, beats=[b"t", b"a", b"u"])
    assert bench.deliveries(b"a")[-1] == (3,)
    assert [letter["seq"] for letter in bench.say(b"u", wire.Dead(rid="d", op="list"))[0].letters] == [2]  # type: ignore[attr-defined]
    assert isinstance(bench.say(b"s", hello("safety", presence=True))[0], wire.Welcome)


def test_a_restart_knows_how_far_each_outbox_has_come(bench: Bench) -> None:
    bench.say(b"p", hello("planner", presence=True))
    publish(bench, b"p", "planner", 1, 2)
    for again in (bench.again(), Bench(Shelf(bench.shelf.records), snapshot=bench.router.snapshot())):
        welcome = next(head for head in again.say(b"x", hello("planner", presence=True)) if isinstance(head, wire.Welcome))
        assert (welcome.last_n, welcome.last_id) == (2, "planner-2")


def test_a_snapshot_does_not_keep_the_outboxes_of_scripts(bench: Bench) -> None:
    publish(bench, b"t", "telescope", 1)
    assert bench.router.snapshot()["chains"] == {}


# ---- sessions -------------------------------------------------------------------------------------------------------


def test_every_verb_but_hello_needs_a_session() -> None:
    bench = Bench()
    for head in (wire.Heartbeat(m0=1), wire.Publish(fence=1, n0=1, count=1), wire.Ack(upto=1, epoch=1), wire.Replay(rid="r")):
        answer, *_ = bench.say(b"x", head)
        assert isinstance(answer, wire.No)
        assert answer.code == "hello"
    assert bench.say(b"x", wire.Bye()) == []


def test_the_fence_grows_by_one_at_each_grant_and_survives_a_restart() -> None:
    bench = Bench()
    told = []
    for i in range(3):
        told += [
            head.fence
            for head in bench.say(b"x%d" % i, hello("telescope", instance=str(i), presence=True))
            if isinstance(head, wire.Welcome)
        ]
        bench.say(b"x%d" % i, wire.Bye())
    again = bench.again()
    told += [head.fence for head in again.say(b"y", hello("telescope", presence=True)) if isinstance(head, wire.Welcome)]
    assert told == [1, 2, 3, 4]


def test_welcome_waits_until_its_fence_is_durable() -> None:
    bench = Bench()
    bench.holds_commits = True
    assert bench.say(b"x", hello("telescope", presence=True)) == []
    bench.commit()
    bench.run()
    assert bench.heard(b"x", wire.Welcome)


def test_a_second_process_is_refused_with_the_holder_named(bench: Bench) -> None:
    answer, *_ = bench.say(b"x", hello("telescope", instance="two", host="elsewhere"))
    assert isinstance(answer, wire.Refuse)
    assert (answer.code, answer.holder and answer.holder["pid"], answer.holder and answer.holder["host"]) == ("duplicate", 7, "dome")
    assert answer.retry_ms


def test_a_silent_holder_on_the_same_host_is_replaced_after_a_second_and_then_fenced(bench: Bench) -> None:
    assert bench.say(b"x", hello("telescope", instance="two", lock=True)) == []
    assert bench.heard(b"t", wire.Probe)
    bench.wait(0.9)
    assert bench.heard(b"x", wire.Welcome) == []
    bench.wait(0.5)
    assert bench.heard(b"x", wire.Welcome)
    answer, *_ = publish(bench, b"t", "telescope", 1)
    assert isinstance(answer, wire.No)
    assert answer.code == "hello"


def test_a_holder_that_answers_the_probe_keeps_its_name(bench: Bench) -> None:
    bench.say(b"x", hello("telescope", instance="two", lock=True))
    bench.say(b"t", wire.Heartbeat(m0=1))
    assert [head.code for head in bench.heard(b"x", wire.Refuse)] == ["duplicate"]
    assert publish(bench, b"t", "telescope", 1) == [wire.Ok(n=1, seq=1, epoch=1)]


def test_of_two_newcomers_each_gets_an_answer(bench: Bench) -> None:
    bench.say(b"x", hello("telescope", instance="two", lock=True))
    bench.say(b"y", hello("telescope", instance="three", lock=True))
    bench.wait(2.0)
    assert bench.heard(b"x", wire.Welcome)
    assert bench.heard(b"y", wire.Refuse)


def test_the_same_process_on_a_new_connection_takes_its_own_session_with_the_same_fence() -> None:
    bench = Bench()
    bench.say(b"x", hello("telescope", presence=True))
    bench.say(b"y", hello("telescope", presence=True))
    assert [head.fence for head in bench.heard(b"y", wire.Welcome)] == [1]
    answer, *_ = publish(bench, b"x", "telescope", 1)
    assert isinstance(answer, wire.No)
    assert publish(bench, b"y", "telescope", 1)[0].verb == "OK"


def test_goodbye_frees_the_name_at_once(bench: Bench) -> None:
    bench.say(b"t", wire.Bye())
    assert isinstance(bench.say(b"x", hello("telescope", instance="two"))[0], wire.Welcome)


def test_a_connection_that_changes_its_name_frees_the_first(bench: Bench) -> None:
    bench.say(b"t", hello("planner"))
    assert isinstance(bench.say(b"x", hello("telescope", instance="two"))[0], wire.Welcome)
    bench.wait(30.0)
    assert bench.router.sessions() == ()


def test_a_lost_module_is_announced_within_its_lease_and_one_that_beats_never_is() -> None:
    bench = Bench()
    bench.say(b"x", hello("telescope", presence=True))
    bench.say(b"y", hello("safety", presence=True))
    bench.wait(9.5, beats=[b"y"])
    assert "module.lost" not in bench.types()
    bench.wait(1.0, beats=[b"y"])
    bench.wait(60.0, beats=[b"y"])
    lost = [
        msgspec.json.decode(packed) for _, kind, packed in bench.shelf.read(0, ("module.lost",), max_events=9, max_bytes=9999)[0] if kind
    ]
    assert [(one["subject"], one["source"], one["data"]["clean"]) for one in lost] == [("telescope", "broker@demo", False)]


def test_a_module_that_came_and_went_is_told_as_events_and_a_script_is_not() -> None:
    bench = Bench()
    bench.say(b"x", hello("telescope", presence=True))
    bench.say(b"x", wire.Bye(reason="stopped"))
    bench.say(b"y", hello("script"))
    bench.say(b"y", wire.Bye())
    assert bench.types() == ["module.up", "module.lost"]


def test_after_a_stall_of_the_broker_everybody_gets_a_whole_lease(bench: Bench) -> None:
    bench.now += 60.0
    bench.router.stalled(bench.now)
    bench.wait(9.0)
    assert len(bench.router.sessions()) == 2
    bench.wait(2.0)
    assert bench.router.sessions() == ()


@pytest.mark.parametrize(
    "head", [hello("Telescope"), hello("../x"), hello("a", proto=2), hello("a", instance=""), hello("a", commands="x" * 999)]
)
def test_a_hello_that_cannot_be_is_refused_in_words(head: wire.Hello) -> None:
    answer, *_ = Bench().say(b"x", head)
    assert isinstance(answer, wire.Refuse)
    assert answer.text
    assert answer.remedy
    assert answer.retry_ms is None


def test_the_last_endpoint_of_a_module_is_found_also_after_a_restart_without_it() -> None:
    bench = Bench()
    bench.say(b"x", hello("telescope", presence=True, commands="tcp://127.0.0.1:5"))
    bench.say(b"c", hello("script"))
    assert bench.say(b"c", wire.Lookup(name="telescope")) == [wire.Found(name="telescope", commands="tcp://127.0.0.1:5", alive=True)]
    again = bench.again()
    again.say(b"c", hello("script"))
    assert again.say(b"c", wire.Lookup(name="telescope")) == [wire.Found(name="telescope", commands="tcp://127.0.0.1:5")]
    assert again.say(b"c", wire.Lookup(name="nobody")) == [wire.Found(name="nobody")]


# ---- subscriptions --------------------------------------------------------------------------------------------------


def test_delivery_tells_the_event_before_so_that_a_gap_is_seen(bench: Bench) -> None:
    subscribe(bench, b"a")
    publish(bench, b"t", "telescope", 1, 2)
    publish(bench, b"t", "telescope", 3, kind="plan.ready")
    publish(bench, b"t", "telescope", 4)
    assert [(head.prev, head.seqs) for head in bench.heard(b"a", wire.Deliver)] == [(0, (1, 2)), (2, (4,))]


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        ("cursor", [1, 2, 3]),
        ("first", [1, 2, 3]),
        ("new", []),
        ({"seq": 2}, [2, 3]),
        ({"seq": 99}, []),
        ({"time": "2030-01-01T00:00:00Z"}, []),
    ],
)
def test_a_new_subscription_begins_where_it_wishes(bench: Bench, start: Any, expected: list[int]) -> None:
    publish(bench, b"t", "telescope", 1, 3)
    subscribe(bench, b"a", start=start)
    assert [seq for seqs in bench.deliveries(b"a") for seq in seqs] == expected
    assert bench.router.epoch == 1


@pytest.mark.parametrize("start", ["soon", {"seq": "x"}, {"seq": -1}, {"time": "yesterday"}, {}])
def test_a_start_that_is_none_is_refused(bench: Bench, start: Any) -> None:
    answer, *_ = subscribe(bench, b"a", start=start)
    assert isinstance(answer, wire.No)
    assert answer.sub == "bus"


@pytest.mark.parametrize("cursor", [{}, {"seq": "1"}, {"seq": 1.5}, {"seq": True}, {"seq": -1}, {"seq": 2**60}, {"seq": 1, "id": 5}])
def test_a_cursor_that_is_none_is_refused(bench: Bench, cursor: dict[str, Any]) -> None:
    answer, *_ = subscribe(bench, b"a", cursor=cursor)
    assert isinstance(answer, wire.No)
    assert bench.router.epoch == 1


def test_the_cursor_moves_with_confirmations_and_survives_a_restart(bench: Bench) -> None:
    subscribe(bench, b"a")
    publish(bench, b"t", "telescope", 1, 5)
    ack(bench, b"a", 3)
    bench.wait(0.5)
    again = bench.again()
    again.say(b"a", hello("archive"))
    subscribe(again, b"a")
    assert again.deliveries(b"a") == [(4, 5)]


def test_cursors_are_written_without_a_sync_of_their_own(bench: Bench) -> None:
    subscribe(bench, b"a")
    publish(bench, b"t", "telescope", 1)
    bench.holds_commits = True
    ack(bench, b"a", 1)
    bench.wait(0.5)
    assert [(one.record.head["subs"]["archive/bus"][0], one.waits) for one in bench.pending] == [(1, False)]


def test_the_receivers_own_cursor_wins(bench: Bench) -> None:
    subscribe(bench, b"a")
    publish(bench, b"t", "telescope", 1, 5)
    ack(bench, b"a", 5)
    subscribe(bench, b"a", cursor={"epoch": 1, "seq": 2, "id": "telescope-2"})
    assert bench.deliveries(b"a")[-1] == (3, 4, 5)


def test_credit_bounds_what_is_in_flight(bench: Bench) -> None:
    subscribe(bench, b"a", window_events=2)
    publish(bench, b"t", "telescope", 1, 5)
    assert bench.deliveries(b"a") == [(1, 2)]
    bench.wait(5.0, beats=[b"a"])
    assert bench.deliveries(b"a") == [(1, 2)]
    ack(bench, b"a", 1)
    assert bench.deliveries(b"a") == [(1, 2), (3,)]


def test_a_slow_receiver_holds_up_nobody_and_nothing_is_queued_for_it(bench: Bench) -> None:
    bench.say(b"s", hello("slow"))
    subscribe(bench, b"s", window_events=1)
    subscribe(bench, b"a")
    for n in range(1, 50):
        publish(bench, b"t", "telescope", n)
        ack(bench, b"a", n)
    assert len(bench.deliveries(b"a")) == 49
    assert bench.deliveries(b"s") == [(1,)]


def test_no_window_can_ask_for_more_than_a_message_may_hold(bench: Bench) -> None:
    subscribe(bench, b"a", window_events=10**9, window_bytes=10**12)
    for first in range(1, 3000, 1000):
        publish(bench, b"t", "telescope", first, 1000)
    assert max(len(seqs) for seqs in bench.deliveries(b"a")) <= wire.LARGEST_BATCH_EVENTS
    publish(bench, b"t", "telescope", 3001, 1000)
    publish(bench, b"t", "telescope", 4001, 1000)
    assert sum(len(seqs) for seqs in bench.deliveries(b"a")) == 4096


def test_reseek_delivers_again_from_the_receivers_place(bench: Bench) -> None:
    subscribe(bench, b"a")
    publish(bench, b"t", "telescope", 1, 4)
    bench.say(b"a", wire.Reseek(sub="bus", cursor=2, fence=1))
    last = bench.heard(b"a", wire.Deliver)[-1]
    assert (last.prev, last.seqs) == (2, (3, 4))


def test_a_receiver_that_is_behind_its_own_confirmations_is_told_where_delivery_goes_on(bench: Bench) -> None:
    subscribe(bench, b"a")
    publish(bench, b"t", "telescope", 1, 4)
    ack(bench, b"a", 3)
    answers = bench.say(b"a", wire.Reseek(sub="bus", cursor=1, fence=1))
    assert [head.cursor for head in answers if isinstance(head, wire.Subscribed)] == [3]
    assert bench.heard(b"a", wire.Deliver)[-1].prev == 3


def test_an_old_process_can_neither_confirm_nor_reject(bench: Bench) -> None:
    subscribe(bench, b"a")
    publish(bench, b"t", "telescope", 1)
    for head in (wire.Ack(sub="bus", upto=1, epoch=1, fence=0), wire.Nack(sub="bus", epoch=1, seq=1, error="", fence=0)):
        answer, *_ = bench.say(b"a", head)
        assert isinstance(answer, wire.No)
        assert answer.code == "fenced"


def test_retention_may_pass_a_subscription_that_wants_nothing_of_what_came(bench: Bench) -> None:
    subscribe(bench, b"a", types=("alert.*",))
    publish(bench, b"t", "telescope", 1, 5)
    assert bench.router.lowest_cursor() == 5


# ---- redelivery and dead letters ------------------------------------------------------------------------------------


def test_a_failed_event_comes_again_with_growing_pauses_and_those_behind_it_wait(bench: Bench) -> None:
    subscribe(bench, b"a", max_attempts=4)
    publish(bench, b"t", "telescope", 1, 2)
    for attempt, longest_s in ((2, 1.0), (3, 2.0), (4, 4.0)):
        nack(bench, b"a", 1)
        n = len(bench.deliveries(b"a"))
        bench.wait(0.4 * longest_s, beats=[b"a"])
        assert len(bench.deliveries(b"a")) == n
        bench.wait(0.6 * longest_s + 0.5, beats=[b"a"])
        assert bench.heard(b"a", wire.Deliver)[-1].attempt == attempt
        assert bench.deliveries(b"a")[-1] == (1, 2)


def test_the_receiver_may_say_when_it_wants_the_event_again(bench: Bench) -> None:
    subscribe(bench, b"a")
    publish(bench, b"t", "telescope", 1)
    nack(bench, b"a", 1, delay_ms=20_000)
    bench.wait(19.0, beats=[b"a"])
    assert len(bench.deliveries(b"a")) == 1
    bench.wait(2.0, beats=[b"a"])
    assert len(bench.deliveries(b"a")) == 2


def given_up(bench: Bench, *, events: int = 3) -> None:
    """The first event fails for good."""
    subscribe(bench, b"a")
    publish(bench, b"t", "telescope", 1, events)
    nack(bench, b"a", 1, "the frame is no FITS file", final=True)


def test_a_final_failure_lies_in_the_dead_letters_with_its_cause_and_the_others_go_on(bench: Bench) -> None:
    given_up(bench)
    assert bench.deliveries(b"a")[-1] == (2, 3)
    assert bench.heard(b"a", wire.Deliver)[-1].prev == 0
    letters, *_ = bench.say(b"a", wire.Dead(rid="r", op="list"))
    assert isinstance(letters, wire.Letters)
    letter = letters.letters[0]
    assert (letter["sub"], letter["seq"], letter["id"], letter["attempts"]) == ("archive/bus", 1, "telescope-1", 1)
    assert letter["errors"] == ["the frame is no FITS file"]


def test_after_max_attempts_the_event_is_a_dead_letter_with_all_its_errors(bench: Bench) -> None:
    subscribe(bench, b"a", max_attempts=3)
    publish(bench, b"t", "telescope", 1, 2)
    for i in range(3):
        nack(bench, b"a", 1, f"error {i}")
        bench.wait(5.0, beats=[b"a", b"t"])
    show, *_ = bench.say(b"a", wire.Dead(rid="r", op="show", seq=1))
    assert isinstance(show, wire.Letters)
    assert show.letters[0]["errors"] == ["error 0", "error 1", "error 2"]
    assert bench.sent[-1].body == envelope("telescope", 1)
    assert bench.deliveries(b"a")[-1] == (2,)


def test_the_letter_is_durable_before_delivery_goes_on(bench: Bench) -> None:
    subscribe(bench, b"a")
    publish(bench, b"t", "telescope", 1, 2)
    bench.holds_commits = True
    nack(bench, b"a", 1, final=True)
    assert len(bench.deliveries(b"a")) == 1
    bench.commit()
    bench.run()
    assert bench.deliveries(b"a")[-1] == (2,)


def test_a_dead_letter_is_not_delivered_again_after_a_restart_whatever_cursor_the_receiver_has(bench: Bench) -> None:
    given_up(bench)
    for again in (bench.again(), Bench(Shelf(bench.shelf.records), snapshot=bench.router.snapshot())):
        again.say(b"a", hello("archive"))
        subscribe(again, b"a", start="first")
        assert again.deliveries(b"a") == [(2, 3)]
        assert again.router.n_dead == 1


def test_a_dropped_letter_stays_dropped(bench: Bench) -> None:
    given_up(bench)
    bench.say(b"a", wire.Dead(rid="r", op="drop", seq=1))
    for again in (bench.again(), Bench(Shelf(bench.shelf.records), snapshot=bench.router.snapshot())):
        again.say(b"a", hello("archive"))
        subscribe(again, b"a")
        assert again.deliveries(b"a") == [(2, 3)]
        assert again.router.n_dead == 0


def test_a_retried_letter_is_delivered_to_that_subscription_alone_with_a_fresh_count(bench: Bench) -> None:
    bench.say(b"o", hello("other"))
    subscribe(bench, b"o")
    given_up(bench)
    assert "LETTERS" in [head.verb for head in bench.say(b"a", wire.Dead(rid="r", op="retry", seq=1))]
    last = bench.heard(b"a", wire.Deliver)[-1]
    assert (last.seqs, last.attempt) == ((4,), 1)
    assert bench.shelf.event(4) == envelope("telescope", 1)
    assert bench.deliveries(b"o") == [(1, 2, 3)]
    assert bench.router.n_dead == 0
    assert [tell.first for tell in bench.told] == [1]


@pytest.mark.parametrize(("op", "seq", "code"), [("show", 9, "notfound"), ("retry", None, "notfound"), ("burn", 1, "verb")])
def test_a_wish_about_letters_that_cannot_be_is_refused(bench: Bench, op: str, seq: int | None, code: str) -> None:
    given_up(bench)
    answer, *_ = bench.say(b"a", wire.Dead(rid="r", op=op, seq=seq))
    assert isinstance(answer, wire.No)
    assert (answer.code, answer.rid) == (code, "r")


def test_a_thousand_letters_fit_in_an_answer_as_far_as_they_go(bench: Bench) -> None:
    subscribe(bench, b"a")
    publish(bench, b"t", "telescope", 1, 1000)
    for seq in range(1, 1001):
        nack(bench, b"a", seq, "x" * 4000, final=True)
    letters, *_ = bench.say(b"a", wire.Dead(rid="r", op="list"))
    assert isinstance(letters, wire.Letters)
    assert len(letters.letters) > 50
    assert bench.router.n_dead == 1000


def test_no_answer_in_time_counts_as_a_try_and_work_in_progress_does_not(bench: Bench) -> None:
    subscribe(bench, b"a", ack_wait_ms=3000)
    publish(bench, b"t", "telescope", 1)
    for _ in range(5):
        bench.wait(2.0, beats=[b"a", b"t"])
        bench.say(b"a", wire.Working(sub="bus", seq=1, fence=1))
    assert len(bench.deliveries(b"a")) == 1
    bench.wait(5.0, beats=[b"a", b"t"])
    assert bench.heard(b"a", wire.Deliver)[-1].attempt == 2


def die_and_come_back(bench: Bench, k: int) -> bytes:
    """The archive's process ends at work and is started again on the same host."""
    peer = b"a%d" % k
    old = b"a" if k == 0 else b"a%d" % (k - 1)
    bench.router.unreachable(old, bench.now)
    bench.run()
    bench.say(peer, hello("archive", instance=f"new-{k}", lock=True, presence=True))
    subscribe(bench, peer, fence=bench.heard(peer, wire.Welcome)[-1].fence)
    return peer


def test_an_event_that_kills_its_process_is_buried_and_its_neighbours_are_not_blamed() -> None:
    bench = Bench()
    bench.say(b"t", hello("telescope"))
    bench.say(b"a", hello("archive", presence=True))
    subscribe(bench, b"a")
    publish(bench, b"t", "telescope", 1, 4)
    frames = [seq for seq, kind, _ in bench.shelf.read(0, ("frames.*",), max_events=9, max_bytes=9999)[0] if kind]
    peer = b"a"
    for k in range(5):
        peer = die_and_come_back(bench, k)
        if k < 4:
            assert bench.deliveries(peer) == [(frames[0],)], "one at a time while the first is suspect"
    letters, *_ = bench.say(peer, wire.Dead(rid="r", op="list"))
    assert isinstance(letters, wire.Letters)
    assert [letter["seq"] for letter in letters.letters] == [frames[0]]
    assert letters.letters[0]["attempts"] == 5
    first = bench.heard(peer, wire.Deliver)[0]
    assert first.prev == bench.heard(peer, wire.Subscribed)[0].cursor
    assert [seq for seqs in bench.deliveries(peer) for seq in seqs] == frames[1:]


# ---- replay ---------------------------------------------------------------------------------------------------------


def test_a_replay_tells_the_past_then_its_end_and_with_follow_what_comes(bench: Bench) -> None:
    publish(bench, b"t", "telescope", 1, 3)
    answers = bench.say(b"a", wire.Replay(rid="r", follow=True, types=("frames.*",)))
    assert [head.verb for head in answers] == ["DELIVER", "END"]
    publish(bench, b"t", "telescope", 4)
    last = bench.heard(b"a", wire.Deliver)[-1]
    assert (last.replay, last.prev, last.seqs) == ("r", 3, (4,))


def test_a_replay_keeps_to_its_credit_and_its_end(bench: Bench) -> None:
    publish(bench, b"t", "telescope", 1, 9)
    bench.say(b"a", wire.Replay(rid="r", start={"seq": 2}, to_seq=7, window_events=4))
    assert bench.deliveries(b"a") == [(2, 3, 4, 5)]
    bench.say(b"a", wire.Ack(rid="r", upto=5, epoch=1))
    assert bench.deliveries(b"a") == [(2, 3, 4, 5), (6, 7)]
    assert [head.last for head in bench.heard(b"a", wire.End)] == [7]


def test_a_long_replay_goes_on_by_itself_while_there_is_credit(bench: Bench) -> None:
    publish(bench, b"t", "telescope", 1, 1000)
    bench.say(b"a", wire.Replay(rid="r"))
    bench.wait(3.0, beats=[b"a"])
    assert sum(len(seqs) for seqs in bench.deliveries(b"a")) == 1000
    assert bench.heard(b"a", wire.End)


def test_a_peer_cannot_have_replays_without_limit(bench: Bench) -> None:
    answers = [bench.say(b"a", wire.Replay(rid=str(i), follow=True))[-1] for i in range(17)]
    assert isinstance(answers[-1], wire.No)
    assert answers[-1].code == "busy"


# ---- loss and damage ------------------------------------------------------------------------------------------------


def test_a_publisher_who_has_seen_more_than_is_here_makes_a_new_epoch_once(bench: Bench) -> None:
    seen = wire.LastOk(epoch=1, seq=5000, n=7, id="planner-7")
    bench.say(b"p", hello("planner", last_ok=seen))
    assert bench.router.epoch == 2
    assert bench.router.next_seq >= 1_000_000
    assert {one.peer for one in bench.sent if isinstance(one.head, wire.EpochChanged)} == {b"t", b"a"}
    bench.say(b"q", hello("guider", last_ok=wire.LastOk(epoch=1, seq=4999, n=1, id="guider-1")))
    assert bench.router.epoch == 2
    bench.say(b"r", hello("dome", last_ok=wire.LastOk(epoch=9, seq=3, n=1, id="dome-1")))
    assert bench.router.epoch == 10
    assert "alarm.raised" in bench.types()


def test_a_receiver_whose_cursor_is_beyond_the_head_makes_a_new_epoch(bench: Bench) -> None:
    publish(bench, b"t", "telescope", 1)
    subscribe(bench, b"a", cursor={"epoch": 1, "seq": 77, "id": "x"})
    assert bench.router.epoch == 2
    bench.say(b"a", hello("archive"))
    subscribe(bench, b"a", cursor={"epoch": 1, "seq": 77, "id": "x"})
    # Number 77 was never given here, so what stands before it may be new to the receiver; what is not, its ledger knows.
    assert bench.heard(b"a", wire.Subscribed)[-1].cursor == 0


def test_a_receiver_that_knows_another_event_by_that_number_hears_all_that_may_be_new_to_it(bench: Bench) -> None:
    publish(bench, b"t", "telescope", 1, 5)
    subscribe(bench, b"a", cursor={"epoch": 1, "seq": 4, "id": "another-4"})
    assert bench.deliveries(b"a") == [(1, 2, 3, 4, 5)]
    assert "alarm.raised" in bench.types()


def test_a_receiver_that_knows_a_number_of_another_past_is_not_taken_at_its_word_before_the_commit(bench: Bench) -> None:
    publish(bench, b"t", "telescope", 1, 2)
    bench.holds_commits = True
    publish(bench, b"t", "telescope", 3, 2)
    subscribe(bench, b"a", cursor={"epoch": 1, "seq": 4, "id": "another-4"})
    bench.holds_commits = False
    bench.commit()
    bench.run()
    assert [seq for seqs in bench.deliveries(b"a") for seq in seqs] == [1, 2, 3, 4]


def test_a_receiver_whose_number_lies_between_two_epochs_hears_all_that_may_be_new_to_it(bench: Bench) -> None:
    publish(bench, b"t", "telescope", 1, 3)
    last_ok = wire.LastOk(1, 9, 9, "telescope-9")
    bench.say(b"t", hello("telescope", last_ok=last_ok))  # it has seen more: numbers go on in the next epoch
    publish(bench, b"t", "telescope", 4)
    bench.say(b"a", hello("archive"))
    subscribe(bench, b"a", cursor={"epoch": 1, "seq": 5, "id": "another-5"})
    assert [seq for seqs in bench.deliveries(b"a") for seq in seqs][:3] == [1, 2, 3]


def test_a_hole_found_in_the_journal_makes_publishers_send_again_from_before_it() -> None:
    bench = Bench()
    bench.say(b"p", hello("planner", presence=True))
    for n in range(1, 6):
        publish(bench, b"p", "planner", n)
    hole = bench.shelf.event(4)
    assert hole == envelope("planner", 3)
    bench.shelf.damaged = {4}
    bench.router.heal([(4, 4)], {"outbox-planner": (2, "planner-2", 3)})
    bench.run()
    assert bench.heard(b"p", wire.EpochChanged)
    for again in (bench, bench.again()):
        told = [head for head in again.say(b"q", hello("planner", presence=True)) if isinstance(head, wire.Welcome)]
        assert (told[0].last_n, told[0].last_id) == (2, "planner-2")
        assert publish(again, b"q", "planner", 3, 3, fence=told[0].fence)[0].verb == "OK"


def test_records_behind_a_hole_do_not_hide_it_from_a_start() -> None:
    bench = Bench()
    bench.say(b"p", hello("planner", presence=True))
    for n in range(1, 6):
        publish(bench, b"p", "planner", n)
    bench.shelf.records = [record for record in bench.shelf.records if record.first != 4]
    told = [head for head in bench.again().say(b"q", hello("planner", presence=True)) if isinstance(head, wire.Welcome)]
    assert (told[0].last_n, told[0].last_id) == (2, "planner-2")


# ---- hostile input --------------------------------------------------------------------------------------------------

ODD: tuple[Any, ...] = (0, 1, -1, 2**53, 2**70, -(2**70), 7, 1000)


@pytest.mark.parametrize("seed", range(20))
def test_no_message_that_can_be_decoded_breaks_the_router(seed: int) -> None:
    chance = random.Random(seed)
    bench = Bench()
    texts = ("", "bus", "telescope", "r", "first", "new", "x" * 300, "\0", "ä", "**", "frames.*")

    def value(kind: Any) -> Any:
        if kind is int:
            return chance.choice(ODD)
        if kind is bool:
            return chance.random() < 0.5
        if kind is str:
            return chance.choice(texts)
        return chance.choice(
            (None, *ODD, *texts, 1.5, True, [], {}, {"seq": 3}, {"seq": 2**70}, {"time": "x"}, {"epoch": 1, "seq": 2, "id": "i"})
        )

    for _ in range(400):
        kind = chance.choice(list(wire.TO_BROKER.values()))
        raw = {name: value(hint) for name, hint in kind.__annotations__.items() if chance.random() < 0.8}
        if kind is wire.Hello and chance.random() < 0.7:
            raw = {"name": chance.choice(("telescope", "archive", "relay")), "instance": "i", "host": "h", "pid": 1, "outbox": "o"}
        try:
            head, _ = wire.decode([b"NB1", kind.verb.encode(), msgspec.json.encode(raw)], wire.TO_BROKER)
        except wire.WireError:
            continue
        body = chance.choice((b"", b"[]", b"[1]", b"\xff", wire.encode_batch([envelope("telescope", 1)])))
        bench.say(chance.choice((b"1", b"2", b"3")), head, body)
        bench.wait(chance.choice((0.0, 0.5, 20.0)))
    bench.say(b"z", hello("prober"))
    assert bench.say(b"z", wire.Heartbeat(m0=1))
