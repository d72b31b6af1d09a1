"""The world as ASCOM devices: one table of members per device. What a row does not allow is an ASCOM error with its number."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from nightbell.contracts.instants import format_utc
from nightbell.simulator.motion import difference_deg
from nightbell.simulator.optics import Window
from nightbell.simulator.parts import CoverSim, FocuserSim
from nightbell.simulator.sky import altitude_azimuth
from nightbell.simulator.world import World

__all__ = ["AlpacaError", "Member", "View", "views_of"]

NOT_IMPLEMENTED, INVALID_VALUE, VALUE_NOT_SET, NOT_CONNECTED = 0x400, 0x401, 0x402, 0x407
PARKED, SLAVED, INVALID_OPERATION, NO_ACTION = 0x408, 0x409, 0x40B, 0x40C


class AlpacaError(Exception):
    """An ASCOM error: HTTP 200 with this number and these words."""

    def __init__(self, number: int, words: str) -> None:
        super().__init__(words)
        self.number = number
        self.words = words


Parameters = tuple[tuple[str, type], ...]


@dataclass(frozen=True)
class Member:
    """One property or method. `get` and `put` take the parsed parameters in order."""

    get: Callable[..., Any] | None = None
    put: Callable[..., Any] | None = None
    get_with: Parameters = ()
    put_with: Parameters = ()
    unconnected: bool = False
    """Answers without a connection to the hardware."""


@dataclass
class View:
    """One device as the server shows it."""

    kind: str
    name: str
    unique_id: str
    version: int
    members: dict[str, Member]
    state: tuple[str, ...]
    """What DeviceState holds."""
    connected: bool = False
    on_restart: Callable[[], None] = field(default=lambda: None)

    def __post_init__(self) -> None:
        self.members = {
            **{name.lower(): member for name, member in self._common().items()},
            **{name.lower(): member for name, member in self.members.items()},
        }

    def _set_connected(self, on: bool) -> None:  # noqa: FBT001 - ASCOM's own signature
        self.connected = on

    def _no_action(self, *_: object) -> None:
        raise AlpacaError(NO_ACTION, "there are no actions here")

    def _no_command(self, *_: object) -> None:
        raise AlpacaError(NOT_IMPLEMENTED, "raw commands are not supported")

    def _common(self) -> dict[str, Member]:
        def always(value: Any) -> Member:
            return Member(get=lambda: value, unconnected=True)

        raw: Parameters = (("Command", str), ("Raw", bool))
        return {
            "Connect": Member(put=lambda: self._set_connected(True), unconnected=True),
            "Disconnect": Member(put=lambda: self._set_connected(False), unconnected=True),
            "Connecting": always(False),
            "Connected": Member(get=lambda: self.connected, put=self._set_connected, put_with=(("Connected", bool),), unconnected=True),
            "Name": always(self.name),
            "Description": always(f"{self.name} of a simulated observatory"),
            "DriverInfo": always("nightbell simulator"),
            "DriverVersion": always("1.0"),
            "InterfaceVersion": always(self.version),
            "SupportedActions": always([]),
            "Action": Member(put=self._no_action, put_with=(("Action", str), ("Parameters", str)), unconnected=True),
            "CommandBlind": Member(put=self._no_command, put_with=raw, unconnected=True),
            "CommandBool": Member(put=self._no_command, put_with=raw, unconnected=True),
            "CommandString": Member(put=self._no_command, put_with=raw, unconnected=True),
        }


def _fixed(values: Mapping[str, Any]) -> dict[str, Member]:
    return {name: Member(get=lambda value=value: value) for name, value in values.items()}


def _absent(*names: str) -> dict[str, Member]:
    """Members that exist in the interface and not in this device."""

    def refuse(*_: object) -> None:
        raise AlpacaError(NOT_IMPLEMENTED, "this device does not have it")

    return {name: Member(get=refuse, put=refuse) for name in names}


def _within(value: float, low: float, high: float, name: str, *, below: bool = False) -> None:
    if not (low <= value <= high) or (below and value == high):
        raise AlpacaError(INVALID_VALUE, f"{name} {value:g} is outside {low:g} to {high:g}")


def views_of(world: World) -> dict[str, View]:
    """All devices, each number 0 of its type."""
    makers = (_telescope, _dome, _camera, _filter_wheel, _focuser, _cover, _weather, _safety, _switch, _rotator)
    return {view.kind: view for view in (make(world) for make in makers)}


def _telescope(w: World) -> View:  # noqa: C901, PLR0915 - a table of small closures
    mount = w.mount

    def now() -> float:
        return w.time.now_s()

    def unparked() -> None:
        if mount.parked:
            raise AlpacaError(PARKED, "the mount is parked")

    def slew(ra_h: float, dec_deg: float) -> None:
        _within(ra_h, 0, 24, "RightAscension", below=True)
        _within(dec_deg, -90, 90, "Declination")
        unparked()
        if not mount.tracking:
            raise AlpacaError(INVALID_OPERATION, "tracking is off")
        t = now()
        h = difference_deg(w.sidereal_time_deg(t), ra_h * 15.0)
        if altitude_azimuth(h, dec_deg, w.site.latitude_deg)[0] < 0:
            raise AlpacaError(INVALID_VALUE, "below the horizon")
        targets.update(ra=ra_h, dec=dec_deg)
        mount.slew(t, h, dec_deg)

    def slew_alt_az(azimuth_deg: float, altitude_deg: float) -> None:
        _within(azimuth_deg, 0, 360, "Azimuth", below=True)
        _within(altitude_deg, -90, 90, "Altitude")
        unparked()
        if mount.tracking:
            raise AlpacaError(INVALID_OPERATION, "tracking is on")
        if altitude_deg < 0:
            raise AlpacaError(INVALID_VALUE, "below the horizon")
        mount.slew(now(), *_hour_angle(altitude_deg, azimuth_deg, w.site.latitude_deg))

    def sync(ra_h: float, dec_deg: float) -> None:
        _within(ra_h, 0, 24, "RightAscension", below=True)
        _within(dec_deg, -90, 90, "Declination")
        unparked()
        if not mount.tracking:
            raise AlpacaError(INVALID_OPERATION, "tracking is off")
        t = now()
        mount.sync(t, difference_deg(w.sidereal_time_deg(t), ra_h * 15.0), dec_deg)

    def track(on: bool) -> None:  # noqa: FBT001
        if on:
            unparked()
        mount.set_tracking(now(), on=on)

    def destination(ra_h: float, dec_deg: float) -> int:
        _within(ra_h, 0, 24, "RightAscension", below=True)
        _within(dec_deg, -90, 90, "Declination")
        return 0 if mount.destination_is_east(difference_deg(w.sidereal_time_deg(now()), ra_h * 15.0)) else 1

    def abort() -> None:
        unparked()
        mount.abort(now())

    def home() -> None:
        unparked()
        mount.find_home(now())

    def guide(direction: int, duration_ms: int) -> None:
        _within(direction, 0, 3, "Direction")
        _within(duration_ms, 0, 60000, "Duration")
        unparked()
        way = 7.5 / 3600 * duration_ms / 1000
        east = way if direction == 2 else -way if direction == 3 else 0.0
        mount.guide(now(), east_deg=east, north_deg=way if direction == 0 else -way if direction == 1 else 0.0)

    def on_axis(axis: int, *, value: Any) -> Any:
        _within(axis, 0, 2, "Axis")
        return value

    targets: dict[str, float] = {}

    def target(key: str) -> Callable[[], float]:
        def read() -> float:
            if key not in targets:
                raise AlpacaError(VALUE_NOT_SET, "no target was set")
            return targets[key]

        return read

    def set_target(key: str, low: float, high: float) -> Callable[[float], None]:
        def write(value: float) -> None:
            _within(value, low, high, key, below=key == "ra")
            targets[key] = value

        return write

    def only(value: float, name: str) -> Callable[[float], None]:
        def write(given: float) -> None:
            if given != value:
                raise AlpacaError(INVALID_VALUE, f"{name} is {value:g} here")

        return write

    radec: Parameters = (("RightAscension", float), ("Declination", float))
    azalt: Parameters = (("Azimuth", float), ("Altitude", float))
    members = {
        **_fixed(
            {
                **dict.fromkeys(("CanFindHome", "CanPark", "CanUnpark", "CanPulseGuide", "CanSetTracking"), True),
                **dict.fromkeys(("CanSlew", "CanSlewAsync", "CanSlewAltAz", "CanSlewAltAzAsync", "CanSync"), True),
                **dict.fromkeys(("CanSetDeclinationRate", "CanSetRightAscensionRate", "CanSetGuideRates"), False),
                **dict.fromkeys(("CanSetPark", "CanSetPierSide", "CanSyncAltAz", "IsPulseGuiding", "DoesRefraction"), False),
                "AlignmentMode": 2,
                "EquatorialSystem": 1,
                "ApertureDiameter": w.settings.dome.aperture_m,
                "FocalLength": round(w.settings.camera.pixel_um * 206.265 / w.settings.camera.scale_arcsec_per_px / 1000, 3),
                "SiteLatitude": w.site.latitude_deg,
                "SiteLongitude": difference_deg(w.site.longitude_deg, 0.0),
                "SiteElevation": w.site.elevation_m,
                "DeclinationRate": 0.0,
                "RightAscensionRate": 0.0,
                "TrackingRates": [0],
                "TrackingRate": 0,
            }
        ),
        **_absent("ApertureArea", "GuideRateDeclination", "GuideRateRightAscension", "MoveAxis", "SetPark", "SyncToAltAz", "SyncToTarget"),
        "CanMoveAxis": Member(get=lambda axis: on_axis(axis, value=False), get_with=(("Axis", int),)),
        "AxisRates": Member(get=lambda axis: on_axis(axis, value=[]), get_with=(("Axis", int),)),
        "Altitude": Member(get=lambda: mount.altitude_azimuth(now())[0]),
        "Azimuth": Member(get=lambda: mount.altitude_azimuth(now())[1]),
        "RightAscension": Member(get=lambda: mount.right_ascension_h(now())),
        "Declination": Member(get=lambda: mount.reported(now())[1]),
        "SiderealTime": Member(get=lambda: w.sidereal_time_deg(now()) / 15.0),
        "SideOfPier": Member(get=lambda: 0 if mount.east(now()) else 1, put=_absent("x")["x"].put, put_with=(("SideOfPier", int),)),
        "Slewing": Member(get=lambda: mount.slewing(now())),
        "Tracking": Member(get=lambda: mount.tracking, put=track, put_with=(("Tracking", bool),)),
        "AtPark": Member(get=lambda: mount.parked),
        "AtHome": Member(get=lambda: mount.at_home(now())),
        "SlewSettleTime": Member(get=lambda: round(w.settings.mount.settle_s)),
        "UTCDate": Member(get=lambda: format_utc(w.time.now_ns(), digits=7)),
        "TargetRightAscension": Member(get=target("ra"), put=set_target("ra", 0, 24), put_with=(("TargetRightAscension", float),)),
        "TargetDeclination": Member(get=target("dec"), put=set_target("dec", -90, 90), put_with=(("TargetDeclination", float),)),
        "SlewToCoordinatesAsync": Member(put=slew, put_with=radec),
        "SlewToCoordinates": Member(put=slew, put_with=radec),
        "SlewToTargetAsync": Member(put=lambda: slew(target("ra")(), target("dec")())),
        "SlewToTarget": Member(put=lambda: slew(target("ra")(), target("dec")())),
        "SlewToAltAzAsync": Member(put=slew_alt_az, put_with=azalt),
        "SlewToAltAz": Member(put=slew_alt_az, put_with=azalt),
        "DestinationSideOfPier": Member(get=destination, get_with=radec),
        "SyncToCoordinates": Member(put=sync, put_with=radec),
        "AbortSlew": Member(put=abort),
        "Park": Member(put=lambda: mount.park(now())),
        "Unpark": Member(put=mount.unpark),
        "FindHome": Member(put=home),
        "PulseGuide": Member(put=guide, put_with=(("Direction", int), ("Duration", int))),
    }
    state = ("Altitude", "AtHome", "AtPark", "Azimuth", "Declination", "IsPulseGuiding", "RightAscension", "SideOfPier")
    return View(
        "telescope", "Simulated mount", "nightbell-sim-mount", 4, members, (*state, "SiderealTime", "Slewing", "Tracking", "UTCDate")
    )


def _hour_angle(altitude_deg: float, azimuth_deg: float, latitude_deg: float) -> tuple[float, float]:
    """(hour angle, declination) of a horizontal direction: the same formula, for the two frames are each other's mirror."""
    declination, hour_angle = altitude_azimuth(azimuth_deg, altitude_deg, latitude_deg)
    return difference_deg(hour_angle, 0.0), declination


