"""The codec against other people's: what paho and mosquitto write is read as it was meant, and the other way round."""

from __future__ import annotations

import asyncio
import queue
import random
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from paho.mqtt import client as paho

from edge_gateway.testbench import LocalAuthority, LocalHub, ReceivedMessage, free_loopback_address
from edge_gateway.testbench.cloud.property_bag import format_property_bag, parse_property_bag

TIME_LIMIT_S = 30.0
EVENTS = "devices/sensor-1/messages/events/"
DEVICEBOUND = "devices/sensor-1/messages/devicebound/"
names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0$"), min_size=1, max_size=20)
values = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)
bags = st.dictionaries(names, values, max_size=5)
bodies = st.binary(max_size=300) | st.integers(0, 70_000).map(bytes)  # over each length of a length field, but the last
few = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Hub:
    """A hub in a thread of its own, with a device."""

    def __init__(self, directory: Path) -> None:
        self.received: queue.Queue[ReceivedMessage] = queue.Queue()
        self.ca_file = directory / "ca.pem"
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        assert self._started.wait(TIME_LIMIT_S)

    async def _serve(self) -> None:
        authority = LocalAuthority()
        self.ca_file.write_text(authority.ca_pem)
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self.address = free_loopback_address(random.Random())
        async with LocalHub(authority=authority, address=self.address, on_message=self.received.put) as self._hub:
            for device_id in ("sensor-1", "sensor-2"):
                self._hub.add_device(device_id)
            self.tokens = {device_id: self._hub.sas_token(device_id) for device_id in self._hub.device_ids}
            self._started.set()
            await self._stop.wait()

    def username(self, device_id: str) -> str:
        return f"{self.address}/{device_id}/?api-version=2021-04-12"

    def send(self, body: bytes, properties: dict[str, str]) -> None:
        self._loop.call_soon_threadsafe(self._hub.send_c2d, "sensor-1", body, properties)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(TIME_LIMIT_S)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    hub = Hub(tmp_path_factory.mktemp("hub"))
    yield hub
    hub.stop()


class PahoDevice:
    """The device on paho's own loop."""

    def __init__(self, hub: Hub) -> None:
        self.received: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self._listens = threading.Event()
        self.client = paho.Client("sensor-1")
        self.client.tls_set_context(ssl.create_default_context(cafile=str(hub.ca_file)))
        self.client.username_pw_set(hub.username("sensor-1"), hub.tokens["sensor-1"])
        self.client.on_message = lambda _, __, message: self.received.put((message.topic, bytes(message.payload)))
        self.client.on_subscribe = self._subscribed
        self.client.connect(hub.address, 8883)
        self.client.loop_start()
        self.client.subscribe(f"{DEVICEBOUND}#", qos=1)
        assert self._listens.wait(TIME_LIMIT_S)

    def _subscribed(self, *_: Any) -> None:
        self._listens.set()


@pytest.fixture(scope="module")
def device(hub: Hub) -> Iterator[PahoDevice]:
    device = PahoDevice(hub)
    yield device
    device.client.disconnect()
    device.client.loop_stop()


@few
@given(bags, bodies)
def test_what_paho_writes(hub: Hub, device: PahoDevice, properties: dict[str, str], body: bytes) -> None:
    """Topic and payload arrive as they were given to paho, and paho takes the PUBACK for its own."""
    sent = device.client.publish(EVENTS + format_property_bag(properties, {}), body, qos=1)
    message = hub.received.get(timeout=TIME_LIMIT_S)
    assert (dict(message.properties), message.body) == (properties, body)
    sent.wait_for_publish(TIME_LIMIT_S)
    assert sent.is_published()


@few
@given(bags, st.binary(max_size=300) | st.integers(0, 20_000).map(bytes))
def test_what_paho_reads(hub: Hub, device: PahoDevice, properties: dict[str, str], body: bytes) -> None:
    """Paho finds topic and payload as the hub was given them."""
    hub.send(body, properties)
    topic, payload = device.received.get(timeout=TIME_LIMIT_S)
    assert (parse_property_bag(topic.removeprefix(DEVICEBOUND))[0], payload) == (properties, body)


@pytest.mark.skipif(shutil.which("mosquitto_pub") is None, reason="mosquitto_pub is not installed (mosquitto-clients)")
@settings(few, max_examples=15)
@given(bags, bodies)
def test_what_mosquitto_writes(hub: Hub, properties: dict[str, str], body: bytes) -> None:
    """Topic and payload arrive as they were given to mosquitto's client, which ends well on its PUBACK."""
    topic = EVENTS.replace("sensor-1", "sensor-2") + format_property_bag(properties, {})
    command = ["mosquitto_pub", "--cafile", str(hub.ca_file), "-h", hub.address, "-p", "8883", "-i", "sensor-2"]
    command += ["-u", hub.username("sensor-2"), "-P", hub.tokens["sensor-2"], "-q", "1", "-t", topic]
    command.append("-s" if body else "-n")
    done = subprocess.run(command, input=body, capture_output=True, timeout=TIME_LIMIT_S, check=False)
    assert done.returncode == 0, done.stderr
    message = hub.received.get(timeout=TIME_LIMIT_S)
    assert (dict(message.properties), message.body) == (properties, body)
