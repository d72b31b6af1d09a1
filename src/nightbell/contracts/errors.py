"""What can go wrong, as data: CLI, web page and event show the same words.

NightbellError            what, where, remedy
  BadInput                exit 2: the input is wrong (a file, a field, an option)
    Mistakes              several of them, reported together
  Refused                 exit 3: understood, but not done now
  Missing                 exit 1: something that must be there is not (a file, a peer, a package)
    NoSuchInput           exit 2: the input that was named is not there, or cannot be read
  Failed                  exit 1: it was tried and did not work
  DeviceError             exit 1: device, member and what the device said
    DeviceTimeout         no answer within the deadline
    DeviceLost            the connection broke
    DeviceFault           the device answered with an error of its own (code, words)
    DeviceLied            reading back contradicts what was answered
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from typing import ClassVar

__all__ = [
    "BadInput",
    "DeviceError",
    "DeviceFault",
    "DeviceLied",
    "DeviceLost",
    "DeviceTimeout",
    "Failed",
    "Missing",
    "Mistakes",
    "NightbellError",
    "NoSuchInput",
    "Refused",
    "shell_word",
]


def shell_word(path: object) -> str:
    """A path as one word of a command that can be pasted into the shell in use: remedies name commands."""
    text = str(path)
    if os.name == "nt":
        return f'"{text}"' if re.search(r"[\s&()^;,']", text) else text
    return shlex.quote(text)


class NightbellError(Exception):
    """The root: `what` happened, `where` (file: field, module, device), and the `remedy` in the imperative."""

    code: ClassVar[str] = "failed"
    exit_status: ClassVar[int] = 1

    def __init__(self, what: str, *, where: str = "", remedy: str = "", code: str = "") -> None:
        super().__init__(what, where, remedy)
        self.what = what
        self.where = where
        self.remedy = remedy
        self.word = code or self.code

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        if not self.remedy:
            return text
        return f"{text.rstrip('.')}. {self.remedy.rstrip('.')}"

    def as_dict(self) -> dict[str, str]:
        """For `--json`, events and answers: {code, what, where, remedy}."""
        return {"code": self.word, "what": self.what, "where": self.where, "remedy": self.remedy}


class BadInput(NightbellError):
    """The input is wrong; nothing was done."""

    code: ClassVar[str] = "bad_input"
    exit_status: ClassVar[int] = 2


class Mistakes(BadInput):
    """Several mistakes, found in one reading and shown together."""

    code: ClassVar[str] = "mistakes"

    def __init__(self, mistakes: Sequence[NightbellError]) -> None:
        self.mistakes = tuple(mistakes)
        n = len(self.mistakes)
        super().__init__(
            "\n".join(str(mistake) for mistake in self.mistakes) if n > 1 else self.mistakes[0].what,
            where="" if n > 1 else self.mistakes[0].where,
            remedy="" if n > 1 else self.mistakes[0].remedy,
        )

    def as_dict(self) -> dict[str, object]:  # type: ignore[override]
        return {**super().as_dict(), "mistakes": [mistake.as_dict() for mistake in self.mistakes]}


class Refused(NightbellError):
    """Understood, but not done now; the reason is in `what`."""

    code: ClassVar[str] = "refused"
    exit_status: ClassVar[int] = 3


class Missing(NightbellError):
    """Something that must be there is not: a file, a peer, a package."""

    code: ClassVar[str] = "missing"


class NoSuchInput(Missing):
    """What was named as input is not there, or cannot be read: as wrong as an input that is there and broken."""

    exit_status: ClassVar[int] = 2


class Failed(NightbellError):
    """It was tried and did not work."""


class DeviceError(NightbellError):
    """Something about a device; `where` is `device.member`."""

    code: ClassVar[str] = "device"


class DeviceTimeout(DeviceError):
    """No answer within the deadline; nothing is known about the effect."""

    code: ClassVar[str] = "device_timeout"


class DeviceLost(DeviceError):
    """The connection broke or was refused."""

    code: ClassVar[str] = "device_lost"


class DeviceFault(DeviceError):
    """The device answered with an error of its own: `number` and its words in `what`."""

    code: ClassVar[str] = "device_fault"

    def __init__(self, what: str, *, where: str = "", remedy: str = "", number: int = 0) -> None:
        super().__init__(what, where=where, remedy=remedy)
        self.number = number


class DeviceLied(DeviceError):
    """What was read back contradicts what was answered."""

    code: ClassVar[str] = "device_lied"
