"""A broker, or the counter of small_site, as a process that kills itself with SIGKILL at a point of its work.

    python -m tests.bus.killed_at broker CONF before nightbell.bus.disk Disk.sync 20

`before` or `after` the 20th call of that method; `within` writes half of the bytes first. Random kills hardly ever hit such moments.
"""

from __future__ import annotations

import importlib
import itertools
import os
import signal
import sys
from typing import Any

from nightbell.bus.broker import run_broker
from nightbell.bus.module import run_module
from nightbell.settings import load_installation

from .small_site import Counter


def arm(when: str, module: str, name: str, count: int) -> None:
    kind, _, method = name.partition(".")
    owner = getattr(importlib.import_module(module), kind)
    original, passed = getattr(owner, method), itertools.count(1)

    def armed(*args: Any, **more: Any) -> Any:
        fatal = next(passed) == count
        if fatal and when == "within":
            _, handle, data = args
            os.write(handle, data[: len(data) // 2])
        if fatal and when != "after":
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*args, **more)
        if fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, method, armed)


def main(kind: str, conf: str, *point: str) -> int:
    if point:
        when, module, name, count = point
        arm(when, module, name, int(count))
    installation = load_installation(conf)
    if kind == "broker":
        return run_broker(installation, "observatory")
    # The counter of small_site asks its own process whether to fail; here nobody tells it to.
    return run_module(Counter, installation)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
