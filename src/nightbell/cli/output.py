"""Answers on stdout, everything else on stderr, one set of exit statuses.

`--json` prints exactly one object, also on failure: {"error": {code, what, where, remedy}}.
"""

from __future__ import annotations

import errno
import functools
import os
import re
import shutil
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn, ParamSpec, TypeVar

import click

from nightbell.contracts.errors import Mistakes, NightbellError, shell_word

__all__ = ["Progress", "Verbs", "answer", "conf_option", "json_option", "near", "note", "reports_errors", "run_command", "table", "typed"]

P = ParamSpec("P")
R = TypeVar("R")

# Windows says EINVAL where others say EPIPE.
CLOSED_PIPE = (errno.EPIPE, errno.EINVAL) if os.name == "nt" else (errno.EPIPE,)

json_option = click.option("--json", "as_json", is_flag=True, help="Print exactly one JSON object on stdout.")
conf_option = click.option(
    "--conf",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="Installation folder (default: $NIGHTBELL_CONF, else conf/demo here).",
)


class Verbs(click.Group):
    """The verbs of a noun; `--help` gives the whole first sentence of each, where click would cut it off."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = []
        for name in self.list_commands(ctx):
            verb = self.get_command(ctx, name)
            text = " ".join((verb.help or "").split("\b")[0].split()) if verb is not None else ""
            rows.append((name, re.split(r"(?<=[.;])\s", text)[0].rstrip(".;")))
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def typed() -> str:
    """`nightbell`, as the user can type it here: the console script, else this clone's start.py, else the module of this Python."""
    if shutil.which("nightbell"):
        return "nightbell"
    start = Path(__file__).resolve().parents[3] / "tools" / "start.py"
    if start.is_file():
        return f"{'python' if shutil.which('python') else 'python3'} {shell_word(near(start))}"
    return f"{shell_word(sys.executable)} -m nightbell"


def near(path: Path) -> Path:
    """`path` as seen from here when it lies below, for commands that are short."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def note(text: str) -> None:
    """A line for the human, on stderr."""
    click.echo(text, err=True)


def answer(value: Any, as_json: bool, text: str | Callable[[], str] | None = None) -> None:  # noqa: FBT001
    """The answer: `value` as one JSON object, or `text` for a human (default: the JSON, indented)."""
    import msgspec

    if as_json:
        click.echo(msgspec.json.encode(value).decode())
    elif text is None:
        click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())
    else:
        click.echo(text() if callable(text) else text)


def reports_errors(function: Callable[P, R]) -> Callable[P, R]:
    """Turn a `NightbellError` into its words on stderr and its exit status; a closed pipe ends quietly."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except NightbellError as error:
            if kwargs.get("as_json"):
                answer({"error": error.as_dict()}, as_json=True)
            several = error.mistakes if isinstance(error, Mistakes) and len(error.mistakes) > 1 else ()
            note(f"nightbell: {len(several)} mistakes" if several else f"nightbell: {error}")
            for one in several:
                note(f"  {one}")
            sys.exit(error.exit_status)
        except KeyboardInterrupt:
            if kwargs.get("as_json"):
                answer({"error": {"code": "stopped", "what": "stopped by Ctrl-C", "where": "", "remedy": ""}}, as_json=True)
            note("nightbell: stopped by Ctrl-C")
            sys.exit(130)
        except OSError as error:
            if error.errno in CLOSED_PIPE or error.filename is None:
                raise  # a closed pipe or a full disk behind stdout: `run_command` ends the process
            told = {"code": "os", "what": str(error.strerror), "where": str(error.filename), "remedy": "Check the path, its permissions"}
            if kwargs.get("as_json"):
                answer({"error": told}, as_json=True)
            note(f"nightbell: {told['where']}: {told['what']}. {told['remedy']}")
            sys.exit(1)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:  # noqa: BLE001
            # The outermost loop of the process: say where the story is, do not throw it at the user.
            _our_mistake(error, as_json=bool(kwargs.get("as_json")))

    return wrapped


def _our_mistake(error: Exception, *, as_json: bool) -> NoReturn:
    """Write the traceback to a file, name it, exit 1."""
    story = traceback.format_exc()
    place = f"nightbell-crash-{os.getpid()}.txt"
    try:
        Path(place).write_text(story, encoding="utf-8")
    except OSError:
        place = "the lines above"
        note(story)
    what = f"a mistake of ours: {type(error).__name__}: {error}"
    remedy = f"The story is in {place}; please report it"
    if as_json:
        answer({"error": {"code": "internal", "what": what, "where": type(error).__name__, "remedy": remedy}}, as_json=True)
    note(f"nightbell: {what}. {remedy}")
    sys.exit(1)


def run_command(command: Callable[[], object], *, as_json: bool) -> NoReturn:
    """Run a click command (standalone_mode=False) as the whole process: usage errors, a closed pipe and a full disk in words."""
    stdout = sys.stdout
    try:
        code = command()
        sys.stdout.flush()
        sys.exit(code if isinstance(code, int) else 0)
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else "nightbell"
        if as_json and not isinstance(error, click.exceptions.NoArgsIsHelpError):
            told = {"code": "usage", "what": error.format_message(), "where": path, "remedy": f"See {path} --help"}
            answer({"error": told}, as_json=True)
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        note("nightbell: stopped")
        sys.exit(130)
    except SystemExit:
        # click meets a closed pipe by wrapping stdout, and would exit with 1.
        if sys.stdout is not stdout:
            _leave_stdout()
            sys.exit(0)
        raise
    except OSError as error:
        _leave_stdout()
        if error.errno in CLOSED_PIPE:
            sys.exit(0)
        note(f"nightbell: it could not be written: {error.strerror or error}. Free space, or write it elsewhere")
        sys.exit(1)


def _leave_stdout() -> None:
    """Python would complain again when it flushes stdout at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno() if sys.__stdout__ is not None else 1)


def table(rows: Iterable[Sequence[object]], head: Sequence[str]) -> str:
    """Plain aligned columns; numbers to the right."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max([len(name), *(len(row[i]) for row in cells)]) for i, name in enumerate(head)]
    numeric = [all(_is_number(row[i]) for row in cells) and bool(cells) for i in range(len(head))]

    def line(row: Sequence[str]) -> str:
        parts = (cell.rjust(width) if right else cell.ljust(width) for cell, width, right in zip(row, widths, numeric, strict=True))
        return "  ".join(parts).rstrip()

    return "\n".join([line(list(head)), line(["-" * width for width in widths]), *(line(row) for row in cells)])


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return text in {"", "-"}
    return True


class Progress:
    """Progress of long work: a bar on a terminal, else a line each 10 % on stderr; silent with `quiet`."""

    def __init__(self, total: int, what: str, *, quiet: bool = False) -> None:
        self.total = max(total, 1)
        self.what = what
        self._quiet = quiet
        self._done = 0
        self._said = -1
        self._tty = sys.stderr.isatty()

    def step(self, n: int = 1, text: str = "") -> None:
        """`n` more are done."""
        self._done += n
        percent = 100 * self._done // self.total
        if self._quiet:
            return
        if self._tty:
            filled = 30 * self._done // self.total
            ending = "\n" if self._done >= self.total else ""
            click.echo(
                f"\r{self.what} [{'#' * filled}{'.' * (30 - filled)}] {self._done}/{self.total} {text[:40]:40}{ending}", err=True, nl=False
            )
        elif percent // 10 > self._said or self._done >= self.total:
            self._said = percent // 10
            note(f"{self.what} {percent} % {self._done}/{self.total} {text}".rstrip())
