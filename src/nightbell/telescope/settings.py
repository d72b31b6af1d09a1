"""Settings of the telescope module: modules/telescope.toml."""

from __future__ import annotations

from dataclasses import dataclass

from nightbell.contracts.errors import BadInput
from nightbell.devices.settings import DeviceSettings
from nightbell.settings import setting

__all__ = ["CalibrationSettings", "DomeSettings", "InstrumentSettings", "LightSettings", "NightSettings", "TelescopeSettings"]

NEEDED_DEVICES = ("dome", "mount", "camera")
KNOWN_DEVICES = (*NEEDED_DEVICES, "filter_wheel", "focuser", "cover_calibrator", "weather")


@dataclass(frozen=True, kw_only=True)
class InstrumentSettings:
    """[instrument] What hangs on the mount."""

    telescope: str = setting("T1", doc="TELESCOP of the headers")
    instrument: str = setting("CCD", doc="INSTRUME of the headers")
    camera: str = setting("main", doc="Name of the camera: CAMERAID and the first part of file names")
    simulated: bool = setting(False, doc="True when the devices are a simulation: SIMULATE of the headers")
    pixel_scale_arcsec: float = setting(1.0, unit="arcsec/px", low=0.01, high=100, doc="Unbinned; for the first guess of the WCS")
    rotation_deg: float = setting(0.0, unit="deg", low=-360, high=360, doc="Position angle of +y, pier side east, north through east")
    mirrored: bool = setting(False, doc="True when east is right of north")
    turns_with_pier: bool = setting(True, doc="German mounts: the field is turned by 180 degrees on the other side of the pier")
    bin_x: int = setting(1, unit="px", low=1, high=16, doc="Binning along x")
    bin_y: int = setting(1, unit="px", low=1, high=16, doc="Binning along y")
    gain_e_per_adu: float = setting(0.0, unit="e/adu", low=0, high=100, doc="Gain; 0: what the camera says")
    read_noise_e: float = setting(6.0, unit="e", low=0, high=1000, doc="Read noise")
    saturation_adu: float = setting(60000.0, unit="adu", low=1, high=65535, doc="Counts from which a pixel is saturated")
    set_temperature_degc: float = setting(-20.0, unit="degC", low=-120, high=40, doc="Detector temperature to cool to")
    temperature_tolerance_k: float = setting(0.5, unit="K", low=0.05, high=10, doc="Cooled when within")
    cooling_limit_s: float = setting(1200.0, unit="s", low=0, high=7200, doc="Longest wait for cooling; 0: the camera is not cooled")
    shutter_blade_s: float = setting(0.0, unit="s", low=0, high=1, doc="Time the camera shutter's blades take; 0 without one")


@dataclass(frozen=True, kw_only=True)
class DomeSettings:
    """[dome] Geometry of dome and mount: x East, y North, z Up from the dome's centre of curvature."""

    radius_m: float = setting(2.25, unit="m", low=0.5, high=50, doc="Radius of the dome")
    slit_width_m: float = setting(1.0, unit="m", low=0.1, high=20, doc="Width of the slit")
    slit_low_deg: float = setting(0.0, unit="deg", low=-10, high=60, doc="Lowest altitude that the slit covers")
    slit_back_deg: float = setting(75.0, unit="deg", low=0, high=90, doc="The slit ends at 180 less this, beyond the zenith")
    mount_east_m: float = setting(0.0, unit="m", low=-20, high=20, doc="Intersection of the mount's axes, east of the centre")
    mount_north_m: float = setting(0.0, unit="m", low=-20, high=20, doc="The same, north")
    mount_up_m: float = setting(0.0, unit="m", low=-20, high=20, doc="The same, up")
    axis_offset_m: float = setting(0.0, unit="m", low=-10, high=10, doc="Along the second axis, from there to the optical axis (r)")
    piggyback_offset_m: float = setting(0.0, unit="m", low=-10, high=10, doc="Offset across (q); 0 but for piggy-back tubes")
    aperture_m: float = setting(0.5, unit="m", low=0.01, high=15, doc="Diameter of the beam")
    tolerance_deg: float = setting(1.0, unit="deg", low=0.05, high=10, doc="The dome has arrived when within")
    rate_deg_per_s: float = setting(3.0, unit="deg/s", low=0.1, high=30, doc="Turning rate, for deadlines")
    shutter_travel_s: float = setting(30.0, unit="s", low=0.5, high=600, doc="Travel of the shutter, for deadlines")


