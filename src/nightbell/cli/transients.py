"""`nightbell transients`: what is new on calibrated frames, without a bus."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nightbell.cli.output import answer, json_option, reports_errors, table

if TYPE_CHECKING:
    from nightbell.transients.search import Found


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
    """Find what is new. INPUT is a calibrated frame or a folder of them (`nightbell calibrate` writes them); one field per call.

    It exits 1 when no frame could be searched; no candidate is a good answer too.

    \b
    Examples:
      nightbell transients calibrated/light --reference archive/NGC4993_r.fits
      nightbell transients calibrated/light --reference archive/ --out cutouts/ --json
    """
    from nightbell.contracts.errors import Missing, NoSuchInput
    from nightbell.transients.references import read_reference
    from nightbell.transients.report import write_cutouts
    from nightbell.transients.search import find_transients, find_with_references, read_frame

    files = sorted({file for path in inputs for file in (path.glob("*.fits") if path.is_dir() else (path,))})
    if not files:
        raise NoSuchInput("there is no FITS file", where=str(inputs[0]), remedy="Give frames that `nightbell calibrate` wrote")
    frames = [read_frame(file) for file in files]
    found: Found | None
    if reference.is_dir():
        found, used = find_with_references(frames, reference, threshold=threshold, pointing_error_arcsec=pointing_error)
        if found is None:
            raise Missing(used, where=str(reference), remedy="Give a reference of this field and filter")
    else:
        found = find_transients(frames, read_reference(reference), threshold=threshold, pointing_error_arcsec=pointing_error)
    candidates = write_cutouts(found.candidates, found.searched, out) if out else found.candidates
    answer(_as_dict(found, candidates), as_json, lambda: _text(found, candidates))
    if not found.searched:
        sys.exit(1)


def _as_dict(found: Found, candidates: tuple[Any, ...]) -> dict[str, Any]:
    return {
        "reference": found.reference,
        "candidates": candidates,
        "vetoed": found.vetoed,
        "limiting_mag_5sigma": found.limiting_mag_5sigma,
        "searched": [
            {
                "path": str(one.frame.path),
                "product_id": one.frame.product_id,
                "n_stars": one.n_stars,
                "fwhm_px": one.fwhm_px,
                "noise_norm": one.noise_norm,
                "centre": {"ra_deg": one.centre_deg[0], "dec_deg": one.centre_deg[1]},
                "n_detections": len(one.detections),
            }
            for one in found.searched
        ],
        "failed": [{"path": path, "error": reason} for path, reason in found.failed],
    }


def _text(found: Found, candidates: tuple[Any, ...]) -> str:
    lines = [f"{len(found.searched)} frames searched, {len(candidates)} candidates, {len(found.vetoed)} vetoed"]
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
    lines.extend(f"not searched  {Path(path).name}: {reason}" for path, reason in found.failed)
    return "\n".join(lines)
