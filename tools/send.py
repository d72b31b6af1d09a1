"""Send a command to a nightbell module and print its answers. One file; it needs Python and pyzmq, nothing of nightbell.

    python send.py telescope status                                     where it answers is asked of the broker on this host
    python send.py --door tcp://10.0.0.2:8461 preprocessor calibrate_night night=2027-04-12
    python send.py --endpoint tcp://10.0.0.3:8471 safety close          with the broker dead: straight to the module
    python send.py telescope --ask ID     python send.py telescope --cancel ID      about a command that was sent before

A VALUE is read as JSON when it is JSON (12, true, ["a", "b"], "12"), else as text. While nothing is heard the command is repeated
with the same id, so that a lost answer never does it twice. It expires by its age: a module that was away does not do it later.

Where keys are wanted: --key NAME.key_secret (your own pair), --server-key MODULE.key and --door-key broker-NAME.key (public halves).

Exit status: 0 done, 1 failed or no answer, 2 wrong usage or input, 3 refused or busy.
"""

from __future__ import annotations

import argparse
import getpass
import json
import os
import re
import secrets
import socket
import struct
import sys
import time
import uuid
from dataclasses import dataclass, field
from typing import Any, NoReturn, Self

import zmq
import zmq.auth

PROTOCOL = b"NB1"
POLL_MS = 100
REPEAT_S = 2.0
"""When nothing has been heard for so long, the same is said again."""
LOOK_AGAIN_S = 7.0
"""After so long a silence the broker is asked again where the module answers: it may have been started anew."""
DOOR_S = 5.0
LARGEST_MESSAGE_BYTES = 4 << 20
BAD_INPUT = {"bad_input", "mistakes", "verb", "schema"}


class StopError(Exception):
    """The end of this program: an error as {code, what, where, remedy}, and the exit status."""

    def __init__(self, status: int, what: str, remedy: str = "", *, where: str = "", code: str = "failed") -> None:
        super().__init__(plain(f"{where}: {what}. {remedy}" if where else f"{what}. {remedy}").rstrip(". "))
        self.status = status
        self.error = {"code": code, "what": what, "where": where, "remedy": remedy}


def note(text: str) -> None:
    print(f"send: {plain(text)}", file=sys.stderr, flush=True)


