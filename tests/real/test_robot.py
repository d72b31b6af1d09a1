"""One notice, from two real brokers at once, through the whole alert robot to its events."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.alerts.making import as_bytes, igwn
from tests.bus.small_site import living, make_site, running_broker, wait_until

from nightbell.alerts.module import Alerts
from nightbell.bus.script import Connection, connect
from nightbell.settings import Installation, load_installation

pytestmark = pytest.mark.real
TOPIC = "igwn.gwalert"
POLICY = '[[rule]]\nname = "all"\naction = "follow"\n'
GALAXIES = "name,ra_deg,dec_deg,dist_mpc,dist_err_mpc,k_mag\nA,10,-20,40,3.6,9\nB,190,-20,40,3.6,9\n"

VOEVENT = """<?xml version="1.0" encoding="UTF-8"?>
<voe:VOEvent xmlns:voe="http://www.ivoa.net/xml/VOEvent/v2.0" version="2.0" role="observation" ivorn="ivo://gwnet/LVC#S270412a-2-Initial">
<Who><AuthorIVORN>ivo://gwnet/LVC</AuthorIVORN><Date>2027-04-12T22:24:18</Date></Who>
<What><Param name="GraceID" value="S270412a"/><Param name="AlertType" value="Initial"/><Param name="FAR" value="3e-13"/>
<Param name="Instruments" value="H1,L1"/><Param name="Group" value="CBC"/><Param name="Pipeline" value="gstlal"/>
<Param name="Search" value="AllSky"/><Param name="Significant" value="1"/>
<Group type="GW_SKYMAP" name="GW_SKYMAP"><Param name="skymap_fits" value="https://gracedb.ligo.org/x.fits"/></Group>
<Group type="Classification" name="Classification"><Param name="BNS" value="0.9"/><Param name="Terrestrial" value="0.1"/></Group>
<Group type="Properties" name="Properties"><Param name="HasNS" value="1.0"/></Group></What>
<WhereWhen><ObsDataLocation><ObservatoryLocation id="LIGO Virgo"/><ObservationLocation><AstroCoordSystem id="UTC-FK5-GEO"/>
<AstroCoords coord_system_id="UTC-FK5-GEO"><Time unit="s"><TimeInstant><ISOTime>2027-04-12T22:20:00</ISOTime></TimeInstant></Time>
</AstroCoords></ObservationLocation></ObsDataLocation></WhereWhen>
</voe:VOEvent>"""


def robot_on(folder: Path, kafka: str, voevent_port: int) -> Installation:
    site = make_site(folder)
    (site.folder / "policy.toml").write_text(POLICY)
    (site.folder / "galaxies.csv").write_text(GALAXIES)
    (site.folder / "modules" / "alerts.toml").write_text(
        f"""catalog = "galaxies.csv"
[observatories.south]
latitude_deg = -29.0
longitude_deg = -70.0
altitude_min_deg = 0.0
p_host_min = 0.0
[voevent]
host = "127.0.0.1"
port = {voevent_port}
reconnect_max_s = 2.0
[kafka]
topics = ["{TOPIC}"]
servers = "{kafka}"
"""
    )
    return load_installation(site.folder)


def payloads(script: Connection, kind: str) -> list[Any]:
    return [event.payload() for event in script.events(kind, since="first", follow=False)]


def broadcast(port: int, text: str, folder: Path) -> None:
    path = folder / "voevent.xml"
    path.write_text(text)
    tool = Path(sys.executable).parent / "comet-sendvo"
    done = subprocess.run([str(tool), "-h", "127.0.0.1", "-p", str(port), "-f", str(path)], capture_output=True, timeout=30, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_one_notice_from_a_voevent_broker_and_from_kafka_is_one_alert_with_one_list_of_targets(
    comet: tuple[int, int], kafka: str, tmp_path: Path
) -> None:
    import confluent_kafka

    receive, voevent_port = comet
    site = robot_on(tmp_path / "conf", kafka, voevent_port)
    with running_broker(site), living(Alerts(site)) as robot, connect(site.folder) as script:
        # VTP has no replay, so wait until the listener has connected: its first packet of any kind makes this file.
        wait_until((robot.home / "vtp" / "alive").exists, "the listener is connected")
        broadcast(receive, VOEVENT, tmp_path)
        wait_until(lambda: bool(payloads(script, "alert.received")), "the VOEvent, which only names its map")
        assert payloads(script, "targets.ready") == []
        producer = confluent_kafka.Producer({"bootstrap.servers": kafka, "message.max.bytes": 8 << 20})
        producer.produce(TOPIC, as_bytes(igwn()))
        assert producer.flush(20) == 0
        wait_until(lambda: bool(payloads(script, "targets.ready")), "the targets of the map that Kafka brought")
        broadcast(receive, VOEVENT.replace("22:24:18", "22:24:19").replace("-2-Initial", "-2-Initial-again"), tmp_path)
        wait_until(lambda: robot.journal.last == 3, "the same once more")
        wait_until(lambda: robot.report()["last"].get("notice") == 3, "its reading")
        assert robot.report()["last"]["notice_was"] == "duplicate"
        first, second = payloads(script, "alert.received")
        assert (first.alert.superevent_id, first.skymap, second.alert.drill) == ("S270412a", None, False)
        (lists,) = payloads(script, "targets.ready")
        assert lists.targets
