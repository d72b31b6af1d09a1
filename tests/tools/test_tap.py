"""tools/tap.py, copied alone: what it prints, what it misses and says so, and how it ends."""

from __future__ import annotations

import ast
import importlib.util
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

import nightbell
from nightbell.contracts.events import OperatorActed

from .conftest import DEADLINE_S, TOOLS, begin, run


def module() -> Any:
    spec = importlib.util.spec_from_file_location("tap_tool", TOOLS / "tap.py")
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules["tap_tool"] = found
    spec.loader.exec_module(found)
    return found


def acted(n: int) -> OperatorActed:
    return OperatorActed(who="ada", role="operator", address="127.0.0.1", module="telescope", verb=f"verb_{n}", answer="done")


def publish(conf: Path, *numbers: int) -> None:
    with nightbell.connect(conf, name="test") as connection:
        for n in numbers:
            connection.publish(acted(n), "demo")


@pytest.mark.parametrize("tool", ["tap.py", "send.py"])
def test_a_tool_imports_nothing_but_the_standard_library_and_pyzmq(tool):
    tree = ast.parse((TOOLS / tool).read_text(encoding="utf-8"))
    roots = {alias.name.partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    roots |= {(node.module or "").partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert roots - set(sys.stdlib_module_names) == {"zmq"}


@pytest.mark.parametrize("tool", ["tap.py", "send.py"])
def test_its_help_shows_examples_where_nightbell_cannot_be_imported(lonely, tool):
    status, out, _ = run(lonely, tool, "--help")
    assert status == 0
    assert f"python {tool}" in out


def test_stored_events_come_as_the_installed_command_prints_them(lonely, small_installation):
    small_installation.start("broker:observatory")
    publish(small_installation.conf, 1, 2, 3)
    words = ("--door", small_installation.door, "--since", "first", "--no-follow", "--json")
    status, out, err = run(lonely, "tap.py", *words, "operator.*")
    assert status == 0, err
    installed = [sys.executable, "-m", "nightbell", "tap", "--conf", str(small_installation.conf), "--since", "1", "--json", "--count", "3"]
    done = subprocess.run([*installed, "operator.*"], capture_output=True, text=True, timeout=DEADLINE_S, check=True)
    assert [json.loads(line) for line in out.splitlines()] == [json.loads(line) for line in done.stdout.splitlines()]
    assert [json.loads(line)["data"]["verb"] for line in out.splitlines()] == ["verb_1", "verb_2", "verb_3"]


def test_live_events_come_by_the_feed_and_only_those_asked_for(lonely, small_installation):
    small_installation.start("broker:observatory")
    tap = begin(lonely, "tap.py", "--feed", small_installation.feed, "--count", "2", "--json", "operator.acted")
    stop = threading.Event()

    def tell() -> None:
        n = 0
        with nightbell.connect(small_installation.conf, name="test") as connection:
            while not stop.is_set():
                connection.publish(acted(n := n + 1), "demo")

    teller = threading.Thread(target=tell)
    teller.start()
    try:
        out, err = tap.communicate(timeout=DEADLINE_S)
    finally:
        stop.set()
        teller.join()
    assert tap.returncode == 0, err
    told = [json.loads(line) for line in out.splitlines()]
    assert [one["type"] for one in told] == ["operator.acted"] * 2
    assert told[1]["seq"] == told[0]["seq"] + 1
    assert "missed" not in err


def test_after_the_brokers_death_a_reader_goes_on_behind_the_last_event(lonely, small_installation):
    small_installation.start("broker:observatory")
    publish(small_installation.conf, 1, 2, 3)
    words = ("--door", small_installation.door, "--since", "1", "--count", "6", "--json", "operator.acted")
    tap = begin(lonely, "tap.py", *words)
    assert tap.stdout is not None
    first = [tap.stdout.readline() for _ in range(3)]
    small_installation.kill("broker:observatory")
    publish(small_installation.conf, 4, 5, 6)
    out, err = tap.communicate(timeout=DEADLINE_S)
    told = [json.loads(line) for line in (*first, *out.splitlines())]
    assert [one["data"]["verb"] for one in told] == [f"verb_{n}" for n in range(1, 7)]
    assert tap.returncode == 0, err
    assert "the broker is away" in err


# -- a feed of paper ---------------------------------------------------------------------------------------------------


@pytest.fixture
def feed() -> Iterator[zmq.Socket[bytes]]:
    with zmq.Context.instance().socket(zmq.XPUB) as sock:
        sock.setsockopt(zmq.LINGER, 0)
        sock.bind("tcp://127.0.0.1:*")
        yield sock


def tell(feed: zmq.Socket[bytes], kind: str, seq: int, prevt: int, *, epoch: int = 1, subject: str = "demo") -> None:
    envelope = {
        "id": str(seq),
        "type": kind,
        "source": "x@demo",
        "subject": subject,
        "time": "2027-04-12T22:00:00.000000Z",
        "data": {"a": 1},
    }
    about = {"epoch": epoch, "seq": seq, "prevt": prevt}
    feed.send_multipart([kind.encode() + b"\0", json.dumps(about).encode(), json.dumps(envelope).encode()])


def subscribed(feed: zmq.Socket[bytes], n: int = 1) -> list[bytes]:
    found = []
    for _ in range(n):
        assert feed.poll(1000 * DEADLINE_S)
        found.append(feed.recv())
    return found


def test_a_hole_in_the_feed_is_told_and_counted(lonely, feed):
    tap = begin(lonely, "tap.py", "--feed", feed.getsockopt_string(zmq.LAST_ENDPOINT), "--count", "4")
    subscribed(feed)
    tell(feed, "night.changed", 10, 4)
    tell(feed, "frames.stored", 11, 3)
    tell(feed, "night.changed", 14, 12)  # 12 was never heard
    tell(feed, "frames.stored", 15, 11)
    out, err = tap.communicate(timeout=DEADLINE_S)
    assert len(out.splitlines()) == 4
    assert "missed night.changed 12" in err
    assert "missed at least 1" in err


def test_what_is_no_event_is_passed_over_and_named(lonely, feed):
    tap = begin(lonely, "tap.py", "--feed", feed.getsockopt_string(zmq.LAST_ENDPOINT), "--count", "1")
    subscribed(feed)
    feed.send_multipart([b"night.changed\0", b"{}", b"{}"])
    feed.send_multipart([b"one frame"])
    feed.send_multipart([b"a.b\0", b'{"seq": 1, "prevt": 0, "epoch": 1}', b"[" * 100_000])
    tell(feed, "night.changed", 1, 0)
    out, err = tap.communicate(timeout=DEADLINE_S)
    assert len(out.splitlines()) == 1
    assert err.count("not an event") == 3
    assert "Traceback" not in err


def test_a_subject_cannot_drive_the_terminal(lonely, feed):
    tap = begin(lonely, "tap.py", "--feed", feed.getsockopt_string(zmq.LAST_ENDPOINT), "--count", "1")
    subscribed(feed)
    tell(feed, "night.changed", 1, 0, subject="\x1b]0;owned\x07\n2027")
    out, _ = tap.communicate(timeout=DEADLINE_S)
    assert out.count("\n") == 1
    assert "\x1b" not in out


def test_each_pattern_becomes_one_prefix_of_the_feed(lonely, feed):
    tap = begin(lonely, "tap.py", "--feed", feed.getsockopt_string(zmq.LAST_ENDPOINT), "--count", "1", "frames.*", "night.changed")
    assert set(subscribed(feed, 2)) == {b"\x01frames.", b"\x01night.changed\0"}
    tell(feed, "night.changed_twice", 1, 0)
    tell(feed, "night.changed", 2, 0)
    out, _ = tap.communicate(timeout=DEADLINE_S)
    assert out.split()[0] == "2"


@pytest.mark.parametrize(
    ("heard", "words", "n"),
    [
        pytest.param([("a.b", 5, 2, 1)], ["", 0], 0, id="what was before the first is not ours"),
        pytest.param([("a.b", 5, 2, 1), ("a.b", 6, 5, 1)], ["", ""], 0, id="no hole"),
        pytest.param([("a.b", 5, 2, 1), ("a.b", 9, 8, 1)], ["", "missed a.b 8"], 1, id="a hole in a type"),
        pytest.param([("a.b", 5, 2, 1), ("c.d", 9, 7, 1)], ["", "missed c.d 7"], 1, id="a hole before the first of a type"),
        pytest.param([("a.b", 5, 2, 1), ("c.d", 9, 3, 1)], ["", ""], 0, id="the first of a type"),
        pytest.param([("a.b", 5, 2, 1), ("a.b", 9, 0, 1)], ["", "begun anew"], 0, id="a broker started again"),
        pytest.param([("a.b", 5, 2, 1), ("a.b", 1_000_001, 0, 2)], ["", "begun anew"], 0, id="a new epoch"),
    ],
)
def test_drops_are_seen_by_comparison_alone(heard, words, n):
    drops = module().Drops()
    said = [drops.look(*one) for one in heard]
    assert all((word or "") in text and bool(word) == bool(text) for word, text in zip(words, said, strict=False))
    assert drops.n == n


# -- how it ends -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [("--for", "0.3"), ("--since", "1")])
def test_without_a_broker_it_says_so_and_fails(lonely, words):
    status, out, err = run(lonely, "tap.py", "--feed", "tcp://127.0.0.1:9", "--door", "tcp://127.0.0.1:9", *words)
    assert status == 1
    assert out == ""
    assert "nobody answers at tcp://127.0.0.1:9" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("Frames.stored",), "Frames.stored"),
        (("--feed", "localhost:1"), "localhost:1"),
        (("--key", "a.key_secret"), "--server-key"),
        (("--no-follow",), "--since"),
        (("--key", "absent.key_secret", "--server-key", "absent.key"), "absent.key"),
    ],
)
def test_wrong_usage_names_what_is_wrong(lonely, words, named):
    status, _, err = run(lonely, "tap.py", *words)
    assert status == 2
    assert named in err
    assert "Traceback" not in err


