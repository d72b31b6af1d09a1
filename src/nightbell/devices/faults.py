"""What devices answer with when they refuse, in ASCOM's numbers: one class each, all `contracts.errors.DeviceFault`.

DeviceFault
  NotImplementedByDevice 0x400   InvalidValue 0x401       ValueNotSet 0x402        NotConnected 0x407
  Parked 0x408                   Slaved 0x409             InvalidOperation 0x40B   ActionNotImplemented 0x40C
  OperationCancelled 0x40E       DriverFault 0x500-0xFFF
"""

from __future__ import annotations

from nightbell.contracts.errors import DeviceFault

__all__ = [
    "ActionNotImplemented",
    "DriverFault",
    "InvalidOperation",
    "InvalidValue",
    "NotConnected",
    "NotImplementedByDevice",
    "OperationCancelled",
    "Parked",
    "Slaved",
    "ValueNotSet",
    "fault_of",
]


class NotImplementedByDevice(DeviceFault):
    """The device does not have this property or method."""


class InvalidValue(DeviceFault):
    """The device does not take this value."""


class ValueNotSet(DeviceFault):
    """The value has not been set yet."""


class NotConnected(DeviceFault):
    """The driver is not connected to its hardware."""


class Parked(DeviceFault):
    """Not while parked."""


class Slaved(DeviceFault):
    """Not while slaved."""


class InvalidOperation(DeviceFault):
    """Not in this state."""


class ActionNotImplemented(DeviceFault):
    """There is no such action."""


class OperationCancelled(DeviceFault):
    """The motion was cancelled before it ended."""


class DriverFault(DeviceFault):
    """An error of the driver's own."""


_REMEDIES: dict[int, tuple[type[DeviceFault], str]] = {
    0x400: (NotImplementedByDevice, "This device cannot do it: leave it out of the configuration"),
    0x401: (InvalidValue, "Give a value that the device takes"),
    0x402: (ValueNotSet, "Set it, or wait for the first measurement"),
    0x407: (NotConnected, "Connect again and look at the driver's log"),
    0x408: (Parked, "Unpark first"),
    0x409: (Slaved, "End slaving first"),
    0x40B: (InvalidOperation, "Wait until the device is idle"),
    0x40C: (ActionNotImplemented, "See SupportedActions"),
    0x40E: (OperationCancelled, "Start the motion again if it is still wanted"),
}


def fault_of(number: int, words: str, *, where: str) -> DeviceFault:
    """The exception for an ErrorNumber and the device's own words."""
    kind, remedy = _REMEDIES.get(number, (DriverFault, "Look at the device's own log"))
    return kind(f"{words.strip() or 'no words'} (error 0x{number:X})", where=where, remedy=remedy, number=number)
