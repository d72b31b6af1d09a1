"""The kernel against the simulated observatory, with no bus and no broker anywhere. Judged by the world's truth log."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nightbell.contracts.errors import Refused
from nightbell.contracts.records import Site
from nightbell.contracts.states import Severity, Verdict
from nightbell.devices.registry import open_device
from nightbell.devices.settings import DeviceSettings
from nightbell.safety.alarms import AlarmDesk, LogChannel
from nightbell.safety.kernel import Kernel, Told
from nightbell.safety.settings import (
    AlarmSettings,
    ClosingSettings,
    CloudSettings,
    HostSettings,
    HumiditySettings,
    LeaseSettings,
    RainSettings,
    SafetySettings,
    SourceSettings,
    WindSettings,
)
from nightbell.settings import load_installation
from nightbell.simulator.process import SimulatedObservatory, in_thread
from nightbell.simulator.settings import CameraSettings, EnclosureSettings, SimulatorSettings

SITE = Site(name="demo", latitude_deg=-29.2567, longitude_deg=-70.7377, elevation_m=2400.0)
TRAVEL_S = 1.5
WORLD = SimulatorSettings(
    port=0,
    rate=1.0,
    start_utc="2027-04-13T02:00:00Z",
    camera=CameraSettings(width_px=32, height_px=32),
    dome=EnclosureSettings(shutter_travel_s=TRAVEL_S),
)


class WorldClock:
    """The world's time, as its side channel tells it."""

    def __init__(self, simulator: SimulatedObservatory) -> None:
        said = simulator.clock()
        self._t0_ns, self._m0_ns, self.rate = int(said["t0_ns"]), int(said["m0_ns"]), float(said["rate"])

    def now_ns(self) -> int:
        return self._t0_ns + round(self.rate * (time.monotonic_ns() - self._m0_ns))


class Night:
    """A kernel over a simulated dome, and somebody who opens it and holds the lease."""

    def __init__(self, simulator: SimulatedObservatory, home: Path, settings: SafetySettings) -> None:
        self.simulator = simulator
        self.told: list[Told] = []
        self.rung: list[str] = []
        clock = WorldClock(simulator)
        self.desk = AlarmDesk(
            AlarmSettings(),
            home / "alarms.jsonl",
            (LogChannel(),),
            utc=lambda: "2027-04-13T02:00:00Z",
            tell=lambda alarm: self.rung.append(alarm.key),
        )
        self.kernel = Kernel(settings, SITE, clock, self.desk, home=home, tell=self.told.append)
        self.holding = threading.Event()
        self.progress = 0
        self.refusals: list[str] = []
        self._ended = threading.Event()
        self._holder = threading.Thread(target=self._hold, daemon=True)

    def start(self) -> None:
        self.desk.start()
        self.kernel.start()
        self._holder.start()

    def stop(self) -> None:
        self._ended.set()
        self._holder.join(timeout=5)
        self.kernel.stop()
        self.desk.stop()

    def _hold(self) -> None:
        while not self._ended.wait(0.3):
            if self.holding.is_set():
                self.progress += 1
                try:
                    self.kernel.renew_lease("telescope:1", self.progress)
                except Refused as error:
                    self.refusals.append(str(error))

    def verdict(self) -> Verdict | None:
        return self.kernel.decision.verdict if self.kernel.decision else None

    def open(self) -> None:
        """As the telescope does: GO, lease, open, all read back."""
        until(lambda: self.verdict() is Verdict.SAFE, 10)
        self.kernel.request_go()
        self.progress += 1
        self.kernel.renew_lease("telescope:1", self.progress)
        self.holding.set()
        put(self.simulator, "openshutter")
        until(lambda: self.simulator.truth()["shutter_state"] == 0, 10 * TRAVEL_S)
        until(lambda: self.kernel.report()["shutter"] == "open", 5)
        assert self.verdict() is Verdict.SAFE


def put(simulator: SimulatedObservatory, member: str) -> None:
    """A command of the telescope's, on a connection of its own."""
    import urllib.request

    for one, body in (("connected", b"Connected=True&ClientID=9&ClientTransactionID=1"), (member, b"ClientID=9&ClientTransactionID=2")):
        url = f"http://127.0.0.1:{simulator.port}/api/v1/dome/0/{one}"
        with urllib.request.urlopen(urllib.request.Request(url, body, method="PUT"), timeout=5) as answer:
            assert b'"ErrorNumber":0' in answer.read().replace(b" ", b"")


