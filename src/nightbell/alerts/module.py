"""The alert robot on the bus: journals raw notices before anything else, then says what they mean.

Sources run in threads of their own and only journal; one worker reads the journal in order, so a newer notice never overtakes an
older one. State, events and the worker's place in the journal are committed together: a crash repeats nothing and loses nothing.
"""

from __future__ import annotations

import concurrent.futures
import socket
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from nightbell.alerts.catalog import open_catalog
from nightbell.alerts.journal import NoticeJournal
from nightbell.alerts.lifecycle import Known, forgettable
from nightbell.alerts.notices.guards import read_bytes, shown
from nightbell.alerts.notices.reading import parse_notice
from nightbell.alerts.policy import load_policy, shipped_policy
from nightbell.alerts.robot import Outcome, Robot, known_key
from nightbell.alerts.settings import AlertsSettings
from nightbell.alerts.sources.folder import watch_folder
from nightbell.alerts.sources.kafka import follow_kafka
from nightbell.alerts.sources.voevent import listen_to_voevents
from nightbell.alerts.targets import observatories_of
from nightbell.bus.module import Module, Progress, Turn, answers, run_module
from nightbell.contracts.commands import SubmitNotice
from nightbell.contracts.errors import BadInput, Failed, NightbellError
from nightbell.contracts.states import Severity
from nightbell.settings import Installation

__all__ = ["Alerts", "AlertsState", "run"]

SUBMIT_S = 60.0
AGE_CHECK_S = 60.0
RETRY_S = 5.0


class AlertsState(msgspec.Struct):
    """What is known, and how far the journal has been read."""

    superevents: dict[str, Known] = {}
    processed: int = 0
    """Number of the last journal entry whose effects are committed."""
    n_refused: int = 0


