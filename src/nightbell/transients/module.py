"""The transients process: calibrated lights of a target, as they come, against a reference; what is new is announced.

    calibration.done -> lights (own table) -> worker, target by target: find_transients() -> transients.found

A target is searched when `min_frames` of its lights are there, or `wait_s` after the last one came; more lights later give a
new answer with the longer list. An answer is given also when nothing was found, or when no reference covers the field.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from nightbell.bus.module import Module, Progress, Turn, answers, on, run_module
from nightbell.contracts.commands import FindTransients
from nightbell.contracts.errors import BadInput, NightbellError
from nightbell.contracts.events import CalibrationDone, TransientsFound
from nightbell.contracts.records import ProductRef
from nightbell.settings import Installation
from nightbell.transients.settings import TransientsSettings

if TYPE_CHECKING:
    from nightbell.transients.search import Found, Frame

__all__ = ["Transients", "run"]

_S = 1_000_000_000


class TransientsState(msgspec.Struct):
    """Counters that survive a restart."""

    n_lights: int = 0
    n_searches: int = 0
    n_candidates: int = 0


class Transients(Module[TransientsState]):
    """Looks for what is new."""

    name = "transients"
    state_type = TransientsState
    settings_type = TransientsSettings
    schema = """
        CREATE TABLE IF NOT EXISTS light (
            product_id TEXT PRIMARY KEY, target_id TEXT NOT NULL, night TEXT NOT NULL, product BLOB NOT NULL,
            event_id TEXT, correlation TEXT, came_ns INTEGER NOT NULL, searched INTEGER NOT NULL DEFAULT 0
        );
        CREATE INDEX IF NOT EXISTS light_target ON light (target_id, night);
    """

    def start(self) -> None:
        """Load the science libraries (seconds), then begin to work."""
        from nightbell.transients import report, search  # noqa: PLC0415

        self._search, self._report = search, report
        folder = Path(self.settings.reference_folder)
        self._folder = folder if folder.is_absolute() else self.installation.home / folder
        self._busy = threading.Lock()
        self._wake = threading.Event()
        self._wake.set()
        self._doing = ""
        self._worker = threading.Thread(target=self._work, name="transients-worker", daemon=True)
        self._worker.start()

    def stop(self) -> None:
        """Let the field at hand finish."""
        self._wake.set()
        self._worker.join(timeout=20)

    def report(self) -> dict[str, Any]:
        """For `status`."""
        return {"doing": self._doing, "references": str(self._folder)}

    @on("calibration.done")
    def note(self, event: CalibrationDone, turn: Turn[TransientsState]) -> None:
        """Note each calibrated light that has a target; the worker takes it from there."""
        envelope = turn.envelope
        for product in event.products:
            if product.frame_type != "light" or not product.target_id:
                continue
            if turn.query("SELECT 1 FROM light WHERE product_id = ?", (product.product_id,)):
                continue
            turn.execute(
                "INSERT OR IGNORE INTO light (product_id, target_id, night, product, event_id, correlation, came_ns)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    product.product_id,
                    product.target_id,
                    event.night,
                    msgspec.json.encode(product),
                    envelope.id if envelope else None,
                    envelope.correlationid if envelope else None,
                    turn.now_ns,
                ),
            )
            turn.state.n_lights += 1
        self._wake.set()

    @answers(FindTransients)
    def find(self, command: FindTransients, turn: Turn[TransientsState], progress: Progress) -> dict[str, Any]:  # noqa: ARG002
        """Search calibrated frames of this host, grouped by target; the answer is not announced."""
        if not command.paths:
            raise BadInput("no path is given", where="paths", remedy="Give calibrated frames of this host")
        frames, unread = self._search.read_frames([Path(path) for path in command.paths])
        groups: dict[str, list[Frame]] = {}
        for frame in frames:
            groups.setdefault(frame.target_id, []).append(frame)
        answer = []
        for done, (target_id, members) in enumerate(sorted(groups.items())):
            progress(done / len(groups), f"search {target_id}")
            with self._busy:
                found, reference = self._find(members)
            answer.append(
                {
                    "target_id": target_id,
                    "reference": reference,
                    "candidates": [msgspec.to_builtins(one) for one in (found.candidates if found else ())],
                    "n_vetoed": len(found.vetoed) if found else 0,
                    "failed": [list(one) for one in (found.failed if found else ())],
                }
            )
        return {"targets": answer, "failed": [list(one) for one in unread]}

    # ---- the worker thread

    def _work(self) -> None:
        while not self.stopping.is_set():
            # A target whose lights have stopped coming is due by the clock, not by an event.
            self._wake.wait(timeout=max(0.2, min(5.0, self.clock.real_s(self.settings.wait_s / 10))))
            self._wake.clear()
            try:
                while not self.stopping.is_set() and self._work_once():
                    pass
            except Exception as error:
                # The outermost loop of the thread: a broken field must not end the night. Its lights stay on disk.
                self.log.exception("transients.stumbled", error=str(error))
                with self.turn() as turn:
                    turn.raise_alarm("transients.stumbled", "warning", f"the search for transients stumbled: {error}")
            finally:
                self._doing = ""

    def _work_once(self) -> bool:
        """Search the next target that is due. False when none is."""
        with self.turn() as turn:
            due = turn.query(
                "SELECT target_id, night FROM light GROUP BY target_id, night"
                " HAVING MIN(searched) = 0 AND (COUNT(*) >= ? OR MAX(came_ns) <= ?) ORDER BY MIN(came_ns) LIMIT 1",
                (self.settings.min_frames, turn.now_ns - round(self.settings.wait_s * _S)),
            )
            if not due:
                return False
            target_id, night = due[0]
            rows = turn.query(
                "SELECT product, event_id, correlation FROM light WHERE target_id = ? AND night = ? ORDER BY came_ns, product_id",
                (target_id, night),
            )
        self._doing = f"{len(rows)} lights of {target_id}"
        products = [msgspec.json.decode(row[0], type=ProductRef) for row in rows]
        _, event_id, correlation = rows[-1]
        with self._busy:
            event = self._search_target(str(night), str(target_id), products)
        with self.turn(correlationid=correlation, causationid=event_id) as turn:
            for product in products:
                turn.execute("UPDATE light SET searched = 1 WHERE product_id = ?", (product.product_id,))
            turn.publish(event, str(target_id))
            turn.state.n_searches += 1
            turn.state.n_candidates += len(event.candidates)
        self.log.info("field.searched", target=target_id, lights=len(products), candidates=len(event.candidates), vetoed=event.n_vetoed)
        return True

    def _search_target(self, night: str, target_id: str, products: list[ProductRef]) -> TransientsFound:
        """The event for one target: every filter against its own reference, what all filters show together."""
        frames: list[Frame] = []
        troubles: list[str] = []
        for product in products:
            try:
                frames.append(self._search.read_frame(Path(product.path)))
            except NightbellError as error:
                troubles.append(str(error))
        found, reference = self._find(frames) if frames else (None, "; ".join(troubles) or "no frame")
        for path, reason in found.failed if found else ():
            self.log.warning("frame.not_searched", path=path, reason=reason)
        candidates = found.candidates if found else ()
        if found and candidates:
            folder = self.home / "cutouts" / night / "".join(c if c.isalnum() else "-" for c in target_id)
            candidates = self._report.write_cutouts(candidates, found.searched, folder)
        first = products[0]
        return TransientsFound(
            night=night,
            target_id=target_id,
            object_name=first.object_name,
            superevent_id=first.superevent_id,
            product_ids=tuple(sorted(one.product_id for one in products)),
            reference=reference,
            candidates=candidates,
            n_vetoed=len(found.vetoed) if found else 0,
            limiting_mag_5sigma=found.limiting_mag_5sigma if found else None,
        )

    def _find(self, frames: list[Frame]) -> tuple[Found | None, str]:
        """What `frames` of one field show, each against the reference of its filter; and which references were used."""
        return self._search.find_with_references(
            frames,
            self._folder,
            threshold=self.settings.threshold,
            pointing_error_arcsec=self.settings.pointing_error_arcsec,
            host_radius_arcsec=self.settings.host_radius_arcsec,
        )


def run(installation: Installation, name: str) -> int:
    """Run the search for transients until it is told to stop."""
    return run_module(Transients, installation, name=name)
