"""Paths as a user gives them -> the frames among them, each once and sorted; what cannot be one is named, not passed over."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from nightbell.contracts.errors import BadInput, NightbellError, NoSuchInput

__all__ = ["SUFFIXES", "Listing", "find_frames"]

SUFFIXES = (".fits", ".fit", ".fts", ".fits.gz", ".fit.gz", ".fts.gz", ".fits.fz", ".fit.fz", ".fz")
_FOREIGN = (".fits.bz2", ".fit.bz2", ".fts.bz2", ".fits.z", ".fit.z", ".fits.xz", ".fits.zst", ".fits.zip")


@dataclass(frozen=True)
class Listing:
    """Files to read, and paths that cannot be read with the reason."""

    files: tuple[Path, ...]
    troubles: tuple[tuple[Path, NightbellError], ...]


def find_frames(paths: Iterable[Path], *, ours: Collection[str] = ()) -> Listing:
    """The FITS files among `paths`, folders searched to the bottom. A file that was named itself is taken whatever its name.

    `ours` are products of earlier calls, which a folder may hold when the output lies inside it: they are no input.
    """
    files: set[Path] = set()
    seen: set[Path] = set()
    troubles: dict[Path, NightbellError] = {}
    for path in paths:
        if path.is_dir():
            for file in _walk(path, troubles, seen):
                name = file.name.lower()
                if name.endswith(SUFFIXES) and str(file.resolve()) not in ours:
                    files.add(file)
                elif name.endswith(_FOREIGN):
                    troubles[file] = _bad("NOT_FITS", file, "this compression is not read", "Unpack it, or pack it with gzip or fpack")
        elif path.exists():
            files.add(path)
        else:
            troubles[path] = NoSuchInput("there is no such file or folder", where=shown(path), remedy="Check the path")
    for file in [one for one in files if shown(one) != str(one)]:
        files.remove(file)
        troubles[file] = _bad("NAME", file, "its name is not UTF-8", "Rename it")
    return Listing(tuple(sorted(files)), tuple(sorted(troubles.items())))


def shown(path: Path) -> str:
    """`path` as text that can be written anywhere."""
    return os.fsencode(path).decode("utf-8", "replace")


def _walk(folder: Path, troubles: dict[Path, NightbellError], seen: set[Path]) -> Iterator[Path]:
    """Files below `folder`, also behind links to folders; each folder once, so links in a circle end."""
    here = folder.resolve()
    if here in seen:
        return
    seen.add(here)
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        troubles[folder] = _bad("NOT_A_FILE", folder, f"the folder cannot be read: {error.strerror}", "Check its permissions")
        return
    # Real folders before linked ones: a file is known by the name that does not lead over a link.
    for entry in sorted(entries, key=lambda one: one.is_symlink()):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _walk(entry, troubles, seen)
        else:
            # Dangling links and pipes too: reading will say what is wrong with them.
            yield entry


def _bad(word: str, path: Path, what: str, remedy: str) -> BadInput:
    return BadInput(f"{word}: {what}", where=shown(path), remedy=remedy, code=word)
