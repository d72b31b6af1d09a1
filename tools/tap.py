"""Watch a nightbell broker: events as they pass, one line each. One file; it needs Python and pyzmq, nothing of nightbell.

    python tap.py                                              everything, from the broker on this host
    python tap.py --feed tcp://10.0.0.2:8462 'frames.*' night.changed
    python tap.py --since 1 --no-follow --json > night.jsonl   what is stored, from the broker's door
    python tap.py --since 2027-04-12T22:00:00Z 'alarm.*'       from an instant on, then live

Without --since it listens to the feed, which promises nothing: what this tap missed is counted from the number that each event
carries, and told. With --since it asks the broker's door, which has every event, and goes on where it was after a cut.
A PATTERN is a type (frames.stored), a family (frames.*) or ** for all.

Where the broker wants keys: --key NAME.key_secret (this tap's own pair) and --server-key broker-NAME.key (the broker's public half).

Exit status: 0 done, 1 no broker, 2 wrong usage or input, 3 refused by the broker.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import secrets
import socket
import struct
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn, Self

import zmq
import zmq.auth

PROTOCOL = b"NB1"
PATTERN = re.compile(r"\*\*|[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*(\.\*|\.\*\*)?")
POLL_MS = 100
BEAT_S = 2.0
SILENCE_S = 7.0
"""A broker that has not answered three heartbeats is dialled again."""
LARGEST_MESSAGE_BYTES = 4 << 20

Event = tuple[int, dict[str, Any]]
"""The broker's seq and the envelope."""


class Patience:
    """How long silence is waited out; None: for ever."""

    def __init__(self, seconds: float | None) -> None:
        self._seconds, self._heard_at = seconds, time.monotonic()

    def heard(self) -> None:
        self._heard_at = time.monotonic()

    @property
    def is_over(self) -> bool:
        return self._seconds is not None and time.monotonic() - self._heard_at > self._seconds


class StopError(Exception):
    """The end of this program: what happened, what to do, and the exit status."""

    def __init__(self, status: int, what: str, remedy: str) -> None:
        super().__init__(f"{what}. {remedy}")
        self.status = status


class CutError(Exception):
    """The session is over; another may be begun."""


def note(text: str) -> None:
    print(f"tap: {plain(text)}", file=sys.stderr, flush=True)


