"""A running gateway rotates what it can by itself, on demand and when it is due, and says what it cannot."""

from __future__ import annotations

import asyncio
import random
import ssl
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from edge_gateway.assembly.rotation import make_keyring, make_reregistration, make_rotation
from edge_gateway.clock import NS_PER_S, SystemClock
from edge_gateway.config.model import GatewayConfig
from edge_gateway.emergency import RevocableKeyStore
from edge_gateway.errors import KeyStoreUnavailable
from edge_gateway.keystore import Secret
from edge_gateway.keystore.generations import generation_name
from edge_gateway.keystore.software import SoftwareKeyStore
from edge_gateway.provisioning.adoption import Adopter
from edge_gateway.provisioning.identities import Identities, Identity
from edge_gateway.provisioning.reregistration import Reregistration
from edge_gateway.provisioning.rotation import KeyRotation, OwnRotation
from edge_gateway.testbench.cloud.provisioning.enrolments import IndividualEnrolment
from edge_gateway.testbench.cloud.provisioning.tpm_attestation import EndorsementKey
from edge_gateway.testbench.virtual_time import VirtualClock
from tests.log_events import log_events
from tests.provisioning.conftest import Site
from tests.provisioning.test_adoption import AttestingStore
from tests.testbench.cloud.test_dps_challenge import SoftwareTpm

DAY_S = 86_400.0
HUB = "hub.example"
NAMED = {"kind": "iot-hub", "host_name": HUB, "device_id": "gw-18"}
NAMED_BY_CERTIFICATE = {**NAMED, "certificate_file": "gateway.pem", "private_key_file": "gateway.key"}
BROKER = {"kind": "mqtt", "host": "broker.example"}


class Ages:
    """Says how old keys are."""

    def __init__(self) -> None:
        self.days: dict[str, float] = {}

    def __call__(self, stored: str) -> float | None:
        days = self.days.get(stored)
        return None if days is None else days * DAY_S


class Made:
    """Something that this gateway makes by itself; it can fail."""

    def __init__(self, key: str, days: float | None) -> None:
        self.days = days
        self.count = 0
        self.fault = ""
        self.own = OwnRotation(key, self.rotate, lambda: None if self.days is None else self.days * DAY_S)

    async def rotate(self) -> None:
        if self.fault:
            raise KeyStoreUnavailable(self.fault, where="tpm", remedy="Wait")
        self.count += 1
        self.days = 0.0


@pytest.fixture
def ages() -> Ages:
    return Ages()


@pytest.fixture
def make(store: SoftwareKeyStore, identities: Identities, ages: Ages) -> Callable[..., KeyRotation]:
    """A rotation after 90 days. The gateway's key came by a connection string, those of two sensors from a table."""
    for device, method in (("", "connection-string"), ("a", "csv"), ("b", "csv")):
        key = f"leaf.{device}" if device else "gateway"
        identities.put(Identity(device, HUB, f"id-{device}", key, method))  # type: ignore[arg-type]  # one of its words
        store.put(key, Secret(bytes(32)))
        ages.days[key] = 100.0

    def made(*own: Made, after_s: float | None = 90 * DAY_S) -> KeyRotation:
        keys = [each.key for each in identities]
        return KeyRotation(store, lambda: keys, ages, lambda: [each.own for each in own], rotate_after_s=after_s)

    return made


async def test_what_is_due_is_rotated(make: Callable[..., KeyRotation]) -> None:
    """What is old enough and can be, once; what is younger, or of no known age, is left for later."""
    old, young, unknown = Made("gateway", 91), Made("buffer", 89), Made("other", None)
    rotation = make(old, young, unknown)
    for _ in range(2):
        await rotation.rotate_due(90 * DAY_S)
    assert (old.count, young.count, unknown.count) == (1, 0, 0)


