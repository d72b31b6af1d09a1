"""Publishers, receivers and a broker under crashes, cuts, restored copies and slowness; the oracle is the promise itself.

Every event that was put into an outbox takes effect at every receiver exactly once, in the order of its publisher. The seed of a
run that fails is its parameter.
"""

from __future__ import annotations

import random
from collections import deque

import pytest
from tests.bus.test_router import WALL_NS, Shelf, envelope

from nightbell.bus import wire
from nightbell.bus.router import Append, Router, Send
from nightbell.bus.segment import Record

PUBLISHERS, RECEIVERS = ("telescope", "safety"), ("archive", "console")


class Peer:
    """A module: what it has on disk outlives its process; what it has of a connection does not."""

    def __init__(self, name: str) -> None:
        self.name, self.instance, self.peer = name, 0, b""
        self.to_broker: deque[tuple[wire.Head, bytes]] = deque()
        self.to_us: deque[tuple[wire.Head, bytes]] = deque()
        self.fence, self.welcomed = 0, False
        # on disk, as a publisher
        self.outbox, self.rows, self.last_ok = 0, list[str](), None
        self.sent = 0
        # on disk, as a receiver
        self.effects, self.ledger, self.cursor = list[str](), set[str](), None
        self.prev: int | None = None

    def dial(self, world: World, *, new_process: bool) -> None:
        world.n_dialled += 1
        self.peer, self.welcomed, self.prev = b"%d" % world.n_dialled, False, None
        self.instance += new_process
        self.to_broker.clear()
        self.to_us.clear()
        hello = wire.Hello(
            name=self.name,
            instance=f"{self.name}-{self.instance}",
            host="dome",
            pid=1,
            outbox=f"{self.name}-{self.outbox}" if self.name in PUBLISHERS else None,
            last_ok=self.last_ok,
            lock=True,
        )
        self.to_broker.append((hello, b""))

    def hear(self, world: World, head: wire.Head, body: bytes) -> None:
        match head:
            case wire.Welcome():
                self.fence, self.welcomed = head.fence, True
                if self.name in RECEIVERS:
                    self.to_broker.append((wire.Subscribe(sub="bus", types=("frames.*",), fence=self.fence, cursor=self.cursor), b""))
                elif head.last_n and (head.last_n > len(self.rows) or self.rows[head.last_n - 1] != head.last_id):
                    self.outbox += 1  # a fork: everything again, under a new identity
                    self.last_ok = None
                    self.dial(world, new_process=False)
                else:
                    self.sent = head.last_n
            case wire.Ok():
                self.last_ok = wire.LastOk(head.epoch, head.seq, head.n, self.rows[head.n - 1])
            case wire.No():
                if head.code == "gap":
                    self.sent = head.have or 0
                else:
                    self.dial(world, new_process=False)
            case wire.Refuse() | wire.EpochChanged():
                self.dial(world, new_process=False)
            case wire.Subscribed():
                self.prev = head.cursor
            case wire.Deliver():
                self.handle(head, body)
            case wire.Probe():
                self.to_broker.append((wire.Heartbeat(m0=1), b""))

    def handle(self, head: wire.Deliver, body: bytes) -> None:
        if head.prev != self.prev:
            self.to_broker.append((wire.Reseek(sub="bus", cursor=self.prev or 0, fence=self.fence), b""))
            return
        for seq, packed in zip(head.seqs, wire.decode_batch(body), strict=True):
            identity = wire.decode_envelope(packed).id
            if identity not in self.ledger:
                self.ledger.add(identity)
                self.effects.append(identity)
            self.cursor = {"epoch": head.epoch, "seq": seq, "id": identity}
            self.prev = seq
        self.to_broker.append((wire.Ack(sub="bus", epoch=head.epoch, upto=head.seqs[-1], fence=self.fence), b""))

    def publish(self, count: int) -> None:
        rows = self.rows[self.sent : self.sent + count]
        if not self.welcomed or not rows:
            return
        body = wire.encode_batch(envelope(self.name, int(row.rpartition("-")[2])) for row in rows)
        previd = self.rows[self.sent - 1] if self.sent else None
        head = wire.Publish(fence=self.fence, n0=self.sent + 1, count=len(rows), prevn=self.sent, previd=previd)
        self.to_broker.append((head, body))
        self.sent += len(rows)


