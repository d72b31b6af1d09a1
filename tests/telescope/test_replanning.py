"""What is left of the target lists, and the plan of it."""

from __future__ import annotations

import json

from nightbell.contracts.instants import parse_utc
from nightbell.contracts.records import Target
from nightbell.contracts.states import FrameType
from nightbell.telescope.activities import Counts
from nightbell.telescope.replanning import PlanMade, open_requests, plan_night

from .conftest import SITE
from .test_night import SETTINGS

HOST = Target(target_id="a", name="NGC4993", ra_deg=197.4488, dec_deg=-23.3839, rank=1, p_host=0.5)
NORTHERN = Target(target_id="b", name="M81", ra_deg=148.888, dec_deg=69.065, rank=2, p_host=0.2)
NONE = Counts({})


def plan(lists: dict[str, tuple[Target, ...]], counts: Counts = NONE, now: str = "2027-04-13T01:00:00Z") -> PlanMade:
    return plan_night(lists, counts, night="2027-04-12", now_ns=parse_utc(now), site=SITE, settings=SETTINGS)


def test_every_filter_of_a_target_is_planned_one_after_the_other() -> None:
    made = plan({"S1": (HOST,)})
    assert {(item.name, item.filter, item.n_exposures) for item in made.items} == {("NGC4993", "g", 2), ("NGC4993", "r", 2)}
    assert made.items[0].end_utc <= made.items[1].start_utc
    assert made.items[0].superevent_id == "S1"


def test_what_has_been_observed_is_not_planned_again() -> None:
    done = Counts({(FrameType.LIGHT, "g", 60.0, "a"): 2, (FrameType.LIGHT, "r", 60.0, "a"): 1})
    assert [item.filter for item in plan({"S1": (HOST,)}, done).items] == ["r"]


def test_a_target_of_two_superevents_is_wanted_once() -> None:
    assert len(open_requests({"S1": (HOST,), "S2": (HOST,)}, NONE, SETTINGS)) == 2


def test_a_target_that_never_rises_is_rejected_with_its_reason() -> None:
    made = plan({"S1": (HOST, NORTHERN)})
    rejected = json.loads(made.product)["rejected"]
    assert made.n_rejected == 2
    assert {row["name"] for row in rejected} == {"M81"}
    assert "altitude" in rejected[0]["reason"]


def test_by_day_the_plan_begins_in_the_dark_of_the_coming_night() -> None:
    made = plan({"S1": (HOST,)}, now="2027-04-12T15:00:00Z")
    assert "2027-04-12T23" < made.items[0].start_utc < "2027-04-13T03"
