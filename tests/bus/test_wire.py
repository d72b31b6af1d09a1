"""The codec: what one side says the other understands, and whatever else comes is refused in words."""

from __future__ import annotations

import typing
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightbell.bus import wire
from nightbell.contracts.errors import BadInput

ALL = {kind for verbs in (wire.TO_BROKER, wire.TO_CLIENT, wire.TO_CALLEE, wire.TO_CALLER) for kind in verbs.values()}
DIRECTIONS = (wire.TO_BROKER, wire.TO_CLIENT, wire.TO_CALLEE, wire.TO_CALLER)

_INTEGERS = st.integers(min_value=0, max_value=wire.LARGEST_INTEGER)
_TEXTS = st.text(max_size=40)
_JSON = st.recursive(st.none() | st.booleans() | _INTEGERS | _TEXTS, lambda inner: st.lists(inner, max_size=3), max_leaves=5)
st.register_type_strategy(int, _INTEGERS)
st.register_type_strategy(str, _TEXTS)
st.register_type_strategy(float, st.floats(allow_nan=False, allow_infinity=False))
st.register_type_strategy(msgspec.Raw, _JSON.map(lambda value: msgspec.Raw(msgspec.json.encode(value))))


def _strategy(hint: Any) -> st.SearchStrategy[Any]:
    if hint is Any:
        return _JSON
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is dict:
        return st.dictionaries(_TEXTS, _strategy(inner[1]), max_size=3)
    if origin is tuple:
        return st.lists(_strategy(inner[0]), max_size=3).map(tuple)
    if inner:
        return st.one_of([_strategy(one) for one in inner])
    return st.builds(hint) if isinstance(hint, type) and issubclass(hint, msgspec.Struct) else st.from_type(hint)


def heads(kind: type[wire.Head]) -> st.SearchStrategy[wire.Head]:
    hints = typing.get_type_hints(kind)
    return st.builds(kind, **{one.name: _strategy(hints[one.name]) for one in msgspec.structs.fields(kind)})


@pytest.mark.parametrize("verbs", DIRECTIONS)
@given(data=st.data())
def test_every_head_is_understood_as_it_was_said(verbs: dict[str, type[wire.Head]], data: st.DataObject) -> None:
    head = data.draw(st.sampled_from(sorted(verbs.values(), key=lambda kind: kind.verb)).flatmap(heads))
    body = data.draw(st.none() | st.binary(max_size=50))
    told, told_body = wire.decode(wire.encode(head, body), verbs)
    assert msgspec.json.encode(told) == msgspec.json.encode(head)
    assert told_body == (body or b"")


def test_each_verb_belongs_to_one_class_per_direction() -> None:
    for verbs in DIRECTIONS:
        assert all(kind.verb == verb for verb, kind in verbs.items())
    assert {kind.verb for kind in ALL} >= {"HELLO", "PUBLISH", "OK", "NO", "DELIVER", "CALL", "RESULT"}


def refusal(ask: Callable[[], object]) -> str:
    """The code of the refusal, empty when it was understood; any other error passes and fails the test."""
    try:
        ask()
    except wire.WireError as error:
        return error.word if error.what else "without words"
    return ""


@given(st.lists(st.binary(max_size=60), max_size=5))
def test_whatever_comes_is_understood_or_refused_in_words(frames: list[bytes]) -> None:
    for told in (frames, [wire.PROTOCOL, *frames], [wire.PROTOCOL, b"HELLO", *frames], [wire.PROTOCOL, b"PUBLISH", *frames]):
        assert refusal(lambda told=told: wire.decode(told, wire.TO_BROKER)) in ("", "protocol", "verb", "schema", "size")


@given(st.binary(max_size=200))
def test_a_body_that_is_no_batch_is_refused_in_words(body: bytes) -> None:
    assert refusal(lambda: wire.summaries(wire.decode_batch(body))) in ("", "batch", "schema", "size")


def test_unknown_fields_of_a_head_are_passed_over_so_that_newer_peers_are_understood() -> None:
    head, _ = wire.decode([b"NB1", b"LOOKUP", b'{"name": "telescope", "colour": "red"}'], wire.TO_BROKER)
    assert head == wire.Lookup(name="telescope")


