"""Sky maps: every form they come in, and every form of damage."""

from __future__ import annotations

import dataclasses
import gzip
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.alerts.making import fits_of, whole_sky

from nightbell.alerts.fits_table import BLOCK, CARD
from nightbell.alerts.healpix import cell_area_sr, centres_of, ring_index
from nightbell.alerts.skymap import SkyMap, make_skymap, within_distance
from nightbell.alerts.skymap_file import parse_skymap, read_skymap
from nightbell.contracts.errors import BadInput, NoSuchInput


def card(key: str, value: object) -> bytes:
    shown = f"'{value:<8}'" if isinstance(value, str) else f"{str(value).upper()[:1] if isinstance(value, bool) else value:>20}"
    return f"{key:<8}= {shown}".ljust(CARD).encode()


def fits_table(columns: dict[str, tuple[str, np.ndarray]], **header: object) -> bytes:
    """A FITS file with one table; formats as TFORM has them."""
    kinds = {"K": ">i8", "J": ">i4", "D": ">f8", "E": ">f4", "I": ">i2", "B": "u1"}
    dtype = []
    for name, (form, _) in columns.items():
        repeat = int(form[:-1] or 1)
        dtype.append((name, kinds[form[-1]]) if repeat == 1 else (name, kinds[form[-1]], (repeat,)))
    n_rows = len(next(iter(columns.values()))[1])
    rows = np.zeros(n_rows, dtype=dtype)
    for name, (_, value) in columns.items():
        rows[name] = value
    cards = [card("XTENSION", "BINTABLE"), card("BITPIX", 8), card("NAXIS", 2), card("NAXIS1", rows.dtype.itemsize), card("NAXIS2", n_rows)]
    cards += [card("PCOUNT", 0), card("GCOUNT", 1), card("TFIELDS", len(columns))]
    for i, (name, (form, _)) in enumerate(columns.items(), 1):
        cards += [card(f"TTYPE{i}", name), card(f"TFORM{i}", form)]
    cards += [card(key.replace("_", "-"), value) for key, value in header.items()]
    primary = card("SIMPLE", True) + card("BITPIX", 8) + card("NAXIS", 0) + b"END".ljust(CARD)
    table = b"".join(cards) + b"END".ljust(CARD)
    data = rows.tobytes()
    return b"".join(part.ljust(-(-len(part) // BLOCK) * BLOCK, fill) for part, fill in ((primary, b" "), (table, b" "), (data, b"\0")))


def changed(data: bytes, key: str, value: object) -> bytes:
    start = data.index(f"{key:<8}=".encode())
    return data[:start] + card(key, value) + data[start + CARD :]


@pytest.mark.parametrize("form", ["K", "J", "D"])
def test_uniq_may_be_stored_as_any_exact_number(form: str) -> None:
    n = 48
    uniq = 16 + np.arange(n)
    data = fits_table({"UNIQ": (form, uniq[::-1]), "PROBDENSITY": ("D", np.full(n, 1 / (4 * np.pi)))})
    sky = parse_skymap(data, where="map")
    assert sky.cell.tolist() == list(range(n))
    assert set(sky.order) == {1}


def test_uniq_as_unsigned_integers_is_read_with_its_offset() -> None:
    n = 48
    stored = (16 + np.arange(n, dtype=np.uint64) + (1 << 63)).view(np.int64)  # minus 2^63, as FITS stores it
    data = fits_table({"UNIQ": ("K", stored), "PROBDENSITY": ("D", np.full(n, 1 / (4 * np.pi)))}, TZERO1=1 << 63)
    assert parse_skymap(data, where="map").cell.tolist() == list(range(n))


@given(st.integers(0, 29).flatmap(lambda order: st.tuples(st.just(order), st.integers(0, 12 * 4**order - 1))))
def test_uniq_of_every_order_decodes_exactly(place: tuple[int, int]) -> None:
    order, cell = place
    # The rest of the sky is filled with the cell's siblings at each order, so that the map is whole.
    orders, cells = [order], [cell]
    at, inner = order, cell
    while at > 0:
        siblings = [inner >> 2 << 2 | k for k in range(4) if (inner >> 2 << 2 | k) != inner]
        orders += [at] * 3
        cells += siblings
        at, inner = at - 1, inner >> 2
    orders += [0] * 11
    cells += [face for face in range(12) if face != inner]
    uniq = [4 ** (o + 1) + c for o, c in zip(orders, cells, strict=True)]
    sky = parse_skymap(fits_table({"UNIQ": ("K", np.array(uniq)), "PROBDENSITY": ("D", np.full(len(uniq), 1 / (4 * np.pi)))}), where="map")
    assert (order, cell) in set(zip(sky.order.tolist(), sky.cell.tolist(), strict=True))
    assert sky.beyond[-1] == 12 << 58


@pytest.mark.parametrize("bad", [3, -5, 16 + 48])
def test_cells_that_do_not_exist_are_refused(bad: int) -> None:
    uniq = 16 + np.arange(48)
    uniq[7] = bad
    with pytest.raises(BadInput, match="UNIQ"):
        parse_skymap(fits_table({"UNIQ": ("K", uniq), "PROBDENSITY": ("D", np.full(48, 1 / (4 * np.pi)))}), where="map")


def test_overlapping_cells_are_refused() -> None:
    uniq = np.concatenate([16 + np.arange(48), [64]])
    with pytest.raises(BadInput, match="overlap"):
        parse_skymap(fits_table({"UNIQ": ("K", uniq), "PROBDENSITY": ("D", np.full(49, 1 / (4 * np.pi)))}), where="map")


@pytest.mark.parametrize("scheme", ["NESTED", "RING"])
@pytest.mark.parametrize(("name", "repeat"), [("PROB", 1), ("PROBABILITY", 1024)])
def test_flat_maps_hold_probability_per_cell_in_either_scheme_and_block(scheme: str, name: str, repeat: int) -> None:
    order = 5
    nested = np.arange(12 * 4**order)
    probability = (nested % 7 + 1.0) / (nested % 7 + 1.0).sum()
    stored = probability.copy()
    if scheme == "RING":
        stored[ring_index(order, nested)] = probability
    column = (f"{repeat}D" if repeat > 1 else "D", stored.reshape(-1, repeat) if repeat > 1 else stored)
    sky = parse_skymap(fits_table({name: column}, ORDERING=scheme, NSIDE=2**order, COORDSYS="C"), where="map")
    at = np.random.default_rng(1).integers(0, len(nested), 200)
    rows = sky.rows_of(*centres_of(order, at))
    assert sky.rho[rows] == pytest.approx(probability[at] / float(cell_area_sr(order)))


def test_four_equal_neighbours_of_a_flat_map_become_one_row_and_nothing_is_lost() -> None:
    order = 6
    value = np.ones(12 * 4**order)
    value[: 4**order] = np.repeat(np.arange(4**3) + 2.0, 4**3)
    sky = parse_skymap(fits_table({"PROB": ("D", value / value.sum())}, ORDERING="NESTED"), where="map")
    assert len(sky.rho) == 11 + 64
    assert float(sky.probability.sum()) == pytest.approx(1, abs=1e-12)


def test_a_map_in_galactic_coordinates_is_refused_not_ignored() -> None:
    data = fits_table({"UNIQ": ("K", 16 + np.arange(48)), "PROBDENSITY": ("D", np.full(48, 1 / (4 * np.pi)))}, COORDSYS="G")
    with pytest.raises(BadInput, match="COORDSYS"):
        parse_skymap(data, where="map")


def test_probability_far_from_one_is_refused_and_near_one_is_scaled_with_a_warning() -> None:
    cells, orders = np.arange(48), np.full(48, 1)
    rho = np.full(48, 1 / (4 * np.pi))
    with pytest.raises(BadInput, match=r"sums to 1\.01"):
        make_skymap(orders, cells, rho * 1.01)
    scaled = make_skymap(orders, cells, rho * 1.0005)
    assert scaled.warnings
    assert float(scaled.probability.sum()) == pytest.approx(1, abs=1e-12)


def test_a_map_of_a_part_of_the_sky_holds_nothing_elsewhere() -> None:
    sky = make_skymap(np.full(12, 1), np.arange(12), np.full(12, 1.0) / float(cell_area_sr(1)) / 12)
    assert sky.rows_of(np.array([0.0]), np.array([-89.0])).tolist() == [-1]


DAMAGE: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("NAXIS2", lambda data: changed(data, "NAXIS2", 1 << 60)),
    ("NAXIS2", lambda data: changed(data, "NAXIS2", 10_000)),
    ("NAXIS1", lambda data: changed(data, "NAXIS1", -40)),
    ("TFORM2", lambda data: changed(data, "TFORM2", "1000000D")),
    ("TFORM1", lambda data: changed(data, "TFORM1", "1PD(9)")),
    ("TFIELDS", lambda data: changed(data, "TFIELDS", 1 << 40)),
    ("header", lambda data: data[: BLOCK + 400]),
    ("NAXIS2", lambda data: data[:-BLOCK]),
    ("SIMPLE", lambda data: data[1:]),
    ("SIMPLE", lambda _: b""),
    ("gzip", lambda data: gzip.compress(data)[:200]),
    ("unpacks to more", lambda _: gzip.compress(b"\0" * (64 << 20))),
]


@pytest.mark.parametrize(("word", "damage"), DAMAGE)
def test_a_damaged_map_is_refused_by_name_before_anything_is_allocated(word: str, damage: Callable[[bytes], bytes]) -> None:
    data = damage(fits_of(whole_sky(4)))
    tracemalloc.start()
    with pytest.raises(BadInput) as refused:
        parse_skymap(data, where="event.skymap")
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "event.skymap" in str(refused.value)
    assert word in str(refused.value)
    assert peak_bytes < 60 << 20


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 12_000), st.integers(0, 255)), min_size=1, max_size=20), st.integers(0, 12_000))
def test_flipped_bytes_give_a_map_or_a_refusal_never_anything_else(flips: list[tuple[int, int]], cut: int) -> None:
    data = bytearray(fits_of(whole_sky(1)))
    for position, value in flips:
        data[position % len(data)] = value
    for one in (bytes(data), bytes(data[:cut])):
        try:
            sky = parse_skymap(one, where="map")
        except BadInput:
            continue
        assert float(sky.probability.sum()) == pytest.approx(1, abs=1e-6)


