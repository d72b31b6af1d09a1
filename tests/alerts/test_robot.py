"""One stored notice in, a state and events out: what the robot stores, ranks and says."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from tests.alerts.making import as_bytes, fits_of, igwn, whole_sky

from nightbell.alerts.catalog import from_rows
from nightbell.alerts.journal import Entry
from nightbell.alerts.lifecycle import Known, forgettable
from nightbell.alerts.notices.guards import encode_base64
from nightbell.alerts.policy import Policy, read_policy, shipped_policy
from nightbell.alerts.robot import Outcome, Robot
from nightbell.alerts.settings import ObservatorySettings
from nightbell.alerts.targets import split
from nightbell.bus.wire import LARGEST_DATA_BYTES
from nightbell.contracts.events import AlertReceived, TargetsDrilled, TargetsReady
from nightbell.contracts.instants import parse_utc
from nightbell.contracts.states import AlertState

NOW_NS = parse_utc("2027-04-12T23:00:00Z")
SITE = ObservatorySettings(latitude_deg=-29.0, longitude_deg=-70.0, altitude_min_deg=0.0, p_host_min=0.0, targets_max=300)
FOLLOW = 'name = "all"\naction = "follow"'


def robot(folder: Path, *, policy: Policy | None = None, n: int = 40, **observatories: ObservatorySettings) -> Robot:
    rows = [{"name": f"G{i:03d}", "ra_deg": 9.0 * i % 360, "dec_deg": -30.0, "dist_mpc": 40.0, "k_mag": 9.0} for i in range(n)]
    for row in rows:
        row["dist_err_mpc"] = 4.0
    catalog = from_rows(rows, source="t")
    return Robot(policy or read_policy(f"[[rule]]\n{FOLLOW}", where="p"), catalog, observatories or {"south": SITE}, maps=folder)


def entry(record: dict[str, Any], **about: Any) -> Entry:
    raw = as_bytes(record)
    return Entry(1, hashlib.sha256(raw).hexdigest(), about, raw)


def outcome_of(one: Robot, record: dict[str, Any], known: Known | None = None) -> Outcome:
    return one.decide(one.read(entry(record), now_ns=NOW_NS), known, now_ns=NOW_NS)


def said(outcome: Outcome, kind: type) -> list[Any]:
    return [event for event, _ in outcome.events if isinstance(event, kind)]


def test_the_map_that_is_stored_is_the_one_that_was_used(tmp_path: Path) -> None:
    good = fits_of(whole_sky())
    record = igwn(event__skymap=encode_base64(good), external_coinc={"observatory": "Fermi", "combined_skymap": encode_base64(b"broken")})
    (received,) = said(outcome_of(robot(tmp_path), record), AlertReceived)
    assert Path(received.skymap.path).read_bytes() == good
    assert received.skymap.sha256 == hashlib.sha256(good).hexdigest()
    assert any("combined_skymap" in reason for reason in received.reasons)


def test_a_real_notice_by_two_transports_in_either_order_is_followed_once(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "alerts"
    notices = [folder / "voevents" / "S230518h-2-Initial.xml", folder / "o4" / "S230518h-Initial_alert.json"]
    for paths in (notices, notices[::-1]):
        one, known, lists = robot(tmp_path), None, 0
        for path in [*paths, *paths]:
            raw = path.read_bytes()
            stored = Entry(1, hashlib.sha256(raw).hexdigest(), {}, raw)
            outcome = one.decide(one.read(stored, now_ns=NOW_NS), known, now_ns=NOW_NS)
            known, lists = outcome.known, lists + len(said(outcome, TargetsReady))
        assert known is not None
        assert (known.state, lists, known.n_duplicates) == (AlertState.ACTIVE, 1, 2 if paths == notices else 3)


def test_targets_are_said_although_the_map_cannot_be_stored(tmp_path: Path) -> None:
    blocked = tmp_path / "maps"
    blocked.write_text("a file where the folder should be")
    outcome = outcome_of(robot(blocked), igwn())
    assert said(outcome, TargetsReady)
    assert [key for key, _ in outcome.alarms] == ["alerts.maps"]


def test_a_drill_publishes_drilled_targets_alone_whatever_the_rules_say(tmp_path: Path) -> None:
    for change in ({"superevent_id": "MS270412a"}, {"event__search": "MDC"}):
        outcome = outcome_of(robot(tmp_path), igwn(**change))
        assert [event.type for event, _ in outcome.events] == ["alert.drilled", "targets.drilled"]
        assert said(outcome, TargetsDrilled)[0].targets


def test_two_sites_do_not_begin_with_the_same_galaxy(tmp_path: Path) -> None:
    outcome = outcome_of(robot(tmp_path, north=SITE, south=SITE), igwn())
    north, south = ([target.name for target in event.targets] for event in said(outcome, TargetsReady))
    assert north[0] != south[0]
    assert abs(len(north) - len(south)) <= 1
    assert not set(north) & set(south)


def test_a_second_site_takes_over_what_the_first_can_hardly_see() -> None:
    lists = split([0.5, 0.3, 0.2], {"a": [0.1, 1.0, 0.0], "b": [1.0, 1.0, 1.0], "blind": [0.0, 0.0, 0.0]})
    assert lists == {"a": [1], "b": [0, 2], "blind": []}
    # What one site sees for certain is of no worth to another; what it sees by half is.
    assert split([1.0], {"a": [0.5], "b": [0.4]}) == {"a": [0], "b": [0]}
    assert split([1.0], {"a": [1.0], "b": [1.0]}) == {"a": [0], "b": []}


def test_a_rule_may_ask_how_much_of_the_universe_the_catalogue_holds(tmp_path: Path) -> None:
    rules = f"""
[[rule]]
name = "well covered"
action = "watch"
when = {{ in_catalogue = ">=0" }}
[[rule]]
{FOLLOW}
"""
    reading = robot(tmp_path, policy=read_policy(rules, where="p")).read(entry(igwn()), now_ns=NOW_NS)
    assert reading.judgement.rule == "well covered"


@pytest.mark.parametrize(("kind", "decision"), [("INITIAL", "watch"), ("RETRACTION", None)])
def test_kinds_lead_to_their_events(tmp_path: Path, kind: str, decision: str | None) -> None:
    outcome = outcome_of(robot(tmp_path, policy=shipped_policy()), igwn(alert_type=kind))
    assert [event.decision for event in said(outcome, AlertReceived)] == ([] if decision is None else [decision])


def test_what_is_over_is_forgotten_after_ninety_days_and_never_before() -> None:
    day_ns = 86_400_000_000_000
    for state in AlertState:
        known = Known(superevent_id="S270412a", state=state, since_ns=NOW_NS)
        over = state in {AlertState.RETRACTED, AlertState.EXPIRED}
        assert forgettable(known, now_ns=NOW_NS + 91 * day_ns) is over
        assert not forgettable(known, now_ns=NOW_NS + 89 * day_ns)


def test_the_longest_list_with_the_longest_names_fits_into_an_event(tmp_path: Path) -> None:
    one = robot(tmp_path, n=400, south=SITE)
    assert one.catalog is not None
    names = np.array([f"{i:03d}".ljust(64, "N").encode() for i in range(len(one.catalog))])
    one.catalog = replace(one.catalog, names=names)
    outcome = outcome_of(one, igwn(superevent_id="S270412" + "z" * 16))
    (ready,) = said(outcome, TargetsReady)
    assert len(ready.targets) >= 100
    per_target = len(msgspec.json.encode(ready)) / len(ready.targets)
    assert per_target * 300 < LARGEST_DATA_BYTES
