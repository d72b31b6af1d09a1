"""Alarms: on disk before anyone is called, then sent on every channel until somebody takes them.

    raise_alarm / clear / acknowledge  ->  queue  ->  the desk's thread: spool (fsync) -> due(...) -> one sender thread per channel

The decision loop only puts into the queue; it never waits for a disk or a mail server. The same key is the same alarm. A human
silences it by acknowledging; only evidence clears it. A restart loses nothing: the spool is read again, and what was raised and
not taken is sent again.
"""

from __future__ import annotations

import json
import os
import queue
import smtplib
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.message import EmailMessage
from pathlib import Path
from typing import Any, Protocol

import msgspec
import structlog

from nightbell.contracts.errors import Failed, Missing, NightbellError
from nightbell.contracts.ids import uuid7
from nightbell.contracts.states import Severity
from nightbell.safety.settings import AlarmSettings

__all__ = ["Alarm", "AlarmDesk", "Channel", "channels_of", "due_in_s"]

TRIES_BEFORE_ALARM = 3


class Alarm(msgspec.Struct, frozen=True, kw_only=True):
    """One alarm as it stands; a line of the spool."""

    id: str
    key: str
    severity: Severity
    text: str
    since_utc: str
    evidence: dict[str, Any] = {}
    count: int = 1
    """How often it was raised."""
    n_sent: int = 0
    state: str = "raised"
    """raised, acked (silenced by a human), cleared (by evidence)."""
    by: str = ""
    """Who took it."""
    carried: bool = False
    """Of another module: nobody tells us when its evidence is gone, so it is over when a human takes it."""


class Channel(Protocol):
    """A way to reach a human."""

    @property
    def name(self) -> str: ...

    def send(self, message: Mapping[str, Any]) -> None:
        """Deliver or raise `NightbellError`."""
        ...


@dataclass(frozen=True)
class LogChannel:
    """The log and the terminal: info and up."""

    name: str = "log"

    def send(self, message: Mapping[str, Any]) -> None:
        log = structlog.get_logger()
        say = {"critical": log.error, "warning": log.warning}.get(str(message["severity"]), log.info)
        say("alarm.sent", key=message["key"], severity=message["severity"], text=message["text"], id=message["id"])


