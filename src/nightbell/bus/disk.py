"""What the journal asks of the operating system. A test's disk can lose power at any byte."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

__all__ = ["Disk"]


class Disk:
    """What the journal asks of the operating system; a test's disk can lose power at any byte."""

    def create(self, path: Path) -> int:
        """A new file, open for appending."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o644)

    def open(self, path: Path) -> int:
        """An existing file, open for writing at its end."""
        handle = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0))
        os.lseek(handle, 0, os.SEEK_END)
        return handle

    def write(self, handle: int, data: bytes) -> None:
        """All of `data`, or an error."""
        view = memoryview(data)
        while view:
            view = view[os.write(handle, view) :]

    def sync(self, handle: int) -> None:
        """What was written is on the disk when this returns."""
        if sys.platform == "win32" or sys.platform == "darwin":
            os.fsync(handle)
        else:
            os.fdatasync(handle)

    def sync_folder(self, folder: Path) -> None:
        """New names in `folder` are on the disk (Windows does that by itself)."""
        if sys.platform == "win32":
            return
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def truncate(self, handle: int, size: int) -> None:
        """Cut the file."""
        os.ftruncate(handle, size)
        os.lseek(handle, 0, os.SEEK_END)

    def close(self, handle: int) -> None:
        """Close it."""
        os.close(handle)

    def rename(self, old: Path, new: Path) -> None:
        """Give `old` the name `new`, which it may replace; durable after `sync_folder`."""
        old.replace(new)

    def unlink(self, path: Path) -> None:
        """Delete it; durable after `sync_folder`."""
        path.unlink()

    def free_bytes(self, folder: Path) -> int:
        """Room that is left."""
        return shutil.disk_usage(folder).free