def plain(text: str) -> str:
    """What came over the network, safe for a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


# ---- the feed -------------------------------------------------------------------------------------------------------


@dataclass
class Drops:
    """What this tap missed: each message of the feed carries the seq of the one before it of the same type."""

    last: dict[str, int] = field(default_factory=dict)
    first: int | None = None
    """The first event heard of any type: what is older was never ours."""
    n: int = 0
    epoch: int | None = None

    def look(self, kind: str, seq: int, prevt: int, epoch: int) -> str:
        """Words when something is missing before this event, else nothing."""
        heard = self.last.get(kind, self.first)
        again = (kind in self.last and prevt < self.last[kind]) or (self.epoch is not None and epoch != self.epoch)
        self.epoch = epoch
        self.first = seq if self.first is None else self.first
        self.last[kind] = seq
        if again:
            return "the broker has begun anew; what it said in between is not counted here (--since has it)"
        if heard is None or prevt <= heard:
            return ""
        self.n += 1
        return f"missed {kind} {prevt}, perhaps others before it"


def prefix(pattern: str) -> bytes:
    """What a SUB socket asks for; a NUL ends each type, so that frames.stored is not frames.stored_twice."""
    if pattern == "**":
        return b""
    return pattern.rstrip("*").encode() if pattern.endswith("*") else pattern.encode() + b"\0"


def from_feed(arguments: argparse.Namespace, drops: Drops, patience: Patience) -> Iterator[Event]:
    """Events of the feed as they come, until patience is over."""
    with dial(zmq.SUB, arguments) as sock, Watch(sock) as watch:
        for pattern in arguments.patterns:
            sock.setsockopt(zmq.SUBSCRIBE, prefix(pattern))
        sock.connect(arguments.feed)
        while not patience.is_over:
            if watch.look():
                note(f"listening at {arguments.feed}")
            if not sock.poll(POLL_MS):
                continue
            patience.heard()
            frames = sock.recv_multipart()
            try:
                kind, about, packed = frames
                told, envelope = json.loads(about), json.loads(packed)
                missing = drops.look(kind.rstrip(b"\0").decode(), told["seq"], told["prevt"], told["epoch"])
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                note(f"not an event, passed over: {error!r}")
                continue
            if missing:
                note(missing)
            yield told["seq"], envelope
        if not watch.ever:
            raise StopError(1, f"nobody answers at {arguments.feed}", "Is the broker running? Is that its feed?")


# ---- the door -------------------------------------------------------------------------------------------------------


class Door:
    """A session with the broker: HELLO, heartbeats, and one replay."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.sock = dial(zmq.DEALER, arguments)
        self.sock.setsockopt(zmq.IMMEDIATE, 1)
        self.watch = Watch(self.sock)
        self.sock.connect(arguments.door)
        self.heard_at = time.monotonic()
        self.beat_at = self.heard_at

    def close(self) -> None:
        self.say("BYE", {"reason": "done"})
        self.watch.close()
        self.sock.close(200)

    def say(self, verb: str, head: dict[str, Any]) -> bool:
        """Whether it could be sent."""
        try:
            self.sock.send_multipart([PROTOCOL, verb.encode(), json.dumps(head).encode()], zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def hear(self) -> tuple[str, dict[str, Any], bytes] | None:
        """The next message, or None for now. Raises `CutError` when the session is over."""
        self.watch.look()
        now = time.monotonic()
        if now - self.beat_at > BEAT_S and self.say("HB", {"m0": time.monotonic_ns()}):
            self.beat_at = now
        if now - self.heard_at > SILENCE_S:
            raise CutError
        if not self.sock.poll(POLL_MS):
            return None
        frames = self.sock.recv_multipart()
        self.heard_at = time.monotonic()
        if len(frames) not in (3, 4) or frames[0] != PROTOCOL:
            raise StopError(1, "who answers there is no broker of nightbell", "Is that its door, and not its feed?")
        verb, head = frames[1].decode("ascii", "replace"), read_json(frames[2])
        if verb == "PROBE":
            self.beat_at = 0.0
        if verb == "EPOCH" or (verb == "NO" and head.get("code") == "hello"):
            raise CutError
        if verb == "REFUSE":
            raise StopError(3, f"the broker refuses: {head.get('text')}", str(head.get("remedy", "")))
        return verb, head, frames[3] if len(frames) == 4 else b""

    def begin(self, start: Any, arguments: argparse.Namespace) -> tuple[str, int]:
        """Say HELLO, then ask for the replay. Returns its id and the epoch. Raises `CutError` without an answer."""
        hello: dict[str, Any] = {"name": f"tap-{os.getpid()}-{secrets.token_hex(2)}", "instance": str(uuid.uuid4())}
        hello |= {"host": socket.gethostname(), "pid": os.getpid(), "client": "tap.py", "presence": False}
        sent_at = 0.0
        while True:
            now = time.monotonic()
            if now - sent_at > BEAT_S and self.say("HELLO", hello):
                sent_at = self.beat_at = now
            heard = self.hear()
            if heard is not None and heard[0] == "WELCOME":
                break
        rid = secrets.token_hex(4)
        replay = {"rid": rid, "start": start, "types": arguments.patterns, "follow": not arguments.no_follow}
        self.say("REPLAY", replay)
        return rid, int(heard[1]["epoch"])


def from_door(arguments: argparse.Namespace, patience: Patience) -> Iterator[Event]:
    """Stored events in their order, then the live ones; after a cut it goes on behind the last one."""
    start: Any = arguments.since
    ever = False
    while True:
        door = Door(arguments)
        try:
            rid, epoch = door.begin(start, arguments)
            if not ever:
                note(f"reading at {arguments.door}")
            ever = True
            while not patience.is_over:
                heard = door.hear()
                if heard is None:
                    continue
                verb, head, body = heard
                if verb == "DELIVER" and head.get("replay") == rid:
                    patience.heard()
                    for seq, envelope in zip(head["seqs"], read_json(body), strict=True):
                        start = {"seq": seq + 1}
                        yield seq, envelope
                    door.say("ACK", {"rid": rid, "upto": head["seqs"][-1], "epoch": epoch})
                elif verb == "END" and arguments.no_follow:
                    return
                elif verb == "NO":
                    raise StopError(2, f"the broker says no: {head.get('text')}", str(head.get("remedy", "")))
        except CutError:
            if not ever:
                raise StopError(1, f"nobody answers at {arguments.door}", "Is the broker running? Is that its door?") from None
            note("the broker is away; trying again")
            continue
        finally:
            door.close()
        return


def read_json(packed: bytes) -> Any:
    try:
        return json.loads(packed)
    except (ValueError, RecursionError) as error:
        raise StopError(1, f"the broker said something that is not JSON: {error}", "Is that its door?") from error


# ---- sockets --------------------------------------------------------------------------------------------------------


def dial(kind: int, arguments: argparse.Namespace) -> zmq.Socket[bytes]:
    """A socket with our options and, when they are given, keys; not yet connected."""
    sock: zmq.Socket[bytes] = zmq.Context.instance().socket(kind)
    for option, value in (
        (zmq.LINGER, 0),
        (zmq.MAXMSGSIZE, LARGEST_MESSAGE_BYTES),
        (zmq.RCVHWM, 10_000),
        (zmq.RECONNECT_IVL, 100),
        (zmq.RECONNECT_IVL_MAX, 5000),
        (zmq.HEARTBEAT_IVL, 2000),
        (zmq.HEARTBEAT_TIMEOUT, 6000),
    ):
        sock.setsockopt(option, value)
    if arguments.key:
        sock.setsockopt(zmq.CURVE_PUBLICKEY, certificate(arguments.key, "--key")[0])
        sock.setsockopt(zmq.CURVE_SECRETKEY, certificate(arguments.key, "--key")[1] or no_secret(arguments.key))
        sock.setsockopt(zmq.CURVE_SERVERKEY, certificate(arguments.server_key, "--server-key")[0])
    return sock


def certificate(path: str, option: str) -> tuple[bytes, bytes | None]:
    """(public, secret or None) of a key file in ZeroMQ's certificate form."""
    try:
        return zmq.auth.load_certificate(path)
    except (OSError, ValueError) as error:
        raise StopError(2, f"{option} {path}: {error}", "Give a key file as `nightbell keys make` writes it") from error


def no_secret(path: str) -> NoReturn:
    raise StopError(2, f"--key {path} holds no secret key", "Give the file that ends in .key_secret")


class Watch:
    """Whether a socket is connected, and why not: without it a wrong address or key is only silence."""

    def __init__(self, sock: zmq.Socket[bytes]) -> None:
        self._sock, self.ever, self._n_broken = sock, False, 0
        self._events: zmq.Socket[bytes] = sock.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_SUCCEEDED
            | zmq.EVENT_HANDSHAKE_FAILED_AUTH
            | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
            | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._sock.disable_monitor()
        self._events.close(0)

    def look(self) -> bool:
        """Whether the connection has just been made. Raises `StopError` when the other side will never let us in."""
        made = False
        while self._events.poll(0):
            event = struct.unpack("=hi", self._events.recv_multipart()[0])[0]
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                made = self.ever = True
            elif event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                raise StopError(3, "the broker does not know this key", "Ask its operator to trust it: nightbell keys trust FILE")
            else:
                self._n_broken += 1
                often = self._n_broken > 2  # once may be a broker that is just ending
                has_keys = self._sock.getsockopt(zmq.MECHANISM) == zmq.CURVE
                # A broker that wants keys mostly cuts the line before its greeting, which would tell, has been read.
                if event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL or (often and not has_keys):
                    raise StopError(3, "the two sides do not agree on keys", "Give --key and --server-key, or leave both out")
                if often:
                    raise StopError(3, "the broker breaks off the handshake", "Is --server-key the public half of that broker's own key?")
        return made


# ---- printing -------------------------------------------------------------------------------------------------------


def one_line(seq: int, envelope: dict[str, Any]) -> str:
    """An event for a human."""
    data = envelope.get("data")
    pairs = data.items() if isinstance(data, dict) else ()
    facts = [f"{key}={_short(value)}" for key, value in pairs if not isinstance(value, list | dict)][:5]
    counts = [f"{key}:{len(value)}" for key, value in pairs if isinstance(value, list | dict) and value][:3]
    time_utc, kind, subject, source = (str(envelope.get(key, "")) for key in ("time", "type", "subject", "source"))
    return plain(f"{seq:6}  {time_utc[11:23]}  {kind:20} {subject:28} {source:22} {' '.join(facts + counts)}")


def _short(value: object) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 40 else text[:37] + "..."


def as_object(seq: int, envelope: dict[str, Any]) -> dict[str, Any]:
    """An event for a program: the fields of `nightbell tap --json`."""
    names = ("id", "type", "typeversion", "subject", "source", "time")
    told = {"seq": seq, **{name: envelope.get(name, 1 if name == "typeversion" else "") for name in names}}
    told |= {name: envelope[name] for name in ("causationid", "correlationid") if envelope.get(name)}
    return {**told, "data": envelope.get("data")}


def read_arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tap.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patterns", nargs="*", metavar="PATTERN", help="types to show (default: **)")
    parser.add_argument("--feed", default="tcp://127.0.0.1:8462", help="the broker's feed (default: %(default)s)")
    parser.add_argument("--door", default="tcp://127.0.0.1:8461", help="the broker's door, for --since (default: %(default)s)")
    parser.add_argument("--since", help="begin at a seq, a time (2027-04-12T22:00:00Z) or `first`, instead of now")
    parser.add_argument("--no-follow", action="store_true", help="with --since: end when everything stored has been shown")
    parser.add_argument("--count", type=int, help="end after this many events")
    parser.add_argument("--for", dest="for_s", type=float, help="end after this many seconds without an event")
    parser.add_argument("--json", action="store_true", help="one JSON object per line")
    parser.add_argument("--key", help="this tap's secret key file (NAME.key_secret)")
    parser.add_argument("--server-key", help="the broker's public key file (broker-NAME.key)")
    arguments = parser.parse_args(words)
    arguments.patterns = arguments.patterns or ["**"]
    for pattern in arguments.patterns:
        if not PATTERN.fullmatch(pattern):
            parser.error(f"{pattern!r} is no pattern of event types: write frames.stored, frames.* or **")
    if bool(arguments.key) != bool(arguments.server_key):
        parser.error("--key and --server-key belong together")
    if arguments.no_follow and not arguments.since:
        parser.error("--no-follow is for --since")
    for address in (arguments.feed, arguments.door):
        if not re.fullmatch(r"tcp://.+:\d+", address):
            parser.error(f"{address!r} is no address: write tcp://HOST:PORT")
    if arguments.since and arguments.since != "first":
        arguments.since = {"seq": int(arguments.since)} if arguments.since.isdigit() else {"time": arguments.since}
    return arguments


def show(arguments: argparse.Namespace, drops: Drops) -> int:
    """Print events until it is enough; how many there were."""
    n = 0
    patience = Patience(arguments.for_s)
    events = from_door(arguments, patience) if arguments.since else from_feed(arguments, drops, patience)
    for n, (seq, envelope) in enumerate(events, start=1):
        print(json.dumps(as_object(seq, envelope)) if arguments.json else one_line(seq, envelope), flush=True)
        if n == arguments.count:
            break
    return n


def main(words: list[str] | None = None) -> int:
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # a cp1252 console must not raise on a degree sign
    arguments = read_arguments(words)
    drops = Drops()
    try:
        n = show(arguments, drops)
        note(f"{n} events" + (f", missed at least {drops.n}" if drops.n else ""))
    except StopError as stop:
        note(str(stop))
        return stop.status
    except KeyboardInterrupt:
        note(f"stopped by Ctrl-C, missed at least {drops.n} events" if drops.n else "stopped by Ctrl-C")
        return 130
    except BrokenPipeError:
        # Python would complain again when it flushes stdout at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main())