@dataclass(frozen=True)
class CommandChannel:
    """A local program: JSON on standard input, exit 0 is delivered."""

    argv: tuple[str, ...]
    deadline_s: float
    name: str = "command"

    def send(self, message: Mapping[str, Any]) -> None:
        try:
            done = subprocess.run(
                list(self.argv), input=json.dumps(message).encode(), capture_output=True, timeout=self.deadline_s, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Failed(str(error), where="alarms.command", remedy="Run the program by hand") from error
        if done.returncode != 0:
            words = done.stderr.decode(errors="replace").strip()[:200]
            raise Failed(f"exit status {done.returncode}: {words}", where="alarms.command", remedy="Run the program by hand")


@dataclass(frozen=True)
class WebhookChannel:
    """POST of JSON, 2xx is delivered."""

    url: str
    deadline_s: float
    name: str = "webhook"

    def send(self, message: Mapping[str, Any]) -> None:
        request = urllib.request.Request(  # noqa: S310 - the scheme is checked where the channel is made
            self.url, json.dumps(message).encode(), {"Content-Type": "application/json"}, method="POST"
        )
        try:
            with urllib.request.urlopen(request, timeout=self.deadline_s) as answer:  # noqa: S310
                answer.read(4096)
        except (OSError, ValueError) as error:  # HTTP errors and time-outs are OSErrors
            raise Failed(str(error), where="alarms.webhook", remedy="Try the URL with another program") from error


@dataclass(frozen=True)
class MailChannel:
    """Mail by SMTP."""

    settings: AlarmSettings
    password: str = ""
    name: str = "mail"

    def send(self, message: Mapping[str, Any]) -> None:
        mail = EmailMessage()
        # Line ends in a header would add headers of a stranger's choice.
        subject = " ".join(str(message["text"]).split())[:120]
        mail["Subject"] = f"[nightbell {message['severity']}] {subject}"
        mail["From"], mail["To"] = self.settings.smtp_from, ", ".join(self.settings.smtp_to)
        mail.set_content(json.dumps(message, indent=2))
        try:
            with smtplib.SMTP(self.settings.smtp_host, self.settings.smtp_port, timeout=self.settings.deadline_s) as server:
                if self.settings.smtp_starttls:
                    server.starttls(context=ssl.create_default_context())
                if self.settings.smtp_user:
                    server.login(self.settings.smtp_user, self.password)
                server.send_message(mail)
        except (OSError, smtplib.SMTPException) as error:
            raise Failed(str(error), where="alarms.smtp", remedy="Check host, port, user and password file") from error


def channels_of(settings: AlarmSettings, folder: Path) -> tuple[Channel, ...]:
    """The channels that have an address. Raises `NightbellError` for one that cannot work."""
    channels: list[Channel] = [LogChannel()]
    if settings.command:
        channels.append(CommandChannel(settings.command, settings.deadline_s))
    if settings.webhook:
        channels.append(WebhookChannel(settings.webhook, settings.deadline_s))
    if settings.smtp_host:
        password = ""
        if settings.smtp_password_file:
            path = folder / settings.smtp_password_file
            try:
                password = path.read_text(encoding="utf-8").strip()
            except OSError as error:
                raise Missing(f"cannot read {path}: {error.strerror}", where="alarms.smtp_password_file", remedy="Write it") from error
        channels.append(MailChannel(settings, password))
    return tuple(channels)


def due_in_s(alarm: Alarm, last_sent_s: float | None, now_s: float, settings: AlarmSettings) -> float | None:
    """Seconds until the alarm must be sent (<= 0: now), None when it need not. Times on the monotonic clock."""
    if alarm.state != "raised":
        return None
    if last_sent_s is None:
        return 0.0
    if alarm.n_sent == 0:  # cleared and raised again within the gap: late, but not lost
        return last_sent_s + settings.least_gap_s - now_s
    if alarm.severity is not Severity.CRITICAL:
        return None
    pause_s = 60.0 * settings.repeat_min[min(alarm.n_sent, len(settings.repeat_min)) - 1]
    return last_sent_s + max(pause_s, settings.least_gap_s) - now_s


@dataclass
class _Route:
    channel: Channel
    jobs: queue.SimpleQueue[Mapping[str, Any] | None]
    thread: threading.Thread | None = None
    failures: int = 0
    error: str = ""
    rings: bool = False
    """Its own alarm stands; also one that a run before this raised."""


def _sent_once_more(alarm: Alarm | None) -> Alarm | None:
    return None if alarm is None or alarm.state != "raised" else msgspec.structs.replace(alarm, n_sent=alarm.n_sent + 1)


def _key_of(channel: Channel) -> str:
    """Key of the alarm that a channel does not deliver."""
    return f"safety.channel.{channel.name}"


class AlarmDesk:
    """Holds the alarms. Every method but `test` returns at once, from any thread."""

    def __init__(
        self,
        settings: AlarmSettings,
        spool: Path,
        channels: tuple[Channel, ...],
        *,
        utc: Callable[[], str],
        tell: Callable[[Alarm], None] | None = None,
    ) -> None:
        """`tell` hears of each new or worse alarm, from the desk's thread; what it raises is logged."""
        self._settings, self._spool, self._utc = settings, spool, utc
        self._tell = tell
        self._log = structlog.get_logger().bind(module="safety")
        self._lock = threading.Lock()
        self._alarms: dict[str, Alarm] = {}
        self._last_sent: dict[str, float] = {}
        self._wishes: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._routes = [_Route(channel, queue.SimpleQueue()) for channel in channels]
        self._thread: threading.Thread | None = None
        self._read_spool()
        for route in self._routes:
            route.rings = _key_of(route.channel) in self._alarms

    # -- for everybody ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to send, also what a run before this one left unsent."""
        for route in self._routes:
            route.thread = threading.Thread(target=self._send_all, args=(route,), name=f"alarm {route.channel.name}", daemon=True)
            route.thread.start()
        self._thread = threading.Thread(target=self._work, name="alarms", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the threads; nothing is lost, the spool has it."""
        self._wishes.put(None)
        for route in self._routes:
            route.jobs.put(None)
        for thread in (self._thread, *(route.thread for route in self._routes)):
            if thread is not None:
                thread.join(timeout=2.0)

    def raise_alarm(
        self,
        key: str,
        severity: Severity,
        text: str,
        *,
        alarm_id: str = "",
        evidence: Mapping[str, Any] | None = None,
        carried: bool = False,
    ) -> None:
        """Something needs a human. Raised again with the same key it stays one alarm.

        `carried`: another module said so; `tell` is not called, and it is over when a human takes it.
        """
        facts = dict(evidence or {})
        self._wishes.put(lambda: self._raise(key, severity, text, alarm_id, facts, carried=carried))

    def clear(self, key: str) -> None:
        """The evidence is gone."""
        self._wishes.put(lambda: self._clear(key))

    def acknowledge(self, alarm_id: str, by: str) -> Alarm:
        """A human takes it: no more repeats. Raises `Missing` when there is no such alarm.

        Ours stands until its evidence is gone; one that was carried for another module is over, and rings when raised again.
        """
        with self._lock:
            key = next((one.key for one in self._alarms.values() if alarm_id in (one.id, one.key)), "")

        def take(alarm: Alarm | None) -> Alarm | None:
            if alarm is None or alarm.state != "raised":
                return None
            return msgspec.structs.replace(alarm, state="cleared" if alarm.carried else "acked", by=by)

        alarm = self._change(key, take)
        if alarm is None:
            raise Missing(f"there is no alarm {alarm_id!r}", where="alarm_id", remedy="See the alarms in `nightbell send safety status`")
        return alarm

    def standing(self) -> tuple[Alarm, ...]:
        """Raised and acked alarms, the gravest first."""
        order = [Severity.CRITICAL, Severity.WARNING, Severity.INFO]
        with self._lock:
            alarms = [alarm for alarm in self._alarms.values() if alarm.state != "cleared"]
        return tuple(sorted(alarms, key=lambda alarm: (order.index(alarm.severity), alarm.since_utc)))

    def channels(self) -> list[dict[str, Any]]:
        """Each channel with its failures in a row."""
        return [{"channel": route.channel.name, "failures": route.failures, "error": route.error} for route in self._routes]

    def test(self) -> list[dict[str, Any]]:
        """Send a nonce on every channel and wait: [{channel, delivered, latency_ms, error}]."""
        nonce = uuid7()
        results: list[dict[str, Any]] = []
        threads = []
        for route in self._routes:
            thread = threading.Thread(target=self._test_one, args=(route.channel, nonce, results), daemon=True)
            thread.start()
            threads.append(thread)
        end = time.monotonic() + self._settings.deadline_s + 1.0
        for thread in threads:
            thread.join(timeout=max(0.0, end - time.monotonic()))
        heard = {result["channel"] for result in results}
        silent = [route.channel.name for route in self._routes if route.channel.name not in heard]
        return [*results, *({"channel": name, "delivered": False, "latency_ms": None, "error": "no answer in time"} for name in silent)]

    def _test_one(self, channel: Channel, nonce: str, results: list[dict[str, Any]]) -> None:
        began = time.monotonic()
        error = ""
        message = {"id": nonce, "key": "safety.test", "severity": "info", "text": f"test of the channel {channel.name}", "nonce": nonce}
        try:
            channel.send({**message, "since_utc": self._utc()})
        except NightbellError as problem:
            error = str(problem)
        latency_ms = round(1000 * (time.monotonic() - began), 1)
        results.append({"channel": channel.name, "delivered": not error, "latency_ms": latency_ms, "error": error})

    # -- the desk's thread -----------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            wait_s = self._send_due()
            try:
                wish = self._wishes.get(timeout=wait_s)
            except queue.Empty:
                continue
            if wish is None:
                return
            wish()

    def _raise(self, key: str, severity: Severity, text: str, alarm_id: str, evidence: dict[str, Any], *, carried: bool) -> None:
        is_news = False

        def ring(known: Alarm | None) -> Alarm | None:
            nonlocal is_news
            if known is not None and known.state != "cleared":
                is_news = severity is Severity.CRITICAL and known.severity is not Severity.CRITICAL
                # Graver than what a human has taken: it is news again.
                again = msgspec.structs.replace(known, severity=severity, text=text, count=known.count + 1, state="raised")
                return again if is_news else None
            is_news = True
            return Alarm(
                id=alarm_id or uuid7(),
                key=key,
                severity=severity,
                text=text,
                since_utc=self._utc(),
                evidence=evidence,
                count=known.count + 1 if known is not None else 1,
                carried=carried,
            )

        alarm = self._change(key, ring)
        if alarm is None or not is_news:
            return
        if alarm.n_sent > 0:  # grown graver: it does not wait for its next repeat
            self._last_sent.pop(key, None)
        if self._tell is not None and not carried:
            try:
                self._tell(alarm)
            except Exception as error:  # noqa: BLE001 - whoever listens may be dead; the alarm goes out
                self._log.warning("alarm.not_told", key=key, error=repr(error))

    def _clear(self, key: str) -> None:
        def end(alarm: Alarm | None) -> Alarm | None:
            return None if alarm is None or alarm.state == "cleared" else msgspec.structs.replace(alarm, state="cleared")

        self._change(key, end)

    def _send_due(self) -> float:
        """Send what is due; returns the seconds until the next."""
        now_s = time.monotonic()
        wait_s = 1.0
        for alarm in self.standing():
            due_s = due_in_s(alarm, self._last_sent.get(alarm.key), now_s, self._settings)
            if due_s is None:
                continue
            if due_s > 0:
                wait_s = min(wait_s, due_s)
                continue
            self._last_sent[alarm.key] = now_s
            sent = self._change(alarm.key, _sent_once_more)
            if sent is None or sent.state != "raised":  # a human took it, or it cleared, just now
                continue
            message = msgspec.to_builtins(sent)
            for route in self._routes:
                if alarm.severity is not Severity.INFO or isinstance(route.channel, LogChannel):
                    route.jobs.put(message)
        return wait_s

    def _send_all(self, route: _Route) -> None:
        while (message := route.jobs.get()) is not None:
            try:
                route.channel.send(message)
            except Exception as error:  # noqa: BLE001 - one broken channel must not end the others
                route.failures, route.error = route.failures + 1, str(error)
                self._log.warning("alarm.not_delivered", channel=route.channel.name, error=str(error), failures=route.failures)
                if route.failures == TRIES_BEFORE_ALARM:
                    text = f"the alarm channel {route.channel.name} failed {TRIES_BEFORE_ALARM} times: {error}"
                    self.raise_alarm(_key_of(route.channel), Severity.WARNING, text)
                    route.rings = True
            else:
                if route.rings:
                    self.clear(_key_of(route.channel))
                route.failures, route.error, route.rings = 0, "", False

    # -- the spool -------------------------------------------------------------------------------------------------------

    def _change(self, key: str, change: Callable[[Alarm | None], Alarm | None]) -> Alarm | None:
        """The alarm after `change` (None: it stays as it is), on disk before anyone is called.

        Desk and callers change alarms at the same time: each sees what the other has written, so that no acknowledgement is lost.
        """
        with self._lock:
            known = self._alarms.get(key)
            alarm = change(known)
            if alarm is None:
                return known
            try:
                with self._spool.open("ab") as file:
                    file.write(msgspec.json.encode(alarm) + b"\n")
                    file.flush()
                    os.fsync(file.fileno())
            except OSError as error:  # a full disk must neither silence the bell nor keep a human from taking an alarm
                self._log.error("alarm.spool_failed", key=key, error=str(error))
            self._alarms[key] = alarm
            return alarm

    def _read_spool(self) -> None:
        self._spool.parent.mkdir(parents=True, exist_ok=True)
        if not self._spool.exists():
            return
        for line in self._spool.read_bytes().splitlines():
            try:
                alarm = msgspec.json.decode(line, type=Alarm)
            except (msgspec.MsgspecError, UnicodeDecodeError):
                continue  # the last line of a host that lost power while writing it
            self._alarms[alarm.key] = alarm
        standing = [alarm for alarm in self._alarms.values() if alarm.state != "cleared"]
        temporary = self._spool.with_suffix(".new")
        with temporary.open("wb") as file:
            file.writelines(msgspec.json.encode(alarm) + b"\n" for alarm in standing)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._spool)
        self._alarms = {alarm.key: alarm for alarm in standing}
