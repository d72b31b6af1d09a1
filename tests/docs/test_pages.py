"""README and docs: every link leads somewhere, every command that is shown exists, every Python example is Python."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
import shlex
import sys
import textwrap
import tomllib
import types
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec
import pytest

from nightbell.bus.module import _handlers_of
from nightbell.cli import NOUNS, nightbell
from nightbell.contracts.events import CalibrationDone
from nightbell.devices.alpaca import drivers
from nightbell.settings import read_settings

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
# Generated pages are made from the commands themselves.
WRITTEN = [page for page in PAGES if "reference" not in page.parts and "_build" not in page.parts]

FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
INLINE = re.compile(r"`(nightbell [^`\n]+)`")


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def headings(page: Path) -> set[str]:
    """Anchors of a page, made as GitHub and MyST make them."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def shown_commands(text: str) -> Iterator[str]:
    """The words after `nightbell` of each command that a page shows, in blocks of shell and between backticks."""
    for language, block in FENCE.findall(text):
        if language != "sh":
            continue
        for line in block.replace("\\\n", " ").splitlines():
            for part in line.split(" #")[0].strip().split(" && "):
                words = part.removeprefix("uv run ")
                if words.startswith("python tools/start.py ") and not words.startswith("python tools/start.py test"):
                    yield words.removeprefix("python tools/start.py ")
                elif words.startswith("nightbell "):
                    yield words.removeprefix("nightbell ")
    for words in INLINE.findall(FENCE.sub("", text)):
        yield words.removeprefix("nightbell ")


def commands() -> list[tuple[str, str]]:
    return sorted({(named(page), words) for page in WRITTEN for words in shown_commands(page.read_text(encoding="utf-8"))})


def is_placeholder(word: str) -> bool:
    return word.isupper() or word.startswith(("[", "<")) or word == "..."


def check_command(words: str) -> None:
    """Follow the nouns of `words` through the command line; then each option must be one of the command's."""
    command: click.Command = nightbell
    context = click.Context(nightbell, info_name="nightbell")
    rest = shlex.split(words)
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        if is_placeholder(rest[0]):
            return
        found = [command.get_command(context, verb) for verb in rest[0].split("|")]
        assert None not in found, f"{context.command_path} has no {rest[0]!r}"
        assert found[0] is not None
        command, rest = found[0], rest[1:]
        context = click.Context(command, info_name=command.name, parent=context, help_option_names=["-h", "--help"])
    known = {option for parameter in command.get_params(context) for option in (*parameter.opts, *parameter.secondary_opts)}
    for word in rest:
        if word.startswith("--"):
            assert word.split("=")[0] in known, f"{context.command_path} has no option {word}"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_link_inside_the_tree_leads_somewhere(page: Path) -> None:
    broken = []
    for target in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        place = (page.parent / path).resolve() if path else page
        if not place.exists() or not place.is_relative_to(ROOT) or (anchor and place.suffix == ".md" and anchor not in headings(place)):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize(("page", "words"), commands())
def test_every_command_that_a_page_shows_exists_with_its_options(page: str, words: str) -> None:
    check_command(words)


@pytest.mark.parametrize("wrong", ["alert ring NOTICE", "demo --faster", "tape"])
def test_a_command_that_does_not_exist_would_be_found(wrong: str) -> None:
    with pytest.raises(AssertionError, match="has no"):
        check_command(wrong)


@pytest.mark.parametrize("noun", NOUNS)
def test_every_noun_that_help_announces_has_its_command(noun: str) -> None:
    assert nightbell.get_command(click.Context(nightbell), noun) is not None


@pytest.mark.parametrize("page", WRITTEN, ids=named)
def test_examples_in_python_and_toml_can_be_read_and_import_what_exists(page: Path) -> None:
    for language, block in FENCE.findall(page.read_text(encoding="utf-8")):
        indent = re.match(r" *", block)
        assert indent is not None
        source = re.sub(f"^{indent[0]}", "", block, flags=re.MULTILINE)
        if language == "toml":
            tomllib.loads(source)
        if language == "python":
            for node in ast.walk(ast.parse(source)):
                names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
                names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
                for name in names:
                    assert importlib.util.find_spec(name) is not None, f"{named(page)}: import {name}"


