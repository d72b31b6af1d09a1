"""tools/start.py: from a clone to a running program, on a machine with Python alone. Here in a small clone with nothing to install."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone in a folder with a blank and an umlaut; its lock names a package that there is not."""
    folder = tmp_path / "u ser" / "Käse"
    (folder / "tools").mkdir(parents=True)
    shutil.copy(ROOT / "tools" / "start.py", folder / "tools")
    (folder / "pyproject.toml").write_text("", encoding="utf-8")
    (folder / "requirements.lock").write_text(f"no-such-package-of-ours==1.0 --hash=sha256:{'0' * 64}\n", encoding="utf-8")
    return folder


def start(clone: Path, *words: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(one for one in os.environ["PATH"].split(os.pathsep) if not shutil.which("uv", path=one))
    env = {**os.environ, "PATH": path, "PIP_NO_INDEX": "1", "PIP_RETRIES": "0"}
    for name in ("NIGHTBELL_VENV", "PYTHONPATH"):
        env.pop(name, None)
    command = [sys.executable, str(clone / "tools" / "start.py"), *words]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", env=env, timeout=120, check=False)


def loaded(clone: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("start_of_a_clone", clone / "tools" / "start.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_without_words_it_says_what_it_can_do(clone):
    done = start(clone)
    assert done.returncode == 0
    assert "python tools/start.py demo" in done.stdout
    assert not (clone / ".venv").exists()


def test_an_environment_that_is_ready_is_used_at_once_and_its_exit_status_is_passed_on(clone):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(clone / ".venv")], check=True)
    python = clone / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(subprocess.run([str(python), "-c", where], capture_output=True, text=True, encoding="utf-8", check=True).stdout.strip())
    (packages / "nightbell").mkdir()
    (packages / "nightbell" / "__main__.py").write_text("import sys\nprint(sys.argv[1:])\nsys.exit(3)\n", encoding="utf-8")
    stamp = loaded(clone).stamp_of(clone / "requirements.lock")
    (clone / ".venv" / "nightbell-requirements.stamp").write_text(stamp, encoding="utf-8")
    done = start(clone, "night", "open", "--conf", "a b")
    assert (done.returncode, done.stdout.strip()) == (3, "['night', 'open', '--conf', 'a b']")
    assert done.stderr == ""


def test_an_installation_that_fails_says_so_and_is_begun_anew(clone):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(clone / ".venv")], check=True)
    for _ in range(2):
        done = start(clone, "demo")
        assert done.returncode == 1
        assert "No module named pip" in done.stderr
        assert "is the network there?" in done.stderr
        assert "Traceback" not in done.stderr
        assert not list(clone.rglob("*.stamp"))
        assert not (clone / ".venv.lock").exists()


def test_a_changed_lock_asks_for_a_new_environment(clone):
    module = loaded(clone)
    before = module.stamp_of(clone / "requirements.lock")
    (clone / "requirements.lock").write_text("", encoding="utf-8")
    assert module.stamp_of(clone / "requirements.lock") != before
