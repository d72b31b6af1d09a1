"""calibrate(paths, out) -> Outcome: the one function behind the event, the command, a script and the command line.

    1 intake      every file is read and named, or failed by name
    2 masters     bias, then dark, then flat, of each camera setup and night; frames already known to the index join in
    3 lights      matched and calibrated, or blocked with what is missing, or failed with a remedy

`out` holds masters/, light/ and index.sqlite, which is also the library: masters found there serve later calls, so biases,
flats and lights may come in separate calls and in any order. Nothing that is done is done twice: products are named by what
went in, and a product whose file still has its hash is only said again.
"""

from __future__ import annotations

import hashlib
import math
import traceback
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightbell.calibration.cameras import Camera, load_cameras
from nightbell.calibration.engine import SATURATED, Calibrated, Plane, Recipe, calibrate_pixels, mad_std
from nightbell.calibration.finding import SUFFIXES, find_frames, shown
from nightbell.calibration.index import CalibrationIndex
from nightbell.calibration.intake import Exposure, intake
from nightbell.calibration.masters import Built, build_bias, build_dark, build_flat
from nightbell.calibration.matching import Choice, Master, choose_bias, choose_dark, choose_flat
from nightbell.calibration.outcome import Outcome
from nightbell.calibration.products import copied_cards, product_id, read_product, remove_stale_parts, write_product
from nightbell.calibration.provenance import light_cards, light_history, master_cards
from nightbell.calibration.reading import PixelCache
from nightbell.contracts.errors import BadInput, Mistakes, NightbellError, NoSuchInput
from nightbell.contracts.ids import safe_name
from nightbell.contracts.instants import format_utc
from nightbell.contracts.records import BlockedFrame, FailedFrame, MasterRef, ProductRef

__all__ = ["KINDS_THAT_MAY_MISS", "Outcome", "calibrate"]

KINDS_THAT_MAY_MISS = ("bias", "dark", "flat")
Report = Callable[[int, int, str], None]


def calibrate(
    paths: Sequence[Path],
    out: Path,
    *,
    camera: str | None = None,
    cameras: Mapping[str, Camera] | None = None,
    allow_missing: Sequence[str] = (),
    longitude_deg: float | None = None,
    gain_e_per_adu: float | None = None,
    read_noise_e: float | None = None,
    now_ns: int = 0,
    report: Report | None = None,
) -> Outcome:
    """Calibrate the frames at `paths` (files, folders) into `out`. Broken or unmatched frames are part of the answer.

    `allow_missing` names masters without which lights go on all the same, marked in `status`. `longitude_deg` (east positive)
    tells nights apart where headers have no NIGHT. Raises `NoSuchInput`, `BadInput` or `Failed` only for what concerns all frames.
    """
    known = dict(cameras) if cameras is not None else load_cameras()
    if camera is not None and camera not in known:
        raise BadInput(f"there is no camera {camera!r}", where="camera", remedy=f"Known: {', '.join(sorted(known))}")
    if wrong := set(allow_missing) - set(KINDS_THAT_MAY_MISS):
        raise BadInput(f"{sorted(wrong)} cannot be missing", where="allow_missing", remedy="Known: bias, dark, flat")
    listing = find_frames(paths, ours=_made_before(out))
    if paths and not listing.files:
        _refuse_nothing(paths, [error for _, error in listing.troubles if isinstance(error, NoSuchInput)], n_troubles=len(listing.troubles))
    with CalibrationIndex.in_folder(out) as index:
        remove_stale_parts(out)
        run = _Run(out, index, known, camera, frozenset(allow_missing), longitude_deg, gain_e_per_adu, read_noise_e, now_ns)
        run.report = report or run.report
        run.failed.extend(_failure(path, error) for path, error in listing.troubles)
        return run.calibrate(listing.files)


def _made_before(out: Path) -> Collection[str]:
    """Products of earlier calls into `out`."""
    if not (out / "index.sqlite").is_file():
        return ()
    with CalibrationIndex.in_folder(out) as index:
        return index.product_paths()