def plain(text: str) -> str:
    """What came over the network, safe for a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


# ---- talking --------------------------------------------------------------------------------------------------------


class Line:
    """A DEALER socket to a broker's door or a module."""

    def __init__(self, address: str, who: str, key: str | None, server_key: str | None) -> None:
        self.address, self.who = address, who
        self._sock: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
        for option, value in (
            (zmq.LINGER, 0),
            (zmq.MAXMSGSIZE, LARGEST_MESSAGE_BYTES),
            (zmq.RECONNECT_IVL, 100),
            (zmq.RECONNECT_IVL_MAX, 2000),
            (zmq.HEARTBEAT_IVL, 2000),
            (zmq.HEARTBEAT_TIMEOUT, 6000),
            (zmq.IMMEDIATE, 1),
        ):
            self._sock.setsockopt(option, value)
        if key and server_key:
            public, secret = certificate(key)
            self._sock.setsockopt(zmq.CURVE_PUBLICKEY, public)
            self._sock.setsockopt(zmq.CURVE_SECRETKEY, secret or no_secret(key))
            self._sock.setsockopt(zmq.CURVE_SERVERKEY, certificate(server_key)[0])
        # Without watching the handshake a wrong key would only be silence.
        self._n_broken = 0
        self._events: zmq.Socket[bytes] = self._sock.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
        )
        self._sock.connect(address)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.disable_monitor()
        self._events.close(0)
        self._sock.close(200)

    def say(self, verb: str, head: dict[str, Any]) -> bool:
        """Whether it could be sent: not while nobody is connected."""
        try:
            self._sock.send_multipart([PROTOCOL, verb.encode(), json.dumps(head).encode()], zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def hear(self) -> tuple[str, dict[str, Any]] | None:
        """The next message, or None for now. Raises `StopError` when the other side does not let us in or does not speak nightbell."""
        while self._events.poll(0):
            event = struct.unpack("=hi", self._events.recv_multipart()[0])[0]
            if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                raise StopError(3, f"{self.who} does not know this key", "Ask its operator: nightbell keys trust FILE", code="auth")
            self._n_broken += 1
            often = self._n_broken > 2  # once may be a peer that is just ending
            has_keys = self._sock.getsockopt(zmq.MECHANISM) == zmq.CURVE
            # A peer that wants keys mostly cuts the line before its greeting, which would tell, has been read.
            if event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL or (often and not has_keys):
                raise StopError(3, f"{self.who} and we do not agree on keys", "Give the key options, or leave all out", code="auth")
            if often:
                raise StopError(3, f"{self.who} breaks off the handshake", "Is the public key given for it its own?", code="auth")
        if not self._sock.poll(POLL_MS):
            return None
        frames = self._sock.recv_multipart()
        try:
            if len(frames) not in (3, 4) or frames[0] != PROTOCOL:
                raise ValueError("other frames")
            head = json.loads(frames[2])
            if not isinstance(head, dict):
                raise TypeError("the head is no object")
        except (ValueError, TypeError, RecursionError) as error:
            raise StopError(1, f"who answers there does not speak nightbell ({error})", "Check the address", where=self.address) from error
        return frames[1].decode("ascii", "replace"), head


def certificate(path: str) -> tuple[bytes, bytes | None]:
    """(public, secret or None) of a key file in ZeroMQ's certificate form."""
    try:
        return zmq.auth.load_certificate(path)
    except (OSError, ValueError) as error:
        raise StopError(2, str(error), "Give a key file as `nightbell keys make` writes it", where=path, code="bad_input") from error


def no_secret(path: str) -> NoReturn:
    raise StopError(2, "holds no secret key", "Give the file that ends in .key_secret", where=path, code="bad_input")


def look_up(arguments: argparse.Namespace) -> str:
    """Where the module answers, as the broker knows it."""
    hello = {"name": f"send-{os.getpid()}-{secrets.token_hex(2)}", "instance": str(uuid.uuid4()), "host": socket.gethostname()}
    with Line(arguments.door, "the broker", arguments.key, arguments.door_key) as line:
        until = time.monotonic() + min(DOOR_S, arguments.timeout)
        said_at = 0.0
        while time.monotonic() < until:
            if time.monotonic() - said_at > REPEAT_S and line.say("HELLO", {**hello, "pid": os.getpid(), "presence": False}):
                said_at = time.monotonic()
            match line.hear():
                case ("WELCOME", _):
                    line.say("LOOKUP", {"name": arguments.module})
                case ("FOUND", {"commands": str(endpoint)}):
                    line.say("BYE", {"reason": "done"})
                    return endpoint
                case ("FOUND", _):
                    line.say("BYE", {"reason": "done"})
                    remedy = f"Start it (nightbell run {arguments.module}), or give --endpoint"
                    raise StopError(1, f"the broker does not know where {arguments.module} answers", remedy, code="missing")
                case ("REFUSE" | "NO", head):
                    raise StopError(3, f"the broker refuses: {head.get('text')}", str(head.get("remedy", "")), code=str(head.get("code")))
    raise StopError(1, f"no broker answers at {arguments.door}", "Is it running? --endpoint needs no broker", code="missing")


# ---- one command ----------------------------------------------------------------------------------------------------


@dataclass
class Conversation:
    """What is said to the module, again and again until it is heard; and what its answers mean."""

    arguments: argparse.Namespace
    fields: dict[str, Any]
    made_at: float = field(default_factory=time.monotonic)
    accepted: bool = False
    last_k: int = 0
    cancelled: bool = False

    def say(self, line: Line) -> bool:
        """Whether what is to be said now could be sent."""
        arguments = self.arguments
        if arguments.cancel and not self.cancelled:
            self.cancelled = line.say("CANCEL", {"id": arguments.id})
            return False  # what became of it is asked next
        if arguments.cancel or arguments.ask:
            return line.say("ASK", {"id": arguments.id})
        call = {
            "id": arguments.id,
            "command": arguments.verb,
            "args": self.fields,
            "expires_ms": max(1, round(1000 * arguments.expires)),
            # By our own steady clock: wall clocks play no part.
            "age_ms": round(1000 * (time.monotonic() - self.made_at)),
            "caller": caller(),
        }
        return line.say("CALL", call)

    def take(self, verb: str, head: dict[str, Any]) -> object:
        """One answer; the result when it is the last. Raises `StopError` for every other end. `...` when more will come."""
        if verb == "ACCEPTED":
            if not self.accepted:
                note("ACCEPTED")
            self.accepted = True
            return {"accepted": True, "id": self.arguments.id} if self.arguments.no_wait else ...
        if verb == "PROGRESS":
            if head.get("k", 0) > self.last_k:  # a repeated call may bring some twice
                self.last_k = head["k"]
                fraction = head.get("fraction")
                note(f"PROGRESS {'' if fraction is None else f'{100 * fraction:.0f} % '}{head.get('text', '')}")
            return ...
        if verb == "BUSY":
            raise StopError(3, f"BUSY with {head.get('by')}", "Try again later", code="busy")
        if verb == "REFUSED":
            code = str(head.get("code", "refused"))
            what, where, remedy = (str(head.get(name) or "") for name in ("what", "where", "remedy"))
            raise StopError(2 if code in BAD_INPUT else 3, f"REFUSED {what}", remedy, where=where, code=code)
        if verb == "RESULT":
            if head.get("ok"):
                note(f"RESULT after {head.get('seconds', 0.0):g} s")
                return head.get("value")
            error = head.get("error") or {}
            code, what, where, remedy = (str(error.get(name) or "") for name in ("code", "what", "where", "remedy"))
            raise StopError(3 if error.get("refused") else 1, f"RESULT failed: {what}", remedy, where=where, code=code or "failed")
        raise StopError(1, f"the module says {verb}, which is no answer", "Is this tool as new as the module?")


def caller() -> str:
    try:
        return f"{getpass.getuser()}@{socket.gethostname()} (send.py)"
    except (KeyError, OSError, ImportError):
        return f"somebody@{socket.gethostname()} (send.py)"


def converse(arguments: argparse.Namespace, fields: dict[str, Any]) -> object:
    """The whole conversation; the command's result."""
    talk = Conversation(arguments, fields)
    until = talk.made_at + arguments.timeout
    endpoint = arguments.endpoint or look_up(arguments)
    while time.monotonic() < until:
        with Line(endpoint, arguments.module, arguments.key, arguments.server_key) as line:
            note(f"{arguments.module} at {endpoint}, id {arguments.id}")
            answer = speak(line, talk, until, patience_s=LOOK_AGAIN_S)
            if answer is not ...:
                return answer
        if not arguments.endpoint and time.monotonic() < until:
            try:
                endpoint = look_up(arguments)
            except StopError as stop:
                note(f"{stop}; trying {endpoint} again")
    again = f"python send.py {arguments.module} --ask {arguments.id}"
    if talk.accepted:
        raise StopError(
            1, f"accepted, but no result within {arguments.timeout:g} s", f"It may still be at it. Ask: {again}", code="timeout"
        )
    raise StopError(1, f"no answer within {arguments.timeout:g} s", "Is it running, and can its port be reached?", where=endpoint)


def speak(line: Line, talk: Conversation, until: float, *, patience_s: float) -> object:
    """Say it until it is heard, then listen. `...` when nothing was heard for `patience_s`, or when `until` has passed."""
    say_at, heard_at = 0.0, time.monotonic()
    while (now := time.monotonic()) < until and now - heard_at < patience_s:
        if now >= say_at and talk.say(line):
            say_at = now + REPEAT_S
        heard = line.hear()
        if heard is None or heard[1].get("id") not in (talk.arguments.id, ""):
            continue
        heard_at = time.monotonic()
        say_at = heard_at + REPEAT_S
        answer = talk.take(*heard)
        if answer is not ...:
            return answer
    return ...


def read_fields(pairs: list[str], parser: argparse.ArgumentParser) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            parser.error(f"{pair!r} is not FIELD=VALUE")
        try:
            fields[name] = json.loads(text)
        except (ValueError, RecursionError):
            fields[name] = text
    return fields


def read_arguments(words: list[str] | None = None) -> tuple[argparse.Namespace, dict[str, Any]]:
    parser = argparse.ArgumentParser(prog="send.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("module", help="telescope, safety, preprocessor, ...")
    parser.add_argument("verb", nargs="?", help="status, abort, close, ...")
    parser.add_argument("fields", nargs="*", metavar="FIELD=VALUE", help="the command's arguments")
    parser.add_argument("--door", default="tcp://127.0.0.1:8461", help="the broker's door, which knows addresses (default: %(default)s)")
    parser.add_argument("--endpoint", help="where the module answers, instead of asking the broker")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds to wait for the result (default: %(default)s)")
    parser.add_argument(
        "--expires", type=float, default=10.0, help="seconds after which it must not be begun any more (default: %(default)s)"
    )
    parser.add_argument("--no-wait", action="store_true", help="return when the command is accepted")
    parser.add_argument("--id", default=None, help="id of this intention, to repeat a command of before (default: a new one)")
    parser.add_argument("--ask", metavar="ID", help="what became of command ID?")
    parser.add_argument("--cancel", metavar="ID", help="take command ID back where that can be done")
    parser.add_argument("--json", action="store_true", help="print exactly one JSON object on stdout, also on failure")
    parser.add_argument("--key", help="your secret key file (NAME.key_secret)")
    parser.add_argument("--server-key", help="the module's public key file (MODULE.key)")
    parser.add_argument("--door-key", help="the broker's public key file (broker-NAME.key)")
    arguments = parser.parse_intermixed_args(words)
    about = arguments.ask or arguments.cancel
    if bool(about) == bool(arguments.verb):
        parser.error("give a VERB, or --ask ID, or --cancel ID")
    for option in ("endpoint", "door"):
        address = getattr(arguments, option)
        if address and not re.fullmatch(r"tcp://.+:\d+", address):
            parser.error(f"--{option} {address!r} is no address: write tcp://HOST:PORT")
    if bool(arguments.key) != bool(arguments.server_key) or (arguments.key and not arguments.endpoint and not arguments.door_key):
        parser.error("keys need --key and --server-key, and --door-key unless --endpoint is given")
    if not 0 < arguments.timeout < 1e6 or not 0 < arguments.expires < 1e6:
        parser.error("--timeout and --expires are seconds above 0")
    arguments.id = about or arguments.id or str(uuid.uuid4())
    return arguments, read_fields(arguments.fields, parser)


def main(words: list[str] | None = None) -> int:
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # a cp1252 console must not raise on a degree sign
    arguments, fields = read_arguments(words)
    try:
        value = converse(arguments, fields)
    except StopError as stop:
        if arguments.json:
            print(json.dumps({"error": stop.error}))
        note(str(stop))
        return stop.status
    except KeyboardInterrupt:
        cancel = f"python send.py {arguments.module} --cancel {arguments.id}"
        note(f"stopped listening; the command is NOT taken back. To do that: {cancel} (with the same address options)")
        return 130
    answer = value if isinstance(value, dict) else {"result": value}
    if arguments.json:
        print(json.dumps(answer))
    else:
        print("\n".join(plain(line) for line in json.dumps(answer, indent=2, ensure_ascii=False).split("\n")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