def test_a_changed_header_is_the_same_map_and_a_changed_value_is_not() -> None:
    data = fits_of(whole_sky(2))
    digest = parse_skymap(data, where="map").digest
    assert parse_skymap(changed(data, "OBJECT", "other"), where="map").digest == digest
    rho = np.ones(12 * 16)
    rho[5] = 1.1
    assert whole_sky(2, rho=rho).digest != digest


def test_rows_without_distance_have_no_density_and_raise_no_warning() -> None:
    sky = whole_sky(1)
    assert sky.mu_mpc is not None
    assert sky.sigma_mpc is not None
    assert sky.norm is not None
    sky.mu_mpc[3], sky.norm[3] = np.inf, 0.0
    sky.mu_mpc[4], sky.sigma_mpc[4] = -np.inf, 1.0
    sky.norm[4] = 0.0
    sky.sigma_mpc[5] = -1.0
    rows = np.array([3, 4, 5])
    assert np.isneginf(sky.log_density(rows, np.array([40.0, 40.0, 40.0]))).all()
    assert sky.prob_without_distance == pytest.approx(3 / 48)
    assert sky.total_3d == pytest.approx(1 - 3 / 48, abs=1e-4)  # mu/sigma of 5: 1e-5 lies behind us


def test_levels_grow_as_density_falls() -> None:
    rho = np.linspace(1, 2, 192)
    sky = whole_sky(2, rho=rho)
    levels = sky.levels_2d()
    assert (np.diff(levels) < 0).all()
    assert levels.max() == pytest.approx(1)


