"""A house of paper for the pages, and a server around it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nightbell.console.app import Console
from nightbell.console.serving import WebServer, allowed_hosts, bind
from nightbell.console.tiles import Tile, make_tiles
from nightbell.console.users import Users
from nightbell.console.watch import Heard
from nightbell.console.words import LogRow, Picture
from nightbell.contracts.commands import Command
from nightbell.contracts.errors import NightbellError, Refused
from nightbell.contracts.events import OperatorActed

TELESCOPE = {
    "night": "2027-04-12",
    "state": "observing",
    "since_utc": "2027-04-12T23:40:00.000Z",
    "since_age_s": 600.0,
    "reason": "dark and safe",
    "doing": "NGC4993 in r, 2 of 3",
    "plan": {
        "revision": 2,
        "n_items": 3,
        "next": [{"name": "NGC4993", "filter": "r", "start_utc": "2027-04-13T00:10:00Z", "n_exposures": 2}],
    },
    "devices": {
        "dome": {"shutter": "open", "azimuth_deg": 201.5, "slewing": False, "age_s": 2.0},
        "mount": {"right_ascension_h": 13.16, "declination_deg": -23.38, "altitude_deg": 60.0, "tracking": True, "age_s": 2.0},
        "camera": {"state": "exposing", "temperature_degc": -20.0, "cooler_percent": 55.0, "age_s": 1.0},
    },
    "last_frame": "/data/2027-04-12/main_0001.fits",
}
SAFETY = {
    "verdict": "safe",
    "reasons": [],
    "shutter": "open",
    "lease": {"holder": "telescope:3", "age_s": 1.0, "limit_s": 20.0},
    "evidence": [
        {"source": "weather", "quantity": "rain_rate_mm_per_h", "value": 0.0, "unit": "mm/h", "age_s": 1.0, "limit_s": 30.0, "safe": True},
        {"source": "weather", "quantity": "humidity_percent", "value": 35.0, "unit": "%", "age_s": 1.0, "limit_s": 60.0, "safe": True},
    ],
    "alarms": [{"id": "a1", "key": "k", "severity": "warning", "text": "the <b>seeing</b> monitor is late", "state": "raised"}],
}


class PaperHouse:
    """Answers as a running observatory would; remembers what was asked."""

    def __init__(self) -> None:
        self.asked: list[Command] = []
        self.audited: list[OperatorActed] = []
        self.rows: list[LogRow] = [LogRow(1, "2027-04-12T22:00:00.000Z", "night.changed", "2027-04-12", "state ready")]
        self.frames: dict[str, Picture] = {}
        self.refuse: dict[str, NightbellError] = {}
        self.slow_s: dict[str, float] = {}
        self.broker = True
        self.telescope = dict(TELESCOPE)
        self.safety = dict(SAFETY)
        self.answers: Callable[[str, Command, float], dict[str, Any]] | None = None

    def ask(self, module: str, command: Command, timeout_s: float) -> dict[str, Any]:
        self.asked.append(command)
        if module in self.slow_s:
            threading.Event().wait(self.slow_s[module])
        if module in self.refuse:
            raise self.refuse[module]
        if self.answers is not None:
            return self.answers(module, command, timeout_s)
        return {"state": "stopping"}

    def audit(self, acted: OperatorActed) -> None:
        self.audited.append(acted)

    def tiles(self) -> dict[str, Tile]:
        now = time.monotonic()
        heard = {"telescope": Heard("telescope", self.telescope, now), "safety": Heard("safety", self.safety, now)}
        return make_tiles(heard, now, rate=1.0, connected=self.broker)

    def reports(self) -> Mapping[str, Mapping[str, Any]]:
        return {"telescope": self.telescope, "safety": self.safety}

    def log_rows(self, *, kind: str, text: str, limit: int) -> Sequence[LogRow]:
        return [row for row in self.rows[::-1] if row.type.startswith(kind) and text in row.text][:limit]

    def pictures(self) -> Mapping[str, Picture]:
        return {one.kind: one for one in self.frames.values()}

    def picture(self, frame_id: str, kind: str) -> Picture | None:
        return self.frames.get(f"{frame_id}/{kind}")

    def plan(self) -> dict[str, Any]:
        threading.Event().wait(self.slow_s.get("plan", 0.0))
        if "telescope" in self.refuse:
            raise self.refuse["telescope"]
        return {"night": "2027-04-12", "revision": 2, "items": [], "rejected": [{"name": "NGC1", "reason": "never above 25 deg"}]}

    def now(self) -> dict[str, Any]:
        return {"utc": "2027-04-13T00:05:00.000Z", "rate": "60", "simulated": True, "broker": self.broker}


class RunningConsole:
    """A console with its web server on a free port."""

    def __init__(self, home: Path, *, house: PaperHouse | None = None) -> None:
        self.house = house or PaperHouse()
        self.users = Users(home / "users.sqlite")
        bound = bind("127.0.0.1", 0)
        port = int(bound.getsockname()[1])
        self.console = Console(self.house, self.users, site="demo", hosts=allowed_hosts(port, ()))
        self.web = WebServer(self.console, bound)
        self.web.start()
        self.url = f"http://127.0.0.1:{port}"

    def stop(self) -> None:
        self.web.stop()


def refused(what: str) -> Refused:
    return Refused(what, where="telescope", remedy="Wait")


def until(is_so: Callable[[], bool], within_s: float = 5.0) -> None:
    end = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < end, "not so in time"
        time.sleep(0.01)
