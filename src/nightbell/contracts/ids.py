"""Identifiers: UUIDv7 for events and commands, and the patterns of names that cross the wire.

UUIDv7 (RFC 9562) sorts by its source's clock; that order is never used for events, whose order is the journal's `seq`.
"""

from __future__ import annotations

import re
import secrets
import time
from typing import NewType

__all__ = ["LIVE_SUPEREVENT", "MODULE_NAME", "EventId", "SupereventId", "safe_name", "uuid7"]

EventId = NewType("EventId", str)
SupereventId = NewType("SupereventId", str)

LIVE_SUPEREVENT = re.compile(r"S[0-9]{6}[a-z]{1,16}")
"""LVK's live form, to be used with `fullmatch`; MS..., TS..., G... are never live. ASCII digits: `\\d` takes those of every script."""
MODULE_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")

_RESERVED = {"con", "prn", "aux", "nul", *(f"com{i}" for i in range(10)), *(f"lpt{i}" for i in range(10))}


def uuid7(now_ns: int | None = None) -> str:
    """A new UUIDv7; `now_ns` (UTC) only for tests."""
    ms = (time.time_ns() if now_ns is None else now_ns) // 1_000_000
    value = (ms & (2**48 - 1)) << 80 | 0x7 << 76 | secrets.randbits(12) << 64 | 0b10 << 62 | secrets.randbits(62)
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def safe_name(text: str, *, longest: int = 24) -> str:
    """`text` as a part of a file name that Linux and Windows accept: [A-Za-z0-9+-] only, no reserved device name."""
    name = re.sub(r"[^A-Za-z0-9+-]+", "-", text).strip("-")[:longest].rstrip("-") or "x"
    return f"{name}-" if name.lower() in _RESERVED else name
