"""The demonstration's alert: a superevent like GW170817 ten years later, with its sky map and the galaxies around it.

Generated, no outside file: a map of 28 deg2 (90 %) at 40 +- 8 Mpc (Abbott et al. 2017, ApJL 848, L12, for GW170817) over the
galaxies that really are there. The kilonova's host, NGC4993, must come out first by its place and distance, not by its name.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightbell.alerts.healpix import cell_area_sr, centres_of
from nightbell.alerts.notices.guards import encode_base64
from nightbell.contracts.instants import format_utc, parse_utc

__all__ = ["DEMO_ID", "GALAXIES", "HOST", "DemoAlert", "catalog_csv", "demo_map", "multi_order_fits", "write_demo_alert", "write_drill"]

Array = NDArray[np.float64]
DEMO_ID = "S270412a"
DEMO_EVENT_UTC = "2027-04-12T22:20:00Z"
HOST = "NGC4993"

CENTRE_DEG = (197.55, -23.25)
SIGMA_DEG = (2.36, 0.82)
"""Along and across: 2 pi ln(10) times their product is 28 deg2."""
POSITION_ANGLE_DEG = 75.0
"""Of the long axis, north through east."""
DISTANCE_MPC, DISTANCE_SIGMA_MPC = 40.0, 8.0
DEEPEST_ORDER = 9
CATALOG_RADIUS_DEG = 6.5

# name, ra_deg, dec_deg (ICRS), luminosity distance of the heliocentric redshift (H0 70, Om 0.3) in Mpc, K and B magnitude.
# Published values (2MASS, HyperLEDA, NED) as compiled in OpenNGC by M. Verga, CC-BY-SA-4.0, which holds for this table too:
# every NGC and IC galaxy of 15 to 90 Mpc within 6.5 deg of NGC 4993.
GALAXIES: tuple[tuple[str, float, float, float, float | None, float | None], ...] = (
    ("NGC4993", 197.4487, -23.3839, 42.2, 9.22, 13.45),
    ("IC4197", 197.0180, -23.7969, 43.6, 9.28, 13.55),
    ("NGC4968", 196.7749, -23.6770, 43.0, 9.48, 13.85),
    ("NGC4970", 196.8906, -24.0086, 46.7, 9.10, 13.33),
    ("IC4180", 196.7354, -23.9171, 42.4, 9.60, 13.72),
    ("NGC5042", 198.8793, -23.9841, 20.0, 9.40, 12.54),
    ("NGC5085", 200.0740, -24.4401, 29.6, None, 13.47),
    ("IC3927", 194.5433, -22.8760, 70.4, 9.34, 13.73),
    ("NGC5084", 200.0705, -21.8276, 24.7, 7.06, 11.60),
    ("NGC5087", 200.1040, -20.6110, 26.2, 7.82, 12.22),
    ("NGC5061", 199.5211, -26.8372, 29.3, 7.29, 11.21),
    ("NGC5022", 198.3783, -19.5466, 43.1, 9.52, 13.81),
    ("NGC5018", 198.2543, -19.5182, 40.6, 7.73, 11.68),
    ("IC4237", 201.1365, -21.1368, 38.6, 9.32, 13.22),
    ("NGC5006", 197.9407, -19.2617, 40.2, 9.27, 13.40),
    ("IC4231", 200.8057, -26.3004, 32.5, 10.70, 14.29),
    ("NGC5134", 201.3273, -21.1342, 25.1, 8.19, 12.45),
    ("IC879", 199.9190, -27.4290, 29.3, 10.89, 14.07),
    ("NGC5078", 199.9582, -27.4104, 30.8, 7.12, 12.02),
    ("NGC4830", 194.3663, -19.6913, 48.1, 8.85, 13.09),
    ("IC874", 199.7522, -27.6286, 33.1, 9.68, 13.51),
    ("NGC4831", 194.4029, -27.2921, 47.8, 9.32, 13.47),
    ("NGC5101", 200.4427, -27.4305, 26.9, 7.16, 11.57),
    ("NGC4965", 196.7891, -28.2282, 32.7, 10.50, 12.79),
    ("NGC5051", 199.0838, -28.2857, 64.7, 9.62, 14.00),
    ("IC3813", 192.5097, -25.9207, 46.5, 9.51, 13.79),
    ("NGC5048", 199.0349, -28.4105, 63.0, 9.63, 13.96),
    ("NGC4980", 197.2920, -28.6418, 20.5, 10.85, 13.55),
    ("IC4280", 203.2225, -24.2071, 71.6, 9.47, 13.53),
    ("IC4267", 202.6504, -26.2561, 64.7, 12.26, 15.20),
    ("IC4254", 201.9390, -27.2225, 33.3, 11.84, 15.60),
    ("IC4249", 201.7773, -27.9564, 27.2, 11.73, 14.37),
    ("IC863", 199.3017, -17.2545, 36.4, 10.25, 14.27),
    ("NGC4955", 196.5201, -29.7543, 49.8, 8.91, 13.16),
    ("IC4293", 204.0094, -25.8823, 66.2, 9.49, 13.57),
    ("IC4264", 202.5738, -27.9284, 50.5, 12.16, 14.96),
)
DISTANCE_ERROR_MPC = 3.6
"""250 km/s of peculiar motion over H0 = 70 km/s/Mpc."""


@dataclass(frozen=True)
class DemoAlert:
    """Files of one generated alert."""

    superevent_id: str
    notice: Path
    skymap: Path
    catalog: Path
    event_utc: str


def write_demo_alert(
    folder: Path, *, superevent_id: str = DEMO_ID, event_utc: str = DEMO_EVENT_UTC, kind: str = "INITIAL", search: str = "AllSky"
) -> DemoAlert:
    """Write notice (igwn JSON with the map inside), map (FITS) and catalogue (CSV) into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    event_ns = parse_utc(event_utc)
    fits = multi_order_fits(*demo_map(), event_utc=event_utc, name=superevent_id)
    record = igwn_record(superevent_id, event_ns, fits, kind=kind, search=search)
    notice, skymap, catalog = (
        folder / f"{superevent_id}-{kind.title()}.json",
        folder / f"{superevent_id}.multiorder.fits",
        folder / "galaxies.csv",
    )
    notice.write_text(json.dumps(record, indent=1), encoding="utf-8")
    skymap.write_bytes(fits)
    catalog.write_text(catalog_csv(), encoding="utf-8")
    return DemoAlert(superevent_id, notice, skymap, catalog, format_utc(event_ns))


