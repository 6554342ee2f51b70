"""How the gateway gets its own identity: nothing is lost on the way, and a no leaves all as it was."""

from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path

import pytest

from edge_gateway.errors import ConfigError, KeyStoreError
from edge_gateway.keystore import Secret
from edge_gateway.keystore.generations import generation_name, newest_generation
from edge_gateway.keystore.software import SoftwareKeyStore
from edge_gateway.provisioning.adoption import CHALLENGE_KEY, Adopter, tpm_registration_id
from edge_gateway.provisioning.connection_string import ConnectionString, parse_connection_string
from edge_gateway.provisioning.errors import ProvisioningRefused
from edge_gateway.provisioning.identities import Identities, Identity
from edge_gateway.provisioning.symmetric_keys import holds, keep_generation, keep_key, read_key
from edge_gateway.testbench.certificates import self_signed_certificate
from edge_gateway.testbench.cloud.identity import Thumbprints
from edge_gateway.testbench.cloud.provisioning.enrolments import IndividualEnrolment, drawn_keys
from edge_gateway.testbench.cloud.provisioning.tpm_attestation import EndorsementKey
from tests.provisioning.conftest import Site
from tests.testbench.cloud.test_dps_challenge import SoftwareTpm

KEYS = drawn_keys()
OTHER_KEYS = drawn_keys()


def secret(text: str = KEYS.primary) -> Secret:
    return read_key(text.encode(), where="test")


@pytest.fixture
def adopter(store: SoftwareKeyStore, identities: Identities) -> Adopter:
    return Adopter(store, identities, "gateway")


def connection(text: str) -> ConnectionString:
    return parse_connection_string(text.encode(), where="test")


# By a connection string


async def test_a_connection_string(site: Site, adopter: Adopter, store: SoftwareKeyStore) -> None:
    """The gateway is the device, and the hub takes what the key store signs; again, nothing changes."""
    site.hub.add_device("gw-17")
    text = f"{site.hub.connection_string('gw-17')};GatewayHostName=edge.local"
    for _ in range(2):
        identity = adopter.by_connection_string(connection(text))
    assert identity == Identity("", site.hub.host_name, "gw-17", "gateway", "connection-string", "edge.local")
    assert adopter.identities.own == identity
    assert site.admits("gw-17", store, "gateway")


def test_another_device_is_refused(adopter: Adopter, store: SoftwareKeyStore) -> None:
    """A gateway does not become another by mistake; its key stays. Asked to, it does."""
    first = ConnectionString("hub.example", "gw-17", secret())
    other = ConnectionString("hub.example", "gw-18", secret(OTHER_KEYS.primary))
    adopter.by_connection_string(first)
    for each in (other, replace(other, device_id="gw-17", host_name="other.example")):
        with pytest.raises(ConfigError, match=r"is gw-17 at hub\.example already"):
            adopter.by_connection_string(each)
    assert holds(store, "gateway", secret())
    replace(adopter, replace=True).by_connection_string(other)
    assert adopter.identities.own is not None
    assert adopter.identities.own.device_id == "gw-18"
    assert store.names() == [generation_name("gateway", 2)]  # the other device's key is gone
    assert holds(store, store.names()[0], secret(OTHER_KEYS.primary))


def test_a_sensors_identity_is_refused(adopter: Adopter, store: SoftwareKeyStore) -> None:
    """What a sensor is, the gateway cannot be; no key was put."""
    adopter.identities.put(Identity("boiler", "hub.example", "gw-17", "leaf.boiler", "csv"))
    with pytest.raises(ConfigError, match="would be one and the same"):
        adopter.by_connection_string(ConnectionString("hub.example", "gw-17", secret()))
    assert store.names() == []


def test_a_new_key_for_the_same_device(adopter: Adopter, store: SoftwareKeyStore) -> None:
    """A key that was changed at the hub comes by a new connection string, beside the old one, and once only."""
    adopter.by_connection_string(ConnectionString("hub.example", "gw-17", secret()))
    for _ in range(2):
        adopter.by_connection_string(ConnectionString("hub.example", "gw-17", secret(OTHER_KEYS.primary)))
    assert store.names() == ["gateway", generation_name("gateway", 2)]
    assert holds(store, "gateway", secret())
    assert holds(store, newest_generation(store, "gateway"), secret(OTHER_KEYS.primary))


