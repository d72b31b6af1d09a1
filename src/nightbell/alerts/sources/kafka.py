"""GCN's Kafka (or any broker with its topics) through gcn-kafka: journal first, then commit the offset.

A crash between the two redelivers the notice, which the journal knows by its bytes. The group id is ours and stable: a new one
would read everything again, or skip it.
"""

from __future__ import annotations

import threading
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nightbell.alerts.settings import KafkaSettings
from nightbell.contracts.errors import BadInput, Missing

__all__ = ["consumer_settings", "follow_kafka"]

LARGEST_MESSAGE_BYTES = 8 << 20
POLL_S = 0.5
RETRY_S = (1.0, 300.0)
HEARTBEAT_TOPIC = "gcn.heartbeat"
HEARTBEAT_S = 60.0


def consumer_settings(settings: KafkaSettings, folder: Path) -> dict[str, Any]:
    """Arguments for `gcn_kafka.Consumer`. Raises `Missing` or `BadInput` when credentials are needed and not there."""
    config: dict[str, Any] = {
        "group.id": settings.group_id,
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
        # External coincidences are 2 MB, above librdkafka's default of 1.
        "fetch.message.max.bytes": LARGEST_MESSAGE_BYTES,
        "max.partition.fetch.bytes": LARGEST_MESSAGE_BYTES,
        "session.timeout.ms": 6000,
    }
    if settings.servers:
        return {"config": {**config, "bootstrap.servers": settings.servers, "security.protocol": "plaintext"}}
    path = folder / settings.credentials_file
    if not settings.credentials_file or not path.is_file():
        raise Missing("there are no credentials", where=str(path), remedy="Get them at gcn.nasa.gov/quickstart and put them into that file")
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    if not all(isinstance(table.get(key), str) for key in ("client_id", "client_secret")):
        raise BadInput("needs client_id and client_secret", where=str(path), remedy="Copy both from gcn.nasa.gov")
    return {"client_id": table["client_id"], "client_secret": table["client_secret"], "domain": settings.domain, "config": config}


def follow_kafka(
    settings: KafkaSettings, folder: Path, take: Callable[..., object], stopping: threading.Event, say: Callable[[str, str], None]
) -> None:
    """Until `stopping`. Errors of the stream are alarms with growing pauses, never the end and never a busy loop."""
    wait_s = RETRY_S[0]
    while not stopping.is_set():
        try:
            _follow(settings, folder, take, stopping, say)
        except Exception as error:  # noqa: BLE001  # confluent_kafka, its OIDC client and the disk each raise their own
            say("alerts.kafka", f"{settings.servers or settings.domain}: {error}; trying again in {wait_s:.0f} s")
            stopping.wait(wait_s)
            wait_s = min(2 * wait_s, RETRY_S[1])


def _follow(
    settings: KafkaSettings, folder: Path, take: Callable[..., object], stopping: threading.Event, say: Callable[[str, str], None]
) -> None:
    from gcn_kafka import Consumer  # noqa: PLC0415  # librdkafka is loaded only where a broker is configured

    consumer = Consumer(**consumer_settings(settings, folder))
    topics = list(settings.topics) if settings.servers else [*settings.topics, HEARTBEAT_TOPIC]
    heard_s = beat_s = time.monotonic()
    alarmed: set[str] = set()
    try:
        consumer.subscribe(topics)
        while not stopping.is_set():
            message = consumer.poll(POLL_S)
            now_s = time.monotonic()
            if message is not None and (error := message.error()) is not None:
                say("alerts.kafka", f"{message.topic() or settings.servers or settings.domain}: {error.str()}")
                stopping.wait(POLL_S)
                continue
            if message is not None:
                beat_s = now_s
                if message.topic() != HEARTBEAT_TOPIC:
                    heard_s = now_s
                    take(message.value() or b"", topic=message.topic(), partition=message.partition(), offset=message.offset())
                    consumer.commit(message=message, asynchronous=False)
            for name, silent, text in (
                ("notices", now_s - heard_s > settings.silence_s, f"no notice for {settings.silence_s:.0f} s"),
                ("heartbeat", not settings.servers and now_s - beat_s > HEARTBEAT_S, f"no heartbeat for {HEARTBEAT_S:.0f} s"),
            ):
                if silent and name not in alarmed:
                    say("alerts.kafka", text)
                    alarmed.add(name)
                elif not silent:
                    alarmed.discard(name)
    finally:
        consumer.close()
