"""Alarms reach a human, survive a crash, and are repeated until somebody takes them."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from nightbell.contracts.errors import BadInput, Failed, Missing
from nightbell.contracts.states import Severity
from nightbell.safety.alarms import Alarm, AlarmDesk, CommandChannel, LogChannel, MailChannel, WebhookChannel, channels_of, due_in_s
from nightbell.safety.settings import AlarmSettings

SETTINGS = AlarmSettings(least_gap_s=0.0, deadline_s=5.0)


class Sink:
    """A channel that remembers; raises while `broken`."""

    def __init__(self, name: str = "sink") -> None:
        self.name = name
        self.got: list[Mapping[str, Any]] = []
        self.broken = False

    def send(self, message: Mapping[str, Any]) -> None:
        if self.broken:
            raise Failed("no line", where=self.name)
        self.got.append(message)


def until(is_so: Callable[[], bool], within_s: float = 5.0) -> None:
    end = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < end, "not so in time"
        time.sleep(0.01)


def make_desk(tmp_path: Path, *channels: Any, settings: AlarmSettings = SETTINGS, tell: Callable[[Alarm], None] | None = None) -> AlarmDesk:
    return AlarmDesk(settings, tmp_path / "alarms.jsonl", channels, utc=lambda: "2027-04-13T02:00:00.000Z", tell=tell)


@pytest.fixture
def sink() -> Sink:
    return Sink()


def test_an_alarm_is_on_disk_before_anyone_is_called(tmp_path: Path) -> None:
    spool = tmp_path / "alarms.jsonl"
    seen: list[bool] = []

    class Looks(Sink):
        def send(self, message: Mapping[str, Any]) -> None:  # noqa: ARG002
            seen.append(b"safety.stuck.dome" in spool.read_bytes())

    desk = make_desk(tmp_path, Looks())
    desk.start()
    desk.raise_alarm("safety.stuck.dome", Severity.CRITICAL, "stuck")
    until(lambda: seen == [True])
    desk.stop()


def test_the_same_key_is_the_same_alarm(tmp_path: Path, sink: Sink) -> None:
    desk = make_desk(tmp_path, sink)
    desk.start()
    for _ in range(20):
        desk.raise_alarm("k", Severity.WARNING, "text")
    until(lambda: len(sink.got) == 1)
    desk.stop()
    assert len(desk.standing()) == 1
    assert len(sink.got) == 1


def test_an_alarm_that_was_not_taken_is_sent_again_after_a_restart(tmp_path: Path, sink: Sink) -> None:
    first = make_desk(tmp_path, Sink())
    first.start()
    first.raise_alarm("k", Severity.CRITICAL, "text")
    until(lambda: bool(first.standing()))
    first.stop()
    second = make_desk(tmp_path, sink)
    second.start()
    until(lambda: len(sink.got) == 1)
    assert sink.got[0]["id"] == first.standing()[0].id
    second.stop()


def test_half_a_line_in_the_spool_costs_only_itself(tmp_path: Path) -> None:
    desk = make_desk(tmp_path, Sink())
    desk.start()
    desk.raise_alarm("k", Severity.CRITICAL, "text")
    until(lambda: bool(desk.standing()))
    desk.stop()
    with (tmp_path / "alarms.jsonl").open("ab") as file:
        file.write(b'{"id": "01')
    assert [alarm.key for alarm in make_desk(tmp_path).standing()] == ["k"]


def test_acknowledging_silences_and_only_evidence_clears(tmp_path: Path, sink: Sink) -> None:
    desk = make_desk(tmp_path, sink)
    desk.start()
    desk.raise_alarm("k", Severity.CRITICAL, "text")
    until(lambda: bool(sink.got))
    assert desk.acknowledge(desk.standing()[0].id, "Maria").by == "Maria"
    assert desk.standing()[0].state == "acked"
    desk.raise_alarm("k", Severity.CRITICAL, "text")
    desk.clear("k")
    until(lambda: desk.standing() == ())
    desk.stop()
    assert len(sink.got) == 1
    with pytest.raises(Missing, match="there is no alarm"):
        desk.acknowledge("nonsense", "Maria")


def test_a_warning_that_becomes_critical_is_news_again(tmp_path: Path, sink: Sink) -> None:
    desk = make_desk(tmp_path, sink)
    desk.start()
    desk.raise_alarm("k", Severity.WARNING, "late")
    until(lambda: len(sink.got) == 1)
    desk.acknowledge("k", "Maria")
    desk.raise_alarm("k", Severity.CRITICAL, "lost")
    until(lambda: len(sink.got) == 2)
    desk.stop()
    assert sink.got[1]["severity"] == "critical"


@pytest.mark.parametrize("severity", [Severity.WARNING, Severity.CRITICAL])
def test_an_alarm_that_flickers_is_sent_again_after_the_gap_not_never(tmp_path: Path, sink: Sink, severity: Severity) -> None:
    gap_s = 0.5
    desk = make_desk(tmp_path, sink, settings=AlarmSettings(least_gap_s=gap_s, deadline_s=5.0))
    desk.start()
    desk.raise_alarm("k", severity, "the weather station is lost")
    until(lambda: len(sink.got) == 1)
    sent = time.monotonic()
    desk.clear("k")
    desk.raise_alarm("k", severity, "the weather station is lost again")
    until(lambda: len(sink.got) == 2)
    assert time.monotonic() - sent > gap_s / 2, "at most one message per key in the gap"
    desk.stop()
    assert sink.got[1]["text"] == "the weather station is lost again"


def test_an_alarm_of_another_module_that_was_taken_rings_again_when_raised_again(tmp_path: Path, sink: Sink) -> None:
    desk = make_desk(tmp_path, sink)
    desk.start()
    desk.raise_alarm("archive.stuck", Severity.WARNING, "no second copy", alarm_id="a1", carried=True)
    until(lambda: len(sink.got) == 1)
    desk.acknowledge("a1", "Maria")
    assert desk.standing() == (), "nobody tells when its evidence is gone: taking it ends it"
    desk.raise_alarm("archive.stuck", Severity.WARNING, "no second copy", alarm_id="a2", carried=True)
    until(lambda: len(sink.got) == 2)
    desk.stop()
    assert sink.got[1]["id"] == "a2"


def test_an_acknowledgement_is_never_overwritten_by_a_repeat_that_is_just_being_sent(tmp_path: Path) -> None:
    desk = make_desk(tmp_path, Sink(), settings=AlarmSettings(least_gap_s=0.0, repeat_min=(0.01,), deadline_s=5.0))
    desk.start()
    for n in range(40):
        desk.raise_alarm(f"k{n}", Severity.CRITICAL, "text")
    until(lambda: len(desk.standing()) == 40)
    for n in range(40):
        desk.acknowledge(f"k{n}", "Maria")
    assert {alarm.state for alarm in desk.standing()} == {"acked"}
    desk.stop()
    assert {alarm.state for alarm in make_desk(tmp_path).standing()} == {"acked"}


def test_a_channel_that_works_again_after_a_restart_clears_its_alarm(tmp_path: Path) -> None:
    broken = Sink("mail")
    broken.broken = True
    first = make_desk(tmp_path, broken)
    first.start()
    for n in range(3):
        first.raise_alarm(f"k{n}", Severity.WARNING, "text")
    until(lambda: any(alarm.key == "safety.channel.mail" for alarm in first.standing()))
    first.stop()
    second = make_desk(tmp_path, Sink("mail"))
    second.start()
    until(lambda: not any(alarm.key == "safety.channel.mail" for alarm in second.standing()))
    second.stop()


def test_a_full_disk_keeps_nobody_from_taking_an_alarm(tmp_path: Path, sink: Sink) -> None:
    desk = make_desk(tmp_path, sink)
    desk.start()
    (tmp_path / "alarms.jsonl").mkdir()  # nothing can be appended to a folder
    desk.raise_alarm("k", Severity.CRITICAL, "text")
    until(lambda: len(sink.got) == 1)
    assert desk.acknowledge("k", "Maria").state == "acked"
    desk.clear("k")
    until(lambda: desk.standing() == ())
    desk.stop()


@pytest.mark.parametrize(("n_sent", "pause_s"), [(1, 60.0), (2, 180.0), (3, 600.0), (4, 600.0), (40, 600.0)])
def test_critical_alarms_repeat_after_one_three_and_then_every_ten_minutes(n_sent: int, pause_s: float) -> None:
    alarm = Alarm(id="1", key="k", severity=Severity.CRITICAL, text="t", since_utc="", n_sent=n_sent)
    assert due_in_s(alarm, 1000.0, 1000.0, AlarmSettings()) == pause_s


def test_warnings_are_sent_once_and_taken_ones_never() -> None:
    warning = Alarm(id="1", key="k", severity=Severity.WARNING, text="t", since_utc="", n_sent=1)
    taken = Alarm(id="1", key="k", severity=Severity.CRITICAL, text="t", since_utc="", n_sent=1, state="acked")
    assert due_in_s(warning, 0.0, 9999.0, SETTINGS) is None
    assert due_in_s(taken, 0.0, 9999.0, SETTINGS) is None


def test_a_broken_channel_delays_no_other_and_is_itself_an_alarm(tmp_path: Path, sink: Sink) -> None:
    broken = Sink("broken")
    broken.broken = True
    desk = make_desk(tmp_path, broken, sink)
    desk.start()
    for n in range(3):
        desk.raise_alarm(f"k{n}", Severity.CRITICAL, "text")
    until(lambda: any(message["key"] == "safety.channel.broken" for message in sink.got))
    desk.stop()
    assert desk.channels()[0]["failures"] >= 3


def test_a_listener_that_raises_stops_no_alarm(tmp_path: Path, sink: Sink) -> None:
    def raises(alarm: Alarm) -> None:
        raise RuntimeError("the bus is gone")

    desk = make_desk(tmp_path, sink, tell=raises)
    desk.start()
    desk.raise_alarm("k", Severity.CRITICAL, "text")
    until(lambda: len(sink.got) == 1)
    desk.stop()


def test_an_alarm_goes_out_when_the_spool_cannot_be_written(tmp_path: Path, sink: Sink) -> None:
    desk = make_desk(tmp_path, sink)
    desk.start()
    (tmp_path / "alarms.jsonl").mkdir()  # nothing can be appended to a folder
    desk.raise_alarm("k", Severity.CRITICAL, "text")
    until(lambda: len(sink.got) == 1)
    desk.stop()


def test_the_self_test_tells_each_channel_and_waits_for_none_for_ever(tmp_path: Path, sink: Sink) -> None:
    class Hangs(Sink):
        def send(self, message: Mapping[str, Any]) -> None:  # noqa: ARG002
            threading.Event().wait(30)

    broken = Sink("broken")
    broken.broken = True
    desk = make_desk(tmp_path, sink, broken, Hangs("hangs"), settings=AlarmSettings(deadline_s=0.5))
    results = {result["channel"]: result for result in desk.test()}
    assert results["sink"]["delivered"] is True
    assert "no line" in results["broken"]["error"]
    assert results["hangs"]["delivered"] is False


# -- channels against real receivers ------------------------------------------------------------------------------------

MESSAGE = {"id": "1", "key": "k", "severity": "critical", "text": "the dome\r\nBcc: evil@example.org does not close"}


def test_a_command_gets_json_and_its_exit_status_counts(tmp_path: Path) -> None:
    out = tmp_path / "got.json"
    code = f"import sys; open({str(out)!r}, 'w').write(sys.stdin.read())"
    CommandChannel((sys.executable, "-c", code), 10.0).send(MESSAGE)
    assert json.loads(out.read_text())["key"] == "k"
    with pytest.raises(Failed, match="exit status 3"):
        CommandChannel((sys.executable, "-c", "raise SystemExit(3)"), 10.0).send(MESSAGE)
    with pytest.raises(Failed):
        CommandChannel(("/nonexistent/program",), 10.0).send(MESSAGE)


@pytest.fixture
def web_sink() -> Iterator[tuple[str, list[Any], list[int]]]:
    got: list[Any] = []
    statuses = [200]

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(statuses[0])
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            """Quiet."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/bell", got, statuses
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_webhook_gets_json_and_only_2xx_is_delivered(web_sink: tuple[str, list[Any], list[int]]) -> None:
    url, got, statuses = web_sink
    WebhookChannel(url, 5.0).send(MESSAGE)
    assert got[0]["key"] == "k"
    statuses[0] = 500
    with pytest.raises(Failed, match="500"):
        WebhookChannel(url, 5.0).send(MESSAGE)