def test_a_damaged_key_is_replaced(adopter: Adopter, store: SoftwareKeyStore, tmp_path: Path) -> None:
    """What the disk has made of an older key is not in the way."""
    given = ConnectionString("hub.example", "gw-17", secret())
    adopter.by_connection_string(given)
    (tmp_path / "keys" / "gateway.key").write_bytes(b"junk")
    adopter.by_connection_string(given)
    assert holds(store, newest_generation(store, "gateway"), secret())


class FaultyStore(SoftwareKeyStore):
    """Signs with one bit turned, as faulty memory would."""

    def sign(self, name: str, data: bytes) -> bytes:
        signature = bytearray(super().sign(name, data))
        signature[0] ^= 1
        return bytes(signature)


def test_a_store_that_signs_otherwise(tmp_path: Path, identities: Identities) -> None:
    """One signature is compared before the identity is written."""
    with pytest.raises(KeyStoreError, match="signs otherwise"):
        Adopter(FaultyStore(tmp_path / "faulty"), identities, "gateway").by_connection_string(
            ConnectionString("hub.example", "gw-17", secret())
        )
    assert identities.own is None


# By the provisioning service


async def test_a_symmetric_key(site: Site, adopter: Adopter, store: SoftwareKeyStore) -> None:
    """The gateway is what the service says, and the hub takes what the key store signs."""
    site.dps.add_enrolment(IndividualEnrolment("gw-17", KEYS, device_id="plant-3"))
    async with site.client() as client:
        identity = await adopter.by_symmetric_key(client, "gw-17", secret())
    assert identity == Identity("", site.hub.host_name, "plant-3", "gateway", "dps-symmetric-key")
    assert adopter.identities.own == identity
    assert site.admits("plant-3", store, "gateway")


async def test_a_key_that_the_service_refuses(site: Site, adopter: Adopter, store: SoftwareKeyStore) -> None:
    """It does not take a good one's place."""
    site.dps.add_enrolment(IndividualEnrolment("gw-17", KEYS))
    async with site.client() as client:
        await adopter.by_symmetric_key(client, "gw-17", secret())
        with pytest.raises(ProvisioningRefused):
            await adopter.by_symmetric_key(client, "gw-17", secret(OTHER_KEYS.primary))
    assert site.admits("gw-17", store, "gateway")


async def test_a_key_rotated_at_the_hub(site: Site, adopter: Adopter, store: SoftwareKeyStore) -> None:
    """It is none of the enrolment's: by the one before it the service still says which hub the gateway has."""
    site.dps.add_enrolment(IndividualEnrolment("gw-17", KEYS))
    async with site.client() as client:
        await adopter.by_symmetric_key(client, "gw-17", secret())
        keep_generation(store, "gateway", secret(OTHER_KEYS.primary))
        identity = await adopter.by_stored_key(client, "gw-17", "dps-symmetric-key")
    assert identity == Identity("", site.hub.host_name, "gw-17", "gateway", "dps-symmetric-key")
    assert store.names() == ["gateway", generation_name("gateway", 2)]


async def test_no_key_of_the_enrolment_is_left(site: Site, adopter: Adopter, store: SoftwareKeyStore) -> None:
    """The service's refusal is told."""
    site.dps.add_enrolment(IndividualEnrolment("gw-17", KEYS))
    for _ in range(2):
        keep_generation(store, "gateway", secret(drawn_keys().primary))
    async with site.client() as client:
        with pytest.raises(ProvisioningRefused, match="does not accept"):
            await adopter.by_stored_key(client, "gw-17", "dps-symmetric-key")


async def test_a_certificate(site: Site, adopter: Adopter, store: SoftwareKeyStore, tmp_path: Path) -> None:
    """The identity names the files, and there is nothing for the key store."""
    certificate = self_signed_certificate("gw-17")
    files = certificate.write(tmp_path)
    site.dps.add_enrolment(IndividualEnrolment("gw-17", Thumbprints(certificate.sha1_thumbprint)))
    async with site.client(certificate=files) as client:
        identity = await adopter.by_certificate(client, "gw-17", *files)
    assert identity == Identity("", site.hub.host_name, "gw-17", "", "dps-x509", "", *map(str, files))
    assert adopter.identities.own == identity
    assert store.names() == []


# By a TPM


