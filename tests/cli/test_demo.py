"""The demo's own judgement: what is missing, what was lost, what happened twice, and how it is told."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import shutil
import sqlite3
import types
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from nightbell.bus.outbox import OUTBOX_SCHEMA
from nightbell.bus.tuning import load_tuning
from nightbell.cli.demo import _summary, demo
from nightbell.cli.demo_audit import Carried, Sent, audit, read_outbox
from nightbell.cli.demo_night import HOST, Wishes, make_installation, place_beside, still_missing
from nightbell.cli.demo_show import Lines, Picture, in_words
from nightbell.cli.output import typed
from nightbell.cli.story import Story
from nightbell.contracts.errors import Refused, shell_word
from nightbell.contracts.events import CalibrationDone, FramesStored
from nightbell.settings import load_installation
from nightbell.simulator.settings import SimulatorSettings
from nightbell.transients.hosts import separation_arcsec

from . import nights


@pytest.fixture(scope="module")
def tell(tmp_path_factory) -> nights.Teller:
    return nights.telling(tmp_path_factory.mktemp("night"))


@pytest.fixture
def told(tell):
    """The night's events whose files exist."""
    return [one for one in tell.told if not getattr(one.event, "masters", ())]


def without(told, *types):
    return [one for one in told if one.type not in types]


def missing_of(told, **more) -> list[str]:
    return still_missing(Story(told, site=nights.SITE, injected=nights.NEW), **more)


# -- what is missing ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("types", "says"),
    [
        (("alert.received",), "the alert was not read"),
        (("targets.ready",), "no targets were ranked"),
        (("plan.ready",), "no plan holds the targets"),
        (("observation.done", "observation.failed"), "not observed: NGC4993 r, IC4197 r, NGC4970 r"),
        (("calibration.done",), "not calibrated: 4 of 4 lights"),
        (("transients.found",), "not searched: ic4197, ngc4993"),
        (("transients.found",), "the transient was not found: there is no candidate"),
    ],
)
def test_each_link_of_the_chain_is_named_when_it_is_missing(told, types, says):
    assert says in missing_of(without(told, *types))


def test_a_visit_that_failed_and_was_not_planned_again_is_not_waited_for(tell):
    plan = next(one for one in tell.told if one.type == "plan.ready")
    emptied = dataclasses.replace(plan, id="another", seq=999, event=type(plan.event)(**{**fields(plan.event), "revision": 2, "items": ()}))
    assert not [one for one in missing_of([*tell.told, emptied]) if one.startswith("not observed")]
    assert [one for one in missing_of(tell.told) if one.startswith("not observed: NGC4970")]


def test_frames_without_a_verified_copy_are_missing_where_an_archive_runs(told):
    assert "not archived: 7 of 7 frames" in missing_of(told, archive=True)
    assert not [one for one in missing_of(told) if "archived" in one]


def test_a_transient_found_elsewhere_is_not_the_one(told):
    story = Story(told, site=nights.SITE, injected=(nights.NEW[0], nights.NEW[1] + 10 / 3600))
    assert "the transient was not found: the nearest candidate is 9.7 arcsec off" in still_missing(story)


def fields(event):
    return {name: getattr(event, name) for name in event.__struct_fields__}


# -- lost and twice -----------------------------------------------------------------------------------------------------


def journals(told):
    return {name: [one for one in told if one.broker == name] for name in ("observatory", "alert-site")}


def sent(told):
    return [Sent("telescope", one.broker, one.id) for one in told]


def test_a_sound_night_has_nothing_lost_and_nothing_twice(told):
    found = audit(journals(told), sent(told))
    assert found.lost == ()
    assert found.duplicates == ()
    assert found.checked["events in outboxes"] == len(told)
    assert found.checked["frames and products on disk, by hash"] == 11


def test_an_event_that_did_not_reach_the_journal_is_lost(told):
    found = audit(journals(told[:-1]), sent(told))
    assert len(found.lost) == 1
    assert told[-1].id in found.lost[0]


def test_an_event_that_the_broker_refused_is_lost(told):
    refused = Sent("alerts", "alert-site", "some-id", refused="schema: no such type")
    assert audit(journals(told), [refused]).lost == ("alerts: event some-id was refused by alert-site: schema: no such type",)


def test_an_id_that_stands_twice_in_a_journal_is_a_duplicate(told):
    found = audit({"observatory": [*told, told[3]]}, [])
    assert any(told[3].id in one for one in found.duplicates)


def test_what_a_relay_did_not_carry_is_lost(told):
    relay = [Carried("alert-site", "observatory", ("targets.*",))]
    found = audit(journals(told), [], carried=relay)
    assert len(found.lost) == 1
    assert found.lost[0].startswith("targets.ready")
    carried = [dataclasses.replace(one, broker="observatory") for one in told if one.type == "targets.ready"]
    assert audit(journals([*told, *carried]), [], carried=relay).lost == ()


