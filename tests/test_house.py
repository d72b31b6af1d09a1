"""The house as its next owner finds it: the first file of each folder tells what the folder is for and names what lies in it."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = sorted(path.parent for house in ("src/nightbell", "benchmarks") for path in (ROOT / house).rglob("__init__.py"))
LOCKS = ("requirements.lock", "requirements-test.lock")
ROOMS = ("brokers", "brokers/alert-site", "brokers/observatory", "conf", "docs/decisions", "tests", "tests/golden", "tools")


def named(folder: Path) -> str:
    return folder.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("folder", PACKAGES, ids=named)
def test_the_first_file_of_a_package_names_every_file_in_it(folder: Path) -> None:
    told = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))) or ""
    files = [path.stem for path in folder.glob("*.py") if path.stem not in {"__init__", "__main__"}]
    inside = [path.parent.name for path in folder.glob("*/__init__.py")]
    assert [name for name in sorted(files + inside) if not re.search(rf"\b{name}\b", told)] == []


@pytest.mark.parametrize("room", ROOMS)
def test_every_other_room_has_a_readme_that_names_what_lies_in_it(room: str) -> None:
    told = (ROOT / room / "README.md").read_text(encoding="utf-8")
    hidden = {"__pycache__", "state", "__init__", "README", "conftest"}
    there = [path for path in (ROOT / room).iterdir() if not path.name.startswith(".") and path.stem not in hidden]
    if room == "tests":  # those that mirror a package are told together
        there = [path for path in there if path.is_dir() and not (ROOT / "src" / "nightbell" / path.name).is_dir()]
    assert [path.name for path in sorted(there) if path.name not in told] == []


def test_cameras_and_rules_of_the_example_are_those_of_the_package() -> None:
    data = ROOT / "src" / "nightbell" / "data"
    for shown, shipped in ((ROOT / "conf" / "cameras", data / "cameras"), (ROOT / "conf" / "demo" / "policy.toml", data / "policy.toml")):
        files = sorted(shown.glob("*.toml")) if shown.is_dir() else [shown]
        assert [path.read_text(encoding="utf-8") for path in files] == [
            (shipped / path.name if shipped.is_dir() else shipped).read_text(encoding="utf-8") for path in files
        ]


def test_no_tracked_text_names_a_package_registry_or_a_lock_with_addresses() -> None:
    for lock in LOCKS:
        text = (ROOT / lock).read_text(encoding="utf-8")
        assert "://" not in text, lock
        assert "--index" not in text, lock
    assert {"uv.lock", "pylock*.toml"} <= set((ROOT / ".gitignore").read_text(encoding="utf-8").split())


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_pins_every_dependency_by_hash_within_the_bounds_of_pyproject(lock: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *(project["optional-dependencies"]["test"] if "test" in lock else ())]
    # "name==version ; marker \\" and its hashes on the lines below.
    entries = re.split(r"\n(?=\S)", (ROOT / lock).read_text(encoding="utf-8").strip())
    pins = [Requirement(entry.partition("\\\n")[0].strip()) for entry in entries]
    assert [pin.name for pin, entry in zip(pins, entries, strict=True) if "--hash=sha256:" not in entry or len(pin.specifier) != 1] == []
    for one in map(Requirement, wanted):
        versions = [next(iter(pin.specifier)).version for pin in pins if canonicalize_name(pin.name) == canonicalize_name(one.name)]
        assert versions, f"{one.name} is not in {lock}"
        assert all(one.specifier.contains(version, prereleases=True) for version in versions), f"{one}: {versions}"


def test_every_text_is_read_and_written_in_a_named_encoding() -> None:
    """Windows' own is not UTF-8; names of galaxies, users and folders are."""
    unnamed = []
    for path in [*(ROOT / "src").rglob("*.py"), *(ROOT / "tools").glob("*.py")]:
        source = path.read_text(encoding="utf-8")
        suspect = "_text(" in source or "text=True" in source
        for call in ast.walk(ast.parse(source)) if suspect else ():
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute):
                told = {one.arg for one in call.keywords}
                is_text = call.func.attr in {"read_text", "write_text"} or (call.func.attr in {"run", "Popen"} and "text" in told)
                if is_text and "encoding" not in told:
                    unnamed.append(f"{named(path)}:{call.lineno}")
    assert unnamed == []
