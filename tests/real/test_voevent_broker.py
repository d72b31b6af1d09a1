"""The VOEvent source against Comet, a real broker: pygcn in its own process, files, journal."""

from __future__ import annotations

import queue
import subprocess
import sys
import threading
import time
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