@pytest.mark.parametrize("verb", [b"OK", b"HELLO ", b"hello", b"", b"\xff"])
def test_a_verb_of_another_direction_is_none(verb: bytes) -> None:
    with pytest.raises(wire.WireError) as caught:
        wire.decode([b"NB1", verb, b"{}"], wire.TO_BROKER)
    assert caught.value.word == "verb"


def test_heads_and_events_that_are_too_large_are_refused_by_the_sender_already() -> None:
    with pytest.raises(wire.WireError) as caught:
        wire.encode(wire.Heartbeat(m0=1, state={"text": "x" * wire.LARGEST_HEAD_BYTES}))
    assert caught.value.word == "size"
    with pytest.raises(wire.WireError) as caught:
        wire.encode_envelope(envelope(data=msgspec.Raw(b'"' + b"x" * (wire.LARGEST_DATA_BYTES + 5000) + b'"')))
    assert caught.value.word == "size"


def envelope(**more: Any) -> wire.Envelope:
    told: dict[str, Any] = {"specversion": "1.0", "id": "1", "source": "telescope@demo", "type": "frames.stored", **more}
    return wire.Envelope(**told)


@given(st.lists(_JSON, min_size=1, max_size=5))
def test_the_bytes_of_an_envelope_stay_what_its_sender_made(values: list[Any]) -> None:
    packed = [wire.encode_envelope(envelope(id=str(i), data=msgspec.Raw(msgspec.json.encode(value)))) for i, value in enumerate(values)]
    # A sender of another kind may write spaces and fields that we do not know: they pass, too.
    packed.append(b'{"specversion":"1.0",  "id":"x", "source":"a@b", "type":"a.b", "traceparent":"00-1", "data": [1,  2]}')
    assert wire.decode_batch(wire.encode_batch(packed)) == packed
    assert [one.id for one in wire.summaries(packed)] == [*(str(i) for i in range(len(values))), "x"]


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ({"specversion": "0.3"}, "schema"),
        ({"type": "frames"}, "schema"),
        ({"type": "Frames.stored"}, "schema"),
        ({"type": "frames.stored\n"}, "schema"),
        ({"type": "a." + "b" * 70}, "schema"),
    ],
)
def test_an_event_that_is_none_is_refused_with_its_place_in_the_batch(more: dict[str, Any], word: str) -> None:
    with pytest.raises(wire.WireError) as caught:
        wire.summaries([wire.encode_envelope(envelope()), wire.encode_envelope(envelope(**more))])
    assert (caught.value.word, caught.value.where) == (word, "1")


@pytest.mark.parametrize("value", [b"NaN", b"Infinity", b"-Infinity", b"01", b"'x'"])
def test_numbers_that_are_not_json_are_refused(value: bytes) -> None:
    packed = b'[{"specversion":"1.0","id":"1","source":"a@b","type":"a.b","data":{"x":' + value + b"}}]"
    with pytest.raises(wire.WireError):
        wire.summaries(wire.decode_batch(packed))


@pytest.mark.parametrize(
    ("pattern", "kind", "fits"),
    [
        ("**", "frames.stored", True),
        ("frames.stored", "frames.stored", True),
        ("frames.stored", "frames.stored.again", False),
        ("frames.*", "frames.stored", True),
        ("frames.*", "framesets.stored", False),
        ("frames.**", "frames.stored.again", True),
        ("frames.*", "frames", False),
        ("plan.ready", "frames.stored", False),
    ],
)
def test_a_pattern_is_a_type_all_below_a_noun_or_everything(pattern: str, kind: str, fits: bool) -> None:
    assert wire.matches(wire.check_pattern(pattern), kind) is fits


@pytest.mark.parametrize("pattern", ["", "*", "***", "Frames.*", ".stored", "frames.", "*.stored", "frames.*.x", "frames stored", "**\n"])
def test_what_is_no_pattern_is_refused_with_examples(pattern: str) -> None:
    with pytest.raises(BadInput) as caught:
        wire.check_pattern(pattern)
    assert caught.value.word == "bad_pattern"
    assert "frames.*" in caught.value.remedy
