"""Raw notices on disk, first of all: before they are parsed, acknowledged or judged.

One file per notice, `NNNNNNNN-SHA256.notice`: a line of JSON (where from, when, what an operator added) and the bytes as they
came. Written beside its place, fsynced, renamed. The same bytes twice are one entry, so a redelivered stream changes nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nightbell.contracts.errors import Failed
from nightbell.contracts.instants import format_utc

__all__ = ["Entry", "NoticeJournal"]

_NAME = re.compile(r"(\d{8})-([0-9a-f]{64})\.notice")
KEPT_OF_TOO_LARGE = 64 << 10
"""Of a message beyond every limit only its beginning is kept, with the checksum of the whole."""
LARGEST_BYTES = 64 << 20


@dataclass(frozen=True)
class Entry:
    """One stored notice."""

    number: int
    sha256: str
    about: dict[str, Any]
    """source, received_utc, and for submitted ones skymap and confirm."""
    raw: bytes

    @property
    def where(self) -> str:
        """How messages name it."""
        name = self.about.get("path") or self.about.get("source", "")
        return f"notice {self.number} ({name})"


class NoticeJournal:
    """Append and read back. Safe from several threads."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._files: dict[int, Path] = {}
        self._by_key: dict[str, int] = {}
        for path in sorted(folder.iterdir()):
            match = _NAME.fullmatch(path.name)
            if match:
                self._files[int(match[1])] = path
                self._by_key.setdefault(match[2], int(match[1]))
            elif path.suffix == ".making":
                path.unlink()  # cut off before it counted; its source sends it again

    @property
    def last(self) -> int:
        """Number of the newest entry, 0 when there is none."""
        return max(self._files, default=0)

    def append(
        self, raw: bytes, *, source: str, now_ns: int, again: bool = False, before: Callable[[int], None] | None = None, **about: Any
    ) -> tuple[int, bool]:
        """(number, whether it is new). On disk when this returns. With `again` the same bytes make a second entry.

        `before` is called with the number when the entry is on disk, just before readers see it.
        """
        digest = hashlib.sha256(raw).hexdigest()
        with self._lock:
            if not again and digest in self._by_key:
                return self._by_key[digest], False
            number = self.last + 1
            details = {"source": source, "received_utc": format_utc(now_ns), "size_bytes": len(raw), **about}
            head = json.dumps(details, separators=(",", ":")).encode("utf-8") + b"\n"
            kept = raw if len(raw) <= LARGEST_BYTES else raw[:KEPT_OF_TOO_LARGE]
            path = self._folder / f"{number:08d}-{digest}.notice"
            making = path.with_suffix(".making")
            try:
                with making.open("wb") as stream:
                    stream.write(head + kept)
                    stream.flush()
                    os.fsync(stream.fileno())
                making.rename(path)
                _sync_folder(self._folder)
            except OSError as error:
                raise Failed(
                    f"cannot be written ({error.strerror})", where=str(path), remedy="Make room; notices wait at their source"
                ) from error
            if before is not None:
                before(number)
            self._files[number] = path
            self._by_key.setdefault(digest, number)
            return number, True

    def after(self, number: int) -> list[int]:
        """Numbers of the entries newer than `number`, oldest first."""
        return sorted(n for n in list(self._files) if n > number)

    def read(self, number: int) -> Entry:
        """One entry. Raises `Failed` when it is no longer as it was written."""
        path = self._files[number]
        match = _NAME.fullmatch(path.name)
        assert match is not None
        try:
            head, _, raw = path.read_bytes().partition(b"\n")
            return Entry(number, match[2], dict(json.loads(head)), raw)
        except (OSError, ValueError, TypeError) as error:
            raise Failed(
                f"cannot be read again ({error})", where=str(path), remedy="Submit the notice anew: nightbell alert submit"
            ) from error


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return  # Windows has no handle on folders; NTFS journals the rename
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