class AttestingStore(SoftwareKeyStore):
    """`KeyStore` and `Attester`, with a TPM of software that can take keys in and no more."""

    kind = "tpm"  # type: ignore[misc]  # it stands in for one

    def __init__(self, directory: Path, tpm: SoftwareTpm) -> None:
        super().__init__(directory)
        self.tpm = tpm

    def endorsement_key(self) -> bytes:
        return self.tpm.endorsement_key

    def storage_root_key(self) -> bytes:
        return self.tpm.storage_root_key

    def import_challenge(self, name: str, challenge: bytes) -> None:
        try:
            key = self.tpm.take_in(base64.b64encode(challenge).decode())
        except ValueError as error:
            raise KeyStoreError("it was made for another TPM", where=name) from error
        self.put(name, Secret(key))


@pytest.fixture(scope="module")
def tpm() -> SoftwareTpm:
    return SoftwareTpm()


@pytest.fixture(scope="module")
def other_tpm() -> SoftwareTpm:
    return SoftwareTpm()


@pytest.fixture
def attesting(tmp_path: Path, tpm: SoftwareTpm) -> AttestingStore:
    return AttestingStore(tmp_path / "keys", tpm)


def enrol(site: Site, tpm: SoftwareTpm, device_id: str = "plant-3") -> str:
    registration_id = tpm_registration_id(tpm.endorsement_key)
    assert registration_id == tpm.registration_id
    site.dps.add_enrolment(IndividualEnrolment(registration_id, EndorsementKey.parse(tpm.endorsement_key), device_id))
    return registration_id


async def test_a_tpm(site: Site, attesting: AttestingStore, identities: Identities, tpm: SoftwareTpm) -> None:
    """The key at the hub comes wrapped for the TPM; each time a new one; the one before stays, not so the challenge."""
    registration_id = enrol(site, tpm)
    adopter = Adopter(attesting, identities, "gateway")
    keys = []
    for number in (1, 2, 3):
        async with site.client() as client:
            identity = await adopter.by_tpm(client, registration_id, attesting)
        assert identity == Identity("", site.hub.host_name, "plant-3", "gateway", "dps-tpm")
        there = [generation_name("gateway", each) for each in (number - 1, number) if each]
        assert attesting.names() == there
        assert site.admits("plant-3", attesting, "gateway")
        keys.append(attesting.sign(there[-1], b""))
    assert len(set(keys)) == 3


async def test_a_tpm_that_is_not_enrolled(site: Site, attesting: AttestingStore, identities: Identities) -> None:
    """The error has what the enrolment needs: registration id and endorsement key."""
    registration_id = tpm_registration_id(attesting.endorsement_key())
    async with site.client() as client:
        with pytest.raises(ProvisioningRefused) as caught:
            await Adopter(attesting, identities, "gateway").by_tpm(client, registration_id, attesting)
    assert registration_id in caught.value.remedy
    assert base64.b64encode(attesting.endorsement_key()).decode() in caught.value.remedy
    assert attesting.names() == []


async def test_another_tpm(
    site: Site, tmp_path: Path, identities: Identities, tpm: SoftwareTpm, other_tpm: SoftwareTpm
) -> None:
    """Who claims a TPM that he has not, gets a key that he cannot open; what was there before stays."""

    class Liar(AttestingStore):
        def endorsement_key(self) -> bytes:
            return tpm.endorsement_key

    registration_id = enrol(site, tpm)
    liar = Liar(tmp_path / "liar", other_tpm)
    keep_key(liar, "gateway", secret())
    async with site.client() as client:
        with pytest.raises(KeyStoreError, match="made for another TPM"):
            await Adopter(liar, identities, "gateway").by_tpm(client, registration_id, liar)
    assert site.dps.statistics.assigned == 0
    assert liar.names() == ["gateway"]
    assert holds(liar, "gateway", secret())
    assert identities.own is None


async def test_a_challenge_that_is_too_old(
    site: Site, attesting: AttestingStore, identities: Identities, tpm: SoftwareTpm
) -> None:
    """A proof by an old challenge is refused, and the challenge's key does not stay."""
    registration_id = enrol(site, tpm)
    site.dps.challenge_lifetime_s = 0.0
    async with site.client() as client:
        with pytest.raises(ProvisioningRefused):
            await Adopter(attesting, identities, "gateway").by_tpm(client, registration_id, attesting)
    assert CHALLENGE_KEY not in attesting.names()
