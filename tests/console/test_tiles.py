"""Statuses become tiles: what is unknown is a dash, what is old says so, a dead module is shown dead."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightbell.console.live import QUEUE, Hub, encode
from nightbell.console.tiles import STALE_S, TILES, Tile, make_tiles
from nightbell.console.watch import Heard, Watch
from nightbell.contracts.errors import Missing

from .house import SAFETY, TELESCOPE, until


def tiles(telescope: dict[str, Any], safety: dict[str, Any], *, answered: float | None = 99.0, error: str = "", rate: float = 1.0) -> Any:
    heard = {"telescope": Heard("telescope", telescope, answered, error), "safety": Heard("safety", safety, answered, error)}
    return make_tiles(heard, 100.0, rate=rate, connected=True)


def test_every_tile_is_made_from_nothing_and_says_unknown() -> None:
    made = make_tiles({}, 100.0, rate=1.0, connected=False)
    assert set(made) == set(TILES)
    assert made["night"].head == "unknown"
    assert made["safety"].state == "bad"
    assert not any(row.text == "0" for tile in made.values() for row in tile.rows)


def test_a_silent_module_keeps_its_last_words_and_they_grow_old() -> None:
    made = tiles(TELESCOPE, SAFETY, answered=40.0, error="no answer")
    assert made["night"].head == "observing"
    assert made["night"].age_s == 60.0
    assert "does not answer" in made["night"].note
    assert made["modules"].state == "bad"


def test_ages_of_the_world_are_shown_as_real_ones() -> None:
    assert tiles(TELESCOPE, SAFETY, rate=60.0)["mount"].age_s == pytest.approx(1.0 + 2.0 / 60.0)


def test_the_age_of_a_reading_counts_from_the_sensor_not_from_the_message() -> None:
    rain = next(row for row in tiles(TELESCOPE, SAFETY)["weather"].rows if row.label == "rain")
    assert rain.age_s == 2.0


def test_the_kernels_reading_of_the_dome_wins_over_the_telescopes() -> None:
    made = tiles(TELESCOPE, {**SAFETY, "shutter": "closed"})
    assert made["dome"].head == "closed"


def row(tile: Tile, label: str) -> str:
    return next(one.text for one in tile.rows if one.label == label)


def test_since_when_is_said_as_a_time_of_day_and_how_long_ago() -> None:
    assert row(tiles(TELESCOPE, SAFETY)["night"], "since") == "23:40:00 UTC, 10 min ago"


@pytest.mark.parametrize(
    ("clear_s", "reasons", "said"),
    [
        (0.0, ["the Sun is at 2.0 deg (limit -1)"], "when these have ended"),
        (1800.0, ["rain, 2 mm/h at weather"], "30 min after the last of these has ended"),
        (90.0, ["rain, 2 mm/h at weather (over now; its clear time runs)"], "in 90 s, if it stays so"),
    ],
)
def test_when_it_will_be_safe_again_is_no_promise(clear_s: float, reasons: list[str], said: str) -> None:
    safety = {**SAFETY, "verdict": "unsafe", "reasons": reasons, "clear_in_s": clear_s}
    assert row(tiles(TELESCOPE, safety)["safety"], "safe again") == said


def test_the_kernels_own_sun_is_as_old_as_its_answer_not_stale_after_a_second() -> None:
    sun = {"source": "kernel", "quantity": "sun_altitude", "value": -20.0, "unit": "deg", "age_s": 0.0, "limit_s": 1.0, "safe": True}
    (told,) = tiles(TELESCOPE, {**SAFETY, "evidence": [sun]})["weather"].rows
    assert told.limit_s == STALE_S


def test_a_lease_that_ran_out_with_the_dome_closed_is_held_by_nobody() -> None:
    lease = {"holder": "telescope:3", "age_s": 60.0, "limit_s": 20.0}
    assert row(tiles(TELESCOPE, {**SAFETY, "lease": lease, "shutter": "closed"})["safety"], "lease") == "nobody holds it"
    assert row(tiles(TELESCOPE, {**SAFETY, "lease": lease, "shutter": "open"})["safety"], "lease") == "held by telescope:3"


def test_a_plan_that_is_over_is_not_no_plan() -> None:
    assert tiles({**TELESCOPE, "plan": {"revision": 2, "n_items": 8, "next": []}}, SAFETY)["plan"].note == "All of it is over"
    assert tiles({**TELESCOPE, "plan": {"revision": 1, "n_items": 0, "next": []}}, SAFETY)["plan"].note == "Nothing is planned"


def test_a_safety_that_never_answered_has_no_good_word_about_alarms() -> None:
    made = make_tiles({}, 0.0, rate=1.0, connected=True)
    assert (made["alarms"].head, made["alarms"].state) == ("unknown", "bad")
    assert made["mount"].state == ""


def test_all_reasons_of_the_verdict_are_shown() -> None:
    made = tiles(TELESCOPE, {**SAFETY, "verdict": "unsafe", "reasons": ["rain", "gust"]})
    assert [row.text for row in made["safety"].rows if row.label == "because"] == ["rain", "gust"]


words = st.one_of(st.none(), st.booleans(), st.floats(), st.integers(), st.text(max_size=5), st.just([]), st.just({}))


@given(
    st.dictionaries(st.sampled_from(["state", "night", "since_age_s", "reason", "held", "last_frame", "doing"]), words),
    st.dictionaries(
        st.sampled_from(["verdict", "shutter", "clear_in_s", "reasons"]), words.filter(lambda word: not isinstance(word, int | float | str))
    ),
)
def test_no_status_however_odd_breaks_the_page(telescope: dict[str, Any], safety: dict[str, Any]) -> None:
    assert set(tiles(telescope, safety)) == set(TILES)


def test_a_silent_module_delays_no_other_and_its_error_is_kept() -> None:
    stopping = threading.Event()
    changed: list[str] = []

    def ask(module: str, timeout_s: float) -> dict[str, Any]:
        if module == "dead":
            stopping.wait(timeout_s)
            raise Missing("no answer", where=module)
        return {"state": "fine"}

    watch = Watch(("dead", "well"), ask, changed.append, poll_s=0.05, stopping=stopping)
    watch.start()
    until(lambda: changed.count("well") > 5)
    assert "dead" not in changed
    stopping.set()
    watch.join()
    assert watch.heard()["well"].report == {"state": "fine"}
    assert "no answer" in watch.heard()["dead"].error


def test_a_message_is_one_event_whatever_is_in_it() -> None:
    message = encode("log", {"text": "a\nevent: evil\n\ndata: x\r\n"}, seq=7)
    assert message.startswith(b"id: 7\nevent: log\ndata: ")
    assert message.count(b"\n\n") == 1
    assert msgspec.json.decode(message.split(b"data: ", 1)[1]) == {"text": "a\nevent: evil\n\ndata: x\r\n"}


def test_a_browser_that_does_not_read_costs_a_bounded_queue_and_is_told_to_load_anew() -> None:
    async def main() -> bytes:
        hub = Hub(lambda: {"utc": "now"})
        hub.attach(asyncio.get_running_loop())

        async def always() -> bool:
            return True

        stream = hub.stream(None, always)
        await anext(stream)
        for n in range(5 * QUEUE):
            hub.publish("log", {"n": n})
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        joined = await anext(stream)
        await stream.aclose()
        assert len(hub) == 0
        return joined

    joined = asyncio.run(main())
    assert joined.count(b"event: ") <= QUEUE + 1
    assert b"event: resync" in joined


def test_a_stream_whose_session_ended_ends() -> None:
    async def main() -> int:
        hub = Hub(lambda: {"utc": "now"})
        hub.attach(asyncio.get_running_loop())

        async def never() -> bool:
            return False

        return len([part async for part in hub.stream(None, never)])

    assert asyncio.run(asyncio.wait_for(main(), 5)) == 2
