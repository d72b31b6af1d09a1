"""The side channels below /sim/, for whoever judges or drives the world. Devices' users never need them, but for the clock.

    GET  /sim/clock                       {"t0_ns", "m0_ns", "rate"}: no token
    GET  /sim/truth                       what truly happened
    POST /sim/fault      {...}            faults.py; {"clear": "dome"} or {"clear": "*"} ends them
    POST /sim/transient  {ra_deg, dec_deg, mag: {band: mag}, t0_utc, decay_mag_per_day}
    POST /sim/weather    {"for_s": 600, QUANTITY: value, ...}
    POST /sim/rate       {"rate": 1.0}
    POST /sim/jump       {"seconds": 3600}   forward, only with the dome closed
    POST /sim/references {fields: [{name, ra_deg, dec_deg}], folder, exposure_s, filters}: deep frames with a true WCS

Every call but the clock carries the token in the header X-Token (or ?token=).
"""

from __future__ import annotations

import asyncio
import hmac
from pathlib import Path
from typing import Any

import msgspec

from nightbell.contracts.errors import NightbellError, Refused
from nightbell.simulator.alpaca_server import Reply, Request
from nightbell.simulator.faults import Faults
from nightbell.simulator.members import View
from nightbell.simulator.references import render_references
from nightbell.simulator.world import World

__all__ = ["SideChannel"]


def _json(value: object, status: int = 200) -> Reply:
    return Reply(status, body=msgspec.json.encode(value))


class SideChannel:
    """Answers /sim/..."""

    def __init__(self, world: World, views: dict[str, View], faults: Faults, token: str) -> None:
        self._world, self._views, self._faults, self._token = world, views, faults, token

    async def __call__(self, request: Request) -> Reply:
        name = request.path.removeprefix("/sim/")
        if name == "clock" and request.verb == "GET":
            return _json(self._world.time.as_dict())
        given = request.headers.get("x-token") or dict(request.fields).get("token", "")
        if not hmac.compare_digest(given.encode(), self._token.encode()):
            return _json({"code": "refused", "what": "the token is wrong", "remedy": "Send it in the header X-Token"}, 403)
        try:
            if request.verb == "GET":
                return _json(self._world.truth()) if name == "truth" else _json({"code": "missing", "what": name}, 404)
            wish = msgspec.json.decode(request.body or b"{}", type=dict[str, Any])
            return _json(await self._do(name, wish))
        except NightbellError as error:
            return _json(error.as_dict(), 400)
        except (msgspec.MsgspecError, KeyError, TypeError, ValueError) as error:
            return _json({"code": "bad_input", "what": f"{type(error).__name__}: {error}", "where": request.path}, 400)

    async def _do(self, name: str, wish: dict[str, Any]) -> dict[str, Any]:
        world = self._world
        now_s = world.advance()
        match name:
            case "fault":
                return self._fault(wish, now_s)
            case "transient":
                return world.add_transient(wish)
            case "weather":
                for_s = float(wish.pop("for_s", 1e9))
                world.weather.post(wish, until_s=now_s + for_s)
                return {"until_utc": world.utc(now_s + for_s) if for_s < 1e9 else None}
            case "rate":
                world.time.set_rate(float(wish["rate"]))
                return world.time.as_dict()
            case "jump":
                if world.dome.shutter.status(now_s) != 1:
                    raise Refused("the dome is open", where="/sim/jump", remedy="Close it: time jumps only by day or when closed")
                world.time.jump(float(wish["seconds"]))
                return world.time.as_dict()
            case "references":
                paths = await asyncio.to_thread(
                    render_references,
                    world.settings,
                    Path(str(wish["folder"])),
                    [(str(one["name"]), float(one["ra_deg"]), float(one["dec_deg"])) for one in wish["fields"]],
                    galaxies=world.galaxies,
                    filters=tuple(wish.get("filters", ())) or None,
                    exposure_s=float(wish.get("exposure_s", 1800.0)),
                )
                return {"files": [str(path) for path in paths]}
        raise Refused(f"there is no side channel {name!r}", where="/sim", remedy="Use fault, transient, weather, rate, jump, references")

    def _fault(self, wish: dict[str, Any], now_s: float) -> dict[str, Any]:
        if "clear" in wish:
            ended = self._faults.clear(str(wish["clear"]))
            self.apply(now_s)
            return {"ended": ended}
        fault = self._faults.post(wish, now_s=now_s)
        self.apply(now_s)
        return {"device": fault.device, "member": fault.member, "kind": fault.kind, "from_utc": self._world.utc(fault.from_s)}

    def apply(self, now_s: float) -> None:
        """Let the faults that sit in the hardware take hold or let go. Called at each tick."""
        dome = self._world.dome
        stuck = [fault for fault in self._faults.active("stuck", now_s) if fault.device in ("dome", "*")]
        shutter = any(fault.member in ("shutter", "shutterstatus", "*") for fault in stuck)
        if shutter != dome.shutter.limp:
            dome.shutter.set_limp(now_s, limp=shutter)
        rotation = any(fault.member in ("azimuth", "*") for fault in stuck)
        if rotation != dome.limp:
            dome.set_limp(now_s, limp=rotation)
        for fault in self._faults.active("stuck", now_s):
            if fault.device == "camera" and not fault.applied:
                fault.applied = True
                self._world.camera.abort()
                self._world.camera.failed = True
        for fault in self._faults.active("driver_restart", now_s):
            if not fault.applied:
                fault.applied = True
                for kind, view in self._views.items():
                    if fault.device in (kind, "*"):
                        view.connected = False
                        view.on_restart()
