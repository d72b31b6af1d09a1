"""What a device can do, in ASCOM's words: one Protocol per device, frozen records for what it says.

Drivers inherit nothing; whatever has these methods is a dome. The rules every driver keeps (contract suite: tests/devices):

- An initiator (`open_shutter`, `slew_to_coordinates`, `start_exposure` ...) returns when the motion has begun. Success is the
  completion in `status` AND the goal read back, never "the call returned" (`devices.waiting.wait_until` does both).
- Every call ends within `deadline_s` (real seconds, over everything) or raises `DeviceTimeout`.
- `status` asks the hardware; it never answers from memory. Each record carries when it was read: `read_at_ns` on the world's
  clock, `read_monotonic_ns` on this host's monotonic clock; both are taken before the question is sent, so an age is never
  too small.
- What the device does not have or know is None. A device's own error is `DeviceFault` with its number and words.
- Abort and close travel on a connection of their own and are not delayed by anything else that hangs.
- A wrong value (azimuth 400) is `BadInput` before anything is sent.
"""

from __future__ import annotations

import time
from enum import IntEnum
from typing import Any, Protocol, runtime_checkable

import msgspec

__all__ = [
    "AlignmentMode",
    "CalibratorState",
    "Camera",
    "CameraFacts",
    "CameraImage",
    "CameraState",
    "CameraStatus",
    "CoverCalibrator",
    "CoverCalibratorStatus",
    "CoverState",
    "Device",
    "DeviceStatus",
    "Dome",
    "DomeStatus",
    "EquatorialSystem",
    "FilterWheel",
    "FilterWheelFacts",
    "FilterWheelStatus",
    "Focuser",
    "FocuserFacts",
    "FocuserStatus",
    "GuideDirection",
    "Identity",
    "Mount",
    "MountFacts",
    "MountStatus",
    "PierSide",
    "SafetyMonitor",
    "SafetyMonitorStatus",
    "ShutterState",
    "Switch",
    "SwitchStatus",
    "Weather",
    "WeatherStatus",
]


class ShutterState(IntEnum):
    """Dome shutter. Only CLOSED is closed."""

    OPEN = 0
    CLOSED = 1
    OPENING = 2
    CLOSING = 3
    ERROR = 4


class PierSide(IntEnum):
    """ASCOM SideOfPier, a pointing state: EAST = normal, the tube east of the pier looking west; WEST = through the pole."""

    UNKNOWN = -1
    EAST = 0
    WEST = 1


class EquatorialSystem(IntEnum):
    """What the mount's right ascension and declination mean. TOPOCENTRIC: equator and equinox of date."""

    OTHER = 0
    TOPOCENTRIC = 1
    J2000 = 2
    J2050 = 3
    B1950 = 4


class AlignmentMode(IntEnum):
    """How the mount stands."""

    ALT_AZ = 0
    POLAR = 1
    GERMAN = 2


class CameraState(IntEnum):
    """What the camera does now. ERROR: the exposure has failed; nobody waits for ImageReady any more."""

    IDLE = 0
    WAITING = 1
    EXPOSING = 2
    READING = 3
    DOWNLOAD = 4
    ERROR = 5


class CoverState(IntEnum):
    """Mirror cover."""

    ABSENT = 0
    CLOSED = 1
    MOVING = 2
    OPEN = 3
    UNKNOWN = 4
    ERROR = 5


class CalibratorState(IntEnum):
    """Flat lamp."""

    ABSENT = 0
    OFF = 1
    NOT_READY = 2
    READY = 3
    UNKNOWN = 4
    ERROR = 5


class GuideDirection(IntEnum):
    """Direction of a guide pulse."""

    NORTH = 0
    SOUTH = 1
    EAST = 2
    WEST = 3


class DeviceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What every status has: when the question was sent."""

    read_at_ns: int
    """UTC of the world's clock."""
    read_monotonic_ns: int
    """`time.monotonic_ns()` of this host: survives a step of the clock."""

    def age_s(self, now_ns: int) -> float:
        """Seconds of the world since the question was sent."""
        return (now_ns - self.read_at_ns) / 1e9

    def real_age_s(self) -> float:
        """Real seconds since the question was sent, by the monotonic clock."""
        return (time.monotonic_ns() - self.read_monotonic_ns) / 1e9


class DomeStatus(DeviceStatus, frozen=True, kw_only=True):
    """A dome. `slewing` covers rotation and shutter."""

    azimuth_deg: float | None
    altitude_deg: float | None = None
    shutter: ShutterState
    slewing: bool
    at_home: bool | None = None
    at_park: bool | None = None
    slaved: bool | None = None


class MountStatus(DeviceStatus, frozen=True, kw_only=True):
    """A mount. Right ascension and declination in the mount's own `EquatorialSystem`."""

    right_ascension_h: float
    declination_deg: float
    altitude_deg: float | None = None
    azimuth_deg: float | None = None
    sidereal_time_h: float | None = None
    tracking: bool
    slewing: bool
    at_park: bool
    at_home: bool | None = None
    side_of_pier: PierSide = PierSide.UNKNOWN


class MountFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What does not change while connected."""

    equatorial_system: EquatorialSystem
    alignment_mode: AlignmentMode
    site_latitude_deg: float | None = None
    site_longitude_deg: float | None = None
    """East positive, -180 to 180."""
    site_elevation_m: float | None = None
    slew_settle_time_s: float | None = None


class CameraStatus(DeviceStatus, frozen=True, kw_only=True):
    """A camera."""

    camera_state: CameraState
    image_ready: bool
    percent_completed: float | None = None
    ccd_temperature_degc: float | None = None
    cooler_on: bool | None = None
    cooler_power_percent: float | None = None


class CameraFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What does not change while connected. Sizes in unbinned pixels."""

    camera_x_size_px: int
    camera_y_size_px: int
    max_bin_x: int = 1
    max_bin_y: int = 1
    pixel_size_x_um: float | None = None
    pixel_size_y_um: float | None = None
    electrons_per_adu: float | None = None
    full_well_e: float | None = None
    max_adu: int = 65535
    exposure_min_s: float = 0.0
    exposure_max_s: float = 3600.0
    exposure_resolution_s: float = 0.0
    has_shutter: bool = False
    can_abort_exposure: bool = True
    can_set_ccd_temperature: bool = False
    sensor_name: str = ""
    gain: int | None = None
    offset: int | None = None
    readout_mode: int | None = None


class CameraImage(msgspec.Struct, frozen=True, kw_only=True):
    """One finished exposure."""

    pixels: Any
    """numpy array [y, x] as FITS wants it, in the type the camera sent (values up to 65535 survive)."""
    exposure_s: float
    """LastExposureDuration: what was done."""
    started_at_ns: int | None
    """LastExposureStartTime (UTC, the camera's clock); None when the camera does not say."""


class FilterWheelStatus(DeviceStatus, frozen=True, kw_only=True):
    """A filter wheel. Slots count from 0."""

    position: int | None
    """None while it moves."""

    @property
    def is_moving(self) -> bool:
        return self.position is None


class FilterWheelFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What does not change while connected."""

    names: tuple[str, ...]
    focus_offsets: tuple[int, ...] = ()


class FocuserStatus(DeviceStatus, frozen=True, kw_only=True):
    """A focuser."""

    position: int | None
    is_moving: bool
    temperature_degc: float | None = None


class FocuserFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What does not change while connected."""

    absolute: bool
    max_step: int
    step_size_um: float | None = None


class CoverCalibratorStatus(DeviceStatus, frozen=True, kw_only=True):
    """Mirror cover and flat lamp."""

    cover_state: CoverState
    calibrator_state: CalibratorState
    brightness: int | None = None


