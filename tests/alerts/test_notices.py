"""Notices: three formats, one record; who says drill; what strangers send."""

from __future__ import annotations

import gzip
import io
import json
import time
from pathlib import Path
from typing import Any

import fastavro
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.alerts.making import as_bytes, fits_of, igwn, whole_sky

from nightbell.alerts.answers import skymap_of
from nightbell.alerts.cones import cone_map
from nightbell.alerts.notices.guards import decode_base64, encode_base64
from nightbell.alerts.notices.missions import radius_at
from nightbell.alerts.notices.notice import witnesses_of
from nightbell.alerts.notices.reading import parse_notice, read_notice
from nightbell.contracts.errors import BadInput

VOEVENT = (
    '<?xml version="1.0"?><voe:VOEvent xmlns:voe="http://www.ivoa.net/xml/VOEvent/v2.0" version="2.0" role="{role}" '
    'ivorn="ivo://gwnet/LVC#{id}-1-Initial"><Who><Date>2027-04-12T22:24:00</Date></Who><What><Param name="GraceID" value="{id}"/>'
    '<Param name="AlertType" value="Initial"/><Param name="Search" value="{search}"/>{more}</What></voe:VOEvent>'
)


def refusal_of(raw: bytes) -> BadInput | None:
    """What `parse_notice` has against these bytes; None when it reads them. Anything but `BadInput` is a failure of the test."""
    try:
        parse_notice(raw, where="x")
    except BadInput as refused:
        return refused
    return None


def voevent(name: str = "S270412a", *, role: str = "observation", search: str = "AllSky", more: str = "") -> bytes:
    return VOEVENT.format(id=name, role=role, search=search, more=more).encode()


# -- one record from three formats --------------------------------------------------------------------------------------


def test_the_official_trio_gives_equal_records(shared_data: Path) -> None:
    folder = shared_data / "alerts" / "voevents"
    from_json, from_avro = read_notice(folder / "MS181101ab-initial.json"), read_notice(folder / "MS181101ab-initial.avro")
    from_xml = read_notice(folder / "MS181101ab-3-Initial.xml")
    assert from_json.alert == from_avro.alert
    assert from_json.skymap == from_avro.skymap
    # The VOEvent only names its map.
    assert msgspec.structs.replace(from_xml.alert, skymap_url=None) == from_json.alert


def test_the_trio_is_wholly_equal_once_the_map_of_the_voevent_is_at_hand(shared_data: Path) -> None:
    folder = shared_data / "alerts" / "voevents"
    records = []
    for name, skymap in (
        ("initial.json", None),
        ("initial.avro", None),
        ("3-Initial.xml", shared_data / "alerts/maps/GW170817.multiorder.fits"),
    ):
        path = folder / f"MS181101ab-{name}"
        records.append(skymap_of(read_notice(path), skymap, where=str(path))[1].alert)
    assert records[0] == records[1] == records[2]
    assert records[0].skymap_sha256


def test_a_retraction_without_event_and_search_is_read_and_its_id_says_drill(shared_data: Path) -> None:
    folder = shared_data / "alerts" / "voevents"
    records = [read_notice(folder / f"MS181101ab-{name}").alert for name in ("retraction.json", "retraction.avro", "5-Retraction.xml")]
    assert records[0] == records[1] == records[2]
    assert (records[0].kind, records[0].drill) == ("retraction", True)


def test_every_real_notice_is_read(shared_data: Path) -> None:
    paths = [p for folder in ("voevents", "o4", "missions") for p in (shared_data / "alerts" / folder).rglob("*") if p.is_file()]
    kinds = {path.name: read_notice(path).alert.kind for path in paths}
    assert len(kinds) == 49
    assert kinds["chime_frb.retraction.example.json"] == "retraction"
    assert kinds["MS181101ab-1-EarlyWarning.xml"] == "early_warning"


def test_event_time_is_cut_to_the_millisecond_so_that_transports_agree() -> None:
    where = "<WhereWhen><ISOTime>2018-11-01T22:22:46.654937Z</ISOTime></WhereWhen>"
    with_time = voevent().replace(b"</What>", f"</What>{where}".encode())
    assert parse_notice(with_time, where="x").alert.time_utc == "2018-11-01T22:22:46.654Z"


