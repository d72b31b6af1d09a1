"""`nightbell trace ID`: the tree of causes, from what began it to what came of it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from nightbell.cli.output import answer, conf_option, json_option, note, reports_errors


def cause_tree(events: Iterable[dict[str, Any]], wanted: str) -> list[dict[str, Any]]:
    """The trees that hold `wanted` (an event id or its beginning, a superevent, a target, a frame id, a subject): roots with `children`.

    Made from `causationid` alone, from the root on, so that one sees where a frame came from.
    """
    by_id: dict[str, dict[str, Any]] = {}
    for event in events:
        by_id.setdefault(event["id"], {**event, "children": []})
    roots: list[dict[str, Any]] = []
    for event in by_id.values():
        parent = by_id.get(event.get("causationid", ""))
        (parent["children"] if parent is not None else roots).append(event)
    return [kept for root in roots if (kept := _pruned(root, wanted)) is not None]


def _pruned(event: dict[str, Any], wanted: str) -> dict[str, Any] | None:
    """`event` with what led to `wanted` and what came of it; None when neither it nor anything below has to do with it.

    A plan names all targets: below it only the branch of the wanted one is kept. Where nothing below names it, all is kept.
    """
    if event["id"].startswith(wanted) or wanted in event["subject"] or wanted == event.get("correlationid"):
        return event
    children = [kept for child in event["children"] if (kept := _pruned(child, wanted)) is not None]
    if children:
        return {**event, "children": children}
    return event if _in_data(event["data"], wanted) else None


def _in_data(data: Any, wanted: str) -> bool:
    if isinstance(data, dict):
        return any(_in_data(value, wanted) for value in data.values())
    if isinstance(data, list):
        return any(_in_data(value, wanted) for value in data)
    return isinstance(data, str) and data == wanted


def drawn(trees: list[dict[str, Any]]) -> str:
    """The trees as indented lines."""
    lines: list[str] = []

    def draw(event: dict[str, Any], before: str, branch: str) -> None:
        lines.append(f"{before}{branch}{event['type']}  {event['subject']}  {event['time'][:19]}  {event['source']}  {event['id']}")
        below = before + {"": "", "├─ ": "│  ", "└─ ": "   "}[branch]
        for i, child in enumerate(event["children"]):
            draw(child, below, "└─ " if i == len(event["children"]) - 1 else "├─ ")

    for tree in trees:
        draw(tree, "", "")
    return "\n".join(lines)


@click.command()
@click.argument("ident", metavar="ID")
@conf_option
@click.option("--broker", default=None, help="Which broker (default: the first of the installation).")
@json_option
@reports_errors
def trace(ident: str, conf: Path | None, broker: str | None, *, as_json: bool) -> None:
    """The tree of causes that ID belongs to. ID is an event id (or its beginning), a superevent, a target or a frame id.

    \b
    Examples:
      nightbell trace S270412a
      nightbell trace 0196f2c1-7c1e --json
    """
    import nightbell
    from nightbell.cli.processes import find_conf
    from nightbell.cli.report import stored_events
    from nightbell.cli.tap import as_object
    from nightbell.contracts.errors import Missing

    with nightbell.connect(find_conf(conf), name="trace", broker=broker, wait_s=1.5) as connection:
        try:
            events = [as_object(event) for event in connection.events("**", since="first", follow=False)]
        except Missing:
            note(f"broker {connection.broker} is not running: its journal is read instead")
            events = [as_object(event) for event in stored_events(connection.installation, connection.broker)]
    trees = cause_tree(events, ident)
    if not trees:
        raise Missing(f"no stored event mentions {ident!r}", where="ID", remedy="See what there is: nightbell replay")
    answer({"id": ident, "trees": trees}, as_json, lambda: drawn(trees))
