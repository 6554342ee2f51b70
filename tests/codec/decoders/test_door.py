"""Whatever stands behind the door for code, the gateway gets samples and rejects, or an error when it starts."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_gateway.codec import Decoded, compile_profile, parse_profile
from edge_gateway.codec.door import (
    MOST_FRAME_BYTES,
    MOST_LEVELS,
    MOST_SAMPLE_BYTES,
    MOST_SAMPLES,
    MOST_VALUES,
    Door,
    decoder_names,
    open_door,
)
from edge_gateway.errors import CodecError, ProfileError
from edge_gateway.records import Answer, Reject, Sample
from tests.log_events import log_events


class Coded:
    """A decoder made of one function for one frame."""

    def __init__(self, one: Callable[[bytes], Any]) -> None:
        self.one = one
        self.asked: list[list[bytes]] = []

    def decode(self, frames: Sequence[bytes], /) -> Decoded:
        self.asked.append(list(frames))
        return Decoded([self.one(frame) for frame in frames], [], [])


def lengths(frame: bytes) -> Sample:
    return Sample(None, None, {"length": len(frame)})


def giving(result: Any) -> Door:
    class Giving:
        def decode(self, _frames: Sequence[bytes], /) -> Any:
            return result

    return Door("test", Giving())


def values_through(values: Any) -> list[Sample] | str:
    """The samples with these values, or the reason of the reject."""
    decoded = giving(Decoded([Sample(None, None, values)], [], [])).decode([b"x"])
    return decoded.rejects[0].reason if decoded.rejects else decoded.samples


def test_a_batch_is_one_call() -> None:
    """A decoder that keeps its word is called once for a batch, and its samples come through."""
    decoder = Coded(lengths)
    decoded = Door("test", decoder).decode([b"a", b"bc"])
    assert decoded == Decoded([Sample(None, None, {"length": 1}), Sample(None, None, {"length": 2})], [], [])
    assert decoder.asked == [[b"a", b"bc"]]


class Panic(BaseException):
    """What a decoder written in Rust raises when it fails an assertion."""


@pytest.mark.parametrize(
    "error", [ValueError("secret"), RecursionError(), SystemExit(1), Panic(), MemoryError(), StopIteration()]
)
def test_what_a_decoder_raises_rejects_its_frame_and_no_other(error: BaseException) -> None:
    """One frame that breaks the decoder becomes a reject `decoder`; the others of its batch are decoded."""

    def one(frame: bytes) -> Sample:
        if frame == b"bad":
            raise error
        return lengths(frame)

    decoded = Door("test", Coded(one)).decode([b"good", b"bad", b"better"])
    assert [sample.values["length"] for sample in decoded.samples] == [4, 6]
    assert decoded.rejects == [Reject(b"bad", "decoder")]


def test_a_person_can_stop_a_decoder() -> None:
    """Ctrl-C goes through the door."""

    def one(_frame: bytes) -> Sample:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Door("test", Coded(one)).decode([b"x"])


def test_failures_are_logged_ever_more_rarely_and_without_their_text() -> None:
    """The log has the error's type at its 1st, 2nd, 4th, ... time; never its text, which may hold a key."""

    def one(_frame: bytes) -> Sample:
        raise ValueError("0011 is the key")

    door = Door("test", Coded(one))
    with log_events() as events:
        for _ in range(20):
            door.decode([b"x"])
    assert [event["failures"] for event in events] == [1, 2, 4, 8, 16]
    assert {(event["event"], event["decoder"], event["error"]) for event in events} == {
        ("decoder.failed", "test", "ValueError")
    }
    assert "key" not in str(events)


def test_errors_of_ever_new_types_are_counted_together() -> None:
    """Code that makes a new type of error for each frame fills no memory."""

    def one(frame: bytes) -> Sample:
        raise type(f"Error{frame.hex()}", (Exception,), {})

    door = Door("test", Coded(one))
    with log_events() as events:
        for number in range(1_000):
            door.decode([number.to_bytes(2)])
    assert len({event["error"] for event in events}) == 65


NONSENSE: dict[str, Any] = {
    "nothing": None,
    "a plain tuple": ([], [], []),
    "no samples": Decoded([{"temperature": 1}], [], []),  # type: ignore[list-item] # that is the nonsense
    "an answer": Decoded([], [Answer("a", None, {})], []),
    "a sequence": Decoded([Sample(None, 1, {})], [], []),
    "values that are no mapping": Decoded([Sample(None, None, [1])], [], []),  # type: ignore[arg-type] # as above
    "more rejects than frames": Decoded([], [], [Reject(b"x", "value")] * 2),
    "a reject of nothing": Decoded([], [], [Reject(None, "value")]),  # type: ignore[arg-type] # as above
    "samples without end": Decoded([Sample(None, None, {})] * (MOST_SAMPLES + 1), [], []),
    "an address of bytes": Decoded([Sample(b"\x01", None, {})], [], []),  # type: ignore[arg-type] # as above
    "an address of two lines": Decoded([Sample("a\nb", None, {})], [], []),
    "an address that is true": Decoded([Sample(True, None, {})], [], []),
    "an address of half a character": Decoded([Sample("\ud800", None, {})], [], []),
    "an address beyond 64 bits": Decoded([Sample(2**63, None, {})], [], []),
}


