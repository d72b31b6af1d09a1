"""The console on the bus: hears every event for the log, asks modules for their status, carries commands and the audit."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from nightbell.bus.module import Module, Turn, on, run_module
from nightbell.console.app import Console
from nightbell.console.serving import WebServer, allowed_hosts, bind
from nightbell.console.settings import ConsoleSettings
from nightbell.console.tiles import Tile, make_tiles
from nightbell.console.users import Users
from nightbell.console.watch import Watch
from nightbell.console.words import LogRow, Picture, in_words, pictures_of
from nightbell.contracts.commands import ShowPlan, Status
from nightbell.contracts.events import EVENTS, Event, OperatorActed
from nightbell.contracts.instants import format_utc
from nightbell.settings import Installation

__all__ = ["ConsoleModule", "ConsoleState", "run"]

KEPT_PICTURES = 200


class ConsoleState(msgspec.Struct):
    """The last frames that can be looked at."""

    pictures: dict[str, dict[str, str]] = {}
    """"ID/KIND" -> fields of a Picture, the newest last."""
    last: dict[str, str] = {}
    """Kind -> key of its newest."""


def _listeners() -> dict[str, Any]:
    """One handler per event type, by name: the log must not miss a type that somebody adds."""
    return {f"note_{kind.type.replace('.', '_')}": on(kind.type)(_note(kind)) for kind in EVENTS.values()}


def _note(kind: type[Event]) -> Any:
    def note(self: ConsoleModule, event: Event, turn: Turn[ConsoleState]) -> None:
        self.note(event, turn)

    note.__name__ = f"note_{kind.type.replace('.', '_')}"
    note.__qualname__ = f"ConsoleModule.{note.__name__}"
    note.__doc__ = f"Into the log: {kind.type}."
    note.__annotations__ = {"event": kind, "turn": Turn[ConsoleState], "return": None}
    return note


class ConsoleModule(Module[ConsoleState]):
    """A house for the pages: `console.app.House`."""

    name = "console"
    state_type = ConsoleState
    settings_type = ConsoleSettings
    settings: ConsoleSettings
    schema = """
    CREATE TABLE IF NOT EXISTS log (
      n INTEGER PRIMARY KEY AUTOINCREMENT, seq INTEGER NOT NULL, at_utc TEXT NOT NULL,
      type TEXT NOT NULL, subject TEXT NOT NULL, text TEXT NOT NULL
    );
    """
    # The body of a class is a dictionary being filled: these are methods like any written out.
    locals().update(_listeners())

    # -- life -----------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        settings = self.settings
        self._seen = ConsoleState()
        with self.turn() as turn:
            self._keep(turn.state)
        users = Users(
            self.home / "users.sqlite",
            idle_s=3600.0 * settings.session_idle_h,
            longest_s=3600.0 * settings.session_longest_h,
            link_s=60.0 * settings.link_min,
        )
        bound = bind(settings.host, settings.port)
        port = int(bound.getsockname()[1])
        self.console = Console(self, users, site=self.site.name, hosts=allowed_hosts(port, settings.hosts), secure=settings.behind_proxy)
        self.web = WebServer(self.console, bound)
        self._watch = Watch(self._watched(), self._status_of, self._moved, poll_s=settings.poll_s, stopping=self.stopping)
        self._watch.start()
        self.web.start()
        self._tell_where(users, port)

    def _tell_where(self, users: Users, port: int) -> None:
        """The address, and a link for the first who comes; in a file too, readable by its owner only."""
        address = f"http://127.0.0.1:{port}"
        (self.home / "address.txt").write_text(address + "\n", encoding="utf-8")
        lines = [f"console: {address}"]
        link_file = self.home / "first-login.txt"
        if users.accounts():
            link_file.unlink(missing_ok=True)
        else:
            link = f"{address}/enter/{users.make_link()}"
            link_file.unlink(missing_ok=True)
            link_file.touch(mode=0o600)
            link_file.write_text(link + "\n", encoding="utf-8")
            lines.append(f"console: first log-in (works once, {self.settings.link_min:g} min): {link}")
        sys.stderr.write("\n".join(lines) + "\n")
        sys.stderr.flush()
        self.log.info("console.ready", address=address)

    def stop(self) -> None:
        self._watch.join()
        self.web.stop()

    def report(self) -> dict[str, Any]:
        """For `status`."""
        return {"address": f"http://127.0.0.1:{self.web.port}", "browsers": len(self.console.hub)}

    # -- modules --------------------------------------------------------------------------------------------------------

    def _watched(self) -> tuple[str, ...]:
        """Modules of this installation that talk to our broker; the others are known by their events."""
        ours = self.installation.broker_of(self.name)
        passive = ("simulator", "console", "relay")
        run = [name for name in self.installation.settings.run if not name.startswith("broker:") and name not in passive]
        return tuple(name for name in run if self.installation.broker_of(name) == ours)

    def _status_of(self, module: str, timeout_s: float) -> dict[str, Any]:
        return dict(self.ask(module, Status(), timeout_s=timeout_s))

    def _moved(self, module: str) -> None:
        names = {"telescope": ("night", "dome", "mount", "camera", "plan"), "safety": ("safety", "weather", "dome", "alarms")}
        self.console.tell_tiles((*names.get(module, ()), "modules"))

    # -- events ---------------------------------------------------------------------------------------------------------

    def note(self, event: Event, turn: Turn[ConsoleState]) -> None:
        """A row in the log; frames become pictures."""
        envelope = turn.envelope
        if envelope is None:
            return
        seq = int(envelope.seq or 0)
        row = LogRow(seq, self._told_at(envelope.source, envelope.time), event.type, str(envelope.subject), in_words(event))
        turn.execute(
            "INSERT INTO log (seq, at_utc, type, subject, text) VALUES (?, ?, ?, ?, ?)",
            (row.seq, row.at_utc, row.type, row.subject, row.text),
        )
        turn.execute("DELETE FROM log WHERE n <= (SELECT max(n) FROM log) - ?", (self.settings.log_rows,))
        pictures = pictures_of(event)
        for one in pictures:
            key = f"{one.frame_id}/{one.kind}"
            turn.state.pictures.pop(key, None)
            turn.state.pictures[key] = msgspec.to_builtins(one)
            turn.state.last[one.kind] = key
        while len(turn.state.pictures) > KEPT_PICTURES:
            turn.state.pictures.pop(next(iter(turn.state.pictures)))
        if pictures:
            self._keep(turn.state)
            self.console.tell_pictures()
        self.console.tell_log(row)

    def _told_at(self, source: str, time_utc: str) -> str:
        """A broker stamps with its host's clock; in the log of a simulated night its words stand where they were heard."""
        is_brokers = source.partition("@")[0] == "broker"
        return format_utc(self.clock.now_ns()) if is_brokers and self._is_simulated else time_utc

    @property
    def _is_simulated(self) -> bool:
        return self.installation.settings.clock.kind == "simulator"

    def _keep(self, state: ConsoleState) -> None:
        """A copy for the pages, which must not wait for a turn."""
        self._seen = ConsoleState(pictures=dict(state.pictures), last=dict(state.last))

    # -- the house of the pages -----------------------------------------------------------------------------------------

    def audit(self, acted: OperatorActed) -> None:
        """Who asked for what: an event that nobody can edit."""
        try:
            with self.turn() as turn:
                turn.publish(acted, self.site.name)
        except Exception:  # a command that was carried out is not undone because its record failed
            self.log.exception("audit.failed", verb=acted.verb, who=acted.who)

    def tiles(self) -> dict[str, Tile]:
        return make_tiles(self._watch.heard(), time.monotonic(), rate=self.clock.rate, connected=self.connected)

    def reports(self) -> Mapping[str, Mapping[str, Any]]:
        return {name: heard.report for name, heard in self._watch.heard().items()}

    def log_rows(self, *, kind: str, text: str, limit: int) -> Sequence[LogRow]:
        def like(words: str) -> str:
            return words.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")

        with self.turn() as turn:
            rows = turn.query(
                "SELECT seq, at_utc, type, subject, text FROM log"
                " WHERE type LIKE ? ESCAPE '\\' AND (subject || ' ' || text) LIKE ? ESCAPE '\\' ORDER BY n DESC LIMIT ?",
                (f"{like(kind)}%", f"%{like(text)}%", limit),
            )
        return [LogRow(*row) for row in rows]

    def pictures(self) -> Mapping[str, Picture]:
        seen = self._seen
        return {kind: Picture(**seen.pictures[key]) for kind, key in seen.last.items() if key in seen.pictures}

    def picture(self, frame_id: str, kind: str) -> Picture | None:
        found = self._seen.pictures.get(f"{frame_id}/{kind}")
        return Picture(**found) if found is not None else None

    def plan(self) -> dict[str, Any]:
        answer = dict(self.ask("telescope", ShowPlan(), timeout_s=5.0))
        product = answer.pop("plan", None) or {}
        rejected = product.get("rejected") if isinstance(product, Mapping) else None
        return {**answer, "rejected": _rejected(rejected)}

    def now(self) -> dict[str, Any]:
        utc, rate = format_utc(self.clock.now_ns()), f"{self.clock.rate:g}"
        return {"utc": utc, "rate": rate, "simulated": self._is_simulated, "broker": self.connected}


def _rejected(rows: Any) -> list[dict[str, str]]:
    """What a plan left out, whatever its product calls the fields."""
    if not isinstance(rows, Sequence) or isinstance(rows, str):
        return []
    found = []
    for row in rows[:200]:
        if isinstance(row, Mapping):
            reasons = row.get("reason") or row.get("reasons") or ""
            text = "; ".join(map(str, reasons)) if isinstance(reasons, list | tuple) else str(reasons)
            found.append({"name": str(row.get("name") or row.get("target_id") or ""), "reason": text})
    return found


def run(installation: Installation, name: str) -> int:
    """The process: `nightbell run console`."""
    return run_module(ConsoleModule, installation, name=name)
