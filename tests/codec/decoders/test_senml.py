"""SenML packs mean what RFC 8428 says, and no bytes make the decoder do anything else."""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping, Sequence
from typing import Any

import cbor2
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_gateway.codec.decoders.senml import MOST_RECORDS, SenmlDecoder
from edge_gateway.codec.door import Door
from edge_gateway.errors import CodecError
from edge_gateway.records import Sample, Value

LABELS = {
    "bver": -1, "bn": -2, "bt": -3, "bu": -4, "bv": -5, "bs": -6,
    "n": 0, "u": 1, "v": 2, "vs": 3, "vb": 4, "s": 5, "t": 6, "ut": 7, "vd": 8,
}  # fmt: skip


def in_json(records: Sequence[Mapping[str, Any]]) -> bytes:
    def sayable(value: Any) -> Any:
        return base64.urlsafe_b64encode(value).decode().rstrip("=") if isinstance(value, bytes) else value

    return orjson.dumps([{label: sayable(value) for label, value in record.items()} for record in records])


def in_cbor(records: Sequence[Mapping[str, Any]]) -> bytes:
    return cbor2.dumps([{LABELS.get(label, label): value for label, value in record.items()} for record in records])


WRITERS = {"json": in_json, "cbor": in_cbor}


def decode(kind: str, pack: bytes, **options: Any) -> list[Sample] | str:
    """The samples of a pack, or the reason of its reject."""
    decoded = SenmlDecoder({"format": kind, **options}).decode([pack])
    assert bool(decoded.rejects) != bool(decoded.samples) or not decoded.rejects
    return decoded.rejects[0].reason if decoded.rejects else decoded.samples