def _dome(w: World) -> View:
    dome = w.dome

    def now() -> float:
        return w.time.now_s()

    def slew(azimuth_deg: float) -> None:
        _within(azimuth_deg, 0, 360, "Azimuth", below=True)
        dome.slew(now(), azimuth_deg)

    def sync(azimuth_deg: float) -> None:
        _within(azimuth_deg, 0, 360, "Azimuth", below=True)
        dome.sync(now(), azimuth_deg)

    def slave(on: bool) -> None:  # noqa: FBT001
        if on:
            raise AlpacaError(NOT_IMPLEMENTED, "this dome cannot be slaved")
        dome.slaved = False

    azimuth: Parameters = (("Azimuth", float),)
    members = {
        **_fixed(
            {
                **dict.fromkeys(("CanFindHome", "CanPark", "CanSetAzimuth", "CanSetShutter", "CanSyncAzimuth"), True),
                **dict.fromkeys(("CanSetAltitude", "CanSetPark", "CanSlave"), False),
            }
        ),
        **_absent("Altitude", "SlewToAltitude", "SetPark"),
        "Azimuth": Member(get=lambda: dome.reported_deg(now())),
        "ShutterStatus": Member(get=lambda: dome.shutter.status(now())),
        "Slewing": Member(get=lambda: dome.slewing(now())),
        "AtHome": Member(get=lambda: dome.at_home(now())),
        "AtPark": Member(get=lambda: dome.at_park(now())),
        "Slaved": Member(get=lambda: dome.slaved, put=slave, put_with=(("Slaved", bool),)),
        "OpenShutter": Member(put=lambda: dome.shutter.command(now(), 1.0)),
        "CloseShutter": Member(put=lambda: dome.shutter.command(now(), 0.0)),
        "SlewToAzimuth": Member(put=slew, put_with=azimuth),
        "SyncToAzimuth": Member(put=sync, put_with=azimuth),
        "AbortSlew": Member(put=lambda: dome.abort(now())),
        "FindHome": Member(put=lambda: dome.find_home(now())),
        "Park": Member(put=lambda: dome.park(now())),
    }
    return View("dome", "Simulated dome", "nightbell-sim-dome", 3, members, ("AtHome", "AtPark", "Azimuth", "ShutterStatus", "Slewing"))


