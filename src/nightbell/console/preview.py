"""A frame as a picture, made in a child process: a hostile or huge file costs that process, never the page.

    python -m nightbell.console.preview      one JSON line {path, kind, width_px} in -> one JSON line {n_bytes} or {error}, then the JPEG

`stretch` is the one stretch of console pictures: limits from every 16th pixel, asinh in between.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nightbell.contracts.errors import Failed, NightbellError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Previewer", "picture", "stretch"]

DEADLINE_S = 20.0
WIDTH_PX = 1024


def stretch(pixels: NDArray[Any]) -> NDArray[Any]:
    """`pixels` [y, x] as uint8 for eyes: from median - 2 sigma to the 99.7th percentile + 10 sigma, asinh. Not finite: black."""
    import numpy as np  # noqa: PLC0415  (only the child process computes)

    sample = pixels.reshape(-1)[::16].astype(np.float32)
    sample = sample[np.isfinite(sample)]
    if sample.size == 0:
        return np.zeros(pixels.shape, np.uint8)
    median = float(np.median(sample))
    sigma = max(1.4826 * float(np.median(np.abs(sample - median))), 1e-6 * max(abs(median), 1.0))
    low = median - 2.0 * sigma
    high = float(np.percentile(sample, 99.7)) + 10.0 * sigma
    unit = np.clip((np.nan_to_num(pixels.astype(np.float32), nan=low, posinf=high, neginf=low) - low) / (high - low), 0.0, 1.0)
    scaled: NDArray[Any] = (255.0 * np.arcsinh(10.0 * unit) / np.arcsinh(10.0) + 0.5).astype(np.uint8)
    return scaled


def picture(path: Path, kind: str, *, width_px: int = WIDTH_PX) -> bytes:
    """The frame at `path` as JPEG, at most `width_px` on a side, north as in the file (row 0 below). Raises `NightbellError`.

    `kind`: raw (a file of one image) or calibrated (a product of ours: image, uncertainty, mask).
    """
    from PIL import Image  # noqa: PLC0415

    from nightbell.calibration.guard import read_frame  # noqa: PLC0415
    from nightbell.calibration.products import read_product  # noqa: PLC0415

    pixels = read_product(path)[0].data if kind == "calibrated" else read_frame(path).pixels
    step = max(1, -(-max(pixels.shape) // width_px))
    if step > 1:
        rows, columns = (pixels.shape[0] // step) * step, (pixels.shape[1] // step) * step
        blocks = pixels[:rows, :columns].reshape(rows // step, step, columns // step, step)
        pixels = blocks.mean(axis=(1, 3), dtype="float32")
    buffer = io.BytesIO()
    Image.fromarray(stretch(pixels)[::-1]).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


class Previewer:
    """The child process, started when first needed, again when it died or hung. Blocks: call from a thread."""

    def __init__(self, deadline_s: float = DEADLINE_S) -> None:
        self._deadline_s = deadline_s
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None

    def render(self, path: Path, kind: str, *, width_px: int = WIDTH_PX) -> bytes:
        """JPEG bytes. Raises `Failed` with the file's problem, or when it took too long."""
        with self._lock:
            child = self._running()
            # Killing it ends the read below: a frame that hangs the reader must not hang the page.
            alarm = threading.Timer(self._deadline_s, child.kill)
            alarm.start()
            try:
                return self._ask(child, {"path": str(path), "kind": kind, "width_px": width_px}, path.name)
            except (OSError, ValueError) as error:
                child.kill()
                raise Failed(f"the preview broke off: {error}", where=str(path), remedy="Look at the file") from error
            finally:
                alarm.cancel()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._child is None or self._child.poll() is not None:
            self.close()
            self._child = subprocess.Popen(
                [sys.executable, "-m", "nightbell.console.preview"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        return self._child

    @staticmethod
    def _ask(child: subprocess.Popen[bytes], wish: dict[str, Any], name: str) -> bytes:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(json.dumps(wish).encode() + b"\n")
        child.stdin.flush()
        answer = json.loads(child.stdout.readline() or b"null")
        if answer is None:
            raise ValueError("no answer in time")
        if "error" in answer:
            raise Failed(str(answer["error"]), where=name, remedy="Look at the file")
        image = child.stdout.read(int(answer["n_bytes"]))
        if len(image) != int(answer["n_bytes"]):
            raise ValueError("half a picture")
        return image

    def close(self) -> None:
        """End the child."""
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.wait(timeout=5)
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    pipe.close()


def _serve() -> None:
    out = sys.stdout.buffer
    for line in sys.stdin.buffer:
        wish = json.loads(line)
        try:
            image = picture(Path(wish["path"]), wish["kind"], width_px=int(wish["width_px"]))
        except NightbellError as error:
            out.write(json.dumps({"error": error.what}).encode() + b"\n")
        except Exception as error:  # noqa: BLE001 - one broken file must not end the previews
            out.write(json.dumps({"error": f"{type(error).__name__}: {error}"}).encode() + b"\n")
        else:
            out.write(json.dumps({"n_bytes": len(image)}).encode() + b"\n" + image)
        out.flush()


if __name__ == "__main__":
    _serve()
