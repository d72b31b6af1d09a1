"""`nightbell keys`: CURVE keys of an installation: who may connect to its sockets."""

from __future__ import annotations

from pathlib import Path

import click

from nightbell.cli.output import Verbs, answer, conf_option, json_option, reports_errors, table


@click.group(cls=Verbs)
def keys() -> None:
    """CURVE keys of the bus: one pair per process, made where it runs; public halves are exchanged.

    \b
    Examples:
      nightbell keys make --all --conf conf/demo
      nightbell keys list --conf conf/demo
      nightbell keys revoke console --conf conf/demo
    """


def _folder(conf: Path | None) -> tuple[Path, tuple[str, ...]]:
    from nightbell.cli.processes import find_conf
    from nightbell.settings import load_installation

    installation = load_installation(find_conf(conf))
    names = [f"broker-{name}" for name in installation.settings.brokers]
    names += [name for name in installation.settings.run if not name.startswith("broker:") and name != "simulator"]
    configured = Path(installation.settings.keys or "keys")
    return (configured if configured.is_absolute() else installation.folder / configured), (*names, "script")


@keys.command()
@click.argument("names", nargs=-1, metavar="[NAME ...]")
@click.option("--all", "every", is_flag=True, help="One pair for every process of the installation, brokers and scripts included.")
@conf_option
@json_option
@reports_errors
def make(names: tuple[str, ...], conf: Path | None, *, every: bool, as_json: bool) -> None:
    """Make a pair for each NAME (a module, broker-NAME, or script); an existing one is never overwritten.

    \b
    Examples:
      nightbell keys make --all --conf conf/demo
      nightbell keys make telescope
    """
    from nightbell.bus.keys import fingerprint, make_pair, read_public
    from nightbell.contracts.errors import BadInput

    folder, known = _folder(conf)
    wanted = [name for name in known if not (folder / f"{name}.key_secret").exists()] if every else list(names)
    if not wanted and not every:
        raise BadInput("nobody is named", where="NAME", remedy=f"Name some of {', '.join(known)}, or give --all")
    for name in wanted:
        make_pair(folder, name)
    made = [{"name": name, "fingerprint": fingerprint(read_public(folder, name))} for name in wanted]
    lines = [f"{one['name']}: {one['fingerprint']}" for one in made] or ["every process has its keys"]
    answer({"folder": str(folder), "made": made}, as_json, "\n".join([*lines, f'Set keys = "{folder.name}" in observatory.toml']))


@keys.command("list")
@conf_option
@json_option
@reports_errors
def list_keys(conf: Path | None, *, as_json: bool) -> None:
    """The keys of this host, their fingerprints, and who is let in.

    \b
    Example:
      nightbell keys list --conf conf/demo
    """
    from nightbell.bus.keys import fingerprint, read_public

    folder, _ = _folder(conf)
    names = sorted({path.stem for path in folder.glob("*.key*")} | {path.stem for path in (folder / "authorized").glob("*.key")})
    found = []
    for name in names:
        trusted = (folder / "authorized" / f"{name}.key").is_file()
        public = read_public(folder if (folder / f"{name}.key").is_file() else folder / "authorized", name)
        secret = (folder / f"{name}.key_secret").is_file()
        found.append({"name": name, "fingerprint": fingerprint(public), "secret_here": secret, "let_in": trusted})
    rows = [(one["name"], one["fingerprint"], "yes" if one["secret_here"] else "", "yes" if one["let_in"] else "NO") for one in found]
    answer({"keys": found}, as_json, lambda: table(rows, ("name", "fingerprint", "secret here", "let in")) if rows else "no keys")


@keys.command()
@click.argument("name")
@conf_option
@json_option
@reports_errors
def revoke(name: str, conf: Path | None, *, as_json: bool) -> None:
    """Let NAME's key in no more. Sessions that stand live on until they end: restart the brokers to cut them.

    \b
    Example:
      nightbell keys revoke console
    """
    from nightbell.contracts.errors import Missing

    folder, _ = _folder(conf)
    path = folder / "authorized" / f"{name}.key"
    if not path.is_file():
        raise Missing("is not let in", where=str(path), remedy="See: nightbell keys list")
    path.rename(path.with_suffix(".revoked"))
    answer({"revoked": name}, as_json, f"{name} is let in no more; restart the brokers to cut sessions that stand")


@keys.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@conf_option
@json_option
@reports_errors
def trust(file: Path, conf: Path | None, *, as_json: bool) -> None:
    """Let in the public key in FILE (NAME.key from another host). Compare its fingerprint with its owner first.

    \b
    Example:
      nightbell keys trust telescope.key
    """
    import shutil

    from nightbell.bus.keys import fingerprint, read_public
    from nightbell.contracts.errors import BadInput, Refused

    folder, _ = _folder(conf)
    public = read_public(file.parent, file.stem)
    if "secret-key" in file.read_text(encoding="ascii", errors="replace"):
        raise BadInput("holds a secret key", where=str(file), remedy="Only the public half (NAME.key) may leave its host")
    place = folder / "authorized" / f"{file.stem}.key"
    if place.exists() and read_public(place.parent, file.stem) != public:
        raise Refused("another key of that name is let in", where=str(place), remedy=f"nightbell keys revoke {file.stem} first")
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, place)
    if not (folder / f"{file.stem}.key").exists():
        shutil.copyfile(file, folder / f"{file.stem}.key")
    answer({"trusted": file.stem, "fingerprint": fingerprint(public)}, as_json, f"{file.stem} ({fingerprint(public)}) is let in")
