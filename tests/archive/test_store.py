"""A second copy is byte-equal to what was announced, or absent under its final name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from nightbell.archive.store import FileSource, Store
from nightbell.contracts.errors import BadInput, Failed, Missing, Refused
from nightbell.contracts.records import FrameRef
from nightbell.contracts.states import FrameType

BYTES = bytes(range(256)) * 4000


def frame_of(path: Path, data: bytes = BYTES) -> FrameRef:
    return FrameRef(
        frame_id="f1",
        path=str(path),
        sha256=hashlib.sha256(data).hexdigest(),
        size_bytes=len(data),
        frame_type=FrameType.LIGHT,
        camera="main",
        exposure_s=60.0,
        date_obs_utc="2027-04-13T01:00:00.000Z",
    )


@pytest.fixture
def frame(tmp_path: Path) -> FrameRef:
    path = tmp_path / "telescope" / "light.fits"
    path.parent.mkdir()
    path.write_bytes(BYTES)
    return frame_of(path)


class CutSource:
    """Gives the first `n` bytes, then the line is cut."""

    def __init__(self, n: int) -> None:
        self.n = n

    def chunks(self, frame: FrameRef, offset: int) -> Iterator[bytes]:
        yield Path(frame.path).read_bytes()[offset : offset + self.n]
        raise Missing("the line is cut", where=frame.path)


def test_a_copy_is_byte_equal_and_a_second_pull_finds_it(tmp_path: Path, frame: FrameRef) -> None:
    store = Store(tmp_path / "store")
    place = store.pull("2027-04-12", frame, FileSource())
    assert place.read_bytes() == BYTES
    assert store.pull("2027-04-12", frame, FileSource()) == place
    assert [path.name for path in place.parent.iterdir()] == ["light.fits"]


def test_after_a_cut_the_pull_goes_on_where_it_was(tmp_path: Path, frame: FrameRef) -> None:
    store = Store(tmp_path / "store")
    with pytest.raises(Missing):
        store.pull("2027-04-12", frame, CutSource(300_000))
    part = tmp_path / "store" / "2027-04-12" / "light.fits.part"
    assert part.stat().st_size == 300_000
    assert not part.with_name("light.fits").exists()
    asked: list[int] = []

    class Counting(FileSource):
        def chunks(self, frame: FrameRef, offset: int) -> Iterator[bytes]:
            asked.append(offset)
            return super().chunks(frame, offset)

    assert store.pull("2027-04-12", frame, Counting()).read_bytes() == BYTES
    assert asked == [300_000]


def test_a_half_that_belongs_to_another_version_is_thrown_away_not_joined(tmp_path: Path, frame: FrameRef) -> None:
    part = tmp_path / "store" / "2027-04-12" / "light.fits.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * 1000)
    store = Store(tmp_path / "store")
    with pytest.raises(Failed, match="not those that were announced"):
        store.pull("2027-04-12", frame, FileSource())
    assert not part.exists()
    assert store.pull("2027-04-12", frame, FileSource()).read_bytes() == BYTES


def test_another_file_of_that_name_is_never_overwritten(tmp_path: Path, frame: FrameRef) -> None:
    there = tmp_path / "store" / "2027-04-12" / "light.fits"
    there.parent.mkdir(parents=True)
    there.write_bytes(b"older")
    with pytest.raises(Refused, match="another file"):
        Store(tmp_path / "store").pull("2027-04-12", frame, FileSource())
    assert there.read_bytes() == b"older"


def test_a_changed_source_never_appears_under_the_final_name(tmp_path: Path, frame: FrameRef) -> None:
    Path(frame.path).write_bytes(BYTES[:-1] + b"!")
    with pytest.raises(Failed):
        Store(tmp_path / "store").pull("2027-04-12", frame, FileSource())
    assert list((tmp_path / "store" / "2027-04-12").iterdir()) == []


def test_a_nearly_full_disk_is_left_alone(tmp_path: Path, frame: FrameRef) -> None:
    with pytest.raises(Refused, match="free"):
        Store(tmp_path / "store", reserve_bytes=1 << 62).pull("2027-04-12", frame, FileSource())


@pytest.mark.parametrize("night", ["..", "a/b", "2027:04", "night."])
def test_a_name_cannot_leave_the_store(tmp_path: Path, frame: FrameRef, night: str) -> None:
    with pytest.raises(BadInput):
        Store(tmp_path / "store").pull(night, frame, FileSource())
