"""The rules of the Alpaca protocol, as a table: what ASCOM's conformance checker asks of a server."""

from __future__ import annotations

import http.client
import json
import time
from urllib.parse import urlencode

import pytest

KINDS = (
    *("telescope", "dome", "camera", "filterwheel", "focuser", "rotator"),
    *("covercalibrator", "observingconditions", "safetymonitor", "switch"),
)


class Wire:
    def __init__(self, port: int) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)

    def ask(self, verb, path, fields=None, **headers):
        form = urlencode(fields or {})
        if verb == "GET":
            self.connection.request(verb, f"{path}?{form}" if form else path, headers=headers)
        else:
            self.connection.request(verb, path, form, {"Content-Type": "application/x-www-form-urlencoded", **headers})
        answer = self.connection.getresponse()
        body = answer.read()
        return answer.status, json.loads(body) if "json" in answer.getheader("Content-Type") else body

    def get(self, device, member, **fields):
        return self.ask("GET", f"/api/v1/{device}/0/{member}", fields)

    def put(self, device, member, **fields):
        return self.ask("PUT", f"/api/v1/{device}/0/{member}", fields)


@pytest.fixture
def wire(simulator):
    made = Wire(simulator.port)
    for kind in KINDS:
        assert made.put(kind, "connect")[0] == 200
    yield made
    made.connection.close()


@pytest.mark.parametrize("kind", KINDS)
def test_every_device_answers_the_common_members_with_its_own_ids(wire, kind):
    for member in ("name", "description", "driverinfo", "driverversion", "interfaceversion", "supportedactions", "connected", "connecting"):
        status, table = wire.get(kind, member, ClientID=7, ClientTransactionID=4711)
        assert (status, table["ErrorNumber"], table["ErrorMessage"], table["ClientTransactionID"]) == (200, 0, "", 4711), member
        assert table["ServerTransactionID"] > 0
    status, table = wire.get(kind, "devicestate")
    assert status == 200
    assert all(set(row) == {"Name", "Value"} for row in table["Value"])


@pytest.mark.parametrize("kind", KINDS)
def test_an_action_nobody_has_is_0x40C(wire, kind):
    status, table = wire.put(kind, "action", Action="dance", Parameters="")
    assert (status, table["ErrorNumber"]) == (200, 0x40C)


@pytest.mark.parametrize(
    "fields",
    [
        {"ClientID": "7", "ClientTransactionID": "9"},
        {"clientid": "7", "clienttransactionid": "9"},
        {"CLIENTID": "7", "CLIENTTRANSACTIONID": "9"},
        {"ClientID": "7", "ClientTransactionID": "9", "Extra": "x"},
    ],
)
def test_names_in_a_get_may_be_in_any_casing(wire, fields):
    status, table = wire.get("dome", "azimuth", **fields)
    assert (status, table["ClientTransactionID"]) == (200, 9)


def test_a_miscased_id_of_a_put_is_no_id_and_0_is_echoed(wire):
    status, table = wire.put("dome", "abortslew", clientid="7", clienttransactionid="9")
    assert (status, table["ErrorNumber"], table["ClientTransactionID"]) == (200, 0, 0)


@pytest.mark.parametrize(
    ("member", "fields", "status"),
    [
        ("slewtoazimuth", {"Azimuth": "90"}, 200),
        ("slewtoazimuth", {"Azimuth": "90", "Extra": "1"}, 200),
        ("slewtoazimuth", {"azimuth": "90"}, 400),
        ("slewtoazimuth", {"aZIMUTH": "90"}, 400),
        ("slewtoazimuth", {}, 400),
        ("slewtoazimuth", {"Azimuth": ""}, 400),
        ("slewtoazimuth", {"Azimuth": "asd"}, 400),
        ("slewtoazimuth", {"Azimuth": "90,5"}, 400),
        ("slewtoazimuth", {"Azimuth": "nan"}, 400),
        ("connected", {"Connected": "True"}, 200),
        ("connected", {"Connected": "true"}, 200),
        ("connected", {"Connected": "1x"}, 400),
        ("connected", {"connected": "True"}, 400),
    ],
)
def test_parameters_of_a_put_are_exact(wire, member, fields, status):
    assert wire.put("dome", member, **fields)[0] == status


