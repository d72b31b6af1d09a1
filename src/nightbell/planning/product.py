"""The plan as items with reasons; and its check by astroplan, which shares no code with the grid that made it.

A plan is a JSON document (format `nightbell-plan-2`) holding what it was made of, what was left out and why, its worth, and the
bound that no plan of these requests can exceed; `verify` proves an old plan again from the document alone.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from astroplan import AltitudeConstraint, AtNightConstraint, FixedTarget, MoonSeparationConstraint, Observer
from astropy import units as u
from astropy.coordinates import EarthLocation, SkyCoord
from astropy.time import Time

from nightbell.contracts.errors import BadInput
from nightbell.contracts.instants import format_utc, parse_utc
from nightbell.contracts.records import PlanItem, Site
from nightbell.planning.bound import bound_of
from nightbell.planning.constraints import CELL_S, Limits, Request, Sky, cells_of, feasible_starts, look, observable, why_not
from nightbell.planning.kernel import Problem, solve
from nightbell.planning.value import values

__all__ = ["Plan", "Wanted", "astroplan_disagrees", "make_plan", "verify"]

_NS = 1_000_000_000
LONGEST_NIGHT_H = 24.0
ALTITUDE_TOLERANCE_DEG = 0.1
"""The grid and astroplan may differ by UT1 and aberration."""
MOON_TOLERANCE_DEG = 0.5
MOST_CHECKED = 12
"""So many items are checked by astroplan when a plan is made (some 80 ms each); the others when they come nearer, or by `verify`."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A request with what its item in the plan will say."""

    request: Request
    target_id: str
    exposure_s: float
    n_exposures: int
    rank: int
    superevent_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A night's plan."""

    items: tuple[PlanItem, ...]
    rejected: tuple[dict[str, str], ...]
    """{item_id, name, reason} of each request that has no place."""
    value: float
    bound: float
    document: bytes


def make_plan(
    wanted: Sequence[Wanted],
    *,
    night: str,
    site: Site,
    limits: Limits,
    start_ns: int,
    slew_s: float,
    urgency_per_h: float,
    before: Sequence[str] = (),
) -> Plan:
    """From `start_ns` to the end of the next darkness. `before`: item ids of the previous plan in order, offered as a start."""
    # Sorted at the door: the order of the input must not change the plan.
    wanted = sorted(wanted, key=lambda one: one.request.item_id)
    requests = [one.request for one in wanted]
    sky = look(site, requests, start_ns, start_ns + round(LONGEST_NIGHT_H * 3600 * _NS))
    sky = _until_dawn(sky, limits)
    starts = feasible_starts(observable(sky, limits), [one.block_s for one in requests])
    worth = _worth(sky, requests, starts, urgency_per_h)
    group = [one.group for one in requests]
    transition = np.array([[0.0 if a == b else slew_s for b in group] for a in group]).reshape(len(group), len(group))
    order = {item_id: n for n, item_id in enumerate(one.item_id for one in requests)}
    problem = Problem(worth, np.array([one.block_s for one in requests]), transition, np.full(len(requests), slew_s))
    schedule = solve(problem, before=[order[item_id] for item_id in before if item_id in order])
    items: list[PlanItem] = []
    rejected: dict[str, str] = {}
    for item, cell in zip(schedule.items, schedule.cells, strict=True):
        made = _item(wanted[item], sky, item, cell, worth)
        problem_text = astroplan_disagrees(made, site, limits) if len(items) < MOST_CHECKED else ""
        if problem_text:
            rejected[made.item_id] = f"astroplan disagrees: {problem_text}"
        else:
            items.append(made)
    for n, one in enumerate(requests):
        if n not in schedule.items:
            left_out = "others are worth more in the time that it needs"
            rejected[one.item_id] = left_out if starts[n].any() else why_not(sky, limits, n, one.block_s)
    told = tuple({"item_id": one.item_id, "name": one.name, "reason": rejected[one.item_id]} for one in requests if one.item_id in rejected)
    document = {
        "format": "nightbell-plan-2",
        "night": night,
        "made_utc": format_utc(start_ns),
        "site": msgspec.to_builtins(site),
        "limits": {field: getattr(limits, field) for field in Limits.__dataclass_fields__},
        "slew_s": slew_s,
        "urgency_per_h": urgency_per_h,
        "requests": [{field: getattr(one, field) for field in Request.__dataclass_fields__} for one in requests],
        "items": msgspec.to_builtins(tuple(items)),
        "rejected": told,
        "value": schedule.value,
        "bound": schedule.bound,
        "price_per_cell": [round(float(price), 12) for price in schedule.price],
        "checked_by": "astroplan",
    }
    return Plan(
        items=tuple(items),
        rejected=told,
        value=schedule.value,
        bound=schedule.bound,
        document=msgspec.json.format(msgspec.json.encode(document), indent=1),
    )


