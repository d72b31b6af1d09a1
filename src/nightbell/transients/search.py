"""find_transients(products, reference) -> Found: the one function behind the event, the command, a script and the command line.

Each frame is searched by itself; what several frames of the field show at the same place of the sky is one candidate. With two
frames or more, what is seen on one alone carries the veto `single`.
"""

from __future__ import annotations

import hashlib
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

from nightbell.contracts.errors import BadInput, Failed, NightbellError
from nightbell.contracts.records import Candidate
from nightbell.transients.astrometry import Affine, Stars, find_stars, register
from nightbell.transients.detection import Peak, find_peaks
from nightbell.transients.difference import Difference, resample, subtract
from nightbell.transients.hosts import Galaxy, host_of, separation_arcsec
from nightbell.transients.photometry import magnitude, peak_per_flux, star_profile
from nightbell.transients.references import Reference, choose_reference, list_references, read_reference
from nightbell.transients.vetting import Features, features_of, vetoes_of

__all__ = [
    "Detection",
    "Found",
    "Frame",
    "Searched",
    "find_transients",
    "find_with_references",
    "merge",
    "read_frame",
    "read_frames",
    "search_frame",
]

SATURATED = 1


@dataclass(frozen=True)
class Frame:
    """A calibrated frame: electrons, 1-sigma, mask bits, and where it believes to point."""

    path: Path
    product_id: str
    data: NDArray[np.float32]
    sigma: NDArray[np.float32]
    mask: NDArray[np.uint8]
    wcs: WCS | None
    target: Galaxy | None
    filter: str | None
    exposure_s: float
    night: str
    target_id: str
    object_name: str | None
    superevent_id: str | None


@dataclass(frozen=True)
class Detection:
    """A peak of one frame, measured. Fluxes in electrons of the frame."""

    product_id: str
    ra_deg: float
    dec_deg: float
    x_px: float
    y_px: float
    snr: float
    sign: int
    flux_e: float
    mag: float | None
    fwhm_px: float
    elongation: float
    vetoes: tuple[str, ...]


@dataclass(frozen=True)
class Searched:
    """One frame after its search: detections, and the images that a report shows around them."""

    frame: Frame
    detections: tuple[Detection, ...]
    n_stars: int
    fwhm_px: float
    noise_norm: float
    limiting_mag_5sigma: float | None
    centre_deg: tuple[float, float]
    images: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]] = field(repr=False)
    """Frame, matched reference, significance, on the frame's grid."""


@dataclass(frozen=True)
class Found:
    """What a field shows: candidates without veto first, then the vetoed ones; frames that could not be searched and why."""

    candidates: tuple[Candidate, ...]
    vetoed: tuple[Candidate, ...]
    searched: tuple[Searched, ...]
    failed: tuple[tuple[str, str], ...]
    """(path, reason)."""
    reference: str

    @property
    def limiting_mag_5sigma(self) -> float | None:
        """Of the deepest frame."""
        limits = [one.limiting_mag_5sigma for one in self.searched if one.limiting_mag_5sigma is not None]
        return max(limits) if limits else None


