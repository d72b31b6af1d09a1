"""How an installation is configured: TOML folder -> typed, checked settings. Every mistake is reported, all at once.

An installation is a folder:

    observatory.toml     site, brokers, clock, which processes run here
    modules/NAME.toml    one file per module, its keys are the fields of that module's settings class
    policy.toml          which alerts are followed (alerts/policy.py)
    keys/                CURVE keys, when the bus leaves the host

A settings class is a frozen dataclass whose fields are made with `setting(...)`: type, unit, range, default and one line of
documentation in one place; the reference is generated from it. Nothing is read from the environment but NIGHTBELL_CONF and
NIGHTBELL_HOME.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import msgspec

from nightbell.contracts.errors import BadInput, Mistakes, NightbellError
from nightbell.contracts.records import Site

__all__ = [
    "BrokerSettings",
    "ClockSettings",
    "Installation",
    "InstallationSettings",
    "SiteSettings",
    "load_installation",
    "read_settings",
    "read_toml",
    "setting",
]

T = TypeVar("T")
LARGEST_FILE_BYTES = 1 << 20


def setting(
    default: Any = dataclasses.MISSING,
    *,
    doc: str,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    choices: tuple[Any, ...] | None = None,
    names: Literal["", "path", "broker"] = "",
) -> Any:
    """One setting: a dataclass field with its range (inclusive), unit and line of documentation.

    `names` says what of the installation the text refers to: a file or folder relative to it, or one of its brokers. Such a
    thing must be there when the setting is given; `nightbell config check` looks.
    """
    metadata = {"doc": doc, "unit": unit, "low": low, "high": high, "choices": choices, "names": names}
    if isinstance(default, dict | list):
        value = default
        return field(default_factory=lambda: type(value)(value), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class SiteSettings:
    """[site] Where the observatory stands."""

    name: str = setting(doc="Short name; part of every event's source (module@name)")
    latitude_deg: float = setting(unit="deg", low=-90, high=90, doc="Geodetic latitude, north positive")
    longitude_deg: float = setting(unit="deg", low=-180, high=360, doc="Longitude, EAST positive")
    elevation_m: float = setting(0.0, unit="m", low=-500, high=9000, doc="Height above the WGS84 ellipsoid")


@dataclass(frozen=True, kw_only=True)
class BrokerSettings:
    """[brokers.NAME] One broker: where it listens. Port 0 is not allowed; the demo picks free ones."""

    door: str = setting(doc="Address of the door (publish, subscribe, acknowledge, replay), tcp://HOST:PORT")
    feed: str = setting(doc="Address of the feed (taps), tcp://HOST:PORT")
    settings: str = setting("", doc="Folder under brokers/ with the broker's own settings; empty: defaults")
    site: str = setting("", doc="Site this broker serves; empty: the installation's site")


@dataclass(frozen=True, kw_only=True)
class ClockSettings:
    """[clock] Whose time the processes of this installation keep."""

    kind: str = setting("system", choices=("system", "simulator"), doc="system, or simulator: the simulated world's clock")
    url: str = setting("", doc="Simulator clock, http://HOST:PORT/sim/clock; only with kind = simulator")


@dataclass(frozen=True, kw_only=True)
class InstallationSettings:
    """observatory.toml: what runs here, where, and whose time it keeps."""

    site: SiteSettings = setting(doc="Where the observatory stands")
    brokers: dict[str, BrokerSettings] = setting(doc="Brokers of this installation by name")
    run: tuple[str, ...] = setting(doc="Processes that `nightbell up` starts, in this order: broker:NAME or a module's name")
    clock: ClockSettings = setting(ClockSettings(), doc="Whose time is kept")
    stage: int = setting(3, low=1, high=3, doc="1 human hands, 2 remote scripts, 3 autonomous")
    home: str = setting("", doc="Where state lives; empty: NIGHTBELL_HOME, else ~/.nightbell/SITE")
    keys: str = setting("", doc="Folder with CURVE keys; empty: no encryption, which only loopback addresses allow")


@dataclass(frozen=True)
class Installation:
    """One installation, read and checked. Built once at a process's entry and passed down."""

    folder: Path
    settings: InstallationSettings
    home: Path
    modules: Mapping[str, Path]
    """Module name -> its TOML file, for those that have one."""

    @property
    def site(self) -> Site:
        site = self.settings.site
        return Site(name=site.name, latitude_deg=site.latitude_deg, longitude_deg=site.longitude_deg, elevation_m=site.elevation_m)

    def module_settings(self, name: str, kind: type[T]) -> T:
        """The settings of module `name`, all defaults when it has no file. Raises `Mistakes`."""
        path = self.modules.get(name)
        if path is None:
            return read_settings({}, kind, where=f"modules/{name}.toml (absent)")
        return read_settings(read_toml(path), kind, where=str(path))

    def broker_of(self, name: str) -> str:
        """Name of the broker that module `name` talks to: its `broker` key, else the first broker."""
        path = self.modules.get(name)
        table = read_toml(path) if path is not None else {}
        broker = table.get("broker") or next(iter(self.settings.brokers))
        if broker not in self.settings.brokers:
            raise BadInput(
                f"{broker!r} is no broker of this installation",
                where=f"{path}: broker",
                remedy=f"Use one of {', '.join(self.settings.brokers)}",
            )
        return str(broker)

    def state_folder(self, name: str) -> Path:
        """Where module `name` keeps its state; made when absent."""
        folder = self.home / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def read_toml(path: Path) -> dict[str, Any]:
    """A settings file as a table. Raises `BadInput` naming the file and the line."""
    try:
        if path.stat().st_size > LARGEST_FILE_BYTES:
            raise BadInput("larger than 1 MiB", where=str(path), remedy="A settings file is a page of text")
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BadInput("there is no such file", where=str(path), remedy="Name an installation folder, for instance conf/demo") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"not TOML: {error}", where=str(path), remedy="Mend the line it names") from error