@pytest.fixture(params=["json", "cbor"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def read(kind: str, *records: Mapping[str, Any], **options: Any) -> list[Sample] | str:
    return decode(kind, WRITERS[kind](records), **options)


def values_of(kind: str, *records: Mapping[str, Any], **options: Any) -> Mapping[str, Value]:
    samples = read(kind, *records, **options)
    assert not isinstance(samples, str), samples
    (sample,) = samples
    return sample.values


def test_base_fields_hold_until_set_again(kind: str) -> None:
    """A base name, unit or value holds for its record and those behind it; a record's own unit comes before it."""
    assert read(
        kind,
        {"bn": "a/", "bu": "Cel", "bv": 100, "n": "t", "v": 1.5},
        {"n": "u", "v": 2},
        {"bn": "b/", "bu": "V", "n": "t", "v": -0.1},
        {"n": "f", "u": "Hz", "v": 0},
    ) == [
        Sample("a/", None, {"t": 101.5, "u": 102, "units": {"t": "Cel", "u": "Cel"}}),
        Sample("b/", None, {"t": 99.9, "f": 100, "units": {"t": "V", "f": "Hz"}}),
    ]


def test_every_kind_of_value_comes_through(kind: str) -> None:
    """Numbers, texts, truths and data are values; data in hexadecimal digits; a sum stands beside its value."""
    assert values_of(
        kind,
        {"bn": "d:", "bs": 1000, "n": "a", "v": -7, "s": 5},
        {"n": "b", "vs": "käse"},
        {"n": "c", "vb": False},
        {"n": "d", "vd": b"\x00\xff\xfe"},
        {"n": "e", "s": 0.5},
    ) == {"a": -7, "a_sum": 1005, "b": "käse", "c": False, "d": "00fffe", "e_sum": 1000.5}


def test_times_are_absolute_or_relative_to_now(kind: str) -> None:
    """A time of 2^28 s and more is one since 1970; a smaller one becomes the age; none is none."""
    samples = read(kind, {"n": "a", "v": 1, "t": 1.276020076001e09}, {"n": "a", "v": 2, "t": -12.5}, {"n": "a", "v": 3})
    assert not isinstance(samples, str)
    assert [sample.values for sample in samples] == [
        {"time": "2010-06-08T18:01:16.001Z", "a": 1},
        {"age_s": 12.5, "a": 2},
        {"a": 3},
    ]


def test_a_time_beyond_the_calendar_is_null(kind: str) -> None:
    """A clock that was never set costs no measurement."""
    assert values_of(kind, {"n": "a", "v": 1, "t": 1e300}) == {"time": None, "a": 1}


def test_records_of_one_device_and_time_are_one_sample(kind: str) -> None:
    """Records that come between others join their device's sample of their time."""
    samples = read(kind, {"bt": 2e9, "n": "a", "v": 1}, {"n": "a", "t": 1, "v": 2}, {"n": "b", "v": 3})
    assert not isinstance(samples, str)
    assert [dict(sample.values) for sample in samples] == [
        {"time": "2033-05-18T03:33:20.000Z", "a": 1, "b": 3},
        {"time": "2033-05-18T03:33:21.000Z", "a": 2},
    ]


def test_a_value_without_a_name_is_called_by_its_unit(kind: str) -> None:
    """Of one name with several units, each value has its unit's name; without a unit it is `value`."""
    assert values_of(kind, {"bn": "d", "u": "lon", "v": 24.3}, {"u": "lat", "v": 60.1}, {"v": 1}) == {
        "lon": 24.3,
        "lat": 60.1,
        "value": 1,
        "units": {"lon": "lon", "lat": "lat"},
    }


def test_names_that_come_again_are_numbered(kind: str) -> None:
    """Two values of one name, device and time are both kept, and so are names the decoder uses itself."""
    assert values_of(kind, {"n": "a", "v": 1}, {"n": "a", "v": 2}, {"n": "units", "u": "V", "v": 3}) == {
        "a": 1,
        "a_2": 2,
        "units": 3,
        "units_2": {"units": "V"},
    }


def test_whole_names_can_be_asked_for(kind: str) -> None:
    """With `names: resolved`, a value has the name that is unique in the world."""
    assert values_of(kind, {"bn": "urn:dev:1:", "n": "t", "v": 1}, names="resolved") == {"urn:dev:1:t": 1}


def test_units_the_profile_says_are_not_repeated_and_must_agree(kind: str) -> None:
    """With the option `values`, a reading has no `units` for those names, and another unit is wrong."""
    units = {"t": "Cel", "n": None}
    assert values_of(kind, {"n": "t", "u": "Cel", "v": 1}, {"n": "n", "v": 2}, values=units) == {"t": 1, "n": 2}
    assert read(kind, {"n": "t", "u": "K", "v": 1}, values=units) == "value"
    assert SenmlDecoder({"format": kind, "values": units}).values == units
    assert SenmlDecoder({"format": kind}).values is None


@pytest.mark.parametrize(
    "records",
    [
        [{"n": "a", "v": 1, "x_": 2}],
        [{"bver": 11, "n": "a", "v": 1}],
        [{"bver": 5, "n": "a", "v": 1}, {"bver": 10, "n": "b", "v": 1}],
        [{"bver": True, "n": "a", "v": 1}],
        [{"n": "a b", "v": 1}],
        [{"n": ":a", "v": 1}],
        [{"bn": "\u00e4", "n": "a", "v": 1}],
        [{"v": 1}],
        [{"n": "a" * 256, "v": 1}],
        [{"n": "a", "v": 1, "vs": "b"}],
        [{"n": "a", "v": "1"}],
        [{"n": "a", "v": True}],
        [{"n": "a", "v": None}],
        [{"n": "a", "vs": 1}],
        [{"n": "a", "vb": 1}],
        [{"n": 1, "v": 1}],
        [{"n": "a", "u": 1, "v": 1}],
        [{"n": "a", "t": "now", "v": 1}],
        [{"bn": None, "n": "a", "v": 1}],
        [{"n": "a", "v": 1}, {"n": "b", "v": []}],
        [{"n": "a", "v": 1}] * 100,
        [{"n": "a", "v": 1, "t": number} for number in range(MOST_RECORDS + 1)],
    ],
    ids=lambda records: str(records)[:60],
)
def test_a_pack_that_breaks_a_rule_is_refused_as_a_whole(kind: str, records: list[dict[str, Any]]) -> None:
    """One wrong record, an unknown version or a label that must be understood rejects the pack: `value`."""
    assert read(kind, *records) == "value"


def test_records_that_only_set_base_fields_give_nothing(kind: str) -> None:
    """A pack may begin with a record of base fields; an empty pack has no samples and is none the worse."""
    assert values_of(kind, {"bn": "d:"}, {"n": "a", "v": 1}) == {"a": 1}
    assert read(kind) == []


def test_labels_nobody_knows_are_ignored(kind: str) -> None:
    """Labels of the future are no harm, whatever they hold."""
    assert values_of(kind, {"n": "a", "v": 1, "foo": {"bar": [1]}, "ut": 5}) == {"a": 1}


def test_units_of_the_newer_registry_are_understood(kind: str) -> None:
    """Version 26 is version 10 with the secondary units (RFC 9100)."""
    assert values_of(kind, {"bver": 26, "n": "a", "u": "mV", "v": 1}) == {"a": 1, "units": {"a": "mV"}}


@pytest.mark.parametrize(
    "pack", [b"", b"1", b"{}", b"[1]", b'[{"n":"a","vd":"?"}]', b'[{"n":"a","vd":1}]', b'[{"n":"a","v":NaN}]', b"\xff"]
)
def test_what_is_no_json_pack_is_an_unknown_frame(pack: bytes) -> None:
    """Bytes that are no list of records are told apart from a pack with a mistake."""
    assert decode("json", pack) == "unknown-frame"


@pytest.mark.parametrize(
    "pack",
    [
        "",  # nothing
        "81a20061610201ff",  # bytes behind it
        "81a20061610202"[:-2],  # cut short
        "a10001",  # no list
        "8101",  # no records
        "81a3006161020102" + "02",  # a label twice
        "81a200616102d823613f",  # a regular expression
        "81a200616102c24102",  # a number of any size
        "81a200616102d81c80",  # something to refer to
        "81a200616102d81d00",  # a reference
        "d9d9f781a20061610201",  # the tag for CBOR itself
        "81a200616102c4821b7fffffffffffffff01",  # 1e9223372036854775807
        "81a200616102c480",  # a decimal fraction of nothing
        "9b7fffffffffffffff",  # a list of 9 * 10^18 records
        "5b7fffffffffffffff00",  # as many bytes
        "81" * 5_000,  # lists in lists
    ],
)
def test_what_is_no_cbor_pack_is_an_unknown_frame(pack: str) -> None:
    """Cut short, nested, tagged or promising more than there is: none of it is read, and it costs no time."""
    before_s = time.perf_counter()
    assert decode("cbor", bytes.fromhex(pack)) == "unknown-frame"
    assert time.perf_counter() - before_s < 1


def test_cbor_has_more_ways_to_write_a_number() -> None:
    """Floats of 16, 32 and 64 bits and decimal fractions are all numbers; NaN is none."""
    for number, value in (("f93e00", 1.5), ("fa3fc00000", 1.5), ("c4822003", 0.3), ("1a00010000", 65_536)):
        assert decode("cbor", bytes.fromhex("81a200616102" + number)) == [Sample(None, None, {"a": value})]
    assert decode("cbor", bytes.fromhex("81a200616102f97e00")) == "value"


def test_cbor_labels_are_numbers() -> None:
    """A label that is text is none of those with a number, so it is ignored unless it must be understood."""
    assert decode("cbor", cbor2.dumps([{0: "a", 2: 1, "v": 2}])) == [Sample(None, None, {"a": 1})]
    assert decode("cbor", cbor2.dumps([{0: "a", 2: 1, "v_": 2}])) == "value"


def test_a_big_hostile_pack_takes_no_long_time(kind: str) -> None:
    """The greatest pack the door lets in, with as many names and times as it holds, is read within a second."""
    records = [{"n": f"a{number % 90}", "u": "Cel", "t": number // 90, "v": 1e308} for number in range(MOST_RECORDS)]
    before_s = time.perf_counter()
    decoded = Door("senml", SenmlDecoder({"format": kind})).decode([WRITERS[kind](records)])
    assert time.perf_counter() - before_s < 1
    assert sum(len(sample.values) for sample in decoded.samples) >= MOST_RECORDS


def test_numbers_that_become_too_great_are_null_behind_the_door(kind: str) -> None:
    """The sum of two great numbers is no number JSON can say."""
    pack = WRITERS[kind]([{"bv": 1e308, "n": "a", "v": 1e308}, {"n": "b", "v": 2**64 - 1}])
    (sample,) = Door("senml", SenmlDecoder({"format": kind})).decode([pack]).samples
    assert sample.values == {"a": None, "b": 1e308 + 2**64}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "format"),
        ({"format": "xml"}, "format"),
        ({"format": ["json"]}, "format"),
        ({"format": "json", "name": "local"}, "name"),
        ({"format": "json", "names": "short"}, "names"),
        ({"format": "json", "values": ["t"]}, "values"),
        ({"format": "json", "values": {"t": "degrees"}}, "values.t"),
    ],
)
def test_a_wrong_option_is_named(options: dict[str, Any], told: str) -> None:
    """What the decoder cannot use is an error at the start that names the option."""
    with pytest.raises(CodecError) as caught:
        SenmlDecoder(options)
    assert caught.value.where == told
    assert caught.value.remedy


# --- properties ------------------------------------------------------------------------------------------------------

names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9\-:./_]{0,12}", fullmatch=True)
numbers = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
measured = st.fixed_dictionaries({"n": names}, optional={"u": st.sampled_from(["Cel", "V", "/"])}).flatmap(
    lambda record: st.one_of(
        numbers.map(lambda value: record | {"v": value}),
        st.text(max_size=20).map(lambda value: record | {"vs": value}),
        st.booleans().map(lambda value: record | {"vb": value}),
        st.binary(max_size=20).map(lambda value: record | {"vd": value}),
    )
)


