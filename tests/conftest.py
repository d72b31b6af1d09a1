"""Fixtures that every folder of tests may use."""

from __future__ import annotations

import os
import socket
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from nightbell.cli import BLAS_THREADS
from nightbell.cli.supervisor import Supervisor
from nightbell.settings import load_installation

# As in our processes; here, before a test loads numpy.
for name in BLAS_THREADS:
    os.environ.setdefault(name, "1")

# A property is true or not; how long a busy machine needs for an example (the first text builds its tables) says nothing about it.
settings.register_profile("nightbell", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("nightbell")

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all-real", action="store_true", help="a skipped test of a third-party part fails: all are installed here")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    of_third_parties = item.get_closest_marker("real") or item.get_closest_marker("browser")
    if report.skipped and of_third_parties and item.config.getoption("--all-real"):
        why = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome, report.longrepr = "failed", f"with --all-real it must run. {why}"
    return report


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real notices, sky maps, catalogues and CCD frames; skips where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"real data are not beside this clone ({SHARED_DATA.name}/ in ../shared)")
    return SHARED_DATA


class SmallInstallation:
    """One broker and, when asked for, modules that need no telescope: real processes on free ports."""

    def __init__(self, folder: Path) -> None:
        self.conf = folder / "conf"
        (self.conf / "modules").mkdir(parents=True)
        self.door, self.feed = free_address(), free_address()
        self.configure(["broker:observatory", "archive"])
        self._supervisor: Supervisor | None = None

    def configure(self, run: list[str], *, keys: str = "") -> None:
        text = f"""
run = {run!r}
home = "state"
keys = "{keys}"
[site]
name = "demo"
latitude_deg = -29.2567
longitude_deg = -70.7377
[brokers.observatory]
door = "{self.door}"
feed = "{self.feed}"
"""
        (self.conf / "observatory.toml").write_text(text, encoding="utf-8")

    @property
    def home(self) -> Path:
        return self.conf / "state"

    def start(self, *names: str) -> None:
        """Start them, the first before the others; a killed one is started again."""
        said: list[str] = []
        self._supervisor = Supervisor(load_installation(self.conf), names, tell=lambda name, text: said.append(f"{name} {text}"))
        self._supervisor.start(wait_s=60, in_waves=[wave for wave in (names[:1], names[1:]) if wave])

    def kill(self, name: str) -> None:
        assert self._supervisor is not None
        self._supervisor.kill(name)

    def ready(self, name: str) -> dict:
        """What a process said when it was ready."""
        assert self._supervisor is not None
        told = self._supervisor.children[name].ready
        assert told is not None
        return told

    def stop(self) -> None:
        if self._supervisor is not None:
            self._supervisor.stop()
            self._supervisor = None


def free_address() -> str:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{one.getsockname()[1]}"


@pytest.fixture
def small_installation(tmp_path: Path) -> Iterator[SmallInstallation]:
    """An installation of one broker that can be started, killed and stopped."""
    one = SmallInstallation(tmp_path / "installation")
    yield one
    one.stop()
