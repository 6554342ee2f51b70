"""Sensors in numbers come by their identities: all at once, again, after a cut, and never two of the same."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from edge_gateway.errors import ConfigError, KeyStoreUnavailable
from edge_gateway.keystore import Secret
from edge_gateway.keystore.generations import newest_generation
from edge_gateway.keystore.software import SoftwareKeyStore
from edge_gateway.provisioning.dps import DpsClient, Proof
from edge_gateway.provisioning.dps_answers import Assigned
from edge_gateway.provisioning.errors import ProvisioningRefused, ProvisioningUnavailable
from edge_gateway.provisioning.identities import Identities, Identity
from edge_gateway.provisioning.leaf_table import WantedLeaf, leaves_of
from edge_gateway.provisioning.leaves import AT_A_TIME, LeafProvisioner, Outcome
from edge_gateway.provisioning.symmetric_keys import (
    Derive,
    deriving,
    holds,
    keep_key,
    read_key,
    signing_by,
    signing_with,
)
from edge_gateway.testbench.cloud.identity import SymmetricKeys
from edge_gateway.testbench.cloud.provisioning.enrolments import EnrolmentGroup, IndividualEnrolment, drawn_keys
from tests.provisioning.conftest import Site

GROUP = EnrolmentGroup("sensors", drawn_keys())
HUB = "hub.example"


def group_key() -> Secret:
    assert isinstance(GROUP.attestation, SymmetricKeys)
    return read_key(GROUP.attestation.primary.encode(), where="group")


@pytest.fixture
def derive() -> Derive:
    return deriving(signing_with(group_key()))


def sensors(count: int) -> list[WantedLeaf]:
    return leaves_of(
        [f"Sensor-{number}" for number in range(count)], registration_id="{gateway}-{device}", gateway="Plant-3"
    )


def with_key(device: str, device_id: str, byte: int, registration_id: str = "") -> WantedLeaf:
    return WantedLeaf(device, device_id, registration_id, Secret(bytes([byte]) * 32))


async def from_table(store: SoftwareKeyStore, identities: Identities, *leaves: WantedLeaf) -> Outcome:
    return await LeafProvisioner(store, identities, host_name=HUB).run(leaves)


# By the provisioning service


async def test_a_thousand_sensors(site: Site, store: SoftwareKeyStore, identities: Identities, derive: Derive) -> None:
    """All get the identity that follows from their name, and the hub takes their tokens; again, nothing is to do."""
    site.dps.add_group(GROUP)
    progress: list[tuple[int, int]] = []
    async with site.client() as client:
        outcome = await LeafProvisioner(
            store, identities, client=client, derive=derive, on_progress=lambda done, of: progress.append((done, of))
        ).run(sensors(1000))
        again = await LeafProvisioner(store, identities, client=client, derive=derive).run(sensors(1000))
    assert (outcome.provisioned, outcome.kept, outcome.refused) == (1000, 0, {})
    assert (again.provisioned, again.kept) == (0, 1000)
    assert len(identities.leaves) == len(store.names()) == site.dps.statistics.assigned == 1000
    assert progress == [(done, 1000) for done in range(1, 1001)]
    for device in ("Sensor-0", "Sensor-999"):
        leaf = identities.leaves[device]
        device_id = f"plant-3-{device.lower()}"
        assert leaf == Identity(device, site.hub.host_name, device_id, f"leaf.{device}", "dps-group")
        assert site.admits(leaf.device_id, store, leaf.key)


async def test_a_key_in_the_store_derives(site: Site, store: SoftwareKeyStore, identities: Identities) -> None:
    """A group's key that is kept derives by signing, as one in a TPM does."""
    site.dps.add_group(GROUP)
    keep_key(store, "dps-group", group_key())
    async with site.client() as client:
        derive = deriving(signing_by(store, "dps-group"))
        outcome = await LeafProvisioner(store, identities, client=client, derive=derive).run(sensors(3))
    assert outcome.provisioned == 3
    assert site.admits("plant-3-sensor-2", store, "leaf.Sensor-2")


