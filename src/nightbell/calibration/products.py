"""Names and files of products: an id from what went in, FITS bytes that depend on nothing else, and a place that is never half-written.

    primary float32, BUNIT      the image
    UNCERT  float32, BUNIT      1-sigma (UTYPE StdDevUncertainty)
    MASK    uint8               1 saturated, 2 bad, 4 no data, 8 flat invalid; 0 is good

`CCDData.read(product)` gives all three. The time of making is in the index, not in the bytes: same inputs, same bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from nightbell.calibration.engine import Plane
from nightbell.contracts.errors import BadInput, Failed

__all__ = ["ALGORITHM", "copied_cards", "product_id", "read_product", "remove_stale_parts", "write_product"]

ALGORITHM = 2
"""Raised when the bits of a product change for the same inputs and parameters."""
_STRUCTURE = {
    "SIMPLE", "BITPIX", "NAXIS", "NAXIS1", "NAXIS2", "NAXIS3", "EXTEND", "BZERO", "BSCALE", "BLANK", "BUNIT", "CHECKSUM", "DATASUM",
    "DATE", "XTENSION", "PCOUNT", "GCOUNT", "TFIELDS", "BIASSEC", "TRIMSEC", "DATASEC", "DATAMIN", "DATAMAX", "DATAMEAN", "EXTNAME",
    "INHERIT", "PEDESTAL", "BLOCKED", "COMMENT", "HISTORY", "", "END",
}  # fmt: skip


def product_id(kind: str, inputs: Iterable[tuple[str, str]], parameters: Mapping[str, Any]) -> str:
    """Name of a product: sha256 over its kind, the sorted (role, id) of what went in, the parameters and the algorithm's version."""
    content = {"kind": kind, "inputs": sorted(inputs), "parameters": dict(parameters), "algorithm": ALGORITHM}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def copied_cards(header: fits.Header, x0: int, y0: int) -> list[tuple[str, Any, str]]:
    """The raw header's cards for a product trimmed by (x0, y0) pixels: no structure, no sections, CRPIX moved."""
    cards: list[tuple[str, Any, str]] = []
    for card in header.cards:
        try:
            keyword, value, comment = card.keyword, card.value, card.comment
        except (ValueError, fits.VerifyError):
            continue  # a card that cannot be read cannot be copied
        if keyword in _STRUCTURE or keyword.startswith(("NB", "TTYPE", "TFORM")) or isinstance(value, fits.card.Undefined):
            continue
        if keyword in {"CRPIX1", "CRPIX2"} and isinstance(value, int | float):
            value = value - (x0 if keyword == "CRPIX1" else y0)
        cards.append((keyword, value, comment))
    return cards


def write_product(
    path: Path, plane: Plane, unit: str, cards: Iterable[tuple[str, Any, str]], history: Iterable[str], *, part_name: str
) -> tuple[str, int]:
    """Write a product at `path`; gives its sha256 and size. Raises `Failed` when it cannot be placed."""
    with warnings.catch_warnings():
        # Odd cards of a raw header (long, lower case) are carried as HIERARCH; that is no news to anyone.
        warnings.simplefilter("ignore")
        primary = fits.PrimaryHDU(plane.data.astype(np.float32, copy=False))
        for keyword, value, comment in cards:
            try:
                primary.header[keyword if len(keyword) <= 8 else f"HIERARCH {keyword}"] = (value, comment)
            except (ValueError, fits.VerifyError):
                primary.header.add_history(f"dropped a card of the raw header: {keyword}"[:70])
        primary.header["BUNIT"] = (unit, "unit of the pixels")
        for line in history:
            primary.header.add_history(line)
        uncertainty = fits.ImageHDU(plane.sigma.astype(np.float32, copy=False), name="UNCERT")
        uncertainty.header["UTYPE"] = "StdDevUncertainty"
        uncertainty.header["BUNIT"] = unit
        mask = fits.ImageHDU(plane.mask, name="MASK")
        for bit, meaning in ((1, "saturated"), (2, "bad pixel"), (4, "no data"), (8, "flat invalid")):
            mask.header[f"MBIT{bit}"] = (meaning, f"meaning of bit value {bit}")
        return _place(path, fits.HDUList([primary, uncertainty, mask]), part_name)


def _place(path: Path, planes: fits.HDUList, part_name: str) -> tuple[str, int]:
    """Temporary file in the same folder, fsync, rename, fsync of the folder: whole or absent, after any crash. Gives sha256 and size."""
    part = path.parent / f".{part_name}.{os.getpid()}.part"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("w+b") as file:
            planes.writeto(file, output_verify="silentfix")
            file.flush()
            os.fsync(file.fileno())
            size = file.tell()
            file.seek(0)
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        for attempt in range(10):
            try:
                os.replace(part, path)  # noqa: PTH105
                break
            except PermissionError:
                # Windows refuses to replace a file that someone reads; readers of frames are quick.
                if attempt == 9:
                    raise
                time.sleep(0.05)
    except OSError as error:
        with contextlib.suppress(OSError):  # the first error tells more than that of cleaning up
            part.unlink(missing_ok=True)
        raise Failed(f"cannot be written: {error.strerror or error}", where=str(path), remedy="Check space and permissions") from error
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    return sha256, size


def remove_stale_parts(folder: Path, *, older_than_s: float = 86400.0) -> int:
    """Remove what a crash has left in an output folder: .part files older than a day. Gives their number."""
    limit = time.time() - older_than_s
    stale = [part for part in folder.glob("*/.*.part") if part.is_file() and part.stat().st_mtime < limit]
    for part in stale:
        part.unlink(missing_ok=True)
    return len(stale)


def read_product(path: Path) -> tuple[Plane, fits.Header]:
    """The planes and header of a product. Raises `BadInput`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with fits.open(path, memmap=False) as opened:
                data = opened[0].data.astype(np.float32)
                sigma = opened["UNCERT"].data.astype(np.float32)
                mask = opened["MASK"].data.astype(np.uint8)
                header = opened[0].header.copy()
    except (OSError, KeyError, AttributeError, TypeError, ValueError) as error:
        raise BadInput(f"it is no product of ours: {error}", where=str(path), remedy="Calibrate its raw frame again") from error
    return Plane(data, sigma, mask), header
