"""tools/send.py, copied alone: how it finds a module, asks it, repeats, and what each answer means for the caller."""

from __future__ import annotations

import contextlib
import json
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import zmq

from .conftest import DEADLINE_S, begin, run

Answers = list[tuple[str, dict[str, Any]]]


class PaperModule(threading.Thread):
    """A ROUTER that answers each message as the test says; `heard` keeps all of them."""

    def __init__(self, answer: Callable[[str, dict[str, Any], int], Answers]) -> None:
        super().__init__(daemon=True)
        self._answer, self.heard = answer, []
        self._sock = zmq.Context.instance().socket(zmq.ROUTER)
        self._sock.setsockopt(zmq.LINGER, 200)
        self._sock.bind("tcp://127.0.0.1:*")
        self.endpoint = self._sock.getsockopt_string(zmq.LAST_ENDPOINT)
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.is_set():
            if not self._sock.poll(50):
                continue
            peer, protocol, verb, head = self._sock.recv_multipart()
            assert protocol == b"NB1"
            self.heard.append((verb.decode(), json.loads(head)))
            for said, told in self._answer(verb.decode(), json.loads(head), len(self.heard)):
                self._sock.send_multipart([peer, b"NB1", said.encode(), json.dumps(told).encode()])
        self._sock.close()

    def end(self) -> None:
        self._over.set()
        self.join()


@contextlib.contextmanager
def module(answer: Callable[[str, dict[str, Any], int], Answers]) -> Iterator[PaperModule]:
    one = PaperModule(answer)
    one.start()
    try:
        yield one
    finally:
        one.end()


def always(*answers: tuple[str, dict[str, Any]]) -> Callable[[str, dict[str, Any], int], Answers]:
    return lambda _verb, head, _n: [(said, {"id": head["id"], **told}) for said, told in answers]


# -- real processes ----------------------------------------------------------------------------------------------------


def test_a_module_is_found_by_the_broker_and_asked_directly_also_when_the_broker_is_dead(lonely, small_installation):
    small_installation.start("broker:observatory", "archive")
    status, out, err = run(lonely, "send.py", "--door", small_installation.door, "archive", "status", "--json")
    assert status == 0, err
    assert json.loads(out)["module"] == "archive"
    endpoint = small_installation.ready("archive")["commands"]
    assert endpoint in err
    status, _, err = run(lonely, "send.py", "--door", "tcp://127.0.0.1:9", "archive", "status", "--timeout", "1")
    assert status == 1
    assert "--endpoint needs no broker" in err
    status, out, err = run(lonely, "send.py", "--door", "tcp://127.0.0.1:9", "--endpoint", endpoint, "archive", "status", "--json")
    assert status == 0, err
    assert json.loads(out)["module"] == "archive"


@pytest.mark.parametrize(
    ("words", "status", "named"),
    [
        (("archive", "stats"), 2, "status"),
        (("archive", "status", "x=1"), 2, "`x`"),
        (("telescope", "status"), 1, "nightbell run telescope"),
    ],
)
def test_a_wish_that_cannot_be_understood_is_refused_with_a_remedy(lonely, small_installation, words, status, named):
    small_installation.start("broker:observatory", "archive")
    got, out, err = run(lonely, "send.py", "--door", small_installation.door, *words, "--json")
    assert got == status
    assert named in err
    assert set(json.loads(out)["error"]) == {"code", "what", "where", "remedy"}


def test_a_module_with_keys_is_asked_with_keys(lonely, small_installation, tmp_path):
    from nightbell.bus.keys import make_pair

    keys = small_installation.conf / "keys"
    for name in ("broker-observatory", "archive", "script"):
        make_pair(keys, name)
    stranger = make_pair(tmp_path, "stranger", trust=False)
    small_installation.configure(["broker:observatory", "archive"], keys="keys")
    small_installation.start("broker:observatory", "archive")
    servers = ("--server-key", str(keys / "archive.key"), "--door-key", str(keys / "broker-observatory.key"))
    words = ("--door", small_installation.door, "archive", "status", "--json", "--timeout", "10")
    status, out, err = run(lonely, "send.py", *words, "--key", str(keys / "script.key_secret"), *servers)
    assert status == 0, err
    assert json.loads(out)["module"] == "archive"
    endpoint = ("--endpoint", small_installation.ready("archive")["commands"])
    status, _, err = run(lonely, "send.py", *words, *endpoint, "--key", str(stranger), *servers)
    assert status == 3
    assert "archive does not know this key" in err
    status, _, err = run(lonely, "send.py", *words, *endpoint)
    assert status == 3
    assert "agree on keys" in err
    another = ("--server-key", str(stranger.with_suffix(".key")), *servers[2:])
    status, _, err = run(lonely, "send.py", *words, *endpoint, "--key", str(keys / "script.key_secret"), *another)
    assert status == 3
    assert "archive breaks off the handshake" in err