def write_drill(folder: Path, *, now_ns: int) -> Path:
    """A mock notice of a moment ago: id MS..., search MDC. Returns its file."""
    day = format_utc(now_ns)[2:10].replace("-", "")
    letters, number = "", now_ns // 1_000_000_000 % 86_400
    while True:
        letters = chr(97 + number % 26) + letters
        number //= 26
        if not number:
            break
    folder.mkdir(parents=True, exist_ok=True)
    name = f"MS{day}{letters}"
    event_ns = now_ns - 120_000_000_000
    fits = multi_order_fits(*demo_map(), event_utc=format_utc(event_ns), name=name)
    path = folder / f"{name}-Preliminary.json"
    path.write_text(json.dumps(igwn_record(name, event_ns, fits, kind="PRELIMINARY", search="MDC"), indent=1), encoding="utf-8")
    return path


def igwn_record(superevent_id: str, event_ns: int, fits: bytes, *, kind: str, search: str) -> dict[str, Any]:
    """The record as LVK sends it: numbers like those of GW170817."""
    return {
        "alert_type": kind,
        "time_created": format_utc(event_ns + 240_000_000_000, digits=0),
        "superevent_id": superevent_id,
        "urls": {"gracedb": f"https://example.org/superevents/{superevent_id}/view/"},
        "event": {
            "significant": True,
            "time": format_utc(event_ns),
            "far": 3.2e-13,
            "instruments": ["H1", "L1", "V1"],
            "group": "CBC",
            "pipeline": "gstlal",
            "search": search,
            "properties": {"HasNS": 1.0, "HasRemnant": 1.0, "HasMassGap": 0.0},
            "classification": {"BNS": 0.99, "NSBH": 0.005, "BBH": 0.0, "Terrestrial": 0.005},
            "duration": None,
            "central_frequency": None,
            "skymap": encode_base64(fits),
        },
        "external_coinc": None,
    }


def catalog_csv() -> str:
    """The galaxies as a catalogue that says which cap of the sky it covers."""
    _, ra_deg, dec_deg, *_ = next(one for one in GALAXIES if one[0] == HOST)
    lines = [
        "# source: galaxies around NGC4993; published values compiled in OpenNGC (M. Verga), CC-BY-SA-4.0",
        f"# region: {ra_deg} {dec_deg} {CATALOG_RADIUS_DEG}",
        "name,ra_deg,dec_deg,dist_mpc,dist_err_mpc,k_mag,b_mag",
    ]
    for name, ra, dec, dist, k_mag, b_mag in GALAXIES:
        magnitudes = ",".join("" if mag is None else f"{mag:.2f}" for mag in (k_mag, b_mag))
        lines.append(f"{name},{ra:.4f},{dec:.4f},{dist:.1f},{DISTANCE_ERROR_MPC},{magnitudes}")
    return "\n".join(lines) + "\n"


