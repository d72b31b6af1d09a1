"""Safety on the bus: tells what the kernel decided and carries questions to it. Decides nothing.

The kernel runs in threads of its own; it neither waits for this file nor notices when it fails.
"""

from __future__ import annotations

import queue
import threading
from typing import Any

import msgspec

from nightbell.bus.module import Module, Progress, Turn, answers, on, run_module
from nightbell.contracts.commands import AcknowledgeAlarm, CloseDome, RenewLease, RequestGo, TestAlarm
from nightbell.contracts.errors import BadInput, Failed, Refused
from nightbell.contracts.events import AlarmAcknowledged, AlarmRaised, Event, SafetyChanged, WeatherChanged
from nightbell.contracts.instants import format_utc
from nightbell.contracts.states import Severity
from nightbell.safety.alarms import Alarm, AlarmDesk, channels_of
from nightbell.safety.kernel import Kernel, Told
from nightbell.safety.last_resort import close_anyway
from nightbell.safety.settings import SafetySettings, check_world
from nightbell.settings import Installation

__all__ = ["Safety", "SafetyState", "run"]

HEARTBEAT_S = 1.0


class SafetyState(msgspec.Struct):
    """What was said last; nothing is decided from it."""

    verdict: str = "unsafe"
    shutter: str = "unknown"
    reasons: tuple[str, ...] = ()


class Safety(Module[SafetyState]):
    """The safety module: a mouth and ears for the kernel."""

    name = "safety"
    state_type = SafetyState
    settings_type = SafetySettings
    settings: SafetySettings

    def start(self) -> None:
        check_world(self.installation, self.settings)
        self._said: queue.SimpleQueue[Told | Alarm | None] = queue.SimpleQueue()
        self.desk = AlarmDesk(
            self.settings.alarms,
            self.home / "alarms.jsonl",
            channels_of(self.settings.alarms, self.installation.folder),
            utc=lambda: format_utc(self.clock.now_ns()),
            tell=self._said.put,
        )
        self.kernel = Kernel(self.settings, self.site, self.clock, self.desk, home=self.home, tell=self._said.put)
        self.desk.start()
        self.kernel.start()
        self._threads = [
            threading.Thread(target=self._tell_for_ever, name="tell", daemon=True),
            threading.Thread(target=self._watch_broker, name="watch the broker", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """The dome stays as it is: the telescope, whose lease nobody renews now, closes it."""
        self.kernel.stop()
        self.desk.stop()
        self._said.put(None)
        for thread in self._threads:
            thread.join(timeout=5.0)

    def report(self) -> dict[str, Any]:
        """For `status` and the console."""
        return {**self.kernel.report(), "limits_are": "real seconds"}

    # -- telling --------------------------------------------------------------------------------------------------------

    def _tell_for_ever(self) -> None:
        while (said := self._said.get()) is not None:
            try:
                self._publish(said)
            except Exception:  # a full disk or a broken store must not end the telling of what comes next
                self.log.exception("told.failed")

    def _publish(self, said: Told | Alarm) -> None:
        site = self.site.name
        events: list[Event] = []
        with self.turn() as turn:
            if isinstance(said, Alarm):
                events.append(AlarmRaised(alarm_id=said.id, key=said.key, severity=said.severity, text=said.text, evidence=said.evidence))
            else:
                decision = said.decision
                if said.evidence_changed:
                    events.append(WeatherChanged(evidence=decision.evidence, at_utc=said.at_utc))
                if said.verdict_changed:
                    events.append(
                        SafetyChanged(
                            verdict=decision.verdict,
                            previous=said.previous,
                            reasons=decision.reasons,
                            dome_shutter=said.shutter,
                            at_utc=said.at_utc,
                        )
                    )
                    turn.state.verdict, turn.state.shutter = decision.verdict.value, said.shutter
                    turn.state.reasons = decision.reasons
            for event in events:
                turn.publish(event, site)

    def _watch_broker(self) -> None:
        while not self.stopping.wait(HEARTBEAT_S):
            self.kernel.heard_broker(connected=self.connected)

    # -- hearing --------------------------------------------------------------------------------------------------------

    @on("alarm.raised")
    def carry_alarm(self, event: AlarmRaised, turn: Turn[SafetyState]) -> None:
        """Alarms of other modules go out over our channels too."""
        envelope = turn.envelope
        if envelope is None or envelope.source.partition("@")[0] == self.name:
            return
        self.desk.raise_alarm(event.key, event.severity, event.text, alarm_id=event.alarm_id, evidence=event.evidence, carried=True)

    @answers(RequestGo)
    def request_go(self, command: RequestGo, turn: Turn[SafetyState], progress: Progress) -> dict[str, Any]:  # noqa: ARG002
        """A GO token, or every reason against it."""
        return self.kernel.request_go()

    @answers(RenewLease)
    def renew_lease(self, command: RenewLease, turn: Turn[SafetyState], progress: Progress) -> dict[str, Any]:  # noqa: ARG002
        """Renewed when it is safe and progress has grown."""
        return self.kernel.renew_lease(command.holder, command.progress)

    @answers(CloseDome)
    def close(self, command: CloseDome, turn: Turn[SafetyState], progress: Progress) -> dict[str, Any]:  # noqa: ARG002
        """Ordered at once; `safety.changed` tells when the sensor says closed."""
        return self.kernel.close(command.reason)

    @answers(AcknowledgeAlarm)
    def acknowledge_alarm(self, command: AcknowledgeAlarm, turn: Turn[SafetyState], progress: Progress) -> dict[str, Any]:  # noqa: ARG002
        """Silence it; only evidence clears it."""
        if not command.by.strip():
            raise BadInput("is empty", where="by", remedy="Say who takes the alarm")
        alarm = self.desk.acknowledge(command.alarm_id, command.by)
        turn.publish(AlarmAcknowledged(alarm_id=alarm.id, key=alarm.key, by=command.by), self.site.name)
        return {"alarm_id": alarm.id, "key": alarm.key, "state": alarm.state, "by": alarm.by, "text": alarm.text}

    @answers(TestAlarm)
    def test_alarm(self, command: TestAlarm, turn: Turn[SafetyState], progress: Progress) -> dict[str, Any]:  # noqa: ARG002
        """A nonce on every channel, and what became of it; fails when none delivered."""
        channels = self.desk.test()
        if not any(one["delivered"] for one in channels):
            raise Failed("no channel delivered", where="alarms", remedy="; ".join(f"{one['channel']}: {one['error']}" for one in channels))
        self.log.info("alarm.tested", channels=channels)
        return {"channels": channels, "severity": Severity.INFO.value}


def run(installation: Installation, name: str) -> int:
    """The process: `nightbell run safety`. When it cannot start or go on, the dome is closed before the cause is told."""
    try:
        return run_module(Safety, installation, name=name)
    except Refused:  # another one runs already, and watches
        raise
    except Exception as error:
        close_anyway(installation.module_settings(name, SafetySettings), why=str(error))
        raise
