"""`nightbell night`: what the sky does tonight, and the telescope's night: prepare, open, close."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from nightbell.cli.output import Verbs, answer, conf_option, json_option, reports_errors, table


@click.group(cls=Verbs)
def night() -> None:
    """The night: events of the sky, and the commands prepare, open, close.

    \b
    Examples:
      nightbell night events --site conf/demo/observatory.toml --date 2027-04-12
      nightbell night prepare
      nightbell night close --reason "clouds"
    """


def read_site(path: Path) -> Any:
    """The [site] of an observatory.toml, or a file that holds its keys alone. Raises `BadInput` or `Mistakes`."""
    from nightbell.contracts.records import Site
    from nightbell.settings import SiteSettings, read_settings, read_toml

    file = path / "observatory.toml" if path.is_dir() else path
    told = read_toml(file)
    site = told.get("site", told)
    # A site file that other programs made may hold more than we need, and say it differently.
    known = {"name": "site", **{key: value for key, value in site.items() if key in SiteSettings.__dataclass_fields__}}
    settings = read_settings(known, SiteSettings, where=f"{file}: site" if "site" in told else str(file))
    return Site(
        name=settings.name, latitude_deg=settings.latitude_deg, longitude_deg=settings.longitude_deg, elevation_m=settings.elevation_m
    )


@night.command()
@click.option("--site", "site_file", type=click.Path(path_type=Path), default=None, help="observatory.toml, or a file with a site's keys.")
@click.option("--date", "night_date", default=None, help="Local date at the noon before, 2027-04-12 (default: the night now or next).")
@conf_option
@json_option
@reports_errors
def events(site_file: Path | None, night_date: str | None, conf: Path | None, *, as_json: bool) -> None:
    """Sunset, twilights, dawn and the Moon of one night, in UTC; null where something does not happen.

    \b
    Examples:
      nightbell night events --site conf/demo/observatory.toml --date 2027-04-12
      nightbell night events --conf conf/demo --json
    """
    import time

    from nightbell.cli.processes import find_conf
    from nightbell.contracts.errors import BadInput
    from nightbell.contracts.instants import format_utc
    from nightbell.sky.night import events_of_night
    from nightbell.sky.view import night_label

    where = site_file or find_conf(conf)
    if where is None:
        raise BadInput("no site is named", where="--site", remedy="Give --site FILE or --conf DIR")
    site = read_site(Path(where))
    found = events_of_night(site, night_date or night_label(time.time_ns(), site.longitude_deg))

    def utc(at_ns: int | None) -> str | None:
        return None if at_ns is None else format_utc(at_ns)

    names = (
        "sunset",
        "civil_dusk",
        "nautical_dusk",
        "astronomical_dusk",
        "astronomical_dawn",
        "nautical_dawn",
        "civil_dawn",
        "sunrise",
    )
    told = {
        "night": found.night,
        "always_dark": found.always_dark,
        "never_dark": found.never_dark,
        **{name: utc(getattr(found, name)) for name in names},
        "moon": {"illumination": round(found.moon_illumination, 4), "rise": utc(found.moonrise), "set": utc(found.moonset)},
    }
    rows = [(name.replace("_", " "), told[name] or "does not happen") for name in names]
    rows += [("moonrise", utc(found.moonrise) or "-"), ("moonset", utc(found.moonset) or "-")]
    rows.append(("moon lit", f"{100 * found.moon_illumination:.0f} %"))
    answer(told, as_json, lambda: f"Night {found.night} at {site.name}\n" + table(rows, ("", "UTC")))


def _send(verb: str, conf: Path | None, as_json: bool, **fields: Any) -> None:  # noqa: FBT001
    import nightbell
    from nightbell.cli.processes import find_conf

    with nightbell.connect(find_conf(conf), name="night") as connection:
        told = connection.ask("telescope", verb, timeout_s=60.0, **fields)
    answer(told, as_json, lambda: "\n".join(f"{key}: {value}" for key, value in told.items()))


@night.command()
@conf_option
@json_option
@reports_errors
def prepare(conf: Path | None, *, as_json: bool) -> None:
    """Connect, cool, check, plan, and take the calibration frames that are wanted.

    \b
    Example:
      nightbell night prepare --conf conf/demo
    """
    _send("prepare_night", conf, as_json)


@night.command("open")
@conf_option
@json_option
@reports_errors
def open_night(conf: Path | None, *, as_json: bool) -> None:
    """Open the dome and begin; refused, with every reason, when safety gives no GO.

    \b
    Example:
      nightbell night open --conf conf/demo
    """
    _send("open_night", conf, as_json)


@night.command()
@click.option("--reason", default="asked by operator", show_default=True, help="Why; it is recorded.")
@conf_option
@json_option
@reports_errors
def close(reason: str, conf: Path | None, *, as_json: bool) -> None:
    """End the night: close, park, warm up.

    \b
    Example:
      nightbell night close --reason "clouds"
    """
    _send("close_night", conf, as_json, reason=reason)
