"""A whole night as a new user starts it: `python -m nightbell demo`, real processes, real sockets, a real clock."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from astropy.io import fits

from nightbell.cli.report import read_events
from nightbell.console.preview import picture
from nightbell.contracts.frames import keys_of
from nightbell.contracts.instants import parse_utc
from nightbell.contracts.states import FrameType
from nightbell.settings import load_installation

LONGEST_S = 240.0


@pytest.fixture(scope="module")
def night(tmp_path_factory) -> dict:
    """One run of the demo; its answer with the lines it wrote under `lines`."""
    out = tmp_path_factory.mktemp("demo") / "out"
    command = [sys.executable, "-m", "nightbell", "demo", "--json", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST_S, check=False, cwd=out.parent)
    assert done.returncode == 0, done.stderr[-4000:] + done.stdout[-2000:]
    return {**json.loads(done.stdout), "lines": done.stderr}


@pytest.mark.timeout(LONGEST_S)
def test_the_night_is_complete_in_time(night):
    assert night["ok"] is True
    assert night["missing"] == []
    assert night["wall_s"] < 180


def test_three_targets_are_observed_and_six_lights_calibrated(night):
    assert night["targets_observed"] >= 3
    assert night["frames_calibrated"] >= 6
    assert night["frames_stored"] >= night["frames_calibrated"] + 8  # biases, darks and flats of the same night


def test_the_transient_is_found_where_it_was_put(night):
    injected, found = night["transient"]["injected"], night["transient"]["found"]
    assert found["separation_arcsec"] < 3
    assert abs(found["ra_deg"] - injected["ra_deg"]) < 0.001
    assert abs(found["dec_deg"] - injected["dec_deg"]) < 0.001


def test_the_dome_is_closed_by_the_simulators_own_truth(night):
    assert night["dome_closed"] is True


def test_nothing_is_lost_and_nothing_happens_twice(night):
    assert night["findings"] == []
    assert night["lost"] == 0
    assert night["duplicates"] == 0


def test_every_kind_of_event_of_a_good_night_was_told(night):
    expected = {
        "alert.received",
        "targets.ready",
        "plan.ready",
        "night.changed",
        "observation.started",
        "observation.done",
        "frames.stored",
        "calibration.done",
        "transients.found",
        "safety.changed",
        "module.up",
    }
    assert expected <= set(night["events"])
    assert all(n > 0 for n in night["events"].values())


def test_the_report_is_one_file_that_needs_no_network(night):
    text = Path(night["report"]).read_text(encoding="utf-8")
    assert "http://" not in text
    assert "https://" not in text
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", text)
    assert text.count("<svg") == 3
    assert text.count("data:image/png;base64,") >= 3  # raw, calibrated, cut-out
    assert "No sky map" not in text


def test_the_report_can_be_made_again_from_the_journals_alone(night, tmp_path):
    command = [sys.executable, "-m", "nightbell", "report", "last", "--conf", night["out"], "--out", str(tmp_path / "again.html"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    told = json.loads(done.stdout)
    assert told["night"] == night["night"]
    assert told["events"]["frames.stored"] == night["events"]["frames.stored"]
    assert "A new source of magnitude" in (tmp_path / "again.html").read_text(encoding="utf-8")


def test_every_frame_of_the_night_keeps_the_whole_header_contract(night):
    paths = sorted((Path(night["out"]) / "state" / "telescope" / "frames").glob("*/*.fits"))
    assert len(paths) == night["frames_stored"]
    wrong = {}
    for path in paths:
        with fits.open(path, checksum=True) as hdus:  # a sum that does not hold is a warning, and warnings are errors
            header = hdus[0].header
        kind = FrameType(header["IMAGETYP"])
        known = {"BIASSEC", "ALERTID", "ROTATANG"} | (set() if kind in (FrameType.FLAT, FrameType.LIGHT) else {"FILTER"})
        absent = [row.card for row in keys_of(kind) if row.card not in header and row.card not in known]
        begin_ns, middle_ns, end_ns = (parse_utc(header[f"DATE-{one}"]) for one in ("BEG", "AVG", "END"))
        laws = {
            "absent": absent,
            "DATE-AVG": abs((middle_ns - begin_ns) / 1e9 - header["EXPTIME"] / 2) > 0.1,
            "DATE-END": abs((end_ns - begin_ns) / 1e9 - header["EXPTIME"]) > 0.1,
            "MJD-OBS": abs(40587 + parse_utc(header["DATE-OBS"]) / 86_400e9 - header["MJD-OBS"]) > 1e-8,
            "BZERO": (header["BITPIX"], header["BZERO"]) != (16, 32768),
            "SIMULATE": header["SIMULATE"] is not True,
            "SIMCLOCK": header["SIMCLOCK"] <= 1,
            "GAIN": "GAIN" in header,
            "DOMEOK": header.get("DOMEOK", True) is not True,
            "WXAGE": header.get("WXAGE", 0.0) > 120,
            "NIGHT": header["NIGHT"] != night["night"] or path.parent.name != night["night"],
            "ALERTID": (kind is FrameType.LIGHT) != ("ALERTID" in header),
            "name": re.fullmatch(r"[A-Za-z0-9._+-]+", path.name) is None or header["FRAMEID"] not in path.name,
        }
        wrong |= {(path.name, law): bad for law, bad in laws.items() if bad}
    assert wrong == {}
    numbers = [fits.getval(path, "SEQNUM") for path in paths]
    assert sorted(numbers) == list(range(1, len(paths) + 1))


def test_one_tree_of_causes_leads_from_the_alert_to_the_find(night):
    installation = load_installation(night["out"])
    told = {one.id: one for one in read_events(installation, installation.settings.brokers, wait_s=1.0)}
    found = next(one for one in told.values() if one.type == "transients.found" and one.event.candidates)
    chain = [found]
    while chain[-1].causationid in told:
        chain.append(told[chain[-1].causationid])
    assert [one.type for one in reversed(chain)] == [
        "alert.received",
        "targets.ready",
        *["plan.ready"] * (len(chain) - 6),
        "observation.started",
        "frames.stored",
        "calibration.done",
        "transients.found",
    ]
    assert {one.correlationid for one in chain} == {chain[-1].id}


def test_the_console_can_show_the_last_raw_and_the_last_calibrated_frame(night):
    with sqlite3.connect(Path(night["out"]) / "state" / "console" / "module.db") as store:
        (state,) = store.execute("SELECT value FROM meta WHERE key = 'state'").fetchone()
    kept = json.loads(state)
    assert set(kept["last"]) == {"raw", "calibrated"}
    for kind, key in kept["last"].items():
        assert picture(Path(kept["pictures"][key]["path"]), kind)[:2] == b"\xff\xd8"


def test_progress_is_told_on_stderr_line_by_line(night):
    assert "alert.received" in night["lines"]
    assert "NEW source" in night["lines"]
    assert "Traceback" not in night["lines"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for another process's console")
@pytest.mark.timeout(90)
def test_ctrl_c_ends_every_process_of_the_demo(tmp_path):
    command = [sys.executable, "-m", "nightbell", "demo", "--json", "--out", str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as demo:
        assert demo.stderr is not None
        for line in demo.stderr:
            if "are ready" in line:
                break
        pids = [json.loads(path.read_text(encoding="utf-8"))["pid"] for path in (tmp_path / "out" / "state").glob("*/commands.json")]
        assert len(pids) > 5
        demo.send_signal(signal.SIGINT)
        demo.communicate(timeout=60)
    assert demo.returncode == 130
    deadline = time.monotonic() + 10
    while (left := [pid for pid in pids if _is_alive(pid)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == []


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