class World:
    """Everything, with one source of chance."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.now, self.n_dialled = 0.0, 0
        self.durable: list[Record] = []
        self.backup: list[Record] = []
        self.restored = False
        self.written: deque[Append] = deque()
        self.peers = {name: Peer(name) for name in (*PUBLISHERS, *RECEIVERS)}
        self.start_broker()

    def start_broker(self) -> None:
        self.written.clear()
        self.shelf = Shelf(self.durable)
        self.router = Router(
            self.shelf,
            broker="observatory",
            site="demo",
            journal_id="journal",
            epoch=1,
            snapshot=None,
            tail=self.durable,
            now=self.now,
            wall_ns=WALL_NS,
            chance=self.chance,
        )
        for peer in self.peers.values():
            peer.dial(self, new_process=False)

    def carry_out(self) -> None:
        by_peer = {peer.peer: peer for peer in self.peers.values()}
        while effects := self.router.take():
            for effect in effects:
                if isinstance(effect, Append):
                    self.written.append(effect)
                elif isinstance(effect, Send):
                    if effect.peer in by_peer:
                        by_peer[effect.peer].to_us.append((effect.head, effect.body or b""))
                    else:
                        self.router.unreachable(effect.peer, self.now)

    def commit(self, count: int) -> None:
        last = 0
        for _ in range(min(count, len(self.written))):
            one = self.written.popleft()
            self.durable.append(one.record)
            self.shelf.records.append(one.record)
            last = one.ticket
        if last:
            self.router.committed(last, self.now)
            self.carry_out()

    def carry(self, peer: Peer, count: int) -> None:
        """Messages pass both ways."""
        for _ in range(count):
            if peer.to_broker:
                head, body = peer.to_broker.popleft()
                self.router.handle(peer.peer, head, body, self.now, WALL_NS)
                self.carry_out()
            if peer.to_us:
                peer.hear(self, *peer.to_us.popleft())

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.router.tick(self.now, WALL_NS)
        self.carry_out()

    def step(self) -> None:
        chance = self.chance
        peer = chance.choice(list(self.peers.values()))
        what = chance.choices(
            ("make", "publish", "carry", "commit", "beat", "time", "cut", "die", "crash", "copy", "restore"),
            (10, 20, 50, 25, 6, 6, 2, 1, 0.7, 1, 0.2),
        )[0]
        if what == "make" and peer.name in PUBLISHERS:
            peer.rows += [f"{peer.name}-{len(peer.rows) + i}" for i in range(1, chance.randint(2, 5))]
        elif what == "publish":
            peer.publish(chance.randint(1, 4))
        elif what == "carry":
            self.carry(peer, chance.randint(1, 6))
        elif what == "commit":
            self.commit(chance.randint(1, 8))
        elif what == "beat":
            peer.to_broker.append((wire.Heartbeat(m0=1), b""))
        elif what == "time":
            self.pass_time(chance.uniform(0.0, 3.0))
        elif what in ("cut", "die"):
            peer.dial(self, new_process=what == "die")
        elif what == "crash":
            self.commit(chance.randint(0, len(self.written)))
            self.start_broker()
        elif what == "copy":
            self.backup = list(self.durable)
        elif what == "restore":
            self.durable, self.restored = list(self.backup), True
            self.start_broker()

    def come_to_rest(self) -> None:
        """No more faults: messages, commits and time go on until nothing is left to be done."""
        for _ in range(400):
            for peer in self.peers.values():
                peer.to_broker.append((wire.Heartbeat(m0=1), b""))
                peer.publish(10)
                self.carry(peer, 40)
                if not peer.welcomed and not peer.to_broker and not peer.to_us:
                    peer.dial(self, new_process=False)
            self.commit(10**6)
            self.pass_time(0.5)
            if self.is_done():
                return

    def is_done(self) -> bool:
        n_rows = sum(len(self.peers[name].rows) for name in PUBLISHERS)
        return all(len(self.peers[name].effects) >= n_rows for name in RECEIVERS)


def check(seed: int, steps: int) -> None:
    world = World(seed)
    for _ in range(steps):
        world.step()
    world.come_to_rest()
    for receiver in (world.peers[name] for name in RECEIVERS):
        for publisher in (world.peers[name] for name in PUBLISHERS):
            effects = [identity for identity in receiver.effects if identity.startswith(publisher.name)]
            assert effects == publisher.rows, f"seed {seed}: {receiver.name} of {publisher.name}"
    if not world.restored:
        # Without a restored copy, which sends events again in another mixture, all see one common order.
        assert world.peers["archive"].effects == world.peers["console"].effects, f"seed {seed}"


@pytest.mark.parametrize("block", range(6))
def test_every_event_takes_effect_once_and_in_order_whatever_happens(block: int) -> None:
    for seed in range(10 * block, 10 * block + 10):
        check(seed, 500)


@pytest.mark.parametrize("seed", [1164, 1641])
def test_a_restored_copy_that_grew_past_its_readers_hides_nothing_from_them(seed: int) -> None:
    check(seed, 500)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(20))
def test_every_event_takes_effect_once_and_in_order_in_a_thousand_runs(block: int) -> None:
    for seed in range(1000 + 50 * block, 1050 + 50 * block):
        check(seed, 500)
