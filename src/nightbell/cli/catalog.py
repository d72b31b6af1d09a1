"""`nightbell catalog`: galaxy lists made ready for ranking."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from nightbell.cli.output import Verbs, answer, json_option, reports_errors, table


@click.group(cls=Verbs)
def catalog() -> None:
    """Galaxy catalogues: build, info.

    \b
    Examples:
      nightbell catalog build galaxies.csv --out galaxies/
      nightbell catalog info galaxies/
    """


@catalog.command()
@click.argument("source", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder that is made (or replaced).")
@click.option("--format", "kind", type=click.Choice(("csv", "glade+")), default="csv", help="What SOURCE is (default csv).")
@json_option
@reports_errors
def build(source: Path, out: Path, kind: Any, *, as_json: bool) -> None:
    """Clean SOURCE, sort it by place on the sky and write columns that open at once however long they are.

    A CSV has the columns name, ra_deg, dec_deg, dist_mpc and, as far as known, dist_err_mpc, k_mag, b_mag, mass_msun.

    \b
    Example:
      nightbell catalog build galaxies.csv --out galaxies/
    """
    from nightbell.alerts.catalog import build_catalog

    manifest = build_catalog(source, out, kind=kind)
    answer(manifest, as_json, lambda: _text(manifest))


@catalog.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--verify", is_flag=True, help="Read all of a built catalogue and compare its checksums.")
@json_option
@reports_errors
def info(path: Path, *, verify: bool, as_json: bool) -> None:
    """What a catalogue (CSV or built folder) holds, and how complete it is.

    \b
    Example:
      nightbell catalog info galaxies.csv
    """
    from nightbell.alerts.catalog import SHELL_MPC, open_catalog

    opened = open_catalog(path, verify=verify)
    tables = {band: opened.completeness(band) for band in ("K", "B")}
    region = opened.region
    found = {
        "source": opened.source,
        "n_galaxies": len(opened),
        "counts": opened.counts,
        "region": None if region is None else [region.ra_deg, region.dec_deg, region.radius_deg],
        "shell_mpc": SHELL_MPC,
        "completeness": {band: [round(float(c), 4) for c in shares[:100]] for band, shares in tables.items() if shares is not None},
    }
    answer(found, as_json, lambda: _text(found))


def _text(found: dict[str, Any]) -> str:
    lines = [f"{found['source']}: {found['n_galaxies']:,} galaxies", *(f"  {what}: {n:,}" for what, n in sorted(found["counts"].items()))]
    bands = found["completeness"]
    if bands:
        step = found["shell_mpc"]
        n = min(20, max(len(shares) for shares in bands.values()))
        rows = [
            (f"{i * step:.0f}-{(i + 1) * step:.0f}", *(f"{shares[i]:.2f}" if i < len(shares) else "0.00" for shares in bands.values()))
            for i in range(n)
        ]
        lines += ["", table(rows, ("Mpc", *(f"{band} light" for band in bands)))]
    return "\n".join(lines)
