"""The demo's night: a copied installation, its real processes, an alert handed in, a transient put into the sky, and who watches.

    DemoNight.start  -> processes ready, transient injected
             .watch  -> alert submitted; events of both brokers until nothing is missing; the night is closed
             .end    -> all stopped in order, simulator and brokers last, so that truth and journals are read at the very end
             .story  -> what report and summary are made of

Nothing here moves the telescope: at stage 3 the night runs by itself, at stage 2 this sends what a remote script would send.
"""

from __future__ import annotations

import dataclasses
import math
import random
import re
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from nightbell.bus.relay import RelaySettings
from nightbell.bus.script import Connection
from nightbell.cli.demo_audit import Carried, audit, read_outbox
from nightbell.cli.demo_show import Show
from nightbell.cli.installation_copy import copy_installation, shipped
from nightbell.cli.story import Lost, Process, Story, Told, WorldTimes
from nightbell.cli.supervisor import Supervisor
from nightbell.cli.up import stop_order, waves
from nightbell.contracts.errors import Failed, Missing, NightbellError, Refused
from nightbell.contracts.instants import format_utc, parse_utc
from nightbell.contracts.states import NightState
from nightbell.settings import Installation, load_installation

__all__ = ["DemoNight", "Wishes", "make_installation", "place_beside", "still_missing"]

ENOUGH_TARGETS = 3
ENOUGH_LIGHTS = 6
FOUND_WITHIN_ARCSEC = 3.0
HOST = (197.4487, -23.3839)
"""NGC 4993, ICRS degrees."""
TRANSIENT_MAG = {"g": 17.4, "r": 17.3, "i": 17.2}
"""About AT 2017gfo half a day after the merger (Villar et al. 2017, ApJL 851, L21)."""
DECAY_MAG_PER_DAY = 1.0
NOTICE_AFTER_NS = 240_000_000_000
"""The generated notice is dated four minutes after its event; it is not handed in before."""
ROOM_MIB = 250
START_S = 90.0
CLOSING_S = 30.0
"""Real seconds kept for closing, stopping and the report."""
SETTLE_S = 8.0
OVER = (NightState.CLOSED, NightState.DAY)
NEEDS_HUMAN = (NightState.FAULT, NightState.STUCK, NightState.MANUAL)


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """How the demo shall run."""

    out: Path
    stage: int = 3
    rate: float = 100.0
    seed: int = 20270412
    limit_s: float = 300.0


def place_beside(ra_deg: float, dec_deg: float, seed: int, *, about_arcsec: float = 10.0) -> tuple[float, float]:
    """A place `about_arcsec` (within a tenth) from there, in a direction that only the seed knows."""
    chance = random.Random(seed)
    away_deg = chance.uniform(0.9, 1.1) * about_arcsec / 3600
    angle = chance.uniform(0.0, 2 * math.pi)
    return (
        round((ra_deg + away_deg * math.sin(angle) / math.cos(math.radians(dec_deg))) % 360, 7),
        round(dec_deg + away_deg * math.cos(angle), 7),
    )


def make_installation(wishes: Wishes) -> Installation:
    """conf/demo and the brokers' settings, copied to `out` on free ports, with the wished rate and stage."""
    if wishes.stage == 1:
        raise Refused(
            "at stage 1 human hands open the dome and point the telescope, and in the demo there are none",
            where="--stage",
            remedy="Use --stage 2 (commands as a remote script sends them) or 3 (by itself)",
        )
    place = next(folder for folder in (wishes.out, *wishes.out.parents) if folder.exists())
    free_mib = shutil.disk_usage(place).free / 2**20
    if free_mib < ROOM_MIB:
        words = f"{free_mib:.0f} MiB are free, the demo needs {ROOM_MIB}: frames, copies of them, and what brokers keep in reserve"
        raise Failed(words, where=str(wishes.out), remedy="Free space, or give an --out on another disk")
    try:
        copy_installation("demo", wishes.out)
        shutil.copytree(shipped("brokers"), wishes.out / "brokers")
    except OSError as error:  # shutil.Error tells of each file; the first says enough
        words = error.args[0][0][2] if isinstance(error, shutil.Error) else error.strerror or str(error)
        raise Failed(f"cannot be written: {words}", where=str(wishes.out), remedy="Free space, or give another --out") from error
    for file in (wishes.out / "brokers").glob("*/broker.toml"):
        # The reserve of a real broker is more than many a laptop or container has free; the demo writes about 100 MB.
        _set(file, "reserve_mib", "64.0")
    _set(wishes.out / "modules" / "simulator.toml", "rate", f"{wishes.rate:g}")
    if wishes.stage == 2:
        _set(wishes.out / "observatory.toml", "stage", "2")
        _set(wishes.out / "modules" / "telescope.toml", "trigger", '"command"')
        _set(wishes.out / "modules" / "telescope.toml", "end_when_done", "false")
    return load_installation(wishes.out, home=wishes.out / "state")


