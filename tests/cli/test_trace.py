"""`nightbell trace`: from what began it to what came of it, and nothing of what has nothing to do with it."""

from __future__ import annotations

from typing import Any

from nightbell.cli.trace import cause_tree, drawn


def said(name: str, subject: str, cause: str | None = None, **data: Any) -> dict[str, Any]:
    fields = {
        "id": name,
        "type": name.split(".", 1)[1],
        "subject": subject,
        "time": "2027-04-12T22:24:25Z",
        "source": "m@demo",
        "data": data,
    }
    return {**fields, "causationid": cause} if cause else fields


NIGHT = [
    said("1.alert.received", "S1"),
    said("2.targets.ready", "demo/S1", "1.alert.received", targets=[{"target_id": "S1-A"}, {"target_id": "S1-B"}]),
    said("3.plan.ready", "2027-04-12", "2.targets.ready", items=[{"target_id": "S1-A"}, {"target_id": "S1-B"}]),
    said("4.observation.started", "S1-A", "3.plan.ready"),
    said("5.frames.stored", "2027-04-12/a", "4.observation.started", frames=[{"frame_id": "fa"}]),
    said("6.calibration.done", "2027-04-12/a", "5.frames.stored"),
    said("7.observation.started", "S1-B", "3.plan.ready"),
    said("8.frames.stored", "2027-04-12/b", "7.observation.started", frames=[{"frame_id": "fb"}]),
    said("9.night.changed", "2027-04-12"),
]


def types_of(wanted: str) -> list[str]:
    return [
        line.split()[0] if line[0].isalpha() else line.split("─ ")[1].split()[0] for line in drawn(cause_tree(NIGHT, wanted)).splitlines()
    ]


def test_a_superevent_shows_all_that_came_of_it() -> None:
    assert len(types_of("S1")) == 8


def test_a_target_shows_its_own_branch_from_the_alert_on() -> None:
    shown = drawn(cause_tree(NIGHT, "S1-A"))
    assert types_of("S1-A") == ["alert.received", "targets.ready", "plan.ready", "observation.started", "frames.stored", "calibration.done"]
    assert "S1-B" not in shown


def test_a_frame_shows_where_it_came_from_and_what_was_made_of_it() -> None:
    assert types_of("fa") == ["alert.received", "targets.ready", "plan.ready", "observation.started", "frames.stored", "calibration.done"]
    assert types_of("fb")[-1] == "frames.stored"


def test_the_beginning_of_an_id_is_enough_and_a_stranger_has_no_tree() -> None:
    assert types_of("6.calib") == types_of("S1-A")
    assert cause_tree(NIGHT, "S2") == []
