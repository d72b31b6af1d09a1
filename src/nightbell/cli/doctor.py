"""`nightbell doctor`: what on this machine or in this installation will hurt, with remedies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from nightbell.cli.output import answer, conf_option, json_option, reports_errors

SMALLEST_LIBZMQ = (4, 3, 5)
LEAST_FREE_GIB = 2.0
LEAST_FILES = 1024
CLOCK_LIMIT_S = 1.0
SLOW_SYNC_MS = 20.0
TOO_FAST_SYNC_MS = 0.02
"""A disk that is quicker than this has not written anything."""
ANSWER_S = 1.0
NEEDED = ("astropy", "astroplan", "ccdproc", "pygcn", "gcn-kafka", "sep", "scipy", "sqlalchemy", "starlette")
OPTIONAL = {"psycopg": "the calibration index on PostgreSQL"}


@click.command()
@conf_option
@json_option
@reports_errors
def doctor(conf: Path | None, *, as_json: bool) -> None:
    """Check Python, libraries, disk, clock, ports, settings and brokers; each finding with what to do. Exit 1 when something is bad.

    \b
    Examples:
      nightbell doctor
      nightbell doctor --conf conf/demo --json
    """
    import sys

    findings = [*_machine(), *_libraries(), *_installation(conf)]
    bad = any(one["state"] == "bad" for one in findings)
    answer({"ok": not bad, "findings": findings}, as_json, lambda: _text_of(findings))
    if bad:
        sys.exit(1)


def _text_of(findings: list[dict[str, str]]) -> str:
    """A line each; below what is not well, what to do. At the end how many there are, for who reads the end first."""
    width = max(len(one["what"]) for one in findings)
    lines = []
    for one in findings:
        mark = "ok  " if one["state"] == "ok" else one["state"].upper().ljust(4)
        lines.append(f"{mark}  {one['what'].ljust(width)}  {one['found']}")
        if one["remedy"]:
            lines.append(f"{'':{width + 8}}-> {one['remedy']}")
    n_bad, n_warn = (sum(one["state"] == state for one in findings) for state in ("bad", "warn"))
    return "\n".join([*lines, "", f"{len(findings)} checks: {n_bad} bad, {n_warn} to look at"])


def _finding(state: str, what: str, found: str, remedy: str = "") -> dict[str, str]:
    return {"state": state, "what": what, "found": found, "remedy": remedy if state != "ok" else ""}


def _machine() -> list[dict[str, str]]:
    import os
    import platform
    import sys

    found = [_finding("ok" if sys.version_info >= (3, 11) else "bad", "Python", platform.python_version(), "Install Python 3.11 or later")]
    if sys.platform != "win32":
        import resource

        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        found.append(_finding("ok" if soft >= LEAST_FILES else "warn", "open files allowed", str(soft), f"ulimit -n {4 * LEAST_FILES}"))
    found.append(_finding("ok" if (os.cpu_count() or 1) > 1 else "warn", "processors", str(os.cpu_count()), "The demo wants two"))
    return [*found, _clock()]


def _clock() -> dict[str, str]:
    """Whether somebody keeps the system's clock right, as the kernel knows it."""
    import ctypes
    import sys

    if sys.platform == "linux":
        # struct timex with modes = 0 only reads; 512 bytes hold it everywhere. 5 is TIME_ERROR: not synchronised.
        told = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(512))
        if 0 <= told < 5:
            return _finding("ok", "clock", "kept right (NTP)")
        if told == 5:
            return _finding(
                "warn", "clock", "nobody keeps it right", "Install chrony with three sources; exposures carry this clock's time"
            )
    return _finding("warn", "clock", "not known here who keeps it right", "Look yourself: chronyc tracking, or w32tm /query /status")


