"""`nightbell status`: what lives, what should live and does not, and what a script can rely on."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import nightbell
from nightbell.bus.module import READY_WAIT_S
from nightbell.cli import nightbell as command
from nightbell.contracts.events import OperatorActed


def status(conf: Path, *words: str) -> tuple[int, str]:
    done = CliRunner().invoke(command, ["status", "--conf", str(conf), *words])
    return done.exit_code, done.stdout


def told(conf: Path) -> tuple[int, dict[str, Any]]:
    code, out = status(conf, "--json")
    return code, json.loads(out)


def test_all_alive_is_told_with_the_last_events(small_installation):
    small_installation.start("broker:observatory", "archive")
    with nightbell.connect(small_installation.conf, name="test") as connection:
        connection.publish(OperatorActed(who="a", role="r", address="x", module="m", verb="v", answer="done"), "demo")
    code, answer = told(small_installation.conf)
    assert code == 0
    assert (answer["ok"], answer["missing"]) == (True, [])
    broker, archive = answer["brokers"]["observatory"], answer["modules"]["archive"]
    assert [one["type"] for one in broker["last_events"]][-1] == "operator.acted"
    assert archive["alive"] is True
    assert archive["heard_s"] < 10
    assert archive["report"]["connected"] is True
    code, text = status(small_installation.conf)
    assert code == 0
    assert "broker  observatory: alive" in text
    assert "last events at observatory" in text
    assert "NOT RUNNING" not in text


def test_with_everything_dead_it_says_so_within_the_time_of_one(small_installation):
    small_installation.configure(["broker:observatory", "archive", "preprocessor", "transients", "safety", "simulator"])
    began = time.monotonic()
    code, text = status(small_installation.conf)
    assert code == 1
    assert time.monotonic() - began < 6
    assert "NOT RUNNING: broker:observatory, archive, preprocessor, transients, safety, simulator" in text
    assert "nightbell up --conf" in text
    code, answer = told(small_installation.conf)
    assert code == 1
    assert answer["ok"] is False
    assert not any(one["alive"] for one in (*answer["brokers"].values(), *answer["modules"].values()))


def test_modules_answer_while_their_broker_is_dead(small_installation):
    small_installation.configure(["broker:observatory", "archive"])
    small_installation.start("archive")
    code, answer = told(small_installation.conf)
    assert code == 1
    assert answer["missing"] == ["broker:observatory"]
    assert answer["modules"]["archive"]["alive"] is True
    _, text = status(small_installation.conf)
    assert "WITHOUT ITS BROKER" in text
    assert "nightbell run broker:observatory" in text
    assert READY_WAIT_S < 60


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGSTOP")
def test_a_process_that_hangs_is_told_from_a_dead_one(small_installation):
    small_installation.start("broker:observatory", "archive")
    pid = small_installation.ready("archive")["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        code, answer = told(small_installation.conf)
        _, text = status(small_installation.conf)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert code == 1
    assert answer["missing"] == ["archive"]
    assert answer["modules"]["archive"]["pid"] == pid
    assert "SILENT" in text


def test_a_broker_that_does_not_run_here_is_no_failure_of_this_host(small_installation):
    small_installation.configure(["archive"])
    small_installation.start("archive")
    code, answer = told(small_installation.conf)
    assert code == 0
    assert answer["brokers"]["observatory"]["alive"] is False


def test_who_does_not_let_us_in_is_not_told_as_dead(small_installation):
    from nightbell.bus.keys import make_pair

    for name in ("broker-observatory", "script"):
        make_pair(small_installation.conf / "keys", name)
    small_installation.configure(["broker:observatory"], keys="keys")
    small_installation.start("broker:observatory")
    (small_installation.conf / "keys" / "authorized" / "script.key").unlink()
    code, text = status(small_installation.conf)
    assert code == 1
    assert "NOT LET IN: broker:observatory" in text
    assert "does not know this key" in text
    assert "NOT RUNNING" not in text


def test_a_process_that_cannot_exist_is_missing_not_a_crash(small_installation):
    small_installation.configure(["broker:nowhere"])
    code, answer = told(small_installation.conf)
    assert code == 1
    assert answer["missing"] == ["broker:nowhere"]


def test_the_night_and_the_dome_are_told_by_those_who_know_them():
    from nightbell.cli.status import text_of

    broker = {"alive": True, "up_s": 5.0, "head": 9, "epoch": 1, "journal_bytes": 1, "free_bytes": 1, "dead": 1, "subscriptions": []}
    letter = {"seq": 4, "sub": "telescope/events", "type": "targets.ready", "subject": "demo/S1", "errors": ["no such target"]}
    text = text_of(
        {
            "missing": [],
            "installation": "conf/demo",
            "night": {"night": "2027-04-12", "state": "observing", "since_age_s": 61.0, "reason": "", "doing": "NGC4993 r"},
            "dome": {"shutter": "open", "azimuth_deg": 214.04, "verdict": "unsafe", "reasons": ["rain"]},
            "brokers": {"observatory": {**broker, "dead_letters": [letter], "last_events": []}},
            "modules": {},
        }
    )
    assert "night   2027-04-12: observing for 61 s (NGC4993 r)" in text
    assert "shutter open, azimuth 214.0 deg; safety says unsafe: rain" in text
    assert "1 DEAD LETTERS at observatory: nightbell dead show|retry|drop SEQ --broker observatory" in text
    assert "no such target" in text


@pytest.mark.skipif(os.name == "nt", reason="Windows has no pseudo-terminals in the standard library")
def test_top_draws_on_a_terminal_until_ctrl_c_and_says_so_when_there_is_none(small_installation):
    import pty

    without = subprocess.run(
        [sys.executable, "-m", "nightbell", "top", "--conf", str(small_installation.conf)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert without.returncode == 2
    assert "nightbell status" in without.stderr
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "nightbell", "top", "--every", "0.5", "--conf", str(small_installation.conf)]
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, stdin=theirs, env={**os.environ, "TERM": "xterm"}) as top:
        os.close(theirs)
        seen = b""
        while seen.count(b"NOT RUNNING") < 2:
            assert select.select([ours], [], [], 30)[0], seen.decode(errors="replace")
            seen += os.read(ours, 65536)
        top.send_signal(signal.SIGINT)
        with contextlib.suppress(OSError):  # a terminal whose other end is closed reads as an error on Linux
            while os.read(ours, 65536):
                pass
        assert top.wait(timeout=30) == 0
    os.close(ours)
