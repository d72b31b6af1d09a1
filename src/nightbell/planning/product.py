"""The plan as items with reasons; and its check by astroplan, which shares no code with the grid that made it.

A plan is a JSON document (`PlanDocument`) holding what it was made of, what was left out and why, its worth, and the bound that no
plan of these requests can exceed; `verify` proves an old plan again from the document alone.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Sequence
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
from nightbell.planning.bound import bound_of, least_cells
from nightbell.planning.constraints import CELL_S, Limits, Request, Sky, cells_of, feasible_starts, look, observable, why_not
from nightbell.planning.kernel import Problem, Schedule, solve
from nightbell.planning.packing import LONGEST_WAIT_CELLS
from nightbell.planning.value import values
from nightbell.sky.offline import stay_offline

__all__ = ["Plan", "PlanDocument", "Rejected", "Wanted", "astroplan_disagrees", "make_plan", "read_plan", "verify"]

FORMAT = "nightbell-plan-3"

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


class Rejected(msgspec.Struct, frozen=True, kw_only=True):
    """A request that has no place in the plan."""

    item_id: str
    name: str
    filter: str
    code: str
    """bad_value, never_up, constraint:NAME, window_too_short, checker, outpriced, no_room."""
    reason: str


class PlanDocument(msgspec.Struct, frozen=True, kw_only=True):
    """A plan as it stands in its file: everything that its proof needs."""

    format: str
    night: str
    made_utc: str
    site: Site
    limits: Limits
    slew_s: float
    urgency_per_h: float
    requests: tuple[Request, ...]
    items: tuple[PlanItem, ...]
    rejected: tuple[Rejected, ...]
    value: float
    bound: float
    price_per_cell: tuple[float, ...]
    checked_by: str

    def __post_init__(self) -> None:
        """Raises ValueError, which decoding names with its place."""
        parse_utc(self.made_utc, where="made_utc")
        known = {one.item_id for one in self.requests}
        for item in self.items:
            parse_utc(item.start_utc, where=f"{item.item_id}: start_utc")
            parse_utc(item.end_utc, where=f"{item.item_id}: end_utc")
            if item.item_id not in known:
                raise ValueError(f"items: {item.item_id!r} is none of the requests")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A night's plan."""

    items: tuple[PlanItem, ...]
    rejected: tuple[Rejected, ...]
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
    everything = sorted(wanted, key=lambda one: one.request.item_id)
    wanted = [one for one in everything if not _bad_value(one.request)]
    rejected = {one.request.item_id: ("bad_value", words) for one in everything if (words := _bad_value(one.request))}
    requests = [one.request for one in wanted]
    sky, starts, worth = _grid(site, requests, limits, start_ns, urgency_per_h)
    transition = _transitions_s(requests, slew_s)
    order = {item_id: n for n, item_id in enumerate(one.item_id for one in requests)}
    problem = Problem(worth, np.array([one.block_s for one in requests]), transition, np.full(len(requests), slew_s))
    schedule = solve(problem, before=[order[item_id] for item_id in before if item_id in order])
    items: list[PlanItem] = []
    for item, cell in zip(schedule.items, schedule.cells, strict=True):
        made = _item(wanted[item], sky, item, cell, worth)
        problem_text = astroplan_disagrees(made, site, limits) if len(items) < MOST_CHECKED else ""
        if problem_text:
            rejected[made.item_id] = ("checker", f"astroplan disagrees: {problem_text}")
        else:
            items.append(made)
    for n, one in enumerate(requests):
        if n not in schedule.items:
            rejected[one.item_id] = _left_out(n, problem, schedule, items) if starts[n].any() else why_not(sky, limits, n, one.block_s)
    told = tuple(
        Rejected(item_id=one.item_id, name=one.name, filter=one.filter, code=rejected[one.item_id][0], reason=rejected[one.item_id][1])
        for one in (any_one.request for any_one in everything)
        if one.item_id in rejected
    )
    document = PlanDocument(
        format=FORMAT,
        night=night,
        made_utc=format_utc(start_ns),
        site=site,
        limits=limits,
        slew_s=slew_s,
        urgency_per_h=urgency_per_h,
        requests=tuple(requests),
        items=tuple(items),
        rejected=told,
        value=schedule.value,
        bound=schedule.bound,
        price_per_cell=tuple(round(float(price), 12) for price in schedule.price),
        checked_by="astroplan",
    )
    return Plan(
        items=tuple(items),
        rejected=told,
        value=schedule.value,
        bound=schedule.bound,
        document=msgspec.json.format(msgspec.json.encode(document), indent=1),
    )


def _bad_value(request: Request) -> str:
    """What is wrong with a request's own numbers, in words; empty: nothing."""
    if not (math.isfinite(request.weight) and request.weight >= 0):
        return f"its weight is {request.weight:g}: probability and priority must be 0 or more"
    if not (math.isfinite(request.block_s) and request.block_s > 0):
        return f"it would take {request.block_s:g} s: exposure time and number of exposures must be more than 0"
    return ""


def _transitions_s(requests: Sequence[Request], slew_s: float) -> Any:
    """(N, N): a slew between any two that do not belong together."""
    group = np.array([one.group for one in requests])
    return np.where(group[:, None] == group[None, :], 0.0, slew_s)


