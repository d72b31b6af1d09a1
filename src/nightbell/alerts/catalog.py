"""Galaxies: a CSV or a GLADE+ list, cleaned, sorted by place on the sky, as columns that are mapped into memory.

A catalogue folder holds one little-endian .npy per column and manifest.json (source, rules, counts, completeness); it is
written beside its place and renamed, so that half of one is never opened. Galaxies stay sorted by their order-29 HEALPix cell:
the galaxies of a map row are then one contiguous slice.

CSV columns: name, ra_deg, dec_deg, dist_mpc and as far as known dist_err_mpc, k_mag, b_mag, mass_msun; empty is unknown. Lines
before the head that begin with "#" may say `# region: RA DEC RADIUS` (deg) when the list covers only a cap of the sky.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nightbell.alerts.healpix import cells_of, centres_of
from nightbell.alerts.notices.guards import shown
from nightbell.contracts.errors import BadInput, NoSuchInput

__all__ = ["SHELL_MPC", "Catalog", "Region", "Weight", "build_catalog", "from_rows", "open_catalog", "read_csv"]

Array = NDArray[np.float64]
Weight = Literal["none", "K", "B", "mass"]

SHELL_MPC = 10.0
"""Width of the distance shells for completeness and for filling in missing magnitudes."""
PECULIAR_MPC = 250.0 / 70.0
"""Distance error from peculiar motion: 250 km/s over H0 = 70 km/s/Mpc."""
SUN_K_MAG, SUN_B_MAG = 3.27, 5.48
LARGEST_K_LUMINOSITY = 10 ** (-0.4 * (-27.0 - SUN_K_MAG))
"""No galaxy is brighter than M_K = -27; a wrong redshift makes monsters."""
LARGEST_B_LUMINOSITY = 10 ** (-0.4 * (-23.5 - SUN_B_MAG))
"""The brightest cluster galaxies have M_B about -23.5."""
LARGEST_MASS_MSUN = 5e12
DENSITY = {"K": 5.0e8, "B": 1.98e8}
"""Mean luminosity of the Universe in solar units per Mpc^3 (h = 0.7): B from Kopparapu et al. 2008, ApJ 675, 1459."""
LARGEST_MPC = 20_000.0
"""No galaxy is further."""
DOUBLE_ARCSEC = 3.0
LARGEST_CSV_BYTES = 8 << 30
COLUMNS = ("ra_deg", "dec_deg", "dist_mpc", "dist_err_mpc", "k_mag", "b_mag", "mass_msun")
NEEDED = ("name", "ra_deg", "dec_deg", "dist_mpc")


@dataclass(frozen=True)
class Region:
    """A cap of the sky that a catalogue covers."""

    ra_deg: float
    dec_deg: float
    radius_deg: float

    @property
    def share(self) -> float:
        """Of the whole sky."""
        return 0.5 * (1 - math.cos(math.radians(self.radius_deg)))

    def holds(self, ra_deg: Array, dec_deg: Array) -> NDArray[np.bool_]:
        a, d = np.radians(ra_deg - self.ra_deg), np.radians(dec_deg)
        d0 = math.radians(self.dec_deg)
        cosine = np.sin(d) * math.sin(d0) + np.cos(d) * math.cos(d0) * np.cos(a)
        inside: NDArray[np.bool_] = cosine >= math.cos(math.radians(self.radius_deg))
        return inside


@dataclass(frozen=True)
class Catalog:
    """Columns sorted by `cell`; NaN is unknown."""

    cell: NDArray[np.int64]
    ra_deg: Array
    dec_deg: Array
    dist_mpc: Array
    dist_err_mpc: Array
    k_mag: Array
    b_mag: Array
    mass_msun: Array
    names: NDArray[Any]
    source: str = ""
    region: Region | None = None
    counts: dict[str, int] = field(default_factory=dict)
    """How many rows were kept, and how many dropped for which reason."""
    _weights: dict[str, Array] = field(default_factory=dict, compare=False, repr=False)

    def __len__(self) -> int:
        return len(self.cell)

    def name(self, row: int) -> str:
        value = self.names[row]
        return value.decode("utf-8") if isinstance(value, bytes) else str(value)

    # -- light ----------------------------------------------------------------------------------------------------------

    def measured(self, kind: Weight) -> Array:
        """Luminosity (solar) or mass (solar) as measured, capped; NaN where unknown."""
        if kind == "mass":
            return np.minimum(self.mass_msun, LARGEST_MASS_MSUN)
        magnitude, sun, largest = (
            (self.k_mag, SUN_K_MAG, LARGEST_K_LUMINOSITY) if kind == "K" else (self.b_mag, SUN_B_MAG, LARGEST_B_LUMINOSITY)
        )
        absolute = magnitude - 5 * np.log10(np.maximum(self.dist_mpc, 1e-6)) - 25
        light: Array = np.minimum(10 ** (-0.4 * (absolute - sun)), largest)
        return light

    def weights(self, kind: Weight) -> Array:
        """The prior weight of each galaxy as host; a missing measure is the median of its distance shell.

        For "mass", a galaxy without one takes its K light, then its B light, each scaled by the ratio of the shell's medians:
        two bands never stand side by side unscaled.
        """
        if kind == "none":
            return np.ones(len(self))
        if kind not in self._weights:
            value = self.measured(kind)
            if kind == "mass":
                for light in ("K", "B"):
                    value = _scaled_in(value, self.measured(light), self.shell)
            self._weights[kind] = _filled(value, self.shell)
        return self._weights[kind]

    def has(self, kind: Weight) -> bool:
        """Whether any galaxy has this measure."""
        return kind == "none" or bool(np.isfinite(self.measured(kind)).any())

    def usable(self, kind: Weight) -> Weight:
        """`kind`, or the other band where no galaxy has that one, or none."""
        if kind == "mass" and any(self.has(one) for one in ("mass", "K", "B")):
            return kind
        return kind if self.has(kind) else self.band or "none"

    @property
    def shell(self) -> NDArray[np.int64]:
        return (np.minimum(self.dist_mpc, 1e6) / SHELL_MPC).astype(np.int64)

    @property
    def band(self) -> Literal["K", "B"] | None:
        """The band in which completeness is judged: the one that more galaxies have."""
        n_k, n_b = int(np.isfinite(self.k_mag).sum()), int(np.isfinite(self.b_mag).sum())
        return None if not max(n_k, n_b) else "K" if n_k >= 0.5 * n_b else "B"

    def completeness(self, kind: Weight) -> Array | None:
        """Share of the Universe's light that the catalogue holds, per shell of 10 Mpc, never rising; None when it has no light.

        Mass and number have no density of their own here: they follow the light. Beyond the last shell it is 0.
        """
        band = kind if kind in ("K", "B") and self.has(kind) else self.band
        if band is None or not len(self):
            return None
        light = self.measured(band)
        known = np.isfinite(light) & (self.dist_mpc < 1e5)
        if not known.any():
            return None
        held = np.bincount(self.shell[known], weights=light[known])
        edge = np.arange(len(held) + 1) * SHELL_MPC
        volume = 4 / 3 * math.pi * np.diff(edge**3) * (self.region.share if self.region else 1.0)
        return np.minimum(1.0, _never_rising(held / (DENSITY[band] * volume), volume))

    def covers(self, order: NDArray[np.int64], cell: NDArray[np.int64]) -> NDArray[np.bool_] | None:
        """Which map rows lie in the region; None when the whole sky is covered."""
        return None if self.region is None else self.region.holds(*centres_of(order, cell))


def _filled(value: Array, shell: NDArray[np.int64]) -> Array:
    known = np.isfinite(value) & (value > 0)
    if not known.any():
        return np.ones(len(value))
    out = np.where(known, value, 0.0)
    overall = float(np.median(value[known]))
    for one in np.unique(shell[~known]):
        same = known & (shell == one)
        out[~known & (shell == one)] = float(np.median(value[same])) if same.any() else overall
    return out


def _scaled_in(value: Array, other: Array, shell: NDArray[np.int64]) -> Array:
    """`value`, its gaps taken from `other` times the ratio of their medians where both are known."""
    both, gap = np.isfinite(value) & np.isfinite(other), ~np.isfinite(value) & np.isfinite(other)
    if not gap.any():
        return value
    out = value.copy()
    overall = float(np.median(value[both]) / np.median(other[both])) if both.any() else 1.0
    for one in np.unique(shell[gap]):
        same = both & (shell == one)
        ratio = float(np.median(value[same]) / np.median(other[same])) if same.sum() >= 10 else overall
        here = gap & (shell == one)
        out[here] = ratio * other[here]
    return out


def _never_rising(value: Array, volume: Array) -> Array:
    """The nearest non-increasing sequence, shells weighing by their volume (pool adjacent violators)."""
    pools: list[list[float]] = []  # mean, weight, count
    for mean, weight in zip(value.tolist(), volume.tolist(), strict=True):
        pools.append([mean, weight, 1])
        while len(pools) > 1 and pools[-1][0] > pools[-2][0]:
            last, before = pools.pop(), pools.pop()
            total = last[1] + before[1]
            pools.append([(last[0] * last[1] + before[0] * before[1]) / total, total, last[2] + before[2]])
    return np.repeat([pool[0] for pool in pools], [int(pool[2]) for pool in pools])


# -- rows ---------------------------------------------------------------------------------------------------------------


def from_rows(
    rows: Iterable[dict[str, Any]],
    *,
    source: str,
    region: Region | None = None,
    counts: Counter[str] | None = None,
    without_doubles: bool = False,
) -> Catalog:
    """A catalogue from cleaned rows (keys as in COLUMNS, plus name), sorted by cell."""
    tally: Counter[str] = Counter() if counts is None else counts
    columns: dict[str, list[float]] = {name: [] for name in COLUMNS}
    names: list[str] = []
    for row in rows:
        names.append(str(row["name"]))
        for name in COLUMNS:
            value = row.get(name)
            columns[name].append(math.nan if value is None else value)
    arrays: dict[str, Any] = {name: np.array(values, dtype=np.float64) for name, values in columns.items()}
    cell = cells_of(arrays["ra_deg"], arrays["dec_deg"]) if names else np.empty(0, dtype=np.int64)
    by = np.lexsort((arrays["dist_mpc"], cell))
    if without_doubles and names:
        double = _doubles(arrays, names)
        by = by[~double[by]]
        if double.any():
            tally["dropped: said twice"] += int(double.sum())
    tally["kept"] = len(by)
    blob = np.array([name.encode("utf-8") for name in names] or [b""], dtype=bytes)
    return Catalog(
        cell=cell[by],
        names=blob[by] if names else blob[:0],
        source=source,
        region=region,
        counts=dict(tally),
        **{n: a[by] for n, a in arrays.items()},
    )


def _doubles(arrays: dict[str, Array], names: list[str]) -> NDArray[np.bool_]:
    """Rows that say again what an earlier one says: the same place and distance, and the same name or no other magnitude."""
    from scipy.spatial import cKDTree  # noqa: PLC0415  # a third of a second that only lists in text need

    ra, dec = np.radians(arrays["ra_deg"]), np.radians(arrays["dec_deg"])
    places = np.column_stack((np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)))
    drop = np.zeros(len(names), dtype=bool)
    pairs = cKDTree(places).query_pairs(math.radians(DOUBLE_ARCSEC / 3600), output_type="ndarray")
    for i, k in sorted((min(pair), max(pair)) for pair in pairs.tolist()):
        near = abs(arrays["dist_mpc"][i] - arrays["dist_mpc"][k]) < 2 * PECULIAR_MPC
        other = any(abs(arrays[band][i] - arrays[band][k]) > 0.01 for band in ("k_mag", "b_mag"))
        if near and not drop[i] and (names[i] == names[k] or not other):
            drop[k] = True
    return drop


def clean(row: dict[str, float | None], *, from_redshift: bool = False) -> str | None:
    """Why a row cannot be used, or None; fills in the distance error and drops impossible magnitudes."""
    ra, dec, dist = row.get("ra_deg"), row.get("dec_deg"), row.get("dist_mpc")
    if ra is None or dec is None or not abs(dec) <= 90:
        return "no position"
    if dist is None:
        return "no distance"
    if not 0 < dist < LARGEST_MPC:
        return "impossible distance"
    row["ra_deg"] = ra % 360.0
    error = row.get("dist_err_mpc")
    if error is not None and error >= LARGEST_MPC:
        return "impossible distance error"
    if error is None or error <= 0:
        row["dist_err_mpc"] = PECULIAR_MPC
    elif from_redshift:
        row["dist_err_mpc"] = max(error, PECULIAR_MPC)
    for name in ("k_mag", "b_mag"):
        magnitude = row.get(name)
        if magnitude is not None and not -5 <= magnitude <= 30:
            row[name] = None
    mass = row.get("mass_msun")
    if mass is not None and mass <= 0:
        row["mass_msun"] = None
    return None


def _number(text: str | None, where: str) -> float | None:
    if text is None or not text.strip() or text.strip().lower() in {"null", "nan"}:
        return None
    try:
        value = float(text)
    except ValueError as error:
        raise BadInput(f"{text[:40]!r} is not a number", where=where, remedy="Leave unknown values empty") from error
    if not math.isfinite(value):
        raise BadInput(f"{text[:40]!r} is not finite", where=where, remedy="Leave unknown values empty")
    return value


def read_csv(path: Path) -> Catalog:
    """A CSV of galaxies. Raises `BadInput` naming line and column."""
    try:
        if path.stat().st_size > LARGEST_CSV_BYTES:
            raise BadInput("is larger than 8 GiB", where=str(path), remedy="Split it")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise NoSuchInput(
            f"cannot be read ({error.strerror})", where=str(path), remedy="Name a catalogue: a CSV file or a built folder"
        ) from error
    except UnicodeDecodeError as error:
        remedy = "Give a CSV file (unpacked, in UTF-8) or a built folder"
        raise BadInput(f"is not UTF-8 text (byte {error.start})", where=str(path), remedy=remedy) from error
    region: Region | None = None
    source = path.name
    lines = text.splitlines()
    n_comments = 0
    for line in lines:
        if not line.startswith("#"):
            break
        n_comments += 1
        key, _, value = line[1:].partition(":")
        if key.strip() == "region":
            region = _region(value.split(), f"{path}: line {n_comments}")
        elif key.strip() == "source":
            source = value.strip()
    reader = csv.DictReader(io.StringIO("\n".join(lines[n_comments:])), strict=True)
    counts: Counter[str] = Counter()
    try:
        reader.fieldnames = _heads(reader.fieldnames or (), path)
        catalog = from_rows(_csv_rows(reader, path, n_comments, counts), source=source, region=region, counts=counts, without_doubles=True)
    except csv.Error as error:
        where = f"{path}: line {reader.line_num + n_comments + 1}"  # it counts the last whole one
        raise BadInput(f"is no line of a CSV ({error})", where=where, remedy="Is a quotation mark missing there?") from error
    if not len(catalog):
        told = "; ".join(f"{n:,} {what}" for what, n in sorted(counts.items()) if what != "kept") or "it has no rows"
        raise BadInput(f"holds no galaxy that can be used ({told})", where=str(path), remedy=f"Give {', '.join(NEEDED)} in its rows")
    return catalog


def _heads(found: Iterable[str], path: Path) -> list[str]:
    """The names of the columns, in small letters and without the spaces around them."""
    heads = [name.strip().lower() for name in found]
    missing = [name for name in NEEDED if name not in heads]
    if missing:
        raise BadInput(
            f"has no column {', '.join(missing)} (it has {shown(', '.join(heads) or 'none', 120)})",
            where=f"{path}: first line",
            remedy=f"It must name {', '.join(NEEDED)}, and may name {', '.join(name for name in COLUMNS if name not in NEEDED)}",
        )
    twice = next((name for name in ("name", *COLUMNS) if heads.count(name) > 1), None)
    if twice is not None:
        raise BadInput(f"names {twice} twice", where=f"{path}: first line", remedy="Which one counts is unclear: rename one")
    return heads


def _region(values: list[str], where: str) -> Region:
    numbers = [_number(part, f"{where}: region") for part in values]
    ra, dec, radius = numbers if len(numbers) == 3 else (None, None, None)
    if ra is None or dec is None or radius is None or not (abs(dec) <= 90 and 0 < radius <= 180):
        raise BadInput(f"{shown(' '.join(values))!r} is no region", where=where, remedy="Write # region: RA DEC RADIUS, in degrees")
    return Region(ra, dec, radius)


def _csv_rows(reader: csv.DictReader[str], path: Path, n_comments: int, counts: Counter[str]) -> Iterator[dict[str, Any]]:
    for record in reader:
        where = f"{path}: line {reader.line_num + n_comments}"
        row: dict[str, Any] = {name: _number(record.get(name), f"{where}: {name}") for name in COLUMNS}
        why = clean(row)
        if why is not None:
            counts[f"dropped: {why}"] += 1
            continue
        row["name"] = shown((record.get("name") or "").strip(), 64) or f"J{row['ra_deg']:.4f}{row['dec_deg']:+.4f}"
        yield row


# -- GLADE+ -------------------------------------------------------------------------------------------------------------

_GLADE_PLUS_COLUMNS = 40


def read_glade_plus(path: Path) -> Catalog:
    """GLADE+ (Dalya et al. 2022, MNRAS 514, 1403): 40 columns of text, `null` where unknown. Quasars and clusters are dropped."""
    counts: Counter[str] = Counter()
    return from_rows(_glade_rows(path, counts), source="GLADE+", counts=counts)


def _glade_rows(path: Path, counts: Counter[str]) -> Iterator[dict[str, Any]]:
    with path.open(encoding="ascii", errors="replace") as lines:
        for n, line in enumerate(lines, 1):
            part = line.split()
            where = f"{path}: line {n}"
            if len(part) != _GLADE_PLUS_COLUMNS or part[7] not in {"G", "Q", "C", "null"}:
                if n <= 1000:
                    raise BadInput(
                        f"has {len(part)} columns, or no type in the 8th", where=where, remedy="GLADE+ has 40 columns, the 8th is G or Q"
                    )
                counts["dropped: broken line"] += 1
                continue
            if part[7] in {"Q", "C"}:
                counts["dropped: quasar or cluster"] += 1
                continue
            row: dict[str, Any] = {
                "ra_deg": _number(part[8], f"{where}: column 9"),
                "dec_deg": _number(part[9], f"{where}: column 10"),
                "dist_mpc": _number(part[32], f"{where}: column 33"),
                "dist_err_mpc": _number(part[33], f"{where}: column 34"),
                "b_mag": _number(part[10], f"{where}: column 11"),
                "k_mag": _number(part[18], f"{where}: column 19"),
                "mass_msun": None if part[35] == "null" else 1e10 * (_number(part[35], f"{where}: column 36") or 0.0),
            }
            why = clean(row, from_redshift=part[34] in {"1", "3"})
            if why is not None:
                counts[f"dropped: {why}"] += 1
                continue
            row["name"] = next((name for name in (part[2], part[3], part[4], part[1]) if name != "null"), f"GLADE{part[0]}")
            yield row


# -- folder -------------------------------------------------------------------------------------------------------------

_STORED = ("cell", *COLUMNS, "names")


def build_catalog(source: Path, out: Path, *, kind: Literal["csv", "glade+"] = "csv") -> dict[str, Any]:
    """Read `source` and write the folder `out`; returns its manifest. `out` must not exist yet, or be a catalogue."""
    catalog = read_csv(source) if kind == "csv" else read_glade_plus(source)
    if not len(catalog):
        raise BadInput("holds no galaxy that can be used", where=str(source), remedy=f"Counted: {catalog.counts}")
    if out.exists() and not (out / "manifest.json").is_file():
        raise BadInput("exists and is no catalogue", where=str(out), remedy="Name a new folder")
    making = out.with_name(out.name + ".making")
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(parents=True)
    files: dict[str, dict[str, Any]] = {}
    for name in _STORED:
        path = making / f"{name}.npy"
        value = getattr(catalog, name)
        with path.open("wb") as stream:
            np.save(stream, value.astype(value.dtype.newbyteorder("<")) if value.dtype.kind in "fi" else value, allow_pickle=False)
            stream.flush()
            os.fsync(stream.fileno())
        files[path.name] = {"size_bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    tables = {band: catalog.completeness(band) for band in ("K", "B")}
    region = catalog.region
    manifest = {
        "format": 1,
        "source": catalog.source,
        "source_sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
        "n_galaxies": len(catalog),
        "counts": catalog.counts,
        "region": None if region is None else [region.ra_deg, region.dec_deg, region.radius_deg],
        "shell_mpc": SHELL_MPC,
        "completeness": {band: [round(float(c), 4) for c in table[:100]] for band, table in tables.items() if table is not None},
        "files": files,
    }
    with (making / "manifest.json").open("w", encoding="utf-8") as text:
        json.dump(manifest, text, indent=1)
        text.flush()
        os.fsync(text.fileno())
    if out.exists():
        shutil.rmtree(out)
    making.rename(out)
    return manifest


def read_manifest(folder: Path) -> dict[str, Any]:
    """What a built catalogue says about itself. Raises `NoSuchInput` or `BadInput`."""
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise NoSuchInput(
            "is no built catalogue", where=str(folder), remedy="Build one: nightbell catalog build LIST.csv --out FOLDER"
        ) from error
    except ValueError as error:
        raise BadInput("is not JSON", where=str(path), remedy="Build the catalogue again") from error
    if not isinstance(manifest, dict) or manifest.get("format") != 1:
        raise BadInput("is of another format", where=str(path), remedy="Build the catalogue again")
    kinds: dict[str, Any] = {"source": str, "counts": dict, "files": dict, "region": list | None}
    for key, kind in kinds.items():
        if key not in manifest or not isinstance(manifest[key], kind):
            raise BadInput("is missing or of another kind", where=f"{path}: {key}", remedy="Build the catalogue again")
    if not all(isinstance(one, dict) for one in manifest["files"].values()):
        raise BadInput("does not describe files", where=f"{path}: files", remedy="Build the catalogue again")
    return manifest


def open_catalog(path: str | Path, *, verify: bool = False) -> Catalog:
    """A catalogue, from a CSV file or a built folder (mapped, not read; `verify` reads it all and compares checksums)."""
    place = Path(path)
    if not place.is_dir():
        return read_csv(place)
    manifest = read_manifest(place)
    files = manifest["files"]
    columns: dict[str, Any] = {}
    for name in _STORED:
        file = place / f"{name}.npy"
        said = files.get(file.name, {})
        if not file.is_file() or file.stat().st_size != said.get("size_bytes"):
            raise BadInput("is missing or of another size than the manifest says", where=str(file), remedy="Build the catalogue again")
        if verify and hashlib.sha256(file.read_bytes()).hexdigest() != said.get("sha256"):
            raise BadInput("has other contents than the manifest says", where=str(file), remedy="Build the catalogue again")
        try:
            columns[name] = np.load(file, mmap_mode="r", allow_pickle=False)
        except ValueError as error:
            raise BadInput("is no column of numbers or names", where=str(file), remedy="Build the catalogue again") from error
        if columns[name].shape != columns["cell"].shape:
            raise BadInput("has another length than the other columns", where=str(file), remedy="Build the catalogue again")
    region = None if manifest["region"] is None else _region([str(one) for one in manifest["region"]], f"{place / 'manifest.json'}: region")
    return Catalog(source=manifest["source"], region=region, counts=manifest["counts"], **columns)
