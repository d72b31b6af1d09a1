"""The Kafka source against a broker that speaks the real protocol, through gcn-kafka."""

from __future__ import annotations

import queue
import threading
from pathlib import Path
from typing import Any

import pytest
from tests.alerts.making import as_bytes, igwn

from nightbell.alerts.journal import NoticeJournal
from nightbell.alerts.settings import KafkaSettings
from nightbell.alerts.sources.kafka import follow_kafka

pytestmark = pytest.mark.real
TOPIC = "igwn.gwalert"


class Following:
    """The source in a thread, journaling into a folder."""

    def __init__(self, address: str, folder: Path, group: str) -> None:
        self.journal = NoticeJournal(folder)
        self.taken: queue.Queue[tuple[int, bool]] = queue.Queue()
        self.said: list[tuple[str, str]] = []
        self.stopping = threading.Event()
        settings = KafkaSettings(topics=(TOPIC,), servers=address, group_id=group)
        arguments = (settings, folder, self.take, self.stopping, lambda key, text: self.said.append((key, text)))
        self.thread = threading.Thread(target=follow_kafka, args=arguments)
        self.thread.start()

    def take(self, raw: bytes, **about: Any) -> tuple[int, bool]:
        done = self.journal.append(raw, source="kafka", now_ns=0, **about)
        self.taken.put(done)
        return done

    def stop(self) -> None:
        self.stopping.set()
        self.thread.join(20)
        assert not self.thread.is_alive()


def send(address: str, *payloads: bytes) -> None:
    import confluent_kafka

    producer = confluent_kafka.Producer({"bootstrap.servers": address, "message.max.bytes": 8 << 20})
    for payload in payloads:
        producer.produce(TOPIC, payload)
    assert producer.flush(20) == 0


def test_a_notice_of_two_megabytes_is_on_disk_before_its_offset_is_committed(kafka: str, tmp_path: Path) -> None:
    notice = as_bytes(igwn(event__skymap="QUJD" * 500_000))  # 2 MB, as external coincidences are
    following = Following(kafka, tmp_path, "nightbell-test")
    try:
        send(kafka, notice)
        number, new = following.taken.get(timeout=30)
        assert (number, new) == (1, True)
        assert following.journal.read(1).raw == notice
        assert following.journal.read(1).about["topic"] == TOPIC
    finally:
        following.stop()


def test_redelivered_notices_change_nothing(kafka: str, tmp_path: Path) -> None:
    notices = [f'{{"n": {i}}}'.encode() for i in range(20)]
    send(kafka, *notices)
    first = Following(kafka, tmp_path, "first")
    try:
        assert [first.taken.get(timeout=30) for _ in notices] == [(i, True) for i in range(1, 21)]
    finally:
        first.stop()
    again = Following(kafka, tmp_path, "a-group-without-memory")
    try:
        assert [again.taken.get(timeout=30) for _ in notices] == [(i, False) for i in range(1, 21)]
        assert again.journal.last == 20
    finally:
        again.stop()
