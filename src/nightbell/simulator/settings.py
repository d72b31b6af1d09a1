"""Settings of the simulated observatory."""

from __future__ import annotations

from dataclasses import dataclass

from nightbell.contracts.instants import parse_utc
from nightbell.settings import setting

__all__ = [
    "CameraSettings",
    "EnclosureSettings",
    "GalaxySettings",
    "MountSettings",
    "SimulatorSettings",
    "WeatherPoint",
]


@dataclass(frozen=True, kw_only=True)
class EnclosureSettings:
    """[dome] The dome and where the mount stands in it."""

    radius_m: float = setting(2.25, unit="m", low=0.5, high=50, doc="Radius of the dome's sphere")
    slit_width_m: float = setting(1.0, unit="m", low=0.1, high=20, doc="Width of the slit")
    slit_low_deg: float = setting(5.0, unit="deg", low=0, high=60, doc="Altitude where the slit begins")
    slit_back_deg: float = setting(70.0, unit="deg", low=0, high=90, doc="Altitude beyond the zenith, from the back, where the slit ends")
    mount_east_m: float = setting(0.1, unit="m", low=-10, high=10, doc="Intersection of the mount's axes, east of the sphere's centre")
    mount_north_m: float = setting(-0.2, unit="m", low=-10, high=10, doc="Intersection of the mount's axes, north of the sphere's centre")
    mount_up_m: float = setting(-0.3, unit="m", low=-10, high=10, doc="Intersection of the mount's axes, above the sphere's centre")
    axis_offset_m: float = setting(0.55, unit="m", low=0, high=10, doc="From there along the second axis to the optical axis")
    aperture_m: float = setting(0.5, unit="m", low=0.01, high=10, doc="Diameter of the telescope")
    obstruction_m: float = setting(0.15, unit="m", low=0, high=10, doc="Diameter of the central obstruction")
    speed_deg_per_s: float = setting(3.0, unit="deg/s", low=0.1, high=30, doc="Rotation")
    coast_deg: float = setting(0.5, unit="deg", low=0, high=10, doc="How far it rolls on after an abort")
    shutter_travel_s: float = setting(25.0, unit="s", low=1, high=600, doc="From closed to open")
    home_azimuth_deg: float = setting(90.0, unit="deg", low=0, high=360, doc="Home switch")
    park_azimuth_deg: float = setting(180.0, unit="deg", low=0, high=360, doc="Park position")


@dataclass(frozen=True, kw_only=True)
class MountSettings:
    """[mount] A German equatorial mount."""

    speed_deg_per_s: float = setting(5.0, unit="deg/s", low=0.1, high=30, doc="Largest speed of each axis")
    acceleration_deg_per_s2: float = setting(2.0, unit="deg/s2", low=0.1, high=30, doc="Acceleration of each axis")
    settle_s: float = setting(2.0, unit="s", low=0, high=60, doc="Slewing stays true for this long after the motion")
    pointing_offset_arcsec: float = setting(60.0, unit="arcsec", low=0, high=7200, doc="How far from where it says it points")
    periodic_error_arcsec: float = setting(1.0, unit="arcsec", low=0, high=60, doc="Amplitude of the worm's periodic error")
    periodic_error_period_s: float = setting(480.0, unit="s", low=1, high=86400, doc="Period of it")
    over_meridian_deg: float = setting(20.0, unit="deg", low=0, high=90, doc="Hour angle beyond the meridian where the tube hits the pier")


@dataclass(frozen=True, kw_only=True)
class CameraSettings:
    """[camera] The camera and the optics in front of it."""

    width_px: int = setting(512, unit="px", low=16, high=8192, doc="Columns")
    height_px: int = setting(512, unit="px", low=16, high=8192, doc="Rows")
    scale_arcsec_per_px: float = setting(1.2, unit="arcsec/px", low=0.05, high=60, doc="Pixel scale")
    pixel_um: float = setting(9.0, unit="um", low=1, high=50, doc="Pixel size")
    angle_deg: float = setting(3.0, unit="deg", low=-180, high=180, doc="Position angle of the columns, tube east of the pier")
    gain_e_per_adu: float = setting(1.5, unit="e/adu", low=0.01, high=100, doc="Electrons per count")
    read_noise_e: float = setting(6.0, unit="e", low=0, high=100, doc="Read noise")
    bias_adu: float = setting(500.0, unit="adu", low=0, high=10000, doc="Bias level")
    full_well_e: float = setting(90000.0, unit="e", low=1000, high=1e6, doc="Full well")
    dark_current_e_per_s: float = setting(0.05, unit="e/s", low=0, high=100, doc="Dark current at -10 degC, doubling every 6 K")
    hot_pixel_fraction: float = setting(1e-4, low=0, high=0.1, doc="Share of hot pixels")
    cosmic_rays_per_s: float = setting(0.1, unit="1/s", low=0, high=1000, doc="Cosmic rays per second on the whole detector")
    cooler_reach_k: float = setting(45.0, unit="K", low=0, high=100, doc="How far below the air the cooler gets")
    readout_s: float = setting(1.0, unit="s", low=0, high=600, doc="Read-out and download")
    exposure_min_s: float = setting(0.1, unit="s", low=0, high=60, doc="Shortest light exposure")
    shutter_blade_s: float = setting(0.005, unit="s", low=0, high=1, doc="How long the camera shutter's blades take")
    filters: tuple[str, ...] = setting(("g", "r", "i"), doc="Filters of the wheel, from slot 0")
    zero_point_mag: dict[str, float] = setting(
        {"g": 22.7, "r": 22.6, "i": 22.1}, doc="Magnitude that gives one electron per second, by filter"
    )
    filter_change_s: float = setting(2.0, unit="s", low=0, high=60, doc="From one filter to the next")
    best_focus_step: int = setting(5000, unit="step", low=0, high=100000, doc="Focuser position of best focus at 10 degC")
    focus_start_step: int = setting(5000, unit="step", low=0, high=100000, doc="Focuser position at start")
    focus_step_per_k: float = setting(0.0, unit="step/K", low=-1000, high=1000, doc="How best focus moves with temperature")


