"""With keys in force, who has one speaks, and who has none hears why not."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zmq

from nightbell.bus import keys
from nightbell.bus.client import set_client_options
from nightbell.bus.script import connect
from nightbell.contracts.errors import Refused
from nightbell.settings import Installation

from .small_site import Counter, alarm, living, make_site, running_broker, wait_until


@pytest.fixture
def site(tmp_path: Path) -> Installation:
    installation = make_site(tmp_path / "conf", keys="keys")
    for name in ("broker-observatory", "counter", "script"):
        keys.make_pair(tmp_path / "conf" / "keys", name)
    return installation


def door_lock(site: Installation) -> Callable[[Any], None]:
    return lambda sock: keys.server_options(sock, site, "broker-observatory")


def test_modules_and_scripts_with_keys_speak_to_a_broker_with_keys(site: Installation) -> None:
    with running_broker(site, curve=door_lock(site)), living(Counter(site)) as counter, connect(site.folder) as script:
        script.publish(alarm(1), "test")
        wait_until(lambda: counter.state().effects == 1, "the alarm counted")
        assert script.ask("counter", "status", timeout_s=5)["module"] == "counter"


def test_a_key_is_let_in_and_revoked_while_the_broker_runs(site: Installation) -> None:
    trusted = keys.keys_folder(site) / "authorized" / "script.key"
    revoked = trusted.with_suffix(".revoked")
    with running_broker(site, curve=door_lock(site)):
        with connect(site.folder) as script:
            assert script.status()["broker"] == "observatory"
        trusted.rename(revoked)
        with pytest.raises(Refused, match=r"does not know this key.*nightbell keys trust"), connect(site.folder) as script:
            script.status()
        revoked.rename(trusted)
        with connect(site.folder) as script:
            assert script.status()["broker"] == "observatory"


def test_a_module_whose_key_nobody_knows_says_so_and_comes_in_when_it_is_trusted(site: Installation) -> None:
    trusted = keys.keys_folder(site) / "authorized" / "counter.key"
    revoked = trusted.with_suffix(".revoked")
    trusted.rename(revoked)
    with running_broker(site, curve=door_lock(site)), living(Counter(site)) as counter, connect(site.folder) as script:
        wait_until(
            lambda: "does not know this key" in script.ask("counter", "status", timeout_s=5)["broker_refuses"], "the refusal in its status"
        )
        revoked.rename(trusted)
        wait_until(lambda: counter.connected, "a session")
        assert script.ask("counter", "status", timeout_s=5)["broker_refuses"] == ""


def test_a_wrong_key_of_the_broker_is_told_apart_from_silence(site: Installation, tmp_path: Path) -> None:
    other = keys.make_pair(tmp_path / "elsewhere", "broker-observatory").with_suffix(".key")
    with running_broker(site, curve=door_lock(site)):
        shutil.copyfile(other, keys.keys_folder(site) / "broker-observatory.key")
        with pytest.raises(Refused, match="breaks off the handshake"), connect(site.folder) as script:
            script.status()


def test_keys_on_one_side_only_are_told(site: Installation) -> None:
    with running_broker(site, curve=door_lock(site)):
        text = (site.folder / "observatory.toml").read_text(encoding="utf-8")
        (site.folder / "observatory.toml").write_text(text.replace('keys = "keys"', 'keys = ""'), encoding="utf-8")
        with pytest.raises(Refused, match="wants keys and this side has none"), connect(site.folder) as script:
            script.status()


def test_a_file_that_is_no_key_neither_lets_in_nor_keeps_out(site: Installation) -> None:
    (keys.keys_folder(site) / "authorized" / "a-half.key").write_text("curve\n    public-key = ", encoding="ascii")
    with running_broker(site, curve=door_lock(site)), connect(site.folder) as script:
        assert script.status()["broker"] == "observatory"


def test_without_a_key_there_is_no_session_either(site: Installation) -> None:
    with running_broker(site, curve=door_lock(site)) as broker:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
        with context.socket(zmq.DEALER) as sock:
            set_client_options(sock)
            sock.setsockopt(zmq.IMMEDIATE, 0)
            sock.connect(broker.broker.door)
            sock.send_multipart([b"NB1", b"INFO", b"{}"])
            assert not sock.poll(1000)


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    keys.make_pair(tmp_path, "telescope")
    before = (tmp_path / "telescope.key_secret").read_bytes()
    with pytest.raises(Refused, match="there is a key"):
        keys.make_pair(tmp_path, "telescope")
    assert (tmp_path / "telescope.key_secret").read_bytes() == before


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps access lists, not modes")
def test_a_secret_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = keys.make_pair(tmp_path, "telescope")
    assert path.stat().st_mode & 0o077 == 0
    path.chmod(0o644)
    with pytest.raises(Refused, match="others can read"):
        keys.read_secret(tmp_path, "telescope")
