"""`edge-gateway decode`: frames from arguments, standard input and captures, with senders and keys."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner, Result

from edge_gateway.cli.app import collect
from edge_gateway.codec import load_profile
from edge_gateway.errors import CodecError, KeyStoreError, TransportError
from edge_gateway.framing import make_framer

SAMPLE = "01 07 00 29 00 00 5c 26 05 29 09 a0 11 db 0c 05 d2 a7"
KEY = "231d39c1d7cc1ab1aee224cd096db932"
SEALED = "d2 fc 41 a4 72 66 c9 5f 73 00 11 22 33 78 23 72 14"
SENDER = "54:48:e6:8f:80:a5"


def run(profile: str, *arguments: str, given: str | None = None) -> Result:
    return CliRunner().invoke(collect("decode"), ["decode", "--profile", profile, *arguments], input=given)


def documents(result: Result) -> list[Any]:
    return [orjson.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "bindkey"
    path.write_text(f"{KEY}\n")
    return path


def capture(path: Path, *chunks: tuple[float, str, bytes]) -> Path:
    lines = [{"capture": 1, "started": "2026-05-01T12:00:00Z"}]
    lines += [{"t": at_s, "link": link, "hex": data.hex()} for at_s, link, data in chunks]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


def test_frames_are_decoded_to_json_lines() -> None:
    """Each frame is a line with address, sequence and values; one that is rejected is a line with its reason."""
    result = run("reference-climate", SAMPLE, "00 11")
    sample, reject = documents(result)
    assert (sample["address"], sample["sequence"], sample["values"]["temperature"]) == (7, 41, 23.45)
    assert reject == {"where": "frame 2", "rejected": "length", "hex": "0011"}
    assert result.exit_code == 1
    assert run("reference-climate", SAMPLE).exit_code == 0


def test_frames_come_from_standard_input() -> None:
    """Without arguments, lines of standard input are frames; empty ones are passed over, others told by their line."""
    assert len(documents(run("reference-climate", given=f"{SAMPLE}\n\n{SAMPLE}\n"))) == 2
    wrong = run("reference-climate", given=f"{SAMPLE}\nnot hex\n")
    assert isinstance(wrong.exception, CodecError)
    assert wrong.exception.where == "frame 2"


def test_a_capture_is_decoded_with_the_profiles_framing(tmp_path: Path) -> None:
    """Frames are found in what each link carried, however it was read, and told with link and time."""
    framing = load_profile("reference-climate").line_framing
    wire = make_framer(framing).encode(bytes.fromhex(SAMPLE))
    path = capture(
        tmp_path / "bytes.jsonl", (0.1, "a", wire[:5]), (0.2, "b", b"noise\0" + wire), (0.3, "a", wire[5:] + wire)
    )
    found = documents(run("reference-climate", "--capture", str(path)))
    assert [(each["link"], each["t"]) for each in found if "values" in each] == [("b", 0.2), ("a", 0.3), ("a", 0.3)]
    assert len(documents(run("reference-climate", "--capture", str(path), "--link", "a"))) == 2


def test_the_end_of_a_capture_ends_a_frame_that_silence_ends(tmp_path: Path) -> None:
    """Where frames end by silence, the last one of a capture is not lost."""
    vector = next(vector for vector in load_profile("sdm120").vectors if getattr(vector, "frame", "") == "input-0000")
    path = capture(tmp_path / "bytes.jsonl", (0.1, "a", bytes.fromhex(vector.hex)))
    (found,) = documents(run("sdm120", "--capture", str(path), "--frame", "input-0000"))
    assert found["values"] == vector.values  # type: ignore[union-attr]  # the vector of a frame has values


def test_what_has_no_framing_is_captured_in_whole_frames(tmp_path: Path) -> None:
    """Of what is heard by radio each chunk of a capture is a frame."""
    frame = bytes.fromhex(SENDER.replace(":", "") + "d2fc40022e09")
    (found,) = documents(run("bthome-v2", "--capture", str(capture(tmp_path / "ble.jsonl", (1.5, "hci0", frame)))))
    assert found == {
        "link": "hci0",
        "t": 1.5,
        "address": SENDER,
        "sequence": None,
        "values": {"trigger_based": False, "temperature": 23.5},
    }


def test_a_capture_that_is_none_is_an_error(tmp_path: Path) -> None:
    """A file of another kind is refused, and so are a capture and frames at once."""
    (tmp_path / "x").write_text("hello")
    assert isinstance(run("tfmini", "--capture", str(tmp_path / "x")).exception, TransportError)
    assert run("tfmini", "--capture", str(tmp_path / "x"), "00").exit_code == 2


@pytest.mark.parametrize("sender", [SENDER, SENDER.upper(), SENDER.replace(":", "")])
def test_the_sender_goes_in_front(sender: str, key_file: Path) -> None:
    """With --sender, frames are what a radio shows of an advertisement, and the address belongs to them."""
    result = run("bthome-v2", SEALED, "--sender", sender, "--key", f"bindkey={key_file}")
    (found,) = documents(result)
    assert found["address"] == SENDER
    assert found["values"]["temperature"] == 25.06
    assert result.stderr == ""


def test_an_unknown_sender_is_zeros_and_told() -> None:
    """Without --sender, data without an address is decoded behind zeros, and a note says so; a whole frame is not."""
    result = run("bthome-v2", "d2fc40022e09")
    (found,) = documents(result)
    assert found["address"] == "00:00:00:00:00:00"
    assert "The sender is not known" in result.stderr
    whole = run("bthome-v2", "5448e68f80a5d2fc40022e09")
    assert documents(whole)[0]["address"] == SENDER
    assert whole.stderr == ""
    assert documents(run("bthome-v2", "ffff"))[0] == {"where": "frame 1", "rejected": "length", "hex": "ffff"}


def test_a_sender_that_is_no_address_is_an_error() -> None:
    """An address has six bytes."""
    assert isinstance(run("bthome-v2", "00", "--sender", "54:48:e6").exception, CodecError)


def test_keys_come_from_files(key_file: Path, tmp_path: Path) -> None:
    """A key is named by the file it is in; without it the frame is rejected, with another it does not open."""
    frame = f"{SENDER.replace(':', '')} {SEALED}"
    assert documents(run("bthome-v2", frame))[0]["rejected"] == "no-key"
    assert documents(run("bthome-v2", frame, "--key", f"bindkey={key_file}"))[0]["values"]["humidity"] == 50.55
    (tmp_path / "other").write_text("00" * 16)
    assert documents(run("bthome-v2", frame, "--key", f"bindkey={tmp_path / 'other'}"))[0]["rejected"] == "decryption"


def test_keys_come_from_the_key_store(tmp_path: Path) -> None:
    """With a gateway's configuration, a key is named as its key store has it."""
    config = tmp_path / "gateway.yaml"
    config.write_text(
        "{gateway: {name: plant, data_directory: data}, uplink: {kind: mqtt, host: unused},"
        "links: [{name: air, port: {path: /dev/null}, profile: tfmini}]}"
    )
    stored = CliRunner().invoke(
        collect("keys"), ["keys", "import", "living-room", "--config", str(config), "--payload"], input=KEY
    )
    assert stored.exit_code == 0, stored.output
    frame = f"{SENDER.replace(':', '')} {SEALED}"
    result = run("bthome-v2", frame, "--key", "bindkey=living-room", "--config", str(config))
    assert documents(result)[0]["values"]["temperature"] == 25.06
    missing = run("bthome-v2", frame, "--key", "bindkey=cellar", "--config", str(config))
    assert isinstance(missing.exception, KeyStoreError)


