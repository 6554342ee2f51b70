"""Values worked out from others, values under a key, and the check of a frame of no fixed length."""

from __future__ import annotations

import re

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESCCM, AESGCM

from edge_gateway.codec.payload_keys import same_payload_keys
from edge_gateway.errors import CodecError

from .planned import frame_of, read, written

KEY = bytes(range(16))
KEYS = same_payload_keys({"bindkey": KEY})


@pytest.mark.parametrize(
    ("expression", "frame", "value"),
    [
        ("a + b", "0304", 7),
        ("double(a) / 2.0", "0300", 1.5),
        ("a == 3", "0300", True),
        ("string(a) + '.' + string(b)", "0304", "3.4"),
        ("a > 1 ? null : b", "0304", None),
        ("a / b", "0300", None),
        ("double(a) / double(b)", "0000", None),
        ("double(a) / double(b)", "0300", None),
        ("ln(double(a))", "0000", None),
        ("pow(double(a), 2.0) + exp(0.0)", "0300", 10.0),
        ("s + 1", "0300ff", None),
    ],
)
def test_a_value_is_worked_out(expression: str, frame: str, value: object) -> None:
    """It is what the expression gives: a number, text or truth; null where there is no result or no finite number."""
    last = "{name: s, type: u8, sentinel: 255, emit: false}, " if len(frame) == 6 else ""
    codec = frame_of(
        f"[{{name: a, type: u8, emit: false}}, {{name: b, type: u8, emit: false}}, {last}"
        f'{{name: c, type: computed, value: "{expression}"}}]'
    )
    assert read(codec, frame) == {"c": value}


def test_a_worked_out_value_can_be_invalid() -> None:
    """Outside `valid` it is null or rejects the frame, as for a field; null itself is neither."""
    fields = "[{name: a, type: u8, emit: false}, {name: c, type: computed, value: 100 / a, valid: {%s}}]"
    assert read(frame_of(fields % "maximum: 20, otherwise: 'null'"), "01") == {"c": None}
    assert read(frame_of(fields % "maximum: 20"), "01") == "value"
    assert read(frame_of(fields % "minimum: 30, maximum: 60"), "02") == {"c": 50}
    assert read(frame_of(fields % "maximum: 20"), "00") == {"c": None}


def test_worked_out_values_use_each_other() -> None:
    """In their order, within their list and those around it; one that is not asked for is no value."""
    codec = frame_of("""
        - {name: raw, type: u16, emit: false}
        - {name: half, type: computed, value: raw / 2, emit: false}
        - {name: list, type: array, until: end, of: {name: row, type: group, fields: [
            {name: x, type: u8}, {name: sum, type: computed, value: x + half}]}}
    """)
    assert read(codec, "0008 01 02") == {"list": [{"x": 1, "sum": 5}, {"x": 2, "sum": 6}]}
    assert read(codec, "0008") == {"list": []}


SEALED = """
    - {name: address, type: mac, endian: big}
    - {name: info, type: u8}
    - type: encrypted
      algorithm: aes-ccm
      key: bindkey
      nonce: [{field: address, reversed: true}, {hex: d2fc}, info, counter]
      aad: [{hex: "11"}]
      tag_bytes: 4
      tag: mic
      fields: [{name: level, type: u8}, {name: rest, type: bytes, length_bytes: end}]
    - {name: counter, type: bytes, length_bytes: 4}
    - {name: mic, type: bytes, length_bytes: 4, emit: false}
"""


def sealed_frame(key: bytes = KEY, plain: bytes = b"\x05\xbe\xef") -> bytes:
    """A frame that was sealed by the library itself: the tag behind a counter, which is part of the nonce."""
    head, counter = bytes.fromhex("a1b2c3d4e5f6 41"), b"\0\0\0\x07"
    sealed = AESCCM(key, 4).encrypt(head[5::-1] + b"\xd2\xfc\x41" + counter, plain, b"\x11")
    return head + sealed[:-4] + counter + sealed[-4:]


def test_what_is_sealed_opens_with_its_key() -> None:
    """The values within join those around it, and the frame encodes back to the same bytes."""
    codec = frame_of(SEALED, keys=KEYS, profile="{identity: address}")
    sample = codec.decode([sealed_frame()]).samples[0]
    assert sample.address == "a1:b2:c3:d4:e5:f6"
    assert sample.values == {"info": 65, "level": 5, "rest": "beef", "counter": "00000007"}
    assert codec.encode("only", sample.address, None, sample.values) == sealed_frame()
    assert read(codec, sealed_frame(plain=b"\x05").hex())["rest"] == ""