class WeatherStatus(DeviceStatus, frozen=True, kw_only=True):
    """ObservingConditions. A sensor that is absent or failed is None; `sensor_age_s` tells how old each value was when read."""

    cloud_cover_percent: float | None = None
    dew_point_degc: float | None = None
    humidity_percent: float | None = None
    pressure_hpa: float | None = None
    rain_rate_mm_per_h: float | None = None
    sky_brightness_lux: float | None = None
    sky_quality_mag_per_arcsec2: float | None = None
    sky_temperature_degc: float | None = None
    star_fwhm_arcsec: float | None = None
    temperature_degc: float | None = None
    wind_direction_deg: float | None = None
    wind_gust_m_per_s: float | None = None
    wind_speed_m_per_s: float | None = None
    sensor_age_s: dict[str, float] = {}
    """Field name -> TimeSinceLastUpdate in seconds of the world; "" is the youngest of all sensors."""


class SafetyMonitorStatus(DeviceStatus, frozen=True, kw_only=True):
    """A safety monitor's word. Silence or an error is an exception, and unsafe."""

    is_safe: bool


class SwitchStatus(DeviceStatus, frozen=True, kw_only=True):
    """All channels of a switch device; None where one failed."""

    names: tuple[str, ...]
    values: tuple[float | None, ...]


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Who answered at connect."""

    name: str
    description: str = ""
    driver_info: str = ""
    driver_version: str = ""
    interface_version: int = 1
    unique_id: str = ""


@runtime_checkable
class Device(Protocol):
    """What all devices share. Calls may come from any thread or event loop."""

    @property
    def name(self) -> str:
        """Name in the configuration, for messages."""
        ...

    @property
    def default_deadline_s(self) -> float:
        """The configured deadline, for callers without a reason of their own."""
        ...

    async def connect(self, *, deadline_s: float) -> Identity:
        """Connect to the hardware and check that it is the configured one (`DeviceLied` when not)."""
        ...

    async def aclose(self) -> None:
        """Give up our connections. Leaves the hardware as it is and never says Connected = False: others may use it."""
        ...


@runtime_checkable
class Dome(Device, Protocol):
    """A dome or roll-off roof. Calls return when the motion has begun; `status` tells when it is over."""

    async def status(self, *, deadline_s: float) -> DomeStatus: ...
    async def open_shutter(self, *, deadline_s: float) -> None: ...
    async def close_shutter(self, *, deadline_s: float) -> None:
        """Begin to close, on the second connection; repeated once on a new socket when the first was refused."""
        ...

    async def slew_to_azimuth(self, azimuth_deg: float, *, deadline_s: float) -> None: ...
    async def abort_slew(self, *, deadline_s: float) -> None:
        """Stop rotation and shutter; ends slaving."""
        ...

    async def find_home(self, *, deadline_s: float) -> None: ...
    async def park(self, *, deadline_s: float) -> None: ...
    async def sync_to_azimuth(self, azimuth_deg: float, *, deadline_s: float) -> None: ...
    async def set_slaved(self, *, slaved: bool, deadline_s: float) -> None: ...


@runtime_checkable
class Mount(Device, Protocol):
    """A telescope mount (ASCOM Telescope). Coordinates in its own system: see `MountFacts.equatorial_system`."""

    async def status(self, *, deadline_s: float) -> MountStatus: ...
    async def facts(self, *, deadline_s: float) -> MountFacts: ...
    async def slew_to_coordinates(self, right_ascension_h: float, declination_deg: float, *, deadline_s: float) -> None:
        """SlewToCoordinatesAsync; tracking must be on."""
        ...

    async def slew_to_alt_az(self, altitude_deg: float, azimuth_deg: float, *, deadline_s: float) -> None:
        """SlewToAltAzAsync; tracking must be off."""
        ...

    async def destination_side_of_pier(self, right_ascension_h: float, declination_deg: float, *, deadline_s: float) -> PierSide: ...
    async def sync_to_coordinates(self, right_ascension_h: float, declination_deg: float, *, deadline_s: float) -> None: ...
    async def set_tracking(self, *, tracking: bool, deadline_s: float) -> None: ...
    async def abort_slew(self, *, deadline_s: float) -> None: ...
    async def park(self, *, deadline_s: float) -> None: ...
    async def unpark(self, *, deadline_s: float) -> None: ...
    async def find_home(self, *, deadline_s: float) -> None: ...
    async def pulse_guide(self, direction: GuideDirection, duration_ms: int, *, deadline_s: float) -> None: ...


@runtime_checkable
class Camera(Device, Protocol):
    """A camera."""

    async def status(self, *, deadline_s: float) -> CameraStatus: ...
    async def facts(self, *, deadline_s: float) -> CameraFacts: ...
    async def set_window(
        self, *, bin_x: int = 1, bin_y: int = 1, start_x: int = 0, start_y: int = 0, num_x: int, num_y: int, deadline_s: float
    ) -> None:
        """Binning and window; start and size in binned pixels."""
        ...

    async def start_exposure(self, exposure_s: float, *, light: bool, deadline_s: float) -> None:
        """Begin; never repeated by the driver. `light` False keeps the camera shutter closed (bias, dark)."""
        ...

    async def stop_exposure(self, *, deadline_s: float) -> None:
        """End early and keep the data."""
        ...

    async def abort_exposure(self, *, deadline_s: float) -> None: ...
    async def read_image(self, *, deadline_s: float) -> CameraImage:
        """The finished image. Half an image is `DeviceLost`; nothing partial is returned."""
        ...

    async def set_cooler(self, *, on: bool, target_degc: float | None = None, deadline_s: float) -> None: ...
    async def set_gain(self, gain: int, *, deadline_s: float) -> None: ...
    async def set_offset(self, offset: int, *, deadline_s: float) -> None: ...
    async def set_readout_mode(self, readout_mode: int, *, deadline_s: float) -> None: ...


@runtime_checkable
class FilterWheel(Device, Protocol):
    """A filter wheel; slots count from 0."""

    async def status(self, *, deadline_s: float) -> FilterWheelStatus: ...
    async def facts(self, *, deadline_s: float) -> FilterWheelFacts: ...
    async def set_position(self, position: int, *, deadline_s: float) -> None: ...


@runtime_checkable
class Focuser(Device, Protocol):
    """A focuser."""

    async def status(self, *, deadline_s: float) -> FocuserStatus: ...
    async def facts(self, *, deadline_s: float) -> FocuserFacts: ...
    async def move(self, position: int, *, deadline_s: float) -> None:
        """To a position; of a relative focuser by so many steps, then never repeated."""
        ...

    async def halt(self, *, deadline_s: float) -> None: ...


@runtime_checkable
class CoverCalibrator(Device, Protocol):
    """Mirror cover and flat lamp."""

    async def status(self, *, deadline_s: float) -> CoverCalibratorStatus: ...
    async def open_cover(self, *, deadline_s: float) -> None: ...
    async def close_cover(self, *, deadline_s: float) -> None: ...
    async def halt_cover(self, *, deadline_s: float) -> None: ...
    async def calibrator_on(self, brightness: int, *, deadline_s: float) -> None: ...
    async def calibrator_off(self, *, deadline_s: float) -> None: ...


@runtime_checkable
class Weather(Device, Protocol):
    """ObservingConditions: a weather station and sky sensors."""

    async def status(self, *, deadline_s: float) -> WeatherStatus: ...


@runtime_checkable
class SafetyMonitor(Device, Protocol):
    """One bit from elsewhere. An error or silence is unsafe."""

    async def status(self, *, deadline_s: float) -> SafetyMonitorStatus: ...


@runtime_checkable
class Switch(Device, Protocol):
    """Relays and levels."""

    async def status(self, *, deadline_s: float) -> SwitchStatus: ...
    async def set_switch(self, number: int, *, on: bool, deadline_s: float) -> None: ...
    async def set_switch_value(self, number: int, value: float, *, deadline_s: float) -> None: ...