async def test_no_more_than_eight_at_a_time(
    site: Site, store: SoftwareKeyStore, identities: Identities, derive: Derive
) -> None:
    """However many there are, the service has at most eight registrations under way."""
    site.dps.add_group(GROUP)
    under_way = most = 0

    class Counting(DpsClient):
        async def register(self, registration_id: str, proof: Proof) -> Assigned:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            try:
                return await super().register(registration_id, proof)
            finally:
                under_way -= 1

    client = site.client()
    client.__class__ = Counting
    async with client:
        outcome = await LeafProvisioner(store, identities, client=client, derive=derive).run(sensors(60))
    assert (outcome.provisioned, most) == (60, AT_A_TIME)


async def test_a_run_that_is_cut_short_goes_on(
    site: Site, store: SoftwareKeyStore, identities: Identities, derive: Derive
) -> None:
    """What was done before the cut is kept, and the same command again does the rest only."""
    site.dps.add_group(GROUP)

    async def run(stop_after: int) -> Outcome:
        task = asyncio.current_task()
        assert task is not None

        def on_progress(done: int, _: int) -> None:
            if done == stop_after:
                task.cancel()

        async with site.client() as client:
            provisioner = LeafProvisioner(
                store, Identities(identities._path), client=client, derive=derive, on_progress=on_progress
            )
            return await provisioner.run(sensors(120))

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(run(70))
    kept = len(Identities(identities._path).leaves)
    assert 70 <= kept < 120
    outcome = await asyncio.create_task(run(-1))
    assert (outcome.kept, outcome.provisioned) == (kept, 120 - kept)


async def test_a_key_that_is_gone_is_brought_again(
    site: Site, store: SoftwareKeyStore, identities: Identities, derive: Derive
) -> None:
    """An identity whose key is not in the store is not whole, and so not passed over."""
    site.dps.add_group(GROUP)
    async with site.client() as client:
        await LeafProvisioner(store, identities, client=client, derive=derive).run(sensors(3))
        store.remove("leaf.Sensor-1")
        outcome = await LeafProvisioner(store, identities, client=client, derive=derive).run(sensors(3))
    assert (outcome.kept, outcome.provisioned) == (2, 1)
    assert site.admits("plant-3-sensor-1", store, "leaf.Sensor-1")


async def test_a_refused_sensor_does_not_hold_up_the_others(
    site: Site, store: SoftwareKeyStore, identities: Identities, derive: Derive
) -> None:
    """A disabled one is told with the cause, and leaves no key; all others are there."""
    site.dps.add_group(GROUP)
    site.dps.add_enrolment(IndividualEnrolment("plant-3-sensor-4", enabled=False, attestation=drawn_keys()))
    async with site.client() as client:
        outcome = await LeafProvisioner(store, identities, client=client, derive=derive).run(sensors(20))
    assert outcome.provisioned == 19
    assert list(outcome.refused) == ["Sensor-4"]
    assert "leaf.Sensor-4" not in store.names()


async def test_a_wrong_group_key_ends_the_run(site: Site, store: SoftwareKeyStore, identities: Identities) -> None:
    """When the first are all refused, the others are not tried; no key is left, and good ones are as they were."""
    site.dps.add_group(GROUP)
    good, wrong = deriving(signing_with(group_key())), deriving(signing_with(Secret(bytes(32))))
    async with site.client() as client:
        await LeafProvisioner(store, identities, client=client, derive=good).run(sensors(1))
        with pytest.raises(ProvisioningRefused, match="the first 8 are all refused; of the last: the service knows no"):
            await LeafProvisioner(store, identities, client=client, derive=wrong, again=True).run(sensors(500))
    assert site.dps.statistics.denied < 25
    assert store.names() == ["leaf.Sensor-0"]
    assert site.admits("plant-3-sensor-0", store, "leaf.Sensor-0")


