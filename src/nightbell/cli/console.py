"""`nightbell console user|link`: who may use the web page."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from nightbell.cli.output import Verbs, answer, conf_option, json_option, reports_errors, table

ROLES = ("viewer", "observer", "operator", "admin")


@click.group(cls=Verbs)
def console() -> None:
    """The web page: users.

    \b
    Examples:
      nightbell console link                        a link that works once
      nightbell console user add maria --role operator
      nightbell console user list
    """


@console.group(cls=Verbs)
def user() -> None:
    """Accounts: add, list, remove.

    \b
    Examples:
      nightbell console user add maria --role observer
      nightbell console user list
    """


def _folder(conf: Path | None) -> Path:
    from nightbell.cli.processes import find_conf
    from nightbell.settings import load_installation

    return load_installation(find_conf(conf)).state_folder("console")


def _password() -> str:
    """From the terminal without echo, else one line of standard input; never an argument, which every user of the host can read."""
    if sys.stdin.isatty():
        return str(click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True))
    return sys.stdin.readline().rstrip("\r\n")


@user.command()
@click.argument("name")
@click.option("--role", type=click.Choice(ROLES), default="operator", show_default=True, help="What the user may do.")
@conf_option
@json_option
@reports_errors
def add(name: str, role: str, conf: Path | None, *, as_json: bool) -> None:
    """Add a user, or give one a new password. The password is asked for, or read from standard input.

    \b
    Examples:
      nightbell console user add maria --role operator
      nightbell console user add maria < password.txt
    """
    from nightbell.console.users import Users

    users = Users(_folder(conf) / "users.sqlite")
    users.add(name, _password(), role)
    answer({"name": name, "role": role}, as_json, f"{name} is {role}")


@user.command("list")
@conf_option
@json_option
@reports_errors
def list_users(conf: Path | None, *, as_json: bool) -> None:
    """Names and roles.

    \b
    Example:
      nightbell console user list --conf conf/demo
    """
    from nightbell.console.users import Users

    accounts = Users(_folder(conf) / "users.sqlite").accounts()
    answer({"users": [{"name": name, "role": role} for name, role in accounts]}, as_json, lambda: table(accounts, ("name", "role")))


@user.command()
@click.argument("name")
@conf_option
@json_option
@reports_errors
def remove(name: str, conf: Path | None, *, as_json: bool) -> None:
    """Take an account away and end its sessions.

    \b
    Example:
      nightbell console user remove maria
    """
    from nightbell.console.users import Users

    Users(_folder(conf) / "users.sqlite").remove(name)
    answer({"name": name, "removed": True}, as_json, f"{name} is gone")


@console.command()
@click.option("--role", type=click.Choice(ROLES), default="admin", show_default=True, help="What whoever uses it may do.")
@click.option("--minutes", type=click.FloatRange(1, 1440), default=10.0, show_default=True, help="It holds for so long.")
@conf_option
@json_option
@reports_errors
def link(role: str, minutes: float, conf: Path | None, *, as_json: bool) -> None:
    """Make a link to the running console that works once.

    \b
    Examples:
      nightbell console link --conf conf/demo
      nightbell console link --role viewer --minutes 60
    """
    from nightbell.cli.processes import find_conf
    from nightbell.console.users import Users
    from nightbell.contracts.errors import Missing, shell_word
    from nightbell.settings import load_installation

    installation = load_installation(find_conf(conf))
    folder = installation.state_folder("console")
    try:
        address = (folder / "address.txt").read_text(encoding="utf-8").strip()
    except FileNotFoundError as error:
        remedy = f"Start it: nightbell run console --conf {shell_word(installation.folder)}"
        raise Missing("the console has not run yet", where=str(folder), remedy=remedy) from error
    url = f"{address}/enter/{Users(folder / 'users.sqlite', link_s=60.0 * minutes).make_link(role)}"
    answer({"url": url, "role": role, "minutes": minutes}, as_json, url)
