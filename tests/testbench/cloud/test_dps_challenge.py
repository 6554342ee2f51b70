"""Attestation by TPM: who is challenged, what the answer must be signed with, and for how long.

The TPM is one of software, and can do no more than take in the keys it is sent; `test_dps_tpm` has a real one.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import random
import struct
from typing import Any

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256

from edge_gateway.testbench import LocalHub
from edge_gateway.testbench.cloud.identity import IdentityName
from edge_gateway.testbench.cloud.provisioning.dps import Answer, LocalDps
from edge_gateway.testbench.cloud.provisioning.enrolments import Credentials, EnrolmentGroup, IndividualEnrolment
from edge_gateway.testbench.cloud.provisioning.tpm_attestation import EndorsementKey, registration_id
from edge_gateway.testbench.cloud.tokens import sas_token

FAR_AWAY_S = 4_000_000_000


def sized(content: bytes) -> bytes:
    return struct.pack(">H", len(content)) + content


def fields(data: bytes) -> list[bytes]:
    """The contents of a row of TPM2Bs."""
    contents = []
    while data:
        size = int.from_bytes(data[:2], "big")
        contents.append(data[2 : 2 + size])
        data = data[2 + size :]
    return contents


def decrypted(key: bytes, data: bytes) -> bytes:
    """AES-128-CFB from a zero vector."""
    block_cipher = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    feedback, plain = bytes(16), b""
    for start in range(0, len(data), 16):
        block = data[start : start + 16]
        plain += bytes(a ^ b for a, b in zip(block, block_cipher.update(feedback), strict=False))
        feedback = block
    return plain


class SoftwareTpm:
    """An endorsement key and a storage root key, and what opens things wrapped for them."""

    def __init__(self) -> None:
        self._endorsement_key, self._storage_root_key = (rsa.generate_private_key(65537, 2048) for _ in range(2))
        policy = bytes.fromhex("837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa")
        self.endorsement_key = sized(self._area(self._endorsement_key, 0x000300B2, policy))
        self.storage_root_key = sized(self._area(self._storage_root_key, 0x00030472, b""))
        self.registration_id = registration_id(EndorsementKey.parse(self.endorsement_key))

    @staticmethod
    def _area(key: rsa.RSAPrivateKey, attributes: int, policy: bytes) -> bytes:
        modulus = key.public_key().public_numbers().n.to_bytes(256, "big")
        rsa_2048 = struct.pack(">HHHHHI", 0x0006, 128, 0x0043, 0x0010, 2048, 0)
        return struct.pack(">HHI", 0x0001, 0x000B, attributes) + sized(policy) + rsa_2048 + sized(modulus)

    def take_in(self, blob: str) -> bytes:
        """The HMAC key in an authentication key blob."""
        credential, credential_seed, duplicate, duplicate_seed, public, _ = fields(base64.b64decode(blob))
        seed = self._seed(self._endorsement_key, b"IDENTITY\0", credential_seed)
        inner_key = self._opened(seed, self._name(self.storage_root_key[2:]), credential)[2:]
        seed = self._seed(self._storage_root_key, b"DUPLICATE\0", duplicate_seed)
        sensitive = decrypted(inner_key, self._opened(seed, self._name(public), duplicate))
        return fields(fields(sensitive)[1][2:])[2]

    @staticmethod
    def _name(area: bytes) -> bytes:
        return b"\x00\x0b" + hashlib.sha256(area).digest()

    @staticmethod
    def _seed(key: rsa.RSAPrivateKey, label: bytes, encrypted: bytes) -> bytes:
        return key.decrypt(encrypted, padding.OAEP(padding.MGF1(SHA256()), SHA256(), label))

    @staticmethod
    def _opened(seed: bytes, name: bytes, sealed: bytes) -> bytes:
        """Without the outer layer; its 34 bytes in front are the integrity check, which is a real TPM's matter."""
        key = hmac.digest(seed, b"\0\0\0\1STORAGE\0" + name + struct.pack(">I", 128), "sha256")[:16]
        return decrypted(key, sealed[34:])


@pytest.fixture(scope="module")
def tpm() -> SoftwareTpm:
    return SoftwareTpm()


@pytest.fixture
def hub() -> LocalHub:
    return LocalHub(host_name="hub.example", rng=random.Random(1))


@pytest.fixture
def dps(hub: LocalHub, tpm: SoftwareTpm) -> LocalDps:
    dps = LocalDps(hubs=[hub], rng=random.Random(1))
    dps.add_enrolment(
        IndividualEnrolment(tpm.registration_id, EndorsementKey.parse(tpm.endorsement_key), device_id="boiler")
    )
    return dps


def request(dps: LocalDps, tpm: SoftwareTpm, token: str | None = None, /, **changes: Any) -> Answer:
    """Ask to register as a device with a TPM does."""
    keys = {"endorsementKey": tpm.endorsement_key, "storageRootKey": tpm.storage_root_key}
    encoded = {name: base64.b64encode(key).decode() for name, key in keys.items()}
    body = {"registrationId": tpm.registration_id, "tpm": encoded} | changes
    return dps.register(tpm.registration_id, Credentials(token), orjson.dumps(body))


