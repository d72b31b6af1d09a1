"""The broker with real sockets, files and processes; the client here is a bare DEALER, so that no code of ours vouches for itself."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
import zmq

from nightbell.bus import wire
from nightbell.bus.broker import Broker, run_broker
from nightbell.bus.disk import Disk
from nightbell.bus.journal import verify
from nightbell.bus.tuning import BrokerTuning
from nightbell.contracts.errors import Failed, Refused
from nightbell.settings import load_installation

H = TypeVar("H", bound=wire.Head)
PATIENCE_S = 10.0
ROOT = Path(__file__).parents[2]


class Peer:
    """A raw client of one broker."""

    def __init__(self, door: str, name: str = "telescope", *, outbox: str | None = None, **more: Any) -> None:
        self.name, self.kept = name, list[tuple[wire.Head, bytes]]()
        self.socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.connect(door)
        told: dict[str, Any] = {"instance": name, "host": "dome", "pid": 1, "presence": False, "lease_ms": 60_000, **more}
        self.say(wire.Hello(name=name, outbox=outbox or f"outbox-{name}", **told))
        self.welcome = self.hear(wire.Welcome)

    def say(self, head: wire.Head, body: bytes | None = None) -> None:
        self.socket.send_multipart(wire.encode(head, body))

    def hear(self, kind: type[H], *, patience_s: float = PATIENCE_S) -> H:
        return self.hear_all(kind, patience_s=patience_s)[0]

    def hear_all(self, kind: type[H], *, patience_s: float = PATIENCE_S) -> tuple[H, bytes]:
        until = time.monotonic() + patience_s
        while (left_s := until - time.monotonic()) > 0:
            if self.socket.poll(1000 * left_s):
                head, body = wire.decode(self.socket.recv_multipart(), wire.TO_CLIENT)
                if isinstance(head, kind):
                    return head, body
                self.kept.append((head, body))
        raise AssertionError(f"no {kind.verb} within {patience_s} s; heard {[head for head, _ in self.kept[-5:]]}")

    def publish(self, n: int, count: int = 1, *, pad: int = 0) -> None:
        previd = f"{self.name}-{n - 1}" if n > 1 else None
        head = wire.Publish(fence=self.welcome.fence, n0=n, count=count, prevn=n - 1, previd=previd)
        self.say(head, wire.encode_batch(envelope(self.name, n + i, pad=pad) for i in range(count)))

    def replayed(self) -> list[tuple[int, str]]:
        """(seq, id) of everything that is stored, but the broker's own events."""
        self.say(wire.Replay(rid="all"))
        found: list[tuple[int, str]] = []
        while True:
            head, body = self.hear_all(wire.Head)
            if isinstance(head, wire.End):
                return found
            if isinstance(head, wire.Deliver) and head.replay == "all":
                ids = [wire.decode_envelope(packed) for packed in wire.decode_batch(body)]
                found += [(seq, one.id) for seq, one in zip(head.seqs, ids, strict=True) if not one.source.startswith("broker@")]
                self.say(wire.Ack(rid="all", upto=head.seqs[-1], epoch=head.epoch))

    def close(self) -> None:
        self.socket.close(0)


def envelope(name: str, n: int, *, pad: int = 0) -> bytes:
    data = msgspec.Raw(msgspec.json.encode({"n": n, "pad": "x" * pad}))
    return wire.encode_envelope(wire.Envelope(specversion="1.0", id=f"{name}-{n}", source=f"{name}@demo", type="frames.stored", data=data))


