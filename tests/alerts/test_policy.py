"""Rules as data: what they decide, what they say, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.alerts.making import as_bytes, igwn

from nightbell.alerts.answers import explain, judge, skymap_of
from nightbell.alerts.notices.reading import parse_notice, read_notice
from nightbell.alerts.policy import operands_of, read_policy, shipped_policy
from nightbell.contracts.errors import BadInput, Mistakes

DEFAULT = '\n[[rule]]\nname = "default"\naction = "ignore"\n'


def decide(when: str, **operands: Any) -> Any:
    return read_policy(f'[[rule]]\nname = "one"\naction = "follow"\nwhen = {{ {when} }}\n{DEFAULT}', where="p").decide(operands)


@pytest.mark.parametrize(
    ("when", "operands", "action"),
    [
        ('"p.BNS" = ">0.2"', {"p.BNS": 0.3}, "follow"),
        ('"p.BNS" = ">0.2"', {"p.BNS": 0.2}, "ignore"),
        ('"p.BNS" = ">=0.2"', {"p.BNS": 0.2}, "follow"),
        ('far = "<3.2e-8"', {"far": 1e-9}, "follow"),
        ("significant = true", {"significant": True}, "follow"),
        ("significant = true", {"significant": False}, "ignore"),
        ('kind = ["INITIAL", "EARLYWARNING"]', {"kind": "early_warning"}, "follow"),
        ('instruments = ["V1"]', {"instruments": ["H1", "V1"]}, "follow"),
        ("n_detectors = 2", {"n_detectors": 2}, "follow"),
        ('any = [{ "p.BNS" = ">0.5" }, { "p.NSBH" = ">0.5" }]', {"p.NSBH": 0.9}, "follow"),
        ('any = [{ "p.BNS" = ">0.5", far = "<1" }]', {"p.BNS": 0.9, "far": 2.0}, "ignore"),
        ('a90_deg2 = "<2000", dist_mpc = "<400"', {"a90_deg2": 31.0, "dist_mpc": 40.0}, "follow"),
    ],
)
def test_rules_decide(when: str, operands: dict[str, Any], action: str) -> None:
    assert decide(when, **operands).action == action


def test_a_value_that_is_absent_is_unknown_not_zero() -> None:
    decision = decide('"p.Terrestrial" = "<0.5"')
    assert decision.action == "ignore"
    assert decision.verdicts[0].clauses[0].truth == "unknown"
    assert "does not have it" in decision.reasons[0]


def test_every_rule_is_evaluated_and_shows_value_and_limit() -> None:
    decision = decide('"p.BNS" = ">0.2"', **{"p.BNS": 0.1})
    assert decision.reasons == ("not 'one': p.BNS >0.2: false, it is 0.1",)
    assert [verdict.applies for verdict in decision.verdicts] == [False, True]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[[rule]]\nname = "a"\naction = "follow"\nwhen = { clasification = "x" }' + DEFAULT, "Did you mean group|clasification"),
        ('[[rule]]\nname = "a"\naction = "folow"\nwhen = { kind = "x" }' + DEFAULT, "'folow' is no action"),
        ('[[rule]]\nname = "a"\naction = "follow"' + DEFAULT, "no rule after it is ever reached"),
        ('[[rule]]\nname = "a"\naction = "follow"\nwhen = { kind = "x" }', "has no default"),
        ('[[rule]]\nname = "a"\naction = "follow"\nwhen = { far = "<" }' + DEFAULT, "'<' is no comparison"),
        ('[[rule]]\nname = "a"\naction = "follow"\npriority = 300\nwhen = { kind = "x" }' + DEFAULT, "outside 0 to 100"),
        ('[[rule]]\naction = "follow"\nwhen = { kind = "x" }' + DEFAULT, "has no name"),
        ('[[rule]]\nname = "a"\naction = "follow"\nwhen = { a90_deg2 = "2000" }' + DEFAULT, "'2000' is no comparison"),
        ('[[rule]]\nname = "a"\naction = "follow"\nwhen = { "p.BNS" = ["x"] }' + DEFAULT, "is no comparison"),
        ('[[rule]]\nname = "a"\naction = "follow"\nwhen = { significant = "true" }' + DEFAULT, "neither true nor false"),
        ('[[rule]]\nname = "a"\naction = "follow"\nwhen = { search = "!=MDC" }' + DEFAULT, "compares text"),
        ("rule = [1]", r"\[\[rule\]\] tables"),
        ("[[rule]", "not TOML"),
        ("x = 1", r"\[\[rule\]\] tables"),
    ],
)
def test_a_wrong_policy_is_refused_when_it_is_loaded(text: str, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        read_policy(text, where="policy.toml")


def test_all_mistakes_of_a_policy_are_reported_at_once() -> None:
    text = '[[rule]]\nname = "a"\naction = "x"\nwhen = { foo = 1, far = "<" }' + DEFAULT
    with pytest.raises(Mistakes) as refused:
        read_policy(text, where="policy.toml")
    assert len(refused.value.mistakes) == 3


def test_the_demo_follows_the_shipped_rules() -> None:
    root = Path(__file__).resolve().parents[2]
    assert (root / "conf/demo/policy.toml").read_text() == (root / "src/nightbell/data/policy.toml").read_text()


@pytest.mark.parametrize(
    ("name", "decision", "rule"),
    [
        ("o4/S230518h-Preliminary_alert.json", "accept", "near neutron star"),
        ("o4/S230522a-Preliminary_alert.json", "ignore", "single detector, huge area"),
        ("o4/MS260605l-preliminary.json", "drill", "drill"),
        ("voevents/G298048-1-Initial.xml", "store", "archive"),
        ("missions/SWIFT_BAT_1125809.xml", "ignore", "default"),
    ],
)
def test_the_shipped_rules_on_real_notices(shared_data: Path, name: str, decision: str, rule: str) -> None:
    path = shared_data / "alerts" / name
    sky, notice = skymap_of(read_notice(path), where=name)
    judgement = judge(notice, shipped_policy(), sky=sky)
    assert (judgement.decision, judgement.rule) == (decision, rule)


def test_a_drill_is_decided_before_any_rule_and_shows_what_a_real_one_would_be() -> None:
    notice = parse_notice(as_bytes(igwn(event__search="MDC")), where="x")
    found = explain(notice, shipped_policy())
    assert (found["decision"], found["drill"]) == ("drill", True)
    assert "search: drill: MDC" in found["reasons"]
    assert "a real one would be" in found["reasons"][-1]


def test_operands_hold_no_unknown_values() -> None:
    operands = operands_of(parse_notice(as_bytes(igwn(event__far=None)), where="x").alert)
    assert "far" not in operands
    assert operands["n_detectors"] == 2
    assert operands["p.BNS"] == 0.9


def test_a_policy_knows_which_values_its_rules_ask_for() -> None:
    text = '[[rule]]\nname = "a"\naction = "follow"\nwhen = { any = [{ in_catalogue = ">0.3" }] }' + DEFAULT
    policy = read_policy(text, where="policy.toml")
    assert policy.asks("in_catalogue")
    assert not policy.asks("age_h")