async def test_a_service_that_goes_away_ends_the_run(
    site: Site, store: SoftwareKeyStore, identities: Identities, derive: Derive
) -> None:
    """What was done until then is kept; the error says that trying again may help."""
    site.dps.add_group(GROUP)

    def on_progress(done: int, _: int) -> None:
        if done == 20:
            site.dps.throttle(1_000_000)

    async with site.client(patience_s=1.5) as client:
        with pytest.raises(ProvisioningUnavailable, match="was not done within"):
            await LeafProvisioner(store, identities, client=client, derive=derive, on_progress=on_progress).run(
                sensors(60)
            )
    assert 20 <= len(Identities(identities._path).leaves) < 60


async def test_a_key_store_that_goes_away_ends_the_run(site: Site, tmp_path: Path, identities: Identities) -> None:
    """A TPM that does not answer is told as such, and not as the last sensor's fault."""

    class Leaving(SoftwareKeyStore):
        def put(self, name: str, key: Secret) -> None:
            if len(self.names()) >= 10:
                raise KeyStoreUnavailable("the TPM does not answer", where="tpm")
            super().put(name, key)

    site.dps.add_group(GROUP)
    async with site.client() as client:
        derive = deriving(signing_with(group_key()))
        with pytest.raises(KeyStoreUnavailable):
            await LeafProvisioner(Leaving(tmp_path / "keys"), identities, client=client, derive=derive).run(sensors(30))
    assert 1 <= len(identities.leaves) < 20


async def test_enrolments_that_give_two_sensors_one_id(
    site: Site, store: SoftwareKeyStore, identities: Identities
) -> None:
    """The second is refused when the service says it: it gets no key and no identity here."""
    keys = [drawn_keys() for _ in range(2)]
    wanted = []
    for number, each in enumerate(keys):
        site.dps.add_enrolment(IndividualEnrolment(f"r-{number}", each, device_id="the-same"))
        wanted.append(WantedLeaf(f"s-{number}", "", f"r-{number}", read_key(each.primary.encode(), where="t")))
    async with site.client() as client:
        outcome = await LeafProvisioner(store, identities, client=client).run(wanted)
    assert (outcome.provisioned, len(outcome.refused)) == (1, 1)
    assert len(identities.leaves) == len(store.names()) == 1


async def test_an_id_that_was_not_expected(site: Site, store: SoftwareKeyStore, identities: Identities) -> None:
    """A table that says which id a sensor is to have is held to it."""
    keys = drawn_keys()
    site.dps.add_enrolment(IndividualEnrolment("r-1", keys, device_id="pump"))
    async with site.client() as client:
        wanted = WantedLeaf("s-1", "valve", "r-1", read_key(keys.primary.encode(), where="t"))
        outcome = await LeafProvisioner(store, identities, client=client).run([wanted])
    assert "the service says that it is pump" in outcome.refused["s-1"].what
    assert store.names() == []


async def test_an_id_of_the_enrolments(site: Site, store: SoftwareKeyStore, identities: Identities) -> None:
    """The service may know a sensor by another id than its registration id; that is noted, and passed over again."""
    keys = drawn_keys()
    site.dps.add_enrolment(IndividualEnrolment("r-1", keys, device_id="pump"))
    outcomes = []
    async with site.client() as client:
        for _ in range(2):
            wanted = WantedLeaf("s-1", "", "r-1", read_key(keys.primary.encode(), where="t"))
            outcomes.append(await LeafProvisioner(store, identities, client=client).run([wanted]))
    assert [(each.provisioned, each.kept) for each in outcomes] == [(1, 0), (0, 1)]
    assert identities.leaves["s-1"].device_id == "pump"


async def test_another_way_to_the_hub(
    site: Site, store: SoftwareKeyStore, identities: Identities, derive: Derive
) -> None:
    """An IoT Edge device in between is noted when it is named, and stays when it is not."""
    site.dps.add_group(GROUP)
    async with site.client() as client:
        for parent in ("", "edge.local", ""):
            await LeafProvisioner(store, identities, client=client, derive=derive, gateway_host_name=parent).run(
                sensors(1)
            )
    assert identities.leaves["Sensor-0"].gateway_host_name == "edge.local"