def _camera(w: World) -> View:  # noqa: C901 - a table of small closures
    camera, settings = w.camera, w.settings.camera

    def now() -> float:
        return w.time.now_s()

    def set_window(key: str, low: int, high: int) -> Callable[[int], None]:
        def write(value: int) -> None:
            _within(value, low, high, key)
            values = {name: getattr(camera.window, name) for name in ("bin_x", "bin_y", "start_x", "start_y", "num_x", "num_y")}
            camera.window = Window(**{**values, key: value})

        return write

    def window_member(name: str, key: str, low: int, high: int) -> tuple[str, Member]:
        return name, Member(get=lambda: getattr(camera.window, key), put=set_window(key, low, high), put_with=((name, int),))

    def start(duration_s: float, light: bool) -> None:  # noqa: FBT001
        if not math.isfinite(duration_s) or duration_s < 0 or duration_s > 3600:
            raise AlpacaError(INVALID_VALUE, f"Duration {duration_s:g} is outside 0 to 3600")
        if light and duration_s < settings.exposure_min_s:
            raise AlpacaError(INVALID_VALUE, f"Duration {duration_s:g} is below {settings.exposure_min_s:g}")
        if camera.state(now()) == 5:
            raise AlpacaError(INVALID_OPERATION, "the camera is in error; abort first")
        if camera.state(now()) != 0:
            raise AlpacaError(INVALID_OPERATION, "the camera is not idle")
        window = camera.window
        if window.start_x + window.num_x > settings.width_px // window.bin_x:
            raise AlpacaError(INVALID_VALUE, "StartX + NumX is beyond the detector")
        if window.start_y + window.num_y > settings.height_px // window.bin_y:
            raise AlpacaError(INVALID_VALUE, "StartY + NumY is beyond the detector")
        camera.start(now(), duration_s, light=light)

    def abort() -> None:
        camera.failed = False
        camera.abort()

    def image() -> Any:
        if camera.image is None:
            raise AlpacaError(INVALID_OPERATION, "there is no image")
        return camera.image

    def last(value: float | None) -> float:
        if value is None:
            raise AlpacaError(INVALID_OPERATION, "no exposure was made")
        return value

    def temperature(value: float) -> None:
        _within(value, -60, 40, "SetCCDTemperature")
        camera.set_cooler(now(), target_degc=value)

    def setting(name: str, high: int) -> Callable[[int], None]:
        def write(value: int) -> None:
            _within(value, 0, high, name)
            setattr(camera, name, value)

        return write

    def cool(on: bool) -> None:  # noqa: FBT001
        camera.set_cooler(now(), on=on)

    members = {
        **_fixed(
            {
                **dict.fromkeys(("CanAbortExposure", "CanStopExposure", "CanSetCCDTemperature", "CanGetCoolerPower", "HasShutter"), True),
                **dict.fromkeys(("CanAsymmetricBin", "CanFastReadout", "CanPulseGuide", "IsPulseGuiding"), False),
                "CameraXSize": settings.width_px,
                "CameraYSize": settings.height_px,
                "MaxBinX": 4,
                "MaxBinY": 4,
                "PixelSizeX": settings.pixel_um,
                "PixelSizeY": settings.pixel_um,
                "ElectronsPerADU": settings.gain_e_per_adu,
                "FullWellCapacity": settings.full_well_e,
                "MaxADU": 65535,
                "ExposureMin": settings.exposure_min_s,
                "ExposureMax": 3600.0,
                "ExposureResolution": 0.001,
                "SensorType": 0,
                "SensorName": "SIM-512",
                "GainMin": 0,
                "GainMax": 100,
                "OffsetMin": 0,
                "OffsetMax": 100,
                "ReadoutModes": ["normal"],
            }
        ),
        **_absent("BayerOffsetX", "BayerOffsetY", "FastReadout", "Gains", "Offsets", "PulseGuide", "SubExposureDuration"),
        "HeatSinkTemperature": Member(get=lambda: camera.air_degc),
        **dict(
            (
                window_member("BinX", "bin_x", 1, 4),
                window_member("BinY", "bin_y", 1, 4),
                window_member("StartX", "start_x", 0, settings.width_px - 1),
                window_member("StartY", "start_y", 0, settings.height_px - 1),
                window_member("NumX", "num_x", 1, settings.width_px),
                window_member("NumY", "num_y", 1, settings.height_px),
            )
        ),
        "CameraState": Member(get=lambda: camera.state(now())),
        "ImageReady": Member(get=lambda: camera.image is not None),
        "PercentCompleted": Member(get=lambda: camera.percent_completed(now())),
        "CCDTemperature": Member(get=lambda: round(camera.temperature_degc(now()), 3)),
        "SetCCDTemperature": Member(get=lambda: camera.set_ccd_temperature_degc, put=temperature, put_with=(("SetCCDTemperature", float),)),
        "CoolerOn": Member(get=lambda: camera.cooler_on, put=cool, put_with=(("CoolerOn", bool),)),
        "CoolerPower": Member(get=lambda: camera.cooler_power_percent(now())),
        "Gain": Member(get=lambda: camera.gain, put=setting("gain", 100), put_with=(("Gain", int),)),
        "Offset": Member(get=lambda: camera.offset, put=setting("offset", 100), put_with=(("Offset", int),)),
        "ReadoutMode": Member(get=lambda: camera.readout_mode, put=setting("readout_mode", 0), put_with=(("ReadoutMode", int),)),
        "StartExposure": Member(put=start, put_with=(("Duration", float), ("Light", bool))),
        "StopExposure": Member(put=lambda: camera.stop(now())),
        "AbortExposure": Member(put=abort),
        "LastExposureDuration": Member(get=lambda: last(camera.last_exposure_s)),
        "LastExposureStartTime": Member(get=lambda: format_utc(w.time.at_ns(last(camera.last_start_s)), digits=3).removesuffix("Z")),
        "ImageArray": Member(get=image),
        "ImageArrayVariant": Member(get=image),
    }
    state = ("CameraState", "CCDTemperature", "CoolerPower", "HeatSinkTemperature", "ImageReady", "IsPulseGuiding", "PercentCompleted")
    return View("camera", "Simulated camera", "nightbell-sim-camera", 4, members, state, on_restart=camera.reset)


