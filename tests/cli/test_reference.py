"""The generated reference: true to the code, and an AsyncAPI document that its specification accepts."""

from __future__ import annotations

import copy
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from nightbell.bus import wire
from nightbell.cli import reference
from nightbell.contracts.events import EVENTS, NightChanged
from nightbell.contracts.states import NightState
from nightbell.telescope.night_table import TABLE

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = ROOT / "tests" / "golden" / "asyncapi" / "3.0.0.json"
SCHEMA_SHA256 = "1786a007ac00344a8f529e5a6fc5db786b0be6757e0b94a8b95a8a6a52b7fe9a"


@pytest.fixture(scope="module")
def specification() -> jsonschema.Draft7Validator:
    """The specification's own schema; it holds everything it refers to, so nothing is fetched."""
    return jsonschema.Draft7Validator(json.loads(SCHEMA.read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return reference.asyncapi()


def payload_schema(document: dict[str, Any], name: str) -> dict[str, Any]:
    """One schema of the document, with the others in reach of its references."""
    return {"$ref": f"#/components/schemas/{name}", "components": document["components"]}


def references(part: object) -> list[str]:
    if isinstance(part, dict):
        return [value for key, value in part.items() if key == "$ref"] + [found for value in part.values() for found in references(value)]
    return [found for value in part for found in references(value)] if isinstance(part, list) else []


def test_the_schema_is_the_one_its_readme_names() -> None:
    # Read as text: a checkout on Windows may have other line ends.
    text = SCHEMA.read_text(encoding="utf-8").encode()
    assert hashlib.sha256(text).hexdigest() == SCHEMA_SHA256
    assert SCHEMA_SHA256 in (SCHEMA.parent.parent / "README.md").read_text(encoding="utf-8")


def test_the_document_is_valid_asyncapi(specification: jsonschema.Draft7Validator, document: dict[str, Any]) -> None:
    assert [f"{error.json_path}: {error.message[:200]}" for error in specification.iter_errors(document)] == []


def test_a_wrong_document_is_refused_by_the_same_schema(specification: jsonschema.Draft7Validator, document: dict[str, Any]) -> None:
    wrong = copy.deepcopy(document)
    wrong["operations"]["publish_night_changed"]["action"] = "shout"
    assert not specification.is_valid(wrong)
    del wrong["info"]["title"]
    assert not specification.is_valid({**document, "info": wrong["info"]})


def test_every_reference_inside_the_document_leads_somewhere(document: dict[str, Any]) -> None:
    for target in references(document):
        place: Any = document
        for key in target.removeprefix("#/").split("/"):
            assert key in place, target
            place = place[key]


def test_the_document_has_one_channel_for_each_type_of_event(document: dict[str, Any]) -> None:
    assert {channel["address"] for channel in document["channels"].values()} == set(EVENTS)


def test_an_event_as_it_is_sent_fits_its_schema_and_a_wrong_one_does_not(document: dict[str, Any]) -> None:
    event = NightChanged(
        night="2027-04-12",
        state=NightState.SHELTERING,
        previous=NightState.OBSERVING,
        trigger="unsafe",
        reason="wind 21 m/s, limit 15 m/s",
        at_utc="2027-04-13T03:12:09.000Z",
    )
    said = json.loads(msgspec.json.encode(event))
    schema = jsonschema.Draft7Validator(payload_schema(document, "NightChanged"))
    schema.validate(said)
    assert not schema.is_valid({**said, "state": "asleep"})
    assert not schema.is_valid({key: value for key, value in said.items() if key != "reason"})


def test_the_envelope_of_the_document_is_the_envelope_of_the_wire(document: dict[str, Any]) -> None:
    told = document["components"]["schemas"]["CloudEvent"]["properties"]
    assert [*told, "data"] == [field.name for field in msgspec.structs.fields(wire.Envelope)]


def test_the_page_of_states_lists_every_transition_of_the_night() -> None:
    page = reference.documents()["states.md"]
    for (state, trigger), step in TABLE.items():
        assert f"| `{state.value}` | `{trigger.value}` | `{step.to.value}` |" in page


def test_the_pages_say_the_same_wherever_they_are_made() -> None:
    for name, text in reference.documents().items():
        assert " object at 0x" not in text, name
        assert str(ROOT) not in text, name
        assert str(Path.home()) + "/" not in text, name


def test_the_reference_in_docs_is_up_to_date() -> None:
    # A fresh process: click keeps a command's help option from its first use, and other tests use commands by themselves.
    done = subprocess.run([sys.executable, "-m", "nightbell.cli.reference", "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
