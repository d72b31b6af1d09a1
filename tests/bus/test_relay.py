"""A relay between two brokers: everything once, in order, and nothing back to where it came from."""

from __future__ import annotations

from pathlib import Path

from nightbell.bus.relay import Relay
from nightbell.bus.script import Connection, connect
from nightbell.settings import Installation, load_installation

from .small_site import alarm, living, make_site, running_broker, wait_until


def make_two_sites(folder: Path) -> Installation:
    """Two brokers, a relay from the alert site to the observatory, and one back."""
    site = make_site(folder, ("observatory", "alert-site"))
    for name, source, target in (("relay", "alert-site", "observatory"), ("relay-back", "observatory", "alert-site")):
        text = f'broker = "{target}"\nsource = "{source}"\ntarget = "{target}"\npatterns = ["alarm.*"]\n'
        (site.folder / "modules" / f"{name}.toml").write_text(text, encoding="utf-8")
    return load_installation(site.folder)


def alarms(broker: Connection) -> list[str]:
    return [event.id for event in broker.events("alarm.*", since="first", follow=False)]


def test_a_relay_carries_events_once_with_id_source_and_time(tmp_path: Path) -> None:
    site = make_two_sites(tmp_path / "conf")
    with running_broker(site), running_broker(site, "alert-site") as there:
        with living(Relay(site)), connect(site.folder, broker="alert-site") as far, connect(site.folder, broker="observatory") as near:
            for n in range(20):
                far.publish(alarm(n), "test")
            wait_until(lambda: len(alarms(near)) == 20, "twenty events carried")
            said = list(far.events("alarm.*", since="first", follow=False))
            carried = list(near.events("alarm.*", since="first", follow=False))
            assert [(one.id, one.source, one.time) for one in carried] == [(one.id, one.source, one.time) for one in said]
        # The relay and the source's broker end and come back: nothing is carried twice.
        there.stop()
        there.start()
        with living(Relay(site)), connect(site.folder, broker="alert-site") as far, connect(site.folder, broker="observatory") as near:
            far.publish(alarm("last"), "test")
            wait_until(lambda: len(alarms(near)) >= 21, "the last one")
            assert len(set(alarms(near))) == len(alarms(near)) == 21


def test_two_relays_do_not_send_an_event_round_in_circles_also_when_a_target_is_away(tmp_path: Path) -> None:
    site = make_two_sites(tmp_path / "conf")
    with running_broker(site), running_broker(site, "alert-site") as there, living(Relay(site)):
        back = Relay(site, name="relay-back")
        with living(back), connect(site.folder, broker="alert-site") as far, connect(site.folder, broker="observatory") as near:
            far.publish(alarm("first"), "test")
            wait_until(lambda: len(alarms(near)) == 1, "the first one carried")
            wait_until(lambda: back._bus_store.has_handled(alarms(near)[0]), "the relay back has seen it")
            assert len(alarms(far)) == 1
        with connect(site.folder, broker="alert-site") as far, connect(site.folder, broker="observatory") as near:
            far.publish(alarm("second"), "test")
            wait_until(lambda: len(alarms(near)) == 2, "the second one carried")
            second = alarms(near)[1]
        there.stop()
        back = Relay(site, name="relay-back")
        with living(back):
            wait_until(lambda: back._bus_store.has_handled(second), "the relay back has seen it with its target away")
            there.start()
            wait_until(lambda: back.connected, "the target is back")
            with connect(site.folder, broker="alert-site") as far:
                far.publish(alarm("third"), "test")
                assert len(alarms(far)) == 3


def test_a_relay_that_has_never_met_its_target_waits_for_it(tmp_path: Path) -> None:
    site = make_two_sites(tmp_path / "conf")
    with running_broker(site, "alert-site"):
        with connect(site.folder, broker="alert-site") as far:
            far.publish(alarm("early"), "test")
        with living(Relay(site)) as relay, running_broker(site), connect(site.folder, broker="observatory") as near:
            wait_until(lambda: len(alarms(near)) == 1, "the event carried when the target came")
            assert relay.connected