def _filter_wheel(w: World) -> View:
    names = list(w.settings.camera.filters)

    def go(position: int) -> None:
        _within(position, 0, len(names) - 1, "Position")
        w.wheel.go(w.time.now_s(), position)

    members = {
        **_fixed({"Names": names, "FocusOffsets": [0] * len(names)}),
        "Position": Member(get=lambda: w.wheel.position(w.time.now_s()), put=go, put_with=(("Position", int),)),
    }
    return View("filterwheel", "Simulated filter wheel", "nightbell-sim-wheel", 3, members, ("Position",))


def _focuser(w: World) -> View:
    def move(position: int) -> None:
        _within(position, -(2**31), 2**31 - 1, "Position")
        w.focuser.go(w.time.now_s(), max(0, min(FocuserSim.MAX_STEP, position)))

    def no_compensation(on: bool) -> None:  # noqa: FBT001
        if on:
            raise AlpacaError(NOT_IMPLEMENTED, "no temperature compensation")

    members = {
        **_fixed(
            {
                "Absolute": True,
                "MaxStep": FocuserSim.MAX_STEP,
                "MaxIncrement": FocuserSim.MAX_STEP,
                "StepSize": 2.0,
                "TempCompAvailable": False,
            }
        ),
        "TempComp": Member(get=lambda: False, put=no_compensation, put_with=(("TempComp", bool),)),
        "Position": Member(get=lambda: w.focuser.position(w.time.now_s())),
        "IsMoving": Member(get=lambda: w.focuser.moving(w.time.now_s())),
        "Temperature": Member(get=lambda: w.weather.now(w.time.now_s())["temperature_degc"]),
        "Move": Member(put=move, put_with=(("Position", int),)),
        "Halt": Member(put=lambda: w.focuser.halt(w.time.now_s())),
    }
    return View("focuser", "Simulated focuser", "nightbell-sim-focuser", 4, members, ("IsMoving", "Position", "Temperature"))


