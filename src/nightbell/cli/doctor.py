"""`nightbell doctor`: what on this machine or in this installation will hurt, with remedies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from nightbell.cli.output import answer, conf_option, json_option, reports_errors, table

SMALLEST_LIBZMQ = (4, 3, 5)
LEAST_FREE_GIB = 2.0
LEAST_FILES = 1024
CLOCK_LIMIT_S = 1.0


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
    rows = [(one["state"].upper() if one["state"] != "ok" else "ok", one["what"], one["found"], one["remedy"]) for one in findings]
    bad = any(one["state"] == "bad" for one in findings)
    answer({"ok": not bad, "findings": findings}, as_json, lambda: table(rows, ("", "what", "found", "what to do")))
    if bad:
        sys.exit(1)


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
    return found


def _libraries() -> list[dict[str, str]]:
    import importlib
    import importlib.metadata

    import zmq

    version = tuple(int(part) for part in zmq.zmq_version_info())
    found = [_finding("ok" if version >= SMALLEST_LIBZMQ else "bad", "libzmq", zmq.zmq_version(), "Bring pyzmq up to date")]
    curve = bool(zmq.has("curve"))
    found.append(_finding("ok" if curve else "warn", "CURVE", "yes" if curve else "no", "Install a pyzmq wheel: keys will not work"))
    for name in ("astropy", "astroplan", "ccdproc", "pygcn", "gcn-kafka", "sep"):
        try:
            found.append(_finding("ok", name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            found.append(_finding("bad", name, "missing", "Install nightbell again"))
    from astropy.utils import iers

    quiet = not iers.conf.auto_download
    found.append(_finding("ok" if quiet else "bad", "astropy stays offline", "yes" if quiet else "no", "Unset ASTROPY_CONFIG_DIR"))
    return found


def _installation(conf: Path | None) -> list[dict[str, str]]:
    import shutil

    from nightbell.cli.config import find_mistakes
    from nightbell.cli.processes import find_conf
    from nightbell.contracts.errors import NightbellError
    from nightbell.settings import load_installation

    folder = find_conf(conf)
    try:
        installation = load_installation(folder)
    except NightbellError as error:
        return [_finding("warn" if conf is None else "bad", "installation", str(error), "Give --conf DIR")]
    found = [_finding("ok", "installation", str(installation.folder))]
    mistakes = find_mistakes(installation)
    found.append(_finding("bad" if mistakes else "ok", "settings", f"{len(mistakes)} mistakes", "nightbell config check"))
    try:
        installation.home.mkdir(parents=True, exist_ok=True)
        probe = installation.home / ".doctor"
        probe.write_bytes(b"x")
        probe.unlink()
        found.append(_finding("ok", "state folder", str(installation.home)))
    except OSError as error:
        return [*found, _finding("bad", "state folder", str(error), "Give another home in observatory.toml, or NIGHTBELL_HOME")]
    free = shutil.disk_usage(installation.home).free / 2**30
    found.append(
        _finding("ok" if free >= LEAST_FREE_GIB else "bad", "free disk", f"{free:.0f} GiB", "Free space: brokers stop at their reserve")
    )
    keyless = [one.door for one in installation.settings.brokers.values() if "127.0.0.1" not in one.door and not installation.settings.keys]
    found.append(_finding("bad" if keyless else "ok", "keys", ", ".join(keyless) or "as needed", "nightbell keys make --all"))
    return [*found, *(_broker(installation, name) for name in installation.settings.brokers)]


def _broker(installation: Any, name: str) -> dict[str, str]:
    """Whether it answers; when not, whether its ports are free for it."""
    import socket
    import time

    from nightbell.bus.script import connect
    from nightbell.contracts.errors import NightbellError

    what = f"broker {name}"
    try:
        with connect(installation.folder, name="doctor", wait_s=1.0, broker=name) as connection:
            told = connection.status()
            offset_s = abs(connection.broker_clock_ns() - time.time_ns()) / 1e9
        if offset_s > CLOCK_LIMIT_S:
            return _finding("warn", what, f"its clock differs by {offset_s:.1f} s", "Run NTP or chrony on both hosts")
        return _finding("ok", what, f"answers, {told['head']} events")
    except NightbellError as error:
        reason = str(error)
    taken = []
    for address in (installation.settings.brokers[name].door, installation.settings.brokers[name].feed):
        host, _, port = address.removeprefix("tcp://").rpartition(":")
        with socket.socket() as probe:
            if host in ("127.0.0.1", "localhost") and probe.connect_ex((host, int(port))) == 0:
                taken.append(port)
    if taken:
        return _finding("bad", what, f"another program listens at {', '.join(taken)}", "Choose other ports in observatory.toml")
    return _finding("warn", what, "does not run; its ports are free", reason.rpartition(". ")[2])