async def test_a_key_under_way_is_whole(tmp_path: Path, identities: Identities) -> None:
    """Who cancels a run while a key is being written finds that key in the store, and not a wiped one."""
    begun, go_on = threading.Event(), threading.Event()

    class Slow(SoftwareKeyStore):
        def put(self, name: str, key: Secret) -> None:
            begun.set()
            go_on.wait(10)
            super().put(name, key)

    store = Slow(tmp_path / "keys")
    run = asyncio.create_task(from_table(store, identities, with_key("boiler", "plant-3-boiler", 7)))
    await asyncio.to_thread(begun.wait, 10)
    run.cancel()
    asyncio.get_running_loop().call_later(0.05, go_on.set)
    with pytest.raises(asyncio.CancelledError):
        await run
    assert holds(store, "leaf.boiler", Secret(b"\7" * 32))


# By a table with keys


async def test_keys_of_a_table(store: SoftwareKeyStore, identities: Identities) -> None:
    """They are in the store under the sensors' names, and what was given is wiped; again, nothing is to be done."""
    leaf = with_key("boiler", "plant-3-boiler", 1)
    outcome = await from_table(store, identities, leaf, with_key("attic", "plant-3-attic", 2))
    assert outcome.provisioned == 2
    assert identities.leaves["boiler"] == Identity("boiler", HUB, "plant-3-boiler", "leaf.boiler", "csv")
    assert holds(store, "leaf.boiler", Secret(b"\1" * 32))
    assert leaf.key is not None
    assert leaf.key.reveal() == bytes(32)
    assert (await from_table(store, identities, with_key("boiler", "plant-3-boiler", 1))).kept == 1


async def test_a_key_that_was_changed(store: SoftwareKeyStore, identities: Identities) -> None:
    """A sensor with its identity and another key is not passed over; the old key stays, and again nothing is to do."""
    await from_table(store, identities, with_key("boiler", "plant-3-boiler", 1))
    assert (await from_table(store, identities, with_key("boiler", "plant-3-boiler", 3))).provisioned == 1
    assert holds(store, newest_generation(store, "leaf.boiler"), Secret(b"\3" * 32))
    assert holds(store, "leaf.boiler", Secret(b"\1" * 32))
    assert (await from_table(store, identities, with_key("boiler", "plant-3-boiler", 3))).kept == 1
    assert len(store.names()) == 2


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ([with_key("a", "same", 1), with_key("b", "same", 2)], "b and a have the same id at the hub"),
        ([with_key("a", "boiler-id", 1)], "the sensor boiler is boiler-id at hub.example already"),
        ([with_key("a", "Plant-3", 1)], "the gateway is plant-3 at hub.example already"),
        ([WantedLeaf("a", registration_id="plant-3")], "the gateway is plant-3 at hub.example already"),
        ([WantedLeaf("a", registration_id="r")], "Give --id-scope"),
        ([WantedLeaf("a", "r")], "has no key"),
    ],
)
async def test_what_could_not_end_well_is_not_begun(
    store: SoftwareKeyStore, identities: Identities, wanted: list[WantedLeaf], told: str
) -> None:
    """Doubles and what is missing are found before anything is done, in whatever case ids are written."""
    identities.put(
        Identity("", HUB, "plant-3", "gateway", "connection-string"),
        Identity("boiler", HUB, "boiler-id", "leaf.boiler", "csv"),
    )
    with pytest.raises(ConfigError, match=told):
        await from_table(store, identities, with_key("first", "first", 9), *wanted)
    assert store.names() == []
    assert "first" not in Identities(identities._path).leaves


async def test_a_table_without_a_hub(store: SoftwareKeyStore, identities: Identities) -> None:
    """Somebody has to say at which hub its devices are."""
    with pytest.raises(ConfigError, match="nothing says at which hub it is"):
        await LeafProvisioner(store, identities).run([with_key("a", "b", 1)])
