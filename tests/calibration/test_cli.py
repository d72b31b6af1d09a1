"""The command line's JSON: one object, the promised keys, the promised exit statuses."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from nightbell.cli.calibrate import calibrate
from nightbell.cli.index import index


def _run(command, *arguments):
    return CliRunner().invoke(command, [str(one) for one in arguments])


def test_json_has_the_promised_shape_and_paths_that_exist(camera, tmp_path):
    camera.biases(5)
    camera.flats(3)
    camera.lights(1)
    camera.lights(1, filter_name="g")
    (camera.folder / "broken.fits").write_bytes(b"SIMPLE  =")
    done = _run(calibrate, camera.folder, "--out", tmp_path / "out", "--json")
    assert done.exit_code == 0
    got = json.loads(done.stdout)
    row = got["products"][0]
    assert {"path", "source", "type", "filter", "exposure_s", "masters", "median", "noise", "status"} <= row.keys()
    assert row["type"] == "light"
    assert set(row["masters"]) == {"bias", "dark", "flat"}
    assert all(Path(one["path"]).is_file() for one in [*got["products"], *got["masters"]])
    assert got["blocked"][0]["missing"] == ["flat g (there are flats of: r)"]
    assert got["failed"][0]["source"].endswith("broken.fits")
    assert got["failed"][0]["remedy"]


def test_nothing_made_exits_1_and_names_what_is_wrong(tmp_path):
    (tmp_path / "a.fits").write_text("no picture")
    done = _run(calibrate, tmp_path / "a.fits", "--out", tmp_path / "out", "--json")
    assert done.exit_code == 1
    assert "NOT_FITS" in json.loads(done.stdout)["failed"][0]["error"]


def test_a_path_that_is_not_there_exits_2_with_its_name(tmp_path):
    done = _run(calibrate, tmp_path / "nowhere", "--out", tmp_path / "out", "--json")
    assert done.exit_code == 2
    assert "nowhere" in done.stderr
    assert json.loads(done.stdout)["error"]["code"] == "missing"


def test_an_unknown_camera_exits_2_with_the_known_ones(camera, tmp_path):
    done = _run(calibrate, *camera.biases(2), "--out", tmp_path / "out", "--camera", "hubble")
    assert done.exit_code == 2
    assert "cafos" in done.stderr


def test_the_index_tells_what_waits_and_why(camera, tmp_path):
    _run(calibrate, *camera.lights(1), "--out", tmp_path / "out")
    rows = json.loads(_run(index, "query", tmp_path / "out", "--status", "blocked", "--json").stdout)["rows"]
    assert len(rows) == 1
    assert "flat r" in rows[0]["detail"]


def test_a_master_is_marked_bad_by_the_digits_in_its_name(camera, tmp_path):
    camera.biases(2)
    out = tmp_path / "out"
    _run(calibrate, camera.folder, "--out", out)
    digits = next((out / "masters").glob("bias_*.fits")).stem.rpartition("_")[2]
    done = _run(index, "mark-bad", out, digits, "--reason", "light leak", "--json")
    assert json.loads(done.stdout)["product_id"].startswith(digits)
    assert _run(index, "mark-bad", out, "no such", "--reason", "x").exit_code == 2
    done = _run(calibrate, camera.folder, "--out", out)
    assert done.exit_code == 1
    assert "MARKED_BAD" in done.stdout
    assert _run(index, "mark-bad", tmp_path, digits, "--reason", "x").exit_code == 2
    assert not (tmp_path / "index.sqlite").exists()
