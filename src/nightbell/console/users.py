"""Accounts, sessions and one-time links, in one SQLite file.

Passwords are argon2id. Of session ids and links only the SHA-256 is stored: who reads the file cannot log in with it.
Everything here blocks; the web page calls it from threads.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import argon2

from nightbell.contracts.errors import BadInput, Refused

__all__ = ["ROLES", "Session", "Users"]

ROLES: Final = ("viewer", "observer", "operator", "admin")
"""From the least to the most; each may do what those before it may."""
LEAST_PASSWORD = 12
_COMMON = frozenset(
    (
        "password1234",
        "passwordpassword",
        "123456789012",
        "1234567890123",
        "qwertyuiop12",
        "qwertyuiopas",
        "adminadminadmin",
        "administrator",
    )
)
_NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS account (name TEXT PRIMARY KEY, role TEXT NOT NULL, password TEXT NOT NULL, made_s REAL NOT NULL);
CREATE TABLE IF NOT EXISTS session (
  id TEXT PRIMARY KEY, name TEXT NOT NULL, role TEXT NOT NULL, token TEXT NOT NULL, made_s REAL NOT NULL, seen_s REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS link (id TEXT PRIMARY KEY, role TEXT NOT NULL, until_s REAL NOT NULL);
"""


@dataclass(frozen=True, slots=True)
class Session:
    """Somebody who is logged in."""

    id: str
    """SHA-256 of what the cookie holds."""
    name: str
    role: str
    token: str
    """What every form carries back."""
    made_s: float
    seen_s: float

    def may(self, role: str) -> bool:
        """Whether this session's role includes `role`."""
        return ROLES.index(self.role) >= ROLES.index(role)


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


