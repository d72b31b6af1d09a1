"""What every driver must do, whatever stands behind it."""

from __future__ import annotations

import asyncio
import time

import pytest

from nightbell.contracts.errors import BadInput, DeviceError, DeviceFault, DeviceLied, DeviceLost, DeviceTimeout
from nightbell.devices import protocols
from nightbell.devices.faults import InvalidOperation, NotConnected, Parked
from nightbell.devices.registry import KINDS
from nightbell.devices.waiting import wait_until

D = 5.0
PROTOCOLS = {
    "dome": protocols.Dome,
    "mount": protocols.Mount,
    "camera": protocols.Camera,
    "filter_wheel": protocols.FilterWheel,
    "focuser": protocols.Focuser,
    "cover_calibrator": protocols.CoverCalibrator,
    "weather": protocols.Weather,
    "safety_monitor": protocols.SafetyMonitor,
    "switch": protocols.Switch,
}


def wait(bench, device, is_done, deadline_s=10.0):
    return bench.run(wait_until(lambda: device.status(deadline_s=D), is_done, what="test", deadline_s=deadline_s, poll_s=0.02))


@pytest.mark.parametrize("kind", KINDS)
def test_every_device_connects_says_who_it_is_and_satisfies_its_protocol(bench, kind):
    device = bench.open(kind, connect=False)
    identity = bench.run(device.connect(deadline_s=D))
    assert isinstance(device, PROTOCOLS[kind])
    assert identity.name.startswith("Simulated")
    assert identity.interface_version >= 2


@pytest.mark.parametrize("kind", KINDS)
def test_every_status_says_when_the_question_was_sent(bench, kind):
    device = bench.open(kind)
    before_ns, before_monotonic_ns = time.time_ns(), time.monotonic_ns()
    status = bench.run(device.status(deadline_s=D))
    assert before_ns <= status.read_at_ns <= time.time_ns()
    assert before_monotonic_ns <= status.read_monotonic_ns <= time.monotonic_ns()
    assert 0 <= status.real_age_s() < 5


def test_a_dome_begins_to_open_at_once_and_is_open_only_when_it_says_so(bench):
    dome = bench.open("dome")
    began = time.monotonic()
    bench.run(dome.open_shutter(deadline_s=D))
    assert time.monotonic() - began < 1.0
    first = bench.run(dome.status(deadline_s=D))
    assert first.shutter is protocols.ShutterState.OPENING
    assert first.slewing
    done = wait(bench, dome, lambda status: status.shutter is protocols.ShutterState.OPEN)
    assert not done.slewing


def test_a_dome_reaches_the_azimuth_it_was_sent_to(bench):
    dome = bench.open("dome")
    bench.run(dome.slew_to_azimuth(251.5, deadline_s=D))
    done = wait(bench, dome, lambda status: not status.slewing and abs(status.azimuth_deg - 251.5) < 0.1)
    assert done.at_park is False


def test_a_dome_stops_within_its_coast_when_aborted(bench):
    bench.simulator.post("rate", rate=1.0)
    dome = bench.open("dome")
    bench.run(dome.slew_to_azimuth(10.0, deadline_s=D))
    bench.run(dome.abort_slew(deadline_s=D))
    done = wait(bench, dome, lambda status: not status.slewing, deadline_s=3.0)
    assert abs(done.azimuth_deg - 180.0) < 2.0


def test_a_shutter_stopped_half_way_is_neither_open_nor_closed(bench):
    bench.simulator.post("rate", rate=5.0)
    dome = bench.open("dome")
    bench.run(dome.open_shutter(deadline_s=D))
    bench.run(dome.abort_slew(deadline_s=D))
    assert bench.run(dome.status(deadline_s=D)).shutter is protocols.ShutterState.ERROR