def demo_map() -> tuple[NDArray[np.int64], NDArray[np.int64], Array, Array, Array, Array]:
    """(order, cell, rho, mu, sigma, norm): a Gaussian ellipse, cells refined where it is steep."""
    order, cell = 3, np.arange(12 * 4**3, dtype=np.int64)
    orders: list[NDArray[np.int64]] = []
    cells: list[NDArray[np.int64]] = []
    while order < DEEPEST_ORDER:
        # A cell is refined while it spans more than a third of the narrow sigma inside 5 sigma; its centre may lie outside.
        width_deg = 58.6 / 2**order
        steep = _offset_sigma(order, cell, margin_deg=width_deg) < 5.0
        orders.append(np.full(int((~steep).sum()), order, dtype=np.int64))
        cells.append(cell[~steep])
        cell = (cell[steep][:, None] * 4 + np.arange(4)).ravel()
        order += 1
        if width_deg / 2 < SIGMA_DEG[1] / 3:
            break
    orders.append(np.full(len(cell), order, dtype=np.int64))
    cells.append(cell)
    all_orders, all_cells = np.concatenate(orders), np.concatenate(cells)
    t = np.concatenate([_offset_sigma(int(o), all_cells[all_orders == o]) for o in np.unique(all_orders)])
    by = np.argsort(np.concatenate([np.flatnonzero(all_orders == o) for o in np.unique(all_orders)]))
    t = t[by]
    rho = np.exp(-0.5 * t * t) + 1e-12
    rho /= float(rho @ cell_area_sr(all_orders))
    # Off the axis the source must be nearer to be heard: mu falls by a few Mpc, as in real maps.
    mu = DISTANCE_MPC - 0.5 * np.minimum(t, 5.0)
    sigma = np.full(len(t), DISTANCE_SIGMA_MPC)
    # N makes the integral of N r^2 phi 1; for mu/sigma of 4 to 5 what lies behind us is below 1e-5.
    return all_orders, all_cells, rho, mu, sigma, 1.0 / (mu * mu + sigma * sigma)


def _offset_sigma(order: int, cell: NDArray[np.int64], *, margin_deg: float = 0.0) -> Array:
    """How many sigma cells lie from the centre of the ellipse, `margin_deg` nearer."""
    ra, dec = centres_of(order, cell)
    a, d, d0 = np.radians(ra - CENTRE_DEG[0]), np.radians(dec), math.radians(CENTRE_DEG[1])
    east = np.cos(d) * np.sin(a)
    north = np.sin(d) * math.cos(d0) - np.cos(d) * math.sin(d0) * np.cos(a)
    away = np.arctan2(np.hypot(east, north), np.sin(d) * math.sin(d0) + np.cos(d) * math.cos(d0) * np.cos(a))
    theta = np.degrees(away)
    angle = np.arctan2(east, north) - math.radians(POSITION_ANGLE_DEG)
    along, across = np.abs(theta * np.cos(angle)), np.abs(theta * np.sin(angle))
    offset: Array = np.hypot(np.maximum(along - margin_deg, 0) / SIGMA_DEG[0], np.maximum(across - margin_deg, 0) / SIGMA_DEG[1])
    return offset


def multi_order_fits(
    order: NDArray[np.int64], cell: NDArray[np.int64], rho: Array, mu: Array, sigma: Array, norm: Array, *, event_utc: str, name: str
) -> bytes:
    """The map as LVK's multi-order FITS."""
    columns = (
        ("UNIQ", "K", ""),
        ("PROBDENSITY", "D", "sr-1"),
        ("DISTMU", "D", "Mpc"),
        ("DISTSIGMA", "D", "Mpc"),
        ("DISTNORM", "D", "Mpc-2"),
    )
    uniq = (np.int64(4) << (2 * order)) + cell
    by = np.argsort(uniq)
    rows = np.empty(len(uniq), dtype=[(one, ">i8" if kind == "K" else ">f8") for one, kind, _ in columns])
    for (one, _, _), value in zip(columns, (uniq, rho, mu, sigma, norm), strict=True):
        rows[one] = value[by]
    primary = [("SIMPLE", True), ("BITPIX", 8), ("NAXIS", 0), ("EXTEND", True)]
    table: list[tuple[str, Any]] = [
        ("XTENSION", "BINTABLE"),
        ("BITPIX", 8),
        ("NAXIS", 2),
        ("NAXIS1", rows.dtype.itemsize),
        ("NAXIS2", len(rows)),
        ("PCOUNT", 0),
        ("GCOUNT", 1),
        ("TFIELDS", len(columns)),
    ]
    for i, (one, kind, unit) in enumerate(columns, 1):
        table += [(f"TTYPE{i}", one), (f"TFORM{i}", kind), *([(f"TUNIT{i}", unit)] if unit else [])]
    table += [
        ("PIXTYPE", "HEALPIX"),
        ("ORDERING", "NUNIQ"),
        ("COORDSYS", "C"),
        ("INDXSCHM", "EXPLICIT"),
        ("MOCORDER", int(order.max())),
        ("OBJECT", name),
        ("DATE-OBS", event_utc.removesuffix("Z")),
        ("DISTMEAN", DISTANCE_MPC),
        ("DISTSTD", DISTANCE_SIGMA_MPC),
        ("ORIGIN", "nightbell: generated, not observed"),
    ]
    data = rows.tobytes()
    return _header(primary) + _header(table) + data + b"\0" * (-len(data) % 2880)


def _header(cards: list[tuple[str, Any]]) -> bytes:
    text = ""
    for key, value in cards:
        if isinstance(value, bool):
            shown = f"{'T' if value else 'F':>20}"
        elif isinstance(value, str):
            shown = f"'{value:<8}'"
        else:
            shown = f"{value:>20}"
        text += f"{key:<8}= {shown}".ljust(80)
    text += "END".ljust(80)
    return text.ljust(-(-len(text) // 2880) * 2880).encode("ascii")
