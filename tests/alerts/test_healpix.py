"""Our HEALPix against astropy-healpix, an independent implementation."""

from __future__ import annotations

import numpy as np
import pytest
from astropy import units as u
from astropy_healpix import HEALPix

from nightbell.alerts.healpix import cells_of, centres_of, ring_index


@pytest.fixture(scope="module")
def places() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(20270412)
    return rng.uniform(0, 360, 20_000), np.degrees(np.arcsin(rng.uniform(-1, 1, 20_000)))


@pytest.mark.parametrize("order", [0, 1, 4, 9, 13, 29])
def test_positions_fall_into_the_cells_that_astropy_healpix_says(order: int, places: tuple[np.ndarray, np.ndarray]) -> None:
    ra, dec = places
    want = HEALPix(nside=2**order, order="nested").lonlat_to_healpix(ra * u.deg, dec * u.deg)
    # At order 29 a cell is 0.4 mas wide, as narrow as the rounding of a double: neighbours may be told apart differently there.
    differ = np.flatnonzero(cells_of(ra, dec, order) != want)
    assert len(differ) <= (20 if order == 29 else 0)


@pytest.mark.parametrize("order", [0, 1, 3, 6])
def test_centres_agree_with_astropy_healpix(order: int) -> None:
    cells = np.arange(12 * 4**order)
    ra, dec = centres_of(order, cells)
    want_ra, want_dec = HEALPix(nside=2**order, order="nested").healpix_to_lonlat(cells)
    assert np.abs((ra - want_ra.deg + 180) % 360 - 180).max() < 1e-11
    assert np.abs(dec - want_dec.deg).max() < 1e-11


@pytest.mark.parametrize("order", [0, 1, 2, 5, 13])
def test_the_place_of_a_nested_cell_in_the_ring_scheme_is_what_astropy_healpix_says(order: int) -> None:
    n = 12 * 4**order
    cells = np.arange(n) if n < 50_000 else np.random.default_rng(3).integers(0, n, 50_000)
    assert np.array_equal(ring_index(order, cells), HEALPix(nside=2**order, order="nested").nested_to_ring(cells))


@pytest.mark.parametrize("order", [0, 3, 12, 29])
def test_the_centre_of_a_cell_lies_in_it(order: int) -> None:
    cells = np.random.default_rng(7).integers(0, 12 * 4**order, 5000)
    assert np.array_equal(cells_of(*centres_of(order, cells), order), cells) or order == 29
    # At the finest order the centre is a rounding away from the border.
    assert np.array_equal(cells_of(*centres_of(order, cells), order) >> 6, cells >> 6)


def test_poles_full_turns_and_negative_right_ascensions_have_one_cell_each() -> None:
    ra = np.array([0.0, 360.0, -10.0, 350.0, 123.0, 45.0, -1e-15])
    dec = np.array([0.0, 0.0, 20.0, 20.0, 90.0, -90.0, 0.0])
    cells = cells_of(ra, dec, 8)
    assert cells[0] == cells[1] == cells[6]
    assert cells[2] == cells[3]
    assert ((cells >= 0) & (cells < 12 * 4**8)).all()
