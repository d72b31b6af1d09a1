"""`nightbell run MODULE`: one process in this terminal."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

import click

from nightbell.cli.output import conf_option, reports_errors

# How long a process may take to stop in good order after its parent died.
PATIENCE_S = 20.0


def _end_with_parent() -> None:
    """Stop this process when standard input closes, that is, when the supervisor is gone."""

    def wait() -> None:
        while os.read(0, 4096):
            pass
        if os.name == "nt":
            os._exit(1)  # Windows has no SIGTERM; the journal and outboxes are made for this
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(PATIENCE_S)
        os._exit(1)

    threading.Thread(target=wait, name="with-parent", daemon=True).start()


@click.command()
@click.argument("module")
@conf_option
@click.option("--home", type=click.Path(path_type=Path, file_okay=False), default=None, help="Where state lives (default: as configured).")
@click.option("--with-parent", is_flag=True, help="End when standard input closes (for supervisors).")
@reports_errors
def run(module: str, conf: Path | None, home: Path | None, *, with_parent: bool) -> None:
    """Run one module in this terminal until Ctrl-C. MODULE is broker:NAME or a module's name.

    It prints `READY {...}` on stdout when it can be used; its log goes to stderr.

    \b
    Examples:
      nightbell run broker:observatory --conf conf/demo
      nightbell run telescope --conf conf/demo
    """
    from nightbell.cli.processes import entry_of, find_conf
    from nightbell.settings import load_installation

    if with_parent:
        _end_with_parent()
    entry = entry_of(module)
    sys.exit(entry(load_installation(find_conf(conf), home=home), module))
