"""Finding and reading profiles: what is wrong is told with file, key, value and what would do."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_gateway.codec import load, load_profile, parse_profile, profile_names
from edge_gateway.errors import ProfileError

REFERENCE_TEXT = (load.PACKAGED / "reference-climate.yaml").read_text("utf-8")
REFERENCE: dict[str, Any] = yaml.safe_load(REFERENCE_TEXT)
REMOVED = object()
SAMPLE = ("frames", "sample")
TEMPERATURE = (*SAMPLE, "fields", 4)
FLAGS = (*SAMPLE, "fields", 7)
PERIOD = ("commands", "set-period")


def changed(path: tuple[str | int, ...], value: object) -> str:
    """The reference profile with one place different, as JSON, which is YAML too."""
    document = copy.deepcopy(REFERENCE)
    node: Any = document
    for step in path[:-1]:
        node = node[step]
    if value is REMOVED:
        del node[path[-1]]
    else:
        node[path[-1]] = value
    return json.dumps(document)


@pytest.mark.parametrize(
    ("path", "value", "text"),
    [
        # Keys and kinds.
        (("titel",), "x", "titel: there is no such key. Did you mean title"),
        ((*TEMPERATURE, "scal"), 1, "frames.sample.fields[4].scal: there is no such key. Did you mean scale?"),
        (("vectors", 0, "vlues"), {}, "vectors[0].vlues: there is no such key. Did you mean values?"),
        (("framing", "baud"), 1, "framing.baud: there is no such key. Keys: kind, max_frame_bytes"),
        (("line", "baudrate"), 1, "line.baudrate: there is no such key. Did you mean baud?"),
        (("title",), REMOVED, "title: the key is missing. Add it"),
        ((*SAMPLE, "endian"), REMOVED, "frames.sample.endian: the key is missing. Add it"),
        ((*TEMPERATURE, "type"), REMOVED, "frames.sample.fields[4].type: the key is missing. Add it"),
        (
            (*TEMPERATURE, "type"),
            "i12",
            "fields[4].type: 'i12' is not known. Did you mean i16? Possible: 'u8', ",
        ),
        ((*TEMPERATURE, "scale"), "tenth", "frames.sample.fields[4].scale: 'tenth' will not do. "),
        ((*TEMPERATURE, "name"), "Temp °C", "frames.sample.fields[4].name: 'Temp °C' has characters that are not"),
        ((*TEMPERATURE, "name"), 7, "frames.sample.fields[4].name: 7 is not text. Put it in quotes: '7'"),
        ((*SAMPLE, "role"), "smple", "frames.sample.role: 'smple' is not possible. Possible: 'sample', 'answer' or"),
        (("source",), "manual", "source: 'manual' is not a mapping. Write `key: value` lines below it"),
        ((*SAMPLE, "fields"), "u8", "frames.sample.fields: 'u8' is not a list. Write a `-` in front of each item"),
        (("vectors", 0, "hex"), "0g", "vectors[0].hex: '0g' is not bytes. Write pairs of hexadecimal digits: '42 4d'"),
        # Fields.
        ((*TEMPERATURE, "unit"), "°C", "fields[4].unit: '°C' is not a SenML unit code. Codes that would do: Cel"),
        ((*TEMPERATURE, "scale"), 0, "fields[4].scale: a scale of 0 makes every value the same"),
        ((*TEMPERATURE, "sentinel"), 65_535, "fields[4].sentinel: 65535 does not fit. It holds -32768 to 32767"),
        ((*TEMPERATURE, "const"), 1, "fields[4].const: a constant has no other meaning"),
        ((*TEMPERATURE, "name"), "kind", "fields[4].name: 'kind' is there twice. For instance: kind_2"),
        ((*SAMPLE, "fields", 0, "const"), 256, "fields[0].const: 256 does not fit into u8. It holds 0 to 255"),
        ((*FLAGS, "bits", 1, "bit"), 0, "fields[7].bits[1]: 'low_battery' overlaps another bit field. The first free"),
        ((*FLAGS, "bits", 2, "width"), 7, "fields[7].bits[2]: 'mode' ends at bit 8. u8 has bits 0 to 7"),
        ((*FLAGS, "bits", 2, "enum"), {"0": "a", "4": "b"}, "fields[7].bits[2].enum: 4 does not fit. It holds 0 to 3"),
        ((*FLAGS, "bits", 2, "enum"), {"0": "a", "1": "a"}, "bits[2].enum: two numbers have the same name"),
        ((*FLAGS, "bits", 2, "enum"), {"0": "12"}, "bits[2].enum.0: '12' cannot name a code"),
        ((*FLAGS, "bits", 2, "name"), "address", "fields[7].bits[2].name: 'address' is there twice"),
        ((*FLAGS, "type"), "i8", "fields[7].type: bit fields of the signed i8. Use u8"),
        ((*FLAGS, "unit"), "V", "fields[7].bits: an integer made of bit fields has no value itself"),
        (
            (*SAMPLE, "checksum", "algorithm"),
            "crc-ccitt",
            "checksum.algorithm: no checksum is called 'crc-ccitt'. Names",
        ),
        # Names that lead nowhere.
        (("identity",), "adress", "identity: no frame has a field 'adress'. Fields: address, "),
        (("sequence",), "temperature", "sequence: 'temperature' cannot be the sequence. Name a whole number"),
        ((*PERIOD, "frame"), "comand", "commands.set-period.frame: there is no frame 'comand'. There is: sample, "),
        (
            (*PERIOD, "frame"),
            "answer",
            "commands.set-period.frame: 'answer' is no request. Name a frame with `role: re",
        ),
        ((*PERIOD, "answer", "frame"), "sample", "set-period.answer.frame: 'sample' is no answer. Name a frame with"),
        (
            (*PERIOD, "answer", "match"),
            {"kode": 1},
            "answer.match.kode: there is no value 'kode'. There is: code, stat",
        ),
        (
            (*PERIOD, "answer", "success"),
            {"status": "ok"},
            "success.status: 'ok' is not one of the names. Possible: done",
        ),
        (
            (*PERIOD, "set", "argument"),
            {"argument": "p"},
            "set.argument.argument: there is no argument 'p'. There is: ",
        ),
        (
            (*PERIOD, "set", "kind"),
            1,
            "commands.set-period.set.kind: there is no field to set 'kind'. There is: code, ",
        ),
        (
            (*PERIOD, "set"),
            {"code": 1},
            "commands.set-period.set: nothing says what 'argument' holds. For instance: ar",
        ),
        (("vectors", 0, "frame"), "smple", "vectors[0].frame: there is no frame 'smple'. There is: sample, command, "),
        (("vectors", 5, "command"), "reboot", "vectors[5].command: there is no command 'reboot'. There is: set-period"),
        # Commands and framing.
        (
            (*PERIOD, "arguments", "period_ms", "maximum"),
            65_536,
            "period_ms.maximum: 65536 does not fit. Possible: 0 to",
        ),
        (
            (*PERIOD, "arguments", "period_ms", "minimum"),
            60_001,
            "period_ms.minimum: the minimum 60001 is above the ma",
        ),
        (
            (*PERIOD, "arguments", "period_ms", "type"),
            "boolean",
            "period_ms.type: a boolean has no bounds. Use integer",
        ),
        (
            (*PERIOD, "arguments", "period_ms"),
            {"type": "text"},
            "period_ms.type: 'argument' cannot take a value of type",
        ),
        ((*PERIOD, "arguments", "x"), {"type": "text"}, "commands.set-period.arguments.x: no field takes 'x'. Name it"),
        (("framing", "max_frame_bytes"), 17, "frames.sample.fields: the fields take 18 bytes, which the framing never"),
        (
            ("framing",),
            {"kind": "fixed", "frame_bytes": 18},
            "frames.answer.fields: the fields take 7 bytes, which the",
        ),
        ((*SAMPLE, "fields", 1, "name"), "who", "frames.sample.fields: the identity 'address' is missing, so nobody"),
    ],
)
def test_a_mistake_is_told_with_its_place_and_a_way_out(path: tuple[str | int, ...], value: object, text: str) -> None:
    """Every mistake in a profile gives its file, its key as a person writes it, the value and what would do."""
    with pytest.raises(ProfileError) as caught:
        parse_profile(changed(path, value), "p.yaml")
    assert str(caught.value).startswith("p.yaml:1: ")
    assert text in str(caught.value)
    assert caught.value.remedy


def test_frames_nothing_tells_apart_are_refused() -> None:
    """Two frames of one length need a constant at the same place with different numbers."""
    document = copy.deepcopy(REFERENCE)
    document["frames"]["other"] = copy.deepcopy(document["frames"]["sample"])
    with pytest.raises(ProfileError, match=r"frames.other: 'other' and 'sample' look the same: 18 bytes"):
        parse_profile(json.dumps(document), "p.yaml")
    document["frames"]["other"]["fields"][0]["const"] = 2
    assert set(parse_profile(json.dumps(document), "p.yaml").frames) == {"sample", "command", "answer", "other"}


def test_constants_at_different_places_do_not_tell_frames_apart() -> None:
    """A frame could carry both constants at once, so neither says which it is."""
    document = copy.deepcopy(REFERENCE)
    document["frames"]["other"] = copy.deepcopy(document["frames"]["sample"])
    del document["frames"]["other"]["fields"][0]["const"]
    document["frames"]["other"]["fields"][5] = {"name": "tag", "type": "u16", "const": 7}
    with pytest.raises(ProfileError, match="'other' and 'sample' look the same"):
        parse_profile(json.dumps(document), "p.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\nname: b", "p.yaml:2: the key 'name' is there twice. Keep one of the two"),
        ("frames:\n  a: {role: x, role: y}", "p.yaml:2: the key 'role' is there twice"),
        ("enum: {1: a, 0x1: b}", "p.yaml:1: the key 1 is there twice"),
        ("a: &x 1\nb: *x", "p.yaml:2: the alias *x. Write out what it stands for"),
        ("a: !!python/object:os.system x", "p.yaml:1: a tag (!). Leave it out"),
        ("? [a]\n: b", "p.yaml:1: a list or mapping as a key. Use a name or a number"),
        ("a: [", "p.yaml:1: expected the node content, but found '<stream end>'"),
        ("a: \x00", "p.yaml: characters that YAML forbids, or nested too deeply"),
        ("[" * 5000, "p.yaml: characters that YAML forbids, or nested too deeply"),
        ("- 1", "p.yaml: not a profile. It starts with the keys name, version, title"),
        ("", "p.yaml: not a profile. It starts with the keys name, version, title"),
    ],
)
def test_yaml_a_profile_does_not_use_is_refused(text: str, message: str) -> None:
    """What YAML allows and a profile cannot mean is refused with its line."""
    with pytest.raises(ProfileError) as caught:
        parse_profile(text, "p.yaml")
    assert message in str(caught.value)


def test_words_and_clock_times_stay_text() -> None:
    """`on`, `off`, `yes`, `no`, dates, `12:30` and `010` are the text they look like."""
    words = ["on", "off", "yes", "no", "2026-01-01", "12:30", "010", "1_000", "="]
    for word in words:
        assert parse_profile(REFERENCE_TEXT.replace("Reference climate sensor", word), "p.yaml").title == word


@settings(deadline=None)  # reading takes its time on a busy machine
@given(st.data())
def test_damaged_text_gives_an_error_or_a_profile(data: st.DataObject) -> None:
    """However a profile's text is damaged, reading it ends in a profile or in ProfileError."""
    start = data.draw(st.integers(0, len(REFERENCE_TEXT)))
    end = data.draw(st.integers(start, min(len(REFERENCE_TEXT), start + 20)))
    damaged = REFERENCE_TEXT[:start] + data.draw(st.text(max_size=8)) + REFERENCE_TEXT[end:]
    try:
        assert parse_profile(damaged, "p.yaml").frames
    except ProfileError as error:
        assert error.where.startswith("p.yaml")  # noqa: PT017 -- both outcomes are allowed; this one has to say where