def test_a_wrong_time_is_refused_in_the_brokers_words(lonely, small_installation):
    small_installation.start("broker:observatory")
    status, _, err = run(lonely, "tap.py", "--door", small_installation.door, "--since", "yesterday")
    assert status == 2
    assert "yesterday" in err


def test_ctrl_c_ends_it_quietly(lonely, feed):
    tap = begin(lonely, "tap.py", "--feed", feed.getsockopt_string(zmq.LAST_ENDPOINT))
    subscribed(feed)
    tap.send_signal(signal.SIGINT)
    _, err = tap.communicate(timeout=DEADLINE_S)
    assert tap.returncode == 130
    assert "Traceback" not in err


def test_a_closed_pipe_ends_it_quietly(lonely, feed):
    tap = begin(lonely, "tap.py", "--feed", feed.getsockopt_string(zmq.LAST_ENDPOINT))
    subscribed(feed)
    assert tap.stdout is not None
    assert tap.stderr is not None
    tap.stdout.close()
    until = time.monotonic() + DEADLINE_S
    seq = 0
    while tap.poll() is None and time.monotonic() < until:
        tell(feed, "night.changed", seq := seq + 1, seq - 1)
        try:
            tap.wait(0.05)
        except subprocess.TimeoutExpired:
            continue
    assert tap.returncode == 0
    assert "Traceback" not in tap.stderr.read()
    tap.stderr.close()