@given(st.lists(measured, max_size=8, unique_by=lambda record: record["n"]), st.sampled_from(["json", "cbor"]))
def test_what_is_measured_comes_through_unchanged(records: list[dict[str, Any]], kind: str) -> None:
    """Records without base fields give just their values, exactly, in both formats."""
    expected: dict[str, Any] = {}
    for record in records:
        (value,) = (value for label, value in record.items() if label.startswith("v"))
        expected[record["n"]] = value.hex() if isinstance(value, bytes) else value
    units = {record["n"]: record["u"] for record in records if "u" in record}
    samples = read(kind, *records)
    assert not isinstance(samples, str)
    got = dict(samples[0].values) if samples else {}
    if units:
        assert got.pop("units" if "units" not in expected else "units_2") == units
    assert got == expected


@given(st.binary(max_size=200), st.sampled_from(["json", "cbor"]))
def test_no_bytes_raise(data: bytes, kind: str) -> None:
    """Any bytes are samples or a reject with a word; the decoder itself never raises."""
    assert decode(kind, data) in ("unknown-frame", "value") or isinstance(decode(kind, data), list)


@given(st.lists(measured, min_size=1, max_size=4), st.data(), st.sampled_from(["json", "cbor"]))
def test_no_damaged_pack_raises(records: list[dict[str, Any]], data: st.DataObject, kind: str) -> None:
    """A pack with some bytes changed is read or refused, and never an error."""
    pack = bytearray(WRITERS[kind](records))
    for _ in range(data.draw(st.integers(1, 4))):
        pack[data.draw(st.integers(0, len(pack) - 1))] = data.draw(st.integers(0, 255))
    decode(kind, bytes(pack))


anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2),
    max_leaves=3,
)


@given(
    st.lists(st.dictionaries(st.sampled_from([*LABELS, "x", "x_"]), anything, max_size=5), max_size=4),
    st.sampled_from(["json", "cbor"]),
)
def test_no_records_of_any_types_raise(records: list[dict[str, Any]], kind: str) -> None:
    """Whatever stands where a name, number or truth belongs, the pack is read or refused."""
    assert read(kind, *records) in ("unknown-frame", "value") or isinstance(read(kind, *records), list)
