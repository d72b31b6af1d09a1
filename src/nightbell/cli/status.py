"""`nightbell status`: what lives and what should; the night, the dome, the last events, how far everybody has read.

Everybody is asked at the same time and has two seconds: with all dead the answer takes as long as with one dead.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click

from nightbell.cli.output import answer, conf_option, json_option, reports_errors, table
from nightbell.contracts.errors import shell_word

ANSWER_S = 2.0
N_EVENTS = 6
N_LETTERS = 20
FACTS = ("state", "doing", "verdict", "shutter", "trouble", "notices", "waiting", "n_frames", "address")


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

    told = ask_all(load_installation(find_conf(conf)))
    answer(told, as_json, lambda: text_of(told))
    if not told["ok"]:
        sys.exit(1)


def ask_all(installation: Any) -> dict[str, Any]:
    """What every process of the installation says of itself, and what does not answer."""
    run = installation.settings.run
    names = [name for name in run if not name.startswith("broker:")]
    with ThreadPoolExecutor(len(run) + len(installation.settings.brokers) + 1) as pool:
        asked_brokers = {name: pool.submit(_broker, installation, name) for name in installation.settings.brokers}
        asked_modules = {name: pool.submit(ask_module, installation, name) for name in names}
        brokers = {name: asked.result() for name, asked in asked_brokers.items()}
        modules = {name: asked.result() for name, asked in asked_modules.items()}
    for broker in brokers.values():
        for session in broker.get("sessions", ()):
            if session["name"] in modules:
                modules[session["name"]].update(heard_s=session["heard_s"], pid=session["pid"])
    # A broker may belong to another host; this one answers only for what stands in its `run`.
    wanted = {**{f"broker:{name}": one for name, one in brokers.items()}, **modules}
    missing = [name for name in run if not wanted.get(name, {}).get("alive")]
    telescope, safety = (modules.get(name, {}).get("report", {}) for name in ("telescope", "safety"))
    return {
        "ok": not missing,
        "installation": str(installation.folder),
        "missing": missing,
        "refused": [name for name in missing if wanted.get(name, {}).get("refused")],
        "night": {key: telescope[key] for key in ("night", "state", "since_utc", "since_age_s", "reason", "doing") if key in telescope}
        or None,
        "dome": _dome(telescope, safety),
        "brokers": brokers,
        "modules": modules,
    }


def _dome(telescope: dict[str, Any], safety: dict[str, Any]) -> dict[str, Any] | None:
    """Safety's own reading goes before the telescope's: it is the one that decides."""
    seen = (telescope.get("devices") or {}).get("dome") or {}
    told = {key: safety[key] for key in ("shutter", "verdict", "reasons", "against_opening", "clear_in_s") if key in safety}
    return {**seen, **told} or None


def _broker(installation: Any, name: str) -> dict[str, Any]:
    from nightbell.bus.script import connect
    from nightbell.cli.tap import as_object
    from nightbell.contracts.errors import NightbellError

    try:
        with connect(installation.folder, name="status", wait_s=ANSWER_S, broker=name) as connection:
            told = connection.status()
            since = max(told["first_seq"], told["head"] - N_EVENTS + 1)
            events = connection.events(since=since, follow=False) if told["head"] else ()
            return {
                "alive": True,
                **told,
                "dead_letters": connection.dead_letters()[:N_LETTERS] if told["dead"] else [],
                "last_events": [as_object(event) for event in events][-N_EVENTS:],
            }
    except NightbellError as error:
        return {"alive": False, "error": str(error), "refused": error.word == "auth"}


def ask_module(installation: Any, name: str) -> dict[str, Any]:
    """What a module answers; the simulator, which is no module, by its door."""
    from nightbell.bus.script import connect
    from nightbell.contracts.errors import Missing, NightbellError

    if name == "simulator":
        return _simulator(installation)
    try:
        with connect(installation.folder, name="status", wait_s=ANSWER_S, broker=installation.broker_of(name)) as connection:
            report = connection.ask(name, "status", timeout_s=ANSWER_S)
            return {"alive": True, "pid": report["pid"], "report": report}
    except NightbellError as error:
        what = f"no answer at {error.where}" if isinstance(error, Missing) else error.what
        return {"alive": False, "error": what, "refused": error.word == "auth"}


def _simulator(installation: Any) -> dict[str, Any]:
    import urllib.request

    url = installation.settings.clock.url
    if not url.startswith("http://"):
        return {"alive": False, "error": "observatory.toml names no clock of the simulator: [clock] url"}
    try:
        with urllib.request.urlopen(url, timeout=ANSWER_S) as reply:  # noqa: S310  (http:// only, checked above)
            return {"alive": reply.status == 200, "report": {}}
    except OSError as error:
        return {"alive": False, "error": f"{url} does not answer: {error}"}


# -- for a human -------------------------------------------------------------------------------------------------------


def text_of(told: dict[str, Any]) -> str:
    """All of it as text, what needs a human first."""
    parts = []
    refused = told.get("refused", ())
    if refused:
        parts.append(f"NOT LET IN: {', '.join(refused)} refused the key of scripts. See: nightbell keys list")
    if dead := [name for name in told["missing"] if name not in refused]:
        remedy = "nightbell up" if len(dead) > 1 else f"nightbell run {dead[0]}"
        parts.append(f"NOT RUNNING: {', '.join(dead)}. Start: {remedy} --conf {shell_word(told['installation'])}")
    parts += [_night_text(told), _brokers_text(told["brokers"]), _modules_text(told["modules"]), _readers_text(told["brokers"])]
    parts += [_letters_text(name, one) for name, one in told["brokers"].items()]
    parts += [_events_text(name, one) for name, one in told["brokers"].items()]
    return "\n\n".join(part for part in parts if part)


def _night_text(told: dict[str, Any]) -> str:
    lines = []
    night, dome = told["night"], told["dome"]
    if night:
        line = f"night   {night.get('night') or '-'}: {night.get('state')}"
        if night.get("since_age_s") is not None:
            line += f" for {night['since_age_s']:.0f} s"
        lines.append(
            line + (f", {night['reason']}" if night.get("reason") else "") + (f" ({night['doing']})" if night.get("doing") else "")
        )
    if dome:
        line = f"dome    shutter {dome.get('shutter') or 'unknown'}"
        if dome.get("azimuth_deg") is not None:
            line += f", azimuth {dome['azimuth_deg']:.1f} deg"
        if "verdict" in dome:
            line += f"; safety says {dome['verdict']}" + (f": {', '.join(map(str, dome['reasons']))}" if dome.get("reasons") else "")
        lines.append(line)
    return "\n".join(lines)


def _brokers_text(brokers: dict[str, Any]) -> str:
    lines = []
    for name, one in brokers.items():
        if not one["alive"]:
            lines.append(f"broker  {name}: {'NOT LET IN' if one.get('refused') else 'DEAD'}. {one['error']}")
            continue
        line = f"broker  {name}: alive for {one['up_s']:.0f} s, {one['head']} events, epoch {one['epoch']}"
        line += f", {one['journal_bytes'] / 2**20:.1f} MiB, {one['free_bytes'] / 2**30:.0f} GiB free"
        lines.append(line + (f", TAKES NOTHING: {one['readonly']}" if one.get("readonly") else ""))
    return "\n".join(lines)


def _modules_text(modules: dict[str, Any]) -> str:
    rows = []
    for name, one in modules.items():
        report = one.get("report", {})
        # A process that beats but does not answer hangs: another remedy than starting it.
        state = "alive" if one["alive"] else "NOT LET IN" if one.get("refused") else "SILENT" if "heard_s" in one else "DEAD"
        words = [] if one["alive"] else [one["error"]]
        if report.get("connected") is False:
            words.append(f"WITHOUT ITS BROKER{': ' + report['broker_refuses'] if report.get('broker_refuses') else ''}")
        if report.get("outbox_refused"):
            words.append(f"{report['outbox_refused']} events REFUSED by the broker")
        words += [f"{key} {report[key]}" for key in FACTS if report.get(key) not in (None, "", [], {})]
        rows.append((name, state, one.get("pid", "-"), one.get("heard_s", "-"), report.get("outbox", "-"), ", ".join(words)))
    return table(rows, ("module", "", "pid", "heard s", "unsent", "")) if rows else ""


def _readers_text(brokers: dict[str, Any]) -> str:
    behind = [one for broker in brokers.values() for one in broker.get("subscriptions", ()) if one["behind"] or one["failing"]]
    rows = [(one["sub"], one["behind"], one["in_flight"], one["failing"] or "") for one in behind]
    return table(rows, ("reader", "behind", "in hand", "failing")) if rows else ""


def _letters_text(name: str, broker: dict[str, Any]) -> str:
    if not broker.get("dead"):
        return ""
    rows = [(one["seq"], one["sub"], one["type"], one["subject"], str((one["errors"] or [""])[-1])[:70]) for one in broker["dead_letters"]]
    head = f"{broker['dead']} DEAD LETTERS at {name}: nightbell dead show|retry|drop SEQ --broker {name}"
    return f"{head}\n{table(rows, ('seq', 'reader', 'type', 'subject', 'last error'))}"


def _events_text(name: str, broker: dict[str, Any]) -> str:
    rows = [(one["seq"], one["time"][:19], one["type"], one["subject"], one["source"]) for one in broker.get("last_events", ())]
    return f"last events at {name}\n{table(rows, ('seq', 'UTC', 'type', 'subject', 'source'))}" if rows else ""
