"""`nightbell plan` and `nightbell dome` on files, good and bad."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from click.testing import CliRunner, Result

from nightbell.cli import nightbell

CONF = Path(__file__).parents[2] / "conf" / "demo"
TARGETS = {
    "targets": [
        {"target_id": "a", "name": "A", "ra_deg": 197.4, "dec_deg": -23.4, "rank": 1, "p_host": 0.5},
        {"target_id": "n", "name": "North", "ra_deg": 10.0, "dec_deg": 80.0, "rank": 2, "p_host": 0.2},
    ]
}
HEAD = (
    "mount,lat_deg,pier_side,ha_deg,dec_deg,target_az_deg,target_alt_deg,mount_east_m,mount_north_m,mount_up_m,axis_offset_m,"
    "cross_offset_m,dome_radius_m,dome_az_deg,dome_alt_deg\n"
)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(nightbell, [str(one) for one in arguments])


@pytest.fixture
def made(tmp_path: Path) -> Path:
    (tmp_path / "targets.json").write_text(json.dumps(TARGETS), encoding="utf-8")
    plan = tmp_path / "plan.json"
    done = run("plan", "make", tmp_path / "targets.json", "--conf", CONF, "--date", "2027-04-12", "--out", plan)
    assert done.exit_code == 0, done.output
    return plan


def test_a_plan_is_made_shown_and_proved_from_its_file(made: Path) -> None:
    shown = run("plan", "show", made)
    assert "never_up" in shown.output
    assert "rank 1" in shown.output
    assert json.loads(run("plan", "show", made, "--json").stdout)["items"][0]["name"] == "A"
    proved = run("plan", "verify", made, "--json")
    assert proved.exit_code == 0
    assert json.loads(proved.stdout)["ok"]


def test_a_chart_is_a_picture_of_its_own(made: Path, tmp_path: Path) -> None:
    done = run("plan", "chart", made, "--out", tmp_path / "plan.svg")
    assert done.exit_code == 0, done.output
    root = ET.fromstring((tmp_path / "plan.svg").read_text(encoding="utf-8"))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert any("--ink" in (style.text or "") for style in root.iter("{http://www.w3.org/2000/svg}style"))


@pytest.mark.parametrize("verb", ["show", "verify", "chart"])
@pytest.mark.parametrize("content", ["", "[]", '{"format": "nightbell-plan-3"}', '{"format": "x"}'])
def test_what_is_no_plan_is_refused_with_its_file(tmp_path: Path, verb: str, content: str) -> None:
    (tmp_path / "bad.json").write_text(content, encoding="utf-8")
    done = run("plan", verb, tmp_path / "bad.json")
    assert done.exit_code == 2
    assert "bad.json" in done.output


def test_a_folder_that_is_not_there_is_refused_before_a_crash(made: Path, tmp_path: Path) -> None:
    done = run("plan", "chart", made, "--out", tmp_path / "no" / "plan.svg")
    assert done.exit_code == 2
    assert "cannot be written" in done.output


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ("", "no row"),
        ("gem,-30,east,nan,10,0,0,0,0,0,0.5,0,2,90,40\n", "ha_deg"),
        ("gem,-30,east,x,10,0,0,0,0,0,0.5,0,2,90,40\n", "ha_deg"),
        ("gem,-30,up,10,10,0,0,0,0,0,0.5,0,2,90,40\n", "pier_side"),
        ("barn,-30,up,10,10,0,0,0,0,0,0.5,0,2,90,40\n", "mount"),
        ("gem,-30,east,10,10,0,0,9,0,0,0.5,0,2,90,40\n", "outside the dome"),
    ],
)
def test_a_wrong_row_of_vectors_is_refused_with_its_line(tmp_path: Path, row: str, named: str) -> None:
    (tmp_path / "vectors.csv").write_text(HEAD + row, encoding="utf-8")
    done = run("dome", "check", tmp_path / "vectors.csv")
    assert done.exit_code == 2
    assert named in done.output


@pytest.mark.parametrize("date", ["2027-13-01", "9999-12-31", "0001-01-01", "20270412"])
def test_a_date_that_is_none_is_refused_with_an_example(date: str) -> None:
    done = run("night", "events", "--site", CONF / "observatory.toml", "--date", date)
    assert done.exit_code == 2
    assert "2027-04-12" in done.output