@pytest.mark.parametrize("name", ["ClientID", "ClientTransactionID"])
@pytest.mark.parametrize("value", ["", " ", "-1", "abc", "1.5", "4294967296"])
@pytest.mark.parametrize("verb", ["GET", "PUT"])
def test_ids_that_are_no_uint32_are_400(wire, verb, name, value):
    member = "azimuth" if verb == "GET" else "abortslew"
    assert wire.ask(verb, f"/api/v1/dome/0/{member}", {name: value})[0] == 400


@pytest.mark.parametrize(
    "path",
    [
        "/apx/v1/dome/0/azimuth",
        "/api/v2/dome/0/azimuth",
        "/api/v1/baddevice/0/azimuth",
        "/api/v1/dome/-1/azimuth",
        "/api/v1/dome/99999/azimuth",
        "/api/v1/dome/A/azimuth",
        "/api/v1/dome/0/badmember",
        "/api/v1/DOME/0/azimuth",
        "/api/v1/dome/0/Azimuth",
        "/api/v1/dome/0",
        "/",
    ],
)
def test_a_wrong_path_is_4xx_in_plain_words(wire, path):
    for verb in ("GET", "PUT"):
        status, body = wire.ask(verb, path)
        assert 400 <= status < 500
        assert isinstance(body, bytes)


def test_a_verb_that_does_not_fit_is_4xx(wire):
    assert 400 <= wire.put("dome", "azimuth")[0] < 500
    assert 400 <= wire.get("dome", "abortslew")[0] < 500
    assert 400 <= wire.ask("DELETE", "/api/v1/dome/0/azimuth")[0] < 500


@pytest.mark.parametrize("kind", KINDS)
def test_properties_answer_within_100_ms(wire, kind):
    wire.get(kind, "devicestate")
    began = time.monotonic()
    for _ in range(10):
        wire.get(kind, "devicestate")
    assert (time.monotonic() - began) / 10 < 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_a_device_that_is_not_connected_says_0x407(wire, kind):
    assert wire.put(kind, "connected", Connected="False")[0] == 200
    assert wire.get(kind, "devicestate")[1]["ErrorNumber"] == 0x407
    assert wire.get(kind, "connected")[1]["Value"] is False


@pytest.mark.parametrize(
    ("member", "number"),
    [("imagearray", 0x40B), ("imagearrayvariant", 0x40B), ("lastexposureduration", 0x40B), ("lastexposurestarttime", 0x40B)],
)
def test_there_is_no_image_before_the_first_exposure(wire, member, number):
    assert wire.get("camera", member)[1]["ErrorNumber"] == number


@pytest.mark.parametrize(
    ("member", "fields"),
    [
        ("binx", {"BinX": "0"}),
        ("binx", {"BinX": "5"}),
        ("biny", {"BinY": "-1"}),
        ("startx", {"StartX": "-1"}),
        ("numx", {"NumX": "0"}),
        ("numx", {"NumX": "100000"}),
        ("gain", {"Gain": "101"}),
        ("setccdtemperature", {"SetCCDTemperature": "-300"}),
        ("startexposure", {"Duration": "-1", "Light": "True"}),
        ("startexposure", {"Duration": "99999", "Light": "True"}),
        ("startexposure", {"Duration": "0.0", "Light": "True"}),
    ],
)
def test_a_value_the_camera_does_not_take_is_0x401(wire, member, fields):
    assert wire.put("camera", member, **fields)[1]["ErrorNumber"] == 0x401


def test_a_window_beyond_the_detector_is_0x401_when_the_exposure_starts(wire):
    wire.put("camera", "startx", StartX="50")
    assert wire.put("camera", "startexposure", Duration="1", Light="True")[1]["ErrorNumber"] == 0x401