def load_installation(folder: str | Path | None = None, *, home: str | Path | None = None) -> Installation:
    """Read and check an installation folder (default: NIGHTBELL_CONF). Raises `BadInput` or `Mistakes`."""
    chosen = folder if folder is not None else os.environ.get("NIGHTBELL_CONF")
    if not chosen:
        raise BadInput("no installation is named", where="--conf", remedy="Give --conf DIR or set NIGHTBELL_CONF")
    root = Path(chosen).resolve()
    path = root / "observatory.toml"
    settings = read_settings(read_toml(path), InstallationSettings, where=str(path))
    modules = {file.stem: file for file in sorted((root / "modules").glob("*.toml"))}
    chosen_home = home or os.environ.get("NIGHTBELL_HOME") or settings.home or Path.home() / ".nightbell" / settings.site.name
    state = Path(chosen_home)
    return Installation(root, settings, (state if state.is_absolute() else root / state).resolve(), modules)


def read_settings(table: Mapping[str, Any], kind: type[T], *, where: str) -> T:
    """`table` as an instance of the settings dataclass `kind`. Raises `Mistakes` naming each wrong key."""
    mistakes: list[NightbellError] = []
    value = _read(table, kind, where, "", mistakes)
    if mistakes:
        raise Mistakes(mistakes)
    return cast(T, value)


def _read(table: Mapping[str, Any], kind: type, where: str, prefix: str, mistakes: list[NightbellError]) -> Any:
    hints = typing.get_type_hints(kind)
    fields = {one.name: one for one in dataclasses.fields(kind)}
    # `broker` says which broker a module talks to; every module's file may hold it.
    known = set(fields) | (set() if prefix else {"broker"})
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
            mistakes.append(
                BadInput(
                    "there is no such setting",
                    where=f"{where}: {prefix}{key}",
                    remedy=f"Did you mean {near[0]}?" if near else f"Known here: {', '.join(sorted(known))}",
                )
            )
    values: dict[str, Any] = {}
    for name, one in fields.items():
        if name not in table:
            if one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING:
                mistakes.append(BadInput("is missing", where=f"{where}: {prefix}{name}", remedy=f"Add it. {_allowed(one, hints[name])}"))
            continue
        values[name] = _one(table[name], hints[name], one, where, f"{prefix}{name}", mistakes)
    if mistakes:
        return None
    try:
        return kind(**values)
    except (ValueError, NightbellError) as error:  # a rule between fields, from __post_init__
        mistakes.append(error if isinstance(error, NightbellError) else BadInput(str(error), where=f"{where}: {prefix or 'the file'}"))
        return None


