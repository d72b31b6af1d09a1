"""FITS columns -> `SkyMap`: multi-order maps by UNIQ, flat maps in either scheme, packed or not.

A flat map of 50 million cells is read block by block: four equal neighbours become one, again and again, before the next block is
touched. Nothing is lost, and 98 % of the cells of a real map go.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightbell.alerts.fits_table import (
    LARGEST_NOTICE_BYTES,
    LARGEST_ROWS,
    LARGEST_ROWS_OPERATOR,
    Table,
    gunzip,
    open_file,
    read_table,
)
from nightbell.alerts.healpix import DEEPEST, cell_area_sr, ring_index
from nightbell.alerts.skymap import SQ_DEG_PER_SR, SkyMap, make_skymap
from nightbell.contracts.errors import BadInput

__all__ = ["parse_skymap", "read_skymap"]

Array = NDArray[np.float64]
Columns = dict[str, Array]
BLOCK_ORDER = 9
"""Flat maps are read in blocks of 4^9 cells: 10 MB for five columns."""
MOST_CELLS = 13_000_000
"""That remain of a flat map after merging; what is more is no map of a real event, and would fill the memory."""
_PER_SR = {"": 1.0, "sr-1": 1.0, "1/sr": 1.0, "deg-2": SQ_DEG_PER_SR, "1/deg2": SQ_DEG_PER_SR}
_IN_MPC = {"": 1.0, "mpc": 1.0, "gpc": 1e3, "kpc": 1e-3, "pc": 1e-6}
_LAYERS = (("mu", "DISTMU"), ("s", "DISTSIGMA"), ("n", "DISTNORM"))


def read_skymap(path: str | Path) -> SkyMap:
    """A sky map file, multi-order or flat, packed or not. Raises `BadInput` naming file and keyword."""
    file = Path(path)
    return _from_table(read_table(open_file(file), where=str(file), largest_rows=LARGEST_ROWS_OPERATOR), str(file))


def parse_skymap(data: bytes, *, where: str) -> SkyMap:
    """A sky map that arrived inside a notice: the stricter limits."""
    data = gunzip(data, where=where, largest_bytes=LARGEST_NOTICE_BYTES)
    return _from_table(read_table(data, where=where, largest_rows=LARGEST_ROWS), where)


def _from_table(table: Table, where: str) -> SkyMap:
    frame = str(table.header.get("COORDSYS", "C")).strip().upper()
    if frame not in {"C", "ICRS", "EQUATORIAL", "CELESTIAL"}:
        raise BadInput(f"{frame!r} is not equatorial", where=f"{where}: COORDSYS", remedy="Rotate the map to ICRS (COORDSYS = 'C') first")
    warnings: list[str] = []
    order, cell, columns = _multi_order(table, where) if "UNIQ" in table.columns else _flat(table, where)
    rho = columns.pop("rho")
    units = {key: _distance_unit(table, name, where, warnings) for key, name in _LAYERS if key in columns}
    with np.errstate(invalid="ignore", over="ignore"):  # what is no number stays none
        layers = {key: columns[key] * unit for key, unit in units.items()}
    if 0 < len(layers) < len(_LAYERS):
        warnings.append(f"{where}: of DISTMU, DISTSIGMA and DISTNORM not all are there: ranked by place alone")
        layers = {}
    return make_skymap(
        order,
        cell,
        rho,
        mu_mpc=layers.get("mu"),
        sigma_mpc=layers.get("s"),
        norm=layers.get("n"),
        header=dict(table.header),
        where=where,
        warnings=tuple(warnings),
    )


def _distance_unit(table: Table, name: str, where: str, warnings: list[str]) -> float:
    """What makes Mpc (and for DISTNORM 1/Mpc^2) of a layer."""
    unit = _plain(table.units.get(name, ""))
    in_mpc = _IN_MPC.get(unit.removesuffix("-2").removeprefix("1/").removesuffix("2") if name == "DISTNORM" else unit)
    if in_mpc is None:
        warnings.append(f"{where}: {name} is in {table.units[name][:20]!r}, taken as Mpc")
        return 1.0
    return in_mpc**-2 if name == "DISTNORM" else in_mpc


def _plain(unit: str) -> str:
    """Units are spelled in many ways: 1 / deg2, deg**-2, deg^(-2), deg-2."""
    for sign in (" ", "*", "^", "(", ")"):
        unit = unit.replace(sign, "")
    return unit.lower()


def _numbers(column: NDArray[Any]) -> Array:
    with np.errstate(invalid="ignore"):  # a signalling NaN is a NaN
        return np.ascontiguousarray(column, dtype=np.float64)  # also turns FITS's big-endian bytes


# -- multi-order --------------------------------------------------------------------------------------------------------


def _multi_order(table: Table, where: str) -> tuple[NDArray[np.int64], NDArray[np.int64], Columns]:
    uniq = _uniq(table.columns["UNIQ"].reshape(-1), where)
    # floor(log2) through floating point is wrong beyond 2^53: compare with exact integers instead.
    order = np.searchsorted(np.int64(4) << (2 * np.arange(DEEPEST + 1, dtype=np.int64)), uniq, side="right") - 1
    cell = uniq - (np.int64(4) << (2 * order))
    if (cell >= np.int64(12) << (2 * order)).any():
        raise BadInput("holds cells beyond the sphere", where=f"{where}: UNIQ", remedy="Fetch the map again; its cells do not exist")
    if "PROBDENSITY" not in table.columns:
        raise BadInput(f"has no PROBDENSITY, only {', '.join(table.columns)}", where=where, remedy="Give an LVK multi-order map")
    unit = table.units["PROBDENSITY"]
    if _plain(unit) not in _PER_SR:
        raise BadInput(f"{unit[:20]!r} is no density on the sky", where=f"{where}: PROBDENSITY", remedy="Give it in sr-1 or deg-2")
    with np.errstate(invalid="ignore", over="ignore"):
        columns = {"rho": _numbers(table.columns["PROBDENSITY"].reshape(-1)) * _PER_SR[_plain(unit)]}
    columns.update({key: _numbers(table.columns[name].reshape(-1)) for key, name in _LAYERS if name in table.columns})
    for key, name in (("rho", "PROBDENSITY"), *_LAYERS):
        if key in columns and len(columns[key]) != len(uniq):
            raise BadInput(
                f"has {len(columns[key]):,} values for {len(uniq):,} cells", where=f"{where}: {name}", remedy="Write one value a cell"
            )
    return order, cell, columns


def _uniq(raw: NDArray[Any], where: str) -> NDArray[np.int64]:
    if raw.dtype.kind == "f":
        if not (np.isfinite(raw).all() and (raw == np.floor(raw)).all() and (np.abs(raw) < 2.0**53).all()):
            raise BadInput("holds numbers that are no exact integers", where=f"{where}: UNIQ", remedy="Write UNIQ as 64-bit integers")
    elif raw.dtype.kind == "u" and len(raw) and int(raw.max()) >= 1 << 62:
        raise BadInput("holds cells finer than order 29", where=f"{where}: UNIQ", remedy="Give a map of order 29 or coarser")
    uniq: NDArray[np.int64] = raw.astype(np.int64)
    if len(uniq) == 0:
        raise BadInput("has no rows", where=where, remedy="Fetch the map again")
    if int(uniq.min()) < 4 or int(uniq.max()) >= 1 << 62:
        raise BadInput("holds values outside 4 to 2^62", where=f"{where}: UNIQ", remedy="Fetch the map again; its cells do not exist")
    return uniq


# -- flat ---------------------------------------------------------------------------------------------------------------


def _flat(table: Table, where: str) -> tuple[NDArray[np.int64], NDArray[np.int64], Columns]:
    header, stored = table.header, table.columns
    name = next((one for one in ("PROB", "PROBABILITY", "PROBDENSITY") if one in stored), None)
    if name is None:
        raise BadInput(f"has neither UNIQ nor PROB, only {', '.join(stored)}", where=where, remedy="Give a HEALPix sky map")
    if str(header.get("INDXSCHM", "IMPLICIT")).strip().upper() != "IMPLICIT":
        raise BadInput("partial flat maps are not read", where=f"{where}: INDXSCHM", remedy="Use the multi-order map")
    scheme = str(header.get("ORDERING", "RING")).strip().upper()
    if scheme not in {"RING", "NESTED", "NEST"}:
        raise BadInput(f"{scheme!r} is neither RING nor NESTED", where=f"{where}: ORDERING", remedy="Fetch the map again")
    n = stored[name].size
    nside = math.isqrt(n // 12)
    order = nside.bit_length() - 1
    if nside < 1 or 12 * nside * nside != n or 1 << order != nside:
        raise BadInput(f"{n:,} cells are not 12 times a power of 4", where=where, remedy="Fetch the map again")
    if header.get("NSIDE", nside) != nside:
        raise BadInput(f"says {header['NSIDE']}, its cells make {nside}", where=f"{where}: NSIDE", remedy="Fetch the map again")
    wanted = {"rho": stored[name], **{key: stored[layer] for key, layer in _LAYERS if layer in stored}}
    for key, column in wanted.items():
        if column.size != n:
            raise BadInput(f"has {column.size:,} values for {n:,} cells", where=f"{where}: {key}", remedy="Write one value a cell")
    # Probability per cell in flat maps, per solid angle in multi-order ones; the unit decides where it is given.
    per_sr = _PER_SR.get(_plain(table.units[name]))
    density = name == "PROBDENSITY" if not table.units[name] else per_sr is not None
    orders, cells, columns = _merged(order, wanted, nested=scheme != "RING", where=where)
    with np.errstate(invalid="ignore", over="ignore"):
        columns["rho"] *= (per_sr or 1.0) if density else 1.0 / float(cell_area_sr(order))
    return orders, cells, columns


def _merged(
    order: int, stored: dict[str, NDArray[Any]], *, nested: bool, where: str
) -> tuple[NDArray[np.int64], NDArray[np.int64], Columns]:
    """(order, cell, columns) of a flat map in which four equal neighbours are one, block by block."""
    depth = min(order, BLOCK_ORDER)
    size = 4**depth
    kept: list[tuple[int, NDArray[np.int64], Columns]] = []
    whole: list[tuple[NDArray[np.int64], Columns]] = []
    n_kept = 0
    for start in range(0, 12 * 4**order, size):
        cell = np.arange(start, start + size, dtype=np.int64)
        place = cell if nested else ring_index(order, cell)
        columns = {key: _numbers(_at(column, place)) for key, column in stored.items()}
        pieces, cell, columns = _merge_up(order, order - depth, cell, columns)
        kept += pieces
        whole.append((cell, columns))
        n_kept += sum(len(one) for _, one, _ in pieces)
        if n_kept > MOST_CELLS:
            raise BadInput(
                f"has more than {MOST_CELLS:,} cells that differ from their neighbours", where=where, remedy="Use the multi-order map"
            )
    cell, columns = np.concatenate([one for one, _ in whole]), _joined([one for _, one in whole])
    pieces, cell, columns = _merge_up(order - depth, 0, cell, columns)
    kept += [*pieces, (0, cell, columns)]
    orders = np.concatenate([np.full(len(one), depth, dtype=np.int64) for depth, one, _ in kept])
    return orders, np.concatenate([one for _, one, _ in kept]), _joined([one for _, _, one in kept])


def _at(column: NDArray[Any], place: NDArray[np.int64]) -> NDArray[Any]:
    return column[place] if column.ndim == 1 else column[place // column.shape[1], place % column.shape[1]]


def _joined(parts: list[Columns]) -> Columns:
    return {key: np.concatenate([one[key] for one in parts]) for key in parts[0]}


def _merge_up(
    order: int, coarsest: int, cell: NDArray[np.int64], columns: Columns
) -> tuple[list[tuple[int, NDArray[np.int64], Columns]], NDArray[np.int64], Columns]:
    """(cells that differ from their sisters, order by order; the cells of `coarsest` that remain; their columns)."""
    kept: list[tuple[int, NDArray[np.int64], Columns]] = []
    for depth in range(order, coarsest, -1):
        starts = np.flatnonzero((cell[:-3] & 3) == 0) if len(cell) > 3 else np.empty(0, dtype=np.int64)
        starts = starts[cell[starts + 3] == cell[starts] + 3]
        for column in columns.values():
            bits = column.view(np.int64)  # NaN differs from itself; its bits do not
            starts = starts[(bits[starts] == bits[starts + 1]) & (bits[starts] == bits[starts + 2]) & (bits[starts] == bits[starts + 3])]
        merged = np.zeros(len(cell), dtype=bool)
        for k in range(4):
            merged[starts + k] = True
        kept.append((depth, cell[~merged], {key: column[~merged] for key, column in columns.items()}))
        cell, columns = cell[starts] >> 2, {key: column[starts] for key, column in columns.items()}
    return kept, cell, columns
