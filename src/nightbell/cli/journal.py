"""`nightbell journal`: a broker's journal, byte by byte."""

from __future__ import annotations

from pathlib import Path

import click

from nightbell.cli.output import Progress, Verbs, answer, conf_option, json_option, reports_errors


@click.group(cls=Verbs)
def journal() -> None:
    """A broker's journal: verify every byte, seal the open segment.

    \b
    Examples:
      nightbell journal verify --conf conf/demo --broker observatory
      nightbell journal verify /backup/journal --json
    """


def _folder(folder: Path | None, conf: Path | None, broker: str | None) -> Path:
    from nightbell.cli.processes import find_conf
    from nightbell.contracts.errors import BadInput
    from nightbell.settings import load_installation

    if folder is not None:
        return folder
    installation = load_installation(find_conf(conf))
    brokers = installation.settings.brokers
    chosen = broker or next(iter(brokers))
    if chosen not in brokers:
        raise BadInput(f"there is no broker {chosen!r}", where="--broker", remedy=f"Use one of {', '.join(brokers)}")
    return installation.home / f"broker-{chosen}" / "journal"


folder_argument = click.argument("folder", required=False, type=click.Path(path_type=Path, file_okay=False))
broker_option = click.option("--broker", default=None, help="Which broker of the installation (default: the first).")


@journal.command()
@folder_argument
@conf_option
@broker_option
@json_option
@reports_errors
def verify(folder: Path | None, conf: Path | None, broker: str | None, *, as_json: bool) -> None:
    """Read every byte of a journal and name all damage with file, byte and events. Changes nothing; exit 1 when there is damage.

    The open segment of a running broker may end in the middle of a record: verify a copy, or stop the broker.

    \b
    Examples:
      nightbell journal verify --conf conf/demo --broker observatory
      nightbell journal verify /backup/journal --json
    """
    import sys

    from nightbell.bus.journal import verify as verify_journal

    path = _folder(folder, conf, broker)
    bar: list[Progress] = []

    def show(done: int, total: int) -> None:
        if not bar:
            bar.append(Progress(max(1, total >> 20), "MiB", quiet=as_json or total < 64 << 20))
        bar[0].step(0 if done < total else max(1, total >> 20))

    told = verify_journal(path, progress=show)
    lines = [
        f"{path}: {told['segments']} segments, {told['events']} events ({told['first_seq']} to {told['last_seq']}), {told['bytes']} bytes"
    ]
    lines += told["damages"] or ["no damage"]
    answer({"ok": not told["damages"], **told}, as_json, "\n".join(lines))
    if told["damages"]:
        sys.exit(1)


@journal.command()
@folder_argument
@conf_option
@broker_option
@json_option
@reports_errors
def seal(folder: Path | None, conf: Path | None, broker: str | None, *, as_json: bool) -> None:
    """Seal the open segment of a stopped broker, so that its hash covers everything: before a backup, say.

    \b
    Example:
      nightbell journal seal --conf conf/demo --broker observatory
    """
    import random
    import time

    from nightbell.bus.journal import Journal
    from nightbell.bus.locks import FolderLock
    from nightbell.bus.router import Router

    path = _folder(folder, conf, broker)
    lock = FolderLock(path.parent)
    lock.acquire()
    opened = Journal(path)
    try:
        router = Router(
            opened,
            broker="seal",
            site="",
            journal_id=str(opened.identity),
            epoch=opened.epoch,
            snapshot=opened.snapshot,
            tail=opened.tail,
            now=0.0,
            wall_ns=time.time_ns(),
            chance=random.Random(0),
        )
        opened.roll(router.snapshot(), at_ns=time.time_ns())
    finally:
        opened.close()
        lock.release()
    answer({"sealed": True, "last_seq": router.next_seq - 1}, as_json, f"{path}: sealed up to event {router.next_seq - 1}")
