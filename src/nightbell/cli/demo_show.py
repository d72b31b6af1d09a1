"""What a human sees of the running demo: one picture on a terminal, plain lines elsewhere."""

from __future__ import annotations

import re
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from nightbell.cli.story import Story, Told
from nightbell.contracts.events import (
    AlarmRaised,
    AlertReceived,
    CalibrationBlocked,
    CalibrationDone,
    CalibrationFailed,
    FramesArchived,
    FramesStored,
    ModuleLost,
    ModuleUp,
    NightChanged,
    ObservationDone,
    ObservationFailed,
    ObservationStarted,
    PlanReady,
    SafetyChanged,
    TargetsReady,
    TransientsFound,
)
from nightbell.contracts.instants import format_utc

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["Lines", "Picture", "Show", "in_words", "make_show"]

N_RECENT = 9
_GO = r"GO [0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"


def in_words(told: Told) -> str:  # noqa: C901, PLR0912  (one row per type of event)
    """One event in a few words, for a line of progress."""
    match told.event:
        case AlertReceived(alert=alert, decision=decision, rule=rule):
            return f"{alert.superevent_id} {alert.kind}: {decision}, by rule '{rule}'"
        case TargetsReady(targets=targets, observatory=observatory):
            return f"{len(targets)} for {observatory}: {', '.join(one.name for one in targets[:5])}"
        case PlanReady(items=items, revision=revision, cause=cause):
            return f"revision {revision}, {len(items)} visits ({cause})"
        case NightChanged(state=state, reason=reason):
            # The token that allowed it stands in the event; a watcher need not read it.
            return f"{state.value.replace('_', ' ')}: {re.sub(_GO, 'GO given', reason)}"
        case ObservationStarted(item=item):
            return f"{item.name} {item.filter}, {item.n_exposures} x {item.exposure_s:g} s at {item.altitude_deg:.0f} deg"
        case ObservationDone(target_id=target_id, frame_ids=frame_ids):
            return f"{target_id}: {len(frame_ids)} frames"
        case ObservationFailed(target_id=target_id, reason=reason):
            return f"{target_id}: {reason}"
        case FramesStored(frames=frames) | FramesArchived(frames=frames):
            kinds: dict[str, int] = {}
            for one in frames:
                name = f"{one.frame_type.value.lower()} {one.filter or ''}".strip() + (f" {one.object_name}" if one.object_name else "")
                kinds[name] = kinds.get(name, 0) + 1
            return ", ".join(f"{n} {name}" for name, n in kinds.items())
        case CalibrationDone(products=products, masters=masters):
            made = [f"master {one.kind} {one.filter or ''}".strip() for one in masters]
            made += [f"{len(products)} lights of {', '.join(sorted({one.object_name or '?' for one in products}))}"] if products else []
            return " and ".join(made)
        case CalibrationBlocked(blocked=blocked):
            return f"{len(blocked)} frames wait for {', '.join(sorted({what for one in blocked for what in one.missing}))}"
        case CalibrationFailed(failed=failed):
            return "; ".join(f"{Path(one.source).name}: {one.error}" for one in failed)
        case TransientsFound(object_name=name, target_id=target_id, candidates=candidates):
            if not candidates:
                return f"nothing new at {name or target_id}"
            first = candidates[0]
            host = f", {first.host_separation_arcsec:.1f} arcsec from {first.host}" if first.host_separation_arcsec is not None else ""
            mag = f" of mag {first.mag:.1f}" if first.mag is not None else ""
            return f"NEW source{mag} at {first.ra_deg:.4f} {first.dec_deg:+.4f}{host}"
        case SafetyChanged(verdict=verdict, reasons=reasons, dome_shutter=shutter):
            return f"{verdict.value}, dome {shutter}" + (f": {'; '.join(reasons)}" if reasons else "")
        case AlarmRaised(severity=severity, text=text):
            return f"{severity.value}: {text}"
        case ModuleUp(module=module):
            return module
        case ModuleLost(module=module, reason=reason):
            return f"{module}: {reason}"
        case _:
            return told.subject


def is_news(told: Told) -> bool:
    """Whether a watcher wants to see it: weather as it drifts and processes that come and go in order are not."""
    return told.type not in {"module.up", "weather.changed"} and not (isinstance(told.event, ModuleLost) and told.event.clean)