def signed(dps: LocalDps, tpm: SoftwareTpm, challenge: Answer) -> str:
    """The token a challenge asks for."""
    assert challenge.status == 401
    assert challenge.body["keyName"] == "registration"
    key = base64.b64encode(tpm.take_in(str(challenge.body["authenticationKey"]))).decode()
    resource = f"{dps.id_scope}/registrations/{tpm.registration_id}"
    return sas_token(resource, key, FAR_AWAY_S, policy="registration")


@pytest.mark.parametrize("changes", [{}, {"tpm": None}], ids=["keys-repeated", "keys-left-out"])
async def test_a_registration(dps: LocalDps, hub: LocalHub, tpm: SoftwareTpm, changes: dict[str, Any]) -> None:
    """A challenged TPM registers with the key it was sent, and gets its hub's key the same way.

    Clients send the TPM's keys a second time or not.
    """
    token = signed(dps, tpm, request(dps, tpm))
    first = request(dps, tpm, token, **changes)
    assert first.status == 202
    operation_id = str(first.body["operationId"])
    last = dps.operation_status(tpm.registration_id, Credentials(token), operation_id)
    state: Any = last.body["registrationState"]
    key = base64.b64encode(tpm.take_in(state["tpm"]["authenticationKey"])).decode()
    assert hub.admit_device(IdentityName("boiler"), token=sas_token("hub.example/devices/boiler", key, FAR_AWAY_S))
    assert dps.statistics.challenged == 1


async def test_each_registration_has_new_keys(dps: LocalDps, hub: LocalHub, tpm: SoftwareTpm) -> None:
    """A later challenge takes the place of the earlier, and a later registration brings another key."""
    old = signed(dps, tpm, request(dps, tpm))
    request(dps, tpm, old)
    first = hub.identity("boiler").primary_key
    new = signed(dps, tpm, request(dps, tpm))
    assert request(dps, tpm, old).status == 401
    assert request(dps, tpm, new).status == 202
    assert hub.identity("boiler").primary_key != first


async def test_an_answer_in_lower_case(dps: LocalDps, tpm: SoftwareTpm) -> None:
    """A client may write the whole resource of its token in lower case, as the IoT Edge daemon does."""
    challenge = request(dps, tpm)
    key = base64.b64encode(tpm.take_in(str(challenge.body["authenticationKey"]))).decode()
    resource = f"{dps.id_scope}/registrations/{tpm.registration_id}".lower()
    assert request(dps, tpm, sas_token(resource, key, FAR_AWAY_S, policy="registration")).status == 202


async def test_a_challenge_ends(dps: LocalDps, tpm: SoftwareTpm) -> None:
    """A TPM that is too slow has to ask for another challenge."""
    dps.challenge_lifetime_s = 0.0
    token = signed(dps, tpm, request(dps, tpm))
    assert request(dps, tpm, token).status == 401
    dps.challenge_lifetime_s = 60.0
    assert request(dps, tpm, token).status == 401
    assert request(dps, tpm, signed(dps, tpm, request(dps, tpm))).status == 202


async def test_another_tpm(dps: LocalDps, tpm: SoftwareTpm) -> None:
    """Another TPM than the enrolled one is not challenged, under whatever name; nor is one where none is enrolled."""
    other = SoftwareTpm()
    assert "authenticationKey" not in request(dps, other).body
    other.registration_id = tpm.registration_id
    answer = request(dps, other)
    assert answer.status == 401
    assert answer.body["errorCode"] == 401002
    dps.add_enrolment(IndividualEnrolment("with-key"))
    dps.add_group(EnrolmentGroup("g"))
    tpm_elsewhere = SoftwareTpm.__new__(SoftwareTpm)
    tpm_elsewhere.__dict__ = tpm.__dict__ | {"registration_id": "with-key"}
    assert "authenticationKey" not in request(dps, tpm_elsewhere).body
    assert dps.statistics.challenged == 0


async def test_no_token_before_a_challenge(dps: LocalDps, tpm: SoftwareTpm) -> None:
    """A device that was not challenged cannot register by a token, nor by nothing."""
    guess = sas_token(f"{dps.id_scope}/registrations/{tpm.registration_id}", base64.b64encode(bytes(32)).decode(), 9**9)
    assert request(dps, tpm, guess).status == 401
    assert request(dps, tpm, tpm=None).status == 401


async def test_a_disabled_tpm(dps: LocalDps, hub: LocalHub, tpm: SoftwareTpm) -> None:
    """A disabled enrolment's TPM is challenged, and then told that it is disabled."""
    dps.enrolments.remove(tpm.registration_id)
    enrolment = IndividualEnrolment(tpm.registration_id, EndorsementKey.parse(tpm.endorsement_key), enabled=False)
    dps.add_enrolment(enrolment)
    answer = request(dps, tpm, signed(dps, tpm, request(dps, tpm)))
    assert (answer.status, answer.body["status"]) == (200, "disabled")
    assert hub.device_ids == []


@pytest.mark.parametrize("name", ["endorsementKey", "storageRootKey"])
@pytest.mark.parametrize("key", [None, "", "!", "AAAA", 1])
async def test_keys_that_are_none(dps: LocalDps, tpm: SoftwareTpm, name: str, key: Any) -> None:
    """What is no TPM's key is refused as such."""
    keys = {"endorsementKey": tpm.endorsement_key, "storageRootKey": tpm.storage_root_key}
    encoded: dict[str, Any] = {each: base64.b64encode(data).decode() for each, data in keys.items()}
    assert request(dps, tpm, tpm=encoded | {name: key}).status == 400