# -- a module of paper -------------------------------------------------------------------------------------------------


def test_a_lost_answer_is_asked_for_again_with_the_same_id_and_a_greater_age(lonely):
    def deaf_once(verb: str, head: dict[str, Any], n: int) -> Answers:
        return [] if n == 1 else always(("ACCEPTED", {}), ("RESULT", {"ok": True, "value": {"n": n}}))(verb, head, n)

    with module(deaf_once) as paper:
        status, out, err = run(lonely, "send.py", "--endpoint", paper.endpoint, "telescope", "open_night", "--json")
    assert status == 0, err
    assert json.loads(out) == {"n": 2}
    (_, first), (_, second) = paper.heard
    assert first["id"] == second["id"]
    assert second["age_ms"] > first["age_ms"] + 1000
    assert first["expires_ms"] == 10_000


def test_progress_is_told_once_each_on_stderr_and_the_result_on_stdout(lonely):
    answers = always(
        ("ACCEPTED", {}),
        ("PROGRESS", {"k": 1, "text": "cooling", "fraction": 0.25}),
        ("PROGRESS", {"k": 1, "text": "cooling", "fraction": 0.25}),
        ("PROGRESS", {"k": 2, "text": "checking\x1b[2J"}),
        ("RESULT", {"ok": True, "value": {"night": "2027-04-12"}, "seconds": 2.5}),
    )
    with module(answers) as paper:
        status, out, err = run(lonely, "send.py", "--endpoint", paper.endpoint, "telescope", "prepare_night")
    assert status == 0
    assert json.loads(out) == {"night": "2027-04-12"}
    assert err.count("PROGRESS 25 % cooling") == 1
    assert "PROGRESS checking?[2J" in err
    assert err.index("ACCEPTED") < err.index("PROGRESS") < err.index("RESULT")


def test_fields_are_json_where_they_are_json_else_text(lonely):
    with module(always(("RESULT", {"ok": True}))) as paper:
        words = ("night=2027-04-12", "limit=5", 'paths=["a b", "c"]', "confirm=true", 'by="12"', "empty=")
        status, out, err = run(lonely, "send.py", "--endpoint", paper.endpoint, "preprocessor", "calibrate_night", *words, "--json")
    assert status == 0, err
    assert json.loads(out) == {"result": None}
    fields = {"night": "2027-04-12", "limit": 5, "paths": ["a b", "c"], "confirm": True, "by": "12", "empty": ""}
    assert paper.heard[0][1]["args"] == fields


@pytest.mark.parametrize(
    ("answer", "status", "named"),
    [
        (("BUSY", {"by": "calibrate_night"}), 3, "calibrate_night"),
        (("REFUSED", {"code": "unsafe", "what": "rain", "where": "site", "remedy": "Wait"}), 3, "rain"),
        (("REFUSED", {"code": "expired", "what": "too old"}), 3, "too old"),
        (("REFUSED", {"code": "bad_input", "what": "`x`", "remedy": "Leave it out"}), 2, "Leave it out"),
        (("RESULT", {"ok": False, "error": {"code": "device", "what": "the shutter hangs", "remedy": "Look"}}), 1, "the shutter hangs"),
        (("RESULT", {"ok": False, "error": {"code": "unsafe", "what": "wind", "refused": True}}), 3, "wind"),
        (("SHRUG", {}), 1, "SHRUG"),
    ],
)
def test_each_answer_has_its_exit_status_and_its_words(lonely, answer, status, named):
    with module(always(answer)) as paper:
        got, out, err = run(lonely, "send.py", "--endpoint", paper.endpoint, "telescope", "open_night", "--json")
    assert got == status
    assert named in err
    assert named in json.loads(out)["error"]["what"] + json.loads(out)["error"]["remedy"]


