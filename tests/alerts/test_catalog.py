"""Galaxy catalogues: reading, cleaning, weights, completeness, and the built folder."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from tests.alerts.making import whole_sky

from nightbell.alerts.catalog import LARGEST_K_LUMINOSITY, Catalog, build_catalog, from_rows, open_catalog, read_csv
from nightbell.alerts.ranking import rank_galaxies
from nightbell.contracts.errors import BadInput, Missing

HEAD = "name,ra_deg,dec_deg,dist_mpc,dist_err_mpc,k_mag,b_mag,mass_msun\n"
SHORT = HEAD.replace(",mass_msun", "")


def galaxy(name: str = "G", **values: float | None) -> dict[str, object]:
    return {"name": name, "ra_deg": 10.0, "dec_deg": 20.0, "dist_mpc": 40.0, "dist_err_mpc": 3.6, **values}


def written(folder: Path, text: str) -> Path:
    path = folder / "galaxies.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_unusable_rows_are_dropped_and_counted(tmp_path: Path) -> None:
    rows = "A,10,20,40,3,9,13,\nB,10,95,40,,,,\nC,10,20,,,,,\nD,10,20,-3,,,,\nE,370,-20,50,,99,13,\n"
    catalog = read_csv(written(tmp_path, HEAD + rows))
    assert catalog.counts == {"kept": 2, "dropped: no position": 1, "dropped: no distance": 1, "dropped: impossible distance": 1}
    row = [catalog.name(i) for i in range(2)].index("E")
    assert catalog.ra_deg[row] == pytest.approx(10.0)
    assert math.isnan(catalog.k_mag[row])
    assert catalog.dist_err_mpc[row] == pytest.approx(250 / 70)


def test_a_wrong_number_is_refused_with_line_and_column(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"galaxies\.csv: line 3: k_mag: 'bright' is not a number"):
        read_csv(written(tmp_path, HEAD + "A,1,2,40,,9,,\nB,1,2,40,,bright,,\n"))


def test_missing_columns_and_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="dist_mpc"):
        read_csv(written(tmp_path, "name,ra_deg,dec_deg\nA,1,2\n"))
    with pytest.raises(Missing, match=r"absent\.csv"):
        open_catalog(tmp_path / "absent.csv")


def test_a_missing_magnitude_weighs_as_the_median_of_its_shell() -> None:
    rows = [
        galaxy("A", k_mag=9.0),
        galaxy("B", k_mag=10.0),
        galaxy("C", k_mag=11.0),
        galaxy("D", k_mag=None),
        galaxy("E", k_mag=5.0, dist_mpc=95.0),
    ]
    catalog = from_rows(rows, source="t")
    weight = {catalog.name(i): catalog.weights("K")[i] for i in range(5)}
    assert weight["D"] == weight["B"]


def test_a_wrong_redshift_makes_no_monster() -> None:
    catalog = from_rows([galaxy("IC1221", k_mag=10.99, dist_mpc=934.0), galaxy("A", k_mag=9.0)], source="t")
    assert catalog.weights("K").max() == pytest.approx(LARGEST_K_LUMINOSITY)


def test_mass_weights_never_mix_bands_unscaled() -> None:
    rows = [galaxy(f"M{i}", k_mag=9.0 + 0.1 * i, mass_msun=1e9 * 10 ** (-0.04 * i)) for i in range(20)] + [galaxy("K", k_mag=9.0)]
    catalog = from_rows(rows, source="t")
    weight = {catalog.name(i): catalog.weights("mass")[i] for i in range(len(catalog))}
    assert weight["K"] == pytest.approx(weight["M0"], rel=0.2)


def test_completeness_never_rises_and_never_exceeds_one() -> None:
    rng = np.random.default_rng(2)
    rows = [
        galaxy(f"G{i}", k_mag=float(m), dist_mpc=float(d))
        for i, (m, d) in enumerate(zip(rng.uniform(6, 12, 3000), rng.uniform(2, 150, 3000), strict=True))
    ]
    table = from_rows(rows, source="t").completeness("K")
    assert table is not None
    assert (np.diff(table) <= 1e-12).all()
    assert table.max() <= 1


def test_a_catalogue_without_magnitudes_does_not_know_how_complete_it_is() -> None:
    assert from_rows([galaxy()], source="t").completeness("K") is None


def test_a_region_counts_only_the_sky_it_covers(tmp_path: Path) -> None:
    text = "# source: a field\n# region: 10 20 5\n" + HEAD + "A,10,20,45,,12,,\n"
    part = read_csv(written(tmp_path, text))
    whole = read_csv(written(tmp_path, HEAD + "A,10,20,45,,12,,\n"))
    assert part.source == "a field"
    assert part.region is not None
    first, second = part.completeness("K"), whole.completeness("K")
    assert first is not None
    assert second is not None
    assert first[4] == pytest.approx(min(1.0, second[4] / part.region.share))


def test_a_built_catalogue_ranks_like_its_source(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    rows = "".join(
        f"G{i},{ra:.5f},{dec:.5f},{d:.2f},3,{k:.2f},,\n"
        for i, (ra, dec, d, k) in enumerate(rng.uniform([0, -90, 5, 7], [360, 90, 90, 13], (500, 4)))
    )
    path = written(tmp_path, HEAD + rows)
    manifest = build_catalog(path, tmp_path / "built")
    read, opened = read_csv(path), open_catalog(tmp_path / "built", verify=True)
    assert manifest["n_galaxies"] == 500
    for name in ("cell", "ra_deg", "dist_mpc", "k_mag"):
        assert np.array_equal(getattr(read, name), getattr(opened, name), equal_nan=True)
    assert [read.name(i) for i in range(500)] == [opened.name(i) for i in range(500)]
    assert isinstance(opened.cell, np.memmap)


@pytest.mark.parametrize("harm", ["cut", "bytes", "gone"])
def test_a_damaged_built_catalogue_is_refused(tmp_path: Path, harm: str) -> None:
    build_catalog(written(tmp_path, HEAD + "A,10,20,45,,12,,\n"), tmp_path / "built")
    column = tmp_path / "built" / "dist_mpc.npy"
    data = column.read_bytes()
    if harm == "gone":
        column.unlink()
    else:
        column.write_bytes(data[:-4] if harm == "cut" else data[:-4] + b"\1\2\3\4")
    with pytest.raises(BadInput, match="dist_mpc"):
        open_catalog(tmp_path / "built", verify=True)


def test_building_does_not_overwrite_what_is_no_catalogue(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    with pytest.raises(BadInput, match="exists and is no catalogue"):
        build_catalog(written(tmp_path, HEAD + "A,10,20,45,,12,,\n"), folder)


def glade_line(**changes: str) -> str:
    part = ["null"] * 40
    part[0], part[1], part[2], part[7] = "1", "45657", "NGC4993", "G"
    part[8], part[9], part[10], part[18], part[32], part[33], part[34], part[35] = (
        "197.45",
        "-23.38",
        "13.3",
        "9.2",
        "42.2",
        "0.5",
        "3",
        "4.5",
    )
    for place, value in changes.items():
        part[int(place[1:]) - 1] = value
    return " ".join(part)


def test_glade_plus_is_read_and_its_quasars_dropped(tmp_path: Path) -> None:
    path = tmp_path / "glade.txt"
    path.write_text("\n".join([glade_line(), glade_line(c8="Q"), glade_line(c33="null")]))
    build_catalog(path, tmp_path / "glade", kind="glade+")
    catalog: Catalog = open_catalog(tmp_path / "glade")
    assert catalog.counts == {"kept": 1, "dropped: quasar or cluster": 1, "dropped: no distance": 1}
    assert catalog.name(0) == "NGC4993"
    # A distance from a redshift this near is no better than the galaxy's own motion.
    assert catalog.dist_err_mpc[0] == pytest.approx(250 / 70)
    assert catalog.mass_msun[0] == pytest.approx(4.5e10)


def test_a_list_that_is_not_glade_plus_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.txt"
    path.write_text("1 2 3\n")
    with pytest.raises(BadInput, match="40 columns"):
        build_catalog(path, tmp_path / "glade", kind="glade+")


def test_rows_that_say_the_same_twice_count_once_and_neighbours_stay(tmp_path: Path) -> None:
    rows = [
        "A,10.0000,20.0,40.0,3.6,9.0,10.0",
        "A,10.0000,20.0,40.0,3.6,9.0,10.0",  # the same line again
        "A',10.0005,20.0,41.0,3.6,9.0,",  # 1.7 arcsec away, no magnitude says otherwise
        "B,10.0005,20.0,41.0,3.6,9.5,10.0",  # another magnitude: a neighbour
        "C,10.0000,20.0,90.0,3.6,9.0,10.0",  # far behind
        "D,10.0100,20.0,40.0,3.6,9.0,10.0",  # 34 arcsec away
    ]
    catalog = open_catalog(written(tmp_path, SHORT + "\n".join(rows)))
    assert sorted(catalog.name(i) for i in range(len(catalog))) == ["A", "B", "C", "D"]
    assert catalog.counts == {"kept": 4, "dropped: said twice": 2}


def test_dropped_rows_are_told_with_each_ranking(tmp_path: Path) -> None:
    catalog = open_catalog(written(tmp_path, SHORT + "A,10,20,40,3,9,10\nB,10,95,40,3,9,10\nC,10,20,-1,3,9,10\nD,10,20,40,1e9,9,10\n"))
    (told,) = (text for text in rank_galaxies(whole_sky(), catalog).warnings if "not used" in text)
    assert told.startswith("3 rows of the catalogue are not used: ")
    assert {"no position 1", "impossible distance 1", "impossible distance error 1"} <= set(told.partition(": ")[2].split(", "))


def test_a_list_without_a_single_usable_galaxy_is_refused_with_the_reasons(tmp_path: Path) -> None:
    for text, words in ((SHORT, "no rows"), (SHORT + "A,10,95,40,,,\nB,10,20,,,,\n", "1 dropped: no distance; 1 dropped: no position")):
        with pytest.raises(BadInput, match=words):
            open_catalog(written(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("NAME,RA,DEC,DIST\nA,1,2,3\n", r"has no column ra_deg, dec_deg, dist_mpc \(it has name, ra, dec, dist\)"),
        ("name;ra_deg;dec_deg;dist_mpc\nA;1;2;3\n", "has no column"),
        ("", "it has none"),
        ("name,ra_deg,dec_deg,dist_mpc,k_mag,k_mag\nA,1,2,3,4,5\n", "names k_mag twice"),
        (SHORT + '"A,1,2,3,4,5,6\nB,1,2,3,4,5,6\n', "line 2: is no line of a CSV"),
        (SHORT + "A" * 200_000 + ",1,2,3,4,5,6\n", "line 2: is no line of a CSV"),
        ("# region: 10 20 -5\n" + SHORT + "A,1,2,3,4,5,6\n", "line 1: '10 20 -5' is no region"),
        ("# region: 10 95 5\n" + SHORT + "A,1,2,3,4,5,6\n", "is no region"),
    ],
)
def test_what_is_wrong_with_a_list_is_said_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        open_catalog(written(tmp_path, text))


def test_heads_may_be_spelled_in_capitals_and_with_spaces(tmp_path: Path) -> None:
    catalog = open_catalog(written(tmp_path, " Name , RA_deg ,DEC_DEG,Dist_Mpc\nA,10,20,40\n"))
    assert len(catalog) == 1


def test_names_cannot_carry_control_characters_into_headers_and_logs(tmp_path: Path) -> None:
    catalog = open_catalog(written(tmp_path, SHORT + "A\x00\x1b[31m,10,20,40,,,\n"))
    assert catalog.name(0) == "A\\x00\\x1b[31m"


def test_a_list_without_the_wanted_band_is_weighted_by_the_other_and_says_so(tmp_path: Path) -> None:
    only_b = open_catalog(written(tmp_path, SHORT + "A,10,20,40,3.6,,12\nB,200,-20,40,3.6,,13\n"))
    by_k, by_b = rank_galaxies(whole_sky(), only_b, weight="K"), rank_galaxies(whole_sky(), only_b, weight="B")
    assert by_k.galaxies == by_b.galaxies
    assert by_k.not_in_catalog == by_b.not_in_catalog > 0
    assert by_k.weight == "B"
    assert any("no galaxy of the catalogue has a K magnitude" in text for text in by_k.warnings)


@pytest.mark.parametrize(
    "change",
    [{"region": [1]}, {"region": "x"}, {"counts": None}, {"source": None}, {"files": None}, {"files": {"cell.npy": 5}}, {"format": 2}],
)
def test_a_manifest_of_another_kind_is_refused_by_its_key(tmp_path: Path, change: dict[str, object]) -> None:
    source = written(tmp_path, SHORT + "A,10,20,40,3.6,9,12\n")
    build_catalog(source, tmp_path / "built")
    manifest = tmp_path / "built" / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), **change}))
    with pytest.raises(BadInput, match=r"manifest\.json") as refused:
        open_catalog(tmp_path / "built")
    assert next(iter(change)) in refused.value.where or "format" in change


def test_a_column_that_is_no_column_is_refused(tmp_path: Path) -> None:
    build_catalog(written(tmp_path, SHORT + "A,10,20,40,3.6,9,12\n"), tmp_path / "built")
    column = tmp_path / "built" / "dist_mpc.npy"
    column.write_bytes(b"x" * column.stat().st_size)
    with pytest.raises(BadInput, match=r"dist_mpc\.npy"):
        open_catalog(tmp_path / "built")
