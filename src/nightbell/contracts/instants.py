"""Instants: `int` nanoseconds since 1970 UTC inside (`..._ns`), ISO-8601 text with `Z` outside (`..._utc`).

Text, because nanoseconds exceed 2^53 and a JavaScript reader would round them.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from nightbell.contracts.errors import BadInput

__all__ = ["format_utc", "parse_utc"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ISO = re.compile(r"(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d(?::\d\d)?)(?:\.(\d{1,9}))?)?(Z|[+-]\d\d:?\d\d| UTC)?", re.ASCII)
_EARLIEST, _LATEST = datetime(1000, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)
"""What is outside could not be written again: its year has not four digits, here or in UTC."""


def format_utc(at_ns: int, *, digits: int = 3) -> str:
    """`at_ns` as ISO-8601 UTC with `digits` (0 to 9) decimals of a second, rounded half up."""
    step = 10 ** (9 - digits)
    ticks = (at_ns + step // 2) // step
    seconds, fraction = divmod(ticks, 10**digits)
    text = (_EPOCH + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{fraction:0{digits}d}Z" if digits else f"{text}Z"


def parse_utc(text: str, *, where: str = "time") -> int:
    """Nanoseconds since 1970 UTC of an ISO-8601 text; without an offset it is UTC. Raises `BadInput`."""
    match = _ISO.fullmatch(text.strip())
    try:
        if match is None:
            raise ValueError(text)
        day, clock, fraction, zone = match.groups()
        base = datetime.fromisoformat(f"{day}T{clock or '00:00:00'}{'+00:00' if zone in (None, 'Z', ' UTC') else zone}")
        if not _EARLIEST <= base < _LATEST:
            raise ValueError(text)
    except ValueError as error:
        raise BadInput(f"{text!r} is not a time", where=where, remedy="Give it as 2027-04-12T23:10:05.123Z") from error
    return round((base - _EPOCH).total_seconds()) * 1_000_000_000 + int((fraction or "0").ljust(9, "0"))
