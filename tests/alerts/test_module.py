"""The alert robot on a real broker: what is broken is refused and named, and the next notice is read all the same."""

from __future__ import annotations

import gzip
import threading
from pathlib import Path
from typing import Any

import pytest
from tests.alerts.making import as_bytes, igwn
from tests.bus.small_site import living, make_site, running_broker, wait_until

from nightbell.alerts.journal import NoticeJournal
from nightbell.alerts.module import Alerts
from nightbell.alerts.settings import VoeventSettings
from nightbell.alerts.sources.folder import watch_folder
from nightbell.alerts.sources.voevent import listen_to_voevents
from nightbell.bus.script import Connection, connect
from nightbell.contracts.errors import BadInput, Failed
from nightbell.settings import Installation, load_installation


def site_of(folder: Path, more: str = "") -> Installation:
    site = make_site(folder)
    (site.folder / "modules" / "alerts.toml").write_text(f'{more}\n[inbox]\npath = "inbox"\npoll_s = 0.05\n')
    return load_installation(site.folder)


def received(script: Connection) -> list[Any]:
    return [event.payload() for event in script.events("alert.*", since="first", follow=False)]


def test_a_notice_that_cannot_be_published_is_refused_and_the_next_one_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = site_of(tmp_path / "conf")
    robot = Alerts(site)
    decide = Alerts._commit

    def too_large(self: Alerts, turn: Any, key: str, outcome: Any) -> None:
        if outcome.known.superevent_id == "S270412b":
            raise BadInput("an event of 300000 bytes", where="alert.received")
        decide(self, turn, key, outcome)

    monkeypatch.setattr(Alerts, "_commit", too_large)
    with running_broker(site), living(robot), connect(site.folder) as script:
        for letter in "abc":
            (tmp_path / f"{letter}.json").write_bytes(as_bytes(igwn(superevent_id=f"S270412{letter}")))
        assert script.ask("alerts", "submit_notice", path=str(tmp_path / "a.json"))["superevent_id"] == "S270412a"
        with pytest.raises(BadInput, match="300000"):
            script.ask("alerts", "submit_notice", path=str(tmp_path / "b.json"))
        assert script.ask("alerts", "submit_notice", path=str(tmp_path / "c.json"))["superevent_id"] == "S270412c"
        wait_until(lambda: len(received(script)) == 2, "both good ones said")
        alarms = [event.payload() for event in script.events("alarm.raised", since="first", follow=False)]
        assert any("300000" in alarm.text for alarm in alarms)


def test_a_packed_notice_is_taken_from_the_inbox_and_a_broken_one_is_named(tmp_path: Path) -> None:
    site = site_of(tmp_path / "conf")
    with running_broker(site), living(Alerts(site)), connect(site.folder) as script:
        inbox = site.home / "inbox"
        wait_until(inbox.is_dir, "the inbox")
        (inbox / "broken.json").write_text('{"superevent_id": ')
        (inbox / "good.json.gz").write_bytes(gzip.compress(as_bytes(igwn())))
        wait_until(lambda: len(received(script)) == 1, "the packed notice")
        alarms = [event.payload() for event in script.events("alarm.raised", since="first", follow=False)]
        assert any("broken.json" in alarm.text and "not whole JSON" in alarm.text for alarm in alarms)


def test_a_stored_notice_that_was_spoilt_on_disk_stops_nothing(tmp_path: Path) -> None:
    site = site_of(tmp_path / "conf")
    folder = site.state_folder("alerts") / "notices"
    journal = NoticeJournal(folder)
    for letter in "ab":
        journal.append(as_bytes(igwn(superevent_id=f"S270412{letter}")), source="t", now_ns=0)
    next(folder.glob("00000001-*")).write_bytes(b"no head")
    with running_broker(site), living(Alerts(site)), connect(site.folder) as script:
        wait_until(lambda: [one.alert.superevent_id for one in received(script)] == ["S270412b"], "the second one")


def test_a_full_disk_leaves_notices_where_they_are_until_there_is_room(tmp_path: Path) -> None:
    full, taken, said = threading.Event(), [], []
    full.set()
    stopping = threading.Event()

    def take(raw: bytes, **about: Any) -> None:
        if full.is_set():
            raise Failed("cannot be written (No space left on device)", where="notices")
        taken.append(raw)

    inbox, spool = tmp_path / "inbox", tmp_path / "vtp"
    spool.mkdir()
    (spool / "1-a.xml").write_bytes(b"<voevent/>")
    nowhere = VoeventSettings(host="127.0.0.1", port=1)
    sources = [
        threading.Thread(target=watch_folder, args=(inbox, take, stopping, lambda _, text: said.append(text)), kwargs={"poll_s": 0.02}),
        threading.Thread(target=listen_to_voevents, args=(nowhere, spool, take, stopping, lambda _, text: said.append(text))),
    ]
    for one in sources:
        one.start()
    try:
        wait_until((inbox / "refused").is_dir, "the inbox")
        (inbox / "a.json").write_bytes(b"{}")
        wait_until(lambda: sum("No space" in text for text in said) >= 4, "both say it more than once")
        assert (inbox / "a.json").exists()
        assert (spool / "1-a.xml").exists()
        full.clear()
        wait_until(lambda: sorted(taken) == [b"<voevent/>", b"{}"], "both taken")
        assert (inbox / "done" / "a.json").exists()
    finally:
        stopping.set()
        for one in sources:
            one.join(20)


def test_a_file_that_is_no_notice_by_its_name_is_set_aside_and_told_and_a_half_written_one_is_left(tmp_path: Path) -> None:
    said, taken, stopping = [], [], threading.Event()
    for name in ("notes.txt", "a.json.part", ".hidden.json", "a.json"):
        (tmp_path / name).write_text("{}")

    def take(raw: bytes, path: str) -> None:
        taken.append((path, raw))

    source = threading.Thread(
        target=watch_folder, args=(tmp_path, take, stopping, lambda _, text: said.append(text)), kwargs={"poll_s": 0.02}
    )
    source.start()
    try:
        wait_until(lambda: (tmp_path / "refused" / "notes.txt").exists() and (tmp_path / "done" / "a.json").exists(), "both are put away")
    finally:
        stopping.set()
        source.join(20)
    assert taken == [("a.json", b"{}")]
    assert said == ["notes.txt: is not named like a notice. Name it .json, .xml, .avro, .gz"]
    assert (tmp_path / "a.json.part").exists()
    assert (tmp_path / ".hidden.json").exists()
