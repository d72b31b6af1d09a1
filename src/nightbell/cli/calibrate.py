"""`nightbell calibrate`: raw frames in, calibrated frames out, without a bus."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nightbell.cli.output import Progress, answer, json_option, reports_errors, table

if TYPE_CHECKING:
    from nightbell.calibration.batch import Outcome


@click.command()
@click.argument("inputs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="INPUT...")
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder for masters, products and the index.")
@click.option("--camera", default=None, help="Camera whose file tells how headers are read (default: by the headers).")
@click.option(
    "--cameras", "folders", multiple=True, type=click.Path(path_type=Path, file_okay=False), help="Folder of camera files, as conf/cameras."
)
@click.option(
    "--allow-missing",
    multiple=True,
    type=click.Choice(("bias", "dark", "flat")),
    help="Go on without this master, marked in the status (default: such lights are blocked).",
)
@click.option("--gain", "gain_e_per_adu", type=click.FloatRange(0.001, 1000), default=None, help="Electrons per count, over the headers.")
@click.option(
    "--read-noise", "read_noise_e", type=click.FloatRange(0, 10000), default=None, help="Electrons, over the headers; frame pairs win."
)
@click.option("--longitude", "longitude_deg", type=click.FloatRange(-180, 360), default=None, help="Degrees east, to tell nights apart.")
@json_option
@reports_errors
def calibrate(
    inputs: tuple[Path, ...],
    out: Path,
    camera: str | None,
    folders: tuple[Path, ...],
    allow_missing: tuple[str, ...],
    gain_e_per_adu: float | None,
    read_noise_e: float | None,
    longitude_deg: float | None,
    as_json: bool,  # noqa: FBT001
) -> None:
    """Make masters and calibrate lights. INPUT is a FITS file (.fits, .gz, .fz) or a folder of them.

    Masters in OUT from earlier calls are used too, so frames may come in several calls. Every light ends as a product, blocked
    with what is missing, or failed with a remedy; it exits 1 when nothing at all could be made.

    \b
    Examples:
      nightbell calibrate night/ --out calibrated/
      nightbell calibrate lights/ --out calibrated/ --allow-missing flat
    """
    from nightbell.calibration.batch import calibrate as calibrate_frames
    from nightbell.calibration.cameras import load_cameras

    bar: list[Progress] = []
    done_before = [0]

    def report(done: int, total: int, text: str) -> None:
        if not bar:
            bar.append(Progress(total, "calibrate", quiet=as_json))
        bar[0].step(done - done_before[0], text)
        done_before[0] = done

    outcome = calibrate_frames(
        list(inputs),
        out,
        camera=camera,
        cameras=load_cameras(folders),
        allow_missing=allow_missing,
        longitude_deg=longitude_deg,
        gain_e_per_adu=gain_e_per_adu,
        read_noise_e=read_noise_e,
        now_ns=time.time_ns(),
        report=report,
    )
    answer(outcome.as_dict(), as_json, lambda: _text(outcome))
    if not (outcome.products or outcome.masters):
        sys.exit(1)


def _text(outcome: Outcome) -> str:
    parts = []
    if outcome.masters:
        rows = [
            (one.kind, one.filter or "-", "-" if one.exposure_s is None else f"{one.exposure_s:g}", one.n_frames, one.status)
            for one in outcome.masters
        ]
        parts.append(table(rows, ("master", "filter", "exposure_s", "frames", "status")))
    if outcome.products:
        rows2 = [
            (Path(one.source).name, one.filter or "-", f"{one.exposure_s:g}", f"{one.median:.1f}", f"{one.noise:.1f}", one.status)
            for one in outcome.products
        ]
        parts.append(table(rows2, ("light", "filter", "exposure_s", "median_e", "noise_e", "status")))
    parts.extend(f"blocked  {Path(one.source).name}: needs {'; '.join(one.missing)}" for one in outcome.blocked)
    parts.extend(f"failed   {Path(one.source).name}: {one.error}. {one.remedy}" for one in outcome.failed)
    doubts = len(outcome.ambiguities)
    if doubts:
        parts.append(f"{doubts} doubts about headers (see --json: ambiguities)")
    return "\n\n".join(parts[:2]) + ("\n" + "\n".join(parts[2:]) if len(parts) > 2 else "")
