"""Pages and commands, as a browser without JavaScript sees them."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from nightbell.console.app import STREAMS_MOST, WAITING_MOST
from nightbell.console.words import LogRow, Picture
from nightbell.contracts.commands import Abort, CalibrateNight, CloseDome, CloseNight, OpenNight

from .conftest import PASSWORD, Person
from .house import RunningConsole, refused, until

TEMPLATES = Path(__file__).resolve().parents[2] / "src/nightbell/console/templates"


def test_nothing_is_shown_to_a_stranger(person: Person) -> None:
    for path in ("/", "/events", "/plan", "/confirm/open"):
        answer = person.http.get(path)
        assert (answer.status_code, answer.headers["location"]) == (303, "/login")
    assert person.http.get("/live", headers={"Accept": "text/event-stream"}).status_code == 401
    assert person.http.post("/do/abort").headers["location"] == "/login?then=abort"


def test_tonight_shows_night_safety_weather_devices_plan_and_their_ages(person: Person) -> None:
    page = person.log_in().http.get("/").text
    for words in ("observing", "2027-04-12", "safe", "rain", "0.0 mm/h", "NGC4993 in r", "exposing", "SIMULATED", "night.changed"):
        assert words in page
    assert page.count('class="age"') > 8


def test_no_page_holds_an_inline_script_style_or_a_foreign_address(person: Person) -> None:
    for template in TEMPLATES.glob("*.html"):
        text = template.read_text(encoding="utf-8")
        assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|\sstyle=|<style", text), template.name
        assert not re.search(r"(src|href)=\"(https?:)?//", text), template.name
    answer = person.log_in().http.get("/")
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert answer.headers["cache-control"] == "no-store"


def test_what_strangers_wrote_is_shown_as_text(person: Person, console: RunningConsole) -> None:
    evil = "<script>alert(1)</script>{{7*7}}"
    console.house.telescope["reason"] = evil
    console.house.rows.append(LogRow(2, "2027-04-12T22:00:01Z", "alert.received", evil, evil))
    page = person.log_in().http.get("/").text
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "{{7*7}}" in page
    assert "the &lt;b&gt;seeing&lt;/b&gt; monitor" in page


def test_abort_goes_to_telescope_and_safety_at_the_same_time(person: Person, console: RunningConsole) -> None:
    person.log_in()
    console.house.slow_s = {"telescope": 1.0, "safety": 1.0}
    began = time.monotonic()
    answer = person.do("abort").json()
    assert time.monotonic() - began < 1.8, "one after the other"
    assert answer["ok"] is True
    assert {type(command) for command in console.house.asked} == {Abort, CloseDome}
    assert set(answer["answers"]) == {"telescope", "safety"}


def test_an_abort_is_on_its_way_within_milliseconds(person: Person, console: RunningConsole) -> None:
    person.log_in()
    took = []
    for _ in range(30):
        began = time.perf_counter()
        person.do("abort")
        took.append(time.perf_counter() - began)
    # Gate of the design: p50 15 ms; without TCP_NODELAY it is 44. A busy test machine gets twice the gate.
    assert sorted(took)[15] < 0.030


def test_a_silent_telescope_does_not_keep_abort_from_safety(person: Person, console: RunningConsole) -> None:
    person.log_in()
    console.house.slow_s = {"telescope": 4.0}
    answer = person.do("abort").json()
    assert answer["done"] is False
    assert answer["answers"]["safety"].startswith("done")
    assert answer["answers"]["telescope"] == "waiting for its answer"


def test_an_abort_goes_out_while_everything_else_hangs(person: Person, console: RunningConsole) -> None:
    person.log_in()
    console.house.slow_s = {"preprocessor": 30.0, "plan": 30.0}

    def hang(n: int) -> None:
        with contextlib.suppress(httpx.HTTPError):  # cut off when the console stops
            person.http.get("/plan") if n % 4 == 0 else person.do("calibrate", night="2027-04-12")

    for n in range(40):
        threading.Thread(target=hang, args=(n,), daemon=True).start()
    until(lambda: len(console.house.asked) == 30)
    began = time.monotonic()
    answer = person.do("abort").json()
    assert answer["done"] is True
    assert time.monotonic() - began < 1.5
    assert {type(command) for command in console.house.asked} > {Abort, CloseDome}
    stopping = time.monotonic()
    console.stop()
    assert time.monotonic() - stopping < 5, "nor does what hangs keep the process from ending"


def test_more_waiting_commands_than_anybody_means_are_refused_but_never_an_abort(person: Person, console: RunningConsole) -> None:
    person.log_in()
    console.house.slow_s = {"preprocessor": 30.0}
    with ThreadPoolExecutor(WAITING_MOST + 1) as pool:
        waiting = [pool.submit(person.do, "calibrate", night="2027-04-12") for _ in range(WAITING_MOST)]
        until(lambda: len(console.house.asked) == WAITING_MOST)
        refused_one = person.do("calibrate", night="2027-04-12")
        assert refused_one.status_code == 429
        assert "still waiting for their answers" in refused_one.json()["error"]
        assert person.do("abort").json()["ok"] is True
        assert {one.result().status_code for one in waiting} == {200}


def test_abort_and_close_are_on_every_page_as_plain_forms(person: Person) -> None:
    person.log_in()
    for path in ("/", "/events", "/plan", "/confirm/open", "/no/such/page", "/frame/x/raw.jpg"):
        page = person.http.get(path, headers={"Accept": "text/html"}).text
        assert 'action="/do/abort"' in page, path
        assert 'action="/do/close"' in page, path


def test_a_form_without_javascript_is_answered_by_a_page_that_shows_the_answer(person: Person, console: RunningConsole) -> None:
    person.log_in()
    console.house.refuse["telescope"] = refused("the night is day: nothing to close")
    answer = person.do("close", json=False)
    assert answer.status_code == 303
    page = person.http.get("/").text
    assert "the night is day: nothing to close" in page
    assert {type(command) for command in console.house.asked} == {CloseNight, CloseDome}


def test_an_abort_without_a_session_is_asked_again_after_the_log_in(person: Person, console: RunningConsole) -> None:
    console.users.add("maria", PASSWORD, "operator")
    person.http.post("/do/abort")
    assert "ABORT was not carried out" in person.http.get("/login?then=abort").text
    entered = person.http.post("/login", data={"name": "maria", "password": PASSWORD, "then": "abort"})
    assert entered.headers["location"] == "/confirm/abort"
    assert console.house.asked == []
    assert person.http.get("/confirm/abort").text.count('action="/do/abort"') == 2


@pytest.mark.parametrize("then", ["//evil.example", "https://evil.example", "../x", "nonsense"])
def test_the_log_in_leads_nowhere_else(person: Person, console: RunningConsole, then: str) -> None:
    console.users.add("maria", PASSWORD, "operator")
    entered = person.http.post("/login", data={"name": "maria", "password": PASSWORD, "then": then})
    assert entered.headers["location"] == "/"


def test_one_form_is_one_command_however_often_it_is_sent(person: Person, console: RunningConsole) -> None:
    person.log_in()
    for _ in range(3):
        assert person.do("prepare", command_id="0198c0de").json()["ok"] is True
    assert len(console.house.asked) == 1


def test_calibrate_sends_the_night_and_refuses_what_is_none(person: Person, console: RunningConsole) -> None:
    person.log_in("observer")
    assert person.do("calibrate", night="2027-04-12").json()["ok"] is True
    assert console.house.asked == [CalibrateNight(night="2027-04-12")]
    answer = person.do("calibrate", night="../../etc")
    assert answer.status_code == 400
    assert "is no night" in answer.json()["error"]


def test_opening_asks_first_shows_the_evidence_and_dies_with_the_state(person: Person, console: RunningConsole) -> None:
    person.log_in()
    straight = person.do("open")
    assert straight.headers["location"] == "/confirm/open"
    assert console.house.asked == []
    page = person.http.get("/confirm/open").text
    assert "rain" in page
    found = re.search(r'name="confirmation" value="([^"]+)"', page)
    assert found is not None
    console.house.safety["verdict"] = "unsafe"
    assert person.do("open", confirmation=found[1]).headers["location"] == "/confirm/open"
    console.house.safety["verdict"] = "safe"
    assert person.do("resume", confirmation=found[1]).headers["location"] == "/confirm/resume", "another verb's"
    assert person.do("open", confirmation=found[1]).json()["ok"] is True
    assert console.house.asked == [OpenNight()]


@pytest.mark.parametrize(
    ("role", "verb", "may"),
    [
        ("viewer", "abort", False),
        ("observer", "abort", True),
        ("observer", "prepare", False),
        ("operator", "prepare", True),
        ("admin", "prepare", True),
    ],
)
def test_roles(person: Person, console: RunningConsole, role: str, verb: str, may: bool) -> None:
    person.log_in(role)
    answer = person.do(verb)
    assert (answer.status_code == 200) is may
    assert bool(console.house.asked) is may
    assert console.house.audited[-1].answer.startswith("done" if may else "refused")


def test_every_command_is_audited_with_who_and_what_was_answered(person: Person, console: RunningConsole) -> None:
    person.log_in()
    person.do("abort", command_id="c1")
    until(lambda: sum(acted.command_id == "c1" for acted in console.house.audited) == 2)
    acted = [one for one in console.house.audited if one.command_id == "c1"]
    assert {(one.who, one.role, one.module) for one in acted} == {("operator", "operator", "telescope"), ("operator", "operator", "safety")}
    assert console.house.audited[0].verb == "log_in"
    assert not any(PASSWORD in str(one) for one in console.house.audited)


def test_what_is_older_than_its_limit_is_called_stale_without_javascript_too(person: Person, console: RunningConsole) -> None:
    person.log_in()
    console.house.safety["lease"] = {"holder": "telescope:3", "age_s": 25.0, "limit_s": 20.0}
    assert re.search(r'class="age stale"[^>]*>STALE 2\d s<', person.http.get("/").text)


def test_a_page_that_does_not_exist_is_named(person: Person) -> None:
    answer = person.log_in().http.get("/no/such<b>")
    assert answer.status_code == 404
    assert "There is no page /no/such&lt;b&gt;." in answer.text


@pytest.mark.parametrize(("here", "back"), [("/events", "/events"), ("https://evil.example/", "/"), ("//evil.example", "/"), ("", "/")])
def test_choosing_a_theme_leads_back_to_the_same_page_and_nowhere_else(person: Person, here: str, back: str) -> None:
    answer = person.log_in().http.post("/theme", data={"token": person.token, "theme": "red", "here": here})
    assert answer.headers["location"] == back
    assert 'data-theme="red"' in person.http.get("/events").text


def test_the_broker_being_away_is_said_and_changes_nothing_else(person: Person, console: RunningConsole) -> None:
    person.log_in()
    assert re.search(r'id="broker"[^>]* hidden>', person.http.get("/").text)
    console.house.broker = False
    assert not re.search(r'id="broker"[^>]* hidden>', person.http.get("/").text)
    assert person.do("abort").json()["ok"] is True


def test_a_plan_that_cannot_be_had_is_a_page_with_the_reason(person: Person, console: RunningConsole) -> None:
    person.log_in()
    assert "never above 25 deg" in person.http.get("/plan").text
    console.house.refuse["telescope"] = refused("no answer from telescope")
    answer = person.http.get("/plan")
    assert answer.status_code == 200
    assert "no answer from telescope" in answer.text


def test_events_are_filtered_by_type_and_text(person: Person, console: RunningConsole) -> None:
    console.house.rows.append(LogRow(2, "2027-04-12T22:00:01Z", "frames.stored", "n/b", "3 frames"))
    person.log_in()
    page = person.http.get("/events", params={"type": "frames."}).text
    assert "3 frames" in page
    assert "state ready" not in page


# -- pictures -----------------------------------------------------------------------------------------------------------


def write_frame(path: Path, pixels: object) -> None:
    from astropy.io import fits

    fits.PrimaryHDU(pixels).writeto(path)


def test_a_frame_is_shown_as_a_jpeg_and_cached_by_its_hash(person: Person, console: RunningConsole, tmp_path: Path) -> None:
    import numpy as np

    path = tmp_path / "frame.fits"
    write_frame(path, np.random.default_rng(1).integers(400, 700, (64, 96)).astype(np.uint16))
    console.house.frames["f1/raw"] = Picture("f1", "raw", str(path), "abc", "LIGHT NGC4993 r")
    person.log_in()
    answer = person.http.get("/frame/f1/raw.jpg")
    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.content[:2] == b"\xff\xd8"
    assert person.http.get("/frame/f1/raw.jpg", headers={"If-None-Match": answer.headers["etag"]}).status_code == 304
    assert "/frame/f1/raw.jpg" in person.http.get("/").text


def test_a_calibrated_frame_is_shown_beside_its_uncertainty_and_mask(person: Person, console: RunningConsole, tmp_path: Path) -> None:
    import numpy as np

    from nightbell.calibration.engine import Plane
    from nightbell.calibration.products import write_product

    data = np.random.default_rng(1).normal(600, 20, (64, 96)).astype(np.float32)
    data[3, 4] = np.nan
    plane = Plane(data, np.ones_like(data), np.zeros(data.shape, np.uint8))
    path = tmp_path / "product.fits"
    write_product(path, plane, "electron", (), (), part_name="p")
    console.house.frames["f1/calibrated"] = Picture("f1", "calibrated", str(path), "abc", "NGC4993 r done")
    answer = person.log_in().http.get("/frame/f1/calibrated.jpg")
    assert answer.headers.get("content-type") == "image/jpeg", answer.text
    assert "Last calibrated frame: NGC4993 r done" in person.http.get("/").text


@pytest.mark.parametrize("frame_id", ["..%2f..%2fetc%2fpasswd", "%2e%2e", "unknown", "f1%00", "C:%5cx"])
def test_only_frames_that_events_named_can_be_asked_for(person: Person, frame_id: str) -> None:
    assert person.log_in().http.get(f"/frame/{frame_id}/raw.jpg").status_code == 404


def test_a_broken_frame_costs_only_its_picture(person: Person, console: RunningConsole, tmp_path: Path) -> None:
    path = tmp_path / "half.fits"
    path.write_bytes(b"SIMPLE  =                    T" + b" " * 3000)
    console.house.frames["f1/raw"] = Picture("f1", "raw", str(path), "abc", "LIGHT")
    person.log_in()
    answer = person.http.get("/frame/f1/raw.jpg")
    assert answer.status_code == 404
    assert str(tmp_path) not in answer.text
    assert person.http.get("/").status_code == 200


# -- the stream ---------------------------------------------------------------------------------------------------------


class Listener:
    """Reads the stream in a thread."""

    def __init__(self, person: Person, **headers: str) -> None:
        self.lines: list[str] = []
        self.ended = threading.Event()
        self._client = httpx.Client(base_url=person.console.url, cookies=person.http.cookies, timeout=httpx.Timeout(5, read=30))
        self._headers = {"Accept": "text/event-stream", **headers}
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        try:
            with self._client, self._client.stream("GET", "/live", headers=self._headers) as answer:
                for line in answer.iter_lines():
                    self.lines.append(line)
        except httpx.HTTPError:
            pass
        finally:
            self.ended.set()

    def text(self) -> str:
        return "\n".join(self.lines)


def listen(person: Person, **headers: str) -> Listener:
    listener = Listener(person, **headers)
    until(lambda: "event: ping" in listener.text())
    return listener


def test_an_event_reaches_the_browser_as_a_row_and_a_tile_whole(person: Person, console: RunningConsole) -> None:
    listener = listen(person.log_in())
    console.console.tell_log(LogRow(7, "2027-04-12T22:00:01Z", "frames.stored", "n/b", "3 frames"))
    console.console.tell_tiles(("night",))
    until(lambda: "3 frames" in listener.text() and "event: tile" in listener.text())
    assert "id: 7" in listener.text()


def test_a_browser_that_comes_back_gets_what_it_missed(person: Person, console: RunningConsole) -> None:
    listen(person.log_in())
    for seq in (7, 8, 9):
        console.console.tell_log(LogRow(seq, "2027-04-12T22:00:01Z", "frames.stored", "n/b", f"batch {seq}"))
    again = Listener(person, **{"Last-Event-ID": "7"})
    until(lambda: "batch 9" in again.text())
    assert "batch 8" in again.text()
    assert "batch 7" not in again.text()


def test_one_session_cannot_take_all_streams(person: Person, console: RunningConsole) -> None:
    person.log_in()
    listeners = [listen(person) for _ in range(STREAMS_MOST)]
    assert person.http.get("/live").status_code == 429
    other = Person(console).log_in("viewer")
    listen(other)
    other.http.close()
    assert not any(one.ended.is_set() for one in listeners)


def test_logging_out_ends_the_stream_within_two_seconds(person: Person, console: RunningConsole) -> None:
    listener = listen(person.log_in())
    assert person.http.post("/logout", data={"token": person.token}).status_code == 303
    assert listener.ended.wait(3)
    assert person.http.get("/").status_code == 303


def test_the_server_stops_while_streams_are_open(person: Person, console: RunningConsole) -> None:
    listener = listen(person.log_in())
    began = time.monotonic()
    console.stop()
    assert time.monotonic() - began < 4
    assert listener.ended.wait(2)
