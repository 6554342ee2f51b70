"""The compiled reader and the slow one say the same of any bytes, and neither ever raises."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_gateway.codec.text import TextFrame, TextLayout
from edge_gateway.codec.text.reading import read_text
from edge_gateway.codec.text.source import compile_text
from edge_gateway.codec.text.writing import write_text
from edge_gateway.errors import CodecError
from edge_gateway.records import Value

from .text_frames import cells_for, lines_like, text_frames

thorough = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])


def same(one: object, other: object) -> bool:
    """Whether two values are the same to JSON: of one type, and of one sign if they are 0."""
    return repr(one) == repr(other)


def agreed(frame: TextFrame, data: bytes) -> dict[str, Value] | None:
    """What both readers say; None if both reject."""
    fast = compile_text(frame).read(data)
    slow = read_text(frame, data)
    assert (fast is None) == bool(slow.reason), (data, fast, slow)
    if fast is None:
        return None
    assert set(fast[2]) == set(slow.values)
    for name, value in fast[2].items():
        assert same(value, slow.values[name]), (name, value, slow.values[name])
    return fast[2]


@given(data=st.data())
@thorough
def test_both_readers_agree_on_what_a_line_could_be_made_of(data: st.DataObject) -> None:
    """Of bytes that look like the frame, both take the same, with the same values."""
    frame = data.draw(text_frames)
    for _ in range(4):
        agreed(frame, data.draw(lines_like(frame)))


@given(data=st.data())
@thorough
def test_both_readers_agree_on_sealed_lines(data: st.DataObject) -> None:
    """So they do where the ends and the checksum are right and only the cells decide."""
    frame = data.draw(text_frames)
    layout = TextLayout("any", frame)
    for _ in range(4):
        form = frame.form
        body = data.draw(cells_for(frame))
        agreed(frame, layout.sealed(form.start_bytes + body + form.end_bytes))


@given(data=st.data(), anything=st.binary(max_size=200))
@thorough
def test_no_bytes_raise(data: st.DataObject, anything: bytes) -> None:
    """Neither reader raises for any bytes."""
    agreed(data.draw(text_frames), anything)


@given(data=st.data())
@thorough
def test_what_was_read_is_written_and_read_again(data: st.DataObject) -> None:
    """The values of a frame, written as text, read as the same values."""
    frame = data.draw(text_frames)
    layout = TextLayout("any", frame)
    for _ in range(4):
        sealed = layout.sealed(frame.form.start_bytes + data.draw(cells_for(frame)) + frame.form.end_bytes)
        values = agreed(frame, sealed)
        if values is None:
            continue
        try:
            written = write_text(frame, values)
        except CodecError:
            # A null in a required cell came from a number that means null by `valid`, and nobody knows which.
            continue
        again = agreed(frame, written)
        assert again is not None
        for name, value in values.items():
            assert same(again[name], value)


@given(data=st.data())
@thorough
def test_a_changed_frame_under_a_checksum_is_never_taken_for_something_else(data: st.DataObject) -> None:
    """One byte changed, lost or added: the frame is rejected, or says what it said before."""
    frame = data.draw(text_frames.filter(lambda each: each.form.checksum is not None))
    layout = TextLayout("any", frame)
    sealed = layout.sealed(frame.form.start_bytes + data.draw(cells_for(frame)) + frame.form.end_bytes)
    values = agreed(frame, sealed)
    if values is None:
        return
    at = data.draw(st.integers(0, len(sealed) - 1))
    byte = data.draw(st.integers(0, 255))
    changed = sealed[:at] + bytes([byte]) + sealed[at + 1 :]
    found = agreed(frame, changed)
    assert found is None or same(found, values)