@given(st.floats(-18, 12), st.floats(1, 50))
def test_the_distance_integral_agrees_with_a_fine_sum(ratio: float, sigma: float) -> None:
    mu = ratio * sigma
    step = min(sigma, sigma * sigma / max(abs(mu), sigma)) / 2000
    r = (np.arange(80_000) + 0.5) * step if mu < 0 else np.linspace(max(0, mu - 9 * sigma), mu + 9 * sigma, 400_001)
    z = (r - mu) / sigma
    logs = 2 * np.log(np.maximum(r, 1e-300)) - 0.5 * z * z
    scale = logs.max()
    total = np.exp(logs - scale).sum() * (r[1] - r[0]) / sigma / np.sqrt(2 * np.pi)
    one = within_distance(np.array([0.0]), np.array([np.inf]), np.array([mu]), np.array([sigma]), np.array([-scale]))
    # The sum's own error; the closed form just above mu/s = -4 keeps six digits.
    assert one[0] == pytest.approx(total, rel=3e-5)


def test_levels_3d_agree_with_a_brute_force_integral() -> None:
    rho = np.random.default_rng(3).uniform(0.2, 3, 48)
    sky: SkyMap = whole_sky(1, rho=rho, mu=50.0, sigma=10.0)
    assert sky.norm is not None
    r = np.linspace(0, 150, 30_001)
    density = sky.rho[:, None] * sky.norm[:, None] * np.exp(-0.5 * ((r - 50) / 10) ** 2)[None, :] / 10 / np.sqrt(2 * np.pi)
    probability = density * r**2 * (r[1] - r[0]) * sky.area_sr[:, None]
    for row, distance in ((0, 45.0), (10, 60.0), (47, 30.0)):
        q = sky.log_density(np.array([row]), np.array([distance]))
        brute = probability[density >= np.exp(q[0])].sum()
        assert sky.levels_3d(q)[0] == pytest.approx(brute, abs=2e-4)