def _left_out(n: int, problem: Problem, schedule: Schedule, items: Sequence[PlanItem]) -> tuple[str, str]:
    """(code, words) of a request that could be observed and is not in the plan: what its time is worth to the others."""
    cells = int(least_cells(problem.block_s, problem.transition_s)[n])
    total = np.concatenate([[0.0], np.cumsum(schedule.price)])
    at = np.arange(problem.value.shape[1])
    cost = total[np.minimum(at + cells, len(at))] - total[at]
    reduced = np.where(problem.value[n] > 0, problem.value[n] - cost, -np.inf)
    best = int(reduced.argmax())
    worth, price = float(problem.value[n, best]), float(cost[best])
    if reduced[best] <= 0:
        return "outpriced", f"it is worth {worth:.3g}, its time at least {price:.3g} to the others"
    beside = [one.name for one, cell in zip(items, schedule.cells, strict=False) if abs(cell - best) <= cells + LONGEST_WAIT_CELLS]
    among = f" among {', '.join(dict.fromkeys(beside[:2]))}" if beside else ""
    return "no_room", f"it is worth {worth:.3g}, more than its time ({price:.3g}), and fits into no gap{among}"


def _grid(site: Site, requests: Sequence[Request], limits: Limits, start_ns: int, urgency_per_h: float) -> tuple[Sky, Any, Any]:
    """(sky, where each may begin, what it is worth then) from `start_ns` to the end of the first darkness."""
    sky = _until_dawn(look(site, requests, start_ns, start_ns + round(LONGEST_NIGHT_H * 3600 * _NS)), limits)
    starts = feasible_starts(observable(sky, limits), [one.block_s for one in requests])
    return sky, starts, _worth(sky, requests, starts, urgency_per_h)


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
    stay_offline()
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


def read_plan(told: bytes | dict[str, Any], *, where: str = "plan") -> PlanDocument:
    """A plan from its file. Raises `BadInput` naming the field that is wrong."""
    remedy = "Give a file made by `nightbell plan make`"
    try:
        rough = msgspec.json.decode(told) if isinstance(told, bytes) else told
    except msgspec.DecodeError as error:
        raise BadInput(f"is no JSON: {error}", where=where, remedy=remedy) from error
    if not isinstance(rough, dict) or rough.get("format") != FORMAT:
        found = repr(rough.get("format")) if isinstance(rough, dict) else "no JSON object"
        raise BadInput(f"{found} is not {FORMAT}", where=f"{where}: format", remedy=remedy)
    try:
        return msgspec.convert(rough, PlanDocument)
    except msgspec.ValidationError as error:
        raise BadInput(str(error), where=where, remedy="Mend the field it names, or make the plan again") from error
    except BadInput as error:
        raise BadInput(error.what, where=f"{where}: {error.where}", remedy=error.remedy) from error


def verify(told: PlanDocument) -> dict[str, Any]:
    """Prove a plan from its document alone: {ok, items, value, bound, proved_bound, gap, faults: [text]}."""
    requests = {one.item_id: one for one in told.requests}
    faults: list[str] = []
    for a, b in itertools.pairwise(told.items):
        free_ns = parse_utc(b.start_utc) - parse_utc(a.end_utc)
        same = requests[a.item_id].group == requests[b.item_id].group
        if free_ns < (0 if same else round(told.slew_s * _NS)):
            faults.append(f"{b.name} begins {free_ns / 1e9:.0f} s after the end of {a.name}: too early")
    for item in told.items:
        problem = astroplan_disagrees(item, told.site, told.limits)
        if problem:
            faults.append(f"{item.name} at {item.start_utc}: {problem}")
        if parse_utc(item.end_utc) - parse_utc(item.start_utc) < round(requests[item.item_id].block_s * _NS) - 1_000_000:
            faults.append(f"{item.name} at {item.start_utc}: shorter than the {requests[item.item_id].block_s:.0f} s that it takes")
    names = {item.item_id for item in told.items}
    if len(names) != len(told.items):
        faults.append("an item is planned twice")
    faults += [f"{item_id} is neither planned nor rejected" for item_id in requests.keys() - names - {one.item_id for one in told.rejected}]
    value, proved = sum(item.value for item in told.items), _bound_again(told)
    if proved < value * (1 - 1e-6):
        faults.append(f"the worth {value:.6g} exceeds the bound {proved:.6g} that its prices prove")
    gap = 1 - value / proved if proved > 0 else 0.0
    answer = {"ok": not faults, "items": len(told.items), "value": value, "bound": told.bound}
    return {**answer, "proved_bound": proved, "gap": gap, "faults": faults}


def _bound_again(told: PlanDocument) -> float:
    """The bound from the document's prices: one pass over items and cells. Infinity when the prices are not of this night."""
    _, _, worth = _grid(told.site, told.requests, told.limits, parse_utc(told.made_utc), told.urgency_per_h)
    price = np.asarray(told.price_per_cell, dtype=np.float64)
    if len(price) != worth.shape[1] or not np.all(price >= 0):
        return math.inf
    cells = least_cells(np.array([one.block_s for one in told.requests]), _transitions_s(told.requests, told.slew_s))
    return bound_of(worth, cells, price)
