"""The `nightbell` command as a whole: help, usage errors, closed pipes and full disks, the same for every noun."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from nightbell.cli import NOUNS, nightbell
from nightbell.cli.output import json_option, reports_errors
from nightbell.contracts.errors import shell_word

HEAVY = ("astropy", "numpy", "zmq", "rich", "structlog", "sqlalchemy", "matplotlib", "starlette")


def run(*words: str, **more: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nightbell", *words]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=60, check=False, **more)  # type: ignore[call-overload]


def every_command() -> Iterator[tuple[str, ...]]:
    def below(command: click.Command, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        yield path
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                verb = command.get_command(context, name)
                assert verb is not None
                yield from below(verb, (*path, name))

    return below(nightbell, ())


@pytest.mark.parametrize("path", list(every_command()), ids=" ".join)
def test_help_at_every_level_shows_an_example_that_can_be_typed(path: tuple[str, ...]) -> None:
    shown = CliRunner().invoke(nightbell, [*path, "--help"])
    assert shown.exit_code == 0
    assert "Example" in shown.stdout
    assert f"\n    {' '.join(('nightbell', *path))}" in shown.stdout


def test_no_help_loads_what_is_slow_to_load() -> None:
    """One fresh process asks every noun and verb for help, and must stay without the libraries that take a second."""
    program = f"""
import sys
from nightbell.cli import nightbell
for path in {list(every_command())!r}:
    try:
        nightbell.main([*path, "--help"], prog_name="nightbell")
    except SystemExit:
        pass
print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, encoding="utf-8", check=True)
    assert done.stderr.splitlines()[-1] == "[]"


def test_help_tells_the_first_sentence_of_every_verb_in_full() -> None:
    for noun in NOUNS:
        shown = CliRunner().invoke(nightbell, [noun, "--help"]).stdout.partition("Commands:")[2]
        assert not [line for line in shown.splitlines() if line.endswith("...")]


@pytest.mark.parametrize(
    ("words", "where", "names"),
    [
        (["demo", "--stage", "9", "--json"], "nightbell demo", "--stage"),
        (["alert", "rank", "--json"], "nightbell alert rank", "NOTICE"),
        (["alert", "explain", "x.json", "--jsn", "--json"], "nightbell alert explain", "--json"),
        (["alret", "--json"], "nightbell", "alert"),
    ],
)
def test_a_usage_error_is_one_json_object_too(words: list[str], where: str, names: str) -> None:
    done = CliRunner().invoke(nightbell, words)
    assert done.exit_code == 2
    error = json.loads(done.stdout)["error"]
    assert (error["code"], error["where"], error["remedy"]) == ("usage", where, f"See {where} --help")
    assert names in error["what"]
    assert "Try 'nightbell" in done.stderr


def test_without_json_a_usage_error_leaves_stdout_empty() -> None:
    done = CliRunner().invoke(nightbell, ["demo", "--stage", "9"])
    assert (done.exit_code, done.stdout) == (2, "")


@pytest.mark.parametrize("words", [("alret",), ("alert", "rnak"), ("dead", "lst"), ("demo", "--lmit", "4")])
def test_a_slip_of_the_fingers_is_told_the_nearest_word(words: tuple[str, ...]) -> None:
    assert "Did you mean" in CliRunner().invoke(nightbell, list(words)).stderr


@pytest.mark.parametrize(
    "words",
    [
        ("alert", "explain", "absent.json"),
        ("alert", "rank", "absent.json", "--no-visibility"),
        ("calibrate", "absent.fits", "--out", "made"),
        ("catalog", "info", "absent.csv"),
        ("plan", "show", "absent.json"),
        ("dome", "check", "absent.csv"),
        ("night", "events", "--site", "absent.toml", "--date", "2027-04-12"),
        ("config", "check", "absent"),
    ],
)
def test_an_input_that_is_not_there_is_bad_input_by_name(words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(nightbell, [*words, "--json"])
    assert done.exit_code == 2
    error = json.loads(done.stdout)["error"]
    assert "absent" in error["where"]
    assert error["remedy"]
    assert "absent" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_reader_that_leaves_early_is_no_failure() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "nightbell", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8"
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()
    assert (process.returncode, said) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("words", [("--version",), ("config", "show", "relay", "--json")])
def test_a_full_disk_behind_stdout_is_told_in_words(words: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "observatory.toml").write_text(
        '[site]\nname = "x"\nlatitude_deg = 0.0\nlongitude_deg = 0.0\n[brokers.b]\ndoor = "tcp://127.0.0.1:1"\nfeed = "tcp://127.0.0.1:2"\n',
        encoding="utf-8",
    )
    text = (tmp_path / "observatory.toml").read_text(encoding="utf-8")
    (tmp_path / "observatory.toml").write_text("run = []\n" + text, encoding="utf-8")
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        command = [sys.executable, "-m", "nightbell", *words]
        env = {**os.environ, "NIGHTBELL_CONF": str(tmp_path)}
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, encoding="utf-8", check=False, env=env)
    assert done.returncode == 1
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr


def broken_by(error: BaseException) -> click.Command:
    @click.command()
    @json_option
    @reports_errors
    def broken(*, as_json: bool) -> None:
        raise error

    return broken


def test_a_mistake_of_ours_is_written_down_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(broken_by(ValueError("seven is not a colour")), ["--json"])
    assert done.exit_code == 1
    error = json.loads(done.stdout)["error"]
    story = tmp_path / next(word for word in error["remedy"].split() if word.startswith("nightbell-crash-")).rstrip(";")
    assert "ValueError: seven is not a colour" in story.read_text(encoding="utf-8")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [(KeyboardInterrupt(), 130, "stopped"), (PermissionError(13, "Permission denied", "tonight/report.html"), 1, "os")],
)
def test_ctrl_c_and_a_closed_door_are_one_json_object_too(error: BaseException, status: int, code: str) -> None:
    done = CliRunner().invoke(broken_by(error), ["--json"])
    assert done.exit_code == status
    assert json.loads(done.stdout)["error"]["code"] == code
    assert "Traceback" not in done.stderr


def test_a_path_with_a_blank_can_be_pasted_into_the_shell() -> None:
    shown = shell_word(Path("u ser") / "Käse")
    assert shown[0] == shown[-1]
    assert shown[0] in "'\""
    assert shell_word("tonight") == "tonight"


@pytest.mark.parametrize("wish", [None, "3"])
def test_a_process_of_ours_does_not_fight_the_others_for_cores_unless_it_is_told_to(wish: str | None) -> None:
    look = (
        "import os, sys, nightbell.cli as cli\nsys.argv = ['nightbell', '--version']\n"
        "try:\n    cli.main()\nfinally:\n    print(os.environ['OPENBLAS_NUM_THREADS'])"
    )
    told = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    if wish is not None:
        told["OPENBLAS_NUM_THREADS"] = wish
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, env=told, timeout=60, check=False)
    assert done.stdout.split()[-1] == (wish or "1"), done.stderr
