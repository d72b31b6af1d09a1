"""`nightbell report NIGHT`: a night as one HTML file, from the events of the installation's brokers and the files they name."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nightbell.cli.output import answer, conf_option, json_option, note, reports_errors

if TYPE_CHECKING:
    from nightbell.bus.script import EventSeen
    from nightbell.cli.story import Story, Told
    from nightbell.settings import Installation

__all__ = ["read_events", "report", "stored_events", "write_report"]


def write_report(story: Story, out_path: Path) -> Path:
    """The story's page at `out_path`, whole or not at all. Returns the absolute path. Raises `Failed`."""
    from nightbell.cli.report_page import page
    from nightbell.contracts.errors import Failed

    path = out_path.resolve()
    text = page(story)
    beside = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(text, encoding="utf-8", newline="\n")
        beside.replace(path)
    except OSError as error:
        raise Failed(f"cannot be written: {error.strerror or error}", where=str(path), remedy="Give another --out") from error
    return path


def read_events(installation: Installation, brokers: Iterable[str], *, wait_s: float = 1.5) -> list[Told]:
    """Every stored event of these brokers: from the broker, or from a copy of its journal while it is not running."""
    from nightbell.bus.script import Connection
    from nightbell.cli.story import Told
    from nightbell.contracts.errors import Missing

    told: list[Told] = []
    for broker in brokers:
        try:
            with Connection(installation, name="report", broker=broker, wait_s=wait_s) as connection:
                told += [Told.of(event, broker) for event in connection.events("**", since="first", follow=False)]
        except Missing:
            note(f"broker {broker} is not running: its journal is read instead")
            told += [Told.of(event, broker) for event in stored_events(installation, broker)]
    return told


def stored_events(installation: Installation, broker: str) -> list[EventSeen]:
    """From the files. Opening a journal may cut a damaged end off, and is for its broker alone, so a copy is opened."""
    from nightbell.bus.journal import Journal
    from nightbell.bus.script import seen_event

    folder = installation.home / f"broker-{broker}" / "journal"
    if not folder.is_dir():
        return []
    told: list[EventSeen] = []
    with tempfile.TemporaryDirectory() as beside:
        journal = Journal(Path(shutil.copytree(folder, Path(beside) / "journal")))
        try:
            after, head = 0, -1
            while after != head:
                head = after
                found, after = journal.read(after, ("**",), max_events=1000, max_bytes=16 << 20)
                told += [seen_event(seq, packed) for seq, _, packed in found]
        finally:
            journal.close()
    return told


@click.command()
@click.argument("night")
@conf_option
@click.option("--home", type=click.Path(path_type=Path, file_okay=False), default=None, help="Where state lives (default: as configured).")
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), default=None, help="The file to write (default: report-NIGHT.html here)."
)
@json_option
@reports_errors
def report(night: str, conf: Path | None, home: Path | None, out: Path | None, *, as_json: bool) -> None:
    """The report of a night as one HTML file that needs no other file and no network.

    NIGHT is its date, that of the noon before it, or `last`.

    \b
    Examples:
      nightbell report 2027-04-12 --conf nightbell-demo/20270412
      nightbell report last --out tonight.html
    """
    from nightbell.cli.processes import find_conf
    from nightbell.cli.story import Story
    from nightbell.contracts.errors import Missing
    from nightbell.settings import load_installation

    installation = load_installation(find_conf(conf), home=home)
    events = read_events(installation, installation.settings.brokers)
    simulated = installation.settings.clock.kind == "simulator"
    story = Story(events, site=installation.site, night=None if night == "last" else night, simulated=simulated)
    if not story.states and not story.frames:
        nights = ", ".join(Story(events, site=installation.site).nights) or "none"
        raise Missing(f"nothing is stored of night {night!r}", where="NIGHT", remedy=f"Nights that are known: {nights}")
    path = write_report(story, out or Path(f"report-{story.night}.html"))
    answer({"night": story.night, "report": str(path), "events": story.counts()}, as_json, str(path))
