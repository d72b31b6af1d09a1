"""`nightbell alert`: notices explained, ranked, handed to the alert robot, and practised."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from nightbell.cli.output import Verbs, answer, conf_option, json_option, reports_errors, table

if TYPE_CHECKING:
    from nightbell.alerts.catalog import Weight
    from nightbell.alerts.policy import Policy
    from nightbell.alerts.settings import AlertsSettings
    from nightbell.settings import Installation


SUBMIT_TIMEOUT_S = 90.0


@click.group(cls=Verbs)
def alert() -> None:
    """Notices: explain, rank, submit, drill.

    \b
    Examples:
      nightbell alert explain S230518h-Initial.json
      nightbell alert rank S230518h-Initial.json --catalog galaxies.csv --no-visibility
    """


notice_argument = click.argument("notice", type=click.Path(path_type=Path), metavar="NOTICE")
skymap_option = click.option(
    "--skymap", type=click.Path(path_type=Path), default=None, help="Sky map file, for notices that only name a URL."
)


def _installation(conf: Path | str | None) -> tuple[Installation, AlertsSettings] | None:
    from nightbell.alerts.settings import AlertsSettings
    from nightbell.settings import load_installation

    if conf is None:
        return None
    installation = load_installation(conf)
    return installation, installation.module_settings("alerts", AlertsSettings)


def _policy(here: tuple[Installation, AlertsSettings] | None) -> Policy:
    from nightbell.alerts.policy import load_policy, shipped_policy

    if here is None:
        return shipped_policy()
    path = here[0].folder / here[1].policy
    return load_policy(path) if path.is_file() else shipped_policy()


@alert.command()
@notice_argument
@skymap_option
@conf_option
@json_option
@reports_errors
def explain(notice: Path, skymap: Path | None, conf: Path | None, *, as_json: bool) -> None:
    """What NOTICE says, whether it is a drill, what the rules decide, and every reason.

    The rules are those of --conf, else the shipped ones. A broken sky map is reported; the rest is still explained.

    \b
    Examples:
      nightbell alert explain S230518h-Initial.json
      nightbell alert explain G298048-1-Initial.xml --skymap GW170817.multiorder.fits --json
    """
    import dataclasses
    import time

    from nightbell.alerts.answers import explain as explain_notice
    from nightbell.alerts.answers import skymap_of
    from nightbell.alerts.catalog import open_catalog
    from nightbell.alerts.notices.reading import read_notice
    from nightbell.alerts.ranking import probability_in_catalog
    from nightbell.contracts.errors import BadInput

    read = read_notice(notice)
    try:
        sky, read = skymap_of(read, skymap, where=str(notice))
    except BadInput as error:
        if skymap is not None:
            raise
        sky, read = None, dataclasses.replace(read, warnings=(*read.warnings, str(error)))
    here = _installation(conf)
    policy = _policy(here)
    in_catalogue = None
    if sky is not None and here is not None and here[1].catalog and policy.asks("in_catalogue"):
        in_catalogue = probability_in_catalog(sky, open_catalog(here[0].folder / here[1].catalog), weight=cast("Weight", here[1].weight))
    found = explain_notice(read, policy, sky=sky, now_ns=time.time_ns(), in_catalogue=in_catalogue)
    answer(found, as_json, lambda: _explained(found))


def _explained(found: dict[str, Any]) -> str:
    from nightbell.alerts.policy import Clause

    lines = [
        f"{found['superevent_id']}  {found['kind']}  {'DRILL' if found['drill'] else 'not a drill'}",
        f"decision  {found['decision']} (rule: {found['rule']})",
        *(f"          {reason}" for reason in found["reasons"]),
        "witnesses " + ", ".join(f"{name}: {word}" for name, word in found["witnesses"].items()),
    ]
    if found["skymap"]:
        lines.append(f"sky map   50 % in {found['skymap']['area_50_deg2']:.1f} deg2, 90 % in {found['skymap']['area_90_deg2']:.1f} deg2")
    for rule in found["policy"]["rules"]:
        told_above = rule["applies"] and rule["rule"] == found["rule"]
        lines.append(
            f"rule      {rule['rule']}: {rule['action'] if rule['applies'] else 'does not apply'}{', it decides' if told_above else ''}"
        )
        if not told_above:
            lines.extend(f"            {Clause(**clause)}" for clause in rule["clauses"])
    lines.extend(f"warning   {text}" for text in found["warnings"])
    return "\n".join(lines)


@alert.command()
@notice_argument
@skymap_option
@click.option(
    "--catalog", type=click.Path(path_type=Path), default=None, help="Galaxies: a CSV or a built folder (default: as configured)."
)
@conf_option
@click.option("--no-visibility", is_flag=True, help="Rank alone; no observatory is asked what it can see.")
@click.option(
    "--weight", type=click.Choice(("none", "K", "B", "mass")), default=None, help="What makes a galaxy a likely host (default K)."
)
@click.option("--top", type=click.IntRange(1, 100_000), default=None, help="Longest list (default 200).")
@click.option("--at", "at_utc", default=None, help="Visibility as of this UTC (default: now).")
@json_option
@reports_errors
def rank(
    notice: Path,
    skymap: Path | None,
    catalog: Path | None,
    conf: Path | None,
    weight: str | None,
    top: int | None,
    at_utc: str | None,
    *,
    no_visibility: bool,
    as_json: bool,
) -> None:
    """Which galaxies may host the source of NOTICE, and which of them each observatory of --conf can observe.

    \b
    Examples:
      nightbell alert rank S230518h-Initial.json --catalog galaxies.csv --no-visibility
      nightbell alert rank G298048-1-Initial.xml --skymap GW170817.multiorder.fits --catalog galaxies.csv --weight none --json
      nightbell alert rank notice.json --conf conf/demo --top 20
    """
    import time

    from nightbell.alerts.answers import Stopwatch, skymap_of
    from nightbell.alerts.answers import rank as rank_notice
    from nightbell.alerts.catalog import open_catalog
    from nightbell.alerts.notices.reading import read_notice
    from nightbell.cli.processes import find_conf
    from nightbell.contracts.errors import BadInput
    from nightbell.contracts.instants import parse_utc

    watch = Stopwatch()
    with watch.step("notice"):
        read = read_notice(notice)
    if read.alert.kind == "retraction" and skymap is None:
        raise BadInput("is a retraction: there is nothing to rank", where=str(notice), remedy="See what it does: nightbell alert explain")
    with watch.step("skymap"):
        sky, read = skymap_of(read, skymap, where=str(notice))
    if sky is None:
        broken = next((text for text in read.warnings if "skymap" in text or "radius" in text), None)
        at = f" (it names {read.alert.skymap_url})" if read.alert.skymap_url else ""
        raise BadInput(broken or f"carries no sky map{at}", where="" if broken else str(notice), remedy="Give one: --skymap FILE")
    here = _installation(conf if conf is not None or no_visibility else find_conf(None))
    if here is None and not no_visibility:
        raise BadInput("no observatory is named", where="--conf", remedy="Give --conf DIR, or --no-visibility to rank alone")
    if catalog is None:
        if here is None or not here[1].catalog:
            raise BadInput("no catalogue is named", where="--catalog", remedy="Give --catalog FILE.csv or a built folder")
        catalog = here[0].folder / here[1].catalog
    with watch.step("catalog"):
        galaxies = open_catalog(catalog)
    settings = here[1] if here is not None else None
    found = rank_notice(
        read,
        sky,
        galaxies,
        weight=weight or (settings.weight if settings else "K"),
        top=top or (settings.top if settings else 200),
        observatories=None if no_visibility or here is None else _observatories(*here),
        now_ns=parse_utc(at_utc, where="--at") if at_utc else time.time_ns(),
        watch=watch,
    )
    answer(found, as_json, lambda: _ranked(found))


def _observatories(installation: Installation, settings: AlertsSettings) -> dict[str, Any]:
    from nightbell.alerts.targets import observatories_of

    return observatories_of(settings, installation.site)


def _ranked(found: dict[str, Any]) -> str:
    credible = found["credible"]
    head = found["alert"]
    lines = [
        f"{head['superevent_id']} {head['kind']}{' DRILL' if head['drill'] else ''}: 50 % in {credible['area_50_deg2']:.1f} deg2, "
        f"90 % in {credible['area_90_deg2']:.1f} deg2"
        + (f", {credible['volume_90_mpc3']:.4g} Mpc3" if credible["volume_90_mpc3"] is not None else ""),
        f"the host is not in the catalogue with a probability of {found['not_in_catalog']:.3f}",
        "",
    ]
    rows = [
        (
            g["rank"],
            g["name"],
            f"{g['ra_deg']:.4f}",
            f"{g['dec_deg']:.4f}",
            f"{g['dist_mpc']:.1f}",
            f"{g['p_host']:.4f}",
            _level(g["credible_level_3d"]),
        )
        for g in found["galaxies"][:40]
    ]
    lines.append(table(rows, ("rank", "name", "ra_deg", "dec_deg", "dist_mpc", "p_host", "level_3d")))
    for name, targets in found["observatories"].items():
        lines += ["", f"{name}:"]
        visits = [
            (t["rank"], t["name"], f"{t['p_host'] or 0:.4f}", f"{t['visibility'] or 0:.2f}", t["observable_from_utc"] or "-", t["why"])
            for t in targets
        ]
        lines.append(table(visits, ("rank", "target", "p_host", "visible", "from", "why")))
    lines.extend(f"warning: {text}" for text in found["warnings"])
    return "\n".join(lines)


def _level(level: float | None) -> str:
    return "-" if level is None else f"{level:.3f}"


@alert.command()
@notice_argument
@skymap_option
@click.option("--confirm", is_flag=True, help="Also bring a retracted or archived superevent back to life.")
@conf_option
@json_option
@reports_errors
def submit(notice: Path, skymap: Path | None, conf: Path | None, *, confirm: bool, as_json: bool) -> None:
    """Hand NOTICE to the running alert robot, as if a stream had brought it. The file is checked here first.

    \b
    Example:
      nightbell alert submit S230518h-Initial.json --conf conf/demo
    """
    from nightbell.alerts.notices.reading import read_notice

    read_notice(notice)
    fields = {"path": str(notice.resolve()), "skymap": None if skymap is None else str(skymap.resolve()), "confirm": confirm}
    answer(_submit(conf, fields), as_json)


@alert.command()
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), default=None, help="Only write the notice here; hand it to nobody."
)
@conf_option
@json_option
@reports_errors
def drill(out: Path | None, conf: Path | None, *, as_json: bool) -> None:
    """Make a mock notice (id MS..., search MDC) and hand it to the alert robot: everything happens but a telescope's motion.

    \b
    Examples:
      nightbell alert drill --conf conf/demo
      nightbell alert drill --out drill/
    """
    import tempfile
    import time

    from nightbell.simulator.notice import write_drill

    folder = Path(tempfile.mkdtemp(prefix="nightbell-drill-")) if out is None else out
    path = write_drill(folder, now_ns=time.time_ns())
    if out is not None:
        answer({"notice": str(path)}, as_json, str(path))
        return
    answer(_submit(conf, {"path": str(path.resolve())}), as_json)


def _submit(conf: Path | None, fields: dict[str, Any]) -> dict[str, Any]:
    import nightbell
    from nightbell.cli.processes import find_conf

    with nightbell.connect(find_conf(conf), name="alert", wait_s=0.0) as connection:
        done: dict[str, Any] = connection.ask("alerts", "submit_notice", timeout_s=SUBMIT_TIMEOUT_S, **fields)
    return done
