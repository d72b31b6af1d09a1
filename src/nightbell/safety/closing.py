"""Closing: order, watch the sensor, order again, take the second path. Pure: (course, shutter, now) -> what to do.

"We sent close" is never "it is closed": only the sensor ends it, read after the order. A driver's own idea of being parked
or closed plays no part.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from nightbell.safety.evidence import Reading
from nightbell.safety.settings import ClosingSettings

__all__ = ["Closing", "Wish", "next_step"]

TRIES_BEFORE_ALARM = 2


class Wish(StrEnum):
    """What the closer should do now."""

    NOTHING = "nothing"
    SEND = "send"
    SECOND_PATH = "second_path"


@dataclass(frozen=True, slots=True)
class Closing:
    """The course of one closing."""

    since_ns: int
    sent_ns: int
    n_sent: int = 1
    verified_ns: int | None = None
    """When the sensor was read closed."""
    problem: str = ""


def next_step(
    closing: Closing | None, *, wanted: bool, shutter: Reading | None, now_ns: int, limits: ClosingSettings
) -> tuple[Closing | None, Wish]:
    """The next course and wish. `shutter.value`: open, closed, opening, closing, error, or None when unknown."""
    if not wanted:
        return None, Wish.NOTHING
    is_fresh = shutter is not None and shutter.value is not None and now_ns - shutter.stamped_ns <= limits.dome_stale_s * 1e9
    state = str(shutter.value) if shutter is not None and is_fresh else "unknown"
    stamped_ns = shutter.stamped_ns if shutter is not None else 0
    if closing is None:
        if state == "closed":
            return Closing(since_ns=now_ns, sent_ns=now_ns, n_sent=0, verified_ns=now_ns), Wish.NOTHING
        return Closing(since_ns=now_ns, sent_ns=now_ns), Wish.SEND
    if state == "closed" and (closing.verified_ns is not None or stamped_ns >= closing.sent_ns or closing.n_sent == 0):
        verified_ns = closing.verified_ns or now_ns
        return Closing(closing.since_ns, closing.sent_ns, closing.n_sent, verified_ns=verified_ns), Wish.NOTHING
    if closing.verified_ns is not None:  # it was closed and is not any more: a new closing
        return Closing(since_ns=now_ns, sent_ns=now_ns), Wish.SEND
    if state == "closing" and now_ns - closing.since_ns <= 1.5 * limits.travel_s * 1e9:
        return closing, Wish.NOTHING
    if now_ns - closing.sent_ns < limits.retry_s * 1e9:
        return closing, Wish.NOTHING
    n_sent = closing.n_sent + 1
    lasts_s = (now_ns - closing.since_ns) / 1e9
    problem = closing.problem
    if n_sent > TRIES_BEFORE_ALARM:
        problem = f"the dome does not close: shutter {state} after {n_sent - 1} orders in {lasts_s:.0f} s"
    wish = Wish.SECOND_PATH if limits.second_path and n_sent > TRIES_BEFORE_ALARM else Wish.SEND
    return Closing(closing.since_ns, now_ns, n_sent, problem=problem), wish
