"""One adapter per device: the Protocols of devices.protocols over Alpaca."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterable
from enum import IntEnum
from typing import Any, ClassVar, TypeVar

from nightbell.contracts.errors import BadInput, DeviceFault, DeviceLied
from nightbell.contracts.instants import parse_utc
from nightbell.devices.alpaca.client import AlpacaClient
from nightbell.devices.faults import NotImplementedByDevice
from nightbell.devices.protocols import (
    AlignmentMode,
    CalibratorState,
    CameraFacts,
    CameraImage,
    CameraState,
    CameraStatus,
    CoverCalibratorStatus,
    CoverState,
    DomeStatus,
    EquatorialSystem,
    FilterWheelFacts,
    FilterWheelStatus,
    FocuserFacts,
    FocuserStatus,
    GuideDirection,
    Identity,
    MountFacts,
    MountStatus,
    PierSide,
    SafetyMonitorStatus,
    ShutterState,
    SwitchStatus,
    WeatherStatus,
)
from nightbell.devices.registry import WorldClock
from nightbell.devices.settings import DeviceSettings

__all__ = ["open_device"]

E = TypeVar("E", bound=IntEnum)
CONNECTING_POLL_S = 0.1


class _Values:
    """What one reading brought: member (lower case) -> value; typed on the way out, with the device and member in every refusal."""

    def __init__(self, device: str, values: dict[str, Any]) -> None:
        self._device = device
        self._values = values

    def _lied(self, member: str, value: object, wanted: str) -> DeviceLied:
        return DeviceLied(f"{value!r} is no {wanted}", where=f"{self._device}.{member}", remedy="Look at the driver")

    def raw(self, member: str) -> Any:
        return self._values.get(member.lower())

    def need(self, member: str) -> Any:
        value = self.raw(member)
        if value is None:
            raise self._lied(member, None, "value")
        return value

    def number(self, member: str, low: float = -math.inf, high: float = math.inf) -> float:
        value = self.need(member)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or not low <= value <= high:
            raise self._lied(member, value, f"number from {low:g} to {high:g}")
        return float(value)

    def maybe_number(self, member: str, low: float = -math.inf, high: float = math.inf) -> float | None:
        return None if self.raw(member) is None else self.number(member, low, high)

    def whole(self, member: str, low: float = -(2**31), high: float = 2**32) -> int:
        value = self.number(member, low, high)
        if value != int(value):
            raise self._lied(member, value, "whole number")
        return int(value)

    def maybe_whole(self, member: str) -> int | None:
        return None if self.raw(member) is None else self.whole(member)

    def true(self, member: str) -> bool:
        value = self.need(member)
        if not isinstance(value, bool):
            raise self._lied(member, value, "truth value")
        return value

    def maybe_true(self, member: str) -> bool | None:
        return None if self.raw(member) is None else self.true(member)

    def text(self, member: str) -> str:
        value = self.raw(member)
        return value if isinstance(value, str) else ""

    def one_of(self, kind: type[E], member: str) -> E:
        value = self.whole(member)
        try:
            return kind(value)
        except ValueError as error:
            raise self._lied(member, value, kind.__name__) from error


def _check(value: float, low: float, high: float, where: str) -> None:
    if not (math.isfinite(value) and low <= value <= high):
        raise BadInput(f"{value:g} is outside {low:g} to {high:g}", where=where, remedy="Nothing was sent: give a value in this range")


class _AlpacaDevice:
    """What all adapters share: connecting, reading several members at one instant."""

    device_type: ClassVar[str]
    state_since: ClassVar[int]
    """Interface version from which DeviceState exists."""

    def __init__(self, name: str, config: DeviceSettings, clock: WorldClock) -> None:
        self.name = name
        self.config = config
        self._clock = clock
        self._client = AlpacaClient(
            host=config.host,
            port=config.port,
            device_type=self.device_type,
            number=config.number,
            name=name,
            client_id=config.client_id,
        )
        self._client.reconnect_with(self._connect_again)
        self._interface_version: int | None = None
        self._wanted = False

    @property
    def default_deadline_s(self) -> float:
        return self.config.deadline_s

    async def aclose(self) -> None:
        self._client.close()

    async def connect(self, *, deadline_s: float) -> Identity:
        end = time.monotonic() + deadline_s
        await self._check_unique_id(end)
        self._wanted = True
        await self._connect_again(end)
        said = await self._read(("Name", "Description", "DriverInfo", "DriverVersion"), end, optional=True)
        return Identity(
            name=said.text("Name"),
            description=said.text("Description"),
            driver_info=said.text("DriverInfo"),
            driver_version=said.text("DriverVersion"),
            interface_version=self._interface_version or 1,
            unique_id=self.config.unique_id,
        )

    async def _check_unique_id(self, end: float) -> None:
        if not self.config.unique_id:
            return
        devices = await self._client.get_raw("/management/v1/configureddevices", end=end)
        for row in devices if isinstance(devices, list) else ():
            same_place = row.get("DeviceNumber") == self.config.number and str(row.get("DeviceType", "")).lower() == self.device_type
            if same_place and row.get("UniqueID") == self.config.unique_id:
                return
        raise DeviceLied(
            f"{self.device_type} {self.config.number} there is not {self.config.unique_id!r}",
            where=self.name,
            remedy="Device numbers move when a driver is added: see `nightbell devices find` and correct number or unique_id",
        )

    async def _connect_again(self, end: float) -> None:
        if not self._wanted:
            return
        version = _Values(self.name, {"interfaceversion": await self._client.get("InterfaceVersion", end=end)}).whole("InterfaceVersion")
        self._interface_version = version
        if version >= self.state_since:
            try:
                await self._client.put("Connect", end=end, again=True)
            except NotImplementedByDevice:
                await self._client.put("Connected", end=end, again=True, Connected=True)
            else:
                while await self._client.get("Connecting", end=end) is True:  # noqa: ASYNC110 - the other side is hardware
                    await asyncio.sleep(CONNECTING_POLL_S)
        else:
            await self._client.put("Connected", end=end, again=True, Connected=True)
        if await self._client.get("Connected", end=end) is not True:
            raise DeviceLied("connected without an error, yet Connected is not true", where=self.name, remedy="Look at the driver's log")

    async def _read(self, members: Iterable[str], end: float, *, optional: bool = False) -> _Values:
        """The members one by one. `optional`: what the device refuses is absent instead of an error."""
        values: dict[str, Any] = {}
        for member in members:
            try:
                values[member.lower()] = await self._client.get(member, end=end)
            except DeviceFault:
                if not optional:
                    raise
        return _Values(self.name, values)

    async def _state(self, needed: Iterable[str], wanted: Iterable[str], deadline_s: float) -> tuple[dict[str, int], _Values]:
        """(stamps, values): by DeviceState in one call where it exists; what is needed and not in it is asked for by name."""
        end = time.monotonic() + deadline_s
        stamps = {"read_at_ns": self._clock.now_ns(), "read_monotonic_ns": time.monotonic_ns()}
        if self._interface_version is None:
            self._interface_version = int(await self._client.get("InterfaceVersion", end=end))
        values: dict[str, Any] = {}
        if self._interface_version >= self.state_since:
            table = await self._client.get("DeviceState", end=end)
            if not isinstance(table, list):
                raise DeviceLied(f"DeviceState is {type(table).__name__}", where=self.name, remedy="Look at the driver")
            values = {str(row["Name"]).lower(): row.get("Value") for row in table if isinstance(row, dict) and "Name" in row}
        else:
            for member in wanted:
                try:
                    values[member.lower()] = await self._client.get(member, end=end)
                except DeviceFault:
                    continue  # absent: None in the record
        for member in needed:
            if values.get(member.lower()) is None:
                values[member.lower()] = await self._client.get(member, end=end)
        return stamps, _Values(self.name, values)

    async def _put(self, member: str, deadline_s: float, *, urgent: bool = False, again: bool = False, **fields: object) -> None:
        await self._client.put(member, end=time.monotonic() + deadline_s, urgent=urgent, again=again, **fields)


class AlpacaDome(_AlpacaDevice):
    """Dome over Alpaca."""

    device_type = "dome"
    state_since = 3

    async def status(self, *, deadline_s: float) -> DomeStatus:
        stamps, said = await self._state(("ShutterStatus", "Slewing"), ("Azimuth", "Altitude", "AtHome", "AtPark", "Slaved"), deadline_s)
        return DomeStatus(
            **stamps,
            azimuth_deg=said.maybe_number("Azimuth", 0.0, 360.0),
            altitude_deg=said.maybe_number("Altitude", -90.0, 90.0),
            shutter=said.one_of(ShutterState, "ShutterStatus"),
            slewing=said.true("Slewing"),
            at_home=said.maybe_true("AtHome"),
            at_park=said.maybe_true("AtPark"),
            slaved=said.maybe_true("Slaved"),
        )

    async def open_shutter(self, *, deadline_s: float) -> None:
        await self._put("OpenShutter", deadline_s)

    async def close_shutter(self, *, deadline_s: float) -> None:
        await self._put("CloseShutter", deadline_s, urgent=True, again=True)

    async def slew_to_azimuth(self, azimuth_deg: float, *, deadline_s: float) -> None:
        _check(azimuth_deg, 0.0, 360.0, f"{self.name}.SlewToAzimuth")
        await self._put("SlewToAzimuth", deadline_s, Azimuth=azimuth_deg % 360.0)

    async def abort_slew(self, *, deadline_s: float) -> None:
        await self._put("AbortSlew", deadline_s, urgent=True, again=True)

    async def find_home(self, *, deadline_s: float) -> None:
        await self._put("FindHome", deadline_s)

    async def park(self, *, deadline_s: float) -> None:
        await self._put("Park", deadline_s, again=True)

    async def sync_to_azimuth(self, azimuth_deg: float, *, deadline_s: float) -> None:
        _check(azimuth_deg, 0.0, 360.0, f"{self.name}.SyncToAzimuth")
        await self._put("SyncToAzimuth", deadline_s, Azimuth=azimuth_deg % 360.0)

    async def set_slaved(self, *, slaved: bool, deadline_s: float) -> None:
        await self._put("Slaved", deadline_s, again=True, Slaved=slaved)


class AlpacaMount(_AlpacaDevice):
    """Telescope over Alpaca."""

    device_type = "telescope"
    state_since = 4

    async def status(self, *, deadline_s: float) -> MountStatus:
        stamps, said = await self._state(
            ("RightAscension", "Declination", "Tracking", "Slewing", "AtPark"),
            ("Altitude", "Azimuth", "SiderealTime", "AtHome", "SideOfPier"),
            deadline_s,
        )
        return MountStatus(
            **stamps,
            right_ascension_h=said.number("RightAscension", 0.0, 24.0),
            declination_deg=said.number("Declination", -90.0, 90.0),
            altitude_deg=said.maybe_number("Altitude", -90.0, 90.0),
            azimuth_deg=said.maybe_number("Azimuth", 0.0, 360.0),
            sidereal_time_h=said.maybe_number("SiderealTime", 0.0, 24.0),
            tracking=said.true("Tracking"),
            slewing=said.true("Slewing"),
            at_park=said.true("AtPark"),
            at_home=said.maybe_true("AtHome"),
            side_of_pier=PierSide.UNKNOWN if said.raw("SideOfPier") is None else said.one_of(PierSide, "SideOfPier"),
        )

    async def facts(self, *, deadline_s: float) -> MountFacts:
        end = time.monotonic() + deadline_s
        said = await self._read(("EquatorialSystem", "AlignmentMode"), end)
        site = await self._read(("SiteLatitude", "SiteLongitude", "SiteElevation", "SlewSettleTime"), end, optional=True)
        return MountFacts(
            equatorial_system=said.one_of(EquatorialSystem, "EquatorialSystem"),
            alignment_mode=said.one_of(AlignmentMode, "AlignmentMode"),
            site_latitude_deg=site.maybe_number("SiteLatitude", -90.0, 90.0),
            site_longitude_deg=site.maybe_number("SiteLongitude", -180.0, 180.0),
            site_elevation_m=site.maybe_number("SiteElevation", -500.0, 10000.0),
            slew_settle_time_s=site.maybe_number("SlewSettleTime", 0.0),
        )

    def _check_coordinates(self, right_ascension_h: float, declination_deg: float, member: str) -> None:
        _check(right_ascension_h, 0.0, 24.0, f"{self.name}.{member} RightAscension")
        _check(declination_deg, -90.0, 90.0, f"{self.name}.{member} Declination")

    async def slew_to_coordinates(self, right_ascension_h: float, declination_deg: float, *, deadline_s: float) -> None:
        self._check_coordinates(right_ascension_h, declination_deg, "SlewToCoordinatesAsync")
        await self._put("SlewToCoordinatesAsync", deadline_s, RightAscension=right_ascension_h % 24.0, Declination=declination_deg)

    async def slew_to_alt_az(self, altitude_deg: float, azimuth_deg: float, *, deadline_s: float) -> None:
        _check(altitude_deg, -90.0, 90.0, f"{self.name}.SlewToAltAzAsync Altitude")
        _check(azimuth_deg, 0.0, 360.0, f"{self.name}.SlewToAltAzAsync Azimuth")
        await self._put("SlewToAltAzAsync", deadline_s, Azimuth=azimuth_deg % 360.0, Altitude=altitude_deg)

    async def destination_side_of_pier(self, right_ascension_h: float, declination_deg: float, *, deadline_s: float) -> PierSide:
        self._check_coordinates(right_ascension_h, declination_deg, "DestinationSideOfPier")
        end = time.monotonic() + deadline_s
        value = await self._client.get(
            "DestinationSideOfPier", end=end, RightAscension=right_ascension_h % 24.0, Declination=declination_deg
        )
        return _Values(self.name, {"destinationsideofpier": value}).one_of(PierSide, "DestinationSideOfPier")

    async def sync_to_coordinates(self, right_ascension_h: float, declination_deg: float, *, deadline_s: float) -> None:
        self._check_coordinates(right_ascension_h, declination_deg, "SyncToCoordinates")
        await self._put("SyncToCoordinates", deadline_s, RightAscension=right_ascension_h % 24.0, Declination=declination_deg)

    async def set_tracking(self, *, tracking: bool, deadline_s: float) -> None:
        await self._put("Tracking", deadline_s, urgent=not tracking, again=not tracking, Tracking=tracking)

    async def abort_slew(self, *, deadline_s: float) -> None:
        await self._put("AbortSlew", deadline_s, urgent=True, again=True)

    async def park(self, *, deadline_s: float) -> None:
        await self._put("Park", deadline_s, urgent=True, again=True)

    async def unpark(self, *, deadline_s: float) -> None:
        await self._put("Unpark", deadline_s)

    async def find_home(self, *, deadline_s: float) -> None:
        await self._put("FindHome", deadline_s)

    async def pulse_guide(self, direction: GuideDirection, duration_ms: int, *, deadline_s: float) -> None:
        _check(duration_ms, 0, 60000, f"{self.name}.PulseGuide Duration")
        await self._put("PulseGuide", deadline_s, Direction=int(direction), Duration=duration_ms)


class AlpacaCamera(_AlpacaDevice):
    """Camera over Alpaca."""

    device_type = "camera"
    state_since = 4

    async def status(self, *, deadline_s: float) -> CameraStatus:
        end = time.monotonic() + deadline_s
        stamps, said = await self._state(
            ("CameraState", "ImageReady"), ("PercentCompleted", "CCDTemperature", "CoolerPower", "CoolerOn"), deadline_s
        )
        cooler = said if said.raw("CoolerOn") is not None else await self._read(("CoolerOn",), end, optional=True)
        return CameraStatus(
            **stamps,
            camera_state=said.one_of(CameraState, "CameraState"),
            image_ready=said.true("ImageReady"),
            percent_completed=said.maybe_number("PercentCompleted"),
            ccd_temperature_degc=said.maybe_number("CCDTemperature"),
            cooler_on=cooler.maybe_true("CoolerOn"),
            cooler_power_percent=said.maybe_number("CoolerPower"),
        )

    async def facts(self, *, deadline_s: float) -> CameraFacts:
        end = time.monotonic() + deadline_s
        said = await self._read(("CameraXSize", "CameraYSize"), end)
        more = await self._read(
            (
                *("MaxBinX", "MaxBinY", "PixelSizeX", "PixelSizeY", "ElectronsPerADU", "FullWellCapacity", "MaxADU"),
                *("ExposureMin", "ExposureMax", "ExposureResolution", "HasShutter", "CanAbortExposure", "CanSetCCDTemperature"),
                *("SensorName", "Gain", "Offset", "ReadoutMode"),
            ),
            end,
            optional=True,
        )
        values: dict[str, Any] = {
            "max_bin_x": more.maybe_whole("MaxBinX"),
            "max_bin_y": more.maybe_whole("MaxBinY"),
            "pixel_size_x_um": more.maybe_number("PixelSizeX", 0.0),
            "pixel_size_y_um": more.maybe_number("PixelSizeY", 0.0),
            "electrons_per_adu": more.maybe_number("ElectronsPerADU", 0.0),
            "full_well_e": more.maybe_number("FullWellCapacity", 0.0),
            "max_adu": more.maybe_whole("MaxADU"),
            "exposure_min_s": more.maybe_number("ExposureMin", 0.0),
            "exposure_max_s": more.maybe_number("ExposureMax", 0.0),
            "exposure_resolution_s": more.maybe_number("ExposureResolution", 0.0),
            "has_shutter": more.maybe_true("HasShutter"),
            "can_abort_exposure": more.maybe_true("CanAbortExposure"),
            "can_set_ccd_temperature": more.maybe_true("CanSetCCDTemperature"),
            "sensor_name": more.text("SensorName"),
            "gain": more.maybe_whole("Gain"),
            "offset": more.maybe_whole("Offset"),
            "readout_mode": more.maybe_whole("ReadoutMode"),
        }
        return CameraFacts(
            camera_x_size_px=said.whole("CameraXSize", 1),
            camera_y_size_px=said.whole("CameraYSize", 1),
            **{key: value for key, value in values.items() if value is not None},
        )

    async def set_window(
        self, *, bin_x: int = 1, bin_y: int = 1, start_x: int = 0, start_y: int = 0, num_x: int, num_y: int, deadline_s: float
    ) -> None:
        end = time.monotonic() + deadline_s
        # Binning first: start and size are in binned pixels.
        for member, value, low in (
            *(("BinX", bin_x, 1), ("BinY", bin_y, 1), ("StartX", start_x, 0)),
            *(("StartY", start_y, 0), ("NumX", num_x, 1), ("NumY", num_y, 1)),
        ):
            _check(value, low, 2**31 - 1, f"{self.name}.{member}")
            field: dict[str, Any] = {member: value}
            await self._client.put(member, end=end, again=True, **field)

    async def start_exposure(self, exposure_s: float, *, light: bool, deadline_s: float) -> None:
        _check(exposure_s, 0.0, 86400.0, f"{self.name}.StartExposure Duration")
        await self._put("StartExposure", deadline_s, Duration=float(exposure_s), Light=light)

    async def stop_exposure(self, *, deadline_s: float) -> None:
        await self._put("StopExposure", deadline_s, urgent=True, again=True)

    async def abort_exposure(self, *, deadline_s: float) -> None:
        await self._put("AbortExposure", deadline_s, urgent=True, again=True)

    async def read_image(self, *, deadline_s: float) -> CameraImage:
        # numpy is loaded here and not above: dome and weather go without it.
        from nightbell.devices.alpaca.imagebytes import decode_image, decode_json_image  # noqa: PLC0415

        end = time.monotonic() + deadline_s
        where = f"{self.name}.ImageArray"
        said = await self._read(("LastExposureDuration",), end)
        more = await self._read(("LastExposureStartTime",), end, optional=True)
        answer = await self._client.image(end=end)
        if "application/imagebytes" in answer.content_type:
            pixels = decode_image(answer.body, where=where)
        else:
            pixels = decode_json_image(self._client.open_answer(answer, where), where=where)
        started = more.text("LastExposureStartTime")
        return CameraImage(
            pixels=pixels,
            exposure_s=said.number("LastExposureDuration", 0.0),
            started_at_ns=parse_utc(started, where=f"{self.name}.LastExposureStartTime") if started else None,
        )

    async def set_cooler(self, *, on: bool, target_degc: float | None = None, deadline_s: float) -> None:
        end = time.monotonic() + deadline_s
        if target_degc is not None:
            _check(target_degc, -273.15, 50.0, f"{self.name}.SetCCDTemperature")
            await self._client.put("SetCCDTemperature", end=end, again=True, SetCCDTemperature=float(target_degc))
        await self._client.put("CoolerOn", end=end, again=True, CoolerOn=on)

    async def set_gain(self, gain: int, *, deadline_s: float) -> None:
        await self._put("Gain", deadline_s, again=True, Gain=gain)

    async def set_offset(self, offset: int, *, deadline_s: float) -> None:
        await self._put("Offset", deadline_s, again=True, Offset=offset)

    async def set_readout_mode(self, readout_mode: int, *, deadline_s: float) -> None:
        await self._put("ReadoutMode", deadline_s, again=True, ReadoutMode=readout_mode)


class AlpacaFilterWheel(_AlpacaDevice):
    """FilterWheel over Alpaca."""

    device_type = "filterwheel"
    state_since = 3

    async def status(self, *, deadline_s: float) -> FilterWheelStatus:
        stamps, said = await self._state(("Position",), (), deadline_s)
        position = said.whole("Position", -1)
        return FilterWheelStatus(**stamps, position=None if position < 0 else position)

    async def facts(self, *, deadline_s: float) -> FilterWheelFacts:
        end = time.monotonic() + deadline_s
        said = await self._read(("Names",), end)
        more = await self._read(("FocusOffsets",), end, optional=True)
        return FilterWheelFacts(
            names=tuple(str(name) for name in said.need("Names")),
            focus_offsets=tuple(int(offset) for offset in more.raw("FocusOffsets") or ()),
        )

    async def set_position(self, position: int, *, deadline_s: float) -> None:
        _check(position, 0, 255, f"{self.name}.Position")
        await self._put("Position", deadline_s, again=True, Position=position)


class AlpacaFocuser(_AlpacaDevice):
    """Focuser over Alpaca."""

    device_type = "focuser"
    state_since = 4

    async def status(self, *, deadline_s: float) -> FocuserStatus:
        stamps, said = await self._state(("IsMoving",), ("Position", "Temperature"), deadline_s)
        return FocuserStatus(
            **stamps,
            position=said.maybe_whole("Position"),
            is_moving=said.true("IsMoving"),
            temperature_degc=said.maybe_number("Temperature"),
        )

    async def facts(self, *, deadline_s: float) -> FocuserFacts:
        end = time.monotonic() + deadline_s
        said = await self._read(("Absolute", "MaxStep"), end)
        more = await self._read(("StepSize",), end, optional=True)
        return FocuserFacts(absolute=said.true("Absolute"), max_step=said.whole("MaxStep"), step_size_um=more.maybe_number("StepSize", 0.0))

    async def move(self, position: int, *, deadline_s: float) -> None:
        _check(position, -(2**31), 2**31 - 1, f"{self.name}.Move")
        await self._put("Move", deadline_s, Position=position)

    async def halt(self, *, deadline_s: float) -> None:
        await self._put("Halt", deadline_s, urgent=True, again=True)


class AlpacaCoverCalibrator(_AlpacaDevice):
    """CoverCalibrator over Alpaca."""

    device_type = "covercalibrator"
    state_since = 2

    async def status(self, *, deadline_s: float) -> CoverCalibratorStatus:
        stamps, said = await self._state(("CoverState", "CalibratorState"), ("Brightness",), deadline_s)
        return CoverCalibratorStatus(
            **stamps,
            cover_state=said.one_of(CoverState, "CoverState"),
            calibrator_state=said.one_of(CalibratorState, "CalibratorState"),
            brightness=said.maybe_whole("Brightness"),
        )

    async def open_cover(self, *, deadline_s: float) -> None:
        await self._put("OpenCover", deadline_s)

    async def close_cover(self, *, deadline_s: float) -> None:
        await self._put("CloseCover", deadline_s, urgent=True, again=True)

    async def halt_cover(self, *, deadline_s: float) -> None:
        await self._put("HaltCover", deadline_s, urgent=True, again=True)

    async def calibrator_on(self, brightness: int, *, deadline_s: float) -> None:
        _check(brightness, 0, 2**31 - 1, f"{self.name}.CalibratorOn")
        await self._put("CalibratorOn", deadline_s, again=True, Brightness=brightness)

    async def calibrator_off(self, *, deadline_s: float) -> None:
        await self._put("CalibratorOff", deadline_s, again=True)


_SENSORS = {
    "CloudCover": ("cloud_cover_percent", 0.0, 100.0),
    "DewPoint": ("dew_point_degc", -120.0, 80.0),
    "Humidity": ("humidity_percent", 0.0, 100.0),
    "Pressure": ("pressure_hpa", 300.0, 1200.0),
    "RainRate": ("rain_rate_mm_per_h", 0.0, 1e4),
    "SkyBrightness": ("sky_brightness_lux", 0.0, 1e6),
    "SkyQuality": ("sky_quality_mag_per_arcsec2", -30.0, 30.0),
    "SkyTemperature": ("sky_temperature_degc", -150.0, 100.0),
    "StarFWHM": ("star_fwhm_arcsec", 0.0, 1000.0),
    "Temperature": ("temperature_degc", -100.0, 80.0),
    "WindDirection": ("wind_direction_deg", 0.0, 360.0),
    "WindGust": ("wind_gust_m_per_s", 0.0, 200.0),
    "WindSpeed": ("wind_speed_m_per_s", 0.0, 200.0),
}
_AGED = ("RainRate", "WindSpeed", "Humidity", "Temperature")
"""Sensors whose own age is asked for, where the driver tells it; the others share their stations."""


class AlpacaWeather(_AlpacaDevice):
    """ObservingConditions over Alpaca."""

    device_type = "observingconditions"
    state_since = 2

    def __init__(self, name: str, config: DeviceSettings, clock: WorldClock) -> None:
        super().__init__(name, config, clock)
        self._ageless: set[str] = set()

    async def status(self, *, deadline_s: float) -> WeatherStatus:
        end = time.monotonic() + deadline_s
        stamps, said = await self._state((), _SENSORS, deadline_s)
        values: dict[str, Any] = {}
        for member, (field, low, high) in _SENSORS.items():
            value = said.maybe_number(member, low, high)
            if value is not None:
                values[field] = value
        ages = await self._ages(values, end)
        for field, age_s in ages.items():
            if age_s < 0:  # never updated: what it says was never measured
                values.pop(field, None)
        if not values:
            raise DeviceLied("the weather station tells nothing at all", where=self.name, remedy="Look at the station")
        return WeatherStatus(**stamps, **values, sensor_age_s={field: age_s for field, age_s in ages.items() if age_s >= 0})

    async def _ages(self, values: dict[str, Any], end: float) -> dict[str, float]:
        """TimeSinceLastUpdate by field, for those sensors that tell it."""
        ages: dict[str, float] = {}
        for member in ("", *_AGED):
            field = _SENSORS[member][0] if member else ""
            if member in self._ageless or (member and field not in values):
                continue
            try:
                value = await self._client.get("TimeSinceLastUpdate", end=end, SensorName=member)
            except NotImplementedByDevice:
                self._ageless.add(member)
                continue
            ages[field] = _Values(self.name, {"timesincelastupdate": value}).number("TimeSinceLastUpdate")
        return ages


class AlpacaSafetyMonitor(_AlpacaDevice):
    """SafetyMonitor over Alpaca."""

    device_type = "safetymonitor"
    state_since = 3

    async def status(self, *, deadline_s: float) -> SafetyMonitorStatus:
        stamps, said = await self._state(("IsSafe",), (), deadline_s)
        return SafetyMonitorStatus(**stamps, is_safe=said.true("IsSafe"))


class AlpacaSwitch(_AlpacaDevice):
    """Switch over Alpaca."""

    device_type = "switch"
    state_since = 3

    async def status(self, *, deadline_s: float) -> SwitchStatus:
        end = time.monotonic() + deadline_s
        stamps = {"read_at_ns": self._clock.now_ns(), "read_monotonic_ns": time.monotonic_ns()}
        n = (await self._read(("MaxSwitch",), end)).whole("MaxSwitch", 0, 1000)
        names: list[str] = []
        values: list[float | None] = []
        for number in range(n):
            names.append(str(await self._client.get("GetSwitchName", end=end, Id=number)))
            try:
                values.append(float(await self._client.get("GetSwitchValue", end=end, Id=number)))
            except (DeviceFault, TypeError, ValueError):
                values.append(None)
        return SwitchStatus(**stamps, names=tuple(names), values=tuple(values))

    async def set_switch(self, number: int, *, on: bool, deadline_s: float) -> None:
        _check(number, 0, 1000, f"{self.name}.SetSwitch")
        await self._put("SetSwitch", deadline_s, again=True, Id=number, State=on)

    async def set_switch_value(self, number: int, value: float, *, deadline_s: float) -> None:
        _check(number, 0, 1000, f"{self.name}.SetSwitchValue")
        await self._put("SetSwitchValue", deadline_s, again=True, Id=number, Value=float(value))


_ADAPTERS: dict[str, type[_AlpacaDevice]] = {
    "dome": AlpacaDome,
    "mount": AlpacaMount,
    "camera": AlpacaCamera,
    "filter_wheel": AlpacaFilterWheel,
    "focuser": AlpacaFocuser,
    "cover_calibrator": AlpacaCoverCalibrator,
    "weather": AlpacaWeather,
    "safety_monitor": AlpacaSafetyMonitor,
    "switch": AlpacaSwitch,
}


def open_device(kind: str, name: str, config: DeviceSettings, clock: WorldClock) -> Any:
    """The adapter for `kind` (checked by the registry), not yet connected."""
    return _ADAPTERS[kind](name, config, clock)
