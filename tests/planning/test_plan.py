"""A plan keeps every limit, is worth at most its bound, and says why."""

from __future__ import annotations

import itertools
import json
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nightbell.contracts.errors import BadInput
from nightbell.contracts.instants import parse_utc
from nightbell.contracts.records import Site
from nightbell.planning.bound import bound_of, prices
from nightbell.planning.constraints import CELL_S, Limits, Request, feasible_starts, look, observable
from nightbell.planning.product import Plan, Wanted, astroplan_disagrees, make_plan, read_plan, verify
from nightbell.planning.value import quality

SITE = Site(name="demo", latitude_deg=-29.2567, longitude_deg=-70.7377, elevation_m=2400.0)
LIMITS = Limits(sun_max_deg=-12.0, altitude_min_deg=25.0, altitude_max_deg=88.0, moon_separation_min_deg=15.0)
DUSK_NS = parse_utc("2027-04-12T22:00:00Z")


def wanted(*places: tuple[float, float], weights: tuple[float, ...] = (), block_s: float = 140.0) -> list[Wanted]:
    return [
        Wanted(
            request=Request(
                item_id=f"item{n:02d}",
                group=f"target{n:02d}",
                name=f"target {n}",
                ra_deg=ra,
                dec_deg=dec,
                filter="r",
                block_s=block_s,
                weight=weights[n] if weights else 1.0,
            ),
            target_id=f"target{n:02d}",
            exposure_s=60.0,
            n_exposures=2,
            rank=n + 1,
        )
        for n, (ra, dec) in enumerate(places)
    ]


def plan(requests: list[Wanted], *, urgency_per_h: float = 0.5) -> Plan:
    return make_plan(requests, night="2027-04-12", site=SITE, limits=LIMITS, start_ns=DUSK_NS, slew_s=60.0, urgency_per_h=urgency_per_h)


SOUTHERN = ((197.45, -23.38), (150.0, -30.0), (160.0, -45.0), (210.0, -10.0))


def test_no_two_items_overlap_and_a_slew_fits_between_them() -> None:
    made = plan(wanted(*SOUTHERN))
    assert len(made.items) == 4
    for a, b in itertools.pairwise(made.items):
        assert parse_utc(b.start_utc) - parse_utc(a.end_utc) >= 60_000_000_000


def test_astroplan_finds_every_item_within_the_limits() -> None:
    for item in plan(wanted(*SOUTHERN)).items:
        assert astroplan_disagrees(item, SITE, LIMITS) == ""


def test_astroplan_would_find_an_item_that_breaks_a_limit() -> None:
    item = plan(wanted((197.45, -23.38))).items[0]
    stricter = Limits(sun_max_deg=-12.0, altitude_min_deg=60.0, altitude_max_deg=88.0, moon_separation_min_deg=15.0)
    assert "altitude" in astroplan_disagrees(item, SITE, stricter)
    assert "Moon" in astroplan_disagrees(
        item, SITE, Limits(sun_max_deg=-12.0, altitude_min_deg=20.0, altitude_max_deg=88.0, moon_separation_min_deg=175.0)
    )


def test_a_plan_can_be_proved_from_its_document_alone_and_a_forged_one_cannot() -> None:
    made = plan(wanted(*SOUTHERN))
    told = verify(read_plan(made.document))
    assert told["ok"], told["faults"]
    assert told["value"] <= told["proved_bound"] * (1 + 1e-9)
    forged = json.loads(made.document)
    forged["items"][1]["start_utc"] = forged["items"][0]["start_utc"]
    assert not verify(read_plan(forged))["ok"]
    greedy = json.loads(made.document)
    greedy["items"][0]["value"] = 1000.0
    assert any("bound" in fault for fault in verify(read_plan(greedy))["faults"])


def test_what_cannot_be_observed_is_rejected_with_its_reason() -> None:
    made = plan(wanted((197.45, -23.38), (148.9, 69.1)))
    assert [(one.name, one.code) for one in made.rejected] == [("target 1", "never_up")]
    assert "altitude" in made.rejected[0].reason


