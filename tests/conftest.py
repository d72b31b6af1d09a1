"""Fixtures that every folder of tests may use."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real notices, sky maps, catalogues and CCD frames; skips where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"real data are not beside this clone ({SHARED_DATA.name}/ in ../shared)")
    return SHARED_DATA
