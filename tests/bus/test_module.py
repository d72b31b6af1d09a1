"""A module on a real broker: every event's effect once, whatever dies in between."""

from __future__ import annotations

import errno
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from nightbell.bus import wire
from nightbell.bus.module import Module, Progress, Turn, answers, on
from nightbell.bus.script import Connection, connect
from nightbell.contracts.commands import Status
from nightbell.contracts.errors import BadInput, Missing, Refused
from nightbell.contracts.events import AlarmAcknowledged, AlarmRaised
from nightbell.settings import Installation

from .small_site import Counter, CounterState, RunningBroker, alarm, living, make_site, running_broker, wait_until


@pytest.fixture
def site(tmp_path: Path) -> Installation:
    return make_site(tmp_path / "conf")


@pytest.fixture
def broker(site: Installation) -> Iterator[RunningBroker]:
    with running_broker(site) as one:
        yield one


@pytest.fixture
def script(site: Installation, broker: RunningBroker) -> Iterator[Connection]:
    with connect(site.folder) as one:
        yield one


def told(script: Connection, *patterns: str) -> list[str]:
    return [
        event.subject if event.type.startswith("module.") else event.payload().alarm_id
        for event in script.events(*patterns, since="first", follow=False)
    ]  # type: ignore[attr-defined]


def test_events_are_handled_in_order_and_their_effects_come_once(site: Installation, script: Connection) -> None:
    with living(Counter(site)) as counter:
        for n in range(50):
            script.publish(alarm(n), "test")
        wait_until(lambda: len(counter.state().heard) == 50, "fifty alarms counted")
        assert counter.state().heard == [str(n) for n in range(50)]
        assert counter.seen() == counter.state().heard
        wait_until(lambda: len(told(script, "alarm.acknowledged")) == 50, "fifty answers in the journal")
    assert told(script, "alarm.acknowledged") == [str(n) for n in range(50)]


def test_causes_lead_from_the_answer_to_what_was_answered(site: Installation, script: Connection) -> None:
    with living(Counter(site)):
        seq = script.publish(alarm("a"), "test")
        raised, answered = list(zip(range(2), script.events("alarm.*", since=seq, timeout_s=10), strict=False))
    assert answered[1].causationid == raised[1].id
    assert answered[1].correlationid == raised[1].id
    assert answered[1].source == "counter@test"


def test_what_was_said_while_the_module_was_away_is_heard_when_it_comes_back(site: Installation, script: Connection) -> None:
    with living(Counter(site)) as counter:
        script.publish(alarm(1), "test")
        wait_until(lambda: counter.state().effects == 1, "the first")
    script.publish(alarm(2), "test")
    with living(Counter(site)) as again:
        wait_until(lambda: again.state().effects == 2, "the second")
        assert again.state().heard == ["1", "2"]


def test_a_module_works_while_the_broker_is_away_and_its_events_arrive_later(site: Installation, broker: RunningBroker) -> None:
    broker.stop()
    counter = Counter(site)
    with living(counter):
        with counter.turn() as turn:
            turn.state.effects = 7
            turn.publish(AlarmAcknowledged(alarm_id="said alone", key="k", by="me"), "test")
        assert not counter.connected
        broker.start()
        with connect(site.folder) as script:
            wait_until(lambda: "said alone" in told(script, "alarm.acknowledged"), "the event that was said alone")
        assert counter.state().effects == 7


def test_a_damaged_event_of_an_outbox_is_named_and_those_behind_it_go_on(site: Installation, broker: RunningBroker) -> None:
    broker.stop()
    with living(Counter(site)) as counter:
        for name in ("first", "damaged", "last"):
            with counter.turn() as turn:
                turn.publish(AlarmAcknowledged(alarm_id=name, key="k", by="me"), "test")
        counter._bus_store.write(lambda db: db.execute("UPDATE outbox SET envelope = X'42' WHERE n = 2"))
        broker.start()
        with connect(site.folder) as script:
            wait_until(lambda: told(script, "alarm.acknowledged") == ["first", "last"], "the others")
            assert script.ask("counter", "status", timeout_s=10)["outbox_refused"] == 1
            assert counter.connected


def test_a_broker_that_is_restarted_in_the_middle_loses_and_doubles_nothing(site: Installation, broker: RunningBroker) -> None:
    with living(Counter(site)) as counter:
        for block in range(3):
            with connect(site.folder) as script:
                for n in range(20):
                    script.publish(alarm(20 * block + n), "test")
            broker.stop()
            broker.start()
        with connect(site.folder) as script:
            wait_until(lambda: len(told(script, "alarm.acknowledged")) >= 60, "all answers")
            assert told(script, "alarm.acknowledged") == [str(n) for n in range(60)]
        assert counter.seen() == [str(n) for n in range(60)]


