"""A frame as the camera leaves it, and the ledger on a real SQLite file."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nightbell.contracts.events import Event
from nightbell.contracts.frames import Key, new_frame_id
from nightbell.contracts.records import Site
from nightbell.contracts.states import FrameType
from nightbell.telescope.custody import SCHEMA
from nightbell.telescope.header import (
    FrameData,
    detector_values,
    provenance_values,
    site_values,
    time_values,
    wcs_values,
    weather_values,
)

STARTED_NS = 1_807_571_405_123_000_000  # 2027-04-12T23:10:05.123Z
SITE = Site(name="demo", latitude_deg=-29.2567, longitude_deg=-70.7377, elevation_m=2400.0)


def make_frame(
    frame_type: FrameType = FrameType.LIGHT, *, filter_name: str = "r", camera: str = "main", frame_id: str | None = None
) -> FrameData:
    """40 x 30 pixels, two of them above 32767, with every value a real frame has."""
    pixels = np.full((30, 40), 1000, dtype=np.uint16)
    pixels[2, 3], pixels[29, 39] = 40000, 65535
    frame_id = frame_id or new_frame_id()
    values: dict[Key, Any] = {
        **time_values(started_ns=STARTED_NS, exposure_s=30.0, asked_s=30.0, error_s=0.01, from_camera=True),
        **site_values(SITE, telescope="T1", instrument="CCD"),
        **detector_values(
            camera=camera,
            shape=(30, 40),
            bin_x=1,
            bin_y=1,
            start_x=0,
            start_y=0,
            pixel_x_um=9.0,
            pixel_y_um=9.0,
            readout_mode=0,
            gain_setting=None,
            offset_setting=None,
            gain_e_per_adu=1.5,
            read_noise_e=6.0,
            saturation_adu=60000.0,
            temperature_degc=-20.1,
            set_temperature_degc=-20.0,
            cooler_percent=45.0,
        ),
        **provenance_values(
            frame_type=frame_type,
            night="2027-04-12",
            frame_id=frame_id,
            number=7,
            stage=3,
            simulated=True,
            clock_rate=60.0,
            plan_id="item-1",
            superevent_id="S270412a",
        ),
    }
    if frame_type not in (FrameType.BIAS, FrameType.DARK):
        values |= {
            Key.FILTER: filter_name,
            Key.FILTPOS: 1,
            Key.RA: 197.45,
            Key.DEC: -23.38,
            Key.RADESYS: "ICRS",
            Key.EQUINOX: 2000.0,
            Key.HA: -2.5,
            Key.ALTITUDE: 55.0,
            Key.AZIMUTH: 90.0,
            Key.AIRMASS: 1.22,
            Key.MOONANGL: 80.0,
            Key.MOONPHAS: 0.4,
            Key.SUNALT: -20.0,
            Key.DOMEAZ: 91.0,
            Key.DOMEOK: True,
            Key.DOMEVIGN: 0.0,
            **weather_values(
                temperature_degc=12.0, humidity_percent=30.0, wind_m_per_s=3.0, pressure_hpa=770.0, sky_temperature_degc=-20.0, age_s=5.0
            ),
        }
    if frame_type is FrameType.FLAT:
        values |= {Key.FLATDEV: 0.01, Key.SKYRATE: 1234.5}
    if frame_type not in (FrameType.BIAS, FrameType.DARK, FrameType.FLAT):
        values |= {
            Key.OBJECT: "NGC4993",
            Key.OBJID: "glade-1",
            Key.TARGRA: 197.45,
            Key.TARGDEC: -23.38,
            **wcs_values(ra_deg=197.45, dec_deg=-23.38, shape=(30, 40), scale_arcsec=1.2, rotation_deg=0.0, mirrored=False),
        }
    return FrameData(
        pixels=pixels,
        frame_type=frame_type,
        frame_id=frame_id,
        camera=camera,
        exposure_s=30.0,
        date_obs_ns=STARTED_NS,
        values=values,
        filter_name=filter_name,
        target_id="glade-1",
        object_name="NGC4993",
        superevent_id="S270412a",
    )


class SqlTurn:
    """A transaction with the outbox in the same SQLite file, as the bus keeps it."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection

    def execute(self, sql: str, params: tuple[Any, ...] = ()) -> Any:
        return self.connection.execute(sql, params)

    def query(self, sql: str, params: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        return list(self.connection.execute(sql, params))

    def publish(self, event: Event, subject: str) -> Any:
        self.connection.execute("INSERT INTO outbox VALUES (?, ?)", (event.type, subject))

    def raise_alarm(self, key: str, severity: str, text: str, **evidence: Any) -> Any:  # noqa: ARG002
        self.connection.execute("INSERT INTO outbox VALUES ('alarm.raised', ?)", (key,))


@pytest.fixture
def transaction(tmp_path: Path) -> Iterator[Callable[[], AbstractContextManager[SqlTurn]]]:
    connection = sqlite3.connect(tmp_path / "module.db", isolation_level=None, check_same_thread=False)
    lock = threading.RLock()
    connection.executescript(SCHEMA + "CREATE TABLE outbox (type TEXT, subject TEXT);")

    @contextmanager
    def begin() -> Iterator[SqlTurn]:
        with lock:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield SqlTurn(connection)
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    yield begin
    connection.close()
