"""mosquitto, started for a test."""

from __future__ import annotations

import asyncio
import ssl

import pytest

from edge_gateway.errors import BenchError
from edge_gateway.testbench import LocalAuthority, broker
from edge_gateway.testbench.broker import MosquittoBroker, find_mosquitto
from edge_gateway.testbench.cloud.mqtt.packets import Connack, Connect, PacketReader

needs_mosquitto = pytest.mark.skipif(
    find_mosquitto() is None, reason="mosquitto is not installed; on Debian and Ubuntu: apt-get install mosquitto"
)


async def connect(broker: MosquittoBroker, username: str | None = None, password: bytes | None = None) -> int:
    """Connect as a client would, and return the broker's return code."""
    tls = ssl.create_default_context(cafile=broker.ca_file)
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(broker.address, broker.port, ssl=tls)
        writer.write(Connect("client", True, 0, username, password).encode())
        (answer,) = PacketReader().feed(await reader.read(100))
        writer.transport.abort()
    assert isinstance(answer, Connack)
    return answer.return_code


@needs_mosquitto
async def test_it_serves_whoever_trusts_it(authority: LocalAuthority) -> None:
    """Without users everybody is let in, over TLS with the authority's certificate; it says what it sees."""
    async with MosquittoBroker(authority=authority) as running:
        assert await connect(running) == 0
        await asyncio.wait_for(running.logged(" as client "), 10)


@needs_mosquitto
@pytest.mark.parametrize(
    ("username", "password", "code"),
    [("a", b"secret a", 0), ("b", b"secret b", 0), ("a", b"secret b", 5), ("c", b"secret a", 5), (None, None, 5)],
)
async def test_users_have_passwords(
    authority: LocalAuthority, username: str | None, password: bytes | None, code: int
) -> None:
    """With users only they are let in, each by the own password."""
    async with MosquittoBroker(authority=authority, users={"a": "secret a", "b": "secret b"}) as running:
        assert await connect(running, username, password) == code


@needs_mosquitto
async def test_several_run_side_by_side_and_leave_nothing(authority: LocalAuthority) -> None:
    """Each has a port of its own; afterwards neither port nor files are there."""
    async with MosquittoBroker(authority=authority) as one, MosquittoBroker(authority=authority) as two:
        assert one.port != two.port
        assert (await connect(one), await connect(two)) == (0, 0)
    assert not one.ca_file.exists()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(one.address, one.port)


@needs_mosquitto
async def test_an_address_it_cannot_have_is_told(authority: LocalAuthority) -> None:
    """The error says what mosquitto said."""
    with pytest.raises((BenchError, OSError)):
        async with MosquittoBroker(authority=authority, address="192.0.2.1"):
            pass


async def test_without_mosquitto_the_package_is_named(
    authority: LocalAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it is not installed, the error says how to get it."""
    monkeypatch.setattr(broker, "find_mosquitto", lambda: None)
    with pytest.raises(BenchError, match=r"mosquitto is not installed. On Debian and Ubuntu: apt-get"):
        async with MosquittoBroker(authority=authority):
            pass
