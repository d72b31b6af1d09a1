"""`nightbell transients`: what is new on calibrated frames, without a bus."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nightbell.cli.output import answer, json_option, note, reports_errors, table

if TYPE_CHECKING:
    from nightbell.contracts.records import Candidate
    from nightbell.transients.search import Found, Frame


@click.command()
@click.argument("inputs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="INPUT...")
@click.option(
    "--reference", required=True, type=click.Path(path_type=Path, exists=True), help="A reference image with a WCS, or a folder of them."
)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=None, help="Folder for cut-outs (PNG).")
@click.option("--threshold", type=click.FloatRange(3, 100), default=6.5, show_default=True, help="Least significance on one frame, sigma.")
@click.option(
    "--pointing-error", type=click.FloatRange(1, 3600), default=120.0, show_default=True, help="Arcsec that frames may point beside."
)
@json_option
@reports_errors
def transients(
    inputs: tuple[Path, ...],
    reference: Path,
    out: Path | None,
    threshold: float,
    pointing_error: float,
    as_json: bool,  # noqa: FBT001
) -> None:
    """Find what is new. INPUT is a calibrated frame or a folder of them (`nightbell calibrate` writes them), of one or more targets.

    A frame that cannot be searched is named with the reason. It exits 1 when no frame could be searched; no candidate is a good answer too.

    \b
    Examples:
      nightbell transients calibrated/light --reference archive/NGC4993_r.fits
      nightbell transients calibrated/light --reference archive/ --out cutouts/ --json
    """
    from nightbell.contracts.errors import NoSuchInput
    from nightbell.transients.references import read_reference
    from nightbell.transients.report import write_cutouts
    from nightbell.transients.search import find_transients, find_with_references, read_frames

    frames, unread = read_frames(inputs)
    if not frames and not unread:
        raise NoSuchInput("there is no calibrated frame", where=str(inputs[0]), remedy="Give frames that `nightbell calibrate` wrote")
    fields: dict[str, list[Frame]] = {}
    for frame in frames:
        fields.setdefault(frame.target_id, []).append(frame)
    one_reference = None if reference.is_dir() else read_reference(reference)
    parts: list[Found] = []
    for name, members in sorted(fields.items()):
        if not as_json:
            note(f"search {len(members)} frames of {name}")
        if one_reference is not None:
            parts.append(find_transients(members, one_reference, threshold=threshold, pointing_error_arcsec=pointing_error))
            continue
        found, used = find_with_references(members, reference, threshold=threshold, pointing_error_arcsec=pointing_error)
        if found is None:
            unread.extend((str(frame.path), used) for frame in members)
        else:
            parts.append(found)
    candidates = tuple(one for part in parts for one in (write_cutouts(part.candidates, part.searched, out) if out else part.candidates))
    got = _as_dict(parts, candidates, unread)
    answer(got, as_json, lambda: _text(got))
    if not got["searched"]:
        sys.exit(1)


def _as_dict(parts: list[Found], candidates: tuple[Candidate, ...], unread: list[tuple[str, str]]) -> dict[str, Any]:
    """What all fields show, the strongest first."""
    limits = [part.limiting_mag_5sigma for part in parts if part.limiting_mag_5sigma is not None]
    return {
        "reference": ", ".join(sorted({part.reference for part in parts})),
        "candidates": sorted(candidates, key=lambda one: -one.snr),
        "vetoed": sorted((one for part in parts for one in part.vetoed), key=lambda one: -one.snr),
        "limiting_mag_5sigma": max(limits) if limits else None,
        "searched": [
            {
                "path": str(one.frame.path),
                "product_id": one.frame.product_id,
                "target_id": one.frame.target_id,
                "n_stars": one.n_stars,
                "fwhm_px": one.fwhm_px,
                "noise_norm": one.noise_norm,
                "centre": {"ra_deg": one.centre_deg[0], "dec_deg": one.centre_deg[1]},
                "n_detections": len(one.detections),
            }
            for part in parts
            for one in part.searched
        ],
        "failed": [{"path": path, "error": reason} for path, reason in (*unread, *(one for part in parts for one in part.failed))],
    }


def _text(got: dict[str, Any]) -> str:
    candidates = got["candidates"]
    lines = [f"{len(got['searched'])} frames searched, {len(candidates)} candidates, {len(got['vetoed'])} vetoed"]
    if candidates:
        rows = [
            (
                f"{one.ra_deg:.5f}",
                f"{one.dec_deg:+.5f}",
                f"{one.snr:.1f}",
                "-" if one.mag is None else f"{one.mag:.2f}",
                one.host or "-",
                "-" if one.host_separation_arcsec is None else f"{one.host_separation_arcsec:.1f}",
            )
            for one in candidates
        ]
        lines.append(table(rows, ("ra_deg", "dec_deg", "snr", "mag", "host", "arcsec")))
    lines.extend(f"not searched  {Path(one['path']).name}: {one['error']}" for one in got["failed"])
    return "\n".join(lines)