def _set(path: Path, key: str, value: str) -> None:
    """Change one line of a settings file; its comment stays."""
    text, n = re.subn(rf"^({key} *= *)\S+", rf"\g<1>{value}", path.read_text(encoding="utf-8"), count=1, flags=re.MULTILINE)
    if n != 1:
        raise Failed(f"there is no line {key} = ...", where=str(path), remedy="Install nightbell again")
    path.write_text(text, encoding="utf-8", newline="\n")


def still_missing(story: Story, *, archive: bool = False) -> list[str]:
    """What the night still owes, in words, in the order of the chain; empty when it is complete but for closing."""
    if not story.alerts:
        return ["the alert was not read"]
    if not story.target_lists:
        return ["no targets were ranked"]
    wanted = {target.target_id for one in story.target_lists for target in one.targets}
    items = {item_id: item for item_id, item in story.plan_items.items() if item.target_id in wanted}
    if not items:
        return ["no plan holds the targets"]
    missing: list[str] = []
    done, failed, left = story.done_items, story.failed_items, story.left_items
    waiting = [item for item_id, item in items.items() if item_id not in done and (item_id not in failed or item_id in left)]
    if waiting:
        missing.append(f"not observed: {', '.join(f'{item.name} {item.filter}' for item in waiting)}")
    if not waiting and len(story.targets_observed) < ENOUGH_TARGETS:
        missing.append(f"{len(story.targets_observed)} targets were observed, wanted are {ENOUGH_TARGETS}")
    lights, products = story.lights, story.products
    raw = [one for one in lights if one.sha256 not in products]
    if raw:
        missing.append(f"not calibrated: {len(raw)} of {len(lights)} lights")
    elif len(lights) < ENOUGH_LIGHTS:
        missing.append(f"{len(lights)} lights were calibrated, wanted are {ENOUGH_LIGHTS}")
    searched = story.searched_products
    unsearched = {one.object_name or one.target_id for one in products.values() if one.target_id and one.product_id not in searched}
    if unsearched:
        missing.append(f"not searched: {', '.join(sorted(map(str, unsearched)))}")
    nearest = story.nearest_candidate()
    if story.injected is not None and (nearest is None or nearest[1] > FOUND_WITHIN_ARCSEC):
        where = f"the nearest candidate is {nearest[1]:.1f} arcsec off" if nearest is not None else "there is no candidate"
        missing.append(f"the transient was not found: {where}")
    if archive and (unsafe := len(story.frames) - len(story.archived & set(story.frames))):
        missing.append(f"not archived: {unsafe} of {len(story.frames)} frames")
    return missing