def read_frame(path: Path) -> Frame:
    """A calibrated frame of ours. Raises `BadInput`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with fits.open(path, memmap=False) as opened:
                header = opened[0].header.copy()
                data = opened[0].data.astype(np.float32)
                sigma = opened["UNCERT"].data.astype(np.float32)
                mask = opened["MASK"].data.astype(np.uint8)
            wcs = WCS(header)
            wcs = wcs.celestial if wcs.has_celestial else None
    except (OSError, KeyError, AttributeError, TypeError, ValueError) as error:
        raise BadInput(
            f"it is no calibrated frame: {error}", where=str(path), remedy="Run `nightbell calibrate` on its raw frame"
        ) from error
    ra, dec = header.get("TARGRA"), header.get("TARGDEC")
    name = str(header.get("OBJECT", "")).strip() or None
    target = Galaxy(name or "target", float(ra), float(dec)) if isinstance(ra, int | float) and isinstance(dec, int | float) else None
    return Frame(
        path=path,
        product_id=str(header.get("NBPRODID") or hashlib.sha256(path.read_bytes()).hexdigest()),
        data=data,
        sigma=sigma,
        mask=mask,
        wcs=wcs,
        target=target,
        filter=str(header.get("FILTER", "")).strip() or None,
        exposure_s=float(header.get("EXPTIME", 1.0) or 1.0),
        night=str(header.get("NIGHT", "")),
        target_id=str(header.get("OBJID", name or path.stem)),
        object_name=name,
        superevent_id=str(header["ALERTID"]) if header.get("ALERTID") else None,
    )


def read_frames(paths: Sequence[Path]) -> tuple[list[Frame], list[tuple[str, str]]]:
    """Calibrated frames at `paths`, and (path, reason) of those that are none. Folders are searched to the bottom, past masters."""
    frames: list[Frame] = []
    failed: list[tuple[str, str]] = []
    for path in paths:
        for file in sorted(path.rglob("*.fits")) if path.is_dir() else (path,):
            if path.is_dir() and (file.name.startswith(".") or file.parent.name == "masters"):
                continue
            try:
                frames.append(read_frame(file))
            except NightbellError as error:
                failed.append((str(file), str(error)))
    return frames, failed


def search_frame(
    frame: Frame,
    reference: Reference,
    *,
    threshold: float = 6.5,
    pointing_error_arcsec: float = 120.0,
    reference_stars: Stars | None = None,
) -> Searched:
    """Register, subtract, detect, vet one frame. Raises `Failed` with what stood in the way.

    `reference_stars` spares finding the reference's stars again for its next frame.
    """
    saturated = (frame.mask & SATURATED) != 0
    bad = frame.mask != 0
    stars = find_stars(frame.data, bad & ~saturated, saturated=saturated)
    reference_stars = reference_stars or find_stars(reference.data, reference.bad)
    reach_px = pointing_error_arcsec / _scale_arcsec(reference) if frame.wcs is not None else float(max(frame.data.shape))
    to_reference = register(stars, frame.wcs, reference_stars, reference.wcs, reach_px=max(20.0, reach_px))
    shape = (frame.data.shape[0], frame.data.shape[1])
    matched_grid, covered = resample(reference_stars.image, reference.bad, to_reference, shape)
    area = abs(np.linalg.det(to_reference.m))
    reference_variance, _ = resample(reference.variance, reference.bad, to_reference, shape)
    blocked = binary_dilation(saturated, iterations=2) | bad if saturated.any() else bad
    variance = frame.sigma**2
    difference = subtract(
        stars.image,
        variance,
        blocked,
        stars,
        matched_grid,
        np.maximum(reference_variance * np.float32(area), 0),
        covered,
        reference_fwhm_px=reference_stars.fwhm_px / float(np.sqrt(area)),
        scatter_px=to_reference.scatter_px,
    )
    half = max(3, int(np.ceil(2.2 * stars.fwhm_px)))
    profile = star_profile(difference.smoothed, difference.usable, stars, half)
    frame_profile = star_profile(stars.image, ~blocked, stars, half)
    if profile is None or frame_profile is None:
        raise Failed(
            "no star is alone enough to measure the star profile", where=str(frame.path), remedy="Take a wider field or expose longer"
        )
    detections = []
    zero_point = _zero_point(reference, difference)
    for peak in find_peaks(difference.significance, difference.difference, difference.usable, threshold=threshold, fwhm_px=stars.fwhm_px):
        features = features_of(peak, difference, stars.image, variance, blocked, stars, profile, frame_profile)
        detections.append(_detection(frame, reference, to_reference, difference, peak, features, stars, profile, zero_point))
    nx, ny = shape[1], shape[0]
    ra, dec = _sky(reference, to_reference, (nx - 1) / 2, (ny - 1) / 2)
    return Searched(
        frame=frame,
        detections=tuple(detections),
        n_stars=to_reference.n_matched,
        fwhm_px=stars.fwhm_px,
        noise_norm=difference.noise_norm,
        limiting_mag_5sigma=magnitude(_limit_flux(frame, stars), zero_point),
        centre_deg=(ra, dec),
        images=(stars.image, difference.matched, difference.significance),
    )


def _zero_point(reference: Reference, difference: Difference) -> float | None:
    """Magnitude of one electron of the frame: the reference's, moved by the kernel's flux scale."""
    if reference.zero_point_mag is None or difference.scale <= 0:
        return None
    return reference.zero_point_mag + 2.5 * float(np.log10(difference.scale))


def _limit_flux(frame: Frame, stars: Stars) -> float:
    """5 sigma of a point source in this sky, for a Gaussian star: noise pixels are 4 pi sigma^2."""
    sigma_px = stars.fwhm_px / 2.3548
    return 5 * float(np.median(frame.sigma)) * float(np.sqrt(4 * np.pi)) * sigma_px


def _sky(reference: Reference, to_reference: Affine, x: float, y: float) -> tuple[float, float]:
    px, py = to_reference(x, y)
    ra, dec = reference.wcs.wcs_pix2world(px, py, 0)
    return float(ra) % 360.0, float(dec)


def _detection(
    frame: Frame,
    reference: Reference,
    to_reference: Affine,
    difference: Difference,
    peak: Peak,
    features: Features,
    stars: Stars,
    profile: NDArray[np.float64],
    zero_point: float | None,
) -> Detection:
    ra, dec = _sky(reference, to_reference, peak.x, peak.y)
    ix, iy = round(peak.x), round(peak.y)
    flux = peak.sign * float(difference.difference[iy, ix]) / peak_per_flux(profile)
    return Detection(
        product_id=frame.product_id,
        ra_deg=ra,
        dec_deg=dec,
        x_px=peak.x,
        y_px=peak.y,
        snr=peak.snr,
        sign=peak.sign,
        flux_e=peak.sign * flux,
        mag=magnitude(flux, zero_point) if peak.sign > 0 else None,
        fwhm_px=features.fwhm_px,
        elongation=features.elongation,
        vetoes=vetoes_of(peak, features, stars.fwhm_px),
    )


def merge(
    searched: Sequence[Searched],
    galaxies: tuple[Galaxy, ...] = (),
    *,
    radius_arcsec: float = 2.0,
    host_radius_arcsec: float = 60.0,
    single_snr: float = 8.0,
) -> tuple[tuple[Candidate, ...], tuple[Candidate, ...]]:
    """(candidates, vetoed): detections of all frames grouped within `radius_arcsec`, strongest first.

    A group stands when at least two frames show it without veto; of a single frame, what is at least `single_snr` strong.
    """
    pool = sorted((one for frame in searched for one in frame.detections), key=lambda one: (-one.snr, one.product_id, one.x_px))
    groups: list[list[Detection]] = []
    for one in pool:
        for group in groups:
            first = group[0]
            if first.sign == one.sign and separation_arcsec(first.ra_deg, first.dec_deg, one.ra_deg, one.dec_deg) <= radius_arcsec:
                group.append(one)
                break
        else:
            groups.append([one])
    good: list[Candidate] = []
    vetoed: list[Candidate] = []
    for group in groups:
        clean = [one for one in group if not one.vetoes]
        n_frames = len({one.product_id for one in clean})
        vetoes: tuple[str, ...] = ()
        if not clean:
            vetoes = group[0].vetoes
        elif len(searched) >= 2 and n_frames < 2:
            vetoes = (f"single (on 1 of {len(searched)} frames)",)
        elif len(searched) == 1 and clean[0].snr < single_snr:
            vetoes = (f"single (one frame, snr {clean[0].snr:.1f} < {single_snr:g})",)
        candidate = _candidate(clean or group, vetoes, galaxies, host_radius_arcsec)
        (vetoed if vetoes else good).append(candidate)
    return tuple(sorted(good, key=lambda one: -one.snr)), tuple(sorted(vetoed, key=lambda one: -one.snr))


def _candidate(group: list[Detection], vetoes: tuple[str, ...], galaxies: tuple[Galaxy, ...], host_radius_arcsec: float) -> Candidate:
    """Mean place weighted by S/N squared; S/N added in quadrature over frames."""
    weights = np.array([one.snr**2 for one in group])
    first = group[0]
    # Differences in RA are taken from the first: 359.9999 and 0.0001 are neighbours.
    dra = np.array([(one.ra_deg - first.ra_deg + 180) % 360 - 180 for one in group])
    ra = (first.ra_deg + float(np.average(dra, weights=weights))) % 360
    dec = float(np.average([one.dec_deg for one in group], weights=weights))
    mags = [one.mag for one in group if one.mag is not None]
    host = host_of(ra, dec, galaxies, host_radius_arcsec)
    digest = hashlib.blake2b(
        repr(sorted((one.product_id, round(one.x_px, 1), round(one.y_px, 1), one.sign) for one in group)).encode(), digest_size=8
    )
    return Candidate(
        candidate_id=digest.hexdigest(),
        ra_deg=ra,
        dec_deg=dec,
        x_px=first.x_px,
        y_px=first.y_px,
        snr=float(np.sqrt(sum({one.product_id: one.snr**2 for one in reversed(group)}.values()))),
        mag=float(np.median(mags)) if mags else None,
        fwhm_px=first.fwhm_px,
        elongation=first.elongation,
        host=host[0].name if host else None,
        host_separation_arcsec=host[1] if host else None,
        vetoes=vetoes,
    )


def find_transients(
    frames: Sequence[Frame],
    reference: Reference,
    galaxies: tuple[Galaxy, ...] = (),
    *,
    threshold: float = 6.5,
    pointing_error_arcsec: float = 120.0,
    host_radius_arcsec: float = 60.0,
) -> Found:
    """Search `frames` of one field against `reference`. A frame that cannot be searched is in `failed`, with why."""
    searched, failed = _search_all([(frame, reference) for frame in frames], threshold, pointing_error_arcsec)
    return _found(searched, failed, frames, galaxies, host_radius_arcsec, str(reference.path), _scale_arcsec(reference))


def find_with_references(
    frames: Sequence[Frame],
    folder: Path,
    *,
    threshold: float = 6.5,
    pointing_error_arcsec: float = 120.0,
    host_radius_arcsec: float = 60.0,
) -> tuple[Found | None, str]:
    """Search `frames` of one field, each against the reference in `folder` that covers it in its filter.

    Gives what was found and the references used; `None` and the reason when no frame has a reference.
    """
    listings = list_references(folder)
    read: dict[Path, Reference] = {}
    pairs: list[tuple[Frame, Reference]] = []
    failed: list[tuple[str, str]] = []
    for frame in frames:
        place = _believed_centre(frame)
        listing = choose_reference(listings, ra_deg=place[0], dec_deg=place[1], filter_name=frame.filter) if place else None
        if listing is None:
            why = (
                f"no reference in {folder.name} covers it in filter {frame.filter}" if place else "its header does not say where it points"
            )
            failed.append((str(frame.path), why))
            continue
        if listing.path not in read:
            read[listing.path] = read_reference(listing.path)
        pairs.append((frame, read[listing.path]))
    if not pairs:
        return None, f"none: {failed[0][1] if failed else 'no frame'}"
    searched, more = _search_all(pairs, threshold, pointing_error_arcsec)
    names = ", ".join(sorted({str(reference.path) for _, reference in pairs}))
    scale = max(_scale_arcsec(reference) for _, reference in pairs)
    return _found(searched, [*failed, *more], frames, (), host_radius_arcsec, names, scale), names


def _search_all(
    pairs: Sequence[tuple[Frame, Reference]], threshold: float, pointing_error_arcsec: float
) -> tuple[list[Searched], list[tuple[str, str]]]:
    searched: list[Searched] = []
    failed: list[tuple[str, str]] = []
    stars: dict[Path, Stars] = {}
    for frame, reference in sorted(pairs, key=lambda pair: pair[0].product_id):
        try:
            if reference.path not in stars:
                stars[reference.path] = find_stars(reference.data, reference.bad)
            known = stars[reference.path]
            one = search_frame(frame, reference, threshold=threshold, pointing_error_arcsec=pointing_error_arcsec, reference_stars=known)
            searched.append(one)
        except NightbellError as error:
            failed.append((str(frame.path), str(error)))
        except Exception as error:  # noqa: BLE001  (one frame of many: it fails by name, the others go on)
            place = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(place.filename).name}:{place.lineno}"
            failed.append((str(frame.path), f"INTERNAL: {type(error).__name__}: {error} ({where}). Report this together with the frame"))
    return searched, failed


def _found(
    searched: list[Searched],
    failed: list[tuple[str, str]],
    frames: Sequence[Frame],
    galaxies: tuple[Galaxy, ...],
    host_radius_arcsec: float,
    reference: str,
    scale_arcsec: float,
) -> Found:
    targets = tuple({frame.target.name: frame.target for frame in frames if frame.target is not None}.values())
    candidates, vetoed = merge(
        searched, galaxies or targets, radius_arcsec=max(1.5, 1.5 * scale_arcsec), host_radius_arcsec=host_radius_arcsec
    )
    return Found(candidates, vetoed, tuple(searched), tuple(failed), reference)


def _scale_arcsec(reference: Reference) -> float:
    return 3600 * float(np.sqrt(abs(np.linalg.det(reference.wcs.pixel_scale_matrix))))


def _believed_centre(frame: Frame) -> tuple[float, float] | None:
    """(ra, dec) of the frame's middle as its header has it, else its target's."""
    if frame.wcs is not None:
        ny, nx = frame.data.shape
        ra, dec = frame.wcs.wcs_pix2world((nx - 1) / 2, (ny - 1) / 2, 0)
        return float(ra) % 360, float(dec)
    return (frame.target.ra_deg, frame.target.dec_deg) if frame.target is not None else None
