"""Ranking: what a score is, and what must not change it."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.alerts.making import whole_sky

from nightbell.alerts.catalog import Catalog, from_rows, open_catalog
from nightbell.alerts.ranking import rank_galaxies
from nightbell.alerts.skymap_file import read_skymap
from nightbell.alerts.tiles import tile_map
from nightbell.simulator.notice import HOST, write_demo_alert


def catalog_of(*places: tuple[str, float, float, float], error: float = 3.6, k_mag: float | None = 9.0) -> Catalog:
    rows = [{"name": n, "ra_deg": ra, "dec_deg": dec, "dist_mpc": d, "dist_err_mpc": error, "k_mag": k_mag} for n, ra, dec, d in places]
    return from_rows(rows, source="t")


def scores(catalog: Catalog, **options: object) -> dict[str, float]:
    ranking = rank_galaxies(whole_sky(), catalog, weight="none", **options)  # type: ignore[arg-type]
    return {galaxy.name: galaxy.score_per_sr_mpc for galaxy in ranking.galaxies}


@given(st.floats(1, 120), st.floats(0.01, 30))
def test_the_score_is_the_density_convolved_with_the_distance_error(distance: float, error: float) -> None:
    mu, sigma = 40.0, 8.0
    found = scores(catalog_of(("A", 10, 20, distance), error=error))["A"]
    r = np.linspace(1e-6, 300, 400_001)
    density = np.exp(-0.5 * ((r - mu) / sigma) ** 2) / sigma
    place = np.exp(-0.5 * ((r - distance) / error) ** 2)
    want = (density * place).sum() / place.sum() / math.sqrt(2 * math.pi) / (4 * math.pi) / (mu * mu + sigma * sigma)
    assert found == pytest.approx(want, rel=3e-2 if error < 0.05 else 1e-4, abs=1e-30)


def test_a_galaxy_far_away_changes_no_other_score() -> None:
    near = catalog_of(("A", 10, 20, 40), ("B", 200, -20, 45))
    more = catalog_of(("A", 10, 20, 40), ("B", 200, -20, 45), ("far", 10, 20, 19_999))
    both = scores(more)
    assert {name: both[name] for name in "AB"} == scores(near)


def test_doubling_a_galaxy_shares_its_probability_between_the_two() -> None:
    one = rank_galaxies(whole_sky(), catalog_of(("A", 10, 20, 40), ("B", 10, 20, 48)), weight="none").galaxies
    two = rank_galaxies(whole_sky(), catalog_of(("A", 10, 20, 40), ("A'", 10, 20, 40), ("B", 10, 20, 48)), weight="none").galaxies
    assert [galaxy.name for galaxy in two] == ["A", "A'", "B"]
    share = {galaxy.name: galaxy.p_host / sum(g.p_host for g in two) for galaxy in two}
    assert share["A"] + share["A'"] > one[0].p_host / sum(g.p_host for g in one) > share["A"]


def test_equal_galaxies_are_ordered_by_name_whatever_the_catalogue_says() -> None:
    names = [
        galaxy.name for galaxy in rank_galaxies(whole_sky(), catalog_of(*((n, 10, 20, 40) for n in "CABED")), weight="none", top=3).galaxies
    ]
    assert names == ["A", "B", "C"]


def test_rows_without_distance_give_a_galaxy_nothing() -> None:
    sky = whole_sky()
    row = int(sky.rows_of(np.array([10.0]), np.array([20.0]))[0])
    assert sky.mu_mpc is not None
    assert sky.norm is not None
    sky.mu_mpc[row], sky.norm[row] = np.inf, 0.0
    assert scores_on(sky, catalog_of(("A", 10, 20, 40), ("B", 200, -20, 45))) == ["B"]


def scores_on(sky: object, catalog: Catalog) -> list[str]:
    return [galaxy.name for galaxy in rank_galaxies(sky, catalog, weight="none").galaxies]  # type: ignore[arg-type]


def test_the_tiniest_norms_and_steepest_rows_survive_in_double_precision() -> None:
    sky = whole_sky()
    assert sky.mu_mpc is not None
    assert sky.sigma_mpc is not None
    assert sky.norm is not None
    sky.mu_mpc[:], sky.sigma_mpc[:], sky.norm[:] = -18 * 20.0, 20.0, 1.7e69
    ranking = rank_galaxies(sky, catalog_of(("A", 10, 20, 40), ("B", 10, 20, 60)), weight="none")
    assert [galaxy.name for galaxy in ranking.galaxies] == ["A", "B"]
    assert all(math.isfinite(galaxy.score_per_sr_mpc) and galaxy.score_per_sr_mpc > 0 for galaxy in ranking.galaxies)


def test_a_map_without_distances_ranks_by_place_alone_within_a_range() -> None:
    flat = dataclasses.replace(whole_sky(), mu_mpc=None, sigma_mpc=None, norm=None)
    ranking = rank_galaxies(flat, catalog_of(("A", 10, 20, 40), ("far", 10, 20, 900)), weight="none")
    assert [galaxy.name for galaxy in ranking.galaxies] == ["A"]
    assert ranking.galaxies[0].density_per_mpc3 is None


def test_an_empty_match_leaves_everything_to_what_is_not_in_the_catalogue() -> None:
    ranking = rank_galaxies(whole_sky(), catalog_of(("far", 10, 20, 19_000)), weight="none")
    assert ranking.not_in_catalog == pytest.approx(1)
    assert sum(galaxy.p_host for galaxy in ranking.galaxies) == pytest.approx(0, abs=1e-12)


def test_the_generated_alert_has_its_host_first_by_place_and_distance(tmp_path: Path) -> None:
    demo = write_demo_alert(tmp_path)
    sky, catalog = read_skymap(demo.skymap), open_catalog(demo.catalog)
    assert sky.area_deg2(0.9) == pytest.approx(28, rel=0.01)
    for weight in ("none", "K", "B"):
        ranking = rank_galaxies(sky, catalog, weight=weight)  # type: ignore[arg-type]
        assert ranking.galaxies[0].name == HOST
        assert not ranking.beyond_catalog
    names = [galaxy.name for galaxy in ranking.galaxies]
    assert HOST not in names[1:]


def test_the_demo_installation_has_the_generated_catalogue(tmp_path: Path) -> None:
    committed = Path(__file__).resolve().parents[2] / "conf" / "demo" / "galaxies.csv"
    assert committed.read_text() == write_demo_alert(tmp_path).catalog.read_text()


def test_tiles_are_taken_greedily_and_hold_what_they_say(tmp_path: Path) -> None:
    sky = read_skymap(write_demo_alert(tmp_path).skymap)
    tiles = tile_map(sky, field_deg=2.0)
    gains = [tile.probability for tile in tiles]
    assert gains == sorted(gains, reverse=True)
    assert 0.9 < sum(gains) <= 1 + 1e-9
    assert len([g for g in np.cumsum(gains) if g < 0.9]) < 20
