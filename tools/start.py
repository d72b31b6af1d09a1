"""Set nightbell up and run it, from nothing but git and Python >= 3.11. Standard library only.

    python tools/start.py demo            set up, then watch a night happen
    python tools/start.py test            set up with the test tools, then every default test
    python tools/start.py test --slow     the long ones too; any other option goes to pytest
    python tools/start.py test --all-real as continuous integration does: no test of a third-party part may be skipped
    python tools/start.py ARGS ...        set up, then `nightbell ARGS ...`

It makes a virtual environment in .venv beside this folder (or where NIGHTBELL_VENV says), with uv when that is on PATH,
else with venv and pip. What is installed stands in requirements.lock, by hash. A second start finds it done and goes on.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST = (3, 11)
WINDOWS = os.name == "nt"
IN_PARALLEL = ("-n", "3", "--dist", "loadfile", "--no-loadscope-reorder")
"""Most tests wait for processes, disks and clocks. A file's tests share their fixtures, so a file stays in one process; in the order of
their names, for otherwise the files with few but long tests, the whole nights, come last and alone."""


def say(text: str) -> None:
    print(f"start: {text}", file=sys.stderr, flush=True)


def give_up(what: str, remedy: str) -> None:
    say(f"{what}. {remedy}")
    sys.exit(1)


def venv_folder() -> Path:
    return Path(os.environ.get("NIGHTBELL_VENV") or ROOT / ".venv").resolve()


def venv_python(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if WINDOWS else "bin/python")


def stamp_of(lock: Path) -> str:
    """What must be equal for an environment to be usable as it is."""
    told = hashlib.sha256(lock.read_bytes())
    told.update((ROOT / "pyproject.toml").read_bytes())
    told.update(f"{platform.python_version()} {platform.platform()} {ROOT}".encode())
    return told.hexdigest()


def run(what: str, command: list[str]) -> None:
    """One phase: a line before it, its output only when it fails."""
    say(what)
    began = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", errors="replace", check=False)
    if done.returncode:
        sys.stderr.write(done.stdout[-4000:] + done.stderr[-8000:])
        give_up(f"'{what}' did not work (exit {done.returncode})", "The lines above say why; is the network there?")
    say(f"  done in {time.monotonic() - began:.0f} s")


@contextlib.contextmanager
def only_one(folder: Path):  # noqa: ANN201
    """Two starts at once must not install into the same folder."""
    lock = folder.with_name(folder.name + ".lock")
    deadline = time.monotonic() + 600
    while True:
        try:
            os.close(os.open(lock, os.O_CREAT | os.O_EXCL))
            break
        except FileExistsError:
            with contextlib.suppress(FileNotFoundError):
                if time.time() - lock.stat().st_mtime > 900:
                    lock.unlink()
                    continue
            if time.monotonic() > deadline:
                give_up(f"another start has held {lock} for 10 minutes", "Delete that file if no other start is running")
            time.sleep(0.5)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)


def set_up(lock: Path) -> Path:
    """The Python of an environment that holds exactly what `lock` lists, and nightbell itself."""
    folder = venv_folder()
    python = venv_python(folder)
    stamp = folder / f"nightbell-{lock.stem}.stamp"
    want = stamp_of(lock)
    if python.exists() and stamp.exists() and stamp.read_text(encoding="utf-8") == want:
        return python
    with only_one(folder):
        if python.exists() and stamp.exists() and stamp.read_text(encoding="utf-8") == want:
            return python
        folder.parent.mkdir(parents=True, exist_ok=True)
        uv = shutil.which("uv")
        usable = python.exists() and subprocess.run([str(python), "-c", ""], capture_output=True, check=False).returncode == 0
        if uv:
            if not usable:
                run(f"making {folder.name} (uv)", [uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)])
            install = [uv, "pip", "install", "--quiet", "--python", str(python)]
            run(f"installing {lock.name} (uv)", [*install, "--compile-bytecode", "--require-hashes", "-r", str(lock)])
        else:
            if not usable:
                if shutil.rmtree.avoids_symlink_attacks and folder.exists():
                    shutil.rmtree(folder)
                command = [sys.executable, "-m", "venv", str(folder)]
                made = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", errors="replace", check=False)
                if made.returncode:
                    sys.stderr.write(made.stdout + made.stderr)
                    give_up("this Python cannot make a virtual environment", "On Debian: apt-get install python3-venv")
            install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            run(f"installing {lock.name} (pip, about a minute)", [*install, "--require-hashes", "-r", str(lock)])
        run("installing nightbell itself", [*install, "--no-deps", "-e", str(ROOT)])
        for other in folder.glob("nightbell-*.stamp"):
            # requirements-test.lock holds all of requirements.lock, not the other way round.
            if other != stamp and lock.name == "requirements.lock":
                other.unlink()
        stamp.write_text(want, encoding="utf-8")
        if lock.name == "requirements-test.lock":
            (folder / "nightbell-requirements.stamp").write_text(stamp_of(ROOT / "requirements.lock"), encoding="utf-8")
    return python


def hand_over(command: list[str]) -> None:
    """Become `command`. On Windows exec detaches from the console, so there it is a child."""
    if WINDOWS:
        with contextlib.suppress(KeyboardInterrupt):
            sys.exit(subprocess.call(command))
        sys.exit(130)
    os.execv(command[0], command)


def test(python: Path, arguments: list[str]) -> None:
    """Format, lint, types, import rules, generated reference, tests: every step runs, the first failure decides the exit status."""
    slow = "--slow" in arguments
    rest = [argument for argument in arguments if argument != "--slow"]
    scripts = python.parent
    steps = {
        "format": [str(python), "-m", "ruff", "format", "--check", "."],
        "lint": [str(python), "-m", "ruff", "check", "."],
        "types": [str(python), "-m", "mypy"],
        "imports": [str(scripts / ("lint-imports.exe" if WINDOWS else "lint-imports"))],
        "reference": [str(python), "-m", "nightbell.cli.reference", "--check"],
        "tests": [str(python), "-m", "pytest", "-q", *IN_PARALLEL, *(["-m", "slow or not slow"] if slow else []), *rest],
    }
    failed = []
    for name, command in steps.items():
        say(f"{name}: {' '.join(Path(command[0]).name if i == 0 else part for i, part in enumerate(command))}")
        if subprocess.call(command, cwd=ROOT):
            failed.append(name)
    if failed:
        give_up(f"failed: {', '.join(failed)}", "The lines above say where")
    say("all green")


def main() -> None:
    if sys.version_info < OLDEST:
        give_up(f"Python {platform.python_version()} is too old", "Use Python 3.11 or newer")
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in {"-h", "--help"}:
        print(__doc__)
        return
    if arguments[0] == "test":
        test(set_up(ROOT / "requirements-test.lock"), arguments[1:])
        return
    python = set_up(ROOT / "requirements.lock")
    # `-m nightbell`, not the console script: a moved clone breaks the script's first line.
    hand_over([str(python), "-m", "nightbell", *arguments])


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
