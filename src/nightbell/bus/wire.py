"""Bytes <-> typed messages of the wire protocol, version 1. Pure: no sockets, no clock.

A message is `[b"NB1", VERB, head, body?]`: upper-case verb, a JSON object of at most 64 KiB, raw bytes where said. A ROUTER adds
and strips the routing id before them. Unknown head fields are ignored, so that a newer peer can be understood.

    to the broker     HELLO BYE HB PUBLISH SUBSCRIBE ACK NACK WORKING RESEEK REPLAY LOOKUP INFO DEAD
    to a client       WELCOME REFUSE HB OK NO SUBSCRIBED DELIVER END FOUND INFO LETTERS PROBE EPOCH
    to a callee       CALL CANCEL ASK
    to a caller       ACCEPTED PROGRESS RESULT REFUSED BUSY

Each verb has one class here, and its docstring says what it means. The broker's `seq`, `prev` and `epoch` ride in heads, never in
an envelope: the envelope's bytes stay the same from outbox to archive.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import msgspec

from nightbell.contracts.errors import BadInput

__all__ = [
    "LARGEST_BATCH_BYTES",
    "LARGEST_BATCH_EVENTS",
    "LARGEST_DATA_BYTES",
    "LARGEST_HEAD_BYTES",
    "PROTOCOL",
    "TO_BROKER",
    "TO_CALLEE",
    "TO_CALLER",
    "TO_CLIENT",
    "Accepted",
    "Ack",
    "Ask",
    "Busy",
    "Bye",
    "Call",
    "Cancel",
    "Dead",
    "Deliver",
    "End",
    "Envelope",
    "EpochChanged",
    "Found",
    "Head",
    "Heartbeat",
    "HeartbeatAnswer",
    "Hello",
    "Info",
    "InfoAnswer",
    "LastOk",
    "Letters",
    "Lookup",
    "Nack",
    "No",
    "Ok",
    "Probe",
    "ProgressReport",
    "Publish",
    "Refuse",
    "RefusedCall",
    "Replay",
    "Reseek",
    "Result",
    "Subscribe",
    "Subscribed",
    "Summary",
    "Welcome",
    "WireError",
    "Working",
    "check_pattern",
    "decode",
    "decode_batch",
    "decode_envelope",
    "encode",
    "encode_batch",
    "encode_envelope",
    "matches",
    "summaries",
]

PROTOCOL = b"NB1"
LARGEST_HEAD_BYTES = 64 << 10
LARGEST_DATA_BYTES = 256 << 10
LARGEST_BATCH_BYTES = 1 << 20
LARGEST_BATCH_EVENTS = 1024
LARGEST_INTEGER = 2**53 - 1
"""JavaScript readers round beyond this."""

EVENT_TYPE = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+")
_PATTERN = re.compile(r"\*\*|[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*(\.\*|\.\*\*)?")
_VERB = re.compile(rb"[A-Z]{2,16}")


class WireError(BadInput):
    """A message that is not of this protocol; `word` is the code of the answer (`protocol`, `verb`, `batch`, `schema`)."""

    code: ClassVar[str] = "protocol"


class Head(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of all heads; the verb is the class's."""

    verb: ClassVar[str]


# ---- the envelope ---------------------------------------------------------------------------------------------------


