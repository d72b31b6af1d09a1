"""The verdict, row by row, and the fail-open bugs of other observatories."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nightbell.contracts.states import Severity, Verdict
from nightbell.devices.settings import DeviceSettings
from nightbell.safety.evidence import Book, Reading, Seen, World
from nightbell.safety.rules import Action, Decision, Memory, hazards, unknown_past, verdict
from nightbell.safety.settings import WATCHABLE, SafetySettings, scaled

from .air import NOW, Air, S, course, report, seconds

TWO = SafetySettings(
    devices={"dome": DeviceSettings(), "weather": DeviceSettings(), "weather2": DeviceSettings(), "monitor": DeviceSettings()}
)


def decide(world: World, limits: SafetySettings, *, now_ns: int = NOW, memory: Memory | None = None) -> Decision:
    return verdict(world, memory or {}, now_ns, limits)


def play(limits: SafetySettings, *moments: tuple[float, Callable[[int], World]]) -> list[Decision]:
    """Decisions one after the other at NOW + seconds, memory handed on."""
    memory: Memory = {}
    made = []
    for after_s, world_at in moments:
        now_ns = NOW + seconds(after_s)
        made.append(verdict(world_at(now_ns), memory, now_ns, limits))
        memory = made[-1].memory
    return made


def is_safe(decision: Decision) -> bool:
    return decision.verdict is Verdict.SAFE


def test_fair_fresh_weather_at_night_is_safe(air: Air, limits: SafetySettings) -> None:
    decision = decide(air.world(), limits)
    assert is_safe(decision)
    assert decision.reasons == ()
    assert decision.against_opening == ()
    assert decision.alarms == ()


@pytest.mark.parametrize(
    ("quantity", "value", "words"),
    [
        ("rain_rate_mm_per_h", 0.01, "rain, 0.01 mm/h at weather"),
        ("wind_speed_m_per_s", 12.1, "wind 12.1 m/s in the mean (limit 12) at weather"),
        ("wind_gust_m_per_s", 17.1, "gust of 17.1 m/s (limit 17) at weather"),
    ],
)
def test_one_bad_sample_is_enough(air: Air, limits: SafetySettings, quantity: str, value: float, words: str) -> None:
    decision = decide(air.world(**{quantity: value}), limits)
    assert not is_safe(decision)
    assert words in decision.reasons


@pytest.mark.parametrize(
    ("values", "hold_s", "words"),
    [
        ({"humidity_percent": 91.0}, 120.0, "humidity 91 %"),
        ({"dew_point_degc": 10.5}, 120.0, "1.5 K above its dew point"),
        ({"sky_temperature_degc": -2.0}, 300.0, "sky minus air -14 K"),
    ],
)
def test_damp_and_cloud_must_last_before_they_count(
    air: Air, limits: SafetySettings, values: dict[str, float], hold_s: float, words: str
) -> None:
    early, late = play(limits, (0, lambda t: air.world(t, **values)), (hold_s, lambda t: air.world(t, **values)))
    assert is_safe(early)
    assert not is_safe(late)
    assert words in late.reasons[0]


def test_all_reasons_are_given_not_the_first(air: Air, limits: SafetySettings) -> None:
    decision = decide(air.world(rain_rate_mm_per_h=3.0, wind_gust_m_per_s=25.0), limits)
    assert len(decision.reasons) == 2


@pytest.mark.parametrize("quantity", WATCHABLE)
@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf, True, "12.0", "False"])
def test_what_is_no_number_is_unsafe(air: Air, limits: SafetySettings, quantity: str, value: object) -> None:
    assert not is_safe(decide(air.world(**{quantity: value}), limits))


@pytest.mark.parametrize("quantity", WATCHABLE)
def test_a_missing_quantity_is_unsafe(air: Air, limits: SafetySettings, quantity: str) -> None:
    station = air.weather()
    rest = {name: reading for name, reading in station.readings.items() if name != quantity}
    decision = decide(air.swap(air.world(), weather=replace(station, readings=rest)), limits)
    assert not is_safe(decision)
    assert any(quantity in reason for reason in decision.reasons)


def test_w1_an_old_reading_that_is_sent_again_is_not_fresh(air: Air, limits: SafetySettings) -> None:
    station = course(report(NOW - 90 * S), report(NOW, stamped_ns=NOW - 90 * S))
    assert station.answered_ns == NOW
    decision = decide(air.swap(air.world(), weather=station), limits)
    assert not is_safe(decision)
    assert any("90 s old" in reason for reason in decision.reasons)


def test_w2_a_stamp_from_the_future_is_invalid(air: Air, limits: SafetySettings) -> None:
    ahead = decide(air.swap(air.world(), weather=air.weather(age_s=-6.0)), limits)
    assert not is_safe(ahead)
    assert any("in the future" in reason for reason in ahead.reasons)
    assert is_safe(decide(air.swap(air.world(), weather=air.weather(age_s=-4.0)), limits))


@pytest.mark.parametrize("value", ["True", "False", 1, 1.0, 0, None, False, math.nan])
def test_w3_only_true_is_true(value: object) -> None:
    air = Air(TWO)
    assert is_safe(decide(air.world(), TWO))
    assert not is_safe(decide(air.swap(air.world(), monitor=air.monitor(value)), TWO))


def test_w3_stations_that_disagree_are_unsafe() -> None:
    air = Air(TWO)

    def world(now_ns: int) -> World:
        return air.swap(air.world(now_ns), weather2=air.weather(now_ns, source="weather2", temperature_degc=17.5, dew_point_degc=-5.0))

    early, late = play(TWO, (0, world), (60, world))
    assert is_safe(early)
    assert not is_safe(late)
    assert "temperature_degc: weather says 12, weather2 says 17.5" in late.reasons


def test_the_worse_of_two_stations_counts_at_once() -> None:
    air = Air(TWO)
    wet = air.weather(source="weather2", rain_rate_mm_per_h=0.2)
    assert not is_safe(decide(air.swap(air.world(), weather2=wet), TWO))


def test_w4_a_failed_update_is_unsafe_at_once(air: Air, limits: SafetySettings) -> None:
    station = course(report(NOW - S), report(NOW, fault="sensor broken"))
    decision = decide(air.swap(air.world(), weather=station), limits)
    assert not is_safe(decision)
    assert any("sensor broken" in reason for reason in decision.reasons)


def test_w6_a_source_that_never_spoke_is_unsafe(air: Air, limits: SafetySettings) -> None:
    world = air.world()
    assert not is_safe(decide(replace(world, sources={"dome": world.sources["dome"]}), limits))
    assert not is_safe(decide(air.swap(world, weather=Seen(source="weather", kind="weather")), limits))


def test_w7_silence_is_unsafe_at_the_stale_limit_whatever_is_tried_meanwhile(air: Air, limits: SafetySettings) -> None:
    good = report(NOW)
    silent = [report(NOW + n * S, lost="refused") for n in range(1, 60)]

    def after(n: int) -> bool:
        return is_safe(decide(air.swap(air.world(NOW + n * S), weather=course(good, *silent[:n])), limits, now_ns=NOW + n * S))

    assert after(20)
    assert not after(31)


def test_w8_news_from_a_stranger_changes_nothing() -> None:
    book = Book({"weather": "weather"}, keep_ns=S)
    book.post(replace(report(NOW), source="somebody"))
    assert book.sources()["weather"].readings == {}
    assert set(book.sources()) == {"weather"}


def test_w9_after_a_sensor_error_the_clear_time_runs_in_full(air: Air, limits: SafetySettings) -> None:
    def broken(now_ns: int) -> World:
        return air.swap(air.world(now_ns), weather=air.weather(now_ns, fault="sensor broken"))

    made = play(limits, (0, broken), (1, air.world), (1799, air.world), (1801, air.world))
    assert [is_safe(one) for one in made] == [False, False, False, True]
    assert made[2].clear_in_s == pytest.approx(1, abs=1.1)


def test_w10_flicker_does_not_reset_the_bad_timer(air: Air, limits: SafetySettings) -> None:
    def damp(now_ns: int) -> World:
        return air.world(now_ns, humidity_percent=95.0)

    moments = [(t, damp if t % 20 == 0 else air.world) for t in range(0, 130, 10)]
    made = play(limits, *moments)
    assert not is_safe(made[-1])


def test_w11_gusts_count_when_the_mean_is_low(air: Air, limits: SafetySettings) -> None:
    assert not is_safe(decide(air.world(wind_speed_m_per_s=2.0, wind_gust_m_per_s=18.0), limits))


def test_wind_clears_only_below_its_share_of_the_limit(air: Air, limits: SafetySettings) -> None:
    def gust(value: float) -> Callable[[int], World]:
        return lambda now_ns: air.world(now_ns, wind_gust_m_per_s=value)

    made = play(limits, (0, gust(18)), *((t, gust(15)) for t in range(100, 3000, 100)), (3000, gust(5)), (4099, gust(5)), (4101, gust(5)))
    assert [is_safe(one) for one in made[-3:]] == [False, False, True]
    assert is_safe(decide(gust(15)(NOW), limits))


def test_the_mean_wind_is_taken_over_its_time(air: Air, limits: SafetySettings) -> None:
    calm_then_storm = course(*(report(NOW + n * 60 * S, wind_speed_m_per_s=2.0 if n < 6 else 30.0) for n in range(11)))
    assert not is_safe(decide(air.swap(air.world(NOW + 600 * S), weather=calm_then_storm), limits, now_ns=NOW + 600 * S))
    one_peak = course(*(report(NOW + n * 60 * S, wind_speed_m_per_s=14.0 if n == 10 else 3.0) for n in range(11)))
    assert is_safe(decide(air.swap(air.world(NOW + 600 * S), weather=one_peak), limits, now_ns=NOW + 600 * S))


def test_a_station_that_repeats_itself_bit_by_bit_is_frozen(air: Air, limits: SafetySettings) -> None:
    station = course(*(report(NOW + n * 10 * S, wind_speed_m_per_s=3.0 + 0.1 * n) for n in range(62)))
    decision = decide(air.swap(air.world(NOW + 610 * S), weather=station), limits, now_ns=NOW + 610 * S)
    assert not is_safe(decision)
    assert any("frozen" in reason for reason in decision.reasons)


def test_a_dry_rain_gauge_is_not_frozen(air: Air, limits: SafetySettings) -> None:
    station = course(*(report(NOW + n * 10 * S, temperature_degc=12.0 + 0.01 * (n % 2)) for n in range(62)))
    assert is_safe(decide(air.swap(air.world(NOW + 610 * S), weather=station), limits, now_ns=NOW + 610 * S))


def test_few_identical_readings_are_not_frozen_however_long_they_last(air: Air, limits: SafetySettings) -> None:
    station = course(*(report(NOW + n * 60 * S) for n in range(12)))
    assert is_safe(decide(air.swap(air.world(NOW + 660 * S), weather=station), limits, now_ns=NOW + 660 * S))


# -- dome, lease, Sun, host ---------------------------------------------------------------------------------------------


def test_an_open_dome_with_a_renewed_lease_is_safe(air: Air, limits: SafetySettings) -> None:
    assert is_safe(decide(air.world(shutter="open", lease_age_s=5.0), limits))


@pytest.mark.parametrize("shutter", ["open", "opening", "closing", "error"])
def test_p2_a_lease_that_falls_silent_closes_the_dome(air: Air, limits: SafetySettings, shutter: str) -> None:
    decision = decide(air.world(shutter=shutter, lease_age_s=21.0), limits)
    assert not is_safe(decision)
    assert decision.alarms[0].severity is Severity.CRITICAL
    assert not is_safe(decide(air.world(shutter=shutter), limits)), "an open dome that nobody holds"


def test_a_lease_that_runs_out_while_the_rain_closes_the_dome_calls_nobody(air: Air, limits: SafetySettings) -> None:
    def wet(now_ns: int) -> World:
        return air.world(now_ns, shutter="closing", lease_age_s=21.0, rain_rate_mm_per_h=1.0)

    (decision,) = play(limits, (0, wet))
    assert not is_safe(decision)
    assert decision.alarms == ()


def test_before_the_start_nothing_was_known_so_the_clear_times_run_in_full(air: Air, limits: SafetySettings) -> None:
    memory = unknown_past(NOW, limits)
    assert not is_safe(decide(air.world(NOW + 1799 * S), limits, now_ns=NOW + 1799 * S, memory=memory))
    assert is_safe(decide(air.world(NOW + 1800 * S), limits, now_ns=NOW + 1800 * S, memory=memory))


def test_a_closed_dome_needs_no_lease(air: Air, limits: SafetySettings) -> None:
    assert is_safe(decide(air.world(shutter="closed", lease_age_s=9999.0), limits))


def test_p3_an_open_dome_with_unknown_weather_at_the_start_is_closed(air: Air, limits: SafetySettings) -> None:
    world = air.swap(air.world(shutter="open", lease_age_s=0.0), weather=Seen(source="weather", kind="weather"))
    assert not is_safe(decide(world, limits))


def test_p4_sunrise_closes_whatever_the_night_does(air: Air, limits: SafetySettings) -> None:
    world = air.world(shutter="open", lease_age_s=1.0)
    assert is_safe(decide(replace(world, sun_altitude_deg=-1.01), limits))
    assert not is_safe(decide(replace(world, sun_altitude_deg=-0.99), limits))
    assert not is_safe(decide(replace(world, sun_altitude_deg=None), limits))


def test_the_sun_on_an_open_dome_calls_a_human_only_when_it_stays_open(air: Air, limits: SafetySettings) -> None:
    def dawn(shutter: str) -> Callable[[int], World]:
        return lambda now_ns: replace(air.world(now_ns, shutter=shutter, lease_age_s=1.0), sun_altitude_deg=-0.5)

    opened, closing = play(limits, (0, dawn("open")), (9, dawn("closing")))
    assert opened.alarms == ()
    assert closing.alarms == ()
    *_, late = play(limits, (0, dawn("open")), (11, dawn("open")))
    assert [alert.key for alert in late.alarms] == ["safety.sunlight.dome"]


@pytest.mark.parametrize("shutter", [None, "unknown-age"])
def test_d7_a_dome_that_cannot_be_read_is_an_emergency(air: Air, limits: SafetySettings, shutter: str | None) -> None:
    dome = air.dome(None) if shutter is None else air.dome("closed", age_s=31.0)
    made = [decide(air.swap(air.world(), dome=dome), limits)]
    assert not is_safe(made[0])


def test_a_dome_unreadable_for_long_calls_a_human(air: Air, limits: SafetySettings) -> None:
    def mute(now_ns: int) -> World:
        return air.swap(air.world(now_ns), dome=Seen(source="dome", kind="dome", lost="refused"))

    first, later = play(limits, (0, mute), (31, mute))
    assert first.alarms == ()
    assert [alert.key for alert in later.alarms] == ["safety.dome.dome"]


def test_a_small_clock_jump_forbids_opening_and_a_large_one_closes(air: Air, limits: SafetySettings) -> None:
    small = decide(replace(air.world(), clock_jump_s=-0.6), limits)
    assert is_safe(small)
    assert small.against_opening
    assert not is_safe(decide(replace(air.world(), clock_jump_s=31.0), limits))
    assert not is_safe(decide(replace(air.world(), clock_jump_s=math.nan), limits))


def test_a_lost_broker_first_forbids_opening_then_closes(air: Air, limits: SafetySettings) -> None:
    def away(seconds_away: float) -> Decision:
        return decide(replace(air.world(), broker_lost_ns=NOW - seconds(seconds_away)), limits)

    assert away(9).against_opening == ()
    assert is_safe(away(11))
    assert away(11).against_opening
    assert not is_safe(away(61))


def test_a_full_disk_closes_after_its_time(air: Air, limits: SafetySettings) -> None:
    def full(now_ns: int) -> World:
        return replace(air.world(now_ns), free_bytes=10**6)

    first, last = play(limits, (0, full), (600, full))
    assert is_safe(first)
    assert first.alarms
    assert not is_safe(last)


def test_asked_to_close_it_closes_and_stays_so_for_a_while(air: Air, limits: SafetySettings) -> None:
    def asked(now_ns: int) -> World:
        return replace(air.world(now_ns), close_asked="storm seen from the window")

    made = play(limits, (0, asked), (59, air.world), (61, air.world))
    assert [is_safe(one) for one in made] == [False, False, True]
    assert "storm seen from the window" in made[0].reasons[0]


# -- the table ----------------------------------------------------------------------------------------------------------


def test_every_hazard_is_finite_and_only_grave_ones_shelter(limits: SafetySettings) -> None:
    table = hazards(limits)
    assert {name for name, row in table.items() if row.action is Action.NO_OPENING} == {"broker", "clock"}
    assert {name for name, row in table.items() if row.action is Action.TELL} == {"disk", "sunlight"}
    assert all(math.isfinite(row.hold_s) and math.isfinite(row.clear_s) for row in table.values())


def test_limits_of_a_fast_world_are_divided_but_never_below_two_seconds(limits: SafetySettings) -> None:
    fast = scaled(limits, 60.0)
    assert fast.rain.clear_s == 30.0
    assert fast.lease.lease_s == 2.0
    assert fast.humidity.hold_s == 2.0
    assert fast.sources.poll_s == limits.sources.poll_s, "sockets do not run faster"
    assert fast.wind.gust_limit_m_per_s == limits.wind.gust_limit_m_per_s
    assert scaled(limits, 1.0) == limits


# -- properties ---------------------------------------------------------------------------------------------------------

WORSE = {
    "rain_rate_mm_per_h": 1.0,
    "wind_speed_m_per_s": 1.0,
    "wind_gust_m_per_s": 1.0,
    "humidity_percent": 1.0,
    "dew_point_degc": 1.0,
    "sky_temperature_degc": 1.0,
}
"""Which way is worse; temperature and pressure have none."""

values = st.fixed_dictionaries(
    {},
    optional={
        "rain_rate_mm_per_h": st.sampled_from([0.0, 0.0, 0.1, 5.0, None]),
        "wind_speed_m_per_s": st.floats(0, 30),
        "wind_gust_m_per_s": st.floats(0, 40),
        "humidity_percent": st.floats(0, 100),
        "dew_point_degc": st.floats(-20, 12),
        "sky_temperature_degc": st.floats(-60, 12),
        "age_s": st.floats(-20, 120),
    },
)
shutters = st.sampled_from(["open", "closed", "opening", "closing", "error", None])
OF_THE_STATION = ("drop", "older", "future", "nan", "fault", "worse", "frozen", "lost")
OF_THE_REST = ("lease", "sun", "dome", "source", "monitor", "no monitor", "jump", "broker", "disk", "asked")
spoils = st.sampled_from(OF_THE_STATION + OF_THE_REST)


def spoil(world: World, how: str, quantity: str, by: float) -> World:
    """The same world with one input removed or made worse."""
    station = world.sources["weather"]
    reading = station.readings[quantity]
    match how:
        case "drop":
            station = replace(station, readings={k: v for k, v in station.readings.items() if k != quantity})
        case "older":
            # A stamp from the future made older may become right: that is no worsening, so those stay.
            old = {
                name: Reading(one.value, one.stamped_ns - seconds(10 * by) if one.stamped_ns <= NOW else one.stamped_ns)
                for name, one in station.readings.items()
            }
            station = replace(station, readings=old)
        case "future":
            ahead = {name: Reading(one.value, max(one.stamped_ns, NOW + 6 * S)) for name, one in station.readings.items()}
            station = replace(station, readings=ahead)
        case "nan":
            station = replace(station, readings={**station.readings, quantity: Reading(math.nan, reading.stamped_ns)})
        case "fault":
            station = replace(station, fault="broken")
        case "worse" if quantity in WORSE and isinstance(reading.value, float):
            worse = Reading(reading.value + by * WORSE[quantity], reading.stamped_ns)
            station = replace(station, readings={**station.readings, quantity: worse})
        case "frozen":
            station = replace(station, same_since_ns=NOW - seconds(100 * by), same_n=max(station.same_n, round(10 * by)))
        case "lost":
            station = replace(station, lost="refused", answered_ns=(station.answered_ns or NOW) - seconds(10 * by))
        case _:
            return spoil_rest(world, how, by)
    return replace(world, sources={**world.sources, "weather": station})


def spoil_rest(world: World, how: str, by: float) -> World:
    """The same, of what is not the weather station's."""
    match how:
        case "lease":
            return replace(world, lease=None)
        case "sun":
            return replace(world, sun_altitude_deg=None if by > 5 else (world.sun_altitude_deg or 0.0) + by)
        case "dome":
            return replace(world, sources={**world.sources, "dome": Seen(source="dome", kind="dome", lost="gone")})
        case "source":
            return replace(world, sources={name: seen for name, seen in world.sources.items() if name != "weather"})
        case "no monitor":
            return replace(world, sources={name: seen for name, seen in world.sources.items() if name != "monitor"})
        case "monitor":
            said = Reading(False if by > 5 else None, NOW)
            return replace(world, sources={**world.sources, "monitor": replace(world.sources["monitor"], readings={"is_safe": said})})
        case "jump":
            return replace(world, clock_jump_s=abs(world.clock_jump_s) + 10 * by)
        case "broker":
            away_ns = min(world.broker_lost_ns or NOW, NOW - seconds(10 * by))
            return replace(world, broker_lost_ns=away_ns)
        case "disk":
            return replace(world, free_bytes=round((world.free_bytes or 0) * by / 10))
        case "asked":
            return replace(world, close_asked="somebody asks")
    return world