def test_utf16_is_read_like_utf8() -> None:
    text = voevent().decode().replace('version="1.0"', 'version="1.0" encoding="UTF-16"', 1)
    assert parse_notice(text.encode("utf-16"), where="x").alert == parse_notice(voevent(), where="x").alert


# -- drills -------------------------------------------------------------------------------------------------------------


def test_search_o2virgotest_does_not_make_gw170817_a_drill(shared_data: Path) -> None:
    notice = read_notice(shared_data / "alerts" / "voevents" / "G298048-1-Initial.xml")
    assert notice.alert.search == "O2VirgoTest"
    assert not notice.alert.drill
    assert notice.witnesses.archive


@pytest.mark.parametrize(
    ("name", "role", "search", "drill"),
    [
        ("S270412a", "observation", "AllSky", False),
        ("S270412a", None, None, False),
        ("S270412a", "observation", "MDC", True),
        ("S270412a", "test", "AllSky", True),
        ("S270412a", "utility", "AllSky", True),
        ("MS270412a", "observation", "AllSky", True),
        ("TS270412a", None, None, True),
        ("M298048", "observation", None, True),
        ("MS181101ab", None, None, True),
        ("XS181101ab", None, None, True),
        ("S181101ab ", None, None, True),
        ("S181101ab\n", None, None, True),
        ("S181101AB", None, None, True),
        ("G298048", "observation", "O2VirgoTest", False),
    ],
)
def test_one_witness_is_enough_for_a_drill(name: str, role: str | None, search: str | None, drill: bool) -> None:
    assert witnesses_of(name, role=role, search=search).drill is drill


def test_a_hardware_injection_is_a_drill() -> None:
    assert parse_notice(voevent(more='<Param name="HardwareInj" value="1"/>'), where="x").alert.drill
    assert not parse_notice(voevent(more='<Param name="HardwareInj" value="0"/>'), where="x").alert.drill


@pytest.mark.parametrize(("tense", "drill"), [("test", True), ("injection", True), ("current", False), ("archival", False)])
def test_missions_say_drill_by_their_tense(tense: str, drill: bool) -> None:
    record = {
        "$schema": "https://x/gcn/notices/a/b.schema.json",
        "alert_datetime": "2027-01-01T00:00:00Z",
        "id": ["1"],
        "alert_tense": tense,
    }
    assert parse_notice(as_bytes(record), where="x").alert.drill is drill


@given(st.text(max_size=12))
def test_only_the_anchored_live_form_is_ever_live(name: str) -> None:
    witnesses = witnesses_of(name, role="observation", search="AllSky")
    assert witnesses.drill or witnesses.archive or (name[0] == "S" and name[1:7].isdecimal() and name[7:].islower())


# -- values -------------------------------------------------------------------------------------------------------------


def test_far_of_zero_is_kept_null_is_unknown_and_text_is_refused() -> None:
    assert parse_notice(as_bytes(igwn(event__far=0)), where="x").alert.far_hz == 0
    assert parse_notice(as_bytes(igwn(event__far=None)), where="x").alert.far_hz is None
    with pytest.raises(BadInput, match=r"x: event\.far: '3e-13' is not a number"):
        parse_notice(as_bytes(igwn(event__far="3e-13")), where="x")


def test_an_absent_classification_is_unknown_not_zero() -> None:
    assert parse_notice(as_bytes(igwn(event__classification=None, event__properties=None)), where="x").alert.classification == {}


def test_significant_is_true_where_notices_did_not_say_it_yet() -> None:
    record = igwn()
    del record["event"]["significant"]
    assert parse_notice(as_bytes(record), where="x").alert.significant is True


def test_a_broken_combined_map_falls_back_to_the_plain_one_and_says_so() -> None:
    record = igwn(external_coinc={"observatory": "Fermi", "combined_skymap": encode_base64(b"SIMPLE  = rubbish")})
    sky, notice = skymap_of(parse_notice(as_bytes(record), where="x"), where="x")
    assert sky is not None
    assert sky.digest == whole_sky().digest
    assert any("combined_skymap" in text for text in notice.warnings)


def test_a_broken_map_does_not_lose_the_alert() -> None:
    notice = parse_notice(as_bytes(igwn(event__skymap="%%%")), where="x")
    assert notice.alert.superevent_id == "S270412a"
    assert "event.skymap" in notice.warnings[0]