def test_every_page_can_be_reached_from_the_index() -> None:
    seen: set[Path] = set()
    waiting = [ROOT / "docs" / "index.md"]
    while waiting:
        page = waiting.pop()
        if page in seen or not page.is_file():
            continue
        seen.add(page)
        if page.suffix == ".md":
            waiting += [(page.parent / link.partition("#")[0]).resolve() for link in LINK.findall(page.read_text(encoding="utf-8"))]
    assert [named(page) for page in sorted((ROOT / "docs").rglob("*.md")) if page not in seen and "_build" not in page.parts] == []


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_no_page_names_a_folder_of_one_machine(page: Path) -> None:
    assert re.search(r"/(?:work|tmp|home|root|Users)/", page.read_text(encoding="utf-8")) is None


def test_decision_records_are_numbered_without_a_gap_and_say_the_four_things() -> None:
    records = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))
    assert [int(record.name[:4]) for record in records] == list(range(1, len(records) + 1))
    for record in records:
        text = record.read_text(encoding="utf-8")
        assert text.startswith(f"# {record.name[:4]} "), record.name
        for part in ("Context", "Options", "Choice", "Consequences"):
            assert f"**{part}.**" in text, f"{record.name}: {part}"


def test_every_name_on_the_way_of_one_alert_is_defined_in_the_file_it_is_told_of() -> None:
    text = (ROOT / "docs" / "one-alert.md").read_text(encoding="utf-8")
    steps = re.findall(r"\]\(\.\./(src/[^)]+\.py)\)((?:,? `\w+`)*)", text)
    assert len(steps) > 30
    for file, names in steps:
        source = (ROOT / file).read_text(encoding="utf-8")
        for name in re.findall(r"\w+", names):
            assert re.search(rf"^ *(?:async )?(?:def|class) {name}\b", source, re.MULTILINE), f"{file}: {name}"


def example(page: str, name: str, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """The Python of a how-to that defines classes, run as a module of its own."""
    blocks = [source for language, source in FENCE.findall((ROOT / page).read_text(encoding="utf-8")) if language == "python"]
    module = types.ModuleType(name)
    monkeypatch.setitem(sys.modules, name, module)
    exec(textwrap.dedent(blocks[0]), module.__dict__)
    return module


def test_the_module_of_the_how_to_handles_its_event(monkeypatch: pytest.MonkeyPatch) -> None:
    made = example("docs/how-to/add-a-module.md", "tally_example", monkeypatch)
    settings = read_settings({"nights": 2}, made.TallySettings, where="modules/tally.toml")
    state = made.TallyState()
    for night in ("2027-04-12", "2027-04-13", "2027-04-14"):
        done = CalibrationDone(night=night, batch_id="b", products=(), masters=())
        made.Tally.count(types.SimpleNamespace(settings=settings), done, types.SimpleNamespace(state=state))
    assert state.n_products == {"2027-04-13": 0, "2027-04-14": 0}
    assert msgspec.json.decode(msgspec.json.encode(state), type=made.TallyState) == state
    assert _handlers_of(made.Tally)["calibration.done"].kind is CalibrationDone


def test_the_event_of_the_how_to_is_an_event(monkeypatch: pytest.MonkeyPatch) -> None:
    made = example("docs/how-to/add-an-event.md", "focus_example", monkeypatch)
    event = made.FocusMeasured(night="2027-04-12", filter="r", position_steps=5120, fwhm_arcsec=1.8)
    assert msgspec.json.decode(msgspec.json.encode(event), type=made.FocusMeasured) == event


def test_the_driver_of_the_how_to_has_the_entry_of_the_real_one(monkeypatch: pytest.MonkeyPatch) -> None:
    made = example("docs/how-to/add-a-device-driver.md", "driver_example", monkeypatch)
    assert list(inspect.signature(made.open_device).parameters) == list(inspect.signature(drivers.open_device).parameters)
