"""The report of a night: what a reader must find in it, and what must never be in it."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser

import msgspec
import pytest
from PIL import Image

from nightbell.cli.report import write_report
from nightbell.cli.report_page import page, sexagesimal
from nightbell.cli.story import Lost, Story, Told, WorldTimes, real_ns_of
from nightbell.contracts.ids import uuid7

from . import nights


@pytest.fixture(scope="module")
def tell(tmp_path_factory) -> nights.Teller:
    return nights.telling(tmp_path_factory.mktemp("night"))


@pytest.fixture(scope="module")
def story(tell) -> Story:
    return nights.story_of(tell, injected=nights.NEW, truth={"dome_closed": True}, audit=Lost(checked={"events in journals": 40}))


@pytest.fixture(scope="module")
def text(story) -> str:
    return page(story)


class Outline(HTMLParser):
    """Headings, and whether every element that was opened is closed."""

    VOID = frozenset({"meta", "img", "br", "use", "path"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.headings: list[str] = []
        self.n_images = 0
        self.n_charts = 0

    def handle_starttag(self, tag, attrs):  # noqa: ARG002
        if tag == "img":
            self.n_images += 1
        if tag == "svg":
            self.n_charts += 1
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):  # noqa: ARG002
        self.n_images += tag == "img"

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in {"h1", "h2"}:
            self.headings.append(data)


def test_the_page_is_well_formed_and_shows_every_part_of_the_night(text):
    outline = Outline()
    outline.feed(text)
    assert outline.open == []
    assert outline.headings == [
        "The night of 2027-04-12 at demo",
        "Where it may have been",
        "The night",
        "Targets, and why",
        "The plan, and what became of it",
        "Frames, raw and calibrated",
        "What is new in the sky",
        "From alert to find: how long each step took",
        "States of the night",
        "Alarms",
        "Time line",
        "Processes",
    ]
    assert outline.n_charts == 3
    assert outline.n_images == 3
    assert "No sky map" not in text


def test_the_page_needs_no_network_no_other_file_and_no_script(text):
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)[^"']+""", text)
    assert "http://" not in text
    assert "https://" not in text
    assert "<script" not in text
    assert "@import" not in text
    assert not re.findall(r"url\((?!#)", text)


def test_every_picture_inside_the_page_can_be_opened(text, tmp_path):
    pictures = re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", text)
    assert len(pictures) == 3
    for number, picture in enumerate(pictures):
        path = tmp_path / f"{number}.png"
        path.write_bytes(base64.b64decode(picture))
        with Image.open(path) as opened:
            opened.verify()


def test_ids_of_the_charts_are_unique_within_the_page(text):
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    used = set(re.findall(r'href="#([^"]+)"', text)) | set(re.findall(r"url\(#([^)]+)\)", text))
    assert used <= set(ids)


def test_no_colour_of_a_chart_escapes_the_light_and_dark_palettes(text):
    charts = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    assert not [colour for chart in charts for colour in re.findall(r"#[0-9a-fA-F]{6}\b", chart)]


def test_what_stands_in_an_event_cannot_become_markup(text):
    assert "&lt;bright&gt; &amp; near" in text
    assert "<bright>" not in text


def test_latencies_are_told_in_real_time_and_in_the_time_of_the_world(story):
    steps = {one.step: one for one in story.latencies()}
    assert steps["targets ranked"].world_s == pytest.approx(30.0)
    assert steps["targets ranked"].real_s == pytest.approx(0.3, abs=0.002)
    assert steps["first visit"].world_s == pytest.approx(4200.0)
    assert steps["in all"].world_s == pytest.approx(4880.0)
    assert story.rate == pytest.approx(nights.RATE, rel=1e-3)


def test_each_target_says_what_became_of_it(story):
    assert {one.target.name: one.words for one in story.outcomes} == {
        "NGC4993": "observed",
        "IC4197": "observed",
        "NGC4970": "no star found to point by",
    }
    assert [one.n_calibrated for one in story.outcomes] == [2, 2, 0]
    assert story.targets_observed == ("ngc4993", "ic4197")


def test_the_find_is_measured_against_what_was_injected(story):
    nearest = story.nearest_candidate()
    assert nearest is not None
    assert nearest[0].candidate_id == "c1"
    assert nearest[1] == pytest.approx(0.3, abs=0.01)


def test_the_showpiece_is_of_the_field_where_something_new_was_found(story):
    pair = story.showpiece()
    assert pair is not None
    assert pair[0].target_id == "ngc4993"
    assert pair[1].source_sha256 == pair[0].sha256


def test_an_event_that_a_relay_carried_is_told_once(tell):
    assert len(Story(tell.told * 2, site=nights.SITE).events) == len(nights.story_of(tell).events)


def test_events_of_another_night_stay_out(tell):
    assert Story(tell.told, site=nights.SITE, night="2027-04-13").events == ()
    assert Story(tell.told, site=nights.SITE).nights == ("2027-04-12",)


def test_a_night_without_any_alert_gives_a_report_too(tell):
    told = [one for one in tell.told if one.type in {"night.changed", "module.up"}]
    text = page(Story(told, site=nights.SITE))
    assert "No alert was followed in this night." in text
    assert "States of the night" in text


def test_a_report_of_nothing_still_opens():
    assert "<h1>" in page(Story([], site=nights.SITE))


def test_files_that_are_gone_are_said_not_raised(tell, tmp_path):
    story = nights.story_of(tell)
    frame = next(iter(story.lights))
    lost = msgspec.structs.replace(frame, path=str(tmp_path / "gone.fits"))
    told = [
        Told(**{**vars(one), "event": msgspec.structs.replace(one.event, frames=(lost,))})
        if one.type == "frames.stored" and lost.frame_id in {x.frame_id for x in one.event.frames}
        else one
        for one in tell.told
    ]
    assert "No pair of frames" in page(Story(told, site=nights.SITE))


def test_the_report_is_written_whole_and_leaves_no_part(story, tmp_path):
    path = write_report(story, tmp_path / "deep" / "report.html")
    assert path.read_text(encoding="utf-8").endswith("</html>\n")
    assert [one.name for one in path.parent.iterdir()] == ["report.html"]


@pytest.mark.parametrize(
    ("ra_deg", "dec_deg", "text"),
    [
        (197.44875, -23.38389, "13:09:47.70 \u221223:23:02.0"),
        (0.0, 0.0, "00:00:00.00 +00:00:00.0"),
        (359.999999, -0.00001, "00:00:00.00 \u221200:00:00.0"),
        (15.0, 89.99999, "01:00:00.00 +90:00:00.0"),
    ],
)
def test_coordinates_round_without_a_sixtieth_second(ra_deg, dec_deg, text):
    assert sexagesimal(ra_deg, dec_deg) == text


def test_the_real_instant_stands_in_the_id():
    assert real_ns_of(uuid7(1_800_000_000_123_000_000)) == 1_800_000_000_123_000_000
    assert real_ns_of("not-a-uuid") is None


def test_a_system_clock_is_not_told_as_a_rate(tell):
    one, two = tell.told[1], tell.told[-1]
    assert WorldTimes.of([one, two]).rate == pytest.approx(100.0, rel=1e-3)
    assert WorldTimes.of([]) is None
