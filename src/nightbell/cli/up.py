"""`nightbell up`: every process of an installation, watched and restarted."""

from __future__ import annotations

import signal
import sys
import threading
import time
from pathlib import Path

import click

from nightbell.cli.output import conf_option, note, reports_errors


@click.command()
@conf_option
@click.option("--home", type=click.Path(path_type=Path, file_okay=False), default=None, help="Where state lives (default: as configured).")
@click.option("--only", default="", help="Comma-separated names instead of the installation's `run` list.")
@reports_errors
def up(conf: Path | None, home: Path | None, only: str) -> None:
    """Start every process of an installation, restart what dies, stop all in order on Ctrl-C.

    \b
    Examples:
      nightbell up --conf conf/demo
      nightbell up --conf conf/demo --only broker:observatory,safety
    """
    from nightbell.cli.config import checked_folder
    from nightbell.cli.supervisor import Supervisor
    from nightbell.settings import load_installation

    chosen = [name.strip() for name in only.split(",") if name.strip()]
    # Before anything starts: a mistake in the last module's file must not cost a house that is half up.
    installation = load_installation(checked_folder(conf, chosen), home=home)
    names = chosen or list(installation.settings.run)
    began_s = time.monotonic()

    def tell(name: str, text: str) -> None:
        note(f"{time.monotonic() - began_s:7.1f} s  {name:20} {text}")

    supervisor = Supervisor(installation, names, tell=tell)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        supervisor.start(wait_s=120.0, in_waves=waves(names))
        note(f"all {len(names)} processes are ready; logs in {supervisor.logs}; Ctrl-C stops them in order")
        while not stop.wait(0.2):
            pass
    finally:
        note("stopping")
        supervisor.stop(order=stop_order(names))
    sys.exit(0)


def waves(names: list[str]) -> list[list[str]]:
    """Brokers and the simulated world first: the others ask them at their start."""
    first = [name for name in names if name.startswith("broker:") or name == "simulator"]
    return [wave for wave in (first, [name for name in names if name not in first]) if wave]


def stop_order(names: list[str]) -> list[str]:
    """Modules before safety (it closes the dome behind them), then the simulated world, the brokers last."""
    last = ["safety", "simulator", *(name for name in names if name.startswith("broker:"))]
    return [name for name in reversed(names) if name not in last] + [name for name in last if name in names]