def _until_dawn(sky: Sky, limits: Limits) -> Sky:
    """The grid cut at the end of the first darkness: a plan is for one night."""
    dark = sky.sun_altitude_deg <= limits.sun_max_deg
    if not dark.any():
        return sky
    first = int(dark.argmax())
    light = np.flatnonzero(~dark[first:])
    end = first + int(light[0]) + 1 if light.size else len(dark)
    return Sky(sky.times_ns[:end], sky.sun_altitude_deg[:end], sky.altitude_deg[:, :end], sky.moon_separation_deg[:, :end])


def _worth(sky: Sky, requests: Sequence[Request], starts: Any, urgency_per_h: float) -> Any:
    middle = np.empty_like(sky.airmass)
    for i, one in enumerate(requests):
        half = cells_of(one.block_s / 2)
        middle[i] = np.roll(sky.airmass[i], -half)
    weights = np.array([one.weight for one in requests])
    filters = [one.filter for one in requests]
    return values(weights, middle, filters, starts, cell_h=CELL_S / 3600, urgency_per_h=urgency_per_h)


def _item(one: Wanted, sky: Sky, i: int, cell: int, worth: Any) -> PlanItem:
    request = one.request
    start_ns = int(sky.times_ns[cell])
    airmass = float(sky.airmass[i, cell])
    possible = np.flatnonzero(worth[i] > 0)
    window = f"could begin from {format_utc(int(sky.times_ns[possible[0]]), digits=0)[11:16]} to "
    window += format_utc(int(sky.times_ns[possible[-1]]), digits=0)[11:16]
    when = "as early as it can" if cell <= possible[0] + 1 else "where the night is worth most with all others"
    return PlanItem(
        item_id=request.item_id,
        target_id=one.target_id,
        name=request.name,
        ra_deg=request.ra_deg,
        dec_deg=request.dec_deg,
        filter=request.filter,
        exposure_s=one.exposure_s,
        n_exposures=one.n_exposures,
        start_utc=format_utc(start_ns),
        end_utc=format_utc(start_ns + round(request.block_s * _NS)),
        value=float(worth[i, cell]),
        altitude_deg=round(float(sky.altitude_deg[i, cell]), 3),
        airmass=round(airmass, 4) if math.isfinite(airmass) else None,
        moon_separation_deg=round(float(sky.moon_separation_deg[i, cell]), 2),
        superevent_id=one.superevent_id,
        reason=f"rank {one.rank}, weight {request.weight:.3g}; {window} UTC, begins {when}",
    )


