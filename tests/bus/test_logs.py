"""A log must not end the process that speaks."""

from __future__ import annotations

import errno
import io

from nightbell.bus.logs import PatientStream


class FullDisk(io.StringIO):
    """Takes nothing while it is full."""

    full = False

    def flush(self) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")

    def write(self, text: str) -> int:
        self.flush()
        return super().write(text)


def test_a_full_disk_costs_lines_of_the_log_and_not_the_process() -> None:
    disk = FullDisk()
    stream = PatientStream(disk)
    print("before", file=stream, flush=True)
    disk.full = True
    for n in range(3):
        print(f"lost {n}", file=stream, flush=True)
    disk.full = False
    print("after", file=stream, flush=True)
    print("all is well", file=stream, flush=True)
    assert disk.getvalue().splitlines() == ["before", '{"event": "log.lost", "level": "warning", "n": 3}', "after", "all is well"]


def test_a_closed_stream_does_not_end_the_process() -> None:
    disk = FullDisk()
    disk.close()
    print("nobody reads this", file=PatientStream(disk), flush=True)