@dataclass(frozen=True, kw_only=True)
class CalibrationSettings:
    """[calibration] Which calibration frames a night takes."""

    n_biases: int = setting(10, low=0, high=500, doc="Biases per night")
    n_darks: int = setting(5, low=0, high=500, doc="Darks per exposure time and night")
    dark_exposures_s: tuple[float, ...] = setting((), unit="s", low=0, high=7200, doc="Exposure times of darks; empty: those of the lights")
    n_flats: int = setting(7, low=0, high=500, doc="Twilight flats per filter and night")
    flat_filters: tuple[str, ...] = setting((), doc="Filters flats are taken in; empty: those of the lights")
    flat_level: float = setting(0.4, low=0.05, high=0.9, doc="Wanted median above bias, as a share of 65535 adu")
    flat_exposure_min_s: float = setting(0.1, unit="s", low=0, high=60, doc="Shortest flat, if the camera's own limit is lower")
    flat_exposure_max_s: float = setting(60.0, unit="s", low=0.1, high=600, doc="Longest flat")
    bias_level_adu: float = setting(500.0, unit="adu", low=0, high=60000, doc="Bias level until tonight's biases are measured")
    dawn_flats: bool = setting(True, doc="Take at dawn the flats that dusk did not give")


@dataclass(frozen=True, kw_only=True)
class LightSettings:
    """[lights] What is taken of a target that does not say."""

    exposure_s: float = setting(120.0, unit="s", low=0.01, high=7200, doc="Exposure time")
    n_exposures: int = setting(3, low=1, high=1000, doc="Exposures per filter")
    filters: tuple[str, ...] = setting(("r",), doc="Filters, as named by the wheel")
    overhead_s: float = setting(10.0, unit="s", low=0, high=600, doc="Between two exposures, for planning")
    urgency_per_h: float = setting(
        0.5, unit="1/h", low=0, high=10, doc="Worth that waiting costs: 0 waits for the best air, 0.5 begins soon"
    )
    slew_s: float = setting(60.0, unit="s", low=0, high=1200, doc="To a new target, for planning")
    max_targets: int = setting(50, low=1, high=5000, doc="The first so many targets of each list are planned")
    max_attempts: int = setting(2, low=1, high=20, doc="A target that failed so often is left out for the night")


@dataclass(frozen=True, kw_only=True)
class NightSettings:
    """[night] When the night begins and ends, and its limits."""

    trigger: str = setting(
        "stage",
        choices=("stage", "clock", "command"),
        doc="clock: by the Sun; command: waits for prepare, open, close; stage: clock at stage 3, command at 1 and 2",
    )
    prepare_sun_deg: float = setting(5.0, unit="deg", low=-18, high=60, doc="By the clock: prepare below this, Sun falling")
    open_sun_deg: float = setting(-1.0, unit="deg", low=-18, high=0, doc="Open below this; close above it, Sun rising")
    dark_sun_deg: float = setting(-12.0, unit="deg", low=-24, high=-1, doc="Lights are taken below this, flats above")
    altitude_min_deg: float = setting(25.0, unit="deg", low=0, high=80, doc="Nothing is observed below")
    altitude_max_deg: float = setting(88.0, unit="deg", low=10, high=90, doc="Nothing is observed above")
    moon_separation_min_deg: float = setting(15.0, unit="deg", low=0, high=120, doc="Nothing is observed nearer to the Moon")
    idle_limit_s: float = setting(1800.0, unit="s", low=60, high=86400, doc="Open without a target for so long: close")
    end_when_done: bool = setting(False, doc="Close as soon as everything that was asked for has been observed")
    least_night_left_s: float = setting(1800.0, unit="s", low=0, high=36000, doc="After shelter, open again only if so much is left")
    go_retry_s: float = setting(15.0, unit="s", low=1, high=600, doc="Ask safety again after a refused GO")
    lease_every_s: float = setting(5.0, unit="s", low=0.5, high=15, doc="The open-dome lease is renewed so often")
    lease_lost_s: float = setting(30.0, unit="s", low=5, high=300, doc="Close when the lease could not be renewed for so long")
    marshal_every_s: float = setting(900.0, unit="s", low=10, high=3600, doc="By day, read back so often that all is closed")


@dataclass(frozen=True, kw_only=True)
class TelescopeSettings:
    """The file modules/telescope.toml."""

    devices: dict[str, DeviceSettings] = setting(doc="dome, mount, camera, and filter_wheel, focuser, cover_calibrator, weather")
    data_folder: str = setting("", doc="Where frames are stored, a folder per night; empty: frames/ in the module's state folder")
    instrument: InstrumentSettings = setting(InstrumentSettings(), doc="What hangs on the mount")
    dome: DomeSettings = setting(DomeSettings(), doc="Geometry of dome and mount")
    calibration: CalibrationSettings = setting(CalibrationSettings(), doc="Which calibration frames a night takes")
    lights: LightSettings = setting(LightSettings(), doc="What is taken of a target that does not say")
    night: NightSettings = setting(NightSettings(), doc="When the night begins and ends, and its limits")

    def __post_init__(self) -> None:
        unknown = sorted(set(self.devices) - set(KNOWN_DEVICES))
        missing = [name for name in NEEDED_DEVICES if name not in self.devices]
        if unknown:
            raise BadInput(f"there is no device {', '.join(unknown)}", where="devices", remedy=f"Known: {', '.join(KNOWN_DEVICES)}")
        if missing:
            raise BadInput(f"lacks {', '.join(missing)}", where="devices", remedy=f"Add [devices.{missing[0]}] with host, port and number")