@pytest.mark.parametrize(
    ("kind", "call"),
    [
        ("dome", lambda device: device.slew_to_azimuth(400.0, deadline_s=D)),
        ("dome", lambda device: device.slew_to_azimuth(float("nan"), deadline_s=D)),
        ("mount", lambda device: device.slew_to_coordinates(25.0, 0.0, deadline_s=D)),
        ("mount", lambda device: device.slew_to_coordinates(5.0, -91.0, deadline_s=D)),
        ("camera", lambda device: device.start_exposure(-1.0, light=True, deadline_s=D)),
        ("filter_wheel", lambda device: device.set_position(-1, deadline_s=D)),
    ],
)
def test_a_wrong_value_is_refused_before_anything_is_sent(bench, kind, call):
    device = bench.open(kind, connect=False)  # not connected: the wire would say so
    with pytest.raises(BadInput, match="is outside"):
        bench.run(call(device))


def test_a_mount_slews_tracks_and_is_where_it_was_sent(bench):
    mount = bench.open("mount")
    with pytest.raises(Parked):
        bench.run(mount.slew_to_coordinates(13.2, -23.4, deadline_s=D))
    bench.run(mount.unpark(deadline_s=D))
    with pytest.raises(InvalidOperation, match="tracking is off"):
        bench.run(mount.slew_to_coordinates(13.2, -23.4, deadline_s=D))
    bench.run(mount.set_tracking(tracking=True, deadline_s=D))
    side = bench.run(mount.destination_side_of_pier(13.2, -23.4, deadline_s=D))
    bench.run(mount.slew_to_coordinates(13.2, -23.4, deadline_s=D))
    assert bench.run(mount.status(deadline_s=D)).slewing
    done = wait(bench, mount, lambda status: not status.slewing and abs(status.right_ascension_h - 13.2) < 0.001)
    assert done.declination_deg == pytest.approx(-23.4, abs=0.01)
    assert done.side_of_pier is side is protocols.PierSide.WEST
    bench.run(mount.park(deadline_s=D))
    assert not wait(bench, mount, lambda status: status.at_park).tracking


def test_a_sync_moves_what_the_mount_says_and_not_the_telescope(bench):
    mount = bench.open("mount")
    bench.run(mount.unpark(deadline_s=D))
    bench.run(mount.set_tracking(tracking=True, deadline_s=D))
    before = bench.simulator.truth()["mount"]
    said = bench.run(mount.status(deadline_s=D))
    bench.run(mount.sync_to_coordinates(said.right_ascension_h, said.declination_deg + 0.1, deadline_s=D))
    after = bench.run(mount.status(deadline_s=D))
    assert after.declination_deg == pytest.approx(said.declination_deg + 0.1, abs=1e-6)
    assert bench.simulator.truth()["mount"]["declination_deg"] == pytest.approx(before["declination_deg"], abs=1e-3)


def test_a_camera_exposes_reads_out_and_gives_a_frame_with_its_times(bench):
    camera = bench.open("camera")
    bench.run(camera.set_window(num_x=96, num_y=64, deadline_s=D))
    bench.run(camera.start_exposure(20.0, light=False, deadline_s=D))
    with pytest.raises(InvalidOperation, match="not idle"):
        bench.run(camera.start_exposure(1.0, light=False, deadline_s=D))
    wait(bench, camera, lambda status: status.image_ready)
    image = bench.run(camera.read_image(deadline_s=D))
    assert image.pixels.shape == (64, 96)
    assert image.pixels.dtype.name == "uint16"
    assert 480 < image.pixels.mean() < 530
    assert image.exposure_s == 20.0
    began = bench.simulator.truth()["exposures"][-1]["start_utc"]
    assert abs(image.started_at_ns - _ns(began)) < 2_000_000


def _ns(text):
    from nightbell.contracts.instants import parse_utc

    return parse_utc(text)


def test_a_window_and_binning_are_obeyed_and_not_transposed(bench):
    camera = bench.open("camera")
    bench.run(camera.set_window(bin_x=2, bin_y=2, start_x=4, start_y=2, num_x=40, num_y=30, deadline_s=D))
    bench.run(camera.start_exposure(0.0, light=False, deadline_s=D))
    wait(bench, camera, lambda status: status.image_ready)
    assert bench.run(camera.read_image(deadline_s=D)).pixels.shape == (30, 40)