def _one(value: Any, hint: Any, one: dataclasses.Field[Any], where: str, key: str, mistakes: list[NightbellError]) -> Any:
    place = f"{where}: {key}"
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, Mapping):
            mistakes.append(BadInput(f"{value!r} is not a table", where=place, remedy=f"Write it as [{key}]"))
            return None
        return _read(value, hint, where, f"{key}.", mistakes)
    inner = typing.get_args(hint)
    holds_settings = bool(inner) and dataclasses.is_dataclass(inner[-1] if typing.get_origin(hint) is dict else inner[0])
    if typing.get_origin(hint) is dict and holds_settings:
        if not isinstance(value, Mapping):
            mistakes.append(BadInput(f"{value!r} is not a table", where=place, remedy=f"Write it as [{key}.NAME]"))
            return None
        read: dict[str, Any] = {}
        for name, entry in value.items():
            if isinstance(entry, Mapping):
                read[name] = _read(entry, inner[-1], where, f"{key}.{name}.", mistakes)
            else:
                mistakes.append(BadInput(f"{entry!r} is not a table", where=f"{place}.{name}", remedy=f"Write it as [{key}.{name}]"))
        return read
    if typing.get_origin(hint) is tuple and holds_settings:
        entries = value if isinstance(value, list) else [value]
        return tuple(_read(entry, inner[0], where, f"{key}[{i}].", mistakes) for i, entry in enumerate(entries))
    try:
        converted = msgspec.convert(value, hint, strict=True)
    except msgspec.ValidationError as error:
        # msgspec names the place inside the value when there is one; "Expected `float`, got `str`" is for programmers.
        inside = " - at " in str(error)
        what = f"{value!r}: {error}" if inside else f"{value!r} is {_in_words(type(value))}, not {_in_words(hint)}"
        mistakes.append(BadInput(what, where=place, remedy=_allowed(one, hint)))
        return None
    for number in _numbers(converted):
        low, high = one.metadata.get("low"), one.metadata.get("high")
        if not math.isfinite(number) or (low is not None and number < low) or (high is not None and number > high):
            mistakes.append(BadInput(f"{number!r} is outside {_range(low, high)}", where=place, remedy=_allowed(one, hint)))
            return None
    choices = one.metadata.get("choices")
    if choices and converted not in choices:
        near = difflib.get_close_matches(str(converted), [str(choice) for choice in choices], n=1)
        mistakes.append(
            BadInput(
                f"{converted!r} is not one of {', '.join(map(str, choices))}",
                where=place,
                remedy=f"Did you mean {near[0]}?" if near else _allowed(one, hint),
            )
        )
        return None
    return converted


def _numbers(value: Any) -> Iterable[float]:
    if isinstance(value, bool):
        return ()
    if isinstance(value, int | float):
        return (value,)
    if isinstance(value, tuple | list):
        return tuple(number for entry in value for number in _numbers(entry))
    return ()


def _range(low: float | None, high: float | None) -> str:
    return f"{'-inf' if low is None else f'{low:g}'} to {'inf' if high is None else f'{high:g}'}"


def _allowed(one: dataclasses.Field[Any], hint: Any) -> str:
    unit = f" {one.metadata['unit']}" if one.metadata.get("unit") else ""
    low, high = one.metadata.get("low"), one.metadata.get("high")
    limits = f", {_range(low, high)}{unit}" if low is not None or high is not None else f" in{unit}" if unit else ""
    return f"Allowed: {_in_words(hint)}{limits}. {one.metadata['doc']}"


def _in_words(hint: Any) -> str:
    """A type as one says it who writes TOML."""
    words = {float: "a number", int: "a whole number", str: "text", bool: "true or false", list: "a list", dict: "a table"}
    kind = typing.get_origin(hint) or hint
    if kind is tuple:
        inner = typing.get_args(hint)
        return f"a list of {'numbers' if inner[0] in (float, int) else 'texts'}" if inner and inner[0] in words else "a list"
    if kind in (typing.Union, types.UnionType):
        return " or ".join(_in_words(one) for one in typing.get_args(hint) if one is not type(None))
    return words.get(kind, getattr(kind, "__name__", str(kind)))
