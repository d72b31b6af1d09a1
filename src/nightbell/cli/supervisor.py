"""Processes started, watched, restarted and stopped: what `up` and `demo` share.

Each child is `python -m nightbell run NAME`, prints one `READY {...}` line on stdout, logs to HOME/logs/NAME.log, and ends by
itself when this process dies, because its standard input then closes.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nightbell.contracts.errors import Failed
from nightbell.settings import Installation

__all__ = ["Child", "Supervisor"]

NEVER_GIVEN_UP = ("safety", "broker:")
GIVE_UP_AFTER = 5
WITHIN_S = 600.0
FAILED_START_S = 5.0
PATIENCE_TO_STOP_S = 20.0


@dataclass
class Child:
    """One supervised process."""

    name: str
    process: subprocess.Popen[bytes] | None = None
    ready: dict[str, Any] | None = None
    exits: deque[float] = field(default_factory=deque)
    """Monotonic instants of its recent unexpected ends."""
    next_start_s: float = 0.0
    given_up: bool = False
    n_restarts: int = 0

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process is not None and self.process.poll() is None else None


class Supervisor:
    """Starts `names` in order and keeps them alive until `stop`.

    `tell(name, text)` is called, from this object's threads, for every start, READY, end and restart.
    """

    def __init__(self, installation: Installation, names: Sequence[str], *, tell: Callable[[str, str], None]) -> None:
        self.installation = installation
        self.children = {name: Child(name) for name in names}
        self.logs = installation.home / "logs"
        self.logs.mkdir(parents=True, exist_ok=True)
        self._tell = tell
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._watcher: threading.Thread | None = None

    def start(self, *, wait_s: float = 60.0, in_waves: Sequence[Sequence[str]] | None = None) -> None:
        """Start all; each wave is READY before the next begins (default: one wave). Raises `Failed` naming who is not READY."""
        for wave in in_waves or [list(self.children)]:
            for name in wave:
                self._spawn(self.children[name])
            self.wait_ready(wave, wait_s=wait_s)
        self._watcher = threading.Thread(target=self._watch, name="supervisor", daemon=True)
        self._watcher.start()

    def wait_ready(self, names: Sequence[str], *, wait_s: float) -> None:
        """Return when all `names` have said READY. Raises `Failed` with the end of the log of the first that has not."""
        deadline = time.monotonic() + wait_s
        with self._changed:
            while missing := [name for name in names if self.children[name].ready is None]:
                dead = [name for name in missing if self.children[name].pid is None]
                left_s = deadline - time.monotonic()
                if dead or left_s <= 0:
                    name = (dead or missing)[0]
                    why = "ended at once" if dead else f"is not ready after {wait_s:.0f} s"
                    raise Failed(f"{name} {why}: {self.log_tail(name)}", where=name, remedy=f"Read {self.log_of(name)}")
                self._changed.wait(min(left_s, 0.2))

    def log_of(self, name: str) -> Path:
        """Where `name` logs to."""
        return self.logs / f"{name.replace(':', '-')}.log"

    def log_tail(self, name: str, n_lines: int = 6) -> str:
        """The last lines of a log, for an error message."""
        path = self.log_of(name)
        if not path.is_file():
            return "(no log)"
        return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-n_lines:])

    def kill(self, name: str) -> int:
        """SIGKILL a child as a crash would (for drills and tests); the watcher restarts it. Returns its pid."""
        process = self.children[name].process
        if process is None or process.poll() is not None:
            raise Failed("is not running", where=name, remedy="Start it first")
        process.kill()
        return process.pid

    def stop(self, order: Sequence[str] | None = None) -> None:
        """Stop all, last started first (or in `order`): ask, wait, then kill."""
        self._stopping.set()
        if self._watcher is not None:
            self._watcher.join()
        for name in order or list(reversed(self.children)):
            self._end(self.children[name])

    def _spawn(self, child: Child) -> None:
        command = [sys.executable, "-m", "nightbell", "run", child.name, "--conf", str(self.installation.folder)]
        command += ["--home", str(self.installation.home), "--with-parent"]
        group: dict[str, Any] = {"start_new_session": True}
        if sys.platform == "win32":
            group = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
        with self.log_of(child.name).open("ab") as log:
            child.ready = None
            child.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, **group)
        self._tell(child.name, "starting")
        threading.Thread(target=self._read, args=(child, child.process), name=f"read {child.name}", daemon=True).start()

    def _read(self, child: Child, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        for raw in process.stdout:
            line = raw.decode("utf-8", errors="replace").rstrip()
            if line.startswith("READY "):
                with self._changed:
                    child.ready = json.loads(line.removeprefix("READY "))
                    self._changed.notify_all()
                self._tell(child.name, "ready")
            elif line:
                self._tell(child.name, line)
        process.wait()
        process.stdout.close()
        if process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        with self._changed:
            self._changed.notify_all()

    def _watch(self) -> None:
        while not self._stopping.wait(0.1):
            now_s = time.monotonic()
            for child in self.children.values():
                if child.given_up or child.process is None:
                    continue
                if child.process.poll() is not None and child.next_start_s == 0.0:
                    self._plan_restart(child, now_s)
                if child.next_start_s and now_s >= child.next_start_s:
                    child.next_start_s = 0.0
                    child.n_restarts += 1
                    try:
                        self._spawn(child)
                    except OSError as error:  # no room for its log, say: it is tried again, and the others are watched
                        self._tell(child.name, f"cannot be started: {error}")
                        child.next_start_s = now_s + FAILED_START_S

    def _plan_restart(self, child: Child, now_s: float) -> None:
        assert child.process is not None
        child.exits.append(now_s)
        while child.exits and now_s - child.exits[0] > WITHIN_S:
            child.exits.popleft()
        n = len(child.exits)
        if n > GIVE_UP_AFTER and not child.name.startswith(NEVER_GIVEN_UP):
            child.given_up = True
            self._tell(child.name, f"ALARM: ended {n} times in {WITHIN_S / 60:.0f} min, given up. Read {self.log_of(child.name)}")
            return
        delay_s = min(60.0, 0.5 * 2 ** (n - 1))
        child.next_start_s = now_s + delay_s
        self._tell(child.name, f"ended (exit {child.process.returncode}), starts again in {delay_s:g} s")

    def _end(self, child: Child) -> None:
        process = child.process
        if process is None or process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            if sys.platform == "win32":
                process.send_signal(signal.CTRL_BREAK_EVENT)
            else:
                process.send_signal(signal.SIGTERM)
        try:
            process.wait(PATIENCE_TO_STOP_S)
        except subprocess.TimeoutExpired:
            self._tell(child.name, f"did not stop within {PATIENCE_TO_STOP_S:.0f} s, killed")
            process.kill()
            process.wait()
        if process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
