"""`nightbell task`: what human hands are asked to do."""

from __future__ import annotations

from pathlib import Path

import click

from nightbell.cli.output import Verbs, answer, conf_option, json_option, reports_errors, table


@click.group(cls=Verbs)
def task() -> None:
    """What the telescope asks of human hands.

    \b
    Example:
      nightbell task list
    """


@task.command("list")
@conf_option
@json_option
@reports_errors
def list_tasks(conf: Path | None, *, as_json: bool) -> None:
    """Open tasks, the oldest first.

    \b
    Examples:
      nightbell task list --conf conf/demo
      nightbell task list --json
    """
    import nightbell
    from nightbell.cli.processes import find_conf

    with nightbell.connect(find_conf(conf), name="task") as connection:
        told = connection.ask("telescope", "list_tasks", timeout_s=5.0)
    rows = [tuple(str(value) for value in one.values()) for one in told.get("tasks", [])]
    names = tuple(told["tasks"][0]) if rows else ()
    answer(told, as_json, lambda: table(rows, names) if rows else "nothing is asked of you")