def test_areas_densities_and_levels_agree_with_ligo_skymap(shared_data: Path) -> None:
    crossmatch = pytest.importorskip("ligo.skymap.postprocess.crossmatch", reason="needs: pip install ligo.skymap")
    from astropy.coordinates import SkyCoord
    from astropy.table import Table

    path = shared_data / "alerts" / "maps" / "GW170817.multiorder.fits"
    rng = np.random.default_rng(5)
    ra, dec, dist = rng.uniform(190, 200, 300), rng.uniform(-30, -12, 300), rng.uniform(15, 70, 300)
    sky = read_skymap(path)
    names = ("UNIQ", "PROBDENSITY", "DISTMU", "DISTSIGMA", "DISTNORM")
    table = Table([sky.uniq, sky.rho, sky.mu_mpc, sky.sigma_mpc, sky.norm], names=names)
    found = crossmatch.crossmatch(table, SkyCoord(ra, dec, dist, unit=("deg", "deg", "Mpc")), contours=(0.5, 0.9), areas=())
    rows = sky.rows_of(ra, dec)
    assert [sky.area_deg2(0.5), sky.area_deg2(0.9)] == pytest.approx(list(found.contour_areas), rel=1e-12)
    assert sky.rho[rows] == pytest.approx(found.probdensity, rel=1e-12)
    assert sky.levels_2d()[rows] == pytest.approx(found.searched_prob, rel=1e-12)
    # ligo.skymap reads its 3-D values at the next lower point of a grid of about 0.24 Mpc; exact ones differ by that.
    known = np.isfinite(found.searched_prob_vol)
    exact = sky.levels_3d(sky.log_density(rows, dist))
    assert np.abs(exact - found.searched_prob_vol)[known].max() < 0.02


