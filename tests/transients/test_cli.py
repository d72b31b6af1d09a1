"""`nightbell transients`: every frame is searched or named, field by field, and nothing new is an answer too."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from astropy.io import fits
from click.testing import CliRunner

from nightbell.cli.transients import transients
from nightbell.transients import search
from nightbell.transients.references import read_reference
from nightbell.transients.search import find_transients, read_frame

from .conftest import TARGET, Sky

NEW = ((TARGET[0] + 0.0024, TARGET[1] + 0.0017, 4000.0),)


def _run(*arguments: object):
    return CliRunner().invoke(transients, [str(one) for one in arguments])


def test_each_field_is_searched_by_itself_and_what_is_no_frame_is_named(make_product, make_reference, tmp_path):
    sky = Sky(seed=31)
    reference = make_reference(sky)
    folder = tmp_path / "calibrated"
    (folder / "light").mkdir(parents=True)
    (folder / "masters").mkdir()
    for name, extra in (("a", NEW), ("b", ())):
        path = make_product(sky, name, seed=300 + ord(name), extra=extra)
        fits.setval(path, "OBJID", value=name)
        path.rename(folder / "light" / path.name)
    (folder / "light" / "half.fits").write_bytes((folder / "light" / "a.fits").read_bytes()[:9000])
    fits.PrimaryHDU(np.ones((9, 9))).writeto(folder / "masters" / "bias.fits")
    done = _run(folder, "--reference", reference, "--out", tmp_path / "cutouts", "--json")
    got = json.loads(done.stdout)
    assert done.exit_code == 0
    assert {one["target_id"] for one in got["searched"]} == {"a", "b"}
    # One frame of its field each: the new source of the first is not 'single' because the second does not show it.
    assert len(got["candidates"]) == 1
    assert Path(got["candidates"][0]["cutout"]).is_file()
    assert [Path(one["path"]).name for one in got["failed"]] == ["half.fits"]


def test_nothing_new_is_an_answer_and_nothing_searched_is_a_failure(make_product, make_reference, tmp_path):
    sky = Sky(seed=32)
    quiet = make_product(sky, "quiet", seed=320)
    done = _run(quiet, "--reference", make_reference(sky))
    assert (done.exit_code, done.stdout.strip()) == (0, "1 frames searched, 0 candidates, 0 vetoed")
    (tmp_path / "none").mkdir()
    done = _run(quiet, "--reference", tmp_path / "none", "--json")
    assert done.exit_code == 1
    assert "no reference in none covers it" in json.loads(done.stdout)["failed"][0]["error"]


def test_cutouts_that_cannot_be_written_are_said_in_words(make_product, make_reference, tmp_path):
    sky = Sky(seed=33)
    (tmp_path / "file").write_text("")
    done = _run(make_product(sky, "p", seed=330, extra=NEW), "--reference", make_reference(sky), "--out", tmp_path / "file" / "x", "--json")
    assert done.exit_code == 1
    assert "cannot be written" in json.loads(done.stdout)["error"]["what"]


def test_a_mistake_of_ours_on_one_frame_costs_no_other(make_product, make_reference, monkeypatch):
    sky = Sky(seed=34)
    frames = [read_frame(make_product(sky, name, seed=340)) for name in ("a", "b")]
    real = search.search_frame

    def stumble(frame, *args, **more):
        if frame.product_id == "a":
            raise np.linalg.LinAlgError("singular")
        return real(frame, *args, **more)

    monkeypatch.setattr(search, "search_frame", stumble)
    found = find_transients(frames, read_reference(make_reference(sky)))
    assert [one.frame.product_id for one in found.searched] == ["b"]
    assert "INTERNAL: LinAlgError: singular" in found.failed[0][1]


def test_without_a_reference_the_option_is_asked_for(tmp_path):
    done = _run(tmp_path)
    assert done.exit_code == 2
    assert "--reference" in done.output
