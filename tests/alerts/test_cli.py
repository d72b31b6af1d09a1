"""`nightbell alert` and `nightbell catalog` as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from nightbell.cli.alert import alert
from nightbell.cli.catalog import catalog
from nightbell.simulator.notice import DemoAlert, write_demo_alert


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> DemoAlert:
    return write_demo_alert(tmp_path_factory.mktemp("demo"))


def call(*words: object) -> tuple[int, dict[str, Any], str]:
    group = {"alert": alert, "catalog": catalog}[str(words[0])]
    done = CliRunner().invoke(group, [*map(str, words[1:]), "--json"])
    return done.exit_code, json.loads(done.stdout), done.stderr


def test_rank_prints_the_promised_shape(demo: DemoAlert) -> None:
    status, got, _ = call("alert", "rank", demo.notice, "--catalog", demo.catalog, "--no-visibility", "--top", 5)
    assert status == 0
    assert {"alert", "credible", "galaxies", "not_in_catalog", "beyond_catalog", "tiles", "observatories", "elapsed_ms", "warnings"} <= set(
        got
    )
    assert set(got["credible"]) == {"area_50_deg2", "area_90_deg2", "volume_90_mpc3", "prob_without_distance"}
    assert {"superevent_id", "revision", "kind", "drill", "significant", "far_hz", "time_utc", "instruments", "classification"} <= set(
        got["alert"]
    )
    assert got["alert"]["distance_mpc"] == {"mean": 40.0, "std": 8.0}
    assert [galaxy["rank"] for galaxy in got["galaxies"]] == [1, 2, 3, 4, 5]
    wanted = (
        "rank name ra_deg dec_deg dist_mpc prob_density_per_sr credible_level_2d density_per_mpc3 score_per_sr_mpc credible_level_3d p_host"
    )
    assert set(wanted.split()) <= set(got["galaxies"][0])


def test_explain_prints_the_promised_shape(demo: DemoAlert) -> None:
    status, got, _ = call("alert", "explain", demo.notice)
    assert status == 0
    assert {key: got[key] for key in ("superevent_id", "kind", "drill", "decision")} == {
        "superevent_id": "S270412a",
        "kind": "initial",
        "drill": False,
        "decision": "accept",
    }
    assert set(got["witnesses"]) == {"id", "role", "search"}
    assert got["reasons"]


def test_explain_says_each_reason_of_the_deciding_rule_once_and_in_words(demo: DemoAlert) -> None:
    done = CliRunner().invoke(alert, ["explain", str(demo.notice)])
    lines = [line.strip() for line in done.stdout.splitlines()]
    assert done.exit_code == 0
    assert lines.count("rule      near neutron star: follow, it decides") == 1
    assert len([line for line in lines if line.startswith("p.BNS >0.2: true, it is")]) <= 2  # once above, once in the rule that would watch
    assert not [line for line in lines if "None" in line or "['" in line]


@pytest.mark.parametrize(
    ("text", "field"),
    [('{"superevent_id": 5}', "superevent_id"), ("", "bad.json"), ("[1]", "bad.json"), ("[" * 100_000, "bad.json")],
)
def test_broken_input_exits_2_and_names_file_and_field(tmp_path: Path, text: str, field: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    status, got, said = call("alert", "rank", path, "--catalog", tmp_path / "none.csv", "--no-visibility")
    assert status == 2
    assert "bad.json" in said
    assert field in got["error"]["where"]
    assert got["error"]["remedy"]


def test_a_notice_with_a_broken_map_cannot_be_ranked_but_is_explained(demo: DemoAlert, tmp_path: Path) -> None:
    path = tmp_path / "base64.json"
    path.write_text(demo.notice.read_text().replace('"skymap": "', '"skymap": "%%%'))
    status, _, said = call("alert", "rank", path, "--catalog", demo.catalog, "--no-visibility")
    assert status == 2
    assert "base64.json: event.skymap" in said
    status, got, _ = call("alert", "explain", path)
    assert (status, got["superevent_id"]) == (0, "S270412a")
    assert "event.skymap" in got["warnings"][0]


def test_a_map_that_is_only_named_must_be_given(shared_data: Path, demo: DemoAlert) -> None:
    notice = shared_data / "alerts" / "voevents" / "S190521r-2-Initial.xml"
    status, _, said = call("alert", "rank", notice, "--catalog", demo.catalog, "--no-visibility")
    assert status == 2
    assert "--skymap" in said


def test_a_retraction_cannot_be_ranked(shared_data: Path, demo: DemoAlert) -> None:
    notice = shared_data / "alerts" / "o4" / "MS260605l-retraction.json"
    status, _, said = call("alert", "rank", notice, "--catalog", demo.catalog, "--no-visibility")
    assert status == 2
    assert "retraction" in said


def test_a_catalogue_is_built_and_described(demo: DemoAlert, tmp_path: Path) -> None:
    status, built, _ = call("catalog", "build", demo.catalog, "--out", tmp_path / "built")
    assert (status, built["n_galaxies"]) == (0, 36)
    status, told, _ = call("catalog", "info", tmp_path / "built", "--verify")
    assert (status, told["n_galaxies"]) == (0, 36)
    assert told["completeness"]["K"][4] > 0.3


def test_a_drill_is_written_for_others_to_submit(tmp_path: Path) -> None:
    status, got, _ = call("alert", "drill", "--out", tmp_path)
    assert status == 0
    status, told, _ = call("alert", "explain", got["notice"])
    assert (told["drill"], told["decision"]) == (True, "drill")