@pytest.mark.parametrize(
    ("device", "member", "fields", "number"),
    [
        ("dome", "slewtoazimuth", {"Azimuth": "360"}, 0x401),
        ("dome", "slewtoazimuth", {"Azimuth": "-1"}, 0x401),
        ("dome", "slewtoaltitude", {"Altitude": "30"}, 0x400),
        ("dome", "slaved", {"Slaved": "True"}, 0x400),
        ("telescope", "slewtocoordinatesasync", {"RightAscension": "5", "Declination": "0"}, 0x408),
        ("telescope", "slewtocoordinatesasync", {"RightAscension": "24", "Declination": "0"}, 0x401),
        ("telescope", "slewtocoordinatesasync", {"RightAscension": "5", "Declination": "91"}, 0x401),
        ("telescope", "abortslew", {}, 0x408),
        ("telescope", "moveaxis", {"Axis": "0", "Rate": "1"}, 0x400),
        ("filterwheel", "position", {"Position": "3"}, 0x401),
        ("covercalibrator", "calibratoron", {"Brightness": "256"}, 0x401),
        ("switch", "setswitch", {"Id": "3", "State": "True"}, 0x401),
        ("switch", "setswitchvalue", {"Id": "2", "Value": "5"}, 0x400),
        ("observingconditions", "averageperiod", {"AveragePeriod": "-1"}, 0x401),
        ("rotator", "moveabsolute", {"Position": "360"}, 0x401),
    ],
)
def test_every_refusal_has_its_number(wire, device, member, fields, number):
    status, table = wire.put(device, member, **fields)
    assert (status, table["ErrorNumber"]) == (200, number)
    assert table["ErrorMessage"]
    assert "Value" not in table


@pytest.mark.parametrize(
    ("name", "number"), [("", 0), ("Temperature", 0), ("temperature", 0), ("SkyBrightness", 0x400), ("Nonsense", 0x401)]
)
def test_ages_of_sensors_are_told_by_name(wire, name, number):
    assert wire.get("observingconditions", "timesincelastupdate", SensorName=name)[1]["ErrorNumber"] == number


def test_can_slew_and_can_slew_async_agree_and_slaved_is_false_after_abort(wire):
    for pair in (("canslew", "canslewasync"), ("canslewaltaz", "canslewaltazasync")):
        assert wire.get("telescope", pair[0])[1]["Value"] == wire.get("telescope", pair[1])[1]["Value"]
    wire.put("dome", "abortslew")
    assert wire.get("dome", "slaved")[1]["Value"] is False


def test_slewing_is_false_soon_after_an_abort(wire):
    wire.put("telescope", "unpark")
    wire.put("telescope", "tracking", Tracking="True")
    lst = wire.get("telescope", "siderealtime")[1]["Value"]
    wire.put("telescope", "slewtocoordinatesasync", RightAscension=str((lst - 2) % 24), Declination="-20")
    assert wire.get("telescope", "slewing")[1]["Value"] is True
    wire.put("telescope", "abortslew")
    assert wire.get("telescope", "slewing")[1]["Value"] is False


def test_image_array_is_json_unless_image_bytes_were_asked_for(wire):
    wire.put("camera", "startexposure", Duration="0", Light="False")
    end = time.monotonic() + 5
    while not wire.get("camera", "imageready")[1]["Value"]:
        assert time.monotonic() < end
    table = wire.get("camera", "imagearray")[1]
    assert (table["Type"], table["Rank"], len(table["Value"]), len(table["Value"][0])) == (2, 2, 96, 64)
    status, body = wire.ask("GET", "/api/v1/camera/0/imagearray", Accept="application/imagebytes")
    assert status == 200
    assert body[:4] == b"\x01\0\0\0"
    assert len(body) == 44 + 2 * 96 * 64


def test_management_tells_versions_server_and_devices(wire):
    assert wire.ask("GET", "/management/apiversions")[1]["Value"] == [1]
    assert wire.ask("GET", "/management/v1/description")[1]["Value"]["ServerName"]
    devices = wire.ask("GET", "/management/v1/configureddevices")[1]["Value"]
    assert sorted(row["DeviceType"] for row in devices) == sorted(KINDS)
    assert len({row["UniqueID"] for row in devices}) == len(KINDS)
    assert wire.ask("GET", "/management/v1/nothing")[0] == 404


@pytest.mark.parametrize("noise", [b"\0\1\2\r\n\r\n", b"GET\r\n\r\n", b"PUT / HTTP/1.1\r\nContent-Length: -4\r\n\r\n"])
def test_what_is_no_http_is_answered_400_and_the_server_lives(wire, simulator, noise):
    import socket

    with socket.create_connection(("127.0.0.1", simulator.port), timeout=5) as connection:
        connection.sendall(noise)
        assert connection.recv(100).startswith(b"HTTP/1.1 400")
    assert wire.get("dome", "azimuth")[0] == 200
