"""Attacks on the page; each must fail."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from nightbell.console.settings import ConsoleSettings
from nightbell.console.users import Users
from nightbell.contracts.errors import BadInput, Refused

from .conftest import PASSWORD, Person
from .house import RunningConsole, until


def raw(console: RunningConsole, request: bytes) -> bytes:
    host, port = console.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(request)
        got = b""
        while b"\r\n\r\n" not in got and (more := connection.recv(65536)):
            got += more
        return got


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1", "127.0.0.1:1"])
def test_another_host_name_gets_nothing(person: Person, host: str) -> None:
    person.log_in()
    assert person.http.get("/", headers={"Host": host}).status_code == 421


def test_two_host_headers_get_nothing(console: RunningConsole) -> None:
    host = console.url.removeprefix("http://").encode()
    answer = raw(console, b"GET /login HTTP/1.1\r\nHost: " + host + b"\r\nHost: evil.example\r\n\r\n")
    assert answer.split(b" ")[1] in (b"400", b"421")


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
        {"Sec-Fetch-Site": "", "Origin": "null"},
        {"Sec-Fetch-Site": "", "Origin": "http://evil.example"},
        {"Sec-Fetch-Site": ""},
    ],
)
def test_a_post_from_elsewhere_does_nothing(person: Person, console: RunningConsole, headers: dict[str, str]) -> None:
    person.log_in()
    del person.http.headers["Sec-Fetch-Site"]
    sent = {name: value for name, value in headers.items() if value}
    assert person.http.post("/do/abort", data={"token": person.token}, headers=sent).status_code == 403
    assert console.house.asked == []


def test_an_old_browser_with_the_right_origin_may(person: Person, console: RunningConsole) -> None:
    person.log_in()
    del person.http.headers["Sec-Fetch-Site"]
    headers = {"Origin": console.url, "Accept": "application/json"}
    assert person.http.post("/do/abort", data={"token": person.token}, headers=headers).json()["ok"] is True


def test_a_post_without_its_token_or_with_anothers_does_nothing(person: Person, console: RunningConsole) -> None:
    other = Person(console).log_in("admin")
    person.log_in()
    for token in ("", other.token, "\u00e9"):
        assert person.http.post("/do/abort", data={"token": token}).status_code == 403
    other.http.close()
    assert console.house.asked == []
    assert console.house.audited[-1].answer == "refused: wrong token"


def test_a_wrong_password_is_refused_in_the_same_words_as_an_unknown_name(console: RunningConsole) -> None:
    console.users.add("maria", PASSWORD, "operator")
    with httpx.Client(base_url=console.url, headers={"Sec-Fetch-Site": "same-origin"}) as http:
        wrong = http.post("/login", data={"name": "maria", "password": "wrong"})
        unknown = http.post("/login", data={"name": "nobody", "password": "wrong"})
    assert (wrong.status_code, unknown.status_code) == (403, 403)
    assert wrong.text == unknown.text
    assert [acted.answer[:7] for acted in console.house.audited] == ["refused", "refused"]


def test_many_failures_slow_the_next_try_but_the_right_password_still_enters(console: RunningConsole) -> None:
    console.users.add("maria", PASSWORD, "operator")
    with httpx.Client(base_url=console.url, headers={"Sec-Fetch-Site": "same-origin"}, timeout=30) as http:
        for _ in range(6):
            http.post("/login", data={"name": "maria", "password": "wrong"})
        assert http.post("/login", data={"name": "maria", "password": PASSWORD}).status_code == 303


def test_a_flood_of_log_ins_is_turned_away_and_delays_nobody_who_is_logged_in(person: Person, console: RunningConsole) -> None:
    person.log_in()
    with ThreadPoolExecutor(30) as pool:

        def guess(n: int) -> int:
            with httpx.Client(base_url=console.url, headers={"Sec-Fetch-Site": "same-origin"}, timeout=60) as stranger:
                return stranger.post("/login", data={"name": f"n{n}", "password": "wrong"}).status_code

        flood = [pool.submit(guess, n) for n in range(30)]
        until(lambda: len(console.house.audited) > 1, 30)
        assert person.do("abort").json()["done"] is True
        assert not all(one.done() for one in flood), "the flood was still on"
        statuses = {one.result() for one in flood}
    assert statuses == {403, 429}


@pytest.mark.parametrize("method", ["PUT", "DELETE", "TRACE", "OPTIONS", "PATCH"])
def test_other_methods_are_refused(person: Person, method: str) -> None:
    assert person.log_in().http.request(method, "/").status_code == 405


def test_large_bodies_are_refused_before_they_are_read(console: RunningConsole) -> None:
    host = console.url.removeprefix("http://").encode()
    head = b"POST /login HTTP/1.1\r\nHost: " + host + b"\r\nSec-Fetch-Site: same-origin\r\nContent-Length: 2147483648\r\n\r\n"
    assert raw(console, head).split(b" ")[1] == b"413"


def test_a_chunked_body_without_an_end_is_cut(console: RunningConsole) -> None:
    host = console.url.removeprefix("http://").encode()
    head = (
        b"POST /login HTTP/1.1\r\nHost: " + host + b"\r\nSec-Fetch-Site: same-origin\r\n"
        b"Content-Type: application/x-www-form-urlencoded\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    chunks = b"".join(b"4000\r\n" + b"a" * 0x4000 + b"\r\n" for _ in range(6))
    assert raw(console, head + chunks).split(b" ")[1] == b"413"


FORM = "application/x-www-form-urlencoded"


NO_FORMS = (
    (b"&".join(b"a%d=" % n for n in range(9000)), FORM),
    (b"name=\xff\xfe&password=%ff%fe%00", FORM),
    (b"name=%ed%a0%80&password=x", FORM),
    (b"{}", "application/json"),
    (b"--x\r\nfoo", "multipart/form-data; boundary=x"),
    (b"--x\r\nfoo", "multipart/form-data"),
)


def test_a_body_that_is_no_form_is_refused_and_breaks_nothing(person: Person, console: RunningConsole) -> None:
    person.log_in()
    for content, kind in NO_FORMS:
        answer = person.http.post("/do/abort", content=content, headers={"Content-Type": kind})
        assert answer.status_code in (400, 403), (content[:40], kind)
    for content, kind in NO_FORMS[:3]:
        assert person.http.post("/login", content=content, headers={"Content-Type": kind}).status_code in (400, 403), content[:40]
    assert console.house.asked == []


def test_an_exception_shows_neither_traceback_nor_path(person: Person, console: RunningConsole, caplog: pytest.LogCaptureFixture) -> None:
    person.log_in()

    def broken() -> None:
        raise RuntimeError("/secret/path")

    console.house.plan = broken  # type: ignore[assignment]
    answer = person.http.get("/plan")
    assert answer.status_code == 500
    assert "/secret/path" not in answer.text
    assert "Traceback" not in answer.text


# -- one-time links and accounts ----------------------------------------------------------------------------------------


def test_a_one_time_link_enters_once(console: RunningConsole, person: Person) -> None:
    link = f"/enter/{console.users.make_link()}"
    assert person.http.get(link).status_code == 200
    assert person.http.get(link).status_code == 200, "looking does not use it up"
    fields = {"secret": link.rsplit("/", 1)[1], "name": "admin", "password": ""}
    assert person.http.post("/enter", data=fields).status_code == 303
    assert "admin, admin" in person.http.get("/").text
    assert person.http.post("/enter", data=fields).status_code == 403


def test_a_short_password_does_not_use_the_link_up(tmp_path: Path) -> None:
    users = Users(tmp_path / "users.sqlite")
    secret = users.make_link()
    with pytest.raises(BadInput, match="shorter than 12"):
        users.enter_by_link(secret, "admin", "short")
    users.enter_by_link(secret, "admin", PASSWORD)
    assert users.accounts() == [("admin", "admin")]
    with pytest.raises(Refused):
        users.enter_by_link(secret, "admin", PASSWORD)


def test_a_link_does_not_hold_for_ever(tmp_path: Path) -> None:
    users = Users(tmp_path / "users.sqlite", link_s=-1.0)
    with pytest.raises(Refused, match="too old"):
        users.enter_by_link(users.make_link(), "admin", PASSWORD)


def test_neither_session_nor_link_nor_password_stands_in_the_file(tmp_path: Path) -> None:
    users = Users(tmp_path / "users.sqlite")
    users.add("maria", PASSWORD, "operator")
    secrets = (users.log_in("maria", PASSWORD), users.make_link(), PASSWORD)
    content = (tmp_path / "users.sqlite").read_bytes()
    assert not any(secret.encode() in content for secret in secrets)


def test_sessions_end_by_idleness_and_by_a_new_password(tmp_path: Path) -> None:
    users = Users(tmp_path / "users.sqlite")
    users.add("maria", PASSWORD, "operator")
    secret = users.log_in("maria", PASSWORD)
    assert users.session(secret) is not None
    assert Users(tmp_path / "users.sqlite", idle_s=0.0).session(secret) is None
    users.add("maria", PASSWORD + "!", "viewer")
    assert users.session(secret) is None


@pytest.mark.parametrize(
    ("name", "password", "role"), [("a b", PASSWORD, "admin"), ("a", "aaaaaaaaaaaaaaa", "admin"), ("a", PASSWORD, "king")]
)
def test_poor_accounts_are_refused(tmp_path: Path, name: str, password: str, role: str) -> None:
    with pytest.raises(BadInput):
        Users(tmp_path / "users.sqlite").add(name, password, role)


def test_a_console_open_to_the_network_without_tls_is_a_mistake() -> None:
    with pytest.raises(BadInput, match="reachable from the network"):
        ConsoleSettings(host="0.0.0.0")
    assert ConsoleSettings(host="0.0.0.0", behind_proxy=True).behind_proxy
    assert ConsoleSettings(host="::1").port == 8480
