"""`nightbell console`: accounts and links from the console's host."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from nightbell.cli import nightbell
from nightbell.console.users import Users

CONF = str(Path(__file__).resolve().parents[2] / "conf/demo")
PASSWORD = "a quiet night at La Silla"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NIGHTBELL_HOME", str(tmp_path))
    runner = CliRunner()
    return lambda *words, given=None: runner.invoke(nightbell, ["console", *words, "--conf", CONF], input=given)


def test_a_user_is_added_with_a_password_from_standard_input(run, tmp_path: Path) -> None:
    assert run("user", "add", "maria", "--role", "observer", given=f"{PASSWORD}\n").exit_code == 0
    assert json.loads(run("user", "list", "--json").stdout) == {"users": [{"name": "maria", "role": "observer"}]}
    assert Users(tmp_path / "console/users.sqlite").log_in("maria", PASSWORD)


def test_a_short_password_is_refused_with_the_remedy(run) -> None:
    answer = run("user", "add", "maria", given="short\n")
    assert answer.exit_code == 2
    assert "shorter than 12 characters" in answer.stderr


def test_a_user_is_removed_and_an_unknown_one_is_said(run) -> None:
    run("user", "add", "maria", given=f"{PASSWORD}\n")
    assert run("user", "remove", "maria").exit_code == 0
    assert run("user", "remove", "maria").exit_code == 2


def test_a_link_needs_a_console_that_has_run_and_enters_once(run, tmp_path: Path) -> None:
    assert run("link").exit_code == 1
    (tmp_path / "console/address.txt").write_text("http://127.0.0.1:8480\n")
    url = json.loads(run("link", "--json", "--role", "viewer").stdout)["url"]
    assert url.startswith("http://127.0.0.1:8480/enter/")
    assert Users(tmp_path / "console/users.sqlite").link_holds(url.rsplit("/", 1)[1])
