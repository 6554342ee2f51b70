"""Delimiters: lines, sentences with a start, and settings that contradict each other."""

from __future__ import annotations

import pytest

from edge_gateway.errors import CodecError, ConfigError
from edge_gateway.framing import FramingCounters
from edge_gateway.framing.delimiter import DelimiterFramer
from edge_gateway.records import Chunk


def lines(max_frame_bytes: int = 32) -> DelimiterFramer:
    return DelimiterFramer(delimiter=b"\n", start=b"", strip=b"\r", max_frame_bytes=max_frame_bytes)


def sentences(max_frame_bytes: int = 32) -> DelimiterFramer:
    return DelimiterFramer(delimiter=b"\r\n", start=b"$", strip=b"", max_frame_bytes=max_frame_bytes)


def feed(framer: DelimiterFramer, data: bytes) -> list[bytes]:
    return framer.feed([Chunk(0.0, data)])


def test_lines_end_with_lf_or_cr_lf() -> None:
    """A carriage return at the end is taken off, one elsewhere is not, and blank lines pass without a count."""
    framer = lines()
    assert feed(framer, b"one\ntwo\r\n\r\n\nth\rree\n") == [b"one", b"two", b"th\rree"]
    assert framer.counters == FramingCounters(frames=3)


def test_strip_is_taken_off_once() -> None:
    """Of two carriage returns at the end one belongs to the frame."""
    assert feed(lines(), b"one\r\r\n") == [b"one\r"]


def test_a_delimiter_in_two_reads_is_found() -> None:
    """Both halves of CR LF may come in different reads, and a lone carriage return between them is no delimiter."""
    framer = DelimiterFramer(delimiter=b"\r\n", start=b"", strip=b"", max_frame_bytes=32)
    assert [feed(framer, part) for part in (b"a\r", b"b\r", b"\nc", b"\r\n")] == [[], [], [b"a\rb"], [b"c"]]


def test_a_sentence_begins_with_its_last_start() -> None:
    """A sentence cut short costs only itself: the next one begins at its own `$`, and what is before it is noise."""
    framer = sentences()
    assert feed(framer, b"5,W*6A\r\n$GPGGA,1234$GPGLL,49*2D\r\n") == [b"$GPGLL,49*2D"]
    assert framer.counters == FramingCounters(frames=1, noise_bytes=8 + 11)


def test_with_a_start_noise_is_not_held() -> None:
    """Without a start nothing but what may be half a delimiter is held, so noise without an end costs no sentence."""
    framer = sentences()
    for _ in range(100):
        assert feed(framer, b"noise") == []
    assert framer.counters == FramingCounters(noise_bytes=499)
    assert feed(framer, b"$GPGLL\r\n") == [b"$GPGLL"]
    assert framer.counters == FramingCounters(frames=1, noise_bytes=500)


def test_with_a_start_an_endless_frame_is_counted_at_its_delimiter() -> None:
    """A sentence that outgrows the limit is oversized if a delimiter ends it, and plain noise if another starts."""
    framer = sentences(max_frame_bytes=8)
    assert feed(framer, b"$" + b"x" * 100) == []
    assert feed(framer, b"\r\n") == []
    assert framer.counters == FramingCounters(oversized=1, noise_bytes=103)
    assert feed(framer, b"$" + b"x" * 100) == []
    assert feed(framer, b"$GP\r\n") == [b"$GP"]
    assert framer.counters == FramingCounters(frames=1, oversized=1, noise_bytes=103 + 101)


def test_the_largest_line_passes_and_one_byte_more_does_not() -> None:
    """`max_frame_bytes` counts neither the delimiter nor what is stripped."""
    framer = lines(max_frame_bytes=4)
    assert feed(framer, b"1234\r\n12345\n12345\r\n1234\n") == [b"1234", b"1234"]
    assert framer.counters == FramingCounters(frames=2, oversized=2, noise_bytes=6 + 7)


@pytest.mark.parametrize(
    ("framer", "payload"),
    [
        pytest.param(lines(), b"a\nb", id="holds the delimiter"),
        pytest.param(lines(), b"a\r", id="ends with what is stripped"),
        pytest.param(DelimiterFramer(b"\xaa\xaa", b"", b"", 9), b"\x01\xaa", id="makes the delimiter appear early"),
        pytest.param(sentences(), b"GPGLL", id="no start"),
        pytest.param(sentences(), b"$GP$GLL", id="two starts"),
    ],
)
def test_a_payload_that_would_not_come_back_is_refused(framer: DelimiterFramer, payload: bytes) -> None:
    """What a receiver with the same settings would take for something else is not sent."""
    with pytest.raises(CodecError) as refusal:
        framer.encode(payload)
    assert refusal.value.remedy


def test_impossible_settings_are_refused() -> None:
    """An empty delimiter and a start beyond the largest frame name the key and what would do."""
    with pytest.raises(ConfigError, match=r"framing\.delimiter"):
        DelimiterFramer(delimiter=b"", start=b"", strip=b"", max_frame_bytes=8)
    with pytest.raises(ConfigError, match=r"framing\.start"):
        DelimiterFramer(delimiter=b"\n", start=b"123456789", strip=b"", max_frame_bytes=8)
