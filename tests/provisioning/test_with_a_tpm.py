"""Identities whose keys are in a real TPM 2.0 (swtpm), from its endorsement key to tokens that the hub takes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from edge_gateway.errors import KeyStoreError
from edge_gateway.keystore.generations import generation_name
from edge_gateway.keystore.tpm import TpmKeyStore
from edge_gateway.provisioning.adoption import Adopter, tpm_registration_id
from edge_gateway.provisioning.errors import ProvisioningRefused
from edge_gateway.provisioning.group_key import GROUP_KEY
from edge_gateway.provisioning.identities import Identities, Identity
from edge_gateway.provisioning.leaf_table import leaves_of
from edge_gateway.provisioning.leaves import LeafProvisioner
from edge_gateway.provisioning.symmetric_keys import deriving, keep_key, read_key, signing_by
from edge_gateway.testbench.cloud.provisioning.enrolments import EnrolmentGroup, IndividualEnrolment, drawn_keys
from edge_gateway.testbench.cloud.provisioning.tpm_attestation import EndorsementKey
from tests.keystore.tpm.backend import BlockingTpm, why_not
from tests.provisioning.conftest import Site

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())


@pytest.fixture
async def tpm_store(tmp_path: Path) -> AsyncIterator[TpmKeyStore]:
    with BlockingTpm() as tpm:
        store = TpmKeyStore(tmp_path / "tpm-keys", tcti=tpm.tcti, srk="rsa")
        yield store
        store.close()


async def enrolled(site: Site, store: TpmKeyStore) -> str:
    endorsement_key = await asyncio.to_thread(store.endorsement_key)
    registration_id = tpm_registration_id(endorsement_key)
    site.dps.add_enrolment(IndividualEnrolment(registration_id, EndorsementKey.parse(endorsement_key), "plant-3"))
    return registration_id


async def test_attestation_from_end_to_end(site: Site, tpm_store: TpmKeyStore, identities: Identities) -> None:
    """Challenge, proof and the key for the hub, which never is outside the TPM; again, with another key."""
    registration_id = await enrolled(site, tpm_store)
    adopter = Adopter(tpm_store, identities, "gateway")
    for number in (1, 2):
        async with site.client() as client:
            identity = await adopter.by_tpm(client, registration_id, tpm_store)
        assert identity == Identity("", site.hub.host_name, "plant-3", "gateway", "dps-tpm")
        assert tpm_store.names() == [generation_name("gateway", each + 1) for each in range(number)]
        assert site.admits("plant-3", tpm_store, "gateway")


async def test_another_tpm_under_the_same_registration_id(
    site: Site, tpm_store: TpmKeyStore, identities: Identities, tmp_path: Path
) -> None:
    """Its endorsement key is another: it is refused, and told which would do."""
    registration_id = await enrolled(site, tpm_store)
    with BlockingTpm() as other_tpm:
        other = TpmKeyStore(tmp_path / "other-keys", tcti=other_tpm.tcti, srk="rsa")
        async with site.client() as client:
            with pytest.raises(ProvisioningRefused, match="knows no such enrolment"):
                await Adopter(other, identities, "gateway").by_tpm(client, registration_id, other)
        other.close()
    assert identities.own is None


async def test_who_claims_anothers_endorsement_key(
    site: Site, tpm_store: TpmKeyStore, identities: Identities, tmp_path: Path
) -> None:
    """He gets a challenge that his TPM cannot open."""
    registration_id = await enrolled(site, tpm_store)
    claimed = await asyncio.to_thread(tpm_store.endorsement_key)

    class Liar(TpmKeyStore):
        def endorsement_key(self) -> bytes:
            return claimed

    with BlockingTpm() as other_tpm:
        liar = Liar(tmp_path / "liar-keys", tcti=other_tpm.tcti, srk="rsa")
        async with site.client() as client:
            with pytest.raises(KeyStoreError):
                await Adopter(liar, identities, "gateway").by_tpm(client, registration_id, liar)
        assert liar.names() == []
        liar.close()
    assert site.dps.statistics.assigned == 0


async def test_a_groups_key_in_the_tpm_derives(site: Site, tpm_store: TpmKeyStore, identities: Identities) -> None:
    """Signing is the derivation: the group's key stays in the TPM, and sensors' keys come out of it one by one."""
    keys = drawn_keys()
    site.dps.add_group(EnrolmentGroup("sensors", keys))
    with read_key(keys.primary.encode(), where="test") as key:
        await asyncio.to_thread(keep_key, tpm_store, GROUP_KEY, key)
    derive = deriving(signing_by(tpm_store, GROUP_KEY))
    wanted = leaves_of(["a", "b", "c"], registration_id="{gateway}-{device}", gateway="plant-3")
    async with site.client() as client:
        outcome = await LeafProvisioner(tpm_store, identities, client=client, derive=derive).run(wanted)
    assert outcome.provisioned == 3
    assert site.admits("plant-3-b", tpm_store, "leaf.b")
