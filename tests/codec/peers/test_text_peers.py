"""NMEA sentences, smart meter telegrams and VE.Direct blocks, read by us and by pynmea2, dsmr-parser and vedirect.

`EXPLAINED` lists every difference there is. Frames have any content under a checksum that is right; what is damaged has
to be refused by both.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_gateway.codec.checksum import find_checksum, xor_8
from edge_gateway.records import Value

from .agreement import Explained, Peer, Values, codec_of, differences, our_values, unexplained

# --- frames ---------------------------------------------------------------------------------------------------------

_signs = st.sampled_from(["", "-"])


@st.composite
def _decimal(draw: st.DrawFn, whole: int = 3, places: int = 3) -> str:
    """A number as a device writes it, or nothing."""
    if draw(st.integers(0, 5)) == 0:
        return ""
    number = draw(st.integers(0, 10**whole - 1))
    part = draw(st.integers(0, 10**places - 1))
    return f"{draw(_signs)}{number:0{draw(st.integers(1, whole))}d}.{part:0{places}d}"


_whole = st.integers(0, 999).map(str) | st.just("")
_clocks = st.builds(
    lambda at, part: at.strftime("%H%M%S") + part, st.times(), st.sampled_from(["", ".5", ".07", ".684", ".00"])
)
_days = st.dates(date(1970, 1, 1), date(2067, 12, 31)).map(lambda day: day.strftime("%d%m%y")) | st.just("")


@st.composite
def _place(draw: st.DrawFn, width: int, most: int, halves: str) -> str:
    if draw(st.integers(0, 5)) == 0:
        return ","
    degrees, minutes, part = draw(st.integers(0, most - 1)), draw(st.integers(0, 59)), draw(st.integers(0, 10**7 - 1))
    places = draw(st.integers(1, 7))
    return f"{degrees:0{width}d}{minutes:02d}.{part:07d}"[: width + 3 + places] + "," + draw(st.sampled_from(halves))


_latitudes = _place(2, 90, "NS")
_longitudes = _place(3, 180, "EW")


def sentence(*cells: str) -> bytes:
    """The cells as an NMEA sentence."""
    body = ",".join(cells).encode()
    return b"$" + body + b"*%02X" % xor_8(body)


@st.composite
def sentences(draw: st.DrawFn) -> bytes:
    """A sentence of one of the kinds, full or with holes."""
    talker = draw(st.sampled_from(["GP", "GN", "GL", "GA", "II"]))
    kind = draw(st.sampled_from(["RMC", "GGA", "GSV", "GLL", "VTG"]))
    status = draw(st.sampled_from("AV"))
    cells: list[str]
    match kind:
        case "RMC":
            cells = [draw(_clocks), status, draw(_latitudes), draw(_longitudes)]
            cells += [draw(_decimal()), draw(_decimal()), draw(_days), draw(_decimal()), draw(st.sampled_from("EW"))]
            cells += draw(st.sampled_from([[], ["A"], ["D", "S"]]))
        case "GGA":
            cells = [draw(_clocks), draw(_latitudes), draw(_longitudes), str(draw(st.integers(0, 8))), draw(_whole)]
            cells += [draw(_decimal()), draw(_decimal(5)), "M", draw(_decimal()), "M", draw(_decimal()), "0000"]
        case "GSV":
            cells = [*(str(draw(st.integers(1, 9))) for _ in range(2)), draw(_whole)]
            for _ in range(draw(st.integers(0, 4))):
                cells += [draw(_whole) for _ in range(4)]
        case "GLL":
            cells = [draw(_latitudes), draw(_longitudes), draw(_clocks), status]
        case _:
            cells = [draw(_decimal()), "T", draw(_decimal()), "M", draw(_decimal()), "N", draw(_decimal()), "K"]
    return sentence(talker + kind, *cells)


_AMSTERDAM: Final = ZoneInfo("Europe/Amsterdam")


def _meter_time(moment: datetime) -> str:
    local = moment.astimezone(_AMSTERDAM)
    return local.strftime("%y%m%d%H%M%S") + ("S" if local.dst() else "W")


_meter_times = st.integers(0, 2**31 - 1).map(lambda unix_s: _meter_time(datetime.fromtimestamp(unix_s, UTC)))
_energies = st.builds(lambda number: f"{number // 1000:06d}.{number % 1000:03d}", st.integers(0, 10**9 - 1))
_powers = st.builds(lambda number: f"{number // 1000:02d}.{number % 1000:03d}", st.integers(0, 10**5 - 1))


@st.composite
def telegrams(draw: st.DrawFn) -> bytes:
    """A telegram of some of the lines of a DSMR 5 meter."""
    failures = draw(st.lists(st.tuples(_meter_times, st.integers(0, 10**10 - 1)), max_size=3))
    log = "".join(f"({at})({length:010d}*s)" for at, length in failures)
    lines = [
        "1-3:0.2.8(50)",
        f"0-0:1.0.0({draw(_meter_times)})",
        f"0-0:96.1.1({draw(st.binary(max_size=17)).hex().upper()})",
        *(f"1-0:{which}({draw(_energies)}*kWh)" for which in ("1.8.1", "1.8.2", "2.8.1", "2.8.2")),
        f"0-0:96.14.0({draw(st.integers(0, 9999)):04d})",
        *(f"1-0:{which}({draw(_powers)}*kW)" for which in ("1.7.0", "2.7.0", "21.7.0", "62.7.0")),
        f"0-0:96.7.21({draw(st.integers(0, 99999)):05d})",
        f"1-0:99.97.0({len(failures)})(0-0:96.7.19){log}",
        f"1-0:32.7.0({draw(st.integers(0, 9999)) / 10:06.1f}*V)",
        f"1-0:31.7.0({draw(st.integers(0, 999)):03d}*A)",
        f"0-1:24.1.0({draw(st.integers(0, 999)):03d})",
        f"0-1:24.2.1({draw(_meter_times)})({draw(_energies)}*m3)",
    ]
    kept = [each for each in lines if draw(st.integers(0, 4))] or lines[:1]
    whole = ("/ISk5\\2MT382-1000\r\n\r\n" + "\r\n".join(kept) + "\r\n!").encode()
    return whole + b"%04X" % find_checksum("crc-16/arc").compute(whole)


@st.composite
def blocks(draw: st.DrawFn) -> bytes:
    """A block of a solar charger."""
    numbers = {label: draw(st.integers(-(10**6), 10**6)) for label in ("V", "I", "VPV", "PPV", "H19", "H21", "ERR")}
    body = f"\r\nPID\t0x{draw(st.integers(0, 0xFFFF)):X}\r\nSER#\tHQ1411MYIKN"
    body += "".join(f"\r\n{label}\t{number}" for label, number in numbers.items() if draw(st.booleans()))
    covered = (body + f"\r\nMPPT\t{draw(st.integers(0, 9))}\r\nChecksum\t").encode()
    return covered + bytes([-sum(covered) & 0xFF])


# --- peers ----------------------------------------------------------------------------------------------------------


def _number(text: object) -> float | None:
    return None if text in (None, "") else float(str(text))


def _clock(at: time | None) -> str | None:
    return None if at is None else at.strftime("%H:%M:%S.%f")


def read_nmea(frame: bytes) -> Values:
    """pynmea2, which leaves many numbers as text and gives microseconds."""
    pynmea2 = pytest.importorskip("pynmea2")
    found: Any = pynmea2.parse(frame.decode(), check=True)
    values: dict[str, Value] = {"talker": found.talker}
    if found.sentence_type in ("RMC", "GGA", "GLL"):
        values |= {"latitude": found.latitude, "longitude": found.longitude}
    match found.sentence_type:
        case "RMC":
            knots = _number(found.spd_over_grnd)
            values |= {
                "is_valid": found.status == "A",
                "speed": None if knots is None else 1.852 * knots,
                "course": _number(found.true_course),
                "variation": _number(found.mag_variation),
            }
        case "GGA":
            values |= {
                "satellites_used": None if not found.num_sats else int(found.num_sats),
                "hdop": _number(found.horizontal_dil),
                "altitude": _number(found.altitude),
                "geoid_separation": _number(found.geo_sep),
                "correction_age": _number(found.age_gps_data),
                "station": found.ref_station_id,
            }
        case "GSV":
            groups = [
                [
                    _number(getattr(found, f"{name}_{place}"))
                    for name in ("sv_prn_num", "elevation_deg", "azimuth", "snr")
                ]
                for place in range(1, (len(found.data) - 3) // 4 + 1)
            ]
            names = ("id", "elevation", "azimuth", "snr")
            values |= {"satellites": [dict(zip(names, group, strict=True)) for group in groups]}
        case "GLL":
            values |= {"is_valid": found.status == "A"}
        case "VTG":
            values |= {"course": _number(found.true_track), "speed": _number(found.spd_over_grnd_kmph)}
    return values


def _moment(at: datetime | None) -> str | None:
    return None if at is None else at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def read_telegram(frame: bytes) -> Values:
    """dsmr-parser, by its specification of DSMR 5."""
    parsers = pytest.importorskip("dsmr_parser.parsers")
    specifications = pytest.importorskip("dsmr_parser.telegram_specifications")
    found = parsers.TelegramParser(specifications.V5).parse(frame.decode() + "\r\n", throw_ex=True)
    names = {
        "P1_MESSAGE_TIMESTAMP": "time",
        "EQUIPMENT_IDENTIFIER": "equipment_id",
        "ELECTRICITY_USED_TARIFF_1": "energy_used_tariff_1",
        "ELECTRICITY_USED_TARIFF_2": "energy_used_tariff_2",
        "ELECTRICITY_DELIVERED_TARIFF_1": "energy_delivered_tariff_1",
        "ELECTRICITY_DELIVERED_TARIFF_2": "energy_delivered_tariff_2",
        "ELECTRICITY_ACTIVE_TARIFF": "tariff",
        "CURRENT_ELECTRICITY_USAGE": "power_used",
        "CURRENT_ELECTRICITY_DELIVERY": "power_delivered",
        "INSTANTANEOUS_ACTIVE_POWER_L1_POSITIVE": "power_used_l1",
        "INSTANTANEOUS_ACTIVE_POWER_L3_NEGATIVE": "power_delivered_l3",
        "SHORT_POWER_FAILURE_COUNT": "short_power_failures",
        "INSTANTANEOUS_VOLTAGE_L1": "voltage_l1",
        "INSTANTANEOUS_CURRENT_L1": "current_l1",
    }
    values: dict[str, Value] = {}
    for theirs, ours in names.items():
        each = getattr(found, theirs, None)
        if each is not None:
            value = each.value
            is_time = isinstance(value, datetime)
            values[ours] = _moment(value) if is_time else float(value) if isinstance(value, Decimal) else value
    log = getattr(found, "POWER_EVENT_FAILURE_LOG", None)
    if log is not None:
        entries = [{"end": _moment(each.datetime), "duration": each.value} for each in log.buffer]
        values["power_failure_log"] = entries
    for meter in getattr(found, "MBUS_DEVICES", []):
        reading = getattr(meter, "MBUS_METER_READING", None)
        if reading is not None:
            values |= {"mbus_1_time": _moment(reading.datetime), "mbus_1_volume": float(reading.value)}
    return values


def read_block(frame: bytes) -> Values:
    """python-vedirect, which gives text under the labels; nothing where its sum does not hold."""
    vedirect = pytest.importorskip("vedirect")
    if not vedirect.VEDirect.check_frame_checksum([frame]):
        return {}
    # Its constructor opens a port; what parses needs none.
    reader = object.__new__(vedirect.VEDirect)
    reader._data = {}
    reader.parse_pdu([line for line in frame[:-1].split(b"\r\n") if line])
    units = {"V": ("voltage", 1000), "I": ("current", 1000), "VPV": ("panel_voltage", 1000), "PPV": ("panel_power", 1)}
    units |= {"H19": ("yield_total", 100), "H21": ("maximum_power_today", 1), "ERR": ("error", 1)}
    values: dict[str, Value] = {"product_id": reader._data["PID"], "serial_number": reader.device_serial}
    known = {0: "off", 1: "limited", 2: "active"}
    values["tracker"] = known.get(int(reader._data["MPPT"]), reader._data["MPPT"])
    return values | {
        name: int(reader._data[label]) / divisor for label, (name, divisor) in units.items() if label in reader._data
    }


PEERS: Final = (
    Peer("pynmea2", "pynmea2", "nmea0183", sentences(), read_nmea),
    Peer("dsmr-parser", "dsmr_parser", "dsmr-p1", telegrams(), read_telegram),
    Peer("vedirect", "vedirect", "vedirect", blocks(), read_block),
)

EXPLAINED: Final = (
    Explained(
        "pynmea2",
        "nmea0183",
        "latitude",
        lambda ours, theirs: ours is None and theirs == 0.0,
        "pynmea2 puts a receiver without a fix on the equator; to us it is nowhere.",
        sentence("GPGLL", ",", "01131.000,E", "123519", "V").hex(),
    ),
    Explained(
        "pynmea2",
        "nmea0183",
        "longitude",
        lambda ours, theirs: ours is None and theirs == 0.0,
        "The same, on the meridian of Greenwich.",
        sentence("GPGLL", "4807.038,N", ",", "123519", "V").hex(),
    ),
)


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_a_peer_reads_the_same(peer: Peer) -> None:
    """On any content both say the same, but for differences with a reason."""
    pytest.importorskip(peer.module)

    @settings(deadline=None, max_examples=150)
    @given(peer.frames)
    def read(frame: bytes) -> None:
        assert our_values(peer.profile, frame), frame
        assert unexplained(peer, frame, EXPLAINED) == {}, frame

    read()


@pytest.mark.parametrize("explained", EXPLAINED, ids=lambda each: f"{each.profile}-{each.value}")
def test_an_explained_difference_of_text_is_there(explained: Explained) -> None:
    """The table holds no reason for a difference that is gone."""
    peer = next(each for each in PEERS if each.profile == explained.profile)
    pytest.importorskip(peer.module)
    found = differences(peer, bytes.fromhex(explained.shown_by))
    assert explained.when(*found[explained.value]), explained.why


@settings(deadline=None, max_examples=100)
@given(st.times(), st.dates(date(1970, 1, 1), date(2067, 12, 31)), st.integers(0, 999_999))
def test_times_of_sentences_are_those_of_pynmea2(at: time, day: date, microseconds: int) -> None:
    """Date and time of an RMC are the same moment, to the microsecond that pynmea2 rounds off."""
    pynmea2 = pytest.importorskip("pynmea2")
    frame = sentence("GPRMC", f"{at:%H%M%S}.{microseconds:06d}", "A", ",", ",", "", "", f"{day:%d%m%y}", "", "")
    theirs = pynmea2.parse(frame.decode(), check=True)
    ours = our_values("nmea0183", frame)["time"]
    assert isinstance(ours, str)
    difference = datetime.fromisoformat(ours) - datetime.combine(theirs.datestamp, theirs.timestamp)
    assert abs(difference) <= timedelta(microseconds=1)


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_what_is_damaged_is_refused_by_both(peer: Peer) -> None:
    """A changed byte under a checksum is refused by us wherever it is refused by the peer."""
    pytest.importorskip(peer.module)

    @settings(deadline=None, max_examples=150)
    @given(peer.frames, st.data())
    def read(frame: bytes, data: st.DataObject) -> None:
        at = data.draw(st.integers(1, len(frame) - 1))
        changed = frame[:at] + bytes([frame[at] ^ (1 << data.draw(st.integers(0, 6)))]) + frame[at + 1 :]
        decoded = codec_of(peer.profile).decode([changed])
        if decoded.samples:
            # The other case of a digit of the checksum says the same.
            assert decoded.samples == codec_of(peer.profile).decode([frame]).samples
            assert changed.upper() == frame.upper()

    read()
