"""`nightbell send MODULE VERB [FIELD=VALUE ...]`: a command and its answer."""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import Any

import click

from nightbell.cli.output import answer, conf_option, json_option, note, reports_errors


def check_module(module: str, conf: Path | None) -> None:
    """Raises `BadInput` with the nearest name when `module` is none of ours and none of the installation's."""
    from nightbell.cli.processes import PROCESSES, find_conf
    from nightbell.contracts.errors import BadInput
    from nightbell.settings import load_installation

    if module in PROCESSES:
        return
    known = [*PROCESSES, *(name for name in load_installation(find_conf(conf)).settings.run if ":" not in name)]
    if module not in known:
        near = difflib.get_close_matches(module, known, n=1)
        remedy = f"Did you mean {near[0]}?" if near else f"Use one of {', '.join(known)}"
        raise BadInput(f"there is no module {module!r}", where="MODULE", remedy=remedy)


def read_fields(module: str, verb: str, pairs: tuple[str, ...]) -> dict[str, Any]:
    """FIELD=VALUE words as the arguments of a known command. Raises `BadInput` naming the field, what it takes and the nearest name.

    A value is read as JSON when that fits the field's type, else as text; `a,b` makes a list where a list is wanted.
    """
    import msgspec

    from nightbell.contracts.commands import COMMANDS, commands_of
    from nightbell.contracts.errors import BadInput

    known = commands_of(module)
    modules = sorted({command.module for command in COMMANDS} - {"*"})
    if verb not in known:
        near = difflib.get_close_matches(verb, known, n=1)
        remedy = (
            f"Did you mean {near[0]}?"
            if near
            else f"{module} answers {', '.join(known)}; modules with commands of their own: {', '.join(modules)}"
        )
        raise BadInput(f"{module} knows no verb {verb!r}", where="VERB", remedy=remedy)
    kind = known[verb]
    fields = {one.name: one for one in msgspec.structs.fields(kind)}
    values: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise BadInput(f"{pair!r} is not FIELD=VALUE", where="FIELD=VALUE", remedy=f"{verb} takes {', '.join(fields) or 'no fields'}")
        if name not in fields:
            near = difflib.get_close_matches(name, fields, n=1)
            remedy = f"Did you mean {near[0]}?" if near else f"{verb} takes {', '.join(fields) or 'no fields'}"
            raise BadInput(f"{verb} has no field {name!r}", where=name, remedy=remedy)
        values[name] = _value(text, fields[name].type, name)
    missing = [name for name, one in fields.items() if one.required and name not in values]
    if missing:
        raise BadInput("is missing", where=missing[0], remedy=f"Add {' '.join(f'{name}=VALUE' for name in missing)}")
    return values


def _value(text: str, kind: Any, name: str) -> Any:
    import msgspec

    from nightbell.contracts.errors import BadInput

    tries: list[Any] = []
    try:
        tries.append(json.loads(text))
    except ValueError:
        tries.append(text.split(","))
    for value in (text, *tries, text.split(",")):
        try:
            return msgspec.to_builtins(msgspec.convert(value, kind, strict=True))
        except msgspec.ValidationError as error:
            problem = error
    raise BadInput(f"{text!r}: {problem}", where=name, remedy="Give a value of that type")


@click.command(context_settings={"ignore_unknown_options": False})
@click.argument("module")
@click.argument("verb")
@click.argument("fields", nargs=-1, metavar="[FIELD=VALUE ...]")
@conf_option
@click.option("--timeout", "timeout_s", type=float, default=60.0, show_default=True, help="Seconds to wait for the result.")
@click.option("--no-wait", is_flag=True, help="Return when the command is accepted.")
@json_option
@reports_errors
def send(module: str, verb: str, fields: tuple[str, ...], conf: Path | None, timeout_s: float, *, no_wait: bool, as_json: bool) -> None:
    """Send a command to a module and print its answer. Exit 3 when it is refused.

    \b
    Examples:
      nightbell send telescope status
      nightbell send preprocessor calibrate_night night=2027-04-12
      nightbell send telescope abort
    """
    import nightbell
    from nightbell.cli.processes import find_conf

    check_module(module, conf)
    values = read_fields(module, verb, fields)

    def show(fraction: float | None, text: str) -> None:
        note(f"  {'' if fraction is None else f'{100 * fraction:3.0f} % '}{text}")

    with nightbell.connect(find_conf(conf), name="send", wait_s=0.0) as connection:
        try:
            result = connection.ask(module, verb, timeout_s=timeout_s, on_progress=None if as_json else show, wait=not no_wait, **values)
        except KeyboardInterrupt:
            note(f"{module} was not told to stop: {verb} goes on if it had begun. What ends a motion: nightbell send telescope abort")
            raise
    answer(result if isinstance(result, dict) else {"result": result}, as_json)