# -- odd maps ------------------------------------------------------------------------------------------------------------


def layered(order: int = 2, **changes: np.ndarray) -> dict[str, tuple[str, np.ndarray]]:
    """Columns of a multi-order map with distance layers, some of them changed."""
    sky = whole_sky(order)
    columns = {"UNIQ": sky.uniq, "PROBDENSITY": sky.rho, "DISTMU": sky.mu_mpc, "DISTSIGMA": sky.sigma_mpc, "DISTNORM": sky.norm}
    return {name: ("K" if name == "UNIQ" else "D", np.asarray(changes.get(name, value))) for name, value in columns.items()}


def with_cards(data: bytes, **cards: object) -> bytes:
    """A FITS table whose last header block has room for a few cards more."""
    end = data.index(b"END".ljust(CARD), BLOCK)
    more = b"".join(card(key, value) for key, value in cards.items()) + b"END".ljust(CARD)
    assert data[end + CARD : end + len(more)].strip() == b""
    return data[:end] + more + data[end + len(more) :]


@pytest.mark.parametrize("density", ["deg-2", "1 / deg2", "deg**-2", "deg^(-2)"])
def test_units_of_a_map_are_obeyed_not_ignored(density: str) -> None:
    plain = parse_skymap(fits_table(layered()), where="map")
    columns = layered()
    columns["PROBDENSITY"] = ("D", columns["PROBDENSITY"][1] * (np.pi / 180) ** 2)
    for name, factor in (("DISTMU", 1e3), ("DISTSIGMA", 1e3), ("DISTNORM", 1e-6)):
        columns[name] = ("D", columns[name][1] * factor)
    data = with_cards(fits_table(columns), TUNIT2=density, TUNIT3="kpc", TUNIT4="kpc", TUNIT5="kpc-2")
    other = parse_skymap(data, where="map")
    assert other.mu_mpc == pytest.approx(plain.mu_mpc)
    assert other.volume_mpc3(0.9) == pytest.approx(plain.volume_mpc3(0.9))
    assert not other.warnings


def test_an_unknown_unit_of_distance_is_told_and_one_of_probability_refused() -> None:
    told = parse_skymap(with_cards(fits_table(layered()), TUNIT3="furlong"), where="map")
    assert "furlong" in told.warnings[0]
    with pytest.raises(BadInput, match="PROBDENSITY"):
        parse_skymap(with_cards(fits_table(layered()), TUNIT2="furlong"), where="map")