def until(is_so: Callable[[], bool], within_s: float) -> float:
    """Seconds until it is so; fails at the deadline."""
    began = time.monotonic()
    while not is_so():
        if time.monotonic() - began > within_s:
            pytest.fail(f"not so within {within_s} s")
        time.sleep(0.02)
    return time.monotonic() - began


def quick_settings(port: int, **more: object) -> SafetySettings:
    return SafetySettings(
        devices={"dome": DeviceSettings(port=port, deadline_s=1.0), "weather": DeviceSettings(port=port, deadline_s=1.0)},
        sources=SourceSettings(poll_s=0.5, stale_s=7.0, rain_stale_s=7.0, lost_s=2.0, clear_s=1.0, frozen_s=60.0),
        rain=RainSettings(clear_s=1.0),
        wind=WindSettings(mean_s=60.0, clear_s=1.0),
        humidity=HumiditySettings(clear_s=1.0),
        cloud=CloudSettings(clear_s=1.0),
        lease=LeaseSettings(lease_s=2.0, operator_hold_s=1.0),
        closing=ClosingSettings(travel_s=TRAVEL_S, retry_s=1.0, dome_stale_s=2.0, deadline_s=1.0),
        host=HostSettings(free_warn_mb=0, free_least_mb=0),
        **more,
    )


@pytest.fixture
def simulator() -> Iterator[SimulatedObservatory]:
    with in_thread(WORLD, SITE) as running:
        yield running


@pytest.fixture
def night(simulator: SimulatedObservatory, tmp_path: Path) -> Iterator[Night]:
    made = Night(simulator, tmp_path, quick_settings(simulator.port))
    made.start()
    yield made
    made.stop()


def test_rain_moves_the_shutter_within_three_seconds_and_it_is_read_closed(night: Night) -> None:
    night.open()
    night.simulator.post("weather", rain_rate_mm_per_h=2.0)
    # The station itself measures every 5 s: what counts is from its measurement to the shutter.
    until(lambda: float(get(night.simulator, "observingconditions", "rainrate")) > 0, 8)
    assert until(lambda: night.simulator.truth()["shutter_state"] in (1, 3), 3.0) <= 3.0
    until(lambda: night.simulator.truth()["dome_closed"], TRAVEL_S + 5)
    until(lambda: night.kernel.report()["closing"]["verified"], 3)
    assert any("rain" in reason for reason in night.kernel.report()["reasons"])


def get(simulator: SimulatedObservatory, device: str, member: str) -> str:
    import json
    import urllib.request

    with urllib.request.urlopen(f"http://127.0.0.1:{simulator.port}/api/v1/{device}/0/{member}", timeout=5) as answer:
        return str(json.load(answer)["Value"])


@pytest.mark.parametrize(
    "kind", ["hang", "error", pytest.param("power_off", marks=pytest.mark.slow), pytest.param("reset", marks=pytest.mark.slow)]
)
def test_weather_that_cannot_be_had_closes_the_dome(night: Night, kind: str) -> None:
    night.open()
    night.simulator.post("fault", device="observingconditions", member="*", kind=kind)
    until(lambda: night.simulator.truth()["dome_closed"], 8.0 + TRAVEL_S + 4)


def test_a_holder_that_is_killed_loses_the_dome(night: Night) -> None:
    night.open()
    night.holding.clear()
    until(lambda: night.simulator.truth()["shutter_state"] in (1, 3), 2.0 + 2.0)
    until(lambda: night.simulator.truth()["dome_closed"], TRAVEL_S + 4)
    assert "safety.lease.telescope" in night.rung


def test_a_lease_is_renewed_by_progress_not_by_a_timer(night: Night) -> None:
    night.open()
    night.holding.clear()
    stuck_at = night.progress
    deadline = time.monotonic() + 15
    refused = 0
    while not night.simulator.truth()["dome_closed"]:
        assert time.monotonic() < deadline
        try:
            night.kernel.renew_lease("telescope:1", stuck_at)
        except Refused:
            refused += 1
        time.sleep(0.1)
    assert refused > 10


def test_an_open_dome_at_the_start_without_a_lease_is_closed(simulator: SimulatedObservatory, tmp_path: Path) -> None:
    put(simulator, "openshutter")
    until(lambda: simulator.truth()["shutter_state"] == 0, 10)
    night = Night(simulator, tmp_path, quick_settings(simulator.port))
    night.start()
    until(lambda: simulator.truth()["dome_closed"], TRAVEL_S + 6)
    night.stop()