class House:
    """Starts brokers in threads and peers to them, and ends them all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "broker-observatory"
        self.folder.mkdir()
        self.running: list[tuple[Broker, threading.Thread]] = []
        self.peers: list[Peer] = []
        self.status: int | None = None

    def start(self, *, disk: Disk | None = None, **tuning: float) -> Broker:
        chosen = BrokerTuning(**{"reserve_mib": 0.0, **tuning})
        here = "tcp://127.0.0.1:*"
        broker = Broker(self.folder, name="observatory", site="demo", door=here, feed=here, tuning=chosen, disk=disk)

        def live() -> None:
            self.status = broker.run()

        thread = threading.Thread(target=live)
        thread.start()
        self.running.append((broker, thread))
        return broker

    def stop(self) -> int | None:
        for broker, thread in self.running:
            broker.stop()
            thread.join(PATIENCE_S)
            assert not thread.is_alive()
        self.running.clear()
        return self.status

    def peer(self, broker: Broker, name: str = "telescope", **more: Any) -> Peer:
        self.peers.append(Peer(broker.door, name, **more))
        return self.peers[-1]

    def end(self) -> None:
        for peer in self.peers:
            peer.close()
        self.stop()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path)
    yield made
    made.end()


# ---- the protocol over real sockets ---------------------------------------------------------------------------------


def test_publish_subscribe_confirm_replay_and_info_over_the_wire(house: House) -> None:
    broker = house.start()
    telescope, archive = house.peer(broker), house.peer(broker, "archive")
    archive.say(wire.Subscribe(sub="bus", types=("frames.*",), fence=archive.welcome.fence))
    assert archive.hear(wire.Subscribed).cursor == 0
    telescope.publish(1, 3)
    assert telescope.hear(wire.Ok) == wire.Ok(n=3, seq=3, epoch=1)
    head, body = archive.hear_all(wire.Deliver)
    assert (head.prev, head.seqs) == (0, (1, 2, 3))
    assert wire.decode_batch(body) == [envelope("telescope", n) for n in (1, 2, 3)]
    archive.say(wire.Ack(sub="bus", upto=3, epoch=1, fence=archive.welcome.fence))
    assert telescope.replayed() == [(1, "telescope-1"), (2, "telescope-2"), (3, "telescope-3")]
    telescope.say(wire.Heartbeat(m0=42, state={"doing": "nothing"}))
    beat = telescope.hear(wire.HeartbeatAnswer)
    assert (beat.m0, beat.head) == (42, 3)
    archive.say(wire.Info(rid="i"))
    info = archive.hear(wire.InfoAnswer)
    assert (info.rid, info.head, info.pid, info.readonly) == ("i", 3, os.getpid(), "")
    assert {one["name"] for one in info.sessions} == {"telescope", "archive"}
    assert [(one["sub"], one["cursor"], one["behind"]) for one in info.subscriptions] == [("archive/bus", 3, 0)]


def test_the_feed_tells_each_event_after_its_commit_with_the_one_before_of_its_type(house: House) -> None:
    broker = house.start()
    tap: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.SUB)
    try:
        tap.setsockopt(zmq.LINGER, 0)
        tap.setsockopt(zmq.SUBSCRIBE, b"frames.stored\0")
        tap.connect(broker.feed)
        telescope = house.peer(broker)
        n, heard = 0, list[list[bytes]]()
        while len(heard) < 3:  # a tap hears nothing until its wish has come to the broker
            n += 1
            assert n < 500
            telescope.publish(n)
            telescope.hear(wire.Ok)
            while tap.poll(20):
                heard.append(tap.recv_multipart())
    finally:
        tap.close(0)
    kind, about, packed = heard[-1]
    told, before = json.loads(about), json.loads(heard[-2][1])
    assert kind == b"frames.stored\0"
    assert packed == envelope("telescope", told["seq"])
    assert (told["epoch"], told["prevt"]) == (1, before["seq"])


@pytest.mark.parametrize(
    ("frames", "verb", "code"),
    [
        ([b"NB2", b"HELLO", b"{}"], "REFUSE", "protocol"),
        ([b""], "REFUSE", "protocol"),
        ([b"NB1", b"HELLO"], "REFUSE", "protocol"),
        ([b"NB1", b"DANCE", b"{}"], "NO", "verb"),
        ([b"NB1", b"hello", b"{}"], "NO", "verb"),
        ([b"NB1", b"HELLO", b"{"], "NO", "schema"),
        ([b"NB1", b"HELLO", b"\xff\xfe"], "NO", "schema"),
        ([b"NB1", b"HB", b'{"m0": NaN}'], "NO", "schema"),
        ([b"NB1", b"HB", b'{"m0": 1, "state": ' + b"[" * 5000 + b"]" * 5000 + b"}"], "NO", "schema"),
        ([b"NB1", b"HB", b" " * (70 << 10)], "NO", "size"),
        ([b"NB1", b"ACK", b'{"upto":1,"epoch":1}'], "NO", "hello"),
    ],
)
def test_what_is_not_understood_is_answered_and_the_broker_lives(house: House, frames: list[bytes], verb: str, code: str) -> None:
    broker = house.start()
    sock: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
    try:
        sock.setsockopt(zmq.LINGER, 0)
        sock.connect(broker.door)
        sock.send_multipart(frames)
        assert sock.poll(1000 * PATIENCE_S)
        answer = sock.recv_multipart()
    finally:
        sock.close(0)
    assert (answer[1].decode(), json.loads(answer[2])["code"]) == (verb, code)
    assert house.peer(broker).welcome.epoch == 1


def test_segments_roll_under_load_and_a_restart_knows_everything(house: House) -> None:
    broker = house.start(segment_mib=0.01)
    telescope, archive = house.peer(broker, presence=True), house.peer(broker, "archive", presence=True)
    archive.say(wire.Subscribe(sub="bus", types=("frames.*",), fence=archive.welcome.fence, window_events=4000))
    for n in range(1, 301):
        telescope.publish(n, pad=200)
        if n % 10 == 0:  # in one burst they would all be in one segment
            while telescope.hear(wire.Ok).n < n:
                pass
    seqs = list[int]()
    while len(seqs) < 300:
        seqs += archive.hear(wire.Deliver).seqs
        archive.say(wire.Ack(sub="bus", upto=seqs[-1], epoch=1, fence=archive.welcome.fence))
    archive.say(wire.Info(rid="i"))
    archive.hear(wire.InfoAnswer)  # what was confirmed before it has been heard too
    house.stop()
    assert len(list((house.folder / "journal").glob("*.seg"))) > 5
    assert verify(house.folder / "journal")["damages"] == []
    again = house.start(segment_mib=0.01)
    telescope = house.peer(again, presence=True)
    assert (telescope.welcome.last_n, telescope.welcome.last_id, telescope.welcome.fence) == (300, "telescope-300", 2)
    assert [identity for _, identity in telescope.replayed()] == [f"telescope-{n}" for n in range(1, 301)]
    archive = house.peer(again, "archive", presence=True)
    archive.say(wire.Subscribe(sub="bus", types=("frames.*",), fence=archive.welcome.fence))
    assert archive.hear(wire.Subscribed).cursor == seqs[-1]


def test_an_info_of_many_sessions_still_fits_in_an_answer(house: House) -> None:
    broker = house.start()
    state = {"text": "x" * 4000}
    peers = [house.peer(broker, f"module-{i}") for i in range(20)]
    for peer in peers:
        peer.say(wire.Heartbeat(m0=1, state=state))
        peer.hear(wire.HeartbeatAnswer)
    peers[0].say(wire.Info(rid="i"))
    assert len(peers[0].hear(wire.InfoAnswer).sessions) == 20


# ---- disks ----------------------------------------------------------------------------------------------------------


class BadDisk(Disk):
    """Fails as told."""

    def __init__(self) -> None:
        self.sync_fails = False
        self.write_fails = False
        self.free: int | None = None

    def write(self, handle: int, data: bytes) -> None:
        if self.write_fails:
            raise OSError(errno.ENOSPC, "No space left on device")
        super().write(handle, data)

    def sync(self, handle: int) -> None:
        if self.sync_fails:
            raise OSError(errno.EIO, "Input/output error")
        super().sync(handle)

    def free_bytes(self, folder: Path) -> int:
        return super().free_bytes(folder) if self.free is None else self.free


def test_a_failed_sync_is_never_answered_ok_and_ends_the_broker(house: House) -> None:
    disk = BadDisk()
    broker = house.start(disk=disk)
    telescope = house.peer(broker)
    telescope.publish(1)
    telescope.hear(wire.Ok)
    disk.sync_fails = True
    telescope.publish(2)
    told = telescope.hear(wire.No)
    assert (told.code, told.n0) == ("disk", 2)
    assert not [head for head, _ in telescope.kept if isinstance(head, wire.Ok)]
    assert house.stop() == 1
    again = house.peer(house.start(), "telescope")
    assert again.replayed()[0] == (1, "telescope-1")


def test_a_disk_below_its_reserve_is_told_as_full_and_recovers_by_itself(house: House) -> None:
    disk = BadDisk()
    disk.free = 50 << 20
    broker = house.start(disk=disk, reserve_mib=100.0)
    telescope = house.peer(broker)
    telescope.publish(1)
    told = telescope.hear(wire.No)
    assert (told.code, told.retry_ms) == ("full", 5000)
    disk.free = 500 << 20
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        telescope.publish(1)
        head, _ = telescope.hear_all(wire.Head)
        if isinstance(head, wire.Ok):
            break
    assert telescope.replayed() == [(2, "telescope-1")], "the alarm about the disk is event 1"


def test_a_disk_without_any_room_does_not_end_the_broker(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nightbell.bus.broker.HOUSEKEEPING_S", 0.1)
    disk = BadDisk()
    broker = house.start(disk=disk, reserve_mib=100.0, segment_mib=0.001)
    telescope, archive = house.peer(broker), house.peer(broker, "archive")
    disk.free, n = 0, 1
    telescope.publish(n, pad=300)
    while isinstance(telescope.hear(wire.Head), wire.Ok):  # until the broker has looked at its disk
        n += 1
        telescope.publish(n, pad=300)
    disk.write_fails = True
    archive.say(wire.Subscribe(sub="bus", types=("frames.*",), fence=archive.welcome.fence))
    archive.say(wire.Ack(sub="bus", upto=archive.hear(wire.Deliver).seqs[0], epoch=1, fence=archive.welcome.fence))
    cursors_are_due_at = time.monotonic() + 1.0
    while time.monotonic() < cursors_are_due_at:
        archive.say(wire.Heartbeat(m0=1))
        archive.hear(wire.HeartbeatAnswer)
    assert [identity for _, identity in telescope.replayed()] == [f"telescope-{i}" for i in range(1, n)]
    disk.free, disk.write_fails = None, False
    until = time.monotonic() + PATIENCE_S
    answer: wire.Head | None = None
    while not isinstance(answer, wire.Ok):
        assert time.monotonic() < until
        telescope.publish(n)
        answer = telescope.hear(wire.Head)
    assert house.stop() == 0


def test_a_journal_that_is_taken_away_while_it_is_written_ends_the_broker(house: House) -> None:
    broker = house.start()
    telescope = house.peer(broker)
    telescope.publish(1)
    telescope.hear(wire.Ok)
    shutil.rmtree(house.folder / "journal")
    _, thread = house.running[0]
    thread.join(PATIENCE_S)
    assert house.status == 1


def test_damage_in_a_sealed_segment_is_healed_from_the_outbox(house: House) -> None:
    broker = house.start(segment_mib=0.001)
    telescope = house.peer(broker, presence=True)
    for n in range(1, 21):
        telescope.publish(n, pad=100)
        telescope.hear(wire.Ok)
    house.stop()
    segment = sorted((house.folder / "journal").glob("*.seg"))[1]
    data = bytearray(segment.read_bytes())
    at = data.index(b'"id":"telescope-', 200)
    lost = int(data[at + 16 : at + 19].split(b'"')[0])
    data[at + 30] ^= 1
    segment.write_bytes(data)

    again = house.start(segment_mib=0.001)
    telescope = house.peer(again, presence=True)
    stored = [identity for _, identity in telescope.replayed()]
    assert stored == [f"telescope-{n}" for n in range(1, 21) if n != lost]
    assert telescope.hear(wire.EpochChanged, patience_s=15.0).epoch == 2

    telescope = house.peer(again, presence=True)
    assert telescope.welcome.last_n == lost - 1
    telescope.publish(lost, 21 - lost, pad=100)
    assert telescope.hear(wire.Ok).n == 20
    assert {identity for _, identity in telescope.replayed()} == {f"telescope-{n}" for n in range(1, 21)}
    house.stop()
    telescope = house.peer(house.start(segment_mib=0.001), presence=True)
    assert (telescope.welcome.last_n, telescope.welcome.epoch) == (20, 2)


# ---- processes ------------------------------------------------------------------------------------------------------

INSTALLATION = """
run = ["broker:observatory"]
home = "state"

