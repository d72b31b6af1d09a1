"""astropy asks no network and refuses no date, in our processes and in a notebook that had it before us."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PLAN_IN = """
import socket, sys
def refused(*_, **__):
    raise AssertionError("somebody asked the network")
socket.getaddrinfo = socket.create_connection = refused
{first}
import numpy as np
from nightbell.contracts.instants import parse_utc
from nightbell.contracts.records import Site
from nightbell.planning.constraints import Limits, Request
from nightbell.planning.product import Wanted, make_plan, read_plan, verify
from nightbell.sky.offline import is_offline
one = Request(item_id="a", group="a", name="a", ra_deg=197.45, dec_deg=-23.38, filter="r", block_s=300.0, weight=1.0)
made = make_plan(
    [Wanted(request=one, target_id="a", exposure_s=60.0, n_exposures=3, rank=1)],
    night="{night}",
    site=Site(name="demo", latitude_deg=-29.2567, longitude_deg=-70.7377, elevation_m=2400.0),
    limits=Limits(sun_max_deg=-12.0, altitude_min_deg=25.0, altitude_max_deg=88.0, moon_separation_min_deg=5.0),
    start_ns=parse_utc("{night}T22:00:00Z"),
    slew_s=60.0,
    urgency_per_h=0.5,
)
assert len(made.items) == 1, made.rejected
assert verify(read_plan(made.document))["ok"]
assert is_offline()
"""


@pytest.mark.parametrize(
    ("night", "first"),
    [("2030-04-12", ""), ("2027-04-12", "import astropy.units, astropy.utils.iers, astropy.coordinates")],
    ids=["years after the end of the bundled table", "astropy imported first"],
)
def test_a_night_is_planned_without_network_whenever_and_whoever_came_first(tmp_path: Path, night: str, first: str) -> None:
    # A user's own empty configuration, so that astropy's defaults would hold.
    environment = {**os.environ, "XDG_CONFIG_HOME": str(tmp_path), "HOME": str(tmp_path)}
    environment.pop("ASTROPY_CONFIG_DIR", None)
    script = PLAN_IN.format(first=first, night=night)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_folder_of_the_users_own_does_not_bring_the_network_back(tmp_path: Path) -> None:
    environment = {**os.environ, "ASTROPY_CONFIG_DIR": str(tmp_path), "HOME": str(tmp_path)}
    script = PLAN_IN.format(first="", night="2030-04-12")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_each_process_has_astropy_offline_before_it_could_be_imported() -> None:
    names = ("telescope", "safety", "alerts", "calibration", "transients", "archive", "console")
    script = f"import {', '.join(f'nightbell.{name}.module' for name in names)}; from nightbell.sky.offline import is_offline\n"
    environment = {key: value for key, value in os.environ.items() if key != "ASTROPY_CONFIG_DIR"}
    command = [sys.executable, "-c", script + "assert is_offline()"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