@dataclass(frozen=True, kw_only=True)
class GalaxySettings:
    """[[galaxies]] One galaxy of the simulated sky."""

    name: str = setting(doc="Name")
    ra_deg: float = setting(unit="deg", low=0, high=360, doc="ICRS")
    dec_deg: float = setting(unit="deg", low=-90, high=90, doc="ICRS")
    mag: float = setting(unit="mag", low=0, high=30, doc="Total magnitude in r")
    half_light_radius_arcsec: float = setting(12.0, unit="arcsec", low=0.1, high=600, doc="Half-light radius along the major axis")
    sersic_n: int = setting(4, choices=(1, 4), doc="Sersic index: 1 disc, 4 elliptical")
    axis_ratio: float = setting(0.8, low=0.1, high=1, doc="Minor over major axis")
    angle_deg: float = setting(0.0, unit="deg", low=-360, high=360, doc="Position angle of the major axis, north through east")


@dataclass(frozen=True, kw_only=True)
class WeatherPoint:
    """[[weather]] From `after_s` on this holds; between two points of a quantity it changes linearly."""

    after_s: float = setting(unit="s", low=0, high=1e7, doc="Seconds of the world after the start")
    quantity: str = setting(
        choices=(
            *("cloud_cover_percent", "humidity_percent", "pressure_hpa", "rain_rate_mm_per_h", "sky_temperature_degc"),
            *("temperature_degc", "wind_speed_m_per_s", "wind_gust_m_per_s", "wind_direction_deg", "seeing_arcsec"),
        ),
        doc="What",
    )
    value: float = setting(low=-1e4, high=1e4, doc="Its value")


@dataclass(frozen=True, kw_only=True)
class SimulatorSettings:
    """The simulated world: one process with its own physics and clock, served over Alpaca on loopback."""

    port: int = setting(11111, low=0, high=65535, doc="TCP port on 127.0.0.1; 0: a free one, told in the READY line")
    start_utc: str = setting("2027-04-12T21:57:00Z", unit="UTC", doc="Time of the world when the process starts")
    rate: float = setting(60.0, low=0.01, high=120, doc="Seconds of the world per real second")
    seed: int = setting(20270412, low=0, high=2**63 - 1, doc="Seed of everything random")
    token: str = setting(
        "", doc="Token of the side channels /sim/...; empty: drawn at start and written to side-channel.token in the state folder"
    )
    discovery: bool = setting(False, doc="Answer Alpaca discovery on UDP port 32227 (loopback)")
    dome: EnclosureSettings = setting(EnclosureSettings(), doc="The dome")
    mount: MountSettings = setting(MountSettings(), doc="The mount")
    camera: CameraSettings = setting(CameraSettings(), doc="The camera")
    galaxies: tuple[GalaxySettings, ...] = setting((), doc="Galaxies of the sky")
    catalogue: str = setting(
        "",
        names="path",
        doc="CSV of more galaxies (name, ra_deg, dec_deg, optional mag columns), relative to the installation; empty: none",
    )
    references: str = setting(
        "", doc="Folder, relative to home, for deep reference frames of the [[galaxies]]; what is missing is rendered at start; empty: none"
    )
    reference_filters: tuple[str, ...] = setting(("g", "r"), doc="Filters of the reference frames")
    weather: tuple[WeatherPoint, ...] = setting((), doc="Script of the weather; noise is added")

    def __post_init__(self) -> None:
        parse_utc(self.start_utc, where="start_utc")