class DemoNight:
    """One run. Use it as a context manager: whatever happens, its processes end with the block."""

    def __init__(self, wishes: Wishes, show: Show) -> None:
        self.wishes, self.show = wishes, show
        self.began_s = time.monotonic()
        self.installation = make_installation(wishes)
        self.names = list(self.installation.settings.run)
        self.injected = place_beside(*HOST, wishes.seed)
        self.truth: dict[str, Any] | None = None
        self.missing: list[str] = []
        self.audit: Lost | None = None
        self.events: list[Told] = []
        self.submitted_ns: int | None = None
        self._seen: set[str] = set()
        self._last_seq = dict.fromkeys(self.installation.settings.brokers, 0)
        self._connections: dict[str, Connection] = {}
        self._ready_s: dict[str, float] = {}
        self._spawned_s: dict[str, float] = {}
        self._asked: dict[str, float] = {}
        self._times: WorldTimes | None = None
        self._stopped: list[str] = []
        self._refused = ""
        self._told_to_wait = False
        self.supervisor = Supervisor(self.installation, self.names, tell=self._heed_supervisor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._hang_up()
        self.supervisor.stop(order=[name for name in stop_order(self.names) if name not in self._stopped])

    @property
    def elapsed_s(self) -> float:
        """Real seconds since the beginning."""
        return time.monotonic() - self.began_s

    def _heed_supervisor(self, name: str, text: str) -> None:
        now_s = time.monotonic()
        if text == "starting":
            self._spawned_s[name] = now_s
        elif text == "ready":
            self._ready_s.setdefault(name, now_s - self._spawned_s.get(name, now_s))
        else:
            self.show.say(f"{name}: {text}")

    # -- start ----------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """All processes ready, the clock known, the transient in the sky. Raises `Failed` naming who is not ready."""
        from nightbell.simulator.process import TOKEN_FILE, SimulatedObservatory
        from nightbell.simulator.settings import SimulatorSettings

        self.show.say(f"starting {len(self.names)} processes; state and logs in {self.installation.home}")
        self.supervisor.start(wait_s=START_S, in_waves=waves(self.names))
        home = self.installation.home
        port = self.installation.module_settings("simulator", SimulatorSettings).port
        token = (home / "simulator" / TOKEN_FILE).read_text(encoding="utf-8").strip()
        self.world = SimulatedObservatory(port, token)
        told = self.world.clock()
        # The world's clock is told against the monotonic clock; ids carry the host's wall clock.
        wall_ns = time.time_ns() - time.monotonic_ns()
        self._times = WorldTimes(int(told["t0_ns"]), int(told["m0_ns"]) + wall_ns, float(told["rate"]))
        self._connections = {
            name: Connection(self.installation, name="demo", broker=name, wait_s=5.0) for name in self.installation.settings.brokers
        }
        self.show.say(f"all {len(self.names)} processes are ready; the world runs {self._times.rate:g} times faster than ours")
        ra_deg, dec_deg = self.injected
        begin_utc = format_utc(self._world_ns())
        self.world.post(
            "transient", ra_deg=ra_deg, dec_deg=dec_deg, mag=TRANSIENT_MAG, t0_utc=begin_utc, decay_mag_per_day=DECAY_MAG_PER_DAY
        )
        if (link := home / "console" / "first-login.txt").is_file():
            self.show.keep(f"watch it in a browser too (the link works once): {link.read_text(encoding='utf-8').strip()}")
        self.show.say(f"a transient of magnitude {TRANSIENT_MAG['r']:g} is in the sky, {self._from_host_arcsec():.1f} arcsec from NGC4993")

    def _from_host_arcsec(self) -> float:
        ra_deg, dec_deg = self.injected
        east = (ra_deg - HOST[0]) * math.cos(math.radians(HOST[1]))
        return 3600 * math.hypot(east, dec_deg - HOST[1])

    def _world_ns(self) -> int:
        assert self._times is not None
        return self._times.world_ns(time.time_ns())

    # -- the night ------------------------------------------------------------------------------------------------------

    def watch(self) -> None:
        """Hand in the alert and follow the night until nothing is missing and the dome is closed, or the time is up."""
        archive = "archive" in self.names
        self.missing = ["the night has not begun"]
        while self.missing and time.monotonic() < self.began_s + self.wishes.limit_s - self._reserve_s():
            self._look()
            self._hand_in_alert()
            story = self.story()
            self.missing = still_missing(story, archive=archive)
            state = story.states[-1].state if story.states else None
            if state in NEEDS_HUMAN:
                self.missing.append(f"the night is {state.value}: {story.states[-1].reason}")
                break
            if self.wishes.stage == 2:
                self._script(state)
            self._say_what_is_waited_for(story)
            time.sleep(0.25)
        if self.missing:
            self.show.say(f"the time is up, or the night cannot go on; missing: {'; '.join(self.missing)}")
        self._close()
        self._settle()

    def _reserve_s(self) -> float:
        """What is kept of the limit: with the dome closed only the processes have to be stopped."""
        states = self.story().states
        return CLOSING_S / 2 if states and states[-1].state in OVER else CLOSING_S

    def _look(self) -> None:
        """New events of all brokers, each shown once; then the picture."""
        for name, connection in self._connections.items():
            try:
                for seen in connection.events("**", since=self._last_seq[name] + 1, follow=False):
                    self._last_seq[name] = seen.seq
                    told = Told.of(seen, name)
                    self.events.append(told)
                    if told.id not in self._seen:
                        self._seen.add(told.id)
                        self.show.event(told)
            except NightbellError as error:
                self.show.say(f"broker {name} does not answer: {error}")
        self.show.tick(self.story(), self._world_ns())

    def _hand_in_alert(self) -> None:
        """The generated notice, as soon as the world's clock has passed its date."""
        from nightbell.simulator.notice import DEMO_EVENT_UTC, write_demo_alert

        now_ns = self._world_ns()
        if self.submitted_ns is not None or now_ns < parse_utc(DEMO_EVENT_UTC) + NOTICE_AFTER_NS:
            return
        made = write_demo_alert(self.wishes.out / "alert")
        self.show.say(f"handing the notice of {made.superevent_id} to the alert robot")
        submitted_ns = time.time_ns()
        try:
            self._ask("alerts", "submit_notice", path=str(made.notice))
        except (Failed, Missing) as error:  # it may have died meanwhile; the same notice again is known as the same
            self.show.say(f"{error}; handing it in again")
        else:
            self.submitted_ns = submitted_ns

    def _say_what_is_waited_for(self, story: Story) -> None:
        """Once: dark already, but the first target has yet to rise; a silent half minute looks like a fault."""
        if self._told_to_wait or self._times is None or not story.states or story.states[-1].state is not NightState.OBSERVING:
            return
        first = min(story.plan_items.values(), key=lambda item: item.start_utc, default=None)
        left_s = (parse_utc(first.start_utc) - self._world_ns()) / 1e9 if first is not None else 0.0
        if first is not None and left_s > 0:
            self._told_to_wait = True
            real_s = left_s / self._times.rate
            self.show.say(f"until {first.start_utc[11:16]} UTC the targets are too low: {real_s:.0f} s of ours")

    def _script(self, state: NightState | None) -> None:
        """Stage 2: what a remote script sends."""
        if state in (None, NightState.DAY):
            self._ask_again("telescope", "prepare_night")
        elif state is NightState.READY:
            # Refused until safety gives its GO: the Sun has to set first.
            self._ask_again("telescope", "open_night")

    def _ask_again(self, module: str, verb: str) -> None:
        """A command, at most once a second; what refuses it is shown when it changes."""
        now_s = time.monotonic()
        if now_s - self._asked.get(verb, 0.0) < 1.0:
            return
        self._asked[verb] = now_s
        try:
            answer = self._ask(module, verb)
            self.show.say(f"{module} {verb}: {answer.get('state', '')}")
        except Refused as error:
            # The same refusal with another number in it is no news.
            if (known := re.sub(r"[-\d.]+", "", str(error))) != self._refused:
                self._refused = known
                self.show.say(f"{module} {verb} is refused: {error}")
        except (Failed, Missing) as error:
            self.show.say(str(error))

    def _ask(self, module: str, verb: str, timeout_s: float = 20.0, **fields: Any) -> dict[str, Any]:
        connection = self._connections[self.installation.broker_of(module)]
        return connection.ask(module, verb, timeout_s=timeout_s, **fields)

    def _close(self) -> None:
        """End the night unless it has ended by itself, and wait until the dome is truly closed."""
        self._look()
        state = self.story().states[-1].state if self.story().states else None
        if state is not None and state not in OVER:
            try:
                self._ask("telescope", "close_night", reason="the demo's night is over")
            except NightbellError as error:
                self.missing.append(f"close_night was not carried out: {error}")
        if not self._wait(self._is_over, self._left_s(CLOSING_S / 2)):
            self.missing.append("the night was not closed")

    def _is_over(self) -> bool:
        states = self.story().states
        return bool(self.world.truth()["dome_closed"]) and (not states or states[-1].state in OVER)

    def _settle(self) -> None:
        """Wait until everybody has handled what was said; what they say about it is told too."""

        def quiet() -> bool:
            for connection in self._connections.values():
                if any(one["behind"] or one["in_flight"] for one in connection.status()["subscriptions"]):
                    return False
            return all(self._ask(name, "status", timeout_s=5.0)["outbox"] == 0 for name in self._modules)

        if not self._wait(quiet, self._left_s(SETTLE_S)):
            self.missing.append("not every event was handled at the end")

    def _left_s(self, at_least_s: float) -> float:
        """What is left of the demo's time but for stopping: a slow machine may need it."""
        return max(at_least_s, self.began_s + self.wishes.limit_s - CLOSING_S / 2 - time.monotonic())

    def _wait(self, condition: Callable[[], bool], limit_s: float) -> bool:
        until_s = time.monotonic() + limit_s
        while True:
            self._look()
            try:
                if condition():
                    return True
            except (NightbellError, OSError) as error:
                self.show.say(str(error))
            if time.monotonic() > until_s:
                return False
            time.sleep(0.2)

    @property
    def _modules(self) -> list[str]:
        return [name for name in self.names if not name.startswith("broker:") and name != "simulator"]

    # -- the end --------------------------------------------------------------------------------------------------------

    def end(self, *, stop: bool = True) -> None:
        """Stop the modules, read the world's truth and the journals, stop the rest, compare everything."""
        if stop:
            self.show.say("stopping the processes in order")
            self._stop([name for name in stop_order(self.names) if name in self._modules])
        self.truth = self.world.truth()
        if not self.truth["dome_closed"]:
            self.missing.append("the dome is open")
        self._look()
        letters = [
            f"{one.get('type')} for {one.get('sub')}: {'; '.join(map(str, one.get('errors', ())))}"
            for connection in self._connections.values()
            for one in connection.dead_letters()
        ]
        journals: dict[str, Sequence[Told]] = {
            name: [one for one in self.events if one.broker == name] for name in self.installation.settings.brokers
        }
        outboxes = [
            row
            for name in self._modules
            if (path := self.installation.home / name / "module.db").is_file()
            for row in read_outbox(path, name, self.installation.broker_of(name))
        ]
        relays = []
        if "relay" in self.names:
            relay = self.installation.module_settings("relay", RelaySettings)
            relays.append(Carried(relay.source, relay.target, relay.patterns))
        self.audit = audit(journals, outboxes, carried=relays, dead_letters=letters)
        if stop:
            self._hang_up()
            self._stop(stop_order(self.names))

    def _stop(self, names: Sequence[str]) -> None:
        names = [name for name in names if name not in self._stopped]
        self.supervisor.stop(order=names)
        self._stopped += names

    def _hang_up(self) -> None:
        for connection in self._connections.values():
            connection.close()
        self._connections = {}

    def story(self) -> Story:
        """Everything that is known so far."""
        return Story(
            self.events,
            site=self.installation.site,
            injected=self.injected,
            truth=self.truth,
            processes=self._processes(),
            audit=self.audit,
            missing=self.missing if self.truth is not None else (),
            world_times=self._times,
            submitted_ns=self.submitted_ns,
            title=f"nightbell demo, stage {self.wishes.stage}",
        )

    def _processes(self) -> list[Process]:
        rows = []
        for name in self.names:
            child = self.supervisor.children[name]
            ready = child.ready or {}
            status = child.process.poll() if child.process is not None else None
            ended = "" if status is None else "in order" if status == 0 else f"exit {status}"
            rows.append(Process(name, ready.get("pid"), self._ready_s.get(name), child.n_restarts, ended))
        return rows

    def summary(self) -> dict[str, Any]:
        """The answer of `nightbell demo --json`, but for wall_s and report."""
        story, audited = self.story(), self.audit or Lost()
        nearest = story.nearest_candidate()
        products = story.products
        lights = story.lights
        found: dict[str, float | None] = {"ra_deg": None, "dec_deg": None, "separation_arcsec": None}
        if nearest is not None:
            found = {"ra_deg": nearest[0].ra_deg, "dec_deg": nearest[0].dec_deg, "separation_arcsec": round(nearest[1], 3)}
        closed = bool(self.truth and self.truth["dome_closed"])
        ok = not self.missing and closed and not audited.lost and not audited.duplicates
        return {
            "ok": ok,
            "stage": self.wishes.stage,
            "night": story.night,
            "events": story.counts(),
            "frames_stored": len(story.frames),
            "frames_calibrated": sum(one.sha256 in products for one in lights),
            "targets_observed": len(story.targets_observed),
            "transient": {"injected": {"ra_deg": self.injected[0], "dec_deg": self.injected[1]}, "found": found},
            "dome_closed": closed,
            "lost": len(audited.lost),
            "duplicates": len(audited.duplicates),
            "missing": self.missing,
            "findings": [*audited.lost, *audited.duplicates],
            "latencies": [dataclasses.asdict(one) for one in story.latencies()],
            "out": str(self.wishes.out.resolve()),
        }
