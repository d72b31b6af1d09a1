"""The preprocessor process: `frames.stored` becomes an order, a worker thread carries it out and says what came of it.

    frames.stored -> orders (own table) -> worker: calibrate() -> calibration.done / .blocked / .failed
                                              ^                         |
                                              +---- new masters wake the blocked orders

An order is on disk before the event is confirmed, so a crash loses none; products are named by content, so doing one again
gives the same files and the same ids.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from nightbell.bus.module import Module, Progress, Turn, answers, on, run_module
from nightbell.calibration.settings import PreprocessorSettings
from nightbell.contracts.commands import CalibrateFrames, CalibrateNight, QueryIndex
from nightbell.contracts.errors import BadInput, Missing, NightbellError, Refused
from nightbell.contracts.events import CalibrationBlocked, CalibrationDone, CalibrationFailed, FramesStored
from nightbell.contracts.records import BlockedFrame, FailedFrame, FrameRef, ProductRef
from nightbell.contracts.states import FrameType
from nightbell.settings import Installation

__all__ = ["Preprocessor", "run"]

RETRY_S = 60.0
"""Real time after which orders that met a full disk or the like are tried again, when no event wakes them before."""
_MASTER_TYPES = (FrameType.BIAS.value, FrameType.DARK.value, FrameType.FLAT.value)


class PreprocessorState(msgspec.Struct):
    """Counters that survive a restart."""

    n_ordered: int = 0
    n_products: int = 0
    n_masters: int = 0
    n_failed: int = 0
    last_product: str = ""


@dataclass(frozen=True)
class _Order:
    sha256: str
    frame: FrameRef
    night: str
    batch_id: str
    event_id: str | None
    correlation: str | None
    missing: str


class Preprocessor(Module[PreprocessorState]):
    """Calibrates what the telescope has stored."""

    name = "preprocessor"
    state_type = PreprocessorState
    settings_type = PreprocessorSettings
    schema = """
        CREATE TABLE IF NOT EXISTS frame_order (
            number INTEGER PRIMARY KEY AUTOINCREMENT, sha256 TEXT NOT NULL UNIQUE, night TEXT NOT NULL, batch_id TEXT NOT NULL,
            frame_type TEXT NOT NULL, frame BLOB NOT NULL, event_id TEXT, correlation TEXT,
            state TEXT NOT NULL, missing TEXT NOT NULL DEFAULT ''
        );
        CREATE INDEX IF NOT EXISTS frame_order_state ON frame_order (state, number);
    """

    def start(self) -> None:
        """Load the science libraries (seconds), then begin to work."""
        from nightbell.calibration.batch import calibrate  # noqa: PLC0415
        from nightbell.calibration.cameras import load_cameras  # noqa: PLC0415

        self._calibrate = calibrate
        root = self.installation.folder
        folder = self.settings.cameras_folder
        self._cameras = load_cameras([root / folder] if folder else [])
        self._out = root / self.settings.output_folder if self.settings.output_folder else self.home / "products"
        self._busy = threading.Lock()
        self._wake = threading.Event()
        self._doing = ""
        with self.turn() as turn:
            # Masters may have come while nobody listened.
            self._order_blocked_again(turn)
        self._wake.set()
        self._worker = threading.Thread(target=self._work, name="preprocessor-worker", daemon=True)
        self._worker.start()

    def stop(self) -> None:
        """Let the frame at hand finish."""
        self._wake.set()
        self._worker.join(timeout=20)

    def report(self) -> dict[str, Any]:
        """For `status`."""
        return {"doing": self._doing, "output": str(self._out)}

    @on("frames.stored")
    def order(self, event: FramesStored, turn: Turn[PreprocessorState]) -> None:
        """Note each frame; the worker takes it from there."""
        envelope = turn.envelope
        for frame in event.frames:
            if turn.query("SELECT 1 FROM frame_order WHERE sha256 = ?", (frame.sha256,)):
                continue
            turn.execute(
                "INSERT OR IGNORE INTO frame_order (sha256, night, batch_id, frame_type, frame, event_id, correlation, state)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, 'ordered')",
                (
                    frame.sha256,
                    event.night,
                    event.batch_id,
                    frame.frame_type.value,
                    msgspec.json.encode(frame),
                    envelope.id if envelope else None,
                    envelope.correlationid if envelope else None,
                ),
            )
            turn.state.n_ordered += 1
        self._wake.set()

    @answers(CalibrateNight)
    def calibrate_night(self, command: CalibrateNight, turn: Turn[PreprocessorState], progress: Progress) -> dict[str, Any]:
        """Calibrate again every frame of a night that was stored; what is done is only said again."""
        with self.turn() as reading:
            # In a turn of its own: what the command's turn has once touched is locked until all frames are done.
            rows = reading.query("SELECT frame FROM frame_order WHERE night = ? ORDER BY number", (command.night,))
        if not rows:
            raise Missing(f"no frame of night {command.night} is known here", where="night", remedy="See `nightbell index query`")
        paths = [Path(msgspec.json.decode(row[0], type=FrameRef).path) for row in rows]
        return self._on_command(paths, self._out, None, command.night, turn, progress)

    @answers(CalibrateFrames)
    def calibrate_frames(self, command: CalibrateFrames, turn: Turn[PreprocessorState], progress: Progress) -> dict[str, Any]:
        """Calibrate files and folders of this host; into the module's own folder unless `out` is given."""
        if not command.paths:
            raise BadInput("no path is given", where="paths", remedy="Give files or folders of this host")
        out = Path(command.out) if command.out else self._out
        if not out.is_absolute():
            raise BadInput(f"{out} is not an absolute path", where="out", remedy="Give an absolute path of the preprocessor's host")
        return self._on_command([Path(path) for path in command.paths], out, command.camera, "", turn, progress)

    @answers(QueryIndex)
    def query_index(self, command: QueryIndex, turn: Turn[PreprocessorState], progress: Progress) -> dict[str, Any]:  # noqa: ARG002
        """Rows of the index."""
        from nightbell.calibration.index import CalibrationIndex  # noqa: PLC0415

        if not 1 <= command.limit <= 10_000:
            raise BadInput(f"{command.limit} is outside 1 to 10000", where="limit", remedy="Ask for fewer rows")
        with CalibrationIndex.in_folder(self._out) as index:
            return {"rows": index.query(night=command.night, status=command.status, limit=command.limit)}

    def _on_command(
        self, paths: list[Path], out: Path, camera: str | None, night: str, turn: Turn[PreprocessorState], progress: Progress
    ) -> dict[str, Any]:
        if not self._busy.acquire(timeout=30):
            raise Refused("the preprocessor is busy with another batch", where="preprocessor", remedy="Ask again in a minute")
        try:
            outcome = self._calibrate(
                paths,
                out,
                camera=camera,
                cameras=self._cameras,
                allow_missing=self.settings.allow_missing,
                longitude_deg=self.site.longitude_deg,
                now_ns=self.clock.now_ns(),
                report=lambda done, total, text: progress(done / max(total, 1), text),
            )
        finally:
            self._busy.release()
        if out == self._out and (outcome.products or outcome.masters):
            batch_id = hashlib.sha256("".join(sorted(one.product_id for one in outcome.products)).encode()).hexdigest()[:16]
            done = CalibrationDone(night=night, batch_id=batch_id, products=outcome.products, masters=outcome.masters)
            turn.publish(done, f"{night or 'asked'}/{batch_id}")
            if outcome.masters:
                self._order_blocked_again(turn)
                self._wake.set()
        return outcome.as_dict()

    @staticmethod
    def _order_blocked_again(turn: Turn[PreprocessorState]) -> None:
        """What waited may have what it needs now; matching will say."""
        turn.execute("UPDATE frame_order SET state = 'ordered' WHERE state = 'blocked'")

    # ---- the worker thread

    def _work(self) -> None:
        while not self.stopping.is_set():
            self._wake.wait(timeout=RETRY_S)
            self._wake.clear()
            try:
                while not self.stopping.is_set() and self._work_once():
                    pass
            except Exception as error:
                # The outermost loop of the thread: a broken batch must not end the night. The orders stay on disk.
                self.log.exception("preprocessor.stumbled", error=str(error))
                with self.turn() as turn:
                    turn.raise_alarm("preprocessor.stumbled", "warning", f"the preprocessor stumbled: {error}")
            finally:
                self._doing = ""

    def _work_once(self) -> bool:
        """Carry out the next orders: calibration frames before lights, batch by batch. False when there are none."""
        with self.turn() as turn:
            rows = turn.query(
                "SELECT sha256, frame, night, batch_id, event_id, correlation, missing FROM frame_order WHERE state = 'ordered'"
                " ORDER BY frame_type NOT IN (?, ?, ?), number",
                _MASTER_TYPES,
            )
        if not rows:
            return False
        orders = [_order(row) for row in rows]
        first = orders[0]
        same = [one for one in orders if (one.night, one.batch_id) == (first.night, first.batch_id)]
        masters = [one for one in same if one.frame.frame_type.value in _MASTER_TYPES]
        return self._carry_out(masters or same[: self.settings.batch_frames])

    def _carry_out(self, orders: Sequence[_Order]) -> bool:
        """Calibrate the frames of `orders` and say what came of it. False when nothing can be done now; the orders stay."""
        first = orders[0]
        self._doing = f"{len(orders)} frames of {first.night}/{first.batch_id}"
        broken: list[tuple[_Order, FailedFrame]] = []
        sound: list[_Order] = []
        for one in orders:
            fault = _custody_fault(one.frame)
            if fault is None:
                sound.append(one)
            else:
                broken.append((one, fault))
        with self._busy:
            try:
                outcome = self._calibrate(
                    [Path(one.frame.path) for one in sound],
                    self._out,
                    cameras=self._cameras,
                    allow_missing=self.settings.allow_missing,
                    longitude_deg=self.site.longitude_deg,
                    now_ns=self.clock.now_ns(),
                )
            except NightbellError as error:
                # What concerns all frames at once: a full disk, a folder that went away.
                self.log.warning("preprocessor.cannot", **error.as_dict())
                with self.turn() as turn:
                    turn.raise_alarm("preprocessor.cannot", "warning", str(error))
                return False
        by_path = {str(Path(one.frame.path)): one for one in sound}
        products = tuple(_with_names(one, by_path[one.source].frame) for one in outcome.products)
        blocked = {one.source: one for one in outcome.blocked}
        failed = {one.source: one for one in outcome.failed if one.source in by_path}
        failures = (*(fault for _, fault in broken), *failed.values())
        # A frame that is still blocked for the same reason is not announced again.
        news = tuple(one for one in blocked.values() if "; ".join(one.missing) != by_path[one.source].missing)
        with self.turn(correlationid=first.correlation, causationid=first.event_id) as turn:
            subject = f"{first.night}/{first.batch_id}"
            for one in orders:
                _settle(turn, one, blocked.get(str(Path(one.frame.path))), one.frame.path in failed or any(b is one for b, _ in broken))
            if products or outcome.masters:
                done = CalibrationDone(night=first.night, batch_id=first.batch_id, products=products, masters=outcome.masters)
                turn.publish(done, subject)
            if news:
                turn.publish(CalibrationBlocked(night=first.night, batch_id=first.batch_id, blocked=news), subject)
            if failures:
                turn.publish(CalibrationFailed(night=first.night, batch_id=first.batch_id, failed=failures), subject)
            if outcome.masters:
                self._order_blocked_again(turn)
            turn.state.n_products += len(products)
            turn.state.n_masters += len(outcome.masters)
            turn.state.n_failed += len(failures)
            if products:
                turn.state.last_product = products[-1].path
        self.log.info(
            "batch.calibrated",
            batch=subject,
            products=len(products),
            masters=len(outcome.masters),
            blocked=len(blocked),
            failed=len(failures),
        )
        return True