class Envelope(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """CloudEvents 1.0 in JSON. `time` is the source's clock and never used for order."""

    specversion: str
    id: str
    source: str
    """module@site."""
    type: str
    typeversion: int = 1
    subject: str = ""
    time: str = ""
    causationid: str | None = None
    """The event or command that led to this one."""
    correlationid: str | None = None
    """The root: alert or night."""
    expires: str | None = None
    via: tuple[str, ...] = ()
    """Journals it came through, set by relays."""
    data: msgspec.Raw = msgspec.Raw(b"null")


class Summary(msgspec.Struct, frozen=True):
    """What a broker reads of an envelope; everything else passes unread."""

    id: str
    source: str
    type: str
    specversion: str
    subject: str = ""
    time: str = ""
    typeversion: int = 1


# ---- to the broker --------------------------------------------------------------------------------------------------


class LastOk(msgspec.Struct, frozen=True):
    """The last OK a publisher holds: shows the broker what it may have lost."""

    epoch: int
    seq: int
    n: int
    id: str


class Hello(Head, frozen=True, kw_only=True, omit_defaults=True):
    """Begin a session. `lock`: the sender holds the lock of its state folder, so an older process on this host is gone."""

    verb: ClassVar[str] = "HELLO"
    name: str
    instance: str
    host: str
    pid: int
    proto: int = 1
    client: str = ""
    role: str | None = None
    outbox: str | None = None
    last_ok: LastOk | None = None
    lease_ms: int = 10_000
    site: str = ""
    commands: str | None = None
    """Endpoint where the module answers commands."""
    wall_ns: int = 0
    mono_ns: int = 0
    lock: bool = False
    presence: bool = True
    """False for taps and scripts: no module.up and module.lost for them."""


class Bye(Head, frozen=True, kw_only=True, omit_defaults=True):
    """A clean leave: the lease is freed, no last will."""

    verb: ClassVar[str] = "BYE"
    reason: str = ""


class Heartbeat(Head, frozen=True, kw_only=True, omit_defaults=True):
    """Every 2 s; renews the lease. `state` is shown by `status`."""

    verb: ClassVar[str] = "HB"
    m0: int
    state: dict[str, Any] = {}


class Publish(Head, frozen=True, kw_only=True, omit_defaults=True):
    """A batch (body: JSON array of envelopes); accepted whole iff (prevn, previd) is the last of this outbox."""

    verb: ClassVar[str] = "PUBLISH"
    fence: int
    n0: int
    count: int
    prevn: int = 0
    previd: str | None = None


class Subscribe(Head, frozen=True, kw_only=True, omit_defaults=True):
    """A durable subscription, unique by (module, sub)."""

    verb: ClassVar[str] = "SUBSCRIBE"
    sub: str
    types: tuple[str, ...]
    fence: int
    start: str | dict[str, Any] = "cursor"
    """cursor | new | first | {"seq": n} | {"time": ISO}; "cursor" of an unknown subscription means first."""
    cursor: dict[str, Any] | None = None
    """The receiver's own {epoch, seq, id}; it wins over the broker's."""
    window_events: int = 1024
    window_bytes: int = 4 << 20
    max_attempts: int = 5
    ack_wait_ms: int = 30_000


class Ack(Head, frozen=True, kw_only=True, omit_defaults=True):
    """Confirmed up to `upto`, cumulative and idempotent; `sub` or the `rid` of a replay."""

    verb: ClassVar[str] = "ACK"
    upto: int
    epoch: int
    fence: int = 0
    sub: str | None = None
    rid: str | None = None


class Nack(Head, frozen=True, kw_only=True, omit_defaults=True):
    """One event failed; `final` sends it to the dead letters at once."""

    verb: ClassVar[str] = "NACK"
    sub: str
    epoch: int
    seq: int
    error: str
    fence: int
    final: bool = False
    delay_ms: int | None = None
    max_attempts: int | None = None


class Working(Head, frozen=True, kw_only=True, omit_defaults=True):
    """The handler of this event is still at it: extends its ack_wait."""

    verb: ClassVar[str] = "WORKING"
    sub: str
    seq: int
    fence: int = 0


class Reseek(Head, frozen=True, kw_only=True, omit_defaults=True):
    """`prev` did not fit: deliver again from after `cursor`."""

    verb: ClassVar[str] = "RESEEK"
    sub: str
    cursor: int
    fence: int = 0


class Replay(Head, frozen=True, kw_only=True, omit_defaults=True):
    """Past events to this session alone; with `follow` the live ones after them."""

    verb: ClassVar[str] = "REPLAY"
    rid: str
    start: dict[str, Any] | str = "first"
    """first | new | {"seq": n} | {"time": ISO}."""
    types: tuple[str, ...] = ("**",)
    to_seq: int | None = None
    follow: bool = False
    window_events: int = 1024


class Lookup(Head, frozen=True, kw_only=True, omit_defaults=True):
    """Asks where a module answers commands."""

    verb: ClassVar[str] = "LOOKUP"
    name: str


class Info(Head, frozen=True, kw_only=True, omit_defaults=True):
    """The broker's own state."""

    verb: ClassVar[str] = "INFO"
    rid: str = ""


class Dead(Head, frozen=True, kw_only=True, omit_defaults=True):
    """Dead letters: op is list, show, retry or drop; the last three name `seq` (and `sub` when several have it)."""

    verb: ClassVar[str] = "DEAD"
    rid: str
    op: str
    seq: int | None = None
    sub: str | None = None


# ---- to a client ----------------------------------------------------------------------------------------------------


class Welcome(Head, frozen=True, kw_only=True, omit_defaults=True):
    """The session is granted. `last_n`, `last_id`: the last event of this outbox that is durable here."""

    verb: ClassVar[str] = "WELCOME"
    broker: str
    journal: str
    epoch: int
    head: int
    fence: int
    lease_ms: int
    last_n: int = 0
    last_id: str | None = None
    max_batch_events: int = LARGEST_BATCH_EVENTS
    max_batch_bytes: int = LARGEST_BATCH_BYTES
    max_inflight: int = 16
    wall_ns: int = 0
    first_seq: int = 1


class Refuse(Head, frozen=True, kw_only=True, omit_defaults=True):
    """No session. `retry_ms` None: do not try again by yourself."""

    verb: ClassVar[str] = "REFUSE"
    code: str
    text: str
    remedy: str = ""
    retry_ms: int | None = None
    holder: dict[str, Any] | None = None


class HeartbeatAnswer(Head, frozen=True, kw_only=True, omit_defaults=True):
    """The client's m0, and the broker's wall clock at receipt and at sending."""

    verb: ClassVar[str] = "HB"
    m0: int
    t1: int
    t2: int
    head: int


class Ok(Head, frozen=True, kw_only=True, omit_defaults=True):
    """All up to `n` of the outbox are on disk; `seq` is that of event n. Cumulative."""

    verb: ClassVar[str] = "OK"
    n: int
    seq: int
    epoch: int


class No(Head, frozen=True, kw_only=True, omit_defaults=True):
    """A request was not done; for PUBLISH `n0` and `index` name the event, and `have` the last n that is here."""

    verb: ClassVar[str] = "NO"
    code: str
    text: str
    remedy: str = ""
    n0: int | None = None
    index: int | None = None
    have: int | None = None
    have_id: str | None = None
    retry_ms: int | None = None
    sub: str | None = None
    rid: str | None = None
    name: str | None = None


class Subscribed(Head, frozen=True, kw_only=True, omit_defaults=True):
    """Delivery begins after `cursor` (its `prev` will be that)."""

    verb: ClassVar[str] = "SUBSCRIBED"
    sub: str
    cursor: int
    epoch: int
    head: int


class Deliver(Head, frozen=True, kw_only=True, omit_defaults=True):
    """Events (body: JSON array of envelopes in seq order). `prev`: seq of the one delivered just before in this subscription."""

    verb: ClassVar[str] = "DELIVER"
    epoch: int
    prev: int
    seqs: tuple[int, ...]
    sub: str | None = None
    replay: str | None = None
    attempt: int = 1
    round: int = 0
    """Grows whenever delivery begins again (a failure, a dead letter): older ones that are still on their way are void."""


class End(Head, frozen=True, kw_only=True, omit_defaults=True):
    """A replay has told everything up to `last`; with `follow` it goes on live."""

    verb: ClassVar[str] = "END"
    rid: str
    last: int


class Found(Head, frozen=True, kw_only=True, omit_defaults=True):
    """Where a module answers commands; `commands` None: it has never said so."""

    verb: ClassVar[str] = "FOUND"
    name: str
    commands: str | None = None
    alive: bool = False


class InfoAnswer(Head, frozen=True, kw_only=True, omit_defaults=True):
    """The broker's state as shown by `nightbell status`."""

    verb: ClassVar[str] = "INFO"
    rid: str
    broker: str
    journal: str
    epoch: int
    head: int
    first_seq: int
    pid: int
    up_s: float
    sessions: tuple[dict[str, Any], ...] = ()
    subscriptions: tuple[dict[str, Any], ...] = ()
    dead: int = 0
    journal_bytes: int = 0
    free_bytes: int = 0
    readonly: str = ""


class Letters(Head, frozen=True, kw_only=True, omit_defaults=True):
    """Answer to DEAD: letters as {seq, sub, type, subject, id, attempts, errors, at_utc}; `show` adds the envelope as body."""

    verb: ClassVar[str] = "LETTERS"
    rid: str
    letters: tuple[dict[str, Any], ...] = ()


class Probe(Head, frozen=True, kw_only=True, omit_defaults=True):
    """Another process wants this name: answer with HB within a second, or lose it."""

    verb: ClassVar[str] = "PROBE"


class EpochChanged(Head, frozen=True, kw_only=True, omit_defaults=True):
    """The journal was damaged or restored; publishers say HELLO again and resend, subscribers reseek."""

    verb: ClassVar[str] = "EPOCH"
    epoch: int


# ---- commands -------------------------------------------------------------------------------------------------------


class Call(Head, frozen=True, kw_only=True, omit_defaults=True):
    """A wish. `id` is made once per intention; repeating it with the same id never does it twice (class once)."""

    verb: ClassVar[str] = "CALL"
    id: str
    command: str
    """The command's verb, e.g. open_night."""
    args: msgspec.Raw = msgspec.Raw(b"{}")
    expires_ms: int = 10_000
    age_ms: int = 0
    """Time since it was made, by the caller's monotonic clock: wall clocks play no part."""
    caller: str = ""
    correlationid: str | None = None


class Cancel(Head, frozen=True, kw_only=True, omit_defaults=True):
    """Stop a running command where it can be stopped."""

    verb: ClassVar[str] = "CANCEL"
    id: str


class Ask(Head, frozen=True, kw_only=True, omit_defaults=True):
    """What became of command `id`? Answered by its last known answer."""

    verb: ClassVar[str] = "ASK"
    id: str


class Accepted(Head, frozen=True, kw_only=True, omit_defaults=True):
    """Will be done (class once: it is in the ledger)."""

    verb: ClassVar[str] = "ACCEPTED"
    id: str


class ProgressReport(Head, frozen=True, kw_only=True, omit_defaults=True):
    """On the way; fraction 0..1 or None."""

    verb: ClassVar[str] = "PROGRESS"
    id: str
    k: int
    text: str
    fraction: float | None = None


class Result(Head, frozen=True, kw_only=True, omit_defaults=True):
    """Done, or tried and failed (`ok` false, `error` {code, what, where, remedy})."""

    verb: ClassVar[str] = "RESULT"
    id: str
    ok: bool
    value: msgspec.Raw = msgspec.Raw(b"null")
    error: dict[str, Any] | None = None
    seconds: float = 0.0


class RefusedCall(Head, frozen=True, kw_only=True, omit_defaults=True):
    """Understood or not, nothing was done."""

    verb: ClassVar[str] = "REFUSED"
    id: str
    code: str
    what: str
    where: str = ""
    remedy: str = ""


class Busy(Head, frozen=True, kw_only=True, omit_defaults=True):
    """Nothing was done; `by` says what is running."""

    verb: ClassVar[str] = "BUSY"
    id: str
    by: str
    retry_ms: int = 1000


def _by_verb(*heads: type[Head]) -> Mapping[str, type[Head]]:
    return {head.verb: head for head in heads}


TO_BROKER = _by_verb(Hello, Bye, Heartbeat, Publish, Subscribe, Ack, Nack, Working, Reseek, Replay, Lookup, Info, Dead)
TO_CLIENT = _by_verb(Welcome, Refuse, HeartbeatAnswer, Ok, No, Subscribed, Deliver, End, Found, InfoAnswer, Letters, Probe, EpochChanged)
TO_CALLEE = _by_verb(Call, Cancel, Ask)
TO_CALLER = _by_verb(Accepted, ProgressReport, Result, RefusedCall, Busy)

_encoder = msgspec.json.Encoder()
_decoders: dict[type[Head], msgspec.json.Decoder[Any]] = {}


def encode(head: Head, body: bytes | None = None) -> list[bytes]:
    """A message as frames. Raises `WireError` when the head is too large."""
    packed = _encoder.encode(head)
    if len(packed) > LARGEST_HEAD_BYTES:
        raise WireError(f"a head of {len(packed)} bytes; {LARGEST_HEAD_BYTES} are allowed", where=head.verb, code="size")
    frames = [PROTOCOL, head.verb.encode("ascii"), packed]
    return frames if body is None else [*frames, body]


def decode(frames: Sequence[bytes], verbs: Mapping[str, type[Head]]) -> tuple[Head, bytes]:
    """The head and body of a message. Raises `WireError` (codes protocol, verb, schema, size); never anything else."""
    if len(frames) not in (3, 4) or frames[0] != PROTOCOL:
        raise WireError("not a message of this protocol", remedy="Speak NB1: four frames, the first is 'NB1'", code="protocol")
    name = frames[1].decode("ascii", "replace")
    kind = verbs.get(name) if _VERB.fullmatch(frames[1]) else None
    if kind is None:
        raise WireError(f"{name[:16]!r} is no verb here", remedy=f"Use one of {', '.join(verbs)}", code="verb")
    if len(frames[2]) > LARGEST_HEAD_BYTES:
        raise WireError(f"a head of {len(frames[2])} bytes; {LARGEST_HEAD_BYTES} are allowed", where=name, code="size")
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.json.Decoder(kind)
    try:
        head = decoder.decode(frames[2])
    except (msgspec.DecodeError, RecursionError) as error:
        raise WireError(f"the head is wrong: {error}", where=name, code="schema") from error
    return head, (frames[3] if len(frames) == 4 else b"")


_envelope_decoder = msgspec.json.Decoder(Envelope)
_raws_decoder = msgspec.json.Decoder(list[msgspec.Raw])
_summary_decoder = msgspec.json.Decoder(Summary)


def encode_envelope(envelope: Envelope) -> bytes:
    """The envelope's bytes: made once, at its source. Raises `WireError` (size)."""
    packed = _encoder.encode(envelope)
    if len(packed) > LARGEST_DATA_BYTES + 4096:
        raise WireError(
            f"an event of {len(packed)} bytes; {LARGEST_DATA_BYTES} are allowed",
            where=envelope.type,
            remedy="Store large data as a file and publish its hash and place",
            code="size",
        )
    return packed


def decode_envelope(packed: bytes) -> Envelope:
    """One envelope. Raises `WireError` (schema)."""
    try:
        return _envelope_decoder.decode(packed)
    except (msgspec.DecodeError, RecursionError) as error:
        raise WireError(f"not an event: {error}", where="envelope", code="schema") from error


def encode_batch(envelopes: Iterable[bytes]) -> bytes:
    """Packed envelopes as a JSON array."""
    return b"[" + b",".join(envelopes) + b"]"


def decode_batch(body: bytes) -> list[bytes]:
    """The bytes of each envelope in a batch, untouched. Raises `WireError` (batch)."""
    try:
        return [bytes(raw) for raw in _raws_decoder.decode(body)]
    except (msgspec.DecodeError, RecursionError) as error:
        raise WireError(f"the batch is no JSON array: {error}", where="body", code="batch") from error


def summaries(envelopes: Sequence[bytes]) -> list[Summary]:
    """What a broker needs of each envelope, checked. Raises `WireError` whose `where` is the index (codes schema, size)."""
    found = []
    for i, packed in enumerate(envelopes):
        if len(packed) > LARGEST_DATA_BYTES + 4096:
            raise WireError(f"an event of {len(packed)} bytes", where=str(i), remedy="Publish a hash and a place", code="size")
        try:
            one = _summary_decoder.decode(packed)
        except (msgspec.DecodeError, RecursionError) as error:
            raise WireError(f"not an event: {error}", where=str(i), code="schema") from error
        if one.specversion != "1.0":
            raise WireError(f"specversion {one.specversion!r}", where=str(i), remedy="Send CloudEvents 1.0", code="schema")
        if not EVENT_TYPE.fullmatch(one.type) or len(one.type) > 64:
            raise WireError(f"{one.type[:64]!r} is no event type", where=str(i), remedy="Name it noun.past_participle", code="schema")
        found.append(one)
    return found


def matches(pattern: str, event_type: str) -> bool:
    """Whether `event_type` falls under `pattern`: itself, `noun.*` (all below noun), or `**` (everything)."""
    if pattern == "**":
        return True
    if pattern.endswith(".**"):
        return event_type.startswith(pattern[:-2])
    if pattern.endswith(".*"):
        return event_type.startswith(pattern[:-1])
    return pattern == event_type


def check_pattern(pattern: str) -> str:
    """The pattern itself. Raises `BadInput` when it is none."""
    if not _PATTERN.fullmatch(pattern):
        raise BadInput(
            f"{pattern!r} is no pattern of event types", where="pattern", remedy="Write frames.stored, frames.* or **", code="bad_pattern"
        )
    return pattern