def without_vectors(name: str) -> str:
    return changed(("vectors",), []).replace('"reference-climate"', f'"{name}"')


def test_users_profiles_are_found_before_the_gateways(tmp_path: Path) -> None:
    """A directory given is searched first, in its order, and a user's profile needs no vectors."""
    (tmp_path / "reference-climate.yaml").write_text(without_vectors("reference-climate"), "utf-8")
    (tmp_path / "mine.json").write_text(without_vectors("mine"), "utf-8")
    (tmp_path / "notes.txt").write_text("no profile", "utf-8")
    absent = tmp_path / "absent"
    assert profile_names([absent, tmp_path]) == sorted(["mine", *profile_names()])
    assert load_profile("mine", [tmp_path]).name == "mine"
    assert load_profile("reference-climate", [tmp_path]).vectors == ()
    assert load_profile("reference-climate").vectors != ()


def test_a_path_is_read_as_it_is(tmp_path: Path) -> None:
    """A path, as Path or as text, is read wherever it is and whatever the file is called."""
    path = tmp_path / "draft.yaml"
    path.write_text(without_vectors("mine"), "utf-8")
    assert load_profile(path).name == "mine"
    assert load_profile(str(path)).name == "mine"


def test_a_profile_found_by_name_has_that_name(tmp_path: Path) -> None:
    """A file whose profile is named otherwise is refused, or two names would mean one thing."""
    (tmp_path / "yours.yaml").write_text(without_vectors("mine"), "utf-8")
    with pytest.raises(
        ProfileError, match=r"yours.yaml: name: the profile is named 'mine'. Name it 'yours', or the file"
    ):
        load_profile("yours", [tmp_path])


