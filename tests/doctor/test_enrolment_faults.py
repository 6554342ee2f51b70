"""What a provisioning service says of a gateway; the service is a real one on this machine."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import pytest

from edge_gateway.doctor import Enrolment, Finding
from edge_gateway.keystore import Secret
from edge_gateway.keystore.generations import generation_name
from edge_gateway.testbench import IndividualEnrolment
from edge_gateway.testbench.cloud.identity import SymmetricKeys
from edge_gateway.testbench.cloud.provisioning.enrolments import EnrolmentGroup, drawn_keys
from tests.doctor.healthy_box import DEVICE, KEY, HealthyBox, only

ANOTHER_KEY = base64.b64encode(bytes(32)).decode()


@pytest.fixture
def enrolled(healthy: HealthyBox) -> HealthyBox:
    healthy.hub.dps.polls = 0
    healthy.hub.dps.add_enrolment(IndividualEnrolment(DEVICE, SymmetricKeys(KEY, ANOTHER_KEY)))
    return healthy


async def found(box: HealthyBox, **others: Any) -> list[Finding]:
    dps = box.hub.dps
    known: dict[str, Any] = {"id_scope": dps.id_scope, "registration_id": DEVICE, "host": box.hub.door.address} | others
    return await box.find_on("provisioning", enrolment=Enrolment(**known))


async def test_an_enrolled_gateway(enrolled: HealthyBox) -> None:
    """A gateway that the service knows has no findings."""
    assert await found(enrolled) == []
    assert enrolled.hub.dps.statistics.assigned == 1


async def test_nobody_is_asked_unless_it_is_asked_for(enrolled: HealthyBox) -> None:
    """Registering may move a device, so it is not done by itself."""
    assert await enrolled.find_on("provisioning") == []
    assert enrolled.hub.dps.statistics.assigned == 0


async def test_a_service_that_takes_its_time(enrolled: HealthyBox, monkeypatch: pytest.MonkeyPatch) -> None:
    """The outcome of a registration is waited for."""
    monkeypatch.setattr("edge_gateway.doctor.enrolment._POLL_S", 0.0)
    enrolled.hub.dps.polls = 2
    assert await found(enrolled) == []


async def test_a_wrong_scope(enrolled: HealthyBox) -> None:
    """An ID scope that the service does not know is told with where to find it."""
    only(await found(enrolled, id_scope="0ne0000FFFF"), "dps.scope-wrong", "0ne0000FFFF", "overview")


def registry_of(box: HealthyBox) -> Secret:
    return Secret(box.hub.dps.connection_string().encode())


async def test_a_refusal_without_a_reason(enrolled: HealthyBox) -> None:
    """The service says the same to a missing enrolment and a wrong key, so both are named."""
    only(await found(enrolled, registration_id="gw-18"), "dps.not-accepted", "gw-18", "--enrolments")


async def test_no_enrolment(enrolled: HealthyBox) -> None:
    """Who may read enrolments hears that there is none."""
    findings = await found(enrolled, registration_id="gw-18", registry=registry_of(enrolled))
    only(findings, "dps.no-enrolment", "gw-18", "Add one")


async def test_a_group_whose_key_is_another(enrolled: HealthyBox) -> None:
    """A device of a group has no enrolment of its own: what is told holds for it, too, and how to bring its key."""
    enrolled.hub.dps.add_group(EnrolmentGroup("plant", drawn_keys()))
    finding = only(
        await found(enrolled, registration_id="gw-18", registry=registry_of(enrolled)), "dps.no-enrolment", "of a group"
    )
    assert f"provision dps --method group --id-scope {enrolled.hub.dps.id_scope}" in finding.fix


async def test_a_key_that_was_rotated_at_the_hub(enrolled: HealthyBox) -> None:
    """The enrolment's own is an older generation then, by which the gateway registers: all is well."""
    enrolled.put_key(bytes(range(1, 33)), generation_name("gateway", 2))
    assert await found(enrolled) == []


async def test_enrolments_where_nobody_listens(enrolled: HealthyBox) -> None:
    """A connection string that leads nowhere is told as that."""
    key = base64.b64encode(bytes(32)).decode()
    registry = Secret(f"HostName=127.0.0.1:1;SharedAccessKeyName=read;SharedAccessKey={key}".encode())
    only(await found(enrolled, registration_id="gw-18", registry=registry), "dps.unreachable", "firewall")


async def test_another_key(enrolled: HealthyBox) -> None:
    """Who may read enrolments hears that the key is neither of the enrolment's two."""
    enrolled.put_key(bytes(range(1, 33)), "other")
    findings = await found(enrolled, key="other", registry=registry_of(enrolled))
    only(findings, "dps.key-wrong", "keys import other", DEVICE)


async def test_enrolments_that_may_not_be_read(enrolled: HealthyBox) -> None:
    """A connection string that opens nothing is told as that."""
    registry = Secret(enrolled.hub.hub.service_connection_string().encode())
    only(await found(enrolled, registration_id="gw-18", registry=registry), "dps.registry-closed", "enrollment read")


async def test_a_disabled_enrolment(healthy: HealthyBox) -> None:
    """A disabled enrolment is told."""
    healthy.hub.dps.add_enrolment(IndividualEnrolment(DEVICE, SymmetricKeys(KEY, ANOTHER_KEY), enabled=False))
    only(await found(healthy), "dps.disabled", "Enable it")


async def test_no_hub_for_it(healthy: HealthyBox) -> None:
    """An enrolment for a hub that is not linked finds none."""
    healthy.hub.dps.polls = 0
    healthy.hub.dps.add_enrolment(
        IndividualEnrolment(DEVICE, SymmetricKeys(KEY, ANOTHER_KEY), hubs=("gone.azure-devices.net",))
    )
    only(await found(healthy), "dps.not-assigned", "Link a hub")


async def test_a_service_that_is_asked_too_much(enrolled: HealthyBox) -> None:
    """Throttling is told as that."""
    enrolled.hub.dps.throttle(1)
    only(await found(enrolled), "dps.throttled", "minute")


async def test_a_service_that_fails(enrolled: HealthyBox) -> None:
    """A service with a trouble of its own is told with what it said."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    address = enrolled.hub.door.address
    context = enrolled.hub.authority.server_context([address])
    async with await asyncio.start_server(answer, address, 0, ssl=context) as server:
        host = f"{address}:{server.sockets[0].getsockname()[1]}"
        only(await found(enrolled, host=host), "dps.refused", "HTTP 500")


async def test_a_service_that_is_not_there(enrolled: HealthyBox) -> None:
    """A host where nothing listens is told with what to look at."""
    only(await found(enrolled, host="127.0.0.1:1"), "dps.unreachable", "firewall")