def test_an_aborted_exposure_leaves_no_frame(bench):
    camera = bench.open("camera")
    bench.run(camera.start_exposure(300.0, light=False, deadline_s=D))
    bench.run(camera.abort_exposure(deadline_s=D))
    status = bench.run(camera.status(deadline_s=D))
    assert status.camera_state is protocols.CameraState.IDLE
    assert not status.image_ready
    with pytest.raises(DeviceFault):
        bench.run(camera.read_image(deadline_s=D))


def test_a_stopped_exposure_keeps_what_came(bench):
    camera = bench.open("camera")
    bench.run(camera.start_exposure(3000.0, light=False, deadline_s=D))
    bench.run(camera.stop_exposure(deadline_s=D))
    wait(bench, camera, lambda status: status.image_ready)
    assert bench.run(camera.read_image(deadline_s=D)).exposure_s < 300.0


def test_camera_state_5_is_seen_within_a_second_and_nobody_waits_for_image_ready(bench):
    camera = bench.open("camera")
    bench.run(camera.start_exposure(3000.0, light=False, deadline_s=D))
    bench.simulator.post("fault", device="camera", member="exposure", kind="stuck")

    def done(status):
        if status.camera_state is protocols.CameraState.ERROR:
            raise DeviceFault("the exposure failed", where="camera")
        return status.image_ready

    began = time.monotonic()
    with pytest.raises(DeviceFault):
        wait(bench, camera, done)
    assert time.monotonic() - began < 1.0


def test_a_cooler_gets_cold_and_says_its_power(bench):
    camera = bench.open("camera")
    bench.run(camera.set_cooler(on=True, target_degc=-10.0, deadline_s=D))
    done = wait(bench, camera, lambda status: status.ccd_temperature_degc < -9.0)
    assert done.cooler_on
    assert 0 < done.cooler_power_percent <= 100


def test_a_filter_wheel_counts_from_0_and_is_nowhere_on_the_way(bench):
    bench.simulator.post("rate", rate=10.0)
    wheel = bench.open("filter_wheel")
    assert bench.run(wheel.facts(deadline_s=D)).names == ("g", "r", "i")
    bench.run(wheel.set_position(1, deadline_s=D))
    assert bench.run(wheel.status(deadline_s=D)).is_moving
    assert wait(bench, wheel, lambda status: status.position == 1).position == 1
    with pytest.raises(DeviceFault, match="0x401"):
        bench.run(wheel.set_position(7, deadline_s=D))


def test_a_focuser_moves_and_halts(bench):
    focuser = bench.open("focuser")
    assert bench.run(focuser.facts(deadline_s=D)).absolute
    bench.run(focuser.move(5200, deadline_s=D))
    assert wait(bench, focuser, lambda status: not status.is_moving and status.position == 5200)
    bench.simulator.post("rate", rate=1.0)
    bench.run(focuser.move(9000, deadline_s=D))
    bench.run(focuser.halt(deadline_s=D))
    assert bench.run(focuser.status(deadline_s=D)).position < 6000


def test_a_cover_opens_and_a_lamp_warms_up(bench):
    bench.simulator.post("rate", rate=20.0)
    cover = bench.open("cover_calibrator")
    bench.run(cover.open_cover(deadline_s=D))
    assert bench.run(cover.status(deadline_s=D)).cover_state is protocols.CoverState.MOVING
    wait(bench, cover, lambda status: status.cover_state is protocols.CoverState.OPEN)
    bench.run(cover.calibrator_on(100, deadline_s=D))
    assert bench.run(cover.status(deadline_s=D)).calibrator_state is protocols.CalibratorState.NOT_READY
    assert wait(bench, cover, lambda status: status.calibrator_state is protocols.CalibratorState.READY).brightness == 100


def test_weather_tells_each_value_with_the_age_of_its_sensor(bench):
    weather = bench.open("weather")
    bench.simulator.post("weather", rain_rate_mm_per_h=4.0)
    status = wait(bench, weather, lambda status: status.rain_rate_mm_per_h == 4.0)
    assert status.sky_brightness_lux is None  # no such sensor: not 0
    assert 0 <= status.sensor_age_s["rain_rate_mm_per_h"] < 20.0
    assert status.dew_point_degc < status.temperature_degc


