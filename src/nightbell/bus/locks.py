"""One process per folder: a lock on a file that the system gives back when its holder dies, however it dies."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import IO

from nightbell.contracts.errors import Refused

__all__ = ["FolderLock"]

# Windows locks are mandatory: the byte that is locked lies behind the pid, so that others can read it.
_LOCKED_BYTE = 4096


class FolderLock:
    """`FOLDER/lock`, held while this object is; the file names the holder's pid and is never removed."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "lock"
        self._file: IO[bytes] | None = None

    def acquire(self) -> None:
        """Take it. Raises `Refused` naming the process that has it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o644)
        file = os.fdopen(handle, "r+b", buffering=0)
        try:
            _lock(file)
        except OSError as error:
            holder = file.read(32).decode("ascii", "replace").strip("\0 \n") or "unknown"
            file.close()
            raise Refused(
                f"process {holder} is using this folder",
                where=str(self.path.parent),
                remedy="Stop it first, or give this process another state folder (NIGHTBELL_HOME)",
            ) from error
        pid = str(os.getpid()).encode("ascii")
        # Written over, then cut: on a full disk a file that was emptied first could not be filled again.
        file.seek(0)
        file.write(pid)
        file.truncate(len(pid))
        self._file = file

    def release(self) -> None:
        """Give it back."""
        if self._file is not None:
            self._file.close()
            self._file = None


if sys.platform == "win32":
    import msvcrt

    def _lock(file: IO[bytes]) -> None:
        file.seek(_LOCKED_BYTE)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        file.seek(0)

else:
    import fcntl

    def _lock(file: IO[bytes]) -> None:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
