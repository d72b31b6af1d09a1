"""Small notices and maps, made by hand."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from nightbell.alerts.healpix import cell_area_sr
from nightbell.alerts.notices.guards import encode_base64
from nightbell.alerts.skymap import SkyMap, make_skymap
from nightbell.simulator.notice import multi_order_fits


def igwn(**changes: Any) -> dict[str, Any]:
    """An igwn record; `event__far=...` reaches into the event."""
    record: dict[str, Any] = {
        "alert_type": "INITIAL",
        "time_created": "2027-04-12T22:24:00Z",
        "superevent_id": "S270412a",
        "urls": {},
        "event": {
            "significant": True,
            "time": "2027-04-12T22:20:00.123Z",
            "far": 3e-13,
            "instruments": ["H1", "L1"],
            "group": "CBC",
            "pipeline": "gstlal",
            "search": "AllSky",
            "properties": {"HasNS": 1.0},
            "classification": {"BNS": 0.9, "Terrestrial": 0.1},
            "skymap": encode_base64(fits_of(whole_sky())),
        },
        "external_coinc": None,
    }
    for name, value in changes.items():
        place, _, inner = name.partition("__")
        if inner:
            record[place][inner] = value
        else:
            record[place] = value
    return record


def as_bytes(record: dict[str, Any]) -> bytes:
    return json.dumps(record).encode()


def whole_sky(order: int = 1, *, rho: np.ndarray | None = None, mu: float = 40.0, sigma: float = 8.0) -> SkyMap:
    n = 12 * 4**order
    value = np.ones(n) if rho is None else rho
    value = value / float((value * cell_area_sr(order)).sum())
    column = np.full(n, 1.0)
    return make_skymap(
        np.full(n, order),
        np.arange(n),
        value,
        mu_mpc=mu * column,
        sigma_mpc=sigma * column,
        norm=column / (mu * mu + sigma * sigma),
        header={"DISTMEAN": mu, "DISTSTD": sigma},
    )


def fits_of(sky: SkyMap, name: str = "test") -> bytes:
    assert sky.mu_mpc is not None
    assert sky.sigma_mpc is not None
    assert sky.norm is not None
    return multi_order_fits(sky.order, sky.cell, sky.rho, sky.mu_mpc, sky.sigma_mpc, sky.norm, event_utc="2027-04-12T22:20:00Z", name=name)