def test_an_event_that_fails_is_tried_again_then_buried_with_its_causes_and_can_be_retried(site: Installation, script: Connection) -> None:
    counter = Counter(site)
    with living(counter):
        counter.fail_on = {"poison"}
        script.publish(alarm("before"), "test")
        seq = script.publish(alarm("poison"), "test")
        script.publish(alarm("after"), "test")
        wait_until(lambda: len(script.dead_letters()) == 1, "a dead letter")
        letter = script.dead_letter(seq)
        assert letter["letters"][0]["attempts"] == 3
        assert "cannot count poison" in letter["letters"][0]["errors"][-1]
        assert letter["event"]["data"]["alarm_id"] == "poison"
        wait_until(lambda: counter.state().heard == ["before", "after"], "the neighbours, in order")
        assert counter.tried.count("poison") == 3
        counter.fail_on = set()
        script.retry(seq)
        wait_until(lambda: counter.state().heard == ["before", "after", "poison"], "the retried event")
        assert script.dead_letters() == []
    assert told(script, "alarm.acknowledged") == ["before", "after", "poison"]


def test_an_event_of_a_newer_version_is_kept_aside_not_misread(site: Installation, script: Connection) -> None:
    counter = Counter(site)
    with living(counter):
        newer = wire.Envelope(
            specversion="1.0",
            id="01900000-0000-7000-8000-000000000001",
            source=f"{script.name}@test",
            type="alarm.raised",
            typeversion=99,
            subject="test",
            data=msgspec.Raw(msgspec.json.encode(alarm("newer"))),
        )
        script.publish_envelope(newer)
        wait_until(lambda: len(script.dead_letters()) == 1, "a dead letter")
        assert "version 99" in script.dead_letters()[0]["errors"][-1]
        assert counter.state().effects == 0


def test_an_event_whose_payload_is_wrong_is_kept_aside_with_the_field_named(site: Installation, script: Connection) -> None:
    with living(Counter(site)) as counter:
        wrong = wire.Envelope(
            specversion="1.0",
            id="01900000-0000-7000-8000-000000000002",
            source=f"{script.name}@test",
            type="alarm.raised",
            subject="test",
            data=msgspec.Raw(b'{"alarm_id": 5}'),
        )
        script.publish_envelope(wrong)
        wait_until(lambda: len(script.dead_letters()) == 1, "a dead letter")
        told = script.dead_letters()[0]["errors"][-1]
        assert f"payload of alarm.raised from {script.name}@test: Expected `str`, got `int` - at `$.alarm_id`" in told
        assert "nightbell dead drop" in told
        script.publish(alarm("good"), "test")
        wait_until(lambda: counter.state().heard == ["good"], "the next event")


def test_an_event_that_is_no_event_is_refused_at_the_sender(script: Connection) -> None:
    with pytest.raises(BadInput, match="severity"):
        script.publish(AlarmRaised(alarm_id="1", key="k", severity="loud", text="t"), "test")  # type: ignore[arg-type]
    for kind, words in (("Not A Type", "no event type"), ("alarm.rased", "no event known here. Did you mean alarm.raised")):
        unknown = wire.Envelope(specversion="1.0", id="x", source=f"{script.name}@test", type=kind, subject="")
        with pytest.raises(BadInput, match=words):
            script.publish_envelope(unknown)
    assert script.publish(alarm("next"), "test") > 0


def test_presence_is_an_event_and_a_clean_end_says_so(site: Installation, script: Connection) -> None:
    with living(Counter(site)):
        wait_until(lambda: told(script, "module.up") == ["counter"], "module.up")
    lost = [event.payload() for event in script.events("module.lost", since="first", follow=False)]
    assert [(one.module, one.clean) for one in lost] == [("counter", True)]  # type: ignore[attr-defined]


def test_two_instances_on_one_state_folder_are_refused_by_name(site: Installation) -> None:
    first = Counter(site)
    with living(first), pytest.raises(Refused, match="is using this folder"):
        Counter(site)


def test_the_fence_grows_with_every_instance(site: Installation, broker: RunningBroker) -> None:
    fences = []
    for _ in range(3):
        with living(Counter(site)) as counter:
            wait_until(lambda: counter.connected, "a session")
            fences.append(counter.fence)
    assert fences == sorted(set(fences))


def test_every_module_answers_status_and_shutdown(site: Installation, script: Connection) -> None:
    counter = Counter(site)
    with living(counter):
        status = script.ask("counter", "status", timeout_s=5)
        assert status["module"] == "counter"
        assert status["outbox"] == 0
        assert script.ask("counter", "shutdown", timeout_s=5) == {"stopping": True}
        assert counter.stopping.wait(5.0)


def test_a_module_that_cannot_note_its_address_is_found_by_the_broker(site: Installation, script: Connection) -> None:
    counter = Counter(site)
    (counter.home / "commands.new").mkdir()  # in the way of the note
    (counter.home / "commands.json").write_text('{"endpoint": "tcp://127.0.0.1:9"}', encoding="utf-8")  # of an earlier process
    with living(counter):
        assert script.ask("counter", "status", timeout_s=10)["module"] == "counter"


