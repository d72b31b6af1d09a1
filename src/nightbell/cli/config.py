"""`nightbell config`: all mistakes of an installation at once, and what is in force."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import importlib
import json
import os
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from nightbell.cli.output import Verbs, answer, conf_option, json_option, reports_errors, table
from nightbell.contracts.errors import BadInput, Mistakes, NightbellError

WIDEST = 40
_ADDRESS = re.compile(r"tcp://.+:(\d+)")
_CLOCK = re.compile(r"http://[^/:\s]+:(\d+)/\S+")


@click.group(cls=Verbs)
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
    root = checked_folder(folder or conf)
    names = ["observatory", *(path.stem for path in sorted((root / "modules").glob("*.toml")))]
    answer({"ok": True, "files": names}, as_json, f"{root}: {len(names)} files, no mistakes")


def checked_folder(folder: Path | None, only: Sequence[str] = ()) -> Path:
    """The installation folder to use, with not one mistake in it (nor in `only`, names of processes). Raises `BadInput` or `Mistakes`."""
    from nightbell.cli.processes import find_conf
    from nightbell.settings import read_toml

    named = find_conf(folder) or os.environ.get("NIGHTBELL_CONF")
    if not named:
        raise BadInput("no installation is named", where="--conf", remedy="Give --conf DIR or set NIGHTBELL_CONF")
    root = Path(named).resolve()
    mistakes = find_mistakes(root)
    if not mistakes:
        mistakes = process_mistakes(list(only), read_toml(root / "observatory.toml")["brokers"], "--only")
    if mistakes:
        raise Mistakes(mistakes)
    return root


def find_mistakes(root: Path) -> list[NightbellError]:
    """Every mistake in every file of the installation folder `root`: one wrong file hides no other."""
    from nightbell.settings import InstallationSettings, read_settings, read_toml

    place = root / "observatory.toml"
    mistakes: list[NightbellError] = []
    table: dict[str, Any] = {}
    with _kept(mistakes):
        table = read_toml(place)
        read_settings(table, InstallationSettings, where=str(place))
    told = table.get("brokers")
    brokers: dict[str, Any] = told if isinstance(told, dict) else {}
    known_brokers = brokers if table else None  # of a file that could not be read nothing is known
    mistakes += process_mistakes(table.get("run"), brokers, f"{place}: run")
    mistakes += _address_mistakes(brokers, str(place))
    mistakes += _clock_mistakes(table.get("clock"), str(place))
    for path in sorted((root / "modules").glob("*.toml")):
        mistakes += _module_mistakes(path, known_brokers)
    policy = root / "policy.toml"
    if policy.is_file():
        from nightbell.alerts.policy import load_policy

        with _kept(mistakes):
            load_policy(policy)
    return [*mistakes, *_tuning_mistakes(root)]


@contextlib.contextmanager
def _kept(mistakes: list[NightbellError]) -> Iterator[None]:
    """Mistakes that are raised inside are kept, and reading goes on behind."""
    try:
        yield
    except Mistakes as several:
        mistakes.extend(several.mistakes)
    except NightbellError as error:
        mistakes.append(error)


def process_mistakes(run: object, brokers: Mapping[str, Any], place: str) -> list[NightbellError]:
    """Names in a list of processes that nothing here can run, or that stand there twice."""
    from nightbell.cli.processes import PROCESSES

    known = [*PROCESSES, *(f"broker:{name}" for name in brokers)]
    found: list[NightbellError] = []
    names = [name for name in run if isinstance(name, str)] if isinstance(run, list) else []
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            remedy = f"Did you mean {near[0]}?" if near else f"Known: {', '.join(known)}"
            found.append(BadInput(f"{name!r} is no process", where=place, remedy=remedy))
    twice = sorted({name for name in names if names.count(name) > 1})
    found.extend(BadInput(f"{name!r} stands there twice", where=place, remedy="One process of a name can live") for name in twice)
    return found


def _address_mistakes(brokers: Mapping[str, Any], place: str) -> list[NightbellError]:
    found: list[NightbellError] = []
    taken: dict[str, str] = {}
    for name, one in brokers.items():
        for key in ("door", "feed"):
            address = one.get(key) if isinstance(one, dict) else None
            if not isinstance(address, str):
                continue  # said already, by its type
            where = f"{place}: brokers.{name}.{key}"
            match = _ADDRESS.fullmatch(address)
            if match is None or not 1 <= int(match[1]) <= 65535:
                found.append(BadInput(f"{address!r} is no address", where=where, remedy="Write tcp://HOST:PORT, a port from 1 to 65535"))
            elif address in taken:
                found.append(BadInput(f"{address} is that of {taken[address]} too", where=where, remedy="Give each its own port"))
            taken[address] = f"{name}.{key}"
    return found


def _clock_mistakes(clock: object, place: str) -> list[NightbellError]:
    if not isinstance(clock, dict):
        return []
    url, where = clock.get("url", ""), f"{place}: clock.url"
    remedy = 'Give the simulator\'s: url = "http://HOST:PORT/sim/clock"'
    if not url and clock.get("kind") == "simulator":
        return [BadInput("is missing", where=where, remedy=remedy)]
    match = _CLOCK.fullmatch(url) if isinstance(url, str) and url else None
    if isinstance(url, str) and url and (match is None or not 1 <= int(match[1]) <= 65535):
        return [BadInput(f"{url!r} is no address", where=where, remedy=remedy)]
    return []


def _module_mistakes(path: Path, brokers: Mapping[str, Any] | None) -> list[NightbellError]:
    from nightbell.cli.processes import SETTINGS
    from nightbell.settings import read_settings, read_toml

    if path.stem not in SETTINGS:
        near = difflib.get_close_matches(path.stem, SETTINGS, n=1)
        return [BadInput("is no module's file", where=str(path), remedy=f"Did you mean {near[0]}.toml?" if near else "Delete it")]
    found: list[NightbellError] = []
    with _kept(found):
        table = read_toml(path)
        broker = table.get("broker")
        if broker is not None and brokers is not None and broker not in brokers:
            found.append(_no_broker(broker, brokers, f"{path}: broker"))
        kind = settings_class(path.stem)
        found += _reference_mistakes(table, kind, path, brokers)
        read_settings(table, kind, where=str(path))
    return found


def _reference_mistakes(
    table: Mapping[str, Any], kind: type, path: Path, brokers: Mapping[str, Any] | None, prefix: str = ""
) -> list[NightbellError]:
    """Files and brokers that settings name and that are not there; what was named in vain must not become a default in silence."""
    found: list[NightbellError] = []
    hints = typing.get_type_hints(kind)
    for one in dataclasses.fields(kind):
        value, where = table.get(one.name), f"{path}: {prefix}{one.name}"
        if isinstance(value, dict) and dataclasses.is_dataclass(hints[one.name]):
            found += _reference_mistakes(value, hints[one.name], path, brokers, f"{prefix}{one.name}.")
        if not isinstance(value, str) or not value or value == one.default:
            continue
        if one.metadata.get("names") == "path" and not (path.parents[1] / value).exists():
            folder = (path.parents[1] / value).parent
            near = difflib.get_close_matches(Path(value).name, [there.name for there in folder.glob("*")], n=1, cutoff=0.75)
            remedy = f"Did you mean {(Path(value).parent / near[0]).as_posix()}?" if near else f"It is looked for in {folder}"
            found.append(BadInput(f"there is no {value!r}", where=where, remedy=remedy))
        if one.metadata.get("names") == "broker" and brokers is not None and value not in brokers:
            found.append(_no_broker(value, brokers, where))
    return found


def _no_broker(name: object, brokers: Mapping[str, Any], where: str) -> NightbellError:
    near = difflib.get_close_matches(str(name), brokers, n=1)
    remedy = f"Did you mean {near[0]}?" if near else f"Use one of {', '.join(brokers)}"
    return BadInput(f"{name!r} is no broker of this installation", where=where, remedy=remedy)


def _tuning_mistakes(root: Path) -> list[NightbellError]:
    """Of the brokers' own files, as far as observatory.toml says where they are."""
    from nightbell.bus.tuning import load_tuning
    from nightbell.settings import load_installation

    found: list[NightbellError] = []
    try:
        installation = load_installation(root)
    except NightbellError:
        return found  # its mistakes are told already
    for name in installation.settings.brokers:
        with _kept(found):
            load_tuning(installation, name)
    return found


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
    from nightbell.settings import load_installation

    installation = load_installation(find_conf(conf))
    if module == "observatory":
        value: Any = installation.settings
    elif module in SETTINGS:
        value = installation.module_settings(module, settings_class(module))
    else:
        raise BadInput(f"there is no module {module!r}", where="MODULE", remedy=f"Use observatory or one of {', '.join(SETTINGS)}")
    answer(dataclasses.asdict(value), as_json, lambda: table(_rows(value), ("setting", "value", "unit", "what")))


def _rows(value: Any, prefix: str = "") -> list[tuple[str, str, str, str]]:
    """(dotted key, value as TOML has it, unit, documentation) of every setting, tables taken apart."""
    rows: list[tuple[str, str, str, str]] = []
    for one in dataclasses.fields(value):
        there, key = getattr(value, one.name), f"{prefix}{one.name}"
        parts = list(there.items() if isinstance(there, dict) else enumerate(there) if isinstance(there, tuple) else ())
        if dataclasses.is_dataclass(there):
            rows += _rows(there, f"{key}.")
        elif parts and all(dataclasses.is_dataclass(part) for _, part in parts):
            for name, part in parts:
                rows += _rows(part, f"{key}.{name}." if isinstance(name, str) else f"{key}[{name}].")
        else:
            text = json.dumps(there, ensure_ascii=False)
            # A long list stands below itself, or it would push the other columns off the screen.
            lines = [json.dumps(part, ensure_ascii=False) for part in there] if isinstance(there, tuple) and len(text) > WIDEST else [text]
            rows.append((key, lines[0], one.metadata.get("unit", ""), one.metadata.get("doc", "")))
            rows += [("", line, "", "") for line in lines[1:]]
    return rows
