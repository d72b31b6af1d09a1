"""`nightbell plan`: plans of a night, made, shown, drawn and proved without a bus."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nightbell.cli.output import Verbs, answer, conf_option, json_option, reports_errors, table

if TYPE_CHECKING:
    from nightbell.planning.product import PlanDocument


@click.group(cls=Verbs)
def plan() -> None:
    """Night plans: make one from a target list, show it, draw it, prove it.

    \b
    Examples:
      nightbell plan make targets.json --conf conf/demo --out plan.json
      nightbell plan show plan.json
      nightbell plan verify plan.json
    """


plan_argument = click.argument("file", metavar="PLAN.json", type=click.Path(path_type=Path, dir_okay=False))


def _bytes(path: Path) -> bytes:
    from nightbell.contracts.errors import BadInput

    try:
        return path.read_bytes()
    except OSError as error:
        raise BadInput(f"cannot be read: {error.strerror}", where=str(path), remedy="Name a file") from error


def _write(path: Path, content: bytes) -> None:
    from nightbell.contracts.errors import BadInput

    try:
        path.write_bytes(content)
    except OSError as error:
        raise BadInput(f"cannot be written: {error.strerror}", where=str(path), remedy="Name a file in a folder that exists") from error


def _plan(path: Path) -> PlanDocument:
    from nightbell.planning.product import read_plan

    return read_plan(_bytes(path), where=str(path))


def _targets(path: Path) -> tuple[Any, ...]:
    """The targets of a file: an event's payload, {"targets": [...]}, or the output of `alert rank --json`. Raises `BadInput`."""
    import msgspec

    from nightbell.contracts.errors import BadInput
    from nightbell.contracts.records import Target

    try:
        told = msgspec.json.decode(_bytes(path))
    except msgspec.DecodeError as error:
        raise BadInput(
            f"is no JSON: {error}", where=str(path), remedy="Give a target list, or the output of `alert rank --json`"
        ) from error
    if not isinstance(told, dict):
        raise BadInput("is no JSON object", where=str(path), remedy='Give {"targets": [...]}, or the output of `alert rank --json`')
    rows = told.get("targets")
    if rows is None and isinstance(told.get("galaxies"), list):
        rows = [
            {
                "target_id": one["name"],
                "name": one["name"],
                "ra_deg": one["ra_deg"],
                "dec_deg": one["dec_deg"],
                "rank": one["rank"],
                "p_host": one.get("p_host"),
            }
            for one in told["galaxies"]
        ]
    if not isinstance(rows, list):
        raise BadInput("holds no targets", where=f"{path}: targets", remedy='Give {"targets": [{target_id, name, ra_deg, dec_deg, rank}]}')
    try:
        return msgspec.convert(rows, tuple[Target, ...])
    except msgspec.ValidationError as error:
        raise BadInput(str(error), where=f"{path}: targets", remedy="Mend the field it names") from error


@plan.command()
@click.argument("targets", metavar="TARGETS.json", type=click.Path(path_type=Path, dir_okay=False))
@conf_option
@click.option("--date", "night_date", default=None, help="Night, 2027-04-12 (default: the night now or next).")
@click.option("--from", "start", default=None, help="Plan from this instant on (default: the noon at which the night begins).")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), default=None, help="Write the plan here.")
@json_option
@reports_errors
def make(targets: Path, conf: Path | None, night_date: str | None, start: str | None, out: Path | None, *, as_json: bool) -> None:
    """Plan a night for the telescope of an installation, as the telescope itself would.

    \b
    Examples:
      nightbell plan make targets.json --conf conf/demo --date 2027-04-12 --out plan.json
      nightbell alert rank NOTICE --catalog galaxies.csv --no-visibility --json > ranked.json && nightbell plan make ranked.json
    """
    import time

    import msgspec

    from nightbell.cli.processes import find_conf
    from nightbell.contracts.instants import parse_utc
    from nightbell.planning.product import read_plan
    from nightbell.settings import load_installation
    from nightbell.sky.night import noon_before
    from nightbell.sky.view import night_label
    from nightbell.telescope.activities.office import Counts
    from nightbell.telescope.replanning import plan_night
    from nightbell.telescope.settings import TelescopeSettings

    installation = load_installation(find_conf(conf))
    settings = installation.module_settings("telescope", TelescopeSettings)
    site = installation.site
    night = night_date or night_label(time.time_ns(), site.longitude_deg)
    start_ns = parse_utc(start, where="--from") if start else noon_before(night, site.longitude_deg)
    made = plan_night({"": _targets(targets)}, Counts({}), night=night, now_ns=start_ns, site=site, settings=settings)
    if out is not None:
        _write(out, made.product)
    document = read_plan(made.product)
    answer(msgspec.to_builtins(document), as_json, lambda: _shown(document) + (f"\nwritten to {out}" if out else ""))


