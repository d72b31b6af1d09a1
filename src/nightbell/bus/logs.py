"""Structured logs on stderr: for humans on a terminal, one JSON object per line elsewhere."""

from __future__ import annotations

import logging
import sys
from typing import Any, TextIO, cast

import structlog

__all__ = ["PatientStream", "set_up_logging"]


class PatientStream:
    """A stream that outlives a full disk: what cannot be written is counted, and told as soon as something can be.

    A log that raised would end the process that speaks, and with the disk full that would be all of them, safety included.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._text = stream, ""
        self.n_lost = 0

    def write(self, text: str) -> int:
        """Keep `text` until the next `flush`."""
        self._text += text
        return len(text)

    def flush(self) -> None:
        """Write what was kept, or count it; the stream itself may hold a little of it back and write it later."""
        text, self._text = self._text, ""
        try:
            if self.n_lost:
                self._stream.write(f'{{"event": "log.lost", "level": "warning", "n": {self.n_lost}}}\n')
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):  # ValueError: the stream is closed
            self.n_lost += 1
        else:
            self.n_lost = 0


def set_up_logging() -> None:
    """Call it once, at a process's entry."""
    renderer: Any = structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer(default=str)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(cast(TextIO, PatientStream(sys.stderr))),
        cache_logger_on_first_use=False,
    )