@pytest.mark.parametrize("result", NONSENSE.values(), ids=NONSENSE)
def test_nonsense_rejects_the_frame(result: Any) -> None:
    """What is no Decoded of samples and rejects is a failure like any other, and the log says what it was."""
    with log_events() as events:
        assert giving(result).decode([b"x"]) == Decoded([], [], [Reject(b"x", "decoder")])
    assert [(event["error"], bool(event["what"])) for event in events] in (
        [("Nonsense", True)],
        [("AttributeError", False)],
    )


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    "values",
    [
        {"a": b"bytes"},
        {"a": {1, 2}},
        {"a": 2**64},
        {"a": "\ud800"},
        {1: "a"},
        {"": 1},
        {"a" * 256: 1},
        {"a": object()},
        {"a": "x" * MOST_SAMPLE_BYTES},
        {"a": [0] * MOST_VALUES},
        {"a": nested(MOST_LEVELS)},
        {"a": nested(10_000)},
    ],
    ids=[
        "bytes",
        "a set",
        "beyond 64 bits",
        "half a character",
        "a number as name",
        "an empty name",
        "a long name",
        "an object",
        "long",
        "many",
        "deep",
        "very deep",
    ],
)
def test_values_that_will_not_do_reject_the_frame(values: Any) -> None:
    """Values that JSON cannot say, or too many, too long or too deep ones, do not come through."""
    assert values_through(values) == "decoder"


def test_a_cycle_rejects_the_frame() -> None:
    """A list in itself does not come through."""
    cycle: list[Any] = []
    cycle.append(cycle)
    assert values_through({"a": cycle}) == "decoder"


def test_values_as_deep_as_allowed_come_through() -> None:
    """The bounds are what they are called."""
    assert values_through({"a": nested(MOST_LEVELS - 1)}) == [Sample(None, None, {"a": nested(MOST_LEVELS - 1)})]


def test_what_is_no_number_is_null() -> None:
    """NaN and the infinities become null, as everywhere in the gateway."""
    values = {"a": math.nan, "b": [math.inf], "c": -math.inf, "d": 0.1}
    assert values_through(values) == [Sample(None, None, {"a": None, "b": [None], "c": None, "d": 0.1})]


def test_values_are_copied() -> None:
    """A decoder that gives the same mapping again and changes it changes nothing it gave before."""
    kept: dict[str, Any] = {"n": 0}

    def one(_frame: bytes) -> Sample:
        kept["n"] += 1
        return Sample(None, None, kept)

    samples = Door("test", Coded(one)).decode([b"x"]).samples
    kept["n"] = 99
    assert samples == [Sample(None, None, {"n": 1})]


@given(st.recursive(st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=20), st.lists))
def test_what_json_can_say_comes_through_unchanged(value: Any) -> None:
    """Every value within the bounds is the same on both sides of the door."""
    fits = levels_of(value) < MOST_LEVELS
    assert values_through({"a": value}) == ([Sample(None, None, {"a": value})] if fits else "decoder")


def levels_of(value: Any) -> int:
    return 1 + max(map(levels_of, value), default=0) if isinstance(value, list) else 0


def test_a_reject_keeps_its_word_if_it_is_one() -> None:
    """A decoder's own rejects are counted under the words of the gateway; any other word is `decoder`."""
    for word, counted in (("checksum", "checksum"), ("no-key", "no-key"), ("bad luck 17", "decoder")):
        assert giving(Decoded([], [], [Reject(b"x", word)])).decode([b"x"]).rejects == [Reject(b"x", counted)]


def test_a_frame_too_long_is_rejected_unseen() -> None:
    """A frame beyond the bound becomes a reject `length`, and the decoder sees the others."""
    decoder = Coded(lengths)
    long = bytes(MOST_FRAME_BYTES + 1)
    decoded = Door("test", decoder).decode([b"a", long, bytes(MOST_FRAME_BYTES)])
    assert [sample.values["length"] for sample in decoded.samples] == [1, MOST_FRAME_BYTES]
    assert decoded.rejects == [Reject(long, "length")]
    assert all(long not in frames for frames in decoder.asked)


@pytest.mark.parametrize(
    "values", [["temperature"], {1: None}, {"": None}, {"temperature": "degrees"}, {"temperature": 5}], ids=repr
)
def test_wrong_names_of_values_are_an_error_at_the_start(values: Any) -> None:
    """A decoder whose `values` are no names with SenML units is refused."""
    decoder = Coded(lengths)
    decoder.values = values  # type: ignore[attr-defined] # an optional part of the protocol
    with pytest.raises(CodecError):
        Door("test", decoder)


# --- finding decoders ------------------------------------------------------------------------------------------------