class Alerts(Module[AlertsState]):
    """The alert robot."""

    name = "alerts"
    state_type = AlertsState
    settings_type = AlertsSettings
    settings: AlertsSettings

    def start(self) -> None:
        settings, folder = self.settings, self.installation.folder
        policy_file = folder / settings.policy
        catalog = open_catalog(folder / settings.catalog) if settings.catalog else None
        self.robot = Robot(
            load_policy(policy_file) if policy_file.is_file() or settings.policy != "policy.toml" else shipped_policy(),
            catalog,
            observatories_of(settings, self.site),
            weight=settings.weight,
            top=settings.top,
            maps=self.home / "skymaps",
            host=socket.gethostname(),
        )
        self.journal = NoticeJournal(self.home / "notices")
        self._wake = threading.Event()
        self._waiting: dict[int, concurrent.futures.Future[dict[str, Any]]] = {}
        self._last_answer: dict[str, Any] = {}
        self._threads = [threading.Thread(target=self._work_for_ever, name="notices", daemon=True), *self._sources()]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._wake.set()
        for thread in self._threads:
            thread.join(timeout=10.0)

    def report(self) -> dict[str, Any]:
        """For `status` and the console."""
        return {"notices": self.journal.last, "last": self._last_answer, "sources": [thread.name for thread in self._threads[1:]]}

    # -- sources --------------------------------------------------------------------------------------------------------

    def _sources(self) -> list[threading.Thread]:
        settings = self.settings
        made: list[tuple[str, Callable[[], None]]] = []
        if settings.inbox.path:
            inbox = self.installation.home / settings.inbox.path
            poll_s = settings.inbox.poll_s
            made.append(("inbox", lambda: watch_folder(inbox, self._taker("inbox"), self.stopping, self._say, poll_s=poll_s)))
        if settings.voevent.host:
            spool = self.home / "vtp"
            made.append(("voevent", lambda: listen_to_voevents(settings.voevent, spool, self._taker("voevent"), self.stopping, self._say)))
        if settings.kafka.topics:
            folder = self.installation.folder
            made.append(("kafka", lambda: follow_kafka(settings.kafka, folder, self._taker("kafka"), self.stopping, self._say)))
        return [threading.Thread(target=self._keep_running, args=one, name=one[0], daemon=True) for one in made]

    def _keep_running(self, name: str, run_source: Callable[[], None]) -> None:
        """A source that fails in a way it does not know itself begins again: a thread that ends quietly would be a deaf robot."""
        while not self.stopping.is_set():
            try:
                run_source()
            except Exception as error:
                self.log.exception("source.failed", source=name)
                self._say(f"alerts.{name}", f"the source {name} failed: {error}; it begins again in {RETRY_S:.0f} s")
                self.stopping.wait(RETRY_S)

    def _taker(self, source: str) -> Callable[..., tuple[int, bool]]:
        def take(raw: bytes, **about: Any) -> tuple[int, bool]:
            number, new = self.journal.append(raw, source=source, now_ns=self.clock.now_ns(), **about)
            self._wake.set()
            return number, new

        return take

    def _say(self, key: str, text: str) -> None:
        self.log.warning("source.troubled", key=key, text=text)
        try:
            with self.turn() as turn:
                turn.raise_alarm(key, Severity.WARNING, shown(text, 1000))
        except Exception:  # the trouble may be the very disk on which the alarm is written first
            self.log.exception("alarm.not_said", key=key)

    # -- work -----------------------------------------------------------------------------------------------------------

    def _work_for_ever(self) -> None:
        checked_ns = 0
        while not self.stopping.is_set():
            self._wake.clear()
            try:
                with self.turn() as turn:
                    processed = turn.state.processed
                for number in self.journal.after(processed):
                    self._work(number)
                    if self.stopping.is_set():
                        return
                now_ns = self.clock.now_ns()
                if now_ns - checked_ns > AGE_CHECK_S * 1e9:
                    checked_ns = now_ns
                    self._expire(now_ns)
            except Exception as error:
                # Disk or database: the notice is not to blame, and waits in the journal.
                self.log.exception("notices.stuck")
                self._say("alerts.stuck", f"notices wait: {type(error).__name__}: {error}; trying again every {RETRY_S:.0f} s")
                self.stopping.wait(RETRY_S)
                continue
            self._wake.wait(1.0)

    def _work(self, number: int) -> None:
        """One notice, whole or refused; its place in the journal is passed either way."""
        now_ns = self.clock.now_ns()
        where = f"notice {number}"
        try:
            entry = self.journal.read(number)
            where = entry.where
            reading = self.robot.read(entry, now_ns=now_ns)
            key = known_key(reading.notice.alert.superevent_id, drill=reading.notice.alert.drill)
            with self.turn() as turn:
                known = turn.state.superevents.get(key)
            outcome = self.robot.decide(reading, known, now_ns=now_ns)
            with self.turn() as turn:
                self._commit(turn, key, outcome)
                turn.state.processed = number
        except (OSError, sqlite3.Error):
            raise
        except Exception as error:  # noqa: BLE001  # one notice of a stream must not stop the next; it is kept with its error
            self._refuse(number, where, error)
            return
        answer = {"notice": number, **outcome.as_answer()}
        self._last_answer = answer
        self.log.info("notice.read", source=entry.about.get("source"), **answer)
        if (waiting := self._waiting.pop(number, None)) is not None:
            waiting.set_result(answer)

    def _refuse(self, number: int, where: str, error: Exception) -> None:
        known = error if isinstance(error, NightbellError) else Failed(str(error), where=f"{where}: {type(error).__name__}")
        self.log.error("notice.refused", number=number, where=where, error=str(known), exc_info=error)
        text = f"{shown(known, 1000)}. It is kept in {self.home / 'notices'}"
        with self.turn() as turn:
            turn.state.processed = number
            turn.state.n_refused += 1
            turn.raise_alarm("alerts.refused", Severity.WARNING, text, number=number)
        if (waiting := self._waiting.pop(number, None)) is not None:
            waiting.set_exception(known)

    def _commit(self, turn: Turn[AlertsState], key: str, outcome: Outcome) -> None:
        known = outcome.known
        cause: str | None = None
        for event, subject in outcome.events:
            # The first is what was read; the others follow from it.
            identity = turn.publish(event, subject, correlationid=known.root_id, causationid=cause)
            cause = cause or identity
            if known.root_id is None:
                known = msgspec.structs.replace(known, root_id=identity)
        turn.state.superevents[key] = known
        for alarm, text in outcome.alarms:
            turn.raise_alarm(alarm, Severity.INFO, shown(text, 1000))

    def _expire(self, now_ns: int) -> None:
        with self.turn() as turn:
            for key, known in list(turn.state.superevents.items()):
                outcome = self.robot.grow_old(known, now_ns=now_ns)
                if outcome is not None:
                    self._commit(turn, key, outcome)
                elif forgettable(known, now_ns=now_ns):
                    del turn.state.superevents[key]

    # -- commands -------------------------------------------------------------------------------------------------------

    @answers(SubmitNotice)
    def submit_notice(self, command: SubmitNotice, turn: Turn[AlertsState], progress: Progress) -> dict[str, Any]:  # noqa: ARG002
        """A notice from a file, as if a stream had brought it; answered when its events are in the outbox."""
        path = Path(command.path)
        raw = read_bytes(path)
        parse_notice(raw, where=str(path))
        if command.skymap is not None and not Path(command.skymap).is_file():
            raise BadInput("there is no such file", where=command.skymap, remedy="Name the map file on the alert robot's host")
        future: concurrent.futures.Future[dict[str, Any]] = concurrent.futures.Future()
        about: dict[str, Any] = {"path": str(path), "confirm": command.confirm}
        if command.skymap is not None:
            about["skymap"] = command.skymap
        # The same file may be submitted again on purpose: with a map, or to confirm.
        number, _ = self.journal.append(
            raw, source="submitted", now_ns=self.clock.now_ns(), again=True, before=self._register(future), **about
        )
        self._wake.set()
        try:
            return future.result(timeout=SUBMIT_S)
        except TimeoutError as error:
            raise Failed(
                f"notice {number} is stored, but was not read within {SUBMIT_S:.0f} s", where=str(path), remedy="See its log"
            ) from error

    def _register(self, future: concurrent.futures.Future[dict[str, Any]]) -> Callable[[int], None]:
        def register(number: int) -> None:
            self._waiting[number] = future

        return register


def run(installation: Installation, name: str) -> int:
    """The process: `nightbell run alerts`."""
    return run_module(Alerts, installation, name=name)