class MailSink:
    """A mail server that takes one mail; just enough of SMTP."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._ready.wait(5)

    def _run(self) -> None:
        async def main() -> None:
            server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
            self.port = server.sockets[0].getsockname()[1]
            self._stop = asyncio.Event()
            self._ready.set()
            await self._stop.wait()
            server.close()

        self._loop.run_until_complete(main())
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 sink\r\n")
        in_data = False
        while line := (await reader.readline()).decode().rstrip("\r\n"):
            self.lines.append(line)
            if in_data:
                in_data = line != "."
                while in_data:
                    line = (await reader.readline()).decode().rstrip("\r\n")
                    self.lines.append(line)
                    in_data = line != "."
                writer.write(b"250 taken\r\n")
            elif line.upper() == "DATA":
                in_data = True
                writer.write(b"354 go on\r\n")
            elif line.upper() == "QUIT":
                writer.write(b"221 bye\r\n")
                break
            else:
                writer.write(b"250 fine\r\n")
        writer.close()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(5)


def test_mail_arrives_and_line_ends_in_a_text_add_no_header() -> None:
    sink = MailSink()
    settings = AlarmSettings(
        smtp_host="127.0.0.1", smtp_port=sink.port, smtp_starttls=False, smtp_to=("night@example.org",), deadline_s=5.0
    )
    MailChannel(settings).send(MESSAGE)
    sink.close()
    subjects = [line for line in sink.lines if line.startswith("Subject:")]
    assert "[nightbell critical] the dome" in subjects[0]
    assert not any(line.startswith("Bcc:") for line in sink.lines)


def test_a_channel_that_can_reach_nobody_is_a_mistake_in_the_settings() -> None:
    with pytest.raises(BadInput, match="no web address"):
        AlarmSettings(webhook="file:///etc/passwd")
    with pytest.raises(BadInput, match="mail would reach nobody"):
        AlarmSettings(smtp_host="h")


def test_channels_are_those_with_an_address(tmp_path: Path) -> None:
    assert [channel.name for channel in channels_of(AlarmSettings(), tmp_path)] == ["log"]
    with pytest.raises(Missing, match="cannot read"):
        channels_of(AlarmSettings(smtp_host="h", smtp_to=("a@example.org",), smtp_password_file="absent"), tmp_path)
    LogChannel().send(MESSAGE)