MODULE = """
from edge_gateway.codec import Decoded
from edge_gateway.errors import CodecError
from edge_gateway.records import Sample

class Counting:
    values = {"count": None, "temperature": "Cel"}
    def __init__(self, options):
        if options.get("step") == 0:
            raise CodecError("0 is no step", where="step", remedy="For instance: 1")
        self.step = options["step"]
        self.count = 0
    def decode(self, frames):
        self.count += self.step * len(frames)
        return Decoded([Sample("line", None, {"count": self.count})], [], [])

def needs_a_package(options):
    import package_that_is_not_there
"""

PROFILE = """
name: {decoder}-meter
version: 1
title: Meter
source: {{document: Manual}}
decoder: {decoder}
options: {options}
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    """Installs packages with entry points, as pip would leave them; gone after the test."""

    def install(package: str, entry_points: str) -> None:
        module = package.replace("-", "_")
        (tmp_path / f"{module}.py").write_text(MODULE)
        (tmp_path / f"broken_{module}.py").write_text("import package_that_is_not_there")
        information = tmp_path / f"{module}-1.0.dist-info"
        information.mkdir()
        (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (information / "entry_points.txt").write_text(f"[edge_gateway.decoders]\n{entry_points}\n")

    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield install
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_an_installed_package_brings_a_decoder(installed: Callable[[str, str], None]) -> None:
    """A profile can name an entry point of any package; its options reach the factory and its values the rules."""
    installed("acme-meters", "acme = acme_meters:Counting")
    assert "acme" in decoder_names()
    codec = compile_profile(parse_profile(PROFILE.format(decoder="acme", options="{step: 2}"), "acme.yaml"))
    assert codec.decode([b"a", b"b"]).samples == [Sample("line", None, {"count": 4})]
    assert codec.decode([b"c"]).samples == [Sample("line", None, {"count": 6})]
    assert codec.value_names == frozenset({"count", "temperature"})
    assert [row.value for row in codec.explain(b"d")] == [None, "line", 8]


def failure_of(decoder: str, options: str = "{}") -> str:
    with pytest.raises(ProfileError) as caught:
        compile_profile(parse_profile(PROFILE.format(decoder=decoder, options=options), "x.yaml"))
    return str(caught.value)


def test_errors_of_a_decoder_say_where_and_what_to_do(installed: Callable[[str, str], None]) -> None:
    """An option refused, a factory that breaks, a missing package and a broken module are told with their place."""
    installed("acme-meters", "acme = acme_meters:Counting\nlazy = acme_meters:needs_a_package")
    installed("other-meters", "broken = broken_other_meters:Counting\nabsent = other_meters:NotThere")
    assert failure_of("acme", "{step: 0}") == "acme-meter: options.step: 0 is no step. For instance: 1"
    assert failure_of("acme").startswith("acme-meter: options: the decoder 'acme' does not start: KeyError.")
    assert "does not start: ModuleNotFoundError" in failure_of("lazy")
    assert "cannot be loaded: ModuleNotFoundError 'package_that_is_not_there'" in failure_of("broken")
    assert "cannot be loaded: AttributeError" in failure_of("absent")


def test_two_packages_with_one_name_are_an_error(installed: Callable[[str, str], None]) -> None:
    """Which of two decoders is meant is not left to chance."""
    installed("acme-meters", "acme = acme_meters:Counting")
    installed("other-meters", "acme = other_meters:Counting")
    assert "two packages have a decoder 'acme': acme-meters, other-meters" in failure_of("acme")


def test_a_shipped_decoder_cannot_be_replaced(installed: Callable[[str, str], None]) -> None:
    """An entry point with the name of a shipped decoder is not used."""
    installed("acme-meters", "senml = acme_meters:Counting")
    assert type(open_door("senml", {"format": "json"})._decoder).__name__ == "SenmlDecoder"


def test_a_decoder_that_is_nowhere_is_an_error_with_the_nearest() -> None:
    """The error says what to install, and what else may be meant."""
    assert "there is no decoder 'senlm'. Did you mean senml?" in failure_of("senlm")
    assert "Install the package with an entry point 'acme' in the group edge_gateway.decoders" in failure_of("acme")


def test_a_profile_declares_frames_or_names_a_decoder() -> None:
    """A profile with neither or both, or with keys of the other, is refused with the key's line."""
    whole = PROFILE.format(decoder="senml", options="{format: json}")
    sample = "{role: sample, endian: big, fields: [{name: a, type: u8}]}"
    for text, told in (
        (whole.replace("decoder: senml\n", "").replace("options: {format: json}", ""), "frames: nothing says what"),
        (whole.replace("decoder: senml\n", f"frames: {{a: {sample}}}\n"), "options: options are for a decoder"),
        (whole + f"frames: {{a: {sample}}}", "frames: code decodes these frames"),
        (whole + "identity: a", "identity: code decodes these frames"),
        (
            whole.replace("decoder: senml\noptions: {format: json}", f"frames: {{a: {sample}}}")
            + "vectors: [{hex: '00', samples: [], source: x}]",
            "vectors[0].samples: `samples` are what a decoder gives",
        ),
    ):
        with pytest.raises(ProfileError) as caught:
            parse_profile(text, "x.yaml")
        assert told in str(caught.value)
