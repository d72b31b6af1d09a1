"""Which alerts are followed: rules as data, every clause explained.

The first rule whose conditions all hold decides; all rules are evaluated, so that `alert explain` can show what each would have
said. A value that a notice does not have makes its clause "unknown", which counts as not true, and is shown as such.

    [[rule]]
    name = "near neutron star"
    action = "follow"                     # follow, watch or ignore
    priority = 90                         # 0 to 100, handed on to the targets
    when = { kind = ["initial", "update"], any = [{ "p.BNS" = ">0.2" }, { "p.NSBH" = ">0.2" }], a90_deg2 = "<2000" }
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nightbell.contracts.errors import BadInput, Missing, Mistakes, NightbellError
from nightbell.contracts.records import Alert

__all__ = ["Clause", "Decision", "Policy", "RuleVerdict", "load_policy", "operands_of", "read_policy", "shipped_policy"]

Truth = Literal["true", "false", "unknown"]

ACTIONS = ("follow", "watch", "ignore")
NUMBERS = frozenset(
    [
        "far",
        "far_per_year",
        "n_detectors",
        "mchirp_source",
        "a50_deg2",
        "a90_deg2",
        "dist_mpc",
        "dist_std",
        "distance_quantile_5",
        "in_catalogue",
        "age_h",
    ]
)
TRUTHS = frozenset(["significant", "drill"])
WORDS = frozenset(["mission", "kind", "group", "pipeline", "search", "instruments", "coinc.observatory"])
OPERANDS = NUMBERS | TRUTHS | WORDS
_FAMILIES = ("p.", "has.")
"""Probabilities of classes and properties: numbers too."""
_COMPARISON = re.compile(r"(<=|>=|<|>|=|!=)\s*(-?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?)")
SECONDS_PER_YEAR = 365.25 * 86400


@dataclass(frozen=True)
class Clause:
    """One condition, with what was found."""

    operand: str
    wanted: Any
    found: Any
    truth: Truth

    def __str__(self) -> str:
        if self.truth == "unknown":
            return f"{self.operand} {_words(self.wanted)}: unknown, the notice does not have it"
        return f"{self.operand} {_words(self.wanted)}: {self.truth}, it is {_words(self.found)}"


@dataclass(frozen=True)
class RuleVerdict:
    """One rule applied to one alert."""

    name: str
    action: str
    applies: bool
    clauses: tuple[Clause, ...]

    def as_dict(self) -> dict[str, Any]:
        return {
            "rule": self.name,
            "action": self.action,
            "applies": self.applies,
            "clauses": [{"operand": c.operand, "wanted": c.wanted, "found": c.found, "truth": c.truth} for c in self.clauses],
        }


@dataclass(frozen=True)
class Decision:
    """What the policy says, and why."""

    action: str
    rule: str
    priority: float
    reasons: tuple[str, ...]
    verdicts: tuple[RuleVerdict, ...]


@dataclass(frozen=True)
class _Rule:
    name: str
    action: str
    priority: float
    when: Mapping[str, Any]


@dataclass(frozen=True)
class Policy:
    """Rules in order; the last has no conditions."""

    rules: tuple[_Rule, ...]
    source: str = ""

    def asks(self, operand: str) -> bool:
        """Whether any rule needs this value: some cost a computation."""
        return any(operand in when or any(operand in one for one in when.get("any", ())) for when in (rule.when for rule in self.rules))

    def decide(self, operands: Mapping[str, Any]) -> Decision:
        """The first rule that applies; every rule's verdict."""
        verdicts = tuple(_verdict(rule, operands) for rule in self.rules)
        chosen = next(i for i, verdict in enumerate(verdicts) if verdict.applies)
        reasons = [str(clause) for clause in verdicts[chosen].clauses if clause.truth == "true"]
        for verdict in verdicts[:chosen]:
            against = [str(clause) for clause in verdict.clauses if clause.truth != "true"]
            reasons.append(f"not {verdict.name!r}: {'; '.join(against)}")
        rule = self.rules[chosen]
        return Decision(rule.action, rule.name, rule.priority, tuple(reasons) or ("no other rule applies",), verdicts)


