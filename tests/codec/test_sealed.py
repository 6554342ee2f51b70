"""Encrypted payloads: the published examples come out, and nothing but the sender's own bytes is ever opened."""

from __future__ import annotations

from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_gateway.codec.sealed import KEY_BYTES, MOST_DATA_BYTES, NONCE_BYTES, TAG_BYTES, PayloadSeal, SealAlgorithm
from edge_gateway.errors import CodecError

ALGORITHMS: Final[tuple[SealAlgorithm, ...]] = ("aes-ccm", "aes-gcm")
SHAPES: Final = [(algorithm, tag_bytes) for algorithm in ALGORITHMS for tag_bytes in TAG_BYTES[algorithm]]


@st.composite
def sealings(draw: st.DrawFn) -> tuple[PayloadSeal, bytes, bytes, bytes, bytes]:
    """A seal, a key, a nonce, a text and additional data that go together."""
    algorithm, tag_bytes = draw(st.sampled_from(SHAPES))
    key = draw(st.sampled_from(KEY_BYTES).flatmap(lambda size: st.binary(min_size=size, max_size=size)))
    nonce = draw(st.sampled_from(NONCE_BYTES[algorithm]).flatmap(lambda size: st.binary(min_size=size, max_size=size)))
    return PayloadSeal(algorithm, tag_bytes), key, nonce, draw(st.binary(max_size=100)), draw(st.binary(max_size=40))