def _cover(w: World) -> View:
    cover = w.cover

    def now() -> float:
        return w.time.now_s()

    def on(brightness: int) -> None:
        _within(brightness, 0, CoverSim.MAX_BRIGHTNESS, "Brightness")
        cover.lamp(now(), brightness)

    members = {
        **_fixed({"MaxBrightness": CoverSim.MAX_BRIGHTNESS}),
        "CoverState": Member(get=lambda: cover.cover_state(now())),
        "CoverMoving": Member(get=lambda: cover.cover_state(now()) == 2),
        "CalibratorState": Member(get=lambda: cover.calibrator_state(now())),
        "CalibratorChanging": Member(get=lambda: cover.calibrator_state(now()) == 2),
        "Brightness": Member(get=lambda: cover.brightness),
        "OpenCover": Member(put=lambda: cover.command(now(), 1.0)),
        "CloseCover": Member(put=lambda: cover.command(now(), 0.0)),
        "HaltCover": Member(put=lambda: cover.halt(now())),
        "CalibratorOn": Member(put=on, put_with=(("Brightness", int),)),
        "CalibratorOff": Member(put=lambda: cover.lamp(now(), 0)),
    }
    state = ("Brightness", "CalibratorState", "CalibratorChanging", "CoverState", "CoverMoving")
    return View("covercalibrator", "Simulated cover and flat lamp", "nightbell-sim-cover", 2, members, state)


