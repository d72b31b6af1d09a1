"""Target lists and what has been observed of them -> the plan of what is left.

What was observed is counted in frames, so a plan made again after a restart repeats nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from nightbell.contracts.instants import format_utc
from nightbell.contracts.records import PlanItem, Site, Target
from nightbell.contracts.states import FrameType
from nightbell.telescope.activities import Counts
from nightbell.telescope.settings import TelescopeSettings
from nightbell.telescope.sky_view import SkyView

__all__ = ["PlanMade", "Request", "open_requests", "plan_night"]

STEP_S = 300.0
_NS = 1_000_000_000


@dataclass(frozen=True, kw_only=True)
class Request:
    """One target in one filter, as far as it is still wanted."""

    target: Target
    superevent_id: str
    filter: str
    exposure_s: float
    n_wanted: int
    n_done: int

    @property
    def item_id(self) -> str:
        return f"{self.superevent_id}/{self.target.target_id}/{self.filter}"

    @property
    def value(self) -> float:
        """What one visit is worth: the chance that this is the host, weighted by the sender's priority."""
        chance = self.target.p_host if self.target.p_host is not None else 1.0 / self.target.rank
        return chance * self.target.priority


@dataclass(frozen=True, kw_only=True)
class PlanMade:
    """A plan and its file."""

    items: tuple[PlanItem, ...]
    product: bytes
    n_rejected: int
    value: float
    bound: float | None


def open_requests(lists: Mapping[str, tuple[Target, ...]], counts: Counts, settings: TelescopeSettings) -> tuple[Request, ...]:
    """Target and filter that still lack frames, best first; a target that several superevents name is wanted once."""
    lights = settings.lights
    requests: dict[tuple[str, str], Request] = {}
    for superevent_id, targets in lists.items():
        for target in sorted(targets, key=lambda one: one.rank)[: lights.max_targets]:
            for name in target.filters or lights.filters:
                wanted = target.n_exposures or lights.n_exposures
                done = counts.of(FrameType.LIGHT, filter_name=name, target_id=target.target_id)
                request = Request(
                    target=target,
                    superevent_id=superevent_id,
                    filter=name,
                    exposure_s=target.exposure_s or lights.exposure_s,
                    n_wanted=wanted,
                    n_done=done,
                )
                known = requests.get((target.target_id, name))
                if done < wanted and (known is None or request.value > known.value):
                    requests[target.target_id, name] = request
    # All filters of one target follow each other: turning a wheel is quicker than turning a dome.
    best = {request.target.target_id: 0.0 for request in requests.values()}
    for request in requests.values():
        best[request.target.target_id] = max(best[request.target.target_id], request.value)
    return tuple(
        sorted(requests.values(), key=lambda one: (-best[one.target.target_id], one.target.rank, one.target.target_id, one.filter))
    )


def plan_night(
    lists: Mapping[str, tuple[Target, ...]], counts: Counts, *, night: str, now_ns: int, site: Site, settings: TelescopeSettings
) -> PlanMade:
    """From `now_ns` to dawn: at each moment the best request that can be observed then; what never can is rejected with why."""
    sky, limits = SkyView(site), settings.night
    left = list(open_requests(lists, counts, settings))
    reasons: dict[str, str] = {}
    items: list[PlanItem] = []
    at_ns, last_target = now_ns, ""
    was_dark = False
    while left and at_ns < now_ns + 86_400 * _NS:
        sun_deg = sky.sun_altitude_deg(at_ns)
        if sun_deg > limits.dark_sun_deg:
            if was_dark:
                break
            at_ns += round(STEP_S * _NS)
            continue
        was_dark = True
        chosen = None
        for request in left:
            why_not, item = _fit(request, at_ns, sky, settings, new_target=request.target.target_id != last_target)
            if item is not None:
                chosen = request, item
                break
            reasons[request.item_id] = why_not
        if chosen is None:
            at_ns += round(STEP_S * _NS)
            continue
        request, item = chosen
        items.append(item)
        left.remove(request)
        last_target = request.target.target_id
        at_ns += round(_length_s(request, settings, new_target=True) * _NS)
    rejected = [{"item_id": one.item_id, "name": one.target.name, "reason": reasons.get(one.item_id, "no night is left")} for one in left]
    product = {
        "format": "nightbell-plan-1",
        "night": night,
        "made_utc": format_utc(now_ns),
        "site": msgspec.to_builtins(site),
        "items": msgspec.to_builtins(tuple(items)),
        "rejected": rejected,
    }
    return PlanMade(
        items=tuple(items),
        product=msgspec.json.format(msgspec.json.encode(product), indent=1),
        n_rejected=len(rejected),
        value=round(sum(item.value for item in items), 6),
        bound=None,
    )


def _length_s(request: Request, settings: TelescopeSettings, *, new_target: bool) -> float:
    lights = settings.lights
    n = request.n_wanted - request.n_done
    return n * (request.exposure_s + lights.overhead_s) + (lights.slew_s if new_target else 0.0)


def _fit(request: Request, at_ns: int, sky: SkyView, settings: TelescopeSettings, *, new_target: bool) -> tuple[str, PlanItem | None]:
    """("", item) when `request` can be observed from `at_ns` on, else (why not, None)."""
    limits, target = settings.night, request.target
    start_ns = at_ns + round((settings.lights.slew_s if new_target else 0.0) * _NS)
    end_ns = at_ns + round(_length_s(request, settings, new_target=new_target) * _NS)
    places = [sky.place(target.ra_deg, target.dec_deg, when) for when in (start_ns, end_ns)]
    lowest, highest = min(place.altitude_deg for place in places), max(place.altitude_deg for place in places)
    if lowest < limits.altitude_min_deg:
        return f"altitude {lowest:.1f} deg is below {limits.altitude_min_deg:g}", None
    if highest > limits.altitude_max_deg:
        return f"altitude {highest:.1f} deg is above {limits.altitude_max_deg:g}", None
    if sky.sun_altitude_deg(end_ns) > limits.dark_sun_deg:
        return "it would not end before dawn", None
    moon = sky.moon(target.ra_deg, target.dec_deg, start_ns)
    if moon.separation_deg < limits.moon_separation_min_deg:
        return f"the Moon is {moon.separation_deg:.0f} deg away", None
    return "", PlanItem(
        item_id=request.item_id,
        target_id=target.target_id,
        name=target.name,
        ra_deg=target.ra_deg,
        dec_deg=target.dec_deg,
        filter=request.filter,
        exposure_s=request.exposure_s,
        n_exposures=request.n_wanted,
        start_utc=format_utc(start_ns),
        end_utc=format_utc(end_ns),
        value=request.value,
        altitude_deg=round(places[0].altitude_deg, 3),
        airmass=round(places[0].airmass, 4) if places[0].airmass is not None else None,
        moon_separation_deg=moon.separation_deg,
        superevent_id=request.superevent_id,
        reason=f"rank {target.rank}, the most valuable that can be observed then",
    )