def test_what_is_sealed_is_worth_nothing_without_its_key() -> None:
    """No key, another key and any flipped bit each reject the frame, and say which it was."""
    profile = "{identity: address}"
    assert read(frame_of(SEALED, profile=profile), sealed_frame().hex()) == "no-key"
    codec = frame_of(SEALED, keys=KEYS, profile=profile)
    assert read(codec, sealed_frame(bytes(16)).hex()) == "decryption"
    frame = int.from_bytes(sealed_frame(), "big")
    size = len(sealed_frame())
    damaged = codec.decode([(frame ^ 1 << bit).to_bytes(size, "big") for bit in range(8 * size)])
    assert damaged.samples == []
    assert {reject.reason for reject in damaged.rejects} == {"decryption"}
    assert read(codec, sealed_frame()[:14].hex()) == "length"
    assert read(codec, sealed_frame(plain=b"").hex()) == "length"


def test_the_tag_is_the_last_of_what_is_sealed() -> None:
    """Unless it has a field; AES-GCM with its whole tag."""
    codec = frame_of(
        """
        - {name: nonce, type: bytes, length_bytes: 12}
        - {type: encrypted, algorithm: aes-gcm, key: bindkey, nonce: [nonce], fields: [{name: level, type: u16}]}
        """,
        keys=KEYS,
    )
    frame = bytes(12) + AESGCM(KEY).encrypt(bytes(12), b"\x01\x02", b"")
    assert read(codec, frame.hex()) == {"nonce": "00" * 12, "level": 258}
    assert read(codec, frame[:-1].hex()) == "length"
    assert written(codec, {"nonce": "00" * 12, "level": 258}) == frame.hex(" ")
    with pytest.raises(CodecError, match="no key 'bindkey'"):
        frame_of(
            "[{type: encrypted, algorithm: aes-gcm, key: bindkey, nonce: [{hex: '000000000000000000000000'}],"
            " fields: [{name: level, type: u16}]}]"
        ).encode("only", None, None, {"level": 1})


def test_each_device_has_its_key() -> None:
    """The key is asked for by the profile's word for it and the address that the frame names."""
    asked: list[tuple[str, object]] = []

    def key_of(name: str, address: object) -> bytes:
        asked.append((name, address))
        return KEY

    codec = frame_of(SEALED, keys=key_of, profile="{identity: address}")
    assert codec.decode([sealed_frame()]).rejects == []
    assert asked == [("bindkey", "a1:b2:c3:d4:e5:f6")]


@pytest.mark.parametrize(
    ("checksum", "frame"),
    [
        ("{algorithm: sum-8}", "02 00 01 02 03 04 0c"),
        ("{algorithm: sum-16, endian: little}", "02 00 01 02 03 04 0c 00"),
        ("{algorithm: sum-8, at: head_check, from: size, to: size}", "02 02 01 02 03 04"),
        ("{algorithm: sum-8, at: head_check}", "02 02 01 02 03 04"),
        ("{algorithm: sum-8, at: head_check, from: 2}", "02 0a 01 02 03 04"),
        ("{algorithm: sum-8, at: tail_check}", "02 00 01 02 05 04"),
        ("{algorithm: sum-8, at: tail_check, from: size}", "02 00 01 02 05 04"),
        ("{algorithm: sum-8, at: tail_check, from: 1, to: head_check}", "02 09 01 02 09 04"),
        ("{algorithm: sum-8, at: tail_check, from: tail, to: tail}", "02 00 01 02 04 04"),
        ("{algorithm: sum-8, at: head_check, from: tail_check, to: tail}", "02 07 01 02 03 04"),
    ],
)
def test_a_check_stands_and_covers_where_it_is_declared(checksum: str, frame: str) -> None:
    """At the end, in the first fields or in the last, over bytes named from either end; its field is no value."""
    codec = frame_of(
        """
        - {name: size, type: u8, emit: false}
        - {name: head_check, type: u8}
        - {name: body, type: bytes, length_bytes: end}
        - {name: tail_check, type: u8}
        - {name: tail, type: u8}
        """,
        frame=f"{{checksum: {checksum}}}",
    )
    values = read(codec, frame)
    assert values["body"] == "0102"
    assert values.keys() <= {"body", "head_check", "tail_check", "tail"}
    assert not re.findall(r"at: (\w+)", checksum) or re.findall(r"at: (\w+)", checksum)[0] not in values
    assert bytes.fromhex(written(codec, {"size": 2, **values})) == bytes.fromhex(frame)
    data = bytes.fromhex(frame)
    plan = codec.profile.layouts["only"]
    for at in range(len(data)):
        damaged = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        assert plan.check_holds(damaged) == (read(codec, damaged.hex()) != "checksum")
    assert read(codec, "01") == "length"
