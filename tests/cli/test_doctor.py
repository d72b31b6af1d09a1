"""`nightbell doctor` and `nightbell config check`: each finding with what to do about it, and all of them at once."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path

import pytest
from click.testing import CliRunner

from nightbell.bus.keys import make_pair
from nightbell.cli import nightbell as command

ROOT = Path(__file__).resolve().parents[2]


def doctor(*words: str) -> tuple[int, dict[str, dict[str, str]]]:
    done = CliRunner().invoke(command, ["doctor", "--json", *words])
    answer = json.loads(done.stdout)
    assert answer["ok"] == (done.exit_code == 0)
    return done.exit_code, {one["what"]: one for one in answer["findings"]}


def check(folder: Path) -> tuple[int, list[dict[str, str]]]:
    done = CliRunner().invoke(command, ["config", "check", str(folder), "--json"])
    answer = json.loads(done.stdout)
    return done.exit_code, answer["error"]["mistakes"] if done.exit_code else []


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    """A copy of the example installation to break."""
    return shutil.copytree(ROOT / "conf" / "demo", tmp_path / "demo", ignore=shutil.ignore_patterns("state"))


# -- doctor ------------------------------------------------------------------------------------------------------------


def test_a_running_installation_is_well(small_installation):
    small_installation.start("broker:observatory")
    code, found = doctor("--conf", str(small_installation.conf))
    assert code == 0
    assert found["broker observatory"]["state"] == "ok"
    assert {"Python", "libzmq", "clock", "astropy stays offline", "settings", "state folder", "disk", "free disk", "keys"} <= set(found)


def test_every_finding_that_is_not_well_says_what_to_do(small_installation):
    code, found = doctor("--conf", str(small_installation.conf))
    assert code == 0
    assert found["broker observatory"]["state"] == "warn"
    assert "nightbell run broker:observatory" in found["broker observatory"]["remedy"]
    assert all(one["remedy"] for one in found.values() if one["state"] != "ok")
    assert all(one["state"] in {"ok", "warn", "bad"} for one in found.values())


def test_a_stranger_on_a_port_is_bad(small_installation):
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", int(small_installation.feed.rpartition(":")[2])))
        stranger.listen()
        code, found = doctor("--conf", str(small_installation.conf))
    assert code == 1
    assert found["broker observatory"]["state"] == "bad"
    assert small_installation.feed in found["broker observatory"]["found"]


def test_a_stranger_on_the_consoles_port_is_bad(small_installation):
    small_installation.configure(["console"])
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        port = stranger.getsockname()[1]
        (small_installation.conf / "modules" / "console.toml").write_text(f"port = {port}\n", encoding="utf-8")
        code, found = doctor("--conf", str(small_installation.conf))
    assert code == 1
    assert f"{port} is taken by another program" in found["port of console"]["found"]


def test_a_state_folder_that_cannot_be_written_is_bad(small_installation):
    small_installation.home.write_text("a file where a folder should be", encoding="utf-8")
    code, found = doctor("--conf", str(small_installation.conf))
    assert code == 1
    assert found["state folder"]["state"] == "bad"


def test_missing_and_readable_keys_are_bad(small_installation):
    small_installation.configure(["broker:observatory", "archive"], keys="keys")
    keys = small_installation.conf / "keys"
    make_pair(keys, "archive").chmod(0o644)
    code, found = doctor("--conf", str(small_installation.conf))
    assert code == 1
    assert found["key of broker-observatory"]["state"] == "bad"
    assert "others can read" in found["key of archive"]["found"]


def test_without_an_installation_the_machine_alone_is_checked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NIGHTBELL_CONF", raising=False)
    code, found = doctor()
    assert code == 0
    assert found["installation"]["state"] == "warn"


def test_with_everything_broken_it_still_ends_in_a_table(small_installation):
    (small_installation.conf / "observatory.toml").write_text("run = [", encoding="utf-8")
    (small_installation.conf / "modules" / "archve.toml").write_text("", encoding="utf-8")
    done = CliRunner().invoke(command, ["doctor", "--conf", str(small_installation.conf)])
    assert done.exit_code == 1
    assert done.stdout.count("BAD") == 2
    assert "archive.toml" in done.stdout
    assert " checks: 2 bad, " in done.stdout


# -- config check ------------------------------------------------------------------------------------------------------


def test_the_example_installation_has_no_mistakes(demo):
    assert check(demo) == (0, [])


def test_mistakes_in_different_files_are_told_together_each_with_its_place(demo):
    observatory = demo / "observatory.toml"
    text = observatory.read_text(encoding="utf-8")
    text = text.replace("latitude_deg = -29.2567", "latitude_deg = -129.2567").replace('"transients"', '"transiens"')
    observatory.write_text(text, encoding="utf-8")
    with (demo / "modules" / "archive.toml").open("a", encoding="utf-8") as file:
        file.write("\nretry_seconds = 5.0\n")
    (demo / "modules" / "telescop.toml").write_text("", encoding="utf-8")
    code, mistakes = check(demo)
    assert code == 2
    places = [one["where"] for one in mistakes]
    assert len(mistakes) == 4
    assert any("site.latitude_deg" in place for place in places)
    assert any(place.endswith("observatory.toml: run") for place in places)
    assert any("archive.toml: retry_seconds" in place for place in places)
    assert any("telescop.toml" in place for place in places)
    remedies = " ".join(one["remedy"] for one in mistakes)
    assert "transients" in remedies
    assert "retry_s" in remedies
    assert "telescope.toml" in remedies


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ('feed = "tcp://127.0.0.1:8462"', 'feed = "tcp://127.0.0.1:8461"', "brokers.observatory.feed"),
        ('door = "tcp://127.0.0.1:8461"', 'door = "127.0.0.1:8461"', "brokers.observatory.door"),
        ('url = "http://127.0.0.1:11111/sim/clock"', "", "clock.url"),
        ('url = "http://127.0.0.1:11111/sim/clock"', 'url = "127.0.0.1:11111"', "clock.url"),
        ('settings = "observatory"', 'settings = "observatry"', "brokers.observatory.settings"),
        ('"archive", "relay"', '"relay", "relay"', "run"),
    ],
)
def test_what_is_wrong_only_together_is_found(demo, old, new, named):
    observatory = demo / "observatory.toml"
    text = observatory.read_text(encoding="utf-8")
    assert old in text
    observatory.write_text(text.replace(old, new, 1), encoding="utf-8")
    code, mistakes = check(demo)
    assert code == 2
    assert [one["where"].rpartition(": ")[2] for one in mistakes] == [named]


def test_a_file_that_is_no_toml_hides_no_other(demo):
    (demo / "observatory.toml").write_text("run = [", encoding="utf-8")
    (demo / "modules" / "archive.toml").write_text('broker = "observatory"\nstore = 5\n', encoding="utf-8")
    code, mistakes = check(demo)
    assert code == 2
    assert [Path(one["where"].partition(":")[0]).name for one in mistakes] == ["observatory.toml", "archive.toml"]


def test_a_module_that_talks_to_no_broker_of_ours_is_told_the_nearest(demo):
    path = demo / "modules" / "archive.toml"
    path.write_text(path.read_text(encoding="utf-8").replace('"observatory"', '"observatry"'), encoding="utf-8")
    code, mistakes = check(demo)
    assert code == 2
    assert [one["remedy"] for one in mistakes] == ["Did you mean observatory?"]


@pytest.mark.parametrize(
    ("file", "old", "new", "key", "near"),
    [
        ("alerts", '"galaxies.csv"', '"galaxiez.csv"', "catalog", "galaxies.csv"),
        ("alerts", '"policy.toml"', '"polcy.toml"', "policy", "policy.toml"),
        ("alerts", 'credentials_file = ""', 'credentials_file = "gcn.toml"', "kafka.credentials_file", "looked for in"),
        ("relay", '"alert-site"', '"alert-sitte"', "source", "alert-site"),
    ],
)
def test_a_file_or_broker_that_is_named_and_not_there_is_a_mistake(demo, file, old, new, key, near):
    path = demo / "modules" / f"{file}.toml"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    code, mistakes = check(demo)
    assert code == 2
    assert [one["where"].rpartition(": ")[2] for one in mistakes] == [key]
    assert near in mistakes[0]["remedy"]


def test_each_mistake_says_the_value_what_is_allowed_and_in_which_unit(demo):
    path = demo / "modules" / "telescope.toml"
    text = path.read_text(encoding="utf-8")
    for old, new in (("radius_m = 2.25", 'radius_m = "wide"'), ("n_biases = 5", "n_biases = 5000"), ("idle_limit_s", "idle_limt_s")):
        text = text.replace(old, new, 1)
    path.write_text(text, encoding="utf-8")
    done = CliRunner().invoke(command, ["config", "check", str(demo)])
    assert done.exit_code == 2
    assert done.stderr.splitlines() == [
        "nightbell: 3 mistakes",
        f"  {path}: dome.radius_m: 'wide' is text, not a number. Allowed: a number, 0.5 to 50 m. Radius of the dome",
        f"  {path}: calibration.n_biases: 5000 is outside 0 to 500. Allowed: a whole number, 0 to 500. Biases per night",
        f"  {path}: night.idle_limt_s: there is no such setting. Did you mean idle_limit_s?",
    ]


def test_up_starts_nothing_of_an_installation_with_mistakes(demo):
    path = demo / "modules" / "console.toml"
    path.write_text(path.read_text(encoding="utf-8") + "\nprot = 1\n", encoding="utf-8")
    done = CliRunner().invoke(command, ["up", "--conf", str(demo), "--only", "broker:observatory"])
    assert done.exit_code == 2
    assert "prot: there is no such setting. Did you mean port?" in done.stderr
    assert not (demo / "state").exists()


def test_up_knows_the_names_it_is_given_before_it_starts_the_first(demo):
    done = CliRunner().invoke(command, ["up", "--conf", str(demo), "--only", "broker:observatory,telscope"])
    assert done.exit_code == 2
    assert "--only: 'telscope' is no process. Did you mean telescope?" in done.stderr
    assert not (demo / "state").exists()


def test_what_is_in_force_is_shown_key_by_key_with_unit_and_meaning(demo):
    done = CliRunner().invoke(command, ["config", "show", "telescope", "--conf", str(demo)])
    assert done.exit_code == 0
    lines = {line.split()[0]: line.split(maxsplit=1)[1] for line in done.stdout.splitlines() if line[0] != " "}
    assert lines["dome.radius_m"].split() == ["2.25", "m", "Radius", "of", "the", "dome"]
    assert lines["lights.filters"].startswith('["g", "r"]')
    assert lines["devices.dome.driver"].startswith('"alpaca"')
    assert "{" not in done.stdout
    told = json.loads(CliRunner().invoke(command, ["config", "show", "telescope", "--conf", str(demo), "--json"]).stdout)
    assert told["dome"]["radius_m"] == 2.25


def test_without_a_folder_it_says_how_to_name_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NIGHTBELL_CONF", raising=False)
    done = CliRunner().invoke(command, ["config", "check"])
    assert done.exit_code == 2
    assert "NIGHTBELL_CONF" in done.stderr