def _words(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return "/".join(_words(one) for one in value) or "none"
    return str(value)


def _verdict(rule: _Rule, operands: Mapping[str, Any]) -> RuleVerdict:
    clauses: list[Clause] = []
    applies = True
    for operand, wanted in rule.when.items():
        if operand == "any":
            choices = [_clause(name, value, operands) for choice in wanted for name, value in choice.items()]
            # Alternatives with several clauses hold only as a whole.
            held = any(all(_clause(name, value, operands).truth == "true" for name, value in choice.items()) for choice in wanted)
            clauses.extend(choices if not held else [clause for clause in choices if clause.truth == "true"])
            applies = applies and held
        else:
            clause = _clause(operand, wanted, operands)
            clauses.append(clause)
            applies = applies and clause.truth == "true"
    return RuleVerdict(rule.name, rule.action, applies, tuple(clauses))


def _clause(operand: str, wanted: Any, operands: Mapping[str, Any]) -> Clause:
    found = operands.get(operand)
    if found is None:
        return Clause(operand, wanted, None, "unknown")
    return Clause(operand, wanted, found, "true" if _holds(found, wanted) else "false")


def _holds(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, list | tuple):
        return any(_holds(found, one) for one in wanted)
    if isinstance(found, list | tuple):
        return any(_holds(one, wanted) for one in found)
    if isinstance(wanted, bool) or isinstance(found, bool):
        return found is wanted
    if isinstance(found, int | float):
        if isinstance(wanted, int | float):
            return float(found) == float(wanted)
        match = _COMPARISON.fullmatch(str(wanted).strip())
        return match is not None and _compare(float(found), match[1], float(match[2]))
    return _plain(found) == _plain(wanted)


def _plain(text: object) -> str:
    return str(text).lower().replace("_", "").replace(" ", "")


def _compare(found: float, sign: str, limit: float) -> bool:
    match sign:
        case "<":
            return found < limit
        case "<=":
            return found <= limit
        case ">":
            return found > limit
        case ">=":
            return found >= limit
        case "!=":
            return found != limit
        case _:
            return found == limit


# -- what rules can ask for ---------------------------------------------------------------------------------------------


def operands_of(
    alert: Alert, *, skymap: Mapping[str, float | None] | None = None, age_h: float | None = None, extra: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Every value a rule may ask for. `skymap` brings a50_deg2, a90_deg2, dist_mpc, dist_std, distance_quantile_5, in_catalogue."""
    external = alert.external or {}
    far = alert.far_hz
    values: dict[str, Any] = {
        "mission": alert.mission,
        "kind": alert.kind,
        "significant": alert.significant,
        "far": far,
        "far_per_year": None if far is None else far * SECONDS_PER_YEAR,
        "group": alert.group,
        "pipeline": alert.pipeline,
        "search": alert.search,
        "instruments": list(alert.instruments) or None,
        "n_detectors": len(alert.instruments) or None,
        "coinc.observatory": external.get("observatory"),
        "age_h": age_h,
        "drill": alert.drill,
        "mchirp_source": (extra or {}).get("mchirp_source"),
        **{f"p.{name}": value for name, value in alert.classification.items()},
        **{f"has.{name}": value for name, value in alert.properties.items()},
        **(skymap or {}),
    }
    return {name: value for name, value in values.items() if value is not None}


# -- loading ------------------------------------------------------------------------------------------------------------


def load_policy(path: Path) -> Policy:
    """The rules in a TOML file. Raises `Mistakes` naming every wrong rule."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise Missing(
            f"cannot be read ({error.strerror})", where=str(path), remedy="Name a policy file, for instance conf/demo/policy.toml"
        ) from error
    except UnicodeDecodeError as error:
        raise BadInput("is not UTF-8 text", where=str(path), remedy="Save it as UTF-8") from error
    return read_policy(text, where=str(path))


def shipped_policy() -> Policy:
    """The rules that hold when an installation has none of its own."""
    return load_policy(Path(__file__).resolve().parents[1] / "data" / "policy.toml")


def read_policy(text: str, *, where: str) -> Policy:
    """The rules in TOML text. Unknown operands, unreachable rules and a missing default are mistakes."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadInput(f"not TOML: {error}", where=where, remedy="Mend the line it names") from error
    mistakes: list[NightbellError] = []
    rules: list[_Rule] = []
    entries = table.get("rule")
    if not isinstance(entries, list) or not entries or set(table) != {"rule"} or not all(isinstance(one, dict) for one in entries):
        raise BadInput("must hold [[rule]] tables and nothing else", where=where, remedy="Begin each rule with [[rule]]")
    for i, entry in enumerate(entries):
        name = entry.get("name")
        place = f"{where}: rule {name or i + 1}"
        keys = ("name", "action", "priority", "when")
        mistakes.extend(_unknown(key, keys, place) for key in set(entry) - set(keys))
        if not isinstance(name, str) or not name:
            mistakes.append(BadInput("has no name", where=place, remedy="Give each rule a name: it is shown as the reason"))
        if entry.get("action") not in ACTIONS:
            mistakes.append(
                BadInput(f"{entry.get('action')!r} is no action", where=f"{place}: action", remedy=f"Use one of {', '.join(ACTIONS)}")
            )
        priority = entry.get("priority", 50)
        if isinstance(priority, bool) or not isinstance(priority, int | float) or not 0 <= priority <= 100:
            mistakes.append(BadInput(f"{priority!r} is outside 0 to 100", where=f"{place}: priority", remedy="50 is ordinary"))
            priority = 50
        when = entry.get("when", {})
        mistakes.extend(_wrong_conditions(when, place))
        if not when and i < len(entries) - 1:
            mistakes.append(BadInput("has no conditions, so no rule after it is ever reached", where=place, remedy="Make it the last"))
        if isinstance(when, dict):
            rules.append(_Rule(str(name), str(entry.get("action")), float(priority), when))
    if entries[-1].get("when"):
        mistakes.append(BadInput("has no default", where=where, remedy='End with a rule without "when", for instance action = "ignore"'))
    if mistakes:
        raise Mistakes(mistakes)
    return Policy(tuple(rules), where)


def _unknown(key: str, known: Any, place: str) -> BadInput:
    near = difflib.get_close_matches(key, list(known), n=1, cutoff=0.5)
    return BadInput(
        "is not known", where=f"{place}: {key}", remedy=f"Did you mean {near[0]}?" if near else f"Known: {', '.join(sorted(known))}"
    )


def _is_comparison(wanted: Any) -> bool:
    if isinstance(wanted, str):
        return _COMPARISON.fullmatch(wanted.strip()) is not None
    return isinstance(wanted, int | float) and not isinstance(wanted, bool)


def _wrong_conditions(when: Any, place: str) -> list[NightbellError]:
    if not isinstance(when, dict):
        return [BadInput("is no table", where=f"{place}: when", remedy="Write when = { operand = value }")]
    found: list[NightbellError] = []
    for operand, wanted in when.items():
        if operand == "any":
            if not isinstance(wanted, list) or not wanted or not all(isinstance(one, dict) and one for one in wanted):
                found.append(BadInput("is no list of tables", where=f"{place}: any", remedy='Write any = [ { "p.BNS" = ">0.2" } ]'))
            else:
                found.extend(mistake for one in wanted for mistake in _wrong_conditions(one, place) if one is not when)
            continue
        parts = wanted if isinstance(wanted, list) else [wanted]
        if operand not in OPERANDS and not (operand.startswith(_FAMILIES) and len(operand.partition(".")[2]) > 0):
            found.append(_unknown(operand, OPERANDS | {"p.CLASS", "has.PROPERTY"}, place))
        elif operand in TRUTHS and not all(isinstance(one, bool) for one in parts):
            found.append(
                BadInput(f"{wanted!r} is neither true nor false", where=f"{place}: {operand}", remedy="Write true or false, without quotes")
            )
        elif operand not in TRUTHS | WORDS and not all(_is_comparison(one) for one in parts):
            found.append(
                BadInput(f"{wanted!r} is no comparison", where=f"{place}: {operand}", remedy='Write for instance "<2000" or ">=0.2"')
            )
        elif any(isinstance(one, str) and one[:1] in "<>=!" for one in parts) and operand in WORDS:
            found.append(BadInput(f"{wanted!r} compares text", where=f"{place}: {operand}", remedy="Write the word, or a list of words"))
        elif not isinstance(wanted, str | bool | int | float | list):
            found.append(BadInput(f"{wanted!r} is no condition", where=f"{place}: {operand}", remedy="Use text, a number, true, or a list"))
    return found
