"""Answers on stdout, everything else on stderr, one set of exit statuses.

`--json` prints exactly one object, also on failure: {"error": {code, what, where, remedy}}.
"""

from __future__ import annotations

import functools
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import click

from nightbell.contracts.errors import NightbellError

__all__ = ["Progress", "answer", "conf_option", "json_option", "note", "reports_errors", "table"]

P = ParamSpec("P")
R = TypeVar("R")

json_option = click.option("--json", "as_json", is_flag=True, help="Print exactly one JSON object on stdout.")
conf_option = click.option(
    "--conf",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="Installation folder (default: $NIGHTBELL_CONF, else conf/demo here).",
)


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
            note(f"nightbell: {error}")
            sys.exit(error.exit_status)
        except KeyboardInterrupt:
            note("nightbell: stopped by Ctrl-C")
            sys.exit(130)
        except BrokenPipeError:
            # Python would complain again when it flushes stdout at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(0)
        except Exception as error:  # noqa: BLE001
            # The outermost loop of the process: say where the story is, do not throw it at the user.
            crash = Path(f"nightbell-crash-{os.getpid()}.txt")
            crash.write_text(traceback.format_exc(), encoding="utf-8")
            if kwargs.get("as_json"):
                answer(
                    {"error": {"code": "internal", "what": str(error), "where": type(error).__name__, "remedy": str(crash)}}, as_json=True
                )
            note(f"nightbell: a mistake of ours: {type(error).__name__}: {error}. The story is in {crash}; please report it")
            sys.exit(1)

    return wrapped


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