def test_a_safety_monitor_turns_unsafe_in_rain_and_an_error_is_no_answer(bench):
    monitor = bench.open("safety_monitor")
    assert bench.run(monitor.status(deadline_s=D)).is_safe
    bench.simulator.post("weather", rain_rate_mm_per_h=1.0)
    wait(bench, monitor, lambda status: not status.is_safe)
    bench.simulator.post("fault", device="safetymonitor", member="issafe", kind="error", value=0x501)
    with pytest.raises(DeviceFault, match="0x501"):
        bench.run(monitor.status(deadline_s=D))


def test_a_switch_reads_back_what_was_set(bench):
    switch = bench.open("switch")
    bench.run(switch.set_switch(1, on=True, deadline_s=D))
    assert bench.run(switch.status(deadline_s=D)).values[1] == 1.0
    with pytest.raises(DeviceFault):
        bench.run(switch.set_switch_value(2, 50.0, deadline_s=D))


def test_a_driver_that_was_restarted_is_connected_again_by_itself(bench):
    dome = bench.open("dome")
    bench.simulator.post("fault", device="dome", kind="driver_restart")
    assert bench.run(dome.status(deadline_s=D)).shutter is protocols.ShutterState.CLOSED


def test_a_device_never_connected_says_so(bench):
    dome = bench.open("dome", connect=False)
    with pytest.raises(NotConnected):
        bench.run(dome.open_shutter(deadline_s=D))


def test_power_loss_is_told_within_the_deadline_and_never_answered_with_an_old_value(bench):
    dome = bench.open("dome")
    bench.run(dome.status(deadline_s=D))
    bench.simulator.post("fault", device="dome", kind="power_off")
    began = time.monotonic()
    with pytest.raises(DeviceError):
        bench.run(dome.status(deadline_s=1.0))
    assert time.monotonic() - began < 1.5
    bench.simulator.post("fault", clear="dome")
    assert wait_reconnected(bench, dome).shutter is protocols.ShutterState.CLOSED


def wait_reconnected(bench, device):
    end = time.monotonic() + 12.0
    while True:
        try:
            return bench.run(device.status(deadline_s=1.0))
        except DeviceError:
            if time.monotonic() > end:
                raise


def test_a_hanging_member_ends_at_its_deadline_and_close_goes_through_meanwhile(bench):
    dome = bench.open("dome")
    bench.run(dome.open_shutter(deadline_s=D))
    bench.simulator.post("fault", device="dome", member="azimuth", kind="hang")
    spent = []

    async def scene():
        stuck = asyncio.create_task(dome.status(deadline_s=1.5))
        await asyncio.sleep(0)
        for _ in range(20):
            began = time.monotonic()
            await dome.close_shutter(deadline_s=D)
            spent.append(time.monotonic() - began)
        began = time.monotonic()
        with pytest.raises((DeviceTimeout, DeviceLost)):
            await stuck
        return time.monotonic() - began

    assert bench.run(scene()) < 2.0
    assert sorted(spent)[-2] < 0.2
    end = time.monotonic() + 5.0
    while not bench.simulator.truth()["dome_closed"]:
        assert time.monotonic() < end


def test_a_device_that_hangs_delays_no_other(bench):
    camera, dome = bench.open("camera"), bench.open("dome")
    bench.simulator.post("fault", device="camera", kind="hang")

    async def scene():
        stuck = asyncio.create_task(camera.status(deadline_s=1.0))
        await asyncio.sleep(0)
        began = time.monotonic()
        await dome.status(deadline_s=D)
        spent = time.monotonic() - began
        with pytest.raises(DeviceTimeout):
            await stuck
        return spent

    assert bench.run(scene()) < 0.3


def test_a_link_cut_in_the_middle_of_an_image_is_lost_and_nothing_partial_comes_back(bench):
    camera = bench.open("camera")
    bench.run(camera.start_exposure(0.0, light=False, deadline_s=D))
    wait(bench, camera, lambda status: status.image_ready)
    bench.simulator.post("fault", device="camera", member="imagearray", kind="half_answer")
    with pytest.raises(DeviceLost, match="the link was cut after"):
        bench.run(camera.read_image(deadline_s=D))
    bench.simulator.post("fault", clear="camera")
    assert bench.run(camera.read_image(deadline_s=D)).pixels.shape == (64, 96)