def _libraries() -> list[dict[str, str]]:
    import importlib.metadata

    import zmq

    version = tuple(int(part) for part in zmq.zmq_version_info())
    found = [_finding("ok" if version >= SMALLEST_LIBZMQ else "bad", "libzmq", zmq.zmq_version(), "Bring pyzmq up to date")]
    curve = bool(zmq.has("curve"))
    found.append(_finding("ok" if curve else "warn", "CURVE", "yes" if curve else "no", "Install a pyzmq wheel: keys will not work"))
    for name in (*NEEDED, *OPTIONAL):
        try:
            found.append(_finding("ok", name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            if name in OPTIONAL:
                found.append(_finding("ok", name, f"absent; only for {OPTIONAL[name]}"))
            else:
                found.append(_finding("bad", name, "missing", "Install nightbell again"))
    from nightbell.sky.offline import is_offline

    quiet = is_offline()
    found.append(_finding("ok" if quiet else "bad", "astropy stays offline", "yes" if quiet else "no", "Unset ASTROPY_CONFIG_DIR"))
    return found


def _installation(conf: Path | None) -> list[dict[str, str]]:
    import os

    from nightbell.cli.config import find_mistakes
    from nightbell.cli.processes import find_conf
    from nightbell.contracts.errors import NightbellError
    from nightbell.settings import load_installation

    named = find_conf(conf) or os.environ.get("NIGHTBELL_CONF")
    if not named:
        return [_finding("warn", "installation", "none is named: only the machine was checked", "Give --conf DIR or set NIGHTBELL_CONF")]
    mistakes = find_mistakes(Path(named).resolve())
    found = [_finding("bad", "settings", str(mistake), "Mend it; again: nightbell config check") for mistake in mistakes]
    try:
        installation = load_installation(named)
    except NightbellError:
        return found  # its mistakes are told above
    found = found or [_finding("ok", "settings", f"no mistakes in {installation.folder}")]
    found += _state_folder(installation)
    found += _keys(installation)
    found += [_broker(installation, name) for name in installation.settings.brokers]
    return [*found, *(_port(installation, name) for name in ("simulator", "console") if name in installation.settings.run)]


def _state_folder(installation: Any) -> list[dict[str, str]]:
    import os
    import shutil
    import statistics
    import time

    remedy = "Give another home in observatory.toml, or NIGHTBELL_HOME"
    tries = []
    try:
        installation.home.mkdir(parents=True, exist_ok=True)
        probe = installation.home / f".doctor-{os.getpid()}"
        with probe.open("wb") as file:
            for _ in range(7):
                file.write(b"x" * 4096)
                file.flush()
                began = time.perf_counter()
                os.fsync(file.fileno())
                tries.append(1000 * (time.perf_counter() - began))
        probe.unlink()
    except OSError as error:
        return [_finding("bad", "state folder", f"cannot be written: {error}", remedy)]
    found = [_finding("ok", "state folder", str(installation.home))]
    sync_ms = statistics.median(tries)
    words = f"{sync_ms:.2f} ms to make 4 KiB durable"
    if sync_ms < TOO_FAST_SYNC_MS:
        found.append(_finding("warn", "disk", words, "It says so without writing (a RAM disk?): a power cut would lose events"))
    else:
        found.append(_finding("ok" if sync_ms <= SLOW_SYNC_MS else "warn", "disk", words, "Keep the state on an SSD of this host"))
    free = shutil.disk_usage(installation.home).free / 2**30
    found.append(
        _finding("ok" if free >= LEAST_FREE_GIB else "bad", "free disk", f"{free:.0f} GiB", "Free space: brokers stop at their reserve")
    )
    return found


def _keys(installation: Any) -> list[dict[str, str]]:
    settings = installation.settings
    if not settings.keys:
        open_doors = [one.door for one in settings.brokers.values() if not one.door.startswith(("tcp://127.0.0.1:", "tcp://localhost:"))]
        if open_doors:
            return [_finding("bad", "keys", f"none, and {', '.join(open_doors)} is no loopback address", "nightbell keys make --all")]
        return [_finding("ok", "keys", "none needed: loopback only")]
    from nightbell.bus.keys import keys_folder, read_secret
    from nightbell.contracts.errors import NightbellError

    found = []
    for name in [one.replace("broker:", "broker-") for one in settings.run if one != "simulator"]:
        try:
            read_secret(keys_folder(installation), name)
        except NightbellError as error:
            found.append(_finding("bad", f"key of {name}", f"{error.where}: {error.what}", error.remedy))
    return found or [_finding("ok", "keys", f"there, and only their owner can read them, in {keys_folder(installation)}")]


def _broker(installation: Any, name: str) -> dict[str, str]:
    """Whether it answers; when not, whether its ports are free for it."""
    import time

    from nightbell.bus.script import connect
    from nightbell.contracts.errors import NightbellError, shell_word

    what, conf = f"broker {name}", shell_word(installation.folder)
    try:
        with connect(installation.folder, name="doctor", wait_s=ANSWER_S, broker=name) as connection:
            told = connection.status()
            offset_s = abs(connection.broker_clock_ns() - time.time_ns()) / 1e9
    except NightbellError as error:
        addresses = (installation.settings.brokers[name].door, installation.settings.brokers[name].feed)
        taken = [address for address in addresses if _is_taken(address)]
        if taken:
            return _finding(
                "bad", what, f"does not answer; {', '.join(taken)} is taken: {error.what}", "Choose other ports in observatory.toml"
            )
        return _finding(
            "warn",
            what,
            "does not run; its ports are free",
            f"Start it: nightbell run broker:{name} --conf {conf}, or all: nightbell up --conf {conf}",
        )
    if told.get("readonly"):
        return _finding("bad", what, f"takes no events: {told['readonly']}", "Free or mend its disk")
    if offset_s > CLOCK_LIMIT_S:
        return _finding("warn", what, f"its clock differs by {offset_s:.1f} s", "Run NTP or chrony on both hosts")
    if told.get("dead"):
        return _finding("warn", what, f"answers; {told['dead']} dead letters", f"nightbell dead list --broker {name}")
    return _finding("ok", what, f"answers, {told['head']} events")


def _port(installation: Any, name: str) -> dict[str, str]:
    """Whether the fixed port of a module is its own or free."""
    from nightbell.cli.config import settings_class
    from nightbell.cli.status import ask_module
    from nightbell.contracts.errors import NightbellError

    try:
        port = installation.module_settings(name, settings_class(name)).port
    except NightbellError:
        return _finding("warn", name, "its settings cannot be read", "See above")
    if not port or not _is_taken(f"tcp://127.0.0.1:{port}"):
        return _finding("ok", f"port of {name}", f"{port} is free" if port else "chosen at its start")
    if ask_module(installation, name)["alive"]:
        return _finding("ok", f"port of {name}", f"{port}, in use by it")
    return _finding("bad", f"port of {name}", f"{port} is taken by another program", f"Choose another in modules/{name}.toml")


def _is_taken(address: str) -> bool:
    """Whether somebody listens there, as far as this host can tell."""
    import socket

    host, _, port = address.removeprefix("tcp://").rpartition(":")
    with socket.socket() as probe:
        probe.settimeout(ANSWER_S)
        return host in ("127.0.0.1", "localhost", "*", "0.0.0.0") and probe.connect_ex(("127.0.0.1", int(port))) == 0  # noqa: S104