def _refuse_nothing(paths: Sequence[Path], missing: Sequence[NoSuchInput], *, n_troubles: int) -> None:
    """Raise what is wrong when no file is left; where something else than absence is in the way, the outcome will name it."""
    if n_troubles == 0:
        where = ", ".join(map(shown, paths))
        raise NoSuchInput(
            "there is no FITS file", where=where, remedy=f"Give frames with one of the endings {' '.join(SUFFIXES[:3])} .gz .fz"
        )
    if len(missing) == n_troubles:
        raise missing[0] if len(missing) == 1 else Mistakes(missing)


def _failure(path: Path, error: Exception) -> FailedFrame:
    """What became of one file that could not be used; a mistake of ours says where to look for it, and costs no other frame."""
    if isinstance(error, NightbellError):
        return FailedFrame(source=shown(path), error=str(error.what), remedy=error.remedy)
    place = traceback.extract_tb(error.__traceback__)[-1]
    what = f"INTERNAL: {type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno})"
    return FailedFrame(source=shown(path), error=what, remedy="Report this together with the frame; the others went on")


class _Run:
    """One call of `calibrate`: what it has read, made and found wanting."""

    def __init__(
        self,
        out: Path,
        index: CalibrationIndex,
        cameras: Mapping[str, Camera],
        camera: str | None,
        allow_missing: frozenset[str],
        longitude_deg: float | None,
        gain_e_per_adu: float | None,
        read_noise_e: float | None,
        now_ns: int,
    ) -> None:
        self.out = out.resolve()
        self.index = index
        self.cameras = cameras
        self.camera = camera
        self.allow_missing = allow_missing
        self.longitude_deg = longitude_deg
        self.gain_e_per_adu = gain_e_per_adu
        self.read_noise_e = read_noise_e
        self.created_utc = format_utc(now_ns)
        self.report: Report = lambda _done, _total, _text: None
        self.cache = PixelCache(self._intake)
        self.given: set[Path] = set()
        self.planes: dict[str, Plane] = {}
        self.library: dict[str, Master] = {}
        self.made: dict[str, Master] = {}
        self.products: list[ProductRef] = []
        self.blocked: list[BlockedFrame] = []
        self.failed: list[FailedFrame] = []
        self.notes: dict[str, dict[str, Any]] = {}

    def _intake(self, path: Path) -> tuple[Exposure, NDArray[Any]]:
        return intake(
            path,
            self.cameras,
            camera=self.camera,
            longitude_deg=self.longitude_deg,
            gain_e_per_adu=self.gain_e_per_adu,
            read_noise_e=self.read_noise_e,
        )

    def calibrate(self, files: Sequence[Path]) -> Outcome:
        exposures: list[Exposure] = []
        total = 2 * len(files)
        for done, path in enumerate(files):
            self.report(done, total, f"read {path.name}")
            try:
                exposures.append(self.cache.read(path))
            except Exception as error:  # noqa: BLE001  (one file of many: it fails by name, the others go on)
                self.failed.append(_failure(path, error))
        self.given = {one.path for one in exposures}
        self.index.put_exposures((one, "accepted", "") for one in exposures)
        self.library = {master.product_id: master for master in self.index.masters() if Path(master.path).is_file()}
        lights = sorted((one for one in exposures if one.kind == "light"), key=lambda one: (one.start_ns or 0, str(one.path)))
        for kind in ("bias", "dark", "flat"):
            self.report(len(files), total, f"combine {kind} frames")
            self._masters(kind, [one for one in exposures if one.kind == kind])
        for done, light in enumerate(lights):
            self.report(total - len(lights) + done, total, f"calibrate {light.path.name}")
            self._light(light)
        self.report(total, total, "done")
        return Outcome(
            products=tuple(self.products),
            masters=tuple(_master_ref(master) for master in self.made.values()),
            blocked=tuple(self.blocked),
            failed=tuple(self.failed),
            ignored=tuple((str(one.path), "neither bias, dark, flat nor light") for one in exposures if one.kind == "other"),
            ambiguities=tuple((str(one.path), doubt) for one in exposures for doubt in one.ambiguities),
            notes=self.notes,
            levels={master.product_id: master.level_adu for master in self.made.values()},
        )

    # ---- masters

    def _masters(self, kind: str, exposures: Sequence[Exposure]) -> None:
        for group in self._groups(kind, exposures):
            try:
                self._master(kind, self._raw_of(group))
            except Exception as error:  # noqa: BLE001  (one master of many: its frames fail by name, the others go on)
                self.failed.extend(_failure(one.path, error) for one in group if one.path in self.given)

    def _raw_of(self, group: Sequence[Exposure]) -> Sequence[Exposure]:
        """`group` without masters made elsewhere, unless it has nothing else: one of them would count as one frame among many."""
        raw = [one for one in group if not one.is_combined]
        if not raw:
            return group
        what = BadInput("MASTER: a master made elsewhere is left out: there are raw frames", remedy="Leave it out, or give it alone")
        self.failed.extend(_failure(one.path, what) for one in group if one.is_combined and one.path in self.given)
        return raw

    def _groups(self, kind: str, exposures: Sequence[Exposure]) -> list[list[Exposure]]:
        """Frames that make one master: those given, and those of the same camera, night and settings that are known already."""
        groups: dict[tuple[Any, ...], dict[str, Exposure]] = defaultdict(dict)
        keys: dict[tuple[str, str], None] = {}
        for one in exposures:
            groups[_group_key(kind, one)].setdefault(one.raw_id, one)
            keys[one.setup.camera, one.night] = None
        for camera, night in keys:
            for path in self.index.paths(kind=kind, camera=camera, night=night):
                if path.is_file():
                    try:
                        other = self.cache.read(path)
                    except NightbellError:
                        continue  # it was fine when it came; it is not part of this call, so it cannot fail it
                    key = _group_key(kind, other)
                    if key in groups:
                        groups[key].setdefault(other.raw_id, other)
        return [list(groups[key].values()) for key in sorted(groups, key=repr)]

    def _master(self, kind: str, group: Sequence[Exposure]) -> None:
        first = min(group, key=lambda one: one.raw_id)
        used: list[tuple[str, str]] = []
        holds_bias = False
        if kind == "bias":
            built = build_bias(group, self.cache.pixels, scratch=self.out)
        elif kind == "dark":
            bias = choose_bias(first, self.library.values()).master
            holds_bias = bias is None
            if bias is not None:
                used.append(("bias", bias.product_id))
            built = build_dark(group, self.cache.pixels, self._plane(bias), scratch=self.out)
        else:
            flat_below = {one.raw_id: self._below_flat(one) for one in group}
            bare = [
                one for one in group if flat_below[one.raw_id][0] is None and flat_below[one.raw_id][1] is None and one.overscan is None
            ]
            if bare and "bias" not in self.allow_missing:
                what = BadInput(
                    "NO_BIAS: a flat without bias, dark of its own exposure or overscan", remedy="Give bias frames of this camera with it"
                )
                self.failed.extend(_failure(one.path, what) for one in bare if one.path in self.given)
                group = [one for one in group if one not in bare]
                if not group:
                    return
            for master, dark, _ in flat_below.values():
                used.extend((one.kind, one.product_id) for one in (master, dark) if one is not None)
            planes = {raw_id: (self._plane(bias), self._plane(dark), scale) for raw_id, (bias, dark, scale) in flat_below.items()}
            noise = self._read_noise_adu(first)[0]
            built = build_flat(group, self.cache.pixels, lambda one: planes[one.raw_id], noise or 0.0, scratch=self.out)
        if built is None:
            return
        for left in built.left_out:
            if left.exposure.path in self.given:
                self.failed.append(FailedFrame(source=str(left.exposure.path), error=left.error, remedy=left.remedy))
        self.index.put_exposures((left.exposure, "refused", left.error) for left in built.left_out)
        if any(one.is_combined for one in group):
            built = replace(built, read_noise_adu=None)  # masters differ by less than frames do
        if built.used:
            self._keep_master(kind, built, first, sorted(set(used)), holds_bias=holds_bias)

    def _below_flat(self, flat: Exposure) -> tuple[Master | None, Master | None, float]:
        bias = choose_bias(flat, self.library.values()).master
        dark = choose_dark(flat, self.library.values(), has_bias=bias is not None)
        return bias, dark.master, dark.scale

    def _keep_master(self, kind: str, built: Built, first: Exposure, used: list[tuple[str, str]], *, holds_bias: bool) -> None:
        inputs = [("raw", one.raw_id) for one in built.used]
        parameters = {"setup": repr(first.setup), "filter": first.filter if kind == "flat" else None, "holds_bias": holds_bias}
        name = product_id(f"master_{kind}", [*inputs, *used], parameters)
        if reason := self.index.bad_reason(name):
            raise BadInput(
                f"MARKED_BAD: the {kind} master of these {len(built.used)} frames must not be used: {reason}",
                remedy="Give other frames, or these without the one at fault",
            )
        times = sorted(one.start_ns for one in built.used if one.start_ns is not None)
        exposure_s = None if kind == "bias" else float(np.median([one.exposure_s or 0.0 for one in built.used]))
        status = ",".join(built.flags) or "good"
        level = f"{exposure_s:g}s_" if exposure_s is not None else ""
        stem = (
            f"{kind}_{safe_name(first.setup.camera)}_{safe_name(first.filter or 'none') + '_' if kind == 'flat' else ''}{level}{name[:12]}"
        )
        path = self.out / "masters" / f"{stem}.fits"
        unit = "adu" if kind != "flat" else "1"
        cards = master_cards(kind, built, first, name, used, exposure_s=exposure_s, holds_bias=holds_bias)
        history = [f"raw {one}" for _, one in sorted(inputs)] + list(built.notes)
        kept = self._kept(name)
        if kept is None:
            sha256, _ = write_product(path, built.plane, unit, cards, history, part_name=name[:16])
        else:
            path, sha256 = kept
        master = Master(
            product_id=name,
            kind=kind,
            path=str(path),
            sha256=sha256,
            setup=first.setup,
            filter=first.filter if kind == "flat" else None,
            exposure_s=exposure_s,
            temperature_c=_median(one.temperature_c for one in built.used),
            set_temperature_c=_median(one.set_temperature_c for one in built.used),
            mid_ns=times[len(times) // 2] if times else None,
            night=first.night,
            n_frames=len(built.used),
            status=status,
            holds_bias=holds_bias,
            level_adu=built.level_adu,
            read_noise_adu=built.read_noise_adu,
            inputs=tuple(one.raw_id for one in built.used),
            notes=built.notes,
        )
        quality = {"level_adu": built.level_adu, **({"read_noise_adu": built.read_noise_adu} if built.read_noise_adu is not None else {})}
        if kept is None:
            self.index.put_master(master, created_utc=self.created_utc, quality=quality)
        mine = set(master.inputs)
        for other in [one for one in self.library.values() if one.kind == kind and set(one.inputs) < mine]:
            del self.library[other.product_id]
        self.library[name] = self.made[name] = master
        self.planes[name] = built.plane
        self.notes[name] = {"read_noise_adu": built.read_noise_adu, "notes": list(built.notes), "holds_bias": holds_bias}

    def _kept(self, name: str) -> tuple[Path, str] | None:
        """Path and hash of a product that is there and whole."""
        row = self.index.product(name)
        if row is None or not (path := Path(row["path"])).is_file():
            return None
        return (path, row["sha256"]) if hashlib.sha256(path.read_bytes()).hexdigest() == row["sha256"] else None

    def _plane(self, master: Master | None) -> Plane | None:
        if master is None:
            return None
        if master.product_id not in self.planes:
            self.planes[master.product_id] = read_product(Path(master.path))[0]
        return self.planes[master.product_id]

    def _read_noise_adu(self, frame: Exposure) -> tuple[float | None, str]:
        """Read noise in ADU and where it is from: a bias pair, a dark pair, the header."""
        for kind in ("bias", "dark"):
            noises = [
                m for m in self.library.values() if m.kind == kind and m.read_noise_adu is not None and not frame.setup.differences(m.setup)
            ]
            if noises:
                nearest = min(noises, key=lambda m: (m.night != frame.night, abs((m.mid_ns or 0) - (frame.start_ns or 0)), m.product_id))
                return nearest.read_noise_adu, f"{kind} pair"
        if frame.read_noise_e is not None and frame.gain_e_per_adu:
            return frame.read_noise_e / frame.gain_e_per_adu, "header"
        return None, ""

    # ---- lights

    def _light(self, light: Exposure) -> None:
        try:
            missing, choices = self._match(light)
            if missing:
                self.blocked.append(BlockedFrame(source=str(light.path), source_sha256=light.raw_id, missing=tuple(missing)))
                self.index.put_exposures([(light, "blocked", "; ".join(missing))])
                return
            self.products.append(self._product(light, choices))
            self.index.put_exposures([(light, "done", "")])
        except Exception as error:  # noqa: BLE001  (one light of many: it fails by name, the others go on)
            failure = _failure(light.path, error)
            self.failed.append(failure)
            self.index.put_exposures([(light, "failed", failure.error)])

    def _match(self, light: Exposure) -> tuple[list[str], dict[str, Choice]]:
        masters = list(self.library.values())
        rules = light.camera.settings
        choices = {"bias": choose_bias(light, masters)}
        choices["dark"] = choose_dark(light, masters, has_bias=choices["bias"].master is not None)
        choices["flat"] = choose_flat(light, masters)
        dark = choices["dark"].master
        missing: list[str] = []
        for kind, choice in choices.items():
            if choice.master is not None or kind in self.allow_missing:
                continue
            if kind == "bias" and dark is not None and dark.holds_bias:
                continue
            # A dark is needed where the camera says so, and where there are darks but none that fits this frame.
            if kind in rules.needs or (kind == "dark" and "(" in choice.missing):
                missing.append(choice.missing)
        if light.gain_e_per_adu is None:
            missing.append("gain in electrons per count (no EGAIN; give --gain or a camera file with gain_e_per_adu)")
        elif self._read_noise_adu(light)[0] is None:
            missing.append("read noise (no bias pair and no RDNOISE; give --read-noise or a camera file with read_noise_e)")
        return missing, choices

    def _product(self, light: Exposure, choices: Mapping[str, Choice]) -> ProductRef:
        gain = light.gain_e_per_adu
        noise_adu, origin = self._read_noise_adu(light)
        assert gain is not None
        assert noise_adu is not None
        masters = {kind: choice.master for kind, choice in choices.items()}
        scale = choices["dark"].scale
        ids = {kind: (master.product_id if master else None) for kind, master in masters.items()}
        parameters = {
            "setup": repr(light.setup),
            "gain_e_per_adu": gain,
            "read_noise_e": round(noise_adu * gain, 6),
            "saturation_adu": light.saturation_adu if math.isfinite(light.saturation_adu) else None,
            "dark_scale": round(scale, 9),
        }
        name = product_id("calibrated", [("raw", light.raw_id), *((kind, one) for kind, one in ids.items() if one)], parameters)
        kept = self._kept(name)
        status = _status(light, choices)
        if kept is not None and (row := self.index.product(name)) is not None:
            numbers = row["detail"]
            self.notes[name] = numbers["notes"]
            return self._ref(light, name, str(kept[0]), kept[1], ids, numbers["median"], numbers["noise"], row["status"])
        pixels = self.cache.pixels(light)
        n_saturated = int(np.count_nonzero(pixels >= light.saturation_adu))
        if n_saturated > 0.2 * pixels.size:
            raise BadInput(
                f"SATURATED: {100 * n_saturated / pixels.size:.0f} % of its pixels are saturated",
                where=str(light.path),
                remedy="Expose shorter",
                code="SATURATED",
            )
        recipe = Recipe(
            gain_e_per_adu=gain,
            read_noise_e=noise_adu * gain,
            bias=self._plane(masters["bias"]),
            dark=self._plane(masters["dark"]),
            dark_scale=scale,
            flat=self._plane(masters["flat"]),
        )
        result = calibrate_pixels(pixels, light, recipe)
        median, noise, notes = _measure(result, light, noise_adu * gain, origin, scale)
        path = self.out / "light" / f"{_stem(light.path)}_{name[:12]}.fits"
        made = light_cards(light, recipe, result, origin, name, ids, status)
        cards = [*copied_cards(light.header(), light.data.x0, light.data.y0), *made]
        history = light_history(light, ids, choices)
        sha256, size = write_product(path, Plane(result.data, result.sigma, result.mask), "electron", cards, history, part_name=name[:16])
        self.notes[name] = notes
        self.index.put_product(
            product_id=name,
            kind="calibrated",
            path=str(path),
            sha256=sha256,
            status=status,
            night=light.night,
            created_utc=self.created_utc,
            inputs=[("raw", light.raw_id), *((kind, one) for kind, one in ids.items() if one)],
            detail={"median": median, "noise": noise, "notes": notes, "size_bytes": size},
            quality={"median_e": median, "noise_e": noise},
        )
        return self._ref(light, name, str(path), sha256, ids, median, noise, status)

    def _ref(
        self, light: Exposure, name: str, path: str, sha256: str, ids: Mapping[str, str | None], median: float, noise: float, status: str
    ) -> ProductRef:
        return ProductRef(
            product_id=name,
            path=path,
            sha256=sha256,
            source=str(light.path),
            source_sha256=light.raw_id,
            frame_id=light.frame_id,
            frame_type="light",
            filter=light.filter,
            exposure_s=light.exposure_s or 0.0,
            target_id=light.target_id,
            object_name=light.object_name,
            superevent_id=light.superevent_id,
            masters=dict(ids),
            median=median,
            noise=noise,
            status=status,
        )


def _group_key(kind: str, one: Exposure) -> tuple[Any, ...]:
    """Frames with equal keys make one master."""
    gain = None if one.gain_e_per_adu is None else round(one.gain_e_per_adu, 2)
    setup = (one.setup.camera, one.setup.shape, one.setup.binning, one.setup.window, one.setup.read_mode, one.setup.gain_setting)
    key: tuple[Any, ...] = (*setup, gain, one.setup.data_section, one.setup.overscan_section, one.night)
    if kind == "flat":
        return (*key, one.filter)
    if kind == "dark":
        set_point = one.set_temperature_c if one.set_temperature_c is not None else one.temperature_c
        return (*key, round(one.exposure_s or 0.0, 1), None if set_point is None else round(set_point))
    return key


def _master_ref(master: Master) -> MasterRef:
    return MasterRef(
        product_id=master.product_id,
        path=master.path,
        sha256=master.sha256,
        kind=master.kind,
        filter=master.filter,
        exposure_s=master.exposure_s,
        n_frames=master.n_frames,
        status=master.status,
    )


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None


def _status(light: Exposure, choices: Mapping[str, Choice]) -> str:
    """Done, or done without what is missing."""
    dark = choices["dark"].master
    held = dark is not None and dark.holds_bias
    # A camera's own file may say that it needs no dark; of an unknown camera nobody has said so.
    unneeded = {kind for kind in choices if light.camera.mapped and kind not in light.camera.settings.needs}
    absent = [
        f"no {kind}" for kind, choice in choices.items() if choice.master is None and kind not in unneeded and not (kind == "bias" and held)
    ]
    return "done" if not absent else f"done, {', '.join(absent)}"


def _measure(result: Calibrated, light: Exposure, read_noise_e: float, origin: str, scale: float) -> tuple[float, float, dict[str, Any]]:
    good = result.mask == 0
    median = float(np.median(result.data[np.isfinite(result.data)]))
    noise = float(np.median(result.sigma[good])) if good.any() else float(np.median(result.sigma))
    differences = (result.data[:, 1:] - result.data[:, :-1])[good[:, 1:] & good[:, :-1]]
    notes: dict[str, Any] = {
        "neighbour_noise": mad_std(differences[:: max(1, differences.size // 500_000)]) / math.sqrt(2) if differences.size else None,
        "read_noise_e": read_noise_e,
        "read_noise_from": origin,
        "read_noise_header_e": light.read_noise_e,
        "gain_e_per_adu": light.gain_e_per_adu,
        "dark_scale": scale,
        "sigma_common_e": result.sigma_common_e,
        "saturated_pixels": int(np.count_nonzero(result.mask & SATURATED)),
        "masked_pixels": int(result.mask.size - np.count_nonzero(good)),
    }
    return median, noise, notes


def _stem(path: Path) -> str:
    name = path.name
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if name.lower().endswith(suffix):
            name = name[: -len(suffix)]
            break
    return safe_name(name, longest=60)