def test_a_stuck_shutter_is_seen_by_reading_back_and_not_believed(bench):
    dome = bench.open("dome")
    bench.run(dome.open_shutter(deadline_s=D))
    wait(bench, dome, lambda status: status.shutter is protocols.ShutterState.OPEN)
    bench.simulator.post("fault", device="dome", member="shutter", kind="stuck")
    bench.run(dome.close_shutter(deadline_s=D))  # answers, as it does in life
    with pytest.raises(DeviceTimeout):
        wait(bench, dome, lambda status: status.shutter is protocols.ShutterState.CLOSED, deadline_s=0.6)
    assert bench.simulator.truth()["shutter_fraction"] == 1.0
    bench.simulator.post("fault", clear="dome")
    bench.run(dome.close_shutter(deadline_s=D))
    wait(bench, dome, lambda status: status.shutter is protocols.ShutterState.CLOSED)


def test_the_wrong_device_behind_a_number_is_found_at_connect(bench):
    assert bench.run(bench.open("dome", connect=False, unique_id="nightbell-sim-dome").connect(deadline_s=D)).unique_id
    with pytest.raises(DeviceLied, match="is not 'somebody-else'"):
        bench.run(bench.open("dome", connect=False, unique_id="somebody-else").connect(deadline_s=D))


def test_a_value_of_the_wrong_type_or_range_is_a_lie(bench):
    dome = bench.open("dome")
    bench.simulator.post("fault", device="dome", member="azimuth", kind="wrong", value=417.0)
    with pytest.raises(DeviceLied, match="Azimuth"):
        bench.run(dome.status(deadline_s=D))
    bench.simulator.post("fault", clear="dome")
    bench.simulator.post("fault", device="dome", member="shutterstatus", kind="wrong", value=9)
    with pytest.raises(DeviceLied, match="ShutterState"):
        bench.run(dome.status(deadline_s=D))


def test_pixels_above_32767_survive_the_whole_path_from_the_lamp_to_the_array(bench):
    cover, camera = bench.open("cover_calibrator"), bench.open("camera")
    bench.run(cover.calibrator_on(255, deadline_s=D))
    wait(bench, cover, lambda status: status.calibrator_state is protocols.CalibratorState.READY)
    bench.run(camera.start_exposure(10.0, light=True, deadline_s=D))
    wait(bench, camera, lambda status: status.image_ready)
    pixels = bench.run(camera.read_image(deadline_s=D)).pixels
    assert 45000 < pixels.mean() < 55000


def test_a_mount_reaches_an_altitude_and_azimuth_with_tracking_off(bench):
    mount = bench.open("mount")
    bench.run(mount.unpark(deadline_s=D))
    bench.run(mount.slew_to_alt_az(50.0, 75.0, deadline_s=D))
    done = wait(bench, mount, lambda status: not status.slewing and abs(status.altitude_deg - 50.0) < 0.01)
    assert done.azimuth_deg == pytest.approx(75.0, abs=0.01)
    with pytest.raises(DeviceFault, match="below the horizon"):
        bench.run(mount.slew_to_alt_az(-5.0, 75.0, deadline_s=D))


def test_a_command_that_was_taken_and_not_done_is_found_by_reading_back(bench):
    dome = bench.open("dome")
    bench.simulator.post("fault", device="dome", member="openshutter", kind="lying")
    bench.run(dome.open_shutter(deadline_s=D))
    with pytest.raises(DeviceTimeout, match="not done within"):
        wait(bench, dome, lambda status: status.shutter is protocols.ShutterState.OPEN, deadline_s=0.5)


def test_a_frozen_sensor_repeats_itself_and_only_that_gives_it_away(bench):
    weather = bench.open("weather")
    bench.simulator.post("fault", device="observingconditions", member="*", kind="frozen")
    first = bench.run(weather.status(deadline_s=D))
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        last = bench.run(weather.status(deadline_s=D))
    assert (first.temperature_degc, first.humidity_percent, first.pressure_hpa) == (
        last.temperature_degc,
        last.humidity_percent,
        last.pressure_hpa,
    )