def test_a_go_token_of_before_the_rain_does_not_hold_after_it(night: Night) -> None:
    until(lambda: night.verdict() is Verdict.SAFE, 10)
    go = night.kernel.request_go()
    assert night.kernel.go_holds(go["go_id"])
    night.simulator.post("weather", rain_rate_mm_per_h=2.0)
    until(lambda: night.verdict() is Verdict.UNSAFE, 10)
    assert not night.kernel.go_holds(go["go_id"])
    with pytest.raises(Refused, match="rain"):
        night.kernel.request_go()
    with pytest.raises(Refused, match="rain"):
        night.kernel.renew_lease("telescope:1", 99)


def test_d6_close_asked_by_a_human_closes_at_once_whatever_the_mount_does(night: Night) -> None:
    night.open()
    night.simulator.post("fault", device="telescope", member="*", kind="hang")
    assert night.kernel.close("the operator wants it")["ordered"]
    assert until(lambda: night.simulator.truth()["shutter_state"] in (1, 3), 1.0) < 1.0
    until(lambda: night.simulator.truth()["dome_closed"], TRAVEL_S + 4)
    until(lambda: night.verdict() is Verdict.SAFE, 8)


def test_a_kernel_that_does_not_decide_gives_neither_go_nor_lease(simulator: SimulatedObservatory, tmp_path: Path) -> None:
    kernel = Night(simulator, tmp_path, quick_settings(simulator.port)).kernel
    with pytest.raises(Refused, match="nothing has been decided"):
        kernel.request_go()
    with pytest.raises(Refused, match="nothing has been decided"):
        kernel.renew_lease("telescope:1", 1)
    assert kernel.report()["verdict"] == "unsafe"


def test_a_clock_that_jumps_forbids_opening(simulator: SimulatedObservatory, tmp_path: Path) -> None:
    class Jumpy(WorldClock):
        ahead_ns = 0

        def now_ns(self) -> int:
            return super().now_ns() + self.ahead_ns

    night = Night(simulator, tmp_path, quick_settings(simulator.port))
    clock = Jumpy(simulator)
    night.kernel = Kernel(quick_settings(simulator.port), SITE, clock, night.desk, home=tmp_path, tell=night.told.append)
    night.start()
    until(lambda: night.verdict() is Verdict.SAFE, 10)
    clock.ahead_ns = 5_000_000_000
    until(lambda: bool(night.kernel.decision and night.kernel.decision.against_opening), 2)
    with pytest.raises(Refused, match="clock jumped"):
        night.kernel.request_go()
    assert night.verdict() is Verdict.SAFE, "an open dome may stay open"
    night.stop()


