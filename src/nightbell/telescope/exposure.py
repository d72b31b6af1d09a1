"""One exposure: filter, shutter, wait, read-out; then everything the header needs, as read back.

A camera in state ERROR ends the wait at once. Start and duration are the camera's own words where it gives them and they
agree with when we asked; the host's clock otherwise.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nightbell.contracts.errors import BadInput, DeviceError, DeviceFault, DeviceLied, DeviceTimeout
from nightbell.contracts.frames import Key
from nightbell.contracts.records import Site
from nightbell.contracts.states import FrameType
from nightbell.devices.protocols import (
    Camera,
    CameraFacts,
    CameraImage,
    CameraState,
    CameraStatus,
    FilterWheel,
    FilterWheelFacts,
    Focuser,
    FocuserStatus,
    PierSide,
    Weather,
    WeatherStatus,
)
from nightbell.devices.waiting import wait_until
from nightbell.sky.view import Clock, SkyView
from nightbell.telescope.header import (
    FrameData,
    Value,
    detector_values,
    known,
    provenance_values,
    site_values,
    time_values,
    wcs_values,
    weather_values,
)
from nightbell.telescope.pointing import Pointed
from nightbell.telescope.settings import InstrumentSettings

__all__ = ["CameraDriver", "Circumstances", "Exposed", "Purpose", "frame_data"]

READOUT_LIMIT_S = 120.0
"""World seconds after the exposure until the image must be ready."""
IMAGE_LIMIT_S = 60.0
"""Real seconds for the transfer of one image."""
_NS = 1_000_000_000


@dataclass(frozen=True, kw_only=True)
class Exposed:
    """What the camera gave."""

    image: CameraImage
    asked_s: float
    started_ns: int
    start_error_s: float
    from_camera: bool
    status: CameraStatus
    """Read at the end of the exposure."""
    filter_name: str | None
    filter_position: int | None


class CameraDriver:
    """Camera and filter wheel as one."""

    def __init__(
        self,
        camera: Camera,
        facts: CameraFacts,
        wheel: FilterWheel | None,
        wheel_facts: FilterWheelFacts | None,
        *,
        clock: Clock,
        settings: InstrumentSettings,
        tick: Callable[[], None],
    ) -> None:
        self.camera = camera
        self.facts = facts
        self.wheel = wheel
        self.filters = wheel_facts.names if wheel_facts is not None else ()
        self.clock = clock
        self.settings = settings
        self.tick = tick
        self._window_is_set = False
        self.last_status: CameraStatus | None = None

    async def status(self) -> CameraStatus:
        """Asked just now, and kept for reports."""
        self.last_status = await self.camera.status(deadline_s=self.camera.default_deadline_s)
        return self.last_status

    @property
    def gain_e_per_adu(self) -> float:
        return self.settings.gain_e_per_adu or self.facts.electrons_per_adu or 1.0

    async def set_filter(self, name: str) -> None:
        """Turn the wheel to a filter by name and read it back."""
        if self.wheel is None:
            return
        if name not in self.filters:
            raise BadInput(f"there is no filter {name!r}", where="filter", remedy=f"The wheel has {', '.join(self.filters)}")
        position, deadline_s = self.filters.index(name), self.wheel.default_deadline_s
        wheel = self.wheel
        if (await wheel.status(deadline_s=deadline_s)).position == position:
            return
        await wheel.set_position(position, deadline_s=deadline_s)
        await wait_until(
            lambda: wheel.status(deadline_s=deadline_s),
            lambda status: status.position == position,
            what="filter_wheel.set_position",
            deadline_s=self.clock.real_s(60.0, floor_s=5.0),
            poll_s=min(0.2, self.clock.real_s(0.5, floor_s=0.01)),
        )

    async def cool(self) -> None:
        """Cool to the wanted temperature, within its tolerance; a camera without a cooler is left as it is."""
        limit_s = self.settings.cooling_limit_s
        if limit_s <= 0 or not self.facts.can_set_ccd_temperature:
            return
        wanted, deadline_s = self.settings.set_temperature_degc, self.camera.default_deadline_s
        await self.camera.set_cooler(on=True, target_degc=wanted, deadline_s=deadline_s)

        def is_cold(status: CameraStatus) -> bool:
            self.tick()
            found = status.ccd_temperature_degc
            return found is not None and abs(found - wanted) <= self.settings.temperature_tolerance_k

        await wait_until(
            self.status,
            is_cold,
            what="camera.cool",
            deadline_s=self.clock.real_s(limit_s, floor_s=10.0),
            poll_s=self.clock.real_s(5.0, floor_s=0.05),
        )

    async def warm_up(self) -> None:
        """Switch the cooler off."""
        if self.settings.cooling_limit_s > 0 and self.facts.can_set_ccd_temperature:
            await self.camera.set_cooler(on=False, deadline_s=self.camera.default_deadline_s)

    async def abort(self) -> None:
        """Give the running exposure up, if there is one, and see that the camera is idle again."""
        busy = (CameraState.WAITING, CameraState.EXPOSING, CameraState.READING, CameraState.DOWNLOAD)
        if (await self.status()).camera_state not in busy:
            return
        if self.facts.can_abort_exposure:
            await self.camera.abort_exposure(deadline_s=self.camera.default_deadline_s)
        await wait_until(
            self.status,
            lambda status: status.camera_state not in busy,
            what="camera.abort",
            deadline_s=self.clock.real_s(READOUT_LIMIT_S, floor_s=5.0),
            poll_s=0.02,
        )

    async def expose(self, exposure_s: float, *, light: bool) -> Exposed:
        """One exposure of the whole detector. Cancelled: the exposure is aborted at the camera."""
        deadline_s = self.camera.default_deadline_s
        if not self._window_is_set:
            await self.camera.set_window(
                bin_x=self.settings.bin_x,
                bin_y=self.settings.bin_y,
                num_x=self.facts.camera_x_size_px // self.settings.bin_x,
                num_y=self.facts.camera_y_size_px // self.settings.bin_y,
                deadline_s=deadline_s,
            )
            self._window_is_set = True
        asked_s = max(exposure_s, self.facts.exposure_min_s)
        position = (await self.wheel.status(deadline_s=deadline_s)).position if self.wheel is not None else None
        before_ns = self.clock.now_ns()
        await self.camera.start_exposure(asked_s, light=light, deadline_s=deadline_s)
        after_ns = self.clock.now_ns()
        try:
            status = await self._wait_for_image(asked_s, before_ns)
            image = await self.camera.read_image(deadline_s=IMAGE_LIMIT_S)
        except asyncio.CancelledError:
            await asyncio.shield(self.abort())
            raise
        rows, columns = image.pixels.shape
        wanted = (self.facts.camera_y_size_px // self.settings.bin_y, self.facts.camera_x_size_px // self.settings.bin_x)
        if (rows, columns) != wanted:
            raise DeviceLied(
                f"{columns} x {rows} pixels came, {wanted[1]} x {wanted[0]} were set",
                where="camera.image",
                remedy="Check the driver's window",
            )
        bracket_ns = after_ns - before_ns
        slack_ns = max(_NS, 3 * bracket_ns)
        said_ns = image.started_at_ns
        from_camera = said_ns is not None and before_ns - slack_ns <= said_ns <= after_ns + slack_ns
        started_ns = said_ns if from_camera and said_ns is not None else (before_ns + after_ns) // 2
        return Exposed(
            image=image,
            asked_s=exposure_s,
            started_ns=started_ns,
            start_error_s=bracket_ns / 2e9,
            from_camera=from_camera,
            status=status,
            filter_name=self.filters[position] if position is not None and position < len(self.filters) else None,
            filter_position=position,
        )

    async def _wait_for_image(self, exposure_s: float, started_ns: int) -> CameraStatus:
        """Poll: seldom while it exposes, often near the end. Real polls are bounded whatever the rate of the world."""
        end_real = time.monotonic() + self.clock.real_s(exposure_s + READOUT_LIMIT_S, floor_s=15.0)
        while True:
            status = await self.status()
            if status.camera_state is CameraState.ERROR:
                raise DeviceFault(
                    "the exposure has failed (camera state ERROR)", where="camera.state", remedy="Repeat it; else restart the camera"
                )
            self.tick()
            if status.image_ready:
                return status
            if time.monotonic() > end_real:
                raise DeviceTimeout(
                    f"no image after an exposure of {exposure_s:g} s, state {status.camera_state.name}",
                    where="camera.image_ready",
                    remedy="Restart the camera",
                )
            left_s = exposure_s - (self.clock.now_ns() - started_ns) / 1e9
            # Never longer than half the shortest lease, so that a long exposure counts as progress.
            await asyncio.sleep(min(0.5, max(0.01, self.clock.real_s(max(left_s, 0.0)) * 0.9)))


@dataclass(frozen=True, kw_only=True)
class Purpose:
    """Why a frame is taken."""

    frame_type: FrameType
    night: str
    frame_id: str
    number: int
    plan_id: str | None = None
    target_id: str | None = None
    object_name: str | None = None
    superevent_id: str | None = None
    target_ra_deg: float | None = None
    target_dec_deg: float | None = None
    flat_deviation: float | None = None
    sky_rate_adu_per_s: float | None = None
    flaw: str = ""
    """Why the frame, stored all the same, does not count towards what was asked for."""


@dataclass(frozen=True, kw_only=True)
class Circumstances:
    """The world around an exposure."""

    at_start: Pointed | None = None
    at_end: Pointed | None = None
    weather: WeatherStatus | None = None
    focuser: FocuserStatus | None = None


async def read_weather(weather: Weather | None) -> WeatherStatus | None:
    """The weather for the header; None when the station does not answer: safety, not the header, judges silence."""
    if weather is None:
        return None
    try:
        return await weather.status(deadline_s=weather.default_deadline_s)
    except DeviceError:
        return None


async def read_focuser(focuser: Focuser | None) -> FocuserStatus | None:
    """The focuser for the header; None when there is none, or when it does not answer: no frame is worth less for it."""
    if focuser is None:
        return None
    try:
        return await focuser.status(deadline_s=focuser.default_deadline_s)
    except DeviceError:
        return None


def _sky_values(exposed: Exposed, around: Circumstances, sky: SkyView) -> dict[Key, Value]:
    """Where it pointed. Positions are those read at the start; coverage is the worse of both ends."""
    start, end = around.at_start, around.at_end
    if start is None:
        return {}
    end = end or start
    middle_ns = exposed.started_ns + round(exposed.image.exposure_s * _NS / 2)
    place = sky.place(start.ra_deg, start.dec_deg, middle_ns)
    moon = sky.moon(start.ra_deg, start.dec_deg, middle_ns)
    side = start.mount.side_of_pier
    return known(
        {
            Key.FILTER: exposed.filter_name or "none",
            Key.FILTPOS: exposed.filter_position,
            Key.RA: start.ra_deg,
            Key.DEC: start.dec_deg,
            Key.RADESYS: "ICRS",
            Key.EQUINOX: 2000.0,
            Key.HA: place.hour_angle_h,
            Key.ALTITUDE: place.altitude_deg,
            Key.AZIMUTH: place.azimuth_deg,
            Key.AIRMASS: place.airmass,
            Key.PIERSIDE: None if side is PierSide.UNKNOWN else side.name.lower(),
            Key.MOONANGL: moon.separation_deg,
            Key.MOONPHAS: moon.illumination,
            Key.SUNALT: sky.sun_altitude_deg(middle_ns),
            Key.DOMEAZ: start.dome.azimuth_deg,
            Key.DOMEOK: start.coverage.covered and end.coverage.covered,
            Key.DOMEVIGN: round(max(start.coverage.vignetted, end.coverage.vignetted), 4),
        }
    )


def frame_data(
    exposed: Exposed,
    purpose: Purpose,
    around: Circumstances,
    *,
    driver: CameraDriver,
    sky: SkyView,
    site: Site,
    stage: int,
    clock: Clock,
) -> FrameData:
    """Pixels and the whole header. Blocking (ephemeris): call it in a worker thread."""
    settings, facts, image = driver.settings, driver.facts, exposed.image
    shape: tuple[int, int] = image.pixels.shape
    values: dict[Key, Any] = {
        **provenance_values(
            frame_type=purpose.frame_type,
            night=purpose.night,
            frame_id=purpose.frame_id,
            number=purpose.number,
            stage=stage,
            simulated=settings.simulated,
            clock_rate=clock.rate,
            plan_id=purpose.plan_id,
            superevent_id=purpose.superevent_id,
        ),
        **time_values(
            started_ns=exposed.started_ns,
            exposure_s=image.exposure_s,
            asked_s=exposed.asked_s,
            error_s=exposed.start_error_s,
            from_camera=exposed.from_camera,
        ),
        **site_values(site, telescope=settings.telescope, instrument=settings.instrument),
        **detector_values(
            camera=settings.camera,
            shape=shape,
            bin_x=settings.bin_x,
            bin_y=settings.bin_y,
            start_x=0,
            start_y=0,
            pixel_x_um=facts.pixel_size_x_um,
            pixel_y_um=facts.pixel_size_y_um,
            readout_mode=facts.readout_mode,
            gain_setting=facts.gain,
            offset_setting=facts.offset,
            gain_e_per_adu=driver.gain_e_per_adu,
            read_noise_e=settings.read_noise_e,
            saturation_adu=settings.saturation_adu,
            temperature_degc=exposed.status.ccd_temperature_degc,
            set_temperature_degc=settings.set_temperature_degc if settings.cooling_limit_s > 0 else None,
            cooler_percent=exposed.status.cooler_power_percent,
        ),
    }
    if purpose.frame_type not in (FrameType.BIAS, FrameType.DARK):
        values |= _sky_values(exposed, around, sky)
        if around.weather is not None:
            weather = around.weather
            values |= weather_values(
                temperature_degc=weather.temperature_degc,
                humidity_percent=weather.humidity_percent,
                wind_m_per_s=weather.wind_speed_m_per_s,
                pressure_hpa=weather.pressure_hpa,
                sky_temperature_degc=weather.sky_temperature_degc,
                age_s=max(0.0, weather.age_s(exposed.started_ns)) + weather.sensor_age_s.get("", 0.0),
            )
        if around.focuser is not None:
            values |= known({Key.FOCUSPOS: around.focuser.position, Key.FOCTEMP: around.focuser.temperature_degc})
    if purpose.frame_type is FrameType.FLAT:
        values |= known({Key.FLATDEV: purpose.flat_deviation, Key.SKYRATE: purpose.sky_rate_adu_per_s})
    elif around.at_start is not None and purpose.frame_type not in (FrameType.BIAS, FrameType.DARK):
        values |= known(
            {
                Key.OBJECT: purpose.object_name,
                Key.OBJID: purpose.target_id,
                Key.TARGRA: purpose.target_ra_deg,
                Key.TARGDEC: purpose.target_dec_deg,
            }
        )
        flipped = settings.turns_with_pier and around.at_start.mount.side_of_pier is PierSide.WEST
        values |= wcs_values(
            ra_deg=around.at_start.ra_deg,
            dec_deg=around.at_start.dec_deg,
            shape=shape,
            scale_arcsec=settings.pixel_scale_arcsec * settings.bin_x,
            rotation_deg=settings.rotation_deg + (180.0 if flipped else 0.0),
            mirrored=settings.mirrored,
        )
    return FrameData(
        pixels=image.pixels,
        frame_type=purpose.frame_type,
        frame_id=purpose.frame_id,
        camera=settings.camera,
        exposure_s=image.exposure_s,
        date_obs_ns=exposed.started_ns,
        values=values,
        filter_name=exposed.filter_name if purpose.frame_type not in (FrameType.BIAS, FrameType.DARK) else None,
        target_id=purpose.target_id,
        object_name=purpose.object_name,
        superevent_id=purpose.superevent_id,
        flaw=purpose.flaw,
    )