def test_a_combined_map_is_preferred() -> None:
    combined = whole_sky(mu=60.0)
    record = igwn(external_coinc={"observatory": "Fermi", "combined_skymap": encode_base64(fits_of(combined))})
    sky, _ = skymap_of(parse_notice(as_bytes(record), where="x"), where="x")
    assert sky is not None
    assert sky.distance_mean_mpc == 40.0  # the writer's header, the same for both
    assert sky.digest == combined.digest


@pytest.mark.parametrize(
    ("text", "ok"),
    [("QUJD", True), ("QU\nJD\r\n", True), ("QUI", True), ("QUI=", True), ("QU-_", False), ("QU$D", False), ("Q", False), ("QUé", False)],
)
def test_base64_with_breaks_and_without_padding_is_accepted_other_alphabets_are_not(text: str, ok: bool) -> None:
    if ok:
        assert decode_base64(text, where="f").startswith(b"AB")
    else:
        with pytest.raises(BadInput, match="f: is not base64"):
            decode_base64(text, where="f")


# -- error radii --------------------------------------------------------------------------------------------------------


def test_radii_convert_by_a_two_dimensional_gaussian() -> None:
    assert radius_at(1.0, 0.68) == pytest.approx(1.4216, abs=1e-4)
    assert radius_at(1.0, 0.5) == pytest.approx(1.8226, abs=1e-4)


def gbm(**changes: Any) -> dict[str, Any]:
    record = {
        "$schema": "https://x/gcn/notices/fermi/gbm/trigger.schema.json",
        "mission": "Fermi",
        "instrument": "GBM",
        "alert_datetime": "2027-01-01T00:00:00Z",
        "id": ["1"],
        "ra": 30.0,
        "dec": -60.0,
        "ra_dec_error": 1.0,
        "containment_probability": 0.68,
    }
    return {**record, **changes}


def test_a_statistical_radius_of_gbm_is_widened_by_its_systematic_error() -> None:
    narrow = parse_notice(as_bytes(gbm(systematic_included=True)), where="x").cone
    wide = parse_notice(as_bytes(gbm()), where="x").cone
    assert narrow is not None
    assert wide is not None
    assert narrow.radius_90_deg == pytest.approx(1.4216, abs=1e-4)
    assert 6 < wide.radius_90_deg < 8


@pytest.mark.parametrize("stated", [5e-324, 0.0, 1.0, 1 - 1e-12])
def test_a_containment_that_says_nothing_is_refused(stated: float) -> None:
    refused = refusal_of(as_bytes(gbm(containment_probability=stated)))
    assert refused is not None
    assert "containment_probability" in refused.where


@pytest.mark.parametrize("radius", [5e-324, 1e-170, 1e-9])
def test_no_radius_is_believed_below_an_arcsecond(radius: float) -> None:
    notice = parse_notice(as_bytes(gbm(mission="Other", instrument="X", ra_dec_error=radius)), where="x")
    assert notice.cone is not None
    assert notice.cone.radius_90_deg == pytest.approx(1 / 3600)
    assert float(cone_map(notice.cone).probability.sum()) == pytest.approx(1)


@pytest.mark.parametrize(("value", "serial"), [(7, 7), (True, None), (-1, None), (10**30, None), ("7", None), (None, None)])
def test_a_record_number_that_is_none_is_left_out(value: Any, serial: int | None) -> None:
    found = parse_notice(as_bytes(gbm(record_number=value)), where="x").serial
    assert found == serial
    assert not isinstance(found, bool)


def test_no_region_is_made_of_an_error_radius_of_zero() -> None:
    notice = parse_notice(as_bytes(gbm(ra_dec_error=0)), where="x")
    assert notice.cone is None
    assert "no region" in notice.warnings[0]


@pytest.mark.parametrize("radius", [0.02, 0.5, 8.0])
def test_the_map_of_a_cone_holds_ninety_percent_in_its_radius(radius: float) -> None:
    cone = parse_notice(as_bytes(gbm(mission="IceCube", ra_dec_error=radius, containment_probability=0.9)), where="x").cone
    assert cone is not None
    sky = cone_map(cone)
    assert sky.area_deg2(0.9) == pytest.approx(3.1416 * cone.radius_90_deg**2, rel=0.04)
    assert sky.rho[sky.rows_of(*(__import__("numpy").array([v]) for v in (30.0, -60.0)))][0] > 0.5 * sky.rho.max()