_SENSORS = {
    "CloudCover": "cloud_cover_percent",
    "DewPoint": "dew_point_degc",
    "Humidity": "humidity_percent",
    "Pressure": "pressure_hpa",
    "RainRate": "rain_rate_mm_per_h",
    "SkyTemperature": "sky_temperature_degc",
    "StarFWHM": "seeing_arcsec",
    "Temperature": "temperature_degc",
    "WindDirection": "wind_direction_deg",
    "WindGust": "wind_gust_m_per_s",
    "WindSpeed": "wind_speed_m_per_s",
}


def _weather(w: World) -> View:
    known = {name.lower() for name in (*_SENSORS, "SkyQuality")} | {""}

    def now() -> float:
        return w.time.now_s()

    def sensor(field_name: str) -> Member:
        return Member(get=lambda: w.weather.now(now())[field_name])

    def quality() -> float:
        return round(w.sky_mag(now(), "g", 90.0, 0.0, 1.0), 2)

    def age(name: str) -> float:
        if name.lower() == "skybrightness":
            raise AlpacaError(NOT_IMPLEMENTED, "no such sensor")
        if name.lower() not in known:
            raise AlpacaError(INVALID_VALUE, f"there is no sensor {name!r}")
        return round(now() - w.weather.measured_at_s(now()), 3)

    def describe(name: str) -> str:
        if name.lower() == "skybrightness":
            raise AlpacaError(NOT_IMPLEMENTED, "no such sensor")
        if name.lower() not in known - {""}:
            raise AlpacaError(INVALID_VALUE, f"there is no sensor {name!r}")
        return f"simulated {name}"

    def average(hours: float) -> None:
        if hours != 0.0:
            raise AlpacaError(INVALID_VALUE, "AveragePeriod is 0 here")

    members = {
        **{name: sensor(field_name) for name, field_name in _SENSORS.items()},
        **_absent("SkyBrightness"),
        "SkyQuality": Member(get=quality),
        "AveragePeriod": Member(get=lambda: 0.0, put=average, put_with=(("AveragePeriod", float),)),
        "TimeSinceLastUpdate": Member(get=age, get_with=(("SensorName", str),)),
        "SensorDescription": Member(get=describe, get_with=(("SensorName", str),)),
        "Refresh": Member(put=lambda: None),
    }
    return View("observingconditions", "Simulated weather station", "nightbell-sim-weather", 2, members, (*_SENSORS, "SkyQuality"))


