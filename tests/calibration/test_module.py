"""The preprocessor on a real broker: by event, by command and from a script it is the same function."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from tests.bus.small_site import living, make_site, running_broker, wait_until

from nightbell.bus.script import Connection, connect
from nightbell.calibration.module import Preprocessor
from nightbell.contracts.events import FramesStored
from nightbell.contracts.records import FrameRef
from nightbell.contracts.states import FrameType

KINDS = {"bias": FrameType.BIAS, "dark": FrameType.DARK, "flat": FrameType.FLAT, "light": FrameType.LIGHT}


def stored(paths: list[Path], batch_id: str) -> FramesStored:
    frames = tuple(
        FrameRef(
            frame_id=path.stem,
            path=str(path),
            sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
            size_bytes=path.stat().st_size,
            frame_type=KINDS[path.stem.rstrip("0123456789")],
            camera="TESTCAM",
            filter="r",
            exposure_s=60.0,
            date_obs_utc="2027-04-12T03:00:00.000Z",
        )
        for path in paths
    )
    return FramesStored(night="2027-04-12", batch_id=batch_id, frames=frames)


def told(script: Connection, kind: str) -> list[Any]:
    return [event.payload() for event in script.events(kind, since="first", follow=False)]


def test_lights_without_masters_are_blocked_and_go_on_by_themselves_when_the_masters_come(camera, tmp_path):
    site = make_site(tmp_path / "conf")
    lights, biases, darks, flats = camera.lights(2), camera.biases(5), camera.darks(3), camera.flats(3)
    with running_broker(site), living(Preprocessor(site)), connect(site.folder) as script:
        script.publish(stored(lights, "b1"), "2027-04-12/b1")
        wait_until(lambda: bool(told(script, "calibration.blocked")), "calibration.blocked")
        (blocked,) = told(script, "calibration.blocked")
        assert {one.source for one in blocked.blocked} == {str(path) for path in lights}
        assert any(text.startswith("flat r") for text in blocked.blocked[0].missing)
        for batch_id, paths in (("b2", biases), ("b3", darks), ("b4", flats)):
            script.publish(stored(paths, batch_id), f"2027-04-12/{batch_id}")
        wait_until(lambda: sum(len(one.products) for one in told(script, "calibration.done")) == 2, "both lights calibrated")
        products = [product for one in told(script, "calibration.done") for product in one.products]
        assert all(Path(product.path).is_file() for product in products)
        # By command, the night again: the same products, by their ids.
        again = script.ask("preprocessor", "calibrate_night", night="2027-04-12", timeout_s=60)
        assert "error" not in again
        wait_until(lambda: len(told(script, "calibration.done")) >= 2, "the night said again")
        ids = {product.product_id for one in told(script, "calibration.done") for product in one.products}
        assert ids == {product.product_id for product in products}
        # From a script, files of its own: the same function, the same ids.
        answer = script.ask("preprocessor", "calibrate", paths=[str(camera.folder)], out=str(tmp_path / "own"), timeout_s=60)
        assert len(answer["products"]) == 2
        assert answer["blocked"] == []


def test_a_frame_that_is_cut_in_half_is_failed_by_name_and_the_next_one_is_calibrated(camera, tmp_path):
    site = make_site(tmp_path / "conf")
    masters = [*camera.biases(5), *camera.darks(3), *camera.flats(3)]
    whole, half = camera.lights(2)
    half.write_bytes(half.read_bytes()[:9000])
    with running_broker(site), living(Preprocessor(site)), connect(site.folder) as script:
        script.publish(stored(masters, "b1"), "2027-04-12/b1")
        script.publish(stored([half, whole], "b2"), "2027-04-12/b2")
        wait_until(lambda: bool(told(script, "calibration.failed")), "calibration.failed")
        wait_until(lambda: any(one.products for one in told(script, "calibration.done")), "the whole one calibrated")
        (failed,) = told(script, "calibration.failed")
        assert [one.source for one in failed.failed] == [str(half)]
        assert failed.failed[0].remedy
        assert script.dead_letters() == []


def test_lights_that_wait_go_on_when_a_command_brings_the_masters_and_after_a_restart_too(camera, tmp_path):
    site = make_site(tmp_path / "conf")
    (first, second), biases, darks, flats = camera.lights(2), camera.biases(5), camera.darks(3), camera.flats(3)
    with running_broker(site), connect(site.folder) as script:
        with living(Preprocessor(site)):
            script.publish(stored([first], "b1"), "2027-04-12/b1")
            wait_until(lambda: bool(told(script, "calibration.blocked")), "calibration.blocked")
            script.ask("preprocessor", "calibrate", paths=[str(path) for path in (*biases, *darks, *flats)], timeout_s=60)
            wait_until(lambda: any(one.products for one in told(script, "calibration.done")), "the light calibrated")
            products = [product for one in told(script, "calibration.done") for product in one.products]
            assert [product.source for product in products] == [str(first)]
        # The masters are there, and nobody has told the next life that they came.
        preprocessor = Preprocessor(site)
        with living(preprocessor), preprocessor.turn() as turn:
            turn.execute("UPDATE frame_order SET state = 'blocked', missing = 'flat r'")
        with living(Preprocessor(site)):
            wait_until(lambda: len(told(script, "calibration.done")) >= 3, "the light calibrated once more")
            script.publish(stored([second], "b2"), "2027-04-12/b2")
            wait_until(lambda: len({p.source for one in told(script, "calibration.done") for p in one.products}) == 2, "the second light")
