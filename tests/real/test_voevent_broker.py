"""The VOEvent source against Comet, a real broker: pygcn in its own process, files, journal."""

from __future__ import annotations

import importlib.util
import queue
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nightbell.alerts.journal import NoticeJournal
from nightbell.alerts.notices.reading import parse_notice
from nightbell.alerts.settings import VoeventSettings
from nightbell.alerts.sources.voevent import listen_to_voevents

pytestmark = pytest.mark.real
TOOLS = Path(sys.executable).parent
DEADLINE_S = 30.0

EVENT = """<?xml version="1.0" encoding="UTF-8"?>
<voe:VOEvent xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xmlns:voe="http://www.ivoa.net/xml/VOEvent/v2.0"
 xsi:schemaLocation="http://www.ivoa.net/xml/VOEvent/v2.0 http://www.ivoa.net/xml/VOEvent/VOEvent-v2.0.xsd"
 version="2.0" role="test" ivorn="ivo://nightbell.test/stream#{name}">
<Who><AuthorIVORN>ivo://nightbell.test/author</AuthorIVORN><Date>2027-04-12T22:24:00</Date></Who>
<What><Param name="GraceID" value="MS270412a"/><Param name="AlertType" value="Initial"/></What>
</voe:VOEvent>"""


def free_ports(n: int) -> list[int]:
    held = [socket.socket() for _ in range(n)]
    for one in held:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


def listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def comet(tmp_path: Path) -> Iterator[tuple[int, int]]:
    """(port for senders, port for subscribers) of a running broker."""
    if importlib.util.find_spec("comet") is None or not (shutil.which("twist", path=str(TOOLS)) and (TOOLS / "comet-sendvo").exists()):
        pytest.skip("Comet is not installed: pip install Comet")
    receive, broadcast = free_ports(2)
    memory = tmp_path / "comet"
    memory.mkdir()
    command = [str(TOOLS / "twist"), "--log-format=text", "comet", "--receive", f"--receive-port={receive}", "--broadcast"]
    command += [f"--broadcast-port={broadcast}", "--broadcast-test-interval=0", "--author-whitelist=127.0.0.1/32"]
    command += ["--subscriber-whitelist=127.0.0.1/32", "--local-ivo=ivo://nightbell.test/broker", f"--eventdb={memory}"]
    with (tmp_path / "comet.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + DEADLINE_S
        while not (listening(receive) and listening(broadcast)):
            assert process.poll() is None, (tmp_path / "comet.log").read_text()
            assert time.monotonic() < deadline, "Comet does not listen"
            process.poll()
        yield receive, broadcast
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def send(port: int, name: str, folder: Path) -> None:
    path = folder / f"{name}.xml"
    path.write_text(EVENT.format(name=name))
    done = subprocess.run(
        [str(TOOLS / "comet-sendvo"), "-h", "127.0.0.1", "-p", str(port), "-f", str(path)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_voevent_from_a_real_broker_is_journaled_as_it_came(comet: tuple[int, int], tmp_path: Path) -> None:
    receive, broadcast = comet
    journal = NoticeJournal(tmp_path / "notices")
    taken: queue.Queue[int] = queue.Queue()
    said: list[str] = []
    stopping = threading.Event()

    def take(raw: bytes, **about: Any) -> None:
        number, _ = journal.append(raw, source="voevent", now_ns=0, **about)
        taken.put(number)

    settings = VoeventSettings(host="127.0.0.1", port=broadcast, reconnect_max_s=2.0)
    spool = tmp_path / "vtp"
    arguments = (settings, spool, take, stopping, lambda _, text: said.append(text))
    thread = threading.Thread(target=listen_to_voevents, args=arguments)
    thread.start()
    try:
        deadline = time.monotonic() + DEADLINE_S
        number = 0
        # What is broadcast while nobody listens is lost (VTP has no replay): send until the listener has connected.
        while time.monotonic() < deadline and taken.empty():
            number += 1
            send(receive, f"event-{number}", tmp_path)
        entry = journal.read(taken.get(timeout=5))
        notice = parse_notice(entry.raw, where=entry.where)
        assert notice.alert.superevent_id == "MS270412a"
        assert notice.alert.drill
        assert notice.identity.startswith("ivo://nightbell.test/stream#event-")
        assert not said
    finally:
        stopping.set()
        thread.join(20)
    assert not thread.is_alive()
    assert not list(spool.glob("*.making"))