def _safety(w: World) -> View:
    def is_safe() -> bool:
        weather = w.weather.now(w.time.now_s())
        return weather["rain_rate_mm_per_h"] == 0.0 and weather["wind_gust_m_per_s"] < 25.0 and weather["humidity_percent"] < 95.0

    members = {"IsSafe": Member(get=is_safe)}
    return View("safetymonitor", "Simulated rain and wind relay", "nightbell-sim-safety", 3, members, ("IsSafe",))


def _switch(_: World) -> View:
    names = ("dome power", "horn", "battery")
    values: list[float] = [1.0, 0.0, 100.0]
    highest = (1.0, 1.0, 100.0)

    def numbered(number: int) -> int:
        _within(number, 0, len(names) - 1, "Id")
        return number

    def write(number: int, value: float) -> None:
        if numbered(number) == 2:
            raise AlpacaError(NOT_IMPLEMENTED, "the battery can only be read")
        _within(value, 0.0, highest[number], "Value")
        values[number] = value

    def turn(number: int, on: bool) -> None:  # noqa: FBT001
        write(number, 1.0 if on else 0.0)

    one: Parameters = (("Id", int),)
    members = {
        **_fixed({"MaxSwitch": len(names)}),
        **_absent("CancelAsync", "SetAsync", "SetAsyncValue", "SetSwitchName"),
        "CanWrite": Member(get=lambda i: numbered(i) != 2, get_with=one),
        "CanAsync": Member(get=lambda i: numbered(i) < 0, get_with=one),
        "StateChangeComplete": Member(get=lambda i: numbered(i) >= 0, get_with=one),
        "GetSwitch": Member(get=lambda i: values[numbered(i)] > 0, get_with=one),
        "GetSwitchValue": Member(get=lambda i: values[numbered(i)], get_with=one),
        "GetSwitchName": Member(get=lambda i: names[numbered(i)], get_with=one),
        "GetSwitchDescription": Member(get=lambda i: names[numbered(i)], get_with=one),
        "MinSwitchValue": Member(get=lambda i: 0.0 * numbered(i), get_with=one),
        "MaxSwitchValue": Member(get=lambda i: highest[numbered(i)], get_with=one),
        "SwitchStep": Member(get=lambda i: 1.0 + 0 * numbered(i), get_with=one),
        "SetSwitch": Member(put=turn, put_with=(("Id", int), ("State", bool))),
        "SetSwitchValue": Member(put=write, put_with=(("Id", int), ("Value", float))),
    }
    return View("switch", "Simulated relays", "nightbell-sim-switch", 3, members, ())


def _rotator(_: World) -> View:
    held = {"position": 0.0}

    def go(position: float) -> None:
        _within(position, 0, 360, "Position", below=True)
        held["position"] = position

    def turn(by: float) -> None:
        held["position"] = (held["position"] + by) % 360.0

    def position() -> float:
        return held["position"]

    to: Parameters = (("Position", float),)
    members = {
        **_fixed({"CanReverse": False, "IsMoving": False, "StepSize": 0.01}),
        **_absent("Reverse"),
        **{name: Member(get=position) for name in ("Position", "MechanicalPosition", "TargetPosition")},
        "Move": Member(put=turn, put_with=to),
        **{name: Member(put=go, put_with=to) for name in ("MoveAbsolute", "MoveMechanical", "Sync")},
        "Halt": Member(put=lambda: None),
    }
    return View("rotator", "Simulated rotator", "nightbell-sim-rotator", 4, members, ("IsMoving", "MechanicalPosition", "Position"))
