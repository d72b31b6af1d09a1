"""Files that others put into a folder: each is journaled, then moved to `done/` (or `refused/` when it cannot be read)."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path

from nightbell.alerts.notices.guards import read_bytes
from nightbell.contracts.errors import BadInput, NightbellError

__all__ = ["watch_folder"]

Take = Callable[..., object]
Say = Callable[[str, str], None]
_SUFFIXES = (".json", ".xml", ".avro", ".gz")
_UNFINISHED = (".tmp", ".part", ".making", ".new")
"""Names of files that somebody is still writing: they will be renamed."""


def watch_folder(folder: Path, take: Take, stopping: threading.Event, say: Say, *, poll_s: float) -> None:
    """Until `stopping`. A file counts when its size has not changed between two looks, so that half of one is never read."""
    for name in ("done", "refused"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    sizes: dict[Path, int] = {}
    while not stopping.is_set():
        now = _sizes(folder)
        for path in [path for path, size in now.items() if sizes.get(path) == size]:
            try:
                if path.suffix.lower() not in _SUFFIXES:
                    raise BadInput("is not named like a notice", where=path.name, remedy=f"Name it {', '.join(_SUFFIXES)}")
                raw = read_bytes(path)
            except NightbellError as error:
                say("alerts.inbox", str(error))
                path.replace(folder / "refused" / path.name)
                continue
            try:
                take(raw, path=path.name)
            except NightbellError as error:  # the journal cannot take it now: it stays where it is
                say("alerts.inbox", str(error))
                break
            path.replace(folder / "done" / path.name)
        sizes = now
        stopping.wait(poll_s)


def _sizes(folder: Path) -> dict[Path, int]:
    found: dict[Path, int] = {}
    for path in sorted(folder.iterdir()):
        if not path.name.startswith(".") and path.suffix.lower() not in _UNFINISHED:
            with contextlib.suppress(FileNotFoundError):  # somebody took it back
                if path.is_file():
                    found[path] = path.stat().st_size
    return found