async def test_what_somebody_has_to_bring_is_told(
    make: Callable[..., KeyRotation], store: SoftwareKeyStore, ages: Ages
) -> None:
    """In status, and once in the log, until a newer generation is there, whose age counts then."""
    rotation = make(Made("gateway", 1))
    with log_events() as events:
        await rotation.rotate_due(90 * DAY_S)
        await rotation.rotate_due(90 * DAY_S)
    assert (rotation.overdue, rotation.overdue_count) == (["leaf.a", "leaf.b"], 2)
    assert [each["event"] for each in events] == ["key.overdue"]
    assert rotation.status()["overdue"] == ["leaf.a", "leaf.b"]
    assert rotation.fault == (
        "the key leaf.a and 1 more is older than it should be: bring the next one by `edge-gateway keys rotate`"
    )
    store.put(generation_name("leaf.a", 2), Secret(bytes(32)))
    ages.days[generation_name("leaf.a", 2)] = 0.0
    await rotation.rotate_due(90 * DAY_S)
    assert rotation.overdue == ["leaf.b"]
    assert rotation.fault.startswith("the key leaf.b is older")


async def test_what_was_brought_is_seen_soon(
    make: Callable[..., KeyRotation], store: SoftwareKeyStore, ages: Ages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who brings the key that is overdue need not wait for the next hour to see that all is well."""
    monkeypatch.setattr("edge_gateway.provisioning.rotation._LOOKS_FOR_BROUGHT", 360_000)
    rotation = make(Made("gateway", 1))
    running = asyncio.create_task(rotation.run())
    await until(lambda: rotation.overdue == ["leaf.a", "leaf.b"])
    for name in ("leaf.a", "leaf.b"):
        ages.days[generation_name(name, 2)] = 0.0
        store.put(generation_name(name, 2), Secret(bytes(32)))
    await until(lambda: rotation.overdue_count == 0)
    assert (rotation.overdue, rotation.fault) == ([], "")
    running.cancel()


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not is_so():  # noqa: ASYNC110  # what is waited for has no event
            await asyncio.sleep(0.01)


async def test_all_at_once_by_command(make: Callable[..., KeyRotation]) -> None:
    """Whatever its age, what can be rotated is; the others are named."""
    gateway, buffer = Made("gateway", 1), Made("buffer", 1)
    rotated = await make(gateway, buffer).rotate_now()
    assert rotated.done == ["gateway", "buffer"]
    assert (rotated.left, rotated.left_count, rotated.failed) == (["leaf.a", "leaf.b"], 2, {})


async def test_one_by_command(make: Callable[..., KeyRotation]) -> None:
    """Only that one; of one that somebody has to bring, it is said that he has to; of none, nothing."""
    gateway, buffer = Made("gateway", 1), Made("buffer", 1)
    rotation = make(gateway, buffer)
    assert (await rotation.rotate_now("buffer")).done == ["buffer"]
    assert (gateway.count, buffer.count) == (0, 1)
    assert (await rotation.rotate_now("leaf.b")).left == ["leaf.b"]
    nothing = await rotation.rotate_now("leaf.c")
    assert (nothing.done, nothing.failed, nothing.left) == ([], {}, [])


async def test_one_that_fails_holds_up_nothing(make: Callable[..., KeyRotation]) -> None:
    """The others are rotated, the reason is told, and the next time it is tried again."""
    gateway, buffer = Made("gateway", 100), Made("buffer", 100)
    gateway.fault = "does not answer"
    rotation = make(gateway, buffer)
    rotated = await rotation.rotate_due(90 * DAY_S)
    assert (rotated.done, rotated.failed) == (["buffer"], {"gateway": "tpm: does not answer. Wait"})
    gateway.fault = ""
    assert (await rotation.rotate_due(90 * DAY_S)).done == ["gateway"]


async def test_two_at_once_are_one_after_the_other(make: Callable[..., KeyRotation]) -> None:
    """A command while the schedule is at work waits for it, so that no two keys are asked for at the same time."""
    under_way = most = 0

    async def slow() -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.01)
        under_way -= 1

    made = Made("gateway", 100)
    made.own = OwnRotation("gateway", slow, lambda: None)
    rotation = make(made)
    await asyncio.gather(rotation.rotate_now(), rotation.rotate_now())
    assert most == 1


async def test_without_a_schedule_nothing_is_done(make: Callable[..., KeyRotation]) -> None:
    """Then only the command rotates."""
    made = Made("gateway", 1000)
    await make(made, after_s=None).run()
    assert made.count == 0


@pytest.mark.parametrize(("uplink", "told"), [(NAMED, ["gateway"]), (NAMED_BY_CERTIFICATE, []), (BROKER, [])])
async def test_an_identity_of_the_configuration(
    store: SoftwareKeyStore, identities: Identities, tmp_path: Path, uplink: dict[str, str], told: list[str]
) -> None:
    """Its key, if it goes by one, is told of when it is overdue; one that was provisioned earlier is nobody's any more.

    So that is not registered again: its new key would come before the one of the configuration.
    """
    registration = "https://dps.example/0ne1/registrations/gw-17"
    identities.put(Identity("", HUB, "gw-17", "gateway", "dps-tpm", registration=registration))
    store.put("gateway", Secret(bytes(32)))
    link = {"name": "a", "port": {"path": "/dev/null"}, "profile": "reference-climate"}
    gateway = {"name": "plant-3", "data_directory": str(tmp_path)}
    config = GatewayConfig.model_validate({"gateway": gateway, "links": [link], "uplink": uplink})
    keys = RevocableKeyStore(store)
    clock = VirtualClock(asyncio.get_running_loop(), time.time_ns() + round(100 * DAY_S * NS_PER_S))
    again = make_reregistration(config, store, keys, clock, random.Random(1))
    buffer = Made("buffer", 1)

    async def rotate_buffer_key() -> int:
        await buffer.rotate()
        return buffer.count

    rotation = make_rotation(config, keys, make_keyring(config, keys, clock), rotate_buffer_key, again, clock)
    assert (await rotation.rotate_due(90 * DAY_S)).failed == {}
    assert rotation.overdue == told
    assert (await rotation.rotate_now()).done == ["buffer"]
    assert not await again.register_if_possible()


@pytest.fixture(scope="module")
def tpm() -> SoftwareTpm:
    return SoftwareTpm()


async def test_a_tpm_registers_again(site: Site, tmp_path_factory: pytest.TempPathFactory, tpm: SoftwareTpm) -> None:
    """The way a gateway in the field does it: a new key from the service, which the hub takes, beside the old one."""
    directory = tmp_path_factory.mktemp("tpm")
    store = AttestingStore(directory / "keys", tpm)
    identities = Identities(directory / "identities.json")
    site.dps.add_enrolment(
        IndividualEnrolment(tpm.registration_id, EndorsementKey.parse(tpm.endorsement_key), "plant-3")
    )
    adopter = Adopter(store, identities, "gateway")

    async def register() -> None:
        async with site.client() as client:
            await adopter.by_tpm(client, tpm.registration_id, store)

    await register()
    again: Callable[[], Awaitable[object]] = register
    own = OwnRotation("gateway", again, lambda: None)
    rotation = KeyRotation(store, lambda: ["gateway"], lambda _: None, lambda: [own], rotate_after_s=None)
    assert (await rotation.rotate_now()).done == ["gateway"]
    assert store.names() == ["gateway", generation_name("gateway", 2)]
    assert site.admits("plant-3", store, "gateway")


async def test_two_reasons_to_register_at_once(
    site: Site, tmp_path: Path, identities: Identities, tpm: SoftwareTpm
) -> None:
    """The hub refuses the gateway while its key is rotated: neither spoils the other's challenge."""
    store = AttestingStore(tmp_path / "keys", tpm)
    site.dps.add_enrolment(
        IndividualEnrolment(tpm.registration_id, EndorsementKey.parse(tpm.endorsement_key), "plant-3")
    )
    async with site.client() as client:
        adopter = Adopter(store, identities, "gateway", ca_file=site.ca_file)
        await adopter.by_tpm(client, tpm.registration_id, store)
    again = Reregistration(
        store, tmp_path / "identities.json", clock=SystemClock(), rng=random.Random(1), certified_tls=no_certificate
    )
    await asyncio.gather(again.register(), again.register())
    assert store.names() == [generation_name("gateway", 2), generation_name("gateway", 3)]
    assert site.admits("plant-3", store, "gateway")


def no_certificate(_ca_file: Path | None, _certificate_file: Path, _key: str) -> ssl.SSLContext:
    """For a gateway that has none."""
    raise AssertionError("a TPM proves this one")
