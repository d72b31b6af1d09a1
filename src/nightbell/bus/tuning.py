"""brokers/NAME/broker.toml: what an operator may turn at a broker."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import nightbell
from nightbell.contracts.errors import BadInput
from nightbell.settings import Installation, read_settings, read_toml, setting

__all__ = ["BrokerTuning", "broker_folder", "load_tuning"]


@dataclass(frozen=True, kw_only=True)
class BrokerTuning:
    """A broker's own settings; all have defaults."""

    segment_mib: float = setting(64.0, unit="MiB", low=0.001, high=1024, doc="Size at which a segment of the journal is sealed")
    reserve_mib: float = setting(1024.0, unit="MiB", low=0, high=1e6, doc="Free disk below which nothing more is taken (`full`)")
    keep_days: float = setting(365.0, unit="d", low=1, high=36500, doc="Age at which sealed segments that everybody has read are deleted")


def broker_folder(installation: Installation, name: str) -> Path | None:
    """The folder `brokers/SETTINGS` of broker `name`: beside `conf/`, in the installation, or as shipped; None when it has none."""
    settings = installation.settings.brokers[name].settings
    if not settings:
        return None
    package = Path(nightbell.__file__).resolve().parent
    shipped = (package / "data" / "brokers", package.parents[1] / "brokers")  # in a wheel, in a clone
    for root in (installation.folder / "brokers", installation.folder.parent.parent / "brokers", *shipped):
        if (root / settings).is_dir():
            return root / settings
    return None


def load_tuning(installation: Installation, name: str) -> BrokerTuning:
    """The settings of broker `name`, all defaults when it has no file. Raises `BadInput` or `Mistakes`."""
    if name not in installation.settings.brokers:
        known = ", ".join(installation.settings.brokers)
        raise BadInput(f"there is no broker {name!r} in this installation", where="MODULE", remedy=f"Use broker:NAME with one of {known}")
    folder = broker_folder(installation, name)
    if folder is None and (named := installation.settings.brokers[name].settings):
        where = f"{installation.folder / 'observatory.toml'}: brokers.{name}.settings"
        raise BadInput(f"there is no folder brokers/{named}", where=where, remedy="Name a folder with a broker.toml, or leave it out")
    path = folder / "broker.toml" if folder is not None else None
    if path is None or not path.is_file():
        return BrokerTuning()
    return read_settings(read_toml(path), BrokerTuning, where=str(path))
