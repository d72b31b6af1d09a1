"""Target lists and what has been observed of them -> the plan of what is left.

What was observed is counted in frames, so a plan made again after a restart repeats nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nightbell.contracts.records import PlanItem, Site, Target
from nightbell.contracts.states import FrameType
from nightbell.planning.constraints import Limits
from nightbell.planning.constraints import Request as PlanRequest
from nightbell.planning.product import Wanted, make_plan
from nightbell.telescope.activities.office import Counts
from nightbell.telescope.settings import TelescopeSettings

__all__ = ["PlanMade", "Request", "open_requests", "plan_night"]


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
    lists: Mapping[str, tuple[Target, ...]],
    counts: Counts,
    *,
    night: str,
    now_ns: int,
    site: Site,
    settings: TelescopeSettings,
    before: Sequence[str] = (),
) -> PlanMade:
    """From `now_ns` to dawn: what is left of the lists, in the order and at the times that are worth most.

    `before`: item ids of the plan in force, so that a new plan is never worse than keeping to it.
    """
    lights, limits = settings.lights, settings.night
    wanted = [
        Wanted(
            request=PlanRequest(
                item_id=one.item_id,
                group=one.target.target_id,
                name=one.target.name,
                ra_deg=one.target.ra_deg,
                dec_deg=one.target.dec_deg,
                filter=one.filter,
                block_s=(one.n_wanted - one.n_done) * (one.exposure_s + lights.overhead_s),
                weight=one.value,
            ),
            target_id=one.target.target_id,
            exposure_s=one.exposure_s,
            n_exposures=one.n_wanted,
            rank=one.target.rank,
            superevent_id=one.superevent_id,
        )
        for one in open_requests(lists, counts, settings)
    ]
    plan = make_plan(
        wanted,
        night=night,
        site=site,
        limits=Limits(
            sun_max_deg=limits.dark_sun_deg,
            altitude_min_deg=limits.altitude_min_deg,
            altitude_max_deg=limits.altitude_max_deg,
            moon_separation_min_deg=limits.moon_separation_min_deg,
        ),
        start_ns=now_ns,
        slew_s=lights.slew_s,
        urgency_per_h=lights.urgency_per_h,
        before=before,
    )
    return PlanMade(items=plan.items, product=plan.document, n_rejected=len(plan.rejected), value=plan.value, bound=plan.bound)
