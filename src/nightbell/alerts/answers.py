"""The whole chain as one call: a notice explained, a notice ranked. What `nightbell alert` prints, and scripts may call."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from nightbell.alerts.cones import cone_map
from nightbell.alerts.notices.guards import shown
from nightbell.alerts.notices.notice import Notice
from nightbell.alerts.policy import Decision, Policy, operands_of
from nightbell.alerts.ranking import as_json, rank_galaxies
from nightbell.alerts.skymap import SkyMap
from nightbell.alerts.skymap_file import parse_skymap, read_skymap
from nightbell.alerts.tiles import smallest_field_deg, tile_map
from nightbell.contracts.errors import BadInput, NightbellError
from nightbell.contracts.instants import parse_utc
from nightbell.contracts.records import Alert

__all__ = ["Judgement", "as_alert_json", "explain", "judge", "rank", "skymap_of"]

MS = 1e3


@dataclass(frozen=True)
class Judgement:
    """What is to be done about one notice, and every reason."""

    decision: str
    """accept, watch (both: would be followed or watched), ignore, store, drill."""
    rule: str
    reasons: tuple[str, ...]
    policy: Decision


def skymap_of(notice: Notice, skymap_file: Path | None = None, *, where: str) -> tuple[SkyMap | None, Notice]:
    """(`SkyMap` or None, the notice with the map's digest). A named file wins; then a combined map; then the plain one.

    A broken combined map falls back to the plain one with a warning. Raises `BadInput` when no map that is there can be read.
    """
    warnings = list(notice.warnings)
    sky: SkyMap | None = None
    if skymap_file is not None:
        sky = read_skymap(skymap_file)
    else:
        broken: NightbellError | None = None
        for name, data in (("external_coinc.combined_skymap", notice.combined_skymap), ("event.skymap", notice.skymap)):
            if data is None:
                continue
            try:
                sky = parse_skymap(data, where=f"{where}: {name}")
                break
            except BadInput as error:
                broken = error
                warnings.append(str(error))
                if data is notice.combined_skymap:
                    notice = replace(notice, combined_skymap=None)  # whoever stores "the map" must not store this one
        if sky is None and broken is not None:
            raise broken
        if sky is None and notice.cone is not None:
            sky = cone_map(notice.cone)
            warnings.append(f"{where}: no sky map; made from the position with a 90 % radius of {notice.cone.radius_90_deg:.3g} deg")
    if sky is None:
        return None, notice
    changes: dict[str, Any] = {"skymap_sha256": sky.digest, "skymap_url": None}
    return sky, replace(notice.with_alert(**changes), warnings=(*warnings, *sky.warnings))


def judge(notice: Notice, policy: Policy, *, sky: Any = None, now_ns: int | None = None, in_catalogue: float | None = None) -> Judgement:
    """The decision. A drill is a drill before any rule is asked; what the rules would have said stays visible."""
    alert = notice.alert
    age_h = None
    if now_ns is not None and alert.time_utc is not None:
        age_h = (now_ns - parse_utc(alert.time_utc)) / 3.6e12
    found = policy.decide(operands_of(alert, skymap=_map_operands(sky, in_catalogue), age_h=age_h, extra=notice.extra))
    said = [f"{name}: {word}" for name, word in notice.witnesses.as_dict().items() if word.startswith("drill")]
    if alert.drill:
        return Judgement("drill", "drill", (*said, f"a real one would be: {found.action} ({found.rule})"), found)
    if alert.kind == "retraction":
        return Judgement("store", "retraction", ("its senders withdraw the event; targets that are out are withdrawn",), found)
    if notice.witnesses.archive:
        reason = "its id is of an archived run: never acted on by itself; `nightbell alert submit --confirm` replays it"
        return Judgement("store", "archive", (reason, f"a live one would be: {found.action} ({found.rule})"), found)
    decision = {"follow": "accept", "watch": "store", "ignore": "ignore"}[found.action]
    return Judgement(decision, found.rule, found.reasons, found)


def _map_operands(sky: Any, in_catalogue: float | None) -> dict[str, float | None]:
    if sky is None:
        return {}
    quantiles = sky.distance_quantiles() if sky.has_distance else (None, None, None)
    return {
        "a50_deg2": sky.area_deg2(0.5),
        "a90_deg2": sky.area_deg2(0.9),
        "dist_mpc": sky.distance_mean_mpc,
        "dist_std": sky.distance_std_mpc,
        "distance_quantile_5": quantiles[0],
        "in_catalogue": in_catalogue,
    }


def as_alert_json(alert: Alert, sky: Any = None) -> dict[str, Any]:
    """The alert as DESIGN.md 8 prints it: the record, and the map's distance."""
    made: dict[str, Any] = msgspec.to_builtins(alert)
    made["distance_mpc"] = {"mean": None if sky is None else sky.distance_mean_mpc, "std": None if sky is None else sky.distance_std_mpc}
    return made


def explain(
    notice: Notice, policy: Policy, *, sky: Any = None, now_ns: int | None = None, in_catalogue: float | None = None
) -> dict[str, Any]:
    """As `alert explain --json` prints it."""
    judgement = judge(notice, policy, sky=sky, now_ns=now_ns, in_catalogue=in_catalogue)
    return {
        "superevent_id": notice.alert.superevent_id,
        "kind": notice.alert.kind,
        "drill": notice.alert.drill,
        "witnesses": notice.witnesses.as_dict(),
        "decision": judgement.decision,
        "rule": judgement.rule,
        "reasons": list(judgement.reasons),
        "policy": {
            "action": judgement.policy.action,
            "rule": judgement.policy.rule,
            "rules": [one.as_dict() for one in judgement.policy.verdicts],
        },
        "alert": as_alert_json(notice.alert, sky),
        "skymap": None
        if sky is None
        else {"area_50_deg2": sky.area_deg2(0.5), "area_90_deg2": sky.area_deg2(0.9), "n_cells": len(sky.rho)},
        "transport": notice.transport,
        "warnings": list(notice.warnings),
    }


@dataclass
class Stopwatch:
    """Milliseconds per step, in order."""

    elapsed_ms: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time what happens inside."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.elapsed_ms[name] = round((time.perf_counter() - began) * MS, 3)


def rank(
    notice: Notice,
    sky: Any,
    catalog: Any,
    *,
    weight: Any = "K",
    top: int = 200,
    observatories: Mapping[str, Any] | None = None,
    now_ns: int | None = None,
    watch: Stopwatch | None = None,
) -> dict[str, Any]:
    """As `alert rank --json` prints it. `observatories` maps names to `ObservatorySettings`; None leaves visibility out."""
    watch = watch or Stopwatch()
    warnings = list(notice.warnings)
    with watch.step("ranking"):
        ranking = rank_galaxies(sky, catalog, weight=weight, top=top)
    warnings += ranking.warnings
    tiles: list[dict[str, float]] = []
    if ranking.beyond_catalog:
        with watch.step("tiles"):
            tiles = [tile.as_dict() for tile in tile_map(sky, field_deg=smallest_field_deg((observatories or {}).values()))]
        at_half = ranking.completeness["at_50"]
        warnings.append(
            f"beyond the catalogue: the host is in it with a probability of {1 - ranking.not_in_catalog:.3f}"
            + ("" if at_half is None else f" (completeness at the median distance {at_half:.3f})")
            + "; tiles say more than galaxies"
        )
    lists: dict[str, Any] = {}
    if observatories:
        from nightbell.alerts.targets import targets_of  # noqa: PLC0415  # brings the ephemeris, which ranking alone does not need

        with watch.step("visibility"):
            found = targets_of(observatories, notice.alert, ranking, tiles, now_ns=now_ns if now_ns is not None else time.time_ns())
            lists = {name: [msgspec.to_builtins(target) for target in targets] for name, targets in found.items()}
    with watch.step("credible"):
        credible = {
            "area_50_deg2": sky.area_deg2(0.5),
            "area_90_deg2": sky.area_deg2(0.9),
            "volume_90_mpc3": sky.volume_mpc3(0.9) if sky.has_distance else None,
            "prob_without_distance": sky.prob_without_distance,
        }
    return {
        "alert": as_alert_json(notice.alert, sky),
        "credible": credible,
        "galaxies": [as_json(galaxy) for galaxy in ranking.galaxies],
        "not_in_catalog": ranking.not_in_catalog,
        "beyond_catalog": ranking.beyond_catalog,
        "completeness": ranking.completeness,
        "weight": ranking.weight,
        "n_scored": ranking.n_scored,
        "tiles": tiles,
        "observatories": lists,
        "elapsed_ms": watch.elapsed_ms,
        "warnings": [shown(text, 400) for text in warnings],
    }
