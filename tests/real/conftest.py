"""The two brokers that notices come from in life: Comet for VOEvents, librdkafka's own cluster for Kafka. Real ports, real protocols."""

from __future__ import annotations

import importlib.util
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

TOOLS = Path(sys.executable).parent
DEADLINE_S = 30.0
TOPIC = "igwn.gwalert"
KAFKA = Path(__file__).resolve().parents[1] / "fakes" / "kafka_broker.py"


def free_ports(n: int) -> list[int]:
    held = [socket.socket() for _ in range(n)]
    for one in held:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


def listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def comet(tmp_path: Path) -> Iterator[tuple[int, int]]:
    """(port for senders, port for subscribers) of a running broker."""
    if importlib.util.find_spec("comet") is None or not (shutil.which("twist", path=str(TOOLS)) and (TOOLS / "comet-sendvo").exists()):
        pytest.skip("Comet is not installed: pip install Comet")
    receive, broadcast = free_ports(2)
    memory = tmp_path / "comet"
    memory.mkdir()
    command = [str(TOOLS / "twist"), "--log-format=text", "comet", "--receive", f"--receive-port={receive}", "--broadcast"]
    command += [f"--broadcast-port={broadcast}", "--broadcast-test-interval=0", "--author-whitelist=127.0.0.1/32"]
    command += ["--subscriber-whitelist=127.0.0.1/32", "--local-ivo=ivo://nightbell.test/broker", f"--eventdb={memory}"]
    with (tmp_path / "comet.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + DEADLINE_S
        while not (listening(receive) and listening(broadcast)):
            assert process.poll() is None, (tmp_path / "comet.log").read_text()
            assert time.monotonic() < deadline, "Comet does not listen"
            process.poll()
        yield receive, broadcast
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture
def kafka() -> Iterator[str]:
    """Address of a running broker with the topic igwn.gwalert."""
    if importlib.util.find_spec("confluent_kafka") is None:
        pytest.skip("confluent_kafka is not installed: pip install gcn-kafka")
    process = subprocess.Popen([sys.executable, str(KAFKA), TOPIC], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.stdin.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
