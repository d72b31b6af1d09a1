"""What each module said last, and when: asked directly, so that it works while the broker is dead."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from nightbell.contracts.errors import NightbellError

__all__ = ["Heard", "Watch"]

ANSWER_S = 3.0


@dataclass(frozen=True, slots=True)
class Heard:
    """One module's last answer. `report` stays when it falls silent; only its age grows."""

    module: str
    report: dict[str, Any] = field(default_factory=dict)
    answered: float | None = None
    """Monotonic seconds of the last answer; None: never."""
    error: str = ""

    def age_s(self, now: float) -> float | None:
        return None if self.answered is None else max(0.0, now - self.answered)


class Watch:
    """One thread per module: a silent one delays no other."""

    def __init__(
        self,
        modules: Iterable[str],
        ask: Callable[[str, float], dict[str, Any]],
        changed: Callable[[str], None],
        *,
        poll_s: float,
        stopping: threading.Event,
    ) -> None:
        """`ask(module, timeout_s)` gives the answer to `status`; `changed(module)` is called after each try."""
        self._ask, self._changed, self._poll_s, self._stopping = ask, changed, poll_s, stopping
        self._heard = {module: Heard(module) for module in modules}
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Begin to ask."""
        for module in self._heard:
            thread = threading.Thread(target=self._keep_asking, args=(module,), name=f"watch {module}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def join(self) -> None:
        """After `stopping` is set."""
        for thread in self._threads:
            thread.join(timeout=ANSWER_S + 1.0)

    def heard(self) -> dict[str, Heard]:
        """A copy; the records never change."""
        return dict(self._heard)

    def _keep_asking(self, module: str) -> None:
        while not self._stopping.is_set():
            before = self._heard[module]
            asked = time.monotonic()
            try:
                report = self._ask(module, ANSWER_S)
            except NightbellError as error:
                self._heard[module] = Heard(module, before.report, before.answered, str(error))
            else:
                # Older than the answer, never younger: the age counts from the question.
                self._heard[module] = Heard(module, report, asked)
            self._changed(module)
            self._stopping.wait(self._poll_s)
