"""The simulator as the process it is."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

OBSERVATORY = """
run = ["simulator"]
home = "state"
[site]
name = "demo"
latitude_deg = -29.2567
longitude_deg = -70.7377
elevation_m = 2400.0
[brokers.observatory]
door = "tcp://127.0.0.1:8461"
feed = "tcp://127.0.0.1:8462"
"""

START = """
import sys
from nightbell.settings import load_installation
from nightbell.simulator.process import run
sys.exit(run(load_installation(sys.argv[1]), "simulator"))
"""


@pytest.fixture
def installation(tmp_path):
    (tmp_path / "observatory.toml").write_text(OBSERVATORY, encoding="utf-8")
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "simulator.toml").write_text("port = 0\n[camera]\nwidth_px = 64\nheight_px = 64\n", encoding="utf-8")
    return tmp_path


def test_the_process_says_ready_answers_on_loopback_only_and_ends_when_told(installation):
    process = subprocess.Popen([sys.executable, "-c", START, str(installation)], stdout=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        assert line.startswith("READY ")
        ready = json.loads(line.removeprefix("READY "))
        assert ready["module"] == "simulator"
        assert ready["pid"] == process.pid
        with urllib.request.urlopen(f"{ready['alpaca']}/sim/clock", timeout=5) as answer:
            assert json.load(answer)["rate"] == 60.0
        token = installation / "state" / "simulator" / "side-channel.token"
        request = urllib.request.Request(f"{ready['alpaca']}/sim/truth", headers={"X-Token": token.read_text(encoding="utf-8").strip()})
        with urllib.request.urlopen(request, timeout=5) as answer:
            assert json.load(answer)["dome_closed"]
        if os.name == "posix":
            assert token.stat().st_mode & 0o077 == 0
            assert listens_only_on_loopback(int(ready["alpaca"].rsplit(":", 1)[1]))
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 0 or os.name != "posix"
    finally:
        process.kill()
        process.wait(timeout=10)
        process.stdout.close()


def listens_only_on_loopback(port: int) -> bool:
    """As the kernel's table has it."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]]
    listening = [row[1] for row in rows if row[3] == "0A" and int(row[1].split(":")[1], 16) == port]
    return [address.split(":")[0] for address in listening] == ["0100007F"]


def test_a_port_that_is_taken_is_named_with_its_remedy(installation):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        (installation / "modules" / "simulator.toml").write_text(f"port = {port}\n", encoding="utf-8")
        done = subprocess.run([sys.executable, "-c", START, str(installation)], capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode != 0
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr
    assert "give another" in done.stderr


def test_discovery_on_loopback_tells_the_port(small, site):
    from dataclasses import replace

    from nightbell.simulator.alpaca_server import DISCOVERY_PORT
    from nightbell.simulator.process import in_thread

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("127.0.0.1", DISCOVERY_PORT))
        except OSError:
            pytest.skip(f"UDP port {DISCOVERY_PORT} is used by another program here")
    with in_thread(replace(small, discovery=True), site) as simulator, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(5)
        asking.sendto(b"alpacadiscovery1", ("127.0.0.1", DISCOVERY_PORT))
        assert json.loads(asking.recv(1000)) == {"AlpacaPort": simulator.port}