def _order(row: Sequence[Any]) -> _Order:
    sha256, frame, night, batch_id, event_id, correlation, missing = row
    return _Order(sha256, msgspec.json.decode(frame, type=FrameRef), night, batch_id, event_id, correlation, missing)


def _settle(turn: Turn[PreprocessorState], order: _Order, blocked: BlockedFrame | None, is_failed: bool) -> None:  # noqa: FBT001
    state = "blocked" if blocked is not None else "failed" if is_failed else "done"
    missing = "; ".join(blocked.missing) if blocked is not None else ""
    turn.execute("UPDATE frame_order SET state = ?, missing = ? WHERE sha256 = ?", (state, missing, order.sha256))


def _custody_fault(frame: FrameRef) -> FailedFrame | None:
    """Why the file is not the one that was announced, or None."""
    try:
        digest = hashlib.sha256(Path(frame.path).read_bytes()).hexdigest()
    except OSError as error:
        what = f"MISSING: cannot be read: {error.strerror}"
        return FailedFrame(source=frame.path, error=what, remedy="Bring the frame to this host and ask `calibrate` for it")
    if digest != frame.sha256:
        what = f"CHANGED: its sha256 is {digest[:16]}..., announced was {frame.sha256[:16]}..."
        return FailedFrame(source=frame.path, error=what, remedy="Fetch the frame again from the telescope's host")
    return None


def _with_names(product: ProductRef, frame: FrameRef) -> ProductRef:
    """What the telescope knows about a frame stands above what its header says."""
    return msgspec.structs.replace(
        product,
        frame_id=frame.frame_id,
        target_id=frame.target_id or product.target_id,
        object_name=frame.object_name or product.object_name,
        superevent_id=frame.superevent_id or product.superevent_id,
    )


def run(installation: Installation, name: str) -> int:
    """Run the preprocessor until it is told to stop."""
    return run_module(Preprocessor, installation, name=name)