def test_an_unknown_name_gives_the_nearest() -> None:
    """A misspelt name is answered with the one that was meant."""
    with pytest.raises(ProfileError, match=r"no profile 'refrence-climate'. Names that would do: reference-climate"):
        load_profile("refrence-climate")


def test_a_packaged_profile_needs_vectors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A profile among the gateway's own without test vectors is refused."""
    monkeypatch.setattr(load, "PACKAGED", tmp_path)
    (tmp_path / "mine.yaml").write_text(without_vectors("mine"), "utf-8")
    with pytest.raises(ProfileError, match=r"mine.yaml: vectors: a profile in the package needs test vectors"):
        load_profile("mine")


def test_files_that_cannot_be_profiles_are_refused(tmp_path: Path) -> None:
    """A missing file, a directory, other bytes than UTF-8 and a huge file each say what they are."""
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "huge.yaml").write_bytes(b"#" * (load.MAX_PROFILE_BYTES + 1))
    for path, message in (
        (tmp_path / "absent.yaml", "No such file or directory"),
        (tmp_path, "Is a directory"),
        (tmp_path / "binary.yaml", "not UTF-8 text"),
        (tmp_path / "huge.yaml", "262145 bytes are too many for a profile. At most 262144"),
    ):
        with pytest.raises(ProfileError) as caught:
            load_profile(path)
        assert str(caught.value).startswith(f"{path}: {message}")