def test_what_is_no_key_is_an_error_that_does_not_show_it(tmp_path: Path) -> None:
    """A name the profile does not have, a missing file and a file with something else are refused; nothing is shown."""
    assert isinstance(run("bthome-v2", "00", "--key", "bind=x").exception, CodecError)
    assert isinstance(run("bthome-v2", "00", "--key", KEY).exception, CodecError)
    assert isinstance(run("bthome-v2", "00", "--key", f"bindkey={tmp_path / 'none'}").exception, KeyStoreError)
    for text in ("secret", KEY[:-2], "ff" * 600):
        (tmp_path / "key").write_text(text)
        error = run("bthome-v2", "00", "--key", f"bindkey={tmp_path / 'key'}").exception
        assert isinstance(error, KeyStoreError)
        assert text not in str(error)


def test_explain_tells_each_byte(monkeypatch: pytest.MonkeyPatch, key_file: Path) -> None:
    """A table has a row for each field, in groups and lists with its place, and marks what was decrypted."""
    monkeypatch.setenv("COLUMNS", "160")
    shown = run("gatt-sensors", "a1b2c3d4e5f6 372a 10 5a 0008 0010", "--explain").stdout
    (row,) = [line for line in shown.splitlines() if "beat_intervals[1]" in line]
    assert row.split() == ["12-13", "00", "10", "beat_intervals[1]", "4.0", "s"]
    shown = run("bthome-v2", SEALED, "--sender", SENDER, "--key", f"bindkey={key_file}", "--explain").stdout
    (row,) = [line for line in shown.splitlines() if "temperature" in line]
    assert row.split() == ["+1-2", "ca", "09", "temperature", "25.06", "Cel"]
    assert shown.rstrip().endswith("Bytes with + are counted in what was decrypted.")


def test_explain_has_json() -> None:
    """With --json, the rows are a document."""
    result = run("reference-climate", SAMPLE[:-1] + "8", "--explain", "--json")
    assert result.exit_code == 1
    (found,) = documents(result)
    assert found["rows"][0]["note"].startswith("rejected: checksum")
    assert found["rows"][-1]["note"] == "crc-16/ibm-3740, wrong: d2 a7 expected"


def test_a_frame_can_be_named() -> None:
    """An answer of a polled device is decoded as what it answers; a frame nobody sends is refused."""
    vector = next(vector for vector in load_profile("sdm120").vectors if getattr(vector, "frame", "") == "input-0006")
    assert "rejected" in documents(run("sdm120", vector.hex))[0]
    (found,) = documents(run("sdm120", vector.hex, "--frame", "input-0006"))
    assert "current" in found["values"]
    for name in ("read-input-0006", "nonsense"):
        error = run("sdm120", vector.hex, "--frame", name).exception
        assert isinstance(error, CodecError)
        assert "input-0006" in error.remedy


def test_what_code_decodes_is_shown_alike() -> None:
    """A frame of a decoder in Python may give several samples, or none."""
    pack = b'[{"bn":"a","n":"t","v":1},{"bn":"b","n":"t","v":2}]'.hex()
    assert [each["values"] for each in documents(run("senml-json", pack))] == [{"t": 1}, {"t": 2}]
    assert run("senml-json", b"[]".hex()).stdout == ""
