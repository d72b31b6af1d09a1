"""Events in one line, and the frames they name."""

from __future__ import annotations

from typing import ClassVar

import pytest

from nightbell.console.words import in_words, pictures_of
from nightbell.contracts.events import (
    EVENTS,
    AlarmRaised,
    CalibrationDone,
    Event,
    FramesStored,
    NightChanged,
    SafetyChanged,
    TransientsFound,
)
from nightbell.contracts.records import Candidate, FrameRef, ProductRef
from nightbell.contracts.states import FrameType, NightState, Severity, Verdict

FRAME = FrameRef(
    frame_id="f1",
    path="/data/x.fits",
    sha256="ab",
    size_bytes=1,
    frame_type=FrameType.LIGHT,
    camera="main",
    filter="r",
    exposure_s=60.0,
    date_obs_utc="2027-04-13T01:02:03Z",
    object_name="NGC4993",
)


def product(frame_type: str, frame_id: str | None = "f1") -> ProductRef:
    return ProductRef(
        product_id="p1",
        path="/out/x.fits",
        sha256="cd",
        source="/data/x.fits",
        source_sha256="ab",
        frame_id=frame_id,
        frame_type=frame_type,
        filter="r",
        exposure_s=60.0,
        object_name="NGC4993",
        masters={},
        median=1.0,
        noise=1.0,
    )


def test_an_event_is_said_in_the_words_of_the_night() -> None:
    changed = NightChanged(
        night="2027-04-12",
        state=NightState.OBSERVING,
        previous=NightState.READY,
        trigger="dark",
        reason="it is dark",
        at_utc="2027-04-13T00:00:00Z",
    )
    assert in_words(changed) == "ready \u2192 observing: it is dark"
    assert in_words(FramesStored(night="2027-04-12", batch_id="b", frames=(FRAME, FRAME))) == "2 LIGHT NGC4993 r"
    found = Candidate(candidate_id="c", ra_deg=197.0, dec_deg=-23.0, x_px=1.0, y_px=1.0, snr=9.0, mag=17.42)
    told = in_words(TransientsFound(night="n", target_id="t", product_ids=(), reference="r", candidates=(found,)))
    assert told == "t: NEW at 197.00000 -23.00000, mag 17.4, 9 sigma"
    done = CalibrationDone(night="n", batch_id="b", products=(product("LIGHT"),))
    assert in_words(done) == "1 frame of NGC4993"


def test_a_verdict_is_said_with_all_its_reasons() -> None:
    event = SafetyChanged(
        verdict=Verdict.UNSAFE, previous=Verdict.SAFE, reasons=("rain", "gust"), dome_shutter="closing", at_utc="2027-04-13T00:00:00Z"
    )
    assert in_words(event) == "unsafe, dome closing: rain; gust"


def test_a_type_that_somebody_added_is_said_by_its_fields() -> None:
    class MirrorWashed(Event, frozen=True, kw_only=True):
        """New."""

        type: ClassVar[str] = "mirror.washed"
        who: str
        depth_um: float
        spots: tuple[int, ...] = ()

    assert in_words(MirrorWashed(who="Maria", depth_um=0.5, spots=(1, 2))) == "who Maria, depth_um 0.5, 2 spots"


def test_a_line_has_an_end() -> None:
    event = AlarmRaised(alarm_id="1", key="k", severity=Severity.CRITICAL, text="x" * 5000)
    assert len(in_words(event)) == 600


def test_raw_frames_and_calibrated_lights_become_pictures_and_masters_do_not() -> None:
    (raw,) = pictures_of(FramesStored(night="n", batch_id="b", frames=(FRAME,)))
    assert (raw.kind, raw.frame_id, raw.path, raw.title) == ("raw", "f1", "/data/x.fits", "LIGHT NGC4993 r 60 s 2027-04-13T01:02:03Z")
    done = CalibrationDone(night="n", batch_id="b", products=(product("LIGHT"), product("FLAT"), product("LIGHT", None)))
    assert [(one.kind, one.path) for one in pictures_of(done)] == [("calibrated", "/out/x.fits")]


@pytest.mark.parametrize("kind", list(EVENTS))
def test_every_event_type_has_a_name_that_makes_a_method(kind: str) -> None:
    assert kind.replace(".", "_").isidentifier()
