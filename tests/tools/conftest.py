"""The tools as on a host without nightbell: copied alone, with pyzmq and nothing else to import."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import zmq

TOOLS = Path(__file__).resolve().parents[2] / "tools"
DEADLINE_S = 30.0


@pytest.fixture(scope="session")
def lonely(tmp_path_factory) -> Path:
    """A folder with copies of the tools, and one with pyzmq."""
    folder = tmp_path_factory.mktemp("lonely")
    for name in ("tap.py", "send.py"):
        (folder / name).write_bytes((TOOLS / name).read_bytes())
    packages = folder / "packages"
    packages.mkdir()
    for one in Path(zmq.__file__).parents[1].iterdir():
        if one.name in {"zmq", "pyzmq.libs"}:
            (packages / one.name).symlink_to(one, target_is_directory=True)
    return folder


def begin(lonely: Path, tool: str, *words: str) -> subprocess.Popen[str]:
    # -S leaves out site-packages, and with it the installed nightbell.
    return subprocess.Popen(
        [sys.executable, "-S", str(lonely / tool), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(lonely / "packages"), "PYTHONUTF8": "1"},
        cwd=lonely,
    )


def run(lonely: Path, tool: str, *words: str) -> tuple[int, str, str]:
    """Exit status, stdout, stderr."""
    process = begin(lonely, tool, *words)
    out, err = process.communicate(timeout=DEADLINE_S)
    return process.returncode, out, err
