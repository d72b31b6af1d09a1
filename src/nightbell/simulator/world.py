"""The world: everything physical, by one clock and one seed, and the log of what truly happened.

    WorldTime -> World -> mount, dome, camera ... (closed forms of time)
                       -> advance(t): exposures end, the tube meets the pier, rain falls on the mirror -> truth log

Devices are views of it (members.py); nothing of nightbell is asked what happened: results of a simulated night are read here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import erfa
import numpy as np
from numpy.typing import NDArray

from nightbell.contracts.instants import format_utc, parse_utc
from nightbell.contracts.records import Site
from nightbell.simulator import sky
from nightbell.simulator.camera import CameraSim, Instant
from nightbell.simulator.clock import WorldTime
from nightbell.simulator.enclosure import vignetted_fraction
from nightbell.simulator.mount import SIDEREAL_DEG_PER_S, MountSim
from nightbell.simulator.optics import Glimpse, Seen, Source
from nightbell.simulator.parts import CoverSim, DomeSim, FocuserSim, WheelSim
from nightbell.simulator.settings import GalaxySettings, SimulatorSettings
from nightbell.simulator.weather import WeatherModel

__all__ = ["World"]

_STEP_S = 0.5
"""Resolution of the truth log, in seconds of the world."""
_LONGEST_LOG = 20_000

Render = Callable[[Seen, Callable[[NDArray[np.uint16]], None]], None]


class World:
    """The observatory and its sky. Used from one thread; `render` may work elsewhere but calls back in that thread."""

    def __init__(
        self, settings: SimulatorSettings, site: Site, *, time: WorldTime, render: Render, galaxies: tuple[GalaxySettings, ...] = ()
    ) -> None:
        self.settings, self.site, self.time = settings, site, time
        self.place = sky.Place(math.radians(site.longitude_deg), math.radians(site.latitude_deg), site.elevation_m)
        self._sidereal_deg = sky.sidereal_time_deg(time.began_ns, self.place)
        self.mount = MountSim(settings.mount, site.latitude_deg, self.sidereal_time_deg)
        self.dome = DomeSim(settings.dome)
        self.wheel = WheelSim(len(settings.camera.filters), settings.camera.filter_change_s)
        self.focuser = FocuserSim(settings.camera.focus_start_step)
        self.cover = CoverSim()
        self.weather = WeatherModel(settings.weather, settings.seed)
        self.camera = CameraSim(settings.camera, self._look, render, self._log_exposure)
        self.camera.band = self._band
        self.camera.sources = self._sources
        self.galaxies = (*settings.galaxies, *galaxies)
        self.transients: list[sky.Transient] = []
        self._sun: tuple[float, float, float] = (-math.inf, 0.0, 0.0)
        self._stepped_s = 0.0
        self._shutter_log: list[dict[str, Any]] = []
        self._shutter_last: int | None = None
        self.exposures: list[dict[str, Any]] = []
        self.seconds = {
            "rain_on_mirror_s": 0.0,
            "rain_in_dome_s": 0.0,
            "sun_on_mirror_s": 0.0,
            "open_in_daylight_s": 0.0,
            "open_s": 0.0,
            "vignetted_light_s": 0.0,
        }

    # --- time and sky
    def sidereal_time_deg(self, t_s: float) -> float:
        """Local apparent sidereal time."""
        return (self._sidereal_deg + SIDEREAL_DEG_PER_S * t_s) % 360.0

    def sun(self, t_s: float) -> tuple[float, float]:
        """(altitude, azimuth), at most 2 s of the world old."""
        if abs(t_s - self._sun[0]) > 2.0:
            self._sun = (t_s, *sky.sun(self.time.at_ns(t_s), self.place))
        return self._sun[1], self._sun[2]

    def _band(self) -> str:
        return self.settings.camera.filters[max(0, self.wheel.position(math.inf))]

    def _sources(self, band: str, t_s: float) -> Seen:
        at_ns = self.time.at_ns(t_s)
        sources = tuple(Source(one.ra_deg, one.dec_deg, mag) for one in self.transients if (mag := one.mag_at(band, at_ns)) is not None)
        return Seen(counter=0, exposure_s=0, band=band, sources=sources, galaxies=self.galaxies)

    def glimpse(self, t_s: float) -> Glimpse:
        """Where the camera truly looks, ICRS."""
        h, d = self.mount.true(t_s)
        up = d + 0.01 if d < 89.9 else d - 0.01
        ra, dec = sky.apparent_to_icrs(np.array([h, h]), np.array([d, up]), self.time.at_ns(t_s), self.place)
        angle = math.degrees(float(erfa.pas(*np.radians([ra[0], dec[0], ra[1], dec[1]]))))
        angle += self.settings.camera.angle_deg + (0.0 if up > d else 180.0) + (0.0 if self.mount.east(t_s) else 180.0)
        return Glimpse(float(ra[0]), float(dec[0]), angle % 360.0)

    def vignetted(self, t_s: float) -> float:
        """Share of the beam that the dome takes away, the shutter's own state apart."""
        h, d = self.mount.true(t_s)
        return vignetted_fraction(
            hour_angle_deg=h,
            declination_deg=d,
            east=self.mount.east(t_s),
            latitude_deg=self.site.latitude_deg,
            dome_azimuth_deg=self.dome.azimuth_deg(t_s),
            dome=self.settings.dome,
        )

    def _look(self, t_s: float) -> Instant:
        camera = self.settings.camera
        band = self._band()
        weather = self.weather.now(t_s)
        h, d = self.mount.true(t_s)
        altitude, azimuth = sky.altitude_azimuth(h, d, self.site.latitude_deg)
        airmass = 1.0 / math.sin(math.radians(max(altitude, 5.0)))
        vignetted = self.vignetted(t_s)
        share = (1.0 - vignetted) * self.dome.shutter.fraction(t_s) * self.cover.fraction(t_s)
        if altitude <= 0:
            share = 0.0
        sun_altitude, _ = self.sun(t_s)
        clouds = weather["cloud_cover_percent"] / 100.0
        zero_point = camera.zero_point_mag.get(band, 22.0)
        mag = self.sky_mag(t_s, band, altitude, azimuth, airmass) - 0.7 * clouds
        sky_rate = 10 ** (0.4 * (zero_point - mag)) * camera.scale_arcsec_per_px**2 * share
        lamp = 0.0
        if self.cover.cover_state(t_s) == 1 and self.cover.calibrator_state(t_s) == 3:
            lamp = 30.0 * self.cover.brightness
        defocus = abs(self.focuser.position(t_s) - self._best_focus(weather["temperature_degc"])) * 0.01
        return Instant(
            glimpse=self.glimpse(t_s),
            light_share=share,
            sky_e_per_s_px=sky_rate,
            lamp_e_per_s_px=lamp,
            airmass=airmass,
            cloud_mag=3.0 * clouds**2,
            seeing_arcsec=math.hypot(weather["seeing_arcsec"], defocus),
            vignetted=vignetted,
            sun_altitude_deg=sun_altitude,
        )

    def _best_focus(self, temperature_degc: float) -> float:
        camera = self.settings.camera
        return camera.best_focus_step + camera.focus_step_per_k * (temperature_degc - 10.0)

    def sky_mag(self, t_s: float, band: str, altitude_deg: float, azimuth_deg: float, airmass: float) -> float:
        """Brightness of the sky there, mag/arcsec2."""
        sun_altitude, sun_azimuth = self.sun(t_s)
        moon_altitude, moon_azimuth, fraction = sky.moon(self.time.at_ns(t_s), self.place)
        near = 1.0 + 0.5 * math.cos(math.radians(_separation_deg(altitude_deg, azimuth_deg, moon_altitude, moon_azimuth)))
        return sky.sky_mag(
            band,
            sun_altitude_deg=sun_altitude,
            sun_distance_deg=_separation_deg(altitude_deg, azimuth_deg, max(0.0, sun_altitude), sun_azimuth),
            moon_up_deg=moon_altitude,
            moon_fraction=min(1.0, fraction * near),
            airmass=airmass,
        )

    # --- what happens
    def advance(self) -> float:
        """Let happen what has happened until now; returns now, in seconds of the world."""
        now_s = self.time.now_s()
        step_s = max(_STEP_S, (now_s - self._stepped_s) / 2000)
        while self._stepped_s + step_s <= now_s:
            self._stepped_s += step_s
            self._step(self._stepped_s, step_s)
        self.camera.air_degc = self.weather.now(now_s)["temperature_degc"]
        self.mount.advance(now_s)
        self.camera.advance(now_s)
        self._log_shutter(now_s)
        return now_s

    def _step(self, t_s: float, step_s: float) -> None:
        self.mount.advance(t_s)
        self.camera.advance(t_s)
        self._log_shutter(t_s)
        if self.dome.shutter.fraction(t_s) <= 0.0:
            return
        uncovered = self.cover.fraction(t_s) > 0.0
        self.seconds["open_s"] += step_s
        if self.weather.rain_rate_mm_per_h(t_s) > 0:
            self.seconds["rain_in_dome_s"] += step_s
            self.seconds["rain_on_mirror_s"] += step_s * uncovered
        altitude, azimuth = self.sun(t_s)
        if altitude > -0.833:
            self.seconds["open_in_daylight_s"] += step_s
            h, d = self.mount.true(t_s)
            looks = sky.altitude_azimuth(h, d, self.site.latitude_deg)
            if uncovered and altitude > 0 and _separation_deg(*looks, altitude, azimuth) < 15.0:
                self.seconds["sun_on_mirror_s"] += step_s

    def _log_shutter(self, t_s: float) -> None:
        status = self.dome.shutter.status(t_s)
        if status != self._shutter_last and len(self._shutter_log) < _LONGEST_LOG:
            self._shutter_last = status
            self._shutter_log.append(
                {"utc": self.utc(t_s), "t_s": round(t_s, 2), "state": status, "fraction": round(self.dome.shutter.fraction(t_s), 3)}
            )

    def _log_exposure(self, seen: Seen, instants: list[Instant], start_s: float, light: bool) -> None:  # noqa: FBT001
        entry: dict[str, Any] = {
            "number": seen.counter,
            "start_utc": self.utc(start_s),
            "exposure_s": seen.exposure_s,
            "light": light,
            "filter": seen.band,
            "sky_e_per_px": round(seen.sky_e_per_px, 1),
            "light_share": round(seen.light_share, 4) if instants else 0.0,
            "dome_azimuth_deg": round(self.dome.azimuth_deg(start_s), 2),
        }
        if instants:
            middle = instants[len(instants) // 2]
            worst = max(one.vignetted for one in instants)
            entry |= {
                "ra_deg": round(middle.glimpse.ra_deg, 6),
                "dec_deg": round(middle.glimpse.dec_deg, 6),
                "angle_deg": round(middle.glimpse.angle_deg, 3),
                "vignetted": round(worst, 4),
                "seeing_arcsec": round(middle.seeing_arcsec, 2),
                "sun_altitude_deg": round(middle.sun_altitude_deg, 2),
                "airmass": round(middle.airmass, 3),
            }
            self.seconds["vignetted_light_s"] += seen.exposure_s * sum(one.vignetted for one in instants) / len(instants)
        if len(self.exposures) < _LONGEST_LOG:
            self.exposures.append(entry)

    def log(self) -> dict[str, Any]:
        """What was logged so far, to be recalled by a later server of the same world."""
        return {
            "stepped_s": self._stepped_s,
            "shutter": self._shutter_log,
            "shutter_last": self._shutter_last,
            "exposures": self.exposures,
            "seconds": self.seconds,
            "collisions": self.mount.collisions,
        }

    def recall_log(self, told: dict[str, Any]) -> None:
        """Go on from a log."""
        self._stepped_s = float(told["stepped_s"])
        self._shutter_log, self._shutter_last = list(told["shutter"]), told["shutter_last"]
        self.exposures, self.seconds = list(told["exposures"]), dict(told["seconds"])
        self.mount.collisions = [(float(t_s), str(what)) for t_s, what in told["collisions"]]

    # --- side channels
    def utc(self, t_s: float) -> str:
        return format_utc(self.time.at_ns(t_s))

    def add_transient(self, wish: dict[str, Any]) -> dict[str, Any]:
        """POST /sim/transient {ra_deg, dec_deg, mag: {band: mag}, t0_utc, decay_mag_per_day}."""
        t0_ns = parse_utc(str(wish["t0_utc"]), where="t0_utc") if wish.get("t0_utc") else self.time.now_ns()
        transient = sky.Transient(
            ra_deg=float(wish["ra_deg"]),
            dec_deg=float(wish["dec_deg"]),
            mag={str(band): float(mag) for band, mag in dict(wish["mag"]).items()},
            t0_ns=t0_ns,
            decay_mag_per_day=float(wish.get("decay_mag_per_day", 0.0)),
        )
        self.transients.append(transient)
        return {"transients": len(self.transients), "t0_utc": format_utc(t0_ns)}

    def truth(self) -> dict[str, Any]:
        """What truly happened."""
        now_s = self.advance()
        sun_altitude, _ = self.sun(now_s)
        shutter = self.dome.shutter
        h, d = self.mount.true(now_s)
        altitude, azimuth = sky.altitude_azimuth(h, d, self.site.latitude_deg)
        return {
            "now_utc": self.utc(now_s),
            "rate": self.time.rate,
            "shutter": self._shutter_log,
            "shutter_state": shutter.status(now_s),
            "shutter_fraction": round(shutter.fraction(now_s), 4),
            "dome_closed": shutter.status(now_s) == 1,
            "dome_azimuth_deg": round(self.dome.azimuth_deg(now_s), 3),
            "mount": {
                "altitude_deg": round(altitude, 4),
                "azimuth_deg": round(azimuth, 4),
                "hour_angle_deg": round(h, 4),
                "declination_deg": round(d, 4),
                "parked": self.mount.parked,
                "tracking": self.mount.tracking,
            },
            "vignetted_now": round(self.vignetted(now_s), 4),
            "cover_fraction": self.cover.fraction(now_s),
            "sun_altitude_deg": round(sun_altitude, 3),
            **{key: round(value, 1) for key, value in self.seconds.items()},
            "collisions": [{"utc": self.utc(t_s), "what": what} for t_s, what in self.mount.collisions],
            "exposures": self.exposures,
            "transients": [
                {"ra_deg": one.ra_deg, "dec_deg": one.dec_deg, "mag": dict(one.mag), "t0_utc": format_utc(one.t0_ns)}
                for one in self.transients
            ],
        }


def _separation_deg(altitude1: float, azimuth1: float, altitude2: float, azimuth2: float) -> float:
    a1, z1, a2, z2 = (math.radians(angle) for angle in (altitude1, azimuth1, altitude2, azimuth2))
    cosine = math.sin(a1) * math.sin(a2) + math.cos(a1) * math.cos(a2) * math.cos(z1 - z2)
    return math.degrees(math.acos(max(-1.0, min(1.0, cosine))))
