"""`nightbell replay`: stored events once more, from a sequence number or a time to the head."""

from __future__ import annotations

from pathlib import Path

import click

from nightbell.cli.output import conf_option, note, reports_errors
from nightbell.cli.tap import as_object, one_line


@click.command()
@click.argument("patterns", nargs=-1, metavar="[PATTERN ...]")
@conf_option
@click.option("--broker", default=None, help="Which broker (default: the first of the installation).")
@click.option("--from", "since", default="1", show_default=True, help="Sequence number or time to begin at.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@reports_errors
def replay(patterns: tuple[str, ...], conf: Path | None, broker: str | None, since: str, *, as_json: bool) -> None:
    """Print stored events again, in their order, and end at the head. No module hears them twice.

    \b
    Examples:
      nightbell replay
      nightbell replay 'frames.*' --from 2027-04-13T00:00:00
    """
    import msgspec

    import nightbell
    from nightbell.cli.processes import find_conf

    n = 0
    with nightbell.connect(find_conf(conf), name="replay", broker=broker) as connection:
        for event in connection.events(*(patterns or ("**",)), since=int(since) if since.isdigit() else since, follow=False):
            click.echo(msgspec.json.encode(as_object(event)).decode() if as_json else one_line(event))
            n += 1
    note(f"{n} events")
