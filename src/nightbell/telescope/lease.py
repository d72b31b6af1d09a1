"""The open-dome lease: safety keeps the dome open only while the night's own loop makes progress.

The counter grows when the loop does (`tick`), never by a timer; the thread here only carries it to safety. A loop that
hangs leaves the counter as it is, safety refuses to renew, and the dome closes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from nightbell.contracts.errors import NightbellError

__all__ = ["Lease"]


class Lease:
    """Renewed while held. `renew(progress)` asks safety and raises when it refuses or is silent."""

    def __init__(
        self, renew: Callable[[int], None], lost: Callable[[str], None], *, every_s: float, lost_after_s: float, holder: str = "lease"
    ) -> None:
        """`every_s` and `lost_after_s` are real seconds; `lost(reason)` is called once per holding, from the lease's thread."""
        self._renew = renew
        self._lost = lost
        self._every_s = every_s
        self._lost_after_s = lost_after_s
        self._holder = holder
        # Grows across restarts of the process too: a counter that begins at 0 again would look like a standstill.
        self._progress = time.time_ns() // 1_000_000
        self._release = threading.Event()
        self._thread: threading.Thread | None = None
        self.reason = ""

    @property
    def progress(self) -> int:
        return self._progress

    @property
    def is_held(self) -> bool:
        return self._thread is not None

    def tick(self) -> None:
        """The loop has made a step."""
        self._progress += 1

    def take(self) -> None:
        """Begin to renew; the first renewal is made here, so that a refusal stops the opening."""
        if self._thread is not None:
            return
        self.tick()
        self._renew(self._progress)
        self._release = threading.Event()
        self._thread = threading.Thread(target=self._keep, args=(self._release,), name=self._holder, daemon=True)
        self._thread.start()

    def give_back(self) -> None:
        """Stop renewing; called after the dome was read back closed, or when it is to be closed by safety."""
        self._release.set()
        thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=5.0)

    def _keep(self, release: threading.Event) -> None:
        renewed_at = time.monotonic()
        said = False
        last = self._progress
        while not release.wait(self._every_s):
            progress = self._progress
            try:
                if progress > last:
                    self._renew(progress)
                    renewed_at, last, said, self.reason = time.monotonic(), progress, False, ""
            except NightbellError as error:
                self.reason = str(error)
            if time.monotonic() - renewed_at > self._lost_after_s and not said:
                said = True
                self._lost(self.reason or "the night's loop has made no progress")