def test_what_has_no_place_beside_better_ones_is_told_what_its_time_is_worth() -> None:
    # Thirty blocks of an hour for ten hours of night, the last of them hardly wanted.
    crowd = wanted(*[(150.0 + 3 * n, -30.0) for n in range(30)], weights=(*[1.0] * 29, 0.01), block_s=3500.0)
    made = plan(crowd)
    assert {one.code for one in made.rejected} <= {"outpriced", "no_room", "window_too_short"}
    least = next(one for one in made.rejected if one.name == "target 29")
    assert least.code == "outpriced"
    assert "its time at least" in least.reason


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_a_weight_that_is_none_is_rejected_and_spoils_no_other(weight: float) -> None:
    made = plan(wanted(*SOUTHERN[:2], weights=(weight, 0.5)))
    assert [(one.name, one.code) for one in made.rejected] == [("target 0", "bad_value")]
    assert [item.name for item in made.items] == ["target 1"]
    assert verify(read_plan(made.document))["ok"]


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("format", "something else", "format"),
        ("site", {"name": "x", "latitude_deg": 100, "longitude_deg": 0}, "latitude_deg"),
        ("price_per_cell", "x", "price_per_cell"),
        ("items", [{}], "items"),
        ("made_utc", "soon", "made_utc"),
    ],
)
def test_a_plan_with_a_wrong_field_is_refused_by_its_name(field: str, value: object, named: str) -> None:
    told = json.loads(plan(wanted(*SOUTHERN[:1])).document)
    told[field] = value
    with pytest.raises(BadInput, match=named):
        read_plan(told, where="plan.json")


def test_a_hundred_targets_are_planned_in_seconds() -> None:
    chance = np.random.default_rng(7)
    crowd = wanted(*zip(chance.uniform(100, 260, 100).tolist(), chance.uniform(-70, 10, 100).tolist(), strict=True))
    begun = time.process_time()
    assert len(plan(crowd).items) > 50
    # astroplan's check of a dozen items takes most of it; it was half a minute when every instant had its own astrometry.
    assert time.process_time() - begun < 10.0


def test_the_order_of_the_input_does_not_change_the_plan() -> None:
    requests = wanted(*SOUTHERN, weights=(0.4, 0.3, 0.2, 0.1))
    assert plan(requests).items == plan(requests[::-1]).items


def test_the_more_probable_of_two_equal_places_comes_first() -> None:
    made = plan(wanted((197.45, -23.38), (197.46, -23.38), weights=(0.1, 0.9)))
    assert [item.name for item in made.items] == ["target 1", "target 0"]


def test_without_urgency_a_lone_target_waits_for_the_best_air() -> None:
    soon, late = plan(wanted((197.45, -23.38))), plan(wanted((197.45, -23.38)), urgency_per_h=0.0)
    assert soon.items[0].start_utc < late.items[0].start_utc
    assert late.items[0].airmass is not None
    assert late.items[0].airmass < 1.01


def test_a_block_may_begin_only_where_it_ends_within_the_limits() -> None:
    requests = [one.request for one in wanted(*SOUTHERN)]
    sky = look(SITE, requests, DUSK_NS, DUSK_NS + 14 * 3_600_000_000_000)
    good = observable(sky, LIMITS)
    starts = feasible_starts(good, [one.block_s for one in requests])
    for i, one in enumerate(requests):
        cells = int(np.ceil(one.block_s / CELL_S))
        for k in np.flatnonzero(starts[i]):
            assert good[i, k : k + cells + 1].all()


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_any_prices_prove_a_bound_and_better_ones_a_tighter_one(seed: int) -> None:
    chance = np.random.default_rng(seed)
    value, cells = chance.random((5, 30)), chance.integers(1, 6, 5)
    tuned = bound_of(value, cells, prices(value, cells))
    assert tuned <= bound_of(value, cells, np.zeros(30)) + 1e-9
    assert tuned <= value.max(axis=1).sum() + 1e-9


def test_quality_falls_with_airmass_and_is_zero_below_the_horizon() -> None:
    found = quality(np.array([1.0, 1.5, 2.0, np.inf]), "g")
    assert found[0] == 1.0
    assert found[0] > found[1] > found[2] > 0
    assert found[3] == 0.0
