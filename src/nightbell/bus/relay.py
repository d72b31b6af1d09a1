"""A relay: subscriber at one broker, publisher at another. Events keep id, source and time; `via` names the journals they crossed.

Its ledger and outbox are one database: what was heard at the source is in the outbox to the target in the same transaction as the
cursor, so a crash neither loses nor doubles an event. An event whose `via` already names the target's journal is not sent back.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import msgspec

from nightbell.bus import wire
from nightbell.bus.client import Client, Subscription
from nightbell.bus.module import MANY_ATTEMPTS, Module, run_module
from nightbell.contracts.errors import BadInput
from nightbell.settings import Installation, setting

__all__ = ["Relay", "RelaySettings", "run"]


@dataclass(frozen=True, kw_only=True)
class RelaySettings:
    """modules/relay.toml: what is carried from where to where."""

    source: str = setting("alert-site", names="broker", doc="Broker whose events are heard")
    target: str = setting("observatory", names="broker", doc="Broker that hears them too; the relay's own `broker`")
    patterns: tuple[str, ...] = setting(("targets.*", "alert.*"), doc="Types of events that are carried: noun.verb, noun.* or **")

    def __post_init__(self) -> None:
        for pattern in self.patterns:
            wire.check_pattern(pattern)
        if self.source == self.target:
            raise BadInput("source and target are the same broker", where="relay", remedy="Name two brokers")


class RelayState(msgspec.Struct):
    """How much has been carried."""

    carried: int = 0
    last: str = ""


class Relay(Module[RelayState]):
    """Carries one broker's events to another."""

    name = "relay"
    state_type = RelayState
    settings_type = RelaySettings
    settings: RelaySettings

    def start(self) -> None:
        settings, brokers = self.settings, self.installation.settings.brokers
        for key, name in (("source", settings.source), ("target", settings.target)):
            if name not in brokers:
                raise BadInput(
                    f"{name!r} is no broker of this installation", where=f"modules/relay.toml: {key}", remedy=f"Use {', '.join(brokers)}"
                )
        if self.installation.broker_of(self.module_name) != settings.target:
            raise BadInput(
                "the relay's own broker is not its target", where="modules/relay.toml: broker", remedy=f'Set broker = "{settings.target}"'
            )
        self._source = Client(
            brokers[settings.source].door,
            name=self.module_name,
            site=self.site.name,
            broker=settings.source,
            log=self.log,
            store=self._bus_store,
            publishes=False,
            subscriptions=[Subscription("relay", settings.patterns)],
            curve=self.curve_to(f"broker-{settings.source}"),
            on_fenced=self._bus_fenced,
        )
        self._thread = threading.Thread(target=self._carry_for_ever, name="carry", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._source.end()
        self._source.deliveries.put(None)
        self._thread.join(timeout=5.0)

    def report(self) -> dict[str, Any]:
        """For `status`."""
        return {"source": self.settings.source, "target": self.settings.target, "source_connected": self._source.connected}

    def _carry_for_ever(self) -> None:
        # Without the name of the target's journal an event could not be kept from going back where it came from.
        while not self._bus_client.journal:
            if self.stopping.wait(0.2):
                return
        self._source.start()
        while (delivery := self._source.deliveries.get()) is not None:
            if self.stopping.is_set() or self._source.is_void(delivery):
                continue
            try:
                envelope = wire.decode_envelope(delivery.envelope)
            except wire.WireError as error:
                self.log.warning("event.refused", seq=delivery.seq, error=str(error))
                self._source.reject(delivery, str(error), final=True, max_attempts=1)
                continue
            try:
                if not self._bus_store.has_handled(envelope.id):
                    self._carry(delivery.sub, delivery.epoch, delivery.seq, envelope)
            except Exception as error:  # carrying cannot fail for the event's sake: a full disk, say; it will come again
                self.log.exception("event.failed", seq=delivery.seq)
                self._source.reject(delivery, str(error), final=False, max_attempts=MANY_ATTEMPTS)
                continue
            self._source.acknowledge(delivery)

    def _carry(self, sub: str, epoch: int, seq: int, envelope: wire.Envelope) -> None:
        turn = self._bus_turn()
        try:
            if self._bus_client.journal not in envelope.via:
                turn.forward(msgspec.structs.replace(envelope, via=(*envelope.via, self._source.journal)))
                turn.state.carried += 1
                turn.state.last = envelope.id
            turn.commit(handled=(sub, epoch, envelope.id, seq))
        except BaseException:
            turn.rollback()
            raise
        self._bus_client.wake()


def run(installation: Installation, name: str) -> int:
    """The process: `nightbell run relay`."""
    return run_module(Relay, installation, name=name)
