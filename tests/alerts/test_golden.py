"""Real maps and a real catalogue against numbers computed without this package (ligo.skymap 2.5.4 and exact formulas)."""

from __future__ import annotations

from pathlib import Path

import pytest

from nightbell.alerts.catalog import Catalog, open_catalog
from nightbell.alerts.notices.reading import read_notice
from nightbell.alerts.ranking import rank_galaxies
from nightbell.alerts.skymap import SkyMap
from nightbell.alerts.skymap_file import parse_skymap, read_skymap

# file: 50 % and 90 % area (deg2), 90 % volume (Mpc3), rows, orders, probability in rows without distance
MAPS = {
    "maps/GW170817.multiorder.fits": (8.900583435885983, 30.97986031323378, 539.8763905, 19200, (4, 11), 2.7800e-5),
    "maps/MS181101ab.combined-ext.multiorder.fits": (8.287401259837626, 27.70616919301539, 482.1428539, 19200, (4, 11), 1.0599e-5),
    "maps/S190425z.bayestar.fits.gz": (2805.6897867591138, 10182.573052057307, 11075256.930, 19200, (4, 8), 7.4899e-6),
    "o4/S230518h-Preliminary_alert.json": (265.80662377612094, 1002.0483700301774, 6138392.306, 19200, (4, 9), 5.8637e-5),
    "o4/S230518h-Initial_alert.json": (179.68413042257166, 665.9747796783473, 3515211.940, 16896, (4, 9), 4.0855e-6),
    "o4/S230522a-Preliminary_alert.json": (8060.971217400948, 24219.022657681406, 178440347530.0, 19200, (4, 6), 0.0),
    "o4/MS260605l-preliminary.json": (2.2799631369170323, 7.749752465283463, 99.03987626, 19200, (4, 11), 3e-26),
}


def map_of(folder: Path, name: str) -> SkyMap:
    if name.startswith("maps/"):
        return read_skymap(folder / name)
    data = read_notice(folder / name).skymap
    assert data is not None
    return parse_skymap(data, where=name)


@pytest.fixture(scope="module")
def alerts_data(shared_data: Path) -> Path:
    return shared_data / "alerts"


@pytest.fixture(scope="module")
def galaxies(alerts_data: Path) -> Catalog:
    return open_catalog(alerts_data / "catalogs" / "galaxies_plain.csv")


@pytest.mark.parametrize("name", MAPS)
def test_areas_and_volume_of_every_real_map_agree_with_independent_numbers(alerts_data: Path, name: str) -> None:
    area_50, area_90, volume, n_rows, orders, lost = MAPS[name]
    sky = map_of(alerts_data, name)
    assert (len(sky.rho), (sky.order.min(), sky.order.max())) == (n_rows, orders)
    assert sky.area_deg2(0.5) == pytest.approx(area_50, rel=1e-12)
    assert sky.area_deg2(0.9) == pytest.approx(area_90, rel=1e-12)
    # S230522a is known from ligo.skymap alone, whose distance grid is good to 1e-3.
    assert sky.volume_mpc3(0.9) == pytest.approx(volume, rel=1e-3 if "S230522a" in name else 1e-8)
    # The README gives the loss with five digits.
    assert sky.prob_without_distance == pytest.approx(lost, rel=1e-4, abs=2e-26)


@pytest.mark.parametrize("name", MAPS)
def test_probability_over_all_distances_is_one_but_for_rows_without_distance(alerts_data: Path, name: str) -> None:
    sky = map_of(alerts_data, name)
    assert sky.prob_without_distance is not None
    assert sky.total_3d == pytest.approx(1 - sky.prob_without_distance, abs=2e-9)


@pytest.mark.parametrize(
    ("weight", "first", "second", "p_first"),
    [("none", "NGC4993", "IC4197", 0.2004), ("K", "NGC4993", "IC4197", 0.1889), ("B", "NGC4993", "IC4197", 0.1859)],
)
def test_ngc4993_comes_first_for_gw170817(
    alerts_data: Path, galaxies: Catalog, weight: str, first: str, second: str, p_first: float
) -> None:
    ranking = rank_galaxies(read_skymap(alerts_data / "maps" / "GW170817.multiorder.fits"), galaxies, weight=weight)  # type: ignore[arg-type]
    assert [galaxy.name for galaxy in ranking.galaxies[:2]] == [first, second]
    # Filling in missing magnitudes and the cap shrink the shares slightly; the order stays.
    share = ranking.galaxies[0].p_host / (1 - ranking.not_in_catalog)
    assert p_first * 0.995 < share <= p_first * 1.001


def test_without_distance_ngc4993_is_not_first(alerts_data: Path, galaxies: Catalog) -> None:
    import dataclasses

    sky = read_skymap(alerts_data / "maps" / "GW170817.multiorder.fits")
    flat = dataclasses.replace(sky, mu_mpc=None, sigma_mpc=None, norm=None)
    names = [galaxy.name for galaxy in rank_galaxies(flat, galaxies, weight="none", range_2d_mpc=(0, 1e5)).galaxies]
    assert names.index("NGC4993") == 3


@pytest.mark.parametrize("weight", ["none", "K", "B", "mass"])
def test_p_host_of_all_galaxies_and_the_rest_sum_to_one(alerts_data: Path, galaxies: Catalog, weight: str) -> None:
    ranking = rank_galaxies(read_skymap(alerts_data / "maps" / "GW170817.multiorder.fits"), galaxies, weight=weight, top=100_000)  # type: ignore[arg-type]
    assert sum(galaxy.p_host for galaxy in ranking.galaxies) + ranking.not_in_catalog == pytest.approx(1, abs=1e-12)
