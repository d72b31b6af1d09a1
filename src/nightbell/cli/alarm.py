"""`nightbell alarm test|ack`: is a human reached, and has one taken it."""

from __future__ import annotations

import getpass
import sys
from pathlib import Path
from typing import Any

import click

from nightbell.cli.output import Verbs, answer, conf_option, json_option, reports_errors, table


@click.group(cls=Verbs)
def alarm() -> None:
    """Alarms: test, ack.

    \b
    Examples:
      nightbell alarm test                      send a nonce on every channel
      nightbell alarm ack safety.stuck.dome --by "Maria, on the way up"
    """


def _ask(conf: Path | None, verb: str, **fields: Any) -> dict[str, Any]:
    import nightbell
    from nightbell.cli.processes import find_conf

    with nightbell.connect(find_conf(conf), name="alarm", wait_s=0.0) as night:
        return dict(night.ask("safety", verb, **fields))


@alarm.command()
@conf_option
@json_option
@reports_errors
def test(conf: Path | None, *, as_json: bool) -> None:
    """Send a nonce on every channel and say what arrived. Exit status 1 when a channel failed.

    \b
    Example:
      nightbell alarm test --conf conf/demo
    """
    said = _ask(conf, "test_alarm")
    rows = [(one["channel"], "delivered" if one["delivered"] else "FAILED", one["latency_ms"], one["error"]) for one in said["channels"]]
    answer(said, as_json, lambda: table(rows, ("channel", "result", "ms", "error")))
    if not all(one["delivered"] for one in said["channels"]):
        sys.exit(1)


@alarm.command()
@click.argument("alarm_id", metavar="ID")
@click.option("--by", default=None, help="Who takes it (default: your user name).")
@conf_option
@json_option
@reports_errors
def ack(alarm_id: str, by: str | None, conf: Path | None, *, as_json: bool) -> None:
    """Take an alarm: it is not repeated any more. Only evidence clears it. ID is the alarm's id or key.

    \b
    Example:
      nightbell alarm ack safety.stuck.dome --by "Maria, on the way up"
    """
    said = _ask(conf, "acknowledge_alarm", alarm_id=alarm_id, by=by or getpass.getuser())
    answer(said, as_json, lambda: f"{said['key']}: taken by {said['by']}. {said['text']}")
