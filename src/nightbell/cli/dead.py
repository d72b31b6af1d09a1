"""`nightbell dead`: events that were given up after all tries, with their causes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from nightbell.cli.output import Verbs, answer, conf_option, json_option, reports_errors, table


@click.group(cls=Verbs)
def dead() -> None:
    """Events that a module could not handle: list, show, retry, drop. Nothing is given up in silence.

    \b
    Examples:
      nightbell dead list
      nightbell dead retry 12
    """


def _connection(conf: Path | None, broker: str | None) -> Any:
    import nightbell
    from nightbell.cli.processes import find_conf

    return nightbell.connect(find_conf(conf), name="dead", broker=broker)


broker_option = click.option("--broker", default=None, help="Which broker (default: the first of the installation).")


@dead.command("list")
@conf_option
@broker_option
@json_option
@reports_errors
def list_dead(conf: Path | None, broker: str | None, *, as_json: bool) -> None:
    """The dead letters, oldest first.

    \b
    Example:
      nightbell dead list --json
    """
    with _connection(conf, broker) as connection:
        letters = connection.dead_letters()
    rows = [
        (one["seq"], one["sub"], one["type"], one["subject"], one["attempts"], str(one["errors"][-1])[:70] if one["errors"] else "")
        for one in letters
    ]
    answer(
        {"dead": letters},
        as_json,
        lambda: table(rows, ("seq", "subscription", "type", "subject", "tries", "last error")) if rows else "no dead letters",
    )


@dead.command()
@click.argument("seq", type=int)
@conf_option
@broker_option
@json_option
@reports_errors
def show(seq: int, conf: Path | None, broker: str | None, *, as_json: bool) -> None:
    """One dead letter with all its errors and the event itself.

    \b
    Example:
      nightbell dead show 12
    """
    with _connection(conf, broker) as connection:
        answer(connection.dead_letter(seq), as_json)


@dead.command()
@click.argument("seq", type=int)
@conf_option
@broker_option
@json_option
@reports_errors
def retry(seq: int, conf: Path | None, broker: str | None, *, as_json: bool) -> None:
    """Deliver a dead letter again, with a fresh count of tries.

    \b
    Example:
      nightbell dead retry 12
    """
    with _connection(conf, broker) as connection:
        connection.retry(seq)
    answer({"seq": seq, "retried": True}, as_json, f"{seq} will be delivered again")


@dead.command()
@click.argument("seq", type=int)
@conf_option
@broker_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@reports_errors
def drop(seq: int, conf: Path | None, broker: str | None, *, yes: bool, as_json: bool) -> None:
    """Give a dead letter up for good; the event itself stays in the journal.

    \b
    Example:
      nightbell dead drop 12 --yes
    """
    from nightbell.contracts.errors import BadInput

    if not yes:
        if not sys.stdin.isatty():
            raise BadInput("dropping needs a word", where="--yes", remedy=f"Run: nightbell dead drop {seq} --yes")
        click.confirm(f"Drop dead letter {seq}?", abort=True)
    with _connection(conf, broker) as connection:
        connection.drop(seq)
    answer({"seq": seq, "dropped": True}, as_json, f"{seq} is dropped; the event stays in the journal")
