"""A shipped installation, copied to where a user may change it, on ports that are free there."""

from __future__ import annotations

import re
import shutil
import socket
from pathlib import Path

from nightbell.contracts.errors import BadInput, Missing

__all__ = ["copy_installation", "shipped"]

_ADDRESS = re.compile(r"127\.0\.0\.1:(\d+)")
_PORT = re.compile(r"^(\s*\w*port\s*=\s*)(\d+)", re.MULTILINE)


def shipped(*parts: str) -> Path:
    """A file or folder that comes with nightbell: in the installed package, or in the clone beside it."""
    package = Path(__file__).resolve().parents[1]
    for root in (package / "data", package.parents[1]):
        path = root.joinpath(*parts)
        if path.exists():
            return path
    raise Missing(f"{'/'.join(parts)} is not in this installation of nightbell", where=str(package), remedy="Install nightbell again")


def copy_installation(name: str, into: Path) -> Path:
    """Copy conf/`name` to the new or empty folder `into`; every loopback port in it becomes one that is free now. Returns `into`.

    Ports are freed before the processes bind them: another program may take one in between; the process then says so.
    """
    if into.exists() and not (into.is_dir() and not any(into.iterdir())):
        raise BadInput("exists already and is not an empty folder", where=str(into), remedy="Give another --out, or delete it")
    shutil.copytree(shipped("conf", name), into, ignore=shutil.ignore_patterns("state", "__pycache__"), dirs_exist_ok=True)
    texts = {path: path.read_text(encoding="utf-8") for path in sorted(into.rglob("*.toml"))}
    numbers = sorted(
        {number for text in texts.values() for number in (*_ADDRESS.findall(text), *(port for _, port in _PORT.findall(text)))}
    )
    chosen = dict(zip(numbers, _free_ports(len(numbers)), strict=True))
    chosen["0"] = 0  # "chosen by the system" stays so
    for path, text in texts.items():
        moved = _ADDRESS.sub(lambda match: f"127.0.0.1:{chosen[match[1]]}", text)
        moved = _PORT.sub(lambda match: f"{match[1]}{chosen[match[2]]}", moved)
        path.write_text(moved, encoding="utf-8", newline="\n")
    return into


def _free_ports(n: int) -> list[int]:
    sockets = [socket.socket() for _ in range(n)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()
