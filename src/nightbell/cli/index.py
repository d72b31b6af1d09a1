"""`nightbell index`: what is known of raw frames and what was made of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from nightbell.cli.output import Verbs, answer, json_option, reports_errors, table

if TYPE_CHECKING:
    from nightbell.calibration.index import CalibrationIndex


@click.group(cls=Verbs)
def index() -> None:
    """The calibration index: frames, what became of them, and what was doubtful.

    \b
    Examples:
      nightbell index query calibrated/ --status blocked
      nightbell index query calibrated/ --night 2027-04-12 --json
    """


@index.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False, exists=True))
@click.option("--night", default=None, help="Only this night, as 2027-04-12.")
@click.option(
    "--status", type=click.Choice(("accepted", "done", "blocked", "failed", "refused")), default=None, help="Only frames in this state."
)
@click.option("--limit", type=click.IntRange(1, 10_000), default=200, show_default=True, help="Most rows.")
@json_option
@reports_errors
def query(folder: Path, night: str | None, status: str | None, limit: int, as_json: bool) -> None:  # noqa: FBT001
    """Rows of the index in FOLDER (the --out of `calibrate`), newest first.

    \b
    Example:
      nightbell index query calibrated/ --status blocked
    """
    with _index_of(folder) as known:
        rows = known.query(night=night, status=status, limit=limit)
    head = ("date_obs_utc", "camera", "kind", "filter", "exposure_s", "status", "detail")
    answer({"rows": rows}, as_json, lambda: table([["-" if row[key] is None else row[key] for key in head] for row in rows], head))


@index.command("mark-bad")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False, exists=True))
@click.argument("product_id")
@click.option("--reason", required=True, help="Why the master must not be used.")
@json_option
@reports_errors
def mark_bad(folder: Path, product_id: str, reason: str, as_json: bool) -> None:  # noqa: FBT001
    """Take a master out of use; names every product that was made with it. The first digits of PRODUCT_ID are enough.

    A master's file name ends in them; its frames do not bring it back, and lights that need it wait for another.

    \b
    Example:
      nightbell index mark-bad calibrated/ 3fd2a81c06e1 --reason "condensation on the window"
    """
    from nightbell.contracts.errors import BadInput

    with _index_of(folder) as known:
        named = known.products_named(product_id)
        if len(named) != 1:
            what = f"{len(named)} products are named so" if named else "there is no such product"
            raise BadInput(what, where=product_id, remedy="See `nightbell calibrate --json`: masters, or the files in masters/")
        affected = known.mark_bad(named[0], reason)
    answer(
        {"product_id": named[0], "affected": affected},
        as_json,
        lambda: "\n".join([f"{len(affected)} products were made with it", *affected]),
    )


def _index_of(folder: Path) -> CalibrationIndex:
    from nightbell.calibration.index import CalibrationIndex
    from nightbell.contracts.errors import NoSuchInput

    if not (folder / "index.sqlite").is_file():
        raise NoSuchInput("there is no index", where=str(folder), remedy="Give the folder that `nightbell calibrate --out` wrote")
    return CalibrationIndex.in_folder(folder)