# -- strangers ----------------------------------------------------------------------------------------------------------

BROKEN: dict[str, bytes] = {
    "is empty": b"  \n",
    "is not whole JSON": as_bytes(igwn())[:5000],
    "not an object": b"[1, 2, 3]",
    "nested deeper": b"[" * 100_000,
    "nested deeper than": b'{"a":' * 100_000,
    "is no notice we know": b'{"hello": 1}',
    "stands there twice": b'{"superevent_id": "S1", "superevent_id": "S2"}',
    "contains NaN": b'{"superevent_id": NaN}',
    "integer of 5,000 digits": b'{"superevent_id": ' + b"9" * 5000 + b"}",
    "more than 10,000 keys": b'{"superevent_id": {' + b",".join(b'"k%d": 1' % i for i in range(10_001)) + b"}}",
    "not UTF-8": b'{"superevent_id": "\xff"}',
    "superevent_id: is missing": b'{"alert_type": "INITIAL", "event": {}}',
    "event: is missing": as_bytes(igwn(event=None)),
    "time_created: is missing": as_bytes(igwn(time_created=None)),
    "is not a time": as_bytes(igwn(time_created="yesterday")),
    "event: 'x' is not a table": as_bytes(igwn(event="x")),
    "is not a number from 0": as_bytes(igwn(event__classification={"BNS": 3})),
    "DOCTYPE": b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>',
    "DOCTYPE or": '<?xml version="1.0" encoding="UTF-16"?><!DOCTYPE a><a/>'.encode("utf-16"),
    "is not whole XML": voevent()[:150],
    "its root is": b"<html/>",
    "is missing": b"<VOEvent/>",
    "is in utf-7": b'<?xml version="1.0" encoding="utf-7"?><VOEvent/>',
    "elements": b"<VOEvent>" + b"<a/>" * 6000 + b"</VOEvent>",
    "not whole Avro": b"Obj\x01\x04\x14avro.codec\x08null\x16avro.schema" + b"\x40" + b'{"type":"record","name":"x"}'.ljust(32),
    "is cut off, or holds a number": b"Obj\x01\x04",
    "claims": b"Obj\x01\x02\xfe\xff\xff\xff\xff\x7f",
}


@pytest.mark.parametrize("words", BROKEN)
def test_what_is_broken_is_refused_quickly_by_name(words: str) -> None:
    began = time.monotonic()
    with pytest.raises(BadInput) as refused:
        parse_notice(BROKEN[words], where="notice.x")
    assert "notice.x" in str(refused.value)
    if not words.startswith("not whole Avro"):
        assert words in str(refused.value)
    assert refused.value.remedy
    assert time.monotonic() - began < 2.0


def test_an_unterminated_string_full_of_escapes_is_refused_in_linear_time() -> None:
    began = time.monotonic()
    with pytest.raises(BadInput):
        parse_notice(b'{"a": "' + b'\\"' * 500_000, where="x")
    assert time.monotonic() - began < 2.0


@pytest.mark.parametrize("items", ["null", {"type": "record", "name": "empty", "fields": []}])
def test_an_avro_schema_under_which_few_bytes_become_endless_nothings_is_refused(items: Any) -> None:
    schema = {"type": "record", "name": "bomb", "fields": [{"name": "a", "type": {"type": "array", "items": items}}]}
    head = {"avro.codec": b"null", "avro.schema": json.dumps(schema).encode()}

    def long(n: int) -> bytes:
        n <<= 1
        out = b""
        while n > 127:
            out += bytes([n & 127 | 128])
            n >>= 7
        return out + bytes([n])

    packed = b"".join(long(len(k)) + k.encode() + long(len(v)) + v for k, v in head.items())
    data = b"Obj\x01" + long(2) + packed + b"\0" + b"s" * 16 + long(1) + long(9) + long(1 << 50) + b"\0" * 2 + b"s" * 16
    began = time.monotonic()
    with pytest.raises(BadInput, match="schema"):
        parse_notice(data, where="x")
    assert time.monotonic() - began < 1.0


