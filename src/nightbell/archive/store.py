"""Pull one file into the store: never half, never overwritten, never silently different.

NAME.part   grows as bytes come; after a cut it is hashed again and continued
verify      size and SHA-256 must be those that were announced
place       fsync, then linked under its name without overwriting (Windows: renamed, which refuses), fsync of the folder

After a crash at any of these the same call goes on. The store has one writer: the archive, which holds the lock of its folder.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Protocol

from nightbell.contracts.errors import BadInput, Failed, Missing, Refused
from nightbell.contracts.records import FrameRef

__all__ = ["FileSource", "Source", "Store"]

CHUNK_BYTES = 1 << 20
SYNC_EVERY_BYTES = 8 << 20
_BAD_IN_NAMES = '<>:"/\\|?*'
_DEVICES = {"con", "prn", "aux", "nul", *(f"{name}{n}" for name in ("com", "lpt") for n in range(1, 10))}
"""Windows opens a device for these, whatever their ending."""
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
"""What file systems without hard links say (exFAT, some shares)."""


class Source(Protocol):
    """Gives a file's bytes."""

    def chunks(self, frame: FrameRef, offset: int) -> Iterator[bytes]:
        """Bytes of the frame from `offset` to its end. Raises `Missing` when it is not there."""
        ...


class FileSource:
    """Files on this host, or on a share that is mounted under the same path."""

    def chunks(self, frame: FrameRef, offset: int) -> Iterator[bytes]:
        """Bytes of the frame from `offset` to its end. Raises `Missing` when it is not there."""
        try:
            with Path(frame.path).open("rb") as file:
                file.seek(offset)
                while chunk := file.read(CHUNK_BYTES):
                    yield chunk
        except OSError as error:
            raise Missing(f"cannot be read: {error.strerror}", where=frame.path, remedy="Is the telescope's disk mounted here?") from error


class Store:
    """The folder of the copies."""

    def __init__(self, folder: Path, *, reserve_bytes: int = 0) -> None:
        self.folder, self._reserve_bytes = folder, reserve_bytes

    def place_of(self, night: str, frame: FrameRef) -> Path:
        """Where the copy of a frame lies. Raises `BadInput` for a name that could leave the store."""
        name = PurePosixPath(frame.path.replace("\\", "/")).name
        for part in (night, name):
            if not _is_name(part):
                raise BadInput(f"{part!r} cannot be a name here", where=frame.path, remedy="Frames are named by the telescope; see custody")
        return self.folder / night / name

    def pull(self, night: str, frame: FrameRef, source: Source) -> Path:
        """A verified copy of `frame`; at once when it is there already.

        Raises `Refused` when another file has its name or the disk is nearly full, `Missing` when the source has it not, `Failed`
        when the bytes are not those that were announced (what was pulled is then thrown away).
        """
        place = self.place_of(night, frame)
        part = place.with_name(place.name + ".part")
        if place.exists():
            if _hash_of(place) == frame.sha256:
                part.unlink(missing_ok=True)  # killed between link and unlink: both names are the same file
                return place
            raise Refused("another file has this name in the store", where=str(place), remedy="Look at both; move the wrong one aside")
        _make_folder(place.parent)
        free = shutil.disk_usage(place.parent).free
        if free - frame.size_bytes < self._reserve_bytes:
            raise Refused(
                f"only {free >> 20} MiB are free", where=str(self.folder), remedy="Free space on the archive's disk", code="reserve"
            )
        digest = self._fill(part, frame, source)
        if digest != frame.sha256 or part.stat().st_size != frame.size_bytes:
            part.unlink()
            raise Failed(
                f"its bytes are not those that were announced (sha256 {digest[:12]} instead of {frame.sha256[:12]})",
                where=frame.path,
                remedy="It is pulled again; if that goes on, check the telescope's disk",
                code="hash",
            )
        _place(part, place)
        return place

    def _fill(self, part: Path, frame: FrameRef, source: Source) -> str:
        digest = hashlib.sha256()
        with part.open("ab") as file:
            # What an earlier try left is hashed again: it may be from another version of the source.
            have = file.tell()
            if have > frame.size_bytes:
                file.truncate(0)
                have = 0
            with part.open("rb") as written:
                while chunk := written.read(CHUNK_BYTES):
                    digest.update(chunk)
            synced = have
            for chunk in source.chunks(frame, have):
                file.write(chunk)
                digest.update(chunk)
                have += len(chunk)
                if have > frame.size_bytes:
                    break
                if have - synced >= SYNC_EVERY_BYTES:
                    file.flush()
                    os.fsync(file.fileno())
                    synced = have
            file.flush()
            os.fsync(file.fileno())
        return digest.hexdigest()


def _hash_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_name(part: str) -> bool:
    """Whether every system can store it, as one name, where it is meant to be."""
    return (
        bool(part)
        and part.isprintable()
        and not part.startswith(".")
        and not part.endswith((" ", ".", ".part"))
        and not any(letter in part for letter in _BAD_IN_NAMES)
        and part.partition(".")[0].lower() not in _DEVICES
    )


def _place(part: Path, place: Path) -> None:
    if sys.platform == "win32":
        part.rename(place)  # refuses when the name is taken
        return
    try:
        os.link(part, place)
    except OSError as error:
        if error.errno not in _NO_LINKS or place.exists():
            raise
        part.rename(place)  # no links here; the store has one writer, so the name is still free
    else:
        part.unlink()
    _sync_folder(place.parent)


def _make_folder(folder: Path) -> None:
    """Make the night's folder and the store itself, durably."""
    if folder.is_dir():
        return
    folder.mkdir(parents=True, exist_ok=True)
    for one in (folder.parent, folder.parent.parent):
        _sync_folder(one)


def _sync_folder(folder: Path) -> None:
    """Make the names in a folder durable; Windows has no such call, NTFS journals them."""
    if sys.platform == "win32":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