@settings(max_examples=400, deadline=None)
@given(values, shutters, st.sampled_from([None, 1.0, 30.0]), spoils, st.sampled_from(WATCHABLE), st.floats(0, 10), st.booleans())
def test_removing_an_input_or_making_it_worse_never_turns_unsafe_into_safe(
    spec: dict[str, object], shutter: str | None, lease_age_s: float | None, how: str, quantity: str, by: float, held: bool
) -> None:
    limits = SafetySettings(devices={"dome": DeviceSettings(), "weather": DeviceSettings(), "monitor": DeviceSettings()})
    air = Air(limits)
    world = air.world(shutter=shutter, lease_age_s=lease_age_s, **spec)
    # With the memory of a bad time before, and without: neither may open the way.
    memory = verdict(world, {}, NOW - seconds(400), limits).memory if held else {}
    before, after = verdict(world, memory, NOW, limits), verdict(spoil(world, how, quantity, by), memory, NOW, limits)
    if before.verdict is Verdict.UNSAFE:
        assert after.verdict is Verdict.UNSAFE
    if before.against_opening:
        assert after.against_opening


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.floats(0.25, 900), st.booleans()), min_size=1, max_size=30))
def test_safe_is_only_said_after_a_whole_clear_time_without_rain(course_of_rain: list[tuple[float, bool]]) -> None:
    limits = SafetySettings(devices={"dome": DeviceSettings(), "weather": DeviceSettings()})
    air = Air(limits)
    memory: Memory = {}
    now_ns, wet_ns = NOW, None
    for after_s, rains in course_of_rain:
        now_ns += seconds(after_s)
        wet_ns = now_ns if rains else wet_ns
        decision = verdict(air.world(now_ns, rain_rate_mm_per_h=1.0 if rains else 0.0), memory, now_ns, limits)
        memory = decision.memory
        dry_enough = wet_ns is None or now_ns - wet_ns >= limits.rain.clear_s * 1e9
        assert is_safe(decision) == dry_enough