def test_packed_avro_is_refused_before_it_is_unpacked() -> None:
    stream = io.BytesIO()
    schema = fastavro.parse_schema({"type": "record", "name": "r", "fields": [{"name": "superevent_id", "type": "string"}]})
    fastavro.writer(stream, schema, [{"superevent_id": "S270412a" * 100_000}], codec="deflate")
    with pytest.raises(BadInput, match=r"avro\.codec"):
        parse_notice(stream.getvalue(), where="x")


SMALL = as_bytes(igwn())
KINDS = {
    "json": SMALL[: SMALL.index(b'"skymap"')] + b'"skymap": null}}',
    "xml": voevent(more='<Param name="FAR" value="1e-9"/>'),
    "gcn": as_bytes(gbm()),
}


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(sorted(KINDS)), st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), max_size=12), st.integers(0, 5000))
def test_damaged_notices_are_read_or_refused_never_anything_else(kind: str, flips: list[tuple[int, int]], cut: int) -> None:
    data = bytearray(KINDS[kind])
    for position, value in flips:
        data[position % len(data)] = value
    for one in (bytes(data), bytes(data[:cut])):
        refused = refusal_of(one)
        assert refused is None or "x" in refused.where


@settings(max_examples=100)
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=8,
    ),
    st.sampled_from(
        ["event", "external_coinc", "urls", "time_created", "superevent_id", "alert_type", *(f"event__{k}" for k in igwn()["event"])]
    ),
)
def test_a_field_of_any_type_is_read_or_refused(value: Any, name: str) -> None:
    refused = refusal_of(as_bytes(igwn(**{name: value})))
    assert refused is None or refused.what


# -- what a hostile or odd sender may do ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["S２３０５１８h", "S٢٣٠٥١٨h", "MS２３０５１８h"])
def test_digits_of_another_script_never_make_a_live_event(name: str) -> None:
    assert parse_notice(as_bytes(igwn(superevent_id=name)), where="x").alert.drill


@pytest.mark.parametrize("name", ["", "  ", "S270412a\n", "S270412a\0", "S" * 97])
def test_a_name_that_cannot_be_the_subject_of_an_event_is_refused(name: str) -> None:
    refused = refusal_of(as_bytes(igwn(superevent_id=name)))
    assert refused is not None
    assert "superevent_id" in refused.where


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "0999-12-31T23:59:59Z"])
def test_a_time_that_could_not_be_written_again_is_refused(text: str) -> None:
    refused = refusal_of(as_bytes(igwn(time_created=text)))
    assert refused is not None
    assert "time_created" in refused.where


def test_half_a_character_is_refused_because_nobody_could_write_it_again() -> None:
    refused = refusal_of(as_bytes(igwn()).replace(b"gstlal", b"gst\\ud800lal"))
    assert refused is not None
    assert "surrogate" in refused.what
    assert refusal_of(as_bytes(igwn()).replace(b"gstlal", b"gst\\ud83d\\ude00lal")) is None


@pytest.mark.parametrize("name", ["event__classification", "event__properties", "external_coinc", "urls"])
def test_open_tables_have_a_limit_because_they_ride_in_events(name: str) -> None:
    refused = refusal_of(as_bytes(igwn(**{name: {f"k{i}": 0.0 for i in range(200)}})))
    assert refused is not None
    assert name.replace("__", ".") in refused.where


def test_what_is_only_shown_of_a_coincidence_is_cut_to_size() -> None:
    notice = parse_notice(as_bytes(igwn(external_coinc={"observatory": "Fermi", "note": "x" * 3_000_000, "deep": [[1]]})), where="x")
    assert notice.alert.external is not None
    assert set(notice.alert.external) == {"observatory", "note"}
    assert len(notice.alert.external["note"]) == 256


def test_a_packed_notice_is_read_wherever_it_comes_from() -> None:
    plain = as_bytes(igwn())
    assert parse_notice(gzip.compress(plain), where="x").alert == parse_notice(plain, where="x").alert
    in_two_parts = gzip.compress(plain[:5000]) + gzip.compress(plain[5000:])
    assert parse_notice(in_two_parts, where="x").alert == parse_notice(plain, where="x").alert