@pytest.mark.parametrize(
    ("algorithm", "key", "nonce", "aad", "plain", "data", "tag"),
    [
        pytest.param(
            "aes-ccm",
            "404142434445464748494a4b4c4d4e4f",
            "10111213141516",
            "0001020304050607",
            "20212223",
            "7162015b",
            "4dac255d",
            id="NIST SP 800-38C, C.1: tag of 4",
        ),
        pytest.param(
            "aes-ccm",
            "404142434445464748494a4b4c4d4e4f",
            "1011121314151617",
            "000102030405060708090a0b0c0d0e0f",
            "202122232425262728292a2b2c2d2e2f",
            "d2a1f0e051ea5f62081a7792073d593d",
            "1fc64fbfaccd",
            id="NIST SP 800-38C, C.2: tag of 6",
        ),
        pytest.param(
            "aes-ccm",
            "404142434445464748494a4b4c4d4e4f",
            "101112131415161718191a1b",
            "000102030405060708090a0b0c0d0e0f10111213",
            "202122232425262728292a2b2c2d2e2f3031323334353637",
            "e3b201a9f5b71a7a9b1ceaeccd97e70b6176aad9a4428aa5",
            "484392fbc1b09951",
            id="NIST SP 800-38C, C.3: tag of 8",
        ),
        pytest.param(
            "aes-ccm",
            "231d39c1d7cc1ab1aee224cd096db932",
            "5448e68f80a5d2fc4133221100",
            "",
            "02ca0903bf13",
            "e445f3c9962b",
            "6c7c4519",
            id="bthome.io, encryption: temperature and humidity",
        ),
        pytest.param(
            "aes-ccm",
            "a115210eed7a88e50ad52662e732a9fb",
            "84535638c1a4e4162c120000",
            "11",
            "024c013a",
            "2b6ef2e9",
            "6c884d9e",
            id="xiaomi-ble, test_Xiaomi_LYWSD02MMC: humidity",
        ),
        pytest.param(
            "aes-gcm",
            "feffe9928665731c6d6a8f9467308308",
            "cafebabefacedbaddecaf888",
            "feedfacedeadbeeffeedfacedeadbeefabaddad2",
            "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
            "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
            "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e"
            "21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac973d58e091",
            "5bc94fbc3221a5db94fae95ae7121a47",
            id="GCM specification of 2005, test case 4",
        ),
        pytest.param(
            "aes-gcm",
            "feffe9928665731c6d6a8f9467308308",
            "cafebabefacedbaddecaf888",
            "feedfacedeadbeeffeedfacedeadbeefabaddad2",
            "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
            "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
            "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e"
            "21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac973d58e091",
            "5bc94fbc",
            id="the same with its tag cut to 4 bytes, as SP 800-38D, 5.2.1.2 allows",
        ),
    ],
)
def test_published_examples(
    algorithm: SealAlgorithm, key: str, nonce: str, aad: str, plain: str, data: str, tag: str
) -> None:
    """Examples of standards and of devices come out as published, both ways."""
    seal = PayloadSeal(algorithm, len(tag) // 2)
    under = bytes.fromhex(key), bytes.fromhex(nonce)
    opened = seal.open(*under, bytes.fromhex(data), bytes.fromhex(tag), bytes.fromhex(aad))
    assert opened is not None
    assert opened.hex() == plain
    made, made_tag = seal.seal(*under, bytes.fromhex(plain), bytes.fromhex(aad))
    assert (made.hex(), made_tag.hex()) == (data, tag)


@given(sealings())
def test_what_was_sealed_opens(sealing: tuple[PayloadSeal, bytes, bytes, bytes, bytes]) -> None:
    """Every algorithm, key length, nonce length and tag length gives back what went in."""
    seal, key, nonce, plain, aad = sealing
    data, tag = seal.seal(key, nonce, plain, aad)
    assert len(data) == len(plain)
    assert len(tag) == seal.tag_bytes
    assert seal.open(key, nonce, data, tag, aad) == plain


@given(sealings(), st.data())
def test_one_changed_bit_opens_nothing(
    sealing: tuple[PayloadSeal, bytes, bytes, bytes, bytes], data: st.DataObject
) -> None:
    """A bit turned anywhere, in data, tag, nonce, additional data or key, and there is no plain text."""
    seal, key, nonce, plain, aad = sealing
    sealed, tag = seal.seal(key, nonce, plain, aad)
    parts = [key, nonce, sealed, tag, aad]
    at = data.draw(st.sampled_from([index for index, part in enumerate(parts) if part]))
    bit = data.draw(st.integers(0, 8 * len(parts[at]) - 1))
    number = int.from_bytes(parts[at], "big") ^ 1 << bit
    parts[at] = number.to_bytes(len(parts[at]), "big")
    assert seal.open(*parts) is None


@given(
    st.sampled_from(SHAPES),
    st.binary(max_size=20),
    st.binary(max_size=60),
    st.binary(max_size=20),
    st.binary(max_size=20),
)
def test_arbitrary_bytes_raise_nothing(
    shape: tuple[SealAlgorithm, int], nonce: bytes, data: bytes, tag: bytes, aad: bytes
) -> None:
    """Whatever comes over the air, of any length, opening gives an answer and no exception."""
    opened = PayloadSeal(*shape).open(bytes(16), nonce, data, tag, aad)
    assert opened is None or len(opened) == len(data)


@pytest.mark.parametrize("shape", [("aes-ccm", 4), ("aes-gcm", 4), ("aes-gcm", 16)], ids=str)
def test_more_data_than_can_be_counted_opens_nothing(shape: tuple[SealAlgorithm, int]) -> None:
    """The length is bounded: at the bound it works, beyond it nothing is opened and nothing can be sealed."""
    seal, nonce = PayloadSeal(*shape), bytes(13 if shape[0] == "aes-ccm" else 12)
    data, tag = seal.seal(bytes(16), nonce, bytes(MOST_DATA_BYTES))
    assert seal.open(bytes(16), nonce, data, tag) == bytes(MOST_DATA_BYTES)
    assert seal.open(bytes(16), nonce, data + b"\0", tag) is None
    with pytest.raises(CodecError, match=r"65536 bytes are too many to encrypt. At most 65535"):
        seal.seal(bytes(16), nonce, bytes(MOST_DATA_BYTES + 1))


@pytest.mark.parametrize(
    ("algorithm", "tag_bytes"), [("aes-ccm", 3), ("aes-ccm", 5), ("aes-ccm", 18), ("aes-gcm", 3), ("aes-gcm", 17)]
)
def test_a_tag_that_no_algorithm_has_is_refused(algorithm: SealAlgorithm, tag_bytes: int) -> None:
    """The error says which lengths would do."""
    with pytest.raises(CodecError, match=rf"{algorithm} has no tag of {tag_bytes} bytes. Possible: 4,"):
        PayloadSeal(algorithm, tag_bytes)


@pytest.mark.parametrize(("algorithm", "nonce_bytes"), [("aes-ccm", 6), ("aes-ccm", 14), ("aes-gcm", 13)])
def test_a_nonce_that_no_algorithm_has_is_refused(algorithm: SealAlgorithm, nonce_bytes: int) -> None:
    """Sealing says which lengths would do; opening opens nothing."""
    seal = PayloadSeal(algorithm, 4)
    with pytest.raises(CodecError, match=rf"{algorithm} has no nonce of {nonce_bytes} bytes. Possible: "):
        seal.seal(bytes(16), bytes(nonce_bytes), b"x")
    assert seal.open(bytes(16), bytes(nonce_bytes), b"x", bytes(4)) is None


def test_many_devices_are_opened_in_turn() -> None:
    """More keys than schedules are kept for, each used again and again, and every frame still opens."""
    seal = PayloadSeal("aes-ccm", 4)
    keys = [number.to_bytes(16, "big") for number in range(600)]
    sealed = [seal.seal(key, bytes(13), key) for key in keys]
    for _ in range(2):
        assert [seal.open(key, bytes(13), *pair) for key, pair in zip(keys, sealed, strict=True)] == keys


def test_nothing_of_a_key_is_told() -> None:
    """Neither the text of a seal that has opened something, nor of its parts, holds the key."""
    seal = PayloadSeal("aes-ccm", 4)
    key = bytes.fromhex("00112233445566778899aabbccddeeff")
    seal.seal(key, bytes(13), b"x")
    told = f"{seal} {seal!r} {vars(seal)!r}"
    assert "PayloadSeal('aes-ccm', 4)" in told
    assert repr(key)[2:-1] not in told
    assert key.hex() not in told