def astroplan_disagrees(item: PlanItem, site: Site, limits: Limits) -> str:
    """What astroplan has against an item, in words; empty when it is content. Judged at its start, middle and end."""
    start_ns, end_ns = parse_utc(item.start_utc), parse_utc(item.end_utc)
    times = Time(np.linspace(start_ns, end_ns, 3) / 1e9, format="unix")
    # A fresh observer for every target: astroplan's cache knows a target by its right ascension alone.
    location = EarthLocation.from_geodetic(site.longitude_deg * u.deg, site.latitude_deg * u.deg, site.elevation_m * u.m)
    observer = Observer(location=location, timezone="UTC")
    target = FixedTarget(coord=SkyCoord(item.ra_deg * u.deg, item.dec_deg * u.deg), name=item.name)
    lowest, highest = limits.altitude_min_deg - ALTITUDE_TOLERANCE_DEG, limits.altitude_max_deg + ALTITUDE_TOLERANCE_DEG
    checks = {
        f"altitude outside {lowest:g} to {highest:g} deg": AltitudeConstraint(min=lowest * u.deg, max=highest * u.deg),
        f"the Sun is above {limits.sun_max_deg:g} deg": AtNightConstraint(max_solar_altitude=(limits.sun_max_deg + 0.1) * u.deg),
        f"nearer to the Moon than {limits.moon_separation_min_deg:g} deg": MoonSeparationConstraint(
            min=max(0.0, limits.moon_separation_min_deg - MOON_TOLERANCE_DEG) * u.deg
        ),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # origin mismatches and old Earth-orientation tables: far below the tolerances
        wrong = [text for text, check in checks.items() if not bool(np.all(check(observer, target, times=times)))]
    return "; ".join(wrong)


def verify(document: Mapping[str, Any] | bytes) -> dict[str, Any]:
    """Prove a plan from its document alone: {ok, items, value, bound, gap, faults: [text]}. Raises `BadInput` for what is no plan."""
    told = msgspec.json.decode(document) if isinstance(document, bytes) else dict(document)
    if told.get("format") != "nightbell-plan-2":
        raise BadInput(f"format {told.get('format')!r}", where="plan: format", remedy="Give a plan that this version has made")
    site, limits = msgspec.convert(told["site"], Site), Limits(**told["limits"])
    requests = {one["item_id"]: Request(**one) for one in told["requests"]}
    items = [msgspec.convert(one, PlanItem) for one in told["items"]]
    faults: list[str] = []
    for a, b in itertools.pairwise(items):
        free_ns = parse_utc(b.start_utc) - parse_utc(a.end_utc)
        same = requests[a.item_id].group == requests[b.item_id].group
        if free_ns < (0 if same else round(told["slew_s"] * _NS)):
            faults.append(f"{b.name} begins {free_ns / 1e9:.0f} s after the end of {a.name}: too early")
    for item in items:
        problem = astroplan_disagrees(item, site, limits)
        if problem:
            faults.append(f"{item.name} at {item.start_utc}: {problem}")
    names = {item.item_id for item in items}
    if len(names) != len(items):
        faults.append("an item is planned twice")
    faults += [
        f"{item_id} is neither planned nor rejected" for item_id in requests.keys() - names - {r["item_id"] for r in told["rejected"]}
    ]
    value, bound = sum(item.value for item in items), float(told["bound"])
    proved = _bound_again(told, site, limits, list(requests.values()))
    if proved < value * (1 - 1e-6):
        faults.append(f"the worth {value:.6g} exceeds the bound {proved:.6g} that its prices prove")
    gap = 1 - value / proved if proved > 0 else 0.0
    return {"ok": not faults, "items": len(items), "value": value, "bound": bound, "proved_bound": proved, "gap": gap, "faults": faults}


def _bound_again(told: Mapping[str, Any], site: Site, limits: Limits, requests: list[Request]) -> float:
    """The bound from the document's prices: one pass over items and cells."""
    start_ns = parse_utc(told["made_utc"])
    sky = _until_dawn(look(site, requests, start_ns, start_ns + round(LONGEST_NIGHT_H * 3600 * _NS)), limits)
    starts = feasible_starts(observable(sky, limits), [one.block_s for one in requests])
    worth = _worth(sky, requests, starts, float(told["urgency_per_h"]))
    price = np.asarray(told["price_per_cell"], dtype=np.float64)
    if len(price) != worth.shape[1]:
        return math.inf
    cells = np.maximum(1, np.ceil(np.array([one.block_s for one in requests]) / CELL_S - 1e-9)).astype(np.int64)
    return bound_of(worth, cells, price)
