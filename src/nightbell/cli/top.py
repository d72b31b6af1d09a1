"""`nightbell top`: what `status` tells, drawn again and again until Ctrl-C."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

from nightbell.cli.output import conf_option, reports_errors


@click.command()
@conf_option
@click.option("--every", "every_s", type=click.FloatRange(0.5, 60), default=2.0, show_default=True, help="Seconds between two looks.")
@reports_errors
def top(conf: Path | None, every_s: float) -> None:
    """What lives, the night, the dome and the last events, drawn again every two seconds; Ctrl-C leaves.

    \b
    Examples:
      nightbell top --conf conf/demo
      nightbell top --every 10
    """
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    from nightbell.cli.processes import find_conf
    from nightbell.cli.status import ask_all, text_of
    from nightbell.contracts.errors import BadInput
    from nightbell.settings import load_installation

    if not sys.stdout.isatty():
        raise BadInput("top draws on a terminal, and this is none", where="stdout", remedy="Use: nightbell status, or status --json")
    installation = load_installation(find_conf(conf))
    with Live(Text("asking everybody ..."), console=Console(highlight=False), screen=True, auto_refresh=False) as picture:
        try:
            while True:
                told = ask_all(installation)
                head = f"nightbell {installation.settings.site.name}  {time.strftime('%H:%M:%S')}  every {every_s:g} s, Ctrl-C leaves\n\n"
                picture.update(Text(head + text_of(told), no_wrap=True, overflow="ellipsis"), refresh=True)
                time.sleep(every_s)
        except KeyboardInterrupt:
            return
