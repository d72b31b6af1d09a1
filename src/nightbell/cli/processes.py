"""Which code runs which process: the only place that knows all modules.

To add a module: its folder, a row here, a file conf/INSTALLATION/modules/NAME.toml, its name in `run` of observatory.toml.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from typing import cast

from nightbell.contracts.errors import BadInput
from nightbell.settings import Installation

__all__ = ["PROCESSES", "SETTINGS", "entry_of", "find_conf"]

# module name -> where its `run(installation, name) -> int` is.
PROCESSES: dict[str, str] = {
    "alerts": "nightbell.alerts.module",
    "relay": "nightbell.bus.relay",
    "simulator": "nightbell.simulator.process",
    "telescope": "nightbell.telescope.module",
    "safety": "nightbell.safety.module",
    "preprocessor": "nightbell.calibration.module",
    "transients": "nightbell.transients.module",
    "archive": "nightbell.archive.module",
    "console": "nightbell.console.module",
}
# module name -> its settings class, for `config check` and the reference.
SETTINGS: dict[str, str] = {
    "alerts": "nightbell.alerts.settings:AlertsSettings",
    "relay": "nightbell.bus.relay:RelaySettings",
    "simulator": "nightbell.simulator.settings:SimulatorSettings",
    "telescope": "nightbell.telescope.settings:TelescopeSettings",
    "safety": "nightbell.safety.settings:SafetySettings",
    "preprocessor": "nightbell.calibration.settings:PreprocessorSettings",
    "transients": "nightbell.transients.settings:TransientsSettings",
    "archive": "nightbell.archive.settings:ArchiveSettings",
    "console": "nightbell.console.settings:ConsoleSettings",
}

Entry = Callable[[Installation, str], int]


def entry_of(process: str) -> Entry:
    """The function that runs `process` ("broker:NAME" or a module's name). Raises `BadInput` with the nearest name."""
    if process.startswith("broker:"):
        from nightbell.bus.broker import run_broker

        name = process.removeprefix("broker:")
        return lambda installation, _: run_broker(installation, name)
    if process not in PROCESSES:
        near = difflib.get_close_matches(process, PROCESSES, n=1)
        raise BadInput(
            f"there is no module {process!r}",
            where="MODULE",
            remedy=f"Did you mean {near[0]}?" if near else f"Use broker:NAME or one of {', '.join(PROCESSES)}",
        )
    return cast(Entry, importlib.import_module(PROCESSES[process]).run)


def find_conf(conf: object) -> str | None:
    """The installation folder to use: the one given, else NIGHTBELL_CONF, else conf/demo below here when it exists."""
    import os
    from pathlib import Path

    if conf is not None:
        return str(conf)
    if os.environ.get("NIGHTBELL_CONF"):
        return None
    return "conf/demo" if Path("conf/demo/observatory.toml").is_file() else None