[site]
name = "demo"
latitude_deg = -29.0
longitude_deg = -70.0

[brokers.observatory]
door = "{door}"
feed = "{feed}"
settings = "observatory"
"""


def installation(folder: Path, *, host: str = "127.0.0.1") -> Path:
    conf = folder / "conf" / "site"
    conf.mkdir(parents=True)
    (folder / "brokers" / "observatory").mkdir(parents=True)
    (folder / "brokers" / "observatory" / "broker.toml").write_text("segment_mib = 0.05\nreserve_mib = 0.0\n", encoding="utf-8")
    door, feed = (free_address(host) for _ in range(2))
    (conf / "observatory.toml").write_text(INSTALLATION.format(door=door, feed=feed), encoding="utf-8")
    return conf


def free_address(host: str) -> str:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as sock:
        sock.bind("tcp://127.0.0.1:*")
        return sock.getsockopt_string(zmq.LAST_ENDPOINT).replace("127.0.0.1", host)


class Process:
    """A broker as operators run it, or one that kills itself at `point`."""

    def __init__(self, conf: Path, *point: str) -> None:
        command = [sys.executable, "-m", "nightbell", "run", "broker:observatory", "--conf", str(conf)]
        if point:
            command = [sys.executable, "-m", "tests.bus.killed_at", "broker", str(conf), *point]
        self.log = (conf.parent / f"log-{time.monotonic_ns()}").open("w+", encoding="utf-8")
        self.popen = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.log, text=True, cwd=ROOT)
        assert self.popen.stdout is not None
        line = self.popen.stdout.readline()
        assert line.startswith("READY "), self.errors()
        self.ready = json.loads(line.removeprefix("READY "))

    def errors(self) -> str:
        self.log.seek(0)
        return self.log.read()

    def end(self, number: int = signal.SIGKILL) -> int:
        self.popen.send_signal(number)
        status = self.popen.wait(PATIENCE_S)
        if self.popen.stdout is not None:
            self.popen.stdout.close()
        self.log.close()
        return status


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[Path], Process]]:
    processes: list[Process] = []

    def begin(conf: Path, *point: str) -> Process:
        processes.append(Process(conf, *point))
        return processes[-1]

    yield begin
    for process in processes:
        if not process.log.closed:
            process.end()


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL and SIGTERM are POSIX")
@pytest.mark.parametrize("seed", [1, 2])
def test_every_confirmed_event_survives_sigkill_at_any_moment_once_and_in_order(
    tmp_path: Path, start: Callable[[Path], Process], seed: int
) -> None:
    conf, chance = installation(tmp_path), random.Random(seed)
    confirmed, n = 0, 0
    for _ in range(3):
        process = start(conf)
        telescope = Peer(process.ready["door"], presence=True)
        assert telescope.welcome.last_n >= confirmed
        n = telescope.welcome.last_n
        kill_at: float | None = None
        while kill_at is None or time.monotonic() < kill_at:
            telescope.publish(n + 1, 5, pad=300)
            n += 5
            while telescope.socket.poll(0 if kill_at else 1000):
                head, _ = wire.decode(telescope.socket.recv_multipart(), wire.TO_CLIENT)
                if isinstance(head, wire.Ok):
                    confirmed = max(confirmed, head.n)
                    # Counted from the first one: a slow machine has none within a fixed time.
                    kill_at = kill_at or time.monotonic() + chance.uniform(0.05, 0.3)
        process.end()
        telescope.close()
    process = start(conf)
    telescope = Peer(process.ready["door"], presence=True)
    found = telescope.replayed()
    last = telescope.welcome.last_n
    telescope.close()
    assert confirmed > 0
    assert last >= confirmed
    assert [identity for _, identity in found] == [f"telescope-{i}" for i in range(1, last + 1)]
    assert [seq for seq, _ in found] == sorted({seq for seq, _ in found})
    assert process.end(signal.SIGTERM) == 0
    assert verify(conf / "state" / "broker-observatory" / "journal")["damages"] == []


KILLED_AT = [
    ("within", "nightbell.bus.disk", "Disk.write", 30),
    ("before", "nightbell.bus.disk", "Disk.sync", 30),
    ("after", "nightbell.bus.disk", "Disk.sync", 30),
    ("before", "nightbell.bus.router", "Router.committed", 30),
    ("before", "nightbell.bus.journal", "Journal._new_segment", 1),
    ("after", "nightbell.bus.disk", "Disk.create", 3),
    ("after", "nightbell.bus.journal", "Journal.roll", 2),
]
"""Half a record; written but not synced; synced but not told; between a seal and the next segment; a segment without a header."""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX")
def test_a_broker_killed_between_any_two_steps_of_a_commit_keeps_what_it_confirmed(tmp_path: Path, start: Callable[..., Process]) -> None:
    conf, confirmed, last = installation(tmp_path), 0, 0
    for when, module, name, count in KILLED_AT:
        process = start(conf, when, module, name, str(count))
        telescope = Peer(process.ready["door"], presence=True)
        last = telescope.welcome.last_n
        assert last >= confirmed, f"lost before {when} {name}"
        until = time.monotonic() + 6 * PATIENCE_S
        while process.popen.poll() is None:
            assert time.monotonic() < until, f"{when} {name} was not passed {count} times"
            last += 1
            telescope.publish(last, pad=1000)
            if telescope.socket.poll(50):
                head, _ = wire.decode(telescope.socket.recv_multipart(), wire.TO_CLIENT)
                confirmed = max(confirmed, head.n) if isinstance(head, wire.Ok) else confirmed
        telescope.close()
    process = start(conf)
    telescope = Peer(process.ready["door"], presence=True)
    found, last = telescope.replayed(), telescope.welcome.last_n
    telescope.close()
    assert last >= confirmed > 100
    assert [identity for _, identity in found] == [f"telescope-{i}" for i in range(1, last + 1)]
    assert [seq for seq, _ in found] == sorted({seq for seq, _ in found})
    assert process.end(signal.SIGTERM) == 0
    assert verify(conf / "state" / "broker-observatory" / "journal")["damages"] == []


@pytest.mark.skipif(sys.platform == "win32", reason="the exit status of a console control event differs")
def test_a_second_broker_on_the_same_folder_is_refused_with_the_pid_of_the_first(tmp_path: Path, start: Callable[[Path], Process]) -> None:
    conf = installation(tmp_path)
    first = start(conf)
    command = [sys.executable, "-m", "nightbell", "run", "broker:observatory", "--conf", str(conf)]
    second = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert second.returncode == 3
    assert f"process {first.ready['pid']} is using this folder" in second.stderr
    assert first.end(signal.SIGTERM) == 0


def test_without_keys_only_loopback_is_listened_at(tmp_path: Path) -> None:
    conf = installation(tmp_path, host="0.0.0.0")
    with pytest.raises(Refused, match="nightbell keys make"):
        run_broker(load_installation(conf), "observatory")


def test_an_address_in_use_is_told(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    broker = house.start()
    monkeypatch.setattr("nightbell.bus.broker.BIND_PATIENCE_S", 0.1)
    other = house.folder.parent / "other"
    with pytest.raises(Failed, match="cannot listen"):
        Broker(other, name="other", site="demo", door=broker.door, feed="tcp://127.0.0.1:*")
