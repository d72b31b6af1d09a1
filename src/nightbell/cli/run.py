"""`nightbell run MODULE`: one process in this terminal."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from nightbell.cli.output import conf_option, reports_errors


@click.command()
@click.argument("module")
@conf_option
@click.option("--home", type=click.Path(path_type=Path, file_okay=False), default=None, help="Where state lives (default: as configured).")
@reports_errors
def run(module: str, conf: Path | None, home: Path | None) -> None:
    """Run one module in this terminal until Ctrl-C. MODULE is broker:NAME or a module's name.

    It prints `READY {...}` on stdout when it can be used; its log goes to stderr.

    \b
    Examples:
      nightbell run broker:observatory --conf conf/demo
      nightbell run telescope --conf conf/demo
    """
    from nightbell.cli.processes import entry_of, find_conf
    from nightbell.settings import load_installation

    entry = entry_of(module)
    sys.exit(entry(load_installation(find_conf(conf), home=home), module))
