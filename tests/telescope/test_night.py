# ruff: noqa: ARG002 - the shapes of the Protocols are kept
"""Whole nights, walked by the dispatcher on a fast clock: what is stored, and what happens when things go wrong."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any, Self

import msgspec
import pytest

from nightbell.contracts.errors import Refused
from nightbell.contracts.events import Event, ObservationFailed
from nightbell.contracts.instants import format_utc, parse_utc
from nightbell.contracts.records import FrameRef, PlanItem
from nightbell.contracts.states import FrameType, NightState
from nightbell.devices.settings import DeviceSettings
from nightbell.sky.view import SkyView
from nightbell.telescope.activities import Activities, Batch, Counts
from nightbell.telescope.activities.ground import Ground
from nightbell.telescope.custody import Custody, Ledger
from nightbell.telescope.dispatcher import Dispatcher, NightRecord, Transition
from nightbell.telescope.dome_following import Coverage
from nightbell.telescope.instruments import Instruments
from nightbell.telescope.night_table import DomeReading, Trigger
from nightbell.telescope.settings import (
    CalibrationSettings,
    DomeSettings,
    InstrumentSettings,
    LightSettings,
    NightSettings,
    TelescopeSettings,
)

from .conftest import SITE, SqlTurn
from .small_observatory import FastClock, SmallCamera, SmallDome, SmallMount, SmallWheel

Begin = Callable[[], AbstractContextManager[SqlTurn]]
NIGHT = "2027-04-12"
SETTINGS = TelescopeSettings(
    devices={name: DeviceSettings() for name in ("dome", "mount", "camera", "filter_wheel")},
    instrument=InstrumentSettings(simulated=True, gain_e_per_adu=1.5),
    dome=DomeSettings(slit_back_deg=70, shutter_travel_s=20),
    calibration=CalibrationSettings(n_biases=3, n_darks=2, n_flats=3),
    lights=LightSettings(exposure_s=60, n_exposures=2, filters=("g", "r")),
    night=NightSettings(end_when_done=True, altitude_min_deg=20, idle_limit_s=7200),
)


class SmallOffice:
    """Safety that says what it is told, a plan that is given, frames and events in SQLite."""

    def __init__(self, begin: Begin) -> None:
        self.begin = begin
        self.plan: tuple[PlanItem, ...] = ()
        self.safe, self.lease, self.held = True, False, False
        self.transitions: list[Transition] = []
        self.events: list[Event] = []
        self.alarms: list[str] = []
        self.number = 0
        self.causes: list[str] = []
        self.reached = threading.Condition()

    def write(self, transition: Transition) -> None:
        with self.reached:
            self.transitions.append(transition)
            self.reached.notify_all()

    def wait_for(self, state: NightState, timeout_s: float = 25.0, times: int = 1) -> None:
        with self.reached:
            done = self.reached.wait_for(lambda: [t.after.state for t in self.transitions].count(state) >= times, timeout_s)
        assert done, f"{state} not reached: {[(t.after.state.value, t.after.reason) for t in self.transitions]} {self.alarms}"

    @property
    def states(self) -> list[str]:
        return [t.after.state.value for t in self.transitions]

    def alarm(self, key: str, text: str, *, critical: bool) -> None:
        self.alarms.append(text)

    def check_go(self) -> str:
        if not self.safe:
            raise Refused("rain", where="safety", remedy="Wait")
        return "GO"

    def take_lease(self) -> None:
        self.check_go()
        self.lease = True

    def give_back_lease(self) -> None:
        self.lease = False

    def close_by_safety(self, reason: str) -> None:
        self.alarms.append("safety was asked to close")

    def items(self) -> tuple[PlanItem, ...]:
        return self.plan

    def targets_are_known(self) -> bool:
        return bool(self.plan)

    def light_exposures_s(self) -> tuple[float, ...]:
        return (60.0,)

    def plan_again(self, cause: str) -> None:
        self.causes.append(cause)

    def counts(self, night: str) -> Counts:
        with self.begin() as turn:
            rows = turn.query(
                "SELECT frame_type, filter, exposure_s, target_id, count(*) FROM frames"
                " WHERE state = 'stored' AND reason = '' GROUP BY 1, 2, 3, 4"
            )
        return Counts({(FrameType(row[0]), row[1], row[2], row[3]): row[4] for row in rows})

    def next_number(self, night: str) -> int:
        self.number += 1
        return self.number

    def say(self, event: Event, subject: str) -> None:
        self.events.append(event)

    def store(self, batch: Batch, frames: tuple[FrameRef, ...], done: tuple[Event, str] | None) -> None:
        Ledger(self.begin).store(batch.night, batch.batch_id, frames, also=done)

    def is_acknowledged(self, state: NightState, since_ns: int) -> bool:
        return False

    def is_wanted(self, what: str) -> bool:
        return what == "hold" and self.held


class Night:
    """One telescope on a fast clock, its loop in a thread."""

    def __init__(self, tmp_path: Path, begin: Begin, *, start_utc: str, rate: float, record: NightRecord | None = None) -> None:
        self.clock = FastClock(parse_utc(start_utc), rate)
        self.sky = SkyView(SITE)
        self.office = SmallOffice(begin)
        self.ticks = 0
        self.instruments = Instruments(SETTINGS, SITE, self.sky, self.clock, self.tick)
        self.dome = SmallDome(self.clock)
        self.mount = SmallMount(self.clock, self.dome, self.sky)
        self.wheel = SmallWheel(self.clock)
        self.camera = SmallCamera(self.clock, self.dome, self.wheel, self.sky)
        for name, device in (("dome", self.dome), ("mount", self.mount), ("_camera", self.camera), ("wheel", self.wheel)):
            setattr(self.instruments, name, device)
        self.activities = Activities(
            self.instruments,
            self.office,
            Custody(tmp_path / "data", Ledger(begin)),
            settings=SETTINGS,
            site=SITE,
            stage=3,
            sky=self.sky,
            clock=self.clock,
            tick=self.tick,
            no_deadline=lambda: setattr(self.dispatcher, "no_deadline", True),
        )
        self.dispatcher = Dispatcher(
            record or NightRecord(since_ns=self.clock.now_ns()),
            self.activities.table(),
            self.office,
            self.clock,
            night_label=self.sky.night_label,
            read_dome=self.activities.first_dome_reading,
            stop_all=self.activities.stop_all,
            tick=self.tick,
            deadlines_s={NightState.IDLE_OPEN: SETTINGS.night.idle_limit_s},
            real_floor_s=1.0,
        )
        self.ended = asyncio.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def tick(self) -> None:
        self.ticks += 1

    def _run(self) -> None:
        async def walk() -> None:
            self.loop = asyncio.get_running_loop()
            await self.dispatcher.run(self.ended)
            await self.activities.settle()

        asyncio.run(walk())

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self.ended.set)
        self.thread.join(20)
        assert not self.thread.is_alive()


def item(name: str, filter_name: str, start_utc: str) -> PlanItem:
    start_ns = parse_utc(start_utc)
    return PlanItem(
        item_id=f"{name}-{filter_name}",
        target_id=name,
        name=name,
        ra_deg=197.4488,
        dec_deg=-23.3839,
        filter=filter_name,
        exposure_s=60.0,
        n_exposures=2,
        start_utc=start_utc,
        end_utc=format_utc(start_ns + 200_000_000_000),
        value=1.0,
        altitude_deg=40.0,
        superevent_id="S270412a",
    )


PLAN = (item("NGC4993", "g", "2027-04-12T23:35:00Z"), item("NGC4993", "r", "2027-04-12T23:40:00Z"))


@pytest.fixture
def make_night(tmp_path: Path, transaction: Begin) -> Callable[..., Night]:
    def make(**more: Any) -> Night:
        return Night(tmp_path, transaction, **more)

    return make


def stored(begin: Begin) -> dict[tuple[str, str | None], int]:
    with begin() as turn:
        rows = turn.query("SELECT frame_type, filter, count(*) FROM frames WHERE state = 'stored' GROUP BY 1, 2")
    return {(row[0], row[1]): row[2] for row in rows}


def test_a_night_by_the_sun_takes_biases_darks_flats_and_lights_and_closes(make_night: Callable[..., Night], transaction: Begin) -> None:
    with make_night(start_utc="2027-04-12T21:50:00Z", rate=700.0) as night:
        night.office.plan = PLAN
        night.office.wait_for(NightState.CLOSED)
        night.office.wait_for(NightState.DAY)
    # Between flats and the first item the night may wait open.
    walked = [state for state, _ in groupby(state for state in night.office.states if state != "idle_open")]
    assert walked == ["preparing", "ready", "opening", "twilight", "observing", "closing", "closed", "day"], night.office.alarms
    frames = stored(transaction)
    assert frames[("BIAS", None)] == 3
    assert frames[("DARK", None)] == 2
    assert (frames[("LIGHT", "g")], frames[("LIGHT", "r")]) == (2, 2)
    assert night.dome.opened_share == 0.0
    assert night.mount.parked
    assert not night.office.lease
    assert night.office.alarms == []
    with transaction() as turn:
        kinds = [row[0] for row in turn.query("SELECT type FROM outbox")]
    assert kinds.count("observation.done") == 2


def test_flats_are_taken_in_twilight_within_a_tenth_of_the_wanted_level(make_night: Callable[..., Night], transaction: Begin) -> None:
    from astropy.io import fits

    with make_night(start_utc="2027-04-12T22:10:00Z", rate=150.0) as night:
        night.office.wait_for(NightState.OBSERVING)
        night.dispatcher.wish(Trigger.CLOSE_NIGHT, "enough").result(10)
        night.office.wait_for(NightState.CLOSED)
    assert {name for kind, name in stored(transaction) if kind == "FLAT"} == {"g", "r"}, night.activities.note
    with transaction() as turn:
        refs = [msgspec.json.decode(row[0], type=FrameRef) for row in turn.query("SELECT frame FROM frames WHERE frame_type = 'FLAT'")]
    deviations = [fits.getheader(ref.path)["FLATDEV"] for ref in refs]
    assert all(abs(deviation) < 0.1 for deviation in deviations), deviations


def open_night(make_night: Callable[..., Night], state: NightState = NightState.IDLE_OPEN) -> Night:
    night = make_night(
        start_utc="2027-04-12T23:40:00Z",
        rate=100.0,
        record=NightRecord(state=state, night=NIGHT, since_ns=parse_utc("2027-04-12T23:40:00Z")),
    )
    night.dome.opened_share, night.dome.opening = 1.0, True
    return night


def test_unsafe_closes_the_dome_and_clear_opens_it_again(make_night: Callable[..., Night]) -> None:
    with open_night(make_night) as night:
        wait_until(lambda: night.office.lease)
        night.office.safe = False
        assert night.dispatcher.wish(Trigger.UNSAFE, "rain").result(10) is NightState.SHELTERING
        night.office.wait_for(NightState.PAUSED)
        assert night.dome.opened_share == 0.0
        assert not night.office.lease
        night.office.safe = True
        night.office.wait_for(NightState.TWILIGHT)
        assert night.dome.opened_share == 1.0


def wait_until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_restart_with_an_open_dome_and_no_go_closes_it(make_night: Callable[..., Night]) -> None:
    night = open_night(make_night, NightState.OBSERVING)
    night.office.safe = False
    with night:
        night.office.wait_for(NightState.PAUSED)
    assert night.office.states[:2] == ["sheltering", "paused"]
    assert "open" not in night.dome.calls


def test_an_observation_interrupted_by_a_kill_is_completed_not_repeated(make_night: Callable[..., Night], transaction: Begin) -> None:
    first = open_night(make_night, NightState.OBSERVING)
    first.office.plan = PLAN[:1]
    with first:
        wait_until(lambda: stored(transaction).get(("LIGHT", "g"), 0) == 2 or "1 of 2" in first.activities.note)
    n_before = stored(transaction).get(("LIGHT", "g"), 0)
    again = open_night(make_night, NightState.OBSERVING)
    again.office.plan = PLAN[:1]
    with again:
        again.office.wait_for(NightState.CLOSED)
    assert n_before <= 2
    assert stored(transaction)[("LIGHT", "g")] == 2


def test_an_abort_stops_every_device_and_holds_an_open_night(make_night: Callable[..., Night]) -> None:
    with open_night(make_night) as night:
        wait_until(lambda: night.office.lease)
        assert night.dispatcher.wish(Trigger.ABORT, "asked").result(10) is NightState.STOPPING
        night.office.wait_for(NightState.IDLE_OPEN)
        assert "abort" in night.dome.calls
        assert "abort" in night.mount.calls


def test_a_wish_without_a_row_is_refused_in_words(make_night: Callable[..., Night]) -> None:
    with open_night(make_night) as night, pytest.raises(Refused, match="idle_open"):
        night.dispatcher.wish(Trigger.PREPARE, "asked").result(10)


def test_a_stuck_shutter_asks_safety_and_never_counts_as_closed(make_night: Callable[..., Night]) -> None:
    night = open_night(make_night)
    with night:
        wait_until(lambda: night.office.lease)
        night.dome.stuck = True
        night.dispatcher.wish(Trigger.UNSAFE, "rain").result(10)
        night.office.wait_for(NightState.STUCK)
        wait_until(lambda: "safety was asked to close" in night.office.alarms)
    assert "paused" not in night.office.states


def test_a_camera_in_error_fails_the_item_at_once_and_the_night_waits_for_a_human(make_night: Callable[..., Night]) -> None:
    night = open_night(make_night, NightState.OBSERVING)
    night.office.plan = PLAN
    night.camera.fails = True
    with night:
        night.office.wait_for(NightState.FAULT)
        wait_until(lambda: night.dome.opened_share == 0.0)
    assert [type(event).__name__ for event in night.office.events].count("ObservationFailed") >= 1


def test_progress_stands_still_when_the_loop_is_blocked(make_night: Callable[..., Night]) -> None:
    with open_night(make_night) as night:
        wait_until(lambda: night.office.lease)
        blocked = threading.Event()
        night.loop.call_soon_threadsafe(lambda: (blocked.set(), time.sleep(1.0)))
        blocked.wait(5)
        before = night.ticks
        time.sleep(0.6)
        assert night.ticks == before


def test_a_restart_long_after_a_kill_while_closing_closes_and_is_not_stuck(make_night: Callable[..., Night]) -> None:
    # An hour without a process is no attempt to close.
    began_ns = parse_utc("2027-04-12T22:40:00Z")
    record = NightRecord(state=NightState.CLOSING, night=NIGHT, since_ns=began_ns)
    night = make_night(start_utc="2027-04-12T23:40:00Z", rate=100.0, record=record)
    night.dome.opened_share, night.dome.opening = 1.0, True
    with night:
        night.office.wait_for(NightState.CLOSED)
    assert "stuck" not in night.office.states
    assert night.dome.opened_share == 0.0


def test_an_abort_before_the_devices_have_answered_ends_no_night(make_night: Callable[..., Night]) -> None:
    night = make_night(start_utc="2027-04-12T16:00:00Z", rate=100.0)
    night.camera.away = True
    # The devices are read back by day only once they answer.
    night.dispatcher.read_dome = lambda _: asyncio.sleep(0, DomeReading.CLOSED)
    with night:
        assert night.dispatcher.wish(Trigger.ABORT, "asked").result(10) is NightState.STOPPING
        night.office.wait_for(NightState.DAY)
        assert night.thread.is_alive()


def test_a_camera_that_is_away_at_the_start_hides_no_open_dome(make_night: Callable[..., Night], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nightbell.telescope.activities.day.DEVICES_PATIENCE_S", 0.5)
    night = open_night(make_night, NightState.OBSERVING)
    night.camera.away = True
    with night:
        night.office.wait_for(NightState.PAUSED)
    assert night.dome.opened_share == 0.0
    assert "stuck" not in night.office.states


def test_a_dome_closed_by_somebody_else_ends_the_observation_and_no_frame_of_it_counts(
    make_night: Callable[..., Night], transaction: Begin
) -> None:
    night = open_night(make_night, NightState.OBSERVING)
    night.office.plan = PLAN
    with night:
        wait_until(lambda: "1 of 2" in night.activities.note)
        night.office.safe = False  # safety keeps it closed, and its event never comes
        night.dome.opening = False
        night.office.wait_for(NightState.SHELTERING)
        night.office.wait_for(NightState.PAUSED)
    assert "read back open" in night.office.transitions[0].after.reason
    assert night.office.counts(NIGHT).of(FrameType.LIGHT) == 0


def test_a_frame_that_the_slit_did_not_cover_is_kept_but_does_not_count(
    make_night: Callable[..., Night], transaction: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = Coverage(covered=False, vignetted=0.4)
    monkeypatch.setattr("nightbell.telescope.dome_following.DomeModel.coverage", lambda *_: nothing)
    night = open_night(make_night, NightState.OBSERVING)
    night.office.plan = PLAN[:1]
    with night:
        wait_until(lambda: [type(event).__name__ for event in night.office.events].count("ObservationFailed") == 2)
        night.office.wait_for(NightState.IDLE_OPEN)
    assert stored(transaction)[("LIGHT", "g")] == 4  # both attempts are on disk
    assert night.office.counts(NIGHT).of(FrameType.LIGHT) == 0
    failed = [event for event in night.office.events if isinstance(event, ObservationFailed)]
    assert "2 of 2 frames lost light" in failed[0].reason
    from astropy.io import fits

    with transaction() as turn:
        refs = [msgspec.json.decode(row[0], type=FrameRef) for row in turn.query("SELECT frame FROM frames")]
    assert all(fits.getheader(ref.path)["DOMEOK"] is False for ref in refs)


def test_a_human_on_site_stops_everything_that_moves(make_night: Callable[..., Night]) -> None:
    with open_night(make_night) as night:
        wait_until(lambda: night.office.lease)
        assert night.dispatcher.wish(Trigger.HUMAN_ON_SITE, "asked").result(10) is NightState.MANUAL
        assert "abort" in night.dome.calls
        assert "abort" in night.mount.calls


def test_a_restart_with_a_human_on_site_moves_nothing(make_night: Callable[..., Night]) -> None:
    night = open_night(make_night, NightState.MANUAL)
    night.office.safe = False
    with night:
        wait_until(lambda: night.activities.note.startswith("manual"))
    assert night.dome.opened_share == 1.0
    assert set(night.dome.calls) <= {"aclose"}


def test_an_abort_that_the_mount_never_confirms_still_ends_in_a_closed_dome(make_night: Callable[..., Night]) -> None:
    night = open_night(make_night)
    night.dispatcher.deadlines_s[NightState.STOPPING] = 15.0
    with night:
        wait_until(lambda: night.office.lease)
        night.mount.away = True
        assert night.dispatcher.wish(Trigger.ABORT, "asked").result(10) is NightState.STOPPING
        night.office.wait_for(NightState.IDLE_OPEN)
    assert night.office.states.count("stopping") == 2  # its own deadline led on


def test_a_night_paused_in_the_morning_does_not_wait_for_the_evening(make_night: Callable[..., Night]) -> None:
    record = NightRecord(state=NightState.PAUSED, night=NIGHT, since_ns=parse_utc("2027-04-13T10:10:00Z"))
    night = make_night(start_utc="2027-04-13T10:15:00Z", rate=100.0, record=record)
    assert -12 < night.sky.sun_altitude_deg(night.clock.now_ns()) < -5
    with night:
        night.office.wait_for(NightState.CLOSED)
    assert "opening" not in night.office.states


def test_one_failed_exposure_among_the_biases_does_not_end_the_night(make_night: Callable[..., Night], transaction: Begin) -> None:
    night = make_night(start_utc="2027-04-12T21:50:00Z", rate=300.0)
    night.camera.hiccups = 2
    with night:
        night.office.wait_for(NightState.READY)
        wait_until(lambda: stored(transaction).get(("BIAS", None), 0) == 3)
    assert "fault" not in night.office.states


def test_in_polar_night_the_night_ends_at_local_noon() -> None:
    sky = SkyView(msgspec.structs.replace(SITE, latitude_deg=85.0))
    noon_ns = parse_utc("2027-12-21T16:42:57Z")
    assert all(sky.sun_altitude_deg(noon_ns + h * 3_600_000_000_000) < -12 for h in range(24))
    assert sky.night_label(noon_ns - 60_000_000_000) == "2027-12-20"
    ground = Ground(
        None,  # type: ignore[arg-type]
        None,  # type: ignore[arg-type]
        settings=SETTINGS,
        site=SITE,
        stage=3,
        sky=sky,
        clock=FastClock(noon_ns + 60_000_000_000, 1.0),
        tick=lambda: None,
        no_deadline=lambda: None,
    )
    assert ground.is_another_night(NightRecord(state=NightState.OBSERVING, night="2027-12-20"))
    assert not ground.is_another_night(NightRecord(state=NightState.OBSERVING, night="2027-12-21"))


def test_a_target_that_passes_the_zenith_between_start_and_end_is_not_begun(make_night: Callable[..., Night]) -> None:
    night = make_night(start_utc="2027-04-12T23:40:00Z", rate=1.0)
    at_ns = night.clock.now_ns() + 60_000_000_000
    ra_deg, dec_deg = night.sky.from_horizontal(89.99, 0.0, at_ns + 1_800_000_000_000)
    one = msgspec.structs.replace(PLAN[0], ra_deg=ra_deg, dec_deg=dec_deg, exposure_s=60.0, n_exposures=60)
    assert night.sky.place(ra_deg, dec_deg, at_ns).altitude_deg < 88
    assert "above 88" in night.activities.observing._why_not(one, at_ns, 60)
    assert night.activities.observing._why_not(one, at_ns, 2) == ""


@pytest.mark.parametrize(
    ("trigger", "stage", "by_clock"),
    [("stage", 3, True), ("stage", 2, False), ("stage", 1, False), ("clock", 1, True), ("command", 3, False)],
)
def test_the_sun_alone_begins_a_night_only_where_nobody_else_is_to(
    make_night: Callable[..., Night], trigger: str, stage: int, *, by_clock: bool
) -> None:
    ground = make_night(start_utc="2027-04-12T21:50:00Z", rate=1.0).activities.ground
    ground.settings = replace(SETTINGS, night=replace(SETTINGS.night, trigger=trigger))
    ground.stage = stage
    assert ground.by_clock is by_clock