def test_an_effect_that_was_repeated_under_a_new_id_is_a_duplicate(told):
    stored = next(one for one in told if isinstance(one.event, FramesStored) and one.causationid)
    again = dataclasses.replace(stored, id="0199-new", seq=500)
    found = audit(journals([*told, again]), [])
    assert any(one.startswith(f"frame {stored.event.frames[0].frame_id} was stored 2 times") for one in found.duplicates)
    calibrated = next(one for one in told if isinstance(one.event, CalibrationDone))
    assert audit(journals([*told, dataclasses.replace(calibrated, id="0199-two")]), []).duplicates


def test_calibrating_a_night_again_by_command_is_no_duplicate(told):
    calibrated = next(one for one in told if isinstance(one.event, CalibrationDone))
    asked = dataclasses.replace(calibrated, id="0199-two", causationid="a-command")
    assert audit(journals([*told, asked]), []).duplicates == ()


def test_a_frame_whose_file_is_gone_or_changed_is_lost(tmp_path):
    told = [one for one in nights.telling(tmp_path / "night").told if not getattr(one.event, "masters", ())]
    frames = [frame for one in told if isinstance(one.event, FramesStored) for frame in one.event.frames]
    (tmp_path / "night" / frames[0].path).unlink()
    (tmp_path / "night" / frames[1].path).write_bytes(b"other bytes")
    lost = audit(journals(told), sent(told)).lost
    assert [one.split("fits")[1].strip() for one in lost] == ["is gone", "is not what was announced: its hash differs"]


def test_dead_letters_count_as_lost(told):
    assert audit(journals(told), [], dead_letters=["plan.ready for console/main: boom"]).lost == (
        "dead letter: plan.ready for console/main: boom",
    )


def test_an_outbox_is_read_as_it_lies_on_disk(tmp_path):
    path = tmp_path / "module.db"
    with sqlite3.connect(path) as db:
        db.executescript(OUTBOX_SCHEMA)
        for n, state in enumerate((0, 1, 2), start=1):
            row = (n, f"id{n}", b"{}", 0, 0, state, "too large" if state == 2 else None)
            db.execute("INSERT INTO outbox (n, id, envelope, crc, made_ns, state, error) VALUES (?, ?, ?, ?, ?, ?, ?)", row)
    db.close()
    assert read_outbox(path, "telescope", "observatory") == [
        Sent("telescope", "observatory", "id1"),
        Sent("telescope", "observatory", "id2"),
        Sent("telescope", "observatory", "id3", refused="too large"),
    ]
    empty = tmp_path / "empty.db"
    sqlite3.connect(empty).close()
    assert read_outbox(empty, "safety", "observatory") == []


# -- setting out --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_the_transient_lies_about_ten_arcsec_from_its_host(seed):
    place = place_beside(*HOST, seed)
    assert 9.0 <= separation_arcsec(*HOST, *place) <= 11.01
    assert place == place_beside(*HOST, seed)
    assert place != place_beside(*HOST, seed + 1)


def test_the_copied_installation_has_its_own_ports_and_the_wished_rate(tmp_path):
    installation = make_installation(Wishes(out=tmp_path / "demo", rate=80.0))
    simulator = installation.module_settings("simulator", SimulatorSettings)
    assert simulator.rate == 80.0
    assert simulator.port != 11111
    assert f":{simulator.port}/" in installation.settings.clock.url
    assert {load_tuning(installation, name).reserve_mib for name in installation.settings.brokers} == {64.0}
    assert installation.home == (tmp_path / "demo" / "state").resolve()
    assert "rate = 80" in (tmp_path / "demo" / "modules" / "simulator.toml").read_text(encoding="utf-8")


def test_stage_two_waits_for_commands(tmp_path):
    installation = make_installation(Wishes(out=tmp_path / "demo", stage=2))
    assert installation.settings.stage == 2
    telescope = (tmp_path / "demo" / "modules" / "telescope.toml").read_text(encoding="utf-8")
    assert 'trigger = "command"' in telescope
    assert "end_when_done = false" in telescope
    assert load_installation(tmp_path / "demo").settings.stage == 2


def test_stage_one_is_refused_in_words(tmp_path):
    with pytest.raises(Refused, match="human hands"):
        make_installation(Wishes(out=tmp_path / "demo", stage=1))
    assert not (tmp_path / "demo").exists()


def test_a_refused_demo_answers_with_one_json_object_and_status_three(tmp_path):
    result = CliRunner().invoke(demo, ["--stage", "1", "--json", "--out", str(tmp_path / "demo")])
    assert result.exit_code == 3
    assert json.loads(result.stdout)["error"]["where"] == "--stage"


