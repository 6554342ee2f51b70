"""Times put right on the way out, and ages that no wall clock can make up."""

from __future__ import annotations

import contextlib
import itertools
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_gateway.buffer.corrections import age_s, correct, mark
from edge_gateway.clock import EARLIEST_PLAUSIBLE_NS, NS_PER_S, rfc3339
from edge_gateway.errors import PayloadDamaged

BOOT, OTHER_BOOT = "7426cafa-e6aa-4dfb-927c-560eb47a5787", "00000000-e6aa-4dfb-927c-560eb47a5787"
OFFSET_NS = 1_790_000_000 * NS_PER_S + 123_456_789
YEAR_NS = 366 * 86_400 * NS_PER_S
MARKS = ("time_trusted", "boot", "uptime_s", "time_corrected")

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
    | st.sampled_from([BOOT, *MARKS, 'a"},{"boot', ",", "}"])
)
names = st.sampled_from([*MARKS, "time", "a", "values"]) | st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
values = st.dictionaries(
    names,
    st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3)),
    max_size=4,
)
uptimes_ns = st.integers(-YEAR_NS, 35 * YEAR_NS)


@st.composite
def documents(draw: st.DrawFn) -> tuple[dict[str, Any], int | None]:
    """A record as the store writes it, and its uptime if it is one of `BOOT` that can be corrected."""
    document: dict[str, Any] = {
        "device": draw(st.text(st.characters(exclude_categories=["Cs"]), max_size=8)),
        "profile": "climate",
        "seq": draw(st.integers(1, 1 << 53)),
        "time": "1970-01-01T00:02:00.000000Z",
        "values": draw(values),
    }
    match draw(st.sampled_from(["trusted", "unbelieved", "ours", "another boot"])):
        case "unbelieved":
            document["time_trusted"] = False
        case "ours":
            uptime_ns = draw(uptimes_ns)
            mark(document, BOOT, uptime_ns)
            return document, uptime_ns
        case "another boot":
            mark(document, OTHER_BOOT, draw(uptimes_ns))
    return document, None


def joined(*each: dict[str, Any]) -> bytes:
    return b",".join(map(orjson.dumps, each))


def a_reading(**more: Any) -> dict[str, Any]:
    return {"device": "a", "seq": 1, "time": "1970-01-01T00:02:00.000000Z", "values": {"t": 21.5}, **more}


def marked(uptime_ns: int, boot: str = BOOT) -> dict[str, Any]:
    document = a_reading()
    mark(document, boot, uptime_ns)
    return document


def test_a_record_stamped_by_a_wrong_clock_says_so_and_what_can_correct_it() -> None:
    """The marks are the last keys, and the time since the boot is cut to microseconds."""
    assert orjson.dumps(marked(120_000_001_999)) == (
        b'{"device":"a","seq":1,"time":"1970-01-01T00:02:00.000000Z","values":{"t":21.5},'
        b'"time_trusted":false,"boot":"7426cafa-e6aa-4dfb-927c-560eb47a5787","uptime_s":120.000001}'
    )


def test_a_corrected_record_by_example() -> None:
    """Offset and uptime make the time; the marks give way to one that says what was done."""
    assert correct(orjson.dumps(marked(120_000_001_999)), BOOT, OFFSET_NS) == (
        b'{"device":"a","seq":1,"time":"2026-09-21T14:15:20.123457Z","values":{"t":21.5},"time_corrected":true}'
    )


