"""`nightbell tap`: events as they pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from nightbell.cli.output import conf_option, reports_errors


def one_line(event: Any) -> str:
    """An event for a human: sequence number, time, type, subject, source, and the first facts of its payload."""
    import msgspec

    data = msgspec.json.decode(event.data) if event.data else {}
    facts = [f"{key}={_short(value)}" for key, value in data.items() if not isinstance(value, list | dict)][:5]
    counts = [f"{key}:{len(value)}" for key, value in data.items() if isinstance(value, list | dict) and value][:3]
    return f"{event.seq:6}  {event.time[11:23]}  {event.type:20} {event.subject:28} {event.source:22} {' '.join(facts + counts)}"


def _short(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 40 else text[:37] + "..."


def as_object(event: Any) -> dict[str, Any]:
    """An event as one JSON object: the envelope's fields, seq, and the payload."""
    import msgspec

    fields = {name: getattr(event, name) for name in ("seq", "id", "type", "typeversion", "subject", "source", "time")}
    for name in ("causationid", "correlationid"):
        if getattr(event, name, None):
            fields[name] = getattr(event, name)
    return {**fields, "data": msgspec.json.decode(event.data) if event.data else None}


@click.command()
@click.argument("patterns", nargs=-1, metavar="[PATTERN ...]")
@conf_option
@click.option("--broker", default=None, help="Which broker (default: the first of the installation).")
@click.option("--since", default=None, help="Begin at a sequence number or a time, instead of now.")
@click.option("--count", type=int, default=None, help="End after this many events.")
@click.option("--for", "for_s", type=float, default=None, help="End after this many seconds without an event.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@reports_errors
def tap(
    patterns: tuple[str, ...],
    conf: Path | None,
    broker: str | None,
    since: str | None,
    count: int | None,
    for_s: float | None,
    *,
    as_json: bool,
) -> None:
    """Print events as they pass. PATTERN is a type (frames.stored), a family (frames.*) or ** for all (default).

    \b
    Examples:
      nightbell tap
      nightbell tap 'calibration.*' night.changed
      nightbell tap --since 1 --json > night.jsonl
    """
    import msgspec

    import nightbell
    from nightbell.cli.processes import find_conf

    with nightbell.connect(find_conf(conf), name="tap", broker=broker) as connection:
        for n, event in enumerate(connection.events(*(patterns or ("**",)), since=_start(since), timeout_s=for_s), start=1):
            click.echo(msgspec.json.encode(as_object(event)).decode() if as_json else one_line(event))
            if count is not None and n >= count:
                break


def _start(since: str | None) -> int | str | None:
    return int(since) if since is not None and since.isdigit() else since
