"""CURVE keys: who may connect at all. One pair per process, in the installation's `keys/` folder.

    NAME.key           public half, may be shown to anybody
    NAME.key_secret    secret half, readable by its owner only, made with O_EXCL and mode 0600
    authorized/*.key   public halves that this host lets in; read at every handshake, so that trust and revoke need no restart

Every socket of a server has a ZAP domain that is enforced, so that without a working authenticator nobody gets in. Names are the
modules', `broker-NAME` for brokers and `script` for scripts and the command line.
"""

from __future__ import annotations

import base64
import hashlib
import os
import stat
import threading
from pathlib import Path
from typing import Any

import zmq
import zmq.auth
from zmq.auth.thread import ThreadAuthenticator

from nightbell.contracts.errors import BadInput, Missing, Refused
from nightbell.settings import Installation

__all__ = ["client_options", "fingerprint", "keys_folder", "make_pair", "read_public", "read_secret", "server_options"]

_authenticators: dict[int, ThreadAuthenticator] = {}
_lock = threading.Lock()


def keys_folder(installation: Installation) -> Path:
    """The folder with the keys of this installation. Raises `BadInput` when none is configured."""
    if not installation.settings.keys:
        raise BadInput("no folder for keys is configured", where="observatory.toml: keys", remedy='Add keys = "keys"')
    folder = Path(installation.settings.keys)
    return folder if folder.is_absolute() else installation.folder / folder


def fingerprint(public: bytes) -> str:
    """Eight letters by which humans compare keys."""
    return base64.b32encode(hashlib.sha256(public).digest()).decode("ascii")[:8]


def make_pair(folder: Path, name: str, *, trust: bool = True) -> Path:
    """A new pair for `name`; with `trust` it is let in on this host. Raises `Refused` rather than overwrite one."""
    folder.mkdir(parents=True, exist_ok=True)
    public, secret = zmq.curve_keypair()
    path = folder / f"{name}.key_secret"
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError as error:
        raise Refused("there is a key of that name", where=str(path), remedy="Move both halves aside first, or use another name") from error
    with os.fdopen(handle, "w", encoding="ascii") as file:
        file.write(_certificate(public, secret))
    (folder / f"{name}.key").write_text(_certificate(public, None), encoding="ascii")
    if trust:
        trusted = folder / "authorized"
        trusted.mkdir(exist_ok=True)
        (trusted / f"{name}.key").write_text(_certificate(public, None), encoding="ascii")
    return path


def _certificate(public: bytes, secret: bytes | None) -> str:
    """ZeroMQ's certificate form, which other tools read."""
    lines = ["metadata", "curve", f'    public-key = "{public.decode("ascii")}"']
    if secret is not None:
        lines.append(f'    secret-key = "{secret.decode("ascii")}"')
    return "\n".join(lines) + "\n"


def read_public(folder: Path, name: str) -> bytes:
    """The public half of `name`. Raises `Missing` or `BadInput`."""
    return _load(folder / f"{name}.key")[0]


def read_secret(folder: Path, name: str) -> tuple[bytes, bytes]:
    """(public, secret) of `name`. Raises `Missing`, `BadInput`, or `Refused` when others can read the file."""
    path = folder / f"{name}.key_secret"
    if os.name != "nt" and path.is_file() and stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise Refused(
            "others can read this secret key", where=str(path), remedy=f"chmod 600 {path.name}, and make a new one if it was read"
        )
    public, secret = _load(path)
    if secret is None:
        raise BadInput("holds no secret key", where=str(path), remedy="Make the pair anew: nightbell keys make")
    return public, secret


def _load(path: Path) -> tuple[bytes, bytes | None]:
    if not path.is_file():
        raise Missing("there is no such key", where=str(path), remedy=f"Make it: nightbell keys make {path.stem}")
    try:
        return zmq.auth.load_certificate(path)
    except (ValueError, OSError) as error:
        raise BadInput(f"not a key file: {error}", where=str(path), remedy="Make the pair anew: nightbell keys make") from error


class _LetIn:
    """Who is let in now; asked by the authenticator's thread at each handshake."""

    def __init__(self, trusted: Path) -> None:
        self._trusted = trusted

    def callback(self, domain: str, key: bytes) -> bool:  # noqa: ARG002  (the authenticator's way of asking)
        """Whether `key` lies in the folder; a file that cannot be read lets nobody in and keeps nobody out."""
        for path in sorted(self._trusted.glob("*.key")):
            try:
                if zmq.auth.load_certificate(path)[0] == key:
                    return True
            except (OSError, ValueError):
                continue
        return False


def server_options(sock: zmq.Socket[Any], installation: Installation, name: str) -> None:
    """Make a binding socket take only keys in `authorized/`. Call it before `bind`."""
    folder = keys_folder(installation)
    public, secret = read_secret(folder, name)
    trusted = folder / "authorized"
    if not trusted.is_dir():
        raise Missing("nobody is let in: there is no such folder", where=str(trusted), remedy="nightbell keys trust FILE")
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
    domain = f"nightbell-{hashlib.sha256(str(trusted.resolve()).encode()).hexdigest()[:16]}"
    with _lock:
        # One authenticator per context: a second would fail to bind its inproc address.
        if id(context) not in _authenticators:
            authenticator = ThreadAuthenticator(context)
            authenticator.start()
            _authenticators[id(context)] = authenticator
        _authenticators[id(context)].configure_curve_callback(domain, _LetIn(trusted))
    sock.setsockopt(zmq.CURVE_SERVER, 1)
    sock.setsockopt(zmq.CURVE_PUBLICKEY, public)
    sock.setsockopt(zmq.CURVE_SECRETKEY, secret)
    sock.setsockopt_string(zmq.ZAP_DOMAIN, domain)
    # Without this a dead authenticator would leave the door open to every key.
    sock.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)


def client_options(sock: zmq.Socket[Any], installation: Installation, name: str, server: str) -> None:
    """Make a connecting socket speak with key `name` to `server`, whose public half must be here."""
    folder = keys_folder(installation)
    public, secret = read_secret(folder, name)
    sock.setsockopt(zmq.CURVE_PUBLICKEY, public)
    sock.setsockopt(zmq.CURVE_SECRETKEY, secret)
    sock.setsockopt(zmq.CURVE_SERVERKEY, read_public(folder, server))
