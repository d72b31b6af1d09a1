"""Lists for observatories: who looks at what, each with its reason.

Several observatories share the sky and observe at the same time, so they choose in turns: the one with the fewest targets takes
its best P x V, and that target is then worth (1 - V) of what it was to the others. So two sites do not both begin with the same
galaxy, neither waits while the other does everything, and a second one still helps where the first can hardly see it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nightbell.alerts.ranking import Ranking
from nightbell.alerts.settings import AlertsSettings, ObservatorySettings
from nightbell.alerts.visibility import Visibility, visibility_of
from nightbell.contracts.instants import format_utc
from nightbell.contracts.records import Alert, Site, Target

__all__ = ["observatories_of", "split", "targets_of"]

WORTH_NOTHING = 1e-9


@dataclass(frozen=True)
class _Wish:
    """A galaxy or a tile, before anyone is asked to look at it."""

    target_id: str
    name: str
    ra_deg: float
    dec_deg: float
    probability: float
    dist_mpc: float | None
    level_2d: float | None
    level_3d: float | None
    why: str


def observatories_of(settings: AlertsSettings, site: Site) -> dict[str, ObservatorySettings]:
    """Who gets targets: the configured observatories, else the installation's own site."""
    if settings.observatories:
        return dict(settings.observatories)
    own = ObservatorySettings(latitude_deg=site.latitude_deg, longitude_deg=site.longitude_deg, elevation_m=site.elevation_m)
    return {site.name: own}


def targets_of(
    observatories: Mapping[str, ObservatorySettings],
    alert: Alert,
    ranking: Ranking,
    tiles: Sequence[Mapping[str, float]],
    *,
    now_ns: int,
    priority: float = 50.0,
) -> dict[str, tuple[Target, ...]]:
    """A list for each observatory: galaxies, or tiles when the catalogue does not reach that far; only what it can observe."""
    by_tiles = bool(ranking.beyond_catalog and tiles)
    wishes = _tiles(alert, tiles) if by_tiles else _galaxies(alert, ranking)
    if not wishes:
        return dict.fromkeys(observatories, ())
    ra, dec = np.array([one.ra_deg for one in wishes]), np.array([one.dec_deg for one in wishes])
    seen: dict[str, list[Visibility]] = {}
    for name, observatory in observatories.items():
        site = Site(
            name=name, latitude_deg=observatory.latitude_deg, longitude_deg=observatory.longitude_deg, elevation_m=observatory.elevation_m
        )
        seen[name] = visibility_of(site, observatory, ra, dec, now_ns=now_ns)
    shares = {name: [one.share for one in found] for name, found in seen.items()}
    order = split([one.probability for one in wishes], shares)
    return {
        name: tuple(
            _target(rank, wishes[i], seen[name][i], observatory, priority / 50.0)
            for rank, i in enumerate(
                [i for i in order[name] if by_tiles or wishes[i].probability >= observatory.p_host_min][: observatory.targets_max], start=1
            )
        )
        for name, observatory in observatories.items()
    }


def split(probability: Sequence[float], share: Mapping[str, Sequence[float]]) -> dict[str, list[int]]:
    """For each observatory the targets in the order it should take them; ties by observatory's name, then by place in the list."""
    worth = {name: [p * v for p, v in zip(probability, shares, strict=True)] for name, shares in share.items()}
    taken: dict[str, list[int]] = {name: [] for name in share}
    # With one observatory nothing interacts: sorting is the same, and faster.
    if len(share) == 1:
        (name,) = share
        return {name: sorted((i for i, w in enumerate(worth[name]) if w > 0), key=lambda i: (-worth[name][i], i))}
    left = {name: {i for i, w in enumerate(worth[name]) if w > WORTH_NOTHING} for name in share}
    while choosing := [name for name in share if left[name]]:
        best = {name: min(left[name], key=lambda i: (-worth[name][i], i)) for name in choosing}
        name = min(choosing, key=lambda one: (len(taken[one]), -worth[one][best[one]], one))
        i = best[name]
        taken[name].append(i)
        left[name].discard(i)
        for other in share:
            worth[other][i] *= 1 - share[name][i]
            if worth[other][i] <= WORTH_NOTHING:
                left[other].discard(i)
    return taken


def _galaxies(alert: Alert, ranking: Ranking) -> list[_Wish]:
    return [
        _Wish(
            f"{alert.superevent_id}-{one.name}",
            one.name,
            one.ra_deg,
            one.dec_deg,
            one.p_host,
            one.dist_mpc,
            one.credible_level_2d,
            one.credible_level_3d,
            f"host with p = {one.p_host:.3f} (rank {one.rank} of {ranking.n_scored}, at {one.dist_mpc:.0f} Mpc)",
        )
        for one in ranking.galaxies
    ]


def _tiles(alert: Alert, tiles: Sequence[Mapping[str, float]]) -> list[_Wish]:
    return [
        _Wish(
            f"{alert.superevent_id}-T{i:03d}",
            f"tile {i}",
            tile["ra_deg"],
            tile["dec_deg"],
            tile["probability"],
            None,
            None,
            None,
            f"field holds {100 * tile['probability']:.2g} % of the map",
        )
        for i, tile in enumerate(tiles, 1)
    ]


def _target(rank: int, wish: _Wish, seen: Visibility, observatory: ObservatorySettings, priority: float) -> Target:
    return Target(
        target_id=wish.target_id,
        name=wish.name,
        ra_deg=wish.ra_deg,
        dec_deg=wish.dec_deg,
        rank=rank,
        p_host=min(1.0, wish.probability),
        dist_mpc=wish.dist_mpc,
        credible_level_2d=wish.level_2d,
        credible_level_3d=wish.level_3d,
        visibility=seen.share,
        observable_from_utc=None if seen.from_ns is None else format_utc(seen.from_ns, digits=0),
        observable_until_utc=None if seen.until_ns is None else format_utc(seen.until_ns, digits=0),
        priority=priority,
        exposure_s=observatory.exposure_s,
        n_exposures=observatory.n_exposures,
        filters=observatory.filters,
        why=f"{wish.why}; {seen.reason}",
    )
