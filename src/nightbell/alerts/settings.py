"""Settings of the alert robot: catalogue, observatories with their cameras, and where notices come from."""

from __future__ import annotations

from dataclasses import dataclass

from nightbell.settings import setting

__all__ = ["AlertsSettings", "FolderSettings", "KafkaSettings", "ObservatorySettings", "VoeventSettings"]


@dataclass(frozen=True, kw_only=True)
class ObservatorySettings:
    """[observatories.NAME] One observatory that gets a list of targets of its own."""

    latitude_deg: float = setting(unit="deg", low=-90, high=90, doc="Geodetic latitude, north positive")
    longitude_deg: float = setting(unit="deg", low=-180, high=360, doc="Longitude, EAST positive")
    elevation_m: float = setting(0.0, unit="m", low=-500, high=9000, doc="Height above the WGS84 ellipsoid")
    altitude_min_deg: float = setting(25.0, unit="deg", low=0, high=89, doc="Targets lower than this are not observed")
    sun_limit_deg: float = setting(-12.0, unit="deg", low=-30, high=0, doc="Exposures wait until the Sun is below this")
    moon_distance_deg: float = setting(10.0, unit="deg", low=0, high=90, doc="Distance kept from a new Moon")
    moon_full_extra_deg: float = setting(
        40.0, unit="deg", low=0, high=120, doc="Added to it at full Moon, in proportion to the lit fraction"
    )
    filters: tuple[str, ...] = setting(("g", "r"), doc="Filters of each visit, in this order")
    exposure_s: float = setting(60.0, unit="s", low=0.01, high=3600, doc="One exposure")
    n_exposures: int = setting(2, low=1, high=1000, doc="Exposures per filter and visit")
    overhead_s: float = setting(60.0, unit="s", low=0, high=3600, doc="Slew, settling and read-out of one visit")
    targets_max: int = setting(30, low=1, high=300, doc="Longest list that is published")
    p_host_min: float = setting(1e-3, low=0, high=1, doc="Galaxies less probable than this are left out")
    field_deg: float = setting(1.0, unit="deg", low=0.01, high=20, doc="Side of the camera's square field, for tiles")

    @property
    def visit_s(self) -> float:
        """One complete visit."""
        return self.overhead_s + len(self.filters) * self.n_exposures * self.exposure_s


@dataclass(frozen=True, kw_only=True)
class FolderSettings:
    """[inbox] Files that others put into a folder."""

    path: str = setting("", doc="Folder that is watched, relative to this installation's home; empty: off")
    poll_s: float = setting(1.0, unit="s", low=0.05, high=60, doc="It is looked into this often (real seconds)")


@dataclass(frozen=True, kw_only=True)
class VoeventSettings:
    """[voevent] A VOEvent broker (VTP)."""

    host: str = setting("", doc="Host of the broker; empty: off")
    port: int = setting(8099, low=1, high=65535, doc="Its subscriber port")
    silence_s: float = setting(
        150.0, unit="s", low=60, high=3600, doc="Without any packet for so long: reconnect, and an alarm. Brokers are alive every 60 s"
    )
    reconnect_max_s: float = setting(8.0, unit="s", low=2, high=1024, doc="Longest wait between attempts")


@dataclass(frozen=True, kw_only=True)
class KafkaSettings:
    """[kafka] GCN's Kafka, or any broker with its topics."""

    topics: tuple[str, ...] = setting((), doc='Topics, for instance "igwn.gwalert"; empty: off')
    servers: str = setting("", doc="HOST:PORT of a broker of your own; empty: GCN")
    domain: str = setting("gcn.nasa.gov", doc="GCN's domain; test.gcn.nasa.gov for trials")
    credentials_file: str = setting("", names="path", doc="TOML file with client_id and client_secret, relative to this installation")
    group_id: str = setting("nightbell", doc="Our stable name as a consumer: a new one reads everything again")
    silence_s: float = setting(10800.0, unit="s", low=60, high=864000, doc="No notice for so long: alarm. A mock event comes every hour")


@dataclass(frozen=True, kw_only=True)
class AlertsSettings:
    """The alert robot."""

    catalog: str = setting("", names="path", doc="Galaxy catalogue: CSV file or built folder, relative to this installation; empty: none")
    policy: str = setting("policy.toml", names="path", doc="Rules, relative to this installation; absent: the shipped ones")
    weight: str = setting("K", choices=("none", "K", "B", "mass"), doc="What makes a galaxy a likely host")
    top: int = setting(200, low=1, high=2000, doc="Longest list that is kept and shown")
    observatories: dict[str, ObservatorySettings] = setting({}, doc="Who gets targets; none: the installation's own site")
    inbox: FolderSettings = setting(FolderSettings(), doc="A watched folder")
    voevent: VoeventSettings = setting(VoeventSettings(), doc="A VOEvent broker")
    kafka: KafkaSettings = setting(KafkaSettings(), doc="A Kafka broker")