def test_a_folder_with_something_in_it_is_not_touched(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    result = CliRunner().invoke(demo, ["--json", "--out", str(tmp_path)])
    assert result.exit_code == 2
    assert "not an empty folder" in json.loads(result.stdout)["error"]["what"]
    assert [one.name for one in tmp_path.iterdir()] == ["mine.txt"]


def test_a_disk_that_is_too_small_for_the_night_is_refused_before_it_begins(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: types.SimpleNamespace(free=39 << 20))
    result = CliRunner().invoke(demo, ["--json", "--out", str(tmp_path / "new" / "demo")])
    assert result.exit_code == 1
    assert "39 MiB are free, the demo needs 250" in json.loads(result.stdout)["error"]["what"]
    assert not (tmp_path / "new").exists()


def test_a_place_that_cannot_be_written_is_told_in_words(tmp_path, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise shutil.Error([("a", "b", "[Errno 28] No space left on device")])

    monkeypatch.setattr(shutil, "copytree", full)
    result = CliRunner().invoke(demo, ["--json", "--out", str(tmp_path / "demo")])
    assert result.exit_code == 1
    assert json.loads(result.stdout)["error"]["what"] == "cannot be written: [Errno 28] No space left on device"


# -- telling ------------------------------------------------------------------------------------------------------------


def test_each_event_becomes_a_line_that_a_human_reads(tell):
    said = {one.type: in_words(one) for one in tell.told}
    assert said["alert.received"] == "S270412a initial: follow, by rule 'near neutron star'"
    assert said["targets.ready"] == "3 for demo: NGC4993, IC4197, NGC4970"
    assert said["frames.stored"] == "2 light r ic4197"
    assert said["observation.failed"] == "ngc4970: no star found to point by"
    assert said["night.changed"] == "closed: because of closed_and_parked"
    assert any("NEW source of mag 17.4" in in_words(one) for one in tell.told)


def test_the_token_of_a_go_is_for_the_journal_not_for_the_watcher(tell):
    opening = next(one for one in tell.told if one.type == "night.changed")
    event = type(opening.event)(
        **{**fields(opening.event), "reason": "the shutter reads back open; GO 01a2201f-ab4e-79da-ad4d-a40e61c92db1"}
    )
    assert in_words(dataclasses.replace(opening, event=event)).endswith(": the shutter reads back open; GO given")


@pytest.mark.parametrize("on_path", ["nightbell", ""])
def test_the_next_commands_can_be_pasted_though_the_folder_has_a_blank(tmp_path, monkeypatch, on_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("nightbell.cli.output.shutil.which", lambda name: name if name == on_path else None)
    told = {
        "ok": True,
        "night": "2027-04-12",
        "stage": 3,
        "targets_observed": 4,
        "frames_stored": 30,
        "frames_calibrated": 16,
        "transient": {"found": {"separation_arcsec": 0.05}},
        "dome_closed": True,
        "events": {"night.changed": 8},
        "lost": 0,
        "duplicates": 0,
        "wall_s": 80.0,
        "report": None,
        "missing": [],
        "findings": [],
        "out": str(tmp_path / "u ser" / "Käse"),
    }
    shown = _summary(told, kept=False).splitlines()
    conf = shell_word(Path("u ser") / "Käse")
    began = typed()
    assert began == on_path or began.endswith("start.py")
    assert [line.strip() for line in shown if "--conf" in line] == [f"{began} trace S270412a --conf {conf}", f"{began} up --conf {conf}"]


def test_a_narrow_terminal_cuts_the_words_not_the_times(tell):
    stream = io.StringIO()
    picture = Picture(stream)
    for one in tell.told:
        picture.event(one)
    picture.close()
    told = io.StringIO()
    Console(file=told, width=60, force_terminal=False).print(picture._draw())
    last = [line for line in told.getvalue().splitlines() if line.strip()][-5:]
    assert all(re.match(r"\d\d:\d\d:\d\d  [a-z]+\.[a-z]+ ", line) and len(line) <= 60 for line in last), last


def test_lines_carry_real_seconds_and_the_time_of_the_world(tell):
    stream = io.StringIO()
    now_s = 0.0
    lines = Lines(stream, clock_s=lambda: now_s)
    now_s = 12.34
    lines.event(next(one for one in tell.told if one.type == "alert.received"))
    lines.say("the demo speaks")
    assert stream.getvalue().splitlines() == [
        "  12.3 s  22:24:00  alert.received       S270412a initial: follow, by rule 'near neutron star'",
        "  12.3 s            the demo speaks",
    ]