def test_columns_that_no_map_needs_may_stand_anywhere() -> None:
    want = parse_skymap(fits_table(layered()), where="map")
    names = list(layered())
    n = len(want.rho)
    rows = np.zeros(
        n, dtype=[("A", "S5"), *((name, ">i8" if name == "UNIQ" else ">f8") for name in reversed(names)), ("M", "V16"), ("X", "V2")]
    )
    for name, (_, value) in layered().items():
        rows[name] = value
    forms = ["5A", *("D" for _ in names[1:]), "K", "M", "11X"]
    cards = [card("XTENSION", "BINTABLE"), card("BITPIX", 8), card("NAXIS", 2), card("NAXIS1", rows.dtype.itemsize), card("NAXIS2", n)]
    cards += [card("PCOUNT", 0), card("GCOUNT", 1), card("TFIELDS", len(forms))]
    for i, (name, form) in enumerate(zip(rows.dtype.names or (), forms, strict=True), 1):
        cards += [card(f"TTYPE{i}", name.lower()), card(f"TFORM{i}", form)]
    primary = card("SIMPLE", True) + card("BITPIX", 8) + card("NAXIS", 0) + b"END".ljust(CARD)
    parts = ((primary, b" "), (b"".join(cards) + b"END".ljust(CARD), b" "), (rows.tobytes(), b"\0"))
    data = b"".join(part.ljust(-(-len(part) // BLOCK) * BLOCK, fill) for part, fill in parts)
    assert parse_skymap(data, where="map").digest == want.digest


def test_a_column_with_another_number_of_values_than_cells_is_refused() -> None:
    columns = layered()
    columns["PROBDENSITY"] = ("2D", np.repeat(columns["PROBDENSITY"][1][:, None], 2, axis=1))
    with pytest.raises(BadInput, match="PROBDENSITY: has 384 values for 192 cells"):
        parse_skymap(fits_table(columns), where="map")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300, -1e300])
def test_layers_without_a_single_distance_make_a_map_of_two_dimensions(value: float) -> None:
    sky = parse_skymap(fits_table(layered(DISTMU=np.full(192, value))), where="map")
    assert not sky.has_distance
    assert sky.prob_without_distance == pytest.approx(1)
    assert sky.volume_mpc3(0.9) is None
    assert "place alone" in sky.warnings[0]


@pytest.mark.parametrize(("factor", "usable"), [(1.0, True), (1.04, True), (0.5, True), (10.0, False), (1e300, False), (1e-300, False)])
def test_distance_layers_that_do_not_integrate_to_one_are_told_and_nonsense_is_not_used(factor: float, usable: bool) -> None:
    norm = whole_sky(2).norm
    assert norm is not None
    sky = parse_skymap(fits_table(layered(DISTNORM=norm * factor)), where="map")
    assert sky.has_distance is usable
    assert bool(sky.warnings) is (factor != 1.0)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:ligo.*")
def test_mean_and_width_of_the_distance_are_computed_where_the_header_does_not_say(shared_data: Path) -> None:
    from ligo.skymap.distance import parameters_to_marginal_moments

    sky = read_skymap(shared_data / "alerts" / "maps" / "GW170817.multiorder.fits")
    silent = make_skymap(sky.order, sky.cell, sky.rho, mu_mpc=sky.mu_mpc, sigma_mpc=sky.sigma_mpc, norm=sky.norm)
    assert sky.mu_mpc is not None
    assert sky.sigma_mpc is not None
    known = sky.with_distance  # ligo.skymap would count rows without distance as distance 0
    share = sky.probability[known] / sky.probability[known].sum()
    mean, std = parameters_to_marginal_moments(share, sky.mu_mpc[known], sky.sigma_mpc[known])
    assert (silent.distance_mean_mpc, silent.distance_std_mpc) == pytest.approx((mean, std), rel=1e-6)
    assert (sky.distance_mean_mpc, sky.distance_std_mpc) == pytest.approx((mean, std), rel=1e-3)


@pytest.mark.parametrize("scheme", ["NESTED", "RING"])
def test_a_flat_map_read_in_many_blocks_is_the_map_read_at_once(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    order = 5
    cells = np.arange(12 * 4**order)
    value = np.where(cells < 4**order, 1.0 + cells // 4**3, 1.0)  # some merge within a block, some across
    layer = np.where(cells % 5 == 0, np.nan, 40.0)
    layer[: 4 ** (order - 1)] = np.nan  # not a number, but the same one everywhere
    stored = {name: np.empty(len(cells)) for name in ("PROB", "DISTMU", "DISTSIGMA", "DISTNORM")}
    at = cells if scheme == "NESTED" else ring_index(order, cells)
    for name, column in (("PROB", value / value.sum()), ("DISTMU", layer), ("DISTSIGMA", layer / 5), ("DISTNORM", 1 / (layer**2 * 1.04))):
        stored[name][at] = column
    data = fits_table({name: ("D", column) for name, column in stored.items()}, ORDERING=scheme, NSIDE=2**order)
    at_once = parse_skymap(data, where="map")
    monkeypatch.setattr("nightbell.alerts.skymap_file.BLOCK_ORDER", 2)
    in_blocks = parse_skymap(data, where="map")
    assert in_blocks.digest == at_once.digest
    assert np.array_equal(in_blocks.uniq, at_once.uniq)


def test_a_flat_map_of_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(BadInput, match="ORDERING"):
        parse_skymap(fits_table({"PROB": ("D", np.full(12, 1 / 12))}, ORDERING="SPIRAL"), where="map")


def test_a_bomb_that_an_operator_names_is_refused_without_unpacking_it(tmp_path: Path) -> None:
    head = fits_of(whole_sky(4))
    cases = {
        "nothing": gzip.compress(bytes(100 << 20), 1),
        "behind": gzip.compress(head + bytes(100 << 20), 1),  # a good map, then zeros
        "rows": gzip.compress(changed(head, "NAXIS2", 1 << 60) + bytes(1 << 20), 1),
    }
    for name, packed in cases.items():
        path = tmp_path / f"{name}.fits.gz"
        path.write_bytes(packed)
        tracemalloc.start()
        if name == "behind":
            assert read_skymap(path).digest == parse_skymap(head, where="map").digest
        else:
            with pytest.raises(BadInput, match=path.name):
                read_skymap(path)
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
        tracemalloc.stop()


def test_files_that_are_no_map_are_named(tmp_path: Path) -> None:
    for name, content in (("empty.fits", b""), ("cut.fits.gz", gzip.compress(fits_of(whole_sky(2)))[:300]), ("text.fits", b"not a map")):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(BadInput, match=name):
            read_skymap(path)
    with pytest.raises(NoSuchInput, match="none"):
        read_skymap(tmp_path / "none.fits")
    with pytest.raises(NoSuchInput):
        read_skymap(tmp_path)


def test_a_long_list_of_levels_is_exact_where_it_is_looked_at_and_close_elsewhere(shared_data: Path) -> None:
    sky = read_skymap(shared_data / "alerts" / "maps" / "GW170817.multiorder.fits")
    q = np.log(np.geomspace(1e-12, 1e-2, 700))
    np.random.default_rng(5).shuffle(q)
    levels = sky.levels_3d(q)
    densest = np.argsort(-q)
    assert levels[densest[:200]] == pytest.approx(sky.levels_3d(q[densest[:200]]), abs=1e-12)
    some = densest[200::53]
    assert levels[some] == pytest.approx(sky.levels_3d(q[some]), abs=1e-3)
    assert (np.diff(levels[densest]) >= 0).all()


def test_a_map_of_very_many_rows_is_thinned_and_keeps_its_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(11)
    n = 12 * 4**6
    rho = rng.exponential(size=n) ** 2
    rho /= float((rho * cell_area_sr(6)).sum())
    mu, sigma = rng.normal(100, 20, n), rng.uniform(20, 30, n)
    whole = make_skymap(np.full(n, 6), np.arange(n), rho, mu_mpc=mu, sigma_mpc=sigma, norm=1 / (mu * mu + sigma * sigma))
    q, distances = np.log(np.geomspace(1e-9, 1e-7, 9)), np.array([50.0, 100.0, 150.0])
    wanted = whole.levels_3d(q), whole.probability_within(distances), whole.volume_mpc3(0.9), whole.total_3d
    monkeypatch.setattr("nightbell.alerts.skymap.MOST_ROWS", 4000)
    thin = dataclasses.replace(whole)
    # 8000 rows stand for 49,152 here; the error falls with the root of their number, to below 1e-3 for 100,000.
    assert thin.levels_3d(q) == pytest.approx(wanted[0], abs=5e-3)
    assert thin.probability_within(distances) == pytest.approx(wanted[1], abs=5e-3)
    assert thin.volume_mpc3(0.9) == pytest.approx(wanted[2], rel=5e-3)
    assert thin.total_3d == pytest.approx(wanted[3], rel=1e-3)
