"""A VOEvent broker (VTP): a small process listens through pygcn, this thread journals what it wrote and keeps it alive."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from nightbell.alerts.notices.guards import LARGEST_XML_BYTES, read_bytes
from nightbell.alerts.settings import VoeventSettings
from nightbell.contracts.errors import NightbellError

__all__ = ["listen_to_voevents"]

LOOK_S = 0.1
RESTART_S = (1.0, 60.0)


def listen_to_voevents(
    settings: VoeventSettings, folder: Path, take: Callable[..., object], stopping: threading.Event, say: Callable[[str, str], None]
) -> None:
    """Until `stopping`. What the process wrote before a crash of ours is taken at the next start."""
    folder.mkdir(parents=True, exist_ok=True)
    process: subprocess.Popen[bytes] | None = None
    restart_at_s, wait_s, alarmed = 0.0, RESTART_S[0], False
    started_s = time.monotonic()
    command = [sys.executable, "-m", "nightbell.alerts.sources.vtp", settings.host, str(settings.port), str(folder)]
    command += [str(settings.silence_s), str(settings.reconnect_max_s)]
    try:
        while not stopping.is_set():
            now_s = time.monotonic()
            if process is None or process.poll() is not None:
                if process is not None and restart_at_s == 0.0:
                    say("alerts.voevent", f"the VOEvent listener ended (exit {process.returncode}); it is started again")
                    restart_at_s, wait_s = now_s + wait_s, min(2 * wait_s, RESTART_S[1])
                if now_s >= restart_at_s:
                    with (folder / "listener.log").open("ab") as log:
                        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log)
                    restart_at_s, started_s = 0.0, now_s
            if process is not None and now_s - started_s > 600:
                wait_s = RESTART_S[0]
            for path in sorted(folder.glob("*.xml")):
                try:
                    raw = read_bytes(path, largest=LARGEST_XML_BYTES)
                except NightbellError as error:
                    say("alerts.voevent", str(error))
                    path.replace(path.with_suffix(".refused"))
                    continue
                try:
                    take(raw)
                except NightbellError as error:  # the journal cannot take it now: it stays where it is, the broker sends it once
                    say("alerts.voevent", str(error))
                    break
                path.unlink()
            silent = now_s - started_s > settings.silence_s and _age_s(folder / "alive") > settings.silence_s
            if silent and not alarmed:
                say("alerts.voevent", f"{settings.host}:{settings.port} has been silent for more than {settings.silence_s:.0f} s")
            alarmed = silent
            stopping.wait(LOOK_S)
    finally:
        if process is not None and process.poll() is None:
            process.kill()  # everything it heard is on disk; pygcn has no other end
            process.wait()
        if process is not None and process.stdin is not None:
            process.stdin.close()


def _age_s(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return float("inf")