class Show(Protocol):
    """What the demo tells its watcher."""

    def say(self, text: str) -> None:
        """A step of the demo itself."""

    def keep(self, text: str) -> None:
        """What the watcher may want to use at any time: it stays in sight."""

    def event(self, told: Told) -> None:
        """An event, once."""

    def tick(self, story: Story, world_ns: int | None) -> None:
        """How things stand, several times a second."""

    def close(self) -> None:
        """Leave the terminal in order."""


class Lines:
    """One line per step and event, with real seconds and the time of the world."""

    def __init__(self, stream: TextIO, *, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._clock_s, self._began_s = stream, clock_s, clock_s()
        self._world = ""

    def say(self, text: str) -> None:
        self._write("", text)

    def keep(self, text: str) -> None:
        self._write("", text)

    def event(self, told: Told) -> None:
        if not is_news(told):
            return
        self._world = told.time[11:19] if told.world_ns is not None else self._world
        self._write(self._world, f"{told.type:20} {in_words(told)}")

    def tick(self, story: Story, world_ns: int | None) -> None:
        """Lines need no picture."""

    def close(self) -> None:
        """Nothing is open."""

    def _write(self, world: str, text: str) -> None:
        print(f"{self._clock_s() - self._began_s:6.1f} s  {world:8}  {text}".rstrip(), file=self._stream, flush=True)


class Picture:
    """The night as it stands, redrawn in place (rich); the lines of the last events below."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.live import Live

        self._began_s = time.monotonic()
        self._recent: deque[tuple[str, str, str]] = deque(maxlen=N_RECENT)
        self._doing = self._kept = ""
        self._story: Story | None = None
        self._world_ns: int | None = None
        self._live = Live(
            console=Console(file=stream), refresh_per_second=5, transient=False, get_renderable=self._draw, vertical_overflow="crop"
        )
        self._live.start()

    def say(self, text: str) -> None:
        self._doing = text

    def keep(self, text: str) -> None:
        self._kept = text

    def event(self, told: Told) -> None:
        if is_news(told):
            self._recent.append((told.time[11:19] if told.world_ns is not None else "", told.type, in_words(told)))

    def tick(self, story: Story, world_ns: int | None) -> None:
        self._story, self._world_ns = story, world_ns

    def close(self) -> None:
        self._live.stop()

    def _draw(self) -> RenderableType:
        from rich.console import Group
        from rich.padding import Padding
        from rich.table import Table
        from rich.text import Text

        story = self._story
        state = story.states[-1] if story is not None and story.states else None
        world = format_utc(self._world_ns, digits=0)[:19].replace("T", " ") if self._world_ns is not None else "the world is starting"
        head = Text.assemble(
            ("nightbell demo  ", "bold"),
            (world, "cyan"),
            " UTC  ",
            (state.state.value.replace("_", " ") if state is not None else "", "bold green"),
            f"   {time.monotonic() - self._began_s:.0f} s",
        )
        parts: list[Any] = [head, *([Text(self._kept, overflow="fold")] if self._kept else []), Text(self._doing, style="dim")]
        if story is not None and story.outcomes:
            table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
            for name in ("rank", "target", "p(host)", "lights", "calibrated", "new", "state"):
                table.add_column(name, justify="right" if name in {"rank", "p(host)", "lights", "calibrated", "new"} else "left")
            for one in story.outcomes:
                new = "" if one.searched is None else str(len(one.searched.candidates))
                chance = "" if one.target.p_host is None else f"{one.target.p_host:.3f}"
                style = "green" if one.words == "observed" else ""
                table.add_row(
                    str(one.target.rank),
                    one.target.name,
                    chance,
                    str(len(one.frames)),
                    str(one.n_calibrated),
                    Text(new, style="bold magenta" if new not in {"", "0"} else ""),
                    Text(one.words, style=style),
                )
            parts.append(Padding(table, (1, 0, 0, 0)))
        if self._recent:
            # The words take what is left of the line; time and type are never cut.
            log = Table(box=None, padding=(0, 2, 0, 0), show_header=False, expand=True)
            log.add_column(style="cyan", no_wrap=True)
            log.add_column(style="bold", no_wrap=True)
            log.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
            for row in self._recent:
                log.add_row(*row)
            parts.append(Padding(log, (1, 0, 0, 0)))
        return Group(*parts)


def make_show(*, to_stderr: bool) -> Show:
    """A picture when a human looks at a terminal that can be redrawn, else lines; on stderr when stdout is for JSON."""
    stream = sys.stderr if to_stderr else sys.stdout
    if not stream.isatty():
        return Lines(stream)
    from rich.console import Console

    return Lines(stream) if Console(file=stream).is_dumb_terminal else Picture(stream)
