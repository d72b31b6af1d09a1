"""What one call has made of its files, as a record and as the JSON of the command line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nightbell.calibration.guard import Ambiguity
from nightbell.contracts.records import BlockedFrame, FailedFrame, MasterRef, ProductRef

__all__ = ["Outcome"]

WAITING_REMEDY = "Calibrate such frames into the same output, then this one again; or go on without by --allow-missing"


@dataclass(frozen=True)
class Outcome:
    """What became of each file: a product, a part of a master, blocked, failed or ignored."""

    products: tuple[ProductRef, ...] = ()
    masters: tuple[MasterRef, ...] = ()
    blocked: tuple[BlockedFrame, ...] = ()
    failed: tuple[FailedFrame, ...] = ()
    ignored: tuple[tuple[str, str], ...] = ()
    """(source, why): focus frames and the like."""
    ambiguities: tuple[tuple[str, Ambiguity], ...] = ()
    notes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """product id -> what was measured: read noise, scale of the dark, saturated pixels, noise between neighbours."""
    levels: Mapping[str, float] = field(default_factory=dict)
    """master id -> its level in ADU."""

    def as_dict(self) -> dict[str, Any]:
        """The JSON of the command line (DESIGN.md 8, with more keys)."""
        return {
            "products": [
                {
                    "path": one.path,
                    "source": one.source,
                    "type": one.frame_type,
                    "filter": one.filter,
                    "exposure_s": one.exposure_s,
                    "object": one.object_name,
                    "masters": one.masters,
                    "median": one.median,
                    "noise": one.noise,
                    "noise_is": "median of UNCERT over unmasked pixels, electrons",
                    "status": one.status,
                    "product_id": one.product_id,
                    "sha256": one.sha256,
                    "unit": "electron",
                    **self.notes.get(one.product_id, {}),
                }
                for one in self.products
            ],
            "masters": [
                {
                    "product_id": one.product_id,
                    "kind": one.kind,
                    "path": one.path,
                    "filter": one.filter,
                    "exposure_s": one.exposure_s,
                    "n_frames": one.n_frames,
                    "status": one.status,
                    "level_adu": self.levels.get(one.product_id),
                    **self.notes.get(one.product_id, {}),
                }
                for one in self.masters
            ],
            "blocked": [{"source": one.source, "missing": list(one.missing), "remedy": WAITING_REMEDY} for one in self.blocked],
            "failed": [{"source": one.source, "error": one.error, "remedy": one.remedy} for one in self.failed],
            "ignored": [{"source": source, "why": why} for source, why in self.ignored],
            "ambiguities": [{"source": source, "code": one.code, "detail": one.detail} for source, one in self.ambiguities],
        }
