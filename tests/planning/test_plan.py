"""A plan keeps every limit, is worth at most its bound, and says why."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nightbell.contracts.errors import BadInput
from nightbell.contracts.instants import parse_utc
from nightbell.contracts.records import Site
from nightbell.planning.bound import bound_of, prices
from nightbell.planning.constraints import CELL_S, Limits, Request, feasible_starts, look, observable
from nightbell.planning.kernel import Problem, solve
from nightbell.planning.product import Plan, Wanted, astroplan_disagrees, make_plan, verify
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
    told = verify(made.document)
    assert told["ok"]
    assert told["value"] <= told["proved_bound"] * (1 + 1e-9)
    forged = json.loads(made.document)
    forged["items"][1]["start_utc"] = forged["items"][0]["start_utc"]
    assert not verify(forged)["ok"]
    greedy = json.loads(made.document)
    greedy["items"][0]["value"] = 1000.0
    assert any("bound" in fault for fault in verify(greedy)["faults"])
    with pytest.raises(BadInput, match="format"):
        verify({"format": "something else"})


def test_what_cannot_be_observed_is_rejected_with_its_reason() -> None:
    made = plan(wanted((197.45, -23.38), (148.9, 69.1)))
    assert [one["name"] for one in made.rejected] == ["target 1"]
    assert "altitude" in made.rejected[0]["reason"]


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


@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_tiny_nights_come_near_the_best_of_all_orders_and_never_exceed_the_bound(seed: int, n: int) -> None:
    chance = np.random.default_rng(seed)
    t = 14
    value = np.where(chance.random((n, t)) < 0.8, chance.random((n, t)), 0.0)
    block_s = CELL_S * chance.integers(1, 5, n).astype(float)
    for i in range(n):  # no block runs beyond the night
        value[i, t - int(block_s[i] / CELL_S) + 1 :] = 0.0
    transition = np.full((n, n), CELL_S)
    problem = Problem(value, block_s, transition, np.zeros(n))
    found = solve(problem)
    best = _best_of_all(problem, t)
    assert found.value <= best + 1e-9
    assert best <= found.bound + 1e-9
    assert found.value >= 0.6 * best
    end_s = 0.0
    for n_done, (item, cell) in enumerate(zip(found.items, found.cells, strict=True)):
        assert value[item, cell] > 0
        assert cell * CELL_S >= end_s + (CELL_S if n_done else 0.0) - 1e-9
        end_s = cell * CELL_S + block_s[item]
    assert len(set(found.items)) == len(found.items)


def _best_of_all(problem: Problem, t: int) -> float:
    """Every subset, order and start, by recursion."""

    def best(free_cell: int, left: frozenset[int], first: bool) -> float:
        top = 0.0
        for i in left:
            begin = free_cell if first else free_cell + 1
            for k in range(begin, t):
                if problem.value[i, k] > 0:
                    end = k + int(problem.block_s[i] / CELL_S)
                    top = max(top, problem.value[i, k] + best(end, left - {i}, False))
        return top

    return best(0, frozenset(range(len(problem.block_s))), True)


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
