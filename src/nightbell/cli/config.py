"""`nightbell config`: all mistakes of an installation at once, and what is in force."""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path
from typing import Any

import click

from nightbell.cli.output import answer, conf_option, json_option, reports_errors, table


@click.group()
def config() -> None:
    """Check and show an installation's settings.

    \b
    Examples:
      nightbell config check --conf conf/demo
      nightbell config show telescope --conf conf/demo
    """


def settings_class(module: str) -> type[Any]:
    """The settings dataclass of a module."""
    from nightbell.cli.processes import SETTINGS

    path, _, name = SETTINGS[module].partition(":")
    kind = getattr(importlib.import_module(path), name)
    assert isinstance(kind, type)
    return kind


@config.command()
@click.argument("folder", required=False, type=click.Path(path_type=Path, file_okay=False))
@conf_option
@json_option
@reports_errors
def check(folder: Path | None, conf: Path | None, *, as_json: bool) -> None:
    """Read every file of an installation and report all mistakes, each with file, key, value and what is allowed.

    \b
    Example:
      nightbell config check conf/demo
    """
    from nightbell.cli.processes import find_conf
    from nightbell.settings import load_installation

    installation = load_installation(find_conf(folder or conf))
    mistakes = find_mistakes(installation)
    if mistakes:
        from nightbell.contracts.errors import Mistakes

        raise Mistakes(mistakes)
    names = ["observatory", *installation.modules]
    answer({"ok": True, "files": names}, as_json, f"{installation.folder}: {len(names)} files, no mistakes")


def find_mistakes(installation: Any) -> list[Any]:
    """Every mistake in module files and the process list of an installation whose observatory.toml could be read."""
    import difflib

    from nightbell.cli.processes import PROCESSES, SETTINGS
    from nightbell.contracts.errors import BadInput, Mistakes, NightbellError

    mistakes: list[NightbellError] = []
    place = installation.folder / "observatory.toml"
    brokers = installation.settings.brokers
    for process in installation.settings.run:
        known = [*PROCESSES, *(f"broker:{name}" for name in brokers)]
        if process not in known:
            near = difflib.get_close_matches(process, known, n=1)
            remedy = f"Did you mean {near[0]}?" if near else f"Known: {', '.join(known)}"
            mistakes.append(BadInput(f"{process!r} is no process", where=f"{place}: run", remedy=remedy))
    for name, path in installation.modules.items():
        if name not in SETTINGS:
            near = difflib.get_close_matches(name, SETTINGS, n=1)
            mistakes.append(
                BadInput("is no module's file", where=str(path), remedy=f"Did you mean {near[0]}.toml?" if near else "Delete it")
            )
            continue
        try:
            installation.module_settings(name, settings_class(name))
            installation.broker_of(name)
        except Mistakes as several:
            mistakes.extend(several.mistakes)
        except NightbellError as error:
            mistakes.append(error)
    policy = installation.folder / "policy.toml"
    if policy.is_file():
        from nightbell.alerts.policy import load_policy

        try:
            load_policy(policy)
        except Mistakes as several:
            mistakes.extend(several.mistakes)
        except NightbellError as error:
            mistakes.append(error)
    return mistakes


@config.command()
@click.argument("module", default="observatory")
@conf_option
@json_option
@reports_errors
def show(module: str, conf: Path | None, *, as_json: bool) -> None:
    """What is in force for MODULE (default: the installation), defaults included.

    \b
    Example:
      nightbell config show safety --conf conf/demo
    """
    from nightbell.cli.processes import SETTINGS, find_conf
    from nightbell.contracts.errors import BadInput
    from nightbell.settings import load_installation

    installation = load_installation(find_conf(conf))
    if module == "observatory":
        value: Any = installation.settings
    elif module in SETTINGS:
        value = installation.module_settings(module, settings_class(module))
    else:
        raise BadInput(f"there is no module {module!r}", where="MODULE", remedy=f"Use observatory or one of {', '.join(SETTINGS)}")
    values = dataclasses.asdict(value)
    rows = [(one.name, values[one.name], one.metadata.get("unit", ""), one.metadata.get("doc", "")) for one in dataclasses.fields(value)]
    answer(values, as_json, lambda: table(rows, ("setting", "value", "unit", "what")))