class Users:
    """Accounts, sessions, links. Safe from any thread and beside the command line's process."""

    def __init__(self, path: Path, *, idle_s: float = 16 * 3600.0, longest_s: float = 7 * 86400.0, link_s: float = 600.0) -> None:
        self._path, self._idle_s, self._longest_s, self._link_s = path, idle_s, longest_s, link_s
        self._hasher = argon2.PasswordHasher()
        # Each hash takes 64 MiB: more than two at once would be a way to take the memory of the host.
        self._hashing = threading.BoundedSemaphore(2)
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._open() as store:
            store.executescript(_SCHEMA)
        path.chmod(0o600)
        # Verified for unknown names too, so that the time tells nothing about who exists.
        self._dummy = self._hasher.hash(secrets.token_hex(16))

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        store = sqlite3.connect(self._path, timeout=5.0)
        try:
            with store:
                yield store
        finally:
            store.close()

    # -- accounts -------------------------------------------------------------------------------------------------------

    def add(self, name: str, password: str, role: str) -> None:
        """A new account, or a new password and role for an old one. Raises `BadInput`."""
        if not _NAME.fullmatch(name):
            raise BadInput(f"{name!r} is no user name", where="name", remedy="Use 1 to 64 letters, digits and . _ @ -")
        if role not in ROLES:
            raise BadInput(f"there is no role {role!r}", where="role", remedy=f"Use one of {', '.join(ROLES)}")
        if len(password) < LEAST_PASSWORD:
            raise BadInput(f"is shorter than {LEAST_PASSWORD} characters", where="password", remedy="Take a longer one; a sentence is fine")
        if len(password) > 1024 or password.lower() in _COMMON or len(set(password)) < 4:
            raise BadInput("is one of those tried first", where="password", remedy="Take another; a sentence is fine")
        with self._hashing:
            hashed = self._hasher.hash(password)
        with self._open() as store:
            store.execute("INSERT OR REPLACE INTO account VALUES (?, ?, ?, ?)", (name, role, hashed, time.time()))
            store.execute("DELETE FROM session WHERE name = ?", (name,))

    def remove(self, name: str) -> None:
        """Take an account and its sessions away. Raises `BadInput` when there is none."""
        with self._open() as store:
            gone = store.execute("DELETE FROM account WHERE name = ?", (name,)).rowcount
            store.execute("DELETE FROM session WHERE name = ?", (name,))
        if not gone:
            raise BadInput(f"there is no user {name!r}", where="name", remedy="See `nightbell console user list`")

    def accounts(self) -> list[tuple[str, str]]:
        """(name, role) of everybody."""
        with self._open() as store:
            return [(str(name), str(role)) for name, role in store.execute("SELECT name, role FROM account ORDER BY name")]

    # -- sessions -------------------------------------------------------------------------------------------------------

    def log_in(self, name: str, password: str) -> str:
        """The secret for the cookie of a new session. Raises `Refused`, the same words whatever was wrong."""
        with self._open() as store:
            row = store.execute("SELECT role, password FROM account WHERE name = ?", (name,)).fetchone()
        try:
            with self._hashing:
                self._hasher.verify(row[1] if row else self._dummy, password[:1024])
        except argon2.exceptions.VerifyMismatchError:
            row = None
        if row is None:
            raise Refused("name or password is wrong", where="log-in", remedy="Try again, or ask an administrator")
        return self._begin(name, row[0])

    def _begin(self, name: str, role: str) -> str:
        secret, now_s = secrets.token_urlsafe(32), time.time()
        with self._open() as store:
            store.execute("DELETE FROM session WHERE made_s < ? OR seen_s < ?", (now_s - self._longest_s, now_s - self._idle_s))
            store.execute(
                "INSERT INTO session VALUES (?, ?, ?, ?, ?, ?)", (_digest(secret), name, role, secrets.token_hex(32), now_s, now_s)
            )
        return secret

    def session(self, secret: str) -> Session | None:
        """The live session of a cookie; notes that it was seen."""
        now_s = time.time()
        with self._open() as store:
            row = store.execute(
                "SELECT id, name, role, token, made_s, seen_s FROM session WHERE id = ? AND made_s > ? AND seen_s > ?",
                (_digest(secret), now_s - self._longest_s, now_s - self._idle_s),
            ).fetchone()
            if row is None:
                return None
            if now_s - row[5] > 60:
                store.execute("UPDATE session SET seen_s = ? WHERE id = ?", (now_s, row[0]))
        return Session(*row)

    def is_live(self, session_id: str) -> bool:
        """Whether a session has been neither ended nor revoked; does not count as being seen."""
        with self._open() as store:
            return store.execute("SELECT 1 FROM session WHERE id = ?", (session_id,)).fetchone() is not None

    def log_out(self, session_id: str) -> None:
        """End a session."""
        with self._open() as store:
            store.execute("DELETE FROM session WHERE id = ?", (session_id,))

    # -- one-time links -------------------------------------------------------------------------------------------------

    def make_link(self, role: str = "admin") -> str:
        """The secret of a link that works once, for a few minutes."""
        secret, now_s = secrets.token_urlsafe(24), time.time()
        with self._open() as store:
            store.execute("DELETE FROM link WHERE until_s < ?", (now_s,))
            store.execute("INSERT INTO link VALUES (?, ?, ?)", (_digest(secret), role, now_s + self._link_s))
        return secret

    def link_holds(self, secret: str) -> bool:
        """Whether the link may still be used. Does not use it."""
        with self._open() as store:
            row = store.execute("SELECT 1 FROM link WHERE id = ? AND until_s > ?", (_digest(secret), time.time())).fetchone()
        return row is not None

    def enter_by_link(self, secret: str, name: str, password: str) -> str:
        """Use the link: a session, and an account when a password is given. Returns the secret for the cookie.

        The link is used up by success alone: a password that is too short can be mended.
        """
        with self._open() as store:
            row = store.execute("SELECT role FROM link WHERE id = ? AND until_s > ?", (_digest(secret), time.time())).fetchone()
        if row is None:
            raise Refused("this link was used or is too old", where="link", remedy="Make a new one: nightbell console link")
        if not _NAME.fullmatch(name):
            raise BadInput(f"{name!r} is no user name", where="name", remedy="Use 1 to 64 letters, digits and . _ @ -")
        if password:
            self.add(name, password, row[0])
        with self._open() as store:
            used = store.execute("DELETE FROM link WHERE id = ?", (_digest(secret),)).rowcount
        if not used:  # two browsers at once: the first wins
            raise Refused("this link was used", where="link", remedy="Make a new one: nightbell console link")
        return self._begin(name, row[0])
