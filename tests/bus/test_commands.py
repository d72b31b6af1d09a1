"""Commands over real sockets: each is answered, none is done twice, a late one not at all."""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
import structlog
import zmq

from nightbell.bus import wire
from nightbell.bus.client import set_client_options
from nightbell.bus.commands import CommandServer, Progress, ask_at
from nightbell.bus.turn import Store
from nightbell.contracts.commands import Command
from nightbell.contracts.errors import BadInput, Failed, Missing, NightbellError, Refused
from nightbell.contracts.states import CommandClass

from .small_site import PATIENCE_S, wait_until


class Look(Command, frozen=True, kw_only=True, forbid_unknown_fields=True):
    verb: ClassVar[str] = "look"
    module: ClassVar[str] = "bench"
    kind: ClassVar[CommandClass] = CommandClass.QUERY
    n: int = 1


class Turn90(Command, frozen=True, kw_only=True, forbid_unknown_fields=True):
    verb: ClassVar[str] = "turn"
    module: ClassVar[str] = "bench"
    kind: ClassVar[CommandClass] = CommandClass.IDEMPOTENT
    wait: bool = False


class Fire(Command, frozen=True, kw_only=True, forbid_unknown_fields=True):
    verb: ClassVar[str] = "fire"
    module: ClassVar[str] = "bench"
    kind: ClassVar[CommandClass] = CommandClass.ONCE
    shell: str = "a"


class Stop(Command, frozen=True, kw_only=True, forbid_unknown_fields=True):
    verb: ClassVar[str] = "stop"
    module: ClassVar[str] = "bench"
    kind: ClassVar[CommandClass] = CommandClass.IDEMPOTENT
    urgent: ClassVar[bool] = True


class Bench:
    """A command server whose handler the test can hold up and make fail."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.done: list[Command] = []
        self.may_go = threading.Event()
        self.error: Exception | None = None
        self.start()

    def start(self) -> None:
        self.store = Store(self.folder / "module.db")
        self.server = CommandServer(
            name="bench",
            commands={kind.verb: kind for kind in (Look, Turn90, Fire, Stop)},
            handle=self.handle,
            store=self.store,
            log=structlog.get_logger(),
        )
        self.server.start()

    def stop(self) -> None:
        self.may_go.set()
        self.server.end()
        self.store.close()

    def handle(self, command: Command, progress: Progress, *, call: wire.Call, ledger_id: str | None) -> bytes:
        if isinstance(command, Turn90) and command.wait:
            progress(0.5, "half way")
            while not self.may_go.wait(0.02):
                progress(None, "waiting")
        if self.error is not None:
            raise self.error
        self.done.append(command)
        value = msgspec.json.encode({"n": len(self.done)})
        if ledger_id is not None:
            packed = msgspec.json.encode(wire.Result(id=call.id, ok=True, value=msgspec.Raw(value)))
            self.store.write(lambda db: db.execute("UPDATE command SET state = 'done', answer = ? WHERE id = ?", (packed, ledger_id)))
        return value

    def ask(self, verb: str, args: bytes = b"{}", **more: Any) -> dict[str, Any]:
        return ask_at(self.server.endpoint, verb, args, module="bench", **{"timeout_s": PATIENCE_S, **more})


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    one = Bench(tmp_path)
    yield one
    one.stop()


def in_thread(work: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(work())
        except NightbellError as error:
            found.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, found


def test_a_query_is_answered(bench: Bench) -> None:
    assert bench.ask("look", b'{"n": 3}') == {"n": 1}
    assert bench.done == [Look(n=3)]


def test_an_unknown_verb_is_refused_with_those_that_are_known(bench: Bench) -> None:
    with pytest.raises(Refused, match="fire, look, stop, turn"):
        bench.ask("dance")


@pytest.mark.parametrize("args", [b'{"n": "three"}', b'{"colour": "red"}', b"{", b"[1]", b"[" * 5000])
def test_a_wrong_field_is_refused_by_name_and_nothing_is_done(bench: Bench, args: bytes) -> None:
    with pytest.raises((BadInput, Refused, msgspec.ValidationError, Failed)) as refused:
        _raw_ask(bench, args)
    assert "look" in str(refused.value)
    assert bench.done == []


@contextlib.contextmanager
def calling(bench: Bench, call: wire.Call | bytes) -> Iterator[Callable[[], wire.Head]]:
    """A call without our client's repetitions, its head made by hand when it is bytes; what hears the answers."""
    frames = [wire.PROTOCOL, b"CALL", call] if isinstance(call, bytes) else wire.encode(call)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
    with context.socket(zmq.DEALER) as sock:
        set_client_options(sock)
        sock.setsockopt(zmq.IMMEDIATE, 0)
        sock.connect(bench.server.endpoint)
        sock.send_multipart(frames)

        def hear() -> wire.Head:
            assert sock.poll(1000 * PATIENCE_S)
            return wire.decode(sock.recv_multipart(), wire.TO_CALLER)[0]

        yield hear


def _raw_ask(bench: Bench, args: bytes) -> None:
    """As another program might send it."""
    with calling(bench, b'{"id": "%s", "command": "look", "args": %s}' % (uuid.uuid4().hex.encode(), args)) as hear:
        answer = hear()
    assert isinstance(answer, wire.RefusedCall)
    raise BadInput(f"look: {answer.what}", where=answer.where)