def test_a_module_that_is_not_there_is_missing_by_name(script: Connection) -> None:
    with pytest.raises(Missing, match="counter"):
        script.ask("counter", "status", timeout_s=2)


def test_a_command_with_a_wrong_field_is_refused_before_it_is_sent(script: Connection) -> None:
    with pytest.raises(BadInput, match="takes no fields"):
        script.ask("counter", "status", colour="red")
    with pytest.raises(BadInput, match="no command"):
        script.ask("counter", "dance")


def test_a_handler_must_say_what_it_hears(site: Installation) -> None:
    class Wrong(Module[CounterState]):
        name = "wrong"
        state_type = CounterState

        @on("alarm.raised")
        def hear(self, event: AlarmAcknowledged, turn: Turn[CounterState]) -> None: ...

    class Unknown(Module[CounterState]):
        name = "unknown"
        state_type = CounterState

        @on("dome.exploded")
        def hear(self, event: AlarmRaised, turn: Turn[CounterState]) -> None: ...

    class Twice(Module[CounterState]):
        name = "twice"
        state_type = CounterState

        @answers(Status)
        def status(self, command: AlarmRaised, turn: Turn[CounterState], progress: Progress) -> None: ...

    with pytest.raises(BadInput, match="annotated"):
        Wrong(site)
    with pytest.raises(BadInput, match="no event"):
        Unknown(site)
    with pytest.raises(BadInput, match="annotate"):
        Twice(site)


def test_a_turn_within_a_turn_of_the_same_thread_is_a_mistake_not_a_deadlock(site: Installation) -> None:
    with living(Counter(site)) as counter, counter.turn() as turn:
        turn.state.effects = 1
        with pytest.raises(RuntimeError, match="within a turn"), counter.turn() as inner:
            inner.state.effects = 2


def test_the_same_alarm_is_not_said_again_within_ten_minutes(site: Installation, script: Connection) -> None:
    with living(Counter(site)) as counter:
        for _ in range(5):
            with counter.turn() as turn:
                turn.raise_alarm("a.key", "warning", "it burns")
        wait_until(lambda: counter.state().effects == 1, "one alarm")
        assert len(told(script, "alarm.raised")) == 1


def test_a_full_disk_is_not_the_events_fault(site: Installation, script: Connection) -> None:
    counter = Counter(site)
    with living(counter):
        counter.fail_with = {"1": OSError(errno.ENOSPC, "No space left on device")}
        script.publish(alarm(1), "test")
        script.publish(alarm(2), "test")
        wait_until(lambda: counter.tried.count("1") > 3, "more tries than an event is given that fails by itself")
        assert script.dead_letters() == []
        counter.fail_with = {}
        wait_until(lambda: counter.state().heard == ["1", "2"], "both, in order, when there is room")


def test_a_database_that_cannot_be_read_for_a_moment_does_not_make_the_module_deaf(site: Installation, script: Connection) -> None:
    counter = Counter(site)
    with living(counter):
        store = counter._bus_store
        has_handled, fails = store.has_handled, [sqlite3.OperationalError("disk I/O error")]

        def unlucky(identity: str) -> bool:
            if fails:
                raise fails.pop()
            return has_handled(identity)

        store.has_handled = unlucky  # type: ignore[method-assign]
        script.publish(alarm(1), "test")
        wait_until(lambda: counter.state().heard == ["1"], "the alarm, at the second try")
        assert not fails


KILLED_AT = [
    ("before", "nightbell.bus.outbox", "Outbox.append", 3),
    ("before", "nightbell.bus.turn", "Store.commit", 5),
    ("after", "nightbell.bus.turn", "Store.commit", 5),
    ("before", "nightbell.bus.client", "Client.acknowledge", 4),
    ("before", "nightbell.bus.turn", "Store.confirm", 2),
    ("after", "nightbell.bus.client", "Client._send", 6),
]
"""Within a transaction; before and after its end; handled but not confirmed; taken by the broker but not noted; in a conversation."""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX")
def test_a_module_killed_between_any_two_steps_of_a_turn_has_each_effect_once(site: Installation, script: Connection) -> None:
    n = 0
    for when, module, name, count in KILLED_AT:
        for _ in range(8):
            script.publish(alarm(n := n + 1), "test")
        command = [sys.executable, "-m", "tests.bus.killed_at", "counter", str(site.folder), when, module, name, str(count)]
        died = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=60, check=False)
        assert died.returncode == -signal.SIGKILL, f"{when} {name}: {died.stderr[-2000:]}"
    wanted = [str(i) for i in range(1, n + 1)]
    with living(Counter(site)) as counter:
        wait_until(lambda: len(counter.state().heard) >= n, "all alarms counted")
        assert counter.state().heard == wanted
        assert counter.seen() == wanted
        wait_until(lambda: len(told(script, "alarm.acknowledged")) >= n, "all answers in the journal")
    assert told(script, "alarm.acknowledged") == wanted
    assert script.dead_letters() == []