def test_keys_are_wanted_where_the_broker_has_them(lonely, small_installation, tmp_path):
    from nightbell.bus.keys import make_pair

    keys = small_installation.conf / "keys"
    for name in ("broker-observatory", "script"):
        make_pair(keys, name)
    stranger = make_pair(tmp_path, "stranger", trust=False)
    small_installation.configure(["broker:observatory"], keys="keys")
    small_installation.start("broker:observatory")
    publish(small_installation.conf, 1)
    words = ("--door", small_installation.door, "--since", "1", "--no-follow", "operator.acted")
    server = ("--server-key", str(keys / "broker-observatory.key"))
    status, out, err = run(lonely, "tap.py", *words, "--key", str(keys / "script.key_secret"), *server)
    assert (status, len(out.splitlines())) == (0, 1), err
    status, out, err = run(lonely, "tap.py", *words, "--key", str(stranger), *server)
    assert (status, out) == (3, ""), err
    assert "does not know this key" in err
    status, out, err = run(lonely, "tap.py", *words)
    assert (status, out) == (3, ""), err
    assert "do not agree on keys" in err
    another = ("--server-key", str(stranger.with_suffix(".key")))
    status, out, err = run(lonely, "tap.py", *words, "--key", str(keys / "script.key_secret"), *another)
    assert (status, out) == (3, ""), err
    assert "breaks off the handshake" in err
    status, out, err = run(lonely, "tap.py", *words, "--key", str(keys / "script.key"), *server)
    assert status == 2
    assert "no secret key" in err
