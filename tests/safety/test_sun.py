"""The kernel's Sun against astropy's."""

from __future__ import annotations

import subprocess
import sys
import warnings

import numpy as np
import pytest

from nightbell.contracts.instants import parse_utc
from nightbell.safety.sun import sun_altitude_deg


@pytest.mark.parametrize(
    ("latitude_deg", "longitude_deg"), [(-29.2567, -70.7377), (28.76, -17.88), (69.6, 19.0), (-77.8, 166.7), (0.0, 180.0)]
)
def test_the_kernels_sun_agrees_with_astropy_to_a_twentieth_of_a_degree(latitude_deg: float, longitude_deg: float) -> None:
    from astropy import units as u
    from astropy.coordinates import AltAz, EarthLocation, get_sun
    from astropy.time import Time

    began_ns = parse_utc("2026-11-01T00:00:00Z")
    # 37 h steps visit all hours and all seasons.
    at_ns = [began_ns + n * 37 * 3_600_000_000_000 for n in range(240)]
    place = EarthLocation(lat=latitude_deg * u.deg, lon=longitude_deg * u.deg)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old tables of leap seconds and polar motion shift the Sun by less than 0.01 deg
        times = Time(np.array(at_ns) / 1e9, format="unix")
        expected = get_sun(times).transform_to(AltAz(obstime=times, location=place)).alt.deg
    ours = [sun_altitude_deg(one, latitude_deg=latitude_deg, longitude_deg=longitude_deg) for one in at_ns]
    # The almanac's formula is good to 0.01 deg in longitude; parallax of the Sun (0.0024) and UT1-UTC are left out.
    assert np.abs(np.array(ours) - expected).max() < 0.05


def test_safety_decides_without_bus_numpy_and_astropy() -> None:
    code = (
        "import sys, nightbell.safety.kernel, nightbell.safety.rules;"
        "bad = [m for m in ('zmq', 'numpy', 'astropy', 'sqlite3', 'nightbell.bus') if m in sys.modules];"
        "print(bad); sys.exit(bool(bad))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