def _shown(document: PlanDocument) -> str:
    rows = [
        (
            one.start_utc[11:19],
            one.end_utc[11:19],
            one.name,
            one.filter,
            f"{one.n_exposures}x{one.exposure_s:g} s",
            f"{one.altitude_deg:.0f}",
            f"{one.airmass:.2f}" if one.airmass else "-",
            one.reason,
        )
        for one in document.items
    ]
    text = f"Night {document.night} at {document.site.name}\n"
    text += table(rows, ("begin", "end", "target", "filter", "frames", "alt", "airmass", "why")) if rows else "nothing can be observed"
    if document.rejected:
        left_out = [(one.name, one.filter, one.code, one.reason) for one in document.rejected]
        text += "\n\nleft out\n" + table(left_out, ("target", "filter", "code", "why"))
    if document.bound:
        text += f"\n\nworth {document.value:.4g}; no plan of these requests is worth more than {document.bound:.4g}"
    return text


@plan.command()
@plan_argument
@json_option
@reports_errors
def show(file: Path, *, as_json: bool) -> None:
    """Items with their times and reasons, and what was left out and why.

    \b
    Example:
      nightbell plan show plan.json
    """
    import msgspec

    document = _plan(file)
    answer(msgspec.to_builtins(document), as_json, lambda: _shown(document))


@plan.command()
@plan_argument
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), default=Path("plan.svg"), show_default=True, help="SVG to write.")
@json_option
@reports_errors
def chart(file: Path, out: Path, *, as_json: bool) -> None:
    """Draw altitudes over the night, with what is observed when.

    \b
    Example:
      nightbell plan chart plan.json --out plan.svg
    """
    from nightbell.cli.figures import alone, night_chart
    from nightbell.contracts.instants import parse_utc
    from nightbell.sky.night import dark_window

    document = _plan(file)
    taken = [(one.target_id, parse_utc(one.start_utc), parse_utc(one.end_utc)) for one in document.items]
    begin_ns, end_ns = dark_window(document.site, document.night)
    drawn = night_chart(document.site, begin_ns, end_ns, document.items, taken, altitude_min_deg=document.limits.altitude_min_deg)
    _write(out, alone(drawn).encode())
    answer({"chart": str(out)}, as_json, f"drawn: {out}")


@plan.command()
@plan_argument
@json_option
@reports_errors
def verify(file: Path, *, as_json: bool) -> None:
    """Prove a plan from its file alone: limits by astroplan, order, slews, and the bound from its prices. Exit 1 when it fails.

    \b
    Example:
      nightbell plan verify plan.json
    """
    import sys

    from nightbell.planning.product import verify as verify_plan

    told = verify_plan(_plan(file))
    text = f"{told['items']} items, worth {told['value']:.4g} of at most {told['proved_bound']:.4g} ({100 * told['gap']:.1f} % gap)"
    answer(told, as_json, "\n".join([text, *(told["faults"] or ["no faults"])]))
    if not told["ok"]:
        sys.exit(1)