def test_a_host_that_slept_knows_nothing_any_more(simulator: SimulatedObservatory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(time, "CLOCK_BOOTTIME"):
        pytest.skip("this system's monotonic clock goes on while it sleeps")
    night = Night(simulator, tmp_path, quick_settings(simulator.port))
    night.start()
    until(lambda: night.verdict() is Verdict.SAFE, 10)
    real, slept_ns = time.clock_gettime_ns, 60_000_000_000
    monkeypatch.setattr(time, "clock_gettime_ns", lambda which: real(which) + slept_ns)
    until(lambda: night.verdict() is Verdict.UNSAFE, 2)
    night.stop()


def test_a_stuck_shutter_is_ordered_again_and_calls_a_human(night: Night) -> None:
    night.open()
    night.simulator.post("fault", device="dome", member="shutter", kind="stuck")
    night.kernel.close("test")
    until(lambda: any(alarm.key == "safety.stuck.dome" for alarm in night.desk.standing()), 15)
    night.simulator.post("fault", clear="dome")
    until(lambda: night.simulator.truth()["dome_closed"], TRAVEL_S + 6)


def test_an_alarm_of_a_run_before_clears_when_its_evidence_is_gone(simulator: SimulatedObservatory, tmp_path: Path) -> None:
    before = AlarmDesk(AlarmSettings(), tmp_path / "alarms.jsonl", (), utc=lambda: "2027-04-13T01:00:00Z")
    before.start()
    ours = ("safety.lease.telescope", "safety.stuck.dome", "safety.kernel")
    for key in (*ours, "archive.stuck"):
        before.raise_alarm(key, Severity.CRITICAL, "of the run before")
    until(lambda: len(before.standing()) == 4, 5)
    before.stop()
    night = Night(simulator, tmp_path, quick_settings(simulator.port))
    assert len(night.desk.standing()) == 4
    night.start()
    until(lambda: [alarm.key for alarm in night.desk.standing()] == ["archive.stuck"], 10)
    night.stop()


def test_a_driver_that_breaks_when_it_is_opened_still_gets_the_order_to_close(simulator: SimulatedObservatory, tmp_path: Path) -> None:
    put(simulator, "openshutter")
    until(lambda: simulator.truth()["shutter_state"] == 0, 10)
    broken = threading.Event()

    def breaks_once(kind: str, config: DeviceSettings, clock: object, *, name: str) -> object:
        if "close" in name and not broken.is_set():
            broken.set()
            raise ValueError("the driver has a bug")
        return open_device(kind, config, clock, name=name)

    night = Night(simulator, tmp_path, quick_settings(simulator.port))
    night.kernel = Kernel(
        quick_settings(simulator.port),
        SITE,
        WorldClock(simulator),
        night.desk,
        home=tmp_path,
        tell=night.told.append,
        open_device=breaks_once,
    )
    night.start()
    until(lambda: simulator.truth()["dome_closed"], TRAVEL_S + 6)
    assert broken.is_set()
    night.stop()


def test_an_answer_that_cannot_be_true_is_unsafe_at_once(night: Night) -> None:
    night.open()
    night.simulator.post("fault", device="observingconditions", member="*", kind="wrong", value=-999.0)
    until(lambda: night.verdict() is Verdict.UNSAFE, 5)
    first = next(told for told in night.told[::-1] if told.previous is Verdict.SAFE and told.decision.verdict is Verdict.UNSAFE)
    assert not any(" s old" in reason or " is lost" in reason for reason in first.decision.reasons), "not first when it is old"
    until(lambda: night.simulator.truth()["dome_closed"], TRAVEL_S + 4)


def test_a_telescope_that_was_started_again_after_the_clock_was_set_back_gets_its_lease(night: Night) -> None:
    until(lambda: night.verdict() is Verdict.SAFE, 10)
    night.kernel.renew_lease("telescope:1", 1_000_000)
    night.kernel.renew_lease("telescope:2", 5)
    with pytest.raises(Refused, match="has not grown"):
        night.kernel.renew_lease("telescope:2", 5)
    with pytest.raises(Refused, match="has not grown"):
        night.kernel.renew_lease("telescope:1", 1_000_000)


def test_a_dome_that_cannot_be_read_is_closed_through_the_other_connection(night: Night) -> None:
    night.open()
    night.simulator.post("fault", device="dome", member="shutterstatus", kind="hang")
    until(lambda: night.simulator.truth()["dome_closed"], 4.0 + TRAVEL_S + 6)


def test_the_kernel_goes_on_when_nobody_can_be_told(simulator: SimulatedObservatory, tmp_path: Path) -> None:
    night = Night(simulator, tmp_path, quick_settings(simulator.port))

    def raises(told: Told) -> None:
        raise RuntimeError("the module is dead")

    night.kernel._tell = raises
    night.start()
    until(lambda: night.verdict() is Verdict.SAFE, 10)
    night.progress += 1
    night.kernel.renew_lease("telescope:1", night.progress)
    night.stop()


def test_what_is_told_says_verdict_shutter_and_reasons(night: Night) -> None:
    night.open()
    night.kernel.close("test")
    until(lambda: night.told[-1].shutter == "closed", TRAVEL_S + 5)
    verdicts = [told.decision.verdict for told in night.told if told.verdict_changed]
    assert verdicts[0] is Verdict.UNSAFE, "unknown at the start"
    assert Verdict.SAFE in verdicts
    assert any("closing was asked: test" in reason for told in night.told for reason in told.decision.reasons)
    assert night.rung == [], "an ordinary closing calls nobody"


@pytest.mark.slow
def test_the_demos_settings_keep_a_good_night_open_at_sixty_fold_speed_and_close_in_rain(tmp_path: Path) -> None:
    world = replace(WORLD, rate=60.0, dome=EnclosureSettings(shutter_travel_s=25.0))
    demo = load_installation(Path(__file__).resolve().parents[2] / "conf/demo").module_settings("safety", SafetySettings)
    with in_thread(world, SITE) as simulator:
        devices = {name: replace(one, port=simulator.port) for name, one in demo.devices.items()}
        night = Night(simulator, tmp_path, replace(demo, devices=devices))
        night.start()
        # Ten minutes of the world for the clear times: ten seconds here.
        until(lambda: night.verdict() is Verdict.SAFE, 20)
        night.open()
        end = time.monotonic() + 6.0
        while time.monotonic() < end:
            assert night.verdict() is Verdict.SAFE, night.kernel.report()["reasons"]
            time.sleep(0.05)
        simulator.post("weather", rain_rate_mm_per_h=2.0)
        until(lambda: simulator.truth()["dome_closed"], 5)
        night.stop()
