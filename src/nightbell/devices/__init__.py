"""Devices: one Protocol per device in ASCOM's words, the drivers behind it, and the geometry of the dome.

    settings.DeviceSettings -> registry.open_device(kind, config, clock) -> a driver that satisfies protocols.KIND
                                        alpaca/  client.py -> imagebytes.py -> drivers.py
    dome_geometry.py    where the dome must stand for a pointing, and what it covers
    faults.py           what devices answer when they refuse, in ASCOM's numbers
    waiting.wait_until  poll a status until the goal is read back

Public: protocols (Dome, Mount, Camera ... and their records), registry.open_device, settings.DeviceSettings, waiting.wait_until,
dome_geometry. Nothing here imports numpy at start but dome_geometry: safety drives dome and weather without it.
"""
