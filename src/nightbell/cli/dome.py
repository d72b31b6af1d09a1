"""`nightbell dome`: the dome's geometry against numbers computed by somebody else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from nightbell.cli.output import Verbs, answer, json_option, reports_errors

COLUMNS = (
    "mount",
    "lat_deg",
    "pier_side",
    "ha_deg",
    "dec_deg",
    "target_az_deg",
    "target_alt_deg",
    "mount_east_m",
    "mount_north_m",
    "mount_up_m",
    "axis_offset_m",
    "cross_offset_m",
    "dome_radius_m",
    "dome_az_deg",
    "dome_alt_deg",
)


@click.group(cls=Verbs)
def dome() -> None:
    """Dome geometry: where the slit must be.

    \b
    Example:
      nightbell dome check vectors.csv
    """


@dome.command()
@click.argument("vectors", metavar="VECTORS.csv", type=click.Path(path_type=Path, dir_okay=False))
@json_option
@reports_errors
def check(vectors: Path, *, as_json: bool) -> None:
    """Compute the slit's direction for each row of VECTORS.csv and compare: {n, max_azimuth_error_deg, max_altitude_error_deg}.

    A row gives mount (gem, fork, altaz), latitude, pier side, hour angle and declination (altaz: azimuth and altitude), the
    geometry in m, and the dome_az_deg and dome_alt_deg that are right.

    \b
    Examples:
      nightbell dome check vectors.csv
      nightbell dome check vectors.csv --json
    """
    import csv

    from nightbell.contracts.errors import BadInput, Refused

    try:
        with vectors.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
            missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"cannot be read: {error}", where=str(vectors), remedy="Give a CSV file with a head line") from error
    if missing:
        raise BadInput(f"lacks the columns {', '.join(missing)}", where=str(vectors), remedy=f"A row needs {', '.join(COLUMNS)}")
    if not rows:
        raise BadInput("holds no row below its head", where=str(vectors), remedy="Give at least one direction with its right answer")
    worst_azimuth = worst_altitude = 0.0
    for n, row in enumerate(rows, start=2):
        try:
            azimuth, altitude = _slit(row)
            wrong = (azimuth - _number(row, "dome_az_deg") + 540) % 360 - 180
            worst_azimuth = max(worst_azimuth, abs(wrong))
            worst_altitude = max(worst_altitude, abs(altitude - _number(row, "dome_alt_deg")))
        except ValueError as error:
            raise BadInput(f"{error}", where=f"{vectors}: line {n}", remedy="Mend the number it names") from error
        except Refused as error:
            raise BadInput(error.what, where=f"{vectors}: line {n}", remedy="Mend the offsets or the radius") from error
    told = {"n": len(rows), "max_azimuth_error_deg": worst_azimuth, "max_altitude_error_deg": worst_altitude}
    answer(told, as_json, f"{len(rows)} directions; worst azimuth {worst_azimuth:.2e} deg, altitude {worst_altitude:.2e} deg off")


def _number(row: dict[str, Any], name: str) -> float:
    """A column's number. Raises ValueError naming it: a NaN would pass every comparison."""
    from math import isfinite

    try:
        value = float(row[name])
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: {row[name]!r} is no number") from error
    if not isfinite(value):
        raise ValueError(f"{name}: {row[name]!r} is no finite number")
    return value


def _slit(row: dict[str, Any]) -> tuple[float, float]:
    from math import pi, radians

    import numpy as np

    from nightbell.devices.dome_geometry import beam, meet_sphere, slit_direction

    kind = row["mount"]
    if kind not in ("gem", "fork", "altaz"):
        raise ValueError(f"mount {kind!r} is none of gem, fork, altaz")
    if kind == "gem" and row["pier_side"] not in ("east", "west"):
        raise ValueError(f"pier_side {row['pier_side']!r} is neither east nor west")
    if kind == "altaz":
        h, d, latitude = radians(_number(row, "target_az_deg") - 180), radians(_number(row, "target_alt_deg")), pi / 2
    else:
        h, d, latitude = (radians(_number(row, name)) for name in ("ha_deg", "dec_deg", "lat_deg"))
    side = -1.0 if row["pier_side"] == "west" and kind == "gem" else 1.0
    mount = np.array([_number(row, f"mount_{axis}_m") for axis in ("east", "north", "up")])
    radius_m = _number(row, "dome_radius_m")
    arm_m, across_m = _number(row, "axis_offset_m"), _number(row, "cross_offset_m")
    foot, u, _, _ = beam(h, d, latitude, mount, side=side, arm_m=arm_m, across_m=across_m)
    return slit_direction(meet_sphere(foot[None], u, radius_m)[0], radius_m)