def test_lvks_own_stream_without_a_superevent_is_broken_not_another_mission() -> None:
    data = (
        b'<VOEvent ivorn="ivo://gwnet/LVC#S270412a-2-Initial" role="observation"><Who><Date>2027-04-12T22:24:00</Date></Who>'
        b'<What><Param name="AlertType" value="Initial"/></What></VOEvent>'
    )
    refused = refusal_of(data)
    assert refused is not None
    assert "GraceID" in refused.where


@pytest.mark.parametrize(("text", "significant"), [("1", True), ("true", True), ("True", True), ("0", False), ("false", False), ("", True)])
def test_a_voevent_says_significant_in_several_words(text: str, significant: bool) -> None:
    assert parse_notice(voevent(more=f'<Param name="Significant" value="{text}"/>'), where="x").alert.significant is significant


def test_a_significance_that_is_neither_yes_nor_no_is_refused() -> None:
    refused = refusal_of(voevent(more='<Param name="Significant" value="perhaps"/>'))
    assert refused is not None
    assert "Significant" in refused.where


def test_a_class_that_is_named_but_empty_is_unknown() -> None:
    data = voevent(more='<Group type="Classification"><Param name="BNS" value=""/><Param name="BBH" value="1.0"/></Group>')
    assert parse_notice(data, where="x").alert.classification == {"BBH": 1.0}


RECORD = {
    "type": "record",
    "name": "Alert",
    "fields": [
        {"name": "superevent_id", "type": "string"},
        {"name": "alert_type", "type": {"type": "enum", "name": "Kind", "symbols": ["RETRACTION", "INITIAL"]}},
        {"name": "time_created", "type": "string"},
        {"name": "again", "type": ["null", "Kind"]},
    ],
}
ONE = {"superevent_id": "S270412a", "alert_type": "RETRACTION", "time_created": "2027-04-12T22:24:00Z", "again": "INITIAL"}


def avro(schema: dict[str, Any], records: list[dict[str, Any]], codec: str = "null") -> bytes:
    stream = io.BytesIO()
    fastavro.writer(stream, fastavro.parse_schema(schema), records, codec=codec)
    return stream.getvalue()


@pytest.mark.parametrize("codec", ["null", "deflate"])
def test_avro_is_read_by_the_schema_it_brings_packed_or_not(codec: str) -> None:
    alert = parse_notice(avro(RECORD, [ONE], codec), where="x").alert
    assert (alert.superevent_id, alert.kind) == ("S270412a", "retraction")


def test_avro_with_more_than_one_record_is_refused_not_cut_to_the_first() -> None:
    refused = refusal_of(avro(RECORD, [ONE, ONE]))
    assert refused is not None
    assert "one record" in refused.what


def test_avro_that_is_cut_anywhere_is_refused() -> None:
    whole = avro(RECORD, [ONE], "deflate")
    for n in range(4, len(whole)):
        assert refusal_of(whole[:n]) is not None, n


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        # A record of two nothings is nothing, also when it is named first and repeated later.
        (
            [
                {
                    "name": "a",
                    "type": {
                        "type": "array",
                        "items": {"type": "record", "name": "E", "fields": [{"name": "p", "type": "null"}, {"name": "q", "type": "null"}]},
                    },
                }
            ],
            "empty",
        ),
        (
            [
                {"name": "a", "type": {"type": "record", "name": "E", "fields": [{"name": "p", "type": "null"}]}},
                {"name": "b", "type": {"type": "array", "items": "E"}},
            ],
            "empty",
        ),
        # A type within itself: as deep as the sender likes.
        ([{"name": "next", "type": ["null", "Alert"]}], "not known"),
    ],
)
def test_avro_schemas_of_endless_nothings_or_endless_depth_are_refused(fields: list[Any], words: str) -> None:
    schema = {"type": "record", "name": "Alert", "fields": fields}
    head = {"avro.codec": b"null", "avro.schema": json.dumps(schema).encode()}
    packed = b"".join(bytes([len(k) * 2]) + k.encode() + two_bytes(len(v)) + v for k, v in head.items())
    refused = refusal_of(b"Obj\x01\x04" + packed + b"\0" + b"s" * 16 + b"\x02\x02\0" + b"s" * 16)
    assert refused is not None
    assert words in refused.what


def two_bytes(n: int) -> bytes:
    return bytes([(n << 1) & 127 | 128, n >> 6])
