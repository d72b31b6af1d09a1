"""`nightbell trace ID`: the tree of causes, from what began it to what came of it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from nightbell.cli.output import answer, conf_option, json_option, reports_errors


def cause_tree(events: Iterable[dict[str, Any]], wanted: str) -> list[dict[str, Any]]:
    """The trees that hold `wanted` (an event id or its beginning, a superevent, a target, a frame id, a subject): roots with `children`.

    Made from `causationid` alone. A tree is shown whole from its root, so that one sees where a frame came from.
    """
    by_id: dict[str, dict[str, Any]] = {}
    for event in events:
        by_id.setdefault(event["id"], {**event, "children": []})
    roots: list[dict[str, Any]] = []
    for event in by_id.values():
        parent = by_id.get(event.get("causationid", ""))
        (parent["children"] if parent is not None else roots).append(event)
    return [root for root in roots if _mentions(root, wanted)]


def _mentions(event: dict[str, Any], wanted: str) -> bool:
    stack = [event]
    while stack:
        one = stack.pop()
        if one["id"].startswith(wanted) or wanted in one["subject"] or wanted == one.get("correlationid") or _in_data(one["data"], wanted):
            return True
        stack.extend(one["children"])
    return False


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
    from nightbell.cli.tap import as_object
    from nightbell.contracts.errors import Missing

    with nightbell.connect(find_conf(conf), name="trace", broker=broker) as connection:
        events = [as_object(event) for event in connection.events("**", since=1, follow=False)]
    trees = cause_tree(events, ident)
    if not trees:
        raise Missing(f"no stored event mentions {ident!r}", where="ID", remedy="See what there is: nightbell replay")
    answer({"id": ident, "trees": trees}, as_json, lambda: drawn(trees))
