"""Arbitrary bytes on every port of the local cloud end in a clean close: in bounded memory, and without a traceback.

The cloud runs in a thread of its own, and the client is a plain socket that says what hypothesis thinks of. What the
services answer is not looked at; that they go on serving is.
"""

from __future__ import annotations

import asyncio
import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_gateway.testbench import LocalCloud, free_loopback_address
from edge_gateway.testbench.cloud.mqtt.packets import Connect
from edge_gateway.testbench.listener import may_listen

TIME_LIMIT_S = 30.0
MAX_GROWTH_KIB = 32 * 1024
PORTS = ("mqtt", "https", "amqp")


class Cloud:
    """A local cloud in a thread, with what went wrong in it."""

    def __init__(self) -> None:
        self.faults: list[str] = []
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        assert self._started.wait(TIME_LIMIT_S)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(lambda _, context: self.faults.append(str(context)))
        self._stop = asyncio.Event()
        https_port = 443 if may_listen(443) else 0
        address = free_loopback_address(random.Random())
        async with LocalCloud(address=address, mqtt_port=0, https_port=https_port, amqp_port=0) as self.cloud:
            self.cloud.hub.add_device("sensor-1")
            self.token = self.cloud.hub.sas_token("sensor-1")
            self._tls = self.cloud.authority.client_context()
            self._started.set()
            await self._stop.wait()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(TIME_LIMIT_S)

    def connect(self, spoken: str, *, tls: bool) -> socket.socket:
        door = self.cloud.door
        plain = socket.create_connection((door.address, door.ports()[spoken]), TIME_LIMIT_S)
        return self._tls.wrap_socket(plain, server_hostname=door.address) if tls else plain

    def beginning(self, spoken: str) -> bytes:
        """What a client that is in order says first."""
        host = self.cloud.hub.host_name
        if spoken == "mqtt":
            username = f"{host}/sensor-1/?api-version=2021-04-12"
            return Connect("sensor-1", username=username, password=self.token.encode()).encode()
        if spoken == "amqp":
            return b"AMQP\x03\x01\x00\x00"
        return f"POST /devices/sensor-1/messages/events HTTP/1.1\r\nHost: {host}\r\n".encode()

    def clients(self) -> int:
        return len(self.cloud.door._connections) + len(self.cloud.amqp._connections)

    def serves(self) -> bool:
        """Whether a device can still connect."""
        with self.connect("mqtt", tls=True) as client:
            client.sendall(self.beginning("mqtt"))
            return client.recv(4)[:1] == b"\x20"


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    served = Cloud()

    def note(_: Any, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        if method in ("error", "critical", "exception"):
            served.faults.append(str(event))
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(processors=[note], cache_logger_on_first_use=False)
    yield served
    served.stop()
    structlog.configure(**before)


def resident_kib() -> int:
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


def say(cloud: Cloud, spoken: str, pieces: list[bytes], *, tls: bool) -> None:
    """Say something, hang up the sending half, and read until the service has closed the connection."""
    with suppress(OSError), cloud.connect(spoken, tls=tls) as client:
        for piece in pieces:
            client.sendall(piece)
        # Inside TLS there is no half to hang up: what waits for more is left, what is wrong is closed by the service.
        client.settimeout(0.02 if tls else TIME_LIMIT_S)
        if not tls:
            client.shutdown(socket.SHUT_WR)
        while client.recv(65_536):
            pass


def judge(cloud: Cloud) -> None:
    until_s = time.monotonic() + TIME_LIMIT_S
    while cloud.clients() and time.monotonic() < until_s:
        time.sleep(0.001)
    assert cloud.clients() == 0
    assert cloud.faults == []


@pytest.mark.parametrize("spoken", PORTS)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=2000))
def test_bytes_that_are_no_tls(cloud: Cloud, spoken: str, data: bytes) -> None:
    """Whatever is said in place of a handshake, the connection is closed."""
    say(cloud, spoken, [data], tls=False)
    judge(cloud)


@pytest.mark.parametrize("begins_well", [False, True], ids=["from the start", "after a good beginning"])
@pytest.mark.parametrize("spoken", PORTS)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pieces=st.lists(st.binary(min_size=1, max_size=3000), max_size=4))
def test_bytes_inside_tls(cloud: Cloud, spoken: str, begins_well: bool, pieces: list[bytes]) -> None:
    """Whatever is said inside TLS, the client is answered, waited for or cut off, and forgotten when it is gone."""
    beginning = [cloud.beginning(spoken)] if begins_well else []
    say(cloud, spoken, beginning + pieces, tls=True)
    judge(cloud)


@pytest.mark.parametrize("spoken", PORTS)
def test_floods_take_bounded_memory(cloud: Cloud, spoken: str) -> None:
    """A hundred megabytes without a meaning leave the memory as it was, nearly, and the services serving."""
    before_kib = resident_kib()
    rng = random.Random(1)
    block = rng.randbytes(1 << 20)
    for begins_well in (False, True):
        sent = 0
        while sent < 50 << 20:
            with suppress(OSError), cloud.connect(spoken, tls=True) as client:
                if begins_well:
                    client.sendall(cloud.beginning(spoken))
                for _ in range(50):
                    client.sendall(block)
                    sent += len(block)
            sent += len(block)
    judge(cloud)
    assert resident_kib() - before_kib < MAX_GROWTH_KIB
    assert cloud.serves()
