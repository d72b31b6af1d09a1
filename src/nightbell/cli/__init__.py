"""The `nightbell` command: one file per noun, imported only when its noun is called.

    __init__     the table of nouns and the lazy group: `--help` imports none of them
    output       answers, errors and exit statuses, the same for every noun
    processes    module name -> the code that runs it
    run up demo status top tap send trace dead replay journal doctor config keys     the bus and the installation
    alert catalog plan night dome calibrate transients index report alarm task console     the science and the night

    up -> supervisor                        start, watch, restart and stop processes; installation_copy: on free ports
    demo -> demo_night -> demo_show         the night, and what a watcher sees of it; demo_audit: what was lost or repeated
    report -> story -> report_page          events -> what happened -> one HTML page; figures: its charts and pictures
    reference                               docs/reference, generated from the code

Exit status: 0 done, 1 failed, 2 bad usage or input, 3 refused, 130 Ctrl-C.
"""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from nightbell import __version__

__all__ = ["main", "nightbell"]

# noun -> (module:object, one line of help). Kept as text so that --help costs no import.
NOUNS: dict[str, tuple[str, str]] = {
    "demo": ("nightbell.cli.demo:demo", "A whole night by itself: alert, plan, frames, a transient, a report"),
    "up": ("nightbell.cli.up:up", "Start and watch every process of an installation"),
    "run": ("nightbell.cli.run:run", "Run one module in this terminal"),
    "status": ("nightbell.cli.status:status", "Which modules are alive, and how they are"),
    "top": ("nightbell.cli.top:top", "The same, drawn again every two seconds"),
    "doctor": ("nightbell.cli.doctor:doctor", "Check this machine and installation, with remedies"),
    "tap": ("nightbell.cli.tap:tap", "Events as they pass, one line each"),
    "send": ("nightbell.cli.send:send", "A command to a module, and its answer"),
    "trace": ("nightbell.cli.trace:trace", "The tree of causes from an alert to a calibrated frame"),
    "dead": ("nightbell.cli.dead:dead", "Events that were given up: list, show, retry, drop"),
    "replay": ("nightbell.cli.replay:replay", "Print stored events again"),
    "journal": ("nightbell.cli.journal:journal", "Verify or seal a broker's journal"),
    "keys": ("nightbell.cli.keys:keys", "CURVE keys of the bus: make, list, revoke, trust"),
    "config": ("nightbell.cli.config:config", "Check and show an installation's settings"),
    "alert": ("nightbell.cli.alert:alert", "Notices: explain, rank, submit, drill"),
    "catalog": ("nightbell.cli.catalog:catalog", "Galaxy catalogues: build, info"),
    "plan": ("nightbell.cli.plan:plan", "Night plans: make, show, chart, verify"),
    "night": ("nightbell.cli.night:night", "The night: events, prepare, open, close"),
    "dome": ("nightbell.cli.dome:dome", "Dome geometry: check"),
    "calibrate": ("nightbell.cli.calibrate:calibrate", "Calibrate frames, without a bus"),
    "transients": ("nightbell.cli.transients:transients", "Find what is new on calibrated frames, without a bus"),
    "index": ("nightbell.cli.index:index", "Query the calibration index"),
    "report": ("nightbell.cli.report:report", "The report of a night as one HTML file"),
    "alarm": ("nightbell.cli.alarm:alarm", "Alarms: test, ack"),
    "task": ("nightbell.cli.task:task", "What human hands are asked to do (stage 1)"),
    "console": ("nightbell.cli.console:console", "The web page: users"),
}

BLAS_THREADS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")
"""An observatory's processes share few cores. The vectors here are short, and threads of BLAS that wait for a busy core by spinning
made a ranking six times as slow; they must be told before numpy is loaded."""


class LazyGroup(click.Group):
    """Commands by name from NOUNS; a noun's file is imported when it is chosen."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(NOUNS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in NOUNS:
            return None
        module, _, name = NOUNS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(noun, line) for noun, (_, line) in NOUNS.items()])

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        # click looks for near names among registered commands, of which a lazy group has none.
        if args and not args[0].startswith("-") and args[0] not in NOUNS:
            near = difflib.get_close_matches(args[0], NOUNS, n=1, cutoff=0.6)
            ctx.fail(f"No such command {args[0]!r}." + (f" Did you mean {near[0]!r}?" if near else " See nightbell --help."))
        return super().resolve_command(ctx, args)

    def main(  # type: ignore[override]
        self, args: Sequence[str] | None = None, prog_name: str | None = None, *, standalone_mode: bool = True, **extra: Any
    ) -> Any:
        def run() -> Any:
            return super(LazyGroup, self).main(args, prog_name, standalone_mode=False, **extra)

        if standalone_mode:
            from nightbell.cli.output import run_command

            run_command(run, as_json="--json" in (sys.argv[1:] if args is None else args))
        return run()


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Begin with:  nightbell demo    then:  nightbell COMMAND --help",
)
@click.version_option(__version__, message="nightbell %(version)s")
def nightbell() -> None:
    """A bell that wakes an observatory.

    \b
    Examples:
      nightbell demo                                  watch a whole night happen
      nightbell alert rank NOTICE.json --catalog galaxies.csv --no-visibility
      nightbell calibrate night/ --out calibrated/
      nightbell up --conf conf/demo                   start an installation
    """


def main() -> None:
    """Entry of the console script, and of every process of an installation."""
    for name in BLAS_THREADS:
        os.environ.setdefault(name, "1")
    for stream in (sys.stdout, sys.stderr):
        # cp1252 and ASCII terminals must not raise on a degree sign.
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
    nightbell.main(prog_name="nightbell")