@given(st.lists(documents(), max_size=5), st.integers(0, 100 * YEAR_NS))
def test_only_times_of_that_boot_change(records: list[tuple[dict[str, Any], int | None]], offset_ns: int) -> None:
    """Order, keys and values stay; what is of no boot or of another stays byte for byte; and it does not get longer."""
    payload = joined(*(document for document, _ in records))
    corrected = correct(payload, BOOT, offset_ns)
    expected = []
    for document, uptime_ns in records:
        if uptime_ns is None:
            expected.append(document)
        else:
            rest = {key: value for key, value in document.items() if key not in MARKS}
            expected.append(rest | {"time": rfc3339(offset_ns + uptime_ns // 1000 * 1000), "time_corrected": True})
    assert corrected == joined(*expected)
    assert len(corrected) <= len(payload)


@given(st.lists(documents(), max_size=3), st.integers(0, 100 * YEAR_NS), st.integers(0, 100 * YEAR_NS))
def test_correcting_again_changes_nothing(
    records: list[tuple[dict[str, Any], int | None]], offset_ns: int, other_offset_ns: int
) -> None:
    """Whatever offset is given the second time: a time that was put right is a time like all others."""
    once = correct(joined(*(document for document, _ in records)), BOOT, offset_ns)
    assert correct(once, BOOT, other_offset_ns) == once


@given(uptimes_ns, st.integers(0, 100 * YEAR_NS))
def test_a_corrected_time_is_never_late_and_at_most_a_microsecond_early(uptime_ns: int, offset_ns: int) -> None:
    """The uptime is cut to microseconds, carried exactly, and the sum is cut like every time."""
    (record,) = orjson.loads(b"[%b]" % correct(joined(marked(uptime_ns)), BOOT, offset_ns))
    true_ns = offset_ns + uptime_ns
    assert record["time"] in (rfc3339(true_ns), rfc3339(true_ns - 1000))


def test_what_is_not_ours_may_be_written_in_any_way() -> None:
    """Spaces, other spellings and a key that stands twice stay as they are, beside a record that is corrected."""
    foreign = '{ "a" : 1.0e+2, "b": "\\u00e9 é", "a": [ ] }'.encode()
    payload = foreign + b"," + joined(marked(0)) + b"," + foreign
    before, after = correct(payload, BOOT, OFFSET_NS).split(
        joined(a_reading(time=rfc3339(OFFSET_NS), time_corrected=True))
    )
    assert (before, after) == (foreign + b",", b"," + foreign)


def test_no_records_stay_no_records() -> None:
    """Nothing joined by commas is nothing."""
    assert correct(b"", BOOT, OFFSET_NS) == b""


@given(st.binary(max_size=64) | st.text('[]{}",:.\\0123456789eE+-truefalsnI \n', max_size=64).map(str.encode))
def test_any_bytes_are_corrected_or_refused(payload: bytes) -> None:
    """What is no payload is told as damage, and nothing else is raised."""
    with contextlib.suppress(PayloadDamaged):
        assert correct(payload, BOOT, OFFSET_NS) == payload


@pytest.mark.parametrize(
    "payload",
    [
        b"5",
        b"[]",
        b"{},",
        b",{}",
        b"{}{}",
        b"{}, {}",
        b"{} ",
        b'{"a":NaN}',
        b'{"a":"\xff"}',
        b'{"a":' * 100_000,
        b'{"a":%b}' % (b"9" * 5000),
        *(
            b'{"boot":"%b","uptime_s":%b}' % (BOOT.encode(), uptime)
            for uptime in (b"null", b"true", b'"5"', b"[]", b"1e400", b"-1e300", b"9" * 30)
        ),
        b'{"boot":"%b","uptime_s":1,"values":{"a":%b}}' % (BOOT.encode(), b"9" * 30),
        b'{"boot":"%b","uptime_s":1,"values":{"a":"\\ud800"}}' % BOOT.encode(),
        b'{"boot":"%b","uptime_s":1,"values":%b}' % (BOOT.encode(), b"[" * 500 + b"]" * 500),
    ],
    ids=lambda payload: payload[:64].decode(errors="replace"),
)
def test_what_the_store_never_writes_is_refused(payload: bytes) -> None:
    """Other than objects, other separators, values that JSON or a time cannot carry, and too deep a nesting."""
    with pytest.raises(PayloadDamaged, match=r"payload: is not records joined by commas: ."):
        correct(payload, BOOT, OFFSET_NS)


def test_marks_inside_the_values_are_values() -> None:
    """A device that says things under the names of the marks says them to the hub."""
    payload = joined(a_reading(values={"boot": BOOT, "uptime_s": 5.0, "time_trusted": False, "time": "?"}))
    assert correct(payload, BOOT, OFFSET_NS) == payload


# --- ages -----------------------------------------------------------------------------------------------------------

seconds = st.integers(0, 10**9).map(lambda milliseconds: milliseconds / 1000)
offsets = st.none() | st.integers(-YEAR_NS, 100 * YEAR_NS)


@given(st.data())
def test_within_one_boot_the_wall_clock_has_no_say(data: st.DataObject) -> None:
    """The age is the time since, whatever is known of boots."""
    then_s, waited_s = data.draw(seconds), data.draw(seconds)
    offsets_ns = data.draw(st.dictionaries(st.integers(1, 3), offsets))
    assert age_s(2, then_s, 2, then_s + waited_s, offsets_ns) == pytest.approx(waited_s, abs=1e-6)


@given(seconds, seconds, st.dictionaries(st.integers(1, 2), offsets))
def test_what_came_before_this_boot_is_at_least_as_old_as_it(
    then_s: float, now_s: float, offsets_ns: dict[int, int | None]
) -> None:
    """No clock, known or not, right or wrong, makes it younger."""
    assert age_s(1, then_s, 2, now_s, offsets_ns) >= now_s


@given(seconds, seconds, seconds)
def test_two_boots_with_good_clocks_are_exact(then_s: float, off_s: float, now_s: float) -> None:
    """Rest of the first boot, time without power, and time since are all counted."""
    first_ns = EARLIEST_PLAUSIBLE_NS
    second_ns = first_ns + round((then_s + off_s) * NS_PER_S)
    assert age_s(1, then_s, 2, now_s, {1: first_ns, 2: second_ns}) == pytest.approx(off_s + now_s, abs=1e-5)


@given(seconds, seconds, offsets, offsets)
def test_an_age_beyond_this_boot_needs_two_clocks_that_agree(
    then_s: float, now_s: float, first_ns: int | None, second_ns: int | None
) -> None:
    """An unknown clock, one never set, or one that has it arrive after this boot began, is not heard."""
    is_heard = (
        first_ns is not None
        and second_ns is not None
        and first_ns >= EARLIEST_PLAUSIBLE_NS
        and first_ns + then_s * NS_PER_S <= second_ns
    )
    if not is_heard:
        assert age_s(1, then_s, 2, now_s, {1: first_ns, 2: second_ns}) == now_s


@given(st.lists(st.tuples(seconds, seconds), min_size=2, max_size=5), st.data())
def test_no_record_is_older_than_it_can_be(boots: list[tuple[float, float]], data: st.DataObject) -> None:
    """Over any boots with clocks that are right or unknown, no age is more than the truth, and right ones give it."""
    started_s = list(itertools.accumulate((on_s + off_s for on_s, off_s in boots), initial=0.0))[:-1]
    then_boot = data.draw(st.integers(0, len(boots) - 1))
    then_s = data.draw(st.floats(0, boots[then_boot][0]))
    now_boot = data.draw(st.integers(then_boot, len(boots) - 1))
    now_s = data.draw(st.floats(then_s if now_boot == then_boot else 0, boots[now_boot][0]))
    offsets_ns = {
        boot: EARLIEST_PLAUSIBLE_NS + round(at_s * NS_PER_S) if data.draw(st.booleans()) else None
        for boot, at_s in enumerate(started_s)
    }
    truth_s = (started_s[now_boot] + now_s) - (started_s[then_boot] + then_s)
    age = age_s(then_boot, then_s, now_boot, now_s, offsets_ns)
    assert age <= truth_s + 1e-5
    if then_boot == now_boot or None not in (offsets_ns[then_boot], offsets_ns[now_boot]):
        assert age == pytest.approx(truth_s, abs=1e-5)


def test_a_clock_that_goes_back_within_the_boot_makes_nothing_old() -> None:
    """Times since the boot that contradict each other, as they cannot, give no age below 0."""
    assert age_s(1, 10.0, 1, 9.0, {}) == 0.0
