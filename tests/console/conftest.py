"""A running console, and a browser without a screen: cookies, forms, tokens."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from .house import RunningConsole

PASSWORD = "a quiet night at La Silla"


class Person:
    """Somebody with a browser that knows no JavaScript."""

    def __init__(self, console: RunningConsole) -> None:
        self.console = console
        self.http = httpx.Client(base_url=console.url, headers={"Sec-Fetch-Site": "same-origin"}, timeout=15)
        self.token = ""

    def log_in(self, role: str = "operator", name: str = "") -> Person:
        name = name or role
        self.console.users.add(name, PASSWORD, role)
        answer = self.http.post("/login", data={"name": name, "password": PASSWORD})
        assert answer.status_code == 303, answer.text
        page = self.http.get("/")
        found = re.search(r'name="token" value="([0-9a-f]{64})"', page.text)
        assert found is not None
        self.token = found[1]
        return self

    def do(self, verb: str, *, json: bool = True, **fields: Any) -> httpx.Response:
        headers = {"Accept": "application/json"} if json else {}
        return self.http.post(f"/do/{verb}", data={"token": self.token, **fields}, headers=headers)


@pytest.fixture
def console(tmp_path: Path) -> Iterator[RunningConsole]:
    running = RunningConsole(tmp_path)
    yield running
    running.stop()


@pytest.fixture
def person(console: RunningConsole) -> Iterator[Person]:
    made = Person(console)
    yield made
    made.http.close()
