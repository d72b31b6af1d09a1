"""A night made by hand: events built with the contracts' classes, small real files behind them; every number is known."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import numpy as np
from astropy.io import fits
from PIL import Image

from nightbell.cli.story import Process, Story, Told
from nightbell.contracts.events import (
    AlarmRaised,
    AlertReceived,
    CalibrationDone,
    Event,
    FramesStored,
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
from nightbell.contracts.ids import uuid7
from nightbell.contracts.instants import format_utc, parse_utc
from nightbell.contracts.records import Alert, Candidate, FileRef, FrameRef, MasterRef, PlanItem, ProductRef, Site, Target
from nightbell.contracts.states import FrameType, NightState, Severity, Verdict
from nightbell.simulator.notice import write_demo_alert

SITE = Site(name="demo", latitude_deg=-29.2567, longitude_deg=-70.7377, elevation_m=2400.0)
NIGHT = "2027-04-12"
BEGAN_NS = parse_utc("2027-04-12T21:57:00Z")
REAL0_NS = parse_utc("2026-11-22T10:00:00Z")
RATE = 100.0
HOST = ("NGC4993", 197.4487, -23.3839)
NEW = (197.4500, -23.3811)
OTHERS = (("IC4197", 197.018, -23.7969), ("NGC4970", 196.8906, -24.0086))


class Teller:
    """Tells events one after the other: `after_s` seconds of the world since the beginning."""

    def __init__(self) -> None:
        self.told: list[Told] = []

    def say(self, event: Event, subject: str, after_s: float, *, source: str, broker: str = "observatory", cause: str | None = None) -> str:
        world_ns = BEGAN_NS + round(after_s * 1e9)
        identity = uuid7(REAL0_NS + round(after_s * 1e9 / RATE))
        self.told.append(
            Told(
                broker=broker,
                seq=len(self.told) + 1,
                id=identity,
                type=event.type,
                subject=subject,
                source=f"{source}@demo",
                time=format_utc(world_ns, digits=6),
                causationid=cause,
                correlationid=None,
                data=msgspec.json.encode(event),
                event=event,
            )
        )
        return identity


def file_ref(path: Path) -> FileRef:
    content = path.read_bytes()
    return FileRef(path=str(path), sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))


def make_frame(folder: Path, number: int, frame_type: FrameType, target: str | None, filter_name: str | None, date_obs: str) -> FrameRef:
    path = folder / f"main_{number:03d}_{frame_type.value}.fits"
    rng = np.random.default_rng(number)
    pixels = (500 + rng.normal(0, 6, (128, 160))).astype(np.uint16)
    if frame_type is FrameType.LIGHT:
        pixels[60:64, 80:84] += 3000
    fits.PrimaryHDU(pixels).writeto(path)
    ref = file_ref(path)
    return FrameRef(
        frame_id=f"f{number:03d}",
        path=str(path),
        sha256=ref.sha256,
        size_bytes=ref.size_bytes,
        frame_type=frame_type,
        camera="main",
        filter=filter_name,
        exposure_s=60.0 if frame_type is FrameType.LIGHT else 0.0,
        date_obs_utc=date_obs,
        target_id=target,
        object_name=target,
    )


def calibrate(frame: FrameRef, folder: Path) -> ProductRef:
    path = folder / f"cal_{Path(frame.path).name}"
    pixels = fits.getdata(frame.path).astype(np.float32) * 1.5 - 750
    fits.PrimaryHDU(pixels, fits.Header({"BUNIT": "electron"})).writeto(path)
    return ProductRef(
        product_id=hashlib.sha256(frame.sha256.encode()).hexdigest(),
        path=str(path),
        sha256=file_ref(path).sha256,
        source=frame.path,
        source_sha256=frame.sha256,
        frame_id=frame.frame_id,
        frame_type="light",
        filter=frame.filter,
        exposure_s=frame.exposure_s,
        target_id=frame.target_id,
        object_name=frame.object_name,
        masters={"bias": "b", "dark": "d", "flat": "f"},
        median=float(np.median(pixels)),
        noise=9.1,
    )


def telling(folder: Path) -> Teller:
    """The demo's night in short: an alert, three targets of which one fails, two lights each, a transient near NGC4993."""
    folder.mkdir(parents=True, exist_ok=True)
    alert = write_demo_alert(folder / "alert")
    tell = Teller()
    tell.say(ModuleUp(module="telescope", host="here", pid=1, instance="i", fence=1), "telescope", 0, source="broker")
    tell.say(
        SafetyChanged(verdict=Verdict.SAFE, previous=Verdict.UNSAFE, reasons=(), dome_shutter="closed", at_utc=at(5)),
        "demo",
        5,
        source="safety",
    )
    state(tell, NightState.PREPARING, NightState.DAY, "prepare", 30)
    biases = tuple(make_frame(folder, n, FrameType.BIAS, None, None, at(60 + n)) for n in range(3))
    stored = tell.say(FramesStored(night=NIGHT, batch_id="b1", frames=biases), f"{NIGHT}/b1", 100, source="telescope")
    master = MasterRef(product_id="m" * 64, path="m.fits", sha256="0" * 64, kind="bias", n_frames=3)
    tell.say(CalibrationDone(night=NIGHT, batch_id="b1", masters=(master,)), f"{NIGHT}/b1", 300, source="preprocessor", cause=stored)
    state(tell, NightState.READY, NightState.PREPARING, "prepared", 900)
    heard = Alert(
        superevent_id="S270412a",
        kind="initial",
        drill=False,
        created_utc=at(1600),
        time_utc="2027-04-12T22:20:00.000Z",
        significant=True,
        far_hz=3.2e-13,
        instruments=("H1", "L1", "V1"),
        classification={"BNS": 0.99, "Terrestrial": 0.01},
    )
    received = AlertReceived(alert=heard, decision="follow", rule="near neutron star", skymap=file_ref(alert.skymap))
    root = tell.say(received, "S270412a", 1620, source="alerts", broker="alert-site")
    targets = tuple(
        Target(
            target_id=name.lower(),
            name=name,
            ra_deg=ra,
            dec_deg=dec,
            rank=rank,
            p_host=p_host,
            dist_mpc=42.0,
            credible_level_2d=0.1 * rank,
            credible_level_3d=0.12 * rank,
            observable_from_utc=at(5900),
            observable_until_utc=at(30000),
            why="<bright> & near",
        )
        for rank, p_host, (name, ra, dec) in zip((1, 2, 3), (0.3, 0.2, 0.1), (HOST, *OTHERS), strict=True)
    )
    listed = TargetsReady(superevent_id="S270412a", observatory="demo", revision=1, targets=targets, not_in_catalog=0.4)
    ready = tell.say(listed, "demo/S270412a", 1650, source="alerts", broker="alert-site", cause=root)
    items = tuple(
        PlanItem(
            item_id=f"S270412a/{one.target_id}/r",
            target_id=one.target_id,
            name=one.name,
            ra_deg=one.ra_deg,
            dec_deg=one.dec_deg,
            filter="r",
            exposure_s=60.0,
            n_exposures=2,
            start_utc=at(5900 + 400 * one.rank),
            end_utc=at(6200 + 400 * one.rank),
            value=one.p_host or 0.0,
            altitude_deg=30.0,
        )
        for one in targets
    )
    plan = PlanReady(night=NIGHT, revision=1, cause="targets.ready", plan=file_ref(alert.catalog), items=items)
    tell.say(plan, NIGHT, 1700, source="telescope", cause=ready)
    state(tell, NightState.OPENING, NightState.READY, "go_given", 1900)
    state(tell, NightState.TWILIGHT, NightState.OPENING, "dome_read_back_open", 1940)
    state(tell, NightState.OBSERVING, NightState.TWILIGHT, "flats_over", 4800)
    number = 10
    for n, item in enumerate(items):
        begin = 5900 + 400 * n
        tell.say(ObservationStarted(night=NIGHT, item=item, at_utc=at(begin)), item.target_id, begin, source="telescope")
        if n == 2:
            failed = ObservationFailed(
                night=NIGHT, item_id=item.item_id, target_id=item.target_id, reason="no star found to point by", at_utc=at(begin + 50)
            )
            tell.say(failed, item.target_id, begin + 50, source="telescope")
            continue
        frames = tuple(make_frame(folder, number + k, FrameType.LIGHT, item.target_id, "r", at(begin + 60 + 70 * k)) for k in (0, 1))
        number += 2
        stored = tell.say(
            FramesStored(night=NIGHT, batch_id=f"l{n}", frames=frames), f"{NIGHT}/l{n}", begin + 220, source="telescope", cause=ready
        )
        done = ObservationDone(
            night=NIGHT,
            item_id=item.item_id,
            target_id=item.target_id,
            frame_ids=tuple(one.frame_id for one in frames),
            at_utc=at(begin + 220),
        )
        tell.say(done, item.target_id, begin + 221, source="telescope", cause=ready)
        products = tuple(calibrate(one, folder) for one in frames)
        finished = tell.say(
            CalibrationDone(night=NIGHT, batch_id=f"l{n}", products=products),
            f"{NIGHT}/l{n}",
            begin + 350,
            source="preprocessor",
            cause=stored,
        )
        candidates = (candidate(folder),) if n == 0 else ()
        found = TransientsFound(
            night=NIGHT,
            target_id=item.target_id,
            object_name=item.name,
            superevent_id="S270412a",
            product_ids=tuple(one.product_id for one in products),
            reference=f"references/ref_{item.name}_r.fits",
            candidates=candidates,
            n_vetoed=1,
            limiting_mag_5sigma=19.2,
        )
        tell.say(found, item.target_id, begin + 600, source="transients", cause=finished)
    tell.say(
        AlarmRaised(alarm_id="a1", key="telescope.target", severity=Severity.WARNING, text="no star found to point by"),
        "demo",
        6800,
        source="telescope",
    )
    state(tell, NightState.CLOSING, NightState.OBSERVING, "close_night", 7000)
    state(tell, NightState.CLOSED, NightState.CLOSING, "closed_and_parked", 7100)
    return tell


def candidate(folder: Path) -> Candidate:
    cutout = folder / "cutout.png"
    Image.fromarray(np.arange(60 * 20, dtype=np.uint8).reshape(20, 60)).save(cutout)
    return Candidate(
        candidate_id="c1",
        ra_deg=NEW[0],
        dec_deg=NEW[1] + 0.3 / 3600,
        x_px=80.0,
        y_px=60.0,
        snr=55.0,
        mag=17.4,
        host="NGC4993",
        host_separation_arcsec=10.9,
        cutout=str(cutout),
    )


def at(after_s: float) -> str:
    return format_utc(BEGAN_NS + round(after_s * 1e9))


def state(tell: Teller, new: NightState, previous: NightState, trigger: str, after_s: float) -> None:
    event = NightChanged(night=NIGHT, state=new, previous=previous, trigger=trigger, reason=f"because of {trigger}", at_utc=at(after_s))
    tell.say(event, NIGHT, after_s, source="telescope")


def story_of(tell: Teller, **more: object) -> Story:
    processes = (Process("telescope", 4711, 6.2), Process("safety", 4712, 1.1, n_restarts=1, ended="exit 0"))
    return Story(tell.told, site=SITE, processes=processes, **more)  # type: ignore[arg-type]
