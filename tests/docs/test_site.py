"""The pages as a web site: Sphinx builds them without a warning, and without a single foreign address to load."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOADS = re.compile(r"<(?:script|link|img|iframe|source)\b[^>]*?\b(?:src|href)=\"([^\"]+)\"", re.IGNORECASE)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-q",
        "-W",
        "--keep-going",
        "-b",
        "html",
        "-d",
        str(out / "trees"),
        "docs",
        str(out / "html"),
    ]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert built.returncode == 0, built.stderr
    return out / "html"


def test_the_site_is_built_without_a_warning(site: Path) -> None:
    assert (site / "index.html").is_file()
    assert (site / "reference" / "events.html").is_file()


def test_no_page_of_the_site_loads_anything_from_elsewhere(site: Path) -> None:
    foreign = [
        (page.name, target) for page in site.rglob("*.html") for target in LOADS.findall(page.read_text(encoding="utf-8")) if "//" in target
    ]
    assert foreign == []
