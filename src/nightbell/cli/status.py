"""`nightbell status`: which processes live, how they are, how far everybody has read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from nightbell.cli.output import answer, conf_option, json_option, reports_errors, table

ANSWER_S = 2.0
FACTS = ("state", "verdict", "shutter", "night", "trouble", "notices", "n_frames")


@click.command()
@conf_option
@json_option
@reports_errors
def status(conf: Path | None, *, as_json: bool) -> None:
    """Brokers, modules, subscriptions and dead letters of an installation. Exit 1 when something that should run does not.

    \b
    Examples:
      nightbell status --conf conf/demo
      nightbell status --json
    """
    import sys

    from nightbell.cli.processes import find_conf
    from nightbell.settings import load_installation

    installation = load_installation(find_conf(conf))
    brokers = {name: _broker(installation, name) for name in installation.settings.brokers}
    sessions = {one["name"]: one for told in brokers.values() for one in told.get("sessions", ())}
    names = [name for name in installation.settings.run if not name.startswith("broker:")]
    modules = {name: _module(installation, name, sessions.get(name)) for name in names}
    told = {"ok": False, "installation": str(installation.folder), "brokers": brokers, "modules": modules}
    told["ok"] = all(one["alive"] for one in (*brokers.values(), *modules.values()))
    answer(told, as_json, lambda: _text(told))
    if not told["ok"]:
        sys.exit(1)


def _broker(installation: Any, name: str) -> dict[str, Any]:
    from nightbell.bus.script import connect
    from nightbell.contracts.errors import NightbellError

    try:
        with connect(installation.folder, name="status", wait_s=ANSWER_S, broker=name) as connection:
            told = connection.status()
            return {"alive": True, **told, "dead_letters": connection.dead_letters()[:20] if told.get("dead") else []}
    except NightbellError as error:
        return {"alive": False, "error": str(error)}


def _module(installation: Any, name: str, session: dict[str, Any] | None) -> dict[str, Any]:
    """What a module answers; the simulator, which is no module, by its door."""
    from nightbell.bus.script import connect
    from nightbell.contracts.errors import NightbellError

    if name == "simulator":
        return _simulator(installation)
    heard = {"heard_s": session["heard_s"], "pid": session["pid"]} if session else {}
    try:
        with connect(installation.folder, name="status", wait_s=ANSWER_S, broker=installation.broker_of(name)) as connection:
            return {"alive": True, **heard, "report": connection.ask(name, "status", timeout_s=ANSWER_S)}
    except NightbellError as error:
        return {"alive": False, **heard, "error": str(error)}


def _simulator(installation: Any) -> dict[str, Any]:
    import urllib.request

    url = installation.settings.clock.url
    if not url.startswith("http://"):
        return {"alive": False, "error": "observatory.toml names no clock of the simulator: [clock] url"}
    try:
        with urllib.request.urlopen(url, timeout=ANSWER_S) as reply:  # noqa: S310  (http:// only, checked above)
            return {"alive": reply.status == 200, "report": {}}
    except OSError as error:
        return {"alive": False, "error": f"{url}: {error}"}


def _text(told: dict[str, Any]) -> str:
    parts = []
    for name, one in told["brokers"].items():
        if not one["alive"]:
            parts.append(f"broker {name}: DEAD  {one['error']}")
            continue
        line = f"broker {name}: alive, {one['head']} events, epoch {one['epoch']}, {one['journal_bytes'] / 2**20:.1f} MiB"
        line += f", {one['free_bytes'] / 2**30:.0f} GiB free"
        if one.get("readonly"):
            line += f", TAKES NOTHING: {one['readonly']}"
        if one.get("dead"):
            line += f", {one['dead']} DEAD LETTERS: nightbell dead list --broker {name}"
        parts.append(line)
    rows = []
    for name, one in told["modules"].items():
        report = one.get("report", {})
        facts = ", ".join(f"{key} {report[key]}" for key in FACTS if report.get(key) not in (None, "", [], {}))
        alive = "alive" if one["alive"] else "DEAD"
        rows.append(
            (name, alive, one.get("pid", "-"), one.get("heard_s", "-"), report.get("outbox", "-"), facts or one.get("error", "")[:90])
        )
    parts.append(table(rows, ("module", "", "pid", "heard s", "unsent", "")))
    behind = [one for broker in told["brokers"].values() for one in broker.get("subscriptions", ()) if one["behind"] or one["failing"]]
    if behind:
        parts.append(
            table(
                [(one["sub"], one["behind"], one["in_flight"], one["failing"] or "") for one in behind],
                ("reader", "behind", "in hand", "failing"),
            )
        )
    return "\n\n".join(parts)
