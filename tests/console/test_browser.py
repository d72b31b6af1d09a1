"""The console in a real browser: entering by the one-time link, live tiles and events, abort, a narrow screen."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from nightbell.console.words import LogRow, Picture
from nightbell.contracts.commands import Abort, AcknowledgeAlarm, CloseDome

from .house import RunningConsole, until

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [
    pytest.mark.browser,
    # Playwright's own loop and pipes are closed by its collector, not by us.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


def chromium() -> str:
    for name in ("chromium", "chromium-browser", "google-chrome", "chrome"):
        found = shutil.which(name)
        if found is not None:
            return found
    pytest.skip("no Chromium here; install it: apt-get install chromium (or `playwright install chromium` and put it on PATH)")


@pytest.fixture
def page(console: RunningConsole) -> Iterator[Page]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: uv pip install playwright")
    path = chromium()
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS), env={**os.environ, "NO_PROXY": "127.0.0.1"})
        context = browser.new_context(viewport={"width": 1280, "height": 900})
        made = context.new_page()
        made.set_default_timeout(15_000)
        made.problems = problems = []  # type: ignore[attr-defined]
        made.on("pageerror", lambda error: problems.append(str(error)))
        made.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        made.foreign = foreign = []  # type: ignore[attr-defined]
        made.on("request", lambda request: None if request.url.startswith(console.url) else foreign.append(request.url))
        yield made
        browser.close()


def enter(page: Any, console: RunningConsole) -> None:
    page.goto(f"{console.url}/enter/{console.users.make_link()}")
    page.get_by_label("Your name").fill("maria")
    page.get_by_role("button", name="Enter").click()
    page.wait_for_url(f"{console.url}/")


def test_a_night_in_the_browser(page: Any, console: RunningConsole) -> None:
    enter(page, console)
    assert page.locator("#tile-night .head").inner_text() == "observing"
    assert "rain" in page.locator("#tile-weather").inner_text()
    assert "maria, admin" in page.locator("header").inner_text()

    # Live: a new event, a changed tile, ages that count.
    until(lambda: len(console.console.hub) == 1)
    console.console.tell_log(LogRow(41, "2027-04-13T00:06:00Z", "frames.stored", "2027-04-12/b7", "3 frames of <b>NGC4993</b>"))
    page.wait_for_selector('#log tr[data-seq="41"]')
    assert "3 frames of <b>NGC4993</b>" in page.locator('#log tr[data-seq="41"]').inner_text(), "shown as text"
    console.house.telescope["state"] = "sheltering"
    console.console.tell_tiles(("night",))
    until(lambda: page.locator("#tile-night .head").inner_text() == "sheltering")
    until(lambda: int(page.locator("#tile-night h2 .age").inner_text().split()[0]) >= 2)

    # Abort: one click, both modules, and the answer beside the button.
    page.get_by_role("button", name="ABORT").click()
    until(lambda: "safety" in page.locator("#said").inner_text())
    assert {type(command) for command in console.house.asked} == {Abort, CloseDome}
    until(lambda: "abort by maria" in page.locator("#answers").inner_text())

    # An alarm that was raised after the page was loaded can be taken.
    console.house.asked.clear()
    alarm = {"id": "a2", "key": "k2", "severity": "critical", "text": "the dome does not close", "state": "raised"}
    console.house.safety["alarms"] = [alarm]
    console.console.tell_tiles(("alarms",))
    until(lambda: "does not close" in page.locator("#tile-alarms").inner_text())
    page.locator("#tile-alarms").get_by_role("button", name="Take alarm").click()
    until(lambda: console.house.asked == [AcknowledgeAlarm(alarm_id="a2", by="maria")])

    # Esc Esc is abort as well.
    console.house.asked.clear()
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    until(lambda: len(console.house.asked) == 2)
    assert page.problems == []
    assert page.foreign == []


def test_two_tabs_share_one_stream(page: Any, console: RunningConsole) -> None:
    enter(page, console)
    until(lambda: len(console.console.hub) == 1)
    second = page.context.new_page()
    second.goto(f"{console.url}/events")
    console.console.tell_log(LogRow(50, "2027-04-13T00:06:00Z", "frames.stored", "n/b", "for both"))
    for tab in (page, second):
        tab.wait_for_selector('#log tr[data-seq="50"]')
    assert len(console.console.hub) == 1


@pytest.mark.parametrize("path", ["/", "/events", "/plan", "/confirm/open"])
def test_a_narrow_phone_never_scrolls_sideways(page: Any, console: RunningConsole, path: str) -> None:
    console.house.telescope["reason"] = "a-very-long-word-without-any-blank-" * 5
    console.house.rows.append(LogRow(2, "2027-04-12T22:00:01Z", "frames.stored", "2027-04-12/" + "b" * 60, "x" * 200))
    enter(page, console)
    page.set_viewport_size({"width": 320, "height": 640})
    page.goto(f"{console.url}{path}")
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    box = page.get_by_role("button", name="ABORT").bounding_box()
    assert box["height"] >= 48
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 320
    assert box["y"] + box["height"] <= 640


def test_without_javascript_the_page_is_whole_and_abort_works(page: Any, console: RunningConsole) -> None:
    context = page.context.browser.new_context(java_script_enabled=False)
    plain = context.new_page()
    plain.set_default_timeout(15_000)
    enter(plain, console)
    assert plain.locator("#tile-night .head").inner_text() == "observing"
    plain.get_by_role("button", name="ABORT").click()
    plain.wait_for_url(f"{console.url}/#answers")
    assert "abort by maria" in plain.locator("#answers").inner_text()
    assert len(console.house.asked) == 2
    context.close()


def test_the_red_theme_paints_no_pixel_that_is_not_red(page: Any, console: RunningConsole, tmp_path: Path) -> None:
    import numpy as np
    from astropy.io import fits
    from PIL import Image

    frame = tmp_path / "frame.fits"
    fits.PrimaryHDU(np.random.default_rng(1).integers(400, 700, (64, 64)).astype(np.uint16)).writeto(frame)
    console.house.frames["f1/raw"] = Picture("f1", "raw", str(frame), "abc", "LIGHT NGC4993 r")
    enter(page, console)
    page.get_by_role("button", name="red").click()
    until(lambda: page.locator("html").get_attribute("data-theme") == "red")
    page.locator("img").scroll_into_view_if_needed()
    until(lambda: bool(page.locator("img").evaluate("image => image.complete && image.naturalWidth > 0")))
    shot = np.asarray(Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB"))
    assert shot[..., 0].max() > 200
    assert shot[..., 1:].max() <= 40


def test_keyboard_alone_reaches_abort_and_leaves_a_visible_focus(page: Any, console: RunningConsole) -> None:
    enter(page, console)
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent") == "ABORT":
            break
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    until(lambda: len(console.house.asked) == 2)


def test_a_word_that_nobody_vouches_for_any_more_is_no_state(page: Any, console: RunningConsole) -> None:
    enter(page, console)
    before = "() => getComputedStyle(document.querySelector('#tile-safety .head'), '::before').content"
    assert "was" not in page.evaluate(before)
    page.evaluate("document.querySelector('#tile-safety h2 .age').dataset.ageS = '60'")
    until(lambda: "was" in page.evaluate(before))
    assert "STALE" in page.locator("#tile-safety h2").inner_text()


def test_an_answer_that_takes_its_time_is_said_beside_the_button_when_it_comes(page: Any, console: RunningConsole) -> None:
    enter(page, console)
    until(lambda: len(console.console.hub) == 1)
    console.house.slow_s = {"preprocessor": 4.0}
    page.get_by_role("button", name="Calibrate night").click()
    until(lambda: "waiting for its answer" in page.locator("#said").inner_text())
    until(lambda: page.locator("#said").inner_text() == "calibrate: preprocessor: done: state stopping", 10)


def test_the_broker_going_away_is_said_without_loading_the_page_again(page: Any, console: RunningConsole) -> None:
    enter(page, console)
    until(lambda: len(console.console.hub) == 1)
    assert not page.locator("#broker").is_visible()
    console.house.broker = False
    until(lambda: bool(page.locator("#broker").is_visible()))
    console.house.broker = True
    until(lambda: not page.locator("#broker").is_visible())


def test_a_long_event_does_not_break_the_words_beside_it(page: Any, console: RunningConsole) -> None:
    console.house.rows.append(LogRow(2, "2027-04-12T22:00:01Z", "observation.started", "2027-04-12/" + "b" * 60, "x" * 600))
    enter(page, console)
    lines = page.evaluate(
        "[...document.querySelector('#log tr').cells].slice(0, 3).map(cell => { const range = document.createRange();"
        " range.selectNodeContents(cell); return new Set([...range.getClientRects()].map(box => Math.round(box.top))).size; })"
    )
    assert lines == [1, 1, 1]
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280


def test_a_lost_link_is_said_and_moving_commands_are_off_but_abort_is_not(page: Any, console: RunningConsole) -> None:
    enter(page, console)
    until(lambda: len(console.console.hub) == 1)
    console.web.stop()
    until(lambda: bool(page.locator("#link").is_visible()), 12)
    assert "Link lost" in page.locator("#link").inner_text()
    assert page.get_by_role("button", name="Prepare night").is_disabled()
    assert page.get_by_role("link", name="Open night").get_attribute("aria-disabled") is not None
    assert page.get_by_role("button", name="ABORT").is_enabled()