def test_without_waiting_it_returns_when_the_command_is_accepted(lonely):
    with module(always(("ACCEPTED", {}))) as paper:
        status, out, _ = run(
            lonely, "send.py", "--endpoint", paper.endpoint, "telescope", "open_night", "--no-wait", "--json", "--id", "x1"
        )
    assert status == 0
    assert json.loads(out) == {"accepted": True, "id": "x1"}


def test_a_command_of_before_can_be_asked_about_and_taken_back(lonely):
    def answer(verb: str, head: dict[str, Any], n: int) -> Answers:
        if verb == "CANCEL":
            return []
        return [("RESULT", {"id": head["id"], "ok": False, "error": {"code": "cancelled", "what": "cancelled", "refused": True}})]

    with module(answer) as paper:
        status, _, err = run(lonely, "send.py", "--endpoint", paper.endpoint, "telescope", "--cancel", "x1")
    assert status == 3
    assert "cancelled" in err
    assert [(verb, head["id"]) for verb, head in paper.heard] == [("CANCEL", "x1"), ("ASK", "x1")]
    with module(always(("RESULT", {"ok": True, "value": {"night": "n"}}))) as paper:
        status, out, _ = run(lonely, "send.py", "--endpoint", paper.endpoint, "telescope", "--ask", "x1", "--json")
    assert (status, json.loads(out)) == (0, {"night": "n"})
    assert paper.heard == [("ASK", {"id": "x1"})]


def test_silence_and_a_result_that_does_not_come_are_told_apart(lonely):
    with module(always(("ACCEPTED", {}))) as paper:
        words = ("telescope", "open_night", "--timeout", "0.5", "--id", "x1")
        status, _, err = run(lonely, "send.py", "--endpoint", paper.endpoint, *words)
    assert status == 1
    assert "accepted, but no result" in err
    assert "--ask x1" in err
    status, _, err = run(lonely, "send.py", "--endpoint", "tcp://127.0.0.1:9", "telescope", "open_night", "--timeout", "0.5")
    assert status == 1
    assert "no answer within 0.5 s" in err


def test_a_stranger_at_the_address_is_named(lonely):
    with zmq.Context.instance().socket(zmq.ROUTER) as sock:
        sock.setsockopt(zmq.LINGER, 0)
        sock.bind("tcp://127.0.0.1:*")
        asking = begin(lonely, "send.py", "--endpoint", sock.getsockopt_string(zmq.LAST_ENDPOINT), "telescope", "status")
        assert sock.poll(1000 * DEADLINE_S)
        peer, *_ = sock.recv_multipart()
        sock.send_multipart([peer, b"220 smtp.example.org"])
        _, err = asking.communicate(timeout=DEADLINE_S)
    assert asking.returncode == 1
    assert "does not speak nightbell" in err
    assert "Traceback" not in err


def test_ctrl_c_leaves_the_command_running_and_says_how_to_take_it_back(lonely):
    with module(always(("ACCEPTED", {}))) as paper:
        asking = begin(lonely, "send.py", "--endpoint", paper.endpoint, "telescope", "open_night", "--id", "x1")
        assert asking.stderr is not None
        assert any("ACCEPTED" in line for line in iter(asking.stderr.readline, ""))
        asking.send_signal(signal.SIGINT)
        _, err = asking.communicate(timeout=DEADLINE_S)
    assert asking.returncode == 130
    assert "NOT taken back" in err
    assert "--cancel x1" in err


@pytest.mark.parametrize(
    "words",
    [
        ("telescope",),
        ("telescope", "status", "--ask", "x1"),
        ("telescope", "status", "night"),
        ("telescope", "status", "--endpoint", "10.0.0.1"),
        ("telescope", "status", "--timeout", "0"),
        ("telescope", "status", "--key", "a"),
        ("telescope", "status", "--key", "a", "--server-key", "b"),
    ],
)
def test_wrong_usage_ends_before_anything_is_sent(lonely, words):
    status, out, err = run(lonely, "send.py", *words)
    assert status == 2
    assert out == ""
    assert "usage:" in err
