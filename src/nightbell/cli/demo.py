"""`nightbell demo`: a whole night by itself, on this machine, with real processes and a simulated sky."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nightbell.cli.output import answer, json_option, near, note, reports_errors, typed
from nightbell.contracts.errors import shell_word

if TYPE_CHECKING:
    from nightbell.cli.demo_show import Show

DEFAULT_SEED = 20270412


@click.command()
@click.option(
    "--stage",
    type=click.IntRange(1, 3),
    default=3,
    show_default=True,
    help="3: by itself; 2: by commands, as from a remote script; 1, human hands, is refused: the demo has none.",
)
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), default=None, help="New or empty folder (default: nightbell-demo/TIME)."
)
@click.option("--no-report", is_flag=True, help="Write no report.html.")
@click.option("--rate", type=click.FloatRange(1, 120), default=100.0, show_default=True, help="Seconds of the world per second of ours.")
@click.option("--seed", type=int, default=DEFAULT_SEED, show_default=True, help="Where the transient appears.")
@click.option(
    "--limit", "limit_s", type=click.FloatRange(30, 7200), default=300.0, show_default=True, help="Give up after so many seconds."
)
@click.option("--keep", is_flag=True, help="Keep the processes running at the end, to look around; Ctrl-C ends them.")
@json_option
@reports_errors
def demo(*, stage: int, out: Path | None, no_report: bool, rate: float, seed: int, limit_s: float, keep: bool, as_json: bool) -> None:
    """Watch a whole observatory night happen by itself, in about two minutes.

    A simulated world is started half an hour before sunset, with every process of an observatory around it. A
    gravitational-wave alert comes in; the telescope takes its biases, darks and flats, observes the likely host galaxies,
    the frames are calibrated, and what is new in the sky is found. No network is used.

    \b
    Examples:
      nightbell demo
      nightbell demo --out tonight --keep
      nightbell demo --json --no-report
    """
    from nightbell.cli.demo_night import DemoNight, Wishes
    from nightbell.cli.demo_show import make_show

    began_s = time.monotonic()
    folder = out if out is not None else Path("nightbell-demo") / time.strftime("%Y%m%d-%H%M%S")
    wishes = Wishes(out=folder.resolve(), stage=stage, rate=rate, seed=seed, limit_s=limit_s)
    # A supervisor above us (systemd, CI) stops with SIGTERM: end the children as Ctrl-C would.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with DemoNight(wishes, show := make_show(to_stderr=as_json)) as night:
        try:
            night.start()
            night.watch()
            night.end(stop=not keep)
            told = night.summary()
            told["report"] = None if no_report else _write_report(night.story(), folder, show)
        except KeyboardInterrupt:
            show.say("stopping the processes")
            raise
        finally:
            show.close()
        told = {"ok": told.pop("ok"), "wall_s": round(time.monotonic() - began_s, 2), **told}
        answer(told, as_json, lambda: _summary(told, kept=keep))
        if keep:
            _wait_for_ctrl_c(folder)
    sys.exit(0 if told["ok"] else 1)


def _write_report(story: Any, folder: Path, show: Show) -> str:
    from nightbell.cli.report import write_report

    show.say("writing the report")
    return str(write_report(story, folder / "report.html"))


def _wait_for_ctrl_c(folder: Path) -> None:
    note(f"the processes go on; in another terminal: {typed()} tap --conf {shell_word(near(folder.resolve()))}; Ctrl-C ends them")
    try:
        while True:
            time.sleep(0.5)
    except KeyboardInterrupt:
        note("stopping")


def _summary(told: dict[str, Any], *, kept: bool) -> str:
    """What happened, as a table, and where to go from here."""
    from nightbell.cli.output import table

    found = told["transient"]["found"]["separation_arcsec"]
    rows = [
        ("night", f"{told['night']}, stage {told['stage']}"),
        ("targets observed", told["targets_observed"]),
        ("frames stored", told["frames_stored"]),
        ("lights calibrated", told["frames_calibrated"]),
        ("transient", "not found" if found is None else f"found {found:.2f} arcsec from where it was put"),
        ("dome", "closed (the simulator's truth)" if told["dome_closed"] else "OPEN (the simulator's truth)"),
        ("events", f"{sum(told['events'].values())} of {len(told['events'])} types; {told['lost']} lost, {told['duplicates']} twice"),
        ("wall time", f"{told['wall_s']:.0f} s"),
        ("report", told["report"] or "(none was wished)"),
    ]
    lines = ["", table(rows, ("what", "result")), ""]
    lines += [f"missing: {one}" for one in told["missing"]] + [f"found wrong: {one}" for one in told["findings"]]
    out = told["out"]
    superevent = "S270412a"
    verdict = "The night went as it should."
    if not told["ok"]:
        verdict = f"The night did NOT go as it should; the logs say more: {Path(out) / 'state' / 'logs'}"
    command, conf = typed(), shell_word(near(Path(out)))
    lines += [
        verdict,
        "",
        "Next:",
        f"  {command} trace {superevent} --conf {conf}",
        "      the tree of causes from the alert to the calibrated frames",
        *([] if kept else [f"  {command} up --conf {conf}", "      start these processes again, for another night"]),
        f"  {command} alert explain NOTICE",
        "      what would be done with a notice of your own",
    ]
    return "\n".join(lines)