def test_progress_and_result_come_in_order(bench: Bench) -> None:
    heard: list[tuple[float | None, str]] = []
    thread, found = in_thread(lambda: bench.ask("turn", b'{"wait": true}', progress=lambda *one: heard.append(one)))
    wait_until(lambda: (0.5, "half way") in heard, "progress")
    bench.may_go.set()
    thread.join(timeout=5)
    assert found == [{"n": 1}]


def test_a_command_of_class_once_takes_effect_once_however_often_it_is_sent(bench: Bench) -> None:
    identity = str(uuid.uuid4())
    assert bench.ask("fire", identity=identity) == {"n": 1}
    assert bench.ask("fire", identity=identity) == {"n": 1}
    bench.stop()
    bench.start()
    assert bench.ask("fire", identity=identity) == {"n": 1}
    assert len(bench.done) == 1


def test_an_id_is_not_taken_for_another_wish(bench: Bench) -> None:
    identity = str(uuid.uuid4())
    bench.ask("fire", identity=identity)
    for _ in range(2):  # in the same process, and in the next one, which has only the ledger
        with pytest.raises(Refused, match="used for another"):
            bench.ask("fire", b'{"shell": "b"}', identity=identity)
        bench.stop()
        bench.start()
    assert len(bench.done) == 1


def test_a_command_that_was_running_when_the_process_died_is_interrupted_not_repeated(bench: Bench) -> None:
    identity = str(uuid.uuid4())
    row = (identity, "fire", b"{}", time.time_ns())
    bench.store.write(lambda db: db.execute("INSERT INTO command (id, verb, args, state, at_ns) VALUES (?, ?, ?, 'accepted', ?)", row))
    bench.stop()
    bench.start()
    with pytest.raises(Failed, match="interrupted"):
        bench.ask("fire", identity=identity)
    assert bench.done == []


def test_a_module_that_died_in_a_command_is_asked_again_where_it_answers_now(bench: Bench) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
    with context.socket(zmq.ROUTER) as dead:  # takes the call and never answers
        dead.setsockopt(zmq.LINGER, 0)
        dead.bind("tcp://127.0.0.1:*")
        before = dead.getsockopt_string(zmq.LAST_ENDPOINT)
        assert ask_at(before, "fire", b"{}", module="bench", timeout_s=PATIENCE_S, look_again=lambda: bench.server.endpoint) == {"n": 1}
        _, *frames = dead.recv_multipart()
    assert isinstance(wire.decode(frames, wire.TO_CALLEE)[0], wire.Call)
    assert len(bench.done) == 1


def test_a_command_that_is_too_old_is_not_begun(bench: Bench) -> None:
    thread, _ = in_thread(lambda: bench.ask("turn", b'{"wait": true}', timeout_s=30))
    wait_until(lambda: bench.server.running == "turn", "the first command at work")
    with calling(bench, wire.Call(id="late", command="fire", expires_ms=50)) as hear:
        assert isinstance(hear(), wire.Accepted)
        late_at = time.monotonic() + 0.1
        wait_until(lambda: time.monotonic() > late_at, "the command's end of time")
        bench.may_go.set()
        refused = hear()
    assert isinstance(refused, wire.RefusedCall)
    assert refused.code == "expired"
    thread.join(timeout=5)
    assert not any(isinstance(one, Fire) for one in bench.done)


def test_an_urgent_command_jumps_the_queue(bench: Bench) -> None:
    thread, _ = in_thread(lambda: bench.ask("turn", b'{"wait": true}', timeout_s=10))
    wait_until(lambda: bench.server.running == "turn", "the first command at work")
    assert bench.ask("stop") == {"n": 1}
    bench.may_go.set()
    thread.join(timeout=5)


def test_a_full_queue_is_busy_and_says_with_what(bench: Bench) -> None:
    threads = [in_thread(lambda: bench.ask("turn", b'{"wait": true}', timeout_s=20)) for _ in range(9)]
    wait_until(lambda: bench.server.running == "turn", "the first command at work")

    def is_busy() -> bool:
        try:
            bench.ask("turn", wait=False)
        except Refused as error:
            return error.word == "busy" and "turn" in error.what
        return False

    wait_until(is_busy, "a busy answer")
    bench.may_go.set()
    for thread, _ in threads:
        thread.join(timeout=10)


@pytest.mark.parametrize(
    ("error", "kind"), [(Refused("not now"), Refused), (BadInput("wrong"), BadInput), (Failed("it broke"), Failed), (KeyError("x"), Failed)]
)
def test_every_end_of_a_handler_is_an_answer(bench: Bench, error: Exception, kind: type[Exception]) -> None:
    bench.error = error
    with pytest.raises(kind):
        bench.ask("turn")


def test_nobody_there_is_said_in_time() -> None:
    began = time.monotonic()
    with pytest.raises(Missing, match="nightbell run bench"):
        ask_at("tcp://127.0.0.1:9", "look", b"{}", module="bench", timeout_s=0.5)
    assert time.monotonic() - began < 5
