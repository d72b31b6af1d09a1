"""Benchmarks: each says its claim, runs by one command, and judges itself by what it measured beside its peer."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from benchmarks.report import claim  # noqa: E402

NAMES = sorted(path.parent.name for path in (ROOT / "benchmarks").glob("*/__main__.py"))


def test_a_claim_is_the_ratio_of_medians_with_its_spread() -> None:
    one = claim("durable", [1.0, 2.0, 3.0, 100.0, 2.0], [8.0, 9.0, 7.0, 8.0, 8.0], unit="us", goal=4.0)
    assert (one.value, one.peer, one.ratio, one.ok) == (2.0, 8.0, 4.0, True)
    assert one.peer_spread == pytest.approx(0.0625)
    assert not claim("durable", [2.0, 2.0], [7.9, 7.9], unit="us", goal=4.0).ok


@pytest.mark.parametrize("name", NAMES)
def test_a_quick_run_prints_one_json_object_and_its_status_follows_the_goals(name: str) -> None:
    command = [sys.executable, "-m", f"benchmarks.{name}", "--quick", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", timeout=120, check=False)
    told = json.loads(done.stdout)
    assert told["machine"]["processors"] >= 1
    assert told["claims"]
    for one in told["claims"]:
        assert {"name", "value", "unit", "peer", "ratio", "goal", "ok"} <= set(one)
        assert one["ratio"] == pytest.approx(one["peer"] / one["value"])
        assert one["ok"] is (one["ratio"] >= one["goal"])
    assert done.returncode == (0 if all(one["ok"] for one in told["claims"]) else 1)


@pytest.mark.parametrize("name", NAMES)
def test_help_says_the_claim_and_how_to_run_it(name: str) -> None:
    command = [sys.executable, "-m", f"benchmarks.{name}", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", timeout=60, check=True)
    assert "Claim: " in done.stdout
    assert f"python -m benchmarks.{name}" in done.stdout
